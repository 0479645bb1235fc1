//! `g211s agent`: watches the Go services of a machine for good. This file is its loop; what there is to watch, to show
//! and to keep has files of its own. Must not know how a target is attached, nor formats.

pub mod caps;
pub mod capture;
pub mod config;
pub mod discovery;
pub mod http;
mod incidents;
pub mod metrics;
pub mod notify;
pub mod otlp;
pub mod own;
mod push;
pub mod select;
pub mod state;
pub mod tenants;

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use g211s_ebpf::config::MAX_TARGETS;
use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::time::TimeValLike as _;
use nix::time::{ClockId, clock_gettime};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;
use tokio::time::{Interval as Timer, MissedTickBehavior, interval};

use crate::agent::run::{Run, Sink as _};
use crate::agent::{RunOptions, UNENDING_INTERVAL, host, now_ns, stand_back};
use crate::cli::AgentArgs;
use crate::event::by_class;
use crate::governor::LOOK;
use crate::record::Record;
use crate::target::procfs::Procfs;

use capture::{Folder, Ring};
use config::Config;
use discovery::{Candidate, Discovery};
use http::{Answer, Asked, Request};
use incidents::{Pending, ring_for};
use metrics::expose::{Family, Format};
use metrics::{Store, families};
use notify::Notify;
use otlp::Speaker;
use own::Own;
use state::State;
use tenants::Tenants;

/// Places beyond those of targets: one that has just become empty is not used at once.
const SPARE_PLACES: u32 = 8;
/// Processes that come to be watched in a second at most: each takes some milliseconds of CPU.
const PER_SECOND: usize = 6;
/// Time between two looks at the ring; one that fills sooner says so itself.
const DRAIN: Duration = Duration::from_millis(250);
/// Share of each target's CPU time that the probes of mark assists may take, as in `attach`.
const HOT_SHARE: f64 = 0.005;
/// Foreign processes are described anew this often.
const FORGET: Duration = Duration::from_mins(10);

/// All of it.
struct Agent {
    config: Config,
    run: Run<State>,
    discovery: Discovery,
    tenants: Tenants,
    own: Own,
    waiting: VecDeque<Candidate>,
    pending: Option<Pending>,
    /// No recording before.
    next_capture: Instant,
    folder: Option<Folder>,
    /// What became of files that were being written.
    written: Channel<Result<String, String>>,
    /// What became of pushes.
    pushed: Channel<Result<(), String>>,
    speaker: Speaker,
}

type Channel<T> = (mpsc::UnboundedSender<T>, mpsc::UnboundedReceiver<T>);

/// Runs until a signal ends it.
///
/// # Errors
/// A configuration that makes no sense, a kernel side that cannot be set up, an address that cannot be listened at.
pub async fn run(args: &AgentArgs) -> Result<()> {
    own::share_one_arena();
    let config = Config::load(args)?;
    let procfs = Procfs::default();
    if !procfs.in_init_pid_ns() {
        bail!(
            "g211s agent runs in a nested PID namespace, from which the kernel's numbers of processes cannot be told: \
             run it in the host's (docker: --pid=host, Kubernetes: hostPID: true)"
        );
    }
    let notify = Notify::from_env();
    let mut signals = (
        signal(SignalKind::interrupt())?,
        signal(SignalKind::terminate())?,
        signal(SignalKind::hangup())?,
    );
    let mut asked = None;
    if let Some(address) = config.listen {
        let (local, requests) = http::serve(address).await.with_context(|| {
            format!("listening at {address} (another agent? --listen takes another)")
        })?;
        eprintln!("g211s: metrics at http://{local}/metrics");
        asked = Some(requests);
    }
    let usage_before = getrusage(UsageWho::RUSAGE_SELF).context("getrusage")?;
    let mut agent = Agent::new(config, procfs)?;
    let session = &mut agent.run.session;
    match caps::drop_all_but_needed(|| session.try_probe().is_ok()) {
        Ok(true) => agent
            .run
            .sink
            .say("this kernel asks for CAP_SYS_ADMIN to attach uprobes, so that is kept"),
        Ok(false) => {}
        Err(e) => agent.run.sink.say(&format!("capabilities that are not needed are kept: {e}")),
    }
    agent.open_folder()?;
    stand_back();
    // What loading took is not needed any more.
    own::give_memory_back();
    let mut timers = Timers::new(&agent.config);
    let mut watchdog = notify.watchdog.map(|w| timer(w / 2));
    notify.ready("watching");
    let mut more = false;
    let reason = loop {
        tokio::select! {
            // Ends first, then what has its time; a ring that fills as fast as it is emptied must keep neither
            // waiting.
            biased;
            _ = signals.0.recv() => break "interrupt",
            _ = signals.1.recv() => break "terminate",
            _ = signals.2.recv() => {
                notify.reloading();
                agent.reload(args);
                timers = Timers::new(&agent.config);
                notify.ready(&agent.status());
            }
            _ = timers.second.tick() => more = agent.second(),
            _ = timers.sample.tick() => agent.sample(),
            _ = timers.scan.tick() => agent.scan(),
            () = ticked(timers.push.as_mut()) => agent.push(),
            Some(result) = agent.pushed.1.recv() => agent.was_pushed(result),
            _ = timers.minute.tick() => agent.minute(),
            _ = timers.forget.tick() => agent.run.forget_processes(),
            () = ticked(watchdog.as_mut()) => notify.alive(&agent.status()),
            Some((request, to)) = next(asked.as_mut()) => {
                // One that has gone meanwhile needs no answer.
                let _ = to.send(agent.answer(&request));
            }
            Some(result) = agent.written.1.recv() => agent.captured(result),
            _ = timers.look.tick(), if agent.run.is_looking() => agent.run.govern(false),
            _ = timers.drain.tick() => more = agent.drain(),
            () = agent.run.session.pressed() => more = agent.drain(),
            () = std::future::ready(()), if more => more = agent.drain(),
        }
    };
    notify.stopping();
    drop(agent.run.end(reason, 0, &usage_before));
    Ok(())
}

async fn ticked(timer: Option<&mut Timer>) {
    match timer {
        Some(timer) => drop(timer.tick().await),
        None => std::future::pending().await,
    }
}

async fn next(asked: Option<&mut mpsc::Receiver<Asked>>) -> Option<Asked> {
    match asked {
        Some(asked) => asked.recv().await,
        None => std::future::pending().await,
    }
}

fn timer(period: Duration) -> Timer {
    let mut timer = interval(period);
    timer.set_missed_tick_behavior(MissedTickBehavior::Delay);
    timer
}

struct Timers {
    drain: Timer,
    look: Timer,
    second: Timer,
    sample: Timer,
    scan: Timer,
    push: Option<Timer>,
    minute: Timer,
    forget: Timer,
}

impl Timers {
    fn new(config: &Config) -> Self {
        Self {
            drain: timer(DRAIN),
            look: timer(LOOK),
            second: timer(UNENDING_INTERVAL),
            sample: timer(config.sample),
            scan: timer(config.scan),
            push: config.otlp.as_ref().map(|o| timer(o.interval)),
            minute: timer(Duration::from_mins(1)),
            forget: timer(FORGET),
        }
    }
}

fn wall_ns() -> u64 {
    clock_gettime(ClockId::CLOCK_REALTIME).map_or(0, |t| t.num_nanoseconds() as u64)
}

impl Agent {
    fn new(config: Config, procfs: Procfs) -> Result<Self> {
        let places = (config.max_targets + SPARE_PLACES).min(MAX_TARGETS);
        let options = RunOptions {
            threshold_ns: config.threshold.as_nanos() as u64,
            full: false,
            ring_bytes: config.ring,
            budget: HOT_SHARE,
            probes: Vec::new(),
            kernel_log: false,
            places,
            tgids: Vec::new(),
            // 10,000 is where a Go runtime gives up; one at a time goes so far.
            threads: 10_000 + 1024 * config.max_targets,
            unending: true,
        };
        let state = State::new(
            Store::new(config.culprits),
            ring_for(config.capture.as_ref())?,
            config.otlp.is_some(),
        );
        let mut run = Run::open(&options, state)?;
        run.begin();
        let head = run.head();
        run.sink.push(Record::Start(Box::new(head)));
        let own = Own {
            budget: f64::from(config.budget_ppm) / 1e6,
            start_s: wall_ns() as f64 / 1e9,
            kernel: host().kernel,
            ..Own::default()
        };
        Ok(Self {
            discovery: Discovery::new(procfs, config.selection.clone()),
            tenants: Tenants::new(run.hit_ns()),
            own,
            waiting: VecDeque::new(),
            pending: None,
            next_capture: Instant::now(),
            folder: None,
            written: mpsc::unbounded_channel(),
            pushed: mpsc::unbounded_channel(),
            speaker: Speaker { host: host().hostname, start_ns: wall_ns() },
            config,
            run,
        })
    }

    /// Takes events; whether there are more.
    fn drain(&mut self) -> bool {
        let more = self.run.drain();
        self.look_for_incidents();
        more
    }

    fn second(&mut self) -> bool {
        let more = self.drain();
        self.run.intervals();
        self.run.govern(true);
        self.run.targets_alive(false);
        self.run.clear_places();
        self.run.every_second();
        let now = Instant::now();
        for pid in self.run.take_execs() {
            self.discovery.execed(pid, now);
        }
        self.waiting.extend(self.discovery.grown(now));
        self.forget_gone();
        for _ in 0..PER_SECOND {
            // The others wait until one of those that are watched goes.
            if self.tenants.len() >= self.config.max_targets as usize {
                break;
            }
            let Some(candidate) = self.waiting.pop_front() else { break };
            self.attach(&candidate);
        }
        self.write_pending(now);
        more
    }

    fn scan(&mut self) {
        match self.discovery.scan(Instant::now()) {
            // Those that still wait are found again.
            Ok(found) => self.waiting = found.into(),
            Err(e) => self.run.notice(None, &format!("processes cannot be looked for: {e}")),
        }
    }

    fn minute(&mut self) {
        self.run.sink.minute();
        self.run.sink.store.prune(now_ns());
    }

    /// Whoever is not watched any more.
    fn forget_gone(&mut self) {
        let alive: Vec<u8> = self.run.targets().map(|(index, _)| index).collect();
        self.own.detached += self.tenants.retain(&alive);
    }

    fn attach(&mut self, candidate: &Candidate) {
        // Found by a scan, and told of as well.
        if self.tenants.watches(candidate.pid) {
            return;
        }
        let now = Instant::now();
        let attached = match self.discovery.resolve(candidate) {
            Ok(target) => self.run.attach(target),
            Err(e) => Err(e.into()),
        };
        match attached {
            Ok(Some(index)) => {
                self.discovery.watched(candidate);
                let identity = tenants::identity(candidate, &self.config.labels);
                self.run.sink.store.attached(index, identity);
                self.tenants.insert(index, candidate.clone());
                self.own.attached += 1;
                let missing = self.run.missing(index);
                let without =
                    if missing.is_empty() { String::new() } else { format!(", without {missing}") };
                self.run.sink.say(&format!(
                    "attached to {} ({}, {}){without}",
                    candidate.pid, candidate.facts.comm, candidate.program.go_version
                ));
            }
            // All places are being emptied.
            Ok(None) => self.waiting.push_back(candidate.clone()),
            Err(_) if !Procfs::default().exists(candidate.pid) => {}
            Err(e) => {
                self.own.refused += 1;
                self.discovery.failed(candidate, now);
                self.run.sink.say(&format!("{} is not watched: {e:#}", candidate.pid));
            }
        }
    }

    /// Lets a process go that is to be watched again later, if rules still take it.
    fn let_go(&mut self, index: u8, why: &str) {
        if let Some(candidate) = self.tenants.remove(index) {
            self.discovery.failed(&candidate, Instant::now());
        }
        self.own.detached += 1;
        self.run.detach(index, why);
    }

    /// Reads what is read now and then.
    fn sample(&mut self) {
        self.drain();
        self.run.targets_alive(true);
        self.read_all();
        self.run.sample();
        for (index, _) in self.tenants.iter() {
            let stalls = self.run.sink.pipeline.take_stalls(index);
            self.run.sink.store.stalls(index, &stalls);
        }
        self.keep_budget();
    }

    /// Reads all counters, with which a stretch of the ring begins.
    fn read_all(&mut self) {
        if let Some(ring) = &mut self.run.sink.ring {
            ring.begin(now_ns());
        }
        let indexes: Vec<u8> = self.run.targets().map(|(index, _)| index).collect();
        for index in indexes {
            self.run.interval(index);
            self.run.hists(index);
        }
    }

    fn keep_budget(&mut self) {
        let hits = self.run.sink.store.hits();
        self.own.hits =
            hits.values().map(|(all, _)| all).sum::<u64>() + self.tenants.hits_gone(&hits);
        let shed = self.tenants.judge_cost(own::cpu_ns(), &hits, self.config.budget_ppm);
        self.own.cost = self.tenants.cost();
        if let Some(index) = shed {
            self.own.shed += 1;
            let percent = self.own.cost * 100.0;
            self.let_go(index, &format!("observing costs {percent:.1} % of a CPU, more than the budget: it is let go for a while"));
        }
    }

    fn status(&self) -> String {
        let lost: u64 = self.run.session.loss().map_or(0, |l| l.lost.iter().sum());
        format!(
            "{} processes watched, {} events lost, {:.2} % of a CPU",
            self.tenants.len(),
            lost,
            self.own.cost * 100.0
        )
    }

    fn families(&mut self) -> Vec<Family> {
        let counts = self.discovery.counts();
        let waiting = self.waiting.len() as u64;
        self.own.targets = [
            ("watched", self.tenants.len() as u64),
            ("excluded", counts.excluded),
            ("failed", counts.failed),
            ("waiting", waiting),
        ]
        .into();
        let loss = self.run.session.loss().unwrap_or_default();
        let (received, lost) = (by_class(&self.run.received), by_class(&loss.lost));
        self.own.events = received
            .into_iter()
            .map(|(class, n)| {
                let lost = lost.get(&class).copied().unwrap_or(0);
                (class, (n, lost))
            })
            .collect();
        self.own.stale = self.run.stale();
        self.own.threads_full = loss.threads_full;
        self.own.ring_bytes = self.run.sink.ring.as_ref().map_or(0, Ring::bytes);
        let mut all = families::families(&self.run.sink.store);
        all.extend(self.own.families());
        all
    }

    fn answer(&mut self, request: &Request) -> Answer {
        match request.path.as_str() {
            "/metrics" => {
                let format = Format::of_accept(&request.accept);
                let body = format.encode(&self.families());
                Answer { status: "200 OK", content_type: format.content_type(), body }
            }
            "/healthz" => http::plain("200 OK"),
            "/" => Answer {
                status: "200 OK",
                content_type: "text/plain; charset=utf-8",
                body: format!("g211s agent: {}\n/metrics\n/healthz\n", self.status()).into_bytes(),
            },
            _ => http::plain("404 Not Found"),
        }
    }

    /// Takes a new configuration, as far as a running agent can.
    fn reload(&mut self, args: &AgentArgs) {
        let new = match Config::load(args) {
            Ok(new) => new,
            Err(e) => {
                self.run.sink.say(&format!("the configuration stays as it is: {e:#}"));
                return;
            }
        };
        for name in self.config.fixed_differences(&new) {
            self.run.sink.say(&format!("`{name}` stays as it is until the agent is started anew"));
        }
        let old = std::mem::replace(&mut self.config, new);
        let config = &mut self.config;
        (config.listen, config.threshold, config.ring) = (old.listen, old.threshold, old.ring);
        config.labels = old.labels;
        config.max_targets = config.max_targets.min(old.max_targets);
        self.own.budget = f64::from(config.budget_ppm) / 1e6;
        let sink = &mut self.run.sink;
        sink.store.name_culprits(config.culprits);
        if config.otlp.is_some() {
            sink.events.get_or_insert_default();
        } else {
            sink.events = None;
        }
        match (&mut sink.ring, &config.capture) {
            (Some(ring), Some(c)) => ring.resize(c.seconds.as_nanos() as u64, c.memory),
            (ring, capture) => match ring_for(capture.as_ref()) {
                Ok(new) => *ring = new,
                Err(e) => sink.say(&format!("incidents are not recorded: {e:#}")),
            },
        }
        if let Err(e) = self.open_folder() {
            self.run.sink.say(&format!("incidents are not recorded: {e:#}"));
        }
        let selection = self.config.selection.clone();
        let gone: Vec<u8> = self
            .tenants
            .iter()
            .filter(|(_, c)| !selection.takes(&c.facts))
            .map(|(index, _)| index)
            .collect();
        for index in gone {
            self.let_go(index, "the new configuration leaves it out");
        }
        self.discovery.select(selection);
        self.scan();
        self.run.sink.say("the configuration was read again");
    }
}
