//! The fault laboratory: known causes, made on purpose, and a judge of what `g211s` says about them.
//! `cargo xtask lab` and `suite/lab.rs` both run it; `docs/lab.md` explains it to a reader.
//!
//! Rooms: [`span`] (intervals of time), [`random`] (what a seed settles), [`target`] (the workload
//! and what it logged), [`scenarios`] (how each cause is made, and how its truth is measured), [`cgroup`]
//! and [`slow_file`] (what two of them need), [`label`] (names of causes), [`judge`] (report against
//! truth), [`accuse`] (accusations against independent evidence), [`trial`] (one run, repeated when nothing was
//! injected), [`table`] (the confusion matrix).
//!
//! The judge must not know how a cause was made, and nothing here how g211s finds it.

pub mod accuse;
pub mod cgroup;
pub mod judge;
pub mod label;
pub mod random;
pub mod scenarios;
pub mod slow_file;
pub mod span;
pub mod table;
pub mod target;
pub mod trial;
