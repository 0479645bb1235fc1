//! Where the fields of the Go runtime's structs lie in one Go version: from the table that
//! `cargo xtask offsets` measured on real toolchains. Must not know what a field means, nor
//! processes.

use std::sync::LazyLock;

use g211s_layout::dwarf;
pub use g211s_layout::table::Field;
use g211s_layout::table::{Layout, Match, Release, Table};

use super::Binary;
use super::version::GoVersion;

/// Most bytes of debug information that are looked through, unpacked: beyond, the table has to do.
const MAX_DWARF: u64 = 128 << 20;

/// Where the offsets came from: how far they may be believed before a live check.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// Measured on this very version.
    Exact,
    /// Measured on another patch of the same minor version (named), or on one whose runtime differs
    /// by an experiment. Fields have moved between patches before.
    NearestPatch(String),
    /// The version is newer than all that were measured; this is the newest.
    NewerThanKnown(String),
    /// From the executable's own DWARF.
    Dwarf,
}

impl std::fmt::Display for Source {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Exact => write!(f, "measured on this Go version"),
            Self::NearestPatch(v) => write!(f, "measured on go{v}, the nearest release known"),
            Self::NewerThanKnown(v) => write!(f, "measured on go{v}, older than this Go version"),
            Self::Dwarf => write!(f, "from the executable's debug information"),
        }
    }
}

/// The offsets of one Go version.
#[derive(Clone, Debug)]
pub struct Offsets {
    layout: Layout,
    source: Source,
    differences: Vec<String>,
}

/// Only amd64 so far: [`super::Binary::load`] refuses other machines.
static TABLE: LazyLock<Table> = LazyLock::new(|| {
    // Checked by a test: it cannot fail on what was checked in.
    Table::from_text(include_str!("offsets/amd64.json")).unwrap_or_default()
});

impl Offsets {
    /// Those of a version: measured on it, else on the nearest patch of its minor version, else on
    /// the newest version known. [`source`](Self::source) says which.
    pub fn for_version(version: &GoVersion) -> Self {
        let empty = || (Layout::default(), Source::NewerThanKnown("1.0.0".to_owned()));
        let wanted = Release { minor: version.minor, patch: version.patch };
        let (layout, source) = TABLE.nearest(wanted).map_or_else(empty, |(release, how)| {
            let source = match how {
                // A pre-release has its release's number, and need not have its layout.
                Match::Exact if version.pre.is_none() && !version.devel => Source::Exact,
                Match::Exact => Source::NearestPatch(release.to_string()),
                Match::Nearest(r) => Source::NearestPatch(r.to_string()),
                Match::Newer(r) => Source::NewerThanKnown(r.to_string()),
            };
            (TABLE.layout(release), source)
        });
        Self { layout, source, differences: Vec::new() }
    }

    /// Those of an executable: from its own DWARF where it has some that can be read, else from the
    /// table. [`differences`](Self::differences) says where the two disagree.
    pub fn for_binary(binary: &Binary) -> Self {
        let table = Self::for_version(&binary.version);
        Self::from_dwarf(binary, &table).unwrap_or(table)
    }

    /// Those that the executable's own DWARF tells; the texts of enumerations, which are not in
    /// there, are taken from `table`. Fails where there is no DWARF, or too much.
    pub fn from_dwarf(binary: &Binary, table: &Self) -> Result<Self, String> {
        let section = |name| {
            binary.elf().section_contents(name, MAX_DWARF).map_err(|error| error.to_string())
        };
        let (info, abbrev) = (section(".debug_info")?, section(".debug_abbrev")?);
        let mut layout = dwarf::layout(&info, &abbrev).map_err(|error| error.to_string())?;
        let differences = differences(&table.layout, &layout);
        for (name, texts) in &table.layout.enums {
            layout.enums.entry(name.clone()).or_insert_with(|| texts.clone());
        }
        Ok(Self { layout, source: Source::Dwarf, differences })
    }

    /// Where the executable's DWARF says otherwise than the table, one line each: a build with
    /// experiments, a patched runtime, or a version that was not measured.
    pub fn differences(&self) -> &[String] {
        &self.differences
    }

    /// A field of a struct, e.g. (`runtime.g`, `atomicstatus`); nested as `sched.sp`.
    pub fn field(&self, strukt: &str, field: &str) -> Option<Field> {
        self.layout.structs.get(strukt)?.fields.get(field).copied()
    }

    /// All known fields of a struct.
    pub fn fields(&self, strukt: &str) -> impl Iterator<Item = (&str, Field)> {
        let fields = self.layout.structs.get(strukt).map(|s| &s.fields);
        fields.into_iter().flatten().map(|(name, field)| (name.as_str(), *field))
    }

    /// A struct's size, bytes.
    pub fn size_of(&self, strukt: &str) -> Option<u32> {
        self.layout.structs.get(strukt).map(|s| s.size)
    }

    /// The name of a value: `waitReason` as the runtime prints it (`chan receive`), `gStatus` and
    /// `pStatus` as in its source (`_Grunning`). A status may carry flags: mask them off.
    pub fn enum_name(&self, which: &str, value: u64) -> Option<&str> {
        let names = self.layout.enums.get(which)?;
        let name = names.get(usize::try_from(value).ok()?)?;
        (!name.is_empty()).then_some(name)
    }

    /// Where they came from.
    pub fn source(&self) -> &Source {
        &self.source
    }
}

fn differences(table: &Layout, dwarf: &Layout) -> Vec<String> {
    let mut lines = Vec::new();
    for (name, known) in &table.structs {
        let Some(found) = dwarf.structs.get(name) else {
            // The linker leaves out the types of what it leaves out.
            continue;
        };
        if known.size != found.size {
            lines.push(format!("{name}: {} bytes, the table says {}", found.size, known.size));
        }
        for (field, at) in &known.fields {
            match found.fields.get(field) {
                Some(other) if other == at => {}
                Some(other) => lines.push(format!(
                    "{name}.{field}: at {} ({} bytes), the table says {} ({})",
                    other.off, other.size, at.off, at.size
                )),
                None => lines.push(format!("{name}.{field}: not there, the table says {}", at.off)),
            }
        }
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(version: &str) -> Offsets {
        Offsets::for_version(&GoVersion::parse(version).expect("parses"))
    }

    #[test]
    fn the_source_is_told() {
        assert_eq!(of("go1.27.3").source(), &Source::Exact);
        assert_eq!(of("go1.27.99").source(), &Source::NearestPatch("1.27.3".to_owned()));
        assert_eq!(of("go1.28.0").source(), &Source::NewerThanKnown("1.27.3".to_owned()));
    }
}
