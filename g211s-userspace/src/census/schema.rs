//! The JSON of `g211s goroutines`, schema `g211s.goroutines/1` (docs/goroutines-schema.md), built from
//! censuses. Must not know how they were taken, nor text.

use std::collections::HashMap;

use serde::Serialize;

use super::gs::RUNNING;
use super::{Census, FrameName, Group, Key, Origin, ReadStats, Site, site, state_name};
use crate::elf::symbols::Symbols;
use crate::go::offsets::Offsets;
use crate::report::format::clean;
use crate::runtime::memory::ReadCounts;
use crate::target::ResolvedTarget;

/// The schema's name.
pub const SCHEMA: &str = "g211s.goroutines/1";
/// Most stacks that are listed of a group.
const MAX_LISTED_STACKS: usize = 100;

/// The whole document.
#[derive(Clone, Debug, Serialize)]
pub struct Document {
    /// [`SCHEMA`].
    pub schema: &'static str,
    /// Of which process.
    pub target: TargetInfo,
    /// Each census, in order of time.
    pub samples: Vec<Sample>,
    /// Goroutines of the last census, by creation site and state, most first.
    pub groups: Vec<GroupInfo>,
    /// Numbers by creation site over the censuses, most growth first; empty of a single census.
    pub growth: Vec<Growth>,
    /// How reading went, in all censuses together.
    pub reads: Reads,
    /// What could not be told, and why.
    pub unavailable: Vec<String>,
}

/// The process.
#[derive(Clone, Debug, Serialize)]
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

/// One census.
#[derive(Clone, Debug, Serialize)]
pub struct Sample {
    /// When it began, `CLOCK_MONOTONIC` ns.
    pub at_ns: u64,
    /// How long it took, ns.
    pub took_ns: u64,
    /// Goroutines of the program.
    pub goroutines: u64,
    /// Goroutines of the runtime (as `runtime.NumGoroutine` does not count them).
    pub system: u64,
    /// Structs kept for goroutines to come.
    pub dead: u64,
}

/// Goroutines alike.
#[derive(Clone, Debug, Serialize)]
pub struct GroupInfo {
    /// Where they were made.
    #[serde(flatten)]
    pub site: SiteInfo,
    /// Their function, where it is the same for all.
    pub start: Option<String>,
    /// What they do, in the words of Go's tracebacks: what they wait for, else their status.
    pub state: String,
    /// How many.
    pub count: u64,
    /// The runtime's own.
    pub system: bool,
    /// For how long they have waited.
    pub waiting: Option<Waiting>,
    /// Their stacks, most first, where they were asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stacks: Option<Vec<StackInfo>>,
    /// Goroutines without a stack: they ran, or moved while it was read.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub without_stack: Option<u64>,
    /// Goroutines whose stacks are not listed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub not_listed: Option<u64>,
}

/// Where goroutines were made.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
pub struct SiteInfo {
    /// What made them: `go` (a statement, at `site`), `start` (the program's first), `c` (they stand
    /// for threads of C code that call into Go), `unknown`.
    pub created_by: &'static str,
    /// The statement.
    pub site: Option<Place>,
    /// The function whose code holds it, where it was inlined.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub inlined_into: Option<String>,
}

/// A place in the source.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
pub struct Place {
    /// Function.
    pub function: String,
    /// File, as the compiler was given it.
    pub file: Option<String>,
    /// Line.
    pub line: Option<u32>,
}

impl From<&FrameName> for Place {
    fn from(name: &FrameName) -> Self {
        Self {
            function: name.function.to_string(),
            file: name.file.as_deref().map(str::to_owned),
            line: name.line,
        }
    }
}

/// For how long goroutines have waited: at least, since the runtime notes it when the collector
/// first finds them waiting.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Waiting {
    /// Goroutines of which it is known.
    pub known: u64,
    /// Half of them at least so long, ns.
    pub median_ns: u64,
    /// The longest, ns.
    pub longest_ns: u64,
}

/// A stack.
#[derive(Clone, Debug, Serialize)]
pub struct StackInfo {
    /// How many goroutines have it.
    pub count: u64,
    /// Innermost first.
    pub frames: Vec<FrameInfo>,
    /// It was not followed to its end.
    pub cut: bool,
}

/// A frame of a stack.
#[derive(Clone, Debug, Serialize)]
pub struct FrameInfo {
    /// Where.
    #[serde(flatten)]
    pub place: Place,
    /// Inlined into the next frame.
    pub inlined: bool,
}

/// A creation site over several censuses.
#[derive(Clone, Debug, Serialize)]
pub struct Growth {
    /// Where they were made.
    #[serde(flatten)]
    pub site: SiteInfo,
    /// How many in each census.
    pub counts: Vec<u64>,
    /// More at the end than at the beginning.
    pub grown: i64,
    /// Goroutines a second, over the whole time.
    pub per_second: f64,
    /// Never fewer than before, and more at the end than chance makes of a number that goes up and down: a
    /// candidate for a leak. Needs three censuses.
    pub candidate: bool,
}

/// How reading went.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub struct Reads {
    /// Entries of the runtime's list.
    pub listed: u64,
    /// Differed between two readings, and were read again.
    pub changed: u64,
    /// Of them, counted without a state, since it changed with every look.
    pub restless: u64,
    /// Of them, not counted: another goroutine with every look.
    pub torn: u64,
    /// Entries that are no goroutine.
    pub implausible: u64,
    /// Entries that could not be read.
    pub unreadable: u64,
    /// System calls.
    pub calls: u64,
    /// Bytes read.
    pub bytes: u64,
    /// Ranges of memory that could not be read.
    pub failures: u64,
}

/// Builds it. `system` says whether the runtime's own goroutines are listed.
pub fn build(
    target: &ResolvedTarget,
    offsets: &Offsets,
    symbols: &mut Symbols<'_>,
    censuses: &[Census],
    counts: ReadCounts,
    system: bool,
) -> Document {
    let last = censuses.last();
    let mut groups = last.map(|c| groups(c, offsets, symbols)).unwrap_or_default();
    groups.retain(|g| system || !g.system);
    let growth = growth(censuses, symbols, system);
    let mut unavailable = Vec::new();
    if !symbols.knows_inlining() {
        unavailable.push(
            "inlined functions: this Go version's tables of them were not recognised, so only the \
             functions that hold the code are named"
                .to_owned(),
        );
    }
    if symbols.damaged() > 0 {
        let n = symbols.damaged();
        unavailable.push(format!("{n} look-ups in the executable's line tables failed"));
    }
    let beyond = last.map_or(0, |c| c.beyond_limits);
    if beyond > 0 {
        unavailable.push(format!("{beyond} goroutines are of more groups or stacks than are kept"));
    }
    if last.is_some_and(|c| c.groups.values().all(|g| g.waited.is_empty())) {
        unavailable.push(
            "waiting times: the runtime notes them as its collector finds a goroutine waiting, and \
             it has not yet found one of these"
                .to_owned(),
        );
    }
    Document {
        schema: SCHEMA,
        target: TargetInfo {
            pid: target.pid,
            comm: clean(&target.comm),
            exe: clean(&target.exe),
            go_version: clean(&target.binary.build.go_version),
            module: target.binary.build.module.as_deref().map(clean),
            offsets: offsets.source().to_string(),
        },
        samples: censuses.iter().map(sample).collect(),
        groups,
        growth,
        reads: reads(censuses, counts),
        unavailable,
    }
}

fn sample(census: &Census) -> Sample {
    let (goroutines, system) = census.totals();
    Sample {
        at_ns: census.at_ns,
        took_ns: u64::try_from(census.took.as_nanos()).unwrap_or(u64::MAX),
        goroutines,
        system,
        dead: census.stats.dead,
    }
}

fn reads(censuses: &[Census], counts: ReadCounts) -> Reads {
    let sum = |f: fn(&ReadStats) -> u64| censuses.iter().map(|c| f(&c.stats)).sum();
    Reads {
        listed: sum(|s| s.listed),
        changed: sum(|s| s.changed),
        restless: sum(|s| s.restless),
        torn: sum(|s| s.torn),
        implausible: sum(|s| s.implausible),
        unreadable: sum(|s| s.unreadable),
        calls: counts.calls,
        bytes: counts.bytes,
        failures: counts.failures,
    }
}

fn site_info(symbols: &mut Symbols<'_>, origin: Origin) -> SiteInfo {
    let without = |created_by| SiteInfo { created_by, site: None, inlined_into: None };
    match site(symbols, origin) {
        Site::At { frame, inlined_into } => SiteInfo {
            created_by: "go",
            site: Some((&frame).into()),
            inlined_into: inlined_into.map(|f| f.to_string()),
        },
        Site::Start => without("start"),
        Site::Foreign => without("c"),
        Site::Unknown(_) => without("unknown"),
    }
}

fn groups(census: &Census, offsets: &Offsets, symbols: &mut Symbols<'_>) -> Vec<GroupInfo> {
    // Several copies of one statement (inlined here and there) are one site.
    let mut merged: HashMap<(SiteInfo, String, bool), (Key, Group)> = HashMap::new();
    for (key, group) in &census.groups {
        let site = site_info(symbols, key.origin);
        let state = state_name(offsets, key.status, key.wait_reason);
        let (_, into) = merged
            .entry((site, state, key.system))
            .or_insert_with(|| (*key, Group { start: group.start, ..Group::default() }));
        into.count += group.count;
        into.without_stack += group.without_stack;
        into.waited.extend(&group.waited);
        if into.start != group.start {
            into.start = None;
        }
        for (stack, count) in &group.stacks {
            *into.stacks.entry(*stack).or_default() += count;
        }
    }
    let mut groups: Vec<GroupInfo> = merged
        .into_iter()
        .map(|((site, state, system), (key, mut group))| {
            let with_stacks = !census.stacks.is_empty();
            let stacks = with_stacks.then(|| stacks(census, &group, symbols));
            let listed = stacks.iter().flatten().map(|s| s.count).sum::<u64>();
            let ran = if key.status == Some(RUNNING) { group.count } else { group.without_stack };
            GroupInfo {
                site,
                start: group.start.and_then(|pc| {
                    Some(clean(&String::from_utf8_lossy(symbols.function(pc)?.name)))
                }),
                state,
                count: group.count,
                system,
                waiting: waiting(&mut group.waited),
                without_stack: with_stacks.then_some(ran),
                not_listed: with_stacks.then(|| group.count.saturating_sub(ran + listed)),
                stacks,
            }
        })
        .collect();
    groups.sort_by(|a, b| {
        b.count.cmp(&a.count).then_with(|| (&a.site, &a.state).cmp(&(&b.site, &b.state)))
    });
    groups
}

fn waiting(waited: &mut [u64]) -> Option<Waiting> {
    waited.sort_unstable();
    Some(Waiting {
        known: waited.len() as u64,
        // Half of them waited at least so long.
        median_ns: *waited.get(waited.len() / 2)?,
        longest_ns: *waited.last()?,
    })
}

fn stacks(census: &Census, group: &Group, symbols: &mut Symbols<'_>) -> Vec<StackInfo> {
    let mut counted: Vec<(usize, u64)> = group.stacks.iter().map(|(s, n)| (*s, *n)).collect();
    counted.sort_unstable_by_key(|(stack, count)| (std::cmp::Reverse(*count), *stack));
    counted
        .into_iter()
        .take(MAX_LISTED_STACKS)
        .filter_map(|(number, count)| {
            let stack = census.stacks.get(number)?;
            let mut frames = Vec::new();
            for pc in &stack.pcs {
                for frame in symbols.at(*pc).iter().flat_map(|f| f.iter()) {
                    let place = (&FrameName::from(frame)).into();
                    frames.push(FrameInfo { place, inlined: frame.inlined });
                }
            }
            Some(StackInfo { count, frames, cut: stack.cut })
        })
        .collect()
}

fn growth(censuses: &[Census], symbols: &mut Symbols<'_>, system: bool) -> Vec<Growth> {
    let (Some(first), Some(last)) = (censuses.first(), censuses.last()) else { return Vec::new() };
    if censuses.len() < 2 {
        return Vec::new();
    }
    let mut counts: HashMap<SiteInfo, Vec<u64>> = HashMap::new();
    for (i, census) in censuses.iter().enumerate() {
        for (key, group) in census.groups.iter().filter(|(k, _)| system || !k.system) {
            let site = site_info(symbols, key.origin);
            counts.entry(site).or_insert_with(|| vec![0; censuses.len()])[i] += group.count;
        }
    }
    let seconds = (last.at_ns.saturating_sub(first.at_ns)) as f64 / 1e9;
    let mut growth: Vec<Growth> = counts
        .into_iter()
        .map(|(site, counts)| {
            let (from, to) = (counts[0], counts[counts.len() - 1]);
            let grown = to.cast_signed() - from.cast_signed();
            Growth {
                candidate: is_growth(&counts),
                per_second: if seconds > 0.0 { grown as f64 / seconds } else { 0.0 },
                site,
                counts,
                grown,
            }
        })
        .collect();
    growth.sort_by(|a, b| b.grown.cmp(&a.grown).then_with(|| a.site.cmp(&b.site)));
    growth
}

/// From so many censuses on chance hardly ever puts them into ascending order: once in 720 times.
const ORDER_IS_NO_CHANCE: usize = 6;

/// Whether a site's counts, census by census, are those of a leak. Goroutines that come and go are some √n more or
/// fewer each time, and a few of such counts ascend by chance.
fn is_growth(counts: &[u64]) -> bool {
    let (Some(&from), Some(&to)) = (counts.first(), counts.last()) else { return false };
    let beyond_chance = to.saturating_sub(from) as f64 > 3.0 * (from as f64).sqrt();
    counts.len() >= 3
        && to > from
        && counts.is_sorted()
        && (beyond_chance || counts.len() >= ORDER_IS_NO_CHANCE)
}

#[cfg(test)]
mod tests {
    use super::is_growth;

    #[test]
    fn growth_by_chance_is_no_leak() {
        assert!(!is_growth(&[5, 5, 7, 11]), "seen of short-lived goroutines");
        assert!(is_growth(&[1001, 7028, 14105, 20210]) && is_growth(&[0, 1, 2]));
        assert!(is_growth(&[5, 5, 6, 7, 7, 8]), "six in order");
        assert!(!is_growth(&[5, 50]) && !is_growth(&[5, 50, 49]) && !is_growth(&[9, 9, 9]));
    }
}
