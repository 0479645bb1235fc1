//! GC truth: every cycle that the runtime's own trace tells of is seen, none is invented, and the
//! stops are as long as the trace says.
//!
//! What each boundary includes. Both of gctrace's stops begin just before `stopTheWorldWithSema` is
//! called; a stop of ours begins in that function, so a little later. The sweep-termination stop
//! ends for gctrace inside `startTheWorldWithSema`, when the processors run again; the
//! mark-termination stop ends for it at `work.tEnd`, before that function is called (see
//! `truth::gctrace`). A length that is meant to be gctrace's has to end there as well.

use std::time::Duration;

use anyhow::{Result, ensure};
use g211s_tests::agent::Attach;
use g211s_tests::service::Launch;
use g211s_tests::stats::quantile;
use g211s_tests::truth::gctrace;
use g211s_tests::{go, needs_kernel, run_all};

/// The trace prints a cycle's start cut to a millisecond, and its clock's zero is found to about
/// another one; cycles are tens of milliseconds apart.
const TOLERANCE_NS: u64 = 4_000_000;

/// Share of an allowance that a stop's length uses up: 10 µs + 5 % at the median.
fn excess(error_ns: u64, truth_ns: u64) -> f64 {
    error_ns as f64 / (10_000.0 + 0.05 * truth_ns as f64)
}

fn check(version: &str) -> Result<()> {
    let seconds = if run_all() { 30 } else { 12 };
    let service = Launch::new("gcstorm", version).env("GODEBUG", "gctrace=1").cpus(&[]).start()?;
    let running = Attach::new(service.pid(), Duration::from_secs(seconds)).start()?;
    let report = running.report()?;
    let done = service.stop()?;

    let (from, to) = report.window()?;
    let told = gctrace::cycles(&done.lines);
    let init = gctrace::init_ns(&told)?;
    let ours = report.cycles()?;
    let starts: Vec<u64> = told.iter().map(|c| init + c.at_ns).collect();
    let seen: Vec<u64> = ours.iter().map(|c| c.start_ns).collect();
    let found = gctrace::match_starts(&starts, &seen, TOLERANCE_NS);

    // A cycle belongs to the window if it lies in it as a whole; one that an edge cuts through may
    // be reported or not.
    let inside = |i: &&usize| {
        let end = starts[**i] + told[**i].mark.ns + told[**i].mark_term.ns;
        starts[**i] > from + TOLERANCE_NS && end + 2 * TOLERANCE_NS < to
    };
    let missed: Vec<_> = found.missed.iter().filter(inside).map(|&i| told[i]).collect();
    let invented: Vec<_> = found.invented.iter().map(|&j| ours[j]).collect();
    ensure!(missed.is_empty(), "missed {} of {}, first {:?}", missed.len(), told.len(), missed[0]);
    ensure!(invented.is_empty(), "invented {}, first {:?}", invented.len(), invented[0]);
    let least = 6 * seconds as usize;
    ensure!(found.pairs.len() >= least, "{} cycles in {seconds} s: no storm", found.pairs.len());

    let (mut errors, mut excesses) = (Vec::new(), Vec::new());
    for &(i, j) in &found.pairs {
        for (truth, measured) in
            [(told[i].sweep_term, ours[j].sweep_term_ns), (told[i].mark_term, ours[j].mark_term_ns)]
        {
            let Some(measured) = measured else { continue };
            let error = truth.error_ns(measured);
            errors.push(error as f64);
            excesses.push(excess(error, truth.ns));
        }
    }
    println!(
        "Go {version}: {} cycles matched; {} stops: error median {:.0} ns, p99 {:.0} ns, max {:.0} ns",
        found.pairs.len(),
        errors.len(),
        quantile(&errors, 0.5),
        quantile(&errors, 0.99),
        quantile(&errors, 1.0),
    );
    ensure!(errors.len() >= 2 * least * 9 / 10, "only {} stops have a length", errors.len());
    ensure!(quantile(&excesses, 0.5) <= 1.0, "median beyond 10 µs + 5 %");
    ensure!(quantile(&errors, 0.99) <= 100_000.0, "p99 beyond 100 µs");
    ensure!(
        report.number("/gc/count")? == ours.len() as u64,
        "gc.count is not the number of cycles"
    );
    Ok(())
}

/// The lengths are those of a machine that others use as well: one repetition is allowed.
fn check_twice(version: &str) -> Result<()> {
    check(version).or_else(|first| {
        println!("repeated once because of: {first:#}");
        check(version)
    })
}

#[test]
fn go_1_27() -> Result<()> {
    needs_kernel!();
    check_twice(go::NEW)
}

#[test]
fn go_1_21() -> Result<()> {
    needs_kernel!();
    check_twice(go::OLD)
}
