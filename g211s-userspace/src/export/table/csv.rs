//! Tables as CSV (RFC 4180, lines ended by a line feed): names in the first line, nothing for null. Must not know what
//! is in them.

use std::io::Write as _;

use anyhow::Result;

use super::schema::Table;
use super::{Cell, TableWriter};
use crate::export::output::Output;

/// A table being written.
pub(super) struct Csv {
    out: Output,
    columns: usize,
    line: Vec<u8>,
}

impl Csv {
    pub(super) fn new(out: Output, table: &Table) -> Result<Self> {
        let mut csv = Self { out, columns: table.columns.len(), line: Vec::new() };
        let names: Vec<Cell<'_>> = table.columns.iter().map(|c| Cell::Text(c.name)).collect();
        csv.row(&names)?;
        Ok(csv)
    }
}

impl TableWriter for Csv {
    fn row(&mut self, cells: &[Cell<'_>]) -> Result<()> {
        debug_assert_eq!(cells.len(), self.columns);
        self.line.clear();
        for (i, cell) in cells.iter().enumerate() {
            if i > 0 {
                self.line.push(b',');
            }
            match cell {
                Cell::Null => {}
                Cell::U64(n) => number(&mut self.line, *n),
                Cell::I64(n) => {
                    if *n < 0 {
                        self.line.push(b'-');
                    }
                    number(&mut self.line, n.unsigned_abs());
                }
                Cell::Bool(flag) => {
                    self.line.extend_from_slice(if *flag { b"true" } else { b"false" });
                }
                Cell::Text(text) => quoted(&mut self.line, text),
            }
        }
        self.line.push(b'\n');
        self.out.write_all(&self.line).map_err(|e| self.out.error(e))
    }

    fn finish(self: Box<Self>) -> Result<()> {
        self.out.finish()
    }
}

fn number(line: &mut Vec<u8>, mut n: u64) {
    let mut digits = [0_u8; 20];
    let mut at = digits.len();
    loop {
        at -= 1;
        digits[at] = b'0' + (n % 10) as u8;
        n /= 10;
        if n == 0 {
            break;
        }
    }
    line.extend_from_slice(&digits[at..]);
}

/// Text, in quotes where it needs them. An empty text is `""`, since nothing is null.
fn quoted(line: &mut Vec<u8>, text: &str) {
    let plain = |b: u8| !matches!(b, b',' | b'"' | b'\n' | b'\r');
    if !text.is_empty() && text.bytes().all(plain) {
        line.extend_from_slice(text.as_bytes());
        return;
    }
    line.push(b'"');
    for b in text.bytes() {
        if b == b'"' {
            line.push(b'"');
        }
        line.push(b);
    }
    line.push(b'"');
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_and_quotes() {
        let mut line = Vec::new();
        for n in [0, 7, 10, u64::MAX] {
            number(&mut line, n);
            line.push(b' ');
        }
        assert_eq!(line, b"0 7 10 18446744073709551615 ");
        let text = |s: &str| {
            let mut line = Vec::new();
            quoted(&mut line, s);
            String::from_utf8(line).unwrap()
        };
        assert_eq!(text("a b"), "a b");
        assert_eq!(text(""), "\"\"");
        assert_eq!(text("a,\"b\"\n"), "\"a,\"\"b\"\"\n\"");
    }
}
