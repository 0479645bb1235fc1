//! What counts as a leak for the exit code. Must not know how leaks are found.

use super::judge::{Findings, GoroutineVerdict, Judgement, Rate, SiteVerdict};
use crate::cli::FailOn;

/// What counts.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Limits {
    /// Which findings.
    pub fail_on: FailOn,
    /// Least growth of a site's bytes, a minute.
    pub min_growth: f64,
    /// Least growth of a creation site's goroutines, a minute.
    pub min_goroutines: f64,
}

impl Limits {
    fn is_wanted(&self, judgement: Judgement) -> bool {
        match self.fail_on {
            FailOn::None => false,
            FailOn::Suspect => matches!(judgement, Judgement::Leak | Judgement::Suspect),
            FailOn::Any | FailOn::Heap | FailOn::Goroutines => judgement == Judgement::Leak,
        }
    }

    /// Whether a place that allocates counts.
    pub fn counts_site(&self, site: &SiteVerdict) -> bool {
        self.fail_on != FailOn::Goroutines
            && self.is_wanted(site.judgement)
            && is_at_least(site.rate, self.min_growth)
    }

    /// Whether a creation site of goroutines counts.
    pub fn counts_goroutines(&self, site: &GoroutineVerdict) -> bool {
        self.fail_on != FailOn::Heap
            && self.is_wanted(site.judgement)
            && is_at_least(site.evidence.rate, self.min_goroutines)
    }

    /// How many findings count.
    pub fn count(&self, findings: &Findings) -> u64 {
        let sites = findings.sites.iter().filter(|s| self.counts_site(s)).count();
        let goroutines = findings.goroutines.iter().filter(|g| self.counts_goroutines(g)).count();
        (sites + goroutines) as u64
    }
}

fn is_at_least(rate: Option<Rate>, least: f64) -> bool {
    rate.is_some_and(|rate| rate.value >= least)
}
