//! Reading the runtime's memory profile out of a running process: the list of buckets, then the counts of all of
//! them, again and again until two readings agree. Must not know symbols or output.
//!
//! Go `src/runtime/mprof.go` (1.21.13 to 1.27.3). The list grows at its head only, and buckets are never freed nor
//! changed but for their counts, so it can be walked while it grows. Published counts (`active`) change when the
//! counts of a cycle are added to them, bucket by bucket in the list's order, so readings in that order that agree
//! twice are of one moment.
//!
//! `runtime.MemProfile` first publishes cycle `C` (`mProfCycle`), should the runtime not have done so yet; adding it
//! while reading gives the same without writing.

use std::collections::{HashMap, HashSet};
use std::ops::Range;
use std::time::Duration;

use crate::go::globals::Global;
use crate::runtime::buckets::{BucketLayout, Counts, FUTURE, Header, Record, hash};
use crate::runtime::memory::{Memory, MemoryError};
use crate::runtime::{Feature, Runtime, RuntimeError};

/// More buckets than this are not read: the runtime finds them through a table of 179,999 places.
const MAX_BUCKETS: usize = 1 << 18;
/// Return addresses in all of them together.
const MAX_ADDRESSES: usize = 16 << 20;
const PAGE: u64 = 4096;
/// Pages read at once: those before a bucket, where older ones are (`persistentalloc` gives out ascending
/// addresses of chunks of 256 KiB).
const AHEAD: u64 = 15;
/// Pages that are kept.
const MAX_PAGES: usize = 8192;
/// Readings of all counts until two agree, and the rest between them.
const TRIES: u32 = 8;
const REST: Duration = Duration::from_millis(2);

/// Why there is no heap profile.
#[derive(Debug, thiserror::Error)]
pub enum HeapError {
    /// The memory could not be read.
    #[error(transparent)]
    Memory(#[from] MemoryError),
    /// Something is not known of this Go version or program.
    #[error(transparent)]
    Runtime(#[from] RuntimeError),
    /// The list makes no sense.
    #[error(
        "the runtime's memory profile is damaged ({0}): the program may have overwritten it, or is \
         of a Go version that is not known"
    )]
    Damaged(String),
    /// It is larger than is read.
    #[error("the runtime's memory profile has more than {0} {1}")]
    TooLarge(usize, &'static str),
}

/// What was sampled of one size at one stack.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bucket {
    /// Bytes of each object.
    pub size: u64,
    /// Return addresses, innermost first: a part of [`Snapshot::addresses`].
    pub stack: Range<usize>,
    /// Sampled objects, published.
    pub counts: Counts,
}

/// Up to when the counts go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AsOf {
    /// The end of marking of the collection with this number, of so many.
    Collection(u64, u64),
    /// Now: no collection has ended, so nothing was freed either.
    Now,
    /// The last collection or the one before it: which, cannot be told.
    Unknown,
}

/// The memory profile of a process.
#[derive(Clone, Debug)]
pub struct Snapshot {
    /// In the order of the runtime's list, newest first.
    pub buckets: Vec<Bucket>,
    /// Return addresses of all of them.
    pub addresses: Vec<u64>,
    /// Bytes allocated per sample, on average (`runtime.MemProfileRate`), as set now.
    pub rate: u64,
    /// Up to when the counts go.
    pub as_of: AsOf,
    /// Readings of the counts.
    pub readings: u32,
    /// Buckets whose counts differed between the last two readings: 0 where all are of one moment.
    pub torn: usize,
}

impl Snapshot {
    /// A bucket's return addresses, innermost first.
    pub fn stack(&self, bucket: &Bucket) -> &[u64] {
        self.addresses.get(bucket.stack.clone()).unwrap_or_default()
    }

    /// Takes one. [`Feature::HeapProfile`] is to be checked before.
    pub fn take<M: Memory>(runtime: &Runtime<M>) -> Result<Self, HeapError> {
        let layout = BucketLayout::of(runtime.offsets())?;
        let rate = runtime.address(Global::MemProfileRate).and_then(|a| runtime.u64_at(a))?;
        let head = runtime.u64_at(runtime.address(Global::Mbuckets)?)?;
        let (places, addresses) = walk(runtime.memory(), &layout, head)?;
        let mut counts = Reader { runtime, layout: &layout, places: &places };
        let settled = counts.settle()?;
        let nothing = settled.published.iter().all(|c| c.is_zero());
        let (published, as_of) = if nothing {
            // Nothing is published yet: the runtime shows what it has, then (`memProfileInternal`).
            let all = |r: &Record| r.future.iter().fold(r.active, |sum, c| sum.plus(*c));
            (settled.records.iter().map(all).collect(), AsOf::Now)
        } else {
            (settled.published, settled.as_of)
        };
        let mut from = 0;
        let buckets = places.iter().zip(published).map(|(place, counts)| {
            let stack = from..from + place.header.depth;
            from = stack.end;
            Bucket { size: place.header.size, stack, counts }
        });
        Ok(Self {
            buckets: buckets.collect(),
            addresses,
            rate,
            as_of,
            readings: settled.readings,
            torn: settled.torn,
        })
    }
}

/// Where a bucket is, and what of it never changes.
struct Place {
    address: u64,
    header: Header,
}

/// Walks along the list; its buckets, and their return addresses one after another.
fn walk(
    memory: &impl Memory,
    layout: &BucketLayout,
    head: u64,
) -> Result<(Vec<Place>, Vec<u64>), HeapError> {
    let mut pages = Pages { memory, kept: HashMap::new() };
    let (mut places, mut addresses) = (Vec::new(), Vec::new());
    let mut seen = HashSet::new();
    let mut at = head;
    while at != 0 {
        if places.len() == MAX_BUCKETS {
            return Err(HeapError::TooLarge(MAX_BUCKETS, "buckets"));
        }
        if !seen.insert(at) {
            return Err(HeapError::Damaged("its list leads back to itself".to_owned()));
        }
        let header = pages.get(at, layout.header)?;
        let header = layout.parse_header(&header).map_err(HeapError::Damaged)?;
        let stack = pages.get(at.wrapping_add(layout.header as u64), header.depth * 8)?;
        let from = addresses.len();
        addresses.extend(stack.as_chunks::<8>().0.iter().map(|word| u64::from_le_bytes(*word)));
        if hash(&addresses[from..], header.size) != header.hash {
            return Err(HeapError::Damaged("a bucket has the hash of another stack".to_owned()));
        }
        if addresses.len() > MAX_ADDRESSES {
            return Err(HeapError::TooLarge(MAX_ADDRESSES, "return addresses"));
        }
        places.push(Place { address: at, header });
        at = header.next;
    }
    Ok((places, addresses))
}

/// Pages of the process, read a few at a time. What is looked up in them does not change.
struct Pages<'m, M> {
    memory: &'m M,
    /// By number; `None` where there is none.
    kept: HashMap<u64, Option<Box<[u8; PAGE as usize]>>>,
}

impl<M: Memory> Pages<'_, M> {
    fn get(&mut self, address: u64, len: usize) -> Result<Vec<u8>, MemoryError> {
        let unmapped = MemoryError::Unmapped(address);
        let end = address.checked_add(len as u64).ok_or(unmapped)?;
        let mut bytes = Vec::with_capacity(len);
        let mut at = address;
        while at < end {
            let number = at / PAGE;
            if !self.kept.contains_key(&number) {
                self.fetch(number, (end - 1) / PAGE);
            }
            let page = self.kept.get(&number).and_then(Option::as_deref).ok_or(unmapped)?;
            let from = (at % PAGE) as usize;
            let part = ((end - at) as usize).min(PAGE as usize - from);
            bytes.extend_from_slice(&page[from..from + part]);
            at += part as u64;
        }
        Ok(bytes)
    }

    /// Reads the page, those up to `last`, and some before.
    fn fetch(&mut self, number: u64, last: u64) {
        if self.kept.len() > MAX_PAGES {
            self.kept.clear();
        }
        // The wanted ones first: where there is a hole before them, reading stops at it.
        let before = (number.saturating_sub(AHEAD)..number).rev();
        let wanted: Vec<u64> =
            (number..=last).chain(before).filter(|n| !self.kept.contains_key(n)).collect();
        let mut bytes: Vec<Box<[u8; PAGE as usize]>> =
            wanted.iter().map(|_| Box::new([0; PAGE as usize])).collect();
        let mut ranges: Vec<(u64, &mut [u8])> =
            wanted.iter().zip(&mut bytes).map(|(n, b)| (n * PAGE, &mut b[..])).collect();
        let read = self.memory.read_many(&mut ranges);
        for ((number, bytes), read) in wanted.into_iter().zip(bytes).zip(read) {
            self.kept.insert(number, read.then_some(bytes));
        }
    }
}

/// Reads the counts of all buckets.
struct Reader<'a, M> {
    runtime: &'a Runtime<M>,
    layout: &'a BucketLayout,
    places: &'a [Place],
}

/// Counts of one moment, or nearly.
struct Settled {
    records: Vec<Record>,
    published: Vec<Counts>,
    as_of: AsOf,
    readings: u32,
    torn: usize,
}

impl<M: Memory> Reader<'_, M> {
    /// Reads until two readings agree.
    fn settle(&mut self) -> Result<Settled, HeapError> {
        let mut last: Option<(Option<u64>, Vec<Counts>)> = None;
        let mut readings = 0;
        loop {
            let (cycle, collections) = (self.cycle()?, self.collections());
            let records = self.read()?;
            let published = published(&records, cycle);
            let held = self.cycle()? == cycle && self.collections() == collections;
            readings += 1;
            let torn = match &last {
                Some((before, counts)) if held && *before == cycle => {
                    counts.iter().zip(&published).filter(|(a, b)| a != b).count()
                }
                _ => published.len().max(1),
            };
            // What is freed of what was never made was caught in the middle of a change.
            let sound = published.iter().all(|c| c.frees <= c.allocs);
            if (torn == 0 && sound) || readings == TRIES {
                let as_of = as_of(&records, cycle, collections);
                if torn == 0 && !sound {
                    let what = "more objects were freed than made".to_owned();
                    return Err(HeapError::Damaged(what));
                }
                return Ok(Settled { records, published, as_of, readings, torn });
            }
            last = Some((cycle, published));
            if readings > 2 {
                self.runtime.memory().wait(REST);
            }
        }
    }

    fn read(&self) -> Result<Vec<Record>, HeapError> {
        let len = self.layout.record;
        let mut bytes = vec![0; self.places.len() * len];
        let places = self.places.iter().map(|place| {
            place.address.wrapping_add((self.layout.header + place.header.depth * 8) as u64)
        });
        let mut ranges: Vec<(u64, &mut [u8])> = places.zip(bytes.chunks_mut(len)).collect();
        let read = self.runtime.memory().read_many(&mut ranges);
        if let Some(at) = read.iter().position(|ok| !ok) {
            // One by one, to say why.
            let (address, buf) = &mut ranges[at];
            self.runtime.memory().read(*address, buf)?;
            return Err(MemoryError::Unmapped(*address).into());
        }
        let records = bytes.chunks(len).filter_map(|bytes| self.layout.parse_record(bytes));
        Ok(records.collect())
    }

    /// `C`, where it is known.
    fn cycle(&self) -> Result<Option<u64>, RuntimeError> {
        let Ok(address) = self.runtime.address(Global::ProfCycle) else { return Ok(None) };
        // Its lowest bit says whether it was flushed.
        Ok(Some(u64::from(self.runtime.u32_at(address)? >> 1)))
    }

    /// Collections so far.
    fn collections(&self) -> Option<u64> {
        self.runtime.usable(Feature::Gc).ok()?;
        let number = self.runtime.u64(Global::Memstats, "runtime.mstats", "numgc").ok()?;
        Some(number & 0xffff_ffff)
    }
}

fn published(records: &[Record], cycle: Option<u64>) -> Vec<Counts> {
    let index = cycle.map(|c| c as usize % FUTURE);
    let pending = |r: &Record| index.map_or_else(Counts::default, |index| r.future[index]);
    records.iter().map(|r| r.active.plus(pending(r))).collect()
}

/// After collection N the counts up to its end wait in cycle `C + 1` for its sweep to end. `runtime.GC` publishes them
/// then; otherwise the next collection does (mprof.go, `mProf_PostSweep`).
fn as_of(records: &[Record], cycle: Option<u64>, collections: Option<u64>) -> AsOf {
    let (Some(cycle), Some(collections)) = (cycle, collections) else { return AsOf::Unknown };
    let waiting = (cycle + 1) as usize % FUTURE;
    let waits = records.iter().any(|r| !r.future[waiting].is_zero());
    AsOf::Collection(collections.saturating_sub(u64::from(waits)), collections)
}

#[cfg(test)]
#[path = "buckets_tests.rs"]
mod tests;
