//! The kernel side's events of the allocator → samples: which object, of what size, and how many it stands for.
//! Total: any bytes give a sample or none. Must not know processes.
//!
//! # What a sample stands for
//!
//! A P allocates small objects of one span class from one span after the other (Go `runtime/mcache.go`,
//! `runtime/malloc.go`). At [`Site::AllocRefill`] it takes the next one: the object about to be made stands for all
//! that are made in that span until it is full or a collection takes it away, which `rows` finds out. At [`Site::AllocNextFree`] it searches its span for the next free slots: the
//! object stands for all that were made since the P's last search in that class, which the span's own count tells. Either
//! way one object in a row of known length is drawn, and where in the row a stack's objects lie is nothing that the
//! program knows of. (A loop that makes objects of one class in strict turn, as many as divide the row, can
//! keep in step with it: then one stack gets what is another's. Counting every allocation for a moment shows it.)
//! What is made between the last search and a collection that takes the span away is missed; the runtime's own count of
//! each size class corrects that in sum (`analysis::allocations`).

use std::collections::HashMap;

use g211s_ebpf::event::{ALLOC_DEPTH, AllocEvent, SPAN_BYTES, Site};
use zerocopy::FromBytes as _;

use crate::go::offsets::{Field, Offsets};
use crate::record::{AllocDensity, AllocSample, AllocStack};

/// Rows that are remembered: more than Ps × span classes.
const MAX_ROWS: usize = 1 << 18;
/// Different stacks at most.
const MAX_STACKS: usize = 200_000;
/// The stack of what came later.
pub const NO_STACK: u32 = u32::MAX;
const PAGE: u64 = 8192;

/// Where a span's fields lie.
#[derive(Clone, Copy, Debug)]
pub struct SpanFields {
    start: Field,
    pages: Field,
    freeindex: Field,
    nelems: Field,
    alloc_cache: Field,
    sweepgen: Field,
    alloc_count: Field,
    class: Field,
    count_before_cache: Field,
    elemsize: Field,
}

impl SpanFields {
    /// From the table of this Go version.
    ///
    /// # Errors
    /// Names the field that is not known.
    pub fn new(offsets: &Offsets) -> Result<Self, String> {
        let field = |name: &str| {
            let known = offsets.field("runtime.mspan", name);
            let fits = |f: &Field| {
                matches!(f.size, 1 | 2 | 4 | 8) && (f.off + f.size) as usize <= SPAN_BYTES
            };
            known.filter(fits).ok_or_else(|| {
                format!("where a span has its {name} is not known in this Go version")
            })
        };
        // Stands right behind: Go `runtime/mheap.go`, `mspan`, 1.21 to 1.27.
        let flag = field("isUserArenaChunk")?;
        let count_before_cache = Field { off: (flag.off + 2) & !1, size: 2 };
        Ok(Self {
            start: field("startAddr")?,
            pages: field("npages")?,
            freeindex: field("freeindex")?,
            nelems: field("nelems")?,
            alloc_cache: field("allocCache")?,
            sweepgen: field("sweepgen")?,
            alloc_count: field("allocCount")?,
            class: field("spanclass")?,
            count_before_cache,
            elemsize: field("elemsize")?,
        })
    }

    /// The fields that tell how far a P has come in a span: `startAddr`, `sweepgen`, `allocCount`.
    pub fn progress(&self) -> [Field; 3] {
        [self.start, self.sweepgen, self.alloc_count]
    }

    fn read(&self, bytes: &[u8; SPAN_BYTES]) -> Span {
        let number = |f: Field| {
            let (at, mut word) = (f.off as usize, [0; 8]);
            let from = bytes.get(at..at + f.size as usize).unwrap_or_default();
            word[..from.len()].copy_from_slice(from);
            u64::from_le_bytes(word)
        };
        Span {
            start: number(self.start),
            pages: number(self.pages),
            freeindex: number(self.freeindex),
            nelems: number(self.nelems),
            alloc_cache: number(self.alloc_cache),
            sweepgen: number(self.sweepgen) as u32,
            alloc_count: number(self.alloc_count),
            class: number(self.class) as u8,
            count_before_cache: number(self.count_before_cache),
            elemsize: number(self.elemsize),
        }
    }
}

/// A span as it was at a hit.
#[derive(Clone, Copy, Debug)]
struct Span {
    start: u64,
    pages: u64,
    freeindex: u64,
    nelems: u64,
    alloc_cache: u64,
    sweepgen: u32,
    alloc_count: u64,
    class: u8,
    count_before_cache: u64,
    elemsize: u64,
}

impl Span {
    /// Whether this can be a span that objects are allocated from.
    fn is_sound(&self) -> bool {
        self.start != 0
            && self.start.is_multiple_of(PAGE)
            && (1..=1 << 28).contains(&self.pages)
            && self.nelems > 0
            && self.alloc_count <= self.nelems
            && self.elemsize > 0
            && self
                .nelems
                .checked_mul(self.elemsize)
                .is_some_and(|bytes| bytes <= self.pages * PAGE)
    }

    /// The next free slot, where the part of the bitmap that is at hand tells it.
    fn next_free(&self) -> u64 {
        let slot = self.freeindex + u64::from(self.alloc_cache.trailing_zeros());
        if self.alloc_cache == 0 || slot >= self.nelems {
            0
        } else {
            self.start + slot * self.elemsize
        }
    }
}

/// What became of the events.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Samples.
    pub samples: u64,
    /// Searches that found nothing made since the last: they stand for nothing.
    pub empty: u64,
    /// The span could not be read, or is none.
    pub unreadable: u64,
    /// No event of this kind.
    pub undecodable: u64,
    /// Samples whose stack is one too many.
    pub unstacked: u64,
}

/// Decodes one target's events.
#[derive(Debug)]
pub struct Decoder {
    target: u8,
    fields: SpanFields,
    /// By cache and class: the span of the last search, and its count then.
    rows: HashMap<(u64, u8), (u64, u64)>,
    stacks: HashMap<Box<[u64]>, u32>,
    /// What became of them.
    pub counts: Counts,
}

/// A span that a P took.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Row {
    /// The sample.
    pub sample: AllocSample,
    /// Where the span's struct is.
    pub span: u64,
    /// Where the span is.
    pub start: u64,
    /// Objects in it before.
    pub count: u64,
}

/// What an event is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Decoded {
    /// A sample.
    Sample(AllocSample),
    /// A span was taken: the sample that comes of it, when it is known how many objects were made in it. Its
    /// `objects` are those that fit.
    Row(Row),
    /// A stack under its number in the kernel's sums, where every allocation is counted.
    Summed {
        /// The kernel's number.
        key: u64,
        /// Ours.
        stack: u32,
    },
}

impl Decoder {
    /// Of one target.
    pub fn new(target: u8, fields: SpanFields) -> Self {
        Self {
            target,
            fields,
            rows: HashMap::new(),
            stacks: HashMap::new(),
            counts: Counts::default(),
        }
    }

    /// Decodes one event, with its stack if that is new. `look`: as `AllocSample::look`.
    pub fn take(&mut self, bytes: &[u8], look: u32) -> Option<(Decoded, Option<AllocStack>)> {
        let Ok(event) = AllocEvent::read_from_bytes(bytes) else {
            self.counts.undecodable += 1;
            return None;
        };
        let site = Site::from_u32(event.site);
        if site == Some(Site::AllocExact) {
            let (stack, new) = self.stack(&event);
            return Some((Decoded::Summed { key: event.span, stack }, new));
        }
        let span = self.fields.read(&event.span_bytes);
        let sample = match site {
            Some(Site::AllocRefill | Site::AllocLarge) if !span.is_sound() => None,
            Some(Site::AllocRefill) => {
                let objects = span.nelems - span.alloc_count;
                Some((AllocDensity::Refill, span.class, span.elemsize, objects, span.next_free()))
            }
            Some(Site::AllocLarge) => {
                Some((AllocDensity::Large, span.class, span.pages * PAGE, 1, span.start))
            }
            Some(Site::AllocNextFree) => self.searched(&event, &span),
            _ => {
                self.counts.undecodable += 1;
                return None;
            }
        };
        let Some((density, span_class, size, objects, address)) = sample else {
            self.counts.unreadable += 1;
            return None;
        };
        if objects == 0 {
            self.counts.empty += 1;
            return None;
        }
        self.counts.samples += 1;
        let (stack, new) = self.stack(&event);
        self.counts.unstacked += u64::from(stack == NO_STACK);
        let sample = AllocSample {
            ts_ns: event.header.ts_ns,
            tid: event.header.tid,
            density,
            stack,
            span_class,
            size,
            objects,
            address,
            sweepgen: span.sweepgen,
            look,
        };
        let decoded = match density {
            AllocDensity::Refill => Decoded::Row(Row {
                sample,
                span: event.span,
                start: span.start,
                count: span.alloc_count,
            }),
            _ => Decoded::Sample(sample),
        };
        Some((decoded, new))
    }

    /// A search for free slots.
    fn searched(
        &mut self,
        event: &AllocEvent,
        span: &Span,
    ) -> Option<(AllocDensity, u8, u64, u64, u64)> {
        let class = event.class as u8;
        let key = (event.cache, class);
        if self.rows.len() >= MAX_ROWS && !self.rows.contains_key(&key) {
            return None;
        }
        // `emptymspan`, from which nothing is ever allocated, stands in the cache after a collection.
        if span.nelems == 0 && event.span != 0 {
            return Some((AllocDensity::NextFree, class, 0, 0, 0));
        }
        if !span.is_sound() || span.class != class {
            return None;
        }
        let last = self.rows.insert(key, (event.span, span.alloc_count));
        let from = match last {
            // A span that was swept and taken again counts fewer than before.
            Some((of, count)) if of == event.span && count <= span.alloc_count => count,
            // Nothing is known of what came before the first search.
            None => return Some((AllocDensity::NextFree, class, span.elemsize, 0, 0)),
            Some(_) => span.count_before_cache.min(span.alloc_count),
        };
        Some((AllocDensity::NextFree, class, span.elemsize, span.alloc_count - from, 0))
    }

    /// Forgets how far the rows were: the probes were away.
    pub fn interrupted(&mut self) {
        self.rows.clear();
    }

    /// All stacks so far.
    pub fn stacks(&self) -> HashMap<u32, Vec<u64>> {
        self.stacks.iter().map(|(addresses, id)| (*id, addresses.to_vec())).collect()
    }

    fn stack(&mut self, event: &AllocEvent) -> (u32, Option<AllocStack>) {
        let addresses = addresses(event);
        if let Some(&id) = self.stacks.get(addresses.as_slice()) {
            return (id, None);
        }
        if self.stacks.len() >= MAX_STACKS || addresses.is_empty() {
            return (NO_STACK, None);
        }
        let id = self.stacks.len() as u32;
        self.stacks.insert(addresses.clone().into_boxed_slice(), id);
        (id, Some(AllocStack { target: self.target, id, addresses }))
    }
}

/// The stack of an event, as `AllocStack` has it.
fn addresses(event: &AllocEvent) -> Vec<u64> {
    let depth = (event.depth as usize).min(ALLOC_DEPTH);
    let mut all = event.addresses[..depth].to_vec();
    // At a function's entry the frame pointer is still the caller's, so the caller itself is missing. Newer kernels
    // know that of `push rbp` and put it in (Linux 6.11, `is_uprobe_at_func_entry`).
    if event.return_to != 0 && !all.is_empty() && all.get(1) != Some(&event.return_to) {
        all.insert(1, event.return_to);
    }
    // Beyond the last caller there may be a zero.
    all.retain(|a| *a != 0);
    for address in all.iter_mut().skip(1) {
        *address -= 1;
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::go::version::GoVersion;
    use g211s_ebpf::event::{EventKind, Header};
    use zerocopy::IntoBytes as _;

    fn fields() -> SpanFields {
        SpanFields::new(&Offsets::for_version(&GoVersion::parse("go1.27.3").expect("a version")))
            .expect("known")
    }

    struct Made {
        count: u16,
        before: u16,
        nelems: u16,
        class: u8,
    }

    fn event(site: Site, span: u64, made: &Made, stack: &[u64]) -> AllocEvent {
        let f = fields();
        let mut bytes = [0; SPAN_BYTES];
        let mut put = |f: Field, v: u64| {
            bytes[f.off as usize..(f.off + f.size) as usize]
                .copy_from_slice(&v.to_le_bytes()[..f.size as usize]);
        };
        put(f.start, 0xc000_0000_0000);
        put(f.pages, 1);
        put(f.freeindex, 3);
        put(f.nelems, made.nelems.into());
        put(f.alloc_cache, 0b1000);
        put(f.sweepgen, 12);
        put(f.alloc_count, made.count.into());
        put(f.class, made.class.into());
        put(f.count_before_cache, made.before.into());
        put(f.elemsize, 64);
        let mut addresses = [0; ALLOC_DEPTH];
        addresses[..stack.len()].copy_from_slice(stack);
        AllocEvent {
            header: Header { ts_ns: 5, kind: EventKind::Alloc as u8, target: 0, cpu: 0, tid: 9 },
            site: site as u32,
            depth: stack.len() as u32,
            span,
            cache: 0x77,
            class: made.class.into(),
            return_to: if site == Site::AllocNextFree { 500 } else { 0 },
            span_bytes: bytes,
            addresses,
        }
    }

    fn sample(d: &mut Decoder, e: &AllocEvent) -> Option<AllocSample> {
        match d.take(e.as_bytes(), 0)?.0 {
            Decoded::Sample(s) | Decoded::Row(Row { sample: s, .. }) => Some(s),
            Decoded::Summed { .. } => None,
        }
    }

    #[test]
    fn a_refill_stands_for_the_free_slots() {
        let mut d = Decoder::new(0, fields());
        let made = Made { count: 28, before: 0, nelems: 128, class: 11 };
        let s =
            sample(&mut d, &event(Site::AllocRefill, 1, &made, &[10, 20, 30])).expect("a sample");
        assert_eq!((s.objects, s.size, s.span_class, s.sweepgen), (100, 64, 11, 12));
        assert_eq!(s.address, 0xc000_0000_0000 + 6 * 64);
        let (_, again) =
            d.take(event(Site::AllocRefill, 1, &made, &[10, 20, 30]).as_bytes(), 0).expect("one");
        assert_eq!(again, None, "the stack is told once");
        let wrong = Made { count: 129, ..made };
        assert_eq!(sample(&mut d, &event(Site::AllocRefill, 1, &wrong, &[10])), None);
        assert_eq!((d.counts.samples, d.counts.unreadable), (2, 1));
    }

    #[test]
    fn searches_stand_for_what_was_made_since_the_last() {
        let mut d = Decoder::new(0, fields());
        let at = |span, count, before| {
            event(
                Site::AllocNextFree,
                span,
                &Made { count, before, nelems: 128, class: 11 },
                &[10, 30],
            )
        };
        assert_eq!(sample(&mut d, &at(1, 60, 50)), None, "the first tells nothing of before");
        assert_eq!(sample(&mut d, &at(1, 100, 50)).map(|s| s.objects), Some(40));
        assert_eq!(sample(&mut d, &at(1, 128, 50)).map(|s| s.objects), Some(28));
        assert_eq!(
            sample(&mut d, &at(2, 64, 10)).map(|s| s.objects),
            Some(54),
            "since it was taken"
        );
        assert_eq!(sample(&mut d, &at(2, 64, 10)), None, "nothing since");
        d.interrupted();
        assert_eq!(sample(&mut d, &at(2, 90, 10)), None);
        assert_eq!(d.counts, Counts { samples: 3, empty: 3, ..Counts::default() });
    }

    #[test]
    fn at_an_entry_the_caller_is_put_in_once() {
        let mut d = Decoder::new(3, fields());
        let made = Made { count: 1, before: 0, nelems: 128, class: 11 };
        d.take(event(Site::AllocNextFree, 1, &made, &[10, 30]).as_bytes(), 0);
        let more = Made { count: 9, ..made };
        let (_, stack) =
            d.take(event(Site::AllocNextFree, 1, &more, &[10, 30]).as_bytes(), 0).expect("one");
        assert_eq!(stack, Some(AllocStack { target: 3, id: 0, addresses: vec![10, 499, 29] }));
        let known = event(Site::AllocNextFree, 1, &Made { count: 12, ..made }, &[10, 500, 30]);
        assert_eq!(d.take(known.as_bytes(), 0).expect("one").1, None, "the same stack");
    }

    #[test]
    fn any_bytes_are_taken() {
        let mut d = Decoder::new(0, fields());
        assert_eq!(d.take(&[], 0), None);
        let mut e =
            event(Site::AllocRefill, 1, &Made { count: 0, before: 0, nelems: 1, class: 0 }, &[1]);
        e.depth = u32::MAX;
        e.span_bytes = [0xff; SPAN_BYTES];
        for site in 0..40 {
            e.site = site;
            d.take(e.as_bytes(), 0);
        }
    }
}
