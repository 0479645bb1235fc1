//! Recording file → records. Total: any file gives records or an error, never a panic, and never
//! more memory than a few times the caps in the module above. Must not know what records mean.

use std::fs::File;
use std::io::{self, BufReader, Read};
use std::path::{Path, PathBuf};

use super::columns::Decoder;
use super::{
    BLOCK_HEADER, BLOCK_MAGIC, FILE_HEADER, FORMAT_VERSION, MAGIC, MAX_PACKED, MAX_RAW,
    RecordingError,
};
use crate::record::Record;

/// Reads a recording: an iterator of its records, in the order they were written.
///
/// The first error ends it; the records before it were good. A file cut off by a crash is no
/// error: the iterator ends after the last whole block, and [`Reader::truncated`] tells.
pub struct Reader<R = BufReader<File>> {
    path: PathBuf,
    source: R,
    block: Option<Decoder>,
    /// Blocks begun.
    blocks: u64,
    /// Where the current block starts.
    block_at: u64,
    /// Bytes read.
    at: u64,
    truncated: u64,
    done: bool,
}

impl Reader {
    /// Opens a recording and checks its header and first block.
    pub fn open(path: impl AsRef<Path>) -> Result<Self, RecordingError> {
        let path = path.as_ref();
        let file = File::open(path)
            .map_err(|source| RecordingError::Read { path: path.to_owned(), source })?;
        Self::new(BufReader::new(file), path)
    }
}

impl<R: Read> Reader<R> {
    /// Reads a recording from anywhere; `name` stands for the file in errors.
    pub fn new(source: R, name: impl AsRef<Path>) -> Result<Self, RecordingError> {
        let mut reader = Self {
            path: name.as_ref().to_owned(),
            source,
            block: None,
            blocks: 0,
            block_at: 0,
            at: 0,
            truncated: 0,
            done: false,
        };
        reader.read_file_header()?;
        reader.next_block()?;
        if reader.block.is_none() {
            return Err(RecordingError::Empty { path: reader.path, bytes: reader.at });
        }
        Ok(reader)
    }

    /// Bytes at the end that are no whole block, because the recorder was cut off. Known once the
    /// iterator has ended; 0 for a file that is whole.
    pub fn truncated(&self) -> u64 {
        self.truncated
    }

    /// Bytes read so far.
    pub fn position(&self) -> u64 {
        self.at
    }

    fn read_file_header(&mut self) -> Result<(), RecordingError> {
        let mut header = Vec::with_capacity(FILE_HEADER);
        self.fill(&mut header, FILE_HEADER)?;
        let path = || self.path.clone();
        let magic = header.len().min(MAGIC.len());
        if header[..magic] != MAGIC[..magic] {
            return Err(RecordingError::Foreign { path: path() });
        }
        let Ok::<[u8; FILE_HEADER], _>(header) = header.try_into() else {
            return Err(RecordingError::Empty { path: path(), bytes: self.at });
        };
        let [_, _, _, _, _, _, _, _, f0, f1, a0, a1, ..] = header;
        let (format, abi) = (u16::from_le_bytes([f0, f1]), u16::from_le_bytes([a0, a1]));
        if format > FORMAT_VERSION {
            return Err(RecordingError::NewerFormat { path: path(), found: format });
        }
        // Format 0 was never written.
        if format == 0 {
            return Err(RecordingError::Foreign { path: path() });
        }
        if abi != g211s_ebpf::ABI_VERSION {
            return Err(RecordingError::OtherAbi { path: path(), found: abi });
        }
        Ok(())
    }

    /// Makes the next block current; none where the file ends.
    fn next_block(&mut self) -> Result<(), RecordingError> {
        self.block = None;
        self.block_at = self.at;
        self.blocks += 1;
        let mut header = Vec::with_capacity(BLOCK_HEADER);
        self.fill(&mut header, BLOCK_HEADER)?;
        if header.len() < BLOCK_HEADER {
            return self.cut();
        }
        if header.iter().all(|b| *b == 0) {
            // A machine that crashed may leave the file's end as zeros.
            return if self.rest_is_zero()? { self.cut() } else { Err(self.corrupt("no block")) };
        }
        let number = |at: usize| {
            u32::from_le_bytes([header[at], header[at + 1], header[at + 2], header[at + 3]])
        };
        if header[..4] != BLOCK_MAGIC || number(20) != crc32fast::hash(&header[..20]) {
            return Err(self.corrupt("bad header"));
        }
        let (raw_len, packed_len) = (number(4) as usize, number(8) as usize);
        if raw_len > MAX_RAW || packed_len > MAX_PACKED {
            return Err(self.corrupt("too large"));
        }
        let mut packed = Vec::new();
        self.fill(&mut packed, packed_len)?;
        if packed.len() < packed_len {
            return self.cut();
        }
        if crc32fast::hash(&packed) != number(16) {
            return Err(self.corrupt("wrong checksum"));
        }
        let raw = zstd::bulk::decompress(&packed, raw_len)
            .map_err(|_| self.corrupt("does not decompress"))?;
        if raw.len() != raw_len {
            return Err(self.corrupt("wrong length"));
        }
        let block = Decoder::new(raw, number(12)).map_err(|why| self.corrupt(why))?;
        self.block = Some(block);
        Ok(())
    }

    /// The file ends here; what follows the last whole block was dropped.
    #[expect(clippy::unnecessary_wraps, reason = "the last word of a fallible step")]
    fn cut(&mut self) -> Result<(), RecordingError> {
        self.truncated = self.at - self.block_at;
        self.done = true;
        Ok(())
    }

    fn rest_is_zero(&mut self) -> Result<bool, RecordingError> {
        loop {
            let mut chunk = Vec::new();
            self.fill(&mut chunk, 64 << 10)?;
            if chunk.is_empty() {
                return Ok(true);
            }
            if chunk.iter().any(|b| *b != 0) {
                return Ok(false);
            }
        }
    }

    /// Reads up to `len` bytes; fewer only at the end. Memory grows with what is there, not with
    /// what is asked for.
    fn fill(&mut self, into: &mut Vec<u8>, len: usize) -> Result<(), RecordingError> {
        match self.source.by_ref().take(len as u64).read_to_end(into) {
            Ok(n) => {
                self.at += n as u64;
                Ok(())
            }
            Err(source) => Err(self.read_error(source)),
        }
    }

    fn read_error(&self, source: io::Error) -> RecordingError {
        RecordingError::Read { path: self.path.clone(), source }
    }

    fn corrupt(&self, why: &'static str) -> RecordingError {
        RecordingError::Corrupt {
            path: self.path.clone(),
            block: self.blocks,
            offset: self.block_at,
            why,
        }
    }
}

impl<R: Read> Iterator for Reader<R> {
    type Item = Result<Record, RecordingError>;

    fn next(&mut self) -> Option<Self::Item> {
        while !self.done {
            match self.block.as_mut().and_then(Decoder::next) {
                Some(Ok(record)) => return Some(Ok(record)),
                Some(Err(why)) => {
                    self.done = true;
                    return Some(Err(self.corrupt(why)));
                }
                None => {
                    if let Err(e) = self.next_block() {
                        self.done = true;
                        return Some(Err(e));
                    }
                }
            }
        }
        None
    }
}
