//! The sources of truth agree with one another, and the workloads do what they say. No g211s
//! here: when one of these fails, the failures of the other scenarios mean nothing.

use std::collections::BTreeSet;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use g211s_tests::go::{self, Mode};
use g211s_tests::service::{Hog, Launch};
use g211s_tests::stats::disagreement;
use g211s_tests::truth::epoll::{Polls, Strace};
use g211s_tests::truth::gctrace;
use g211s_tests::truth::sched::{Kind, Perf, note_threads};
use g211s_tests::{needs_kernel, proc};

const BOTH: [&str; 2] = [go::NEW, go::OLD];

#[test]
fn the_trace_has_as_many_cycles_as_the_runtime_counts() -> Result<()> {
    for version in BOTH {
        let storm = Launch::new("gcstorm", version).env("GODEBUG", "gctrace=1").start()?;
        std::thread::sleep(Duration::from_secs(3));
        let done = storm.stop()?;
        let cycles = gctrace::cycles(&done.lines);
        let text = done.stdout();
        let counted = text.lines().find_map(|l| l.strip_prefix("gcs ")).context("no count")?;
        println!("Go {version}: {} cycles in 3 s", cycles.len());
        ensure!(cycles.len().to_string() == counted, "{} told, {counted} counted", cycles.len());
        ensure!(cycles.len() >= 30, "{} cycles in 3 s are no storm", cycles.len());
        // The clock's zero, found from the end, fits the cycles' own order.
        let init = gctrace::init_ns(&cycles)?;
        ensure!(cycles.iter().all(|c| init + c.at_ns <= c.read_ns), "read before it began");
    }
    Ok(())
}

#[test]
fn every_link_mode_serves() -> Result<()> {
    for version in BOTH {
        for mode in Mode::ALL {
            let service = Launch::new("service", version).mode(mode).args(&["-metrics"]).start()?;
            let load = service.load("/work?kb=8", 2, 200)?;
            let tids: BTreeSet<u32> =
                serde_json::from_str::<Vec<u32>>(&service.get("/threads?n=5")?)?
                    .into_iter()
                    .collect();
            std::thread::sleep(Duration::from_millis(500));
            let load = load.stop()?;
            let done = service.stop()?;
            ensure!(tids.len() == 5, "threads {tids:?}");
            ensure!(load.errors == 0 && load.requests > 20, "{load:?}");
            ensure!(done.stdout().contains("\"failed\":0"), "{}", done.stdout());
            ensure!(done.stdout().contains("gc-cycles"), "{}", done.stdout());
        }
    }
    Ok(())
}

#[test]
fn stackgrow_counts_its_calls() -> Result<()> {
    for version in BOTH {
        let mut service = Launch::new("stackgrow", version).start()?;
        for round in 1..=2_u64 {
            let calls = service.ask("go", &format!("round {round} calls "))?;
            ensure!(calls == (round * 10_000).to_string(), "{calls} in round {round}");
        }
    }
    Ok(())
}

#[test]
fn timehist_and_raw_events_agree() -> Result<()> {
    needs_kernel!("perf");
    let cpu = *proc::cpus()?.last().context("no CPU")?;
    let service = Launch::new("service", go::NEW).args(&["-rate", "50"]).cpus(&[cpu]).start()?;
    let load = service.load("/work?kb=16", 4, 500)?;
    let hog = Hog::start("hog-truths", cpu)?;
    let perf = Perf::start()?;
    let (mut tids, from) = (BTreeSet::new(), proc::now_ns());
    std::thread::sleep(Duration::from_secs(3));
    note_threads(service.pid(), &mut tids)?;
    let window = (from, proc::now_ns());
    let recorded = perf.stop()?;
    drop((load, hog.pid()));
    let trace = recorded.trace()?;
    let (woken, woken_ns) = trace.delays(&tids, Kind::Wakeup, window);
    let (preempted, preempted_ns) = trace.delays(&tids, Kind::Preemption, window);
    let mut rows = recorded.timehist()?;
    rows.retain(|r| tids.contains(&r.tid) && r.in_ns >= window.0 && r.in_ns < window.1);
    let delays: Vec<u64> = rows.iter().map(|r| r.sch_delay_ns).filter(|&ns| ns > 0).collect();
    let (count, sum) =
        (delays.len() as u64, delays.iter().sum::<u64>() + delays.len() as u64 * 500);
    println!("raw: {woken} wakeups, {woken_ns} ns; {preempted} preemptions, {preempted_ns} ns");
    println!("timehist: {count} wakeups, {sum} ns");
    ensure!(woken > 100 && preempted > 20, "too little happened");
    ensure!(disagreement(count, woken) < 0.01, "{count} and {woken} wakeups");
    ensure!(disagreement(sum, woken_ns) < 0.01, "{sum} and {woken_ns} ns");
    let hogged = trace.ran("hog-truths", window.0, window.1);
    ensure!(hogged * 5 > window.1 - window.0, "the hog ran only {hogged} ns");
    Ok(())
}

#[test]
fn bpftrace_and_strace_agree() -> Result<()> {
    needs_kernel!("bpftrace", "strace");
    let service = Launch::new("epolls", go::NEW).args(&["-every", "20ms"]).start()?;
    let polls = Polls::start(service.pid())?;
    let strace = Strace::start(service.pid())?;
    let from = proc::now_ns();
    std::thread::sleep(Duration::from_secs(3));
    let window = (from, proc::now_ns());
    let all = strace.stop()?;
    let counted = polls.stop(window)?;
    let sum = counted.blocking + counted.nonblocking;
    println!("bpftrace {counted:?}, strace {all} over a slightly longer time");
    ensure!(counted.blocking > 50 && counted.nonblocking > 50, "too little happened");
    // Strace attaches and detaches thread by thread, so its ends are soft.
    ensure!(disagreement(sum, all) < 0.1, "{sum} and {all}");
    Ok(())
}
