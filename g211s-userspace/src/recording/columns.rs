//! One block's records as columns: what makes an event cost a few bytes instead of 56. Must not
//! know files, compression or checksums.
//!
//! Fields of one event kind are stored field by field, each as its difference from a prediction
//! that the decoder can make too, so that most become zero: a thread's `since_ns` is the time of
//! its last event, a slice begins where the last one on its CPU ended, a thread keeps its comm. A
//! wrong prediction costs bytes, never correctness. The first column lists the records' tags in
//! their order, so the stream comes back exactly as it went in.
//!
//! ```text
//! block   = column[COLUMNS]          column = len u32, bytes[len]
//! column 0: one tag a record         column 1: JSON records: varint length, text
//! column 2: time stamps of events, zigzag varint of the difference from the event before
//! column 3…: the other fields, kind by kind, in the order of `FIELDS`; varints
//! ```

use std::collections::HashMap;

use g211s_ebpf::event::{
    EventKind, LifeEvent, ProbeEvent, SliceEvent, SpanEvent, StackEvent, ThreadEvent,
};

use super::MAX_JSON;
use crate::event::Event;
use crate::record::Record;

/// Tags below this are [`g211s_ebpf::event::EventKind`]s; from here on, JSON records.
const FIRST_JSON_TAG: u8 = 16;
const COLUMN_TAGS: usize = 0;
const COLUMN_JSON: usize = 1;
const COLUMN_TIME: usize = 2;
const COLUMN_FIELDS: usize = 3;

/// How a field is predicted.
#[derive(Clone, Copy)]
enum Coding {
    /// Not at all: the number itself.
    Plain,
    /// One of few values: its index in the order of first appearance (+1), or 0 and the value.
    Dictionary,
    /// Equal to the same field of the last event of the kind.
    Previous,
    /// Equal to another field of the same event. Must come later than that field.
    Same(Field),
    /// Equal to what the field `.1` was in the last event of the kind with the same `.0`.
    /// `.0` must come earlier.
    Last(Field, Field),
}

/// Where a field is in its event: offset and width in bytes. Small, because the decoder copies them about.
#[derive(Clone, Copy)]
struct Field(u8, u8);

const TS: Field = Field(0, 8);
const TARGET: Field = Field(9, 1);
const CPU: Field = Field(10, 2);
const TID: Field = Field(12, 4);
const SLICE_START: Field = Field(16, 8);
const SLICE_END: Field = Field(24, 8);
const SITE: Field = Field(16, 4);

/// Every byte of every kind, bar the time stamp and the kind, which have columns of their own.
const FIELDS: [&[(Field, Coding)]; KINDS] = [
    // ThreadEvent
    &[
        (TARGET, Coding::Previous),
        (CPU, Coding::Plain),
        (TID, Coding::Dictionary),
        (Field(16, 8), Coding::Last(TID, TS)),      // since_ns
        (Field(24, 8), Coding::Same(Field(16, 8))), // queued_ns
        (Field(32, 4), Coding::Previous),           // window
        (Field(36, 4), Coding::Dictionary),         // syscall
        (Field(40, 4), Coding::Dictionary),         // peer_tid
        (Field(44, 2), Coding::Same(CPU)),          // prev_cpu
        (Field(46, 1), Coding::Last(TID, Field(47, 1))), // from: the last `to`
        (Field(47, 1), Coding::Plain),              // to
        (Field(48, 4), Coding::Previous),           // flags
        (Field(52, 4), Coding::Plain),              // irq_ns
        (Field(56, 4), Coding::Plain),              // kept_off_ns
        (Field(60, 4), Coding::Plain),              // kept_off_after_ns
    ],
    // SliceEvent
    &[
        (TARGET, Coding::Plain),
        (CPU, Coding::Plain),
        (TID, Coding::Dictionary),
        (SLICE_START, Coding::Last(CPU, SLICE_END)),
        (SLICE_END, Coding::Same(SLICE_START)),
        (Field(32, 4), Coding::Last(TID, Field(32, 4))), // tgid
        (Field(36, 4), Coding::Previous),                // flags
        (Field(40, 8), Coding::Last(TID, Field(40, 8))), // comm
        (Field(48, 8), Coding::Last(TID, Field(48, 8))),
    ],
    // ProbeEvent
    &[
        (TARGET, Coding::Previous),
        (CPU, Coding::Plain),
        (TID, Coding::Dictionary),
        (SITE, Coding::Dictionary),
        (Field(20, 4), Coding::Previous), // stw
        (Field(24, 8), Coding::Last(SITE, Field(24, 8))),
        (Field(32, 8), Coding::Last(SITE, Field(32, 8))),
        (Field(40, 8), Coding::Last(SITE, Field(40, 8))),
        (Field(48, 8), Coding::Last(SITE, Field(48, 8))),
        (Field(56, 8), Coding::Last(SITE, Field(56, 8))),
    ],
    // LifeEvent
    &[
        (TARGET, Coding::Previous),
        (CPU, Coding::Plain),
        (TID, Coding::Previous),
        (Field(16, 4), Coding::Plain),
        (Field(20, 4), Coding::Previous),
    ],
    // StackEvent
    &[
        (TARGET, Coding::Previous),
        (CPU, Coding::Plain),
        (TID, Coding::Dictionary),
        (Field(16, 4), Coding::Plain),      // why
        (Field(20, 4), Coding::Previous),   // stw
        (Field(24, 4), Coding::Dictionary), // syscall
        (Field(28, 4), Coding::Plain),      // depth
        (Field(32, 8), Coding::Dictionary),
        (Field(40, 8), Coding::Dictionary),
        (Field(48, 8), Coding::Dictionary),
        (Field(56, 8), Coding::Dictionary),
        (Field(64, 8), Coding::Dictionary),
        (Field(72, 8), Coding::Dictionary),
        (Field(80, 8), Coding::Dictionary),
        (Field(88, 8), Coding::Dictionary),
        (Field(96, 8), Coding::Dictionary),
        (Field(104, 8), Coding::Dictionary),
        (Field(112, 8), Coding::Dictionary),
        (Field(120, 8), Coding::Dictionary),
    ],
    // SpanEvent
    &[
        (TARGET, Coding::Previous),
        (CPU, Coding::Plain),
        (TID, Coding::Dictionary),
        (Field(16, 4), Coding::Plain),      // what
        (Field(20, 4), Coding::Dictionary), // detail
        (Field(24, 8), Coding::Same(TS)),   // start_ns
        (Field(32, 8), Coding::Same(TS)),   // middle_ns
        (Field(40, 8), Coding::Previous),   // id
    ],
];

/// Kinds of event.
const KINDS: usize = 6;

const SIZES: [usize; KINDS] = [
    size_of::<ThreadEvent>(),
    size_of::<SliceEvent>(),
    size_of::<ProbeEvent>(),
    size_of::<LifeEvent>(),
    size_of::<StackEvent>(),
    size_of::<SpanEvent>(),
];
const MAX_EVENT: usize = 128;
/// First column of each event kind.
const FIRST: [usize; KINDS] = {
    let mut first = [COLUMN_FIELDS; KINDS];
    let mut kind = 1;
    while kind < KINDS {
        first[kind] = first[kind - 1] + FIELDS[kind - 1].len();
        kind += 1;
    }
    first
};
/// Columns of a block.
pub(super) const COLUMNS: usize = FIRST[KINDS - 1] + FIELDS[KINDS - 1].len();

const _: () = {
    let mut kind = 0;
    while kind < FIELDS.len() {
        let mut bytes = 9; // time stamp and kind
        let mut f = 0;
        while f < FIELDS[kind].len() {
            bytes += FIELDS[kind][f].0.1 as usize;
            assert!(matches!(FIELDS[kind][f].0.1, 1 | 2 | 4 | 8), "see `Field::get`");
            f += 1;
        }
        assert!(bytes == SIZES[kind] && bytes <= MAX_EVENT, "every byte of an event has a column");
        kind += 1;
    }
};

impl Field {
    /// The bytes from the field on. A width known to the compiler makes this a load, not a copy loop.
    #[inline(always)]
    fn load<const N: usize>(self, event: &[u8]) -> [u8; N] {
        let at = usize::from(self.0);
        event[at..at + N].try_into().unwrap_or([0; N])
    }

    #[inline(always)]
    fn get(self, event: &[u8]) -> u64 {
        match self.1 {
            1 => u64::from(event[usize::from(self.0)]),
            2 => u64::from(u16::from_le_bytes(self.load(event))),
            4 => u64::from(u32::from_le_bytes(self.load(event))),
            _ => u64::from_le_bytes(self.load(event)),
        }
    }

    /// Whether the value fitted.
    fn set(self, event: &mut [u8], value: u64) -> bool {
        let at = usize::from(self.0);
        match self.1 {
            1 => event[at] = value as u8,
            2 => event[at..at + 2].copy_from_slice(&(value as u16).to_le_bytes()),
            4 => event[at..at + 4].copy_from_slice(&(value as u32).to_le_bytes()),
            _ => event[at..at + 8].copy_from_slice(&value.to_le_bytes()),
        }
        self.1 == 8 || value >> (8 * self.1) == 0
    }
}

/// What the encoder remembers to predict one field. Keys share a slot by their low bits: a clash is
/// a bad prediction, and memory stays bounded whatever the input.
#[derive(Default)]
struct Memory {
    previous: u64,
    by_key: Vec<u64>,
    index: HashMap<u64, u64>,
}

const SLOTS: usize = 1024;

impl Memory {
    fn slot(&mut self, key: u64) -> &mut u64 {
        if self.by_key.is_empty() {
            self.by_key.resize(SLOTS, 0);
        }
        &mut self.by_key[key as usize % SLOTS]
    }

    fn clear(&mut self) {
        self.previous = 0;
        self.by_key.fill(0);
        self.index.clear();
    }

    /// The prediction of a field coded as a difference; the event's earlier fields are set.
    fn predict(&mut self, coding: Coding, event: &[u8]) -> u64 {
        match coding {
            Coding::Plain | Coding::Dictionary => 0,
            Coding::Previous => self.previous,
            Coding::Same(field) => field.get(event),
            Coding::Last(key, _) => *self.slot(key.get(event)),
        }
    }

    /// Remembers a whole event for the next prediction.
    fn learn(&mut self, field: Field, coding: Coding, event: &[u8]) {
        match coding {
            Coding::Plain | Coding::Dictionary | Coding::Same(_) => {}
            Coding::Previous => self.previous = field.get(event),
            Coding::Last(key, value) => *self.slot(key.get(event)) = value.get(event),
        }
    }
}

/// Gathers a block's records.
pub(super) struct Encoder {
    columns: Vec<Vec<u8>>,
    memory: Vec<Memory>,
    last_ts: u64,
    records: u32,
    size: usize,
}

/// The JSON of a record that is not an event, with its tag.
pub(super) fn json_of(record: &Record) -> Option<(u8, &'static str, serde_json::Result<Vec<u8>>)> {
    Some(match record {
        Record::Event(_) | Record::Attached(_) | Record::Detached(_) => return None,
        Record::Start(r) => (FIRST_JSON_TAG, "start", serde_json::to_vec(r)),
        Record::Interval(r) => (FIRST_JSON_TAG + 1, "interval", serde_json::to_vec(r)),
        Record::Hists(r) => (FIRST_JSON_TAG + 2, "histogram", serde_json::to_vec(r)),
        Record::Process(r) => (FIRST_JSON_TAG + 3, "process", serde_json::to_vec(r)),
        Record::Thread(r) => (FIRST_JSON_TAG + 4, "thread", serde_json::to_vec(r)),
        Record::Notice(r) => (FIRST_JSON_TAG + 5, "notice", serde_json::to_vec(r)),
        Record::End(r) => (FIRST_JSON_TAG + 6, "end", serde_json::to_vec(r)),
        Record::ThreadTotals(r) => (FIRST_JSON_TAG + 7, "thread totals", serde_json::to_vec(r)),
        Record::Runtime(r) => (FIRST_JSON_TAG + 8, "runtime", serde_json::to_vec(r)),
        Record::Symbol(r) => (FIRST_JSON_TAG + 9, "symbol", serde_json::to_vec(r)),
        Record::Steal(r) => (FIRST_JSON_TAG + 12, "steal", serde_json::to_vec(r)),
        Record::Waits(r) => (FIRST_JSON_TAG + 13, "waits", serde_json::to_vec(r)),
        Record::AllocRun(r) => (FIRST_JSON_TAG + 14, "allocation run", serde_json::to_vec(r)),
        Record::AllocStack(r) => (FIRST_JSON_TAG + 15, "allocating stack", serde_json::to_vec(r)),
        Record::AllocSamples(r) => (FIRST_JSON_TAG + 16, "allocations", serde_json::to_vec(r)),
        Record::AllocState(r) => (FIRST_JSON_TAG + 17, "allocation state", serde_json::to_vec(r)),
        Record::AllocSums(r) => (FIRST_JSON_TAG + 18, "allocation sums", serde_json::to_vec(r)),
        Record::HeapLook(r) => (FIRST_JSON_TAG + 19, "look at the heap", serde_json::to_vec(r)),
        Record::Leaks(r) => (FIRST_JSON_TAG + 20, "search for leaks", serde_json::to_vec(r)),
    })
}

fn from_json(tag: u8, json: &[u8]) -> Result<Record, &'static str> {
    match tag.wrapping_sub(FIRST_JSON_TAG) {
        0 => serde_json::from_slice(json).map(Record::Start),
        1 => serde_json::from_slice(json).map(Record::Interval),
        2 => serde_json::from_slice(json).map(Record::Hists),
        3 => serde_json::from_slice(json).map(Record::Process),
        4 => serde_json::from_slice(json).map(Record::Thread),
        5 => serde_json::from_slice(json).map(Record::Notice),
        6 => serde_json::from_slice(json).map(Record::End),
        7 => serde_json::from_slice(json).map(Record::ThreadTotals),
        8 => serde_json::from_slice(json).map(Record::Runtime),
        9 => serde_json::from_slice(json).map(Record::Symbol),
        12 => serde_json::from_slice(json).map(Record::Steal),
        13 => serde_json::from_slice(json).map(Record::Waits),
        14 => serde_json::from_slice(json).map(Record::AllocRun),
        15 => serde_json::from_slice(json).map(Record::AllocStack),
        16 => serde_json::from_slice(json).map(Record::AllocSamples),
        17 => serde_json::from_slice(json).map(Record::AllocState),
        18 => serde_json::from_slice(json).map(Record::AllocSums),
        19 => serde_json::from_slice(json).map(Record::HeapLook),
        20 => serde_json::from_slice(json).map(Record::Leaks),
        _ => return Err("unknown record type"),
    }
    .map_err(|_| "a record's JSON does not fit its type")
}

impl Encoder {
    pub(super) fn new() -> Self {
        Self {
            columns: vec![Vec::new(); COLUMNS],
            memory: (0..COLUMNS).map(|_| Memory::default()).collect(),
            last_ts: 0,
            records: 0,
            size: 0,
        }
    }

    /// Records held.
    pub(super) fn records(&self) -> u32 {
        self.records
    }

    /// Bytes of the records held, before any coding.
    pub(super) fn size(&self) -> usize {
        self.size
    }

    pub(super) fn push_event(&mut self, event: &Event) {
        let bytes = event.as_bytes();
        let kind = match event {
            Event::Thread(_) => EventKind::Thread,
            Event::Slice(_) => EventKind::Slice,
            Event::Probe(_) => EventKind::Probe,
            Event::Life(_) => EventKind::Life,
            Event::Stack(_) => EventKind::Stack,
            Event::Span(_) => EventKind::Span,
        } as u8;
        self.columns[COLUMN_TAGS].push(kind);
        let ts = event.header().ts_ns;
        put(&mut self.columns[COLUMN_TIME], zigzag(ts.wrapping_sub(self.last_ts)));
        self.last_ts = ts;

        let (first, fields) = fields_of(kind).expect("every kind has fields");
        for (i, &(field, coding)) in fields.iter().enumerate() {
            let (column, memory) = (&mut self.columns[first + i], &mut self.memory[first + i]);
            let value = field.get(bytes);
            match coding {
                Coding::Plain => put(column, value),
                Coding::Dictionary => {
                    let next = memory.index.len() as u64 + 1;
                    match memory.index.entry(value) {
                        std::collections::hash_map::Entry::Occupied(e) => put(column, *e.get()),
                        std::collections::hash_map::Entry::Vacant(e) => {
                            e.insert(next);
                            put(column, 0);
                            put(column, value);
                        }
                    }
                }
                _ => put(column, zigzag(value.wrapping_sub(memory.predict(coding, bytes)))),
            }
            memory.learn(field, coding, bytes);
        }
        self.records += 1;
        self.size += bytes.len();
    }

    pub(super) fn push_json(&mut self, tag: u8, json: &[u8]) {
        self.columns[COLUMN_TAGS].push(tag);
        put(&mut self.columns[COLUMN_JSON], json.len() as u64);
        self.columns[COLUMN_JSON].extend_from_slice(json);
        self.records += 1;
        self.size += json.len();
    }

    /// Appends the block's bytes to `out` and starts the next block.
    pub(super) fn take(&mut self, out: &mut Vec<u8>) {
        for column in &mut self.columns {
            out.extend_from_slice(&(column.len() as u32).to_le_bytes());
            out.extend_from_slice(column);
            column.clear();
        }
        self.memory.iter_mut().for_each(Memory::clear);
        self.last_ts = 0;
        self.records = 0;
        self.size = 0;
    }
}

/// Hands a block's records out one by one. Total: any bytes give records or an error.
///
/// The events are decoded as a whole, column by column: a loop over one field of all events of a kind is several
/// times as fast as one over all fields of each event, and decoding is a large part of a report's time.
pub(super) struct Decoder {
    raw: Vec<u8>,
    /// The column of tags: what is left of it.
    tags: std::ops::Range<usize>,
    /// The same of the JSON records.
    json: std::ops::Range<usize>,
    /// The events of each kind, one behind the other.
    events: [Vec<u8>; KINDS],
    /// Where the next one of each begins.
    next: [usize; KINDS],
}

const SHORT: &str = "a column ends too early";
const LEFT: &str = "a column holds more than the records need";
const TOO_LARGE: &str = "a number does not fit its field";

impl Decoder {
    /// `records` is what the block's header promises.
    pub(super) fn new(raw: Vec<u8>, records: u32) -> Result<Self, &'static str> {
        let mut columns = Vec::with_capacity(COLUMNS);
        let mut at = 0;
        for _ in 0..COLUMNS {
            let len = raw.get(at..at + 4).ok_or(SHORT)?;
            let len = u32::from_le_bytes(len.try_into().map_err(|_| SHORT)?) as usize;
            at += 4;
            if len > raw.len() - at {
                return Err(SHORT);
            }
            columns.push(at..at + len);
            at += len;
        }
        if at != raw.len() {
            return Err("bytes after the last column");
        }
        let tags = columns[COLUMN_TAGS].clone();
        if tags.len() != records as usize {
            return Err("the number of records is not what the header says");
        }
        let mut counts = [0_usize; KINDS];
        for &tag in &raw[tags.clone()] {
            if tag < FIRST_JSON_TAG {
                *counts
                    .get_mut(usize::from(tag).wrapping_sub(1))
                    .ok_or("unknown kind of event")? += 1;
            }
        }
        // A number has a byte at least, so this bounds what the events below can take by what there is.
        for (kind, &count) in counts.iter().enumerate() {
            if columns[FIRST[kind]..FIRST[kind] + FIELDS[kind].len()]
                .iter()
                .any(|c| c.len() < count)
            {
                return Err(SHORT);
            }
        }
        let mut events: [Vec<u8>; KINDS] =
            std::array::from_fn(|kind| vec![0; counts[kind] * SIZES[kind]]);
        times(&raw[tags.clone()], &raw[columns[COLUMN_TIME].clone()], &mut events)?;
        for (kind, events) in events.iter_mut().enumerate() {
            fields(kind, events, |i| &raw[columns[FIRST[kind] + i].clone()])?;
        }
        let json = columns[COLUMN_JSON].clone();
        Ok(Self { raw, tags, json, events, next: [0; KINDS] })
    }

    /// The next record; `None` after the last.
    pub(super) fn next(&mut self) -> Option<Result<Record, &'static str>> {
        let Some(at) = self.tags.next() else {
            let left = !self.json.is_empty();
            self.json.start = self.json.end;
            return left.then_some(Err(LEFT));
        };
        let tag = self.raw[at];
        Some(if tag < FIRST_JSON_TAG { self.event(tag) } else { self.json(tag) })
    }

    fn json(&mut self, tag: u8) -> Result<Record, &'static str> {
        let mut numbers = Numbers(&self.raw[self.json.clone()]);
        let len = numbers.next()?;
        let at = self.json.end - numbers.0.len();
        if len > MAX_JSON as u64 || len as usize > numbers.0.len() {
            return Err(SHORT);
        }
        self.json.start = at + len as usize;
        from_json(tag, &self.raw[at..self.json.start])
    }

    fn event(&mut self, tag: u8) -> Result<Record, &'static str> {
        // Counted in `new`, so it is there.
        let kind = usize::from(tag - 1);
        let at = self.next[kind];
        self.next[kind] = at + SIZES[kind];
        let event = self.events[kind].get(at..at + SIZES[kind]).ok_or(SHORT)?;
        Event::decode(event).map(Record::Event).map_err(|_| "an event holds an impossible value")
    }
}

/// Sets the events' time stamps and kinds.
fn times(tags: &[u8], column: &[u8], events: &mut [Vec<u8>; KINDS]) -> Result<(), &'static str> {
    let (mut numbers, mut ts, mut at) = (Numbers(column), 0_u64, [0; KINDS]);
    for &tag in tags.iter().filter(|tag| **tag < FIRST_JSON_TAG) {
        let kind = usize::from(tag - 1);
        ts = ts.wrapping_add(unzigzag(numbers.next()?));
        let event = &mut events[kind][at[kind]..at[kind] + SIZES[kind]];
        event[..8].copy_from_slice(&ts.to_le_bytes());
        event[8] = tag;
        at[kind] += SIZES[kind];
    }
    numbers.end()
}

/// Sets all other fields of a kind's events, in an order in which each finds what it is predicted from.
fn fields<'a>(
    kind: usize,
    events: &mut [u8],
    column: impl Fn(usize) -> &'a [u8],
) -> Result<(), &'static str> {
    if events.is_empty() {
        // All columns must be as empty.
        return (0..FIELDS[kind].len()).try_for_each(|i| Numbers(column(i)).end());
    }
    let mut done = 0_u32;
    for (i, &(field, coding)) in FIELDS[kind].iter().enumerate() {
        if done & 1 << i != 0 {
            continue;
        }
        // What it is predicted from may be a later field of an earlier event.
        if let Coding::Last(key, value) = coding
            && let Some(later) = FIELDS[kind].iter().skip(i + 1).position(|(f, _)| f.0 == value.0)
        {
            let later = i + 1 + later;
            done |= 1 << later;
            if matches!(FIELDS[kind][later].1, Coding::Same(first) if first.0 == field.0) {
                chained(kind, (field, value, key), events, column(i), column(later))?;
                continue;
            }
            one(kind, FIELDS[kind][later], events, column(later))?;
        }
        one(kind, (field, coding), events, column(i))?;
    }
    Ok(())
}

/// A field that was `second` in the last event with the same key, where `second` in turn is predicted from it.
fn chained(
    kind: usize,
    (first, second, key): (Field, Field, Field),
    events: &mut [u8],
    of_first: &[u8],
    of_second: &[u8],
) -> Result<(), &'static str> {
    let (mut a, mut b, mut last) = (Numbers(of_first), Numbers(of_second), vec![0_u64; SLOTS]);
    for event in events.chunks_exact_mut(SIZES[kind]) {
        let slot = &mut last[key.get(event) as usize % SLOTS];
        let begun = slot.wrapping_add(unzigzag(a.next()?));
        let ended = begun.wrapping_add(unzigzag(b.next()?));
        if !first.set(event, begun) || !second.set(event, ended) {
            return Err(TOO_LARGE);
        }
        *slot = ended;
    }
    a.end()?;
    b.end()
}

/// One field of all events of a kind; whatever it is predicted from is set.
fn one(
    kind: usize,
    (field, coding): (Field, Coding),
    events: &mut [u8],
    column: &[u8],
) -> Result<(), &'static str> {
    // Nearly always right, or nearly always zero: then there is nothing to read.
    let all_zero = column.len() == events.len() / SIZES[kind] && column.iter().all(|b| *b == 0);
    if all_zero && matches!(coding, Coding::Plain | Coding::Previous) {
        return Ok(());
    }
    // A width known to the compiler makes a store of what would be a copying loop.
    match field.1 {
        1 => column_of::<1>(kind, field, coding, events, column),
        2 => column_of::<2>(kind, field, coding, events, column),
        4 => column_of::<4>(kind, field, coding, events, column),
        _ => column_of::<8>(kind, field, coding, events, column),
    }
}

fn column_of<const N: usize>(
    kind: usize,
    field: Field,
    coding: Coding,
    events: &mut [u8],
    column: &[u8],
) -> Result<(), &'static str> {
    let mut numbers = Numbers(column);
    let at = usize::from(field.0);
    let put = |event: &mut [u8], value: u64| {
        event[at..at + N].copy_from_slice(&value.to_le_bytes()[..N]);
        if N < 8 && value >> (8 * N) != 0 { Err(TOO_LARGE) } else { Ok(()) }
    };
    let all = events.chunks_exact_mut(SIZES[kind]);
    match coding {
        Coding::Plain => {
            for event in all {
                put(event, numbers.next()?)?;
            }
        }
        Coding::Dictionary => {
            let mut values = Vec::new();
            for event in all {
                let value = match numbers.next()?.checked_sub(1) {
                    None => {
                        let value = numbers.next()?;
                        values.push(value);
                        value
                    }
                    Some(n) => *usize::try_from(n)
                        .ok()
                        .and_then(|n| values.get(n))
                        .ok_or("no such entry in a dictionary")?,
                };
                put(event, value)?;
            }
        }
        Coding::Previous => {
            let mut previous = 0_u64;
            for event in all {
                previous = previous.wrapping_add(unzigzag(numbers.next()?));
                put(event, previous)?;
            }
        }
        Coding::Same(other) => {
            for event in all {
                let value = other.get(event).wrapping_add(unzigzag(numbers.next()?));
                put(event, value)?;
            }
        }
        Coding::Last(key, value) => {
            let mut last = vec![0_u64; SLOTS];
            for event in all {
                let slot = &mut last[key.get(event) as usize % SLOTS];
                put(event, slot.wrapping_add(unzigzag(numbers.next()?)))?;
                *slot = value.get(event);
            }
        }
    }
    numbers.end()
}

/// The numbers of a column that are left.
struct Numbers<'a>(&'a [u8]);

impl Numbers<'_> {
    #[inline(always)]
    fn next(&mut self) -> Result<u64, &'static str> {
        // Nearly all are one byte long.
        let (&first, rest) = self.0.split_first().ok_or(SHORT)?;
        self.0 = rest;
        if first < 0x80 { Ok(first.into()) } else { self.long(first) }
    }

    fn long(&mut self, first: u8) -> Result<u64, &'static str> {
        let mut value = u64::from(first & 0x7f);
        for shift in (7..64).step_by(7) {
            let (&byte, rest) = self.0.split_first().ok_or(SHORT)?;
            self.0 = rest;
            value |= u64::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return Ok(value);
            }
        }
        Err("a number is too long")
    }

    /// All of them must have been read.
    fn end(&self) -> Result<(), &'static str> {
        if self.0.is_empty() { Ok(()) } else { Err(LEFT) }
    }
}

/// First column and fields of an event kind.
fn fields_of(kind: u8) -> Option<(usize, &'static [(Field, Coding)])> {
    let kind = usize::from(kind).checked_sub(1).filter(|k| *k < FIELDS.len())?;
    Some((FIRST[kind], FIELDS[kind]))
}

/// LEB128: 7 bits a byte, low first.
fn put(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

/// A difference as a number that is small when the difference is, either way.
fn zigzag(difference: u64) -> u64 {
    (difference << 1) ^ (((difference as i64) >> 63) as u64)
}

fn unzigzag(number: u64) -> u64 {
    (number >> 1) ^ (number & 1).wrapping_neg()
}
