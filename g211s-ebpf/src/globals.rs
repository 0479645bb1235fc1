//! Constants that user space sets before load: kernel struct offsets (from BTF, since Rust has no
//! CO-RE) and the run's settings. They live in `.rodata`, which is frozen at load, so the
//! verifier knows their values, prunes dead branches and accepts them as fixed offsets.

use core::ptr::read_volatile;

/// The offset of a field that this kernel does not have.
pub(crate) const ABSENT: u32 = u32::MAX;

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
    /// `task_struct.thread.fsbase`; 0: not known.
    OFF_TASK_FSBASE / off_task_fsbase: u32 = 0;
    /// `task_struct.se.cfs_rq`; this and all below that are [`ABSENT`] are facts that this kernel lacks.
    OFF_TASK_CFS_RQ / off_task_cfs_rq: u32 = ABSENT;
    /// `task_struct.throttled` (6.18+: tasks are throttled one by one, on their way to user mode).
    OFF_TASK_THROTTLED / off_task_throttled: u32 = ABSENT;
    /// `cfs_rq.rq`
    OFF_CFS_RQ / off_cfs_rq: u32 = ABSENT;
    /// `cfs_rq.tg`
    OFF_CFS_TG / off_cfs_tg: u32 = ABSENT;
    /// `cfs_rq.throttle_count`
    OFF_CFS_COUNT / off_cfs_count: u32 = ABSENT;
    /// `cfs_rq.throttled_clock_self_time` (6.7+), `.throttled_clock_pelt_time` (5.19+) or
    /// `.throttled_clock_task_time`: how long the group was throttled on this CPU, until the last time ended.
    OFF_CFS_TIME / off_cfs_time: u32 = ABSENT;
    /// `cfs_rq.throttled_clock_self` (6.7+): since when it is throttled now, by `rq.clock`; 0: it is not, or
    /// nothing waits in it.
    OFF_CFS_SINCE / off_cfs_since: u32 = ABSENT;
    /// `cfs_rq.throttled_clock_pelt` (5.19+) or `.throttled_clock_task`: when the last time began (read
    /// until 6.17).
    OFF_CFS_BEGIN / off_cfs_begin: u32 = ABSENT;
    /// `rq.clock_pelt` or `.clock_task`: the clock of that …
    OFF_RQ_CLOCK_OF_BEGIN / off_rq_clock_of_begin: u32 = ABSENT;
    /// … less `rq.lost_idle_time`, of the former.
    OFF_RQ_LOST / off_rq_lost: u32 = ABSENT;
    /// `task_group.cfs_rq`
    OFF_TG_CFS_RQ / off_tg_cfs_rq: u32 = ABSENT;
    /// `rq.clock`
    OFF_RQ_CLOCK / off_rq_clock: u32 = ABSENT;
    /// `rq.clock_task`: that without interrupts and without what the hypervisor took, where the kernel
    /// accounts for them.
    OFF_RQ_CLOCK_TASK / off_rq_clock_task: u32 = ABSENT;
    /// `rq.prev_irq_time` (where the kernel accounts for interrupts)
    OFF_RQ_IRQ / off_rq_irq: u32 = ABSENT;
    /// 1: interrupts are observed by their tracepoints.
    COUNT_IRQS / count_irqs: u32 = 0;
    /// 1: the offsets from here to `OFF_EP_OVFLIST` are known.
    HAS_EPOLL_OFFSETS / has_epoll_offsets: u32 = 0;
    /// `task_struct.files`
    OFF_TASK_FILES / off_task_files: u32 = 0;
    /// `files_struct.fdt`
    OFF_FILES_FDT / off_files_fdt: u32 = 0;
    /// `fdtable.fd`
    OFF_FDT_FD / off_fdt_fd: u32 = 0;
    /// `file.private_data`
    OFF_FILE_PRIVATE / off_file_private: u32 = 0;
    /// `eppoll_entry.wait`
    OFF_EPPOLL_WAIT / off_eppoll_wait: u32 = 0;
    /// `eppoll_entry.base`
    OFF_EPPOLL_BASE / off_eppoll_base: u32 = 0;
    /// `epitem.ep`
    OFF_EPITEM_EP / off_epitem_ep: u32 = 0;
    /// `epitem.event.events`
    OFF_EPITEM_EVENTS / off_epitem_events: u32 = 0;
    /// `eventpoll.rdllist`
    OFF_EP_RDLLIST / off_ep_rdllist: u32 = 0;
    /// `eventpoll.ovflist`
    OFF_EP_OVFLIST / off_ep_ovflist: u32 = 0;
    /// 1: `sched_switch` passes `prev_state` as its fourth argument (5.18+).
    HAS_PREV_STATE / has_prev_state: u32 = 0;
    /// Runnable waits of at least this are sent one by one, ns.
    THRESHOLD_NS / threshold_ns: u64 = 1_000_000;
    /// 1: tell of every process that replaces its program.
    TELL_EXECS / tell_execs: u32 = 0;
    /// 1: send every transition.
    STREAM_ALL / stream_all: u32 = 0;
    /// Ring fill, bytes, past which user space is woken at once.
    WAKE_AT / wake_at: u64 = 1 << 20;
}

/// Which table of `TARGETS` is in use, and how it is looked into (`config::target_select`). Not a constant: user
/// space changes it when two of its targets would meet. Not zero, so that it is in `.data`, whose only member it
/// is.
#[unsafe(no_mangle)]
static mut TARGET_SELECT: u64 = 1;

/// `TARGET_SELECT` as it is now.
#[inline(always)]
pub(crate) fn target_select() -> u64 {
    // SAFETY: an aligned `u64`, which user space writes as a whole.
    unsafe { read_volatile(&raw const TARGET_SELECT) }
}
