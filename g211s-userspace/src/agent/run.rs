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
    console::{Console, Sinks},
    naming::Naming,
    now_ns,
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

/// A run under way.
pub(super) struct Run<'a> {
    pub(super) session: Session,
    pub(super) sinks: Sinks,
    pub(super) console: Console,
    pub(super) procfs: Procfs,
    pub(super) watched: Vec<Watched>,
    /// What addresses in their code are, by target.
    pub(super) naming: Vec<Naming<'a>>,
    /// How long network polls may be counted; `None` where they cannot be.
    pub(super) poll_governor: Option<Governor>,
    pub(super) received: [u64; EVENT_CLASSES],
    pub(super) undecodable: u64,
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

impl Run<'_> {
    /// Takes one helping of events from the ring; whether there is more.
    pub(super) fn drain(&mut self) -> bool {
        let Self {
            session,
            sinks,
            console,
            procfs,
            watched,
            naming,
            received,
            undecodable,
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
                received[usize::from(event.header().kind)] += 1;
                match &mut event {
                    Event::Stack(s) => {
                        let target = usize::from(s.header.target);
                        if watched.get(target).is_some_and(|w| w.alive)
                            && let Some(naming) = naming.get_mut(target)
                        {
                            for symbol in naming.take(procfs, s) {
                                sinks.push(Record::Symbol(Box::new(symbol)), console);
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
                    }
                    Event::Life(l) if l.what == Life::Exec as u32 => execs.push(l.header.target),
                    _ => {}
                }
                sinks.push(Record::Event(event), console);
            }
        });
        self.ring_bytes += bytes;
        self.describe();
        self.take_exited();
        for target in execs {
            self.gone(
                target,
                "it replaced its program (execve); attach again to watch the new one",
            );
        }
        self.session.flush_kernel_log();
        more
    }

    /// Whether nobody takes what the run finds: a recording that could not be written on.
    pub(super) fn is_pointless(&self) -> bool {
        self.sinks.writer.is_none() && self.sinks.pipeline.is_none()
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
            self.sinks.push(Record::Process(Box::new(info)), &mut self.console);
        }
        let born = std::mem::take(&mut self.born);
        for w in &self.watched {
            let of = born.iter().filter(|(target, _)| *target == w.request.index);
            let tids: Vec<u32> = of.map(|(_, tid)| *tid).collect();
            let ms = w.runtime.as_ref().filter(|_| w.alive && !tids.is_empty());
            let ms = ms.map(|r| r.new_ms(&tids)).unwrap_or_default();
            for tid in tids {
                let info = thread_info(&self.procfs, w, tid, ms.get(&tid).copied());
                self.sinks.push(Record::Thread(Box::new(info)), &mut self.console);
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
                    self.sinks.push(Record::ThreadTotals(Box::new(t)), &mut self.console);
                }
                // What never shows up (its record was never made, or made anew) must not pile up.
                None if tries < LEAVING_TRIES => later.push((tid, tries + 1)),
                None => {}
            }
        }
        self.exited = later;
    }

    /// Reads counters, after the events of the time before were taken.
    pub(super) fn intervals(&mut self) {
        for sample in std::mem::take(&mut self.samples) {
            self.sinks.push(sample, &mut self.console);
        }
        for index in 0..self.watched.len() {
            if self.watched[index].alive {
                self.interval(index as u8);
            }
        }
    }

    pub(super) fn interval(&mut self, target: u8) {
        let now = now_ns();
        let w = &mut self.watched[usize::from(target)];
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
            Ok(i) => self.sinks.push(Record::Interval(Box::new(i)), &mut self.console),
            Err(e) => self.notice(Some(target), &e.to_string()),
        }
        self.waits(target, now, false);
    }

    /// Takes the waits by time. `last`: the target is not watched any more.
    fn waits(&mut self, target: u8, now_ns: u64, last: bool) {
        let w = &mut self.watched[usize::from(target)];
        let numbers = w.waits.due(now_ns, last);
        if numbers.is_empty() {
            return;
        }
        match self.session.ticks(target, numbers.clone()) {
            Ok(ticks) => {
                let record = w.waits.unfolding.record(target, numbers.start, &ticks);
                self.sinks.push(Record::Waits(Box::new(record)), &mut self.console);
            }
            Err(e) => self.notice(Some(target), &e.to_string()),
        }
    }

    /// Whether a look at what is hit often may be over any moment.
    pub(super) fn is_looking(&self) -> bool {
        let now = now_ns();
        if self.poll_governor.as_ref().is_some_and(|g| g.is_looking(now)) {
            return true;
        }
        let mut alive = self.watched.iter().filter(|w| w.alive);
        alive.any(|w| w.allocs.is_looking(now) || w.assists.is_looking(now))
    }

    /// Lets what is hit often come and go, so that it stays affordable.
    /// `all`: also what is in no hurry, i.e. not within a short look.
    pub(super) fn govern(&mut self, all: bool) {
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
        for w in watched.iter_mut().filter(|w| w.alive) {
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

    pub(super) fn notice(&mut self, target: Option<u8>, text: &str) {
        self.console.say(&format!("g211s: {text}"));
        let notice = Notice { ts_ns: now_ns(), target, text: text.to_owned() };
        self.sinks.push(Record::Notice(Box::new(notice)), &mut self.console);
    }

    /// Whether any target is still there; says so of those that went.
    pub(super) fn targets_alive(&mut self) -> bool {
        for index in 0..self.watched.len() {
            let w = &self.watched[index];
            if w.alive && !w.resolved.is_alive(&self.procfs) {
                self.gone(index as u8, "it exited");
            }
        }
        self.watched.iter().any(|w| w.alive)
    }

    pub(super) fn gone(&mut self, target: u8, why: &str) {
        let Some(w) = self.watched.get_mut(usize::from(target)).filter(|w| w.alive) else { return };
        w.alive = false;
        let (pid, comm) = (w.record.pid, w.record.comm.clone());
        self.session.unwatch(w.request.tgid);
        self.interval(target);
        self.waits(target, now_ns(), true);
        self.notice(Some(target), &format!("process {pid} ({comm}): {why}"));
    }

    pub(super) fn every_second(&mut self) {
        use std::fmt::Write as _;

        self.watched.iter_mut().filter(|w| w.alive).for_each(Watched::renew_quotas);
        // `/proc/stat` is dear on a machine with many CPUs; on bare metal it has nothing to say.
        if self.steal_at_start.values().any(|ns| *ns > 0) {
            self.steal();
        }
        self.samples.extend(self.watched.iter().filter_map(|w| w.sample(Moment::Running)));
        if let Some(writer) = &mut self.sinks.writer
            && let Err(e) = writer.flush()
        {
            self.sinks.writer = None;
            self.notice(None, &format!("{e}; the run goes on without the recording"));
        }
        self.console.held_back();
        if !self.console.tty {
            return;
        }
        let seconds = (now_ns() - self.start_ns) / 1_000_000_000;
        let loss = self.session.loss().unwrap_or_default();
        let mut line = format!("{seconds:>4} s");
        for w in &self.watched {
            if let Ok(i) = self.session.counters(w.request.index, now_ns()) {
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
        let _ = write!(line, " | {} events", self.received.iter().sum::<u64>());
        if lost > 0 {
            let _ = write!(line, ", {lost} LOST");
        }
        self.console.status(&line);
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
            self.sinks.push(Record::Steal(Box::new(sample)), &mut self.console);
        }
    }

    /// Names the Ms of all threads once more: some were too young when they were seen first.
    pub(super) fn last_ms(&mut self) {
        for w in self.watched.iter_mut().filter(|w| w.alive) {
            let tids = self.procfs.threads(w.record.pid).unwrap_or_default();
            let ms = w.runtime.as_mut().map(|r| r.all_ms(&tids)).unwrap_or_default();
            for (tid, m_id) in ms {
                let info = thread_info(&self.procfs, w, tid, Some(m_id));
                self.sinks.push(Record::Thread(Box::new(info)), &mut self.console);
            }
        }
    }

    /// The end of a run: stop counting, take the rest, detach, and say what it cost.
    pub(super) fn end(
        mut self,
        reason: &str,
        attach_ns: u64,
        usage_before: &nix::sys::resource::Usage,
    ) -> Sinks {
        // While events still pass: what the runtime has counted by now is in them.
        let last: Vec<Record> = self.watched.iter().filter_map(|w| w.sample(Moment::End)).collect();
        for w in &self.watched {
            self.session.unwatch(w.request.tgid);
        }
        let end_ns = now_ns();
        // Programs that were past their filter finish within microseconds; what they send counts.
        std::thread::sleep(Duration::from_millis(2));
        while self.drain() {}
        for sample in std::mem::take(&mut self.samples).into_iter().chain(last) {
            self.sinks.push(sample, &mut self.console);
        }
        self.last_ms();
        self.steal();
        let windows = std::mem::take(&mut self.windows);
        let (finals, totals) =
            self.session.final_threads(end_ns, |t| windows.get(&t).copied().unwrap_or_default());
        for event in finals {
            self.sinks.push(Record::Event(Event::Thread(event)), &mut self.console);
        }
        for totals in totals {
            self.sinks.push(Record::ThreadTotals(Box::new(totals)), &mut self.console);
        }
        let (mut probe_hits, mut hot_probes) = (Vec::new(), Vec::new());
        for index in 0..self.watched.len() as u8 {
            if self.watched[usize::from(index)].alive {
                self.interval(index);
                self.waits(index, end_ns, true);
            }
            match self.session.hists(index, end_ns) {
                Ok(h) => self.sinks.push(Record::Hists(Box::new(h)), &mut self.console),
                Err(e) => self.notice(Some(index), &e.to_string()),
            }
            let counters = self.session.counters(index, end_ns).unwrap_or_default();
            hot_probes.push(self.watched[usize::from(index)].hot_probes(&counters));
            let counted = counters.hits;
            let mut sites: Vec<u32> =
                self.watched[usize::from(index)].record.probes.iter().map(|p| p.site_id).collect();
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
        let Self { session, mut sinks, mut console, watched, .. } = self;
        let detach = Instant::now();
        let handles = watched.into_iter().flat_map(|w| {
            let Watched { probes, mut allocs, mut assists, .. } = w;
            probes.into_iter().chain(allocs.take()).chain(assists.take())
        });
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
        sinks.push(Record::End(Box::new(end)), &mut console);
        if sinks.live
            && let Some(pipeline) = &mut sinks.pipeline
        {
            console.tell(&pipeline.flush());
        }
        console.held_back();
        console.clear();
        sinks
    }
}
