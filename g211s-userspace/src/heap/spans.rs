//! Spans and their bits, read out of a process in few system calls: from an object's address to the
//! `mspan` that holds it, and from there to the bit that says whether its slot was reached by the last
//! collection. Must not know samples, nor what is concluded.
//!
//! Go `src/runtime`, 1.21.13 to 1.27.3: malloc.go (`arenaIndex`), mheap.go (`heapArena.spans`,
//! `setSpans`, which is never undone; `heapArena`s and `mspan`s are never unmapped), mbitmap.go
//! (`allocBitsForIndex`).

use std::collections::HashMap;

use crate::go::globals::Global;
use crate::go::offsets::Field;
use crate::runtime::memory::{Memory, MemoryError};
use crate::runtime::{Runtime, RuntimeError};

/// malloc.go, linux/amd64: `arenaBaseOffset` is taken off an address, and an arena is 64 MB.
const ARENA_BASE: u64 = 0xffff_8000_0000_0000;
const ARENA_BITS: u32 = 26;
/// malloc.go, `arenaL2Bits`: so many arenas there can be.
const ARENAS: u64 = 1 << 22;
/// malloc.go, `pageSize`.
pub const PAGE: u64 = 8192;
const PAGES: u64 = (1 << ARENA_BITS) / PAGE;
/// mheap.go: `nelems` is a `uint16` from 1.22 on, and was at most 1024 before.
const MAX_SLOTS: u64 = 1 << 16;
/// malloc.go, `mallocHeaderSize`.
const HEADER: u64 = 8;
/// mbitmap.go, `minSizeForMallocHeader`: larger objects with pointers have one.
const WITHOUT_HEADER: u64 = 512;
/// mheap.go, `tinySpanClass`: blocks of 16 bytes that objects without pointers share.
pub const TINY_CLASS: u8 = 5;
/// Pieces no further apart are read as one range: cheaper than a range of its own.
const GAP: u64 = 512;
/// Longest range: how many pages the kernel may look up under the target's `mmap_lock` at a time.
const MAX_RUN: u64 = 64 << 10;

/// An `mspan`, as far as liveness needs it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span {
    /// `startAddr`.
    pub start: u64,
    /// Its length, pages of 8 KiB.
    pub pages: u64,
    /// `nelems`.
    pub slots: u64,
    /// `elemsize`: bytes from one slot to the next.
    pub slot_bytes: u64,
    /// Where `allocBits` begin: since its last sweep, 1 for each slot that was reached.
    pub bits: u64,
    /// `sweepgen`.
    pub generation: u32,
    /// `spanclass`: twice the size class, plus one for objects without pointers.
    pub class: u8,
    /// In use for objects, and not free or a stack.
    pub in_use: bool,
    /// `needzero` is 0: no slot was freed since the span was made (mgcsweep.go, `sweep`), and up to Go
    /// 1.25 its memory held nothing before (mheap.go, `initSpan`; later it may have been given back to
    /// the operating system in between).
    pub untouched: bool,
    /// A chunk of a user arena (`GOEXPERIMENT=arenas`), which is freed as a whole.
    pub user_arena: bool,
    /// `largeType`, 0 where there is none (yet); `None` up to Go 1.21, which has no such field.
    pub large_type: Option<u64>,
}

/// Where the descriptor of an object's type is told (see `runtime::types`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TypePointer {
    /// This is the descriptor.
    Is(u64),
    /// The word at this address points to it.
    At(u64),
}

impl Span {
    /// Whether it was swept in this generation, so that its bits are those of the last collection:
    /// `sweepgen` is the heap's, or 3 more where it was cached since (mheap.go, `mspan.sweepgen`).
    pub fn is_swept(&self, generation: u32) -> bool {
        matches!(self.generation.wrapping_sub(generation), 0 | 3)
    }

    /// The slot of the object at `address`, if one can begin there. The pointer that a program has to an
    /// object with pointers of more than 512 bytes is 8 beyond its slot's (malloc.go, `mallocHeaderSize`,
    /// Go 1.22 on), and tiny objects share one slot.
    pub fn slot(&self, address: u64) -> Option<u64> {
        let offset = address.checked_sub(self.start)?;
        let (slot, within) =
            (offset.checked_div(self.slot_bytes)?, offset.checked_rem(self.slot_bytes)?);
        let begins =
            within == 0 || (within == HEADER && self.class & 1 == 0) || self.class == TINY_CLASS;
        (begins && slot < self.slots.min(MAX_SLOTS)).then_some(slot)
    }

    /// Where the eight bytes are that hold a slot's bit, and its number in them (`newMarkBits` makes
    /// whole words). `None` where that is no address.
    pub fn bit(&self, slot: u64) -> Option<(u64, u32)> {
        let word = self.bits.checked_add(slot / 64 * 8)?;
        (self.bits != 0 && self.bits.is_multiple_of(8)).then_some((word, (slot % 64) as u32))
    }

    /// Where the type of the object in a slot is told, if it is: since Go 1.22 of objects with pointers that are large
    /// (mheap.go, `largeType`) or of more than 512 bytes (mbitmap.go, `heapBitsInSpan`; malloc.go, `mallocHeaderSize`). Of
    /// an array or a slice's memory it is the elements' type.
    pub fn type_pointer(&self, slot: u64) -> Option<TypePointer> {
        let large = self.large_type?;
        if self.class & 1 == 1 || self.user_arena || slot >= self.slots.min(MAX_SLOTS) {
            return None;
        }
        if self.class == 0 {
            return (large != 0).then_some(TypePointer::Is(large));
        }
        let at =
            slot.checked_mul(self.slot_bytes).and_then(|offset| self.start.checked_add(offset));
        at.filter(|_| self.slot_bytes > WITHOUT_HEADER).map(TypePointer::At)
    }

    /// Whether it is still the same span, for one whose objects live: what else changes when an
    /// object is allocated does not matter.
    pub fn is_same(&self, other: &Self) -> bool {
        let identity = |s: &Self| (s.start, s.pages, s.slots, s.slot_bytes, s.bits, s.class);
        identity(self) == identity(other) && self.in_use == other.in_use
    }
}

/// Where the heap's structures are in one process.
#[derive(Clone, Debug)]
pub struct Heap {
    generation: u64,
    arenas: u64,
    spans: u64,
    layout: Layout,
    in_use: u64,
    /// The `heapArena` of an arena, once it was seen: it stays.
    known: HashMap<u64, u64>,
}

/// Where the fields of an `mspan` lie, from `from` on.
#[derive(Clone, Copy, Debug)]
struct Layout {
    from: u64,
    len: usize,
    start: Field,
    pages: Field,
    slots: Field,
    slot_bytes: Field,
    bits: Field,
    generation: Field,
    class: Field,
    state: Field,
    need_zero: Field,
    user_arena: Option<Field>,
    large_type: Option<Field>,
}

impl Layout {
    fn of<M: Memory>(runtime: &Runtime<M>) -> Result<Self, RuntimeError> {
        let field = |name| runtime.field("runtime.mspan", name);
        let mut this = Self {
            from: 0,
            len: 0,
            start: field("startAddr")?,
            pages: field("npages")?,
            slots: field("nelems")?,
            slot_bytes: field("elemsize")?,
            bits: field("allocBits")?,
            generation: field("sweepgen")?,
            class: field("spanclass")?,
            state: field("state")?,
            need_zero: field("needzero")?,
            user_arena: field("isUserArenaChunk").ok(),
            large_type: field("largeType").ok(),
        };
        let all = [
            Some(this.start),
            Some(this.pages),
            Some(this.slots),
            Some(this.slot_bytes),
            Some(this.bits),
            Some(this.generation),
            Some(this.class),
            Some(this.state),
            Some(this.need_zero),
            this.user_arena,
            this.large_type,
        ];
        for f in all.iter().flatten() {
            if f.size == 0 || f.size > 8 {
                return Err(RuntimeError::Size(u64::from(f.size)));
            }
        }
        let ends = || all.iter().flatten().map(|f| u64::from(f.off) + u64::from(f.size));
        let from = all.iter().flatten().map(|f| u64::from(f.off)).min().unwrap_or(0);
        let len = ends().max().unwrap_or(0).saturating_sub(from);
        if len > 4096 {
            return Err(RuntimeError::Size(len));
        }
        (this.from, this.len) = (from, len as usize);
        Ok(this)
    }

    fn number(&self, bytes: &[u8], field: Field) -> u64 {
        let at = (u64::from(field.off) - self.from) as usize;
        let mut word = [0; 8];
        let size = field.size as usize;
        if let Some(part) = bytes.get(at..at + size) {
            word[..size].copy_from_slice(part);
        }
        u64::from_le_bytes(word)
    }
}

impl Heap {
    /// In a process. Fails where a field is not known.
    pub fn of<M: Memory>(runtime: &Runtime<M>) -> Result<Self, RuntimeError> {
        let heap = runtime.address(Global::Mheap)?;
        let at = |name| -> Result<u64, RuntimeError> {
            Ok(heap.wrapping_add(u64::from(runtime.field("runtime.mheap", name)?.off)))
        };
        let in_use = (0..16)
            .find(|n| runtime.offsets().enum_name("mSpanState", *n) == Some("mSpanInUse"))
            .ok_or_else(|| RuntimeError::Field {
                strukt: "runtime.mSpanState".to_owned(),
                field: "mSpanInUse".to_owned(),
            })?;
        Ok(Self {
            generation: at("sweepgen")?,
            arenas: at("arenas")?,
            spans: u64::from(runtime.field("runtime.heapArena", "spans")?.off),
            layout: Layout::of(runtime)?,
            in_use,
            known: HashMap::new(),
        })
    }

    /// `mheap_.sweepgen`: 2 more with each collection, from the end of its marking on.
    pub fn generation(&self, memory: &impl Memory) -> Result<u32, MemoryError> {
        let mut bytes = [0; 4];
        memory.read(self.generation, &mut bytes)?;
        Ok(u32::from_le_bytes(bytes))
    }

    /// The `mspan` that the heap has for each address, 0 where it never had one; `None` where that
    /// cannot be read.
    pub fn spans_of(&mut self, memory: &impl Memory, addresses: &[u64]) -> Vec<Option<u64>> {
        let place = |address: u64| {
            let moved = address.wrapping_sub(ARENA_BASE);
            let arena = moved >> ARENA_BITS;
            (arena < ARENAS).then_some((arena, moved / PAGE % PAGES))
        };
        let places: Vec<Option<(u64, u64)>> = addresses.iter().map(|a| place(*a)).collect();
        self.learn(memory, places.iter().flatten().map(|p| p.0));
        let entry = |p: &Option<(u64, u64)>| {
            let (arena, page) = (*p)?;
            self.known.get(&arena)?.checked_add(self.spans)?.checked_add(page * 8)
        };
        let entries: Vec<Option<u64>> = places.iter().map(entry).collect();
        let words = words(memory, entries.iter().flatten().copied().collect());
        let span = |(place, entry): (&Option<_>, &Option<u64>)| match (place, entry) {
            // Beyond what can be an address.
            (None, _) => Some(0),
            (_, Some(entry)) => words.get(entry),
            // An arena that was never made, or could not be read.
            (Some(_), None) => None,
        };
        places.iter().zip(&entries).map(span).collect()
    }

    /// Looks up arenas that are not known yet.
    fn learn(&mut self, memory: &impl Memory, arenas: impl Iterator<Item = u64>) {
        let mut new: Vec<u64> = arenas.filter(|a| !self.known.contains_key(a)).collect();
        new.sort_unstable();
        new.dedup();
        if new.is_empty() {
            return;
        }
        // One pointer on the first level.
        let mut level = [0; 8];
        if memory.read(self.arenas, &mut level).is_err() {
            return;
        }
        let level = u64::from_le_bytes(level);
        let at = |arena: u64| level.checked_add(arena * 8);
        let pointers = words(memory, new.iter().filter_map(|a| at(*a)).collect());
        for arena in new {
            let pointer = at(arena).and_then(|at| pointers.get(&at));
            if let Some(pointer) = pointer.filter(|p| *p != 0) {
                self.known.insert(arena, pointer);
            }
        }
    }

    /// Spans, each as it was at some moment of the reading; `None` where one cannot be read.
    /// `pointers` ascend, each once.
    pub fn read(&self, memory: &impl Memory, pointers: &[u64]) -> Vec<Option<Span>> {
        let layout = &self.layout;
        let addresses: Vec<u64> = pointers.iter().map(|p| p.wrapping_add(layout.from)).collect();
        let (bytes, read) = gather(memory, &addresses, layout.len);
        let span = |(bytes, ok): (&[u8], &bool)| {
            let number = |field| layout.number(bytes, field);
            ok.then(|| Span {
                start: number(layout.start),
                pages: number(layout.pages),
                slots: number(layout.slots),
                slot_bytes: number(layout.slot_bytes),
                bits: number(layout.bits),
                generation: number(layout.generation) as u32,
                class: number(layout.class) as u8,
                in_use: number(layout.state) == self.in_use,
                untouched: number(layout.need_zero) == 0,
                user_arena: layout.user_arena.is_some_and(|f| number(f) != 0),
                large_type: layout.large_type.map(number),
            })
        };
        bytes.chunks_exact(layout.len).zip(&read).map(span).collect()
    }
}

/// Numbers of eight bytes by where they are.
#[derive(Debug, Default)]
pub struct Words {
    at: Vec<u64>,
    bytes: Vec<u8>,
    read: Vec<bool>,
}

impl Words {
    /// One of them; `None` where it could not be read.
    pub fn get(&self, address: &u64) -> Option<u64> {
        let n = self.at.binary_search(address).ok()?;
        let bytes = self.bytes.get(n * 8..n * 8 + 8).filter(|_| self.read[n])?;
        bytes.try_into().ok().map(u64::from_le_bytes)
    }

    /// How many were asked for.
    pub fn len(&self) -> usize {
        self.at.len()
    }

    /// Whether none was asked for.
    pub fn is_empty(&self) -> bool {
        self.at.is_empty()
    }
}

/// Reads numbers of eight bytes.
pub fn words(memory: &impl Memory, mut at: Vec<u64>) -> Words {
    at.sort_unstable();
    at.dedup();
    let (bytes, read) = gather(memory, &at, 8);
    Words { at, bytes, read }
}

/// Reads pieces of the same length from ascending addresses, neighbours together: the pieces one
/// after the other, and which of them could be read.
fn gather(memory: &impl Memory, addresses: &[u64], len: usize) -> (Vec<u8>, Vec<bool>) {
    let mut out = vec![0; addresses.len() * len];
    let mut read = vec![false; addresses.len()];
    // Runs of pieces: the first one's number, and one beyond the last one's.
    let mut runs: Vec<(usize, usize)> = Vec::new();
    for (n, address) in addresses.iter().enumerate() {
        let joins = runs.last().is_some_and(|&(first, end)| {
            let reach = addresses[end - 1].saturating_add(len as u64 + GAP);
            *address <= reach && address.wrapping_sub(addresses[first]) < MAX_RUN - len as u64
        });
        match runs.last_mut() {
            Some(run) if joins => run.1 = n + 1,
            _ => runs.push((n, n + 1)),
        }
    }
    let mut pass = |runs: &[(usize, usize)]| -> Vec<(usize, usize)> {
        let bytes_of = |&(first, end): &(usize, usize)| {
            (addresses[end - 1].saturating_sub(addresses[first])) as usize + len
        };
        let mut buffer = vec![0; runs.iter().map(bytes_of).sum()];
        let mut rest = &mut buffer[..];
        let mut ranges: Vec<(u64, &mut [u8])> = Vec::with_capacity(runs.len());
        for run in runs {
            let (part, more) = std::mem::take(&mut rest).split_at_mut(bytes_of(run));
            ranges.push((addresses[run.0], part));
            rest = more;
        }
        let done = memory.read_many(&mut ranges);
        let mut again = Vec::new();
        for (run, ((base, bytes), ok)) in runs.iter().zip(ranges.iter().zip(done)) {
            if !ok {
                // Something among them is not there: each by itself.
                if run.1 - run.0 > 1 {
                    again.extend((run.0..run.1).map(|n| (n, n + 1)));
                }
                continue;
            }
            for n in run.0..run.1 {
                let at = (addresses[n] - base) as usize;
                out[n * len..(n + 1) * len].copy_from_slice(&bytes[at..at + len]);
                read[n] = true;
            }
        }
        again
    };
    let again = pass(&runs);
    if !again.is_empty() {
        pass(&again);
    }
    (out, read)
}
