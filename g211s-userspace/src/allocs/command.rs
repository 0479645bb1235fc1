//! `g211s allocs`: the run. Attaches what the budget allows, drains, and hands every record on. The only place in this
//! room that knows processes and BPF. Must not know how a record is used.

use std::collections::HashMap;
use std::io::{self, IsTerminal as _, Write as _};
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use g211s_ebpf::config::GoLayout;
use g211s_ebpf::event::Site;
use nix::sys::time::TimeValLike as _;
use nix::time::{ClockId, clock_getcpuclockid, clock_gettime};
use nix::unistd::Pid;
use tokio::signal::unix::{SignalKind, signal};

use super::attached::Attached;
use super::budget::{Budget, Costs, Done, Expected, Plan};
use super::decode::{Decoded, Decoder, SpanFields};
use super::forecast::forecast;
use super::marks::Marks;
use super::observer::Observer;
use super::rows::Rows;
use super::totals::{self, CLASS_SIZES};
use crate::agent::{host, naming::Naming, now_ns, stand_back};
use crate::bpf::{self, LoadOptions, Loss, ProbeCost, ProbeKind, Session, TargetRequest};
use crate::cli::{AllocPlanArg, AllocsArgs};
use crate::go::Binary;
use crate::go::globals::Global;
use crate::go::plan::{self, PlannedProbe};
use crate::record::{
    AllocRun, AllocSample, AllocSamples, AllocState, AllocSums, AllocTotals, Cost, LatenessSource,
    Moment, Notice, ProbeHits, Record, RunEnd, RunStart, RuntimeSample, Settings, Unavailable,
};
use crate::report::format::{clean, duration};
use crate::runtime::memory::ProcessMemory;
use crate::runtime::sampling::open_runtime;
use crate::runtime::snapshot::Sampler;
use crate::runtime::{Feature, Runtime};
use crate::target::{ResolvedTarget, procfs::Procfs, resolve};

/// How long a run lasts where nothing else is asked for.
const DURATION: Duration = Duration::from_secs(30);
/// The same where every allocation is counted: each costs.
const EXACT_DURATION: Duration = Duration::from_secs(1);
/// Size of the ring: 20,000 events and more, 0.4 s of the densest look.
const RING_BYTES: u32 = 16 << 20;
/// Between two looks at the account; more often while what is saved may be spent within a few.
const STEP: Duration = Duration::from_millis(100);
const SHORT_STEP: Duration = Duration::from_millis(20);
/// The same while nothing is attached and all that was hit is settled: waking up takes a CPU from somebody, too.
const REST_STEP: Duration = Duration::from_millis(250);
/// The runtime's own counts are read this often.
const SECOND: Duration = Duration::from_secs(1);
/// For how long the allocation rate is looked at before anything is attached.
const FORECAST: Duration = Duration::from_millis(200);
/// Samples of one record.
const BATCH: usize = 4096;
/// What a probe is taken to cost where that could not be measured.
const ASSUMED_COST: ProbeCost = ProbeCost { hit_ns: 4_000, change_ns: 200_000 };

/// CPU time by a clock of a process or thread, ns.
fn cpu_ns(clock: ClockId) -> u64 {
    clock_gettime(clock).map_or(0, |t| t.num_nanoseconds() as u64)
}

/// CPU time of this thread, ns.
fn thread_cpu_ns() -> u64 {
    cpu_ns(ClockId::CLOCK_THREAD_CPUTIME_ID)
}

/// Follows the allocations of a process and hands all records to `sink`. `observer` sees each object as soon as its event
/// is decoded, and the process's memory between.
///
/// # Errors
/// A target that cannot be watched, or a kernel side that cannot be set up.
pub async fn run(
    args: &AllocsArgs,
    pid: u32,
    observer: &mut dyn Observer,
    sink: &mut dyn FnMut(Record) -> Result<()>,
) -> Result<()> {
    let began = Instant::now();
    let procfs = Procfs::default();
    let target = resolve(&procfs, pid)?;
    let Some(tgid) = target.tgid else {
        bail!(
            "g211s runs in a nested PID namespace, from which the kernel's number of process {pid} cannot be \
             told: run it in the host's (docker: --pid=host, Kubernetes: hostPID: true)"
        );
    };
    let binary = std::sync::Arc::clone(&target.binary);
    let unwatchable =
        |why: String| anyhow::anyhow!("the allocations of process {pid} cannot be followed: {why}");
    let plan = plan::plan_allocs(&binary).map_err(|e| unwatchable(e.to_string()))?;
    let runtime = open_runtime(&procfs, &target).map_err(unwatchable)?;
    let fields = SpanFields::new(runtime.offsets()).map_err(unwatchable)?;
    // What a sample says of its span is believed only where the runtime's own structures are as they should be.
    runtime.usable(Feature::Spans).map_err(|why| unwatchable(why.to_owned()))?;
    observer.begin(&runtime, &binary.version).map_err(unwatchable)?;
    let cpu_clock = clock_getcpuclockid(Pid::from_raw(pid as i32))
        .map_err(|e| unwatchable(format!("its CPU time cannot be read: {e}")))?;
    let mut session = Session::load(&LoadOptions {
        threshold_ns: u64::MAX,
        full: false,
        ring_bytes: RING_BYTES,
        tgids: vec![tgid],
        threads: 1,
        irqs: false,
        kernel_log: false,
        allocs: true,
    })?;
    let procs =
        runtime.address(Global::Gomaxprocs).and_then(|at| runtime.u32_at(at)).unwrap_or(1) as usize;
    let mut unavailable = plan.unavailable.clone();
    let kind = if args.exact { ProbeKind::Exact } else { ProbeKind::Sample };
    let cost = session.calibrate(kind).unwrap_or_else(|e| {
        unavailable.push(Unavailable {
            feature: "calibrate".into(),
            why: e.to_string(),
            costs: format!("a hit is taken to cost {}", duration(ASSUMED_COST.hit_ns)),
        });
        ASSUMED_COST
    });
    let costs = Costs {
        hit_ns: cost.hit_ns as f64,
        change_ns: (cost.change_ns * (plan.refill.len() + plan.large.len()) as u64) as f64,
    };
    let budget = if args.exact { 1.0 } else { args.budget };
    let mut run = Run {
        sink,
        observer,
        naming: Naming::new(&procfs, 0, pid, &binary),
        decoder: Decoder::new(0, fields),
        budget: Budget::new(
            budget,
            costs,
            !plan.next_free.is_empty() && args.plan == AllocPlanArg::NextFree,
        ),
        attached: Attached::new(&plan, &target),
        exact: args.exact,
        mallocgc: mallocgc(&binary, runtime.bias()),
        summed: HashMap::new(),
        pending: Vec::new(),
        rows: Rows::new(fields, procs),
        last_totals: None,
        forecast: Expected::default(),
        refills: 1.0,
        refill_hits: None,
        why_no_totals: None,
        received: 0,
        ring_bytes: 0,
        session,
        exe: exe(&procfs, pid),
        procfs,
        marks: Marks::of(&runtime),
        sampler: Sampler::new(&runtime, target.binary.cgo),
        target,
        runtime,
        cpu_clock,
        cost_ns: cost.hit_ns,
        own_ns: 0,
        naming_ns: 0,
        lost: None,
        gave_up: false,
        tty: io::stderr().is_terminal(),
        started_ns: 0,
    };
    run.begin(args, unavailable, tgid).await?;
    let attach_ns = began.elapsed().as_nanos() as u64;
    let span = args.duration.unwrap_or(if args.exact { EXACT_DURATION } else { DURATION });
    let reason = run.observe(span).await?;
    run.end(reason, attach_ns)
}

/// Which file a process's executable is: device and inode.
fn exe(procfs: &Procfs, pid: u32) -> Option<(u64, u64)> {
    procfs.exe_identity(pid).ok().map(|(device, inode, ..)| (device, inode))
}

/// Where `runtime.mallocgc` lies in the process: its own calls of size-specialised variants are hits already.
fn mallocgc(binary: &Binary, bias: u64) -> std::ops::Range<u64> {
    let all = binary.functions.resolve(&["runtime.mallocgc"]);
    let f = all.get("runtime.mallocgc").and_then(|f| f.first());
    f.map_or(0..0, |f| f.entry.wrapping_add(bias)..f.end.wrapping_add(bias))
}

/// A run under way.
struct Run<'a, 's> {
    sink: &'s mut dyn FnMut(Record) -> Result<()>,
    observer: &'s mut dyn Observer,
    naming: Naming<'a>,
    decoder: Decoder,
    budget: Budget,
    attached: Attached,
    exact: bool,
    mallocgc: std::ops::Range<u64>,
    /// Our number of each stack that the kernel sums by.
    summed: HashMap<u64, u32>,
    pending: Vec<AllocSample>,
    rows: Rows,
    last_totals: Option<(u64, AllocTotals)>,
    /// Hits a second to be expected of each plan, by the last two counts.
    forecast: Expected,
    /// Refills for each that the counts would have made expect.
    refills: f64,
    /// When refills began to be counted, and how many hits there were.
    refill_hits: Option<(u64, u64)>,
    why_no_totals: Option<String>,
    received: u64,
    ring_bytes: u64,
    session: Session,
    procfs: Procfs,
    target: ResolvedTarget,
    /// Its executable: another one has none of these probes.
    exe: Option<(u64, u64)>,
    runtime: Runtime<ProcessMemory>,
    /// The runtime's own counters, and when the collector marked.
    sampler: Sampler,
    marks: Marks,
    cpu_clock: ClockId,
    cost_ns: u64,
    /// CPU time of ours for what was hit, ns, without `naming_ns`.
    own_ns: u64,
    /// CPU time for names of functions, ns: once for each, however long the run is.
    naming_ns: u64,
    lost: Option<String>,
    /// The probes could not be attached again.
    gave_up: bool,
    tty: bool,
    started_ns: u64,
}

impl Run<'_, '_> {
    /// Says what is watched, forecasts, and attaches.
    async fn begin(
        &mut self,
        args: &AllocsArgs,
        unavailable: Vec<Unavailable>,
        tgid: u32,
    ) -> Result<()> {
        stand_back();
        self.session.watch(TargetRequest {
            index: 0,
            tgid,
            reason_sweep_term: u32::MAX,
            close_site: Site::StwStart,
            has_mark_termination: false,
            layout: GoLayout::default(),
            mcache_alloc: self.runtime.field("runtime.mcache", "alloc").map_or(0, |f| f.off),
        })?;
        let (before, at) = (cpu_ns(self.cpu_clock), Instant::now());
        self.count();
        tokio::time::sleep(FORECAST).await;
        self.count();
        let start_ns = now_ns();
        self.started_ns = start_ns;
        let probes =
            self.attached.planned.iter().filter(|p| (p.site == Site::AllocExact) == self.exact);
        let record = self.target.record(probes.map(PlannedProbe::attached).collect(), unavailable);
        for u in &record.unavailable {
            self.say(&format!("without {}: {}; {}", u.feature, clean(&u.why), u.costs));
        }
        let start = RunStart {
            g211s_version: env!("CARGO_PKG_VERSION").into(),
            start_ns,
            wall_ns: clock_gettime(ClockId::CLOCK_REALTIME)
                .map_or(0, |t| t.num_nanoseconds() as u64),
            host: host(),
            settings: Settings {
                threshold_ns: 0,
                full: false,
                interval_ns: SECOND.as_nanos() as u64,
                ring_bytes: RING_BYTES.into(),
                observer_pid: std::process::id(),
                poll_source: None,
                lateness_source: LatenessSource::default(),
            },
            targets: vec![record],
        };
        (self.sink)(Record::Start(Box::new(start)))?;
        (self.sink)(Record::AllocRun(Box::new(AllocRun {
            target: 0,
            budget: args.budget,
            cost_ns: self.cost_ns,
            class_sizes: CLASS_SIZES.to_vec(),
            exact: self.exact,
        })))?;
        if let Some(why) = self.why_no_totals.take() {
            self.notice(&format!(
                "the runtime's own counts cannot be read ({why}): totals are extrapolated from samples"
            ))?;
        }
        self.counters(Moment::Start)?;
        let cpu = cpu_ns(self.cpu_clock);
        if self.exact {
            // Counted from here on, all together.
            let requests = self.attached.exact.clone();
            if requests.is_empty() {
                bail!(
                    "every allocation cannot be counted in this executable: runtime.mallocgc cannot be probed"
                );
            }
            let rate = self.forecast.exact;
            self.say(&format!(
                "counting every allocation: {rate:.0} a second at {} each take the process {:.1} s of CPU time a second",
                duration(self.cost_ns),
                rate * self.cost_ns as f64 / 1e9
            ));
            for request in &requests {
                self.attached.handles.push(self.session.attach_probe(request)?);
            }
            (self.attached.since, self.attached.looks) = (Some(now_ns()), 1);
            return self.state("exact", "asked for");
        }
        let cpus = cpu.saturating_sub(before) as f64 / at.elapsed().as_nanos().max(1) as f64;
        let plan = self.budget.begin(now_ns(), cpu, cpus, self.forecast);
        self.attached.change(&mut self.session, Plan::Resting, plan)?;
        let why = format!(
            "{:.0} hits/s expected at {} each",
            if plan == Plan::NextFree { self.forecast.next_free } else { self.forecast.refill },
            duration(self.cost_ns)
        );
        self.state(plan.name(), &why)
    }

    async fn observe(&mut self, span: Duration) -> Result<&'static str> {
        let mut interrupt = signal(SignalKind::interrupt())?;
        let mut terminate = signal(SignalKind::terminate())?;
        let deadline = tokio::time::Instant::now() + span;
        let mut second = tokio::time::interval_at(tokio::time::Instant::now() + SECOND, SECOND);
        let (mut last_hits, mut checked) = ((now_ns(), 0), Instant::now());
        let (mut settled, mut settle_every) = (Instant::now(), STEP);
        loop {
            let rate = {
                let (now, hits) = (now_ns(), self.hits());
                let (more, passed) =
                    (hits.saturating_sub(last_hits.1), now.saturating_sub(last_hits.0));
                let rate = more as f64 / passed.max(1) as f64 * 1e9;
                last_hits = (now, hits);
                rate
            };
            let near = self.budget.lasts_ns(rate) < 4 * STEP.as_nanos() as u64;
            let step = match self.budget.plan() {
                _ if self.exact => STEP,
                Plan::Resting if self.rows.is_empty() => REST_STEP,
                Plan::Resting => STEP,
                _ if near => SHORT_STEP,
                _ => STEP,
            };
            tokio::select! {
                biased;
                _ = interrupt.recv() => return Ok("interrupt"),
                _ = terminate.recv() => return Ok("terminate"),
                () = tokio::time::sleep_until(deadline) => return Ok("duration"),
                _ = second.tick() => {
                    self.count();
                    self.state("", "")?;
                    self.counters(Moment::Running)?;
                    self.status();
                }
                () = self.session.pressed() => {}
                () = tokio::time::sleep(self.observer.within().map_or(step, |d| d.min(step))) => {}
            }
            let received = self.received;
            let took = self.timed(Self::drain)?;
            // What it takes to find nothing is nobody's hit.
            self.own_ns += if self.received == received { 0 } else { took };
            self.look(false)?;
            // An observer looks much more often than spans fill, and all that are under way are read each time.
            if settled.elapsed() >= settle_every {
                let took = self.timed(|run| run.settle(false))?;
                self.own_ns += took;
                settled = Instant::now();
                settle_every = self.budget.paced(took).clamp(STEP, SECOND);
            }
            self.marks.look(self.runtime.memory(), self.started_ns);
            if !self.exact {
                self.govern()?;
            }
            if self.gave_up {
                return Ok("error");
            }
            if checked.elapsed() < STEP {
                continue;
            }
            checked = Instant::now();
            if !self.target.is_alive(&self.procfs) {
                return Ok("target_exited");
            }
            if exe(&self.procfs, self.target.pid).is_some_and(|now| Some(now) != self.exe) {
                self.notice("the process replaced its program (execve): this is what came before")?;
                return Ok("target_exited");
            }
        }
    }

    /// Does something about hits; the CPU time that it takes, ns, without that for names.
    fn timed(&mut self, work: impl FnOnce(&mut Self) -> Result<()>) -> Result<u64> {
        let (began, naming) = (thread_cpu_ns(), self.naming_ns);
        work(self)?;
        let took = thread_cpu_ns().saturating_sub(began);
        Ok(took.saturating_sub(self.naming_ns - naming))
    }

    /// Hits so far, of all sites.
    fn hits(&self) -> u64 {
        let sites = [Site::AllocRefill, Site::AllocLarge, Site::AllocNextFree, Site::AllocExact];
        self.session.counters(0, 0).map_or(0, |i| {
            sites.iter().map(|s| i.hits.get(*s as usize).copied().unwrap_or(0)).sum()
        })
    }

    /// Reads the runtime's counts, and forecasts from the last two.
    fn count(&mut self) {
        let now = now_ns();
        let totals = match totals::read(&self.runtime) {
            Ok(totals) => totals,
            Err(why) => {
                self.why_no_totals.get_or_insert(why);
                return;
            }
        };
        if let Some((then, last)) = self.last_totals.replace((now, totals.clone())) {
            let seconds = now.saturating_sub(then) as f64 / 1e9;
            if seconds > 0.0 {
                self.forecast = forecast(&last, &totals, seconds, self.refills);
            }
        }
    }

    fn govern(&mut self) -> Result<()> {
        let (now, cpu, hits) = (now_ns(), cpu_ns(self.cpu_clock), self.hits());
        // How many refills there are for each that the counts make expect, while they are seen.
        if self.budget.plan() == Plan::Refill {
            let (since, before) = *self.refill_hits.get_or_insert((now, hits));
            let seconds = now.saturating_sub(since) as f64 / 1e9;
            if seconds >= 1.0 && self.forecast.refill > 0.0 {
                let seen = hits.saturating_sub(before) as f64 / seconds;
                self.refills = (self.refills * seen / self.forecast.refill).clamp(0.1, 20.0);
                self.refill_hits = Some((now, hits));
            }
        } else {
            self.refill_hits = None;
        }
        let was = self.budget.plan();
        let done = Done { hits, own_ns: self.own_ns };
        let plan = self.budget.decide(now, cpu, done, self.forecast);
        if plan == was {
            return Ok(());
        }
        if let Err(e) = self.attached.change(&mut self.session, was, plan) {
            self.gave_up = true;
            return self
                .notice(&format!("the probes did not come back: {e}; this is what came before"));
        }
        if was == Plan::NextFree || plan == Plan::NextFree {
            self.decoder.interrupted();
        }
        let why = match (was, plan) {
            (_, Plan::Resting) => "what the budget allows is spent",
            (Plan::Resting, _) => "enough is saved for another look",
            (Plan::NextFree, _) => "it took more than the budget allows",
            _ => "a denser plan fits the budget",
        };
        self.state(plan.name(), why)
    }

    /// Says where things stand; `plan` is empty where it is the same.
    fn state(&mut self, plan: &str, why: &str) -> Result<()> {
        let now = now_ns();
        let plan = if plan.is_empty() {
            if self.exact { "exact" } else { self.budget.plan().name() }
        } else {
            plan
        };
        let u32_of = |feature, global, strukt, field| {
            self.runtime.usable(feature).ok()?;
            self.runtime.u64(global, strukt, field).ok()
        };
        let cycles =
            u32_of(Feature::Gc, Global::Memstats, "runtime.mstats", "numgc").map(|n| n as u32);
        let marked =
            u32_of(Feature::Heap, Global::GcController, "runtime.gcControllerState", "heapMarked");
        let state = AllocState {
            target: 0,
            ts_ns: now,
            plan: plan.to_owned(),
            why: why.to_owned(),
            totals: totals::read(&self.runtime).ok(),
            cycles,
            sweepgen: self.sweepgen(),
            marked,
            cpu_ns: cpu_ns(self.cpu_clock),
            hits: self.hits(),
            observed_ns: self.attached.observed_ns(now),
            looks: self.attached.looks,
            spent_ns: (!self.exact).then(|| self.budget.spent_ns()),
            marks: self.marks.take(),
        };
        (self.sink)(Record::AllocState(Box::new(state)))
    }

    /// Records the runtime's own counters.
    fn counters(&mut self, moment: Moment) -> Result<()> {
        // Goroutines are no business of ours.
        let sample = self.sampler.sample(&self.runtime, &now_ns, 0);
        (self.sink)(Record::Runtime(Box::new(RuntimeSample { target: 0, moment, ..sample })))
    }

    /// Takes what the ring holds.
    fn drain(&mut self) -> Result<()> {
        loop {
            let Self {
                session,
                naming,
                decoder,
                procfs,
                attached,
                summed,
                pending,
                rows,
                received,
                naming_ns,
                lost,
                sink,
                observer,
                ..
            } = self;
            let look = attached.looks.saturating_sub(1);
            let (bytes, more) = session.drain(4 << 20, |item| {
                *received += 1;
                let Some((decoded, stack)) = decoder.take(item, look) else { return };
                if let Some(stack) = stack {
                    let began = thread_cpu_ns();
                    for &address in &stack.addresses {
                        if let Some(symbol) = naming.name(procfs, address)
                            && let Err(e) = sink(Record::Symbol(Box::new(symbol)))
                        {
                            *lost = Some(e.to_string());
                        }
                    }
                    if let Err(e) = sink(Record::AllocStack(Box::new(stack))) {
                        *lost = Some(e.to_string());
                    }
                    *naming_ns += thread_cpu_ns().saturating_sub(began);
                }
                match decoded {
                    Decoded::Sample(sample) => {
                        observer.made(&sample);
                        pending.push(sample);
                    }
                    Decoded::Row(row) => {
                        observer.made(&row.sample);
                        rows.push(row);
                    }
                    Decoded::Summed { key, stack } => drop(summed.insert(key, stack)),
                }
            });
            self.ring_bytes += bytes;
            if let Some(why) = self.lost.take() {
                bail!("{why}");
            }
            self.hand_on()?;
            if !more {
                return Ok(());
            }
        }
    }

    /// Looks how far the spans have been used that Ps took; `last`: for the last time.
    fn settle(&mut self, last: bool) -> Result<()> {
        if self.rows.is_empty() {
            return Ok(());
        }
        let sweepgen = self.sweepgen();
        self.pending.extend(self.rows.settle(self.runtime.memory(), sweepgen, now_ns(), last));
        self.hand_on()
    }

    fn sweepgen(&self) -> Option<u32> {
        self.runtime.u64(Global::Mheap, "runtime.mheap", "sweepgen").ok().map(|g| g as u32)
    }

    /// Lets the observer look at the process.
    fn look(&mut self, last: bool) -> Result<()> {
        for record in self.observer.look(&self.runtime, now_ns(), last) {
            (self.sink)(record)?;
        }
        Ok(())
    }

    fn hand_on(&mut self) -> Result<()> {
        while !self.pending.is_empty() {
            let rest = self.pending.split_off(self.pending.len().min(BATCH));
            let samples = std::mem::replace(&mut self.pending, rest);
            (self.sink)(Record::AllocSamples(Box::new(AllocSamples { target: 0, samples })))?;
        }
        Ok(())
    }

    fn notice(&mut self, text: &str) -> Result<()> {
        self.say(text);
        let notice = Notice { ts_ns: now_ns(), target: Some(0), text: text.to_owned() };
        (self.sink)(Record::Notice(Box::new(notice)))
    }

    /// Progress, where somebody looks.
    fn status(&self) {
        if !self.tty {
            return;
        }
        let seconds = (now_ns() - self.started_ns) / 1_000_000_000;
        let plan = if self.exact { "exact" } else { self.budget.plan().name() };
        let more = self.observer.status().map_or_else(String::new, |more| format!("{more} | "));
        let _ = write!(
            io::stderr(),
            "\r{seconds:>4} s | {more}{plan} | {} samples | {} of the target's CPU time spent\x1b[K",
            self.decoder.counts.samples,
            duration(self.hits().saturating_mul(self.cost_ns))
        );
    }

    fn say(&self, text: &str) {
        let clear = if self.tty { "\r\x1b[K" } else { "" };
        let _ = writeln!(io::stderr(), "{clear}g211s: {text}");
    }

    /// Takes the rest, detaches, and says what it cost.
    fn end(mut self, reason: &str, attach_ns: u64) -> Result<()> {
        let plan = if self.exact { "exact" } else { self.budget.plan().name() };
        // The runtime's counts first, then the samples up to here.
        self.state(plan, "")?;
        self.counters(Moment::End)?;
        self.session.unwatch(self.target.tgid.unwrap_or_default());
        let end_ns = now_ns();
        std::thread::sleep(Duration::from_millis(2));
        self.drain()?;
        self.settle(true)?;
        self.look(true)?;
        if self.exact {
            self.sums()?;
        }
        let hits = self.session.counters(0, end_ns).map(|i| i.hits).unwrap_or_default();
        let sites = [Site::AllocRefill, Site::AllocLarge, Site::AllocNextFree, Site::AllocExact];
        let probe_hits = sites
            .into_iter()
            .map(|s| (s, hits.get(s as usize).copied().unwrap_or(0)))
            .filter(|(_, hits)| *hits > 0)
            .map(|(s, hits)| ProbeHits { target: 0, site: plan::site_name(s).into(), hits })
            .collect();
        let loss = self.session.loss().unwrap_or_else(|_| Loss::default());
        let counts = self.decoder.counts;
        let class = g211s_ebpf::event::EventKind::Alloc as usize;
        let one = |n: u64| [("alloc".to_owned(), n)].into();
        if self.tty {
            let _ = write!(io::stderr(), "\r\x1b[K");
        }
        if counts.unreadable > 0 {
            self.notice(&format!(
                "{} hits had no span that could be read, and are in no figure",
                counts.unreadable
            ))?;
        }
        let bpf_programs = self.session.program_costs();
        let Self { session, mut attached, sink, received, ring_bytes, .. } = self;
        let detach = Instant::now();
        attached.handles.append(&mut attached.large_handles);
        bpf::detach(attached.handles);
        drop(session);
        bpf::wait_detached();
        let usage = nix::sys::resource::getrusage(nix::sys::resource::UsageWho::RUSAGE_SELF).ok();
        let cpu = usage.as_ref().map_or(0, |u| {
            (u.user_time().num_microseconds() + u.system_time().num_microseconds()) as u64 * 1000
        });
        sink(Record::End(Box::new(RunEnd {
            end_ns,
            reason: reason.into(),
            produced: one(loss.produced[class]),
            lost: one(loss.lost[class]),
            received: one(received),
            undecodable: counts.undecodable,
            threads_full: 0,
            host_switches: 0,
            cost: Cost {
                agent_cpu_ns: cpu,
                agent_max_rss_bytes: usage.as_ref().map_or(0, |u| u.max_rss() as u64 * 1024),
                bpf_programs,
                probe_hits,
                hot_probes: Vec::new(),
                sampler_ticks: 0,
                ring_bytes,
                attach_ns: attach_ns + detach.elapsed().as_nanos() as u64,
            },
        })))
    }

    /// What every stack allocated, where every allocation was counted.
    fn sums(&mut self) -> Result<()> {
        let (all, overflow) = self.session.alloc_sums()?;
        let (mut stacks, mut unknown) = (Vec::new(), (overflow.objects, overflow.bytes));
        let addresses: HashMap<u32, Vec<u64>> = self.decoder.stacks();
        for (key, sum) in all {
            match self.summed.get(&key) {
                Some(stack) if self.is_second_hit(addresses.get(stack)) => {}
                Some(&stack) if stack != super::decode::NO_STACK => {
                    stacks.push((stack, sum.objects, sum.bytes));
                }
                _ => unknown = (unknown.0 + sum.objects, unknown.1 + sum.bytes),
            }
        }
        stacks.sort_unstable();
        (self.sink)(Record::AllocSums(Box::new(AllocSums { target: 0, stacks, unknown })))
    }

    /// Whether a stack is that of a variant that `mallocgc` itself has called (since Go 1.26): the same allocation was
    /// counted at `mallocgc`.
    fn is_second_hit(&self, stack: Option<&Vec<u64>>) -> bool {
        let Some([at, caller, ..]) = stack.map(Vec::as_slice) else { return false };
        self.mallocgc.contains(caller) && !self.mallocgc.contains(at)
    }
}
