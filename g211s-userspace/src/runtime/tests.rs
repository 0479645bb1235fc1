//! The live checks against a runtime made by hand: what is right is usable, and what is not switches
//! off its own feature, with a reason.

use proptest::prelude::*;

use super::memory::fake::FakeMemory;
use super::*;
use crate::elf::fixture;
use crate::go::version::GoVersion;

/// Where the globals are in the file; `BIAS` is added in the process.
const PLACES: [(Global, u64); 13] = [
    (Global::Sched, 0x10_0000),
    (Global::Memstats, 0x20_0000),
    (Global::GcController, 0x30_0000),
    (Global::Mheap, 0x40_0000),
    (Global::Allgs, 0x50_0000),
    (Global::Allglen, 0x50_0100),
    (Global::Allm, 0x50_0200),
    (Global::Allp, 0x50_0300),
    (Global::Work, 0x60_0000),
    (Global::Gomaxprocs, 0x50_0400),
    (Global::Mbuckets, 0x50_0500),
    (Global::MemProfileRate, 0x50_0600),
    (Global::ProfCycle, 0x50_0700),
];
const BIAS: u64 = 0x5555_0000_0000;
/// What is on the heap.
const HEAP: u64 = 0xc000_0000_0000;
const G: u64 = HEAP;
const M: u64 = HEAP + 0x10_0000;
const P: u64 = HEAP + 0x20_0000;
const ARRAYS: u64 = HEAP + 0x30_0000;
const ARENA: u64 = HEAP + 0x40_0000;
const SPAN: u64 = HEAP + 0x80_0000;
const BUCKET: u64 = HEAP + 0x90_0000;
/// A stop of 8 collections, twice each.
const COLLECTIONS: u64 = 8;

/// A process that holds a runtime of a Go version.
struct Fake {
    memory: FakeMemory,
    offsets: Offsets,
    histograms: Vec<u64>,
}

impl Fake {
    fn new(version: &str) -> Self {
        let offsets = Offsets::for_version(&GoVersion::parse(version).expect("a version"));
        let mut fake = Self { memory: FakeMemory::default(), offsets, histograms: Vec::new() };
        for (_, place) in PLACES.iter().filter(|(_, p)| p % 0x1_0000 == 0) {
            fake.memory.map(BIAS + place, 0x4_0000);
        }
        for at in [G, M, P, ARRAYS, SPAN, BUCKET] {
            fake.memory.map(at, 0x1_0000);
        }
        fake.memory.map(ARENA, 0x20_0000);
        fake.fill();
        fake
    }

    fn at(global: Global) -> u64 {
        BIAS + PLACES.iter().find(|(g, _)| *g == global).expect("placed").1
    }

    fn put(&mut self, base: u64, strukt: &str, field: &str, value: u64) {
        if let Some(f) = self.offsets.field(strukt, field) {
            self.memory.put(base + u64::from(f.off), value, f.size.min(8) as usize);
        }
    }

    fn sched(&mut self, field: &str, value: u64) {
        self.put(Self::at(Global::Sched), "runtime.schedt", field, value);
    }

    fn memstats(&mut self, field: &str, value: u64) {
        self.put(Self::at(Global::Memstats), "runtime.mstats", field, value);
    }

    fn controller(&mut self, field: &str, value: u64) {
        self.put(Self::at(Global::GcController), "runtime.gcControllerState", field, value);
    }

    /// One histogram with so many counts in its first bucket; the code records there.
    fn histogram(&mut self, global: Global, strukt: &str, field: &str, counts: u64) {
        if let Some(f) = self.offsets.field(strukt, field) {
            let at = Self::at(global) + u64::from(f.off);
            self.histograms.push(at - BIAS);
            self.put(at, "runtime.timeHistogram", "counts", counts);
        }
    }

    fn fill(&mut self) {
        self.sched("maxmcount", 10_000);
        self.sched("mnext", 2);
        for field in ["timeToRun", "stwTotalTimeOther", "stwStoppingTimeOther"] {
            self.histogram(Global::Sched, "runtime.schedt", field, 5);
        }
        for field in ["stwTotalTimeGC", "stwStoppingTimeGC"] {
            self.histogram(Global::Sched, "runtime.schedt", field, 2 * COLLECTIONS);
        }
        self.histogram(Global::Memstats, "runtime.mstats", "gcPauseDist", 2 * COLLECTIONS);

        self.memstats("numgc", COLLECTIONS);
        self.memstats("last_gc_unix", 777);
        self.memstats("pause_total_ns", 100);
        self.memstats("pause_ns", 100);
        let ends = self.offsets.field("runtime.mstats", "pause_end").expect("known").off;
        let last = Self::at(Global::Memstats) + u64::from(ends) + (COLLECTIONS - 1) * 8;
        self.memory.put(last, 777, 8);
        for (field, value) in [("committed", 50 << 20), ("inHeap", 40 << 20), ("released", 4096)] {
            // heapStats.stats is at the start, and so is its first generation.
            self.put(Self::at(Global::Memstats), "runtime.heapStatsDelta", field, value);
        }

        self.controller("gcPercent", 100);
        self.controller("memoryLimit", i64::MAX as u64);
        self.controller("heapInUse", 40 << 20);
        self.controller("heapReleased", 4096);
        self.controller("heapLive", 30 << 20);
        self.controller("totalAlloc", 90 << 20);
        self.put(Self::at(Global::Work), "runtime.workType", "cycles", COLLECTIONS);

        // Two goroutines, two threads, two Ps.
        for (n, (global, of, array)) in
            (0..).zip([(Global::Allgs, G, ARRAYS), (Global::Allp, P, ARRAYS + 0x100)])
        {
            for (offset, value) in [(0, array), (8, 2), (16, 2 + n)] {
                self.memory.put(Self::at(global) + offset, value, 8);
            }
            for i in 0..2 {
                self.memory.put(array + i * 8, of + i * 0x4000, 8);
            }
        }
        self.memory.put(Self::at(Global::Allglen), 2, 8);
        self.memory.put(Self::at(Global::Gomaxprocs), 2, 4);
        self.memory.put(Self::at(Global::Allm), M, 8);
        for i in 0..2 {
            let (g, m, p) = (G + i * 0x4000, M + i * 0x4000, P + i * 0x4000);
            for (field, value) in [
                ("goid", i + 1),
                ("atomicstatus", 4),
                ("waitreason", 3),
                ("startpc", BIAS + fixture::TEXT_VA + u64::from(fixture::FUNCTIONS[1].1)),
                ("stack.lo", 0x1000),
                ("stack.hi", 0x2000),
                ("sched.sp", 0x1800),
            ] {
                self.put(g, "runtime.g", field, value);
            }
            self.put(m, "runtime.m", "id", 1 - i);
            self.put(m, "runtime.m", "procid", 70 + i);
            self.put(m, "runtime.m", "g0", g + 0x2000);
            self.put(g + 0x2000, "runtime.g", "m", m);
            self.put(p, "runtime.p", "id", i);
            self.put(p, "runtime.p", "status", 1);
        }
        self.put(M, "runtime.m", "alllink", M + 0x4000);
        self.memory.threads = Some(vec![70, 71, 72]);

        // One arena, the one of address 0, with one span.
        let heap = Self::at(Global::Mheap);
        self.put(heap, "runtime.mheap", "sweepgen", 2 * COLLECTIONS);
        self.put(heap, "runtime.mheap", "arenas", ARRAYS + 0x200);
        for list in ["heapArenas", "allArenas"] {
            if let Some(f) = self.offsets.field("runtime.mheap", list) {
                self.memory.put(heap + u64::from(f.off), ARRAYS + 0x300, 8);
                self.memory.put(heap + u64::from(f.off) + 8, 1, 8);
            }
        }
        self.memory.put(ARRAYS + 0x300, 4, 8);
        self.memory.put(ARRAYS + 0x200 + 4 * 8, ARENA, 8);
        let spans = self.offsets.field("runtime.heapArena", "spans").expect("known").off;
        self.memory.put(ARENA + u64::from(spans) + 3 * 8, SPAN, 8);
        let base = (4_u64 << 26).wrapping_add(0xffff_8000_0000_0000);
        self.put(SPAN, "runtime.mspan", "startAddr", base + 2 * 8192);
        self.put(SPAN, "runtime.mspan", "npages", 2);
        self.put(SPAN, "runtime.mspan", "state", 1);

        self.memory.put(Self::at(Global::MemProfileRate), 512 << 10, 8);
        self.memory.put(Self::at(Global::Mbuckets), BUCKET, 8);
        self.put(BUCKET, "runtime.bucket", "typ", 1);
        self.put(BUCKET, "runtime.bucket", "nstk", 7);
        self.put(BUCKET, "runtime.bucket", "size", 48);
        let hash = super::buckets::hash(&[0; 7], 48);
        self.put(BUCKET, "runtime.bucket", "hash", hash);
    }

    fn open(self) -> Runtime<FakeMemory> {
        let binary = Binary::load(fixture::go_elf(false)).expect("fixture loads");
        let globals = Globals::at(&PLACES, &self.histograms);
        let (memory, offsets) = (self.memory, self.offsets);
        let mut runtime = Runtime { memory, bias: BIAS, offsets, globals, features: Vec::new() };
        runtime.recheck(&binary);
        runtime
    }
}

fn refused(runtime: &Runtime<FakeMemory>) -> Vec<Feature> {
    Feature::ALL.into_iter().filter(|f| runtime.usable(*f).is_err()).collect()
}

#[test]
fn the_order_of_all_is_that_of_the_enum() {
    assert!(Feature::ALL.iter().enumerate().all(|(n, f)| *f as usize == n));
}

#[test]
fn what_is_right_is_usable_in_every_version() {
    for version in ["go1.21.13", "go1.22.10", "go1.23.1", "go1.24.3", "go1.25.0", "go1.27.3"] {
        let runtime = Fake::new(version).open();
        for feature in Feature::ALL {
            assert_eq!(runtime.usable(feature), Ok(()), "{version}: {feature:?}");
        }
        assert_eq!(runtime.threads().expect("walks"), [M, M + 0x4000]);
        assert_eq!(runtime.heap_stats().expect("reads").in_heap, 40 << 20);
    }
}

/// One thing is wrong: what it is, what may not be used for it, and a word of the reason.
type Case = (fn(&mut Fake), &'static [Feature], &'static str);

#[test]
fn what_is_wrong_switches_off_its_own_feature() {
    use Feature::{
        Cycle, Gc, Goroutines, HeapProfile, Latency, Processors, Spans, StwHistograms, Threads,
    };
    let cases: [Case; 20] = [
        (|f| f.put(G, "runtime.g", "goid", 2), &[Goroutines], "first goroutine's id is 2"),
        (|f| f.put(G, "runtime.g", "atomicstatus", 77), &[Goroutines], "status 77"),
        (
            |f| f.put(G, "runtime.g", "startpc", BIAS + 0x1001),
            &[Goroutines],
            "began at no function",
        ),
        (|f| f.put(G, "runtime.g", "sched.sp", 0x3000), &[Goroutines], "outside of its stack"),
        (|f| f.memory.put(Fake::at(Global::Allglen), 9, 8), &[Goroutines], "allglen says 9"),
        (|f| f.memory.put(Fake::at(Global::Allgs), 8, 8), &[Goroutines], "no memory at 0x8"),
        (|f| f.memory.threads = Some(vec![70]), &[Threads], "1 of 2 threads"),
        (|f| f.put(M, "runtime.m", "alllink", M), &[Threads], "list of threads does not end"),
        (|f| f.put(M, "runtime.m", "id", 0), &[Threads], "a thread's id is 0"),
        (|f| f.memory.put(Fake::at(Global::Gomaxprocs), 4, 4), &[Processors], "gomaxprocs is 4"),
        (|f| f.put(P, "runtime.p", "id", 3), &[Processors], "P 0 has id 3"),
        (|f| f.memstats("last_gc_unix", 1), &[Gc], "not the last end"),
        (|f| f.memstats("numgc", 100), &[Gc, StwHistograms, Cycle], "numgc is 100"),
        (|f| f.sched("maxmcount", 3), &[], ""),
        (
            |f| {
                f.sched("maxmcount", 3);
                f.sched("nmfreed", 1);
            },
            &[Threads, Latency, StwHistograms],
            "sched counts 1 threads, the list has 2",
        ),
        (
            |f| f.histograms.clear(),
            &[Latency, StwHistograms],
            "no code records into timeToRun where it should be",
        ),
        (|f| f.put(SPAN, "runtime.mspan", "startAddr", 8), &[Spans], "0 of 1 spans"),
        (
            |f| f.memory.put(Fake::at(Global::MemProfileRate), 0, 8),
            &[HeapProfile],
            "linker switched it off",
        ),
        (|f| f.put(BUCKET, "runtime.bucket", "typ", 2), &[HeapProfile], "of kind 2"),
        (|f| f.put(BUCKET, "runtime.bucket", "size", 64), &[HeapProfile], "another stack"),
    ];
    for (n, (damage, expected, words)) in cases.into_iter().enumerate() {
        let mut fake = Fake::new("go1.27.3");
        damage(&mut fake);
        let runtime = fake.open();
        assert_eq!(refused(&runtime), expected, "case {n}");
        if let Some(first) = expected.first() {
            let why = runtime.usable(*first).expect_err("is refused");
            assert!(why.contains(words), "case {n}: {why}");
        }
    }
}

#[test]
fn heap_figures_that_contradict_each_other_are_refused() {
    for (field, value) in
        [("heapInUse", 4 << 30), ("heapLive", 4 << 30), ("gcPercent", 0x8000_0000)]
    {
        let mut fake = Fake::new("go1.27.3");
        fake.controller(field, value);
        assert_eq!(refused(&fake.open()), [Feature::Heap], "{field}");
    }
}

#[test]
fn a_newer_version_has_to_prove_itself() {
    // Before the first collection there is little to compare.
    let fresh = |version: &str| {
        let mut fake = Fake::new(version);
        for field in ["numgc", "last_gc_unix", "pause_total_ns", "pause_ns"] {
            fake.memstats(field, 0);
        }
        fake.put(Fake::at(Global::Work), "runtime.workType", "cycles", 0);
        fake.put(Fake::at(Global::Mheap), "runtime.mheap", "sweepgen", 0);
        for field in ["stwTotalTimeGC", "stwStoppingTimeGC"] {
            fake.histogram(Global::Sched, "runtime.schedt", field, 0);
        }
        fake.open()
    };
    assert_eq!(refused(&fresh("go1.27.3")), []);
    let newer = fresh("go1.28.0");
    assert_eq!(refused(&newer), [Feature::Gc, Feature::StwHistograms, Feature::Cycle]);
    assert!(newer.usable(Feature::Gc).expect_err("refused").contains("newer than 1.27.3"));
    // With collections it can be shown.
    assert_eq!(refused(&Fake::new("go1.28.0").open()), []);
}

#[test]
fn memory_that_is_not_there_refuses_everything() {
    let mut fake = Fake::new("go1.27.3");
    fake.memory.ranges.clear();
    let runtime = fake.open();
    assert_eq!(refused(&runtime), Feature::ALL);
    assert!(runtime.usable(Feature::Heap).expect_err("refused").contains("no memory at"));
    assert_eq!(
        runtime.bytes_at(0, usize::MAX).expect_err("too much"),
        RuntimeError::Size(u64::MAX)
    );
    assert_eq!(runtime.number(0, 3).expect_err("no number"), RuntimeError::Size(3));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn hostile_memory_is_handled(
        edits in proptest::collection::vec(
            (any::<prop::sample::Index>(), any::<prop::sample::Index>(), any::<u64>()), 1..200)
    ) {
        let mut fake = Fake::new("go1.27.3");
        for (range, at, value) in edits {
            let (_, bytes) = &mut fake.memory.ranges[range.index(12)];
            let at = at.index(0x1000) * 8;
            bytes[at..at + 8].copy_from_slice(&value.to_le_bytes());
        }
        let runtime = fake.open();
        let _ = (refused(&runtime), runtime.threads(), runtime.heap_stats());
    }
}
