//! The tracks of one target besides its threads: spans as they are recorded, counters, and at the end what the report
//! says of stops and cycles. Must not know threads' states or files.

use std::collections::BTreeMap;

use anyhow::Result;
use g211s_ebpf::event::{NO_SYSCALL, SpanEvent, SpanWhat, p_of_span};
use g211s_ebpf::series::TICK_NS;

use super::names::{Kind, Told, syscall, track};
use super::proto::{
    BY_RANK, CounterDescriptor, ProcessDescriptor, TrackDescriptor, UNIT_BYTES, UNIT_COUNT, UNIT_NS,
};
use super::trace::{Arg, Count, Lane, Lanes, Slice, Trace, Value};
use crate::model::waits::WaitSeries;
use crate::record::{Notice, RuntimeSample, Target};
use crate::report::format::clean;
use crate::report::schema::{CauseReport, PartOfStop, StwReport, TargetReport};
use crate::report::sentence;

/// Ps that have tracks at most.
const MAX_PS: usize = 4096;

type Of = Slice<Told>;

/// A track of a target's process.
fn child(index: usize, kind: Kind, which: u32, lane: usize, name: &str) -> TrackDescriptor {
    TrackDescriptor {
        uuid: Some(track(kind, index, which, lane)),
        parent_uuid: Some(track(Kind::Process, index, 0, 0)),
        name: Some(name.to_owned()),
        sibling_order_rank: Some(kind as i32),
        ..TrackDescriptor::default()
    }
}

/// The next lane of a track of a target's process.
fn open(
    trace: &mut Trace,
    (index, kind, which, lane): (usize, Kind, u32, usize),
    name: &str,
    category: &'static str,
) -> Result<Lane<Told>> {
    trace.declare(child(index, kind, which, lane, name))?;
    Ok(trace.lane(track(kind, index, which, lane), category))
}

/// A counter, and the value it shows.
struct Counter {
    lane: Lane<Told>,
    last: Option<Count>,
}

impl Counter {
    fn set(&mut self, trace: &mut Trace, ts_ns: u64, value: Count) -> Result<()> {
        if self.last == Some(value) {
            return Ok(());
        }
        self.last = Some(value);
        trace.count(&mut self.lane, ts_ns, value)
    }
}

/// The counters, in their order: name, unit, the unit's name.
const COUNTERS: [(&str, i32, Option<&str>); 5] = [
    ("Live heap", UNIT_BYTES, None),
    ("Heap goal", UNIT_BYTES, None),
    ("Goroutines", UNIT_COUNT, None),
    ("Threads waiting for a CPU", 0, Some("threads")),
    ("Mean wait for a CPU", UNIT_NS, None),
];

/// The tracks of one target.
pub(super) struct TargetTracks {
    index: usize,
    network: Lanes<Told>,
    assists: Lanes<Told>,
    held: BTreeMap<u32, Lanes<Told>>,
    counters: Vec<Option<Counter>>,
    notices: Option<Lane<Told>>,
    /// What found no room.
    pub(super) left_out: u64,
}

impl TargetTracks {
    pub(super) fn new(trace: &mut Trace, index: usize, target: &Target) -> Result<Self> {
        let exe = clean(&target.exe);
        let labels = [clean(&target.go_version), clean(target.module.as_deref().unwrap_or(&exe))];
        trace.declare(TrackDescriptor {
            uuid: Some(track(Kind::Process, index, 0, 0)),
            process: Some(ProcessDescriptor {
                pid: i32::try_from(target.tgid).ok(),
                process_name: Some(clean(&target.comm)),
                process_labels: labels.to_vec(),
            }),
            child_ordering: Some(BY_RANK),
            ..TrackDescriptor::default()
        })?;
        Ok(Self {
            index,
            network: Lanes::new(),
            assists: Lanes::new(),
            held: BTreeMap::new(),
            counters: (0..COUNTERS.len()).map(|_| None).collect(),
            notices: None,
            left_out: 0,
        })
    }

    /// Something took time.
    pub(super) fn span(&mut self, trace: &mut Trace, e: &SpanEvent) -> Result<()> {
        let (start, end) = (e.start_ns, e.header.ts_ns);
        if start == 0 || start >= end {
            return Ok(());
        }
        let index = self.index;
        let number = |n: u64| Value::Number(n);
        let mut args: Vec<Arg> = vec![("tid", number(e.header.tid.into()))];
        let put = match SpanWhat::from_u32(e.what) {
            Some(SpanWhat::Harvest) => {
                args.push(("events", Value::Signed(e.detail.into())));
                if e.middle_ns != 0 {
                    args.push(("woken_ns", number(e.middle_ns)));
                }
                let name = Told::Fixed("a socket was ready");
                let slice = Slice { args, ..Slice::new(start, end, name) };
                self.network.put(trace, slice, |trace, lane| {
                    let name = "Network: ready until a poll took it";
                    open(trace, (index, Kind::Network, 0, lane), name, "network")
                })?
            }
            Some(SpanWhat::AssistPark) => {
                if e.id != 0 {
                    args.push(("goroutine", number(e.id)));
                }
                let name = Told::Fixed("a goroutine waited for the collector");
                let slice = Slice { args, ..Slice::new(start, end, name) };
                self.assists.put(trace, slice, |trace, lane| {
                    open(trace, (index, Kind::Assists, 0, lane), "Mark assists", "assist")
                })?
            }
            Some(SpanWhat::PHeld) => {
                let (p, queued) = p_of_span(e.id);
                if !self.held.contains_key(&p) && self.held.len() >= MAX_PS {
                    self.left_out += 1;
                    return Ok(());
                }
                if e.middle_ns != 0 {
                    args.push(("taken_by_the_runtime", Value::Flag(true)));
                    args.push(("goroutines_queued", number(queued.into())));
                }
                let name = match e.detail {
                    NO_SYSCALL => Told::Fixed("kept by a preempted thread"),
                    nr if nr >= 0 => Told::HeldIn(nr),
                    _ => Told::Fixed("kept in a page fault, or stopped"),
                };
                let slice = Slice { args, ..Slice::new(start, end, name) };
                self.held.entry(p).or_insert_with(Lanes::new).put(trace, slice, |trace, lane| {
                    let name = format!("P {p} kept by a thread on no CPU");
                    open(trace, (index, Kind::Held, p, lane), &name, "p")
                })?
            }
            None => true,
        };
        self.left_out += u64::from(!put);
        Ok(())
    }

    fn count(&mut self, trace: &mut Trace, which: usize, ts_ns: u64, value: Count) -> Result<()> {
        if self.counters[which].is_none() {
            let (name, unit, unit_name) = COUNTERS[which];
            let descriptor = child(self.index, Kind::Counter, which as u32, 0, name);
            trace.declare(TrackDescriptor {
                counter: Some(CounterDescriptor {
                    unit: Some(unit),
                    unit_name: unit_name.map(str::to_owned),
                }),
                sibling_order_rank: Some(-10 + which as i32),
                ..descriptor
            })?;
            let lane = trace.lane(track(Kind::Counter, self.index, which as u32, 0), "counter");
            self.counters[which] = Some(Counter { lane, last: None });
        }
        match &mut self.counters[which] {
            Some(counter) => counter.set(trace, ts_ns, value),
            None => Ok(()),
        }
    }

    /// The runtime's own counters.
    pub(super) fn sample(&mut self, trace: &mut Trace, s: &RuntimeSample) -> Result<()> {
        if let Some(heap) = &s.heap {
            self.count(trace, 0, s.end_ns, Count::Whole(heap.live))?;
            if let Some(goal) = heap.goal {
                self.count(trace, 1, s.end_ns, Count::Whole(goal))?;
            }
        }
        if let Some(n) = s.goroutines.as_ref().and_then(|g| g.count) {
            self.count(trace, 2, s.end_ns, Count::Whole(n))?;
        }
        Ok(())
    }

    /// What the user was told.
    pub(super) fn notice(&mut self, trace: &mut Trace, notice: &Notice) -> Result<()> {
        if self.notices.is_none() {
            self.notices =
                Some(open(trace, (self.index, Kind::Notices, 0, 0), "Notices", "notice")?);
        }
        let Some(lane) = &mut self.notices else { return Ok(()) };
        let mut slice = Slice::new(notice.ts_ns, notice.ts_ns, Told::Fixed("notice"));
        slice.args = vec![("text", Value::Text(clean(&notice.text)))];
        let put = trace.slice(lane, slice)?;
        self.left_out += u64::from(!put);
        Ok(())
    }

    /// Waits for a CPU over time: how many threads waited, and how long the waits were that ended.
    pub(super) fn waits(&mut self, trace: &mut Trace, series: &WaitSeries) -> Result<()> {
        let Some((from, to)) = series.span() else { return Ok(()) };
        let mut at = from;
        while at < to {
            if let Some(load) = series.load(at, at + TICK_NS) {
                self.count(trace, 3, at, Count::Part(load.depth))?;
                let mean = if load.waits > 0.0 { load.waited_ns / load.waits } else { 0.0 };
                self.count(trace, 4, at, Count::Part(mean))?;
            }
            at += TICK_NS;
        }
        Ok(())
    }

    /// What the report says of stops and cycles.
    pub(super) fn report(&mut self, trace: &mut Trace, report: &TargetReport) -> Result<()> {
        let mut cycles = Lanes::new();
        let mut all: Vec<Of> = report.gc.cycles.iter().map(cycle).collect();
        all.extend(report.gc.incomplete.iter().filter_map(|c| {
            let at = c.start_ns.or(c.end_ns)?;
            let (from, to) = (c.start_ns.unwrap_or(at), c.end_ns.unwrap_or(at));
            let mut part = Slice::new(from, to.max(from), Told::Cycle(c.n));
            part.args = vec![("not_seen", Value::Text(c.missing.join(", ")))];
            Some(part)
        }));
        all.sort_by_key(|c| c.start_ns);
        for slice in all {
            let put = cycles.put(trace, slice, |trace, lane| {
                open(trace, (self.index, Kind::Cycles, 0, lane), "GC cycles", "gc")
            })?;
            self.left_out += u64::from(!put);
        }
        let mut stops = Lanes::new();
        let mut all: Vec<Of> = report.stw.iter().map(stop).collect();
        all.extend(report.stw_incomplete.iter().filter_map(part_of_stop));
        all.sort_by_key(|s| s.start_ns);
        for slice in all {
            let put = stops.put(trace, slice, |trace, lane| {
                open(trace, (self.index, Kind::Stops, 0, lane), "Stops of the world", "stw")
            })?;
            self.left_out += u64::from(!put);
        }
        Ok(())
    }
}

fn cycle(c: &crate::model::gc::Cycle) -> Of {
    let end = c.start_ns + c.duration_ns;
    let mut slice = Slice::new(c.start_ns, end, Told::Cycle(c.n));
    slice.args = vec![("retries", Value::Number(c.retries.into()))];
    slice.args.extend(c.trigger.map(|t| ("trigger", Value::Text(t.to_owned()))));
    let mark = c.start_ns + c.sweep_term_ns;
    let term = end - c.mark_term_ns.min(end);
    slice.inner = vec![
        Slice::new(c.start_ns, mark, Told::Fixed("sweep termination")),
        Slice::new(mark, term, Told::Fixed("mark")),
        Slice::new(term, end, Told::Fixed("mark termination")),
    ];
    slice
}

fn stop(s: &StwReport) -> Of {
    let (start, stopped) = (s.start_ns, s.start_ns + s.stopping_ns);
    let end = s.start_ns + s.total_ns;
    let mut slice = Slice::new(start, end, Told::Stop(s.reason_id as u8));
    let number = |n: u64| Value::Number(n);
    slice.args = vec![
        ("verdict", Value::Text(sentence(s))),
        ("n", number(s.n.into())),
        ("total_ns", number(s.total_ns)),
        ("unexplained_ns", number(s.unexplained_ns)),
        ("stopper_tid", number(s.stopper_tid.into())),
    ];
    slice.args.extend(s.gc_cycle.map(|n| ("gc_cycle", number(n))));
    slice.args.extend(s.laggard_tid.map(|tid| ("laggard_tid", number(tid.into()))));
    slice.args.extend(s.retry.then_some(("did_not_hold", Value::Flag(true))));
    slice.args.push(("causes", Value::List(s.causes.iter().map(cause).collect())));
    slice.inner = vec![
        Slice::new(start, stopped, Told::Fixed("stopping")),
        Slice::new(stopped, end, Told::Fixed("stopped")),
    ];
    slice
}

/// The words that serde gives to a name without fields.
pub(in crate::export) fn word<T: serde::Serialize>(value: &T) -> String {
    match serde_json::to_value(value) {
        Ok(serde_json::Value::String(word)) => word,
        _ => String::new(),
    }
}

fn cause(c: &CauseReport) -> Vec<Arg> {
    let mut args = vec![
        ("kind", Value::Text(word(&c.kind))),
        ("ns", Value::Number(c.ns)),
        ("tid", Value::Number(c.tid.into())),
        ("phase", Value::Text(word(&c.phase))),
    ];
    if let Some(b) = &c.behind {
        args.push(("behind", Value::Text(b.comm.clone())));
        args.push(("behind_pid", Value::Number(b.pid.into())));
        args.push(("behind_tid", Value::Number(b.tid.into())));
    }
    args.extend(c.cpu.map(|cpu| ("cpu", Value::Number(cpu.into()))));
    args.extend(c.syscall.map(|nr| ("syscall", Value::Text(syscall(nr)))));
    if let Some(code) = &c.code {
        args.push(("code", Value::Text(code.place.function.clone())));
        args.extend(code.caller.as_ref().map(|p| ("caller", Value::Text(p.function.clone()))));
    }
    args.extend(c.why.map(|why| ("why", Value::Text(why.to_owned()))));
    args
}

fn part_of_stop(part: &PartOfStop) -> Option<Of> {
    let s = &part.stop;
    let known: Vec<u64> = [s.start_ns, s.stopped_at_ns, s.end_ns].into_iter().flatten().collect();
    let (from, to) = (*known.iter().min()?, *known.iter().max()?);
    let mut slice = Slice::new(from, to, Told::Fixed("a stop of which a part was not seen"));
    slice.args =
        vec![("n", Value::Number(s.n.into())), ("not_seen", Value::Text(s.missing.join(", ")))];
    slice.args.extend(part.reason.clone().map(|reason| ("reason", Value::Text(reason))));
    Some(slice)
}
