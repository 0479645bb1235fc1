//! The command line: clap types and their parsing, nothing else.

use std::{path::PathBuf, time::Duration};

use clap::{Args, Parser, Subcommand};

use crate::daemon::{config::Label, select::Rule};

/// Says why a running Go service stalls.
#[derive(Debug, Parser)]
#[command(
    name = "g211s",
    version,
    about = "Says why a running Go service stalls: correlates GC pauses with run-queue delays and \
             network blocking. No restart, no pprof endpoint, no code change.",
    after_help = "Examples:\n  \
        g211s attach --pid 4242                        watch for 30 s, then explain the pauses\n  \
        g211s top                                      a live view: choose a process, watch it stall\n  \
        g211s attach --pid 4242 --duration 5m --json > report.json\n  \
        g211s record --pid 4242 --duration 30s -o stall.g211s\n  \
        g211s report stall.g211s                       the same report, later, anywhere, without root\n  \
        g211s doctor --pid 4242                        what works on this kernel and this binary, and why\n  \
        g211s ps                                       the Go processes here\n  \
        g211s goroutines --pid 4242                    its goroutines by creation site and state\n  \
        g211s heap --pid 4242                          which lines of its code hold the heap\n  \
        g211s leaks --pid 4242 --duration 5m           which lines leak memory or goroutines"
)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// The subcommands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Watch running Go processes and explain their pauses (needs root)
    #[command(after_help = "Examples:\n  \
        g211s attach --pid 4242 --duration 1m\n  \
        g211s attach --pid $(pgrep -n myservice) --threshold 500us --record stall.g211s\n  \
        g211s attach --pid 4242 --pid 4243 --json | jq '.stw | max_by(.total_ns)'\n\n\
        Ctrl-C ends the run early; the report of what was seen is printed all the same.")]
    Attach(AttachArgs),
    /// Watch running Go processes live: run queue, stops with who caused them, threads, Ps, GC, network (needs root)
    #[command(after_help = "Examples:\n  \
        g211s top                          the Go processes here, to choose from\n  \
        g211s top --pid 4242 --pid 4243\n  \
        g211s top --pid $(pgrep -n myservice) --threshold 500us\n  \
        g211s top --from stall.g211s       a recording, without root\n\n\
        Keys: ? help, q quit, arrows: process and time, space: pause, Tab: panel, s: sort, /: filter.\n\
        A process that is started again (same executable or cgroup) is watched again. NO_COLOR is heeded; without a\n\
        UTF-8 locale the view is drawn in ASCII.")]
    Top(TopArgs),
    /// Watch running Go processes into a file, for `g211s report` (needs root)
    #[command(after_help = "Example:\n  \
        g211s record --pid 4242 --duration 30s -o stall.g211s && g211s report stall.g211s")]
    Record(RecordArgs),
    /// Print the report of a recording (no root, any machine)
    #[command(after_help = "Examples:\n  \
        g211s report stall.g211s\n  \
        g211s report stall.g211s --json | jq .gc.count\n  \
        g211s report stall.g211s --html stall.html             one page, to look at in a browser; needs no network\n  \
        g211s report stall.g211s --perfetto stall.pftrace      and open that in https://ui.perfetto.dev\n  \
        g211s report stall.g211s --pprof stalls.pb.gz && go tool pprof -top stalls.pb.gz\n  \
        g211s report stall.g211s --parquet stall/              tables for DuckDB, pandas and the like")]
    Report(ReportArgs),
    /// Say what works on this machine, and on this process, and why
    #[command(after_help = "Examples:\n  g211s doctor\n  g211s doctor --pid 4242 --json")]
    Doctor(DoctorArgs),
    /// Count a process's goroutines by creation site and state, without stopping it (needs root)
    #[command(after_help = "Examples:\n  \
        g211s goroutines --pid 4242                            what its goroutines wait for, by creation site\n  \
        g211s goroutines --pid 4242 --stacks --top 5           and where they stand\n  \
        g211s goroutines --pid 4242 --interval 10s --count 6   which sites grow: is there a leak?\n  \
        g211s goroutines --pid 4242 --json | jq '.groups[] | select(.state == \"chan receive\")'\n\n\
        The process goes on while it is read; what changed meanwhile is read again, and counted.")]
    Goroutines(GoroutinesArgs),
    /// Say who allocates, by sampling the allocator within a CPU budget (needs root)
    #[command(after_help = "Examples:\n  \
        g211s allocs --pid 4242                              30 s, at most 1 % of the process's CPU time\n  \
        g211s allocs --pid 4242 -o alloc.pb.gz && go tool pprof -top alloc.pb.gz\n  \
        g211s allocs --pid 4242 --svg flame.svg --budget 5%\n  \
        g211s allocs --pid 4242 --exact --duration 500ms     count every allocation, for a moment\n  \
        g211s allocs --from allocs.g211s                     from a file made with --record, without root")]
    Allocs(AllocsArgs),
    /// Tell which lines of a process's code hold its heap, without stopping it (needs root)
    #[command(after_help = "Examples:\n  \
        g211s heap --pid 4242                         what is in use and was allocated, by line\n  \
        g211s heap --pid 4242 -o heap.pb.gz           and for `go tool pprof heap.pb.gz`\n  \
        g211s heap --pid 4242 --json > before.json; sleep 600\n  \
        g211s heap --pid 4242 --json > after.json && g211s heap diff before.json after.json\n\n\
        The figures are those of the memory profile that the Go runtime keeps by itself. For programs that keep none:\n  \
        g211s heap --pid 4242 --follow --duration 5m  of what is allocated in this time, what stays in use")]
    Heap(HeapArgs),
    /// Find lines that leak memory or goroutines: what grows GC after GC, and stays (needs root)
    #[command(after_help = "Examples:\n  \
        g211s leaks --pid 4242                                 5 min, then what leaks, by line\n  \
        g211s leaks --pid 4242 --duration 20m --min-growth 1MiB/min || echo leaks   in a CI job\n  \
        g211s leaks --pid 4242 --json | jq '.sites[] | select(.judgement == \"leak\")'\n  \
        g211s leaks --pid 4242 --no-probes                     by the runtime's own memory profile alone\n  \
        g211s leaks --from leaks.g211s                         from a file made with --record, without root\n\n\
        Exit codes: 0 nothing that counts was found, 3 something was (--fail-on, --min-growth), 1 failed, 2 wrong usage or\n\
        a process that cannot be observed. A verdict takes 16 GC cycles at least. Ctrl-C ends the run early, with the report.")]
    Leaks(LeaksArgs),
    /// List the Go processes of this machine, and what g211s can do with each (root sees all)
    #[command(after_help = "Examples:\n  \
        g211s ps\n  \
        g211s ps --json | jq '.processes[] | select(.go_version < \"go1.24\") | .pid'")]
    Ps(PsArgs),
    /// Watch the Go services of this machine for good: metrics, and recordings of incidents (needs root)
    #[command(after_help = "Examples:\n  \
        g211s agent                                            all Go processes; metrics at 127.0.0.1:9211/metrics\n  \
        g211s agent --include name=api-* --exclude cgroup=/user.slice/*\n  \
        g211s agent --config /etc/g211s/agent.toml --capture /var/lib/g211s\n\n\
        SIGHUP reads the file again. docs/agent.md has the metrics and the file.")]
    Agent(AgentArgs),
    /// Write man pages and shell completions into a folder (for packages)
    #[command(hide = true)]
    Dist(DistArgs),
}

/// Arguments of `dist`.
#[derive(Debug, Args)]
pub struct DistArgs {
    /// The folder
    #[arg(value_name = "DIR")]
    pub folder: PathBuf,
}

/// What to watch and how: shared by `attach` and `record`.
#[derive(Debug, Args)]
pub struct WatchArgs {
    /// Process to watch; may be given more than once
    #[arg(long = "pid", value_name = "PID", required = true)]
    pub pids: Vec<u32>,
    /// How long to watch (10s, 5m, 1h)
    #[arg(long, value_name = "TIME", default_value = "30s", value_parser = duration)]
    pub duration: Duration,
    /// Report run-queue waits, late network wakes and pauses of at least this one by one
    #[arg(long, value_name = "TIME", default_value = "1ms", value_parser = duration)]
    pub threshold: Duration,
    /// Stream every scheduler transition instead of those around pauses (costs more)
    #[arg(long)]
    pub full: bool,
    /// More probes: `mallocgc` and `nextfree` count allocations (dear), `epoll` counts every network
    /// poll on kernels where that costs each system call of the host 70 ns, `irq` tells interrupts from the
    /// work of the thread they interrupt (which costs each interrupt of the host), `sample` looks 1,000 times a
    /// second at each CPU for code that keeps the world from stopping, `custom:FUNC` counts the calls of a
    /// function
    #[arg(long = "probe", value_name = "PROBE", value_parser = extra_probe)]
    pub probes: Vec<ExtraProbe>,
    /// Most of a process's CPU time that the probes in its hot code (the allocator's slow path, mark assists) may take
    /// together, of at least half a CPU's; those that would take more look in at times
    #[arg(long, value_name = "SHARE", default_value = "0.5%", value_parser = share)]
    pub budget: f64,
    /// Size of the event ring buffer (a power of two: 64K, 8M)
    #[arg(long, value_name = "BYTES", default_value = "8M", value_parser = ring_bytes,
          env = "G211S_TEST_RING_BYTES", hide_env = true)]
    pub ring: u32,
    /// Let the kernel time our BPF programs (adds two clock reads to each run)
    #[arg(long)]
    pub bpf_stats: bool,
    /// Print what the kernel side logs to stderr (slow; for debugging g211s)
    #[arg(long)]
    pub kernel_log: bool,
    /// Test knob: do not drain the ring for this long after attaching
    #[arg(long, hide = true, value_parser = duration, env = "G211S_TEST_PAUSE_DRAIN", hide_env = true)]
    pub pause_drain: Option<Duration>,
}

/// Arguments of `attach`.
#[derive(Debug, Args)]
pub struct AttachArgs {
    /// What to watch.
    #[command(flatten)]
    pub watch: WatchArgs,
    /// Print the report as JSON (schema g211s.report/1) on stdout
    #[arg(long)]
    pub json: bool,
    /// Also write the recording to this file
    #[arg(long, value_name = "FILE")]
    pub record: Option<PathBuf>,
}

/// Arguments of `top`.
#[derive(Debug, Args)]
pub struct TopArgs {
    /// Process to watch; may be given more than once [default: choose from a list]
    #[arg(long = "pid", value_name = "PID", conflicts_with = "from")]
    pub pids: Vec<u32>,
    /// Show a recording instead of processes
    #[arg(long, value_name = "FILE")]
    pub from: Option<PathBuf>,
    /// Tell run-queue waits and late network wakes of at least this one by one
    #[arg(long, value_name = "TIME", default_value = "1ms", value_parser = duration, conflicts_with = "from")]
    pub threshold: Duration,
    /// Most of a process's CPU time that the probes in its hot code (mark assists) may take, of at least half a CPU's
    #[arg(long, value_name = "SHARE", default_value = "0.5%", value_parser = share, conflicts_with = "from")]
    pub budget: f64,
    /// Size of the event ring buffer (a power of two: 64K, 8M)
    #[arg(long, value_name = "BYTES", default_value = "8M", value_parser = ring_bytes,
          env = "G211S_TEST_RING_BYTES", hide_env = true)]
    pub ring: u32,
    /// Draw with ASCII characters alone
    #[arg(long)]
    pub ascii: bool,
}

/// Arguments of `record`.
#[derive(Debug, Args)]
pub struct RecordArgs {
    /// What to watch.
    #[command(flatten)]
    pub watch: WatchArgs,
    /// File to write
    #[arg(short, long, value_name = "FILE")]
    pub output: PathBuf,
}

/// Arguments of `report`.
#[derive(Debug, Args)]
pub struct ReportArgs {
    /// Recording to read
    #[arg(value_name = "FILE")]
    pub file: PathBuf,
    /// Print the report as JSON (schema g211s.report/1)
    #[arg(long)]
    pub json: bool,
    /// Write a page with pictures for a browser: one file that needs nothing else
    #[arg(long, value_name = "OUT")]
    pub html: Option<PathBuf>,
    /// What to write besides.
    #[command(flatten)]
    pub export: ExportArgs,
}

/// Files that `report` makes of a recording. `-` is standard output, which then has no report.
#[derive(Debug, Default, Args)]
#[command(next_help_heading = "Exports (docs/exports.md); - is standard output")]
pub struct ExportArgs {
    /// Write a trace for ui.perfetto.dev, or Perfetto's trace processor
    #[arg(long, value_name = "FILE")]
    pub perfetto: Option<PathBuf>,
    /// Write a profile for `go tool pprof`: stalled time by cause, thread and culprit; of a recording of `allocs`, its
    /// allocations
    #[arg(long, value_name = "FILE")]
    pub pprof: Option<PathBuf>,
    /// Write tables as CSV: all of them into a folder, or the events alone if FILE ends in .csv
    #[arg(long, value_name = "FOLDER|FILE")]
    pub csv: Option<PathBuf>,
    /// Write tables as Parquet: all of them into a folder, or the events alone if FILE ends in .parquet
    #[arg(long, value_name = "FOLDER|FILE")]
    pub parquet: Option<PathBuf>,
}

impl ExportArgs {
    /// All files that are asked for.
    pub fn all(&self) -> impl Iterator<Item = &PathBuf> {
        [&self.perfetto, &self.pprof, &self.csv, &self.parquet].into_iter().flatten()
    }

    /// What clap cannot say of single arguments.
    ///
    /// # Errors
    /// What makes no sense together.
    pub fn check(&self) -> Result<(), String> {
        let stdout = self.all().filter(|path| path.as_os_str() == "-").count();
        if stdout > 1 {
            return Err("only one export can go to standard output".to_owned());
        }
        let mut named: Vec<_> = self.all().filter(|path| path.as_os_str() != "-").collect();
        named.sort_unstable();
        match named.windows(2).find(|w| w[0] == w[1]) {
            Some(same) => Err(format!("{} is asked for twice", same[0].display())),
            None => Ok(()),
        }
    }
}

/// Arguments of `doctor`.
#[derive(Debug, Args)]
pub struct DoctorArgs {
    /// Process to look at (its binary is read; nothing is attached to it)
    #[arg(long, value_name = "PID")]
    pub pid: Option<u32>,
    /// Print JSON (schema g211s.doctor/1)
    #[arg(long)]
    pub json: bool,
}

/// Arguments of `goroutines`.
#[derive(Debug, Args)]
pub struct GoroutinesArgs {
    /// Process to look at
    #[arg(long, value_name = "PID")]
    pub pid: u32,
    /// Walk the stacks as well (of goroutines that do not run)
    #[arg(long)]
    pub stacks: bool,
    /// Count again after this long, and tell which sites grow [default with --count: 10s]
    #[arg(long, value_name = "TIME", value_parser = duration)]
    pub interval: Option<Duration>,
    /// How often to count [default with --interval: 3]
    #[arg(long, value_name = "K", value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub count: Option<u32>,
    /// How many groups to print
    #[arg(long, value_name = "N", default_value = "20")]
    pub top: usize,
    /// List the runtime's own goroutines too
    #[arg(long)]
    pub system: bool,
    /// Print JSON (schema g211s.goroutines/1), all groups
    #[arg(long)]
    pub json: bool,
}

/// Arguments of `allocs`.
#[derive(Debug, Args)]
pub struct AllocsArgs {
    /// Process to look at
    #[arg(long, value_name = "PID", required_unless_present = "from", conflicts_with = "from")]
    pub pid: Option<u32>,
    /// Read a recording instead of a process
    #[arg(long, value_name = "FILE")]
    pub from: Option<PathBuf>,
    /// How long to look [default: 30s; with --exact: 1s]
    #[arg(long, value_name = "TIME", value_parser = duration)]
    pub duration: Option<Duration>,
    /// Most of the process's CPU time that the probes may take; of at least half a CPU's, however little it does
    #[arg(long, value_name = "SHARE", default_value = "1%", value_parser = share)]
    pub budget: f64,
    /// The densest plan to use: `refill` samples one object in some 8 KB, `next-free` one in up to 64
    #[arg(long, value_name = "PLAN", default_value = "next-free", conflicts_with_all = ["from", "exact"])]
    pub plan: AllocPlanArg,
    /// Count every allocation instead of sampling: exact, and dear as long as it lasts (30 s at most)
    #[arg(long, conflicts_with_all = ["from", "budget"])]
    pub exact: bool,
    /// How many call sites to print
    #[arg(long, value_name = "N", default_value = "20")]
    pub top: usize,
    /// Print JSON (schema g211s.allocs/1), all call sites
    #[arg(long)]
    pub json: bool,
    /// Write a profile that `go tool pprof` opens
    #[arg(short, long, value_name = "FILE")]
    pub output: Option<PathBuf>,
    /// Write a flame graph
    #[arg(long, value_name = "FILE")]
    pub svg: Option<PathBuf>,
    /// Write folded stacks, for other flame graph tools
    #[arg(long, value_name = "FILE")]
    pub folded: Option<PathBuf>,
    /// Also write the recording to this file
    #[arg(long, value_name = "FILE", conflicts_with = "from")]
    pub record: Option<PathBuf>,
}

/// Counting every allocation lasts at most so long: nothing else bounds what it costs the process.
const LONGEST_EXACT: Duration = Duration::from_secs(30);

impl AllocsArgs {
    /// What clap cannot say of single arguments.
    ///
    /// # Errors
    /// What makes no sense together.
    pub fn check(&self) -> Result<(), String> {
        if self.exact && self.duration.is_some_and(|d| d > LONGEST_EXACT) {
            return Err(format!(
                "--exact costs the process at every allocation, so it lasts at most {} s; without it, allocations are \
                 sampled",
                LONGEST_EXACT.as_secs()
            ));
        }
        Ok(())
    }
}

/// How densely allocations are sampled at most.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum AllocPlanArg {
    /// As a P takes another span.
    Refill,
    /// As a P searches for its next free slots.
    NextFree,
}

/// Arguments of `heap`.
#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true, subcommand_negates_reqs = true)]
pub struct HeapArgs {
    /// Something else than taking a snapshot.
    #[command(subcommand)]
    pub command: Option<HeapCommand>,
    /// What to take.
    #[command(flatten)]
    pub take: Option<HeapTakeArgs>,
}

/// The subcommands of `heap`.
#[derive(Debug, Subcommand)]
pub enum HeapCommand {
    /// Compare two snapshots: what has grown, by line (no root, any machine)
    #[command(after_help = "Examples:\n  \
        g211s heap diff before.json after.json\n  \
        g211s heap diff before.pb.gz after.pb.gz --json | jq '.sites[:5]'")]
    Diff(HeapDiffArgs),
}

/// Arguments of `heap` itself.
#[derive(Debug, Args)]
pub struct HeapTakeArgs {
    /// Process to look at
    #[arg(long, value_name = "PID")]
    pub pid: u32,
    /// Follow what is allocated from now on instead of reading the runtime's own profile: for programs that keep none
    #[arg(long)]
    pub follow: bool,
    /// With --follow: how long [default: 60s]
    #[arg(long, value_name = "TIME", value_parser = duration, requires = "follow")]
    pub duration: Option<Duration>,
    /// With --follow: most of the process's CPU time that the probes may take; of at least half a CPU's, however little
    /// it does
    #[arg(long, value_name = "SHARE", default_value = "1%", value_parser = share)]
    pub budget: f64,
    /// Write the profile to this file as well, for `go tool pprof`
    #[arg(short, long, value_name = "FILE")]
    pub output: Option<PathBuf>,
    /// Draw a flame graph of what is in use into this file
    #[arg(long, value_name = "FILE")]
    pub svg: Option<PathBuf>,
    /// Write the stacks of what is in use to this file, one a line, with its bytes
    #[arg(long, value_name = "FILE")]
    pub folded: Option<PathBuf>,
    /// How many sites to print
    #[arg(long, value_name = "N", default_value = "20")]
    pub top: usize,
    /// Print JSON (schema g211s.heap/1), all sites
    #[arg(long)]
    pub json: bool,
}

/// Arguments of `heap diff`.
#[derive(Debug, Args)]
pub struct HeapDiffArgs {
    /// First snapshot: JSON of `g211s heap`, or a heap profile (.pb.gz) of g211s or of the program itself
    #[arg(value_name = "BEFORE")]
    pub before: PathBuf,
    /// Second snapshot
    #[arg(value_name = "AFTER")]
    pub after: PathBuf,
    /// How many sites to print
    #[arg(long, value_name = "N", default_value = "20")]
    pub top: usize,
    /// Print JSON (schema `g211s.heap_diff/1`), all sites
    #[arg(long)]
    pub json: bool,
}

/// Arguments of `leaks`.
#[derive(Debug, Args)]
pub struct LeaksArgs {
    /// Process to look at
    #[arg(long, value_name = "PID", required_unless_present = "from", conflicts_with = "from")]
    pub pid: Option<u32>,
    /// Read a recording instead of a process
    #[arg(long, value_name = "FILE")]
    pub from: Option<PathBuf>,
    /// How long to look
    #[arg(long, value_name = "TIME", default_value = "5m", value_parser = duration)]
    pub duration: Duration,
    /// Most of the process's CPU time that the probes may take; of at least half a CPU's, however little it does
    #[arg(long, value_name = "SHARE", default_value = "1%", value_parser = share)]
    pub budget: f64,
    /// Follow no objects: attach nothing, read the runtime's own memory profile and goroutines alone
    #[arg(long, conflicts_with_all = ["from", "budget"])]
    pub no_probes: bool,
    /// What makes the exit code 3
    #[arg(long, value_name = "WHAT", default_value = "any")]
    pub fail_on: FailOn,
    /// Sites that grow by less do not count
    #[arg(long, value_name = "BYTES/TIME", default_value = "64KiB/min", value_parser = growth)]
    pub min_growth: f64,
    /// Creation sites of fewer goroutines a minute do not count
    #[arg(long, value_name = "N", default_value = "1", value_parser = at_least_zero)]
    pub min_goroutines: f64,
    /// How many sites that are not called leaks to print
    #[arg(long, value_name = "N", default_value = "10")]
    pub top: usize,
    /// Print JSON (schema g211s.leaks/1), all sites
    #[arg(long)]
    pub json: bool,
    /// Also write the recording to this file
    #[arg(long, value_name = "FILE", conflicts_with = "from")]
    pub record: Option<PathBuf>,
}

/// What makes the exit code of `leaks` 3.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum FailOn {
    /// Any leak.
    Any,
    /// A leak of memory.
    Heap,
    /// A leak of goroutines.
    Goroutines,
    /// A leak, or what only may be one.
    Suspect,
    /// Nothing.
    None,
}

impl FailOn {
    /// As on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Self::Any => "any",
            Self::Heap => "heap",
            Self::Goroutines => "goroutines",
            Self::Suspect => "suspect",
            Self::None => "none",
        }
    }
}

/// Arguments of `ps`.
#[derive(Debug, Args)]
pub struct PsArgs {
    /// Print JSON (schema g211s.ps/1)
    #[arg(long)]
    pub json: bool,
}

/// Arguments of `agent`. Each has its place in the file, too; what is given here counts.
#[derive(Debug, Default, Args)]
pub struct AgentArgs {
    /// Configuration file (TOML)
    #[arg(long, value_name = "FILE", env = "G211S_AGENT_CONFIG")]
    pub config: Option<PathBuf>,
    /// Where metrics are served: an address and a port, or `off` [default: 127.0.0.1:9211]
    #[arg(long, value_name = "ADDRESS", env = "G211S_AGENT_LISTEN")]
    pub listen: Option<String>,
    /// Watch processes that fit this rule only (name=, cgroup=, container=, module=, package=, pid=; `*` and `?` in
    /// patterns; several with commas must all fit); may be given more than once
    #[arg(long, value_name = "RULE", env = "G211S_AGENT_INCLUDE", value_delimiter = ';')]
    pub include: Vec<Rule>,
    /// Do not watch processes that fit this rule; may be given more than once
    #[arg(long, value_name = "RULE", env = "G211S_AGENT_EXCLUDE", value_delimiter = ';')]
    pub exclude: Vec<Rule>,
    /// Most processes watched at a time [default: 32]
    #[arg(long, value_name = "N", env = "G211S_AGENT_MAX_TARGETS")]
    pub max_targets: Option<u32>,
    /// What all of it may cost: g211s's and its probes' time, of one CPU's [default: 5%]
    #[arg(long, value_name = "SHARE", value_parser = share, env = "G211S_AGENT_BUDGET")]
    pub budget: Option<f64>,
    /// Look at run-queue waits and late network wakes of at least this one by one [default: 1ms]
    #[arg(long, value_name = "TIME", value_parser = duration, env = "G211S_AGENT_THRESHOLD")]
    pub threshold: Option<Duration>,
    /// How often all processes are looked at; new ones are noticed at once [default: 30s]
    #[arg(long, value_name = "TIME", value_parser = duration, env = "G211S_AGENT_SCAN")]
    pub scan: Option<Duration>,
    /// How often the Go runtimes' own counters and the kernel's histograms are read [default: 10s]
    #[arg(long, value_name = "TIME", value_parser = duration, env = "G211S_AGENT_SAMPLE")]
    pub sample: Option<Duration>,
    /// What tells services apart in metrics [default: executable,module]
    #[arg(long, value_name = "LABELS", value_delimiter = ',', env = "G211S_AGENT_LABELS")]
    pub labels: Vec<Label>,
    /// Keep recordings of incidents in this folder
    #[arg(long, value_name = "DIR", env = "G211S_AGENT_CAPTURE")]
    pub capture: Option<PathBuf>,
    /// A stop of the world of at least this is an incident [default: 20ms]
    #[arg(long, value_name = "TIME", value_parser = duration, env = "G211S_AGENT_CAPTURE_PAUSE")]
    pub capture_pause: Option<Duration>,
    /// A wait for a CPU of at least this is an incident [default: 100ms]
    #[arg(long, value_name = "TIME", value_parser = duration, env = "G211S_AGENT_CAPTURE_DELAY")]
    pub capture_delay: Option<Duration>,
    /// Push metrics and events to this OpenTelemetry collector (`http://HOST:4318`)
    #[arg(long, value_name = "URL", env = "G211S_AGENT_OTLP")]
    pub otlp: Option<String>,
}

/// A probe on request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ExtraProbe {
    /// `runtime.mallocgc` and its size-specialised variants.
    MallocGc,
    /// `(*mcache).nextFree`.
    NextFree,
    /// Every network poll, however many system calls the host makes.
    Epoll,
    /// Every interrupt of the host.
    Irq,
    /// What keeps the world from stopping, also where no signal tells.
    Sample,
    /// Any function.
    Custom(String),
}

fn extra_probe(s: &str) -> Result<ExtraProbe, String> {
    match s {
        "mallocgc" => Ok(ExtraProbe::MallocGc),
        "nextfree" => Ok(ExtraProbe::NextFree),
        "epoll" => Ok(ExtraProbe::Epoll),
        "sample" => Ok(ExtraProbe::Sample),
        "irq" => Ok(ExtraProbe::Irq),
        _ => match s.strip_prefix("custom:") {
            Some(f) if !f.is_empty() => Ok(ExtraProbe::Custom(f.to_owned())),
            _ => Err("known probes are mallocgc, nextfree, epoll, irq, sample and custom:FUNCTION"
                .to_owned()),
        },
    }
}

/// Parses `30s`, `1.5ms`, `2m`, `1h`, `250us`, `100ns`.
pub(crate) fn duration(s: &str) -> Result<Duration, String> {
    let bad = || format!("`{s}` is no time: write a number and a unit, as in 30s, 500us, 1ms, 5m");
    let at = s.find(|c: char| !c.is_ascii_digit() && c != '.').ok_or_else(bad)?;
    let (number, unit) = s.split_at(at);
    let number: f64 = number.parse().map_err(|_| bad())?;
    let seconds = match unit {
        "ns" => 1e-9,
        "us" | "µs" => 1e-6,
        "ms" => 1e-3,
        "s" => 1.0,
        "m" | "min" => 60.0,
        "h" => 3600.0,
        _ => return Err(bad()),
    };
    let d = Duration::try_from_secs_f64(number * seconds).map_err(|_| bad())?;
    if d.is_zero() || d > Duration::from_hours(365 * 24) {
        return Err(format!("`{s}` is out of range (more than 0, at most a year)"));
    }
    Ok(d)
}

/// Parses `1%`, `0.5%`, `0.01`.
pub(crate) fn share(s: &str) -> Result<f64, String> {
    let bad = || format!("`{s}` is no share of CPU time: as in 1%, 0.5%");
    let (number, unit) = s.strip_suffix('%').map_or((s, 1.0), |n| (n, 0.01));
    let share = number.trim().parse::<f64>().map_err(|_| bad())? * unit;
    if share.is_finite() && (0.0001..=1.0).contains(&share) {
        Ok(share)
    } else {
        Err(format!("`{s}` is out of range (0.01% to 100%)"))
    }
}

/// Parses `64K`, `8M`, `1G`, `4096`.
pub(crate) fn size(s: &str) -> Result<u64, String> {
    let bad = || format!("`{s}` is no size: as in 64K, 8M, 1G");
    let (digits, unit) = match s.as_bytes().last() {
        Some(b'K' | b'k') => (&s[..s.len() - 1], 1 << 10),
        Some(b'M' | b'm') => (&s[..s.len() - 1], 1 << 20),
        Some(b'G' | b'g') => (&s[..s.len() - 1], 1 << 30),
        _ => (s, 1u64),
    };
    digits.parse::<u64>().ok().and_then(|n| n.checked_mul(unit)).ok_or_else(bad)
}

/// Parses `1MiB/min`, `500KB/h`, `64KiB/s`: bytes a minute.
fn growth(s: &str) -> Result<f64, String> {
    let bad = || format!("`{s}` is no growth: write bytes and a time, as in 64KiB/min, 1MB/h");
    let (amount, time) = s.split_once('/').ok_or_else(bad)?;
    let minutes = match time {
        "s" => 1.0 / 60.0,
        "min" | "m" => 1.0,
        "h" => 60.0,
        "d" => 24.0 * 60.0,
        _ => return Err(bad()),
    };
    let at = amount.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(amount.len());
    let (number, unit) = amount.split_at(at);
    let unit = match unit.trim() {
        "" | "B" => 1.0,
        "KB" | "kB" => 1e3,
        "MB" => 1e6,
        "GB" => 1e9,
        "K" | "KiB" => 1024.0,
        "M" | "MiB" => 1024.0 * 1024.0,
        "G" | "GiB" => 1024.0 * 1024.0 * 1024.0,
        _ => return Err(bad()),
    };
    let bytes = number.parse::<f64>().map_err(|_| bad())? * unit / minutes;
    if bytes.is_finite() { Ok(bytes) } else { Err(bad()) }
}

fn at_least_zero(s: &str) -> Result<f64, String> {
    s.parse::<f64>()
        .ok()
        .filter(|n| n.is_finite() && *n >= 0.0)
        .ok_or_else(|| format!("`{s}` is no number from 0 on"))
}

fn ring_bytes(s: &str) -> Result<u32, String> {
    let (digits, unit) = match s.as_bytes().last() {
        Some(b'K' | b'k') => (&s[..s.len() - 1], 1 << 10),
        Some(b'M' | b'm') => (&s[..s.len() - 1], 1 << 20),
        _ => (s, 1u64),
    };
    let n = digits.parse::<u64>().map_err(|_| format!("`{s}` is no size: as in 64K, 8M"))? * unit;
    if !n.is_power_of_two() || !(4096..=1 << 30).contains(&n) {
        return Err(format!("{s}: a ring buffer is a power of two from 4096 to 1024M bytes"));
    }
    Ok(n as u32)
}

#[cfg(test)]
mod tests;
