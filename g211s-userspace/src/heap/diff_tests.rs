use super::*;
use crate::heap::estimate::scale;
use crate::profile::{Label, LabelValue, Location, ValueType};
use crate::record::SymbolFrame;

/// A heap profile: function, samples in use, samples of allocations, bytes of each object.
fn profile(rows: &[(&str, u64, u64, u64)]) -> Profile {
    const RATE: u64 = 524_288;
    let mut profile = Profile::new(SAMPLE_TYPES.map(|(n, u)| ValueType::new(n, u)).to_vec());
    profile.period = RATE as i64;
    for (at, (function, inuse, alloc, size)) in (1..).zip(rows) {
        let frame = SymbolFrame {
            function: (*function).to_owned(),
            file: Some("main.go".to_owned()),
            line: Some(7),
            inlined: false,
        };
        let id = profile.location(Location { address: at, frames: [frame].into() });
        let (a, i) = (scale(*alloc, *size, RATE), scale(*inuse, *size, RATE));
        let label =
            Label { key: "bytes".into(), value: LabelValue::Number(*size as i64, "".into()) };
        profile.push(&[id], &[a.0, a.1, i.0, i.1], vec![label]);
    }
    profile
}

fn side(rows: &[(&str, u64, u64, u64)]) -> Side {
    Side::from_profile("a.pb.gz", profile(rows)).expect("a heap")
}

#[test]
fn what_grew_most_comes_first() {
    let before =
        side(&[("main.same", 5, 9, 64), ("main.leak", 3, 4, 4096), ("main.shrinks", 50, 60, 64)]);
    let after = side(&[
        ("main.same", 5, 9, 64),
        ("main.leak", 300, 400, 4096),
        ("main.shrinks", 2, 61, 64),
        ("main.new", 1, 1, 4096),
    ]);
    let difference = build(&before, &after);
    let told: Vec<_> = difference
        .sites
        .iter()
        .map(|g| (g.function.as_str(), g.inuse_bytes.grown.signum(), g.beyond_error))
        .collect();
    let expected = [
        ("main.leak", 1, Some(true)),
        ("main.new", 1, Some(false)),
        ("main.shrinks", -1, Some(true)),
    ];
    assert_eq!(told, expected);
    let sum: i64 = difference.sites.iter().map(|g| g.inuse_bytes.grown).sum();
    assert_eq!(sum, difference.grown_bytes);
    assert!(difference.notes.is_empty(), "{:?}", difference.notes);
    let text = difference.text(1, crate::profile::table::Look::default());
    assert!(text.contains("main.leak  main.go:7") && text.contains("in 2 further sites"), "{text}");
    assert!(build(&after, &before).notes[0].contains("wrong order"));
}

#[test]
fn a_profile_without_sizes_says_that_errors_are_unknown() {
    let mut bare = profile(&[("main.leak", 3, 4, 4096)]);
    let id = bare.location(Location::default());
    bare.push(&[id], &[1, 1, 1, 1], vec![]);
    let difference = build(&side(&[]), &Side::from_profile("b", bare).unwrap());
    assert!(difference.sites.iter().all(|g| g.beyond_error.is_none()));
    assert!(difference.notes.iter().any(|n| n.contains("how sure")), "{:?}", difference.notes);
}

#[test]
fn what_is_no_heap_is_refused() {
    let mut cpu = Profile::new(vec![ValueType::new("cpu", "nanoseconds")]);
    cpu.push(&[], &[1], vec![]);
    let why = Side::from_profile("cpu.pb.gz", cpu).expect_err("is refused");
    assert!(why.contains("not a profile of the heap: it has no alloc_objects"), "{why}");
    for (json, words) in [
        ("{", "EOF"),
        ("{}", "names no schema"),
        (r#"{"schema":"g211s.report/1"}"#, "its schema is g211s.report/1"),
        (r#"{"schema":7}"#, "names no schema"),
        (r#"{"schema":"g211s.heap/1"}"#, "missing field"),
        (r#"{"schema":"g211s.heap/1","target":7}"#, "invalid type"),
    ] {
        let why = Side::from_json("x", json.as_bytes()).expect_err(json);
        assert!(why.contains("not the JSON of `g211s heap`") && why.contains(words), "{why}");
    }
    let deep = "[".repeat(1 << 20);
    assert!(Side::from_json("x", deep.as_bytes()).is_err());
}

#[test]
fn figures_beyond_reason_are_only_large() {
    let of = |value| Estimate { value, low: 0, high: u64::MAX };
    assert_eq!(Change::of(of(u64::MAX), of(0)).grown, i64::MIN);
    assert_eq!(Change::of(of(0), of(u64::MAX)).grown, i64::MAX);
}
