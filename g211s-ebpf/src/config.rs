//! What user space tells the kernel side: map values, sizes, and the names of the globals.

#[cfg(not(target_arch = "bpf"))]
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// Targets that one run can watch.
pub const MAX_TARGETS: u32 = 64;
/// CPU slices remembered per CPU (a power of two).
pub const SLICE_HISTORY: usize = 64;
/// Most CPUs supported.
pub const MAX_CPUS: u32 = 1024;

/// Value of the `TARGETS` map (key: tgid).
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(not(target_arch = "bpf"), derive(FromBytes, IntoBytes, KnownLayout, Immutable))]
pub struct TargetConfig {
    /// Index of the target.
    pub index: u32,
    /// `stwReason` number that begins a GC cycle (sweep termination).
    pub reason_sweep_term: u32,
    /// Number of the `Site` at whose hit the window of a stop closes: the last edge that this
    /// target's probes give.
    pub close_site: u32,
    /// Zero.
    pub reserved: u32,
}

/// Value of the `THREADS` map (key: tid): the kernel side's notion of one thread.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(not(target_arch = "bpf"), derive(FromBytes, IntoBytes, KnownLayout, Immutable))]
pub struct ThreadRecord {
    /// When the thread entered `state`, ns.
    pub since_ns: u64,
    /// Runnable: when it joined `cpu`'s run queue, ns.
    pub queued_ns: u64,
    /// In `epoll_wait` with a timeout other than 0: since when, ns; else 0.
    pub epoll_ns: u64,
    /// System call it blocks or last blocked in.
    pub syscall: i32,
    /// Last window for which it sent an event.
    pub window: u32,
    /// CPU it runs or is queued on, or last ran on.
    pub cpu: u16,
    /// `ThreadState` as a number.
    pub state: u8,
    /// Index of its target.
    pub target: u8,
    /// 1 if it slept since `epoll_ns`.
    pub epoll_slept: u32,
}
