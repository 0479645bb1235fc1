//! Quantiles of the kernel side's log-linear histograms. Must not know what was measured.

use g211s_ebpf::hist::bucket_range;
use serde::Serialize;

use crate::record::SparseHist;

/// A distribution in a few numbers, ns.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Quantiles {
    /// Values.
    pub count: u64,
    /// Their mean.
    pub mean_ns: f64,
    /// Median.
    pub p50_ns: u64,
    /// 90 % are at most this.
    pub p90_ns: u64,
    /// 99 % are at most this.
    pub p99_ns: u64,
    /// 99.9 % are at most this.
    pub p999_ns: u64,
    /// The largest.
    pub max_ns: u64,
    /// Their sum.
    pub total_ns: u64,
}

/// The quantiles of a histogram: each is the middle of its bucket, at most the maximum.
pub fn quantiles(h: &SparseHist) -> Quantiles {
    let at = |q: f64| {
        // 0.99 * 100 is a little more than 99 in binary: not to be rounded up to 100.
        let rank = ((q * h.count as f64 * (1.0 - 1e-12)).ceil() as u64).max(1);
        if rank >= h.count {
            return h.max;
        }
        let mut seen = 0u64;
        for &(bucket, n) in &h.buckets {
            seen = seen.saturating_add(n);
            if seen >= rank {
                let (low, width) = bucket_range(usize::from(bucket));
                let (low, high) = (low.min(h.max), (low + width - 1).min(h.max));
                return low + (high - low) / 2;
            }
        }
        h.max
    };
    Quantiles {
        count: h.count,
        mean_ns: if h.count == 0 { 0.0 } else { h.sum as f64 / h.count as f64 },
        p50_ns: at(0.5),
        p90_ns: at(0.9),
        p99_ns: at(0.99),
        p999_ns: at(0.999),
        max_ns: h.max,
        total_ns: h.sum,
    }
}

/// The histogram of all values of several.
pub fn merge(hs: &[&SparseHist]) -> SparseHist {
    let mut buckets = std::collections::BTreeMap::new();
    let mut all = SparseHist::default();
    for h in hs {
        all.count = all.count.saturating_add(h.count);
        all.sum = all.sum.saturating_add(h.sum);
        all.max = all.max.max(h.max);
        for &(bucket, n) in &h.buckets {
            let sum: &mut u64 = buckets.entry(bucket).or_default();
            *sum = sum.saturating_add(n);
        }
    }
    all.buckets = buckets.into_iter().collect();
    all
}
