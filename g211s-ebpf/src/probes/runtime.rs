//! The Go runtime: edges of stops and GC cycles, and the allocator's slow path. One program serves
//! every edge; the attach cookie is the `Site`.

use aya_ebpf::{
    EbpfContext as _,
    helpers::{
        bpf_get_attach_cookie, bpf_get_current_pid_tgid, bpf_get_smp_processor_id, bpf_ktime_get_ns,
    },
    macros::uprobe,
    programs::ProbeContext,
};
use aya_log_ebpf::debug;
use g211s_ebpf::{
    config::TargetConfig,
    event::{EventKind, Header, ProbeEvent, SITES, Site},
};

use super::target;
use crate::{
    maps::TargetState,
    send::{add, send},
};

// Offsets in the x86-64 `struct pt_regs` of the first five integer registers of Go's ABI
// (Go: cmd/compile/abi-internal.md). Fixed, since the verifier refuses `ctx + variable`.
pub(super) const AX: usize = 10 * 8;
pub(super) const BX: usize = 5 * 8;
const CX: usize = 11 * 8;
const SI: usize = 13 * 8;
const DI: usize = 14 * 8;
/// The stack pointer.
pub(super) const SP: usize = 19 * 8;

/// `stwGCMarkTerm` (Go runtime/proc.go, 1.21 to 1.27).
const REASON_MARK_TERMINATION: u32 = 1;

#[inline(always)]
pub(super) fn reg<const OFFSET: usize>(ctx: &ProbeContext) -> u64 {
    // SAFETY: the context of a uprobe is the hit's `struct pt_regs`.
    unsafe { core::ptr::read_volatile(ctx.as_ptr().cast::<u8>().add(OFFSET).cast()) }
}

/// Edges of stops and cycles: streamed.
#[uprobe]
pub(crate) fn go_edge(ctx: ProbeContext) -> u32 {
    let id = bpf_get_current_pid_tgid();
    let Some(index) = target::of((id >> 32) as u32) else { return 0 };
    // SAFETY: helpers without preconditions.
    let (now, cpu, site) = unsafe {
        (bpf_ktime_get_ns(), bpf_get_smp_processor_id(), bpf_get_attach_cookie(ctx.as_ptr()))
    };
    let (Some(ts), Some(t)) = (target::state(index), target::config(index)) else { return 0 };
    let args =
        [reg::<AX>(&ctx), reg::<BX>(&ctx), reg::<CX>(&ctx), reg::<DI>(&ctx), reg::<SI>(&ctx)];
    let begins = site == Site::StwStop as u64;
    if begins {
        ts.stw += 1;
        ts.window += 1;
        ts.stopper = id as u32;
        ts.stw_start_ns = now;
        ts.open = 1;
        ts.reason = (args[0] & 0xff) as u32;
        let sweep_term = args[0] & 0xff == u64::from(t.reason_sweep_term);
        if sweep_term {
            ts.in_gc = 1;
            ts.gc_start_ns = now;
        }
        if let Some(c) = target::counters(index) {
            add(&mut c.stw, 1);
            add(&mut c.gc, u64::from(sweep_term));
        }
    }
    count(index, site);
    let stw = ts.stw;
    debug!(&ctx, "site {} stw {} ax {}", site, stw, args[0]);
    send(
        EventKind::Probe,
        ProbeEvent {
            header: Header {
                ts_ns: now,
                kind: EventKind::Probe as u8,
                target: index as u8,
                cpu: cpu as u16,
                tid: id as u32,
            },
            site: site as u32,
            stw,
            args,
        },
    );
    if !begins {
        after(site, t, now, ts);
    }
    0
}

#[inline(always)]
fn after(site: u64, target: &TargetConfig, now: u64, ts: &mut TargetState) {
    if site == Site::GcMarkTermination as u64 {
        ts.terminating = 1;
    }
    if site == u64::from(target.close_site) && ts.open != 0 {
        ts.open = 0;
        ts.evidence_until_ns = now;
        let last = ts.terminating != 0
            || (target.has_mark_termination == 0 && ts.reason == REASON_MARK_TERMINATION);
        if last {
            ts.terminating = 0;
            ts.in_gc = 0;
            ts.last_gc_end_ns = now;
        }
    }
}

const _: () = assert!(SITES == 32, "see the mask in `count`");

#[inline(always)]
pub(super) fn count(index: u32, site: u64) {
    let mut at = site;
    // SAFETY: changes one register. A bound that a comparison gave would do, but 5.15's verifier forgets
    // it where the compiler keeps `site` on the stack; this the compiler cannot leave out.
    unsafe { core::arch::asm!("{at} &= 31", at = inout(reg) at) };
    if let Some(c) = target::counters(index)
        && site < SITES as u64
    {
        // SAFETY: masked to less than `SITES`.
        add(unsafe { &mut *c.hits.as_mut_ptr().add(at as usize) }, 1);
    }
}

/// Whose hit this is. While g211s measures what one costs it is its own, and counts for nobody yet.
#[inline(always)]
pub(super) fn whose(id: u64, calibrates: bool) -> Option<u32> {
    if calibrates { Some(0) } else { target::of((id >> 32) as u32) }
}

/// The allocator's slow path: counted, never streamed.
#[uprobe]
pub(crate) fn go_count(ctx: ProbeContext) -> u32 {
    let id = bpf_get_current_pid_tgid();
    // SAFETY: a helper without preconditions.
    let site = unsafe { bpf_get_attach_cookie(ctx.as_ptr()) };
    let Some(index) = whose(id, site == Site::Calibrate as u64) else { return 0 };
    count(index, site);
    if site == Site::McacheAllocLarge as u64
        && let Some(c) = target::counters(index)
    {
        add(&mut c.large_bytes, reg::<BX>(&ctx));
    }
    0
}
