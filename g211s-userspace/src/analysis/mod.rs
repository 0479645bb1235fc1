//! What the numbers of a run mean. Pure logic: no files, no clock, no BPF; times arrive in the
//! data.

pub mod correlate;
pub mod stats;
