//! Puts the kernel side's events into time order. Must not know what the events mean.
//!
//! Events arrive in ring order, which is the order in which records were *reserved*: per CPU it is
//! time order, across CPUs it may be off by the length of a BPF program (or of an interrupt in
//! one).
//!
//! **Invariant.** Events leave in non-decreasing `ts_ns`, those with equal `ts_ns` in arrival
//! order, except late ones (below), which are counted. What leaves, and in which order, is a
//! function of the sequence of calls to [`Order::push`] and [`Order::advance_to`] alone: neither the size of
//! the batches in which events were drained nor any clock has a say, so a live run and its replay
//! see the same stream.
//!
//! An event leaves once an event [`SLACK_NS`] younger has arrived. One that is older than what has
//! left already is *late*: it leaves at once, out of order. Equal times keep arrival order because
//! the kernel side sends the CPU slices of a wait just before the switch-in that needs them.

use std::collections::VecDeque;

use crate::event::Event;

/// How long an event is held back for older ones that have not arrived, ns of event time.
pub const SLACK_NS: u64 = 5_000_000;

/// [`VecDeque::partition_point`], for what is asked for near the end: the further away, the longer it takes.
pub(crate) fn place_from_end<T>(items: &VecDeque<T>, mut before: impl FnMut(&T) -> bool) -> usize {
    let (mut low, mut high) = (0, items.len());
    let mut step = 1;
    while step <= items.len() {
        let at = items.len() - step;
        if before(&items[at]) {
            low = at + 1;
            break;
        }
        high = at;
        step *= 2;
    }
    while low < high {
        let middle = low.midpoint(high);
        if before(&items[middle]) { low = middle + 1 } else { high = middle }
    }
    low
}

/// The buffer between arrival and time order.
#[derive(Debug, Default)]
pub struct Order {
    /// Held back, ascending by time, equal times in arrival order.
    held: VecDeque<Event>,
    /// Everything before this has left.
    watermark_ns: u64,
    late: u64,
}

impl Order {
    /// Takes an event in arrival order and gives to `out` what is due.
    pub fn push(&mut self, event: Event, out: &mut impl FnMut(Event)) {
        let ts = event.header().ts_ns;
        if ts < self.watermark_ns {
            self.late += 1;
            out(event);
            return;
        }
        let at = place_from_end(&self.held, |e| e.header().ts_ns <= ts);
        if at == self.held.len() {
            self.held.push_back(event);
        } else {
            self.held.insert(at, event);
        }
        self.advance_to(ts.saturating_sub(SLACK_NS), out);
    }

    /// Gives to `out` everything before `ts_ns`: the caller knows that nothing older will come.
    pub fn advance_to(&mut self, ts_ns: u64, out: &mut impl FnMut(Event)) {
        if ts_ns <= self.watermark_ns {
            return;
        }
        self.watermark_ns = ts_ns;
        while self.held.front().is_some_and(|e| e.header().ts_ns < ts_ns) {
            if let Some(event) = self.held.pop_front() {
                out(event);
            }
        }
    }

    /// Gives to `out` everything that is left: the stream has ended.
    pub fn finish(&mut self, out: &mut impl FnMut(Event)) {
        for event in std::mem::take(&mut self.held) {
            self.watermark_ns = self.watermark_ns.max(event.header().ts_ns);
            out(event);
        }
    }

    /// Events that came too late for their place.
    pub fn late(&self) -> u64 {
        self.late
    }
}

#[cfg(test)]
mod tests {
    use g211s_ebpf::event::{EventKind, Header, LifeEvent};
    use proptest::prelude::*;

    use super::*;

    fn event(ts_ns: u64, tid: u32) -> Event {
        let header = Header { ts_ns, kind: EventKind::Life as u8, target: 0, cpu: 0, tid };
        Event::Life(LifeEvent { header, what: 1, other: 0 })
    }

    fn run(times: &[u64]) -> (Vec<(u64, u32)>, u64) {
        let mut order = Order::default();
        let mut seen = Vec::new();
        let mut out = |e: Event| seen.push((e.header().ts_ns, e.header().tid));
        for (i, &ts) in times.iter().enumerate() {
            order.push(event(ts, i as u32), &mut out);
        }
        order.finish(&mut out);
        (seen, order.late())
    }

    #[test]
    fn equal_times_keep_arrival_order() {
        let (seen, late) = run(&[20, 10, 20, 10]);
        assert_eq!(seen, [(10, 1), (10, 3), (20, 0), (20, 2)]);
        assert_eq!(late, 0);
    }

    #[test]
    fn a_late_event_is_counted_and_not_lost() {
        let (seen, late) = run(&[0, 3 * SLACK_NS, 1]);
        assert_eq!(seen, [(0, 0), (1, 2), (3 * SLACK_NS, 1)]);
        assert_eq!(late, 1);
    }

    proptest! {
        #[test]
        fn places_are_found_from_the_end(mut items in prop::collection::vec(0u8..50, 0..70), item: u8) {
            items.sort_unstable();
            let items: VecDeque<u8> = items.into();
            let at = place_from_end(&items, |i| *i <= item);
            prop_assert_eq!(at, items.partition_point(|i| *i <= item));
        }

        #[test]
        fn disorder_within_the_slack_is_undone(
            base in prop::collection::vec((0u64..1_000_000, 0u64..SLACK_NS), 1..200)
        ) {
            // Arrival at an ascending time, made at most SLACK_NS earlier.
            let mut arrival = SLACK_NS;
            let times: Vec<u64> =
                base.iter().map(|&(step, lag)| { arrival += step; arrival - lag }).collect();
            let (seen, late) = run(&times);
            prop_assert_eq!(late, 0);
            prop_assert_eq!(seen.len(), times.len());
            prop_assert!(seen.windows(2).all(|w| w[0] <= w[1]));
        }
    }
}
