//! netpoll: `epoll_pwait` and its kin, enter and exit. A poll with timeout 0 and one that may sleep
//! are counted apart; how late a sleeper runs after its wakeup is the scheduler's to say.

use aya_ebpf::{
    EbpfContext as _,
    helpers::{bpf_get_current_pid_tgid, bpf_ktime_get_ns, bpf_probe_read_user},
    macros::tracepoint,
    programs::TracePointContext,
};
use g211s_ebpf::{config::ThreadRecord, hist::Hist};

use super::target;
use crate::maps::THREADS;

// Formats of `syscalls:sys_enter_*` and `sys_exit_*`: common fields, `__syscall_nr`, then the
// arguments as eight bytes each, or the result.
const ARG: usize = 16;

#[inline(always)]
fn field(ctx: &TracePointContext, offset: usize) -> u64 {
    // SAFETY: within the tracepoint's record, see `ARG`.
    unsafe { core::ptr::read_volatile(ctx.as_ptr().cast::<u8>().add(offset).cast()) }
}

#[inline(always)]
fn record(tid: u32) -> Option<&'static mut ThreadRecord> {
    // SAFETY: only the thread itself writes the fields used here.
    THREADS.get_ptr_mut(tid).map(|r| unsafe { &mut *r })
}

#[inline(always)]
fn enter(blocks: impl FnOnce() -> bool) {
    let id = bpf_get_current_pid_tgid();
    let Some(index) = target::of((id >> 32) as u32) else { return };
    let Some(c) = target::counters(index) else { return };
    if !blocks() {
        c.epoll_nonblocking += 1;
        return;
    }
    c.epoll_blocking += 1;
    if let Some(r) = record(id as u32) {
        // SAFETY: a helper without preconditions.
        r.epoll_ns = unsafe { bpf_ktime_get_ns() };
        r.epoll_slept = 0;
    }
}

#[inline(always)]
fn exit(result: i64) {
    let id = bpf_get_current_pid_tgid();
    let Some(index) = target::of((id >> 32) as u32) else { return };
    let Some(c) = target::counters(index) else { return };
    if result > 0 {
        c.epoll_events += result as u64;
    }
    let Some(r) = record(id as u32) else { return };
    if r.epoll_ns == 0 {
        return;
    }
    if result <= 0 {
        c.epoll_empty += 1;
    }
    if r.epoll_slept != 0 {
        // SAFETY: a helper without preconditions.
        let took = unsafe { bpf_ktime_get_ns() } - r.epoll_ns;
        c.epoll_slept += 1;
        c.epoll_slept_ns += took;
        target::observe(index, Hist::EpollWait, took);
    }
    r.epoll_ns = 0;
    r.epoll_slept = 0;
}

/// `epoll_wait(epfd, events, maxevents, timeout_ms)`
#[tracepoint(category = "syscalls", name = "sys_enter_epoll_wait")]
pub(crate) fn enter_epoll_wait(ctx: TracePointContext) -> u32 {
    enter(|| field(&ctx, ARG + 3 * 8) as i32 != 0);
    0
}

/// `epoll_pwait(epfd, events, maxevents, timeout_ms, sigmask, sigsetsize)`: what Go uses.
#[tracepoint(category = "syscalls", name = "sys_enter_epoll_pwait")]
pub(crate) fn enter_epoll_pwait(ctx: TracePointContext) -> u32 {
    enter(|| field(&ctx, ARG + 3 * 8) as i32 != 0);
    0
}

/// `epoll_pwait2(epfd, events, maxevents, timespec *, …)`
#[tracepoint(category = "syscalls", name = "sys_enter_epoll_pwait2")]
pub(crate) fn enter_epoll_pwait2(ctx: TracePointContext) -> u32 {
    enter(|| {
        let timeout = field(&ctx, ARG + 3 * 8) as *const [u64; 2];
        // SAFETY: a checked read of user memory; a null pointer means "forever".
        timeout.is_null() || !matches!(unsafe { bpf_probe_read_user(timeout) }, Ok([0, 0]))
    });
    0
}

/// Result of any of the three.
#[tracepoint(category = "syscalls", name = "sys_exit_epoll_wait")]
pub(crate) fn exit_epoll(ctx: TracePointContext) -> u32 {
    exit(field(&ctx, ARG) as i64);
    0
}
