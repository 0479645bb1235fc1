//! Run-queue truth: number and sum of a service's waits for a CPU agree with perf's over the same
//! window, for both kinds of wait.

use std::collections::BTreeSet;
use std::time::Duration;

use anyhow::{Result, ensure};
use g211s_tests::agent::Attach;
use g211s_tests::service::{Hog, Launch};
use g211s_tests::stats::disagreement;
use g211s_tests::truth::sched::{Kind, Perf, note_threads};
use g211s_tests::{go, needs_kernel, proc};

fn agree(what: &str, ours: u64, truth: u64, bound: f64) -> Result<()> {
    let apart = disagreement(ours, truth);
    println!("{what}: g211s {ours}, perf {truth}: {:.3} % apart", apart * 100.0);
    ensure!(apart <= bound, "{what}: {ours}, but {truth} by perf");
    Ok(())
}

fn check() -> Result<()> {
    let cpu = *proc::cpus()?.last().unwrap_or(&0);
    let service = Launch::new("service", go::NEW).args(&["-rate", "50"]).cpus(&[cpu]).start()?;
    let load = service.load("/work?kb=16", 4, 800)?;
    let hog = Hog::start("hog-runqueue", cpu)?;
    let perf = Perf::start()?;
    let mut tids = BTreeSet::new();
    note_threads(service.pid(), &mut tids)?;
    let report = Attach::new(service.pid(), Duration::from_secs(10)).report()?;
    note_threads(service.pid(), &mut tids)?;
    let recorded = perf.stop()?;
    drop(hog);
    let load = load.stop()?;
    ensure!(load.errors == 0, "{} requests failed: {}", load.errors, load.first_error);

    let window = report.window()?;
    let trace = recorded.trace()?;
    let (woken, woken_ns) = trace.delays(&tids, Kind::Wakeup, window);
    let (preempted, preempted_ns) = trace.delays(&tids, Kind::Preemption, window);
    ensure!(woken > 500 && preempted > 200, "too little happened: {woken} and {preempted} waits");

    agree("wakeup delays", report.number("/runqueue/wakeup/count")?, woken, 0.01)?;
    agree("wakeup delay, ns", report.number("/runqueue/wakeup/total_ns")?, woken_ns, 0.01)?;
    // Perf does not know sched_yield from preemption; g211s does, and both are waits of a thread
    // that could have run on.
    let both = |field: &str| -> Result<u64> {
        let preempted = report.number(&format!("/runqueue/preempted/{field}"))?;
        Ok(preempted + report.number(&format!("/runqueue/yielded/{field}")).unwrap_or(0))
    };
    agree("preemption delays", both("count")?, preempted, 0.01)?;
    agree("preemption delay, ns", both("total_ns")?, preempted_ns, 0.01)?;

    // timehist prints whole microseconds, cut: half of one is missing from each row on average.
    let mut rows = recorded.timehist()?;
    rows.retain(|r| tids.contains(&r.tid) && r.in_ns >= window.0 && r.in_ns < window.1);
    let delayed: Vec<u64> = rows.iter().map(|r| r.sch_delay_ns).filter(|&ns| ns > 0).collect();
    let total = delayed.iter().sum::<u64>() + delayed.len() as u64 * 500;
    let count = delayed.len() as u64;
    agree("timehist's sch delays", report.number("/runqueue/wakeup/count")?, count, 0.01)?;
    agree("timehist's sch delay, ns", report.number("/runqueue/wakeup/total_ns")?, total, 0.01)
}

/// Perf may lose events on a busy machine: one repetition is allowed.
#[test]
fn delays_are_those_that_perf_sees() -> Result<()> {
    needs_kernel!("perf");
    check().or_else(|first| {
        println!("repeated once because of: {first:#}");
        check()
    })
}
