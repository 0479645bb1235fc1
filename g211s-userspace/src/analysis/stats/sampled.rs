//! How sure a sum is of which only samples were seen: each thing with a chance of its own, and what is seen stands
//! for what is not. Must not know what the things are.

use super::Z_95;
use super::tail::ln_gamma;

/// From this shape on a gamma distribution's quantiles are those of a cube of the normal one, to seven digits.
const NORMAL_FROM_SHAPE: f64 = 10_000.0;
/// Terms of a series at most, and halvings: more than double precision has room for.
const MAX_TERMS: u32 = 10_000;
const HALVINGS: u32 = 80;

/// Things alike.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Seen {
    /// How many were seen.
    pub count: u64,
    /// What one of them stands for in the sum: its own value divided by its chance.
    pub weight: f64,
    /// Its chance to be seen, more than 0 and at most 1.
    pub chance: f64,
}

/// 95 % interval of the sum of all things, seen or not.
///
/// What is seen of rare things is Poisson. A weighted sum of such counts has the interval of Fay and Feuer
/// ("Confidence intervals for directly standardized rates", 1997), which is exact for one weight and on the safe
/// side for several. Each weight's variance is taken times the chance *not* to be seen, since what is sure to be seen
/// adds no doubt.
pub fn sampled_sum_ci(seen: &[Seen]) -> (f64, f64) {
    let terms = || seen.iter().filter(|s| s.count > 0 && s.weight.is_finite() && s.weight > 0.0);
    let missed = |s: &Seen| 1.0 - s.chance.clamp(0.0, 1.0);
    let sum: f64 = terms().map(|s| s.count as f64 * s.weight).sum();
    let variance: f64 = terms().map(|s| s.count as f64 * s.weight * s.weight * missed(s)).sum();
    if !(variance > 0.0 && sum > 0.0) {
        return (sum, sum);
    }
    // One more of the heaviest kind that could have been missed.
    let more = terms().map(|s| s.weight * missed(s)).fold(0.0, f64::max);
    let ends = |sum: f64, variance: f64, level: f64| {
        let scale = variance / sum;
        scale * gamma_quantile(sum / scale, level)
    };
    let heaviest = terms().map(|s| s.weight * s.weight * missed(s)).fold(0.0, f64::max);
    (ends(sum, variance, 0.025).min(sum), ends(sum + more, variance + heaviest, 0.975).max(sum))
}

/// The value that a gamma distribution of this shape stays below with probability `level`.
fn gamma_quantile(shape: f64, level: f64) -> f64 {
    let z = if level < 0.5 { -Z_95 } else { Z_95 };
    // Wilson and Hilferty, "The distribution of chi-square", 1931.
    let cube = 1.0 - 1.0 / (9.0 * shape) + z / (3.0 * shape.sqrt());
    if shape >= NORMAL_FROM_SHAPE {
        return shape * cube.powi(3);
    }
    let (mut low, mut high) = (0.0, shape + 20.0 * shape.sqrt() + 20.0);
    for _ in 0..HALVINGS {
        let middle = f64::midpoint(low, high);
        if gamma_cdf(shape, middle) < level { low = middle } else { high = middle }
    }
    f64::midpoint(low, high)
}

/// Regularised lower incomplete gamma function `P(a, x)`: its series below the mean, its continued fraction above
/// (DLMF 8.7.1, 8.9.2; Lentz's method).
#[expect(clippy::many_single_char_names, reason = "the formula's own letters")]
fn gamma_cdf(a: f64, x: f64) -> f64 {
    if x <= 0.0 {
        return 0.0;
    }
    let front = (a * x.ln() - x - ln_gamma(a)).exp();
    if x < a + 1.0 {
        let (mut term, mut sum) = (1.0 / a, 1.0 / a);
        for n in 1..MAX_TERMS {
            term *= x / (a + f64::from(n));
            sum += term;
            if term < sum * 1e-16 {
                break;
            }
        }
        return (front * sum).clamp(0.0, 1.0);
    }
    let nonzero = |v: f64| if v.abs() < 1e-300 { 1e-300 } else { v };
    let mut b = x + 1.0 - a;
    let (mut c, mut d) = (1e300, 1.0 / nonzero(b));
    let mut value = d;
    for n in 1..MAX_TERMS {
        let n = f64::from(n);
        let factor = n * (a - n);
        b += 2.0;
        d = 1.0 / nonzero(b + factor * d);
        c = nonzero(b + factor / c);
        value *= d * c;
        if (d * c - 1.0).abs() < 1e-15 {
            break;
        }
    }
    (1.0 - front * value).clamp(0.0, 1.0)
}

#[cfg(test)]
mod tests {
    use super::super::tail::Rng;
    use super::*;

    fn near(a: f64, b: f64) -> bool {
        (a - b).abs() <= 1e-3 * b.abs().max(1e-9)
    }

    #[test]
    fn one_weight_has_the_exact_interval_of_a_count() {
        // Garwood's intervals, from tables.
        for (count, low, high) in [
            (1, 0.02532, 5.5716),
            (5, 1.6235, 11.6683),
            (10, 4.7954, 18.3904),
            (100, 81.36, 121.63),
        ] {
            let (from, to) = sampled_sum_ci(&[Seen { count, weight: 1.0, chance: 1e-12 }]);
            assert!(near(from, low) && near(to, high), "{count}: {from} {to}");
        }
        let (from, to) = sampled_sum_ci(&[Seen { count: 1_000_000, weight: 2.0, chance: 1e-12 }]);
        assert!(near(from, 2.0 * 998_041.0) && near(to, 2.0 * 1_001_962.0), "{from} {to}");
    }

    #[test]
    fn what_is_sure_adds_no_doubt() {
        let sure = Seen { count: 7, weight: 1000.0, chance: 1.0 };
        assert_eq!(sampled_sum_ci(&[sure]), (7000.0, 7000.0));
        let rare = Seen { count: 4, weight: 10.0, chance: 1e-6 };
        let (alone, both) = (sampled_sum_ci(&[rare]), sampled_sum_ci(&[rare, sure]));
        assert!(both.0 <= 7000.0 + 40.0 && both.1 - 7040.0 < 2.0 * (alone.1 - 40.0), "{both:?}");
        assert_eq!(sampled_sum_ci(&[]), (0.0, 0.0));
        assert_eq!(sampled_sum_ci(&[Seen { count: 0, ..rare }]), (0.0, 0.0));
        let odd = Seen { count: u64::MAX, weight: f64::NAN, chance: f64::NAN };
        assert_eq!(sampled_sum_ci(&[odd]), (0.0, 0.0));
    }

    /// Objects of several sizes, sampled as Go's allocator does: how often the truth lies within.
    #[test]
    fn intervals_hold_what_they_promise() {
        const RATE: f64 = 524_288.0;
        let mut rng = Rng(11);
        // (bytes, objects): from almost never seen to almost always.
        let cases: [&[(f64, u32)]; 5] = [
            &[(48.0, 100_000)],
            &[(48.0, 30_000), (8192.0, 300)],
            &[(131_072.0, 20)],
            &[(524_288.0, 12), (1024.0, 5_000)],
            &[(2_097_152.0, 6), (65_536.0, 40)],
        ];
        for kinds in cases {
            let truth: f64 = kinds.iter().map(|(size, n)| size * f64::from(*n)).sum();
            let (mut within, mut runs) = (0, 0);
            for _ in 0..300 {
                let seen = kinds.iter().map(|(size, n)| {
                    let chance = 1.0 - (-size / RATE).exp();
                    let count = (0..*n).filter(|_| rng.uniform() < chance).count() as u64;
                    Seen { count, weight: size / chance, chance }
                });
                let seen: Vec<Seen> = seen.collect();
                if seen.iter().all(|s| s.count == 0) {
                    // Nothing is said of what was not seen at all.
                    continue;
                }
                let (low, high) = sampled_sum_ci(&seen);
                runs += 1;
                within += u32::from(low <= truth && truth <= high);
            }
            assert!(within * 100 >= runs * 92, "{kinds:?}: {within} of {runs}");
        }
    }
}
