//! The run under the view, on a thread of its own: attaches, feeds the model, and takes restarted processes in again.
//! Must not know the terminal.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use g211s_ebpf::config::MAX_TARGETS;
use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::time::TimeValLike as _;
use tokio::sync::Notify;
use tokio::time::{Interval, MissedTickBehavior, interval};

use super::follow::{Follow, Lost};
use super::model::identity::Identity;
use super::model::{Cost, Model};
use crate::agent::run::{Run, Sink};
use crate::agent::{INTERVAL, RunOptions, nested, now_ns, stand_back};
use crate::governor::LOOK;
use crate::record::Record;
use crate::target::procfs::Procfs;
use crate::target::{self, ResolvedTarget, TargetError};

/// Time between two looks at the counters, and so how soon a stop is told that no later event settles.
const COUNTERS: Duration = Duration::from_millis(250);
/// Places beyond those of the processes: one that has just become empty is not used at once.
const SPARE_PLACES: u32 = 8;
/// Threads whose sums are read each second, of one process.
const MAX_READ: usize = 1024;
/// Foreign processes are described anew this often.
const FORGET: Duration = Duration::from_mins(10);

/// How to watch.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Options {
    /// What counts as a long delay, ns.
    pub(crate) threshold_ns: u64,
    /// Size of the event ring buffer, bytes.
    pub(crate) ring_bytes: u32,
    /// What the probes in hot code may take of a process's CPU time.
    pub(crate) budget: f64,
}

/// What the run and the view have in common.
#[derive(Debug)]
pub(crate) struct Shared {
    model: Mutex<Model>,
    stop: Notify,
}

impl Shared {
    /// Around a model.
    pub(crate) fn new(model: Model) -> Arc<Self> {
        Arc::new(Self { model: Mutex::new(model), stop: Notify::new() })
    }

    /// The model; the run stands still while it is held.
    pub(crate) fn model(&self) -> MutexGuard<'_, Model> {
        self.model.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Asks the run to end.
    pub(crate) fn stop(&self) {
        self.stop.notify_one();
    }
}

/// Starts a run on a thread of its own.
///
/// # Errors
/// No thread can be had.
pub(crate) fn start(
    options: Options,
    targets: Vec<ResolvedTarget>,
    shared: &Arc<Shared>,
) -> Result<JoinHandle<Result<()>>> {
    let shared = Arc::clone(shared);
    let run = move || {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .context("starting the event loop")?;
        runtime.block_on(watch(options, targets, &shared))
    };
    std::thread::Builder::new().name("run".into()).spawn(run).context("starting a thread")
}

/// Feeds the model.
struct Feed<'a> {
    shared: &'a Shared,
    /// Probe hits so far, by place.
    hits: BTreeMap<u8, u64>,
}

impl Sink for Feed<'_> {
    fn push(&mut self, record: Record) {
        if let Record::Interval(i) = &record {
            self.hits.insert(i.target, i.hits.iter().sum());
        }
        self.shared.model().push(record);
    }

    fn say(&mut self, _text: &str) {
        // Notices are records as well, and the screen is not ours to write on.
    }

    fn second(&mut self, _status: &dyn Fn() -> String) -> Option<String> {
        None
    }

    fn is_pointless(&self) -> bool {
        false
    }
}

/// A process that is watched.
struct Here {
    pid: u32,
    start_ticks: u64,
    identity: Identity,
}

struct Live<'a> {
    run: Run<Feed<'a>>,
    shared: &'a Shared,
    here: BTreeMap<u8, Here>,
    follow: Follow,
    before: Before,
}

/// Cumulative figures as last read.
#[derive(Clone, Copy, Debug)]
struct Before {
    at: Instant,
    cpu_ns: u64,
    hits: u64,
    switches: u64,
}

fn timer(period: Duration) -> Interval {
    let mut timer = interval(period);
    timer.set_missed_tick_behavior(MissedTickBehavior::Delay);
    timer
}

/// Watches until it is asked to stop.
async fn watch(options: Options, targets: Vec<ResolvedTarget>, shared: &Shared) -> Result<()> {
    let began = Instant::now();
    for target in &targets {
        if target.tgid.is_none() {
            bail!("{}", nested(target.pid));
        }
    }
    let places = (targets.len() as u32 + SPARE_PLACES).min(MAX_TARGETS);
    let threads: u32 = targets.iter().map(|t| 2 * t.threads.len() as u32).sum();
    let run_options = RunOptions {
        threshold_ns: options.threshold_ns,
        full: false,
        ring_bytes: options.ring_bytes,
        budget: options.budget,
        probes: Vec::new(),
        kernel_log: false,
        places,
        tgids: Vec::new(),
        // Room for what comes: 10,000 is where the Go runtime gives up.
        threads: threads + 20_480,
        unending: true,
    };
    let run = Run::open(&run_options, Feed { shared, hits: BTreeMap::new() })?;
    let before = Before { at: began, cpu_ns: cpu_ns(), hits: 0, switches: 0 };
    let follow = Follow::default();
    let mut live = Live { run, shared, here: BTreeMap::new(), follow, before };
    live.begin(targets)?;
    stand_back();
    let usage_before = getrusage(UsageWho::RUSAGE_SELF).context("getrusage")?;
    let attach_ns = began.elapsed().as_nanos() as u64;
    let (mut drain, mut look) = (timer(INTERVAL), timer(LOOK));
    let (mut counters, mut second) = (timer(COUNTERS), timer(Duration::from_secs(1)));
    let mut forget = timer(FORGET);
    let mut more = false;
    loop {
        tokio::select! {
            // Ends first, then what has its time.
            biased;
            () = shared.stop.notified() => break,
            _ = second.tick() => live.second(),
            _ = counters.tick() => more = live.counters(),
            _ = forget.tick() => live.run.forget_processes(),
            _ = look.tick(), if live.run.is_looking() => live.run.govern(false),
            _ = drain.tick() => more = live.run.drain(),
            () = live.run.session.pressed() => more = live.run.drain(),
            () = std::future::ready(()), if more => more = live.run.drain(),
        }
    }
    drop(live.run.end("interrupt", attach_ns, &usage_before));
    Ok(())
}

/// CPU time of this process so far, ns.
fn cpu_ns() -> u64 {
    getrusage(UsageWho::RUSAGE_SELF)
        .map_or(0, |u| (u.user_time().num_nanoseconds() + u.system_time().num_nanoseconds()) as u64)
}

/// Memory of this process in use, bytes.
fn rss_bytes() -> Option<u64> {
    let statm = std::fs::read_to_string("/proc/self/statm").ok()?;
    let pages: u64 = statm.split(' ').nth(1)?.parse().ok()?;
    let page = nix::unistd::sysconf(nix::unistd::SysconfVar::PAGE_SIZE).ok()??;
    Some(pages * page as u64)
}

impl Live<'_> {
    fn begin(&mut self, targets: Vec<ResolvedTarget>) -> Result<()> {
        self.run.begin();
        let head = self.run.head();
        self.run.sink.push(Record::Start(Box::new(head)));
        for target in targets {
            let (pid, comm) = (target.pid, target.comm.clone());
            // One that goes away just now may come again.
            match self.attach(target) {
                Ok(true) => {}
                Ok(false) => bail!("at most {MAX_TARGETS} processes can be watched in one run"),
                Err(e) if Procfs::default().exists(pid) => return Err(e),
                Err(e) => {
                    let text = format!("process {pid} ({comm}) is not watched: {e:#}");
                    self.run.notice(None, &text);
                }
            }
        }
        Ok(())
    }

    /// Takes a process in; false: there is no place for it now.
    fn attach(&mut self, target: ResolvedTarget) -> Result<bool> {
        let here = Here {
            pid: target.pid,
            start_ticks: target.start_ticks,
            identity: Identity {
                exe: target.exe.clone(),
                cgroup: target.cgroup.clone(),
                module: target.binary.build.module.clone(),
            },
        };
        let Some(index) = self.run.attach(target)? else { return Ok(false) };
        self.here.insert(index, here);
        Ok(true)
    }

    /// Reads counters, and sees who is gone.
    fn counters(&mut self) -> bool {
        let more = self.run.drain();
        self.run.intervals();
        self.run.govern(true);
        self.run.targets_alive(true);
        let alive: Vec<u8> = self.run.targets().map(|(index, _)| index).collect();
        let gone: Vec<u8> = self.here.keys().copied().filter(|i| !alive.contains(i)).collect();
        for index in gone {
            let Some(here) = self.here.remove(&index) else { continue };
            self.shared.model().gone(index, now_ns(), "it is gone");
            let Here { pid, start_ticks, identity } = here;
            self.follow.lost(Lost { identity, pid, start_ticks });
        }
        self.run.clear_places();
        more
    }

    fn second(&mut self) {
        self.run.every_second();
        self.run.sample();
        let places: Vec<u8> = self.here.keys().copied().collect();
        for place in places {
            self.run.hists(place);
            let mut tids = self.shared.model().tids(place);
            tids.truncate(MAX_READ);
            let now = now_ns();
            let sums = self.run.session.thread_sums(&tids, now);
            self.shared.model().thread_sums(place, now, &sums);
        }
        // What replaces its program is found by looking.
        drop(self.run.take_execs());
        self.take_in();
        self.cost();
    }

    /// Watches the successors of those that are gone.
    fn take_in(&mut self) {
        if !self.follow.is_looking() {
            return;
        }
        let (procfs, now) = (Procfs::default(), Instant::now());
        let watched: Vec<u32> = self.here.values().map(|h| h.pid).collect();
        let mut found = self.follow.look(&procfs, &watched, now);
        // From the back: their numbers are places in a list that gets shorter.
        found.sort_by_key(|(_, at)| std::cmp::Reverse(*at));
        for (pid, at) in found {
            let attached = match target::resolve(&procfs, pid) {
                Ok(target) => self.attach(target),
                // Gone already.
                Err(TargetError::NoSuchProcess(_) | TargetError::Zombie(..)) => continue,
                Err(e) => Err(e.into()),
            };
            match attached {
                Ok(true) => self.follow.found(at),
                // Its place is being cleared: next time.
                Ok(false) => {}
                Err(e) => {
                    if self.follow.failed(pid, now) {
                        let text = format!("process {pid} is not watched yet: {e:#}");
                        self.run.notice(None, &text);
                    }
                }
            }
        }
    }

    fn cost(&mut self) {
        let loss = self.run.session.loss().unwrap_or_default();
        let now = Before {
            at: Instant::now(),
            cpu_ns: cpu_ns(),
            hits: self.run.sink.hits.values().sum(),
            switches: self.run.session.switches(),
        };
        let before = std::mem::replace(&mut self.before, now);
        let seconds = (now.at - before.at).as_secs_f64();
        let rate = |now: u64, before: u64| {
            (seconds > 0.1).then(|| now.saturating_sub(before) as f64 / seconds)
        };
        let cost = Cost {
            cpu: rate(now.cpu_ns, before.cpu_ns).map(|ns| ns / 1e9),
            rss_bytes: rss_bytes(),
            hits_per_second: rate(now.hits, before.hits),
            switches_per_second: rate(now.switches, before.switches),
            produced: loss.produced.iter().sum(),
            lost: loss.lost.iter().sum(),
            threads_full: loss.threads_full,
            undecodable: self.run.undecodable(),
        };
        self.shared.model().cost = cost;
    }
}
