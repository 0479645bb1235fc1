//! The runtime's own memory profile over a run: from its counts, as they changed, to series of bytes in use by stack. Pure;
//! must not know names, nor what a series says.

use std::collections::{BTreeMap, HashMap};

use crate::analysis::trend::Point;
use crate::heap::estimate::chance;
use crate::record::ProfileCounts;

/// Points that are kept, whatever the records hold.
const MAX_POINTS: usize = 20_000;
/// Stacks that are kept.
const MAX_STACKS: usize = 1 << 18;

/// What is in use of a stack's objects.
#[derive(Clone, Copy, Debug, Default)]
struct InUse {
    bytes: f64,
    variance: f64,
    samples: u64,
}

#[derive(Clone, Debug, Default)]
struct OfStack {
    /// By size of objects: made and freed.
    counts: BTreeMap<u64, (u64, u64)>,
    /// From which point on there was so much.
    history: Vec<(usize, InUse)>,
}

/// The profile of a run.
#[derive(Debug, Default)]
pub struct Profiled {
    /// (Collection, when it was read.)
    points: Vec<(u64, u64)>,
    rate: u64,
    stacks: HashMap<u32, OfStack>,
}

/// What one place has in use.
#[derive(Clone, Debug, Default)]
pub struct Held {
    /// After each collection.
    pub points: Vec<Point>,
    /// Samples that the last of them rests on.
    pub samples: u64,
    /// The stack that grew most.
    pub stack: Option<u32>,
}

impl Profiled {
    /// Takes the counts that changed.
    pub fn take(&mut self, counts: &ProfileCounts) {
        let is_later = self.points.last().is_none_or(|(gc, _)| *gc < counts.gc);
        if !is_later || self.points.len() >= MAX_POINTS {
            return;
        }
        let now = self.points.len();
        self.points.push((counts.gc, counts.ts_ns));
        self.rate = counts.rate;
        for &(stack, size, made, freed) in &counts.changed {
            if self.stacks.len() >= MAX_STACKS && !self.stacks.contains_key(&stack) {
                continue;
            }
            let of = self.stacks.entry(stack).or_default();
            of.counts.insert(size, (made, freed));
            if of.history.last().is_none_or(|(at, _)| *at != now) {
                of.history.push((now, InUse::default()));
            }
        }
        for (stack, ..) in &counts.changed {
            let Some(of) = self.stacks.get_mut(stack) else { continue };
            let sum = in_use(&of.counts, counts.rate);
            if let Some((_, last)) = of.history.last_mut() {
                *last = sum;
            }
        }
    }

    /// Collections that it was read of.
    pub fn len(&self) -> usize {
        self.points.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.points.is_empty()
    }

    /// Bytes allocated per sample.
    pub fn rate(&self) -> u64 {
        self.rate
    }

    /// What each place has in use after each collection; `place` says of which place a stack is, below `places`, `time`
    /// when a collection ended.
    pub fn series(
        &self,
        places: usize,
        place: impl Fn(u32) -> Option<usize>,
        time: impl Fn(u64) -> Option<u64>,
    ) -> Vec<Held> {
        let n = self.points.len();
        let mut sums = vec![vec![InUse::default(); n]; places];
        let mut most: Vec<Option<(f64, u32)>> = vec![None; places];
        for (&stack, of) in &self.stacks {
            let Some(index) = place(stack).filter(|p| *p < places) else { continue };
            let ends = of.history.iter().skip(1).map(|(at, _)| *at).chain([n]);
            for ((from, used), to) in of.history.iter().zip(ends) {
                for sum in &mut sums[index][*from..to] {
                    sum.bytes += used.bytes;
                    sum.variance += used.variance;
                    sum.samples += used.samples;
                }
            }
            let starts_at_zero = of.history.first().is_none_or(|(at, _)| *at > 0);
            let ends = of.history.first().zip(of.history.last());
            let grown = ends.map_or(0.0, |((_, first), (_, last))| {
                last.bytes - if starts_at_zero { 0.0 } else { first.bytes }
            });
            if most[index].is_none_or(|(so_far, _)| grown > so_far) {
                most[index] = Some((grown, stack));
            }
        }
        let held = |(sums, most): (Vec<InUse>, Option<(f64, u32)>)| Held {
            samples: sums.last().map_or(0, |s| s.samples),
            stack: most.map(|(_, stack)| stack),
            points: sums
                .iter()
                .zip(&self.points)
                .map(|(sum, (gc, read))| Point {
                    gc: *gc,
                    time_ns: time(*gc).unwrap_or(*read),
                    bytes: sum.bytes,
                    standard_error: sum.variance.sqrt(),
                })
                .collect(),
        };
        sums.into_iter().zip(most).map(held).collect()
    }
}

/// What the counts of a stack stand for.
fn in_use(counts: &BTreeMap<u64, (u64, u64)>, rate: u64) -> InUse {
    let mut sum = InUse::default();
    for (&size, &(made, freed)) in counts {
        let live = made.saturating_sub(freed);
        let chance = chance(size, rate).max(f64::MIN_POSITIVE);
        let each = size as f64 / chance;
        sum.bytes += live as f64 * each;
        // Each sampled by itself: Horvitz and Thompson.
        sum.variance += live as f64 * (1.0 - chance) * each * each;
        sum.samples += live;
    }
    sum
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counts(gc: u64, changed: &[(u32, u64, u64, u64)]) -> ProfileCounts {
        ProfileCounts { ts_ns: gc * 1000, gc, rate: 1, changed: changed.to_vec() }
    }

    #[test]
    fn what_does_not_change_stays() {
        let mut p = Profiled::default();
        p.take(&counts(3, &[(0, 10, 5, 1), (1, 100, 1, 0)]));
        p.take(&counts(4, &[(0, 10, 9, 1), (0, 20, 1, 0)]));
        p.take(&counts(4, &[(0, 10, 900, 1)]));
        p.take(&counts(7, &[(2, 1, 7, 0)]));
        let series =
            p.series(2, |stack| Some(usize::from(stack == 1)), |gc| (gc == 7).then_some(1));
        let bytes = |held: &Held| held.points.iter().map(|p| p.bytes as u64).collect::<Vec<_>>();
        assert_eq!(bytes(&series[0]), [40, 100, 107]);
        assert_eq!(bytes(&series[1]), [100, 100, 100]);
        assert_eq!(series[0].points.iter().map(|p| p.time_ns).collect::<Vec<_>>(), [3000, 4000, 1]);
        assert_eq!((series[0].stack, series[1].stack, series[0].samples), (Some(0), Some(1), 16));
        assert!(series[0].points.iter().all(|p| p.standard_error.abs() < 1e-9), "all were sampled");
    }

    #[test]
    fn few_samples_are_uncertain() {
        let mut p = Profiled::default();
        let sampled = ProfileCounts { rate: 524_288, ..counts(3, &[(0, 1024, 4, 0)]) };
        p.take(&sampled);
        let held = &p.series(1, |_| Some(0), |_| None)[0];
        let point = held.points[0];
        assert!((point.bytes - 4.0 * 524_800.0).abs() < 5e3, "{point:?}");
        assert!((point.standard_error / point.bytes - 0.5).abs() < 0.01, "{point:?}");
    }
}
