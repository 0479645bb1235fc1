//! Whole runs through the pipeline: golden reports, live against replay, damaged input.
//!
//! `UPDATE_GOLDEN=1 cargo test` rewrites the golden files; read the difference before committing.

use std::{collections::BTreeMap, path::Path};

use g211s_ebpf::{
    event::{EventKind, Header, NO_SYSCALL, Site, SpanEvent, SpanWhat, THREAD_OUTLIER, span_p},
    hist::{Hist, bucket_of},
};
use proptest::prelude::*;
use serde_json::Value;

use super::*;
use crate::{
    event::Event,
    model::ascii::{Scene, TGID},
    record::{
        AttachedProbe, Cost, GcSample, GoroutineSample, HeapSample, Hists, Host, HotProbes,
        Interval, LatenessSource, Moment, Notice, PSample, PollSource, ProbeHits, ProcessInfo,
        Quota, Reads, Record, RunEnd, RunStart, RuntimeAccess, RuntimeFeature, RuntimeSample,
        Settings, SparseHist, StwSample, Target, ThreadInfo, ThreadTotals, Unavailable,
    },
};

use crate::runtime::histogram::TimeHist;

const MS: u64 = 1_000_000;

/// The head of such a run.
pub(crate) fn start(go_version: &str) -> Record {
    Record::Start(Box::new(RunStart {
        g211s_version: "0.1.0".into(),
        start_ns: 0,
        wall_ns: 1_700_000_000_000_000_000,
        host: Host {
            kernel: "6.18.0".into(),
            arch: "x86_64".into(),
            hostname: "host".into(),
            cpus: 2,
        },
        settings: Settings {
            threshold_ns: MS,
            full: false,
            interval_ns: 1000 * MS,
            ring_bytes: 1 << 20,
            observer_pid: 55,
            poll_source: Some(PollSource::Syscalls),
            lateness_source: LatenessSource::default(),
        },
        targets: vec![Target {
            pid: 42,
            tgid: TGID,
            comm: "svc".into(),
            exe: "/srv/svc".into(),
            cgroup: "/system.slice/svc.service".into(),
            go_version: go_version.into(),
            module: Some("example.com/svc".into()),
            link_mode: vec!["stripped".into()],
            probes: [
                (2, "stw_stop", "runtime.stopTheWorldWithSema"),
                (4, "stw_start", "runtime.startTheWorldWithSema"),
            ]
            .map(|(site_id, site, function)| AttachedProbe {
                site: site.into(),
                site_id,
                function: function.into(),
                function_offset: 6,
                file_offset: 0x4_0006,
                instruction: "push rbp".into(),
                emulated: true,
            })
            .to_vec(),
            unavailable: vec![Unavailable {
                feature: "throttling".into(),
                why: "fentry is refused (EPERM)".into(),
                costs: "CPU quota waits look like run-queue waits.".into(),
            }],
            cpus_allowed: "0-1".into(),
            threads: vec![1, 2],
            quotas: vec![Quota {
                cgroup: "/system.slice".into(),
                quota_us: 20_000,
                period_us: 100_000,
            }],
            stacks: None,
            runtime: Some(RuntimeAccess {
                offsets: "measured on this Go version".into(),
                features: vec![
                    RuntimeFeature { name: "heap".into(), why_not: None, costs: "no heap".into() },
                    RuntimeFeature {
                        name: "threads".into(),
                        why_not: Some("runtime.allm was not found".into()),
                        costs: "threads are listed without their M".into(),
                    },
                ],
            }),
        }],
    }))
}

fn hist(values: &[u64]) -> SparseHist {
    let mut buckets = BTreeMap::new();
    for &v in values {
        *buckets.entry(bucket_of(v) as u16).or_insert(0) += 1;
    }
    SparseHist {
        count: values.len() as u64,
        sum: values.iter().sum(),
        max: values.iter().copied().max().unwrap_or(0),
        buckets: buckets.into_iter().collect(),
    }
}

fn interval(ts_ns: u64, k: u64) -> Record {
    let mut hits = vec![0; 16];
    hits[Site::McacheRefill as usize] = 1000 * k;
    Record::Interval(Box::new(Interval {
        ts_ns,
        target: 0,
        woken: 3 * k,
        woken_ns: 30_000 * k,
        preempted: k,
        preempted_ns: 38 * MS * k,
        oncpu: 4 * k,
        oncpu_ns: 5 * MS * k,
        epoll_nonblocking: 70 * k,
        epoll_blocking: 40 * k,
        epoll_slept: 30 * k,
        epoll_slept_ns: 900 * MS * k,
        epoll_events: 33 * k,
        epoll_late: k,
        epoll_late_ns: 2 * MS * k,
        stw: 2 * k,
        gc: k,
        hits,
        alloc_probes_ns: 40 * MS * k,
        ..Interval::default()
    }))
}

/// One GC cycle of a Go 1.27 service on two CPUs, 1 ms a character: sweep termination at 2, mark
/// termination at 10 with a laggard behind a hog on CPU 1; then a long wait outside of stops.
fn scene() -> Scene {
    let at = |ms: u64| ms * MS;
    let hog = |n: usize| "9".repeat(n);
    let asleep = |n: usize| "_".repeat(n);
    let mut scene = Scene::new(MS)
        .thread(1, &format!("==========={}w======{}=", asleep(38), "p".repeat(8)), &"0".repeat(65))
        .thread(2, &format!("=========={}={}", "p".repeat(38), asleep(16)), &"1".repeat(65))
        .cpu(
            0,
            &format!("11111111111{}0111111{}1", "0".repeat(38), "8".repeat(8)),
            &[(8, "backup")],
        )
        .cpu(1, &format!("2222222222{}2{}", hog(38), "0".repeat(16)), &[(9, "stress")])
        .probe_ns(at(1), 1, Site::GcStart, 0, &[0])
        .probe_ns(at(2), 1, Site::StwStop, 1, &[2])
        .probe_ns(at(2) + 500_000, 1, Site::StwStart, 1, &[0, 2, at(2) + 1000, at(2) + 20_000, 9])
        .probe_ns(at(2) + 600_000, 1, Site::StwEnd, 1, &[0, 589_000])
        .probe_ns(at(2) + 601_000, 1, Site::GcTransitionEnd, 1, &[0, at(2) + 590_000])
        .probe_ns(at(10), 1, Site::StwStop, 2, &[1])
        .probe_ns(at(48) + 900_000, 2, Site::GcStopM, 2, &[])
        .probe_ns(at(50) + 100_000, 1, Site::GcMarkTermination, 2, &[])
        .probe_ns(at(51), 1, Site::GcTransitionEnd, 2, &[0, at(51) - 1000])
        .probe_ns(
            at(51) + 50_000,
            1,
            Site::StwStart,
            2,
            &[at(51) - 1000, 1, at(10) + 2000, at(50) + 20_000, 9],
        )
        .probe_ns(at(51) + 60_000, 1, Site::StwEnd, 2, &[0, at(41) - 3000])
        .probe_ns(at(64), 1, Site::StwStop, 3, &[2]);
    for e in &mut scene.transitions {
        let long = e.to == 1 && e.header.ts_ns - e.since_ns >= MS && (2..=4).contains(&e.from);
        e.flags |= if long { THREAD_OUTLIER } else { 0 };
    }
    scene
}

/// What the runtime counts in the scene: both stops, and before them 40 others.
fn sample(at: u64, moment: Moment) -> Record {
    let over = moment != Moment::Start;
    let hist = |mut values: Vec<u64>, new: &[u64]| {
        values.extend_from_slice(if over { new } else { &[] });
        TimeHist::of_values(values)
    };
    Record::Runtime(Box::new(RuntimeSample {
        target: 0,
        moment,
        begin_ns: at,
        end_ns: at + 30_000,
        consistent: true,
        retries: 0,
        reads: Reads { calls: 9, bytes: 20_000, failed: 0, cpu_ns: 80_000 },
        heap: Some(HeapSample {
            live: if over { 25_000_000 } else { 24_000_000 },
            marked: 20_000_000,
            objects: Some(26_000_000),
            goal: Some(40_000_000),
            gc_percent: 100,
            memory_limit: i64::MAX,
            other: None,
        }),
        gc: Some(GcSample {
            cycles: 20 + u32::from(over),
            pause_total_ns: 2_000_000 + if over { 589_000 + 41 * MS - 3000 } else { 0 },
            open_pause_ns: Some(0),
            ..GcSample::default()
        }),
        goroutines: Some(GoroutineSample {
            count: Some(101),
            system: 6,
            by_status: BTreeMap::from([("_Gwaiting".into(), 106), ("_Grunning".into(), 1)]),
        }),
        gomaxprocs: Some(2),
        ps: vec![PSample { id: 0, status: "_Prunning".into(), m_id: Some(0), tid: Some(1) }],
        time_to_run: Some(hist(vec![100; 50], &[90, 200_000, 40_000_000])),
        assist_cpu_ns: Some(if over { 9_000_000 } else { 4_000_000 }),
        stw: Some(StwSample {
            stopping_gc: hist(vec![9_000; 40], &[19_000, 40 * MS + 18_000]),
            stopping_other: TimeHist::default(),
            total_gc: hist(vec![50_000; 40], &[589_000, 41 * MS - 3000]),
            total_other: TimeHist::default(),
        }),
        gc_pauses: None,
    }))
}

/// What follows on its events.
pub(crate) fn tail() -> Vec<Record> {
    let hists = BTreeMap::from([
        (Hist::WokenOutside as u8, hist(&[2_000, 3_000, 9_000, 40_000])),
        (Hist::WokenInStw as u8, hist(&[1_000_000])),
        (Hist::PreemptedOutside as u8, hist(&[8_000_000])),
        (Hist::PreemptedInStw as u8, hist(&[38_000_000])),
        (Hist::OnCpu as u8, hist(&[1_000_000, 5_000_000])),
        (Hist::EpollWait as u8, hist(&[30_000_000; 30])),
        (Hist::EpollLate as u8, hist(&[2_000, 2_000_000])),
    ]);
    let class =
        |n: u64| BTreeMap::from([("thread".to_owned(), n), ("probe".to_owned(), n * 3 / 5)]);
    vec![
        sample(1, Moment::Start),
        interval(1065 * MS, 1),
        sample(1064 * MS, Moment::Running),
        interval(2065 * MS, 2),
        sample(2065 * MS, Moment::End),
        Record::Process(Box::new(ProcessInfo {
            tgid: 9,
            comm: "stress".into(),
            cgroup: "/user.slice".into(),
            cmdline: "stress -c 1".into(),
        })),
        Record::Thread(Box::new(ThreadInfo {
            target: 0,
            tid: 2,
            m_id: Some(7),
            comm: "svc".into(),
        })),
        Record::ThreadTotals(Box::new(ThreadTotals {
            target: 0,
            tid: 2,
            exited: false,
            state_ns: [0, 1500 * MS, 4 * MS, 38 * MS, MS, 500 * MS, 3 * MS, 0, 0],
            state_count: [0, 90, 40, 20, 5, 41, 2, 0, 0],
        })),
        Record::ThreadTotals(Box::new(ThreadTotals {
            target: 0,
            tid: 1,
            exited: true,
            state_ns: [0, 900 * MS, 2 * MS, 9 * MS, 0, 1100 * MS, 0, 0, 0],
            state_count: [0, 50, 30, 10, 0, 31, 0, 0, 0],
        })),
        Record::Notice(Box::new(Notice {
            ts_ns: 70 * MS,
            target: Some(0),
            text: "gcstopm is inlined here\x1b[2J".into(),
        })),
        Record::Hists(Box::new(Hists { ts_ns: 2066 * MS, target: 0, hists })),
        Record::End(Box::new(RunEnd {
            end_ns: 2070 * MS,
            reason: "duration".into(),
            produced: class(20),
            lost: class(0),
            received: class(20),
            undecodable: 0,
            threads_full: 0,
            host_switches: 4321,
            cost: Cost {
                agent_cpu_ns: 12 * MS,
                agent_max_rss_bytes: 23_000_000,
                probe_hits: vec![ProbeHits { target: 0, site: "stw_stop".into(), hits: 3 }],
                hot_probes: vec![HotProbes {
                    target: 0,
                    budget: 0.01,
                    budget_least_cpus: 0.5,
                    hit_ns: 1_500,
                    hits: 2_000,
                    target_cpu_ns: Some(1_000 * MS),
                }],
                ring_bytes: 4096,
                attach_ns: 80 * MS,
                ..Cost::default()
            },
        })),
    ]
}

/// A short whole run.
pub(crate) fn run() -> Vec<Record> {
    let mut records = vec![start("go1.27.3")];
    records.extend(scene().events().into_iter().map(Record::Event));
    records.extend(tail());
    records
}

fn golden(name: &str, actual: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/report/golden").join(name);
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        std::fs::write(&path, actual).unwrap();
    }
    let expected = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(expected == actual, "{name} differs; UPDATE_GOLDEN=1 rewrites it. Now:\n{actual}");
}

fn fits(text: &str) {
    for line in text.lines() {
        assert!(line.chars().count() <= 100, "{} columns: {line}", line.chars().count());
    }
}

#[test]
fn golden_report() {
    let mut report = Report::build("golden", run());
    // Correlation has golden tests of its own; its shape is not this test's matter.
    report.first.correlation =
        crate::analysis::correlate::correlate(&[], &[], &[], &hist(&[]), &hist(&[]));
    let mut json: Value = serde_json::from_str(&report.to_json().unwrap()).unwrap();
    json["correlation"] = Value::Null;
    golden("report.json", &(serde_json::to_string_pretty(&json).unwrap() + "\n"));
    let text = text(&report, Style::Plain);
    let heading = "\nGC, scheduler and network together";
    let (before, after) = text.split_once(heading).unwrap_or((&text, ""));
    let after = after.find("\n\n").map_or("", |i| &after[i + 1..]);
    golden("report.txt", &format!("{before}{after}"));
    fits(&text);
}

/// Spans of a program with two Ps and the probes that tell them.
fn with_spans() -> Vec<Record> {
    let mut records = run();
    let sites = [Site::AssistPark, Site::AssistDone, Site::HandOffP];
    if let Some(Record::Start(start)) = records.first_mut() {
        let one = start.targets[0].probes[0].clone();
        let probes = sites.map(|site| AttachedProbe { site_id: site as u32, ..one.clone() });
        start.targets[0].probes.extend(probes);
    }
    let span = |what: SpanWhat, tid, detail, id, (start_ns, ts_ns): (u64, u64), middle_ns| {
        let header = Header { ts_ns, kind: EventKind::Span as u8, target: 0, cpu: 0, tid };
        let what = what as u32;
        Record::Event(Event::Span(SpanEvent { header, what, detail, start_ns, middle_ns, id }))
    };
    let ms = |from: u64, to: u64| (from * MS, to * MS);
    let spans = [
        span(SpanWhat::AssistPark, 2, 0, 77, ms(1200, 1203), 0),
        span(SpanWhat::PHeld, 2, 0, span_p(0, 3), ms(1300, 1306), 1306 * MS),
        span(SpanWhat::PHeld, 1, NO_SYSCALL, span_p(1, 0), ms(1302, 1309), 0),
    ];
    let end = records.pop();
    records.extend(spans);
    records.extend(end);
    records
}

#[test]
fn spans_are_what_goroutines_waited_for() {
    let report = Report::build("x", with_spans());
    let json: Value = serde_json::from_str(&report.to_json().unwrap()).unwrap();
    let g = &json["goroutine_delays"];
    assert_eq!(g["assists"]["unavailable"], Value::Null);
    assert_eq!(g["assists"]["worst"][0]["goid"], 77);
    assert_eq!(g["assists"]["cpu_ns"], 5_000_000);
    let held = &g["p_held"]["worst"];
    assert_eq!((&held[0]["p"], &held[0]["off"]), (&1.into(), &"preempted".into()));
    assert_eq!((&held[1]["queued"], &held[1]["syscall_name"]), (&3.into(), &"read".into()));
    let starved = &g["p_starvation"];
    assert_eq!((&starved["count"], &starved["total_ns"]), (&1.into(), &(4 * MS).into()));
    assert_eq!(starved["worst"][0]["holders"].as_array().map(Vec::len), Some(2));
    let text = text(&report, Style::Plain);
    fits(&text);
    let says = |s: &str| {
        let flat = text.split_whitespace().collect::<Vec<_>>().join(" ");
        assert!(flat.contains(s), "no {s:?} in {flat}");
    };
    says(
        "6 ms: P 0 with thread 7 (tid 2) asleep in read; the runtime took it, with 3 goroutines waiting on it.",
    );
    says(
        "No P could run a goroutine 1 time, 4 ms in all. Longest: 4 ms: P 0 with thread 7 (tid 2) asleep in read",
    );
}

#[test]
fn without_its_probes_nothing_is_said_of_goroutines() {
    let json: Value = serde_json::from_str(&Report::build("x", run()).to_json().unwrap()).unwrap();
    let g = &json["goroutine_delays"];
    for part in ["assists", "p_held", "p_starvation"] {
        assert!(g[part]["unavailable"].is_string(), "{part}");
    }
}

#[test]
fn the_keys_that_must_exist() {
    let json: Value = serde_json::from_str(&Report::build("x", run()).to_json().unwrap()).unwrap();
    let paths = "schema target.pid target.exe target.go_version window.duration_ns runqueue.count \
        runqueue.p50_ns runqueue.p99_ns runqueue.max_ns runqueue.total_ns runqueue.wakeup.count \
        runqueue.preempted.count gc.count gc.cycles.0.start_ns gc.cycles.0.duration_ns \
        gc.cycles.0.mark_ns stw.0.reason stw.0.start_ns stw.0.stopping_ns stw.0.stopped_ns \
        stw.0.total_ns stw.1.laggard_tid stw.0.explained_ns stw.0.unexplained_ns \
        stw.0.causes.0.kind stw.0.causes.0.ns stw.0.causes.0.tid stw.1.causes.0.behind \
        netpoll.blocking netpoll.late_wakes netpoll.nonblocking correlation events.received \
        events.lost cost others";
    for path in paths.split_whitespace() {
        let pointer = format!("/{}", path.replace('.', "/"));
        let value = json.pointer(&pointer);
        assert!(value.is_some_and(|v| !v.is_null()), "{path}: {value:?}");
    }
    assert_eq!(json["schema"], "g211s.report/1");
}

#[test]
fn a_run_and_its_replay_agree_whatever_the_ring_did_to_the_order() {
    let live = run();
    let mut replay = live.clone();
    // CPUs' events overtake each other within the slack; equal times keep their order.
    let events = replay.iter().filter(|r| matches!(r, Record::Event(_))).count();
    let time = |r: &Record| match r {
        Record::Event(e) => e.header().ts_ns + u64::from(e.header().cpu) * 4 * MS,
        _ => 0,
    };
    replay[1..=events].sort_by_key(time);
    let (a, b) = (Report::build("live", live), Report::build("replay", replay));
    assert_eq!(b.events.late, 0);
    let (a, b) = (a.to_json().unwrap(), b.to_json().unwrap());
    assert_eq!(a.replace("\"source\": \"live\"", "\"source\": \"replay\""), b);
}

#[test]
fn stops_are_told_live_and_once() {
    let mut pipeline = Pipeline::new("live");
    let mut told = Vec::new();
    let mut keep = |notes: Vec<Note>| {
        told.extend(notes.into_iter().filter_map(|n| match n {
            Note::Stop { stop, .. } => Some((stop.n, sentence(&stop))),
            Note::Delay { .. }
            | Note::Sleep { .. }
            | Note::Cycle { .. }
            | Note::Notice(_)
            | Note::Disagreement { .. } => None,
        }));
    };
    for record in run() {
        keep(pipeline.push(record));
    }
    keep(pipeline.flush());
    assert_eq!(told.iter().map(|(n, _)| *n).collect::<Vec<_>>(), [1, 2]);
    assert!(told[1].1.contains("behind `stress` (pid 9)"), "{}", told[1].1);
    assert_eq!(pipeline.finish().first.stw.len(), 2);
}

/// It tells the same, compares samples that lie far apart, and nothing of it is left in the end.
#[test]
fn a_run_without_an_end_forgets_what_it_told() {
    let mut records = run();
    records.retain(|r| {
        let later = matches!(r, Record::Runtime(s) if s.moment != Moment::Start);
        !later && !matches!(r, Record::End(_))
    });
    for second in 3..200 {
        records.push(interval(second * 1000 * MS, 3));
        if second % 40 == 0 {
            records.push(sample(second * 1000 * MS + 1, Moment::Running));
        }
    }
    let mut pipeline = Pipeline::new("live").unending();
    let (mut stops, mut cycles) = (0, 0);
    for record in records {
        for note in pipeline.push(record) {
            match note {
                Note::Stop { .. } => stops += 1,
                Note::Cycle { .. } => cycles += 1,
                Note::Disagreement { accuracy, .. } => panic!("{accuracy:?}"),
                Note::Delay { .. } | Note::Sleep { .. } | Note::Notice(_) => {}
            }
        }
    }
    assert_eq!((stops, cycles), (2, 1));
    let target = &pipeline.state.targets[0];
    assert_eq!((target.judged.len(), target.gc.cycles.len()), (0, 0));
    assert!(target.intervals.len() <= 4, "{}", target.intervals.len());
    assert!(target.totals.is_empty() && target.goroutines.holdings.is_empty());
    assert!(pipeline.state.notices.is_empty());
}

#[test]
fn a_recording_that_was_cut_off_reports_what_it_holds() {
    let all = run();
    for n in 0..all.len() {
        let report = Report::build("cut", all[..n].to_vec());
        assert!(!report.run.complete);
        assert!(report.events.lost.is_none());
        let text = text(&report, Style::Plain);
        assert!(text.contains("cut off"));
        fits(&text);
    }
    let report = Report::build("cut", all[..all.len() - 2].to_vec());
    assert_eq!(report.first.runqueue.all.count, 8, "counters are known");
    assert_eq!(report.first.runqueue.all.p99_ns, None, "quantiles are not");
}

#[test]
fn loss_is_shouted() {
    let mut records = run();
    if let Some(Record::End(end)) = records.last_mut() {
        end.lost.insert("thread".into(), 7);
    }
    let text = text(&Report::build("x", records), Style::Ansi);
    assert!(text.starts_with("\x1b[1;31m!! LOST 7 of 32 events (21.9 %): 7 thread."), "{text}");
}

#[test]
fn sampled_polls_are_said_to_be_sampled() {
    let counted_for = |ns: Option<u64>| {
        let mut records = run();
        for record in &mut records {
            if let Record::Interval(i) = record {
                i.polls_ns = ns;
            }
        }
        Report::build("x", records)
    };
    let report = counted_for(Some(100 * MS));
    let netpoll = &report.first.netpoll;
    assert!(netpoll.sampled && netpoll.observed_ns == 100 * MS);
    // 80 polls in a tenth of a second; sleeps are counted always.
    assert_eq!(netpoll.blocking.per_s, Some(800.0));
    assert_eq!(netpoll.blocking.slept, 60);
    let text = text(&report, Style::Plain);
    assert!(text.contains("About 800 polls a second that may wait"), "{text}");
    fits(&text);
    // A recording from before polls could be sampled: they were all counted.
    assert!(!counted_for(None).first.netpoll.sampled);
    assert_eq!(counted_for(Some(0)).first.netpoll.blocking.per_s, None);
}

/// The runtime counted a stop more than was seen: said at the top, and while the run goes on.
#[test]
fn a_missed_stop_is_shouted() {
    let mut records = run();
    let end = records.len() - 1;
    records.insert(end, sample(6001 * MS, Moment::End));
    records.insert(end, interval(6000 * MS, 3));
    for record in &mut records {
        if let Record::Runtime(s) = record
            && s.moment != Moment::Start
            && let (Some(gc), Some(stw)) = (&mut s.gc, &mut s.stw)
        {
            gc.cycles += 1;
            stw.total_gc.overflow += 1;
        }
    }
    let mut pipeline = Pipeline::new("live");
    let mut told = 0;
    for record in records {
        for note in pipeline.push(record) {
            told += usize::from(matches!(note, Note::Disagreement { .. }));
        }
    }
    assert_eq!(told, 1);
    let report = pipeline.finish();
    let text = text(&report, Style::Plain);
    assert!(
        text.starts_with(
            "!! process 42: WRONG against the runtime's counters: GC cycles: 1 seen, 2 by"
        ),
        "{text}"
    );
    assert!(text.contains("DISAGREE"));
    fits(&text);
}

#[test]
fn further_targets_have_the_same_shape() {
    let mut records = run();
    if let Record::Start(s) = &mut records[0] {
        let mut second = s.targets[0].clone();
        second.pid = 43;
        second.tgid = 101;
        s.targets.push(second);
    }
    let json: Value =
        serde_json::from_str(&Report::build("x", records).to_json().unwrap()).unwrap();
    let other = json["others"][0].as_object().unwrap();
    assert_eq!(other["target"]["pid"], 43);
    for key in other.keys() {
        assert!(json.get(key).is_some(), "{key}");
    }
    assert_eq!(json["stw"].as_array().unwrap().len(), 2);
    assert_eq!(other["stw"].as_array().unwrap().len(), 0);
}

#[test]
fn go_1_21_through_the_pipeline() {
    let mut records = run();
    if let Record::Start(s) = &mut records[0] {
        s.targets[0].go_version = "go1.21.13".into();
    }
    let extra = Scene::new(MS).probe_ns(2 * MS + 20_000, 1, Site::StwStopped, 1, &[]).probe_ns(
        50 * MS + 20_000,
        1,
        Site::StwStopped,
        2,
        &[],
    );
    let mut events: Vec<Event> = extra.events();
    records.retain(|r| match r {
        Record::Event(e @ Event::Probe(p)) if p.site != Site::StwEnd as u32 => {
            events.push(e.clone());
            false
        }
        Record::Event(Event::Probe(_)) => false,
        Record::Event(e) => {
            events.push(e.clone());
            false
        }
        _ => true,
    });
    events.sort_by_key(|e| e.header().ts_ns);
    records.splice(1..1, events.into_iter().map(Record::Event));
    let report = Report::build("x", records);
    assert_eq!(report.first.gc.count, 1);
    let cycle = &report.first.gc.cycles[0];
    assert_eq!(cycle.sweep_term_ns, 590_000);
    assert_eq!(cycle.mark_term_ns, 41 * MS - 1000);
    assert_eq!(report.first.stw[1].laggard_tid, Some(2));
    assert_eq!(report.first.stw[1].runtime_total_ns, None);
}

/// Bytes that may be an event.
pub(crate) fn any_event() -> impl Strategy<Value = Vec<u8>> {
    // Mostly small numbers, so that events have to do with each other.
    let word = prop_oneof![8 => 0u64..40, 1 => any::<u64>()];
    let sizes = prop_oneof![Just((1u8, 56)), Just((2, 56)), Just((3, 64)), Just((4, 24))];
    (sizes, prop::collection::vec(word, 8), 0u8..2, 0u16..2, 1u32..5, any::<bool>()).prop_map(
        |((kind, len), words, target, cpu, tid, fit)| {
            let mut bytes: Vec<u8> = words.iter().flat_map(|w| w.to_le_bytes()).collect();
            bytes.truncate(len);
            bytes[8] = kind;
            bytes[9] = target;
            bytes[10..12].copy_from_slice(&cpu.to_le_bytes());
            bytes[12..16].copy_from_slice(&tid.to_le_bytes());
            if fit && kind == 1 {
                bytes[46] = (words[5] % 9) as u8;
                bytes[47] = (words[6] % 9) as u8;
            }
            if fit && kind == 3 {
                bytes[16..20].copy_from_slice(&(words[2] as u32 % 9).to_le_bytes());
                bytes[20..24].copy_from_slice(&(words[3] as u32 % 4).to_le_bytes());
            }
            bytes
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn any_stream_gives_a_report_that_adds_up(
        bytes in prop::collection::vec(any_event(), 0..80),
        version in prop_oneof![Just("go1.21.13"), Just("go1.22.1"), Just("go1.27.3"), Just("?")],
    ) {
        let mut records = vec![start(version)];
        records.extend(bytes.iter().filter_map(|b| Event::decode(b).ok()).map(Record::Event));
        records.extend(tail());
        let report = Report::build("x", records);
        for s in &report.first.stw {
            prop_assert_eq!(s.stopping_ns + s.stopped_ns, s.total_ns);
            prop_assert_eq!(s.explained_ns + s.unexplained_ns, s.total_ns);
            prop_assert_eq!(s.causes.iter().map(|c| c.ns).sum::<u64>(), s.total_ns);
        }
        let text = text(&report, Style::Plain);
        prop_assert!(!text.chars().any(|c| c.is_control() && c != '\n'));
        fits(&text);
        report.to_json().unwrap();
    }
}

/// The scene once more, `round` times 66 ms later: events, stops and the runtime's times moved.
fn again(events: &[Event], round: u64) -> impl Iterator<Item = Event> {
    let shift = round * 66 * MS;
    events.iter().cloned().map(move |mut e| {
        match &mut e {
            Event::Thread(t) => {
                t.header.ts_ns += shift;
                t.since_ns += shift;
                t.queued_ns += shift;
            }
            Event::Slice(s) => {
                s.header.ts_ns += shift;
                s.start_ns += shift;
                s.end_ns += shift;
            }
            Event::Probe(p) => {
                p.header.ts_ns += shift;
                p.stw += 2 * round as u32;
                // `now` and the like; `StwEnd` carries a length.
                let times = p.site != Site::StwEnd as u32;
                p.args.iter_mut().filter(|a| times && **a > MS).for_each(|a| *a += shift);
            }
            Event::Life(l) => l.header.ts_ns += shift,
            Event::Stack(s) => s.header.ts_ns += shift,
            Event::Span(s) => {
                s.header.ts_ns += shift;
                s.start_ns += shift;
            }
        }
        e
    })
}

/// Several cycles, without the stop that the scene leaves open.
pub(crate) fn cycles(rounds: u64) -> Vec<Event> {
    let mut one = scene().events();
    one.retain(|e| !matches!(e, Event::Probe(p) if p.stw == 3));
    (0..rounds).flat_map(|round| again(&one, round).collect::<Vec<_>>()).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn lost_events_never_pair_what_does_not_belong_together(
        lost in prop::collection::vec(prop::bool::weighted(0.15), 200),
    ) {
        let all = cycles(5);
        let report = |events: Vec<Event>| {
            let mut records = vec![start("go1.27.3")];
            records.extend(events.into_iter().map(Record::Event));
            Report::build("x", records).first
        };
        let kept = all.iter().zip(lost.iter().chain(std::iter::repeat(&false)));
        let less = report(kept.filter(|(_, lost)| !**lost).map(|(e, _)| e.clone()).collect());
        let whole = report(all);
        prop_assert_eq!((whole.gc.count, whole.stw.len()), (5, 10));
        prop_assert_eq!((whole.gc.incomplete.len(), whole.stw_incomplete.len()), (0, 0));
        for s in &less.stw {
            let same = whole.stw.iter().find(|w| w.n == s.n).unwrap();
            prop_assert_eq!((s.start_ns, s.stopping_ns), (same.start_ns, same.stopping_ns));
            // Without the runtime's own end the entry of startTheWorldWithSema stands in for it.
            prop_assert!(s.total_ns.abs_diff(same.total_ns) <= 90_000);
            // What a lost gcstopm leaves is no laggard, not another.
            prop_assert!(s.laggard_tid.is_none() || s.laggard_tid == same.laggard_tid);
        }
        for c in &less.gc.cycles {
            let same = whole.gc.cycles.iter().find(|w| w.start_ns == c.start_ns).unwrap();
            prop_assert_eq!(c.stw, same.stw);
            prop_assert!(c.mark_ns.abs_diff(same.mark_ns) <= 90_000);
        }
    }
}

/// Prints the pipeline's speed: `cargo test --release -- --ignored --nocapture speed`.
#[test]
#[ignore = "a measurement"]
fn speed_of_ten_million_events() {
    let one = cycles(1);
    let mut pipeline = Pipeline::new("speed");
    pipeline.push(start("go1.27.3"));
    let began = std::time::Instant::now();
    let (mut n, mut round) = (0u64, 0u64);
    while n < 10_000_000 {
        // A cycle every 1.6 s; the rest is what `--full` streams.
        let quiet = round % 25 != 0;
        for e in again(&one, round).filter(|e| !quiet || !matches!(e, Event::Probe(_))) {
            pipeline.push(Record::Event(e));
            n += 1;
        }
        round += 1;
    }
    let stops = pipeline.finish().first.stw.len();
    println!("{n} events, {stops} stops in {:?}", began.elapsed());
}
