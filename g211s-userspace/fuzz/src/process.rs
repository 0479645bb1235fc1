//! A Go process made of a few pages: right in every respect, as the live checks want it, until an
//! input says what is wrong with it. Pages are shared by all inputs and copied when one is written to,
//! so an input costs what it changes. Must not know what reads it.

use std::cell::{Cell, RefCell};
use std::collections::{HashMap, HashSet};
use std::time::Duration;

use g211s::go::globals::Global;
use g211s::go::offsets::Offsets;
use g211s::go::version::GoVersion;
use g211s::runtime::buckets;
use g211s::runtime::memory::{Memory, MemoryError};

/// Releases whose layouts differ.
pub const VERSIONS: [&str; 7] =
    ["go1.21.13", "go1.22.10", "go1.23.9", "go1.24.11", "go1.25.5", "go1.26.6", "go1.27.3"];
/// What the loader added to the executable's addresses.
pub const BIAS: u64 = 0x5555_0000_0000;
/// Where the one span of the heap begins, in the arena of number 4.
pub const FIRST_SPAN: u64 = 0xffff_8000_0000_0000 + (4 << 26) + 2 * 8192;

const PAGE: usize = 4096;
/// Collections so far.
const COLLECTIONS: u64 = 8;
/// Reads that one input may cause, and bytes: a walk in circles ends with memory that is not there.
const MAX_READS: u32 = 20_000;
const MAX_BYTES: usize = 16 << 20;

/// Where the variables are in the file.
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
const HEAP: u64 = 0xc000_0000_0000;
const GS: u64 = HEAP;
const MS: u64 = HEAP + 0x10_0000;
const PS: u64 = HEAP + 0x20_0000;
const ARRAYS: u64 = HEAP + 0x30_0000;
const ARENA: u64 = HEAP + 0x40_0000;
const SPAN: u64 = HEAP + 0x80_0000;
const BUCKET: u64 = HEAP + 0x90_0000;
const STACKS: u64 = HEAP + 0xa0_0000;
/// `allgs`, `allp`, the first level of arenas, the list of arenas.
const ALLGS: u64 = ARRAYS;
const ALLP: u64 = ARRAYS + 0x400;
const ARENAS: u64 = ARRAYS + 0x800;
const ARENA_LIST: u64 = ARRAYS + 0xc00;
/// Goroutines, threads, Ps, and how far one struct is from the next.
const GOROUTINES: u64 = 12;
const THREADS: u64 = 3;
const PROCESSORS: u64 = 2;
const G_STRIDE: u64 = 480;
const M_STRIDE: u64 = 0x1000;
const P_STRIDE: u64 = 0x4000;
const STACK: u64 = 0x800;

/// Structs whose fields an input can name: where the first is, how many there are, how far apart.
const STRUCTS: [(&str, u64, u64, u64); 11] = [
    ("runtime.g", GS, GOROUTINES, G_STRIDE),
    ("runtime.m", MS, THREADS, M_STRIDE),
    ("runtime.p", PS, PROCESSORS, P_STRIDE),
    ("runtime.schedt", BIAS + 0x10_0000, 1, 0),
    ("runtime.mstats", BIAS + 0x20_0000, 1, 0),
    ("runtime.heapStatsDelta", BIAS + 0x20_0000, 1, 0),
    ("runtime.gcControllerState", BIAS + 0x30_0000, 1, 0),
    ("runtime.mheap", BIAS + 0x40_0000, 1, 0),
    ("runtime.mspan", SPAN, 1, 0),
    ("runtime.bucket", BUCKET, 1, 0),
    ("runtime.workType", BIAS + 0x60_0000, 1, 0),
];
/// Places that an input can write to, word by word, or take away, page by page.
const REGIONS: [u64; 15] = [
    GS,
    MS,
    PS,
    ALLGS,
    ALLP,
    ARENAS,
    ARENA,
    SPAN,
    BUCKET,
    STACKS,
    BIAS + 0x10_0000,
    BIAS + 0x20_0000,
    BIAS + 0x30_0000,
    BIAS + 0x40_0000,
    BIAS + 0x50_0000,
];

/// Pages by their number.
type Pages = HashMap<u64, Box<[u8; PAGE]>>;

/// A Go version's process as it ought to be.
#[derive(Debug)]
pub struct Image {
    /// Its layout.
    pub offsets: Offsets,
    /// Functions' entries, which goroutines begin at and stacks lead through, in the process.
    code: Vec<u64>,
    /// Where the code records into histograms.
    pub histograms: Vec<u64>,
    /// Each struct's fields: offset and size.
    fields: Vec<Vec<(u64, usize)>>,
    pages: Pages,
}

impl Image {
    /// Of a version; `code`: entries of functions, addresses of the file.
    pub fn new(version: &str, code: &[u64]) -> Self {
        let version = GoVersion::parse(version).expect("a version");
        let offsets = Offsets::for_version(&version);
        let fields = STRUCTS.map(|(strukt, ..)| {
            let mut fields: Vec<(u64, usize)> = offsets
                .fields(strukt)
                .map(|(_, f)| (u64::from(f.off), f.size.min(8) as usize))
                .collect();
            fields.sort_unstable();
            fields
        });
        let mut image = Self {
            offsets,
            code: code.iter().map(|at| at + BIAS).collect(),
            histograms: Vec::new(),
            fields: fields.to_vec(),
            pages: Pages::new(),
        };
        image.fill();
        image
    }

    /// Where the variables are.
    pub fn places() -> &'static [(Global, u64)] {
        &PLACES
    }

    fn at(global: Global) -> u64 {
        BIAS + PLACES.iter().find(|(g, _)| *g == global).expect("placed").1
    }

    fn put(&mut self, address: u64, value: u64, size: usize) {
        for (at, byte) in (address..).zip(&value.to_le_bytes()[..size]) {
            let page = self.pages.entry(at / PAGE as u64).or_insert_with(|| Box::new([0; PAGE]));
            page[at as usize % PAGE] = *byte;
        }
    }

    fn map(&mut self, address: u64, len: usize) {
        for page in 0..(len / PAGE) as u64 {
            self.put(address + page * PAGE as u64, 0, 1);
        }
    }

    fn set(&mut self, base: u64, strukt: &str, field: &str, value: u64) {
        if let Some(f) = self.offsets.field(strukt, field) {
            self.put(base + u64::from(f.off), value, f.size.min(8) as usize);
        }
    }

    /// Variables of one struct each.
    fn variable(&mut self, global: Global, strukt: &str, fields: &[(&str, u64)]) {
        for (field, value) in fields {
            self.set(Self::at(global), strukt, field, *value);
        }
    }

    fn histogram(&mut self, global: Global, strukt: &str, field: &str, counts: u64) {
        if let Some(f) = self.offsets.field(strukt, field) {
            let at = Self::at(global) + u64::from(f.off);
            self.histograms.push(at - BIAS);
            self.set(at, "runtime.timeHistogram", "counts", counts);
        }
    }

    /// What `g211s`'s live checks want (`runtime/checks.rs`).
    fn fill(&mut self) {
        for (_, place) in PLACES.iter().filter(|(_, place)| place % 0x1_0000 == 0) {
            self.map(BIAS + place, 0x2_0000);
        }
        self.map(ARENA, 0x12_0000);
        for at in [GS, MS, PS, PS + P_STRIDE, ARRAYS, SPAN, BUCKET] {
            self.map(at, 0x4000);
        }
        self.map(STACKS, (GOROUTINES * STACK) as usize);
        self.counters();
        self.goroutines();
        self.threads();
        self.spans();
        self.put(Self::at(Global::MemProfileRate), 512 << 10, 8);
        self.put(Self::at(Global::Mbuckets), BUCKET, 8);
        self.set(BUCKET, "runtime.bucket", "typ", 1);
        self.set(BUCKET, "runtime.bucket", "nstk", 7);
        self.set(BUCKET, "runtime.bucket", "size", 48);
        self.set(BUCKET, "runtime.bucket", "hash", buckets::hash(&[0; 7], 48));
    }

    fn counters(&mut self) {
        let (sched, memstats) = ("runtime.schedt", "runtime.mstats");
        self.variable(Global::Sched, sched, &[("maxmcount", 10_000), ("mnext", THREADS)]);
        for field in ["timeToRun", "stwTotalTimeOther", "stwStoppingTimeOther"] {
            self.histogram(Global::Sched, sched, field, 5);
        }
        for field in ["stwTotalTimeGC", "stwStoppingTimeGC"] {
            self.histogram(Global::Sched, sched, field, 2 * COLLECTIONS);
        }
        self.histogram(Global::Memstats, memstats, "gcPauseDist", 2 * COLLECTIONS);
        let gc = [
            ("numgc", COLLECTIONS),
            ("last_gc_unix", 777),
            ("pause_total_ns", 100),
            ("pause_ns", 100),
        ];
        self.variable(Global::Memstats, memstats, &gc);
        if let Some(ends) = self.offsets.field(memstats, "pause_end") {
            let last = Self::at(Global::Memstats) + u64::from(ends.off) + (COLLECTIONS - 1) * 8;
            self.put(last, 777, 8);
        }
        let heap = [("committed", 50 << 20), ("inHeap", 40 << 20), ("released", 4096)];
        self.variable(Global::Memstats, "runtime.heapStatsDelta", &heap);
        let controller = [
            ("gcPercent", 100),
            ("memoryLimit", i64::MAX as u64),
            ("heapInUse", 40 << 20),
            ("heapReleased", 4096),
            ("heapLive", 30 << 20),
            ("totalAlloc", 90 << 20),
        ];
        self.variable(Global::GcController, "runtime.gcControllerState", &controller);
        self.variable(Global::Work, "runtime.workType", &[("cycles", COLLECTIONS)]);
    }

    fn goroutines(&mut self) {
        for (offset, value) in [(0, ALLGS), (8, GOROUTINES), (16, GOROUTINES + 4)] {
            self.put(Self::at(Global::Allgs) + offset, value, 8);
        }
        self.put(Self::at(Global::Allglen), GOROUTINES, 8);
        for i in 0..GOROUTINES {
            let (g, low) = (GS + i * G_STRIDE, STACKS + i * STACK);
            self.put(ALLGS + i * 8, g, 8);
            // Waiting, but for one that is dead, one in a system call and one that runs.
            let status = match i {
                5 => 6,
                7 => 3,
                8 => 2,
                _ => 4,
            };
            let start = self.code[i as usize % self.code.len()];
            let (sp, pc) = (low + STACK - 0x100, start + 1);
            for (field, value) in [
                ("goid", i + 1),
                ("atomicstatus", status),
                ("waitreason", 3 + i % 3),
                ("waitsince", i % 2 * 1000),
                ("gopc", start + 2),
                ("startpc", start),
                ("stack.lo", low),
                ("stack.hi", low + STACK),
                ("sched.sp", sp),
                ("sched.pc", pc),
                ("sched.bp", sp + 0x40),
                ("syscallpc", if status == 3 { pc } else { 0 }),
                ("syscallsp", if status == 3 { sp } else { 0 }),
                ("syscallbp", if status == 3 { sp + 0x40 } else { 0 }),
            ] {
                self.set(g, "runtime.g", field, value);
            }
            // Frame pointers and return addresses in turn: whatever a frame's size is, something
            // like a caller is above it.
            for word in 0..0x100 / 8 {
                let value = if word % 2 == 0 {
                    sp + 0x40 + word * 8
                } else {
                    self.code[word as usize % self.code.len()] + 1
                };
                self.put(sp + word * 8, value, 8);
            }
        }
    }

    fn threads(&mut self) {
        self.put(Self::at(Global::Allm), MS, 8);
        for i in 0..THREADS {
            let (m, g0) = (MS + i * M_STRIDE, GS + i * G_STRIDE + 0x2000);
            let next = if i + 1 < THREADS { m + M_STRIDE } else { 0 };
            for (field, value) in
                [("id", THREADS - 1 - i), ("procid", 70 + i), ("g0", g0), ("alllink", next)]
            {
                self.set(m, "runtime.m", field, value);
            }
            self.set(g0, "runtime.g", "m", m);
        }
        for (offset, value) in [(0, ALLP), (8, PROCESSORS), (16, PROCESSORS)] {
            self.put(Self::at(Global::Allp) + offset, value, 8);
        }
        self.put(Self::at(Global::Gomaxprocs), PROCESSORS, 4);
        for i in 0..PROCESSORS {
            let p = PS + i * P_STRIDE;
            self.put(ALLP + i * 8, p, 8);
            for (field, value) in [("id", i), ("status", 1), ("m", MS + i * M_STRIDE)] {
                self.set(p, "runtime.p", field, value);
            }
        }
    }

    fn spans(&mut self) {
        let heap = Self::at(Global::Mheap);
        self.set(heap, "runtime.mheap", "sweepgen", 2 * COLLECTIONS);
        self.set(heap, "runtime.mheap", "arenas", ARENAS);
        for list in ["heapArenas", "allArenas"] {
            if let Some(f) = self.offsets.field("runtime.mheap", list) {
                self.put(heap + u64::from(f.off), ARENA_LIST, 8);
                self.put(heap + u64::from(f.off) + 8, 1, 8);
            }
        }
        self.put(ARENA_LIST, 4, 8);
        self.put(ARENAS + 4 * 8, ARENA, 8);
        let spans = self.offsets.field("runtime.heapArena", "spans").expect("known").off;
        self.put(ARENA + u64::from(spans) + 3 * 8, SPAN, 8);
        let span = [
            ("startAddr", FIRST_SPAN),
            ("npages", 2),
            ("state", 1),
            ("elemsize", 2048),
            ("nelems", 8),
            ("allocBits", SPAN + 0x800),
            ("sweepgen", 2 * COLLECTIONS),
        ];
        for (field, value) in span {
            self.set(SPAN, "runtime.mspan", field, value);
        }
    }
}

/// A change of so many bytes of a value at an address.
type Change = (u64, u64, usize);

/// An image, with what an input changed of it: before it is looked at, and while it is.
#[derive(Debug)]
pub struct Process<'i> {
    image: &'i Image,
    written: RefCell<Pages>,
    missing: HashSet<u64>,
    /// By number of the read before which it happens, descending.
    later: RefCell<Vec<(u32, Change)>>,
    threads: Option<Vec<u64>>,
    reads: Cell<u32>,
    bytes: Cell<usize>,
}

/// The input's bytes, from the front.
struct Input<'b>(&'b [u8]);

impl Input<'_> {
    fn bytes<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (head, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(*head)
    }

    fn byte(&mut self) -> Option<u8> {
        self.bytes().map(|[b]| b)
    }

    fn index(&mut self, len: usize) -> Option<usize> {
        (len > 0).then_some(usize::from(self.byte()?) % len.max(1))
    }

    /// A word: small, any, a power of two and its neighbours, or a place in the process.
    fn value(&mut self, code: &[u64]) -> Option<u64> {
        let kind = self.byte()?;
        Some(match kind % 8 {
            0 => u64::from(self.byte()?),
            1 => u64::from_le_bytes(self.bytes()?),
            2 => {
                (1_u64 << (self.byte()? % 64)).wrapping_add(u64::from(kind / 8 % 3)).wrapping_sub(1)
            }
            3 => REGIONS[self.index(REGIONS.len())?].wrapping_add(u64::from(self.byte()?) * 8),
            4 => {
                let (_, base, many, stride) = STRUCTS[self.index(STRUCTS.len())?];
                base + u64::from(self.byte()?) % many * stride
            }
            5 => code[self.index(code.len())?].wrapping_add(u64::from(kind / 8)),
            6 => {
                STACKS + u64::from(u16::from_le_bytes(self.bytes()?)) % (GOROUTINES * STACK) / 8 * 8
            }
            _ => u64::MAX - u64::from(kind / 8),
        })
    }

    fn change(&mut self, image: &Image) -> Option<Change> {
        let which = self.byte()?;
        let (at, size) = if which & 1 == 0 {
            let index = usize::from(which / 2) % STRUCTS.len();
            let (_, base, many, stride) = STRUCTS[index];
            let base = base + u64::from(self.byte()?) % many * stride;
            let fields = &image.fields[index];
            let (off, size) = fields[self.index(fields.len())?];
            (base + off, size)
        } else {
            let base = REGIONS[usize::from(which / 2) % REGIONS.len()];
            (base + u64::from(u16::from_le_bytes(self.bytes()?)) % 0x2000 * 8, 8)
        };
        Some((at, self.value(&image.code)?, size))
    }
}

impl<'i> Process<'i> {
    /// Reads what is wrong out of an input, to its end.
    pub fn new(image: &'i Image, input: &[u8]) -> Self {
        let mut this = Self {
            image,
            written: RefCell::default(),
            missing: HashSet::new(),
            later: RefCell::default(),
            threads: Some((70..80).collect()),
            reads: Cell::new(0),
            bytes: Cell::new(0),
        };
        let mut input = Input(input);
        while this.apply(&mut input).is_some() {}
        this.later.get_mut().sort_by_key(|(when, _)| std::cmp::Reverse(*when));
        this
    }

    fn apply(&mut self, input: &mut Input<'_>) -> Option<()> {
        match input.byte()? % 8 {
            0..=3 => {
                let change = input.change(self.image)?;
                self.write(change);
            }
            4 | 5 => {
                let when = u16::from_le_bytes(input.bytes()?);
                let change = input.change(self.image)?;
                self.later.get_mut().push((u32::from(when), change));
            }
            6 => {
                let at = REGIONS[input.index(REGIONS.len())?];
                self.missing.insert(at / PAGE as u64 + u64::from(input.byte()? % 32));
            }
            _ => {
                let many = input.byte()?;
                self.threads = (many < 200).then(|| (70..70 + u64::from(many)).collect());
            }
        }
        Some(())
    }

    fn write(&self, (address, value, size): Change) {
        let mut written = self.written.borrow_mut();
        for (i, byte) in value.to_le_bytes()[..size].iter().enumerate() {
            let at = address.wrapping_add(i as u64);
            let number = at / PAGE as u64;
            let Some(original) = self.image.pages.get(&number) else { return };
            written.entry(number).or_insert_with(|| original.clone())[at as usize % PAGE] = *byte;
        }
    }
}

impl Memory for Process<'_> {
    fn read(&self, address: u64, buf: &mut [u8]) -> Result<(), MemoryError> {
        self.reads.set(self.reads.get() + 1);
        self.bytes.set(self.bytes.get().saturating_add(buf.len()));
        if self.reads.get() > MAX_READS || self.bytes.get() > MAX_BYTES {
            return Err(MemoryError::Gone);
        }
        loop {
            let mut later = self.later.borrow_mut();
            let Some(due) = later.pop_if(|(when, _)| *when <= self.reads.get()) else { break };
            drop(later);
            self.write(due.1);
        }
        let written = self.written.borrow();
        let (mut at, mut rest) = (address, buf);
        while !rest.is_empty() {
            let (number, offset) = (at / PAGE as u64, at as usize % PAGE);
            let page = written.get(&number).or_else(|| self.image.pages.get(&number));
            let page = page.filter(|_| !self.missing.contains(&number));
            let page = page.ok_or(MemoryError::Unmapped(at))?;
            let (part, more) = rest.split_at_mut(rest.len().min(PAGE - offset));
            part.copy_from_slice(&page[offset..offset + part.len()]);
            at = at.checked_add(part.len() as u64).ok_or(MemoryError::Unmapped(at))?;
            rest = more;
        }
        Ok(())
    }

    fn threads(&self) -> Option<Vec<u64>> {
        self.threads.clone()
    }

    fn wait(&self, _: Duration) {}
}
