//! How a run begins, and how targets come into it and leave it: places in the kernel side's maps, which are used
//! again. Must not know what is done with the records.

use std::collections::{BTreeMap, HashSet};

use anyhow::{Result, bail};
use g211s_ebpf::event::{EVENT_CLASSES, Site};
use nix::{
    sys::time::TimeValLike as _,
    time::{ClockId, clock_gettime},
};

use super::{
    ASSUMED_HIT_NS, INTERVAL, UNENDING_INTERVAL, host,
    hot::HotBudget,
    now_ns,
    run::{Run, Sink},
    waits::WaitsReader,
    watched::{self, Watched, attach_probes, seed_threads, thread_info},
};
use crate::{
    bpf::{self, LoadOptions, ProbeKind, Session},
    cli::ExtraProbe,
    go::plan,
    governor::{EXACT_SYSCALLS, Governor},
    record::{Attached, Detached, Moment, PollSource, Record, RunStart, Settings, Unavailable},
    report::format::duration,
    target::{ResolvedTarget, procfs::Procfs},
};

/// A place stays empty for so long after its target, ns: what was under way on any CPU has ended, and what it
/// sent was drained.
const EMPTY_NS: u64 = 500_000_000;
/// A program that was past its filter as a target left has finished by then, ns.
const PAST_FILTER_NS: u64 = 10_000_000;
/// Helpings of events taken before a place is cleared, at most.
const HELPINGS: usize = 64;

/// What a run needs to know before it begins.
#[derive(Clone, Debug)]
pub(crate) struct RunOptions {
    /// Delays of at least this are sent one by one, ns.
    pub(crate) threshold_ns: u64,
    /// Send every transition.
    pub(crate) full: bool,
    /// Size of the ring buffer, bytes.
    pub(crate) ring_bytes: u32,
    /// Share of each target's CPU time that the probes in its hot code may take together.
    pub(crate) budget: f64,
    /// Probes on request.
    pub(crate) probes: Vec<ExtraProbe>,
    /// Let the kernel side log.
    pub(crate) kernel_log: bool,
    /// Targets at a time.
    pub(crate) places: u32,
    /// Those that are known already, as the kernel side sees them.
    pub(crate) tgids: Vec<u32>,
    /// Threads at a time, of all targets together.
    pub(crate) threads: u32,
    /// Targets come and go: tell of processes that replace their programs, and leave out what costs each target
    /// more than a look now and then (the allocator's probes, waits by time).
    pub(crate) unending: bool,
}

/// How targets are watched in this run.
pub(crate) struct Manner {
    options: plan::PlanOptions,
    /// What probes in hot code may take.
    budget: HotBudget,
    /// What no target of this run has.
    common: Vec<Unavailable>,
    /// Sample the CPUs in any case.
    sample: bool,
    settings: Settings,
    places: u32,
    pub(super) unending: bool,
}

impl<S: Sink> Run<S> {
    /// Loads the kernel side and attaches all of it that is not a target's. It lets nothing pass yet.
    ///
    /// # Errors
    /// A kernel side that cannot be set up.
    pub(crate) fn open(options: &RunOptions, sink: S) -> Result<Self> {
        let wants = |probe: &ExtraProbe| options.probes.contains(probe);
        let mut session = Session::load_for(
            &LoadOptions {
                threshold_ns: options.threshold_ns,
                full: options.full,
                ring_bytes: options.ring_bytes,
                tgids: options.tgids.clone(),
                threads: options.threads,
                irqs: wants(&ExtraProbe::Irq),
                kernel_log: options.kernel_log,
                allocs: false,
            },
            options.places,
            options.unending,
        )?;
        let mut common = session.attach_sched()?;
        let counted = session.count_polls();
        let found = session.poll_source().map(|(source, _)| source).map_err(ToString::to_string);
        let poll_source = match counted.map_err(|e| e.to_string()).and(found) {
            Ok(source) => Some(source),
            Err(why) => {
                let (feature, costs) = ("netpoll".into(), bpf::POLLS_UNCOUNTED.into());
                common.push(Unavailable { feature, why, costs });
                None
            }
        };
        common.extend(uncounted(&mut session, wants(&ExtraProbe::Irq)));
        let customs = options.probes.iter().filter_map(|p| match p {
            ExtraProbe::Custom(f) => Some(f.clone()),
            _ => None,
        });
        let customs: Vec<String> = customs.collect();
        if customs.len() > 1 {
            bail!(
                "one custom probe at a time: --probe custom:FUNCTION was given {} times",
                customs.len()
            );
        }
        let exact = if wants(&ExtraProbe::Epoll) { u64::MAX } else { EXACT_SYSCALLS } as f64;
        let poll_governor = poll_source.map(|source| match source {
            // It costs those alone that poll.
            PollSource::Fentry => Governor::new(u64::MAX as f64),
            PollSource::Syscalls => Governor::new(exact),
        });
        let hit_ns = session.calibrate(ProbeKind::Count).map_or_else(
            |e| {
                common.push(Unavailable {
                    feature: "calibrate".into(),
                    why: e.to_string(),
                    costs: format!("a probe's hit is taken to cost {}", duration(ASSUMED_HIT_NS)),
                });
                ASSUMED_HIT_NS
            },
            |cost| cost.hit_ns,
        );
        let settings = Settings {
            threshold_ns: options.threshold_ns,
            full: options.full,
            interval_ns: if options.unending { UNENDING_INTERVAL } else { INTERVAL }.as_nanos()
                as u64,
            ring_bytes: options.ring_bytes.into(),
            observer_pid: std::process::id(),
            poll_source,
            lateness_source: session.lateness_source().0,
        };
        let manner = Manner {
            options: plan::PlanOptions {
                mallocgc: wants(&ExtraProbe::MallocGc),
                nextfree: wants(&ExtraProbe::NextFree),
                custom: customs.into_iter().next(),
            },
            budget: HotBudget { share: options.budget, hit_ns },
            common,
            sample: wants(&ExtraProbe::Sample),
            settings,
            places: options.places,
            unending: options.unending,
        };
        Ok(Self {
            session,
            sink,
            procfs: Procfs::default(),
            watched: BTreeMap::new(),
            manner,
            poll_governor,
            received: [0; EVENT_CLASSES],
            undecodable: 0,
            stale: 0,
            execed: Vec::new(),
            ring_bytes: 0,
            processes: HashSet::new(),
            pending: Vec::new(),
            born: Vec::new(),
            samples: Vec::new(),
            exited: Vec::new(),
            windows: BTreeMap::new(),
            steal_at_start: BTreeMap::new(),
            stolen: BTreeMap::new(),
            start_ns: 0,
        })
    }

    /// The run begins now; targets may be admitted.
    pub(crate) fn begin(&mut self) {
        self.steal_at_start = self.procfs.steal();
        self.start_ns = now_ns();
        if let Some(governor) = &mut self.poll_governor {
            governor.attached(self.start_ns, self.session.host_syscalls());
        }
    }

    /// The head of the stream, with who is watched now.
    pub(crate) fn head(&self) -> RunStart {
        let wall_ns =
            clock_gettime(ClockId::CLOCK_REALTIME).map_or(0, |t| t.num_nanoseconds() as u64);
        RunStart {
            g211s_version: env!("CARGO_PKG_VERSION").into(),
            start_ns: self.start_ns,
            wall_ns: wall_ns.saturating_sub(now_ns().saturating_sub(self.start_ns)),
            host: host(),
            settings: self.manner.settings.clone(),
            targets: self.watched.values().map(|w| w.record.clone()).collect(),
        }
    }

    /// Attaches a target's probes. What they tell does not pass before [`Self::admit`].
    pub(super) fn prepare(&mut self, index: u8, target: ResolvedTarget) -> Watched {
        let Manner { options, budget, common, unending, .. } = &self.manner;
        let without: &[Site] = if *unending { watched::ALLOCS } else { &[] };
        attach_probes(&mut self.session, index, target, options, *budget, common, without)
    }

    /// Decides how the code is found that keeps these targets' worlds from stopping.
    pub(super) fn find_stacks(&mut self, watched: &mut [Watched]) {
        let has_signals = !self.manner.common.iter().any(|u| u.feature == "signal_deliver");
        let sample = self.manner.sample;
        watched::find_stacks(&mut self.session, &self.procfs, watched, has_signals, sample);
    }

    /// Lets targets pass, together; what their runtimes counted until then.
    ///
    /// # Errors
    /// [`bpf::BpfError`] where a table refuses one; then none of them is watched.
    pub(super) fn admit(&mut self, mut watched: Vec<Watched>) -> Result<Vec<Record>> {
        let start_ns = now_ns();
        for w in &mut watched {
            w.since_ns = start_ns;
            self.session.watch(w.request)?;
        }
        // At once: from here on whatever the runtime counts is in our events as well.
        let samples: Vec<Record> = watched.iter().filter_map(|w| w.sample(Moment::Start)).collect();
        for mut w in watched {
            w.allocs.begin(start_ns, self.manner.unending);
            w.assists.begin(start_ns, self.manner.unending);
            w.waits = WaitsReader::new(start_ns);
            seed_threads(&mut self.session, &self.procfs, &mut w);
            self.watched.insert(w.request.index, w);
        }
        Ok(samples)
    }

    /// Tells who a target's threads are.
    pub(super) fn introduce(&mut self, index: u8) {
        let Some(w) = self.watched.get_mut(&index) else { return };
        let ms = w.runtime.as_mut().map(|r| r.all_ms(&w.record.threads)).unwrap_or_default();
        let w = &self.watched[&index];
        for &tid in &w.record.threads {
            let info = thread_info(&self.procfs, w, tid, ms.get(&tid).copied());
            self.sink.push(Record::Thread(Box::new(info)));
        }
    }

    /// Takes another target into the run; its index, or `None` if all places are taken.
    ///
    /// # Errors
    /// Why the kernel refuses.
    pub(crate) fn attach(&mut self, target: ResolvedTarget) -> Result<Option<u8>> {
        let free = (0..self.manner.places as u8).find(|index| !self.watched.contains_key(index));
        let Some(index) = free else { return Ok(None) };
        let mut watched = [self.prepare(index, target)];
        self.find_stacks(&mut watched);
        let tgid = watched[0].request.tgid;
        let samples = self.admit(watched.into()).inspect_err(|_| self.session.unwatch(tgid))?;
        let w = &self.watched[&index];
        let attached = Attached { ts_ns: w.since_ns, index, target: w.record.clone() };
        self.sink.push(Record::Attached(Box::new(attached)));
        self.introduce(index);
        self.samples.extend(samples);
        Ok(Some(index))
    }

    /// Lets a target go: it is not watched from here on. Its place is free some time after.
    pub(crate) fn detach(&mut self, index: u8, why: &str) {
        self.gone(index, why);
    }

    /// Clears the places of targets that are gone.
    pub(crate) fn clear_places(&mut self) {
        let due = |w: &Watched| !w.alive && now_ns() >= w.gone_ns + EMPTY_NS;
        let due: Vec<u8> =
            self.watched.iter().filter(|(_, w)| due(w)).map(|(index, _)| *index).collect();
        if due.is_empty() {
            return;
        }
        let mut helpings = 0;
        while self.drain() && helpings < HELPINGS {
            helpings += 1;
        }
        for sample in std::mem::take(&mut self.samples) {
            self.sink.push(sample);
        }
        for index in due {
            match self.session.hists(index, now_ns()) {
                Ok(h) => self.sink.push(Record::Hists(Box::new(h))),
                Err(e) => self.notice(Some(index), &e.to_string()),
            }
            let ts_ns = self.watched.get(&index).map_or(0, |w| w.gone_ns + PAST_FILTER_NS);
            self.sink.push(Record::Detached(Detached { ts_ns, index }));
            if let Err(e) = self.session.clear(index) {
                // Nobody comes here any more: what is left would be counted for him.
                self.notice(Some(index), &e.to_string());
                self.manner.places = self.manner.places.min(u32::from(index));
            }
            self.windows.remove(&index);
            self.born.retain(|(target, _)| *target != index);
            if let Some(w) = self.watched.remove(&index) {
                // Not waited for: the loop must not stand still for as long as that takes.
                bpf::detach(w.into_probes().collect());
            }
        }
    }

    /// What a hit of a probe costs on this machine, ns.
    pub(crate) fn hit_ns(&self) -> u64 {
        self.manner.budget.hit_ns
    }

    /// Who is watched now, by index.
    pub(crate) fn targets(&self) -> impl Iterator<Item = (u8, &Watched)> {
        self.watched.iter().filter(|(_, w)| w.is_alive()).map(|(index, w)| (*index, w))
    }

    /// What of a target could not be had, that others may have: in words.
    pub(crate) fn missing(&self, index: u8) -> String {
        let Some(w) = self.watched.get(&index) else { return String::new() };
        let left_out: Vec<&str> = watched::ALLOCS.iter().map(|s| plan::site_name(*s)).collect();
        let own =
            w.record.unavailable.iter().filter(|u| {
                !self.manner.common.contains(u) && !left_out.contains(&u.feature.as_str())
            });
        let mut own: Vec<_> = own.collect();
        let why = own.first().map(|u| u.why.clone()).unwrap_or_default();
        own.dedup_by(|a, b| a.feature == b.feature);
        let features: Vec<&str> = own.iter().map(|u| u.feature.as_str()).collect();
        if features.is_empty() { String::new() } else { format!("{} ({why})", features.join(", ")) }
    }

    /// Describes foreign processes anew when they are seen again: their numbers are used again, and they change
    /// their names.
    pub(crate) fn forget_processes(&mut self) {
        self.processes.clear();
    }

    /// Processes that have replaced their programs since the last call, as the kernel side sees them.
    pub(crate) fn take_execs(&mut self) -> Vec<u32> {
        std::mem::take(&mut self.execed)
    }

    /// Reads the runtimes' counters of all targets, and looks for their quotas.
    pub(crate) fn sample(&mut self) {
        self.watched.values_mut().filter(|w| w.alive).for_each(Watched::renew_quotas);
        self.samples.extend(self.watched.values().filter_map(|w| w.sample(Moment::Running)));
    }

    /// Reads the histograms of one target.
    pub(crate) fn hists(&mut self, index: u8) {
        match self.session.hists(index, now_ns()) {
            Ok(h) => self.sink.push(Record::Hists(Box::new(h))),
            Err(e) => self.notice(Some(index), &e.to_string()),
        }
    }

    /// Items from the ring so far that did not decode.
    pub(crate) fn undecodable(&self) -> u64 {
        self.undecodable
    }

    /// Events so far that were of a place's former target.
    pub(crate) fn stale(&self) -> u64 {
        self.stale
    }
}

/// Has interrupts observed if `irqs` asks for it; says what a CPU may do unseen while it runs a thread.
fn uncounted(session: &mut Session, irqs: bool) -> Option<Unavailable> {
    let counted = session.facts().off_cpu.is_some_and(|o| o.rq_irq.is_some());
    let why = if irqs {
        session.attach_irqs().err()?.to_string()
    } else if counted {
        return None;
    } else {
        "this kernel does not count them by itself (CONFIG_IRQ_TIME_ACCOUNTING), and observing them costs \
         every interrupt of the host, so only --probe irq does"
            .into()
    };
    Some(Unavailable { feature: "interrupts".into(), why, costs: bpf::IRQS_UNSEEN.into() })
}
