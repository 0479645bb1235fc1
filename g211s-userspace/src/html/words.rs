//! What the page says in sentences: the answer at its top, and the parts of pauses. Must not know markup.

use crate::analysis::verdict::CauseKind;
use crate::report::format::{duration, percent, plural};
use crate::report::schema::{BehindProcess, CauseReport, DelayCause, TargetReport};
use crate::report::{sentence, text};

/// The name that a target goes by.
pub(super) fn name(t: &TargetReport) -> String {
    let file = t.target.exe.rsplit('/').next().unwrap_or_default();
    let name = if file.is_empty() { &t.target.comm } else { file };
    if name.is_empty() { "(no name)".to_owned() } else { name.to_owned() }
}

/// A cause of stalls.
pub(super) fn cause(kind: CauseKind, behind: Option<&BehindProcess>) -> String {
    let words = text::cause(kind, behind);
    // That who waits for a CPU is runnable goes without saying where the words stand beside a picture of it.
    words.strip_prefix("runnable, ").map_or_else(|| words.clone(), str::to_owned)
}

/// A part of a stop.
pub(super) fn part(c: &CauseReport, reason: &str) -> String {
    sentence::words(c, reason.strip_prefix("GC ").unwrap_or(reason))
}

/// A part of a wait or a sleep.
pub(super) fn part_of_delay(c: &DelayCause) -> String {
    match (&c.behind, &c.quota, c.syscall_name) {
        (Some(b), ..) => format!("waiting behind {}", sentence::who(b)),
        (None, Some(quota), _) => {
            format!("kept off all CPUs by {}", sentence::quota_words(Some(quota)))
        }
        (None, None, Some(name)) => format!("{} in {name}", text::cause(c.kind, None)),
        (None, None, None) => text::cause(c.kind, None),
    }
}

/// Parts of one kind that are not told one by one.
pub(super) fn others(kind: CauseKind, n: u64) -> String {
    match kind {
        CauseKind::RunqueueWait => {
            format!("waiting behind {}", plural(n, "other task", "other tasks"))
        }
        kind => format!("{} ({})", cause(kind, None), plural(n, "part", "parts")),
    }
}

/// Whether stops of the world can be seen at all.
pub(super) fn sees_stops(t: &TargetReport) -> bool {
    t.target.probes.iter().any(|p| matches!(p.site.as_str(), "stw_start" | "stw_end"))
}

/// A share that is there and too small to be printed.
pub(super) fn share(part: u64, whole: u64) -> String {
    let share = percent(part, whole);
    if part > 0 && share == percent(0, whole) { "Less than 0.1 %".to_owned() } else { share }
}

/// Why the service stalls, in two or three sentences.
pub(super) fn lead(t: &TargetReport) -> Vec<String> {
    let s = &t.stalls;
    let mut out = Vec::new();
    if let Some(top) = s.by_cause.first() {
        let what = cause(top.kind, top.behind.as_ref());
        out.push(format!(
            "{} of the stalled time went to one cause: {what} ({} of {}).",
            percent(top.ns, s.total_ns),
            duration(top.ns),
            duration(s.total_ns)
        ));
    }
    let window = duration(t.window.duration_ns);
    let threshold = duration(t.delays.threshold_ns);
    let stops = match (sees_stops(t), t.stw_totals.all.max_ns) {
        (false, _) => "Stops of the world and GC cycles cannot be seen here (see below)".to_owned(),
        (true, None) => format!("The world was not stopped in {window}"),
        (true, Some(worst)) => format!(
            "The world stopped {} in {window}, {} in all, at worst for {}",
            plural(t.stw_totals.all.count, "time", "times"),
            duration(t.stw_totals.all.total_ns),
            duration(worst)
        ),
    };
    out.push(match s.delays {
        0 => format!("{stops}; outside of stops nothing waited for {threshold} or longer."),
        n => format!(
            "{stops}; {} of {threshold} and more outside of stops took {} of threads' time.",
            plural(n, "delay", "delays"),
            duration(s.delays_ns)
        ),
    });
    if s.unexplained_ns > 0 {
        out.push(format!(
            "{} of the stalled time is unexplained: no event tells what it went to.",
            share(s.unexplained_ns, s.total_ns)
        ));
    }
    out
}
