//! `g211s leaks`: from arguments to all that was seen. Follows objects where probes can be attached, and reads the
//! process beside that; where they cannot, it only reads. With `watcher`, the only place in this room that knows processes.

use std::io::{self, IsTerminal as _, Write as _};
use std::time::Duration;

use anyhow::{Result, anyhow};
use nix::sys::time::TimeValLike as _;
use nix::time::{ClockId, clock_gettime};
use tokio::signal::unix::{SignalKind, signal};

use super::hint::hint;
use super::judge::{Judgement, judge};
use super::limits::Limits;
use super::observer::{Watching, status};
use super::seen::Seen;
use super::watcher::Watcher;
use crate::agent::{host, now_ns, stand_back};
use crate::allocs;
use crate::cli::{AllocPlanArg, AllocsArgs, LeaksArgs};
use crate::go::offsets::Offsets;
use crate::record::{Cost, LatenessSource, LeakRecord, Record, RunEnd, RunStart, Settings};
use crate::recording::Writer;
use crate::report::format::clean;
use crate::runtime::bias::load_bias;
use crate::target::{ResolvedTarget, TargetError, procfs::Procfs, resolve};

/// Without probes, between two looks at what the watcher read.
const STEP: Duration = Duration::from_millis(200);
/// Sites of which it is looked up what they allocate.
const HINTS: usize = 200;

/// What counts for the exit code.
pub fn limits(args: &LeaksArgs) -> Limits {
    Limits {
        fail_on: args.fail_on,
        min_growth: args.min_growth,
        min_goroutines: args.min_goroutines,
    }
}

/// Where records go: to what is known, and to a file.
struct Sink {
    seen: Seen,
    writer: Option<Writer>,
    /// How the run ended, held back: it is the last.
    end: Option<Record>,
    started: bool,
}

impl Sink {
    fn take(&mut self, record: Record) {
        match record {
            Record::End(_) => self.end = Some(record),
            record => {
                self.started |= matches!(record, Record::Start(_));
                self.hand_on(record);
            }
        }
    }

    fn hand_on(&mut self, record: Record) {
        if let Some(w) = &mut self.writer
            && let Err(e) = w.write(&record)
        {
            let _ = writeln!(io::stderr(), "g211s: {e}; the run goes on without the recording");
            self.writer = None;
        }
        self.seen.push(record);
    }
}

/// Watches a process until the time is up, a signal comes, or it ends.
///
/// # Errors
/// A process of which nothing can be read.
pub async fn watch(
    args: &LeaksArgs,
    pid: u32,
    writer: Option<Writer>,
) -> Result<(Seen, Option<Writer>)> {
    stand_back();
    let procfs = Procfs::default();
    let target = resolve(&procfs, pid)?;
    let unreadable = |why: &str| anyhow!("process {pid} cannot be searched for leaks: {why}");
    let bias = load_bias(&procfs, pid, &target.binary).map_err(|why| unreadable(&why))?;
    let mut watcher =
        Watcher::start(&procfs, &target, args.duration).map_err(|why| unreadable(&why))?;
    let mut sink = Sink { seen: Seen::default(), writer, end: None, started: false };
    let why_not = if args.no_probes {
        Some("not asked for (--no-probes)".to_owned())
    } else {
        follow(args, pid, &mut watcher, &mut sink).await?
    };
    if let Some(why) = why_not {
        if !args.no_probes {
            let _ = writeln!(io::stderr(), "g211s: without following objects: {}", clean(&why));
        }
        only_read(args.duration, &procfs, &target, &mut watcher, &mut sink, why).await?;
    }
    hints(&target, bias, &mut sink);
    if let Some(end) = sink.end.take() {
        sink.hand_on(end);
    }
    Ok((sink.seen, sink.writer))
}

/// Follows objects until the run ends; why that does not work, where it does not.
async fn follow(
    args: &LeaksArgs,
    pid: u32,
    watcher: &mut Watcher,
    sink: &mut Sink,
) -> Result<Option<String>> {
    let allocs = AllocsArgs {
        pid: Some(pid),
        from: None,
        duration: Some(args.duration),
        budget: args.budget,
        // Searches for free slots do not say which object was made.
        plan: AllocPlanArg::Refill,
        exact: false,
        top: 0,
        json: false,
        output: None,
        svg: None,
        folded: None,
        record: None,
    };
    let mut watching = Watching::new(watcher);
    let mut take = |record| {
        sink.take(record);
        Ok(())
    };
    match allocs::command::run(&allocs, pid, &mut watching, &mut take).await {
        Ok(()) => Ok(None),
        // It is gone, or no process to be watched at all.
        Err(e) if e.is::<TargetError>() => Err(e),
        Err(e) => Ok(Some(format!("{e:#}"))),
    }
}

/// Reads until the run ends.
async fn only_read(
    span: Duration,
    procfs: &Procfs,
    target: &ResolvedTarget,
    watcher: &mut Watcher,
    sink: &mut Sink,
    why: String,
) -> Result<()> {
    if !sink.started {
        sink.take(Record::Start(Box::new(start(target))));
    }
    sink.take(Record::Leaks(Box::new(LeakRecord::NotFollowed(why))));
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let tty = io::stderr().is_terminal();
    let began = tokio::time::Instant::now();
    let deadline = began + span;
    let reason = loop {
        let step = tokio::time::Instant::now() + STEP;
        tokio::select! {
            biased;
            _ = interrupt.recv() => break "interrupt",
            _ = terminate.recv() => break "terminate",
            () = tokio::time::sleep_until(step.min(deadline)) => {}
        }
        for record in watcher.take() {
            sink.take(record);
        }
        if tty {
            let seconds = began.elapsed().as_secs();
            let _ = write!(io::stderr(), "\r{seconds:>4} s | {}\x1b[K", status(watcher));
        }
        if !target.is_alive(procfs) {
            break "target_exited";
        }
        if tokio::time::Instant::now() >= deadline {
            break "duration";
        }
    };
    for record in watcher.finish() {
        sink.take(record);
    }
    if tty {
        let _ = write!(io::stderr(), "\r\x1b[K");
    }
    sink.take(Record::End(Box::new(end(reason))));
    Ok(())
}

fn start(target: &ResolvedTarget) -> RunStart {
    RunStart {
        g211s_version: env!("CARGO_PKG_VERSION").into(),
        start_ns: now_ns(),
        wall_ns: clock_gettime(ClockId::CLOCK_REALTIME).map_or(0, |t| t.num_nanoseconds() as u64),
        host: host(),
        settings: Settings {
            threshold_ns: 0,
            full: false,
            interval_ns: STEP.as_nanos() as u64,
            ring_bytes: 0,
            observer_pid: std::process::id(),
            poll_source: None,
            lateness_source: LatenessSource::default(),
        },
        targets: vec![target.record(Vec::new(), Vec::new())],
    }
}

fn end(reason: &str) -> RunEnd {
    let usage = nix::sys::resource::getrusage(nix::sys::resource::UsageWho::RUSAGE_SELF).ok();
    let cpu = usage.as_ref().map_or(0, |u| {
        (u.user_time().num_microseconds() + u.system_time().num_microseconds()) as u64 * 1000
    });
    RunEnd {
        end_ns: now_ns(),
        reason: reason.into(),
        produced: [].into(),
        lost: [].into(),
        received: [].into(),
        undecodable: 0,
        threads_full: 0,
        host_switches: 0,
        cost: Cost {
            agent_cpu_ns: cpu,
            agent_max_rss_bytes: usage.as_ref().map_or(0, |u| u.max_rss() as u64 * 1024),
            ..Cost::default()
        },
    }
}

/// Looks up what the sites allocate that will be told.
fn hints(target: &ResolvedTarget, bias: u64, sink: &mut Sink) {
    let findings = judge(&sink.seen);
    let told = |judgement| matches!(judgement, Judgement::Leak | Judgement::Suspect);
    let sites = findings.sites.iter().filter(|s| told(s.judgement) && !s.stack.is_empty());
    let offsets = Offsets::for_binary(&target.binary);
    for site in sites.take(HINTS) {
        let hint = hint(&target.binary, &offsets, bias, &site.stack);
        sink.take(Record::Leaks(Box::new(LeakRecord::Hint(hint))));
    }
}
