//! From the records of a run that followed objects to a profile and a document: of what was allocated meanwhile, what is
//! in use, by line. Pure; must not know processes, nor how objects were followed.
//!
//! # The estimator
//!
//! Each sample stands for so many objects of its size class; whether it lives was told. Within a class, the followed
//! samples tell which part of all that was made lives and is a site's, and the runtime's own count of the class says how
//! much that is (`analysis::allocations`: `bytes = sum over classes of size * counted * share`). "Lives and is
//! this site's" is a group of samples like any other there, so the figures and their intervals are its.
//! Samples that could not be followed are left out of the shares: the followed ones of their class stand for them.
//!
//! Whether an object lives depends on when it was made. So what was made while probes rested is not like what was seen:
//! the intervals allow for all of it to be in use, or nothing.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use super::estimate::Estimate;
use super::schema::{
    AgeInfo, Document, Figures, FollowedInfo, Reads, SCHEMA, SiteInfo, Source, Sums, TargetInfo,
    TypeInfo,
};
use super::{ALLOC_OBJECTS, ALLOC_SPACE, INUSE_OBJECTS, INUSE_SPACE, SAMPLE_TYPES};
use crate::account::LEAST_CPU;
use crate::allocs::model;
use crate::analysis::allocations::{Allocations, Estimate as Share};
use crate::profile::table::{By, rows};
use crate::profile::{Location, LocationId, Profile, ValueType};
use crate::record::{AllocDensity, AllocSample, HeapFate, Record};
use crate::report::format::{clean, plural};

/// Samples that are kept at most, whatever the records hold.
const MAX_SAMPLES: usize = 8 << 20;
/// Probes that were attached for this part of the window were there all the time (see `analysis::allocations`).
const ALWAYS: f64 = 0.97;
/// Ages are told apart by powers of two, up to this one.
const MAX_AGE: u32 = 16;

/// Types that are kept at most.
const MAX_TYPES: usize = 1 << 16;
/// Types of a site that are told.
const TYPES: usize = 5;

/// Who a sample is: when, and on which thread.
type Name = (u64, u32);

/// What is known of a run.
#[derive(Debug, Default)]
pub struct Model {
    /// What was allocated, and its names.
    allocs: model::Model,
    samples: HashMap<Name, AllocSample>,
    /// What became of each, and for how many it counts.
    fates: HashMap<Name, (HeapFate, u64)>,
    /// Of what type each is, where that is known.
    types: HashMap<Name, Arc<str>>,
    type_names: usize,
    sweepgen: u32,
    cycles: Option<u32>,
    missed: u64,
    looks: u64,
    refused: u64,
    failed: Option<String>,
    /// Samples beyond `MAX_SAMPLES`.
    left_out: u64,
}

/// A group of followed samples: their stack, what became of them, and their age (log2 of collections).
type Group = (u32, HeapFate, u32);

/// The samples by what became of them.
#[derive(Debug, Default)]
pub struct Fates {
    allocations: Allocations,
    groups: Vec<Group>,
}

impl Fates {
    fn by<K: Ord + Clone>(&self, key: impl Fn(&Group) -> Option<K>) -> BTreeMap<K, Share> {
        self.allocations.by(|n| self.groups.get(n as usize).and_then(&key))
    }

    fn sum(&self, is: impl Fn(&Group) -> bool) -> Share {
        self.by(|g| is(g).then_some(())).remove(&()).unwrap_or_default()
    }
}

fn in_use(group: &Group) -> bool {
    matches!(group.1, HeapFate::Live | HeapFate::Doubtful)
}

impl Model {
    /// Takes the next record.
    pub fn push(&mut self, record: Record) {
        match &record {
            Record::AllocSamples(samples) => {
                for s in &samples.samples {
                    if self.samples.len() < MAX_SAMPLES {
                        self.samples.insert((s.ts_ns, s.tid), *s);
                    } else {
                        self.left_out += 1;
                    }
                }
            }
            Record::HeapLook(look) => {
                for o in &look.objects {
                    if self.fates.len() < MAX_SAMPLES {
                        self.fates.insert((o.ts_ns, o.tid), (o.fate, o.times.max(1)));
                    }
                }
                for kind in &look.types {
                    self.type_names += 1;
                    if self.type_names > MAX_TYPES {
                        break;
                    }
                    let name: Arc<str> = clean(&kind.name).into();
                    for object in kind.objects.iter().filter(|o| self.fates.contains_key(o)) {
                        self.types.insert(*object, Arc::clone(&name));
                    }
                }
                self.sweepgen = look.sweepgen;
                self.cycles = look.cycles;
                self.missed += u64::from(look.missed);
                self.looks = look.looks;
                self.refused = look.refused;
                self.failed.clone_from(&look.failed);
            }
            _ => {}
        }
        self.allocs.push(record);
    }

    /// The samples that were followed to the end, sorted by what became of them.
    fn fates(&self) -> Fates {
        let mut allocations = self.allocs.allocations.without_samples();
        let mut numbers: HashMap<Group, u32> = HashMap::new();
        let mut groups = Vec::new();
        for (name, sample) in &self.samples {
            let Some(&(fate, times)) = self.fates.get(name) else { continue };
            let age = self.sweepgen.wrapping_sub(sample.sweepgen) / 2;
            let group = (sample.stack, fate, age.max(1).ilog2().min(MAX_AGE));
            let number = *numbers.entry(group).or_insert_with(|| {
                groups.push(group);
                groups.len() as u32 - 1
            });
            let mut s = AllocSample { stack: number, ..*sample };
            // Large ones count by their bytes.
            let counts =
                if s.density == AllocDensity::Large { &mut s.size } else { &mut s.objects };
            *counts = counts.saturating_mul(times);
            allocations.sample(&s);
        }
        Fates { allocations, groups }
    }

    /// All stacks with what they allocated and what of it is in use, and what that is made from.
    pub fn profile(&self) -> (Profile, (Fates, Vec<u32>)) {
        let fates = self.fates();
        let types = SAMPLE_TYPES.map(|(name, unit)| ValueType::new(name, unit));
        let mut profile = Profile::new(types.to_vec());
        profile.default_sample_type = Some("inuse_space".to_owned());
        profile.duration_ns =
            i64::try_from(self.allocs.allocations.observed().window_ns).unwrap_or(0);
        let lives = fates.by(|g| in_use(g).then_some(g.0));
        let mut numbers: HashMap<u64, LocationId> = HashMap::new();
        let mut stacks = Vec::new();
        for (stack, made) in self.allocs.allocations.by(Some) {
            let addresses = self.allocs.stacks.get(&stack).map(Vec::as_slice).unwrap_or_default();
            let ids: Vec<LocationId> = addresses
                .iter()
                .map(|&address| {
                    *numbers.entry(address).or_insert_with(|| {
                        let frames = self.allocs.frames(address).into();
                        profile.location(Location { address, frames })
                    })
                })
                .collect();
            let used = lives.get(&stack).copied().unwrap_or_default();
            let mut values = [0; 4];
            values[ALLOC_OBJECTS] = made.objects.round() as i64;
            values[ALLOC_SPACE] = made.bytes.round() as i64;
            values[INUSE_OBJECTS] = used.objects.round() as i64;
            values[INUSE_SPACE] = used.bytes.round() as i64;
            profile.push_from_caller(&ids, &values, Vec::new());
            stacks.push(stack);
        }
        (profile, (fates, stacks))
    }

    /// The document. `profile` and `parts` are what [`Self::profile`] made.
    pub fn document(
        &self,
        target: TargetInfo,
        profile: &Profile,
        (fates, stacks): &(Fates, Vec<u32>),
    ) -> Document {
        let a = &self.allocs.allocations;
        let rows = rows(profile, By::Line, INUSE_SPACE);
        // Of each stack, the row that it ends in.
        let row_of: HashMap<u32, usize> = rows
            .iter()
            .enumerate()
            .flat_map(|(n, row)| row.samples.iter().map(move |s| (*s, n)))
            .filter_map(|(s, n)| stacks.get(s).map(|stack| (*stack, n)))
            .collect();
        let made = a.by(|stack| row_of.get(&stack).copied());
        let used = fates.by(|g| in_use(g).then(|| row_of.get(&g.0).copied()).flatten());
        let sure =
            fates.by(|g| (g.1 == HeapFate::Live).then(|| row_of.get(&g.0).copied()).flatten());
        let types = self.types(&row_of);
        let share = |of: &BTreeMap<usize, Share>, n| of.get(&n).copied().unwrap_or_default();
        let sites = rows.iter().enumerate().map(|(n, row)| {
            let sum = |index: usize| {
                row.cumulative.get(index).map_or(0, |v| u64::try_from(*v).unwrap_or(0))
            };
            SiteInfo {
                function: clean(&row.site.function),
                file: row.site.file.as_deref().map(clean),
                line: row.site.line,
                figures: figures(&share(&made, n), &share(&used, n), &share(&sure, n), self.seen()),
                cumulative: Sums {
                    inuse_bytes: sum(INUSE_SPACE),
                    inuse_objects: sum(INUSE_OBJECTS),
                    alloc_bytes: sum(ALLOC_SPACE),
                    alloc_objects: sum(ALLOC_OBJECTS),
                },
                types: types.get(&n).cloned().unwrap_or_default(),
            }
        });
        let sites = sites.collect();
        let made = a.by(|_| Some(())).remove(&()).unwrap_or_default();
        let (used, sure) = (fates.sum(in_use), fates.sum(|g| g.1 == HeapFate::Live));
        let mut total = figures(&made, &used, &sure, self.seen());
        let observed = a.observed();
        if let (Some(bytes), Some(objects)) = (observed.counted_bytes, observed.counted_objects) {
            // Counted, not estimated.
            total.alloc_bytes = Estimate { value: bytes, low: bytes, high: bytes };
            total.alloc_objects = Estimate { value: objects, low: objects, high: objects };
        }
        let gc_cycle = self.cycles.map(u64::from);
        Document {
            schema: SCHEMA.to_owned(),
            target,
            time_ns: profile.time_ns,
            source: Source {
                kind: "followed".to_owned(),
                bytes_per_sample: total.alloc_bytes.value / made.samples.max(1),
                gc_cycle,
                gc_cycles: gc_cycle,
                as_of: self.as_of(observed.window_ns),
            },
            live_heap: None,
            total,
            sites,
            reads: Reads::default(),
            followed: Some(self.info(fates, made.samples)),
            unavailable: self.unavailable(),
        }
    }

    fn as_of(&self, window_ns: u64) -> String {
        let when = self.cycles.map_or_else(
            || "as of the end of the last GC cycle that was looked at".to_owned(),
            |n| format!("as of the end of GC cycle {n}"),
        );
        format!("of what was allocated in {:.1} s, {when}", window_ns as f64 / 1e9)
    }

    fn info(&self, fates: &Fates, samples: u64) -> FollowedInfo {
        let a = &self.allocs.allocations;
        let observed = a.observed();
        let bytes = |fate| fates.sum(|g| g.1 == fate).bytes.round() as u64;
        let ages = fates.by(|g| in_use(g).then_some(g.2));
        let (mut all, mut followed, mut count) = (0.0, 0.0, 0);
        for (name, s) in &self.samples {
            let size = s.size as f64 * s.objects as f64;
            all += size;
            if self.fates.contains_key(name) {
                followed += size;
                count += 1;
            }
        }
        let end = self.allocs.end.as_ref();
        let spent = observed.hits.saturating_mul(a.run().cost_ns) as f64;
        FollowedInfo {
            window_ns: observed.window_ns,
            observed_ns: observed.observed_ns,
            gc_cycles: observed.cycles.map(u64::from),
            gc_cycles_missed: self.missed,
            looks: self.looks,
            samples,
            samples_followed: count,
            doubtful_bytes: bytes(HeapFate::Doubtful),
            young_bytes: bytes(HeapFate::Young),
            untold_bytes: bytes(HeapFate::Unknown),
            not_followed_share: if all > 0.0 {
                (1.0 - followed / all).clamp(0.0, 1.0)
            } else {
                0.0
            },
            unsampled_bytes: fates.allocations.observed().unsampled_bytes,
            ages: ages
                .into_iter()
                .map(|(age, e)| AgeInfo {
                    cycles_from: 1 << age,
                    cycles_to: (age < MAX_AGE).then(|| (2 << age) - 1),
                    inuse_bytes: e.bytes.round() as u64,
                })
                .collect(),
            lost: end.and_then(|e| e.lost.get("alloc").copied()).unwrap_or(0),
            budget: a.run().budget,
            budget_least_cpus: LEAST_CPU,
            cost_share: if observed.cpu_ns == 0 { 0.0 } else { spent / observed.cpu_ns as f64 },
            ended: end.map(|e| e.reason.clone()),
        }
    }

    /// For which part of the window probes were attached; moments of change do not count.
    fn seen(&self) -> f64 {
        let observed = self.allocs.allocations.observed();
        let seen = observed.observed_ns as f64 / observed.window_ns.max(1) as f64;
        if seen >= ALWAYS { 1.0 } else { seen }
    }

    /// Of what types what is in use of each row is, as far as that is known of the followed objects.
    fn types(&self, row_of: &HashMap<u32, usize>) -> HashMap<usize, Vec<TypeInfo>> {
        let mut all: HashMap<usize, (f64, BTreeMap<&Arc<str>, f64>)> = HashMap::new();
        for (name, sample) in &self.samples {
            let Some(&(fate, times)) = self.fates.get(name) else { continue };
            let Some(row) = row_of.get(&sample.stack) else { continue };
            if !matches!(fate, HeapFate::Live | HeapFate::Doubtful) {
                continue;
            }
            let objects =
                if sample.density == AllocDensity::Large { 1.0 } else { sample.objects as f64 };
            let bytes = sample.size as f64 * objects * times as f64;
            let (sum, types) = all.entry(*row).or_default();
            *sum += bytes;
            if let Some(name) = self.types.get(name) {
                *types.entry(name).or_default() += bytes;
            }
        }
        let told = |(row, (sum, types)): (usize, (f64, BTreeMap<&Arc<str>, f64>))| {
            let info = |(name, bytes): (&Arc<str>, f64)| TypeInfo {
                name: name.to_string(),
                share: if sum > 0.0 { (bytes / sum).min(1.0) } else { 0.0 },
            };
            let mut types: Vec<TypeInfo> = types.into_iter().map(info).collect();
            types.sort_by(|a, b| b.share.total_cmp(&a.share));
            types.truncate(TYPES);
            (row, types)
        };
        all.into_iter().map(told).collect()
    }

    fn unavailable(&self) -> Vec<String> {
        let mut all = Vec::new();
        let seen = self.seen();
        if seen < 1.0 {
            all.push(format!(
                "what lives of the objects made while the budget let no probes be attached, {:.0}% of the time: objects \
                 that live no longer than such a rest may be missing; the intervals allow for it, and a larger --budget \
                 avoids it",
                (1.0 - seen) * 100.0
            ));
        }
        if let Some(why) = &self.failed {
            all.push(format!(
                "the last look at the process ({why}): the figures are of the one before"
            ));
        }
        if self.refused > 0 {
            all.push(format!(
                "what became of {}: they could not be found in the heap",
                plural(self.refused, "sampled object", "sampled objects")
            ));
        }
        if self.left_out > 0 {
            all.push(format!(
                "{}: there are too many to keep",
                plural(self.left_out, "sample", "samples")
            ));
        }
        let first = self.allocs.start.iter().filter_map(|s| s.targets.first());
        let missing = first.flat_map(|t| t.unavailable.iter());
        all.extend(missing.map(|u| format!("{}: {}; {}", u.feature, clean(&u.why), u.costs)));
        all.extend(self.allocs.notices.iter().map(|n| clean(&n.text)));
        all
    }
}

/// `made` in the window; of it `used`, of which `sure` is beyond doubt: the interval begins with that one's. `seen`: for
/// which part of the window probes were attached.
fn figures(made: &Share, used: &Share, sure: &Share, seen: f64) -> Figures {
    let mut high = used.bytes_high;
    if used.samples == 0 && made.samples > 0 {
        // None of n lives: with 95 % less than 3/n of them do (the rule of three).
        high = made.bytes * (3.0 / made.samples as f64).min(1.0);
    }
    // Of what was made meanwhile, all may live, or nothing.
    high = high * seen + made.bytes_high * (1.0 - seen);
    let (inuse_bytes, inuse_objects) = pair(used, sure.bytes_low * seen, high, made);
    let (alloc_bytes, alloc_objects) = pair(made, made.bytes_low, made.bytes_high, made);
    Figures {
        inuse_bytes,
        inuse_objects,
        inuse_samples: used.samples,
        alloc_bytes,
        alloc_objects,
        alloc_samples: made.samples,
    }
}

/// Bytes and objects, the latter with the interval of the former: a site's objects are mostly of one size.
fn pair(of: &Share, low: f64, high: f64, made: &Share) -> (Estimate, Estimate) {
    let whole = |value: f64, low: f64, high: f64| {
        let value = value.round().max(0.0) as u64;
        Estimate {
            value,
            low: (low.floor().max(0.0) as u64).min(value),
            high: (high.ceil().max(0.0) as u64).max(value),
        }
    };
    let objects_per_byte = if of.bytes > 0.0 {
        of.objects / of.bytes
    } else if made.bytes > 0.0 {
        made.objects / made.bytes
    } else {
        0.0
    };
    (whole(of.bytes, low, high), whole(of.objects, low * objects_per_byte, high * objects_per_byte))
}

#[cfg(test)]
#[path = "followed_tests.rs"]
mod tests;
