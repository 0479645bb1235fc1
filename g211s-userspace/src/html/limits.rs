//! What each part of the page cannot show, and why: said there, rather than an empty picture. Must not know markup.

use std::collections::BTreeMap;

use crate::report::Report;
use crate::report::format::{count, duration, plural, sum};
use crate::report::schema::TargetReport;

use super::{collect::TargetPictures, plan::Plan, words};

/// By part of the page.
pub(super) type Limits = BTreeMap<&'static str, Vec<String>>;

/// What is missing of one target.
pub(super) fn limits(
    report: &Report,
    t: &TargetReport,
    plan: &Plan,
    pictures: &TargetPictures,
) -> Limits {
    let parts = [
        ("pauses", pauses(report, t, plan)),
        ("timeline", timeline(t, plan, pictures)),
        ("heat", heat(t, pictures)),
        ("gc", gc(t)),
        ("together", together(t, pictures)),
        ("threads", threads(t)),
        ("network", network(t)),
    ];
    parts.into_iter().filter(|(_, lines)| !lines.is_empty()).collect()
}

fn unavailable<'a>(t: &'a TargetReport, features: &'a [&str]) -> impl Iterator<Item = String> + 'a {
    let all = t.target.unavailable.iter().chain(&t.runtime.unavailable);
    all.filter(|u| features.contains(&u.feature.as_str()))
        .map(|u| format!("{}: {}. {}", u.feature, u.why, u.costs))
}

fn pauses(report: &Report, t: &TargetReport, plan: &Plan) -> Vec<String> {
    let mut out = Vec::new();
    if !words::sees_stops(t) {
        out.push(
            "Stops of the world cannot be seen: the probe that tells their end is not attached. What is listed are \
             long waits and sleeps of threads."
                .to_owned(),
        );
        out.extend(unavailable(t, &["stw_start", "stw_end", "stw_stop", "runtime"]));
    }
    if let Some(lost) = report.events.lost.as_ref().filter(|l| l.total > 0) {
        out.push(format!(
            "{} were lost: what they would have told is “unexplained”, or missing from the list.",
            plural(lost.total, "event", "events")
        ));
    }
    if report.events.lost.is_none() {
        out.push("The recording was cut off: how much was lost is not known.".to_owned());
    }
    if t.stalls.unexplained_ns > 0 {
        out.push(format!(
            "{} of the stalled time ({}) has no explanation.",
            words::share(t.stalls.unexplained_ns, t.stalls.total_ns),
            duration(t.stalls.unexplained_ns)
        ));
    }
    if !t.stw_incomplete.is_empty() {
        out.push(format!(
            "{} seen in part only (at the run's edges, or events lost), and not counted.",
            plural(t.stw_incomplete.len() as u64, "stop was", "stops were")
        ));
    }
    let waits = t.delays.count.saturating_sub(t.delays.in_stw);
    let sleeps = t.delays.asleep.count.saturating_sub(t.delays.asleep.in_stw);
    let all = (t.stw.len() as u64).saturating_add(waits).saturating_add(sleeps);
    let shown = plan.pauses.len() as u64;
    if all > shown {
        out.push(format!(
            "Told one by one are the {shown} worst of {}; the table counts all.",
            count(all)
        ));
    }
    out
}

fn timeline(t: &TargetReport, plan: &Plan, pictures: &TargetPictures) -> Vec<String> {
    let mut out = Vec::new();
    if pictures.lanes.is_empty() {
        out.push("No thread's states were recorded.".to_owned());
    } else if t.threads.coverage != "full" || !pictures.full {
        out.push(format!(
            "Threads’ states were recorded around stops of the world, and for delays of {} and more. Where a lane is \
             empty nothing is known: the thread did not necessarily sleep. (`--full` records every transition.)",
            duration(t.delays.threshold_ns)
        ));
    }
    if plan.without_lane > 0 {
        out.push(format!(
            "{} no lane: {} those with a part in the worst pauses, or that waited longest.",
            plural(plan.without_lane as u64, "thread has", "threads have"),
            "shown are"
        ));
    }
    let left_out: u64 = pictures.islands.iter().map(|i| i.left_out).sum();
    if left_out > 0 {
        out.push(format!(
            "To keep the page small, {} around the worst pauses are left out.",
            plural(left_out, "short piece", "short pieces")
        ));
    }
    out.push(
        "Who ran on a CPU is known where a thread of the service waited for it, and nowhere else."
            .to_owned(),
    );
    out
}

fn heat(t: &TargetReport, pictures: &TargetPictures) -> Vec<String> {
    let mut out = Vec::new();
    let h = &pictures.heat;
    if !h.by_ticks {
        out.push(
            "Waits for a CPU were not recorded by time: the picture holds those that have an event of their own."
                .to_owned(),
        );
    } else if h.means > 0 {
        out.push(format!(
            "{} of {} waits have an event of their own and lie where they belong; the others are known by the \
             millisecond, and lie at the mean of theirs (exact where it held one). The distribution beside the picture \
             is the kernel's own, and exact.",
            count(h.told),
            count(h.told.saturating_add(h.means))
        ));
    }
    let all = sum(h.all.iter().copied());
    if let Some(more) =
        all.checked_sub(h.told.saturating_add(h.means)).filter(|n| *n > 0 && h.by_ticks)
    {
        out.push(format!(
            "{} of the distribution have no place in time: they were recorded late, or not by time.",
            plural(more, "wait", "waits")
        ));
    }
    if h.all.is_empty() {
        out.push(
            "There is no distribution of all waits: it is recorded at a run's end.".to_owned(),
        );
    }
    if !words::sees_stops(t) {
        out.push("Stops of the world cannot be seen here.".to_owned());
    }
    out
}

fn gc(t: &TargetReport) -> Vec<String> {
    let mut out = Vec::new();
    if !words::sees_stops(t) {
        out.push(
            "GC cycles cannot be seen: they are put together from stops of the world.".to_owned(),
        );
    } else if t.gc.count == 0 {
        out.push("No whole GC cycle was seen.".to_owned());
    }
    if !t.gc.incomplete.is_empty() {
        out.push(format!(
            "{} seen in part only, and not drawn.",
            plural(t.gc.incomplete.len() as u64, "cycle was", "cycles were")
        ));
    }
    if t.runtime.series.iter().all(|p| p.heap_live.is_none()) {
        out.push("The heap's size could not be read from the target's memory.".to_owned());
        out.extend(unavailable(t, &["heap", "memory"]));
    } else {
        out.push(
            "The heap's size is read once a second: what it did between two readings is not seen."
                .to_owned(),
        );
    }
    out
}

fn together(t: &TargetReport, pictures: &TargetPictures) -> Vec<String> {
    let mut out = Vec::new();
    if pictures.together.points.at.is_empty() {
        out.push("There are no counters by time: nothing to compare.".to_owned());
    }
    out.extend(t.aligned.warnings.iter().cloned());
    let warnings = t.correlation.pairs.iter().filter_map(|p| p.warning.as_ref().map(|w| (p, w)));
    out.extend(
        warnings.map(|(p, w)| {
            format!("{} with {}: {w}.", p.x.replace('_', " "), p.y.replace('_', " "))
        }),
    );
    out.push("That two things rise and fall together does not show which causes which.".to_owned());
    out
}

fn threads(t: &TargetReport) -> Vec<String> {
    let mut out = Vec::new();
    if t.threads.coverage != "full" && !t.threads.list.is_empty() {
        out.push(
            "The recording was cut off before threads' times were added up: these cover pauses, their surroundings \
             and long waits only."
                .to_owned(),
        );
    }
    out
}

fn network(t: &TargetReport) -> Vec<String> {
    let n = &t.netpoll;
    let mut out = Vec::new();
    if n.blocking.per_s.is_none() {
        out.push("Polls were not counted; sleeps in them, and late wakes, were.".to_owned());
    } else if n.sampled {
        out.push(format!(
            "Polls were counted for {} in all: counting each would cost every system call of the host.",
            duration(n.observed_ns)
        ));
    }
    if n.ready.is_none() {
        out.push(
            "When a socket became ready is not told by this kernel: lateness begins at the wakeup of the thread that \
             polls."
                .to_owned(),
        );
    }
    out
}
