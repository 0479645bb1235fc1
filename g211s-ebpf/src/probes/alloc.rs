//! The allocator's slow path with the stack that led there, and (on request, for moments) every allocation,
//! summed by stack. Must not know what an object is, nor how long it lives.

use aya_ebpf::{
    EbpfContext as _,
    bindings::BPF_F_USER_STACK,
    helpers::{
        bpf_get_attach_cookie, bpf_get_current_pid_tgid, bpf_get_smp_processor_id,
        bpf_ktime_get_ns, bpf_probe_read_user, generated::bpf_get_stack,
    },
    macros::uprobe,
    programs::ProbeContext,
};
use g211s_ebpf::event::{ALLOC_DEPTH, AllocEvent, AllocSum, EventKind, Header, SPAN_BYTES, Site};

use super::{
    runtime::{AX, BX, SP, count, reg, whose},
    target,
};
use crate::{
    maps::{ALLOC_OVERFLOW, ALLOC_STACKS, EVENTS},
    send::{add, loss, notify},
};

/// The span in a P's cache: `mcache.alloc[spanclass]`.
#[inline(always)]
fn cached_span(index: u32, cache: u64, class: u64) -> u64 {
    let Some(t) = target::config(index) else { return 0 };
    if t.mcache_alloc == 0 {
        return 0;
    }
    let at = cache.wrapping_add(u64::from(t.mcache_alloc)).wrapping_add(class * 8);
    // SAFETY: a checked read of user memory, which faults no page in.
    unsafe { bpf_probe_read_user(at as *const u64) }.unwrap_or(0)
}

/// A sample of allocations: streamed. At [`Site::Calibrate`] it does all the work and sends nothing.
#[uprobe]
pub(crate) fn go_alloc(ctx: ProbeContext) -> u32 {
    let id = bpf_get_current_pid_tgid();
    // SAFETY: a helper without preconditions.
    let site = unsafe { bpf_get_attach_cookie(ctx.as_ptr()) };
    let calibrates = site == Site::Calibrate as u64;
    let Some(index) = whose(id, calibrates) else { return 0 };
    count(index, site);
    let at_entry = site == Site::AllocNextFree as u64;
    let (cache, class, span) = if at_entry {
        let (cache, class) = (reg::<AX>(&ctx), reg::<BX>(&ctx) & 0xff);
        (cache, class, cached_span(index, cache, class))
    } else {
        (0, 0, reg::<AX>(&ctx))
    };
    let Some(loss) = loss() else { return 0 };
    if !calibrates {
        add(&mut loss.produced[EventKind::Alloc as usize], 1);
    }
    let Some(mut slot) = EVENTS.reserve::<AllocEvent>(0) else {
        add(&mut loss.lost[EventKind::Alloc as usize], 1);
        return 0;
    };
    fill(slot.as_mut_ptr(), &ctx, id, index, site);
    // SAFETY: `fill` has set all of it; a checked read of user memory.
    unsafe {
        let e = slot.as_mut_ptr();
        (*e).span = span;
        (*e).cache = cache;
        (*e).class = class;
        if let Ok(bytes) = bpf_probe_read_user(span as *const [u64; SPAN_BYTES / 8]) {
            (*e).span_bytes.as_mut_ptr().cast::<[u64; SPAN_BYTES / 8]>().write_unaligned(bytes);
        }
        if at_entry {
            (*e).return_to = bpf_probe_read_user(reg::<SP>(&ctx) as *const u64).unwrap_or(0);
        }
    }
    if calibrates {
        slot.discard(0);
    } else {
        slot.submit(notify(size_of::<AllocEvent>()));
    }
    0
}

/// Callers by which stacks are told apart where every allocation is counted: what the program's own stack has room for.
const TOLD: usize = 40;

/// Every allocation: summed by stack; a stack that is new is sent. (A record of the ring that is thrown away takes its room
/// until user space comes by, so only then is one reserved.)
#[uprobe]
pub(crate) fn go_alloc_exact(ctx: ProbeContext) -> u32 {
    const BPF_NOEXIST: u64 = 1;
    let id = bpf_get_current_pid_tgid();
    // SAFETY: a helper without preconditions.
    let site = unsafe { bpf_get_attach_cookie(ctx.as_ptr()) };
    let calibrates = site == Site::Calibrate as u64;
    let Some(index) = whose(id, calibrates) else { return 0 };
    count(index, site);
    let bytes = reg::<AX>(&ctx);
    // Takes nothing from the heap: `zerobase`.
    if bytes == 0 {
        return 0;
    }
    // SAFETY: a checked read of user memory.
    let return_to = unsafe { bpf_probe_read_user(reg::<SP>(&ctx) as *const u64) }.unwrap_or(0);
    let key = stack_key(&ctx, return_to, index);
    if let Some(sum) = ALLOC_STACKS.get_ptr_mut(key) {
        // SAFETY: a value of a preallocated map, of which nothing is removed while targets are watched.
        let sum = unsafe { &mut *sum };
        add(&mut sum.objects, 1);
        add(&mut sum.bytes, bytes);
        return 0;
    }
    if ALLOC_STACKS.insert(key, AllocSum { objects: 1, bytes }, BPF_NOEXIST).is_err() {
        // Another CPU was first, or there is no room.
        let sum = ALLOC_STACKS.get_ptr_mut(key).or_else(|| ALLOC_OVERFLOW.get_ptr_mut(0));
        if let Some(sum) = sum {
            // SAFETY: as above; an array's value stays as well.
            let sum = unsafe { &mut *sum };
            add(&mut sum.objects, 1);
            add(&mut sum.bytes, bytes);
        }
        return 0;
    }
    if calibrates {
        return 0;
    }
    let Some(loss) = loss() else { return 0 };
    add(&mut loss.produced[EventKind::Alloc as usize], 1);
    let Some(mut slot) = EVENTS.reserve::<AllocEvent>(0) else {
        add(&mut loss.lost[EventKind::Alloc as usize], 1);
        return 0;
    };
    fill(slot.as_mut_ptr(), &ctx, id, index, site);
    // SAFETY: `fill` has set all of it.
    unsafe {
        let e = slot.as_mut_ptr();
        (*e).return_to = return_to;
        (*e).span = key;
    }
    slot.submit(notify(size_of::<AllocEvent>()));
    0
}

/// A number for the current stack.
#[inline(always)]
fn stack_key(ctx: &ProbeContext, return_to: u64, index: u32) -> u64 {
    let mut addresses = [0_u64; TOLD];
    let (at, size) = (addresses.as_mut_ptr().cast::<core::ffi::c_void>(), (TOLD * 8) as u32);
    // SAFETY: room for `size` bytes; the helper writes no more.
    let written = unsafe { bpf_get_stack(ctx.as_ptr(), at, size, u64::from(BPF_F_USER_STACK)) };
    let depth = if written < 0 { 0 } else { written as usize / 8 };
    let mut key = mix(return_to, u64::from(index));
    let mut i = 0;
    while i < TOLD {
        if i >= depth {
            break;
        }
        key = mix(addresses[i], key);
        i += 1;
    }
    key
}

/// Sets all of an event, with the stack of the hit.
#[inline(always)]
fn fill(event: *mut AllocEvent, ctx: &ProbeContext, id: u64, index: u32, site: u64) {
    const BYTES: u32 = (ALLOC_DEPTH * 8) as u32;
    // SAFETY: room in the ring for one event. The helpers have no other preconditions; the last one writes at most
    // `BYTES` bytes, and the rest is zeroed by it only on failure, so that is done here.
    unsafe {
        let (now, cpu) = (bpf_ktime_get_ns(), bpf_get_smp_processor_id());
        (*event).header = Header {
            ts_ns: now,
            kind: EventKind::Alloc as u8,
            target: index as u8,
            cpu: cpu as u16,
            tid: id as u32,
        };
        (*event).site = site as u32;
        (*event).span = 0;
        (*event).cache = 0;
        (*event).class = 0;
        (*event).return_to = 0;
        (*event)
            .span_bytes
            .as_mut_ptr()
            .cast::<[u64; SPAN_BYTES / 8]>()
            .write_unaligned([0; SPAN_BYTES / 8]);
        let addresses = (&raw mut (*event).addresses).cast::<core::ffi::c_void>();
        let written = bpf_get_stack(ctx.as_ptr(), addresses, BYTES, u64::from(BPF_F_USER_STACK));
        let depth = if written < 0 { 0 } else { (written as usize / 8).min(ALLOC_DEPTH) };
        (*event).depth = depth as u32;
    }
}

/// Two words into one that tells them from others (the finaliser of MurmurHash3, 64 bits).
#[inline(always)]
fn mix(value: u64, with: u64) -> u64 {
    let mut h = with.rotate_left(5) ^ value;
    h = (h ^ (h >> 33)).wrapping_mul(0xff51_afd7_ed55_8ccd);
    h ^ (h >> 29)
}
