//! Programs that leak do, by what they say and by the memory that the kernel has for them; those that do
//! not, do not; and each says where. `g211s leaks` names each leak by its line, and calls nothing else one.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use g211s::analysis::trend::{Because, Point, Verdict, verdict};
use g211s_tests::go::{self, Mode};
use g211s_tests::leaks::{HEALTHY, Heap, LEAKS, Leak, Search, Told, Truth, launch};
use g211s_tests::service::Service;
use g211s_tests::{needs_kernel, run_all};

/// Twice as fast as by default, so that 30 collections take 15 s.
const FASTER: [&str; 8] = ["-gc", "500ms", "-warm", "500ms", "-rate", "2048", "-period", "8s"];

fn rss_bytes(pid: u32) -> Result<u64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find_map(|l| l.strip_prefix("VmRSS:")).context("no VmRSS")?;
    let kb: u64 = line.trim().trim_end_matches(" kB").trim().parse()?;
    Ok(kb * 1024)
}

/// The line that the program told is one of its sources that makes something.
fn is_a_line(leak: &Leak) -> Result<()> {
    let name = leak.truth.file.rsplit('/').next().context("no file")?;
    let path = g211s_tests::root().join("tests/workloads/leaks").join(name);
    let source = std::fs::read_to_string(&path)?;
    let line = source.lines().nth(leak.truth.line as usize - 1).context("no such line")?;
    ensure!(line.contains("here(") || line.contains("here2("), "{:?}: {line}", leak.truth);
    ensure!(leak.truth.function.starts_with("main."), "{:?}", leak.truth);
    Ok(())
}

fn grows(heaps: &[Heap]) -> Verdict {
    let point = |h: &Heap| Point {
        gc: h.gc.into(),
        time_ns: (h.seconds * 1e9) as u64,
        bytes: h.live as f64,
        standard_error: 0.0,
    };
    verdict(&heaps.iter().map(point).collect::<Vec<_>>(), None, 0.001)
}

fn all_kinds(version: &str) -> Result<()> {
    let mut running = Vec::new();
    for kind in LEAKS.into_iter().chain(HEALTHY) {
        let more: &[&str] = if kind == "step" { &["-warm", "0s"] } else { &[] };
        let args: Vec<&str> = FASTER.iter().chain(more).copied().collect();
        let leak = Leak::start(kind, version, 7, &args)?;
        let rss = rss_bytes(leak.service.pid())?;
        running.push((kind, leak, rss));
    }
    std::thread::sleep(Duration::from_secs(20));
    for (kind, leak, rss) in running {
        let rss = rss_bytes(leak.service.pid())?.saturating_sub(rss);
        let heaps = leak.heaps()?;
        let truth = leak.truth.clone();
        is_a_line(&leak)?;
        drop(leak);
        ensure!(truth.kind == kind && truth.leaks == LEAKS.contains(&kind), "{truth:?}");
        ensure!(heaps.len() >= 20, "{kind}: {} collections", heaps.len());
        let (first, last) = (heaps[2], heaps[heaps.len() - 1]);
        let (held, live) =
            (last.held.saturating_sub(first.held) as f64, last.live as f64 - first.live as f64);
        let verdict = grows(&heaps[2..]);
        println!(
            "Go {version}, {kind}: {} collections; holds {:.1} MB more, has {:.1} MB more on its heap, {:.1} MB \
             more by the kernel; {verdict:?}",
            heaps.len(),
            held / 1e6,
            live / 1e6,
            rss as f64 / 1e6
        );
        if truth.leaks {
            ensure!(matches!(verdict, Verdict::Growing(_)), "{kind}: {verdict:?}");
            ensure!(held > 10e6, "{kind}: holds {held}");
            // Stacks are not on the heap; of an answer only about how much is kept is known.
            let ratio = live / held;
            ensure!((0.4..1.6).contains(&ratio), "{kind}: {live} of {held}");
            ensure!(
                rss as f64 > 0.5 * live,
                "{kind}: {rss} more by the kernel, {live} on the heap"
            );
        } else {
            let Verdict::NotGrowing { because, .. } = verdict else {
                anyhow::bail!("{kind}: {verdict:?}");
            };
            let right: &[Because] = match kind {
                // A cache that fills in a tenth of the time is a step.
                "step" | "cache" => &[Because::Step, Because::Stopped, Because::NoTrend],
                _ => &[Because::Falls, Because::NoTrend],
            };
            ensure!(right.contains(&because), "{kind}: {because:?}");
            let most = heaps.iter().map(|h| h.held).max().unwrap_or(0);
            ensure!(most > 5_000_000, "{kind}: never held more than {most}");
        }
    }
    Ok(())
}

#[test]
fn each_kind_does_what_it_says_go_1_27() -> Result<()> {
    all_kinds(go::NEW)
}

#[test]
fn each_kind_does_what_it_says_go_1_21() -> Result<()> {
    all_kinds(go::OLD)
}

#[test]
fn other_versions_build_it() -> Result<()> {
    let more: &[&str] = if run_all() { &go::OTHERS } else { &[] };
    for version in [go::MIDDLE].iter().chain(more) {
        go::build("leaks", version, Mode::Stripped)?;
    }
    Ok(())
}

/// Without pprof the linker drops the runtime's own memory profile, which is what this is for.
#[test]
fn the_profile_is_not_linked() -> Result<()> {
    for version in [go::OLD, go::NEW] {
        let file = go::build("leaks", version, Mode::Plain)?;
        let bytes = std::fs::read(file)?;
        let has = |name: &[u8]| bytes.windows(name.len()).any(|w| w == name);
        ensure!(has(b"runtime.mallocgc"), "Go {version}: no symbols");
        let profile = has(b"runtime.memProfileInternal") || has(b"runtime.MemProfile\0");
        ensure!(!profile, "Go {version}: the profile is linked");
    }
    Ok(())
}

/// How long a search lasts: about 20 collections, one a second.
const SEARCH: Duration = Duration::from_millis(18_500);
/// Collections that it sees at most: attaching takes a moment, and longer on a busy machine.
const CYCLES: u64 = 23;

/// A program that is searched.
struct Searched {
    kind: &'static str,
    service: Service,
    truth: Option<Truth>,
    search: Search,
}

/// All kinds at once, each searched from the moment it begins to leak, and healthy ones from `late` seconds after their
/// start; what was called wrongly.
fn trial(version: &str, seed: u32, late: u64, more: &[&str]) -> Result<Vec<String>> {
    let mut healthy = Vec::new();
    for kind in HEALTHY {
        healthy.push((kind, launch(kind, version, seed, &[])?));
    }
    let mut searched = Vec::new();
    for kind in LEAKS {
        let Leak { service, truth } = Leak::start(kind, version, seed, &["-warm", "500ms"])?;
        let search = Search::start(service.pid(), SEARCH, more)?;
        searched.push(Searched { kind, service, truth: Some(truth), search });
    }
    std::thread::sleep(Duration::from_secs(late));
    for (kind, service) in healthy {
        let search = Search::start(service.pid(), SEARCH, more)?;
        searched.push(Searched { kind, service, truth: None, search });
    }
    let mut wrong = Vec::new();
    for Searched { kind, service, truth, search } in searched {
        let told = search.finish(SEARCH + Duration::from_secs(40))?;
        drop(service);
        let what = said(&told);
        println!("Go {version}, {kind}, seed {seed}, {late} s: {what}");
        let cycles = told.document["run"]["gc_cycles"].as_u64().context("no cycles")?;
        ensure!(cycles <= CYCLES, "{cycles} collections");
        let others = told.others(truth.as_ref());
        if !others.is_empty() {
            wrong.push(format!("{kind}, seed {seed}: a false alarm: {others:?}"));
        }
        match truth {
            Some(truth) if !told.names(&truth) => {
                let folder = g211s_tests::target_dir().join("leaks");
                std::fs::create_dir_all(&folder)?;
                let file = folder.join(format!("{version}-{kind}-{seed}.json"));
                std::fs::write(&file, serde_json::to_vec_pretty(&told.document)?)?;
                println!("what it told is in {}", file.display());
                wrong.push(format!("{kind}, seed {seed}: not named: {truth:?}, but {what}"));
            }
            Some(_) => ensure!(told.code == 3, "{kind}: exit code {}", told.code),
            None => ensure!(others.is_empty() == (told.code == 0), "{kind}: {}", told.code),
        }
    }
    Ok(wrong)
}

/// What a search said, in short.
fn said(told: &Told) -> String {
    let d = &told.document;
    let leaks: Vec<String> = told.leaks().into_iter().map(|(place, _)| place).collect();
    format!(
        "{} cycles, heap {} ({}), {} unexplained, attached {:.0}% for {:.2}% of its CPU time; {leaks:?}",
        d["run"]["gc_cycles"],
        d["heap"]["left"]["verdict"],
        d["heap"]["left"]["because"],
        d["heap"]["unexplained_share"]
            .as_f64()
            .map_or("-".to_owned(), |x| format!("{:.0}%", x * 100.0)),
        d["sources"]["followed"]["observed_share"].as_f64().unwrap_or(0.0) * 100.0,
        d["sources"]["followed"]["cost_share"].as_f64().unwrap_or(0.0) * 100.0,
    )
}

fn leaks_are_named(version: &str) -> Result<()> {
    if !run_all() {
        let wrong = trial(version, 3, 0, &[])?;
        if wrong.is_empty() {
            return Ok(());
        }
        // A machine that stands still for seconds looks like a program that does.
        println!("once more, because of {wrong:?}");
        let wrong = trial(version, 4, 0, &[])?;
        ensure!(wrong.is_empty(), "{wrong:?}");
        return Ok(());
    }
    let mut wrong = Vec::new();
    for seed in 0..10_u32 {
        // A cache is full after 8 s, a table is loaded after 10, load has come and gone after 20.
        wrong.extend(trial(version, seed + 10, u64::from(seed) * 2, &[])?);
    }
    println!("Go {version}: {} of 110 wrong: {wrong:#?}", wrong.len());
    ensure!(wrong.is_empty(), "{wrong:#?}");
    Ok(())
}

#[test]
fn leaks_are_named_go_1_27() -> Result<()> {
    needs_kernel!();
    leaks_are_named(go::NEW)
}

#[test]
fn leaks_are_named_go_1_21() -> Result<()> {
    needs_kernel!();
    leaks_are_named(go::OLD)
}
