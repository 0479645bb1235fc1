//! What of the sampled objects survived which collection: from the samples and what became of each to series of bytes by
//! stack. Pure; must not know names, nor what a series says.
//!
//! Each sample stands for so many objects of its size class. Of a class the runtime counts how much was made in the
//! window; what the followed samples of the class do not add up to (the probes rested, or an object could not be
//! followed) is taken to be like them: one factor for each class. So a series has the right slope where objects live
//! long, which is what it is for; of what lives shorter than the probes rest it knows little.
//!
//! Where the budget lets the probes look only now and then, each look stands for the time about it, up to the middles of
//! the rests (a stretch): its samples count by how much longer the stretch is, and as if they were made all over it. Then
//! what is made steadily grows steadily, and not by steps. How many looks saw a site, is said: few prove nothing.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use crate::analysis::trend::{Kept, Point};
use crate::record::{AllocDensity, AllocSamples, AllocState, AllocTotals, HeapFate, HeapLook};

/// Samples that wait for their fate, and fates that wait for their sample, at most.
const MAX_WAITING: usize = 2 << 20;
/// Different lives that are told apart.
const MAX_LIVES: usize = 2 << 20;
/// Size classes, as numbers of 7 bits go.
const CLASSES: usize = 128;
/// Looks that are told apart; later ones share their numbers.
const MAX_LOOKS: u32 = 1 << 16;
/// Objects that were made within so much time, ns, and live alike, are kept as one.
const GRAIN: u64 = 1_000_000;
/// Probes that were attached for this part of the window were there all the time.
const ALWAYS: f64 = 0.9;
/// A look counts at most so many times as much as all do on average.
const MOST: f64 = 4.0;

/// Who a sample is: when, and on which thread.
type Name = (u64, u32);

#[derive(Clone, Copy, Debug)]
struct Made {
    stack: u32,
    class: u8,
    ts_ns: u64,
    look: u32,
    generation: u32,
    /// Objects that it stands for; of a large one, its bytes.
    weight: f64,
}

/// What became of one.
#[derive(Clone, Copy, Debug)]
struct Fate {
    what: HeapFate,
    /// As of the end of this collection.
    generation: u32,
    times: f64,
}

/// Which collections objects have lived through, by `mheap_.sweepgen` after each.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Life {
    stack: u32,
    class: u8,
    look: u32,
    /// When they were made, in `GRAIN`s.
    made: u32,
    /// The first.
    from: u32,
    /// The last that is certain.
    sure: u32,
    /// The last that may be.
    to: u32,
}

/// A stay of the probes.
#[derive(Clone, Copy, Debug)]
struct Look {
    /// Its first and last sample, ns.
    first: u64,
    last: u64,
    /// How long probes had been attached in all before it, and as it ended, ns.
    before: u64,
    after: u64,
}

/// What a look stands for.
#[derive(Clone, Copy, Debug)]
struct Stretch {
    look: Look,
    from: u64,
    to: u64,
    /// How many times its samples count.
    times: f64,
}

impl Stretch {
    /// Where what was made at a time is put.
    fn place(&self, ts_ns: u64) -> u64 {
        let len = self.look.last.saturating_sub(self.look.first);
        let at = ts_ns.clamp(self.look.first, self.look.last.max(self.look.first));
        let part = (at - self.look.first) as f64 / len.max(1) as f64;
        // A single sample is put into the middle.
        let part = if len == 0 { 0.5 } else { part };
        self.from + ((self.to.saturating_sub(self.from)) as f64 * part) as u64
    }
}

#[derive(Clone, Copy, Debug, Default)]
struct Tally {
    samples: f64,
    weight: f64,
    squares: f64,
}

/// The samples of a run.
#[derive(Debug, Default)]
pub struct Survivors {
    made: HashMap<Name, Made>,
    fates: HashMap<Name, Fate>,
    lives: HashMap<Life, Tally>,
    /// By class and look: what the followed samples stand for.
    followed: BTreeMap<(u8, u32), f64>,
    looks: BTreeMap<u32, Look>,
    sizes: BTreeMap<u8, u64>,
    /// Ranges of generations that passed without a look, ascending.
    missed: Vec<(u32, u32)>,
    /// The generation in which it began.
    began: Option<u32>,
    /// That of the last look.
    last: Option<u32>,
    first_state: Option<AllocState>,
    last_state: Option<AllocState>,
    /// How long probes had been attached as so many looks were over, or under way, ns.
    observed: BTreeMap<u32, u64>,
    /// Samples and lives beyond the limits.
    pub left_out: u64,
    /// Collections that were not looked at.
    pub cycles_missed: u64,
    /// Objects followed to a fate.
    pub objects: u64,
    /// Why the last look failed.
    pub failed: Option<String>,
}

/// A collection: its `mheap_.sweepgen`, and when it was seen, ns.
pub type Collection = (u32, u64);

/// What survived of one place's objects.
#[derive(Clone, Debug, Default)]
pub struct Survived {
    /// Proven alive.
    pub sure: Vec<Point>,
    /// With those that may be other objects by now.
    pub all: Vec<Point>,
    /// How much of what lived halfway lives at the end.
    pub kept: Option<Kept>,
    /// Samples that lived through any collection.
    pub samples: u64,
    /// Stays of the probes in which those were made that live at the end.
    pub looks: u64,
    /// The stack that most of the last bytes are of.
    pub stack: Option<u32>,
}

impl Survivors {
    /// Takes samples.
    pub fn samples(&mut self, samples: &AllocSamples) {
        for s in &samples.samples {
            let class = s.span_class >> 1;
            // Searches for free slots do not say which object was made: it cannot be followed.
            if s.address == 0 || s.objects == 0 || usize::from(class) >= CLASSES {
                continue;
            }
            if s.size > 0 && class > 0 {
                self.sizes.insert(class, s.size);
            }
            let large = s.density == AllocDensity::Large;
            let weight = if large { s.size as f64 } else { s.objects as f64 };
            let look = s.look.min(MAX_LOOKS);
            let made = Made {
                stack: s.stack,
                class,
                ts_ns: s.ts_ns,
                look,
                generation: s.sweepgen,
                weight,
            };
            let of = Look { first: s.ts_ns, last: s.ts_ns, before: 0, after: 0 };
            let of = self.looks.entry(look).or_insert(of);
            (of.first, of.last) = (of.first.min(s.ts_ns), of.last.max(s.ts_ns));
            self.began = Some(self.began.map_or(s.sweepgen, |b| b.min(s.sweepgen)));
            let name = (s.ts_ns, s.tid);
            if let Some(fate) = self.fates.remove(&name) {
                self.settle(made, fate);
            } else if self.made.len() < MAX_WAITING {
                self.made.insert(name, made);
            } else {
                self.left_out += 1;
            }
        }
    }

    /// Takes a state.
    pub fn state(&mut self, state: &AllocState) {
        if self.first_state.is_none() {
            self.first_state = Some(state.clone());
        }
        if self.observed.len() < MAX_LOOKS as usize {
            let observed = self.observed.entry(state.looks).or_default();
            *observed = state.observed_ns.max(*observed);
        }
        self.last_state = Some(state.clone());
    }

    /// Takes what a look has found.
    pub fn look(&mut self, look: &HeapLook) {
        let generation = look.sweepgen;
        if look.missed > 0 && self.last.is_none_or(|last| last < generation) {
            let from = generation.saturating_sub(look.missed.saturating_mul(2));
            self.missed.push((from, generation.saturating_sub(2)));
            self.cycles_missed += u64::from(look.missed);
        }
        self.last = Some(self.last.map_or(generation, |last| last.max(generation)));
        if look.failed.is_some() {
            self.failed.clone_from(&look.failed);
        }
        for o in &look.objects {
            let fate = Fate { what: o.fate, generation, times: o.times.max(1) as f64 };
            let name = (o.ts_ns, o.tid);
            if let Some(made) = self.made.remove(&name) {
                self.settle(made, fate);
            } else if self.fates.len() < MAX_WAITING {
                self.fates.insert(name, fate);
            } else {
                self.left_out += 1;
            }
        }
    }

    fn settle(&mut self, made: Made, fate: Fate) {
        let weight = made.weight * fate.times;
        *self.followed.entry((made.class, made.look)).or_default() += weight;
        self.objects += 1;
        let from = made.generation.saturating_add(2);
        let before = fate.generation.saturating_sub(2);
        let (to, proven) = match fate.what {
            HeapFate::Live => (fate.generation, true),
            // An unknown one was not seen dead before.
            HeapFate::Doubtful | HeapFate::Unknown => (fate.generation, false),
            HeapFate::Dead => (before, false),
            HeapFate::Young => return,
        };
        if to < from {
            return;
        }
        // From the first collection on that nobody looked at, it may have been another one.
        let gap = self.missed.iter().find(|(_, end)| *end >= from).map(|(start, _)| *start);
        let mut sure = match gap {
            Some(gap) if !proven => to.min(gap.saturating_sub(2)),
            _ => to,
        };
        if fate.what == HeapFate::Unknown {
            sure = sure.min(before);
        }
        let Made { stack, class, look, ts_ns, .. } = made;
        let began = self.first_state.as_ref().map_or(0, |s| s.ts_ns);
        let made = (ts_ns.saturating_sub(began) / GRAIN).min(u64::from(u32::MAX)) as u32;
        let life = Life { stack, class, look, made, from, sure, to };
        if self.lives.len() >= MAX_LIVES && !self.lives.contains_key(&life) {
            self.left_out += 1;
            return;
        }
        let tally = self.lives.entry(life).or_default();
        tally.samples += 1.0;
        tally.weight += weight;
        tally.squares += weight * weight;
    }

    /// Whether anything was followed.
    pub fn is_empty(&self) -> bool {
        self.first_state.is_none()
    }

    /// For which part of the window probes were attached.
    pub fn observed_share(&self) -> f64 {
        let (Some(first), Some(last)) = (&self.first_state, &self.last_state) else { return 0.0 };
        let window = last.ts_ns.saturating_sub(first.ts_ns).max(1) as f64;
        (last.observed_ns.saturating_sub(first.observed_ns) as f64 / window).min(1.0)
    }

    /// What the probes took of the target's CPU time, at so much a hit, ns.
    pub fn cost_share(&self, cost_ns: u64) -> f64 {
        let (Some(first), Some(last)) = (&self.first_state, &self.last_state) else { return 0.0 };
        let cpu = last.cpu_ns.saturating_sub(first.cpu_ns);
        let spent = last.hits.saturating_sub(first.hits).saturating_mul(cost_ns);
        if cpu == 0 { 0.0 } else { spent as f64 / cpu as f64 }
    }

    /// The collections that objects can be told of, out of these.
    pub fn collections(&self, all: &[Collection]) -> Vec<Collection> {
        let (Some(began), Some(last)) = (self.began, self.last) else { return Vec::new() };
        let looked = |g: u32| !self.missed.iter().any(|(from, to)| (*from..=*to).contains(&g));
        all.iter().copied().filter(|(g, _)| *g > began && *g <= last && looked(*g)).collect()
    }

    /// What each look stands for; empty where the probes were there all the time.
    fn stretches(&self) -> BTreeMap<u32, Stretch> {
        let (Some(first), Some(last)) = (&self.first_state, &self.last_state) else {
            return BTreeMap::new();
        };
        let share = self.observed_share();
        if share >= ALWAYS || self.looks.is_empty() {
            return BTreeMap::new();
        }
        let mut looks: Vec<(u32, Look)> = self.looks.iter().map(|(n, l)| (*n, *l)).collect();
        let mut before = 0;
        for (n, look) in &mut looks {
            // The look of number n is under way, or over, while n + 1 have begun.
            look.before = before;
            look.after = self.observed.range(..=*n + 1).next_back().map_or(before, |(_, o)| *o);
            before = look.after.max(before);
        }
        let middle = |a: u64, b: u64| a.midpoint(b.max(a));
        let mut stretches = BTreeMap::new();
        for (n, &(number, look)) in looks.iter().enumerate() {
            let from = match n.checked_sub(1).and_then(|n| looks.get(n)) {
                Some((_, earlier)) => middle(earlier.last, look.first),
                None => first.ts_ns.min(look.first),
            };
            let to = match looks.get(n + 1) {
                Some((_, later)) => middle(look.last, later.first),
                None => last.ts_ns.max(look.last),
            };
            let attached = look.after.saturating_sub(look.before).max(look.last - look.first);
            let times = to.saturating_sub(from) as f64 / attached.max(1) as f64;
            let times = times.clamp(1.0, MOST / share.max(0.001));
            stretches.insert(number, Stretch { look, from, to, times });
        }
        stretches
    }

    /// Bytes of one unit of a class's weight, times what it has to be multiplied by.
    fn units(&self, class_sizes: &[u64], stretches: &BTreeMap<u32, Stretch>) -> BTreeMap<u8, f64> {
        let totals = |state: &Option<AllocState>| state.as_ref()?.totals.clone();
        let counted = totals(&self.first_state).zip(totals(&self.last_state));
        let mut followed: BTreeMap<u8, f64> = BTreeMap::new();
        for (&(class, look), &weight) in &self.followed {
            let times = stretches.get(&look).map_or(1.0, |s| s.times);
            *followed.entry(class).or_default() += weight * times;
        }
        let unit = |(&class, &followed): (&u8, &f64)| {
            let size = self.sizes.get(&class).copied();
            let size = size.or_else(|| class_sizes.get(usize::from(class)).copied()).unwrap_or(0);
            let size = if class == 0 { 1.0 } else { size as f64 };
            let factor = counted.as_ref().map_or(1.0, |(first, last)| {
                of_class(class, first, last) / followed.max(f64::MIN_POSITIVE)
            });
            // What Ps have in their caches is not counted yet: what was seen was made all the same.
            (class, size * if stretches.is_empty() { factor.max(1.0) } else { factor })
        };
        followed.iter().map(unit).collect()
    }

    /// What survived each of the collections, by place; `place` says of which place a stack is, below `places`.
    pub fn series(
        &self,
        collections: &[Collection],
        class_sizes: &[u64],
        places: usize,
        place: impl Fn(u32) -> Option<usize>,
    ) -> Vec<Survived> {
        let n = collections.len();
        let began = self.first_state.as_ref().map_or(0, |s| s.ts_ns);
        let stretches = self.stretches();
        let units = self.units(class_sizes, &stretches);
        let half = n / 2;
        let mut sums = vec![Sums::new(n); places];
        for (life, tally) in &self.lives {
            let Some(sum) = place(life.stack).and_then(|p| sums.get_mut(p)) else { continue };
            let unit = units.get(&life.class).copied().unwrap_or(0.0);
            let stretch = stretches.get(&life.look);
            let unit = unit * stretch.map_or(1.0, |s| s.times);
            let (bytes, squares) = (tally.weight * unit, tally.squares * unit * unit);
            let first = collections.partition_point(|(g, _)| *g < life.from);
            let end = |last: u32| collections.partition_point(|(g, _)| *g <= last);
            let (mut sure, mut all) = (end(life.sure).max(first), end(life.to).max(first));
            if all == first {
                continue;
            }
            let mut from = first;
            if let Some(stretch) = stretch {
                // As old, but made at another time; what lives at the end still does.
                let at = stretch.place(began + u64::from(life.made) * GRAIN);
                from = collections.partition_point(|(_, ts)| *ts < at);
                let moved = |end: usize| if end == n { n } else { (from + end - first).min(n) };
                (sure, all) = (moved(sure).max(from), moved(all).max(from));
            }
            if all == from {
                continue;
            }
            sum.samples += tally.samples;
            sum.add(from, sure, all, bytes, squares);
            if (from..all).contains(&half) {
                sum.lived += bytes;
                sum.lived_samples += tally.samples;
                if all < n {
                    sum.died += bytes;
                }
            }
            if all == n {
                *sum.stacks.entry(life.stack).or_default() += bytes;
                sum.looks.insert(life.look);
            }
        }
        sums.iter().map(|s| s.survived(collections)).collect()
    }
}

/// What the runtime counted of a class between two moments: objects, or bytes of large ones.
fn of_class(class: u8, first: &AllocTotals, last: &AllocTotals) -> f64 {
    if class == 0 {
        return last.large_bytes.saturating_sub(first.large_bytes) as f64;
    }
    let of = |t: &AllocTotals| t.small.get(&class).copied().unwrap_or(0);
    of(last).saturating_sub(of(first)) as f64
}

/// One place's sums: at each collection, how much more than at the one before.
#[derive(Clone, Debug, Default)]
struct Sums {
    sure: Vec<f64>,
    all: Vec<f64>,
    squares: Vec<f64>,
    lived: f64,
    died: f64,
    lived_samples: f64,
    samples: f64,
    stacks: BTreeMap<u32, f64>,
    looks: BTreeSet<u32>,
}

impl Sums {
    fn new(n: usize) -> Self {
        let zeros = || vec![0.0; n + 1];
        Self { sure: zeros(), all: zeros(), squares: zeros(), ..Self::default() }
    }

    fn add(&mut self, first: usize, sure: usize, all: usize, bytes: f64, squares: f64) {
        for (series, end, value) in [
            (&mut self.sure, sure, bytes),
            (&mut self.all, all, bytes),
            (&mut self.squares, all, squares),
        ] {
            series[first] += value;
            series[end] -= value;
        }
    }

    fn survived(&self, collections: &[Collection]) -> Survived {
        let series = |of: &[f64]| {
            let (mut bytes, mut squares) = (0.0_f64, 0.0_f64);
            let point = |(n, (generation, ts)): (usize, &Collection)| {
                bytes += of[n];
                squares += self.squares[n];
                Point {
                    gc: u64::from(*generation / 2),
                    time_ns: *ts,
                    // Sums of many numbers that were added and taken away again.
                    bytes: bytes.max(0.0),
                    standard_error: squares.max(0.0).sqrt(),
                }
            };
            collections.iter().enumerate().map(point).collect()
        };
        let most = self.stacks.iter().max_by(|a, b| a.1.total_cmp(b.1));
        Survived {
            sure: series(&self.sure),
            all: series(&self.all),
            kept: Kept::of(self.lived, self.died, self.lived_samples as u64),
            samples: self.samples as u64,
            looks: self.looks.len() as u64,
            stack: most.map(|(stack, _)| *stack),
        }
    }
}

#[cfg(test)]
#[path = "survivors_tests.rs"]
mod tests;
