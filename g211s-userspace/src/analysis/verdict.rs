//! Why a stop of the world took as long as it did: causes along its critical path that sum exactly
//! to its length. Must not know reports, comms' safety on terminals, or how events arrived.
//!
//! The critical path of a stop, on which every nanosecond is charged to one thread:
//!
//! 1. **stopping, before anyone waits**: the stopper, until it goes to sleep (having told the
//!    others to stop) or the laggard has given its P up. Before the runtime's `startedStopping` it
//!    waits for `sched.lock`, and no other thread can be late.
//! 2. **stopping, the stopper asleep**: the laggard (the last thread to enter `gcstopm`), until it
//!    gives its P up. What the stopper does meanwhile (it wakes every 100 µs) is of no account.
//! 3. **stopping, after that**: the stopper, being woken and getting back on a CPU. While it still
//!    sleeps, the laggard has yet to wake it: the laggard's work or wait is charged. If neither is
//!    at it, some thread stopped in a way that no probe sees (a system call's entry): unexplained.
//! 4. **stopped**: the stopper.
//!
//! Where the stopper sleeps in `futex` by itself, it waits for a lock of the runtime's, and who wakes it held that:
//! what kept the holder from its CPU is what kept the stopper. While the holder works, the stopper is blocked.
//!
//! A thread on a CPU, or on its queue, may be kept from it by what is no task: interrupts and the hypervisor
//! (`Piece::missed`), a CPU quota (`Piece::throttled`). That time is theirs, whatever else ran.
//!
//! Evidence only ever adds explanation: a lost event turns its time into `unexplained` (or, for a
//! lost slice, into a wait behind nobody known), never into another cause.

use std::collections::BTreeMap;

use g211s_ebpf::event::{
    NO_SYSCALL, SYS_EPOLL_PWAIT, SYS_EPOLL_PWAIT2, SYS_EPOLL_WAIT, ThreadState,
};
use serde::Serialize;

use crate::model::{
    cpus::Cpus,
    stacks::{CodeId, Stacks},
    stw::Stop,
    threads::{Piece, Threads},
};

mod code;
mod quota;

use quota::spread;

/// What a stop's time went to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum CauseKind {
    /// On a CPU, doing the runtime's work for the stop.
    RuntimeWork,
    /// The laggard on a CPU before it gave its P up: code without a preemption point, or the way
    /// to one. `code` says which, where a stack tells.
    NonpreemptibleCode,
    /// In a system call with its P kept, and therefore late.
    SyscallReturn,
    /// Runnable, waiting for a CPU that ran somebody else.
    RunqueueWait,
    /// Runnable, waiting for a CPU that ran its idle task: the wakeup itself.
    WakeupLatency,
    /// Kept off all CPUs by a CPU quota.
    CfsThrottled,
    /// Asleep, interruptibly.
    Blocked,
    /// Asleep because of a page fault: the page is being read.
    PageFault,
    /// Asleep in state D in a system call: disk, most often.
    Uninterruptible,
    /// Stopped by a signal or a tracer.
    StoppedBySignal,
    /// On a CPU, which served interrupts and softirqs meanwhile.
    IrqSoftirq,
    /// On a CPU that the hypervisor did not run.
    VmSteal,
    /// No evidence.
    Unexplained,
}

/// Which part of a stop.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Phase {
    /// Until the world is stopped.
    Stopping,
    /// From then until it is started.
    Stopped,
}

/// How a thread came to wait on a run queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Wait {
    /// It was woken.
    Woken,
    /// It was preempted.
    Preempted,
    /// It yielded.
    Yielded,
}

impl Wait {
    /// The wait that a runnable state is.
    pub fn of(state: ThreadState) -> Option<Self> {
        match state {
            ThreadState::RunnableWoken => Some(Self::Woken),
            ThreadState::RunnablePreempted => Some(Self::Preempted),
            ThreadState::RunnableYielded => Some(Self::Yielded),
            _ => None,
        }
    }
}

/// A task that ran while a thread waited for its CPU. Its name is not part of its identity: tasks
/// are renamed (`exec`), and their time must not be split by that.
#[derive(Clone, Copy, Debug)]
pub struct Runner {
    /// Its process.
    pub tgid: u32,
    /// The task.
    pub tid: u32,
    /// Its comm, NUL-padded, not sanitised.
    pub comm: [u8; 16],
}

impl Runner {
    fn id(&self) -> (u32, u32) {
        (self.tgid, self.tid)
    }
}

impl PartialEq for Runner {
    fn eq(&self, other: &Self) -> bool {
        self.id() == other.id()
    }
}

impl Eq for Runner {}

impl PartialOrd for Runner {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Runner {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.id().cmp(&other.id())
    }
}

/// Time of a stop with one cause.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cause {
    /// What it was.
    pub key: CauseKey,
    /// How long, ns.
    pub ns: u64,
}

/// What tells one cause from another.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct CauseKey {
    /// When.
    pub phase: Phase,
    /// What.
    pub kind: CauseKind,
    /// The thread on the critical path.
    pub tid: u32,
    /// Waits: how it came to wait.
    pub wait: Option<Wait>,
    /// Waits: for which CPU, where known.
    pub cpu: Option<u16>,
    /// Blocked: in which system call, where known.
    pub syscall: Option<i32>,
    /// Run-queue waits: behind whom; `None` where no slice tells.
    pub behind: Option<Runner>,
    /// Code that was not preempted: which, where a stack tells.
    pub code: Option<CodeId>,
    /// Unexplained: why.
    pub why: Option<&'static str>,
}

impl CauseKey {
    fn unexplained(phase: Phase, tid: u32, why: &'static str) -> Self {
        Self {
            phase,
            kind: CauseKind::Unexplained,
            tid,
            wait: None,
            cpu: None,
            syscall: None,
            behind: None,
            code: None,
            why: Some(why),
        }
    }
}

/// What a thread did in one phase of a stop, ns.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct PhaseTimes {
    /// On a CPU.
    pub on_cpu_ns: u64,
    /// On a run queue.
    pub runnable_ns: u64,
    /// Asleep or stopped.
    pub blocked_ns: u64,
    /// No evidence.
    pub unknown_ns: u64,
}

/// Why a thread is listed with a stop.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// It stopped the world.
    Stopper,
    /// It was the last to give its P up.
    Laggard,
    /// It gave its P up before.
    GaveUp,
    /// It ran or waited for a CPU.
    Other,
}

/// A thread's part in a stop.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Involved {
    /// The thread.
    pub tid: u32,
    /// Why it is listed.
    pub role: Role,
    /// While the world was stopping.
    pub stopping: PhaseTimes,
    /// While it was stopped.
    pub stopped: PhaseTimes,
    /// Who ran on the CPUs it waited for, longest first, ns each.
    pub behind: Vec<(Runner, u64)>,
}

/// A stop explained.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verdict {
    /// Longest first; they sum to the stop's length.
    pub causes: Vec<Cause>,
    /// The sum of all but `unexplained`, ns.
    pub explained_ns: u64,
    /// The sum of `unexplained`, ns.
    pub unexplained_ns: u64,
    /// Who had a part in it, by role, then by tid.
    pub involved: Vec<Involved>,
}

const NO_EVIDENCE: &str = "no event tells what the thread did";
const UNKNOWN_WAKER: &str = "nothing is known of the thread that woke it";
const UNSEEN_LAGGARD: &str = "the stopper slept until a thread stopped that no probe saw";

/// Explains a stop.
pub fn explain(stop: &Stop, threads: &Threads, cpus: &Cpus, stacks: &Stacks) -> Verdict {
    let gave_up_ns = stop.laggard().map_or(stop.start_ns, |(gave_up, _)| gave_up);
    let begun_ns = stop.start_ns;
    let mut path = Path { threads, cpus, stacks, begun_ns, gave_up_ns, causes: BTreeMap::new() };
    path.stopping(stop);
    path.along(Phase::Stopped, stop.stopper_tid, stop.stopped_at_ns, stop.end_ns, Part::Stopper);
    let mut causes = by_function(path.causes);
    causes.sort_by(|a, b| b.ns.cmp(&a.ns).then(a.key.cmp(&b.key)));
    let sum = |unexplained| {
        causes
            .iter()
            .filter(|c| (c.key.kind == CauseKind::Unexplained) == unexplained)
            .map(|c| c.ns)
            .sum()
    };
    Verdict {
        explained_ns: sum(false),
        unexplained_ns: sum(true),
        causes,
        involved: involved(stop, threads, cpus),
    }
}

/// In what capacity a thread is on the critical path.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Part {
    Stopper,
    /// Asleep, it waits for somebody whom nothing names.
    StopperWaiting,
    Laggard,
    /// On its way from giving its P up to waking the stopper: asleep, it is not that.
    LaggardWaking,
}

struct Path<'a> {
    threads: &'a Threads,
    cpus: &'a Cpus,
    stacks: &'a Stacks,
    /// When the stop began: what a thread was seen in before that is not what it was asked to leave.
    begun_ns: u64,
    /// When the laggard gave its P up.
    gave_up_ns: u64,
    causes: BTreeMap<CauseKey, u64>,
}

impl Path<'_> {
    fn stopping(&mut self, stop: &Stop) {
        let (phase, stopper) = (Phase::Stopping, stop.stopper_tid);
        let (start, end) = (stop.start_ns, stop.stopped_at_ns);
        let told = stop.told_ns.unwrap_or(start).clamp(start, end);
        self.along(phase, stopper, start, told, Part::Stopper);
        let Some((gave_up, laggard)) = stop.laggard() else {
            self.along(phase, stopper, told, end, Part::StopperWaiting);
            return;
        };
        let gave_up = gave_up.clamp(told, end);
        let (mut asleep, mut gap) = (gave_up, gave_up);
        self.threads.walk(stopper, told, gave_up, |s, _, piece| match piece {
            Some(p) if p.state == ThreadState::Blocked => asleep = asleep.min(s),
            Some(_) => {}
            None => gap = gap.min(s),
        });
        // The stopper may have gone to sleep in a gap: what it did next may be of no account.
        let gap = gap.min(asleep);
        self.along(phase, stopper, told, gap, Part::Stopper);
        self.charge(CauseKey::unexplained(phase, stopper, NO_EVIDENCE), asleep - gap);
        self.along(phase, laggard, asleep, gave_up, Part::Laggard);
        let threads = self.threads;
        threads.walk(stopper, gave_up, end, |s, e, piece| {
            if piece.is_some_and(|p| p.state == ThreadState::Blocked) {
                self.along(phase, laggard, s, e, Part::LaggardWaking);
            } else {
                self.along(phase, stopper, s, e, Part::Stopper);
            }
        });
    }

    /// Charges `[from, to)` to what `tid` did then.
    fn along(&mut self, phase: Phase, tid: u32, from: u64, to: u64, part: Part) {
        let threads = self.threads;
        threads.walk(tid, from, to, |s, e, piece| {
            let unknown = CauseKey::unexplained(phase, tid, NO_EVIDENCE);
            let Some(piece) = piece else {
                self.charge(unknown, e - s);
                return;
            };
            let key = CauseKey { why: None, ..unknown };
            // Neither kept off its way nor on it, it waits for somebody.
            let waits_for_unknown = piece.state == ThreadState::Blocked
                && matches!(part, Part::StopperWaiting | Part::LaggardWaking);
            if waits_for_unknown {
                self.charge(CauseKey { why: Some(UNSEEN_LAGGARD), ..unknown }, e - s);
                return;
            }
            let syscall = (piece.syscall >= 0).then_some(piece.syscall);
            if part == Part::Stopper
                && piece.syscall == SYS_FUTEX
                && let Some(waker) = piece.waker()
            {
                let key = CauseKey { kind: CauseKind::Blocked, syscall, ..key };
                self.lock_of(key, waker, s, e, HOLDERS);
                return;
            }
            let kind = match piece.state {
                ThreadState::Running if part == Part::Laggard => {
                    self.running_on(key, piece, s, e);
                    return;
                }
                ThreadState::Running => {
                    self.running(CauseKey { kind: CauseKind::RuntimeWork, ..key }, piece, s, e);
                    return;
                }
                // Where a thread parks or polls it has given its P up already, or waits for another.
                ThreadState::Blocked if part == Part::Laggard && syscall.is_some_and(keeps_p) => {
                    CauseKind::SyscallReturn
                }
                ThreadState::Blocked => CauseKind::Blocked,
                _ => {
                    self.kept_off(key, piece, s, e);
                    return;
                }
            };
            self.charge(CauseKey { kind, syscall, ..key }, e - s);
        });
    }

    /// Charges `[from, to)`, in which the thread of `key` slept until `holder` woke it, to what kept that from its
    /// CPU, and the rest to `key`. A holder may wait for another lock in turn, `more` times.
    fn lock_of(&mut self, key: CauseKey, holder: u32, from: u64, to: u64, more: u32) {
        let threads = self.threads;
        if threads.get(holder).is_none() {
            let why = CauseKey::unexplained(key.phase, key.tid, UNKNOWN_WAKER);
            self.charge(why, to - from);
            return;
        }
        threads.walk(holder, from, to, |s, e, piece| {
            let unknown = CauseKey::unexplained(key.phase, holder, NO_EVIDENCE);
            let Some(piece) = piece else {
                self.charge(unknown, e - s);
                return;
            };
            let own = CauseKey { why: None, ..unknown };
            match (piece.state, piece.waker()) {
                (ThreadState::Running, _) => {
                    let rest = self.missed(own, piece, s, e);
                    self.charge(key, rest);
                }
                (ThreadState::Blocked, Some(next)) if more > 0 && piece.syscall == SYS_FUTEX => {
                    self.lock_of(key, next, s, e, more - 1);
                }
                (ThreadState::Blocked, _) => self.charge(key, e - s),
                _ => self.kept_off(own, piece, s, e),
            }
        });
    }

    /// Charges `[from, to)`, in which a thread neither ran nor slept of its own will.
    fn kept_off(&mut self, key: CauseKey, piece: &Piece, from: u64, to: u64) {
        let syscall = (piece.syscall >= 0).then_some(piece.syscall);
        let key = match piece.state {
            ThreadState::RunnableWoken
            | ThreadState::RunnablePreempted
            | ThreadState::RunnableYielded => {
                let (kind, wait) = (CauseKind::RunqueueWait, Wait::of(piece.state));
                self.wait(CauseKey { kind, wait, cpu: piece.cpu, ..key }, piece, from, to);
                return;
            }
            ThreadState::BlockedUninterruptible => {
                CauseKey { kind: asleep_in_kernel(piece.syscall), syscall, ..key }
            }
            ThreadState::Stopped => CauseKey { kind: CauseKind::StoppedBySignal, syscall, ..key },
            ThreadState::Blocked
            | ThreadState::Running
            | ThreadState::Unknown
            | ThreadState::Exited => CauseKey::unexplained(key.phase, key.tid, NO_EVIDENCE),
        };
        self.charge(key, to - from);
    }

    /// Charges `[from, to)`, in which the laggard ran, to the code or the system call in which it was found
    /// meanwhile. If nobody looked in that stay on a CPU, but found it in the same function before and after, it
    /// was there all along.
    fn running_on(&mut self, key: CauseKey, piece: &Piece, from: u64, to: u64) {
        let rest = self.missed(key, piece, from, to);
        let stacks = self.stacks;
        let since = piece.start_ns.max(self.begun_ns);
        let samples = stacks.between(key.tid, since, to);
        let before = || stacks.between(key.tid, self.begun_ns, since).next_back();
        let after = stacks.between(key.tid, to, self.gave_up_ns).next();
        let around = code::agreed(before(), after);
        let mut charged = 0;
        code::divide(samples, from, to, |_, e, sample| {
            let sample = sample.or(around);
            let key = match sample {
                Some(sample) if sample.syscall >= 0 => CauseKey {
                    kind: CauseKind::SyscallReturn,
                    syscall: Some(sample.syscall),
                    ..key
                },
                _ => CauseKey {
                    kind: CauseKind::NonpreemptibleCode,
                    code: sample.and_then(|s| s.code),
                    ..key
                },
            };
            let until = code::share(rest, e - from, to - from);
            self.charge(key, until - charged);
            charged = until;
        });
    }

    /// On a CPU, which may have had other things to do.
    fn running(&mut self, key: CauseKey, piece: &Piece, from: u64, to: u64) {
        let rest = self.missed(key, piece, from, to);
        self.charge(key, rest);
    }

    /// Charges what a CPU that a thread was on had to do otherwise; returns what is left, ns.
    fn missed(&mut self, key: CauseKey, piece: &Piece, from: u64, to: u64) -> u64 {
        let missed = piece.missed(from, to);
        let cpu = piece.cpu;
        self.charge(CauseKey { kind: CauseKind::VmSteal, cpu, ..key }, missed.stolen_ns);
        self.charge(CauseKey { kind: CauseKind::IrqSoftirq, cpu, ..key }, missed.irq_ns);
        to - from - missed.stolen_ns - missed.irq_ns
    }

    fn wait(&mut self, key: CauseKey, piece: &Piece, from: u64, to: u64) {
        let cpus = self.cpus;
        behind(cpus, key.tid, piece, from, to, |ahead, ns| match ahead {
            Ahead::Quota => {
                self.charge(CauseKey { kind: CauseKind::CfsThrottled, ..key }, ns);
            }
            Ahead::Idle => {
                self.charge(CauseKey { kind: CauseKind::WakeupLatency, ..key }, ns);
            }
            Ahead::Runner(runner) => self.charge(CauseKey { behind: Some(runner), ..key }, ns),
            Ahead::Unknown => self.charge(key, ns),
        });
    }

    fn charge(&mut self, key: CauseKey, ns: u64) {
        if ns > 0 {
            *self.causes.entry(key).or_insert(0) += ns;
        }
    }
}

/// Causes that differ only in the line of a function become one, with the line that most of its time is of.
fn by_function(causes: BTreeMap<CauseKey, u64>) -> Vec<Cause> {
    let mut out: Vec<(Cause, u64)> = Vec::new();
    for (key, ns) in causes {
        let of_function = |k: &CauseKey| CauseKey { code: None, ..*k };
        let same = |(c, _): &&mut (Cause, u64)| {
            key.code.is_some()
                && c.key.code.map(|c| c.function) == key.code.map(|c| c.function)
                && of_function(&c.key) == of_function(&key)
        };
        match out.iter_mut().find(same) {
            Some((cause, most)) => {
                cause.ns += ns;
                if ns > *most {
                    (cause.key.code, *most) = (key.code, ns);
                }
            }
            None => out.push((Cause { key, ns }, ns)),
        }
    }
    out.into_iter().map(|(cause, _)| cause).collect()
}

/// Number of `futex` (x86-64), in which threads of Go programs park.
const SYS_FUTEX: i32 = 202;

/// Locks that are followed from one holder to the next.
const HOLDERS: u32 = 3;

/// Whether a thread asleep in a system call may have its P with it.
fn keeps_p(syscall: i32) -> bool {
    !matches!(syscall, SYS_FUTEX | SYS_EPOLL_WAIT | SYS_EPOLL_PWAIT | SYS_EPOLL_PWAIT2)
}

/// What a thread in uninterruptible sleep is at, by `ThreadEvent::syscall`: without a system call, only a
/// page fault sleeps like that.
pub fn asleep_in_kernel(syscall: i32) -> CauseKind {
    if syscall < 0 && syscall != NO_SYSCALL {
        CauseKind::PageFault
    } else {
        CauseKind::Uninterruptible
    }
}

/// What kept a waiting thread off the CPU.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ahead {
    /// A task, which ran there.
    Runner(Runner),
    /// Nobody: the idle task ran.
    Idle,
    /// A CPU quota, whoever ran there.
    Quota,
    /// No slice tells.
    Unknown,
}

/// Calls `f` for each stretch of `[from, to)` of a wait of `tid`; the lengths sum to `to - from`.
pub fn behind(
    cpus: &Cpus,
    tid: u32,
    wait: &Piece,
    from: u64,
    to: u64,
    mut f: impl FnMut(Ahead, u64),
) {
    let Some(cpu) = wait.cpu else {
        f(Ahead::Unknown, to - from);
        return;
    };
    let (start, end) = wait.throttled(from, to);
    let parts = match wait.throttled_again() {
        Some(again) => spread(cpus, cpu, again),
        None if start < end => vec![quota::Part { from: start, to: end, quota: true }],
        None => Vec::new(),
    };
    let mut queued = |from, to| {
        cpus.walk(cpu, from, to, |s, e, slice| {
            let ahead = match slice {
                Some(slice) if slice.tid == 0 => Ahead::Idle,
                // A thread does not wait behind itself: such a slice contradicts the wait.
                Some(slice) if slice.tid != tid => {
                    Ahead::Runner(Runner { tgid: slice.tgid, tid: slice.tid, comm: slice.comm })
                }
                _ => Ahead::Unknown,
            };
            f(ahead, e - s);
        });
    };
    let (mut at, mut taken, mut unknown) = (from, 0, 0);
    for part in parts {
        let (s, e) = (part.from.clamp(from, to), part.to.clamp(from, to));
        if s >= e {
            continue;
        }
        queued(at, s);
        *(if part.quota { &mut taken } else { &mut unknown }) += e - s;
        at = e;
    }
    queued(at, to);
    for (ahead, ns) in [(Ahead::Quota, taken), (Ahead::Unknown, unknown)] {
        if ns > 0 {
            f(ahead, ns);
        }
    }
}

fn involved(stop: &Stop, threads: &Threads, cpus: &Cpus) -> Vec<Involved> {
    let laggard = stop.laggard().map(|(_, tid)| tid);
    let mut out = Vec::new();
    for (tid, _) in threads.iter() {
        let role = if tid == stop.stopper_tid {
            Role::Stopper
        } else if Some(tid) == laggard {
            Role::Laggard
        } else if stop.gave_up.iter().any(|&(_, t)| t == tid) {
            Role::GaveUp
        } else {
            Role::Other
        };
        let mut ahead = BTreeMap::new();
        let stopping = times(tid, stop.start_ns, stop.stopped_at_ns, threads, cpus, &mut ahead);
        let stopped = times(tid, stop.stopped_at_ns, stop.end_ns, threads, cpus, &mut ahead);
        let active = [&stopping, &stopped].iter().any(|t| t.on_cpu_ns + t.runnable_ns > 0);
        if role == Role::Other && !active {
            continue;
        }
        let mut behind: Vec<(Runner, u64)> = ahead.into_iter().collect();
        behind.sort_by_key(|&(_, ns)| std::cmp::Reverse(ns));
        out.push(Involved { tid, role, stopping, stopped, behind });
    }
    out.sort_by_key(|i| (i.role as u8, i.tid));
    out
}

fn times(
    tid: u32,
    from: u64,
    to: u64,
    threads: &Threads,
    cpus: &Cpus,
    ahead: &mut BTreeMap<Runner, u64>,
) -> PhaseTimes {
    let mut times = PhaseTimes::default();
    threads.walk(tid, from, to, |s, e, piece| match piece.map(|p| (p.state, p)) {
        Some((ThreadState::Running, _)) => times.on_cpu_ns += e - s,
        Some((state, wait)) if state.is_runnable() => {
            times.runnable_ns += e - s;
            behind(cpus, tid, wait, s, e, |who, ns| {
                if let Ahead::Runner(runner) = who {
                    *ahead.entry(runner).or_insert(0) += ns;
                }
            });
        }
        Some((ThreadState::Unknown | ThreadState::Exited, _)) | None => times.unknown_ns += e - s,
        Some(_) => times.blocked_ns += e - s,
    });
    times
}

/// Name of a system call of amd64 Linux that threads of Go programs block in.
pub fn syscall_name(nr: i32) -> Option<&'static str> {
    Some(match nr {
        0 => "read",
        1 => "write",
        7 => "poll",
        17 => "pread64",
        18 => "pwrite64",
        24 => "sched_yield",
        28 => "madvise",
        34 => "pause",
        35 => "nanosleep",
        42 => "connect",
        43 => "accept",
        44 => "sendto",
        45 => "recvfrom",
        46 => "sendmsg",
        47 => "recvmsg",
        56 => "clone",
        61 => "wait4",
        72 => "fcntl",
        73 => "flock",
        74 => "fsync",
        75 => "fdatasync",
        128 => "rt_sigtimedwait",
        202 => "futex",
        230 => "clock_nanosleep",
        232 => "epoll_wait",
        247 => "waitid",
        257 => "openat",
        270 => "pselect6",
        271 => "ppoll",
        281 => "epoll_pwait",
        288 => "accept4",
        426 => "io_uring_enter",
        435 => "clone3",
        441 => "epoll_pwait2",
        _ => return None,
    })
}

#[cfg(test)]
mod tests;
