//! What is known of the Go runtime from outside: the addresses found in stripped executables against
//! the symbol table of the same build with symbols, and figures read from a running program's memory
//! against what the program says of itself. No root is needed: the programs are children of the test.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::fs::File;
use std::io::Write;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use g211s::go::Binary;
use g211s::go::globals::{Global, Globals};
use g211s::go::offsets::{Offsets, Source};
use g211s::runtime::bias::load_bias;
use g211s::runtime::memory::ProcessMemory;
use g211s::runtime::{Feature, Runtime};
use g211s::target::procfs::Procfs;
use g211s_tests::go::{self, Mode};
use g211s_tests::proc::{Line, Proc};
use g211s_tests::{kernel, run_all};
use object::{Object, ObjectSymbol};
use serde_json::Value;

/// A program that says nothing for so long has failed.
const PATIENCE: Duration = Duration::from_secs(20);

/// The symbols of an executable: Go's own linker's answer.
fn symbols(file: &Path) -> Result<BTreeMap<String, u64>> {
    let bytes = std::fs::read(file).with_context(|| format!("reading {}", file.display()))?;
    let elf = object::File::parse(&*bytes).context("parsing")?;
    Ok(elf.symbols().filter_map(|s| Some((s.name().ok()?.to_owned(), s.address()))).collect())
}

fn load(file: &Path) -> Result<Binary> {
    Ok(Binary::load(File::open(file)?)?)
}

/// The addresses found in both twins are those of the symbol table.
fn globals_are_found(version: &str) -> Result<()> {
    for (plain, stripped) in Mode::TWINS {
        if plain.needs_cc() && kernel::find("gcc").is_none() {
            println!("Go {version}, {}: skipped: no gcc", plain.name());
            continue;
        }
        let truth = symbols(&go::build("runtime", version, plain)?)?;
        for mode in [plain, stripped] {
            let binary = load(&go::build("runtime", version, mode)?)?;
            let offsets = Offsets::for_version(&binary.version);
            ensure!(offsets.source() == &Source::Exact, "{:?}", offsets.source());
            let began = std::time::Instant::now();
            let globals = Globals::find(&binary, &offsets);
            let took = began.elapsed();
            for global in Global::ALL {
                let found = globals.address(global);
                let symbol = truth.get(global.symbol()).copied();
                ensure!(
                    found.ok() == symbol && symbol.is_some(),
                    "Go {version}, {}: {}: found {found:x?}, is {symbol:x?}",
                    mode.name(),
                    global.symbol()
                );
            }
            println!(
                "Go {version}, {}: {} globals right, in {took:.1?}",
                mode.name(),
                Global::ALL.len()
            );
        }
    }
    Ok(())
}

#[test]
fn globals_of_the_newest() -> Result<()> {
    globals_are_found(go::NEW)
}

#[test]
fn globals_of_the_oldest() -> Result<()> {
    globals_are_found(go::OLD)
}

#[test]
fn globals_of_one_between() -> Result<()> {
    globals_are_found(go::MIDDLE)
}

#[test]
fn globals_of_each_minor_version() -> Result<()> {
    if !run_all() {
        // Left out, not impossible: never a failure.
        println!("skipped: needs more Go toolchains; cargo xtask test --all");
        return Ok(());
    }
    go::OTHERS.into_iter().try_for_each(globals_are_found)
}

/// A running program that tells what its own runtime says.
struct Asked {
    proc: Proc,
    answers: usize,
}

impl Asked {
    fn start(binary: &Path) -> Result<Self> {
        let mut proc = Proc::spawn(&mut Command::new(binary))?;
        proc.wait_line(|l| l.text == "ready", PATIENCE)?;
        Ok(Self { proc, answers: 0 })
    }

    /// Its answer, after a collection if that is wanted.
    fn ask(&mut self, line: &str) -> Result<Value> {
        writeln!(self.proc.stdin()?, "{line}")?;
        self.answers += 1;
        let (seen, wanted) = (Cell::new(0), self.answers);
        let nth = |l: &Line| {
            if l.text.starts_with('{') {
                seen.set(seen.get() + 1);
                return seen.get() == wanted;
            }
            false
        };
        let deadline = std::time::Instant::now() + PATIENCE;
        loop {
            seen.set(0);
            if let Some(line) = self.proc.lines().iter().find(|l| nth(l)) {
                return serde_json::from_str(&line.text).context("its answer");
            }
            ensure!(std::time::Instant::now() < deadline, "no answer");
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

fn number(answer: &Value, pointer: &str) -> Result<u64> {
    answer.pointer(pointer).and_then(Value::as_u64).with_context(|| format!("no {pointer}"))
}

/// Name of a runtime/metrics histogram, and where the runtime keeps it; by version.
fn histograms(minor: u32) -> &'static [(&'static str, Global, &'static str, &'static str)] {
    const SCHED: &str = "runtime.schedt";
    if minor < 22 {
        return &[("/gc/pauses:seconds", Global::Memstats, "runtime.mstats", "gcPauseDist")];
    }
    &[
        ("/sched/pauses/total/gc:seconds", Global::Sched, SCHED, "stwTotalTimeGC"),
        ("/sched/pauses/stopping/gc:seconds", Global::Sched, SCHED, "stwStoppingTimeGC"),
    ]
}

/// What is read from outside is what the program says of itself.
fn figures_agree(version: &str, mode: Mode) -> Result<()> {
    let file = go::build("runtime", version, mode)?;
    let binary = load(&file)?;
    let mut asked = Asked::start(&file)?;
    let procfs = Procfs::default();
    let pid = asked.proc.pid();
    let bias = load_bias(&procfs, pid, &binary).map_err(anyhow::Error::msg)?;
    let memory = ProcessMemory::open(&procfs, pid)?;
    let began = std::time::Instant::now();
    let runtime = Runtime::open(memory, &binary, bias);
    let took = began.elapsed();
    let name = format!("Go {version}, {}", mode.name());
    for feature in Feature::ALL {
        if let Err(why) = runtime.usable(feature) {
            anyhow::bail!("{name}: {feature:?}: {why}");
        }
    }
    ensure!(runtime.offsets().differences().is_empty(), "{:?}", runtime.offsets().differences());
    let has_dwarf = binary.has_dwarf;
    ensure!(
        (runtime.offsets().source() == &Source::Dwarf) == has_dwarf,
        "{name}: {:?}",
        runtime.offsets().source()
    );
    for _ in 0..3 {
        let answer = asked.ask("gc")?;
        let mstats = |field| runtime.u64(Global::Memstats, "runtime.mstats", field);
        let of = |field: &str| number(&answer, &format!("/MemStats/{field}"));
        ensure!(mstats("numgc")? == of("NumGC")?, "{name}: numgc");
        ensure!(mstats("pause_total_ns")? == of("PauseTotalNs")?, "{name}: pause_total_ns");
        ensure!(mstats("last_gc_unix")? == of("LastGC")?, "{name}: last_gc_unix");
        ensure!(mstats("numforcedgc")? == of("NumForcedGC")?, "{name}: numforcedgc");
        let controller =
            |field| runtime.u64(Global::GcController, "runtime.gcControllerState", field);
        let goal = number(&answer, "/Metrics/~1gc~1heap~1goal:bytes")?;
        ensure!(goal > 0 && controller("heapMarked")? <= goal, "{name}: the goal is {goal}");
        let in_heap = runtime.heap_stats()?.in_heap;
        let in_use = of("HeapInuse")?;
        ensure!(in_heap.abs_diff(in_use) <= 1 << 20, "{name}: {in_heap} in use, {in_use}");
        let procs = runtime.u32_at(runtime.address(Global::Gomaxprocs)?)?;
        ensure!(u64::from(procs) == number(&answer, "/GOMAXPROCS")?, "{name}: gomaxprocs");
        for (metric, global, strukt, field) in histograms(binary.version.minor) {
            let counts = runtime.histogram(*global, strukt, field)?;
            let path = format!("/Histograms/{}", metric.replace('/', "~1"));
            let told: Vec<u64> = serde_json::from_value(
                answer.pointer(&path).with_context(|| format!("no {metric}"))?.clone(),
            )?;
            ensure!(counts == told, "{name}: {metric}: {counts:?} is not {told:?}");
            ensure!(counts.iter().sum::<u64>() > 0, "{name}: {metric} is empty");
        }
        // Goroutines that are not the runtime's own, counted as `gcount` counts them.
        let all = runtime.address(Global::Allgs)?;
        let len = runtime.u64_at(all + 8)?;
        let mut alive = 0;
        for g in runtime.bytes_at(runtime.u64_at(all)?, len as usize * 8)?.chunks_exact(8) {
            let g = u64::from_le_bytes(g.try_into()?);
            let status = runtime.field_at(g, "runtime.g", "atomicstatus")? & 0xfff;
            let status = runtime.offsets().enum_name("gStatus", status).context("a status")?;
            alive += u64::from(!matches!(status, "_Gidle" | "_Gdead" | "_Gdeadextra"));
        }
        let system = runtime.u64(Global::Sched, "runtime.schedt", "ngsys")?;
        let told = number(&answer, "/NumGoroutine")?;
        // With cgo one more of the runtime's own exists, for threads of C, and is not alive yet
        // (proc.go, `oneNewExtraM`).
        let own = alive + u64::from(binary.cgo) - system;
        ensure!(own == told, "{name}: {alive} - {system} goroutines, {told}");
        let threads = runtime.threads()?.len();
        let there = procfs.threads(pid)?.len();
        ensure!(threads.abs_diff(there) <= 1, "{name}: {threads} threads, {there}");
    }
    println!(
        "{name}: all features usable and right; opened in {took:.1?}; {:?}",
        runtime.memory().counts()
    );
    Ok(())
}

fn figures_agree_in_all_modes(version: &str) -> Result<()> {
    for mode in Mode::TWINS.into_iter().flat_map(|(plain, stripped)| [plain, stripped]) {
        if mode.needs_cc() && kernel::find("gcc").is_none() {
            println!("Go {version}, {}: skipped: no gcc", mode.name());
            continue;
        }
        figures_agree(version, mode)?;
    }
    Ok(())
}

#[test]
fn figures_of_the_newest() -> Result<()> {
    figures_agree_in_all_modes(go::NEW)
}

#[test]
fn figures_of_the_oldest() -> Result<()> {
    figures_agree_in_all_modes(go::OLD)
}

#[test]
fn figures_of_one_between() -> Result<()> {
    figures_agree_in_all_modes(go::MIDDLE)
}

#[test]
fn figures_of_each_minor_version() -> Result<()> {
    if !run_all() {
        // Left out, not impossible: never a failure.
        println!("skipped: needs more Go toolchains; cargo xtask test --all");
        return Ok(());
    }
    go::OTHERS.into_iter().try_for_each(figures_agree_in_all_modes)
}
