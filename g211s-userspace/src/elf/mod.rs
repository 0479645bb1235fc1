//! ELF files as far as a Go observer needs them: segments, sections, relative relocations and the
//! way from a virtual address to a place in the file.
//!
//! Everything is read through [`ReadAt`] (`pread`; never mmap: the file may be truncated under us,
//! which would be a SIGBUS) and every length that comes from the file is bounded, since the file is
//! a stranger's. Must not know processes, probes or anything of Go outside `buildinfo`/`pclntab`.

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::FileExt;

pub mod buildinfo;
mod lines;
pub mod moves;
pub mod pclntab;
pub mod refs;
pub mod sites;
pub mod symbols;

/// Most bytes of one table that are read into memory at once.
pub const MAX_TABLE: u64 = 256 << 20;
/// Bytes read at a time where a table is only scanned.
const CHUNK: u64 = 1 << 20;
const MAX_SEGMENTS: u64 = 4096;
const MAX_SECTIONS: u64 = 65_536;
const MAX_SECTION_NAMES: u64 = 4 << 20;
const MAX_SECTION_NAME: usize = 256;
const MAX_DYNAMIC: u64 = 64 << 10;
/// Places where a scan finds what it looks for, and it turns out to be something else.
const MAX_FINDS: usize = 4096;

/// `e_machine` of x86-64.
pub const EM_X86_64: u16 = 62;
const ET_EXEC: u16 = 2;
const ET_DYN: u16 = 3;
const PT_LOAD: u32 = 1;
const PT_DYNAMIC: u32 = 2;
const PT_INTERP: u32 = 3;
const PF_X: u32 = 1;
const PF_W: u32 = 2;
const SHT_SYMTAB: u32 = 2;
const SHT_NOBITS: u32 = 8;
const SHF_COMPRESSED: u64 = 0x800;
const ELFCOMPRESS_ZLIB: u32 = 1;
const CHDR_LEN: usize = 24;
const DT_NULL: u64 = 0;
const DT_RELA: u64 = 7;
const DT_RELASZ: u64 = 8;
const R_X86_64_RELATIVE: u64 = 8;
const EHDR_LEN: u64 = 64;
const PHDR_LEN: u64 = 56;
const SHDR_LEN: u64 = 64;
const RELA_LEN: u64 = 24;

/// Why a file could not be used.
#[derive(Debug, thiserror::Error)]
pub enum ElfError {
    /// The file could not be read.
    #[error("cannot read the executable: {0}")]
    Io(#[from] io::Error),
    /// No ELF magic.
    #[error("not an ELF file")]
    NotElf,
    /// ELF, but of a kind that is not read.
    #[error("unsupported ELF file: {0}")]
    Unsupported(&'static str),
    /// The file contradicts itself.
    #[error("malformed executable: {0}")]
    Malformed(&'static str),
    /// A table is larger than what is read.
    #[error("malformed executable: {what} claims {size} bytes, the limit is {limit}")]
    TooLarge {
        /// Which table.
        what: &'static str,
        /// Its size, bytes.
        size: u64,
        /// The limit, bytes.
        limit: u64,
    },
    /// Something that a Go executable has is not there.
    #[error("no {0} in the executable")]
    Missing(&'static str),
}

/// Bytes that can be read at a position, without a cursor.
pub trait ReadAt: Send + Sync {
    /// Length, bytes.
    fn size(&self) -> io::Result<u64>;
    /// Reads up to `buf.len()` bytes at `offset`; 0 at the end.
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize>;
}

impl ReadAt for File {
    fn size(&self) -> io::Result<u64> {
        Ok(self.metadata()?.len())
    }

    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        FileExt::read_at(self, buf, offset)
    }
}

impl ReadAt for Vec<u8> {
    fn size(&self) -> io::Result<u64> {
        Ok(self.len() as u64)
    }

    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        let rest = usize::try_from(offset).ok().and_then(|o| self.get(o..)).unwrap_or_default();
        let n = rest.len().min(buf.len());
        buf[..n].copy_from_slice(&rest[..n]);
        Ok(n)
    }
}

/// A program header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Segment {
    kind: u32,
    flags: u32,
    /// Where its bytes begin in the file.
    pub offset: u64,
    /// Where they are mapped (before the load bias of a PIE).
    pub va: u64,
    /// How many of them are in the file.
    pub file_size: u64,
}

impl Segment {
    /// Whether it is mapped.
    pub fn is_load(&self) -> bool {
        self.kind == PT_LOAD
    }

    /// Whether it is mapped executable.
    pub fn is_executable(&self) -> bool {
        self.is_load() && self.flags & PF_X != 0
    }

    fn is_writable(&self) -> bool {
        self.flags & PF_W != 0
    }

    /// Offset in the file of `va`, if the file holds it.
    fn file_offset(&self, va: u64) -> Option<u64> {
        let delta = va.checked_sub(self.va)?;
        if delta < self.file_size { self.offset.checked_add(delta) } else { None }
    }
}

/// A section header.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Section {
    /// Its name.
    pub name: String,
    kind: u32,
    flags: u64,
    /// Where it is mapped; 0 where it is not.
    pub va: u64,
    /// Where it begins in the file.
    pub offset: u64,
    /// Its length, bytes (0 in the file for `.bss`-like ones).
    pub size: u64,
}

/// A 64-bit little-endian ELF executable.
pub struct ElfFile {
    source: Box<dyn ReadAt>,
    size: u64,
    /// `ET_DYN`: loaded at an address chosen by the kernel.
    pub is_dyn: bool,
    /// `e_machine`.
    pub machine: u16,
    /// `e_entry`: where the kernel, or the dynamic loader, enters it.
    pub entry: u64,
    /// Program headers, in file order.
    pub segments: Vec<Segment>,
    /// Section headers, in file order; empty where they were stripped.
    pub sections: Vec<Section>,
}

impl std::fmt::Debug for ElfFile {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ElfFile")
            .field("size", &self.size)
            .field("is_dyn", &self.is_dyn)
            .field("machine", &self.machine)
            .field("segments", &self.segments)
            .field("sections", &self.sections)
            .finish_non_exhaustive()
    }
}

impl ElfFile {
    /// Reads the headers. Fails on anything but a well-formed 64-bit little-endian `ET_EXEC` or
    /// `ET_DYN`; the machine is left to the caller to judge.
    pub fn open(source: impl ReadAt + 'static) -> Result<Self, ElfError> {
        let source: Box<dyn ReadAt> = Box::new(source);
        let size = source.size()?;
        let mut this = Self {
            source,
            size,
            is_dyn: false,
            machine: 0,
            entry: 0,
            segments: Vec::new(),
            sections: Vec::new(),
        };
        if size < EHDR_LEN {
            return Err(ElfError::NotElf);
        }
        let ehdr = this.read(0, EHDR_LEN, EHDR_LEN, "the ELF header")?;
        if !ehdr.starts_with(b"\x7fELF") {
            return Err(ElfError::NotElf);
        }
        if ehdr[4] != 2 {
            return Err(ElfError::Unsupported("not 64-bit"));
        }
        if ehdr[5] != 1 {
            return Err(ElfError::Unsupported("not little-endian"));
        }
        this.is_dyn = match u16_at(&ehdr, 16) {
            ET_EXEC => false,
            ET_DYN => true,
            _ => return Err(ElfError::Unsupported("neither an executable nor a shared object")),
        };
        this.machine = u16_at(&ehdr, 18);
        this.entry = u64_at(&ehdr, 24);
        this.segments = this.read_segments(&ehdr)?;
        this.sections = this.read_sections(&ehdr)?;
        Ok(this)
    }

    fn read_segments(&self, ehdr: &[u8]) -> Result<Vec<Segment>, ElfError> {
        let (offset, entry, count) =
            (u64_at(ehdr, 32), u64::from(u16_at(ehdr, 54)), u64::from(u16_at(ehdr, 56)));
        if count == 0 || entry != PHDR_LEN || count > MAX_SEGMENTS {
            return Err(ElfError::Malformed("program header table"));
        }
        let table = self.read(offset, count * PHDR_LEN, MAX_SEGMENTS * PHDR_LEN, "segments")?;
        let segments: Vec<Segment> = table
            .chunks_exact(PHDR_LEN as usize)
            .map(|p| Segment {
                kind: u32_at(p, 0),
                flags: u32_at(p, 4),
                offset: u64_at(p, 8),
                va: u64_at(p, 16),
                file_size: u64_at(p, 32),
            })
            .collect();
        // From here on, addresses and offsets within a segment cannot overflow.
        let wraps = |s: &Segment| {
            s.va.checked_add(s.file_size).is_none() || s.offset.checked_add(s.file_size).is_none()
        };
        if segments.iter().any(wraps) {
            return Err(ElfError::Malformed("a segment wraps around"));
        }
        Ok(segments)
    }

    fn read_sections(&self, ehdr: &[u8]) -> Result<Vec<Section>, ElfError> {
        let (offset, entry) = (u64_at(ehdr, 40), u64::from(u16_at(ehdr, 58)));
        let (mut count, mut names) = (u64::from(u16_at(ehdr, 60)), u64::from(u16_at(ehdr, 62)));
        if offset == 0 {
            return Ok(Vec::new());
        }
        if entry != SHDR_LEN {
            return Err(ElfError::Malformed("section header table"));
        }
        // Where the numbers do not fit 16 bits, section 0 holds them (elf(5), e_shnum, e_shstrndx).
        if count == 0 || names == 0xffff {
            let first = self.read(offset, SHDR_LEN, SHDR_LEN, "sections")?;
            if count == 0 {
                count = u64_at(&first, 32);
            }
            if names == 0xffff {
                names = u64::from(u32_at(&first, 40));
            }
        }
        let table = self.read(
            offset,
            count.saturating_mul(SHDR_LEN),
            MAX_SECTIONS * SHDR_LEN,
            "the section headers",
        )?;
        let headers: Vec<&[u8]> = table.chunks_exact(SHDR_LEN as usize).collect();
        let strings = match headers.get(names as usize) {
            Some(h) if u32_at(h, 4) != SHT_NOBITS => {
                self.read(u64_at(h, 24), u64_at(h, 32), MAX_SECTION_NAMES, "section names")?
            }
            _ => Vec::new(),
        };
        Ok(headers
            .into_iter()
            .map(|h| Section {
                name: c_str(&strings, u32_at(h, 0) as usize, MAX_SECTION_NAME)
                    .map(|s| String::from_utf8_lossy(s).into_owned())
                    .unwrap_or_default(),
                kind: u32_at(h, 4),
                flags: u64_at(h, 8),
                va: u64_at(h, 16),
                offset: u64_at(h, 24),
                size: u64_at(h, 32),
            })
            .collect())
    }

    /// Exactly `len` bytes at `offset` in the file. Fails where `len` exceeds `limit` or the file
    /// ends before; allocates only what the file really holds.
    pub fn read(
        &self,
        offset: u64,
        len: u64,
        limit: u64,
        what: &'static str,
    ) -> Result<Vec<u8>, ElfError> {
        if len > limit {
            return Err(ElfError::TooLarge { what, size: len, limit });
        }
        if offset.checked_add(len).is_none_or(|end| end > self.size) {
            return Err(ElfError::Malformed("a table reaches past the end of the file"));
        }
        let mut buf = vec![0; len as usize];
        let mut done = 0;
        while done < buf.len() {
            match self.source.read_at(&mut buf[done..], offset + done as u64) {
                Ok(0) => return Err(ElfError::Malformed("the file shrank while it was read")),
                Ok(n) => done += n,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(e.into()),
            }
        }
        Ok(buf)
    }

    /// Exactly `len` bytes at virtual address `va`, within one loaded segment's file part.
    pub fn read_va(
        &self,
        va: u64,
        len: u64,
        limit: u64,
        what: &'static str,
    ) -> Result<Vec<u8>, ElfError> {
        if self.extent(va) < len {
            return Err(ElfError::Malformed("a table reaches past the end of its segment"));
        }
        let offset = self.file_offset(va).unwrap_or(0);
        self.read(offset, len, limit, what)
    }

    /// Offset in the file of a virtual address, if a loaded segment holds it in the file.
    pub fn file_offset(&self, va: u64) -> Option<u64> {
        self.loads().find_map(|s| s.file_offset(va))
    }

    /// Whether `[va, va + len)` lies in the file part of one executable segment: the only place
    /// where a probe may go.
    pub fn is_text(&self, va: u64, len: u64) -> bool {
        self.loads()
            .filter(|s| s.is_executable())
            .any(|s| va >= s.va && va.checked_add(len).is_some_and(|end| end - s.va <= s.file_size))
    }

    /// Bytes that the file holds from `va` to the end of its segment; 0 where it is not mapped.
    pub fn extent(&self, va: u64) -> u64 {
        self.loads().find(|s| s.file_offset(va).is_some()).map_or(0, |s| s.file_size - (va - s.va))
    }

    fn loads(&self) -> impl Iterator<Item = &Segment> {
        self.segments.iter().filter(|s| s.is_load())
    }

    /// Loaded segments that hold data, the writable ones first.
    fn data_segments(&self) -> impl Iterator<Item = &Segment> {
        let data = |s: &&Segment| !s.is_executable();
        self.loads()
            .filter(data)
            .filter(|s| s.is_writable())
            .chain(self.loads().filter(data).filter(|s| !s.is_writable()))
    }

    /// The first section of this name.
    pub fn section(&self, name: &str) -> Option<&Section> {
        self.sections.iter().find(|s| s.name == name)
    }

    /// A section's contents, decompressed (`SHF_COMPRESSED`, zlib: what Go's linker writes). Fails
    /// where it is, or claims to become, longer than `limit`.
    pub fn section_contents(&self, name: &'static str, limit: u64) -> Result<Vec<u8>, ElfError> {
        let section = self.section(name).ok_or(ElfError::Missing(name))?;
        if section.kind == SHT_NOBITS {
            return Err(ElfError::Malformed("a section without contents"));
        }
        let bytes = self.read(section.offset, section.size, limit, name)?;
        if section.flags & SHF_COMPRESSED == 0 {
            return Ok(bytes);
        }
        // elf(5), Elf64_Chdr: type, reserved, size, alignment.
        let Some((header, packed)) = bytes.split_at_checked(CHDR_LEN) else {
            return Err(ElfError::Malformed("a compressed section"));
        };
        if u32_at(header, 0) != ELFCOMPRESS_ZLIB {
            return Err(ElfError::Unsupported(
                "debug information compressed otherwise than by zlib",
            ));
        }
        let size = u64_at(header, 8);
        if size > limit {
            return Err(ElfError::TooLarge { what: name, size, limit });
        }
        // What it claims is only believed as a bound.
        let mut contents = Vec::new();
        flate2::read::ZlibDecoder::new(packed).take(size).read_to_end(&mut contents)?;
        if contents.len() as u64 != size {
            return Err(ElfError::Malformed("a compressed section is shorter than it says"));
        }
        Ok(contents)
    }

    /// Whether a dynamic loader is named (`PT_INTERP`).
    pub fn has_interp(&self) -> bool {
        self.segments.iter().any(|s| s.kind == PT_INTERP)
    }

    /// Whether the symbol table survived `-s` / `strip`.
    pub fn has_symtab(&self) -> bool {
        self.sections.iter().any(|s| s.kind == SHT_SYMTAB && s.size > 0)
    }

    /// Whether there is DWARF (plain or in the older compressed form).
    pub fn has_dwarf(&self) -> bool {
        self.section(".debug_info").is_some() || self.section(".zdebug_info").is_some()
    }

    /// Virtual addresses, aligned to `align` (a power of two, at most 1 MiB), at which `needle`
    /// stands in a data segment (the writable ones first, or only). `accept` says whether to stop there.
    fn scan_data(
        &self,
        needle: &[u8],
        align: u64,
        writable_only: bool,
        mut accept: impl FnMut(u64) -> bool,
    ) -> Result<Option<u64>, ElfError> {
        // Segments that overlap, or a file full of needles, must not keep us for long.
        let mut budget = self.size.saturating_mul(2);
        let mut finds = 0;
        for segment in self.data_segments().filter(|s| s.is_writable() || !writable_only) {
            // A hostile header may claim more than the file holds.
            let len = segment.file_size.min(self.size.saturating_sub(segment.offset));
            let skip = segment.va.wrapping_neg() & (align - 1);
            let mut at = skip;
            while at < len {
                // Aligned finds cannot cross a chunk's end if the needle is at most `align` long;
                // longer needles get an overlap.
                let overlap = (needle.len() as u64).saturating_sub(align);
                let n = (CHUNK + overlap).min(len - at);
                budget = budget
                    .checked_sub(n)
                    .ok_or(ElfError::Malformed("its segments overlap in the file"))?;
                let chunk = self.read(segment.offset + at, n, CHUNK + overlap, "a segment")?;
                for i in (0..chunk.len()).step_by(align as usize) {
                    if chunk[i..].starts_with(needle) {
                        let va = segment.va.wrapping_add(at + i as u64);
                        if accept(va) {
                            return Ok(Some(va));
                        }
                        finds += 1;
                        if finds == MAX_FINDS {
                            return Ok(None);
                        }
                    }
                }
                at += CHUNK;
            }
        }
        Ok(None)
    }

    /// Calls `f(place, value)` for every `R_X86_64_RELATIVE` in the dynamic relocations: at load
    /// time `place` gets `bias + value`. A PIE's pointers are only there (the Go linker leaves the
    /// places themselves zero). A file without such relocations is fine.
    fn for_each_relative(&self, mut f: impl FnMut(u64, u64)) -> Result<(), ElfError> {
        let Some(dynamic) = self.segments.iter().find(|s| s.kind == PT_DYNAMIC) else {
            return Ok(());
        };
        let table =
            self.read(dynamic.offset, dynamic.file_size, MAX_DYNAMIC, "the dynamic section")?;
        let (mut va, mut len) = (0, 0);
        for entry in table.chunks_exact(16) {
            match u64_at(entry, 0) {
                DT_NULL => break,
                DT_RELA => va = u64_at(entry, 8),
                DT_RELASZ => len = u64_at(entry, 8),
                _ => {}
            }
        }
        if va == 0 || len == 0 {
            return Ok(());
        }
        if len > self.extent(va) {
            return Err(ElfError::Malformed("relocations reach past the end of their segment"));
        }
        let step = CHUNK / RELA_LEN * RELA_LEN;
        let mut at = 0;
        while at < len {
            let chunk = self.read_va(va + at, step.min(len - at), step, "relocations")?;
            for rela in chunk.chunks_exact(RELA_LEN as usize) {
                if u64_at(rela, 8) & 0xffff_ffff == R_X86_64_RELATIVE {
                    f(u64_at(rela, 0), u64_at(rela, 16));
                }
            }
            at += step;
        }
        Ok(())
    }
}

// The callers of these have checked the length (fixed-size chunks).
fn u16_at(b: &[u8], at: usize) -> u16 {
    u16::from_le_bytes([b[at], b[at + 1]])
}

fn u32_at(b: &[u8], at: usize) -> u32 {
    u32::from_le_bytes([b[at], b[at + 1], b[at + 2], b[at + 3]])
}

fn u64_at(b: &[u8], at: usize) -> u64 {
    u64::from(u32_at(b, at)) | u64::from(u32_at(b, at + 4)) << 32
}

/// The bytes from `at` to the next NUL, at most `max` of them; `None` past the end.
fn c_str(b: &[u8], at: usize, max: usize) -> Option<&[u8]> {
    let rest = b.get(at..)?;
    let rest = &rest[..rest.len().min(max)];
    Some(&rest[..rest.iter().position(|&c| c == 0).unwrap_or(rest.len())])
}

#[cfg(test)]
pub(crate) mod fixture;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::buildinfo::BuildInfo;
    use super::fixture;
    use super::pclntab::Pclntab;
    use super::*;

    fn parse_everything(bytes: Vec<u8>) {
        let Ok(elf) = ElfFile::open(bytes) else { return };
        let _ = BuildInfo::read(&elf);
        if let Ok(table) = Pclntab::read(&elf) {
            for f in table.functions() {
                assert!(f.entry <= f.end);
                let _ = elf.file_offset(f.entry);
            }
        }
    }

    #[test]
    fn addresses_map_to_file_offsets() {
        let elf = ElfFile::open(fixture::go_elf(false)).expect("fixture parses");
        assert_eq!(elf.file_offset(fixture::TEXT_VA), Some(fixture::TEXT_OFFSET));
        assert_eq!(elf.file_offset(fixture::TEXT_VA + 5), Some(fixture::TEXT_OFFSET + 5));
        assert_eq!(elf.file_offset(fixture::TEXT_VA + fixture::TEXT_LEN), None);
        assert_eq!(elf.file_offset(fixture::TEXT_VA - 1), None);
        assert!(elf.is_text(fixture::TEXT_VA, fixture::TEXT_LEN));
        assert!(!elf.is_text(fixture::TEXT_VA, fixture::TEXT_LEN + 1));
        assert!(!elf.is_text(fixture::DATA_VA, 1));
        assert!(!elf.is_text(u64::MAX, 2));
    }

    #[test]
    fn short_or_foreign_files_are_refused() {
        assert!(matches!(ElfFile::open(Vec::new()), Err(ElfError::NotElf)));
        assert!(matches!(ElfFile::open(vec![b'#'; 200]), Err(ElfError::NotElf)));
        let mut elf32 = fixture::go_elf(false);
        elf32[4] = 1;
        assert!(matches!(ElfFile::open(elf32), Err(ElfError::Unsupported(_))));
        let mut cut = fixture::go_elf(false);
        cut.truncate(100);
        assert!(matches!(ElfFile::open(cut), Err(ElfError::Malformed(_))));
    }

    #[test]
    fn segments_that_wrap_around_are_refused() {
        for field in [8, 16] {
            let mut bytes = fixture::go_elf(false);
            let at = 64 + 56 + field;
            bytes[at..at + 8].copy_from_slice(&(u64::MAX - 16).to_le_bytes());
            assert!(matches!(ElfFile::open(bytes), Err(ElfError::Malformed(_))));
        }
    }

    #[test]
    fn a_scan_is_bounded() {
        let elf = ElfFile::open(fixture::go_elf(false)).expect("fixture parses");
        let zeros = [0; 8];
        let mut finds = 0;
        let found = elf.scan_data(&zeros, 1, false, |_| {
            finds += 1;
            false
        });
        assert!(matches!(found, Ok(None)));
        assert!(finds > 0 && finds <= MAX_FINDS);
    }

    #[test]
    fn lengths_are_bounded_before_allocation() {
        let elf = ElfFile::open(fixture::go_elf(false)).expect("fixture parses");
        assert!(matches!(elf.read(0, u64::MAX, 10, "x"), Err(ElfError::TooLarge { .. })));
        assert!(matches!(elf.read(u64::MAX, 2, 10, "x"), Err(ElfError::Malformed(_))));
        assert!(matches!(elf.read(0, 1 << 30, 1 << 31, "x"), Err(ElfError::Malformed(_))));
    }

    proptest! {
        #[test]
        fn random_bytes_never_panic(mut bytes in proptest::collection::vec(any::<u8>(), 0..2000)) {
            parse_everything(bytes.clone());
            if bytes.len() >= 6 {
                bytes[..6].copy_from_slice(b"\x7fELF\x02\x01");
                parse_everything(bytes);
            }
        }

        #[test]
        fn mutations_never_panic(
            pie: bool,
            edits in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..20),
            wide in proptest::option::of((any::<prop::sample::Index>(), any::<u64>())),
        ) {
            let mut bytes = fixture::go_elf(pie);
            for (at, value) in edits {
                let at = at.index(bytes.len());
                bytes[at] = value;
            }
            if let Some((at, value)) = wide {
                let at = at.index(bytes.len() / 8 - 1) * 8;
                bytes[at..at + 8].copy_from_slice(&value.to_le_bytes());
            }
            parse_everything(bytes);
        }
    }
}
