//! The recording file (`.g211s`): a run's stream of [`Record`](crate::record::Record)s on disk,
//! in the order they were made. Must not know BPF, the model or the report.
//!
//! # Format 2
//!
//! Format 1 is the same without the records of the Go runtime's own counters, and is read as well.
//!
//! All numbers are little-endian.
//!
//! ```text
//! file  = magic[8]  format u16  abi u16  zero u32  block*
//! block = "G2BK"  raw_len u32  packed_len u32  records u32  crc32(payload) u32  crc32(the 20 bytes before) u32
//!         payload[packed_len]                  one zstd frame of raw_len bytes: see `columns`
//! ```
//!
//! The file only grows, a block at a time, and a block does not depend on another. A file cut off
//! by a crash therefore opens up to its last whole block; [`Reader::truncated`] tells what was
//! dropped. Two checksums tell a cut (whole header, too few bytes after it) from damage.
//!
//! A recording is untrusted input: every length is checked against a cap before it is used.

mod columns;
mod reader;
#[cfg(test)]
mod tests;
mod writer;

use std::io;
use std::path::PathBuf;

pub use reader::Reader;
pub use writer::{Blocks, Writer, file_head};

/// Version of the file's layout. What the events' bytes mean is versioned by
/// [`g211s_ebpf::ABI_VERSION`].
pub const FORMAT_VERSION: u16 = 3;

/// First bytes of every recording. Not text, so that nothing mistakes it for text; CR LF shows a
/// transfer in text mode.
const MAGIC: [u8; 8] = *b"G211S\x1a\r\n";
const FILE_HEADER: usize = 16;
const BLOCK_MAGIC: [u8; 4] = *b"G2BK";
const BLOCK_HEADER: usize = 24;

/// A block is written when its records reach this many bytes (before any coding).
const BLOCK_TARGET: usize = 256 << 10;
/// Nothing larger is ever decompressed.
const MAX_RAW: usize = 16 << 20;
/// No frame of [`MAX_RAW`] bytes is larger: zstd's worst case adds 1/256.
const MAX_PACKED: usize = MAX_RAW + (MAX_RAW >> 8) + 1024;
/// Largest JSON of one record.
const MAX_JSON: usize = 8 << 20;

/// Why a recording could not be written or read: one line that says what to do.
#[derive(Debug, thiserror::Error)]
pub enum RecordingError {
    /// The file cannot be opened or read.
    #[error("cannot read {}: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The file cannot be opened for writing.
    #[error("cannot create {}: {source}", path.display())]
    Create {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A write failed (disk full …). Reported once: the writer drops everything after it.
    #[error(
        "recording stopped: cannot write {}: {source}; the {kept} bytes before it stay readable",
        path.display()
    )]
    Write {
        /// The file.
        path: PathBuf,
        /// Bytes of the file that are whole blocks.
        kept: u64,
        /// What the system said.
        source: io::Error,
    },
    /// One record is too large to be stored.
    #[error("a {what} record of {bytes} bytes is too large to be recorded (at most {MAX_JSON})")]
    TooLarge {
        /// Which type of record.
        what: &'static str,
        /// Its size as JSON.
        bytes: usize,
    },
    /// No record in it: nothing at all, or cut off within the first block.
    #[error(
        "{} holds no records ({bytes} bytes): the recorder stopped before its first block was whole; record again",
        path.display()
    )]
    Empty {
        /// The file.
        path: PathBuf,
        /// Its length as far as it was read.
        bytes: u64,
    },
    /// Something else.
    #[error(
        "{} is not a g211s recording: give a file made by `g211s record -o FILE` or `g211s attach --record FILE`",
        path.display()
    )]
    Foreign {
        /// The file.
        path: PathBuf,
    },
    /// Made by a newer g211s.
    #[error(
        "{} has recording format {found}, this g211s reads up to {FORMAT_VERSION}: use a newer g211s",
        path.display()
    )]
    NewerFormat {
        /// The file.
        path: PathBuf,
        /// Its format.
        found: u16,
    },
    /// Made by a g211s with other event structs.
    #[error(
        "{} has event version {found}, this g211s reads {}: use the g211s version that recorded it",
        path.display(),
        g211s_ebpf::ABI_VERSION
    )]
    OtherAbi {
        /// The file.
        path: PathBuf,
        /// Its event version.
        found: u16,
    },
    /// A block is damaged. The records before it were good; those after it are not read.
    #[error(
        "{} is damaged in block {block} at byte {offset} ({why}): copy it again or record again",
        path.display()
    )]
    Corrupt {
        /// The file.
        path: PathBuf,
        /// Which block, from 1.
        block: u64,
        /// Where the block starts in the file.
        offset: u64,
        /// What is wrong with it.
        why: &'static str,
    },
}
