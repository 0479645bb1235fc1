//! Keeps probes in hot code within a share of the target's CPU time: an account that fills at the budget's rate
//! and is charged with every hit. Decides from counts and times alone; must not know how a probe is attached, nor
//! what it is for.

/// Most that the account holds, as time at the budget's full rate: what may be spent at once after a rest.
const SAVED_NS: u64 = 3_000_000_000;
/// Shortest rest. Coming and going costs the whole machine some (see `governor::LOOK_EVERY`), and a look after less
/// tells little that the last one did not.
const REST_NS: u64 = 1_500_000_000;
/// A plan is made denser only after it would have fitted for so long.
const CALM_NS: u64 = 4_000_000_000;
/// Part of the budget that a denser plan may be expected to take. Not all of it: expectations are from the runtime's
/// counts, and a plan that does not fit costs two changes.
const DENSER_UP_TO: f64 = 0.6;
/// A process that is nearly idle counts as one that takes so much of a CPU: its budget would be nothing.
pub const LEAST_CPU: f64 = 0.05;

/// What is attached.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Plan {
    /// Nothing: the account is empty.
    Resting,
    /// One hit a span of small objects.
    Refill,
    /// One hit in up to 64 small objects.
    NextFree,
}

impl Plan {
    /// As it is recorded.
    pub fn name(self) -> &'static str {
        match self {
            Self::Resting => "resting",
            Self::Refill => "refill",
            Self::NextFree => "next_free",
        }
    }
}

/// Hits a second to be expected of each plan, from what the runtime counts by itself.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Expected {
    /// Of [`Plan::Refill`].
    pub refill: f64,
    /// Of [`Plan::NextFree`].
    pub next_free: f64,
    /// Where every allocation is counted.
    pub exact: f64,
}

/// The account.
#[derive(Clone, Debug)]
pub struct Budget {
    share: f64,
    cost_ns: f64,
    /// Whether the densest plan can be had at all.
    next_free: bool,
    plan: Plan,
    /// What may be spent, ns of the target's time; below 0 after a rise.
    saved_ns: f64,
    last: Option<Seen>,
    /// The target's use of CPUs, smoothed.
    cpus: f64,
    rested_since: u64,
    fits_since: Option<u64>,
    spent_ns: f64,
}

#[derive(Clone, Copy, Debug)]
struct Seen {
    at_ns: u64,
    cpu_ns: u64,
    hits: u64,
}

impl Budget {
    /// `share` of the target's CPU time, at `cost_ns` a hit. `next_free`: whether the densest plan may be had.
    pub fn new(share: f64, cost_ns: u64, next_free: bool) -> Self {
        Self {
            share,
            cost_ns: cost_ns.max(1) as f64,
            next_free,
            plan: Plan::Resting,
            saved_ns: 0.0,
            last: None,
            cpus: 0.0,
            rested_since: 0,
            fits_since: None,
            spent_ns: 0.0,
        }
    }

    /// Begins: `cpus` is what the target used of the CPUs a moment ago. Returns the plan to begin with.
    pub fn begin(&mut self, now_ns: u64, cpu_ns: u64, cpus: f64, expected: Expected) -> Plan {
        self.cpus = cpus;
        // Little, so that a plan that does not fit is not kept for long, and a short run stays within the budget too.
        self.saved_ns = self.full() / 8.0;
        self.last = Some(Seen { at_ns: now_ns, cpu_ns, hits: 0 });
        self.plan = if self.fits(expected.next_free) && self.next_free {
            Plan::NextFree
        } else {
            Plan::Refill
        };
        self.plan
    }

    /// What the target's CPU time allows, ns a second.
    pub fn per_second_ns(&self) -> f64 {
        self.share * self.cpus.max(LEAST_CPU) * 1e9
    }

    fn full(&self) -> f64 {
        self.per_second_ns() * SAVED_NS as f64 / 1e9
    }

    fn fits(&self, hits_per_s: f64) -> bool {
        hits_per_s * self.cost_ns <= self.per_second_ns() * DENSER_UP_TO
    }

    /// What is attached.
    pub fn plan(&self) -> Plan {
        self.plan
    }

    /// What all hits have cost, ns.
    pub fn spent_ns(&self) -> u64 {
        self.spent_ns as u64
    }

    /// Which plan to have from now on. To be asked every 100 ms or so, more often while little is saved; `hits` and
    /// `cpu_ns` are those since the beginning.
    pub fn decide(&mut self, now_ns: u64, cpu_ns: u64, hits: u64, expected: Expected) -> Plan {
        self.settle(now_ns, cpu_ns, hits);
        let next = self.next(now_ns, expected);
        if next != self.plan {
            self.fits_since = None;
            if next == Plan::Resting {
                self.rested_since = now_ns;
            }
            self.plan = next;
        }
        next
    }

    /// Charges what was hit since the last time.
    fn settle(&mut self, now_ns: u64, cpu_ns: u64, hits: u64) {
        let Some(last) = self.last.replace(Seen { at_ns: now_ns, cpu_ns, hits }) else { return };
        let passed = now_ns.saturating_sub(last.at_ns) as f64;
        if passed > 0.0 {
            let cpus = cpu_ns.saturating_sub(last.cpu_ns) as f64 / passed;
            // Over a second or so: the kernel counts a thread's time in ticks.
            let part = (passed / 1e9).min(1.0);
            self.cpus += (cpus - self.cpus) * part;
        }
        let cost = hits.saturating_sub(last.hits) as f64 * self.cost_ns;
        self.spent_ns += cost;
        self.saved_ns =
            (self.saved_ns + self.per_second_ns() * passed / 1e9 - cost).min(self.full());
    }

    fn next(&mut self, now_ns: u64, expected: Expected) -> Plan {
        match self.plan {
            Plan::Resting => {
                let rested = now_ns.saturating_sub(self.rested_since) >= REST_NS;
                if rested && self.saved_ns >= self.full() * 0.9 {
                    Plan::Refill
                } else {
                    Plan::Resting
                }
            }
            Plan::NextFree if self.saved_ns <= 0.0 => Plan::Refill,
            Plan::Refill if self.saved_ns <= 0.0 => Plan::Resting,
            Plan::Refill
                if self.next_free
                    && self.saved_ns > 0.5 * self.full()
                    && self.fits(expected.next_free) =>
            {
                let since = *self.fits_since.get_or_insert(now_ns);
                if now_ns.saturating_sub(since) >= CALM_NS { Plan::NextFree } else { Plan::Refill }
            }
            plan => {
                self.fits_since = None;
                plan
            }
        }
    }

    /// For how long what is saved lasts at `hits_per_s`, ns.
    pub fn lasts_ns(&self, hits_per_s: f64) -> u64 {
        let rate = hits_per_s * self.cost_ns - self.per_second_ns();
        if rate <= 0.0 { u64::MAX } else { (self.saved_ns.max(0.0) / rate * 1e9) as u64 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: u64 = 1_000_000;

    /// A target that uses one CPU: the hits a second of each plan.
    struct Target {
        refill: f64,
        next_free: f64,
    }

    /// Runs for so long, asked every 50 ms; returns ns spent and ns attached.
    fn run(b: &mut Budget, from: &mut u64, seconds: u64, hits: &mut u64, t: &Target) -> (f64, u64) {
        let (mut attached, before) = (0, b.spent_ns);
        for _ in 0..seconds * 20 {
            let rate = match b.plan() {
                Plan::Resting => 0.0,
                Plan::Refill => t.refill,
                Plan::NextFree => t.next_free,
            };
            attached += if b.plan() == Plan::Resting { 0 } else { 50 * MS };
            *from += 50 * MS;
            *hits += (rate / 20.0) as u64;
            let expected = Expected { refill: t.refill, next_free: t.next_free, exact: 0.0 };
            b.decide(*from, *from, *hits, expected);
        }
        (b.spent_ns - before, attached)
    }

    fn begun(t: &Target) -> Budget {
        let mut b = Budget::new(0.01, 2_000, true);
        b.begin(0, 0, 1.0, Expected { refill: t.refill, next_free: t.next_free, exact: 0.0 });
        b
    }

    #[test]
    fn what_fits_stays_as_dense_as_it_fits() {
        // 1 % of a CPU is 5,000 hits a second.
        let t = Target { refill: 500.0, next_free: 2_000.0 };
        let mut b = begun(&t);
        let (spent, attached) = run(&mut b, &mut 0, 30, &mut 0, &t);
        assert_eq!((b.plan(), attached), (Plan::NextFree, 30_000 * MS));
        assert!(spent < 0.01 * 30e9, "{spent}");
        let t = Target { refill: 2_000.0, next_free: 8_000.0 };
        let mut b = begun(&t);
        let (_, attached) = run(&mut b, &mut 0, 30, &mut 0, &t);
        assert_eq!((b.plan(), attached), (Plan::Refill, 30_000 * MS));
    }

    #[test]
    fn too_much_is_looked_at_within_the_budget() {
        for rate in [10_000.0, 50_000.0, 500_000.0] {
            let t = Target { refill: rate, next_free: 4.0 * rate };
            let mut b = begun(&t);
            let (spent, attached) = run(&mut b, &mut 0, 120, &mut 0, &t);
            // The granularity of 50 ms is part of it.
            let allowed = 0.01 * 120e9 + 0.05 * rate * 2_000.0;
            assert!(spent <= allowed * 1.05, "{rate}: {spent} of {allowed}");
            assert!(spent >= 0.01 * 120e9 * 0.7, "{rate}: only {spent} of the budget is used");
            assert!(attached > 0);
        }
    }

    #[test]
    fn a_sudden_rise_is_over_in_two_seconds() {
        let calm = Target { refill: 1_000.0, next_free: 4_000.0 };
        let mut b = begun(&calm);
        let (mut now, mut hits) = (0, 0);
        run(&mut b, &mut now, 20, &mut hits, &calm);
        assert!(b.plan() >= Plan::Refill);
        let risen = Target { refill: 20_000.0, next_free: 80_000.0 };
        let (spent, _) = run(&mut b, &mut now, 2, &mut hits, &risen);
        assert_eq!(b.plan(), Plan::Resting);
        // What was saved, and two seconds' worth.
        assert!(spent <= 0.01 * 5.2e9, "{spent}");
        let (spent, _) = run(&mut b, &mut now, 60, &mut hits, &risen);
        assert!(spent <= 0.01 * 60e9 * 1.1, "{spent}");
        // And back.
        run(&mut b, &mut now, 20, &mut hits, &calm);
        assert!(b.plan() >= Plan::Refill);
    }

    #[test]
    fn an_idle_target_is_not_starved() {
        let t = Target { refill: 20.0, next_free: 80.0 };
        let mut b = Budget::new(0.01, 2_000, true);
        assert_eq!(
            b.begin(0, 0, 0.0, Expected { refill: 20.0, next_free: 80.0, exact: 0.0 }),
            Plan::NextFree
        );
        for at in 1..100 {
            let hits = (t.next_free * at as f64 / 10.0) as u64;
            let expected = Expected { refill: t.refill, next_free: t.next_free, exact: 0.0 };
            assert_eq!(b.decide(at * 100 * MS, 0, hits, expected), Plan::NextFree);
        }
    }
}
