//! Our figures against the runtime's own counters over the same time: do we miss stops, invent them,
//! or measure them wrongly? Pure: samples and stops in, findings out.
//!
//! # How two clocks' edges are handled
//!
//! The time compared is that between two samples, both taken while the kernel side let events pass.
//! A stop is counted by the runtime at a moment that our hits enclose (see [`counted`]): if that lies
//! wholly after the first sample and before the second, it must be in the difference; if it touches
//! a sample it *may* be. A stop that was under way at attach, or is at the end, is treated no
//! differently: what counts is the moment at which the runtime counts it.
//!
//! # What may differ, and by how much
//!
//! - Numbers: not at all, but for stops at a sample.
//! - Lengths, Go 1.22+: not at all. Our length begins at the call and the runtime's once it holds
//!   `sched.lock`; since it tells us when that was, its own value is known for each stop, and the
//!   difference is reported as `boundary_ns`.
//! - Lengths, Go 1.21 (and stopping in 1.22): the runtime reads its clock some instructions and one
//!   hit of our probe away from us. Our probe's trap is a place where the kernel may give the CPU to
//!   another, so the two may differ by a scheduling delay. As many stops and as much time as the
//!   target's threads were preempted for may come from that, and make it `unknown`; more is an error.
//! - Histograms: the stops' values must fall into the runtime's buckets: for each bucket edge, the
//!   number of values below it must lie between the least and the most that our stops allow.

pub mod counted;
#[cfg(test)]
mod tests;

use serde::Serialize;

use crate::record::{GcSample, RuntimeSample};
use crate::runtime::histogram::{BUCKETS, TimeHist, bucket_of, bucket_range};
use counted::{Counted, Tally};

/// What a comparison came to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Finding {
    /// The figures fit.
    Agree,
    /// They cannot be compared.
    #[default]
    Unknown,
    /// They do not fit: something is missed, invented or measured wrongly.
    Disagree,
}

/// Two numbers of the same thing.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Numbers {
    /// What it came to.
    pub verdict: Finding,
    /// Ours.
    pub ours: Option<u64>,
    /// Of those the runtime may have counted just outside: at a sample.
    pub at_edges: u64,
    /// The runtime's own.
    pub runtime: Option<u64>,
    /// Why they are unknown or do not fit.
    pub why: Option<String>,
}

/// Two sums of lengths of the same stops.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Sums {
    /// What it came to.
    pub verdict: Finding,
    /// Sum of our lengths, ns.
    pub ours_ns: Option<u64>,
    /// Of it, what lies outside the runtime's boundaries (above all its wait for `sched.lock`), ns;
    /// `None` where it does not tell.
    pub boundary_ns: Option<u64>,
    /// The runtime's own sum, ns, where it keeps one.
    pub runtime_ns: Option<u64>,
    /// Least and greatest sum that its histogram allows, ns.
    pub runtime_bounds_ns: Option<(u64, u64)>,
    /// Why they are unknown or do not fit.
    pub why: Option<String>,
}

/// One bucket of two histograms.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Bucket {
    /// Lengths from …
    pub from_ns: u64,
    /// … to (exclusive).
    pub to_ns: u64,
    /// Our stops, by our own lengths.
    pub ours: u64,
    /// The runtime's.
    pub runtime: u64,
}

/// Two histograms of the same stops, in the runtime's own buckets.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Histograms {
    /// What it came to.
    pub verdict: Finding,
    /// Stops that are in another bucket by our own lengths than by the runtime's.
    pub moved: u64,
    /// Of them, those that no boundary explains.
    pub misplaced: u64,
    /// Buckets in which either has a stop.
    pub buckets: Vec<Bucket>,
    /// Why they are unknown or do not fit.
    pub why: Option<String>,
}

/// The stops of one kind.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Stops {
    /// How many.
    pub count: Numbers,
    /// How long in all.
    pub total: Sums,
    /// How long each.
    pub histogram: Histograms,
    /// How long each took to stop the world.
    pub stopping: Histograms,
}

impl Stops {
    fn verdicts(&self) -> [Finding; 4] {
        [self.count.verdict, self.total.verdict, self.histogram.verdict, self.stopping.verdict]
    }
}

/// Our figures against the runtime's own.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Accuracy {
    /// `disagree` if anything does; `agree` if at least the numbers of cycles or of the
    /// collector's stops do.
    pub verdict: Finding,
    /// The first sample's time, ns.
    pub from_ns: Option<u64>,
    /// The last one's, ns.
    pub to_ns: Option<u64>,
    /// Our GC cycles (those that ended) against `memstats.numgc`.
    pub gc_cycles: Numbers,
    /// Stops of the collector.
    pub stw_gc: Stops,
    /// Other stops (the runtime counts them from Go 1.22 on).
    pub stw_other: Stops,
    /// Why there is nothing to compare.
    pub why: Option<String>,
}

/// What we have to compare with.
#[derive(Clone, Copy, Debug, Default)]
pub struct Ours<'a> {
    /// Our stops, whole or not.
    pub stops: &'a [Counted],
    /// Why we saw no stops at all, if we could not.
    pub stops_missing: Option<&'a str>,
    /// Events that were lost; `None`: not known.
    pub lost: Option<u64>,
    /// How often, and for how long (ns), the target's threads waited after they had lost their CPU;
    /// `None`: not known.
    pub preempted: Option<(u64, u64)>,
}

impl Ours<'_> {
    /// Whether so many stops, or so much time in all, may be longer by threads that lost their CPU.
    fn may_be_preempted(&self, stops: u64, ns: u64) -> bool {
        self.preempted.is_none_or(|(count, sum)| stops <= count && ns <= sum)
    }

    fn preemption(&self) -> String {
        let (count, ns) = self.preempted.unwrap_or_default();
        format!(
            "the target's threads lost their CPU {count} times, for {ns} ns in all, and where one did \
             so between the runtime's clock and ours nothing tells"
        )
    }
}

/// Compares what happened between two samples.
pub fn compare(from: &RuntimeSample, to: &RuntimeSample, ours: &Ours) -> Accuracy {
    let edges = Edges { from: (from.begin_ns, from.end_ns), to: (to.begin_ns, to.end_ns) };
    let mut accuracy =
        Accuracy { from_ns: Some(from.end_ns), to_ns: Some(to.begin_ns), ..Accuracy::default() };
    if let Some(why) = ours.stops_missing {
        return Accuracy { why: Some(why.to_owned()), ..accuracy };
    }
    accuracy.gc_cycles = cycles(from, to, ours, edges);
    let pauses = pauses(from.gc.as_ref(), to.gc.as_ref());
    let of = |f: &dyn Fn(&RuntimeSample) -> Option<TimeHist>| -> Result<TimeHist, &'static str> {
        let (before, now) =
            f(from).zip(f(to)).ok_or("the runtime's histogram could not be read")?;
        now.since(&before).ok_or("the runtime's histogram went backwards")
    };
    if from.gc_pauses.is_some() {
        let hist = of(&|s| s.gc_pauses.clone());
        let not_kept = Err("Go 1.21 keeps no histogram of it");
        accuracy.stw_gc = stops(true, ours, edges, as_ref(&hist), not_kept, pauses);
        let none = || Err("Go 1.21 counts the stops of its collector only");
        accuracy.stw_other = stops(false, ours, edges, none(), none(), None);
    } else {
        let stw = |f: fn(&crate::record::StwSample) -> &TimeHist| {
            of(&|s| s.stw.as_ref().map(|stw| f(stw).clone()))
        };
        let (total, stopping) = (stw(|s| &s.total_gc), stw(|s| &s.stopping_gc));
        accuracy.stw_gc = stops(true, ours, edges, as_ref(&total), as_ref(&stopping), pauses);
        let (total, stopping) = (stw(|s| &s.total_other), stw(|s| &s.stopping_other));
        accuracy.stw_other = stops(false, ours, edges, as_ref(&total), as_ref(&stopping), None);
    }
    let verdicts = [
        &accuracy.stw_gc.verdicts()[..],
        &accuracy.stw_other.verdicts(),
        &[accuracy.gc_cycles.verdict],
    ]
    .concat();
    let counts = [accuracy.gc_cycles.verdict, accuracy.stw_gc.count.verdict];
    accuracy.verdict = if verdicts.contains(&Finding::Disagree) {
        Finding::Disagree
    } else if counts.contains(&Finding::Agree) {
        Finding::Agree
    } else {
        Finding::Unknown
    };
    accuracy
}

/// A histogram, or why there is none.
fn as_ref<'a>(hist: &'a Result<TimeHist, &'static str>) -> Result<&'a TimeHist, &'static str> {
    hist.as_ref().map_err(|why| *why)
}

/// Two samples' readings.
#[derive(Clone, Copy, Debug)]
struct Edges {
    from: (u64, u64),
    to: (u64, u64),
}

/// Where the runtime's counting lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    Between,
    AtEdge,
    Outside,
}

impl Edges {
    fn place(self, (least, most): (u64, u64)) -> Place {
        if most < self.from.0 || least > self.to.1 {
            Place::Outside
        } else if least > self.from.1 && most < self.to.0 {
            Place::Between
        } else {
            Place::AtEdge
        }
    }
}

/// The numbers agree if the runtime's is ours, give or take those at the edges.
fn numbers(what: &str, sure: u64, at_edges: u64, runtime: u64, ours: &Ours) -> Numbers {
    let verdict = if (sure..=sure.saturating_add(at_edges)).contains(&runtime) {
        Finding::Agree
    } else {
        Finding::Disagree
    };
    // Which of those at the edges the runtime counted is told by its number.
    let counted = runtime.clamp(sure, sure.saturating_add(at_edges));
    let why = (verdict == Finding::Disagree).then(|| {
        let damaged = ours.stops.iter().filter(|s| s.damaged).count();
        let lost = match ours.lost {
            Some(0) => "no event was lost".to_owned(),
            Some(n) => format!("{n} events were lost"),
            None => "losses are not known".to_owned(),
        };
        let way = if runtime > counted { "missed" } else { "invented" };
        let by = runtime.abs_diff(counted);
        format!("{by} {what} {way}: {lost}, {damaged} stops are known in part only")
    });
    Numbers { verdict, ours: Some(counted), at_edges, runtime: Some(runtime), why }
}

fn cycles(from: &RuntimeSample, to: &RuntimeSample, ours: &Ours, edges: Edges) -> Numbers {
    let (Some(before), Some(now)) = (&from.gc, &to.gc) else {
        let why = Some("memstats.numgc could not be read".to_owned());
        return Numbers { why, ..Numbers::default() };
    };
    let runtime = u64::from(now.cycles.wrapping_sub(before.cycles));
    let places = ours.stops.iter().filter(|s| !s.damaged).filter_map(|s| s.cycle);
    let places: Vec<Place> = places.map(|at| edges.place(at)).collect();
    let count = |p| places.iter().filter(|q| **q == p).count() as u64;
    numbers("cycles", count(Place::Between), count(Place::AtEdge), runtime, ours)
}

/// The runtime's own sum of its collector's stops between two samples, ns.
fn pauses(from: Option<&GcSample>, to: Option<&GcSample>) -> Option<u64> {
    let sum = |s: &GcSample| s.pause_total_ns.checked_add(s.open_pause_ns?);
    sum(to?)?.checked_sub(sum(from?)?)
}

/// Our stops of one kind that the runtime counted between the samples.
struct Chosen<'a> {
    sure: Vec<(&'a Counted, Tally)>,
    at_edges: Vec<(&'a Counted, Tally)>,
}

impl<'a> Chosen<'a> {
    fn new(
        gc: bool,
        stops: &'a [Counted],
        edges: Edges,
        of: impl Fn(&Counted) -> Option<Tally>,
    ) -> Self {
        let mut chosen = Self { sure: Vec::new(), at_edges: Vec::new() };
        for stop in stops.iter().filter(|s| !s.damaged) {
            let Some(tally) = of(stop) else { continue };
            match (edges.place(tally.at), stop.gc) {
                (Place::Outside, _) => {}
                // Of a kind that was not seen: it may be of this one.
                (_, None) | (Place::AtEdge, _) if stop.gc.is_none_or(|k| k == gc) => {
                    chosen.at_edges.push((stop, tally));
                }
                (Place::Between, Some(kind)) if kind == gc => chosen.sure.push((stop, tally)),
                _ => {}
            }
        }
        chosen
    }
}

fn stops(
    gc: bool,
    ours: &Ours,
    edges: Edges,
    total: Result<&TimeHist, &str>,
    stopping: Result<&TimeHist, &str>,
    pauses: Option<u64>,
) -> Stops {
    let whole = Chosen::new(gc, ours.stops, edges, |s| s.total);
    let count = match &total {
        Ok(hist) => {
            let what = if gc { "stops of the collector" } else { "other stops" };
            let (sure, more) = (whole.sure.len() as u64, whole.at_edges.len() as u64);
            numbers(what, sure, more, hist.count(), ours)
        }
        Err(why) => Numbers {
            ours: Some(whole.sure.len() as u64),
            at_edges: whole.at_edges.len() as u64,
            why: Some((*why).to_owned()),
            ..Numbers::default()
        },
    };
    let histogram = histogram(&whole, total, ours, |s| s.ours_ns);
    let ready = Chosen::new(gc, ours.stops, edges, |s| s.stopping);
    let most = |s: &Counted| s.stopping.map(|t| t.ns.1);
    let stopping = self::histogram(&ready, stopping, ours, most);
    let in_pauses = Chosen::new(gc, ours.stops, edges, |s| s.pause);
    let total = match pauses {
        Some(ns) => sums(&in_pauses, Some(ns), total.ok(), ours),
        None => sums(&whole, None, total.ok(), ours),
    };
    Stops { count, total, histogram, stopping }
}

fn saturating_sum(values: impl Iterator<Item = u64>) -> u64 {
    values.fold(0, u64::saturating_add)
}

/// Compares the sum of stops with the runtime's.
fn sums(all: &Chosen, runtime: Option<u64>, hist: Option<&TimeHist>, ours: &Ours) -> Sums {
    let bounds = hist.map(TimeHist::sum_bounds);
    let ours_ns = saturating_sum(all.sure.iter().map(|(c, t)| c.ours_ns.unwrap_or(t.ns.0)));
    let exact = all.sure.iter().all(|(_, t)| t.ns.0 == t.ns.1);
    let least = saturating_sum(all.sure.iter().map(|(_, t)| t.ns.0));
    let most = saturating_sum(all.sure.iter().chain(&all.at_edges).map(|(_, t)| t.ns.1));
    let mut sums = Sums {
        verdict: Finding::Unknown,
        ours_ns: Some(ours_ns),
        boundary_ns: exact.then(|| ours_ns.saturating_sub(least)),
        runtime_ns: runtime,
        runtime_bounds_ns: bounds,
        why: None,
    };
    let Some((low, high)) = runtime.map(|ns| (ns, ns)).or(bounds) else {
        sums.why = Some("the runtime keeps no such sum, or it could not be read".to_owned());
        return sums;
    };
    (sums.verdict, sums.why) = if high < least {
        let by = least - high;
        (Finding::Disagree, Some(format!("ours are longer by {by} ns")))
    } else if low <= most {
        (Finding::Agree, None)
    } else {
        let by = low - most;
        let why = format!("the runtime's are longer by {by} ns");
        if !exact && ours.may_be_preempted(1, by) {
            (Finding::Unknown, Some(format!("{why}: {}", ours.preemption())))
        } else {
            (Finding::Disagree, Some(why))
        }
    };
    sums
}

/// Compares two histograms.
fn histogram(
    chosen: &Chosen,
    runtime: Result<&TimeHist, &str>,
    all: &Ours,
    ours_ns: impl Fn(&Counted) -> Option<u64>,
) -> Histograms {
    let own = |(c, t): &(&Counted, Tally)| ours_ns(c).unwrap_or(t.ns.0);
    let mine = TimeHist::of_values(chosen.sure.iter().map(own));
    let runtime = match runtime {
        Ok(hist) => hist,
        Err(why) => return Histograms { why: Some(why.to_owned()), ..Histograms::default() },
    };
    let (ours, theirs) = (mine.counts(), runtime.counts());
    let buckets = (0..BUCKETS).filter(|at| ours[*at] > 0 || theirs[*at] > 0).map(|at| {
        let (from_ns, to_ns) = bucket_range(at);
        Bucket { from_ns, to_ns, ours: ours[at], runtime: theirs[at] }
    });
    let moved = ours.iter().zip(&theirs).map(|(a, b)| a.saturating_sub(*b)).sum();
    let mut found = Histograms { moved, buckets: buckets.collect(), ..Histograms::default() };

    // Cumulated from below: how many values at least, and at most, are in buckets up to each.
    let bucket = |ns: u64| bucket_of(ns).unwrap_or(BUCKETS);
    let (mut least, mut most) = ([0u64; BUCKETS + 1], [0u64; BUCKETS + 1]);
    for (_, tally) in &chosen.sure {
        least[bucket(tally.ns.1)] += 1;
        most[bucket(tally.ns.0)] += 1;
    }
    for (_, tally) in &chosen.at_edges {
        most[bucket(tally.ns.0)] += 1;
    }
    let (mut low, mut high, mut seen) = (0u64, 0u64, runtime.underflow);
    let (mut longer, mut shorter) = (0, 0);
    for at in 0..BUCKETS {
        low += least[at];
        high += most[at];
        seen = seen.saturating_add(theirs[at]);
        // Those at the edges may be missing, so a lack of up to so many is none.
        longer = longer.max(low.saturating_sub(seen));
        shorter = shorter.max(seen.saturating_sub(high));
    }
    found.misplaced = longer.max(shorter);
    let exact = chosen.sure.iter().all(|(_, t)| t.ns.0 == t.ns.1);
    let n = chosen.sure.len() as u64;
    // Which side reads its clock first decides which is longer; a missing stop is either.
    let whole = runtime.count() >= n && runtime.count() <= n + chosen.at_edges.len() as u64;
    (found.verdict, found.why) = match found.misplaced {
        0 => (Finding::Agree, None),
        some if !exact && whole && all.may_be_preempted(some, 0) => {
            (Finding::Unknown, Some(format!("{some} of {n} differ: {}", all.preemption())))
        }
        _ if longer >= shorter => {
            let why = format!("{longer} are longer, or missing, for the runtime");
            (Finding::Disagree, Some(why))
        }
        _ => (Finding::Disagree, Some(format!("{shorter} are shorter, or missed by us"))),
    };
    found
}
