//! The page's data: the report (`g211s.report/1`), without what is too much of it, and what the pictures need beside
//! it. Must not know markup.

use serde::Serialize;

use super::allocs::Section;
use super::collect::{Pictures, TargetPictures};
use super::columns::{CYCLES, Cycles, STOPS, Stops};
use super::limits::{Limits, limits};
use super::plan::{Pause, Plan};
use super::words;
use crate::record::{Cost, Notice};
use crate::report::schema::{CauseTotal, Events, Report, Run, StallCause, TargetReport};
use crate::report::text;

/// Name and version of the block's form. For this page's own scripts: it may change with every version.
const SCHEMA: &str = "g211s.page/1";
/// Threads in the table, all targets together.
const THREADS: usize = 1_000;
/// Notices.
const NOTICES: usize = 200;
/// Causes of stalls.
const CAUSES: usize = 100;
/// Stops that were seen in part.
const PARTS: usize = 100;

/// The block.
#[derive(Debug, Serialize)]
pub(super) struct Page {
    schema: &'static str,
    pub(super) title: String,
    /// The g211s that made the page.
    made_by: &'static str,
    /// The recording is one of stalls (of allocations alone, if not).
    stalls: bool,
    run: Run,
    /// What casts doubt on all of it.
    alarms: Vec<String>,
    events: Events,
    cost: Option<Cost>,
    notices: Vec<Notice>,
    targets: Vec<TargetPage>,
    allocs: Option<Section>,
}

/// One target.
#[derive(Debug, Serialize)]
struct TargetPage {
    name: String,
    /// Whether stops can be seen at all.
    sees_stops: bool,
    /// Why it stalls.
    lead: Vec<String>,
    /// What each part cannot show.
    limits: Limits,
    /// The worst pauses, longest first.
    pauses: Vec<Pause>,
    /// Where all stalled time went, most first.
    causes: Vec<Cause>,
    /// What all stops went to.
    stop_causes: Vec<StopCause>,
    stops: Stops,
    cycles: Cycles,
    #[serde(flatten)]
    pictures: TargetPictures,
    /// Its sections of the report. What columns hold is not in them again.
    report: TargetReport,
}

/// A cause with its words.
#[derive(Debug, Serialize)]
struct Cause {
    words: String,
    #[serde(flatten)]
    cause: StallCause,
}

/// A cause of stops with its words.
#[derive(Debug, Serialize)]
struct StopCause {
    words: String,
    #[serde(flatten)]
    cause: CauseTotal,
}

impl Page {
    /// The block of a report and its pictures.
    pub(super) fn new(
        report: Report,
        stalls: bool,
        pictures: Pictures,
        allocs: Option<Section>,
    ) -> Self {
        let alarms = if stalls { text::alarms(&report) } else { Vec::new() };
        let n = 1 + report.others.len();
        let parts = pictures.plans.into_iter().zip(pictures.filled);
        let targets: Vec<_> = std::iter::once(&report.first)
            .chain(&report.others)
            .zip(parts)
            .map(|(t, (plan, filled))| {
                let pictures = filled.with(t);
                (limits(&report, t, &plan, &pictures), plan, pictures)
            })
            .collect();
        let Report { run, first, others, events, cost, mut notices, .. } = report;
        notices.truncate(NOTICES);
        let reports = std::iter::once(first).chain(others);
        let targets: Vec<TargetPage> = reports
            .zip(targets)
            .map(|(report, (limits, plan, pictures))| {
                TargetPage::new(report, limits, plan, pictures, n)
            })
            .collect();
        let name = targets.first().map_or_else(String::new, |t| t.name.clone());
        Self {
            schema: SCHEMA,
            title: format!("{name} – g211s"),
            made_by: env!("CARGO_PKG_VERSION"),
            stalls,
            run,
            alarms,
            events,
            cost,
            notices,
            targets,
            allocs,
        }
    }
}

impl TargetPage {
    fn new(
        mut report: TargetReport,
        limits: Limits,
        plan: Plan,
        pictures: TargetPictures,
        targets: usize,
    ) -> Self {
        let lead = words::lead(&report);
        let from = report.window.start_ns;
        let stops = Stops::new(&std::mem::take(&mut report.stw), from, STOPS / targets);
        let cycles = Cycles::new(&std::mem::take(&mut report.gc.cycles), from, CYCLES / targets);
        report.threads.list.truncate((THREADS / targets).max(50));
        report.stw_incomplete.truncate(PARTS);
        // Told as pauses and causes.
        report.delays.worst = Vec::new();
        report.delays.largest = Vec::new();
        report.delays.asleep.worst = Vec::new();
        let by_cause = std::mem::take(&mut report.stalls.by_cause);
        report.gc.incomplete.truncate(PARTS);
        let causes = by_cause
            .into_iter()
            .take(CAUSES)
            .map(|cause| Cause { words: words::cause(cause.kind, cause.behind.as_ref()), cause });
        let stop_causes =
            std::mem::take(&mut report.stw_totals.causes).into_iter().take(CAUSES).map(|cause| {
                StopCause { words: words::cause(cause.kind, cause.behind.as_ref()), cause }
            });
        Self {
            name: words::name(&report),
            sees_stops: words::sees_stops(&report),
            lead,
            limits,
            pauses: plan.pauses,
            causes: causes.collect(),
            stop_causes: stop_causes.collect(),
            stops,
            cycles,
            pictures,
            report,
        }
    }
}
