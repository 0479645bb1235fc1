//! The Go runtime's `timeHistogram`: its buckets, the counts of one, differences and quantiles.
//! Pure arithmetic, total on any input. Must not know where the bytes come from.
//!
//! Layout and bucketing from Go `runtime/histogram.go`, the same from Go 1.21 to 1.27 (sources
//! compared): 40 powers of two, each in 4 equal parts. The first is `[0, 256)` ns, so its parts are
//! 64 ns wide; the b-th after it is `[2^(7+b), 2^(8+b))` ns, so a part's end is at most a quarter
//! above its beginning. Two further counters take negative lengths and those of 2^47 ns and more.

use serde::{Deserialize, Serialize};

/// `timeHistMinBucketBits`.
const MIN_BITS: u32 = 9;
/// `timeHistSubBucketBits`.
const SUB_BITS: u32 = 2;
/// `timeHistNumSubBuckets`.
const SUBS: usize = 1 << SUB_BITS;
/// Buckets: `timeHistNumBuckets * timeHistNumSubBuckets`, with
/// `timeHistNumBuckets = timeHistMaxBucketBits (48) - timeHistMinBucketBits (9) + 1`.
pub const BUCKETS: usize = 40 * SUBS;
/// Bytes of a `timeHistogram`: the buckets, `underflow` and `overflow`, 8 bytes each.
pub const BYTES: usize = (BUCKETS + 2) * 8;

/// The bucket of a length, as `(*timeHistogram).record` chooses it; `None`: overflow.
pub fn bucket_of(ns: u64) -> Option<usize> {
    let len = u64::BITS - ns.leading_zeros();
    let power = (len + 1).saturating_sub(MIN_BITS);
    let sub = ns >> (len.max(MIN_BITS) - 1 - SUB_BITS);
    let at = power as usize * SUBS + sub as usize % SUBS;
    (at < BUCKETS).then_some(at)
}

/// Lengths in a bucket: from (inclusive), to (exclusive), ns. Buckets beyond the last: overflow.
pub fn bucket_range(bucket: usize) -> (u64, u64) {
    let low = |at: usize| -> u64 {
        let (bucket, sub) = ((at / SUBS) as u32, (at % SUBS) as u64);
        match bucket {
            0 => sub << (MIN_BITS - 1 - SUB_BITS),
            b => (SUBS as u64 + sub) << (MIN_BITS + b - 2 - SUB_BITS),
        }
    };
    match bucket {
        0..BUCKETS => (low(bucket), low(bucket + 1)),
        _ => (low(BUCKETS), u64::MAX),
    }
}

/// A `timeHistogram`'s counts. Comes from recordings as well, so nothing of it is believed.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TimeHist {
    /// (bucket, values), ascending, no zeros.
    pub buckets: Vec<(u16, u64)>,
    /// Negative lengths.
    pub underflow: u64,
    /// Lengths of 2^47 ns and more.
    pub overflow: u64,
}

impl TimeHist {
    /// From its bytes in a target's memory (little-endian); `None` if they are not [`BYTES`] many.
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        if bytes.len() != BYTES {
            return None;
        }
        let (words, _) = bytes.as_chunks::<8>();
        let mut counts = words.iter().map(|w| u64::from_le_bytes(*w));
        let buckets = counts.by_ref().take(BUCKETS).zip(0u16..).filter(|(n, _)| *n > 0);
        let buckets = buckets.map(|(n, at)| (at, n)).collect();
        Some(Self { buckets, underflow: counts.next()?, overflow: counts.next()? })
    }

    /// Of single lengths.
    pub fn of_values(values: impl IntoIterator<Item = u64>) -> Self {
        let mut counts = [0; BUCKETS];
        let mut overflow = 0;
        for ns in values {
            *bucket_of(ns).map_or(&mut overflow, |at| &mut counts[at]) += 1;
        }
        Self::of_counts(&counts, 0, overflow)
    }

    fn of_counts(counts: &[u64; BUCKETS], underflow: u64, overflow: u64) -> Self {
        let buckets = (0u16..).zip(counts).filter(|(_, n)| **n > 0).map(|(at, n)| (at, *n));
        Self { buckets: buckets.collect(), underflow, overflow }
    }

    /// Counts by bucket; buckets that do not exist are left out.
    pub fn counts(&self) -> [u64; BUCKETS] {
        let mut counts = [0u64; BUCKETS];
        for &(at, n) in &self.buckets {
            if let Some(count) = counts.get_mut(usize::from(at)) {
                *count = count.saturating_add(n);
            }
        }
        counts
    }

    /// All values, under- and overflow included.
    pub fn count(&self) -> u64 {
        let all = self.buckets.iter().map(|b| b.1).chain([self.underflow, self.overflow]);
        all.fold(0, u64::saturating_add)
    }

    /// What came in since `before`. `None` if a count went down: then these are not two readings of
    /// one histogram.
    pub fn since(&self, before: &Self) -> Option<Self> {
        let (now, then) = (self.counts(), before.counts());
        let mut counts = [0; BUCKETS];
        for (count, (now, then)) in counts.iter_mut().zip(now.iter().zip(&then)) {
            *count = now.checked_sub(*then)?;
        }
        let underflow = self.underflow.checked_sub(before.underflow)?;
        Some(Self::of_counts(&counts, underflow, self.overflow.checked_sub(before.overflow)?))
    }

    /// Least and greatest sum that the values can have, ns. Negative ones count as 0.
    pub fn sum_bounds(&self) -> (u64, u64) {
        let mut sum = (0u64, 0u64);
        let overflow = (BUCKETS as u16, self.overflow);
        for (at, n) in self.buckets.iter().copied().chain([overflow]).filter(|(_, n)| *n > 0) {
            let (low, end) = bucket_range(usize::from(at));
            sum.0 = sum.0.saturating_add(low.saturating_mul(n));
            sum.1 = sum.1.saturating_add((end - 1).saturating_mul(n));
        }
        sum
    }

    /// The bucket that holds a quantile (nearest rank): its greatest length, ns. So the value is at
    /// most this, and at least four fifths of it from 256 ns on. `None` of nothing.
    pub fn at_most(&self, q: f64) -> Option<u64> {
        let total = self.count();
        if total == 0 {
            return None;
        }
        // 0.99 * 100 is a little more than 99 in binary: not to be rounded up to 100.
        let rank = (q * total as f64 * (1.0 - 1e-12)).ceil().clamp(1.0, total as f64) as u64;
        let mut upto = self.underflow;
        if rank <= upto {
            return Some(0);
        }
        for (at, n) in self.counts().iter().enumerate() {
            upto = upto.saturating_add(*n);
            if rank <= upto {
                return Some(bucket_range(at).1 - 1);
            }
        }
        Some(u64::MAX)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// `(*timeHistogram).record` and `timeHistogramMetricsBuckets` line by line, as Go has them.
    fn go_record(duration: u64) -> Option<usize> {
        let len64 = u64::BITS - duration.leading_zeros();
        let (bucket_bit, bucket) =
            if len64 < 9 { (9, 0) } else { (len64, (len64 - 9 + 1) as usize) };
        if bucket >= 40 {
            return None;
        }
        Some(bucket * 4 + (duration >> (bucket_bit - 1 - 2)) as usize % 4)
    }

    fn go_bounds() -> Vec<u64> {
        let mut b: Vec<u64> = (0..4).map(|j| j << (9 - 1 - 2)).collect();
        for i in 9..48 {
            for j in 0..4u64 {
                b.push((1 << (i - 1)) | (j << (i - 1 - 2)));
            }
        }
        b.push(1 << 47);
        b
    }

    #[test]
    fn buckets_are_the_runtimes() {
        let bounds = go_bounds();
        assert_eq!(bounds.len(), BUCKETS + 1);
        for at in 0..BUCKETS {
            assert_eq!(bucket_range(at), (bounds[at], bounds[at + 1]), "bucket {at}");
            assert_eq!(bucket_of(bounds[at]), Some(at));
            assert_eq!(bucket_of(bounds[at + 1] - 1), Some(at));
        }
        assert_eq!((bucket_of(1 << 47), bucket_of(u64::MAX)), (None, None));
    }

    #[test]
    fn bytes_differences_and_quantiles() {
        let mut bytes = vec![0u8; BYTES];
        bytes[8 * 20..8 * 20 + 8].copy_from_slice(&7u64.to_le_bytes());
        bytes[8 * 160..8 * 160 + 8].copy_from_slice(&1u64.to_le_bytes());
        bytes[8 * 161..].copy_from_slice(&2u64.to_le_bytes());
        let h = TimeHist::from_bytes(&bytes).unwrap();
        assert_eq!(h, TimeHist { buckets: vec![(20, 7)], underflow: 1, overflow: 2 });
        assert_eq!(h.count(), 10);
        assert_eq!(TimeHist::from_bytes(&bytes[1..]), None);

        let before = TimeHist { buckets: vec![(20, 5)], underflow: 1, overflow: 0 };
        let delta = h.since(&before).unwrap();
        assert_eq!(delta, TimeHist { buckets: vec![(20, 2)], underflow: 0, overflow: 2 });
        assert_eq!(before.since(&h), None, "counts never go down");

        let h = TimeHist::of_values((1..=100).map(|i| i * 10_000));
        let p99 = h.at_most(0.99).unwrap();
        assert!((990_000..990_000 * 5 / 4).contains(&p99), "{p99}");
        let (low, high) = h.sum_bounds();
        assert!(low <= 50_500_000 && 50_500_000 <= high);
        assert_eq!(TimeHist::default().at_most(0.5), None);
    }

    #[test]
    fn odd_input_is_harmless() {
        let odd = TimeHist {
            buckets: vec![(9999, 3), (5, u64::MAX), (5, u64::MAX)],
            underflow: u64::MAX,
            overflow: u64::MAX,
        };
        assert_eq!(odd.count(), u64::MAX);
        assert!(odd.at_most(1.0).is_some());
        assert_eq!(odd.sum_bounds().1, u64::MAX);
        assert_eq!(odd.since(&odd).map(|d| d.count()), Some(0));
    }

    proptest! {
        #[test]
        fn every_length_has_the_runtimes_bucket(bits in 0u32..64, low in any::<u64>()) {
            let ns = low >> bits;
            prop_assert_eq!(bucket_of(ns), go_record(ns));
            if let Some(at) = bucket_of(ns) {
                let (from, to) = bucket_range(at);
                prop_assert!(from <= ns && ns < to);
            }
        }
    }
}
