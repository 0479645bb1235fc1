//! Our profiles through the eyes of `go tool pprof`: it has to print our numbers.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use g211s::profile::table::{By, rows};
use g211s::profile::{Location, Mapping, Profile, ValueType, pprof};
use g211s::record::SymbolFrame;
use g211s_tests::go;

/// A location in short: `main.inner:3 < main.outer:9`, the first ones inlined.
fn location(address: u64, text: &str) -> Location {
    let parts: Vec<&str> = text.split(" < ").collect();
    let frames = parts.iter().enumerate().map(|(i, part)| {
        let (function, line) = part.rsplit_once(':').expect("function:line");
        SymbolFrame {
            function: function.to_owned(),
            file: Some("/src/main.go".to_owned()),
            line: line.parse().ok(),
            inlined: i + 1 < parts.len(),
        }
    });
    Location { address, frames: frames.collect() }
}

fn profile() -> Profile {
    let mut p = Profile::new(vec![
        ValueType::new("inuse_objects", "count"),
        ValueType::new("inuse_space", "bytes"),
    ]);
    p.period_type = Some(ValueType::new("space", "bytes"));
    p.period = 524_288;
    p.mappings.push(Mapping {
        start: 0x40_0000,
        limit: 0x60_0000,
        file: "/nowhere/service".to_owned(),
        ..Mapping::default()
    });
    let texts = [
        "runtime.mallocgc:1",
        "runtime.growslice:7 < main.fill[go.shape.int]:20",
        "main.inner:3 < main.middle:8 < main.outer:11",
        "main.walk:30",
        "main.walk:31",
        "main.main:100",
        "main.(*T).Method:5",
        "main.main.func1:101",
    ];
    let at: Vec<_> = texts
        .iter()
        .enumerate()
        .map(|(i, text)| p.location(location(0x40_1000 + i as u64 * 16, text)))
        .collect();
    p.push_from_caller(&[at[0], at[1], at[5]], &[3, 3_000_001], vec![]);
    p.push_from_caller(&[at[0], at[2], at[5]], &[5, 512_345], vec![]);
    p.push_from_caller(&[at[0], at[3], at[4], at[3], at[5]], &[7, 70_007], vec![]);
    p.push_from_caller(&[at[0], at[4], at[7]], &[9, 1234], vec![]);
    p.push_from_caller(&[at[0], at[6], at[7]], &[1_000_000, 64_000_000], vec![]);
    p.push_from_caller(&[at[0]], &[1, 64], vec![]);
    p
}

fn written(profile: &Profile, name: &str) -> Result<PathBuf> {
    let file = g211s_tests::target_dir().join(format!("pprof-tool-{}-{name}", std::process::id()));
    std::fs::write(&file, pprof::to_bytes(profile)?)?;
    Ok(file)
}

fn tool(args: &[&str], file: &Path) -> Result<String> {
    // 1.24: the newest of our toolchains that has pprof built.
    let output = Command::new(go::command(go::MIDDLE)?)
        .args(["tool", "pprof", "-symbolize=none"])
        .args(args)
        .arg(file)
        .env("GOTOOLCHAIN", "local")
        .output()?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    ensure!(output.status.success(), "{text}{}", String::from_utf8_lossy(&output.stderr));
    Ok(text)
}

/// The rows of `-top -unit=…`: function (and place), flat, cumulative.
fn top(text: &str) -> Result<Vec<(String, i64, i64)>> {
    let lines = text.lines().skip_while(|l| !l.trim_start().starts_with("flat ")).skip(1);
    let number = |cell: Option<&str>| -> Result<i64> {
        let cell = cell.context("a column is missing")?;
        let digits = cell.trim_end_matches(|c: char| c.is_alphabetic());
        digits.parse::<f64>().map(|n| n as i64).with_context(|| format!("no number: {cell}"))
    };
    let rows = lines.filter(|l| !l.trim().is_empty()).map(|line| {
        let mut cells = line.split_whitespace();
        let (flat, cum) = (number(cells.next())?, number(cells.nth(2))?);
        cells.next();
        let name: Vec<&str> =
            cells.filter(|c| !matches!(*c, "(inline)" | "(partial-inline)")).collect();
        Ok((name.join(" "), flat, cum))
    });
    rows.collect()
}

#[test]
fn top_prints_our_table() -> Result<()> {
    let profile = profile();
    let file = written(&profile, "top")?;
    for (by, more) in [(By::Function, &[][..]), (By::Line, &["-lines"][..])] {
        for (index, (kind, unit)) in
            [("inuse_objects", "count"), ("inuse_space", "B")].iter().enumerate()
        {
            let (kind, unit) = (format!("-sample_index={kind}"), format!("-unit={unit}"));
            let mut args = vec!["-top", "-nodefraction=0", "-nodecount=1000", &kind, &unit];
            args.extend(more);
            let mut theirs = top(&tool(&args, &file)?)?;
            let mut ours: Vec<(String, i64, i64)> = rows(&profile, by, index)
                .iter()
                .map(|r| {
                    let name = format!("{} {}", r.site.function, r.site.position());
                    (name.trim().to_owned(), r.flat[index], r.cumulative[index])
                })
                .collect();
            ensure!(ours.len() >= 9, "{ours:?}");
            theirs.sort();
            ours.sort();
            ensure!(ours == theirs, "{by:?}, {kind}:\n{ours:#?}\npprof:\n{theirs:#?}");
        }
    }
    std::fs::remove_file(file)?;
    Ok(())
}

#[test]
fn raw_prints_our_samples_and_inlined_lines() -> Result<()> {
    let profile = profile();
    let file = written(&profile, "raw")?;
    let text = tool(&["-raw"], &file)?;
    for expected in [
        "PeriodType: space bytes",
        "Period: 524288",
        "inuse_objects/count inuse_space/bytes",
        "/nowhere/service",
        "[FN][FL][LN][IN]",
    ] {
        ensure!(text.contains(expected), "no {expected}:\n{text}");
    }
    // `          5     512345: 3 5`
    let samples: Vec<Vec<i64>> = text
        .lines()
        .skip_while(|l| !l.starts_with("inuse_objects"))
        .skip(1)
        .take_while(|l| !l.starts_with("Locations"))
        .map(|l| {
            let values = l.split(':').next().unwrap_or_default().split_whitespace();
            values.filter_map(|v| v.parse().ok()).collect()
        })
        .collect();
    let ours: Vec<Vec<i64>> = profile.samples().iter().map(|s| s.values.to_vec()).collect();
    ensure!(samples == ours, "{samples:?}\n{text}");
    // Three lines at one address; the address stands at the first.
    let at = text.find("0x401020").context("the address with inlined calls")?;
    let lines: Vec<&str> = text[at..].lines().take(3).collect();
    for (line, function) in lines.iter().zip(["main.inner", "main.middle", "main.outer"]) {
        ensure!(line.contains(function), "{function}: {lines:#?}");
    }
    std::fs::remove_file(file)?;
    Ok(())
}

#[test]
fn a_profile_without_mappings_is_read_too() -> Result<()> {
    let mut profile = profile();
    profile.mappings.clear();
    let file = written(&profile, "bare")?;
    let text = tool(&["-top"], &file)?;
    ensure!(text.contains("main.(*T).Method"), "{text}");
    std::fs::remove_file(file)?;
    Ok(())
}
