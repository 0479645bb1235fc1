//! Random draws that are the same in every run, and the interval of what they gave. Must not know what is
//! drawn.

/// A stream of random numbers (xorshift64*: S. Vigna, "An experimental exploration of Marsaglia's xorshift
/// generators, scrambled", 2016). Good enough to draw with, and nothing to guess.
pub(super) struct Draws(u64);

impl Draws {
    /// The stream of a seed.
    pub(super) fn new(seed: u64) -> Self {
        // Never 0, at which the stream would stand still.
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    /// A number below `n`, which is not 0.
    pub(super) fn below(&mut self, n: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        let word = self.0.wrapping_mul(0x2545_f491_4f6c_dd1d);
        // The high bits of a product instead of a remainder: as even, and cheaper.
        ((u128::from(word) * n as u128) >> 64) as usize
    }
}

/// The 2.5 % and 97.5 % points of what resamples gave; `None` if more than a twentieth of them gave
/// nothing, which would make the interval one of the others.
pub(super) fn interval_95(values: impl Iterator<Item = Option<f64>>) -> Option<(f64, f64)> {
    let all: Vec<Option<f64>> = values.collect();
    let mut values: Vec<f64> = all.iter().flatten().copied().collect();
    if values.is_empty() || values.len() * 20 < all.len() * 19 {
        return None;
    }
    values.sort_unstable_by(f64::total_cmp);
    let tail = values.len() / 40;
    Some((values[tail], values[values.len() - 1 - tail]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn draws_are_even_and_the_same_again() {
        let mut counts = [0u32; 7];
        let (mut a, mut b) = (Draws::new(3), Draws::new(3));
        for _ in 0..70_000 {
            let n = a.below(7);
            assert_eq!(n, b.below(7));
            counts[n] += 1;
        }
        assert!(counts.iter().all(|n| n.abs_diff(10_000) < 400), "{counts:?}");
    }

    #[test]
    fn the_middle_of_what_was_drawn() {
        let hundred = || (0..400).map(|i| Some(f64::from(i)));
        assert_eq!(interval_95(hundred()), Some((10.0, 389.0)));
        assert_eq!(interval_95(hundred().map(|v| v.filter(|v| *v >= 21.0))), None);
        assert_eq!(interval_95(std::iter::empty()), None);
    }
}
