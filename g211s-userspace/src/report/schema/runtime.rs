//! The report's section on the Go runtime's own counters. Must not know how it is made or printed.

use serde::Serialize;

use crate::record::{HeapSample, PSample, Unavailable};

/// What the Go runtime's own counters say: read from its memory, never asked of the program. A part
/// is `null` where it could not be read or may not be believed; `unavailable` says why.
#[derive(Clone, Debug, Default, Serialize)]
pub struct RuntimeReport {
    /// Where the offsets of the runtime's structs came from.
    pub offsets: Option<String>,
    /// What cannot be had, and why.
    pub unavailable: Vec<Unavailable>,
    /// Samples: at the start, once a second, at the end.
    pub samples: u64,
    /// Of them, those that a stop of the world was in the way of: their figures need not be of
    /// one moment.
    pub inconsistent: u64,
    /// What reading them cost.
    pub reads: ReadsReport,
    /// The heap.
    pub heap: Option<HeapReport>,
    /// Collections in the window.
    pub gc: Option<GcCounters>,
    /// Goroutines.
    pub goroutines: Option<GoroutinesReport>,
    /// GOMAXPROCS, at the end.
    pub gomaxprocs: Option<u32>,
    /// Ps, at the end.
    pub ps: Vec<PSample>,
    /// How long goroutines that could run waited to.
    pub sched_latency: Option<SchedLatency>,
    /// The samples' main figures; at most a thousand or two, evenly thinned out.
    pub series: Vec<RuntimePoint>,
}

/// What reading cost.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub struct ReadsReport {
    /// System calls.
    pub calls: u64,
    /// Bytes.
    pub bytes: u64,
    /// Ranges that could not be read.
    pub failed: u64,
    /// CPU time of g211s for it, ns.
    pub cpu_ns: u64,
    /// Longest sample, ns: from the first reading's beginning to the second's end.
    pub longest_ns: u64,
}

/// The heap as the collector sees it, bytes.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub struct HeapReport {
    /// At the start.
    pub start: HeapSample,
    /// At the end.
    pub end: HeapSample,
    /// Largest `live` of all samples.
    pub max_live: u64,
    /// GOGC at the end, per cent; null: off.
    pub gc_percent: Option<u32>,
    /// GOMEMLIMIT at the end; null: none.
    pub memory_limit: Option<u64>,
}

/// Collections between the first sample and the last.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub struct GcCounters {
    /// Cycles that ended.
    pub cycles: u64,
    /// Of them, the ones that the program forced.
    pub forced: u64,
    /// Sum of the stops of those cycles, ns.
    pub pause_total_ns: u64,
}

/// Goroutines. Counts are those of `runtime.NumGoroutine`: without the runtime's own.
#[derive(Clone, Debug, Default, Serialize)]
pub struct GoroutinesReport {
    /// At the start.
    pub start: Option<u64>,
    /// At the end.
    pub end: Option<u64>,
    /// Most in any sample.
    pub max: Option<u64>,
    /// The runtime's own, at the end.
    pub system: u64,
    /// At the end, by status; dead ones and the runtime's own as well.
    pub by_status: Vec<StatusCount>,
}

/// Goroutines of one status.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct StatusCount {
    /// As the runtime's source has it, e.g. `_Gwaiting`.
    pub status: String,
    /// How many.
    pub count: u64,
}

/// `/sched/latencies` over the window. The runtime takes every eighth wait of a goroutine only, and
/// keeps buckets: each figure is the greatest value of its bucket, so at most a quarter too large.
#[derive(Clone, Debug, Default, Serialize)]
pub struct SchedLatency {
    /// Waits taken.
    pub count: u64,
    /// One in how many is taken: 8 (`gTrackingPeriod`, Go `runtime/runtime2.go`).
    pub sampled_one_in: u32,
    /// Half are at most this; null of none.
    pub p50_ns: Option<u64>,
    /// 90 % are at most this.
    pub p90_ns: Option<u64>,
    /// 99 % are at most this.
    pub p99_ns: Option<u64>,
    /// 99.9 % are at most this.
    pub p999_ns: Option<u64>,
    /// All are at most this.
    pub max_ns: Option<u64>,
    /// The runtime's own buckets, those with values.
    pub buckets: Vec<LatencyBucket>,
}

/// One bucket of the runtime's.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct LatencyBucket {
    /// Waits from …
    pub from_ns: u64,
    /// … to (exclusive).
    pub to_ns: u64,
    /// How many.
    pub count: u64,
}

/// One sample in short.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct RuntimePoint {
    /// When, monotonic ns.
    pub ts_ns: u64,
    /// Live heap, bytes.
    pub heap_live: Option<u64>,
    /// The next cycle's goal, bytes.
    pub heap_goal: Option<u64>,
    /// Cycles since the program's start.
    pub gc_cycles: Option<u32>,
    /// Goroutines.
    pub goroutines: Option<u64>,
}
