//! `g211s heap diff`: what has grown between two snapshots, as JSON of schema `g211s.heap_diff/1`
//! (docs/heap-schema.md). Must not know files, processes or text.

use std::collections::BTreeMap;

use serde::Serialize;

use super::SAMPLE_TYPES;
use super::estimate::{Estimate, Evidence};
use super::schema::{self, Document, Figures};
use crate::profile::Profile;
use crate::profile::table::Site;
use crate::report::format::clean;

/// The schema's name.
pub const SCHEMA: &str = "g211s.heap_diff/1";

/// A snapshot to compare.
#[derive(Clone, Debug)]
pub struct Side {
    info: SideInfo,
    /// Whether the intervals are known.
    has_intervals: bool,
    sites: BTreeMap<Site, Figures>,
    /// Of which process, where it says so.
    process: Option<(u32, String)>,
}

/// What is known of a snapshot.
#[derive(Clone, Debug, Serialize)]
pub struct SideInfo {
    /// The file, as given.
    pub file: String,
    /// When it was taken, ns since 1970; `None` where it does not say.
    pub time_ns: Option<i64>,
    /// Bytes allocated per sample; `None` where it does not say.
    pub bytes_per_sample: Option<u64>,
    /// Bytes in use.
    pub inuse_bytes: u64,
    /// Objects in use.
    pub inuse_objects: u64,
    /// Bytes allocated since the program's start.
    pub alloc_bytes: u64,
    /// Objects allocated since then.
    pub alloc_objects: u64,
}

/// What has grown.
#[derive(Clone, Debug, Serialize)]
pub struct Difference {
    /// [`SCHEMA`].
    pub schema: &'static str,
    /// The first snapshot.
    pub before: SideInfo,
    /// The second.
    pub after: SideInfo,
    /// Bytes in use that there are more now.
    pub grown_bytes: i64,
    /// By line, those that grew most first; sites without a change are left out.
    pub sites: Vec<Growth>,
    /// What is to be known of the comparison.
    pub notes: Vec<String>,
}

/// A site's change.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Growth {
    /// The function, as Go prints it.
    pub function: String,
    /// Its file.
    pub file: Option<String>,
    /// The line.
    pub line: Option<u32>,
    /// Bytes in use.
    pub inuse_bytes: Change,
    /// Objects in use.
    pub inuse_objects: Change,
    /// Bytes allocated since the program's start.
    pub alloc_bytes: Change,
    /// Objects allocated since then.
    pub alloc_objects: Change,
    /// Whether the bytes in use changed by more than sampling explains: their 95 % intervals lie apart. `None` where
    /// a snapshot does not say what its intervals are.
    pub beyond_error: Option<bool>,
}

/// Two figures.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Change {
    /// In the first snapshot.
    pub before: u64,
    /// In the second.
    pub after: u64,
    /// How much more.
    pub grown: i64,
}

impl Change {
    fn of(before: Estimate, after: Estimate) -> Self {
        let grown = i128::from(after.value) - i128::from(before.value);
        let grown = grown.clamp(i64::MIN.into(), i64::MAX.into()) as i64;
        Self { before: before.value, after: after.value, grown }
    }
}

impl Side {
    /// From the JSON of `g211s heap`.
    ///
    /// # Errors
    /// Why it is none.
    pub fn from_json(file: &str, bytes: &[u8]) -> Result<Self, String> {
        let no = |why: &dyn std::fmt::Display| format!("not the JSON of `g211s heap`: {why}");
        let schema: serde_json::Value = serde_json::from_slice(bytes).map_err(|e| no(&e))?;
        match schema.get("schema").and_then(|s| s.as_str()) {
            Some(schema::SCHEMA) => {}
            Some(other) => return Err(no(&format!("its schema is {}", clean(other)))),
            None => return Err(no(&"it names no schema")),
        }
        let document: Document = serde_json::from_value(schema).map_err(|e| no(&e))?;
        let sites = document.sites.iter().map(|site| {
            let function = site.function.clone();
            (Site { function, file: site.file.clone(), line: site.line }, site.figures)
        });
        let total = document.total;
        Ok(Self {
            info: SideInfo::new(
                file,
                (document.time_ns > 0).then_some(document.time_ns),
                Some(document.source.bytes_per_sample),
                &total,
            ),
            has_intervals: true,
            sites: sites.collect(),
            process: Some((document.target.pid, document.target.exe)),
        })
    }

    /// From a heap profile, ours or one that a Go program wrote itself.
    ///
    /// # Errors
    /// Why it is none.
    pub fn from_profile(file: &str, mut profile: Profile) -> Result<Self, String> {
        let names = SAMPLE_TYPES.map(|(name, _)| name);
        if let Err(missing) = profile.keep(&names) {
            return Err(format!("not a profile of the heap: it has no {missing}"));
        }
        let evidence = Evidence::of(&profile);
        let (total, sites) = schema::sites(&profile, evidence.as_deref().unwrap_or_default());
        let sites = sites.into_iter().map(|site| {
            (Site { function: site.function, file: site.file, line: site.line }, site.figures)
        });
        let rate = u64::try_from(profile.period).ok().filter(|rate| *rate > 0);
        Ok(Self {
            info: SideInfo::new(
                file,
                (profile.time_ns > 0).then_some(profile.time_ns),
                rate,
                &total,
            ),
            has_intervals: evidence.is_some(),
            sites: sites.collect(),
            process: None,
        })
    }
}

impl SideInfo {
    fn new(file: &str, time_ns: Option<i64>, rate: Option<u64>, total: &Figures) -> Self {
        Self {
            file: clean(file),
            time_ns,
            bytes_per_sample: rate,
            inuse_bytes: total.inuse_bytes.value,
            inuse_objects: total.inuse_objects.value,
            alloc_bytes: total.alloc_bytes.value,
            alloc_objects: total.alloc_objects.value,
        }
    }
}

/// Compares two snapshots.
pub fn build(before: &Side, after: &Side) -> Difference {
    let known = before.has_intervals && after.has_intervals;
    let all: std::collections::BTreeSet<&Site> =
        before.sites.keys().chain(after.sites.keys()).collect();
    let growth = all.into_iter().map(|site| {
        let figures = |side: &Side| side.sites.get(site).copied().unwrap_or_default();
        let (a, b) = (figures(before), figures(after));
        let apart = upper(&a, &b) < b.inuse_bytes.low || upper(&b, &a) < a.inuse_bytes.low;
        Growth {
            function: clean(&site.function),
            file: site.file.as_deref().map(clean),
            line: site.line,
            inuse_bytes: Change::of(a.inuse_bytes, b.inuse_bytes),
            inuse_objects: Change::of(a.inuse_objects, b.inuse_objects),
            alloc_bytes: Change::of(a.alloc_bytes, b.alloc_bytes),
            alloc_objects: Change::of(a.alloc_objects, b.alloc_objects),
            beyond_error: known.then_some(apart),
        }
    });
    let mut sites: Vec<Growth> =
        growth.filter(|g| g.inuse_bytes.grown != 0 || g.alloc_bytes.grown != 0).collect();
    sites.sort_by_key(|g| std::cmp::Reverse((g.inuse_bytes.grown, g.alloc_bytes.grown)));
    let total = |side: &Side| Estimate { value: side.info.inuse_bytes, ..Estimate::default() };
    Difference {
        schema: SCHEMA,
        before: before.info.clone(),
        after: after.info.clone(),
        grown_bytes: Change::of(total(before), total(after)).grown,
        sites,
        notes: notes(before, after),
    }
}

/// The most that a site may have in use. Where not one sample was seen there may be something all the same: up to as
/// much as 3.69 samples stand for (the 97.5 % limit of a Poisson count of none), of objects like the other side's.
fn upper(of: &Figures, other: &Figures) -> u64 {
    let is_sure = other.inuse_bytes.low == other.inuse_bytes.high;
    if of.inuse_samples > 0 || other.inuse_samples == 0 || is_sure {
        return of.inuse_bytes.high;
    }
    (3.69 * other.inuse_bytes.value as f64 / other.inuse_samples as f64) as u64
}

fn notes(before: &Side, after: &Side) -> Vec<String> {
    let mut notes = Vec::new();
    if let (Some(a), Some(b)) = (&before.process, &after.process)
        && a != b
    {
        notes.push(format!(
            "the snapshots are of different processes ({} of PID {}, {} of PID {})",
            clean(&a.1),
            a.0,
            clean(&b.1),
            b.0
        ));
    } else if after.info.alloc_bytes < before.info.alloc_bytes {
        notes.push(
            "less was allocated in the second than in the first: they are in the wrong order, or of \
             different processes"
                .to_owned(),
        );
    }
    if before.info.bytes_per_sample != after.info.bytes_per_sample {
        notes.push("they were sampled at different rates".to_owned());
    }
    if !(before.has_intervals && after.has_intervals) {
        notes.push(
            "how sure the changes are cannot be told: the sizes of objects are not in it"
                .to_owned(),
        );
    }
    notes
}

#[cfg(test)]
#[path = "diff_tests.rs"]
mod tests;
