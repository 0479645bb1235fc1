//! What is counted of one service. Must not know how it is shown.

use std::collections::BTreeMap;

use g211s_ebpf::hist::Hist;

use super::{OTHER, histogram::Histogram};
use crate::analysis::verdict::CauseKind;
use crate::model::reason::StwReason;
use crate::record::{Hists, Interval, RuntimeSample, SparseHist};
use crate::report::Note;
use crate::report::schema::StallCause;

/// Names of culprits that are remembered for a service, to choose the named ones from.
const MAX_CANDIDATES: usize = 256;
/// A candidate must have this much more than the least of the named ones to take its place.
const HYSTERESIS: f64 = 1.5;

/// What is known of one process at the moment.
#[derive(Clone, Debug, Default)]
pub struct Watch {
    interval: Option<Interval>,
    hists: BTreeMap<u8, SparseHist>,
    /// The runtime's last sample.
    pub runtime: Option<RuntimeSample>,
}

impl Watch {
    /// Hits of probes so far, and waits for a CPU.
    pub(super) fn hits(&self) -> (u64, u64) {
        let i = self.interval.as_ref();
        i.map_or((0, 0), |i| (i.hits.iter().sum(), i.woken + i.preempted))
    }
}

/// What was counted of all its processes.
#[derive(Clone, Debug, Default)]
pub struct Service {
    /// Processes that are watched now.
    pub processes: u64,
    /// When the last one went, ns.
    pub(super) last_ns: u64,
    /// Stops of collections.
    pub gc_pauses: Histogram,
    /// Other stops.
    pub other_stops: Histogram,
    /// Until the world was stopped, all stops.
    pub stopping: Histogram,
    /// What stops went to, ns.
    pub stop_causes: BTreeMap<&'static str, u64>,
    /// What stops and long delays went to, ns.
    pub stall_causes: BTreeMap<&'static str, u64>,
    /// Behind whom threads waited, ns.
    pub culprits: Culprits,
    /// Collections, start to end.
    pub cycles: Histogram,
    /// Collections, as the runtime counts.
    pub gc_count: u64,
    /// Waits for a CPU after a wakeup.
    pub woken: Histogram,
    /// … after a preemption.
    pub preempted: Histogram,
    /// How late the network was served.
    pub network: Histogram,
    /// Goroutines' waits to run, as the runtime samples them.
    pub schedule: Histogram,
    /// Waits for a CPU of the threshold and more.
    pub long_waits: u64,
    /// Sleeps in the kernel of the threshold and more.
    pub long_sleeps: u64,
    /// On a CPU, ns.
    pub on_cpu_ns: u64,
    /// Kept off by a quota, ns.
    pub throttled_ns: u64,
    /// Periods in which a quota ran out.
    pub throttled: u64,
    /// Times that our figures and the runtime's did not agree.
    pub disagreements: u64,
}

impl Service {
    pub(super) fn interval(&mut self, watch: &mut Watch, now: &Interval) {
        let zero = Interval::default();
        let before = watch.interval.as_ref().unwrap_or(&zero);
        let since = |f: fn(&Interval) -> u64| f(now).saturating_sub(f(before));
        self.on_cpu_ns += since(|i| i.oncpu_ns);
        self.throttled_ns += since(|i| i.throttled_ns);
        self.throttled += since(|i| i.throttled);
        watch.interval = Some(now.clone());
    }

    pub(super) fn hists(&mut self, watch: &mut Watch, now: &Hists) {
        for (&which, hist) in &now.hists {
            let is = |hists: &[Hist]| hists.iter().any(|h| *h as u8 == which);
            let into = if is(&[Hist::WokenOutside, Hist::WokenInGc, Hist::WokenInStw]) {
                &mut self.woken
            } else if is(&[Hist::PreemptedOutside, Hist::PreemptedInGc, Hist::PreemptedInStw]) {
                &mut self.preempted
            } else if is(&[Hist::ReadyHarvested]) {
                &mut self.network
            } else if is(&[Hist::EpollLate])
                && now.hists.get(&(Hist::ReadyHarvested as u8)).is_none_or(|h| h.count == 0)
            {
                // Where the kernel does not tell when something was ready, a late wakeup is what there is.
                &mut self.network
            } else {
                continue;
            };
            into.add_since(hist, watch.hists.get(&which));
            watch.hists.insert(which, hist.clone());
        }
    }

    pub(super) fn runtime(&mut self, watch: &mut Watch, now: &RuntimeSample) {
        if let Some(before) = &watch.runtime {
            if let (Some(now), Some(then)) = (now.gc, before.gc) {
                self.gc_count += u64::from(now.cycles.wrapping_sub(then.cycles));
            }
            if let (Some(now), Some(then)) = (&now.time_to_run, &before.time_to_run)
                && let Some(new) = now.since(then)
            {
                self.schedule.add_go(&new);
            }
        }
        watch.runtime = Some(now.clone());
    }

    pub(super) fn note(&mut self, note: &Note) {
        match note {
            Note::Stop { stop, .. } => {
                let gc = StwReason::from_number(stop.reason_id).is_some_and(StwReason::is_gc);
                let of = if gc { &mut self.gc_pauses } else { &mut self.other_stops };
                of.add(stop.total_ns);
                self.stopping.add(stop.stopping_ns);
                for cause in &stop.causes {
                    *self.stop_causes.entry(cause_name(cause.kind)).or_default() += cause.ns;
                }
            }
            Note::Cycle { cycle, .. } => self.cycles.add(cycle.duration_ns),
            Note::Delay { .. } => self.long_waits += 1,
            Note::Sleep { .. } => self.long_sleeps += 1,
            Note::Disagreement { .. } => self.disagreements += 1,
            Note::Notice(_) => {}
        }
    }

    pub(super) fn stalls(&mut self, stalls: &[StallCause], named: usize) {
        for stall in stalls {
            *self.stall_causes.entry(cause_name(stall.kind)).or_default() += stall.ns;
            if let Some(behind) = &stall.behind {
                let name = if behind.own { "self" } else { &behind.comm };
                self.culprits.add(name, stall.ns, named);
            }
        }
    }
}

/// A cause's name in labels.
pub fn cause_name(kind: CauseKind) -> &'static str {
    match kind {
        CauseKind::RuntimeWork => "runtime_work",
        CauseKind::NonpreemptibleCode => "nonpreemptible_code",
        CauseKind::SyscallReturn => "syscall_return",
        CauseKind::RunqueueWait => "runqueue_wait",
        CauseKind::WakeupLatency => "wakeup_latency",
        CauseKind::CfsThrottled => "cfs_throttled",
        CauseKind::Blocked => "blocked",
        CauseKind::PageFault => "page_fault",
        CauseKind::Uninterruptible => "uninterruptible",
        CauseKind::StoppedBySignal => "stopped_by_signal",
        CauseKind::IrqSoftirq => "irq_softirq",
        CauseKind::VmSteal => "vm_steal",
        CauseKind::Unexplained => "unexplained",
    }
}

/// Who was in the way, and for how long: the worst by name, the others together. A name that comes among the worst
/// later counts from then on, and one that is no longer among them ends; so that of each only what is new is ever
/// added, its past does not go over to the others.
#[derive(Clone, Debug, Default)]
pub struct Culprits {
    /// What was counted under its own name, ns.
    named: BTreeMap<String, u64>,
    /// What was not, ns.
    pub other_ns: u64,
    /// What was counted under names that have ended, ns.
    retired_ns: u64,
    /// All that is remembered of each name, ns, whether named or not.
    candidates: BTreeMap<String, f64>,
}

impl Culprits {
    fn add(&mut self, name: &str, ns: u64, named: usize) {
        if ns == 0 {
            return;
        }
        let weight = self.candidates.entry(name.to_owned()).or_default();
        *weight += ns as f64;
        let weight = *weight;
        if self.candidates.len() > MAX_CANDIDATES
            && let Some(least) = self.least(self.candidates.keys())
        {
            // Its place is given away; what is remembered of all fades, so that the past does not rule.
            self.candidates.remove(&least);
            self.candidates.values_mut().for_each(|w| *w *= 0.9);
        }
        if !self.named.contains_key(name) && name != OTHER {
            if self.named.len() < named {
                self.named.insert(name.to_owned(), 0);
            } else if let Some(least) = self.least(self.named.keys()).filter(|_| named > 0) {
                let other = self.candidates.get(&least).copied().unwrap_or(0.0);
                if weight > HYSTERESIS * other {
                    self.retired_ns += self.named.remove(&least).unwrap_or(0);
                    self.named.insert(name.to_owned(), 0);
                }
            }
        }
        match self.named.get_mut(name) {
            Some(sum) => *sum += ns,
            None => self.other_ns += ns,
        }
    }

    fn least<'a>(&self, names: impl Iterator<Item = &'a String>) -> Option<String> {
        let weight = |name: &String| self.candidates.get(name).copied().unwrap_or(0.0);
        names.min_by(|a, b| weight(a).total_cmp(&weight(b))).cloned()
    }

    /// The named ones, ns each.
    pub fn named(&self) -> impl Iterator<Item = (&str, u64)> {
        self.named.iter().map(|(name, ns)| (name.as_str(), *ns))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_worst_are_named_and_nothing_is_lost() {
        let mut c = Culprits::default();
        for i in 0..2000u64 {
            c.add(&format!("small-{i}"), 10, 3);
        }
        for _ in 0..50 {
            c.add("hog", 1000, 3);
            c.add("self", 500, 3);
        }
        let names: Vec<&str> = c.named().map(|(name, _)| name).collect();
        assert!(names.contains(&"hog") && names.contains(&"self"), "{names:?}");
        assert_eq!(names.len(), 3);
        assert!(c.candidates.len() <= MAX_CANDIDATES);
        let sum: u64 = c.named().map(|(_, ns)| ns).sum();
        assert_eq!(sum + c.other_ns + c.retired_ns, 2000 * 10 + 50 * 1500);
        let mut none = Culprits::default();
        none.add("hog", 7, 0);
        assert_eq!((none.named().count(), none.other_ns), (0, 7));
    }
}
