//! The agent's side of the runtime's counters: one target's runtime, opened once, and its samples
//! and Ms over a run. Must not know the event loop, nor what a figure means.

use std::collections::BTreeMap;

use nix::sys::time::TimeValLike as _;
use nix::time::{ClockId, clock_gettime};

use g211s_ebpf::config::GoLayout;

use super::bias::load_bias;
use super::memory::{ProcessMemory, ReadCounts};
use super::snapshot::Sampler;
use super::snapshot::ms::{self, MRow};
use super::{Feature, Runtime};
use crate::go::{Binary, held};
use crate::record::{Moment, Reads, RuntimeAccess, RuntimeFeature, RuntimeSample};
use crate::target::{ResolvedTarget, procfs::Procfs};

/// Goroutines visited in each sample of a run under way: their statuses are on some 300 pages.
const GOROUTINES_RUNNING: u64 = 5_000;
/// Goroutines visited at the start and the end.
const GOROUTINES_EDGES: u64 = 200_000;
/// Ms looked at for threads that were just born: they are among the newest.
const NEWEST: usize = 32;

/// What is read here, what to call it, and what is lost without it.
const FEATURES: [(Feature, &str, &str); 8] = [
    (Feature::Heap, "heap", "no heap size, goal, GOGC or memory limit"),
    (Feature::Gc, "gc", "our GC cycles are not checked against the runtime's count"),
    (Feature::Goroutines, "goroutines", "no goroutine counts"),
    (Feature::Threads, "threads", "threads are listed without their M, bar the first"),
    (Feature::Processors, "processors", "no GOMAXPROCS and no table of Ps"),
    (Feature::Latency, "latency", "no scheduling latency of goroutines"),
    (
        Feature::StwHistograms,
        "stw_histograms",
        "our stops are not checked against the runtime's own histograms",
    ),
    (
        Feature::Cycle,
        "cycle",
        "the sum of the collector's stops is checked against histogram buckets only",
    ),
];

/// A target's runtime.
#[derive(Debug)]
pub struct RuntimeWatch {
    runtime: Runtime<ProcessMemory>,
    sampler: Sampler,
    procfs: Procfs,
    /// Its thread ids are those of another PID namespace.
    nested: bool,
}

/// What may be read of a target's runtime, feature by feature.
pub fn access(runtime: &Runtime<ProcessMemory>) -> RuntimeAccess {
    let feature = |&(feature, name, costs): &(Feature, &str, &str)| RuntimeFeature {
        name: name.to_owned(),
        why_not: runtime.usable(feature).err().map(str::to_owned),
        costs: costs.to_owned(),
    };
    RuntimeAccess {
        offsets: runtime.offsets().source().to_string(),
        features: FEATURES.iter().map(feature).collect(),
    }
}

/// A target's runtime, with every feature checked.
///
/// # Errors
/// Why its memory cannot be read as a Go runtime's.
pub fn open_runtime(
    procfs: &Procfs,
    target: &ResolvedTarget,
) -> Result<Runtime<ProcessMemory>, String> {
    target.binary.known_runtime().map_err(|e| e.to_string())?;
    let memory = ProcessMemory::open(procfs, target.pid).map_err(|e| e.to_string())?;
    let bias = load_bias(procfs, target.pid, &target.binary)?;
    let mut runtime = Runtime::open(memory, &target.binary, bias);
    // A check that looks at lists while they change may fail for once.
    if FEATURES.iter().any(|(f, ..)| runtime.usable(*f).is_err()) {
        runtime.recheck(&target.binary);
    }
    Ok(runtime)
}

/// Finds a target's runtime in its memory, and says what of it can be used.
pub fn open(procfs: &Procfs, target: &ResolvedTarget) -> (Option<RuntimeWatch>, RuntimeAccess) {
    match open_runtime(procfs, target) {
        Ok(runtime) => {
            let access = access(&runtime);
            let mut sampler = Sampler::new(&runtime, target.binary.cgo);
            if target.binary.cgo {
                // How many are kept for C's threads: without, the first sample could not count goroutines.
                sampler.threads(&runtime);
            }
            let nested = !target.nested_pids.is_empty();
            let watch = RuntimeWatch { runtime, sampler, procfs: procfs.clone(), nested };
            (Some(watch), access)
        }
        Err(why) => {
            let why_not = Some(why);
            let feature = |&(_, name, costs): &(Feature, &str, &str)| RuntimeFeature {
                name: name.to_owned(),
                why_not: why_not.clone(),
                costs: costs.to_owned(),
            };
            let features = FEATURES.iter().map(feature).collect();
            (None, RuntimeAccess { offsets: String::new(), features })
        }
    }
}

/// CPU time of this thread, ns.
fn cpu_ns() -> u64 {
    clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID).map_or(0, |t| t.num_nanoseconds() as u64)
}

impl RuntimeWatch {
    /// Takes a sample. Takes some 100 µs; up to a millisecond more where the world is being stopped.
    pub fn sample(&self, target: u8, moment: Moment, now: &dyn Fn() -> u64) -> RuntimeSample {
        let (cpu, before) = (cpu_ns(), self.runtime.memory().counts());
        let goroutines = match moment {
            Moment::Running => GOROUTINES_RUNNING,
            Moment::Start | Moment::End => GOROUTINES_EDGES,
        };
        let sample = self.sampler.sample(&self.runtime, now, goroutines);
        let ReadCounts { calls, bytes, failures } = self.runtime.memory().counts();
        let reads = Reads {
            calls: calls - before.calls,
            bytes: bytes - before.bytes,
            failed: failures - before.failures,
            cpu_ns: cpu_ns().saturating_sub(cpu),
        };
        RuntimeSample { target, moment, reads, ..sample }
    }

    /// Whether the runtime keeps a memory profile that can be read, or why not.
    ///
    /// # Errors
    /// Why not.
    pub fn heap_profile(&self) -> Result<(), &str> {
        self.runtime.usable(Feature::HeapProfile)
    }

    /// Where the kernel side finds who has which P.
    ///
    /// # Errors
    /// What is not known, or not proven on the live memory.
    pub fn layout(&self, binary: &Binary) -> Result<GoLayout, String> {
        self.runtime.usable(Feature::Threads)?;
        self.runtime.usable(Feature::Processors)?;
        held::layout(binary, self.runtime.offsets())
    }

    /// The Ms of all these threads, by thread.
    pub fn all_ms(&mut self, tids: &[u32]) -> BTreeMap<u32, u64> {
        let rows = self.sampler.threads(&self.runtime);
        self.by_thread(tids, &rows)
    }

    /// The Ms of threads that were born a moment ago.
    pub fn new_ms(&self, tids: &[u32]) -> BTreeMap<u32, u64> {
        let wanted: Vec<u64> = tids.iter().filter_map(|&tid| self.procid(tid)).collect();
        let rows = ms::newest(&self.runtime, &wanted, NEWEST);
        self.by_thread(tids, &rows)
    }

    /// `m.procid` is the thread's id in its own PID namespace.
    fn procid(&self, tid: u32) -> Option<u64> {
        if !self.nested {
            return Some(u64::from(tid));
        }
        let status = self.procfs.status(tid).ok()?;
        status.ns_pids.last().map(|&tid| u64::from(tid))
    }

    fn by_thread(&self, tids: &[u32], rows: &[MRow]) -> BTreeMap<u32, u64> {
        let ids: BTreeMap<u64, u64> = rows.iter().map(|m| (m.procid, m.id)).collect();
        let id = |&tid: &u32| Some((tid, *ids.get(&self.procid(tid)?)?));
        tids.iter().filter_map(id).collect()
    }
}
