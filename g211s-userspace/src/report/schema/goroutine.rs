//! The report's section on what kept goroutines waiting outside of stops. Must not know how it is made or printed.

use serde::Serialize;

use super::Dist;
use crate::analysis::goroutine::saturation::{Figures, Saturation};

/// What kept goroutines waiting outside of stops. Each part says what its evidence is, and in `unavailable` why it
/// cannot be had.
#[derive(Clone, Debug, Default, Serialize)]
pub struct GoroutineDelays {
    /// Goroutines that allocated in a GC cycle and had to wait for the collector's credit.
    pub assists: Assists,
    /// Ps that threads kept while they were on no CPU.
    pub p_held: PHeld,
    /// Times in which that held for all Ps.
    pub p_starvation: PStarvation,
    /// Whether goroutines waited for one another.
    pub saturation: SaturationReport,
}

/// Parks of mark assists.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Assists {
    /// Why they cannot be seen; null: they can.
    pub unavailable: Option<String>,
    /// What tells them.
    pub evidence: &'static str,
    /// Calls of `gcParkAssist` while its probes were attached; one that finds credit at the last moment does not
    /// park, and takes next to nothing.
    pub calls: u64,
    /// How long they took.
    pub stalls: Dist,
    /// From here on they are told one by one.
    pub threshold_ns: u64,
    /// As long as that.
    pub long: u64,
    /// How long the probes were attached.
    pub observed_ns: u64,
    /// That was less than the window: they were too dear to stay.
    pub sampled: bool,
    /// Calls a second while they were attached; null where they never were.
    pub per_s: Option<f64>,
    /// Calls that were not measured, since too many were under way.
    pub not_measured: u64,
    /// CPU time of assists in the cycles that ended between the first sample of the runtime's counters and the
    /// last (`/cpu/classes/gc/mark/assist`); null where it cannot be read.
    pub cpu_ns: Option<u64>,
    /// The longest.
    pub worst: Vec<AssistStall>,
}

/// One goroutine's stall.
#[derive(Clone, Debug, Serialize)]
pub struct AssistStall {
    /// The goroutine's number; null: not known.
    pub goid: Option<u64>,
    /// The thread that it went on on.
    pub tid: u32,
    /// Since when.
    pub start_ns: u64,
    /// How long.
    pub ns: u64,
}

/// Ps that threads kept while they were on no CPU.
#[derive(Clone, Debug, Default, Serialize)]
pub struct PHeld {
    /// Why they cannot be seen; null: they can.
    pub unavailable: Option<String>,
    /// What tells them.
    pub evidence: &'static str,
    /// Kept in a system call until the runtime took the P away.
    pub taken: Dist,
    /// Kept in a system call until the thread ran again.
    pub kept: Dist,
    /// Kept while preempted or in a page fault.
    pub descheduled: Dist,
    /// Of GOMAXPROCS × the window, the share that Ps were kept in system calls; null where GOMAXPROCS is not known or
    /// changed.
    pub syscall_share: Option<f64>,
    /// The same for `descheduled`.
    pub descheduled_share: Option<f64>,
    /// Kept in a system call as a stop of the world began, which took the P: for how long is not known.
    pub cut_by_stops: u64,
    /// Not measured, since too many were under way.
    pub not_measured: u64,
    /// From here on they are told one by one.
    pub threshold_ns: u64,
    /// Long ones in system calls, longest in all first.
    pub by_syscall: Vec<HeldInSyscall>,
    /// The longest.
    pub worst: Vec<HeldP>,
}

/// Long holdings in one system call.
#[derive(Clone, Debug, Serialize)]
pub struct HeldInSyscall {
    /// Its number.
    pub syscall: i32,
    /// Its name, where known.
    pub syscall_name: Option<&'static str>,
    /// How many.
    pub count: u64,
    /// How long in all.
    pub ns: u64,
}

/// One P kept by one thread.
#[derive(Clone, Debug, Serialize)]
pub struct HeldP {
    /// `p.id`.
    pub p: u32,
    /// The thread.
    pub tid: u32,
    /// Its M, where known.
    pub m_id: Option<u64>,
    /// `syscall`, `page_fault` (or stopped by a signal) or `preempted`.
    pub off: &'static str,
    /// In a system call: its number.
    pub syscall: Option<i32>,
    /// Its name, where known.
    pub syscall_name: Option<&'static str>,
    /// Since when.
    pub start_ns: u64,
    /// How long.
    pub ns: u64,
    /// The runtime took the P away, which ended it.
    pub taken: bool,
    /// Goroutines that the P's own queue held as it was taken: these waited for it. Null where it was not taken.
    pub queued: Option<u32>,
}

/// Times in which every P was kept by a thread on no CPU.
#[derive(Clone, Debug, Default, Serialize)]
pub struct PStarvation {
    /// Why they cannot be told; null: they can.
    pub unavailable: Option<String>,
    /// What tells them.
    pub evidence: &'static str,
    /// GOMAXPROCS, in all samples.
    pub gomaxprocs: Option<u32>,
    /// How many.
    pub count: u64,
    /// How long in all.
    pub total_ns: u64,
    /// Holdings that were too many to be looked at.
    pub dropped: u64,
    /// The longest.
    pub worst: Vec<StarvedReport>,
}

/// No P ran.
#[derive(Clone, Debug, Serialize)]
pub struct StarvedReport {
    /// Since when.
    pub start_ns: u64,
    /// How long.
    pub ns: u64,
    /// Who kept the Ps, by P.
    pub holders: Vec<HeldP>,
}

/// Whether goroutines waited for one another.
#[derive(Clone, Debug, Default, Serialize)]
pub struct SaturationReport {
    /// What the rule makes of the figures.
    pub verdict: Saturation,
    /// The rule.
    pub rule: String,
    /// The figures.
    pub figures: Figures,
}
