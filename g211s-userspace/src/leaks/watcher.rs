//! Reads a process beside its run, on a thread of its own: what each collection left, the runtime's own memory profile
//! as it changes, and censuses of goroutines. Hands on records. Must not know probes, nor what is concluded.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::JoinHandle;
use std::time::Duration;

use crate::agent::{now_ns, stand_back};
use crate::census::gs::{LEAKED, WAITING};
use crate::census::{Census, CensusError, Origin, Site, site, state_name};
use crate::elf::symbols::{Symbols, short_name};
use crate::go::globals::Global;
use crate::heap::buckets::{AsOf, HeapError, Snapshot};
use crate::record::{
    GoroutineCounts, GoroutineSite, GoroutinesKept, LeakRecord, LeakSources, LeftHeap,
    ProfileCounts, ProfileStack, Record, SymbolFrame, SymbolInfo,
};
use crate::report::format::clean;
use crate::runtime::memory::{Memory, MemoryError, ProcessMemory};
use crate::runtime::sampling::open_runtime;
use crate::runtime::{Feature, Runtime, RuntimeError};
use crate::target::{ResolvedTarget, procfs::Procfs};

/// Whether a collection has ended is looked at this often: one small read.
const POLL: Duration = Duration::from_millis(20);
/// Least time between two readings of the profile, and between two censuses.
const SHORTEST: Duration = Duration::from_millis(500);
/// A reading that took long is repeated after so many times its time.
const REST: u32 = 30;
/// Readings and censuses of a run, about: more points say nothing more.
const POINTS: u32 = 150;
/// Lists of goroutines that are kept, to see who stays.
const MAX_LISTS: usize = 12;
/// Goroutines in a list; of more, a part is listed.
const MAX_LISTED: usize = 100_000;
/// Stacks of the profile and sites of goroutines that are told apart.
const MAX_STACKS: usize = 1 << 17;
const MAX_SITES: usize = 1 << 14;
/// What could not be proven before a collection has ended is tried again after this many.
const RECHECKS: [u64; 3] = [1, 2, 5];

/// How far it has come, for who looks on.
#[derive(Debug, Default)]
pub struct Progress {
    /// Collections seen.
    pub collections: AtomicU64,
    /// Bytes that the last one left.
    pub marked: AtomicU64,
    /// Goroutines in the last census.
    pub goroutines: AtomicU64,
}

/// The thread.
#[derive(Debug)]
pub struct Watcher {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
    records: Receiver<Record>,
    /// How far it has come.
    pub progress: Arc<Progress>,
}

impl Watcher {
    /// Begins. `span`: how long it will be, about.
    ///
    /// # Errors
    /// Why the process's memory cannot be read as a Go runtime's.
    pub fn start(procfs: &Procfs, target: &ResolvedTarget, span: Duration) -> Result<Self, String> {
        let runtime = open_runtime(procfs, target)?;
        let (stop, progress) = (Arc::new(AtomicBool::new(false)), Arc::new(Progress::default()));
        let (sender, records) = channel();
        let binary = Arc::clone(&target.binary);
        let (stopped, told) = (Arc::clone(&stop), Arc::clone(&progress));
        let thread = std::thread::Builder::new()
            .name("leaks".to_owned())
            .spawn(move || {
                // A census sleeps and wakes a thousand times: the target's threads are not to be pushed aside.
                stand_back();
                let mut watch = Watch {
                    symbols: binary.symbols(),
                    binary: &binary,
                    runtime,
                    sender,
                    progress: told,
                    every: (span / POINTS).max(SHORTEST),
                    seen: Seen::default(),
                };
                watch.run(&stopped);
            })
            .map_err(|e| format!("no thread: {e}"))?;
        Ok(Self { stop, thread: Some(thread), records, progress })
    }

    /// What came since the last time.
    pub fn take(&self) -> Vec<Record> {
        self.records.try_iter().collect()
    }

    /// Looks for the last time, and gives what has come of all that.
    pub fn finish(&mut self) -> Vec<Record> {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            // A panic was printed; what came before it counts.
            let _ = thread.join();
        }
        self.take()
    }
}

impl Drop for Watcher {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

/// What was told already.
#[derive(Debug, Default)]
struct Seen {
    /// `mheap_.sweepgen` of the last collection that was told.
    generation: Option<u64>,
    collections: u64,
    checked: usize,
    profile_due: u64,
    /// The last collection whose profile was told.
    profile_gc: Option<u64>,
    stacks: HashMap<Vec<u64>, u32>,
    counts: HashMap<(u32, u64), (u64, u64)>,
    named: HashSet<u64>,
    census_due: u64,
    censuses: usize,
    sites: HashMap<(Origin, Option<u64>), u32>,
    lists: Vec<List>,
}

/// Who there was in a census.
#[derive(Debug)]
struct List {
    /// Number of the census.
    number: usize,
    at_ns: u64,
    /// Those whose scattered number has none of these bits are listed.
    mask: u64,
    by_site: HashMap<u32, Vec<u64>>,
}

struct Watch<'b> {
    symbols: Symbols<'b>,
    binary: &'b crate::go::Binary,
    runtime: Runtime<ProcessMemory>,
    sender: Sender<Record>,
    progress: Arc<Progress>,
    every: Duration,
    seen: Seen,
}

/// The process has ended.
struct Gone;

impl Watch<'_> {
    fn run(&mut self, stop: &AtomicBool) {
        self.sources();
        loop {
            let last = stop.load(Ordering::Relaxed);
            if self.look(last).is_err() {
                break;
            }
            if last {
                break;
            }
            self.runtime.memory().wait(POLL);
        }
        self.kept();
    }

    fn send(&self, record: LeakRecord) {
        // Nobody listens any more: the run has ended.
        let _ = self.sender.send(Record::Leaks(Box::new(record)));
    }

    fn sources(&self) {
        let why = |feature| self.runtime.usable(feature).err().map(str::to_owned);
        self.send(LeakRecord::Sources(LeakSources {
            heap: why(Feature::Spans).or_else(|| why(Feature::Heap)),
            profile: why(Feature::HeapProfile),
            goroutines: why(Feature::Goroutines),
            offsets: self.runtime.offsets().source().to_string(),
        }));
    }

    fn look(&mut self, last: bool) -> Result<(), Gone> {
        let now = now_ns();
        let collected = self.heap(now)?;
        if collected && RECHECKS.get(self.seen.checked).is_some_and(|n| *n <= self.seen.collections)
        {
            self.seen.checked += 1;
            self.recheck();
        }
        let can = |feature| self.runtime.usable(feature).is_ok();
        let profile = can(Feature::HeapProfile) && can(Feature::Gc);
        let goroutines = can(Feature::Goroutines);
        if profile && (last || (now >= self.seen.profile_due && collected)) {
            self.profile()?;
        }
        if goroutines && (last || now >= self.seen.census_due) {
            self.census()?;
        }
        Ok(())
    }

    /// Some features can only be proven after a collection.
    fn recheck(&mut self) {
        let all = [Feature::Heap, Feature::Spans, Feature::Gc, Feature::HeapProfile];
        let missing: Vec<Feature> =
            all.into_iter().filter(|f| self.runtime.usable(*f).is_err()).collect();
        if missing.is_empty() {
            return;
        }
        self.runtime.check(self.binary, &missing);
        if missing.iter().any(|f| self.runtime.usable(*f).is_ok()) {
            self.sources();
        }
    }

    /// What the last collection left, if that is new: whether a collection has ended.
    fn heap(&mut self, now: u64) -> Result<bool, Gone> {
        let generation =
            |r: &Runtime<ProcessMemory>| r.u64(Global::Mheap, "runtime.mheap", "sweepgen");
        let before = match generation(&self.runtime) {
            Ok(generation) => generation & 0xffff_ffff,
            Err(RuntimeError::Memory(MemoryError::Gone)) => return Err(Gone),
            Err(_) => return Ok(false),
        };
        if self.seen.generation == Some(before) {
            return Ok(false);
        }
        let first = self.seen.generation.is_none();
        // What it left is set before the generation (mgc.go, `gcMark`, `gcSweep`), the world being stopped, so it is
        // that of this generation as long as that stays.
        let marked =
            self.runtime.u64(Global::GcController, "runtime.gcControllerState", "heapMarked");
        if self.runtime.usable(Feature::Heap).is_ok()
            && let Ok(marked) = marked
            && generation(&self.runtime).is_ok_and(|g| g & 0xffff_ffff == before)
        {
            let stacks = self.runtime.heap_stats().ok().map(|s| s.in_stacks);
            let gc = before / 2;
            self.progress.marked.store(marked, Ordering::Relaxed);
            self.send(LeakRecord::Heap(LeftHeap { ts_ns: now, gc, marked, stacks }));
        }
        self.seen.generation = Some(before);
        if !first {
            self.seen.collections += 1;
            self.progress.collections.fetch_add(1, Ordering::Relaxed);
        }
        Ok(true)
    }

    fn profile(&mut self) -> Result<(), Gone> {
        let began = now_ns();
        let taken = Snapshot::take(&self.runtime);
        let took = Duration::from_nanos(now_ns().saturating_sub(began));
        let rest = (took * REST).max(SHORTEST).max(self.every / 2);
        self.seen.profile_due = began.saturating_add(rest.as_nanos() as u64);
        let snapshot = match taken {
            Ok(snapshot) => snapshot,
            Err(HeapError::Memory(MemoryError::Gone)) => return Err(Gone),
            // It may be whole the next time; a run without any says that it has none.
            Err(_) => return Ok(()),
        };
        let AsOf::Collection(gc, _) = snapshot.as_of else { return Ok(()) };
        if snapshot.torn > 0 || self.seen.profile_gc == Some(gc) {
            return Ok(());
        }
        self.seen.profile_gc = Some(gc);
        let mut changed: HashMap<(u32, u64), (u64, u64)> = HashMap::new();
        for bucket in &snapshot.buckets {
            if bucket.counts.is_zero() {
                continue;
            }
            let Some(stack) = self.stack(snapshot.stack(bucket)) else { continue };
            let sum = changed.entry((stack, bucket.size)).or_default();
            sum.0 += bucket.counts.allocs;
            sum.1 += bucket.counts.frees;
        }
        changed.retain(|key, counts| self.seen.counts.get(key) != Some(counts));
        self.seen.counts.extend(changed.iter().map(|(k, v)| (*k, *v)));
        let mut changed: Vec<(u32, u64, u64, u64)> =
            changed.into_iter().map(|((s, size), (a, f))| (s, size, a, f)).collect();
        changed.sort_unstable();
        self.send(LeakRecord::Profile(ProfileCounts {
            ts_ns: began,
            gc,
            rate: snapshot.rate,
            changed,
        }));
        Ok(())
    }

    /// The number of a stack of return addresses; `None` where there are too many.
    fn stack(&mut self, addresses: &[u64]) -> Option<u32> {
        if let Some(id) = self.seen.stacks.get(addresses) {
            return Some(*id);
        }
        if self.seen.stacks.len() >= MAX_STACKS {
            return None;
        }
        let id = self.seen.stacks.len() as u32;
        self.seen.stacks.insert(addresses.to_vec(), id);
        // The address of the call, not of what follows it.
        let calls: Vec<u64> = addresses.iter().map(|a| a.wrapping_sub(1)).collect();
        for &call in &calls {
            if !self.seen.named.insert(call) {
                continue;
            }
            let file = call.wrapping_sub(self.runtime.bias());
            let frames = self.symbols.at(file).unwrap_or_else(|| [].into());
            let frame = |f: &crate::elf::symbols::Frame| SymbolFrame {
                function: short_name(&f.function),
                file: f.file.as_deref().map(str::to_owned),
                line: f.line,
                inlined: f.inlined,
            };
            let frames = frames.iter().map(frame).collect();
            let symbol = SymbolInfo { target: 0, address: call, frames };
            let _ = self.sender.send(Record::Symbol(Box::new(symbol)));
        }
        self.send(LeakRecord::ProfileStack(ProfileStack { id, addresses: calls }));
        Some(id)
    }

    fn census(&mut self) -> Result<(), Gone> {
        let began = now_ns();
        let taken = Census::take_with(&self.runtime, &mut self.symbols, false, true);
        let census = match taken {
            Ok(census) => census,
            Err(CensusError::Memory(MemoryError::Gone)) => return Err(Gone),
            Err(_) => {
                self.seen.census_due = began.saturating_add(self.every.as_nanos() as u64);
                return Ok(());
            }
        };
        let rest = (census.took * REST).max(self.every);
        self.seen.census_due = began.saturating_add(rest.as_nanos() as u64);
        let total: usize = census.groups.values().map(|g| g.ids.len()).sum();
        let mask = (total / MAX_LISTED).next_power_of_two() as u64;
        let mask = if total > MAX_LISTED { 2 * mask - 1 } else { 0 };
        let (mut counts, mut list) = (Vec::new(), HashMap::<u32, Vec<u64>>::new());
        for (key, group) in census.groups.into_iter().filter(|(k, _)| !k.system) {
            let Some(id) = self.site(key.origin, group.start) else { continue };
            let waits = matches!(key.status, Some(WAITING | LEAKED));
            // What runs now is nothing to tell them apart by.
            let state = if waits {
                state_name(self.runtime.offsets(), key.status, key.wait_reason)
            } else {
                "running".to_owned()
            };
            counts.push((id, state, group.count));
            list.entry(id)
                .or_default()
                .extend(group.ids.iter().filter(|id| scattered(**id) & mask == 0));
        }
        counts.sort_unstable();
        let goroutines = counts.iter().map(|(.., n)| n).sum();
        self.progress.goroutines.store(goroutines, Ordering::Relaxed);
        let took_ns = u64::try_from(census.took.as_nanos()).unwrap_or(u64::MAX);
        self.send(LeakRecord::Goroutines(GoroutineCounts { ts_ns: census.at_ns, took_ns, counts }));
        let number = self.seen.censuses;
        self.seen.lists.push(List { number, at_ns: census.at_ns, mask, by_site: list });
        self.seen.censuses += 1;
        if self.seen.lists.len() > MAX_LISTS {
            // Every other one goes, bar the last.
            let mut n = 0;
            let end = self.seen.lists.len() - 1;
            self.seen.lists.retain(|_| {
                n += 1;
                n % 2 == 1 || n > end
            });
        }
        Ok(())
    }

    /// The number of a creation site; `None` where there are too many.
    fn site(&mut self, origin: Origin, start: Option<u64>) -> Option<u32> {
        if let Some(id) = self.seen.sites.get(&(origin, start)) {
            return Some(*id);
        }
        if self.seen.sites.len() >= MAX_SITES {
            return None;
        }
        let id = self.seen.sites.len() as u32;
        self.seen.sites.insert((origin, start), id);
        let mut told = GoroutineSite { id, ..GoroutineSite::default() };
        match site(&mut self.symbols, origin) {
            Site::At { frame, .. } => {
                "go".clone_into(&mut told.created_by);
                told.function = Some(short_name(&frame.function));
                told.file = frame.file.as_deref().map(str::to_owned);
                told.line = frame.line;
            }
            Site::Start => "start".clone_into(&mut told.created_by),
            Site::Foreign => "c".clone_into(&mut told.created_by),
            Site::Unknown(_) => "unknown".clone_into(&mut told.created_by),
        }
        let function = start.and_then(|pc| self.symbols.function(pc));
        told.start = function.map(|f| clean(&short_name(&String::from_utf8_lossy(f.name))));
        self.send(LeakRecord::GoroutineSite(told));
        Some(id)
    }

    /// Who of those halfway is still there.
    fn kept(&mut self) {
        let Some(last) = self.seen.lists.last() else { return };
        let half = self.seen.lists.iter().min_by_key(|l| l.number.abs_diff(last.number / 2));
        let Some(half) = half.filter(|l| l.number < last.number) else { return };
        let now: HashSet<u64> = last.by_site.values().flatten().copied().collect();
        let mask = last.mask | half.mask;
        let mut sites: Vec<(u32, u64, u64)> = half
            .by_site
            .iter()
            .map(|(site, ids)| {
                let ids = ids.iter().filter(|id| scattered(**id) & mask == 0);
                let (mut lived, mut still) = (0, 0);
                for id in ids {
                    lived += 1;
                    still += u64::from(now.contains(id));
                }
                (*site, lived, still)
            })
            .collect();
        let since_ns = half.at_ns;
        sites.sort_unstable();
        self.send(LeakRecord::GoroutinesKept(GoroutinesKept { since_ns, sites }));
    }
}

/// A number's bits in disorder, so that some of them choose at random.
fn scattered(n: u64) -> u64 {
    n.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32
}
