//! How sure a quantile of a histogram is, without assuming a distribution. Must not know what the
//! values are. Values count as independent; delays that come in bursts are less sure than it says.

use serde::Serialize;

use super::{Cells, Z_95, nearest_rank};
use crate::record::SparseHist;

/// Fewest values for which a 95 % interval of p99 exists: 0.99^n must be at most 2.5 %, or the
/// true p99 may well exceed everything seen.
pub const MIN_FOR_P99: u64 = 368;

/// Where the binomial's variance exceeds this, the normal distribution serves for it.
const NORMAL_FROM_VARIANCE: f64 = 10_000.0;

/// Resamples of the bootstrap: the interval's ends are its 50th and 1951st.
const RESAMPLES: usize = 2000;

/// 95 % interval of a quantile, ns, from order statistics: the ranks between which the true
/// quantile lies with at least 95 %, by the binomial distribution (H. A. David, H. N. Nagaraja,
/// "Order Statistics", 7.1). Ends are the outer edges of the ranks' buckets. `None` where so few
/// values, or a quantile so near the end, have no such ranks.
pub fn quantile_ci(h: &SparseHist, q: f64) -> Option<(u64, u64)> {
    let cells = Cells::new(h);
    let (low, high) = ci_ranks(cells.total(), q)?;
    Some((cells.bounds(low).0, cells.bounds(high).1))
}

/// The greatest rank with P(B < rank) ≤ 2.5 % and the smallest with P(B < rank) ≥ 97.5 %, where B
/// is binomial (n, q).
pub(super) fn ci_ranks(n: u64, q: f64) -> Option<(u64, u64)> {
    if n == 0 || !(q > 0.0 && q < 1.0) {
        return None;
    }
    let (mean, variance) = (n as f64 * q, n as f64 * q * (1.0 - q));
    let (low, high) = if variance > NORMAL_FROM_VARIANCE {
        let half = Z_95 * variance.sqrt();
        ((mean - half).floor() as u64, (mean + half).ceil() as u64 + 1)
    } else {
        // P(B < rank) rises with the rank, so each is found by halving.
        let first = |level: f64, beyond: bool| {
            let (mut low, mut high) = (0, n + 2);
            while low < high {
                let mid = low + (high - low) / 2;
                let p = if mid == 0 { 0.0 } else { binomial_cdf(mid - 1, n, q) };
                if p > level || (!beyond && p >= level) { high = mid } else { low = mid + 1 }
            }
            low
        };
        // The first rank beyond 2.5 %, less one, is the last within.
        (first(0.025, true).saturating_sub(1), first(0.975, false))
    };
    (low >= 1 && high <= n).then_some((low, high))
}

/// P(B ≤ k) for B binomial (n, q).
pub(super) fn binomial_cdf(k: u64, n: u64, q: f64) -> f64 {
    if k >= n { 1.0 } else { beta_cdf((n - k) as f64, k as f64 + 1.0, 1.0 - q) }
}

/// Regularised incomplete beta function `I_x(a, b)` by its continued fraction, evaluated with
/// Lentz's method (DLMF 8.17.22).
#[expect(clippy::many_single_char_names, reason = "the formula's own letters")]
pub(super) fn beta_cdf(a: f64, b: f64, x: f64) -> f64 {
    if x <= 0.0 {
        return 0.0;
    }
    if x >= 1.0 {
        return 1.0;
    }
    // The fraction converges fast on this side only.
    if x > (a + 1.0) / (a + b + 2.0) {
        return 1.0 - beta_cdf(b, a, 1.0 - x);
    }
    let front = (ln_gamma(a + b) - ln_gamma(a) - ln_gamma(b) + a * x.ln() + b * (-x).ln_1p()).exp();
    let nonzero = |v: f64| if v.abs() < 1e-300 { 1e-300 } else { v };
    let (mut c, mut d) = (1.0, 1.0 / nonzero(1.0 - (a + b) * x / (a + 1.0)));
    let mut value = d;
    for m in 1..10_000 {
        let m = f64::from(m);
        let even = m * (b - m) * x / ((a + 2.0 * m - 1.0) * (a + 2.0 * m));
        d = 1.0 / nonzero(1.0 + even * d);
        c = nonzero(1.0 + even / c);
        value *= d * c;
        let odd = -(a + m) * (a + b + m) * x / ((a + 2.0 * m) * (a + 2.0 * m + 1.0));
        d = 1.0 / nonzero(1.0 + odd * d);
        c = nonzero(1.0 + odd / c);
        value *= d * c;
        if (d * c - 1.0).abs() < 1e-14 {
            break;
        }
    }
    (front * value / a).clamp(0.0, 1.0)
}

/// Student's t distribution above `t`, with so many degrees of freedom (Abramowitz and Stegun, 26.7.1).
pub(in crate::analysis) fn student_tail(t: f64, freedom: f64) -> f64 {
    if t.is_nan() || freedom.is_nan() || freedom <= 0.0 {
        return 1.0;
    }
    let beyond = beta_cdf(freedom / 2.0, 0.5, freedom / (freedom + t * t)) / 2.0;
    if t >= 0.0 { beyond } else { 1.0 - beyond }
}

/// ln Γ(x) for x > 0: Stirling's series (DLMF 5.11.1) after shifting x up to where it is exact to
/// double precision.
pub(super) fn ln_gamma(mut x: f64) -> f64 {
    let mut shift = 0.0;
    while x < 15.0 {
        shift += x.ln();
        x += 1.0;
    }
    let x2 = x * x;
    let series = (1.0 / 12.0 - (1.0 / 360.0 - (1.0 / 1260.0 - 1.0 / (1680.0 * x2)) / x2) / x2) / x;
    (x - 0.5) * x.ln() - x + 0.5 * (2.0 * std::f64::consts::PI).ln() + series - shift
}

/// A ratio with its 95 % interval.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct RatioCi {
    /// The estimate.
    pub ratio: f64,
    /// Lower end of the interval.
    pub low: f64,
    /// Upper end of the interval.
    pub high: f64,
}

/// p99 of `inside` divided by p99 of `outside`, with a 95 % interval by bootstrap. `None` where
/// either has fewer than [`MIN_FOR_P99`] values.
///
/// A resample's p99 is its k-th value of n, and the share of the distribution below that is
/// Beta(k, n-k+1), whatever the distribution; so one draw from it stands for resampling n values,
/// be they millions. The draws come from a fixed seed: the same input gives the same result.
pub fn p99_ratio_ci(inside: &SparseHist, outside: &SparseHist) -> Option<RatioCi> {
    let (inside, outside) = (Cells::new(inside), Cells::new(outside));
    if inside.total() < MIN_FOR_P99 || outside.total() < MIN_FOR_P99 {
        return None;
    }
    let mut rng = Rng(0x6732_3131_735f_3131);
    let mut draw = |cells: &Cells| {
        let n = cells.total();
        let k = nearest_rank(0.99, n);
        let (a, b) = (rng.gamma(k as f64), rng.gamma((n - k + 1) as f64));
        // No delay is shorter than the clock's 1 ns; also keeps the ratio finite.
        cells.interpolate(a / (a + b)).max(1.0)
    };
    let mut ratios: Vec<f64> = (0..RESAMPLES).map(|_| draw(&inside) / draw(&outside)).collect();
    ratios.sort_unstable_by(f64::total_cmp);
    let ratio = inside.quantile(0.99).max(1) as f64 / outside.quantile(0.99).max(1) as f64;
    let tail = RESAMPLES / 40;
    // The estimate is a bucket's middle and may lie beside an interval within one bucket.
    let (low, high) = (ratios[tail - 1].min(ratio), ratios[RESAMPLES - tail].max(ratio));
    Some(RatioCi { ratio, low, high })
}

/// `SplitMix64` (Steele, Lea, Flood, "Fast splittable pseudorandom number generators", 2014): small,
/// and good enough to draw a few thousand numbers.
pub(in crate::analysis) struct Rng(pub(in crate::analysis) u64);

impl Rng {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Even on (0, 1).
    pub(in crate::analysis) fn uniform(&mut self) -> f64 {
        ((self.next() >> 11) as f64 + 0.5) / (1u64 << 53) as f64
    }

    /// Standard normal, by Box and Muller.
    pub(in crate::analysis) fn normal(&mut self) -> f64 {
        let radius = (-2.0 * self.uniform().ln()).sqrt();
        radius * (2.0 * std::f64::consts::PI * self.uniform()).cos()
    }

    /// Gamma with this shape (at least 1), by Marsaglia and Tsang ("A simple method for generating
    /// gamma variables", 2000).
    pub(in crate::analysis) fn gamma(&mut self, shape: f64) -> f64 {
        let d = shape - 1.0 / 3.0;
        let c = 1.0 / (9.0 * d).sqrt();
        loop {
            let x = self.normal();
            let v = (1.0 + c * x).powi(3);
            if v > 0.0 && self.uniform().ln() < 0.5 * x * x + d - d * v + d * v.ln() {
                return d * v;
            }
        }
    }
}
