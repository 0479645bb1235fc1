//! GC activity, run-queue delay and network lateness, interval by interval, and their correlation at each lag: what the
//! plots of "together" show. Must not know how they are drawn.

use serde::Serialize;

use crate::analysis::correlate::{LagCurve, Span, lags, points};
use crate::record::Interval;
use crate::report::schema::TargetReport;

/// Intervals that are kept while the recording is read, and shown at the end.
const KEPT: usize = 4096;

/// Intervals as columns; `at` is each one's end.
#[derive(Clone, Debug, Default, Serialize)]
pub(super) struct Points {
    /// End of the interval, ns since the window began.
    pub(super) at: Vec<u64>,
    /// Share of it within GC cycles, in thousandths.
    gc: Vec<u32>,
    /// Time threads spent waiting for a CPU (waits that ended in it), ns per second.
    wait: Vec<u64>,
    /// Mean time from a wake out of a network poll to running, ns; null where there was none.
    late: Vec<Option<u64>>,
}

/// The plots' data.
#[derive(Clone, Debug, Default, Serialize)]
pub(super) struct Together {
    /// Usual length of an interval, ns.
    interval_ns: u64,
    /// The intervals.
    pub(super) points: Points,
    /// Correlations by lag.
    lags: Vec<LagCurve>,
}

/// Readings of the counters, thinned out as they become too many: they are cumulative, so fewer are longer intervals.
#[derive(Clone, Debug, Default)]
pub(super) struct Filling {
    intervals: Vec<Interval>,
    every: usize,
    seen: usize,
}

impl Filling {
    /// Takes a reading.
    pub(super) fn interval(&mut self, interval: &Interval) {
        self.every = self.every.max(1);
        if self.seen.is_multiple_of(self.every) {
            self.intervals.push(Interval { hits: Vec::new(), quotas: None, ..interval.clone() });
        }
        self.seen += 1;
        if self.intervals.len() >= 2 * KEPT {
            let mut n = 0;
            self.intervals.retain(|_| {
                n += 1;
                n % 2 == 1
            });
            self.every *= 2;
        }
    }

    /// The plots' data of a target.
    pub(super) fn finish(self, t: &TargetReport) -> Together {
        let span = |start_ns: u64, ns: u64| Span { start_ns, end_ns: start_ns.saturating_add(ns) };
        let gc: Vec<Span> = t.gc.cycles.iter().map(|c| span(c.start_ns, c.duration_ns)).collect();
        let stw: Vec<Span> = t.stw.iter().map(|s| span(s.start_ns, s.total_ns)).collect();
        let all = points(&self.intervals, &gc, &stw);
        let mut columns = Points::default();
        let window = t.window.start_ns;
        for p in &all {
            let seconds = (p.span.end_ns - p.span.start_ns) as f64 / 1e9;
            columns.at.push(p.span.end_ns.saturating_sub(window));
            columns.gc.push((p.gc_share * 1000.0).round() as u32);
            columns.wait.push((p.wait_ns as f64 / seconds) as u64);
            columns.late.push(p.late_ns.checked_div(p.wakes));
        }
        let (interval_ns, lags) = lags(&all);
        Together { interval_ns, points: columns, lags }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::Report;

    #[test]
    fn too_many_readings_become_longer_intervals() {
        let mut filling = Filling::default();
        let n = 20_001;
        for i in 0..n {
            filling.interval(&Interval {
                ts_ns: i * 1000,
                woken: 3 * i,
                woken_ns: 30 * i,
                ..Interval::default()
            });
        }
        let report = Report::build("x", []);
        let together = filling.finish(&report.first);
        let len = together.points.at.len();
        assert!((KEPT / 2..2 * KEPT).contains(&len), "{len}");
        assert_eq!(together.points.wait[7], 30_000_000, "the rate is that of all readings");
        assert_eq!(together.interval_ns, 4000);
    }
}
