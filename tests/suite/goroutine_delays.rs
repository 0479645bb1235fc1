//! What keeps goroutines waiting outside of stops, against the program's own clock: stalls in mark assists, and
//! Ps kept by threads in system calls. A program in which nothing happens has none of it.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use g211s_tests::agent::Attach;
use g211s_tests::report::Report;
use g211s_tests::service::{Launch, Service};
use g211s_tests::{go, needs_kernel};

const WINDOW: Duration = Duration::from_secs(6);

/// What the workload says of itself.
fn told(service: &mut Service, when: &str) -> Result<BTreeMap<String, i64>> {
    let line = service.ask(when, &format!("told {when} "))?;
    let words: Vec<&str> = line.split_whitespace().collect();
    let pairs = words.chunks_exact(2).map(|pair| Ok((pair[0].to_owned(), pair[1].parse()?)));
    pairs.collect()
}

/// A run, and what the workload counted from just before it to just after it.
fn observed(service: &mut Service) -> Result<(Report, BTreeMap<String, i64>)> {
    let before = told(service, "before")?;
    let report = Attach::new(service.pid(), WINDOW).report()?;
    let after = told(service, "after")?;
    let part = after.iter().map(|(k, n)| (k.clone(), n - before.get(k).copied().unwrap_or(0)));
    Ok((report, part.collect()))
}

fn works(report: &Report, part: &str) -> Result<()> {
    let why = report.at(&format!("/goroutine_delays/{part}/unavailable"))?;
    ensure!(why.is_null(), "{part}: {why}");
    Ok(())
}

fn blocked(version: &str) -> Result<()> {
    let mut service = Launch::new("assist", version)
        .args(&["-mode", "blocked", "-sleep", "6ms"])
        .env("GOMAXPROCS", "1")
        .start()?;
    let (report, own) = observed(&mut service)?;
    for part in ["p_held", "p_starvation"] {
        works(&report, part)?;
    }
    let n = |what: &str| report.number(&format!("/goroutine_delays/{what}"));
    let (taken, kept) = (n("p_held/taken/count")?, n("p_held/kept/count")?);
    let held_ns = n("p_held/taken/total_ns")? + n("p_held/kept/total_ns")?;
    let (ops, wait_ns) = (own["ops"] as u64, own["wait_ns"] as u64);
    println!(
        "{version}: {ops} calls, in which a goroutine waited {wait_ns} ns; a P was kept for {held_ns} ns, taken \
         {taken} times, kept to the end {kept} times; {} times without any P",
        n("p_starvation/count")?
    );
    let seen = taken + kept;
    ensure!(seen > 50 && seen <= ops, "{seen} of {ops} calls were seen");
    // The program was asked before and after, so that it counts more calls. In the mean a goroutine waits for as
    // long as the P is kept, and then until a thread has taken it up; no P is kept for anything else.
    let (held, waited) = (held_ns / seen, wait_ns / ops);
    ensure!(held * 10 >= waited * 6, "{held} ns do not explain a wait of {waited} ns in the mean");
    ensure!(held <= waited * 15 / 10, "{held} ns are more than the {waited} ns waited in the mean");
    let calls = report.at("/goroutine_delays/p_held/by_syscall")?;
    let first = &calls[0]["syscall_name"];
    ensure!(first == "nanosleep", "held in {calls}");
    let worst = report.at("/goroutine_delays/p_held/worst")?.as_array().context("worst")?.clone();
    let took: Vec<_> = worst.iter().filter(|w| w["taken"] == true).collect();
    ensure!(
        took.is_empty() || took.iter().any(|w| w["queued"].as_u64() > Some(0)),
        "no goroutine waited on a P that was taken: {worst:?}"
    );
    ensure!(n("p_starvation/count")? > 0, "with one P kept, no goroutine could run");
    // With one P each long holding is such a time; on a busy host there are those of a preempted thread as well.
    let in_calls = calls[0]["ns"].as_u64().context("ns")?;
    let starved_ns = n("p_starvation/total_ns")?;
    ensure!(
        starved_ns >= in_calls,
        "{starved_ns} ns without any P, {in_calls} ns with it in calls"
    );
    let holder = report.at("/goroutine_delays/p_starvation/worst/0/holders/0")?;
    ensure!(holder["p"] == 0, "kept by {holder}");
    ensure!(report.hits("hand_off_p")? >= taken, "taken without handoffp");
    Ok(())
}

fn storm(version: &str) -> Result<()> {
    let mut service = Launch::new("assist", version).args(&["-mode", "storm"]).start()?;
    let (report, own) = observed(&mut service)?;
    works(&report, "assists")?;
    let n = |what: &str| report.number(&format!("/goroutine_delays/assists/{what}"));
    let (calls, long, slow) = (n("calls")?, n("long")?, own["slow"] as u64);
    println!(
        "{version}: {calls} calls of gcParkAssist seen in {} ns, {long} of 1 ms and more, {} ns at most; by its \
         own clock {slow} allocations took as long; assists {} ns of CPU by its own metrics, {} by ours",
        n("observed_ns")?,
        n("stalls/max_ns").unwrap_or(0),
        own["assist_ns"],
        report.at("/goroutine_delays/assists/cpu_ns")?,
    );
    ensure!(calls > 0, "no goroutine was stalled");
    ensure!(report.hits("assist_done")? > 0, "no stall ended");
    // Each long stall is in a slow allocation. (Not the other way round: a goroutine is also slow in an assist, or
    // where its thread has no CPU.)
    ensure!(long <= slow, "{long} long stalls in {slow} slow allocations");
    let worst = report.at("/goroutine_delays/assists/worst")?.as_array().context("worst")?.clone();
    ensure!(worst.iter().all(|w| w["goid"].as_u64() > Some(0)), "goroutines without number");
    if let Some(cpu_ns) = report.at("/goroutine_delays/assists/cpu_ns")?.as_i64() {
        // Theirs is over more than our window, and both grow in steps of a cycle.
        let share = report.number("/window/duration_ns")? as f64 / own["at_ns"] as f64;
        let theirs = own["assist_ns"] as f64 * share;
        let ratio = cpu_ns as f64 / theirs;
        ensure!((0.5..=2.0).contains(&ratio), "{cpu_ns} ns, by the program's own metrics {theirs}");
    }
    Ok(())
}

#[test]
fn a_kept_p_explains_what_a_goroutine_waited() -> Result<()> {
    needs_kernel!();
    [go::NEW, go::OLD].into_iter().try_for_each(blocked)
}

#[test]
fn an_allocation_storm_stalls_goroutines() -> Result<()> {
    needs_kernel!();
    [go::NEW, go::OLD].into_iter().try_for_each(storm)
}

#[test]
fn a_quiet_program_has_none() -> Result<()> {
    needs_kernel!();
    for version in [go::NEW, go::OLD] {
        let service = Launch::new("idle", version).start()?;
        let report = Attach::new(service.pid(), Duration::from_secs(3)).report()?;
        for part in ["assists", "p_held", "p_starvation"] {
            works(&report, part)?;
        }
        for figure in ["assists/calls", "p_starvation/count"] {
            let n = report.number(&format!("/goroutine_delays/{figure}"))?;
            ensure!(n == 0, "{version}: {figure} is {n}");
        }
        let worst = report.at("/goroutine_delays/p_held/worst")?;
        let syscalls: Vec<_> =
            worst.as_array().context("worst")?.iter().filter(|w| w["off"] == "syscall").collect();
        ensure!(syscalls.is_empty(), "{version}: {syscalls:?}");
    }
    Ok(())
}
