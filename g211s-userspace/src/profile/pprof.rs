//! Profiles as pprof's files: what `go tool pprof` reads, and what a Go program's own endpoints write. Must not
//! know where samples came from.
//!
//! Names are written as Go writes them: `name` is what Go prints (`main.f[...]`), `system_name` what the linker
//! calls it (`main.f[go.shape.int]`). An address with inlined calls is one location with several lines.

use std::collections::HashMap;
use std::io::{Read as _, Write as _};
use std::sync::Arc;

use flate2::{Compression, read::MultiGzDecoder, write::GzEncoder};
use prost::Message as _;
use prost::bytes::Buf as _;
use prost::encoding::{DecodeContext, decode_key, skip_field};

use super::{Label, LabelValue, Location, LocationId, Mapping, Profile, ValueType, proto};
use crate::elf::symbols::short_name;
use crate::record::SymbolFrame;

/// Largest file, unpacked: 100,000 samples with stacks of 100 frames have room in it.
const MAX_BYTES: u64 = 32 << 20;
/// Most samples, locations, functions and strings together, so that a small file cannot fill the memory with
/// empty ones.
const MAX_ENTRIES: u64 = 2 << 20;
/// Most lines of all locations together, and most bytes of the names in them: one long name may be named often.
const MAX_LINES: usize = 4 << 20;
const MAX_NAME_BYTES: usize = 256 << 20;
/// Most frames of all samples together.
const MAX_FRAMES: usize = 32 << 20;

/// Why a file is no profile.
#[derive(Debug, thiserror::Error)]
pub enum PprofError {
    /// It could not be unpacked.
    #[error("not a profile: {0}")]
    Gzip(std::io::Error),
    /// It is too large.
    #[error("not a profile: more than {0} {1}")]
    TooLarge(u64, &'static str),
    /// It is no `profile.proto` message.
    #[error("not a profile: {0}")]
    Proto(#[from] prost::DecodeError),
    /// What it says makes no sense.
    #[error("a damaged profile: {0}")]
    Damaged(&'static str),
}

/// The file of a profile, packed.
pub fn to_bytes(profile: &Profile) -> std::io::Result<Vec<u8>> {
    let mut gzip = GzEncoder::new(Vec::new(), Compression::fast());
    gzip.write_all(&message(profile).encode_to_vec())?;
    gzip.finish()
}

/// Reads a file, packed or not. What makes no sense is an error.
pub fn from_bytes(bytes: &[u8]) -> Result<Profile, PprofError> {
    let mut unpacked = Vec::new();
    let bytes = if bytes.starts_with(&[0x1f, 0x8b]) {
        let unpacking = MultiGzDecoder::new(bytes).take(MAX_BYTES + 1).read_to_end(&mut unpacked);
        unpacking.map_err(PprofError::Gzip)?;
        &unpacked
    } else {
        bytes
    };
    if bytes.len() as u64 > MAX_BYTES {
        return Err(PprofError::TooLarge(MAX_BYTES, "bytes"));
    }
    count_entries(bytes)?;
    profile(&proto::Profile::decode(bytes)?)
}

/// Refuses more entries than are kept, before memory is taken for them.
fn count_entries(mut bytes: &[u8]) -> Result<(), PprofError> {
    let mut entries = 0_u64;
    while bytes.has_remaining() {
        let (tag, wire) = decode_key(&mut bytes)?;
        skip_field(wire, tag, &mut bytes, DecodeContext::default())?;
        entries += 1;
        if entries > MAX_ENTRIES {
            return Err(PprofError::TooLarge(MAX_ENTRIES, "entries"));
        }
    }
    Ok(())
}

/// Strings and functions by number, as they are met.
struct Tables<'a> {
    strings: Vec<String>,
    numbers: HashMap<Box<str>, i64>,
    functions: Vec<proto::Function>,
    by_name: HashMap<(&'a str, Option<&'a str>), u64>,
}

impl<'a> Tables<'a> {
    fn string(&mut self, text: &str) -> i64 {
        if let Some(known) = self.numbers.get(text) {
            return *known;
        }
        let number = self.strings.len() as i64;
        self.strings.push(text.to_owned());
        self.numbers.insert(text.into(), number);
        number
    }

    fn function(&mut self, frame: &'a SymbolFrame) -> u64 {
        let key = (frame.function.as_str(), frame.file.as_deref());
        if let Some(known) = self.by_name.get(&key) {
            return *known;
        }
        let id = self.functions.len() as u64 + 1;
        let function = proto::Function {
            id,
            name: self.string(&short_name(&frame.function)),
            system_name: self.string(&frame.function),
            filename: self.string(frame.file.as_deref().unwrap_or_default()),
        };
        self.functions.push(function);
        self.by_name.insert(key, id);
        id
    }

    fn value_type(&mut self, of: &ValueType) -> proto::ValueType {
        proto::ValueType { r#type: self.string(&of.name), unit: self.string(&of.unit) }
    }

    fn label(&mut self, label: &Label) -> proto::Label {
        let key = self.string(&label.key);
        match &label.value {
            LabelValue::Text(text) => {
                proto::Label { key, str: self.string(text), ..Default::default() }
            }
            LabelValue::Number(num, unit) => {
                proto::Label { key, num: *num, num_unit: self.string(unit), ..Default::default() }
            }
        }
    }
}

fn message(profile: &Profile) -> proto::Profile {
    let mut tables = Tables {
        strings: vec![String::new()],
        numbers: HashMap::from([("".into(), 0)]),
        functions: Vec::new(),
        by_name: HashMap::new(),
    };
    let sample_type = profile.sample_types.iter().map(|t| tables.value_type(t)).collect();
    let none = [Mapping::default()];
    // Without one pprof would look for a program to take the names from; Go does the same.
    let all = if profile.mappings.is_empty() { &none[..] } else { &profile.mappings[..] };
    let named = |mapping: &Mapping| {
        profile
            .locations()
            .iter()
            .filter(|l| all.len() == 1 || (mapping.start..mapping.limit).contains(&l.address))
            .all(|l| !l.frames.is_empty())
    };
    let mut mappings: Vec<proto::Mapping> = Vec::new();
    for mapping in all {
        let named = named(mapping);
        mappings.push(proto::Mapping {
            id: mappings.len() as u64 + 1,
            memory_start: mapping.start,
            memory_limit: mapping.limit,
            file_offset: mapping.offset,
            filename: tables.string(&mapping.file),
            build_id: tables.string(&mapping.build_id),
            has_functions: named,
            has_filenames: named,
            has_line_numbers: named,
            has_inline_frames: named,
        });
    }
    let mapping_of = |address: u64| {
        let found = all.iter().position(|m| (m.start..m.limit).contains(&address));
        found.or((all.len() == 1).then_some(0)).map_or(0, |index| index as u64 + 1)
    };
    let locations = profile.locations().iter().enumerate().map(|(index, location)| {
        let line = |frame| proto::Line {
            function_id: tables.function(frame),
            line: i64::from(frame.line.unwrap_or(0)),
        };
        proto::Location {
            id: index as u64 + 1,
            mapping_id: mapping_of(location.address),
            address: location.address,
            line: location.frames.iter().map(line).collect(),
        }
    });
    let location = locations.collect();
    let samples = profile.samples().iter().map(|sample| proto::Sample {
        location_id: sample.stack.iter().map(|id| u64::from(id.0) + 1).collect(),
        value: sample.values.to_vec(),
        label: sample.labels.iter().map(|label| tables.label(label)).collect(),
    });
    let sample = samples.collect();
    let period_type = profile.period_type.as_ref().map(|t| tables.value_type(t));
    let comment = profile.comments.iter().map(|c| tables.string(c)).collect();
    let default = profile.default_sample_type.as_deref().unwrap_or_default();
    let default_sample_type = tables.string(default);
    proto::Profile {
        sample_type,
        sample,
        mapping: mappings,
        location,
        function: tables.functions,
        string_table: tables.strings,
        time_nanos: profile.time_ns,
        duration_nanos: profile.duration_ns,
        period_type,
        period: profile.period,
        comment,
        default_sample_type,
    }
}

fn profile(message: &proto::Profile) -> Result<Profile, PprofError> {
    use PprofError::Damaged;
    if message.string_table.first().is_none_or(|s| !s.is_empty()) {
        return Err(Damaged("its table of strings does not begin with an empty one"));
    }
    let shared: Vec<Arc<str>> = message.string_table.iter().map(|s| s.as_str().into()).collect();
    let string = |index: i64| {
        let found = usize::try_from(index).ok().and_then(|index| shared.get(index));
        found.ok_or(Damaged("a string that is not in its table"))
    };
    let value_type = |t: &proto::ValueType| -> Result<ValueType, PprofError> {
        Ok(ValueType::new(&**string(t.r#type)?, &**string(t.unit)?))
    };
    let sample_types: Result<_, _> = message.sample_type.iter().map(value_type).collect();
    let mut profile = Profile::new(sample_types?);
    if profile.sample_types.is_empty() {
        return Err(Damaged("it has no types of values"));
    }
    profile.period_type = message.period_type.as_ref().map(value_type).transpose()?;
    profile.period = message.period;
    (profile.time_ns, profile.duration_ns) = (message.time_nanos, message.duration_nanos);
    for comment in &message.comment {
        profile.comments.push(string(*comment)?.to_string());
    }
    let default = string(message.default_sample_type)?;
    profile.default_sample_type = (!default.is_empty()).then(|| default.to_string());
    for mapping in &message.mapping {
        profile.mappings.push(Mapping {
            start: mapping.memory_start,
            limit: mapping.memory_limit,
            offset: mapping.file_offset,
            file: string(mapping.filename)?.to_string(),
            build_id: string(mapping.build_id)?.to_string(),
        });
    }
    let functions: HashMap<u64, &proto::Function> =
        message.function.iter().map(|f| (f.id, f)).collect();
    let mut locations: HashMap<u64, (LocationId, usize)> = HashMap::new();
    let (mut lines, mut name_bytes) = (0_usize, 0_usize);
    for location in &message.location {
        lines += location.line.len();
        if lines > MAX_LINES {
            return Err(PprofError::TooLarge(MAX_LINES as u64, "lines"));
        }
        let mut frames = Vec::new();
        for (index, line) in location.line.iter().enumerate() {
            let function = functions.get(&line.function_id);
            let function = function.ok_or(Damaged("a function that is not in it"))?;
            let (name, system) = (string(function.name)?, string(function.system_name)?);
            let file = string(function.filename)?;
            name_bytes += system.len().max(name.len()) + file.len();
            if name_bytes > MAX_NAME_BYTES {
                return Err(PprofError::TooLarge(MAX_NAME_BYTES as u64, "bytes of names"));
            }
            frames.push(SymbolFrame {
                // The longer one tells them apart; Go prints it as the shorter.
                function: if short_name(system) == **name { system } else { name }.to_string(),
                file: (!file.is_empty()).then(|| file.to_string()),
                line: u32::try_from(line.line).ok().filter(|line| *line > 0),
                inlined: index + 1 < location.line.len(),
            });
        }
        let lines = frames.len();
        let id = profile.location(Location { address: location.address, frames: frames.into() });
        if location.id == 0 || locations.insert(location.id, (id, lines)).is_some() {
            return Err(Damaged("a location without a number of its own"));
        }
    }
    let mut frames = 0_usize;
    for sample in &message.sample {
        if sample.value.len() != profile.sample_types.len() {
            return Err(Damaged("a sample with another number of values"));
        }
        let mut stack = Vec::with_capacity(sample.location_id.len());
        for id in &sample.location_id {
            let known = locations.get(id).ok_or(Damaged("a location that is not in it"))?;
            stack.push(known.0);
            frames += known.1.max(1);
        }
        if frames > MAX_FRAMES {
            return Err(PprofError::TooLarge(MAX_FRAMES as u64, "frames"));
        }
        let labels = sample.label.iter().map(|label| {
            let key = string(label.key)?.clone();
            let value = if label.str == 0 {
                LabelValue::Number(label.num, string(label.num_unit)?.clone())
            } else {
                LabelValue::Text(string(label.str)?.clone())
            };
            Ok::<_, PprofError>(Label { key, value })
        });
        let labels: Result<Vec<Label>, _> = labels.collect();
        profile.push(&stack, &sample.value, labels?);
    }
    Ok(profile)
}

#[cfg(test)]
#[path = "pprof_tests.rs"]
mod tests;
