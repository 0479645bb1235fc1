//! What `top` knows: services second by second over a bounded window, and what was told of them. Fed by the stream of
//! records of a run or of a recording. Must not know the terminal, BPF, or any clock: time arrives in records.

pub(crate) mod history;
pub(crate) mod identity;
pub(crate) mod lines;
pub(crate) mod rows;
pub(crate) mod service;

use std::collections::BTreeMap;

use g211s_ebpf::event::Life;

use crate::event::Event;
use crate::record::{LatenessSource, PollSource, Record, RunStart, Target, ThreadTotals};
use crate::report::format::clean;
use crate::report::{
    Note, Pipeline, StwReport, delay_sentence, disagreement, sentence, sleep_sentence,
};

use lines::{Kind, Line, Lines};
use service::{Service, Watch};

/// Seconds that a live view keeps.
pub(crate) const WINDOW: usize = 600;
/// Seconds that are kept of a recording.
pub(crate) const LONG_WINDOW: usize = 4 * 3600;
/// Services that are kept, those that are gone among them.
const MAX_SERVICES: usize = 256;

/// What the observation costs, and what was lost of it.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Cost {
    /// Share of one CPU that g211s takes.
    pub(crate) cpu: Option<f64>,
    /// Memory that g211s has in use, bytes.
    pub(crate) rss_bytes: Option<u64>,
    /// Probes in targets hit, a second.
    pub(crate) hits_per_second: Option<f64>,
    /// Context switches of the host looked at, a second.
    pub(crate) switches_per_second: Option<f64>,
    /// Events that the kernel side wanted to send.
    pub(crate) produced: u64,
    /// Of them, those that found the ring full.
    pub(crate) lost: u64,
    /// Threads that found no room in the kernel's table.
    pub(crate) threads_full: u64,
    /// Items that did not decode.
    pub(crate) undecodable: u64,
}

impl Cost {
    /// Whether anything is missing that should be there.
    pub(crate) fn is_lossy(&self) -> bool {
        self.lost > 0 || self.threads_full > 0 || self.undecodable > 0
    }
}

/// What does not change while a run lasts.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Head {
    /// Monotonic time of the beginning, ns.
    pub(crate) start_ns: u64,
    /// The same since 1970, ns.
    pub(crate) wall_ns: u64,
    /// Host name.
    pub(crate) hostname: String,
    /// CPUs online.
    pub(crate) cpus: u32,
    /// What counts as a long delay, ns.
    pub(crate) threshold_ns: u64,
    /// What counts polls.
    pub(crate) poll_source: Option<PollSource>,
    /// What tells how late the network is served.
    pub(crate) lateness_source: LatenessSource,
}

/// All of it.
#[derive(Debug)]
pub(crate) struct Model {
    /// How the run was made; `None` before it began.
    pub(crate) head: Option<Head>,
    /// Every service that was watched, in the order in which they came.
    pub(crate) services: Vec<Service>,
    /// What was told.
    pub(crate) lines: Lines,
    /// What it costs.
    pub(crate) cost: Cost,
    /// Why the run is over, once it is.
    pub(crate) ended: Option<String>,
    /// The latest time of any record, ns.
    pub(crate) now_ns: u64,
    /// Changes with every change.
    pub(crate) version: u64,
    pipeline: Pipeline,
    /// Who has which place.
    places: BTreeMap<u8, usize>,
    keep: usize,
}

impl Model {
    /// Nothing yet, of a run that goes on.
    pub(crate) fn live() -> Self {
        Self::with(Pipeline::new("live").telling_delays().unending(), WINDOW)
    }

    /// Nothing yet, of a recording.
    pub(crate) fn of_recording() -> Self {
        Self::with(Pipeline::new("file").telling_delays(), LONG_WINDOW)
    }

    fn with(pipeline: Pipeline, keep: usize) -> Self {
        Self {
            head: None,
            services: Vec::new(),
            lines: Lines::default(),
            cost: Cost::default(),
            ended: None,
            now_ns: 0,
            version: 0,
            pipeline,
            places: BTreeMap::new(),
            keep,
        }
    }

    /// Takes the next record.
    pub(crate) fn push(&mut self, record: Record) {
        self.version += 1;
        self.look(&record);
        let left = if let Record::Detached(d) = &record { Some(d.index) } else { None };
        for note in self.pipeline.push(record) {
            self.note(note);
        }
        if let Some(place) = left {
            self.places.remove(&place);
        }
    }

    /// The recording is over: what is open is judged.
    pub(crate) fn finish(&mut self) {
        for note in self.pipeline.flush() {
            self.note(note);
        }
        self.services.iter_mut().for_each(Service::end);
    }

    /// Takes what threads have done since they were first seen, as read now.
    pub(crate) fn thread_sums(&mut self, place: u8, now_ns: u64, totals: &[ThreadTotals]) {
        self.version += 1;
        if let Some(service) = self.at(place) {
            service.thread_sums(now_ns, totals);
        }
    }

    /// Threads whose sums are of interest.
    pub(crate) fn tids(&self, place: u8) -> Vec<u32> {
        let service = self.places.get(&place).and_then(|&index| self.services.get(index));
        let threads = service.into_iter().flat_map(|s| &s.threads);
        threads.filter(|(_, t)| !t.exited).map(|(tid, _)| *tid).collect()
    }

    /// Something to tell that is in no record.
    pub(crate) fn say(&mut self, ts_ns: u64, text: &str) {
        self.version += 1;
        self.lines.push(Line {
            ts_ns,
            service: None,
            kind: Kind::Notice,
            ns: 0,
            text: clean(text),
            tids: Vec::new(),
        });
    }

    /// The number of the second in which `ts_ns` is.
    pub(crate) fn second_of(&self, ts_ns: u64) -> u64 {
        let start = self.head.as_ref().map_or(0, |h| h.start_ns);
        ts_ns.saturating_sub(start) / 1_000_000_000
    }

    /// Numbers of the seconds that can be shown: from, and before which.
    pub(crate) fn window(&self) -> (u64, u64) {
        let end = self.second_of(self.now_ns) + 1;
        (end.saturating_sub(self.keep as u64), end)
    }

    /// The service that has a place now, and not a process of its that had one before.
    fn at(&mut self, place: u8) -> Option<&mut Service> {
        let index = *self.places.get(&place)?;
        self.services.get_mut(index).filter(|s| s.place == place)
    }

    fn began(&mut self, start: &RunStart) {
        if self.head.is_some() {
            return;
        }
        self.head = Some(Head {
            start_ns: start.start_ns,
            wall_ns: start.wall_ns,
            hostname: clean(&start.host.hostname),
            cpus: start.host.cpus,
            threshold_ns: start.settings.threshold_ns,
            poll_source: start.settings.poll_source,
            lateness_source: start.settings.lateness_source,
        });
        self.now_ns = start.start_ns;
        for (place, target) in (0..=u8::MAX).zip(&start.targets) {
            self.came(place, target, start.start_ns);
        }
    }

    /// A process is watched: the successor of one that is gone, or another service.
    fn came(&mut self, place: u8, target: &Target, ts_ns: u64) {
        let (start_ns, source) = self
            .head
            .as_ref()
            .map_or((ts_ns, LatenessSource::default()), |h| (h.start_ns, h.lateness_source));
        let new = Service::new(target, source, start_ns, ts_ns, self.keep);
        let gone = self.services.iter().enumerate().filter(|(_, s)| s.watch != Watch::Here);
        let fitting =
            gone.filter_map(|(index, s)| Some((s.identity.succeeds(&new.identity)?, index)));
        let best = fitting.max_by_key(|&(fit, index)| (fit, std::cmp::Reverse(index)));
        let index = if let Some((_, index)) = best {
            let old_pid = self.services[index].pid;
            self.services[index].restarted(target, ts_ns);
            let text = format!(
                "{} is watched again: process {} took the place of {old_pid}",
                clean(&target.comm),
                target.pid
            );
            self.tell(ts_ns, Some(index), Kind::Notice, 0, text);
            index
        } else if self.services.len() < MAX_SERVICES {
            self.services.push(new);
            self.services.len() - 1
        } else {
            return;
        };
        self.services[index].place = place;
        self.places.insert(place, index);
        for u in &target.unavailable {
            // What all have is said once.
            let text = format!("without {}: {}; {}", u.feature, u.why, u.costs);
            let known = self.lines.newest_first().any(|l| l.kind == Kind::Notice && l.text == text);
            if !known {
                self.tell(ts_ns, Some(index), Kind::Notice, 0, clean(&text));
            }
        }
    }

    fn tell(&mut self, ts_ns: u64, service: Option<usize>, kind: Kind, ns: u64, text: String) {
        self.lines.push(Line { ts_ns, service, kind, ns, text, tids: Vec::new() });
    }

    /// What a record says of a service.
    fn look(&mut self, record: &Record) {
        match record {
            Record::Start(start) => self.began(start),
            Record::Attached(a) => self.came(a.index, &a.target, a.ts_ns),
            Record::Interval(i) => {
                self.now(i.ts_ns);
                if let Some(s) = self.at(i.target) {
                    s.interval((**i).clone());
                }
            }
            Record::Hists(h) => {
                let live = self.keep == WINDOW;
                if let Some(s) = self.at(h.target).filter(|_| live) {
                    s.hists((**h).clone());
                }
            }
            Record::Runtime(r) => {
                if let Some(s) = self.at(r.target) {
                    s.sample(r);
                }
            }
            Record::Thread(t) => {
                if let Some(s) = self.at(t.target) {
                    s.thread(t);
                }
            }
            Record::ThreadTotals(t) => {
                if let Some(s) = self.at(t.target) {
                    s.thread_totals(t);
                }
            }
            Record::Waits(w) => {
                if let Some(s) = self.at(w.target) {
                    s.waits(w);
                }
            }
            Record::Event(Event::Thread(e)) if self.keep != WINDOW => {
                if let Some(s) = self.at(e.header.target) {
                    s.thread_event(e);
                }
            }
            Record::Event(Event::Life(l)) if l.what == Life::ThreadExited as u32 => {
                if let Some(s) = self.at(l.header.target) {
                    s.exited(l.header.tid);
                }
            }
            Record::End(end) => {
                self.now(end.end_ns);
                self.ended = Some(clean(&end.reason));
                let sum = |counts: &BTreeMap<String, u64>| {
                    counts.values().fold(0, |sum: u64, n| sum.saturating_add(*n))
                };
                let start = self.head.as_ref().map_or(end.end_ns, |h| h.start_ns);
                let seconds = end.end_ns.saturating_sub(start) as f64 / 1e9;
                let rate = |n: u64| (seconds > 0.0).then(|| n as f64 / seconds);
                let hits = end.cost.probe_hits.iter().fold(0, |n: u64, h| n.saturating_add(h.hits));
                self.cost = Cost {
                    cpu: rate(end.cost.agent_cpu_ns).map(|ns| ns / 1e9),
                    rss_bytes: Some(end.cost.agent_max_rss_bytes),
                    hits_per_second: rate(hits),
                    switches_per_second: rate(end.host_switches),
                    produced: sum(&end.produced),
                    lost: sum(&end.lost),
                    threads_full: end.threads_full,
                    undecodable: end.undecodable,
                };
            }
            _ => {}
        }
    }

    fn now(&mut self, ts_ns: u64) {
        // A time that no machine has been up for is damage.
        if ts_ns < 1 << 58 {
            self.now_ns = self.now_ns.max(ts_ns);
        }
    }

    /// Takes what there is to tell.
    fn note(&mut self, note: Note) {
        match note {
            Note::Stop { target, stop } => {
                let index = self.places.get(&target).copied();
                if let Some(s) = index.and_then(|index| self.services.get_mut(index)) {
                    s.stop(stop.start_ns, stop.total_ns);
                }
                let ts_ns = stop.start_ns.saturating_add(stop.total_ns);
                if self.lines.admits(Kind::Stop, ts_ns, stop.total_ns) {
                    let (ns, tids) = (stop.total_ns, tids_of(&stop));
                    let text = sentence(&stop);
                    self.lines.push(Line {
                        ts_ns,
                        service: index,
                        kind: Kind::Stop,
                        ns,
                        text,
                        tids,
                    });
                }
            }
            Note::Delay { target, delay } => {
                let ts_ns = delay.start_ns.saturating_add(delay.wait_ns);
                let (ns, tid) = (delay.wait_ns, delay.tid);
                self.delay(target, ts_ns, ns, tid, || delay_sentence(&delay));
            }
            Note::Sleep { target, sleep } => {
                let ts_ns = sleep.start_ns.saturating_add(sleep.ns);
                let (ns, tid) = (sleep.ns, sleep.tid);
                self.delay(target, ts_ns, ns, tid, || sleep_sentence(&sleep));
            }
            Note::Notice(notice) => {
                self.now(notice.ts_ns);
                let index = notice.target.and_then(|t| self.places.get(&t).copied());
                self.tell(notice.ts_ns, index, Kind::Notice, 0, notice.text);
            }
            Note::Disagreement { target, accuracy } => {
                let index = self.places.get(&target).copied();
                for line in disagreement(&accuracy) {
                    self.tell(self.now_ns, index, Kind::Wrong, 0, clean(&line));
                }
            }
            // Counted from the kernel side, as they begin.
            Note::Cycle { .. } => {}
        }
    }

    fn delay(&mut self, place: u8, ts_ns: u64, ns: u64, tid: u32, words: impl FnOnce() -> String) {
        let service = self.places.get(&place).copied();
        if self.lines.admits(Kind::Delay, ts_ns, ns) {
            let tids = vec![tid];
            self.lines.push(Line { ts_ns, service, kind: Kind::Delay, ns, text: words(), tids });
        }
    }

    /// The process at this place is gone.
    pub(crate) fn gone(&mut self, place: u8, ts_ns: u64, why: &str) {
        self.version += 1;
        if let Some(s) = self.at(place) {
            s.gone(ts_ns, why);
        }
    }
}

fn tids_of(stop: &StwReport) -> Vec<u32> {
    let mut tids = vec![stop.stopper_tid];
    tids.extend(stop.laggard_tid);
    tids.extend(stop.causes.iter().map(|c| c.tid));
    tids.extend(stop.threads.iter().map(|t| t.tid));
    tids.sort_unstable();
    tids.dedup();
    tids
}

#[cfg(test)]
pub(crate) mod tests;
