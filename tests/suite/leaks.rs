//! Programs that leak do, by what they say and by the memory that the kernel has for them; those that do
//! not, do not; and each says where.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use g211s::analysis::trend::{Because, Point, Verdict, verdict};
use g211s_tests::go::{self, Mode};
use g211s_tests::leaks::{HEALTHY, Heap, LEAKS, Leak};
use g211s_tests::run_all;

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
