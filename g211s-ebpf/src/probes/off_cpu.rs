//! What a CPU does while a thread is "running" on it and does not run it: serve interrupts, or, in a
//! virtual machine, not run at all. From the kernel's own count, which `sched_switch` has just brought up to
//! date, and from the tracepoints of interrupts where they are asked for. Must not know events.

use aya_ebpf::{helpers::bpf_ktime_get_ns, macros::btf_tracepoint, programs::BtfTracePointContext};
use g211s_ebpf::config::{IrqState, NOT_COUNTED, ThreadRecord};

use super::task::{Task, read};
use crate::{
    globals::{self, ABSENT},
    maps::IRQS,
};

/// What went by on a CPU without its thread.
#[derive(Clone, Copy, Default)]
pub(crate) struct Missed {
    pub(crate) irq_ns: u32,
    pub(crate) stolen_ns: u32,
}

#[inline(always)]
fn state() -> Option<&'static mut IrqState> {
    // SAFETY: this CPU's own entry. Handlers nest, and each leaves what it found.
    IRQS.get_ptr_mut(0).map(|p| unsafe { &mut *p })
}

/// (time that the CPU spent on no task, of it in interrupts), by the kernel's count.
#[inline(always)]
fn clocks(task: Task) -> (u64, u64) {
    if globals::off_rq_clock_task() == ABSENT {
        return (0, 0);
    }
    // SAFETY: see `read`.
    unsafe {
        let group: *const u8 = read(task, globals::off_task_cfs_rq());
        let rq: *const u8 = read(group, globals::off_cfs_rq());
        let clock: u64 = read(rq, globals::off_rq_clock());
        let of_tasks: u64 = read(rq, globals::off_rq_clock_task());
        let irq = if globals::off_rq_irq() == ABSENT { 0 } else { read(rq, globals::off_rq_irq()) };
        (clock.wrapping_sub(of_tasks), irq)
    }
}

/// The thread comes to this CPU.
#[inline(always)]
pub(crate) fn comes(rec: &mut ThreadRecord, task: Task) {
    let (off, irq) = clocks(task);
    // Both counted from here: their difference is the hypervisor's.
    rec.off_ns = off.wrapping_sub(irq);
    rec.irq_ns = irq;
    if globals::count_irqs() != 0
        && let Some(s) = state()
    {
        rec.irq_ns = s.total_ns;
    }
}

/// The thread leaves this CPU.
#[inline(always)]
pub(crate) fn goes(rec: &ThreadRecord, task: Task) -> Missed {
    // Seen for the first time.
    if rec.off_ns == NOT_COUNTED {
        return Missed::default();
    }
    let (off, mut irq) = clocks(task);
    let stolen = off.wrapping_sub(irq).wrapping_sub(rec.off_ns);
    if globals::count_irqs() != 0
        && let Some(s) = state()
    {
        irq = s.total_ns;
    }
    Missed { irq_ns: grown(irq.wrapping_sub(rec.irq_ns)), stolen_ns: grown(stolen) }
}

/// A growth; 0 where a clock went backwards.
#[inline(always)]
fn grown(ns: u64) -> u32 {
    if ns >> 63 != 0 {
        0
    } else if ns > u32::MAX as u64 {
        u32::MAX
    } else {
        ns as u32
    }
}

#[inline(always)]
fn enter() {
    let Some(s) = state() else { return };
    if s.depth == 0 {
        // SAFETY: a helper without preconditions.
        s.since_ns = unsafe { bpf_ktime_get_ns() };
    }
    s.depth += 1;
}

#[inline(always)]
fn exit() {
    let Some(s) = state() else { return };
    // 0: it began before we came.
    if s.depth == 0 {
        return;
    }
    s.depth -= 1;
    if s.depth == 0 {
        // SAFETY: a helper without preconditions.
        s.total_ns += unsafe { bpf_ktime_get_ns() } - s.since_ns;
    }
}

macro_rules! handlers {
    ($($enter:ident, $exit:ident;)*) => {$(
        #[btf_tracepoint]
        pub(crate) fn $enter(_: BtfTracePointContext) -> i32 {
            enter();
            0
        }

        #[btf_tracepoint]
        pub(crate) fn $exit(_: BtfTracePointContext) -> i32 {
            exit();
            0
        }
    )*};
}

handlers! {
    irq_handler_entry, irq_handler_exit;
    softirq_entry, softirq_exit;
    local_timer_entry, local_timer_exit;
}
