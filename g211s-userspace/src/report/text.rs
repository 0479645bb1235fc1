//! The report as text for a terminal, 100 columns wide. Must not know how it was made, and changes
//! nothing. Strings from outside were made harmless when the report was built.

use std::fmt::Write as _;

use super::{
    format::{count, duration, maybe, percent, plural, short, sum},
    schema::{
        BehindProcess, ByClass, DelayReport, Dist, Report, SleepReport, StwReport, TargetReport,
    },
    sentence::{delay_sentence, disagreement, sentence, sleep_sentence},
};
use crate::analysis::verdict::CauseKind;
use crate::record::HotProbes;

mod goroutine;
mod runtime;

/// How to set text off.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Style {
    /// Not at all.
    #[default]
    Plain,
    /// By ANSI escapes.
    Ansi,
}

impl Style {
    fn paint(self, code: &str, s: &str) -> String {
        match self {
            Self::Plain => s.to_owned(),
            Self::Ansi => format!("\x1b[{code}m{s}\x1b[0m"),
        }
    }

    fn bold(self, s: &str) -> String {
        self.paint("1", s)
    }

    fn alarm(self, s: &str) -> String {
        self.paint("1;31", s)
    }
}

/// Columns.
const WIDTH: usize = 100;
/// Pauses and delays shown one by one.
const SHOWN: usize = 10;
/// Threads shown.
const THREADS: usize = 12;

/// The report as text.
pub fn text(report: &Report, style: Style) -> String {
    let mut out = String::new();
    for line in alarms(report) {
        wrap(&mut out, "!! ", "   ", &line, |s| style.alarm(s));
    }
    for (i, target) in std::iter::once(&report.first).chain(&report.others).enumerate() {
        if i > 0 {
            out.push('\n');
        }
        target_text(&mut out, target, style);
    }
    run_text(&mut out, report, style);
    out
}

/// What casts doubt on the report as a whole.
pub(crate) fn alarms(report: &Report) -> Vec<String> {
    let mut alarms = Vec::new();
    for target in std::iter::once(&report.first).chain(&report.others) {
        let of = format!("process {}", target.target.pid);
        alarms.extend(disagreement(&target.accuracy).iter().map(|l| format!("{of}: {l}.")));
    }
    let e = &report.events;
    if let Some(lost) = e.lost.as_ref().filter(|l| l.total > 0) {
        let produced = e.produced.as_ref().map_or(0, |p| p.total);
        alarms.push(format!(
            "LOST {} of {} events ({}): {}. Verdicts below may be partial (\"unexplained\"); counts \
             and histograms are complete.",
            count(lost.total),
            count(produced),
            percent(lost.total, produced),
            classes(lost),
        ));
    }
    if e.threads_full > 0 {
        alarms.push(format!(
            "{} threads did not fit the kernel side's table: their states are unknown.",
            count(e.threads_full)
        ));
    }
    if e.undecodable > 0 || e.stray > 0 {
        alarms.push(format!(
            "{} events did not decode, {} were of no known target.",
            count(e.undecodable),
            count(e.stray)
        ));
    }
    if e.late > 0 {
        alarms.push(format!("{} events came too late for their place in time.", count(e.late)));
    }
    if !report.run.complete {
        alarms.push(
            "The recording was cut off: this is what it held, and losses are not known.".to_owned(),
        );
    }
    alarms
}

fn classes(c: &ByClass) -> String {
    let parts: Vec<String> = c
        .classes
        .iter()
        .filter(|(_, n)| **n > 0)
        .map(|(k, n)| format!("{} {k}", count(*n)))
        .collect();
    parts.join(", ")
}

fn target_text(out: &mut String, t: &TargetReport, style: Style) {
    let name = t.target.exe.rsplit('/').next().unwrap_or(&t.target.exe);
    let worst = t.stw_totals.all.max_ns;
    // Without the probe that ends a stop there is nothing to say of stops, least of all that none was.
    let seen = if t.target.probes.iter().any(|p| matches!(p.site.as_str(), "stw_start" | "stw_end"))
    {
        format!(
            "{}, {} of the world, {}",
            plural(t.gc.count as u64, "GC cycle", "GC cycles"),
            plural(t.stw.len() as u64, "stop", "stops"),
            worst.map_or_else(|| "no pause".to_owned(), |ns| format!("worst {}", duration(ns))),
        )
    } else {
        "GC cycles and pauses cannot be seen here".to_owned()
    };
    let headline = format!(
        "{} (pid {}, {}): {} observed, {seen}",
        short(name, 30),
        t.target.pid,
        short(&t.target.go_version, 30),
        duration(t.window.duration_ns),
    );
    wrap(out, "", "  ", &headline, |s| style.bold(s));
    if t.target.execed {
        out.push_str("The target replaced its program (execve) during the run.\n");
    }
    for u in &t.target.unavailable {
        wrap(
            out,
            "not here: ",
            "  ",
            &format!("{}: {}. {}", u.feature, u.why, u.costs),
            str::to_owned,
        );
    }
    verdicts(out, t, style);
    goroutine::goroutines(out, t, style);
    runqueue(out, t, style);
    gc(out, t, style);
    runtime::runtime(out, t, style);
    netpoll(out, t, style);
    let (lines, aligned) = (&t.correlation.summary, &t.aligned);
    // Without collections there is nothing to align with, and nothing to warn of.
    let warnings = aligned.warnings.iter().filter(|_| t.gc.count > 0);
    let lines: Vec<&String> = lines.iter().chain(&aligned.summary).chain(warnings).collect();
    if !lines.is_empty() {
        heading(out, "GC, scheduler and network together", style);
        for line in lines {
            wrap(out, "  ", "    ", line, str::to_owned);
        }
    }
    threads(out, t, style);
}

/// The worst first, whatever they are: stops of the world, and long waits for a CPU and sleeps outside them.
fn verdicts(out: &mut String, t: &TargetReport, style: Style) {
    let stops = t.stw.iter().map(|s| (s.total_ns, s.start_ns, Pause::Stop(s)));
    let waits = t.delays.worst.iter().map(|d| (d.wait_ns, d.start_ns, Pause::Wait(d)));
    let asleep = &t.delays.asleep;
    let sleeps = asleep.worst.iter().map(|s| (s.ns, s.start_ns, Pause::Sleep(s)));
    let mut worst: Vec<_> = stops.chain(waits).chain(sleeps).collect();
    worst.sort_by_key(|&(ns, start_ns, _)| (std::cmp::Reverse(ns), start_ns));
    if !worst.is_empty() {
        heading(out, "Worst pauses", style);
        for (_, start_ns, pause) in worst.iter().take(SHOWN) {
            let at = duration(start_ns.saturating_sub(t.window.start_ns));
            let words = match pause {
                Pause::Stop(stop) => sentence(stop),
                Pause::Wait(delay) => delay_sentence(delay),
                Pause::Sleep(sleep) => sleep_sentence(sleep),
            };
            wrap(out, &format!("  at {at:<7} "), "             ", &words, str::to_owned);
        }
    }
    let shown = &worst[..worst.len().min(SHOWN)];
    let left = |all: u64, is: fn(&Pause<'_>) -> bool| {
        all.saturating_sub(shown.iter().filter(|p| is(&p.2)).count() as u64)
    };
    let outside = |all: u64, in_stw: u64| all.saturating_sub(in_stw);
    let stops = left(t.stw.len() as u64, |p| matches!(p, Pause::Stop(_)));
    let waits = outside(t.delays.count, t.delays.in_stw);
    let waits = left(waits, |p| matches!(p, Pause::Wait(_)));
    let sleeps = left(outside(asleep.count, asleep.in_stw), |p| matches!(p, Pause::Sleep(_)));
    let more: Vec<String> = [
        (stops, plural(stops, "stop", "stops")),
        (waits, plural(waits, "long wait for a CPU", "long waits for a CPU")),
        (sleeps, plural(sleeps, "long uninterruptible sleep", "long uninterruptible sleeps")),
    ]
    .into_iter()
    .filter_map(|(n, words)| (n > 0).then_some(words))
    .collect();
    if !more.is_empty() {
        let longest = worst
            .get(SHOWN)
            .map_or_else(String::new, |p| format!(", the longest {}", duration(p.0)));
        wrap(out, "  ", "  ", &format!("… and {}{longest}.", more.join(", ")), str::to_owned);
    }
    if !t.stw_incomplete.is_empty() {
        let line = format!(
            "{} seen in part only (at the run's edges, or events lost): not counted.",
            plural(t.stw_incomplete.len() as u64, "stop was", "stops were")
        );
        wrap(out, "  ", "  ", &line, str::to_owned);
    }
    let totals = &t.stw_totals;
    let other: Vec<String> = totals
        .by_reason
        .iter()
        .filter(|(reason, _)| !reason.starts_with("GC "))
        .map(|(reason, d)| {
            format!(
                "{} {} ({}, worst {})",
                count(d.count),
                reason,
                duration(d.total_ns),
                maybe(d.max_ns)
            )
        })
        .collect();
    if !other.is_empty() {
        let line = format!("Stops that were not the collector's: {}.", other.join(", "));
        wrap(out, "  ", "    ", &line, str::to_owned);
    }
    stalls(out, t, style);
}

/// One of the worst.
enum Pause<'a> {
    Stop(&'a StwReport),
    Wait(&'a DelayReport),
    Sleep(&'a SleepReport),
}

fn stalls(out: &mut String, t: &TargetReport, style: Style) {
    let s = &t.stalls;
    if s.total_ns == 0 {
        return;
    }
    let stops = format!("{} in {}", duration(s.stw_ns), plural(s.stops, "stop", "stops"));
    let waits = format!(
        "{} in {}",
        duration(s.delays_ns),
        plural(s.delays, "long delay of a thread", "long delays of threads")
    );
    let title = match (s.stops, s.delays) {
        (_, 0) => stops,
        (0, _) => waits,
        _ => format!("{stops}, {waits} outside them"),
    };
    heading(out, &format!("Where stalled time went: {title}"), style);
    let _ = writeln!(out, "  {:>8} {:>8} {:>8} {:>8}", "all", "share", "times", "worst");
    for c in s.by_cause.iter().take(SHOWN) {
        let _ = writeln!(
            out,
            "  {:>8} {:>8} {:>8} {:>8}  {}",
            duration(c.ns),
            percent(c.ns, s.total_ns),
            count(c.count),
            duration(c.worst_ns),
            short(&cause(c.kind, c.behind.as_ref()), WIDTH - 39)
        );
    }
    let rest = sum(s.by_cause.iter().skip(SHOWN).map(|c| c.ns));
    if rest > 0 {
        let share = percent(rest, s.total_ns);
        let _ = writeln!(out, "  {:>8} {share:>8} {:>8} {:>8}  other", duration(rest), "", "");
    }
}

/// A cause of stalls in words.
pub(crate) fn cause(kind: CauseKind, behind: Option<&BehindProcess>) -> String {
    match (kind, behind) {
        (CauseKind::RunqueueWait, Some(b)) if b.own => {
            "runnable, waiting behind the target's own threads".to_owned()
        }
        (CauseKind::RunqueueWait, Some(b)) if b.observer => {
            format!("runnable, waiting behind g211s itself (pid {})", b.pid)
        }
        (CauseKind::RunqueueWait, Some(b)) => {
            format!("runnable, waiting behind `{}` (pid {})", b.comm, b.pid)
        }
        (CauseKind::RunqueueWait, None) => "runnable, waiting behind a task not seen".to_owned(),
        (CauseKind::RuntimeWork, _) => "the runtime's own work for the stop".to_owned(),
        (CauseKind::NonpreemptibleCode, _) => "a thread running on before it stopped".to_owned(),
        (CauseKind::SyscallReturn, _) => "in a system call with its P kept".to_owned(),
        (CauseKind::CfsThrottled, _) => "kept off the CPUs by the CPU quota".to_owned(),
        (CauseKind::PageFault, _) => "asleep in a page fault".to_owned(),
        (CauseKind::IrqSoftirq, _) => "interrupts and softirqs on the thread's CPU".to_owned(),
        (CauseKind::VmSteal, _) => "the hypervisor not running the CPU".to_owned(),
        (CauseKind::WakeupLatency, _) => "runnable while the CPU was idle (wakeup)".to_owned(),
        (CauseKind::Blocked, _) => "asleep in a system call".to_owned(),
        (CauseKind::Uninterruptible, _) => "uninterruptible sleep (disk)".to_owned(),
        (CauseKind::StoppedBySignal, _) => "stopped by a signal or a tracer".to_owned(),
        (CauseKind::Unexplained, _) => "unexplained".to_owned(),
    }
}

fn table_head(out: &mut String, first: &str) {
    let _ = writeln!(
        out,
        "  {first:<22} {:>11} {:>8} {:>8} {:>8} {:>8} {:>8} {:>8} {:>8}",
        "count", "mean", "p50", "p90", "p99", "p99.9", "max", "total"
    );
}

fn row(out: &mut String, name: &str, d: &Dist) {
    let mean = (d.count > 0).then_some(d.mean_ns.round() as u64);
    let _ = writeln!(
        out,
        "  {name:<22} {:>11} {:>8} {:>8} {:>8} {:>8} {:>8} {:>8} {:>8}",
        count(d.count),
        maybe(mean),
        maybe(d.p50_ns),
        maybe(d.p90_ns),
        maybe(d.p99_ns),
        maybe(d.p999_ns),
        maybe(d.max_ns),
        duration(d.total_ns)
    );
}

fn runqueue(out: &mut String, t: &TargetReport, style: Style) {
    let r = &t.runqueue;
    heading(out, "Run-queue delay (ready to run, waiting for a CPU)", style);
    table_head(out, "");
    row(out, "all", &r.all);
    row(out, "  after wakeup", &r.wakeup);
    row(out, "  after preemption", &r.preempted);
    row(out, "  outside GC", &r.outside_gc.all);
    row(out, "  in a GC cycle", &r.in_gc.all);
    row(out, "  in a stop", &r.in_stw.all);
    if r.yielded.count > 0 {
        row(out, "after sched_yield", &r.yielded);
    }
    row(out, "stays on a CPU", &r.on_cpu);
    let d = &t.delays;
    if d.count > 0 {
        let line = format!(
            "{} of {} and more, {} of them in pauses.",
            plural(d.count, "wait", "waits"),
            duration(d.threshold_ns),
            count(d.in_stw)
        );
        wrap(out, "  ", "  ", &line, str::to_owned);
    }
    let a = &d.asleep;
    if a.count > 0 {
        let line = format!(
            "{} of {} and more (page faults, disk), {} of them in pauses.",
            plural(a.count, "uninterruptible sleep", "uninterruptible sleeps"),
            duration(d.threshold_ns),
            count(a.in_stw)
        );
        wrap(out, "  ", "  ", &line, str::to_owned);
    }
    if r.throttled.count > 0 {
        let line = format!(
            "CPU quota: it ran out {} and kept the target's cgroup off CPUs for {}, added up over the CPUs. \
             The scheduler shows that as waiting, so part of the waits here is the quota's doing.",
            plural(r.throttled.count, "time", "times"),
            duration(r.throttled.ns)
        );
        wrap(out, "  ", "  ", &line, |s| style.alarm(s));
    }
}

fn gc(out: &mut String, t: &TargetReport, style: Style) {
    let g = &t.gc;
    if g.count == 0 && g.incomplete.is_empty() {
        return;
    }
    let title = format!(
        "GC: {}, {:.1} % of the time{}",
        plural(g.count as u64, "whole cycle", "whole cycles"),
        g.share * 100.0,
        match g.incomplete.len() {
            0 => String::new(),
            n => format!("; {n} seen in part"),
        }
    );
    heading(out, &title, style);
    if g.count > 0 {
        table_head(out, "");
        row(out, "cycle", &g.duration);
        row(out, "  sweep termination", &g.sweep_term);
        row(out, "  concurrent mark", &g.mark);
        row(out, "  mark termination", &g.mark_term);
        row(out, "from start to start", &g.interval);
    }
    let a = &t.alloc;
    if let Some(rate) = a.spans_per_s {
        let how = if a.sampled {
            format!("estimated from looks of {} in all", duration(a.observed_ns))
        } else {
            "counted".to_owned()
        };
        let line = format!(
            "Allocation: {} spans taken a second, one for about every 8 KB of small objects ({how}).",
            count(rate.round() as u64)
        );
        wrap(out, "  ", "  ", &line, str::to_owned);
    }
}

fn netpoll(out: &mut String, t: &TargetReport, style: Style) {
    let n = &t.netpoll;
    heading(out, "Network polls", style);
    let slept = format!(
        "{} in polls, {} in all: idle time, not a problem",
        plural(n.blocking.slept, "sleep", "sleeps"),
        duration(n.blocking.slept_ns)
    );
    let line = match (n.blocking.per_s, n.nonblocking.per_s) {
        (Some(waiting), Some(not)) if n.sampled => format!(
            "{slept}. About {} polls a second that may wait and {} that may not (from looks of {} in all: \
             counting each would cost every system call of this host; --probe epoll does).",
            count(waiting.round() as u64),
            count(not.round() as u64),
            duration(n.observed_ns)
        ),
        (Some(_), Some(_)) => format!(
            "{} that may wait, {} that may not; {} events. {slept}.",
            count(n.blocking.count),
            count(n.nonblocking.count),
            count(n.events)
        ),
        _ => format!("{slept}. Polls were not counted."),
    };
    wrap(out, "  ", "  ", &line, str::to_owned);
    let late = match n.late_wakes.count {
        0 => format!("No wake was late by {} or more", duration(n.late_wakes.threshold_ns)),
        late => format!(
            "{} late by {} or more",
            plural(late, "wake was", "wakes were"),
            duration(n.late_wakes.threshold_ns)
        ),
    };
    let d = &n.late_wakes.delay;
    let line = format!(
        "{late} (woken to running: p50 {}, p99 {}, max {}).",
        maybe(d.p50_ns),
        maybe(d.p99_ns),
        maybe(d.max_ns)
    );
    wrap(out, "  ", "  ", &line, str::to_owned);
    if let Some(ready) = &n.ready {
        let line = format!(
            "From a socket's readiness until a poll took it: p50 {}, p99 {}, max {}; {} by {} or more.",
            maybe(ready.p50_ns),
            maybe(ready.p99_ns),
            maybe(ready.max_ns),
            plural(n.late_count, "was late", "were late"),
            duration(n.late_wakes.threshold_ns)
        );
        wrap(out, "  ", "  ", &line, str::to_owned);
    }
    for late in n.late.iter().take(SHOWN / 2) {
        let begin = late.ready_ns.or(late.woken_ns).unwrap_or_default();
        let at = duration(begin.saturating_sub(t.window.start_ns));
        wrap(out, &format!("  at {at:<7} "), "             ", &late.sentence, str::to_owned);
    }
}

fn threads(out: &mut String, t: &TargetReport, style: Style) {
    if t.threads.list.is_empty() {
        return;
    }
    let covers = match t.threads.coverage {
        "full" => "the whole run",
        _ => "pauses, their surroundings and long waits only",
    };
    heading(out, &format!("Threads ({covers})"), style);
    let _ = writeln!(
        out,
        "  {:>8} {:>5} {:<15} {:>9} {:>9} {:>9} {:>9} {:>9} {:>7} {:>7}",
        "tid",
        "M",
        "name",
        "on CPU",
        "woken",
        "preempted",
        "asleep",
        "state D",
        "stopper",
        "laggard"
    );
    for th in t.threads.list.iter().take(THREADS) {
        let _ = writeln!(
            out,
            "  {:>8} {:>5} {:<15} {:>9} {:>9} {:>9} {:>9} {:>9} {:>7} {:>7}",
            th.tid,
            th.m_id.map_or_else(|| "–".to_owned(), |m| m.to_string()),
            short(th.comm.as_deref().unwrap_or("–"), 15),
            duration(th.on_cpu_ns),
            duration(th.woken_ns),
            duration(th.preempted_ns),
            duration(th.blocked_ns),
            duration(th.uninterruptible_ns),
            count(th.stopper),
            count(th.laggard)
        );
    }
    if let Some(more) = t.threads.count.checked_sub(THREADS).filter(|n| *n > 0) {
        let _ = writeln!(out, "  … and {more} more");
    }
}

/// What the probes in a target's hot code took.
fn hot_probes(p: &HotProbes, several: bool) -> String {
    let spent = p.hits.saturating_mul(p.hit_ns);
    let of = if several { format!(" of target {}", p.target) } else { String::new() };
    let mut line = format!(
        "Probes in hot code{of} (allocator, mark assists): {} hits at {} each (measured here) took about {}",
        count(p.hits),
        duration(p.hit_ns),
        duration(spent)
    );
    if let Some(cpu_ns) = p.target_cpu_ns.filter(|ns| *ns > 0) {
        let _ = write!(line, ", {} of the process's CPU time", percent(spent, cpu_ns));
    }
    let _ = write!(
        line,
        " (budget {:.1} %, of {} CPUs at least).",
        p.budget * 100.0,
        p.budget_least_cpus
    );
    line
}

fn run_text(out: &mut String, report: &Report, style: Style) {
    heading(out, "Evidence and cost", style);
    let e = &report.events;
    let lost = match &e.lost {
        Some(lost) if lost.total == 0 => "none lost".to_owned(),
        Some(lost) => format!("{} LOST ({})", count(lost.total), classes(lost)),
        None => "losses not known".to_owned(),
    };
    let line =
        format!("Events: {} received ({}), {lost}.", count(e.received.total), classes(&e.received));
    wrap(out, "  ", "    ", &line, str::to_owned);
    if let Some(c) = &report.cost {
        let duration_ns = report.first.window.duration_ns;
        let hits = sum(c.probe_hits.iter().map(|p| p.hits));
        let mut line = format!(
            "Cost: g211s used {} of CPU ({} of one CPU), {} MB at most; {} probe hits",
            duration(c.agent_cpu_ns),
            percent(c.agent_cpu_ns, duration_ns),
            c.agent_max_rss_bytes / 1_000_000,
            count(hits)
        );
        let bpf: Vec<u64> = c.bpf_programs.iter().filter_map(|p| p.run_ns).collect();
        if bpf.is_empty() {
            line += "; time in BPF programs not counted by this kernel's settings.";
        } else {
            let ns = sum(bpf);
            let share = percent(ns, duration_ns);
            let _ = write!(line, "; {} in BPF ({share} of one CPU).", duration(ns));
        }
        wrap(out, "  ", "    ", &line, str::to_owned);
        for p in &c.hot_probes {
            wrap(out, "  ", "    ", &hot_probes(p, c.hot_probes.len() > 1), str::to_owned);
        }
    }
    let stolen = sum(report.run.steal.iter().map(|s| s.ns));
    if stolen > 0 {
        let cpus: Vec<String> = report
            .run
            .steal
            .iter()
            .take(8)
            .map(|s| format!("{} of CPU {}", duration(s.ns), s.cpu))
            .collect();
        let more = if report.run.steal.len() > 8 { ", …" } else { "" };
        let line = format!(
            "The hypervisor took {} of CPU time ({}{more}).",
            duration(stolen),
            cpus.join(", ")
        );
        wrap(out, "  ", "    ", &line, str::to_owned);
    }
    for n in &report.notices {
        let at = duration(n.ts_ns.saturating_sub(report.first.window.start_ns));
        wrap(out, &format!("  at {at}: "), "    ", &n.text, str::to_owned);
    }
}

fn heading(out: &mut String, title: &str, style: Style) {
    let _ = writeln!(out, "\n{}", style.bold(&short(title, WIDTH)));
}

/// Writes `text` in lines of at most [`WIDTH`] columns; words longer than a line are cut into
/// lines.
fn wrap(out: &mut String, first: &str, rest: &str, text: &str, paint: impl Fn(&str) -> String) {
    let mut line = first.to_owned();
    let mut used = first.chars().count();
    let mut empty = true;
    let mut words: Vec<String> = text.split(' ').map(str::to_owned).collect();
    words.reverse();
    while let Some(word) = words.pop() {
        let len = word.chars().count();
        let space = usize::from(!empty);
        if used + space + len <= WIDTH {
            if space == 1 {
                line.push(' ');
            }
            line += &word;
            used += space + len;
            empty = false;
        } else if empty {
            let fits = WIDTH - used;
            line.extend(word.chars().take(fits));
            words.push(word.chars().skip(fits).collect());
            used = WIDTH;
            empty = false;
        } else {
            let _ = writeln!(out, "{}", paint(&line));
            rest.clone_into(&mut line);
            used = rest.chars().count();
            empty = true;
            words.push(word);
        }
    }
    let _ = writeln!(out, "{}", paint(&line));
}
