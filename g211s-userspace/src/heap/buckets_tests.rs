use std::cell::{Cell, RefCell};

use super::*;
use crate::go::globals::Globals;
use crate::go::offsets::Offsets;
use crate::go::version::GoVersion;
use crate::runtime::memory::fake::FakeMemory;

const HEAD: u64 = 0x50_0000;
const RATE: u64 = 0x50_0100;
const CYCLE: u64 = 0x50_0200;
const CHUNK: u64 = 0xc000_0000_0000;
/// Bytes from one bucket to the next: over a page's end now and then.
const STRIDE: u64 = 424;

/// A process with some buckets; the list goes from the last to the first.
struct Fake {
    memory: FakeMemory,
    offsets: Offsets,
}

/// Memory of which something changes before the read with a number.
struct Changing {
    memory: RefCell<FakeMemory>,
    reads: Cell<u32>,
    change: fn(&mut FakeMemory, u32),
}

impl Memory for Changing {
    fn read(&self, address: u64, buf: &mut [u8]) -> Result<(), MemoryError> {
        self.reads.set(self.reads.get() + 1);
        (self.change)(&mut self.memory.borrow_mut(), self.reads.get());
        self.memory.borrow().read(address, buf)
    }

    fn wait(&self, _: Duration) {}
}

impl Fake {
    fn new(version: &str, buckets: &[Record]) -> Self {
        let offsets = Offsets::for_version(&GoVersion::parse(version).expect("a version"));
        let mut memory = FakeMemory::default();
        memory.map(HEAD, 0x1000);
        memory.map(CHUNK, 0x10_0000);
        memory.put(RATE, 524_288, 8);
        memory.put(HEAD, CHUNK + STRIDE * (buckets.len() as u64 - 1), 8);
        let mut fake = Self { memory, offsets };
        for (i, record) in buckets.iter().enumerate() {
            let stack: Vec<u64> = (0..3 + i as u64 % 5).map(|n| 0x40_0000 + n * 16).collect();
            let next = if i == 0 { 0 } else { CHUNK + STRIDE * (i as u64 - 1) };
            fake.put(CHUNK + STRIDE * i as u64, next, 48 + i as u64, &stack, *record);
        }
        fake
    }

    fn field(&mut self, at: u64, strukt: &str, field: &str, value: u64) {
        let off = self.offsets.field(strukt, field).expect("known").off;
        self.memory.put(at + u64::from(off), value, 8);
    }

    fn put(&mut self, at: u64, next: u64, size: u64, stack: &[u64], record: Record) {
        for (field, value) in [
            ("allnext", next),
            ("typ", 1),
            ("hash", hash(stack, size)),
            ("size", size),
            ("nstk", stack.len() as u64),
        ] {
            self.field(at, "runtime.bucket", field, value);
        }
        for (pc, to) in stack.iter().zip((at + 48..).step_by(8)) {
            self.memory.put(to, *pc, 8);
        }
        let counts = at + 48 + stack.len() as u64 * 8;
        let each = u64::from(self.offsets.size_of("runtime.memRecordCycle").expect("known"));
        for (cycle, n) in [record.active].iter().chain(&record.future).zip(0..) {
            self.field(counts + n * each, "runtime.memRecordCycle", "allocs", cycle.allocs);
            self.field(counts + n * each, "runtime.memRecordCycle", "frees", cycle.frees);
        }
    }

    fn runtime<M: Memory>(memory: M, offsets: Offsets) -> Runtime<M> {
        let places =
            [(Global::Mbuckets, HEAD), (Global::MemProfileRate, RATE), (Global::ProfCycle, CYCLE)];
        Runtime::with(memory, offsets, Globals::at(&places, &[]), 0)
    }

    fn take(self) -> Result<Snapshot, HeapError> {
        Snapshot::take(&Self::runtime(self.memory, self.offsets))
    }

    fn take_while(self, change: fn(&mut FakeMemory, u32)) -> Result<Snapshot, HeapError> {
        let memory = Changing { memory: self.memory.into(), reads: Cell::new(0), change };
        Snapshot::take(&Self::runtime(memory, self.offsets))
    }
}

fn counts(allocs: u64, frees: u64) -> Counts {
    Counts { allocs, frees }
}

fn records(n: u64) -> Vec<Record> {
    let record = |i: u64| Record {
        active: counts(10 + i, i),
        future: [counts(1, 1), counts(100, 0), counts(7000, 0)],
    };
    (0..n).map(record).collect()
}

#[test]
fn buckets_are_read_in_every_version() {
    for version in ["go1.21.13", "go1.24.11", "go1.26.6", "go1.27.3"] {
        let snapshot = Fake::new(version, &records(500)).take().expect("reads");
        assert_eq!((snapshot.buckets.len(), snapshot.rate), (500, 524_288), "{version}");
        assert_eq!((snapshot.torn, snapshot.readings), (0, 2));
        // The list begins with the newest; cycle 0 is due to be published.
        for (bucket, i) in snapshot.buckets.iter().rev().zip(0..) {
            assert_eq!(bucket.size, 48 + i, "{version}");
            assert_eq!(bucket.counts, counts(11 + i, 1 + i), "{version}");
            assert_eq!(snapshot.stack(bucket).len() as u64, 3 + i % 5);
            assert_eq!(snapshot.stack(bucket)[2], 0x40_0020);
        }
        assert_eq!(snapshot.as_of, AsOf::Unknown, "collections are not known here");
    }
}

#[test]
fn the_cycle_says_what_is_published() {
    let mut fake = Fake::new("go1.27.3", &records(3));
    // Cycle 4, flushed: its place is 4 % 3.
    fake.memory.put(CYCLE, 4 << 1 | 1, 4);
    let snapshot = fake.take().expect("reads");
    assert_eq!(snapshot.buckets[0].counts, counts(112, 2));
}

#[test]
fn before_the_first_collection_all_is_shown() {
    let fresh = Record { future: [counts(0, 0), counts(0, 0), counts(5, 0)], ..Record::default() };
    let snapshot = Fake::new("go1.27.3", &[fresh; 2]).take().expect("reads");
    assert_eq!((snapshot.as_of, snapshot.buckets[0].counts), (AsOf::Now, counts(5, 0)));
}

#[test]
fn an_empty_list_is_no_error() {
    let mut fake = Fake::new("go1.27.3", &records(1));
    fake.memory.put(HEAD, 0, 8);
    let snapshot = fake.take().expect("reads");
    assert_eq!((snapshot.buckets.len(), snapshot.torn), (0, 0));
}

#[test]
fn which_collection_it_is_of() {
    let waiting =
        |n| Record { future: [counts(0, 0), counts(n, 0), counts(9, 9)], ..Record::default() };
    let of = |records: &[Record]| as_of(records, Some(0), Some(7));
    assert_eq!(of(&[waiting(0), waiting(0)]), AsOf::Collection(7, 7));
    assert_eq!(of(&[waiting(0), waiting(1)]), AsOf::Collection(6, 7));
    assert_eq!(as_of(&[], None, Some(7)), AsOf::Unknown);
}

/// What is wrong with the third bucket of five, and what is said of it.
#[test]
fn a_damaged_list_is_refused() {
    type Harm = fn(&mut Fake, u64);
    let cases: [(Harm, &str); 7] = [
        (|f, at| f.field(at, "runtime.bucket", "allnext", at), "leads back"),
        (|f, at| f.field(at, "runtime.bucket", "allnext", at + 2 * STRIDE), "leads back"),
        (|f, at| f.field(at, "runtime.bucket", "typ", 3), "of kind 3"),
        (|f, at| f.field(at, "runtime.bucket", "nstk", u64::MAX), "deep"),
        (|f, at| f.field(at, "runtime.bucket", "size", 7), "hash of another"),
        (|f, at| f.field(at, "runtime.bucket", "allnext", 8), "no memory at 0x8"),
        (|f, at| f.field(at, "runtime.bucket", "allnext", u64::MAX - 3), "no memory"),
    ];
    for (harm, words) in cases {
        let mut fake = Fake::new("go1.27.3", &records(5));
        harm(&mut fake, CHUNK + 2 * STRIDE);
        let why = fake.take().expect_err(words).to_string();
        assert!(why.contains(words), "{why}");
    }
    let freed = Record { active: counts(1, 2), ..Record::default() };
    let why = Fake::new("go1.27.3", &[freed]).take().expect_err("is damaged").to_string();
    assert!(why.contains("more objects were freed"), "{why}");
}

/// The address of a bucket's published allocations, Go 1.27: `i` of [`records`].
fn active_at(i: u64) -> u64 {
    CHUNK + STRIDE * i + 48 + (3 + i % 5) * 8
}

#[test]
fn a_flush_in_between_is_read_again() {
    // Each read of a fake is of one range: the counts of five buckets are five reads. The change comes in the
    // middle of the first reading.
    let snapshot = Fake::new("go1.27.3", &records(5)).take_while(|memory, read| {
        if read == 24 {
            for i in 0..5 {
                memory.put(active_at(i), 1000, 8);
            }
        }
    });
    let snapshot = snapshot.expect("reads");
    assert_eq!(snapshot.torn, 0);
    assert!(snapshot.buckets.iter().all(|b| b.counts.allocs == 1001), "{:?}", snapshot.buckets);
}

#[test]
fn what_never_holds_still_is_told() {
    let snapshot = Fake::new("go1.27.3", &records(5)).take_while(|memory, read| {
        memory.put(active_at(1), 1000 + u64::from(read), 8);
    });
    let snapshot = snapshot.expect("reads");
    assert_eq!((snapshot.torn, snapshot.readings), (1, TRIES));
}
