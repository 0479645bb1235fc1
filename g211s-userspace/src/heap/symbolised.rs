//! From the buckets of a process to a symbolised profile: the same values and stacks that the program itself would
//! write (Go `src/runtime/pprof/protomem.go`, `writeHeapProto`). Must not know how buckets were read.

use std::collections::HashMap;
use std::sync::Arc;

use super::SAMPLE_TYPES;
use super::buckets::Snapshot;
use super::estimate::scale;
use crate::elf::symbols::{Frame, Symbols};
use crate::profile::{Label, LabelValue, Location, LocationId, Mapping, Profile, ValueType};
use crate::record::SymbolFrame;
use crate::runtime::buckets::Counts;

/// The profile of a snapshot. `bias` is what was added to the executable's addresses.
pub fn profile(
    snapshot: &Snapshot,
    symbols: &mut Symbols<'_>,
    bias: u64,
    mapping: Mapping,
) -> Profile {
    let types = SAMPLE_TYPES.map(|(name, unit)| ValueType::new(name, unit));
    let mut profile = Profile::new(types.to_vec());
    profile.period_type = Some(ValueType::new("space", "bytes"));
    profile.period = snapshot.rate.try_into().unwrap_or(i64::MAX);
    profile.default_sample_type = Some("inuse_space".to_owned());
    profile.mappings.push(mapping);
    let mut namer = Namer { symbols, bias, known: HashMap::new() };
    let (key, unit): (Arc<str>, Arc<str>) = ("bytes".into(), "bytes".into());
    for bucket in &snapshot.buckets {
        if bucket.counts == Counts::default() {
            // Sampled since the moment that the figures are of.
            continue;
        }
        let stack = namer.stack(&mut profile, snapshot.stack(bucket));
        let (size, counts) = (bucket.size, bucket.counts);
        let (alloc_objects, alloc_space) = scale(counts.allocs, size, snapshot.rate);
        let live = counts.allocs.saturating_sub(counts.frees);
        let (inuse_objects, inuse_space) = scale(live, size, snapshot.rate);
        let values = [alloc_objects, alloc_space, inuse_objects, inuse_space];
        let size = LabelValue::Number(size.try_into().unwrap_or(i64::MAX), unit.clone());
        let labels = vec![Label { key: key.clone(), value: size }];
        profile.push_from_caller(&stack, &values, labels);
    }
    profile
}

/// Names return addresses.
struct Namer<'s, 'b> {
    symbols: &'s mut Symbols<'b>,
    bias: u64,
    /// By address, and how many of its frames are in the stack.
    known: HashMap<(u64, usize), LocationId>,
}

impl Namer<'_, '_> {
    /// The locations of a stack.
    ///
    /// `callers` (Go `src/runtime/traceback.go`, `tracebackPCs`) notes one address for each function, inlined ones
    /// too: the addresses behind an inlined call are those of the calls that it was inlined through. They are one
    /// location, with a line for each. Behind the last address, where the stack was cut, the rest of its inlined
    /// calls belongs there as well (`runtime_expandFinalInlineFrame`).
    fn stack(&mut self, profile: &mut Profile, addresses: &[u64]) -> Vec<LocationId> {
        let mut stack = Vec::with_capacity(addresses.len());
        let mut rest = addresses;
        while let [address, outer @ ..] = rest {
            let frames = self.frames(*address);
            // Under every goroutine; pprof does not show it either (proto.go, `allFrames`).
            if frames.first().is_some_and(|f| &*f.function == "runtime.goexit") {
                break;
            }
            let inlined_through = outer.iter().enumerate().take_while(|(i, address)| {
                let tail = frames.get(i + 1..).unwrap_or_default();
                !tail.is_empty() && *self.frames(**address) == *tail
            });
            let taken = inlined_through.count() + 1;
            rest = &rest[taken..];
            let shown = if rest.is_empty() { frames.len() } else { taken.min(frames.len()) };
            let id = *self.known.entry((*address, shown)).or_insert_with(|| {
                // The address of the call, not of what follows it.
                let address = address.wrapping_sub(1);
                profile.location(Location {
                    address,
                    frames: frames[..shown].iter().map(frame).collect(),
                })
            });
            stack.push(id);
        }
        stack
    }

    fn frames(&mut self, address: u64) -> Arc<[Frame]> {
        let call = address.wrapping_sub(self.bias).wrapping_sub(1);
        self.symbols.at(call).unwrap_or_else(|| [].into())
    }
}

fn frame(frame: &Frame) -> SymbolFrame {
    SymbolFrame {
        function: frame.function.to_string(),
        file: frame.file.as_deref().map(str::to_owned),
        line: frame.line,
        inlined: frame.inlined,
    }
}
