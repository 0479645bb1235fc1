//! The tables of values by address (`pctab`) and of file names that `.gopclntab` carries, read from
//! disk as they are needed: a large program has tens of megabytes of them, and a census needs a few
//! hundred addresses. Must not know what a value means.
//!
//! Format: Go `src/runtime/symtab.go`, `pcvalue` and `step`, `src/cmd/internal/obj/pcln.go`,
//! `funcpctab` (1.21.13 to 1.27.3): pairs of varints, a zigzag delta of the value and a delta of the
//! address up to which it holds; a value delta of 0 ends the table, except at its beginning.

use super::pclntab::LineTables;
use super::{ElfError, ElfFile, u32_at};

/// Bytes of the first read of a table: most addresses are found in it.
const FIRST_READ: u64 = 128;
/// Bytes of the largest read.
const LARGEST_READ: u64 = 64 << 10;
/// More bytes than this are not decoded for one table (a function's code is at most 2 GiB, but the
/// longest tables of real programs have tens of kilobytes).
const MAX_VALUES: u64 = 4 << 20;
const MAX_FILE_NAME: u64 = 4096;
/// What stands for a file that the linker dropped.
const NO_FILE: u32 = u32::MAX;

/// Bytes of a table in order, read piece by piece.
struct Cursor<'a> {
    elf: &'a ElfFile,
    at: u64,
    end: u64,
    step: u64,
    buffer: Vec<u8>,
    next: usize,
}

impl Cursor<'_> {
    fn byte(&mut self) -> Result<u8, ElfError> {
        if self.next == self.buffer.len() {
            let len = self.step.min(self.end.saturating_sub(self.at));
            if len == 0 {
                return Err(ElfError::Malformed("a line table does not end"));
            }
            self.buffer = self.elf.read_va(self.at, len, LARGEST_READ, "a line table")?;
            self.next = 0;
            self.at += len;
            self.step = (self.step * 4).min(LARGEST_READ);
        }
        self.next += 1;
        Ok(self.buffer[self.next - 1])
    }

    fn varint(&mut self) -> Result<u32, ElfError> {
        let mut value = 0_u32;
        for shift in (0..32).step_by(7) {
            let byte = self.byte()?;
            value |= u32::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return Ok(value);
            }
        }
        Err(ElfError::Malformed("a number in a line table"))
    }
}

/// The tables of one executable.
#[derive(Clone, Copy, Debug)]
pub(super) struct Lines<'a> {
    pub(super) elf: &'a ElfFile,
    pub(super) tables: LineTables,
}

impl Lines<'_> {
    /// Calls `see(value, end)` for each run of a function's table, by address, until it says that it
    /// has seen enough. `table` is the table's offset in `pctab`; 0 is no table.
    pub(super) fn values(
        &self,
        table: u32,
        entry: u64,
        mut see: impl FnMut(i32, u64) -> bool,
    ) -> Result<(), ElfError> {
        let (start, end) = self.tables.values;
        // The header may have put the tables anywhere.
        let at = start.saturating_add(u64::from(table));
        if table == 0 || at >= end {
            return if table == 0 { Ok(()) } else { Err(ElfError::Malformed("a line table")) };
        }
        let (elf, end) = (self.elf, end.min(at.saturating_add(MAX_VALUES)));
        let mut cursor = Cursor { elf, at, end, step: FIRST_READ, buffer: Vec::new(), next: 0 };
        let (mut value, mut pc) = (-1_i32, entry);
        loop {
            let delta = cursor.varint()?;
            if delta == 0 && pc != entry {
                return Ok(());
            }
            value = value.wrapping_add((delta >> 1).cast_signed() ^ -((delta & 1).cast_signed()));
            pc = pc
                .checked_add(u64::from(cursor.varint()?))
                .ok_or(ElfError::Malformed("a line table wraps around"))?;
            if see(value, pc) {
                return Ok(());
            }
        }
    }

    /// The value at an address; `None` where the table has none for it.
    pub(super) fn value(
        &self,
        table: u32,
        entry: u64,
        target: u64,
    ) -> Result<Option<i32>, ElfError> {
        let mut found = None;
        self.values(table, entry, |value, end| {
            found = (target < end).then_some(value);
            found.is_some()
        })?;
        Ok(found)
    }

    /// Where in `filetab` the name of a file stands: the `file`th of a compilation unit.
    pub(super) fn file(&self, unit: u32, file: u32) -> Result<Option<u32>, ElfError> {
        let (start, end) = self.tables.units;
        // An index into an array of u32, as the runtime computes it (wrapping).
        let at = start.saturating_add(u64::from(unit.wrapping_add(file)) * 4);
        if at.saturating_add(4) > end {
            return Err(ElfError::Malformed("a file outside of its table"));
        }
        let bytes = self.elf.read_va(at, 4, 4, "the table of files")?;
        Ok(Some(u32_at(&bytes, 0)).filter(|&offset| offset != NO_FILE))
    }

    /// The name of a file.
    pub(super) fn file_name(&self, offset: u32) -> Result<String, ElfError> {
        let (start, end) = self.tables.files;
        let at = start.saturating_add(u64::from(offset));
        let (mut len, longest) = (FIRST_READ, end.saturating_sub(at).min(MAX_FILE_NAME));
        loop {
            let bytes = self.elf.read_va(at, len.min(longest), MAX_FILE_NAME, "a file's name")?;
            if let Some(nul) = bytes.iter().position(|&b| b == 0) {
                return Ok(String::from_utf8_lossy(&bytes[..nul]).into_owned());
            }
            if len >= longest {
                return Err(ElfError::Malformed("a file's name does not end"));
            }
            len *= 8;
        }
    }
}
