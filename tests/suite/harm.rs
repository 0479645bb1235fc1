//! Harm: attaching and detaching again and again under load breaks nothing and leaves nothing
//! behind, and a probe fires once for each call, however often the stack grows.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use g211s_tests::agent::Attach;
use g211s_tests::service::{Launch, Service};
use g211s_tests::{go, kernel, needs_kernel, run_all};
use nix::sys::signal::Signal;

fn totals(service: Service) -> Result<(u64, u64)> {
    let done = service.stop()?;
    ensure!(done.code() == 0, "the service ended with {}: {}", done.code(), done.stderr());
    let text = done.stdout();
    let line = text.lines().find_map(|l| l.strip_prefix("totals ")).context("no totals")?;
    let json: serde_json::Value = serde_json::from_str(line)?;
    Ok((json["requests"].as_u64().unwrap_or(0), json["failed"].as_u64().unwrap_or(u64::MAX)))
}

fn again_and_again(version: &str) -> Result<()> {
    let cycles = if run_all() { 200 } else { 20 };
    let service = Launch::new("service", version).args(&["-rate", "100"]).start()?;
    let load = service.load("/work?kb=16", 4, 0)?;
    let mut held = BTreeSet::new();
    let files = kernel::open_files(service.pid())?;
    let mut probes = Vec::new();
    for cycle in 0..cycles {
        // Ends at different points of a run, by its time or by a signal.
        let running =
            Attach::new(service.pid(), Duration::from_millis(100 + cycle % 7 * 50)).start()?;
        held.extend(kernel::bpf_objects_of(running.proc.pid())?);
        if cycle % 4 == 1 && !probes.is_empty() {
            // Else the check at the end could not fail.
            let set = kernel::breakpoints(service.pid(), &probes)?;
            ensure!(!set.is_empty(), "no breakpoint seen while attached");
        }
        let report =
            if cycle % 3 == 0 { running.stop(Signal::SIGINT)? } else { running.report()? };
        probes = report.probe_offsets()?;
        let set = kernel::breakpoints(service.pid(), &probes)?;
        ensure!(set.is_empty(), "breakpoints left in the service at file offsets {set:x?}");
    }
    ensure!(!held.is_empty(), "no BPF object seen: the check for leftovers is void");
    // The kernel frees what nobody holds any more in its own time (RCU, a work queue).
    let patience = Instant::now() + Duration::from_secs(20);
    loop {
        let left: Vec<_> = kernel::bpf_objects()?.intersection(&held).cloned().collect();
        if left.is_empty() {
            break;
        }
        ensure!(Instant::now() < patience, "left behind: {left:?}");
        std::thread::sleep(Duration::from_millis(200));
    }
    println!("{cycles} cycles; {} BPF objects seen, none left", held.len());
    let load = load.stop()?;
    ensure!(
        load.errors == 0,
        "{} of {} requests failed: {}",
        load.errors,
        load.requests,
        load.first_error
    );
    // The load's own connections come and go with it.
    let files_now = kernel::open_files(service.pid())?;
    ensure!(files_now <= files + 4, "the service had {files} files open, now {files_now}");
    let (requests, failed) = totals(service)?;
    ensure!(
        failed == 0 && requests >= load.requests,
        "{failed} of {requests} failed in the service"
    );
    println!("{requests} requests, none failed");
    Ok(())
}

#[test]
fn attach_and_detach_under_load() -> Result<()> {
    needs_kernel!("bpftool");
    again_and_again(go::NEW)
}

#[test]
fn attach_and_detach_under_load_go_1_21() -> Result<()> {
    needs_kernel!("bpftool");
    again_and_again(go::OLD)
}

#[test]
fn the_agent_leaks_no_files() -> Result<()> {
    needs_kernel!();
    let service = Launch::new("service", go::NEW).args(&["-rate", "100"]).start()?;
    let running = Attach::new(service.pid(), Duration::from_secs(8)).start()?;
    std::thread::sleep(Duration::from_millis(500));
    let early = kernel::open_files(running.proc.pid())?;
    for _ in 0..20 {
        service.get("/threads?n=8")?;
    }
    std::thread::sleep(Duration::from_secs(1));
    let late = kernel::open_files(running.proc.pid())?;
    running.stop(Signal::SIGTERM)?;
    println!("{early} files early, {late} after 160 threads came and went");
    ensure!(late <= early + 2, "{early} files became {late}");
    Ok(())
}

fn hits_are_calls(version: &str) -> Result<()> {
    let mut service = Launch::new("stackgrow", version).start()?;
    let running = Attach::new(service.pid(), Duration::from_secs(30))
        .args(&["--probe", "custom:main.grow"])
        .start()?;
    let mut calls = 0;
    for round in 1..=3 {
        calls = service.ask("go", &format!("round {round} calls "))?.parse::<u64>()?;
    }
    let report = running.stop(Signal::SIGINT)?;
    let hits = report.hits("custom")?;
    println!("Go {version}: {calls} calls, {hits} hits");
    ensure!(hits == calls, "{hits} hits of {calls} calls");
    Ok(())
}

#[test]
fn a_probe_fires_once_a_call_while_stacks_grow() -> Result<()> {
    needs_kernel!();
    hits_are_calls(go::NEW)
}

#[test]
fn a_probe_fires_once_a_call_while_stacks_grow_go_1_21() -> Result<()> {
    needs_kernel!();
    hits_are_calls(go::OLD)
}
