//! What user space tells the kernel side: map values, sizes, and the names of the globals.

#[cfg(not(target_arch = "bpf"))]
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::event::{NO_SYSCALL, THREAD_STATES, ThreadState};

/// Targets that one run can watch.
pub const MAX_TARGETS: u32 = 64;
/// CPU slices remembered per CPU (a power of two): 10 ms and more of them at 20,000 switches a second.
pub const SLICE_HISTORY: usize = 256;
/// Most CPUs supported.
pub const MAX_CPUS: u32 = 1024;

/// Slots of the `TARGETS` map, as a power of two: so many more than targets that a multiplier under
/// which no two targets meet is found at once.
pub const TARGET_BITS: u32 = 12;

/// Ps of a target that can be noted as kept in system calls (a power of two).
pub const HELD_PS: u32 = 1024;

/// Entries of the `TARGETS` map: two tables.
pub const TARGET_SLOTS: u32 = 2 << TARGET_BITS;

/// How `TARGETS` is looked into: by which multiplier (odd), in which of its two tables (0 or 1).
pub const fn target_select(multiplier: u32, table: u32) -> u64 {
    (((table << TARGET_BITS) as u64) << 32) | multiplier as u64
}

/// The slot of `TARGETS` that process `tgid` would have, by a [`target_select`]. User space chooses a multiplier
/// under which each target has one to itself, so a look is one load, without a helper's call. Where a target
/// comes that would meet another, it fills the other table by another multiplier, and then selects that.
#[inline(always)]
pub const fn target_slot(tgid: u32, select: u64) -> u32 {
    (tgid.wrapping_mul(select as u32) >> (u32::BITS - TARGET_BITS)) | (select >> 32) as u32
}

/// What the slot of a watched process holds: its tgid, and its index plus one. 0: nobody.
#[inline(always)]
pub const fn target_entry(tgid: u32, index: u32) -> u64 {
    ((tgid as u64) << 32) | (index as u64 + 1)
}

/// One slot of a CPU's history.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(not(target_arch = "bpf"), derive(FromBytes, IntoBytes, KnownLayout, Immutable))]
pub struct Slice {
    /// Switched in, ns; 0: this slot was never used.
    pub start_ns: u64,
    /// Switched out, ns; without meaning in the open slice.
    pub end_ns: u64,
    /// Who ran.
    pub tid: u32,
    /// Its process.
    pub tgid: u32,
    /// Its name when it was switched in; zeros for the idle task.
    pub comm: [u64; 2],
    /// 1: already sent.
    pub sent: u32,
    /// Zero.
    pub pad: u32,
}

/// Value of the `CPUS` map (key: CPU): who ran on it lately. Written by that CPU in `sched_switch` alone;
/// another CPU reads it only when a waiting thread migrates away, and user space drops impossible
/// slices.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(not(target_arch = "bpf"), derive(FromBytes, IntoBytes, KnownLayout, Immutable))]
pub struct CpuState {
    /// Slices ended so far; the open one is `slices[ended % SLICE_HISTORY]`.
    pub ended: u64,
    /// The last ones.
    pub slices: [Slice; SLICE_HISTORY],
}

/// Value of the `IRQS` map: a CPU's interrupts.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(not(target_arch = "bpf"), derive(FromBytes, IntoBytes, KnownLayout, Immutable))]
pub struct IrqState {
    /// Handlers under way: a softirq may be interrupted in turn.
    pub depth: u64,
    /// When the outermost began, ns.
    pub since_ns: u64,
    /// Time in all that have ended, ns.
    pub total_ns: u64,
}

/// Value of the `CONFIGS` map (key: index of the target).
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(not(target_arch = "bpf"), derive(FromBytes, IntoBytes, KnownLayout, Immutable))]
pub struct TargetConfig {
    /// `stwReason` number that begins a GC cycle (sweep termination).
    pub reason_sweep_term: u32,
    /// Number of the `Site` at whose hit the window of a stop closes: the last edge that this
    /// target's probes give.
    pub close_site: u32,
    /// 1: the target's `gcMarkTermination` is probed, and tells the last stop of a cycle. Else every
    /// stop for mark termination counts as the last.
    pub has_mark_termination: u32,
    /// Offset of `mcache.alloc`, bytes; 0 where allocations are not followed.
    pub mcache_alloc: u32,
    /// Parks of assists that began before this do not count: their probes were away in between. ns.
    pub assists_since_ns: u64,
    /// Where the runtime keeps who has which P.
    pub layout: GoLayout,
}

/// Where a thread's goroutine, M and P are found in a Go process: offsets in bytes, each 0 where it is not
/// known. (The fields that are used lie at none but `p.id`.)
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[cfg_attr(not(target_arch = "bpf"), derive(FromBytes, IntoBytes, KnownLayout, Immutable))]
pub struct GoLayout {
    /// From the thread's FS base to its g; 0: who has which P is not to be looked at.
    pub tls_g: i32,
    /// `g.goid`
    pub g_goid: u32,
    /// `g.m`
    pub g_m: u32,
    /// `m.p`: the P that runs Go code on it.
    pub m_p: u32,
    /// `m.oldp`: the P that it went into a system call with; 0 outside of one.
    pub m_oldp: u32,
    /// `m.syscalltick`: that P's own as it did.
    pub m_syscalltick: u32,
    /// `p.syscalltick`: rises as a system call ends or the P is taken from one.
    pub p_syscalltick: u32,
    /// `p.id`
    pub p_id: u32,
    /// `p.m`
    pub p_m: u32,
    /// `p.runqhead`
    pub p_runqhead: u32,
    /// `p.runqtail`
    pub p_runqtail: u32,
    /// `p.runnext`
    pub p_runnext: u32,
    /// `m.procid`, where a thread's M may become another's (threads that Go did not make, which come and go
    /// with cgo's callbacks); 0: a thread has one M for its life.
    pub m_procid: u32,
    /// Zero.
    pub pad: u32,
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
    /// Asleep in a network poll, or woken from it and not on a CPU yet: since when, ns; else 0.
    pub epoll_ns: u64,
    /// Since it was last woken from a network poll that has not returned yet: when that was, ns; else 0.
    pub epoll_woken_ns: u64,
    /// Off the CPUs with a P: since when, ns.
    pub held_since_ns: u64,
    /// The same: the P's number plus one; 0: it has none, or it was not looked.
    pub held_p: u32,
    /// The same: why it is off, as `SpanEvent::detail` of `SpanWhat::PHeld`.
    pub held_why: i32,
    /// Its M, as it was last looked up; 0: not yet.
    pub go_m: u64,
    /// The P that this had then; 0: none.
    pub go_p: u64,
    /// That P's number.
    pub go_p_id: u32,
    /// That M's `procid`, where [`GoLayout::m_procid`] is given.
    pub go_procid: u32,
    /// System call it blocks or last blocked in.
    pub syscall: i32,
    /// CPU it runs or is queued on, or last ran on.
    pub cpu: u16,
    /// `ThreadState` as a number.
    pub state: u8,
    /// Index of its target.
    pub target: u8,
    /// Runnable: where the Go runtime stood when the wait began (0: no GC cycle; 1: in one; 2: in a
    /// stop of the world).
    pub phase: u16,
    /// Runnable: whether a CPU quota kept its group off the CPU as it joined the queue (0: no).
    pub throttled: u16,
    /// Off the CPUs with a P: 1 in a system call, where the runtime can take it away (and `HELD` tells).
    pub held_in_syscall: u16,
    /// Zero.
    pub reserved: u16,
    /// Runnable: for how long quotas had kept its group off this CPU as it joined the queue, by the kernel's
    /// count, ns; [`NOT_COUNTED`] where that says nothing of this thread. Running: for how long its CPU had
    /// run nobody, by the kernel's count, as it came to it (interrupts, and what the hypervisor took), ns.
    pub off_ns: u64,
    /// Running: for how long its CPU had served interrupts, ns.
    pub irq_ns: u64,
    /// When its stack was last taken, ns.
    pub stack_ns: u64,
    /// Time spent in each `ThreadState` (indexed by its number) in intervals that have ended, ns.
    pub state_ns: [u64; THREAD_STATES],
    /// Number of those intervals.
    pub state_count: [u64; THREAD_STATES],
}

/// `ThreadRecord::off_ns` of a thread that no quota keeps off.
pub const NOT_COUNTED: u64 = u64::MAX;

impl ThreadRecord {
    /// A thread that has just been found: in `state` since `since_ns` (0: not known).
    #[inline(always)]
    pub const fn new(target: u8, state: ThreadState, since_ns: u64) -> Self {
        Self {
            since_ns,
            queued_ns: since_ns,
            epoll_ns: 0,
            epoll_woken_ns: 0,
            held_since_ns: 0,
            held_p: 0,
            held_why: 0,
            go_m: 0,
            go_p: 0,
            go_p_id: 0,
            go_procid: 0,
            syscall: NO_SYSCALL,
            cpu: 0,
            state: state as u8,
            target,
            phase: 0,
            throttled: 0,
            held_in_syscall: 0,
            reserved: 0,
            off_ns: NOT_COUNTED,
            irq_ns: 0,
            stack_ns: 0,
            state_ns: [0; THREAD_STATES],
            state_count: [0; THREAD_STATES],
        }
    }
}
