//! The layout of the wanted structs from an executable's DWARF. Must not know ELF: it is handed the
//! bytes of two sections. They are a stranger's, so nothing is believed that is not bounded.
//!
//! What the Go linker writes: `src/cmd/link/internal/ld/dwarf.go`. A struct type is a
//! `DW_TAG_structure_type` with the full name (`runtime.g`) and a constant
//! `DW_AT_data_member_location` in each member; constants of a package are `DW_TAG_constant`.

use std::collections::hash_map::Entry;
use std::collections::{BTreeMap, HashMap};

use gimli::{
    Abbreviations, AttributeValue, DebugAbbrev, DebugInfo, DebugInfoOffset, DwAt, DwTag,
    EndianSlice, LittleEndian, UnitHeader, UnitOffset,
};

use crate::table::{Field, Layout, Struct};
use crate::wanted::{ENUMS, WANTED, WORK};

type Slice<'a> = EndianSlice<'a, LittleEndian>;

/// Types that refer to types are followed so far.
const MAX_DEPTH: usize = 32;
/// Most entries of a struct that are looked at: its members, and what is nested in them.
const MAX_MEMBERS: usize = 4096;
/// Most bytes of abbreviation tables that are parsed, counting each as long as the whole section.
const MAX_ABBREVIATIONS: usize = 512 << 20;
/// Values of an enumeration beyond this are flags or masks.
const MAX_ENUM: u64 = 256;
/// Pointers, functions, maps and channels of the machines that Go's DWARF is read for.
const POINTER: u64 = 8;

/// Why nothing was learnt.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DwarfError {
    /// It does not parse.
    Malformed(String),
    /// It parses, and has none of the runtime's types.
    NoRuntime,
}

impl std::fmt::Display for DwarfError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Malformed(why) => write!(f, "malformed debug information: {why}"),
            Self::NoRuntime => write!(f, "the debug information has no types of package runtime"),
        }
    }
}

impl std::error::Error for DwarfError {}

impl From<gimli::Error> for DwarfError {
    fn from(error: gimli::Error) -> Self {
        Self::Malformed(error.to_string())
    }
}

/// The layout, from the (decompressed) contents of `.debug_info` and `.debug_abbrev`. A wanted field
/// that is not there is left out; one whose description makes no sense, too.
pub fn layout(info: &[u8], abbrev: &[u8]) -> Result<Layout, DwarfError> {
    let dwarf = Dwarf::scan(info, abbrev)?;
    let mut layout = Layout::default();
    for (name, fields) in WANTED {
        let Some(strukt) = dwarf.types.get(name).and_then(|&at| dwarf.structure(at)) else {
            continue;
        };
        let fields = fields
            .iter()
            .filter_map(|field| Some(((*field).to_owned(), dwarf.field(&strukt, field)?)))
            .collect();
        let size = u32::try_from(strukt.size).ok();
        if let Some(size) = size {
            layout.structs.insert((*name).to_owned(), Struct { size, fields });
        }
    }
    for (name, ..) in ENUMS {
        let Some(values) = dwarf.enums.get(name) else { continue };
        let mut names = Vec::new();
        for (&value, text) in values {
            // They count without gaps, from 0 or 1: what is beyond one only looks like them.
            if value as usize > names.len() + usize::from(names.is_empty()) {
                break;
            }
            names.resize(value as usize, String::new());
            names.push(text.clone());
        }
        layout.enums.insert((*name).to_owned(), names);
    }
    if layout.structs.is_empty() {
        return Err(DwarfError::NoRuntime);
    }
    Ok(layout)
}

/// A struct type and its members.
struct Structure {
    size: u64,
    members: Vec<Member>,
}

struct Member {
    name: Vec<u8>,
    off: u64,
    kind: DebugInfoOffset,
}

struct Dwarf<'a> {
    info: DebugInfo<Slice<'a>>,
    /// By where they begin.
    units: BTreeMap<usize, UnitHeader<Slice<'a>>>,
    /// One table serves all of Go's units, mostly.
    abbreviations: HashMap<usize, Abbreviations>,
    types: HashMap<&'static str, DebugInfoOffset>,
    enums: HashMap<&'static str, BTreeMap<u64, String>>,
}

impl<'a> Dwarf<'a> {
    /// One pass over everything, noting what is wanted.
    fn scan(info: &'a [u8], abbrev: &'a [u8]) -> Result<Self, DwarfError> {
        let debug_abbrev = DebugAbbrev::new(abbrev, LittleEndian);
        let mut this = Self {
            info: DebugInfo::new(info, LittleEndian),
            units: BTreeMap::new(),
            abbreviations: HashMap::new(),
            types: HashMap::new(),
            enums: HashMap::new(),
        };
        let mut units = this.info.units();
        while let Some(unit) = units.next()? {
            // Tables can overlap: a hostile file could have the same bytes parsed without end.
            let tables = this.abbreviations.len();
            let affordable = tables.saturating_mul(abbrev.len()) < MAX_ABBREVIATIONS;
            if let Entry::Vacant(place) = this.abbreviations.entry(unit.debug_abbrev_offset().0) {
                if !affordable {
                    continue;
                }
                place.insert(unit.abbreviations(&debug_abbrev)?);
            }
            this.scan_unit(&unit)?;
            if let Some(at) = unit.debug_info_offset() {
                this.units.insert(at.0, unit);
            }
        }
        Ok(this)
    }

    fn scan_unit(&mut self, unit: &UnitHeader<Slice<'a>>) -> Result<(), DwarfError> {
        let (types, enums) = (&mut self.types, &mut self.enums);
        let Some(abbreviations) = self.abbreviations.get(&unit.debug_abbrev_offset().0) else {
            return Ok(());
        };
        let mut entries = unit.entries_raw(abbreviations, None)?;
        let mut first = true;
        while !entries.is_empty() {
            let offset = entries.next_offset();
            let Some(abbreviation) = entries.read_abbreviation()? else { continue };
            let tag = abbreviation.tag();
            if first {
                first = false;
                let mut language = None;
                for spec in abbreviation.attributes() {
                    let attribute = entries.read_attribute(*spec)?;
                    if attribute.name() == gimli::DW_AT_language {
                        language = Some(attribute.value());
                    }
                }
                if language != Some(AttributeValue::Language(gimli::DW_LANG_Go)) {
                    return Ok(());
                }
                continue;
            }
            if !matches!(
                tag,
                gimli::DW_TAG_structure_type | gimli::DW_TAG_variable | gimli::DW_TAG_constant
            ) {
                entries.skip_attributes(abbreviation.attributes())?;
                continue;
            }
            let (mut name, mut kind, mut value) = (None, None, None);
            for spec in abbreviation.attributes() {
                let attribute = entries.read_attribute(*spec)?;
                match attribute.name() {
                    gimli::DW_AT_name => name = string(&attribute.value()),
                    gimli::DW_AT_type => kind = reference(unit, &attribute.value()),
                    gimli::DW_AT_const_value => value = attribute.udata_value(),
                    _ => {}
                }
            }
            let Some(name) = name.filter(|n| n.starts_with(b"runtime.")) else { continue };
            match tag {
                gimli::DW_TAG_structure_type => {
                    let wanted = WANTED.iter().find(|(w, _)| w.as_bytes() == name);
                    if let (Some((w, _)), Some(at)) = (wanted, offset.to_debug_info_offset(unit)) {
                        types.entry(w).or_insert(at);
                    }
                }
                gimli::DW_TAG_variable => {
                    if let (true, Some(kind)) = (name == WORK.0.as_bytes(), kind) {
                        types.insert(WORK.1, kind);
                    }
                }
                _ => {
                    if let Some((which, value, text)) = value.and_then(|v| constant(name, v)) {
                        enums.entry(which).or_default().insert(value, text.to_owned());
                    }
                }
            }
        }
        Ok(())
    }

    fn unit_of(&self, at: DebugInfoOffset) -> Option<(&UnitHeader<Slice<'a>>, UnitOffset)> {
        let (_, unit) = self.units.range(..=at.0).next_back()?;
        Some((unit, at.to_unit_offset(unit)?))
    }

    /// An entry's tag and those attributes of it that are named.
    fn entry<const N: usize>(
        &self,
        at: DebugInfoOffset,
        names: [DwAt; N],
    ) -> Option<(DwTag, [Option<AttributeValue<Slice<'a>>>; N])> {
        let (unit, offset) = self.unit_of(at)?;
        let abbreviations = self.abbreviations.get(&unit.debug_abbrev_offset().0)?;
        let entry = unit.entry(abbreviations, offset).ok()?;
        Some((entry.tag(), names.map(|n| entry.attr_value(n))))
    }

    /// A struct type, through the names it was given.
    fn structure(&self, at: DebugInfoOffset) -> Option<Structure> {
        let mut at = at;
        for _ in 0..MAX_DEPTH {
            let (unit, offset) = self.unit_of(at)?;
            let (tag, [size, kind]) =
                self.entry(at, [gimli::DW_AT_byte_size, gimli::DW_AT_type])?;
            if tag == gimli::DW_TAG_typedef {
                at = reference(unit, &kind?)?;
                continue;
            }
            if tag != gimli::DW_TAG_structure_type {
                return None;
            }
            let abbreviations = self.abbreviations.get(&unit.debug_abbrev_offset().0)?;
            let mut entries = unit.entries_raw(abbreviations, Some(offset)).ok()?;
            let own = entries.read_abbreviation().ok()??;
            entries.skip_attributes(own.attributes()).ok()?;
            let mut members = Vec::new();
            for _ in 0..if own.has_children() { MAX_MEMBERS } else { 0 } {
                let depth = entries.next_depth();
                if entries.is_empty() || depth < 1 {
                    break;
                }
                let Some(abbreviation) = entries.read_abbreviation().ok()? else { continue };
                if depth > 1 || abbreviation.tag() != gimli::DW_TAG_member {
                    entries.skip_attributes(abbreviation.attributes()).ok()?;
                    continue;
                }
                let (mut name, mut off, mut kind) = (None, None, None);
                for spec in abbreviation.attributes() {
                    let attribute = entries.read_attribute(*spec).ok()?;
                    match attribute.name() {
                        gimli::DW_AT_name => name = string(&attribute.value()),
                        gimli::DW_AT_data_member_location => off = attribute.udata_value(),
                        gimli::DW_AT_type => kind = reference(unit, &attribute.value()),
                        _ => {}
                    }
                }
                if let (Some(name), Some(off), Some(kind)) = (name, off, kind) {
                    members.push(Member { name: name.to_vec(), off, kind });
                }
            }
            return Some(Structure { size: size?.udata_value()?, members });
        }
        None
    }

    /// A field of a struct, `outer.inner` through nested structs.
    fn field(&self, strukt: &Structure, path: &str) -> Option<Field> {
        let (head, rest) = path.split_once('.').map_or((path, None), |(h, r)| (h, Some(r)));
        let named = |name: &[u8]| strukt.members.iter().find(|m| m.name == name);
        // Go 1.23 capitalised some fields (those of `runtime.cpuStats`, `src/runtime/mstats.go`); they are the same.
        let member = named(head.as_bytes()).or_else(|| {
            // `IdleTime` was `idleTime`, and `GCIdleTime` was `gcIdleTime`.
            let mut before = head.as_bytes().to_vec();
            let capitals = before.iter().take_while(|c| c.is_ascii_uppercase()).count();
            before.get_mut(..capitals.saturating_sub(1).max(1))?.make_ascii_lowercase();
            named(&before)
        })?;
        let field = match rest {
            Some(rest) => {
                let inner = self.field(&self.structure(member.kind)?, rest)?;
                let off = member.off.checked_add(u64::from(inner.off))?;
                Field { off: u32::try_from(off).ok()?, size: inner.size }
            }
            None => Field {
                off: u32::try_from(member.off).ok()?,
                size: u32::try_from(self.size(member.kind)?).ok()?,
            },
        };
        // No field reaches past its struct.
        let end = u64::from(field.off) + u64::from(field.size);
        (end <= strukt.size).then_some(field)
    }

    /// A type's size, bytes.
    fn size(&self, at: DebugInfoOffset) -> Option<u64> {
        let mut at = at;
        for _ in 0..MAX_DEPTH {
            let (unit, _) = self.unit_of(at)?;
            let (tag, [size, kind]) =
                self.entry(at, [gimli::DW_AT_byte_size, gimli::DW_AT_type])?;
            if let Some(size) = size {
                return size.udata_value();
            }
            match tag {
                gimli::DW_TAG_pointer_type | gimli::DW_TAG_subroutine_type => return Some(POINTER),
                gimli::DW_TAG_typedef => at = reference(unit, &kind?)?,
                _ => return None,
            }
        }
        None
    }
}

/// Which enumeration a constant belongs to, its value, and its name there.
fn constant(name: &[u8], value: u64) -> Option<(&'static str, u64, &str)> {
    let (which, ..) = ENUMS.iter().find(|(_, prefix, capital)| {
        let next = name.strip_prefix(prefix.as_bytes()).and_then(|rest| rest.first());
        next.is_some_and(|c| c.is_ascii_alphabetic() && c.is_ascii_uppercase() == *capital)
    })?;
    let text = std::str::from_utf8(name.strip_prefix(b"runtime.")?).ok()?;
    (value < MAX_ENUM).then_some((*which, value, text))
}

/// A name. Go's linker writes them in place.
fn string<'a>(value: &AttributeValue<Slice<'a>>) -> Option<&'a [u8]> {
    match value {
        AttributeValue::String(s) => Some(s.slice()),
        _ => None,
    }
}

fn reference(
    unit: &UnitHeader<Slice<'_>>,
    value: &AttributeValue<Slice<'_>>,
) -> Option<DebugInfoOffset> {
    match value {
        AttributeValue::DebugInfoRef(at) => Some(*at),
        AttributeValue::UnitRef(at) => at.to_debug_info_offset(unit),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn constants_of_an_enumeration_are_told_from_others() {
        assert_eq!(constant(b"runtime._Gidle", 0), Some(("gStatus", 0, "_Gidle")));
        assert_eq!(constant(b"runtime._Pidle", 0), Some(("pStatus", 0, "_Pidle")));
        assert_eq!(constant(b"runtime._PROT_READ", 1), None);
        assert_eq!(constant(b"runtime._Gscanrunnable", 0x1001), None);
        assert_eq!(constant(b"main._Gidle", 0), None);
        assert_eq!(constant(b"runtime._G", 0), None);
    }

    #[test]
    fn nothing_is_no_runtime() {
        assert_eq!(layout(&[], &[]), Err(DwarfError::NoRuntime));
    }

    proptest! {
        #[test]
        fn any_bytes_are_handled(
            info in proptest::collection::vec(any::<u8>(), 0..400),
            abbrev in proptest::collection::vec(0..8_u8, 0..60),
            version in 2..6_u8,
        ) {
            let _ = layout(&info, &abbrev);
            // The same within a unit that begins as it should.
            let mut unit = (info.len() as u32 + 8).to_le_bytes().to_vec();
            unit.extend_from_slice(&[version, 0]);
            unit.extend_from_slice(if version == 5 { &[1, 8, 0, 0, 0, 0] } else { &[0, 0, 0, 0, 8] });
            unit.extend_from_slice(&info);
            let _ = layout(&unit, &abbrev);
        }
    }
}
