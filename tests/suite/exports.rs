//! Exports of a real run, read back by others: Perfetto's message definitions, Python's csv, `DuckDB` (with `--all`
//! pyarrow and pandas as well), `go tool pprof`. Their figures are those of the report.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use g211s_tests::agent::{self, Attach};
use g211s_tests::folder::Folder;
use g211s_tests::python::{Packages, check};
use g211s_tests::report::Report;
use g211s_tests::service::{Hog, Launch};
use g211s_tests::{go, needs_kernel, proc, run_all};
use serde_json::Value;

fn run(args: &[&str]) -> Result<String> {
    let done = agent::run(args)?;
    ensure!(done.code() == 0, "g211s {args:?}: {}", done.stderr());
    Ok(done.stdout())
}

fn as_str(path: &Path) -> Result<&str> {
    path.to_str().context("a path that is no text")
}

fn all_agree(version: &str, full: bool) -> Result<()> {
    let folder = Folder::new()?;
    let recording = folder.file("a.g211s");
    let service = Launch::new("gcstorm", version).start()?;
    let hogs: Result<Vec<Hog>> =
        proc::cpus()?.into_iter().map(|cpu| Hog::start("exports-hog", cpu)).collect();
    let hogs = hogs?;
    let mut attach = Attach::new(service.pid(), Duration::from_secs(4)).record(&recording);
    if full {
        attach = attach.args(&["--full"]);
    }
    let live: Report = attach.report()?;
    drop(hogs);
    drop(service);
    let (trace, report) = (folder.file("a.pftrace"), folder.file("a.json"));
    let (csv, parquet, pprof) =
        (folder.file("csv"), folder.file("parquet"), folder.file("a.pb.gz"));
    let json = run(&[
        "report",
        as_str(&recording)?,
        "--json",
        "--perfetto",
        as_str(&trace)?,
        "--csv",
        as_str(&csv)?,
        "--parquet",
        as_str(&parquet)?,
        "--pprof",
        as_str(&pprof)?,
    ])?;
    std::fs::write(&report, &json)?;
    let json: Value = serde_json::from_str(&json)?;
    let stops = live.number("/stw_totals/count")?;
    ensure!(stops > 0 && json["stw_totals"]["count"] == stops, "{stops} stops live");
    let seen = check("check_perfetto.py", Some(Packages::Small), &[&trace, &report])?;
    println!("{version}, full {full}: {seen}");
    ensure!(seen["stops"] == stops, "{seen}");
    for figure in ["states", "threads"] {
        ensure!(seen[figure].as_u64() > Some(0), "no {figure}: {seen}");
    }
    // One value for each sample of the runtime's counters that is another than the one before.
    ensure!(seen["counters"]["Live heap"].as_u64() > Some(1), "{seen}");
    if full {
        let (wakes, to_waits) = (seen["wakeups"].as_u64(), seen["wakeups_to_waits"].as_u64());
        ensure!(wakes > Some(0), "no wakeups in all transitions: {seen}");
        // The others are of threads that ran at once, or were not seen again.
        ensure!(to_waits.map(|n| n * 2) > wakes, "wakeups lead to nothing: {seen}");
        states_are_the_reports(&seen, &json)?;
    }
    let rows = check("check_tables.py", None, &[&csv, Path::new("csv"), &report])?;
    println!("{rows}");
    let mut readers = vec![("duckdb", Packages::Small)];
    readers.extend(run_all().then_some(("arrow", Packages::Large)));
    for (how, packages) in readers {
        let args = [&parquet, Path::new(how), &report];
        let read = check("check_tables.py", Some(packages), &args)?;
        ensure!(read["rows"] == rows["rows"], "{how}: {read}, CSV: {rows}");
    }
    let top = pprof_total(&pprof)?;
    let total = json["stalls"]["total_ns"].as_u64().context("stalls")?;
    ensure!(top == total, "pprof says {top} ns of stalls, the report {total}");
    Ok(())
}

/// With every transition recorded, the states drawn are the kernel's own sums of each thread's time: at most, since
/// what was under way as the run began is not drawn to its beginning.
fn states_are_the_reports(seen: &Value, json: &Value) -> Result<()> {
    let list = json["threads"]["list"].as_array().context("threads")?;
    let sum = |field: &str| list.iter().filter_map(|t| t[field].as_u64()).sum::<u64>();
    for (word, field) in [("running", "on_cpu_ns"), ("runnable", "runnable_ns")] {
        let drawn = seen["state_ns"][word].as_u64().unwrap_or(0);
        let told = sum(field);
        let lost = json["events"]["lost"]["total"].as_u64().unwrap_or(1);
        println!("{word}: {drawn} ns drawn, {told} ns by the kernel's sums, {lost} events lost");
        let near = drawn <= told + told / 50 && drawn >= told - told / 20;
        ensure!(lost > 0 || near, "{word}: {drawn} ns drawn, {told} ns told");
    }
    Ok(())
}

/// The sum of all samples, as `go tool pprof` has it.
fn pprof_total(file: &Path) -> Result<u64> {
    let output = Command::new(go::command(go::MIDDLE)?)
        .args(["tool", "pprof", "-symbolize=none", "-top", "-unit=ns", "-nodefraction=0"])
        .arg(file)
        .env("GOTOOLCHAIN", "local")
        .output()?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    ensure!(output.status.success(), "{text}{}", String::from_utf8_lossy(&output.stderr));
    // `Showing nodes accounting for 41000000ns, 100% of 41000000ns total`
    let total = text.lines().find_map(|l| l.split(" of ").nth(1)?.strip_suffix(" total"));
    let total = total.with_context(|| format!("no total:\n{text}"))?;
    total.trim_end_matches("ns").parse().with_context(|| format!("no number: {total}"))
}

#[test]
fn a_run_of_the_newest() -> Result<()> {
    needs_kernel!();
    all_agree(go::NEW, true)
}

#[test]
fn a_run_around_pauses_of_the_oldest() -> Result<()> {
    needs_kernel!();
    all_agree(go::OLD, false)
}

/// A recording of allocations gives the profile that `g211s allocs` itself makes of it.
#[test]
fn allocations_are_those_of_allocs() -> Result<()> {
    needs_kernel!();
    let folder = Folder::new()?;
    let service = Launch::new("gcstorm", go::NEW).start()?;
    let (recording, pid) = (folder.file("a.g211s"), service.pid().to_string());
    run(&["allocs", "--pid", &pid, "--duration", "2s", "--record", as_str(&recording)?])?;
    let (ours, theirs) = (folder.file("ours.pb.gz"), folder.file("theirs.pb.gz"));
    run(&["report", as_str(&recording)?, "--pprof", as_str(&ours)?])?;
    run(&["allocs", "--from", as_str(&recording)?, "-o", as_str(&theirs)?])?;
    let (ours, theirs) = (std::fs::read(ours)?, std::fs::read(theirs)?);
    ensure!(ours == theirs, "{} and {} bytes", ours.len(), theirs.len());
    ensure!(theirs.len() > 300, "an empty profile");
    Ok(())
}
