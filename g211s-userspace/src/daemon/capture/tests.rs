use g211s_ebpf::event::{EventKind, Header, LifeEvent};
use g211s_ebpf::hist::{Hist, bucket_of};

use super::*;
use crate::record::{Attached, Detached, Host, LatenessSource, Settings};
use crate::report::Report;

const SECOND: u64 = 1_000_000_000;

fn head() -> RunStart {
    RunStart {
        g211s_version: "1".into(),
        start_ns: SECOND,
        wall_ns: 1000 * SECOND,
        host: Host { kernel: "6".into(), arch: "x".into(), hostname: "h".into(), cpus: 2 },
        settings: Settings {
            threshold_ns: 1_000_000,
            full: false,
            interval_ns: SECOND,
            ring_bytes: 0,
            observer_pid: 1,
            poll_source: None,
            lateness_source: LatenessSource::Wakeup,
        },
        targets: Vec::new(),
    }
}

fn target(pid: u32) -> Target {
    Target {
        pid,
        tgid: pid,
        comm: format!("svc{pid}"),
        exe: String::new(),
        cgroup: String::new(),
        go_version: "go1.27.3".into(),
        module: None,
        link_mode: Vec::new(),
        probes: Vec::new(),
        unavailable: Vec::new(),
        cpus_allowed: String::new(),
        threads: Vec::new(),
        runtime: None,
        quotas: Vec::new(),
        stacks: None,
    }
}

fn attach(ring: &mut Ring, index: u8, pid: u32, ts_ns: u64) {
    ring.push(&Record::Attached(Box::new(Attached { ts_ns, index, target: target(pid) })));
}

/// A reading of all counters: `n` waits of 5 µs so far.
fn read(ring: &mut Ring, index: u8, ts_ns: u64, n: u64) {
    let (woken, woken_ns) = (n, n * 5000);
    ring.push(&Record::Interval(Box::new(Interval {
        ts_ns,
        target: index,
        woken,
        woken_ns,
        polls_ns: Some(ts_ns),
        hits: vec![n; 4],
        ..Interval::default()
    })));
    let h = SparseHist {
        count: n,
        sum: n * 5000,
        max: 5000,
        buckets: vec![(bucket_of(5000) as u16, n)],
    };
    let hists = [(Hist::WokenOutside as u8, h)].into();
    ring.push(&Record::Hists(Box::new(Hists { ts_ns, target: index, hists })));
}

fn birth(ring: &mut Ring, index: u8, ts_ns: u64) {
    let header = Header { ts_ns, kind: EventKind::Life as u8, target: index, cpu: 0, tid: 7 };
    ring.push(&Record::Event(Event::Life(LifeEvent { header, what: 1, other: 0 })));
}

fn report(ring: &Ring, end_ns: u64) -> Report {
    let incident = ring.incident(head(), end_ns, "because".into()).expect("something is kept");
    let path = std::env::temp_dir().join(format!(
        "g211s-capture-{}-{end_ns}-{:p}.g211s",
        std::process::id(),
        ring
    ));
    let size = incident.write(&path).expect("writes");
    assert_eq!(size, std::fs::metadata(&path).expect("is there").len());
    let records = Reader::open(&path).expect("opens");
    let report = Report::build("file", records.map(|r| r.expect("whole")));
    std::fs::remove_file(&path).expect("is there");
    report
}

#[test]
fn a_file_tells_of_its_own_time_only() {
    let mut ring = Ring::new(20 * SECOND, 1 << 20).expect("a ring");
    attach(&mut ring, 5, 42, SECOND);
    birth(&mut ring, 5, 2 * SECOND);
    for k in 1..=6u64 {
        ring.begin(k * 10 * SECOND);
        read(&mut ring, 5, k * 10 * SECOND + 1, 100 * k);
        birth(&mut ring, 5, k * 10 * SECOND + 5);
        ring.close_block();
    }
    ring.begin(65 * SECOND);
    read(&mut ring, 5, 65 * SECOND + 1, 640);
    let report = report(&ring, 65 * SECOND + 2);
    assert!(report.run.complete);
    assert_eq!(report.run.end_reason.as_deref(), Some("incident"));
    // 20 s reach back into the stretch that began at 40 s.
    assert_eq!(report.first.window.start_ns, 40 * SECOND);
    assert_eq!(report.first.window.wall_ns, 1039 * SECOND);
    assert_eq!((report.first.target.pid, report.first.target.threads_born), (42, 3));
    assert_eq!(report.first.runqueue.wakeup.count, 240);
    assert_eq!(report.first.runqueue.wakeup.total_ns, 240 * 5000);
    assert!(report.others.is_empty());
    assert_eq!(report.notices[0].text, "because");
}

#[test]
fn who_had_the_place_before_is_somebody_else() {
    let mut ring = Ring::new(60 * SECOND, 1 << 20).expect("a ring");
    attach(&mut ring, 0, 1, SECOND);
    attach(&mut ring, 3, 42, SECOND);
    ring.begin(10 * SECOND);
    read(&mut ring, 0, 10 * SECOND + 1, 7);
    read(&mut ring, 3, 10 * SECOND + 1, 1000);
    birth(&mut ring, 3, 11 * SECOND);
    ring.push(&Record::Detached(Detached { ts_ns: 12 * SECOND, index: 3 }));
    attach(&mut ring, 3, 43, 13 * SECOND);
    birth(&mut ring, 3, 14 * SECOND);
    birth(&mut ring, 3, 14 * SECOND + 1);
    ring.begin(20 * SECOND);
    read(&mut ring, 0, 20 * SECOND + 1, 9);
    read(&mut ring, 3, 20 * SECOND + 1, 30);
    let report = report(&ring, 20 * SECOND + 2);
    assert_eq!((report.first.target.pid, report.first.runqueue.wakeup.count), (1, 2));
    let second = &report.others[0];
    assert_eq!((second.target.pid, second.target.threads_born), (43, 2));
    assert_eq!(second.runqueue.wakeup.count, 30, "its own, from its beginning on");
}

#[test]
fn memory_is_bounded() {
    let mut ring = Ring::new(600 * SECOND, 40_000).expect("a ring");
    attach(&mut ring, 0, 1, SECOND);
    for k in 1..400u64 {
        ring.begin(k * SECOND);
        read(&mut ring, 0, k * SECOND, k);
        for i in 0..200 {
            birth(&mut ring, 0, k * SECOND + i * 7919 % 100_000);
        }
        ring.close_block();
        assert!(ring.bytes() <= 40_000, "{}", ring.bytes());
    }
    assert!(ring.stretches.len() > 1 && ring.lost() == 0);
    ring.begin(400 * SECOND);
    assert!(ring.incident(head(), 401 * SECOND, String::new()).is_some());
}

#[test]
fn a_folder_keeps_to_its_size_and_cleans_up() {
    let path = std::env::temp_dir().join(format!("g211s-folder-{}", std::process::id()));
    let _ = std::fs::remove_dir_all(&path);
    std::fs::create_dir_all(&path).expect("makes");
    std::fs::write(path.join("incident-1.part"), "x").expect("writes");
    std::fs::write(path.join("notes.txt"), "mine").expect("writes");
    let folder = Folder::open(&path, 2500).expect("opens");
    assert!(!path.join("incident-1.part").exists(), "what a killed agent left");
    for hour in 0..5u64 {
        let name = folder.name(hour * 3600 * SECOND, "svc/../x 1");
        assert_eq!(name.parent(), Some(&*path));
        std::fs::write(name, [0; 1000]).expect("writes");
    }
    assert_eq!(folder.trim().expect("trims"), 3);
    let left: Vec<PathBuf> = folder.files("g211s").unwrap().into_iter().map(|f| f.0).collect();
    assert_eq!(
        left,
        [
            path.join("incident-19700101T030000.000Z-svc_.._x_1.g211s"),
            path.join("incident-19700101T040000.000Z-svc_.._x_1.g211s")
        ]
    );
    assert!(path.join("notes.txt").exists());
    // A new configuration while a file is being written.
    std::fs::write(path.join("incident-2.part"), [0; 10]).expect("writes");
    assert!(folder.clone().resized(Path::new("/elsewhere"), 1500).is_none());
    let folder = folder.resized(&path, 1500).expect("the same");
    assert!(path.join("incident-2.part").exists());
    assert_eq!(folder.trim().expect("trims"), 1);
    std::fs::remove_dir_all(&path).expect("removes");
    assert_eq!(utc(1_782_864_000_000_000_000), "20260701T000000.000Z");
    assert_eq!(utc(951_782_399_999_999_999), "20000228T235959.999Z");
    assert_eq!(utc(951_782_400_000_000_000), "20000229T000000.000Z");
}
