//! Keeps probes in hot code within a share of the target's CPU time: an account that fills at the budget's rate
//! and is charged with every hit, with the coming and going of probes, and with what g211s itself does about hits (on a
//! busy machine that is the target's CPU time as well). Decides from counts and times alone; must not know how a
//! probe is attached, nor what it is for.

use std::time::Duration;

use crate::account::{Account, Cpus, LEAST_CPU};

/// Most that the account holds, as time at the budget's full rate: what may be spent at once after a rest.
const SAVED_NS: u64 = 3_000_000_000;
/// Coming and going takes at most this part of what is saved up for a look: where it is dear, looks are longer and rarer.
const CHANGES: f64 = 0.1;
/// … up to this, as `SAVED_NS`.
const MOST_SAVED_NS: u64 = 8_000_000_000;
/// Shortest rest. Coming and going costs the whole machine some (see `governor::LOOK_EVERY`), and a look after less
/// tells little that the last one did not.
const REST_NS: u64 = 1_500_000_000;
/// Of its share so much is spent: a hit leaves caches colder than it found them, and no account sees that. (At 5 % of a
/// program that does nothing but allocate, what was charged in full had taken 7.7 % of its throughput.)
const SPENT: f64 = 0.75;
/// A plan is made denser only after it would have fitted for so long.
const CALM_NS: u64 = 4_000_000_000;
/// Part of the budget that a denser plan may be expected to take. Not all of it: expectations are from the runtime's
/// counts, and a plan that does not fit costs two changes.
const DENSER_UP_TO: f64 = 0.6;

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

/// What things cost, ns of CPU time.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Costs {
    /// A hit.
    pub hit_ns: f64,
    /// To go from one plan to another.
    pub change_ns: f64,
}

/// What was done since the beginning.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Done {
    /// Hits.
    pub hits: u64,
    /// CPU time of g211s for what was hit, ns.
    pub own_ns: u64,
}

/// The budget.
#[derive(Clone, Debug)]
pub struct Budget {
    share: f64,
    costs: Costs,
    /// Whether the densest plan can be had at all.
    next_free: bool,
    plan: Plan,
    /// What may be spent, ns of the target's time; below 0 after a rise.
    account: Account,
    cpus: Cpus,
    done: Done,
    rested_since: u64,
    fits_since: Option<u64>,
    spent_ns: f64,
}

impl Budget {
    /// `share` of the target's CPU time. `next_free`: whether the densest plan may be had.
    pub fn new(share: f64, costs: Costs, next_free: bool) -> Self {
        Self {
            share,
            costs: Costs { hit_ns: costs.hit_ns.max(1.0), ..costs },
            next_free,
            plan: Plan::Resting,
            account: Account::new(0.0, 0),
            cpus: Cpus::default(),
            done: Done::default(),
            rested_since: 0,
            fits_since: None,
            spent_ns: 0.0,
        }
    }

    /// Begins: `cpus` is what the target used of the CPUs a moment ago. Returns the plan to begin with.
    pub fn begin(&mut self, now_ns: u64, cpu_ns: u64, cpus: f64, expected: Expected) -> Plan {
        self.cpus = Cpus::new(cpus, now_ns, cpu_ns);
        // Little, so that a plan that does not fit is not kept for long, and a short run stays within the budget too.
        self.account = Account::new(self.per_second_ns(), SAVED_NS / 8);
        self.save();
        self.plan = if self.fits(expected.next_free) && self.next_free {
            Plan::NextFree
        } else {
            Plan::Refill
        };
        self.plan
    }

    /// What the target's CPU time allows, ns a second.
    fn per_second_ns(&self) -> f64 {
        self.cpus.share_ns(self.share * SPENT, LEAST_CPU / SPENT)
    }

    /// Sets what comes in and what is saved by the target's use of CPUs.
    fn save(&mut self) {
        let a_second = self.per_second_ns();
        self.account.allow(a_second);
        // There and back.
        let at_least = 2.0 * self.costs.change_ns / CHANGES / a_second * 1e9;
        self.account.save_up_to((at_least as u64).clamp(SAVED_NS, MOST_SAVED_NS));
    }

    /// What a hit comes to with what g211s does about it, ns.
    fn hit_ns(&self) -> f64 {
        // Of a few hits nothing is to be learned.
        const LEARNED: u64 = 1_000;
        self.costs.hit_ns + self.done.own_ns as f64 / self.done.hits.max(LEARNED) as f64
    }

    fn fits(&self, hits_per_s: f64) -> bool {
        hits_per_s * self.hit_ns() <= self.per_second_ns() * DENSER_UP_TO
    }

    /// How often something that takes so much CPU time, ns, may be done, if it is to take a fifth of what comes in.
    pub fn paced(&self, cost_ns: u64) -> Duration {
        const PART: f64 = 0.2;
        Duration::try_from_secs_f64(cost_ns as f64 / (self.per_second_ns() * PART))
            .unwrap_or(Duration::MAX)
    }

    /// What is attached.
    pub fn plan(&self) -> Plan {
        self.plan
    }

    /// What all was charged, ns.
    pub fn spent_ns(&self) -> u64 {
        self.spent_ns as u64
    }

    /// Which plan to have from now on. To be asked every 100 ms or so, more often while little is saved; `done` and
    /// `cpu_ns` are those since the beginning.
    pub fn decide(&mut self, now_ns: u64, cpu_ns: u64, done: Done, expected: Expected) -> Plan {
        self.settle(now_ns, cpu_ns, done);
        let next = self.next(now_ns, expected);
        if next != self.plan {
            self.fits_since = None;
            if next == Plan::Resting {
                self.rested_since = now_ns;
            }
            self.plan = next;
            self.charge(0, self.costs.change_ns);
        }
        next
    }

    fn charge(&mut self, passed_ns: u64, cost: f64) {
        self.spent_ns += cost;
        self.account.pass(passed_ns, cost);
    }

    /// Charges what was done since the last time.
    fn settle(&mut self, now_ns: u64, cpu_ns: u64, done: Done) {
        let passed = self.cpus.see(now_ns, cpu_ns);
        self.save();
        let hits = done.hits.saturating_sub(self.done.hits) as f64;
        let own_ns = done.own_ns.saturating_sub(self.done.own_ns) as f64;
        self.done = done;
        self.charge(passed, hits * self.costs.hit_ns + own_ns);
    }

    fn next(&mut self, now_ns: u64, expected: Expected) -> Plan {
        match self.plan {
            Plan::Resting => {
                let rested = now_ns.saturating_sub(self.rested_since) >= REST_NS;
                if rested && self.account.saved() >= self.account.full() * 0.9 {
                    Plan::Refill
                } else {
                    Plan::Resting
                }
            }
            Plan::NextFree if self.account.saved() <= 0.0 => Plan::Refill,
            Plan::Refill if self.account.saved() <= 0.0 => Plan::Resting,
            Plan::Refill
                if self.next_free
                    && self.account.saved() > 0.5 * self.account.full()
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
        let rate = hits_per_s * self.hit_ns() - self.per_second_ns();
        if rate <= 0.0 { u64::MAX } else { (self.account.saved().max(0.0) / rate * 1e9) as u64 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: u64 = 1_000_000;
    /// What g211s does about a hit, ns.
    const OWN: u64 = 500;
    const COSTS: Costs = Costs { hit_ns: 1_500.0, change_ns: 200_000.0 };

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
            let done = Done { hits: *hits, own_ns: *hits * OWN };
            b.decide(*from, *from, done, expected);
        }
        (b.spent_ns - before, attached)
    }

    fn begun(t: &Target) -> Budget {
        let mut b = Budget::new(0.01, COSTS, true);
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
            let allowed = SPENT * 0.01 * 120e9 + 0.05 * rate * 2_000.0;
            assert!(spent <= allowed * 1.05, "{rate}: {spent} of {allowed}");
            assert!(
                spent >= SPENT * 0.01 * 120e9 * 0.7,
                "{rate}: only {spent} of the budget is used"
            );
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
    fn work_that_is_dear_is_done_more_rarely() {
        // A nearly idle process: 1 % of half a CPU.
        let b = Budget::new(0.01, COSTS, true);
        assert_eq!(b.paced(1_000_000), Duration::from_secs(1));
        assert_eq!(b.paced(0), Duration::ZERO);
        assert_eq!(Budget::new(0.0, COSTS, true).paced(1), Duration::MAX);
    }

    #[test]
    fn an_idle_target_is_not_starved() {
        let t = Target { refill: 20.0, next_free: 80.0 };
        let mut b = Budget::new(0.01, COSTS, true);
        assert_eq!(
            b.begin(0, 0, 0.0, Expected { refill: 20.0, next_free: 80.0, exact: 0.0 }),
            Plan::NextFree
        );
        for at in 1..100 {
            let hits = (t.next_free * at as f64 / 10.0) as u64;
            let done = Done { hits, own_ns: hits * OWN };
            let expected = Expected { refill: t.refill, next_free: t.next_free, exact: 0.0 };
            assert_eq!(b.decide(at * 100 * MS, 0, done, expected), Plan::NextFree);
        }
    }
}
