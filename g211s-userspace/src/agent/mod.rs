//! The one event loop of a live run: attach, drain, count, notice ends, detach, and hand every
//! [`Record`] to the sinks. Must not know how a record is rendered or what it proves.

mod console;
mod governed;
mod hot;
pub(crate) mod naming;
mod places;
pub(crate) mod run;
mod waits;
mod watched;

use std::{
    collections::HashSet,
    io::{self, IsTerminal as _},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};
use g211s_ebpf::config::MAX_TARGETS;
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
    bpf,
    cli::WatchArgs,
    governor::LOOK,
    record::{Host, Record},
    report::format::{clean, duration},
    target::{self, procfs::Procfs},
};

pub use console::Sinks;
use console::{Console, Told};
pub(crate) use places::RunOptions;
use run::{Run, Sink as _};

/// Time between two looks at the ring and at the kernel's counters, which is the step of the
/// correlation's time series. Each look takes a CPU from somebody for some 20 µs at least; a ring that
/// fills sooner says so itself.
pub(crate) const INTERVAL: Duration = Duration::from_millis(100);

/// The same of the counters in a run without an end.
pub(crate) const UNENDING_INTERVAL: Duration = Duration::from_secs(1);

/// What a hit of a probe is taken to cost where that could not be measured, ns.
const ASSUMED_HIT_NS: u64 = 2_000;

/// Monotonic time, ns: the clock of every event.
pub fn now_ns() -> u64 {
    clock_gettime(ClockId::CLOCK_MONOTONIC).map_or(0, |t| t.num_nanoseconds() as u64)
}

/// Watches until the duration is over, a signal comes, or the last target is gone; returns the
/// sinks, which have seen everything up to `End`.
///
/// # Errors
/// A target that cannot be watched, or a kernel side that cannot be set up. Once the run has begun
/// there are none: what fails then is said in a notice.
pub async fn run(args: &WatchArgs, sinks: Sinks) -> Result<Sinks> {
    let began = Instant::now();
    let procfs = Procfs::default();
    let console =
        Console::new(sinks.live && io::stderr().is_terminal(), args.threshold.as_nanos() as u64);
    let mut resolved = Vec::new();
    let mut seen = HashSet::new();
    for &pid in &args.pids {
        if seen.insert(pid) {
            let target = target::resolve(&procfs, pid)?;
            if target.tgid.is_none() {
                bail!("{}", nested(pid));
            }
            resolved.push(target);
        }
    }
    if resolved.len() > MAX_TARGETS as usize {
        bail!("at most {MAX_TARGETS} processes can be watched in one run");
    }
    let options = RunOptions {
        threshold_ns: args.threshold.as_nanos() as u64,
        full: args.full,
        ring_bytes: args.ring,
        budget: args.budget,
        probes: args.probes.clone(),
        kernel_log: args.kernel_log,
        places: resolved.len() as u32,
        tgids: resolved.iter().filter_map(|t| t.tgid).collect(),
        // Twice what there is and room for what comes: 10,000 is where the Go runtime gives up.
        threads: resolved.iter().map(|t| 2 * t.threads.len() as u32).sum::<u32>() + 20_480,
        unending: false,
    };
    let _stats = if args.bpf_stats { Some(bpf::enable_stats()?) } else { None };
    let mut run = Run::open(&options, Told { sinks, console })?;
    let places = 0..resolved.len() as u8;
    let mut watched: Vec<_> =
        places.zip(resolved).map(|(index, target)| run.prepare(index, target)).collect();
    run.find_stacks(&mut watched);

    stand_back();
    // Everything is attached; every program lets nothing pass until the next lines.
    let usage_before = getrusage(UsageWho::RUSAGE_SELF).context("getrusage")?;
    let attach_ns = began.elapsed().as_nanos() as u64;
    let mut signals = (
        signal(SignalKind::interrupt())?,
        signal(SignalKind::terminate())?,
        signal(SignalKind::hangup())?,
    );
    run.begin();
    let samples = run.admit(watched)?;
    let start = run.head();
    for t in &start.targets {
        run.sink.console.say(&format!(
            "g211s: attached to {} ({}, {}) with {} probes; {} to go, Ctrl-C for the report now",
            t.pid,
            clean(&t.comm),
            clean(&t.go_version),
            t.probes.len(),
            duration(args.duration.as_nanos() as u64),
        ));
        for u in &t.unavailable {
            let (feature, why, costs) = (&u.feature, clean(&u.why), &u.costs);
            run.sink.console.say(&format!("g211s: without {feature}: {why}; {costs}"));
        }
    }
    run.sink.push(Record::Start(Box::new(start)));
    for index in 0..run.watched.len() as u8 {
        run.introduce(index);
    }
    for sample in samples {
        run.sink.push(sample);
    }

    let deadline = Instant::now()
        + args.duration.saturating_sub(Duration::from_nanos(now_ns() - run.start_ns));
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
                if !run.targets_alive(true) { break "target_exited" }
                if run.is_pointless() { break "error" }
            }
            _ = look.tick(), if run.is_looking() => run.govern(false),
            () = run.session.pressed(), if !paused() => more = run.drain(),
            () = std::future::ready(()), if more && !paused() => more = run.drain(),
        }
    };
    Ok(run.end(reason, attach_ns, &usage_before).finish())
}

/// Why a process cannot be watched from here.
pub(crate) fn nested(pid: u32) -> String {
    format!(
        "g211s runs in a nested PID namespace, from which the kernel's number of process {pid} cannot be told: run \
         it in the host's (docker: --pid=host, Kubernetes: hostPID: true)"
    )
}

/// From here on a wakeup of this thread preempts nobody (`SCHED_BATCH`, kernel/sched/fair.c
/// `check_preempt_wakeup_fair`): what is to be read can wait for the end of somebody's slice, and
/// the target's threads are on those CPUs. Its share of CPU time stays the same, so that a busy host
/// does not keep it from emptying the ring.
pub(crate) fn stand_back() {
    let param = nix::libc::sched_param { sched_priority: 0 };
    // SAFETY: a system call that reads `param` and changes this thread's scheduling class alone.
    // Refused (a sandbox), the run goes on as an ordinary thread.
    let _ = unsafe { nix::libc::sched_setscheduler(0, nix::libc::SCHED_BATCH, &raw const param) };
}

pub(crate) fn host() -> Host {
    let text = |r: io::Result<String>| r.map_or_else(|_| "?".into(), |s| s.trim().to_owned());
    Host {
        kernel: text(std::fs::read_to_string("/proc/sys/kernel/osrelease")),
        arch: std::env::consts::ARCH.into(),
        hostname: text(std::fs::read_to_string("/proc/sys/kernel/hostname")),
        cpus: std::thread::available_parallelism().map_or(0, |n| n.get() as u32),
    }
}
