//! Reading every `g` of a running process without stopping it: the list (`allgs`), then the structs
//! in large batches, each twice, so that what changed while it was read is known and not shown as a
//! fact. Must not know symbols, groups or output.
//!
//! The list: Go `src/runtime/proc.go`, `allgadd`, `atomicAllG` (1.21.13 to 1.27.3): it only grows,
//! and `allglen` is published after the array that holds that many, so the length is read first. The
//! array may be freed once a larger one has replaced it, hence the second look at it. `g`s are never
//! freed, only used again for another goroutine.

use std::collections::HashMap;

use super::gs::{Goroutine, Layout};
use super::pace::Pace;
use crate::go::globals::Global;
use crate::runtime::memory::{Memory, MemoryError};
use crate::runtime::{Runtime, RuntimeError};

/// More goroutines than this are not believed (they would take 32 GiB for their stacks alone).
const MAX_GOROUTINES: u64 = 1 << 24;
/// Bytes of the list read at a time.
const LIST_CHUNK: usize = 1 << 20;
/// Looks at the list until it holds still.
const LIST_TRIES: usize = 8;
/// Structs no further apart than this are read as one range: cheaper than a range of its own.
const GAP: u64 = 1024;
/// Longest range: how many pages the kernel may look up under the target's `mmap_lock` at a time.
const MAX_RUN: u64 = 64 << 10;
/// Bytes in a batch: both readings stay within a core's own cache, and a batch is soon over.
const BATCH: usize = 128 << 10;
/// Most ranges in a batch: those of one system call.
const BATCH_RUNS: usize = 1024;
/// More entries than this that are none end a census: each costs reads of its own.
const MAX_BAD: u64 = 1 << 15;
/// Attempts to find a goroutine that keeps still for two readings.
const SETTLE_TRIES: usize = 4;
/// The lowest address that Go allocates at or above on Linux is far higher.
const MIN_ADDRESS: u64 = 4096;
/// The end of user space with 48-bit addresses.
const MAX_ADDRESS: u64 = 1 << 47;

/// How the reading went.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ReadStats {
    /// Entries of `allgs`.
    pub listed: u64,
    /// Read, and no goroutine in them: kept for reuse.
    pub dead: u64,
    /// Entries that are no goroutine's: null, unaligned or repeated, or an impossible status, number
    /// or stack.
    pub implausible: u64,
    /// Could not be read.
    pub unreadable: u64,
    /// Differed between two readings and were read again.
    pub changed: u64,
    /// Of them, those whose state changed with every look: counted, without a state.
    pub restless: u64,
    /// Of them, those that were another goroutine with every look: not counted at all.
    pub torn: u64,
}

/// Where the runtime's list of goroutines is.
#[derive(Clone, Copy, Debug)]
pub struct ListAt {
    /// `allglen`.
    pub length: u64,
    /// `allgs`.
    pub header: u64,
}

impl ListAt {
    /// In a process.
    pub fn of<M: Memory>(runtime: &Runtime<M>) -> Result<Self, RuntimeError> {
        let length = runtime.address(Global::Allglen)?;
        Ok(Self { length, header: runtime.address(Global::Allgs)? })
    }
}

/// The addresses of all `g`s, ascending, each once.
pub fn list(
    memory: &impl Memory,
    at: ListAt,
    stats: &mut ReadStats,
) -> Result<Vec<u64>, CensusError> {
    let word = |address| {
        let mut bytes = [0; 8];
        memory.read(address, &mut bytes).map(|()| u64::from_le_bytes(bytes))
    };
    for _ in 0..LIST_TRIES {
        let (length, array) = (word(at.length)?, word(at.header)?);
        if length == 0 || length > MAX_GOROUTINES || !is_address(array) {
            return Err(CensusError::List { length, array });
        }
        let mut bytes = vec![0; length as usize * 8];
        let mut chunks: Vec<(u64, &mut [u8])> = bytes
            .chunks_mut(LIST_CHUNK)
            .enumerate()
            .map(|(i, chunk)| (array + (i * LIST_CHUNK) as u64, chunk))
            .collect();
        let read = memory.read_many(&mut chunks);
        // A larger array has taken its place: what was read may have been freed before.
        if word(at.header)? != array {
            continue;
        }
        if read.contains(&false) {
            return Err(CensusError::List { length, array });
        }
        let mut all: Vec<u64> = bytes
            .as_chunks::<8>()
            .0
            .iter()
            .map(|entry| u64::from_le_bytes(*entry))
            .filter(|&g| is_address(g) && g.is_multiple_of(8))
            .collect();
        // Its order is that of creation, which neighbours in memory share only by and large.
        all.sort_unstable();
        all.dedup();
        stats.listed = length;
        stats.implausible = length - all.len() as u64;
        if stats.implausible > MAX_BAD {
            return Err(CensusError::Damaged { bad: stats.implausible });
        }
        return Ok(all);
    }
    Err(CensusError::Restless)
}

fn is_address(address: u64) -> bool {
    (MIN_ADDRESS..MAX_ADDRESS).contains(&address)
}

/// Why there is no census.
#[derive(Debug, thiserror::Error)]
pub enum CensusError {
    /// The runtime's list of goroutines is none.
    #[error(
        "the runtime's list of goroutines makes no sense (allglen {length}, allgs at {array:#x}): \
         the program may have overwritten it, or is of a Go version that is not known"
    )]
    List {
        /// `allglen`.
        length: u64,
        /// `allgs`' array.
        array: u64,
    },
    /// The list was replaced with every look.
    #[error("the runtime's list of goroutines grew with every look; try again")]
    Restless,
    /// The memory could not be read.
    #[error(transparent)]
    Memory(#[from] MemoryError),
    /// Something is not known of this Go version or program.
    #[error(transparent)]
    Runtime(#[from] RuntimeError),
    /// Too many entries of the list are no goroutines.
    #[error(
        "the runtime's list of goroutines is damaged: {bad} of its entries are no goroutines; the \
         program may have overwritten it"
    )]
    Damaged {
        /// How many were met.
        bad: u64,
    },
}

/// Reads every `g` of the list and hands those that hold a goroutine to `visitor`, batch by batch, no
/// faster than `pace` has it. The visitor may look at their stacks, and is told afterwards, through the
/// second reading, for which of them what it saw holds: see [`Visitor`].
pub fn read(
    memory: &impl Memory,
    layout: &Layout,
    list: &[u64],
    pace: Pace,
    stats: &mut ReadStats,
    visitor: &mut impl Visitor,
) -> Result<(), CensusError> {
    let mut batch = Batch::new(layout);
    let mut rest = list;
    while !rest.is_empty() {
        let taken = batch.plan(rest);
        batch.read_twice(memory, &rest[..taken], stats, visitor);
        rest = &rest[taken..];
        if stats.implausible + stats.unreadable > MAX_BAD {
            return Err(CensusError::Damaged { bad: stats.implausible + stats.unreadable });
        }
        if let Some(rest) = pace.rest_after(list.len() - rest.len()) {
            memory.wait(rest);
        }
    }
    Ok(())
}

/// Who is handed the goroutines.
pub trait Visitor {
    /// Between the two readings: the goroutines as first read.
    fn look(&mut self, goroutines: &[Goroutine]);
    /// A goroutine; `held` says that it was the same before and after [`Self::look`], as the
    /// `index`th that was shown to it last.
    fn take(&mut self, goroutine: Goroutine, held: Option<usize>);
}

struct Batch<'a> {
    layout: &'a Layout,
    /// Ranges: first address, length.
    runs: Vec<(u64, usize)>,
    /// Where each struct's bytes are: in which range, and where in the buffers.
    places: Vec<(usize, usize)>,
    first: Vec<u8>,
    second: Vec<u8>,
    /// The goroutines of the first reading.
    seen: Vec<Goroutine>,
}

impl<'a> Batch<'a> {
    fn new(layout: &'a Layout) -> Self {
        Self {
            layout,
            runs: Vec::new(),
            places: Vec::new(),
            first: Vec::new(),
            second: Vec::new(),
            seen: Vec::new(),
        }
    }

    /// Lays out the ranges for as many of these (ascending) as fit; how many.
    fn plan(&mut self, list: &[u64]) -> usize {
        self.runs.clear();
        self.places.clear();
        let (len, mut bytes) = (self.layout.len as u64, 0);
        for (taken, g) in list.iter().enumerate() {
            let start = g + self.layout.from;
            let full = self.runs.len() == BATCH_RUNS || bytes >= BATCH;
            match self.runs.last_mut() {
                Some((at, run))
                    if start >= *at
                        && start - *at <= *run as u64 + GAP
                        && start - *at + len <= MAX_RUN =>
                {
                    let place = bytes - *run + (start - *at) as usize;
                    // Never shorter: structs may overlap where the list is damaged.
                    let longer = ((start - *at + len) as usize).max(*run);
                    bytes += longer - *run;
                    *run = longer;
                    self.places.push((self.runs.len() - 1, place));
                }
                _ if full => return taken,
                _ => {
                    self.places.push((self.runs.len(), bytes));
                    self.runs.push((start, self.layout.len));
                    bytes += self.layout.len;
                }
            }
        }
        list.len()
    }

    fn read_twice(
        &mut self,
        memory: &impl Memory,
        list: &[u64],
        stats: &mut ReadStats,
        visitor: &mut impl Visitor,
    ) {
        let read = fill(memory, &self.runs, &mut self.first);
        let len = self.layout.len;
        let parse = |g: u64, (run, at): (usize, usize), read: &[bool], bytes: &[u8]| {
            if read[run] {
                self.layout.parse(g, &bytes[at..at + len]).ok_or(Bad::Implausible)
            } else {
                Err(Bad::Unreadable)
            }
        };
        let mut seen = std::mem::take(&mut self.seen);
        seen.clear();
        let before: Vec<Result<usize, Bad>> = list
            .iter()
            .zip(&self.places)
            .map(|(g, place)| {
                seen.push(parse(*g, *place, &read, &self.first)?);
                Ok(seen.len() - 1)
            })
            .collect();
        visitor.look(&seen);
        let read = fill(memory, &self.runs, &mut self.second);
        for ((g, place), before) in list.iter().zip(&self.places).zip(before) {
            let part = place.1..place.1 + len;
            let held = before.ok().filter(|index| {
                read[place.0]
                    && (self.first[part.clone()] == self.second[part]
                        || parse(*g, *place, &read, &self.second) == Ok(seen[*index]))
            });
            let found = match held {
                Some(index) => Ok(seen[index]),
                None => settle(memory, self.layout, *g, stats),
            };
            match found {
                Ok(found) if found.is_alive() => visitor.take(found, held),
                Ok(_) => stats.dead += 1,
                Err(Bad::Implausible) => stats.implausible += 1,
                Err(Bad::Unreadable) => stats.unreadable += 1,
                Err(Bad::Torn) => stats.torn += 1,
            }
        }
        self.seen = seen;
    }
}

/// Why there is nothing to say of an entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Bad {
    Implausible,
    Unreadable,
    Torn,
}

fn fill(memory: &impl Memory, runs: &[(u64, usize)], buffer: &mut Vec<u8>) -> Vec<bool> {
    buffer.resize(runs.iter().map(|(_, len)| len).sum(), 0);
    let mut rest = buffer.as_mut_slice();
    let mut ranges: Vec<(u64, &mut [u8])> = Vec::with_capacity(runs.len());
    for (at, len) in runs {
        let (head, tail) = std::mem::take(&mut rest).split_at_mut(*len);
        ranges.push((*at, head));
        rest = tail;
    }
    memory.read_many(&mut ranges)
}

/// Reads one `g` until two readings agree, or says in what they do not.
fn settle(
    memory: &impl Memory,
    layout: &Layout,
    g: u64,
    stats: &mut ReadStats,
) -> Result<Goroutine, Bad> {
    let mut bytes = vec![0; layout.len];
    let mut look = || {
        memory.read(g + layout.from, &mut bytes).map_err(|_| Bad::Unreadable)?;
        layout.parse(g, &bytes).ok_or(Bad::Implausible)
    };
    let mut last = look()?;
    stats.changed += 1;
    for _ in 0..SETTLE_TRIES {
        let next = look()?;
        if next == last {
            return Ok(next);
        }
        last = next;
    }
    let next = look()?;
    if !next.is_same(&last) {
        return Err(Bad::Torn);
    }
    if next == last {
        return Ok(next);
    }
    stats.restless += 1;
    Ok(Goroutine { status: None, wait_since: 0, ..next })
}

/// Counts goroutines by something of theirs; for callers that need no more.
#[derive(Debug, Default)]
pub struct Tally {
    /// Goroutines by status (`None`: restless).
    pub by_status: HashMap<Option<u8>, u64>,
}

impl Visitor for Tally {
    fn look(&mut self, _: &[Goroutine]) {}

    fn take(&mut self, goroutine: Goroutine, _: Option<usize>) {
        *self.by_status.entry(goroutine.status).or_default() += 1;
    }
}

#[cfg(test)]
#[path = "read_tests.rs"]
mod tests;
