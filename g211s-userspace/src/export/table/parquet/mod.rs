//! Tables as Parquet, written by hand: flat columns, any value null, one page a column and group, packed by zstd. Must
//! not know what is in them.
//!
//! Of the format (apache/parquet-format, `README.md`, `Encodings.md`, `src/main/thrift/parquet.thrift`) this is a small
//! part, and every reader knows it: data pages of version 1; numbers `DELTA_BINARY_PACKED`, flags `PLAIN`, texts in a
//! dictionary; definition levels of one bit. The published library would bring 13 crates along, among them chrono and a
//! second zstd.

mod encoding;
mod thrift;

use std::collections::HashMap;
use std::io::Write as _;

use anyhow::{Context as _, Result};

use self::encoding::{dictionary_indices, flags, levels, numbers};
use self::thrift::Struct;
use super::schema::{Kind, Table, VERSION};
use super::{Cell, TableWriter};
use crate::export::output::Output;

/// Rows of a group: with all columns filled some 40 MB.
const GROUP_ROWS: usize = 1 << 17;
/// Texts of a group in one column that are kept together; a group with more ends early.
const MAX_TEXT_BYTES: usize = 16 << 20;
const MAGIC: &[u8; 4] = b"PAR1";
/// zstd's own default is 3; 1 is twice as fast and packs columns nearly as well.
const LEVEL: i32 = 1;

// Numbers of parquet.thrift.
const BOOLEAN: i32 = 0;
const INT64: i32 = 2;
const BYTE_ARRAY: i32 = 6;
const OPTIONAL: i32 = 1;
const UTF8: i32 = 0;
const UINT_64: i32 = 14;
const PLAIN: i32 = 0;
const RLE: i32 = 3;
const DELTA_BINARY_PACKED: i32 = 5;
const RLE_DICTIONARY: i32 = 8;
const ZSTD: i32 = 6;
const DATA_PAGE: i32 = 0;
const DICTIONARY_PAGE: i32 = 2;

/// The values of a column that are there.
enum Values {
    Numbers(Vec<i64>),
    Flags(Vec<bool>),
    /// Numbers in the dictionary; the dictionary as its page has it; its entries.
    Texts(Vec<u32>, Vec<u8>, HashMap<Box<str>, u32>),
}

struct Filled {
    values: Values,
    /// For each row, whether it has one.
    there: Vec<bool>,
}

/// Where a column of a group is in the file.
struct Chunk {
    values: i64,
    dictionary_at: Option<i64>,
    data_at: i64,
    unpacked: i64,
    packed: i64,
}

struct Group {
    rows: i64,
    chunks: Vec<Chunk>,
}

/// A table being written.
pub(super) struct Parquet {
    out: Output,
    at: i64,
    table: Table,
    columns: Vec<Filled>,
    rows: usize,
    groups: Vec<Group>,
    full: bool,
}

fn filled(kind: Kind) -> Filled {
    let values = match kind {
        Kind::U64 | Kind::I64 => Values::Numbers(Vec::new()),
        Kind::Bool => Values::Flags(Vec::new()),
        Kind::Text => Values::Texts(Vec::new(), Vec::new(), HashMap::new()),
    };
    Filled { values, there: Vec::new() }
}

impl Parquet {
    pub(super) fn new(out: Output, table: &Table) -> Result<Self> {
        let mut parquet = Self {
            out,
            at: 0,
            table: *table,
            columns: table.columns.iter().map(|c| filled(c.kind)).collect(),
            rows: 0,
            groups: Vec::new(),
            full: false,
        };
        parquet.write(MAGIC)?;
        Ok(parquet)
    }

    fn write(&mut self, bytes: &[u8]) -> Result<()> {
        self.at += bytes.len() as i64;
        self.out.write_all(bytes).map_err(|e| self.out.error(e))
    }

    /// Writes a page: its length before packing, and with its header.
    fn page(&mut self, kind: i32, raw: &[u8], about: Struct) -> Result<(i64, i64)> {
        let packed = zstd::bulk::compress(raw, LEVEL).context("compressing")?;
        let mut header = Struct::default();
        header.i32(1, kind);
        header.i32(2, i32::try_from(raw.len()).context("a page")?);
        header.i32(3, i32::try_from(packed.len()).context("a page")?);
        header.inner(if kind == DATA_PAGE { 5 } else { 7 }, about);
        let header = header.end();
        self.write(&header)?;
        self.write(&packed)?;
        Ok(((header.len() + raw.len()) as i64, (header.len() + packed.len()) as i64))
    }

    fn chunk(&mut self, column: &Filled) -> Result<Chunk> {
        let count = i32::try_from(column.there.len()).context("rows")?;
        let start = self.at;
        let mut chunk = Chunk {
            values: count.into(),
            dictionary_at: None,
            data_at: start,
            unpacked: 0,
            packed: 0,
        };
        let mut raw = levels(&column.there);
        let encoding = match &column.values {
            Values::Numbers(values) => {
                numbers(values, &mut raw);
                DELTA_BINARY_PACKED
            }
            Values::Flags(values) => {
                flags(values, &mut raw);
                PLAIN
            }
            Values::Texts(indices, dictionary, known) => {
                let mut about = Struct::default();
                about.i32(1, known.len() as i32);
                about.i32(2, PLAIN);
                let (unpacked, packed) = self.page(DICTIONARY_PAGE, dictionary, about)?;
                chunk.dictionary_at = Some(start);
                (chunk.unpacked, chunk.packed) = (unpacked, packed);
                dictionary_indices(indices, known.len(), &mut raw);
                RLE_DICTIONARY
            }
        };
        chunk.data_at = self.at;
        let mut about = Struct::default();
        about.i32(1, count);
        about.i32(2, encoding);
        about.i32(3, RLE);
        about.i32(4, RLE);
        let (unpacked, packed) = self.page(DATA_PAGE, &raw, about)?;
        chunk.unpacked += unpacked;
        chunk.packed += packed;
        Ok(chunk)
    }

    fn group(&mut self) -> Result<()> {
        if self.rows == 0 {
            return Ok(());
        }
        let mut columns = std::mem::take(&mut self.columns);
        let chunks: Result<Vec<Chunk>> = columns.iter().map(|c| self.chunk(c)).collect();
        self.groups.push(Group { rows: self.rows as i64, chunks: chunks? });
        for column in &mut columns {
            column.there.clear();
            match &mut column.values {
                Values::Numbers(values) => values.clear(),
                Values::Flags(values) => values.clear(),
                Values::Texts(indices, dictionary, known) => {
                    indices.clear();
                    dictionary.clear();
                    known.clear();
                }
            }
        }
        (self.columns, self.rows, self.full) = (columns, 0, false);
        Ok(())
    }

    /// `FileMetaData`.
    fn footer(&self) -> Vec<u8> {
        let mut file = Struct::default();
        file.i32(1, 2);
        let mut root = Struct::default();
        root.text(4, self.table.name);
        root.i32(5, self.table.columns.len() as i32);
        let leaves = self.table.columns.iter().map(|c| {
            let mut leaf = Struct::default();
            leaf.i32(1, physical(c.kind));
            leaf.i32(3, OPTIONAL);
            leaf.text(4, c.name);
            match c.kind {
                Kind::U64 => {
                    leaf.i32(6, UINT_64);
                    let mut integer = Struct::default();
                    integer.i8(1, 64);
                    integer.flag(2, false);
                    let mut logical = Struct::default();
                    logical.inner(10, integer);
                    leaf.inner(10, logical);
                }
                Kind::Text => {
                    leaf.i32(6, UTF8);
                    let mut logical = Struct::default();
                    logical.inner(1, Struct::default());
                    leaf.inner(10, logical);
                }
                Kind::I64 | Kind::Bool => {}
            }
            leaf
        });
        file.list(2, std::iter::once(root).chain(leaves).collect());
        file.i64(3, self.groups.iter().map(|g| g.rows).sum());
        file.list(4, self.groups.iter().map(|g| self.row_group(g)).collect());
        let pair = |key, value| {
            let mut pair = Struct::default();
            pair.text(1, key);
            pair.text(2, value);
            pair
        };
        file.list(5, vec![pair("schema", VERSION), pair("table", self.table.name)]);
        file.text(6, &format!("g211s version {}", env!("CARGO_PKG_VERSION")));
        file.end()
    }

    fn row_group(&self, group: &Group) -> Struct {
        let chunks = self.table.columns.iter().zip(&group.chunks).map(|(column, chunk)| {
            let encodings = match column.kind {
                Kind::U64 | Kind::I64 => vec![RLE, DELTA_BINARY_PACKED],
                Kind::Bool => vec![RLE, PLAIN],
                Kind::Text => vec![RLE, PLAIN, RLE_DICTIONARY],
            };
            let mut about = Struct::default();
            about.i32(1, physical(column.kind));
            about.i32_list(2, &encodings);
            about.text_list(3, &[column.name]);
            about.i32(4, ZSTD);
            about.i64(5, chunk.values);
            about.i64(6, chunk.unpacked);
            about.i64(7, chunk.packed);
            about.i64(9, chunk.data_at);
            if let Some(at) = chunk.dictionary_at {
                about.i64(11, at);
            }
            let mut out = Struct::default();
            out.i64(2, chunk.dictionary_at.unwrap_or(chunk.data_at));
            out.inner(3, about);
            out
        });
        let mut out = Struct::default();
        out.list(1, chunks.collect());
        out.i64(2, group.chunks.iter().map(|c| c.unpacked).sum());
        out.i64(3, group.rows);
        out
    }
}

fn physical(kind: Kind) -> i32 {
    match kind {
        Kind::U64 | Kind::I64 => INT64,
        Kind::Bool => BOOLEAN,
        Kind::Text => BYTE_ARRAY,
    }
}

impl TableWriter for Parquet {
    fn row(&mut self, cells: &[Cell<'_>]) -> Result<()> {
        debug_assert_eq!(cells.len(), self.columns.len());
        for (column, cell) in self.columns.iter_mut().zip(cells) {
            let there = match (&mut column.values, cell) {
                (_, Cell::Null) => false,
                (Values::Numbers(values), Cell::U64(n)) => {
                    // The same bits; the column's type says that they are unsigned.
                    values.push(n.cast_signed());
                    true
                }
                (Values::Numbers(values), Cell::I64(n)) => {
                    values.push(*n);
                    true
                }
                (Values::Flags(values), Cell::Bool(flag)) => {
                    values.push(*flag);
                    true
                }
                (Values::Texts(indices, dictionary, known), Cell::Text(text)) => {
                    let index = known.get(*text).copied().unwrap_or_else(|| {
                        let next = known.len() as u32;
                        known.insert((*text).into(), next);
                        dictionary.extend_from_slice(&(text.len() as u32).to_le_bytes());
                        dictionary.extend_from_slice(text.as_bytes());
                        next
                    });
                    self.full |= dictionary.len() >= MAX_TEXT_BYTES;
                    indices.push(index);
                    true
                }
                (_, cell) => {
                    debug_assert!(false, "{cell:?} is not of its column's type");
                    false
                }
            };
            column.there.push(there);
        }
        self.rows += 1;
        if self.rows >= GROUP_ROWS || self.full { self.group() } else { Ok(()) }
    }

    fn finish(mut self: Box<Self>) -> Result<()> {
        self.group()?;
        let footer = self.footer();
        self.write(&footer)?;
        self.write(&(footer.len() as u32).to_le_bytes())?;
        self.write(MAGIC)?;
        self.out.finish()
    }
}
