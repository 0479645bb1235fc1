//! The text of what kept goroutines waiting outside of stops.

use std::fmt::Write as _;

use super::{Style, heading, wrap};
use crate::{
    analysis::goroutine::saturation::Saturation,
    report::{
        format::{count, duration, maybe, plural},
        schema::{Assists, HeldP, PHeld, PStarvation, SaturationReport, TargetReport},
        sentence::thread,
    },
};

/// Stalls and Ps shown one by one.
const SHOWN: usize = 3;

/// The section of a target; nothing where nothing was seen to wait and nothing is missing.
pub(super) fn goroutines(out: &mut String, t: &TargetReport, style: Style) {
    let g = &t.goroutine_delays;
    let mut lines = Vec::new();
    lines.extend(saturation(&g.saturation));
    lines.extend(assists(&g.assists));
    lines.extend(held(&g.p_held));
    lines.extend(starved(&g.p_starvation));
    // That the others are missing is told at the top.
    let refused = g.p_starvation.unavailable.as_ref().filter(|_| g.p_held.unavailable.is_none());
    if lines.is_empty() && refused.is_none() {
        return;
    }
    heading(out, "Goroutines that waited outside of stops", style);
    for line in lines {
        wrap(out, "  ", "    ", &line, str::to_owned);
    }
    if let Some(why) = refused {
        wrap(out, "  not here: ", "    ", &format!("p_starvation: {why}."), str::to_owned);
    }
}

fn assists(a: &Assists) -> Option<String> {
    if a.calls == 0 {
        return None;
    }
    let seen = if a.sampled {
        format!("{} seen in looks of {} in all", count(a.calls), duration(a.observed_ns))
    } else {
        count(a.calls)
    };
    let rate =
        a.per_s.map_or_else(String::new, |n| format!(", {} a second", count(n.round() as u64)));
    let cpu = a
        .cpu_ns
        .map_or_else(String::new, |ns| format!(" Assists took {} of CPU in all.", duration(ns)));
    let mut line = format!(
        "Stalls of goroutines that allocated in a GC cycle: {seen}{rate}; p50 {}, p99 {}, max {}; {} of {} \
         and more.{cpu}",
        maybe(a.stalls.p50_ns),
        maybe(a.stalls.p99_ns),
        maybe(a.stalls.max_ns),
        count(a.long),
        duration(a.threshold_ns),
    );
    if let Some(worst) = a.worst.first() {
        let who = worst.goid.map_or_else(String::new, |id| format!(" (goroutine {id})"));
        let _ = write!(line, " Longest: {}{who}.", duration(worst.ns));
    }
    Some(line)
}

/// A P and why its thread was on no CPU.
fn holder(h: &HeldP) -> String {
    let thread = thread(h.tid, h.m_id);
    let why = match (h.off, h.syscall_name, h.syscall) {
        ("syscall", Some(name), _) => format!("asleep in {name}"),
        ("syscall", None, Some(nr)) => format!("asleep in system call {nr}"),
        ("preempted", ..) => "waiting for a CPU".to_owned(),
        _ => "in a page fault or stopped".to_owned(),
    };
    format!("P {} with {thread} {why}", h.p)
}

fn held(p: &PHeld) -> Vec<String> {
    let mut lines = Vec::new();
    let long: Vec<&HeldP> = p.worst.iter().take(SHOWN).collect();
    if long.is_empty() {
        return lines;
    }
    let share = |n: Option<f64>| {
        n.map_or_else(String::new, |n| format!(" ({:.2} % of all Ps' time)", n * 100.0))
    };
    lines.push(format!(
        "Ps kept by threads asleep in system calls: {} until the runtime took them (max {}), {} until the call \
         returned (max {}); {} in all{}. By threads that waited for a CPU or a page: {}{}.",
        plural(p.taken.count, "time", "times"),
        maybe(p.taken.max_ns),
        plural(p.kept.count, "time", "times"),
        maybe(p.kept.max_ns),
        duration(p.taken.total_ns.saturating_add(p.kept.total_ns)),
        share(p.syscall_share),
        duration(p.descheduled.total_ns),
        share(p.descheduled_share),
    ));
    for h in long {
        let end = match h.queued {
            Some(0) => "; the runtime took it".to_owned(),
            Some(n) => format!(
                "; the runtime took it, with {} waiting on it",
                plural(n.into(), "goroutine", "goroutines")
            ),
            None => String::new(),
        };
        lines.push(format!("{}: {}{end}.", duration(h.ns), holder(h)));
    }
    lines
}

fn starved(p: &PStarvation) -> Option<String> {
    let worst = p.worst.first()?;
    let holders: Vec<String> = worst.holders.iter().take(4).map(holder).collect();
    let more = match worst.holders.len().saturating_sub(4) {
        0 => String::new(),
        n => format!("; {n} more"),
    };
    Some(format!(
        "No P could run a goroutine {}, {} in all. Longest: {}: {}{more}.",
        plural(p.count, "time", "times"),
        duration(p.total_ns),
        duration(worst.ns),
        holders.join("; "),
    ))
}

fn saturation(s: &SaturationReport) -> Option<String> {
    let f = &s.figures;
    let p99 = maybe(f.latency_p99_ns);
    match s.verdict {
        Saturation::ByItsOwnGoroutines => Some(format!(
            "CPU-saturated by its own goroutines: they waited to run up to {p99} (p99), all {} Ps ran Go code in {} \
             of {} samples, {:.1} more were ready in the mean; its threads waited for CPUs {} while they ran {}.",
            f.gomaxprocs.map_or_else(String::new, |n| n.to_string()),
            f.samples_all_running,
            f.samples,
            f.runnable_sum as f64 / f.samples_of_goroutines.max(1) as f64,
            duration(f.threads_waited_ns),
            duration(f.threads_ran_ns),
        )),
        Saturation::ThreadsInWantOfCpus => Some(format!(
            "Goroutines waited to run up to {p99} (p99), and the program's threads waited for CPUs {} while they ran \
             {}.",
            duration(f.threads_waited_ns),
            duration(f.threads_ran_ns),
        )),
        Saturation::Unexplained => Some(format!(
            "Goroutines waited to run up to {p99} (p99), though not all Ps were found running and its threads got \
             their CPUs: unexplained here."
        )),
        Saturation::No | Saturation::Unknown => None,
    }
}
