//! What reading a program's memory costs the program: a census of a million goroutines, and the
//! runtime's counters. Paired ([`g211s_tests::paired`]): minutes long in their whole length, only with `--all`.

use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use g211s::record::Moment;
use g211s::runtime::sampling;
use g211s::target::procfs::Procfs;
use g211s::target::resolve;
use g211s_tests::paired::{Counter, cost};
use g211s_tests::proc::{Proc, now_ns, pin};
use g211s_tests::service::Launch;
use g211s_tests::{agent, go, needs_kernel, run_all};
use serde_json::Value;

/// A CPU for the program, and one for who reads it.
fn two_cpus() -> Result<Option<[usize; 2]>> {
    Ok(g211s_tests::proc::cpus()?.first_chunk::<2>().copied())
}

/// A million goroutines in two seconds, and less than 1 % of the throughput lost meanwhile. The
/// program and the census have a CPU each, so this is what reading does to the program's memory, locks
/// and caches; on a machine without a CPU to spare the census's own CPU time (printed) comes on top.
#[test]
fn a_million_goroutines() -> Result<()> {
    needs_kernel!();
    if !run_all() {
        println!("skipped: 3 GB of memory, and minutes (`cargo xtask test --all`)");
        return Ok(());
    }
    let Some([theirs, ours]) = two_cpus()? else {
        println!("skipped: one CPU, so the program cannot be undisturbed");
        return Ok(());
    };
    let mut service = Launch::new("census", go::NEW)
        .args(&["-chan", "1000000", "-spin", "1"])
        .cpus(&[theirs])
        .start()?;
    let counter = Counter::of(&mut service)?;
    let pid = service.pid().to_string();
    let census = || -> Result<Value> {
        let mut command = Command::new(agent::binary()?);
        command.args(["goroutines", "--json", "--pid", &pid]);
        let done = Proc::spawn(pin(&mut command, &[ours])?)?.finish(Duration::from_secs(20))?;
        ensure!(done.code() == 0, "the census failed: {}", done.stderr());
        Ok(serde_json::from_str(&done.stdout())?)
    };
    let mut slowest = 0;
    let cost = cost(&counter, 0.01, 80, || {
        let json = census()?;
        let sample = json.pointer("/samples/0").context("no sample")?;
        ensure!(sample["goroutines"] == 1_000_002, "{sample}");
        slowest = slowest.max(sample["took_ns"].as_u64().context("no duration")?);
        Ok(())
    })?;
    let json = census()?;
    println!("a million goroutines: {} {}", json["samples"], json["reads"]);
    println!(
        "a census of a million goroutines: {cost}; the slowest took {} ms",
        slowest / 1_000_000
    );
    ensure!(slowest < 2_000_000_000, "a census took {slowest} ns");
    if cost.can_tell(0.01) {
        ensure!(cost.loss.high < 0.01, "a census costs too much: {cost}");
    } else {
        println!("the machine is too noisy to tell a loss of 1 %");
        ensure!(cost.loss.low < 0.01 + cost.control.high.abs(), "a census costs too much: {cost}");
    }
    Ok(())
}

/// Reading the counters once a second costs the program less than 0.1 % of its throughput. Nothing that
/// small can be measured on a shared machine, so they are read a hundred times a second, which costs a
/// hundred times as much.
#[test]
fn counters_cost_next_to_nothing() -> Result<()> {
    const FASTER: u32 = 100;
    needs_kernel!();
    let Some([theirs, ours]) = two_cpus()? else {
        println!("skipped: one CPU, so the program cannot be undisturbed");
        return Ok(());
    };
    // It collects, so its counters and histograms are written to all the time.
    let mut service = Launch::new("census", go::NEW)
        .args(&["-chan", "2000", "-spin", "1", "-gc", "20ms"])
        .cpus(&[theirs])
        .start()?;
    let counter = Counter::of(&mut service)?;
    let target = resolve(&Procfs::default(), service.pid())?;
    let (watch, access) = sampling::open(&Procfs::default(), &target);
    let watch = watch.context("no runtime")?;
    ensure!(access.features.iter().all(|f| f.why_not.is_none()), "{access:?}");
    let mut here = nix::sched::CpuSet::new();
    here.set(ours)?;
    nix::sched::sched_setaffinity(nix::unistd::Pid::from_raw(0), &here)?;
    let (mut samples, mut cpu_ns, mut calls) = (0_u64, 0, 0);
    let cost = cost(&counter, 0.1, if run_all() { 200 } else { 40 }, || {
        let mut next = Instant::now();
        for _ in 0..FASTER / 4 {
            let sample = watch.sample(0, Moment::Running, &now_ns);
            ensure!(sample.goroutines.is_some() && sample.reads.failed == 0, "{sample:?}");
            samples += 1;
            cpu_ns += sample.reads.cpu_ns;
            calls += sample.reads.calls;
            next += Duration::from_secs(1) / FASTER;
            std::thread::sleep(next.saturating_duration_since(Instant::now()));
        }
        Ok(())
    })?;
    println!(
        "counters read {FASTER} times a second: {cost}; a hundredth of that once a second. {} ns of our \
         CPU time and {} system calls a sample",
        cpu_ns / samples,
        calls / samples
    );
    let bound = 0.001 * f64::from(FASTER);
    if cost.can_tell(bound) {
        ensure!(cost.loss.high < bound, "reading the counters costs too much: {cost}");
    } else {
        println!("the machine is too noisy to tell");
        ensure!(cost.loss.low < bound + cost.control.high.abs(), "it costs too much: {cost}");
    }
    Ok(())
}
