//! Events on the ring buffer.
//!
//! Every event starts with a [`Header`]; `kind` selects the struct that the bytes are. Times are
//! `bpf_ktime_get_ns()`, i.e. `CLOCK_MONOTONIC` in nanoseconds, which is also the Go runtime's
//! `nanotime` (checked: Go `runtime/time_nofake.go`, `vdso_clock_gettime(CLOCK_MONOTONIC)`).

#[cfg(not(target_arch = "bpf"))]
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// First 16 bytes of every event.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(not(target_arch = "bpf"), derive(FromBytes, IntoBytes, KnownLayout, Immutable))]
pub struct Header {
    /// When the event was made, ns. Non-decreasing per CPU; across CPUs the ring's order may
    /// differ from the time order by the length of a BPF program (see user space's `order`).
    pub ts_ns: u64,
    /// An [`EventKind`] as a number.
    pub kind: u8,
    /// Index of the target (order of `--pid`); [`NO_TARGET`] where the event is of no target.
    pub target: u8,
    /// CPU that the event is about: where the thread is running or queued *after* the event.
    pub cpu: u16,
    /// Thread (kernel `task->pid`, initial PID namespace) that the event is about.
    pub tid: u32,
}

/// `Header::target` of an event that belongs to no target (a foreign CPU slice).
pub const NO_TARGET: u8 = 0xff;

/// What an event is; selects the struct.
#[repr(u8)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EventKind {
    /// [`ThreadEvent`]: a thread of a target changed its scheduler state.
    Thread = 1,
    /// [`SliceEvent`]: who ran on a CPU, from when to when.
    Slice = 2,
    /// [`ProbeEvent`]: a Go runtime function was reached.
    Probe = 3,
    /// [`LifeEvent`]: a thread of a target was born or died, or the target called `execve`.
    Life = 4,
    /// [`StackEvent`]: where a thread of a target was in its own code.
    Stack = 5,
    /// [`SpanEvent`]: something that took time and is not a thread's scheduler state.
    Span = 6,
    /// [`AllocEvent`]: the allocator's slow path was reached. In runs that follow allocations alone.
    Alloc = 7,
}

impl EventKind {
    /// The kind with this number, if there is one.
    pub const fn from_u8(n: u8) -> Option<Self> {
        match n {
            1 => Some(Self::Thread),
            2 => Some(Self::Slice),
            3 => Some(Self::Probe),
            4 => Some(Self::Life),
            5 => Some(Self::Stack),
            6 => Some(Self::Span),
            7 => Some(Self::Alloc),
            _ => None,
        }
    }
}

/// Number of [`EventKind`]s plus one: classes are counted in arrays indexed by kind.
pub const EVENT_CLASSES: usize = 8;

/// Scheduler state of a thread as g211s keeps it.
#[repr(u8)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum ThreadState {
    /// Not seen since attach.
    Unknown = 0,
    /// On a CPU.
    Running = 1,
    /// Woken, and on a run queue or on its way to one: since the waker's decision (`sched_waking`).
    RunnableWoken = 2,
    /// On a run queue since it was preempted (switched out while `TASK_RUNNING`).
    RunnablePreempted = 3,
    /// On a run queue since it called `sched_yield` (Go's spinning locks do).
    RunnableYielded = 4,
    /// Asleep, `TASK_INTERRUPTIBLE` (futex, epoll, read …): see `ThreadEvent::syscall`.
    Blocked = 5,
    /// Asleep, `TASK_UNINTERRUPTIBLE` (disk, page fault …): state D.
    BlockedUninterruptible = 6,
    /// Stopped by a signal or a tracer (T, t), or parked/frozen.
    Stopped = 7,
    /// Dead.
    Exited = 8,
}

/// Number of [`ThreadState`]s.
pub const THREAD_STATES: usize = 9;

impl ThreadState {
    /// All states, in order of their numbers.
    pub const ALL: [Self; THREAD_STATES] = [
        Self::Unknown,
        Self::Running,
        Self::RunnableWoken,
        Self::RunnablePreempted,
        Self::RunnableYielded,
        Self::Blocked,
        Self::BlockedUninterruptible,
        Self::Stopped,
        Self::Exited,
    ];

    /// The state with this number, if there is one.
    pub const fn from_u8(n: u8) -> Option<Self> {
        if (n as usize) < THREAD_STATES { Some(Self::ALL[n as usize]) } else { None }
    }

    /// Whether the thread waits on a run queue.
    pub const fn is_runnable(self) -> bool {
        matches!(self, Self::RunnableWoken | Self::RunnablePreempted | Self::RunnableYielded)
    }
}

/// A thread of a target left state `from` (held since `since_ns`) for state `to` at `ts_ns`.
///
/// Self-contained: one event proves one whole interval `[since_ns, ts_ns)` of the thread, so user
/// space rebuilds a timeline without having seen the event that began it. Emitted
/// while the target's window is open, once after a window closes for each thread (its
/// `window` lags the target's), for outliers, and always under `--full`.
///
/// `from == to` (both runnable) is a migration: the thread moved to `header.cpu` from `prev_cpu`.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(not(target_arch = "bpf"), derive(FromBytes, IntoBytes, KnownLayout, Immutable))]
pub struct ThreadEvent {
    /// `cpu`: after the event. `tid`: the thread.
    pub header: Header,
    /// When the thread entered `from`, ns; 0 where unknown (first sight of the thread).
    pub since_ns: u64,
    /// Where `from` is runnable: when the thread joined the run queue of `prev_cpu` (later than
    /// `since_ns` if it migrated while waiting). Else equal to `since_ns`.
    pub queued_ns: u64,
    /// Number of windows opened on this target so far (1 = the first). 0 = none yet.
    pub window: u32,
    /// System call the thread is or was blocked in (`orig_ax`): valid where `from` or `to` is a
    /// blocked state, and on wakeup/switch-in for the block before it. -1: none (page fault, interrupt);
    /// [`NO_SYSCALL`] where not known.
    pub syscall: i32,
    /// On a wakeup: tid of the waker (the current task; an interrupt's wakeup names whom it interrupted). On a
    /// switch-in: tid of the thread that left the CPU. On a switch-out: tid of the one that got it.
    pub peer_tid: u32,
    /// CPU of the thread before the event.
    pub prev_cpu: u16,
    /// [`ThreadState`] before.
    pub from: u8,
    /// [`ThreadState`] after.
    pub to: u8,
    /// `THREAD_*` bits: why the event was sent.
    pub flags: u32,
    /// Where `from` is running: how much of the interval interrupts and softirqs took on its CPU, ns, at most
    /// `u32::MAX`; 0 where they are not observed.
    pub irq_ns: u32,
    /// What kept the thread off its CPU or its queue, ns, at most `u32::MAX`; 0 where the kernel does not
    /// tell. Where `from` is running: the hypervisor, which did not run the CPU, anywhere in the interval.
    /// Where it is runnable: a CPU quota, since `queued_ns`.
    pub kept_off_ns: u32,
    /// Where `from` is runnable: how long after `queued_ns` the quota's part begins, ns.
    pub kept_off_after_ns: u32,
}

/// `ThreadEvent::syscall` where it could not be told.
pub const NO_SYSCALL: i32 = -2;

// Numbers of the system calls that wait for the network (x86-64).
/// `epoll_wait`
pub const SYS_EPOLL_WAIT: i32 = 232;
/// `epoll_pwait`: what the Go runtime's netpoll calls.
pub const SYS_EPOLL_PWAIT: i32 = 281;
/// `epoll_pwait2`
pub const SYS_EPOLL_PWAIT2: i32 = 441;
/// Sent because a window was open.
pub const THREAD_IN_WINDOW: u32 = 1;
/// Sent because the thread's interval reaches back into a window that has closed, or over a late harvest of
/// the network.
pub const THREAD_CLOSES_WINDOW: u32 = 2;
/// Sent because the interval in a runnable state, or in uninterruptible sleep, exceeded the threshold.
pub const THREAD_OUTLIER: u32 = 4;
/// Sent because of `--full`.
pub const THREAD_FULL: u32 = 8;
/// The quota's part of the wait (`kept_off_ns`) is in several pieces: only the first begins where
/// `kept_off_after_ns` says.
pub const THREAD_KEPT_OFF_AGAIN: u32 = 32;
/// Made by user space from the thread table at detach: `to == from`, the state held until then.
pub const THREAD_FINAL: u32 = 16;

/// `header.tid` (of process `tgid`) ran on `header.cpu` during `[start_ns, end_ns)`.
///
/// Sent on demand: when a target's thread has waited on that CPU's queue in a window or longer
/// than the threshold, the CPU's recent slices since the wait began are sent, each at most once.
/// `header.ts_ns` is the time of sending. `tid` 0 is the idle task.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(not(target_arch = "bpf"), derive(FromBytes, IntoBytes, KnownLayout, Immutable))]
pub struct SliceEvent {
    /// `cpu`, `tid`: which CPU, who ran. `target`: set if the runner is of a target.
    pub header: Header,
    /// Switched in, ns.
    pub start_ns: u64,
    /// Switched out, ns (or the time of sending where `SLICE_OPEN`).
    pub end_ns: u64,
    /// Process of the runner.
    pub tgid: u32,
    /// `SLICE_*` bits.
    pub flags: u32,
    /// `task->comm`, NUL-padded.
    pub comm: [u8; 16],
}

/// The runner was still on the CPU when the slice was sent.
pub const SLICE_OPEN: u32 = 1;
/// Slices older than this one that overlap the wait had left the CPU's history: the time before
/// `start_ns` has no evidence.
pub const SLICE_TRUNCATED: u32 = 2;

/// A probe in the Go runtime was hit by thread `header.tid`.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(not(target_arch = "bpf"), derive(FromBytes, IntoBytes, KnownLayout, Immutable))]
pub struct ProbeEvent {
    /// `cpu`, `tid`: where and who.
    pub header: Header,
    /// A [`Site`] as a number.
    pub site: u32,
    /// Number of the stop-the-world on this target (1 = first seen since attach) that is under way, or the
    /// last one.
    pub stw: u32,
    /// AX, BX, CX, DI, SI at the hit: the arguments of Go's register ABI (amd64).
    pub args: [u64; 5],
}

/// Where a probe sits.
#[repr(u8)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Site {
    /// `runtime.gcStart`, entry. args\[0\]: trigger kind (0 heap, 1 time, 2 cycle). May be hit
    /// more often than cycles begin (several goroutines race to start one).
    GcStart = 1,
    /// `runtime.stopTheWorldWithSema`, entry. args\[0\]: reason.
    StwStop = 2,
    /// In `stopTheWorldWithSema`, just before it returns: the world is stopped. No arguments.
    StwStopped = 3,
    /// `runtime.startTheWorldWithSema`, entry. 1.23+: args = now (0 = unset), reason, startedStopping,
    /// finishedStopping, stopping CPU time; 1.22: now, reason, start; 1.21: nothing.
    StwStart = 4,
    /// The CALL of `(*timeHistogram).record` in `startTheWorldWithSema` (1.22+). args\[1\]: the
    /// runtime's own total of this stop, ns (`now - startedStopping`).
    StwEnd = 5,
    /// `runtime.gcMarkTermination`, entry: once per cycle, in the cycle's last stop.
    GcMarkTermination = 6,
    /// `runtime.gcstopm`, entry: an M gives its P up because the world is to stop.
    GcStopM = 7,
    /// `(*gcCPULimiterState).finishGCTransition`, entry. args\[1\]: the runtime's `now` that ends a
    /// GC stop (`work.tMark`, `work.tEnd`): twice a cycle, on every version.
    GcTransitionEnd = 8,
    /// `(*mcache).refill`, entry: counted, not streamed.
    McacheRefill = 9,
    /// `(*mcache).allocLarge`, entry: counted, not streamed. BX: size.
    McacheAllocLarge = 10,
    /// `(*mcache).nextFree`, entry: counted, not streamed.
    McacheNextFree = 11,
    /// `runtime.mallocgc`, entry: counted, only on request. AX: size.
    MallocGc = 12,
    /// `runtime.newstack`, entry: counted, tests only (proves that entry probes fire once per call
    /// while stacks grow).
    Custom = 13,
    /// `runtime.gcParkAssist`, entry: paired with [`Self::AssistDone`], not streamed. R14: the goroutine.
    AssistPark = 14,
    /// The branch on what `gcParkAssist` returned, in `gcAssistAlloc`: not streamed. R14: the goroutine.
    AssistDone = 15,
    /// `runtime.handoffp`, entry: not streamed. AX: the P that changes hands.
    HandOffP = 16,
    /// The branch on what `(*mcentral).cacheSpan` returned, in `(*mcache).refill`: a P takes a span to allocate
    /// small objects from. AX: the `*mspan`. Sent as an [`AllocEvent`].
    AllocRefill = 17,
    /// The branch on what `(*mheap).alloc` returned, in `(*mcache).allocLarge`: a large object has its span. AX:
    /// the `*mspan`. Sent as an [`AllocEvent`].
    AllocLarge = 18,
    /// `(*mcache).nextFree`, entry: the next free slot of a span is searched for, once in some 64
    /// objects. AX: the `*mcache`, BX: the span class. Sent as an [`AllocEvent`].
    AllocNextFree = 19,
    /// `runtime.mallocgc` and its size-specialised variants, entry: every allocation. AX: bytes asked for. Summed by
    /// stack in the kernel.
    AllocExact = 20,
    /// An instruction of g211s itself, by which it measures what a hit costs on this machine.
    Calibrate = 21,
}

/// Number of [`Site`]s plus one: hits are counted in arrays indexed by site.
pub const SITES: usize = 32;

impl Site {
    /// All sites, in order of their numbers.
    pub const ALL: [Self; 21] = [
        Self::GcStart,
        Self::StwStop,
        Self::StwStopped,
        Self::StwStart,
        Self::StwEnd,
        Self::GcMarkTermination,
        Self::GcStopM,
        Self::GcTransitionEnd,
        Self::McacheRefill,
        Self::McacheAllocLarge,
        Self::McacheNextFree,
        Self::MallocGc,
        Self::Custom,
        Self::AssistPark,
        Self::AssistDone,
        Self::HandOffP,
        Self::AllocRefill,
        Self::AllocLarge,
        Self::AllocNextFree,
        Self::AllocExact,
        Self::Calibrate,
    ];

    /// The site with this number, if there is one.
    pub const fn from_u32(n: u32) -> Option<Self> {
        if n >= 1 && n <= Self::ALL.len() as u32 { Some(Self::ALL[n as usize - 1]) } else { None }
    }

    /// Whether a hit only counts (no event).
    pub const fn is_counted_only(self) -> bool {
        matches!(
            self,
            Self::McacheRefill
                | Self::McacheAllocLarge
                | Self::McacheNextFree
                | Self::MallocGc
                | Self::Custom
        )
    }
}

/// A thread was born (`header.tid`, parent `other`), died, or called `execve`.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(not(target_arch = "bpf"), derive(FromBytes, IntoBytes, KnownLayout, Immutable))]
pub struct LifeEvent {
    /// `tid`: the thread.
    pub header: Header,
    /// A [`Life`] as a number.
    pub what: u32,
    /// Born: the parent thread. Died: 1 if it was the last of its process. Exec: the old tid.
    pub other: u32,
}

/// What a [`LifeEvent`] tells.
#[repr(u8)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Life {
    /// A thread was created in the target.
    ThreadBorn = 1,
    /// A thread of the target exited.
    ThreadExited = 2,
    /// The target replaced its program.
    Exec = 3,
}

impl Life {
    /// The kind with this number, if there is one.
    pub const fn from_u32(n: u32) -> Option<Self> {
        match n {
            1 => Some(Self::ThreadBorn),
            2 => Some(Self::ThreadExited),
            3 => Some(Self::Exec),
            _ => None,
        }
    }
}

/// Addresses that a [`StackEvent`] holds at most.
pub const STACK_DEPTH: usize = 12;

/// Where thread `header.tid` of a target was in user code: innermost first, by frame pointers.
///
/// As the kernel side sends it, `addresses[1]` is the word that the stack pointer points to: the return address
/// of a function without a frame, which the frame pointers do not tell. User space takes it out where it is
/// not that, before the event goes into the stream.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(not(target_arch = "bpf"), derive(FromBytes, IntoBytes, KnownLayout, Immutable))]
pub struct StackEvent {
    /// `ts_ns`, `tid`, `cpu`: when, who, where.
    pub header: Header,
    /// A [`StackWhy`] as a number.
    pub why: u32,
    /// Number of the stop-the-world that was under way, or of the last one.
    pub stw: u32,
    /// System call that the thread was in or is returning from (`orig_ax`); -1: none.
    pub syscall: i32,
    /// Addresses that hold something.
    pub depth: u32,
    /// The addresses, zero beyond `depth`. The first is where it was, the others return addresses.
    pub addresses: [u64; STACK_DEPTH],
}

/// Why a stack was taken.
#[repr(u32)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StackWhy {
    /// The runtime asked the thread to stop (SIGURG) while the world was stopping; this is where the signal
    /// found it.
    Signal = 1,
    /// The CPU clock ticked while the world was stopping.
    Sample = 2,
}

impl StackWhy {
    /// The reason with this number, if there is one.
    pub const fn from_u32(n: u32) -> Option<Self> {
        match n {
            1 => Some(Self::Signal),
            2 => Some(Self::Sample),
            _ => None,
        }
    }
}

/// Something took from `start_ns` to `header.ts_ns`.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(not(target_arch = "bpf"), derive(FromBytes, IntoBytes, KnownLayout, Immutable))]
pub struct SpanEvent {
    /// `ts_ns`: its end. `tid`: the thread it is about, see [`SpanWhat`].
    pub header: Header,
    /// A [`SpanWhat`] as a number.
    pub what: u32,
    /// See [`SpanWhat`]; zero where not named there.
    pub detail: i32,
    /// Its beginning, ns.
    pub start_ns: u64,
    /// A moment between the two, ns; 0: none. See [`SpanWhat`].
    pub middle_ns: u64,
    /// Whose it is. See [`SpanWhat`].
    pub id: u64,
}

/// What a [`SpanEvent`] is.
#[repr(u32)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SpanWhat {
    /// Goroutine `id` (its number; 0: not known) was parked by `gcParkAssist` until it ran again on `tid`.
    AssistPark = 1,
    /// A P was kept by thread `tid`, which was off the CPUs: in system call `detail`, or at -1 in a page fault (or
    /// stopped), or at [`NO_SYSCALL`] preempted. `middle_ns`: when the runtime took the P away, which is the end
    /// then; 0: the thread ran again with it. `id`: see [`span_p`].
    PHeld = 2,
    /// A network poll of thread `tid` took `detail` events; a socket of the epoll set was ready from the start
    /// on, and at `middle_ns` the thread was told (woken; 0: it was not asleep).
    Harvest = 3,
}

impl SpanWhat {
    /// The span with this number, if there is one.
    pub const fn from_u32(n: u32) -> Option<Self> {
        match n {
            1 => Some(Self::AssistPark),
            2 => Some(Self::PHeld),
            3 => Some(Self::Harvest),
            _ => None,
        }
    }
}

/// `SpanEvent::id` of [`SpanWhat::PHeld`]: the P's number, and how many goroutines its own run queue held as the
/// runtime took it away (0 where it did not).
#[inline(always)]
pub const fn span_p(p: u32, queued: u32) -> u64 {
    (p as u64) | ((queued as u64) << 32)
}

/// The P's number, and the goroutines queued on it, of a [`span_p`].
pub const fn p_of_span(id: u64) -> (u32, u32) {
    (id as u32, (id >> 32) as u32)
}

/// Addresses that an [`AllocEvent`] holds at most.
pub const ALLOC_DEPTH: usize = 64;
/// Bytes of a `runtime.mspan` that an [`AllocEvent`] holds: all fields that matter, on every version.
pub const SPAN_BYTES: usize = 136;

/// The allocator's slow path was reached by thread `header.tid`, or (at [`Site::AllocExact`]) a stack allocated for
/// the first time.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(not(target_arch = "bpf"), derive(FromBytes, IntoBytes, KnownLayout, Immutable))]
pub struct AllocEvent {
    /// `ts_ns`, `tid`, `cpu`: when, who, where.
    pub header: Header,
    /// A [`Site`] as a number.
    pub site: u32,
    /// Addresses that hold something.
    pub depth: u32,
    /// The span: of [`Site::AllocRefill`] and [`Site::AllocLarge`] the one just taken, of [`Site::AllocNextFree`] the
    /// one in the cache. Of [`Site::AllocExact`]: the stack's number in `ALLOC_STACKS`.
    pub span: u64,
    /// [`Site::AllocNextFree`]: the `*mcache`.
    pub cache: u64,
    /// [`Site::AllocNextFree`]: the span class.
    pub class: u64,
    /// At a function's entry, where frame pointers do not tell the caller yet: the return address. Else 0.
    pub return_to: u64,
    /// The span's own bytes, from its start; zero where they could not be read.
    pub span_bytes: [u8; SPAN_BYTES],
    /// The stack, innermost first, zero beyond `depth`: the first is the probe's own instruction, the others
    /// return addresses.
    pub addresses: [u64; ALLOC_DEPTH],
}

/// Value of the `ALLOC_STACKS` map: what one stack allocated while every allocation was counted.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[cfg_attr(not(target_arch = "bpf"), derive(FromBytes, IntoBytes, KnownLayout, Immutable))]
pub struct AllocSum {
    /// Objects.
    pub objects: u64,
    /// Bytes asked for.
    pub bytes: u64,
}

const _: () = {
    assert!(size_of::<AllocEvent>() == 16 + 8 + 32 + SPAN_BYTES + 8 * ALLOC_DEPTH);
    assert!(size_of::<Header>() == 16);
    assert!(size_of::<ThreadEvent>() == 64);
    assert!(size_of::<StackEvent>() == 128);
    assert!(size_of::<SpanEvent>() == 48);
    assert!(size_of::<SliceEvent>() == 56);
    assert!(size_of::<ProbeEvent>() == 64);
    assert!(size_of::<LifeEvent>() == 24);
};
