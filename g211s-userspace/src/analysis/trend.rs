//! Whether the bytes that survive at a place grow for good: a leak, as against a cache that fills and
//! stays, a single step, and load that comes and goes. Plain numbers in, a verdict out. Must not know
//! what allocates, nor how survival was found; never fails on odd input.
//!
//! A series grows if all of these hold (each alone has a kind of healthy series that passes it):
//! - its slope is more than errors that depend on each other can make: [`slope`];
//! - it grows by ranks as well (Mann and Kendall), so that no outlier makes a trend;
//! - it grows in its last part too, and never fell by much: what fills up, steps or swings does not;
//! - it grew by more than the sampling of allocations can make;
//! - what was there before is still there, where that is known: load replaces what it holds.

mod multiple;
mod slope;
#[cfg(test)]
mod tests;

pub use multiple::{benjamini_hochberg, holm};

use slope::{Line, line, median, spread, theil_sen};

/// Fewest points on which anything is said.
pub const MIN_POINTS: usize = 16;
/// Longer series are made so long by the medians of neighbours.
const MAX_POINTS: usize = 120;
/// Mann and Kendall have to agree at this level only: their statistic cannot tell a trend that is a
/// hundred times its errors from one that is five times.
const BY_RANKS: f64 = 0.05;
/// The last part of the series, which is not to be flatter than this share of the whole.
const LAST_PART: f64 = 0.4;
const LAST_SLOPE: f64 = 0.3;
/// Chance that the last part looks to grow that much and does not.
const LAST_LEVEL: f64 = 0.02;
/// The very last part is not to be flatter than this share, beyond what its scatter explains.
const END_PART: f64 = 0.25;
const END_SLOPE: f64 = 0.5;
/// Most of its growth that it may have fallen by meanwhile, beyond what its scatter explains, and that
/// may be in one jump.
const MAX_FALL: f64 = 0.1;
const MAX_JUMP: f64 = 0.6;
/// What began to grow only meanwhile may have varied by this share of its growth before.
const MAX_BEFORE: f64 = 0.15;
/// Growth has to be so many standard errors of the sampling.
const SAMPLING: f64 = 3.0;
/// Of what lived halfway, at least so much has to live at the end.
const MIN_KEPT: f64 = 0.5;

/// The bytes that survived one collection.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Point {
    /// Number of the collection, or its sweep generation: points are put in this order.
    pub gc: u64,
    /// When, ns.
    pub time_ns: u64,
    /// Bytes that survived.
    pub bytes: f64,
    /// Their standard error by sampling; 0 where they are exact.
    pub standard_error: f64,
}

/// How much of what lived in the middle of the series lives at its end.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Kept {
    /// A share, 0 to 1.
    pub share: f64,
    /// Its standard error.
    pub standard_error: f64,
}

impl Kept {
    /// From the bytes of the objects that lived halfway, those of them that died since, and how many
    /// objects they are; of few, the share is drawn towards a half. `None` where there are none.
    pub fn of(lived: f64, died: f64, objects: u64) -> Option<Self> {
        let raw = 1.0 - (died / lived).clamp(0.0, 1.0);
        // Plus two of each kind: all of a few is no certainty (Agresti and Coull, 1998).
        let n = objects as f64 + 4.0;
        let share = (raw * objects as f64 + 2.0) / n;
        (lived > 0.0 && raw.is_finite() && objects > 0)
            .then(|| Self { share, standard_error: (share * (1.0 - share) / n).sqrt() })
    }
}

/// How a series went.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Growth {
    /// Median slope (Theil and Sen), bytes per second.
    pub slope_bytes_per_s: f64,
    /// Its 95 % interval.
    pub interval: (f64, f64),
    /// How probable a slope like that is where nothing grows, its errors depending on each other as
    /// those of the series do. One-sided.
    pub p: f64,
    /// The same by ranks (Mann and Kendall, with the correction of Hamed and Rao).
    pub p_by_ranks: f64,
    /// The point from which on this is meant: later than the first where growth began meanwhile.
    pub from: usize,
}

/// What a series says.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Verdict {
    /// It grows, and did so to the end.
    Growing(Growth),
    /// It does not grow, or not for good.
    NotGrowing {
        /// Why not.
        because: Because,
        /// How it went.
        growth: Growth,
    },
    /// Nothing can be said yet.
    TooShort {
        /// Collections seen.
        points: usize,
        /// How many are needed.
        needed: usize,
    },
}

/// Why a series is not one that grows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Because {
    /// Its changes may be chance.
    NoTrend,
    /// Most of it came at once.
    Step,
    /// It fell meanwhile.
    Falls,
    /// It grew, and does no more.
    Stopped,
    /// It may be the sampling's doing: too few objects were seen.
    TooFewSamples,
    /// It grew, but what it held halfway is gone: objects are replaced by more of them.
    Replaced,
    /// Alone it would grow, but so many places were looked at that one may look so by chance.
    OneOfMany,
}

/// The verdict on one series. `alpha`: how often a healthy one may be taken for one that grows, before
/// the other conditions; 0.001 is a good value.
pub fn verdict(points: &[Point], kept: Option<Kept>, alpha: f64) -> Verdict {
    let points = tidy(points);
    if points.len() < MIN_POINTS {
        return Verdict::TooShort { points: points.len(), needed: MIN_POINTS };
    }
    let whole = look(&points, kept, alpha);
    // It may have begun to grow meanwhile, if it was level before: load that rises was falling.
    let half = points.len() / 2;
    if half < MIN_POINTS || matches!(whole, Verdict::Growing(_)) {
        return whole;
    }
    match look(&points[half..], kept, alpha / 10.0) {
        Verdict::Growing(growth) if is_level(&points[..half], &points[half..], growth) => {
            Verdict::Growing(Growth { from: half, ..growth })
        }
        _ => whole,
    }
}

/// The verdicts on many places at once: at a level of `alpha` for all of them together (Holm).
pub fn verdicts(all: &[(Vec<Point>, Option<Kept>)], alpha: f64) -> Vec<Verdict> {
    let mut verdicts: Vec<Verdict> =
        all.iter().map(|(points, kept)| verdict(points, *kept, alpha)).collect();
    let p = |v: &Verdict| match v {
        Verdict::Growing(g) | Verdict::NotGrowing { growth: g, .. } => Some(g.p),
        Verdict::TooShort { .. } => None,
    };
    let known: Vec<f64> = verdicts.iter().filter_map(p).collect();
    let mut adjusted = holm(&known).into_iter();
    for verdict in &mut verdicts {
        if p(verdict).is_none() {
            continue;
        }
        let beyond = adjusted.next().is_none_or(|p| p > alpha);
        if let Verdict::Growing(growth) = *verdict
            && beyond
        {
            *verdict = Verdict::NotGrowing { because: Because::OneOfMany, growth };
        }
    }
    verdicts
}

/// In order, each collection once, finite.
fn tidy(points: &[Point]) -> Vec<Point> {
    let sane = |p: &&Point| p.bytes.is_finite() && p.standard_error.is_finite();
    let mut points: Vec<Point> = points.iter().filter(sane).copied().collect();
    points.sort_by_key(|p| (p.gc, p.time_ns));
    points.dedup_by(|later, earlier| later.gc == earlier.gc || later.time_ns <= earlier.time_ns);
    points
}

/// Whether a stretch is level, as against how the one after it grew.
fn is_level(before: &[Point], after: &[Point], growth: Growth) -> bool {
    let bytes: Vec<f64> = before.iter().map(|p| p.bytes).collect();
    let each = bytes.len().div_ceil(6);
    let mut blocks = medians(&bytes, each);
    blocks.sort_unstable_by(f64::total_cmp);
    let span = match after {
        [first, .., last] => (last.time_ns - first.time_ns) as f64 / 1e9,
        _ => 0.0,
    };
    let range = blocks.last().zip(blocks.first()).map_or(0.0, |(high, low)| high - low);
    range < MAX_BEFORE * growth.slope_bytes_per_s * span
}

/// The verdict on one stretch.
fn look(points: &[Point], kept: Option<Kept>, alpha: f64) -> Verdict {
    let began = points[0].time_ns;
    let seconds = |p: &Point| (p.time_ns - began) as f64 / 1e9;
    let (mut x, mut y): (Vec<f64>, Vec<f64>) = points.iter().map(|p| (seconds(p), p.bytes)).unzip();
    if x.len() > MAX_POINTS {
        let each = x.len().div_ceil(MAX_POINTS);
        (x, y) = (medians(&x, each), medians(&y, each));
    }
    let fit = line(&x, &y);
    let growth = Growth {
        slope_bytes_per_s: fit.slope,
        interval: fit.interval,
        p: fit.p,
        p_by_ranks: fit.p_by_ranks,
        from: 0,
    };
    match objection(&x, &y, &fit, alpha)
        .or_else(|| sampling(points, kept))
        .or_else(|| replaced(kept))
    {
        Some(because) => Verdict::NotGrowing { because, growth },
        None => Verdict::Growing(growth),
    }
}

/// What speaks against steady growth in the shape of a series.
fn objection(x: &[f64], y: &[f64], fit: &Line, alpha: f64) -> Option<Because> {
    if fit.slope <= 0.0 || fit.p_by_ranks > BY_RANKS {
        return Some(Because::NoTrend);
    }
    let grown = fit.slope * (x[x.len() - 1] - x[0]);
    let noise = noise(y);
    let each = y.len().div_ceil(if y.len() < 36 { 6 } else { 9 });
    let blocks = medians(y, each);
    // Of the difference of two medians (a median's variance is 1.57 times a mean's).
    let between = noise * (2.0 * 1.57 / each as f64).sqrt();
    let jump = blocks.windows(2).map(|w| w[1] - w[0]).fold(0.0, f64::max);
    // The median slope of what fills up early says little of how much that was.
    let rise = blocks.last().zip(blocks.first()).map_or(0.0, |(last, first)| last - first);
    if jump > MAX_JUMP * grown.max(rise) {
        return Some(Because::Step);
    }
    let (mut peak, mut fall) = (f64::NEG_INFINITY, 0.0_f64);
    for block in &blocks {
        peak = peak.max(*block);
        fall = fall.max(peak - block);
    }
    if fall > MAX_FALL * grown + 2.0 * between {
        return Some(Because::Falls);
    }
    let part = |share: f64| {
        let from = (x.len() as f64 * (1.0 - share)) as usize;
        (&x[from..], &y[from..])
    };
    let (last_x, last_y) = part(LAST_PART);
    let last = line(last_x, last_y);
    if last.slope < LAST_SLOPE * fit.slope || last.p_alone > LAST_LEVEL {
        return Some(Because::Stopped);
    }
    let (end_x, end_y) = part(END_PART);
    if theil_sen(end_x, end_y) + 2.0 * noise / spread(end_x).sqrt() < END_SLOPE * fit.slope {
        return Some(Because::Stopped);
    }
    (fit.p > alpha).then_some(Because::NoTrend)
}

/// Whether the objects that were seen are too few. What stays has the same error at both ends.
fn sampling(points: &[Point], kept: Option<Kept>) -> Option<Because> {
    let third = points.len() / 3;
    let of = |points: &[Point], f: fn(&Point) -> f64| {
        median(&mut points.iter().map(f).collect::<Vec<f64>>())
    };
    let (first, last) = (&points[..third], &points[points.len() - third..]);
    let grown = of(last, |p| p.bytes) - of(first, |p| p.bytes);
    let (before, after) =
        (of(first, |p| p.standard_error.powi(2)), of(last, |p| p.standard_error.powi(2)));
    let share = kept.map_or(0.5, |k| k.share.clamp(0.0, 1.0));
    let error = (after + (1.0 - 2.0 * share) * before).max(0.0).sqrt();
    (grown < SAMPLING * error).then_some(Because::TooFewSamples)
}

fn replaced(kept: Option<Kept>) -> Option<Because> {
    let kept = kept?;
    (kept.share + 2.0 * kept.standard_error < MIN_KEPT).then_some(Because::Replaced)
}

/// Scatter from one point to the next, whatever the slow changes (J. von Neumann and others, "The mean
/// square successive difference", 1941).
fn noise(y: &[f64]) -> f64 {
    let steps: Vec<f64> = y.windows(2).map(|w| w[1] - w[0]).collect();
    let n = steps.len() as f64;
    let mean = steps.iter().sum::<f64>() / n;
    (steps.iter().map(|d| (d - mean).powi(2)).sum::<f64>() / (2.0 * (n - 1.0).max(1.0))).sqrt()
}

/// Medians of so many neighbours at a time.
fn medians(values: &[f64], each: usize) -> Vec<f64> {
    values.chunks(each.max(1)).map(|c| median(&mut c.to_vec())).collect()
}
