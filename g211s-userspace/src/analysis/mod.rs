//! What a run's model says about causes: verdicts on pauses, statistics, correlation. Pure
//! functions of the model; must not know files, BPF, clocks or how anything is printed.

pub mod accuracy;
pub mod aligned;
pub mod allocations;
pub mod correlate;
pub mod delay;
pub mod goroutine;
pub mod network;
pub mod stalls;
pub mod stats;
pub mod trend;
pub mod verdict;
