//! How many objects were made in each span that a P took: looked at in the target's memory until the span is full or a
//! collection has taken it away. Must not know where the spans came from.
//!
//! While a P has a span, its `sweepgen` is that of the moment when it was taken, and 3 (Go `runtime/mheap.go`, `mspan`). A
//! P lets go of a span as it takes the next (then it was full) or as a collection takes all spans away. So a span that
//! was let go of in the same cycle was full; else it had what was seen last, and what came until the
//! collection, which is estimated from the pace so far.

use std::collections::BTreeMap;

use super::decode::{Row, SpanFields};
use crate::go::offsets::Field;
use crate::record::AllocSample;
use crate::runtime::memory::Memory;

/// Spans looked at together.
const BATCH: usize = 4096;
/// Bytes of a page.
const PAGE: u64 = 4096;
/// Spans that were taken less than this ago are left for the next time: at the hit the P has not marked them as its own
/// yet (it does within nanoseconds, unless its thread loses its CPU just then).
const TOO_NEW_NS: u64 = 5_000_000;

/// What an older look counts beside a newer one.
const KEPT: f64 = 0.98;

#[derive(Clone, Copy, Debug)]
struct Open {
    row: Row,
    /// Objects made in it as it was looked at last, and when; 0: not yet.
    made: u64,
    seen_ns: u64,
}

/// Spans that Ps may still have.
#[derive(Debug)]
pub struct Rows {
    fields: SpanFields,
    procs: usize,
    open: Vec<Open>,
    /// By span class: objects made in spans under way, and the time that took, ns; older looks count less.
    paces: BTreeMap<u8, (f64, f64)>,
}

/// What is to be known of a span.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Now {
    start: u64,
    sweepgen: u32,
    count: u64,
}

impl Rows {
    /// None yet; of a process with so many Ps.
    pub fn new(fields: SpanFields, procs: usize) -> Self {
        Self { fields, procs: procs.max(1), open: Vec::new(), paces: BTreeMap::new() }
    }

    /// A P took a span.
    pub fn push(&mut self, row: Row) {
        self.open.push(Open { row, made: 0, seen_ns: 0 });
    }

    /// Spans under way.
    pub fn len(&self) -> usize {
        self.open.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.open.is_empty()
    }

    /// Looks at all; the samples of those that are over. `sweepgen` is `mheap_.sweepgen` from before, `None` where it could
    /// not be read. `last`: those that are not over count as far as they have come.
    pub fn settle<M: Memory>(
        &mut self,
        memory: &M,
        sweepgen: Option<u32>,
        now_ns: u64,
        last: bool,
    ) -> Vec<AllocSample> {
        let mut over = Vec::new();
        // Taken in an earlier cycle and over before they were ever looked at, by span class.
        let mut unseen: BTreeMap<(u8, u32), Vec<Row>> = BTreeMap::new();
        let (new, all): (Vec<Open>, Vec<Open>) = std::mem::take(&mut self.open)
            .into_iter()
            .partition(|o| !last && o.row.sample.ts_ns.saturating_add(TOO_NEW_NS) > now_ns);
        self.open = new;
        for batch in all.chunks(BATCH) {
            let found = self.look(memory, batch);
            for (mut open, now) in batch.iter().copied().zip(found) {
                let row = open.row;
                let fits = row.sample.objects;
                let is_cached = now.is_some_and(|n| {
                    n.start == row.start
                        && n.sweepgen == row.sample.sweepgen.wrapping_add(3)
                        && n.count >= row.count
                });
                if let Some(now) = now.filter(|_| is_cached) {
                    open.made = (now.count - row.count).min(fits);
                    let pace = self.paces.entry(row.sample.span_class).or_default();
                    let taken = now_ns.saturating_sub(row.sample.ts_ns) as f64;
                    *pace = (pace.0 * KEPT + open.made as f64, pace.1 * KEPT + taken);
                    open.seen_ns = now_ns;
                    if last {
                        over.push(sample(&row, open.made));
                    } else {
                        self.open.push(open);
                    }
                } else if sweepgen == Some(row.sample.sweepgen) {
                    over.push(sample(&row, fits));
                } else if open.seen_ns > 0 {
                    over.push(sample(&row, open.until(now_ns)));
                } else {
                    unseen
                        .entry((row.sample.span_class, row.sample.sweepgen))
                        .or_default()
                        .push(row);
                }
            }
        }
        for rows in unseen.values_mut() {
            rows.sort_by_key(|r| r.sample.ts_ns);
            // One of each P at most was not full; on average half, since a collection comes at any moment, or as far as
            // such spans come in half of the time since.
            let whole = rows.len().saturating_sub(self.procs);
            let (whole, cut) = rows.split_at(whole);
            over.extend(whole.iter().map(|r| sample(r, r.sample.objects)));
            over.extend(cut.iter().map(|r| {
                let half = r.sample.objects.div_ceil(2);
                let age = now_ns.saturating_sub(r.sample.ts_ns) as f64;
                let pace = self.paces.get(&r.sample.span_class).filter(|(_, ns)| *ns > 0.0);
                sample(r, pace.map_or(half, |(made, ns)| half.min((made / ns * age / 2.0) as u64)))
            }));
        }
        over
    }

    fn look<M: Memory>(&self, memory: &M, batch: &[Open]) -> Vec<Option<Now>> {
        let fields = self.fields.progress();
        let first = fields.iter().map(|f| f.off).min().unwrap_or(0);
        let size = fields.iter().map(|f| f.off + f.size).max().unwrap_or(0) - first;
        let address = |open: &Open| open.row.span.wrapping_add(u64::from(first));
        // What lies in one page is read at once: each range costs the kernel a walk through the target's page tables, and
        // the runtime has its spans side by side (Go `runtime/mheap.go`, `spanalloc`).
        let mut order: Vec<usize> = (0..batch.len()).collect();
        order.sort_unstable_by_key(|&i| address(&batch[i]));
        let mut ranges: Vec<(u64, Vec<u8>)> = Vec::new();
        let mut places = vec![(0, 0); batch.len()];
        for i in order {
            let at = address(&batch[i]);
            let end = at.saturating_add(u64::from(size));
            match ranges.last_mut() {
                Some((from, bytes)) if *from / PAGE == (end - 1) / PAGE => {
                    bytes.resize((end - *from) as usize, 0);
                }
                _ => ranges.push((at, vec![0; size as usize])),
            }
            let range = ranges.len() - 1;
            places[i] = (range, (at - ranges[range].0) as usize);
        }
        let mut asked: Vec<(u64, &mut [u8])> =
            ranges.iter_mut().map(|(from, bytes)| (*from, bytes.as_mut_slice())).collect();
        let read = memory.read_many(&mut asked);
        let now = |&(range, at): &(usize, usize)| {
            let bytes = ranges[range].1.get(at..)?;
            let number = |f: Field| {
                let (at, mut word) = ((f.off - first) as usize, [0; 8]);
                word[..f.size as usize].copy_from_slice(bytes.get(at..at + f.size as usize)?);
                Some(u64::from_le_bytes(word))
            };
            let [start, sweepgen, count] = fields.map(number);
            let now = Now { start: start?, sweepgen: sweepgen? as u32, count: count? };
            (read.get(range).copied().unwrap_or(false) && now.start != 0).then_some(now)
        };
        places.iter().map(now).collect()
    }
}

impl Open {
    /// Objects made until a collection that came some time between the last look and now.
    fn until(&self, now_ns: u64) -> u64 {
        let taken = self.row.sample.ts_ns;
        let (seen, since) =
            (self.seen_ns.saturating_sub(taken), now_ns.saturating_sub(self.seen_ns));
        let more = self.made as f64 / seen.max(1) as f64 * since as f64 / 2.0;
        (self.made + more as u64).min(self.row.sample.objects)
    }
}

/// The sample of a span in which so many objects were made; one at least, the sample itself.
fn sample(row: &Row, objects: u64) -> AllocSample {
    AllocSample { objects: objects.max(1), ..row.sample }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::go::offsets::Offsets;
    use crate::go::version::GoVersion;
    use crate::record::AllocDensity;
    use crate::runtime::memory::MemoryError;
    use std::cell::RefCell;
    use std::collections::HashMap;

    const MS: u64 = 1_000_000;

    fn fields() -> SpanFields {
        let version = GoVersion::parse("go1.27.3").expect("a version");
        SpanFields::new(&Offsets::for_version(&version)).expect("known")
    }

    /// Spans by address: start, sweepgen, count.
    #[derive(Default)]
    struct Spans(RefCell<HashMap<u64, [u64; 3]>>);

    impl Memory for Spans {
        fn read(&self, address: u64, buf: &mut [u8]) -> Result<(), MemoryError> {
            let spans = self.0.borrow();
            let span = spans.get(&(address & !0xfff)).ok_or(MemoryError::Gone)?;
            let from = (address & 0xfff) as usize;
            for (field, value) in fields().progress().iter().zip(span) {
                let at = field.off as usize - from;
                buf[at..at + field.size as usize]
                    .copy_from_slice(&value.to_le_bytes()[..field.size as usize]);
            }
            Ok(())
        }

        fn read_many(&self, ranges: &mut [(u64, &mut [u8])]) -> Vec<bool> {
            ranges.iter_mut().map(|(at, buf)| self.read(*at, buf).is_ok()).collect()
        }
    }

    fn row(span: u64, ts_ns: u64, sweepgen: u32) -> Row {
        let sample = AllocSample {
            ts_ns,
            tid: 1,
            density: AllocDensity::Refill,
            stack: 0,
            span_class: 12,
            size: 64,
            objects: 100,
            address: 0,
            sweepgen,
            look: 0,
        };
        Row { sample, span, start: 0x8000, count: 28 }
    }

    fn objects(samples: &[AllocSample]) -> Vec<u64> {
        samples.iter().map(|s| s.objects).collect()
    }

    #[test]
    fn a_span_counts_as_far_as_it_was_used() {
        let spans = Spans::default();
        let mut rows = Rows::new(fields(), 2);
        for span in 1..=4 {
            rows.push(row(span << 12, 0, 10));
            spans.0.borrow_mut().insert(span << 12, [0x8000, 13, 28 + 10 * span]);
        }
        assert!(rows.settle(&spans, Some(10), MS, false).is_empty(), "too new");
        assert!(rows.settle(&spans, Some(10), 100 * MS, false).is_empty(), "all are in use");
        // The first was let go of in the same cycle: it was full.
        spans.0.borrow_mut().insert(1 << 12, [0x8000, 10, 128]);
        assert_eq!(objects(&rows.settle(&spans, Some(10), 200 * MS, false)), [100]);
        // A collection took the second and third: 20 and 30 in 200 ms, and so half of the next 100 ms.
        spans.0.borrow_mut().insert(2 << 12, [0x8000, 12, 3]);
        spans.0.borrow_mut().remove(&(3 << 12));
        assert_eq!(objects(&rows.settle(&spans, Some(12), 300 * MS, false)), [25, 37]);
        // The last is still in use at the end.
        assert_eq!(objects(&rows.settle(&spans, Some(12), 400 * MS, true)), [40]);
        assert!(rows.is_empty());
    }

    #[test]
    fn of_spans_that_nobody_looked_at_the_last_ones_count_half() {
        let spans = Spans::default();
        let mut rows = Rows::new(fields(), 2);
        for i in 0..10 {
            rows.push(row((i + 1) << 12, i, 10));
        }
        let mut all = objects(&rows.settle(&spans, Some(12), 100 * MS, false));
        all.sort_unstable();
        assert_eq!(all, [50, 50, 100, 100, 100, 100, 100, 100, 100, 100]);
    }

    #[test]
    fn nor_do_they_count_more_than_their_like() {
        let spans = Spans::default();
        let mut rows = Rows::new(fields(), 2);
        // One object in ten milliseconds.
        rows.push(row(1 << 12, 0, 10));
        spans.0.borrow_mut().insert(1 << 12, [0x8000, 13, 28 + 10]);
        assert!(rows.settle(&spans, Some(10), 100 * MS, false).is_empty());
        rows.push(row(2 << 12, 100 * MS, 10));
        spans.0.borrow_mut().clear();
        assert_eq!(objects(&rows.settle(&spans, Some(12), 200 * MS, false)), [15, 5]);
    }

    #[test]
    fn another_span_at_the_same_place_is_another() {
        let spans = Spans::default();
        let mut rows = Rows::new(fields(), 2);
        rows.push(row(1 << 12, 0, 10));
        spans.0.borrow_mut().insert(1 << 12, [0x1_0000, 13, 40]);
        assert_eq!(objects(&rows.settle(&spans, Some(10), 100 * MS, false)), [100]);
    }
}
