//! Code that does not let itself be preempted: the function and the line that kept the world from stopping,
//! against the workload's own account of when it was in which code.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use g211s_tests::agent::{self, Attach};
use g211s_tests::report::Report;
use g211s_tests::service::Launch;
use g211s_tests::{go, needs_kernel, run_all};
use serde_json::Value;

const LONG_STOP_NS: u64 = 2_000_000;

/// Where the workload is busy: function, file, first and last line.
struct Busy {
    function: &'static str,
    file: &'static str,
    lines: std::ops::RangeInclusive<u64>,
}

impl Busy {
    /// By the marks in the source.
    fn new(function: &'static str, file: &'static str) -> Result<Self> {
        let path = g211s_tests::root().join("tests/workloads/spin").join(file);
        let source = std::fs::read_to_string(&path).with_context(|| path.display().to_string())?;
        let line = |mark: &str| {
            let at = source.lines().position(|l| l.contains(mark));
            at.map(|i| i as u64 + 1).with_context(|| format!("no `{mark}` in {file}"))
        };
        let lines = line("// busy: from this line")?..=line("// … to this one")?;
        Ok(Self { function, file, lines })
    }

    fn is(&self, code: &Value) -> bool {
        let name =
            |v: &Value| v.as_str().map(|f| Path::new(f).file_name() == Some(self.file.as_ref()));
        code["function"] == self.function
            && name(&code["file"]) == Some(true)
            && code["line"].as_u64().is_some_and(|l| self.lines.contains(&l))
    }
}

/// `spin START END` in the workload's output.
fn spins(stdout: &str) -> Vec<(u64, u64)> {
    let words = |l: &str| {
        let mut words = l.strip_prefix("spin ")?.split(' ').map(str::parse);
        Some((words.next()?.ok()?, words.next()?.ok()?))
    };
    stdout.lines().filter_map(words).collect()
}

/// How many long stops fall into a spin and are laid to code that was not preempted, and how many of them
/// name the code that it was.
fn judged(report: &Report, spins: &[(u64, u64)], busy: &Busy) -> Result<(usize, usize)> {
    let (mut all, mut right) = (0, 0);
    for stop in report.at("/stw")?.as_array().context("/stw is no list")? {
        let number = |key: &str| stop[key].as_u64().context("a number is missing");
        let (start, stopping) = (number("start_ns")?, number("stopping_ns")?);
        let end = start + stopping;
        let spun = spins.iter().map(|&(s, e)| end.min(e).saturating_sub(start.max(s))).max();
        let top = &stop["causes"][0];
        if number("total_ns")? <= LONG_STOP_NS
            || top["kind"] != "nonpreemptible_code"
            || spun.is_none_or(|ns| 2 * ns < stopping)
        {
            continue;
        }
        all += 1;
        if busy.is(&top["code"]) {
            right += 1;
        } else {
            println!("named otherwise: {top}");
        }
    }
    Ok((all, right))
}

/// A run; whether signals tell, or samples.
fn named(version: &str, mode: &str, async_preemption: bool, busy: &Busy) -> Result<()> {
    let mut launch = Launch::new("spin", version).args(&["-mode", mode]);
    if !async_preemption {
        launch = launch.env("GODEBUG", "asyncpreemptoff=1");
    }
    let service = launch.start()?;
    let file = g211s_tests::target_dir().join(format!("code-{}.g211s", std::process::id()));
    let seconds = if run_all() { 20 } else { 6 };
    let run = Attach::new(service.pid(), Duration::from_secs(seconds)).record(&file).report();
    let spins = spins(&service.stop()?.stdout());
    let replay = agent::run(&["report", &file.to_string_lossy(), "--json"]);
    std::fs::remove_file(&file)?;
    let (report, replay) = (run?, Report::of(&replay?)?);
    ensure!(report.without_run() == replay.without_run(), "the recording tells something else");

    let source = report.at("/target/stacks")?;
    let off = if async_preemption { "asyncpreemptoff is 0" } else { "asyncpreemptoff is 1" };
    ensure!(source["why"] == off, "not read from its memory: {source}");
    let ticks = report.number("/cost/sampler_ticks")?;
    ensure!(source["signals"] == async_preemption, "{source}");
    ensure!(source["samples_hz"].is_null() == async_preemption, "{source}");
    ensure!((ticks == 0) == async_preemption, "{ticks} ticks of the CPU clock; {source}");

    let (all, right) = judged(&report, &spins, busy)?;
    println!("Go {version}, {mode}: {right} of {all} long stops name {}", busy.function);
    ensure!(all >= 10, "only {all} long stops in {} spins", spins.len());
    ensure!(right * 100 >= all * 95, "only {right} of {all} name {}", busy.function);
    Ok(())
}

#[test]
fn assembly_is_named_by_signals() -> Result<()> {
    needs_kernel!();
    let busy = Busy::new("main.burn", "burn_amd64.s")?;
    for version in [go::NEW, go::OLD] {
        named(version, "asm", true, &busy)?;
    }
    Ok(())
}

#[test]
fn a_loop_without_calls_is_named_by_samples() -> Result<()> {
    needs_kernel!();
    let busy = Busy::new("main.loop", "main.go")?;
    for version in [go::NEW, go::OLD] {
        named(version, "loop", false, &busy)?;
    }
    Ok(())
}
