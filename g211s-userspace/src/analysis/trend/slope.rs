//! The slope of a series, and how sure it is where neighbours' errors depend on each other. Must not
//! know what grows.

use crate::analysis::stats::Z_95;
use crate::analysis::stats::{is_constant, ranks, student_tail};

/// A line through a series.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Line {
    /// Median of the slopes of all pairs (Theil 1950, Sen 1968).
    pub(super) slope: f64,
    /// Its 95 % interval by Sen's method, with the variance of Hamed and Rao.
    pub(super) interval: (f64, f64),
    /// How probable such a slope is where there is none, with errors that follow a first-order
    /// autoregression. One-sided.
    pub(super) p: f64,
    /// The same with errors that do not depend on each other.
    pub(super) p_alone: f64,
    /// By Mann and Kendall, one-sided.
    pub(super) p_by_ranks: f64,
}

/// Both series have the same length, of at least 3; `x` ascends.
#[expect(clippy::many_single_char_names, reason = "the formulas' own letters")]
pub(super) fn line(x: &[f64], y: &[f64]) -> Line {
    let n = x.len() as f64;
    let mut slopes = pair_slopes(x, y);
    slopes.sort_unstable_by(f64::total_cmp);
    let slope = middle(&slopes);
    let residuals: Vec<f64> = x.iter().zip(y).map(|(x, y)| y - slope * x).collect();
    let factor = hamed_rao(&residuals);
    let (s, variance) = mann_kendall(y);
    let variance = variance * factor;
    let p_by_ranks = if variance > 0.0 {
        // Continuity: S moves in steps of 2.
        normal_tail((s - s.signum()) / variance.sqrt())
    } else {
        1.0
    };
    let c = Z_95 * variance.sqrt();
    let at = |rank: f64| {
        let rank = (rank.max(0.0) as usize).min(slopes.len().saturating_sub(1));
        slopes.get(rank).copied().unwrap_or(slope)
    };
    let pairs = slopes.len() as f64;
    let interval = (at((pairs - c) / 2.0).min(slope), at(f64::midpoint(pairs, c)).max(slope));

    // Errors: first-order autoregression.
    let phi = persistence(&residuals);
    let mean = residuals.iter().sum::<f64>() / n;
    let scatter = residuals.iter().map(|r| (r - mean).powi(2)).sum::<f64>() / (n - 2.0).max(1.0);
    let spread = spread(x);
    // A line takes more than its share out of errors that wander (see `persistence`).
    let inflation = inflation(n, phi);
    let standard_error = (scatter * inflation / spread).sqrt();
    let freedom = (n / inflation - 2.0).max(4.0);
    let p_of = |standard_error: f64, freedom: f64| {
        if standard_error > 0.0 && standard_error.is_finite() {
            student_tail(slope / standard_error, freedom)
        } else if slope > 0.0 && standard_error == 0.0 {
            0.0
        } else {
            1.0
        }
    };
    let p = p_of(standard_error, freedom);
    let p_alone = p_of((scatter / spread).sqrt(), n - 2.0);
    Line { slope, interval, p, p_alone, p_by_ranks }
}

/// Sum of the squared distances from the mean.
pub(super) fn spread(x: &[f64]) -> f64 {
    let mean = x.iter().sum::<f64>() / x.len() as f64;
    x.iter().map(|x| (x - mean).powi(2)).sum()
}

/// The slope alone.
pub(super) fn theil_sen(x: &[f64], y: &[f64]) -> f64 {
    let mut slopes = pair_slopes(x, y);
    slopes.sort_unstable_by(f64::total_cmp);
    middle(&slopes)
}

fn pair_slopes(x: &[f64], y: &[f64]) -> Vec<f64> {
    let mut slopes = Vec::with_capacity(x.len() * x.len().saturating_sub(1) / 2);
    for (i, (xi, yi)) in x.iter().zip(y).enumerate() {
        let later = x.iter().zip(y).skip(i + 1).filter(|(xj, _)| *xj > xi);
        slopes.extend(later.map(|(xj, yj)| (yj - yi) / (xj - xi)));
    }
    slopes
}

/// Of a sorted list; 0 of none.
fn middle(sorted: &[f64]) -> f64 {
    match sorted.len() {
        0 => 0.0,
        n if n % 2 == 1 => sorted[n / 2],
        n => f64::midpoint(sorted[n / 2 - 1], sorted[n / 2]),
    }
}

/// Of a list, which it sorts.
pub(super) fn median(values: &mut [f64]) -> f64 {
    values.sort_unstable_by(f64::total_cmp);
    middle(values)
}

/// S and its variance with ties (M. G. Kendall, "Rank Correlation Methods", 1975).
pub(super) fn mann_kendall(y: &[f64]) -> (f64, f64) {
    let mut s = 0.0;
    for (i, a) in y.iter().enumerate() {
        for b in &y[i + 1..] {
            s += f64::from(i8::from(b > a)) - f64::from(i8::from(b < a));
        }
    }
    let of = |n: f64| n * (n - 1.0) * (2.0 * n + 5.0);
    let mut sorted = y.to_vec();
    sorted.sort_unstable_by(f64::total_cmp);
    #[expect(clippy::float_cmp, reason = "a tie is exact")]
    let ties: f64 = sorted.chunk_by(|a, b| a == b).map(|tied| of(tied.len() as f64)).sum();
    (s, (of(y.len() as f64) - ties) / 18.0)
}

/// How much more S varies where errors depend on each other (K. H. Hamed, A. R. Rao, "A modified
/// Mann-Kendall trend test for autocorrelated data", 1998): by the autocorrelation of the ranks of
/// what is left without the trend, as far as it is significant. Never less than 1.
fn hamed_rao(residuals: &[f64]) -> f64 {
    let n = residuals.len();
    if n < 4 || is_constant(residuals) {
        return 1.0;
    }
    let ranks = ranks(residuals);
    let mut sum = 0.0;
    for lag in 1..n / 3 {
        let rho = autocorrelation(&ranks, lag);
        if rho.abs() < Z_95 / (n as f64).sqrt() {
            continue;
        }
        let left = (n - lag) as f64;
        sum += left * (left - 1.0) * (left - 2.0) * rho;
    }
    let n = n as f64;
    (1.0 + 2.0 * sum / (n * (n - 1.0) * (n - 2.0))).max(1.0)
}

fn autocorrelation(v: &[f64], lag: usize) -> f64 {
    let mean = v.iter().sum::<f64>() / v.len() as f64;
    let all: f64 = v.iter().map(|a| (a - mean).powi(2)).sum();
    let lagged: f64 = v.iter().zip(v.iter().skip(lag)).map(|(a, b)| (a - mean) * (b - mean)).sum();
    if all > 0.0 { (lagged / all).clamp(-1.0, 1.0) } else { 0.0 }
}

/// Lag-1 autocorrelation of the errors, corrected for what a short series and the line that was taken
/// out make it too small by: about (2 + 4φ) / n (F. H. C. Marriott, J. A. Pope, "Bias in the estimation
/// of autocorrelations", 1954, with a trend instead of a mean). 0 to 0.95.
fn persistence(residuals: &[f64]) -> f64 {
    let n = residuals.len() as f64;
    if residuals.len() < 4 || is_constant(residuals) {
        return 0.0;
    }
    let r = autocorrelation(residuals, 1);
    ((n * r + 2.0) / (n - 4.0).max(1.0)).clamp(0.0, 0.95)
}

/// How many times the variance of a mean of `n` such errors is that of independent ones.
fn inflation(n: f64, phi: f64) -> f64 {
    let mut sum = 0.0;
    let (mut power, mut lag) = (phi, 1.0);
    while lag < n && power > 1e-6 {
        sum += (1.0 - lag / n) * power;
        power *= phi;
        lag += 1.0;
    }
    1.0 + 2.0 * sum
}

/// The normal distribution above `z` (Abramowitz and Stegun, 26.2.17, |error| < 7.5e-8).
pub(super) fn normal_tail(z: f64) -> f64 {
    let t = 1.0 / (1.0 + 0.231_641_9 * z.abs());
    let poly = t
        * (0.319_381_530
            + t * (-0.356_563_782
                + t * (1.781_477_937 + t * (-1.821_255_978 + t * 1.330_274_429))));
    let tail = (-z * z / 2.0).exp() / (2.0 * std::f64::consts::PI).sqrt() * poly;
    if z >= 0.0 { tail } else { 1.0 - tail }
}
