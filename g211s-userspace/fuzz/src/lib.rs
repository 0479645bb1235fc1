//! What each fuzz target does with its input. Shared with `tests/hostile_input.rs`, which runs the
//! corpus through it in every build, so that a crash that was found once stays fixed.

use std::io::Cursor;

use g211s::bpf::kernel_btf::KernelFacts;
use g211s::census::{self, Census};
use g211s::event::Event;
use g211s::go::globals::Globals;
use g211s::go::{Binary, plan};
use g211s::heap::liveness::{Follower, Sample};
use g211s::heap::{buckets::Snapshot, estimate::Evidence, schema, symbolised};
use g211s::profile::Mapping;
use g211s::record::Record;
use g211s::recording::{FORMAT_VERSION, Reader};
use g211s::report::{Pipeline, Style, text};
use g211s::runtime::snapshot::{Sampler, ms};
use g211s::runtime::{Feature, Runtime};

pub mod process;

use process::{BIAS, FIRST_SPAN, Image, Process, VERSIONS};

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

/// A recording from somebody else, to the last line of its report.
pub fn recording(input: &[u8]) {
    let mut pipeline = Pipeline::new("fuzz.g211s");
    let mut allocs = g211s::allocs::model::Model::default();
    let Some(records) = records(input) else { return };
    let records: Vec<Record> = records.collect();
    let mut page = g211s::html::First::new("fuzz.g211s");
    for record in &records {
        allocs.push(record.clone());
        page.push(record.clone());
        pipeline.push(record.clone());
    }
    let mut page = page.finish();
    for record in records {
        page.push(record);
    }
    assert!(page.finish().is_ok());
    let document = g211s::allocs::schema::document(&allocs);
    let _ = g211s::allocs::text::text(&document, 10);
    let report = pipeline.finish();
    let _ = report.to_json();
    let _ = text(&report, Style::default());
}

/// The records of an input. The first byte chooses: the rest is a whole file, or the number of records
/// of one block and its columns (a block's checksums keep mutations of a file from getting anywhere).
pub fn records(input: &[u8]) -> Option<impl Iterator<Item = Record>> {
    let file = match input {
        [0, rest @ ..] => rest.to_vec(),
        [_, a, b, rest @ ..] => file_of(rest, u16::from_le_bytes([*a, *b]).into()),
        _ => return None,
    };
    let reader = Reader::new(Cursor::new(file), "fuzz.g211s").ok()?;
    Some(reader.map_while(Result::ok))
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

/// Addresses (the first four words) looked up in an executable's line and inlining tables.
pub fn symbols(input: &[u8]) {
    let Some((addresses, file)) = input.split_at_checked(32) else { return };
    let Ok(binary) = Binary::load(file.to_vec()) else { return };
    let mut symbols = binary.symbols();
    let entries: Vec<u64> = binary.functions.functions().take(8).map(|f| f.entry).collect();
    let given = addresses.as_chunks::<8>().0.iter().map(|a| u64::from_le_bytes(*a));
    for pc in given.chain(entries) {
        let _ = (symbols.at(pc), symbols.frame_size(pc));
    }
    let _ = symbols.damaged();
}

/// A process that has put anything at all into its Go runtime's structs, before it is looked at or
/// meanwhile: the live checks, samples of the counters, the walk along the threads, a census with
/// stacks, and whether objects live. The first byte chooses the Go version, the second what is looked at, the rest says what is
/// wrong (see [`process`]).
pub fn memory(input: &[u8]) {
    let [version, what, changes @ ..] = input else { return };
    FIXTURE.with(|(binary, images)| {
        look(binary, &images[usize::from(*version) % images.len()], *what, changes);
    });
}

thread_local! {
    /// An executable with line tables, and a process of it of each Go version. What the checks ask the
    /// executable is its functions.
    static FIXTURE: (Binary, Vec<Image>) = {
        let file = &include_bytes!("../corpus/symbols/go")[32..];
        let binary = Binary::load(file.to_vec()).expect("an executable");
        let code: Vec<u64> = binary.functions.functions().map(|f| f.entry).collect();
        let images = VERSIONS.iter().map(|version| Image::new(version, &code)).collect();
        (binary, images)
    };
}

/// Which features the checks found usable.
fn look(binary: &Binary, image: &Image, what: u8, changes: &[u8]) -> Vec<Feature> {
    let memory = Process::new(image, changes);
    let globals = Globals::at(Image::places(), &image.histograms);
    let mut runtime = Runtime::with(&memory, image.offsets.clone(), globals, BIAS);
    // A list that is damaged only where it is not looked at first gets further; so does one that
    // is looked at without a check.
    if what & 1 == 0 {
        runtime.recheck(binary);
    }
    if what & 8 == 0
        && let Ok(snapshot) = Snapshot::take(&runtime)
    {
        let mut symbols = binary.symbols();
        let profile = symbolised::profile(&snapshot, &mut symbols, BIAS, Mapping::default());
        let evidence = Evidence::of(&profile).unwrap_or_default();
        let _ = schema::sites(&profile, &evidence);
    }
    if what & 2 == 0 {
        let mut symbols = binary.symbols();
        if let Ok(census) = Census::take(&runtime, &mut symbols, what & 4 == 0) {
            for key in census.groups.keys() {
                let _ = census::site(&mut symbols, key.origin);
                let _ = census::state_name(runtime.offsets(), key.status, key.wait_reason);
            }
            for pc in census.stacks.iter().flat_map(|stack| &stack.pcs) {
                let _ = symbols.at(*pc);
            }
        }
    }
    if what & 8 == 0 {
        let mut sampler = Sampler::new(&runtime, what & 16 == 0);
        let _ = sampler.sample(&runtime, &|| 1, 1000);
        let _ = (sampler.threads(&runtime), ms::newest(&runtime, &[70, 72], 8));
        let _ = sampler.sample(&runtime, &|| 2, 1000);
        let _ = (runtime.heap_stats(), runtime.threads());
    }
    if what & 32 == 0
        && let Ok(mut follower) = Follower::new(&runtime, &binary.version, 64)
    {
        // The one span of the process, its neighbours and what is no address at all.
        for id in 0..32_u64 {
            let (address, generation) = (FIRST_SPAN.wrapping_add(id * 2048), id as u32 / 4 * 2);
            let sample = Sample { id, address, size: 0, weight: 1, class: id as u8, generation };
            follower.follow(sample);
        }
        let _ = (follower.look(&memory), follower.look(&memory));
    }
    Feature::ALL.into_iter().filter(|feature| runtime.usable(*feature).is_ok()).collect()
}

/// How many features are usable in each version's process when nothing is wrong with it, of how many:
/// fuzzing starts from there.
pub fn memory_is_right() -> Vec<(usize, usize)> {
    FIXTURE.with(|(binary, images)| {
        images.iter().map(|image| (look(binary, image, 0, &[]).len(), Feature::ALL.len())).collect()
    })
}
