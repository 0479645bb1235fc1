//! Records of a run that looks for leaks: what each collection left, the runtime's own memory profile as it changes,
//! and goroutines by creation site. Must not know how they were read, nor what is concluded.

use serde::{Deserialize, Serialize};

/// One of them.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LeakRecord {
    /// What can be read of this process. First; again where more can be read later.
    Sources(LeakSources),
    /// Why no objects are followed.
    NotFollowed(String),
    /// What a collection left.
    Heap(LeftHeap),
    /// A stack of the runtime's memory profile. Before the first counts that need it.
    ProfileStack(ProfileStack),
    /// Its counts.
    Profile(ProfileCounts),
    /// Where goroutines are made. Before the first count that needs it.
    GoroutineSite(GoroutineSite),
    /// A census.
    Goroutines(GoroutineCounts),
    /// Who is still there. At the end.
    GoroutinesKept(GoroutinesKept),
    /// What a stack allocates. At the end, of those that are told.
    Hint(AllocHint),
}

/// Which sources there are; each `None`, or why not.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LeakSources {
    /// What each collection leaves.
    pub heap: Option<String>,
    /// The runtime's own memory profile.
    pub profile: Option<String>,
    /// Goroutines.
    pub goroutines: Option<String>,
    /// Where the offsets of the runtime's structs came from.
    pub offsets: String,
}

/// What a collection left.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LeftHeap {
    /// When it was seen to have ended, ns.
    pub ts_ns: u64,
    /// Its number: `mheap_.sweepgen` / 2.
    pub gc: u64,
    /// Bytes of objects that it found alive (`gcController.heapMarked`).
    pub marked: u64,
    /// Bytes in goroutine stacks, where known.
    pub stacks: Option<u64>,
}

/// A stack of the runtime's memory profile.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProfileStack {
    /// Its number in this run.
    pub id: u32,
    /// Addresses of the calls, innermost first; each is named by a `SymbolInfo`.
    pub addresses: Vec<u64>,
}

/// Counts of the runtime's memory profile: of those buckets that changed since the record before.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProfileCounts {
    /// When it was read, ns.
    pub ts_ns: u64,
    /// The collection up to whose end it goes.
    pub gc: u64,
    /// Bytes allocated per sample, on average (`runtime.MemProfileRate`).
    pub rate: u64,
    /// (stack, bytes of an object, sampled objects made, and freed).
    pub changed: Vec<(u32, u64, u64, u64)>,
}

/// Where goroutines are made.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct GoroutineSite {
    /// Its number in this run.
    pub id: u32,
    /// `go` (a statement), `start`, `c`, `unknown`.
    pub created_by: String,
    /// The function that holds the statement.
    pub function: Option<String>,
    /// Its file.
    pub file: Option<String>,
    /// The line.
    pub line: Option<u32>,
    /// The function that they run, where it is the same for all.
    pub start: Option<String>,
}

/// A census.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct GoroutineCounts {
    /// When it began, ns.
    pub ts_ns: u64,
    /// How long it took, ns.
    pub took_ns: u64,
    /// Goroutines by site and state; the runtime's own are left out.
    pub counts: Vec<(u32, String, u64)>,
}

/// Of the goroutines of one census, those that were there in the last one.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct GoroutinesKept {
    /// When the earlier census was, ns.
    pub since_ns: u64,
    /// (site, how many there were, how many of these are still there).
    pub sites: Vec<(u32, u64, u64)>,
}

/// What a stack allocates.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct AllocHint {
    /// The stack's addresses, innermost first.
    pub addresses: Vec<u64>,
    /// The runtime's function that was called, e.g. `runtime.growslice`.
    pub callee: Option<String>,
    /// The type it was called with, as Go prints it: of an element where a slice is made.
    pub type_name: Option<String>,
}
