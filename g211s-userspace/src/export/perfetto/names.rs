//! What slices are called, and how tracks are numbered. Must not know how they are written.

use g211s_ebpf::event::NO_SYSCALL;

use super::trace::Name;
use crate::analysis::verdict::{Wait, syscall_name};
use crate::report::format::{clean, comm};

/// A task that ran on a CPU.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Task {
    pub(super) tgid: u32,
    pub(super) tid: u32,
    pub(super) comm: [u8; 16],
    /// Whose it is.
    pub(super) whose: Whose,
}

/// Whose a task is.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Whose {
    /// A watched process's.
    Target,
    /// g211s' own.
    Observer,
    /// Somebody else's.
    Other,
}

impl Task {
    fn text(&self) -> String {
        let name = comm(&self.comm);
        let name = if name.is_empty() { "process".to_owned() } else { name };
        match self.whose {
            Whose::Target => format!("{name} (thread {})", self.tid),
            Whose::Observer => format!("g211s itself (pid {})", self.tgid),
            Whose::Other => format!("{name} (pid {})", self.tgid),
        }
    }
}

/// What is on the track of a thread.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum OfThread {
    Running(u16),
    Runnable(Wait),
    Asleep(i32),
    Uninterruptible(i32),
    Stopped,
    /// Within a wait: who had the CPU.
    Behind(Task),
    /// Within a wait: nobody had it.
    CpuIdle,
    /// Within a wait: the CPU quota had run out.
    Throttled,
    /// It woke another thread.
    Wakes,
    /// It was woken, and what became of it is not known.
    Woken,
}

impl Name for OfThread {
    fn text(&self) -> String {
        match self {
            Self::Running(cpu) => format!("running on CPU {cpu}"),
            Self::Runnable(Wait::Woken) => "runnable (woken)".to_owned(),
            Self::Runnable(Wait::Preempted) => "runnable (preempted)".to_owned(),
            Self::Runnable(Wait::Yielded) => "runnable (yielded)".to_owned(),
            Self::Asleep(nr) => format!("asleep in {}", syscall(*nr)),
            Self::Uninterruptible(nr) if *nr < 0 && *nr != NO_SYSCALL => "page fault".to_owned(),
            Self::Uninterruptible(nr) => format!("asleep uninterruptibly in {}", syscall(*nr)),
            Self::Stopped => "stopped by a signal or a tracer".to_owned(),
            Self::Behind(task) => format!("behind {}", task.text()),
            Self::CpuIdle => "the CPU was idle".to_owned(),
            Self::Throttled => "kept off by the CPU quota".to_owned(),
            Self::Wakes => "wakes".to_owned(),
            Self::Woken => "woken".to_owned(),
        }
    }
}

pub(super) fn syscall(nr: i32) -> String {
    match syscall_name(nr) {
        Some(name) => name.to_owned(),
        None if nr >= 0 => format!("system call {nr}"),
        None => "the kernel".to_owned(),
    }
}

/// What is on the track of a CPU.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum OfCpu {
    Idle,
    Ran(Task),
}

impl Name for OfCpu {
    fn text(&self) -> String {
        match self {
            Self::Idle => "idle".to_owned(),
            Self::Ran(task) => task.text(),
        }
    }
}

/// Names that come with the recording.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Told {
    /// One of ours.
    Fixed(&'static str),
    /// A cycle's.
    Cycle(u64),
    /// A stop's, by the runtime's number for its reason.
    Stop(u8),
    /// A P kept in this system call.
    HeldIn(i32),
}

impl Name for Told {
    fn text(&self) -> String {
        match self {
            Self::Fixed(text) => clean(text),
            Self::Cycle(n) => format!("GC #{n}"),
            Self::Stop(reason) => {
                format!("STW: {}", crate::model::reason::stw_reason_text(u64::from(*reason)))
            }
            Self::HeldIn(nr) => format!("kept in {}", syscall(*nr)),
        }
    }
}

/// Tracks by what they are of: a kind, the target, which of it, and which lane.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Process = 1,
    Thread = 2,
    Cpus = 3,
    Cpu = 4,
    Cycles = 5,
    Stops = 6,
    Network = 7,
    Assists = 8,
    Held = 9,
    Counter = 10,
    Notices = 11,
}

/// A track's number.
pub(super) fn track(kind: Kind, target: usize, which: u32, lane: usize) -> u64 {
    ((kind as u64) << 56)
        | ((target as u64 & 0xff) << 48)
        | ((lane as u64 & 0xff) << 40)
        | u64::from(which)
}
