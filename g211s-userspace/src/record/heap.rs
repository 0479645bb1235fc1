//! Records of what became of objects whose allocation was seen. Must not know how that was found out, nor what is
//! concluded.

use serde::{Deserialize, Serialize};

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
#[serde(from = "(u64, u32, HeapFate, u64)", into = "(u64, u32, HeapFate, u64)")]
pub struct HeapObject {
    /// `AllocSample::ts_ns`.
    pub ts_ns: u64,
    /// `AllocSample::tid`: with the time, this says which sample it is.
    pub tid: u32,
    /// What is known.
    pub fate: HeapFate,
    /// For how many followed objects it counts: others were let go by chance. A power of 2.
    pub times: u64,
}

impl From<(u64, u32, HeapFate, u64)> for HeapObject {
    fn from((ts_ns, tid, fate, times): (u64, u32, HeapFate, u64)) -> Self {
        Self { ts_ns, tid, fate, times }
    }
}

impl From<HeapObject> for (u64, u32, HeapFate, u64) {
    fn from(o: HeapObject) -> Self {
        (o.ts_ns, o.tid, o.fate, o.times)
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
    /// Why the process could not be looked at.
    pub failed: Option<String>,
}
