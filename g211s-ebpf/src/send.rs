//! Sending events: reserve, fill, submit without waking anyone, and count whatever is lost.

use aya_ebpf::bindings::{BPF_RB_AVAIL_DATA, BPF_RB_FORCE_WAKEUP, BPF_RB_NO_WAKEUP};
use g211s_ebpf::{counters::LossCounters, event::EventKind};

use crate::{
    globals,
    maps::{EVENTS, LOSS},
};

/// This CPU's loss counters.
#[inline(always)]
pub(crate) fn loss() -> Option<&'static mut LossCounters> {
    // SAFETY: entry 0 of a per-CPU array: this CPU's own, and BPF programs do not nest on it
    // except for an NMI, where we attach nothing.
    LOSS.get_ptr_mut(0).map(|p| unsafe { &mut *p })
}

/// Adds to a counter that another program may be adding to: a uprobe's program can be preempted
/// between the load and the store where the kernel is preemptible.
#[inline(always)]
pub(crate) fn add(counter: &mut u64, n: u64) {
    // SAFETY: an aligned `u64` in a map's value, which outlives the program. (The target has no
    // `AtomicU64::fetch_add`, since it has no compare-and-swap in the oldest instruction set.)
    unsafe {
        core::arch::asm!("lock *(u64 *)({p} + 0) += {n}", p = in(reg) counter, n = in(reg) n);
    }
}

/// Sends one event. A wakeup costs the traced CPU microseconds, so there is none until the ring is
/// filling faster than user space's timer empties it; then one (or a few) as the mark is passed.
#[inline(always)]
pub(crate) fn send<T: 'static>(kind: EventKind, event: T) {
    let Some(loss) = loss() else { return };
    let class = kind as usize;
    add(&mut loss.produced[class], 1);
    let Some(mut slot) = EVENTS.reserve::<T>(0) else {
        add(&mut loss.lost[class], 1);
        return;
    };
    slot.write(event);
    slot.submit(notify(size_of::<T>()));
}

/// The flags with which an event of so many bytes is submitted.
#[inline(always)]
pub(crate) fn notify(bytes: usize) -> u64 {
    let pending = EVENTS.query(u64::from(BPF_RB_AVAIL_DATA));
    let mark = globals::wake_at();
    // Every event past the mark would be an interrupt each; one that is missed here is made up for
    // by the timer.
    let passing = pending >= mark && pending < mark + 4 * (bytes as u64 + 8);
    u64::from(if passing { BPF_RB_FORCE_WAKEUP } else { BPF_RB_NO_WAKEUP })
}
