//! Threads and CPUs over time, at two scales: shares of each of some hundred bins over the whole window, and everything
//! that is known in a few short stretches (islands). Must not know what makes a stretch worth it.
//!
//! A nanosecond of a thread counts once, whatever number of events tell it: in bins because what was counted is not
//! counted again, in islands because [`Timeline`] sees to it.

use std::collections::BTreeMap;

use g211s_ebpf::event::{SliceEvent, ThreadEvent, ThreadState};
use serde::Serialize;

use crate::model::cpus::Cpus;
use crate::model::threads::Timeline;
use crate::report::format::comm;

/// Bins over the window.
pub(super) const BINS: usize = 600;
/// Events that an island takes; what more there is, is left out.
const ISLAND_EVENTS: usize = 20_000;
/// The state of a thread that a CPU quota keeps off its queue, beside the numbers of [`ThreadState`].
const THROTTLED: u8 = 9;

/// What a thread does, as bins tell it apart.
const RUNS: usize = 0;
const WAITS: usize = 1;
const SLEEPS: usize = 2;
const HELD: usize = 3;

/// Shares of time in bins: four kinds.
#[derive(Clone, Debug)]
pub(super) struct Bins {
    from_ns: u64,
    bin_ns: u64,
    covered_until: u64,
    ns: Vec<[u64; 4]>,
}

impl Bins {
    /// Over the window.
    pub(super) fn new((from_ns, to_ns): (u64, u64)) -> Self {
        let bin_ns = to_ns.saturating_sub(from_ns).div_ceil(BINS as u64).max(1);
        Self { from_ns, bin_ns, covered_until: from_ns, ns: vec![[0; 4]; BINS] }
    }

    fn add(&mut self, from: u64, to: u64, kind: usize) {
        let end = self.from_ns.saturating_add(self.bin_ns.saturating_mul(BINS as u64));
        let (mut at, to) = (from.max(self.covered_until), to.min(end));
        self.covered_until = self.covered_until.max(to);
        while at < to {
            let bin = ((at - self.from_ns) / self.bin_ns) as usize;
            let end = (bin as u64 + 1).saturating_mul(self.bin_ns);
            let next = self.from_ns.saturating_add(end).min(to);
            if let Some(shares) = self.ns.get_mut(bin) {
                shares[kind] += next - at;
            }
            at = next;
        }
    }

    /// Takes what an event says of its thread.
    pub(super) fn thread(&mut self, e: &ThreadEvent) {
        let kind = match ThreadState::from_u8(e.from) {
            Some(ThreadState::Running) => RUNS,
            Some(s) if s.is_runnable() => WAITS,
            Some(ThreadState::Blocked) => SLEEPS,
            Some(ThreadState::BlockedUninterruptible | ThreadState::Stopped) => HELD,
            _ => return,
        };
        if e.since_ns != 0 {
            self.add(e.since_ns, e.header.ts_ns, kind);
        }
    }

    /// Takes who ran on its CPU.
    pub(super) fn slice(&mut self, e: &SliceEvent, own: bool) {
        let kind = match e.header.tid {
            0 => SLEEPS,
            _ if own => RUNS,
            _ => WAITS,
        };
        self.add(e.start_ns, e.end_ns, kind);
    }

    /// Four digits a bin, each a share in 35ths to base 36: what is there at all is at least 1.
    fn digits(&self) -> String {
        let digit = |ns: u64| {
            let share = (u128::from(ns) * 35 / u128::from(self.bin_ns)).min(35) as u32;
            char::from_digit(share.max(u32::from(ns > 0)), 36).unwrap_or('0')
        };
        self.ns.iter().flatten().map(|ns| digit(*ns)).collect()
    }
}

/// A thread's or a CPU's bins.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Lane {
    /// The thread, or the CPU.
    pub(super) id: u32,
    /// A thread's M, where known.
    pub(super) m: Option<u64>,
    /// A thread's name, where known.
    pub(super) name: Option<String>,
    /// Of each bin the shares of four kinds. A thread: on a CPU, waiting for one, asleep, asleep uninterruptibly or
    /// stopped. A CPU: the target's threads, other tasks, idle, none. The rest is not known.
    pub(super) shares: String,
}

impl Lane {
    /// Of a thread or a CPU without a name.
    pub(super) fn new(id: u32, bins: &Bins) -> Self {
        Self { id, m: None, name: None, shares: bins.digits() }
    }
}

/// A task that ran on a CPU.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(super) struct Runner {
    pid: u32,
    tid: u32,
    comm: String,
    /// `own`, `idle`, `g211s` or `other`.
    who: &'static str,
}

/// Everything that is known of a stretch of time. All ns; `at` and `marks` since its beginning.
#[derive(Clone, Debug, Default, Serialize)]
pub(super) struct Island {
    /// When it begins and ends, since the window began.
    from: u64,
    to: u64,
    /// Threads' pieces: which thread, when, how long, which state (`ThreadState`; 9: kept off by a quota).
    tid: Vec<u32>,
    at: Vec<u64>,
    ns: Vec<u64>,
    state: Vec<u8>,
    /// Who ran: on which CPU, when, how long, who (index into `runners`).
    cpu: Vec<u16>,
    ran_at: Vec<u64>,
    ran_ns: Vec<u64>,
    ran: Vec<usize>,
    runners: Vec<Runner>,
    /// Threads that gave their P up for a stop: which, when.
    marks: Vec<(u32, u64)>,
    /// Pieces that are not here, the shortest.
    pub(super) left_out: u64,
}

/// An island that is being filled.
#[derive(Clone, Debug)]
pub(super) struct Filling {
    from_ns: u64,
    to_ns: u64,
    threads: BTreeMap<u32, Timeline>,
    cpus: Cpus,
    marks: Vec<(u32, u64)>,
    events: usize,
    left_out: u64,
}

impl Filling {
    /// Of this stretch.
    pub(super) fn new((from_ns, to_ns): (u64, u64)) -> Self {
        Self {
            from_ns,
            to_ns,
            threads: BTreeMap::new(),
            cpus: Cpus::default(),
            marks: Vec::new(),
            events: 0,
            left_out: 0,
        }
    }

    fn takes(&mut self) -> bool {
        self.events += 1;
        let takes = self.events <= ISLAND_EVENTS;
        self.left_out += u64::from(!takes);
        takes
    }

    /// Takes what an event says of a thread that has a lane.
    pub(super) fn thread(&mut self, e: &ThreadEvent) {
        if self.takes() {
            self.threads.entry(e.header.tid).or_default().apply(e);
        }
    }

    /// Takes who ran.
    pub(super) fn slice(&mut self, e: &SliceEvent) {
        if self.takes() {
            self.cpus.apply(e);
        }
    }

    /// A thread gave its P up.
    pub(super) fn gave_up(&mut self, tid: u32, ts_ns: u64) {
        if (self.from_ns..self.to_ns).contains(&ts_ns) && self.takes() {
            self.marks.push((tid, ts_ns - self.from_ns));
        }
    }

    /// The island, with the `max` longest of its pieces. `own`: the target's process; `observer`: g211s's.
    pub(super) fn finish(
        self,
        window_start_ns: u64,
        own: u32,
        observer: u32,
        max: usize,
    ) -> Island {
        let (from, to) = (self.from_ns, self.to_ns);
        let mut island = Island {
            from: from.saturating_sub(window_start_ns),
            to: to.saturating_sub(window_start_ns),
            marks: self.marks,
            left_out: self.left_out,
            ..Island::default()
        };
        let mut pieces: Vec<(u32, u64, u64, u8)> = Vec::new();
        for (tid, timeline) in &self.threads {
            let mut put = |s: u64, e: u64, state: u8| {
                // The same state before and after a migration is one piece.
                match pieces.last_mut() {
                    Some(last)
                        if last.0 == *tid && last.3 == state && last.1 + last.2 == s - from =>
                    {
                        last.2 += e - s;
                    }
                    _ if s < e => pieces.push((*tid, s - from, e - s, state)),
                    _ => {}
                }
            };
            timeline.walk(from, to, |s, e, piece| {
                let Some(piece) = piece else { return };
                let (off, on) = piece.throttled(s, e);
                put(s, off, piece.state as u8);
                put(off, on, THROTTLED);
                put(on, e, piece.state as u8);
            });
        }
        island.left_out += longest(&mut pieces, max, |p| p.2);
        for (tid, at, ns, state) in pieces {
            island.tid.push(tid);
            island.at.push(at);
            island.ns.push(ns);
            island.state.push(state);
        }
        let mut slices: Vec<(u16, u64, u64, usize)> = Vec::new();
        let mut known: BTreeMap<(u32, u32, [u8; 16]), usize> = BTreeMap::new();
        for (cpu, s) in self.cpus.iter() {
            let (start, end) = (s.start_ns.max(from), s.end_ns.min(to));
            if start >= end {
                continue;
            }
            let who = match s.tid {
                0 => "idle",
                _ if s.tgid == own => "own",
                _ if s.tgid == observer && observer != 0 => "g211s",
                _ => "other",
            };
            let index = *known.entry((s.tgid, s.tid, s.comm)).or_insert_with(|| {
                island.runners.push(Runner { pid: s.tgid, tid: s.tid, comm: comm(&s.comm), who });
                island.runners.len() - 1
            });
            slices.push((cpu, start - from, end - start, index));
        }
        island.left_out += longest(&mut slices, max, |s| s.2);
        for (cpu, at, ns, who) in slices {
            island.cpu.push(cpu);
            island.ran_at.push(at);
            island.ran_ns.push(ns);
            island.ran.push(who);
        }
        island
    }
}

/// Keeps the `max` longest, in their order; returns how many were dropped.
fn longest<T: Copy>(list: &mut Vec<T>, max: usize, length: impl Fn(&T) -> u64) -> u64 {
    let Some(over) = list.len().checked_sub(max).filter(|n| *n > 0) else { return 0 };
    let mut lengths: Vec<u64> = list.iter().map(&length).collect();
    let (_, bar, _) = lengths.select_nth_unstable_by(max, |a, b| b.cmp(a));
    let bar = *bar;
    // Of those as long as the bar as many as fit, the earliest.
    let mut equals = max - list.iter().filter(|t| length(t) > bar).count();
    list.retain(|t| {
        let l = length(t);
        if l == bar && equals > 0 {
            equals -= 1;
            return true;
        }
        l > bar
    });
    over as u64
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::ascii::Scene;

    /// = running, w and p waiting, _ asleep, D uninterruptible. One character is a bin's length.
    fn scene() -> Scene {
        Scene::new(1000).thread(7, "__wwww====pppp==DD", "000000000000000000").cpu(
            0,
            "9999997777889977",
            &[(9, "hog"), (8, "g")],
        )
    }

    #[test]
    fn bins_hold_each_nanosecond_once() {
        let mut bins = Bins::new((0, 1000 * BINS as u64));
        for _ in 0..2 {
            for e in &scene().transitions {
                bins.thread(e);
            }
        }
        let sums = bins.ns.iter().fold([0; 4], |mut sums, b| {
            (0..4).for_each(|i| sums[i] += b[i]);
            sums
        });
        assert_eq!(sums, [6000, 8000, 1999, 2000], "time 0 means unknown, so scenes begin at 1");
        assert!(bins.ns.iter().all(|b| b.iter().sum::<u64>() <= 1000));
        let digits = bins.digits();
        assert_eq!(digits.len(), 4 * BINS);
        assert_eq!(&digits[..12], "00y000z00z00");
    }

    #[test]
    fn bins_of_a_hostile_window_do_no_harm() {
        for window in [(0, 0), (5, 3), (0, u64::MAX), (u64::MAX, u64::MAX)] {
            let mut bins = Bins::new(window);
            bins.add(0, u64::MAX, RUNS);
            bins.add(7, 3, RUNS);
            assert_eq!(bins.digits().len(), 4 * BINS);
        }
    }

    #[test]
    fn an_island_holds_pieces_runners_and_marks() {
        let scene = scene();
        let mut filling = Filling::new((3000, 15_000));
        for e in &scene.transitions {
            filling.thread(e);
        }
        for e in &scene.slices {
            filling.slice(e);
        }
        filling.gave_up(7, 9000);
        filling.gave_up(7, 2000);
        let island = filling.finish(1000, crate::model::ascii::TGID, 8, 100);
        assert_eq!((island.from, island.to), (2000, 14_000));
        assert_eq!(island.at, [0, 3000, 7000, 11_000]);
        assert_eq!(island.ns, [3000, 4000, 4000, 1000]);
        assert_eq!(island.state, [2, 1, 3, 1]);
        assert_eq!(island.marks, [(7, 6000)]);
        let who: Vec<_> = island.runners.iter().map(|r| (r.comm.as_str(), r.who)).collect();
        assert_eq!(who, [("hog", "other"), ("svc", "own"), ("g", "g211s")]);
        assert_eq!((island.ran_at[0], island.ran_ns[0]), (0, 3000));
    }

    #[test]
    fn of_too_many_pieces_the_longest_stay_in_their_order() {
        let mut list: Vec<u64> = vec![5, 1, 9, 5, 5, 2];
        assert_eq!(longest(&mut list, 3, |n| *n), 3);
        assert_eq!(list, [5, 9, 5]);
        assert_eq!(longest(&mut list, 3, |n| *n), 0);
        assert_eq!(longest(&mut list, 0, |n| *n), 3);
        assert!(list.is_empty());
    }
}
