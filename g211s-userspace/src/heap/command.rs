//! `g211s heap`: from arguments to records, and from these to files. The only place in this room that knows processes
//! and files.

use std::fs::File;
use std::io::Read as _;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, anyhow, bail};
use nix::sys::time::TimeValLike as _;
use nix::time::{ClockId, clock_gettime};

use super::buckets::{AsOf, Snapshot};
use super::diff::{self, Difference, Side};
use super::following::{Following, live_heap};
use super::recorded::{Model, parts};
use super::schema::Document;
use super::{INUSE_SPACE, symbolised};
use crate::agent::{host, now_ns, stand_back};
use crate::allocs;
use crate::cli::{AllocPlanArg, AllocsArgs, HeapDiffArgs, HeapTakeArgs};
use crate::go::offsets::Offsets;
use crate::profile::{Profile, flame, pprof};
use crate::record::{
    Cost, HeapSnapshot, HeapSource, LatenessSource, Record, RunEnd, RunStart, Settings,
};
use crate::report::format::clean;
use crate::runtime::bias::load_bias;
use crate::runtime::memory::ProcessMemory;
use crate::runtime::types::Types;
use crate::runtime::{Feature, Runtime};
use crate::target::procfs::Procfs;
use crate::target::{ResolvedTarget, resolve};

/// How long is followed where nothing else is asked for.
const FOLLOW: Duration = Duration::from_mins(1);
/// Largest file that is compared.
const MAX_FILE: u64 = 64 << 20;

/// Where records go.
pub type Sink<'s> = &'s mut dyn FnMut(Record) -> Result<()>;

/// Reads the memory profile that the runtime of a process keeps, as records.
///
/// # Errors
/// A process that keeps none, or cannot be read.
pub fn take(pid: u32, sink: Sink<'_>) -> Result<()> {
    stand_back();
    let procfs = Procfs::default();
    let target = resolve(&procfs, pid)?;
    let unreadable =
        |why: &dyn std::fmt::Display| anyhow!("the heap of process {pid} cannot be read: {why}");
    let binary = &target.binary;
    binary.known_runtime().map_err(|why| unreadable(&why))?;
    let bias = load_bias(&procfs, pid, binary).map_err(|why| unreadable(&why))?;
    let memory = ProcessMemory::open(&procfs, pid).map_err(|why| unreadable(&why))?;
    let mut runtime = Runtime::unchecked(&memory, binary, bias);
    runtime.check(binary, &[Feature::HeapProfile, Feature::Heap, Feature::Gc]);
    runtime.usable(Feature::HeapProfile).map_err(|why| {
        unreadable(&format!(
            "there is no memory profile of the runtime's own: {why}. With --follow, g211s follows what is allocated \
             from now on"
        ))
    })?;
    let (began, start_ns, calls) = (Instant::now(), now_ns(), memory.counts());
    let snapshot = Snapshot::take(&runtime).map_err(|why| unreadable(&why))?;
    let took = began.elapsed();
    let heap = live_heap(&runtime);
    if !target.is_alive(&procfs) {
        bail!("process {pid} ended while it was read");
    }
    let mut symbols = binary.symbols();
    let profile = symbolised::profile(&snapshot, &mut symbols, bias);
    let mut unavailable = Vec::new();
    if !symbols.knows_inlining() {
        unavailable
            .push("functions that were inlined: the executable has no tables of them".to_owned());
    }
    if let Err(why) = runtime.usable(Feature::Heap) {
        unavailable.push(format!("the collector's own count of the heap: {why}"));
    }
    let (gc_cycle, gc_cycles, as_of) = as_of(&snapshot);
    let (counts, wall_ns) = (memory.counts(), wall_ns());
    let source = HeapSource {
        target: 0,
        offsets: runtime.offsets().source().to_string(),
        code: Some(code(&target, bias)),
        snapshot: Some(HeapSnapshot {
            time_ns: i64::try_from(wall_ns).unwrap_or(0),
            rate: snapshot.rate,
            gc_cycle,
            gc_cycles,
            as_of,
            heap,
            buckets: snapshot.buckets.len() as u64,
            readings: snapshot.readings,
            torn: snapshot.torn as u64,
            calls: counts.calls - calls.calls,
            bytes: counts.bytes - calls.bytes,
            took_ns: took.as_nanos() as u64,
            unavailable,
        }),
    };
    sink(Record::Start(Box::new(start(&target, start_ns, wall_ns))))?;
    sink(Record::HeapSource(Box::new(source)))?;
    for part in parts(&profile) {
        sink(Record::HeapStacks(Box::new(part)))?;
    }
    sink(Record::End(Box::new(end())))
}

/// Follows what is allocated for a while, as records.
///
/// # Errors
/// A process that cannot be followed.
pub async fn follow(args: &HeapTakeArgs, pid: u32, sink: Sink<'_>) -> Result<()> {
    let procfs = Procfs::default();
    let target = resolve(&procfs, pid)?;
    let allocs = AllocsArgs {
        pid: Some(pid),
        from: None,
        duration: Some(args.duration.unwrap_or(FOLLOW)),
        budget: args.budget,
        // Searches for free slots do not say which object was made.
        plan: AllocPlanArg::Refill,
        exact: false,
        top: args.top,
        json: args.json,
        output: None,
        svg: None,
        folded: None,
        record: None,
    };
    let offsets = Offsets::for_binary(&target.binary);
    let bias = load_bias(&procfs, pid, &target.binary).ok();
    let types = bias.and_then(|bias| Types::of(&target.binary, &offsets, bias).ok());
    let source = HeapSource {
        target: 0,
        offsets: offsets.source().to_string(),
        code: bias.map(|bias| code(&target, bias)),
        snapshot: None,
    };
    let mut source = Some(source);
    let mut following = Following::new(types);
    let mut told = |record: Record| {
        let starts = matches!(record, Record::Start(_));
        sink(record)?;
        match source.take_if(|_| starts) {
            Some(source) => sink(Record::HeapSource(Box::new(source))),
            None => Ok(()),
        }
    };
    allocs::command::run(&allocs, pid, &mut following, &mut told).await
}

/// The document of a heap's records; writes the files that are asked for.
///
/// # Errors
/// Records that are of no heap, a file that cannot be written.
pub fn finish(args: &HeapTakeArgs, model: Model) -> Result<Document> {
    let (document, profile) =
        model.finish().context("it holds no heap: it was not made by `g211s heap --record`")?;
    write(args, &document, &profile)?;
    Ok(document)
}

fn wall_ns() -> u64 {
    clock_gettime(ClockId::CLOCK_REALTIME).map_or(0, |t| t.num_nanoseconds() as u64)
}

fn start(target: &ResolvedTarget, start_ns: u64, wall_ns: u64) -> RunStart {
    RunStart {
        g211s_version: env!("CARGO_PKG_VERSION").into(),
        start_ns,
        wall_ns,
        host: host(),
        settings: Settings {
            threshold_ns: 0,
            full: false,
            interval_ns: 0,
            ring_bytes: 0,
            observer_pid: std::process::id(),
            poll_source: None,
            lateness_source: LatenessSource::default(),
        },
        targets: vec![target.record(Vec::new(), Vec::new())],
    }
}

fn end() -> RunEnd {
    RunEnd {
        end_ns: now_ns(),
        reason: "read".to_owned(),
        produced: std::collections::BTreeMap::new(),
        lost: std::collections::BTreeMap::new(),
        received: std::collections::BTreeMap::new(),
        undecodable: 0,
        threads_full: 0,
        host_switches: 0,
        cost: Cost::default(),
    }
}

/// The collection as of whose end a snapshot is, all so far, and that in words.
fn as_of(snapshot: &Snapshot) -> (Option<u64>, Option<u64>, String) {
    match snapshot.as_of {
        AsOf::Collection(n, all) if n == all => {
            (Some(n), Some(all), format!("as of the end of GC cycle {n}, the last one"))
        }
        AsOf::Collection(n, all) => (
            Some(n),
            Some(all),
            format!(
                "as of the end of GC cycle {n} of {all} (the runtime publishes a cycle's figures when \
                 the next one ends)"
            ),
        ),
        AsOf::Now => (
            None,
            None,
            "up to now (the runtime has not published the figures of any GC cycle yet)".to_owned(),
        ),
        AsOf::Unknown => {
            (None, None, "as of the end of the last GC cycle or of the one before it".to_owned())
        }
    }
}

/// The executable's code, as it is mapped: from, to, and what of the file is there; zeros where that is not known.
fn code(target: &ResolvedTarget, bias: u64) -> (u64, u64, u64) {
    let binary = &target.binary;
    let text = binary.functions.text();
    let code = binary.elf().segments.iter().find(|s| {
        s.is_load() && s.is_executable() && (s.va..s.va.saturating_add(s.file_size)).contains(&text)
    });
    code.map_or((0, 0, 0), |code| {
        let from = code.va.wrapping_add(bias);
        (from, from.wrapping_add(code.file_size), code.offset)
    })
}

fn write(args: &HeapTakeArgs, document: &Document, profile: &Profile) -> Result<()> {
    let save = |file: &Path, bytes: &[u8]| {
        std::fs::write(file, bytes).with_context(|| format!("writing {}", file.display()))
    };
    if let Some(file) = &args.output {
        save(file, &pprof::to_bytes(profile)?)?;
    }
    if let Some(file) = &args.folded {
        save(file, flame::folded(profile, INUSE_SPACE).as_bytes())?;
    }
    if let Some(file) = &args.svg {
        let (pid, comm) = (document.target.pid, &document.target.comm);
        let title = format!("heap in use of process {pid} ({comm}), {}", document.source.as_of);
        save(file, flame::svg(profile, INUSE_SPACE, &title).as_bytes())?;
    }
    Ok(())
}

/// Compares two snapshots.
pub fn compare(args: &HeapDiffArgs) -> Result<Difference> {
    Ok(diff::build(&side(&args.before)?, &side(&args.after)?))
}

/// Reads a snapshot: our JSON, or a heap profile of pprof's format.
fn side(path: &Path) -> Result<Side> {
    let name = clean(&path.display().to_string());
    let mut bytes = Vec::new();
    let read = File::open(path).and_then(|file| file.take(MAX_FILE + 1).read_to_end(&mut bytes));
    read.with_context(|| format!("reading {name}"))?;
    if bytes.len() as u64 > MAX_FILE {
        bail!("{name} is larger than {} MiB", MAX_FILE >> 20);
    }
    let side = if bytes.trim_ascii_start().starts_with(b"{") {
        Side::from_json(&name, &bytes)
    } else {
        pprof::from_bytes(&bytes)
            .map_err(|e| e.to_string())
            .and_then(|p| Side::from_profile(&name, p))
    };
    side.map_err(|why| anyhow!("{name}: {why}"))
}
