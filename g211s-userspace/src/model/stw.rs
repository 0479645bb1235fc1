//! Stops of the world, put together from probe hits. Must not know threads, CPUs or reports.
//!
//! A stop's boundaries (Go `runtime/proc.go`, `stopTheWorldWithSema` and `startTheWorldWithSema`):
//!
//! ```text
//! StwStop hit      startedStopping        finishedStopping             now
//! |-- sched.lock --|------ Ps give up ----|-- the stop's own work ----|
//! |<-------------- stopping ------------->|<-------- stopped -------->|
//! start_ns         told_ns            stopped_at_ns                 end_ns
//! ```
//!
//! The runtime's own figures begin at `startedStopping`; ours begin at the call, because waiting
//! for `sched.lock` delays the caller as well.
//!
//! Every hit carries the stop's number, counted by the kernel side, so a lost hit leaves a hole in
//! one stop and can never pair one stop's beginning with another's end. Stops leave in order of
//! their numbers.

use std::collections::BTreeMap;

use g211s_ebpf::event::{ProbeEvent, Site};
use serde::Serialize;

use super::reason::StwReason;

/// What tells the end of a stop.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum EndEvidence {
    /// `now` given to `startTheWorldWithSema`: the runtime's own end.
    StartNow,
    /// `startedStopping` + the total that the runtime recorded: its own end.
    RuntimeTotal,
    /// `now` given to `finishGCTransition`: the runtime's own end of a GC stop.
    GcTransition,
    /// Entry of `startTheWorldWithSema`: the world starts a few µs after it.
    StartEntry,
}

/// What lies around the moments at which the runtime counts a stop, as far as seen, ns.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Marks {
    /// The runtime's `startedStopping` and `finishedStopping`.
    pub told_ns: Option<u64>,
    /// See `told_ns`.
    pub finished_ns: Option<u64>,
    /// Entry of `gcMarkTermination`.
    pub mark_termination_ns: Option<u64>,
    /// Entry of `finishGCTransition`.
    pub transition_ns: Option<u64>,
    /// Entry of `startTheWorldWithSema`.
    pub start_world_ns: Option<u64>,
    /// The call that records the total.
    pub record_ns: Option<u64>,
}

/// A stop whose boundaries are all known.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stop {
    /// Its number on this target, from 1.
    pub n: u32,
    /// `stwReason` as a number.
    pub reason: u64,
    /// The thread that stopped the world.
    pub stopper_tid: u32,
    /// Entry of `stopTheWorldWithSema`, ns.
    pub start_ns: u64,
    /// The runtime's `startedStopping`, where known: before it no thread was told to stop, ns.
    pub told_ns: Option<u64>,
    /// The world is stopped from here, ns.
    pub stopped_at_ns: u64,
    /// The stop's end, ns.
    pub end_ns: u64,
    /// What tells the end.
    pub end_evidence: EndEvidence,
    /// The runtime's own stopping time, ns.
    pub runtime_stopping_ns: Option<u64>,
    /// The runtime's own total, ns.
    pub runtime_total_ns: Option<u64>,
    /// (when, tid) of threads that gave their P up through `gcstopm` while the world was stopping,
    /// in time order.
    pub gave_up: Vec<(u64, u32)>,
    /// The last stop of a GC cycle (a mark termination that held).
    pub ends_cycle: bool,
    /// When the runtime counted it.
    pub marks: Marks,
}

impl Stop {
    /// The thread that held the stop up: the last that gave its P up, and when.
    pub fn laggard(&self) -> Option<(u64, u32)> {
        self.gave_up.iter().rev().copied().find(|(_, tid)| *tid != self.stopper_tid)
    }

    /// The reason, where the number is known.
    pub fn reason(&self) -> Option<StwReason> {
        StwReason::from_number(self.reason)
    }
}

/// A stop of which a part was not seen.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct IncompleteStop {
    /// Its number on this target; 0 if it was under way at attach.
    pub n: u32,
    /// The reason's number, where seen.
    pub reason_id: Option<u64>,
    /// Entry of `stopTheWorldWithSema`, ns, where seen.
    pub start_ns: Option<u64>,
    /// When the world was stopped, ns, where known.
    pub stopped_at_ns: Option<u64>,
    /// When it ended, ns, where known.
    pub end_ns: Option<u64>,
    /// The runtime's own total, ns, where seen.
    pub runtime_total_ns: Option<u64>,
    /// What was not seen: `start`, `stopped`, `end`.
    pub missing: Vec<&'static str>,
    /// When the runtime counted it.
    #[serde(skip)]
    pub marks: Marks,
}

/// A stop that has left the tracker.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Whole.
    Complete(Stop),
    /// In part.
    Incomplete(IncompleteStop),
}

#[derive(Clone, Debug, Default)]
struct Draft {
    entry: Option<(u64, u32, u64)>,
    stopped_ns: Option<u64>,
    start: Option<(u64, [u64; 5])>,
    runtime_total: Option<(u64, u64)>,
    transition: Option<(u64, u64)>,
    gave_up: Vec<(u64, u32)>,
    mark_termination: Option<u64>,
    last_ns: u64,
    /// No more hits will come.
    cut: bool,
}

/// How a target's Go passes things to `startTheWorldWithSema`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Arguments {
    None,
    Start,
    StartAndFinish,
}

/// Puts the stops of one target together.
#[derive(Clone, Debug)]
pub struct StwTracker {
    arguments: Arguments,
    drafts: BTreeMap<u32, Draft>,
    done: Option<u32>,
}

/// What the tracker must be told of a draft to decide whether to let it go.
#[derive(Clone, Copy, Debug)]
pub struct Due {
    /// Last hit of the stop so far, ns: its end, or shortly after.
    pub last_ns: u64,
    /// The thread that stopped the world.
    pub stopper_tid: Option<u32>,
    /// The last thread that gave its P up, and when.
    pub laggard: Option<(u64, u32)>,
}

impl StwTracker {
    /// For a target of Go 1.`minor`; `None`: not known, and arguments are believed only where they
    /// fit the hits around them.
    pub fn new(minor: Option<u32>) -> Self {
        let arguments = match minor {
            Some(..=21) => Arguments::None,
            Some(22) => Arguments::Start,
            Some(23..) | None => Arguments::StartAndFinish,
        };
        Self { arguments, drafts: BTreeMap::new(), done: None }
    }

    /// Takes a probe hit.
    pub fn apply(&mut self, e: &ProbeEvent) {
        let Some(site) = Site::from_u32(e.site) else { return };
        let begins = matches!(
            site,
            Site::StwStop
                | Site::StwStopped
                | Site::StwStart
                | Site::StwEnd
                | Site::GcMarkTermination
        );
        let belongs = begins || matches!(site, Site::GcStopM | Site::GcTransitionEnd);
        if !belongs || self.done.is_some_and(|done| e.stw <= done) {
            return;
        }
        let ts = e.header.ts_ns;
        if !begins && !self.drafts.contains_key(&e.stw) {
            return;
        }
        let draft = self.drafts.entry(e.stw).or_default();
        match site {
            Site::StwStop => draft.entry = Some((ts, e.header.tid, e.args[0])),
            Site::StwStopped => draft.stopped_ns = Some(ts),
            Site::StwStart => draft.start = Some((ts, e.args)),
            Site::StwEnd => draft.runtime_total = Some((ts, e.args[1])),
            Site::GcMarkTermination => draft.mark_termination = Some(ts),
            Site::GcStopM => draft.gave_up.push((ts, e.header.tid)),
            Site::GcTransitionEnd => draft.transition = Some((ts, e.args[1])),
            _ => {}
        }
        draft.last_ns = draft.last_ns.max(ts);
    }

    /// The target replaced its program, or the stream ended: what is open stays open for good.
    pub fn cut(&mut self) {
        self.drafts.values_mut().for_each(|d| d.cut = true);
    }

    /// The next stop to leave, if no hit of it is outstanding.
    pub fn due(&self) -> Option<Due> {
        let (_, draft) = self.drafts.first_key_value()?;
        let over = draft.start.is_some() || draft.cut || self.drafts.len() > 1;
        over.then(|| Due {
            last_ns: draft.last_ns,
            stopper_tid: draft.entry.map(|(_, tid, _)| tid),
            laggard: draft.gave_up.last().copied(),
        })
    }

    /// Beginning of the oldest stop that has not left, ns.
    pub fn oldest_ns(&self) -> Option<u64> {
        let (_, d) = self.drafts.first_key_value()?;
        Some(d.entry.map_or(d.last_ns, |(ts, ..)| ts))
    }

    /// Whether a stop that has not left overlaps `[from_ns, to_ns)`.
    pub fn overlaps(&self, from_ns: u64, to_ns: u64) -> bool {
        self.drafts.values().any(|d| {
            d.entry.is_some_and(|(ts, ..)| ts < to_ns)
                && d.start.is_none_or(|(end, _)| from_ns < end)
                && (d.start.is_some() || !d.cut)
        })
    }

    /// Lets the next stop go.
    pub fn pop(&mut self) -> Option<Outcome> {
        let (n, draft) = self.drafts.pop_first()?;
        self.done = Some(n);
        Some(resolve(n, draft, self.arguments))
    }
}

fn resolve(n: u32, mut d: Draft, arguments: Arguments) -> Outcome {
    let start_hit = d.start.map(|(ts, _)| ts);
    let entry_ns = d.entry.map(|(ts, ..)| ts);
    // A time of the runtime's is believed if it lies between the hits around it.
    let within = |ns: u64, after: Option<u64>, before: Option<u64>| {
        after.is_none_or(|a| a <= ns) && before.is_none_or(|b| ns <= b) && ns != 0
    };
    let (mut told, mut finished, mut now, mut reason) = (None, d.stopped_ns, None, None);
    let mut runtime_stopping_ns = None;
    if let Some((ts, [a_now, a_reason, a_started, a_finished, _])) = d.start {
        let started_fits = within(a_started, entry_ns, Some(ts));
        if arguments != Arguments::None && started_fits {
            told = Some(a_started);
            reason = Some(a_reason);
            if arguments == Arguments::StartAndFinish
                && within(a_finished, Some(a_started), Some(ts))
            {
                finished = Some(a_finished);
                runtime_stopping_ns = Some(a_finished - a_started);
            }
            now = Some(a_now).filter(|&ns| within(ns, finished.or(told), Some(ts)));
        }
    }
    let by_total = d.runtime_total.and_then(|(ts, total)| {
        let end = told?.checked_add(total)?;
        within(end, finished, Some(ts)).then_some((end, EndEvidence::RuntimeTotal))
    });
    let by_transition = d
        .transition
        .filter(|&(ts, ns)| within(ns, finished, Some(ts)))
        .map(|(_, ns)| (ns, EndEvidence::GcTransition));
    // Without `startTheWorldWithSema` the stop has not ended as far as we saw.
    let end = d.start.and_then(|(ts, _)| {
        let by_now = now.map(|ns| (ns, EndEvidence::StartNow));
        by_now.or(by_total).or(by_transition).or(Some((ts, EndEvidence::StartEntry)))
    });
    let end = end.filter(|&(ns, _)| within(ns, finished.or(entry_ns), None));
    let runtime_total_ns = d
        .runtime_total
        .map(|(_, total)| total)
        .filter(|_| arguments != Arguments::None)
        .or_else(|| now?.checked_sub(told?));
    let reason = d.entry.map(|(.., r)| r).or(reason);
    let marks = Marks {
        told_ns: told,
        finished_ns: runtime_stopping_ns.and(finished),
        mark_termination_ns: d.mark_termination,
        transition_ns: d.transition.map(|(ts, _)| ts),
        start_world_ns: start_hit,
        record_ns: d.runtime_total.filter(|_| arguments != Arguments::None).map(|(ts, _)| ts),
    };
    match (d.entry, finished, end) {
        (Some((start_ns, stopper_tid, reason)), Some(stopped_at_ns), Some((end_ns, evidence)))
            if start_ns <= stopped_at_ns =>
        {
            d.gave_up.retain(|&(ts, _)| (start_ns..=stopped_at_ns).contains(&ts));
            d.gave_up.sort_by_key(|&(ts, _)| ts);
            let mark_term = StwReason::from_number(reason) == Some(StwReason::GcMarkTermination);
            Outcome::Complete(Stop {
                n,
                reason,
                stopper_tid,
                start_ns,
                told_ns: told,
                stopped_at_ns,
                end_ns,
                end_evidence: evidence,
                runtime_stopping_ns,
                runtime_total_ns,
                gave_up: d.gave_up,
                // Any one of these is enough, so that one lost hit does not undo a cycle:
                // gcMarkDone's attempts that do not hold pass no `now` and end no transition.
                ends_cycle: mark_term
                    && (d.mark_termination.is_some() || now.is_some() || by_transition.is_some()),
                marks,
            })
        }
        _ => {
            let mut missing = Vec::new();
            if d.entry.is_none() {
                missing.push("start");
            }
            if finished.is_none() {
                missing.push("stopped");
            }
            if start_hit.is_none() {
                missing.push("end");
            }
            if missing.is_empty() {
                missing.push("order of times");
            }
            Outcome::Incomplete(IncompleteStop {
                n,
                reason_id: reason,
                start_ns: entry_ns,
                stopped_at_ns: finished,
                end_ns: end.map(|(ns, _)| ns),
                runtime_total_ns,
                missing,
                marks,
            })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::ascii::Scene;

    fn outcomes(minor: u32, scene: &Scene) -> Vec<Outcome> {
        let mut tracker = StwTracker::new(Some(minor));
        scene.probes.iter().for_each(|e| tracker.apply(e));
        tracker.cut();
        std::iter::from_fn(|| tracker.pop()).collect()
    }

    fn whole(outcome: &Outcome) -> &Stop {
        match outcome {
            Outcome::Complete(stop) => stop,
            Outcome::Incomplete(i) => panic!("incomplete: {i:?}"),
        }
    }

    #[test]
    fn go_1_27_sweep_termination_and_mark_termination() {
        let scene = Scene::new(1)
            .probe(1000, 7, Site::StwStop, 1, &[2])
            .probe(1100, 8, Site::GcStopM, 1, &[])
            .probe(1150, 9, Site::GcStopM, 1, &[])
            .probe(1300, 7, Site::StwStart, 1, &[0, 2, 1010, 1200, 5])
            .probe(1400, 7, Site::StwEnd, 1, &[0, 380])
            .probe(1420, 7, Site::GcTransitionEnd, 1, &[0, 1390])
            .probe(1430, 9, Site::GcStopM, 1, &[])
            .probe(5000, 8, Site::StwStop, 2, &[1])
            .probe(5200, 8, Site::GcMarkTermination, 2, &[])
            .probe(5300, 8, Site::GcTransitionEnd, 2, &[0, 5290])
            .probe(5310, 8, Site::StwStart, 2, &[5290, 1, 5001, 5100, 5])
            .probe(5350, 8, Site::StwEnd, 2, &[0, 289]);
        let out = outcomes(27, &scene);
        let sweep = whole(&out[0]);
        assert_eq!((sweep.start_ns, sweep.stopped_at_ns, sweep.end_ns), (1000, 1200, 1390));
        assert_eq!(sweep.end_evidence, EndEvidence::RuntimeTotal);
        assert_eq!(sweep.laggard(), Some((1150, 9)), "a later gcstopm is of no account");
        assert_eq!(sweep.runtime_stopping_ns, Some(190));
        assert_eq!(sweep.runtime_total_ns, Some(380));
        assert!(!sweep.ends_cycle);
        let mark = whole(&out[1]);
        assert_eq!((mark.end_ns, mark.end_evidence), (5290, EndEvidence::StartNow));
        assert_eq!(mark.laggard(), None);
        assert!(mark.ends_cycle);
    }

    #[test]
    fn go_1_21_has_hits_only_and_its_registers_are_not_believed() {
        let garbage = [5290, 1, 5001, 5100, 5];
        let scene = Scene::new(1)
            .probe(1000, 7, Site::StwStop, 1, &[2])
            .probe(1200, 7, Site::StwStopped, 1, &[])
            .probe(1300, 7, Site::StwStart, 1, &garbage)
            .probe(1420, 7, Site::GcTransitionEnd, 1, &[0, 1390])
            .probe(5000, 8, Site::StwStop, 2, &[7])
            .probe(5100, 8, Site::StwStopped, 2, &[])
            .probe(5310, 8, Site::StwStart, 2, &garbage);
        let out = outcomes(21, &scene);
        let gc = whole(&out[0]);
        assert_eq!((gc.stopped_at_ns, gc.end_ns), (1200, 1390));
        assert_eq!((gc.end_evidence, gc.runtime_total_ns), (EndEvidence::GcTransition, None));
        let other = whole(&out[1]);
        assert_eq!((other.end_ns, other.end_evidence), (5310, EndEvidence::StartEntry));
    }

    #[test]
    fn go_1_22_has_a_start_but_no_finish() {
        let scene = Scene::new(1)
            .probe(1000, 7, Site::StwStop, 1, &[2])
            .probe(1200, 7, Site::StwStopped, 1, &[])
            .probe(1300, 7, Site::StwStart, 1, &[0, 2, 1010, 1111, 9])
            .probe(1400, 7, Site::StwEnd, 1, &[0, 380]);
        let out = outcomes(22, &scene);
        let gc = whole(&out[0]);
        assert_eq!((gc.stopped_at_ns, gc.end_ns), (1200, 1390));
        assert_eq!(gc.runtime_stopping_ns, None);
    }

    #[test]
    fn stops_at_the_edges_are_incomplete() {
        let scene = Scene::new(1)
            .probe(900, 7, Site::StwStart, 0, &[0, 2, 700, 800, 5])
            .probe(950, 7, Site::StwEnd, 0, &[0, 240])
            .probe(1000, 7, Site::StwStop, 1, &[1]);
        let out = outcomes(27, &scene);
        assert_eq!(
            out,
            [
                Outcome::Incomplete(IncompleteStop {
                    n: 0,
                    reason_id: Some(2),
                    start_ns: None,
                    stopped_at_ns: Some(800),
                    end_ns: Some(940),
                    runtime_total_ns: Some(240),
                    missing: vec!["start"],
                    marks: Marks {
                        told_ns: Some(700),
                        finished_ns: Some(800),
                        start_world_ns: Some(900),
                        record_ns: Some(950),
                        ..Marks::default()
                    },
                }),
                Outcome::Incomplete(IncompleteStop {
                    n: 1,
                    reason_id: Some(1),
                    start_ns: Some(1000),
                    stopped_at_ns: None,
                    end_ns: None,
                    runtime_total_ns: None,
                    missing: vec!["stopped", "end"],
                    marks: Marks::default(),
                }),
            ]
        );
    }

    #[test]
    fn a_lost_end_is_never_paired_with_the_next_stop() {
        let scene = Scene::new(1)
            .probe(1000, 7, Site::StwStop, 1, &[2])
            .probe(3000, 7, Site::StwStart, 2, &[0, 1, 2010, 2200, 5])
            .probe(3100, 7, Site::StwEnd, 2, &[0, 1080]);
        let out = outcomes(27, &scene);
        assert!(matches!(&out[0], Outcome::Incomplete(i) if i.missing == ["stopped", "end"]));
        assert!(matches!(&out[1], Outcome::Incomplete(i) if i.missing == ["start"]));
    }

    #[test]
    fn hits_that_come_after_the_stop_has_left_are_ignored() {
        let mut tracker = StwTracker::new(Some(27));
        let scene = Scene::new(1).probe(1000, 7, Site::StwStop, 1, &[2]).probe(
            1300,
            7,
            Site::StwStart,
            1,
            &[0, 2, 1010, 1200, 5],
        );
        scene.probes.iter().for_each(|e| tracker.apply(e));
        assert!(tracker.due().is_some());
        assert!(matches!(tracker.pop(), Some(Outcome::Complete(_))));
        let late = Scene::new(1).probe(1400, 7, Site::StwEnd, 1, &[0, 380]);
        late.probes.iter().for_each(|e| tracker.apply(e));
        assert!(tracker.due().is_none() && tracker.pop().is_none());
    }
}
