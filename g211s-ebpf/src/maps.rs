//! Every map, with why it has its size. User space shrinks or grows those marked "resized".

use aya_ebpf::{
    macros::map,
    maps::{Array, HashMap, PerCpuArray, RingBuf},
};
use g211s_ebpf::{
    config::{CpuState, IrqState, MAX_CPUS, MAX_TARGETS, TARGET_BITS, TargetConfig, ThreadRecord},
    counters::{LossCounters, TargetCounters},
    hist::{HISTS, HistData},
};

/// Where a target's Go runtime stands. Written by uprobes; stops of one target never overlap
/// (`worldsema`), so there is one writer at a time. Readers on other CPUs may see it a
/// moment late, which moves an event's class, never its times.
#[repr(C)]
pub(crate) struct TargetState {
    pub(crate) stw_start_ns: u64,
    pub(crate) last_stw_end_ns: u64,
    pub(crate) gc_start_ns: u64,
    pub(crate) last_gc_end_ns: u64,
    /// Windows opened so far.
    pub(crate) window: u32,
    /// 1 while a window is open.
    pub(crate) open: u32,
    /// Stops begun so far.
    pub(crate) stw: u32,
    /// 1 while a GC cycle runs.
    pub(crate) in_gc: u32,
    /// 1 from `gcMarkTermination` until that stop ends.
    pub(crate) terminating: u32,
    /// Reason of the stop under way, or of the last.
    pub(crate) reason: u32,
    /// The scheduler's clock less ours when it was last compared, wrapping, ns; 0: never.
    pub(crate) clock_ahead: u64,
}

/// A P in a system call: whose, and since when.
#[repr(C)]
#[derive(Clone, Copy)]
pub(crate) struct Held {
    pub(crate) since_ns: u64,
    pub(crate) tid: u32,
    /// `p.syscalltick` then.
    pub(crate) tick: u32,
}

/// The events' way to user space. 8 MiB hold about 120,000 events: a second and more of the
/// densest stream. Resized.
#[map]
pub(crate) static EVENTS: RingBuf = RingBuf::with_byte_size(8 << 20, 0);

/// `target_slot` of a tgid → `target_entry`. Looked at twice per context switch of the host, so it is
/// an array, whose look-up the kernel compiles into a few instructions.
#[map]
pub(crate) static TARGETS: Array<u64> = Array::with_max_entries(1 << TARGET_BITS, 0);

/// target → how its probes are to be read.
#[map]
pub(crate) static CONFIGS: Array<TargetConfig> = Array::with_max_entries(MAX_TARGETS, 0);

/// tid → what we know of a target's thread. Twice the 10,000 threads at which the Go runtime itself
/// gives up, per target in the common case of one. Resized.
#[map]
pub(crate) static THREADS: HashMap<u32, ThreadRecord> = HashMap::with_max_entries(20_480, 0);

/// CPU → its recent slices. A plain array: a migration needs another CPU's. Resized to the
/// machine.
#[map]
pub(crate) static CPUS: Array<CpuState> = Array::with_max_entries(MAX_CPUS, 0);

/// target → its runtime's state.
#[map]
pub(crate) static STATES: Array<TargetState> = Array::with_max_entries(MAX_TARGETS, 0);

/// target → counters. Resized to the targets.
#[map]
pub(crate) static COUNTERS: PerCpuArray<TargetCounters> =
    PerCpuArray::with_max_entries(MAX_TARGETS, 0);

/// target × `HISTS` + hist → histogram, 9.5 KB each. Resized to the targets.
#[map]
pub(crate) static HISTOGRAMS: PerCpuArray<HistData> =
    PerCpuArray::with_max_entries(MAX_TARGETS * HISTS as u32, 0);

/// Goroutine (`goroutine::key`) → since when it is in `gcParkAssist`. A storm with more of them at once is
/// counted (`parks_full`).
#[map]
pub(crate) static PARKS: HashMap<u64, u64> = HashMap::with_max_entries(16_384, 0);

/// P (`goroutine::key`) → the thread asleep in a system call with it. Two a P of the largest machines.
#[map]
pub(crate) static HELD: HashMap<u64, Held> = HashMap::with_max_entries(4_096, 0);

/// One entry: not 0 while polls are counted.
#[map]
pub(crate) static POLLS: Array<u32> = Array::with_max_entries(1, 0);

/// One entry: system calls of the whole host while its tracepoints were attached and polls counted.
#[map]
pub(crate) static SYSCALLS: PerCpuArray<u64> = PerCpuArray::with_max_entries(1, 0);

/// One entry: what became of the events.
#[map]
pub(crate) static LOSS: PerCpuArray<LossCounters> = PerCpuArray::with_max_entries(1, 0);

/// One entry: this CPU's interrupts, where they are observed.
#[map]
pub(crate) static IRQS: PerCpuArray<IrqState> = PerCpuArray::with_max_entries(1, 0);
