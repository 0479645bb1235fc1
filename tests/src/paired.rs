//! Paired measurement of what something costs a running program: time is cut into short slots, with it
//! and without it in turn, the program's own counter of its work is read from its memory at each slot's
//! edges (which does not disturb it), and neighbours are compared. Pairs of two slots without it show
//! how much neighbours differ anyway. Must not know what is measured.

use std::fmt;
use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use crate::service::Service;
use crate::stats::{Interval, mean_interval, median_interval};

/// A program's counter of its work: eight bytes in its memory.
pub struct Counter {
    memory: File,
    address: u64,
}

impl Counter {
    /// Where it is the program says itself (the workload `census`: `where`).
    pub fn of(service: &mut Service) -> Result<Self> {
        let address = service.ask("where 0", "where 0 ")?.parse()?;
        let path = format!("/proc/{}/mem", service.pid());
        Ok(Self { memory: File::open(&path).with_context(|| path.clone())?, address })
    }

    /// Its value.
    pub fn read(&self) -> Result<u64> {
        let mut bytes = [0; 8];
        self.memory.read_exact_at(&mut bytes, self.address).context("the program's counter")?;
        Ok(u64::from_le_bytes(bytes))
    }

    /// What is counted a second while `run` runs, and how long that took.
    fn rate(&self, run: impl FnOnce() -> Result<()>) -> Result<(f64, Duration)> {
        let (from, began) = (self.read()?, Instant::now());
        run()?;
        let (to, took) = (self.read()?, began.elapsed());
        Ok(((to - from) as f64 / took.as_secs_f64(), took))
    }
}

/// What pairs of slots showed.
#[derive(Clone, Copy, Debug)]
pub struct Cost {
    /// Pairs.
    pub pairs: usize,
    /// The share of the work that is lost: the median of the pairs, and its 95 % interval.
    pub loss: Interval,
    /// The same of two slots without it, where nothing is lost.
    pub control: Interval,
}

impl Cost {
    /// Whether a loss of `bound` would be seen: pairs without anything agree to within that.
    pub fn can_tell(&self, bound: f64) -> bool {
        self.control.low > -bound && self.control.high < bound
    }
}

impl fmt::Display for Cost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let show = |i: Interval| {
            let [at, low, high] = [i.at, i.low, i.high].map(|share| share * 100.0);
            format!("{at:.2} % ({low:.2} to {high:.2})")
        };
        write!(
            f,
            "{} lost; control, where nothing is done: {}; medians of {} pairs, 95 % intervals",
            show(self.loss),
            show(self.control),
            self.pairs
        )
    }
}

/// Measures what `run` costs, in slots as long as it takes. Ends when a loss of `bound` would be seen
/// clearly, or after `most` pairs.
pub fn cost(
    counter: &Counter,
    bound: f64,
    most: usize,
    mut run: impl FnMut() -> Result<()>,
) -> Result<Cost> {
    const FEWEST: usize = 20;
    // Whatever is done for the first time only.
    let (_, mut length) = counter.rate(&mut run)?;
    let (mut losses, mut controls) = (Vec::new(), Vec::new());
    loop {
        let rest = |length| {
            counter.rate(|| {
                std::thread::sleep(length);
                Ok(())
            })
        };
        // With it first, then without; the next time the other way around: a drift cancels out.
        let (with, without) = if losses.len().is_multiple_of(2) {
            let with = counter.rate(&mut run)?;
            (with, rest(with.1)?.0)
        } else {
            let without = rest(length)?.0;
            (counter.rate(&mut run)?, without)
        };
        length = with.1;
        losses.push(1.0 - with.0 / without);
        let (one, other) = (rest(length)?.0, rest(length)?.0);
        controls.push(1.0 - one / other);
        let pairs = losses.len();
        if pairs < FEWEST || !pairs.is_multiple_of(10) && pairs < most {
            continue;
        }
        let cost =
            Cost { pairs, loss: median_interval(&losses), control: median_interval(&controls) };
        let narrow = |i: Interval| i.high - i.low < bound;
        if pairs >= most || narrow(cost.loss) && narrow(cost.control) {
            return Ok(cost);
        }
    }
}

/// A slot of time, ns of the monotonic clock: with nobody, or with the observer of this number.
#[derive(Clone, Copy, Debug)]
pub struct Slot {
    /// Who.
    pub who: Option<usize>,
    /// From when.
    pub from_ns: u64,
    /// Until when.
    pub to_ns: u64,
}

/// What several observers leave of a program's work, each slot of theirs between two with nobody. By what the program has
/// counted by itself.
#[derive(Debug, Default)]
pub struct Turns {
    slots: Vec<Slot>,
}

impl Turns {
    /// Adds a slot; in the order of time, every other one with nobody.
    pub fn push(&mut self, slot: Slot) {
        self.slots.push(slot);
    }

    /// The work done with an observer as a share of that with nobody before and after it: each time, and their trimmed mean
    /// with its 95 % interval.
    ///
    /// # Errors
    /// What `rate`, of the work between two moments, fails with.
    pub fn left_by(
        &self,
        who: usize,
        rate: impl Fn(u64, u64) -> Result<f64>,
    ) -> Result<(Vec<f64>, Interval)> {
        let rate = |slot: &Slot| rate(slot.from_ns, slot.to_ns);
        let mut shares = Vec::new();
        for three in self.slots.windows(3) {
            let [before, with, after] = three else { continue };
            if with.who == Some(who) && before.who.is_none() && after.who.is_none() {
                shares.push(rate(with)? * 2.0 / (rate(before)? + rate(after)?));
            }
        }
        let mean = mean_interval(&shares);
        Ok((shares, mean))
    }
}

/// What a program did in a time.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Work {
    /// Of whatever it counts.
    pub done: f64,
    /// Its CPU time, ns.
    pub cpu_ns: f64,
}

/// How long before something happened it is watched already: it is told when it is all there (several probes, one after
/// another).
const AHEAD_NS: u64 = 200_000_000;
/// How long after it: what lags behind belongs to it.
const AFTER_NS: u64 = 500_000_000;
/// The time before and behind that with which it is compared.
const BESIDE_NS: u64 = 500_000_000;

/// The part of a program's CPU time from `from_ns` to `to_ns` that it lost to what happened at `times` (from, until): by how
/// much less it did for its CPU time then, and for half a second behind, than right before and right after. On a machine whose speed
/// changes, and where others take CPUs, this tells what slots of many seconds cannot. With its 95 % interval.
///
/// # Errors
/// What `work` fails with; too few times that have an undisturbed time beside them.
pub fn lost_around(
    times: &[(u64, u64)],
    (from_ns, to_ns): (u64, u64),
    work: impl Fn(u64, u64) -> Result<Work>,
) -> Result<Interval> {
    const FEWEST: usize = 8;
    let mut lost = Vec::new();
    for (n, &(begin, end)) in times.iter().enumerate() {
        let last = n.checked_sub(1).map_or(from_ns, |n| times[n].1 + AFTER_NS);
        let next = times.get(n + 1).map_or(to_ns, |next| next.0 - AHEAD_NS);
        let (begin, after) = (begin.saturating_sub(AHEAD_NS), end + AFTER_NS);
        let before = begin.saturating_sub(BESIDE_NS);
        if before < last || after + BESIDE_NS > next {
            continue;
        }
        let (one, other) = (work(before, begin)?, work(after, after + BESIDE_NS)?);
        let rate = (one.done + other.done) / (one.cpu_ns + other.cpu_ns);
        let meant = work(begin, after)?;
        lost.push(meant.cpu_ns - meant.done / rate);
    }
    ensure!(lost.len() >= FEWEST, "only {} times can be compared with what is beside", lost.len());
    // Those that could not be compared count as the others.
    let scale = times.len() as f64 / work(from_ns, to_ns)?.cpu_ns;
    let mean = mean_interval(&lost);
    Ok(Interval { at: mean.at * scale, low: mean.low * scale, high: mean.high * scale })
}

#[cfg(test)]
#[expect(clippy::float_cmp, reason = "these values are exact")]
mod tests {
    use super::*;

    #[test]
    fn each_turn_is_compared_with_its_neighbours() {
        let mut turns = Turns::default();
        for (n, who) in [None, Some(0), None, Some(1), None, Some(0), None].into_iter().enumerate()
        {
            let from_ns = n as u64 * 10;
            turns.push(Slot { who, from_ns, to_ns: from_ns + 10 });
        }
        // The machine gets faster all the time; the first observer takes half, the second nothing.
        let rate = |from: u64, _| {
            let speed = 100.0 + from as f64;
            Ok(if [10, 50].contains(&from) { speed / 2.0 } else { speed })
        };
        assert_eq!(turns.left_by(0, rate).unwrap().0, [0.5, 0.5]);
        assert_eq!(turns.left_by(1, rate).unwrap().1.at, 1.0);
    }

    #[test]
    fn what_is_lost_around_moments_is_found() {
        const SECOND: u64 = 1_000_000_000;
        let times: Vec<(u64, u64)> =
            (1..=10).map(|n| (3 * n * SECOND, 3 * n * SECOND + SECOND / 10)).collect();
        // Half of the CPU time of each look is lost, on a machine that gets faster all the time.
        let work = |from: u64, to: u64| {
            let in_looks: u64 =
                times.iter().map(|t| to.min(t.1).max(from.max(t.0)) - from.max(t.0)).sum();
            let speed = 1.0 + (from + to) as f64 / 2e12;
            let cpu_ns = (to - from) as f64;
            Ok(Work { done: (cpu_ns - in_looks as f64 / 2.0) * speed, cpu_ns })
        };
        let lost = lost_around(&times, (0, 40 * SECOND), work).unwrap();
        // Ten looks of 50 ms in 40 s.
        assert!((lost.at - 0.0125).abs() < 1e-4, "{lost:?}");
        assert!(lost_around(&times[..3], (0, 40 * SECOND), work).is_err());
    }
}
