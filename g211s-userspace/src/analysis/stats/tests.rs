//! Known answers (worked out with `scipy` 1.x, or by hand where said) and what must always hold.

use g211s_ebpf::hist::bucket_of;
use hdrhistogram::Histogram;
use proptest::prelude::*;

use super::tail::{Rng, beta_cdf, binomial_cdf, ci_ranks};
use super::*;

fn hist(values: &[u64]) -> SparseHist {
    let mut buckets = BTreeMap::<u16, u64>::new();
    for v in values {
        *buckets.entry(bucket_of(*v) as u16).or_default() += 1;
    }
    SparseHist {
        count: values.len() as u64,
        sum: values.iter().sum(),
        max: values.iter().copied().max().unwrap_or(0),
        buckets: buckets.into_iter().collect(),
    }
}

fn near(a: f64, b: f64, tolerance: f64) -> bool {
    (a - b).abs() <= tolerance
}

const X: [f64; 8] = [1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0];
const Y: [f64; 8] = [2.0, 1.0, 4.0, 3.0, 7.0, 8.0, 6.0, 100.0];

#[test]
fn quantiles_by_hand() {
    // 1 to 50: buckets are one wide, so nearest rank is exact.
    let q = quantiles(&hist(&(1..=50).collect::<Vec<_>>()));
    assert_eq!((q.count, q.total_ns, q.max_ns), (50, 1275, 50));
    assert_eq!((q.p50_ns, q.p90_ns, q.p99_ns, q.p999_ns), (25, 45, 50, 50));
    assert!(near(q.mean_ns, 25.5, 1e-12));
    assert_eq!(quantiles(&SparseHist::default()), Quantiles::default());
    // One value: every quantile is it, not its bucket's middle.
    let one = quantiles(&hist(&[1_000_003]));
    assert_eq!((one.p50_ns, one.p999_ns, one.max_ns), (1_000_003, 1_000_003, 1_000_003));
    // 100 values: p99 is the 99th and not the largest.
    let hundred: Vec<u64> = (0..99).map(|_| 10).chain([60]).collect();
    assert_eq!(quantiles(&hist(&hundred)).p99_ns, 10);
}

#[test]
fn quantiles_agree_with_hdrhistogram() {
    let mut rng = Rng(1);
    let values: Vec<u64> = (0..50_000).map(|_| (rng.normal() * 2.0 + 11.0).exp() as u64).collect();
    let mut hdr = Histogram::<u64>::new(4).unwrap();
    for v in &values {
        hdr.record(*v).unwrap();
    }
    let q = quantiles(&hist(&values));
    for (ours, at) in [(q.p50_ns, 0.5), (q.p90_ns, 0.9), (q.p99_ns, 0.99), (q.p999_ns, 0.999)] {
        let theirs = hdr.value_at_quantile(at) as f64;
        assert!(near(ours as f64 / theirs, 1.0, 0.0165), "{at}: {ours} and {theirs}");
    }
}

#[test]
fn merging_adds() {
    let (a, b) = (hist(&[1, 5, 900]), hist(&[5, 7]));
    assert_eq!(merge(&[&a, &b]), hist(&[1, 5, 900, 5, 7]));
    assert_eq!(merge(&[]), SparseHist::default());
}

#[test]
fn hostile_histograms_do_no_harm() {
    let h = SparseHist {
        count: 1,
        sum: u64::MAX,
        max: 3,
        buckets: vec![(u16::MAX, u64::MAX), (7, u64::MAX), (7, 1), (2, 0)],
    };
    let both = merge(&[&h, &h]);
    for h in [&h, &both] {
        let q = quantiles(h);
        assert!(q.p50_ns <= 3 && q.p999_ns <= 3);
        let _ = quantile_ci(h, 0.99);
        let _ = p99_ratio_ci(h, h);
    }
    assert_eq!(quantile_ci(&h, f64::NAN), None);
}

#[test]
fn correlations_as_scipy_has_them() {
    let (p, s) = (pearson(&X, &Y).unwrap(), spearman(&X, &Y).unwrap());
    assert!(near(p, 0.625_773_596_564_074, 1e-12));
    assert!(near(s, 0.880_952_380_952_381, 1e-12));
    let tied = [1.0, 2.0, 2.0, 3.0, 5.0, 5.0, 5.0, 8.0];
    assert!(near(spearman(&tied, &Y).unwrap(), 0.896_127_224_455_931_4, 1e-12));
    assert_eq!(ranks(&tied), [1.0, 2.5, 2.5, 4.0, 6.0, 6.0, 6.0, 8.0]);
}

#[test]
fn no_correlation_where_there_is_none_to_compute() {
    // 0.1 a hundred times has a variance of rounding errors, if one is computed.
    let (flat, slope): (Vec<_>, Vec<_>) = (0..100).map(|i| (0.1, f64::from(i))).unzip();
    assert_eq!(pearson(&flat, &slope), None);
    assert_eq!(spearman(&flat, &slope), None);
    assert_eq!(pearson(&X[..2], &Y[..2]), None);
    assert_eq!(pearson(&X, &Y[..7]), None);
    assert_eq!(spearman(&[1.0, f64::NAN, 2.0], &[1.0, 2.0, 3.0]), None);
    assert_eq!(pearson(&[1.0, f64::INFINITY, 2.0], &[1.0, 2.0, 3.0]), None);
}

#[test]
fn fisher_as_scipy_has_it() {
    let (low, high) = fisher_ci(0.5, 28).unwrap();
    assert!(near(low, 0.156_028_362_529_086, 1e-12) && near(high, 0.735_818_479_443_937, 1e-12));
    let (low, high) = fisher_ci(0.334_325_399_018_994_83, 10).unwrap();
    assert!(near(low, -0.374_035_370_929_462, 1e-12) && near(high, 0.796_325_194_840_786, 1e-12));
    assert_eq!(fisher_ci(0.5, 3), None);
    assert_eq!(fisher_ci(1.0, 10), Some((1.0, 1.0)));
    assert_eq!(fisher_ci(f64::NAN, 10), None);
}

#[test]
fn effective_size_by_hand() {
    // 1 0 1 0: deviations ±½, all = 4/4, next = -3/4, so a = -3/4; with itself a·a = 9/16 and
    // n (1 - 9/16) / (1 + 9/16) = 4 · 7/25.
    let v = [1.0, 0.0, 1.0, 0.0];
    assert!(near(effective_size(&v, &v), 4.0 * 7.0 / 25.0, 1e-12));
    // Opposite signs would make more of n than there is.
    assert!(near(effective_size(&v, &[1.0, 2.0, 3.0, 4.0]), 4.0, 1e-12));
}

#[test]
fn distributions_as_scipy_has_them() {
    assert!(near(beta_cdf(2.0, 3.0, 0.3), 0.3483, 1e-12));
    assert!(near(beta_cdf(50.5, 10.0, 0.8), 0.222_261_361_039_831_16, 1e-11));
    assert!(near(binomial_cdf(3, 10, 0.5), 0.171_875, 1e-12));
    // These two with Python's `fractions`; scipy 1.x is 1e-9 off in the second.
    assert!(near(binomial_cdf(89, 100, 0.9), 0.416_844_487_733_508_2, 1e-11));
    assert!(near(binomial_cdf(994, 1000, 0.99), 0.933_860_488_392_748, 1e-11));
}

#[test]
fn order_statistics_as_scipy_has_them() {
    assert_eq!(ci_ranks(10, 0.5), Some((2, 9)));
    assert_eq!(ci_ranks(100, 0.5), Some((40, 61)));
    assert_eq!(ci_ranks(100, 0.9), Some((84, 96)));
    assert_eq!(ci_ranks(1000, 0.99), Some((983, 997)));
    assert_eq!(ci_ranks(5000, 0.99), Some((4936, 4964)));
    assert_eq!(ci_ranks(MIN_FOR_P99, 0.99), Some((360, 368)));
    assert_eq!(ci_ranks(MIN_FOR_P99 - 1, 0.99), None);
    assert_eq!(ci_ranks(0, 0.5), None);
    // Where the normal distribution takes over, it agrees to a few ranks of 10 million.
    let (low, high) = ci_ranks(10_000_000, 0.99).unwrap();
    assert!(low.abs_diff(9_899_383) <= 3 && high.abs_diff(9_900_617) <= 3, "{low} {high}");
    let h = hist(&(1..=10).collect::<Vec<_>>());
    assert_eq!(quantile_ci(&h, 0.5), Some((2, 9)));
    assert_eq!(quantile_ci(&h, 0.99), None);
}

#[test]
fn gamma_has_its_mean_and_variance() {
    for shape in [1.0, 3.0, 990.0] {
        let mut rng = Rng(5);
        let draws: Vec<f64> = (0..40_000).map(|_| rng.gamma(shape)).collect();
        let mean = draws.iter().sum::<f64>() / 40_000.0;
        let variance = draws.iter().map(|d| (d - mean).powi(2)).sum::<f64>() / 40_000.0;
        assert!(near(mean / shape, 1.0, 0.02), "{shape}: mean {mean}");
        assert!(near(variance / shape, 1.0, 0.05), "{shape}: variance {variance}");
    }
}

#[test]
fn the_ratio_of_two_known_distributions() {
    // Exponential, means 1 ms and 4 ms: every quantile's ratio is 4.
    let sample = |mean: f64, n: usize, seed: u64| {
        let mut rng = Rng(seed);
        hist(&(0..n).map(|_| (-rng.uniform().ln() * mean) as u64).collect::<Vec<_>>())
    };
    let (inside, outside) = (sample(4e6, 20_000, 2), sample(1e6, 100_000, 3));
    let ci = p99_ratio_ci(&inside, &outside).unwrap();
    assert!(ci.low < 4.0 && 4.0 < ci.high, "{ci:?}");
    assert!(ci.high / ci.low < 1.25, "{ci:?}");
    assert_eq!(p99_ratio_ci(&inside, &outside), Some(ci));
    assert_eq!(p99_ratio_ci(&sample(1e6, 367, 2), &outside), None);

    // How often the interval holds the truth: 95 % less what 3 % buckets and 60 tail values cost.
    let held = (0..200).filter(|i| {
        let (inside, outside) = (sample(4e6, 2000, 1000 + i), sample(1e6, 6000, 5000 + i));
        let ci = p99_ratio_ci(&inside, &outside).unwrap();
        ci.low <= 4.0 && 4.0 <= ci.high
    });
    let held = held.count();
    assert!((182..=200).contains(&held), "{held} of 200");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn quantiles_are_ordered_and_near(mut values in proptest::collection::vec(0u64..1 << 40, 1..300)) {
        let q = quantiles(&hist(&values));
        prop_assert!(q.p50_ns <= q.p90_ns && q.p90_ns <= q.p99_ns);
        prop_assert!(q.p99_ns <= q.p999_ns && q.p999_ns <= q.max_ns);
        values.sort_unstable();
        let truth = values[values.len().div_ceil(2) - 1] as f64;
        prop_assert!((q.p50_ns as f64 - truth).abs() <= truth * 0.016 + 1.0);
    }

    #[test]
    fn correlations_stay_within_one(
        pairs in proptest::collection::vec((-1e9..1e9, -1e9..1e9), 3..60),
    ) {
        let (x, y): (Vec<f64>, Vec<f64>) = pairs.into_iter().unzip();
        if let (Some(p), Some(s)) = (pearson(&x, &y), spearman(&x, &y)) {
            prop_assert!(p.abs() <= 1.0 && s.abs() <= 1.0);
            prop_assert!((pearson(&y, &x).unwrap() - p).abs() < 1e-12);
            // Ranks do not change under a monotone map.
            let mapped: Vec<f64> = x.iter().map(|v| (v / 1e9).exp()).collect();
            if ranks(&mapped) == ranks(&x) {
                prop_assert_eq!(spearman(&mapped, &y), Some(s));
            }
            let negated: Vec<f64> = x.iter().map(|v| -v * 3.0).collect();
            prop_assert!((spearman(&negated, &y).unwrap() + s).abs() < 1e-12);
            if let Some((low, high)) = fisher_ci(p, x.len()) {
                prop_assert!(-1.0 <= low && low <= p && p <= high && high <= 1.0);
            }
        }
    }

    #[test]
    fn intervals_hold_the_estimate(
        values in proptest::collection::vec(0u64..1 << 40, 400..900),
        others in proptest::collection::vec(0u64..1 << 40, 400..900),
        q in 0.05f64..0.95,
    ) {
        let (a, b) = (hist(&values), hist(&others));
        let (low, high) = quantile_ci(&a, q).unwrap();
        let estimate = Cells::new(&a).quantile(q);
        prop_assert!(low <= estimate && estimate <= high);
        let ci = p99_ratio_ci(&a, &b).unwrap();
        prop_assert!(ci.low <= ci.ratio && ci.ratio <= ci.high);
        prop_assert_eq!(p99_ratio_ci(&a, &b), Some(ci));
    }
}
