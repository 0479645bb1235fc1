//! Every map, with why it has its size. User space shrinks or grows those marked "resized".

use aya_ebpf::{
    macros::map,
    maps::{Array, HashMap, LruHashMap, PerCpuArray, RingBuf},
};
use g211s_ebpf::{
    config::{
        CpuState, HELD_PS, IrqState, MAX_CPUS, MAX_TARGETS, TARGET_BITS, TargetConfig, ThreadRecord,
    },
    counters::{LossCounters, TargetCounters},
    event::AllocSum,
    hist::{HISTS, HistData},
    series::{PAGES, Page},
};

/// Where a target's Go runtime stands. Written by uprobes; stops of one target never overlap
/// (`worldsema`), so there is one writer at a time. Readers on other CPUs may see it a
/// moment late, which moves an event's class, never its times.
#[repr(C)]
pub(crate) struct TargetState {
    pub(crate) stw_start_ns: u64,
    /// Until when evidence is wanted: the end of the last window (a stop of the world) or of the last late
    /// harvest of the network. A thread's interval that began before tells what it did then.
    pub(crate) evidence_until_ns: u64,
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
    /// Thread that stops the world, or stopped it last.
    pub(crate) stopper: u32,
    /// Zero.
    pub(crate) reserved: u32,
    /// Epoll sets of its that are known.
    pub(crate) epoll_sets: u32,
    /// 1: a socket of a set of its has become ready since its sockets were last taken.
    pub(crate) epoll_ready: u32,
    /// Since when the network waits for a thread: something is ready, or a thread was woken from a poll. 0: it
    /// does not.
    pub(crate) network_waits_ns: u64,
}

/// Where an epoll set of a target stands. Written where a socket becomes ready, on any CPU, and where a poll
/// returns; a race between the two costs an observation, and never makes one longer.
#[repr(C)]
pub(crate) struct EpollSet {
    /// Since when something is ready that no poll has taken, ns; 0: nothing is.
    pub(crate) ready_ns: u64,
    /// Whose it is.
    pub(crate) target: u32,
    pad: u32,
}

impl EpollSet {
    /// A set in which nothing is known to be ready.
    pub(crate) const fn of(target: u32) -> Self {
        Self { ready_ns: 0, target, pad: 0 }
    }
}

/// A P in a system call: whose, and since when. Written by who has the P: the thread that sleeps with it, and
/// the one that has taken it and hands it on.
#[repr(C)]
#[derive(Clone, Copy)]
pub(crate) struct Held {
    pub(crate) since_ns: u64,
    /// Its address.
    pub(crate) p: u64,
    /// 0: none.
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

/// `struct eventpoll *` → a target's epoll set. A Go process has one; one that has more than all this
/// together loses those it has not used for longest until their next harvest.
#[map]
pub(crate) static EPOLL_SETS: LruHashMap<u64, EpollSet> = LruHashMap::with_max_entries(1024, 0);
/// Goroutine (`goroutine::key`) → since when it is in `gcParkAssist`. A storm with more of them at once is
/// counted (`parks_full`).
#[map]
pub(crate) static PARKS: HashMap<u64, u64> = HashMap::with_max_entries(16_384, 0);

/// target × `HELD_PS` + P → the thread asleep in a system call with it. Resized to the targets.
#[map]
pub(crate) static HELD: Array<Held> = Array::with_max_entries(MAX_TARGETS * HELD_PS, 0);

/// target × `PAGES` + page → ticks, 2 KB each: a ring of half a second. Resized to the targets.
#[map]
pub(crate) static SERIES: PerCpuArray<Page> = PerCpuArray::with_max_entries(MAX_TARGETS * PAGES, 0);

/// One entry: not 0 while polls are counted.
#[map]
pub(crate) static POLLS: Array<u32> = Array::with_max_entries(1, 0);

/// One entry: system calls of the whole host while its tracepoints were attached and polls counted.
#[map]
pub(crate) static SYSCALLS: PerCpuArray<u64> = PerCpuArray::with_max_entries(1, 0);

/// One entry: ticks of the CPU clock that were looked at, where it is attached.
#[map]
pub(crate) static TICKS: PerCpuArray<u64> = PerCpuArray::with_max_entries(1, 0);

/// One entry: what became of the events.
#[map]
pub(crate) static LOSS: PerCpuArray<LossCounters> = PerCpuArray::with_max_entries(1, 0);

/// One entry: this CPU's interrupts, where they are observed.
#[map]
pub(crate) static IRQS: PerCpuArray<IrqState> = PerCpuArray::with_max_entries(1, 0);

/// A stack's number → what it allocated, while every allocation is counted. Resized to one entry where none is.
#[map]
pub(crate) static ALLOC_STACKS: HashMap<u64, AllocSum> = HashMap::with_max_entries(65_536, 0);

/// One entry: allocations whose stack found `ALLOC_STACKS` full.
#[map]
pub(crate) static ALLOC_OVERFLOW: Array<AllocSum> = Array::with_max_entries(1, 0);
