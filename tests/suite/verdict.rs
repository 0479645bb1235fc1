//! The verdict: a hog that we put beside the service is named, with pid and comm; without one
//! nobody is accused of what did not happen.

use std::collections::BTreeSet;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use g211s_tests::agent::Attach;
use g211s_tests::report::{Culprit, Report};
use g211s_tests::service::{Hog, Launch};
use g211s_tests::truth::sched::{Kind, Perf, note_threads};
use g211s_tests::{go, needs_kernel, proc, run_all};

const LONG_STOP_NS: u64 = 2_000_000;
const ACCUSATION_NS: u64 = 1_000_000;

fn duration() -> Duration {
    Duration::from_secs(if run_all() { 30 } else { 15 })
}

/// Kinds of cause in which the thread could have run and did not.
fn is_runnable(kind: &str) -> bool {
    ["runnable", "preempt", "wakeup", "woken", "yield", "queue"].iter().any(|k| kind.contains(k))
}

fn names(culprits: &[Culprit], hog: &Hog) -> bool {
    culprits.iter().any(|c| c.pid == hog.pid() && c.comm == hog.comm)
}

/// Of the long stops whose laggard waited for a CPU, how many there are and how many name the hog.
fn accused(report: &Report, hog: &Hog) -> Result<(usize, usize)> {
    let (mut all, mut named) = (0, 0);
    for stw in report.stws()? {
        let waits = stw.causes.iter().filter(|c| is_runnable(&c.kind));
        let laggards: Vec<_> =
            waits.filter(|c| Some(c.tid) == stw.laggard_tid && c.ns > 0).collect();
        if stw.total_ns > LONG_STOP_NS && !laggards.is_empty() {
            all += 1;
            named += usize::from(stw.causes.iter().any(|c| names(&c.behind, hog)));
        }
    }
    Ok((all, named))
}

/// The service and a hog on one CPU, which both could use up.
fn beside_a_hog(procs: &str, rate: &str) -> Result<(Report, Hog)> {
    let cpu = *proc::cpus()?.last().context("no CPU")?;
    let service = Launch::new("gcstorm", go::NEW)
        .args(&["-rate", rate])
        .env("GOMAXPROCS", procs)
        .cpus(&[cpu])
        .start()?;
    let hog = Hog::start("hog-verdict", cpu)?;
    let report = Attach::new(service.pid(), duration()).report()?;
    Ok((report, hog))
}

/// One P, as the runtime chooses on one CPU: whoever else preempts it for long is the hog. (The
/// service's own threads take turns too, and are named as its own.)
fn largest_preemption() -> Result<()> {
    let (report, hog) = beside_a_hog("1", "150")?;
    let (worst_ns, culprits) = report.worst_preemption()?;
    println!("largest preemption delay: {worst_ns} ns, behind {culprits:?}");
    let service = report.number("/target/pid")? as u32;
    let foreign = culprits.iter().find(|c| c.pid != service);
    ensure!(foreign.is_some_and(|c| names(std::slice::from_ref(c), &hog)), "not the hog");
    Ok(())
}

/// Four Ps that are never idle, so that a stop has somebody to wait for: it waits for the thread that
/// the hog keeps off the CPU.
fn long_stops() -> Result<()> {
    let (report, hog) = beside_a_hog("4", "4000")?;
    let (all, named) = accused(&report, &hog)?;
    println!("{named} of {all} long stops with a runnable laggard name the hog");
    ensure!(all >= 5, "only {all} long stops: the hog was in nobody's way");
    ensure!(named * 10 >= all * 9, "only {named} of {all} name the hog");
    Ok(())
}

fn without_hog() -> Result<()> {
    let service = Launch::new("gcstorm", go::NEW).args(&["-rate", "150"]).start()?;
    let perf = Perf::start()?;
    let mut tids = BTreeSet::new();
    note_threads(service.pid(), &mut tids)?;
    let report = Attach::new(service.pid(), duration()).report()?;
    note_threads(service.pid(), &mut tids)?;
    let trace = perf.stop()?.trace()?;
    let mut accusations = 0;
    for stw in report.stws()? {
        let (from, to) = (stw.start_ns, stw.start_ns + stw.total_ns);
        for cause in stw.causes.iter().filter(|c| is_runnable(&c.kind) && c.ns >= ACCUSATION_NS) {
            accusations += 1;
            let waited = trace.waited(cause.tid, from, to);
            ensure!(
                waited as f64 >= 0.8 * cause.ns as f64,
                "thread {} is said to have waited {} ns in a stop; perf saw {waited}",
                cause.tid,
                cause.ns
            );
            for culprit in cause.behind.iter().filter(|c| c.ns >= ACCUSATION_NS) {
                let ran = trace.ran(&culprit.comm, from, to);
                ensure!(ran as f64 >= 0.8 * culprit.ns as f64, "{culprit:?} ran only {ran} ns");
            }
        }
    }
    let (worst_ns, culprits) = report.worst_preemption().unwrap_or_default();
    if worst_ns >= ACCUSATION_NS {
        let wait = trace.longest(&tids, Kind::Preemption, report.window()?);
        let seen = wait.map_or(0, |w| w.to_ns - w.from_ns);
        ensure!(
            seen as f64 >= 0.8 * worst_ns as f64,
            "{worst_ns} ns behind {culprits:?}: perf saw {seen}"
        );
    }
    println!("{accusations} waits over 1 ms in stops, each confirmed by perf");
    Ok(())
}

/// Whether the hog gets into the way is chance: one repetition is allowed.
fn twice(check: fn() -> Result<()>) -> Result<()> {
    check().or_else(|first| {
        println!("repeated once because of: {first:#}");
        check()
    })
}

#[test]
fn a_hog_is_the_culprit_of_the_largest_preemption() -> Result<()> {
    needs_kernel!();
    twice(largest_preemption)
}

#[test]
fn a_hog_is_named_in_long_stops() -> Result<()> {
    needs_kernel!();
    twice(long_stops)
}

#[test]
fn nobody_is_accused_of_what_did_not_happen() -> Result<()> {
    needs_kernel!("perf");
    without_hog()
}
