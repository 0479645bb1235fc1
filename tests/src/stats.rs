//! The few statistics that scenarios need.

/// The value below which a share `q` of the values lies (nearest rank). 0 of nothing.
pub fn quantile(values: &[f64], q: f64) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let rank = (q * sorted.len() as f64).ceil() as usize;
    sorted.get(rank.saturating_sub(1)).copied().unwrap_or(0.0)
}

/// The median.
pub fn median(values: &[f64]) -> f64 {
    quantile(values, 0.5)
}

/// An estimate and its 95 % interval.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Interval {
    /// The estimate.
    pub at: f64,
    /// Where the interval begins.
    pub low: f64,
    /// Where it ends.
    pub high: f64,
}

/// The mean without the lowest and the highest tenth: of values of which a few are off for reasons of their own, and
/// most of which scatter evenly. 0 of nothing.
pub fn trimmed_mean(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let cut = sorted.len() / 10;
    let kept = &sorted[cut..sorted.len() - cut];
    kept.iter().sum::<f64>() / kept.len().max(1) as f64
}

/// The median, and between which values it lies.
pub fn median_interval(values: &[f64]) -> Interval {
    interval(values, median)
}

/// The mean without the lowest and the highest tenth, and between which values it lies.
pub fn mean_interval(values: &[f64]) -> Interval {
    interval(values, trimmed_mean)
}

/// What `of` makes of values, and its 95 % interval: the percentile bootstrap of 2,000 resamples, always the same ones.
fn interval(values: &[f64], of: impl Fn(&[f64]) -> f64) -> Interval {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut index = || {
        // xorshift64.
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state % values.len().max(1) as u64) as usize
    };
    let resamples: Vec<f64> = (0..2000)
        .map(|_| of(&values.iter().map(|_| values[index()]).collect::<Vec<_>>()))
        .collect();
    let [low, high] = [0.025, 0.975].map(|q| quantile(&resamples, q));
    Interval { at: of(values), low, high }
}

/// How far apart two amounts are, as a share of the second (the truth). 0 if both are 0.
pub fn disagreement(measured: u64, truth: u64) -> f64 {
    measured.abs_diff(truth) as f64 / truth.max(1) as f64
}

#[cfg(test)]
#[expect(clippy::float_cmp, reason = "these values are exact")]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_nearest_ranks() {
        let values = [3.0, 1.0, 2.0, 4.0];
        assert_eq!(
            [quantile(&values, 0.99), median(&values), quantile(&values, 0.0)],
            [4.0, 2.0, 1.0]
        );
        assert_eq!(median(&[]), 0.0);
    }

    #[test]
    fn an_interval_is_as_wide_as_the_values_scatter() {
        let same = median_interval(&[2.0; 9]);
        assert_eq!(same, Interval { at: 2.0, low: 2.0, high: 2.0 });
        let spread: Vec<f64> = (0..101).map(|n| f64::from(n) / 100.0).collect();
        let wide = median_interval(&spread);
        // The median of 101 values spread evenly: a standard error of about 0.05.
        assert_eq!(wide.at, 0.5);
        assert!((0.32..0.46).contains(&wide.low) && (0.54..0.68).contains(&wide.high), "{wide:?}");
        assert_eq!([median_interval(&[]).at, mean_interval(&[]).at], [0.0; 2]);
    }

    #[test]
    fn the_mean_is_not_moved_by_a_few() {
        let mut values = [1.0; 30];
        (values[0], values[7], values[20]) = (9.0, 8.0, 0.0);
        assert_eq!(trimmed_mean(&values), 1.0);
        assert_eq!(trimmed_mean(&[1.0, 4.0]), 2.5);
    }

    #[test]
    fn disagreement_is_relative_to_the_truth() {
        assert_eq!([disagreement(0, 0), disagreement(99, 100)], [0.0, 0.01]);
        assert!(disagreement(1, 0) >= 1.0);
    }
}
