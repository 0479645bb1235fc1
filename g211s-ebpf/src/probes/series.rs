//! Counts waits by the ticks that they lie in. Must not know why a thread waited.

use g211s_ebpf::series::{PAGES, SPREAD_TICKS, TICK_BITS, TICK_NS, Tick, page_of, place_of};

use crate::maps::SERIES;

/// A wait of one of a target's threads ended on this CPU at `now`.
///
/// A global function in BPF's sense, see `sched::send_slices`. The result says nothing.
#[unsafe(no_mangle)]
#[inline(never)]
pub(crate) extern "C" fn add_to_series(target: u64, since: u64, now: u64) -> u64 {
    let (first, last) = (since >> TICK_BITS, now >> TICK_BITS);
    let waited = now - since;
    let Some(tick) = tick(target, last) else { return 0 };
    tick.waits += 1;
    tick.waited_ns += waited;
    if first == last {
        tick.within_ns += waited;
        return 0;
    }
    if last - first >= SPREAD_TICKS {
        return 0;
    }
    tick.ended += 1;
    tick.within_ns += now & (TICK_NS - 1);
    let Some(tick) = self::tick(target, first) else { return 0 };
    tick.begun += 1;
    tick.within_ns += TICK_NS - (since & (TICK_NS - 1));
    0
}

/// A tick on this CPU, empty if it had not begun yet.
#[inline(always)]
fn tick(target: u64, number: u64) -> Option<&'static mut Tick> {
    let page = SERIES.get_ptr_mut(target as u32 * PAGES + page_of(number))?;
    // SAFETY: this CPU's own entry; programs do not nest on a CPU.
    let page = unsafe { &mut *page };
    let tick = &mut page.ticks[place_of(number)];
    if tick.stamp != number as u32 {
        *tick = Tick::new(number as u32);
    }
    Some(tick)
}
