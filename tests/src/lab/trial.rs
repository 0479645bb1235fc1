//! Trials: a scenario run with a seed, again with further seeds where the machine did not let us
//! inject anything. How much was injected is measured, so a slow machine is no wrong verdict.

use std::time::Duration;

use anyhow::Result;

use super::accuse::Accusations;
use super::judge::{Pause, Truth};
use super::scenarios::Scenario;
use crate::report::Report;

/// How often a trial is made at most.
const ATTEMPTS: u64 = 3;

/// How a scenario is to be run.
#[derive(Clone, Copy, Debug)]
pub struct Setting {
    /// Settles moments, lengths, and what the scenario varies.
    pub seed: u64,
    /// How long g211s observes.
    pub window: Duration,
}

/// What a scenario gives back.
#[derive(Debug)]
pub struct Observed {
    /// What g211s says.
    pub report: Report,
    /// What was injected.
    pub truth: Truth,
    /// The pauses that it affected.
    pub pauses: Vec<Pause>,
    /// Of a scenario without a fault: who was accused nevertheless.
    pub accusations: Option<Accusations>,
    /// How the scenario was varied, and who measured what was injected.
    pub how: String,
}

/// A trial that came to a result.
#[derive(Clone, Debug)]
pub struct Trial {
    /// The seed with which it did.
    pub seed: u64,
    /// How it was varied.
    pub how: String,
    /// Attempts in which nothing was injected that affected a pause.
    pub not_injected: u64,
    /// Time injected within the window of observation, ns.
    pub injected_ns: u64,
    /// Intervals injected within it.
    pub injections: usize,
    /// Affected pauses.
    pub pauses: Vec<Pause>,
    /// Stops of the world in all.
    pub stops: usize,
    /// Their time, ns.
    pub stop_ns: u64,
    /// How much of it is unexplained, ns.
    pub unexplained_ns: u64,
    /// Accusations, where there should be none.
    pub accusations: Option<Accusations>,
}

impl Trial {
    /// Whether it says anything about verdicts.
    pub fn counts(&self) -> bool {
        !self.pauses.is_empty() || self.accusations.is_some()
    }

    fn of(observed: Observed, seed: u64) -> Result<Self> {
        let (from, to) = observed.report.window()?;
        let stws = observed.report.stws()?;
        let within: Vec<u64> =
            observed.truth.spans.iter().map(|s| s.touches(from, to)).filter(|&ns| ns > 0).collect();
        Ok(Self {
            seed,
            how: observed.how,
            not_injected: 0,
            injected_ns: within.iter().sum(),
            injections: within.len(),
            pauses: observed.pauses,
            stops: stws.len(),
            stop_ns: stws.iter().map(|s| s.total_ns).sum(),
            unexplained_ns: stws.iter().map(|s| s.unexplained_ns).sum(),
            accusations: observed.accusations,
        })
    }
}

/// Runs a scenario until something was injected, a few times at most; the last attempt's result.
pub fn run(scenario: &Scenario, setting: Setting) -> Result<Trial> {
    let mut attempt = 0;
    loop {
        // Far from the seeds of other trials.
        let seed = setting.seed + 1_000_000 * attempt;
        let mut trial = Trial::of((scenario.run)(Setting { seed, ..setting })?, seed)?;
        attempt += 1;
        trial.not_injected = attempt - u64::from(trial.counts());
        if trial.counts() || attempt == ATTEMPTS {
            return Ok(trial);
        }
    }
}
