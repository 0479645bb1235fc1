//! What a run consists of, as a stream: the only input of `model`, `analysis` and `report`. Live
//! runs and recordings produce the same stream, so the same report. Must not know files or BPF.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use g211s_ebpf::event::THREAD_STATES;

use crate::event::Event;

mod alloc;
mod heap;
mod leaks;
mod runtime;
mod waits;

pub use alloc::{
    AllocDensity, AllocRun, AllocSample, AllocSamples, AllocStack, AllocState, AllocSums,
    AllocTotals,
};
pub use heap::{HeapFate, HeapLook, HeapObject, HeapType};
pub use leaks::{
    AllocHint, GoroutineCounts, GoroutineSite, GoroutinesKept, LeakRecord, LeakSources, LeftHeap,
    ProfileCounts, ProfileStack,
};

pub use runtime::{
    GcSample, GoroutineSample, HeapSample, Moment, PSample, Reads, RuntimeAccess, RuntimeFeature,
    RuntimeSample, StwSample,
};
pub use waits::{Ticks, Unfolding, Waits};

/// One item of a run's stream. A run is `Start`, then any of the others, then (unless it was cut
/// off) `End`.
#[derive(Clone, Debug)]
pub enum Record {
    /// What was watched, how and where. First, and once.
    Start(Box<RunStart>),
    /// Another process is watched from now on. Only in runs without an end: a recording names all in its head.
    Attached(Box<Attached>),
    /// One is watched no more, and all that was seen of it came before: its index may name another from now on.
    Detached(Detached),
    /// An event of the kernel side, in the order it was drained (see `order`).
    Event(Event),
    /// Counters of one target, every [`Settings::interval_ns`].
    Interval(Box<Interval>),
    /// Waits for a CPU of one target by time, soon after.
    Waits(Box<Waits>),
    /// Histograms of one target, cumulative; the last one of a target counts.
    Hists(Box<Hists>),
    /// A process that is not a target and was seen on a CPU that a target's thread waited for.
    Process(Box<ProcessInfo>),
    /// A target's thread → its M, where known.
    Thread(Box<ThreadInfo>),
    /// What a thread did in the whole run, at its end or the run's.
    ThreadTotals(Box<ThreadTotals>),
    /// What an address of a target's code is. Comes before the first event that needs it.
    Symbol(Box<SymbolInfo>),
    /// The Go runtime's own counters of one target: at the start, once a second, at the end.
    Runtime(Box<RuntimeSample>),
    /// What the hypervisor took from each CPU so far: when it is different, at most once a second.
    Steal(Box<StealSample>),
    /// How allocations of one target are followed. Before the records below.
    AllocRun(Box<AllocRun>),
    /// A stack that allocates. Comes before the first sample that needs it.
    AllocStack(Box<AllocStack>),
    /// Sampled allocations.
    AllocSamples(Box<AllocSamples>),
    /// Where the following of allocations stands.
    AllocState(Box<AllocState>),
    /// What stacks allocated while every allocation was counted. At the end.
    AllocSums(Box<AllocSums>),
    /// What became of sampled objects.
    HeapLook(Box<HeapLook>),
    /// What a search for leaks saw.
    Leaks(Box<LeakRecord>),
    /// Something the user must know (a probe refused, a target that exited …), when it happened.
    Notice(Box<Notice>),
    /// How the run ended. Last, and once; missing if the recorder was killed.
    End(Box<RunEnd>),
}

/// The head of a run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RunStart {
    /// Version of g211s that recorded.
    pub g211s_version: String,
    /// Monotonic time at which every probe was attached, ns: the window begins.
    pub start_ns: u64,
    /// Wall-clock time at `start_ns`, ns since 1970 (UTC).
    pub wall_ns: u64,
    /// The machine.
    pub host: Host,
    /// How it was watched.
    pub settings: Settings,
    /// Who was watched; the index is `Header::target`.
    pub targets: Vec<Target>,
}

/// A process that came into a run under way.
#[derive(Clone, Debug, PartialEq)]
pub struct Attached {
    /// Since when it is watched, ns.
    pub ts_ns: u64,
    /// `Header::target` of its events.
    pub index: u8,
    /// Who.
    pub target: Target,
}

/// A process that left it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Detached {
    /// When, ns.
    pub ts_ns: u64,
    /// Its index.
    pub index: u8,
}

/// The machine a run was made on.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Host {
    /// `uname -r`.
    pub kernel: String,
    /// `uname -m`.
    pub arch: String,
    /// Host name.
    pub hostname: String,
    /// CPUs online.
    pub cpus: u32,
}

/// How a run was made.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Settings {
    /// Delays of at least this are sent one by one, and pauses of at least this are printed live.
    pub threshold_ns: u64,
    /// Every scheduler transition was sent.
    pub full: bool,
    /// Time between `Interval` records, ns.
    pub interval_ns: u64,
    /// Size of the ring buffer, bytes.
    pub ring_bytes: u64,
    /// g211s's own process, so that it can be named when it is in the way.
    pub observer_pid: u32,
    /// What counted network polls; `None` where nothing could, and in older recordings.
    #[serde(default)]
    pub poll_source: Option<PollSource>,
    /// What told how late the network was served; in older recordings the wakeups did.
    #[serde(default)]
    pub lateness_source: LatenessSource,
}

/// What tells how late the network is served.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LatenessSource {
    /// The kernel, where a socket becomes ready (`fentry` on `ep_poll_callback`): until a poll took it.
    EpPollCallback,
    /// The scheduler: from the wakeup of a thread that slept in a poll until it ran.
    #[default]
    Wakeup,
}

/// What counts network polls.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PollSource {
    /// `fentry` on the system calls themselves, which costs their callers alone.
    Fentry,
    /// The tracepoints of all system calls, which cost every process of the host.
    Syscalls,
}

/// A watched process.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Target {
    /// As given on the command line (the caller's PID namespace).
    pub pid: u32,
    /// As the kernel side sees it (initial PID namespace).
    pub tgid: u32,
    /// `/proc/PID/comm`.
    pub comm: String,
    /// Path of the executable, in the target's own mount namespace.
    pub exe: String,
    /// `/proc/PID/cgroup`, the most specific path.
    pub cgroup: String,
    /// Go version as built in, e.g. `go1.27.3`.
    pub go_version: String,
    /// Main module's path, where built in.
    pub module: Option<String>,
    /// How it was linked, e.g. `["stripped", "pie"]`.
    pub link_mode: Vec<String>,
    /// Probes that were attached.
    pub probes: Vec<AttachedProbe>,
    /// What could not be had from this target, and why.
    pub unavailable: Vec<Unavailable>,
    /// CPUs it may run on, as `/proc/PID/status` writes them (`0-1`).
    pub cpus_allowed: String,
    /// Threads at attach.
    pub threads: Vec<u32>,
    /// Which of the runtime's own figures can be read; `None` in older recordings.
    #[serde(default)]
    pub runtime: Option<RuntimeAccess>,
    /// CPU quotas that bound it at attach, innermost first.
    #[serde(default)]
    pub quotas: Vec<Quota>,
    /// How the code is found that keeps the world from stopping; `None` in older recordings.
    #[serde(default)]
    pub stacks: Option<StackSource>,
}

/// A CPU quota that binds a target.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Quota {
    /// The cgroup that has it, as `/proc/PID/cgroup` writes it.
    pub cgroup: String,
    /// CPU time a period, µs.
    pub quota_us: u64,
    /// The period, µs.
    pub period_us: u64,
}

/// How the code is found that keeps a target's world from stopping.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct StackSource {
    /// At each signal by which the runtime asks a thread to stop. False where none is sent, or none seen.
    pub signals: bool,
    /// By the CPU clock, so many times a second on every CPU; `None`: not.
    pub samples_hz: Option<u32>,
    /// Why so.
    pub why: String,
}

/// A probe in the target's text.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct AttachedProbe {
    /// What it is for, e.g. `stw_stop`.
    pub site: String,
    /// Number of the `Site`.
    pub site_id: u32,
    /// Function it sits in.
    pub function: String,
    /// Offset of the instruction within the function.
    pub function_offset: u64,
    /// Offset in the file, as given to the kernel.
    pub file_offset: u64,
    /// The instruction, disassembled, e.g. `push rbp`.
    pub instruction: String,
    /// Whether the kernel emulates it (cheap) or single-steps it (dear).
    pub emulated: bool,
}

/// A feature that does not work here.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Unavailable {
    /// What, e.g. `stw_end`.
    pub feature: String,
    /// Why.
    pub why: String,
    /// What the user loses by it.
    pub costs: String,
}

/// One target's kernel counters, cumulative since attach, summed over CPUs. All `_ns` in ns. The
/// fields are those of `g211s_ebpf::counters::TargetCounters`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Interval {
    /// When they were read.
    pub ts_ns: u64,
    /// Index of the target.
    pub target: u8,
    /// Wakeup → running.
    pub woken: u64,
    /// See `woken`.
    pub woken_ns: u64,
    /// Preempted → running.
    pub preempted: u64,
    /// See `preempted`.
    pub preempted_ns: u64,
    /// `sched_yield` → running.
    pub yielded: u64,
    /// See `yielded`.
    pub yielded_ns: u64,
    /// Stays on a CPU.
    pub oncpu: u64,
    /// See `oncpu`.
    pub oncpu_ns: u64,
    /// Polls with timeout 0, while polls were counted (`polls_ns`).
    pub epoll_nonblocking: u64,
    /// Polls with another timeout, while polls were counted.
    pub epoll_blocking: u64,
    /// Times a thread slept in a poll.
    pub epoll_slept: u64,
    /// How long.
    pub epoll_slept_ns: u64,
    /// Events returned by polls, while polls were counted.
    pub epoll_events: u64,
    /// Blocking polls that returned none, while polls were counted.
    pub epoll_empty: u64,
    /// Late wakes from a poll.
    pub epoll_late: u64,
    /// All woken → running time of threads woken from a poll.
    pub epoll_late_ns: u64,
    /// For how long polls were counted since attach, ns: less than the time since attach where that was
    /// too dear (see `governor`). `None` in older recordings, which counted all.
    #[serde(default)]
    pub polls_ns: Option<u64>,
    /// Stops of the world begun.
    pub stw: u64,
    /// GC cycles begun.
    pub gc: u64,
    /// Bytes of large allocations.
    pub large_bytes: u64,
    /// How long the probes in the allocator were attached, ns: less than the time since attach
    /// where they were too dear to stay (see `governor`).
    pub alloc_probes_ns: u64,
    /// Hits of those probes in that time (what is hit while they come and go is left out).
    pub alloc_hits: u64,
    /// How long the probes of mark assists were attached, ns; `None` in older recordings, which had none.
    #[serde(default)]
    pub assist_probes_ns: Option<u64>,
    /// Parks of assists that were not measured, since too many were under way.
    #[serde(default)]
    pub parks_full: u64,
    /// Ps kept in system calls that were not measured, since too many were under way.
    #[serde(default)]
    pub held_full: u64,
    /// Ps kept in system calls that a stop of the world took: how long is not known.
    #[serde(default)]
    pub held_cut: u64,
    /// Times that the CPU quota of the target's cgroup ran out since attach.
    pub throttled: u64,
    /// How long the cgroup was throttled since attach, ns.
    pub throttled_ns: u64,
    /// The quotas from now on, where they changed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub quotas: Option<Vec<Quota>>,
    /// Probe hits, by `Site` number.
    pub hits: Vec<u64>,
}

/// Histograms of one target, cumulative since attach, summed over CPUs.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Hists {
    /// When they were read, ns.
    pub ts_ns: u64,
    /// Index of the target.
    pub target: u8,
    /// By `g211s_ebpf::hist::Hist` number.
    pub hists: BTreeMap<u8, SparseHist>,
}

/// A histogram's filled buckets (`g211s_ebpf::hist::bucket_range` tells a bucket's values).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SparseHist {
    /// Values.
    pub count: u64,
    /// Their sum, ns.
    pub sum: u64,
    /// The largest, ns.
    pub max: u64,
    /// (bucket, values), ascending, no zeros.
    pub buckets: Vec<(u16, u64)>,
}

/// A process that got in a target's way.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProcessInfo {
    /// Its tgid.
    pub tgid: u32,
    /// Its comm (of the process, not of one thread).
    pub comm: String,
    /// Its cgroup path.
    pub cgroup: String,
    /// Its command line's first words, at most 120 characters.
    pub cmdline: String,
}

/// A target's thread and the M it is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ThreadInfo {
    /// Index of the target.
    pub target: u8,
    /// The thread.
    pub tid: u32,
    /// `m.id`, where known.
    pub m_id: Option<u64>,
    /// `/proc/PID/task/TID/comm`.
    pub comm: String,
}

/// What an address of a target's code is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SymbolInfo {
    /// Index of the target.
    pub target: u8,
    /// The address in the process's memory; of a return address the byte before it, which is the call.
    pub address: u64,
    /// The functions active there, innermost first: all but the last were inlined into the next. Where the
    /// address is not Go's, one frame with what is mapped there in brackets (`[vdso]`, `[libc.so.6]`).
    pub frames: Vec<SymbolFrame>,
}

/// A function at an address.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct SymbolFrame {
    /// Its name.
    pub function: String,
    /// Its source file, as the compiler was given it.
    pub file: Option<String>,
    /// The line in it.
    pub line: Option<u32>,
    /// It was inlined into the next frame's function.
    pub inlined: bool,
}

/// What a thread did from attach (or its birth) to its exit (or the run's end).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ThreadTotals {
    /// Index of the target.
    pub target: u8,
    /// The thread.
    pub tid: u32,
    /// Whether it exited.
    pub exited: bool,
    /// Time by `ThreadState` number, ns.
    pub state_ns: [u64; THREAD_STATES],
    /// Stays in it.
    pub state_count: [u64; THREAD_STATES],
}

/// CPU time that the hypervisor took since attach (`steal` in `/proc/stat`).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StealSample {
    /// When it was read, ns.
    pub ts_ns: u64,
    /// By CPU, ns, in steps of the kernel's `USER_HZ`. Those of which nothing was taken are left out.
    pub cpus: BTreeMap<u16, u64>,
}

/// A message to the user that belongs to the run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Notice {
    /// When, ns.
    pub ts_ns: u64,
    /// Index of the target it is about, if about one.
    pub target: Option<u8>,
    /// What to say.
    pub text: String,
}

/// The tail of a run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RunEnd {
    /// Monotonic time at which the window ended (before detaching), ns.
    pub end_ns: u64,
    /// Why: `duration`, `interrupt`, `terminate`, `target_exited`, `error`.
    pub reason: String,
    /// By class (`thread`, `slice`, `probe`, `life`): events the kernel side wanted to send.
    pub produced: BTreeMap<String, u64>,
    /// By class: events that found the ring full.
    pub lost: BTreeMap<String, u64>,
    /// By class: events that arrived.
    pub received: BTreeMap<String, u64>,
    /// Items from the ring that did not decode.
    pub undecodable: u64,
    /// Threads that did not fit the kernel's thread table.
    pub threads_full: u64,
    /// Scheduler switches on the host while attached.
    pub host_switches: u64,
    /// What the observation cost.
    pub cost: Cost,
}

/// What an observation cost.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Cost {
    /// CPU time of g211s during the window, ns.
    pub agent_cpu_ns: u64,
    /// g211s's largest resident set, bytes.
    pub agent_max_rss_bytes: u64,
    /// Time in BPF programs, by program, where `kernel.bpf_stats_enabled` was on.
    pub bpf_programs: Vec<ProgramCost>,
    /// Probe hits by target and site.
    pub probe_hits: Vec<ProbeHits>,
    /// The probes that come and go so that they stay within the budget, by target. Empty in older recordings.
    #[serde(default)]
    pub hot_probes: Vec<HotProbes>,
    /// Ticks of the CPU clock, on all CPUs together, that were looked at to find the code that keeps a world
    /// from stopping; 0 where no target needs that.
    #[serde(default)]
    pub sampler_ticks: u64,
    /// Bytes that went through the ring buffer.
    pub ring_bytes: u64,
    /// How long attaching and detaching took, ns.
    pub attach_ns: u64,
}

/// What the probes in a target's hot code took (the allocator's slow path, mark assists).
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct HotProbes {
    /// Index of the target.
    pub target: u8,
    /// Share of the target's CPU time that they might take.
    pub budget: f64,
    /// As what part of a CPU the target counted at least, for that.
    pub budget_least_cpus: f64,
    /// What a hit costs on this machine, ns, as measured on g211s itself at the start.
    pub hit_ns: u64,
    /// Their hits.
    pub hits: u64,
    /// CPU time of the target in the window, ns; `None` where it was gone at the end.
    pub target_cpu_ns: Option<u64>,
}

/// One BPF program's cost.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct ProgramCost {
    /// The program's name.
    pub name: String,
    /// Runs; `None` where the kernel does not count.
    pub runs: Option<u64>,
    /// Time in it, ns; `None` where the kernel does not count.
    pub run_ns: Option<u64>,
}

/// Hits of one probe.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct ProbeHits {
    /// Index of the target.
    pub target: u8,
    /// Name of the site.
    pub site: String,
    /// Hits.
    pub hits: u64,
}
