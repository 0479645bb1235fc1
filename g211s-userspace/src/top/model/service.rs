//! One service as it is shown: the process that is watched now, those that it took the place of, and what its counters
//! said second by second. Must not know the terminal, nor how a process is watched.

use std::collections::{BTreeMap, HashMap};

use g211s_ebpf::event::{THREAD_STATES, ThreadEvent, ThreadState};
use g211s_ebpf::hist::Hist;

use super::{
    history::{CLASSES, Class, Figures, History, PSecond, PState, Second, ThreadSecond},
    identity::Identity,
    rows::{Beyond, beyond, count},
};
use crate::model::rests::Rests;
use crate::record::{
    Hists, Interval, LatenessSource, RuntimeSample, Target, ThreadInfo, ThreadTotals, Unavailable,
    Waits,
};
use crate::report::format::clean;

/// Threads of which each second's time is kept.
const MAX_THREADS: usize = 256;
/// Names of threads that are kept, those that exited among them.
const MAX_NAMES: usize = 16_384;
/// Ps that are kept of each second.
const MAX_PS: usize = 1024;
/// Waits for a CPU, other than voluntary ones.
const WAITS: [Hist; 6] = [
    Hist::WokenOutside,
    Hist::WokenInGc,
    Hist::WokenInStw,
    Hist::PreemptedOutside,
    Hist::PreemptedInGc,
    Hist::PreemptedInStw,
];

/// What is known of a thread.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Thread {
    /// `m.id`, where known.
    pub(crate) m_id: Option<u64>,
    /// Its name.
    pub(crate) comm: String,
    /// It has exited.
    pub(crate) exited: bool,
}

/// Whether a service is watched.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Watch {
    /// It is.
    Here,
    /// Its process is gone.
    Gone {
        /// Since when, ns.
        since_ns: u64,
        /// Why.
        why: String,
    },
}

/// A service.
#[derive(Clone, Debug)]
pub(crate) struct Service {
    /// What a restart keeps.
    pub(crate) identity: Identity,
    /// PID of the process that is watched, or was last.
    pub(crate) pid: u32,
    /// The same as the kernel side sees it.
    pub(crate) tgid: u32,
    /// Its name.
    pub(crate) comm: String,
    /// Go version.
    pub(crate) go_version: String,
    /// What could not be had from it.
    pub(crate) missing: Vec<Unavailable>,
    /// The runtime's figures that could not be had: what, why.
    pub(crate) unread: Vec<(String, String)>,
    /// Whether it is watched.
    pub(crate) watch: Watch,
    /// Its place in the run: what another place tells is of a process before.
    pub(crate) place: u8,
    /// Times that another process took its place.
    pub(crate) restarts: u32,
    /// Second by second.
    pub(crate) history: History,
    /// By tid, of the process that is watched.
    pub(crate) threads: BTreeMap<u32, Thread>,
    /// What threads did in all, where a recording tells that alone.
    pub(crate) totals: BTreeMap<u32, [u64; THREAD_STATES]>,
    start_ns: u64,
    interval: Option<Interval>,
    since_ns: u64,
    hists: Option<Hists>,
    late: Hist,
    sums: HashMap<u32, [u64; THREAD_STATES]>,
    summed_ns: u64,
    rests: Rests,
    by_ticks: bool,
}

impl Service {
    /// A process that is watched since `since_ns`, in a run that began at `start_ns`.
    pub(crate) fn new(
        target: &Target,
        source: LatenessSource,
        start_ns: u64,
        since_ns: u64,
        keep: usize,
    ) -> Self {
        let mut this = Self {
            identity: Identity::default(),
            pid: 0,
            tgid: 0,
            comm: String::new(),
            go_version: String::new(),
            missing: Vec::new(),
            unread: Vec::new(),
            watch: Watch::Here,
            place: 0,
            restarts: 0,
            history: History::new(keep),
            threads: BTreeMap::new(),
            totals: BTreeMap::new(),
            start_ns,
            interval: None,
            since_ns,
            hists: None,
            late: match source {
                LatenessSource::EpPollCallback => Hist::ReadyHarvested,
                LatenessSource::Wakeup => Hist::EpollLate,
            },
            sums: HashMap::new(),
            summed_ns: since_ns,
            rests: Rests::default(),
            by_ticks: false,
        };
        this.is_now(target, since_ns);
        this
    }

    /// Another process has taken its place.
    pub(crate) fn restarted(&mut self, target: &Target, since_ns: u64) {
        self.restarts += 1;
        self.is_now(target, since_ns);
    }

    fn is_now(&mut self, target: &Target, since_ns: u64) {
        self.identity = Identity {
            exe: target.exe.clone(),
            cgroup: target.cgroup.clone(),
            module: target.module.clone(),
        };
        (self.pid, self.tgid) = (target.pid, target.tgid);
        self.comm = clean(&target.comm);
        self.go_version = clean(target.go_version.strip_prefix("go").unwrap_or(&target.go_version));
        self.missing.clone_from(&target.unavailable);
        let features = target.runtime.iter().flat_map(|r| &r.features);
        let unread = features.filter_map(|f| Some((f.name.clone(), f.why_not.clone()?)));
        self.unread = unread.map(|(name, why)| (name, clean(&why))).collect();
        self.watch = Watch::Here;
        self.threads.clear();
        self.totals.clear();
        (self.interval, self.hists) = (None, None);
        self.sums.clear();
        (self.since_ns, self.summed_ns) = (since_ns, since_ns);
        self.rests.clear();
    }

    /// Its process is gone.
    pub(crate) fn gone(&mut self, since_ns: u64, why: &str) {
        self.watch = Watch::Gone { since_ns, why: clean(why) };
    }

    /// The second in which `ts_ns` is, to be added to; `None` if it has been forgotten.
    pub(crate) fn second(&mut self, ts_ns: u64) -> Option<&mut Second> {
        let number = ts_ns.saturating_sub(self.start_ns) / 1_000_000_000;
        self.history.at_mut(number)
    }

    /// A thread as people know it.
    pub(crate) fn thread(&mut self, info: &ThreadInfo) {
        if self.threads.len() >= MAX_NAMES {
            self.threads.retain(|_, t| !t.exited);
        }
        if self.threads.len() < MAX_NAMES {
            let comm = clean(&info.comm);
            let thread = self.threads.entry(info.tid).or_default();
            *thread = Thread { m_id: info.m_id.or(thread.m_id), comm, exited: false };
        }
    }

    /// A thread has exited.
    pub(crate) fn exited(&mut self, tid: u32) {
        if let Some(thread) = self.threads.get_mut(&tid) {
            thread.exited = true;
        }
        self.sums.remove(&tid);
    }

    /// Takes counters.
    pub(crate) fn interval(&mut self, now: Interval) {
        let zero = Interval { ts_ns: self.since_ns, ..Interval::default() };
        let before = self.interval.take().unwrap_or(zero);
        let more = |now: u64, before: u64| now.saturating_sub(before);
        let polls = |i: &Interval| i.epoll_nonblocking.saturating_add(i.epoll_blocking);
        let waits = |i: &Interval| i.woken.saturating_add(i.preempted);
        let waited = |i: &Interval| i.woken_ns.saturating_add(i.preempted_ns);
        if let Some(s) = self.second(now.ts_ns) {
            let ms = more(now.ts_ns, before.ts_ns) / 1_000_000;
            s.watched_ms = s.watched_ms.saturating_add(ms.min(10_000) as u32);
            s.waits += more(waits(&now), waits(&before));
            s.waited_ns += more(waited(&now), waited(&before));
            s.on_cpu_ns += more(now.oncpu_ns, before.oncpu_ns);
            s.throttled_ns += more(now.throttled_ns, before.throttled_ns);
            s.gcs += more(now.gc, before.gc);
            s.polls += more(polls(&now), polls(&before));
            s.poll_events += more(now.epoll_events, before.epoll_events);
            s.poll_sleeps += more(now.epoll_slept, before.epoll_slept);
            s.polls_ns += more(now.polls_ns.unwrap_or(0), before.polls_ns.unwrap_or(0));
        }
        self.interval = Some(now);
    }

    /// Takes histograms, read now.
    pub(crate) fn hists(&mut self, now: Hists) {
        let before = self.hists.take();
        let had = |hist: Hist| before.as_ref().and_then(|b| b.hists.get(&(hist as u8)));
        let sum = |hists: &[Hist]| {
            let mut sum = Beyond::default();
            for hist in hists {
                if let Some(h) = now.hists.get(&(*hist as u8)) {
                    beyond(had(*hist), h, &mut sum);
                }
            }
            sum
        };
        let (waits, late) = (sum(&WAITS), sum(&[self.late]));
        if let Some(s) = self.second(now.ts_ns) {
            for (sum, n) in s.rows.iter_mut().zip(waits.counts) {
                *sum = sum.saturating_add(n);
            }
            for (sum, n) in s.late_rows.iter_mut().zip(late.counts) {
                *sum = sum.saturating_add(n);
            }
            (s.has_rows, s.has_late_rows) = (true, true);
            s.longest_wait_ns = s.longest_wait_ns.max(waits.longest_ns);
            s.latest_ns = s.latest_ns.max(late.longest_ns);
        }
        self.hists = Some(now);
    }

    /// Takes what threads did since they were first seen, as read now.
    pub(crate) fn thread_sums(&mut self, now_ns: u64, totals: &[ThreadTotals]) {
        let elapsed_us = now_ns.saturating_sub(self.summed_ns) / 1000;
        self.summed_ns = now_ns;
        let mut seconds: Vec<ThreadSecond> = Vec::with_capacity(totals.len());
        for t in totals {
            let before = self.sums.insert(t.tid, t.state_ns);
            // What a thread did before it was first read may have been long ago.
            let Some(before) = before else { continue };
            let mut us = [0u64; CLASSES];
            for (state, (now, then)) in t.state_ns.iter().zip(before).enumerate() {
                us[class_of(state) as usize] += now.saturating_sub(then) / 1000;
            }
            let us = us.map(|us| us.min(elapsed_us.max(1)) as u32);
            seconds.push(ThreadSecond { tid: t.tid, us });
        }
        seconds.sort_by_key(|t| {
            let busy =
                u64::from(t.us[Class::Running as usize]) + u64::from(t.us[Class::Waiting as usize]);
            (std::cmp::Reverse(busy + u64::from(t.us[Class::Disk as usize])), t.tid)
        });
        let left_out = seconds.len().saturating_sub(MAX_THREADS) as u32;
        seconds.truncate(MAX_THREADS);
        if let Some(s) = self.second(now_ns) {
            (s.threads, s.threads_left_out) = (seconds, left_out);
        }
    }

    /// What a thread did in all, at its end.
    pub(crate) fn thread_totals(&mut self, totals: &ThreadTotals) {
        if self.totals.len() < MAX_NAMES {
            let sums = self.totals.entry(totals.tid).or_default();
            for (sum, ns) in sums.iter_mut().zip(totals.state_ns) {
                *sum = sum.saturating_add(ns);
            }
        }
        if totals.exited {
            self.exited(totals.tid);
        }
    }

    /// Takes the runtime's own figures.
    pub(crate) fn sample(&mut self, sample: &RuntimeSample) {
        let heap = sample.heap.as_ref();
        let figures = Figures {
            heap_live: heap.map(|h| h.live),
            heap_goal: heap.and_then(|h| h.goal),
            gc_percent: heap.map(|h| h.gc_percent),
            memory_limit: heap.map(|h| h.memory_limit),
            goroutines: sample.goroutines.as_ref().and_then(|g| g.count),
            gomaxprocs: sample.gomaxprocs,
            cycles: sample.gc.as_ref().map(|g| g.cycles),
            forced: sample.gc.as_ref().map(|g| g.forced),
            assist_cpu_ns: sample.assist_cpu_ns,
        };
        let ps = sample.ps.iter().take(MAX_PS).map(|p| PSecond {
            id: p.id,
            state: p_state(&p.status),
            m_id: p.m_id,
        });
        let ps: Vec<PSecond> = ps.collect();
        if let Some(s) = self.second(sample.end_ns) {
            s.figures = figures;
            s.ps = ps;
        }
    }

    /// A stop of the world that began at `start_ns` is over and explained.
    pub(crate) fn stop(&mut self, start_ns: u64, ns: u64) {
        if let Some(s) = self.second(start_ns) {
            s.stops += 1;
            s.stopped_ns = s.stopped_ns.saturating_add(ns);
            s.longest_stop_ns = s.longest_stop_ns.max(ns);
        }
    }

    /// Takes a thread's event: a wait for a CPU, if it ends one that is not voluntary. For recordings, which have
    /// no histograms of single seconds.
    pub(crate) fn thread_event(&mut self, e: &ThreadEvent) {
        let Some(ns) = self.rests.told(e) else { return };
        if let Some(s) = self.second(e.header.ts_ns) {
            count(&mut s.rows, ns, 1);
            s.longest_wait_ns = s.longest_wait_ns.max(ns);
        }
        self.settle(false);
    }

    /// Takes waits by time, likewise.
    pub(crate) fn waits(&mut self, waits: &Waits) {
        self.by_ticks = true;
        self.rests.take(waits);
        self.settle(false);
    }

    /// Counts what ticks held beside the waits that have events, at their mean.
    fn settle(&mut self, last: bool) {
        let by_ticks = self.by_ticks;
        while let Some(rest) = self.rests.next(last) {
            let Some(s) = self.second(rest.at_ns).filter(|_| by_ticks) else { continue };
            s.has_rows = true;
            if let Some(mean) = rest.mean_ns {
                count(&mut s.rows, mean, rest.waits);
            }
        }
    }

    /// The recording is over.
    pub(crate) fn end(&mut self) {
        self.settle(true);
        if self.by_ticks {
            let (first, end) = (self.history.first(), self.history.end());
            for n in first..end {
                if let Some(s) = self.history.at_mut(n).filter(|s| s.watched_ms > 0) {
                    s.has_rows = true;
                }
            }
        }
    }

    /// Whether the rows of its waits are in part at the mean of their millisecond.
    pub(crate) fn is_by_mean(&self) -> bool {
        self.by_ticks
    }

    /// Why a figure of the runtime's is not known, if that is known.
    pub(crate) fn why_unread(&self, feature: &str) -> Option<&str> {
        self.unread.iter().find(|(name, _)| name == feature).map(|(_, why)| why.as_str())
    }

    /// Why a feature is not there, if it is not.
    pub(crate) fn why_missing(&self, feature: &str) -> Option<&str> {
        self.missing.iter().find(|u| u.feature == feature).map(|u| u.why.as_str())
    }
}

/// The class of a `ThreadState` by number.
pub(crate) fn class_of(state: usize) -> Class {
    match u8::try_from(state).ok().and_then(ThreadState::from_u8) {
        Some(ThreadState::Running) => Class::Running,
        Some(s) if s.is_runnable() => Class::Waiting,
        Some(ThreadState::Blocked) => Class::Asleep,
        Some(ThreadState::BlockedUninterruptible) => Class::Disk,
        _ => Class::Other,
    }
}

/// Go `runtime/runtime2.go`, `_Pidle` and what follows.
fn p_state(status: &str) -> PState {
    match status {
        "_Pidle" => PState::Idle,
        "_Prunning" => PState::Running,
        "_Psyscall" => PState::Syscall,
        "_Pgcstop" => PState::GcStop,
        _ => PState::Other,
    }
}
