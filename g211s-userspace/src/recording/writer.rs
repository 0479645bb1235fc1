//! Records → recording file, block by block. Must not know where records come from.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use super::columns::{self, Encoder};
use super::{
    BLOCK_HEADER, BLOCK_MAGIC, BLOCK_TARGET, FILE_HEADER, FORMAT_VERSION, MAGIC, MAX_JSON,
    RecordingError,
};
use crate::record::Record;

/// zstd's own default. Little is left for higher levels once the columns are made: level 9 saves
/// 1.4 % of a scheduler stream and takes more than twice the CPU time, which the observed machine
/// pays (measured by `measure_size_and_speed`).
const ZSTD_LEVEL: i32 = 3;

/// Writes a recording.
///
/// A file that exists is replaced, but only when the first record arrives: a run that never
/// begins (target gone, no privileges) leaves it as it was, and leaves no file where none was.
/// Blocks go to the final path at once and are not synced: they survive a crash of g211s, not
/// one of the machine.
pub struct Writer {
    path: PathBuf,
    file: File,
    state: State,
    blocks: Blocks,
    written: u64,
}

/// Makes blocks of records.
pub struct Blocks {
    block: Encoder,
    raw: Vec<u8>,
    packer: zstd::bulk::Compressor<'static>,
}

/// Why a record cannot be part of a block.
#[derive(Debug)]
enum Unfit {
    TooLarge(&'static str, usize),
    Json(serde_json::Error),
}

impl Blocks {
    /// None yet.
    ///
    /// # Errors
    /// The packer cannot be made.
    pub fn new() -> io::Result<Self> {
        let packer = zstd::bulk::Compressor::new(ZSTD_LEVEL)?;
        Ok(Self { block: Encoder::new(), raw: Vec::new(), packer })
    }

    /// Adds a record to the block under way. One that does not fit into any is left out; `false` then.
    pub fn push(&mut self, record: &Record) -> bool {
        self.add(record).is_ok()
    }

    fn add(&mut self, record: &Record) -> Result<(), Unfit> {
        match record {
            Record::Event(event) => self.block.push_event(event),
            other => {
                let Some((tag, what, json)) = columns::json_of(other) else { return Ok(()) };
                let json = json.map_err(Unfit::Json)?;
                if json.len() > MAX_JSON {
                    return Err(Unfit::TooLarge(what, json.len()));
                }
                self.block.push_json(tag, &json);
            }
        }
        Ok(())
    }

    /// Whether the block under way should be taken, so that it stays below what a reader accepts.
    pub fn is_full(&self) -> bool {
        self.block.size() >= BLOCK_TARGET
    }

    /// Whether no record is held.
    pub fn is_empty(&self) -> bool {
        self.block.records() == 0
    }

    /// Appends the block under way to `out`, as it is in a file, and begins another.
    ///
    /// # Errors
    /// The packer's.
    pub fn take(&mut self, out: &mut Vec<u8>) -> io::Result<()> {
        let records = self.block.records();
        self.raw.clear();
        self.block.take(&mut self.raw);
        let head = out.len();
        out.resize(head + BLOCK_HEADER, 0);
        let payload = self.packer.compress(&self.raw)?;
        let header = block_header(self.raw.len() as u32, &payload, records);
        out[head..].copy_from_slice(&header);
        out.extend_from_slice(&payload);
        Ok(())
    }
}

/// What is before the first block of a file.
pub fn file_head() -> Vec<u8> {
    file_header().to_vec()
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    /// Nothing written yet. `new`: the file did not exist before.
    Idle { new: bool },
    /// The file is ours.
    Begun,
    /// A write failed and was reported.
    Failed,
    /// `finish` was called.
    Finished,
}

impl Writer {
    /// Opens `path` for a recording. Fails early where the run's end would fail; changes nothing
    /// in a file that exists.
    pub fn create(path: impl AsRef<Path>) -> Result<Self, RecordingError> {
        let path = path.as_ref().to_owned();
        let create_error = |source| RecordingError::Create { path: path.clone(), source };
        let blocks = Blocks::new().map_err(create_error)?;
        // As perf does: command lines of who had the CPU are in it, and what was recorded as root is not everybody's.
        let mut new = OpenOptions::new();
        new.write(true).create_new(true).mode(0o600);
        let (file, new) = match new.open(&path) {
            Ok(file) => (file, true),
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {
                let file = OpenOptions::new().write(true).open(&path).map_err(create_error)?;
                (file, false)
            }
            Err(e) => return Err(create_error(e)),
        };
        Ok(Self { path, file, state: State::Idle { new }, blocks, written: 0 })
    }

    /// Adds a record; writes a block when enough are held. After a failed write, which is
    /// reported once, records are dropped and this returns `Ok` (see [`Writer::has_failed`]).
    pub fn write(&mut self, record: &Record) -> Result<(), RecordingError> {
        if self.state == State::Failed {
            return Ok(());
        }
        // Keeps a block below `MAX_RAW` whatever comes: one record is at most half of that.
        if self.blocks.is_full() {
            self.flush()?;
        }
        match self.blocks.add(record) {
            Ok(()) => {}
            Err(Unfit::TooLarge(what, bytes)) => {
                return Err(RecordingError::TooLarge { what, bytes });
            }
            Err(Unfit::Json(e)) => return Err(self.failed(e.into())),
        }
        if self.blocks.is_full() { self.flush() } else { Ok(()) }
    }

    /// Writes what is held as a block, so that a crash does not lose it. To be called about once
    /// a second; more often makes the file larger.
    pub fn flush(&mut self) -> Result<(), RecordingError> {
        if self.state == State::Failed || self.blocks.is_empty() {
            return Ok(());
        }
        match self.write_block() {
            Ok(()) => Ok(()),
            Err(e) => Err(self.failed(e)),
        }
    }

    /// Writes what is held and ends the recording; the file's size in bytes.
    pub fn finish(mut self) -> Result<u64, RecordingError> {
        self.flush()?;
        if self.state == State::Begun {
            self.state = State::Finished;
        }
        Ok(self.written)
    }

    /// Size of the file so far, bytes: what a reader can read.
    pub fn bytes_written(&self) -> u64 {
        self.written
    }

    /// Whether a write failed: the recording is not complete.
    pub fn has_failed(&self) -> bool {
        self.state == State::Failed
    }

    fn write_block(&mut self) -> io::Result<()> {
        let mut packed = Vec::new();
        if let State::Idle { .. } = self.state {
            // Devices and pipes have no length to set.
            if self.file.metadata()?.is_file() {
                self.file.set_len(0)?;
            }
            self.state = State::Begun;
            packed.extend_from_slice(&file_header());
        }
        self.blocks.take(&mut packed)?;
        self.file.write_all(&packed)?;
        self.written += packed.len() as u64;
        Ok(())
    }

    /// Ends the recording after a failed write, without the torn block where that can be undone.
    fn failed(&mut self, source: io::Error) -> RecordingError {
        if self.state == State::Begun && self.file.metadata().is_ok_and(|m| m.is_file()) {
            // The reader copes with a torn block too.
            let _ = self.file.set_len(self.written);
        }
        self.state = State::Failed;
        RecordingError::Write { path: self.path.clone(), kept: self.written, source }
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        // A run that ends by an error path still leaves its last second; nobody is left to tell.
        let _ = self.flush();
        if self.state == (State::Idle { new: true }) {
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

fn file_header() -> [u8; FILE_HEADER] {
    let mut header = [0; FILE_HEADER];
    header[..8].copy_from_slice(&MAGIC);
    header[8..10].copy_from_slice(&FORMAT_VERSION.to_le_bytes());
    header[10..12].copy_from_slice(&g211s_ebpf::ABI_VERSION.to_le_bytes());
    header
}

/// The header of a block with this payload.
pub(super) fn block_header(raw_len: u32, payload: &[u8], records: u32) -> [u8; BLOCK_HEADER] {
    let mut header = [0; BLOCK_HEADER];
    header[..4].copy_from_slice(&BLOCK_MAGIC);
    header[4..8].copy_from_slice(&raw_len.to_le_bytes());
    header[8..12].copy_from_slice(&(payload.len() as u32).to_le_bytes());
    header[12..16].copy_from_slice(&records.to_le_bytes());
    header[16..20].copy_from_slice(&crc32fast::hash(payload).to_le_bytes());
    let crc = crc32fast::hash(&header[..20]);
    header[20..].copy_from_slice(&crc.to_le_bytes());
    header
}
