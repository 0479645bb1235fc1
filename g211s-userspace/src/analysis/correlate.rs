//! Whether GC activity, run-queue delay and network lateness move together, said with no more
//! confidence than the numbers carry. Pure: must not know events, files or how it is printed.

mod pair;
#[cfg(test)]
mod tests;

use serde::Serialize;

use super::stats::{MIN_FOR_P99, p99_ratio_ci, quantiles};
use crate::record::{Interval, SparseHist};

pub use pair::{LagStat, Pair};

/// A stretch of time, ns.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Span {
    /// When it began.
    pub start_ns: u64,
    /// When it ended.
    pub end_ns: u64,
}

/// What one interval between two readings of the counters held.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Point {
    /// The interval.
    pub span: Span,
    /// Share of it within a GC cycle, 0 to 1.
    pub gc_share: f64,
    /// Time in it during which the world was stopped or stopping, ns.
    pub stw_ns: u64,
    /// Run-queue waits (woken and preempted) that ended in it.
    pub waits: u64,
    /// Their length, ns. A wait counts where it ends, even if it began earlier.
    pub wait_ns: u64,
    /// Network polls that slept and were woken in it.
    pub wakes: u64,
    /// Time from those wakes to running, ns.
    pub late_ns: u64,
}

impl Point {
    fn seconds(&self) -> f64 {
        (self.span.end_ns - self.span.start_ns) as f64 / 1e9
    }
}

/// One measure over the run.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Series {
    /// Which: `gc_activity`, `stw_time`, `runqueue_delay`, `runqueue_mean`, `network_lateness`,
    /// `network_delay`.
    pub name: &'static str,
    /// Its unit. Sums are per second, so that intervals of unequal length compare.
    pub unit: &'static str,
    /// Intervals in which it has a value (a mean of no waits has none).
    pub count: usize,
    /// Mean over those intervals.
    pub mean: f64,
    /// Smallest.
    pub min: f64,
    /// Largest.
    pub max: f64,
}

/// Run-queue delays within GC cycles against those outside.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct GcComparison {
    /// Delays within GC cycles.
    pub inside_count: u64,
    /// Delays outside.
    pub outside_count: u64,
    /// p99 of those within, ns; none where there are none.
    pub inside_p99_ns: Option<u64>,
    /// p99 of those outside, ns; none where there are none.
    pub outside_p99_ns: Option<u64>,
    /// `inside_p99_ns` / `outside_p99_ns`.
    pub ratio: Option<f64>,
    /// Lower end of the ratio's 95 % interval; none where there are too few delays. Takes delays
    /// as independent: bursts make it too narrow.
    pub ratio_low: Option<f64>,
    /// Upper end.
    pub ratio_high: Option<f64>,
    /// What to hold against the numbers.
    pub warning: Option<String>,
}

/// How GC, scheduler and network of one target go together.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Correlation {
    /// Intervals compared.
    pub intervals: usize,
    /// Their usual (median) length, ns: the unit of lags.
    pub interval_ns: u64,
    /// Intervals more than half as long again as usual, because readings were missed. Lags that
    /// reach across one are longer than they say.
    pub gaps: usize,
    /// The measures.
    pub series: Vec<Series>,
    /// `gc_activity` with `runqueue_delay` and `network_lateness`, and these two with each other.
    pub pairs: Vec<Pair>,
    /// Delays within GC cycles against those outside.
    pub gc_vs_outside: GcComparison,
    /// The above in plain sentences.
    pub summary: Vec<String>,
}

/// Correlates one target's counters (cumulative, by time) with its GC cycles and stops, and
/// compares run-queue delays `inside` GC cycles with those `outside`.
pub fn correlate(
    intervals: &[Interval],
    gc: &[Span],
    stw: &[Span],
    inside: &SparseHist,
    outside: &SparseHist,
) -> Correlation {
    let points = points(intervals, gc, stw);
    let interval_ns = usual_length(&points);
    let columns = columns(&points);
    let pairs: Vec<Pair> =
        measures(&columns).into_iter().map(|(x, y)| pair::compare(x, y, interval_ns)).collect();
    let gc_vs_outside = compare_gc(inside, outside);
    let mut summary: Vec<String> = pairs.iter().map(Pair::sentence).collect();
    summary.push(gc_vs_outside.sentence());
    Correlation {
        intervals: points.len(),
        interval_ns,
        gaps: points.iter().filter(|p| is_gap(p, interval_ns)).count(),
        series: columns.iter().filter_map(Column::summary).collect(),
        pairs,
        gc_vs_outside,
        summary,
    }
}

/// The pairs of measures that are compared.
fn measures(columns: &[Column]) -> [(pair::Measure<'_>, pair::Measure<'_>); 3] {
    let of = |name| columns.iter().find(|c| c.name == name).map_or(&[][..], |c| &c.values);
    let measure = |name, label| (name, label, of(name));
    let gc_activity = measure("gc_activity", "GC activity");
    let runqueue = measure("runqueue_delay", "run-queue delay");
    let network = measure("network_lateness", "network lateness");
    [(gc_activity, runqueue), (gc_activity, network), (runqueue, network)]
}

/// A pair's correlation at every lag that is searched.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct LagCurve {
    /// First series.
    pub x: &'static str,
    /// Second series.
    pub y: &'static str,
    /// By lag, ascending; those at which nothing can be computed are left out.
    pub at: Vec<LagStat>,
}

/// The usual length of the intervals, ns, and the correlation of each pair at every lag.
pub fn lags(points: &[Point]) -> (u64, Vec<LagCurve>) {
    let (interval_ns, columns) = (usual_length(points), columns(points));
    let curve = |(x, y): (pair::Measure<'_>, pair::Measure<'_>)| LagCurve {
        x: x.0,
        y: y.0,
        at: pair::at_all_lags(x, y, interval_ns),
    };
    (interval_ns, measures(&columns).into_iter().map(curve).collect())
}

/// What happened between each reading and the next. Readings that do not advance in time are
/// passed over.
pub fn points(intervals: &[Interval], gc: &[Span], stw: &[Span]) -> Vec<Point> {
    let (gc, stw) = (Union::new(gc), Union::new(stw));
    let mut points = Vec::with_capacity(intervals.len().saturating_sub(1));
    let mut readings = intervals.iter();
    let Some(mut last) = readings.next() else { return points };
    for now in readings {
        if now.ts_ns <= last.ts_ns {
            continue;
        }
        let span = Span { start_ns: last.ts_ns, end_ns: now.ts_ns };
        let delta = |of: fn(&Interval) -> u64| of(now).saturating_sub(of(last));
        points.push(Point {
            span,
            gc_share: gc.within(span) as f64 / (span.end_ns - span.start_ns) as f64,
            stw_ns: stw.within(span),
            waits: delta(|i| i.woken).saturating_add(delta(|i| i.preempted)),
            wait_ns: delta(|i| i.woken_ns).saturating_add(delta(|i| i.preempted_ns)),
            wakes: delta(|i| i.epoll_slept),
            late_ns: delta(|i| i.epoll_late_ns),
        });
        last = now;
    }
    points
}

/// Spans as disjoint stretches in order, with the time covered before each.
struct Union {
    spans: Vec<(Span, u64)>,
}

impl Union {
    fn new(spans: &[Span]) -> Self {
        let mut sorted: Vec<Span> =
            spans.iter().copied().filter(|s| s.start_ns < s.end_ns).collect();
        sorted.sort_unstable_by_key(|s| s.start_ns);
        let mut disjoint: Vec<(Span, u64)> = Vec::with_capacity(sorted.len());
        for span in sorted {
            match disjoint.last_mut() {
                Some((last, _)) if span.start_ns <= last.end_ns => {
                    last.end_ns = last.end_ns.max(span.end_ns);
                }
                last => {
                    let before = last.map_or(0, |(s, before)| *before + (s.end_ns - s.start_ns));
                    disjoint.push((span, before));
                }
            }
        }
        Self { spans: disjoint }
    }

    /// Time covered before `t`.
    fn before(&self, t: u64) -> u64 {
        let at = self.spans.partition_point(|(s, _)| s.start_ns < t);
        let Some((span, before)) = at.checked_sub(1).map(|i| &self.spans[i]) else { return 0 };
        before + (t.min(span.end_ns) - span.start_ns)
    }

    /// Time covered within a span.
    fn within(&self, span: Span) -> u64 {
        self.before(span.end_ns) - self.before(span.start_ns)
    }
}

/// A measure with its values, one an interval.
struct Column {
    name: &'static str,
    unit: &'static str,
    values: Vec<Option<f64>>,
}

fn columns(points: &[Point]) -> Vec<Column> {
    let column = |name, unit, of: fn(&Point) -> Option<f64>| Column {
        name,
        unit,
        values: points.iter().map(of).collect(),
    };
    vec![
        column("gc_activity", "share", |p| Some(p.gc_share)),
        column("stw_time", "ns_per_s", |p| Some(per_second(p.stw_ns, p))),
        column("runqueue_delay", "ns_per_s", |p| Some(per_second(p.wait_ns, p))),
        column("runqueue_mean", "ns_per_wait", |p| mean_of(p.wait_ns, p.waits)),
        column("network_lateness", "ns_per_wake", |p| mean_of(p.late_ns, p.wakes)),
        column("network_delay", "ns_per_s", |p| Some(per_second(p.late_ns, p))),
    ]
}

/// Per second of the interval.
fn per_second(ns: u64, p: &Point) -> f64 {
    ns as f64 / p.seconds()
}

fn mean_of(sum: u64, n: u64) -> Option<f64> {
    (n > 0).then(|| sum as f64 / n as f64)
}

impl Column {
    fn summary(&self) -> Option<Series> {
        let values = || self.values.iter().flatten().copied();
        let count = values().count();
        (count > 0).then(|| Series {
            name: self.name,
            unit: self.unit,
            count,
            mean: values().sum::<f64>() / count as f64,
            min: values().fold(f64::INFINITY, f64::min),
            max: values().fold(f64::NEG_INFINITY, f64::max),
        })
    }
}

fn usual_length(points: &[Point]) -> u64 {
    let mut lengths: Vec<u64> = points.iter().map(|p| p.span.end_ns - p.span.start_ns).collect();
    lengths.sort_unstable();
    lengths.get(lengths.len() / 2).copied().unwrap_or(0)
}

fn is_gap(point: &Point, usual_ns: u64) -> bool {
    point.span.end_ns - point.span.start_ns > usual_ns.saturating_add(usual_ns / 2)
}

fn compare_gc(inside: &SparseHist, outside: &SparseHist) -> GcComparison {
    let (i, o) = (quantiles(inside), quantiles(outside));
    let p99 = |q: &super::stats::Quantiles| (q.count > 0).then_some(q.p99_ns);
    let (inside_p99_ns, outside_p99_ns) = (p99(&i), p99(&o));
    let ratio = match (inside_p99_ns, outside_p99_ns) {
        (Some(i), Some(o)) if o > 0 => Some(i as f64 / o as f64),
        _ => None,
    };
    let ci = p99_ratio_ci(inside, outside);
    let warning = [(i.count, "within"), (o.count, "outside")]
        .iter()
        .find(|(n, _)| *n < MIN_FOR_P99)
        .map(|(n, place)| {
            format!("only {n} delays {place} GC cycles: too few to say (p99 needs {MIN_FOR_P99})")
        });
    GcComparison {
        inside_count: i.count,
        outside_count: o.count,
        inside_p99_ns,
        outside_p99_ns,
        ratio,
        ratio_low: ci.map(|c| c.low),
        ratio_high: ci.map(|c| c.high),
        warning,
    }
}

impl GcComparison {
    fn sentence(&self) -> String {
        let subject = "p99 run-queue delay within GC cycles against outside";
        if let Some(warning) = &self.warning {
            return format!("{subject}: {warning}.");
        }
        let (Some(inside), Some(outside), Some(ratio), Some(low), Some(high)) =
            (self.inside_p99_ns, self.outside_p99_ns, self.ratio, self.ratio_low, self.ratio_high)
        else {
            return format!("{subject}: cannot be compared.");
        };
        let verdict = if low > 1.0 {
            "longer within"
        } else if high < 1.0 {
            "shorter within"
        } else {
            "no difference that the data can tell"
        };
        format!(
            "{subject}: {} against {}, {ratio:.2} times (95 % interval {low:.2} to {high:.2}; {} \
             and {} delays): {verdict}.",
            show_ns(inside),
            show_ns(outside),
            self.inside_count,
            self.outside_count,
        )
    }
}

/// A time in the unit that suits it.
fn show_ns(ns: u64) -> String {
    let v = ns as f64;
    match ns {
        0..1_000 => format!("{ns} ns"),
        1_000..1_000_000 => format!("{:.3} µs", v / 1e3),
        1_000_000..1_000_000_000 => format!("{:.3} ms", v / 1e6),
        _ => format!("{:.3} s", v / 1e9),
    }
}
