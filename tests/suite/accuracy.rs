//! The runtime's own counters as g211s reads them from outside, against what the program itself
//! reads through runtime/metrics at the same moment; and g211s's stops against those counters. The
//! program stands still (see `workloads/metered`) while either side reads, so figures are compared
//! exactly.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use g211s_tests::agent::{self, Attach, Running};
use g211s_tests::go::Mode;
use g211s_tests::proc::Stream;
use g211s_tests::report::Report;
use g211s_tests::service::{Launch, Service};
use g211s_tests::stats::disagreement;
use g211s_tests::{go, needs_kernel, run_all};
use nix::sys::signal::Signal;
use serde_json::Value;

const CYCLES: usize = 60;

/// What the program says of itself.
struct Metrics(Value);

/// A histogram's filled buckets: (from, to) in ns → values.
type Buckets = BTreeMap<(u64, u64), u64>;

impl Metrics {
    fn number(&self, name: &str) -> Result<u64> {
        self.0[name].as_u64().with_context(|| format!("no metric {name}"))
    }

    fn has(&self, name: &str) -> bool {
        !self.0[name].is_null()
    }

    fn buckets(&self, name: &str) -> Result<Buckets> {
        let list = self.0[name].as_array().with_context(|| format!("no metric {name}"))?;
        let one = |b: &Value| Some(((b[0].as_u64()?, b[1].as_u64()?), b[2].as_u64()?));
        Ok(list.iter().filter_map(one).collect())
    }

    /// What came in between `before` and this.
    fn since(&self, before: &Self, name: &str) -> Result<Buckets> {
        let old = before.buckets(name)?;
        let mut new = self.buckets(name)?;
        for (range, n) in &mut new {
            *n -= old.get(range).copied().unwrap_or(0);
        }
        new.retain(|_, n| *n > 0);
        Ok(new)
    }
}

fn start(version: &str, mode: Mode) -> Result<Service> {
    Launch::new("metered", version).mode(mode).env("GODEBUG", "asyncpreemptoff=1").start()
}

/// The program's counters, and what `then` does while it stands still with exactly these.
fn frozen<T>(
    service: &mut Service,
    tag: &str,
    then: impl FnOnce(u32) -> Result<T>,
) -> Result<(Metrics, T)> {
    let pid = service.pid();
    service.say(&format!("freeze 4000 {tag}"))?;
    // It reads its line, then the metrics.
    std::thread::sleep(Duration::from_millis(500));
    let done = then(pid)?;
    let line = service.hear(&format!("{tag} "))?;
    Ok((Metrics(serde_json::from_str(&line)?), done))
}

fn buckets(report: &Report, pointer: &str, which: &str) -> Result<Buckets> {
    let list = report.at(pointer)?.as_array().with_context(|| format!("{pointer}: no list"))?;
    let number = |b: &Value, key: &str| b[key].as_u64();
    let one = |b: &Value| Some(((number(b, "from_ns")?, number(b, "to_ns")?), number(b, which)?));
    Ok(list.iter().filter_map(one).filter(|(_, n)| *n > 0).collect())
}

fn agrees(report: &Report, pointer: &str) -> Result<()> {
    let verdict = report.at(&format!("{pointer}/verdict"))?;
    let why = report.at(&format!("{pointer}/why")).cloned().unwrap_or_default();
    ensure!(verdict == "agree", "{pointer}: {verdict}: {why}");
    Ok(())
}

/// What looks at the process without attaching to it: the census, the list, the doctor.
fn others_agree(service: &mut Service) -> Result<()> {
    let json = |args: &[&str]| -> Result<Value> {
        let done = agent::run(args)?;
        ensure!(done.code() == 0, "{args:?}: {}", done.stderr());
        Ok(serde_json::from_str(&done.stdout())?)
    };
    let (metrics, (census, list)) = frozen(service, "looked", |pid| {
        let census = json(&["goroutines", "--json", "--pid", &pid.to_string()])?;
        Ok((census, json(&["ps", "--json"])?))
    })?;
    let truth = metrics.number("NumGoroutine")?;
    let counted = &census["samples"][0]["goroutines"];
    ensure!(*counted == truth, "{counted} goroutines in the census, the program says {truth}");
    let pid = service.pid();
    let processes = list["processes"].as_array().context("no processes")?;
    let process = processes.iter().find(|p| p["pid"] == pid).context("ps does not list it")?;
    ensure!(process["goroutines"]["value"] == truth, "ps, not {truth} goroutines: {process}");
    let marked = metrics.number("/gc/heap/live:bytes").ok();
    let told = process["live_heap_bytes"]["value"].as_u64();
    ensure!(told == marked, "ps, not {marked:?} marked: {process}");
    for can in ["attach", "goroutines", "runtime"] {
        ensure!(process["can"][can]["ok"] == true, "ps: {process}");
    }
    json(&["doctor", "--json", "--pid", &pid.to_string()])?;
    Ok(())
}

fn check(version: &str, mode: Mode) -> Result<()> {
    let mut service = start(version, mode)?;
    let long = Duration::from_mins(2);
    let (before, running) = frozen(&mut service, "before", |pid| Attach::new(pid, long).start())?;
    service.ask(&format!("storm {CYCLES}"), "stormed")?;
    // The scavenger has its last turn.
    std::thread::sleep(Duration::from_secs(2));
    let (after, report) =
        frozen(&mut service, "after", |_| Running::stop(running, Signal::SIGINT))?;
    others_agree(&mut service)?;
    service.stop()?;

    // Collections: exactly.
    let cycles = "/gc/cycles/total:gc-cycles";
    let collected = after.number(cycles)? - before.number(cycles)?;
    println!("Go {version}: {collected} cycles");
    ensure!(collected >= CYCLES as u64, "only {collected} cycles");
    ensure!(report.number("/runtime/gc/cycles")? == collected, "{}", report.at("/runtime/gc")?);
    ensure!(report.number("/accuracy/gc_cycles/ours")? == collected, "ours");
    let forced = "/gc/cycles/forced:gc-cycles";
    let forced = after.number(forced)? - before.number(forced)?;
    ensure!(report.number("/runtime/gc/forced")? == forced, "forced cycles are not {forced}");

    // The heap: what was marked and the goal exactly; live up to what is in the Ps' caches.
    let live = report.number("/runtime/heap/end/live")?;
    let objects = after.number("/memory/classes/heap/objects:bytes")?;
    println!("heap live {live}, the program's objects {objects}");
    ensure!(disagreement(live, objects) < 0.05, "heap live {live}, the program says {objects}");
    let goal = report.number("/runtime/heap/end/goal")?;
    ensure!(goal == after.number("/gc/heap/goal:bytes")?, "goal {goal}");
    let marked = report.number("/runtime/heap/end/marked")?;
    ensure!(marked == after.number("/gc/heap/live:bytes")?, "marked {marked}");
    ensure!(report.number("/runtime/heap/gc_percent")? == 400, "GOGC is 400");

    // Goroutines: exactly. (From Go 1.26 on /sched/goroutines counts the runtime's own as well.)
    for (pointer, metrics) in [("start", &before), ("end", &after)] {
        let ours = report.number(&format!("/runtime/goroutines/{pointer}"))?;
        let truth = metrics.number("NumGoroutine")?;
        ensure!(ours == truth, "{ours} goroutines at the {pointer}, the program says {truth}");
    }
    let procs = after.number("/sched/gomaxprocs:threads")?;
    ensure!(report.number("/runtime/gomaxprocs")? == procs, "GOMAXPROCS is {procs}");
    let ps = report.at("/runtime/ps")?.as_array().context("no Ps")?;
    ensure!(ps.len() as u64 == procs, "{} Ps", ps.len());

    // Waits of goroutines: identical.
    let waits = after.since(&before, "/sched/latencies:seconds")?;
    let ours = buckets(&report, "/runtime/sched_latency/buckets", "count")?;
    println!("{} waits, ours {}", waits.values().sum::<u64>(), ours.values().sum::<u64>());
    let differ = waits.iter().filter(|(range, n)| ours.get(range) != Some(n));
    let differ: Vec<_> = differ.map(|(range, n)| (range, n, ours.get(range))).collect();
    ensure!(ours == waits, "latencies differ: {differ:?}");
    ensure!(!waits.is_empty(), "no waits: nothing was compared");

    // Stops: the runtime's histograms are read rightly, and ours fit them.
    let total = "/sched/pauses/total/gc:seconds";
    let (name, kinds): (_, &[&str]) = if after.has(total) {
        (total, &["stw_gc", "stw_other"])
    } else {
        ("/gc/pauses:seconds", &["stw_gc"])
    };
    for &kind in kinds {
        let name = name.replace("/gc", if kind == "stw_gc" { "/gc" } else { "/other" });
        let truth = after.since(&before, &name)?;
        let at = format!("/accuracy/{kind}/histogram/buckets");
        let theirs = buckets(&report, &at, "runtime")?;
        ensure!(theirs == truth, "{kind}: {theirs:?}, the program says {truth:?}");
        let ours: u64 = buckets(&report, &at, "ours")?.values().sum();
        ensure!(ours == truth.values().sum::<u64>(), "{kind}: ours are {ours}");
        println!(
            "{kind}: {ours} stops, {} in another bucket by our own lengths, sums {} and {} ns",
            report.number(&format!("/accuracy/{kind}/histogram/moved"))?,
            report.at(&format!("/accuracy/{kind}/total/ours_ns"))?,
            report.at(&format!("/accuracy/{kind}/total/runtime_ns"))?,
        );
        agrees(&report, &format!("/accuracy/{kind}/count"))?;
        for part in ["total", "histogram"] {
            let pointer = format!("/accuracy/{kind}/{part}");
            // On Go 1.21 a thread that lost its CPU between the two clocks cannot be told from an
            // error: then it must say that it does not know.
            if version != go::OLD || report.at(&format!("{pointer}/verdict"))? != "unknown" {
                agrees(&report, &pointer)?;
            }
        }
    }
    if let Some(theirs) = report.at("/accuracy/stw_gc/total/runtime_ns")?.as_u64() {
        let ours = report.number("/accuracy/stw_gc/total/ours_ns")?;
        // A bucket's end is at most a quarter above its beginning.
        ensure!(disagreement(ours, theirs) < 0.25, "sums {ours} and {theirs} ns");
    } else {
        bail!("the runtime's sum of its stops was not read");
    }
    if after.has(total) {
        let truth = after.since(&before, "/sched/pauses/stopping/gc:seconds")?;
        let theirs = buckets(&report, "/accuracy/stw_gc/stopping/buckets", "runtime")?;
        ensure!(theirs == truth, "stopping: {theirs:?}, the program says {truth:?}");
        agrees(&report, "/accuracy/stw_gc/stopping")?;
    }
    agrees(&report, "/accuracy")?;

    // Nothing failed, every M is known, and it was cheap.
    ensure!(report.number("/runtime/reads/failed")? == 0, "{}", report.at("/runtime/reads")?);
    let threads = report.at("/threads/list")?.as_array().context("no threads")?;
    let without: Vec<_> = threads.iter().filter(|t| t["m_id"].is_null()).collect();
    ensure!(without.is_empty(), "threads without M: {without:?}");
    let samples = report.number("/runtime/samples")?;
    let [calls, cpu_ns] =
        ["calls", "cpu_ns"].map(|w| report.number(&format!("/runtime/reads/{w}")));
    let (calls, cpu_ns) = (calls?, cpu_ns?);
    let longest = report.number("/runtime/reads/longest_ns")?;
    println!(
        "{samples} samples: {} calls and {} ns of CPU each, the longest {longest} ns",
        calls / samples,
        cpu_ns / samples
    );
    ensure!(calls <= 16 * samples, "{calls} calls in {samples} samples");
    ensure!(cpu_ns <= 1_000_000 * samples, "{cpu_ns} ns in {samples} samples");
    Ok(())
}

/// Others use this machine as well, and on Go 1.21 a scheduling delay between two clocks cannot be
/// told from an error: one repetition is allowed.
fn check_twice(version: &str, mode: Mode) -> Result<()> {
    check(version, mode).or_else(|first| {
        println!("repeated once because of: {first:#}");
        check(version, mode)
    })
}

#[test]
fn go_1_27() -> Result<()> {
    needs_kernel!();
    check_twice(go::NEW, Mode::Stripped)
}

#[test]
fn go_1_21() -> Result<()> {
    needs_kernel!();
    check_twice(go::OLD, Mode::PieStripped)
}

/// Every version, linked in every way, with `cargo xtask test --all`: the table in
/// docs/compatibility.md.
#[test]
fn every_version_linked_in_every_way() -> Result<()> {
    const MODES: [Mode; 6] =
        [Mode::Plain, Mode::Stripped, Mode::Pie, Mode::PieStripped, Mode::StaticPie, Mode::Cgo];
    needs_kernel!();
    if !run_all() {
        // Left out, not impossible: never a failure.
        println!("skipped: takes a quarter of an hour; cargo xtask test --all");
        return Ok(());
    }
    let mut versions = vec![go::OLD, go::MIDDLE, go::NEW];
    versions.extend(go::OTHERS);
    versions.sort_unstable();
    let (mut table, mut failed) = (Vec::new(), Vec::new());
    for version in versions {
        let mut row = format!("| {version} |");
        for mode in MODES {
            let cell = match check_twice(version, mode) {
                Ok(()) => "yes",
                Err(why) => {
                    failed.push(format!("Go {version}, {}: {why:#}", mode.name()));
                    "**no**"
                }
            };
            row.extend([" ", cell, " |"]);
        }
        table.push(row);
    }
    println!("| Go | {} |", MODES.map(Mode::name).join(" | "));
    println!("{}", table.join("\n"));
    ensure!(failed.is_empty(), "{}", failed.join("\n"));
    Ok(())
}

/// The comparison can fail: stops that were lost on the way are missed, and it says so, at the top.
#[test]
fn lost_stops_are_told_loudly() -> Result<()> {
    needs_kernel!();
    for version in [go::NEW, go::OLD] {
        let service = Launch::new("gcstorm", version).start()?;
        let attach = |args: &[&str]| {
            Attach::new(service.pid(), Duration::from_secs(6))
                .args(args)
                .env("G211S_TEST_RING_BYTES", "4096")
                .env("G211S_TEST_PAUSE_DRAIN", "3s")
        };
        let report = attach(&[]).report()?;
        let lost: u64 = report.events("lost")?.values().sum();
        ensure!(lost > 0, "nothing was lost: the knobs do nothing");
        println!("Go {version}: {lost} events lost; {}", report.at("/accuracy/gc_cycles")?);
        ensure!(report.at("/accuracy/verdict")? == "disagree", "{}", report.at("/accuracy")?);
        ensure!(report.at("/accuracy/stw_gc/count/verdict")? == "disagree", "the count");
        let ours = report.number("/accuracy/gc_cycles/ours")?;
        let theirs = report.number("/accuracy/gc_cycles/runtime")?;
        ensure!(ours < theirs, "{ours} cycles seen, {theirs} were");

        let text = attach(&[]).as_text().start_only()?.finish()?;
        let first = text.lines.iter().filter(|l| l.stream == Stream::Out).take(3);
        let first: Vec<&str> = first.map(|l| l.text.as_str()).collect();
        ensure!(
            first.iter().any(|l| l.starts_with("!! ") && l.contains("WRONG against the runtime")),
            "the report begins {first:#?}"
        );
        let said = |l: &&g211s_tests::proc::Line| {
            l.stream == Stream::Err && l.text.contains("WRONG against the runtime")
        };
        ensure!(text.lines.iter().any(|l| said(&l)), "nothing was said while it ran");
        service.stop()?;
    }
    Ok(())
}

/// … and where nothing is lost it does not cry wolf, on a busy program.
#[test]
fn a_storm_that_is_seen_whole_agrees() -> Result<()> {
    needs_kernel!();
    for version in [go::NEW, go::OLD] {
        let service = Launch::new("gcstorm", version).start()?;
        let seconds = if run_all() { 30 } else { 8 };
        let report = Attach::new(service.pid(), Duration::from_secs(seconds)).report()?;
        service.stop()?;
        println!(
            "Go {version}: cycles {}, GC stops {}",
            report.at("/accuracy/gc_cycles")?,
            report.at("/accuracy/stw_gc/count")?
        );
        ensure!(report.number("/accuracy/gc_cycles/runtime")? >= 5 * seconds, "no storm");
        agrees(&report, "/accuracy")?;
        agrees(&report, "/accuracy/gc_cycles")?;
        agrees(&report, "/accuracy/stw_gc/count")?;
    }
    Ok(())
}
