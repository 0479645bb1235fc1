//! Made-up stops against made-up counters: what must agree does, and what must not does not.

use super::*;
use crate::model::reason::StwReason;
use crate::model::stw::{EndEvidence, IncompleteStop, Marks, Stop};
use crate::record::StwSample;

const MS: u64 = 1_000_000;
const US: u64 = 1_000;

/// A stop of Go 1.27 that begins at `at` and lasts `total` for the runtime; before that it waited
/// `lock` for `sched.lock`.
fn stop(reason: StwReason, at: u64, lock: u64, total: u64) -> Stop {
    let (told, stopping) = (at + lock, total / 4);
    let end = told + total;
    let mark = reason == StwReason::GcMarkTermination;
    let sweep = reason == StwReason::GcSweepTermination;
    Stop {
        n: 1,
        reason: reason as u64,
        stopper_tid: 7,
        start_ns: at,
        told_ns: Some(told),
        stopped_at_ns: told + stopping,
        end_ns: end,
        end_evidence: EndEvidence::RuntimeTotal,
        runtime_stopping_ns: Some(stopping),
        runtime_total_ns: Some(total),
        gave_up: Vec::new(),
        ends_cycle: mark,
        marks: Marks {
            told_ns: Some(told),
            finished_ns: Some(told + stopping),
            mark_termination_ns: mark.then_some(told + stopping + 100),
            transition_ns: (mark || sweep).then_some(if mark { end - 50 } else { end + 2 * US }),
            start_world_ns: Some(end - 40),
            record_ns: Some(end + US),
        },
    }
}

/// A cycle every 100 ms, the first at 50 ms: 40 µs of sweep termination, 90 µs of mark termination;
/// and a stop of another kind.
fn cycles(n: u64) -> Vec<Stop> {
    use StwReason::{GcMarkTermination, GcSweepTermination, ReadMemStats};
    let one = |i: u64| {
        let at = 50 * MS + i * 100 * MS;
        [
            stop(GcSweepTermination, at, 700, 40 * US + i * 10),
            stop(GcMarkTermination, at + 20 * MS, 300, 90 * US),
            stop(ReadMemStats, at + 30 * MS, 300, 5 * US),
        ]
    };
    (0..n).flat_map(one).collect()
}

/// What the runtime's counters say at `at` if these are all its stops. `minor`: of which Go.
fn sample(stops: &[Stop], at: u64, minor: u32) -> RuntimeSample {
    let done = |s: &&Stop| s.end_ns <= at;
    let gc = |s: &&Stop| s.reason().is_some_and(StwReason::is_gc);
    let total = |s: &Stop| s.runtime_total_ns.unwrap_or(s.end_ns - s.start_ns);
    let of = |gc_stops: bool, f: &dyn Fn(&Stop) -> u64| {
        TimeHist::of_values(stops.iter().filter(done).filter(|s| gc(s) == gc_stops).map(f))
    };
    let stopping = |s: &Stop| s.runtime_stopping_ns.unwrap_or(0);
    RuntimeSample {
        begin_ns: at,
        end_ns: at + 20 * US,
        consistent: true,
        gc: Some(GcSample {
            cycles: stops.iter().filter(done).filter(|s| s.ends_cycle).count() as u32,
            pause_total_ns: stops.iter().filter(done).filter(gc).map(total).sum(),
            open_pause_ns: Some(0),
            ..GcSample::default()
        }),
        stw: (minor > 21).then(|| StwSample {
            stopping_gc: of(true, &stopping),
            stopping_other: of(false, &stopping),
            total_gc: of(true, &total),
            total_other: of(false, &total),
        }),
        gc_pauses: (minor <= 21).then(|| of(true, &total)),
        ..RuntimeSample::default()
    }
}

/// Compares `seen` with the counters of a program that had the stops `real`.
fn check(real: &[Stop], seen: &[Stop], from: u64, to: u64, minor: u32) -> Accuracy {
    let counted: Vec<Counted> = seen.iter().map(|s| Counted::of_stop(s, Some(minor))).collect();
    let ours =
        Ours { stops: &counted, stops_missing: None, lost: Some(0), preempted: Some((3, MS)) };
    compare(&sample(real, from, minor), &sample(real, to, minor), &ours)
}

#[test]
fn what_was_seen_whole_agrees_in_every_figure() {
    let real = cycles(60);
    let a = check(&real, &real, 0, 7000 * MS, 27);
    assert_eq!(a.verdict, Finding::Agree, "{a:#?}");
    assert_eq!((a.gc_cycles.ours, a.gc_cycles.runtime), (Some(60), Some(60)));
    assert_eq!((a.stw_gc.count.ours, a.stw_other.count.runtime), (Some(120), Some(60)));
    for stops in [&a.stw_gc, &a.stw_other] {
        assert_eq!(stops.verdicts(), [Finding::Agree; 4], "{stops:#?}");
    }
    assert_eq!(a.stw_gc.total.boundary_ns, Some(60 * 1000), "the wait for the lock");
    let sums = (a.stw_gc.total.ours_ns.unwrap(), a.stw_gc.total.runtime_ns.unwrap());
    assert_eq!(sums.0 - sums.1, 60 * 1000);
}

#[test]
fn only_what_lies_between_the_samples_is_compared() {
    let real = cycles(60);
    let a = check(&real, &real, 1040 * MS, 2040 * MS, 27);
    assert_eq!(a.verdict, Finding::Agree, "{a:#?}");
    assert_eq!((a.gc_cycles.ours, a.gc_cycles.at_edges), (Some(10), 0));
    // A sample in the midst of a stop: counted or not, both is right.
    let a = check(&real, &real, 70 * MS + 91 * US, 2040 * MS, 27);
    assert_eq!(a.verdict, Finding::Agree, "{a:#?}");
    assert_eq!(a.stw_gc.count.at_edges, 1);
}

#[test]
fn one_missed_stop_is_told_and_so_is_an_invented_one() {
    let real = cycles(60);
    let mut seen = real.clone();
    seen.remove(31);
    let a = check(&real, &seen, 0, 7000 * MS, 27);
    assert_eq!(a.verdict, Finding::Disagree);
    assert_eq!(a.stw_gc.count.verdict, Finding::Disagree);
    assert_eq!(a.stw_gc.histogram.misplaced, 1);
    assert_eq!(a.gc_cycles.verdict, Finding::Disagree, "it was a mark termination");
    let why = a.stw_gc.count.why.unwrap();
    assert_eq!(
        why,
        "1 stops of the collector missed: no event was lost, 0 stops are known in part only"
    );
    let a = check(&seen, &real, 0, 7000 * MS, 27);
    assert!(a.stw_gc.count.why.unwrap().starts_with("1 stops of the collector invented"));
}

#[test]
fn a_wait_for_the_lock_moves_our_lengths_but_is_explained() {
    let mut real = cycles(60);
    for s in real.iter_mut().filter(|s| s.ends_cycle) {
        s.start_ns -= 3 * MS;
    }
    let a = check(&real, &real, 0, 7000 * MS, 27);
    assert_eq!(a.verdict, Finding::Agree, "{a:#?}");
    assert!(a.stw_gc.histogram.moved >= 60, "{a:#?}");
    assert_eq!(a.stw_gc.histogram.misplaced, 0);
    assert!(a.stw_gc.total.boundary_ns > Some(60 * 3 * MS));
}

#[test]
fn wrong_lengths_are_told() {
    let real = cycles(60);
    let mut seen = real.clone();
    for s in seen.iter_mut().filter(|s| s.ends_cycle) {
        s.runtime_total_ns = s.runtime_total_ns.map(|ns| ns * 2);
    }
    let a = check(&real, &seen, 0, 7000 * MS, 27);
    assert_eq!(a.stw_gc.count.verdict, Finding::Agree);
    assert_eq!(a.stw_gc.histogram.verdict, Finding::Disagree);
    assert_eq!(a.stw_gc.total.verdict, Finding::Disagree);
    assert_eq!(a.verdict, Finding::Disagree);
}

/// The same program under Go 1.21: `late` is how much later than the runtime's our start is.
fn old(real: &[Stop], late: impl Fn(usize) -> u64) -> Vec<Stop> {
    let mut seen: Vec<Stop> = real.to_vec();
    for (i, s) in seen.iter_mut().enumerate() {
        s.start_ns = s.told_ns.unwrap() + late(i);
        s.told_ns = None;
        s.runtime_total_ns = None;
        s.runtime_stopping_ns = None;
        s.end_evidence = EndEvidence::GcTransition;
        s.marks = Marks { told_ns: None, finished_ns: None, record_ns: None, ..s.marks };
    }
    seen
}

#[test]
fn go_1_21_is_compared_within_a_probes_hit() {
    let real = cycles(150);
    let a = check(&real, &old(&real, |_| 900), 0, 16_000 * MS, 21);
    assert_eq!(a.verdict, Finding::Agree, "{a:#?}");
    assert_eq!(a.stw_gc.count.runtime, Some(300));
    assert_eq!(a.stw_gc.histogram.misplaced, 0);
    assert_eq!(a.stw_gc.total.boundary_ns, None);
    assert_eq!(a.stw_other.count.verdict, Finding::Unknown);
    assert!(a.stw_other.count.why.unwrap().contains("collector only"));

    // A thread lost its CPU between the two clocks: that cannot be told from an error …
    let a = check(&real, &old(&real, |i| if i == 3 { 80 * US } else { 900 }), 0, 16_000 * MS, 21);
    assert_eq!(a.stw_gc.histogram.verdict, Finding::Unknown, "{a:#?}");
    assert_eq!(a.verdict, Finding::Agree);
    // … but with three preemptions not half of them did.
    let a = check(&real, &old(&real, |i| (i % 2) as u64 * 30 * US), 0, 16_000 * MS, 21);
    assert_eq!(a.stw_gc.histogram.verdict, Finding::Disagree);
    // Nor are we ever longer.
    let a = check(&real, &old(&real, |_| 0), 0, 16_000 * MS, 21);
    assert_eq!(a.verdict, Finding::Agree);
    let mut seen = old(&real, |_| 0);
    for s in &mut seen {
        s.start_ns -= 50 * US;
    }
    assert_eq!(check(&real, &seen, 0, 16_000 * MS, 21).stw_gc.total.verdict, Finding::Disagree);
}

#[test]
fn a_stop_under_way_at_attach_counts_where_the_runtime_counts_it() {
    let real = cycles(3);
    // Its beginning was not seen: the first mark termination.
    let s = &real[1];
    let part = IncompleteStop {
        n: 0,
        reason_id: Some(1),
        start_ns: None,
        stopped_at_ns: Some(s.stopped_at_ns),
        end_ns: Some(s.end_ns),
        runtime_total_ns: s.runtime_total_ns,
        missing: vec!["start"],
        marks: s.marks,
    };
    let seen = |damaged: bool| -> Accuracy {
        let mut counted: Vec<Counted> =
            real[2..].iter().map(|s| Counted::of_stop(s, Some(27))).collect();
        let n = if damaged { 9 } else { 0 };
        counted.push(Counted::of_part(&IncompleteStop { n, ..part.clone() }, Some(27), false));
        let ours = Ours { stops: &counted, stops_missing: None, lost: Some(5), preempted: None };
        let from = sample(&real, s.start_ns, 27);
        compare(&from, &sample(&real, 2000 * MS, 27), &ours)
    };
    let a = seen(false);
    assert_eq!(a.verdict, Finding::Agree, "{a:#?}");
    assert_eq!((a.stw_gc.count.ours, a.gc_cycles.ours), (Some(5), Some(3)));
    // One that events were lost of is not ours.
    let a = seen(true);
    assert_eq!(a.stw_gc.count.verdict, Finding::Disagree);
    assert!(a.stw_gc.count.why.unwrap().contains("5 events were lost, 1 stops"));
}

#[test]
fn what_cannot_be_read_is_unknown() {
    let nothing = RuntimeSample::default();
    let ours = Ours { stops: &[], stops_missing: None, lost: Some(0), preempted: Some((3, MS)) };
    let a = compare(&nothing, &nothing, &ours);
    assert_eq!(a.verdict, Finding::Unknown);
    assert!(a.gc_cycles.why.is_some() && a.stw_gc.count.why.is_some());
    let real = cycles(3);
    let ours = Ours { stops_missing: Some("no probes"), ..ours };
    let a = compare(&sample(&real, 0, 27), &sample(&real, 900 * MS, 27), &ours);
    assert_eq!((a.verdict, a.why.as_deref()), (Finding::Unknown, Some("no probes")));
    // Another program's counters, or damage: no difference at all.
    let ours = Ours { stops_missing: None, ..ours };
    let a = compare(&sample(&real, 900 * MS, 27), &sample(&real, 0, 27), &ours);
    assert_eq!(a.stw_gc.count.verdict, Finding::Unknown);
    assert_eq!(a.gc_cycles.verdict, Finding::Disagree);
}
