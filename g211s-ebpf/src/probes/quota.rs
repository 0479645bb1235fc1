//! CPU quotas (CFS bandwidth): for how much of its wait a thread was kept off its queue by one. To the
//! scheduler's tracepoints such a thread just waits; the kernel's own count, per group and CPU, tells.
//! Must not know events.
//!
//! Up to 6.17 a group whose quota ran out leaves its CPU as a whole, with all threads that run or wait in
//! it. Since 6.18 threads are taken off one by one, each as it is about to return to user mode, and
//! say so themselves (`task_struct.throttled`); a group's count goes on from its first such thread.

use aya_ebpf::helpers::bpf_probe_read_kernel;
use g211s_ebpf::config::{NOT_COUNTED, ThreadRecord};

use super::task::{Task, read};
use crate::globals::{self, ABSENT};

/// What a quota took of a wait.
#[derive(Clone, Copy, Default)]
pub(crate) struct Taken {
    pub(crate) ns: u32,
    /// How long after the thread joined the queue it began.
    pub(crate) after_ns: u32,
    /// 1: it is in several pieces, and that is where the first begins.
    pub(crate) again: u32,
}

/// Much less than a group is off at a time.
const SLACK_NS: u64 = 1_000_000;

// Values of `ThreadRecord::throttled`.
const NOT: u16 = 0;
/// The thread left its CPU because of it, just now.
const JUST_NOW: u16 = 1;
/// The thread came to a queue that had been off for some time.
const BEFORE: u16 = 2;

#[inline(always)]
fn saturated(ns: u64) -> u32 {
    if ns > u32::MAX as u64 { u32::MAX } else { ns as u32 }
}

/// Whether this kernel counts at all.
#[inline(always)]
fn counts() -> bool {
    globals::off_cfs_time() != ABSENT
}

/// Whether threads are kept off one by one.
#[inline(always)]
fn one_by_one() -> bool {
    globals::off_task_throttled() != ABSENT
}

#[inline(always)]
fn group_of(task: Task) -> *const u8 {
    // SAFETY: see `read`.
    unsafe { read(task, globals::off_task_cfs_rq()) }
}

/// The thread joins the queue of the CPU that it leaves, in a switch.
#[inline(always)]
pub(crate) fn joins(rec: &mut ThreadRecord, task: Task) {
    rec.off_ns = NOT_COUNTED;
    rec.throttled = NOT;
    if !counts() {
        return;
    }
    let group = group_of(task);
    if !one_by_one() {
        // SAFETY: see `read`.
        let count = unsafe {
            rec.off_ns = read(group, globals::off_cfs_time());
            read::<u32>(group, globals::off_cfs_count())
        };
        if count != 0 {
            rec.throttled = JUST_NOW;
        }
        return;
    }
    // SAFETY: see `read`.
    unsafe {
        if read::<u8>(task, globals::off_task_throttled()) == 0 {
            return;
        }
        // The group's time off may have begun with another of its threads. In a switch the clock is new.
        let time: u64 = read(group, globals::off_cfs_time());
        let since: u64 = read(group, globals::off_cfs_since());
        let rq: *const u8 = read(group, globals::off_cfs_rq());
        let clock: u64 = read(rq, globals::off_rq_clock());
        if since != 0 && clock >= since {
            rec.off_ns = time + (clock - since);
            rec.throttled = JUST_NOW;
        }
    }
}

/// The thread is woken and joins the queue of its present CPU. Where threads are kept off one by one none is
/// then: it runs first.
#[inline(always)]
pub(crate) fn joins_woken(rec: &mut ThreadRecord, task: Task) {
    rec.off_ns = NOT_COUNTED;
    rec.throttled = NOT;
    if !counts() || one_by_one() {
        return;
    }
    let group = group_of(task);
    // SAFETY: see `read`.
    unsafe {
        let count: u32 = read(group, globals::off_cfs_count());
        let idle = count != 0
            && globals::off_cfs_since() != ABSENT
            && read::<u64>(group, globals::off_cfs_since()) == 0;
        comes_to(rec, read(group, globals::off_cfs_time()), count, idle);
    }
}

/// The thread is moved to the queue of `cpu`; its own pointer to that is not set yet.
///
/// Whether a quota is in force at all is not asked first: `cfs_bandwidth.hierarchical_quota` would say so for
/// all groups above as well, but under cgroup2 it is -1 ("none") in every group until 6.5
/// (`kernel/sched/core.c`, `tg_cfs_schedulable_down`: the least of two signed numbers, one of which is -1).
#[inline(always)]
pub(crate) fn joins_other(rec: &mut ThreadRecord, task: Task, cpu: u16) {
    rec.off_ns = NOT_COUNTED;
    rec.throttled = NOT;
    if !counts() || one_by_one() {
        return;
    }
    // SAFETY: see `read`.
    let groups: u64 = unsafe {
        let tg: *const u8 = read(group_of(task), globals::off_cfs_tg());
        read(tg, globals::off_tg_cfs_rq())
    };
    let Some(group) = probe::<u64>(groups, u32::from(cpu) * 8) else { return };
    let (Some(time), Some(count)) = (
        probe::<u64>(group, globals::off_cfs_time()),
        probe::<u32>(group, globals::off_cfs_count()),
    ) else {
        return;
    };
    let idle = count != 0
        && globals::off_cfs_since() != ABSENT
        && probe::<u64>(group, globals::off_cfs_since()) == Some(0);
    comes_to(rec, time, count, idle);
}

/// `idle`: the group is off and nothing waits in it. Then it is not counted until something does.
#[inline(always)]
fn comes_to(rec: &mut ThreadRecord, time: u64, count: u32, idle: bool) {
    rec.off_ns = time;
    if count != 0 {
        rec.throttled = if idle { JUST_NOW } else { BEFORE };
    }
}

#[inline(always)]
fn probe<T>(object: u64, offset: u32) -> Option<T> {
    // SAFETY: a checked read of kernel memory.
    unsafe { bpf_probe_read_kernel((object + u64::from(offset)) as *const T) }.ok()
}

/// The thread leaves the queue of its present CPU: what a quota took of its time there. The thread's own
/// time off is over by now, so what is not does not count.
#[inline(always)]
pub(crate) fn leaves(rec: &ThreadRecord, task: Task, now: u64) -> Taken {
    if !counts() || rec.off_ns == NOT_COUNTED {
        return Taken::default();
    }
    let group = group_of(task);
    // SAFETY: see `read`.
    let time: u64 = unsafe { read(group, globals::off_cfs_time()) };
    if time <= rec.off_ns || now <= rec.queued_ns {
        return Taken::default();
    }
    let waited = now - rec.queued_ns;
    let mut ns = time - rec.off_ns;
    let (mut after, mut again) = (0, 0);
    if !one_by_one() {
        // The kernel still knows when the last time off began.
        let ago = began_ago(group);
        if rec.throttled == JUST_NOW {
            // The clocks are read a little apart.
            if ago + SLACK_NS < waited {
                again = 1;
            }
        } else if ago < waited {
            // While the thread waited: whatever was before that, no more than this is certain.
            after = waited - ago;
            if ns > ago {
                ns = ago;
            }
        } else if ago > ns {
            // Before: it ended this long ago.
            let since = ago - ns;
            ns = if since < waited { waited - since } else { 0 };
        }
    }
    if ns > waited - after {
        ns = waited - after;
    }
    Taken { ns: saturated(ns), after_ns: saturated(after), again }
}

/// How long ago the group's last time off began, ns. Not scaled by the CPU's frequency where the clock is not
/// (in a virtual machine, most often).
#[inline(always)]
fn began_ago(group: *const u8) -> u64 {
    // SAFETY: see `read`.
    unsafe {
        let rq: *const u8 = read(group, globals::off_cfs_rq());
        let mut clock: u64 = read(rq, globals::off_rq_clock_of_begin());
        if globals::off_rq_lost() != ABSENT {
            clock = clock.wrapping_sub(read::<u64>(rq, globals::off_rq_lost()));
        }
        clock.wrapping_sub(read(group, globals::off_cfs_begin()))
    }
}
