//! A small synthetic Go executable for tests: headers, text, pclntab, moduledata, build info.
//! Laid out as the Go linker lays out the real ones; `tests/go_binaries.rs` checks those.

/// Where the text is mapped.
pub(crate) const TEXT_VA: u64 = 0x1000;
/// Where it is in the file.
pub(crate) const TEXT_OFFSET: u64 = 0x1000;
/// Its length.
pub(crate) const TEXT_LEN: u64 = 0x40;
/// Where the writable data is mapped.
pub(crate) const DATA_VA: u64 = 0x4000;
const DATA_OFFSET: u64 = 0x3000;
const PCLN_VA: u64 = 0x2000;
const PCLN_OFFSET: u64 = 0x2000;
const PCLN_LEN: u64 = 0x200;
const MODULE_AT: u64 = 0x400;
const RELA_AT: u64 = 0x800;
const DYN_AT: u64 = 0xc00;
const DATA_LEN: u64 = 0xe00;
/// Functions, as (name, offset in the text); the last one ends at [`TEXT_LEN`].
pub(crate) const FUNCTIONS: [(&str, u32); 3] =
    [("runtime.gcStart", 0), ("runtime.mallocgc", 0x10), ("main.main", 0x30)];

fn put(b: &mut [u8], at: u64, bytes: &[u8]) {
    b[at as usize..at as usize + bytes.len()].copy_from_slice(bytes);
}

fn put64(b: &mut [u8], at: u64, v: u64) {
    put(b, at, &v.to_le_bytes());
}

fn put32(b: &mut [u8], at: u64, v: u32) {
    put(b, at, &v.to_le_bytes());
}

fn segment(b: &mut [u8], index: u64, kind: u32, flags: u32, offset: u64, va: u64, len: u64) {
    let at = 64 + index * 56;
    put32(b, at, kind);
    put32(b, at + 4, flags);
    for (field, v) in [(8, offset), (16, va), (32, len), (40, len)] {
        put64(b, at + field, v);
    }
}

/// The executable: without `pie`, pointers stand in place; with it, places are zero and the RELA
/// table holds them. `pcHeader.textStart` is 0 in both, as since Go 1.26.
pub(crate) fn go_elf(pie: bool) -> Vec<u8> {
    let mut b = vec![0; (DATA_OFFSET + DATA_LEN + 0x400) as usize];
    put(&mut b, 0, b"\x7fELF\x02\x01\x01");
    put(&mut b, 16, &[if pie { 3 } else { 2 }, 0, 62, 0]);
    put64(&mut b, 32, 64);
    let shoff = DATA_OFFSET + DATA_LEN;
    put64(&mut b, 40, shoff);
    put(&mut b, 54, &[56, 0, 4, 0, 64, 0, 5, 0, 4, 0]);
    segment(&mut b, 0, 1, 5, TEXT_OFFSET, TEXT_VA, TEXT_LEN);
    segment(&mut b, 1, 1, 4, PCLN_OFFSET, PCLN_VA, PCLN_LEN);
    segment(&mut b, 2, 1, 6, DATA_OFFSET, DATA_VA, DATA_LEN);
    segment(&mut b, 3, 2, 6, DATA_OFFSET + DYN_AT, DATA_VA + DYN_AT, 0x30);
    b[TEXT_OFFSET as usize..][..TEXT_LEN as usize].fill(0xcc);

    // pcHeader, names, ftab with the _func structs.
    let mut names = vec![0];
    let pcln_at = 0x100;
    put(&mut b, PCLN_OFFSET, &[0xf1, 0xff, 0xff, 0xff, 0, 0, 1, 8]);
    put64(&mut b, PCLN_OFFSET + 8, FUNCTIONS.len() as u64);
    put64(&mut b, PCLN_OFFSET + 32, 72);
    put64(&mut b, PCLN_OFFSET + 64, pcln_at);
    let ftab = PCLN_OFFSET + pcln_at;
    for (i, (name, at)) in (0..).zip(FUNCTIONS) {
        let func = 0x40 + i * 16;
        put32(&mut b, ftab + i * 8, at);
        put32(&mut b, ftab + i * 8 + 4, func as u32);
        put32(&mut b, ftab + func, at);
        put32(&mut b, ftab + func + 4, names.len() as u32);
        names.extend_from_slice(name.as_bytes());
        names.push(0);
    }
    put32(&mut b, ftab + FUNCTIONS.len() as u64 * 8, TEXT_LEN as u32);
    put64(&mut b, PCLN_OFFSET + 40, 72 + names.len() as u64);
    put(&mut b, PCLN_OFFSET + 72, &names);

    // Build info at the head of the data.
    let modinfo = "path\texample.com/tiny/cmd\nmod\texample.com/tiny\tv1.2.3\t\n\
                   build\tCGO_ENABLED=0\nbuild\t-ldflags=\"-X \\\"a b\\\"\"\n";
    let mut info = b"\xff Go buildinf:\x08\x02".to_vec();
    info.resize(32, 0);
    info.push(8);
    info.extend_from_slice(b"go1.27.3");
    let len = modinfo.len() + 32;
    info.extend_from_slice(&[len as u8 | 0x80, (len >> 7) as u8]);
    info.extend_from_slice(&[0x30; 16]);
    info.extend_from_slice(modinfo.as_bytes());
    info.extend_from_slice(&[0xf9; 16]);
    put(&mut b, DATA_OFFSET, &info);

    // moduledata, its pointers in place or in the RELA table.
    let count = FUNCTIONS.len() as u64 + 1;
    let pointers = [
        (0, PCLN_VA),
        (8, PCLN_VA + 72),
        (128, PCLN_VA + pcln_at),
        (160, TEXT_VA),
        (168, TEXT_VA + TEXT_LEN),
        (176, TEXT_VA),
        (184, TEXT_VA + TEXT_LEN),
    ];
    put64(&mut b, DATA_OFFSET + MODULE_AT + 16, names.len() as u64);
    put64(&mut b, DATA_OFFSET + MODULE_AT + 136, count);
    for (i, (field, v)) in (0..).zip(pointers) {
        if pie {
            let rela = DATA_OFFSET + RELA_AT + i * 24;
            put64(&mut b, rela, DATA_VA + MODULE_AT + field);
            put64(&mut b, rela + 8, 8);
            put64(&mut b, rela + 16, v);
        } else {
            put64(&mut b, DATA_OFFSET + MODULE_AT + field, v);
        }
    }
    if pie {
        put64(&mut b, DATA_OFFSET + DYN_AT, 7);
        put64(&mut b, DATA_OFFSET + DYN_AT + 8, DATA_VA + RELA_AT);
        put64(&mut b, DATA_OFFSET + DYN_AT + 16, 8);
        put64(&mut b, DATA_OFFSET + DYN_AT + 24, pointers.len() as u64 * 24);
    }

    // Sections: null, .text, .gopclntab, .go.buildinfo, .shstrtab.
    let strings = b"\0.text\0.gopclntab\0.go.buildinfo\0.shstrtab\0";
    let strings_at = shoff + 5 * 64;
    put(&mut b, strings_at, strings);
    for (i, name, va, offset, len) in [
        (1, 1, TEXT_VA, TEXT_OFFSET, TEXT_LEN),
        (2, 7, PCLN_VA, PCLN_OFFSET, PCLN_LEN),
        (3, 18, DATA_VA, DATA_OFFSET, info.len() as u64),
        (4, 32, 0, strings_at, strings.len() as u64),
    ] {
        let at = shoff + i * 64;
        put32(&mut b, at, name);
        put32(&mut b, at + 4, 1);
        for (field, v) in [(16, va), (24, offset), (32, len)] {
            put64(&mut b, at + field, v);
        }
    }
    b
}

/// The same without section headers, as `sstrip` leaves it.
pub(crate) fn without_sections(mut b: Vec<u8>) -> Vec<u8> {
    put64(&mut b, 40, 0);
    b
}
