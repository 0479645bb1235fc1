//! Pages of whole runs: what is in them, what never is, and that any stream has one.

use proptest::prelude::*;
use serde_json::Value;

use super::*;
use crate::event::Event;
use crate::record::{
    AllocDensity, AllocRun, AllocSample, AllocSamples, AllocStack, AllocState, AllocTotals,
    SymbolFrame, SymbolInfo, ThreadInfo, Waits,
};
use crate::report::tests::{any_event, cycles, run, start, tail};

const MS: u64 = 1_000_000;

fn page_of(records: &[Record]) -> String {
    let mut first = First::new("file");
    for record in records {
        first.push(record.clone());
    }
    let mut second = first.finish();
    for record in records {
        second.push(record.clone());
    }
    second.finish().unwrap()
}

/// What stands between two marks, which are there once.
fn between<'a>(page: &'a str, from: &str, to: &str) -> &'a str {
    assert_eq!(page.matches(from).count(), 1, "{from}");
    page.split_once(from).unwrap().1.split_once(to).unwrap().0
}

fn data_of(page: &str) -> Value {
    serde_json::from_str(between(
        page,
        "<script type=\"application/json\" id=\"data\">",
        "</script>",
    ))
    .unwrap()
}

/// The run once more, with names that would be markup, scripts, or the end of what they stand in.
fn hostile() -> (Vec<Record>, Vec<&'static str>) {
    let names = vec![
        "</script><script>alert(1)</script>",
        "<img src=x onerror=alert(2)>",
        "\"onmouseover=alert(3) x=\"",
        "{data}{script}\u{2028}\u{2029}",
        "</pre></style><svg/onload=alert(4)>",
    ];
    let mut records = run();
    for record in &mut records {
        match record {
            Record::Start(s) => {
                s.host.hostname = names[1].into();
                let t = &mut s.targets[0];
                (t.exe, t.comm, t.cgroup) = (names[0].into(), names[1].into(), names[4].into());
                (t.go_version, t.module) = (names[2].into(), Some(names[3].into()));
                t.probes[0].function = names[0].into();
                t.unavailable[0].why = names[4].into();
            }
            Record::Process(p) => (p.comm, p.cgroup) = (names[0].into(), names[1].into()),
            Record::Notice(n) => n.text = names[4].into(),
            Record::Thread(t) => t.comm = names[3].into(),
            Record::Event(Event::Slice(s)) if s.tgid == 9 => s.comm = *b"</script><b>x<!-",
            _ => {}
        }
    }
    (records, names)
}

fn allocations() -> Vec<Record> {
    let frame = |function: &str| SymbolFrame {
        function: function.into(),
        file: Some("/src/</script>.go".into()),
        line: Some(7),
        inlined: false,
    };
    let state = |ts_ns: u64, n: u64| {
        Record::AllocState(Box::new(AllocState {
            ts_ns,
            plan: "refill".into(),
            totals: Some(AllocTotals { small: [(6, n * 100)].into(), ..AllocTotals::default() }),
            cycles: Some(n as u32),
            cpu_ns: n * 100 * MS,
            hits: n * 10,
            observed_ns: ts_ns,
            looks: 1,
            ..AllocState::default()
        }))
    };
    let sample = |stack: u32, objects: u64| AllocSample {
        ts_ns: MS,
        tid: 1,
        density: AllocDensity::Refill,
        stack,
        span_class: 12,
        size: 64,
        objects,
        address: 0,
        sweepgen: 2,
        look: 0,
    };
    let head = run().remove(0);
    let names =
        [(5, "main.</script><script>alert(1)</script>"), (6, "main.outer"), (7, "net/http.serve")];
    let mut records = vec![head];
    records.push(Record::AllocRun(Box::new(AllocRun {
        budget: 0.01,
        cost_ns: 1000,
        class_sizes: vec![0, 8, 16, 24, 32, 48, 64],
        ..AllocRun::default()
    })));
    records.extend(names.map(|(address, name)| {
        Record::Symbol(Box::new(SymbolInfo { target: 0, address, frames: vec![frame(name)] }))
    }));
    for (id, addresses) in [(0, vec![5, 6]), (1, vec![7, 6])] {
        records.push(Record::AllocStack(Box::new(AllocStack { target: 0, id, addresses })));
    }
    records.push(state(0, 0));
    let samples = vec![sample(0, 30), sample(1, 70)];
    records.push(Record::AllocSamples(Box::new(AllocSamples { target: 0, samples })));
    records.push(state(1000 * MS, 1));
    records
}

#[test]
fn a_page_holds_what_its_pictures_need() {
    let page = page_of(&run());
    let data = data_of(&page);
    assert_eq!(data["schema"], "g211s.page/1");
    let t = &data["targets"][0];
    let worst = &t["pauses"][0];
    assert_eq!((&worst["kind"], &worst["ns"]), (&"stop".into(), &(41 * MS - 1000).into()));
    assert!(worst["words"].as_str().unwrap().contains("behind `stress` (pid 9)"), "{worst}");
    assert_eq!(worst["cause"], "runqueue_wait");
    let parts = worst["parts"].as_array().unwrap();
    assert_eq!(parts.iter().map(|p| p["ns"].as_u64().unwrap()).sum::<u64>(), 41 * MS - 1000);
    let causes = t["causes"].as_array().unwrap();
    let all = causes.iter().map(|c| c["ns"].as_u64().unwrap()).sum::<u64>();
    assert_eq!(t["report"]["stalls"]["total_ns"], all);
    let behind = |c: &Value| c["words"] == "waiting behind `stress` (pid 9)";
    assert!(causes.iter().any(behind), "{causes:?}");
    // The culprit is on its CPU, during the pause.
    let island = &t["islands"][0];
    let runners = island["runners"].as_array().unwrap();
    let hog = runners.iter().position(|r| r["comm"] == "stress").expect("the hog");
    assert_eq!(runners[hog]["who"], "other");
    let column = |name: &str| {
        island[name].as_array().unwrap().iter().map(|v| v.as_u64().unwrap()).collect::<Vec<_>>()
    };
    let ran: u64 = column("ran")
        .iter()
        .zip(column("ran_ns"))
        .filter(|(who, _)| **who == hog as u64)
        .map(|(_, ns)| ns)
        .sum();
    assert_eq!(ran, 38 * MS);
    // The laggard waited, preempted, for as long; and then gave its P up.
    let waited = column("tid")
        .iter()
        .zip(column("state"))
        .zip(column("ns"))
        .filter(|((tid, s), _)| **tid == 2 && *s == 3)
        .map(|(_, ns)| ns)
        .sum::<u64>();
    assert_eq!(waited, 38 * MS);
    assert_eq!(island["marks"][0][0], 2);
    assert_eq!(t["stops"]["gap"].as_array().unwrap().len(), 2);
    assert_eq!(t["cycles"]["n"], serde_json::json!([1]));
    assert_eq!(t["report"]["stw"], serde_json::json!([]), "what columns hold is not there again");
    assert_eq!(t["lanes"].as_array().unwrap().len(), 2);
    assert_eq!(
        t["heat"]["all"].as_array().unwrap().iter().map(|n| n.as_u64().unwrap()).sum::<u64>(),
        7
    );
    assert!(t["heat"]["told"].as_u64().unwrap() >= 2);
    assert_eq!(t["together"]["points"]["at"].as_array().unwrap().len(), 1);
    assert_eq!(data["allocs"], Value::Null);
    assert!(page.len() < 300_000, "{} bytes", page.len());
}

#[test]
fn every_part_says_what_it_cannot_show() {
    let data = data_of(&page_of(&run()));
    let limits = &data["targets"][0]["limits"];
    let says = |part: &str, what: &str| {
        let lines = limits[part].as_array().unwrap_or_else(|| panic!("{part}"));
        assert!(lines.iter().any(|l| l.as_str().unwrap().contains(what)), "{part}: {lines:?}");
    };
    says("timeline", "nothing is known: the thread did not necessarily sleep");
    says("heat", "not recorded by time");
    says("gc", "once a second");
    says("together", "too few");
    says("network", "When a socket became ready");
    // Loss, and a run without its probes.
    let mut records = run();
    for record in &mut records {
        match record {
            Record::End(end) => drop(end.lost.insert("thread".into(), 7)),
            Record::Start(s) => s.targets[0].probes.clear(),
            _ => {}
        }
    }
    let data = data_of(&page_of(&records));
    let t = &data["targets"][0];
    assert!(data["alarms"][0].as_str().unwrap().starts_with("LOST 7"));
    assert_eq!(t["sees_stops"], false);
    let lines = t["limits"]["pauses"].to_string();
    assert!(lines.contains("7 events were lost") && lines.contains("cannot be seen"), "{lines}");
    assert!(t["limits"]["gc"].to_string().contains("cannot be seen"));
    assert!(t["lead"].to_string().contains("cannot be seen here"));
}

#[test]
fn waits_by_time_are_in_the_picture() {
    let mut records = run();
    let waits = Waits {
        target: 0,
        from: 0,
        ticks: 900,
        at: vec![3],
        waits: vec![5],
        waited_us: vec![50],
        within_us: vec![50],
    };
    records.insert(records.len() - 1, Record::Waits(Box::new(waits)));
    let t = &data_of(&page_of(&records))["targets"][0];
    assert_eq!((&t["heat"]["by_ticks"], &t["heat"]["means"]), (&true.into(), &5.into()));
    assert!(t["limits"]["heat"].to_string().contains("at the mean of theirs"));
}

#[test]
fn hostile_names_are_data_and_nothing_else() {
    let (records, names) = hostile();
    let page = page_of(&records);
    // The frame's own: the data and the script.
    assert_eq!(page.to_lowercase().matches("<script").count(), 2);
    assert_eq!(page.to_lowercase().matches("</script").count(), 2);
    let data = data_of(&page);
    let plain = between(&page, "<pre tabindex=\"0\">", "</pre>");
    assert!(!plain.contains('<') && plain.contains("&lt;"), "{plain}");
    let outside = page.replace(between(&page, "id=\"data\">", "</script>"), "").replace(plain, "");
    for hostile in ["alert(", "onerror=", "onload="] {
        let shown = outside.lines().find(|l| l.contains(hostile));
        // The title has the program's name, escaped.
        assert!(
            shown.is_none_or(|l| l.starts_with("<title>") && l.matches('<').count() == 2),
            "{shown:?}"
        );
    }
    let text = data.to_string();
    for name in &names[1..3] {
        assert!(text.contains(&name.replace('"', "\\\"")), "{name} is shown as it is");
    }
    let policy = between(&page, "http-equiv=\"Content-Security-Policy\" content=\"", "\"");
    assert!(policy.starts_with("default-src 'none'; script-src 'sha256-"), "{policy}");
    assert!(
        !policy.contains("unsafe") && policy.contains("require-trusted-types-for 'script'"),
        "{policy}"
    );
}

#[test]
fn a_page_needs_nothing_else() {
    let page = page_of(&run());
    let frame = page.replace(between(&page, "id=\"data\">", "</script>"), "");
    let frame = frame.replace("\"http://www.w3.org/2000/svg\"", "");
    for outside in ["http://", "https://", "src=", "@import", "url("] {
        assert!(!frame.contains(outside), "{outside}");
    }
    assert_eq!(frame.matches("href=\"data:,\"").count(), 1);
}

/// Every element of the frame that is opened is closed, in order.
#[test]
fn the_markup_is_well_formed() {
    let (records, _) = hostile();
    let page = page_of(&records);
    let mut rest = page.strip_prefix("<!doctype html>\n").unwrap();
    let mut open: Vec<&str> = Vec::new();
    while let Some((_, tag)) = rest.split_once('<') {
        let (tag, after) = tag.split_once('>').expect("a tag ends");
        rest = after;
        let name = tag.split([' ', '\n']).next().unwrap();
        match name.strip_prefix('/') {
            Some(closed) => assert_eq!(open.pop(), Some(closed)),
            None if matches!(name, "meta" | "link") => {}
            None => open.push(name),
        }
        if matches!(name, "script" | "style") {
            rest = rest.split_once(&format!("</{name}>")).expect("it ends").1;
            open.pop();
        }
    }
    assert_eq!(open, Vec::<&str>::new());
}

#[test]
fn allocations_have_a_page_and_may_be_beside_stalls() {
    let data = data_of(&page_of(&allocations()));
    assert_eq!(data["stalls"], false);
    let check = |data: &Value| {
        let flame = &data["allocs"]["flames"][0];
        assert_eq!((&flame["name"], &flame["unit"]), (&"alloc_space".into(), &"bytes".into()));
        // all, main.outer, and on it the two that it calls.
        assert_eq!(flame["depth"], serde_json::json!([0, 1, 2, 2]));
        let names = flame["names"].to_string();
        assert!(names.contains("net/http.serve") && names.contains("alert(1)"), "{names}");
        assert_eq!(data["allocs"]["document"]["sites"].as_array().unwrap().len(), 2);
        assert!(data["allocs"]["limits"].to_string().contains("estimates from samples"));
    };
    check(&data);
    let mut both = run();
    let end = both.pop();
    both.extend(allocations().into_iter().skip(1));
    both.extend(end);
    let data = data_of(&page_of(&both));
    assert_eq!(data["stalls"], true);
    check(&data);
    assert_eq!(data["targets"][0]["pauses"][0]["ns"], 41 * MS - 1000);
}

#[test]
fn every_target_has_its_own_pictures() {
    let mut records = run();
    if let Record::Start(s) = &mut records[0] {
        let mut second = s.targets[0].clone();
        (second.pid, second.tgid, second.exe) = (43, 9, "/srv/other".into());
        s.targets.push(second);
    }
    let data = data_of(&page_of(&records));
    let targets = data["targets"].as_array().unwrap();
    assert_eq!((&targets[0]["name"], &targets[1]["name"]), (&"svc".into(), &"other".into()));
    assert!(!targets[0]["pauses"].as_array().unwrap().is_empty());
    assert_eq!(targets[1]["pauses"], serde_json::json!([]));
    // The hog of the one is the other's own.
    let other = targets[1]["cpus"][1]["shares"].as_str().unwrap();
    let one = targets[0]["cpus"][1]["shares"].as_str().unwrap();
    assert_ne!(one, other);
}

#[test]
fn a_recording_that_was_cut_off_has_a_page() {
    let all = run();
    for n in 0..all.len() {
        let data = data_of(&page_of(&all[..n]));
        assert!(data["alarms"].to_string().contains("cut off"));
        assert_eq!(data["targets"].as_array().unwrap().len(), 1);
    }
}

#[test]
fn a_page_stays_small_whatever_the_run_holds() {
    let mut records = vec![start("go1.27.3")];
    // Two thousand cycles in two minutes, on 200 threads with long names.
    records.extend(cycles(2000).into_iter().map(Record::Event));
    records.extend((0..200u32).map(|tid| {
        Record::Thread(Box::new(ThreadInfo {
            target: 0,
            tid,
            m_id: Some(u64::from(tid)),
            comm: "x".repeat(1000),
        }))
    }));
    records.extend(tail());
    let page = page_of(&records);
    assert!(page.len() < 2_500_000, "{} bytes", page.len());
    let t = &data_of(&page)["targets"][0];
    assert_eq!(t["stops"]["gap"].as_array().unwrap().len(), 4000);
    assert_eq!(t["pauses"].as_array().unwrap().len(), 60);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]

    #[test]
    fn any_stream_has_a_page(bytes in prop::collection::vec(any_event(), 0..80), whole in any::<bool>()) {
        let mut records = if whole { vec![start("go1.27.3")] } else { Vec::new() };
        records.extend(bytes.iter().filter_map(|b| Event::decode(b).ok()).map(Record::Event));
        records.extend(tail());
        let data = data_of(&page_of(&records));
        for t in data["targets"].as_array().unwrap() {
            let lanes = t["lanes"].as_array().unwrap().iter().chain(t["cpus"].as_array().unwrap());
            for lane in lanes {
                prop_assert_eq!(lane["shares"].as_str().unwrap().len(), 2400);
            }
            for island in t["islands"].as_array().unwrap() {
                let length = island["to"].as_u64().unwrap() - island["from"].as_u64().unwrap();
                let ends = island["at"].as_array().unwrap().iter().zip(island["ns"].as_array().unwrap());
                for (at, ns) in ends {
                    prop_assert!(at.as_u64().unwrap() + ns.as_u64().unwrap() <= length);
                }
            }
        }
    }
}
