//! What came of a run that followed allocations, as JSON has it (schema `g211s.allocs/1`, `docs/report-schema.md`). Must not
//! know BPF, processes, or how a text looks.

use serde::Serialize;

use super::budget::LEAST_CPU;
use super::decode::NO_STACK;
use super::model::Model;
use crate::analysis::allocations::{Estimate, Observed};
use crate::record::{RunEnd, RunStart, Unavailable};

/// Name and version of the schema.
pub const SCHEMA: &str = "g211s.allocs/1";

/// The document.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Document {
    /// [`SCHEMA`].
    pub schema: &'static str,
    /// Whose.
    pub target: TargetInfo,
    /// How it was observed.
    pub run: RunInfo,
    /// What was allocated in all.
    pub total: TotalInfo,
    /// The call sites, those with the most bytes first.
    pub sites: Vec<SiteInfo>,
    /// What no site could be told of.
    pub unattributed: UnattributedInfo,
    /// What became of the kernel side's events.
    pub events: EventsInfo,
    /// What it cost the target.
    pub cost: CostInfo,
    /// What does not work here, and why.
    pub unavailable: Vec<Unavailable>,
    /// What was said during the run.
    pub notices: Vec<String>,
}

/// A process.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct TargetInfo {
    /// Its PID.
    pub pid: u32,
    /// Its name.
    pub comm: String,
    /// Its Go version.
    pub go_version: String,
    /// Its main module.
    pub module: Option<String>,
}

/// How a run went.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct RunInfo {
    /// Version of g211s.
    pub g211s_version: String,
    /// When it began, ns since 1970.
    pub wall_ns: u64,
    /// The same by the monotonic clock, ns.
    pub start_ns: u64,
    /// Length of the window, ns.
    pub window_ns: u64,
    /// For how long of it probes were attached, ns.
    pub observed_ns: u64,
    /// Stays of the probes.
    pub looks: u32,
    /// Every allocation was counted.
    pub exact: bool,
    /// What was attached when, and why.
    pub plans: Vec<PlanInfo>,
    /// Why it ended; `None`: the recording was cut off.
    pub ended: Option<String>,
}

/// A plan.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct PlanInfo {
    /// When it began, ns after the window did.
    pub from_ns: u64,
    /// `exact`, `next_free`, `refill` or `resting`.
    pub plan: String,
    /// Why.
    pub why: String,
}

/// All allocations.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct TotalInfo {
    /// Bytes: by the runtime's own count, where `counted`; asked for, where every allocation was counted.
    pub bytes: u64,
    /// Objects; of those that share a block of 16 bytes, the blocks.
    pub objects: u64,
    /// The runtime counted them, or we did one by one; else they are extrapolated from samples.
    pub counted: bool,
    /// Collections in the window.
    pub gc_cycles: Option<u32>,
    /// From one to the next, ns, on average.
    pub gc_every_ns: Option<u64>,
}

/// A call site.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct SiteInfo {
    /// The function that allocates.
    pub function: String,
    /// Its file.
    pub file: Option<String>,
    /// The line.
    pub line: Option<u32>,
    /// Bytes allocated in the window.
    pub bytes: u64,
    /// 95 % interval of `bytes`.
    pub bytes_low: u64,
    /// See `bytes_low`.
    pub bytes_high: u64,
    /// Part of all bytes.
    pub share: f64,
    /// Objects.
    pub objects: u64,
    /// Samples that this rests on.
    pub samples: u64,
}

/// What has no site.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct UnattributedInfo {
    /// Bytes of size classes that were allocated, but not sampled.
    pub unsampled_bytes: u64,
    /// Bytes whose stack is not known.
    pub unknown_stack_bytes: u64,
    /// Share of both of all bytes.
    pub share: f64,
}

/// Events of the kernel side.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct EventsInfo {
    /// Wanted to be sent.
    pub produced: u64,
    /// Found the ring full.
    pub lost: u64,
    /// Arrived.
    pub received: u64,
    /// Arrived and are no events.
    pub undecodable: u64,
}

/// What the target paid.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct CostInfo {
    /// Share of its CPU time that was allowed; `None` where every allocation was counted.
    pub budget: Option<f64>,
    /// As what part of a CPU its CPU time counted at least, for that.
    pub budget_least_cpus: f64,
    /// What a hit costs here, ns, measured at the start on g211s itself.
    pub hit_ns: u64,
    /// Hits.
    pub hits: u64,
    /// Both multiplied, ns.
    pub spent_ns: u64,
    /// CPU time of the target in the window, ns, with that in it.
    pub target_cpu_ns: u64,
    /// `spent_ns` as a part of that.
    pub share: f64,
    /// All that the budget was charged, ns: `spent_ns`, the coming and going of probes, and what g211s did about hits
    /// meanwhile. `None` where every allocation was counted.
    pub charged_ns: Option<u64>,
    /// `charged_ns` as a part of `target_cpu_ns`.
    pub charged_share: Option<f64>,
    /// CPU time of g211s, ns, start and end included.
    pub agent_cpu_ns: u64,
    /// Its largest resident set, bytes.
    pub agent_max_rss_bytes: u64,
}

/// The document of a run.
pub fn document(model: &Model) -> Document {
    let a = &model.allocations;
    let observed = a.observed();
    let exact = a.run().exact;
    let mut by_site = a.by(|stack| {
        let frame = (stack != NO_STACK).then(|| model.site(stack)).flatten();
        Some(frame.map(|f| (f.function.clone(), f.file.clone(), f.line)))
    });
    let nowhere = by_site.remove(&None).unwrap_or_default();
    let all: f64 = by_site.values().map(|e| e.bytes).sum::<f64>() + nowhere.bytes;
    let (total, unknown) = totals(model, &observed, all, &nowhere);
    let of_all = |bytes: f64| if total.bytes == 0 { 0.0 } else { bytes / total.bytes as f64 };
    let mut sites: Vec<SiteInfo> = by_site
        .into_iter()
        .filter_map(|(site, e)| site.map(|site| (site, e)))
        .map(|((function, file, line), e)| SiteInfo {
            function,
            file,
            line,
            bytes: e.bytes.round() as u64,
            bytes_low: e.bytes_low.round() as u64,
            bytes_high: e.bytes_high.round() as u64,
            share: of_all(e.bytes),
            objects: e.objects.round() as u64,
            samples: e.samples,
        })
        .collect();
    sites.sort_by(|a, b| {
        b.bytes.cmp(&a.bytes).then_with(|| (&a.function, a.line).cmp(&(&b.function, b.line)))
    });
    let unattributed = UnattributedInfo {
        unsampled_bytes: observed.unsampled_bytes,
        unknown_stack_bytes: unknown,
        share: of_all(observed.unsampled_bytes.saturating_add(unknown) as f64),
    };
    let start_ns = observed.start_ns;
    let plans = a.plans().iter().map(|(at, plan, why)| PlanInfo {
        from_ns: at.saturating_sub(start_ns),
        plan: plan.clone(),
        why: why.clone(),
    });
    Document {
        schema: SCHEMA,
        target: target(model.start.as_ref()),
        run: RunInfo {
            g211s_version: model
                .start
                .as_ref()
                .map_or_else(String::new, |s| s.g211s_version.clone()),
            wall_ns: model.start.as_ref().map_or(0, |s| s.wall_ns),
            start_ns: observed.start_ns,
            window_ns: observed.window_ns,
            observed_ns: observed.observed_ns,
            looks: observed.looks,
            exact,
            plans: plans.collect(),
            ended: model.end.as_ref().map(|e| e.reason.clone()),
        },
        total,
        sites,
        unattributed,
        events: events(model.end.as_ref()),
        cost: cost(model, &observed),
        unavailable: model
            .start
            .as_ref()
            .and_then(|s| s.targets.first())
            .map(|t| t.unavailable.clone())
            .unwrap_or_default(),
        notices: model.notices.iter().map(|n| n.text.clone()).collect(),
    }
}

/// The totals, and the bytes whose stack is not known.
fn totals(model: &Model, observed: &Observed, all: f64, nowhere: &Estimate) -> (TotalInfo, u64) {
    let exact = model.allocations.run().exact;
    let unknown = model.allocations.unknown();
    let cycles = observed.cycles;
    let every = cycles.filter(|n| *n > 0).map(|n| observed.window_ns / u64::from(n));
    let total = TotalInfo { gc_cycles: cycles, gc_every_ns: every, ..TotalInfo::default() };
    if exact {
        let sum = model.allocations.by(|_| Some(())).remove(&()).unwrap_or_default();
        let bytes = (sum.bytes as u64).saturating_add(unknown.1);
        let objects = (sum.objects as u64).saturating_add(unknown.0);
        return (TotalInfo { bytes, objects, counted: true, ..total }, unknown.1);
    }
    let total =
        if let (Some(bytes), Some(objects)) = (observed.counted_bytes, observed.counted_objects) {
            TotalInfo { bytes, objects, counted: true, ..total }
        } else {
            let sum = model.allocations.by(|_| Some(())).remove(&()).unwrap_or_default();
            TotalInfo { bytes: all as u64, objects: sum.objects as u64, counted: false, ..total }
        };
    (total, nowhere.bytes.round() as u64)
}

fn target(start: Option<&RunStart>) -> TargetInfo {
    let Some(t) = start.and_then(|s| s.targets.first()) else { return TargetInfo::default() };
    TargetInfo {
        pid: t.pid,
        comm: t.comm.clone(),
        go_version: t.go_version.clone(),
        module: t.module.clone(),
    }
}

fn events(end: Option<&RunEnd>) -> EventsInfo {
    let Some(end) = end else { return EventsInfo::default() };
    let of = |counts: &std::collections::BTreeMap<String, u64>| {
        counts.get("alloc").copied().unwrap_or(0)
    };
    EventsInfo {
        produced: of(&end.produced),
        lost: of(&end.lost),
        received: of(&end.received),
        undecodable: end.undecodable,
    }
}

fn cost(model: &Model, observed: &Observed) -> CostInfo {
    let run = model.allocations.run();
    let spent_ns = observed.hits.saturating_mul(run.cost_ns);
    let part =
        |ns: u64| if observed.cpu_ns == 0 { 0.0 } else { ns as f64 / observed.cpu_ns as f64 };
    let charged_ns = observed.charged_ns.filter(|_| !run.exact);
    CostInfo {
        budget: (!run.exact).then_some(run.budget),
        budget_least_cpus: LEAST_CPU,
        hit_ns: run.cost_ns,
        hits: observed.hits,
        spent_ns,
        target_cpu_ns: observed.cpu_ns,
        share: part(spent_ns),
        charged_ns,
        charged_share: charged_ns.map(part),
        agent_cpu_ns: model.end.as_ref().map_or(0, |e| e.cost.agent_cpu_ns),
        agent_max_rss_bytes: model.end.as_ref().map_or(0, |e| e.cost.agent_max_rss_bytes),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::allocs::text::text;
    use crate::record::{
        AllocDensity, AllocRun, AllocSample, AllocSamples, AllocStack, AllocState, AllocSums,
        AllocTotals, Record, SymbolFrame, SymbolInfo,
    };

    fn state(ts_ns: u64, objects: u64) -> Record {
        let totals = AllocTotals {
            small: [(6, objects), (7, objects)].into(),
            large: objects,
            large_bytes: objects,
            tiny: objects,
        };
        Record::AllocState(Box::new(AllocState {
            ts_ns,
            plan: "refill\x1b[2J".into(),
            totals: Some(totals),
            cycles: Some(objects as u32),
            cpu_ns: objects,
            hits: objects,
            observed_ns: ts_ns,
            looks: 1,
            ..AllocState::default()
        }))
    }

    fn sample(objects: u64, stack: u32, look: u32) -> Record {
        let sample = AllocSample {
            ts_ns: 0,
            tid: 1,
            density: AllocDensity::Refill,
            stack,
            span_class: 13,
            size: objects,
            objects,
            address: 0,
            sweepgen: 2,
            look,
        };
        Record::AllocSamples(Box::new(AllocSamples { target: 0, samples: vec![sample, sample] }))
    }

    #[test]
    fn a_hostile_recording_is_only_wrong() {
        for exact in [false, true] {
            let mut model = Model::default();
            let run =
                AllocRun { budget: f64::NAN, cost_ns: u64::MAX, exact, ..AllocRun::default() };
            let frame = SymbolFrame {
                function: "main.\x1b]0;f\x07".into(),
                file: Some("\u{202e}f.go".into()),
                line: Some(1),
                inlined: false,
            };
            for record in [
                Record::AllocRun(Box::new(run)),
                Record::Symbol(Box::new(SymbolInfo { target: 0, address: 5, frames: vec![frame] })),
                Record::AllocStack(Box::new(AllocStack {
                    target: 0,
                    id: 0,
                    addresses: vec![5, 5, u64::MAX],
                })),
                state(0, 0),
                sample(u64::MAX, 0, 0),
                sample(1, 1, u32::MAX),
                sample(u64::MAX, NO_STACK, 3),
                Record::AllocSums(Box::new(AllocSums {
                    target: 0,
                    stacks: vec![(0, u64::MAX, u64::MAX); 3],
                    unknown: (u64::MAX, u64::MAX),
                })),
                state(u64::MAX, u64::MAX),
            ] {
                model.push(record);
            }
            let document = document(&model);
            assert!(!document.sites.is_empty());
            let text = text(&document, 5);
            assert!(!text.contains(['\x1b', '\x07', '\u{202e}']), "{text}");
            assert!(serde_json::to_string(&document).is_ok());
        }
    }
}
