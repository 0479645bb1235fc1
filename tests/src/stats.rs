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
    fn disagreement_is_relative_to_the_truth() {
        assert_eq!([disagreement(0, 0), disagreement(99, 100)], [0.0, 0.01]);
        assert!(disagreement(1, 0) >= 1.0);
    }
}
