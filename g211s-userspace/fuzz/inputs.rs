//! What each fuzz target does with its input. Shared with `tests/hostile_input.rs`, which runs the
//! corpus through it in every build, so that a crash that was found once stays fixed.

use std::io::Cursor;

use g211s::bpf::kernel_btf::KernelFacts;
use g211s::event::Event;
use g211s::go::{Binary, plan};
use g211s::recording::{FORMAT_VERSION, Reader};
use g211s::report::{Pipeline, Style, text};

/// An executable that a hostile process shows us: ELF, build information, function table, probe plan
/// and the decoding of the code that probes go into.
pub fn executable(file: &[u8]) {
    if let Ok(binary) = Binary::load(file.to_vec()) {
        let options = plan::PlanOptions {
            mallocgc: true,
            nextfree: true,
            custom: Some("main.main".to_owned()),
        };
        let _ = plan::plan(&binary, &options);
        let _ = plan::polls_by_itself(&binary);
        let _ = (binary.link_mode(), binary.functions.functions().count());
    }
}

/// The kernel's type information. (The kernel is trusted; the file that stands for it in a container may
/// be anything.)
pub fn kernel_btf(bytes: &[u8]) {
    let _ = KernelFacts::from_btf(bytes);
}

/// An item of the ring buffer: the kernel side's own, but nothing may fall over one.
pub fn ring(item: &[u8]) {
    let _ = Event::decode(item);
}

/// A recording from somebody else, to the last line of its report. The first byte chooses: the rest is
/// a whole file, or one block's columns (a block's checksums keep mutations of a file from
/// getting anywhere).
pub fn recording(input: &[u8]) {
    let file = match input {
        [0, rest @ ..] => rest.to_vec(),
        [_, a, b, rest @ ..] => file_of(rest, u16::from_le_bytes([*a, *b]).into()),
        _ => return,
    };
    let Ok(reader) = Reader::new(Cursor::new(file), "fuzz.g211s") else { return };
    let mut pipeline = Pipeline::new("fuzz.g211s");
    for record in reader.map_while(Result::ok) {
        pipeline.push(record);
    }
    let report = pipeline.finish();
    let _ = report.to_json();
    let _ = text(&report, Style::default());
}

/// A file of one block with these columns; see `g211s::recording` for the format.
fn file_of(columns: &[u8], records: u32) -> Vec<u8> {
    let payload = zstd::bulk::compress(columns, 1).unwrap_or_default();
    let mut file = b"G211S\x1a\r\n".to_vec();
    file.extend(FORMAT_VERSION.to_le_bytes());
    file.extend(g211s_ebpf::ABI_VERSION.to_le_bytes());
    file.extend([0; 4]);
    let mut header = b"G2BK".to_vec();
    header.extend((columns.len() as u32).to_le_bytes());
    header.extend((payload.len() as u32).to_le_bytes());
    header.extend(records.to_le_bytes());
    header.extend(crc32fast::hash(&payload).to_le_bytes());
    let checksum = crc32fast::hash(&header);
    header.extend(checksum.to_le_bytes());
    file.extend(header);
    file.extend(payload);
    file
}
