//! The fuzzers' corpus, with every input that ever crashed a parser, through the same code as in
//! fuzzing (`fuzz/`, see CONTRIBUTING.md): it must come out with a result or an error.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use g211s::event::Event;
use g211s::record::Record;
use g211s::recording::{Reader, Writer};
use g211s_ebpf::event::{
    EventKind, Header, Life, LifeEvent, STACK_DEPTH, SpanEvent, SpanWhat, StackEvent, StackWhy,
};

#[path = "../fuzz/src/lib.rs"]
#[expect(
    unreachable_pub,
    reason = "the fuzz targets' library, which is a crate of its own workspace"
)]
mod inputs;

fn folder(target: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus").join(target)
}

fn corpus(target: &str) -> Vec<(PathBuf, Vec<u8>)> {
    let files: Vec<_> = std::fs::read_dir(folder(target))
        .expect("the corpus is checked in")
        .map(|entry| entry.expect("a directory entry").path())
        .map(|path| (path.clone(), std::fs::read(path).expect("a file")))
        .collect();
    assert!(!files.is_empty(), "no corpus of {target}");
    files
}

fn all_of(target: &str, run: fn(&[u8])) {
    for (path, input) in corpus(target) {
        println!("{}", path.display());
        run(&input);
    }
}

#[test]
fn executables() {
    all_of("executable", inputs::executable);
}

#[test]
fn kernel_types() {
    all_of("kernel_btf", inputs::kernel_btf);
}

#[test]
fn recordings() {
    all_of("recording", inputs::recording);
}

#[test]
fn ring_items() {
    all_of("ring", inputs::ring);
}

#[test]
fn line_tables() {
    all_of("symbols", inputs::symbols);
}

#[test]
fn memories() {
    all_of("memory", inputs::memory);
}

/// Fuzzing starts from a process that passes every check: else it would get no further than the first.
#[test]
fn the_fuzzed_process_is_right_until_it_is_changed() {
    for (n, (usable, of)) in inputs::memory_is_right().into_iter().enumerate() {
        assert_eq!(usable, of, "{}", inputs::process::VERSIONS[n]);
    }
}

fn kind(event: &Event) -> u8 {
    event.header().kind
}

/// Inputs of an event version or a file format that is no more end at the first check, and fuzzing that
/// starts from them stays there. After a change of either:
/// `G211S_CORPUS_FROM=NEW.g211s cargo test -p g211s-userspace --test hostile_input corpus`, with a
/// short recording of a program that collects.
#[test]
fn the_corpus_reaches_every_kind_of_event() {
    if let Some(recording) = std::env::var_os("G211S_CORPUS_FROM") {
        write_corpus(Path::new(&recording));
    }
    // Allocations do not come as events: see `allocs::decode`.
    let is_event = |k: &u8| EventKind::from_u8(*k).is_some_and(|k| k != EventKind::Alloc);
    let all: BTreeSet<u8> = (0..=u8::MAX).filter(is_event).collect();
    let items: BTreeSet<u8> = corpus("ring")
        .iter()
        .filter_map(|(_, item)| Event::decode(item).ok().as_ref().map(kind))
        .collect();
    assert_eq!(items, all, "ring items");
    for by_block in [false, true] {
        let recorded: BTreeSet<u8> = corpus("recording")
            .iter()
            .filter(|(_, input)| (input[0] != 0) == by_block)
            .filter_map(|(_, input)| inputs::records(input))
            .flatten()
            .filter_map(|record| match record {
                Record::Event(event) => Some(kind(&event)),
                _ => None,
            })
            .collect();
        assert_eq!(recorded, all, "recordings, by block: {by_block}");
    }
}

/// A recording as inputs: of `ring`, an item of each kind; of `recording`, the file and its blocks.
fn write_corpus(recording: &Path) {
    let mut records: Vec<Record> =
        Reader::open(recording).expect("a recording").map(|r| r.expect("a record")).collect();
    // Other processes' names are nobody's business.
    for record in &mut records {
        if let Record::Process(process) = record {
            process.cmdline.clone_from(&process.comm);
        }
    }
    let header = *records
        .iter()
        .find_map(|record| match record {
            Record::Event(event) => Some(event.header()),
            _ => None,
        })
        .expect("an event");
    let place = records.iter().rposition(|r| matches!(r, Record::Event(_))).expect("an event");
    for event in rare_events(header) {
        records.insert(place, Record::Event(event));
    }
    for record in &records {
        if let Record::Event(event) = record {
            let name = format!("{:?}", EventKind::from_u8(kind(event)).expect("known"));
            std::fs::write(folder("ring").join(name.to_lowercase()), event.as_bytes())
                .expect("writes");
        }
    }
    let write = |name: &str, input: Vec<u8>| {
        std::fs::write(folder("recording").join(name), input).expect("writes");
    };
    let whole = file_of(&records);
    write("file", [&[0], &whole[..]].concat());
    let half = records.len() / 2;
    for (name, part) in [("block0", &records[..half]), ("block1", &records[half..])] {
        let file = file_of(part);
        // File header, block header (its second word is the length), one zstd frame.
        let word = |at: usize| u32::from_le_bytes(file[at..at + 4].try_into().expect("four"));
        let (len, packed) = (word(20) as usize, word(24) as usize);
        assert_eq!(file.len(), 40 + packed, "one block");
        let columns = zstd::bulk::decompress(&file[40..], len).expect("a frame");
        let count = u16::try_from(part.len()).expect("few records").to_le_bytes();
        write(name, [&[1, count[0], count[1]], &columns[..]].concat());
    }
}

/// Of the kinds that a short recording may well lack.
fn rare_events(header: Header) -> [Event; 3] {
    let mut addresses = [0; STACK_DEPTH];
    addresses[..2].copy_from_slice(&[0x47_1234, 0x43_5678]);
    let stack = StackEvent {
        header: Header { kind: EventKind::Stack as u8, ..header },
        why: StackWhy::Signal as u32,
        stw: 1,
        syscall: -1,
        depth: 2,
        addresses,
    };
    let span = SpanEvent {
        header: Header { kind: EventKind::Span as u8, ..header },
        what: SpanWhat::PHeld as u32,
        detail: 35,
        start_ns: header.ts_ns.saturating_sub(1_000_000),
        middle_ns: 0,
        id: 1,
    };
    let life = LifeEvent {
        header: Header { kind: EventKind::Life as u8, ..header },
        what: Life::ThreadBorn as u32,
        other: header.tid,
    };
    [Event::Stack(Box::new(stack)), Event::Span(span), Event::Life(life)]
}

fn file_of(records: &[Record]) -> Vec<u8> {
    let name = format!("hostile-input-{}.g211s", std::process::id());
    let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
    let mut writer = Writer::create(&path).expect("creates");
    for record in records {
        writer.write(record).expect("writes");
    }
    writer.finish().expect("writes");
    let bytes = std::fs::read(&path).expect("reads");
    std::fs::remove_file(&path).expect("removes");
    bytes
}
