//! What a `g` says: its fields and where they are in a Go version. Must not know how it is read.

use crate::go::offsets::Offsets;
use crate::runtime::RuntimeError;

/// Go `src/runtime/runtime2.go`, `_Gscan`: set while the collector looks at the stack.
const G_SCAN: u64 = 0x1000;
/// The largest status known (`_Gdeadextra`, 1.26+); what is larger is no `g`.
const MAX_STATUS: u64 = 11;
/// Go's own limit (`src/runtime/proc.go`, `maxstacksize`) is 1 GB unless the program raised it.
pub(super) const MAX_STACK: u64 = 8 << 30;
/// `_Gidle`, `_Gdead`, `_Gdeadextra`: no goroutine.
const NOT_ALIVE: [u8; 3] = [0, 6, 11];
/// `_Grunnable`.
pub const RUNNABLE: u8 = 1;
/// `_Grunning`.
pub const RUNNING: u8 = 2;
/// `_Gsyscall`.
pub const SYSCALL: u8 = 3;
/// `_Gwaiting`.
pub const WAITING: u8 = 4;
/// `_Gleaked` (1.26+): found unreachable by the collector.
pub const LEAKED: u8 = 10;

/// What one `g` said, in two readings alike.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Goroutine {
    /// Where the `g` is.
    pub address: u64,
    /// Its number.
    pub id: u64,
    /// `atomicstatus` without `_Gscan`; `None` where it changed with every look.
    pub status: Option<u8>,
    /// `waitreason`.
    pub wait_reason: u8,
    /// `waitsince`: when the collector first saw it blocked, `CLOCK_MONOTONIC` ns; 0 where it has
    /// not.
    pub wait_since: u64,
    /// `gopc`: the instruction after its `go` statement's call; 0 for the first.
    pub created_at: u64,
    /// `startpc`: its function.
    pub start: u64,
    /// `stack.lo`, `stack.hi`.
    pub stack: (u64, u64),
    /// `sched.pc`, `.sp`, `.bp`: where it goes on when it is run.
    pub sched: Registers,
    /// `syscallpc`, `syscallsp`, `syscallbp`: where it left for a system call. `bp` is 0 before Go
    /// 1.23, which does not keep it.
    pub syscall: Registers,
}

/// Where to go on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Registers {
    /// Program counter.
    pub pc: u64,
    /// Stack pointer.
    pub sp: u64,
    /// Frame pointer.
    pub bp: u64,
}

impl Goroutine {
    /// Whether there is a goroutine in it.
    pub fn is_alive(&self) -> bool {
        self.status.is_none_or(|status| !NOT_ALIVE.contains(&status))
    }

    /// Whether two readings are of the same goroutine.
    pub(super) fn is_same(&self, other: &Self) -> bool {
        (self.id, self.created_at, self.start) == (other.id, other.created_at, other.start)
    }
}

/// The `N` bytes at `at`.
fn fixed<const N: usize>(bytes: &[u8], at: usize) -> [u8; N] {
    *bytes[at..].first_chunk().expect("a layout's fields lie within its length")
}

/// Where in a `g` its fields are.
#[derive(Clone, Copy, Debug)]
pub struct Layout {
    /// The part of the struct that is read: from here, so many bytes.
    pub(super) from: u64,
    pub(super) len: usize,
    status: Place,
    id: Place,
    wait_reason: Place,
    wait_since: Place,
    created_at: Place,
    start: Place,
    stack: [Place; 2],
    sched: [Place; 3],
    syscall: [Place; 2],
    syscall_bp: Option<Place>,
}

#[derive(Clone, Copy, Debug)]
struct Place {
    at: usize,
    size: usize,
}

impl Layout {
    /// Of a Go version.
    pub fn of(offsets: &Offsets) -> Result<Self, RuntimeError> {
        let find = |name: &str| {
            let unknown =
                || RuntimeError::Field { strukt: "runtime.g".to_owned(), field: name.to_owned() };
            let field = offsets.field("runtime.g", name).ok_or_else(unknown)?;
            match field.size {
                1 | 4 | 8 => Ok(Place { at: field.off as usize, size: field.size as usize }),
                other => Err(RuntimeError::Size(u64::from(other))),
            }
        };
        let mut this = Self {
            from: 0,
            len: 0,
            status: find("atomicstatus")?,
            id: find("goid")?,
            wait_reason: find("waitreason")?,
            wait_since: find("waitsince")?,
            created_at: find("gopc")?,
            start: find("startpc")?,
            stack: [find("stack.lo")?, find("stack.hi")?],
            sched: [find("sched.pc")?, find("sched.sp")?, find("sched.bp")?],
            syscall: [find("syscallpc")?, find("syscallsp")?],
            syscall_bp: find("syscallbp").ok(),
        };
        let mut places = this.places();
        let from = places.iter().map(|p| p.at).min().unwrap_or(0);
        let end = places.iter().map(|p| p.at + p.size).max().unwrap_or(0);
        // The table is ours, but a struct of more than this is a mistake in it.
        if end > 4096 {
            return Err(RuntimeError::Size(end as u64));
        }
        for place in &mut places {
            place.at -= from;
        }
        (this.from, this.len) = (from as u64, end - from);
        Ok(this)
    }

    fn places(&mut self) -> Vec<&mut Place> {
        let mut all = vec![
            &mut self.status,
            &mut self.id,
            &mut self.wait_reason,
            &mut self.wait_since,
            &mut self.created_at,
            &mut self.start,
        ];
        all.extend(&mut self.stack);
        all.extend(&mut self.sched);
        all.extend(&mut self.syscall);
        all.extend(&mut self.syscall_bp);
        all
    }

    /// Of the bytes that [`Self::from`] and [`Self::len`] name; `None` where this is no goroutine.
    pub(super) fn parse(&self, address: u64, bytes: &[u8]) -> Option<Goroutine> {
        // By fixed sizes: a copy of a length that is not known is a call, a million times thirteen.
        let number = |place: Place| match place.size {
            8 => u64::from_le_bytes(fixed(bytes, place.at)),
            4 => u64::from(u32::from_le_bytes(fixed(bytes, place.at))),
            _ => u64::from(bytes[place.at]),
        };
        let registers = |[pc, sp]: [Place; 2], bp: Option<Place>| Registers {
            pc: number(pc),
            sp: number(sp),
            bp: bp.map_or(0, number),
        };
        let status = number(self.status) & !G_SCAN;
        if status > MAX_STATUS {
            return None;
        }
        let found = Goroutine {
            address,
            id: number(self.id),
            status: Some(status as u8),
            wait_reason: number(self.wait_reason) as u8,
            wait_since: number(self.wait_since),
            created_at: number(self.created_at),
            start: number(self.start),
            stack: (number(self.stack[0]), number(self.stack[1])),
            sched: registers([self.sched[0], self.sched[1]], Some(self.sched[2])),
            syscall: registers(self.syscall, self.syscall_bp),
        };
        // Whoever lives has a number and a stack.
        let (low, high) = found.stack;
        let lives = found.id != 0 && low < high && high - low <= MAX_STACK;
        (!found.is_alive() || lives).then_some(found)
    }
}
