//! Who allocates how much: estimates from samples, with their intervals. Pure; must not know how samples are drawn,
//! nor what an address is called.
//!
//! # The estimator
//!
//! Size class by size class (small objects), the runtime counts how many objects were allocated; that is exact, up to
//! what Ps hold in their caches. The samples tell which part of them each stack made: `share = weights of the stack's
//! samples / weights of all samples of the class`, a sample's weight being the objects that it stands for. So
//!
//! ```text
//! bytes(site) = sum over classes of  size * objects counted * share(site)  +  the same of large objects, by bytes
//! ```
//!
//! which is a ratio estimator, post-stratified by size class: unbiased up to terms of 1/samples, if a
//! stack's objects lie anywhere in the rows that samples are drawn from (see `allocs::decode`). Whether probes stayed or
//! looked in at times makes no difference to it; to its error it does.
//!
//! # Its interval
//!
//! 95 %. Within a class the variance of a share `p` is `((1 - 2p) W2(site) + p² W2(all)) / W²`, `W` the sum of the weights,
//! `W2` that of their squares. Where the probes were away for a part of the time, the scatter between looks
//! (delete-one jackknife over looks) is taken instead if it is larger, by Student's t: what
//! happened in between was not seen. From the relative variance follow the samples that an ordinary count would have needed (`k = mean²
//! / variance`), and from those the interval of a Poisson count (Wilson and Hilferty), which stays right for few.
//! Large objects are all seen while the probes stay, so they add no error then.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use crate::record::{AllocDensity, AllocRun, AllocSample, AllocState, AllocSums};

/// Of the normal distribution, two-sided 95 %.
const Z: f64 = 1.96;
/// Looks that are told apart; more share their numbers.
const MAX_LOOKS: u32 = 512;
/// Probes that were attached for this part of the window were there all the time, bar the moments of change.
const ALWAYS: f64 = 0.97;
/// Size classes, as numbers of 8 bits go: 68 in use.
const CLASSES: usize = 128;

/// What samples of one stack, class and look add up to.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
struct Cell {
    samples: u64,
    weight: f64,
    squares: f64,
}

impl Cell {
    fn add(&mut self, other: &Self) {
        self.samples += other.samples;
        self.weight += other.weight;
        self.squares += other.squares;
    }
}

/// An estimate of what was allocated in the window.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Estimate {
    /// Bytes.
    pub bytes: f64,
    /// The interval of the bytes.
    pub bytes_low: f64,
    /// See `bytes_low`.
    pub bytes_high: f64,
    /// Objects.
    pub objects: f64,
    /// Samples it rests on.
    pub samples: u64,
}

/// How a window was observed.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Observed {
    /// Its beginning, ns.
    pub start_ns: u64,
    /// Its length, ns.
    pub window_ns: u64,
    /// For how long probes were attached, ns.
    pub observed_ns: u64,
    /// Stays of the probes.
    pub looks: u32,
    /// Hits.
    pub hits: u64,
    /// CPU time of the target, ns.
    pub cpu_ns: u64,
    /// All that was charged to the budget, ns; `None` where not known.
    pub charged_ns: Option<u64>,
    /// Collections that ended; `None` where not known.
    pub cycles: Option<u32>,
    /// Bytes allocated by the runtime's own count; `None` where not known.
    pub counted_bytes: Option<u64>,
    /// Objects, likewise; those that share a block with others are not told apart.
    pub counted_objects: Option<u64>,
    /// Of `counted_bytes`: those of size classes that no sample tells of.
    pub unsampled_bytes: u64,
}

/// One target's allocations.
#[derive(Clone, Debug, Default)]
pub struct Allocations {
    run: AllocRun,
    cells: HashMap<(u32, u8, u32), Cell>,
    /// Bytes of an object, as the samples' spans told.
    sizes: BTreeMap<u8, u64>,
    first: Option<AllocState>,
    last: Option<AllocState>,
    /// Every state, for what the plan was.
    plans: Vec<(u64, String, String)>,
    sums: Option<AllocSums>,
    samples: u64,
}

impl Allocations {
    /// How the run is set up.
    pub fn begin(&mut self, run: AllocRun) {
        self.run = run;
    }

    /// The same run, before any sample.
    #[must_use]
    pub fn without_samples(&self) -> Self {
        Self { cells: HashMap::new(), samples: 0, sums: None, ..self.clone() }
    }

    /// How the run is set up.
    pub fn run(&self) -> &AllocRun {
        &self.run
    }

    /// Takes a sample.
    pub fn sample(&mut self, s: &AllocSample) {
        let class = s.span_class >> 1;
        if usize::from(class) >= CLASSES || s.objects == 0 {
            return;
        }
        // Large objects differ in size, so they count by bytes.
        let weight =
            if s.density == AllocDensity::Large { s.size as f64 } else { s.objects as f64 };
        if s.size > 0 {
            self.sizes.insert(class, s.size);
        }
        let one = Cell { samples: 1, weight, squares: weight * weight };
        self.cells.entry((s.stack, class, s.look % MAX_LOOKS)).or_default().add(&one);
        self.samples += 1;
    }

    /// Takes a state.
    pub fn state(&mut self, s: AllocState) {
        if self.plans.last().is_none_or(|(_, plan, _)| *plan != s.plan) {
            self.plans.push((s.ts_ns, s.plan.clone(), s.why.clone()));
        }
        if self.first.is_none() {
            self.first = Some(s.clone());
        }
        self.last = Some(s);
    }

    /// Takes the sums of a run that counted every allocation.
    pub fn sums(&mut self, sums: AllocSums) {
        self.sums = Some(sums);
    }

    /// When which plan began, ns, and why.
    pub fn plans(&self) -> &[(u64, String, String)] {
        &self.plans
    }

    /// Stacks that allocated.
    pub fn stacks(&self) -> BTreeSet<u32> {
        let exact = self.sums.iter().flat_map(|s| s.stacks.iter().map(|(stack, ..)| *stack));
        self.cells.keys().map(|(stack, ..)| *stack).chain(exact).collect()
    }

    /// Objects and bytes of allocations that were counted one by one and whose stack is not known.
    pub fn unknown(&self) -> (u64, u64) {
        self.sums.as_ref().map_or((0, 0), |s| s.unknown)
    }

    /// How the window was observed.
    pub fn observed(&self) -> Observed {
        let (Some(first), Some(last)) = (&self.first, &self.last) else {
            return Observed::default();
        };
        let mut o = Observed {
            start_ns: first.ts_ns,
            window_ns: last.ts_ns.saturating_sub(first.ts_ns),
            observed_ns: last.observed_ns.saturating_sub(first.observed_ns),
            looks: last.looks,
            hits: last.hits.saturating_sub(first.hits),
            cpu_ns: last.cpu_ns.saturating_sub(first.cpu_ns),
            charged_ns: last.spent_ns.map(|ns| ns.saturating_sub(first.spent_ns.unwrap_or(0))),
            cycles: first.cycles.zip(last.cycles).map(|(a, b)| b.wrapping_sub(a)),
            ..Observed::default()
        };
        let Some(counted) = self.counted() else { return o };
        let (mut bytes, mut objects) = (0, 0);
        for (&class, &n) in &counted.objects {
            let size =
                if class == 0 { counted.large_bytes } else { n.saturating_mul(self.size(class)) };
            bytes = u64::saturating_add(bytes, size);
            objects = u64::saturating_add(objects, n);
            if !self.run.exact && !self.cells.keys().any(|(_, c, _)| *c == class) {
                o.unsampled_bytes = o.unsampled_bytes.saturating_add(size);
            }
        }
        o.counted_bytes = Some(bytes);
        o.counted_objects = Some(objects);
        o
    }

    fn size(&self, class: u8) -> u64 {
        let table = self.run.class_sizes.get(usize::from(class)).copied().unwrap_or(0);
        self.sizes.get(&class).copied().unwrap_or(table)
    }

    /// What the runtime counted in the window.
    fn counted(&self) -> Option<Counted> {
        let (first, last) =
            (self.first.as_ref()?.totals.as_ref()?, self.last.as_ref()?.totals.as_ref()?);
        let mut objects: BTreeMap<u8, u64> = last
            .small
            .iter()
            .map(|(class, n)| {
                (*class, n.saturating_sub(first.small.get(class).copied().unwrap_or(0)))
            })
            .filter(|(class, n)| *class > 0 && *n > 0)
            .collect();
        let large = last.large.saturating_sub(first.large);
        if large > 0 {
            objects.insert(0, large);
        }
        Some(Counted { objects, large_bytes: last.large_bytes.saturating_sub(first.large_bytes) })
    }

    /// The estimates of groups of stacks; `None` as a group leaves a stack out.
    pub fn by<K: Ord + Clone>(&self, group: impl Fn(u32) -> Option<K>) -> BTreeMap<K, Estimate> {
        if let Some(sums) = self.sums.as_ref().filter(|_| self.run.exact) {
            let mut all: BTreeMap<K, Estimate> = BTreeMap::new();
            for &(stack, objects, bytes) in &sums.stacks {
                if let Some(key) = group(stack) {
                    let e = all.entry(key).or_default();
                    e.bytes += bytes as f64;
                    e.objects += objects as f64;
                    e.samples = e.samples.saturating_add(objects);
                    (e.bytes_low, e.bytes_high) = (e.bytes, e.bytes);
                }
            }
            return all;
        }
        let observed = self.observed();
        let always = observed.observed_ns as f64 >= ALWAYS * observed.window_ns as f64;
        let counted = self.counted();
        let mut keys: HashMap<u32, Option<K>> = HashMap::new();
        let mut groups: BTreeMap<K, HashMap<(u8, u32), Cell>> = BTreeMap::new();
        let mut whole: HashMap<(u8, u32), Cell> = HashMap::new();
        for (&(stack, class, look), cell) in &self.cells {
            whole.entry((class, look)).or_default().add(cell);
            if let Some(key) = keys.entry(stack).or_insert_with(|| group(stack)) {
                groups.entry(key.clone()).or_default().entry((class, look)).or_default().add(cell);
            }
        }
        let strata = self.strata(&whole, counted.as_ref(), &observed);
        let mut looks: Vec<u32> = whole.keys().map(|(_, look)| *look).collect();
        looks.sort_unstable();
        looks.dedup();
        groups
            .into_iter()
            .map(|(key, cells)| (key, estimate(&cells, &strata, &looks, always)))
            .collect()
    }

    /// What is known of each class as a whole.
    fn strata(
        &self,
        whole: &HashMap<(u8, u32), Cell>,
        counted: Option<&Counted>,
        observed: &Observed,
    ) -> HashMap<u8, Stratum> {
        // Without the runtime's counts, what was seen is taken for a part of the window.
        let blown = observed.window_ns as f64 / observed.observed_ns.max(1) as f64;
        let mut strata: HashMap<u8, Stratum> = HashMap::new();
        for (&(class, look), cell) in whole {
            let s = strata.entry(class).or_default();
            s.all.add(cell);
            s.looks.entry(look).or_default().add(cell);
        }
        for (&class, s) in &mut strata {
            let size = self.size(class) as f64;
            // A large object's weight is its bytes.
            s.unit = if class == 0 { 1.0 } else { size };
            let seen = s.all.weight * blown.max(1.0);
            s.total = match counted {
                None => seen,
                Some(c) if class == 0 => (c.large_bytes as f64).max(s.all.weight),
                // What Ps have in their caches is not counted yet: what was seen was made all the same.
                Some(c) => (c.objects.get(&class).copied().unwrap_or(0).max(s.all.samples)) as f64,
            };
            s.objects_per_weight = match (class, counted) {
                (0, Some(c)) => {
                    c.objects.get(&0).map_or(0.0, |n| *n as f64 / (c.large_bytes as f64).max(1.0))
                }
                (0, None) => s.all.samples as f64 / s.all.weight.max(1.0),
                _ => 1.0,
            };
        }
        strata
    }
}

#[derive(Clone, Debug, Default)]
struct Counted {
    /// By class; 0: large ones.
    objects: BTreeMap<u8, u64>,
    large_bytes: u64,
}

/// A size class as a whole.
#[derive(Clone, Debug, Default)]
struct Stratum {
    all: Cell,
    looks: HashMap<u32, Cell>,
    /// What the weights stand for in the whole window.
    total: f64,
    /// Bytes of a unit of weight.
    unit: f64,
    objects_per_weight: f64,
}

fn estimate(
    cells: &HashMap<(u8, u32), Cell>,
    strata: &HashMap<u8, Stratum>,
    looks: &[u32],
    always: bool,
) -> Estimate {
    let mut classes: BTreeMap<u8, Cell> = BTreeMap::new();
    for (&(class, _), cell) in cells {
        classes.entry(class).or_default().add(cell);
    }
    let (mut e, mut variance) = (Estimate::default(), 0.0);
    for (class, cell) in &classes {
        let Some(s) = strata.get(class).filter(|s| s.all.weight > 0.0) else { continue };
        let share = cell.weight / s.all.weight;
        e.bytes += s.unit * s.total * share;
        e.objects += s.total * share * s.objects_per_weight;
        e.samples += cell.samples;
        if *class == 0 && always {
            continue;
        }
        let of_share = ((1.0 - 2.0 * share) * cell.squares + share * share * s.all.squares)
            / (s.all.weight * s.all.weight);
        // That few samples were all one site's does not prove that there is no other.
        let samples = s.all.weight * s.all.weight / s.all.squares.max(f64::MIN_POSITIVE);
        let drawn = (share * samples + 0.5) / (samples + 1.0);
        let of_share = of_share.max(drawn * (1.0 - drawn) / samples);
        variance += (s.unit * s.total).powi(2) * of_share;
    }
    let mut z = Z;
    if !always && looks.len() > 1 {
        let between = jackknife(cells, &classes, strata, looks);
        if between > variance {
            variance = between;
            z = student(looks.len() - 1);
        }
    }
    (e.bytes_low, e.bytes_high) = interval(e.bytes, variance, z);
    e
}

/// The variance of a group's bytes by leaving out one look at a time. `classes`: what all looks add up to.
fn jackknife(
    cells: &HashMap<(u8, u32), Cell>,
    classes: &BTreeMap<u8, Cell>,
    strata: &HashMap<u8, Stratum>,
    looks: &[u32],
) -> f64 {
    let without = |look: u32| -> f64 {
        let of_class = |(class, mine): (&u8, &Cell)| {
            let s = strata.get(class)?;
            let rest = s.all.weight - s.looks.get(&look).map_or(0.0, |c| c.weight);
            let mine = mine.weight - cells.get(&(*class, look)).map_or(0.0, |c| c.weight);
            (rest > 0.0).then(|| s.unit * s.total * mine / rest)
        };
        classes.iter().filter_map(of_class).sum()
    };
    let n = looks.len() as f64;
    let all: Vec<f64> = looks.iter().map(|look| without(*look)).collect();
    let mean = all.iter().sum::<f64>() / n;
    (n - 1.0) / n * all.iter().map(|x| (x - mean).powi(2)).sum::<f64>()
}

/// Two-sided 95 % of Student's t (Abramowitz and Stegun 26.7.5, an expansion about the normal; 1 and 2 degrees, where
/// that fails, from the closed forms).
fn student(degrees: usize) -> f64 {
    match degrees {
        0 | 1 => 12.706,
        2 => 4.303,
        n => {
            let (z, n) = (Z, n as f64);
            z + (z.powi(3) + z) / (4.0 * n)
                + (5.0 * z.powi(5) + 16.0 * z.powi(3) + 3.0 * z) / (96.0 * n * n)
                + (3.0 * z.powi(7) + 19.0 * z.powi(5) + 17.0 * z.powi(3) - 15.0 * z)
                    / (384.0 * n.powi(3))
        }
    }
}

/// The interval about a mean, as of a Poisson count with the same relative variance.
fn interval(mean: f64, variance: f64, z: f64) -> (f64, f64) {
    if mean <= 0.0 || variance <= 0.0 {
        return (mean, mean);
    }
    let k = mean * mean / variance;
    let low = (1.0 - 1.0 / (9.0 * k) - z / (3.0 * k.sqrt())).max(0.0).powi(3);
    let up = k + 1.0;
    let high = up / k * (1.0 - 1.0 / (9.0 * up) + z / (3.0 * up.sqrt())).powi(3);
    (mean * low, mean * high)
}

#[cfg(test)]
#[path = "allocations/tests.rs"]
mod tests;
