//! Network lateness: something was ready (or a thread was woken to take it), and it took long until it was
//! taken. For each of the worst: what the thread that took it did until then, and what all threads of the
//! process did meanwhile. Must not know reports, or how events arrived.
//!
//! A thread that sleeps through the whole time tells so only when it wakes, which may be much later. So a
//! [`Late`] keeps a copy of what is proven about its own time and goes on taking evidence; what it
//! amounts to is worked out at the end ([`explain`]). Time that nothing tells of stays unknown.
//!
//! That nobody has anything for a thread that waits in a poll is idleness, and begins no [`Late`].

use std::collections::BTreeMap;

use g211s_ebpf::event::{
    SYS_EPOLL_PWAIT, SYS_EPOLL_PWAIT2, SYS_EPOLL_WAIT, SpanEvent, SpanWhat, THREAD_OUTLIER,
    ThreadEvent, ThreadState,
};
use serde::Serialize;

use super::verdict::{Ahead, Runner, behind};
use crate::model::{
    cpus::Cpus,
    threads::{Piece, Threads, Timeline},
};

/// Late harvests that are kept one by one.
pub const WORST: usize = 20;

/// `futex` and the sleeps of the Go runtime's own threads: nothing to do.
const IDLE: [i32; 6] = [202, 35, 230, SYS_EPOLL_WAIT, SYS_EPOLL_PWAIT, SYS_EPOLL_PWAIT2];

/// One late harvest, and the evidence about its time.
#[derive(Clone, Debug, Default)]
pub struct Late {
    /// Since when something was ready, ns, where the kernel told.
    pub ready_ns: Option<u64>,
    /// When the thread that took it was woken from its poll, ns; `None`: it did not sleep in one.
    pub woken_ns: Option<u64>,
    /// When it was taken, ns; where only wakeups tell, when the thread ran.
    pub end_ns: u64,
    /// The thread that took it.
    pub tid: u32,
    /// How many events it took, where the kernel told.
    pub events: Option<u32>,
    threads: BTreeMap<u32, Timeline>,
    cpus: Cpus,
}

impl Late {
    /// Since when it was late.
    pub fn start_ns(&self) -> u64 {
        self.ready_ns.or(self.woken_ns).unwrap_or(self.end_ns)
    }

    /// By how much.
    pub fn delay_ns(&self) -> u64 {
        self.end_ns.saturating_sub(self.start_ns())
    }

    /// When the thread that took it was on a CPU after it was woken, ns, if it was.
    pub fn running_ns(&self) -> Option<u64> {
        let woken = self.woken_ns?;
        let mut running = None;
        self.threads.get(&self.tid)?.walk(woken, self.end_ns, |s, e, piece| {
            match piece.map(|p| p.state) {
                Some(ThreadState::Running) => running = running.or(Some(s)),
                Some(state) if state.is_runnable() => running = Some(e),
                _ => {}
            }
        });
        running
    }

    fn covers(&self, e: &ThreadEvent) -> bool {
        e.since_ns < self.end_ns && e.header.ts_ns > self.start_ns()
    }
}

/// The late harvests of one target.
#[derive(Clone, Debug, Default)]
pub struct Lates {
    /// All of them.
    pub count: u64,
    /// The latest of them, latest first.
    pub worst: Vec<Late>,
    newest_end_ns: u64,
}

impl Lates {
    /// Takes a harvest that the kernel told of.
    pub fn harvest(&mut self, e: &SpanEvent, threads: &Threads, cpus: &Cpus) {
        if e.what != SpanWhat::Harvest as u32 || e.start_ns >= e.header.ts_ns {
            return;
        }
        let woken_ns = (e.middle_ns != 0 && e.middle_ns <= e.header.ts_ns).then_some(e.middle_ns);
        let late = Late {
            ready_ns: Some(e.start_ns),
            woken_ns,
            end_ns: e.header.ts_ns,
            tid: e.header.tid,
            events: u32::try_from(e.detail).ok(),
            ..Late::default()
        };
        self.insert(late, threads, cpus);
    }

    /// Takes a thread's event where only wakeups tell of lateness, after `threads` has taken it.
    pub fn wake(&mut self, e: &ThreadEvent, threads: &Threads, cpus: &Cpus) {
        let woken = e.from == ThreadState::RunnableWoken as u8;
        let late = e.flags & THREAD_OUTLIER != 0 && e.to == ThreadState::Running as u8;
        let polled = matches!(e.syscall, SYS_EPOLL_WAIT | SYS_EPOLL_PWAIT | SYS_EPOLL_PWAIT2);
        if !(woken && late && polled) || e.since_ns == 0 || e.since_ns >= e.header.ts_ns {
            return;
        }
        let late = Late {
            woken_ns: Some(e.since_ns),
            end_ns: e.header.ts_ns,
            tid: e.header.tid,
            ..Late::default()
        };
        self.insert(late, threads, cpus);
    }

    /// Forgets those that were taken before `before_ns`; they stay counted.
    pub fn forget(&mut self, before_ns: u64) {
        self.worst.retain(|l| l.end_ns >= before_ns);
    }

    fn insert(&mut self, mut late: Late, threads: &Threads, cpus: &Cpus) {
        self.count += 1;
        let delay = late.delay_ns();
        if self.worst.len() >= WORST && self.worst.last().is_some_and(|l| l.delay_ns() >= delay) {
            return;
        }
        let (start, end) = (late.start_ns(), late.end_ns);
        self.newest_end_ns = self.newest_end_ns.max(end);
        for (tid, thread) in threads.iter() {
            if thread.exited_ns.is_some_and(|ns| ns <= start) {
                continue;
            }
            let timeline = late.threads.entry(tid).or_default();
            thread.timeline.walk(start, end, |start_ns, end_ns, piece| {
                if let Some(p) = piece {
                    timeline.add(Piece { start_ns, end_ns, ..*p });
                }
            });
        }
        late.cpus.copy(cpus, start, end);
        let at = self.worst.partition_point(|l| l.delay_ns() >= delay);
        self.worst.insert(at, late);
        self.worst.truncate(WORST);
    }

    /// Takes what a thread's event tells of the time of a harvest that is known already.
    #[inline]
    pub fn evidence(&mut self, e: &ThreadEvent, cpus: &Cpus) {
        // Nearly all are of another time.
        if e.since_ns < self.newest_end_ns && e.since_ns != 0 {
            self.take(e, cpus);
        }
    }

    #[inline(never)]
    fn take(&mut self, e: &ThreadEvent, cpus: &Cpus) {
        for late in self.worst.iter_mut().filter(|l| l.covers(e)) {
            late.threads.entry(e.header.tid).or_default().apply(e);
            // Who was ahead of a waiting thread is sent with the end of its wait.
            let (start, end) = (late.start_ns(), late.end_ns);
            late.cpus.copy(cpus, start, end);
        }
    }
}

/// What the thread that took it did until then.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum LateKind {
    /// The world was being stopped, or was stopped.
    StopTheWorld,
    /// Runnable, waiting for a CPU that ran somebody else.
    RunqueueWait,
    /// Runnable, waiting for a CPU that ran its idle task.
    WakeupLatency,
    /// Kept off all CPUs by a CPU quota.
    CfsThrottled,
    /// On a CPU: busy with something else than the poll, or on its way out of it.
    Busy,
    /// Asleep, and not told.
    Asleep,
    /// No evidence.
    Unexplained,
}

/// Time with one cause, ns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LateCause {
    /// What.
    pub kind: LateKind,
    /// Run-queue waits: behind whom; `None` where no slice tells.
    pub behind: Option<Runner>,
    /// How long.
    pub ns: u64,
}

/// What all threads of the process did meanwhile, ns of thread time.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Meanwhile {
    /// Threads of which anything is known.
    pub threads: u64,
    /// The world was being stopped, or was stopped, whatever they did.
    pub stw_ns: u64,
    /// On a CPU.
    pub on_cpu_ns: u64,
    /// Runnable, without a CPU.
    pub runnable_ns: u64,
    /// Asleep in a system call, a page fault, or stopped.
    pub blocked_ns: u64,
    /// Asleep with nothing to do: in `futex`, `nanosleep`, or a poll.
    pub idle_ns: u64,
    /// No evidence.
    pub unknown_ns: u64,
    /// Who ran on the CPUs that they waited for, longest first, ns each.
    pub behind: Vec<(Runner, u64)>,
}

/// Explains a late harvest. `stops` are the stops of the world, by time. The causes are longest first and sum to
/// the delay; the parts of what the threads did sum to the delay times their number.
pub fn explain(late: &Late, stops: &[(u64, u64)]) -> (Vec<LateCause>, Meanwhile) {
    let (start, end) = (late.start_ns(), late.end_ns);
    let first = stops.partition_point(|s| s.1 <= start);
    let stops = &stops[first..];
    let mut ran: BTreeMap<u32, Vec<(u64, u64)>> = BTreeMap::new();
    for (_, slice) in late.cpus.iter() {
        ran.entry(slice.tid).or_default().push((slice.start_ns, slice.end_ns));
    }
    let mut meanwhile = Meanwhile { threads: late.threads.len() as u64, ..Meanwhile::default() };
    let mut causes: BTreeMap<(LateKind, Option<Runner>), u64> = BTreeMap::new();
    let mut ahead: BTreeMap<Runner, u64> = BTreeMap::new();
    let nothing = Timeline::default();
    // A thread of which nothing arrived is still the one that took it.
    let own = (!late.threads.contains_key(&late.tid)).then_some((&late.tid, &nothing));
    meanwhile.threads += u64::from(own.is_some());
    for (&tid, timeline) in late.threads.iter().chain(own) {
        let mut charge = |kind: LateKind, runner: Option<Runner>, ns: u64| {
            if tid == late.tid && ns > 0 {
                *causes.entry((kind, runner)).or_insert(0) += ns;
            }
        };
        by_stops(timeline, stops, start, end, |s, e, stopped, piece| {
            let ns = e - s;
            if stopped {
                meanwhile.stw_ns += ns;
                charge(LateKind::StopTheWorld, None, ns);
                return;
            }
            let Some(piece) = piece else {
                let on_cpu = ran.get(&tid).map_or(0, |slices| overlap(slices, s, e));
                meanwhile.on_cpu_ns += on_cpu;
                meanwhile.unknown_ns += ns - on_cpu;
                charge(LateKind::Busy, None, on_cpu);
                charge(LateKind::Unexplained, None, ns - on_cpu);
                return;
            };
            match piece.state {
                ThreadState::Running => {
                    meanwhile.on_cpu_ns += ns;
                    charge(LateKind::Busy, None, ns);
                }
                state if state.is_runnable() => {
                    meanwhile.runnable_ns += ns;
                    behind(&late.cpus, tid, piece, s, e, |who, ns| match who {
                        Ahead::Quota => charge(LateKind::CfsThrottled, None, ns),
                        Ahead::Runner(runner) => {
                            *ahead.entry(runner).or_insert(0) += ns;
                            charge(LateKind::RunqueueWait, Some(runner), ns);
                        }
                        Ahead::Idle => charge(LateKind::WakeupLatency, None, ns),
                        Ahead::Unknown => charge(LateKind::RunqueueWait, None, ns),
                    });
                }
                ThreadState::Unknown | ThreadState::Exited => {
                    meanwhile.unknown_ns += ns;
                    charge(LateKind::Unexplained, None, ns);
                }
                state => {
                    let idle = state == ThreadState::Blocked && IDLE.contains(&piece.syscall);
                    *(if idle { &mut meanwhile.idle_ns } else { &mut meanwhile.blocked_ns }) += ns;
                    charge(LateKind::Asleep, None, ns);
                }
            }
        });
    }
    meanwhile.behind = ahead.into_iter().collect();
    meanwhile.behind.sort_by_key(|&(_, ns)| std::cmp::Reverse(ns));
    let cause = |((kind, behind), ns)| LateCause { kind, behind, ns };
    let mut causes: Vec<LateCause> = causes.into_iter().map(cause).collect();
    causes.sort_by_key(|c| std::cmp::Reverse(c.ns));
    (causes, meanwhile)
}

/// Walks a timeline over `[start, end)` in pieces that lie in a stop of the world as a whole, or in none.
fn by_stops(
    timeline: &Timeline,
    stops: &[(u64, u64)],
    start: u64,
    end: u64,
    mut f: impl FnMut(u64, u64, bool, Option<&Piece>),
) {
    timeline.walk(start, end, |s, e, piece| {
        let mut at = s;
        for &(from, to) in stops.iter().take_while(|stop| stop.0 < e) {
            let (from, to) = (from.clamp(at, e), to.clamp(at, e));
            if at < from {
                f(at, from, false, piece);
            }
            if from < to {
                f(from, to, true, piece);
            }
            at = to.max(at);
        }
        if at < e {
            f(at, e, false, piece);
        }
    });
}

/// How much of `[from, to)` these intervals cover, which do not overlap (a thread is on one CPU at a time) in
/// truth, and are not believed beyond that.
fn overlap(intervals: &[(u64, u64)], from: u64, to: u64) -> u64 {
    let covered = intervals.iter().map(|&(s, e)| e.min(to).saturating_sub(s.max(from))).sum();
    (to - from).min(covered)
}

#[cfg(test)]
mod tests;
