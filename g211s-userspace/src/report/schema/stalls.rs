//! The report's table of stalls by cause, as data. Must not know how it is made or printed.

use serde::Serialize;

use super::BehindProcess;
use crate::analysis::verdict::CauseKind;

/// What all stalls went to: whole stops of the world, and of waits for a CPU and uninterruptible sleeps of at
/// least the threshold what lies outside them. `total_ns == stw_ns + delays_ns`, and `by_cause[].ns` sum to it.
/// Delays are of single threads, so those of several at a time add up.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Stalls {
    /// All.
    pub total_ns: u64,
    /// In stops.
    pub stw_ns: u64,
    /// How many.
    pub stops: u64,
    /// In waits and sleeps outside stops.
    pub delays_ns: u64,
    /// How many (what lies in a stop altogether is not among them).
    pub delays: u64,
    /// Without evidence.
    pub unexplained_ns: u64,
    /// By cause, most time first.
    pub by_cause: Vec<StallCause>,
}

/// One cause over all stalls.
#[derive(Clone, Debug, Serialize)]
pub struct StallCause {
    /// What.
    pub kind: CauseKind,
    /// Run-queue waits: behind which process; `null` there: unknown.
    pub behind: Option<BehindProcess>,
    /// How long in all.
    pub ns: u64,
    /// Part of `total_ns`, 0 to 1.
    pub share: f64,
    /// In how many stops and delays.
    pub count: u64,
    /// The most in one of them.
    pub worst_ns: u64,
}
