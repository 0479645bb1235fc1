//! `g211s leaks`: which lines of a process leak memory or goroutines. Three sources, of which any may be missing: what
//! each collection left of the whole heap, the memory profile that the runtime keeps by itself ([`profiled`]), and sampled
//! objects followed from collection to collection ([`survivors`]); and goroutines by creation site ([`counted`]).
//! [`judge`] puts them together. Only [`command`] and [`watcher`] know processes.

pub mod command;
pub mod counted;
pub mod hint;
pub mod judge;
pub mod limits;
pub mod observer;
pub mod place;
pub mod profiled;
pub mod schema;
pub mod seen;
pub mod sentence;
#[cfg(test)]
mod simulated;
pub mod survivors;
pub mod text;
pub mod watcher;
