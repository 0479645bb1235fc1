//! Distributions of times as they are kept and shown: the kernel side's own buckets, and from them the classic ones
//! and those of native (exponential) histograms. Must not know what was measured.

use std::collections::BTreeMap;

use g211s_ebpf::hist::{bucket_of, bucket_range};

use crate::record::SparseHist;
use crate::runtime::histogram::{TimeHist, bucket_range as go_bucket_range};

/// Edges of the classic buckets, as powers of two of ns: 4 µs to 17 s, each four times the one before. They are
/// edges of the kernel side's and of the Go runtime's buckets too, so that nothing is counted on the wrong side.
const EDGES: std::ops::RangeInclusive<u32> = 12..=34;
const EDGE_STEP: usize = 2;
/// Eight native buckets to a power of two: each 9 % wide.
pub const SCHEMA: i32 = 3;

/// A distribution.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Histogram {
    /// By the kernel side's number of the bucket.
    buckets: BTreeMap<u16, u64>,
    /// Values.
    pub count: u64,
    /// Their sum, ns.
    pub sum_ns: u64,
}

/// A native histogram's filled buckets: the index of each (`2^(i / 2^SCHEMA)` s is its upper edge) and its values.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Native {
    /// Values of 0.
    pub zero: u64,
    /// Ascending.
    pub buckets: Vec<(i32, u64)>,
}

impl Histogram {
    /// Adds a value, ns.
    pub fn add(&mut self, ns: u64) {
        *self.buckets.entry(bucket_of(ns) as u16).or_default() += 1;
        self.count += 1;
        self.sum_ns = self.sum_ns.saturating_add(ns);
    }

    /// Adds what came in between two readings of one of the kernel side's.
    pub fn add_since(&mut self, now: &SparseHist, before: Option<&SparseHist>) {
        let then: BTreeMap<u16, u64> =
            before.map(|b| b.buckets.iter().copied().collect()).unwrap_or_default();
        for &(bucket, n) in &now.buckets {
            let new = n.saturating_sub(then.get(&bucket).copied().unwrap_or(0));
            if new > 0 {
                *self.buckets.entry(bucket).or_default() += new;
                self.count += new;
            }
        }
        let sum = now.sum.saturating_sub(before.map_or(0, |b| b.sum));
        self.sum_ns = self.sum_ns.saturating_add(sum);
    }

    /// Adds what came into one of the Go runtime's, which keep no sum: the middles of its buckets make one.
    pub fn add_go(&mut self, new: &TimeHist) {
        for &(at, n) in &new.buckets {
            let (low, end) = go_bucket_range(usize::from(at));
            let middle = low.midpoint(end - 1);
            *self.buckets.entry(bucket_of(middle) as u16).or_default() += n;
            self.count += n;
            self.sum_ns = self.sum_ns.saturating_add(middle.saturating_mul(n));
        }
    }

    /// Adds another.
    pub fn merge(&mut self, other: &Self) {
        for (&bucket, &n) in &other.buckets {
            *self.buckets.entry(bucket).or_default() += n;
        }
        self.count += other.count;
        self.sum_ns = self.sum_ns.saturating_add(other.sum_ns);
    }

    /// The classic buckets: upper edges in seconds, and how many values are below each; the last edge is infinite.
    /// (Values are whole nanoseconds: one of exactly an edge counts as above it.)
    pub fn classic(&self) -> Vec<(f64, u64)> {
        let mut filled = self.buckets.iter().peekable();
        let mut below = 0;
        let mut all = Vec::new();
        for edge in EDGES.step_by(EDGE_STEP) {
            while let Some((_, n)) =
                filled.next_if(|(bucket, _)| bucket_range(usize::from(**bucket)).0 < 1 << edge)
            {
                below += n;
            }
            all.push(((1u64 << edge) as f64 / 1e9, below));
        }
        all.push((f64::INFINITY, self.count));
        all
    }

    /// The native buckets. A value is put where the middle of its bucket here belongs, which is at most 1.6 % off.
    pub fn native(&self) -> Native {
        let mut native = Native::default();
        let mut buckets: BTreeMap<i32, u64> = BTreeMap::new();
        for (&bucket, &n) in &self.buckets {
            let (low, width) = bucket_range(usize::from(bucket));
            let middle = low as f64 + (width - 1) as f64 / 2.0;
            if middle == 0.0 {
                native.zero += n;
                continue;
            }
            let index = ((middle / 1e9).log2() * f64::from(1 << SCHEMA)).ceil() as i32;
            *buckets.entry(index).or_default() += n;
        }
        native.buckets = buckets.into_iter().collect();
        native
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn edges_are_those_of_the_sources() {
        for edge in EDGES.step_by(EDGE_STEP) {
            assert_eq!(bucket_range(bucket_of(1 << edge)).0, 1 << edge);
            let go = crate::runtime::histogram::bucket_of(1 << edge).expect("not beyond");
            assert_eq!(go_bucket_range(go).0, 1 << edge);
        }
    }

    proptest! {
        #[test]
        fn every_value_is_in_its_bucket(values in prop::collection::vec(0u64..40_000_000_000, 0..200)) {
            let mut h = Histogram::default();
            for v in &values {
                h.add(*v);
            }
            for (edge, below) in h.classic() {
                let truth = values.iter().filter(|v| (**v as f64) < (edge * 1e9).round()).count();
                prop_assert_eq!(below, truth as u64, "below {}", edge);
            }
            let native = h.native();
            let sum: u64 = native.zero + native.buckets.iter().map(|b| b.1).sum::<u64>();
            prop_assert_eq!(sum, values.len() as u64);
            prop_assert!(native.buckets.windows(2).all(|w| w[0].0 < w[1].0));
            for v in values.iter().filter(|v| **v > 0) {
                let seconds = *v as f64 / 1e9;
                let fits = native.buckets.iter().any(|&(i, _)| {
                    let edge = |i: i32| (f64::from(i) / 8.0).exp2();
                    seconds > edge(i - 1) / 1.033 && seconds <= edge(i) * 1.033
                });
                prop_assert!(fits, "{v}");
            }
        }

        #[test]
        fn differences_add_up(a in prop::collection::vec(0u64..1_000_000_000, 0..100),
                              b in prop::collection::vec(0u64..1_000_000_000, 0..100)) {
            let sparse = |values: &[u64]| {
                let mut h = Histogram::default();
                for v in values {
                    h.add(*v);
                }
                let buckets = h.buckets.iter().map(|(b, n)| (*b, *n)).collect();
                SparseHist { count: h.count, sum: h.sum_ns, max: 0, buckets }
            };
            let (first, both) = (sparse(&a), sparse(&[a.clone(), b.clone()].concat()));
            let mut h = Histogram::default();
            h.add_since(&first, None);
            h.add_since(&both, Some(&first));
            let mut all = Histogram::default();
            a.iter().chain(&b).for_each(|v| all.add(*v));
            prop_assert_eq!(h, all);
        }
    }
}
