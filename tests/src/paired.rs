//! Paired measurement of what something costs a running program: time is cut into short slots, with it
//! and without it in turn, the program's own counter of its work is read from its memory at each slot's
//! edges (which does not disturb it), and neighbours are compared. Pairs of two slots without it show
//! how much neighbours differ anyway. Must not know what is measured.

use std::fmt;
use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use crate::service::Service;
use crate::stats::{Interval, median_interval};

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
