//! Keeps affordable what is hit very often (the probes in the allocator's slow path and in mark assists; the tracepoints of
//! all the host's system calls): exact while hits are few, looks at intervals when they are many. Where hits are only
//! counted, short looks say as much as long ones. Where each hit may be the one that matters, the whole budget is
//! spent: hits that were not needed are saved up, and a look lasts until they are used up. Decides from counts and times
//! alone; must not know how a probe is attached.

use std::time::Duration;

use crate::account::Account;

/// System calls of the host a second up to which their tracepoints stay attached: about as much, at 64 to
/// 80 ns each (measured on 6.18, `getppid` in a loop).
pub const EXACT_SYSCALLS: u64 = 50_000;
/// First rest between two looks once they do not stay. Not shorter, because coming and going costs the whole
/// machine: the kernel waits for every task to be out of the probe (RCU tasks trace), and while it
/// does, every BPF program's end is slower. (Measured on 6.18, two CPUs, 27,000 requests/s: in the 300 ms after a
/// look 6 % fewer of them.)
pub const LOOK_EVERY: Duration = Duration::from_secs(5);
/// Where short looks say as much as long ones, each rest is longer than the last by [`LOOK_EVERY`], up to this: in
/// half a minute there are three looks, and a day of them costs next to nothing.
pub const LOOK_AT_LEAST_EVERY: Duration = Duration::from_secs(30);
/// Length of a look: 1 % of the time.
pub const LOOK: Duration = Duration::from_millis(50);
/// The time over which the rate of probes that stay is taken.
const RATE_OVER: Duration = Duration::from_secs(1);

/// What to do with the probes now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Leave them as they are.
    Keep,
    /// Attach them.
    Attach,
    /// Detach them.
    Detach,
}

/// The state of probes that come and go together. Times are ns on any one clock; `hits` are those
/// counted since the beginning. Attaching and detaching take their time, so both are told
/// when they have happened, with the hits at that moment: what is hit in between counts for nothing.
#[derive(Clone, Debug)]
pub struct Governor {
    /// Hits that may be taken, as of when the probes were attached or last settled.
    account: Account,
    attached_since: Option<u64>,
    hits_then: u64,
    attached_ns: u64,
    counted: u64,
    detached_at: u64,
    /// Length of the rest under way, or of the next, ns.
    rest: u64,
    sampling: bool,
}

impl Governor {
    /// Probes that are to stay attached up to so many hits a second: only the rate decides.
    pub fn new(exact_up_to: f64) -> Self {
        Self::with(Account::new(exact_up_to, 0))
    }

    /// Probes that may stay attached as long as their hits are so many a second in the mean, over looks and rests.
    pub fn saving(exact_up_to: f64) -> Self {
        Self::with(Account::new(exact_up_to, ns(LOOK_EVERY)))
    }

    fn with(account: Account) -> Self {
        Self {
            account,
            attached_since: None,
            hits_then: 0,
            attached_ns: 0,
            counted: 0,
            detached_at: 0,
            rest: 0,
            sampling: false,
        }
    }

    /// From now on so many hits a second may be taken.
    pub fn allow(&mut self, per_second: f64) {
        self.account.allow(per_second);
    }

    /// The probes have been attached.
    pub fn attached(&mut self, now: u64, hits: u64) {
        if self.attached_since.is_none() && self.sampling {
            // What was hit while they were being detached was paid for, too.
            let more = hits.saturating_sub(self.hits_then);
            self.account.pass(now.saturating_sub(self.detached_at), more as f64);
        }
        self.attached_since = Some(now);
        self.hits_then = hits;
    }

    /// The probes are about to be detached.
    pub fn detached(&mut self, now: u64, hits: u64) {
        self.settle(now, hits);
        self.attached_since = None;
        self.detached_at = now;
        let longest = if self.account.full() == 0.0 { LOOK_AT_LEAST_EVERY } else { LOOK_EVERY };
        self.rest = (self.rest + ns(LOOK_EVERY)).min(ns(longest));
        self.sampling = true;
    }

    /// They cannot be attached any more: what was counted stays.
    pub fn give_up(&mut self) {
        self.detached_at = u64::MAX;
    }

    fn settle(&mut self, now: u64, hits: u64) {
        if let Some(since) = self.attached_since {
            let (ns, hits) = (now.saturating_sub(since), hits.saturating_sub(self.hits_then));
            self.account.pass(ns, hits as f64);
        }
        self.attached_ns = self.attached_ns(now);
        self.counted = self.counted(hits);
        self.attached_since = self.attached_since.map(|_| now);
        self.hits_then = hits;
    }

    /// What is to be done at `now`. To be asked every [`LOOK`] or so while it looks, else every 100 ms.
    pub fn decide(&mut self, now: u64, hits: u64) -> Action {
        let Some(since) = self.attached_since else {
            let rest = now.saturating_sub(self.detached_at);
            let more = hits.saturating_sub(self.hits_then);
            let rested = rest >= self.rest && self.account.after(rest, more as f64) >= 0.0;
            return if rested { Action::Attach } else { Action::Keep };
        };
        let looked = now.saturating_sub(since);
        if looked < ns(LOOK) {
            return Action::Keep;
        }
        let hit = hits.saturating_sub(self.hits_then);
        if self.account.saved() + self.account.income(looked) < hit as f64 {
            return Action::Detach;
        }
        // The rate of the last second or so, not of the whole stay, decides.
        if looked >= ns(RATE_OVER) {
            self.settle(now, hits);
            // They stay.
            self.rest = 0;
        }
        Action::Keep
    }

    /// Hits while the probes were attached, up to now.
    pub fn counted(&self, hits: u64) -> u64 {
        self.counted + self.attached_since.map_or(0, |_| hits.saturating_sub(self.hits_then))
    }

    /// How long the probes have been attached in all, ns.
    pub fn attached_ns(&self, now: u64) -> u64 {
        self.attached_ns + self.attached_since.map_or(0, |since| now.saturating_sub(since))
    }

    /// Whether a look may be over any moment: within a second of attaching.
    pub fn is_looking(&self, now: u64) -> bool {
        self.attached_since.is_some_and(|since| now.saturating_sub(since) < 1_000_000_000)
            && (self.sampling || self.attached_ns == 0)
    }

    /// Whether they are attached.
    pub fn is_attached(&self) -> bool {
        self.attached_since.is_some()
    }

    /// Whether counts are extrapolated from looks.
    pub fn is_sampling(&self) -> bool {
        self.sampling
    }
}

fn ns(d: Duration) -> u64 {
    d.as_nanos() as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: u64 = 1_000_000;
    const EXACT: u64 = 2_000;

    fn attached() -> Governor {
        let mut g = Governor::new(EXACT as f64);
        g.attached(0, 0);
        g
    }

    /// Runs `seconds` at `rate` hits a second, asked every 10 ms; returns hits taken and what the
    /// looks make of the true number.
    fn run(g: &mut Governor, from: u64, seconds: u64, rate: u64, hits: &mut u64) -> u64 {
        let before = *hits;
        for step in 1..=seconds * 100 {
            if g.is_attached() {
                *hits += rate / 100;
            }
            let now = from + step * 10 * MS;
            match g.decide(now, *hits) {
                Action::Keep => {}
                Action::Attach => g.attached(now, *hits),
                Action::Detach => {
                    g.detached(now, *hits);
                    // The kernel takes a moment; what is hit meanwhile must not count.
                    *hits += rate / 200;
                }
            }
        }
        *hits - before
    }

    #[test]
    fn few_hits_are_counted_exactly() {
        let (mut g, mut hits) = (attached(), 0);
        assert_eq!(run(&mut g, 0, 10, 1_000, &mut hits), 10_000);
        assert!(!g.is_sampling());
        assert_eq!(g.attached_ns(10_000 * MS), 10_000 * MS);
    }

    #[test]
    fn many_hits_are_looked_at_and_extrapolate() {
        let (mut g, mut hits) = (attached(), 0);
        let taken = run(&mut g, 0, 60, 50_000, &mut hits);
        assert!(g.is_sampling());
        assert!(taken <= 60 * 50_000 / 20, "{taken} hits are more than the budget");
        let estimate = g.counted(hits) * 60_000 * MS / g.attached_ns(60_000 * MS);
        assert!(estimate.abs_diff(3_000_000) < 300_000, "{estimate} for 3,000,000");
    }

    #[test]
    fn rests_grow_where_short_looks_do() {
        let looks = |mut g: Governor, seconds: u64| {
            g.attached(0, 0);
            let mut hits = 0;
            (0..seconds).filter(|s| run(&mut g, s * 1_000 * MS, 1, 50_000, &mut hits) > 0).count()
        };
        // After 0, 5, 15, 30, 50, 75 s, then each 30 s.
        assert_eq!(looks(Governor::new(EXACT as f64), 30), 3);
        let hour = looks(Governor::new(EXACT as f64), 3_600);
        assert!((121..=124).contains(&hour), "{hour}");
    }

    #[test]
    fn bursts_are_paid_from_what_was_saved() {
        let bursts = |g: &mut Governor| {
            g.attached(0, 0);
            let mut hits = 0;
            for n in 0..20 {
                for step in 1..=100 {
                    // 100 ms with 10,000 hits a second, then nothing: 1,000 in the mean.
                    hits += if g.is_attached() && step <= 10 { 100 } else { 0 };
                    let now = (n * 1_000 + step * 10) * MS;
                    if g.decide(now, hits) == Action::Detach {
                        g.detached(now, hits);
                    }
                }
            }
            g.attached_ns(20_000 * MS) == 20_000 * MS
        };
        assert!(bursts(&mut Governor::saving(EXACT as f64)));
        assert!(!bursts(&mut Governor::new(EXACT as f64)));
    }

    #[test]
    fn the_budget_is_spent_and_kept() {
        const SECONDS: u64 = 120;
        for rate in [2_500, 10_000, 50_000, 500_000, 5_000_000] {
            let mut g = Governor::saving(EXACT as f64);
            g.attached(0, 0);
            let mut hits = 0;
            let taken = run(&mut g, 0, SECONDS, rate, &mut hits);
            let budget = EXACT * SECONDS;
            // Within a look of 50 ms nothing is decided, and as much as is saved may be gone at the end.
            let more = 5 * EXACT + rate / 10 + rate / 200;
            assert!(taken <= budget + more, "{taken} hits at {rate} a second");
            assert!(taken * 10 >= budget * 7, "{taken} hits at {rate} a second, of {budget}");
        }
    }

    #[test]
    fn what_is_allowed_may_change() {
        let (mut g, mut hits) = (attached(), 0);
        run(&mut g, 0, 5, 1_500, &mut hits);
        assert!(g.is_attached());
        g.allow(1_000.0);
        run(&mut g, 5_000 * MS, 2, 1_500, &mut hits);
        assert!(!g.is_attached() && g.is_sampling());
    }

    #[test]
    fn a_rise_is_caught_and_a_fall_lets_them_stay() {
        let (mut g, mut hits) = (attached(), 0);
        run(&mut g, 0, 5, 100, &mut hits);
        let taken = run(&mut g, 5_000 * MS, 1, 100_000, &mut hits);
        assert!(taken < 15_000, "a sudden rise took {taken} hits before the probes were out");
        // Five seconds of rest, then they stay.
        let taken = run(&mut g, 6_000 * MS, 15, 100, &mut hits);
        assert!(taken > 800, "{taken}");
        assert!(g.is_attached());
    }
}
