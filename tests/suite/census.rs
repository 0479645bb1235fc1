//! `g211s goroutines` against the program's own count of its goroutines (`runtime.Stack`).

use std::collections::BTreeMap;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use g211s_tests::go::{self, Mode};
use g211s_tests::proc::{Finished, Proc};
use g211s_tests::service::{Launch, Service};
use g211s_tests::{agent, needs_kernel};
use serde_json::Value;

/// By place (`file:line`) and state.
type Counts = BTreeMap<(String, String), u64>;

const PARKED: [&str; 12] = [
    "-chan", "300", "-select", "200", "-sleep", "150", "-mutex", "120", "-io", "40", "-deep", "30",
];

fn document(service: &Service, args: &[&str]) -> Result<Value> {
    let pid = service.pid().to_string();
    let mut all = vec!["goroutines", "--json", "--pid", &pid];
    all.extend(args);
    let done = agent::run(&all)?;
    ensure!(done.code() == 0, "{}: {}", done.code(), done.stderr());
    let json: Value = serde_json::from_str(&done.stdout())?;
    ensure!(json["schema"] == "g211s.goroutines/1", "{}", json["schema"]);
    Ok(json)
}

fn number(json: &Value, pointer: &str) -> Result<u64> {
    json.pointer(pointer).and_then(Value::as_u64).with_context(|| format!("no number {pointer}"))
}

fn array<'j>(json: &'j Value, pointer: &str) -> Result<&'j Vec<Value>> {
    json.pointer(pointer).and_then(Value::as_array).with_context(|| format!("no list {pointer}"))
}

fn place(json: &Value) -> String {
    let file = json["file"].as_str().unwrap_or("?");
    format!("{file}:{}", json["line"].as_u64().unwrap_or(0))
}

/// What g211s counted, but for the first goroutine, which does the counting on the other side.
fn counted(document: &Value) -> Result<Counts> {
    let mut counts = Counts::new();
    for group in array(document, "/groups")? {
        if group["created_by"] == "go" {
            let state = group["state"].as_str().context("no state")?.to_owned();
            *counts.entry((place(&group["site"]), state)).or_default() += number(group, "/count")?;
        }
    }
    Ok(counts)
}

/// What the program says.
fn truth(service: &mut Service, tag: u32) -> Result<Counts> {
    let text = service.ask(&format!("counts {tag}"), &format!("counts {tag} "))?;
    let groups: Vec<Value> = serde_json::from_str(&text)?;
    let mut counts = Counts::new();
    for group in groups {
        let text = |key: &str| group[key].as_str().map(str::to_owned).context("no text");
        if text("site")? != "main" {
            *counts.entry((text("site")?, text("state")?)).or_default() +=
                number(&group, "/count")?;
        }
    }
    Ok(counts)
}

/// On a program that is quiet: the same, goroutine by goroutine.
fn equal_when_quiet(version: &str, mode: Mode) -> Result<()> {
    let mut args = PARKED.to_vec();
    args.extend(["-syscall", "7"]);
    let mut service = Launch::new("census", version).mode(mode).args(&args).start()?;
    let expected = truth(&mut service, 1)?;
    ensure!(expected.values().sum::<u64>() == 847, "the workload is not as planned: {expected:?}");
    let states: Vec<&str> = expected.keys().map(|(_, state)| state.as_str()).collect();
    for state in ["chan receive", "select", "sleep", "sync.Mutex.Lock", "IO wait", "syscall"] {
        ensure!(states.contains(&state), "the workload has none in {state}: {states:?}");
    }
    let document = document(&service, &[])?;
    let found = counted(&document)?;
    ensure!(found == expected, "Go {version}, {}: {found:?}, not {expected:?}", mode.name());
    ensure!(number(&document, "/samples/0/goroutines")? == 848, "{}", document["samples"]);
    for bad in ["torn", "restless", "implausible", "unreadable", "failures"] {
        ensure!(number(&document, &format!("/reads/{bad}"))? == 0, "{}", document["reads"]);
    }
    // The program is as it was.
    ensure!(truth(&mut service, 2)? == expected, "the program has changed");
    Ok(())
}

#[test]
fn equal_when_quiet_go_1_27() -> Result<()> {
    needs_kernel!();
    Mode::ALL.into_iter().try_for_each(|mode| equal_when_quiet(go::NEW, mode))
}

#[test]
fn equal_when_quiet_go_1_21() -> Result<()> {
    needs_kernel!();
    [Mode::Stripped, Mode::PieStripped]
        .into_iter()
        .try_for_each(|mode| equal_when_quiet(go::OLD, mode))
}

/// On a program that makes and ends thousands of goroutines a second beside the parked ones: those
/// are counted exactly, the total is within 1 %, and what changed under the reading was noticed.
fn close_when_busy(version: &str) -> Result<()> {
    let mut args = vec!["-churn", "2", "-spin", "1", "-gc", "50ms"];
    args.extend(["-chan", "6000", "-select", "3000", "-sleep", "2000"]);
    let mut service = Launch::new("census", version).args(&args).start()?;
    let mut changed = 0;
    for round in 0..5 {
        let before = truth(&mut service, round)?;
        let document = document(&service, &["--stacks"])?;
        let found = counted(&document)?;
        for (key, expected) in before.iter().filter(|(_, n)| **n > 1000) {
            let got = found.get(key).copied().unwrap_or(0);
            ensure!(got == *expected, "Go {version}: {key:?}: {got}, not {expected}");
        }
        let sum = |counts: &Counts| counts.values().sum::<u64>() as f64;
        let off = (sum(&found) - sum(&before)).abs() / sum(&before);
        ensure!(off < 0.01, "Go {version}: {} instead of {}", sum(&found), sum(&before));
        // Every goroutine is accounted for.
        let listed = number(&document, "/reads/listed")?;
        let told = ["/samples/0/goroutines", "/samples/0/system", "/samples/0/dead"]
            .iter()
            .chain(&["/reads/torn", "/reads/implausible", "/reads/unreadable"])
            .map(|pointer| number(&document, pointer))
            .sum::<Result<u64>>()?;
        ensure!(listed == told, "Go {version}: {told} of {listed} are accounted for");
        changed += number(&document, "/reads/changed")?;
        println!("Go {version}: {} goroutines, reads {}", sum(&found), document["reads"]);
    }
    ensure!(changed > 0, "Go {version}: nothing was seen to change in a program that churns");
    Ok(())
}

#[test]
fn close_when_busy_go_1_27() -> Result<()> {
    needs_kernel!();
    close_when_busy(go::NEW)
}

#[test]
fn close_when_busy_go_1_21() -> Result<()> {
    needs_kernel!();
    close_when_busy(go::OLD)
}

/// The stacks of all that is parked, as the program prints them; the runtime's own frames, which it
/// leaves out, left out.
fn stacks(version: &str, mode: Mode) -> Result<()> {
    let mut args = PARKED.to_vec();
    args.extend(["-syscall", "7"]);
    let mut service = Launch::new("census", version).mode(mode).args(&args).start()?;
    let text = service.ask("stacks 1", "stacks 1 ")?;
    let expected: Vec<Value> = serde_json::from_str(&text)?;
    let document = document(&service, &["--stacks"])?;
    let mut found: BTreeMap<(String, Vec<String>), u64> = BTreeMap::new();
    for group in array(&document, "/groups")? {
        for stack in array(group, "/stacks")? {
            ensure!(stack["cut"] == false, "a stack was not followed to its end: {stack}");
            // Go leaves out what the compiler put between a `go` statement and its function, and
            // between an interface's method and the type's.
            let site = place(&group["site"]);
            let frames: Vec<String> = array(stack, "/frames")?
                .iter()
                .map(|f| (f["function"].as_str().unwrap_or("?"), place(f)))
                .filter(|(_, place)| *place != site && !place.starts_with("<autogenerated>"))
                .filter(|(function, _)| !function.starts_with("runtime."))
                .map(|(function, place)| format!("{function} {place}"))
                .collect();
            let state = group["state"].as_str().context("no state")?.to_owned();
            *found.entry((state, frames)).or_default() += number(stack, "/count")?;
        }
    }
    let mut compared = 0;
    for group in expected.iter().filter(|g| g["site"] != "main") {
        let frames: Vec<String> = array(group, "/stack")?
            .iter()
            .filter_map(|f| f.as_str().map(str::to_owned))
            .filter(|f| !f.starts_with("runtime."))
            .collect();
        let state = group["state"].as_str().context("no state")?.to_owned();
        let key = (state, frames);
        let (got, wanted) = (found.get(&key).copied().unwrap_or(0), number(group, "/count")?);
        ensure!(
            got == wanted,
            "Go {version}, {}: {got}, not {wanted}, of {key:?}; found were {found:?}",
            mode.name()
        );
        compared += got;
    }
    ensure!(compared == 847, "only {compared} stacks were compared");
    Ok(())
}

#[test]
fn stacks_are_the_programs() -> Result<()> {
    needs_kernel!();
    for version in [go::NEW, go::OLD] {
        for mode in [Mode::Stripped, Mode::PieStripped] {
            stacks(version, mode)?;
        }
    }
    Ok(())
}

#[test]
fn running_goroutines_are_counted_and_have_no_stack() -> Result<()> {
    needs_kernel!();
    let service = Launch::new("census", go::NEW).args(&["-spin", "2", "-chan", "5"]).start()?;
    let document = document(&service, &["--stacks"])?;
    let spinning: u64 = array(&document, "/groups")?
        .iter()
        .filter(|g| g["state"] != "chan receive" && g["created_by"] == "go")
        .map(|g| number(g, "/count"))
        .sum::<Result<_>>()?;
    ensure!(spinning == 2, "{}", document["groups"]);
    for group in array(&document, "/groups")?.iter().filter(|g| g["state"] == "running") {
        ensure!(array(group, "/stacks")?.is_empty(), "a stack of a running goroutine: {group}");
        ensure!(number(group, "/without_stack")? == number(group, "/count")?, "{group}");
    }
    Ok(())
}

/// The runtime notes how long a goroutine waits when its collector comes by.
#[test]
fn waiting_times_come_with_collections() -> Result<()> {
    needs_kernel!();
    let quiet = Launch::new("census", go::NEW).args(&["-chan", "50"]).env("GOGC", "off").start()?;
    let json = document(&quiet, &[])?;
    ensure!(array(&json, "/groups")?.iter().all(|g| g["waiting"].is_null()), "{}", json["groups"]);
    ensure!(json["unavailable"].to_string().contains("waiting times"), "{}", json["unavailable"]);
    drop(quiet);

    let began = Instant::now();
    let collecting =
        Launch::new("census", go::NEW).args(&["-chan", "50", "-gc", "20ms"]).start()?;
    std::thread::sleep(Duration::from_secs(2));
    let json = document(&collecting, &[])?;
    let age = began.elapsed().as_nanos() as u64;
    let group = array(&json, "/groups")?
        .iter()
        .find(|g| g["state"] == "chan receive" && g["count"] == 50)
        .context("the parked goroutines")?;
    ensure!(number(group, "/waiting/known")? == 50, "{group}");
    let longest = number(group, "/waiting/longest_ns")?;
    ensure!((1_900_000_000..=age).contains(&longest), "{longest} of at most {age}");
    Ok(())
}

#[test]
fn a_leak_is_found_by_its_growth() -> Result<()> {
    needs_kernel!();
    let mut service =
        Launch::new("census", go::NEW).args(&["-chan", "40", "-churn", "1"]).start()?;
    let pid = service.pid().to_string();
    let mut command = Command::new(agent::binary()?);
    command.args(["goroutines", "--json", "--interval", "700ms", "--count", "4", "--pid", &pid]);
    let run = Proc::spawn(&mut command)?;
    for n in 1..=20 {
        service.ask(&format!("leak {}", 1000 + n), &format!("leak {} ", 1000 + n))?;
        std::thread::sleep(Duration::from_millis(100));
    }
    let done = run.finish(Duration::from_secs(20))?;
    ensure!(done.code() == 0, "{}", done.stderr());
    let json: Value = serde_json::from_str(&done.stdout())?;
    ensure!(array(&json, "/samples")?.len() == 4, "{}", json["samples"]);
    let candidates: Vec<&Value> =
        array(&json, "/growth")?.iter().filter(|g| g["candidate"] == true).collect();
    ensure!(candidates.len() == 1, "{}", json["growth"]);
    ensure!(number(candidates[0], "/grown")? >= 5000, "{}", candidates[0]);
    let function = candidates[0]["site"]["function"].as_str().unwrap_or_default();
    ensure!(function.starts_with("main.main"), "{}", candidates[0]);
    Ok(())
}

/// One line, no output, exit code 1, in time.
fn refused(run: &Finished, took: Duration) -> Result<String> {
    let said = run.stderr();
    ensure!(run.code() == 1, "exit code {}: {said}{}", run.code(), run.stdout());
    ensure!(run.stdout().is_empty() && said.lines().count() == 1, "{said}{}", run.stdout());
    ensure!(!said.contains("panicked"), "{said}");
    ensure!(took < Duration::from_secs(10), "it took {took:?}");
    Ok(said)
}

/// A program that overwrote its own list of goroutines: refused, or counted with what is wrong told;
/// never a hang, a crash or made-up goroutines.
#[test]
fn a_corrupted_list_costs_an_error_at_most() -> Result<()> {
    needs_kernel!();
    for version in [go::NEW, go::OLD] {
        for mode in ["len", "pointer", "entries", "random", "same", "tail", "long"] {
            let args = ["-chan", "100"];
            let mut service =
                Launch::new("census", version).mode(Mode::Plain).args(&args).start()?;
            service.ask(&format!("corrupt {mode}"), &format!("corrupt {mode}"))?;
            let pid = service.pid().to_string();
            for more in [&[][..], &["--stacks"]] {
                let mut args = vec!["goroutines", "--json", "--pid", &pid];
                args.extend(more);
                let began = Instant::now();
                let run = agent::run(&args)?;
                // Only where what was looked at first is right can it be found out on the way.
                ensure!(
                    (run.code() == 0) == (mode == "tail"),
                    "Go {version}, {mode}: {}",
                    run.code()
                );
                if run.code() == 0 {
                    let json: Value = serde_json::from_str(&run.stdout())?;
                    let bad =
                        number(&json, "/reads/implausible")? + number(&json, "/reads/unreadable")?;
                    println!("Go {version}, {mode}: {} {}", json["samples"], json["reads"]);
                    // Hardly any random words look like a goroutine, and those that do were made
                    // nowhere; the real ones are there.
                    let real = counted(&json)?.values().any(|n| *n == 100);
                    ensure!(real, "Go {version}, {mode}: {}", json["groups"]);
                    ensure!(bad > 19_000, "Go {version}, {mode}: believed: {}", json["reads"]);
                    let said = number(&json, "/samples/0/goroutines")?;
                    ensure!((101..150).contains(&said), "Go {version}, {mode}: {said}");
                } else {
                    let said = refused(&run, began.elapsed())?;
                    println!("Go {version}, {mode}: {}", said.trim());
                    ensure!(said.contains("goroutine"), "Go {version}, {mode}: {said}");
                }
            }
            ensure!(service.proc.poll()?.is_none(), "the target ended");
        }
    }
    Ok(())
}

#[test]
fn a_target_that_ends_is_told() -> Result<()> {
    needs_kernel!();
    let service = Launch::new("census", go::NEW).args(&["-chan", "10"]).start()?;
    let pid = service.pid().to_string();
    let mut command = Command::new(agent::binary()?);
    command.args(["goroutines", "--json", "--interval", "500ms", "--count", "50", "--pid", &pid]);
    let run = Proc::spawn(&mut command)?;
    std::thread::sleep(Duration::from_millis(1500));
    drop(service);
    let done = run.finish(Duration::from_secs(10))?;
    ensure!(done.code() == 0, "{}", done.stderr());
    let json: Value = serde_json::from_str(&done.stdout())?;
    let samples = array(&json, "/samples")?.len();
    ensure!((1..50).contains(&samples), "{samples} censuses");
    ensure!(json["unavailable"].to_string().contains("ended"), "{}", json["unavailable"]);
    Ok(())
}
