//! Counters that the kernel side keeps per target and CPU, and per CPU.

#[cfg(not(target_arch = "bpf"))]
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::event::{EVENT_CLASSES, SITES};

/// Per target, per CPU. All times in ns; everything counts up from attach.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(not(target_arch = "bpf"), derive(FromBytes, IntoBytes, KnownLayout, Immutable))]
pub struct TargetCounters {
    /// Wakeup → running: how often, and how long in all.
    pub woken: u64,
    /// See `woken`.
    pub woken_ns: u64,
    /// Preempted → running.
    pub preempted: u64,
    /// See `preempted`.
    pub preempted_ns: u64,
    /// `sched_yield` → running.
    pub yielded: u64,
    /// See `yielded`.
    pub yielded_ns: u64,
    /// Stays on a CPU that ended.
    pub oncpu: u64,
    /// See `oncpu`.
    pub oncpu_ns: u64,
    /// `epoll_wait` family calls with timeout 0, while polls were counted.
    pub epoll_nonblocking: u64,
    /// … with any other timeout.
    pub epoll_blocking: u64,
    /// Times that a thread slept in one.
    pub epoll_slept: u64,
    /// How long, from leaving its CPU to being on one again.
    pub epoll_slept_ns: u64,
    /// Events that all calls returned, while polls were counted.
    pub epoll_events: u64,
    /// Blocking calls that returned no event (timeout or signal), while polls were counted.
    pub epoll_empty: u64,
    /// Woken from a sleeping `epoll_wait` → running, longer than the late threshold.
    pub epoll_late: u64,
    /// All woken-from-epoll → running time.
    pub epoll_late_ns: u64,
    /// Stops the world saw begin.
    pub stw: u64,
    /// GC cycles that began (a stop for sweep termination).
    pub gc: u64,
    /// Bytes asked of `(*mcache).allocLarge`.
    pub large_bytes: u64,
    /// Parks of assists that found the table full: not measured.
    pub parks_full: u64,
    /// Ps kept in system calls that found the table full: not measured.
    pub held_full: u64,
    /// Ps kept in system calls while a stop of the world began: it took them, and how long they were kept is
    /// not known.
    pub held_cut: u64,
    /// Probe hits by `Site`.
    pub hits: [u64; SITES],
}

impl TargetCounters {
    /// All zero.
    pub const ZERO: Self = Self {
        woken: 0,
        woken_ns: 0,
        preempted: 0,
        preempted_ns: 0,
        yielded: 0,
        yielded_ns: 0,
        oncpu: 0,
        oncpu_ns: 0,
        epoll_nonblocking: 0,
        epoll_blocking: 0,
        epoll_slept: 0,
        epoll_slept_ns: 0,
        epoll_events: 0,
        epoll_empty: 0,
        epoll_late: 0,
        epoll_late_ns: 0,
        stw: 0,
        gc: 0,
        large_bytes: 0,
        parks_full: 0,
        held_full: 0,
        held_cut: 0,
        hits: [0; SITES],
    };
}

/// Per CPU: what became of the events. For every class, `produced == sent + lost`.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(not(target_arch = "bpf"), derive(FromBytes, IntoBytes, KnownLayout, Immutable))]
pub struct LossCounters {
    /// Events that a program wanted to send, by `EventKind`.
    pub produced: [u64; EVENT_CLASSES],
    /// Events that found the ring full, by `EventKind`.
    pub lost: [u64; EVENT_CLASSES],
    /// Threads that found the thread table full: their states are unknown.
    pub threads_full: u64,
}

impl LossCounters {
    /// All zero.
    pub const ZERO: Self =
        Self { produced: [0; EVENT_CLASSES], lost: [0; EVENT_CLASSES], threads_full: 0 };
}
