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

/// Sends one event. A wakeup costs the traced CPU microseconds, so there is none until the ring is
/// filling faster than user space's timer empties it.
#[inline(always)]
pub(crate) fn send<T: 'static>(kind: EventKind, event: T) {
    let Some(loss) = loss() else { return };
    let class = kind as usize;
    loss.produced[class] += 1;
    let Some(mut slot) = EVENTS.reserve::<T>(0) else {
        loss.lost[class] += 1;
        return;
    };
    slot.write(event);
    let pending = EVENTS.query(u64::from(BPF_RB_AVAIL_DATA));
    let flags = if pending > globals::wake_at() { BPF_RB_FORCE_WAKEUP } else { BPF_RB_NO_WAKEUP };
    slot.submit(u64::from(flags));
}
