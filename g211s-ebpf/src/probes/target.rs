//! What the programs share about targets: the filter, the per-target state, counters, histograms.

use g211s_ebpf::{
    config::{TargetConfig, target_slot},
    counters::TargetCounters,
    hist::{BUCKETS, HISTS, Hist, HistData, bucket_of},
};

use crate::{
    globals,
    maps::{CONFIGS, COUNTERS, HISTOGRAMS, STATES, TARGETS, TargetState},
    send::add,
};

/// Index of the target that this process is, if it is one. The first thing every program asks.
#[inline(always)]
pub(crate) fn of(tgid: u32) -> Option<u32> {
    let slot = TARGETS.get_ptr(target_slot(tgid, globals::target_select()))?;
    // SAFETY: an aligned value of an array map. User space replaces it as a whole while we run.
    let entry = unsafe { core::ptr::read_volatile(slot) };
    if entry >> 32 == u64::from(tgid) { (entry as u32).checked_sub(1) } else { None }
}

/// How a target's probes are to be read.
#[inline(always)]
pub(crate) fn config(index: u32) -> Option<&'static TargetConfig> {
    // SAFETY: a value of an array map, written before the target is let in.
    CONFIGS.get_ptr(index).map(|p| unsafe { &*p })
}

/// The runtime's state of a target.
#[inline(always)]
pub(crate) fn state(index: u32) -> Option<&'static mut TargetState> {
    // SAFETY: a value of an array map lives as long as the program; see `TargetState` on races.
    STATES.get_ptr_mut(index).map(|p| unsafe { &mut *p })
}

/// This CPU's counters of a target.
#[inline(always)]
pub(crate) fn counters(index: u32) -> Option<&'static mut TargetCounters> {
    // SAFETY: this CPU's own entry; programs do not nest on a CPU.
    COUNTERS.get_ptr_mut(index).map(|p| unsafe { &mut *p })
}

/// Adds a value to one of a target's histograms on this CPU.
#[inline(always)]
pub(crate) fn observe(index: u32, hist: Hist, ns: u64) {
    add_to_histogram(u64::from(index) * HISTS as u64 + hist as u64, ns);
}

/// A global function in BPF's sense, see `sched::send_slices`: the branches of the bucket's choice are
/// walked once, and not for every path on which each caller comes to each of its calls. The result says
/// nothing.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn add_to_histogram(which: u64, ns: u64) -> u64 {
    let Some(h) = HISTOGRAMS.get_ptr_mut(which as u32) else { return 0 };
    // SAFETY: this CPU's own entry; programs do not nest on a CPU.
    let h: &mut HistData = unsafe { &mut *h };
    h.count += 1;
    h.sum += ns;
    if ns > h.max {
        h.max = ns;
    }
    let bucket = bucket_of(ns);
    // The verifier wants to see the bound itself.
    if bucket < BUCKETS {
        h.buckets[bucket] += 1;
    }
    0
}

/// The same from a program that others of its kind can preempt.
#[unsafe(no_mangle)]
#[inline(never)]
pub(crate) extern "C" fn observe_preemptibly(which: u64, ns: u64) -> u64 {
    let Some(h) = HISTOGRAMS.get_ptr_mut(which as u32) else { return 0 };
    // SAFETY: this CPU's own entry; who else writes to it does so atomically.
    let h: &mut HistData = unsafe { &mut *h };
    add(&mut h.count, 1);
    add(&mut h.sum, ns);
    if ns > h.max {
        h.max = ns;
    }
    let bucket = bucket_of(ns);
    if bucket < BUCKETS {
        add(&mut h.buckets[bucket], 1);
    }
    0
}
