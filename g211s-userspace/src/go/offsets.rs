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
                // A pre-release has its release's number, and need not have its layout; no more
                // does a build with experiments.
                Match::Exact if is_plain(version) => Source::Exact,
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

/// Experiments (`GOEXPERIMENT`) under which no struct of the table differed, each measured by the
/// DWARF of a build with it on one release only (`arenas` and `synctest` on two): on others it is
/// taken to be so. `greenteagc` (1.25) and its opposite (1.26, 1.27), `noallocheaders`,
/// `nospinbitmutex`, `pagetrace` and `staticlockranking` were seen to change some.
const HARMLESS: [&str; 11] = [
    "arenas",
    "boringcrypto",
    "goroutineleakprofile",
    "jsonv2",
    "norandomizedheapbase64",
    "nosizespecializedmalloc",
    "noswissmap",
    "rangefunc",
    "runtimesecret",
    "simd",
    "synctest",
];

fn is_plain(version: &GoVersion) -> bool {
    version.pre.is_none()
        && !version.devel
        && version.experiments.iter().all(|e| HARMLESS.contains(&e.as_str()))
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
    use g211s_layout::wanted::WANTED;

    use super::*;

    fn of(version: &str) -> Offsets {
        Offsets::for_version(&GoVersion::parse(version).expect("parses"))
    }

    #[test]
    fn the_source_is_told() {
        assert_eq!(of("go1.27.3").source(), &Source::Exact);
        assert_eq!(of("go1.27.3-X:boringcrypto").source(), &Source::Exact);
        assert_eq!(
            of("go1.27.3-X:boringcrypto,nogreenteagc").source(),
            &Source::NearestPatch("1.27.3".to_owned())
        );
        assert_eq!(of("go1.27.99").source(), &Source::NearestPatch("1.27.3".to_owned()));
        assert_eq!(of("go1.21.1").source(), &Source::NearestPatch("1.21.13".to_owned()));
        assert_eq!(of("go1.27rc1").source(), &Source::NearestPatch("1.27.0".to_owned()));
        assert_eq!(of("go1.28.0").source(), &Source::NewerThanKnown("1.27.3".to_owned()));
        assert_eq!(
            of("devel go1.28-4f7a9c1 Tue Nov 3").source(),
            &Source::NewerThanKnown("1.27.3".to_owned())
        );
    }

    /// How fields have moved, as an independent measurement on other builds of one release of each
    /// minor version found it; `-` where there is no such field.
    #[test]
    fn fields_drift_as_measured_elsewhere() {
        const RELEASES: [&str; 7] =
            ["1.21.13", "1.22.10", "1.23.9", "1.24.11", "1.25.5", "1.26.6", "1.27.3"];
        const DRIFT: [(&str, &str, [i64; 7]); 20] = [
            ("runtime.g", "atomicstatus", [144, 144, 152, 152, 144, 144, 144]),
            ("runtime.g", "goid", [152, 152, 160, 160, 152, 152, 152]),
            ("runtime.g", "waitsince", [168, 168, 176, 176, 168, 168, 168]),
            ("runtime.g", "waitreason", [176, 176, 184, 184, 176, 176, 176]),
            ("runtime.g", "parentGoid", [272, 272, 280, 280, 272, 280, 280]),
            ("runtime.g", "gopc", [280, 280, 288, 288, 280, 288, 288]),
            ("runtime.g", "startpc", [296, 296, 304, 304, 296, 304, 304]),
            ("runtime.m", "procid", [72, 72, 72, 72, 64, 64, 64]),
            ("runtime.m", "curg", [192, 192, 192, 192, 184, 184, 184]),
            ("runtime.schedt", "timeToRun", [320, 320, 320, 320, 344, 360, 360]),
            ("runtime.schedt", "stwStoppingTimeGC", [-1, 1632, 1632, 1632, 1656, 1672, 1672]),
            ("runtime.schedt", "stwTotalTimeGC", [-1, 4224, 4224, 4224, 4248, 4264, 4264]),
            ("runtime.mstats", "numgc", [7704, 7704, 7704, 7704, 7680, 7680, 7680]),
            ("runtime.mstats", "pause_ns", [3608, 3608, 3608, 3608, 3584, 3584, 3584]),
            ("runtime.mstats", "gcPauseDist", [7744, -1, -1, -1, -1, -1, -1]),
            ("runtime.mheap", "arenas", [65944, 66008, 66008, 66008, 66008, 66008, 66008]),
            ("runtime.heapArena", "spans", [1_064_960, 0, 0, 0, 0, 0, 0]),
            ("runtime.mspan", "allocBits", [72, 64, 64, 64, 64, 64, 64]),
            ("runtime.mspan", "sweepgen", [96, 88, 88, 88, 88, 88, 88]),
            ("runtime.mspan", "elemsize", [112, 104, 104, 104, 104, 104, 104]),
        ];
        for (n, release) in RELEASES.iter().enumerate() {
            let offsets = of(&format!("go{release}"));
            assert_eq!(offsets.source(), &Source::Exact, "{release}");
            for (strukt, field, at) in DRIFT {
                let found = offsets.field(strukt, field).map_or(-1, |f| i64::from(f.off));
                assert_eq!(found, at[n], "{release}: {strukt}.{field}");
            }
        }
        // Between patches, too.
        let of_m = |release| of(release).field("runtime.m", "alllink").map(|f| f.off);
        assert_eq!(of_m("go1.24.3").zip(of_m("go1.24.11")).map(|(a, b)| a.abs_diff(b)), Some(24));
        let of_work = |release| of(release).size_of("runtime.workType");
        assert_eq!(of_work("go1.23.1").zip(of_work("go1.23.9")), Some((560, 592)));
    }

    #[test]
    fn the_table_is_whole() {
        let table = &*TABLE;
        assert_eq!(table.arch, "amd64");
        let releases: Vec<Release> =
            table.versions.iter().map(|v| Release::parse(v).expect("a release")).collect();
        assert!(releases.is_sorted() && releases.len() >= 26);
        for minor in super::super::OLDEST_MINOR..=super::super::NEWEST_CHECKED_MINOR {
            assert!(releases.iter().any(|r| r.minor == minor), "1.{minor}");
        }
        for release in releases {
            let layout = table.layout(release);
            for (name, _) in WANTED {
                let strukt = layout.structs.get(*name);
                let strukt = strukt.unwrap_or_else(|| panic!("{release} has no {name}"));
                assert!(!strukt.fields.is_empty(), "{release}: {name}");
                for (field, at) in &strukt.fields {
                    assert!(at.off + at.size <= strukt.size, "{release}: {name}.{field}");
                    // What is read as a number has the alignment of one.
                    let aligned =
                        !at.size.is_power_of_two() || at.size > 8 || at.off % at.size == 0;
                    assert!(aligned, "{release}: {name}.{field}");
                }
            }
            let each = layout.structs["runtime.heapStatsDelta"].size;
            let stats = layout.structs["runtime.mstats"].fields["heapStats.stats"];
            assert_eq!(stats.size, 3 * each, "{release}");
            let histogram = &layout.structs["runtime.timeHistogram"];
            assert_eq!(histogram.fields["counts"].size, 160 * 8, "{release}");
            assert_eq!(histogram.size, 162 * 8, "{release}");
            for which in ["gStatus", "pStatus", "waitReason", "stwReason", "mSpanState"] {
                assert!(layout.enums[which].len() >= 3, "{release}: {which}");
            }
        }
    }

    #[test]
    fn every_wanted_field_is_in_some_release() {
        for (name, fields) in WANTED {
            for field in *fields {
                let known =
                    TABLE.versions.iter().filter_map(|v| Release::parse(v)).any(|release| {
                        TABLE.layout(release).structs[*name].fields.contains_key(*field)
                    });
                assert!(known, "{name}.{field}");
            }
        }
    }

    #[test]
    fn values_have_names() {
        let (old, new) = (of("go1.21.13"), of("go1.27.3"));
        assert_eq!(old.enum_name("waitReason", 14), Some("chan receive"));
        assert_eq!(new.enum_name("waitReason", 19), Some("chan receive"));
        assert_eq!(new.enum_name("waitReason", 0), None);
        assert_eq!(new.enum_name("waitReason", u64::MAX), None);
        assert_eq!(old.enum_name("gStatus", 10), None);
        assert_eq!(new.enum_name("gStatus", 10), Some("_Gleaked"));
        assert_eq!(new.enum_name("pStatus", 1), Some("_Prunning"));
        assert_eq!(new.enum_name("nothing", 0), None);
    }
}
