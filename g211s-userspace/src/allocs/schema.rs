//! What came of a run that followed allocations, as JSON has it (schema `g211s.allocs/1`, `docs/allocs-schema.md`). Must not
//! know BPF, processes, or how a text looks.

use std::collections::BTreeMap;

use serde::Serialize;

use super::collections::{Decides, ENOUGH};
use super::decode::NO_STACK;
use super::model::Model;
use crate::account::LEAST_CPU;
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
    /// What that has to do with collections; `None` where the runtime's counters cannot be read.
    pub gc: Option<GcInfo>,
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

/// Collections in the window, and what they cost.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct GcInfo {
    /// Cycles that ended.
    pub cycles: u64,
    /// From one to the next, ns, on average.
    pub every_ns: Option<u64>,
    /// Cycles that the program asked for (`runtime.GC`).
    pub forced: u64,
    /// Bytes allocated per cycle.
    pub bytes_per_cycle: Option<u64>,
    /// The collector's stops of the world.
    pub pauses: PausesInfo,
    /// Mark assists: what goroutines did for the collector because they allocated while it marked.
    pub assists: Option<AssistsInfo>,
    /// What decides how often cycles come.
    pub goal: Option<GoalInfo>,
}

/// Stops of the world by the collector.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct PausesInfo {
    /// How many: two a cycle. `None` where the runtime's histogram cannot be read.
    pub count: Option<u64>,
    /// From one to the next, ns, on average.
    pub every_ns: Option<u64>,
    /// Their length altogether, ns.
    pub total_ns: u64,
}

/// Mark assists.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct AssistsInfo {
    /// Their CPU time in the cycles that ended, ns (`/cpu/classes/gc/mark/assist`): by the clock, so waits for a CPU are in
    /// it.
    pub cpu_ns: u64,
    /// As a part of the process's CPU time in the window.
    pub cpu_share: f64,
    /// Cycles whose marking was seen.
    pub marks: u64,
    /// How long they marked on average, ns.
    pub mark_ns: Option<u64>,
    /// Samples that fell into marking.
    pub samples: u64,
    /// Whether the sites' `assist_share` is of bytes allocated while the collector marked; otherwise there are too few
    /// samples of that, and it is their share of all bytes.
    pub by_marking: bool,
    /// Which part of the assists the sites explain.
    pub explained_share: f64,
}

/// The heap's goal.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct GoalInfo {
    /// What the heap may grow to until a cycle is over, bytes, median of the window.
    pub goal_bytes: u64,
    /// What cycles left alive, median.
    pub live_bytes: u64,
    /// GOGC, per cent; `None`: off.
    pub gogc: Option<i32>,
    /// GOMEMLIMIT, bytes; `None`: none.
    pub memory_limit_bytes: Option<u64>,
    /// What decides how often cycles come: `gogc`, `minimum` (the least heap, 4 MiB × GOGC / 100), `memory_limit`, or
    /// `program` (`runtime.GC`).
    pub decided_by: String,
    /// Settings that give this frequency, at this rate of allocation and with as much alive.
    pub same: SettingInfo,
    /// Settings that give half of it.
    pub half: SettingInfo,
}

/// Settings: either gives the frequency.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct SettingInfo {
    /// The goal.
    pub goal_bytes: u64,
    /// GOGC without a memory limit.
    pub gogc: Option<u32>,
    /// GOMEMLIMIT with GOGC off.
    pub memory_limit_bytes: Option<u64>,
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
    /// Part of all bytes: its part in how often cycles come, too.
    pub share: f64,
    /// Objects.
    pub objects: u64,
    /// Samples that this rests on.
    pub samples: u64,
    /// Its part of the mark assists (see `AssistsInfo::by_marking`), and that in ns of CPU time.
    pub assist_share: Option<f64>,
    /// See `assist_share`.
    pub assist_ns: Option<u64>,
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
    let mut by_site = a.by(|stack| Some(site_of(model, stack)));
    let nowhere = by_site.remove(&None).unwrap_or_default();
    let all: f64 = by_site.values().map(|e| e.bytes).sum::<f64>() + nowhere.bytes;
    let (total, unknown) = totals(model, &observed, all, &nowhere);
    let of_all = |bytes: f64| if total.bytes == 0 { 0.0 } else { bytes / total.bytes as f64 };
    let window = Window { bytes: total.bytes, ns: observed.window_ns, cpu_ns: observed.cpu_ns };
    let shares: Vec<(Site, f64)> =
        by_site.iter().filter_map(|(site, e)| Some((site.clone()?, of_all(e.bytes)))).collect();
    let (gc, assists) = gc_info(model, &window, &shares);
    let mut sites: Vec<SiteInfo> = by_site
        .into_iter()
        .filter_map(|(site, e)| site.map(|site| (site, e)))
        .map(|(site, e)| (assists.get(&site).copied(), site, e))
        .map(|(assist, (function, file, line), e)| SiteInfo {
            function,
            file,
            line,
            assist_share: assist.map(|a| a.0),
            assist_ns: assist.map(|a| a.1),
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
        gc,
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

/// A call site: function, file, line.
type Site = (String, Option<String>, Option<u32>);

fn site_of(model: &Model, stack: u32) -> Option<Site> {
    let frame = (stack != NO_STACK).then(|| model.site(stack)).flatten()?;
    Some((frame.function.clone(), frame.file.clone(), frame.line))
}

/// What a window had.
struct Window {
    bytes: u64,
    ns: u64,
    cpu_ns: u64,
}

/// What happened in terms of collections, and each site's part of the mark assists: as a share, and ns.
fn gc_info(
    model: &Model,
    window: &Window,
    shares: &[(Site, f64)],
) -> (Option<GcInfo>, BTreeMap<Site, (f64, u64)>) {
    let Some(happened) = model.collections.happened() else { return (None, BTreeMap::new()) };
    let (by_stack, all) = model.collections.in_marks();
    let by_marking = all.samples >= ENOUGH && all.bytes > 0.0;
    let mut parts: BTreeMap<Site, f64> = BTreeMap::new();
    if by_marking {
        for (stack, weight) in by_stack {
            if let Some(site) = site_of(model, *stack) {
                *parts.entry(site).or_default() += weight.bytes / all.bytes;
            }
        }
    } else {
        parts.extend(shares.iter().cloned());
    }
    let every = |n: u64| (n > 0).then(|| window.ns / n);
    let assists = happened.assist_ns.map(|cpu_ns| AssistsInfo {
        cpu_ns,
        cpu_share: if window.cpu_ns == 0 { 0.0 } else { cpu_ns as f64 / window.cpu_ns as f64 },
        marks: happened.marks,
        mark_ns: happened.mark_ns,
        samples: all.samples,
        by_marking,
        explained_share: parts.values().sum::<f64>().min(1.0),
    });
    let told = happened.assist_ns.map_or_else(BTreeMap::new, |ns| {
        parts.into_iter().map(|(site, part)| (site, (part, (part * ns as f64) as u64))).collect()
    });
    let info = GcInfo {
        cycles: happened.cycles,
        every_ns: every(happened.cycles),
        forced: happened.forced,
        bytes_per_cycle: window.bytes.checked_div(happened.cycles),
        pauses: PausesInfo {
            count: happened.pauses,
            every_ns: happened.pauses.and_then(every),
            total_ns: happened.pauses_ns,
        },
        assists,
        goal: happened.goal.map(|g| GoalInfo {
            goal_bytes: g.bytes,
            live_bytes: g.live_bytes,
            gogc: g.gogc,
            memory_limit_bytes: g.memory_limit,
            decided_by: match g.decides {
                Decides::Gogc => "gogc",
                Decides::Minimum => "minimum",
                Decides::MemoryLimit => "memory_limit",
                Decides::Program => "program",
            }
            .to_owned(),
            same: SettingInfo {
                goal_bytes: g.bytes,
                gogc: g.same_gogc,
                memory_limit_bytes: g.same_limit,
            },
            half: SettingInfo {
                goal_bytes: g.half_goal,
                gogc: g.half_gogc,
                memory_limit_bytes: g.half_limit,
            },
        }),
    };
    (Some(info), told)
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
