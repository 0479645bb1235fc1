//! Waits for a CPU that have no event of their own: what a tick of a millisecond holds beside those that have one. Must
//! not know how that is shown.
//!
//! The kernel side counts all waits by the tick in which they ended (`record::Waits`), and sends the long ones besides.

use std::collections::BTreeMap;

use g211s_ebpf::event::{ThreadEvent, ThreadState};
use g211s_ebpf::series::{TICK_BITS, TICK_NS};

use crate::record::Waits;

/// Ticks that are kept until they are settled: late events, and waits told later than they ended.
const OPEN_TICKS: u64 = 8192;

/// What ended in a tick.
#[derive(Clone, Copy, Debug, Default)]
struct Tick {
    waits: u64,
    waited_ns: u64,
    told: u64,
    told_ns: u64,
}

/// What a tick held beside the waits that have events.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Rest {
    /// When the tick began, ns.
    pub(crate) at_ns: u64,
    /// How many they are.
    pub(crate) waits: u64,
    /// How long they were on average, ns; `None`: there are none.
    pub(crate) mean_ns: Option<u64>,
}

/// Takes both, in about the order of time.
#[derive(Clone, Debug, Default)]
pub(crate) struct Rests {
    open: BTreeMap<u64, Tick>,
}

impl Rests {
    /// Takes a thread's event: how long the wait for a CPU was that it ends, ns, if it ends one that is not voluntary.
    pub(crate) fn told(&mut self, e: &ThreadEvent) -> Option<u64> {
        let waited = matches!(
            ThreadState::from_u8(e.from),
            Some(ThreadState::RunnableWoken | ThreadState::RunnablePreempted)
        );
        let ends = e.to == ThreadState::Running as u8 && e.since_ns != 0;
        let ns = e.header.ts_ns.checked_sub(e.since_ns).filter(|_| waited && ends)?;
        let tick = self.open.entry(e.header.ts_ns >> TICK_BITS).or_default();
        tick.told += 1;
        tick.told_ns = tick.told_ns.saturating_add(ns);
        Some(ns)
    }

    /// Takes a stretch of ticks.
    pub(crate) fn take(&mut self, waits: &Waits) {
        for (n, t) in waits.iter() {
            let tick = self.open.entry(n).or_default();
            tick.waits += u64::from(t.waits);
            tick.waited_ns += u64::from(t.waited_us) * 1000;
        }
    }

    /// The next tick of which nothing more will come; `last`: of any. To be asked until there is none.
    pub(crate) fn next(&mut self, last: bool) -> Option<Rest> {
        let ((&first, _), (&newest, _)) =
            (self.open.first_key_value()?, self.open.last_key_value()?);
        if !last && newest - first <= OPEN_TICKS {
            return None;
        }
        let (n, tick) = self.open.pop_first()?;
        let waits = tick.waits.saturating_sub(tick.told);
        let mean_ns = tick.waited_ns.saturating_sub(tick.told_ns).checked_div(waits);
        Some(Rest { at_ns: n.saturating_mul(TICK_NS), waits, mean_ns })
    }

    /// Forgets what is not settled.
    pub(crate) fn clear(&mut self) {
        self.open.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::ascii::Scene;

    #[test]
    fn what_was_told_is_not_counted_again() {
        let mut rests = Rests::default();
        // A wait of two ticks that ends in tick 5, and has its event.
        let scene = Scene::new(TICK_NS).thread(7, "==_ww==pp", "000000000");
        let told: Vec<u64> = scene.transitions.iter().filter_map(|e| rests.told(e)).collect();
        assert_eq!(told, [2 * TICK_NS]);
        let told_us = (2 * TICK_NS / 1000) as u32;
        rests.take(&Waits {
            target: 0,
            from: 0,
            ticks: 9001,
            at: vec![5, 2, 8993],
            waits: vec![3, 1, 1],
            waited_us: vec![told_us + 100, 40, 7],
            within_us: vec![0; 3],
        });
        let rest = |n: u64, waits, mean_ns| Rest { at_ns: n * TICK_NS, waits, mean_ns };
        let first = rests.next(false).expect("nothing more will come of it");
        // What the event says is exact, the tick's sum in whole microseconds.
        assert!((first.at_ns, first.waits) == (5 * TICK_NS, 2), "{first:?}");
        assert!(first.mean_ns.is_some_and(|ns| ns.abs_diff(50_000) < 1000), "{first:?}");
        assert_eq!(rests.next(false), Some(rest(7, 1, Some(40_000))));
        assert_eq!(rests.next(false), None, "the last one is still open");
        assert_eq!(rests.next(true), Some(rest(9000, 1, Some(7000))));
        assert_eq!(rests.next(true), None);
    }
}
