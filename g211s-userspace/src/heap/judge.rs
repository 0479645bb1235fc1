//! What a span's bits say of an object whose allocation was seen. Pure: must not know memory.
//!
//! What holds in Go 1.21.13 to 1.27.3 (`src/runtime`):
//! - `mheap_.sweepgen` grows by 2 at the end of each marking, with the world stopped (mgc.go, `gcSweep`).
//!   An object allocated at G is judged first by the collection that makes it G+2.
//! - `sweep` (mgcsweep.go) first makes the marks the span's `allocBits`, then sets `span.sweepgen` to the
//!   heap's. From then until the next sweep the bits do not change: what is allocated meanwhile is told by
//!   `freeindex`. So for an object of before the collection 0 is dead for certain, and 1 says that its *slot*
//!   was reached.
//! - A slot that was reached is not given out before the next sweep. So if it was seen reached in the
//!   collection before (or the object was made since that), it is still the same object. With a
//!   collection in between that was not looked at, it may be another: [`Why::Missed`].
//! - While an object lives, its page's `mspan` stays in use, with the same class and place. Anything
//!   else there means that it was freed.

use super::spans::{PAGE, Span, TINY_CLASS};

/// An allocation that was seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sample {
    /// Whose it is: whatever the caller wants to have back.
    pub id: u64,
    /// Of the object, or of its slot.
    pub address: u64,
    /// Bytes of its slot, or of a large object as it was asked for; 0 where not known.
    pub size: u64,
    /// Bytes it stands for.
    pub weight: u64,
    /// `spanclass`.
    pub class: u8,
    /// `mheap_.sweepgen` as it was allocated.
    pub generation: u32,
}

/// What is known of an object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// The last collection reached it.
    Live,
    /// It was freed.
    Dead,
    /// Neither can be told.
    Unknown(Why),
}

/// Why not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Why {
    /// No collection has judged it yet.
    Young,
    /// Its span was not swept since the last collection. Looking again helps.
    Unswept,
    /// Its slot was reached, but so many collections were not looked at: it may be another object.
    Missed(u32),
    /// The memory could not be read.
    Unreadable,
    /// At its time there was no such object: the sample is wrong.
    Misfit,
    /// In a user arena, which is freed as a whole.
    UserArena,
}

/// What a span says of an object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// Its slot was reached.
    Occupied,
    /// It was freed.
    Freed,
    /// It cannot say.
    Is(Answer),
}

/// What a span, read twice with its bits in between, says of an object. `bit` is `None` where the
/// object has none in it, or it could not be read.
pub(super) fn judge(
    sample: &Sample,
    generation: u32,
    span: &Span,
    again: &Span,
    bit: Option<bool>,
) -> Verdict {
    let unknown = |why| Verdict::Is(Answer::Unknown(why));
    let age = generation.wrapping_sub(sample.generation);
    if !span.is_same(again) {
        return unknown(if age == 0 { Why::Young } else { Why::Unswept });
    }
    if span.user_arena || again.user_arena {
        return unknown(Why::UserArena);
    }
    let fits = span.in_use
        && span.class == sample.class
        && span.slot(sample.address).is_some()
        && (sample.size == 0 || sample.class == TINY_CLASS || is_size(sample.size, span));
    if age == 0 {
        // Nothing can have been freed since: it shows whether the sample is right.
        return unknown(if fits { Why::Young } else { Why::Misfit });
    }
    // Counted back from what cannot be: the sample's generation lies ahead of the heap's.
    if age % 2 == 1 || age > u32::MAX / 2 {
        return unknown(Why::Misfit);
    }
    if !fits {
        return Verdict::Freed;
    }
    if !(span.is_swept(generation) && again.is_swept(generation)) {
        return unknown(Why::Unswept);
    }
    match bit {
        Some(true) => Verdict::Occupied,
        Some(false) => Verdict::Freed,
        None => unknown(Why::Unreadable),
    }
}

/// Whether an object of so many bytes takes a slot of this span's: a large one is rounded up to pages
/// (mcache.go, `allocLarge`).
fn is_size(size: u64, span: &Span) -> bool {
    let large = span.class < 2;
    let slot = if large { size.checked_next_multiple_of(PAGE) } else { Some(size) };
    slot == Some(span.slot_bytes)
}
