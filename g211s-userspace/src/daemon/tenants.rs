//! Who is watched, by index, and what each costs. Must not know how that is measured.

use std::collections::BTreeMap;

use super::config::Label;
use super::discovery::Candidate;
use super::metrics::Identity;

/// The budget must be exceeded in so many looks after one another.
const PATIENCE: u32 = 3;
/// The first looks after a start do not count: what is there is read then.
const GRACE: u32 = 3;

/// Hits of probes so far, and other events, by index.
pub type Hits = BTreeMap<u8, (u64, u64)>;

/// They.
#[derive(Default)]
pub struct Tenants {
    /// What a hit of a probe costs, ns.
    hit_ns: u64,
    by_index: BTreeMap<u8, Candidate>,
    /// At the last look: when by the agent's clock, its CPU time, hits.
    last: Option<(std::time::Instant, u64, Hits)>,
    /// Hits of those that are gone.
    gone: u64,
    looks: u32,
    exceeded: u32,
    cost: f64,
}

impl Tenants {
    /// Nobody yet.
    pub fn new(hit_ns: u64) -> Self {
        Self { hit_ns, ..Self::default() }
    }

    /// Another one.
    pub fn insert(&mut self, index: u8, candidate: Candidate) {
        self.by_index.insert(index, candidate);
    }

    /// Not any more.
    pub fn remove(&mut self, index: u8) -> Option<Candidate> {
        self.by_index.remove(&index)
    }

    /// Only those at these indexes are left; how many went.
    pub fn retain(&mut self, alive: &[u8]) -> u64 {
        let before = self.by_index.len();
        self.by_index.retain(|index, _| alive.contains(index));
        (before - self.by_index.len()) as u64
    }

    /// How many.
    pub fn len(&self) -> usize {
        self.by_index.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.by_index.is_empty()
    }

    /// Whether a process is among them.
    pub fn watches(&self, pid: u32) -> bool {
        self.by_index.values().any(|c| c.pid == pid)
    }

    /// One of them.
    pub fn get(&self, index: u8) -> Option<&Candidate> {
        self.by_index.get(&index)
    }

    /// All of them.
    pub fn iter(&self) -> impl Iterator<Item = (u8, &Candidate)> {
        self.by_index.iter().map(|(index, c)| (*index, c))
    }

    /// Hits of processes that are not watched any more.
    pub fn hits_gone(&mut self, now: &Hits) -> u64 {
        if let Some((_, _, before)) = &self.last {
            let less =
                before.iter().filter(|(index, (n, _))| now.get(*index).is_none_or(|(m, _)| m < n));
            self.gone += less.map(|(_, (n, _))| n).sum::<u64>();
        }
        self.gone
    }

    /// Whom to let go, if all of it has cost more than `budget_ppm` of a CPU for some time: who costs most.
    pub fn judge_cost(&mut self, cpu_ns: u64, hits: &Hits, budget_ppm: u32) -> Option<u8> {
        let now = std::time::Instant::now();
        let last = self.last.replace((now, cpu_ns, hits.clone()));
        let (then, cpu_then, before) = last?;
        let none = (0, 0);
        let new = |index: &u8, (n, events): &(u64, u64)| {
            let b = before.get(index).filter(|(m, _)| m <= n).unwrap_or(&none);
            (n - b.0, events.saturating_sub(b.1))
        };
        let probes: u64 = hits.iter().map(|(i, h)| new(i, h).0 * self.hit_ns).sum();
        let elapsed = now.duration_since(then).as_nanos() as f64;
        if elapsed < 1e8 {
            return None;
        }
        self.cost = (cpu_ns.saturating_sub(cpu_then) + probes) as f64 / elapsed;
        self.looks += 1;
        let exceeds = self.cost * 1e6 > f64::from(budget_ppm) && self.looks > GRACE;
        self.exceeded = if exceeds { self.exceeded + 1 } else { 0 };
        if self.exceeded < PATIENCE {
            return None;
        }
        self.exceeded = 0;
        // What is not hits is the reading of events, of which there are as many as waits, as a measure.
        let costs = |(i, h): &(&u8, &(u64, u64))| {
            let (hits, waits) = new(i, h);
            hits * self.hit_ns + waits * 100
        };
        hits.iter()
            .filter(|(i, _)| self.by_index.contains_key(*i))
            .max_by_key(costs)
            .map(|(i, _)| *i)
    }

    /// What all of it costs, of one CPU's time.
    pub fn cost(&self) -> f64 {
        self.cost
    }
}

/// What tells a process's service from others.
pub fn identity(candidate: &Candidate, labels: &[Label]) -> Identity {
    let facts = &candidate.facts;
    labels
        .iter()
        .map(|label| match label {
            Label::Executable => ("process.executable.name", facts.executable.clone()),
            Label::Module => ("go.module.path", facts.module.clone()),
            Label::GoVersion => ("process.runtime.version", candidate.program.go_version.clone()),
            Label::Container => ("container.id", facts.container.clone()),
            Label::Cgroup => ("cgroup", facts.cgroup.clone()),
            Label::Pid => ("process.pid", facts.pid.to_string()),
        })
        .map(|(name, value)| (name, crate::report::format::clean(&value)))
        .collect()
}
