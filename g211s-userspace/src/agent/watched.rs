//! One process under watch: its probes, and what `/proc` and its memory say of it.

use std::{path::Path, sync::Arc};

use g211s_ebpf::{
    config::GoLayout,
    event::{Site, ThreadState},
};

use super::{
    governed::Governed,
    hot::{Hot, HotBudget},
    naming::Naming,
    now_ns,
    waits::WaitsReader,
};
use crate::{
    account::LEAST_CPU,
    bpf::{ProbeHandle, ProbeRequest, SAMPLER_HZ, Session, TargetRequest},
    go::{Binary, plan},
    governor::Governor,
    model::reason::StwReason,
    record::{HotProbes, Interval, Moment, Record, StackSource, Target, ThreadInfo, Unavailable},
    runtime::{
        bias::load_bias,
        preemption::async_preemption,
        sampling::{self, RuntimeWatch},
    },
    target::{ResolvedTarget, cgroup::Quotas, procfs::Procfs},
};

/// One process under watch.
pub(crate) struct Watched {
    pub(crate) record: Target,
    pub(super) resolved: ResolvedTarget,
    pub(super) request: TargetRequest,
    pub(super) alive: bool,
    /// Its first thread has exited.
    pub(super) is_leaving: bool,
    /// Since when it is watched, ns.
    pub(super) since_ns: u64,
    /// Since when not any more, ns.
    pub(super) gone_ns: u64,
    /// What addresses in its code are.
    pub(super) naming: Naming<'static>,
    /// Probes in the allocator's slow path.
    pub(super) allocs: Governed,
    /// Probes in mark assists.
    pub(super) assists: Governed,
    /// What both may take.
    pub(super) hot: Hot,
    /// All its other probes.
    pub(super) probes: Vec<ProbeHandle>,
    pub(super) quotas: Quotas,
    /// Since they were last recorded.
    pub(super) quotas_changed: bool,
    /// Its waits by time.
    pub(super) waits: WaitsReader,
    /// Its Go runtime's own counters.
    pub(super) runtime: Option<RuntimeWatch>,
}

impl Watched {
    /// The Go runtime's counters now, if they can be read.
    pub(super) fn sample(&self, moment: Moment) -> Option<Record> {
        let runtime = self.runtime.as_ref().filter(|_| self.alive)?;
        let sample = runtime.sample(self.request.index, moment, &now_ns);
        Some(Record::Runtime(Box::new(sample)))
    }

    /// Whether it is watched still.
    pub(crate) fn is_alive(&self) -> bool {
        self.alive
    }

    /// All its probes, attached or not.
    pub(super) fn into_probes(self) -> impl Iterator<Item = ProbeHandle> {
        let Self { probes, mut allocs, mut assists, .. } = self;
        probes.into_iter().chain(allocs.take()).chain(assists.take())
    }

    /// Lets its hot probes take what its CPU time allows, half of it each.
    pub(super) fn allow(&mut self) {
        let each = self.hot.allowed() / 2.0;
        self.allocs.allow(each);
        self.assists.allow(each);
    }

    /// What its hot probes took.
    pub(super) fn hot_probes(&self, counters: &Interval) -> HotProbes {
        HotProbes {
            target: self.request.index,
            budget: self.hot.budget.share,
            budget_least_cpus: LEAST_CPU,
            hit_ns: self.hot.budget.hit_ns,
            hits: self.allocs.hits(counters) + self.assists.hits(counters),
            target_cpu_ns: self.hot.target_cpu_ns(),
        }
    }

    /// Looks for quotas that were set, changed or taken back.
    pub(super) fn renew_quotas(&mut self) {
        let found = find_quotas(&self.resolved);
        self.quotas_changed |= self.quotas.renew(found);
    }
}

/// The CPU quotas that bind a target now.
fn find_quotas(resolved: &ResolvedTarget) -> Quotas {
    Quotas::find(
        &std::fs::read_to_string(resolved.exe_path.with_file_name("cgroup")).unwrap_or_default(),
        Path::new("/sys/fs/cgroup"),
    )
}

/// Sites in the allocator's slow path.
pub(super) const ALLOCS: &[Site] = &[Site::McacheRefill, Site::McacheAllocLarge];
/// Both ends of a mark assist's park.
const ASSISTS: &[Site] = &[Site::AssistPark, Site::AssistDone];

/// Plans and attaches a target's probes, all but those of `without`. A probe that is refused costs its feature
/// only.
pub(super) fn attach_probes(
    session: &mut Session,
    index: u8,
    resolved: ResolvedTarget,
    options: &plan::PlanOptions,
    budget: HotBudget,
    common: &[Unavailable],
    without: &[Site],
) -> Watched {
    let mut record = resolved.record(Vec::new(), common.to_vec());
    let binary = Arc::clone(&resolved.binary);
    let naming = Naming::shared(&Procfs::default(), index, resolved.pid, binary);
    let quotas = find_quotas(&resolved);
    record.quotas = quotas.list().to_vec();
    if !quotas.list().is_empty() && session.facts().quota.is_none() {
        record.unavailable.push(Unavailable {
            feature: "throttling".into(),
            why: "the target's cgroup has a CPU quota, and this kernel does not tell by whom and when a \
                  throttled thread is kept off"
                .into(),
            costs: "waits may be the quota's doing, whoever is named; how long it throttled is \
                    reported (runqueue.throttled)"
                .into(),
        });
    }
    let (runtime, access) = sampling::open(&Procfs::default(), &resolved);
    record.runtime = Some(access);
    let plan = plan::plan_or_why(&resolved.binary, options);
    record.unavailable.extend(plan.unavailable);
    let mut attached = Vec::new();
    let mut hot = Hot::new(budget, record.pid);
    let each = hot.allowed() / 2.0;
    let mut allocs = Governed::new(ALLOCS, Governor::new(each));
    // Assists come in bursts, some of 50 ms and more, so the mean over a rest and a look counts.
    let mut assists = Governed::new(ASSISTS, Governor::saving(each));
    let mut probes = Vec::new();
    // Without an edge that ends a stop, its beginning would open a window for ever.
    let has_end = plan.probes.iter().any(|p| matches!(p.site, Site::StwStart | Site::StwEnd));
    let wanted = |p: &&plan::PlannedProbe| {
        (has_end || p.site != Site::StwStop) && !without.contains(&p.site)
    };
    for probe in plan.probes.iter().filter(wanted) {
        let request = ProbeRequest {
            site: probe.site,
            file: resolved.exe_path.clone(),
            file_offset: probe.file_offset,
            pid: record.pid,
        };
        match session.attach_probe(&request) {
            Ok(handle) => {
                attached.push(probe.site);
                record.probes.push(probe.attached());
                let governed = [&mut allocs, &mut assists].into_iter().find(|g| g.has(probe.site));
                match governed {
                    Some(governed) => governed.add(request, handle),
                    None => probes.push(handle),
                }
            }
            Err(e) => record.unavailable.push(Unavailable {
                feature: plan::site_name(probe.site).into(),
                why: e.to_string(),
                costs: plan::site_costs(probe.site).into(),
            }),
        }
    }
    for &site in without.iter().filter(|s| plan.probes.iter().any(|p| p.site == **s)) {
        record.unavailable.push(Unavailable {
            feature: plan::site_name(site).into(),
            why: "left out of runs without an end, for what it costs over time".into(),
            costs: plan::site_costs(site).into(),
        });
    }
    if !attached.contains(&Site::StwStop) || !attached.contains(&Site::StwStart) {
        record.unavailable.push(Unavailable {
            feature: "stw".into(),
            why: "the stop-the-world probes could not be attached (see above)".into(),
            costs: "no pauses in the report; run-queue delays and netpoll go on".into(),
        });
    }
    let layout = match held_layout(session, runtime.as_ref(), &resolved.binary, &attached) {
        Ok(layout) => layout,
        Err(why) => {
            record.unavailable.push(Unavailable {
                feature: "p_held".into(),
                why,
                costs: "Ps kept by threads that are off the CPUs are not told, nor that all were"
                    .into(),
            });
            GoLayout::default()
        }
    };
    // The window closes at the last edge of a stop that this binary gives.
    let close_site = if attached.contains(&Site::StwEnd) { Site::StwEnd } else { Site::StwStart };
    let request = TargetRequest {
        index,
        tgid: record.tgid,
        reason_sweep_term: StwReason::GcSweepTermination as u32,
        close_site,
        has_mark_termination: attached.contains(&Site::GcMarkTermination),
        layout,
        mcache_alloc: 0,
    };
    Watched {
        record,
        resolved,
        request,
        alive: true,
        is_leaving: false,
        since_ns: u64::MAX,
        gone_ns: 0,
        naming,
        allocs,
        assists,
        hot,
        probes,
        quotas,
        quotas_changed: false,
        waits: WaitsReader::default(),
        runtime,
    }
}

/// Decides how the code is found that keeps each target's world from stopping. Where the runtime sends no
/// signals the CPUs are sampled, which costs all of them, so only then (or on request).
pub(super) fn find_stacks(
    session: &mut Session,
    procfs: &Procfs,
    watched: &mut [Watched],
    has_signals: bool,
    requested: bool,
) {
    let mut sampled: Option<Result<(), String>> = None;
    for w in watched {
        let bias = load_bias(procfs, w.record.pid, &w.resolved.binary).ok();
        let found = async_preemption(procfs, w.record.pid, &w.resolved.binary, bias);
        let signals = found.on && has_signals;
        let mut source = StackSource { signals, samples_hz: None, why: found.why };
        if !signals || requested {
            let sample = || session.sample().map_err(|e| e.to_string());
            match sampled.get_or_insert_with(sample) {
                Ok(()) => source.samples_hz = Some(SAMPLER_HZ),
                Err(why) => w.record.unavailable.push(Unavailable {
                    feature: "samples".into(),
                    why: why.clone(),
                    costs: if signals {
                        "code that runs with signals blocked is not named".into()
                    } else {
                        "code that keeps the world from stopping is not named".into()
                    },
                }),
            }
        }
        w.record.stacks = Some(source);
    }
}

/// Where who has which P is kept, if that can be followed: what takes a P away must be seen.
fn held_layout(
    session: &Session,
    runtime: Option<&RuntimeWatch>,
    binary: &Binary,
    attached: &[Site],
) -> Result<GoLayout, String> {
    if !session.tells_fsbase() {
        return Err("this kernel's BTF does not tell where a thread's own data is".into());
    }
    if let Some(site) = [Site::HandOffP, Site::StwStop].iter().find(|s| !attached.contains(s)) {
        return Err(format!("{} is not probed (see there)", plan::site_name(*site)));
    }
    runtime.ok_or("the runtime's memory cannot be read (see runtime)")?.layout(binary)
}

/// Tells the kernel side what the target's threads do now, so that a thread that sleeps through
/// the run is known to sleep.
pub(super) fn seed_threads(session: &mut Session, procfs: &Procfs, w: &mut Watched) {
    let threads = procfs.threads(w.record.pid).unwrap_or_default();
    for &tid in &threads {
        let state = match procfs.thread_stat(w.record.pid, tid).map(|s| s.state) {
            Ok('S') => ThreadState::Blocked,
            Ok('D') => ThreadState::BlockedUninterruptible,
            Ok('T' | 't') => ThreadState::Stopped,
            // Running or waiting for a CPU: its next switch will tell.
            _ => continue,
        };
        let syscall = procfs.thread_syscall(w.record.pid, tid);
        session.seed_thread(w.request.index, tid, (state, syscall), now_ns());
    }
    w.record.threads = threads;
}

pub(super) fn thread_info(procfs: &Procfs, w: &Watched, tid: u32, m_id: Option<u64>) -> ThreadInfo {
    ThreadInfo {
        target: w.request.index,
        tid,
        // runtime.m0 runs on the main thread (Go runtime/proc.go, `m0`).
        m_id: m_id.or((tid == w.record.tgid).then_some(0)),
        comm: procfs.thread_comm(w.record.pid, tid).unwrap_or_default(),
    }
}
