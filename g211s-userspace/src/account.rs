//! What probes may spend: comes in at a rate, is saved up to a limit, and what is owed is made up for by resting. In
//! whatever unit; must not know what is paid for.

/// As so much of a CPU a process counts at least. Much, since what is hit there may be the cause of a pause and comes in
/// bursts, and since of a part of what a nearly idle process takes nothing is to be seen: a leak of a megabyte a second
/// takes a twentieth of a CPU.
pub const LEAST_CPU: f64 = 0.5;
/// What is spent beyond what is saved counts for at most so long a rest, ns.
const LONGEST_REST_NS: u64 = 60_000_000_000;

/// An account.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Account {
    per_second: f64,
    full_ns: u64,
    saved: f64,
}

impl Account {
    /// So much comes in a second; what comes in `full_ns` is saved at most, and is there now.
    pub fn new(per_second: f64, full_ns: u64) -> Self {
        let mut new = Self { per_second, full_ns, saved: 0.0 };
        new.saved = new.full();
        new
    }

    /// From now on so much comes in a second.
    pub fn allow(&mut self, per_second: f64) {
        self.per_second = per_second;
    }

    /// From now on what comes in so long is saved.
    pub fn save_up_to(&mut self, full_ns: u64) {
        self.full_ns = full_ns;
    }

    /// What comes in in so long.
    pub fn income(&self, ns: u64) -> f64 {
        self.per_second * ns as f64 / 1e9
    }

    /// Most that is saved.
    pub fn full(&self) -> f64 {
        self.income(self.full_ns)
    }

    /// What is saved; below 0: owed.
    pub fn saved(&self) -> f64 {
        self.saved
    }

    /// What will be saved after so long, if so much is spent meanwhile.
    pub fn after(&self, ns: u64, spent: f64) -> f64 {
        let saved = self.saved + self.income(ns) - spent;
        saved.min(self.full()).max(-self.income(LONGEST_REST_NS))
    }

    /// So long has passed, and so much was spent.
    pub fn pass(&mut self, ns: u64, spent: f64) {
        self.saved = self.after(ns, spent);
    }
}

/// How much of the CPUs a process takes, over a second or so: the kernel counts a thread's time in ticks.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Cpus {
    cpus: f64,
    /// When it was looked at last, and its CPU time then, ns.
    last: Option<(u64, u64)>,
}

impl Cpus {
    /// It took so many a moment ago, and had so much CPU time at `now_ns`, ns.
    pub fn new(cpus: f64, now_ns: u64, cpu_ns: u64) -> Self {
        Self { cpus, last: Some((now_ns, cpu_ns)) }
    }

    /// Its CPU time by now, ns; how long it is since the last time, ns.
    pub fn see(&mut self, now_ns: u64, cpu_ns: u64) -> u64 {
        let Some((then, before)) = self.last.replace((now_ns, cpu_ns)) else { return 0 };
        let passed = now_ns.saturating_sub(then);
        if passed > 0 {
            let cpus = cpu_ns.saturating_sub(before) as f64 / passed as f64;
            self.cpus += (cpus - self.cpus) * (passed as f64 / 1e9).min(1.0);
        }
        passed
    }

    /// A share of its time, ns a second; of at least so much of a CPU, since of an idle process's it would be nothing.
    pub fn share_ns(&self, share: f64, least: f64) -> f64 {
        share * self.cpus.max(least) * 1e9
    }
}

#[cfg(test)]
#[expect(clippy::float_cmp, reason = "these values are exact")]
mod tests {
    use super::*;

    const SECOND: u64 = 1_000_000_000;

    #[test]
    fn what_is_not_spent_is_saved_up_to_a_limit() {
        let mut a = Account::new(100.0, 3 * SECOND);
        assert_eq!(a.saved(), 300.0);
        a.pass(SECOND, 500.0);
        assert_eq!(a.saved(), -100.0);
        a.pass(2 * SECOND, 0.0);
        assert_eq!(a.saved(), 100.0);
        a.pass(60 * SECOND, 0.0);
        assert_eq!(a.saved(), 300.0);
        a.pass(SECOND, 1e9);
        assert_eq!(a.after(60 * SECOND, 0.0), 0.0, "a minute makes up for anything");
        let none = Account::new(100.0, 0);
        assert_eq!([none.after(SECOND, 50.0), none.after(SECOND, 150.0)], [0.0, -50.0]);
    }

    #[test]
    fn an_idle_process_counts_a_little() {
        let mut c = Cpus::new(0.0, 0, 0);
        assert_eq!(c.share_ns(0.01, 0.5), 0.005 * 1e9);
        assert_eq!(c.see(SECOND, 2 * SECOND), SECOND);
        assert_eq!(c.share_ns(0.01, 0.5), 0.02 * 1e9);
        c.see(SECOND + SECOND / 2, 2 * SECOND);
        assert_eq!(c.share_ns(0.01, 0.5), 0.01 * 1e9, "half a second is half of it");
    }
}
