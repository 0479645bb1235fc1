//! What a run's events mean, as pure state machines fed with events in time order: threads and
//! CPUs as timelines of proven intervals, stops of the world, GC cycles. Must not know files, BPF,
//! clocks or how anything is printed: time arrives in events.
//!
//! Nothing here guesses. What no event proves is a gap; a stop or a cycle of which a part is
//! missing is kept as incomplete, with what is missing.

pub mod cpus;
pub mod gc;
pub mod reason;
pub(crate) mod rests;
pub mod stacks;
pub mod stw;
pub mod threads;
pub mod waits;

#[cfg(test)]
pub(crate) mod ascii;
