//! Statistics on histograms and on pairs of series: plain numbers in, plain numbers out. Must not
//! know what is measured, and never fails on odd input (histograms may come from a hostile file).

mod sampled;
mod tail;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;

use g211s_ebpf::hist::{BUCKETS, bucket_range};
use serde::Serialize;

use crate::record::SparseHist;

pub use sampled::{Seen, sampled_sum_ci};
#[cfg(test)]
pub(super) use tail::Rng;
pub(super) use tail::student_tail;
pub use tail::{MIN_FOR_P99, RatioCi, p99_ratio_ci, quantile_ci};

/// Two-sided 95 % point of the normal distribution.
pub const Z_95: f64 = 1.959_963_984_540_054;

/// A distribution in a few numbers, all in ns.
///
/// The quantiles are nearest-rank: the middle of the bucket that holds the value, so at most
/// 1.6 % from it (the bucket spans 3.2 %), and exact below 64 ns. None exceeds `max_ns`.
/// `count`, `mean_ns`, `max_ns` and `total_ns` are exact.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Quantiles {
    /// Values.
    pub count: u64,
    /// Their mean, ns; 0 where there are none.
    pub mean_ns: f64,
    /// Median, ns.
    pub p50_ns: u64,
    /// 90 % are at most this, ns.
    pub p90_ns: u64,
    /// 99 % are at most this, ns.
    pub p99_ns: u64,
    /// 99.9 % are at most this, ns.
    pub p999_ns: u64,
    /// The largest, ns.
    pub max_ns: u64,
    /// Their sum, ns.
    pub total_ns: u64,
}

/// A histogram made safe: buckets exist, ascend and are not empty.
struct Cells {
    /// (bucket, values up to and including it).
    upto: Vec<(usize, u64)>,
    max: u64,
}

impl Cells {
    fn new(h: &SparseHist) -> Self {
        let mut counts = BTreeMap::<usize, u64>::new();
        for &(bucket, count) in h.buckets.iter().filter(|(_, count)| *count > 0) {
            let sum = counts.entry(usize::from(bucket).min(BUCKETS - 1)).or_default();
            *sum = sum.saturating_add(count);
        }
        let mut total = 0u64;
        let upto = counts.into_iter().map(|(bucket, count)| {
            total = total.saturating_add(count);
            (bucket, total)
        });
        Self { upto: upto.collect(), max: h.max }
    }

    /// Values in buckets. May differ from `SparseHist::count` by the few that arrived while the
    /// kernel's counters were read.
    fn total(&self) -> u64 {
        self.upto.last().map_or(0, |c| c.1)
    }

    /// Lowest and highest value of the bucket that holds the value of this rank (1 = smallest).
    fn bounds(&self, rank: u64) -> (u64, u64) {
        let at = self.upto.partition_point(|c| c.1 < rank);
        let Some(&(bucket, _)) = self.upto.get(at) else { return (self.max, self.max) };
        let (low, width) = bucket_range(bucket);
        // The last bucket has no upper end of its own.
        let high = if bucket == BUCKETS - 1 { self.max } else { low + width - 1 };
        (low.min(self.max), high.min(self.max))
    }

    /// The value of a quantile by nearest rank.
    fn quantile(&self, q: f64) -> u64 {
        let total = self.total();
        let rank = nearest_rank(q, total);
        if rank == total {
            return self.max;
        }
        let (low, high) = self.bounds(rank);
        low + (high - low) / 2
    }

    /// The value below which a share `u` of the values lies, taking those of a bucket as spread
    /// evenly over it.
    fn interpolate(&self, u: f64) -> f64 {
        let rank = u * self.total() as f64;
        let at = self.upto.partition_point(|c| (c.1 as f64) < rank);
        let Some(&(bucket, upto)) = self.upto.get(at) else { return self.max as f64 };
        let below = if at == 0 { 0 } else { self.upto[at - 1].1 };
        let (low, width) = bucket_range(bucket);
        let share = (rank - below as f64) / (upto - below).max(1) as f64;
        (low as f64 + share * width as f64).min(self.max as f64)
    }
}

/// Rank of a quantile: the smallest that leaves a share `q` at or below it.
fn nearest_rank(q: f64, n: u64) -> u64 {
    // 0.99 * 100 is a little more than 99 in binary: not to be rounded up to 100.
    ((q * n as f64 * (1.0 - 1e-12)).ceil() as u64).clamp(1, n.max(1))
}

/// A histogram's quantiles. The buckets are log-linear as `HdrHistogram`'s are, so they are used
/// as they are: another histogram in between would add its own rounding.
pub fn quantiles(h: &SparseHist) -> Quantiles {
    let cells = Cells::new(h);
    if cells.total() == 0 {
        return Quantiles::default();
    }
    Quantiles {
        count: h.count,
        mean_ns: if h.count == 0 { 0.0 } else { h.sum as f64 / h.count as f64 },
        p50_ns: cells.quantile(0.5),
        p90_ns: cells.quantile(0.9),
        p99_ns: cells.quantile(0.99),
        p999_ns: cells.quantile(0.999),
        max_ns: h.max,
        total_ns: h.sum,
    }
}

/// All values of several histograms as one. Sums stop at `u64::MAX`.
pub fn merge(hs: &[&SparseHist]) -> SparseHist {
    let mut buckets = BTreeMap::<u16, u64>::new();
    let mut out = SparseHist::default();
    for h in hs {
        out.count = out.count.saturating_add(h.count);
        out.sum = out.sum.saturating_add(h.sum);
        out.max = out.max.max(h.max);
        for &(bucket, count) in h.buckets.iter().filter(|(_, count)| *count > 0) {
            let sum = buckets.entry(bucket).or_default();
            *sum = sum.saturating_add(count);
        }
    }
    out.buckets = buckets.into_iter().collect();
    out
}

/// Pearson's correlation of two series of the same length. `None` for fewer than 3 pairs, for a
/// series that is constant, and for numbers that are not finite.
pub fn pearson(x: &[f64], y: &[f64]) -> Option<f64> {
    let n = x.len();
    if n != y.len() || n < 3 || is_constant(x) || is_constant(y) {
        return None;
    }
    let mean = |v: &[f64]| v.iter().sum::<f64>() / n as f64;
    let (mx, my) = (mean(x), mean(y));
    let (mut xx, mut yy, mut xy) = (0.0, 0.0, 0.0);
    for (a, b) in x.iter().zip(y) {
        let (dx, dy) = (a - mx, b - my);
        xx += dx * dx;
        yy += dy * dy;
        xy += dx * dy;
    }
    let r = xy / (xx.sqrt() * yy.sqrt());
    r.is_finite().then(|| r.clamp(-1.0, 1.0))
}

/// Spearman's rank correlation: Pearson's of the ranks, ties sharing their average rank. `None`
/// as for [`pearson`].
pub fn spearman(x: &[f64], y: &[f64]) -> Option<f64> {
    if x.iter().chain(y).any(|v| !v.is_finite()) {
        return None;
    }
    pearson(&ranks(x), &ranks(y))
}

/// Ranks from 1, ties sharing their average.
pub(super) fn ranks(v: &[f64]) -> Vec<f64> {
    let mut order: Vec<usize> = (0..v.len()).collect();
    order.sort_unstable_by(|&a, &b| v[a].total_cmp(&v[b]));
    let mut out = vec![0.0; v.len()];
    let mut i = 0;
    // `==` and not `total_cmp` tells ties: 0.0 and -0.0 are one value.
    #[expect(clippy::float_cmp, reason = "a tie is exact")]
    for tied in order.chunk_by(|&a, &b| v[a] == v[b]) {
        let rank = (2 * i + tied.len() + 1) as f64 / 2.0;
        for &at in tied {
            out[at] = rank;
        }
        i += tied.len();
    }
    out
}

/// Whether a series has one value only. Exact, because the rounding of a mean gives a constant
/// series a variance.
#[expect(clippy::float_cmp, reason = "a constant is exact")]
pub(super) fn is_constant(v: &[f64]) -> bool {
    v.windows(2).all(|w| w[0] == w[1])
}

/// 95 % interval of a Pearson correlation of `n` independent pairs, by Fisher's z (R. A. Fisher,
/// "On the probable error of a coefficient of correlation", 1921). `None` for `n` < 4.
pub fn fisher_ci(r: f64, n: usize) -> Option<(f64, f64)> {
    fisher_interval(r, n as f64, Z_95)
}

/// [`fisher_ci`] for an effective sample size and any normal point.
pub(super) fn fisher_interval(r: f64, n: f64, z: f64) -> Option<(f64, f64)> {
    if n.is_nan() || n <= 3.0 || r.is_nan() || r.abs() > 1.0 {
        return None;
    }
    let half = z / (n - 3.0).sqrt();
    // The estimate itself must lie within, whatever tanh(atanh(r)) rounds to.
    Some(((r.atanh() - half).tanh().min(r), (r.atanh() + half).tanh().max(r)))
}

/// How many independent pairs two autocorrelated series are worth: `n (1 - a b) / (1 + a b)` with
/// their lag-1 autocorrelations `a` and `b`; never more than `n`. Exact for first-order
/// autoregressive series (M. S. Bartlett, "Some aspects of the time-correlation problem", 1935);
/// periodic ones are worth less than it says.
pub fn effective_size(x: &[f64], y: &[f64]) -> f64 {
    let n = x.len().min(y.len()) as f64;
    let ab = autocorrelation(x) * autocorrelation(y);
    (n * (1.0 - ab) / (1.0 + ab)).clamp(0.0, n)
}

/// Lag-1 autocorrelation; 0 for a constant series.
fn autocorrelation(v: &[f64]) -> f64 {
    if is_constant(v) {
        return 0.0;
    }
    let mean = v.iter().sum::<f64>() / v.len() as f64;
    let all: f64 = v.iter().map(|a| (a - mean).powi(2)).sum();
    let next: f64 = v.windows(2).map(|w| (w[0] - mean) * (w[1] - mean)).sum();
    let r = next / all;
    if r.is_finite() { r.clamp(-1.0, 1.0) } else { 0.0 }
}
