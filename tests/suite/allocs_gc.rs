//! What `g211s allocs` says of collections, against the runtime's own trace and metrics, and against what happens when its
//! advice is taken.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use g211s_tests::service::{Launch, Service};
use g211s_tests::truth::gctrace::Cycle;
use g211s_tests::{agent, go, needs_kernel};
use serde_json::Value;

fn allocs(service: &Service, args: &[&str]) -> Result<Value> {
    let pid = service.pid().to_string();
    let done = agent::run(&[&["allocs", "--json", "--pid", &pid], args].concat())?;
    ensure!(done.code() == 0, "g211s allocs: {}", done.stderr());
    Ok(serde_json::from_str(&done.stdout())?)
}

fn number(document: &Value, path: &str) -> Result<f64> {
    document.pointer(path).and_then(Value::as_f64).with_context(|| format!("{path}: {document:.0}"))
}

/// What the program itself reads of `/cpu/classes/gc/mark/assist`: ns, and when by its clock.
fn told(service: &mut Service, name: &str) -> Result<(f64, f64)> {
    let said = service.ask(name, &format!("told {name}"))?;
    let words: Vec<&str> = said.split_whitespace().collect();
    let value = |key: &str| -> Result<f64> {
        let at = words.iter().position(|w| *w == key).with_context(|| key.to_owned())?;
        Ok(words.get(at + 1).with_context(|| key.to_owned())?.parse()?)
    };
    Ok((value("assist_ns")?, value("at_ns")?))
}

/// Cycles, pauses and assists are the runtime's own.
fn counts_are_the_runtimes(version: &str) -> Result<()> {
    let mut service = Launch::new("assist", version)
        .args(&["-mode", "storm", "-workers", "4", "-nodes", "200000"])
        .env("GODEBUG", "gctrace=1")
        .start()?;
    std::thread::sleep(Duration::from_secs(1));
    let (before, from) = told(&mut service, "before")?;
    let document = allocs(&service, &["--duration", "8s"])?;
    let (after, to) = told(&mut service, "after")?;
    let (start, window) =
        (number(&document, "/run/start_ns")?, number(&document, "/run/window_ns")?);
    std::thread::sleep(Duration::from_millis(300));
    let traced: Vec<Cycle> = service.proc.lines().iter().filter_map(Cycle::parse).collect();
    let within: Vec<&Cycle> =
        traced.iter().filter(|c| (start..start + window).contains(&(c.read_ns as f64))).collect();
    let gc = &document["gc"];
    println!("Go {version}: {gc:#}");
    // A line is read a moment after its cycle has ended.
    let cycles = number(gc, "/cycles")?;
    ensure!(
        (cycles - within.len() as f64).abs() <= 2.0,
        "{cycles} cycles, {} traced",
        within.len()
    );
    ensure!(cycles > 10.0, "too few cycles: {cycles}");
    let pauses = number(gc, "/pauses/count")?;
    ensure!((pauses - 2.0 * cycles).abs() <= 2.0, "{pauses} pauses of {cycles} cycles");
    let stopped: u64 = within.iter().map(|c| c.sweep_term.ns + c.mark_term.ns).sum();
    let quanta: u64 = within.iter().map(|c| c.sweep_term.quantum_ns + c.mark_term.quantum_ns).sum();
    let total = number(gc, "/pauses/total_ns")?;
    println!("  pauses {total} ns, traced {stopped} ns to {} ns", stopped + quanta);
    // The trace's stops and `pause_total_ns` begin and end at other moments; two cycles may be in one and not the other.
    let slack = 0.25 * stopped as f64 + 2e6;
    ensure!(total > stopped as f64 - slack, "{total} {stopped}");
    ensure!(total < (stopped + quanta) as f64 + slack, "{total} {stopped}");
    let (rate, truth) = (number(gc, "/assists/cpu_ns")? / window, (after - before) / (to - from));
    println!("  assists {:.2} % of a CPU, by its own metrics {:.2} %", rate * 100.0, truth * 100.0);
    ensure!((rate / truth - 1.0).abs() < 0.25, "assists {rate}, by its own metrics {truth}");
    let marks = within.iter().map(|c| c.mark.ns).sum::<u64>() as f64 / within.len().max(1) as f64;
    let mark = number(gc, "/assists/mark_ns")?;
    ensure!((mark / marks - 1.0).abs() < 0.25, "it marks for {mark} ns, traced {marks}");
    // All of it is one site's.
    ensure!(gc["assists"]["by_marking"] == true, "{gc:#}");
    ensure!(number(gc, "/assists/explained_share")? > 0.95, "{gc:#}");
    let first = &document["sites"][0];
    ensure!(first["function"] == "main.allocate" && first["share"].as_f64() > Some(0.9), "{first}");
    ensure!(first["assist_share"].as_f64() > Some(0.9), "{first}");
    Ok(())
}

#[test]
fn counts_are_the_runtimes_of_the_newest() -> Result<()> {
    needs_kernel!();
    counts_are_the_runtimes(go::NEW)
}

#[test]
fn counts_are_the_runtimes_of_the_oldest() -> Result<()> {
    needs_kernel!();
    counts_are_the_runtimes(go::OLD)
}

/// Bytes per cycle, and the advice.
fn measure(env: &[(&str, String)]) -> Result<(f64, Value)> {
    let mut launch = Launch::new("inuse", go::NEW).args(&["-fill", "-rate", "2000000"]);
    for (key, value) in env {
        launch = launch.env(key, value);
    }
    let mut service = launch.start()?;
    service.say("go")?;
    std::thread::sleep(Duration::from_secs(3));
    let document = allocs(&service, &["--duration", "10s"])?;
    let goal = document.pointer("/gc/goal").context("no goal")?.clone();
    println!("{env:?}: {}", document["gc"]);
    Ok((number(&document, "/gc/bytes_per_cycle")?, goal))
}

/// Who follows the advice has half as many cycles, or as many as before by the other setting.
#[test]
fn the_advice_holds() -> Result<()> {
    needs_kernel!();
    let (now, goal) = measure(&[])?;
    ensure!(goal["decided_by"] == "gogc" && goal["gogc"] == 100, "{goal}");
    let half = goal["half"]["gogc"].as_u64().context("no GOGC")?;
    ensure!((180..=220).contains(&half), "{half}");
    let limit = |of: &str| goal[of]["memory_limit_bytes"].as_u64().context("no limit");
    let off = ("GOGC", "off".to_owned());
    for (env, expected) in [
        (vec![("GOGC", half.to_string())], 2.0),
        (vec![off.clone(), ("GOMEMLIMIT", limit("same")?.to_string())], 1.0),
        (vec![off, ("GOMEMLIMIT", limit("half")?.to_string())], 2.0),
    ] {
        let (then, _) = measure(&env)?;
        let ratio = then / now;
        println!("{env:?}: {ratio:.2} times the bytes per cycle, {expected} expected");
        ensure!((ratio / expected - 1.0).abs() < 0.25, "{env:?}: {ratio} of {expected}");
    }
    Ok(())
}
