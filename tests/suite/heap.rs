//! `g211s heap` against the program's own heap profile, which it writes itself (runtime/pprof), and against what
//! `go tool pprof` says of both. The program is quiet meanwhile, so all must be equal to the byte.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use g211s::elf::symbols::short_name;
use g211s::profile::table::{By, rows};
use g211s::profile::{Profile, pprof};
use g211s_tests::go::{self, Mode};
use g211s_tests::service::{Launch, Service};
use g211s_tests::{agent, needs_kernel};
use serde_json::Value;

fn file(name: &str) -> PathBuf {
    g211s_tests::target_dir().join(format!("heap-{}-{name}", std::process::id()))
}

fn start(version: &str, mode: Mode, args: &[&str]) -> Result<Service> {
    // It collects where it is told to alone: a collection between its own profile and our reading would make the runtime
    // publish more.
    Launch::new("heap", version).mode(mode).args(args).env("GOGC", "off").start()
}

/// Has the program collect and write its own profile.
fn own(service: &mut Service, file: &Path, times: usize) -> Result<()> {
    service.say(&format!("profile {}", file.display()))?;
    let done = |service: &Service| {
        service.proc.lines().iter().filter(|l| l.text == "done profile <nil>").count()
    };
    for _ in 0..2000 {
        if done(service) == times {
            return Ok(());
        }
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
    anyhow::bail!("no profile was written")
}

fn heap(service: &Service, args: &[&str]) -> Result<Value> {
    let pid = service.pid().to_string();
    let mut all = vec!["heap", "--json", "--pid", &pid];
    all.extend(args);
    let done = agent::run(&all)?;
    ensure!(done.code() == 0, "{}: {}", done.code(), done.stderr());
    let json: Value = serde_json::from_str(&done.stdout())?;
    ensure!(json["schema"] == "g211s.heap/1", "{}", json["schema"]);
    Ok(json)
}

/// Values and stacks (function, line), as a multiset. Go 1.21 does not shorten the names of generic functions.
fn samples(profile: &Profile) -> BTreeMap<String, usize> {
    let mut all = BTreeMap::new();
    for sample in profile.samples().iter().filter(|s| s.values.iter().any(|v| *v != 0)) {
        let stack: Vec<String> = profile
            .frames(sample)
            .filter_map(|(_, f)| f)
            .map(|f| format!("{} {:?} {:?}", short_name(&f.function), f.file, f.line))
            .collect();
        *all.entry(format!("{:?} {}", sample.values, stack.join(" < "))).or_default() += 1;
    }
    all
}

fn read(path: &Path) -> Result<Profile> {
    let bytes = std::fs::read(path).with_context(|| format!("reading {}", path.display()))?;
    Ok(pprof::from_bytes(&bytes)?)
}

/// What `go tool pprof -top` prints: by function, flat and cumulative. (Go 1.21 has two names for two instances of a
/// generic function.)
fn top(file: &Path, index: &str, unit: &str) -> Result<BTreeMap<String, (u64, u64)>> {
    let output = Command::new(go::command(go::MIDDLE)?)
        .args(["tool", "pprof", "-symbolize=none", "-top", "-nodefraction=0", "-nodecount=100000"])
        .args([format!("-sample_index={index}"), format!("-unit={unit}")])
        .arg(file)
        .env("GOTOOLCHAIN", "local")
        .output()?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let mut rows = BTreeMap::<String, (u64, u64)>::new();
    for line in text.lines().skip_while(|l| !l.trim_start().starts_with("flat ")).skip(1) {
        let cells: Vec<&str> = line.split_whitespace().collect();
        let name: Vec<&str> =
            cells.iter().skip(5).copied().filter(|c| !c.ends_with("inline)")).collect();
        let number = |cell: &str| cell.trim_end_matches('B').parse::<u64>().context("a number");
        let row = rows.entry(short_name(&name.join(" "))).or_default();
        row.0 += number(cells[0])?;
        row.1 += number(cells[3])?;
    }
    Ok(rows)
}

/// The sums of the runtime's own counts: `heap profile: 98: 67108864 [120: 71303168] @ heap/1048576`.
fn raw_counts(file: &Path) -> Result<(u64, u64)> {
    let text = std::fs::read_to_string(format!("{}.txt", file.display()))?;
    let head = text.lines().next().context("an empty profile")?;
    let numbers: Vec<u64> =
        head.split(|c: char| !c.is_ascii_digit()).filter_map(|w| w.parse().ok()).collect();
    ensure!(numbers.len() >= 4, "{head}");
    Ok((numbers[0], numbers[2]))
}

fn is_the_programs_own(version: &str, mode: Mode, args: &[&str]) -> Result<()> {
    let what = format!("Go {version}, {}, {args:?}", mode.name());
    let name = what.replace(|c: char| !c.is_ascii_alphanumeric(), "-");
    let (theirs, ours) =
        (file(&format!("{name}-theirs.pb.gz")), file(&format!("{name}-ours.pb.gz")));
    let mut service = start(version, mode, args)?;
    service.ask("grow 3000", "done grow")?;
    own(&mut service, &theirs, 1)?;
    let output = ours.to_string_lossy().into_owned();
    let json = heap(&service, &["-o", &output])?;
    let (own_profile, our_profile) = (read(&theirs)?, read(&ours)?);
    let (a, b) = (samples(&own_profile), samples(&our_profile));
    let missing: Vec<_> = a.iter().filter(|(k, n)| b.get(*k) != Some(n)).take(5).collect();
    let extra: Vec<_> = b.iter().filter(|(k, n)| a.get(*k) != Some(n)).take(5).collect();
    ensure!(a == b, "{what}: not in ours: {missing:#?}\nonly in ours: {extra:#?}");
    ensure!(own_profile.totals() == our_profile.totals(), "{what}");
    ensure!(own_profile.period == our_profile.period, "{what}");
    for (index, unit) in [("inuse_space", "B"), ("alloc_space", "B"), ("inuse_objects", "count")] {
        let (own, our) = (top(&theirs, index, unit)?, top(&ours, index, unit)?);
        ensure!(own == our && own.len() >= 6, "{what}, {index}:\n{own:#?}\n{our:#?}");
    }
    // The JSON's rows are the profile's, and the samples are the runtime's counts.
    let sites = json["sites"].as_array().context("sites")?;
    for (site, row) in sites.iter().zip(rows(&our_profile, By::Line, 3)) {
        ensure!(site["function"] == row.site.function.as_str(), "{site} {row:?}");
        ensure!(site["inuse_bytes"]["value"] == row.flat[3], "{site} {row:?}");
        ensure!(site["cumulative"]["alloc_objects"] == row.cumulative[0], "{site} {row:?}");
    }
    let (inuse, alloc) = raw_counts(&theirs)?;
    let total = &json["total"];
    ensure!(total["inuse_samples"] == inuse && total["alloc_samples"] == alloc, "{what}: {total}");
    ensure!(json["reads"]["torn"] == 0, "{}", json["reads"]);
    // runtime.GC publishes at once.
    let source = &json["source"];
    ensure!(source["gc_cycle"].as_u64().is_some_and(|n| n >= 1), "{source}");
    ensure!(source["gc_cycle"] == source["gc_cycles"], "{what}: {source}");
    let live = json["live_heap"]["marked_bytes"].as_u64().context("live heap")?;
    let (low, high) = (&total["inuse_bytes"]["low"], &total["inuse_bytes"]["high"]);
    println!(
        "{what}: {} samples equal, {} bytes in use ({low}…{high}), {live} marked, {} system calls in {} ns",
        a.len(),
        total["inuse_bytes"]["value"],
        json["reads"]["calls"],
        json["reads"]["took_ns"],
    );
    // 95 %, and the collector counts what the runtime itself made before sampling began: some room beside.
    let (low, high) = (low.as_u64().context("low")?, high.as_u64().context("high")?);
    ensure!(low < live * 13 / 10 && live < high * 13 / 10, "{what}: {low}…{high}, live {live}");
    for path in [&theirs, &ours] {
        std::fs::remove_file(path)?;
    }
    std::fs::remove_file(format!("{}.txt", theirs.display()))?;
    Ok(())
}

#[test]
fn the_heap_of_the_newest_is_the_programs_own() -> Result<()> {
    needs_kernel!();
    is_the_programs_own(go::NEW, Mode::Plain, &[])?;
    is_the_programs_own(go::NEW, Mode::PieStripped, &["-rate", "4096"])
}

#[test]
fn the_heap_of_the_oldest_is_the_programs_own() -> Result<()> {
    needs_kernel!();
    is_the_programs_own(go::OLD, Mode::Plain, &[])?;
    is_the_programs_own(go::OLD, Mode::PieStripped, &["-rate", "4096"])
}

#[test]
fn the_heap_of_one_between_is_the_programs_own() -> Result<()> {
    needs_kernel!();
    is_the_programs_own(go::MIDDLE, Mode::Plain, &["-rate", "1"])?;
    is_the_programs_own(go::MIDDLE, Mode::PieStripped, &["-rate", "4096"])
}

/// Growth between two snapshots, from our JSON and from the program's own files.
#[test]
fn what_grew_is_told() -> Result<()> {
    needs_kernel!();
    let mut service = start(go::NEW, Mode::Stripped, &["-rate", "65536"])?;
    service.ask("grow 200", "done grow")?;
    let paths: Vec<PathBuf> = ["a.pb.gz", "a.json", "b.pb.gz", "b.json"]
        .iter()
        .map(|n| file(&format!("diff-{n}")))
        .collect();
    own(&mut service, &paths[0], 1)?;
    std::fs::write(&paths[1], heap(&service, &[])?.to_string())?;
    service.say("grow 5000")?;
    own(&mut service, &paths[2], 2)?;
    std::fs::write(&paths[3], heap(&service, &[])?.to_string())?;
    let names: Vec<String> = paths.iter().map(|p| p.to_string_lossy().into_owned()).collect();
    let mut documents = Vec::new();
    for (a, b) in [(0, 2), (1, 3), (0, 3)] {
        let done = agent::run(&["heap", "diff", "--json", &names[a], &names[b]])?;
        ensure!(done.code() == 0, "{}", done.stderr());
        documents.push(serde_json::from_str::<Value>(&done.stdout())?);
    }
    for document in &documents {
        ensure!(document["schema"] == "g211s.heap_diff/1", "{document}");
        let first = &document["sites"][0];
        ensure!(first["function"] == "main.blob" && first["beyond_error"] == true, "{first}");
        // 300 KiB in each sixteenth round.
        let grown = first["inuse_bytes"]["grown"].as_i64().context("grown")?;
        let truth = 5000 / 16 * (300 << 10);
        ensure!((grown - truth).abs() * 5 < truth, "{grown} of {truth}");
        // What writing the first profile has allocated is left out: where a function of the runtime's is inlined into one
        // that is inlined itself (`printStackRecord`), Go's own profile passes over both, and we over the first.
        let is_writer =
            |s: &Value| s["function"].as_str().is_some_and(|f| f.starts_with("runtime/pprof."));
        let sites = |d: &Value| {
            let all = d["sites"].as_array().cloned().unwrap_or_default();
            all.into_iter().filter(|s| !is_writer(s)).collect::<Vec<_>>()
        };
        let (here, there) = (sites(document), sites(&documents[0]));
        let only = |a: &[Value], b: &[Value]| {
            a.iter().filter(|s| !b.contains(s)).cloned().collect::<Vec<_>>()
        };
        ensure!(here == there, "{:?} and {:?}", only(&here, &there), only(&there, &here));
    }
    let text = agent::run(&["heap", "diff", &names[1], &names[3]])?;
    ensure!(
        text.stdout().contains("main.blob") && text.stdout().contains("yes"),
        "{}",
        text.stdout()
    );
    for path in &paths {
        std::fs::remove_file(path)?;
    }
    Ok(())
}

/// While it allocates and collects all the time, readings are of one moment or say that they are not, and the program
/// lives.
#[test]
fn a_busy_heap_is_read_whole() -> Result<()> {
    needs_kernel!();
    let mut service = start(go::NEW, Mode::Stripped, &["-rate", "4096", "-collect"])?;
    service.ask("grow 2000", "done grow")?;
    service.ask("churn 2", "done churn")?;
    let mut whole = 0;
    for _ in 0..10 {
        let json = heap(&service, &[])?;
        whole += u32::from(json["reads"]["torn"] == 0);
        let (cycle, last) = (&json["source"]["gc_cycle"], &json["source"]["gc_cycles"]);
        let (cycle, last) = (cycle.as_u64(), last.as_u64());
        ensure!(cycle.zip(last).is_some_and(|(c, l)| c == l || c + 1 == l), "{}", json["source"]);
        let bytes = json["total"]["inuse_bytes"]["value"].as_u64().context("bytes")?;
        // 125 blobs of 300 KiB are kept.
        ensure!((30 << 20..200 << 20).contains(&bytes), "{bytes}");
    }
    println!("{whole} of 10 readings are of one moment");
    ensure!(whole >= 5, "{whole} of 10");
    Ok(())
}

#[test]
fn a_program_without_a_profile_is_told_why() -> Result<()> {
    needs_kernel!();
    for (name, args, words) in [
        ("idle", &[][..], "Go's linker switched it off"),
        ("heap", &["-rate", "0"][..], "the program has switched it off"),
    ] {
        for version in [go::OLD, go::NEW] {
            let service = Launch::new(name, version).args(args).start()?;
            let pid = service.pid().to_string();
            let done = agent::run(&["heap", "--pid", &pid])?;
            ensure!(done.code() == 1, "{name}: {}", done.code());
            let said = done.stderr();
            ensure!(said.contains(words) && said.trim().lines().count() == 1, "{said}");
            ensure!(done.stdout().is_empty(), "{}", done.stdout());
            let doctor = agent::run(&["doctor", "--pid", &pid])?;
            ensure!(doctor.stdout().contains(words), "{}", doctor.stdout());
        }
    }
    Ok(())
}

#[test]
fn files_that_are_no_heaps_are_refused() -> Result<()> {
    let path = file("junk");
    let name = path.to_string_lossy().into_owned();
    for junk in
        [&b""[..], b"{}", b"\x1f\x8b\x08junk", b"\0\x01\x02", b"{\"schema\":\"g211s.heap/1\"}"]
    {
        std::fs::write(&path, junk)?;
        let done = agent::run(&["heap", "diff", &name, &name])?;
        ensure!(done.code() == 1, "{junk:?}: {}", done.code());
        ensure!(done.stderr().trim().lines().count() == 1, "{}", done.stderr());
    }
    std::fs::remove_file(&path)?;
    ensure!(agent::run(&["heap", "diff", &name, &name])?.code() == 1);
    ensure!(agent::run(&["heap", "diff", &name])?.code() == 2);
    ensure!(agent::run(&["heap"])?.code() == 2);
    Ok(())
}
