//! Records of what became of objects whose allocation was seen. Must not know how that was found out, nor what is
//! concluded.

use serde::{Deserialize, Serialize};

use super::SymbolFrame;

/// Where the figures of a heap come from. Before all other records of it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct HeapSource {
    /// Index of the target.
    pub target: u8,
    /// Where the offsets of the runtime's structs came from, in words.
    pub offsets: String,
    /// Where the executable's code is mapped: from, to, and what of the file is there.
    pub code: Option<(u64, u64, u64)>,
    /// The runtime's own memory profile, as it was read at once; `None` where objects are followed.
    pub snapshot: Option<HeapSnapshot>,
}

/// How the runtime's own memory profile was read.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct HeapSnapshot {
    /// When, ns since 1970.
    pub time_ns: i64,
    /// Bytes allocated per sample.
    pub rate: u64,
    /// The collection as of whose end it is.
    pub gc_cycle: Option<u64>,
    /// Collections so far.
    pub gc_cycles: Option<u64>,
    /// As of when it is, in words.
    pub as_of: String,
    /// As `HeapLook::heap`.
    pub heap: Option<(u64, u64)>,
    /// Buckets of the profile.
    pub buckets: u64,
    /// Readings of all counts until two agreed.
    pub readings: u32,
    /// Buckets whose counts differed between the last two.
    pub torn: u64,
    /// System calls.
    pub calls: u64,
    /// Bytes read.
    pub bytes: u64,
    /// How long it took, ns.
    pub took_ns: u64,
    /// What could not be told, and why.
    pub unavailable: Vec<String>,
}

/// Stacks of a heap profile.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct HeapStacks {
    /// Index of the target.
    pub target: u8,
    /// Locations that are new: address, and the functions that are active there, innermost first. They are numbered from 0
    /// on through all records.
    pub locations: Vec<(u64, Vec<SymbolFrame>)>,
    /// Stacks: the numbers of their locations, innermost first; the values of a heap profile in their order; bytes of an
    /// object.
    pub stacks: Vec<(Vec<u32>, [i64; 4], Option<i64>)>,
}

/// What is known of an object.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum HeapFate {
    /// The last collection reached it.
    Live,
    /// Its slot was reached, but collections were missed: it may be another object by now.
    Doubtful,
    /// It was made since the last collection.
    Young,
    /// It was freed.
    Dead,
    /// It cannot be told: its span was not swept yet, or could not be read.
    Unknown,
}

/// An object, and what became of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "(u64, u32, HeapFate, u64, u32)", into = "(u64, u32, HeapFate, u64, u32)")]
pub struct HeapObject {
    /// `AllocSample::ts_ns`.
    pub ts_ns: u64,
    /// `AllocSample::tid`: with the time, this says which sample it is.
    pub tid: u32,
    /// What is known.
    pub fate: HeapFate,
    /// For how many followed objects it counts: others were let go by chance. A power of 2.
    pub times: u64,
    /// The last `mheap_.sweepgen` in which it was seen, and was no other for certain; at first that of its allocation.
    pub sure: u32,
}

impl From<(u64, u32, HeapFate, u64, u32)> for HeapObject {
    fn from((ts_ns, tid, fate, times, sure): (u64, u32, HeapFate, u64, u32)) -> Self {
        Self { ts_ns, tid, fate, times, sure }
    }
}

impl From<HeapObject> for (u64, u32, HeapFate, u64, u32) {
    fn from(o: HeapObject) -> Self {
        (o.ts_ns, o.tid, o.fate, o.times, o.sure)
    }
}

/// Objects of one type, where the runtime keeps that with them.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct HeapType {
    /// The type's name; of arrays and slices' memory the elements'.
    pub name: String,
    /// Bytes of a value.
    pub size: u64,
    /// The objects: `HeapObject::ts_ns` and `tid`.
    pub objects: Vec<(u64, u32)>,
}

/// What a look at the followed objects found: those that died since the last look; in the last one of a run (in
/// several records), all others too.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct HeapLook {
    /// Index of the target.
    pub target: u8,
    /// When, ns.
    pub ts_ns: u64,
    /// `mheap_.sweepgen` of the last look that read the process: the figures are of the end of that collection.
    pub sweepgen: u32,
    /// `memstats.numgc` then, where it can be read.
    pub cycles: Option<u32>,
    /// Collections that passed without a look since the look before.
    pub missed: u32,
    /// Looks so far.
    pub looks: u64,
    /// Whether this belongs to the end of the run.
    pub last: bool,
    /// Objects that could not be taken in, so far, and samples that were no objects.
    pub refused: u64,
    /// The objects.
    pub objects: Vec<HeapObject>,
    /// At the end: of what types objects are that live.
    #[serde(default)]
    pub types: Vec<HeapType>,
    /// At the end: bytes that the last collection found alive (`gcController.heapMarked`), and those with what was
    /// allocated since (`heapLive`), where they can be read.
    #[serde(default)]
    pub heap: Option<(u64, u64)>,
    /// Why the process could not be looked at.
    pub failed: Option<String>,
}
