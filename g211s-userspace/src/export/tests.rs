//! Small runs for the tests of exports, and what holds for all formats.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

use g211s_ebpf::event::THREAD_OUTLIER;

use super::*;
use crate::model::ascii::{Scene, TGID};
use crate::record::{
    GoroutineSample, HeapSample, Host, LatenessSource, RunStart, RuntimeSample, Settings, Target,
    ThreadInfo,
};

const MS: u64 = 1_000_000;

/// A folder that goes away.
pub(super) struct Folder(pub(super) PathBuf);

impl Folder {
    pub(super) fn new() -> Self {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let n = NUMBER.fetch_add(1, Ordering::Relaxed);
        let path = std::env::temp_dir().join(format!("g211s-exports-{}-{n}", std::process::id()));
        std::fs::create_dir_all(&path).expect("a folder");
        Self(path)
    }

    fn names(&self) -> Vec<String> {
        let entries = std::fs::read_dir(&self.0).expect("the folder");
        let mut names: Vec<String> = entries
            .map(|e| e.expect("an entry").file_name().to_string_lossy().into_owned())
            .collect();
        names.sort();
        names
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// The head of a run with one target, whose threads are 1 to 5.
pub(super) fn start() -> Record {
    Record::Start(Box::new(RunStart {
        g211s_version: "0.1.0".into(),
        start_ns: 1,
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
            poll_source: None,
            lateness_source: LatenessSource::default(),
        },
        targets: vec![Target {
            pid: 42,
            tgid: TGID,
            comm: "svc".into(),
            exe: "/srv/svc".into(),
            cgroup: "/".into(),
            go_version: "go1.27.3".into(),
            module: None,
            link_mode: Vec::new(),
            probes: Vec::new(),
            unavailable: Vec::new(),
            cpus_allowed: "0-1".into(),
            threads: (1..=5).collect(),
            quotas: Vec::new(),
            stacks: None,
            runtime: None,
        }],
    }))
}

/// A run of a scene, with the names of its threads at the end and two samples of the runtime's counters.
pub(super) fn records(scene: &Scene) -> Vec<Record> {
    let sample = |end_ns, live, goroutines| {
        Record::Runtime(Box::new(RuntimeSample {
            end_ns,
            heap: Some(HeapSample { live, goal: Some(2 * live), ..HeapSample::default() }),
            goroutines: Some(GoroutineSample {
                count: Some(goroutines),
                ..GoroutineSample::default()
            }),
            ..RuntimeSample::default()
        }))
    };
    let mut records = vec![start(), sample(5, 1000, 7)];
    records.extend(scene.events().into_iter().map(Record::Event));
    records.push(sample(70 * MS, 3000, 9));
    for tid in 1..=2 {
        let info =
            ThreadInfo { target: 0, tid, m_id: Some(u64::from(tid) + 10), comm: "svc".into() };
        records.push(Record::Thread(Box::new(info)));
    }
    records
}

/// Thread 2 is preempted by a hog on CPU 1 for 38 ms, then wakes thread 1.
pub(super) fn scene() -> Scene {
    let mut scene = Scene::new(MS)
        .thread(1, &format!("=={}w=={}=", "_".repeat(48), "_".repeat(6)), &"0".repeat(60))
        .thread(2, &format!("=========={}=={}", "p".repeat(38), "_".repeat(10)), &"1".repeat(60))
        .woken_by(1, 2)
        .cpu(0, &format!("11{}{}", "0".repeat(49), "1".repeat(9)), &[])
        .cpu(
            1,
            &format!("2222222222{}{}222{}", "9".repeat(30), "0".repeat(8), "0".repeat(9)),
            &[(9, "stress")],
        );
    for e in &mut scene.transitions {
        let long = e.to == 1 && e.header.ts_ns - e.since_ns >= MS && (2..=4).contains(&e.from);
        e.flags |= if long { THREAD_OUTLIER } else { 0 };
    }
    scene
}

/// Exports records; the report, and what was left out.
pub(super) fn export(
    args: &ExportArgs,
    records: Vec<Record>,
) -> Result<(Report, Vec<(&'static str, u64)>)> {
    let mut exports = Exports::create(args)?;
    records.into_iter().try_for_each(|record| exports.push(record))?;
    exports.finish()
}

/// All formats.
pub(super) fn all(folder: &Path) -> ExportArgs {
    ExportArgs {
        perfetto: Some(folder.join("a.pftrace")),
        pprof: Some(folder.join("a.pb.gz")),
        csv: Some(folder.join("csv")),
        parquet: Some(folder.join("parquet")),
    }
}

#[test]
fn the_report_is_the_same_with_and_without_exports() {
    let folder = Folder::new();
    let (with, left_out) = export(&all(&folder.0), records(&scene())).unwrap();
    let (without, _) = export(&ExportArgs::default(), records(&scene())).unwrap();
    assert_eq!(with.to_json().unwrap(), without.to_json().unwrap());
    assert_eq!(left_out, []);
    assert_eq!(folder.names(), ["a.pb.gz", "a.pftrace", "csv", "parquet"]);
}

#[test]
fn what_is_not_finished_leaves_nothing_behind() {
    let folder = Folder::new();
    let mut exports = Exports::create(&all(&folder.0)).unwrap();
    exports.push(start()).unwrap();
    assert!(folder.names().iter().any(|n| n.contains("unfinished")));
    drop(exports);
    assert_eq!(folder.names(), ["csv", "parquet"], "empty folders");
    let bad = ExportArgs { perfetto: Some("/proc/none/x".into()), ..ExportArgs::default() };
    let e = Exports::create(&bad).err().map(|e| format!("{e:#}")).unwrap();
    assert!(e.starts_with("cannot write /proc/none/x: "), "{e}");
    let file = folder.0.join("here");
    std::fs::write(&file, "x").unwrap();
    let bad = ExportArgs { csv: Some(file), ..ExportArgs::default() };
    let e = Exports::create(&bad).err().map(|e| e.to_string()).unwrap();
    assert!(e.contains("is a file: give a folder"), "{e}");
}

#[test]
fn two_exports_do_not_share_a_place() {
    let args = |csv: &str, pprof: &str| ExportArgs {
        csv: Some(csv.into()),
        pprof: Some(pprof.into()),
        ..ExportArgs::default()
    };
    assert!(args("-", "-").check().unwrap_err().contains("standard output"));
    assert!(args("x", "x").check().unwrap_err().contains("twice"));
    assert_eq!(args("x", "-").check(), Ok(()));
}

#[test]
fn tables_have_a_row_for_each_thing() {
    let folder = Folder::new();
    let (report, _) = export(&all(&folder.0), records(&scene())).unwrap();
    let lines = |name: &str| {
        let text = std::fs::read_to_string(folder.0.join("csv").join(name)).unwrap();
        text.lines().skip(1).map(str::to_owned).collect::<Vec<_>>()
    };
    assert_eq!(lines("events.csv").len() as u64, report.events.received.total);
    let delays = lines("delays.csv");
    assert_eq!(delays.len() as u64, report.first.delays.count, "{delays:?}");
    assert!(delays[0].contains("stress"), "{delays:?}");
    let causes = lines("causes.csv");
    assert!(causes.iter().any(|l| l.contains(",runqueue_wait,30000000,2,")), "{causes:?}");
    let events = lines("events.csv");
    let wait = "thread,0,100,2,1,10000000,48000000,runnable_preempted,running,1,10000000";
    assert!(events.iter().any(|l| l.contains(wait)), "{events:#?}");
}

/// That others read them is in tests/exports.rs.
#[test]
fn parquet_files_are_whole() {
    let folder = Folder::new();
    export(&all(&folder.0), records(&scene())).unwrap();
    for name in ["events", "pauses", "delays", "causes", "cycles"] {
        let bytes = std::fs::read(folder.0.join(format!("parquet/{name}.parquet"))).unwrap();
        let end = bytes.len() - 8;
        assert_eq!((&bytes[..4], &bytes[end + 4..]), (&b"PAR1"[..], &b"PAR1"[..]), "{name}");
        let footer = u32::from_le_bytes(bytes[end..end + 4].try_into().unwrap()) as usize;
        assert!(footer > 100 && footer < end, "{name}: {footer}");
        assert_eq!(bytes[end - 1], 0, "{name}: the end of a struct");
    }
}

#[test]
fn the_profile_has_the_sums_of_the_table_of_stalls() {
    let folder = Folder::new();
    let (report, _) = export(&all(&folder.0), records(&scene())).unwrap();
    let bytes = std::fs::read(folder.0.join("a.pb.gz")).unwrap();
    let profile = crate::profile::pprof::from_bytes(&bytes).unwrap();
    let stalls = &report.first.stalls;
    assert!(stalls.total_ns > 0);
    let count: u64 = stalls.by_cause.iter().map(|c| c.count).sum();
    assert_eq!(profile.totals(), [count as i64, stalls.total_ns as i64]);
    let leaf = |s: &crate::profile::Sample| {
        profile.frames(s).next().and_then(|(_, f)| f).map(|f| f.function.clone())
    };
    let behind: i64 = profile
        .samples()
        .iter()
        .filter(|s| leaf(s).as_deref() == Some("behind stress (pid 9)"))
        .map(|s| s.values[1])
        .sum();
    assert_eq!(behind, 30 * MS as i64);
}
