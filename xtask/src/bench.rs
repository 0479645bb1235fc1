//! The speed of analysis and of exports: how long the real binary takes to report on recordings of a made-up busy
//! machine, and to write each export of the last of them, on one CPU, and how much memory. The best of several runs counts, because whatever else runs can only
//! add to it.

use std::fs::File;
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};
use clap::Args;
use g211s_tests::{kernel, proc};
use nix::libc;

use crate::{setup, toolchain};

#[derive(Args)]
pub(crate) struct Options {
    /// Sizes of the recordings, in millions of events
    #[arg(long, value_delimiter = ',', default_value = "1,3,10")]
    millions: Vec<u64>,
    /// Runs of each
    #[arg(long, default_value_t = 3)]
    runs: u32,
    /// Leave the exports out
    #[arg(long)]
    no_exports: bool,
}

/// What a report may take per million events: 3 s for ten millions.
const BAR_SECONDS: f64 = 0.3;
/// What a report may hold at most, MB.
const BAR_MB: f64 = 500.0;
/// How much dearer an event of the largest recording may be than one of the smallest.
const BAR_GROWTH: f64 = 1.2;

/// What one run took.
#[derive(Clone, Copy)]
struct Took {
    seconds: f64,
    mb: f64,
}

pub(crate) fn run(options: &Options) -> Result<()> {
    setup::run(setup::Purpose::Build)?;
    let binary = toolchain::build_binary()?;
    let example = ["build", "--release", "--package", "g211s-userspace", "--example", "synthetic"];
    toolchain::run_cargo(&example)?;
    let release = g211s_tests::target_dir().join("release");
    let folder = g211s_tests::target_dir().join("bench");
    std::fs::create_dir_all(&folder)?;
    println!("bench: g211s report FILE --json on one CPU, best of {} runs", options.runs);
    println!(
        "{:>12} {:>9} {:>12} {:>10} {:>8} {:>12}",
        "events", "file", "bytes/event", "CPU time", "memory", "events/s"
    );
    let mut each = Vec::new();
    let mut missed = Vec::new();
    for millions in &options.millions {
        let events = millions * 1_000_000;
        let file = folder.join(format!("{millions}m.g211s"));
        let mut make = Command::new(release.join("examples/synthetic"));
        let made = make.arg(events.to_string()).arg(&file).status().context("synthetic")?;
        ensure!(made.success(), "the recording could not be made");
        let bytes = std::fs::metadata(&file)?.len() as f64;
        let best = best(options.runs, &binary, &file, &[])?;
        println!(
            "{events:>12} {:>6.1} MB {:>12.2} {:>8.2} s {:>5.0} MB {:>12.0}",
            bytes / 1e6,
            bytes / events as f64,
            best.seconds,
            best.mb,
            events as f64 / best.seconds
        );
        each.push(best.seconds / *millions as f64);
        if best.seconds > BAR_SECONDS * *millions as f64 {
            missed.push(format!("{millions} million events take {:.2} s", best.seconds));
        }
        if best.mb > BAR_MB {
            missed.push(format!("{millions} million events take {:.0} MB", best.mb));
        }
        if options.millions.last() == Some(millions) && !options.no_exports {
            missed.extend(exports(options.runs, &binary, &file, &folder, events)?);
        }
        std::fs::remove_file(&file)?;
    }
    if let [first, .., last] = each[..] {
        let growth = last / first;
        println!("bench: an event of the last costs {growth:.2} times one of the first");
        if growth > BAR_GROWTH {
            missed.push(format!("events get dearer: {growth:.2} times"));
        }
    }
    ensure!(missed.is_empty(), "too slow: {}", missed.join("; "));
    Ok(())
}

/// Each export of a recording, with the report; what took too much memory.
fn exports(
    runs: u32,
    binary: &Path,
    file: &Path,
    folder: &Path,
    events: u64,
) -> Result<Vec<String>> {
    let mut missed = Vec::new();
    for option in ["--perfetto", "--pprof", "--csv", "--parquet"] {
        let out = folder.join(format!("export{option}"));
        let path = out.to_str().context("a path that is no text")?;
        let took = best(runs, binary, file, &[option, path])?;
        let bytes = if out.is_dir() {
            let sizes = std::fs::read_dir(&out)?.map(|e| Ok(e?.metadata()?.len()));
            let total: Result<u64> = sizes.sum();
            std::fs::remove_dir_all(&out)?;
            total?
        } else {
            let size = std::fs::metadata(&out)?.len();
            std::fs::remove_file(&out)?;
            size
        };
        println!(
            "{option:>12} {:>6.1} MB {:>12.2} {:>8.2} s {:>5.0} MB {:>12.0}",
            bytes as f64 / 1e6,
            bytes as f64 / events as f64,
            took.seconds,
            took.mb,
            events as f64 / took.seconds
        );
        if took.mb > BAR_MB {
            missed.push(format!("{option} takes {:.0} MB", took.mb));
        }
    }
    Ok(missed)
}

/// The best of several runs.
fn best(runs: u32, binary: &Path, file: &Path, more: &[&str]) -> Result<Took> {
    let mut best = report(binary, file, more)?;
    for _ in 1..runs {
        let took = report(binary, file, more)?;
        best = Took { seconds: best.seconds.min(took.seconds), mb: best.mb.max(took.mb) };
    }
    Ok(best)
}

/// One report, its output thrown away.
fn report(binary: &Path, file: &Path, more: &[&str]) -> Result<Took> {
    let cpu = proc::cpus()?.first().copied().unwrap_or(0).to_string();
    let mut command: Command = kernel::tool("taskset")?;
    command.args(["-c", &cpu]).arg(binary).arg("report").arg(file).arg("--json").args(more);
    let child = command
        .stdin(Stdio::null())
        .stdout(File::create("/dev/null")?)
        .spawn()
        .context("taskset")?;
    let mut status = 0;
    // SAFETY: all zeros is a valid `rusage`, which is made of integers.
    let mut usage: libc::rusage = unsafe { std::mem::zeroed() };
    // SAFETY: both pointers are to our own, and the child is ours and not waited for by anyone else.
    let reaped = unsafe { libc::wait4(child.id() as i32, &raw mut status, 0, &raw mut usage) };
    ensure!(reaped == child.id() as i32 && status == 0, "the report failed ({status})");
    let seconds = |t: libc::timeval| t.tv_sec as f64 + t.tv_usec as f64 / 1e6;
    Ok(Took {
        seconds: seconds(usage.ru_utime) + seconds(usage.ru_stime),
        mb: usage.ru_maxrss as f64 * 1024.0 / 1e6,
    })
}
