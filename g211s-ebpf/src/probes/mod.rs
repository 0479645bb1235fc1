//! The programs, one file a subject.

pub(crate) mod doctor;
pub(crate) mod netpoll;
pub(crate) mod runtime;
pub(crate) mod sched;
pub(crate) mod target;
