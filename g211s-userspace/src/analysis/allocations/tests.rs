//! Tests of the estimates: against programs whose allocations are known.

use proptest::prelude::*;

use super::*;
use crate::record::AllocTotals;

/// A generator that is the same everywhere (splitmix64).
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn unit(&mut self) -> f64 {
        (self.next() >> 11) as f64 / (1_u64 << 53) as f64
    }
}

/// Stacks that allocate objects of a class at random, with these chances; a P with one span at a time, and a collection
/// now and then that takes it away.
struct Program {
    class: u8,
    size: u64,
    row: u64,
    chances: Vec<f64>,
}

fn state(ts_ns: u64, observed_ns: u64, looks: u32, totals: Option<AllocTotals>) -> AllocState {
    AllocState { ts_ns, plan: "refill".into(), observed_ns, looks, totals, ..AllocState::default() }
}

/// Runs programs for `objects` each; samples count while `attached(i)` says in which look. Returns the truth in
/// bytes by stack.
fn run(
    a: &mut Allocations,
    random: &mut Random,
    programs: &[Program],
    objects: u64,
    attached: impl Fn(u64) -> Option<u32>,
) -> BTreeMap<u32, u64> {
    let mut truth = BTreeMap::new();
    let mut totals = AllocTotals::default();
    let mut looks = std::collections::BTreeSet::new();
    for p in programs {
        let mut left = 0;
        for i in 0..objects {
            let (mut at, mut stack) = (random.unit(), 0);
            for (n, chance) in p.chances.iter().enumerate() {
                stack = n as u32;
                at -= chance;
                if at < 0.0 {
                    break;
                }
            }
            if left == 0 {
                left = p.row;
                if let Some(look) = attached(i) {
                    looks.insert(look);
                    a.sample(&AllocSample {
                        ts_ns: i,
                        tid: 1,
                        density: AllocDensity::Refill,
                        stack,
                        span_class: p.class * 2,
                        size: p.size,
                        objects: p.row,
                        address: 0,
                        sweepgen: 2,
                        look,
                    });
                }
            }
            left -= 1;
            if random.next().is_multiple_of(p.row * 10) {
                left = 0;
            }
            *truth.entry(stack).or_insert(0) += p.size;
        }
        totals.small.insert(p.class, objects);
    }
    let observed = (0..objects).filter(|i| attached(*i).is_some()).count() as u64;
    a.state(state(0, 0, 1, Some(AllocTotals::default())));
    a.state(state(objects, observed, looks.len() as u32, Some(totals)));
    truth
}

fn programs() -> [Program; 2] {
    [
        Program { class: 6, size: 64, row: 128, chances: vec![0.5, 0.3, 0.15, 0.05] },
        Program { class: 26, size: 512, row: 16, chances: vec![0.02, 0.08, 0.3, 0.6] },
    ]
}

/// How often the interval holds the truth, over all stacks of so many runs; and the mean error of the
/// estimates in per cent.
fn coverage(runs: u64, attached: impl Fn(u64) -> Option<u32> + Copy) -> (f64, f64) {
    let (mut held, mut all, mut off) = (0, 0, 0.0);
    for seed in 0..runs {
        let mut a = Allocations::default();
        let truth = run(&mut a, &mut Random(seed * 77), &programs(), 60_000, attached);
        let estimates = a.by(Some);
        for (stack, bytes) in truth {
            let e = estimates[&stack];
            let bytes = bytes as f64;
            held += u32::from(e.bytes_low <= bytes && bytes <= e.bytes_high);
            off += (e.bytes - bytes) / bytes * 100.0;
            all += 1;
        }
    }
    (f64::from(held) / f64::from(all), off / f64::from(all))
}

#[test]
fn intervals_hold_what_they_promise() {
    let (share, off) = coverage(60, |_| Some(0));
    assert!((0.92..=1.0).contains(&share), "{share}");
    assert!(off.abs() < 1.0, "biased by {off} %");
}

#[test]
fn looks_extrapolate_with_wider_intervals() {
    // Ten looks of a thirtieth each.
    let attached = |i: u64| (i % 6000 < 2000).then_some((i / 6000) as u32);
    let (share, off) = coverage(60, attached);
    assert!((0.92..=1.0).contains(&share), "{share}");
    assert!(off.abs() < 1.5, "biased by {off} %");
}

#[test]
fn what_comes_and_goes_between_looks_widens_the_interval() {
    let mut a = Allocations::default();
    let look = |a: &mut Allocations, look: u32, stacks: &[(u32, u64)]| {
        for &(stack, n) in stacks {
            for _ in 0..n {
                a.sample(&AllocSample {
                    ts_ns: 0,
                    tid: 1,
                    density: AllocDensity::Refill,
                    stack,
                    span_class: 12,
                    size: 64,
                    objects: 128,
                    address: 0,
                    sweepgen: 2,
                    look,
                });
            }
        }
    };
    // Stack 2 was there in one look of six.
    for i in 0..6 {
        look(&mut a, i, &[(1, 1000), (2, if i == 3 { 1000 } else { 0 })]);
    }
    let counted = |n| AllocTotals { small: [(6, n)].into(), ..AllocTotals::default() };
    a.state(state(0, 0, 0, Some(counted(0))));
    a.state(state(60_000, 6_000, 6, Some(counted(9_000_000))));
    let e = a.by(Some)[&2];
    assert!((e.bytes - 64.0 * 9e6 / 7.0).abs() < 1.0, "{e:?}");
    assert!(e.bytes_low < 0.4 * e.bytes && e.bytes_high > 2.0 * e.bytes, "{e:?}");
}

#[test]
fn every_large_object_is_seen() {
    let mut a = Allocations::default();
    for (stack, size) in [(1, 40_960), (1, 81_920), (2, 122_880)] {
        a.sample(&AllocSample {
            ts_ns: 0,
            tid: 1,
            density: AllocDensity::Large,
            stack,
            span_class: 0,
            size,
            objects: 1,
            address: 0,
            sweepgen: 2,
            look: 0,
        });
    }
    a.state(state(0, 0, 1, Some(AllocTotals::default())));
    let totals = AllocTotals { large: 3, large_bytes: 245_760, ..AllocTotals::default() };
    a.state(state(100, 100, 1, Some(totals)));
    let all = a.by(Some);
    assert_eq!(
        (all[&1].bytes, all[&1].bytes_low, all[&1].bytes_high),
        (122_880.0, 122_880.0, 122_880.0)
    );
    assert!((all[&1].objects - 1.5).abs() < 1e-9, "by bytes: {:?}", all[&1]);
}

#[test]
fn what_no_sample_tells_of_is_said() {
    let mut a = Allocations::default();
    a.begin(AllocRun { class_sizes: vec![0, 8, 16], ..AllocRun::default() });
    a.state(state(0, 0, 1, Some(AllocTotals::default())));
    let totals = AllocTotals { small: [(2, 100)].into(), ..AllocTotals::default() };
    a.state(state(1000, 1000, 1, Some(totals)));
    let o = a.observed();
    assert_eq!((o.counted_bytes, o.unsampled_bytes), (Some(1600), 1600));
    assert!(a.by(Some).is_empty());
}

#[test]
fn students_t_is_the_tables() {
    for (degrees, t) in [(1, 12.706), (2, 4.303), (3, 3.182), (5, 2.571), (9, 2.262), (30, 2.042)] {
        assert!((student(degrees) - t).abs() < 0.03, "{degrees}: {}", student(degrees));
    }
}

proptest! {
    #[test]
    fn the_parts_are_the_whole(seed in any::<u64>(), objects in 2_000_u64..20_000) {
        let mut a = Allocations::default();
        run(&mut a, &mut Random(seed), &programs(), objects, |_| Some(0));
        let parts: f64 = a.by(Some).values().map(|e| e.bytes).sum();
        let whole = a.by(|_| Some(()))[&()];
        let counted = a.observed().counted_bytes.expect("counted") as f64;
        prop_assert!((parts - counted).abs() < 1.0, "{} of {}", parts, counted);
        prop_assert!((whole.bytes - counted).abs() < 1.0);
    }
}
