//! GC cycles, put together from stops of the world: gctrace's facts without gctrace. Must not know
//! threads, CPUs or reports.
//!
//! A cycle begins at the entry of its sweep-termination stop; concurrent mark begins at that
//! stop's end (the runtime's `tMark`) and ends at the entry of the last mark-termination stop;
//! the cycle ends with that stop. `gcMarkDone` may stop the world, find work left and start it
//! again: such stops are counted as `retries` and their time is part of mark.

use serde::Serialize;

use super::{
    reason::StwReason,
    stw::{IncompleteStop, Outcome, Stop},
};

/// One whole GC cycle.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Cycle {
    /// Its number among the cycles of the run, from 1.
    pub n: u64,
    /// Entry of the sweep-termination stop, ns.
    pub start_ns: u64,
    /// From there to the end of mark termination, ns.
    pub duration_ns: u64,
    /// Sweep-termination stop (gctrace's first clock field), ns.
    pub sweep_term_ns: u64,
    /// Concurrent mark (gctrace's second), ns.
    pub mark_ns: u64,
    /// Mark-termination stop (gctrace's third), ns.
    pub mark_term_ns: u64,
    /// From the previous cycle's start, ns; `None` for the first or where that was not seen.
    pub interval_ns: Option<u64>,
    /// What triggered it: `heap`, `time`, `cycle` (`runtime.GC`), where seen.
    pub trigger: Option<&'static str>,
    /// Mark-termination stops that did not hold.
    pub retries: u32,
    /// Numbers of its two stops.
    pub stw: [u32; 2],
}

/// A cycle of which a part was not seen.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct IncompleteCycle {
    /// Its number among the cycles of the run, from 1.
    pub n: u64,
    /// Entry of the sweep-termination stop, ns, where seen.
    pub start_ns: Option<u64>,
    /// End of the mark-termination stop, ns, where seen.
    pub end_ns: Option<u64>,
    /// What was not seen.
    pub missing: Vec<&'static str>,
}

#[derive(Clone, Debug, Default)]
struct Draft {
    n: u64,
    /// Entry of sweep termination, its number, and its end.
    sweep: Option<(u64, u32, u64)>,
    retries: u32,
    trigger: Option<&'static str>,
    missing: Vec<&'static str>,
}

/// Puts the cycles of one target together.
#[derive(Clone, Debug, Default)]
pub struct GcTracker {
    /// `gcStart` hits (when, kind), ascending, not yet older than a cycle's beginning.
    starts: Vec<(u64, u32, u64)>,
    open: Option<Draft>,
    count: u64,
    last_start_ns: Option<u64>,
    last_stop: Option<u32>,
    /// Whole cycles.
    pub cycles: Vec<Cycle>,
    /// The others.
    pub incomplete: Vec<IncompleteCycle>,
}

impl GcTracker {
    /// `runtime.gcStart` was hit.
    pub fn gc_start(&mut self, ts_ns: u64, tid: u32, kind: u64) {
        // Goroutines race for one cycle: the one before a stop counts. What no stop takes is not
        // kept for ever.
        if self.starts.len() >= 4096 {
            self.starts.drain(..2048);
        }
        self.starts.push((ts_ns, tid, kind));
    }

    /// A stop has ended. Returns the number of the cycle it belongs to and whether it was a retry.
    pub fn stop(&mut self, outcome: &Outcome) -> (Option<u64>, bool) {
        let n = match outcome {
            Outcome::Complete(stop) => stop.n,
            Outcome::Incomplete(stop) => stop.n,
        };
        // Stops between this one and the last left no trace at all: they may have ended the open
        // cycle and begun another.
        let skipped = self.last_stop.replace(n).is_some_and(|last| n > last.saturating_add(1));
        if let Some(open) = self.open.as_mut().filter(|_| skipped) {
            open.missing.push("a stop of unknown reason");
        }
        match outcome {
            Outcome::Complete(stop) => match stop.reason() {
                Some(StwReason::GcSweepTermination) => {
                    self.begin(stop.start_ns, Some(stop.stopper_tid));
                    let open = self.open.get_or_insert_default();
                    open.sweep = Some((stop.start_ns, stop.n, stop.end_ns));
                    (Some(open.n), false)
                }
                Some(StwReason::GcMarkTermination) => self.mark_termination(stop),
                _ => (None, false),
            },
            Outcome::Incomplete(stop) => (self.part_of_stop(stop), false),
        }
    }

    /// A cycle begins at `start_ns`; what was open never ended.
    fn begin(&mut self, start_ns: u64, stopper_tid: Option<u32>) {
        self.close(Some("mark termination"), None);
        self.count += 1;
        let seen = self.starts.partition_point(|&(ts, ..)| ts <= start_ns);
        let starts = &self.starts[..seen];
        // The stopper's own is the winner's; a goroutine that came to another thread while it waited
        // for its turn leaves only the latest to go by.
        let own = starts.iter().rev().find(|&&(_, tid, _)| Some(tid) == stopper_tid);
        let trigger = own.or(starts.last()).and_then(|&(_, _, kind)| match kind {
            0 => Some("heap"),
            1 => Some("time"),
            2 => Some("cycle"),
            _ => None,
        });
        self.starts.drain(..seen);
        self.open = Some(Draft { n: self.count, trigger, ..Draft::default() });
    }

    fn mark_termination(&mut self, stop: &Stop) -> (Option<u64>, bool) {
        if self.open.is_none() {
            self.count += 1;
            self.open = Some(Draft { n: self.count, missing: vec!["start"], ..Draft::default() });
        }
        let Some(mut open) = self.open.take() else { return (None, false) };
        let n = open.n;
        if !stop.ends_cycle {
            open.retries += 1;
            self.open = Some(open);
            return (Some(n), true);
        }
        match open.sweep {
            Some((start_ns, sweep, mark_ns)) if open.missing.is_empty() => {
                self.cycles.push(Cycle {
                    n,
                    start_ns,
                    duration_ns: stop.end_ns.saturating_sub(start_ns),
                    sweep_term_ns: mark_ns.saturating_sub(start_ns),
                    mark_ns: stop.start_ns.saturating_sub(mark_ns),
                    mark_term_ns: stop.end_ns.saturating_sub(stop.start_ns),
                    interval_ns: self.last_start_ns.map(|last| start_ns.saturating_sub(last)),
                    trigger: open.trigger,
                    retries: open.retries,
                    stw: [sweep, stop.n],
                });
                self.last_start_ns = Some(start_ns);
            }
            _ => {
                self.open = Some(open);
                self.close(None, Some(stop.end_ns));
            }
        }
        (Some(n), false)
    }

    fn part_of_stop(&mut self, stop: &IncompleteStop) -> Option<u64> {
        let what = match stop.reason_id.map(StwReason::from_number) {
            Some(Some(StwReason::GcSweepTermination)) => {
                self.begin(stop.start_ns.unwrap_or(0), None);
                let open = self.open.get_or_insert_default();
                open.sweep = stop.start_ns.map(|ts| (ts, stop.n, ts));
                "sweep termination"
            }
            Some(Some(StwReason::GcMarkTermination)) => "mark termination",
            // Its reason was not seen: it may have been one of the cycle's.
            None => "a stop of unknown reason",
            Some(_) => return None,
        };
        let open = self.open.as_mut()?;
        open.missing.push(what);
        Some(open.n)
    }

    fn close(&mut self, missing: Option<&'static str>, end_ns: Option<u64>) {
        let Some(mut open) = self.open.take() else { return };
        open.missing.extend(missing.filter(|m| !open.missing.contains(m)));
        let start_ns = open.sweep.map(|(ts, ..)| ts);
        self.last_start_ns = start_ns;
        self.incomplete.push(IncompleteCycle {
            n: open.n,
            start_ns,
            end_ns,
            missing: open.missing,
        });
    }

    /// The stream has ended, or the target replaced its program.
    pub fn cut(&mut self) {
        self.close(Some("mark termination"), None);
        self.starts.clear();
        self.last_start_ns = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::stw::{EndEvidence, Marks};

    fn stop(n: u32, reason: StwReason, start_ns: u64, end_ns: u64, ends_cycle: bool) -> Outcome {
        Outcome::Complete(Stop {
            n,
            reason: reason as u64,
            stopper_tid: 7,
            start_ns,
            told_ns: None,
            stopped_at_ns: start_ns,
            end_ns,
            end_evidence: EndEvidence::StartNow,
            runtime_stopping_ns: None,
            runtime_total_ns: None,
            gave_up: Vec::new(),
            ends_cycle,
            marks: Marks::default(),
        })
    }

    use StwReason::{GcMarkTermination as Mark, GcSweepTermination as Sweep, ReadMemStats};

    #[test]
    fn a_cycle_with_a_retry_and_a_stop_of_another_kind_within() {
        let mut gc = GcTracker::default();
        gc.gc_start(90, 7, 0);
        gc.gc_start(95, 9, 1);
        assert_eq!(gc.stop(&stop(1, Sweep, 100, 120, false)), (Some(1), false));
        assert_eq!(gc.stop(&stop(2, ReadMemStats, 130, 140, false)), (None, false));
        assert_eq!(gc.stop(&stop(3, Mark, 150, 160, false)), (Some(1), true));
        assert_eq!(gc.stop(&stop(4, Mark, 200, 230, true)), (Some(1), false));
        gc.stop(&stop(5, Sweep, 300, 310, false));
        gc.stop(&stop(6, Mark, 400, 410, true));
        gc.cut();
        assert_eq!(gc.incomplete, []);
        let first = &gc.cycles[0];
        assert_eq!((first.start_ns, first.duration_ns, first.sweep_term_ns), (100, 130, 20));
        assert_eq!((first.mark_ns, first.mark_term_ns, first.retries), (80, 30, 1));
        assert_eq!((first.trigger, first.interval_ns, first.stw), (Some("heap"), None, [1, 4]));
        assert_eq!((gc.cycles[1].trigger, gc.cycles[1].interval_ns), (None, Some(200)));
    }

    #[test]
    fn cycles_at_the_edges_are_not_counted_as_whole() {
        let mut gc = GcTracker::default();
        gc.stop(&stop(1, Mark, 50, 60, true));
        gc.stop(&stop(2, Sweep, 100, 120, false));
        gc.cut();
        assert_eq!(gc.cycles, []);
        assert_eq!(gc.incomplete.len(), 2);
        assert_eq!(gc.incomplete[0].missing, ["start"]);
        assert_eq!((gc.incomplete[1].start_ns, gc.incomplete[1].end_ns), (Some(100), None));
        assert_eq!(gc.incomplete[1].missing, ["mark termination"]);
    }

    #[test]
    fn a_stop_that_is_not_whole_spoils_its_cycle_only() {
        let mut gc = GcTracker::default();
        gc.stop(&stop(1, Sweep, 100, 120, false));
        gc.stop(&Outcome::Incomplete(IncompleteStop {
            n: 2,
            reason_id: Some(1),
            start_ns: Some(150),
            stopped_at_ns: None,
            end_ns: None,
            runtime_total_ns: None,
            missing: vec!["end"],
            marks: Marks::default(),
        }));
        gc.stop(&stop(3, Sweep, 300, 310, false));
        gc.stop(&stop(4, Mark, 400, 410, true));
        assert_eq!(gc.incomplete.len(), 1);
        assert_eq!(gc.incomplete[0].missing, ["mark termination"]);
        assert_eq!((gc.cycles[0].n, gc.cycles[0].interval_ns), (2, Some(200)));
    }

    #[test]
    fn stops_that_left_no_trace_never_merge_two_cycles() {
        let mut gc = GcTracker::default();
        gc.stop(&stop(1, Sweep, 100, 120, false));
        // 2 (mark termination) and 3 (the next sweep termination) were lost.
        gc.stop(&stop(4, Mark, 400, 410, true));
        assert_eq!(gc.cycles, []);
        assert_eq!(gc.incomplete[0].missing, ["a stop of unknown reason"]);
    }
}
