//! The target's heap, object by object, from its memory. Must not know BPF, records or how anything
//! is printed.

mod judge;
pub mod liveness;
#[cfg(test)]
mod liveness_tests;
pub mod spans;
