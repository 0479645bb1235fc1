//! The model of a finished run → its report: adds names, sums and statistics. Must not know how it
//! is printed.

use std::collections::{BTreeMap, BTreeSet};

use g211s_ebpf::{
    event::{Site, ThreadState},
    hist::Hist,
};

use super::{
    format::{clean, comm, sum},
    goroutine::Parts,
    network,
    pipeline::{Judged, Pipeline, TargetModel},
    schema::{
        Alloc, Behind, BehindFor, BehindProcess, BlockingPolls, ByClass, ByKind, CauseReport,
        CauseTotal, CodeReport, CpuSteal, DelayCause, DelayReport, Delays, Dist, Events, Gc,
        GoroutineDelays, LateWakes, Netpoll, NonblockingPolls, PartOfStop, PlaceReport, Report,
        Run, Runqueue, RuntimeReport, SCHEMA, SleepReport, Sleeps, StallCause, Stalls, StwReport,
        StwTotals, TargetInfo, TargetReport, ThreadInStop, ThreadRow, Threads, Throttling, Window,
    },
};
use crate::{
    analysis::{
        accuracy::Accuracy,
        aligned::{Aligned, align},
        correlate::{Span, correlate},
        delay::{Delay, Sleep},
        stats::{merge, quantiles},
        verdict::{CauseKind, Runner, syscall_name},
    },
    event::by_class,
    model::{
        reason::stw_reason_text,
        stacks::{Code, Place, Stacks},
    },
    record::{
        Interval, LatenessSource, ProcessInfo, Quota, Settings, SparseHist, Target, ThreadInfo,
        ThreadTotals,
    },
};

/// Who is who, as far as told.
#[derive(Clone, Debug, Default)]
pub(super) struct Names {
    pub(super) threads: BTreeMap<(u8, u32), ThreadInfo>,
    pub(super) processes: BTreeMap<u32, ProcessInfo>,
    /// By index of the target.
    pub(super) tgids: Vec<u32>,
    pub(super) observer: u32,
    /// CPU quotas, by target: from when on which.
    pub(super) quotas: BTreeMap<u8, Vec<(u64, Vec<Quota>)>>,
}

impl Names {
    pub(super) fn m_id(&self, target: usize, tid: u32) -> Option<u64> {
        self.threads.get(&(target as u8, tid))?.m_id
    }

    pub(super) fn behind(&self, target: usize, runner: &Runner) -> Behind {
        let process = self.processes.get(&runner.tgid);
        let mut comm = comm(&runner.comm);
        if comm.is_empty() {
            // Known from a slice that was still open, which has no comm: the process's does.
            comm = process.map(|p| clean(&p.comm)).unwrap_or_default();
        }
        Behind {
            pid: runner.tgid,
            tid: runner.tid,
            comm,
            cgroup: process.map(|p| p.cgroup.clone()),
            own: self.tgids.get(target) == Some(&runner.tgid),
            observer: self.observer != 0 && runner.tgid == self.observer,
        }
    }

    /// The quota that ran out at `at_ns`: of those that bind the target, the tightest is first to.
    fn quota(&self, target: usize, at_ns: u64) -> Option<Quota> {
        let known = self.quotas.get(&(target as u8))?;
        let at = known.partition_point(|(since, _)| *since <= at_ns);
        // A new one is noticed a little after it is set.
        let mut lists = known[at.saturating_sub(1)..].iter().map(|(_, list)| list);
        let tightest = |a: &&Quota, b: &&Quota| {
            let share = |a: &Quota, b: &Quota| u128::from(a.quota_us) * u128::from(b.period_us);
            share(a, b).cmp(&share(b, a))
        };
        // Of equals the innermost.
        let mut quota = lists.find(|l| !l.is_empty())?.iter().min_by(tightest)?.clone();
        quota.cgroup = clean(&quota.cgroup);
        Some(quota)
    }

    /// The process that a task is of.
    fn process(&self, target: usize, runner: &Runner) -> BehindProcess {
        let known = self.processes.get(&runner.tgid);
        BehindProcess {
            pid: runner.tgid,
            // Of a process with several threads the one of its threads that was met first says less.
            comm: known.map_or_else(|| comm(&runner.comm), |p| p.comm.clone()),
            own: self.tgids.get(target) == Some(&runner.tgid),
            observer: self.observer != 0 && runner.tgid == self.observer,
        }
    }

    pub(super) fn behind_for(&self, target: usize, list: &[(Runner, u64)]) -> Vec<BehindFor> {
        let one = |(r, ns): &(Runner, u64)| BehindFor { who: self.behind(target, r), ns: *ns };
        list.iter().map(one).collect()
    }
}

/// One stop with names.
pub(super) fn stop(target: usize, judged: &Judged, names: &Names, stacks: &Stacks) -> StwReport {
    let Judged { stop, verdict, gc_cycle, retry } = judged;
    let laggard_tid = stop.laggard().map(|(_, tid)| tid);
    StwReport {
        n: stop.n,
        reason: stw_reason_text(stop.reason),
        reason_id: u64::from(stop.reason as u8),
        gc_cycle: *gc_cycle,
        retry: *retry,
        start_ns: stop.start_ns,
        stopping_ns: stop.stopped_at_ns - stop.start_ns,
        stopped_ns: stop.end_ns - stop.stopped_at_ns,
        total_ns: stop.end_ns - stop.start_ns,
        end_evidence: stop.end_evidence,
        runtime_stopping_ns: stop.runtime_stopping_ns,
        runtime_total_ns: stop.runtime_total_ns,
        stopper_tid: stop.stopper_tid,
        stopper_m: names.m_id(target, stop.stopper_tid),
        laggard_tid,
        laggard_m: laggard_tid.and_then(|tid| names.m_id(target, tid)),
        laggard_evidence: if laggard_tid.is_some() { "gcstopm" } else { "none" },
        explained_ns: verdict.explained_ns,
        unexplained_ns: verdict.unexplained_ns,
        causes: verdict
            .causes
            .iter()
            .map(|c| CauseReport {
                kind: c.key.kind,
                ns: c.ns,
                tid: c.key.tid,
                m_id: names.m_id(target, c.key.tid),
                behind: c.key.behind.map(|r| names.behind(target, &r)),
                phase: c.key.phase,
                wait: c.key.wait,
                cpu: c.key.cpu,
                syscall: c.key.syscall,
                syscall_name: c.key.syscall.and_then(syscall_name),
                quota: (c.key.kind == CauseKind::CfsThrottled)
                    .then(|| names.quota(target, stop.end_ns))
                    .flatten(),
                code: c.key.code.and_then(|id| stacks.code(id)).map(code),
                why: c.key.why,
            })
            .collect(),
        threads: verdict
            .involved
            .iter()
            .map(|i| ThreadInStop {
                tid: i.tid,
                m_id: names.m_id(target, i.tid),
                role: i.role,
                stopping: i.stopping,
                stopped: i.stopped,
                behind: names.behind_for(target, &i.behind),
            })
            .collect(),
    }
}

fn code(code: &Code) -> CodeReport {
    let place = |p: &Place| PlaceReport {
        function: p.function.to_string(),
        file: p.file.as_deref().map(str::to_owned),
        line: p.line,
    };
    CodeReport { place: place(&code.place), caller: code.caller.as_ref().map(place) }
}

/// The report of a flushed run.
pub(super) fn report(p: Pipeline) -> Report {
    let start = p.start.as_ref();
    let start_ns = start.map_or(0, |s| s.start_ns);
    let end_ns = p.end.as_ref().map_or(p.state.last_ns, |e| e.end_ns);
    let window = Window {
        start_ns,
        wall_ns: start.map_or(0, |s| s.wall_ns),
        end_ns,
        duration_ns: end_ns.saturating_sub(start_ns),
    };
    let names = &p.state.names;
    let infos: &[Target] = start.map_or(&[], |s| &s.targets);
    let settings = start.map(|s| &s.settings);
    let lost = p.end.as_ref().map(|e| sum(e.lost.values().copied()));
    let mut sections = infos
        .iter()
        .zip(&p.state.targets)
        .enumerate()
        .map(|(i, (info, model))| section(i, info, model, names, settings, window, lost));
    // A stream without a head still has a report, of nothing.
    let first = sections.next().unwrap_or_else(|| empty(window));
    let others = sections.collect();
    let end = p.end;
    let events = Events {
        received: ByClass::new(
            end.as_ref().map_or_else(|| by_class(&p.state.received), |e| e.received.clone()),
        ),
        lost: end.as_ref().map(|e| ByClass::new(e.lost.clone())),
        produced: end.as_ref().map(|e| ByClass::new(e.produced.clone())),
        undecodable: end.as_ref().map_or(0, |e| e.undecodable),
        late: p.order.late(),
        stray: p.state.stray,
        threads_full: end.as_ref().map_or(0, |e| e.threads_full),
    };
    Report {
        schema: SCHEMA,
        run: Run {
            source: p.source,
            complete: start.is_some() && end.is_some(),
            end_reason: end.as_ref().map(|e| clean(&e.reason)),
            g211s_version: clean(start.map_or("", |s| &s.g211s_version)),
            host: start.map(|s| {
                let mut host = s.host.clone();
                host.kernel = clean(&host.kernel);
                host.arch = clean(&host.arch);
                host.hostname = clean(&host.hostname);
                host
            }),
            settings: settings.cloned(),
            host_switches: end.as_ref().map(|e| e.host_switches),
            steal: p.state.steal.iter().map(|(&cpu, &ns)| CpuSteal { cpu, ns }).collect(),
        },
        first,
        others,
        events,
        cost: end.map(|e| e.cost),
        notices: p.state.notices,
    }
}

fn empty(window: Window) -> TargetReport {
    TargetReport {
        target: TargetInfo::default(),
        window,
        runqueue: Runqueue::default(),
        threads: Threads::default(),
        gc: Gc::default(),
        stw: Vec::new(),
        stw_incomplete: Vec::new(),
        stw_totals: StwTotals::default(),
        stalls: Stalls::default(),
        delays: Delays::default(),
        goroutine_delays: GoroutineDelays::default(),
        netpoll: Netpoll::default(),
        alloc: Alloc::default(),
        runtime: RuntimeReport::default(),
        accuracy: Accuracy::default(),
        correlation: correlate(&[], &[], &[], &SparseHist::default(), &SparseHist::default()),
        aligned: Aligned::default(),
    }
}

fn section(
    index: usize,
    info: &Target,
    model: &TargetModel,
    names: &Names,
    settings: Option<&Settings>,
    window: Window,
    lost: Option<u64>,
) -> TargetReport {
    let threshold_ns = settings.map_or(0, |s| s.threshold_ns);
    let counters = model.intervals.last().cloned().unwrap_or_default();
    let mut hists = Histograms { of: model.hists.as_ref().map(|h| &h.hists) };
    let stw: Vec<StwReport> =
        model.judged.iter().map(|j| stop(index, j, names, &model.stacks)).collect();
    let gc_spans: Vec<Span> = model
        .gc
        .cycles
        .iter()
        .map(|c| Span { start_ns: c.start_ns, end_ns: c.start_ns + c.duration_ns })
        .collect();
    let stw_spans: Vec<Span> = stw
        .iter()
        .map(|s| Span { start_ns: s.start_ns, end_ns: s.start_ns + s.total_ns })
        .collect();
    // Waits that began in a stop are on neither side: stops have other reasons than GC too.
    let inside = hists.merged(&[Hist::WokenInGc, Hist::PreemptedInGc]);
    let outside = hists.merged(&[Hist::WokenOutside, Hist::PreemptedOutside]);
    let runqueue = runqueue(&mut hists, &counters);
    let counters = &counters;
    let parts =
        Parts { index, info, model, names, counters, threshold_ns, window, runqueue: &runqueue };
    TargetReport {
        target: target_info(info, model),
        window,
        goroutine_delays: parts.report(&mut hists),
        runqueue,
        threads: threads(index, model, names, settings.is_some_and(|s| s.full)),
        gc: gc(model, window),
        stw_incomplete: model
            .incomplete
            .iter()
            .map(|s| PartOfStop { stop: s.clone(), reason: s.reason_id.map(stw_reason_text) })
            .collect(),
        stw_totals: totals(&stw),
        stw,
        stalls: stalls(index, model, names),
        delays: delays(index, model, names, threshold_ns, &gc_spans),
        netpoll: Netpoll {
            late_count: model.lates.count,
            late: network::late(index, model, names),
            ..netpoll(&mut hists, counters, threshold_ns, window, settings)
        },
        alloc: alloc(counters, window),
        runtime: model.samples.report(info),
        accuracy: model.samples.accuracy(&model.seen(), info, lost),
        correlation: correlate(&model.intervals, &gc_spans, &stw_spans, &inside, &outside),
        aligned: align(&model.waits, &model.gc.cycles, threshold_ns),
    }
}

fn target_info(t: &Target, model: &TargetModel) -> TargetInfo {
    let all = |list: &[String]| list.iter().map(|s| clean(s)).collect();
    TargetInfo {
        pid: t.pid,
        tgid: t.tgid,
        comm: clean(&t.comm),
        exe: clean(&t.exe),
        cgroup: clean(&t.cgroup),
        go_version: clean(&t.go_version),
        module: t.module.as_deref().map(clean),
        link_mode: all(&t.link_mode),
        cpus_allowed: clean(&t.cpus_allowed),
        stacks: t.stacks.clone().map(|mut s| {
            s.why = clean(&s.why);
            s
        }),
        threads_at_attach: t.threads.len(),
        threads_born: model.born,
        threads_exited: model.exited,
        execed: model.execed,
        probes: t
            .probes
            .iter()
            .cloned()
            .map(|mut p| {
                p.site = clean(&p.site);
                p.function = clean(&p.function);
                p.instruction = clean(&p.instruction);
                p
            })
            .collect(),
        quotas: t.quotas.iter().map(|q| Quota { cgroup: clean(&q.cgroup), ..q.clone() }).collect(),
        unavailable: t
            .unavailable
            .iter()
            .cloned()
            .map(|mut u| {
                u.feature = clean(&u.feature);
                u.why = clean(&u.why);
                u.costs = clean(&u.costs);
                u
            })
            .collect(),
    }
}

/// A target's histograms, if they were recorded.
pub(super) struct Histograms<'a> {
    of: Option<&'a BTreeMap<u8, SparseHist>>,
}

impl Histograms<'_> {
    fn merged(&mut self, which: &[Hist]) -> SparseHist {
        let Some(of) = self.of else { return SparseHist::default() };
        let parts: Vec<&SparseHist> = which.iter().filter_map(|h| of.get(&(*h as u8))).collect();
        merge(&parts)
    }

    /// The distribution, or the counters where no histogram was recorded.
    pub(super) fn dist(&mut self, which: &[Hist], (count, total_ns): (u64, u64)) -> Dist {
        match self.of {
            Some(_) => quantiles(&self.merged(which)).into(),
            None => Dist::of_counters(count, total_ns),
        }
    }
}

fn runqueue(h: &mut Histograms, c: &Interval) -> Runqueue {
    use Hist::{
        PreemptedInGc, PreemptedInStw, PreemptedOutside, WokenInGc, WokenInStw, WokenOutside,
    };
    let by_kind = |h: &mut Histograms, woken, preempted| ByKind {
        all: h.dist(&[woken, preempted], (0, 0)),
        wakeup: h.dist(&[woken], (0, 0)),
        preempted: h.dist(&[preempted], (0, 0)),
    };
    let woken = [WokenOutside, WokenInGc, WokenInStw];
    let preempted = [PreemptedOutside, PreemptedInGc, PreemptedInStw];
    let all = [woken, preempted].concat();
    Runqueue {
        all: h.dist(&all, (sum([c.woken, c.preempted]), sum([c.woken_ns, c.preempted_ns]))),
        wakeup: h.dist(&woken, (c.woken, c.woken_ns)),
        preempted: h.dist(&preempted, (c.preempted, c.preempted_ns)),
        yielded: h.dist(&[Hist::Yielded], (c.yielded, c.yielded_ns)),
        throttled: Throttling { count: c.throttled, ns: c.throttled_ns },
        outside_gc: by_kind(h, WokenOutside, PreemptedOutside),
        in_gc: by_kind(h, WokenInGc, PreemptedInGc),
        in_stw: by_kind(h, WokenInStw, PreemptedInStw),
        on_cpu: h.dist(&[Hist::OnCpu], (c.oncpu, c.oncpu_ns)),
    }
}

fn netpoll(
    h: &mut Histograms,
    c: &Interval,
    threshold_ns: u64,
    window: Window,
    settings: Option<&Settings>,
) -> Netpoll {
    // Older recordings say nothing: they counted all the time.
    let observed_ns = c.polls_ns.unwrap_or(window.duration_ns);
    let lateness_source = settings.map(|s| s.lateness_source).unwrap_or_default();
    let per_s = |n: u64| (observed_ns > 0).then(|| n as f64 * 1e9 / observed_ns as f64);
    Netpoll {
        source: settings.and_then(|s| s.poll_source),
        observed_ns,
        sampled: observed_ns < window.duration_ns.saturating_sub(SAMPLED_SLACK_NS),
        blocking: BlockingPolls {
            count: c.epoll_blocking,
            per_s: per_s(c.epoll_blocking),
            slept: c.epoll_slept,
            slept_ns: c.epoll_slept_ns,
            empty: c.epoll_empty,
            wait: h.dist(&[Hist::EpollWait], (c.epoll_slept, c.epoll_slept_ns)),
        },
        late_wakes: LateWakes {
            count: c.epoll_late,
            threshold_ns,
            delay: h.dist(&[Hist::EpollLate], (0, c.epoll_late_ns)),
        },
        nonblocking: NonblockingPolls {
            count: c.epoll_nonblocking,
            per_s: per_s(c.epoll_nonblocking),
        },
        events: c.epoll_events,
        lateness_source,
        ready: (lateness_source == LatenessSource::EpPollCallback)
            .then(|| h.dist(&[Hist::ReadyHarvested], (0, 0))),
        late_count: 0,
        late: Vec::new(),
    }
}

/// Probes attached for less than the window by this are sampling (they are attached before it begins and
/// read a little before it ends).
pub(super) const SAMPLED_SLACK_NS: u64 = 200_000_000;

fn alloc(c: &Interval, window: Window) -> Alloc {
    let hits = |site: Site| c.hits.get(site as usize).copied().unwrap_or(0);
    Alloc {
        refills: hits(Site::McacheRefill),
        next_free: hits(Site::McacheNextFree),
        large: hits(Site::McacheAllocLarge),
        large_bytes: c.large_bytes,
        observed_ns: c.alloc_probes_ns,
        spans_per_s: (c.alloc_probes_ns > 0)
            .then(|| c.alloc_hits as f64 * 1e9 / c.alloc_probes_ns as f64),
        sampled: c.alloc_probes_ns < window.duration_ns.saturating_sub(SAMPLED_SLACK_NS),
        mallocgc: hits(Site::MallocGc),
    }
}

fn threads(index: usize, model: &TargetModel, names: &Names, full: bool) -> Threads {
    let mut part: BTreeMap<u32, (u64, u64)> = BTreeMap::new();
    for Judged { stop, .. } in &model.judged {
        part.entry(stop.stopper_tid).or_default().0 += 1;
        if let Some((_, tid)) = stop.laggard() {
            part.entry(tid).or_default().1 += 1;
        }
    }
    // Where the kernel's own sums are missing (a cut-off recording), what events prove stands in.
    let whole = !model.totals.is_empty();
    let mut tids: BTreeSet<u32> = model.totals.keys().copied().collect();
    if !whole {
        tids.extend(model.threads.iter().map(|(tid, _)| tid));
    }
    let mut list: Vec<ThreadRow> = tids
        .into_iter()
        .map(|tid| {
            let (stopper, laggard) = part.get(&tid).copied().unwrap_or_default();
            let info = names.threads.get(&(index as u8, tid));
            let timeline = model.threads.get(tid);
            let row = ThreadRow {
                tid,
                m_id: info.and_then(|i| i.m_id),
                comm: info.map(|i| i.comm.clone()),
                events: timeline.map_or(0, |t| t.events),
                stopper,
                laggard,
                ..ThreadRow::default()
            };
            match (model.totals.get(&tid), timeline) {
                (Some(t), _) => of_totals(t, row),
                (None, Some(t)) => ThreadRow {
                    on_cpu_ns: t.sums.on_cpu_ns,
                    runnable_ns: t.sums.runnable_ns(),
                    woken_ns: t.sums.woken_ns,
                    preempted_ns: t.sums.preempted_ns,
                    yielded_ns: t.sums.yielded_ns,
                    blocked_ns: t.sums.blocked_ns,
                    uninterruptible_ns: t.sums.uninterruptible_ns,
                    ..row
                },
                (None, None) => row,
            }
        })
        .collect();
    list.sort_by_key(|t| (std::cmp::Reverse(t.runnable_ns), std::cmp::Reverse(t.on_cpu_ns), t.tid));
    let coverage = if whole || full { "full" } else { "windows" };
    Threads { coverage, count: list.len(), list }
}

/// A row from the kernel's own sums.
fn of_totals(t: &ThreadTotals, row: ThreadRow) -> ThreadRow {
    let ns = |state: ThreadState| t.state_ns[state as usize];
    let stays = |state: ThreadState| t.state_count[state as usize];
    let (woken, preempted, yielded) = (
        ns(ThreadState::RunnableWoken),
        ns(ThreadState::RunnablePreempted),
        ns(ThreadState::RunnableYielded),
    );
    let asleep = [ThreadState::Blocked, ThreadState::BlockedUninterruptible, ThreadState::Stopped];
    ThreadRow {
        exited: t.exited,
        switches: Some(stays(ThreadState::Running)),
        wakeups: Some(stays(ThreadState::RunnableWoken)),
        preemptions: Some(stays(ThreadState::RunnablePreempted)),
        on_cpu_ns: ns(ThreadState::Running),
        runnable_ns: sum([woken, preempted, yielded]),
        woken_ns: woken,
        preempted_ns: preempted,
        yielded_ns: yielded,
        blocked_ns: sum(asleep.map(ns)),
        uninterruptible_ns: ns(ThreadState::BlockedUninterruptible),
        ..row
    }
}

fn gc(model: &TargetModel, window: Window) -> Gc {
    let cycles = &model.gc.cycles;
    let busy = sum(cycles.iter().map(|c| c.duration_ns));
    Gc {
        count: cycles.len(),
        incomplete: model.gc.incomplete.clone(),
        share: if window.duration_ns == 0 { 0.0 } else { busy as f64 / window.duration_ns as f64 },
        duration: Dist::of_values(cycles.iter().map(|c| c.duration_ns)),
        sweep_term: Dist::of_values(cycles.iter().map(|c| c.sweep_term_ns)),
        mark: Dist::of_values(cycles.iter().map(|c| c.mark_ns)),
        mark_term: Dist::of_values(cycles.iter().map(|c| c.mark_term_ns)),
        interval: Dist::of_values(cycles.iter().filter_map(|c| c.interval_ns)),
        cycles: cycles.clone(),
    }
}

fn totals(stw: &[StwReport]) -> StwTotals {
    let mut by_reason: BTreeMap<String, Vec<u64>> = BTreeMap::new();
    let mut causes: BTreeMap<(CauseKind, Option<BehindProcess>), (u64, u64)> = BTreeMap::new();
    for s in stw {
        by_reason.entry(s.reason.clone()).or_default().push(s.total_ns);
        let mut here: BTreeMap<_, u64> = BTreeMap::new();
        for c in &s.causes {
            let behind = c.behind.as_ref().map(|b| BehindProcess {
                pid: b.pid,
                comm: b.comm.clone(),
                own: b.own,
                observer: b.observer,
            });
            *here.entry((c.kind, behind)).or_default() += c.ns;
        }
        for (key, ns) in here {
            let total = causes.entry(key).or_default();
            total.0 = total.0.saturating_add(ns);
            total.1 += 1;
        }
    }
    let mut causes: Vec<CauseTotal> = causes
        .into_iter()
        .map(|((kind, behind), (ns, stops))| CauseTotal { kind, behind, ns, stops })
        .collect();
    causes.sort_by_key(|c| std::cmp::Reverse(c.ns));
    StwTotals {
        all: Dist::of_values(stw.iter().map(|s| s.total_ns)),
        stopping: Dist::of_values(stw.iter().map(|s| s.stopping_ns)),
        stopped: Dist::of_values(stw.iter().map(|s| s.stopped_ns)),
        explained_ns: sum(stw.iter().map(|s| s.explained_ns)),
        unexplained_ns: sum(stw.iter().map(|s| s.unexplained_ns)),
        by_reason: by_reason.into_iter().map(|(r, v)| (r, Dist::of_values(v))).collect(),
        causes,
    }
}

/// The rows of the table of stalls, with names.
pub(super) fn stall_causes(
    index: usize,
    s: &crate::analysis::stalls::Stalls,
    names: &Names,
) -> Vec<StallCause> {
    let total_ns = s.stw_ns.saturating_add(s.delays_ns);
    s.rows()
        .into_iter()
        .map(|row| StallCause {
            kind: row.kind,
            behind: row.behind.map(|r| names.process(index, &r)),
            ns: row.ns,
            share: if total_ns == 0 { 0.0 } else { row.ns as f64 / total_ns as f64 },
            count: row.count,
            worst_ns: row.worst_ns,
        })
        .collect()
}

/// What all stalls went to, with names.
fn stalls(index: usize, model: &TargetModel, names: &Names) -> Stalls {
    let s = &model.stalls;
    let total_ns = s.stw_ns.saturating_add(s.delays_ns);
    let by_cause = stall_causes(index, s, names);
    let unexplained = by_cause.iter().filter(|c| c.kind == CauseKind::Unexplained);
    Stalls {
        total_ns,
        stw_ns: s.stw_ns,
        stops: s.stops,
        delays_ns: s.delays_ns,
        delays: s.delays,
        unexplained_ns: sum(unexplained.map(|c| c.ns)),
        by_cause,
    }
}

/// One long wait with names.
pub(super) fn delay(
    index: usize,
    model: &TargetModel,
    d: &Delay,
    in_gc: bool,
    names: &Names,
) -> DelayReport {
    DelayReport {
        tid: d.tid,
        m_id: names.m_id(index, d.tid),
        start_ns: d.start_ns,
        wait_ns: d.wait_ns,
        wait: d.wait,
        cpu: d.cpu,
        p: model.goroutines.p_of_wait(d.tid, d.start_ns),
        in_gc,
        causes: wait_causes(index, d, names),
        behind: names.behind_for(index, &d.behind),
        throttled_ns: d.throttled_ns,
        idle_ns: d.idle_ns,
        unknown_ns: d.unknown_ns,
    }
}

/// One long sleep with names.
pub(super) fn sleep(index: usize, s: &Sleep, in_gc: bool, names: &Names) -> SleepReport {
    SleepReport {
        tid: s.tid,
        m_id: names.m_id(index, s.tid),
        start_ns: s.start_ns,
        ns: s.ns,
        in_gc,
        causes: vec![DelayCause {
            syscall: s.syscall,
            syscall_name: s.syscall.and_then(syscall_name),
            ..delay_cause(s.kind, s.ns)
        }],
    }
}

fn delays(
    index: usize,
    model: &TargetModel,
    names: &Names,
    threshold_ns: u64,
    gc: &[Span],
) -> Delays {
    let in_gc = |start_ns: u64, ns: u64| {
        let first = gc.partition_point(|s| s.end_ns <= start_ns);
        gc.get(first).is_some_and(|s| s.start_ns < start_ns + ns)
    };
    let report = |d: &Delay| delay(index, model, d, in_gc(d.start_ns, d.wait_ns), names);
    let sleep = |s: &Sleep| sleep(index, s, in_gc(s.start_ns, s.ns), names);
    let asleep = &model.delays.asleep;
    let asleep = Sleeps {
        count: asleep.count,
        in_stw: asleep.in_stw,
        worst: asleep.worst.iter().map(sleep).collect(),
    };
    let (count, in_stw) = (model.delays.count, model.delays.in_stw);
    let worst = model.delays.worst.iter().map(report).collect();
    let largest = model.delays.largest.values().map(report).collect();
    Delays { threshold_ns, count, in_stw, largest, worst, asleep }
}

fn delay_cause(kind: CauseKind, ns: u64) -> DelayCause {
    DelayCause { kind, ns, behind: None, quota: None, syscall: None, syscall_name: None }
}

/// What a wait went to, as the causes of a stop are told.
fn wait_causes(index: usize, d: &Delay, names: &Names) -> Vec<DelayCause> {
    let quota = names.quota(index, d.start_ns + d.wait_ns);
    let mut causes = vec![
        DelayCause { quota, ..delay_cause(CauseKind::CfsThrottled, d.throttled_ns) },
        delay_cause(CauseKind::WakeupLatency, d.idle_ns),
        // Behind nobody known.
        delay_cause(CauseKind::RunqueueWait, d.unknown_ns),
    ];
    causes.extend(d.behind.iter().map(|(runner, ns)| DelayCause {
        behind: Some(names.behind(index, runner)),
        ..delay_cause(CauseKind::RunqueueWait, *ns)
    }));
    causes.retain(|c| c.ns > 0);
    causes.sort_by_key(|c| std::cmp::Reverse(c.ns));
    causes
}
