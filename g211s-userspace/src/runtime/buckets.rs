//! The shape of a bucket of the runtime's memory profile: what was sampled of one size at one stack. From bytes to
//! numbers; must not know where the bytes came from, nor what is done with the numbers.
//!
//! Go `src/runtime/mprof.go`, `bucket`, `memRecord`, `memRecordCycle` (1.21.13 to 1.27.3): a header, `nstk` return
//! addresses, and counts. The header and the addresses never change once the bucket is in the list. Until 1.26 a
//! count has its bytes beside it, which are its number times the bucket's size; 1.27 keeps the number only.

use super::RuntimeError;
use crate::go::offsets::Offsets;

/// `memProfile`, the kind of bucket that allocations have.
pub const MEM_PROFILE: u64 = 1;
/// Most return addresses of a bucket: `maxProfStackDepth` (1.23 on; before, 32).
pub const MAX_STACK: usize = 1024;
/// Cycles that are counted before they are published: `len(memRecord{}.future)`.
pub const FUTURE: usize = 3;
/// Larger objects there are none: the address space ends before.
const MAX_SIZE: u64 = 1 << 47;

/// Where the parts of a bucket are, bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BucketLayout {
    /// Length of the header, and so where the stack begins.
    pub header: usize,
    /// Length of the counts behind the stack.
    pub record: usize,
    next: usize,
    kind: usize,
    hash: usize,
    size: usize,
    depth: usize,
    active: usize,
    future: usize,
    /// Of one cycle's counts.
    cycle: usize,
    allocs: usize,
    frees: usize,
}

/// What a bucket's header says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// The next bucket, or 0.
    pub next: u64,
    /// [`hash`] of the stack and the size.
    pub hash: u64,
    /// Bytes of each object: its class of sizes, or what was asked for.
    pub size: u64,
    /// Number of return addresses.
    pub depth: usize,
}

/// Sampled objects.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Made.
    pub allocs: u64,
    /// Freed.
    pub frees: u64,
}

impl Counts {
    /// Both sums; as the runtime adds them.
    #[must_use]
    pub fn plus(self, other: Self) -> Self {
        Self {
            allocs: self.allocs.wrapping_add(other.allocs),
            frees: self.frees.wrapping_add(other.frees),
        }
    }

    /// Whether there are none.
    pub fn is_zero(self) -> bool {
        self == Self::default()
    }
}

/// A bucket's counts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Record {
    /// Published: what a profile shows.
    pub active: Counts,
    /// Of the cycles `C`, `C + 1` and `C + 2`, each at its number modulo 3.
    pub future: [Counts; FUTURE],
}

impl BucketLayout {
    /// In a version of Go.
    pub fn of(offsets: &Offsets) -> Result<Self, RuntimeError> {
        const BUCKET: &str = "runtime.bucket";
        const RECORD: &str = "runtime.memRecord";
        const CYCLE: &str = "runtime.memRecordCycle";
        let missing = |strukt: &str, field: &str| RuntimeError::Field {
            strukt: strukt.to_owned(),
            field: field.to_owned(),
        };
        let at = |strukt, field| {
            let found = offsets.field(strukt, field).ok_or_else(|| missing(strukt, field))?;
            Ok::<_, RuntimeError>((found.off as usize, found.size as usize))
        };
        let word = |strukt, field| match at(strukt, field)? {
            (off, 8) => Ok(off),
            (_, size) => Err(RuntimeError::Size(size as u64)),
        };
        let size = |strukt: &str| {
            let size = offsets.size_of(strukt).ok_or_else(|| missing(strukt, ""))?;
            Ok::<_, RuntimeError>(size as usize)
        };
        let layout = Self {
            header: size(BUCKET)?,
            record: size(RECORD)?,
            next: word(BUCKET, "allnext")?,
            kind: word(BUCKET, "typ")?,
            hash: word(BUCKET, "hash")?,
            size: word(BUCKET, "size")?,
            depth: word(BUCKET, "nstk")?,
            active: at(RECORD, "active")?.0,
            future: at(RECORD, "future")?.0,
            cycle: size(CYCLE)?,
            allocs: word(CYCLE, "allocs")?,
            frees: word(CYCLE, "frees")?,
        };
        let future = layout.future + FUTURE * layout.cycle;
        if future > layout.record || layout.active + layout.cycle > layout.record {
            return Err(RuntimeError::Size(layout.record as u64));
        }
        Ok(layout)
    }

    /// Bytes of a bucket with so many return addresses.
    pub fn len(&self, depth: usize) -> usize {
        self.header + depth * 8 + self.record
    }

    /// Reads a header; what it is instead where it is none.
    pub fn parse_header(&self, bytes: &[u8]) -> Result<Header, String> {
        let word = |at: usize| word(bytes, at).ok_or_else(|| "a bucket is cut off".to_owned());
        let (kind, depth, size) = (word(self.kind)?, word(self.depth)?, word(self.size)?);
        if kind != MEM_PROFILE || depth > MAX_STACK as u64 {
            return Err(format!("a bucket is of kind {kind} and {depth} deep"));
        }
        if size > MAX_SIZE {
            return Err(format!("a bucket is of objects of {size} bytes"));
        }
        Ok(Header { next: word(self.next)?, hash: word(self.hash)?, size, depth: depth as usize })
    }

    /// Reads the counts; `None` where there are too few bytes.
    pub fn parse_record(&self, bytes: &[u8]) -> Option<Record> {
        let counts = |at: usize| {
            let (allocs, frees) = (word(bytes, at + self.allocs), word(bytes, at + self.frees));
            Some(Counts { allocs: allocs?, frees: frees? })
        };
        let mut record = Record { active: counts(self.active)?, ..Record::default() };
        for (i, future) in record.future.iter_mut().enumerate() {
            *future = counts(self.future + i * self.cycle)?;
        }
        Some(record)
    }
}

fn word(bytes: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_le_bytes(bytes.get(at..at.checked_add(8)?)?.try_into().ok()?))
}

/// What `stkbucket` finds a bucket by (mprof.go): kept in each, so it proves that bytes are one.
pub fn hash(stack: &[u64], size: u64) -> u64 {
    let mix = |hash: u64, value: u64| {
        let hash = hash.wrapping_add(value);
        let hash = hash.wrapping_add(hash << 10);
        hash ^ (hash >> 6)
    };
    let hash = mix(stack.iter().fold(0, |hash, pc| mix(hash, *pc)), size);
    let hash = hash.wrapping_add(hash << 3);
    hash ^ (hash >> 11)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::go::version::GoVersion;

    fn layout(version: &str) -> BucketLayout {
        let version = GoVersion::parse(version).expect("a version");
        BucketLayout::of(&Offsets::for_version(&version)).expect("is known")
    }

    #[test]
    fn counts_have_lost_their_bytes() {
        let (old, new) = (layout("go1.26.6"), layout("go1.27.3"));
        assert_eq!((old.header, old.record, old.cycle), (48, 128, 32));
        assert_eq!((new.header, new.record, new.cycle), (48, 64, 16));
        assert_eq!(new.len(3), 48 + 24 + 64);
    }

    #[test]
    fn a_record_is_read_word_by_word() {
        let new = layout("go1.27.3");
        let bytes: Vec<u8> = (1..=8_u64).flat_map(u64::to_le_bytes).collect();
        let record = new.parse_record(&bytes).expect("is whole");
        assert_eq!(record.active, Counts { allocs: 1, frees: 2 });
        assert_eq!(record.future[2], Counts { allocs: 7, frees: 8 });
        assert_eq!(new.parse_record(&bytes[..63]), None);
        let old = layout("go1.21.13");
        let bytes: Vec<u8> = (1..=16_u64).flat_map(u64::to_le_bytes).collect();
        let record = old.parse_record(&bytes).expect("is whole");
        assert_eq!(record.future[0], Counts { allocs: 5, frees: 6 });
    }

    #[test]
    fn what_is_no_bucket_is_refused() {
        let layout = layout("go1.27.3");
        let header = |kind: u64, size: u64, depth: u64| -> Vec<u8> {
            [0, 77, kind, 5, size, depth].iter().flat_map(|w| w.to_le_bytes()).collect()
        };
        let read = layout.parse_header(&header(1, 48, 2));
        assert_eq!(read, Ok(Header { next: 77, hash: 5, size: 48, depth: 2 }));
        for (bytes, words) in [
            (header(2, 48, 2), "of kind 2"),
            (header(1, 48, 1025), "1025 deep"),
            (header(1, u64::MAX, 2), "objects of"),
            (vec![1; 47], "cut off"),
        ] {
            assert!(layout.parse_header(&bytes).expect_err(words).contains(words), "{words}");
        }
    }
}
