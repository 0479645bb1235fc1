//! What of a report the page shows one by one, and so where the second pass has to look closely: the worst pauses, the
//! stretches of time around them, the threads in them. Must not know how a page looks.

use std::cmp::Reverse;
use std::collections::BTreeMap;

use serde::Serialize;

use crate::analysis::verdict::{CauseKind, Phase};
use crate::report::schema::{
    DelayReport, Report, SleepReport, StwReport, TargetReport, ThreadInStop,
};
use crate::report::{delay_sentence, sentence, sleep_sentence};

use super::words;

/// Pauses shown one by one, all targets together.
const PAUSES: usize = 60;
/// Of them stops of the world, where there are as many: a few long waits must not hide them all.
const STOPS: usize = 24;
/// Threads that have a lane, all targets together.
const LANES: usize = 48;
/// What is shown of the time before and after a pause: half its length, within these bounds, ns.
const AROUND_NS: (u64, u64) = (2_000_000, 50_000_000);
/// Parts of a pause, and threads of a stop, that are listed.
const PARTS: usize = 12;

/// What a pause is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Kind {
    /// A stop of the world.
    Stop,
    /// A long wait for a CPU, in no stop.
    Wait,
    /// A long uninterruptible sleep, in no stop.
    Sleep,
}

/// A part of a pause.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Part {
    kind: CauseKind,
    /// In words.
    words: String,
    ns: u64,
    tid: u32,
    /// Of a stop: while it was stopping, or stopped.
    phase: Option<Phase>,
}

/// One of the worst pauses.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Pause {
    pub(super) kind: Kind,
    /// When, ns since the window began.
    pub(super) at: u64,
    pub(super) ns: u64,
    /// Of a stop: its number.
    n: Option<u32>,
    /// Of a stop: how much of it was stopping.
    stopping_ns: Option<u64>,
    /// Who stopped the world, or waited.
    tid: u32,
    /// Of a stop: the last that gave its P up.
    laggard: Option<u32>,
    /// In one sentence.
    words: String,
    /// What took most of it.
    cause: CauseKind,
    /// What it went to, longest first.
    parts: Vec<Part>,
    /// Of a stop: who had a part in it.
    threads: Vec<ThreadInStop>,
}

/// What the second pass takes of one target.
#[derive(Clone, Debug)]
pub(super) struct Plan {
    /// When the window began and ended, ns.
    pub(super) window: (u64, u64),
    /// The pauses, longest first.
    pub(super) pauses: Vec<Pause>,
    /// Threads that get a lane.
    pub(super) tids: Vec<u32>,
    /// Threads that get none.
    pub(super) without_lane: usize,
    /// Stretches of time to be kept in full: ascending, apart from one another, ns.
    pub(super) islands: Vec<(u64, u64)>,
}

/// The longest parts one by one, the others by kind.
fn parts(mut all: Vec<Part>) -> Vec<Part> {
    all.sort_by_key(|p| Reverse(p.ns));
    let rest = all.split_off(all.len().min(PARTS));
    let mut by_kind: BTreeMap<CauseKind, (u64, u64)> = BTreeMap::new();
    for part in &rest {
        let sum = by_kind.entry(part.kind).or_default();
        *sum = (sum.0 + 1, sum.1.saturating_add(part.ns));
    }
    all.extend(by_kind.into_iter().map(|(kind, (n, ns))| Part {
        kind,
        words: words::others(kind, n),
        ns,
        tid: 0,
        phase: None,
    }));
    all
}

/// The plans of all targets.
pub(super) fn plans(report: &Report) -> Vec<Plan> {
    let targets: Vec<&TargetReport> =
        std::iter::once(&report.first).chain(&report.others).collect();
    let share = |all: usize| (all / targets.len()).max(4);
    targets.iter().map(|t| plan(t, share(PAUSES), share(STOPS), share(LANES))).collect()
}

fn plan(t: &TargetReport, max_pauses: usize, max_stops: usize, max_lanes: usize) -> Plan {
    let from = t.window.start_ns;
    let mut stops: Vec<&StwReport> = t.stw.iter().collect();
    stops.sort_by_key(|s| (Reverse(s.total_ns), s.start_ns));
    let (kept, others) = stops.split_at(stops.len().min(max_stops));
    let mut rest: Vec<Pause> = others.iter().take(max_pauses).map(|s| of_stop(s, from)).collect();
    rest.extend(t.delays.worst.iter().map(|d| of_wait(d, from)));
    rest.extend(t.delays.asleep.worst.iter().map(|s| of_sleep(s, from)));
    rest.sort_by_key(|p| (Reverse(p.ns), p.at));
    rest.truncate(max_pauses.saturating_sub(kept.len()));
    let mut pauses: Vec<Pause> = kept.iter().map(|s| of_stop(s, from)).chain(rest).collect();
    pauses.sort_by_key(|p| (Reverse(p.ns), p.at));
    let tids = lanes(t, &pauses, max_lanes);
    let without_lane = t.threads.list.iter().filter(|row| !tids.contains(&row.tid)).count();
    let window = (from, t.window.end_ns.max(from));
    Plan { window, islands: islands(&pauses, from), pauses, tids, without_lane }
}

fn of_stop(s: &StwReport, from: u64) -> Pause {
    let part = |c: &crate::report::schema::CauseReport| Part {
        kind: c.kind,
        words: words::part(c, &s.reason),
        ns: c.ns,
        tid: c.tid,
        phase: Some(c.phase),
    };
    Pause {
        kind: Kind::Stop,
        at: s.start_ns.saturating_sub(from),
        ns: s.total_ns,
        n: Some(s.n),
        stopping_ns: Some(s.stopping_ns),
        tid: s.stopper_tid,
        laggard: s.laggard_tid,
        words: sentence(s),
        cause: s.causes.iter().max_by_key(|c| c.ns).map_or(CauseKind::Unexplained, |c| c.kind),
        parts: parts(s.causes.iter().map(part).collect()),
        threads: s.threads.iter().take(PARTS).cloned().collect(),
    }
}

fn of_wait(d: &DelayReport, from: u64) -> Pause {
    Pause {
        words: delay_sentence(d),
        ..of_delay(Kind::Wait, d.tid, (d.start_ns, d.wait_ns), &d.causes, from)
    }
}

fn of_sleep(s: &SleepReport, from: u64) -> Pause {
    Pause {
        words: sleep_sentence(s),
        ..of_delay(Kind::Sleep, s.tid, (s.start_ns, s.ns), &s.causes, from)
    }
}

fn of_delay(
    kind: Kind,
    tid: u32,
    (start_ns, ns): (u64, u64),
    causes: &[crate::report::schema::DelayCause],
    from: u64,
) -> Pause {
    let part = |c: &crate::report::schema::DelayCause| Part {
        kind: c.kind,
        words: words::part_of_delay(c),
        ns: c.ns,
        tid,
        phase: None,
    };
    Pause {
        kind,
        at: start_ns.saturating_sub(from),
        ns,
        n: None,
        stopping_ns: None,
        tid,
        laggard: None,
        words: String::new(),
        cause: causes.iter().max_by_key(|c| c.ns).map_or(CauseKind::Unexplained, |c| c.kind),
        parts: parts(causes.iter().map(part).collect()),
        threads: Vec::new(),
    }
}

/// Those with most parts in the pauses, then those that waited longest.
fn lanes(t: &TargetReport, pauses: &[Pause], max: usize) -> Vec<u32> {
    let mut parts: BTreeMap<u32, u64> = BTreeMap::new();
    for p in pauses {
        let listed = p.threads.iter().map(|t| t.tid).chain(p.parts.iter().map(|p| p.tid));
        for tid in listed.chain([p.tid]).chain(p.laggard).filter(|tid| *tid != 0) {
            *parts.entry(tid).or_default() += 1;
        }
    }
    let mut tids: Vec<(u32, u64)> = parts.into_iter().collect();
    tids.sort_by_key(|&(tid, n)| (Reverse(n), tid));
    let mut tids: Vec<u32> = tids.into_iter().map(|(tid, _)| tid).collect();
    for row in &t.threads.list {
        if tids.len() >= max {
            break;
        }
        if !tids.contains(&row.tid) {
            tids.push(row.tid);
        }
    }
    tids.truncate(max);
    tids
}

/// The time around the pauses, stretches that meet made one.
fn islands(pauses: &[Pause], from: u64) -> Vec<(u64, u64)> {
    let mut all: Vec<(u64, u64)> = pauses
        .iter()
        .map(|p| {
            let around = (p.ns / 2).clamp(AROUND_NS.0, AROUND_NS.1);
            let start = from.saturating_add(p.at);
            (
                start.saturating_sub(around).max(from),
                start.saturating_add(p.ns).saturating_add(around),
            )
        })
        .collect();
    all.sort_unstable();
    let mut apart: Vec<(u64, u64)> = Vec::with_capacity(all.len());
    for (start, end) in all {
        match apart.last_mut() {
            Some(last) if start <= last.1 => last.1 = last.1.max(end),
            _ => apart.push((start, end)),
        }
    }
    apart
}
