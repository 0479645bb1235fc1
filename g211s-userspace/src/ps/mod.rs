//! `g211s ps`: the Go processes of a machine, and what can be done with each. Every executable is
//! read once, however many processes run it, and one that is no Go program is told by its headers
//! alone. Must not know rendering.

use std::collections::HashMap;
use std::fs::File;
use std::io;

use serde::Serialize;

use crate::census::gs::Layout;
use crate::census::pace::Pace;
use crate::census::read::{self, ListAt, ReadStats, Tally};
use crate::elf::buildinfo::BuildInfo;
use crate::go::globals::{Global, Globals};
use crate::go::offsets::Offsets;
use crate::go::plan::{PlanOptions, plan};
use crate::go::{Binary, BinaryError};
use crate::report::format::clean;
use crate::runtime::bias::load_bias;
use crate::runtime::memory::{Memory, ProcessMemory};
use crate::runtime::snapshot::ms;
use crate::runtime::{Feature, Runtime};
use crate::target::container::{Container, container};
use crate::target::procfs::Procfs;

mod text;

pub use text::text;

/// The schema's name.
pub const SCHEMA: &str = "g211s.ps/1";
/// Up to here goroutines are counted one by one; beyond, as the runtime's counters have them.
const MAX_COUNTED: u64 = 20_000;

/// All of them.
#[derive(Clone, Debug, Serialize)]
pub struct List {
    /// [`SCHEMA`].
    pub schema: &'static str,
    /// The Go processes, by PID.
    pub processes: Vec<Process>,
    /// How many were looked at.
    pub seen: Seen,
}

/// What there was.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Seen {
    /// Processes, without kernel threads.
    pub processes: u64,
    /// Of them, Go programs.
    pub go: u64,
    /// Of them, other programs.
    pub other: u64,
    /// Of them, those whose executable may not be read: Go programs may be among them.
    pub unreadable: u64,
    /// Of them, those that ended meanwhile.
    pub ended: u64,
    /// Different executables that were read.
    pub executables: u64,
}

/// A Go process.
#[derive(Clone, Debug, Serialize)]
pub struct Process {
    /// PID.
    pub pid: u32,
    /// Its name.
    pub comm: String,
    /// Its executable, in its own mount namespace.
    pub exe: String,
    /// Its cgroup.
    pub cgroup: Option<String>,
    /// Its container, where the cgroup's path names one.
    pub container: Option<Container>,
    /// Go version.
    pub go_version: String,
    /// Import path of the main package.
    pub path: Option<String>,
    /// Main module.
    pub module: Option<String>,
    /// Its version.
    pub module_version: Option<String>,
    /// How it was linked; `None` where that was not found out.
    pub link_mode: Option<Vec<String>>,
    /// Threads that may run Go code at once.
    pub gomaxprocs: Figure<u64>,
    /// Bytes of live objects at the end of the last collection.
    pub live_heap_bytes: Figure<u64>,
    /// Goroutines, without the runtime's own.
    pub goroutines: Figure<u64>,
    /// What g211s can do with it.
    pub can: Can,
}

/// A figure, or why there is none.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Figure<T> {
    /// The figure.
    pub value: Option<T>,
    /// Why there is none, or what is to be known of it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub note: Option<String>,
}

impl<T> Figure<T> {
    fn of<E: ToString>(result: Result<T, E>) -> Self {
        match result {
            Ok(value) => Self { value: Some(value), note: None },
            Err(why) => Self { value: None, note: Some(why.to_string()) },
        }
    }
}

/// What can be done with a process: `None` is yes, otherwise why not.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Can {
    /// `attach`, `record`: its pauses.
    pub attach: Answer,
    /// `goroutines`.
    pub goroutines: Answer,
    /// The runtime's own figures.
    pub runtime: Answer,
    /// `heap`: the runtime keeps a memory profile.
    pub heap: Answer,
}

/// Yes, or why not.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Answer {
    /// Whether.
    pub ok: bool,
    /// Why not.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub why: Option<String>,
}

impl<E: ToString> From<Result<(), E>> for Answer {
    fn from(result: Result<(), E>) -> Self {
        Self { ok: result.is_ok(), why: result.err().map(|e| e.to_string()) }
    }
}

/// What an executable is.
enum Program {
    Other,
    /// Go, and what is known of it.
    Go(Box<GoProgram>),
}

struct GoProgram {
    build: BuildInfo,
    known: Result<Known, String>,
}

/// What is the same for all processes of an executable.
struct Known {
    binary: Binary,
    offsets: Offsets,
    globals: Globals,
    attach: Answer,
}

/// Lists them. Fails only where `/proc` cannot be read at all.
pub fn list(procfs: &Procfs) -> io::Result<List> {
    let mut programs: HashMap<(u64, u64, u64, i64), Program> = HashMap::new();
    let mut seen = Seen::default();
    let mut processes = Vec::new();
    for pid in procfs.processes()? {
        let program = match program_of(procfs, pid, &mut programs) {
            Ok(program) => program,
            Err(e) => {
                seen.count(procfs, pid, &e);
                continue;
            }
        };
        seen.processes += 1;
        let Program::Go(program) = program else {
            seen.other += 1;
            continue;
        };
        match examine(procfs, pid, program) {
            Ok(process) => {
                seen.go += 1;
                processes.push(process);
            }
            Err(_) => seen.ended += 1,
        }
    }
    seen.executables = programs.len() as u64;
    Ok(List { schema: SCHEMA, processes, seen })
}

impl Seen {
    /// A process whose executable could not be read.
    fn count(&mut self, procfs: &Procfs, pid: u32, error: &io::Error) {
        match error.kind() {
            io::ErrorKind::PermissionDenied => {
                self.processes += 1;
                self.unreadable += 1;
            }
            // A kernel thread or a zombie has none; another process has ended.
            _ if procfs.exists(pid) => {}
            _ => {
                self.processes += 1;
                self.ended += 1;
            }
        }
    }
}

fn program_of<'p>(
    procfs: &Procfs,
    pid: u32,
    programs: &'p mut HashMap<(u64, u64, u64, i64), Program>,
) -> io::Result<&'p Program> {
    let identity = procfs.exe_identity(pid)?;
    match programs.entry(identity) {
        std::collections::hash_map::Entry::Occupied(known) => Ok(known.into_mut()),
        std::collections::hash_map::Entry::Vacant(free) => {
            Ok(free.insert(program(procfs.open_exe(pid)?)?))
        }
    }
}

fn program(file: File) -> io::Result<Program> {
    let Some(build) = BuildInfo::of_program(file.try_clone()?) else { return Ok(Program::Other) };
    let known = Binary::load(file).map(Known::of).map_err(|e: BinaryError| e.to_string());
    Ok(Program::Go(Box::new(GoProgram { build, known })))
}

impl Known {
    fn of(binary: Binary) -> Self {
        let offsets = Offsets::for_binary(&binary);
        let globals = Globals::find(&binary, &offsets);
        let attach = plan(&binary, &PlanOptions::default()).map(|_| ()).into();
        Self { binary, offsets, globals, attach }
    }
}

fn examine(procfs: &Procfs, pid: u32, program: &GoProgram) -> io::Result<Process> {
    let cgroup = procfs.cgroup(pid).ok();
    let (exe, _) = procfs.exe(pid)?;
    let refused = |why: &str| Figure { value: None, note: Some(why.to_owned()) };
    let no = |why: &str| Answer { ok: false, why: Some(why.to_owned()) };
    let mut process = Process {
        pid,
        comm: clean(&procfs.comm(pid)?),
        container: cgroup.as_deref().and_then(container),
        cgroup: cgroup.as_deref().map(clean),
        go_version: clean(&program.build.go_version),
        path: program.build.path.as_deref().map(clean),
        module: program.build.module.as_deref().map(clean),
        module_version: program.build.module_version.as_deref().map(clean),
        link_mode: None,
        gomaxprocs: refused(""),
        live_heap_bytes: refused(""),
        goroutines: refused(""),
        can: Can { attach: no(""), goroutines: no(""), runtime: no(""), heap: no("") },
        exe: clean(&exe),
    };
    let found = match &program.known {
        Ok(known) => {
            process.link_mode = Some(known.binary.link_mode());
            process.can.attach = known.attach.clone();
            open(procfs, pid, known).map(|runtime| (runtime, known.binary.cgo))
        }
        Err(why) => {
            process.can.attach = no(why);
            Err(why.clone())
        }
    };
    match found {
        Ok((runtime, cgo)) => figures(&mut process, &runtime, cgo),
        Err(why) => {
            (process.can.goroutines, process.can.runtime) = (no(&why), no(&why));
            process.can.heap = no(&why);
            for figure in
                [&mut process.gomaxprocs, &mut process.live_heap_bytes, &mut process.goroutines]
            {
                *figure = refused(&why);
            }
        }
    }
    Ok(process)
}

fn open(procfs: &Procfs, pid: u32, known: &Known) -> Result<Runtime<ProcessMemory>, String> {
    known.binary.known_runtime().map_err(|e| e.to_string())?;
    let bias = load_bias(procfs, pid, &known.binary)?;
    let memory = ProcessMemory::open(procfs, pid).map_err(|e| e.to_string())?;
    let mut runtime = Runtime::with(memory, known.offsets.clone(), known.globals.clone(), bias);
    runtime.check(&known.binary, &[Feature::Goroutines, Feature::Heap, Feature::Processors]);
    runtime.check(&known.binary, &[Feature::HeapProfile]);
    if known.binary.cgo {
        runtime.check(&known.binary, &[Feature::Threads]);
    }
    Ok(runtime)
}

fn figures<M: Memory>(process: &mut Process, runtime: &Runtime<M>, cgo: bool) {
    let checked = |feature, read: &dyn Fn() -> Result<u64, String>| {
        Figure::of(runtime.usable(feature).map_err(str::to_owned).and_then(|()| read()))
    };
    process.can.goroutines = runtime.usable(Feature::Goroutines).into();
    process.can.runtime = runtime.usable(Feature::Heap).into();
    process.can.heap = runtime.usable(Feature::HeapProfile).into();
    process.gomaxprocs = checked(Feature::Processors, &|| {
        let address = runtime.address(Global::Gomaxprocs).map_err(|e| e.to_string())?;
        runtime.u32_at(address).map(u64::from).map_err(|e| e.to_string())
    });
    process.live_heap_bytes = checked(Feature::Heap, &|| {
        let marked = runtime.u64(Global::GcController, "runtime.gcControllerState", "heapMarked");
        match marked {
            Ok(0) => Err("there has been no collection yet".to_owned()),
            Ok(bytes) => Ok(bytes),
            Err(e) => Err(e.to_string()),
        }
    });
    let mut note = None;
    process.goroutines = checked(Feature::Goroutines, &|| {
        if cgo {
            runtime.usable(Feature::Threads).map_err(str::to_owned)?;
        }
        goroutines(runtime, cgo).map(|(n, _)| n)
    });
    if process.goroutines.value.is_some_and(|n| n > MAX_COUNTED) {
        note = Some("from the runtime's counters: high by up to 64 a P".to_owned());
    }
    process.goroutines.note = process.goroutines.note.take().or(note);
}

/// How many goroutines there are, as `runtime.NumGoroutine` counts; and whether one by one.
fn goroutines<M: Memory>(runtime: &Runtime<M>, cgo: bool) -> Result<(u64, bool), String> {
    let text = |e: &dyn std::error::Error| e.to_string();
    let sched = |field: &str| runtime.u64(Global::Sched, "runtime.schedt", field);
    let system = sched("ngsys").map_err(|e| text(&e))? & 0xffff_ffff;
    let length = runtime
        .address(Global::Allglen)
        .and_then(|address| runtime.u64_at(address))
        .map_err(|e| text(&e))?;
    if length > MAX_COUNTED {
        // Go `src/runtime/proc.go`, `gcount`, but for the few that each P keeps for reuse.
        let free = sched("gFree.n")
            .map(|n| n & 0xffff_ffff)
            .or_else(
                |_| Ok(sched("gFree.stack.size")?.saturating_add(sched("gFree.noStack.size")?)),
            )
            .map_err(|e: crate::runtime::RuntimeError| text(&e))?;
        return Ok((length.saturating_sub(free).saturating_sub(system), false));
    }
    let (mut stats, mut tally) = (ReadStats::default(), Tally::default());
    let (memory, at) = (runtime.memory(), ListAt::of(runtime).map_err(|e| text(&e))?);
    let layout = Layout::of(runtime.offsets()).map_err(|e| text(&e))?;
    let list = read::list(memory, at, &mut stats).map_err(|e| text(&e))?;
    read::read(memory, &layout, &list, Pace::start(), &mut stats, &mut tally)
        .map_err(|e| text(&e))?;
    let alive: u64 = tally.by_status.values().sum();
    // Among the runtime's own are those kept for threads that C makes, which are not alive meanwhile.
    let kept = if cgo { ms::extra(runtime) } else { 0 };
    Ok((alive.saturating_sub(system.saturating_sub(kept)), true))
}
