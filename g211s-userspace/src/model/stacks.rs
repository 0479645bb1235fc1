//! Where threads were in their own code, as far as stacks were taken, and what the places are called.
//! Must not know stops, ELF or how names are printed.
//!
//! Names come in the stream ([`SymbolInfo`]) before the stacks that need them. A stack without a name still
//! tells that the thread was in user code, or in which system call.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::Arc;

use g211s_ebpf::event::StackEvent;

use crate::record::{SymbolFrame, SymbolInfo};

/// Addresses that are named at most, and places that are told apart: some hundred are usual.
const MAX_NAMES: usize = 1 << 16;

/// A line of a function.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Place {
    /// The function.
    pub function: Arc<str>,
    /// Its source file, where known.
    pub file: Option<Arc<str>>,
    /// The line, where known.
    pub line: Option<u32>,
}

/// Where a thread was.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Code {
    /// The innermost function.
    pub place: Place,
    /// Where that is the runtime's, or no Go: the first of the program's own Go functions above it, where
    /// known.
    pub caller: Option<Place>,
}

/// A [`Code`] of one [`Stacks`], by numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CodeId {
    /// The same for the same function with the same caller, whatever their lines.
    pub function: u32,
    /// Which place.
    place: u32,
}

#[cfg(test)]
impl CodeId {
    /// For tests of what only compares them.
    pub(crate) fn of(function: u32, place: u32) -> Self {
        Self { function, place }
    }
}

/// One stack of a thread.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sample {
    /// When, ns.
    pub ts_ns: u64,
    /// The system call that the thread was in, or coming from; -1: none.
    pub syscall: i32,
    /// Where in its own code; `None` where that has no name.
    pub code: Option<CodeId>,
}

/// The stacks of one target.
#[derive(Clone, Debug, Default)]
pub struct Stacks {
    by_tid: BTreeMap<u32, VecDeque<Sample>>,
    names: HashMap<u64, Arc<[SymbolFrame]>>,
    codes: Vec<Code>,
    ids: HashMap<Code, CodeId>,
    functions: HashMap<(Arc<str>, Option<Arc<str>>), u32>,
}

impl Stacks {
    /// Learns what an address is.
    pub fn name(&mut self, symbol: SymbolInfo) {
        if self.names.len() < MAX_NAMES {
            self.names.entry(symbol.address).or_insert_with(|| symbol.frames.into());
        }
    }

    /// Takes a stack.
    pub fn apply(&mut self, e: &StackEvent) {
        let sample = Sample { ts_ns: e.header.ts_ns, syscall: e.syscall, code: self.code_of(e) };
        let samples = self.by_tid.entry(e.header.tid).or_default();
        let at = samples.partition_point(|s| s.ts_ns <= sample.ts_ns);
        samples.insert(at, sample);
    }

    fn code_of(&mut self, e: &StackEvent) -> Option<CodeId> {
        let depth = (e.depth as usize).min(e.addresses.len());
        let (first, rest) = e.addresses[..depth].split_first()?;
        let calls = rest.iter().map(|address| address.wrapping_sub(1));
        // What has no name ends the walk: above it nothing is proven to be the caller.
        let known = std::iter::once(*first).chain(calls).map_while(|a| self.names.get(&a));
        let frames: Vec<&SymbolFrame> = known.flat_map(|frames| frames.iter()).collect();
        let innermost = *frames.first()?;
        let caller = if is_own(&innermost.function) {
            None
        } else {
            frames.iter().find(|f| is_own(&f.function)).copied()
        };
        let code = Code { place: place(innermost), caller: caller.map(place) };
        if let Some(id) = self.ids.get(&code) {
            return Some(*id);
        }
        if self.codes.len() >= MAX_NAMES {
            return None;
        }
        let next = self.functions.len() as u32;
        let caller = code.caller.as_ref().map(|c| Arc::clone(&c.function));
        let function = (Arc::clone(&code.place.function), caller);
        let function = *self.functions.entry(function).or_insert(next);
        let id = CodeId { function, place: self.codes.len() as u32 };
        self.codes.push(code.clone());
        self.ids.insert(code, id);
        Some(id)
    }

    /// The stacks of a thread that were taken during `[from_ns, to_ns]`, in time order.
    pub fn between(
        &self,
        tid: u32,
        from_ns: u64,
        to_ns: u64,
    ) -> impl DoubleEndedIterator<Item = &Sample> {
        let samples = self.by_tid.get(&tid);
        let first = samples.map_or(0, |s| s.partition_point(|s| s.ts_ns < from_ns));
        let last = samples.map_or(0, |s| s.partition_point(|s| s.ts_ns <= to_ns)).max(first);
        samples.into_iter().flat_map(move |s| s.range(first..last))
    }

    /// What a number stands for.
    pub fn code(&self, id: CodeId) -> Option<&Code> {
        self.codes.get(id.place as usize)
    }

    /// Forgets stacks before `before_ns`; names stay.
    pub fn prune(&mut self, before_ns: u64) {
        self.by_tid.retain(|_, samples| {
            while samples.front().is_some_and(|s| s.ts_ns < before_ns) {
                samples.pop_front();
            }
            !samples.is_empty()
        });
    }
}

fn place(frame: &SymbolFrame) -> Place {
    Place {
        function: frame.function.as_str().into(),
        file: frame.file.as_deref().map(Into::into),
        line: frame.line,
    }
}

/// Whether a function is Go code outside of the runtime and the assembly that it and the compiler call on
/// everybody's behalf (which has names without a package: `memeqbody`).
fn is_own(function: &str) -> bool {
    const RUNTIME: [&str; 7] = [
        "runtime.",
        "runtime/",
        "internal/runtime/",
        "internal/bytealg.",
        "internal/abi.",
        "internal/cpu.",
        "[",
    ];
    function.contains('.') && !RUNTIME.iter().any(|prefix| function.starts_with(prefix))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::ascii::stack;

    fn symbol(address: u64, frames: &[(&str, u32)]) -> SymbolInfo {
        let last = frames.len() - 1;
        let frames = frames.iter().enumerate().map(|(i, (function, line))| SymbolFrame {
            function: (*function).to_owned(),
            file: Some("x.go".to_owned()),
            line: Some(*line),
            inlined: i < last,
        });
        SymbolInfo { target: 0, address, frames: frames.collect() }
    }

    fn told(stacks: &Stacks, addresses: &[u64]) -> Option<(String, Option<String>)> {
        let mut stacks = stacks.clone();
        stacks.apply(&stack(10, 7, -1, addresses));
        let sample = *stacks.between(7, 0, 20).next().unwrap();
        let code = stacks.code(sample.code?).unwrap();
        let name = |p: &Place| format!("{}:{}", p.function, p.line.unwrap());
        Some((name(&code.place), code.caller.as_ref().map(name)))
    }

    #[test]
    fn the_caller_of_the_runtimes_code_is_the_programs() {
        let mut stacks = Stacks::default();
        stacks.name(symbol(100, &[("runtime.memclrNoHeapPointers", 3)]));
        stacks.name(symbol(199, &[("runtime.clear", 8), ("main.fill", 9)]));
        stacks.name(symbol(300, &[("main.spin", 41)]));
        let memclr = "runtime.memclrNoHeapPointers:3".to_owned();
        assert_eq!(
            told(&stacks, &[100, 200]),
            Some((memclr.clone(), Some("main.fill:9".to_owned()))),
            "the call is before the return address, and in it one is inlined"
        );
        assert_eq!(told(&stacks, &[100, 5, 200]), Some((memclr, None)), "no name, no caller");
        assert_eq!(told(&stacks, &[300, 200]), Some(("main.spin:41".to_owned(), None)));
        assert_eq!(told(&stacks, &[5, 200]), None);
        assert_eq!(told(&stacks, &[]), None);
    }

    #[test]
    fn whose_code_it_is() {
        for own in ["main.f", "net/http.(*conn).serve", "runtimes.f", "internal/poll.f"] {
            assert!(is_own(own), "{own}");
        }
        for runtimes in [
            "runtime.mallocgc",
            "internal/bytealg.IndexByte",
            "memeqbody",
            "[vdso]",
            "[libc.so.6]",
            "runtime/internal/atomic.Xadd",
        ] {
            assert!(!is_own(runtimes), "{runtimes}");
        }
    }

    #[test]
    fn stacks_come_in_time_order_and_are_forgotten() {
        let mut stacks = Stacks::default();
        for ts in [30, 10, 20] {
            stacks.apply(&stack(ts, 7, -1, &[1]));
        }
        let times =
            |s: &Stacks, from, to| s.between(7, from, to).map(|s| s.ts_ns).collect::<Vec<_>>();
        assert_eq!(times(&stacks, 10, 20), [10, 20]);
        assert_eq!(times(&stacks, 21, 20), [0; 0]);
        stacks.prune(20);
        assert_eq!(times(&stacks, 0, 99), [20, 30]);
        assert_eq!(stacks.between(8, 0, 99).count(), 0);
    }
}
