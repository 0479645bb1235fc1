//! What a line allocates: by the function of the runtime's that it calls, and the type that its code gives to it. All from
//! the executable. Must not know processes, nor what leaks.
//!
//! The compiler names the type's descriptor in the instruction before the call (Go `src/cmd/compile/internal/ssagen`):
//! in which argument, is said by the function (`src/cmd/compile/internal/typecheck/_builtin/runtime.go`, 1.21 to 1.27).

use super::place::Place;
use crate::elf::refs::call_at;
use crate::go::Binary;
use crate::go::offsets::Offsets;
use crate::profile::is_of_runtime;
use crate::record::AllocHint;
use crate::report::format::{clean, short};

/// `abi.Type` (src/internal/abi/type.go, 1.21 to 1.27): its length, and where its fields are.
const TYPE_LEN: u64 = 48;
const TYPE_FLAGS: usize = 20;
const TYPE_KIND: usize = 23;
const TYPE_NAME: usize = 40;
/// `TFlagExtraStar`: the name has a `*` in front that is not meant.
const EXTRA_STAR: u8 = 2;
/// `abi.KindMask`, and the last kind (`UnsafePointer`).
const KIND_MASK: u8 = 31;
const LAST_KIND: u8 = 26;
/// Longest name that is read; printed is less.
const MAX_NAME: u64 = 400;
const SHOWN: usize = 60;

/// What a stack of addresses (innermost first, each within its call) allocates. `bias` is what was added to the
/// executable's addresses.
pub fn hint(binary: &Binary, offsets: &Offsets, bias: u64, addresses: &[u64]) -> AllocHint {
    let mut found = AllocHint { addresses: addresses.to_vec(), ..AllocHint::default() };
    let functions = &binary.functions;
    let callers = addresses.iter().filter_map(|address| {
        let at = address.checked_sub(bias)?;
        functions.at(at).map(|function| (at, function))
    });
    for (at, function) in callers {
        if is_of_runtime(&String::from_utf8_lossy(function.name)) {
            continue;
        }
        let Ok(code) = binary.code(&function) else { break };
        let Some(call) = call_at(code.bytes(), function.entry, at) else { break };
        let Some(callee) = functions.at(call.callee).filter(|f| f.entry == call.callee) else {
            break;
        };
        let callee = String::from_utf8_lossy(callee.name).into_owned();
        found.type_name = argument(&callee)
            .and_then(|n| type_name(binary, offsets, call.argument(n)?))
            .map(|name| clean(&name));
        found.callee = Some(clean(&callee));
        break;
    }
    found
}

/// Which argument of the runtime's function is a type.
fn argument(callee: &str) -> Option<usize> {
    let name = callee.strip_prefix("runtime.")?;
    match name {
        "newobject" | "newarray" | "makeslice" | "makeslice64" | "makeslicecopy" | "makemap"
        | "makemap64" | "makechan" | "makechan64" | "convT" | "convTnoptr" => Some(0),
        "growslice" => Some(4),
        _ if name.starts_with("mapassign") => Some(0),
        // The size, the type, whether to clear it.
        _ if name.starts_with("mallocgc") => Some(1),
        _ => None,
    }
}

/// The name of a type's descriptor at an address of the file, as Go prints it; `None` where there is none.
fn type_name(binary: &Binary, offsets: &Offsets, va: u64) -> Option<String> {
    let word = |name| {
        let field = offsets.field("runtime.moduledata", name)?;
        binary.functions.module_word(field.off as usize)
    };
    let (types, end) = (word("types")?, word("etypes")?);
    if !(types..end).contains(&va) {
        return None;
    }
    let elf = binary.elf();
    let bytes = elf.read_va(va, TYPE_LEN, TYPE_LEN, "a type").ok()?;
    if !(1..=LAST_KIND).contains(&(bytes[TYPE_KIND] & KIND_MASK)) {
        return None;
    }
    // From there: a byte of flags, the length in 7 bits each, the name (`abi.Name`).
    let name = bytes.get(TYPE_NAME..)?.first_chunk().map(|b| u32::from_le_bytes(*b))?;
    let at = types.checked_add(u64::from(name))?;
    let head = elf.read_va(at, 3, 3, "a type's name").ok()?;
    let (len, skip) = match head[1..] {
        [low, _] if low < 0x80 => (u64::from(low), 2),
        [low, high] if high < 0x80 => (u64::from(low & 0x7f) | u64::from(high) << 7, 3),
        _ => return None,
    };
    if len == 0 || len > MAX_NAME {
        return None;
    }
    let name = elf.read_va(at.checked_add(skip)?, len, MAX_NAME, "a type's name").ok()?;
    let name = String::from_utf8(name).ok()?;
    let extra = bytes[TYPE_FLAGS] & EXTRA_STAR != 0;
    Some(if extra { name.strip_prefix('*').unwrap_or(&name).to_owned() } else { name })
}

/// In words: `map[string]*main.Entry`, `append to []main.T`. `inside`: where it really allocates, if not in the line
/// itself.
pub fn describe(hint: &AllocHint, inside: Option<&Place>) -> Option<String> {
    let callee = hint.callee.as_deref().unwrap_or_default();
    let name = hint.type_name.as_deref().map(|name| short(name, SHOWN));
    let runtime = callee.strip_prefix("runtime.");
    let what = match (runtime, name) {
        (Some(f), Some(name)) if f.starts_with("mapassign") => Some(format!("insert into {name}")),
        (Some(f), None) if f.starts_with("mapassign") => Some("insert into a map".to_owned()),
        (Some(f), Some(name)) if f.starts_with("makemap") => Some(format!("make({name})")),
        (Some(f), None) if f.starts_with("makemap") => Some("make(map)".to_owned()),
        (Some("growslice"), Some(name)) => Some(format!("append to []{name}")),
        (Some("growslice"), None) => Some("append to a slice".to_owned()),
        (Some(f), Some(name)) if f.starts_with("makeslice") => Some(format!("make([]{name})")),
        (Some(f), None) if f.starts_with("makeslice") => Some("make of a slice".to_owned()),
        (Some(f), Some(name)) if f.starts_with("makechan") => Some(format!("make({name})")),
        (Some(f), None) if f.starts_with("makechan") => Some("make of a channel".to_owned()),
        (Some(f), Some(name)) if f.starts_with("convT") => Some(format!("{name} in an interface")),
        // A closure is a struct that begins with the address of its code (closure.go, `ClosureType`).
        (Some(_), Some(name)) if name.starts_with("struct { F uintptr") => {
            Some("a closure".to_owned())
        }
        (Some(_), Some(name)) => Some(name),
        (Some(f), None) if f.contains("string") || f.starts_with("concat") => {
            Some("string".to_owned())
        }
        (Some(f), None) if f.starts_with("newproc") => Some("a goroutine".to_owned()),
        _ => None,
    };
    match (what, inside) {
        (Some(what), Some(inside)) => Some(format!("{what} in {}", inside.function)),
        (Some(what), None) => Some(what),
        (None, Some(inside)) => Some(format!("in {}", inside.function)),
        (None, None) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_allocated_is_in_words() {
        let hint = |callee: &str, name: Option<&str>| AllocHint {
            addresses: vec![],
            callee: Some(callee.to_owned()),
            type_name: name.map(str::to_owned),
        };
        let words = |callee, name| describe(&hint(callee, name), None);
        let map = words("runtime.mapassign_faststr", Some("map[string]*main.Entry"));
        assert_eq!(map.as_deref(), Some("insert into map[string]*main.Entry"));
        let closure = Some("struct { F uintptr; X0 []uint8 }");
        assert_eq!(words("runtime.newobject", closure).as_deref(), Some("a closure"));
        assert_eq!(words("runtime.growslice", Some("uint8")).as_deref(), Some("append to []uint8"));
        assert_eq!(words("runtime.slicebytetostring", None).as_deref(), Some("string"));
        assert_eq!(words("main.f", None), None);
        let inside = Place { function: "fmt.Sprintf".into(), file: None, line: None };
        assert_eq!(
            describe(&AllocHint::default(), Some(&inside)).as_deref(),
            Some("in fmt.Sprintf")
        );
    }

    #[test]
    fn the_types_argument_is_known() {
        let known = ["runtime.newobject", "runtime.growslice", "runtime.mallocgcSmallNoScanSC7"];
        assert_eq!(known.map(argument), [Some(0), Some(4), Some(1)]);
        assert_eq!(argument("main.newobject"), None);
    }
}
