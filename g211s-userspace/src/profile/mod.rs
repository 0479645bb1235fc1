//! Symbolised profiles: stacks with values, as any source of samples makes them. [`pprof`] writes and reads
//! them as `go tool pprof` does, [`flame`] draws them, [`table`] sums them by call site. Must not know BPF,
//! processes, or where samples came from.

use std::collections::HashMap;
use std::sync::Arc;

use crate::record::{SymbolFrame, SymbolInfo};

pub mod flame;
mod flame_svg;
pub mod pprof;
mod proto;
pub mod table;

/// What values are, e.g. `inuse_space` in `bytes`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ValueType {
    /// Name.
    pub name: String,
    /// Unit, in pprof's words: `bytes`, `count`, `nanoseconds`.
    pub unit: String,
}

impl ValueType {
    /// One.
    pub fn new(name: impl Into<String>, unit: impl Into<String>) -> Self {
        Self { name: name.into(), unit: unit.into() }
    }
}

/// A file that is mapped as code.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Mapping {
    /// First address.
    pub start: u64,
    /// Behind the last address.
    pub limit: u64,
    /// What of the file is at `start`, bytes.
    pub offset: u64,
    /// The file.
    pub file: String,
    /// Its build id; empty where there is none.
    pub build_id: String,
}

/// An address and the functions that are active at it, innermost first: more than one where calls were inlined.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Location {
    /// The address in the process; 0 where unknown.
    pub address: u64,
    /// Functions; none where unknown.
    pub frames: Arc<[SymbolFrame]>,
}

impl From<&SymbolInfo> for Location {
    fn from(symbol: &SymbolInfo) -> Self {
        Self { address: symbol.address, frames: symbol.frames.as_slice().into() }
    }
}

/// The number of a location in its profile.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LocationId(u32);

/// What else is known of a sample.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Label {
    /// What it says.
    pub key: Arc<str>,
    /// Its value.
    pub value: LabelValue,
}

/// The value of a label.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LabelValue {
    /// Text.
    Text(Arc<str>),
    /// A number; its unit as pprof has it, empty where the key says it.
    Number(i64, Arc<str>),
}

/// A stack and its values.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Sample {
    /// Innermost first.
    pub stack: Box<[LocationId]>,
    /// As many as the profile has types of values.
    pub values: Box<[i64]>,
    /// What else is known.
    pub labels: Vec<Label>,
}

/// A profile.
#[derive(Clone, Debug, Default)]
pub struct Profile {
    /// What the values of each sample are.
    pub sample_types: Vec<ValueType>,
    /// Which of them is shown if nobody says otherwise: its name.
    pub default_sample_type: Option<String>,
    /// What lies between two samples, where samples were taken by a measure.
    pub period_type: Option<ValueType>,
    /// How much of it; 0 where unknown.
    pub period: i64,
    /// When it was taken, ns since 1970; 0 where unknown.
    pub time_ns: i64,
    /// The time that it covers, ns; 0 where it covers none.
    pub duration_ns: i64,
    /// Lines for people.
    pub comments: Vec<String>,
    /// Mapped files, the program's own first.
    pub mappings: Vec<Mapping>,
    locations: Vec<Location>,
    numbers: HashMap<Location, LocationId>,
    samples: Vec<Sample>,
}

impl Profile {
    /// An empty one.
    pub fn new(sample_types: Vec<ValueType>) -> Self {
        Self { sample_types, ..Self::default() }
    }

    /// The number of a location, the same for equal ones. It hashes every name in it: who adds many
    /// samples keeps the number by address.
    pub fn location(&mut self, location: Location) -> LocationId {
        if let Some(known) = self.numbers.get(&location) {
            return *known;
        }
        let id = LocationId(self.locations.len() as u32);
        self.locations.push(location.clone());
        self.numbers.insert(location, id);
        id
    }

    /// A location.
    pub fn at(&self, id: LocationId) -> &Location {
        &self.locations[id.0 as usize]
    }

    /// All locations, in order of their numbers.
    pub fn locations(&self) -> &[Location] {
        &self.locations
    }

    /// Adds a sample; missing values are 0, values too many are dropped.
    pub fn push(&mut self, stack: &[LocationId], values: &[i64], labels: Vec<Label>) {
        let mut all = vec![0; self.sample_types.len()];
        all.iter_mut().zip(values).for_each(|(to, from)| *to = *from);
        self.samples.push(Sample { stack: stack.into(), values: all.into(), labels });
    }

    /// Adds a sample without the runtime's own innermost frames (see [`is_of_runtime`]), so that its leaf is
    /// the line of the program that made it: as Go's own heap profile does. Where all are the runtime's, all stay.
    pub fn push_from_caller(&mut self, stack: &[LocationId], values: &[i64], labels: Vec<Label>) {
        match self.first_of_program(stack) {
            None => self.push(stack, values, labels),
            Some((index, 0)) => self.push(&stack[index..], values, labels),
            Some((index, frame)) => {
                // The runtime's function was inlined into the program's.
                let Location { address, frames } = self.at(stack[index]);
                let rest = Location { address: *address, frames: frames[frame..].into() };
                let mut stack: Vec<LocationId> = stack[index..].to_vec();
                stack[0] = self.location(rest);
                self.push(&stack, values, labels);
            }
        }
    }

    /// The innermost frame that is not the runtime's: the index of its location, and its own in there.
    fn first_of_program(&self, stack: &[LocationId]) -> Option<(usize, usize)> {
        stack.iter().enumerate().find_map(|(index, id)| {
            let frames = &self.at(*id).frames;
            if frames.is_empty() {
                return Some((index, 0));
            }
            frames.iter().position(|f| !is_of_runtime(&f.function)).map(|frame| (index, frame))
        })
    }

    /// The samples.
    pub fn samples(&self) -> &[Sample] {
        &self.samples
    }

    /// A sample's frames, innermost first, through inlined calls; `None` for a location without names.
    pub fn frames<'a>(
        &'a self,
        sample: &'a Sample,
    ) -> impl Iterator<Item = (u64, Option<&'a SymbolFrame>)> {
        sample.stack.iter().flat_map(|id| {
            let Location { address, frames } = self.at(*id);
            let unknown = frames.is_empty().then_some((*address, None));
            frames.iter().map(|f| (*address, Some(f))).chain(unknown)
        })
    }

    /// Keeps these types of values only, in this order.
    ///
    /// # Errors
    /// The name of one that there is none of; nothing is changed then.
    pub fn keep<'n>(&mut self, names: &[&'n str]) -> Result<(), &'n str> {
        let indices: Result<Vec<usize>, &'n str> =
            names.iter().map(|name| self.value_index(name).ok_or(*name)).collect();
        let indices = indices?;
        self.sample_types = indices.iter().map(|i| self.sample_types[*i].clone()).collect();
        for sample in &mut self.samples {
            sample.values = indices.iter().map(|i| sample.values[*i]).collect();
        }
        Ok(())
    }

    /// The index of a type of value.
    pub fn value_index(&self, name: &str) -> Option<usize> {
        self.sample_types.iter().position(|t| t.name == name)
    }

    /// The type that is shown if nobody says otherwise: the named default, else the last, as pprof does.
    pub fn default_index(&self) -> usize {
        let named = self.default_sample_type.as_deref().and_then(|name| self.value_index(name));
        named.unwrap_or(self.sample_types.len().saturating_sub(1))
    }

    /// Sums over all samples, by type; a sum that does not fit stays at the largest number.
    pub fn totals(&self) -> Vec<i64> {
        let mut totals = vec![0_i64; self.sample_types.len()];
        for sample in &self.samples {
            add(&mut totals, &sample.values);
        }
        totals
    }
}

/// Adds values to sums that do not overflow: a profile from a file may hold anything.
fn add(sums: &mut [i64], values: &[i64]) {
    sums.iter_mut().zip(values).for_each(|(sum, v)| *sum = sum.saturating_add(*v));
}

/// Whether a function belongs to the runtime and is left out above the line that called it: the rule of Go's own
/// heap profile (`src/runtime/pprof/protomem.go`, `writeHeapProto`, 1.24 to 1.27), so that our tables, `go tool
/// pprof` on our files and the program's own profile agree. It hides no other package: what `strings.Builder` or
/// `internal/bytealg.MakeNoZero` allocate is shown as theirs, and cumulatively as their callers'.
pub fn is_of_runtime(function: &str) -> bool {
    function.starts_with("runtime.") || function.starts_with("internal/runtime/")
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// A frame in short: `main.f:12`.
    pub(crate) fn frame(text: &str, inlined: bool) -> SymbolFrame {
        let (function, line) = text.rsplit_once(':').expect("function:line");
        SymbolFrame {
            function: function.to_owned(),
            file: Some(format!("/src/{}.go", function.split('.').next().unwrap_or("x"))),
            line: Some(line.parse().expect("a line")),
            inlined,
        }
    }

    /// A location in short: `main.inner:3 < main.outer:9`, the first ones inlined.
    pub(crate) fn location(address: u64, text: &str) -> Location {
        let parts: Vec<&str> = text.split(" < ").collect();
        let frames = parts.iter().enumerate().map(|(i, part)| frame(part, i + 1 < parts.len()));
        Location { address, frames: frames.collect() }
    }

    /// Heap-like: two values, inlining, a shared caller, a recursion, a generic function.
    pub(crate) fn sample_profile() -> Profile {
        let mut p = Profile::new(vec![
            ValueType::new("inuse_objects", "count"),
            ValueType::new("inuse_space", "bytes"),
        ]);
        p.period_type = Some(ValueType::new("space", "bytes"));
        p.period = 524_288;
        p.time_ns = 1_700_000_000_000_000_000;
        p.comments.push("made by a test".to_owned());
        p.mappings.push(Mapping {
            start: 0x40_0000,
            limit: 0x50_0000,
            offset: 0,
            file: "/bin/service".to_owned(),
            build_id: "abc".to_owned(),
        });
        let mut at = |address, text| p.location(location(address, text));
        let malloc = at(0x40_1000, "runtime.mallocgc:1");
        let grow = at(0x40_2000, "runtime.growslice:7 < main.fill[go.shape.int]:20");
        let fill = at(0x40_2100, "main.inner:3 < main.middle:8 < main.outer:11");
        let walk = at(0x40_2200, "main.walk:30");
        let main = at(0x40_3000, "main.main:100");
        let size = |n: i64| {
            vec![Label { key: "bytes".into(), value: LabelValue::Number(n, "bytes".into()) }]
        };
        p.push_from_caller(&[malloc, grow, main], &[3, 3000], size(1000));
        p.push_from_caller(&[malloc, fill, main], &[5, 500], size(100));
        p.push_from_caller(&[malloc, walk, walk, walk, main], &[7, 70], size(10));
        p.push_from_caller(&[malloc], &[1, 64], vec![]);
        p
    }

    #[test]
    fn the_runtimes_innermost_frames_are_left_out() {
        let p = sample_profile();
        let leaves: Vec<String> = p
            .samples()
            .iter()
            .map(|s| p.frames(s).next().unwrap().1.unwrap().function.clone())
            .collect();
        assert_eq!(
            leaves,
            ["main.fill[go.shape.int]", "main.inner", "main.walk", "runtime.mallocgc"]
        );
        // The location that lost its inlined frame is another one.
        assert_eq!(p.locations().len(), 6);
        assert_eq!(p.totals(), [16, 3634]);
    }

    #[test]
    fn types_can_be_chosen() {
        let mut p = sample_profile();
        assert_eq!(p.keep(&["inuse_space", "alloc_space"]), Err("alloc_space"));
        assert_eq!(p.totals(), [16, 3634]);
        assert_eq!(p.keep(&["inuse_space", "inuse_objects"]), Ok(()));
        assert_eq!((p.totals(), p.value_index("inuse_objects")), (vec![3634, 16], Some(1)));
    }

    #[test]
    fn equal_locations_have_one_number() {
        let mut p = Profile::new(vec![ValueType::new("x", "count")]);
        let a = p.location(location(1, "a.b:1"));
        assert_eq!(p.location(location(1, "a.b:1")), a);
        assert_ne!(p.location(location(1, "a.b:2")), a);
        assert_ne!(p.location(location(2, "a.b:1")), a);
        p.push(&[a], &[1, 2, 3], vec![]);
        p.push(&[], &[], vec![]);
        assert_eq!((&*p.samples()[0].values, &*p.samples()[1].values), (&[1][..], &[0][..]));
        p.push(&[a], &[i64::MAX], vec![]);
        assert_eq!(p.totals(), [i64::MAX]);
    }

    #[test]
    fn the_runtimes_functions_are_gos_own_rule() {
        for of in ["runtime.mallocgc", "internal/runtime/maps.NewMap", "runtime.(*mcache).refill"] {
            assert!(is_of_runtime(of), "{of}");
        }
        for not in ["runtime/debug.Stack", "main.runtime.f", "internal/bytealg.MakeNoZero", ""] {
            assert!(!is_of_runtime(not), "{not}");
        }
    }
}
