//! Network readiness: when a socket in one of a target's epoll sets became ready, and how long nobody took it.
//! Must not know the scheduler, beyond the record of the thread that polls.
//!
//! `ep_poll_callback` runs wherever a socket of any epoll set of the host becomes ready, so a foreign set
//! costs two reads and a look-up. A set is learnt at the first poll of a target's that takes something from it.
//!
//! What is ready is told by the set's own list, and not by our memory: where the list is empty, nothing was
//! ready before. So what a goroutine took by reading at once (the set then drops it unharvested) is not
//! taken for something that still waits.

use aya_ebpf::{
    helpers::{
        bpf_get_current_pid_tgid, bpf_get_current_task, bpf_get_smp_processor_id, bpf_ktime_get_ns,
        bpf_probe_read_kernel,
    },
    macros::fentry,
    programs::FEntryContext,
};
use g211s_ebpf::{
    event::{EventKind, Header, SpanEvent, SpanWhat},
    hist::{HISTS, Hist},
};

use super::{sched::send_slices, target};
use crate::{
    globals,
    maps::{EPOLL_SETS, EpollSet, THREADS},
    send::send,
};

// include/uapi/linux/eventpoll.h
const EPOLLIN: u32 = 0x1;
const EPOLLERR: u32 = 0x8;
const EPOLLHUP: u32 = 0x10;
/// Not events but how they are to be told: `EP_PRIVATE_BITS` (fs/eventpoll.c).
const HOW: u32 = 0xf << 28;
/// `EP_UNACTIVE_PTR` (fs/eventpoll.c): in `ovflist` while nobody takes what is ready.
const NOBODY: u64 = u64::MAX;

/// A word of the kernel's memory.
#[inline(always)]
fn read<T>(base: u64, offset: u32) -> Option<T> {
    let at = base.wrapping_add(u64::from(offset)) as *const T;
    // SAFETY: a checked read; a wrong address is an error.
    unsafe { bpf_probe_read_kernel(at) }.ok()
}

/// `ep_poll_callback(wait, mode, sync, key)`
#[fentry(function = "ep_poll_callback")]
pub(crate) fn ep_poll_callback(ctx: FEntryContext) -> i32 {
    let wait = ctx.arg::<*const u8>(0) as u64;
    let happened = ctx.arg::<u64>(3) as u32;
    let _ = became_ready(wait, happened);
    0
}

#[inline(always)]
fn became_ready(wait: u64, happened: u32) -> Option<()> {
    let entry = wait.wrapping_sub(u64::from(globals::off_eppoll_wait()));
    let item: u64 = read(entry, globals::off_eppoll_base())?;
    let ep: u64 = read(item, globals::off_epitem_ep())?;
    // SAFETY: a live value; see `EpollSet` on races.
    let set = unsafe { &mut *EPOLL_SETS.get_ptr_mut(ep)? };
    // As the function itself decides what is of no account.
    let wanted: u32 = read(item, globals::off_epitem_events())?;
    if wanted & !HOW == 0 || (happened != 0 && happened & wanted == 0) {
        return None;
    }
    let list = ep.wrapping_add(u64::from(globals::off_ep_rdllist()));
    let empty = read::<u64>(list, 0)? == list;
    let taking = read::<u64>(ep, globals::off_ep_ovflist())? != NOBODY;
    // The runtime wakes its own poll through an eventfd (Go: runtime/netpoll_epoll.go, `netpollBreak`), which
    // unlike its sockets is level-triggered and read from alone: no network.
    let own = wanted == EPOLLIN | EPOLLERR | EPOLLHUP
        && target::of((bpf_get_current_pid_tgid() >> 32) as u32) == Some(set.target);
    // Whether a poll that is taking what is ready will take this as well, or leave it to the next, cannot be
    // told: it is not counted.
    if taking {
        return None;
    }
    if own {
        if empty {
            set.ready_ns = 0;
        }
        return None;
    }
    // SAFETY: a helper without preconditions.
    let now = unsafe { bpf_ktime_get_ns() };
    if empty || set.ready_ns == 0 {
        set.ready_ns = now;
    }
    let ts = target::state(set.target)?;
    ts.epoll_ready = 1;
    if ts.network_waits_ns == 0 {
        ts.network_waits_ns = now;
    }
    Some(())
}

/// A poll of the current thread, of a target, on descriptor `epfd` has returned `result`.
#[inline(always)]
pub(crate) fn harvested(epfd: u64, result: i64) {
    if globals::has_epoll_offsets() != 0 {
        let _ = harvest(epfd as u32, result);
    }
}

#[inline(always)]
fn harvest(epfd: u32, result: i64) -> Option<()> {
    let id = bpf_get_current_pid_tgid();
    let tid = id as u32;
    let index = target::of((id >> 32) as u32)?;
    let ts = target::state(index)?;
    let mut woken_ns = 0;
    if let Some(rec) = THREADS.get_ptr_mut(tid) {
        // SAFETY: a live value; only this thread, which is not asleep, has a use for the field.
        let rec = unsafe { &mut *rec };
        woken_ns = rec.epoll_woken_ns;
        rec.epoll_woken_ns = 0;
    }
    // An error proves nothing. A poll that found nothing while nothing was ready has nothing to forget.
    if result < 0 || (result == 0 && ts.epoll_ready == 0) {
        return None;
    }
    let ep = set_of(epfd)?;
    let Some(set) = EPOLL_SETS.get_ptr_mut(ep) else {
        if result > 0 && EPOLL_SETS.insert(ep, EpollSet::of(index), 0).is_ok() {
            ts.epoll_sets += 1;
        }
        return None;
    };
    // SAFETY: a live value; see `EpollSet` on races.
    let set = unsafe { &mut *set };
    let ready_ns = set.ready_ns;
    // What the poll did not return it has dropped, or it came too late for it.
    set.ready_ns = 0;
    // The kernel may have used a set's memory again for another's.
    set.target = index;
    ts.network_waits_ns = 0;
    // With several sets the other ones may still have something to forget.
    if ts.epoll_sets == 1 {
        ts.epoll_ready = 0;
    }
    if result == 0 || ready_ns == 0 {
        return None;
    }
    // SAFETY: helpers without preconditions.
    let (now, cpu) = unsafe { (bpf_ktime_get_ns(), bpf_get_smp_processor_id()) };
    let late = now.wrapping_sub(ready_ns);
    let hist = u64::from(index) * HISTS as u64 + Hist::ReadyHarvested as u64;
    target::observe_preemptibly(hist, late);
    if late < globals::threshold_ns() {
        return None;
    }
    // What the threads did meanwhile is theirs to tell, each at its next change.
    ts.evidence_until_ns = now;
    send_slices(now, cpu.into(), ready_ns);
    let header = Header {
        ts_ns: now,
        kind: EventKind::Span as u8,
        target: index as u8,
        cpu: cpu as u16,
        tid,
    };
    send(
        EventKind::Span,
        SpanEvent {
            header,
            what: SpanWhat::Harvest as u32,
            detail: result as i32,
            start_ns: ready_ns,
            middle_ns: woken_ns,
            id: 0,
        },
    );
    Some(())
}

/// The `struct eventpoll *` behind a descriptor of the current process.
#[inline(always)]
fn set_of(fd: u32) -> Option<u64> {
    // SAFETY: a helper without preconditions.
    let task = unsafe { bpf_get_current_task() };
    let files: u64 = read(task, globals::off_task_files())?;
    let table: u64 = read(files, globals::off_files_fdt())?;
    let array: u64 = read(table, globals::off_fdt_fd())?;
    let file: u64 = read(array.wrapping_add(u64::from(fd) * 8), 0)?;
    read(file, globals::off_file_private())
}
