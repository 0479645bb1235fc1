//! Takes the stream of a run that looks for leaks, live or from a file, and keeps what its verdicts need. Must not know
//! processes, BPF, or what is concluded.

use std::collections::HashMap;

use super::counted::Counted;
use super::place::{Places, places};
use super::profiled::{Held, Profiled};
use super::survivors::{Collection, Survived, Survivors};
use crate::allocs::model::Model;
use crate::analysis::trend::Point;
use crate::record::{AllocHint, LeakRecord, LeakSources, LeftHeap, ProfileStack, Record};

/// Collections that are kept at most.
const MAX_COLLECTIONS: usize = 1 << 20;
/// Collections of which series are made: of more, every so many.
const MAX_POINTS: usize = 600;
/// Stacks of the runtime's profile that are kept.
const MAX_STACKS: usize = 1 << 18;

/// What is known of a run.
#[derive(Debug, Default)]
pub struct Seen {
    /// Head, tail, stacks and names.
    pub run: Model,
    /// What can be read of the process.
    pub sources: Option<LeakSources>,
    /// Why no objects are followed.
    pub not_followed: Option<String>,
    /// Sampled objects.
    pub survivors: Survivors,
    /// The runtime's own memory profile.
    pub profiled: Profiled,
    /// Goroutines.
    pub counted: Counted,
    left: Vec<LeftHeap>,
    profile_stacks: HashMap<u32, Vec<u64>>,
    hints: HashMap<Vec<u64>, AllocHint>,
}

/// One place's bytes, by both sources.
#[derive(Clone, Debug, Default)]
pub struct Site {
    /// Where.
    pub places: Places,
    /// By the runtime's own profile.
    pub held: Option<Held>,
    /// By objects that were followed.
    pub survived: Option<Survived>,
}

impl Seen {
    /// Takes the next record.
    pub fn push(&mut self, record: Record) {
        match record {
            Record::AllocSamples(samples) => self.survivors.samples(&samples),
            Record::HeapLook(look) => self.survivors.look(&look),
            Record::AllocState(state) => {
                self.survivors.state(&state);
                self.run.push(Record::AllocState(state));
            }
            Record::Leaks(leaks) => self.leaks(*leaks),
            other => self.run.push(other),
        }
    }

    fn leaks(&mut self, record: LeakRecord) {
        match record {
            LeakRecord::Sources(new) => self.sources = Some(new),
            LeakRecord::NotFollowed(why) => self.not_followed = Some(why),
            LeakRecord::Heap(left) => {
                if self.left.len() < MAX_COLLECTIONS
                    && self.left.last().is_none_or(|last| last.gc < left.gc)
                {
                    self.left.push(left);
                }
            }
            LeakRecord::ProfileStack(ProfileStack { id, addresses }) => {
                if self.profile_stacks.len() < MAX_STACKS {
                    self.profile_stacks.insert(id, addresses);
                }
            }
            LeakRecord::Profile(counts) => self.profiled.take(&counts),
            LeakRecord::GoroutineSite(site) => self.counted.site(&site),
            LeakRecord::Goroutines(counts) => self.counted.census(&counts),
            LeakRecord::GoroutinesKept(kept) => self.counted.kept(&kept),
            LeakRecord::Hint(hint) => drop(self.hints.insert(hint.addresses.clone(), hint)),
        }
    }

    /// Whether the run looked for leaks at all.
    pub fn is_of_leaks(&self) -> bool {
        self.sources.is_some()
    }

    /// What each collection left.
    pub fn left(&self) -> &[LeftHeap] {
        &self.left
    }

    /// The same as points.
    pub fn heap(&self) -> Vec<Point> {
        let point = |l: &LeftHeap| Point {
            gc: l.gc,
            time_ns: l.ts_ns,
            bytes: l.marked as f64,
            standard_error: 0.0,
        };
        // The first was before the run: when, is not known.
        self.left.iter().skip(1).map(point).collect()
    }

    /// Collections that ended in the run, as far as they were seen.
    pub fn collections(&self) -> u64 {
        let ends = self.left.first().zip(self.left.last());
        ends.map_or(0, |(first, last)| last.gc.saturating_sub(first.gc))
    }

    fn places(&self, addresses: &[u64]) -> Option<Places> {
        let module = self.run.start.as_ref().and_then(|s| s.targets.first()?.module.as_deref());
        places(addresses.iter().flat_map(|a| self.run.frames(*a)), module)
    }

    /// The addresses of the stack that most of what grows at a site is of, innermost first.
    pub fn stack_of(&self, site: &Site) -> Option<&[u64]> {
        let followed = site.survived.as_ref().and_then(|s| self.run.stacks.get(&s.stack?));
        let held = || site.held.as_ref().and_then(|h| self.profile_stacks.get(&h.stack?));
        followed.or_else(held).map(Vec::as_slice)
    }

    /// What a stack allocates.
    pub fn hint(&self, addresses: &[u64]) -> Option<&AllocHint> {
        self.hints.get(addresses)
    }

    /// All places that allocate, with what is known of each.
    pub fn sites(&self) -> Vec<Site> {
        let mut numbers: HashMap<Places, usize> = HashMap::new();
        let mut by_line: HashMap<super::place::Place, usize> = HashMap::new();
        let mut sites: Vec<Site> = Vec::new();
        let mut number = |places: Places| {
            if let Some(n) = numbers.get(&places) {
                return *n;
            }
            // One line is one site, whatever it calls.
            let n = *by_line.entry(places.place.clone()).or_insert_with(|| {
                sites.push(Site { places: places.clone(), ..Site::default() });
                sites.len() - 1
            });
            numbers.insert(places, n);
            n
        };
        let mut place_of = |stacks: &HashMap<u32, Vec<u64>>| -> HashMap<u32, usize> {
            let mut ids: Vec<u32> = stacks.keys().copied().collect();
            ids.sort_unstable();
            let places = ids.into_iter().filter_map(|id| Some((id, self.places(&stacks[&id])?)));
            places.map(|(id, places)| (id, number(places))).collect()
        };
        let followed = place_of(&self.run.stacks);
        let profiled = place_of(&self.profile_stacks);
        let collections = self.thinned();
        if !self.survivors.is_empty() {
            let sizes = &self.run.allocations.run().class_sizes;
            let place = |stack| followed.get(&stack).copied();
            let series = self.survivors.series(&collections, sizes, sites.len(), place);
            for (site, survived) in sites.iter_mut().zip(series) {
                site.survived = Some(survived);
            }
        }
        if !self.profiled.is_empty() {
            let times: HashMap<u64, u64> = self.left.iter().map(|l| (l.gc, l.ts_ns)).collect();
            let place = |stack| profiled.get(&stack).copied();
            let series = self.profiled.series(sites.len(), place, |gc| times.get(&gc).copied());
            for (site, held) in sites.iter_mut().zip(series) {
                site.held = Some(held);
            }
        }
        // The function inside is that of the stack that matters.
        for site in &mut sites {
            if let Some(places) = self.stack_of(site).and_then(|stack| self.places(stack)) {
                site.places = places;
            }
        }
        sites
    }

    /// The collections that followed objects can be told of; of many, every so many.
    fn thinned(&self) -> Vec<Collection> {
        let all: Vec<Collection> = self.left.iter().map(|l| ((l.gc * 2) as u32, l.ts_ns)).collect();
        let all = self.survivors.collections(&all);
        let each = all.len().div_ceil(MAX_POINTS).max(1);
        // The last one is always among them.
        let skip = all.len().saturating_sub(1) % each;
        all.into_iter().skip(skip).step_by(each).collect()
    }
}
