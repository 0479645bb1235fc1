//! The report as data: schema `g211s.report/1`, described in docs/report-schema.md. Must not know
//! how it is made or printed. All `_ns` are nanoseconds; `start_ns` and the like are
//! `CLOCK_MONOTONIC` of the machine observed.

use std::collections::BTreeMap;

use serde::Serialize;

use super::format::sum;
pub use goroutine::{
    AssistStall, Assists, GoroutineDelays, HeldInSyscall, HeldP, PHeld, PStarvation,
    SaturationReport, StarvedReport,
};
pub use network::{LateCauseReport, LateReport, MeanwhileReport};
pub use runtime::{
    GcCounters, GoroutinesReport, HeapReport, LatencyBucket, ReadsReport, RuntimePoint,
    RuntimeReport, SchedLatency, StatusCount,
};

pub use stalls::{StallCause, Stalls};

mod goroutine;
mod network;
mod runtime;
mod stalls;

use crate::{
    analysis::{
        accuracy::Accuracy,
        aligned::Aligned,
        correlate::Correlation,
        stats::Quantiles,
        verdict::{CauseKind, Phase, PhaseTimes, Role, Wait},
    },
    model::{
        gc::{Cycle, IncompleteCycle},
        stw::{EndEvidence, IncompleteStop},
    },
    record::{
        AttachedProbe, Cost, Host, LatenessSource, Notice, PollSource, Quota, Settings,
        StackSource, Unavailable,
    },
};

/// Name and version of the schema.
pub const SCHEMA: &str = "g211s.report/1";

/// A run's report. The sections of the first target stand at the top level; further targets follow
/// in `others`, in the same shape.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// [`SCHEMA`].
    pub schema: &'static str,
    /// About the run itself.
    pub run: Run,
    /// The first target.
    #[serde(flatten)]
    pub first: TargetReport,
    /// The other targets.
    pub others: Vec<TargetReport>,
    /// What became of the kernel side's events, all targets together.
    pub events: Events,
    /// What the observation cost, all targets together; `null` if the run was cut off.
    pub cost: Option<Cost>,
    /// What the user must know.
    pub notices: Vec<Notice>,
}

/// About the run itself.
#[derive(Clone, Debug, Serialize)]
pub struct Run {
    /// `live` or the recording's name: the only field in which a live run and its replay differ.
    pub source: String,
    /// Whether the run's end was recorded.
    pub complete: bool,
    /// Why it ended; `null` if it was cut off.
    pub end_reason: Option<String>,
    /// Version of g211s that observed.
    pub g211s_version: String,
    /// The machine.
    pub host: Option<Host>,
    /// How it was watched.
    pub settings: Option<Settings>,
    /// Scheduler switches on the host meanwhile; `null` if the run was cut off.
    pub host_switches: Option<u64>,
    /// CPU time that the hypervisor took meanwhile, from which CPUs.
    pub steal: Vec<CpuSteal>,
}

/// CPU time that the hypervisor took.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct CpuSteal {
    /// From which CPU.
    pub cpu: u16,
    /// How much, in steps of 10 ms.
    pub ns: u64,
}

/// One target's sections.
#[derive(Clone, Debug, Serialize)]
pub struct TargetReport {
    /// Who.
    pub target: TargetInfo,
    /// When.
    pub window: Window,
    /// Waits for a CPU.
    pub runqueue: Runqueue,
    /// Its threads.
    pub threads: Threads,
    /// Its GC cycles.
    pub gc: Gc,
    /// Its stops of the world, by time.
    pub stw: Vec<StwReport>,
    /// Stops of which a part was not seen.
    pub stw_incomplete: Vec<PartOfStop>,
    /// All whole stops together.
    pub stw_totals: StwTotals,
    /// What stops and long waits went to, together.
    pub stalls: Stalls,
    /// Long waits for a CPU outside stops.
    pub delays: Delays,
    /// What kept goroutines waiting outside stops.
    pub goroutine_delays: GoroutineDelays,
    /// Network polls.
    pub netpoll: Netpoll,
    /// Allocation counts.
    pub alloc: Alloc,
    /// What the Go runtime's own counters say.
    pub runtime: RuntimeReport,
    /// How far our stops and cycles agree with those counters.
    pub accuracy: Accuracy,
    /// How GC activity and delays go together.
    pub correlation: Correlation,
    /// The run queue around what every collection does.
    pub aligned: Aligned,
}

/// A watched process.
#[derive(Clone, Debug, Default, Serialize)]
pub struct TargetInfo {
    /// As given on the command line.
    pub pid: u32,
    /// In the initial PID namespace.
    pub tgid: u32,
    /// Its comm.
    pub comm: String,
    /// Path of its executable.
    pub exe: String,
    /// Its cgroup.
    pub cgroup: String,
    /// Its Go version.
    pub go_version: String,
    /// Its main module.
    pub module: Option<String>,
    /// How it was linked.
    pub link_mode: Vec<String>,
    /// CPUs it may run on.
    pub cpus_allowed: String,
    /// Threads at attach.
    pub threads_at_attach: usize,
    /// Threads born since.
    pub threads_born: u64,
    /// Threads that exited since.
    pub threads_exited: u64,
    /// Whether it replaced its program.
    pub execed: bool,
    /// How the code is found that keeps its world from stopping; `null` in older recordings.
    pub stacks: Option<StackSource>,
    /// Probes attached.
    pub probes: Vec<AttachedProbe>,
    /// CPU quotas that bound it at attach, innermost first.
    pub quotas: Vec<Quota>,
    /// What could not be had.
    pub unavailable: Vec<Unavailable>,
}

/// The time observed.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub struct Window {
    /// Beginning, monotonic.
    pub start_ns: u64,
    /// Beginning, since 1970 (UTC).
    pub wall_ns: u64,
    /// End, monotonic; of a run cut off: the last thing recorded.
    pub end_ns: u64,
    /// Length.
    pub duration_ns: u64,
}

/// A distribution. Where only counters are known (a run cut off before its histograms were
/// recorded), the quantiles are `null`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Dist {
    /// Values.
    pub count: u64,
    /// Sum.
    pub total_ns: u64,
    /// Mean.
    pub mean_ns: f64,
    /// Median.
    pub p50_ns: Option<u64>,
    /// 90 % are at most this.
    pub p90_ns: Option<u64>,
    /// 99 % are at most this.
    pub p99_ns: Option<u64>,
    /// 99.9 % are at most this.
    pub p999_ns: Option<u64>,
    /// The largest.
    pub max_ns: Option<u64>,
}

impl Dist {
    /// Of counters alone.
    pub fn of_counters(count: u64, total_ns: u64) -> Self {
        let mean_ns = if count == 0 { 0.0 } else { total_ns as f64 / count as f64 };
        Self { count, total_ns, mean_ns, ..Self::default() }
    }

    /// Of single values.
    pub fn of_values(values: impl IntoIterator<Item = u64>) -> Self {
        let mut values: Vec<u64> = values.into_iter().collect();
        values.sort_unstable();
        let at = |q: f64| {
            let rank = (values.len() as f64 * q).ceil() as usize;
            values.get(rank.saturating_sub(1)).copied()
        };
        Self {
            p50_ns: at(0.5),
            p90_ns: at(0.9),
            p99_ns: at(0.99),
            p999_ns: at(0.999),
            max_ns: values.last().copied(),
            ..Self::of_counters(values.len() as u64, sum(values.iter().copied()))
        }
    }
}

impl From<Quantiles> for Dist {
    fn from(q: Quantiles) -> Self {
        let known = |ns| (q.count > 0).then_some(ns);
        Self {
            count: q.count,
            total_ns: q.total_ns,
            mean_ns: q.mean_ns,
            p50_ns: known(q.p50_ns),
            p90_ns: known(q.p90_ns),
            p99_ns: known(q.p99_ns),
            p999_ns: known(q.p999_ns),
            max_ns: known(q.max_ns),
        }
    }
}

/// Waits for a CPU, from the kernel side's histograms: complete whatever events were lost.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Runqueue {
    /// After a wakeup or a preemption. Yields are voluntary and shown apart.
    #[serde(flatten)]
    pub all: Dist,
    /// Wakeup → running.
    pub wakeup: Dist,
    /// Preempted → running.
    pub preempted: Dist,
    /// `sched_yield` → running.
    pub yielded: Dist,
    /// Waits that overlap no GC cycle.
    pub outside_gc: ByKind,
    /// Waits that overlap a GC cycle but no stop of the world.
    pub in_gc: ByKind,
    /// Waits that overlap a stop of the world.
    pub in_stw: ByKind,
    /// Stays on a CPU.
    pub on_cpu: Dist,
    /// CPU quotas.
    pub throttled: Throttling,
}

/// Waits for a CPU by how they came about.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub struct ByKind {
    /// Both.
    #[serde(flatten)]
    pub all: Dist,
    /// Wakeup → running.
    pub wakeup: Dist,
    /// Preempted → running.
    pub preempted: Dist,
}

/// What the CPU quotas of the target's cgroup (and those above it) did.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub struct Throttling {
    /// Periods in which a quota ran out.
    pub count: u64,
    /// How long that kept the cgroup off CPUs, added up over the CPUs. A throttled thread counts as waiting
    /// for a CPU, so this is part of the waits.
    pub ns: u64,
}

/// A target's threads as far as events tell.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Threads {
    /// What the times cover: `full` (everything) or, in a recording that was cut off, `windows` (stops
    /// and their surroundings, long delays).
    pub coverage: &'static str,
    /// Threads seen.
    pub count: usize,
    /// They, longest on run queues first.
    pub list: Vec<ThreadRow>,
}

/// One thread.
#[derive(Clone, Debug, Default, Serialize)]
pub struct ThreadRow {
    /// The thread.
    pub tid: u32,
    /// Its M, where known.
    pub m_id: Option<u64>,
    /// Its comm, where known.
    pub comm: Option<String>,
    /// Whether it exited.
    pub exited: bool,
    /// Events about it.
    pub events: u64,
    /// Stays on a CPU; null where only events tell.
    pub switches: Option<u64>,
    /// Waits after a wakeup; null where only events tell.
    pub wakeups: Option<u64>,
    /// Waits after a preemption; null where only events tell.
    pub preemptions: Option<u64>,
    /// On a CPU.
    pub on_cpu_ns: u64,
    /// Waiting for a CPU, all three kinds.
    pub runnable_ns: u64,
    /// … since a wakeup.
    pub woken_ns: u64,
    /// … since a preemption.
    pub preempted_ns: u64,
    /// … since a yield.
    pub yielded_ns: u64,
    /// Asleep or stopped.
    pub blocked_ns: u64,
    /// Asleep in state D.
    pub uninterruptible_ns: u64,
    /// Stops it made.
    pub stopper: u64,
    /// Stops it held up.
    pub laggard: u64,
}

/// GC cycles.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Gc {
    /// Whole cycles.
    pub count: usize,
    /// They, by time.
    pub cycles: Vec<Cycle>,
    /// Cycles of which a part was not seen: those at the edges of the run, and any hit by loss.
    pub incomplete: Vec<IncompleteCycle>,
    /// Share of the window within whole cycles, 0 to 1.
    pub share: f64,
    /// Length of whole cycles.
    pub duration: Dist,
    /// Their sweep-termination stops.
    pub sweep_term: Dist,
    /// Their concurrent mark.
    pub mark: Dist,
    /// Their mark-termination stops.
    pub mark_term: Dist,
    /// From cycle to cycle.
    pub interval: Dist,
}

/// A stop of the world, explained. `stopping_ns + stopped_ns == total_ns == explained_ns +
/// unexplained_ns`, and the causes sum to it.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct StwReport {
    /// Its number on this target.
    pub n: u32,
    /// The runtime's words for why.
    pub reason: String,
    /// The runtime's number for why.
    pub reason_id: u64,
    /// The GC cycle it belongs to (`gc.cycles[].n`), if to one.
    pub gc_cycle: Option<u64>,
    /// Whether it was a mark termination that did not hold.
    pub retry: bool,
    /// Entry of `stopTheWorldWithSema`.
    pub start_ns: u64,
    /// Until the world was stopped.
    pub stopping_ns: u64,
    /// From then to the end.
    pub stopped_ns: u64,
    /// Both.
    pub total_ns: u64,
    /// What tells the end.
    pub end_evidence: EndEvidence,
    /// The runtime's own stopping time (without its wait for `sched.lock`), where known.
    pub runtime_stopping_ns: Option<u64>,
    /// The runtime's own total, where known.
    pub runtime_total_ns: Option<u64>,
    /// The thread that stopped the world.
    pub stopper_tid: u32,
    /// Its M, where known.
    pub stopper_m: Option<u64>,
    /// The last thread that gave its P up, where one was seen.
    pub laggard_tid: Option<u32>,
    /// Its M, where known.
    pub laggard_m: Option<u64>,
    /// `gcstopm` (the probe hit that tells it) or `none`.
    pub laggard_evidence: &'static str,
    /// Explained time.
    pub explained_ns: u64,
    /// Time without explanation.
    pub unexplained_ns: u64,
    /// What the time went to, longest first.
    pub causes: Vec<CauseReport>,
    /// Who had a part in it.
    pub threads: Vec<ThreadInStop>,
}

/// Time of a stop with one cause.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct CauseReport {
    /// What.
    pub kind: CauseKind,
    /// How long.
    pub ns: u64,
    /// The thread on the critical path.
    pub tid: u32,
    /// Its M, where known.
    pub m_id: Option<u64>,
    /// Run-queue waits: behind whom; `null` there: unknown.
    pub behind: Option<Behind>,
    /// When.
    pub phase: Phase,
    /// Waits: how it came to wait.
    pub wait: Option<Wait>,
    /// Waits: for which CPU.
    pub cpu: Option<u16>,
    /// Sleeps: number of the system call.
    pub syscall: Option<i32>,
    /// … and its name, where well known.
    pub syscall_name: Option<&'static str>,
    /// Throttled: by which quota, where known.
    pub quota: Option<Quota>,
    /// Code that was not preempted: which; `null` where no stack was taken in it.
    pub code: Option<CodeReport>,
    /// Unexplained: why.
    pub why: Option<&'static str>,
}

/// Where a thread was in its own code.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct CodeReport {
    /// The innermost function. What is not Go's stands in brackets: `[vdso]`, `[libc.so.6]`.
    #[serde(flatten)]
    pub place: PlaceReport,
    /// Where that is the runtime's or no Go: the first of the program's own functions above it, where known.
    pub caller: Option<PlaceReport>,
}

/// A line of a function.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct PlaceReport {
    /// The function.
    pub function: String,
    /// Its source file, as the compiler was given it.
    pub file: Option<String>,
    /// The line in it.
    pub line: Option<u32>,
}

/// A task that ran while a thread waited for its CPU.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Behind {
    /// Its process, in the initial PID namespace.
    pub pid: u32,
    /// The task.
    pub tid: u32,
    /// Its comm (the thread's).
    pub comm: String,
    /// Its process's cgroup, where known.
    pub cgroup: Option<String>,
    /// Whether it is the target itself.
    pub own: bool,
    /// Whether it is g211s.
    pub observer: bool,
}

/// … and for how long.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct BehindFor {
    /// Who.
    #[serde(flatten)]
    pub who: Behind,
    /// How long.
    pub ns: u64,
}

/// A thread's part in a stop.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ThreadInStop {
    /// The thread.
    pub tid: u32,
    /// Its M, where known.
    pub m_id: Option<u64>,
    /// Why it is listed.
    pub role: Role,
    /// While the world was stopping.
    pub stopping: PhaseTimes,
    /// While it was stopped.
    pub stopped: PhaseTimes,
    /// Who ran on the CPUs it waited for, longest first.
    pub behind: Vec<BehindFor>,
}

/// A stop of which a part was not seen.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct PartOfStop {
    /// What was seen and what not.
    #[serde(flatten)]
    pub stop: IncompleteStop,
    /// The runtime's words for why, where seen.
    pub reason: Option<String>,
}

/// All whole stops together.
#[derive(Clone, Debug, Default, Serialize)]
pub struct StwTotals {
    /// Their lengths.
    #[serde(flatten)]
    pub all: Dist,
    /// Time to stop.
    pub stopping: Dist,
    /// Time stopped.
    pub stopped: Dist,
    /// Explained time.
    pub explained_ns: u64,
    /// Time without explanation.
    pub unexplained_ns: u64,
    /// By the runtime's words for why.
    pub by_reason: BTreeMap<String, Dist>,
    /// By cause, longest first.
    pub causes: Vec<CauseTotal>,
}

/// One cause over all stops.
#[derive(Clone, Debug, Serialize)]
pub struct CauseTotal {
    /// What.
    pub kind: CauseKind,
    /// Run-queue waits: behind which process.
    pub behind: Option<BehindProcess>,
    /// How long in all.
    pub ns: u64,
    /// In how many stops.
    pub stops: u64,
}

/// A process that ran while threads waited.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct BehindProcess {
    /// Its PID, in the initial PID namespace.
    pub pid: u32,
    /// Its comm.
    pub comm: String,
    /// Whether it is the target itself.
    pub own: bool,
    /// Whether it is g211s.
    pub observer: bool,
}

/// Long waits for a CPU.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Delays {
    /// What counts as long.
    pub threshold_ns: u64,
    /// All, as far as their events arrived.
    pub count: u64,
    /// Those that overlap a stop of the world: see `stw`.
    pub in_stw: u64,
    /// The longest of each kind (woken, preempted, yielded), in a stop or not.
    pub largest: Vec<DelayReport>,
    /// The longest that overlap none (at most 50), longest first.
    pub worst: Vec<DelayReport>,
    /// Long uninterruptible sleeps, which are no part of the above.
    pub asleep: Sleeps,
}

/// Long uninterruptible sleeps.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Sleeps {
    /// All, as far as their events arrived.
    pub count: u64,
    /// Those that overlap a stop of the world: see `stw`.
    pub in_stw: u64,
    /// The longest that overlap none (at most 50), longest first.
    pub worst: Vec<SleepReport>,
}

/// One long uninterruptible sleep.
#[derive(Clone, Debug, Serialize)]
pub struct SleepReport {
    /// Who slept.
    pub tid: u32,
    /// Its M, where known.
    pub m_id: Option<u64>,
    /// Since when.
    pub start_ns: u64,
    /// How long, until it was woken.
    pub ns: u64,
    /// Whether it overlaps a GC cycle.
    pub in_gc: bool,
    /// What it went to: one cause.
    pub causes: Vec<DelayCause>,
}

/// Time of a delay with one cause.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct DelayCause {
    /// What.
    pub kind: CauseKind,
    /// How long.
    pub ns: u64,
    /// Run-queue waits: behind whom.
    pub behind: Option<Behind>,
    /// Throttled: by which quota, where known.
    pub quota: Option<Quota>,
    /// Sleeps: number of the system call.
    pub syscall: Option<i32>,
    /// … and its name, where well known.
    pub syscall_name: Option<&'static str>,
}

/// One long wait for a CPU.
#[derive(Clone, Debug, Serialize)]
pub struct DelayReport {
    /// Who waited.
    pub tid: u32,
    /// Its M, where known.
    pub m_id: Option<u64>,
    /// Since when.
    pub start_ns: u64,
    /// How long.
    pub wait_ns: u64,
    /// How it came to wait.
    pub wait: Wait,
    /// The CPU it got.
    pub cpu: u16,
    /// The P that it kept meanwhile; null where none is proven: it may have had one or not.
    pub p: Option<u32>,
    /// Whether it overlaps a GC cycle.
    pub in_gc: bool,
    /// What the wait went to, longest first; they sum to `wait_ns`.
    pub causes: Vec<DelayCause>,
    /// Who ran meanwhile on the CPU it waited for, longest first.
    pub behind: Vec<BehindFor>,
    /// Of the wait, while a CPU quota kept the thread off all CPUs.
    pub throttled_ns: u64,
    /// Of the wait, while that CPU idled.
    pub idle_ns: u64,
    /// Of the wait, without evidence who ran.
    pub unknown_ns: u64,
}

/// Network polls of the Go runtime. Waiting for the network is what a service does: only
/// `late_wakes` are delays.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Netpoll {
    /// What counted the polls; null where nothing could, and in older recordings.
    pub source: Option<PollSource>,
    /// How long polls were counted: all the time, or while that was cheap for the host.
    pub observed_ns: u64,
    /// Whether that was short looks instead of the whole run: then the counts of polls and of their events
    /// are those of the looks. Sleeps and late wakes are always counted all.
    pub sampled: bool,
    /// Polls that may wait.
    pub blocking: BlockingPolls,
    /// Woken from a poll, but late on a CPU.
    pub late_wakes: LateWakes,
    /// Polls that may not wait.
    pub nonblocking: NonblockingPolls,
    /// Events that the polls counted returned.
    pub events: u64,
    /// What told how late the network was served.
    pub lateness_source: LatenessSource,
    /// From a socket's readiness until a poll took it, of all harvests; null where only wakeups tell.
    pub ready: Option<Dist>,
    /// Late harvests, as far as their events arrived.
    pub late_count: u64,
    /// The latest of them (at most 20), latest first.
    pub late: Vec<LateReport>,
}

/// Polls that may wait.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub struct BlockingPolls {
    /// How many began while polls were counted (`observed_ns`).
    pub count: u64,
    /// The same per second; null if none could be counted.
    pub per_s: Option<f64>,
    /// How often a thread slept in one, over the whole run.
    pub slept: u64,
    /// How long: idle time, not a problem.
    pub slept_ns: u64,
    /// Of `count`, how many returned no event (timeout or signal).
    pub empty: u64,
    /// Lengths of the sleeps, each until the thread runs again.
    pub wait: Dist,
}

/// Woken from a poll, but late on a CPU.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub struct LateWakes {
    /// How many later than the threshold.
    pub count: u64,
    /// What counts as late.
    pub threshold_ns: u64,
    /// Woken → running of all wakes from a poll, late or not.
    pub delay: Dist,
}

/// Polls that may not wait.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub struct NonblockingPolls {
    /// How many while polls were counted (`observed_ns`).
    pub count: u64,
    /// The same per second; null if none could be counted.
    pub per_s: Option<f64>,
}

/// Allocation counts, from probe hits; 0 where the probe was not attached (`target.probes`).
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub struct Alloc {
    /// Hits of `(*mcache).refill`, i.e. spans taken, while the probe was attached.
    pub refills: u64,
    /// How long the probes of `refill` and `allocLarge` were attached: they stay only while their hits
    /// are few.
    pub observed_ns: u64,
    /// Spans taken by small and large allocations together, per second of `observed_ns`; null if the
    /// probes never were attached.
    pub spans_per_s: Option<f64>,
    /// Whether that was short looks instead of the whole run: then counts are samples.
    pub sampled: bool,
    /// Slow-path allocations (`(*mcache).nextFree`).
    pub next_free: u64,
    /// Large allocations (`(*mcache).allocLarge`).
    pub large: u64,
    /// Their bytes.
    pub large_bytes: u64,
    /// Calls of `mallocgc`.
    pub mallocgc: u64,
}

/// Events by class.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct ByClass {
    /// All classes.
    pub total: u64,
    /// `thread`, `slice`, `probe`, `life`.
    #[serde(flatten)]
    pub classes: BTreeMap<String, u64>,
}

impl ByClass {
    /// With their total.
    pub fn new(classes: BTreeMap<String, u64>) -> Self {
        Self { total: sum(classes.values().copied()), classes }
    }
}

/// What became of the kernel side's events.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Events {
    /// Arrived.
    pub received: ByClass,
    /// Found the ring full; `null` if the run was cut off.
    pub lost: Option<ByClass>,
    /// Wanted to be sent; `null` if the run was cut off.
    pub produced: Option<ByClass>,
    /// Did not decode.
    pub undecodable: u64,
    /// Arrived too late for their place in time.
    pub late: u64,
    /// Of no target that the run names, or of an impossible time.
    pub stray: u64,
    /// Threads that did not fit the kernel's table.
    pub threads_full: u64,
}
