//! Records of the Go runtime's own counters: what the target's memory said, and when. Must not know
//! how it was read, nor what follows from it.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::runtime::histogram::TimeHist;

/// Which of the runtime's figures can be read from a target, as found at attach.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RuntimeAccess {
    /// Where the offsets came from, in words.
    pub offsets: String,
    /// Feature by feature.
    pub features: Vec<RuntimeFeature>,
}

/// One kind of the runtime's figures.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RuntimeFeature {
    /// E.g. `heap`.
    pub name: String,
    /// Why it cannot be used; `None`: it can.
    pub why_not: Option<String>,
    /// What the user loses without it.
    pub costs: String,
}

/// When in a run a sample was taken.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Moment {
    /// Right after the kernel side began to let the target's events pass.
    #[default]
    Start,
    /// While the run went on.
    Running,
    /// Right before the kernel side stopped.
    End,
}

/// The Go runtime's own counters of one target at one moment. A part that could not be read, or may
/// not be believed, is `None`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct RuntimeSample {
    /// Index of the target.
    pub target: u8,
    /// Which sample of the run.
    pub moment: Moment,
    /// When reading began, ns. Whatever the runtime counted before is in the figures.
    pub begin_ns: u64,
    /// When it was over, ns. Whatever the runtime counted later is not.
    pub end_ns: u64,
    /// The counters of collections and stops were the same at both ends of the reading, and no stop
    /// was under way: the figures are those of one moment.
    pub consistent: bool,
    /// Readings that were given up because they were not.
    pub retries: u32,
    /// What it cost.
    pub reads: Reads,
    /// The heap.
    pub heap: Option<HeapSample>,
    /// Collections.
    pub gc: Option<GcSample>,
    /// Goroutines.
    pub goroutines: Option<GoroutineSample>,
    /// `gomaxprocs`.
    pub gomaxprocs: Option<u32>,
    /// Ps; empty where not known.
    pub ps: Vec<PSample>,
    /// `sched.timeToRun`, since the program's start.
    pub time_to_run: Option<TimeHist>,
    /// CPU time of mark assists in the cycles that ended since the program's start, ns
    /// (`work.cpuStats.GCAssistTime`, `/cpu/classes/gc/mark/assist`).
    #[serde(default)]
    pub assist_cpu_ns: Option<u64>,
    /// Stops of the world, since the program's start (Go 1.22+).
    pub stw: Option<StwSample>,
    /// `memstats.gcPauseDist`, since the program's start (Go 1.21): its collections' stops.
    pub gc_pauses: Option<TimeHist>,
}

/// What reading cost, and how it went.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reads {
    /// System calls.
    pub calls: u64,
    /// Bytes.
    pub bytes: u64,
    /// Ranges that could not be read.
    pub failed: u64,
    /// CPU time of the reader, ns.
    pub cpu_ns: u64,
}

/// The heap as the collector sees it (Go `runtime/mgcpacer.go`, `gcControllerState`), bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct HeapSample {
    /// `heapLive`: marked by the last cycle or allocated since (up to what Ps hold in their caches).
    pub live: u64,
    /// `heapMarked`: marked by the last cycle (`/gc/heap/live`).
    pub marked: u64,
    /// `totalAlloc - totalFree`: not yet swept, dead or not (`/memory/classes/heap/objects`, up to
    /// what Ps hold in their caches); `None` where this Go version does not tell.
    pub objects: Option<u64>,
    /// What the next cycle shall end at (`/gc/heap/goal`); `None` where it cannot be told.
    pub goal: Option<u64>,
    /// GOGC in per cent; negative: off.
    pub gc_percent: i32,
    /// GOMEMLIMIT; `i64::MAX`: none.
    pub memory_limit: i64,
    /// Memory that counts towards it beside objects and what is free for them (`memoryLimitHeapGoal`); `None` where it
    /// cannot be told.
    #[serde(default)]
    pub other: Option<u64>,
}

/// Collections since the program's start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct GcSample {
    /// `memstats.numgc`: cycles that ended (their mark termination did).
    pub cycles: u32,
    /// `memstats.numforcedgc`: of them, the ones that `runtime.GC` forced.
    pub forced: u32,
    /// `memstats.pause_total_ns`: the stops of those cycles.
    pub pause_total_ns: u64,
    /// Stops so far of the cycle under way (`work.pauseNS`), 0 where there is none; `None` where it
    /// cannot be told.
    pub open_pause_ns: Option<u64>,
    /// `mheap_.sweepgen`: rises by 2 with each cycle.
    pub sweepgen: Option<u32>,
}

/// Goroutines.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct GoroutineSample {
    /// As `runtime.NumGoroutine` counts: neither dead ones nor the runtime's own (which
    /// `/sched/goroutines` counts as well from Go 1.26 on); `None` where they cannot be told apart.
    pub count: Option<u64>,
    /// The runtime's own.
    pub system: u64,
    /// By status (`_Gwaiting` …), dead ones and the runtime's own as well. Empty where there were
    /// too many to be visited.
    pub by_status: BTreeMap<String, u64>,
}

/// A P.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PSample {
    /// `p.id`.
    pub id: u32,
    /// `p.status`, e.g. `_Prunning`.
    pub status: String,
    /// The M that has it.
    pub m_id: Option<u64>,
    /// That M's thread, in the target's PID namespace.
    pub tid: Option<u64>,
}

/// `sched.stw…` (Go `runtime/runtime2.go`, from 1.22 on).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct StwSample {
    /// Time to stop, stops of collections.
    pub stopping_gc: TimeHist,
    /// Time to stop, other stops.
    pub stopping_other: TimeHist,
    /// Whole stops of collections.
    pub total_gc: TimeHist,
    /// Whole other stops.
    pub total_other: TimeHist,
}
