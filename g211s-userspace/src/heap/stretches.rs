//! A run cut into stretches in which probes were attached (looks) or not (rests), with what the runtime itself counted
//! in each. Must not know samples, nor what is concluded.

use std::collections::BTreeMap;

use crate::allocs::totals::CLASS_SIZES;
use crate::record::{AllocState, AllocTotals};

/// Looks that are told apart; where there are more, neighbours go together.
pub const MAX_LOOKS: u32 = 64;
/// Moments that are kept, whatever the records hold.
const MAX_MOMENTS: usize = 1 << 16;

/// A moment of a run.
#[derive(Clone, Debug)]
struct Moment {
    ts_ns: u64,
    resting: bool,
    looks: u32,
    sweepgen: Option<u32>,
    totals: Option<AllocTotals>,
}

/// What ages are counted by: what was allocated since, in parts of what is allocated from one collection to the next. What
/// lives for a while lives for so many requests, say, and so for so much allocated; of collections there may be many
/// while the heap is small, and fewer later.
///
/// An age is 0 until a collection has judged the object, and at least 1 then.
#[derive(Clone, Debug, Default)]
pub struct Clock {
    /// `mheap_.sweepgen` since the first, and how much was allocated by then; none: collections count themselves.
    points: Vec<(f64, f64)>,
    first: u32,
}

/// Ages of so many are what is allocated from one collection to the next.
const A_CYCLE: f64 = 4.0;

impl Clock {
    fn at(&self, generation: u32) -> f64 {
        let passed = f64::from(generation.wrapping_sub(self.first) as i32);
        let after = self.points.partition_point(|(at, _)| *at < passed);
        let pair = match self.points.get(after.saturating_sub(1)..=after) {
            Some([a, b]) => Some((a, b)),
            // Before the first or behind the last: as between their neighbours.
            _ if after == 0 => self.points.first().zip(self.points.get(1)),
            _ => self.points.iter().rev().nth(1).zip(self.points.last()),
        };
        let Some(((from, x), (to, y))) = pair else { return passed / 2.0 };
        if to > from { x + (y - x) * (passed - from) / (to - from) } else { *y }
    }

    /// The age in generation `at` of what was made in generation `born`, while the collector marked or not: what is made
    /// then is not judged by that collection.
    pub fn age(&self, born: u32, in_mark: bool, at: u32) -> u32 {
        let judged = born.wrapping_add(if in_mark { 4 } else { 2 });
        if at.wrapping_sub(judged) > u32::MAX / 2 {
            return 0;
        }
        let passed = (self.at(at) - self.at(judged)).max(0.0).round();
        1 + (passed.min(f64::from(1 << 24)) as u32)
    }
}

/// The moments of a run, as they come.
#[derive(Clone, Debug, Default)]
pub struct Moments {
    all: Vec<Moment>,
    marks: Vec<(u64, u64)>,
}

/// A part of a run.
#[derive(Clone, Debug, PartialEq)]
pub struct Stretch {
    /// When, ns.
    pub from_ns: u64,
    /// See `from_ns`.
    pub to_ns: u64,
    /// The look that it is a part of; `None` of a rest.
    pub look: Option<usize>,
    /// The last look that began by then, and the first that ended later: the same for a part of a look.
    pub between: (usize, usize),
    /// `mheap_.sweepgen` at both ends.
    pub generations: (u32, u32),
    /// What the runtime counted in it, by size class: objects, of large ones (class 0) bytes; `None` where it could not be
    /// read.
    pub made: Option<BTreeMap<u8, f64>>,
}

impl Moments {
    /// Takes the next.
    pub fn push(&mut self, state: &AllocState) {
        for &(from, to) in &state.marks {
            let follows = self.marks.last().is_none_or(|(_, end)| from >= *end && to >= from);
            if follows && self.marks.len() < MAX_MOMENTS {
                self.marks.push((from, to));
            }
        }
        if self.all.len() < MAX_MOMENTS {
            self.all.push(Moment {
                ts_ns: state.ts_ns,
                resting: matches!(state.plan.as_str(), "resting" | "off"),
                looks: state.looks,
                sweepgen: state.sweepgen,
                totals: state.totals.clone(),
            });
        }
    }

    /// When the collector marked in cycles that were seen, ns.
    pub fn marks(&self) -> &[(u64, u64)] {
        &self.marks
    }

    /// Whether it did so at that time.
    pub fn is_marking(&self, ts_ns: u64) -> bool {
        let begun = self.marks.partition_point(|(from, _)| *from <= ts_ns);
        let mark = begun.checked_sub(1).and_then(|n| self.marks.get(n));
        mark.is_some_and(|(_, to)| ts_ns <= *to)
    }

    /// What ages are counted by.
    pub fn clock(&self) -> Clock {
        let first = self.all.iter().find_map(|m| m.sweepgen).unwrap_or(0);
        let mut points: Vec<(f64, f64)> = Vec::new();
        for m in &self.all {
            let (Some(generation), Some(totals)) = (m.sweepgen, &m.totals) else { continue };
            let small = totals.small.iter().map(|(class, n)| {
                *n as f64 * CLASS_SIZES.get(usize::from(*class)).copied().unwrap_or(0) as f64
            });
            let bytes = small.sum::<f64>() + totals.large_bytes as f64;
            let passed = f64::from(generation.wrapping_sub(first) as i32);
            match points.last_mut() {
                Some((at, known)) if *at >= passed => *known = known.max(bytes),
                _ => points.push((passed, bytes)),
            }
        }
        // By the later half, which is more like what comes to an end then.
        let later = points.get(points.len() / 2).or(points.first());
        let a_cycle =
            later.zip(points.last()).map(|((from, x), (to, y))| 2.0 * (y - x) / (to - from));
        match a_cycle.filter(|bytes| bytes.is_finite() && *bytes > 0.0) {
            Some(bytes) if points.len() >= 2 => {
                points.iter_mut().for_each(|(_, at)| *at *= A_CYCLE / bytes);
                Clock { points, first }
            }
            _ => Clock { points: Vec::new(), first },
        }
    }

    /// Looks that are told apart.
    pub fn looks(&self) -> usize {
        self.all.last().map_or(0, |m| m.looks.min(MAX_LOOKS)) as usize
    }

    /// Which of them a stay of the probes is, counted from 0.
    pub fn look(&self, stay: u32) -> usize {
        let all = self.all.last().map_or(0, |m| m.looks).max(1);
        let stay = stay.min(all - 1);
        if all <= MAX_LOOKS {
            return stay as usize;
        }
        (u64::from(stay) * u64::from(MAX_LOOKS) / u64::from(all)) as usize
    }

    /// The stretches between the moments. `generation`: `mheap_.sweepgen` at the end, which stands in where none could be
    /// read.
    pub fn stretches(&self, generation: u32) -> Vec<Stretch> {
        let mut known = self.all.iter().find_map(|m| m.sweepgen).unwrap_or(generation);
        let last = self.looks().saturating_sub(1);
        let mut all = Vec::new();
        for pair in self.all.windows(2) {
            let [a, b] = pair else { continue };
            let from = a.sweepgen.unwrap_or(known);
            known = b.sweepgen.unwrap_or(from);
            let look = self.look(a.looks.saturating_sub(1));
            let between = if a.resting {
                (look, if a.looks == 0 { 0 } else { self.look(a.looks).min(last) })
            } else {
                (look, look)
            };
            all.push(Stretch {
                from_ns: a.ts_ns,
                to_ns: b.ts_ns.max(a.ts_ns),
                look: (!a.resting && a.looks > 0).then_some(look),
                between,
                generations: (from, known),
                made: a.totals.as_ref().zip(b.totals.as_ref()).map(|(a, b)| made(a, b)),
            });
        }
        all
    }
}

fn made(a: &AllocTotals, b: &AllocTotals) -> BTreeMap<u8, f64> {
    let more = |(class, n): (&u8, &u64)| {
        let n = n.saturating_sub(a.small.get(class).copied().unwrap_or(0));
        (*class > 0 && n > 0).then_some((*class, n as f64))
    };
    let mut all: BTreeMap<u8, f64> = b.small.iter().filter_map(more).collect();
    let large = b.large_bytes.saturating_sub(a.large_bytes);
    if large > 0 {
        all.insert(0, large as f64);
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    fn state(ts_ns: u64, plan: &str, looks: u32, n: u64) -> AllocState {
        let totals = AllocTotals {
            small: [(5, n), (9, 7)].into(),
            large_bytes: 10 * n,
            ..AllocTotals::default()
        };
        let plan = plan.to_owned();
        let sweepgen = Some(2 * ts_ns as u32);
        AllocState { ts_ns, plan, looks, sweepgen, totals: Some(totals), ..AllocState::default() }
    }

    #[test]
    fn a_run_is_cut_where_probes_come_and_go() {
        let mut m = Moments::default();
        for s in [
            state(10, "refill", 1, 0),
            state(20, "resting", 1, 5),
            state(30, "resting", 1, 6),
            state(40, "refill", 2, 8),
            state(50, "resting", 2, 9),
            state(60, "resting", 2, 20),
        ] {
            m.push(&s);
        }
        let all = m.stretches(0);
        let looks: Vec<_> = all.iter().map(|s| (s.look, s.between)).collect();
        assert_eq!(
            looks,
            [(Some(0), (0, 0)), (None, (0, 1)), (None, (0, 1)), (Some(1), (1, 1)), (None, (1, 1))]
        );
        assert_eq!(all[0].made, Some([(5, 5.0), (0, 50.0)].into()));
        assert_eq!(
            (all[4].generations, all[4].made.as_ref().map(|m| m[&5])),
            ((100, 120), Some(11.0))
        );
    }

    #[test]
    fn what_could_not_be_read_is_no_nought() {
        let mut m = Moments::default();
        m.push(&state(1, "refill", 1, 0));
        m.push(&AllocState { totals: None, sweepgen: None, ..state(2, "resting", 1, 0) });
        m.push(&state(3, "resting", 1, 4));
        let all = m.stretches(99);
        assert_eq!((all[0].made.clone(), all[1].made.clone()), (None, None));
        assert_eq!((all[0].generations, all[1].generations), ((2, 2), (2, 6)));
        assert_eq!(Moments::default().stretches(0), []);
    }

    #[test]
    fn ages_are_what_was_allocated_since() {
        let by_cycles = Clock::default();
        let ages =
            [(4, 4), (4, 6), (4, 8), (4, 24)].map(|(born, at)| by_cycles.age(born, false, at));
        assert_eq!(ages, [0, 1, 2, 10]);
        assert_eq!([6, 8, 10].map(|at| by_cycles.age(4, true, at)), [0, 1, 2]);
        // Twenty collections in the first second, and two in each later one, which allocate as much.
        let mut m = Moments::default();
        for (n, generation) in [(0, 100), (1, 140), (2, 144), (3, 148), (4, 152)] {
            m.push(&AllocState {
                sweepgen: Some(generation),
                ..state(n, "refill", 1, n * 1_000_000)
            });
        }
        let clock = m.clock();
        // Of what was made at the start of a second, as of the end of the next.
        assert_eq!(clock.age(142, false, 148), 1 + 8);
        assert_eq!(clock.age(98, false, 140), 1 + 8);
        assert_eq!(clock.age(98, false, 142), 1 + 12);
        assert_eq!((clock.age(152, false, 156), clock.age(90, false, 94)), (5, 1));
        assert_eq!(clock.age(u32::MAX - 1, false, 2), 1);
    }

    #[test]
    fn marking_is_found_by_time() {
        let mut m = Moments::default();
        for marks in [vec![(10, 20), (30, 40)], vec![(35, 50), (60, 70)]] {
            m.push(&AllocState { marks, ..state(0, "refill", 1, 0) });
        }
        assert_eq!(
            m.marks(),
            [(10, 20), (30, 40), (60, 70)],
            "what contradicts itself is left out"
        );
        let marking = [5, 10, 20, 25, 40, 65, 80].map(|at| m.is_marking(at));
        assert_eq!(marking, [false, true, true, false, true, true, false]);
    }

    #[test]
    fn many_looks_go_together() {
        let mut m = Moments::default();
        m.push(&state(0, "refill", 1000, 0));
        assert_eq!((m.looks(), m.look(0), m.look(999), m.look(u32::MAX)), (64, 0, 63, 63));
    }
}
