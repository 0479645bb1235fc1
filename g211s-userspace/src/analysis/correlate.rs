//! How GC activity and delays go together over one run. Must not know files or how it is printed.

use serde::Serialize;

use super::stats::quantiles;
use crate::record::{Interval, SparseHist};

/// A stretch of time, ns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span {
    /// Beginning.
    pub start_ns: u64,
    /// End.
    pub end_ns: u64,
}

/// The `correlation` section of one target.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Correlation {
    /// Intervals compared.
    pub samples: usize,
    /// p99 run-queue delay within GC cycles, ns.
    pub p99_inside_ns: u64,
    /// … and outside, ns.
    pub p99_outside_ns: u64,
    /// What it says, as sentences.
    pub summary: Vec<String>,
}

/// Compares one target's intervals (cumulative, by time) with its GC cycles and stops, and its
/// run-queue delays inside and outside cycles.
pub fn correlate(
    intervals: &[Interval],
    gc: &[Span],
    stw: &[Span],
    inside: &SparseHist,
    outside: &SparseHist,
) -> Correlation {
    let samples = intervals.len().saturating_sub(1);
    let (within, without) = (quantiles(inside), quantiles(outside));
    let summary = vec![format!(
        "{} cycles and {} stops over {samples} intervals; {} delays within cycles, {} outside",
        gc.len(),
        stw.len(),
        within.count,
        without.count
    )];
    Correlation { samples, p99_inside_ns: within.p99_ns, p99_outside_ns: without.p99_ns, summary }
}
