//! The JSON of `g211s leaks`, schema `g211s.leaks/1` (docs/leaks-schema.md), built from what was seen and what was
//! concluded. Must not know processes, nor text.

use serde::{Deserialize, Serialize};

use super::counted::Creator;
use super::hint;
use super::judge::{Evidence, Findings, GoroutineVerdict, Judgement, Rate, SiteVerdict, Why};
use super::limits::Limits;
use super::place::Place;
use super::seen::Seen;
use super::sentence;
use crate::account::LEAST_CPU;
use crate::analysis::trend::{Because, Verdict};
use crate::report::format::{clean, plural};

/// The schema's name.
pub const SCHEMA: &str = "g211s.leaks/1";

/// The whole document.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Document {
    /// [`SCHEMA`].
    pub schema: String,
    /// Of which process.
    pub target: TargetInfo,
    /// When, and how long.
    pub run: RunInfo,
    /// What counts for the exit code, and how much did.
    pub counted: CountedInfo,
    /// What is to be said first, leak by leak.
    pub sentences: Vec<String>,
    /// Places that allocate and were judged: those that leak first, and of these those that grow most.
    pub sites: Vec<SiteInfo>,
    /// Creation sites of goroutines, likewise.
    pub goroutines: Vec<GoroutineInfo>,
    /// What collections left of the heap.
    pub heap: HeapInfo,
    /// Where the figures come from.
    pub sources: SourcesInfo,
    /// What could not be told, and why.
    pub unavailable: Vec<String>,
}

/// The process.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
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

/// When it was.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct RunInfo {
    /// When it began, ns since 1970.
    pub time_ns: u64,
    /// How long it lasted, ns.
    pub duration_ns: u64,
    /// Collections that ended in it, as far as they were seen.
    pub gc_cycles: u64,
    /// Censuses of goroutines.
    pub censuses: u64,
    /// How it ended: `duration`, `interrupt`, `terminate`, `target_exited`, `error`; `null` where the recording was cut off.
    pub ended: Option<String>,
}

/// What counts.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct CountedInfo {
    /// As `--fail-on`.
    pub fail_on: String,
    /// Least growth of bytes a minute that counts.
    pub min_bytes_per_min: f64,
    /// Least growth of goroutines a minute that counts.
    pub min_goroutines_per_min: f64,
    /// Findings that count: the exit code is 3 if there is any.
    pub findings: u64,
}

/// Growth a minute, with its 95 % interval.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct RateInfo {
    /// The median slope.
    pub value: f64,
    /// Lower end.
    pub low: f64,
    /// Upper end.
    pub high: f64,
}

impl From<Rate> for RateInfo {
    fn from(r: Rate) -> Self {
        // What is not a number has no place in JSON.
        let sane = |x: f64| if x.is_finite() { x } else { 0.0 };
        Self { value: sane(r.value), low: sane(r.low), high: sane(r.high) }
    }
}

/// What one source says.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct EvidenceInfo {
    /// `growing`, `not_growing`, `too_few_points`.
    pub verdict: String,
    /// Why it is not growing: `no_trend`, `step`, `falls`, `stopped`, `too_few_samples`, `replaced`, `one_of_many`.
    pub because: Option<String>,
    /// Growth; `null` where there are too few points.
    pub per_min: Option<RateInfo>,
    /// How probable such a slope is where nothing grows; `null` likewise.
    pub p: Option<f64>,
    /// Collections, or censuses.
    pub points: u64,
    /// Bytes, or goroutines, at the last of them.
    pub last: f64,
    /// Samples behind that; `null` where they are counted.
    pub samples: Option<u64>,
    /// How much of what was there halfway is there at the end.
    pub kept_share: Option<f64>,
}

/// A place that allocates.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct SiteInfo {
    /// Where.
    #[serde(flatten)]
    pub place: Place,
    /// Where it really allocates, if that is in the standard library.
    pub inside: Option<Place>,
    /// The line of the main module that called it, if it is a dependency's.
    pub called_from: Option<Place>,
    /// `leak`, `suspect`, `steady`, `too_few_points`.
    pub judgement: String,
    /// Why, in a word: see the schema's page.
    pub why: String,
    /// Whether it counts for the exit code.
    pub counts: bool,
    /// Bytes that stay, a minute.
    pub bytes_per_min: Option<RateInfo>,
    /// Part of the heap's growth; `null` where the heap does not grow.
    pub share_of_growth: Option<f64>,
    /// What it allocates, in words.
    pub allocates: Option<String>,
    /// The runtime's function that it calls for that.
    pub callee: Option<String>,
    /// The type that it is called with.
    pub type_name: Option<String>,
    /// What the runtime's own memory profile says.
    pub profile: Option<EvidenceInfo>,
    /// What followed objects say.
    pub followed: Option<EvidenceInfo>,
}

/// A creation site of goroutines.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct GoroutineInfo {
    /// `go` (a statement, at `site`), `start`, `c`, `unknown`.
    pub created_by: String,
    /// The statement.
    pub site: Option<Place>,
    /// `leak`, `suspect`, `steady`, `too_few_points`.
    pub judgement: String,
    /// Why, in a word.
    pub why: String,
    /// Whether it counts for the exit code.
    pub counts: bool,
    /// Goroutines, a minute.
    pub per_min: Option<RateInfo>,
    /// How many there were at the end.
    pub goroutines: u64,
    /// What most of them wait for.
    pub state: Option<String>,
    /// How many of them.
    pub in_state: Option<u64>,
    /// The functions that they run.
    pub starts: Vec<String>,
    /// What the counts say.
    pub counted: EvidenceInfo,
}

/// The heap as a whole.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct HeapInfo {
    /// First and last collection of the run.
    pub gc_cycles: Option<(u64, u64)>,
    /// Bytes that the first of them left.
    pub first_bytes: Option<u64>,
    /// Bytes that the last one left.
    pub last_bytes: Option<u64>,
    /// Bytes in goroutine stacks then.
    pub stack_bytes: Option<u64>,
    /// Whether it grows.
    pub left: EvidenceInfo,
    /// What sites that leak explain of its growth, bytes a minute; `null` where it does not grow.
    pub explained_bytes_per_min: Option<f64>,
    /// What none of them explains.
    pub unexplained_bytes_per_min: Option<f64>,
    /// The latter as a part of the growth.
    pub unexplained_share: Option<f64>,
    /// Bytes left by each collection, at most 600 of them: number, ns since the first, bytes.
    pub points: Vec<(u64, u64, u64)>,
}

/// Where the figures come from.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct SourcesInfo {
    /// The runtime's own memory profile.
    pub profile: ProfileSource,
    /// Followed objects.
    pub followed: FollowedSource,
    /// Why goroutines were not counted.
    pub no_goroutines: Option<String>,
}

/// The runtime's own memory profile.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct ProfileSource {
    /// Why it is not used.
    pub why_not: Option<String>,
    /// Collections that it was read of.
    pub gc_cycles: u64,
    /// Bytes allocated per sample, on average.
    pub bytes_per_sample: Option<u64>,
}

/// Followed objects.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct FollowedSource {
    /// Why none were.
    pub why_not: Option<String>,
    /// Objects.
    pub objects: u64,
    /// Collections that passed without a look.
    pub gc_cycles_missed: u64,
    /// For which part of the run probes were attached.
    pub observed_share: f64,
    /// What they cost the target, as a part of its CPU time.
    pub cost_share: f64,
    /// What they might: a part of its CPU time, …
    #[serde(default)]
    pub budget: f64,
    /// … of at least so many CPUs.
    #[serde(default)]
    pub budget_least_cpus: f64,
    /// Events of the kernel side that were lost.
    pub lost: u64,
}

/// Builds it.
pub fn document(seen: &Seen, findings: &Findings, limits: &Limits) -> Document {
    let start = seen.run.start.as_ref();
    let first = start.and_then(|s| s.targets.first());
    let end = seen.run.end.as_ref();
    let began = start.map_or(0, |s| s.start_ns);
    let last = end.map_or_else(|| seen.left().last().map_or(began, |l| l.ts_ns), |e| e.end_ns);
    let sources = seen.sources.clone().unwrap_or_default();
    let growth = findings.heap.rate.filter(|r| r.value > 0.0 && r.low > 0.0);
    Document {
        schema: SCHEMA.to_owned(),
        target: first.map_or_else(TargetInfo::default, |t| TargetInfo {
            pid: t.pid,
            comm: clean(&t.comm),
            exe: clean(&t.exe),
            go_version: clean(&t.go_version),
            module: t.module.as_deref().map(clean),
            offsets: clean(&sources.offsets),
        }),
        run: RunInfo {
            time_ns: start.map_or(0, |s| s.wall_ns),
            duration_ns: last.saturating_sub(began),
            gc_cycles: seen.collections(),
            censuses: seen.counted.len() as u64,
            ended: end.map(|e| clean(&e.reason)),
        },
        counted: CountedInfo {
            fail_on: limits.fail_on.name().to_owned(),
            min_bytes_per_min: limits.min_growth,
            min_goroutines_per_min: limits.min_goroutines,
            findings: limits.count(findings),
        },
        sentences: sentence::all(seen, findings),
        sites: findings.sites.iter().map(|s| site(s, growth, limits)).collect(),
        goroutines: findings.goroutines.iter().map(|g| goroutines(g, limits)).collect(),
        heap: heap(seen, findings, growth),
        sources: SourcesInfo {
            profile: ProfileSource {
                why_not: sources.profile.as_deref().map(clean),
                gc_cycles: seen.profiled.len() as u64,
                bytes_per_sample: (!seen.profiled.is_empty()).then(|| seen.profiled.rate()),
            },
            followed: FollowedSource {
                why_not: seen.not_followed.as_deref().map(clean),
                objects: seen.survivors.objects,
                gc_cycles_missed: seen.survivors.cycles_missed,
                observed_share: seen.survivors.observed_share(),
                cost_share: seen.survivors.cost_share(seen.run.allocations.run().cost_ns),
                budget: seen.run.allocations.run().budget,
                budget_least_cpus: LEAST_CPU,
                lost: end.and_then(|e| e.lost.get("alloc").copied()).unwrap_or(0),
            },
            no_goroutines: sources.goroutines.as_deref().map(clean),
        },
        unavailable: unavailable(seen),
    }
}

/// A judgement in a word.
pub fn judgement(judgement: Judgement) -> &'static str {
    match judgement {
        Judgement::Leak => "leak",
        Judgement::Suspect => "suspect",
        Judgement::Steady => "steady",
        Judgement::TooFew => "too_few_points",
    }
}

fn why(why: Why) -> &'static str {
    match why {
        Why::BothGrow => "profile_and_followed_grow",
        Why::ProfileGrows => "profile_grows",
        Why::FollowedGrow => "followed_and_heap_grow",
        Why::MostOfGrowth => "has_most_of_growth",
        Why::MoreGoroutines => "more_goroutines",
        Why::HeapUncertain => "heap_uncertain",
        Why::ReplacesOlder => "replaces_older",
        Why::FollowedDoNotGrow => "followed_do_not_grow",
        Why::Doubtful => "doubtful",
        Why::FewLooks => "few_looks",
        Why::NotSignificant => "not_significant",
        Why::Trend(reason) => because(reason),
        Why::TooFew => "too_few_points",
    }
}

fn because(because: Because) -> &'static str {
    match because {
        Because::NoTrend => "no_trend",
        Because::Step => "step",
        Because::Falls => "falls",
        Because::Stopped => "stopped",
        Because::TooFewSamples => "too_few_samples",
        Because::Replaced => "replaced",
        Because::OneOfMany => "one_of_many",
    }
}

fn evidence(e: &Evidence) -> EvidenceInfo {
    let (verdict, reason, p) = match &e.verdict {
        Verdict::Growing(growth) => ("growing", None, Some(growth.p)),
        Verdict::NotGrowing { because: reason, growth } => {
            ("not_growing", Some(because(*reason).to_owned()), Some(growth.p))
        }
        Verdict::TooShort { .. } => ("too_few_points", None, None),
    };
    EvidenceInfo {
        verdict: verdict.to_owned(),
        because: reason,
        per_min: e.rate.map(RateInfo::from),
        p: p.filter(|p| p.is_finite()),
        points: e.points,
        last: e.last,
        samples: e.samples,
        kept_share: e.kept,
    }
}

fn site(s: &SiteVerdict, growth: Option<Rate>, limits: &Limits) -> SiteInfo {
    let hint = s.hint.as_ref();
    SiteInfo {
        place: s.places.place.clone(),
        inside: s.places.inside.clone(),
        called_from: s.places.called_from.clone(),
        judgement: judgement(s.judgement).to_owned(),
        why: why(s.why).to_owned(),
        counts: limits.counts_site(s),
        bytes_per_min: s.rate.map(RateInfo::from),
        share_of_growth: s.rate.zip(growth).map(|(of, all)| of.value / all.value),
        allocates: hint.and_then(|h| hint::describe(h, s.places.inside.as_ref())),
        callee: hint.and_then(|h| h.callee.clone()),
        type_name: hint.and_then(|h| h.type_name.clone()),
        profile: s.profile.as_ref().map(evidence),
        followed: s.followed.as_ref().map(evidence),
    }
}

fn goroutines(g: &GoroutineVerdict, limits: &Limits) -> GoroutineInfo {
    let (created_by, site) = match &g.creator {
        Creator::Statement(place) => ("go", Some(place.clone())),
        Creator::Other(what) => (what.as_str(), None),
    };
    GoroutineInfo {
        created_by: created_by.to_owned(),
        site,
        judgement: judgement(g.judgement).to_owned(),
        why: why(g.why).to_owned(),
        counts: limits.counts_goroutines(g),
        per_min: g.evidence.rate.map(RateInfo::from),
        goroutines: g.evidence.last as u64,
        state: g.state.as_ref().map(|(state, _)| state.clone()),
        in_state: g.state.as_ref().map(|(_, n)| *n),
        starts: g.starts.clone(),
        counted: evidence(&g.evidence),
    }
}

/// Bytes a minute that leaks explain.
pub fn explained(findings: &Findings) -> f64 {
    let leaks = findings.sites.iter().filter(|s| s.judgement == Judgement::Leak);
    leaks.filter_map(|s| s.rate).map(|r| r.value).sum()
}

fn heap(seen: &Seen, findings: &Findings, growth: Option<Rate>) -> HeapInfo {
    let left = seen.left().get(1..).unwrap_or_default();
    let ends = left.first().zip(left.last());
    let explained = growth.map(|_| explained(findings));
    let rest = growth.zip(explained).map(|(all, part)| (all.value - part).max(0.0));
    let each = left.len().div_ceil(600).max(1);
    let began = left.first().map_or(0, |l| l.ts_ns);
    HeapInfo {
        gc_cycles: ends.map(|(a, b)| (a.gc, b.gc)),
        first_bytes: ends.map(|(a, _)| a.marked),
        last_bytes: ends.map(|(_, b)| b.marked),
        stack_bytes: ends.and_then(|(_, b)| b.stacks),
        left: evidence(&findings.heap),
        explained_bytes_per_min: explained,
        unexplained_bytes_per_min: rest,
        unexplained_share: rest.zip(growth).map(|(rest, all)| rest / all.value),
        points: left
            .iter()
            .step_by(each)
            .map(|l| (l.gc, l.ts_ns.saturating_sub(began), l.marked))
            .collect(),
    }
}

fn unavailable(seen: &Seen) -> Vec<String> {
    let mut all = Vec::new();
    let sources = seen.sources.clone().unwrap_or_default();
    let missing = [
        ("what collections leave of the heap", sources.heap),
        ("the runtime's own memory profile", sources.profile),
        ("following objects", seen.not_followed.clone()),
        ("goroutines", sources.goroutines),
    ];
    all.extend(
        missing.into_iter().filter_map(|(what, why)| Some(format!("{what}: {}", clean(&why?)))),
    );
    let s = &seen.survivors;
    if let Some(why) = &s.failed {
        all.push(format!(
            "the last look at followed objects ({}): their figures are of the one before",
            clean(why)
        ));
    }
    if s.left_out > 0 {
        all.push(format!(
            "{}: there are too many to keep",
            plural(s.left_out, "sampled object", "sampled objects")
        ));
    }
    let first = seen.run.start.iter().filter_map(|s| s.targets.first());
    let missing = first.flat_map(|t| t.unavailable.iter());
    all.extend(missing.map(|u| format!("{}: {}; {}", u.feature, clean(&u.why), u.costs)));
    all.extend(seen.run.notices.iter().map(|n| clean(&n.text)));
    all
}
