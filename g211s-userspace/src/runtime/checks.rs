//! What has to hold in a live Go runtime if offsets and addresses are right. Each feature is proven
//! by facts that a wrong place would hardly satisfy: two variables that the runtime keeps in step, a
//! pointer that leads back, an address that is a function's entry. The process runs on meanwhile, so
//! a fact may be caught in the middle of a change: what fails is looked at again a few times.
//!
//! Sources: Go 1.21.13 to 1.27.3, `src/runtime`.

use std::collections::HashSet;
use std::time::Duration;

use super::buckets::{BucketLayout, hash};
use super::memory::Memory;
use super::{Feature, Runtime, RuntimeError};
use crate::go::Binary;
use crate::go::globals::Global;
use crate::go::offsets::Source;

/// How often a fact is looked at before it is found wrong, and how long to wait before each.
const PAUSES_BETWEEN: [Duration; 5] = [
    Duration::ZERO,
    Duration::from_millis(1),
    Duration::from_millis(4),
    Duration::from_millis(10),
    Duration::from_millis(30),
];
/// Most threads, Ps and goroutines that are walked through.
const MAX_WALK: usize = 100_000;
/// Goroutines, threads and buckets that are looked at in detail.
const SAMPLE: usize = 64;
/// proc.go, `schedinit`: `sched.maxmcount = 10000`, unless `debug.SetMaxThreads` changed it.
const MAX_MCOUNT: u64 = 10_000;
/// runtime2.go, `_Gscan`: a flag in `g.atomicstatus`.
const GSCAN: u64 = 0x1000;
/// mheap.go: `memstats.pause_ns` and `pause_end` are rings of so many.
const PAUSES: u64 = 256;
/// malloc.go, `arenaBaseOffset`, `heapArenaBytes`, `pageSize` on linux/amd64.
const ARENA_BASE: u64 = 0xffff_8000_0000_0000;
const ARENA_BYTES: u64 = 64 << 20;
const PAGE: u64 = 8192;
/// How far figures that are kept by different means may be apart while the process runs.
const SLACK: u64 = 8 << 20;

type Checked = Result<(), Wrong>;

/// What does not hold, or could not be read.
struct Wrong(String);

impl From<RuntimeError> for Wrong {
    fn from(error: RuntimeError) -> Self {
        Self(error.to_string())
    }
}

impl From<String> for Wrong {
    fn from(why: String) -> Self {
        Self(why)
    }
}

/// Checks one feature.
pub(super) fn check<M: Memory>(
    rt: &Runtime<M>,
    binary: &Binary,
    feature: Feature,
) -> Result<(), String> {
    let check = Check { rt, binary };
    let mut last = Ok(());
    for pause in PAUSES_BETWEEN {
        rt.memory().wait(pause);
        last = match feature {
            Feature::Heap => check.heap(),
            Feature::Gc => check.gc(),
            Feature::Goroutines => check.goroutines(),
            Feature::Threads => check.threads(),
            Feature::Processors => check.processors(),
            Feature::Latency => check.latency(),
            Feature::StwHistograms => check.stw_histograms(),
            Feature::Spans => check.spans(),
            Feature::Cycle => check.cycle(),
            Feature::HeapProfile => check.heap_profile(),
        };
        if last.is_ok() {
            break;
        }
    }
    last.map_err(|Wrong(why)| why)
}

struct Check<'a, M> {
    rt: &'a Runtime<M>,
    binary: &'a Binary,
}

impl<M: Memory> Check<'_, M> {
    fn sched(&self, field: &str) -> Result<u64, RuntimeError> {
        self.rt.u64(Global::Sched, "runtime.schedt", field)
    }

    fn memstats(&self, field: &str) -> Result<u64, RuntimeError> {
        self.rt.u64(Global::Memstats, "runtime.mstats", field)
    }

    fn controller(&self, field: &str) -> Result<u64, RuntimeError> {
        self.rt.u64(Global::GcController, "runtime.gcControllerState", field)
    }

    fn heap_global(&self, field: &str) -> Result<u64, RuntimeError> {
        self.rt.u64(Global::Mheap, "runtime.mheap", field)
    }

    /// `sched` is `sched`: its limit of threads is the one that the runtime sets, or (a program may
    /// change it) its count of threads is that of the list.
    fn sched_is_right(&self) -> Checked {
        if self.sched("maxmcount")? as u32 == MAX_MCOUNT as u32 {
            return Ok(());
        }
        let made = self.sched("mnext")?;
        let gone = self.sched("nmfreed")?;
        let listed = self.rt.threads()?.len() as u64;
        ensure(made.wrapping_sub(gone) == listed, || {
            format!("sched counts {} threads, the list has {listed}", made.wrapping_sub(gone))
        })
    }

    /// mstats.go, `readMemStats_m` (with the world stopped these are equal).
    fn heap(&self) -> Checked {
        let percent = self.controller("gcPercent")? as u32 as i32;
        ensure(percent >= -1, || format!("gcPercent is {percent}"))?;
        let limit = self.controller("memoryLimit")?;
        ensure(i64::try_from(limit).is_ok(), || format!("the memory limit is {limit:#x}"))?;
        let stats = self.rt.heap_stats()?;
        let in_use = self.controller("heapInUse")?;
        let released = self.controller("heapReleased")?;
        near("bytes in use", in_use, stats.in_heap)?;
        near("bytes released", released, stats.released)?;
        ensure(in_use > 0 && stats.committed >= stats.in_heap.saturating_sub(SLACK), || {
            format!("{} bytes committed, {} in use", stats.committed, stats.in_heap)
        })?;
        for field in ["heapLive", "heapMarked"] {
            let n = self.controller(field)?;
            ensure(n <= in_use.saturating_add(SLACK), || format!("{field} is {n} of {in_use}"))?;
        }
        let (made, freed) = (self.controller("totalAlloc"), self.controller("totalFree"));
        let (made, freed) = (made?, freed?);
        // Frees lag behind: the current cycle's come later.
        ensure(freed <= made.saturating_add(SLACK), || format!("{freed} bytes freed of {made}"))
    }

    /// mgc.go, `gcMarkTermination`: the end of the last cycle is kept twice, and its number goes with
    /// the heap's sweep generation.
    fn gc(&self) -> Checked {
        let number = self.memstats("numgc")? as u32;
        let ends = self.rt.bytes(Global::Memstats, "runtime.mstats", "pause_end")?;
        let pauses = self.rt.bytes(Global::Memstats, "runtime.mstats", "pause_ns")?;
        let total = self.memstats("pause_total_ns")?;
        let last = self.memstats("last_gc_unix")?;
        let after = self.memstats("numgc")? as u32;
        ensure(after.wrapping_sub(number) <= 1, || format!("numgc went from {number} to {after}"))?;
        if let Ok(sweepgen) = self.heap_global("sweepgen") {
            ensure((sweepgen as u32 / 2).wrapping_sub(number) <= 2, || {
                format!("numgc is {number}, the sweep generation {sweepgen}")
            })?;
        }
        let ends = words(&ends);
        let pauses: u64 = words(&pauses).iter().fold(0, |sum, p| sum.saturating_add(*p));
        ensure(ends.len() as u64 == PAUSES, || "pause_end is no ring of 256".to_owned())?;
        let slot = u64::from(number.wrapping_sub(1)) % PAUSES;
        if number == 0 {
            self.needs_proof("no collection has ended yet")?;
            return ensure(last == 0 || after > 0, || {
                "the first collection ended twice".to_owned()
            });
        }
        ensure(ends.get(slot as usize) == Some(&last), || {
            format!("the end of collection {number} is not the last end")
        })?;
        let sums = if u64::from(number) < PAUSES { pauses == total } else { pauses <= total };
        ensure(sums, || format!("the pauses kept sum to {pauses} ns of {total} ns"))
    }

    /// The main goroutine is the first and has id 1; each was started at a function's entry, and a
    /// parked one's stack pointer lies in its stack.
    fn goroutines(&self) -> Checked {
        let all = self.rt.address(Global::Allgs)?;
        let (array, len) = (self.rt.u64_at(all)?, self.rt.u64_at(all + 8)?);
        let published = self.rt.address(Global::Allglen).and_then(|a| self.rt.u64_at(a))?;
        ensure(len == published && len > 0, || {
            format!("allgs has {len} goroutines, allglen says {published}")
        })?;
        let pointers = self.rt.bytes_at(array, (len as usize).min(SAMPLE) * 8)?;
        let mut entries = Vec::new();
        let mut ids = HashSet::new();
        for (n, &g) in words(&pointers).iter().enumerate() {
            let field = |name| self.rt.field_at(g, "runtime.g", name);
            let status = field("atomicstatus")? & !GSCAN;
            let name = self.rt.offsets().enum_name("gStatus", status);
            let name = name.ok_or_else(|| format!("goroutine {n} has status {status}"))?;
            let goid = field("goid")?;
            let dead = matches!(name, "_Gdead" | "_Gidle" | "_Gdeadextra");
            if n == 0 && !dead {
                ensure(goid == 1, || format!("the first goroutine's id is {goid}"))?;
            }
            if dead {
                continue;
            }
            ensure(ids.insert(goid), || format!("two goroutines have id {goid}"))?;
            entries.push(field("startpc")?);
            if name == "_Gwaiting" {
                let (low, high, sp) = (field("stack.lo")?, field("stack.hi")?, field("sched.sp")?);
                let reason = field("waitreason")?;
                // It may have been woken meanwhile.
                if field("atomicstatus")? & !GSCAN == status {
                    ensure(low < sp && sp < high, || {
                        format!("goroutine {goid}'s stack pointer is outside of its stack")
                    })?;
                    ensure(self.rt.offsets().enum_name("waitReason", reason).is_some(), || {
                        format!("goroutine {goid} waits for reason {reason}")
                    })?;
                }
            }
        }
        self.are_entries(entries)
    }

    /// All of these, zeros left out, are entries of functions. C code's own goroutines have none.
    fn are_entries(&self, mut addresses: Vec<u64>) -> Checked {
        addresses.retain(|a| *a != 0);
        let mut wanted: HashSet<u64> =
            addresses.iter().map(|a| a.wrapping_sub(self.rt.bias())).collect();
        for function in self.binary.functions.functions() {
            wanted.remove(&function.entry);
        }
        ensure(wanted.is_empty() && !addresses.is_empty(), || {
            format!("{} of {} goroutines began at no function", wanted.len(), addresses.len())
        })
    }

    /// The runtime's threads are those that the kernel has; one that it made for C code's sake, or
    /// that is about to begin, has no id yet.
    fn threads(&self) -> Checked {
        self.sched_is_right()?;
        let threads = self.rt.threads()?;
        let mut ids = HashSet::new();
        let next = self.sched("mnext")?;
        let mut started = Vec::new();
        for &m in &threads {
            let id = self.rt.field_at(m, "runtime.m", "id")?;
            ensure(id < next && ids.insert(id), || format!("a thread's id is {id} of {next}"))?;
            let procid = self.rt.field_at(m, "runtime.m", "procid")?;
            if procid != 0 {
                started.push(procid);
            }
        }
        ensure(!started.is_empty(), || "no thread of the runtime has begun".to_owned())?;
        for &m in threads.iter().take(SAMPLE) {
            let g0 = self.rt.field_at(m, "runtime.m", "g0")?;
            let back = self.rt.field_at(g0, "runtime.g", "m")?;
            ensure(back == m || back == 0, || "a thread's g0 is another's".to_owned())?;
        }
        let Some(tids) = self.rt.memory().threads() else { return Ok(()) };
        let stray = started.iter().filter(|p| !tids.contains(p)).count();
        ensure(stray == 0, || {
            format!("{stray} of {} threads of the runtime are not the process's", started.len())
        })
    }

    /// `allp` has `gomaxprocs` Ps, numbered.
    fn processors(&self) -> Checked {
        let count = self.rt.address(Global::Gomaxprocs).and_then(|a| self.rt.u32_at(a));
        let count = u64::from(count?);
        let all = self.rt.address(Global::Allp)?;
        let (array, len) = (self.rt.u64_at(all)?, self.rt.u64_at(all + 8)?);
        ensure(len == count && (1..=MAX_WALK as u64).contains(&len), || {
            format!("allp has {len} Ps, gomaxprocs is {count}")
        })?;
        let pointers = self.rt.bytes_at(array, (len as usize).min(SAMPLE) * 8)?;
        for (n, &p) in (0..).zip(&words(&pointers)) {
            let id = self.rt.field_at(p, "runtime.p", "id")?;
            let status = self.rt.field_at(p, "runtime.p", "status")?;
            ensure(id == n && self.rt.offsets().enum_name("pStatus", status).is_some(), || {
                format!("P {n} has id {id} and status {status}")
            })?;
        }
        Ok(())
    }

    /// `sched.timeToRun` is where the code records into a histogram, and counts up.
    fn latency(&self) -> Checked {
        self.sched_is_right()?;
        let first = self.histogram(Global::Sched, "runtime.schedt", "timeToRun")?;
        let again = self.histogram(Global::Sched, "runtime.schedt", "timeToRun")?;
        ensure(again >= first, || "it counts down".to_owned())
    }

    /// A cycle stops the world at least twice, and each stop is counted in both histograms.
    fn stw_histograms(&self) -> Checked {
        let collections = |check: &Self| check.memstats("numgc").map(|n| u64::from(n as u32));
        let begun = collections(self)?;
        let (strukt, global) = ("runtime.schedt", Global::Sched);
        let (stops, ended) = if self.rt.field(strukt, "stwTotalTimeGC").is_ok() {
            self.sched_is_right()?;
            self.histogram(global, strukt, "stwTotalTimeOther")?;
            self.histogram(global, strukt, "stwStoppingTimeOther")?;
            let total = self.histogram(global, strukt, "stwTotalTimeGC")?;
            let stopping = self.histogram(global, strukt, "stwStoppingTimeGC")?;
            ensure(stopping.abs_diff(total) <= 2, || {
                format!("{stopping} stops began and {total} ended")
            })?;
            (total, collections(self)?)
        } else {
            (self.histogram(Global::Memstats, "runtime.mstats", "gcPauseDist")?, collections(self)?)
        };
        if ended == 0 {
            self.needs_proof("no collection has ended yet")?;
        }
        // The first stop of a cycle under way comes before its number.
        ensure(stops >= 2 * begun && stops <= 2 * ended + 2 + ended / 2 + 8, || {
            format!("{stops} stops are counted for {ended} collections")
        })
    }

    /// How much a histogram has counted; it has to be one that the code records into.
    fn histogram(&self, global: Global, strukt: &str, field: &str) -> Result<u64, Wrong> {
        let at = self.rt.field(strukt, field)?;
        let address = self.rt.address(global)?.wrapping_add(u64::from(at.off));
        ensure(self.rt.globals.records_at(address.wrapping_sub(self.rt.bias())), || {
            format!("no code records into {field} where it should be")
        })?;
        let counts = self.rt.histogram(global, strukt, field)?;
        Ok(counts.iter().fold(0, |sum: u64, n| sum.saturating_add(*n)))
    }

    /// The first arena's spans lie where the arena has them.
    fn spans(&self) -> Checked {
        let sweepgen = self.heap_global("sweepgen")?;
        ensure(sweepgen % 2 == 0, || format!("the sweep generation is {sweepgen}"))?;
        let heap = self.rt.address(Global::Mheap)?;
        // Renamed in 1.26.
        let list = self
            .rt
            .field("runtime.mheap", "heapArenas")
            .or_else(|_| self.rt.field("runtime.mheap", "allArenas"))?;
        let (array, len) = (
            self.rt.u64_at(heap + u64::from(list.off))?,
            self.rt.u64_at(heap + u64::from(list.off) + 8)?,
        );
        ensure(len > 0 && len < 1 << 22, || format!("there are {len} arenas"))?;
        let index = self.rt.u64_at(array)?;
        let level = self.heap_global("arenas")?;
        let arena = index.checked_mul(8).and_then(|o| level.checked_add(o));
        let arena = self
            .rt
            .u64_at(arena.ok_or_else(|| Wrong("an arena's index wraps around".to_owned()))?)?;
        let base = index.wrapping_mul(ARENA_BYTES).wrapping_add(ARENA_BASE);
        let spans = self.rt.field("runtime.heapArena", "spans")?;
        let spans =
            self.rt.bytes_at(arena.wrapping_add(u64::from(spans.off)), spans.size as usize)?;
        let mut seen = HashSet::new();
        let (mut in_use, mut right) = (0, 0);
        for (page, &span) in (0..).zip(&words(&spans)) {
            if span == 0 || !seen.insert(span) {
                continue;
            }
            let field = |name| self.rt.field_at(span, "runtime.mspan", name);
            let (start, pages, state) = (field("startAddr")?, field("npages")?, field("state")?);
            // A place whose span was freed still points to it, wherever that is used by now.
            if self.rt.offsets().enum_name("mSpanState", state) != Some("mSpanInUse") {
                continue;
            }
            in_use += 1;
            let address = base.wrapping_add(page * PAGE);
            right +=
                usize::from(pages < 1 << 32 && address >= start && address - start < pages * PAGE);
            if in_use == SAMPLE {
                break;
            }
        }
        ensure(right > 0 && right >= in_use / 2, || {
            format!("{right} of {in_use} spans lie where the arena has them")
        })
    }

    /// mgc.go, `gcStart`: `work.cycles` is the number of the cycle under way, or of the last.
    fn cycle(&self) -> Checked {
        let number = self.memstats("numgc")? as u32;
        let cycles = self.rt.u64(Global::Work, "runtime.workType", "cycles")? as u32;
        if number == 0 {
            self.needs_proof("no collection has ended yet")?;
        }
        ensure(cycles.wrapping_sub(number) <= 1, || {
            format!("work.cycles is {cycles}, numgc {number}")
        })
    }

    /// mprof.go: the list of buckets, each of the kind of the heap profile, and found by the hash of its own
    /// stack and size.
    fn heap_profile(&self) -> Checked {
        let rate = self.rt.address(Global::MemProfileRate).and_then(|a| self.rt.u64_at(a))?;
        // Until 1.22, and from 1.23 on (Go `src/cmd/link/internal/ld/lib.go`).
        let readers = ["runtime.MemProfile", "runtime.memProfileInternal"];
        ensure(rate > 0 || !self.binary.functions.resolve(&readers).is_empty(), || {
            "nothing in the program reads it, so Go's linker switched it off (the program has no \
             runtime.MemProfile, as one that links runtime/pprof or net/http/pprof has)"
                .to_owned()
        })?;
        ensure(rate > 0 && i64::try_from(rate).is_ok(), || {
            "the program has switched it off (runtime.MemProfileRate is 0 or less)".to_owned()
        })?;
        let layout = BucketLayout::of(self.rt.offsets())?;
        let head = self.rt.address(Global::Mbuckets)?;
        let mut bucket = self.rt.u64_at(head)?;
        if bucket == 0 {
            self.needs_proof("it is empty so far")?;
        }
        for _ in 0..SAMPLE {
            if bucket == 0 {
                break;
            }
            let header = layout.parse_header(&self.rt.bytes_at(bucket, layout.header)?)?;
            let stack = bucket.wrapping_add(layout.header as u64);
            let stack = words(&self.rt.bytes_at(stack, header.depth * 8)?);
            ensure(hash(&stack, header.size) == header.hash, || {
                "a bucket has the hash of another stack".to_owned()
            })?;
            bucket = header.next;
        }
        Ok(())
    }

    /// Where a fact cannot be shown yet: fine for a version that was measured, not for one that is
    /// newer than all that were.
    fn needs_proof(&self, why: &str) -> Checked {
        match self.rt.offsets().source() {
            Source::NewerThanKnown(known) => Err(Wrong(format!(
                "this Go version is newer than {known}, the newest known, and cannot be checked \
                 yet: {why}"
            ))),
            _ => Ok(()),
        }
    }
}

fn ensure(holds: bool, otherwise: impl FnOnce() -> String) -> Checked {
    if holds { Ok(()) } else { Err(Wrong(otherwise())) }
}

fn near(what: &str, a: u64, b: u64) -> Checked {
    let slack = SLACK.max(a.max(b) / 16);
    ensure(a.abs_diff(b) <= slack, || format!("{what}: {a} by one count, {b} by another"))
}

pub(super) fn words(bytes: &[u8]) -> Vec<u64> {
    bytes
        .chunks_exact(8)
        .map(|b| b.try_into().map(u64::from_le_bytes).unwrap_or_default())
        .collect()
}

/// Bound of the walk through the list of threads.
pub(super) const MAX_THREADS: usize = MAX_WALK;
