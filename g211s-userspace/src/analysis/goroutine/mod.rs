//! What kept goroutines waiting outside of stops, from what the kernel side proves span by span: parks of mark
//! assists, Ps whose threads were off the CPUs, and times in which that held for all of them. Must not know reports.

use std::collections::BTreeMap;

use g211s_ebpf::event::{NO_SYSCALL, SpanEvent, SpanWhat, p_of_span};
use serde::Serialize;

pub mod saturation;
pub mod starvation;

/// Parks and holdings that are kept one by one.
pub const WORST: usize = 50;
/// Holdings that are kept for the search of times without any P: more are counted only.
pub const MAX_HOLDINGS: usize = 100_000;

/// A goroutine stalled in a mark assist.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Park {
    /// Its number; 0: not known.
    pub goid: u64,
    /// The thread that it went on on.
    pub tid: u32,
    /// Since when, ns.
    pub start_ns: u64,
    /// Until when, ns.
    pub end_ns: u64,
}

/// Why a thread that has a P is on no CPU.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Off {
    /// Asleep in a system call.
    Syscall(i32),
    /// Asleep in a page fault, or stopped by a signal.
    Fault,
    /// Preempted: it waits for a CPU.
    Preempted,
}

impl Off {
    fn of_detail(detail: i32) -> Self {
        match detail {
            NO_SYSCALL => Self::Preempted,
            nr if nr >= 0 => Self::Syscall(nr),
            _ => Self::Fault,
        }
    }

    /// Its name in reports.
    pub fn name(self) -> &'static str {
        match self {
            Self::Syscall(_) => "syscall",
            Self::Fault => "page_fault",
            Self::Preempted => "preempted",
        }
    }
}

/// A P was kept by a thread on no CPU during `[start_ns, end_ns)`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Holding {
    /// `p.id`.
    pub p: u32,
    /// The thread.
    pub tid: u32,
    /// Why it was on no CPU.
    pub off: Off,
    /// Since when, ns.
    pub start_ns: u64,
    /// Until when, ns.
    pub end_ns: u64,
    /// The runtime took the P away, which ended it. Else the thread ran again.
    pub taken: bool,
    /// Goroutines that the P's own queue held as it was taken.
    pub queued: u32,
}

/// Long holdings in one system call.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct InSyscall {
    /// How many.
    pub count: u64,
    /// How long in all, ns.
    pub ns: u64,
}

/// The long parks and holdings of one target.
#[derive(Clone, Debug, Default)]
pub struct Goroutines {
    /// Parks.
    pub parks: u64,
    /// They took, ns in all.
    pub parks_ns: u64,
    /// The longest, longest first.
    pub worst_parks: Vec<Park>,
    /// Holdings, in the order of their ends.
    pub holdings: Vec<Holding>,
    /// Holdings beyond [`MAX_HOLDINGS`].
    pub holdings_dropped: u64,
    /// Holdings in system calls, by number.
    pub by_syscall: BTreeMap<i32, InSyscall>,
}

impl Goroutines {
    /// Takes a span of the target. What does not end after it began is not taken.
    pub fn apply(&mut self, e: &SpanEvent) {
        let (start_ns, end_ns, tid) = (e.start_ns, e.header.ts_ns, e.header.tid);
        if start_ns == 0 || start_ns >= end_ns {
            return;
        }
        match SpanWhat::from_u32(e.what) {
            Some(SpanWhat::AssistPark) => {
                self.parks += 1;
                self.parks_ns = self.parks_ns.saturating_add(end_ns - start_ns);
                insert_worst(&mut self.worst_parks, Park { goid: e.id, tid, start_ns, end_ns });
            }
            Some(SpanWhat::PHeld) => {
                let ((p, queued), off) = (p_of_span(e.id), Off::of_detail(e.detail));
                if let Off::Syscall(nr) = off {
                    let sum = self.by_syscall.entry(nr).or_default();
                    sum.count += 1;
                    sum.ns = sum.ns.saturating_add(end_ns - start_ns);
                }
                if self.holdings.len() == MAX_HOLDINGS {
                    self.holdings_dropped += 1;
                    return;
                }
                let taken = e.middle_ns != 0;
                self.holdings.push(Holding { p, tid, off, start_ns, end_ns, taken, queued });
            }
            Some(SpanWhat::Harvest) | None => {}
        }
    }

    /// Forgets what ended before `before_ns`, one by one; the sums stay.
    pub fn forget(&mut self, before_ns: u64) {
        self.holdings.retain(|h| h.end_ns >= before_ns);
        self.worst_parks.retain(|p| p.end_ns >= before_ns);
    }

    /// The holdings, longest first.
    pub fn worst_holdings(&self) -> Vec<Holding> {
        let mut worst = self.holdings.clone();
        worst.sort_by_key(|h| (std::cmp::Reverse(h.end_ns - h.start_ns), h.start_ns, h.p));
        worst.truncate(WORST);
        worst
    }

    /// The P that a thread kept while it waited for a CPU from `since_ns` on, where that is proven.
    pub fn p_of_wait(&self, tid: u32, since_ns: u64) -> Option<u32> {
        let found = self
            .holdings
            .iter()
            .find(|h| h.tid == tid && h.start_ns == since_ns && matches!(h.off, Off::Preempted));
        found.map(|h| h.p)
    }
}

fn insert_worst(worst: &mut Vec<Park>, park: Park) {
    let ns = |p: &Park| p.end_ns - p.start_ns;
    let at = worst.partition_point(|p| ns(p) >= ns(&park));
    if at < WORST {
        worst.insert(at, park);
        worst.truncate(WORST);
    }
}

#[cfg(test)]
mod tests {
    use g211s_ebpf::event::{EventKind, Header, span_p};

    use super::*;

    fn span(what: SpanWhat, detail: i32, id: u64, start_ns: u64, ts_ns: u64) -> SpanEvent {
        let header = Header { ts_ns, kind: EventKind::Span as u8, target: 0, cpu: 0, tid: 7 };
        SpanEvent { header, what: what as u32, detail, start_ns, middle_ns: 0, id }
    }

    #[test]
    fn parks_and_holdings_are_told_apart() {
        let mut g = Goroutines::default();
        g.apply(&span(SpanWhat::AssistPark, 0, 42, 10, 30));
        g.apply(&SpanEvent { middle_ns: 90, ..span(SpanWhat::PHeld, 0, span_p(3, 5), 40, 90) });
        g.apply(&span(SpanWhat::PHeld, NO_SYSCALL, span_p(1, 0), 100, 160));
        g.apply(&span(SpanWhat::PHeld, -1, span_p(1, 0), 200, 210));
        g.apply(&span(SpanWhat::Harvest, 1, 9, 200, 210));
        assert_eq!((g.parks, g.worst_parks[0].goid, g.holdings.len()), (1, 42, 3));
        let taken = Holding {
            p: 3,
            tid: 7,
            off: Off::Syscall(0),
            start_ns: 40,
            end_ns: 90,
            taken: true,
            queued: 5,
        };
        assert_eq!(g.holdings[0], taken);
        assert_eq!(g.by_syscall[&0], InSyscall { count: 1, ns: 50 });
        assert_eq!(
            (g.p_of_wait(7, 100), g.p_of_wait(7, 40), g.p_of_wait(8, 100)),
            (Some(1), None, None)
        );
        assert_eq!(g.worst_holdings().iter().map(|h| h.end_ns).collect::<Vec<_>>(), [160, 90, 210]);
    }

    #[test]
    fn a_span_that_ends_before_it_begins_is_not_taken() {
        let mut g = Goroutines::default();
        g.apply(&span(SpanWhat::AssistPark, 0, 1, 30, 30));
        g.apply(&span(SpanWhat::AssistPark, 0, 1, 0, 30));
        g.apply(&span(SpanWhat::PHeld, 0, 1, 31, 30));
        assert_eq!((g.parks, g.holdings.len()), (0, 0));
    }

    #[test]
    fn the_longest_parks_are_kept() {
        let mut g = Goroutines::default();
        for ns in 1..200 {
            g.apply(&span(SpanWhat::AssistPark, 0, ns, 1000, 1000 + (ns * 77) % 199 + 1));
        }
        assert_eq!((g.parks, g.worst_parks.len()), (199, WORST));
        assert!(g.worst_parks.is_sorted_by_key(|p| std::cmp::Reverse(p.end_ns)));
        assert_eq!(g.worst_parks[0].end_ns, 1199);
    }
}
