//! Hits to be expected of probes that are not attached. Must not know the probes.

use super::budget::Expected;
use super::totals::CLASS_SIZES;
use crate::record::AllocTotals;

/// Hits a second to be expected, from the runtime's counts. A span holds some 8 KB of objects, and is seldom empty when a
/// P takes it, so `refills` (from what was seen) corrects the first; a search finds up to 64 slots.
pub(super) fn forecast(
    last: &AllocTotals,
    now: &AllocTotals,
    seconds: f64,
    refills: f64,
) -> Expected {
    const SPAN: f64 = 8192.0;
    let (mut spans, mut searches, mut all) = (0.0, 0.0, 0.0);
    for (&class, &n) in &now.small {
        let n = n.saturating_sub(last.small.get(&class).copied().unwrap_or(0)) as f64;
        let bytes = n * CLASS_SIZES.get(usize::from(class)).copied().unwrap_or(0) as f64;
        // A span has one object at least.
        spans += (bytes / SPAN).min(n);
        searches += n / 64.0;
        all += n;
    }
    let large = now.large.saturating_sub(last.large) as f64;
    // Several of these share an object that the runtime counts.
    let tiny = now.tiny.saturating_sub(last.tiny) as f64;
    let refill = spans * refills;
    Expected {
        refill: (refill + large) / seconds,
        next_free: (refill + searches + large) / seconds,
        exact: (all + tiny + large) / seconds,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hits_are_forecast_from_counts() {
        let totals =
            |n: u64, large| AllocTotals { small: [(6, n)].into(), large, ..AllocTotals::default() };
        let e = forecast(&totals(0, 0), &totals(128_000, 100), 2.0, 1.0);
        // 64 B each: a thousand spans, two thousand searches, in two seconds.
        assert!((e.refill - 550.0).abs() < 1e-9 && (e.next_free - 1550.0).abs() < 1e-9, "{e:?}");
        let e = forecast(&totals(0, 0), &totals(128_000, 0), 2.0, 3.0);
        assert!((e.refill - 1500.0).abs() < 1e-9, "{e:?}");
    }
}
