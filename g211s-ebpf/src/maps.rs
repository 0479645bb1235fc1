//! Every map, with why it has its size. User space shrinks or grows those marked "resized".

use aya_ebpf::{
    macros::map,
    maps::{Array, HashMap, LruHashMap, PerCpuArray, RingBuf},
};
use g211s_ebpf::{
    config::{
        CpuState, HELD_PS, IrqState, MAX_CPUS, MAX_TARGETS, TARGET_SLOTS, TargetConfig,
        ThreadRecord,
    },
    counters::{LossCounters, TargetCounters},
    event::AllocSum,
    hist::{HISTS, HistData},
    series::{PAGES, Page},
};

pub(crate) use g211s_ebpf::state::{EpollSet, Held, TargetState};

/// The events' way to user space. 8 MiB hold about 120,000 events: a second and more of the
/// densest stream. Resized.
#[map]
pub(crate) static EVENTS: RingBuf = RingBuf::with_byte_size(8 << 20, 0);

/// `target_slot` of a tgid → `target_entry`. Looked at twice per context switch of the host, so it is
/// an array, whose look-up the kernel compiles into a few instructions. Two tables, of which
/// `globals::TARGET_SELECT` names the one in use.
#[map]
pub(crate) static TARGETS: Array<u64> = Array::with_max_entries(TARGET_SLOTS, 0);

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
