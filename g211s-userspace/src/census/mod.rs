//! A census of a process's goroutines: how many there are by creation site and state, without
//! stopping it. Must not know rendering.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use nix::time::{ClockId, clock_gettime};

use crate::elf::symbols::{Frame, Symbols};
use crate::go::offsets::Offsets;
use crate::report::format::clean;
use crate::runtime::Runtime;
use crate::runtime::memory::Memory;

pub mod command;
pub mod gs;
pub mod pace;
pub mod read;
pub mod schema;
pub mod stack;
pub mod text;

use gs::{Goroutine, LEAKED, Layout, SYSCALL, WAITING};
use pace::Pace;
pub use read::{CensusError, ReadStats};
use read::{ListAt, Visitor};
use stack::{Stack, Walker};

/// Different stacks that are told apart; the goroutines of further ones are counted together.
const MAX_STACKS: usize = 1 << 16;
/// Creation sites and states that are told apart.
const MAX_GROUPS: usize = 1 << 18;

/// Which goroutines belong together.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Key {
    /// What made them.
    pub origin: Origin,
    /// The status; `None` where it changed with every look.
    pub status: Option<u8>,
    /// What for, where it waits; otherwise 0.
    pub wait_reason: u8,
    /// One of the runtime's own.
    pub system: bool,
}

/// What made a goroutine.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Origin {
    /// A `go` statement: `gopc` as an address of the file, within the call.
    Statement(u64),
    /// The first goroutine: the program's start.
    Start,
    /// Nothing in Go: it stands for a thread of C code that calls into Go.
    Foreign,
}

/// Goroutines that belong together.
#[derive(Clone, Debug, Default)]
pub struct Group {
    /// How many.
    pub count: u64,
    /// Their function, as an address of the file; `None` where they differ.
    pub start: Option<u64>,
    /// For how long at least each has waited, of those of which the runtime says it, ns.
    pub waited: Vec<u64>,
    /// Their stacks (by number in [`Census::stacks`]), how many each.
    pub stacks: HashMap<usize, u64>,
    /// Those whose stack was not taken: they ran, or moved while it was read.
    pub without_stack: u64,
    /// Their numbers (`goid`), where they were asked for.
    pub ids: Vec<u64>,
}

/// A census.
#[derive(Clone, Debug, Default)]
pub struct Census {
    /// When it began, `CLOCK_MONOTONIC` ns.
    pub at_ns: u64,
    /// How long it took.
    pub took: Duration,
    /// How reading went.
    pub stats: ReadStats,
    /// The groups.
    pub groups: HashMap<Key, Group>,
    /// The different stacks, where they were asked for.
    pub stacks: Vec<Stack>,
    /// Goroutines of more groups, or with more different stacks, than are kept.
    pub beyond_limits: u64,
}

impl Census {
    /// Takes one.
    pub fn take<M: Memory>(
        runtime: &Runtime<M>,
        symbols: &mut Symbols<'_>,
        stacks: bool,
    ) -> Result<Self, CensusError> {
        Self::take_with(runtime, symbols, stacks, false)
    }

    /// The same; `ids`: with the number of each goroutine.
    pub fn take_with<M: Memory>(
        runtime: &Runtime<M>,
        symbols: &mut Symbols<'_>,
        stacks: bool,
        ids: bool,
    ) -> Result<Self, CensusError> {
        let (at_ns, began, pace) = (now_ns(), Instant::now(), Pace::start());
        let layout = Layout::of(runtime.offsets())?;
        let mut stats = ReadStats::default();
        let list = read::list(runtime.memory(), ListAt::of(runtime)?, &mut stats)?;
        let mut collector = Collector {
            runtime,
            symbols,
            now: at_ns,
            census: Self::default(),
            numbered: Numbered::default(),
            systems: HashMap::new(),
            last_start: None,
            walker: stacks.then(Walker::default),
            ids,
            seen: Vec::new(),
            numbers: HashMap::new(),
        };
        read::read(runtime.memory(), &layout, &list, pace, &mut stats, &mut collector)?;
        let census = collector.finish();
        Ok(Self { at_ns, took: began.elapsed(), stats, ..census })
    }

    /// Keeps the numbers only: for a census that others have followed.
    pub fn forget_details(&mut self) {
        self.stacks = Vec::new();
        for group in self.groups.values_mut() {
            (group.waited, group.stacks) = (Vec::new(), HashMap::new());
        }
    }

    /// How many goroutines there are: the program's, and the runtime's own.
    pub fn totals(&self) -> (u64, u64) {
        let sum = |system| {
            self.groups.iter().filter(|(k, _)| k.system == system).map(|(_, g)| g.count).sum()
        };
        (sum(false), sum(true))
    }
}

/// `CLOCK_MONOTONIC`, which Go's `nanotime` is, ns.
pub fn now_ns() -> u64 {
    clock_gettime(ClockId::CLOCK_MONOTONIC).map_or(0, |t| {
        u64::try_from(t.tv_sec()).unwrap_or(0) * 1_000_000_000
            + u64::try_from(t.tv_nsec()).unwrap_or(0)
    })
}

/// A goroutine's state in the words of Go's own tracebacks (`src/runtime/traceback.go`,
/// `goroutineheader`): what it waits for, otherwise its status.
pub fn state_name(offsets: &Offsets, status: Option<u8>, wait_reason: u8) -> String {
    let Some(status) = status else { return "changing".to_owned() };
    let reason = offsets.enum_name("waitReason", u64::from(wait_reason));
    match (status, reason) {
        (WAITING, Some(reason)) => reason.to_owned(),
        (LEAKED, Some(reason)) => format!("{reason} (leaked)"),
        _ => offsets.enum_name("gStatus", u64::from(status)).map_or_else(
            || format!("status {status}"),
            |name| {
                // `_Grunning`, as in the source.
                name.strip_prefix("_G").unwrap_or(name).to_owned()
            },
        ),
    }
}

struct Collector<'r, 's, 'b, M> {
    runtime: &'r Runtime<M>,
    symbols: &'s mut Symbols<'b>,
    now: u64,
    census: Census,
    numbered: Numbered,
    /// Whether goroutines of a start function are the runtime's own.
    systems: HashMap<u64, System>,
    /// The start function that was asked for last, and the answer.
    last_start: Option<(u64, System)>,
    walker: Option<Walker>,
    ids: bool,
    /// Stacks of those that were shown last.
    seen: Vec<Option<Stack>>,
    numbers: HashMap<Stack, usize>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum System {
    No,
    Yes,
    /// Runs finalizers or cleanups: the runtime's own while it waits for some.
    WhileIdle,
}

/// The groups so far. Goroutines of a group tend to lie next to one another, so the last one is looked
/// at before it is searched.
#[derive(Default)]
struct Numbered {
    groups: Vec<(Key, Group)>,
    numbers: HashMap<Key, usize>,
    last: usize,
}

impl Numbered {
    /// The group of this key, made by `new` if there is none; `None` where there are too many.
    fn group(&mut self, key: Key, new: impl FnOnce() -> Group) -> Option<&mut Group> {
        if self.groups.get(self.last).is_none_or(|(last, _)| *last != key) {
            self.last = match self.numbers.get(&key) {
                Some(number) => *number,
                None if self.groups.len() >= MAX_GROUPS => return None,
                None => {
                    self.groups.push((key, new()));
                    self.numbers.insert(key, self.groups.len() - 1);
                    self.groups.len() - 1
                }
            };
        }
        self.groups.get_mut(self.last).map(|(_, group)| group)
    }
}

impl<M: Memory> Collector<'_, '_, '_, M> {
    fn finish(self) -> Census {
        Census { groups: self.numbered.groups.into_iter().collect(), ..self.census }
    }

    /// What this goroutine's start function says.
    fn system(&mut self, start: u64) -> System {
        if let Some((last, system)) = self.last_start
            && last == start
        {
            return system;
        }
        let symbols = &self.symbols;
        let system = *self.systems.entry(start).or_insert_with(|| {
            match symbols.function(start).map(|f| f.name) {
                Some(b"runtime.main" | b"runtime.corostart" | b"runtime.handleAsyncEvent")
                | None => System::No,
                Some(b"runtime.runfinq" | b"runtime.runFinalizers" | b"runtime.runCleanups") => {
                    System::WhileIdle
                }
                Some(name) if name.starts_with(b"runtime.") => System::Yes,
                Some(_) => System::No,
            }
        });
        self.last_start = Some((start, system));
        system
    }

    /// Go `src/runtime/traceback.go`, `isSystemGoroutine` (1.21.13 to 1.27.3), which pprof and
    /// `runtime.NumGoroutine` go by.
    fn is_system(&mut self, goroutine: &Goroutine) -> bool {
        let system = self.system(goroutine.start.wrapping_sub(self.runtime.bias()));
        match system {
            System::No => false,
            System::Yes => true,
            System::WhileIdle => {
                let reason = u64::from(goroutine.wait_reason);
                let reason = self.runtime.offsets().enum_name("waitReason", reason);
                goroutine.status == Some(WAITING)
                    && matches!(reason, Some("finalizer wait" | "cleanup wait"))
            }
        }
    }

    fn number(&mut self, stack: Stack) -> Option<usize> {
        if let Some(number) = self.numbers.get(&stack) {
            return Some(*number);
        }
        if self.numbers.len() >= MAX_STACKS {
            return None;
        }
        let number = self.census.stacks.len();
        self.census.stacks.push(stack.clone());
        self.numbers.insert(stack, number);
        Some(number)
    }
}

impl<M: Memory> Visitor for Collector<'_, '_, '_, M> {
    fn look(&mut self, goroutines: &[Goroutine]) {
        if let Some(walker) = &mut self.walker {
            let (memory, bias) = (self.runtime.memory(), self.runtime.bias());
            self.seen = walker.walk(memory, self.symbols, bias, goroutines);
        }
    }

    fn take(&mut self, goroutine: Goroutine, held: Option<usize>) {
        let system = self.is_system(&goroutine);
        let waits = matches!(goroutine.status, Some(WAITING | LEAKED));
        let file = |address: u64| address.wrapping_sub(self.runtime.bias());
        let key = Key {
            origin: match (goroutine.created_at, goroutine.id) {
                // Its `gopc` lies in the runtime's assembly; Go does not show it either.
                (_, 1) => Origin::Start,
                (0, _) => Origin::Foreign,
                // One less than the return address lies within the call.
                (pc, _) => Origin::Statement(file(pc).wrapping_sub(1)),
            },
            status: goroutine.status,
            wait_reason: if waits { goroutine.wait_reason } else { 0 },
            system,
        };
        let start = file(goroutine.start);
        let stack = held.and_then(|index| self.seen.get_mut(index)?.take());
        let (wanted, number) = (self.walker.is_some(), stack.map(|stack| self.number(stack)));
        let new = || Group { start: Some(start), ..Group::default() };
        let Some(group) = self.numbered.group(key, new) else {
            self.census.beyond_limits += 1;
            return;
        };
        group.count += 1;
        if self.ids {
            group.ids.push(goroutine.id);
        }
        if group.start != Some(start) {
            group.start = None;
        }
        let is_blocked = matches!(goroutine.status, Some(WAITING | LEAKED | SYSCALL));
        if is_blocked && (1..=self.now).contains(&goroutine.wait_since) {
            group.waited.push(self.now - goroutine.wait_since);
        }
        match number {
            Some(Some(number)) => *group.stacks.entry(number).or_default() += 1,
            Some(None) => self.census.beyond_limits += 1,
            None if wanted => group.without_stack += 1,
            None => {}
        }
    }
}

/// Where goroutines were made, in words.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Site {
    /// By this statement: the innermost frame, and the function it was inlined into.
    At {
        /// The function that says `go`.
        frame: FrameName,
        /// Where that was inlined into.
        inlined_into: Option<Arc<str>>,
    },
    /// The first goroutine of the program.
    Start,
    /// A thread of C code.
    Foreign,
    /// An address outside of the program's functions.
    Unknown(u64),
}

/// A place in the source.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct FrameName {
    /// Function.
    pub function: Arc<str>,
    /// File.
    pub file: Option<Arc<str>>,
    /// Line.
    pub line: Option<u32>,
}

impl From<&Frame> for FrameName {
    fn from(frame: &Frame) -> Self {
        let Frame { function, file, line, .. } = frame.clone();
        let harmless = |s: Arc<str>| if clean(&s) == *s { s } else { clean(&s).into() };
        Self { function: harmless(function), file: file.map(harmless), line }
    }
}

/// Names a site.
pub fn site(symbols: &mut Symbols<'_>, origin: Origin) -> Site {
    let address = match origin {
        Origin::Statement(address) => address,
        Origin::Start => return Site::Start,
        Origin::Foreign => return Site::Foreign,
    };
    match symbols.at(address).as_deref() {
        Some([first, rest @ ..]) => Site::At {
            frame: first.into(),
            inlined_into: rest.last().map(|frame| frame.function.clone()),
        },
        _ => Site::Unknown(address),
    }
}
