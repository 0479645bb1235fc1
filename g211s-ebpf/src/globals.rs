//! Constants that user space sets before load: kernel struct offsets (from BTF, since Rust has no
//! CO-RE) and the run's settings. They live in `.rodata`, which is frozen at load, so the
//! verifier knows their values, prunes dead branches and accepts them as fixed offsets.

use core::ptr::read_volatile;

macro_rules! globals {
    ($($(#[$doc:meta])* $name:ident / $get:ident : $ty:ty = $init:expr;)*) => {$(
        $(#[$doc])*
        #[unsafe(no_mangle)]
        static $name: $ty = $init;

        $(#[$doc])*
        #[inline(always)]
        pub(crate) fn $get() -> $ty {
            // SAFETY: a shared static; volatile only so that the compiler does not fold the value
            // that user space overrides.
            unsafe { read_volatile(&raw const $name) }
        }
    )*};
}

globals! {
    /// `task_struct.pid`
    OFF_TASK_PID / off_task_pid: u32 = 0;
    /// `task_struct.tgid`
    OFF_TASK_TGID / off_task_tgid: u32 = 0;
    /// `task_struct.comm`
    OFF_TASK_COMM / off_task_comm: u32 = 0;
    /// `task_struct.__state` (5.14+) or `.state`
    OFF_TASK_STATE / off_task_state: u32 = 0;
    /// `task_struct.thread_info.cpu` (5.16+) or `.cpu`
    OFF_TASK_CPU / off_task_cpu: u32 = 0;
    /// 1: `sched_switch` passes `prev_state` as its fourth argument (5.18+).
    HAS_PREV_STATE / has_prev_state: u32 = 0;
    /// Runnable waits of at least this are sent one by one, ns.
    THRESHOLD_NS / threshold_ns: u64 = 1_000_000;
    /// 1: send every transition.
    STREAM_ALL / stream_all: u32 = 0;
    /// See `config::target_slot`.
    TARGET_MULTIPLIER / target_multiplier: u32 = 1;
    /// Ring fill, bytes, past which user space is woken at once.
    WAKE_AT / wake_at: u64 = 1 << 20;
}
