//! What a run keeps of the runtime's samples, and the report's sections of them. Must not know how
//! they are printed.

use std::collections::VecDeque;

use g211s_ebpf::event::Site;

use super::{
    format::{clean, sum},
    schema::{
        GcCounters, GoroutinesReport, HeapReport, LatencyBucket, ReadsReport, RuntimePoint,
        RuntimeReport, SchedLatency, StatusCount,
    },
};
use crate::{
    analysis::{
        accuracy::{Accuracy, Finding, Ours, compare, counted::Counted},
        goroutine::saturation::Figures,
    },
    model::stw::{IncompleteStop, Stop},
    record::{PSample, RuntimeSample, Target, Unavailable},
    runtime::histogram::{TimeHist, bucket_range},
};

/// Points of the series: thinned out to half whenever there are so many.
const MAX_POINTS: usize = 2000;
/// Samples that wait to be compared while the run goes on.
const MAX_PENDING: usize = 64;
/// A stop that the runtime counts between two samples began at most this long before the first (the
/// runtime itself would not outlive a longer one).
const LONGEST_STOP_NS: u64 = 60_000_000_000;

/// The samples of one target.
#[derive(Clone, Debug, Default)]
pub(super) struct Samples {
    first: Option<RuntimeSample>,
    last: Option<RuntimeSample>,
    pending: VecDeque<RuntimeSample>,
    count: u64,
    inconsistent: u64,
    reads: ReadsReport,
    max_live: Option<u64>,
    max_goroutines: Option<u64>,
    points: Vec<RuntimePoint>,
    /// The smallest and largest GOMAXPROCS.
    gomaxprocs: Option<(u32, u32)>,
    /// How busy Ps and goroutines were found.
    busy: Figures,
    /// Only each so many-th sample becomes a point.
    step: u64,
    /// A disagreement was told.
    told: bool,
}

impl Samples {
    /// Takes the next sample.
    pub(super) fn push(&mut self, sample: RuntimeSample) {
        self.count += 1;
        self.inconsistent += u64::from(!sample.consistent);
        let r = &sample.reads;
        self.reads.calls = sum([self.reads.calls, r.calls]);
        self.reads.bytes = sum([self.reads.bytes, r.bytes]);
        self.reads.failed = sum([self.reads.failed, r.failed]);
        self.reads.cpu_ns = sum([self.reads.cpu_ns, r.cpu_ns]);
        let length = sample.end_ns.saturating_sub(sample.begin_ns);
        self.reads.longest_ns = self.reads.longest_ns.max(length);
        let goroutines = sample.goroutines.as_ref().and_then(|g| g.count);
        self.max_live = self.max_live.max(sample.heap.map(|h| h.live));
        self.max_goroutines = self.max_goroutines.max(goroutines);
        if let Some(n) = sample.gomaxprocs {
            let (low, high) = self.gomaxprocs.unwrap_or((n, n));
            self.gomaxprocs = Some((low.min(n), high.max(n)));
        }
        if !sample.ps.is_empty() {
            self.busy.samples += 1;
            let all = sample.ps.iter().all(|p| p.status == "_Prunning");
            self.busy.samples_all_running += u64::from(all);
        }
        if let Some(g) = sample.goroutines.as_ref().filter(|g| !g.by_status.is_empty()) {
            self.busy.samples_of_goroutines += 1;
            let runnable = g.by_status.get("_Grunnable").copied().unwrap_or(0);
            self.busy.runnable_sum = self.busy.runnable_sum.saturating_add(runnable);
        }
        self.step = self.step.max(1);
        if (self.count - 1).is_multiple_of(self.step) {
            self.points.push(RuntimePoint {
                ts_ns: sample.begin_ns,
                heap_live: sample.heap.map(|h| h.live),
                heap_goal: sample.heap.and_then(|h| h.goal),
                gc_cycles: sample.gc.map(|g| g.cycles),
                goroutines,
            });
        }
        if self.points.len() >= MAX_POINTS {
            let mut keep = false;
            self.points.retain(|_| {
                keep = !keep;
                keep
            });
            self.step *= 2;
        }
        if self.pending.len() < MAX_PENDING && !self.told {
            self.pending.push_back(sample.clone());
        }
        self.first.get_or_insert_with(|| sample.clone());
        self.last = Some(sample);
    }

    /// Since when stops are wanted still, for a comparison with the runtime's, ns.
    pub(super) fn wanted_since_ns(&self) -> Option<u64> {
        self.pending.front().map(|sample| sample.begin_ns)
    }

    /// Gives up the comparisons that were still to be made.
    pub(super) fn skip(&mut self) {
        self.pending.clear();
    }

    /// Forgets the series, and that a disagreement was told.
    pub(super) fn forget(&mut self) {
        self.points.clear();
        self.told = false;
    }

    /// GOMAXPROCS, if it was the same in all samples.
    pub(super) fn gomaxprocs(&self) -> Option<u32> {
        self.gomaxprocs.filter(|(low, high)| low == high).map(|(n, _)| n)
    }

    /// How busy Ps and goroutines were found; the other figures are empty.
    pub(super) fn busy(&self) -> Figures {
        Figures { gomaxprocs: self.gomaxprocs(), ..self.busy }
    }

    /// Goroutines' waits to run between the first sample and the last: 99 % were at most this.
    pub(super) fn latency_p99_ns(&self) -> Option<u64> {
        let from = self.first.as_ref()?.time_to_run.as_ref()?;
        self.last.as_ref()?.time_to_run.as_ref()?.since(from)?.at_most(0.99)
    }

    /// CPU time of mark assists in the cycles that ended between the first sample and the last, ns.
    pub(super) fn assist_cpu_ns(&self) -> Option<u64> {
        let from = self.first.as_ref()?.assist_cpu_ns?;
        self.last.as_ref()?.assist_cpu_ns?.checked_sub(from)
    }

    /// Compares what happened between each two samples by whose time all stops are known
    /// (`settled_ns`): the first disagreement, once.
    pub(super) fn disagreement(
        &mut self,
        settled_ns: u64,
        seen: &Seen,
        target: &Target,
    ) -> Option<Accuracy> {
        while self.pending.get(1).is_some_and(|next| next.end_ns < settled_ns) {
            let from = self.pending.pop_front()?;
            let to = self.pending.front()?;
            let accuracy = seen.compare(&from, to, target, None);
            if accuracy.verdict == Finding::Disagree {
                self.told = true;
                self.pending.clear();
                return Some(accuracy);
            }
        }
        None
    }

    /// The whole run's comparison.
    pub(super) fn accuracy(&self, seen: &Seen, target: &Target, lost: Option<u64>) -> Accuracy {
        let why = match (&self.first, &self.last) {
            (Some(from), Some(to)) if from.begin_ns < to.begin_ns => {
                return seen.compare(from, to, target, lost);
            }
            (Some(_), _) => "there is only one sample of the runtime's counters",
            _ => "there is no sample of the runtime's counters",
        };
        Accuracy { why: Some(why.to_owned()), ..Accuracy::default() }
    }

    /// The report's section.
    pub(super) fn report(&self, target: &Target) -> RuntimeReport {
        let access = target.runtime.as_ref();
        let features = access.map_or(&[][..], |a| &a.features);
        let unavailable = features.iter().filter_map(|f| {
            Some(Unavailable {
                feature: clean(&f.name),
                why: clean(f.why_not.as_ref()?),
                costs: clean(&f.costs),
            })
        });
        let mut report = RuntimeReport {
            offsets: access.map(|a| clean(&a.offsets)),
            unavailable: unavailable.collect(),
            samples: self.count,
            inconsistent: self.inconsistent,
            reads: self.reads,
            series: self.points.clone(),
            ..RuntimeReport::default()
        };
        let (Some(first), Some(last)) = (&self.first, &self.last) else { return report };
        report.heap = first.heap.zip(last.heap).map(|(start, end)| HeapReport {
            start,
            end,
            max_live: self.max_live.unwrap_or(0),
            gc_percent: u32::try_from(end.gc_percent).ok(),
            memory_limit: u64::try_from(end.memory_limit).ok().filter(|n| *n != i64::MAX as u64),
        });
        report.gc = first.gc.zip(last.gc).map(|(from, to)| GcCounters {
            cycles: u64::from(to.cycles.wrapping_sub(from.cycles)),
            forced: u64::from(to.forced.wrapping_sub(from.forced)),
            pause_total_ns: to.pause_total_ns.saturating_sub(from.pause_total_ns),
        });
        report.goroutines = last.goroutines.as_ref().map(|g| GoroutinesReport {
            start: first.goroutines.as_ref().and_then(|g| g.count),
            end: g.count,
            max: self.max_goroutines,
            system: g.system,
            by_status: g
                .by_status
                .iter()
                .map(|(status, count)| StatusCount { status: clean(status), count: *count })
                .collect(),
        });
        report.gomaxprocs = last.gomaxprocs;
        let p = |p: &PSample| PSample { status: clean(&p.status), ..p.clone() };
        report.ps = last.ps.iter().map(p).collect();
        let waits = first.time_to_run.as_ref().zip(last.time_to_run.as_ref());
        report.sched_latency = waits.and_then(|(from, to)| to.since(from)).map(|h| SchedLatency {
            count: h.count(),
            sampled_one_in: 8,
            p50_ns: h.at_most(0.5),
            p90_ns: h.at_most(0.9),
            p99_ns: h.at_most(0.99),
            p999_ns: h.at_most(0.999),
            max_ns: h.at_most(1.0),
            buckets: latency_buckets(&h),
        });
        report
    }
}

fn latency_buckets(h: &TimeHist) -> Vec<LatencyBucket> {
    let counts = h.counts();
    let filled = counts.iter().enumerate().filter(|(_, n)| **n > 0);
    let bucket = |(at, count): (usize, &u64)| {
        let (from_ns, to_ns) = bucket_range(at);
        LatencyBucket { from_ns, to_ns, count: *count }
    };
    filled.map(bucket).collect()
}

/// Our stops, by time.
pub(super) struct Seen<'a> {
    pub(super) minor: Option<u32>,
    pub(super) whole: Vec<&'a Stop>,
    pub(super) parts: &'a [IncompleteStop],
    /// How often its threads lost their CPU and for how long they waited then, ns, in all.
    pub(super) preempted: Option<(u64, u64)>,
    /// The target replaced its program: from here on it is another one.
    pub(super) execed: bool,
}

impl Seen<'_> {
    fn compare(
        &self,
        from: &RuntimeSample,
        to: &RuntimeSample,
        target: &Target,
        lost: Option<u64>,
    ) -> Accuracy {
        let horizon = from.begin_ns.saturating_sub(LONGEST_STOP_NS);
        let first = self.whole.partition_point(|s| s.end_ns < horizon);
        let whole = self.whole[first..].iter().map(|s| Counted::of_stop(s, self.minor));
        let last = self.whole.last().map(|s| s.n).max(self.parts.last().map(|p| p.n));
        let parts = self.parts.iter().map(|p| Counted::of_part(p, self.minor, Some(p.n) == last));
        let stops: Vec<Counted> = whole.chain(parts).collect();
        let has = |site: Site| target.probes.iter().any(|p| p.site_id == site as u32);
        let stops_missing = if self.execed {
            Some("the target replaced its program")
        } else if has(Site::StwStop) && has(Site::StwStart) {
            None
        } else {
            Some("stops of the world cannot be seen here")
        };
        compare(from, to, &Ours { stops: &stops, stops_missing, lost, preempted: self.preempted })
    }
}
