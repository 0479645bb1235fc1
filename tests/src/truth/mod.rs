//! What others say about the same seconds: the Go runtime's own trace, perf, bpftrace, strace.

pub mod epoll;
pub mod gctrace;
pub mod sched;
