//! What others say about the same seconds: the Go runtime's own trace, perf, bpftrace, strace, and programs that
//! count for themselves.

pub mod allocs;
pub mod epoll;
pub mod gctrace;
pub mod sched;
