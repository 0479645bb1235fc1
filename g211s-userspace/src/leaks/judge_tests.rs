//! Judges made-up programs.

use super::super::limits::Limits;
use super::super::schema::{Document, document};
use super::super::simulated::{OBJECTS, Run, SIZE, Site};
use super::super::text::text;
use super::*;
use crate::cli::FailOn;

/// Bytes a minute of a site that keeps 20 samples a second.
const LEAK: f64 = (20 * OBJECTS * SIZE * 60) as f64;
const LEAKING: Site = Site { function: "main.leak", made: |_| 20, lives: |_, _| None };
/// Half of what it makes is gone at once, the others after some collections.
const PASSING: Site = Site { function: "main.pass", made: |_| 40, lives: |_, k| Some(k % 5) };

fn noise(gc: u64) -> f64 {
    (gc.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 40) as f64 / f64::from(1 << 24) - 0.5
}

fn growing(gc: u64) -> f64 {
    5e6 + gc as f64 * LEAK / 60.0 + 1e5 * noise(gc)
}

fn level(gc: u64) -> f64 {
    5e6 + 1e5 * noise(gc)
}

fn of<'f>(findings: &'f Findings, function: &str) -> &'f SiteVerdict {
    let found = findings.sites.iter().find(|s| s.places.place.function == function);
    found.unwrap_or_else(|| panic!("no {function}: {findings:?}"))
}

fn limits(fail_on: FailOn) -> Limits {
    Limits { fail_on, min_growth: 65536.0, min_goroutines: 1.0 }
}

fn told(seen: &Seen) -> (Findings, Document, String) {
    let findings = judge(seen);
    let document = document(seen, &findings, &limits(FailOn::Any));
    let text = text(&document, &findings, 10);
    (findings, document, text)
}

#[test]
fn what_stays_while_the_heap_grows_leaks() {
    let seen = Run::new(20).heap(growing).follow(&[LEAKING, PASSING]).ended("duration");
    let (findings, document, text) = told(&seen);
    let leak = of(&findings, "main.leak");
    assert_eq!((leak.judgement, leak.why), (Judgement::Leak, Why::FollowedGrow), "{leak:?}");
    let rate = leak.rate.expect("a rate");
    assert!((rate.value / LEAK - 1.0).abs() < 0.02, "{rate:?}, {LEAK}");
    assert!(rate.low <= LEAK && LEAK <= rate.high, "{rate:?}");
    assert_ne!(of(&findings, "main.pass").judgement, Judgement::Leak);
    assert!(text.starts_with("main.leak a.go:100 keeps 12 MiB/min (95 %: "), "{text}");
    assert_eq!((document.counted.findings, document.sites[0].counts), (1, true));
    assert!(document.heap.unexplained_share.expect("it grows") < 0.1, "{:?}", document.heap);
    let json = serde_json::to_string(&document).expect("JSON");
    let back: Document = serde_json::from_str(&json).expect("the same");
    assert_eq!(back.sites[0].judgement, "leak");
    for (fail_on, counts) in [(FailOn::Heap, 1), (FailOn::Goroutines, 0), (FailOn::None, 0)] {
        assert_eq!(limits(fail_on).count(&findings), counts, "{fail_on:?}");
    }
    let strict = Limits { min_growth: 100.0 * LEAK, ..limits(FailOn::Any) };
    assert_eq!(strict.count(&findings), 0);
}

#[test]
fn a_full_cache_only_replaces_what_it_holds() {
    let seen = Run::new(20).heap(level).follow(&[LEAKING, PASSING]).ended("duration");
    let (findings, document, text) = told(&seen);
    let cache = of(&findings, "main.leak");
    assert_eq!((cache.judgement, cache.why), (Judgement::Steady, Why::ReplacesOlder), "{cache:?}");
    assert!(text.starts_with("no leak found over 20 GC cycles"), "{text}");
    assert_eq!(document.counted.findings, 0);
}

#[test]
fn in_a_restless_heap_it_cannot_be_told() {
    let restless = |gc| 5e7 + 4e7 * noise(gc);
    let seen = Run::new(20).heap(restless).follow(&[LEAKING]).ended("duration");
    let (findings, document, text) = told(&seen);
    let site = of(&findings, "main.leak");
    assert_eq!((site.judgement, site.why), (Judgement::Suspect, Why::HeapUncertain), "{site:?}");
    assert!(
        text.contains("1 site may grow") && text.contains("may grow, not called leaks"),
        "{text}"
    );
    assert_eq!(document.counted.findings, 0);
    assert_eq!(limits(FailOn::Suspect).count(&findings), 1);
}

#[test]
fn few_looks_prove_nothing() {
    let run = Run::new(20).heap(growing).resting(0.1).follow(&[LEAKING]);
    let site = judge(&run.seen).sites.remove(0);
    assert_eq!((site.judgement, site.why), (Judgement::Suspect, Why::FewLooks), "{site:?}");
}

#[test]
fn a_second_leak_is_one_too_and_a_cache_beside_them_is_none() {
    let small = Site { function: "main.small", made: |_| 6, lives: |_, _| None };
    let cache = Site { function: "main.cache", made: |_| 20, lives: |_, _| None };
    let heap = |gc: u64| growing(gc) + gc as f64 * 0.3 * LEAK / 60.0;
    let seen = Run::new(30).heap(heap).follow(&[LEAKING, small]).ended("duration");
    let findings = judge(&seen);
    assert_eq!(of(&findings, "main.leak").judgement, Judgement::Leak);
    assert_eq!(of(&findings, "main.small").judgement, Judgement::Leak);
    // The heap grows by half of what is kept: one of them replaces, which cannot be told.
    let seen = Run::new(30).heap(growing).follow(&[LEAKING, cache]).ended("duration");
    let leaks = judge(&seen).sites.iter().filter(|s| s.judgement == Judgement::Leak).count();
    assert_eq!(leaks, 1);
}

#[test]
fn the_profile_alone_is_enough_and_speaks_for_older_objects() {
    let grows: fn(u64) -> u64 = |gc| 300 + 20 * gc;
    let stays: fn(u64) -> u64 = |gc| 30 + gc % 2;
    let seen = Run::new(20).heap(growing).profile(&[("main.leak", grows), ("main.pass", stays)]);
    let (findings, ..) = told(&seen.ended("duration"));
    let leak = of(&findings, "main.leak");
    assert_eq!((leak.judgement, leak.why), (Judgement::Leak, Why::ProfileGrows), "{leak:?}");
    assert_eq!(of(&findings, "main.pass").judgement, Judgement::Steady);
    let both = Run::new(20).heap(growing).follow(&[LEAKING]).profile(&[("main.leak", grows)]);
    assert_eq!(of(&judge(&both.seen), "main.leak").why, Why::BothGrow);
    // A cache in a heap that grows for another reason.
    let cache = Run::new(20).heap(growing).follow(&[LEAKING]).profile(&[("main.leak", stays)]);
    let findings = judge(&cache.seen);
    let site = of(&findings, "main.leak");
    assert_eq!((site.judgement, site.why), (Judgement::Steady, Why::ReplacesOlder), "{site:?}");
}

#[test]
fn a_backlog_is_told_and_is_no_leak() {
    // Each lives through five collections, and there are more and more of them.
    let backlog = Site { function: "main.queue", made: |gc| 10 + 4 * gc, lives: |_, _| Some(4) };
    let heap = |gc: u64| 5e6 + gc as f64 * 2e5 + 1e4 * noise(gc);
    let seen = Run::new(40).heap(heap).follow(&[backlog]).ended("duration");
    let findings = judge(&seen);
    let site = of(&findings, "main.queue");
    let expected = (Judgement::Suspect, Why::Trend(Because::Replaced));
    assert_eq!((site.judgement, site.why), expected, "{site:?}");
    assert_eq!(limits(FailOn::Any).count(&findings), 0);
}

#[test]
fn goroutines_that_stay_leak_and_those_that_are_replaced_are_load() {
    let seen = Run::new(20).heap(level).goroutines(|n| 10 + 7 * n, 1.0).ended("duration");
    let (findings, document, text) = told(&seen);
    let leak = &findings.goroutines[0];
    assert_eq!((leak.judgement, leak.why), (Judgement::Leak, Why::MoreGoroutines));
    assert!((leak.evidence.rate.expect("a rate").value - 840.0).abs() < 1.0);
    assert!(text.starts_with("main.serve b.go:9 makes 840 goroutines/min"), "{text}");
    assert_eq!(document.goroutines[0].state.as_deref(), Some("chan receive"));
    assert_eq!(document.counted.findings, 1);
    assert_eq!(limits(FailOn::Heap).count(&findings), 0);
    let load = Run::new(20).heap(level).goroutines(|n| 10 + 7 * n, 0.0);
    assert_eq!(judge(&load.seen).goroutines[0].judgement, Judgement::Suspect);
    let still = Run::new(20).heap(level).goroutines(|_| 10, 1.0);
    assert_eq!(judge(&still.seen).goroutines[0].judgement, Judgement::Steady);
}

#[test]
fn too_few_collections_are_said_to_be() {
    let seen = Run::new(9).heap(growing).follow(&[LEAKING]).ended("target_exited");
    let (findings, document, text) = told(&seen);
    assert_eq!(of(&findings, "main.leak").judgement, Judgement::TooFew);
    assert!(text.starts_with("whether memory leaks cannot be told: 9 GC cycles ended"), "{text}");
    assert!(text.contains("the process has ended"), "{text}");
    assert_eq!(document.counted.findings, 0);
}

#[test]
fn nothing_seen_is_no_panic() {
    let (findings, document, text) = told(&Seen::default());
    assert!(findings.sites.is_empty() && document.counted.findings == 0);
    assert!(text.starts_with("whether memory leaks cannot be told"), "{text}");
    let gone = Run::new(0).heap(level).follow(&[]).ended("error");
    told(&gone);
}

#[test]
fn where_the_heap_grows_few_samples_say_whose_growth_it_is() {
    // One sample every other second: 150 KiB a minute each is most of what the heap grows by.
    let rare = Site { function: "main.rare", made: |gc| gc % 2, lives: |_, _| None };
    let slope = (OBJECTS * SIZE) as f64 / 2.0;
    let heap = |gc: u64| 5e6 + gc as f64 * slope + 1e3 * noise(gc);
    let findings = judge(&Run::new(20).heap(heap).follow(&[rare, PASSING]).seen);
    let site = of(&findings, "main.rare");
    assert_eq!(site.judgement, Judgement::Leak, "{site:?}");
    assert!(findings.sites.iter().all(|s| s.judgement != Judgement::Leak || s.stack == [100]));
    // The same in a heap that does not grow for certain is none.
    let rare = Site { function: "main.rare", made: |gc| gc % 2, lives: |_, _| None };
    let findings = judge(&Run::new(20).heap(level).follow(&[rare, PASSING]).seen);
    assert_ne!(of(&findings, "main.rare").judgement, Judgement::Leak);
}
