//! The programs, one file a subject.

pub(crate) mod alloc;
pub(crate) mod doctor;
pub(crate) mod goroutine;
pub(crate) mod netpoll;
pub(crate) mod off_cpu;
pub(crate) mod quota;
pub(crate) mod ready;
pub(crate) mod runtime;
pub(crate) mod sched;
pub(crate) mod series;
pub(crate) mod stacks;
pub(crate) mod target;
pub(crate) mod task;
