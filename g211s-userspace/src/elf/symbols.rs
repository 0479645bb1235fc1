//! From an address to functions, file and line, also through inlined calls: what
//! `runtime.CallersFrames` says, from `.gopclntab`, so it works on stripped executables too. Must not
//! know processes: addresses are those of the file, before a PIE's load bias.
//!
//! Layout: Go `src/runtime/runtime2.go`, `_func`, `src/runtime/symtabinl.go`, `inlinedCall`,
//! `src/internal/abi/symtab.go`, `PCDATA_*`, `FUNCDATA_*` (1.19.8, 1.21.13 to 1.27.3).
//!
//! Inline trees lie behind `moduledata.gofunc`, whose place moves between versions (320 in 1.21, 344
//! in 1.27). It is not looked up by version but recognised: the one word of the moduledata behind
//! which the inline trees of functions all over the table make sense. Where there is none, inlining
//! is unknown and said to be.

use std::collections::HashMap;
use std::sync::Arc;

use super::lines::Lines;
use super::pclntab::{Function, Pclntab};
use super::{ElfError, ElfFile, u32_at};

const PCDATA_INL_TREE_INDEX: u32 = 2;
const FUNCDATA_INL_TREE: u32 = 3;
/// What stands for function data that a function does not have.
const NO_DATA: u32 = u32::MAX;
/// Inlined calls in one another: the compiler's budget ends long before.
const MAX_INLINED: usize = 64;
/// Addresses whose answers are kept.
const MAX_CACHED: usize = 1 << 16;
const MAX_FILES: usize = 1 << 16;
/// Functions with inlined calls that `gofunc` is recognised by, and calls looked at in each.
const SAMPLES: usize = 32;
const SAMPLED_CALLS: u32 = 32;
/// Functions that are looked at for them.
const MAX_SAMPLED: usize = 8192;
const SAMPLE_STRIDE: usize = 1_000_003;

/// A function that was active at an address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame {
    /// Its name as in the table (`main.f[go.shape.int]`; see [`short_name`]).
    pub function: Arc<str>,
    /// The source file, as the compiler was given it; `None` where the table does not say.
    pub file: Option<Arc<str>>,
    /// The line in it.
    pub line: Option<u32>,
    /// It has no code of its own here: it was inlined into the next frame's function.
    pub inlined: bool,
}

/// The line tables of an executable, with what was looked up so far.
#[derive(Debug)]
pub struct Symbols<'a> {
    table: &'a Pclntab,
    lines: Lines<'a>,
    inlining: Inlining,
    frames: HashMap<u64, Option<Arc<[Frame]>>>,
    files: HashMap<u32, Option<Arc<str>>>,
    damaged: u64,
}

/// What [`Symbols`] have found out so far, without the executable that they are of: see [`Symbols::pause`].
#[derive(Debug)]
pub struct Paused {
    inlining: Inlining,
    frames: HashMap<u64, Option<Arc<[Frame]>>>,
    files: HashMap<u32, Option<Arc<str>>>,
    damaged: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Inlining {
    /// Where the functions' data begins.
    At(u64),
    /// No function has an inlined call.
    None,
    Unknown,
}

/// What a `_func` says, as far as it is used.
struct Func {
    entry: u64,
    len: u64,
    sp: u32,
    file: u32,
    line: u32,
    unit: u32,
    /// Table of the index into the inline tree by address, and the tree behind `gofunc`.
    inlined: Option<(u32, u32)>,
}

struct InlinedCall<'a> {
    name: &'a [u8],
    /// An address whose position is that of the call, from the function's entry.
    parent: u64,
}

impl<'a> Symbols<'a> {
    /// Prepares look-ups: a few dozen small reads.
    pub fn new(elf: &'a ElfFile, table: &'a Pclntab) -> Self {
        let lines = Lines { elf, tables: table.line_tables() };
        let mut this = Self {
            table,
            lines,
            inlining: Inlining::Unknown,
            frames: HashMap::new(),
            files: HashMap::new(),
            damaged: 0,
        };
        this.inlining = this.find_inlining();
        this
    }

    /// Lets go of the executable, and keeps what was found out.
    pub fn pause(self) -> Paused {
        let Self { inlining, frames, files, damaged, .. } = self;
        Paused { inlining, frames, files, damaged }
    }

    /// Goes on with the same executable.
    pub fn resume(elf: &'a ElfFile, table: &'a Pclntab, paused: Paused) -> Self {
        let Paused { inlining, frames, files, damaged } = paused;
        let lines = Lines { elf, tables: table.line_tables() };
        Self { table, lines, inlining, frames, files, damaged }
    }

    /// The functions that are active at the instruction at `pc`, innermost first; the last is the one
    /// that the code belongs to. `None` outside of Go's text. For a return address ask for the byte
    /// before it: that is the call.
    pub fn at(&mut self, pc: u64) -> Option<Arc<[Frame]>> {
        if let Some(known) = self.frames.get(&pc) {
            return known.clone();
        }
        if self.frames.len() >= MAX_CACHED {
            self.frames.clear();
        }
        let found: Option<Arc<[Frame]>> = self.look_up(pc).map(Arc::from);
        self.frames.insert(pc, found.clone());
        found
    }

    /// The function whose code is at `pc`. Nothing is read.
    pub fn function(&self, pc: u64) -> Option<Function<'a>> {
        self.table.at(pc)
    }

    /// Bytes between the stack pointer and the return address at `pc` (the frame's size as the
    /// compiler left it to the runtime); `None` where the table does not say.
    pub fn frame_size(&mut self, pc: u64) -> Option<u64> {
        let (index, function) = self.table.find_at(pc)?;
        let func = self.func(index, &function)?;
        let size = self.lines.value(func.sp, func.entry, pc);
        u64::try_from(self.count(size)??).ok()
    }

    /// Whether inlined calls are told; otherwise only the function that holds the code is.
    pub fn knows_inlining(&self) -> bool {
        self.inlining != Inlining::Unknown
    }

    /// Look-ups that the tables' damage made incomplete.
    pub fn damaged(&self) -> u64 {
        self.damaged
    }

    fn look_up(&mut self, pc: u64) -> Option<Vec<Frame>> {
        let (index, function) = self.table.find_at(pc)?;
        let physical = |file, line| Frame {
            function: String::from_utf8_lossy(function.name).into(),
            file,
            line,
            inlined: false,
        };
        let Some(func) = self.func(index, &function) else {
            self.damaged += 1;
            return Some(vec![physical(None, None)]);
        };
        let mut frames = Vec::new();
        let mut at = pc;
        while frames.len() < MAX_INLINED {
            let call = self.inlined_call(&func, at);
            let Some(call) = self.count(call) else {
                // The position is that of a call that cannot be named: better none than one that
                // seems to lie in another function.
                frames.push(physical(None, None));
                return Some(frames);
            };
            let (file, line) = self.position(&func, at);
            let Some(call) = call else {
                frames.push(physical(file, line));
                return Some(frames);
            };
            let function = String::from_utf8_lossy(call.name).into();
            frames.push(Frame { function, file, line, inlined: true });
            at = func.entry.saturating_add(call.parent);
        }
        self.damaged += 1;
        Some(vec![physical(None, None)])
    }

    /// A result without its error, which is counted.
    fn count<T>(&mut self, result: Result<T, ElfError>) -> Option<T> {
        self.damaged += u64::from(result.is_err());
        result.ok()
    }

    fn position(&mut self, func: &Func, at: u64) -> (Option<Arc<str>>, Option<u32>) {
        let line = self.lines.value(func.line, func.entry, at);
        let line = self.count(line).flatten().and_then(|l| u32::try_from(l).ok());
        let file = self.lines.value(func.file, func.entry, at);
        let file = self.count(file).flatten().and_then(|f| u32::try_from(f).ok());
        let name = file.and_then(|file| {
            let offset = self.lines.file(func.unit, file);
            self.count(offset).flatten()
        });
        (name.and_then(|offset| self.file_name(offset)), line)
    }

    fn file_name(&mut self, offset: u32) -> Option<Arc<str>> {
        if let Some(known) = self.files.get(&offset) {
            return known.clone();
        }
        if self.files.len() >= MAX_FILES {
            self.files.clear();
        }
        let name = self.lines.file_name(offset);
        let name = self.count(name).map(Arc::from);
        self.files.insert(offset, name.clone());
        name
    }

    fn func(&self, index: usize, function: &Function<'_>) -> Option<Func> {
        let bytes = self.table.func(index)?;
        let word = |at: usize| Some(u32_at(bytes.get(at..at + 4)?, 0));
        // entryOff, nameOff, args, deferreturn, pcsp, pcfile, pcln, npcdata, cuOffset, startLine (1.20+),
        // funcID, flag, pad, nfuncdata, then the arrays.
        let head = if self.lines.tables.is_118 { 40 } else { 44 };
        let (values, data) = (word(28)?, u32::from(*bytes.get(head - 1)?));
        let array = |index: u32| word(head + index as usize * 4);
        let inlined = if PCDATA_INL_TREE_INDEX < values && FUNCDATA_INL_TREE < data {
            let tree = array(values.checked_add(FUNCDATA_INL_TREE)?)?;
            (tree != NO_DATA).then_some((array(PCDATA_INL_TREE_INDEX)?, tree))
        } else {
            None
        };
        Some(Func {
            entry: function.entry,
            len: function.end - function.entry,
            sp: word(16)?,
            file: word(20)?,
            line: word(24)?,
            unit: word(32)?,
            inlined,
        })
    }

    /// The innermost call that was inlined at an address; `Ok(None)` where there is none.
    fn inlined_call(&self, func: &Func, at: u64) -> Result<Option<InlinedCall<'a>>, ElfError> {
        let Some((index, tree)) = func.inlined else { return Ok(None) };
        let Some(index) = self.lines.value(index, func.entry, at)? else { return Ok(None) };
        let Ok(index) = u32::try_from(index) else { return Ok(None) };
        match self.inlining {
            Inlining::At(base) => self.read_call(base, func, tree, index).map(Some),
            Inlining::None | Inlining::Unknown => {
                Err(ElfError::Missing("the functions' inline trees"))
            }
        }
    }

    fn read_call(
        &self,
        base: u64,
        func: &Func,
        tree: u32,
        index: u32,
    ) -> Result<InlinedCall<'a>, ElfError> {
        // 1.18: parent, funcID, file, line, func, parentPc; 1.20+: funcID, nameOff, parentPc, startLine.
        let (len, name, parent) = if self.lines.tables.is_118 { (20, 12, 16) } else { (16, 4, 8) };
        let at = base
            .checked_add(u64::from(tree) + u64::from(index) * len)
            .ok_or(ElfError::Malformed("an inlined call"))?;
        let bytes = self.lines.elf.read_va(at, len, len, "an inlined call")?;
        let (name, parent) = (u32_at(&bytes, name), u64::from(u32_at(&bytes, parent)));
        let name = self.table.name_at(name as usize).filter(|_| parent < func.len);
        name.map(|name| InlinedCall { name, parent }).ok_or(ElfError::Malformed("an inlined call"))
    }

    /// Recognises `moduledata.gofunc`.
    fn find_inlining(&self) -> Inlining {
        let mut samples: Vec<(Func, u32, u32)> = Vec::new();
        let mut has_trees = false;
        let functions = self.table.len();
        for i in 0..functions.min(MAX_SAMPLED) {
            // From all over the table, and each once: the stride is a prime.
            let index = i * SAMPLE_STRIDE % functions;
            let Some(function) = self.table.function(index) else { continue };
            let Some(func) = self.func(index, &function) else { continue };
            let Some((indices, tree)) = func.inlined else { continue };
            has_trees = true;
            let mut last = None;
            let read = self.lines.values(indices, func.entry, |value, _| {
                last = last.max(u32::try_from(value).ok());
                false
            });
            if let (Ok(()), Some(last)) = (read, last) {
                samples.push((func, tree, last));
                if samples.len() == SAMPLES {
                    break;
                }
            }
        }
        if !has_trees {
            return Inlining::None;
        }
        let fits = |base: u64| {
            !samples.is_empty()
                && samples.iter().all(|(func, tree, last)| {
                    (0..=(*last).min(SAMPLED_CALLS))
                        .all(|call| self.read_call(base, func, *tree, call).is_ok())
                })
        };
        self.table
            .module_tail()
            .find(|&base| self.lines.elf.extent(base) > 0 && fits(base))
            .map_or(Inlining::Unknown, Inlining::At)
    }
}

/// A function's name as Go prints it: what stands in the brackets of a generic one is left out
/// (`src/runtime/traceback.go`, `funcNameForPrint`).
pub fn short_name(name: &str) -> String {
    match (name.find('['), name.rfind(']')) {
        (Some(open), Some(close)) if open < close => {
            format!("{}[...]{}", &name[..open], &name[close + 1..])
        }
        _ => name.to_owned(),
    }
}
