//! What keeps goroutines waiting outside of stops: parks of mark assists, and Ps whose threads are off the
//! CPUs. Who has which P is read from the target's memory, and only where a thread leaves its CPU in a way
//! that may keep one. Must not know what a wait means.

use aya_ebpf::{
    EbpfContext as _,
    helpers::{
        bpf_get_attach_cookie, bpf_get_current_pid_tgid, bpf_get_smp_processor_id,
        bpf_ktime_get_ns, bpf_probe_read_user,
    },
    macros::uprobe,
    programs::ProbeContext,
};
use g211s_ebpf::{
    config::{HELD_PS, ThreadRecord},
    event::{
        EventKind, Header, SYS_EPOLL_PWAIT, SYS_EPOLL_PWAIT2, SYS_EPOLL_WAIT, Site, SpanEvent,
        SpanWhat, ThreadState, span_p,
    },
    hist::Hist,
};

use super::{
    runtime::{AX, count, reg},
    target,
    task::{Task, read},
};
use crate::{
    globals,
    maps::{HELD, Held, PARKS, THREADS, TargetState},
    send::{add, send},
};

/// Offset of R14 in x86-64's `struct pt_regs`: the goroutine, in Go's ABI.
const R14: usize = 8;
/// `futex` on x86-64: an M that sleeps in it has given its P up.
const SYS_FUTEX: i32 = 202;

/// One of a target's addresses as the key of a map: user addresses leave the upper 16 bits.
#[inline(always)]
fn key(index: u32, address: u64) -> u64 {
    address ^ (u64::from(index) << 48)
}

/// A field in the memory of the current process; `None` where it is not there at this moment.
#[inline(always)]
fn field<T>(base: u64, offset: u32) -> Option<T> {
    // SAFETY: a checked read of user memory, which faults no page in.
    unsafe { bpf_probe_read_user((base.wrapping_add(u64::from(offset))) as *const T) }.ok()
}

struct Span {
    now: u64,
    index: u32,
    tid: u32,
    what: SpanWhat,
    detail: i32,
    start: u64,
    middle: u64,
    id: u64,
}

#[inline(always)]
fn send_span(s: &Span) {
    // SAFETY: a helper without preconditions.
    let cpu = unsafe { bpf_get_smp_processor_id() };
    send(
        EventKind::Span,
        SpanEvent {
            header: Header {
                ts_ns: s.now,
                kind: EventKind::Span as u8,
                target: s.index as u8,
                cpu: cpu as u16,
                tid: s.tid,
            },
            what: s.what as u32,
            detail: s.detail,
            start_ns: s.start,
            middle_ns: s.middle,
            id: s.id,
        },
    );
}

/// Both ends of a park: `gcParkAssist` and the branch after its call.
#[uprobe]
pub(crate) fn go_assist(ctx: ProbeContext) -> u32 {
    let id = bpf_get_current_pid_tgid();
    let Some(index) = target::of((id >> 32) as u32) else { return 0 };
    // SAFETY: helpers without preconditions.
    let (now, site) = unsafe { (bpf_ktime_get_ns(), bpf_get_attach_cookie(ctx.as_ptr())) };
    count(index, site);
    let g = reg::<R14>(&ctx);
    let key = key(index, g);
    if site == Site::AssistPark as u64 {
        if PARKS.insert(key, now, 0).is_err()
            && let Some(c) = target::counters(index)
        {
            add(&mut c.parks_full, 1);
        }
        return 0;
    }
    let Some(t) = target::config(index) else { return 0 };
    // SAFETY: a value of a preallocated map; a copy.
    let Some(start) = (unsafe { PARKS.get(key) }).copied() else { return 0 };
    let _ = PARKS.remove(key);
    if start < t.assists_since_ns {
        return 0;
    }
    let ns = now.wrapping_sub(start);
    target::observe(index, Hist::AssistPark, ns);
    if ns >= globals::threshold_ns() {
        let goid =
            if t.layout.g_goid == 0 { 0 } else { field::<u64>(g, t.layout.g_goid).unwrap_or(0) };
        let (what, tid) = (SpanWhat::AssistPark, id as u32);
        send_span(&Span { now, index, tid, what, detail: 0, start, middle: 0, id: goid });
    }
    0
}

/// A P changes hands: from a thread asleep in a system call if the runtime (`retake`, or a safe point for all
/// Ps) has just taken it.
#[uprobe]
pub(crate) fn go_handoff(ctx: ProbeContext) -> u32 {
    let id = bpf_get_current_pid_tgid();
    let Some(index) = target::of((id >> 32) as u32) else { return 0 };
    count(index, Site::HandOffP as u64);
    let p = reg::<AX>(&ctx);
    let (Some(t), Some(ts)) = (target::config(index), target::state(index)) else { return 0 };
    let layout = &t.layout;
    let Some(id) = field::<u32>(p, layout.p_id) else { return 0 };
    let Some(slot) = held(index, id) else { return 0 };
    let held = *slot;
    if held.p != p || held.tid == 0 {
        return 0;
    }
    slot.tid = 0;
    let Some(rec) = THREADS.get_ptr_mut(held.tid) else { return 0 };
    // SAFETY: see `sched::record`; only read here, and a thread that runs again meanwhile is no longer `held`.
    let rec = unsafe { &*rec };
    if rec.held_since_ns != held.since_ns || rec.held_in_syscall == 0 || rec.held_p == 0 {
        return 0;
    }
    // Who takes it counts up once; a stop of the world takes Ps as well, without coming by here.
    if field::<u32>(p, layout.p_syscalltick) != Some(held.tick.wrapping_add(1)) {
        return 0;
    }
    if ts.stw_start_ns > held.since_ns {
        if let Some(c) = target::counters(index) {
            add(&mut c.held_cut, 1);
        }
        return 0;
    }
    // SAFETY: a helper without preconditions.
    let now = unsafe { bpf_ktime_get_ns() };
    let ns = now.wrapping_sub(held.since_ns);
    target::observe(index, Hist::PTaken, ns);
    if ns >= globals::threshold_ns() {
        let head = field::<u32>(p, layout.p_runqhead).unwrap_or(0);
        let tail = field::<u32>(p, layout.p_runqtail).unwrap_or(head);
        let next = field::<u64>(p, layout.p_runnext).unwrap_or(0);
        let queued = tail.wrapping_sub(head).wrapping_add(u32::from(next != 0));
        send_span(&Span {
            now,
            index,
            tid: held.tid,
            what: SpanWhat::PHeld,
            detail: rec.held_why,
            start: held.since_ns,
            middle: now,
            id: span_p(rec.held_p.wrapping_sub(1), queued),
        });
    }
    0
}

/// Whether a thread that leaves its CPU for `to` may keep a P. Where Ms sleep most, they have none.
#[inline(always)]
pub(super) fn may_hold(to: ThreadState, nr: i64) -> bool {
    match to {
        ThreadState::RunnablePreempted | ThreadState::Stopped => true,
        ThreadState::Blocked | ThreadState::BlockedUninterruptible => {
            !matches!(nr as i32, SYS_FUTEX | SYS_EPOLL_PWAIT | SYS_EPOLL_WAIT | SYS_EPOLL_PWAIT2)
        }
        _ => false,
    }
}

/// Where a P of a target is noted while a thread is off the CPUs with it, in a system call.
#[inline(always)]
fn held(index: u32, p_id: u32) -> Option<&'static mut Held> {
    // SAFETY: a value of an array map lives as long as the program; see `Held` on races.
    HELD.get_ptr_mut(index * HELD_PS + (p_id & (HELD_PS - 1))).map(|p| unsafe { &mut *p })
}

/// The current thread leaves its CPU: notes the P that it keeps, if any. `why` as `SpanEvent::detail`.
///
/// A busy server's threads are preempted thousands of times a second, by what the network brings, so this
/// looks up what changes (the P, by one read) and remembers what does not.
#[inline(always)]
pub(super) fn note_held(
    rec: &mut ThreadRecord,
    tid: u32,
    index: u32,
    now: u64,
    task: Task,
    why: i32,
) {
    let Some(t) = target::config(index) else { return };
    let l = &t.layout;
    if l.tls_g == 0 {
        return;
    }
    let procid = l.m_procid;
    if rec.go_m == 0 || (procid != 0 && field::<u32>(rec.go_m, procid) != Some(rec.go_procid)) {
        // SAFETY: see `read`.
        let fsbase: u64 = unsafe { read(task, globals::off_task_fsbase()) };
        (rec.go_m, rec.go_p) = (find_m(index.into(), fsbase), 0);
        if rec.go_m == 0 {
            return;
        }
        if procid != 0 {
            // One that cannot be read now differs from the one at the next look.
            rec.go_procid = field(rec.go_m, procid).unwrap_or(0);
        }
    }
    // `p`, `nextp` and `oldp`, side by side.
    let Some([p, _, oldp]) = field::<[u64; 3]>(rec.go_m, l.m_p) else { return };
    let in_syscall = oldp != 0;
    let p = if in_syscall { oldp } else { p };
    if p == 0 {
        return;
    }
    // A P keeps its place and its number for good (Go `src/runtime/proc.go`, `procresize`).
    if p != rec.go_p {
        let id = find_p(index.into(), rec.go_m, p, in_syscall.into());
        if id == NO_P {
            return;
        }
        (rec.go_p, rec.go_p_id) = (p, id as u32);
    }
    if in_syscall {
        let Some(tick) = field::<u32>(rec.go_m, l.m_syscalltick) else { return };
        // Taken away before: in this system call it has slept already.
        if field::<u32>(p, l.p_syscalltick) != Some(tick) {
            return;
        }
        let Some(slot) = held(index, rec.go_p_id) else { return };
        if slot.tid != 0 && slot.p != p {
            if let Some(c) = target::counters(index) {
                add(&mut c.held_full, 1);
            }
            return;
        }
        *slot = Held { since_ns: now, p, tid, tick };
    }
    rec.held_since_ns = now;
    rec.held_p = rec.go_p_id.wrapping_add(1);
    rec.held_in_syscall = in_syscall.into();
    rec.held_why = why;
}

/// The current thread's M, by its g; 0: none. (A global function in BPF's sense, see `sched::send_slices`.)
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn find_m(index: u64, fsbase: u64) -> u64 {
    let Some(t) = target::config(index as u32) else { return 0 };
    let l = &t.layout;
    match field::<u64>(fsbase.wrapping_add(l.tls_g as i64 as u64), 0) {
        None | Some(0) => 0,
        Some(g) => field(g, l.g_m).unwrap_or(0),
    }
}

const NO_P: u64 = u64::MAX;

/// The number of P `p` of `m`, if it says itself that it is `m`'s (in a system call it does not); else [`NO_P`].
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn find_p(index: u64, m: u64, p: u64, in_syscall: u64) -> u64 {
    let Some(t) = target::config(index as u32) else { return NO_P };
    let l = &t.layout;
    if in_syscall == 0 && field::<u64>(p, l.p_m) != Some(m) {
        return NO_P;
    }
    field::<u32>(p, l.p_id).map_or(NO_P, u64::from)
}

/// A thread that had a P as it left its CPU runs again: with it, unless that was taken away.
#[inline(always)]
pub(super) fn end_held(rec: &mut ThreadRecord, ts: &TargetState, tid: u32, index: u32, now: u64) {
    let (since, id) = (rec.held_since_ns, rec.held_p.wrapping_sub(1));
    rec.held_p = 0;
    let mut hist = Hist::PDescheduled;
    if rec.held_in_syscall != 0 {
        hist = Hist::PKept;
        let Some(slot) = held(index, id) else { return };
        if slot.tid != tid || slot.since_ns != since {
            return;
        }
        slot.tid = 0;
        if ts.stw_start_ns > since {
            if let Some(c) = target::counters(index) {
                add(&mut c.held_cut, 1);
            }
            return;
        }
    }
    let ns = now.wrapping_sub(since);
    target::observe(index, hist, ns);
    if ns >= globals::threshold_ns() {
        tell_held(tid.into(), index.into(), now, id.into());
    }
}

/// Sends that a thread kept P `id` until now. The result says nothing.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn tell_held(tid: u64, index: u64, now: u64, id: u64) -> u64 {
    let Some(rec) = THREADS.get_ptr_mut(tid as u32) else { return 0 };
    // SAFETY: see `sched::record`.
    let rec = unsafe { &*rec };
    send_span(&Span {
        now,
        index: index as u32,
        tid: tid as u32,
        what: SpanWhat::PHeld,
        detail: rec.held_why,
        start: rec.held_since_ns,
        middle: 0,
        id: span_p(id as u32, 0),
    });
    0
}
