//! The scheduler: every state change of a target's threads, the delays between them, and who had
//! the CPU meanwhile. Must not know what a stop-the-world is beyond "a window is open".

use aya_ebpf::{
    helpers::{bpf_get_smp_processor_id, bpf_ktime_get_ns, bpf_task_pt_regs},
    macros::btf_tracepoint,
    programs::BtfTracePointContext,
};
use g211s_ebpf::{
    config::{CpuState, SLICE_HISTORY, Slice, ThreadRecord},
    event::{
        EventKind, Header, Life, LifeEvent, NO_SYSCALL, NO_TARGET, SLICE_OPEN, SLICE_TRUNCATED,
        SYS_EPOLL_PWAIT, SYS_EPOLL_PWAIT2, SYS_EPOLL_WAIT, SliceEvent, THREAD_CLOSES_WINDOW,
        THREAD_FULL, THREAD_IN_WINDOW, THREAD_KEPT_OFF_AGAIN, THREAD_OUTLIER, THREAD_STATES,
        ThreadEvent, ThreadState,
    },
    hist::Hist,
};

use super::{
    goroutine,
    off_cpu::{self, Missed},
    quota::{self, Taken},
    series::add_to_series,
    target,
    task::{Task, read},
};
use crate::{
    globals,
    maps::{CPUS, THREADS, TargetState},
    send::{loss, send},
};

// include/linux/sched.h
const TASK_INTERRUPTIBLE: u32 = 0x1;
const TASK_UNINTERRUPTIBLE: u32 = 0x2;
const TASK_DEAD_BITS: u32 = 0x10 | 0x20 | 0x80;
/// Being woken: `try_to_wake_up` is choosing a CPU. Also seen at a switch-out, where a waker was
/// quicker than our look at the state (kernels that do not pass it along): then it slept.
const TASK_WAKING: u32 = 0x200;
/// `sched_yield` on x86-64.
const SYS_SCHED_YIELD: i64 = 24;
/// `orig_ax` in `struct pt_regs` (x86-64).
const OFF_ORIG_AX: usize = 15 * 8;

#[inline(always)]
fn pid(task: Task) -> u32 {
    // SAFETY: see `read`.
    unsafe { read(task, globals::off_task_pid()) }
}

#[inline(always)]
fn tgid(task: Task) -> u32 {
    // SAFETY: see `read`.
    unsafe { read(task, globals::off_task_tgid()) }
}

#[inline(always)]
fn task_cpu(task: Task) -> u16 {
    // SAFETY: see `read`.
    unsafe { read::<u32>(task, globals::off_task_cpu()) as u16 }
}

/// System call that the task entered the kernel with; -1 after an exception or interrupt.
#[inline(always)]
fn syscall_of(task: Task) -> i64 {
    // SAFETY: the helper takes a task and gives its saved user registers, both BTF pointers.
    unsafe {
        let regs = bpf_task_pt_regs(task.cast_mut().cast()) as *const u8;
        core::ptr::read_volatile(regs.add(OFF_ORIG_AX).cast())
    }
}

/// The thread's record, made if it is not there yet; `None` (counted) if the table is full.
#[inline(always)]
fn record(tid: u32, index: u32) -> Option<&'static mut ThreadRecord> {
    if let Some(r) = THREADS.get_ptr_mut(tid) {
        // SAFETY: a live value of a preallocated hash map; a thread's record is written only by
        // the scheduler paths that hold its run queue's lock.
        return Some(unsafe { &mut *r });
    }
    make_record(tid.into(), index.into());
    // SAFETY: as above.
    THREADS.get_ptr_mut(tid).map(|r| unsafe { &mut *r })
}

/// Of a thread that was just met. Not made on the stack: it would be half of the 512 bytes that the functions of
/// a program that call one another have together.
static MET: ThreadRecord = ThreadRecord::new(0, ThreadState::Unknown, 0);

/// Makes a thread's record anew. A global function, see [`send_slices`].
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn make_record(tid: u64, index: u64) -> u64 {
    if THREADS.insert(tid as u32, &MET, 0).is_err() {
        if let Some(l) = loss() {
            l.threads_full += 1;
        }
    } else if let Some(rec) = THREADS.get_ptr_mut(tid as u32) {
        // SAFETY: see [`record`].
        unsafe { (*rec).target = index as u8 };
    }
    0
}

/// Moves a thread to its next state; what it left is added to its sums.
#[inline(always)]
fn enter(rec: &mut ThreadRecord, to: ThreadState, now: u64, cpu: u16, phase: u16) {
    let from = rec.state as usize;
    // A first sight has no beginning, so no length. The bound is for the verifier.
    if rec.since_ns != 0 && from < THREAD_STATES {
        rec.state_ns[from] += now - rec.since_ns;
        rec.state_count[from] += 1;
    }
    rec.state = to as u8;
    rec.since_ns = now;
    rec.queued_ns = now;
    rec.cpu = cpu;
    rec.phase = phase;
}

/// Why a change that ends the interval `[since, now]` is to be sent; 0: it is not.
#[inline(always)]
fn reasons(now: u64, rec: &ThreadRecord, ts: &TargetState) -> u32 {
    let mut flags = 0;
    if globals::stream_all() != 0 {
        flags |= THREAD_FULL;
    }
    if ts.open != 0 {
        flags |= THREAD_IN_WINDOW;
    } else if rec.since_ns < ts.evidence_until_ns || network_is_late(now, ts) {
        // The interval reaches back into a window that has closed (or over a late harvest): it alone tells
        // what the thread did from its last change in that window (or before it) to the window's end.
        flags |= THREAD_CLOSES_WINDOW;
    }
    flags
}

/// Whether the network has waited for so long that it is about to be late: from then on each change tells
/// what kept it.
#[inline(always)]
fn network_is_late(now: u64, ts: &TargetState) -> bool {
    let since = ts.network_waits_ns;
    since != 0 && now > since + globals::threshold_ns() / 2
}

struct Change {
    tid: u32,
    cpu: u16,
    to: ThreadState,
    peer: u32,
    flags: u32,
    /// Of the interval on a CPU that ends.
    missed: Missed,
    /// Of the wait that ends.
    taken: Taken,
}

impl Change {
    #[inline(always)]
    fn new(tid: u32, cpu: u16, to: ThreadState, peer: u32, flags: u32) -> Self {
        Self { tid, cpu, to, peer, flags, missed: Missed::default(), taken: Taken::default() }
    }
}

/// Sends the interval that ends now. Call before the record takes its new state.
#[inline(always)]
fn send_change(now: u64, rec: &ThreadRecord, ts: &TargetState, c: &Change) {
    send(
        EventKind::Thread,
        ThreadEvent {
            header: Header {
                ts_ns: now,
                kind: EventKind::Thread as u8,
                target: rec.target,
                cpu: c.cpu,
                tid: c.tid,
            },
            since_ns: rec.since_ns,
            queued_ns: rec.queued_ns,
            window: ts.window,
            syscall: rec.syscall,
            peer_tid: c.peer,
            prev_cpu: rec.cpu,
            from: rec.state,
            to: c.to as u8,
            flags: if c.taken.again != 0 { c.flags | THREAD_KEPT_OFF_AGAIN } else { c.flags },
            irq_ns: c.missed.irq_ns,
            // Of the two one is zero.
            kept_off_ns: c.missed.stolen_ns | c.taken.ns,
            kept_off_after_ns: c.taken.after_ns,
        },
    );
}

#[inline(always)]
fn cpu_state(cpu: u32) -> Option<&'static mut CpuState> {
    // SAFETY: a value of an array map; see `CpuState` on races.
    CPUS.get_ptr_mut(cpu).map(|p| unsafe { &mut *p })
}

#[inline(always)]
fn send_slice(now: u64, cpu: u16, s: &Slice, flags: u32) {
    let index = target::of(s.tgid).map_or(NO_TARGET, |t| t as u8);
    send(
        EventKind::Slice,
        SliceEvent {
            header: Header {
                ts_ns: now,
                kind: EventKind::Slice as u8,
                target: index,
                cpu,
                tid: s.tid,
            },
            start_ns: s.start_ns,
            end_ns: s.end_ns,
            tgid: s.tgid,
            flags,
            // SAFETY: 16 bytes either way.
            comm: unsafe { core::mem::transmute::<[u64; 2], [u8; 16]>(s.comm) },
        },
    );
}

/// Sends the slices of `cpu` that end after `from` and were not sent before, newest first. The
/// result says nothing.
///
/// A global function in BPF's sense (exported, numbers in, a number out): the verifier walks its loop once
/// on its own. Inlined, it is walked again for every state in which a caller comes to it; that
/// is 180,000 instructions for `sched_switch` on 6.1 (55,000 this way), and 5.15's verifier did not come
/// to an end within minutes.
#[unsafe(no_mangle)]
#[inline(never)]
pub(crate) extern "C" fn send_slices(now: u64, cpu: u64, from: u64) -> u64 {
    let Some(cs) = cpu_state(cpu as u32) else { return 0 };
    let ended = cs.ended;
    let mut back = 1u64;
    // One less than there are slots: the open slice has one of them.
    while back < SLICE_HISTORY as u64 {
        if back > ended {
            return 0;
        }
        let slot = (ended.wrapping_sub(back) as usize) & (SLICE_HISTORY - 1);
        let s = &mut cs.slices[slot];
        if s.end_ns <= from {
            return 0;
        }
        if s.sent == 0 {
            s.sent = 1;
            let last = back == SLICE_HISTORY as u64 - 1 && s.start_ns > from;
            let flags = if last { SLICE_TRUNCATED } else { 0 };
            send_slot(now, cpu, slot as u64, u64::from(flags));
        }
        back += 1;
    }
    0
}

/// One of them: a function of its own for the same reason (6.18 walks 500,000 instructions otherwise, which
/// takes half a second of a CPU at each start).
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn send_slot(now: u64, cpu: u64, slot: u64, flags: u64) -> u64 {
    let Some(cs) = cpu_state(cpu as u32) else { return 0 };
    let s = &cs.slices[(slot as usize) & (SLICE_HISTORY - 1)];
    send_slice(now, cpu as u16, s, flags as u32);
    0
}

/// Whether `[since, now]` overlaps a time of which evidence is wanted.
#[inline(always)]
fn is_wanted(since: u64, ts: &TargetState) -> bool {
    ts.open != 0 || since < ts.evidence_until_ns
}

/// Where the runtime stands: 0 in no GC cycle, 1 in one, 2 in a stop of the world. A wait is
/// classed by where it began: by what it overlaps, long waits would gather in the cycles by
/// their length alone.
#[inline(always)]
fn phase(ts: &TargetState) -> u16 {
    if ts.open != 0 {
        2
    } else if ts.in_gc != 0 {
        1
    } else {
        0
    }
}

/// Ends a CPU's open slice and opens the next one.
#[inline(always)]
fn turn(cs: &mut CpuState, now: u64, next: Task, tid: u32, tgid: u32) {
    let open = &mut cs.slices[(cs.ended as usize) & (SLICE_HISTORY - 1)];
    let mut ended = cs.ended;
    // 0: our first look at this CPU. Who left it began at an unknown time.
    if open.start_ns != 0 {
        open.end_ns = now;
        open.sent = 0;
        ended += 1;
    }
    let s = &mut cs.slices[(ended as usize) & (SLICE_HISTORY - 1)];
    s.start_ns = now;
    s.tid = tid;
    s.tgid = tgid;
    s.comm = if tid == 0 {
        [0; 2]
    } else {
        let comm = globals::off_task_comm();
        // SAFETY: see `read`.
        unsafe { [read(next, comm), read(next, comm + 8)] }
    };
    // Last, since another CPU finds the open slice by it. x86 stores in program order; the compiler is kept
    // from moving the ones above past this by an `asm!` that may touch memory.
    // SAFETY: no instruction at all.
    unsafe { core::arch::asm!("") };
    cs.ended = ended;
}

#[btf_tracepoint(function = "sched_switch")]
pub(crate) fn sched_switch(ctx: BtfTracePointContext) -> i32 {
    let prev: Task = ctx.arg(1);
    let next: Task = ctx.arg(2);
    // SAFETY: helpers without preconditions.
    let (now, cpu) = unsafe { (bpf_ktime_get_ns(), bpf_get_smp_processor_id()) };
    let (prev_tid, prev_tgid, next_tid, next_tgid) = (pid(prev), tgid(prev), pid(next), tgid(next));
    if let Some(cs) = cpu_state(cpu) {
        turn(cs, now, next, next_tid, next_tgid);
    }
    if prev_tgid != 0
        && let Some(index) = target::of(prev_tgid)
    {
        // `prev_state` as the scheduler read it; the field itself may have moved on since.
        let raw: u32 = if globals::has_prev_state() != 0 {
            ctx.arg(3)
        } else {
            // SAFETY: see `read`.
            unsafe { read(prev, globals::off_task_state()) }
        };
        let preempt = ctx.arg::<u8>(0) != 0;
        switch_out(now, cpu as u16, prev, prev_tid, index, preempt, raw, next_tid);
    }
    if next_tgid != 0
        && let Some(index) = target::of(next_tgid)
    {
        switch_in(now, cpu as u16, next, next_tid, index, prev_tid);
    }
    0
}

#[inline(always)]
#[expect(clippy::too_many_arguments, reason = "inlined into its only caller")]
fn switch_out(
    now: u64,
    cpu: u16,
    task: Task,
    tid: u32,
    index: u32,
    preempt: bool,
    raw: u32,
    next_tid: u32,
) {
    let Some(ts) = target::state(index) else { return };
    let Some(rec) = record(tid, index) else { return };
    let mut syscall = NO_SYSCALL;
    let mut nr = -1;
    let to = if raw & TASK_DEAD_BITS != 0 {
        ThreadState::Exited
    } else if preempt {
        ThreadState::RunnablePreempted
    } else {
        nr = syscall_of(task);
        syscall = if nr < 0 { -1 } else { nr as i32 };
        if raw == 0 {
            if nr == SYS_SCHED_YIELD {
                ThreadState::RunnableYielded
            } else {
                ThreadState::RunnablePreempted
            }
        } else if raw & TASK_UNINTERRUPTIBLE != 0 {
            ThreadState::BlockedUninterruptible
        } else if raw & (TASK_INTERRUPTIBLE | TASK_WAKING) != 0 {
            ThreadState::Blocked
        } else {
            ThreadState::Stopped
        }
    };
    let mut missed = Missed::default();
    if rec.state == ThreadState::Running as u8 {
        missed = off_cpu::goes(rec, task);
        let ran = now - rec.since_ns;
        target::observe(index, Hist::OnCpu, ran);
        if let Some(c) = target::counters(index) {
            c.oncpu += 1;
            c.oncpu_ns += ran;
        }
    } else if rec.state == ThreadState::Unknown as u8 {
        // First sight: it was on this CPU, since an unknown time.
        rec.state = ThreadState::Running as u8;
        rec.cpu = cpu;
    }
    rec.syscall = syscall;
    if globals::off_task_fsbase() != 0 && goroutine::may_hold(to, nr) {
        let preempted = to as u8 == ThreadState::RunnablePreempted as u8;
        let why = if preempted { NO_SYSCALL } else { syscall };
        goroutine::note_held(rec, tid, index, now, task, why);
    }
    let flags = reasons(now, rec, ts);
    if flags != 0 {
        send_change(now, rec, ts, &Change { missed, ..Change::new(tid, cpu, to, next_tid, flags) });
    }
    if !to.is_runnable() && matches!(syscall, SYS_EPOLL_PWAIT | SYS_EPOLL_WAIT | SYS_EPOLL_PWAIT2) {
        rec.epoll_ns = now;
        ts.network_waits_ns = 0;
    }
    // An exited thread's record stays for user space to take, which it does soon.
    enter(rec, to, now, cpu, phase(ts));
    if to.is_runnable() {
        quota::joins(rec, task);
    }
}

#[inline(always)]
fn switch_in(now: u64, cpu: u16, task: Task, tid: u32, index: u32, prev_tid: u32) {
    let Some(ts) = target::state(index) else { return };
    let Some(rec) = record(tid, index) else { return };
    let mut flags = reasons(now, rec, ts);
    let waited = now.wrapping_sub(rec.since_ns);
    let was = rec.state;
    let runnable = was == ThreadState::RunnableWoken as u8
        || was == ThreadState::RunnablePreempted as u8
        || was == ThreadState::RunnableYielded as u8;
    if runnable {
        count_wait(index, rec, was, waited);
        if waited >= globals::threshold_ns() {
            flags |= THREAD_OUTLIER;
        }
        if flags & (THREAD_OUTLIER | THREAD_FULL) != 0
            || (flags != 0 && is_wanted(rec.since_ns, ts))
        {
            send_slices(now, cpu.into(), rec.queued_ns);
        }
    }
    if rec.held_p != 0 {
        goroutine::end_held(rec, ts, tid, index, now);
    }
    if rec.epoll_ns != 0 {
        count_sleep(index, now - rec.epoll_ns, runnable, waited);
        rec.epoll_ns = 0;
        ts.network_waits_ns = 0;
        if was == ThreadState::RunnableWoken as u8 {
            rec.epoll_woken_ns = rec.since_ns;
            if waited >= globals::threshold_ns() {
                // What the other threads did meanwhile is theirs to tell, each at its next change.
                ts.evidence_until_ns = now;
            }
        }
    }
    if flags != 0 {
        let taken = if runnable { quota::leaves(rec, task, now) } else { Taken::default() };
        let to = ThreadState::Running;
        send_change(now, rec, ts, &Change { taken, ..Change::new(tid, cpu, to, prev_tid, flags) });
    }
    enter(rec, ThreadState::Running, now, cpu, 0);
    off_cpu::comes(rec, task);
}

/// A sleep in a network poll is over. `woken`: its wakeup was seen, `late` ns ago.
#[inline(always)]
fn count_sleep(index: u32, slept: u64, woken: bool, late: u64) {
    let Some(c) = target::counters(index) else { return };
    c.epoll_slept += 1;
    c.epoll_slept_ns += slept;
    target::observe(index, Hist::EpollWait, slept);
    if !woken {
        return;
    }
    c.epoll_late_ns += late;
    if late >= globals::threshold_ns() {
        c.epoll_late += 1;
    }
    target::observe(index, Hist::EpollLate, late);
}

#[inline(always)]
fn count_wait(index: u32, rec: &ThreadRecord, was: u8, waited: u64) {
    let Some(c) = target::counters(index) else { return };
    if was == ThreadState::RunnableYielded as u8 {
        c.yielded += 1;
        c.yielded_ns += waited;
        target::observe(index, Hist::Yielded, waited);
        return;
    }
    add_to_series(index.into(), rec.since_ns, rec.since_ns.wrapping_add(waited));
    let phase = rec.phase;
    if was == ThreadState::RunnableWoken as u8 {
        c.woken += 1;
        c.woken_ns += waited;
        let hist = match phase {
            0 => Hist::WokenOutside,
            1 => Hist::WokenInGc,
            _ => Hist::WokenInStw,
        };
        target::observe(index, hist, waited);
    } else {
        c.preempted += 1;
        c.preempted_ns += waited;
        let hist = match phase {
            0 => Hist::PreemptedOutside,
            1 => Hist::PreemptedInGc,
            _ => Hist::PreemptedInStw,
        };
        target::observe(index, hist, waited);
    }
}

/// The waker has decided to wake the thread: from here on it could run. (`perf sched` counts from
/// here too.) `sched_wakeup` follows, perhaps on another CPU an interrupt later, and has nothing to
/// add: if the wakeup chooses another CPU, `sched_migrate_task` tells which.
#[btf_tracepoint(function = "sched_waking")]
pub(crate) fn sched_waking(ctx: BtfTracePointContext) -> i32 {
    wakeup(ctx.arg(0));
    0
}

/// A new thread is on a run queue for the first time.
#[btf_tracepoint(function = "sched_wakeup_new")]
pub(crate) fn sched_wakeup_new(ctx: BtfTracePointContext) -> i32 {
    wakeup(ctx.arg(0));
    0
}

#[inline(always)]
fn wakeup(task: Task) {
    let Some(index) = target::of(tgid(task)) else { return };
    // Before the look-ups: they are not a part of the wait.
    // SAFETY: a helper without preconditions.
    let now = unsafe { bpf_ktime_get_ns() };
    let tid = pid(task);
    let Some(ts) = target::state(index) else { return };
    let Some(rec) = record(tid, index) else { return };
    let state = rec.state;
    if state >= ThreadState::Running as u8 && state <= ThreadState::RunnableYielded as u8 {
        // A wakeup of a thread that has not left its CPU yet, or is queued already, changes
        // nothing.
        return;
    }
    let cpu = task_cpu(task);
    let mut flags = reasons(now, rec, ts);
    if state == ThreadState::BlockedUninterruptible as u8
        && now - rec.since_ns >= globals::threshold_ns()
    {
        flags |= THREAD_OUTLIER;
    }
    if flags != 0 {
        let waker = aya_ebpf::helpers::bpf_get_current_pid_tgid() as u32;
        let to = ThreadState::RunnableWoken;
        send_change(now, rec, ts, &Change::new(tid, cpu, to, waker, flags));
    }
    if rec.epoll_ns != 0 && ts.network_waits_ns == 0 {
        ts.network_waits_ns = now;
    }
    enter(rec, ThreadState::RunnableWoken, now, cpu, phase(ts));
    quota::joins_woken(rec, task);
}

#[btf_tracepoint(function = "sched_migrate_task")]
pub(crate) fn sched_migrate_task(ctx: BtfTracePointContext) -> i32 {
    let task: Task = ctx.arg(0);
    let dest: u32 = ctx.arg(1);
    migrate(task, dest as u16);
    0
}

/// A waiting thread changes queues: what it waited for so far was the old CPU's doing.
#[inline(always)]
fn migrate(task: Task, dest: u16) {
    let Some(index) = target::of(tgid(task)) else { return };
    let tid = pid(task);
    let Some(ts) = target::state(index) else { return };
    let Some(rec) = THREADS.get_ptr_mut(tid) else { return };
    // SAFETY: see `record`.
    let rec = unsafe { &mut *rec };
    // SAFETY: see `read`.
    let waking = unsafe { read::<u32>(task, globals::off_task_state()) } == TASK_WAKING;
    if waking {
        // The wakeup is choosing a queue: it has not waited on any yet.
        rec.cpu = dest;
        quota::joins_other(rec, task, dest);
        return;
    }
    let state = rec.state;
    let to = if state == ThreadState::RunnableWoken as u8 {
        ThreadState::RunnableWoken
    } else if state == ThreadState::RunnablePreempted as u8 {
        ThreadState::RunnablePreempted
    } else if state == ThreadState::RunnableYielded as u8 {
        ThreadState::RunnableYielded
    } else {
        return;
    };
    // SAFETY: a helper without preconditions.
    let now = unsafe { bpf_ktime_get_ns() };
    let from_cpu = rec.cpu;
    let mut flags = reasons(now, rec, ts);
    if now - rec.queued_ns >= globals::threshold_ns() {
        flags |= THREAD_OUTLIER;
    }
    if flags != 0 {
        send_slices(now, from_cpu.into(), rec.queued_ns);
        send_open_slice(now, from_cpu);
        let taken = quota::leaves(rec, task, now);
        send_change(now, rec, ts, &Change { taken, ..Change::new(tid, dest, to, 0, flags) });
    }
    rec.queued_ns = now;
    rec.cpu = dest;
    quota::joins_other(rec, task, dest);
}

#[inline(always)]
fn send_open_slice(now: u64, cpu: u16) {
    let Some(cs) = cpu_state(u32::from(cpu)) else { return };
    // A copy: its end is not known yet, and it is not sent for good.
    let mut s = cs.slices[(cs.ended as usize) & (SLICE_HISTORY - 1)];
    s.end_ns = now;
    if s.start_ns != 0 && s.start_ns <= now {
        send_slice(now, cpu, &s, SLICE_OPEN);
    }
}

#[inline(always)]
fn send_life(tid: u32, index: u32, what: Life, other: u32) {
    // SAFETY: helpers without preconditions.
    let (now, cpu) = unsafe { (bpf_ktime_get_ns(), bpf_get_smp_processor_id()) };
    let kind = EventKind::Life;
    send(
        kind,
        LifeEvent {
            header: Header {
                ts_ns: now,
                kind: kind as u8,
                target: index as u8,
                cpu: cpu as u16,
                tid,
            },
            what: what as u32,
            other,
        },
    );
}

#[btf_tracepoint(function = "sched_process_fork")]
pub(crate) fn sched_process_fork(ctx: BtfTracePointContext) -> i32 {
    let parent: Task = ctx.arg(0);
    let child: Task = ctx.arg(1);
    // A new process of the target has a tgid of its own and is not followed.
    if let Some(index) = target::of(tgid(child)) {
        let tid = pid(child);
        // Overwrites what an earlier thread of this number may have left.
        make_record(tid.into(), index.into());
        send_life(tid, index, Life::ThreadBorn, pid(parent));
    }
    0
}

#[btf_tracepoint(function = "sched_process_exit")]
pub(crate) fn sched_process_exit(ctx: BtfTracePointContext) -> i32 {
    let task: Task = ctx.arg(0);
    if let Some(index) = target::of(tgid(task)) {
        send_life(pid(task), index, Life::ThreadExited, 0);
    }
    0
}

#[btf_tracepoint(function = "sched_process_exec")]
pub(crate) fn sched_process_exec(ctx: BtfTracePointContext) -> i32 {
    let task: Task = ctx.arg(0);
    let old: u32 = ctx.arg(1);
    if let Some(index) = target::of(tgid(task)) {
        send_life(pid(task), index, Life::Exec, old);
    } else if globals::tell_execs() != 0 {
        // Not on behalf of a target: it may become one.
        send_life(tgid(task), NO_TARGET.into(), Life::Exec, old);
    }
    0
}
