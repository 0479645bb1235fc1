//! Waits by time: the kernel side's ticks hold exactly the waits that its histograms count, and the averages
//! around collections that are made of them are those of the run. What long waits stand for is told live.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use g211s_tests::agent::Attach;
use g211s_tests::service::{Hog, Launch};
use g211s_tests::{go, needs_kernel, proc};
use serde_json::Value;

const MS: u64 = 1_000_000;

/// The causes of all stalls sum to them, and to what stops and waits say of themselves.
fn stalls_add_up(report: &Value) -> Result<()> {
    let ns = |v: &Value, key: &str| v[key].as_u64().with_context(|| format!("{key} in {v}"));
    let stalls = &report["stalls"];
    let rows = stalls["by_cause"].as_array().context("by_cause")?;
    let sum = rows.iter().map(|r| ns(r, "ns")).sum::<Result<u64>>()?;
    ensure!(sum == ns(stalls, "total_ns")?, "causes sum to {sum}: {stalls}");
    ensure!(ns(stalls, "stw_ns")? == ns(&report["stw_totals"], "total_ns")?, "{stalls}");
    ensure!(sum == ns(stalls, "stw_ns")? + ns(stalls, "delays_ns")?, "{stalls}");
    let shares: f64 = rows.iter().filter_map(|r| r["share"].as_f64()).sum();
    ensure!((shares - 1.0).abs() < 1e-6, "shares sum to {shares}");
    Ok(())
}

#[test]
fn ticks_hold_the_waits_that_histograms_count() -> Result<()> {
    needs_kernel!();
    let cpu = *proc::cpus()?.last().context("no CPU")?;
    let service = Launch::new("gcstorm", go::NEW).args(&["-rate", "60"]).cpus(&[cpu]).start()?;
    let hog = Hog::start("hog-waits", cpu)?;
    let finished = Attach::new(service.pid(), Duration::from_secs(8)).start()?.finish()?;
    let report = g211s_tests::report::Report::of(&finished)?;
    let report = &report.0;
    let aligned = &report["aligned"];
    let (ticks, counted) = (aligned["waits"].as_u64(), report["runqueue"]["count"].as_u64());
    println!("waits: {ticks:?} in ticks, {counted:?} in histograms; {}", aligned["summary"]);
    ensure!(ticks.is_some_and(|n| n > 200) && ticks == counted, "{ticks:?} of {counted:?} waits");
    let (ticks_ns, counted_ns) =
        (aligned["waited_ns"].as_u64().unwrap_or(0), report["runqueue"]["total_ns"].as_u64());
    let apart = counted_ns.context("total_ns")?.abs_diff(ticks_ns);
    ensure!(apart < MS / 1000 + 1, "{ticks_ns} of {counted_ns:?} ns");

    // Beside a hog on its only CPU a thread that wants to run waits most of the time: so says the depth,
    // whichever way the waits were long.
    let cycles = aligned["events"][0]["cycles"].as_u64();
    ensure!(cycles.is_some_and(|n| n >= 20), "{cycles:?} cycles: {}", aligned["warnings"]);
    let steps = aligned["events"][0]["steps"].as_array().context("steps")?;
    ensure!(steps.len() == 70, "{} steps", steps.len());
    let mean = steps.iter().filter_map(|s| s["depth"].as_f64()).sum::<f64>() / 70.0;
    let whole =
        counted_ns.unwrap_or(0) as f64 / report["window"]["duration_ns"].as_f64().unwrap_or(1.0);
    println!("depth: {mean:.2} around the starts of cycles, {whole:.2} over the run");
    ensure!(mean > 0.3 * whole && mean < 4.0 * whole, "{mean} around collections, {whole} in all");
    stalls_add_up(report)?;

    // Said while the run went on, and no more of it than anybody can read.
    let said = finished.stderr();
    let waits = said.lines().filter(|l| l.contains(" waited ") && l.contains("for CPU")).count();
    let held = said.lines().filter(|l| l.contains("all are counted in the report")).count();
    println!("live: {waits} waits told, {held} times some were held back");
    ensure!(waits > 0 && waits + said.matches("paused").count() <= 10 * 12, "{said}");
    ensure!(said.contains(&hog.comm), "the hog is not named: {said}");
    Ok(())
}
