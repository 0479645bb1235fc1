//! The one event loop of a live run: attach, drain, count, notice ends, detach, and hand every
//! [`Record`] to the sinks. Must not know how a record is rendered or what it proves.

mod console;
mod governed;
mod hot;
pub(crate) mod naming;
mod run;
mod waits;
mod watched;

use std::{
    collections::{BTreeMap, HashSet},
    io::{self, IsTerminal as _},
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};
use g211s_ebpf::config::MAX_TARGETS;
use g211s_ebpf::event::EVENT_CLASSES;
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
    bpf::{self, LoadOptions, ProbeKind, Session},
    cli::{ExtraProbe, WatchArgs},
    go::plan,
    governor::{EXACT_SYSCALLS, Governor, LOOK},
    record::{Host, Moment, PollSource, Record, RunStart, Settings, Unavailable},
    report::format::{clean, duration},
    target::{self, procfs::Procfs},
};

use console::Console;
pub use console::Sinks;
use hot::HotBudget;
use naming::Naming;
use run::Run;
use waits::WaitsReader;
use watched::{attach_probes, find_stacks, seed_threads, thread_info};

/// Time between two looks at the ring and at the kernel's counters, which is the step of the
/// correlation's time series. Each look takes a CPU from somebody for some 20 µs at least; a ring that
/// fills sooner says so itself.
const INTERVAL: Duration = Duration::from_millis(100);

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
pub async fn run(args: &WatchArgs, mut sinks: Sinks) -> Result<Sinks> {
    let began = Instant::now();
    let procfs = Procfs::default();
    let threshold_ns = args.threshold.as_nanos() as u64;
    let mut console = Console::new(sinks.live && io::stderr().is_terminal(), threshold_ns);
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
    let binaries: Vec<_> = resolved.iter().map(|t| Arc::clone(&t.binary)).collect();
    let mut session = Session::load(&LoadOptions {
        threshold_ns,
        full: args.full,
        ring_bytes: args.ring,
        tgids: resolved.iter().filter_map(|t| t.tgid).collect(),
        // Twice what there is and room for what comes: 10,000 is where the Go runtime gives up.
        threads: resolved.iter().map(|t| 2 * t.threads.len() as u32).sum::<u32>() + 20_480,
        irqs: args.probes.contains(&ExtraProbe::Irq),
        kernel_log: args.kernel_log,
        allocs: false,
    })?;
    let _stats = if args.bpf_stats { Some(bpf::enable_stats()?) } else { None };
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
    common.extend(uncounted(&mut session, args.probes.contains(&ExtraProbe::Irq)));
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
    let budget = HotBudget { share: args.budget, hit_ns };
    let mut watched = Vec::new();
    for (index, resolved) in resolved.into_iter().enumerate() {
        watched.push(attach_probes(&mut session, index as u8, resolved, &options, budget, &common));
    }
    let sample = args.probes.contains(&ExtraProbe::Sample);
    let has_signals = !common.iter().any(|u| u.feature == "signal_deliver");
    find_stacks(&mut session, &procfs, &mut watched, has_signals, sample);
    let naming = watched
        .iter()
        .zip(&binaries)
        .map(|(w, binary)| Naming::new(&procfs, w.request.index, w.record.pid, binary));
    let naming = naming.collect();

    stand_back();
    // Everything is attached; every program lets nothing pass until the next lines.
    let usage_before = getrusage(UsageWho::RUSAGE_SELF).context("getrusage")?;
    let attach_ns = began.elapsed().as_nanos() as u64;
    let mut signals = (
        signal(SignalKind::interrupt())?,
        signal(SignalKind::terminate())?,
        signal(SignalKind::hangup())?,
    );
    let steal_at_start = procfs.steal();
    let start_ns = now_ns();
    for w in &watched {
        session.watch(w.request)?;
    }
    // At once: from here on whatever the runtime counts is in our events as well.
    let samples: Vec<Record> = watched.iter().filter_map(|w| w.sample(Moment::Start)).collect();
    let all = args.probes.contains(&ExtraProbe::Epoll);
    let exact = if all { u64::MAX as f64 } else { EXACT_SYSCALLS as f64 };
    let mut poll_governor = poll_source.map(|source| match source {
        // It costs those alone that poll.
        PollSource::Fentry => Governor::new(u64::MAX as f64),
        PollSource::Syscalls => Governor::new(exact),
    });
    if let Some(governor) = &mut poll_governor {
        governor.attached(start_ns, session.host_syscalls());
    }
    for w in &mut watched {
        w.allocs.governor.attached(start_ns, 0);
        w.assists.governor.attached(start_ns, 0);
        w.waits = WaitsReader::new(start_ns);
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
            poll_source,
            lateness_source: session.lateness_source().0,
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
        naming,
        poll_governor,
        received: [0; EVENT_CLASSES],
        undecodable: 0,
        ring_bytes: 0,
        processes: HashSet::new(),
        pending: Vec::new(),
        born: Vec::new(),
        samples: Vec::new(),
        exited: Vec::new(),
        windows: BTreeMap::new(),
        steal_at_start,
        stolen: BTreeMap::new(),
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
