//! The report's section on what kept goroutines waiting outside of stops. Must not know how it is printed.

use g211s_ebpf::{
    event::{Site, ThreadState},
    hist::Hist,
};

use super::{
    build::{Histograms, Names, SAMPLED_SLACK_NS},
    format::{clean, sum},
    pipeline::TargetModel,
    schema::{
        AssistStall, Assists, GoroutineDelays, HeldInSyscall, HeldP, PHeld, PStarvation, Runqueue,
        SaturationReport, StarvedReport, Window,
    },
};
use crate::{
    analysis::{
        goroutine::{
            Holding, Off, WORST,
            saturation::{BUSY_PERCENT, Figures, MIN_SAMPLES, WAITED_PERCENT, saturation},
            starvation::starved,
        },
        verdict::syscall_name,
    },
    record::{Interval, Target},
};

const ASSIST_EVIDENCE: &str =
    "runtime.gcParkAssist, from its entry to the branch on its result, by goroutine";
const HELD_EVIDENCE: &str = "the thread's M and P in the program's memory as it left its CPU, until it ran again or \
                             runtime.handoffp took the P with p.syscalltick raised by one";
const STARVED_EVIDENCE: &str = "overlap of Ps kept for at least the threshold; a P of which nothing is known is taken to have run";

/// What the section is made of.
pub(super) struct Parts<'a> {
    pub(super) index: usize,
    pub(super) info: &'a Target,
    pub(super) model: &'a TargetModel,
    pub(super) names: &'a Names,
    pub(super) counters: &'a Interval,
    pub(super) threshold_ns: u64,
    pub(super) window: Window,
    pub(super) runqueue: &'a Runqueue,
}

impl Parts<'_> {
    /// The section.
    pub(super) fn report(&self, hists: &mut Histograms<'_>) -> GoroutineDelays {
        let p_held = self.p_held(hists);
        GoroutineDelays {
            assists: self.assists(hists),
            p_starvation: self.starvation(&p_held),
            p_held,
            saturation: self.saturation(),
        }
    }

    fn has(&self, site: Site) -> bool {
        self.info.probes.iter().any(|p| p.site_id == site as u32)
    }

    /// Why a feature of the target is not there.
    fn why(&self, features: &[&str]) -> String {
        let found = self.info.unavailable.iter().find(|u| features.contains(&&*u.feature));
        found.map_or_else(|| "the recording does not tell".to_owned(), |u| clean(&u.why))
    }

    fn hits(&self, site: Site) -> u64 {
        self.counters.hits.get(site as usize).copied().unwrap_or(0)
    }

    fn assists(&self, hists: &mut Histograms<'_>) -> Assists {
        let there = self.has(Site::AssistPark) && self.has(Site::AssistDone);
        let observed_ns = self.counters.assist_probes_ns.unwrap_or(0);
        let long = &self.model.goroutines;
        let stalls = hists.dist(&[Hist::AssistPark], (0, 0));
        let calls = self.hits(Site::AssistPark);
        Assists {
            unavailable: (!there).then(|| self.why(&["assist_done", "assist_park", "go_probes"])),
            evidence: ASSIST_EVIDENCE,
            calls,
            threshold_ns: self.threshold_ns,
            long: long.parks,
            observed_ns,
            sampled: there
                && observed_ns < self.window.duration_ns.saturating_sub(SAMPLED_SLACK_NS),
            per_s: (there && observed_ns > 0)
                .then(|| stalls.count as f64 * 1e9 / observed_ns as f64),
            stalls,
            not_measured: self.counters.parks_full,
            cpu_ns: self.model.samples.assist_cpu_ns(),
            worst: long
                .worst_parks
                .iter()
                .map(|p| AssistStall {
                    goid: (p.goid != 0).then_some(p.goid),
                    tid: p.tid,
                    start_ns: p.start_ns,
                    ns: p.end_ns - p.start_ns,
                })
                .collect(),
        }
    }

    fn held(&self, h: &Holding) -> HeldP {
        let syscall = match h.off {
            Off::Syscall(nr) => Some(nr),
            Off::Fault | Off::Preempted => None,
        };
        HeldP {
            p: h.p,
            tid: h.tid,
            m_id: self.names.m_id(self.index, h.tid),
            off: h.off.name(),
            syscall,
            syscall_name: syscall.and_then(syscall_name),
            start_ns: h.start_ns,
            ns: h.end_ns - h.start_ns,
            taken: h.taken,
            queued: h.taken.then_some(h.queued),
        }
    }

    fn p_held(&self, hists: &mut Histograms<'_>) -> PHeld {
        let given_up = self.info.unavailable.iter().any(|u| u.feature == "p_held");
        let there = self.has(Site::HandOffP) && !given_up;
        let (taken, kept, descheduled) = (
            hists.dist(&[Hist::PTaken], (0, 0)),
            hists.dist(&[Hist::PKept], (0, 0)),
            hists.dist(&[Hist::PDescheduled], (0, 0)),
        );
        let whole = self
            .model
            .samples
            .gomaxprocs()
            .map(|n| u128::from(n) * u128::from(self.window.duration_ns))
            .filter(|ns| there && *ns > 0);
        let share = |ns: u64| whole.map(|whole| ns as f64 / whole as f64);
        let mut by_syscall: Vec<HeldInSyscall> = self
            .model
            .goroutines
            .by_syscall
            .iter()
            .map(|(&syscall, n)| HeldInSyscall {
                syscall,
                syscall_name: syscall_name(syscall),
                count: n.count,
                ns: n.ns,
            })
            .collect();
        by_syscall.sort_by_key(|s| (std::cmp::Reverse(s.ns), s.syscall));
        PHeld {
            unavailable: (!there).then(|| self.why(&["p_held", "hand_off_p", "go_probes"])),
            evidence: HELD_EVIDENCE,
            syscall_share: share(sum([taken.total_ns, kept.total_ns])),
            descheduled_share: share(descheduled.total_ns),
            taken,
            kept,
            descheduled,
            cut_by_stops: self.counters.held_cut,
            not_measured: self.counters.held_full,
            threshold_ns: self.threshold_ns,
            by_syscall,
            worst: self.model.goroutines.worst_holdings().iter().map(|h| self.held(h)).collect(),
        }
    }

    fn starvation(&self, p_held: &PHeld) -> PStarvation {
        let gomaxprocs = self.model.samples.gomaxprocs();
        let mut report = PStarvation {
            evidence: STARVED_EVIDENCE,
            gomaxprocs,
            dropped: self.model.goroutines.holdings_dropped,
            ..PStarvation::default()
        };
        let procs = match (&p_held.unavailable, gomaxprocs) {
            (Some(why), _) => Err(why.clone()),
            (None, None) => Err("GOMAXPROCS is not known, or changed during the run".to_owned()),
            (None, Some(n)) => Ok(n),
        };
        match procs {
            Err(why) => report.unavailable = Some(why),
            Ok(procs) => {
                let mut found = starved(&self.model.goroutines.holdings, procs);
                report.count = found.len() as u64;
                report.total_ns = sum(found.iter().map(|s| s.end_ns - s.start_ns));
                found.sort_by_key(|s| (std::cmp::Reverse(s.end_ns - s.start_ns), s.start_ns));
                let one = |s: &crate::analysis::goroutine::starvation::Starved| StarvedReport {
                    start_ns: s.start_ns,
                    ns: s.end_ns - s.start_ns,
                    holders: s.holders.iter().map(|h| self.held(h)).collect(),
                };
                report.worst = found.iter().take(WORST).map(one).collect();
            }
        }
        report
    }

    /// On CPUs in all. The histogram has a stay when it is over, the kernel's sums have those under way, too: a thread
    /// that is alone on its CPU may never leave it.
    fn threads_ran_ns(&self) -> u64 {
        let totals = &self.model.totals;
        if totals.is_empty() {
            return self.runqueue.on_cpu.total_ns;
        }
        sum(totals.values().map(|t| t.state_ns[ThreadState::Running as usize]))
    }

    fn saturation(&self) -> SaturationReport {
        let busy = self.model.samples.busy();
        let window_ns = self.window.duration_ns;
        let figures = Figures {
            latency_p99_ns: self.model.samples.latency_p99_ns(),
            threshold_ns: self.threshold_ns,
            threads_waited_ns: self.runqueue.all.total_ns,
            threads_ran_ns: self.threads_ran_ns(),
            ps_ns: busy.gomaxprocs.map(|n| window_ns.saturating_mul(n.into())),
            ..busy
        };
        SaturationReport {
            verdict: saturation(&figures),
            rule: format!(
                "by_its_own_goroutines: goroutines' p99 wait to run (the runtime's own count) is at least \
                 the threshold, the threads waited for CPUs at most {WAITED_PERCENT} % of the time they \
                 ran, all Ps ran Go code in at least {BUSY_PERCENT} % of {MIN_SAMPLES} samples or more (or the \
                 threads were on CPUs for as large a share of all Ps' time), and at least one goroutine a sample was ready and on no P"
            ),
            figures,
        }
    }
}
