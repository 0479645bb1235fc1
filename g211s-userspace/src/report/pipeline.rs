//! The run in progress: takes records one by one, keeps the model up to date, lets finished stops
//! go as live notes. Must not know how a report looks.
//!
//! Everything here is a function of the sequence of records, so a live run and its replay see the
//! same notes and the same report.

use std::collections::BTreeMap;

use g211s_ebpf::event::{EVENT_CLASSES, Life, ProbeEvent, Site, THREAD_STATES, ThreadEvent};

use super::{
    build::{self, Names},
    format::clean,
    runtime::{Samples, Seen},
    schema::{DelayReport, Report, SleepReport, StallCause, StwReport},
};
use crate::{
    analysis::{
        accuracy::Accuracy,
        delay::{Delays, Long},
        goroutine::Goroutines,
        network::Lates,
        stalls::{Stalls, Stretch},
        verdict::{Verdict, Wait, explain},
    },
    event::Event,
    model::{
        cpus::Cpus,
        gc::{Cycle, GcTracker},
        reason::go_minor,
        stacks::Stacks,
        stw::{Due, IncompleteStop, Outcome, Stop, StwTracker},
        threads::Threads,
        waits::WaitSeries,
    },
    order::Order,
    record::{
        Hists, Interval, LatenessSource, Notice, Record, RunEnd, RunStart, Target, ThreadTotals,
    },
};

/// A stop leaves this long after its end, once its stopper and laggard have sent what proves their
/// part in it …
const SETTLE_NS: u64 = 250_000_000;
/// … and at the latest after this: a thread that runs on without a switch sends nothing.
const SETTLE_MAX_NS: u64 = 2_000_000_000;
/// A run without an end looks so often what is due, ns.
const SETTLE_EVERY_NS: u64 = 10_000_000;
/// Events older than a reading of the counters by this have been drained.
const DRAINED_NS: u64 = 500_000_000;
/// How far back evidence is kept for what has not begun yet: late events, waits under way.
const KEEP_NS: u64 = 2_000_000_000;
/// How far back evidence is kept at most, for a stop whose end does not come.
const KEEP_MAX_NS: u64 = 60_000_000_000;
/// Times from here on (2^58 ns: up for nine years) are taken for damage: one would make all other
/// events late.
const NEVER_NS: u64 = 1 << 58;
/// Events between prunings.
const PRUNE_EVERY: u32 = 8192;
/// A run without an end keeps stops for so long after their end, and those that its samples are to be compared with …
const TOLD_NS: u64 = 5_000_000_000;
/// … but not more than so many: then they are not compared.
const MAX_TOLD: usize = 16_384;
/// Processes that a run without an end knows the names of.
const MAX_NAMES: usize = 8192;

/// Something to tell the user while the run goes on.
#[derive(Clone, Debug)]
pub enum Note {
    /// A stop of the world has ended and is explained.
    Stop {
        /// Index of the target.
        target: u8,
        /// The stop, with names as far as known by now.
        stop: Box<StwReport>,
    },
    /// A long wait for a CPU, in no stop, is over. Told only on request.
    Delay {
        /// Index of the target.
        target: u8,
        /// The wait, with names as far as known by now. Whether it was in a collection is not known yet.
        delay: Box<DelayReport>,
    },
    /// A long uninterruptible sleep, in no stop, is over. Told only on request.
    Sleep {
        /// Index of the target.
        target: u8,
        /// The sleep, likewise.
        sleep: Box<SleepReport>,
    },
    /// A GC cycle has ended.
    Cycle {
        /// Index of the target.
        target: u8,
        /// The cycle.
        cycle: Cycle,
    },
    /// A message that the run carries.
    Notice(Notice),
    /// Our stops or cycles do not agree with the runtime's own counters: said once a target.
    Disagreement {
        /// Index of the target.
        target: u8,
        /// What does not agree, in the time since the sample before.
        accuracy: Box<Accuracy>,
    },
}

/// What is known as an event takes its place in time, itself taken in.
#[derive(Clone, Copy, Debug)]
pub struct Evidence<'a> {
    /// The threads of the event's target; `None` if it is of none.
    pub threads: Option<&'a Threads>,
    /// Who ran on the CPUs.
    pub cpus: &'a Cpus,
}

/// A finished stop with what is said about it.
#[derive(Clone, Debug)]
pub(super) struct Judged {
    pub(super) stop: Stop,
    pub(super) verdict: Verdict,
    pub(super) gc_cycle: Option<u64>,
    pub(super) retry: bool,
}

/// What is known of one target.
#[derive(Clone, Debug)]
pub(super) struct TargetModel {
    pub(super) threads: Threads,
    pub(super) stacks: Stacks,
    stops: StwTracker,
    pub(super) gc: GcTracker,
    pub(super) judged: Vec<Judged>,
    pub(super) incomplete: Vec<IncompleteStop>,
    pub(super) delays: Delays,
    /// What all stalls went to.
    pub(super) stalls: Stalls,
    /// Waits for a CPU over time.
    pub(super) waits: WaitSeries,
    /// Late harvests of the network.
    pub(super) lates: Lates,
    lateness_source: LatenessSource,
    /// Spans that goroutines waited for.
    pub(super) goroutines: Goroutines,
    pub(super) intervals: Vec<Interval>,
    pub(super) hists: Option<Hists>,
    /// The runtime's own counters.
    pub(super) samples: Samples,
    minor: Option<u32>,
    /// What threads did in all, by tid.
    pub(super) totals: BTreeMap<u32, ThreadTotals>,
    pub(super) born: u64,
    pub(super) exited: u64,
    pub(super) execed: bool,
    /// Threads that exited, and when: what is known of them is forgotten where that is done.
    leaving: Vec<(u64, u32)>,
}

impl TargetModel {
    fn new(go_version: &str, lateness_source: LatenessSource) -> Self {
        let minor = go_minor(go_version);
        Self {
            threads: Threads::default(),
            stacks: Stacks::default(),
            stops: StwTracker::new(minor),
            gc: GcTracker::default(),
            judged: Vec::new(),
            incomplete: Vec::new(),
            delays: Delays::default(),
            stalls: Stalls::default(),
            waits: WaitSeries::default(),
            lates: Lates::default(),
            lateness_source,
            goroutines: Goroutines::default(),
            intervals: Vec::new(),
            hists: None,
            samples: Samples::default(),
            minor,
            totals: BTreeMap::new(),
            born: 0,
            exited: 0,
            execed: false,
            leaving: Vec::new(),
        }
    }

    /// Forgets what ended before `before_ns` and was told; the threads of which nothing is known any more.
    fn forget(&mut self, before_ns: u64, told_ns: u64) -> Vec<u32> {
        if self.judged.len() > MAX_TOLD {
            self.samples.skip();
        }
        // What the runtime counted after a sample ended shortly before it at the earliest.
        let wanted =
            self.samples.wanted_since_ns().map_or(u64::MAX, |ns| ns.saturating_sub(TOLD_NS));
        let told_ns = told_ns.min(wanted);
        let old = self.judged.partition_point(|j| j.stop.end_ns < told_ns);
        self.judged.drain(..old);
        let last = self.incomplete.last().map_or(0, |p| p.n);
        self.incomplete.retain(|p| p.n == last || p.end_ns.or(p.start_ns).unwrap_or(0) >= told_ns);
        self.gc.cycles.clear();
        self.gc.incomplete.clear();
        let intervals = self.intervals.len().saturating_sub(1);
        self.intervals.drain(..intervals);
        self.goroutines.forget(before_ns);
        self.lates.forget(before_ns);
        self.samples.forget();
        self.totals.clear();
        let (gone, leaving) = self.leaving.drain(..).partition(|(ts, _)| *ts < before_ns);
        self.leaving = leaving;
        let gone: Vec<u32> = gone.into_iter().map(|(_, tid): (u64, u32)| tid).collect();
        self.threads.remove(&gone);
        gone
    }

    /// Our stops, for a comparison with the runtime's.
    pub(super) fn seen(&self) -> Seen<'_> {
        Seen {
            minor: self.minor,
            whole: self.judged.iter().map(|j| &j.stop).collect(),
            parts: &self.incomplete,
            preempted: self.intervals.last().map(|i| (i.preempted, i.preempted_ns)),
            execed: self.execed,
        }
    }

    /// Takes a thread's event; returns the long delay outside stops that it ends, if it does.
    fn thread(&mut self, e: &ThreadEvent, cpus: &Cpus) -> Option<Long> {
        self.threads.apply(e);
        self.lates.evidence(e, cpus);
        if self.lateness_source == LatenessSource::Wakeup {
            self.lates.wake(e, &self.threads, cpus);
        }
        let mut long = None;
        let wait = Delays::wait_of(e);
        if wait.is_some() || Delays::sleep_of(e).is_some() {
            let (from, to) = (e.since_ns, e.header.ts_ns);
            let mut ended = self.judged.iter().rev().take_while(|j| j.stop.end_ns > from);
            let undecided = self.stops.overlaps(from, to);
            let in_stw = undecided || ended.any(|j| j.stop.start_ns < to);
            long = self.delays.apply(e, &self.threads, cpus, in_stw);
            if wait.is_some_and(|kind| kind != Wait::Yielded) {
                self.waits.long_wait(from, to);
            }
            let stretch = Stretch { tid: e.header.tid, start_ns: from, end_ns: to };
            let now = if undecided { self.stalls.hold(stretch) } else { Some(stretch) };
            self.stalled(now, cpus);
        }
        long
    }

    /// Counts waits whose stops, if they overlap any, have been judged.
    fn stalled(&mut self, waits: impl IntoIterator<Item = Stretch>, cpus: &Cpus) {
        for wait in waits {
            let ended = self.judged.iter().rev().take_while(|j| j.stop.end_ns > wait.start_ns);
            let stops = ended.map(|j| (j.stop.start_ns, j.stop.end_ns));
            self.stalls.wait(wait, stops, &self.threads, cpus);
        }
    }

    fn probe(&mut self, e: &ProbeEvent) {
        if e.site == Site::GcStart as u32 {
            self.gc.gc_start(e.header.ts_ns, e.header.tid, e.args[0]);
        }
        self.stops.apply(e);
    }

    fn is_due(&self, due: &Due, now_ns: u64) -> bool {
        // The laggard's part ends with its sleep after it gave its P up: how long it sleeps on (it
        // may be for minutes) is of no account.
        let past = |tid, ns| self.threads.proven_past(tid, ns);
        let proven = || {
            due.stopper_tid.is_none_or(|tid| past(tid, due.last_ns))
                && due.laggard.is_none_or(|(ts, tid)| past(tid, ts + 1))
        };
        let age = now_ns.saturating_sub(due.last_ns);
        age >= SETTLE_MAX_NS || (age >= SETTLE_NS && proven())
    }

    /// Judges the stops that are due at `now_ns`; returns how many.
    fn settle(&mut self, cpus: &Cpus, now_ns: u64) -> usize {
        let before = self.judged.len();
        while self.stops.due().is_some_and(|due| self.is_due(&due, now_ns)) {
            let Some(outcome) = self.stops.pop() else { break };
            let (gc_cycle, retry) = self.gc.stop(&outcome);
            match outcome {
                Outcome::Complete(stop) => {
                    let verdict = explain(&stop, &self.threads, cpus, &self.stacks);
                    self.stalls.stop(&verdict);
                    self.judged.push(Judged { stop, verdict, gc_cycle, retry });
                }
                Outcome::Incomplete(part) => self.incomplete.push(part),
            }
            let stops = &self.stops;
            let free = self.stalls.release(|from, to| stops.overlaps(from, to));
            self.stalled(free, cpus);
        }
        self.judged.len() - before
    }

    fn cut(&mut self, cpus: &Cpus) -> usize {
        self.stops.cut();
        let n = self.settle(cpus, u64::MAX);
        self.gc.cut();
        n
    }
}

/// The run so far. See [`Pipeline::push`] and [`Pipeline::finish`].
#[derive(Debug)]
pub struct Pipeline {
    pub(super) source: String,
    pub(super) start: Option<RunStart>,
    pub(super) end: Option<RunEnd>,
    pub(super) order: Order,
    pub(super) state: State,
    /// Who came into the run under way.
    came: BTreeMap<u8, Target>,
}

/// What events change, apart from their order.
#[derive(Debug, Default)]
pub(super) struct State {
    pub(super) targets: Vec<TargetModel>,
    cpus: Cpus,
    pub(super) names: Names,
    pub(super) notices: Vec<Notice>,
    /// CPU time that the hypervisor took so far, by CPU.
    pub(super) steal: BTreeMap<u16, u64>,
    /// By `EventKind`.
    pub(super) received: [u64; EVENT_CLASSES],
    pub(super) stray: u64,
    /// Latest time that any record bears, ns.
    pub(super) last_ns: u64,
    now_ns: u64,
    until_prune: u32,
    /// Whether long delays are told.
    tell_delays: bool,
    /// Whether what was told is forgotten: there will be no report.
    forget: bool,
    forgotten_ns: u64,
    /// When it was last looked what is due; kept where what was told is forgotten.
    settled_ns: u64,
    notes: Vec<Note>,
}

impl Pipeline {
    /// A run that has not begun; `source` is what `run.source` will say.
    pub fn new(source: &str) -> Self {
        Self {
            source: clean(source),
            start: None,
            end: None,
            order: Order::default(),
            state: State::default(),
            came: BTreeMap::new(),
        }
    }

    /// The same, which tells of long delays as well, and not only of stops.
    #[must_use]
    pub fn telling_delays(mut self) -> Self {
        self.state.tell_delays = true;
        self
    }

    /// The same, for a run without an end: it tells, and forgets what it told, so that it does not grow. It has
    /// no report.
    #[must_use]
    pub fn unending(mut self) -> Self {
        self.state.forget = true;
        self
    }

    /// What the stalls of a target went to since the last call, by cause and process.
    pub fn take_stalls(&mut self, target: u8) -> Vec<StallCause> {
        let index = usize::from(target);
        let Some(model) = self.state.targets.get_mut(index) else { return Vec::new() };
        let stalls = std::mem::take(&mut model.stalls);
        let (stalls, rest) = stalls.split();
        model.stalls = rest;
        build::stall_causes(index, &stalls, &self.state.names)
    }

    /// Takes the next record; returns what there is to tell.
    pub fn push(&mut self, record: Record) -> Vec<Note> {
        self.push_watched(record, &mut |_, _| {})
    }

    /// The same, and shows each event as it takes its place in time.
    pub fn push_watched(
        &mut self,
        record: Record,
        watch: &mut impl FnMut(&Event, &Evidence<'_>),
    ) -> Vec<Note> {
        let state = &mut self.state;
        match record {
            Record::Start(start) => {
                if self.start.is_none() {
                    let source = start.settings.lateness_source;
                    let new = |t: &Target| TargetModel::new(&t.go_version, source);
                    let models = start.targets.iter().map(new);
                    state.targets = models.collect();
                    state.names.tgids = start.targets.iter().map(|t| t.tgid).collect();
                    state.names.observer = start.settings.observer_pid;
                    let quotas = start.targets.iter().map(|t| vec![(0, t.quotas.clone())]);
                    state.names.quotas = (0..).zip(quotas).collect();
                    state.last_ns = state.last_ns.max(start.start_ns);
                    self.start = Some(*start);
                }
            }
            Record::Attached(a) => {
                let source = self.start.as_ref().map(|s| s.settings.lateness_source);
                let index = usize::from(a.index);
                state.reset(index, &a.target.go_version, source.unwrap_or_default());
                state.names.tgids[index] = a.target.tgid;
                state.names.quotas.insert(a.index, vec![(0, a.target.quotas.clone())]);
                self.came.insert(a.index, a.target);
            }
            Record::Detached(d) => {
                // All that was seen of it was drained before, and of the others what is older.
                self.order.advance_to(d.ts_ns, &mut |e| state.event(&e));
                let index = usize::from(d.index);
                if index < state.targets.len() {
                    let n = state.targets[index].cut(&state.cpus);
                    state.tell(index, n);
                    state.reset(index, "", LatenessSource::default());
                }
                state.names.quotas.remove(&d.index);
                state.names.threads.retain(|(target, _), _| *target != d.index);
                self.came.remove(&d.index);
            }
            Record::Event(event) => {
                state.received[usize::from(event.header().kind)] += 1;
                if plausible(&event) {
                    self.order.push(event, &mut |e| state.watched(&e, watch));
                } else {
                    state.stray += 1;
                }
            }
            Record::Interval(interval) if interval.ts_ns >= NEVER_NS => state.stray += 1,
            Record::Interval(interval) => {
                let now = interval.ts_ns.saturating_sub(DRAINED_NS);
                if let Some(quotas) = &interval.quotas {
                    let known = state.names.quotas.entry(interval.target).or_default();
                    known.push((interval.ts_ns, quotas.clone()));
                }
                state.last_ns = state.last_ns.max(interval.ts_ns);
                if let Some(t) = state.targets.get_mut(usize::from(interval.target)) {
                    t.intervals.push(*interval);
                }
                // A quiet target's last stop must not wait for its next event.
                self.order.advance_to(now, &mut |e| state.watched(&e, watch));
                state.settle(now);
                if state.forget && now >= state.forgotten_ns + KEEP_NS {
                    state.forgotten_ns = now;
                    state.prune();
                }
            }
            // They are for a report.
            Record::Waits(_) | Record::ThreadTotals(_) if state.forget => {}
            Record::Waits(waits) => {
                if let Some(t) = state.targets.get_mut(usize::from(waits.target)) {
                    t.waits.apply(&waits);
                }
            }
            // Theirs is another report: see `allocs`.
            Record::AllocRun(_)
            | Record::AllocStack(_)
            | Record::AllocSamples(_)
            | Record::AllocState(_)
            | Record::AllocSums(_)
            | Record::HeapLook(_)
            | Record::Leaks(_) => {}
            Record::Hists(hists) => {
                state.last_ns = state.last_ns.max(hists.ts_ns);
                if let Some(t) = state.targets.get_mut(usize::from(hists.target)) {
                    t.hists = Some(*hists);
                }
            }
            Record::Process(mut p) => {
                p.comm = clean(&p.comm);
                p.cgroup = clean(&p.cgroup);
                p.cmdline = clean(&p.cmdline);
                state.names.processes.insert(p.tgid, *p);
            }
            Record::Thread(mut t) => {
                t.comm = clean(&t.comm);
                state.names.threads.insert((t.target, t.tid), *t);
            }
            Record::Symbol(mut symbol) => {
                for frame in &mut symbol.frames {
                    frame.function = clean(&frame.function);
                    frame.file = frame.file.as_deref().map(clean);
                }
                if let Some(t) = state.targets.get_mut(usize::from(symbol.target)) {
                    t.stacks.name(*symbol);
                }
            }
            Record::ThreadTotals(t) => {
                if let Some(model) = state.targets.get_mut(usize::from(t.target)) {
                    // The same number again is another thread: what the number did in all counts.
                    let sum = model.totals.entry(t.tid).or_insert_with(|| ThreadTotals {
                        state_ns: [0; THREAD_STATES],
                        state_count: [0; THREAD_STATES],
                        ..*t
                    });
                    sum.exited = t.exited;
                    for (s, n) in sum.state_ns.iter_mut().zip(t.state_ns) {
                        *s = s.saturating_add(n);
                    }
                    for (s, n) in sum.state_count.iter_mut().zip(t.state_count) {
                        *s = s.saturating_add(n);
                    }
                }
            }
            Record::Runtime(sample) if sample.end_ns >= NEVER_NS => state.stray += 1,
            Record::Runtime(sample) => {
                state.last_ns = state.last_ns.max(sample.end_ns);
                let index = usize::from(sample.target);
                let known = self.start.as_ref().and_then(|s| s.targets.get(index));
                let known = self.came.get(&sample.target).or(known);
                if let (Some(model), Some(target)) = (state.targets.get_mut(index), known) {
                    // By then each stop before it has left, whole or not.
                    let settled = state.now_ns.saturating_sub(SETTLE_MAX_NS);
                    let mut samples = std::mem::take(&mut model.samples);
                    samples.push(*sample);
                    let found = samples.disagreement(settled, &model.seen(), target);
                    model.samples = samples;
                    let target = index as u8;
                    state.notes.extend(found.map(|accuracy| Note::Disagreement {
                        target,
                        accuracy: Box::new(accuracy),
                    }));
                }
            }
            Record::Steal(sample) if sample.ts_ns >= NEVER_NS => state.stray += 1,
            Record::Steal(sample) => {
                state.last_ns = state.last_ns.max(sample.ts_ns);
                state.steal = sample.cpus;
            }
            Record::Notice(mut notice) => {
                notice.text = clean(&notice.text);
                state.last_ns = state.last_ns.max(notice.ts_ns);
                if !state.forget {
                    state.notices.push((*notice).clone());
                }
                state.notes.push(Note::Notice(*notice));
            }
            Record::End(end) => self.end = Some(*end),
        }
        std::mem::take(&mut self.state.notes)
    }

    /// Ends the run: what is open is judged with the evidence there is, and told as notes.
    pub fn flush(&mut self) -> Vec<Note> {
        self.flush_watched(&mut |_, _| {})
    }

    /// The same, and shows each event that was held back until now.
    pub fn flush_watched(&mut self, watch: &mut impl FnMut(&Event, &Evidence<'_>)) -> Vec<Note> {
        let state = &mut self.state;
        self.order.finish(&mut |e| state.watched(&e, watch));
        for index in 0..state.targets.len() {
            let n = state.targets[index].cut(&state.cpus);
            state.tell(index, n);
        }
        std::mem::take(&mut state.notes)
    }

    /// A target's waits for a CPU over time.
    pub fn waits(&self, target: usize) -> Option<&WaitSeries> {
        self.state.targets.get(target).map(|t| &t.waits)
    }

    /// What a target's stalls went to so far.
    pub fn stalls(&self, target: usize) -> Option<&Stalls> {
        self.state.targets.get(target).map(|t| &t.stalls)
    }

    /// The report. Flushes first.
    pub fn finish(mut self) -> Report {
        self.flush();
        build::report(self)
    }
}

impl State {
    fn watched(&mut self, event: &Event, watch: &mut impl FnMut(&Event, &Evidence<'_>)) {
        self.event(event);
        let threads = self.targets.get(usize::from(event.header().target)).map(|t| &t.threads);
        watch(event, &Evidence { threads, cpus: &self.cpus });
    }

    /// Takes an event in its place in time.
    fn event(&mut self, event: &Event) {
        let header = event.header();
        let now = self.now_ns.max(header.ts_ns);
        self.last_ns = self.last_ns.max(header.ts_ns);
        if let Event::Slice(e) = event {
            self.cpus.apply(e);
        } else if let Some(t) = self.targets.get_mut(usize::from(header.target)) {
            match event {
                Event::Thread(e) => {
                    let long = t.thread(e, &self.cpus).filter(|_| self.tell_delays);
                    let (target, names) = (header.target, &self.names);
                    let index = usize::from(target);
                    self.notes.extend(long.map(|long| match long {
                        Long::Wait(d) => Note::Delay {
                            target,
                            delay: Box::new(build::delay(index, t, &d, false, names)),
                        },
                        Long::Sleep(s) => Note::Sleep {
                            target,
                            sleep: Box::new(build::sleep(index, &s, false, names)),
                        },
                    }));
                }
                Event::Probe(e) => t.probe(e),
                Event::Life(e) => match Life::from_u32(e.what) {
                    Some(Life::ThreadBorn) => {
                        t.born += 1;
                        t.leaving.retain(|(_, tid)| *tid != header.tid);
                    }
                    Some(Life::ThreadExited) => {
                        t.exited += 1;
                        if self.forget {
                            t.leaving.push((header.ts_ns, header.tid));
                        }
                    }
                    Some(Life::Exec) => {
                        t.execed = true;
                        let n = t.cut(&self.cpus);
                        self.tell(usize::from(header.target), n);
                    }
                    None => {}
                },
                Event::Stack(e) => t.stacks.apply(e),
                Event::Span(e) => {
                    t.goroutines.apply(e);
                    t.lates.harvest(e, &t.threads, &self.cpus);
                }
                Event::Slice(_) => {}
            }
        } else {
            self.stray += 1;
        }
        self.settle(now);
        if self.until_prune == 0 {
            self.until_prune = PRUNE_EVERY;
            self.prune();
        }
        self.until_prune -= 1;
    }

    /// Judges what is due.
    fn settle(&mut self, now_ns: u64) {
        self.now_ns = self.now_ns.max(now_ns);
        // Each event would have all targets looked at, of which there are many there.
        if self.forget && self.now_ns < self.settled_ns.saturating_add(SETTLE_EVERY_NS) {
            return;
        }
        self.settled_ns = self.now_ns;
        for index in 0..self.targets.len() {
            let cycles = self.targets[index].gc.cycles.len();
            let n = self.targets[index].settle(&self.cpus, self.now_ns);
            self.tell(index, n);
            let ended = self.targets[index].gc.cycles[cycles..].iter().cloned();
            self.notes.extend(ended.map(|cycle| Note::Cycle { target: index as u8, cycle }));
        }
    }

    /// A place is another target's, or nobody's.
    fn reset(&mut self, index: usize, go_version: &str, source: LatenessSource) {
        while self.targets.len() <= index {
            self.targets.push(TargetModel::new("", source));
            self.names.tgids.push(0);
        }
        self.targets[index] = TargetModel::new(go_version, source);
        self.names.tgids[index] = 0;
    }

    /// Notes the last `n` stops of a target.
    fn tell(&mut self, index: usize, n: usize) {
        let TargetModel { judged, stacks, .. } = &self.targets[index];
        for j in &judged[judged.len() - n..] {
            let stop = Box::new(build::stop(index, j, &self.names, stacks));
            self.notes.push(Note::Stop { target: index as u8, stop });
        }
    }

    fn prune(&mut self) {
        let oldest_stop = |t: &TargetModel| t.stops.oldest_ns().unwrap_or(u64::MAX);
        let floor = self.now_ns.saturating_sub(KEEP_MAX_NS);
        let keep = |oldest: u64| {
            self.now_ns.saturating_sub(KEEP_NS).min(oldest.saturating_sub(KEEP_NS)).max(floor)
        };
        let all = self.targets.iter().map(oldest_stop).min().unwrap_or(u64::MAX);
        self.cpus.prune(keep(all));
        let horizons: Vec<u64> = self.targets.iter().map(|t| keep(oldest_stop(t))).collect();
        for (t, horizon) in self.targets.iter_mut().zip(horizons) {
            t.threads.prune(horizon);
            t.stacks.prune(horizon);
        }
        if self.forget {
            self.forget();
        }
    }

    /// Forgets what was told.
    fn forget(&mut self) {
        let told_ns = self.now_ns.saturating_sub(TOLD_NS);
        for (index, t) in self.targets.iter_mut().enumerate() {
            let oldest = t.stops.oldest_ns().unwrap_or(u64::MAX);
            let floor = self.now_ns.saturating_sub(KEEP_MAX_NS);
            let before_ns = self.now_ns.min(oldest).saturating_sub(KEEP_NS).max(floor);
            for tid in t.forget(before_ns, told_ns.min(before_ns)) {
                self.names.threads.remove(&(index as u8, tid));
            }
        }
        for known in self.names.quotas.values_mut() {
            let old = known.len().saturating_sub(2);
            known.drain(..old);
        }
        // They are described anew from time to time.
        if self.names.processes.len() > MAX_NAMES {
            self.names.processes.clear();
        }
    }
}

fn plausible(event: &Event) -> bool {
    let ts_ns = event.header().ts_ns;
    ts_ns < NEVER_NS && !matches!(event, Event::Slice(s) if s.end_ns > ts_ns)
}
