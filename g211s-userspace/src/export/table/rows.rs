//! Events and what the report says of them as rows of the tables. Must not know formats.

use std::collections::HashMap;

use anyhow::Result;
use g211s_ebpf::event::{
    Life, ProbeEvent, Site, SliceEvent, SpanEvent, SpanWhat, StackEvent, StackWhy, ThreadEvent,
    ThreadState,
};

use super::Cell::{self, Bool, I64, Null, Text, U64};
use super::TableWriter;
use super::schema::{CAUSES, CYCLES, DELAYS, EVENTS, PAUSES};
use crate::analysis::verdict::syscall_name;
use crate::event::Event;
use crate::export::perfetto::word;
use crate::record::{Quota, Record};
use crate::report::format::{clean, comm};
use crate::report::schema::{Behind, TargetReport};
use crate::report::{Note, delay_sentence, sentence, sleep_sentence};

/// Addresses that are named at most.
const MAX_NAMES: usize = 1 << 16;

const EVENT_CELLS: usize = EVENTS.columns.len();

/// What rows need to know of the run.
#[derive(Default)]
pub(super) struct Rows {
    begun: bool,
    /// By target: the process in the initial PID namespace, and as it was given.
    pids: Vec<(u32, u32)>,
    /// Functions at an address of a target, innermost first, joined.
    names: HashMap<(u8, u64), String>,
    /// Delays so far, by target.
    delays: Vec<u64>,
}

fn u(n: impl Into<u64>) -> Cell<'static> {
    U64(n.into())
}

fn opt<'a, T: Into<u64>>(n: Option<T>) -> Cell<'a> {
    n.map_or(Null, |n| U64(n.into()))
}

fn text(text: Option<&str>) -> Cell<'_> {
    text.map_or(Null, Text)
}

/// A number that is 0 where there is nothing.
fn some<'a>(n: impl Into<u64>) -> Cell<'a> {
    match n.into() {
        0 => Null,
        n => U64(n),
    }
}

fn state(number: u8) -> Cell<'static> {
    text(ThreadState::from_u8(number).map(|s| match s {
        ThreadState::Unknown => "unknown",
        ThreadState::Running => "running",
        ThreadState::RunnableWoken => "runnable_woken",
        ThreadState::RunnablePreempted => "runnable_preempted",
        ThreadState::RunnableYielded => "runnable_yielded",
        ThreadState::Blocked => "blocked",
        ThreadState::BlockedUninterruptible => "blocked_uninterruptible",
        ThreadState::Stopped => "stopped",
        ThreadState::Exited => "exited",
    }))
}

fn site(number: u32) -> Cell<'static> {
    text(Site::from_u32(number).map(|s| match s {
        Site::GcStart => "gc_start",
        Site::StwStop => "stw_stop",
        Site::StwStopped => "stw_stopped",
        Site::StwStart => "stw_start",
        Site::StwEnd => "stw_end",
        Site::GcMarkTermination => "gc_mark_termination",
        Site::GcStopM => "gc_stop_m",
        Site::GcTransitionEnd => "gc_transition_end",
        Site::McacheRefill => "mcache_refill",
        Site::McacheAllocLarge => "mcache_alloc_large",
        Site::McacheNextFree => "mcache_next_free",
        Site::MallocGc => "malloc_gc",
        Site::Custom => "custom",
        Site::AssistPark => "assist_park",
        Site::AssistDone => "assist_done",
        Site::HandOffP => "hand_off_p",
        Site::AllocRefill => "alloc_refill",
        Site::AllocLarge => "alloc_large",
        Site::AllocNextFree => "alloc_next_free",
        Site::AllocExact => "alloc_exact",
        Site::Calibrate => "calibrate",
    }))
}

impl Rows {
    /// Learns who is who.
    pub(super) fn record(&mut self, record: &Record) {
        match record {
            Record::Start(start) if !self.begun => {
                self.begun = true;
                self.pids = start.targets.iter().map(|t| (t.tgid, t.pid)).collect();
                self.delays = vec![0; self.pids.len()];
            }
            Record::Symbol(symbol) if self.names.len() < MAX_NAMES => {
                let functions: Vec<String> =
                    symbol.frames.iter().map(|f| clean(&f.function)).collect();
                self.names.insert((symbol.target, symbol.address), functions.join(";"));
            }
            _ => {}
        }
    }

    /// The row of an event.
    pub(super) fn event(&self, event: &Event, out: &mut dyn TableWriter) -> Result<()> {
        let h = event.header();
        let known = self.pids.get(usize::from(h.target));
        let mut row = [Null; EVENT_CELLS];
        row[0] = u(h.ts_ns);
        row[2] = if known.is_some() { u(h.target) } else { Null };
        row[3] = opt(known.map(|(tgid, _)| *tgid));
        row[4] = u(h.tid);
        row[5] = u(h.cpu);
        match event {
            Event::Thread(e) => thread(&mut row, e),
            Event::Slice(e) => {
                let name = comm(&e.comm);
                slice(&mut row, e, &name);
                return out.row(&row);
            }
            Event::Probe(e) => probe(&mut row, e),
            Event::Life(e) => {
                row[1] = Text("life");
                row[28] = text(Life::from_u32(e.what).map(|what| match what {
                    Life::ThreadBorn => "thread_born",
                    Life::ThreadExited => "thread_exited",
                    Life::Exec => "exec",
                }));
                row[29] = u(e.other);
            }
            Event::Stack(e) => {
                let frames = self.frames(e);
                stack(&mut row, e);
                row[33] = Text(&frames);
                return out.row(&row);
            }
            Event::Span(e) => span(&mut row, e),
        }
        out.row(&row)
    }

    fn frames(&self, e: &StackEvent) -> String {
        let depth = (e.depth as usize).min(e.addresses.len());
        // Of a return address the byte before is the call.
        let places = e.addresses[..depth].iter().enumerate();
        let names = places.map(|(i, a)| {
            let address = a.wrapping_sub(u64::from(i > 0));
            match self.names.get(&(e.header.target, address)) {
                Some(names) if !names.is_empty() => names.clone(),
                _ => format!("{a:#x}"),
            }
        });
        names.collect::<Vec<_>>().join(";")
    }

    /// The rows of a delay.
    pub(super) fn delay(
        &mut self,
        note: &Note,
        delays: &mut dyn TableWriter,
        causes: &mut dyn TableWriter,
    ) -> Result<()> {
        let (target, told) = match note {
            Note::Delay { target, delay } => {
                (*target, (delay.tid, delay.m_id, &delay.causes, Some(delay), None))
            }
            Note::Sleep { target, sleep } => {
                (*target, (sleep.tid, sleep.m_id, &sleep.causes, None, Some(sleep)))
            }
            Note::Stop { .. }
            | Note::Cycle { .. }
            | Note::Notice(_)
            | Note::Disagreement { .. } => return Ok(()),
        };
        let index = usize::from(target);
        let Some(n) = self.delays.get_mut(index) else { return Ok(()) };
        *n += 1;
        let n = *n;
        let pid = opt(self.pids.get(index).map(|(_, pid)| *pid));
        let (tid, m_id, parts, wait, sleep) = told;
        let (mut row, verdict) = (
            [Null; DELAYS.columns.len()],
            match (wait, sleep) {
                (Some(d), _) => delay_sentence(d),
                (None, Some(s)) => sleep_sentence(s),
                (None, None) => String::new(),
            },
        );
        let how = wait.map(|d| word(&d.wait)).unwrap_or_default();
        [row[0], row[1], row[2]] = [u(target), pid, u(n)];
        [row[4], row[5], row[14]] = [u(tid), opt(m_id), Text(&verdict)];
        if let Some(d) = wait {
            [row[3], row[6], row[7]] = [Text("wait"), u(d.start_ns), u(d.wait_ns)];
            [row[8], row[9], row[10]] = [Text(&how), u(d.cpu), opt(d.p)];
            [row[11], row[12], row[13]] = [u(d.throttled_ns), u(d.idle_ns), u(d.unknown_ns)];
        } else if let Some(s) = sleep {
            [row[3], row[6], row[7]] = [Text("sleep"), u(s.start_ns), u(s.ns)];
        }
        delays.row(&row)?;
        for c in parts {
            let kind = word(&c.kind);
            let mut row = [Null; CAUSES.columns.len()];
            [row[0], row[1], row[2]] = [u(target), Text("delay"), u(n)];
            [row[3], row[4], row[5], row[6]] = [Text(&kind), u(c.ns), u(tid), opt(m_id)];
            row[9] = opt(wait.map(|d| d.cpu));
            row[10] = c.syscall.map_or(Null, |nr| I64(nr.into()));
            row[11] = text(c.syscall_name);
            behind(&mut row, c.behind.as_ref());
            quota(&mut row, c.quota.as_ref());
            causes.row(&row)?;
        }
        Ok(())
    }
}

fn syscall(row: &mut [Cell<'_>; EVENT_CELLS], nr: i32) {
    row[12] = I64(nr.into());
    row[13] = text(syscall_name(nr));
}

fn thread(row: &mut [Cell<'_>; EVENT_CELLS], e: &ThreadEvent) {
    row[1] = Text("thread");
    [row[6], row[7]] = [some(e.since_ns), u(e.header.ts_ns)];
    [row[8], row[9], row[10]] = [state(e.from), state(e.to), u(e.prev_cpu)];
    if ThreadState::from_u8(e.from).is_some_and(ThreadState::is_runnable) {
        row[11] = some(e.queued_ns);
    }
    syscall(row, e.syscall);
    [row[14], row[15], row[16]] = [some(e.peer_tid), u(e.window), u(e.flags)];
    [row[17], row[18], row[19]] = [u(e.irq_ns), u(e.kept_off_ns), u(e.kept_off_after_ns)];
}

fn slice<'a>(row: &mut [Cell<'a>; EVENT_CELLS], e: &SliceEvent, name: &'a str) {
    row[1] = Text("slice");
    row[3] = u(e.tgid);
    [row[6], row[7], row[16]] = [u(e.start_ns), u(e.end_ns), u(e.flags)];
    row[20] = if name.is_empty() { Null } else { Text(name) };
}

fn probe(row: &mut [Cell<'_>; EVENT_CELLS], e: &ProbeEvent) {
    row[1] = Text("probe");
    [row[21], row[22]] = [site(e.site), u(e.stw)];
    for (cell, arg) in row[23..28].iter_mut().zip(e.args) {
        *cell = U64(arg);
    }
}

fn stack(row: &mut [Cell<'_>; EVENT_CELLS], e: &StackEvent) {
    row[1] = Text("stack");
    syscall(row, e.syscall);
    row[22] = u(e.stw);
    row[28] = text(StackWhy::from_u32(e.why).map(|why| match why {
        StackWhy::Signal => "signal",
        StackWhy::Sample => "sample",
    }));
}

fn span(row: &mut [Cell<'_>; EVENT_CELLS], e: &SpanEvent) {
    row[1] = Text("span");
    [row[6], row[7]] = [some(e.start_ns), u(e.header.ts_ns)];
    row[28] = text(SpanWhat::from_u32(e.what).map(|what| match what {
        SpanWhat::AssistPark => "assist_park",
        SpanWhat::PHeld => "p_held",
        SpanWhat::Harvest => "harvest",
    }));
    [row[30], row[31], row[32]] = [I64(e.detail.into()), some(e.middle_ns), u(e.id)];
}

type CauseRow<'a> = [Cell<'a>; CAUSES.columns.len()];

fn behind<'a>(row: &mut CauseRow<'a>, behind: Option<&'a Behind>) {
    let Some(b) = behind else { return };
    [row[12], row[13]] = [u(b.pid), u(b.tid)];
    [row[14], row[15]] = [Text(&b.comm), text(b.cgroup.as_deref())];
    [row[16], row[17]] = [Bool(b.own), Bool(b.observer)];
}

fn quota<'a>(row: &mut CauseRow<'a>, quota: Option<&'a Quota>) {
    let Some(q) = quota else { return };
    [row[22], row[23], row[24]] = [Text(&q.cgroup), u(q.quota_us), u(q.period_us)];
}

/// The rows of a target's stops.
pub(super) fn pauses(
    index: usize,
    report: &TargetReport,
    pauses: &mut dyn TableWriter,
    causes: &mut dyn TableWriter,
) -> Result<()> {
    for s in &report.stw {
        let (verdict, evidence) = (sentence(s), word(&s.end_evidence));
        let row: [Cell<'_>; PAUSES.columns.len()] = [
            U64(index as u64),
            u(report.target.pid),
            u(s.n),
            Text(&s.reason),
            u(s.reason_id),
            opt(s.gc_cycle),
            Bool(s.retry),
            u(s.start_ns),
            u(s.stopping_ns),
            u(s.stopped_ns),
            u(s.total_ns),
            Text(&evidence),
            opt(s.runtime_stopping_ns),
            opt(s.runtime_total_ns),
            u(s.stopper_tid),
            opt(s.stopper_m),
            opt(s.laggard_tid),
            opt(s.laggard_m),
            u(s.explained_ns),
            u(s.unexplained_ns),
            Text(&verdict),
        ];
        pauses.row(&row)?;
        for c in &s.causes {
            let (kind, phase) = (word(&c.kind), word(&c.phase));
            let wait = c.wait.map(|w| word(&w));
            let mut row: CauseRow<'_> = [Null; CAUSES.columns.len()];
            [row[0], row[1], row[2]] = [U64(index as u64), Text("pause"), u(s.n)];
            [row[3], row[4], row[5], row[6]] = [Text(&kind), u(c.ns), u(c.tid), opt(c.m_id)];
            [row[7], row[8], row[9]] = [Text(&phase), text(wait.as_deref()), opt(c.cpu)];
            row[10] = c.syscall.map_or(Null, |nr| I64(nr.into()));
            row[11] = text(c.syscall_name);
            behind(&mut row, c.behind.as_ref());
            if let Some(code) = &c.code {
                let place = &code.place;
                [row[18], row[19]] = [Text(&place.function), text(place.file.as_deref())];
                row[20] = opt(place.line);
                row[21] = text(code.caller.as_ref().map(|p| p.function.as_str()));
            }
            quota(&mut row, c.quota.as_ref());
            row[25] = text(c.why);
            causes.row(&row)?;
        }
    }
    Ok(())
}

/// The rows of a target's cycles.
pub(super) fn cycles(
    index: usize,
    report: &TargetReport,
    cycles: &mut dyn TableWriter,
) -> Result<()> {
    for c in &report.gc.cycles {
        let row: [Cell<'_>; CYCLES.columns.len()] = [
            U64(index as u64),
            u(report.target.pid),
            u(c.n),
            u(c.start_ns),
            u(c.duration_ns),
            u(c.sweep_term_ns),
            u(c.mark_ns),
            u(c.mark_term_ns),
            opt(c.interval_ns),
            text(c.trigger),
            u(c.retries),
            u(c.stw[0]),
            u(c.stw[1]),
        ];
        cycles.row(&row)?;
    }
    Ok(())
}
