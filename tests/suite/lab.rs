//! The fault laboratory, two short trials a scenario: the cause that was injected is the one that is
//! named, and nobody is accused of what did not happen. `cargo xtask lab all --trials 30` is the
//! long form.
//!
//! Verdicts are judged over pauses that were certainly affected, by measurement, so a slow machine
//! leaves fewer of them and does not make them wrong.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use g211s_tests::lab::scenarios;
use g211s_tests::lab::table::{self, Row};
use g211s_tests::lab::trial::{self, Setting};
use g211s_tests::{needs_kernel, run_all, skip};

/// At least this share of affected pauses must be named rightly. Two short trials may have as few
/// as ten of them, so that one that is wrong is allowed where there are few.
const RIGHT: f64 = 0.95;
/// At most this share of quiet pauses may hold an accusation that nothing confirms.
const FALSE: f64 = 0.02;

fn judge(name: &str) -> Result<()> {
    needs_kernel!();
    let scenario = scenarios::named(name).context("no such scenario")?;
    if let Err(why) = (scenario.possible)() {
        skip!("{why:#}");
    }
    let mut row = Row { name: scenario.name, trials: Vec::new(), skipped: None };
    for seed in 1..=if run_all() { 30 } else { 2 } {
        let setting = Setting { seed, window: Duration::from_secs(2) };
        row.trials.push(trial::run(scenario, setting)?);
    }
    let summary = row.summary();
    println!("{}", table::markdown(std::slice::from_ref(&row)));
    for trial in row.trials.iter().filter(|t| t.not_injected > 0) {
        println!(
            "seed {}: in {} attempts nothing was injected that affected a pause ({}; {} injections)",
            trial.seed, trial.not_injected, trial.how, trial.injections
        );
    }
    ensure!(summary.trials > 0, "this machine let nothing be injected that affected a pause");
    let wrong: Vec<_> = row.trials.iter().flat_map(|t| &t.pauses).filter(|p| !p.right).collect();
    let allowed = ((1.0 - RIGHT) * summary.affected as f64).ceil() as usize;
    ensure!(wrong.len() <= allowed, "{} of {} wrong: {wrong:#?}", wrong.len(), summary.affected);
    let unconfirmed: Vec<_> = row
        .trials
        .iter()
        .filter_map(|t| t.accusations.as_ref())
        .flat_map(|a| &a.unconfirmed)
        .collect();
    ensure!(
        unconfirmed.len() as f64 <= FALSE * summary.quiet as f64,
        "accusations in {} pauses that nothing confirms: {unconfirmed:#?}",
        summary.quiet
    );
    Ok(())
}

#[test]
fn a_cpu_hog_is_named() -> Result<()> {
    judge("cpu-hog")
}

#[test]
fn a_quota_is_named() -> Result<()> {
    judge("cfs-quota")
}

#[test]
fn page_faults_are_named() -> Result<()> {
    judge("page-faults")
}

#[test]
fn code_without_preemption_points_is_named() -> Result<()> {
    judge("non-preemptible")
}

#[test]
fn a_stop_by_signal_is_named() -> Result<()> {
    judge("sigstop")
}

#[test]
fn a_system_call_that_keeps_its_p_is_named() -> Result<()> {
    judge("blocked-syscalls")
}

#[test]
fn ps_held_in_system_calls_are_named() -> Result<()> {
    judge("held-ps")
}

#[test]
fn mark_assists_are_named() -> Result<()> {
    judge("assist")
}

#[test]
fn a_flood_of_goroutines_is_named() -> Result<()> {
    judge("goroutine-flood")
}

#[test]
fn a_slow_peer_is_no_fault() -> Result<()> {
    judge("slow-peer")
}

#[test]
fn nobody_is_accused_when_nothing_is_wrong() -> Result<()> {
    judge("healthy")
}
