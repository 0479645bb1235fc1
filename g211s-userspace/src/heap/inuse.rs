//! How much is in use of what was allocated in a run, by stack and age, from samples whose objects were followed. Pure;
//! must not know names, nor how objects were followed.
//!
//! # The estimator
//!
//! The run is post-stratified by size class and stretch (`stretches`): the runtime itself counts how many objects of a
//! class were made in each. Of what was made in a **look**, the followed samples of that look say which part is a
//! stack's and in use: `made * weight of the stack's samples in use / weight of all`.
//!
//! Of what was made in a **rest** nothing was seen. Which part is a stack's is taken from the looks before and after,
//! interpolated by time and by how much they saw made: from the half of a look's samples that is nearer to the rest. Which
//! part of that is still there depends on how old it is, in collections, and that is known of a
//! stretch (`stretches::Clock`): so it is the part that is still there at that age (`analysis::survival`) of what the looks saw of the same
//! stack and class. Looks near the rest count for most: each further look counts half of the one before it.
//!
//! What is made while the collector marks is not judged by that collection (Go `runtime/malloc.go`: it is allocated
//! black), so it is in use as of its end, dead or not. Its age counts from the next one on; in rests the part that it
//! has is that of the time.
//!
//! # Its interval
//!
//! 95 %. What sampling does to the shares is the variance of `analysis::allocations`, stratum by stratum, where a look
//! stands for its stretch and for the rests that borrow from it. What happens in rests that looks do not tell shows
//! in how well looks stand for one another: looks are left out in turn (a jackknife by up to 16 groups), and
//! what was made in them is estimated from the others as if they had been rests. The larger of both counts. Objects that
//! may be others, since collections passed without a look, are left out of the lower end and are all in the upper.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use super::stretches::{Clock, Stretch};
use crate::analysis::allocations::{Z, interval, student};
use crate::analysis::survival::{End, Life, Lives, Part};

/// Ages are told apart by powers of two, up to this one.
pub const AGES: usize = 17;
/// Groups of looks that are left out in turn.
const GROUPS: usize = 16;
/// Ages that a stretch is looked at.
const POINTS: u32 = 16;

/// A sample whose object was followed.
#[derive(Clone, Copy, Debug)]
pub struct Member {
    /// When it was made, ns.
    pub ts_ns: u64,
    /// Whose.
    pub stack: u32,
    /// Its size class; 0: large.
    pub class: u8,
    /// The look it was taken in.
    pub look: usize,
    /// Objects that it stands for; bytes, of a large one.
    pub weight: f64,
    /// Bytes of an object.
    pub size: f64,
    /// Collections that ended in its life, or until it was found dead.
    pub age: u32,
    /// What became of it; ages are those of a [`Clock`].
    pub life: Life,
}

impl Member {
    /// Not judged by any collection yet: not in use, as in Go's own profile.
    fn is_young(&self) -> bool {
        self.age == 0 && self.life.end != End::Gone
    }

    fn is_there(&self) -> bool {
        !self.is_young() && matches!(self.life.end, End::Alive | End::Perhaps)
    }

    /// It went through a collection without a look.
    fn is_lost(&self) -> bool {
        match self.life.end {
            End::Alive => false,
            End::Gone => self.life.gap,
            End::Perhaps | End::Lost => !self.is_young(),
        }
    }
}

/// What is in use of a group of stacks, bytes.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Used {
    /// Most likely.
    pub bytes: f64,
    /// 95 %.
    pub low: f64,
    /// 95 %.
    pub high: f64,
    /// Objects.
    pub objects: f64,
    /// Samples in use.
    pub samples: u64,
    /// Bytes by age: the powers of two of the collections lived through.
    pub ages: [f64; AGES],
    /// Of them: made while probes rested.
    pub in_rests: f64,
}

/// Samples of one stack and class in one look.
#[derive(Clone, Debug, Default)]
struct Cell {
    /// Weights in the first half of the look's samples of the class, and in the other.
    halves: [f64; 2],
    lives: Lives,
    /// In use, by age: for certain, perhaps, and lost from sight.
    sure: [f64; AGES],
    perhaps: [f64; AGES],
    lost: [f64; AGES],
    /// Of those in use: squares of weights, weights, and weights by bytes of an object.
    squares: f64,
    there: f64,
    by_size: f64,
    samples: u64,
}

/// A stack and class in all looks.
#[derive(Clone, Debug, Default)]
struct Row {
    cells: BTreeMap<usize, Cell>,
    /// Which part of those that may be others are the same.
    same: f64,
    /// The same of those that were lost from sight.
    found: f64,
}

/// A size class.
#[derive(Clone, Debug, Default)]
struct Class {
    /// Bytes of a unit of weight.
    unit: f64,
    /// By look: weights, and squares of weights.
    weights: Vec<f64>,
    squares: Vec<f64>,
    /// By look: weights in the first half of its samples, and in the other.
    halves: Vec<[f64; 2]>,
    /// When the other half begins, ns.
    middles: Vec<u64>,
}

const EARLY: usize = 0;
const LATE: usize = 1;

/// A part of what was made of a class that no sample of its own stretch tells of.
#[derive(Clone, Debug)]
struct Gap {
    /// Made, for which the look before stands, and the look after.
    before: (usize, f64),
    after: (usize, f64),
    /// Ages.
    ages: Vec<Made>,
}

/// What was made at some time.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Made {
    /// How many collections ended since then, and its age by the clock.
    age: u32,
    judged: u32,
    /// How much.
    made: f64,
}

/// Which part of the time the collector marks: in the last cycle, and in others.
#[derive(Clone, Copy, Debug, Default)]
struct Marking {
    last: f64,
    mean: f64,
}

impl Marking {
    /// From when it marked in cycles that were seen.
    fn of(marks: &[(u64, u64)]) -> Self {
        let mut periods: Vec<u64> =
            marks.windows(2).map(|w| w[1].1.saturating_sub(w[0].1)).collect();
        periods.sort_unstable();
        let Some(&period) = periods.get(periods.len() / 2).filter(|p| **p > 0) else {
            return Self::default();
        };
        let part = |ns: u64, of: u64| (ns as f64 / of.max(1) as f64).min(1.0);
        let all = marks
            .iter()
            .fold(0_u64, |sum, (from, to)| sum.saturating_add(to.saturating_sub(*from)));
        let last = marks.last().map_or(0.0, |(from, to)| {
            let before = marks.len().checked_sub(2).and_then(|n| marks.get(n));
            let since = before.map_or(period, |(_, end)| to.saturating_sub(*end));
            // A cycle between that was not seen.
            part(
                to.saturating_sub(*from),
                if since > period.saturating_mul(2) { period } else { since },
            )
        });
        Self { last, mean: part(all, period.saturating_mul(marks.len() as u64)) }
    }
}

/// A class's strata: what was made in looks that have samples, and the rest.
#[derive(Clone, Debug, Default)]
struct Strata {
    direct: BTreeMap<usize, f64>,
    gaps: Vec<Gap>,
}

impl Strata {
    /// What each look stands for.
    fn stands_for(&self, with_direct: bool) -> BTreeMap<usize, f64> {
        let mut all = if with_direct { self.direct.clone() } else { BTreeMap::new() };
        for gap in &self.gaps {
            for (look, made) in [gap.before, gap.after] {
                // By half of its samples, which doubles the variance.
                *all.entry(look).or_default() += made * std::f64::consts::SQRT_2;
            }
        }
        all
    }
}

/// A stack's sums.
#[derive(Clone, Debug, Default)]
struct Sum {
    ages: [f64; AGES],
    low: f64,
    high: f64,
    objects: f64,
    samples: u64,
    in_rests: f64,
    /// Made in rests, in use or not.
    gaps: f64,
    replicas: Vec<f64>,
}

/// Of those in use by class and look: weights, and their squares.
type Drawn = BTreeMap<(u8, usize), (f64, f64)>;

/// What is in use of what was allocated.
#[derive(Clone, Debug, Default)]
pub struct InUse {
    classes: BTreeMap<u8, Class>,
    rows: BTreeMap<(u32, u8), Row>,
    strata: BTreeMap<u8, Strata>,
    sums: HashMap<u32, Sum>,
    /// Groups of looks that were left out in turn; fewer than two where that cannot be.
    replicas: usize,
    rested: bool,
    /// Bytes not judged by any collection.
    pub young_bytes: f64,
    /// Bytes in use that may be others by now.
    pub doubtful_bytes: f64,
    /// Bytes lost from sight that are counted as in use, as far as others are.
    pub untold_bytes: f64,
}

fn age_of(collections: u32) -> usize {
    (collections.max(1).ilog2() as usize).min(AGES - 1)
}

impl InUse {
    /// From the stretches of a run, its followed samples, when the collector marked, what ages are counted by, and
    /// `mheap_.sweepgen` as of which is told.
    pub fn new(
        stretches: &[Stretch],
        members: &[Member],
        marks: &[(u64, u64)],
        clock: &Clock,
        generation: u32,
    ) -> Self {
        let mut this = Self::default();
        let looks = members.iter().map(|m| m.look + 1).max().unwrap_or(0);
        this.collect(members, looks);
        let groups = this.groups(looks);
        this.rested = stretches.iter().any(|s| s.look.is_none());
        this.replicas = if this.rested && groups >= 2 { groups } else { 0 };
        let (of, marking) = (Ends::of(stretches, looks), Marking::of(marks));
        let ends = Ends { of, marking, clock, generation };
        for n in 0..=this.replicas {
            let skipped = n.checked_sub(1);
            let is_in = |look: usize| skipped.is_none_or(|s| look % groups != s);
            let strata: BTreeMap<u8, Strata> = this
                .classes
                .iter()
                .map(|(class, c)| {
                    let seen: BTreeSet<usize> =
                        (0..looks).filter(|l| is_in(*l) && c.weights[*l] > 0.0).collect();
                    (*class, ends.strata(stretches, *class, c, &seen))
                })
                .collect();
            this.add(&strata, skipped.is_none());
            if skipped.is_none() {
                this.strata = strata;
            }
        }
        this.tell_young(members);
        this
    }

    /// Into how many groups looks are put that are left out in turn.
    fn groups(&self, looks: usize) -> usize {
        let seen = (0..looks).filter(|l| self.classes.values().any(|c| c.weights[*l] > 0.0));
        seen.count().min(GROUPS)
    }

    fn collect(&mut self, members: &[Member], looks: usize) {
        let mut times: HashMap<(u8, usize), Vec<u64>> = HashMap::new();
        for m in members {
            times.entry((m.class, m.look)).or_default().push(m.ts_ns);
        }
        let middles: HashMap<(u8, usize), u64> = times
            .into_iter()
            .map(|(key, mut times)| {
                times.sort_unstable();
                (key, times[times.len() / 2])
            })
            .collect();
        for m in members {
            let middle = middles.get(&(m.class, m.look)).copied().unwrap_or(0);
            let class = self.classes.entry(m.class).or_default();
            class.unit = if m.class == 0 { 1.0 } else { m.size };
            class.weights.resize(looks, 0.0);
            class.squares.resize(looks, 0.0);
            class.weights[m.look] += m.weight;
            class.squares[m.look] += m.weight * m.weight;
            class.halves.resize(looks, [0.0; 2]);
            class.middles.resize(looks, 0);
            let half = if m.ts_ns < middle { EARLY } else { LATE };
            class.halves[m.look][half] += m.weight;
            class.middles[m.look] = middle;
            let row = self.rows.entry((m.stack, m.class)).or_default();
            let cell = row.cells.entry(m.look).or_default();
            cell.halves[half] += m.weight;
            cell.lives.add(&Life { weight: m.weight, ..m.life });
            let age = age_of(m.age);
            match m.life.end {
                _ if m.is_young() => {}
                End::Alive => cell.sure[age] += m.weight,
                End::Perhaps => cell.perhaps[age] += m.weight,
                End::Lost => cell.lost[age] += m.weight,
                End::Gone => {}
            }
            if m.is_there() {
                cell.squares += m.weight * m.weight;
                cell.there += m.weight;
                cell.by_size += m.weight / m.size.max(1.0);
                cell.samples += 1;
            }
        }
        // Of all that went through a gap so many should be left; of those that may be others no more can be the same.
        let mut expected: HashMap<(u32, u8), [f64; 3]> = HashMap::new();
        let mut curves = HashMap::new();
        for m in members.iter().filter(|m| m.is_lost()) {
            let key = (m.stack, m.class);
            let Some(row) = self.rows.get(&key) else { continue };
            let curve = curves.entry(key).or_insert_with(|| {
                let mut all = Lives::default();
                row.cells.values().for_each(|c| all.add_part(&c.lives, 1.0));
                all.curves()
            });
            let (then, now) = (curve.at(m.life.sure).mid, curve.at(m.life.until).mid);
            let left = if then > 0.0 { now / then } else { 0.0 };
            let sums = expected.entry(key).or_default();
            if m.life.end == End::Lost {
                sums[2] += m.weight * left;
            } else {
                sums[0] += m.weight * left;
                sums[1] += if m.life.end == End::Perhaps { m.weight } else { 0.0 };
            }
        }
        for (key, row) in &mut self.rows {
            let [left, perhaps, found] = expected.get(key).copied().unwrap_or_default();
            row.same = if perhaps > 0.0 { (left / perhaps).min(1.0) } else { 1.0 };
            let lost: f64 = row.cells.values().flat_map(|c| c.lost).sum();
            row.found = if lost > 0.0 { (found / lost).min(1.0) } else { 1.0 };
        }
    }

    /// Adds everything up, by other strata each time. `whole`: no look is left out.
    fn add(&mut self, strata: &BTreeMap<u8, Strata>, whole: bool) {
        for (&(stack, class), row) in &self.rows {
            let (Some(c), Some(strata)) = (self.classes.get(&class), strata.get(&class)) else {
                continue;
            };
            let mut sum = Sum::default();
            let size = {
                let (there, count) = row
                    .cells
                    .values()
                    .fold((0.0, 0.0), |sum, cell| (sum.0 + cell.there, sum.1 + cell.by_size));
                if class > 0 {
                    c.unit
                } else if count > 0.0 {
                    there / count
                } else {
                    0.0
                }
            };
            for (look, &made) in &strata.direct {
                let (Some(cell), weight) = (row.cells.get(look), c.weights[*look]) else {
                    continue;
                };
                let part = c.unit * made / weight;
                for age in 0..AGES {
                    let (sure, perhaps, lost) = (cell.sure[age], cell.perhaps[age], cell.lost[age]);
                    sum.ages[age] += part * (sure + row.same * perhaps + row.found * lost);
                    sum.low += part * sure;
                    sum.high += part * (sure + perhaps + lost);
                    if whole {
                        self.doubtful_bytes += part * row.same * perhaps;
                        self.untold_bytes += part * row.found * lost;
                    }
                }
                sum.samples += cell.samples;
            }
            if !strata.gaps.is_empty() {
                row.fill_gaps(c, strata, &mut sum);
            }
            let bytes = sum.ages.iter().sum::<f64>();
            let total = self.sums.entry(stack).or_default();
            if !whole {
                let n = total.replicas.len();
                // One replica is added up row by row.
                if let Some(last) = total.replicas.last_mut().filter(|_| n > 0) {
                    *last += bytes;
                }
                continue;
            }
            total.ages.iter_mut().zip(sum.ages).for_each(|(a, b)| *a += b);
            total.low += sum.low;
            total.high += sum.high;
            total.samples += sum.samples;
            total.in_rests += sum.in_rests;
            total.gaps += sum.gaps;
            total.objects += if size > 0.0 { bytes / size } else { 0.0 };
        }
        if self.replicas > 0 {
            // Room for the next one.
            for total in self.sums.values_mut() {
                if total.replicas.len() < self.replicas {
                    total.replicas.push(0.0);
                }
            }
        }
    }

    fn tell_young(&mut self, members: &[Member]) {
        let mut young: HashMap<(u8, usize), f64> = HashMap::new();
        for m in members.iter().filter(|m| m.is_young()) {
            *young.entry((m.class, m.look)).or_default() += m.weight;
        }
        for (class, strata) in &self.strata {
            let Some(c) = self.classes.get(class) else { continue };
            for (look, made) in &strata.direct {
                let part = young.get(&(*class, *look)).map_or(0.0, |w| w / c.weights[*look]);
                self.young_bytes += c.unit * made * part;
            }
            let young = strata.gaps.iter().flat_map(|g| &g.ages).filter(|m| m.age == 0);
            self.young_bytes += young.map(|m| c.unit * m.made).sum::<f64>();
        }
    }

    /// What is in use of groups of stacks; `None` as a group leaves a stack out.
    pub fn by<K: Ord + Clone>(&self, group: impl Fn(u32) -> Option<K>) -> BTreeMap<K, Used> {
        let mut all: BTreeMap<K, Sum> = BTreeMap::new();
        for (stack, sum) in &self.sums {
            let Some(key) = group(*stack) else { continue };
            let total = all.entry(key).or_default();
            total.ages.iter_mut().zip(sum.ages).for_each(|(a, b)| *a += b);
            total.low += sum.low;
            total.high += sum.high;
            total.objects += sum.objects;
            total.samples += sum.samples;
            total.in_rests += sum.in_rests;
            total.gaps += sum.gaps;
            total.replicas.resize(self.replicas, 0.0);
            total.replicas.iter_mut().zip(&sum.replicas).for_each(|(a, b)| *a += b);
        }
        let mut drawn: BTreeMap<K, Drawn> = BTreeMap::new();
        for (&(stack, class), row) in &self.rows {
            let Some(key) = group(stack) else { continue };
            for (look, cell) in &row.cells {
                let at = drawn.entry(key.clone()).or_default().entry((class, *look)).or_default();
                *at = (at.0 + cell.there, at.1 + cell.squares);
            }
        }
        let empty = Drawn::new();
        all.into_iter()
            .map(|(key, sum)| {
                let used = self.used(&sum, drawn.get(&key).unwrap_or(&empty));
                (key, used)
            })
            .collect()
    }

    fn used(&self, sum: &Sum, drawn: &Drawn) -> Used {
        let bytes = sum.ages.iter().sum::<f64>();
        let (mut variance, mut z) = (self.sampling(drawn), Z);
        if self.replicas >= 2 {
            let n = self.replicas as f64;
            let mean = sum.replicas.iter().sum::<f64>() / n;
            let between =
                (n - 1.0) / n * sum.replicas.iter().map(|x| (x - mean).powi(2)).sum::<f64>();
            if between > variance {
                (variance, z) = (between, student(self.replicas - 1));
            }
        }
        let at = |end: f64| {
            // As far from that end as the estimate's interval is from it.
            let scale = if bytes > 0.0 { (end / bytes).powi(2) } else { 0.0 };
            interval(end, variance * scale, z)
        };
        let (mut low, mut high) = (at(sum.low.min(bytes)).0, at(sum.high.max(bytes)).1);
        if self.rested && self.replicas < 2 {
            // One look tells nothing of what the others would have: of what was made in rests all may be in use, or nothing.
            let seen = (sum.low - sum.in_rests).max(0.0);
            low = low.min(at(seen).0);
            high = high.max(sum.high - sum.in_rests + sum.gaps);
        }
        Used {
            bytes,
            low: low.min(bytes).max(0.0),
            high: high.max(bytes),
            objects: sum.objects,
            samples: sum.samples,
            ages: sum.ages,
            in_rests: sum.in_rests,
        }
    }

    /// The variance that sampling makes, of those in use by class and look: weights, and their squares.
    fn sampling(&self, drawn: &Drawn) -> f64 {
        let mut variance = 0.0;
        for (class, c) in &self.classes {
            let Some(strata) = self.strata.get(class) else { continue };
            // Large objects are all seen in looks.
            for (look, made) in strata.stands_for(*class > 0) {
                let Some((there, there_squares)) = drawn.get(&(*class, look)) else { continue };
                let (all, squares) = (c.weights[look], c.squares[look]);
                if all <= 0.0 || squares <= 0.0 {
                    continue;
                }
                let share = there / all;
                let of_share =
                    ((1.0 - 2.0 * share) * there_squares + share * share * squares) / (all * all);
                // That few samples were all alike does not prove that there is no other.
                let samples = all * all / squares;
                let drawn = (share * samples + 0.5) / (samples + 1.0);
                let of_share = of_share.max(drawn * (1.0 - drawn) / samples);
                variance += (c.unit * made).powi(2) * of_share;
            }
        }
        variance
    }
}

impl Row {
    /// Adds what is in use of what was made where no sample tells of it.
    fn fill_gaps(&self, class: &Class, strata: &Strata, sum: &mut Sum) {
        let looks = class.weights.len();
        let nothing = Lives::default();
        let of = |look: usize| self.cells.get(&look).map_or(&nothing, |c| &c.lives);
        // Those left out have no share in any of it.
        let is_in = |look: usize| strata.direct.contains_key(&look);
        let any = (0..looks).any(|l| is_in(l) && of(l).any_lives());
        let mut earlier: Vec<Lives> = Vec::new();
        let mut later: Vec<Lives> = vec![Lives::default(); looks];
        if any {
            for look in 0..looks {
                let mut all = earlier.last().map_or_else(Lives::default, |l| l.scaled(0.5));
                if is_in(look) {
                    all.add_part(of(look), 1.0);
                }
                earlier.push(all);
            }
            for look in (0..looks).rev() {
                let mut all = later.get(look + 1).map_or_else(Lives::default, |l| l.scaled(0.5));
                if is_in(look) {
                    all.add_part(of(look), 1.0);
                }
                later[look] = all;
            }
        }
        let share = |look: usize, half: usize| {
            let halves = class.halves.get(look).copied().unwrap_or_default();
            let mine = self.cells.get(&look).map_or([0.0; 2], |c| c.halves);
            if halves[half] > 0.0 {
                mine[half] / halves[half]
            } else {
                let all: f64 = halves.iter().sum();
                if all > 0.0 { mine.iter().sum::<f64>() / all } else { 0.0 }
            }
        };
        let mut known = None;
        for gap in &strata.gaps {
            let (before, after) = (gap.before, gap.after);
            let made = before.1 + after.1;
            if made <= 0.0 {
                continue;
            }
            let shares = before.1 * share(before.0, LATE) + after.1 * share(after.0, EARLY);
            let part = shares / made * class.unit;
            sum.gaps += part * made;
            if part <= 0.0 {
                continue;
            }
            let pair = (before.0, after.0);
            if any && known.as_ref().is_none_or(|(of, _)| *of != pair) {
                let mut near = earlier[pair.0].clone();
                // A look that is both is counted once.
                match later.get(if pair.0 == pair.1 { pair.1 + 1 } else { pair.1 }) {
                    Some(all) if pair.0 == pair.1 => near.add_part(all, 0.5),
                    Some(all) => near.add_part(all, 1.0),
                    None => {}
                }
                known = Some((pair, near.curves()));
            }
            for at in gap.ages.iter().filter(|m| m.age > 0) {
                let left = match &known {
                    // Made while the last collection marked.
                    _ if at.judged == 0 => Part { low: 1.0, mid: 1.0, high: 1.0 },
                    Some((_, curves)) if any => curves.at(at.judged),
                    _ => continue,
                };
                let made = part * at.made;
                sum.ages[age_of(at.age)] += made * left.mid;
                sum.in_rests += made * left.mid;
                sum.low += made * left.low;
                sum.high += made * left.high;
            }
        }
    }
}

/// When looks began and ended, ns.
struct Ends<'c> {
    of: Vec<Option<(u64, u64)>>,
    marking: Marking,
    clock: &'c Clock,
    generation: u32,
}

impl Ends<'_> {
    fn of(stretches: &[Stretch], looks: usize) -> Vec<Option<(u64, u64)>> {
        let mut ends: Vec<Option<(u64, u64)>> = vec![None; looks];
        for s in stretches {
            if let Some(end) = s.look.and_then(|look| ends.get_mut(look)) {
                let (from, to) = end.unwrap_or((s.from_ns, s.to_ns));
                *end = Some((from.min(s.from_ns), to.max(s.to_ns)));
            }
        }
        ends
    }

    /// A class's strata, where these looks have samples of it.
    fn strata(
        &self,
        stretches: &[Stretch],
        number: u8,
        class: &Class,
        seen: &BTreeSet<usize>,
    ) -> Strata {
        let mut strata = Strata::default();
        let counted = stretches.iter().all(|s| s.made.is_some());
        for &look in seen {
            // Where the runtime's counts cannot be read, what was seen is all there is.
            strata.direct.insert(look, if counted { 0.0 } else { class.weights[look] });
        }
        for s in stretches {
            if let Some(look) = s.look.filter(|look| seen.contains(look)) {
                let made = s.made.as_ref().and_then(|made| made.get(&number)).copied();
                if counted && let Some(direct) = strata.direct.get_mut(&look) {
                    *direct += made.unwrap_or(0.0);
                }
                continue;
            }
            let before = seen.range(..=s.between.0).next_back().copied();
            let after = seen.range(s.between.1..).next().copied();
            let (Some(before), Some(after)) = (before.or(after), after.or(before)) else {
                continue;
            };
            // How much was made at the end of the one and at the beginning of the other, a ns.
            let rate = |look: usize, half: usize| {
                let (from, to) = self.of[look].unwrap_or_default();
                let middle = class.middles[look].clamp(from, to.max(from));
                let ns = if half == EARLY { middle - from } else { to - middle };
                class.halves[look][half] / ns.max(1) as f64
            };
            let part = self.part(before, after, s.from_ns.midpoint(s.to_ns));
            let (a, b) = ((1.0 - part) * rate(before, LATE), part * rate(after, EARLY));
            let length = s.to_ns.saturating_sub(s.from_ns) as f64;
            let made = match &s.made {
                Some(made) if counted => made.get(&number).copied().unwrap_or(0.0),
                _ => (a + b) * length,
            };
            if made <= 0.0 {
                continue;
            }
            let part = if a + b > 0.0 { b / (a + b) } else { part };
            strata.gaps.push(Gap {
                before: (before, made * (1.0 - part)),
                after: (after, made * part),
                ages: self.ages(s.generations, made),
            });
        }
        strata
    }

    /// Of what was made evenly between two generations: how old it is.
    fn ages(&self, (from, to): (u32, u32), made: f64) -> Vec<Made> {
        let age = |then: u32| {
            let age = self.generation.wrapping_sub(then) / 2;
            // A generation that is ahead of the last look's.
            if age > u32::MAX / 4 { 0 } else { age }
        };
        let (old, young) = (age(from), age(to));
        let (old, young) = (old.max(young), old.min(young));
        let points = (old - young + 1).min(POINTS);
        let steps = f64::from(points.max(2) - 1);
        let mut all = Vec::new();
        for n in 0..points {
            // Both ends are in the midst of a generation, more or less.
            let part = match n {
                _ if points == 1 => 1.0,
                _ if n == 0 || n + 1 == points => 0.5 / steps,
                _ => 1.0 / steps,
            };
            let age = young + (f64::from(old - young) / steps * f64::from(n)).round() as u32;
            let marking = if age <= 1 { self.marking.last } else { self.marking.mean };
            let (born, made) = (self.generation.wrapping_sub(2 * age), made * part);
            for (in_mark, part) in [(false, 1.0 - marking), (true, marking)] {
                let judged = self.clock.age(born, in_mark, self.generation);
                all.push(Made { age, judged, made: made * part });
            }
        }
        all
    }

    /// How far a moment is from the end of one look to the beginning of another: 0 to 1.
    fn part(&self, before: usize, after: usize, at_ns: u64) -> f64 {
        let ends = |look: usize| self.of.get(look).copied().flatten();
        match (ends(before), ends(after)) {
            (Some((_, from)), Some((to, _))) if before != after && to > from => {
                (at_ns.saturating_sub(from) as f64 / (to - from) as f64).min(1.0)
            }
            _ => 0.0,
        }
    }
}

#[cfg(test)]
#[path = "inuse_tests.rs"]
mod tests;
