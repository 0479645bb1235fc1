//! Long waits for a CPU and long uninterruptible sleeps, one by one: how many, and the worst with what they
//! went to. Must not know reports.

use std::collections::BTreeMap;

use g211s_ebpf::event::{THREAD_OUTLIER, ThreadEvent, ThreadState};

use super::verdict::{Ahead, CauseKind, Runner, Wait, asleep_in_kernel, behind};
use crate::model::{cpus::Cpus, threads::Threads};

/// Delays that are kept one by one.
pub const WORST: usize = 50;

/// One wait for a CPU of at least the threshold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Delay {
    /// Who waited.
    pub tid: u32,
    /// Since when, ns.
    pub start_ns: u64,
    /// How long, ns.
    pub wait_ns: u64,
    /// How it came to wait.
    pub wait: Wait,
    /// The CPU it got.
    pub cpu: u16,
    /// Who ran meanwhile on the CPU it waited for, longest first, ns each.
    pub behind: Vec<(Runner, u64)>,
    /// Of the wait, while a CPU quota kept the thread off all CPUs, ns.
    pub throttled_ns: u64,
    /// Of the wait, while that CPU idled, ns.
    pub idle_ns: u64,
    /// Of the wait, without evidence who ran, ns.
    pub unknown_ns: u64,
}

/// One uninterruptible sleep of at least the threshold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sleep {
    /// Who slept.
    pub tid: u32,
    /// Since when, ns.
    pub start_ns: u64,
    /// How long, ns.
    pub ns: u64,
    /// `PageFault` or `Uninterruptible`.
    pub kind: CauseKind,
    /// In which system call, where known.
    pub syscall: Option<i32>,
}

/// The long uninterruptible sleeps of one target.
#[derive(Clone, Debug, Default)]
pub struct Sleeps {
    /// All of them.
    pub count: u64,
    /// Those that overlap a stop of the world.
    pub in_stw: u64,
    /// The longest that overlap none, longest first.
    pub worst: Vec<Sleep>,
}

/// A delay that is over.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Long {
    /// A wait for a CPU.
    Wait(Delay),
    /// An uninterruptible sleep.
    Sleep(Sleep),
}

/// The long delays of one target.
#[derive(Clone, Debug, Default)]
pub struct Delays {
    /// All of them.
    pub count: u64,
    /// Those that overlap a stop of the world: they are in the stops' verdicts.
    pub in_stw: u64,
    /// The longest of each kind, whatever it overlaps.
    pub largest: BTreeMap<Wait, Delay>,
    /// The longest that overlap none, longest first.
    pub worst: Vec<Delay>,
    /// Uninterruptible sleeps, which are no part of the above.
    pub asleep: Sleeps,
}

impl Delays {
    /// Takes a thread's event, after `threads` and `cpus` have taken it and all before it. Returns what it ends if
    /// that is a long wait or sleep in no stop.
    pub fn apply(
        &mut self,
        e: &ThreadEvent,
        threads: &Threads,
        cpus: &Cpus,
        in_stw: bool,
    ) -> Option<Long> {
        if let Some(sleep) = Self::sleep_of(e) {
            self.asleep.apply(sleep.clone(), in_stw);
            return (!in_stw).then_some(Long::Sleep(sleep));
        }
        let wait = Self::wait_of(e)?;
        self.count += 1;
        self.in_stw += u64::from(in_stw);
        let (start_ns, end) = (e.since_ns, e.header.ts_ns);
        let wait_ns = end - start_ns;
        let is_largest = self.largest.get(&wait).is_none_or(|d| d.wait_ns < wait_ns);
        let too_short =
            self.worst.len() >= WORST && self.worst.last().is_some_and(|d| d.wait_ns >= wait_ns);
        let is_worst = !in_stw && !too_short;
        if !is_largest && in_stw {
            return None;
        }
        let mut ahead = BTreeMap::new();
        let (mut throttled_ns, mut idle_ns, mut unknown_ns) = (0, 0, 0);
        let tid = e.header.tid;
        threads.walk(tid, start_ns, end, |s, t, piece| {
            let Some(piece) = piece.filter(|p| p.state.is_runnable()) else {
                unknown_ns += t - s;
                return;
            };
            behind(cpus, tid, piece, s, t, |who, ns| match who {
                Ahead::Runner(runner) => *ahead.entry(runner).or_insert(0) += ns,
                Ahead::Quota => throttled_ns += ns,
                Ahead::Idle => idle_ns += ns,
                Ahead::Unknown => unknown_ns += ns,
            });
        });
        let mut behind: Vec<(Runner, u64)> = ahead.into_iter().collect();
        behind.sort_by_key(|&(_, ns)| std::cmp::Reverse(ns));
        let cpu = e.header.cpu;
        let delay =
            Delay { tid, start_ns, wait_ns, wait, cpu, behind, throttled_ns, idle_ns, unknown_ns };
        if is_worst {
            let at = self.worst.partition_point(|d| d.wait_ns >= wait_ns);
            self.worst.insert(at, delay.clone());
            self.worst.truncate(WORST);
        }
        if is_largest {
            self.largest.insert(wait, delay.clone());
        }
        (!in_stw).then_some(Long::Wait(delay))
    }

    /// The wait that an event reports as long, if it does: one that ended on a CPU.
    pub fn wait_of(e: &ThreadEvent) -> Option<Wait> {
        let running = e.to == ThreadState::Running as u8;
        if e.flags & THREAD_OUTLIER == 0 || !running || e.since_ns == 0 {
            return None;
        }
        let state = ThreadState::from_u8(e.from)?;
        Wait::of(state).filter(|_| e.since_ns < e.header.ts_ns)
    }

    /// The uninterruptible sleep that an event reports as long, if it does: one that a wakeup ended.
    pub fn sleep_of(e: &ThreadEvent) -> Option<Sleep> {
        let over = e.from == ThreadState::BlockedUninterruptible as u8 && e.to != e.from;
        if e.flags & THREAD_OUTLIER == 0 || !over || e.since_ns == 0 {
            return None;
        }
        let ns = e.header.ts_ns.checked_sub(e.since_ns).filter(|ns| *ns > 0)?;
        Some(Sleep {
            tid: e.header.tid,
            start_ns: e.since_ns,
            ns,
            kind: asleep_in_kernel(e.syscall),
            syscall: (e.syscall >= 0).then_some(e.syscall),
        })
    }
}

impl Sleeps {
    fn apply(&mut self, sleep: Sleep, in_stw: bool) {
        self.count += 1;
        if in_stw {
            self.in_stw += 1;
            return;
        }
        let at = self.worst.partition_point(|s| s.ns >= sleep.ns);
        if at < WORST {
            self.worst.insert(at, sleep);
            self.worst.truncate(WORST);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::ascii::Scene;

    #[test]
    fn a_long_wait_across_two_queues() {
        let mut scene = Scene::new(10)
            .thread(7, "==pppppppp==", "000000111111")
            .cpu(0, "..9999", &[(9, "hog")])
            .cpu(1, "......805", &[(8, "other"), (5, "late")]);
        scene.transitions.iter_mut().for_each(|e| e.flags |= THREAD_OUTLIER);
        let (threads, cpus) = (scene.threads(), scene.cpus());
        let mut delays = Delays::default();
        for e in &scene.transitions {
            delays.apply(e, &threads, &cpus, false);
        }
        assert_eq!((delays.count, delays.in_stw), (1, 0));
        let d = &delays.worst[0];
        assert_eq!((d.tid, d.start_ns, d.wait_ns, d.wait), (7, 20, 80, Wait::Preempted));
        let names: Vec<(u32, u64)> = d.behind.iter().map(|(r, ns)| (r.tid, *ns)).collect();
        assert_eq!(names, [(9, 40), (5, 10), (8, 10)]);
        assert_eq!((d.idle_ns, d.unknown_ns), (10, 10));
    }

    #[test]
    fn a_wait_for_a_quota_and_a_page_fault() {
        let scene = Scene::new(10)
            .thread(7, "=pppppp=DDDDDDw=", "0000000000000000")
            .cpu(0, "7889900777777777", &[(8, "hog"), (9, "other")])
            .tell(7, 3, |e| (e.kept_off_ns, e.kept_off_after_ns) = (30, 10))
            .tell(7, 9, |e| e.syscall = -1);
        let mut delays = Delays::default();
        for mut e in scene.transitions.clone() {
            e.flags = THREAD_OUTLIER;
            delays.apply(&e, &scene.threads(), &scene.cpus(), false);
        }
        let d = &delays.worst[0];
        let behind: u64 = d.behind.iter().map(|(_, ns)| ns).sum();
        assert_eq!((d.wait_ns, d.throttled_ns, behind, d.idle_ns), (60, 30, 10, 20));
        let sleep =
            Sleep { tid: 7, start_ns: 80, ns: 60, kind: CauseKind::PageFault, syscall: None };
        assert_eq!((delays.asleep.count, &delays.asleep.worst[..]), (1, &[sleep][..]));
    }

    #[test]
    fn the_worst_are_kept_and_all_are_counted() {
        let mut delays = Delays::default();
        let scene = Scene::new(10).thread(7, "=pp=", "0000");
        let mut e = scene.transitions[1];
        e.flags = THREAD_OUTLIER;
        for i in 0..200 {
            e.header.ts_ns = e.since_ns + 10 + i % 100;
            delays.apply(&e, &scene.threads(), &scene.cpus(), i == 0);
        }
        assert_eq!((delays.count, delays.in_stw, delays.worst.len()), (200, 1, WORST));
        assert_eq!(delays.worst[0].wait_ns, 109);
        assert!(delays.worst.windows(2).all(|w| w[0].wait_ns >= w[1].wait_ns));
    }
}
