//! Late harvests of the network, as the report has them.

use serde::Serialize;

use super::{Behind, BehindFor};
use crate::analysis::network::LateKind;

/// Something was ready (or a thread was woken to take it), and it took at least the threshold until it was
/// taken.
#[derive(Clone, Debug, Serialize)]
pub struct LateReport {
    /// Since when a socket was ready; null where only wakeups tell.
    pub ready_ns: Option<u64>,
    /// When the thread that took it was woken; null if it did not sleep in the poll.
    pub woken_ns: Option<u64>,
    /// When that thread was on a CPU after that; null if it did not sleep in the poll.
    pub running_ns: Option<u64>,
    /// When the poll had taken what was ready; null where only wakeups tell.
    pub harvested_ns: Option<u64>,
    /// From `ready_ns` to `harvested_ns`; where only wakeups tell, from `woken_ns` to `running_ns`.
    pub delay_ns: u64,
    /// How many events the poll took; null where only wakeups tell.
    pub events: Option<u32>,
    /// The thread that took it.
    pub tid: u32,
    /// Its M, where known.
    pub m_id: Option<u64>,
    /// What that thread did in the time, longest first: sums to `delay_ns`.
    pub causes: Vec<LateCauseReport>,
    /// What all threads of the process did in the time.
    pub ms: MeanwhileReport,
    /// All of it in one sentence.
    pub sentence: String,
}

/// A part of a delay.
#[derive(Clone, Debug, Serialize)]
pub struct LateCauseReport {
    /// What.
    pub kind: LateKind,
    /// How long.
    pub ns: u64,
    /// Run-queue waits: behind whom; null where nothing tells.
    pub behind: Option<Behind>,
}

/// What all threads of the process did in the time of a late harvest. The parts from `stw_ns` to `unknown_ns`
/// sum to `thread_ns`.
#[derive(Clone, Debug, Serialize)]
pub struct MeanwhileReport {
    /// Threads of which anything is known.
    pub threads: u64,
    /// Their time: the delay times their number.
    pub thread_ns: u64,
    /// In a stop of the world, whatever they did.
    pub stw_ns: u64,
    /// On a CPU.
    pub on_cpu_ns: u64,
    /// Runnable without a CPU.
    pub runnable_ns: u64,
    /// In a system call or a page fault, asleep, or stopped.
    pub blocked_ns: u64,
    /// Asleep with nothing to do (`futex`, `nanosleep`, a poll).
    pub idle_ns: u64,
    /// No evidence.
    pub unknown_ns: u64,
    /// Who ran on the CPUs that they waited for, longest first.
    pub behind: Vec<BehindFor>,
}
