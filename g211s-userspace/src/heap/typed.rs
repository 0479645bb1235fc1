//! Of what type objects in the heap are, where the runtime keeps that with them: large ones and those of more than
//! 512 bytes, if they have pointers, since Go 1.22 (see `Span::type_pointer`). Must not know samples, nor what is
//! concluded.

use std::sync::Arc;

use super::spans::{Heap, TypePointer, words};
use crate::runtime::memory::Memory;
use crate::runtime::types::{Type, Types};

/// Spans read at a time.
const BATCH: usize = 1024;

/// An object, and the `mspan` that holds it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// Its address.
    pub address: u64,
    /// Where its `mspan` is.
    pub span: u64,
}

/// The types of objects, in their order; `None` where the runtime keeps none, or it cannot be read. They have to live: of
/// one that was freed it may be another's. Of arrays and slices' memory it is the elements' type, so an object may hold
/// several values.
pub fn types_of(
    heap: &Heap,
    types: &mut Types,
    memory: &impl Memory,
    objects: &[Place],
) -> Vec<Option<Arc<Type>>> {
    let mut order: Vec<usize> = (0..objects.len()).filter(|n| objects[*n].span != 0).collect();
    order.sort_unstable_by_key(|n| objects[*n].span);
    let mut found = vec![None; objects.len()];
    for part in order.chunks(BATCH) {
        let mut pointers: Vec<u64> = part.iter().map(|n| objects[*n].span).collect();
        pointers.dedup();
        let spans = heap.read(memory, &pointers);
        let told = part.iter().filter_map(|n| {
            let object = objects[*n];
            let span = spans.get(pointers.binary_search(&object.span).ok()?)?.as_ref()?;
            let slot = span.in_use.then(|| span.slot(object.address)).flatten()?;
            Some((*n, span.type_pointer(slot)?))
        });
        let told: Vec<(usize, TypePointer)> = told.collect();
        let at = |p: &TypePointer| match p {
            TypePointer::At(at) => Some(*at),
            TypePointer::Is(_) => None,
        };
        let headers = words(memory, told.iter().filter_map(|(_, p)| at(p)).collect());
        for (n, pointer) in told {
            let descriptor = match pointer {
                TypePointer::Is(descriptor) => Some(descriptor),
                TypePointer::At(at) => headers.get(&at),
            };
            found[n] = descriptor.and_then(|d| types.at(memory, d));
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::go::globals::{Global, Globals};
    use crate::go::offsets::Offsets;
    use crate::go::version::GoVersion;
    use crate::runtime::Runtime;
    use crate::runtime::memory::fake::FakeMemory;

    const TYPES: u64 = 0x50_0000;
    const SPAN: u64 = 0x7000_0000;
    const START: u64 = 0xc0_0000_2000;

    struct Made {
        class: u8,
        slot_bytes: u64,
        large: u64,
        in_use: bool,
    }

    /// A span of two slots, and a descriptor of `main.T` at `TYPES`.
    fn look(version: &str, made: &Made, header: u64, address: u64) -> Option<String> {
        let offsets = Offsets::for_version(&GoVersion::parse(version).expect("a version"));
        let mut memory = FakeMemory::default();
        for (at, len) in [(TYPES, 256), (SPAN, 512), (START, 0x4000)] {
            memory.map(at, len);
        }
        for (at, value, size) in [(0, 1024, 8), (21, 8, 1), (23, 25, 1), (40, 64, 4), (65, 6, 1)] {
            memory.put(TYPES + at, value, size);
        }
        memory.put(TYPES + 66, u64::from_le_bytes(*b"main.T\0\0"), 8);
        let mut put = |field, value| {
            if let Some(f) = offsets.field("runtime.mspan", field) {
                memory.put(SPAN + u64::from(f.off), value, f.size.min(8) as usize);
            }
        };
        put("startAddr", START);
        put("npages", 2);
        put("nelems", 2);
        put("elemsize", made.slot_bytes);
        put("spanclass", made.class.into());
        put("state", made.in_use.into());
        put("largeType", made.large);
        memory.put(START + made.slot_bytes, header, 8);
        let places = [(Global::Mheap, 0x1000)];
        let runtime =
            Runtime::trusted(FakeMemory::default(), offsets, Globals::at(&places, &[]), 0);
        let heap = Heap::of(&runtime).expect("is known");
        let mut types = Types::between(TYPES, TYPES + 256);
        let objects = [Place { address: 1, span: 0 }, Place { address, span: SPAN }];
        let found = types_of(&heap, &mut types, &memory, &objects);
        assert_eq!(found[0], None);
        found[1].as_ref().map(|t| t.name.clone())
    }

    #[test]
    fn headers_and_spans_name_types() {
        let t = Some("main.T".to_owned());
        let small = Made { class: 66, slot_bytes: 1024, large: 0, in_use: true };
        // The second slot's header; the program's own pointer to the object is 8 beyond it.
        assert_eq!(look("go1.27.3", &small, TYPES, START + 1024), t);
        assert_eq!(look("go1.24.11", &small, TYPES, START + 1032), t);
        assert_eq!(look("go1.21.13", &small, TYPES, START + 1024), None, "none are kept");
        assert_eq!(look("go1.27.3", &small, 0, START + 1024), None, "no header yet");
        assert_eq!(look("go1.27.3", &small, TYPES + 64, START + 1024), None, "no descriptor");
        assert_eq!(look("go1.27.3", &small, TYPES, START + 5), None, "no object begins there");
        let without = Made { class: 67, ..small };
        assert_eq!(look("go1.27.3", &without, TYPES, START + 1024), None, "no pointers");
        let few = Made { slot_bytes: 512, ..small };
        assert_eq!(look("go1.27.3", &few, TYPES, START + 512), None, "a bitmap instead");
        let large = Made { class: 0, slot_bytes: 8192, large: TYPES, in_use: true };
        assert_eq!(look("go1.27.3", &large, 0, START), t);
        assert_eq!(look("go1.21.13", &large, 0, START), None);
        assert_eq!(look("go1.27.3", &Made { in_use: false, ..large }, 0, START), None, "freed");
        assert_eq!(look("go1.27.3", &Made { class: 1, ..large }, 0, START), None);
    }
}
