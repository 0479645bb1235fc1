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
use crate::{
    globals::{self, ABSENT},
    maps::TargetState,
};

/// What a quota took of a wait.
#[derive(Clone, Copy, Default)]
pub(crate) struct Taken {
    pub(crate) ns: u32,
    /// How long after the thread joined the queue it began.
    pub(crate) after_ns: u32,
}

/// How a group's time off its CPU stands.
#[derive(Clone, Copy)]
struct Group {
    /// What is over, ns.
    time: u64,
    /// Since when it is off again, by the scheduler's clock; 0: it is not.
    since: u64,
}

#[inline(always)]
fn saturated(ns: u64) -> u32 {
    if ns > u32::MAX as u64 { u32::MAX } else { ns as u32 }
}

/// Whether this kernel counts at all.
#[inline(always)]
fn counts() -> bool {
    globals::off_cfs_time() != ABSENT
}

/// Whether the thread itself can be kept off now.
#[inline(always)]
fn may_be_off(task: Task) -> bool {
    let offset = globals::off_task_throttled();
    // SAFETY: see `read`.
    offset == ABSENT || unsafe { read::<u8>(task, offset) } != 0
}

#[inline(always)]
fn group_of(task: Task) -> *const u8 {
    // SAFETY: see `read`.
    unsafe { read(task, globals::off_task_cfs_rq()) }
}

/// The clock of its run queue by which the group's time is counted, as of the queue's last look at it: now, in
/// a switch.
#[inline(always)]
fn clock_of_time(group: *const u8) -> u64 {
    // SAFETY: see `read`.
    unsafe {
        let rq: *const u8 = read(group, globals::off_cfs_rq());
        read(rq, globals::off_rq_clock_of_time())
    }
}

/// The thread joins the queue of its present CPU, in a switch.
#[inline(always)]
pub(crate) fn joins(rec: &mut ThreadRecord, ts: &mut TargetState, task: Task, now: u64) {
    rec.off_ns = NOT_COUNTED;
    rec.throttled = 0;
    if !counts() || !may_be_off(task) {
        return;
    }
    let group = group_of(task);
    // SAFETY: see `read`.
    let (time, count) = unsafe {
        (read::<u64>(group, globals::off_cfs_time()), read::<u32>(group, globals::off_cfs_count()))
    };
    rec.off_ns = time;
    if count == 0 {
        return;
    }
    // SAFETY: see `read`.
    let since: u64 = unsafe { read(group, globals::off_cfs_since()) };
    let clock = clock_of_time(group);
    ts.clock_ahead = clock.wrapping_sub(now);
    enters(rec, Group { time, since }, clock);
}

/// What is over of the present time off is not the wait's.
#[inline(always)]
fn enters(rec: &mut ThreadRecord, group: Group, clock: u64) {
    rec.off_ns = group.time;
    if group.since != 0 && clock >= group.since {
        rec.off_ns = group.time + (clock - group.since);
        rec.throttled = 1;
    }
}

/// The thread joins the queue of `cpu`, out of a switch: the queue's clock may be old, so ours is used, by how
/// they differed when last compared.
#[inline(always)]
pub(crate) fn joins_other(
    rec: &mut ThreadRecord,
    ts: &TargetState,
    task: Task,
    cpu: u16,
    now: u64,
) {
    rec.off_ns = NOT_COUNTED;
    rec.throttled = 0;
    if !counts() || !may_be_off(task) {
        return;
    }
    // SAFETY: see `read`.
    let (groups, quota) = unsafe {
        let tg: *const u8 = read(group_of(task), globals::off_cfs_tg());
        (read::<u64>(tg, globals::off_tg_cfs_rq()), read::<u64>(tg, globals::off_tg_quota()))
    };
    // RUNTIME_INF: neither it nor a group above it has a quota.
    if quota == u64::MAX {
        return;
    }
    let Some(group) = probe::<u64>(groups, u32::from(cpu) * 8) else { return };
    let (Some(time), Some(count)) = (
        probe::<u64>(group, globals::off_cfs_time()),
        probe::<u32>(group, globals::off_cfs_count()),
    ) else {
        return;
    };
    rec.off_ns = time;
    if count == 0 {
        return;
    }
    let Some(since) = probe::<u64>(group, globals::off_cfs_since()) else { return };
    if ts.clock_ahead == 0 {
        rec.off_ns = NOT_COUNTED;
        return;
    }
    enters(rec, Group { time, since }, now.wrapping_add(ts.clock_ahead));
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
    if ns > waited {
        ns = waited;
    }
    let mut after = 0;
    if rec.throttled == 0 && globals::off_cfs_begin() != ABSENT {
        // It began while the thread waited: the kernel still knows when the last time did.
        // SAFETY: see `read`.
        let (began, clock) = unsafe {
            let rq: *const u8 = read(group, globals::off_cfs_rq());
            (
                read::<u64>(group, globals::off_cfs_begin()),
                read::<u64>(rq, globals::off_rq_clock_of_begin()),
            )
        };
        let ago = clock.wrapping_sub(began);
        if ago < waited {
            after = waited - ago;
        }
        if after > waited - ns {
            after = waited - ns;
        }
    }
    Taken { ns: saturated(ns), after_ns: saturated(after) }
}
