//! How a stretch in which a thread ran is divided among the stacks that were taken in it. Must not know
//! stops.

use crate::model::stacks::Sample;

/// Calls `f(start_ns, end_ns, sample)` over `[from_ns, to_ns)` without hole or overlap: what lies nearer to
/// one sample than to any other is that sample's; halfway between two the later one's begins. `None` where
/// there is no sample at all. `samples` ascend in time; they may lie outside.
pub(super) fn divide<'a>(
    samples: impl IntoIterator<Item = &'a Sample>,
    from_ns: u64,
    to_ns: u64,
    mut f: impl FnMut(u64, u64, Option<&'a Sample>),
) {
    let mut at = from_ns;
    let mut current: Option<&Sample> = None;
    for next in samples {
        if let Some(sample) = current {
            let middle = sample.ts_ns + next.ts_ns.saturating_sub(sample.ts_ns) / 2;
            let end = middle.clamp(at, to_ns);
            if at < end {
                f(at, end, current);
                at = end;
            }
        }
        current = Some(next);
    }
    if at < to_ns {
        f(at, to_ns, current);
    }
}

/// What a thread was in between two samples, if both found it in the same function.
pub(super) fn agreed<'a>(before: Option<&'a Sample>, after: Option<&Sample>) -> Option<&'a Sample> {
    let in_code = |s: &Sample| s.code.filter(|_| s.syscall < 0).map(|c| c.function);
    before.filter(|b| in_code(b).is_some() && after.and_then(in_code) == in_code(b))
}

/// The part of `ns` that falls to the first `part` of `whole`, where it is spread evenly.
pub(super) fn share(ns: u64, part: u64, whole: u64) -> u64 {
    let share = u128::from(ns) * u128::from(part) / u128::from(whole.max(1));
    u64::try_from(share).unwrap_or(ns).min(ns)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn sample(ts_ns: u64) -> Sample {
        Sample { ts_ns, syscall: -1, code: None }
    }

    fn divided(samples: &[u64], from: u64, to: u64) -> Vec<(u64, u64, Option<u64>)> {
        let samples: Vec<Sample> = samples.iter().map(|&ts| sample(ts)).collect();
        let mut out = Vec::new();
        divide(&samples, from, to, |s, e, sample| out.push((s, e, sample.map(|s| s.ts_ns))));
        out
    }

    #[test]
    fn each_moment_is_the_nearest_samples() {
        assert_eq!(divided(&[], 10, 20), [(10, 20, None)]);
        assert_eq!(divided(&[12], 10, 20), [(10, 20, Some(12))]);
        assert_eq!(divided(&[12, 15], 10, 20), [(10, 13, Some(12)), (13, 20, Some(15))]);
        assert_eq!(divided(&[2, 4, 30], 10, 20), [(10, 17, Some(4)), (17, 20, Some(30))]);
        assert_eq!(divided(&[12], 20, 20), []);
    }

    #[test]
    fn shares_end_with_the_whole() {
        assert_eq!([0, 1, 2, 3].map(|part| share(10, part, 3)), [0, 3, 6, 10]);
        assert_eq!(share(u64::MAX, 7, 7), u64::MAX);
        assert_eq!(share(0, 0, 0), 0);
    }

    proptest! {
        #[test]
        fn nothing_is_lost_or_told_twice(
            mut samples in prop::collection::vec(0u64..1000, 0..20),
            from in 0u64..1000,
            len in 0u64..500,
        ) {
            samples.sort_unstable();
            let parts = divided(&samples, from, from + len);
            let mut at = from;
            for (start, end, sample) in parts {
                prop_assert_eq!(start, at);
                prop_assert!(start < end);
                let nearest = samples.iter().map(|s| s.abs_diff(start)).min();
                // An odd distance has its middle at the ns before.
                prop_assert!(sample.map(|s| s.abs_diff(start)) <= nearest.map(|n| n + 1));
                at = end;
            }
            prop_assert_eq!(at, from + len);
        }
    }
}
