//! Thrift's compact protocol, as far as Parquet's metadata needs it (apache/thrift, `doc/specs/thrift-compact-protocol.md`).

/// A struct being written. Fields come in ascending order.
#[derive(Default)]
pub(super) struct Struct {
    bytes: Vec<u8>,
    last: i16,
}

const TRUE: u8 = 1;
const FALSE: u8 = 2;
const I8: u8 = 3;
const I32: u8 = 5;
const I64: u8 = 6;
const BINARY: u8 = 8;
const LIST: u8 = 9;
const STRUCT: u8 = 12;

pub(super) fn varint(out: &mut Vec<u8>, mut n: u64) {
    while n >= 0x80 {
        out.push(n as u8 | 0x80);
        n >>= 7;
    }
    out.push(n as u8);
}

pub(super) fn zigzag(out: &mut Vec<u8>, n: i64) {
    varint(out, ((n << 1) ^ (n >> 63)).cast_unsigned());
}

impl Struct {
    fn field(&mut self, id: i16, kind: u8) {
        // Fields here are less than 16 apart, so their distance has room beside the type.
        debug_assert!(id > self.last && id - self.last < 16);
        self.bytes.push((((id - self.last) as u8) << 4) | kind);
        self.last = id;
    }

    pub(super) fn i8(&mut self, id: i16, n: i8) {
        self.field(id, I8);
        self.bytes.push(n.cast_unsigned());
    }

    pub(super) fn i32(&mut self, id: i16, n: i32) {
        self.field(id, I32);
        zigzag(&mut self.bytes, n.into());
    }

    pub(super) fn i64(&mut self, id: i16, n: i64) {
        self.field(id, I64);
        zigzag(&mut self.bytes, n);
    }

    pub(super) fn flag(&mut self, id: i16, flag: bool) {
        self.field(id, if flag { TRUE } else { FALSE });
    }

    pub(super) fn text(&mut self, id: i16, text: &str) {
        self.field(id, BINARY);
        self.raw_text(text);
    }

    fn raw_text(&mut self, text: &str) {
        varint(&mut self.bytes, text.len() as u64);
        self.bytes.extend_from_slice(text.as_bytes());
    }

    pub(super) fn inner(&mut self, id: i16, inner: Self) {
        self.field(id, STRUCT);
        self.bytes.extend(inner.end());
    }

    fn list_head(&mut self, id: i16, kind: u8, length: usize) {
        self.field(id, LIST);
        if length < 15 {
            self.bytes.push(((length as u8) << 4) | kind);
        } else {
            self.bytes.push(0xf0 | kind);
            varint(&mut self.bytes, length as u64);
        }
    }

    pub(super) fn list(&mut self, id: i16, items: Vec<Self>) {
        self.list_head(id, STRUCT, items.len());
        for item in items {
            self.bytes.extend(item.end());
        }
    }

    pub(super) fn i32_list(&mut self, id: i16, items: &[i32]) {
        self.list_head(id, I32, items.len());
        for n in items {
            zigzag(&mut self.bytes, i64::from(*n));
        }
    }

    pub(super) fn text_list(&mut self, id: i16, items: &[&str]) {
        self.list_head(id, BINARY, items.len());
        for text in items {
            self.raw_text(text);
        }
    }

    /// Its bytes, with the end that a struct has.
    pub(super) fn end(mut self) -> Vec<u8> {
        self.bytes.push(0);
        self.bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_specifications_examples() {
        let bytes = |n: u64| {
            let mut out = Vec::new();
            varint(&mut out, n);
            out
        };
        assert_eq!(bytes(50399), [0xDF, 0x89, 0x03]);
        let zigzagged = |n: i64| {
            let mut out = Vec::new();
            zigzag(&mut out, n);
            out
        };
        assert_eq!([zigzagged(0), zigzagged(-1), zigzagged(1)], [[0], [1], [2]]);
        assert_eq!(zigzagged(i64::MIN), [0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1]);
        let mut s = Struct::default();
        s.i32(1, 1);
        s.flag(3, true);
        s.list(4, vec![Struct::default()]);
        assert_eq!(s.end(), [0x15, 2, 0x21, 0x19, 0x1c, 0, 0]);
    }
}
