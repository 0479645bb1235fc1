//! The JSON of `g211s heap`, schema `g211s.heap/1` (docs/heap-schema.md), built from a profile. Must not know how
//! that was made, nor text.

use serde::{Deserialize, Serialize};

use super::estimate::{Estimate, Evidence, interval};
use super::{ALLOC_OBJECTS, ALLOC_SPACE, INUSE_OBJECTS, INUSE_SPACE};
use crate::profile::Profile;
use crate::profile::table::{By, Row, rows};
use crate::report::format::clean;

/// The schema's name.
pub const SCHEMA: &str = "g211s.heap/1";

/// The whole document.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Document {
    /// [`SCHEMA`].
    pub schema: String,
    /// Of which process.
    pub target: TargetInfo,
    /// When, ns since 1970.
    pub time_ns: i64,
    /// Where the figures come from.
    pub source: Source,
    /// What the collector counts, to compare with.
    pub live_heap: Option<LiveHeap>,
    /// Over all sites.
    pub total: Figures,
    /// By line, those that hold most first.
    pub sites: Vec<SiteInfo>,
    /// How reading went.
    pub reads: Reads,
    /// How objects were followed; `None` where the figures are the runtime's own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub followed: Option<FollowedInfo>,
    /// What could not be told, and why.
    pub unavailable: Vec<String>,
}

/// The process.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct TargetInfo {
    /// PID, as given.
    pub pid: u32,
    /// Its name.
    pub comm: String,
    /// Its executable.
    pub exe: String,
    /// Go version.
    pub go_version: String,
    /// Main module.
    pub module: Option<String>,
    /// Where the offsets of the runtime's structs came from.
    pub offsets: String,
}

/// Where the figures come from.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Source {
    /// `runtime_profile`: the memory profile that the Go runtime keeps by itself. `followed`: sampled objects of what
    /// was allocated since `g211s` began to look, followed from collection to collection.
    pub kind: String,
    /// Bytes allocated per sample, on average.
    pub bytes_per_sample: u64,
    /// The collection up to whose end of marking the figures go; `None` where `as_of` says otherwise.
    pub gc_cycle: Option<u64>,
    /// Collections so far.
    pub gc_cycles: Option<u64>,
    /// Up to when the figures go, in words.
    pub as_of: String,
}

/// How objects were followed.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct FollowedInfo {
    /// How long allocations were looked at, ns: all figures are of what was allocated in this time.
    pub window_ns: u64,
    /// For how long of it probes were attached, ns.
    pub observed_ns: u64,
    /// Collections that ended in it; `None` where not known.
    pub gc_cycles: Option<u64>,
    /// Those that passed without a look: what lived through one is doubtful.
    pub gc_cycles_missed: u64,
    /// Looks at the objects.
    pub looks: u64,
    /// Objects sampled.
    pub samples: u64,
    /// Those that were followed.
    pub samples_followed: u64,
    /// Of the bytes in use: those that may be other objects by now, since collections were missed. The intervals
    /// begin without them.
    pub doubtful_bytes: u64,
    /// Bytes made since the last collection, which no one has judged: not in use here, as in Go's own profile.
    pub young_bytes: u64,
    /// Bytes of which it could not be told at the end.
    pub untold_bytes: u64,
    /// Part of the sampled bytes whose objects could not be followed. The others of their size stand for them.
    pub not_followed_share: f64,
    /// Bytes of sizes of which no object was followed: in use or not, they are in no site's `inuse_bytes`.
    pub unsampled_bytes: u64,
    /// Bytes in use by how many collections they have lived through.
    pub ages: Vec<AgeInfo>,
    /// Events of the kernel side that were lost.
    pub lost: u64,
    /// What the probes cost the target, as a part of its CPU time.
    pub cost_share: f64,
    /// What they might: a part of its CPU time, …
    #[serde(default)]
    pub budget: f64,
    /// … of at least so many CPUs.
    #[serde(default)]
    pub budget_least_cpus: f64,
    /// How the run ended.
    pub ended: Option<String>,
}

/// Bytes in use of an age.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct AgeInfo {
    /// Collections lived through, at least.
    pub cycles_from: u32,
    /// At most; `None`: no end.
    pub cycles_to: Option<u32>,
    /// Bytes in use, doubtful ones included.
    pub inuse_bytes: u64,
}

/// What the collector counts, bytes (`gcController`).
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct LiveHeap {
    /// Marked by the last collection.
    pub marked_bytes: u64,
    /// That, and what was allocated since.
    pub live_bytes: u64,
}

/// A site.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct SiteInfo {
    /// The function whose line allocates, as Go prints it; the runtime's own are passed over.
    pub function: String,
    /// Its file, as the compiler was given it.
    pub file: Option<String>,
    /// The line.
    pub line: Option<u32>,
    /// Allocated by this line itself.
    #[serde(flatten)]
    pub figures: Figures,
    /// By it and by what it calls.
    pub cumulative: Sums,
    /// Followed objects: of what types those in use are, where the runtime keeps that with them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub types: Vec<TypeInfo>,
}

/// A type of objects.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TypeInfo {
    /// Its name as Go prints it; of arrays and slices' memory it is the elements' type.
    pub name: String,
    /// Which part it is of the site's bytes in use.
    pub share: f64,
}

/// Figures, with their 95 % intervals.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Figures {
    /// Bytes in use.
    pub inuse_bytes: Estimate,
    /// Objects in use.
    pub inuse_objects: Estimate,
    /// Samples that these two rest on.
    pub inuse_samples: u64,
    /// Bytes allocated since the program's start, in use or not.
    pub alloc_bytes: Estimate,
    /// Objects allocated since then.
    pub alloc_objects: Estimate,
    /// Samples that these two rest on.
    pub alloc_samples: u64,
}

/// Figures without intervals.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sums {
    /// Bytes in use.
    pub inuse_bytes: u64,
    /// Objects in use.
    pub inuse_objects: u64,
    /// Bytes allocated since the program's start.
    pub alloc_bytes: u64,
    /// Objects allocated since then.
    pub alloc_objects: u64,
}

/// How reading went.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
pub struct Reads {
    /// Buckets of the runtime's profile.
    pub buckets: u64,
    /// Readings of all counts until two agreed.
    pub readings: u32,
    /// Buckets whose counts differed between the last two readings: 0 where all are of one moment.
    pub torn: u64,
    /// System calls.
    pub calls: u64,
    /// Bytes read.
    pub bytes: u64,
    /// How long it took, ns.
    pub took_ns: u64,
}

/// The figures of some of a profile's samples.
fn figures(evidence: &[Evidence], values: &[i64]) -> Figures {
    let value = |index: usize| values.get(index).copied().unwrap_or(0);
    let sum = |of: fn(&Evidence) -> u64| evidence.iter().map(of).fold(0, u64::saturating_add);
    Figures {
        inuse_bytes: interval(evidence, value(INUSE_SPACE), true, true),
        inuse_objects: interval(evidence, value(INUSE_OBJECTS), true, false),
        inuse_samples: sum(|e| e.inuse),
        alloc_bytes: interval(evidence, value(ALLOC_SPACE), false, true),
        alloc_objects: interval(evidence, value(ALLOC_OBJECTS), false, false),
        alloc_samples: sum(|e| e.alloc),
    }
}

/// All sites of a heap profile and their sum. `evidence` is what is behind each of its samples.
pub fn sites(profile: &Profile, evidence: &[Evidence]) -> (Figures, Vec<SiteInfo>) {
    let site = |row: &Row| {
        let of_row: Vec<Evidence> =
            row.samples.iter().filter_map(|number| evidence.get(*number)).copied().collect();
        let sum =
            |index: usize| row.cumulative.get(index).map_or(0, |v| u64::try_from(*v).unwrap_or(0));
        SiteInfo {
            function: clean(&row.site.function),
            file: row.site.file.as_deref().map(clean),
            line: row.site.line,
            figures: figures(&of_row, &row.flat),
            cumulative: Sums {
                inuse_bytes: sum(INUSE_SPACE),
                inuse_objects: sum(INUSE_OBJECTS),
                alloc_bytes: sum(ALLOC_SPACE),
                alloc_objects: sum(ALLOC_OBJECTS),
            },
            types: Vec::new(),
        }
    };
    let sites = rows(profile, By::Line, INUSE_SPACE).iter().map(site).collect();
    (figures(evidence, &profile.totals()), sites)
}
