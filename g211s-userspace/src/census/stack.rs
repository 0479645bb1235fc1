//! Stacks of goroutines that do not run, from memory: frame by frame by the sizes that the compiler
//! left to the runtime (`pcsp`, what the runtime itself unwinds with), by frame pointers where a
//! function has none. Go 1.21 and 1.22 keep no frame pointer over a system call, so frame pointers
//! alone would lose those stacks. Must not know groups or output; whether the goroutine kept still
//! meanwhile is the caller's to find out.
//!
//! Go `src/runtime/traceback.go`, `unwinder.resolveInternal`, `symPC` (1.21.13 to 1.27.3).

use std::collections::HashMap;

use super::gs::{Goroutine, MAX_STACK, RUNNING, Registers, SYSCALL};
use crate::elf::symbols::Symbols;
use crate::runtime::memory::Memory;

/// Bytes of each stack that are read with those of other goroutines: most stacks as a whole.
const FIRST: u64 = 2048;
/// Bytes read at a time beyond them, and how often at most.
const MORE: usize = 8192;
const MAX_MORE: usize = 64;
/// Most frames of a stack (the runtime prints 100).
const MAX_FRAMES: usize = 256;
/// Addresses whose frame size is kept.
const MAX_KNOWN: usize = 1 << 20;

/// A stack, innermost frame first.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Stack {
    /// Addresses of the file (without a PIE's load bias), each within the call it stands for.
    pub pcs: Vec<u64>,
    /// It was not followed to its end: too deep, damaged, or code that says nothing of its frame.
    pub cut: bool,
}

/// What is known of an address in the code.
#[derive(Clone, Copy, Debug)]
struct Place {
    size: Option<u64>,
    entry: u64,
    kind: Kind,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Normal,
    /// The outermost function.
    Top,
    /// It looks called, but was put there by a signal: its caller's address is not behind a call.
    Injected,
}

/// Follows stacks, and remembers what it learned of the code.
#[derive(Debug, Default)]
pub struct Walker {
    places: HashMap<u64, Option<Place>>,
}

struct Window<'m, M> {
    memory: &'m M,
    base: u64,
    bytes: Vec<u8>,
    top: u64,
    more: usize,
}

impl<M: Memory> Window<'_, M> {
    fn word(&mut self, at: u64) -> Option<u64> {
        if !at.is_multiple_of(8) || at.checked_add(8)? > self.top {
            return None;
        }
        let end = self.base + self.bytes.len() as u64;
        if at < self.base || at + 8 > end {
            self.more += 1;
            if self.more > MAX_MORE {
                return None;
            }
            self.bytes.resize(MORE.min((self.top - at) as usize), 0);
            self.base = at;
            self.memory.read(at, &mut self.bytes).ok()?;
        }
        let at = (at - self.base) as usize;
        Some(u64::from_le_bytes(self.bytes[at..at + 8].try_into().ok()?))
    }
}

/// Whether its stack may be looked at: it does not run.
fn registers(g: &Goroutine) -> Option<Registers> {
    let at = if g.status == Some(SYSCALL) || g.syscall.sp != 0 { g.syscall } else { g.sched };
    let (low, high) = g.stack;
    let sane = g.status.is_some_and(|status| status != RUNNING)
        && low < high
        && high - low <= MAX_STACK
        && (low..high).contains(&at.sp)
        && at.sp.is_multiple_of(8);
    sane.then_some(at)
}

impl Walker {
    /// The stacks of these goroutines; `None` for those that run or have none.
    pub fn walk<M: Memory>(
        &mut self,
        memory: &M,
        symbols: &mut Symbols<'_>,
        bias: u64,
        goroutines: &[Goroutine],
    ) -> Vec<Option<Stack>> {
        let starts: Vec<_> = goroutines.iter().map(registers).collect();
        let mut buffers: Vec<(u64, Vec<u8>)> = starts
            .iter()
            .zip(goroutines)
            .filter_map(|(at, g)| {
                let at = at.as_ref()?;
                Some((at.sp, vec![0; FIRST.min(g.stack.1 - at.sp) as usize]))
            })
            .collect();
        let mut ranges: Vec<(u64, &mut [u8])> =
            buffers.iter_mut().map(|(at, bytes)| (*at, bytes.as_mut_slice())).collect();
        let read = memory.read_many(&mut ranges);
        let mut read = buffers.into_iter().zip(read);
        starts
            .into_iter()
            .zip(goroutines)
            .map(|(at, g)| {
                let at = at?;
                let ((base, bytes), ok) = read.next()?;
                if !ok {
                    return Some(Stack { pcs: Vec::new(), cut: true });
                }
                let mut window = Window { memory, base, bytes, top: g.stack.1, more: 0 };
                Some(self.follow(&mut window, symbols, bias, at))
            })
            .collect()
    }

    fn follow<M: Memory>(
        &mut self,
        window: &mut Window<'_, M>,
        symbols: &mut Symbols<'_>,
        bias: u64,
        at: Registers,
    ) -> Stack {
        let mut stack = Stack::default();
        let (mut pc, mut sp, mut bp) = (at.pc.wrapping_sub(bias), at.sp, at.bp);
        let mut behind_call = true;
        while stack.pcs.len() < MAX_FRAMES {
            let Some(place) = self.place(symbols, pc) else { break };
            if place.kind == Kind::Top {
                return stack;
            }
            stack.pcs.push(if behind_call && pc > place.entry { pc - 1 } else { pc });
            behind_call = place.kind != Kind::Injected;
            // Where the return address is: above the frame, or above the saved frame pointer.
            let ret = match place.size {
                Some(size) => sp.checked_add(size),
                None if bp >= sp => bp.checked_add(8),
                None => None,
            };
            let Some((ret, next)) = ret.and_then(|at| Some((at, window.word(at)?))) else { break };
            if place.size != Some(0) {
                bp = window.word(ret.wrapping_sub(8)).unwrap_or(0);
            }
            pc = next.wrapping_sub(bias);
            // Ascends with every frame, so the loop ends.
            sp = ret + 8;
        }
        stack.cut = true;
        stack
    }

    fn place(&mut self, symbols: &mut Symbols<'_>, pc: u64) -> Option<Place> {
        if let Some(known) = self.places.get(&pc) {
            return *known;
        }
        if self.places.len() >= MAX_KNOWN {
            self.places.clear();
        }
        let found = symbols.function(pc).map(|function| Place {
            entry: function.entry,
            kind: match function.name {
                b"runtime.goexit" | b"runtime.mstart" | b"runtime.rt0_go" => Kind::Top,
                b"runtime.asyncPreempt" | b"runtime.sigpanic" | b"runtime.debugCallV2" => {
                    Kind::Injected
                }
                _ => Kind::Normal,
            },
            size: symbols.frame_size(pc),
        });
        self.places.insert(pc, found);
        found
    }
}
