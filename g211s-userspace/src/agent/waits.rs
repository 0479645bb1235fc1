//! When to read the kernel side's waits by time: often enough that none is overwritten, late enough that
//! none still changes. Must not know what they are for.

use std::ops::Range;

use g211s_ebpf::series::{PAGE_BITS, PAGES, SPREAD_TICKS, TICK_BITS};

use crate::record::Unfolding;

/// Ticks that the kernel side has room for.
const RING: u64 = (PAGES as u64) << PAGE_BITS;

/// What was read of one target's waits.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct WaitsReader {
    /// The first tick that was not read.
    next: u64,
    pub(super) unfolding: Unfolding,
}

impl WaitsReader {
    /// The target is watched from `start_ns` on.
    pub(super) fn new(start_ns: u64) -> Self {
        Self { next: start_ns >> TICK_BITS, unfolding: Unfolding::default() }
    }

    /// The ticks to read at `now_ns`. `last`: nothing is counted any more, so all there is.
    pub(super) fn due(&mut self, now_ns: u64, last: bool) -> Range<u64> {
        let now = now_ns >> TICK_BITS;
        let end = if last { now + 1 } else { now.saturating_sub(SPREAD_TICKS) };
        // What we were too late for is a gap in the record; a page's room is left for what comes while we
        // read.
        let oldest = (now + (1 << PAGE_BITS)).saturating_sub(RING);
        let start = self.next.max(oldest).min(end.max(self.next));
        self.next = end.max(start);
        start..self.next
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_tick_is_read_once_and_only_when_it_is_settled() {
        let at = |tick: u64| tick << TICK_BITS;
        let mut reader = WaitsReader::new(at(1000) + 5);
        assert!(reader.due(at(1030), false).is_empty());
        assert_eq!(reader.due(at(1100), false), 1000..1036);
        assert!(reader.due(at(1100), false).is_empty());
        assert_eq!(reader.due(at(1200), false), 1036..1136);
        // Not run for a second: what the ring has lost is left out.
        assert_eq!(reader.due(at(2200), false), 1752..2136);
        assert_eq!(reader.due(at(2210) + 1, true), 2136..2211);
        assert!(reader.due(at(2210) + 1, true).is_empty());
    }
}
