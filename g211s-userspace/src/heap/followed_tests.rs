//! What comes of records of followed objects.

use super::*;
use crate::profile::table::By;
use crate::record::{
    AllocRun, AllocSamples, AllocStack, AllocState, AllocTotals, HeapLook, HeapObject, HeapType,
    SymbolFrame, SymbolInfo,
};

const SIZE: u64 = 64;
const CLASS: u8 = 5;

fn sample(ts_ns: u64, stack: u32, address: u64) -> AllocSample {
    AllocSample {
        ts_ns,
        tid: 7,
        density: AllocDensity::Refill,
        stack,
        span_class: CLASS << 1,
        size: SIZE,
        objects: 100,
        address,
        sweepgen: 10,
        look: 0,
    }
}

fn state(ts_ns: u64, made: u64) -> Record {
    let totals = AllocTotals { small: [(CLASS, made)].into(), ..AllocTotals::default() };
    let cycles = Some(5 + u32::from(ts_ns > 0) * 3);
    Record::AllocState(Box::new(AllocState {
        ts_ns,
        observed_ns: ts_ns,
        plan: "refill".into(),
        totals: Some(totals),
        cycles,
        looks: 1,
        ..AllocState::default()
    }))
}

/// Two sites that make as much as each other, 200 samples each, of which one is told what `fate` says.
fn model(fate: impl Fn(u64, u32) -> Option<(HeapFate, u64)>, made: u64) -> Model {
    let mut m = Model::default();
    m.push(Record::AllocRun(Box::new(AllocRun { cost_ns: 1, ..AllocRun::default() })));
    for (address, function) in [(1, "main.keeps"), (2, "main.drops")] {
        let function = function.to_owned();
        let frames = vec![SymbolFrame { function, file: None, line: Some(1), inlined: false }];
        m.push(Record::Symbol(Box::new(SymbolInfo { target: 0, address, frames })));
        let (id, addresses) = (address as u32, vec![address]);
        m.push(Record::AllocStack(Box::new(AllocStack { target: 0, id, addresses })));
    }
    m.push(state(0, 0));
    let all: Vec<AllocSample> =
        (0..400).map(|n| sample(n + 1, 1 + n as u32 % 2, 0x1000 * (n + 1))).collect();
    let objects = all
        .iter()
        .filter_map(|s| {
            let (fate, times) = fate(s.ts_ns, s.stack)?;
            Some(HeapObject { ts_ns: s.ts_ns, tid: s.tid, fate, times })
        })
        .collect();
    // What became of them may be told before what they stand for.
    let look =
        HeapLook { sweepgen: 16, cycles: Some(8), missed: 1, objects, ..HeapLook::default() };
    m.push(Record::HeapLook(Box::new(look)));
    m.push(Record::AllocSamples(Box::new(AllocSamples { target: 0, samples: all })));
    m.push(state(1000, made));
    m
}

fn document(m: &Model) -> Document {
    let (profile, parts) = m.profile();
    assert_eq!(rows(&profile, By::Line, INUSE_SPACE).len(), 2);
    let target = TargetInfo {
        pid: 1,
        comm: "x".into(),
        exe: "x".into(),
        go_version: "go1.27.3".into(),
        module: None,
        offsets: String::new(),
    };
    m.document(target, &profile, &parts)
}

fn of<'d>(d: &'d Document, function: &str) -> &'d Figures {
    &d.sites.iter().find(|s| s.function == function).expect("a site").figures
}

#[test]
fn what_lives_has_the_types_that_the_runtime_keeps() {
    let fate = |ts, _| Some((if ts % 4 < 2 { HeapFate::Live } else { HeapFate::Dead }, 1));
    let mut m = model(fate, 80_000);
    // The objects of one site, and a name that is not for a terminal; what died does not count.
    let objects = (0..400).filter(|n| n % 2 == 0).map(|n| (n + 1, 7)).collect();
    let types = vec![HeapType { name: "main.T\u{1b}".into(), size: SIZE, objects }];
    m.push(Record::HeapLook(Box::new(HeapLook { types, sweepgen: 16, ..HeapLook::default() })));
    let d = document(&m);
    let of = |f: &str| d.sites.iter().find(|s| s.function == f).expect("a site").types.clone();
    let [told] = &of("main.keeps")[..] else { panic!("{:?}", of("main.keeps")) };
    assert!(told.name.starts_with("main.T") && !told.name.contains('\u{1b}'), "{told:?}");
    assert!(told.share > 0.99);
    assert_eq!(of("main.drops"), []);
}

#[test]
fn counts_of_the_runtime_are_shared_out_by_what_lives() {
    let fate = |ts, stack| {
        let lives = stack == 1 && ts % 4 == 1;
        Some((if lives { HeapFate::Live } else { HeapFate::Dead }, 1))
    };
    // 80,000 made, of which the samples stand for 40,000: a quarter lives, all of one site.
    let d = document(&model(fate, 80_000));
    let (keeps, drops) = (of(&d, "main.keeps"), of(&d, "main.drops"));
    assert_eq!(keeps.inuse_bytes.value, 20_000 * SIZE);
    assert_eq!(keeps.inuse_objects.value, 20_000);
    assert_eq!((keeps.inuse_samples, keeps.alloc_samples), (100, 200));
    assert_eq!(keeps.alloc_bytes.value, 40_000 * SIZE);
    assert!(keeps.inuse_bytes.low < 18_000 * SIZE && keeps.inuse_bytes.high > 22_000 * SIZE);
    assert_eq!((drops.inuse_bytes.value, drops.inuse_bytes.low), (0, 0));
    // None of 200.
    assert_eq!(drops.inuse_bytes.high, 600 * SIZE);
    assert_eq!(d.total.inuse_bytes.value, 20_000 * SIZE);
    assert_eq!(d.total.alloc_bytes.value, 80_000 * SIZE);
    let f = d.followed.expect("followed");
    assert_eq!(
        (f.samples, f.samples_followed, f.gc_cycles, f.gc_cycles_missed),
        (400, 400, Some(3), 1)
    );
    // Made in generation 10, looked at in 16: three collections.
    let ages: Vec<(u32, Option<u32>, u64)> =
        f.ages.iter().map(|a| (a.cycles_from, a.cycles_to, a.inuse_bytes)).collect();
    assert_eq!(ages, [(2, Some(3), 20_000 * SIZE)]);
}

#[test]
fn those_that_were_not_followed_are_like_the_others() {
    let fate = |ts: u64, stack| {
        // A half was not followed, or let go by chance.
        let lives = if stack == 1 { HeapFate::Live } else { HeapFate::Dead };
        (ts % 8 < 4).then_some((lives, 1))
    };
    let d = document(&model(fate, 40_000));
    assert_eq!(of(&d, "main.keeps").inuse_bytes.value, 20_000 * SIZE);
    let f = d.followed.expect("followed");
    assert!((f.not_followed_share - 0.5).abs() < 0.01, "{}", f.not_followed_share);
    // Those of the dropping site counted once before its like was thinned, the others twice as half of them is left.
    let fate = |ts: u64, stack| match stack {
        1 => (ts % 8 < 4).then_some((HeapFate::Live, 2)),
        _ => Some((HeapFate::Dead, 1)),
    };
    let d = document(&model(fate, 40_000));
    assert_eq!(of(&d, "main.keeps").inuse_bytes.value, 20_000 * SIZE);
}

#[test]
fn doubt_widens_the_interval_and_is_told() {
    let fate = |ts: u64, stack| {
        Some(match (stack, ts % 4) {
            (1, 1) => (HeapFate::Live, 1),
            (1, _) => (HeapFate::Doubtful, 1),
            (_, 0) => (HeapFate::Young, 1),
            _ => (HeapFate::Dead, 1),
        })
    };
    let d = document(&model(fate, 40_000));
    let keeps = of(&d, "main.keeps");
    assert_eq!(keeps.inuse_bytes.value, 20_000 * SIZE);
    assert!(keeps.inuse_bytes.low < 10_000 * SIZE, "{:?}", keeps.inuse_bytes);
    let f = d.followed.expect("followed");
    assert_eq!((f.doubtful_bytes, f.young_bytes), (10_000 * SIZE, 10_000 * SIZE));
}

#[test]
fn nothing_is_no_panic() {
    let m = Model::default();
    let (profile, parts) = m.profile();
    let target = document(&model(|_, _| None, 0)).target;
    let d = m.document(target, &profile, &parts);
    assert_eq!(d.total, Figures::default());
}
