//! The second pass: takes the records once more, and of each only what the pictures need. Must not know how a page
//! looks.

use std::collections::BTreeMap;

use g211s_ebpf::event::{ProbeEvent, Site, SliceEvent, ThreadEvent};
use serde::Serialize;

use super::heat::{self, Heat};
use super::lanes::{self, Bins, Island, Lane};
use super::plan::{Plan, plans};
use super::together::{self, Together};
use crate::event::Event;
use crate::order::Order;
use crate::record::Record;
use crate::report::Report;
use crate::report::schema::TargetReport;

/// CPUs that have a lane.
const CPUS: usize = 64;
/// Pieces of threads, and again of CPUs, in all islands of all targets.
const PIECES: usize = 24_000;
/// … and in one, where others would be left with less.
const PIECES_OF_ONE: usize = 4_000;

/// What the pictures of one target show.
#[derive(Clone, Debug, Serialize)]
pub(super) struct TargetPictures {
    /// Every transition was recorded.
    pub(super) full: bool,
    /// Length of a bin, ns.
    bin_ns: u64,
    /// Threads over the window.
    pub(super) lanes: Vec<Lane>,
    /// CPUs over the window.
    pub(super) cpus: Vec<Lane>,
    /// All that is known around the worst pauses.
    pub(super) islands: Vec<Island>,
    /// Latency by time.
    pub(super) heat: Heat,
    /// Counters by time.
    pub(super) together: Together,
}

/// One target's pictures as they fill.
#[derive(Clone, Debug)]
struct Target {
    lanes: BTreeMap<u32, Bins>,
    islands: Vec<lanes::Filling>,
    heat: heat::Filling,
    together: together::Filling,
}

impl Target {
    fn new(plan: &Plan) -> Self {
        Self {
            lanes: plan.tids.iter().map(|tid| (*tid, Bins::new(plan.window))).collect(),
            islands: plan.islands.iter().map(|i| lanes::Filling::new(*i)).collect(),
            heat: heat::Filling::new(plan.window),
            together: together::Filling::default(),
        }
    }

    /// The islands that a stretch of time reaches into.
    fn islands(
        &mut self,
        plan: &Plan,
        from: u64,
        to: u64,
    ) -> impl Iterator<Item = &mut lanes::Filling> {
        let first = plan.islands.partition_point(|i| i.1 <= from);
        let last = plan.islands.partition_point(|i| i.0 < to).max(first);
        self.islands.get_mut(first..last).unwrap_or_default().iter_mut()
    }

    fn thread(&mut self, plan: &Plan, e: &ThreadEvent) {
        self.heat.thread(e);
        let Some(bins) = self.lanes.get_mut(&e.header.tid) else { return };
        bins.thread(e);
        if e.since_ns != 0 {
            self.islands(plan, e.since_ns, e.header.ts_ns).for_each(|i| i.thread(e));
        }
    }

    fn slice(&mut self, plan: &Plan, e: &SliceEvent) {
        self.islands(plan, e.start_ns, e.end_ns).for_each(|i| i.slice(e));
    }

    fn probe(&mut self, plan: &Plan, e: &ProbeEvent) {
        let ts = e.header.ts_ns;
        if e.site == Site::GcStopM as u32 && self.lanes.contains_key(&e.header.tid) {
            self.islands(plan, ts, ts.saturating_add(1)).for_each(|i| i.gave_up(e.header.tid, ts));
        }
    }
}

/// What the second pass has taken so far.
#[derive(Debug)]
pub(super) struct Collector {
    plans: Vec<Plan>,
    targets: Vec<Target>,
    /// Their processes, in the initial PID namespace.
    tgids: Vec<u32>,
    observer: u32,
    full: bool,
    names: BTreeMap<(u8, u32), (Option<u64>, String)>,
    /// CPUs over the window; whose they are is another question for each target.
    cpus: Vec<BTreeMap<u16, Bins>>,
    order: Order,
}

/// What is not shown as a picture, and what is.
pub(super) struct Pictures {
    /// By target.
    pub(super) plans: Vec<Plan>,
    /// By target.
    pub(super) filled: Vec<Filled>,
}

/// One target's pictures, but for what the report knows of it.
pub(super) struct Filled {
    full: bool,
    lanes: Vec<Lane>,
    cpus: Vec<Lane>,
    bin_ns: u64,
    islands: Vec<Island>,
    heat: heat::Filling,
    together: together::Filling,
}

impl Filled {
    /// The pictures.
    pub(super) fn with(self, t: &TargetReport) -> TargetPictures {
        TargetPictures {
            full: self.full,
            bin_ns: self.bin_ns,
            lanes: self.lanes,
            cpus: self.cpus,
            islands: self.islands,
            heat: self.heat.finish(&t.stw),
            together: self.together.finish(t),
        }
    }
}

impl Collector {
    /// For the pauses of this report.
    pub(super) fn new(report: &Report) -> Self {
        let plans = plans(report);
        let all = std::iter::once(&report.first).chain(&report.others);
        let settings = report.run.settings.as_ref();
        Self {
            targets: plans.iter().map(Target::new).collect(),
            cpus: vec![BTreeMap::new(); plans.len()],
            plans,
            tgids: all.map(|t| t.target.tgid).collect(),
            observer: settings.map_or(0, |s| s.observer_pid),
            full: settings.is_some_and(|s| s.full),
            names: BTreeMap::new(),
            order: Order::default(),
        }
    }

    /// Takes the next record.
    pub(super) fn push(&mut self, record: Record) {
        match record {
            // What is not of its time would make everything after it late: the report calls it stray.
            Record::Event(event) if event.header().ts_ns < 1 << 58 => {
                let Self { plans, targets, tgids, cpus, order, .. } = self;
                order.push(event, &mut |e| event_of(plans, targets, tgids, cpus, &e));
            }
            Record::Interval(interval) => {
                if let Some(t) = self.targets.get_mut(usize::from(interval.target)) {
                    t.together.interval(&interval);
                }
            }
            Record::Waits(waits) => {
                if let Some(t) = self.targets.get_mut(usize::from(waits.target)) {
                    t.heat.ticks(&waits);
                }
            }
            Record::Hists(hists) => {
                if let Some(t) = self.targets.get_mut(usize::from(hists.target)) {
                    t.heat.hists(&hists);
                }
            }
            Record::Thread(t) => {
                let wanted = self
                    .targets
                    .get(usize::from(t.target))
                    .is_some_and(|x| x.lanes.contains_key(&t.tid));
                if wanted {
                    let comm = crate::report::format::clean(&t.comm);
                    self.names.insert((t.target, t.tid), (t.m_id, comm));
                }
            }
            _ => {}
        }
    }

    /// What there is to show.
    pub(super) fn finish(mut self) -> Pictures {
        let Self { plans, targets, tgids, cpus, order, .. } = &mut self;
        order.finish(&mut |e| event_of(plans, targets, tgids, cpus, &e));
        let islands: usize = self.plans.iter().map(|p| p.islands.len()).sum();
        let pieces = (PIECES / islands.max(1)).min(PIECES_OF_ONE);
        let mut filled = Vec::new();
        let targets =
            std::mem::take(&mut self.targets).into_iter().zip(&self.plans).zip(&self.cpus);
        for (index, ((target, plan), cpus)) in targets.enumerate() {
            let own = self.tgids.get(index).copied().unwrap_or(0);
            let lane = |tid: &u32| {
                let (m, name) = self
                    .names
                    .get(&(index as u8, *tid))
                    .cloned()
                    .map_or((None, None), |(m, n)| (m, Some(n)));
                target.lanes.get(tid).map(|bins| Lane { m, name, ..Lane::new(*tid, bins) })
            };
            let mut lanes: Vec<Lane> = plan.tids.iter().filter_map(lane).collect();
            lanes.sort_by_key(|l| (l.m.is_none(), l.m, l.id));
            let finish = |i: lanes::Filling| i.finish(plan.window.0, own, self.observer, pieces);
            filled.push(Filled {
                full: self.full,
                lanes,
                cpus: cpus.iter().map(|(cpu, bins)| Lane::new(u32::from(*cpu), bins)).collect(),
                bin_ns: plan
                    .window
                    .1
                    .saturating_sub(plan.window.0)
                    .div_ceil(lanes::BINS as u64)
                    .max(1),
                islands: target.islands.into_iter().map(finish).collect(),
                heat: target.heat,
                together: target.together,
            });
        }
        Pictures { plans: self.plans, filled }
    }
}

/// Takes an event in its place in time.
fn event_of(
    plans: &[Plan],
    targets: &mut [Target],
    tgids: &[u32],
    cpus: &mut [BTreeMap<u16, Bins>],
    event: &Event,
) {
    if let Event::Slice(e) = event {
        // Who ran on a CPU is of all targets.
        if e.start_ns >= e.end_ns || e.end_ns > e.header.ts_ns {
            return;
        }
        for (i, target) in targets.iter_mut().enumerate() {
            target.slice(&plans[i], e);
            let known = cpus[i].len();
            if known < CPUS || cpus[i].contains_key(&e.header.cpu) {
                let bins =
                    cpus[i].entry(e.header.cpu).or_insert_with(|| Bins::new(plans[i].window));
                bins.slice(e, tgids.get(i) == Some(&e.tgid));
            }
        }
        return;
    }
    let index = usize::from(event.header().target);
    let (Some(target), Some(plan)) = (targets.get_mut(index), plans.get(index)) else { return };
    match event {
        Event::Thread(e) => target.thread(plan, e),
        Event::Probe(e) => target.probe(plan, e),
        _ => {}
    }
}
