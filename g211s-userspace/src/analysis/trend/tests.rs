//! Verdicts on series whose kind is known: how often a healthy one is called growing, and how often a
//! leak is missed.

use std::collections::BTreeMap;
use std::f64::consts::PI;

use proptest::prelude::*;

use super::slope::{line, mann_kendall, normal_tail};
use super::*;
use crate::analysis::stats::Rng;

const MB: f64 = 1024.0 * 1024.0;
const ALPHA: f64 = 0.001;

/// One point a second or so.
fn series(rng: &mut Rng, bytes: &[f64]) -> Vec<Point> {
    let mut time_ns = 1_000_000_000_000;
    bytes
        .iter()
        .zip(40..)
        .map(|(&bytes, gc)| {
            time_ns += (1e9 * (0.6 + 0.8 * rng.uniform())) as u64;
            Point { gc, time_ns, bytes, standard_error: 0.0 }
        })
        .collect()
}

/// Errors with this persistence, of standard deviation 1.
fn wander(rng: &mut Rng, n: usize, phi: f64) -> Vec<f64> {
    let mut at = rng.normal();
    (0..n)
        .map(|_| {
            at = phi * at + (1.0 - phi * phi).sqrt() * rng.normal();
            at
        })
        .collect()
}

/// Sampled objects, of a weight of 512 KB each, of a place that makes `rate` of them a cycle, each of
/// which lives for `life` cycles on average; `leak` more a cycle live for ever.
fn sampled(rng: &mut Rng, n: usize, rate: f64, life: f64, leak: f64) -> (Vec<Point>, Option<Kept>) {
    let poisson = |rng: &mut Rng, mean: f64| {
        let (mut k, mut p) = (0_u64, rng.uniform());
        let floor = (-mean).exp();
        while p > floor {
            k += 1;
            p *= rng.uniform();
        }
        k
    };
    // (born at, dies at)
    let mut objects: Vec<(f64, f64)> = Vec::new();
    let before = (4.0 * life).ceil() as i64;
    for cycle in -before..n as i64 {
        for _ in 0..poisson(rng, rate) {
            objects.push((cycle as f64, cycle as f64 - life * rng.uniform().ln()));
        }
        for _ in 0..if cycle >= 0 { poisson(rng, leak) } else { 0 } {
            objects.push((cycle as f64, f64::INFINITY));
        }
    }
    let weight = 512.0 * 1024.0;
    let alive = |at: f64| objects.iter().filter(move |o| o.0 <= at && o.1 > at);
    let points = (0..n)
        .map(|k| {
            let count = alive(k as f64).count() as f64;
            let time_ns = 5_000_000_000 + k as u64 * 1_000_000_000;
            let (bytes, standard_error) = (count * weight, count.sqrt() * weight);
            Point { gc: k as u64, time_ns, bytes, standard_error }
        })
        .collect();
    let (middle, end) = ((n / 2) as f64, (n - 1) as f64);
    let lived = alive(middle).count();
    let died = alive(middle).filter(|o| o.1 <= end).count();
    (points, Kept::of(lived as f64 * weight, died as f64 * weight, lived as u64))
}

/// A healthy series of one of these kinds.
const HEALTHY: [&str; 11] = [
    "noise",
    "wander 0.5",
    "wander 0.8",
    "wander 0.95",
    "fills and stays",
    "fills by a line and stays",
    "step",
    "sine",
    "slow sine",
    "sampled",
    "sawtooth",
];

fn healthy(kind: &str, rng: &mut Rng, n: usize) -> (Vec<Point>, Option<Kept>) {
    let u = rng.uniform();
    let level = 10.0 * MB * (1.0 + 9.0 * rng.uniform());
    let noise = level * 0.3 * rng.uniform().powi(2);
    let phase = 2.0 * PI * rng.uniform();
    let part = |k: usize| k as f64 / n as f64;
    let shape: Vec<f64> = match kind {
        "fills and stays" => (0..n).map(|k| 1.0 - (-part(k) / (0.02 + u * 0.15)).exp()).collect(),
        "fills by a line and stays" => {
            (0..n).map(|k| (part(k) / (0.1 + 0.6 * u)).min(1.0)).collect()
        }
        "step" => (0..n).map(|k| f64::from(u8::from(part(k) > u))).collect(),
        "sine" => {
            (0..n).map(|k| (2.0 * PI * part(k) / (0.2 + u * 0.8) + phase).sin() * 0.5).collect()
        }
        "slow sine" => {
            (0..n).map(|k| (2.0 * PI * part(k) / (1.0 + u * 0.5) + phase).sin() * 0.5).collect()
        }
        "sawtooth" => (0..n).map(|k| (part(k) * (2.0 + 10.0 * u)).fract() * 0.5).collect(),
        "sampled" => {
            let life = 1.0 + (n as f64) * u;
            let rate = (1.0 + 60.0 * rng.uniform()) / life;
            return sampled(rng, n, rate, life, 0.0);
        }
        _ => vec![0.0; n],
    };
    let phi = kind.strip_prefix("wander ").map_or(0.0, |p| p.parse().expect("a number"));
    let errors = wander(rng, n, phi);
    let bytes: Vec<f64> =
        shape.iter().zip(&errors).map(|(s, e)| (level * (1.0 + s) + noise * e).max(0.0)).collect();
    (series(rng, &bytes), None)
}

fn is_growing(verdict: &Verdict) -> bool {
    matches!(verdict, Verdict::Growing(_))
}

#[test]
fn healthy_series_are_not_called_growing() {
    let mut wrong: BTreeMap<&str, u32> = BTreeMap::new();
    let mut rng = Rng(11);
    let mut all = 0;
    for _ in 0..400 {
        for kind in HEALTHY {
            let n = 20 + (rng.uniform() * 80.0) as usize;
            let (points, kept) = healthy(kind, &mut rng, n);
            all += 1;
            let verdict = verdict(&points, kept, ALPHA);
            *wrong.entry(kind).or_default() += u32::from(is_growing(&verdict));
        }
    }
    println!("of 400 each, called growing: {wrong:?}");
    let sum: u32 = wrong.values().sum();
    assert!(f64::from(sum) <= 0.01 * f64::from(all), "{sum} of {all}: {wrong:?}");
    assert!(wrong.values().all(|n| *n <= 12), "{wrong:?}");
}

#[test]
fn leaks_are_found() {
    let mut rng = Rng(12);
    let runs = 200;
    let mut report = Vec::new();
    for n in [20, 40, 80] {
        for (phi, name) in [(0.0, "noise"), (0.5, "persistent")] {
            for ratio in [3.0, 5.0, 10.0, 20.0, 40.0] {
                let found = (0..runs).filter(|_| {
                    let errors = wander(&mut rng, n, phi);
                    let bytes: Vec<f64> = errors
                        .iter()
                        .enumerate()
                        .map(|(k, e)| 50.0 * MB + MB * (ratio * k as f64 / n as f64 + e))
                        .collect();
                    is_growing(&verdict(&series(&mut rng, &bytes), None, ALPHA))
                });
                let share = found.count() as f64 / f64::from(runs);
                report.push((n, name, ratio, share));
            }
        }
    }
    for (n, name, ratio, share) in &report {
        println!("{n} points, {name}: growth of {ratio} times the errors: found {share}");
    }
    let share = |n: usize, name: &str, ratio: f64| {
        report.iter().find(|r| r.0 == n && r.1 == name && (r.2 - ratio).abs() < 0.1).expect("ran").3
    };
    assert!(share(20, "noise", 20.0) > 0.95 && share(20, "persistent", 40.0) > 0.95);
    assert!(share(40, "noise", 10.0) > 0.9 && share(80, "noise", 10.0) > 0.9);
}

#[test]
fn sampled_leaks_are_found_once_enough_objects_were_seen() {
    let mut rng = Rng(13);
    let mut shares = Vec::new();
    for leak in [0.2, 0.5, 1.0, 2.0, 5.0] {
        let mut why: BTreeMap<String, u32> = BTreeMap::new();
        let found = (0..200).filter(|_| {
            let (points, kept) = sampled(&mut rng, 24, 4.0, 1.5, leak);
            let verdict = verdict(&points, kept, ALPHA);
            if let Verdict::NotGrowing { because, .. } = verdict {
                *why.entry(format!("{because:?}")).or_default() += 1;
            }
            is_growing(&verdict)
        });
        let share = found.count() as f64 / 200.0;
        println!("24 cycles, {leak} sampled objects leaked a cycle: found {share}, else {why:?}");
        shares.push(share);
    }
    assert!(shares[3] > 0.7 && shares[4] > 0.95, "{shares:?}");
}

fn because(verdict: Verdict) -> Option<Because> {
    match verdict {
        Verdict::NotGrowing { because, .. } => Some(because),
        _ => None,
    }
}

/// 40 points of a shape of 0 to 40 MB, with errors of 200 KB.
fn shaped(shape: impl Fn(f64) -> f64) -> Vec<Point> {
    let mut rng = Rng(21);
    let errors = wander(&mut rng, 40, 0.3);
    let bytes: Vec<f64> = (0..40)
        .zip(&errors)
        .map(|(k, e)| MB * (60.0 + 40.0 * shape(f64::from(k) / 39.0) + 0.2 * e))
        .collect();
    series(&mut rng, &bytes)
}

#[test]
fn the_reason_is_told() {
    let verdict = |points: &[Point], kept| verdict(points, kept, ALPHA);
    let line = shaped(|t| t);
    let Verdict::Growing(growth) = verdict(&line, None) else { panic!("a line grows") };
    let seconds = (line[39].time_ns - line[0].time_ns) as f64 / 1e9;
    let truth = 40.0 * MB / seconds;
    assert!((growth.slope_bytes_per_s / truth - 1.0).abs() < 0.05, "{growth:?}, not {truth}");
    assert!(growth.interval.0 < truth && truth < growth.interval.1, "{growth:?}, not {truth}");
    assert!(growth.p < 1e-6 && growth.p_by_ranks < 1e-6 && growth.from == 0, "{growth:?}");

    let reason = |shape: fn(f64) -> f64| because(verdict(&shaped(shape), None));
    assert_eq!(reason(|_| 0.0), Some(Because::NoTrend));
    assert_eq!(reason(|t| -t), Some(Because::NoTrend));
    assert_eq!(reason(|t| f64::from(u8::from(t > 0.4))), Some(Because::Step));
    assert_eq!(reason(|t| (t / 0.5).min(1.0)), Some(Because::Stopped));
    assert_eq!(reason(|t| 1.0 - (-6.0 * t).exp()), Some(Because::Stopped));
    let dip = |t: f64| t - if (0.4..0.65).contains(&t) { 0.35 } else { 0.0 };
    assert_eq!(reason(dip), Some(Because::Falls));
    assert!(reason(|t| t + 0.4 * (4.0 * PI * t).sin()).is_some());

    // It grows as a line does, but nothing that it held halfway is left.
    let gone = Kept::of(100.0 * MB, 95.0 * MB, 200);
    assert_eq!(because(verdict(&line, gone)), Some(Because::Replaced));
    assert!(is_growing(&verdict(&line, Kept::of(100.0 * MB, 5.0 * MB, 200))));
    // Of two objects that says nothing.
    assert!(is_growing(&verdict(&line, Kept::of(2.0 * MB, 2.0 * MB, 2))));

    // Of eight objects of 5 MB, and of eighty.
    let with = |objects: f64| {
        let error = |bytes: f64| (bytes * 40.0 * MB / objects).max(0.0).sqrt();
        let of = |p: &Point| Point { standard_error: error(p.bytes - 60.0 * MB), ..*p };
        verdict(&line.iter().map(of).collect::<Vec<_>>(), None)
    };
    assert_eq!(because(with(8.0)), Some(Because::TooFewSamples));
    assert!(is_growing(&with(80.0)));
}

#[test]
fn growth_that_began_meanwhile_is_found_and_load_that_comes_back_is_not() {
    let late = shaped(|t| (2.0 * t - 1.0).max(0.0));
    let Verdict::Growing(growth) = verdict(&late, None, ALPHA) else { panic!("it grows") };
    assert_eq!(growth.from, 20);
    let back = shaped(|t| 0.5 + 0.5 * (2.0 * PI * t).cos());
    assert!(!is_growing(&verdict(&back, None, ALPHA)));
}

#[test]
fn short_and_repeated_series_are_too_short() {
    let points = shaped(|t| t);
    let short = Verdict::TooShort { points: 15, needed: MIN_POINTS };
    assert_eq!(verdict(&points[..15], None, ALPHA), short);
    let twice: Vec<Point> = points[..15].iter().chain(&points[..15]).copied().collect();
    assert_eq!(verdict(&twice, None, ALPHA), short);
    assert_eq!(verdict(&[], None, ALPHA), Verdict::TooShort { points: 0, needed: MIN_POINTS });
    // The order does not matter.
    let mut backwards = points.clone();
    backwards.reverse();
    assert_eq!(verdict(&backwards, None, ALPHA), verdict(&points, None, ALPHA));
}

#[test]
fn a_long_series_says_the_same() {
    let mut rng = Rng(31);
    let errors = wander(&mut rng, 5000, 0.9);
    let bytes = |slope: f64| -> Vec<f64> {
        errors.iter().zip(0..).map(|(e, k)| MB * (90.0 + slope * f64::from(k) + 2.0 * e)).collect()
    };
    let (level, grows) = (series(&mut rng, &bytes(0.0)), series(&mut rng, &bytes(0.005)));
    assert_eq!(because(verdict(&level, None, ALPHA)), Some(Because::NoTrend));
    assert!(is_growing(&verdict(&grows, None, ALPHA)));
}

#[test]
fn many_places_are_held_to_one_level() {
    let mut rng = Rng(41);
    let mut all: Vec<(Vec<Point>, Option<Kept>)> =
        (0..300).map(|n| healthy(HEALTHY[n % 4], &mut rng, 24)).collect();
    all.push((shaped(|t| t), None));
    all.push((shaped(|t| t)[..3].to_vec(), None));
    let verdicts = verdicts(&all, 0.01);
    assert!(is_growing(&verdicts[300]));
    assert!(matches!(verdicts[301], Verdict::TooShort { .. }));
    assert!(!verdicts[..300].iter().any(is_growing));
    // The same slope as one of a few and as one of very many.
    let weak = |p: f64| holm(&[vec![p], vec![0.5; 999]].concat())[0];
    assert!(weak(1e-6) < 0.01 && weak(1e-4) > 0.01);
}

#[test]
fn adjusted_levels_are_those_of_the_books() {
    // R: p.adjust(c(0.01, 0.04, 0.03, 0.005), "holm") and "BH".
    let p = [0.01, 0.04, 0.03, 0.005];
    let near = |a: Vec<f64>, b: [f64; 4]| a.iter().zip(b).all(|(a, b)| (a - b).abs() < 1e-12);
    assert!(near(holm(&p), [0.03, 0.06, 0.06, 0.02]), "{:?}", holm(&p));
    assert!(near(benjamini_hochberg(&p), [0.02, 0.04, 0.04, 0.02]));
    assert_eq!(holm(&[f64::NAN, -1.0]), [1.0, 0.0]);
    assert_eq!(holm(&[]), Vec::<f64>::new());
}

#[test]
fn tails_are_those_of_the_tables() {
    use crate::analysis::stats::student_tail;
    for (z, p) in [(0.0, 0.5), (1.644_854, 0.05), (2.326_348, 0.01), (-1.0, 0.841_345)] {
        assert!((normal_tail(z) - p).abs() < 1e-6, "{z}");
    }
    for (t, freedom, p) in
        [(2.131_847, 4.0, 0.05), (7.173_182, 4.0, 0.001), (2.763_769, 10.0, 0.01)]
    {
        assert!((student_tail(t, freedom) - p).abs() < 1e-6, "{t}");
        assert!((student_tail(-t, freedom) - (1.0 - p)).abs() < 1e-6, "{t}");
    }
}

#[test]
fn ranks_and_slopes_by_hand() {
    // Ties: two 2s and three 5s.
    let y = [1.0, 2.0, 2.0, 5.0, 5.0, 5.0];
    let (s, variance) = mann_kendall(&y);
    // 15 pairs, of which 1 + 3 are ties; (6·5·17 − 2·1·9 − 3·2·11) / 18.
    assert!((s - 11.0).abs() < 1e-12 && (variance - 426.0 / 18.0).abs() < 1e-12, "{s} {variance}");
    let x: Vec<f64> = (0..20).map(f64::from).collect();
    let mut y: Vec<f64> = x.iter().map(|x| 3.0 * x + (x * 7.0).sin()).collect();
    // One that is far off does not move it.
    y[10] = 1e9;
    let fit = line(&x, &y);
    assert!((fit.slope - 3.0).abs() < 0.05, "{fit:?}");
    let flat = line(&x, &[4.0; 20]);
    assert!(flat.slope.abs() < 1e-12 && flat.p >= 0.5 && flat.p_by_ranks >= 0.5, "{flat:?}");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn odd_input_is_handled(
        points in proptest::collection::vec(
            (any::<u64>(), any::<u64>(), any::<f64>(), any::<f64>()), 0..60),
        kept in proptest::option::of((any::<f64>(), any::<f64>(), any::<u64>())),
        alpha in any::<f64>(),
    ) {
        let points: Vec<Point> = points
            .into_iter()
            .map(|(gc, time_ns, bytes, standard_error)| Point { gc, time_ns, bytes, standard_error })
            .collect();
        let kept = kept.and_then(|(lived, died, n)| Kept::of(lived, died, n));
        let _ = verdicts(&[(points, kept)], alpha);
    }

    /// Neither the unit of bytes nor that of time decides.
    #[test]
    fn scale_does_not_matter(kind in 0..HEALTHY.len(), seed in 0..1000_u64, scale in 1..1000_u64) {
        let (points, kept) = healthy(HEALTHY[kind], &mut Rng(seed), 30);
        let scaled: Vec<Point> = points
            .iter()
            .map(|p| Point {
                bytes: p.bytes * 1024.0,
                standard_error: p.standard_error * 1024.0,
                time_ns: p.time_ns * scale,
                ..*p
            })
            .collect();
        prop_assert_eq!(
            is_growing(&verdict(&points, kept, ALPHA)),
            is_growing(&verdict(&scaled, kept, ALPHA))
        );
    }
}
