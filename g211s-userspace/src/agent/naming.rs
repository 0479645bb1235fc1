//! What the addresses of stacks are: read from the target's executable as soon as a stack has a new one, so
//! that neither the live view nor a recording needs it later. Must not know why a stack was taken.

use std::{collections::HashSet, ops::Deref, sync::Arc};

use g211s_ebpf::event::StackEvent;

use crate::{
    elf::symbols::{Paused, Symbols, short_name},
    go::Binary,
    record::{SymbolFrame, SymbolInfo},
    runtime::bias::load_bias,
    target::procfs::Procfs,
};

/// Addresses that are named at most in a run: a program has a few hundred places that keep the world waiting.
const MAX_NAMED: usize = 20_000;
/// Times that the list of mappings is read at most: each look holds a lock of the target's for moments.
const MAX_LOOKS: u32 = 256;

/// Names the addresses of one target.
pub(crate) struct Naming<'a> {
    target: u8,
    pid: u32,
    binary: Executable<'a>,
    /// What was added to the executable's addresses; where that is not known, only mappings are told.
    bias: Option<u64>,
    /// Made for the first stack: it takes a few dozen reads.
    symbols: Option<Paused>,
    named: HashSet<u64>,
    looks: u32,
}

/// An executable of somebody else's, or shared.
enum Executable<'a> {
    Lent(&'a Binary),
    Shared(Arc<Binary>),
}

impl Deref for Executable<'_> {
    type Target = Binary;

    fn deref(&self) -> &Binary {
        match self {
            Self::Lent(binary) => binary,
            Self::Shared(binary) => binary,
        }
    }
}

impl<'a> Naming<'a> {
    pub(crate) fn new(procfs: &Procfs, target: u8, pid: u32, binary: &'a Binary) -> Self {
        Self::of(procfs, target, pid, Executable::Lent(binary))
    }

    fn of(procfs: &Procfs, target: u8, pid: u32, binary: Executable<'a>) -> Self {
        let bias = load_bias(procfs, pid, &binary).ok();
        Self { target, pid, binary, bias, symbols: None, named: HashSet::new(), looks: 0 }
    }

    /// The line tables, to be given back to `self.symbols`.
    fn symbols(&mut self) -> Symbols<'_> {
        match self.symbols.take() {
            Some(paused) => self.binary.resume_symbols(paused),
            None => self.binary.symbols(),
        }
    }

    /// Takes out of a stack as the kernel side sent it what is no return address, and gives the names of the
    /// addresses that are new.
    pub(super) fn take(&mut self, procfs: &Procfs, event: &mut StackEvent) -> Vec<SymbolInfo> {
        if let Some(bias) = self.bias {
            let mut symbols = self.symbols();
            settle(event, |at, caller| {
                symbols.frame_size(at.wrapping_sub(bias)) == Some(0)
                    && symbols.function(caller.wrapping_sub(bias).wrapping_sub(1)).is_some()
            });
            self.symbols = Some(symbols.pause());
        } else {
            settle(event, |_, _| false);
        }
        let depth = (event.depth as usize).min(event.addresses.len());
        let mut new = Vec::new();
        for (i, &address) in event.addresses[..depth].iter().enumerate() {
            new.extend(self.name(procfs, address.wrapping_sub(u64::from(i > 0))));
        }
        new
    }

    /// The name of an address, if it is new.
    pub(crate) fn name(&mut self, procfs: &Procfs, address: u64) -> Option<SymbolInfo> {
        if self.named.len() >= MAX_NAMED || !self.named.insert(address) {
            return None;
        }
        let frames = self.frames(procfs, address);
        Some(SymbolInfo { target: self.target, address, frames })
    }

    fn frames(&mut self, procfs: &Procfs, address: u64) -> Vec<SymbolFrame> {
        let bias = self.bias;
        let mut symbols = self.symbols();
        let known = bias.and_then(|bias| symbols.at(address.checked_sub(bias)?));
        self.symbols = Some(symbols.pause());
        if let Some(frames) = known {
            let frame = |f: &crate::elf::symbols::Frame| SymbolFrame {
                function: short_name(&f.function),
                file: f.file.as_deref().map(str::to_owned),
                line: f.line,
                inlined: f.inlined,
            };
            return frames.iter().map(frame).collect();
        }
        self.looks += 1;
        let mapped = if self.looks <= MAX_LOOKS {
            procfs.mapped_at(self.pid, address).ok().flatten()
        } else {
            None
        };
        let name = mapped.as_deref().map_or("unknown", |path| {
            let name = path.rsplit('/').next().unwrap_or(path);
            name.trim_start_matches('[').trim_end_matches(']')
        });
        vec![SymbolFrame { function: format!("[{name}]"), file: None, line: None, inlined: false }]
    }
}

impl Naming<'static> {
    /// The same, of an executable that several share.
    pub(super) fn shared(procfs: &Procfs, target: u8, pid: u32, binary: Arc<Binary>) -> Self {
        Self::of(procfs, target, pid, Executable::Shared(binary))
    }
}

/// Takes the word at the stack pointer out of a stack, unless `is_caller(instruction, word)`.
fn settle(event: &mut StackEvent, is_caller: impl FnOnce(u64, u64) -> bool) {
    let depth = event.depth as usize;
    if depth < 2
        || depth > event.addresses.len()
        || is_caller(event.addresses[0], event.addresses[1])
    {
        return;
    }
    event.addresses.copy_within(2..depth, 1);
    event.addresses[depth - 1] = 0;
    event.depth -= 1;
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::ascii::stack;

    #[test]
    fn what_is_no_return_address_is_taken_out() {
        let mut e = stack(1, 7, -1, &[10, 99, 20, 30]);
        settle(&mut e, |at, word| (at, word) == (10, 99));
        assert_eq!((e.depth, &e.addresses[..5]), (4, &[10, 99, 20, 30, 0][..]));
        settle(&mut e, |_, _| false);
        assert_eq!((e.depth, &e.addresses[..5]), (3, &[10, 20, 30, 0, 0][..]));
        let mut full = stack(1, 7, -1, &[9; 12]);
        settle(&mut full, |_, _| false);
        assert_eq!((full.depth, full.addresses[11]), (11, 0));
        for depth in [0, 1, 13, u32::MAX] {
            e.depth = depth;
            settle(&mut e, |_, _| false);
            assert_eq!(e.depth, depth);
        }
    }

    #[test]
    fn our_own_code_is_no_gos() {
        let binary = Binary::load(crate::elf::fixture::go_elf(false)).expect("loads");
        let procfs = Procfs::default();
        let mut naming = Naming::new(&procfs, 3, std::process::id(), &binary);
        let here = what_is_no_return_address_is_taken_out as *const () as u64;
        let mut e = stack(1, 7, -1, &[here, here, 8]);
        let names = naming.take(&procfs, &mut e);
        let exe = std::env::current_exe().unwrap();
        let exe = exe.file_name().unwrap().to_string_lossy().into_owned();
        let told: Vec<_> =
            names.iter().map(|n| (n.address, n.frames[0].function.clone())).collect();
        assert_eq!(told, [(here, format!("[{exe}]")), (7, "[unknown]".to_owned())]);
        assert!(naming.take(&procfs, &mut e).is_empty(), "once each");
    }
}
