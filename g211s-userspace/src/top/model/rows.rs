//! Lengths of time as the rows of a heat map. Must not know what was so long, nor how a row is drawn.

use g211s_ebpf::hist::{BUCKETS, bucket_range};

use crate::record::SparseHist;

/// Rows of the finest map.
pub(crate) const ROWS: usize = 13;

/// Where each row begins, ns; the last has no end.
pub(crate) const BOUNDS: [u64; ROWS] = [
    0,
    3_000,
    10_000,
    30_000,
    100_000,
    300_000,
    1_000_000,
    3_000_000,
    10_000_000,
    30_000_000,
    100_000_000,
    300_000_000,
    1_000_000_000,
];

/// Counts by row.
pub(crate) type Counts = [u32; ROWS];

/// The row of a length.
pub(crate) fn row(ns: u64) -> usize {
    BOUNDS.partition_point(|bound| *bound <= ns).saturating_sub(1)
}

/// Adds to one row.
pub(crate) fn count(counts: &mut Counts, ns: u64, n: u64) {
    let cell = &mut counts[row(ns)];
    *cell = cell.saturating_add(u32::try_from(n).unwrap_or(u32::MAX));
}

/// What one histogram has beyond an earlier reading of it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Beyond {
    /// By row.
    pub(crate) counts: Counts,
    /// The middle of the highest bucket that grew, ns: at most 1.6 % off.
    pub(crate) longest_ns: u64,
}

/// Adds what `now` has beyond `before`. A histogram that shrank is another one: all of it is new.
pub(crate) fn beyond(before: Option<&SparseHist>, now: &SparseHist, sum: &mut Beyond) {
    let before = before.filter(|b| b.count <= now.count);
    let mut old = before.map_or(&[][..], |b| &b.buckets).iter().peekable();
    for &(bucket, n) in now.buckets.iter().filter(|(b, _)| usize::from(*b) < BUCKETS) {
        while old.peek().is_some_and(|(b, _)| *b < bucket) {
            old.next();
        }
        let had = old.peek().filter(|(b, _)| *b == bucket).map_or(0, |(_, n)| *n);
        let more = n.saturating_sub(had);
        if more > 0 {
            let (low, width) = bucket_range(usize::from(bucket));
            let middle = low.saturating_add(width / 2);
            count(&mut sum.counts, middle, more);
            sum.longest_ns = sum.longest_ns.max(middle);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_begin_where_their_bounds_say() {
        for (n, &bound) in BOUNDS.iter().enumerate() {
            assert_eq!(row(bound), n);
            assert!(bound == 0 || row(bound - 1) + 1 == n);
        }
        assert_eq!(row(u64::MAX), ROWS - 1);
    }

    #[test]
    fn only_what_is_new_counts() {
        let hist = |buckets: &[(u16, u64)]| SparseHist {
            count: buckets.iter().map(|(_, n)| n).sum(),
            buckets: buckets.to_vec(),
            ..SparseHist::default()
        };
        let before = hist(&[(5, 3), (400, 1)]);
        let now = hist(&[(5, 3), (31, 2), (400, 4), (u16::MAX, 9)]);
        let mut sum = Beyond::default();
        beyond(Some(&before), &now, &mut sum);
        let middle = bucket_range(400).0 + bucket_range(400).1 / 2;
        assert_eq!((sum.counts[0], sum.counts[row(middle)], sum.longest_ns), (2, 3, middle));
        // Cleared between the two, as a place that another process has got.
        let mut sum = Beyond::default();
        beyond(Some(&now), &before, &mut sum);
        assert_eq!(sum.counts.iter().sum::<u32>(), 4);
    }
}
