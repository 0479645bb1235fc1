//! The one event loop of a live run: attach, drain, count, notice ends, detach, and hand every
//! [`Record`] to the sinks. Must not know how a record is rendered or what it proves.

use std::{
    collections::{BTreeMap, HashSet},
    io::{self, IsTerminal as _, Write as _},
    path::Path,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};
use g211s_ebpf::config::MAX_TARGETS;
use g211s_ebpf::event::{EVENT_CLASSES, Life, NO_TARGET, Site, ThreadState};
use nix::{
    sys::{
        resource::{UsageWho, getrusage},
        time::TimeValLike as _,
    },
    time::{ClockId, clock_gettime},
};
use tokio::{
    signal::unix::{SignalKind, signal},
    time::{MissedTickBehavior, interval, sleep_until},
};

use crate::{
    allocs::{Action, Governor, LOOK},
    bpf::{self, LoadOptions, Loss, ProbeHandle, ProbeRequest, Session, TargetRequest},
    cli::{ExtraProbe, WatchArgs},
    event::{Event, by_class},
    go::plan,
    model::reason::StwReason,
    record::{
        Cost, Host, Interval, Moment, Notice, ProbeHits, ProcessInfo, Record, RunEnd, RunStart,
        Settings, Target, ThreadInfo, Unavailable,
    },
    recording::Writer,
    report::{
        Note, Pipeline, disagreement,
        format::{clean, duration},
        sentence,
    },
    runtime::sampling::{self, RuntimeWatch},
    target::{self, ResolvedTarget, cgroup::Quotas, procfs::Procfs},
};

/// Time between two looks at the ring and at the kernel's counters, which is the step of the
/// correlation's time series. Each look takes a CPU from somebody for some 20 µs at least; a ring that
/// fills sooner says so itself.
const INTERVAL: Duration = Duration::from_millis(100);
/// Looks for the last switch of an exited thread.
const LEAVING_TRIES: u32 = 100;
/// Bytes of events taken at a time: some 30 ms of work.
const HELPING: u64 = 4 << 20;
/// Foreign processes described at most in one run.
const MAX_PROCESSES: usize = 4096;

/// Where a run's records go.
pub struct Sinks {
    /// Builds the report.
    pub pipeline: Option<Pipeline>,
    /// Writes the recording.
    pub writer: Option<Writer>,
    /// Prints pauses and a status line to stderr while the run goes on.
    pub live: bool,
}

impl Sinks {
    fn push(&mut self, record: Record, console: &mut Console) {
        if let Some(writer) = &mut self.writer
            && let Err(e) = writer.write(&record)
        {
            console.say(&format!("g211s: {e}; the run goes on without the recording"));
            self.writer = None;
        }
        if let Some(pipeline) = &mut self.pipeline {
            let notes = pipeline.push(record);
            if self.live {
                console.tell(&notes);
            }
        }
    }
}

/// stderr, with a status line that gives way to messages.
struct Console {
    tty: bool,
    threshold_ns: u64,
    status: bool,
}

impl Console {
    fn say(&mut self, text: &str) {
        let mut err = io::stderr().lock();
        let clear = if self.status { "\r\x1b[K" } else { "" };
        // A closed stderr must not end the run.
        let _ = writeln!(err, "{clear}{text}");
        self.status = false;
    }

    /// Prints the pauses that are long enough. (Notices were said when they arose.)
    fn tell(&mut self, notes: &[Note]) {
        for note in notes {
            match note {
                Note::Stop { stop, .. } if stop.total_ns >= self.threshold_ns => {
                    self.say(&sentence(stop));
                }
                Note::Disagreement { accuracy, .. } => {
                    for line in disagreement(accuracy) {
                        self.say(&format!("!! g211s: {line}"));
                    }
                }
                Note::Stop { .. } | Note::Notice(_) => {}
            }
        }
    }

    fn status(&mut self, text: &str) {
        if self.tty {
            let mut err = io::stderr().lock();
            let _ = write!(err, "\r\x1b[K{text}");
            let _ = err.flush();
            self.status = true;
        }
    }

    fn clear(&mut self) {
        if self.status {
            let _ = write!(io::stderr().lock(), "\r\x1b[K");
            self.status = false;
        }
    }
}

/// Monotonic time, ns: the clock of every event.
pub fn now_ns() -> u64 {
    clock_gettime(ClockId::CLOCK_MONOTONIC).map_or(0, |t| t.num_nanoseconds() as u64)
}

/// One process under watch.
struct Watched {
    record: Target,
    resolved: ResolvedTarget,
    request: TargetRequest,
    alive: bool,
    /// Probes in the allocator's slow path, which come and go.
    alloc_probes: Vec<(ProbeRequest, Option<ProbeHandle>)>,
    governor: Governor,
    /// All its other probes.
    probes: Vec<ProbeHandle>,
    quotas: Quotas,
    /// Its Go runtime's own counters.
    runtime: Option<RuntimeWatch>,
}

impl Watched {
    /// The Go runtime's counters now, if they can be read.
    fn sample(&self, moment: Moment) -> Option<Record> {
        let runtime = self.runtime.as_ref().filter(|_| self.alive)?;
        let sample = runtime.sample(self.request.index, moment, &now_ns);
        Some(Record::Runtime(Box::new(sample)))
    }
}

/// Watches until the duration is over, a signal comes, or the last target is gone; returns the
/// sinks, which have seen everything up to `End`.
///
/// # Errors
/// A target that cannot be watched, or a kernel side that cannot be set up. Once the run has begun
/// there are none: what fails then is said in a notice.
pub async fn run(args: &WatchArgs, mut sinks: Sinks) -> Result<Sinks> {
    let began = Instant::now();
    let procfs = Procfs::default();
    let threshold_ns = args.threshold.as_nanos() as u64;
    let mut console =
        Console { tty: sinks.live && io::stderr().is_terminal(), threshold_ns, status: false };
    let mut resolved = Vec::new();
    let mut seen = HashSet::new();
    for &pid in &args.pids {
        if seen.insert(pid) {
            let target = target::resolve(&procfs, pid)?;
            if target.tgid.is_none() {
                bail!(
                    "g211s runs in a nested PID namespace, from which the kernel's number of \
                     process {pid} cannot be told: run it in the host's (docker: --pid=host, \
                     Kubernetes: hostPID: true)"
                );
            }
            resolved.push(target);
        }
    }
    if resolved.len() > MAX_TARGETS as usize {
        bail!("at most {MAX_TARGETS} processes can be watched in one run");
    }
    let tracefs = bpf::ensure_tracefs();
    let mut session = Session::load(&LoadOptions {
        threshold_ns,
        full: args.full,
        ring_bytes: args.ring,
        tgids: resolved.iter().filter_map(|t| t.tgid).collect(),
        // Twice what there is and room for what comes: 10,000 is where the Go runtime gives up.
        threads: resolved.iter().map(|t| 2 * t.threads.len() as u32).sum::<u32>() + 20_480,
        kernel_log: args.kernel_log,
    })?;
    let _stats = if args.bpf_stats { Some(bpf::enable_stats()?) } else { None };
    let mut common = session.attach_sched()?;
    match tracefs {
        Ok(()) => {
            let others = resolved.iter().any(|t| t.binary.cgo || plan::polls_by_itself(&t.binary));
            common.extend(session.attach_netpoll(others));
        }
        Err(e) => common.push(Unavailable {
            feature: "netpoll".into(),
            why: format!("tracefs is not mounted and cannot be: {e}"),
            costs: "epoll waits are not counted; late wakes show as run-queue delay only".into(),
        }),
    }
    let customs = args.probes.iter().filter(|p| matches!(p, ExtraProbe::Custom(_))).count();
    if customs > 1 {
        bail!("one custom probe at a time: --probe custom:FUNCTION was given {customs} times");
    }
    let options = plan::PlanOptions {
        mallocgc: args.probes.contains(&ExtraProbe::MallocGc),
        nextfree: args.probes.contains(&ExtraProbe::NextFree),
        custom: args.probes.iter().find_map(|p| match p {
            ExtraProbe::Custom(f) => Some(f.clone()),
            _ => None,
        }),
    };
    let mut watched = Vec::new();
    for (index, resolved) in resolved.into_iter().enumerate() {
        watched.push(attach_probes(&mut session, index as u8, resolved, &options, &common));
    }

    stand_back();
    // Everything is attached; every program lets nothing pass until the next lines.
    let usage_before = getrusage(UsageWho::RUSAGE_SELF).context("getrusage")?;
    let attach_ns = began.elapsed().as_nanos() as u64;
    let mut signals = (
        signal(SignalKind::interrupt())?,
        signal(SignalKind::terminate())?,
        signal(SignalKind::hangup())?,
    );
    let start_ns = now_ns();
    for w in &watched {
        session.watch(w.request)?;
    }
    // At once: from here on whatever the runtime counts is in our events as well.
    let samples: Vec<Record> = watched.iter().filter_map(|w| w.sample(Moment::Start)).collect();
    for w in &mut watched {
        w.governor.attached(start_ns, 0);
        seed_threads(&mut session, &procfs, w);
    }
    let start = RunStart {
        g211s_version: env!("CARGO_PKG_VERSION").into(),
        start_ns,
        wall_ns: clock_gettime(ClockId::CLOCK_REALTIME).map_or(0, |t| t.num_nanoseconds() as u64),
        host: host(),
        settings: Settings {
            threshold_ns,
            full: args.full,
            interval_ns: INTERVAL.as_nanos() as u64,
            ring_bytes: args.ring.into(),
            observer_pid: std::process::id(),
        },
        targets: watched.iter().map(|w| w.record.clone()).collect(),
    };
    for t in &start.targets {
        console.say(&format!(
            "g211s: attached to {} ({}, {}) with {} probes; {} to go, Ctrl-C for the report now",
            t.pid,
            clean(&t.comm),
            clean(&t.go_version),
            t.probes.len(),
            duration(args.duration.as_nanos() as u64),
        ));
        for u in &t.unavailable {
            let (feature, why, costs) = (&u.feature, clean(&u.why), &u.costs);
            console.say(&format!("g211s: without {feature}: {why}; {costs}"));
        }
    }
    sinks.push(Record::Start(Box::new(start)), &mut console);
    for w in &mut watched {
        let ms = w.runtime.as_mut().map(|r| r.all_ms(&w.record.threads)).unwrap_or_default();
        for &tid in &w.record.threads {
            let info = thread_info(&procfs, w, tid, ms.get(&tid).copied());
            sinks.push(Record::Thread(Box::new(info)), &mut console);
        }
    }
    for sample in samples {
        sinks.push(sample, &mut console);
    }

    let mut run = Run {
        session,
        sinks,
        console,
        procfs,
        watched,
        received: [0; EVENT_CLASSES],
        undecodable: 0,
        ring_bytes: 0,
        processes: HashSet::new(),
        pending: Vec::new(),
        born: Vec::new(),
        samples: Vec::new(),
        exited: Vec::new(),
        windows: BTreeMap::new(),
        start_ns,
    };
    let deadline =
        Instant::now() + args.duration.saturating_sub(Duration::from_nanos(now_ns() - start_ns));
    let mut look = interval(LOOK);
    let mut counters = interval(INTERVAL);
    let mut second = interval(Duration::from_secs(1));
    for timer in [&mut look, &mut counters, &mut second] {
        timer.set_missed_tick_behavior(MissedTickBehavior::Delay);
    }
    let resume = args.pause_drain.map(|d| Instant::now() + d);
    let paused = || resume.is_some_and(|at| Instant::now() < at);
    // Whether the ring held more than one helping at the last look.
    let mut more = false;
    let reason = loop {
        tokio::select! {
            // Ends first, then what has its time; a ring that fills as fast as it is emptied must
            // keep neither waiting.
            biased;
            _ = signals.0.recv() => break "interrupt",
            _ = signals.1.recv() => break "terminate",
            _ = signals.2.recv() => break "hangup",
            () = sleep_until(deadline.into()) => break "duration",
            _ = second.tick() => run.every_second(),
            _ = counters.tick() => {
                // The counters' time lets stops be judged, so what happened before it comes first,
                // also where we have not run for long.
                if !paused() { more = run.drain() }
                run.intervals();
                run.govern(true);
                if !run.targets_alive() { break "target_exited" }
                if run.is_pointless() { break "error" }
            }
            _ = look.tick(), if run.is_looking() => run.govern(false),
            () = run.session.pressed(), if !paused() => more = run.drain(),
            () = std::future::ready(()), if more && !paused() => more = run.drain(),
        }
    };
    Ok(run.end(reason, attach_ns, &usage_before))
}

/// From here on a wakeup of this thread preempts nobody (`SCHED_BATCH`, kernel/sched/fair.c
/// `check_preempt_wakeup_fair`): what is to be read can wait for the end of somebody's slice, and
/// the target's threads are on those CPUs. Its share of CPU time stays the same, so that a busy host
/// does not keep it from emptying the ring.
fn stand_back() {
    let param = nix::libc::sched_param { sched_priority: 0 };
    // SAFETY: a system call that reads `param` and changes this thread's scheduling class alone.
    // Refused (a sandbox), the run goes on as an ordinary thread.
    let _ = unsafe { nix::libc::sched_setscheduler(0, nix::libc::SCHED_BATCH, &raw const param) };
}

fn host() -> Host {
    let text = |r: io::Result<String>| r.map_or_else(|_| "?".into(), |s| s.trim().to_owned());
    Host {
        kernel: text(std::fs::read_to_string("/proc/sys/kernel/osrelease")),
        arch: std::env::consts::ARCH.into(),
        hostname: text(std::fs::read_to_string("/proc/sys/kernel/hostname")),
        cpus: std::thread::available_parallelism().map_or(0, |n| n.get() as u32),
    }
}

/// Hits of the allocator's probes so far.
fn alloc_hits(i: &Interval) -> u64 {
    [Site::McacheRefill, Site::McacheAllocLarge]
        .iter()
        .filter_map(|&s| i.hits.get(s as usize))
        .sum()
}

/// Plans and attaches a target's probes. A probe that is refused costs its feature only.
fn attach_probes(
    session: &mut Session,
    index: u8,
    resolved: ResolvedTarget,
    options: &plan::PlanOptions,
    common: &[Unavailable],
) -> Watched {
    let mut record = resolved.record(Vec::new(), common.to_vec());
    let quotas = Quotas::find(
        &std::fs::read_to_string(resolved.exe_path.with_file_name("cgroup")).unwrap_or_default(),
        Path::new("/sys/fs/cgroup"),
    );
    if !quotas.is_empty() {
        record.unavailable.push(Unavailable {
            feature: "throttling".into(),
            why: "the target's cgroup has a CPU quota, and the scheduler's tracepoints show a \
                  throttled thread as one that waits for a CPU"
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
    let mut alloc_probes = Vec::new();
    let mut probes = Vec::new();
    // Without an edge that ends a stop, its beginning would open a window for ever.
    let has_end = plan.probes.iter().any(|p| matches!(p.site, Site::StwStart | Site::StwEnd));
    for probe in plan.probes.iter().filter(|p| has_end || p.site != Site::StwStop) {
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
                if matches!(probe.site, Site::McacheRefill | Site::McacheAllocLarge) {
                    alloc_probes.push((request, Some(handle)));
                } else {
                    probes.push(handle);
                }
            }
            Err(e) => record.unavailable.push(Unavailable {
                feature: plan::site_name(probe.site).into(),
                why: e.to_string(),
                costs: plan::site_costs(probe.site).into(),
            }),
        }
    }
    if !attached.contains(&Site::StwStop) || !attached.contains(&Site::StwStart) {
        record.unavailable.push(Unavailable {
            feature: "stw".into(),
            why: "the stop-the-world probes could not be attached (see above)".into(),
            costs: "no pauses in the report; run-queue delays and netpoll go on".into(),
        });
    }
    // The window closes at the last edge of a stop that this binary gives.
    let close_site = if attached.contains(&Site::StwEnd) { Site::StwEnd } else { Site::StwStart };
    let request = TargetRequest {
        index,
        tgid: record.tgid,
        reason_sweep_term: StwReason::GcSweepTermination as u32,
        close_site,
        has_mark_termination: attached.contains(&Site::GcMarkTermination),
    };
    Watched {
        record,
        resolved,
        request,
        alive: true,
        alloc_probes,
        governor: Governor::default(),
        probes,
        quotas,
        runtime,
    }
}

/// Tells the kernel side what the target's threads do now, so that a thread that sleeps through
/// the run is known to sleep.
fn seed_threads(session: &mut Session, procfs: &Procfs, w: &mut Watched) {
    let threads = procfs.threads(w.record.pid).unwrap_or_default();
    for &tid in &threads {
        let state = match procfs.thread_stat(w.record.pid, tid).map(|s| s.state) {
            Ok('S') => ThreadState::Blocked,
            Ok('D') => ThreadState::BlockedUninterruptible,
            Ok('T' | 't') => ThreadState::Stopped,
            // Running or waiting for a CPU: its next switch will tell.
            _ => continue,
        };
        session.seed_thread(w.request.index, tid, state, now_ns());
    }
    w.record.threads = threads;
}

fn thread_info(procfs: &Procfs, w: &Watched, tid: u32, m_id: Option<u64>) -> ThreadInfo {
    ThreadInfo {
        target: w.request.index,
        tid,
        // runtime.m0 runs on the main thread (Go runtime/proc.go, `m0`).
        m_id: m_id.or((tid == w.record.tgid).then_some(0)),
        comm: procfs.thread_comm(w.record.pid, tid).unwrap_or_default(),
    }
}

/// A run under way.
struct Run {
    session: Session,
    sinks: Sinks,
    console: Console,
    procfs: Procfs,
    watched: Vec<Watched>,
    received: [u64; EVENT_CLASSES],
    undecodable: u64,
    ring_bytes: u64,
    /// Foreign processes described already.
    processes: HashSet<u32>,
    /// Foreign processes seen since the last drain.
    pending: Vec<u32>,
    /// Threads born since the last drain: (target, tid).
    born: Vec<(u8, u32)>,
    /// Samples whose time the events taken so far may not have reached.
    samples: Vec<Record>,
    /// Threads that are exiting, and how often they were looked for.
    exited: Vec<(u32, u32)>,
    /// Last window number seen, by target.
    windows: BTreeMap<u8, u32>,
    start_ns: u64,
}

impl Run {
    /// Takes one helping of events from the ring; whether there is more.
    fn drain(&mut self) -> bool {
        let Self {
            session,
            sinks,
            console,
            received,
            undecodable,
            processes,
            pending,
            born,
            exited,
            windows,
            ..
        } = self;
        let mut execs = Vec::new();
        let (bytes, more) = session.drain(HELPING, |item| match Event::decode(item) {
            Err(_) => *undecodable += 1,
            Ok(event) => {
                received[usize::from(event.header().kind)] += 1;
                match &event {
                    Event::Slice(s)
                        if s.header.target == NO_TARGET
                            && s.tgid != 0
                            && processes.len() < MAX_PROCESSES
                            && processes.insert(s.tgid) =>
                    {
                        pending.push(s.tgid);
                    }
                    Event::Thread(t) => {
                        windows.insert(t.header.target, t.window);
                    }
                    Event::Life(l) if l.what == Life::ThreadBorn as u32 => {
                        born.push((l.header.target, l.header.tid));
                    }
                    Event::Life(l) if l.what == Life::ThreadExited as u32 => {
                        exited.push((l.header.tid, 0));
                    }
                    Event::Life(l) if l.what == Life::Exec as u32 => execs.push(l.header.target),
                    _ => {}
                }
                sinks.push(Record::Event(event), console);
            }
        });
        self.ring_bytes += bytes;
        self.describe();
        self.take_exited();
        for target in execs {
            self.gone(
                target,
                "it replaced its program (execve); attach again to watch the new one",
            );
        }
        self.session.flush_kernel_log();
        more
    }

    /// Whether nobody takes what the run finds: a recording that could not be written on.
    fn is_pointless(&self) -> bool {
        self.sinks.writer.is_none() && self.sinks.pipeline.is_none()
    }

    /// Describes processes and threads while they are (probably) still there.
    fn describe(&mut self) {
        for tgid in std::mem::take(&mut self.pending) {
            let info = ProcessInfo {
                tgid,
                comm: self.procfs.comm(tgid).unwrap_or_default(),
                cgroup: self.procfs.cgroup(tgid).unwrap_or_default(),
                cmdline: self.procfs.cmdline(tgid).unwrap_or_default().chars().take(120).collect(),
            };
            self.sinks.push(Record::Process(Box::new(info)), &mut self.console);
        }
        let born = std::mem::take(&mut self.born);
        for w in &self.watched {
            let of = born.iter().filter(|(target, _)| *target == w.request.index);
            let tids: Vec<u32> = of.map(|(_, tid)| *tid).collect();
            let ms = w.runtime.as_ref().filter(|_| w.alive && !tids.is_empty());
            let ms = ms.map(|r| r.new_ms(&tids)).unwrap_or_default();
            for tid in tids {
                let info = thread_info(&self.procfs, w, tid, ms.get(&tid).copied());
                self.sinks.push(Record::Thread(Box::new(info)), &mut self.console);
            }
        }
    }

    /// Takes what threads did that have exited, so that their places in the kernel's table are
    /// free again. One that is still on its way out is asked for again at the next drain.
    fn take_exited(&mut self) {
        let mut later = Vec::new();
        for (tid, tries) in std::mem::take(&mut self.exited) {
            match self.session.take_exited(tid) {
                Some(t) => {
                    self.sinks.push(Record::ThreadTotals(Box::new(t)), &mut self.console);
                }
                // What never shows up (its record was never made, or made anew) must not pile up.
                None if tries < LEAVING_TRIES => later.push((tid, tries + 1)),
                None => {}
            }
        }
        self.exited = later;
    }

    /// Reads counters, after the events of the time before were taken.
    fn intervals(&mut self) {
        for sample in std::mem::take(&mut self.samples) {
            self.sinks.push(sample, &mut self.console);
        }
        for index in 0..self.watched.len() {
            if self.watched[index].alive {
                self.interval(index as u8);
            }
        }
    }

    fn interval(&mut self, target: u8) {
        let now = now_ns();
        let w = &self.watched[usize::from(target)];
        let throttled = w.quotas.since();
        let counters = self.session.counters(target, now).map(|i| Interval {
            alloc_probes_ns: w.governor.attached_ns(now),
            alloc_hits: w.governor.counted(alloc_hits(&i)),
            throttled: throttled.count,
            throttled_ns: throttled.ns,
            ..i
        });
        match counters {
            Ok(i) => self.sinks.push(Record::Interval(Box::new(i)), &mut self.console),
            Err(e) => self.notice(Some(target), &e.to_string()),
        }
    }

    /// Whether a look at an allocator's probes may be over any moment.
    fn is_looking(&self) -> bool {
        let now = now_ns();
        let mut probed = self.watched.iter().filter(|w| w.alive && !w.alloc_probes.is_empty());
        probed.any(|w| w.governor.is_looking(now))
    }

    /// Lets the allocator's probes come and go, so that they stay affordable.
    /// `all`: also of those that are in no hurry, i.e. not within a short look.
    fn govern(&mut self, all: bool) {
        let now = now_ns();
        let Self { session, watched, .. } = self;
        let mut refused = Vec::new();
        let due = |w: &&mut Watched| {
            w.alive && !w.alloc_probes.is_empty() && (all || w.governor.is_looking(now))
        };
        for w in watched.iter_mut().filter(due) {
            let index = w.request.index;
            let hits = |session: &Session| session.counters(index, now).map(|i| alloc_hits(&i));
            let Ok(counted) = hits(session) else { continue };
            match w.governor.decide(now_ns(), counted) {
                Action::Keep => {}
                Action::Detach => {
                    w.governor.detached(now_ns(), hits(session).unwrap_or(counted));
                    let handles = w.alloc_probes.iter_mut().filter_map(|(_, h)| h.take());
                    // Not waited for: the loop must not stand still for as long as that takes.
                    drop(bpf::detach(handles.collect()));
                }
                Action::Attach => {
                    for (request, handle) in &mut w.alloc_probes {
                        match session.attach_probe(request) {
                            Ok(h) => *handle = Some(h),
                            Err(e) => refused.push((index, e.to_string())),
                        }
                    }
                    w.governor.attached(now_ns(), hits(session).unwrap_or(counted));
                }
            }
            if refused.iter().any(|(of, _)| *of == index) {
                w.alloc_probes.clear();
            }
        }
        for (index, why) in refused {
            self.notice(Some(index), &format!("allocations are not counted from here on: {why}"));
        }
    }

    fn notice(&mut self, target: Option<u8>, text: &str) {
        self.console.say(&format!("g211s: {text}"));
        let notice = Notice { ts_ns: now_ns(), target, text: text.to_owned() };
        self.sinks.push(Record::Notice(Box::new(notice)), &mut self.console);
    }

    /// Whether any target is still there; says so of those that went.
    fn targets_alive(&mut self) -> bool {
        for index in 0..self.watched.len() {
            let w = &self.watched[index];
            if w.alive && !w.resolved.is_alive(&self.procfs) {
                self.gone(index as u8, "it exited");
            }
        }
        self.watched.iter().any(|w| w.alive)
    }

    fn gone(&mut self, target: u8, why: &str) {
        let Some(w) = self.watched.get_mut(usize::from(target)).filter(|w| w.alive) else { return };
        w.alive = false;
        let (pid, comm) = (w.record.pid, w.record.comm.clone());
        self.session.unwatch(w.request.tgid);
        self.interval(target);
        self.notice(Some(target), &format!("process {pid} ({comm}): {why}"));
    }

    fn every_second(&mut self) {
        use std::fmt::Write as _;

        self.samples.extend(self.watched.iter().filter_map(|w| w.sample(Moment::Running)));
        if let Some(writer) = &mut self.sinks.writer
            && let Err(e) = writer.flush()
        {
            self.sinks.writer = None;
            self.notice(None, &format!("{e}; the run goes on without the recording"));
        }
        if !self.console.tty {
            return;
        }
        let seconds = (now_ns() - self.start_ns) / 1_000_000_000;
        let loss = self.session.loss().unwrap_or_default();
        let mut line = format!("{seconds:>4} s");
        for w in &self.watched {
            if let Ok(i) = self.session.counters(w.request.index, now_ns()) {
                let delays = i.woken + i.preempted;
                let mean_us = (i.woken_ns + i.preempted_ns) / delays.max(1) / 1000;
                let _ = write!(
                    line,
                    " | {} {}: {} GC, {} stops, {delays} run-queue waits, {mean_us} µs mean",
                    clean(&w.record.comm),
                    w.record.pid,
                    i.gc,
                    i.stw
                );
            }
        }
        let lost: u64 = loss.lost.iter().sum();
        let _ = write!(line, " | {} events", self.received.iter().sum::<u64>());
        if lost > 0 {
            let _ = write!(line, ", {lost} LOST");
        }
        self.console.status(&line);
    }

    /// Names the Ms of all threads once more: some were too young when they were seen first.
    fn last_ms(&mut self) {
        for w in self.watched.iter_mut().filter(|w| w.alive) {
            let tids = self.procfs.threads(w.record.pid).unwrap_or_default();
            let ms = w.runtime.as_mut().map(|r| r.all_ms(&tids)).unwrap_or_default();
            for (tid, m_id) in ms {
                let info = thread_info(&self.procfs, w, tid, Some(m_id));
                self.sinks.push(Record::Thread(Box::new(info)), &mut self.console);
            }
        }
    }

    /// The end of a run: stop counting, take the rest, detach, and say what it cost.
    fn end(
        mut self,
        reason: &str,
        attach_ns: u64,
        usage_before: &nix::sys::resource::Usage,
    ) -> Sinks {
        // While events still pass: what the runtime has counted by now is in them.
        let last: Vec<Record> = self.watched.iter().filter_map(|w| w.sample(Moment::End)).collect();
        for w in &self.watched {
            self.session.unwatch(w.request.tgid);
        }
        let end_ns = now_ns();
        // Programs that were past their filter finish within microseconds; what they send counts.
        std::thread::sleep(Duration::from_millis(2));
        while self.drain() {}
        for sample in std::mem::take(&mut self.samples).into_iter().chain(last) {
            self.sinks.push(sample, &mut self.console);
        }
        self.last_ms();
        let windows = std::mem::take(&mut self.windows);
        let (finals, totals) =
            self.session.final_threads(end_ns, |t| windows.get(&t).copied().unwrap_or_default());
        for event in finals {
            self.sinks.push(Record::Event(Event::Thread(event)), &mut self.console);
        }
        for totals in totals {
            self.sinks.push(Record::ThreadTotals(Box::new(totals)), &mut self.console);
        }
        let mut probe_hits = Vec::new();
        for index in 0..self.watched.len() as u8 {
            if self.watched[usize::from(index)].alive {
                self.interval(index);
            }
            match self.session.hists(index, end_ns) {
                Ok(h) => self.sinks.push(Record::Hists(Box::new(h)), &mut self.console),
                Err(e) => self.notice(Some(index), &e.to_string()),
            }
            let counted = self.session.counters(index, end_ns).map(|i| i.hits).unwrap_or_default();
            let mut sites: Vec<u32> =
                self.watched[usize::from(index)].record.probes.iter().map(|p| p.site_id).collect();
            sites.sort_unstable();
            sites.dedup();
            for site in sites.into_iter().filter_map(Site::from_u32) {
                probe_hits.push(ProbeHits {
                    target: index,
                    site: plan::site_name(site).into(),
                    hits: counted.get(site as usize).copied().unwrap_or(0),
                });
            }
        }
        let loss = self.session.loss().unwrap_or_else(|_| Loss::default());
        let bpf_programs = self.session.program_costs();
        let host_switches = self.session.switches();
        let Self { session, mut sinks, mut console, watched, .. } = self;
        let detach = Instant::now();
        let handles = watched.into_iter().flat_map(|w| {
            w.probes.into_iter().chain(w.alloc_probes.into_iter().filter_map(|p| p.1))
        });
        let under_way = bpf::detach(handles.collect());
        drop(session);
        for thread in under_way {
            // A panic in a drop has been printed; the kernel detaches at our exit at the latest.
            let _ = thread.join();
        }
        let detach_ns = detach.elapsed().as_nanos() as u64;
        let usage = getrusage(UsageWho::RUSAGE_SELF).ok();
        let cpu = |u: &nix::sys::resource::Usage| {
            (u.user_time().num_microseconds() + u.system_time().num_microseconds()) as u64 * 1000
        };
        let end = RunEnd {
            end_ns,
            reason: reason.into(),
            produced: by_class(&loss.produced),
            lost: by_class(&loss.lost),
            received: by_class(&self.received),
            undecodable: self.undecodable,
            threads_full: loss.threads_full,
            host_switches,
            cost: Cost {
                agent_cpu_ns: usage
                    .as_ref()
                    .map_or(0, |u| cpu(u).saturating_sub(cpu(usage_before))),
                agent_max_rss_bytes: usage.as_ref().map_or(0, |u| u.max_rss() as u64 * 1024),
                bpf_programs,
                probe_hits,
                ring_bytes: self.ring_bytes,
                attach_ns: attach_ns + detach_ns,
            },
        };
        sinks.push(Record::End(Box::new(end)), &mut console);
        if sinks.live
            && let Some(pipeline) = &mut sinks.pipeline
        {
            console.tell(&pipeline.flush());
        }
        console.clear();
        sinks
    }
}
