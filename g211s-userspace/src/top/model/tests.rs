//! Models of runs and recordings, and of streams that make no sense.

use std::collections::BTreeMap;

use g211s_ebpf::event::ThreadState;
use g211s_ebpf::hist::{Hist, bucket_of};
use proptest::prelude::*;

use super::history::Class;
use super::lines::Line;
use super::*;
use crate::record::{
    Attached, Detached, GcSample, GoroutineSample, HeapSample, Hists, Interval, Moment, PSample,
    RuntimeSample, SparseHist, ThreadInfo,
};
use crate::report::tests::{any_event, run, start};

pub(crate) const MS: u64 = 1_000_000;
const SECOND: u64 = 1000 * MS;

fn interval(target: u8, ts_ns: u64, waits: u64) -> Record {
    Record::Interval(Box::new(Interval {
        ts_ns,
        target,
        woken: waits,
        woken_ns: waits * 50_000,
        oncpu: waits,
        oncpu_ns: ts_ns / 2,
        gc: waits / 100,
        epoll_nonblocking: waits * 3,
        polls_ns: Some(ts_ns),
        hits: vec![waits; 3],
        ..Interval::default()
    }))
}

fn hists(target: u8, ts_ns: u64, waits: &[(u64, u64)]) -> Record {
    let mut buckets: Vec<(u16, u64)> =
        waits.iter().map(|&(ns, n)| (bucket_of(ns) as u16, n)).collect();
    buckets.sort_unstable();
    let count = waits.iter().map(|(_, n)| n).sum();
    let hist = SparseHist { count, buckets, ..SparseHist::default() };
    let hists =
        BTreeMap::from([(Hist::WokenOutside as u8, hist.clone()), (Hist::EpollLate as u8, hist)]);
    Record::Hists(Box::new(Hists { ts_ns, target, hists }))
}

fn sample(target: u8, end_ns: u64) -> Record {
    Record::Runtime(Box::new(RuntimeSample {
        target,
        moment: Moment::Running,
        begin_ns: end_ns,
        end_ns,
        consistent: true,
        heap: Some(HeapSample {
            live: 12 << 20,
            goal: Some(20 << 20),
            gc_percent: 100,
            memory_limit: i64::MAX,
            ..HeapSample::default()
        }),
        gc: Some(GcSample { cycles: 7, forced: 1, ..GcSample::default() }),
        goroutines: Some(GoroutineSample { count: Some(1234), ..GoroutineSample::default() }),
        gomaxprocs: Some(2),
        ps: [(0, "_Prunning", Some(3)), (1, "_Pidle", None)]
            .map(|(id, status, m_id)| PSample { id, status: status.into(), m_id, tid: None })
            .to_vec(),
        ..RuntimeSample::default()
    }))
}

fn thread(target: u8, tid: u32, m_id: Option<u64>, comm: &str) -> Record {
    Record::Thread(Box::new(ThreadInfo { target, tid, m_id, comm: comm.into() }))
}

fn sums(target: u8, tid: u32, running_ns: u64, waiting_ns: u64, asleep_ns: u64) -> ThreadTotals {
    let mut t = ThreadTotals { target, tid, exited: false, state_ns: [0; 9], state_count: [1; 9] };
    t.state_ns[ThreadState::Running as usize] = running_ns;
    t.state_ns[ThreadState::RunnablePreempted as usize] = waiting_ns;
    t.state_ns[ThreadState::Blocked as usize] = asleep_ns;
    t
}

/// A process like the one of `start`, with another PID.
fn target(pid: u32) -> Target {
    let Record::Start(start) = start("go1.27.3") else { unreachable!() };
    Target { pid, tgid: pid, ..start.targets[0].clone() }
}

/// A live view after so many seconds, with a stop in it.
pub(crate) fn live(seconds: u64) -> Model {
    let mut model = Model::live();
    let events = run().into_iter().filter(|r| matches!(r, Record::Start(_) | Record::Event(_)));
    events.for_each(|r| model.push(r));
    model.push(thread(0, 1, Some(0), "svc"));
    model.push(thread(0, 2, Some(7), "svc-worker"));
    for n in 1..=seconds {
        let now = n * SECOND - 1;
        model.push(interval(0, now, n * 200));
        model.push(hists(0, now, &[(5_000, n * 100), (60_000, n * 20), (25 * MS, n)]));
        model.push(sample(0, now));
        let totals = [
            sums(0, 1, n * 600 * MS, n * 100 * MS, n * 300 * MS),
            sums(0, 2, n * 10 * MS, 0, n * 990 * MS),
        ];
        model.thread_sums(0, now, &totals);
    }
    model.cost = Cost {
        cpu: Some(0.004),
        rss_bytes: Some(24 << 20),
        hits_per_second: Some(1234.0),
        switches_per_second: Some(15_300.0),
        produced: 12_345,
        ..Cost::default()
    };
    model
}

/// A recording, whole.
pub(crate) fn recorded(records: Vec<Record>) -> Model {
    let mut model = Model::of_recording();
    for record in records {
        model.push(record);
    }
    model.finish();
    model
}

#[test]
fn a_live_run_is_kept_second_by_second() {
    let model = live(5);
    let s = &model.services[0];
    assert_eq!((s.comm.as_str(), s.pid, s.go_version.as_str()), ("svc", 42, "1.27.3"));
    assert_eq!(model.window(), (0, 5));
    let third = s.history.sum(2, 3);
    assert_eq!((third.waits, third.waited_ns), (200, 200 * 50_000));
    assert_eq!(third.watched_ms, 1000);
    assert!((third.per_second(third.on_cpu_ns) / 1e9 - 0.5).abs() < 1e-6);
    assert!(third.has_rows && third.has_late_rows);
    assert_eq!(third.rows.iter().sum::<u32>(), 121);
    assert_eq!(third.rows[rows::row(25 * MS)], 1);
    assert!(third.longest_wait_ns.abs_diff(25 * MS) < MS);
    assert_eq!(third.figures.goroutines, Some(1234));
    // Of what they did before they were first read nothing is known.
    assert!(s.history.sum(0, 1).rows.iter().sum::<u32>() > 0);
    let seconds: Vec<_> = s.history.range(0, 2).map(|s| s.threads.clone()).collect();
    assert!(seconds[0].is_empty());
    assert_eq!(seconds[1][0].tid, 1, "the busiest first");
    assert_eq!(seconds[1][0].us[Class::Waiting as usize], 100_000);
    let stop = model.lines.newest_first().find(|l| l.kind == Kind::Stop).expect("a stop is told");
    assert!(
        stop.text.contains("behind `stress`") || stop.text.contains("behind a task not seen"),
        "{}",
        stop.text
    );
    assert!(!stop.tids.is_empty());
    assert_eq!(s.history.sum(0, 5).stops, 2);
    assert!(s.history.sum(0, 5).longest_stop_ns >= 30 * MS);
}

#[test]
fn what_is_not_available_is_said_once() {
    let model = live(1);
    let said = |model: &Model| {
        let of = |l: &&Line| l.kind == Kind::Notice && l.text.contains("fentry is refused");
        model.lines.newest_first().filter(of).count()
    };
    assert_eq!(said(&model), 1);
    assert_eq!(model.services[0].why_unread("threads"), Some("runtime.allm was not found"));
    let mut model = model;
    model.push(Record::Attached(Box::new(Attached {
        ts_ns: 2 * SECOND,
        index: 1,
        target: target(43),
    })));
    assert_eq!((model.services.len(), said(&model)), (2, 1));
}

#[test]
fn a_restarted_service_stays_in_its_row() {
    let mut model = live(3);
    model.gone(0, 3 * SECOND, "it exited");
    assert!(matches!(model.services[0].watch, Watch::Gone { .. }));
    let attached = Attached { ts_ns: 6 * SECOND, index: 1, target: target(77) };
    model.push(Record::Attached(Box::new(attached)));
    assert_eq!(model.services.len(), 1);
    let s = &model.services[0];
    assert_eq!((s.pid, s.restarts, &s.watch), (77, 1, &Watch::Here));
    // Its counters begin anew; what is left of the process before does not count for it.
    model.push(hists(0, 6 * SECOND + MS, &[(5_000, 1_000_000)]));
    model.push(Record::Detached(Detached { ts_ns: 6 * SECOND + 2 * MS, index: 0 }));
    model.push(interval(1, 7 * SECOND - 1, 30));
    model.push(hists(1, 7 * SECOND - 1, &[(5_000, 30)]));
    let s = &model.services[0];
    let sixth = s.history.sum(6, 7);
    assert_eq!((sixth.waits, sixth.rows.iter().sum::<u32>()), (30, 30));
    assert_eq!(sixth.watched_ms, 999);
    assert_eq!(s.history.sum(3, 6).watched_ms, 0, "a gap is a gap");
    assert!(model.lines.newest_first().any(|l| l.text.contains("process 77 took the place of 42")));
    // Another service is another row.
    let mut other = target(78);
    other.exe = "/srv/other".into();
    other.module = Some("example.com/other".into());
    model.push(Record::Attached(Box::new(Attached { ts_ns: 8 * SECOND, index: 2, target: other })));
    assert_eq!(model.services.len(), 2);
}

#[test]
fn a_recording_has_waits_by_events_and_what_it_cost() {
    let model = recorded(run());
    let s = &model.services[0];
    assert_eq!(model.ended.as_deref(), Some("duration"));
    assert_eq!(model.cost.produced, 32);
    assert!(model.cost.cpu.is_some_and(|cpu| (cpu - 0.012 / 2.07).abs() < 1e-6));
    let sum = s.history.sum(0, 10);
    assert_eq!(sum.stops, 2);
    assert!(sum.rows.iter().sum::<u32>() > 0, "waits that have events");
    assert!(sum.longest_wait_ns >= 30 * MS);
    assert_eq!(s.totals[&1][ThreadState::Running as usize], 900 * MS);
    assert!(s.threads.get(&2).is_some_and(|t| t.m_id == Some(7)));
}

#[test]
fn lost_events_and_notices_are_kept() {
    let mut records = run();
    if let Some(Record::End(end)) = records.last_mut() {
        end.lost.insert("thread".into(), 9);
    }
    let model = recorded(records);
    assert!(model.cost.is_lossy());
    let notice = model.lines.newest_first().find(|l| l.text.contains("gcstopm is inlined"));
    assert!(notice.is_some_and(|l| !l.text.contains('\x1b')));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]

    #[test]
    fn no_stream_does_harm(
        events in prop::collection::vec(any_event(), 0..60),
        times in prop::collection::vec((any::<u64>(), any::<u64>(), 0u8..4), 0..20),
        live in any::<bool>(),
    ) {
        let mut model = if live { Model::live() } else { Model::of_recording() };
        model.push(start("go1.27.3"));
        for bytes in events {
            if let Ok(event) = crate::event::Event::decode(&bytes) {
                model.push(Record::Event(event));
            }
        }
        for (ts, n, target) in times {
            model.push(Record::Interval(Box::new(Interval {
                ts_ns: ts, target, woken: n, woken_ns: n, oncpu_ns: n, gc: n, throttled_ns: n,
                epoll_blocking: n, epoll_nonblocking: n, polls_ns: Some(n), ..Interval::default()
            })));
            model.push(hists(target, ts, &[(n, n)]));
            model.push(sample(target, ts));
            model.thread_sums(target, ts, &[sums(target, 1, n, n, n)]);
            model.gone(target, ts, "why");
        }
        model.finish();
        let (from, to) = model.window();
        for s in &model.services {
            let _ = s.history.sum(from, to);
        }
    }
}
