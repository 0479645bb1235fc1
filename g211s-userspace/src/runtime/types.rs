//! From a pointer to a type's descriptor, as the runtime keeps them with objects, to the type's name: what
//! `reflect.Type.String` says. Works on stripped executables: descriptors are data. Must not know who points to a type.
//!
//! Go `src/internal/abi/type.go`, `Type`, `Name` (`src/internal/abi/type.go`, `ReadVarint`), and
//! `src/runtime/type.go`, `resolveNameOff`; the same from 1.21.13 to 1.27.3. Names are offsets into the module's types
//! (`moduledata.types` to `etypes`). Types of other modules (plugins) and those that `reflect` makes at run time are not
//! told.

use std::collections::HashMap;
use std::sync::Arc;

use super::memory::Memory;
use crate::go::Binary;
use crate::go::offsets::Offsets;

/// `unsafe.Sizeof(abi.Type{})`, and where its fields are.
const TYPE: usize = 48;
const SIZE: usize = 0;
const POINTERS: usize = 8;
const FLAGS: usize = 20;
const ALIGN: usize = 21;
const KIND: usize = 23;
const NAME: usize = 40;
/// `TFlagExtraStar`: the name begins with a `*` that is not its.
const EXTRA_STAR: u8 = 1 << 1;
/// `KindMask`, and `UnsafePointer`, the last kind.
const KIND_MASK: u8 = (1 << 5) - 1;
const LAST_KIND: u8 = 26;
/// `Name`: exported, tag, package path, embedded. Further bits there are none.
const NAME_FLAGS: u8 = 0x0f;
/// A name's length is a varint of so many bytes at most: no name is a megabyte.
const VARINT: usize = 3;
/// Bytes read of a name at first: most are shorter.
const FIRST: usize = 64;
/// Most bytes of a name that are kept: a struct without a name has all its fields in it.
const MAX_NAME: usize = 256;
/// Largest type: the address space ends before.
const MAX_SIZE: u64 = 1 << 47;
/// Types whose names are kept.
const MAX_KNOWN: usize = 1 << 16;

/// A type.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Type {
    /// As Go prints it, e.g. `main.Cache`, `*http.conn`; cut behind 256 bytes, with `…`.
    pub name: String,
    /// Bytes of a value.
    pub size: u64,
}

/// The types of a process's executable.
#[derive(Clone, Debug)]
pub struct Types {
    from: u64,
    to: u64,
    known: HashMap<u64, Option<Arc<Type>>>,
}

impl Types {
    /// Of a process. `bias` is what was added to the executable's addresses when it was loaded.
    ///
    /// # Errors
    /// Where the executable does not say where its types are.
    pub fn of(binary: &Binary, offsets: &Offsets, bias: u64) -> Result<Self, String> {
        let word = |name: &str| {
            let at = offsets.field("runtime.moduledata", name);
            let word = at.and_then(|at| binary.functions.module_word(at.off as usize));
            word.ok_or_else(|| format!("runtime.moduledata.{name} is not known in this executable"))
        };
        let (from, to) = (word("types")?, word("etypes")?);
        if from == 0 || from >= to || to - from > u64::from(u32::MAX) {
            return Err("runtime.moduledata does not say where the types are".to_owned());
        }
        Ok(Self::between(from.wrapping_add(bias), to.wrapping_add(bias)))
    }

    /// Types that lie between these addresses of a process.
    pub fn between(from: u64, to: u64) -> Self {
        Self { from, to, known: HashMap::new() }
    }

    /// The type whose descriptor is at `pointer`; `None` where there is none of this executable's, or it cannot be read.
    /// Reads twice where it is new, and nothing afterwards.
    pub fn at(&mut self, memory: &impl Memory, pointer: u64) -> Option<Arc<Type>> {
        if let Some(known) = self.known.get(&pointer) {
            return known.clone();
        }
        if self.known.len() >= MAX_KNOWN {
            self.known.clear();
        }
        let found = self.read(memory, pointer).map(Arc::new);
        self.known.insert(pointer, found.clone());
        found
    }

    fn read(&self, memory: &impl Memory, pointer: u64) -> Option<Type> {
        let is_inside = |at: u64, len: u64| {
            at >= self.from && at.checked_add(len).is_some_and(|end| end <= self.to)
        };
        if !pointer.is_multiple_of(8) || !is_inside(pointer, TYPE as u64) {
            return None;
        }
        let mut bytes = [0; TYPE];
        memory.read(pointer, &mut bytes).ok()?;
        let word = |at: usize| bytes.get(at..at + 8)?.try_into().ok().map(u64::from_le_bytes);
        let (size, pointers) = (word(SIZE)?, word(POINTERS)?);
        let name = u32::from_le_bytes(bytes.get(NAME..NAME + 4)?.try_into().ok()?);
        let is_type = size <= MAX_SIZE
            && pointers <= size
            && (1..=LAST_KIND).contains(&(bytes[KIND] & KIND_MASK))
            && bytes[ALIGN].is_power_of_two()
            && name > 0;
        if !is_type {
            return None;
        }
        let name = self.name(memory, self.from.checked_add(u64::from(name))?)?;
        let name = if bytes[FLAGS] & EXTRA_STAR == 0 { &name } else { name.strip_prefix('*')? };
        (!name.is_empty()).then(|| Type { name: name.to_owned(), size })
    }

    /// The name at an address.
    fn name(&self, memory: &impl Memory, at: u64) -> Option<String> {
        let room = usize::try_from(self.to.checked_sub(at)?).ok()?;
        let mut bytes = vec![0; room.min(FIRST)];
        memory.read(at, &mut bytes).ok()?;
        if bytes.first()? & !NAME_FLAGS != 0 {
            return None;
        }
        let (mut len, mut head) = (0_usize, 1);
        loop {
            let byte = *bytes.get(head)?;
            len |= usize::from(byte & 0x7f) << (7 * (head - 1));
            head += 1;
            if byte & 0x80 == 0 {
                break;
            }
            if head > VARINT {
                return None;
            }
        }
        let end = head.checked_add(len)?;
        if end > room {
            return None;
        }
        let kept = len.min(MAX_NAME);
        if head + kept > bytes.len() {
            bytes.resize(head + kept, 0);
            memory.read(at, &mut bytes).ok()?;
        }
        let text = bytes.get(head..head + kept)?;
        let text = match std::str::from_utf8(text) {
            Ok(text) => text,
            // Cut in the middle of a character.
            Err(e) if kept < len && e.valid_up_to() + 4 > kept => {
                std::str::from_utf8(text.get(..e.valid_up_to())?).ok()?
            }
            Err(_) => return None,
        };
        if text.chars().any(char::is_control) {
            return None;
        }
        Some(if kept < len { format!("{text}…") } else { text.to_owned() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::runtime::memory::fake::FakeMemory;

    const FROM: u64 = 0x50_0000;

    /// A descriptor at `FROM` whose name follows it at `FROM + 64`.
    fn types(name: &[u8], flags: u8, kind: u8) -> (Types, FakeMemory) {
        let mut memory = FakeMemory::default();
        memory.map(FROM, 4096);
        memory.put(FROM, 120, 8);
        memory.put(FROM + 8, 64, 8);
        memory.put(FROM + FLAGS as u64, flags.into(), 1);
        memory.put(FROM + ALIGN as u64, 8, 1);
        memory.put(FROM + KIND as u64, kind.into(), 1);
        memory.put(FROM + NAME as u64, 64, 4);
        let mut at = FROM + 65;
        let mut len = name.len();
        loop {
            let more = len >> 7;
            memory.put(at, (len & 0x7f) as u64 | if more > 0 { 0x80 } else { 0 }, 1);
            (at, len) = (at + 1, more);
            if len == 0 {
                break;
            }
        }
        for (n, byte) in name.iter().enumerate() {
            memory.put(at + n as u64, (*byte).into(), 1);
        }
        (Types::between(FROM, FROM + 4096), memory)
    }

    #[test]
    fn names_are_gos() {
        let (mut t, memory) = types(b"*main.Cache", EXTRA_STAR, 25);
        let found = t.at(&memory, FROM).expect("a type");
        assert_eq!((found.name.as_str(), found.size), ("main.Cache", 120));
        let (mut t, memory) = types(b"*main.Cache", 0, 0x36);
        assert_eq!(t.at(&memory, FROM).expect("a type").name, "*main.Cache");
        // Longer than what is read at first, and than what is kept.
        let (mut t, memory) = types(&[b'x'; 200], 0, 25);
        assert_eq!(t.at(&memory, FROM).expect("a type").name.len(), 200);
        let long = "é".repeat(200);
        let (mut t, memory) = types(long.as_bytes(), 0, 25);
        let name = &t.at(&memory, FROM).expect("a type").name;
        assert!(name.ends_with("é…") && name.chars().count() < 130, "{name}");
    }

    #[test]
    fn what_is_no_type_is_refused() {
        let refused = |name: &[u8], flags, kind| {
            let (mut t, memory) = types(name, flags, kind);
            t.at(&memory, FROM).is_none()
        };
        assert!(refused(b"x", 0, 0) && refused(b"x", 0, 27), "kinds");
        assert!(refused(b"x", EXTRA_STAR, 25), "no star to take off");
        assert!(refused(b"*", EXTRA_STAR, 25) && refused(b"", 0, 25), "no name");
        assert!(refused(b"\xff\xfe", 0, 25) && refused(b"a\x1b[2J", 0, 25), "no text");
        let (mut t, mut memory) = types(b"main.T", 0, 25);
        for (at, value, size) in [
            (8, 121, 8),
            (0, 1 << 48, 8),
            (NAME as u64, 0, 4),
            (NAME as u64, 4096, 4),
            (NAME as u64, 0xffff_ffff, 4),
            (64, 0x10, 1),
            (65, 0xff_ffff, 3),
        ] {
            let (_, clean) = types(b"main.T", 0, 25);
            memory.ranges.clone_from(&clean.ranges);
            memory.put(FROM + at, value, size);
            t.known.clear();
            assert_eq!(t.at(&memory, FROM), None, "{at} {value:#x}");
        }
        for pointer in [0, FROM + 4, FROM + 4064, FROM - 8, u64::MAX - 7] {
            assert_eq!(t.at(&memory, pointer), None, "{pointer:#x}");
        }
        assert_eq!(Types::between(FROM, FROM + 4096).at(&FakeMemory::default(), FROM), None);
    }
}
