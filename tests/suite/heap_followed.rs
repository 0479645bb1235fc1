//! `g211s heap --follow` against a program that keeps a known part of what it allocates and counts that itself. It keeps
//! no profile of the runtime's own.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use g211s::profile::pprof;
use g211s::profile::table::{By, rows};
use g211s_tests::folder::Folder;
use g211s_tests::proc::Proc;
use g211s_tests::service::{Launch, Service};
use g211s_tests::{agent, go, needs_kernel, run_all};
use serde_json::Value;

/// Bytes made and kept by site.
type Truth = BTreeMap<String, (f64, f64)>;

/// The truth as the program says last.
fn truth(service: &Service) -> Result<Truth> {
    let lines = service.proc.lines();
    let last = lines.iter().rev().find(|l| l.text.starts_with("at ")).context("no figures")?;
    let sites = last.text.split(' ').skip(2).map(|s| {
        let (name, counts) = s.split_once('=').context("no site")?;
        let (made, kept) = counts.split_once(',').context("no counts")?;
        Ok((name.to_owned(), (made.parse()?, kept.parse()?)))
    });
    sites.collect()
}

/// The figures of a function's sites: value, low, high.
fn of(document: &Value, function: &str, what: &str) -> (f64, f64, f64) {
    let sites =
        document["sites"].as_array().into_iter().flatten().filter(|s| s["function"] == function);
    sites.fold((0.0, 0.0, 0.0), |sum, s| {
        let n = |key: &str| s[what][key].as_f64().unwrap_or(f64::NAN);
        (sum.0 + n("value"), sum.1 + n("low"), sum.2 + n("high"))
    })
}

/// Follows a program from before it makes anything; the document, and the truth as it ends.
fn follow(version: &str, program: &[&str], args: &[&str]) -> Result<(Value, Truth)> {
    let mut service = Launch::new("retain", version).args(program).start()?;
    let pid = service.pid().to_string();
    let mut command = Command::new(agent::binary()?);
    command.args(["heap", "--follow", "--json", "--pid", &pid]).args(args);
    let run = Proc::spawn(&mut command)?;
    // It attaches within a second.
    std::thread::sleep(Duration::from_millis(1500));
    service.say("go")?;
    let done = run.finish(Duration::from_mins(2))?;
    let truth = truth(&service)?;
    ensure!(done.code() == 0, "{}: {}", done.code(), done.stderr());
    Ok((serde_json::from_str(&done.stdout())?, truth))
}

fn number(document: &Value, path: &str) -> Result<f64> {
    document.pointer(path).and_then(Value::as_f64).with_context(|| path.to_owned())
}

/// What is in use by site, of what was made since, within 5 points of its share.
fn what_is_in_use_is_told(version: &str, budget: &str) -> Result<()> {
    let seconds = if run_all() { "30s" } else { "13s" };
    let program = ["-gc", "500ms"];
    let (document, truth) =
        follow(version, &program, &["--budget", budget, "--duration", seconds])?;
    ensure!(document["schema"] == "g211s.heap/1", "{}", document["schema"]);
    ensure!(document["source"]["kind"] == "followed", "{}", document["source"]);
    println!("Go {version}, {budget}: {}", document["followed"]);
    let kept: f64 = truth.values().map(|(_, kept)| kept).sum();
    let total = number(&document, "/total/inuse_bytes/value")?;
    let mut wrong = Vec::new();
    for (site, &(made, held)) in &truth {
        let (value, low, high) = of(&document, site, "inuse_bytes");
        let (allocated, ..) = of(&document, site, "alloc_bytes");
        let (share, expected) = (value / total * 100.0, held / kept * 100.0);
        println!(
            "  {site}: in use {value:.0} ({low:.0}…{high:.0}) of {allocated:.0}, {share:.1} %; \
             truth {held:.0} of {made:.0}, {expected:.1} %"
        );
        ensure!(allocated > 0.0, "{site} was not seen");
        if (share - expected).abs() > 5.0 {
            wrong.push(site.clone());
        }
        if site.contains("garbage") {
            ensure!(value < 0.02 * total && value < 0.05 * allocated, "{site} keeps nothing");
        }
    }
    println!("  in use {total:.0}, truth {kept:.0}");
    ensure!(wrong.is_empty(), "{wrong:?} are off by more than 5 points");
    // The program goes on for up to one cycle after the last.
    ensure!(total > 0.8 * kept && total < 1.1 * kept, "{total} of {kept}");
    let followed = |key: &str| number(&document, &format!("/followed/{key}"));
    ensure!(followed("gc_cycles")? >= 10.0, "too few collections");
    ensure!(followed("gc_cycles_missed")? == 0.0 && followed("doubtful_bytes")? == 0.0);
    ensure!(followed("not_followed_share")? < 0.1 && followed("lost")? == 0.0);
    Ok(())
}

#[test]
fn what_stays_is_told_of_the_newest() -> Result<()> {
    needs_kernel!();
    what_is_in_use_is_told(go::NEW, "100%")
}

#[test]
fn what_stays_is_told_of_the_oldest() -> Result<()> {
    needs_kernel!();
    what_is_in_use_is_told(go::OLD, "100%")
}

/// Shares of what is in use by function, the largest first; without what was made before anybody looked, which is in no
/// figures of followed objects.
fn shares(all: impl IntoIterator<Item = (String, f64)>) -> Vec<(String, f64)> {
    let mut sums: BTreeMap<String, f64> = BTreeMap::new();
    for (function, bytes) in all.into_iter().filter(|(f, _)| f != "main.room") {
        *sums.entry(function).or_default() += bytes;
    }
    let total: f64 = sums.values().sum();
    let mut sums: Vec<_> = sums.into_iter().map(|(f, b)| (f, b / total.max(1.0))).collect();
    sums.sort_by(|a, b| b.1.total_cmp(&a.1));
    sums
}

fn shares_of(document: &Value) -> Vec<(String, f64)> {
    shares(document["sites"].as_array().into_iter().flatten().map(|s| {
        let bytes = s["inuse_bytes"]["value"].as_f64().unwrap_or(0.0);
        (s["function"].as_str().unwrap_or_default().to_owned(), bytes)
    }))
}

fn shares_of_pprof(file: &Path) -> Result<Vec<(String, f64)>> {
    let profile = pprof::from_bytes(&std::fs::read(file)?)?;
    Ok(shares(
        rows(&profile, By::Function, 3)
            .into_iter()
            .map(|r| (r.site.function.clone(), r.flat[3] as f64)),
    ))
}

/// The ten that hold most are the same in the same order, as far as they are 3 points apart, each within 5 points.
fn are_alike(what: &str, ours: &[(String, f64)], theirs: &[(String, f64)]) -> Result<()> {
    let place = |f: &str| ours.iter().position(|(g, _)| g == f);
    let mut worst = 0.0_f64;
    for (rank, (function, share)) in theirs.iter().take(10).enumerate() {
        let at = place(function).with_context(|| format!("{what}: {function} was not told"))?;
        let told = ours[at].1;
        println!(
            "  {what} {:2} {function}: {:.1} %, told {:.1} % as number {}",
            rank + 1,
            share * 100.0,
            told * 100.0,
            at + 1
        );
        worst = worst.max((told - share).abs());
        for (other, its) in theirs.iter().take(10).skip(rank + 1).filter(|o| share - o.1 > 0.03) {
            let other_at = place(other).with_context(|| format!("{what}: {other} was not told"))?;
            ensure!(at < other_at, "{what}: {function} ({share}) and {other} ({its}) are swapped");
        }
    }
    println!("  {what}: at most {:.1} points off", worst * 100.0);
    ensure!(worst <= 0.05, "{what}: {worst}");
    Ok(())
}

/// Against the program's own heap profile: read from its memory, and followed.
fn in_use_is_pprofs(version: &str) -> Result<()> {
    let folder = Folder::new()?;
    let seconds = if run_all() { "40s" } else { "14s" };
    let mut service = Launch::new("inuse", version).args(&["-rate", "400000"]).start()?;
    let pid = service.pid().to_string();
    let mut command = Command::new(agent::binary()?);
    command.args(["heap", "--follow", "--json", "--pid", &pid, "--budget", "100%"]);
    command.args(["--duration", seconds]);
    let run = Proc::spawn(&mut command)?;
    std::thread::sleep(Duration::from_millis(1500));
    service.say("go")?;
    let done = run.finish(Duration::from_mins(2))?;
    let (mut read, mut files) = (Vec::new(), Vec::new());
    for n in 0..3 {
        let file = folder.file(&format!("{n}.pb.gz"));
        service.ask(&format!("profile {}", file.display()), "done profile")?;
        let now = agent::run(&["heap", "--json", "--pid", &pid])?;
        ensure!(now.code() == 0, "{}", now.stderr());
        read.push(shares_of(&serde_json::from_str(&now.stdout())?));
        files.push(shares_of_pprof(&file)?);
    }
    ensure!(done.code() == 0, "{}: {}", done.code(), done.stderr());
    let document: Value = serde_json::from_str(&done.stdout())?;
    println!("Go {version}: {}", document["followed"]);
    for (read, file) in read.iter().zip(&files) {
        are_alike("read", read, file)?;
    }
    are_alike("followed", &shares_of(&document), &files[0])?;
    // What they are, where the runtime keeps that.
    if version != go::OLD {
        let sites = document["sites"].as_array().context("sites")?;
        for (function, name) in [
            ("main.sessions", "main.session"),
            ("main.slices", "*main.session"),
            ("main.tables", "main.table"),
        ] {
            let site = sites.iter().find(|s| s["function"] == function).context(function)?;
            ensure!(site["types"][0]["name"] == name, "{site}");
            ensure!(site["types"][0]["share"].as_f64().is_some_and(|s| s > 0.95), "{site}");
        }
    }
    Ok(())
}

#[test]
fn in_use_is_pprofs_of_the_newest() -> Result<()> {
    needs_kernel!();
    in_use_is_pprofs(go::NEW)
}

#[test]
fn in_use_is_pprofs_of_the_oldest() -> Result<()> {
    needs_kernel!();
    in_use_is_pprofs(go::OLD)
}

#[test]
fn in_use_is_pprofs_of_one_between() -> Result<()> {
    needs_kernel!();
    if !run_all() {
        println!("skipped: in `cargo xtask test --all`");
        return Ok(());
    }
    in_use_is_pprofs(go::MIDDLE)
}

/// Where probes only look in at times, what was made in between is not known, and the intervals say so.
#[test]
fn rests_are_allowed_for() -> Result<()> {
    needs_kernel!();
    let args = ["--budget", "1%", "--duration", "15s"];
    let (document, truth) = follow(go::NEW, &["-gc", "500ms", "-rate", "200000"], &args)?;
    println!("{}", document["followed"]);
    let seen = number(&document, "/followed/observed_ns")?;
    ensure!(seen < 0.9 * number(&document, "/followed/window_ns")?, "no rest");
    ensure!(document["unavailable"].to_string().contains("--budget"), "{document}");
    for (site, (_, kept)) in &truth {
        let (value, low, high) = of(&document, site, "inuse_bytes");
        ensure!(low <= 1.1 * kept && 0.9 * kept <= high, "{site}: {low}…{value}…{high}, {kept}");
    }
    Ok(())
}

/// A program without the runtime's profile is told of this way.
#[test]
fn the_way_out_is_named() -> Result<()> {
    needs_kernel!();
    let service = Launch::new("retain", go::NEW).start()?;
    let done = agent::run(&["heap", "--pid", &service.pid().to_string()])?;
    ensure!(done.code() == 1 && done.stderr().contains("--follow"), "{}", done.stderr());
    ensure!(done.stderr().trim().lines().count() == 1, "{}", done.stderr());
    let done = agent::run(&["heap", "--pid", &service.pid().to_string(), "--duration", "5s"])?;
    ensure!(done.code() == 2, "--duration is for --follow: {}", done.code());
    Ok(())
}
