//! `g211s heap`: which lines of a process's code hold the heap. Read from the memory profile that the Go runtime
//! keeps by itself ([`buckets`]), without stopping the process; printed as text, JSON, pprof's format and drawings.
//! Whether single objects live is told by their spans ([`liveness`]); where the runtime keeps no profile, sampled
//! allocations are followed by that ([`following`], [`followed`]). Must not know BPF.

pub mod buckets;
pub mod command;
pub mod diff;
mod diff_text;
pub mod estimate;
pub mod followed;
pub mod following;
mod go_exp;
mod judge;
pub mod liveness;
#[cfg(test)]
mod liveness_tests;
pub mod schema;
pub mod spans;
pub mod symbolised;
pub mod text;
pub mod typed;

/// What the values of a heap profile are, in the order of Go's own (`src/runtime/pprof/protomem.go`).
pub const SAMPLE_TYPES: [(&str, &str); 4] = [
    ("alloc_objects", "count"),
    ("alloc_space", "bytes"),
    ("inuse_objects", "count"),
    ("inuse_space", "bytes"),
];
/// Their places in it.
pub(crate) const ALLOC_OBJECTS: usize = 0;
pub(crate) const ALLOC_SPACE: usize = 1;
pub(crate) const INUSE_OBJECTS: usize = 2;
pub(crate) const INUSE_SPACE: usize = 3;
