//! The text of the runtime's own counters and of our agreement with them.

use std::fmt::Write as _;

use super::{Style, WIDTH, heading, wrap};
use crate::{
    analysis::accuracy::{Accuracy, Finding, Histograms, Numbers, Stops, Sums},
    report::{
        format::{count, duration, maybe, percent, plural, short},
        schema::{RuntimeReport, TargetReport},
    },
};

/// Bytes as people read them: `24.1 MB` (millions).
fn bytes(n: u64) -> String {
    match n {
        0..1_000_000 => format!("{:.1} KB", n as f64 / 1e3),
        1_000_000..1_000_000_000 => format!("{:.1} MB", n as f64 / 1e6),
        _ => format!("{:.2} GB", n as f64 / 1e9),
    }
}

fn maybe_bytes(n: Option<u64>) -> String {
    // GOGC off and no memory limit: the runtime's goal is next to the largest number.
    match n {
        None => "–".to_owned(),
        Some(n) if n >= 1 << 62 => "none".to_owned(),
        Some(n) => bytes(n),
    }
}

/// The section of a target.
pub(super) fn runtime(out: &mut String, t: &TargetReport, style: Style) {
    let r = &t.runtime;
    if r.samples == 0 && r.unavailable.is_empty() {
        return;
    }
    heading(out, "The Go runtime's own counters (read from its memory)", style);
    let mut line = |text: &str| wrap(out, "  ", "    ", text, str::to_owned);
    if let Some(h) = &r.heap {
        let gogc = h.gc_percent.map_or_else(|| "off".to_owned(), |n| n.to_string());
        let limit = h
            .memory_limit
            .map_or_else(|| "no memory limit".to_owned(), |n| format!("memory limit {}", bytes(n)));
        line(&format!(
            "Heap: live {} at the start, {} at the end, {} at most; next goal {}; GOGC {gogc}, \
             {limit}.",
            bytes(h.start.live),
            bytes(h.end.live),
            bytes(h.max_live),
            maybe_bytes(h.end.goal),
        ));
    }
    if let Some(g) = &r.goroutines {
        let n = |n: Option<u64>| n.map_or_else(|| "–".to_owned(), count);
        let status: Vec<String> = g
            .by_status
            .iter()
            .map(|s| format!("{} {}", count(s.count), s.status.trim_start_matches("_G")))
            .collect();
        let status =
            if status.is_empty() { String::new() } else { format!(" ({})", status.join(", ")) };
        let procs = r.gomaxprocs.map_or_else(String::new, |n| format!("; GOMAXPROCS {n}"));
        line(&format!(
            "Goroutines: {} at the start, {} at the end, {} at most; with the runtime's own {}, at \
             the end{status}{procs}.",
            n(g.start),
            n(g.end),
            n(g.max),
            count(g.system),
        ));
    }
    if let Some(l) = r.sched_latency.as_ref().filter(|l| l.count > 0) {
        line(&format!(
            "Goroutines' wait to run: p50 {}, p99 {}, max {} at most ({}; the runtime takes one in \
             {}, in buckets).",
            maybe(l.p50_ns),
            maybe(l.p99_ns),
            maybe(l.max_ns),
            plural(l.count, "wait", "waits"),
            l.sampled_one_in,
        ));
    }
    agreement(out, &t.accuracy, style);
    for u in &r.unavailable {
        wrap(
            out,
            "  not here: ",
            "    ",
            &format!("{}: {}; {}.", u.feature, u.why, u.costs),
            str::to_owned,
        );
    }
    reads(out, r, t.window.duration_ns);
}

fn reads(out: &mut String, r: &RuntimeReport, duration_ns: u64) {
    let mut text = format!(
        "{} of it took {} of g211s's CPU time ({} of one CPU) in {} system calls; the target did \
         nothing for it.",
        plural(r.samples, "sample", "samples"),
        duration(r.reads.cpu_ns),
        percent(r.reads.cpu_ns, duration_ns),
        count(r.reads.calls),
    );
    if r.reads.failed > 0 {
        let _ = write!(text, " {} failed.", plural(r.reads.failed, "read", "reads"));
    }
    if r.inconsistent > 0 {
        let _ = write!(
            text,
            " {} of one moment: a stop of the world was in the way.",
            plural(r.inconsistent, "sample is not", "samples are not")
        );
    }
    if let Some(offsets) = r.offsets.as_ref().filter(|o| !o.is_empty()) {
        let _ = write!(text, " Offsets: {}.", short(offsets, WIDTH));
    }
    wrap(out, "  ", "    ", &text, str::to_owned);
}

fn word(verdict: Finding) -> &'static str {
    match verdict {
        Finding::Agree => "agree",
        Finding::Unknown => "unknown",
        Finding::Disagree => "DISAGREE",
    }
}

/// `ours` against the runtime's, figure by figure.
fn agreement(out: &mut String, a: &Accuracy, style: Style) {
    if let Some(why) = &a.why {
        wrap(out, "  ", "    ", &format!("Accuracy unknown: {why}."), str::to_owned);
        return;
    }
    let _ = writeln!(
        out,
        "  {:<34} {:>12} {:>14}",
        "g211s against the runtime", "ours", "the runtime's"
    );
    let mut row = |name: &str, ours: &str, theirs: &str, verdict: Finding, why: Option<&String>| {
        let why = why.map_or_else(String::new, |w| format!(": {w}"));
        let head = format!("  {name:<34} {ours:>12} {theirs:>14}  ");
        let text = format!("{}{why}", word(verdict));
        wrap(out, &head, "      ", &text, |s| match verdict {
            Finding::Disagree => style.alarm(s),
            _ => s.to_owned(),
        });
    };
    let numbers = |n: &Numbers| {
        let f = |n: Option<u64>| n.map_or_else(|| "–".to_owned(), count);
        (f(n.ours), f(n.runtime))
    };
    let (ours, theirs) = numbers(&a.gc_cycles);
    row("GC cycles", &ours, &theirs, a.gc_cycles.verdict, a.gc_cycles.why.as_ref());
    for (kind, s) in [("GC", &a.stw_gc), ("other", &a.stw_other)] {
        let Stops { count, total, histogram, stopping } = s;
        let (ours, theirs) = numbers(count);
        row(&format!("{kind} stops"), &ours, &theirs, count.verdict, count.why.as_ref());
        if count.ours.unwrap_or(0) == 0 && count.runtime.unwrap_or(0) == 0 {
            continue;
        }
        sums(&mut row, kind, total);
        for (what, h) in [("lengths", histogram), ("stopping times", stopping)] {
            let Histograms { moved, misplaced, buckets, .. } = h;
            let moved = format!("{moved} moved");
            let unexplained = format!("{misplaced} unexpl.");
            let (moved, unexplained) =
                if buckets.is_empty() { ("–", "–") } else { (&*moved, &*unexplained) };
            let name = format!("  {kind} {what}, in buckets");
            row(&name, moved, unexplained, h.verdict, h.why.as_ref());
        }
    }
}

fn sums(row: &mut impl FnMut(&str, &str, &str, Finding, Option<&String>), kind: &str, s: &Sums) {
    let theirs = match (s.runtime_ns, s.runtime_bounds_ns) {
        (Some(ns), _) => duration(ns),
        (None, Some((low, high))) => format!("{}–{}", duration(low), duration(high)),
        (None, None) => "–".to_owned(),
    };
    let name = format!("  {kind} stops in all");
    row(&name, &maybe(s.ours_ns), &theirs, s.verdict, s.why.as_ref());
}
