//! Bytes from the ring buffer (or a recording) → [`Event`]. Total: any input gives an event or an
//! error, never a panic. Must not know where the bytes came from.

use std::collections::BTreeMap;

use g211s_ebpf::event::{
    EVENT_CLASSES, EventKind, Header, Life, LifeEvent, ProbeEvent, STACK_DEPTH, Site, SliceEvent,
    SpanEvent, SpanWhat, StackEvent, StackWhy, ThreadEvent, ThreadState,
};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// One event of the kernel side, checked: its kind and enumerations are known.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// A thread changed its scheduler state.
    Thread(ThreadEvent),
    /// Who ran on a CPU.
    Slice(SliceEvent),
    /// A probe in the Go runtime was hit.
    Probe(ProbeEvent),
    /// A thread was born or died, or the target exec'd.
    Life(LifeEvent),
    /// Where a thread was in its own code. Apart, since it is rare and twice as large as the others, all of
    /// which are moved about a lot.
    Stack(Box<StackEvent>),
    /// Something took time.
    Span(SpanEvent),
}

/// Why bytes are not an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// Fewer or more bytes than the kind has.
    #[error("an event of kind {kind} has {got} bytes")]
    Length {
        /// The kind's number.
        kind: u8,
        /// Bytes given.
        got: usize,
    },
    /// No event has this kind.
    #[error("no event has kind {0}")]
    Kind(u8),
    /// A field holds a number that its enumeration does not have.
    #[error("field `{field}` holds {value}")]
    Field {
        /// The field's name.
        field: &'static str,
        /// What it holds.
        value: u32,
    },
}

impl Event {
    /// Decodes one event.
    ///
    /// # Errors
    /// [`DecodeError`] if the bytes are not exactly one event of a known kind.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        let short =
            || DecodeError::Length { kind: bytes.get(8).copied().unwrap_or(0), got: bytes.len() };
        let (header, _) = Header::read_from_prefix(bytes).map_err(|_| short())?;
        let field = |field, value| DecodeError::Field { field, value };
        match EventKind::from_u8(header.kind).ok_or(DecodeError::Kind(header.kind))? {
            EventKind::Thread => {
                let e = exact::<ThreadEvent>(bytes).ok_or_else(short)?;
                ThreadState::from_u8(e.from).ok_or_else(|| field("from", e.from.into()))?;
                ThreadState::from_u8(e.to).ok_or_else(|| field("to", e.to.into()))?;
                Ok(Self::Thread(e))
            }
            EventKind::Slice => exact(bytes).map(Self::Slice).ok_or_else(short),
            EventKind::Probe => {
                let e = exact::<ProbeEvent>(bytes).ok_or_else(short)?;
                Site::from_u32(e.site).ok_or_else(|| field("site", e.site))?;
                Ok(Self::Probe(e))
            }
            EventKind::Life => {
                let e = exact::<LifeEvent>(bytes).ok_or_else(short)?;
                Life::from_u32(e.what).ok_or_else(|| field("what", e.what))?;
                Ok(Self::Life(e))
            }
            EventKind::Stack => {
                let e = exact::<StackEvent>(bytes).ok_or_else(short)?;
                StackWhy::from_u32(e.why).ok_or_else(|| field("why", e.why))?;
                let fits = e.depth as usize <= STACK_DEPTH;
                fits.then_some(()).ok_or_else(|| field("depth", e.depth))?;
                Ok(Self::Stack(Box::new(e)))
            }
            EventKind::Span => {
                let e = exact::<SpanEvent>(bytes).ok_or_else(short)?;
                SpanWhat::from_u32(e.what).ok_or_else(|| field("what", e.what))?;
                Ok(Self::Span(e))
            }
            // Not of this stream: see `allocs::decode`.
            EventKind::Alloc => Err(DecodeError::Kind(header.kind)),
        }
    }

    /// The event's bytes, as [`Event::decode`] takes them.
    pub fn as_bytes(&self) -> &[u8] {
        match self {
            Self::Thread(e) => e.as_bytes(),
            Self::Slice(e) => e.as_bytes(),
            Self::Probe(e) => e.as_bytes(),
            Self::Life(e) => e.as_bytes(),
            Self::Stack(e) => e.as_bytes(),
            Self::Span(e) => e.as_bytes(),
        }
    }

    /// The common header, to be changed.
    pub fn header_mut(&mut self) -> &mut Header {
        match self {
            Self::Thread(e) => &mut e.header,
            Self::Slice(e) => &mut e.header,
            Self::Probe(e) => &mut e.header,
            Self::Life(e) => &mut e.header,
            Self::Stack(e) => &mut e.header,
            Self::Span(e) => &mut e.header,
        }
    }

    /// The common header.
    pub fn header(&self) -> &Header {
        match self {
            Self::Thread(e) => &e.header,
            Self::Slice(e) => &e.header,
            Self::Probe(e) => &e.header,
            Self::Life(e) => &e.header,
            Self::Stack(e) => &e.header,
            Self::Span(e) => &e.header,
        }
    }
}

/// Event classes and their names in recordings and reports.
const CLASSES: [(EventKind, &str); 6] = [
    (EventKind::Thread, "thread"),
    (EventKind::Slice, "slice"),
    (EventKind::Probe, "probe"),
    (EventKind::Life, "life"),
    (EventKind::Stack, "stack"),
    (EventKind::Span, "span"),
];

/// Counts indexed by `EventKind`, by the classes' names.
pub fn by_class(counts: &[u64; EVENT_CLASSES]) -> BTreeMap<String, u64> {
    CLASSES.iter().map(|&(kind, name)| (name.to_owned(), counts[kind as usize])).collect()
}

fn exact<T: FromBytes + KnownLayout + Immutable>(bytes: &[u8]) -> Option<T> {
    T::read_from_bytes(bytes).ok()
}
