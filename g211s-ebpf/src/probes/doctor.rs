//! Programs that do nothing: `g211s doctor` loads and attaches them to learn what this kernel
//! allows.

use aya_ebpf::{
    macros::{fentry, perf_event},
    programs::{FEntryContext, PerfEventContext},
};

/// Where a socket becomes ready for `epoll`: the function that an exact readiness time needs.
#[fentry(function = "ep_poll_callback")]
pub(crate) fn doctor_fentry(_ctx: FEntryContext) -> i32 {
    0
}

/// Sampling by the CPU clock.
#[perf_event]
pub(crate) fn doctor_perf(_ctx: PerfEventContext) -> u32 {
    0
}
