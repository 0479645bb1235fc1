//! Event-aligned averages: how deep the run queue is, and how long waits for a CPU are, in the milliseconds
//! around what every collection does, averaged over many. Pure: must not know events, files or how it is
//! printed.
//!
//! One collection says nothing: its moment may be busy by chance. The mean over all of them does, if it comes
//! with how sure it is: a percentile bootstrap over cycles (B. Efron, R. Tibshirani, "An Introduction to the
//! Bootstrap", 13.3), set against as many moments drawn at random from the rest of the run. The draws
//! come from a fixed seed, so that a replay gives the same numbers to the last digit.

mod draws;
#[cfg(test)]
mod tests;

use std::fmt::Write as _;

use serde::Serialize;

use crate::model::{
    gc::Cycle,
    waits::{Load, WaitSeries},
};
use draws::{Draws, interval_95};

/// One millisecond, ns: the step of the averages.
const STEP_NS: u64 = 1_000_000;
/// Steps before the moment.
const BEFORE: u64 = 20;
/// Steps from the moment on.
const AFTER: u64 = 50;
const STEPS: usize = (BEFORE + AFTER) as usize;
/// The verdict is on this many steps from the moment on.
const VERDICT_STEPS: u64 = 5;
/// Resamples of the bootstrap.
const RESAMPLES: usize = 400;
/// Cycles taken at most; of more, these many evenly over the run.
const MAX_CYCLES: usize = 500;
/// With fewer cycles nothing is said: the 2.5 % ends of an interval are then too uncertain themselves.
pub const MIN_CYCLES: usize = 20;
/// Time between the collections that is needed to compare with, in places where a verdict's steps fit.
const MIN_PLACES: usize = 100;

/// The averages around each of a collection's three moments.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Aligned {
    /// Length of a step, ns.
    pub step_ns: u64,
    /// What the waits by time cover, ns: the whole run, or its last half hour.
    pub from_ns: Option<u64>,
    /// See `from_ns`.
    pub to_ns: Option<u64>,
    /// Waits (after a wakeup or a preemption) that ended in that time, as recorded by time.
    pub waits: u64,
    /// Their length, ns (to the µs).
    pub waited_ns: u64,
    /// The rest of the run, to compare with.
    pub baseline: Option<Baseline>,
    /// `cycle_start`, `mark_start`, `mark_end`.
    pub events: Vec<Event>,
    /// Why there is nothing, or less than there should be.
    pub warnings: Vec<String>,
    /// In words.
    pub summary: Vec<String>,
}

/// The run without the collections' surroundings.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Baseline {
    /// `outside`: no nearer to a collection than the averages reach; `between_cycles`: within no
    /// collection, where they follow each other too closely for that.
    pub of: &'static str,
    /// How much time that is, ns.
    pub ns: u64,
    /// Threads waiting for a CPU, on average.
    pub depth: f64,
    /// Mean length of the waits that ended, ns; none where none did.
    pub delay_ns: Option<f64>,
}

/// One moment of a collection, over all cycles.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Event {
    /// `cycle_start` (entry of the sweep-termination stop), `mark_start` (its end), `mark_end` (entry of the
    /// mark-termination stop).
    pub name: &'static str,
    /// Cycles whose surroundings are known.
    pub cycles: usize,
    /// The averages, step by step, from 20 before to 50 after.
    pub steps: Vec<Step>,
    /// The first 5 steps from the moment on, against the baseline.
    pub after: Option<After>,
}

/// One step, over all cycles.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Step {
    /// Where it begins, in ms from the moment.
    pub at_ms: i64,
    /// Threads waiting for a CPU, on average.
    pub depth: f64,
    /// 95 % interval.
    pub depth_low: f64,
    /// See `depth_low`.
    pub depth_high: f64,
    /// Mean length of the waits that ended, ns; none where none did.
    pub delay_ns: Option<f64>,
    /// 95 % interval; none where waits are too rare for one.
    pub delay_low_ns: Option<f64>,
    /// See `delay_low_ns`.
    pub delay_high_ns: Option<f64>,
}

/// What follows on the moment, against the baseline.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct After {
    /// Threads waiting for a CPU, on average.
    pub depth: f64,
    /// Times the baseline's; none where nobody waited there.
    pub depth_ratio: Option<f64>,
    /// 95 % interval, the baseline's own uncertainty included.
    pub depth_ratio_low: Option<f64>,
    /// See `depth_ratio_low`.
    pub depth_ratio_high: Option<f64>,
    /// Mean length of the waits that ended, ns.
    pub delay_ns: Option<f64>,
    /// Times the baseline's.
    pub delay_ratio: Option<f64>,
    /// 95 % interval.
    pub delay_ratio_low: Option<f64>,
    /// See `delay_ratio_low`.
    pub delay_ratio_high: Option<f64>,
    /// Share of as many random moments of the baseline, drawn again and again, whose mean depth is at least
    /// this: how often chance alone does it.
    pub by_chance: f64,
}

/// The sums that a mean depth and a mean delay are made of.
#[derive(Clone, Copy, Default)]
struct Sums {
    depth: f64,
    waits: f64,
    waited_ns: f64,
}

impl Sums {
    fn add(&mut self, l: &Load) {
        self.depth += l.depth;
        self.waits += l.waits;
        self.waited_ns += l.waited_ns;
    }

    fn depth(&self, n: usize) -> f64 {
        self.depth / n as f64
    }

    fn delay(&self) -> Option<f64> {
        (self.waits > 0.0).then(|| self.waited_ns / self.waits)
    }
}

/// Averages `series` around the moments of `cycles`. `threshold_ns`: waits of at least this have their own
/// events.
pub fn align(series: &WaitSeries, cycles: &[Cycle], threshold_ns: u64) -> Aligned {
    let mut out = Aligned { step_ns: STEP_NS, ..Aligned::default() };
    let Some((from, to)) = series.span() else {
        out.warnings
            .push("The run queue around collections: waits were not recorded by time.".into());
        return out;
    };
    (out.from_ns, out.to_ns) = (Some(from), Some(to));
    (out.waits, out.waited_ns) = series.total();
    if threshold_ns >> 20 > g211s_ebpf::series::SPREAD_TICKS {
        out.warnings.push(
            "The run queue around collections leaves out waits from 67 ms up to the threshold: they have no event \
             of their own."
                .into(),
        );
    }
    if series.unplaced() > 0 {
        out.warnings.push(format!(
            "The run queue around collections leaves out {} waits.",
            series.unplaced()
        ));
    }
    let (of, places, baseline) = compare_with(series, cycles);
    out.baseline = baseline;
    if baseline.is_none() && !cycles.is_empty() {
        out.warnings.push(format!(
            "The run queue around collections: they leave too little time between them to compare with (at \
             least {} ms are needed).",
            MIN_PLACES as u64 * VERDICT_STEPS
        ));
    }
    let moments: [(&'static str, &str, Moment); 3] = [
        ("cycle_start", "the start of a cycle", |c| c.start_ns),
        ("mark_start", "mark start", mark_start),
        ("mark_end", "mark end", |c| mark_start(c).saturating_add(c.mark_ns)),
    ];
    for (name, words, moment) in moments {
        let event = around(series, cycles, name, moment, &places);
        if event.cycles >= MIN_CYCLES
            && let (Some(after), Some(base)) = (&event.after, &baseline)
        {
            out.summary.push(sentence(words, event.cycles, after, base, of));
        }
        out.events.push(event);
    }
    let fewest = out.events.iter().map(|e| e.cycles).min().unwrap_or(0);
    if fewest < MIN_CYCLES {
        out.warnings.push(format!(
            "The run queue around collections: {fewest} with known surroundings are too few to say (at least \
             {MIN_CYCLES} are needed)."
        ));
    }
    out
}

/// A moment of a cycle, ns.
type Moment = fn(&Cycle) -> u64;

fn mark_start(cycle: &Cycle) -> u64 {
    cycle.start_ns.saturating_add(cycle.sweep_term_ns)
}

/// Where the baseline may be looked at: the ends of stretches of [`VERDICT_STEPS`] of known time, one a
/// step, each as its load.
fn compare_with(
    series: &WaitSeries,
    cycles: &[Cycle],
) -> (&'static str, Vec<Load>, Option<Baseline>) {
    let margins = [("outside", BEFORE, AFTER), ("between_cycles", 0, VERDICT_STEPS)];
    for (of, before, after) in margins {
        let places = places(series, cycles, before * STEP_NS, after * STEP_NS);
        if places.len() < MIN_PLACES {
            continue;
        }
        let mut sums = Sums::default();
        for load in &places {
            sums.add(load);
        }
        let baseline = Baseline {
            of,
            ns: places.len() as u64 * VERDICT_STEPS * STEP_NS,
            depth: sums.depth(places.len()),
            delay_ns: sums.delay(),
        };
        return (of, places, Some(baseline));
    }
    ("", Vec::new(), None)
}

/// The loads of consecutive stretches that keep away from all cycles.
fn places(series: &WaitSeries, cycles: &[Cycle], before_ns: u64, after_ns: u64) -> Vec<Load> {
    let Some((from, to)) = series.span() else { return Vec::new() };
    let length = VERDICT_STEPS * STEP_NS;
    let mut places = Vec::new();
    let mut at = from;
    let mut cycles = cycles.iter().peekable();
    while at.saturating_add(length) <= to {
        // Cycles ascend and do not overlap.
        while cycles
            .next_if(|c| c.start_ns.saturating_add(c.duration_ns).saturating_add(after_ns) <= at)
            .is_some()
        {}
        if let Some(cycle) = cycles.peek()
            && cycle.start_ns.saturating_sub(before_ns) < at + length
        {
            let end = cycle.start_ns.saturating_add(cycle.duration_ns).saturating_add(after_ns);
            at = end.max(at + 1);
            continue;
        }
        places.extend(series.load(at, at + length));
        at += length;
    }
    places
}

fn around(
    series: &WaitSeries,
    cycles: &[Cycle],
    name: &'static str,
    moment: Moment,
    places: &[Load],
) -> Event {
    let mut rows: Vec<[Load; STEPS]> = Vec::new();
    for cycle in evenly(cycles, MAX_CYCLES) {
        let Some(start) = moment(cycle).checked_sub(BEFORE * STEP_NS) else { continue };
        let mut row = [Load::default(); STEPS];
        let known = row.iter_mut().enumerate().all(|(i, slot)| {
            let from = start.saturating_add(i as u64 * STEP_NS);
            series.load(from, from.saturating_add(STEP_NS)).map(|l| *slot = l).is_some()
        });
        if known {
            rows.push(row);
        }
    }
    if rows.is_empty() {
        return Event { name, cycles: 0, steps: Vec::new(), after: None };
    }
    let mut draws = Draws::new(rows.len() as u64);
    let resampled: Vec<[Sums; STEPS]> = (0..RESAMPLES)
        .map(|_| {
            let mut sums = [Sums::default(); STEPS];
            for _ in 0..rows.len() {
                let row = &rows[draws.below(rows.len())];
                sums.iter_mut().zip(row).for_each(|(s, l)| s.add(l));
            }
            sums
        })
        .collect();
    let mut whole = [Sums::default(); STEPS];
    for row in &rows {
        whole.iter_mut().zip(row).for_each(|(s, l)| s.add(l));
    }
    let n = rows.len();
    let steps = (0..STEPS).map(|i| {
        let depths = interval_95(resampled.iter().map(|r| Some(r[i].depth(n))));
        let delays = interval_95(resampled.iter().map(|r| r[i].delay()));
        let depth = whole[i].depth(n);
        Step {
            at_ms: i as i64 - BEFORE as i64,
            depth,
            depth_low: depths.map_or(depth, |d| d.0),
            depth_high: depths.map_or(depth, |d| d.1),
            delay_ns: whole[i].delay(),
            delay_low_ns: delays.map(|d| d.0),
            delay_high_ns: delays.map(|d| d.1),
        }
    });
    let steps = steps.collect();
    let after = (!places.is_empty()).then(|| after(&whole, &resampled, n, places, &mut draws));
    Event { name, cycles: n, steps, after }
}

/// The first steps from the moment on: together, as one stretch.
fn first_steps(sums: &[Sums; STEPS]) -> Sums {
    let first = BEFORE as usize;
    let mut out = Sums::default();
    for s in &sums[first..first + VERDICT_STEPS as usize] {
        out.depth += s.depth / VERDICT_STEPS as f64;
        out.waits += s.waits;
        out.waited_ns += s.waited_ns;
    }
    out
}

fn after(
    whole: &[Sums; STEPS],
    resampled: &[[Sums; STEPS]],
    n: usize,
    places: &[Load],
    draws: &mut Draws,
) -> After {
    let sum_of = |places: &mut dyn Iterator<Item = Load>| {
        let mut sums = Sums::default();
        places.for_each(|l| sums.add(&l));
        sums
    };
    let here = first_steps(whole);
    let base = sum_of(&mut places.iter().copied());
    let (mut depth_ratios, mut delay_ratios) = (Vec::new(), Vec::new());
    let mut reached = 0usize;
    let ratio = |a: f64, b: f64| (b > 0.0).then(|| a / b);
    let delays = |a: &Sums, b: &Sums| ratio(a.delay()?, b.delay()?);
    for resample in resampled {
        let one = first_steps(resample);
        // As many random moments, for the chance; all of the baseline once more, for the ratio.
        let chance = sum_of(&mut (0..n).map(|_| places[draws.below(places.len())]));
        let again = sum_of(
            &mut (0..places.len().min(MAX_CYCLES)).map(|_| places[draws.below(places.len())]),
        );
        reached += usize::from(chance.depth(n) >= here.depth(n));
        let again_n = places.len().min(MAX_CYCLES);
        depth_ratios.push(ratio(one.depth(n), again.depth(again_n)));
        delay_ratios.push(delays(&one, &again));
    }
    let depth_ci = interval_95(depth_ratios.into_iter());
    let delay_ci = interval_95(delay_ratios.into_iter());
    After {
        depth: here.depth(n),
        depth_ratio: ratio(here.depth(n), base.depth(places.len())),
        depth_ratio_low: depth_ci.map(|c| c.0),
        depth_ratio_high: depth_ci.map(|c| c.1),
        delay_ns: here.delay(),
        delay_ratio: delays(&here, &base),
        delay_ratio_low: delay_ci.map(|c| c.0),
        delay_ratio_high: delay_ci.map(|c| c.1),
        by_chance: reached as f64 / resampled.len() as f64,
    }
}

/// At most `max` of a list, evenly spread over it.
fn evenly<T>(list: &[T], max: usize) -> impl Iterator<Item = &T> {
    let n = list.len().min(max);
    (0..n).filter_map(move |i| list.get(i * list.len() / n))
}

fn sentence(words: &str, cycles: usize, a: &After, base: &Baseline, of: &str) -> String {
    let elsewhere = if of == "outside" { "elsewhere" } else { "between the cycles" };
    let head = format!("In the {VERDICT_STEPS} ms after {words}");
    let (Some(ratio), Some(low), Some(high)) =
        (a.depth_ratio, a.depth_ratio_low, a.depth_ratio_high)
    else {
        return format!(
            "{head} {:.2} threads waited for a CPU on average, {:.2} {elsewhere} ({cycles} cycles).",
            a.depth, base.depth
        );
    };
    let numbers = format!("95 % {low:.1}–{high:.1}, {cycles} cycles");
    let depths = format!("{:.2} threads waiting on average against {:.2}", a.depth, base.depth);
    let mut out = if low > 1.0 {
        format!(
            "{head} the run queue was {ratio:.1} times as deep as {elsewhere} ({numbers}): {depths}"
        )
    } else if high < 1.0 {
        format!(
            "{head} the run queue was less deep than {elsewhere}: {ratio:.2} times as deep (95 % {low:.2}–{high:.2}, \
             {cycles} cycles), {depths}"
        )
    } else {
        format!(
            "{head} the run queue was no deeper than {elsewhere}, as far as the data can tell: {ratio:.1} times \
             ({numbers}), {depths}"
        )
    };
    if let (Some(ratio), Some(low), Some(high)) =
        (a.delay_ratio, a.delay_ratio_low, a.delay_ratio_high)
        && (low > 1.0 || high < 1.0)
    {
        let _ = write!(out, "; waits took {ratio:.1} times as long (95 % {low:.1}–{high:.1})");
    }
    out.push('.');
    out
}
