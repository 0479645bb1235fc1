//! `g211s heap`: from arguments to a profile and a document. The only place in this room that knows processes and
//! files.

use std::fs::File;
use std::io::Read as _;
use std::path::Path;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, Result, anyhow, bail};

use super::buckets::{AsOf, Snapshot};
use super::diff::{self, Difference, Side};
use super::estimate::Evidence;
use super::following::Following;
use super::schema::{Document, LiveHeap, Reads, SCHEMA, Source, TargetInfo, sites};
use super::{INUSE_SPACE, followed, symbolised};
use crate::agent::stand_back;
use crate::allocs;
use crate::cli::{AllocPlanArg, AllocsArgs, HeapDiffArgs, HeapTakeArgs};
use crate::export::write_whole;
use crate::go::globals::Global;
use crate::go::offsets::Offsets;
use crate::profile::{Mapping, Profile, flame, pprof};
use crate::report::format::clean;
use crate::runtime::bias::load_bias;
use crate::runtime::memory::{Memory, ProcessMemory};
use crate::runtime::sampling::open_runtime;
use crate::runtime::types::Types;
use crate::runtime::{Feature, Runtime};
use crate::target::procfs::Procfs;
use crate::target::{ResolvedTarget, resolve};

/// How long is followed where nothing else is asked for.
const FOLLOW: Duration = Duration::from_mins(1);
/// Largest file that is compared.
const MAX_FILE: u64 = 64 << 20;

/// Reads the heap of a process, and writes what files are asked for.
pub fn take(args: &HeapTakeArgs) -> Result<Document> {
    stand_back();
    let procfs = Procfs::default();
    let target = resolve(&procfs, args.pid)?;
    let unreadable = |why: &dyn std::fmt::Display| {
        anyhow!("the heap of process {} cannot be read: {why}", args.pid)
    };
    let binary = &target.binary;
    binary.known_runtime().map_err(|why| unreadable(&why))?;
    let bias = load_bias(&procfs, args.pid, binary).map_err(|why| unreadable(&why))?;
    let memory = ProcessMemory::open(&procfs, args.pid).map_err(|why| unreadable(&why))?;
    let mut runtime = Runtime::unchecked(&memory, binary, bias);
    runtime.check(binary, &[Feature::HeapProfile, Feature::Heap, Feature::Gc]);
    runtime.usable(Feature::HeapProfile).map_err(|why| {
        unreadable(&format!(
            "there is no memory profile of the runtime's own: {why}. With --follow, g211s follows what is allocated \
             from now on"
        ))
    })?;
    let (began, calls) = (Instant::now(), memory.counts());
    let snapshot = Snapshot::take(&runtime).map_err(|why| unreadable(&why))?;
    let took = began.elapsed();
    let live_heap = live_heap(&runtime);
    if !target.is_alive(&procfs) {
        bail!("process {} ended while it was read", args.pid);
    }
    let mut symbols = binary.symbols();
    let mut profile = symbolised::profile(&snapshot, &mut symbols, bias, mapping(&target, bias));
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |t| t.as_nanos() as i64);
    profile.time_ns = now;
    let source = source(&snapshot);
    profile
        .comments
        .push(format!("g211s heap: the runtime's own memory profile, {}", source.as_of));
    let evidence = Evidence::of(&profile).unwrap_or_default();
    let (total, sites) = sites(&profile, &evidence);
    let mut unavailable = Vec::new();
    if !symbols.knows_inlining() {
        unavailable
            .push("functions that were inlined: the executable has no tables of them".to_owned());
    }
    if let Err(why) = runtime.usable(Feature::Heap) {
        unavailable.push(format!("the collector's own count of the heap: {why}"));
    }
    let counts = memory.counts();
    let document = Document {
        schema: SCHEMA.to_owned(),
        target: target_info(args.pid, &target, runtime.offsets()),
        time_ns: now,
        source,
        live_heap,
        total,
        sites,
        reads: Reads {
            buckets: snapshot.buckets.len() as u64,
            readings: snapshot.readings,
            torn: snapshot.torn as u64,
            calls: counts.calls - calls.calls,
            bytes: counts.bytes - calls.bytes,
            took_ns: took.as_nanos() as u64,
        },
        followed: None,
        unavailable,
    };
    write(args, &document, &profile)?;
    Ok(document)
}

/// Follows what is allocated for a while, and writes what files are asked for.
///
/// # Errors
/// A process that cannot be followed, or a file that cannot be written.
pub async fn follow(args: &HeapTakeArgs) -> Result<Document> {
    let procfs = Procfs::default();
    let target = resolve(&procfs, args.pid)?;
    let allocs = AllocsArgs {
        pid: Some(args.pid),
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
    let mut model = followed::Model::default();
    let offsets = Offsets::for_binary(&target.binary);
    let bias = load_bias(&procfs, args.pid, &target.binary).ok();
    let types = bias.and_then(|bias| Types::of(&target.binary, &offsets, bias).ok());
    let mut following = Following::new(types);
    let mut sink = |record| {
        model.push(record);
        Ok(())
    };
    allocs::command::run(&allocs, args.pid, &mut following, &mut sink).await?;
    let (mut profile, sums) = model.profile();
    profile.mappings.push(bias.map_or_else(Mapping::default, |bias| mapping(&target, bias)));
    profile.time_ns =
        SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |t| t.as_nanos() as i64);
    let offsets = Offsets::for_binary(&target.binary);
    let mut document = model.document(target_info(args.pid, &target, &offsets), &profile, &sums);
    if target.is_alive(&procfs)
        && let Ok(runtime) = open_runtime(&procfs, &target)
    {
        document.live_heap = live_heap(&runtime);
    }
    profile.comments.push(format!("g211s heap --follow: {}", document.source.as_of));
    write(args, &document, &profile)?;
    Ok(document)
}

fn target_info(pid: u32, target: &ResolvedTarget, offsets: &Offsets) -> TargetInfo {
    let build = &target.binary.build;
    TargetInfo {
        pid,
        comm: clean(&target.comm),
        exe: clean(&target.exe),
        go_version: clean(&build.go_version),
        module: build.module.as_deref().map(clean),
        offsets: offsets.source().to_string(),
    }
}

fn live_heap<M: Memory>(runtime: &Runtime<M>) -> Option<LiveHeap> {
    runtime.usable(Feature::Heap).ok()?;
    let read = |field| runtime.u64(Global::GcController, "runtime.gcControllerState", field).ok();
    let marked_bytes = read("heapMarked")?;
    Some(LiveHeap { marked_bytes, live_bytes: read("heapLive")? })
}

fn source(snapshot: &Snapshot) -> Source {
    let (gc_cycle, gc_cycles, as_of) = match snapshot.as_of {
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
    };
    let bytes_per_sample = snapshot.rate;
    Source { kind: "runtime_profile".to_owned(), bytes_per_sample, gc_cycle, gc_cycles, as_of }
}

/// The executable's code, as it is mapped.
fn mapping(target: &ResolvedTarget, bias: u64) -> Mapping {
    let binary = &target.binary;
    let text = binary.functions.text();
    let code = binary.elf().segments.iter().find(|s| {
        s.is_load() && s.is_executable() && (s.va..s.va.saturating_add(s.file_size)).contains(&text)
    });
    let file = target.exe.clone();
    code.map_or_else(
        || Mapping { file: file.clone(), ..Mapping::default() },
        |code| Mapping {
            start: code.va.wrapping_add(bias),
            limit: code.va.wrapping_add(code.file_size).wrapping_add(bias),
            offset: code.offset,
            file: file.clone(),
            build_id: String::new(),
        },
    )
}

fn write(args: &HeapTakeArgs, document: &Document, profile: &Profile) -> Result<()> {
    if let Some(file) = &args.output {
        write_whole(file, &pprof::to_bytes(profile)?)?;
    }
    if let Some(file) = &args.folded {
        write_whole(file, flame::folded(profile, INUSE_SPACE).as_bytes())?;
    }
    if let Some(file) = &args.svg {
        let (pid, comm) = (document.target.pid, &document.target.comm);
        let title = format!("heap in use of process {pid} ({comm}), {}", document.source.as_of);
        write_whole(file, flame::svg(profile, INUSE_SPACE, &title).as_bytes())?;
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
