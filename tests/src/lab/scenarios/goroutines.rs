//! What goroutines feel outside of stops of the world. Nobody outside can tell for each of their waits
//! what it was, so a trial is one verdict: whether the report names what the workload or the runtime says
//! was there, and whether each wait that it lists is one that the workload's clock has seen too.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use anyhow::Result;

use super::{observe, wait};
use crate::lab::judge::{LEAST_NS, Pause, Truth, What};
use crate::lab::label;
use crate::lab::slow_file::SlowFile;
use crate::lab::span::{Span, union};
use crate::lab::target::{self, Logged, Undisturbed};
use crate::lab::trial::{Observed, Setting};
use crate::report::{Report, Wait};

/// The workload's clock is read a little inside of what it measures.
const EDGE_NS: u64 = 100_000;

/// Goroutines allocate faster than the collector can mark. The runtime tells how much they had to assist.
pub(super) fn assist(setting: Setting) -> Result<Observed> {
    let launch = target::launch("storm", setting.seed)
        .args(&["-stops", "0", "-count", "4"])
        .env("GOGC", "10")
        .env("GOMAXPROCS", "2");
    let (report, logged) = run(&launch, setting)?;
    let injected = logged.figures.get("assist_cpu_ns").copied().unwrap_or(0).cast_unsigned();
    let seen = by_goroutine(&logged);
    let right = stalls_seen(&report.assist_stalls()?, &seen);
    let seen = seen.into_values().flatten().collect();
    let how = "by the runtime's account of assists, and the clocks of the goroutines that allocate";
    Ok(one(
        report,
        seen,
        injected,
        if right { "mark_assist" } else { label::UNEXPLAINED },
        "mark_assist",
        how,
    ))
}

/// More goroutines are ready than can run. The workload's clock tells how long they waited.
pub(super) fn flood(setting: Setting) -> Result<Observed> {
    let launch = target::launch("flood", setting.seed)
        .args(&["-stops", "0", "-count", "4000", "-last", "100us", "-every", "20ms"])
        .env("GOMAXPROCS", "1");
    // Only undisturbed do threads get the CPUs that they want; with one P it leaves one for others.
    let target = Undisturbed::start(&launch)?;
    // The runtime's counters are read once a second, and a verdict wants several of them.
    let window = setting.window.max(Duration::from_secs(5));
    let report = observe(target.pid(), window, || Ok(()))?;
    let logged = target.end()?;
    let injected = logged.figures.get("longest_wait_ns").copied().unwrap_or(0).cast_unsigned();
    let verdict = report.saturation()?;
    let how = "by the clocks of the goroutines that waited";
    let figures = report.saturation_figures()?;
    let mut observed =
        one(report, logged.of_kind("flood"), injected, &verdict, "by_its_own_goroutines", how);
    // Told with a wrong verdict.
    observed.pauses.iter_mut().for_each(|p| p.causes.clone_from(&figures));
    Ok(observed)
}

/// Goroutines read the slow file by ordinary system calls. Their own clock tells when they were in them.
pub(super) fn held_ps(setting: Setting) -> Result<Observed> {
    let file = SlowFile::serve(setting.seed, wait::FROM, wait::TO)?;
    let launch = target::launch("retake", setting.seed)
        .args(&["-file", &file.path().to_string_lossy(), "-stops", "0", "-busy", "1"])
        .args(&["-count", "3", "-every", "5ms"])
        .env("GOMAXPROCS", "2");
    let (report, logged) = run(&launch, setting)?;
    let seen = logged.of_kind("read");
    let held = report.ps_held_in_syscalls()?;
    let injected = seen.iter().map(Span::len_ns).max().unwrap_or(0);
    let right = !held.is_empty() && all_seen(&held, &seen);
    let how = "by the clocks of the goroutines that read";
    Ok(one(
        report,
        seen,
        injected,
        if right { "p_held" } else { label::UNEXPLAINED },
        "p_held",
        how,
    ))
}

fn run(launch: &crate::service::Launch, setting: Setting) -> Result<(Report, Logged)> {
    let target = launch.start()?;
    let report = observe(target.pid(), setting.window, || Ok(()))?;
    // What began within the window shall be in the log.
    std::thread::sleep(Duration::from_millis(100));
    Ok((report, target::end(target)?))
}

/// The allocations that took long, by the number of the goroutine.
fn by_goroutine(logged: &Logged) -> BTreeMap<u64, Vec<Span>> {
    let of = |(kind, spans): (&String, &Vec<Span>)| {
        Some((kind.strip_prefix("allocation-")?.parse().ok()?, spans.clone()))
    };
    logged.spans.iter().filter_map(of).collect()
}

/// Whether each stall of a goroutine that has a clock lies within something that this very goroutine logged.
///
/// One more may be stalled that has none: in Go 1.23 and 1.24 the runtime starts a goroutine that cleans `unique`'s maps up
/// after each cycle, and allocates (Go `src/unique/handle.go`, `registerCleanup`). Nothing else in the program allocates.
fn stalls_seen(stalls: &[Wait], seen: &BTreeMap<u64, Vec<Span>>) -> bool {
    let (clocked, others): (Vec<&Wait>, Vec<&Wait>) =
        stalls.iter().partition(|w| w.goid.is_some_and(|id| seen.contains_key(&id)));
    let strangers: BTreeSet<Option<u64>> = others.iter().map(|w| w.goid).collect();
    let all = clocked
        .iter()
        .all(|w| w.goid.and_then(|id| seen.get(&id)).is_some_and(|own| all_seen(&[**w], own)));
    all && others.len() < clocked.len() && strangers.len() <= 1 && !strangers.contains(&None)
}

/// Whether each wait lies within something that the workload logged.
fn all_seen(waits: &[Wait], seen: &[Span]) -> bool {
    waits.iter().all(|w| {
        let (from, to) = (w.start_ns + EDGE_NS, (w.start_ns + w.ns).saturating_sub(EDGE_NS));
        seen.iter().any(|s| s.from_ns <= from && to <= s.to_ns)
    })
}

/// A trial of one verdict, which counts if enough was injected.
fn one(
    report: Report,
    seen: Vec<Span>,
    injected_ns: u64,
    named: &str,
    means: &'static str,
    how: &str,
) -> Observed {
    let (from, to) = report.window().unwrap_or_default();
    let pause = Pause {
        what: What::Goroutines,
        start_ns: from,
        total_ns: to - from,
        injected_ns,
        named: named.to_owned(),
        right: named == means,
        causes: BTreeMap::new(),
        function: None,
    };
    let truth = Truth { spans: union(seen), means: vec![means], ..Truth::default() };
    let pauses = Some(pause).filter(|p| p.injected_ns >= 5 * LEAST_NS).into_iter().collect();
    Observed { report, truth, pauses, accusations: None, how: how.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wait_that_the_workload_has_not_seen_is_noticed() {
        let seen = [Span::new(1_000_000, 5_000_000)];
        let wait = |start_ns, ns| Wait { start_ns, ns, goid: None };
        assert!(all_seen(&[wait(950_000, 4_100_000)], &seen));
        assert!(!all_seen(&[wait(950_000, 4_100_000), wait(4_000_000, 3_000_000)], &seen));
    }

    #[test]
    fn a_stall_is_looked_for_in_its_own_goroutine() {
        let seen: BTreeMap<u64, Vec<Span>> =
            [(7, vec![Span::new(1_000_000, 5_000_000)]), (8, vec![])].into();
        let stall = |goid| Wait { start_ns: 1_000_000, ns: 4_000_000, goid };
        let ok = |ids: &[Option<u64>]| {
            stalls_seen(&ids.iter().map(|id| stall(*id)).collect::<Vec<_>>(), &seen)
        };
        assert!(ok(&[Some(7)]) && ok(&[Some(7), Some(7), Some(2)]));
        assert!(!ok(&[]), "nothing told");
        assert!(!ok(&[Some(7), Some(8)]), "not that goroutine");
        assert!(!ok(&[Some(7), Some(2)]), "mostly of whom nobody knows");
        assert!(!ok(&[Some(7), Some(7), Some(7), Some(2), Some(3)]), "two such");
        assert!(!ok(&[Some(7), Some(7), None]), "nobody's");
    }
}
