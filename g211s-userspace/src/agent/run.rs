//! A run under way, from the first drain to the last record.

use std::{
    collections::{BTreeMap, HashSet},
    time::{Duration, Instant},
};

use g211s_ebpf::event::{EVENT_CLASSES, Life, NO_TARGET, Site};
use nix::sys::{
    resource::{UsageWho, getrusage},
    time::TimeValLike as _,
};

use super::{
    now_ns,
    places::Manner,
    watched::{Watched, thread_info},
};
use crate::{
    bpf::{self, Loss, Session},
    event::{Event, by_class},
    go::plan,
    governor::{Action, Governor},
    record::{Cost, Interval, Moment, Notice, ProbeHits, ProcessInfo, Record, RunEnd, StealSample},
    report::format::clean,
    target::procfs::Procfs,
};

/// Looks for the last switch of an exited thread.
const LEAVING_TRIES: u32 = 100;
/// Bytes of events taken at a time: some 30 ms of work.
const HELPING: u64 = 4 << 20;
/// Foreign processes described at most in one run.
const MAX_PROCESSES: usize = 4096;

/// What takes a run's records, and its words.
pub(crate) trait Sink {
    /// Takes the next record.
    fn push(&mut self, record: Record);
    /// Says something to whoever runs g211s.
    fn say(&mut self, text: &str);
    /// A second has passed; `status` tells how far the run is, for those who show it. Gives what went wrong.
    fn second(&mut self, status: &dyn Fn() -> String) -> Option<String>;
    /// Whether nobody takes what the run finds.
    fn is_pointless(&self) -> bool;
}

/// Processes that replaced their programs, told between two looks at most.
const MAX_EXECED: usize = 4096;

/// A run under way.
pub(crate) struct Run<S> {
    pub(crate) session: Session,
    pub(crate) sink: S,
    pub(super) procfs: Procfs,
    /// Who is watched, by index: those that are gone too, until their places are cleared.
    pub(super) watched: BTreeMap<u8, Watched>,
    /// How targets are watched.
    pub(super) manner: Manner,
    /// How long network polls may be counted; `None` where they cannot be.
    pub(super) poll_governor: Option<Governor>,
    pub(crate) received: [u64; EVENT_CLASSES],
    pub(super) undecodable: u64,
    /// Events of a place's former target.
    pub(super) stale: u64,
    /// Processes of no target that replaced their programs.
    pub(super) execed: Vec<u32>,
    pub(super) ring_bytes: u64,
    /// Foreign processes described already.
    pub(super) processes: HashSet<u32>,
    /// Foreign processes seen since the last drain.
    pub(super) pending: Vec<u32>,
    /// Threads born since the last drain: (target, tid).
    pub(super) born: Vec<(u8, u32)>,
    /// Samples whose time the events taken so far may not have reached.
    pub(super) samples: Vec<Record>,
    /// Threads that are exiting, and how often they were looked for.
    pub(super) exited: Vec<(u32, u32)>,
    /// Last window number seen, by target.
    pub(super) windows: BTreeMap<u8, u32>,
    /// `Procfs::steal` at the start.
    pub(super) steal_at_start: BTreeMap<u16, u64>,
    /// What the hypervisor had taken since, when last said.
    pub(super) stolen: BTreeMap<u16, u64>,
    pub(super) start_ns: u64,
}

impl<S: Sink> Run<S> {
    /// Takes one helping of events from the ring; whether there is more.
    pub(crate) fn drain(&mut self) -> bool {
        let Self {
            session,
            sink,
            procfs,
            watched,
            received,
            undecodable,
            stale,
            execed,
            processes,
            pending,
            born,
            exited,
            windows,
            ..
        } = self;
        let mut execs = Vec::new();
        let (bytes, more) = session.drain(HELPING, |item| match Event::decode(item) {
            Err(_) => *undecodable += 1,
            Ok(mut event) => {
                let header = *event.header();
                received[usize::from(header.kind)] += 1;
                let target = header.target;
                if target == NO_TARGET
                    && let Event::Life(l) = &event
                {
                    // A burst of them is found by the next scan.
                    if l.what == Life::Exec as u32 && execed.len() < MAX_EXECED {
                        execed.push(header.tid);
                    }
                    return;
                }
                // Who had the place before may be told of still.
                let is_known = |w: &Watched| header.ts_ns >= w.since_ns;
                if target != NO_TARGET && !watched.get(&target).is_some_and(is_known) {
                    *stale += 1;
                    return;
                }
                match &mut event {
                    Event::Stack(s) => {
                        if let Some(w) = watched.get_mut(&target).filter(|w| w.alive) {
                            for symbol in w.naming.take(procfs, s) {
                                sink.push(Record::Symbol(Box::new(symbol)));
                            }
                        }
                    }
                    Event::Slice(s)
                        if s.header.target == NO_TARGET
                            && s.tgid != 0
                            && processes.len() < MAX_PROCESSES
                            && processes.insert(s.tgid) =>
                    {
                        pending.push(s.tgid);
                    }
                    Event::Thread(t) => {
                        windows.insert(t.header.target, t.window);
                    }
                    Event::Life(l) if l.what == Life::ThreadBorn as u32 => {
                        born.push((l.header.target, l.header.tid));
                    }
                    Event::Life(l) if l.what == Life::ThreadExited as u32 => {
                        exited.push((l.header.tid, 0));
                        if let Some(w) = watched.get_mut(&target) {
                            w.is_leaving |= w.request.tgid == l.header.tid;
                        }
                    }
                    Event::Life(l) if l.what == Life::Exec as u32 => execs.push(l.header.target),
                    _ => {}
                }
                sink.push(Record::Event(event));
            }
        });
        self.ring_bytes += bytes;
        self.describe();
        self.take_exited();
        for target in execs {
            // Who becomes a target anew is told like others.
            self.execed.extend(self.watched.get(&target).map(|w| w.request.tgid));
            let why = if self.manner.unending {
                "it replaced its program (execve)"
            } else {
                "it replaced its program (execve); attach again to watch the new one"
            };
            self.gone(target, why);
        }
        self.session.flush_kernel_log();
        more
    }

    /// Whether nobody takes what the run finds: a recording that could not be written on.
    pub(crate) fn is_pointless(&self) -> bool {
        self.sink.is_pointless()
    }

    /// Describes processes and threads while they are (probably) still there.
    pub(super) fn describe(&mut self) {
        for tgid in std::mem::take(&mut self.pending) {
            let info = ProcessInfo {
                tgid,
                comm: self.procfs.comm(tgid).unwrap_or_default(),
                cgroup: self.procfs.cgroup(tgid).unwrap_or_default(),
                cmdline: self.procfs.cmdline(tgid).unwrap_or_default().chars().take(120).collect(),
            };
            self.sink.push(Record::Process(Box::new(info)));
        }
        let born = std::mem::take(&mut self.born);
        for w in self.watched.values() {
            let of = born.iter().filter(|(target, _)| *target == w.request.index);
            let tids: Vec<u32> = of.map(|(_, tid)| *tid).collect();
            let ms = w.runtime.as_ref().filter(|_| w.alive && !tids.is_empty());
            let ms = ms.map(|r| r.new_ms(&tids)).unwrap_or_default();
            for tid in tids {
                let info = thread_info(&self.procfs, w, tid, ms.get(&tid).copied());
                self.sink.push(Record::Thread(Box::new(info)));
            }
        }
    }

    /// Takes what threads did that have exited, so that their places in the kernel's table are
    /// free again. One that is still on its way out is asked for again at the next drain.
    pub(super) fn take_exited(&mut self) {
        let mut later = Vec::new();
        for (tid, tries) in std::mem::take(&mut self.exited) {
            match self.session.take_exited(tid) {
                Some(t) => {
                    self.sink.push(Record::ThreadTotals(Box::new(t)));
                }
                // What never shows up (its record was never made, or made anew) must not pile up.
                None if tries < LEAVING_TRIES => later.push((tid, tries + 1)),
                None => {}
            }
        }
        self.exited = later;
    }

    /// Reads counters, after the events of the time before were taken.
    pub(crate) fn intervals(&mut self) {
        for sample in std::mem::take(&mut self.samples) {
            self.sink.push(sample);
        }
        let alive = self.watched.iter().filter(|(_, w)| w.alive);
        for index in alive.map(|(&index, _)| index).collect::<Vec<_>>() {
            self.interval(index);
        }
    }

    pub(crate) fn interval(&mut self, target: u8) {
        let now = now_ns();
        let Some(w) = self.watched.get_mut(&target) else { return };
        let throttled = w.quotas.since();
        let quotas = std::mem::take(&mut w.quotas_changed).then(|| w.quotas.list().to_vec());
        let counters = self.session.counters(target, now).map(|i| Interval {
            alloc_probes_ns: w.allocs.governor.attached_ns(now),
            alloc_hits: w.allocs.governor.counted(w.allocs.hits(&i)),
            assist_probes_ns: Some(w.assists.governor.attached_ns(now)),
            polls_ns: Some(self.poll_governor.as_ref().map_or(0, |g| g.attached_ns(now))),
            throttled: throttled.count,
            throttled_ns: throttled.ns,
            quotas,
            ..i
        });
        match counters {
            Ok(i) => self.sink.push(Record::Interval(Box::new(i))),
            Err(e) => self.notice(Some(target), &e.to_string()),
        }
        self.waits(target, now, false);
    }

    /// Takes the waits by time. `last`: the target is not watched any more.
    fn waits(&mut self, target: u8, now_ns: u64, last: bool) {
        if self.manner.unending {
            return;
        }
        let Some(w) = self.watched.get_mut(&target) else { return };
        let numbers = w.waits.due(now_ns, last);
        if numbers.is_empty() {
            return;
        }
        match self.session.ticks(target, numbers.clone()) {
            Ok(ticks) => {
                let record = w.waits.unfolding.record(target, numbers.start, &ticks);
                self.sink.push(Record::Waits(Box::new(record)));
            }
            Err(e) => self.notice(Some(target), &e.to_string()),
        }
    }

    /// Whether a look at what is hit often may be over any moment.
    pub(crate) fn is_looking(&self) -> bool {
        let now = now_ns();
        if self.poll_governor.as_ref().is_some_and(|g| g.is_looking(now)) {
            return true;
        }
        let mut alive = self.watched.values().filter(|w| w.alive);
        alive.any(|w| w.allocs.is_looking(now) || w.assists.is_looking(now))
    }

    /// Lets what is hit often come and go, so that it stays affordable.
    /// `all`: also what is in no hurry, i.e. not within a short look.
    pub(crate) fn govern(&mut self, all: bool) {
        self.govern_polls(all);
        self.govern_probes(all);
    }

    fn govern_polls(&mut self, all: bool) {
        let Some(governor) = &mut self.poll_governor else { return };
        if !all && !governor.is_looking(now_ns()) {
            return;
        }
        let hits = self.session.host_syscalls();
        match governor.decide(now_ns(), hits) {
            Action::Keep => {}
            Action::Detach => {
                // The kernel side stops counting at the first thing that this does.
                governor.detached(now_ns(), hits);
                self.session.pause_polls();
            }
            Action::Attach => {
                if let Err(e) = self.session.count_polls() {
                    governor.give_up();
                    self.notice(None, &format!("network polls are not counted from here on: {e}"));
                } else {
                    governor.attached(now_ns(), hits);
                }
            }
        }
    }

    fn govern_probes(&mut self, all: bool) {
        let Self { session, watched, .. } = self;
        let mut refused = Vec::new();
        for w in watched.values_mut().filter(|w| w.alive) {
            if all {
                w.allow();
            }
            let index = w.request.index;
            if let Err(e) = w.allocs.govern(session, index, all) {
                refused.push((index, format!("allocations are not counted from here on: {e}")));
            }
            let attached = w.assists.govern(session, index, all).and_then(|back| {
                if back { session.assists_since(index, now_ns()) } else { Ok(()) }
            });
            if let Err(e) = attached {
                refused.push((index, format!("mark assists are not seen from here on: {e}")));
            }
        }
        for (index, why) in refused {
            self.notice(Some(index), &why);
        }
    }

    pub(crate) fn notice(&mut self, target: Option<u8>, text: &str) {
        self.sink.say(text);
        let notice = Notice { ts_ns: now_ns(), target, text: text.to_owned() };
        self.sink.push(Record::Notice(Box::new(notice)));
    }

    /// Whether any target is still there; says so of those that went. `all`: also looks at those whose first thread
    /// goes on as far as events tell, which costs a read each.
    pub(crate) fn targets_alive(&mut self, all: bool) -> bool {
        let dead =
            |w: &Watched| w.alive && (all || w.is_leaving) && !w.resolved.is_alive(&self.procfs);
        let dead = self.watched.iter().filter(|(_, w)| dead(w)).map(|(&index, _)| index);
        for index in dead.collect::<Vec<_>>() {
            self.gone(index, "it exited");
        }
        self.watched.values().any(|w| w.alive)
    }

    pub(crate) fn gone(&mut self, target: u8, why: &str) {
        let Some(w) = self.watched.get_mut(&target).filter(|w| w.alive) else { return };
        w.alive = false;
        w.gone_ns = now_ns();
        let (pid, comm) = (w.record.pid, w.record.comm.clone());
        self.session.unwatch(w.request.tgid);
        self.interval(target);
        self.waits(target, now_ns(), true);
        self.notice(Some(target), &format!("process {pid} ({comm}): {why}"));
    }

    pub(crate) fn every_second(&mut self) {
        // `/proc/stat` is dear on a machine with many CPUs; on bare metal it has nothing to say.
        if self.steal_at_start.values().any(|ns| *ns > 0) {
            self.steal();
        }
        if !self.manner.unending {
            self.sample();
        }
        let Self { session, watched, received, start_ns, .. } = self;
        let wrong = self.sink.second(&|| status(session, watched, received, *start_ns));
        if let Some(wrong) = wrong {
            self.notice(None, &wrong);
        }
    }

    /// Says what the hypervisor took from the CPUs, if that is more than when last said.
    pub(super) fn steal(&mut self) {
        let now = self.procfs.steal();
        let mut cpus: BTreeMap<u16, u64> = BTreeMap::new();
        for (cpu, ns) in now {
            let before = self.steal_at_start.get(&cpu).copied().unwrap_or(ns);
            cpus.extend(ns.checked_sub(before).filter(|ns| *ns > 0).map(|ns| (cpu, ns)));
        }
        if cpus != self.stolen {
            self.stolen.clone_from(&cpus);
            let sample = StealSample { ts_ns: now_ns(), cpus };
            self.sink.push(Record::Steal(Box::new(sample)));
        }
    }

    /// Names the Ms of all threads once more: some were too young when they were seen first.
    pub(super) fn last_ms(&mut self) {
        for w in self.watched.values_mut().filter(|w| w.alive) {
            let tids = self.procfs.threads(w.record.pid).unwrap_or_default();
            let ms = w.runtime.as_mut().map(|r| r.all_ms(&tids)).unwrap_or_default();
            for (tid, m_id) in ms {
                let info = thread_info(&self.procfs, w, tid, Some(m_id));
                self.sink.push(Record::Thread(Box::new(info)));
            }
        }
    }

    /// The end of a run: stop counting, take the rest, detach, and say what it cost.
    pub(crate) fn end(
        mut self,
        reason: &str,
        attach_ns: u64,
        usage_before: &nix::sys::resource::Usage,
    ) -> S {
        // While events still pass: what the runtime has counted by now is in them.
        let last: Vec<Record> =
            self.watched.values().filter_map(|w| w.sample(Moment::End)).collect();
        for w in self.watched.values() {
            self.session.unwatch(w.request.tgid);
        }
        let end_ns = now_ns();
        // Programs that were past their filter finish within microseconds; what they send counts.
        std::thread::sleep(Duration::from_millis(2));
        while self.drain() {}
        for sample in std::mem::take(&mut self.samples).into_iter().chain(last) {
            self.sink.push(sample);
        }
        self.last_ms();
        self.steal();
        let windows = std::mem::take(&mut self.windows);
        let (finals, totals) =
            self.session.final_threads(end_ns, |t| windows.get(&t).copied().unwrap_or_default());
        for event in finals {
            self.sink.push(Record::Event(Event::Thread(event)));
        }
        for totals in totals {
            self.sink.push(Record::ThreadTotals(Box::new(totals)));
        }
        let (mut probe_hits, mut hot_probes) = (Vec::new(), Vec::new());
        for index in self.watched.keys().copied().collect::<Vec<_>>() {
            if self.watched[&index].alive {
                self.interval(index);
                self.waits(index, end_ns, true);
            }
            match self.session.hists(index, end_ns) {
                Ok(h) => self.sink.push(Record::Hists(Box::new(h))),
                Err(e) => self.notice(Some(index), &e.to_string()),
            }
            let counters = self.session.counters(index, end_ns).unwrap_or_default();
            hot_probes.push(self.watched[&index].hot_probes(&counters));
            let counted = counters.hits;
            let mut sites: Vec<u32> =
                self.watched[&index].record.probes.iter().map(|p| p.site_id).collect();
            sites.sort_unstable();
            sites.dedup();
            for site in sites.into_iter().filter_map(Site::from_u32) {
                probe_hits.push(ProbeHits {
                    target: index,
                    site: plan::site_name(site).into(),
                    hits: counted.get(site as usize).copied().unwrap_or(0),
                });
            }
        }
        let loss = self.session.loss().unwrap_or_else(|_| Loss::default());
        let bpf_programs = self.session.program_costs();
        let host_switches = self.session.switches();
        let sampler_ticks = self.session.sampler_ticks();
        let Self { session, mut sink, watched, .. } = self;
        let detach = Instant::now();
        let handles = watched.into_values().flat_map(Watched::into_probes);
        bpf::detach(handles.collect());
        drop(session);
        bpf::wait_detached();
        let detach_ns = detach.elapsed().as_nanos() as u64;
        let usage = getrusage(UsageWho::RUSAGE_SELF).ok();
        let cpu = |u: &nix::sys::resource::Usage| {
            (u.user_time().num_microseconds() + u.system_time().num_microseconds()) as u64 * 1000
        };
        let end = RunEnd {
            end_ns,
            reason: reason.into(),
            produced: by_class(&loss.produced),
            lost: by_class(&loss.lost),
            received: by_class(&self.received),
            undecodable: self.undecodable,
            threads_full: loss.threads_full,
            host_switches,
            cost: Cost {
                agent_cpu_ns: usage
                    .as_ref()
                    .map_or(0, |u| cpu(u).saturating_sub(cpu(usage_before))),
                agent_max_rss_bytes: usage.as_ref().map_or(0, |u| u.max_rss() as u64 * 1024),
                bpf_programs,
                probe_hits,
                hot_probes,
                sampler_ticks,
                ring_bytes: self.ring_bytes,
                attach_ns: attach_ns + detach_ns,
            },
        };
        sink.push(Record::End(Box::new(end)));
        sink
    }
}

/// How far a run is, in one line.
fn status(
    session: &Session,
    watched: &BTreeMap<u8, Watched>,
    received: &[u64; EVENT_CLASSES],
    start_ns: u64,
) -> String {
    use std::fmt::Write as _;

    let seconds = (now_ns() - start_ns) / 1_000_000_000;
    let loss = session.loss().unwrap_or_default();
    let mut line = format!("{seconds:>4} s");
    for w in watched.values() {
        if let Ok(i) = session.counters(w.request.index, now_ns()) {
            let delays = i.woken + i.preempted;
            let mean_us = (i.woken_ns + i.preempted_ns) / delays.max(1) / 1000;
            let _ = write!(
                line,
                " | {} {}: {} GC, {} stops, {delays} run-queue waits, {mean_us} µs mean",
                clean(&w.record.comm),
                w.record.pid,
                i.gc,
                i.stw
            );
        }
    }
    let lost: u64 = loss.lost.iter().sum();
    let _ = write!(line, " | {} events", received.iter().sum::<u64>());
    if lost > 0 {
        let _ = write!(line, ", {lost} LOST");
    }
    line
}
