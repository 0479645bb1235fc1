//! Reading goroutines from memory that changes, lies or is not there.

use std::cell::{Cell, RefCell};
use std::sync::OnceLock;
use std::time::Duration;

use proptest::prelude::*;

use super::super::gs::{RUNNABLE, WAITING};
use super::*;
use crate::go::offsets::Offsets;
use crate::go::version::GoVersion;

const LIST: ListAt = ListAt { length: 0x1000, header: 0x1008 };
const ARRAY: u64 = 0x10_0000;
const HEAP: u64 = 0xc000_0000_0000 >> 8;

fn offsets() -> &'static Offsets {
    static OFFSETS: OnceLock<Offsets> = OnceLock::new();
    let version = || GoVersion::parse("go1.27.3").expect("parses");
    OFFSETS.get_or_init(|| Offsets::for_version(&version()))
}

/// Called before each read: number of the read, memory.
type Meddler = Box<dyn Fn(u64, &mut Sparse)>;

/// Memory in 64-byte pieces.
#[derive(Default)]
struct Sparse(HashMap<u64, [u8; 64]>);

impl Sparse {
    fn write(&mut self, address: u64, bytes: &[u8]) {
        for (at, byte) in (address..).zip(bytes) {
            self.0.entry(at / 64).or_insert([0; 64])[(at % 64) as usize] = *byte;
        }
    }

    fn word(&mut self, address: u64, value: u64) {
        self.write(address, &value.to_le_bytes());
    }

    fn set(&mut self, g: u64, field: &str, value: u64) {
        let field = offsets().field("runtime.g", field).expect("known");
        self.write(g + u64::from(field.off), &value.to_le_bytes()[..field.size as usize]);
    }

    /// A goroutine that waits.
    fn goroutine(&mut self, g: u64, id: u64) {
        self.write(g, &[0; 512]);
        for (field, value) in [
            ("goid", id),
            ("atomicstatus", 4),
            ("waitreason", 19),
            ("gopc", 0x40_1005),
            ("stack.lo", HEAP + 0x10_0000),
            ("stack.hi", HEAP + 0x10_0800),
        ] {
            self.set(g, field, value);
        }
    }

    fn list(&mut self, gs: &[u64]) {
        self.word(LIST.length, gs.len() as u64);
        self.word(LIST.header, ARRAY);
        for (i, g) in (0..).zip(gs) {
            self.word(ARRAY + i * 8, *g);
        }
    }
}

struct Fake {
    memory: RefCell<Sparse>,
    meddler: Meddler,
    reads: Cell<u64>,
}

impl Fake {
    fn new(memory: Sparse, meddler: impl Fn(u64, &mut Sparse) + 'static) -> Self {
        Self { memory: RefCell::new(memory), meddler: Box::new(meddler), reads: Cell::new(0) }
    }
}

impl Memory for Fake {
    fn read(&self, address: u64, buf: &mut [u8]) -> Result<(), MemoryError> {
        let mut memory = self.memory.borrow_mut();
        (self.meddler)(self.reads.get(), &mut memory);
        self.reads.set(self.reads.get() + 1);
        for (at, byte) in (address..).zip(buf) {
            let piece = memory.0.get(&(at / 64)).ok_or(MemoryError::Unmapped(at))?;
            *byte = piece[(at % 64) as usize];
        }
        Ok(())
    }

    fn wait(&self, _: Duration) {}
}

#[derive(Default)]
struct Taken(Vec<(Goroutine, bool)>);

impl Visitor for Taken {
    fn look(&mut self, _: &[Goroutine]) {}

    fn take(&mut self, goroutine: Goroutine, held: Option<usize>) {
        self.0.push((goroutine, held.is_some()));
    }
}

fn census(memory: &Fake) -> Result<(Vec<(Goroutine, bool)>, ReadStats), CensusError> {
    let mut stats = ReadStats::default();
    let layout = Layout::of(offsets())?;
    let list = list(memory, LIST, &mut stats)?;
    let mut taken = Taken::default();
    read(memory, &layout, &list, Pace::start(), &mut stats, &mut taken)?;
    Ok((taken.0, stats))
}

fn sparse(gs: &[u64]) -> Sparse {
    let mut memory = Sparse::default();
    memory.list(gs);
    for (id, g) in (1..).zip(gs) {
        memory.goroutine(*g, id);
    }
    memory
}

#[test]
fn all_are_read_wherever_they_are() {
    // Neighbours, a gap, far away, and not in the order of their addresses.
    let gs = [HEAP + 0x200_0000, HEAP, HEAP + 512, HEAP + 1024, HEAP + 8192, HEAP + 0x100_0000];
    let (taken, stats) = census(&Fake::new(sparse(&gs), |_, _| {})).expect("reads");
    let mut ids: Vec<u64> = taken.iter().map(|(g, _)| g.id).collect();
    ids.sort_unstable();
    assert_eq!(ids, [1, 2, 3, 4, 5, 6]);
    assert!(taken.iter().all(|(g, held)| {
        *held && gs[g.id as usize - 1] == g.address && g.created_at == 0x40_1005
    }));
    assert_eq!(stats, ReadStats { listed: 6, ..ReadStats::default() });
}

#[test]
fn the_dead_and_the_impossible_are_not_counted_as_goroutines() {
    let gs: Vec<u64> = (0..10).map(|i| HEAP + i * 512).collect();
    let mut memory = sparse(&gs);
    memory.set(gs[8], "goid", 0);
    memory.set(gs[9], "stack.hi", 0);
    memory.set(gs[1], "atomicstatus", 6);
    memory.set(gs[2], "atomicstatus", 0x1004);
    memory.set(gs[3], "atomicstatus", 77);
    // Null, unaligned, twice, not mapped.
    memory.word(ARRAY + 4 * 8, 0);
    memory.word(ARRAY + 5 * 8, HEAP + 3);
    memory.word(ARRAY + 6 * 8, gs[0]);
    memory.word(ARRAY + 7 * 8, HEAP + 0x4000_0000);
    let (taken, stats) = census(&Fake::new(memory, |_, _| {})).expect("reads");
    assert_eq!(taken.len(), 2, "the first, and the one that is being scanned");
    assert!(taken.iter().all(|(g, _)| g.status == Some(WAITING)));
    let expected =
        ReadStats { listed: 10, dead: 1, implausible: 6, unreadable: 1, ..ReadStats::default() };
    assert_eq!(stats, expected);
}

#[test]
fn what_changed_while_it_was_read_is_read_again() {
    let gs = [HEAP, HEAP + 512];
    // Reads 0 to 3 are of the list; then both goroutines, twice.
    let memory = Fake::new(sparse(&gs), move |n, memory| {
        if n == 5 {
            memory.set(gs[1], "atomicstatus", u64::from(RUNNABLE));
        }
    });
    let (taken, stats) = census(&memory).expect("reads");
    let found: Vec<_> = taken.iter().map(|(g, held)| (g.id, g.status, *held)).collect();
    assert_eq!(found, [(1, Some(WAITING), true), (2, Some(RUNNABLE), false)]);
    assert_eq!((stats.changed, stats.restless, stats.torn), (1, 0, 0));
}

#[test]
fn a_state_that_never_holds_is_not_a_fact() {
    let memory = Fake::new(sparse(&[HEAP]), |n, memory| {
        memory.set(HEAP, "atomicstatus", 1 + n % 2);
    });
    let (taken, stats) = census(&memory).expect("reads");
    assert_eq!(taken.len(), 1);
    assert_eq!((taken[0].0.id, taken[0].0.status, taken[0].1), (1, None, false));
    assert_eq!((stats.changed, stats.restless, stats.torn), (1, 1, 0));
}

#[test]
fn a_struct_that_is_another_goroutine_with_every_look_is_not_counted() {
    let memory = Fake::new(sparse(&[HEAP]), |n, memory| memory.set(HEAP, "goid", n + 1));
    let (taken, stats) = census(&memory).expect("reads");
    assert_eq!(taken.len(), 0);
    assert_eq!((stats.changed, stats.restless, stats.torn), (1, 0, 1));
}

#[test]
fn a_list_that_grows_is_read_again() {
    let (old, new) = (HEAP, HEAP + 512);
    let mut memory = sparse(&[old]);
    memory.goroutine(new, 2);
    let grows = |every: bool| {
        move |n: u64, memory: &mut Sparse| {
            if n == 3 || every {
                // A new array in another place, as append makes it.
                let array = ARRAY + 0x10_0000 + n * 64;
                memory.word(array, old);
                memory.word(array + 8, new);
                memory.word(LIST.header, array);
                memory.word(LIST.length, 2);
            }
        }
    };
    let (taken, stats) = census(&Fake::new(memory, grows(false))).expect("reads");
    assert_eq!((taken.len(), stats.listed), (2, 2));
    let error = census(&Fake::new(sparse(&[old]), grows(true))).expect_err("never holds still");
    assert!(matches!(error, CensusError::Restless), "{error}");
}

#[test]
fn a_list_that_is_none_is_an_error() {
    for (length, array) in
        [(0, ARRAY), (1 << 45, ARRAY), (3, 0), (3, 8), (3, u64::MAX - 7), (9, 0xdead_0000)]
    {
        let mut memory = sparse(&[HEAP]);
        memory.word(LIST.length, length);
        memory.word(LIST.header, array);
        let error = census(&Fake::new(memory, |_, _| {})).expect_err("no list");
        assert!(matches!(error, CensusError::List { .. }), "{error}");
    }
}

#[test]
fn a_list_of_garbage_ends_the_census() {
    let gs: Vec<u64> = (0..2 * MAX_BAD).map(|i| HEAP + i * 8).collect();
    let mut memory = Sparse::default();
    memory.list(&gs);
    let memory = Fake::new(memory, |_, _| {});
    assert!(matches!(census(&memory), Err(CensusError::Damaged { .. })));
    assert!(memory.reads.get() < 6 * MAX_BAD, "{}", memory.reads.get());
}

proptest! {
    #[test]
    fn nothing_is_lost_of_any_list(
        entries in proptest::collection::vec(0..4000_u64, 1..100),
        stride in 1..80_u64,
    ) {
        let gs: Vec<u64> = entries.iter().map(|e| HEAP + e * 8 * stride).collect();
        let mut memory = Sparse::default();
        memory.list(&gs);
        for g in &gs {
            memory.goroutine(*g, 7);
        }
        // Where they overlap, whatever is there.
        let (taken, stats) = census(&Fake::new(memory, |_, _| {})).expect("reads");
        let told = taken.len() as u64 + stats.dead + stats.implausible + stats.unreadable;
        prop_assert_eq!(told, stats.listed);
        prop_assert_eq!(stats.listed, gs.len() as u64);
    }
}
