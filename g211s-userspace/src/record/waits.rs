//! Waits for a CPU by time, as recorded: a stretch of ticks, those without waits left out. Must not know
//! how they were counted, nor what follows from them.

use g211s_ebpf::series::{TICK_NS, Tick};
use serde::{Deserialize, Serialize};

/// What is kept of one tick (`g211s_ebpf::series::TICK_NS`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Ticks {
    /// Waits (after a wakeup or a preemption) that ended in it.
    pub waits: u32,
    /// Their length, µs.
    pub waited_us: u32,
    /// Waiting time that lies in it, µs: of all threads, whenever their waits ended.
    pub within_us: u32,
}

/// A target's waits in a stretch of time. What a wait longer than `SPREAD_TICKS` took lies in none of its
/// ticks: its event tells.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Waits {
    /// Index of the target.
    pub target: u8,
    /// Number of the first tick (time / `TICK_NS`).
    pub from: u64,
    /// Ticks.
    pub ticks: u32,
    /// The ticks in which there was a wait: each as the distance from the one before (the first: from
    /// `from`).
    pub at: Vec<u32>,
    /// See [`Ticks`], for each of them.
    pub waits: Vec<u32>,
    /// See [`Ticks`].
    pub waited_us: Vec<u32>,
    /// See [`Ticks`].
    pub within_us: Vec<u32>,
}

impl Waits {
    /// Ticks with their numbers, those without waits left out. Total: a damaged record gives fewer.
    pub fn iter(&self) -> impl Iterator<Item = (u64, Ticks)> {
        let mut n = self.from;
        let lengths = self.waited_us.iter().zip(&self.within_us);
        let values = self.waits.iter().zip(lengths);
        self.at.iter().zip(values).map_while(move |(step, (&waits, (&waited_us, &within_us)))| {
            n = n.checked_add(u64::from(*step))?;
            let inside = n - self.from < u64::from(self.ticks);
            inside.then_some((n, Ticks { waits, waited_us, within_us }))
        })
    }
}

/// Turns the kernel side's ticks into records, stretch by stretch.
#[derive(Clone, Copy, Debug, Default)]
pub struct Unfolding {
    /// Waits under way at the end of the last tick.
    under_way: u64,
    /// What rounding to µs has left over so far, ns, so that it does not add up.
    waited_ns: u64,
    within_ns: u64,
}

impl Unfolding {
    /// The record of the ticks from number `from` on, which follow on those of the last call.
    pub fn record(&mut self, target: u8, from: u64, ticks: &[Tick]) -> Waits {
        let mut out = Waits { target, from, ticks: ticks.len() as u32, ..Waits::default() };
        let mut last = from;
        for (n, tick) in (from..).zip(ticks) {
            // A wait that fills a tick is under way at both its ends. (After a gap some may have ended whose
            // beginning was missed.)
            let full = self.under_way.saturating_sub(tick.ended.into());
            self.under_way = full + u64::from(tick.begun);
            self.waited_ns += tick.waited_ns;
            self.within_ns += tick.within_ns + full * TICK_NS;
            let (waited_us, within_us) = (self.waited_ns / 1000, self.within_ns / 1000);
            if tick.waits == 0 && within_us == 0 {
                continue;
            }
            self.waited_ns %= 1000;
            self.within_ns %= 1000;
            out.at.push((n - last) as u32);
            out.waits.push(tick.waits);
            out.waited_us.push(u32::try_from(waited_us).unwrap_or(u32::MAX));
            out.within_us.push(u32::try_from(within_us).unwrap_or(u32::MAX));
            last = n;
        }
        out
    }
}

#[cfg(test)]
mod tests {
    use g211s_ebpf::series::{SPREAD_TICKS, TICK_BITS};
    use proptest::prelude::*;

    use super::*;

    /// The kernel side's arithmetic (`probes/series.rs`).
    fn add(ticks: &mut [Tick], since: u64, now: u64) {
        let (first, last) = (since >> TICK_BITS, now >> TICK_BITS);
        let tick = &mut ticks[last as usize];
        tick.waits += 1;
        tick.waited_ns += now - since;
        if first == last {
            tick.within_ns += now - since;
        } else if last - first < SPREAD_TICKS {
            tick.ended += 1;
            tick.within_ns += now & (TICK_NS - 1);
            let tick = &mut ticks[first as usize];
            tick.begun += 1;
            tick.within_ns += TICK_NS - (since & (TICK_NS - 1));
        }
    }

    proptest! {
        #[test]
        fn a_wait_lies_where_it_was_and_nothing_is_lost_by_rounding(
            waits in prop::collection::vec((0u64..100 << TICK_BITS, 0u64..70 << TICK_BITS), 0..60),
            cut in 0usize..180,
        ) {
            let mut ticks: Vec<Tick> = (0..180).map(Tick::new).collect();
            let mut within = vec![0u64; 180];
            let mut waited = 0;
            for &(since, length) in &waits {
                let now = since + length;
                add(&mut ticks, since, now);
                waited += length;
                if (now >> TICK_BITS) - (since >> TICK_BITS) < SPREAD_TICKS {
                    for (n, sum) in within.iter_mut().enumerate() {
                        let (start, end) = (n as u64 * TICK_NS, (n as u64 + 1) * TICK_NS);
                        *sum += now.min(end).saturating_sub(since.max(start));
                    }
                }
            }
            // In two records, which must not matter.
            let mut unfolding = Unfolding::default();
            let records = [
                unfolding.record(3, 0, &ticks[..cut]),
                unfolding.record(3, cut as u64, &ticks[cut..]),
            ];
            let mut seen = vec![Ticks::default(); 180];
            for (n, tick) in records.iter().flat_map(Waits::iter) {
                seen[n as usize] = tick;
            }
            let (mut ours, mut theirs) = (0, 0);
            for (tick, ns) in seen.iter().zip(&within) {
                ours += u64::from(tick.within_us) * 1000;
                theirs += ns;
                prop_assert!(ours <= theirs && theirs - ours < 1000, "{} {}", ours, theirs);
            }
            prop_assert_eq!(seen.iter().map(|t| u64::from(t.waits)).sum::<u64>(), waits.len() as u64);
            prop_assert_eq!(seen.iter().map(|t| u64::from(t.waited_us)).sum::<u64>(), waited / 1000);
        }

        #[test]
        fn a_damaged_record_does_no_harm(
            from in any::<u64>(),
            at in prop::collection::vec(any::<u32>(), 0..10),
            n in 0usize..10,
        ) {
            let waits = Waits {
                from,
                ticks: 5,
                at,
                waits: vec![1; n],
                waited_us: vec![1; n],
                within_us: vec![1; n],
                ..Waits::default()
            };
            prop_assert!(waits.iter().all(|(n, _)| n - from < 5));
        }
    }
}
