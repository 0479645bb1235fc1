//! Analysis is linear in events: three times as many take about three times as long. Says nothing about
//! seconds (that is `cargo xtask bench`), so it holds on any machine and in any build.

#[path = "../examples/synthetic/machine.rs"]
mod machine;

use g211s::report::Pipeline;
use nix::sys::time::TimeValLike as _;
use nix::time::{ClockId, clock_gettime};

/// CPU time of this thread that the analysis of a run takes, ns.
fn cost(events: u64) -> i64 {
    let records: Vec<_> = machine::Machine::new(events).collect();
    let now = || clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID).unwrap().num_nanoseconds();
    let began = now();
    let mut pipeline = Pipeline::new("speed");
    for record in records {
        pipeline.push(record);
    }
    let report = pipeline.finish();
    let took = now() - began;
    assert!(report.first.gc.count as u64 >= events / 40_000, "{}", report.first.gc.count);
    assert!(report.events.received.total >= events && report.events.late == 0);
    took
}

#[test]
fn analysis_is_linear_in_events() {
    // Pairs, because the machine may be busier at one time than at another; one good pair tells.
    let ratios: Vec<f64> = (0..4).map(|_| cost(150_000) as f64 / cost(50_000) as f64).collect();
    let best = ratios.iter().copied().fold(f64::INFINITY, f64::min);
    assert!(best <= 3.6, "three times the events take {ratios:?} times as long");
}
