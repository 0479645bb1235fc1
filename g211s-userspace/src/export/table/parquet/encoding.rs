//! Parquet's encodings (apache/parquet-format, `Encodings.md`): levels and indices as runs, flags as bits, numbers as
//! differences. Must not know pages or columns.

use super::thrift::{varint, zigzag};

/// Values of a block of differences, and of each of its parts, which have a width of their own.
const BLOCK: usize = 128;
const PARTS: usize = 4;
const PART: usize = BLOCK / PARTS;

/// Definition levels of a page: one bit a row, with their length before them.
pub(super) fn levels(there: &[bool]) -> Vec<u8> {
    let mut runs = Vec::new();
    hybrid(there.iter().map(|t| u32::from(*t)), 1, &mut runs);
    let mut out = (runs.len() as u32).to_le_bytes().to_vec();
    out.extend(runs);
    out
}

/// `PLAIN` flags: eight a byte, the first lowest.
pub(super) fn flags(values: &[bool], out: &mut Vec<u8>) {
    let byte = |bits: &[bool]| bits.iter().rev().fold(0, |byte, bit| byte << 1 | u8::from(*bit));
    out.extend(values.chunks(8).map(byte));
}

/// Indices into a dictionary of so many entries, with their width before them.
pub(super) fn dictionary_indices(indices: &[u32], entries: usize, out: &mut Vec<u8>) {
    let width = 32 - (entries.max(1) as u32 - 1).leading_zeros();
    out.push(width as u8);
    hybrid(indices.iter().copied(), width, out);
}

/// Runs of equal values, and between them packed groups of eight.
fn hybrid(values: impl Iterator<Item = u32>, width: u32, out: &mut Vec<u8>) {
    let mut packed: Vec<u32> = Vec::new();
    for (value, mut length) in RunsOf(values.peekable()) {
        // A packed group is of eight values; only the last may be filled up.
        while length > 0 && !packed.len().is_multiple_of(8) {
            packed.push(value);
            length -= 1;
        }
        if length >= 16 {
            write_packed(&mut packed, width, out);
            varint(out, length << 1);
            out.extend_from_slice(&value.to_le_bytes()[..width.div_ceil(8) as usize]);
        } else {
            packed.extend((0..length).map(|_| value));
        }
    }
    write_packed(&mut packed, width, out);
}

struct RunsOf<I: Iterator<Item = u32>>(std::iter::Peekable<I>);

impl<I: Iterator<Item = u32>> Iterator for RunsOf<I> {
    type Item = (u32, u64);

    fn next(&mut self) -> Option<(u32, u64)> {
        let value = self.0.next()?;
        let mut length = 1;
        while self.0.next_if_eq(&value).is_some() {
            length += 1;
        }
        Some((value, length))
    }
}

fn write_packed(values: &mut Vec<u32>, width: u32, out: &mut Vec<u8>) {
    if values.is_empty() {
        return;
    }
    let groups = values.len().div_ceil(8);
    values.resize(groups * 8, 0);
    varint(out, (groups as u64) << 1 | 1);
    pack(values.iter().map(|v| u64::from(*v)), width, out);
    values.clear();
}

/// Packs values of `width` bits, the first lowest.
fn pack(values: impl Iterator<Item = u64>, width: u32, out: &mut Vec<u8>) {
    let (mut bits, mut filled) = (0_u128, 0);
    for value in values {
        bits |= u128::from(value) << filled;
        filled += width;
        while filled >= 8 {
            out.push(bits as u8);
            bits >>= 8;
            filled -= 8;
        }
    }
    if filled > 0 {
        out.push(bits as u8);
    }
}

/// `DELTA_BINARY_PACKED`: the first value, then in blocks how much larger each is than the one before, beyond the
/// least such difference of the block. All goes round at 64 bits.
pub(super) fn numbers(values: &[i64], out: &mut Vec<u8>) {
    varint(out, BLOCK as u64);
    varint(out, PARTS as u64);
    varint(out, values.len() as u64);
    zigzag(out, values.first().copied().unwrap_or(0));
    let mut differences = [0_i64; BLOCK];
    let mut last = values.first().copied().unwrap_or(0);
    for block in values.get(1..).unwrap_or_default().chunks(BLOCK) {
        for (difference, value) in differences.iter_mut().zip(block) {
            *difference = value.wrapping_sub(last);
            last = *value;
        }
        let filled = &differences[..block.len()];
        let least = filled.iter().copied().min().unwrap_or(0);
        zigzag(out, least);
        let above = |d: &i64| d.wrapping_sub(least).cast_unsigned();
        let width =
            |part: &[i64]| 64 - part.iter().map(above).fold(0, |a, b| a | b).leading_zeros();
        let mut widths = [0_u8; PARTS];
        for (w, part) in widths.iter_mut().zip(filled.chunks(PART)) {
            *w = width(part) as u8;
        }
        out.extend_from_slice(&widths);
        for (w, part) in widths.iter().zip(filled.chunks(PART)) {
            // Parts are whole: what is missing of the last is filled up.
            let rest = std::iter::repeat_n(0, PART - part.len());
            pack(part.iter().map(above).chain(rest), u32::from(*w), out);
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn read_varint(bytes: &mut &[u8]) -> u64 {
        let (mut value, mut shift) = (0, 0);
        loop {
            let byte = bytes[0];
            *bytes = &bytes[1..];
            value |= u64::from(byte & 0x7f) << shift;
            shift += 7;
            if byte < 0x80 {
                return value;
            }
        }
    }

    fn read_zigzag(bytes: &mut &[u8]) -> i64 {
        let n = read_varint(bytes);
        (n >> 1).cast_signed() ^ -((n & 1).cast_signed())
    }

    fn unpack(bytes: &[u8], width: u32, n: usize) -> Vec<u64> {
        let bit = |at: usize| u64::from(bytes[at / 8] >> (at % 8) & 1);
        let one = |i: usize| (0..width as usize).map(|b| bit(i * width as usize + b) << b).sum();
        (0..n).map(one).collect()
    }

    fn read_hybrid(mut bytes: &[u8], width: u32, n: usize) -> Vec<u32> {
        let mut out = Vec::new();
        while out.len() < n {
            let head = read_varint(&mut bytes);
            let count = (head >> 1) as usize;
            if head & 1 == 1 {
                let (packed, rest) = bytes.split_at(count * width as usize);
                out.extend(unpack(packed, width, count * 8).iter().map(|v| *v as u32));
                bytes = rest;
            } else {
                let (value, rest) = bytes.split_at(width.div_ceil(8) as usize);
                let value = value.iter().rev().fold(0, |v, b| v << 8 | u32::from(*b));
                out.extend(std::iter::repeat_n(value, count));
                bytes = rest;
            }
        }
        assert!(bytes.is_empty() && out.len() - n < 8);
        out.truncate(n);
        out
    }

    fn read_numbers(mut bytes: &[u8]) -> Vec<i64> {
        let [block, parts, n] = [(); 3].map(|()| read_varint(&mut bytes) as usize);
        let mut out = vec![read_zigzag(&mut bytes)];
        let part = block / parts;
        while out.len() < n {
            let least = read_zigzag(&mut bytes);
            let (widths, rest) = bytes.split_at(parts);
            bytes = rest;
            for width in widths {
                if out.len() >= n {
                    break;
                }
                let (packed, rest) = bytes.split_at(usize::from(*width) * part / 8);
                bytes = rest;
                for value in unpack(packed, u32::from(*width), part) {
                    let last = out[out.len() - 1];
                    out.push(last.wrapping_add(least).wrapping_add(value.cast_signed()));
                }
            }
        }
        assert!(bytes.is_empty());
        out.truncate(n);
        out
    }

    #[test]
    fn the_specifications_example() {
        // Encodings.md, example 1: 1, 2, 3, 4, 5 have differences of 1 and widths of 0.
        let mut out = Vec::new();
        numbers(&[1, 2, 3, 4, 5], &mut out);
        assert_eq!(out, [0x80, 1, 4, 5, 2, 2, 0, 0, 0, 0]);
        let mut bits = Vec::new();
        pack(0..8, 3, &mut bits);
        assert_eq!(bits, [0b1000_1000, 0b1100_0110, 0b1111_1010]);
        let mut out = Vec::new();
        flags(&[true, false, false, true, true, false, false, false, true], &mut out);
        assert_eq!(out, [0b1_1001, 1]);
    }

    proptest! {
        #[test]
        fn numbers_come_back(values in prop::collection::vec(prop_oneof![
            any::<i64>(), -3i64..3, Just(i64::MIN), Just(i64::MAX)
        ], 1..600)) {
            let mut out = Vec::new();
            numbers(&values, &mut out);
            prop_assert_eq!(read_numbers(&out), values);
        }

        #[test]
        fn indices_come_back(runs in prop::collection::vec((0u32..300, 1usize..40), 0..40)) {
            let values: Vec<u32> =
                runs.iter().flat_map(|(v, n)| std::iter::repeat_n(*v, *n)).collect();
            let mut out = Vec::new();
            dictionary_indices(&values, 300, &mut out);
            prop_assert_eq!(out[0], 9);
            prop_assert_eq!(read_hybrid(&out[1..], 9, values.len()), values.clone());
            let there: Vec<bool> = values.iter().map(|v| v % 2 == 0).collect();
            let out = levels(&there);
            let bits: Vec<u32> = there.iter().map(|t| u32::from(*t)).collect();
            prop_assert_eq!(read_hybrid(&out[4..], 1, there.len()), bits);
        }
    }
}
