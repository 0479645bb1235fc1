//! From the records of a run that followed objects to a profile and a document: of what was allocated meanwhile, what is
//! in use, by line. Pure; must not know processes, nor how objects were followed.
//!
//! How much of it is in use is `inuse`'s business, which of it is whose `profile`'s; here the records are put
//! together, and what came of them is told. Samples that could not be followed are left out of the shares: the followed
//! ones of their class stand for them.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use super::estimate::Estimate;
use super::inuse::{AGES, InUse, Member, Used};
use super::schema::{
    AgeInfo, Document, Figures, FollowedInfo, LiveHeap, Reads, SCHEMA, SiteInfo, Source, Sums,
    TargetInfo, TypeInfo,
};
use super::stretches::{Clock, Moments};
use super::{ALLOC_OBJECTS, ALLOC_SPACE, INUSE_OBJECTS, INUSE_SPACE, SAMPLE_TYPES};
use crate::allocs::model;
use crate::analysis::allocations::Estimate as Share;
use crate::analysis::survival::{End, Life, MAX_AGE};
use crate::profile::table::{By, rows};
use crate::profile::{Location, LocationId, Profile, ValueType};
use crate::record::{AllocDensity, AllocSample, HeapFate, HeapObject, Record, RunStart};
use crate::report::format::{clean, plural};

/// Samples that are kept at most, whatever the records hold.
const MAX_SAMPLES: usize = 8 << 20;
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
    /// What became of each.
    fates: HashMap<Name, Told>,
    moments: Moments,
    /// Of what type each is, where that is known.
    types: HashMap<Name, Arc<str>>,
    type_names: u64,
    heap: Option<(u64, u64)>,
    sweepgen: u32,
    cycles: Option<u32>,
    missed: u64,
    looks: u64,
    refused: u64,
    failed: Option<String>,
    /// Samples beyond `MAX_SAMPLES`.
    left_out: u64,
    /// The last look told of all that was left.
    is_whole: bool,
}

/// What became of an object.
#[derive(Clone, Copy, Debug)]
struct Told {
    fate: HeapFate,
    /// For how many it counts.
    times: u64,
    /// The last generation in which it was there for certain, and that of the look that told.
    sure: u32,
    generation: u32,
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
                        let HeapObject { fate, times, sure, .. } = *o;
                        let (times, generation) = (times.max(1), look.sweepgen);
                        let told = Told { fate, times, sure, generation };
                        self.fates.insert((o.ts_ns, o.tid), told);
                    }
                }
                for kind in look.types.iter().take(MAX_TYPES) {
                    self.type_names += 1;
                    if self.type_names > MAX_TYPES as u64 {
                        break;
                    }
                    let name: Arc<str> = clean(&kind.name).into();
                    for object in kind.objects.iter().filter(|o| self.fates.contains_key(o)) {
                        self.types.insert(*object, Arc::clone(&name));
                    }
                }
                self.heap = look.heap.or(self.heap);
                self.is_whole |= look.last;
                self.sweepgen = look.sweepgen;
                self.cycles = look.cycles;
                self.missed += u64::from(look.missed);
                self.looks = look.looks;
                self.refused = look.refused;
                self.failed.clone_from(&look.failed);
            }
            Record::AllocState(state) => self.moments.push(state),
            _ => {}
        }
        self.allocs.push(record);
    }

    /// How the run began.
    pub fn start(&self) -> Option<&RunStart> {
        self.allocs.start.as_ref()
    }

    /// When the run ended, ns since 1970: by the last that is known of it.
    pub fn time_ns(&self) -> i64 {
        let Some(start) = self.start() else { return 0 };
        let observed = self.allocs.allocations.observed();
        let last = observed.start_ns.saturating_add(observed.window_ns);
        let end = self.allocs.end.as_ref().map_or(last, |e| e.end_ns);
        let passed = end.saturating_sub(start.start_ns);
        i64::try_from(start.wall_ns.saturating_add(passed)).unwrap_or(0)
    }

    /// What became of a sample's object, where it was followed. A recording that was cut off has no last look: then who was
    /// followed and not found dead may be there.
    fn fate(&self, name: &Name, sample: &AllocSample) -> Option<Told> {
        let told = self.fates.get(name).copied();
        if told.is_some() || self.is_whole || self.looks == 0 || sample.address == 0 {
            return told;
        }
        let age = self.sweepgen.wrapping_sub(sample.sweepgen);
        let is_young = age == 0 || age > u32::MAX / 2;
        let fate = if is_young { HeapFate::Young } else { HeapFate::Doubtful };
        Some(Told { fate, times: 1, sure: sample.sweepgen, generation: self.sweepgen })
    }

    /// The samples that were followed to the end.
    fn members(&self, clock: &Clock) -> Vec<Member> {
        let followed = self.samples.iter().filter_map(|(name, s)| {
            let fate = self.fate(name, s)?;
            let large = s.density == AllocDensity::Large;
            let weight = if large { s.size } else { s.objects } as f64 * fate.times as f64;
            let in_mark = self.moments.is_marking(s.ts_ns);
            let age = |generation: u32| clock.age(s.sweepgen, in_mark, generation);
            let end = match fate.fate {
                HeapFate::Live => End::Alive,
                HeapFate::Dead => End::Gone,
                HeapFate::Doubtful => End::Perhaps,
                HeapFate::Young | HeapFate::Unknown => End::Lost,
            };
            let until = match (fate.fate, age(fate.generation)) {
                (HeapFate::Young, _) => 0,
                // A collection found it.
                (HeapFate::Dead, until) => until.max(1),
                (_, until) => until,
            };
            // Not looked at in each generation since.
            let gap =
                fate.generation.wrapping_sub(fate.sure) > if end == End::Gone { 2 } else { 0 };
            let gap = gap && end != End::Alive;
            let life = Life { weight: 1.0, sure: age(fate.sure).min(until), until, end, gap };
            let cycles = fate.generation.wrapping_sub(s.sweepgen) / 2;
            let cycles = if cycles > MAX_AGE || fate.fate == HeapFate::Young { 0 } else { cycles };
            let class = if large { 0 } else { s.span_class >> 1 };
            let look = self.moments.look(s.look);
            Some(Member {
                ts_ns: s.ts_ns,
                stack: s.stack,
                class,
                look,
                weight,
                size: s.size as f64,
                age: cycles,
                life,
            })
        });
        followed.collect()
    }

    fn in_use(&self) -> InUse {
        let stretches = self.moments.stretches(self.sweepgen);
        let clock = self.moments.clock();
        let marks = self.moments.marks();
        InUse::new(&stretches, &self.members(&clock), marks, &clock, self.sweepgen)
    }

    /// All stacks with what they allocated and what of it is in use, and what that is made from.
    pub fn profile(&self) -> (Profile, (InUse, Vec<u32>)) {
        let in_use = self.in_use();
        let types = SAMPLE_TYPES.map(|(name, unit)| ValueType::new(name, unit));
        let mut profile = Profile::new(types.to_vec());
        profile.default_sample_type = Some("inuse_space".to_owned());
        profile.duration_ns =
            i64::try_from(self.allocs.allocations.observed().window_ns).unwrap_or(0);
        let used_by = in_use.by(Some);
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
            let used = used_by.get(&stack).cloned().unwrap_or_default();
            let mut values = [0; 4];
            values[ALLOC_OBJECTS] = made.objects.round() as i64;
            values[ALLOC_SPACE] = made.bytes.round() as i64;
            values[INUSE_OBJECTS] = used.objects.round() as i64;
            values[INUSE_SPACE] = used.bytes.round() as i64;
            profile.push_from_caller(&ids, &values, Vec::new());
            stacks.push(stack);
        }
        (profile, (in_use, stacks))
    }

    /// The document. `profile` and `parts` are what [`Self::profile`] made.
    pub fn document(
        &self,
        target: TargetInfo,
        profile: &Profile,
        (in_use, stacks): &(InUse, Vec<u32>),
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
        let used = in_use.by(|stack| row_of.get(&stack).copied());
        let types = self.types(&row_of);
        let made_by = |n| made.get(&n).copied().unwrap_or_default();
        let used_by = |n| used.get(&n).cloned().unwrap_or_default();
        let sites = rows.iter().enumerate().map(|(n, row)| {
            let sum = |index: usize| {
                row.cumulative.get(index).map_or(0, |v| u64::try_from(*v).unwrap_or(0))
            };
            SiteInfo {
                function: clean(&row.site.function),
                file: row.site.file.as_deref().map(clean),
                line: row.site.line,
                figures: figures(&made_by(n), &used_by(n)),
                cumulative: Sums {
                    inuse_bytes: sum(INUSE_SPACE),
                    inuse_objects: sum(INUSE_OBJECTS),
                    alloc_bytes: sum(ALLOC_SPACE),
                    alloc_objects: sum(ALLOC_OBJECTS),
                },
                ages: ages(&used_by(n)),
                types: types.get(&n).cloned().unwrap_or_default(),
            }
        });
        let sites = sites.collect();
        let made = a.by(|_| Some(())).remove(&()).unwrap_or_default();
        let used = in_use.by(|_| Some(())).remove(&()).unwrap_or_default();
        let mut total = figures(&made, &used);
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
            live_heap: self
                .heap
                .map(|(marked_bytes, live_bytes)| LiveHeap { marked_bytes, live_bytes }),
            total,
            sites,
            reads: Reads::default(),
            followed: Some(self.info(in_use, &used, made.samples)),
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

    fn info(&self, in_use: &InUse, used: &Used, samples: u64) -> FollowedInfo {
        let a = &self.allocs.allocations;
        let observed = a.observed();
        let whole = |bytes: f64| bytes.round() as u64;
        let (mut all, mut followed, mut count) = (0.0, 0.0, 0);
        for (name, s) in &self.samples {
            let size = s.size as f64 * s.objects as f64;
            all += size;
            if self.fate(name, s).is_some() {
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
            rests_bytes: whole(used.in_rests),
            doubtful_bytes: whole(in_use.doubtful_bytes),
            young_bytes: whole(in_use.young_bytes),
            untold_bytes: whole(in_use.untold_bytes),
            not_followed_share: if all > 0.0 {
                (1.0 - followed / all).clamp(0.0, 1.0)
            } else {
                0.0
            },
            unsampled_bytes: observed.unsampled_bytes,
            ages: ages(used),
            lost: end.and_then(|e| e.lost.get("alloc").copied()).unwrap_or(0),
            cost_share: if observed.cpu_ns == 0 { 0.0 } else { spent / observed.cpu_ns as f64 },
            ended: end.map(|e| e.reason.clone()),
        }
    }

    /// Of what types what is in use of each row is, as far as that is known of the followed objects.
    fn types(&self, row_of: &HashMap<u32, usize>) -> HashMap<usize, Vec<TypeInfo>> {
        let mut all: HashMap<usize, (f64, BTreeMap<&Arc<str>, f64>)> = HashMap::new();
        for (name, sample) in &self.samples {
            let Some(fate) = self.fate(name, sample) else { continue };
            let Some(row) = row_of.get(&sample.stack) else { continue };
            if !matches!(fate.fate, HeapFate::Live | HeapFate::Doubtful) {
                continue;
            }
            let objects =
                if sample.density == AllocDensity::Large { 1.0 } else { sample.objects as f64 };
            let bytes = sample.size as f64 * objects * fate.times as f64;
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
        if !self.is_whole && self.looks > 0 {
            all.push(
                "the last look at the objects: who was not found dead before may be in use, or not"
                    .to_owned(),
            );
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

/// Bytes in use by age; ages of which nothing is in use are left out.
fn ages(used: &Used) -> Vec<AgeInfo> {
    let told = used.ages.iter().enumerate().filter(|(_, bytes)| bytes.round() > 0.0);
    told.map(|(age, bytes)| AgeInfo {
        cycles_from: 1 << age,
        cycles_to: (age + 1 < AGES).then(|| (2 << age) - 1),
        inuse_bytes: bytes.round() as u64,
    })
    .collect()
}

/// `made` in the window, and of it `used`.
fn figures(made: &Share, used: &Used) -> Figures {
    let mut high = used.high;
    if used.samples == 0 && made.samples > 0 {
        // None of n lives: with 95 % less than 3/n of them do (the rule of three).
        high = high.max(made.bytes * (3.0 / made.samples as f64).min(1.0));
    }
    let of = Share { bytes: used.bytes, objects: used.objects, ..Share::default() };
    let (inuse_bytes, inuse_objects) = pair(&of, used.low, high, made);
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
