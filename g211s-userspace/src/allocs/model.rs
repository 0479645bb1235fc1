//! Takes the stream of a run that follows allocations, live or from a file, and keeps what its report needs. Must not
//! know BPF, processes, or how a report looks.

use std::collections::HashMap;

use super::collections::Collections;
use crate::analysis::allocations::Allocations;
use crate::profile::is_of_runtime;
use crate::record::{Notice, Record, RunEnd, RunStart, SymbolFrame};

/// Named addresses that are kept at most, whatever a file holds.
const MAX_SYMBOLS: usize = 1 << 20;
/// Stacks that are kept at most.
const MAX_STACKS: usize = 1 << 20;

/// What is known of a run.
#[derive(Debug, Default)]
pub struct Model {
    /// Its head.
    pub start: Option<RunStart>,
    /// Its tail.
    pub end: Option<RunEnd>,
    /// What allocated.
    pub allocations: Allocations,
    /// What that has to do with collections.
    pub collections: Collections,
    /// Addresses of each stack, innermost first.
    pub stacks: HashMap<u32, Vec<u64>>,
    symbols: HashMap<u64, Vec<SymbolFrame>>,
    /// What the user was told.
    pub notices: Vec<Notice>,
}

impl Model {
    /// Takes the next record. Those of other kinds of run are let pass.
    pub fn push(&mut self, record: Record) {
        match record {
            Record::Start(start) => self.start = Some(*start),
            Record::End(end) => self.end = Some(*end),
            Record::Notice(notice) => self.notices.push(notice.as_ref().clone()),
            Record::Symbol(s) if self.symbols.len() < MAX_SYMBOLS => {
                self.symbols.insert(s.address, s.frames);
            }
            Record::AllocRun(run) => self.allocations.begin(*run),
            Record::AllocStack(s) if self.stacks.len() < MAX_STACKS => {
                self.stacks.insert(s.id, s.addresses);
            }
            Record::AllocSamples(samples) => {
                for s in &samples.samples {
                    self.allocations.sample(s);
                    self.collections.sample(s);
                }
            }
            Record::AllocState(state) => {
                self.collections.state(&state);
                self.allocations.state(*state);
            }
            Record::Runtime(sample) => self.collections.runtime(&sample),
            Record::AllocSums(sums) => self.allocations.sums(*sums),
            _ => {}
        }
    }

    /// Whether the run followed allocations at all.
    pub fn is_of_allocations(&self) -> bool {
        self.allocations.run().cost_ns > 0
    }

    /// The frames at an address, innermost first; empty where it has no name.
    pub fn frames(&self, address: u64) -> &[SymbolFrame] {
        self.symbols.get(&address).map(Vec::as_slice).unwrap_or_default()
    }

    /// All frames of a stack, innermost first, inlined ones included, each with the address it is at.
    pub fn stack(&self, id: u32) -> impl Iterator<Item = (u64, &SymbolFrame)> {
        let addresses = self.stacks.get(&id).map(Vec::as_slice).unwrap_or_default();
        addresses.iter().flat_map(|&a| self.frames(a).iter().map(move |f| (a, f)))
    }

    /// The call site: the innermost frame outside of the allocator and the rest of the runtime; where there is none, the
    /// outermost frame (the runtime allocates for itself).
    pub fn site(&self, id: u32) -> Option<&SymbolFrame> {
        let mut outermost = None;
        for (_, frame) in self.stack(id) {
            if !is_of_runtime(&frame.function) {
                return Some(frame);
            }
            // `goexit` and the like are nobody's call site.
            if outermost.is_none() || !is_root(&frame.function) {
                outermost = Some(frame);
            }
        }
        outermost
    }
}

fn is_root(function: &str) -> bool {
    matches!(
        function,
        "runtime.goexit" | "runtime.mstart" | "runtime.rt0_go" | "runtime.systemstack"
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::{AllocStack, SymbolInfo};

    fn symbol(address: u64, functions: &[&str]) -> Record {
        let frame = |f: &&str| SymbolFrame {
            function: (*f).to_owned(),
            file: None,
            line: Some(1),
            inlined: false,
        };
        Record::Symbol(Box::new(SymbolInfo {
            target: 0,
            address,
            frames: functions.iter().map(frame).collect(),
        }))
    }

    #[test]
    fn the_site_is_the_users_code() {
        let mut m = Model::default();
        m.push(symbol(1, &["runtime.(*mcache).refill"]));
        m.push(symbol(2, &["runtime.mallocgc", "runtime.newobject"]));
        m.push(symbol(3, &["main.inner", "main.outer"]));
        m.push(symbol(4, &["runtime.goexit"]));
        m.push(symbol(5, &["runtime.newproc1"]));
        for (id, addresses) in [(0, vec![1, 2, 3, 4]), (1, vec![1, 2, 5, 4]), (2, vec![1, 99])] {
            m.push(Record::AllocStack(Box::new(AllocStack { target: 0, id, addresses })));
        }
        let site = |id| m.site(id).map(|f| f.function.as_str());
        assert_eq!(site(0), Some("main.inner"));
        assert_eq!(site(1), Some("runtime.newproc1"));
        assert_eq!(site(2), Some("runtime.(*mcache).refill"));
        assert_eq!(site(7), None);
        assert_eq!(m.stack(0).count(), 6);
    }
}
