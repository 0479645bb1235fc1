//! What all of a run's stalls went to, by cause: the stops of the world, and the long waits for a CPU and
//! uninterruptible sleeps outside them. Must not know reports.
//!
//! No nanosecond of a thread counts twice: of a wait that overlaps a stop only the part outside counts,
//! since the stop's own verdict has the rest. A wait is therefore held back until the stops that it
//! overlaps have been judged.

use std::collections::BTreeMap;

use g211s_ebpf::event::ThreadState;

use super::verdict::{Ahead, CauseKind, Runner, Verdict, asleep_in_kernel, behind};
use crate::model::{cpus::Cpus, threads::Threads};

/// Waits held back at most: they overlap a stop that has not been judged, which takes two seconds at most.
/// More are counted as they are, without what overlaps a stop that is still open.
const HELD: usize = 65_536;

/// What tells one row of the table from another: the cause, and the process ahead.
type Key = (CauseKind, Option<u32>);

/// Time with one cause.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stall {
    /// What.
    pub kind: CauseKind,
    /// Run-queue waits: behind whom (a task of the process that is meant); `None`: nobody known.
    pub behind: Option<Runner>,
    /// How long in all, ns.
    pub ns: u64,
    /// In how many stops and waits.
    pub count: u64,
    /// The most in one of them, ns.
    pub worst_ns: u64,
}

/// Time of one thread's waits and sleeps outside stops with one cause.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Waited {
    /// Run-queue waits: behind whom (a task of the process that is meant).
    pub behind: Option<Runner>,
    /// How long in all, ns.
    pub ns: u64,
    /// In how many waits.
    pub count: u64,
}

/// A long wait for a CPU or sleep.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stretch {
    /// Whose.
    pub tid: u32,
    /// From when, ns.
    pub start_ns: u64,
    /// To when, ns.
    pub end_ns: u64,
}

/// The table as it grows.
#[derive(Clone, Debug, Default)]
pub struct Stalls {
    by_cause: BTreeMap<Key, Stall>,
    /// Of that, what waits and sleeps outside stops have, by thread.
    waited: BTreeMap<(u32, Key), Waited>,
    held: Vec<Stretch>,
    /// Time of stops, ns.
    pub stw_ns: u64,
    /// Stops.
    pub stops: u64,
    /// Time of waits and sleeps outside stops, ns.
    pub delays_ns: u64,
    /// Waits and sleeps that were outside stops at least in part.
    pub delays: u64,
}

impl Stalls {
    /// Takes a stop.
    pub fn stop(&mut self, verdict: &Verdict) {
        let mut parts = BTreeMap::new();
        for c in &verdict.causes {
            charge(&mut parts, c.key.kind, c.key.behind, c.ns);
        }
        self.stops += 1;
        self.stw_ns = self.stw_ns.saturating_add(self.add(parts));
    }

    /// Takes a wait that overlaps no stop which is still to be judged; `stops` are the judged ones that it may
    /// overlap, in any order, none of them overlapping another.
    pub fn wait(
        &mut self,
        wait: Stretch,
        stops: impl Iterator<Item = (u64, u64)>,
        threads: &Threads,
        cpus: &Cpus,
    ) {
        let mut stops: Vec<(u64, u64)> =
            stops.filter(|s| s.0 < wait.end_ns && wait.start_ns < s.1).collect();
        stops.sort_unstable();
        let mut parts = BTreeMap::new();
        let mut at = wait.start_ns;
        for (start, end) in stops {
            waited(&mut parts, wait.tid, at, start.max(at), threads, cpus);
            at = at.max(end);
        }
        waited(&mut parts, wait.tid, at, wait.end_ns, threads, cpus);
        for (key, (behind, ns)) in &parts {
            let waited = self.waited.entry((wait.tid, *key)).or_default();
            waited.behind = waited.behind.or(*behind);
            waited.ns = waited.ns.saturating_add(*ns);
            waited.count += 1;
        }
        let ns = self.add(parts);
        self.delays += u64::from(ns > 0);
        self.delays_ns = self.delays_ns.saturating_add(ns);
    }

    /// Keeps a wait until [`Self::release`]; gives it back if there is no room.
    pub fn hold(&mut self, wait: Stretch) -> Option<Stretch> {
        if self.held.len() >= HELD {
            return Some(wait);
        }
        self.held.push(wait);
        None
    }

    /// Waits that were held and need to be no longer, as `undecided` (from, to) tells of each.
    pub fn release(&mut self, undecided: impl Fn(u64, u64) -> bool) -> Vec<Stretch> {
        let (keep, free) = self.held.drain(..).partition(|w| undecided(w.start_ns, w.end_ns));
        self.held = keep;
        free
    }

    /// Adds what one stop or wait went to; how long that was.
    fn add(&mut self, parts: BTreeMap<Key, (Option<Runner>, u64)>) -> u64 {
        let mut all = 0u64;
        for ((kind, process), (behind, ns)) in parts {
            let stall = self.by_cause.entry((kind, process)).or_insert(Stall {
                kind,
                behind,
                ns: 0,
                count: 0,
                worst_ns: 0,
            });
            stall.ns = stall.ns.saturating_add(ns);
            stall.count += 1;
            stall.worst_ns = stall.worst_ns.max(ns);
            all = all.saturating_add(ns);
        }
        all
    }

    /// What was counted so far, and the table that goes on without it.
    pub fn split(self) -> (Self, Self) {
        let held = self.held;
        (Self { held: Vec::new(), ..self }, Self { held, ..Self::default() })
    }

    /// What waits and sleeps outside stops went to, by thread and cause.
    pub fn waited(&self) -> impl Iterator<Item = (u32, CauseKind, &Waited)> {
        self.waited.iter().map(|((tid, (kind, _)), waited)| (*tid, *kind, waited))
    }

    /// The rows, most time first.
    pub fn rows(&self) -> Vec<&Stall> {
        let mut rows: Vec<&Stall> = self.by_cause.values().collect();
        rows.sort_by_key(|s| std::cmp::Reverse(s.ns));
        rows
    }
}

type Parts = BTreeMap<Key, (Option<Runner>, u64)>;

fn charge(parts: &mut Parts, kind: CauseKind, behind: Option<Runner>, ns: u64) {
    if ns > 0 {
        let part = parts.entry((kind, behind.map(|r| r.tgid))).or_insert((behind, 0));
        part.1 = part.1.saturating_add(ns);
    }
}

/// Charges `[from, to)` of a thread's wait or sleep.
fn waited(parts: &mut Parts, tid: u32, from: u64, to: u64, threads: &Threads, cpus: &Cpus) {
    if from >= to {
        return;
    }
    threads.walk(tid, from, to, |s, e, piece| {
        let Some(piece) = piece.filter(|p| p.state.is_runnable()) else {
            let asleep = piece.filter(|p| p.state == ThreadState::BlockedUninterruptible);
            let kind = asleep.map_or(CauseKind::Unexplained, |p| asleep_in_kernel(p.syscall));
            charge(parts, kind, None, e - s);
            return;
        };
        behind(cpus, tid, piece, s, e, |ahead, ns| match ahead {
            Ahead::Runner(runner) => {
                charge(parts, CauseKind::RunqueueWait, Some(runner), ns);
            }
            Ahead::Quota => charge(parts, CauseKind::CfsThrottled, None, ns),
            Ahead::Idle => charge(parts, CauseKind::WakeupLatency, None, ns),
            Ahead::Unknown => charge(parts, CauseKind::RunqueueWait, None, ns),
        });
    });
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::model::ascii::Scene;

    fn rows(stalls: &Stalls) -> Vec<(CauseKind, Option<u32>, u64, u64, u64)> {
        let row = |s: &&Stall| (s.kind, s.behind.map(|r| r.tgid), s.ns, s.count, s.worst_ns);
        stalls.rows().iter().map(row).collect()
    }

    #[test]
    fn of_a_wait_across_a_stop_the_part_outside_counts() {
        // The stop is [40, 70).
        let scene = Scene::new(10).thread(7, "==pppppppp==", "000000000000").cpu(
            0,
            "..999980..77",
            &[(9, "hog"), (8, "other")],
        );
        let (threads, cpus) = (scene.threads(), scene.cpus());
        let mut stalls = Stalls::default();
        let wait = Stretch { tid: 7, start_ns: 20, end_ns: 100 };
        assert_eq!(stalls.hold(wait), None);
        assert_eq!(stalls.release(|_, to| to > 40), []);
        assert_eq!(stalls.release(|_, _| false), [wait]);
        let stops = [(200, 300), (40, 70), (1, 15)];
        stalls.wait(wait, stops.into_iter(), &threads, &cpus);
        assert_eq!((stalls.delays, stalls.delays_ns, stalls.stw_ns), (1, 50, 0));
        // [20, 40) behind the hog, [70, 80) idle, [80, 100) nobody known.
        assert_eq!(
            rows(&stalls),
            [
                (CauseKind::RunqueueWait, None, 20, 1, 20),
                (CauseKind::RunqueueWait, Some(9), 20, 1, 20),
                (CauseKind::WakeupLatency, None, 10, 1, 10),
            ]
        );
        let inside = Stretch { start_ns: 45, end_ns: 65, ..wait };
        stalls.wait(inside, stops.into_iter(), &threads, &cpus);
        assert_eq!((stalls.delays, stalls.delays_ns), (1, 50));
    }

    proptest! {
        #[test]
        fn every_nanosecond_outside_stops_counts_once(
            cuts in prop::collection::btree_set(1u64..300, 0..12),
            (start_ns, length) in (1u64..200, 1u64..100),
        ) {
            let scene = Scene::new(10)
                .thread(7, "==pppppp..pppppp==pppp", "0000000000000000000000")
                .cpu(0, "..99..9980999", &[(9, "hog"), (8, "other")]);
            let cuts: Vec<u64> = cuts.into_iter().collect();
            let stops: Vec<(u64, u64)> = cuts.chunks_exact(2).map(|c| (c[0], c[1])).collect();
            let end_ns = start_ns + length;
            let mut stalls = Stalls::default();
            let wait = Stretch { tid: 7, start_ns, end_ns };
            stalls.wait(wait, stops.iter().rev().copied(), &scene.threads(), &scene.cpus());
            let outside = (start_ns..end_ns)
                .filter(|t| !stops.iter().any(|s| (s.0..s.1).contains(t)))
                .count() as u64;
            prop_assert_eq!(stalls.delays_ns, outside);
            prop_assert_eq!(stalls.rows().iter().map(|s| s.ns).sum::<u64>(), outside);
            prop_assert_eq!(stalls.waited().map(|(_, _, w)| w.ns).sum::<u64>(), outside);
        }
    }
}
