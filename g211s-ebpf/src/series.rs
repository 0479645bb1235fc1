//! Waits for a CPU by time, tick by tick: what the kernel side fills and user space reads a little later.
//!
//! A wait is counted in one place when it ends, in constant time whatever its length: its two ends add their
//! own parts, and `begun` and `ended` tell that it filled the ticks between them.

/// A tick is 2^`TICK_BITS` ns: 1.05 ms.
pub const TICK_BITS: u32 = 20;
/// Length of a tick, ns.
pub const TICK_NS: u64 = 1 << TICK_BITS;
/// Ticks of a page, as a power of two.
pub const PAGE_BITS: u32 = 6;
/// Ticks of a page.
pub const PAGE_TICKS: usize = 1 << PAGE_BITS;
/// Pages that a target has on each CPU (a power of two): half a second of ticks, so that user space may be
/// late by 400 ms.
pub const PAGES: u32 = 8;
/// A wait that reaches over this many ticks or more (67 ms) is not spread over them: it is counted in its
/// last one alone. Waits that long are sent one by one, and a tick this old does not change any more.
pub const SPREAD_TICKS: u64 = 64;

/// One tick of a target on one CPU (where the waits ended).
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(
    not(target_arch = "bpf"),
    derive(zerocopy::FromBytes, zerocopy::IntoBytes, zerocopy::KnownLayout, zerocopy::Immutable)
)]
pub struct Tick {
    /// Which one: the low bits of its number (time / `TICK_NS`). Another number: nothing happened in it.
    pub stamp: u32,
    /// Waits (after a wakeup or a preemption) that ended in it.
    pub waits: u32,
    /// Waits that began in it and reached beyond it.
    pub begun: u32,
    /// Waits that ended in it and had begun before it.
    pub ended: u32,
    /// Length of the waits that ended in it, ns.
    pub waited_ns: u64,
    /// Waiting time in it of waits that began or ended in it, ns.
    pub within_ns: u64,
}

impl Tick {
    /// The number's low bits, and nothing else.
    #[inline(always)]
    pub const fn new(stamp: u32) -> Self {
        Self { stamp, waits: 0, begun: 0, ended: 0, waited_ns: 0, within_ns: 0 }
    }
}

/// A map's value: neighbouring ticks.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(
    not(target_arch = "bpf"),
    derive(zerocopy::FromBytes, zerocopy::IntoBytes, zerocopy::KnownLayout, zerocopy::Immutable)
)]
pub struct Page {
    /// By the low bits of their numbers.
    pub ticks: [Tick; PAGE_TICKS],
}

/// Which of a target's pages holds a tick.
#[inline(always)]
pub const fn page_of(tick: u64) -> u32 {
    (tick >> PAGE_BITS) as u32 & (PAGES - 1)
}

/// Where in its page a tick is.
#[inline(always)]
pub const fn place_of(tick: u64) -> usize {
    tick as usize & (PAGE_TICKS - 1)
}

const _: () = {
    assert!(size_of::<Page>() == 32 * PAGE_TICKS);
    // What is still to be read must not be overwritten by what is being filled.
    assert!(SPREAD_TICKS as usize * 4 <= PAGE_TICKS * PAGES as usize);
};
