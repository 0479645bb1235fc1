//! netpoll: calls of `epoll_pwait` and its kin. A poll with timeout 0 and one that may sleep are counted
//! apart; who sleeps in a poll, how long, and how late it runs again is the scheduler's to say, and since
//! when a socket was ready that of `ready`.
//!
//! Two ways to the same counts. `fentry` on the system calls themselves costs their callers alone, a few
//! ns. Where the kernel has none, the tracepoints of all system calls: those cost every process of the
//! host, so user space attaches them for short looks when there are many.

use aya_ebpf::{
    helpers::{bpf_get_current_pid_tgid, bpf_probe_read_user},
    macros::{btf_tracepoint, fentry, fexit},
    programs::{BtfTracePointContext, FEntryContext, FExitContext},
};
use g211s_ebpf::event::{SYS_EPOLL_PWAIT, SYS_EPOLL_PWAIT2, SYS_EPOLL_WAIT};

use super::{ready, target};
use crate::{
    maps::{POLLS, SYSCALLS},
    send::add,
};

/// `struct pt_regs`, opaque.
type Regs = *const u8;

// Offsets in x86-64's `struct pt_regs` (arch/x86/include/asm/ptrace.h). The system call's fourth
// argument is still in its register when the call returns.
const OFF_R10: usize = 7 * 8;
const OFF_ORIG_AX: usize = 15 * 8;

const OFF_DI: usize = 14 * 8;

#[inline(always)]
fn register(regs: Regs, offset: usize) -> u64 {
    // SAFETY: a BTF pointer from the program's context; the verifier checks the offset.
    unsafe { core::ptr::read_volatile(regs.add(offset).cast()) }
}

/// Whether polls are being counted now: user space lets all programs begin and end together.
#[inline(always)]
fn counting() -> bool {
    // SAFETY: an aligned value of an array map, which user space replaces as a whole.
    POLLS.get_ptr(0).is_some_and(|p| unsafe { core::ptr::read_volatile(p) } != 0)
}

/// Whether a poll may sleep: its timeout is not 0.
#[inline(always)]
fn may_sleep(nr: i32, regs: Regs) -> bool {
    let timeout = register(regs, OFF_R10);
    if nr == SYS_EPOLL_PWAIT2 {
        // A `struct timespec *`; null: for ever.
        let timeout = timeout as *const [u64; 2];
        // SAFETY: a checked read of user memory.
        return timeout.is_null() || !matches!(unsafe { bpf_probe_read_user(timeout) }, Ok([0, 0]));
    }
    timeout as i32 != 0
}

#[inline(always)]
fn enter(nr: i32, regs: Regs) {
    let tgid = (bpf_get_current_pid_tgid() >> 32) as u32;
    let Some(c) = target::of(tgid).and_then(target::counters) else { return };
    // Atomically: these programs can be preempted by others of their kind.
    if may_sleep(nr, regs) {
        add(&mut c.epoll_blocking, 1);
    } else {
        add(&mut c.epoll_nonblocking, 1);
    }
}

#[inline(always)]
fn exit(nr: i32, regs: Regs, result: i64) {
    let Some(index) = target::of((bpf_get_current_pid_tgid() >> 32) as u32) else { return };
    let Some(c) = target::counters(index) else { return };
    if result > 0 {
        add(&mut c.epoll_events, result as u64);
    } else if may_sleep(nr, regs) {
        add(&mut c.epoll_empty, 1);
    }
}

#[inline(always)]
fn is_poll(nr: i64) -> bool {
    nr == SYS_EPOLL_WAIT as i64 || nr == SYS_EPOLL_PWAIT as i64 || nr == SYS_EPOLL_PWAIT2 as i64
}

/// Any system call of the host: `sys_enter(regs, nr)`.
#[btf_tracepoint(function = "sys_enter")]
pub(crate) fn sys_enter(ctx: BtfTracePointContext) -> i32 {
    if counting() {
        if let Some(n) = SYSCALLS.get_ptr_mut(0) {
            // SAFETY: this CPU's own entry.
            add(unsafe { &mut *n }, 1);
        }
        let nr: i64 = ctx.arg(1);
        if is_poll(nr) {
            enter(nr as i32, ctx.arg(0));
        }
    }
    0
}

/// Its return: `sys_exit(regs, result)`.
#[btf_tracepoint(function = "sys_exit")]
pub(crate) fn sys_exit(ctx: BtfTracePointContext) -> i32 {
    if counting() {
        let regs: Regs = ctx.arg(0);
        let nr = register(regs, OFF_ORIG_AX) as i64;
        if is_poll(nr) {
            exit(nr as i32, regs, ctx.arg(1));
        }
    }
    0
}

macro_rules! polls {
    ($($enter:ident, $exit:ident, $function:literal, $nr:expr;)*) => {$(
        #[fentry(function = $function)]
        pub(crate) fn $enter(ctx: FEntryContext) -> i32 {
            if counting() {
                enter($nr, ctx.arg(0));
            }
            0
        }

        #[fexit(function = $function)]
        pub(crate) fn $exit(ctx: FExitContext) -> i32 {
            if counting() {
                let (regs, result): (Regs, i64) = (ctx.arg(0), ctx.arg(1));
                exit($nr, regs, result);
                ready::harvested(register(regs, OFF_DI), result);
            }
            0
        }
    )*};
}

polls! {
    enter_epoll_wait, exit_epoll_wait, "__x64_sys_epoll_wait", SYS_EPOLL_WAIT;
    enter_epoll_pwait, exit_epoll_pwait, "__x64_sys_epoll_pwait", SYS_EPOLL_PWAIT;
    enter_epoll_pwait2, exit_epoll_pwait2, "__x64_sys_epoll_pwait2", SYS_EPOLL_PWAIT2;
}
