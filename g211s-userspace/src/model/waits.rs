//! A target's waits for a CPU over time: how many threads waited, and how long the waits were that ended, at
//! any moment. Must not know stops or collections.

use std::collections::VecDeque;

use g211s_ebpf::series::{SPREAD_TICKS, TICK_BITS, TICK_NS};

use crate::record::{Ticks, Waits};

/// Ticks kept: 36 minutes in 25 MB. Older ones are forgotten.
const KEPT: usize = 1 << 21;
/// Waits kept until the ticks that they lie in are told.
const PENDING: usize = 1024;
/// A gap of more ticks than this is a new beginning: a damaged recording must not make us fill memory.
const MAX_GAP: u64 = KEPT as u64;

/// Ticks from here on (2^58 ns: up for nine years) are taken for damage.
const NEVER: u64 = 1 << (58 - TICK_BITS);

/// What a stretch of time held.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Load {
    /// Threads waiting for a CPU, on average.
    pub depth: f64,
    /// Waits that ended (a fraction where the stretch takes a part of a tick).
    pub waits: f64,
    /// Their length in all, ns.
    pub waited_ns: f64,
}

/// The series. Ticks of which nothing is known are gaps.
#[derive(Clone, Debug, Default)]
pub struct WaitSeries {
    /// Number of the first tick kept.
    first: u64,
    ticks: VecDeque<Option<Ticks>>,
    /// Waits too long to be spread by the kernel side (from, to), until their ticks are known.
    pending: Vec<(u64, u64)>,
    /// Waits that could not be placed.
    unplaced: u64,
}

impl WaitSeries {
    /// Takes a stretch of ticks.
    pub fn apply(&mut self, waits: &Waits) {
        let ticks = u64::from(waits.ticks);
        let Some(end) = waits.from.checked_add(ticks).filter(|end| *end < NEVER) else { return };
        if ticks == 0 || waits.from < self.end() && !self.ticks.is_empty() {
            return;
        }
        if self.ticks.is_empty() || waits.from - self.end() > MAX_GAP || ticks > MAX_GAP {
            self.ticks.clear();
            self.first = waits.from;
        }
        let end = end.min(waits.from.saturating_add(MAX_GAP));
        while self.end() < waits.from {
            self.ticks.push_back(None);
        }
        while self.end() < end {
            self.ticks.push_back(Some(Ticks::default()));
        }
        let forget = self.ticks.len().saturating_sub(KEPT);
        self.ticks.drain(..forget);
        self.first += forget as u64;
        for (n, tick) in waits.iter() {
            if let Some(slot) = self.slot(n) {
                *slot = tick;
            }
        }
        for (from, to) in std::mem::take(&mut self.pending) {
            self.place(from, to);
        }
    }

    /// A wait `[from_ns, to_ns)` has its own event. Only those too long for the kernel side to spread count.
    pub fn long_wait(&mut self, from_ns: u64, to_ns: u64) {
        if from_ns < to_ns && (to_ns >> TICK_BITS) - (from_ns >> TICK_BITS) >= SPREAD_TICKS {
            self.place(from_ns, to_ns);
        }
    }

    /// Adds a wait to the ticks it lies in, or keeps it until they are known.
    fn place(&mut self, from_ns: u64, to_ns: u64) {
        if to_ns >> TICK_BITS >= self.end() {
            if self.pending.len() < PENDING {
                self.pending.push((from_ns, to_ns));
            } else {
                self.unplaced += 1;
            }
            return;
        }
        for n in (from_ns >> TICK_BITS).max(self.first)..=to_ns >> TICK_BITS {
            let (start, end) = (n * TICK_NS, (n + 1) * TICK_NS);
            let ns = to_ns.min(end) - from_ns.max(start);
            if let Some(slot) = self.slot(n) {
                slot.within_us = slot.within_us.saturating_add((ns / 1000) as u32);
            }
        }
    }

    fn end(&self) -> u64 {
        self.first + self.ticks.len() as u64
    }

    fn slot(&mut self, n: u64) -> Option<&mut Ticks> {
        let at = n.checked_sub(self.first)?;
        self.ticks.get_mut(usize::try_from(at).ok()?)?.as_mut()
    }

    fn tick(&self, n: u64) -> Option<&Ticks> {
        let at = n.checked_sub(self.first)?;
        self.ticks.get(usize::try_from(at).ok()?)?.as_ref()
    }

    /// The stretch of time that is covered, gaps included, ns; `None` if nothing is.
    pub fn span(&self) -> Option<(u64, u64)> {
        (!self.ticks.is_empty()).then(|| (self.first * TICK_NS, self.end() * TICK_NS))
    }

    /// Waits that ended in all the ticks kept, and their length, ns.
    pub fn total(&self) -> (u64, u64) {
        self.ticks.iter().flatten().fold((0, 0), |(waits, ns), tick| {
            (waits + u64::from(tick.waits), ns + u64::from(tick.waited_us) * 1000)
        })
    }

    /// Waits that are missing from the depth because too many were outstanding.
    pub fn unplaced(&self) -> u64 {
        self.unplaced
    }

    /// What `[from_ns, to_ns)` held, a tick that reaches beyond it in proportion; `None` if a part of it is
    /// not known.
    pub fn load(&self, from_ns: u64, to_ns: u64) -> Option<Load> {
        let length = to_ns.checked_sub(from_ns).filter(|ns| *ns > 0)? as f64;
        let mut load = Load::default();
        for n in from_ns >> TICK_BITS..=(to_ns - 1) >> TICK_BITS {
            let tick = self.tick(n)?;
            let start = n * TICK_NS;
            let part = (to_ns.min(start + TICK_NS) - from_ns.max(start)) as f64 / TICK_NS as f64;
            load.depth += part * f64::from(tick.within_us) * 1000.0;
            load.waits += part * f64::from(tick.waits);
            load.waited_ns += part * f64::from(tick.waited_us) * 1000.0;
        }
        load.depth /= length;
        Some(load)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const T: u64 = TICK_NS;

    fn stretch(from: u64, ticks: u32, filled: &[(u32, u32, u32, u32)]) -> Waits {
        let mut last = 0;
        let mut waits = Waits { from, ticks, ..Waits::default() };
        for &(at, n, waited_us, within_us) in filled {
            waits.at.push(at - last);
            waits.waits.push(n);
            waits.waited_us.push(waited_us);
            waits.within_us.push(within_us);
            last = at;
        }
        waits
    }

    #[test]
    fn depth_and_delay_of_any_stretch() {
        let mut series = WaitSeries::default();
        series.apply(&stretch(100, 4, &[(1, 2, 600, 500), (2, 1, 300, 1048)]));
        let load = series.load(101 * T, 102 * T).unwrap();
        assert!((load.depth - 500_000.0 / T as f64).abs() < 1e-12);
        assert_eq!((load.waits, load.waited_ns), (2.0, 600_000.0));
        let half = series.load(101 * T + T / 2, 102 * T + T / 2).unwrap();
        assert!((half.depth - 774_000.0 / T as f64).abs() < 1e-9);
        assert_eq!((half.waits, half.waited_ns), (1.5, 450_000.0));
        assert_eq!(series.load(103 * T, 104 * T), Some(Load::default()), "nobody waited");
        assert_eq!(series.load(103 * T, 104 * T + 1), None, "not known");
        assert_eq!(series.load(99 * T, 101 * T), None);
        assert_eq!(series.load(101 * T, 101 * T), None);
    }

    #[test]
    fn a_gap_stays_one_and_what_is_told_twice_counts_once() {
        let mut series = WaitSeries::default();
        series.apply(&stretch(100, 2, &[(0, 1, 9, 9)]));
        series.apply(&stretch(101, 2, &[(0, 7, 7, 7)]));
        series.apply(&stretch(104, 2, &[(0, 1, 8, 8)]));
        assert_eq!(series.load(101 * T, 102 * T), Some(Load::default()));
        assert_eq!(series.load(102 * T, 103 * T), None);
        assert!(series.load(104 * T, 106 * T).is_some());
        assert_eq!(series.span(), Some((100 * T, 106 * T)));
        series.apply(&stretch(u64::MAX - 3, 9, &[]));
        series.apply(&stretch(1 << 30, 5, &[]));
        assert_eq!(series.span(), Some(((1 << 30) * T, ((1 << 30) + 5) * T)));
    }

    #[test]
    fn a_wait_too_long_for_the_kernel_side_is_spread_here_whichever_comes_first() {
        let (from, to) = (110 * T + T / 2, 180 * T);
        let mut early = WaitSeries::default();
        early.long_wait(from, to);
        early.apply(&stretch(100, 40, &[]));
        early.apply(&stretch(140, 41, &[]));
        let mut late = WaitSeries::default();
        late.apply(&stretch(100, 81, &[]));
        late.long_wait(from, to);
        for series in [early, late] {
            let depth = |n: u64| series.load(n * T, (n + 1) * T).map(|l| l.depth);
            assert_eq!((depth(109), depth(180)), (Some(0.0), Some(0.0)));
            assert!((depth(110).unwrap() - 0.5).abs() < 0.001);
            assert!((110..180).skip(1).all(|n| (depth(n).unwrap() - 1.0).abs() < 0.001));
        }
        let mut series = WaitSeries::default();
        series.apply(&stretch(100, 81, &[]));
        series.long_wait(110 * T, 173 * T);
        assert_eq!(
            series.load(120 * T, 121 * T),
            Some(Load::default()),
            "the kernel side's to spread"
        );
    }
}
