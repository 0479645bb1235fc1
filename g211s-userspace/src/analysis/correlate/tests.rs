//! Series made so that the answer is known.

use g211s_ebpf::hist::bucket_of;
use proptest::prelude::*;

use super::*;

const TICK: u64 = 100_000_000;

/// Noise on 0..1.
fn noise(seed: u64, i: u64) -> f64 {
    let z = (seed << 32 ^ i).wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    ((z ^ (z >> 31)) >> 11) as f64 / (1u64 << 53) as f64
}

/// Counters, one reading a tick, from each interval's run-queue delay and network lateness (ns
/// in total, over 10 waits and 10 wakes).
fn counters(intervals: &[(u64, u64)]) -> Vec<Interval> {
    let mut now = Interval { ts_ns: TICK, ..Interval::default() };
    let mut out = vec![now.clone()];
    for (wait, late) in intervals {
        now.ts_ns += TICK;
        now.woken += 6;
        now.preempted += 4;
        now.woken_ns += wait / 2;
        now.preempted_ns += wait - wait / 2;
        now.epoll_slept += 10;
        now.epoll_late_ns += late;
        out.push(now.clone());
    }
    out
}

/// A GC cycle that takes a share of interval `i`.
fn cycle(i: usize, share: f64) -> Span {
    let start_ns = (i as u64 + 1) * TICK;
    Span { start_ns, end_ns: start_ns + (share * TICK as f64) as u64 }
}

fn hist(values: impl Iterator<Item = u64>) -> SparseHist {
    let mut h = SparseHist::default();
    for v in values {
        let one = SparseHist { count: 1, sum: v, max: v, buckets: vec![(bucket_of(v) as u16, 1)] };
        h = crate::analysis::stats::merge(&[&h, &one]);
    }
    h
}

fn run(intervals: &[Interval], gc: &[Span]) -> Correlation {
    correlate(intervals, gc, &[], &SparseHist::default(), &SparseHist::default())
}

#[test]
fn points_by_hand() {
    // Cycles overlap, are out of order, span intervals and reach beyond the run.
    let spans = [(350, 1000), (150, 220), (90, 120), (110, 130), (140, 140)]
        .map(|(s, e)| Span { start_ns: s, end_ns: e });
    let at = |ts_ns, woken_ns, epoll_late_ns| Interval {
        ts_ns,
        woken: woken_ns / 10,
        woken_ns,
        preempted: 1,
        preempted_ns: 5,
        epoll_slept: epoll_late_ns / 10,
        epoll_late_ns,
        ..Interval::default()
    };
    // The reading at 150 goes back in time, and the one at 400 has lost count.
    let readings =
        [at(100, 0, 0), at(200, 50, 30), at(150, 60, 30), at(300, 90, 30), at(400, 0, 0)];
    let points = points(&readings, &spans, &spans[1..2]);
    let shares: Vec<f64> = points.iter().map(|p| p.gc_share).collect();
    assert_eq!(shares, [0.8, 0.2, 0.5]);
    assert_eq!(points.iter().map(|p| p.stw_ns).collect::<Vec<_>>(), [50, 20, 0]);
    assert_eq!(points.iter().map(|p| p.wait_ns).collect::<Vec<_>>(), [50, 40, 0]);
    assert_eq!(points.iter().map(|p| p.waits).collect::<Vec<_>>(), [5, 4, 0]);
    assert_eq!(points.iter().map(|p| p.wakes).collect::<Vec<_>>(), [3, 0, 0]);
    // Lateness per wake has a value in the interval that had wakes, and nowhere else.
    let columns = columns(&points);
    let lateness = columns.iter().find(|c| c.name == "network_lateness").unwrap();
    assert_eq!(lateness.values, [Some(10.0), None, None]);
    let delay = columns.iter().find(|c| c.name == "runqueue_delay").unwrap();
    assert_eq!(delay.values[0], Some(50.0 / 100e-9));
}

#[test]
fn a_lag_is_found() {
    // Run-queue delay follows GC activity two intervals later; the network does not care.
    let share = |i: usize| noise(1, i as u64);
    let series: Vec<(u64, u64)> = (0..300)
        .map(|i| {
            let cause = if i < 2 { 0.5 } else { share(i - 2) };
            let delay = 1e6 * cause + 2e5 * noise(2, i as u64);
            (delay as u64, (1e6 * noise(3, i as u64)) as u64)
        })
        .collect();
    let gc: Vec<Span> = (0..300).map(|i| cycle(i, share(i))).collect();
    let c = run(&counters(&series), &gc);
    assert_eq!((c.intervals, c.interval_ns, c.gaps), (300, TICK, 0));
    let [gc_runqueue, gc_network, runqueue_network] = &c.pairs[..] else { panic!("three pairs") };
    let best = gc_runqueue.best.unwrap();
    assert_eq!((best.lag, best.lag_ns, best.n), (2, 200_000_000, 298));
    assert!(best.significant && best.spearman > 0.9 && best.pearson > 0.9);
    assert!(best.pearson_low.unwrap() > 0.9 && best.pearson_high.unwrap() < 1.0);
    let zero = gc_runqueue.at_zero.unwrap();
    assert!(!zero.significant && zero.lag == 0 && zero.n == 300);
    assert!(c.summary[0].contains("200 ms later"), "{}", c.summary[0]);
    for pair in [gc_network, runqueue_network] {
        assert!(!pair.best.unwrap().significant, "{pair:?}");
        assert_eq!(pair.warning, None);
    }
    assert!(c.summary[1].contains("from chance"), "{}", c.summary[1]);
}

#[test]
fn few_or_constant_intervals_say_nothing() {
    let series: Vec<(u64, u64)> = (0..12).map(|i| (i * 1000, i * 1000)).collect();
    let c = run(&counters(&series), &[]);
    for pair in &c.pairs {
        assert_eq!(
            pair.warning.as_deref(),
            Some("only 12 intervals: too few to say (at least 20 are needed)")
        );
        assert!(pair.max_lag == 0 && !pair.best.is_some_and(|b| b.significant));
    }
    // Perfectly correlated, and still too few.
    assert!(c.pairs[2].best.unwrap().pearson > 0.999);

    let series: Vec<(u64, u64)> = (0..50).map(|i| (i * i, i)).collect();
    let c = run(&counters(&series), &[]);
    assert_eq!((c.pairs[0].best, c.pairs[0].at_zero), (None, None));
    let warning = c.pairs[0].warning.as_deref().unwrap();
    assert!(warning.starts_with("GC activity was the same in all 50"), "{warning}");
    // A trend on both sides: slow change, hardly any evidence.
    let warning = c.pairs[2].warning.as_deref().unwrap();
    assert!(warning.contains("change so slowly"), "{warning}");
    assert!(!c.pairs[2].best.unwrap().significant);

    let c = run(&[], &[]);
    assert_eq!((c.intervals, c.summary.len()), (0, 4));
}

#[test]
fn slow_unrelated_series_are_not_called_significant() {
    // Independent first-order autoregressive series: chance correlations are large, and a test
    // that took intervals as independent would report them in most runs.
    let walk = |seed: u64| {
        let mut v = 0.0;
        let step = move |i| {
            v = 0.9 * v + noise(seed, i) - 0.5;
            1e6 * (10.0 + v)
        };
        (0..300).map(step).map(|v| v as u64).collect::<Vec<u64>>()
    };
    let mut false_alarms = 0;
    for seed in 0..60 {
        let series: Vec<(u64, u64)> =
            walk(2 * seed + 10).into_iter().zip(walk(2 * seed + 11)).collect();
        let c = run(&counters(&series), &[]);
        false_alarms += u32::from(c.pairs[2].best.unwrap().significant);
    }
    assert!(false_alarms <= 6, "{false_alarms} of 60");
}

#[test]
fn missed_ticks_are_normalised() {
    // A constant rate of delay, with every fifth reading missing.
    let all = counters(&[(1000, 1000); 60]);
    let kept: Vec<Interval> =
        all.into_iter().enumerate().filter(|(i, _)| i % 5 != 3).map(|(_, i)| i).collect();
    let c = run(&kept, &[]);
    assert_eq!(c.gaps, 12);
    assert_eq!(c.interval_ns, TICK);
    let delay = c.series.iter().find(|s| s.name == "runqueue_delay").unwrap();
    assert!((delay.min - 10_000.0).abs() < 1e-6 && (delay.max - 10_000.0).abs() < 1e-6);
}

#[test]
fn delays_inside_gc_are_compared() {
    let inside = hist((1..=1000).map(|i| i * 4000));
    let outside = hist((1..=2000).map(|i| i * 500));
    let c = correlate(&[], &[], &[], &inside, &outside);
    let gc = &c.gc_vs_outside;
    assert_eq!((gc.inside_count, gc.outside_count, &gc.warning), (1000, 2000, &None));
    // 3.96 ms against 0.99 ms, within the buckets' 1.6 % on either side.
    assert!((gc.ratio.unwrap() / 4.0 - 1.0).abs() < 0.032);
    assert!(gc.ratio_low.unwrap() < 4.0 && 4.0 < gc.ratio_high.unwrap());
    assert!(c.summary[3].ends_with("longer within."), "{}", c.summary[3]);

    let c = correlate(&[], &[], &[], &outside, &outside);
    assert!(c.summary[3].ends_with("no difference that the data can tell."), "{}", c.summary[3]);

    let c = correlate(&[], &[], &[], &hist((1..=9).map(|i| i * 1000)), &outside);
    let warning = c.gc_vs_outside.warning.as_deref();
    assert_eq!(warning, Some("only 9 delays within GC cycles: too few to say (p99 needs 368)"));
    assert_eq!(c.gc_vs_outside.ratio_low, None);
    assert!(c.gc_vs_outside.ratio.is_some());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn anything_goes(
        numbers in proptest::collection::vec(any::<[u64; 6]>(), 0..60),
        spans in proptest::collection::vec(any::<(u64, u64)>(), 0..20),
        sorted in any::<bool>(),
    ) {
        let mut intervals: Vec<Interval> = numbers
            .iter()
            .map(|n| Interval {
                ts_ns: n[0],
                woken: n[1],
                woken_ns: n[2],
                preempted_ns: n[3],
                epoll_slept: n[4],
                epoll_late_ns: n[5],
                ..Interval::default()
            })
            .collect();
        if sorted {
            intervals.sort_by_key(|i| i.ts_ns);
        }
        let spans: Vec<Span> =
            spans.into_iter().map(|(start_ns, end_ns)| Span { start_ns, end_ns }).collect();
        let c = correlate(&intervals, &spans, &spans, &SparseHist::default(), &SparseHist::default());
        for stat in c.pairs.iter().flat_map(|p| [p.at_zero, p.best]).flatten() {
            prop_assert!(stat.pearson.abs() <= 1.0 && stat.spearman.abs() <= 1.0);
            prop_assert!(stat.n_effective <= stat.n as f64);
            if let (Some(low), Some(high)) = (stat.pearson_low, stat.pearson_high) {
                prop_assert!(low <= stat.pearson && stat.pearson <= high);
            }
        }
        let json = serde_json::to_string(&c).unwrap();
        let again = correlate(&intervals, &spans, &spans, &SparseHist::default(), &SparseHist::default());
        prop_assert_eq!(json, serde_json::to_string(&again).unwrap());
    }

    #[test]
    fn shares_are_shares(
        spans in proptest::collection::vec((0u64..1000, 0u64..300), 0..20),
    ) {
        let spans: Vec<Span> =
            spans.into_iter().map(|(s, len)| Span { start_ns: s, end_ns: s + len }).collect();
        let readings: Vec<Interval> =
            (0..=15).map(|i| Interval { ts_ns: i * 100, ..Interval::default() }).collect();
        let points = points(&readings, &spans, &spans);
        prop_assert!(points.iter().all(|p| (0.0..=1.0).contains(&p.gc_share)));
        // Nothing is counted twice or lost: nanosecond by nanosecond.
        let covered = (0..1500).filter(|t| spans.iter().any(|s| s.start_ns <= *t && *t < s.end_ns));
        prop_assert_eq!(points.iter().map(|p| p.stw_ns).sum::<u64>(), covered.count() as u64);
    }
}
