//! Records of allocations: sampled objects with the stacks that made them, and what the runtime itself counted
//! meanwhile. Must not know how a sample was taken, nor what is made of it.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// A stack that allocated. Comes before the first sample that has it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AllocStack {
    /// Index of the target.
    pub target: u8,
    /// Its number in this run.
    pub id: u32,
    /// Addresses innermost first: of return addresses the byte before, which is the call. Each is named by a
    /// `SymbolInfo`.
    pub addresses: Vec<u64>,
}

/// How densely a sample was drawn.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AllocDensity {
    /// Every allocation.
    Exact,
    /// As the allocator searched a span for its next free slots: one object in up to 64.
    NextFree,
    /// As a P took another span to allocate from: one object a span.
    Refill,
    /// A large object: each of them.
    Large,
}

/// One object that was seen to be allocated, and how many it stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "Packed", into = "Packed")]
pub struct AllocSample {
    /// When, ns.
    pub ts_ns: u64,
    /// The thread.
    pub tid: u32,
    /// How it was drawn.
    pub density: AllocDensity,
    /// The `AllocStack`.
    pub stack: u32,
    /// `spanClass`: twice the size class, plus 1 for objects without pointers (Go `runtime/mheap.go`). Classes 0 and
    /// 1 are large objects.
    pub span_class: u8,
    /// Bytes of the object, rounded up as the heap keeps it.
    pub size: u64,
    /// Objects that it stands for.
    pub objects: u64,
    /// The object's address; 0 where it is not known.
    pub address: u64,
    /// `mheap_.sweepgen` then: rises by 2 with each collection.
    pub sweepgen: u32,
    /// Which stay of the probes it was in, counted from 0.
    pub look: u32,
}

/// A sample as it is written: ten numbers.
#[derive(Serialize, Deserialize)]
struct Packed(u64, u32, AllocDensity, u32, u8, u64, u64, u64, u32, u32);

impl From<Packed> for AllocSample {
    fn from(p: Packed) -> Self {
        Self {
            ts_ns: p.0,
            tid: p.1,
            density: p.2,
            stack: p.3,
            span_class: p.4,
            size: p.5,
            objects: p.6,
            address: p.7,
            sweepgen: p.8,
            look: p.9,
        }
    }
}

impl From<AllocSample> for Packed {
    fn from(s: AllocSample) -> Self {
        Self(
            s.ts_ns,
            s.tid,
            s.density,
            s.stack,
            s.span_class,
            s.size,
            s.objects,
            s.address,
            s.sweepgen,
            s.look,
        )
    }
}

/// Samples of one target, in the order they were taken.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct AllocSamples {
    /// Index of the target.
    pub target: u8,
    /// The samples.
    pub samples: Vec<AllocSample>,
}

/// What the runtime counted of its allocations since the program's start (`memstats.heapStats`, Go
/// `runtime/mstats.go`), up to what the Ps hold in their caches.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct AllocTotals {
    /// Objects by size class, of the classes that have any.
    pub small: BTreeMap<u8, u64>,
    /// Large objects.
    pub large: u64,
    /// Their bytes.
    pub large_bytes: u64,
    /// Objects that share a block of 16 bytes with others: those blocks are what `small` counts.
    pub tiny: u64,
}

/// Where the following of a target's allocations stands: at the start, once a second, at the end, and whenever the plan
/// changes.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct AllocState {
    /// Index of the target.
    pub target: u8,
    /// When, ns.
    pub ts_ns: u64,
    /// The plan from now on, in a word: `exact`, `next_free`, `refill`, `resting`, `off`.
    pub plan: String,
    /// Why, where it was changed.
    pub why: String,
    /// The runtime's own counts; `None` where they cannot be read.
    pub totals: Option<AllocTotals>,
    /// `memstats.numgc`, where it can be read.
    pub cycles: Option<u32>,
    /// `mheap_.sweepgen`, where it can be read.
    #[serde(default)]
    pub sweepgen: Option<u32>,
    /// Bytes that the last collection found alive, where they can be read.
    pub marked: Option<u64>,
    /// CPU time of the target so far, ns.
    pub cpu_ns: u64,
    /// Hits of the probes so far.
    pub hits: u64,
    /// How long probes were attached so far, ns.
    pub observed_ns: u64,
    /// Stays of the probes so far, with the one under way.
    pub looks: u32,
    /// All that the account was charged so far, ns: hits, the coming and going of probes, and what g211s did about hits.
    /// `None` in older recordings, and where every allocation is counted.
    #[serde(default)]
    pub spent_ns: Option<u64>,
    /// When the collector marked in cycles that ended since the last state, ns: those that were seen.
    #[serde(default)]
    pub marks: Vec<(u64, u64)>,
}

/// What a stack allocated while every allocation was counted.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct AllocSums {
    /// Index of the target.
    pub target: u8,
    /// (stack, objects, bytes asked for).
    pub stacks: Vec<(u32, u64, u64)>,
    /// Objects and bytes whose stack is not known: it found the table full, or was lost.
    pub unknown: (u64, u64),
}

/// How allocations are followed in a run.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct AllocRun {
    /// Index of the target.
    pub target: u8,
    /// Share of the target's CPU time that its probes may take.
    pub budget: f64,
    /// What a hit costs on this machine, ns, as measured on g211s itself at the start.
    pub cost_ns: u64,
    /// Sizes of the size classes, bytes, by number; 0 where not known.
    pub class_sizes: Vec<u64>,
    /// Every allocation was asked for.
    pub exact: bool,
}
