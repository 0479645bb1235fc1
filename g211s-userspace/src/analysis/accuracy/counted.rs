//! One stop as the runtime counts it: when it does, and as how long. Must not know samples.
//!
//! From Go 1.22 on (`runtime/proc.go`) `stopTheWorldWithSema` records `finish - start`, both after
//! its wait for `sched.lock`, and `startTheWorldWithSema` records `now - start` once the Ps run again;
//! our probe sits on that very call and reads the value. In 1.21 (`runtime/mgc.go`) the collector
//! itself records its stops in `memstats.gcPauseDist`: from just before it calls
//! `stopTheWorldWithSema` to `work.tMark` or `work.tEnd`.
//!
//! `memstats.pause_total_ns` and `numgc` (every version) rise in `gcMarkTermination`, between its
//! entry and that of `finishGCTransition`; `work.pauseNS` rises after each stop of a cycle.

use crate::model::{
    reason::StwReason,
    stw::{EndEvidence, IncompleteStop, Marks, Stop},
};

/// Between a probe on an instruction and the counting that follows it lie a dozen instructions; only
/// the loss of its CPU delays a thread there.
const AFTER_HIT_NS: u64 = 1_000_000;
/// Between the entry of `startTheWorldWithSema` and its end Ms are woken or made.
const STARTING_NS: u64 = 10_000_000;
/// What a probe's hit takes at most until our clock is read, if its thread keeps its CPU: a trap into
/// the kernel. 0.5 to 4 µs for most; 4.6 µs in the mean, up to 8 µs, at the cold caches of a
/// collection on a loaded virtual machine (Go 1.21.13, 438 stops).
const HIT_NS: u64 = 16_000;

/// What the runtime counted of a stop.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tally {
    /// When: not before, not after, ns.
    pub at: (u64, u64),
    /// As how long: at least, at most, ns. Equal where we have the runtime's own value.
    pub ns: (u64, u64),
}

/// One stop of ours.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counted {
    /// Whether it is of a collection; `None`: not seen.
    pub gc: Option<bool>,
    /// Its length as we report it; `None`: under way at attach.
    pub ours_ns: Option<u64>,
    /// The whole stop, in the histogram of totals (1.21: `gcPauseDist`).
    pub total: Option<Tally>,
    /// Its stopping, in that histogram.
    pub stopping: Option<Tally>,
    /// The whole stop, in `pause_total_ns` or the open cycle's.
    pub pause: Option<Tally>,
    /// When it raised `numgc`, if it did.
    pub cycle: Option<(u64, u64)>,
    /// Some of its hits were lost, so it may be counted by the runtime and is not by us.
    pub damaged: bool,
}

impl Counted {
    /// A whole stop, of Go 1.`minor`.
    pub fn of_stop(stop: &Stop, minor: Option<u32>) -> Self {
        let gc = stop.reason().map(StwReason::is_gc);
        let ours = stop.end_ns.saturating_sub(stop.start_ns);
        let total_ns = match stop.runtime_total_ns {
            Some(ns) => (ns, ns),
            // The runtime's clock is read before our probe is hit, and it ends where we do …
            None if stop.end_evidence != EndEvidence::StartEntry => (ours, ours + HIT_NS),
            // … or at some time after.
            None => (ours, u64::MAX),
        };
        let stopping_ns = stop.runtime_stopping_ns.map(|ns| (ns, ns)).or_else(|| {
            // 1.22: our hit comes after the runtime's `finish`.
            let most = stop.stopped_at_ns.saturating_sub(stop.told_ns?);
            Some((most.saturating_sub(HIT_NS), most))
        });
        let parts = Parts { minor, gc, ends_cycle: stop.ends_cycle, total_ns, stopping_ns };
        Self { ours_ns: Some(ours), ..parts.counted(&stop.marks, stop.stopped_at_ns) }
    }

    /// A stop of which a part was not seen. `last`: no stop of a higher number was.
    pub fn of_part(part: &IncompleteStop, minor: Option<u32>, last: bool) -> Self {
        let m = &part.marks;
        let at_start = part.n == 0 && m.start_world_ns.is_some();
        let at_end = last && m.start_world_ns.is_none();
        let reason = part.reason_id.and_then(StwReason::from_number);
        let gc = reason.map(StwReason::is_gc).or(m.transition_ns.map(|_| true));
        // In a mark termination the transition ends before the world is started.
        let ends_cycle = gc == Some(true)
            && m.transition_ns.is_some_and(|t| m.start_world_ns.is_none_or(|s| t < s));
        let stopping_ns = m.told_ns.zip(m.finished_ns).map(|(told, fin)| fin - told);
        let total_ns = part.runtime_total_ns.map_or((0, u64::MAX), |ns| (ns, ns));
        let parts =
            Parts { minor, gc, ends_cycle, total_ns, stopping_ns: stopping_ns.map(|ns| (ns, ns)) };
        let mut counted = parts.counted(m, part.stopped_at_ns.unwrap_or(0));
        let sweep = reason == Some(StwReason::GcSweepTermination);
        if at_start && !ends_cycle && gc != Some(false) && !sweep {
            // It may have ended a cycle: then it was counted at some time before it ended.
            counted.cycle = m.start_world_ns.map(|to| (0, to));
            counted.pause = counted.pause.map(|t| Tally { at: (0, t.at.1), ..t });
        }
        counted.damaged = !at_start && !at_end;
        counted
    }
}

struct Parts {
    minor: Option<u32>,
    gc: Option<bool>,
    ends_cycle: bool,
    total_ns: (u64, u64),
    stopping_ns: Option<(u64, u64)>,
}

impl Parts {
    fn counted(&self, m: &Marks, stopped_ns: u64) -> Counted {
        let old = self.minor.is_some_and(|minor| minor <= 21);
        // Between these two hits `gcMarkTermination` counts the cycle.
        let to = m.transition_ns.or(m.start_world_ns).filter(|_| self.ends_cycle);
        let ending = to.map(|to| (m.mark_termination_ns.unwrap_or(stopped_ns), to));
        // After this the world has been started, and the stop is over for the runtime.
        let over = m.record_ns.or(m.start_world_ns).map(|from| {
            let most = match m.record_ns {
                Some(hit) => hit.saturating_add(AFTER_HIT_NS),
                None => from.saturating_add(STARTING_NS),
            };
            // A sweep termination's transition comes after both counters.
            let transition = m.transition_ns.filter(|t| !self.ends_cycle && *t >= from);
            (from, transition.unwrap_or(most))
        });
        let tally = |at: Option<(u64, u64)>| at.map(|at| Tally { at, ns: self.total_ns });
        let in_cycle = if self.ends_cycle { ending } else { over };
        Counted {
            gc: self.gc,
            ours_ns: None,
            total: tally(if old { in_cycle } else { over })
                .filter(|_| !old || self.gc != Some(false)),
            stopping: self.stopping_ns.zip(m.told_ns).zip(m.start_world_ns).map(
                |((ns, told), started)| Tally { at: (m.finished_ns.unwrap_or(told), started), ns },
            ),
            pause: tally(in_cycle).filter(|_| self.gc != Some(false)),
            cycle: ending,
            damaged: false,
        }
    }
}
