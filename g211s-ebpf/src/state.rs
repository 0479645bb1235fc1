//! What the kernel side keeps of a target between its programs. User space writes it only to make a place free
//! for another target.

#[cfg(not(target_arch = "bpf"))]
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// Where a target's Go runtime stands. Written by uprobes; stops of one target never overlap
/// (`worldsema`), so there is one writer at a time. Readers on other CPUs may see it a
/// moment late, which moves an event's class, never its times.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
#[cfg_attr(not(target_arch = "bpf"), derive(FromBytes, IntoBytes, KnownLayout, Immutable))]
pub struct TargetState {
    /// When the stop under way began, or the last, ns.
    pub stw_start_ns: u64,
    /// Until when evidence is wanted: the end of the last window (a stop of the world) or of the last late
    /// harvest of the network. A thread's interval that began before tells what it did then.
    pub evidence_until_ns: u64,
    /// When the GC cycle under way began, or the last, ns.
    pub gc_start_ns: u64,
    /// When the last one that ended did, ns.
    pub last_gc_end_ns: u64,
    /// Windows opened so far.
    pub window: u32,
    /// 1 while a window is open.
    pub open: u32,
    /// Stops begun so far.
    pub stw: u32,
    /// 1 while a GC cycle runs.
    pub in_gc: u32,
    /// 1 from `gcMarkTermination` until that stop ends.
    pub terminating: u32,
    /// Reason of the stop under way, or of the last.
    pub reason: u32,
    /// Thread that stops the world, or stopped it last.
    pub stopper: u32,
    /// Zero.
    pub reserved: u32,
    /// Epoll sets of its that are known.
    pub epoll_sets: u32,
    /// 1: a socket of a set of its has become ready since its sockets were last taken.
    pub epoll_ready: u32,
    /// Since when the network waits for a thread: something is ready, or a thread was woken from a poll. 0: it
    /// does not.
    pub network_waits_ns: u64,
}

impl TargetState {
    /// Of a target of which nothing has been seen.
    pub const NEW: Self = Self {
        stw_start_ns: 0,
        evidence_until_ns: 0,
        gc_start_ns: 0,
        last_gc_end_ns: 0,
        window: 0,
        open: 0,
        stw: 0,
        in_gc: 0,
        terminating: 0,
        reason: 0,
        stopper: 0,
        reserved: 0,
        epoll_sets: 0,
        epoll_ready: 0,
        network_waits_ns: 0,
    };
}

/// Where an epoll set of a target stands. Written where a socket becomes ready, on any CPU, and where a poll
/// returns; a race between the two costs an observation, and never makes one longer.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
#[cfg_attr(not(target_arch = "bpf"), derive(FromBytes, IntoBytes, KnownLayout, Immutable))]
pub struct EpollSet {
    /// Since when something is ready that no poll has taken, ns; 0: nothing is.
    pub ready_ns: u64,
    /// Whose it is.
    pub target: u32,
    pad: u32,
}

impl EpollSet {
    /// A set in which nothing is known to be ready.
    pub const fn of(target: u32) -> Self {
        Self { ready_ns: 0, target, pad: 0 }
    }
}

/// A P in a system call: whose, and since when. Written by who has the P: the thread that sleeps with it, and
/// the one that has taken it and hands it on.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
#[cfg_attr(not(target_arch = "bpf"), derive(FromBytes, IntoBytes, KnownLayout, Immutable))]
pub struct Held {
    /// Since when, ns.
    pub since_ns: u64,
    /// Its address.
    pub p: u64,
    /// 0: none.
    pub tid: u32,
    /// `p.syscalltick` then.
    pub tick: u32,
}

impl Held {
    /// No P is kept.
    pub const NONE: Self = Self { since_ns: 0, p: 0, tid: 0, tick: 0 };
}
