//! Where a target's threads are in their own code while its world is being stopped: at each signal with which
//! the runtime asks a thread to stop, and at ticks of the CPU clock where that is attached. Must not know
//! functions: addresses are named in user space.

use aya_ebpf::{
    helpers::{
        bpf_get_current_pid_tgid, bpf_get_current_task_btf, bpf_get_smp_processor_id,
        bpf_ktime_get_ns, bpf_probe_read_user, bpf_task_pt_regs,
    },
    macros::{btf_tracepoint, perf_event},
    programs::{BtfTracePointContext, PerfEventContext},
};
use g211s_ebpf::event::{EventKind, Header, STACK_DEPTH, StackEvent, StackWhy};

use super::target;
use crate::{
    maps::{THREADS, TICKS},
    send::send,
};

/// What the Go runtime preempts with (Go runtime/signal_unix.go, `sigPreempt`).
const SIGURG: i32 = 23;
// Offsets in the x86-64 `struct pt_regs`.
const BP: usize = 4 * 8;
const ORIG_AX: usize = 15 * 8;
const IP: usize = 16 * 8;
const SP: usize = 19 * 8;

/// Time between two stacks of one thread in one stop and one stay on a CPU, ns, at first …
const SPACING_NS: u64 = 200_000;
/// … and later this part (as a shift) of the time since the stop began: a stop of a second takes some 200.
const SPACING_SHIFT: u32 = 5;

/// A thread is about to handle a signal. The runtime sends one to each running thread as it begins to stop
/// the world, and again every 100 µs to those that have not stopped (Go runtime/proc.go,
/// `stopTheWorldWithSema`).
#[btf_tracepoint(function = "signal_deliver")]
pub(crate) fn signal_deliver(ctx: BtfTracePointContext) -> i32 {
    if ctx.arg::<i32>(0) == SIGURG {
        take(StackWhy::Signal);
    }
    0
}

/// The CPU clock has ticked under whatever runs here.
#[perf_event]
pub(crate) fn cpu_clock(_ctx: PerfEventContext) -> u32 {
    if let Some(ticks) = TICKS.get_ptr_mut(0) {
        // SAFETY: this CPU's own entry, written here alone.
        unsafe { *ticks += 1 };
    }
    take(StackWhy::Sample);
    0
}

/// Sends where the current thread is in user space, if its world is being stopped and not by itself.
#[inline(always)]
fn take(why: StackWhy) {
    let id = bpf_get_current_pid_tgid();
    let Some(index) = target::of((id >> 32) as u32) else { return };
    let Some(ts) = target::state(index) else { return };
    let tid = id as u32;
    if ts.open == 0 || tid == ts.stopper {
        return;
    }
    let Some(rec) = THREADS.get_ptr_mut(tid) else { return };
    // SAFETY: a live value of a preallocated hash map; `stack_ns` is written by the thread itself alone, and
    // `since_ns` does not change while it runs.
    let (last, since) = unsafe { (&mut (*rec).stack_ns, (*rec).since_ns) };
    // SAFETY: helpers without preconditions.
    let (now, cpu) = unsafe { (bpf_ktime_get_ns(), bpf_get_smp_processor_id()) };
    let age = now.wrapping_sub(ts.stw_start_ns) >> SPACING_SHIFT;
    let spacing = if age > SPACING_NS { age } else { SPACING_NS };
    // One in each stay on a CPU in any case.
    if *last >= ts.stw_start_ns && *last >= since && now.wrapping_sub(*last) < spacing {
        return;
    }
    *last = now;
    let (ip, sp, bp, orig_ax) = user_registers();
    let mut event = StackEvent {
        header: Header {
            ts_ns: now,
            kind: EventKind::Stack as u8,
            target: index as u8,
            cpu: cpu as u16,
            tid,
        },
        why: why as u32,
        stw: ts.stw,
        syscall: if orig_ax < 0 { -1 } else { orig_ax as i32 },
        depth: 2,
        addresses: [0; STACK_DEPTH],
    };
    event.addresses[0] = ip;
    // The return address only where the function has no frame (yet): user space knows.
    // SAFETY: a read of user memory that fails softly.
    event.addresses[1] = unsafe { bpf_probe_read_user(sp as *const u64) }.unwrap_or(0);
    let mut frame = bp;
    let mut i = 2;
    while i < STACK_DEPTH {
        // The caller's frame pointer, and above it the return address.
        // SAFETY: as above.
        let Ok([outer, address]) = (unsafe { bpf_probe_read_user(frame as *const [u64; 2]) })
        else {
            break;
        };
        if address == 0 {
            break;
        }
        event.addresses[i] = address;
        i += 1;
        event.depth = i as u32;
        if outer == frame {
            break;
        }
        frame = outer;
    }
    send(EventKind::Stack, event);
}

/// `ip`, `sp`, `bp` and `orig_ax` with which the current thread entered the kernel.
#[inline(always)]
fn user_registers() -> (u64, u64, u64, i64) {
    // SAFETY: the helpers give the current task and its saved user registers, both BTF pointers; the offsets
    // are those of `struct pt_regs`, and the verifier checks them.
    unsafe {
        let regs = bpf_task_pt_regs(bpf_get_current_task_btf().cast()) as *const u8;
        let read = |offset: usize| core::ptr::read_volatile(regs.add(offset).cast::<u64>());
        (read(IP), read(SP), read(BP), read(ORIG_AX) as i64)
    }
}
