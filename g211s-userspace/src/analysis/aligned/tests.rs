use g211s_ebpf::series::TICK_NS;
use proptest::prelude::*;

use super::*;
use crate::record::Waits;

const MS: u64 = 1_000_000;
const START: u64 = 1000 * TICK_NS;

/// A run of `ms`, in which at each ms a share of a thread waits, in waits of `delay_us`.
fn series(ms: u64, depth: impl Fn(u64) -> f64, delay_us: impl Fn(u64) -> u32) -> WaitSeries {
    let ticks = ms * MS / TICK_NS + 2;
    let mut waits = Waits { from: 1000, ticks: ticks as u32, ..Waits::default() };
    for n in 0..ticks {
        let at_ms = n * TICK_NS / MS;
        let within = (depth(at_ms) * TICK_NS as f64 / 1000.0) as u32;
        waits.at.push(u32::from(n > 0));
        waits.waits.push(10);
        waits.waited_us.push(10 * delay_us(at_ms));
        waits.within_us.push(within);
    }
    let mut series = WaitSeries::default();
    series.apply(&waits);
    series
}

/// Collections of 8 ms, `every` ms, of which 7 ms mark.
fn cycles(n: u64, every: u64) -> Vec<Cycle> {
    let cycle = |i: u64| Cycle {
        n: i + 1,
        start_ns: START + (i * every + 100) * MS,
        duration_ns: 8 * MS,
        sweep_term_ns: MS / 2,
        mark_ns: 7 * MS,
        mark_term_ns: MS / 2,
        interval_ns: None,
        trigger: None,
        retries: 0,
        stw: [1, 2],
    };
    (0..n).map(cycle).collect()
}

/// Something that varies from ms to ms and has nothing to do with collections.
fn noise(ms: u64) -> f64 {
    (ms.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 40) as f64 / f64::from(1 << 24)
}

#[test]
fn a_queue_that_is_deeper_after_mark_start_is_found_there() {
    // In the 7 ms of marking another 1.5 threads wait, and waits are twice as long.
    let marking = |ms: u64| (100..28_100).contains(&ms) && (ms - 100) % 200 < 8;
    let series = series(
        30_000,
        |ms| noise(ms) + if marking(ms) { 1.5 } else { 0.0 },
        |ms| if marking(ms) { 80 } else { 40 },
    );
    let aligned = align(&series, &cycles(140, 200), MS);
    assert_eq!(aligned.warnings, [""; 0]);
    let base = aligned.baseline.unwrap();
    assert_eq!(base.of, "outside");
    assert!((base.depth - 0.5).abs() < 0.02 && (base.delay_ns.unwrap() - 40_000.0).abs() < 1.0);
    let mark = &aligned.events[1];
    assert_eq!((mark.name, mark.cycles, mark.steps.len()), ("mark_start", 140, 70));
    let after = mark.after.unwrap();
    assert!((after.depth - 2.0).abs() < 0.05, "{after:?}");
    let (low, high) = (after.depth_ratio_low.unwrap(), after.depth_ratio_high.unwrap());
    let ratio = after.depth_ratio.unwrap();
    // A little less than 4: ticks reach over the beginning of marking.
    assert!((3.8..4.0).contains(&ratio) && low < ratio && ratio < high, "{after:?}");
    assert!(low > 3.6 && high < 4.2, "{after:?}");
    assert!(after.by_chance < 1e-9);
    assert!((after.delay_ratio.unwrap() - 2.0).abs() < 0.1);
    // Before it, and long after it, the queue is as deep as ever.
    for step in mark.steps.iter().filter(|s| !(-2..9).contains(&s.at_ms)) {
        assert!((step.depth - 0.5).abs() < 0.15, "{step:?}");
        assert!(step.depth_low <= step.depth && step.depth <= step.depth_high);
    }
    assert!(aligned.summary[1].starts_with("In the 5 ms after mark start the run queue was 3.9"));
    assert!(aligned.summary[1].contains("times as deep as elsewhere (95 % 3."));
    // Marking has just ended there.
    assert!(aligned.events[2].after.unwrap().depth_ratio.unwrap() < 2.0);
}

#[test]
fn nothing_is_found_where_nothing_is() {
    let series = series(30_000, noise, |_| 40);
    let aligned = align(&series, &cycles(140, 200), MS);
    for event in &aligned.events {
        let after = event.after.unwrap();
        let (low, high) = (after.depth_ratio_low.unwrap(), after.depth_ratio_high.unwrap());
        assert!(low < 1.0 && high > 1.0, "{} {after:?}", event.name);
        assert!((0.02..0.98).contains(&after.by_chance), "{after:?}");
        // Of 70 intervals of 95 % a few miss the truth, not many.
        let missed = event.steps.iter().filter(|s| s.depth_low > 0.5 || s.depth_high < 0.5).count();
        assert!(missed <= 10, "{missed}");
    }
    assert!(aligned.summary.iter().all(|s| s.contains("as far as the data can tell")));
}

#[test]
fn too_little_to_say() {
    let series = series(30_000, noise, |_| 40);
    let few = align(&series, &cycles(19, 200), MS);
    assert_eq!(few.summary, [""; 0]);
    assert_eq!(
        few.warnings,
        [
            "The run queue around collections: 19 with known surroundings are too few to say (at least 20 are needed)."
        ]
    );
    let none = align(&WaitSeries::default(), &cycles(100, 200), MS);
    assert_eq!(
        none.warnings,
        ["The run queue around collections: waits were not recorded by time."]
    );
    // Collections every 40 ms leave nothing 20 ms before and 50 ms after them.
    let dense = align(&series, &cycles(745, 40), MS);
    assert_eq!(dense.baseline.unwrap().of, "between_cycles");
    assert!(dense.summary[0].contains("between the cycles"));
    let without = align(&series, &cycles(2985, 10), MS);
    assert_eq!(without.baseline, None);
    assert!(without.events[0].after.is_none() && without.events[0].cycles == MAX_CYCLES);
    assert!(without.warnings[0].contains("too little time between them"), "{:?}", without.warnings);
}

#[test]
fn a_gap_leaves_out_the_cycles_in_it() {
    let mut series = series(10_000, noise, |_| 40);
    let (_, end) = series.span().unwrap();
    series.apply(&Waits { from: end / TICK_NS + 2000, ticks: 9000, ..Waits::default() });
    let aligned = align(&series, &cycles(95, 200), MS);
    // The gap is some 2.1 s long, 10 s after the start.
    assert!((82..88).contains(&aligned.events[0].cycles), "{}", aligned.events[0].cycles);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(20))]

    #[test]
    fn any_cycles_give_the_same_numbers_again(
        starts in prop::collection::vec((0u64..2000, any::<u32>(), any::<u64>()), 0..60),
    ) {
        let series = series(2_000, noise, |_| 40);
        let mut cycles: Vec<Cycle> = starts
            .iter()
            .map(|&(at, mark, wild)| Cycle {
                start_ns: if wild % 16 == 0 { wild } else { START + at * MS },
                mark_ns: u64::from(mark % 50) * MS,
                duration_ns: u64::from(mark % 50) * MS,
                ..cycles(1, 1)[0].clone()
            })
            .collect();
        cycles.sort_by_key(|c| c.start_ns);
        let aligned = align(&series, &cycles, MS);
        prop_assert_eq!(&aligned, &align(&series, &cycles, MS));
        for step in aligned.events.iter().flat_map(|e| &e.steps) {
            prop_assert!(step.depth.is_finite() && step.depth_low <= step.depth_high);
        }
        serde_json::to_string(&aligned).unwrap();
    }
}
