//! The Go function table (`.gopclntab`), which even stripped binaries carry: name → address range.
//! Must not know which functions matter.
//!
//! Layout: Go `src/runtime/symtab.go`, `pcHeader`, `moduledata`, `functab`, and
//! `src/runtime/runtime2.go`, `_func`. The same in 1.21.13 to 1.27.3 as far as it is read here,
//! except that `pcHeader.textStart` is 0 since 1.26: the base of all offsets is
//! `moduledata.text`, in every version.

use std::collections::HashMap;

use super::{ElfError, ElfFile, MAX_TABLE, c_str, u32_at, u64_at};

/// Go 1.20+ (`internal/abi/symtab.go`, `Go120PCLnTabMagic`), two pad bytes, minLC 1 (x86),
/// ptrSize 8.
const MAGIC: &[u8; 8] = b"\xf1\xff\xff\xff\0\0\x01\x08";
/// Go 1.18 and 1.19 (`Go118PCLnTabMagic`): shorter `_func`s and longer inlined calls, the rest alike.
const MAGIC_118: &[u8; 8] = b"\xf0\xff\xff\xff\0\0\x01\x08";
const HEADER_LEN: u64 = 72;
const ALIGN: u64 = 8;
const FTAB_ENTRY: u64 = 8;
/// Bytes of a `_func` that every one has: entryOff, nameOff.
const FUNC_HEAD: u64 = 8;
/// Bytes that are kept of the last `_func` where they are there: more than any has with its arrays.
const FUNC_MAX: u64 = 256;
/// Names are compared and shown up to here (generic instances can be longer).
const MAX_NAME: usize = 1024;
/// Names are told apart by this many bytes before they are looked at as a whole (`runtime.`).
const HEAD: usize = 8;
/// Bytes of `moduledata` up to and with `etext`; its offsets so far are those of 1.18 to 1.27.
const MODULE_HEAD: u64 = 192;
/// Bytes of `moduledata` that are kept: past `gofunc` in every version (344 in 1.27.3, of 568).
const MODULE_LEN: u64 = 400;
/// More pointers to the pcHeader than this are not looked at.
const MAX_CANDIDATES: usize = 64;

/// A function of the table. Addresses are those of the file, before a PIE's load bias.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Function<'a> {
    /// Its name, e.g. `runtime.(*mcache).refill`.
    pub name: &'a [u8],
    /// First byte.
    pub entry: u64,
    /// First byte of what follows: the next function, so padding is included.
    pub end: u64,
}

/// The table, in memory: names and entries, without the line tables.
#[derive(Debug, Default)]
pub struct Pclntab {
    /// `moduledata.text`.
    text: u64,
    len: usize,
    names: Vec<u8>,
    /// ftab, then the `_func`s; offsets are from its start.
    funcs: Vec<u8>,
    /// Where the line tables are, on disk.
    lines: LineTables,
    /// The head of `runtime.moduledata`, its pointers relocated; empty where it was not found.
    module: Vec<u8>,
}

/// Where the line tables are (start and end, virtual addresses) and which format they have.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct LineTables {
    /// Written by Go 1.18 or 1.19.
    pub(super) is_118: bool,
    /// `cutab`: for each compilation unit, offsets of its files' names.
    pub(super) units: (u64, u64),
    /// `filetab`: the files' names.
    pub(super) files: (u64, u64),
    /// `pctab`: values by address, as deltas.
    pub(super) values: (u64, u64),
}

struct Header {
    va: u64,
    functions: u64,
    text_start: u64,
    names: (u64, u64),
    /// cutab, filetab, pctab: each up to the next, the last up to `funcs`.
    lines: [u64; 3],
    funcs: u64,
    is_118: bool,
}

impl Pclntab {
    /// Finds and reads the table. [`ElfError::Missing`] where there is none of Go 1.20+.
    pub fn read(elf: &ElfFile) -> Result<Self, ElfError> {
        let (header, limit) = Self::find(elf)?.ok_or(ElfError::Missing("Go function table"))?;
        let names = elf.read_va(
            header.va + header.names.0,
            header.names.1 - header.names.0,
            MAX_TABLE,
            "the function names",
        )?;
        let ftab_len = (header.functions + 1).saturating_mul(FTAB_ENTRY) - 4;
        let funcs_va = header.va + header.funcs;
        let ftab = elf.read_va(funcs_va, ftab_len, MAX_TABLE, "the function table")?;
        let last = ftab
            .chunks_exact(FTAB_ENTRY as usize)
            .map(|e| u64::from(u32_at(e, 4)))
            .max()
            .ok_or(ElfError::Malformed("no functions"))?;
        if last + FUNC_HEAD > limit - header.funcs {
            return Err(ElfError::Malformed("a function lies outside of its table"));
        }
        let whole = ftab_len.max(last + FUNC_MAX.min(limit - header.funcs - last));
        let funcs = elf.read_va(funcs_va, whole, MAX_TABLE, "the function table")?;
        let (text, module) = match find_module(elf, &header)? {
            Some(found) => found,
            // Before 1.26, and without relocation, the header says it too.
            None if header.text_start != 0 => (header.text_start, Vec::new()),
            None => return Err(ElfError::Missing("runtime.moduledata (the base of Go's text)")),
        };
        let lines = header.line_tables();
        Ok(Self { text, len: header.functions as usize, names, funcs, lines, module })
    }

    /// The header, and how many bytes the table may have.
    fn find(elf: &ElfFile) -> Result<Option<(Header, u64)>, ElfError> {
        for name in [".gopclntab", ".data.rel.ro.gopclntab"] {
            if let Some(section) = elf.section(name)
                && let Some(header) = Header::read(elf, section.va)
            {
                let limit = section.size.min(elf.extent(section.va));
                return Ok(header.is_within(limit).then_some((header, limit)));
            }
        }
        let mut found = None;
        for magic in [MAGIC, MAGIC_118] {
            elf.scan_data(magic, ALIGN, false, |va| {
                let limit = elf.extent(va);
                found = Header::read(elf, va).filter(|h| h.is_within(limit)).map(|h| (h, limit));
                found.is_some()
            })?;
            if found.is_some() {
                break;
            }
        }
        Ok(found)
    }

    /// Number of functions.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there are none (never, for a table that was read).
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Where Go's text begins (`runtime.text`), before a PIE's load bias.
    pub fn text(&self) -> u64 {
        self.text
    }

    /// All functions, by address. Nothing is allocated.
    pub fn functions(&self) -> impl Iterator<Item = Function<'_>> {
        (0..self.len).filter_map(|i| self.function(i))
    }

    /// The function of an index below [`Self::len`].
    pub(super) fn function(&self, index: usize) -> Option<Function<'_>> {
        if index >= self.len {
            return None;
        }
        let (name, entry, end) = self.raw(index)?;
        Some(Function { name: c_str(name, 0, MAX_NAME)?, entry, end })
    }

    /// The function that an address lies in, with its index.
    pub(super) fn find_at(&self, va: u64) -> Option<(usize, Function<'_>)> {
        let offset = u32::try_from(va.checked_sub(self.text)?).ok()?;
        let (mut low, mut high) = (0, self.len);
        while low < high {
            let middle = low.midpoint(high);
            if u32_at(&self.funcs, middle * FTAB_ENTRY as usize) <= offset {
                low = middle + 1;
            } else {
                high = middle;
            }
        }
        let index = low.checked_sub(1)?;
        let function = self.function(index)?;
        (function.entry..function.end).contains(&va).then_some((index, function))
    }

    /// The function that an address lies in.
    pub fn at(&self, va: u64) -> Option<Function<'_>> {
        self.find_at(va).map(|(_, function)| function)
    }

    /// A function's `_func`, with all that follows it.
    pub(super) fn func(&self, index: usize) -> Option<&[u8]> {
        if index >= self.len {
            return None;
        }
        self.funcs.get(u32_at(&self.funcs, index * FTAB_ENTRY as usize + 4) as usize..)
    }

    /// The function name at an offset of `funcnametab`; `None` where none begins there.
    pub(super) fn name_at(&self, at: usize) -> Option<&[u8]> {
        if at > 0 && *self.names.get(at - 1)? != 0 {
            return None;
        }
        c_str(&self.names, at, MAX_NAME).filter(|name| !name.is_empty())
    }

    /// Where the line tables are.
    pub(super) fn line_tables(&self) -> LineTables {
        self.lines
    }

    /// The words of `runtime.moduledata` behind `etext`, as far as they were read.
    pub(super) fn module_tail(&self) -> impl Iterator<Item = u64> {
        let tail = self.module.get(MODULE_HEAD as usize..).unwrap_or_default();
        tail.chunks_exact(8).map(|word| u64_at(word, 0))
    }

    /// The word at `offset` of `runtime.moduledata`, where that was read.
    pub fn module_word(&self, offset: usize) -> Option<u64> {
        let end = offset.checked_add(8)?;
        self.module.get(offset..end).map(|word| u64_at(word, 0))
    }

    /// Name with all that follows it, entry, end.
    fn raw(&self, index: usize) -> Option<(&[u8], u64, u64)> {
        let at = index * FTAB_ENTRY as usize;
        let entry = self.text.checked_add(u64::from(u32_at(&self.funcs, at)))?;
        let next = self.text.checked_add(u64::from(u32_at(&self.funcs, at + 8)))?;
        let func = u32_at(&self.funcs, at + 4) as usize;
        let name = u32_at(self.funcs.get(func..func + FUNC_HEAD as usize)?, 4) as usize;
        Some((self.names.get(name..)?, entry, next.max(entry)))
    }

    /// Functions of these exact names, in one pass. A name may have several (an ABI wrapper has the
    /// name of the function it wraps) or none.
    pub fn resolve<'n>(&self, names: &[&'n str]) -> HashMap<&'n str, Vec<Function<'_>>> {
        let wanted: HashMap<&[u8], &'n str> = names.iter().map(|n| (n.as_bytes(), *n)).collect();
        let mut heads: Vec<&[u8]> = wanted.keys().map(|n| &n[..n.len().min(HEAD)]).collect();
        heads.sort_unstable();
        heads.dedup();
        let mut found: HashMap<&'n str, Vec<Function<'_>>> = HashMap::new();
        for i in 0..self.len {
            // Most names are never read to their end.
            let Some((name, ..)) = self.raw(i) else { continue };
            if heads.iter().any(|h| name.starts_with(h))
                && let Some(f) = self.function(i)
                && let Some(name) = wanted.get(f.name)
            {
                found.entry(name).or_default().push(f);
            }
        }
        found
    }

    /// Functions whose names begin so, by address.
    pub fn with_prefix<'a>(&'a self, prefix: &'a str) -> impl Iterator<Item = Function<'a>> {
        (0..self.len).filter_map(move |i| {
            let (name, ..) = self.raw(i)?;
            if name.starts_with(prefix.as_bytes()) { self.function(i) } else { None }
        })
    }
}

impl Header {
    fn read(elf: &ElfFile, va: u64) -> Option<Self> {
        let h = elf.read_va(va, HEADER_LEN, HEADER_LEN, "the function table's header").ok()?;
        (h.starts_with(MAGIC) || h.starts_with(MAGIC_118)).then(|| Self {
            va,
            functions: u64_at(&h, 8),
            text_start: u64_at(&h, 24),
            names: (u64_at(&h, 32), u64_at(&h, 40)),
            lines: [u64_at(&h, 40), u64_at(&h, 48), u64_at(&h, 56)],
            funcs: u64_at(&h, 64),
            is_118: h.starts_with(MAGIC_118),
        })
    }

    /// The line tables; an empty one where the header contradicts itself (the functions are usable
    /// all the same).
    fn line_tables(&self) -> LineTables {
        let [units, files, values] = self.lines;
        let table = |from: u64, to: u64| {
            let range = self.va.checked_add(from).zip(self.va.checked_add(to));
            range.filter(|(from, to)| from <= to).unwrap_or_default()
        };
        LineTables {
            is_118: self.is_118,
            units: table(units, files),
            files: table(files, values),
            values: table(values, self.funcs),
        }
    }

    fn is_within(&self, limit: u64) -> bool {
        let ftab = (self.functions.saturating_add(1)).saturating_mul(FTAB_ENTRY);
        self.functions > 0
            && self.names.0 >= HEADER_LEN
            && self.names.0 <= self.names.1
            && self.names.1 <= limit
            && self.funcs >= HEADER_LEN
            && self.funcs.checked_add(ftab - 4).is_some_and(|end| end <= limit)
    }
}

/// `moduledata.text`, and the moduledata's head with its pointers relocated. It is found by section
/// `.go.module` (Go 1.26+), else by the pointer to the pcHeader that it begins with: in place, or as
/// a RELA addend in a PIE.
fn find_module(elf: &ElfFile, header: &Header) -> Result<Option<(u64, Vec<u8>)>, ElfError> {
    let mut candidates: Vec<u64> = elf.section(".go.module").map(|s| s.va).into_iter().collect();
    if let Some(found) = check_candidates(elf, header, &candidates)? {
        return Ok(Some(found));
    }
    candidates.clear();
    elf.for_each_relative(|place, value| {
        if value == header.va && candidates.len() < MAX_CANDIDATES {
            candidates.push(place);
        }
    })?;
    if let Some(found) = check_candidates(elf, header, &candidates)? {
        return Ok(Some(found));
    }
    candidates.clear();
    elf.scan_data(&header.va.to_le_bytes(), ALIGN, false, |va| {
        candidates.push(va);
        candidates.len() >= MAX_CANDIDATES
    })?;
    check_candidates(elf, header, &candidates)
}

fn check_candidates(
    elf: &ElfFile,
    header: &Header,
    at: &[u64],
) -> Result<Option<(u64, Vec<u8>)>, ElfError> {
    let mut modules: Vec<(u64, Vec<u8>)> = at
        .iter()
        .filter_map(|&va| {
            let len = MODULE_LEN.min(elf.extent(va) & !7);
            let bytes = elf.read_va(va, len, MODULE_LEN, "runtime.moduledata").ok()?;
            (len >= MODULE_HEAD).then_some((va, bytes))
        })
        .collect();
    if modules.is_empty() {
        return Ok(None);
    }
    if elf.is_dyn {
        elf.for_each_relative(|place, value| {
            for (va, bytes) in &mut modules {
                if let Some(at) = place.checked_sub(*va)
                    && at.checked_add(8).is_some_and(|end| end <= bytes.len() as u64)
                {
                    bytes[at as usize..at as usize + 8].copy_from_slice(&value.to_le_bytes());
                }
            }
        })?;
    }
    Ok(modules.into_iter().find_map(|(_, m)| Some((text_of(elf, header, &m)?, m))))
}

/// `text` of a moduledata whose fields agree with the header, else `None`.
fn text_of(elf: &ElfFile, header: &Header, m: &[u8]) -> Option<u64> {
    // pcHeader 0, funcnametab 8 (ptr, len, cap), ftab 128, minpc 160, maxpc 168, text 176, etext 184
    let (minpc, maxpc, text, etext) =
        (u64_at(m, 160), u64_at(m, 168), u64_at(m, 176), u64_at(m, 184));
    let agrees = u64_at(m, 0) == header.va
        && u64_at(m, 8) == header.va.wrapping_add(header.names.0)
        && u64_at(m, 128) == header.va.wrapping_add(header.funcs)
        && u64_at(m, 136) == header.functions + 1
        && text <= minpc
        && minpc < maxpc
        && maxpc <= etext
        && elf.is_text(minpc, 1);
    agrees.then_some(text)
}

#[cfg(test)]
mod tests {
    use super::super::fixture;
    use super::*;

    fn table(bytes: Vec<u8>) -> Pclntab {
        Pclntab::read(&ElfFile::open(bytes).expect("fixture parses")).expect("has a pclntab")
    }

    #[test]
    fn functions_have_names_and_ranges() {
        for bytes in [
            fixture::go_elf(false),
            fixture::go_elf(true),
            fixture::without_sections(fixture::go_elf(false)),
            fixture::without_sections(fixture::go_elf(true)),
        ] {
            let table = table(bytes);
            assert_eq!(table.len(), fixture::FUNCTIONS.len());
            assert_eq!(table.text(), fixture::TEXT_VA);
            let got: Vec<_> = table
                .functions()
                .map(|f| (String::from_utf8_lossy(f.name).into_owned(), f.entry, f.end))
                .collect();
            assert_eq!(
                got,
                [
                    ("runtime.gcStart".to_owned(), 0x1000, 0x1010),
                    ("runtime.mallocgc".to_owned(), 0x1010, 0x1030),
                    ("main.main".to_owned(), 0x1030, 0x1040),
                ]
            );
        }
    }

    #[test]
    fn names_resolve_exactly_or_by_prefix() {
        let table = table(fixture::go_elf(false));
        let found = table.resolve(&["main.main", "runtime.gc", "runtime.mallocgc"]);
        assert_eq!(found["main.main"][0].entry, 0x1030);
        assert_eq!(found["runtime.mallocgc"].len(), 1);
        assert!(!found.contains_key("runtime.gc"));
        assert_eq!(table.with_prefix("runtime.").count(), 2);
    }

    #[test]
    fn a_moduledata_that_disagrees_is_not_believed() {
        let mut bytes = fixture::go_elf(false);
        // ftab's length in the moduledata.
        let at = 0x3000 + 0x400 + 136;
        bytes[at] += 1;
        let elf = ElfFile::open(bytes).expect("fixture parses");
        assert!(matches!(Pclntab::read(&elf), Err(ElfError::Missing(_))));
    }

    #[test]
    fn a_function_outside_of_the_table_is_an_error() {
        let mut bytes = fixture::go_elf(false);
        bytes[0x2000 + 0x100 + 4 + 3] = 0x7f;
        let elf = ElfFile::open(bytes).expect("fixture parses");
        assert!(matches!(Pclntab::read(&elf), Err(ElfError::Malformed(_))));
    }
}
