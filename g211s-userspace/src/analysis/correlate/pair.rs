//! Two series against each other, at several lags. Must not know what they measure.

use serde::Serialize;

use crate::analysis::stats::{
    Z_95, effective_size, fisher_interval, is_constant, pearson, ranks, spearman,
};

/// Lags searched, in intervals either way.
const MAX_LAG: i32 = 5;
/// Two-sided 95 % point of the normal distribution after Bonferroni's correction for the 11 lags
/// searched: the normal quantile of 1 - 0.05 / 11 / 2.
const Z_SEARCHED: f64 = 2.837_596_912_943_787;
/// With fewer intervals nothing is called significant and no lag is searched.
const MIN_INTERVALS: usize = 20;
/// With less than this effective size nothing is called significant.
const MIN_EFFECTIVE: f64 = 10.0;
/// Variance of a Spearman correlation's Fisher z relative to a Pearson's (Fieller, Hartley,
/// Pearson, "Tests for rank correlation coefficients", 1957).
const SPEARMAN_VARIANCE: f64 = 1.06;

/// Two series at one lag.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct LagStat {
    /// Intervals by which the second series is taken later than the first. Positive: the first
    /// one leads.
    pub lag: i32,
    /// The lag as a time, ns, at the usual length of an interval.
    pub lag_ns: i64,
    /// Pairs of intervals in which both have a value.
    pub n: usize,
    /// How many independent pairs these are worth, given how slowly the series change.
    pub n_effective: f64,
    /// Pearson's correlation.
    pub pearson: f64,
    /// Lower end of its 95 % interval (of this lag alone; Fisher's z with `n_effective`); none
    /// where `n_effective` is at most 3.
    pub pearson_low: Option<f64>,
    /// Upper end.
    pub pearson_high: Option<f64>,
    /// Spearman's rank correlation.
    pub spearman: f64,
    /// Whether Pearson and Spearman agree in sign and each differs from 0 at the 5 % level, after
    /// Bonferroni's correction for all lags searched and at its own effective size.
    pub significant: bool,
}

/// How two series move together.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Pair {
    /// First series.
    pub x: &'static str,
    /// Second series.
    pub y: &'static str,
    /// Lags searched, in intervals: from minus this to plus this. 0 where there were too few
    /// intervals for a search.
    pub max_lag: i32,
    /// Without lag. None where no correlation can be computed.
    pub at_zero: Option<LagStat>,
    /// At the lag with the greatest Spearman, either sign; the shorter lag where two are equal.
    pub best: Option<LagStat>,
    /// Why the numbers say little, where they do.
    pub warning: Option<String>,
    #[serde(skip)]
    labels: (&'static str, &'static str),
}

/// A series: its name, what a sentence calls it, and its values.
pub(super) type Measure<'a> = (&'static str, &'static str, &'a [Option<f64>]);

pub(super) fn compare(x: Measure<'_>, y: Measure<'_>, interval_ns: u64) -> Pair {
    let both = align(x.2, y.2, 0);
    let n = both.0.len();
    let max_lag = if n < MIN_INTERVALS { 0 } else { MAX_LAG };
    let at = |lag| at_lag(x.2, y.2, lag, interval_ns);
    let at_zero = at(0);
    let mut best = at_zero;
    // Shorter lags first, so that they win ties.
    for lag in (1..=max_lag).flat_map(|l| [l, -l]) {
        let stat = at(lag);
        if stat.is_some_and(|s| best.is_none_or(|b| s.spearman.abs() > b.spearman.abs())) {
            best = stat;
        }
    }
    let warning = if n < MIN_INTERVALS {
        Some(format!("only {n} intervals: too few to say (at least {MIN_INTERVALS} are needed)"))
    } else if let Some((_, label, _)) =
        [(x, &both.0), (y, &both.1)].iter().find(|(_, v)| is_constant(v)).map(|(m, _)| m)
    {
        Some(format!("{label} was the same in all {n} intervals: nothing to correlate"))
    } else {
        best.filter(|b| b.n_effective < MIN_EFFECTIVE).map(|b| {
            format!(
                "the series change so slowly that {} intervals are worth {:.0}: too few to say (at least \
                 {MIN_EFFECTIVE} are needed)",
                b.n, b.n_effective
            )
        })
    };
    Pair { x: x.0, y: y.0, max_lag, at_zero, best, warning, labels: (x.1, y.1) }
}

/// Two series at every lag that is searched.
pub(super) fn at_all_lags(x: Measure<'_>, y: Measure<'_>, interval_ns: u64) -> Vec<LagStat> {
    let max_lag = if align(x.2, y.2, 0).0.len() < MIN_INTERVALS { 0 } else { MAX_LAG };
    (-max_lag..=max_lag).filter_map(|lag| at_lag(x.2, y.2, lag, interval_ns)).collect()
}

/// The pairs (x of an interval, y of the one `lag` later) that both have a value.
fn align(x: &[Option<f64>], y: &[Option<f64>], lag: i32) -> (Vec<f64>, Vec<f64>) {
    let skip = lag.unsigned_abs() as usize;
    let (skip_x, skip_y) = if lag < 0 { (skip, 0) } else { (0, skip) };
    let xs = x.iter().skip(skip_x);
    xs.zip(y.iter().skip(skip_y)).filter_map(|(x, y)| Some(((*x)?, (*y)?))).unzip()
}

fn at_lag(x: &[Option<f64>], y: &[Option<f64>], lag: i32, interval_ns: u64) -> Option<LagStat> {
    let (x, y) = align(x, y, lag);
    let (pearson, spearman) = (pearson(&x, &y)?, spearman(&x, &y)?);
    let n_effective = effective_size(&x, &y);
    let ranks_effective = effective_size(&ranks(&x), &ranks(&y));
    let interval = fisher_interval(pearson, n_effective, Z_95);
    let differs = |r: f64, n: f64, variance: f64| {
        fisher_interval(r, n, Z_SEARCHED * variance.sqrt())
            .is_some_and(|(low, high)| low > 0.0 || high < 0.0)
    };
    let significant = x.len() >= MIN_INTERVALS
        && n_effective.min(ranks_effective) >= MIN_EFFECTIVE
        && pearson.signum() == spearman.signum()
        && differs(pearson, n_effective, 1.0)
        && differs(spearman, ranks_effective, SPEARMAN_VARIANCE);
    Some(LagStat {
        lag,
        lag_ns: i64::from(lag).saturating_mul(interval_ns as i64),
        n: x.len(),
        n_effective,
        pearson,
        pearson_low: interval.map(|i| i.0),
        pearson_high: interval.map(|i| i.1),
        spearman,
        significant,
    })
}

impl Pair {
    /// The pair in a sentence that claims no cause.
    pub(super) fn sentence(&self) -> String {
        let (x, y) = self.labels;
        if let Some(warning) = &self.warning {
            return format!("{x} and {y}: {warning}.");
        }
        let Some(best) = &self.best else {
            return format!("{x} and {y}: no correlation can be computed.");
        };
        let when = match best.lag_ns / 1_000_000 {
            0 => "in the same interval".to_owned(),
            ms if ms > 0 => format!("with {y} {ms} ms later"),
            ms => format!("with {y} {} ms earlier", -ms),
        };
        let numbers = format!("Spearman {:.2}, Pearson {:.2}", best.spearman, best.pearson);
        if !best.significant {
            return format!(
                "{x} and {y}: no correlation that the data can tell from chance (strongest {when}: \
                 {numbers}; {} intervals).",
                best.n
            );
        }
        let together =
            if best.spearman > 0.0 { "rise and fall together" } else { "move oppositely" };
        let (low, high) = (best.pearson_low.unwrap_or(-1.0), best.pearson_high.unwrap_or(1.0));
        format!(
            "{x} and {y} {together}, most {when} ({numbers}, 95 % interval {low:.2} to {high:.2}; \
             {} intervals worth {:.0} independent ones). This alone does not show which causes which.",
            best.n, best.n_effective
        )
    }
}
