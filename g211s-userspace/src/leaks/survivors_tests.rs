//! What survived, from made-up samples and fates.

use super::*;
use crate::record::{AllocSample, HeapObject};

const CLASS: u8 = 20;

fn sample(ts_ns: u64, stack: u32, sweepgen: u32) -> AllocSample {
    AllocSample {
        ts_ns,
        tid: 1,
        density: AllocDensity::Refill,
        stack,
        span_class: CLASS * 2,
        size: 100,
        objects: 3,
        address: 0xc000,
        sweepgen,
        look: 0,
    }
}

fn look(sweepgen: u32, missed: u32, of: &[(u64, HeapFate, u64)]) -> HeapLook {
    let objects = of.iter().map(|&(ts_ns, fate, times)| HeapObject { ts_ns, tid: 1, fate, times });
    HeapLook { sweepgen, missed, objects: objects.collect(), ..HeapLook::default() }
}

fn samples(of: &[AllocSample]) -> AllocSamples {
    AllocSamples { target: 0, samples: of.to_vec() }
}

fn state(ts_ns: u64, objects: u64) -> AllocState {
    let totals = AllocTotals { small: [(CLASS, objects)].into(), ..AllocTotals::default() };
    AllocState { ts_ns, totals: Some(totals), observed_ns: ts_ns, ..AllocState::default() }
}

/// Bytes after each of the collections of generations 12, 14, 16, 18: certain, and with doubtful ones.
fn bytes(s: &Survivors, stack: u32) -> (Vec<f64>, Vec<f64>) {
    let all: Vec<Collection> = [10, 12, 14, 16, 18].map(|g| (g, u64::from(g))).to_vec();
    let told = s.series(&s.collections(&all), &[], 1, |of| (of == stack).then_some(0));
    let bytes = |points: &[Point]| points.iter().map(|p| p.bytes.round()).collect();
    (bytes(&told[0].sure), bytes(&told[0].all))
}

#[test]
fn objects_count_from_the_first_collection_to_the_last_that_they_live_through() {
    let mut s = Survivors::default();
    s.state(&state(0, 0));
    s.samples(&samples(&[sample(1, 0, 10), sample(2, 0, 10), sample(3, 0, 12), sample(4, 7, 12)]));
    s.look(&look(12, 0, &[(1, HeapFate::Dead, 1)]));
    s.look(&look(16, 0, &[(2, HeapFate::Dead, 1)]));
    // A fate that comes before its sample, which is written later.
    s.look(&look(
        18,
        0,
        &[(5, HeapFate::Live, 2), (3, HeapFate::Live, 1), (4, HeapFate::Young, 1)],
    ));
    s.samples(&samples(&[sample(5, 0, 14)]));
    // 18 objects are followed; the runtime counts them all.
    s.state(&state(9, 18));
    assert_eq!(bytes(&s, 0), (vec![300.0, 600.0, 900.0, 900.0], vec![300.0, 600.0, 900.0, 900.0]));
    assert_eq!(bytes(&s, 7).1, [0.0; 4]);
    assert_eq!((s.objects, s.left_out, s.cycles_missed), (5, 0, 0));
}

#[test]
fn what_was_not_seen_is_like_what_was() {
    let mut s = Survivors::default();
    s.state(&state(0, 50));
    s.samples(&samples(&[sample(1, 0, 10), sample(2, 0, 10)]));
    s.look(&look(12, 0, &[(1, HeapFate::Dead, 1)]));
    s.look(&look(18, 0, &[(2, HeapFate::Live, 1)]));
    s.state(&state(9, 50 + 60));
    // Six objects were followed of sixty: three of them live, so thirty do.
    assert_eq!(bytes(&s, 0).1, [3000.0; 4]);
    // Where the runtime's counts are not known, by the time that probes were attached: a third of it.
    let mut s = Survivors::default();
    let unknown = |state: AllocState| AllocState { totals: None, looks: 1, ..state };
    s.state(&unknown(state(0, 0)));
    s.samples(&samples(&[sample(1, 0, 10), sample(2, 0, 10)]));
    s.look(&look(12, 0, &[(1, HeapFate::Dead, 1)]));
    s.look(&look(18, 0, &[(2, HeapFate::Live, 1)]));
    s.state(&AllocState { observed_ns: 3, ..unknown(state(9, 0)) });
    assert_eq!(bytes(&s, 0).1, [900.0; 4]);
}

#[test]
fn collections_without_a_look_leave_doubt() {
    let mut s = Survivors::default();
    s.state(&state(0, 0));
    s.samples(&samples(&[sample(1, 0, 10), sample(2, 0, 10), sample(3, 0, 14)]));
    s.look(&look(12, 0, &[]));
    // 14 was missed.
    s.look(&look(16, 1, &[]));
    s.look(&look(
        18,
        0,
        &[(1, HeapFate::Dead, 1), (2, HeapFate::Doubtful, 1), (3, HeapFate::Live, 1)],
    ));
    s.state(&state(9, 9));
    // Of 12, 16 and 18: the first two are certain up to 12, and the third was made after what was missed.
    let (sure, all) = bytes(&s, 0);
    assert_eq!((sure, all), (vec![600.0, 300.0, 300.0], vec![600.0, 900.0, 600.0]));
    assert_eq!(s.cycles_missed, 1);
}

/// A second is 1000 made objects that stay; a look of 100 ms comes every four seconds, and collections every second.
fn seldom(looks: &[u64]) -> (Survivors, Vec<Collection>) {
    const SECOND: u64 = 1_000_000_000;
    let mut s = Survivors::default();
    let observed = |looks: u32, at: u64, observed: u64| AllocState {
        looks,
        observed_ns: observed * SECOND / 10,
        ..state(at, at / SECOND * 1000)
    };
    s.state(&observed(0, 0, 0));
    let mut fates = Vec::new();
    for (n, &at) in looks.iter().enumerate() {
        let n = n as u32;
        let made: Vec<AllocSample> = (0..20)
            .map(|k| AllocSample {
                objects: 5,
                look: n,
                ..sample(at * SECOND + k * SECOND / 200, 0, 10 + 2 * at as u32)
            })
            .collect();
        fates.extend(made.iter().map(|m| (m.ts_ns, HeapFate::Live, 1)));
        s.samples(&samples(&made));
        s.state(&observed(n + 1, at * SECOND + SECOND / 10, u64::from(n) + 1));
    }
    s.look(&look(10 + 40, 0, &fates));
    s.state(&observed(looks.len() as u32, 20 * SECOND, looks.len() as u64));
    (s, (1..=20).map(|n| (10 + 2 * n as u32, n * SECOND)).collect())
}

#[test]
fn what_is_made_steadily_grows_steadily_however_seldom_it_is_looked_at() {
    let (s, collections) = seldom(&[2, 6, 10, 14, 18]);
    let told = &s.series(&s.collections(&collections), &[], 1, |_| Some(0))[0];
    assert_eq!(told.looks, 5);
    // 1000 objects of 100 bytes a second, within a sample's part of a stretch.
    for p in &told.all {
        let seconds = p.time_ns as f64 / 1e9;
        assert!((p.bytes - 1e5 * seconds).abs() < 3e4, "{seconds} s: {}", p.bytes);
    }
    assert!((told.all[told.all.len() - 1].bytes - 2e6).abs() < 1.0, "the runtime counts them all");
    // Longer rests: the same, though each look stands for more.
    let (s, collections) = seldom(&[1, 4, 15]);
    let told = &s.series(&s.collections(&collections), &[], 1, |_| Some(0))[0];
    assert_eq!(told.looks, 3);
    let at = |n: usize| told.all[n].bytes;
    assert!((at(8) - 9e5).abs() < 1.5e5 && (at(17) - 18e5).abs() < 1.5e5, "{:?}", told.all);
}

#[test]
fn what_stays_is_told_from_what_is_replaced() {
    let kept = |fate| {
        let mut s = Survivors::default();
        s.state(&state(0, 0));
        let all: Vec<AllocSample> = (0..50).map(|n| sample(n, 0, 10)).collect();
        s.samples(&samples(&all));
        s.look(&look(12, 0, &[]));
        let fates: Vec<_> = (0..50).map(|n| (n, fate, 1)).collect();
        s.look(&look(18, 0, &fates));
        s.state(&state(9, 150));
        let collections: Vec<Collection> = [12, 14, 16, 18].map(|g| (g, u64::from(g))).to_vec();
        s.series(&collections, &[], 1, |_| Some(0))[0].kept.expect("known").share
    };
    assert!(kept(HeapFate::Live) > 0.9 && kept(HeapFate::Dead) < 0.1);
}

#[test]
fn odd_records_are_no_panic() {
    let mut s = Survivors::default();
    let odd =
        AllocSample { objects: u64::MAX, size: u64::MAX, sweepgen: u32::MAX, ..sample(1, 0, 3) };
    s.samples(&samples(&[
        odd,
        AllocSample { span_class: 255, ..odd },
        AllocSample { ts_ns: 2, ..odd },
    ]));
    s.look(&look(4, u32::MAX, &[(1, HeapFate::Live, u64::MAX), (9, HeapFate::Dead, 0)]));
    s.look(&look(0, 7, &[(2, HeapFate::Dead, 1)]));
    let collections = s.collections(&[(0, 1), (4, 2), (u32::MAX, 3)]);
    s.series(&collections, &[], 0, |_| Some(5));
    s.series(&[(4, 2), (u32::MAX, 3)], &[], 1, |_| Some(0));
}
