//! Per thread: what events prove about its scheduler state over time. Must not know CPUs' runners,
//! stops or reports.
//!
//! One [`ThreadEvent`] proves the whole interval `[since_ns, ts_ns)`, so a lost event leaves a gap
//! in one thread's timeline and nothing else.

use std::collections::{BTreeMap, VecDeque};

use g211s_ebpf::event::{THREAD_KEPT_OFF_AGAIN, ThreadEvent, ThreadState};

use crate::order::place_from_end;

/// A thread was in one state during `[start_ns, end_ns)`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Piece {
    /// Beginning, ns.
    pub start_ns: u64,
    /// End (exclusive), ns.
    pub end_ns: u64,
    /// The state.
    pub state: ThreadState,
    /// Running: the CPU. Runnable: the CPU whose queue it was on; `None` where not known.
    pub cpu: Option<u16>,
    /// Blocked: the system call, as `ThreadEvent::syscall`.
    pub syscall: i32,
    /// What else is known of the stay that it is a part of.
    pub stay: Stay,
}

/// A stay in one state, on one CPU or its queue, as one event tells it. What it says about the whole, it does
/// not say about a part; see [`Piece::throttled`] and [`Piece::missed`]. All ns.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stay {
    start: u64,
    end: u64,
    irq: u32,
    kept_off: u32,
    kept_off_after: u32,
    kept_off_again: bool,
    waker: u32,
}

/// What a CPU did while a thread was running on it and was not run by it, ns.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Missed {
    /// Nothing: the hypervisor did not run the CPU.
    pub stolen_ns: u64,
    /// It served interrupts.
    pub irq_ns: u64,
}

impl Piece {
    /// From when to when within `[from_ns, to_ns)` of a wait a CPU quota kept the thread off its queue; empty
    /// if never.
    pub fn throttled(&self, from_ns: u64, to_ns: u64) -> (u64, u64) {
        if !self.state.is_runnable() || self.stay.kept_off == 0 {
            return (to_ns, to_ns);
        }
        let start = self.stay.start.saturating_add(self.stay.kept_off_after.into());
        let end = start.saturating_add(self.stay.kept_off.into()).min(self.stay.end);
        (start.clamp(from_ns, to_ns), end.clamp(from_ns, to_ns))
    }

    /// Where a CPU quota kept the thread off its queue several times: from when to when that may have been, and
    /// for how long in all. [`Self::throttled`] does not tell then.
    pub fn throttled_again(&self) -> Option<(u64, u64, u64)> {
        let known = self.state.is_runnable() && self.stay.kept_off_again && self.stay.kept_off > 0;
        let start = self.stay.start.saturating_add(self.stay.kept_off_after.into());
        known.then_some((start.min(self.stay.end), self.stay.end, self.stay.kept_off.into()))
    }

    /// Asleep: the thread that woke it, by the CPU that the wakeup came from. After a timeout that is whoever
    /// ran there.
    pub fn waker(&self) -> Option<u32> {
        (self.state == ThreadState::Blocked && self.stay.waker != 0).then_some(self.stay.waker)
    }

    /// Of `[from_ns, to_ns)` on a CPU, what the thread certainly missed. It missed that much in the whole stay,
    /// and what may lie outside of the part is left out.
    pub fn missed(&self, from_ns: u64, to_ns: u64) -> Missed {
        if self.state != ThreadState::Running {
            return Missed::default();
        }
        let whole = self.stay.end.saturating_sub(self.stay.start);
        let outside = whole.saturating_sub(to_ns.saturating_sub(from_ns));
        let stolen = u64::from(self.stay.kept_off).min(whole);
        let irq = u64::from(self.stay.irq).min(whole - stolen);
        Missed { stolen_ns: stolen.saturating_sub(outside), irq_ns: irq.saturating_sub(outside) }
    }
}

/// One thread's proven intervals: ascending, never overlapping. Gaps are unknown.
#[derive(Clone, Debug, Default)]
pub struct Timeline {
    pieces: VecDeque<Piece>,
    proven_until_ns: u64,
}

/// Sums over everything that events proved about a thread, ns.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ThreadSums {
    /// On a CPU.
    pub on_cpu_ns: u64,
    /// On a run queue since a wakeup.
    pub woken_ns: u64,
    /// On a run queue since a preemption.
    pub preempted_ns: u64,
    /// On a run queue since a yield.
    pub yielded_ns: u64,
    /// Asleep or stopped.
    pub blocked_ns: u64,
    /// Asleep in state D.
    pub uninterruptible_ns: u64,
}

impl Timeline {
    /// Adds what an event proves; what was proven before stays as it was. Returns the sums of the
    /// new part.
    pub fn apply(&mut self, e: &ThreadEvent) -> ThreadSums {
        let mut sums = ThreadSums::default();
        let ts = e.header.ts_ns;
        // `since_ns` 0: first sight of the thread, nothing is proven.
        if e.since_ns == 0 || e.since_ns >= ts {
            return sums;
        }
        let Some(state) = ThreadState::from_u8(e.from) else { return sums };
        if matches!(state, ThreadState::Unknown | ThreadState::Exited) {
            return sums;
        }
        self.proven_until_ns = self.proven_until_ns.max(ts);
        let piece = Piece {
            start_ns: e.since_ns,
            end_ns: ts,
            state,
            cpu: Some(e.prev_cpu),
            syscall: e.syscall,
            stay: Stay {
                start: e.since_ns,
                end: ts,
                irq: e.irq_ns,
                kept_off: e.kept_off_ns,
                kept_off_after: e.kept_off_after_ns,
                kept_off_again: e.flags & THREAD_KEPT_OFF_AGAIN != 0,
                waker: if e.to == ThreadState::RunnableWoken as u8 { e.peer_tid } else { 0 },
            },
        };
        if state.is_runnable() {
            // Before it moved to this queue it waited on another, which only the migration's own
            // event names.
            let queued = e.queued_ns.clamp(e.since_ns, ts);
            let stay = Stay { start: queued, ..piece.stay };
            self.insert(Piece { start_ns: queued, stay, ..piece }, &mut sums);
            let stay = Stay::default();
            self.insert(Piece { end_ns: queued, cpu: None, stay, ..piece }, &mut sums);
        } else {
            self.insert(piece, &mut sums);
        }
        sums
    }

    /// Puts the parts of `new` that nothing covers yet.
    fn insert(&mut self, new: Piece, sums: &mut ThreadSums) {
        if new.start_ns >= new.end_ns {
            return;
        }
        if self.pieces.back().is_none_or(|last| last.end_ns <= new.start_ns) {
            sums.add(&new);
            self.pieces.push_back(new);
            return;
        }
        let mut at = place_from_end(&self.pieces, |p| p.end_ns <= new.start_ns);
        let mut from = new.start_ns;
        while from < new.end_ns {
            let (gap_end, next) = match self.pieces.get(at) {
                Some(p) if p.start_ns < new.end_ns => (p.start_ns, p.end_ns),
                _ => (new.end_ns, new.end_ns),
            };
            if from < gap_end {
                let part = Piece { start_ns: from, end_ns: gap_end, ..new };
                sums.add(&part);
                self.pieces.insert(at, part);
                at += 1;
            }
            from = from.max(next);
            at += 1;
        }
    }

    /// Adds a piece that another timeline has proven; what was proven before stays as it was.
    pub fn add(&mut self, piece: Piece) {
        self.proven_until_ns = self.proven_until_ns.max(piece.end_ns);
        self.insert(piece, &mut ThreadSums::default());
    }

    /// Calls `f(start_ns, end_ns, piece)` over `[from_ns, to_ns)` without hole or overlap; `None`
    /// where nothing is proven.
    pub fn walk(&self, from_ns: u64, to_ns: u64, mut f: impl FnMut(u64, u64, Option<&Piece>)) {
        let mut at = from_ns;
        let first = place_from_end(&self.pieces, |p| p.end_ns <= from_ns);
        for p in self.pieces.range(first..) {
            if p.start_ns >= to_ns {
                break;
            }
            let start = p.start_ns.max(at);
            if at < start {
                f(at, start, None);
            }
            let end = p.end_ns.min(to_ns);
            f(start, end, Some(p));
            at = end;
        }
        if at < to_ns {
            f(at, to_ns, None);
        }
    }

    /// Up to when something is proven, ns.
    pub fn proven_until_ns(&self) -> u64 {
        self.proven_until_ns
    }

    /// Forgets what ended before `before_ns`.
    pub fn prune(&mut self, before_ns: u64) {
        while self.pieces.front().is_some_and(|p| p.end_ns < before_ns) {
            self.pieces.pop_front();
        }
        // A burst must not keep its memory.
        if self.pieces.capacity() > 1024 && self.pieces.len() < self.pieces.capacity() / 8 {
            self.pieces.shrink_to(self.pieces.len() * 2);
        }
    }
}

impl ThreadSums {
    fn add(&mut self, p: &Piece) {
        let ns = p.end_ns - p.start_ns;
        match p.state {
            ThreadState::Running => self.on_cpu_ns = self.on_cpu_ns.saturating_add(ns),
            ThreadState::RunnableWoken => self.woken_ns = self.woken_ns.saturating_add(ns),
            ThreadState::RunnablePreempted => {
                self.preempted_ns = self.preempted_ns.saturating_add(ns);
            }
            ThreadState::RunnableYielded => self.yielded_ns = self.yielded_ns.saturating_add(ns),
            ThreadState::Blocked | ThreadState::Stopped => {
                self.blocked_ns = self.blocked_ns.saturating_add(ns);
            }
            ThreadState::BlockedUninterruptible => {
                self.uninterruptible_ns = self.uninterruptible_ns.saturating_add(ns);
            }
            ThreadState::Unknown | ThreadState::Exited => {}
        }
    }

    /// Adds another part's sums.
    pub fn merge(&mut self, other: &Self) {
        self.on_cpu_ns = self.on_cpu_ns.saturating_add(other.on_cpu_ns);
        self.woken_ns = self.woken_ns.saturating_add(other.woken_ns);
        self.preempted_ns = self.preempted_ns.saturating_add(other.preempted_ns);
        self.yielded_ns = self.yielded_ns.saturating_add(other.yielded_ns);
        self.blocked_ns = self.blocked_ns.saturating_add(other.blocked_ns);
        self.uninterruptible_ns = self.uninterruptible_ns.saturating_add(other.uninterruptible_ns);
    }

    /// On any run queue.
    pub fn runnable_ns(&self) -> u64 {
        self.woken_ns.saturating_add(self.preempted_ns).saturating_add(self.yielded_ns)
    }
}

/// The threads of one target.
#[derive(Clone, Debug)]
pub struct Threads {
    /// Where in `all` each is.
    by_tid: BTreeMap<u32, usize>,
    all: Vec<Thread>,
    /// The same as `by_tid` of those looked for lately, by the low bits of their tids: nearly every event of a
    /// run asks for one of a few threads.
    lately: [(u32, usize); LATELY],
}

/// A power of two.
const LATELY: usize = 64;

impl Default for Threads {
    fn default() -> Self {
        // No thread has tid 0.
        Self { by_tid: BTreeMap::new(), all: Vec::new(), lately: [(0, 0); LATELY] }
    }
}

/// What is kept of one thread.
#[derive(Clone, Debug, Default)]
pub struct Thread {
    /// What it did lately.
    pub timeline: Timeline,
    /// What it did in all, as far as events prove it.
    pub sums: ThreadSums,
    /// Events about it.
    pub events: u64,
    /// When it exited, ns, if it did.
    pub exited_ns: Option<u64>,
}

impl Threads {
    /// Takes an event of one of the threads.
    pub fn apply(&mut self, e: &ThreadEvent) {
        let thread = self.known(e.header.tid);
        let sums = thread.timeline.apply(e);
        thread.sums.merge(&sums);
        thread.events += 1;
        thread.exited_ns = (e.to == ThreadState::Exited as u8).then_some(e.header.ts_ns);
    }

    /// One thread, new if it was not known.
    fn known(&mut self, tid: u32) -> &mut Thread {
        let lately = &mut self.lately[tid as usize % LATELY];
        if lately.0 != tid || tid == 0 {
            let all = &mut self.all;
            let at = *self.by_tid.entry(tid).or_insert_with(|| {
                all.push(Thread::default());
                all.len() - 1
            });
            *lately = (tid, at);
        }
        &mut self.all[lately.1]
    }

    /// One thread.
    pub fn get(&self, tid: u32) -> Option<&Thread> {
        let at = match self.lately[tid as usize % LATELY] {
            (lately, at) if lately == tid && tid != 0 => at,
            _ => *self.by_tid.get(&tid)?,
        };
        Some(&self.all[at])
    }

    /// All threads, by tid.
    pub fn iter(&self) -> impl Iterator<Item = (u32, &Thread)> {
        self.by_tid.iter().map(|(tid, at)| (*tid, &self.all[*at]))
    }

    /// [`Timeline::walk`] of one thread; all unknown for a thread never seen.
    pub fn walk(&self, tid: u32, from: u64, to: u64, mut f: impl FnMut(u64, u64, Option<&Piece>)) {
        match self.get(tid) {
            Some(t) => t.timeline.walk(from, to, f),
            None if from < to => f(from, to, None),
            None => {}
        }
    }

    /// Whether everything about the thread up to `ts_ns` has arrived.
    pub fn proven_past(&self, tid: u32, ts_ns: u64) -> bool {
        self.get(tid).is_some_and(|t| t.timeline.proven_until_ns >= ts_ns)
    }

    /// Forgets some threads altogether.
    pub fn remove(&mut self, tids: &[u32]) {
        if tids.iter().all(|tid| !self.by_tid.contains_key(tid)) {
            return;
        }
        for tid in tids {
            self.by_tid.remove(tid);
        }
        self.lately = [(0, 0); LATELY];
        let mut all = std::mem::take(&mut self.all);
        for at in self.by_tid.values_mut() {
            self.all.push(std::mem::take(&mut all[*at]));
            *at = self.all.len() - 1;
        }
    }

    /// Forgets timelines before `before_ns`; the sums stay.
    pub fn prune(&mut self, before_ns: u64) {
        for t in &mut self.all {
            t.timeline.prune(before_ns);
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::model::ascii::{Scene, picture};

    #[test]
    fn a_wait_is_cut_where_the_thread_migrated() {
        // = running, w woken and waiting, _ asleep, . unknown. Second line: the CPU.
        let scene = Scene::new(10).thread(7, "===___wwwwwww==", "000...001111111").cpu(
            0,
            "7777777799",
            &[(9, "hog")],
        );
        let threads = scene.threads();
        assert_eq!(picture(&threads, 7, 10, 15), "===___wwwwwww==");
        let mut cpus = Vec::new();
        threads.walk(7, 60, 130, |s, e, p| cpus.push((s, e, p.and_then(|p| p.cpu))));
        assert_eq!(cpus, [(60, 80, Some(0)), (80, 130, Some(1))]);
    }

    #[test]
    fn a_lost_event_leaves_a_gap_and_a_lost_migration_an_unknown_queue() {
        let scene = Scene::new(10).thread(7, "===___wwwww==", "000...0011111");
        // Events: asleep at 3, woken at 6, migrated at 8, in at 11, end at 13.
        let threads = scene.threads_without(&[1, 2]);
        assert_eq!(picture(&threads, 7, 10, 13), "===...wwwww==");
        let mut cpus = Vec::new();
        threads.walk(7, 60, 110, |s, e, p| cpus.push((s, e, p.and_then(|p| p.cpu))));
        assert_eq!(cpus, [(60, 80, None), (80, 110, Some(1))]);
    }

    #[test]
    fn a_quota_keeps_a_thread_off_one_queue_for_a_part_of_the_wait() {
        let scene = Scene::new(10)
            .thread(7, "===pppppppp==", "0000000111111")
            .tell(7, 4, |e| (e.kept_off_ns, e.kept_off_after_ns) = (20, 10));
        let off = |scene: &Scene, lost: &[usize]| {
            let mut all = Vec::new();
            scene.threads_without(lost).walk(7, 10, 130, |s, e, p| {
                let (from, to) = p.map_or((e, e), |p| p.throttled(s, e));
                all.extend((from < to).then_some((from, to)));
            });
            all
        };
        assert_eq!(off(&scene, &[]), [(40, 60)]);
        assert_eq!(off(&scene, &[1]), [], "the event of the first queue is lost");
        // A part of the wait has its part of the time off.
        let threads = scene.threads();
        threads.walk(7, 55, 58, |s, e, p| assert_eq!(p.unwrap().throttled(s, e), (55, 58)));
        threads.walk(7, 65, 68, |s, e, p| assert_eq!(p.unwrap().throttled(s, e), (65, 65)));
    }

    #[test]
    fn of_a_part_on_a_cpu_only_what_is_certain_was_missed() {
        let scene = Scene::new(10)
            .thread(7, "_==========", "00000000000")
            .tell(7, 5, |e| (e.irq_ns, e.kept_off_ns) = (20, 60));
        let threads = scene.threads();
        let missed = |from, to| {
            let mut found = (0, 0);
            threads.walk(7, from, to, |s, e, p| {
                let m = p.unwrap().missed(s, e);
                found = (m.stolen_ns, m.irq_ns);
            });
            found
        };
        assert_eq!(missed(10, 110), (60, 20));
        assert_eq!(missed(10, 100), (50, 10));
        assert_eq!(missed(20, 80), (20, 0));
        assert_eq!(missed(20, 40), (0, 0));
    }

    #[test]
    fn pruning_forgets_only_what_is_old() {
        let scene = Scene::new(10).thread(7, "===___wwwww==", "000...0000000");
        let mut threads = scene.threads();
        let sums = threads.get(7).unwrap().sums;
        threads.prune(61);
        assert_eq!(picture(&threads, 7, 10, 13), "......wwwww==");
        assert_eq!(threads.get(7).unwrap().sums, sums);
        assert_eq!(sums.on_cpu_ns, 49, "time 0 means unknown, so scenes begin at 1");
        assert_eq!(sums.runnable_ns(), 50);
    }
}
