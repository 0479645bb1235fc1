//! Liveness against a heap made by hand that allocates, marks and sweeps as Go's does, and whose truth
//! is known: nothing that lives is ever called dead, nothing is called alive that is not proven.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;

use super::liveness::{Answer, Follower, Outcome, Sample, Why};
use crate::go::globals::{Global, Globals};
use crate::go::offsets::Offsets;
use crate::go::version::GoVersion;
use crate::runtime::Runtime;
use crate::runtime::memory::fake::FakeMemory;
use crate::runtime::memory::{Memory, MemoryError};

const MHEAP: u64 = 0x40_0000;
const BIAS: u64 = 0x5555_0000_0000;
/// Where Go's heap begins on linux/amd64, and the number of that arena.
const BASE: u64 = 0xc0_0000_0000;
const INDEX: u64 = (BASE + 0x8000_0000_0000) >> 26;
const LEVEL: u64 = 0x7000_0000_0000;
const ARENA: u64 = 0x7100_0000_0000;
const SPANS: u64 = 0x7200_0000_0000;
const BITS: u64 = 0x7300_0000_0000;
const IN_USE: u64 = 1;
const VERSIONS: [&str; 3] = ["go1.21.13", "go1.24.11", "go1.27.3"];

/// How a span is laid out: class, bytes of a slot, slots, pages.
type Kind = (u8, u64, u64, u64);
const KINDS: [Kind; 5] =
    [(5, 16, 512, 1), (8, 32, 256, 1), (57, 512, 16, 1), (100, 8192, 4, 4), (0, 65_536, 1, 8)];

#[derive(Clone, Debug)]
#[expect(clippy::struct_excessive_bools, reason = "as the runtime's own")]
struct Span {
    kind: Kind,
    page: u64,
    in_use: bool,
    need_zero: bool,
    used_before: bool,
    generation: u32,
    /// The objects in the slots.
    slots: Vec<Option<u64>>,
    /// The slots that the last sweep left.
    bits: Vec<bool>,
    /// Which of two places the bits are in.
    flip: bool,
}

/// The truth about an object.
#[derive(Clone, Copy, Debug)]
struct Truth {
    reachable: bool,
    /// The last generation whose collection reached it (at first that of its allocation).
    reached: u32,
    span: usize,
}

struct Go {
    memory: FakeMemory,
    offsets: Offsets,
    version: GoVersion,
    generation: u32,
    spans: Vec<Span>,
    truth: BTreeMap<u64, Truth>,
    next: u64,
}

impl Go {
    fn new(version: &str, kinds: &[Kind]) -> Self {
        let version = GoVersion::parse(version).expect("a version");
        let offsets = Offsets::for_version(&version);
        let mut memory = FakeMemory::default();
        memory.map(BIAS + MHEAP, 0x1_8000);
        memory.map(LEVEL + INDEX * 8, 64);
        memory.map(ARENA, 0x20_0000);
        memory.map(SPANS, 0x1_0000);
        memory.map(BITS, 0x1_0000);
        let truth = BTreeMap::new();
        let mut this =
            Self { memory, offsets, version, generation: 4, spans: Vec::new(), truth, next: 1 };
        this.put(BIAS + MHEAP, "runtime.mheap", "arenas", LEVEL);
        this.memory.put(LEVEL + INDEX * 8, ARENA, 8);
        let mut page = 3;
        for &kind in kinds {
            let slots = kind.2 as usize;
            this.spans.push(Span {
                kind,
                page,
                in_use: false,
                need_zero: false,
                used_before: false,
                generation: 4,
                slots: vec![None; slots],
                bits: vec![false; slots],
                flip: false,
            });
            page += kind.3;
        }
        this.write();
        this
    }

    fn put(&mut self, base: u64, strukt: &str, field: &str, value: u64) {
        let f = self.offsets.field(strukt, field).expect("known");
        self.memory.put(base + u64::from(f.off), value, f.size.min(8) as usize);
    }

    fn bits_at(n: usize, flip: bool) -> u64 {
        BITS + n as u64 * 256 + u64::from(flip) * 128
    }

    fn span_at(n: usize) -> u64 {
        SPANS + n as u64 * 256
    }

    /// Writes the state of the heap into the memory.
    fn write(&mut self) {
        self.put(BIAS + MHEAP, "runtime.mheap", "sweepgen", u64::from(self.generation));
        for n in 0..self.spans.len() {
            let span = self.spans[n].clone();
            let (class, bytes, slots, pages) = span.kind;
            let bits = Self::bits_at(n, span.flip);
            for (field, value) in [
                ("startAddr", BASE + span.page * 8192),
                ("npages", pages),
                ("nelems", slots),
                ("elemsize", bytes),
                ("allocBits", bits),
                ("sweepgen", u64::from(span.generation)),
                ("spanclass", u64::from(class)),
                ("state", if span.in_use { IN_USE } else { 0 }),
                ("needzero", u64::from(span.need_zero)),
            ] {
                self.put(Self::span_at(n), "runtime.mspan", field, value);
            }
            for word in 0..slots.div_ceil(64) {
                let bit = |i: u64| {
                    u64::from(span.bits.get((word * 64 + i) as usize).copied().unwrap_or(false))
                        << i
                };
                self.memory.put(bits + word * 8, (0..64).map(bit).sum(), 8);
            }
            if span.used_before {
                let spans = self.offsets.field("runtime.heapArena", "spans").expect("known").off;
                for page in span.page..span.page + pages {
                    self.memory.put(ARENA + u64::from(spans) + page * 8, Self::span_at(n), 8);
                }
            }
        }
    }

    fn follower(&self, capacity: usize) -> Follower {
        let globals = Globals::at(&[(Global::Mheap, MHEAP)], &[]);
        let runtime = Runtime::trusted(FakeMemory::default(), self.offsets.clone(), globals, BIAS);
        Follower::new(&runtime, &self.version, capacity).expect("all is known")
    }

    /// A new object in a span, if it has room.
    fn allocate(&mut self, n: usize) -> Option<Sample> {
        let generation = self.generation;
        let span = &mut self.spans[n];
        if !span.in_use {
            span.in_use = true;
            span.need_zero = span.used_before;
            span.used_before = true;
            span.generation = generation;
            span.bits.fill(false);
        }
        if !matches!(span.generation.wrapping_sub(generation), 0 | 3) {
            return None;
        }
        let slot = span.slots.iter().position(Option::is_none)?;
        span.generation = generation + 3;
        let id = self.next;
        self.next += 1;
        span.slots[slot] = Some(id);
        let (class, size, _, _) = span.kind;
        let address = BASE + span.page * 8192 + slot as u64 * size;
        self.truth.insert(id, Truth { reachable: true, reached: generation, span: n });
        self.write();
        Some(Sample { id, address, size, weight: size, class, generation })
    }

    fn drop(&mut self, id: u64) {
        if let Some(truth) = self.truth.get_mut(&id) {
            truth.reachable = false;
        }
    }

    /// Marks; spans are swept later, but all of them before the next time.
    fn collect(&mut self) {
        for n in 0..self.spans.len() {
            self.sweep(n);
        }
        self.generation += 2;
        for truth in self.truth.values_mut().filter(|t| t.reachable) {
            truth.reached = self.generation;
        }
        self.write();
    }

    fn is_swept(&self, n: usize) -> bool {
        let span = &self.spans[n];
        !span.in_use || matches!(span.generation.wrapping_sub(self.generation), 0 | 3)
    }

    fn sweep(&mut self, n: usize) {
        if self.is_swept(n) {
            return;
        }
        let (generation, truth) = (self.generation, &self.truth);
        let span = &mut self.spans[n];
        span.flip = !span.flip;
        for (slot, bit) in span.slots.iter_mut().zip(&mut span.bits) {
            *bit = slot.is_some_and(|id| truth[&id].reached == generation);
            if !*bit && slot.take().is_some() {
                span.need_zero = true;
            }
        }
        span.generation = generation;
        span.in_use = span.bits.contains(&true);
        self.write();
    }

    fn sweep_all(&mut self) {
        for n in 0..self.spans.len() {
            self.sweep(n);
        }
    }
}

fn ids(out: &Outcome) -> Vec<u64> {
    out.died.iter().map(|d| d.sample.id).collect()
}

#[test]
fn objects_are_followed_from_birth_to_death() {
    for version in VERSIONS {
        let mut go = Go::new(version, &KINDS);
        let mut follower = go.follower(100);
        let mut all = Vec::new();
        for n in 0..KINDS.len() {
            for _ in 0..4 {
                if let Some(sample) = go.allocate(n) {
                    follower.follow(sample);
                    all.push(sample);
                }
            }
        }
        let out = follower.look(&go.memory).expect("reads");
        assert_eq!((out.young.objects, out.died.len()), (17, 0), "{version}: {out:?}");
        // Every other one goes.
        let gone: Vec<u64> = all.iter().map(|s| s.id).filter(|id| id % 2 == 0).collect();
        for id in &gone {
            go.drop(*id);
        }
        go.collect();
        let out = follower.look(&go.memory).expect("reads");
        assert_eq!((out.unswept.objects, out.died.len()), (17, 0), "{version}: {out:?}");
        go.sweep_all();
        let out = follower.look(&go.memory).expect("reads");
        assert_eq!(ids(&out).iter().copied().collect::<BTreeSet<_>>(), gone.into_iter().collect());
        assert_eq!(out.alive.objects, 9, "{version}: {out:?}");
        let bytes: u64 = all.iter().filter(|s| s.id % 2 == 1).map(|s| s.weight).sum();
        assert_eq!(out.alive.bytes, bytes);
        // Nothing is read twice in a generation.
        let again = follower.look(&go.memory).expect("reads");
        assert_eq!((again.reads.spans, again.alive), (0, out.alive));
    }
}

#[test]
fn a_slot_that_was_reused_is_alive_only_as_long_as_every_collection_was_looked_at() {
    for version in VERSIONS {
        // No slot of a span was freed before, and none from then on; where memory may have been given
        // back meanwhile, that is no proof.
        for (untouched, kind) in [(true, KINDS[1]), (false, KINDS[1]), (false, KINDS[4])] {
            let mut go = Go::new(version, &[kind]);
            let mut follower = go.follower(100);
            let first = go.allocate(0).expect("room");
            follower.follow(first);
            go.collect();
            go.sweep_all();
            assert_eq!(follower.look(&go.memory).expect("reads").alive.objects, 1);
            // It dies and is replaced, between two looks; or nothing of the kind.
            if !untouched {
                go.drop(first.id);
            }
            go.collect();
            go.sweep_all();
            if !untouched {
                let second = go.allocate(0).expect("room");
                assert_eq!(second.address, first.address);
            }
            go.collect();
            go.sweep_all();
            let out = follower.look(&go.memory).expect("reads");
            let answer = follower.followed().next().expect("followed").answer;
            if untouched && !version.starts_with("go1.27") {
                assert_eq!((answer, out.alive.objects), (Answer::Live, 1), "{version}");
            } else {
                assert_eq!(answer, Answer::Unknown(Why::Missed(1)), "{version} {untouched}");
                assert_eq!((out.alive.objects, out.doubtful.objects), (0, 1), "{version}");
            }
            // Death is certain even so.
            go.truth.values_mut().for_each(|t| t.reachable = false);
            go.collect();
            go.sweep_all();
            let out = follower.look(&go.memory).expect("reads");
            assert_eq!(ids(&out), [first.id], "{version}");
        }
    }
}

#[test]
fn what_was_seen_too_late_is_doubtful_and_what_is_no_object_is_told() {
    let mut go = Go::new("go1.27.3", &[KINDS[1], KINDS[2]]);
    let mut follower = go.follower(100);
    let late = go.allocate(0).expect("room");
    go.collect();
    go.collect();
    go.sweep_all();
    let now = go.allocate(1).expect("room");
    follower.follow(late);
    follower.follow(Sample { id: 70, address: now.address + 64, ..now });
    follower.follow(Sample { id: 71, class: 3, ..now });
    follower.follow(Sample { id: 72, address: BASE + (60 << 13), ..now });
    follower.follow(Sample { id: 73, address: 0x1_0000_0000_0000, ..now });
    follower.follow(Sample { id: 74, address: BASE + (1 << 32), ..now });
    follower.follow(Sample { id: 75, generation: go.generation + 2, ..now });
    follower.follow(Sample { id: 76, generation: 3, ..now });
    follower.follow(now);
    let out = follower.look(&go.memory).expect("reads");
    assert_eq!(out.unusable.objects, 6, "{out:?}");
    assert_eq!((out.doubtful.objects, out.unreadable.objects, out.young.objects), (1, 1, 1));
    assert_eq!(out.died, []);
    let left: Vec<u64> = follower.followed().map(|f| f.sample.id).collect();
    assert_eq!(left, [late.id, 74, now.id]);
}

#[test]
fn thinning_keeps_sums_right_on_average() {
    let mut go = Go::new("go1.27.3", &[KINDS[0]; 8]);
    let samples: Vec<Sample> = (0..8 * 512).map(|n| go.allocate(n / 512).expect("room")).collect();
    let (mut sums, mut ratio) = (Vec::new(), 0);
    for seed in 0..200 {
        let mut follower = go.follower(300);
        follower.reseed(seed);
        for sample in &samples {
            follower.follow(*sample);
        }
        let weights: Vec<u64> = follower.followed().map(|f| f.sample.weight / 16).collect();
        assert!(weights.len() <= 300 && follower.refused() == 0);
        assert_eq!(weights.len() as u64 + follower.thinned(), samples.len() as u64);
        ratio = ratio.max(*weights.iter().max().expect("some"));
        sums.push(weights.iter().sum::<u64>() as f64 / samples.len() as f64);
    }
    let mean = sums.iter().sum::<f64>() / 200.0;
    let spread = (sums.iter().map(|s| (s - mean).powi(2)).sum::<f64>() / 200.0).sqrt();
    // 14 times as many as there is room for.
    assert!((mean - 1.0).abs() < 3.0 * spread / 200_f64.sqrt(), "{mean} ± {spread}");
    assert!(spread < 0.15 && ratio <= 64, "{spread}, {ratio}");
}

/// Memory that changes between two reads.
struct Racing<'m> {
    memory: RefCell<&'m mut FakeMemory>,
    /// What happens before the read of this number: address, value, size.
    changes: Vec<(u32, u64, u64, usize)>,
    reads: Cell<u32>,
}

impl Memory for Racing<'_> {
    fn read(&self, address: u64, buf: &mut [u8]) -> Result<(), MemoryError> {
        let n = self.reads.get();
        self.reads.set(n + 1);
        for (_, at, value, size) in self.changes.iter().filter(|c| c.0 == n) {
            self.memory.borrow_mut().put(*at, *value, *size);
        }
        self.memory.borrow().read(address, buf)
    }
}

#[test]
fn a_sweep_under_the_look_is_no_death() {
    // An object of the last generation: its bit is 0 in the bits of before the sweep, 1 after it.
    let prepare = || {
        let mut go = Go::new("go1.27.3", &[KINDS[1]]);
        let mut follower = go.follower(10);
        let sample = go.allocate(0).expect("room");
        follower.follow(sample);
        follower.look(&go.memory).expect("reads");
        go.collect();
        (go, follower)
    };
    let field = |go: &Go, name| {
        let f = go.offsets.field("runtime.mspan", name).expect("known");
        (Go::span_at(0) + u64::from(f.off), f.size as usize)
    };
    for at in 0..6 {
        // Seen by halves: the generation of after the sweep, the bits of before it; the rest comes
        // before the `at`th read.
        let (mut go, mut follower) = prepare();
        let (generation, bits) = (field(&go, "sweepgen"), field(&go, "allocBits"));
        go.memory.put(generation.0, u64::from(go.generation), generation.1);
        go.memory.put(Go::bits_at(0, true), 1, 8);
        let changes = vec![(at, bits.0, Go::bits_at(0, true), bits.1)];
        let racing = Racing { memory: RefCell::new(&mut go.memory), changes, reads: Cell::new(0) };
        let out = follower.look(&racing).expect("reads");
        // A sweep that never ends is none: what comes too late for this look does not count.
        if at < 4 {
            assert_eq!(out.died, [], "{at}");
        }
        let out = follower.look(&go.memory).expect("reads");
        if at < 4 {
            assert_eq!((out.alive.objects, out.died.len()), (1, 0), "{at}");
        }
    }
    // A collection that ends meanwhile: the answers are dropped.
    let (mut go, mut follower) = prepare();
    go.sweep_all();
    let f = go.offsets.field("runtime.mheap", "sweepgen").expect("known");
    let at = BIAS + MHEAP + u64::from(f.off);
    let changes = vec![(2, at, u64::from(go.generation + 2), 4)];
    let racing = Racing { memory: RefCell::new(&mut go.memory), changes, reads: Cell::new(0) };
    let out = follower.look(&racing).expect("reads");
    assert!(out.moved && out.died.is_empty() && out.unswept.objects == 1, "{out:?}");
}

#[test]
fn memory_that_is_not_there_is_no_death() {
    let mut go = Go::new("go1.27.3", &KINDS);
    let mut follower = go.follower(100);
    (0..KINDS.len()).for_each(|n| follower.follow(go.allocate(n).expect("room")));
    follower.look(&go.memory).expect("reads");
    go.collect();
    go.sweep_all();
    for lost in [SPANS, BITS] {
        let ranges = go.memory.ranges.iter().filter(|r| r.0 != lost).cloned().collect();
        let hole = FakeMemory { ranges, ..FakeMemory::default() };
        let out = follower.look(&hole).expect("reads");
        assert_eq!((out.unreadable.objects, out.died.len()), (5, 0), "{out:?}");
    }
    let out = follower.look(&go.memory).expect("reads");
    assert_eq!(out.alive.objects, 5);
    assert!(follower.look(&FakeMemory::default()).is_err());
}

#[derive(Clone, Debug)]
enum Step {
    Allocate(prop::sample::Index),
    Drop(prop::sample::Index),
    Collect,
    Sweep(prop::sample::Index),
    SweepAll,
    Look,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        8 => any::<prop::sample::Index>().prop_map(Step::Allocate),
        6 => any::<prop::sample::Index>().prop_map(Step::Drop),
        2 => Just(Step::Collect),
        2 => any::<prop::sample::Index>().prop_map(Step::Sweep),
        1 => Just(Step::SweepAll),
        3 => Just(Step::Look),
    ];
    proptest::collection::vec(step, 1..120)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    /// Whatever a program does, and whenever it is looked at.
    #[test]
    fn answers_are_true(
        steps in steps(),
        version in 0..3_usize,
        capacity in prop_oneof![Just(8_usize), Just(1000)],
    ) {
        let kinds = [KINDS[2], KINDS[3], KINDS[4], KINDS[4], KINDS[2]];
        let mut go = Go::new(VERSIONS[version], &kinds);
        let mut follower = go.follower(capacity);
        // Generations in which each object had a definite look.
        let mut looked: BTreeMap<u64, BTreeSet<u32>> = BTreeMap::new();
        let mut live: Vec<u64> = Vec::new();
        for step in steps {
            match step {
                Step::Allocate(n) => {
                    if let Some(sample) = go.allocate(n.index(kinds.len())) {
                        follower.follow(sample);
                        live.push(sample.id);
                    }
                }
                Step::Drop(n) if !live.is_empty() => {
                    let id = live.swap_remove(n.index(live.len()));
                    go.drop(id);
                }
                Step::Drop(_) => {}
                Step::Collect => go.collect(),
                Step::Sweep(n) => go.sweep(n.index(kinds.len())),
                Step::SweepAll => go.sweep_all(),
                Step::Look => {
                    let swept: Vec<bool> = (0..kinds.len()).map(|n| go.is_swept(n)).collect();
                    let out = follower.look(&go.memory).expect("reads");
                    prop_assert!(!out.moved && out.unusable.objects == 0);
                    for death in &out.died {
                        let truth = go.truth[&death.sample.id];
                        prop_assert!(truth.reached < go.generation, "wrong dead: {death:?} {truth:?}");
                    }
                    for followed in follower.followed() {
                        let (id, born) = (followed.sample.id, followed.sample.generation);
                        let truth = go.truth[&id];
                        if swept[truth.span] {
                            looked.entry(id).or_default().insert(go.generation);
                        }
                        let missed = (born + 2..=go.generation).step_by(2)
                            .any(|g| !looked.get(&id).is_some_and(|l| l.contains(&g)));
                        match followed.answer {
                            Answer::Live => prop_assert_eq!(truth.reached, go.generation),
                            Answer::Unknown(Why::Missed(_)) => prop_assert!(missed),
                            Answer::Unknown(Why::Unswept) => prop_assert!(!swept[truth.span]),
                            Answer::Unknown(Why::Young) => prop_assert_eq!(born, go.generation),
                            other => prop_assert!(false, "{other:?}"),
                        }
                    }
                }
            }
        }
    }

    #[test]
    fn hostile_memory_is_handled(
        edits in proptest::collection::vec(
            (any::<prop::sample::Index>(), any::<prop::sample::Index>(), any::<u64>()), 1..300)
    ) {
        let mut go = Go::new("go1.27.3", &KINDS);
        let mut follower = go.follower(1000);
        (0..400).filter_map(|n| go.allocate(n % KINDS.len())).for_each(|s| follower.follow(s));
        go.collect();
        for chunk in edits.chunks(50) {
            for (range, at, value) in chunk {
                let ranges = go.memory.ranges.len();
                let (_, bytes) = &mut go.memory.ranges[range.index(ranges)];
                let at = at.index(bytes.len().min(0x1000) / 8) * 8;
                bytes[at..at + 8].copy_from_slice(&value.to_le_bytes());
            }
            let _ = follower.look(&go.memory);
        }
    }
}
