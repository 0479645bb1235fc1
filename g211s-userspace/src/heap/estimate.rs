//! From samples to what they stand for, and how sure that is. Must not know where a profile came from.
//!
//! The runtime samples an object of S bytes with probability 1 - exp(-S/R), where R is `MemProfileRate`. A profile
//! holds what the samples stand for; how many there were follows from that, the object's size (the label `bytes`)
//! and R (the period), so it can be told of profiles that Go programs write themselves, too.

use serde::{Deserialize, Serialize};

use super::go_exp::go_exp;
use super::{ALLOC_OBJECTS, INUSE_OBJECTS};
use crate::analysis::stats::{Seen, sampled_sum_ci};
use crate::profile::{LabelValue, Profile, Sample};

/// A figure of which only samples were seen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Estimate {
    /// What the samples stand for.
    pub value: u64,
    /// Lower end of the 95 % interval.
    pub low: u64,
    /// Upper end of the 95 % interval.
    pub high: u64,
}

/// The chance of an object to be sampled.
pub fn chance(size: u64, rate: u64) -> f64 {
    if rate <= 1 { 1.0 } else { -(-(size as f64) / rate as f64).exp_m1() }
}

/// Objects and bytes that sampled objects of a size stand for (protomem.go, `scaleHeapSample`).
pub fn scale(count: u64, size: u64, rate: u64) -> (i64, i64) {
    if count == 0 || size == 0 {
        return (0, 0);
    }
    let (objects, bytes) = (count as f64, count as f64 * size as f64);
    if rate <= 1 {
        return (objects as i64, bytes as i64);
    }
    // As Go has it: exp_m1 would be nearer to the truth, and not what the program itself says.
    let scale = 1.0 / (1.0 - go_exp(-(size as f64) / rate as f64));
    ((objects * scale) as i64, (bytes * scale) as i64)
}

/// The samples of one row of a profile.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Evidence {
    /// Samples of objects in use.
    pub inuse: u64,
    /// Samples of objects allocated, in use or not.
    pub alloc: u64,
    /// Bytes of each object.
    pub size: u64,
    /// The chance of such an object to be sampled.
    pub chance: f64,
}

impl Evidence {
    /// What is behind each row of a heap profile; `None` where it does not say its objects' sizes.
    pub fn of(profile: &Profile) -> Option<Vec<Self>> {
        let rate = u64::try_from(profile.period).ok()?;
        let evidence = profile.samples().iter().map(|sample| {
            let size = size_of(sample)?;
            let chance = chance(size, rate);
            // Values were rounded down, by less than one object.
            let samples = |index: usize| {
                let objects =
                    sample.values.get(index).map_or(0, |v| u64::try_from(*v).unwrap_or(0));
                (objects as f64 * chance - 1e-6).ceil().max(0.0) as u64
            };
            Some(Self {
                inuse: samples(INUSE_OBJECTS),
                alloc: samples(ALLOC_OBJECTS),
                size,
                chance,
            })
        });
        evidence.collect()
    }

    fn seen(&self, count: u64, value: f64) -> Seen {
        Seen { count, weight: value / self.chance.max(f64::MIN_POSITIVE), chance: self.chance }
    }
}

/// An object's bytes, or 0 where there are no objects.
fn size_of(sample: &Sample) -> Option<u64> {
    let label = sample.labels.iter().find(|l| &*l.key == "bytes");
    match label.map(|l| &l.value) {
        Some(LabelValue::Number(size, _)) => u64::try_from(*size).ok(),
        // Go leaves the label out where nothing was published yet of a bucket.
        _ if sample.values.iter().all(|v| *v == 0) => Some(0),
        _ => None,
    }
}

/// The interval of a sum over samples: of what is in use or of what was allocated, in objects or in bytes.
pub fn interval(evidence: &[Evidence], value: i64, inuse: bool, bytes: bool) -> Estimate {
    let seen: Vec<Seen> = evidence
        .iter()
        .map(|e| {
            let count = if inuse { e.inuse } else { e.alloc };
            e.seen(count, if bytes { e.size as f64 } else { 1.0 })
        })
        .collect();
    let (low, high) = sampled_sum_ci(&seen);
    let value = u64::try_from(value).unwrap_or(0);
    Estimate { value, low: (low.floor() as u64).min(value), high: (high.ceil() as u64).max(value) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::profile::{Label, ValueType};

    #[test]
    fn scaling_is_gos() {
        // Values of Go's own scaleHeapSample on a machine with FMA.
        assert_eq!(scale(0, 16, 524_288), (0, 0));
        assert_eq!(scale(3, 0, 524_288), (0, 0));
        assert_eq!(scale(3, 100, 1), (3, 300));
        assert_eq!(scale(3, 100, 0), (3, 300));
        let (objects, bytes) = scale(1, 524_288, 524_288);
        assert_eq!((objects, bytes), (1, 829_411));
        let (objects, bytes) = scale(7, 48, 524_288);
        assert_eq!((objects, bytes), (76_462, 3_670_184));
        // Far beyond what there can be, without a panic.
        let _ = scale(u64::MAX, u64::MAX, 2);
    }

    #[test]
    fn samples_are_told_from_what_they_stand_for() {
        let rates = [1, 2, 4096, 524_288];
        for (rate, size) in
            rates.into_iter().flat_map(|r| [8, 48, 1000, 40_000, 3 << 20].map(|s| (r, s)))
        {
            for count in [0, 1, 2, 17, 1_000, 1_234_567] {
                let types = super::super::SAMPLE_TYPES.map(|(n, u)| ValueType::new(n, u));
                let mut profile = Profile::new(types.to_vec());
                profile.period = rate as i64;
                let (objects, bytes) = scale(count, size, rate);
                let label = Label {
                    key: "bytes".into(),
                    value: LabelValue::Number(size as i64, "".into()),
                };
                profile.push(&[], &[objects, bytes, objects, bytes], vec![label]);
                let evidence = Evidence::of(&profile).unwrap();
                assert_eq!(evidence[0].inuse, count, "{count} of {size} bytes at {rate}");
                let all = interval(&evidence, bytes, true, true);
                assert!(all.low <= all.value && all.value <= all.high, "{all:?}");
                assert_eq!(all.value, bytes as u64);
            }
        }
    }

    #[test]
    fn a_profile_that_says_no_sizes_has_no_evidence() {
        let mut profile = Profile::new(vec![ValueType::new("alloc_objects", "count")]);
        profile.push(&[], &[0], vec![]);
        assert!(Evidence::of(&profile).is_some());
        profile.push(&[], &[5], vec![]);
        assert_eq!(Evidence::of(&profile), None);
    }
}
