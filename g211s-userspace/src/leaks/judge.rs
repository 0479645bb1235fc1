//! Which sites leak: from what was seen to verdicts with their figures. Pure; must not know text or JSON.
//!
//! Two sources speak of a site. The runtime's own memory profile holds all its objects, sampled thinly. Followed objects
//! are sampled densely, but only those made since the run began: where a site was full before and replaces what it holds,
//! they grow as a leak's do, until all is replaced. So what is followed is not believed alone: the profile, or what
//! each collection left of the whole heap, has to grow as well.

use super::counted::Creator;
use super::place::Places;
use super::seen::{Seen, Site};
use crate::analysis::trend::{
    Because, Growth, Kept, MIN_POINTS, Point, Verdict, verdict, verdicts,
};
use crate::record::AllocHint;

/// How often a run of a healthy program may call anything a leak, before the other conditions of a verdict.
const ALPHA: f64 = 0.001;
/// The same, for what is only said to grow perhaps.
const PERHAPS: f64 = 0.05;
/// Sites with less at the end are not looked at.
const LEAST_BYTES: f64 = 4096.0;
const LEAST_SAMPLES: u64 = 5;
/// A site's growth may be so much more than the heap's before that speaks against it: what objects stand for is an
/// estimate.
const TOLERANCE: f64 = 1.5;
const CONTRADICTION: f64 = 2.0;
/// Part of the heap's growth that a site has to have, to be named for that where its own samples are too few to tell.
const MOST: f64 = 0.3;
/// With so many samples a site's own series tells.
const FEW_SAMPLES: u64 = 100;
/// Of what lived halfway, so much lives at the end of what leaks.
const KEPT: f64 = 0.5;
/// Where the probes look only now and then, a site that leaks is seen to by so many looks at least; and by so many where
/// they saw more than they missed.
const LEAST_LOOKS: u64 = 3;
const LEAST_LONG_LOOKS: u64 = 2;
/// Attached for this part of the run, they saw more than they missed.
const MOSTLY: f64 = 0.5;
/// Probes that were attached for this part of the run were there all the time.
const ALWAYS: f64 = 0.9;
/// Of the normal distribution, two-sided 95 %.
const Z: f64 = 1.96;

/// What is said of a site.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Judgement {
    /// It leaks.
    Leak,
    /// It grows, or may; why that is not called a leak, `Why` says.
    Suspect,
    /// It does not grow for good.
    Steady,
    /// Too few collections were seen.
    TooFew,
}

/// Why.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Why {
    /// Both the profile and followed objects grow.
    BothGrow,
    /// The profile grows; followed objects do not speak against it.
    ProfileGrows,
    /// Followed objects grow, and the whole heap does.
    FollowedGrow,
    /// The whole heap grows, and most of what was followed and stays is this site's; its own samples are few.
    MostOfGrowth,
    /// Its goroutines grow in number.
    MoreGoroutines,
    /// Followed objects grow, but whether the heap does is not certain: they may replace older ones.
    HeapUncertain,
    /// Followed objects grow more than the heap or the profile does: they replace older ones.
    ReplacesOlder,
    /// The profile grows, followed objects do not.
    FollowedDoNotGrow,
    /// So many collections passed without a look that what grows may be other objects by now.
    Doubtful,
    /// The probes looked so seldom that few looks saw it.
    FewLooks,
    /// It grows at a level at which chance is not excluded.
    NotSignificant,
    /// What the trend's test says.
    Trend(Because),
    /// Too few collections, or censuses.
    TooFew,
}

/// Growth a minute, with its 95 % interval: of bytes, or of goroutines.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Rate {
    /// The median slope.
    pub value: f64,
    /// Lower end.
    pub low: f64,
    /// Upper end.
    pub high: f64,
}

/// What one source says.
#[derive(Clone, Debug, PartialEq)]
pub struct Evidence {
    /// Its verdict.
    pub verdict: Verdict,
    /// Growth; `None` where there are too few points.
    pub rate: Option<Rate>,
    /// Points: collections, or censuses.
    pub points: u64,
    /// At the last of them: bytes, or goroutines.
    pub last: f64,
    /// Samples behind it; goroutines are counted, not sampled.
    pub samples: Option<u64>,
    /// How much of what was there halfway is there at the end.
    pub kept: Option<f64>,
}

/// A place that allocates.
#[derive(Clone, Debug)]
pub struct SiteVerdict {
    /// Where.
    pub places: Places,
    /// What is said of it.
    pub judgement: Judgement,
    /// Why.
    pub why: Why,
    /// Growth, by the source that is surer.
    pub rate: Option<Rate>,
    /// Collections seen, by that source.
    pub points: u64,
    /// The runtime's profile.
    pub profile: Option<Evidence>,
    /// Followed objects.
    pub followed: Option<Evidence>,
    /// What it allocates.
    pub hint: Option<AllocHint>,
    /// The addresses of the stack that most of its growth is of, innermost first.
    pub stack: Vec<u64>,
}

/// A creation site of goroutines.
#[derive(Clone, Debug)]
pub struct GoroutineVerdict {
    /// What made them.
    pub creator: Creator,
    /// What is said of it.
    pub judgement: Judgement,
    /// Why.
    pub why: Why,
    /// The counts.
    pub evidence: Evidence,
    /// What most of them wait for, and how many.
    pub state: Option<(String, u64)>,
    /// The functions that they run.
    pub starts: Vec<String>,
}

/// All of them, those that leak first, and the most growth first.
#[derive(Clone, Debug)]
pub struct Findings {
    /// Places that allocate.
    pub sites: Vec<SiteVerdict>,
    /// Creation sites of goroutines.
    pub goroutines: Vec<GoroutineVerdict>,
    /// What each collection left.
    pub heap: Evidence,
}

/// Judges all sites.
pub fn judge(seen: &Seen) -> Findings {
    let points = seen.heap();
    let heap = evidence(verdict(&points, None, ALPHA), &points, None, None);
    let mut sites = judge_sites(seen, &heap);
    let mut goroutines = judge_goroutines(seen);
    let rate = |r: Option<Rate>| r.map_or(0.0, |r| r.value);
    sites.sort_by(|a, b| {
        (a.judgement.cmp(&b.judgement)).then(rate(b.rate).total_cmp(&rate(a.rate)))
    });
    goroutines.sort_by(|a, b| {
        let by_rate = rate(b.evidence.rate).total_cmp(&rate(a.evidence.rate));
        a.judgement.cmp(&b.judgement).then(by_rate)
    });
    Findings { sites, goroutines, heap }
}

fn evidence(
    verdict: Verdict,
    points: &[Point],
    kept: Option<Kept>,
    samples: Option<u64>,
) -> Evidence {
    let growth = growth(&verdict);
    Evidence {
        rate: growth.map(|growth| rate(growth, points, kept)),
        points: points.len() as u64,
        last: points.last().map_or(0.0, |p| p.bytes),
        samples,
        kept: kept.map(|k| k.share),
        verdict,
    }
}

fn growth(verdict: &Verdict) -> Option<&Growth> {
    match verdict {
        Verdict::Growing(growth) | Verdict::NotGrowing { growth, .. } => Some(growth),
        Verdict::TooShort { .. } => None,
    }
}

/// Growth a minute. Its interval is that of the trend and that of sampling together.
fn rate(growth: &Growth, points: &[Point], kept: Option<Kept>) -> Rate {
    let points = points.get(growth.from..).unwrap_or_default();
    let (span, error) = match points {
        [first, .., last] => {
            let span = last.time_ns.saturating_sub(first.time_ns) as f64 / 60e9;
            // What stays has the same error at both ends.
            let share = kept.map_or(0.5, |k| k.share.clamp(0.0, 1.0));
            let (before, after) = (first.standard_error.powi(2), last.standard_error.powi(2));
            (span, (after + (1.0 - 2.0 * share) * before).max(0.0).sqrt())
        }
        _ => (0.0, 0.0),
    };
    let sampling = if span > 0.0 { Z * error / span } else { 0.0 };
    let per_minute = |bytes_per_s: f64| bytes_per_s * 60.0;
    let value = per_minute(growth.slope_bytes_per_s);
    let below = value - per_minute(growth.interval.0);
    let above = per_minute(growth.interval.1) - value;
    Rate { value, low: value - below.hypot(sampling), high: value + above.hypot(sampling) }
}

fn is_growing(evidence: &Evidence) -> bool {
    matches!(evidence.verdict, Verdict::Growing(_))
}

/// Why a source does not call it growth; `None` where it does, or cannot tell.
fn because(evidence: &Evidence) -> Option<Because> {
    match evidence.verdict {
        Verdict::NotGrowing { because, .. } => Some(because),
        _ => None,
    }
}

/// A site with what the sources say, before they are put together.
struct Told {
    site: Site,
    profile: Option<Evidence>,
    followed: Option<Evidence>,
    /// It grows only with objects that may be others by now.
    doubtful: bool,
    /// Of so many collections that this proves nothing.
    many_missed: bool,
    /// Too few looks saw it.
    few_looks: bool,
}

fn judge_sites(seen: &Seen, heap: &Evidence) -> Vec<SiteVerdict> {
    let mut told = tell(seen);
    // Those that grow most first: the heap's growth is theirs before it is others'.
    let followed = |t: &Told| t.followed.as_ref().and_then(|f| f.rate).map_or(0.0, |r| r.value);
    told.sort_by(|a, b| followed(b).total_cmp(&followed(a)));
    let mut explained = 0.0;
    let mut sites = Vec::new();
    for t in told {
        let most = has_most(&t, heap);
        let followed = t.followed.as_ref().filter(|f| most || is_growing(f));
        let support = match followed.and_then(|f| f.rate) {
            Some(rate) => {
                let support = supports(heap, rate, explained);
                if support != Support::Against {
                    explained += rate.low.max(0.0);
                }
                support
            }
            None => Support::Unknown,
        };
        let (judgement, why) = match put_together(&t, support) {
            (Judgement::Suspect | Judgement::Steady, _) if most && support == Support::For => {
                (Judgement::Leak, Why::MostOfGrowth)
            }
            told => told,
        };
        let stack = seen.stack_of(&t.site).map(<[u64]>::to_vec).unwrap_or_default();
        let hint = seen.hint(&stack).cloned();
        let (rate, points) = surer(&t);
        let Told { site, profile, followed, .. } = t;
        sites.push(SiteVerdict {
            places: site.places,
            judgement,
            why,
            rate,
            points,
            profile,
            followed,
            hint,
            stack,
        });
    }
    sites
}

/// That the heap grows is counted, not sampled. Where that is certain, the question is only whose growth it is, and few
/// samples are enough to see who has most of what stays.
fn has_most(t: &Told, heap: &Evidence) -> bool {
    let (Some(all), Some(followed)) = (heap.rate, t.followed.as_ref()) else { return false };
    let (Some(rate), samples) = (followed.rate, followed.samples.unwrap_or(0)) else {
        return false;
    };
    let may_be = match because(followed) {
        Some(Because::OneOfMany | Because::TooFewSamples) => true,
        Some(Because::NoTrend | Because::Stopped) => samples < FEW_SAMPLES,
        _ => false,
    };
    // All its objects together, if the profile has them, speak for themselves.
    let profile = t.profile.as_ref().and_then(|p| p.rate);
    is_growing(heap)
        && may_be
        && !t.few_looks
        && followed.kept.is_some_and(|kept| kept >= KEPT)
        && rate.low > 0.0
        && rate.value >= MOST * all.value
        && profile.is_none_or(|p| p.high >= rate.low)
}

/// The rate of the source that is surer of it, and its points.
fn surer(t: &Told) -> (Option<Rate>, u64) {
    let both = [&t.profile, &t.followed];
    let growing = both.iter().any(|e| e.as_ref().is_some_and(is_growing));
    let known = both.into_iter().flatten().filter(|e| !growing || is_growing(e));
    let width = |e: &Evidence| e.rate.map_or(f64::INFINITY, |r| r.high - r.low);
    let best = known.min_by(|a, b| width(a).total_cmp(&width(b)));
    best.map_or((None, 0), |e| (e.rate, e.points))
}

/// What a source has of a site.
type Series = (Vec<Point>, Option<Kept>);

/// What each source says of each site.
fn tell(seen: &Seen) -> Vec<Told> {
    let sites: Vec<Site> = seen.sites().into_iter().filter(is_worth_it).collect();
    let series = |of: &dyn Fn(&Site) -> Option<Series>| {
        let known: Vec<(usize, Series)> =
            sites.iter().enumerate().filter_map(|(n, s)| Some((n, of(s)?))).collect();
        let (numbers, known): (Vec<usize>, Vec<_>) = known.into_iter().unzip();
        let said = verdicts(&known, ALPHA);
        let mut all: Vec<Option<Verdict>> = vec![None; sites.len()];
        for (n, verdict) in numbers.into_iter().zip(said) {
            all[n] = Some(verdict);
        }
        all
    };
    let kept = |s: &Site| s.survived.as_ref().and_then(|s| s.kept);
    let profile = series(&|s| Some((s.held.as_ref()?.points.clone(), kept(s))));
    let all = series(&|s| Some((s.survived.as_ref()?.all.clone(), kept(s))));
    let sure = series(&|s| Some((s.survived.as_ref()?.sure.clone(), kept(s))));
    let least_looks = match seen.survivors.observed_share() {
        ALWAYS.. => 0,
        MOSTLY.. => LEAST_LONG_LOOKS,
        _ => LEAST_LOOKS,
    };
    let missed = seen.survivors.cycles_missed;
    let mut told = Vec::new();
    for (site, ((profile, all), sure)) in
        sites.into_iter().zip(profile.into_iter().zip(all).zip(sure))
    {
        let of_profile = profile.zip(site.held.as_ref()).map(|(verdict, held)| {
            evidence(verdict, &held.points, kept(&site), Some(held.samples))
        });
        let mut doubtful = false;
        let followed = all.zip(sure).zip(site.survived.as_ref()).map(|((all, sure), survived)| {
            let samples = Some(survived.samples);
            let mut whole = evidence(all, &survived.all, survived.kept, samples);
            let certain = evidence(sure, &survived.sure, survived.kept, samples);
            doubtful = is_growing(&whole) && !is_growing(&certain);
            if let (Some(rate), Some(least)) = (&mut whole.rate, certain.rate) {
                rate.low = rate.low.min(least.low);
            }
            whole
        });
        let looks = site.survived.as_ref().map_or(0, |s| s.looks);
        let points = followed.as_ref().map_or(0, |f: &Evidence| f.points);
        told.push(Told {
            few_looks: looks < least_looks,
            many_missed: missed > points / 2,
            profile: of_profile,
            followed,
            doubtful,
            site,
        });
    }
    told
}

/// Sites that hold next to nothing are not tested: each test makes the others weaker.
fn is_worth_it(site: &Site) -> bool {
    let survived = site.survived.as_ref();
    let followed = survived.is_some_and(|s| {
        s.samples >= LEAST_SAMPLES && s.all.last().is_some_and(|p| p.bytes >= LEAST_BYTES)
    });
    let held = site.held.as_ref();
    let profiled = held.is_some_and(|h| {
        h.samples >= LEAST_SAMPLES && h.points.last().is_some_and(|p| p.bytes >= LEAST_BYTES)
    });
    followed || profiled
}

/// What the whole heap says to a site's growth.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Support {
    /// It grows as much.
    For,
    /// It grows far less.
    Against,
    /// It may or may not.
    Unknown,
}

/// `explained`: what other sites grow by, at least.
fn supports(heap: &Evidence, site: Rate, explained: f64) -> Support {
    let (Some(growth), Some(rate)) = (growth(&heap.verdict), heap.rate) else {
        return Support::Unknown;
    };
    let grows = is_growing(heap) || (rate.low > 0.0 && growth.p <= ALPHA);
    if site.low > CONTRADICTION * rate.high.max(0.0) {
        Support::Against
    } else if grows && explained + site.low <= TOLERANCE * rate.high {
        Support::For
    } else {
        Support::Unknown
    }
}

fn put_together(t: &Told, heap: Support) -> (Judgement, Why) {
    use Judgement::{Leak, Steady, Suspect, TooFew};
    let profile_grows = t.profile.as_ref().is_some_and(is_growing);
    let Some(followed) = t.followed.as_ref().filter(|f| growth(&f.verdict).is_some()) else {
        return match t.profile.as_ref() {
            Some(_) if profile_grows => (Leak, Why::ProfileGrows),
            Some(p) => alone(p),
            None => (TooFew, Why::TooFew),
        };
    };
    if is_growing(followed) {
        if profile_grows {
            return (Leak, Why::BothGrow);
        }
        if t.few_looks {
            return (Suspect, Why::FewLooks);
        }
        // What died in a collection that nobody looked at, and left its place to another, was alive then: of few such
        // collections that makes no steady growth, if the heap has it as well.
        if t.doubtful && (t.many_missed || heap != Support::For) {
            return (Suspect, Why::Doubtful);
        }
        let rate = followed.rate.unwrap_or_default();
        // All its objects together, also those from before the run, do not grow as much.
        let level = t.profile.as_ref().and_then(|p| p.rate);
        if level.is_some_and(|p| CONTRADICTION * p.high.max(0.0) < rate.low) {
            return (Steady, Why::ReplacesOlder);
        }
        return match heap {
            Support::For => (Leak, Why::FollowedGrow),
            Support::Against => (Steady, Why::ReplacesOlder),
            Support::Unknown => (Suspect, Why::HeapUncertain),
        };
    }
    let said = because(followed);
    if profile_grows {
        let low = t.profile.as_ref().and_then(|p| p.rate).map_or(0.0, |r| r.low);
        let too_few = matches!(said, Some(Because::TooFewSamples | Because::OneOfMany));
        // Growth is of objects that were made since the run began.
        let may_be = followed.rate.is_some_and(|r| r.high >= low) && said == Some(Because::NoTrend);
        return match said {
            _ if too_few || may_be => (Leak, Why::ProfileGrows),
            Some(Because::Replaced) => (Suspect, Why::Trend(Because::Replaced)),
            _ => (Suspect, Why::FollowedDoNotGrow),
        };
    }
    match alone(followed) {
        // Dense samples say that it does not grow.
        (Steady, why) => (Steady, why),
        told => told,
    }
}

/// What a source that does not call it growing makes of a site.
fn alone(evidence: &Evidence) -> (Judgement, Why) {
    match &evidence.verdict {
        Verdict::Growing(_) => (Judgement::Leak, Why::ProfileGrows),
        Verdict::TooShort { .. } => (Judgement::TooFew, Why::TooFew),
        Verdict::NotGrowing { because, growth } => {
            let rises = evidence.rate.is_some_and(|r| r.low > 0.0);
            match because {
                // A backlog, or load that rises: what it holds is replaced, and there is more and more of it.
                Because::Replaced => (Judgement::Suspect, Why::Trend(Because::Replaced)),
                Because::TooFewSamples | Because::OneOfMany if rises => {
                    (Judgement::Suspect, Why::NotSignificant)
                }
                Because::NoTrend if rises && growth.p <= PERHAPS => {
                    (Judgement::Suspect, Why::NotSignificant)
                }
                other => (Judgement::Steady, Why::Trend(*other)),
            }
        }
    }
}

fn judge_goroutines(seen: &Seen) -> Vec<GoroutineVerdict> {
    let all: Vec<_> = seen
        .counted
        .series()
        .into_iter()
        .filter(|(_, g)| {
            let most = g.points.iter().map(|p| p.bytes).fold(0.0, f64::max);
            most > 1.0
        })
        .collect();
    let known: Vec<(Vec<Point>, Option<Kept>)> =
        all.iter().map(|(_, g)| (g.points.clone(), g.kept)).collect();
    let said = verdicts(&known, ALPHA);
    let told = all.into_iter().zip(said).map(|((creator, g), verdict)| {
        let evidence = evidence(verdict, &g.points, g.kept, None);
        let (judgement, why) = if is_growing(&evidence) {
            (Judgement::Leak, Why::MoreGoroutines)
        } else {
            alone(&evidence)
        };
        GoroutineVerdict { creator, judgement, why, evidence, state: g.state, starts: g.starts }
    });
    told.collect()
}

/// Whether so many points are enough for a verdict.
pub fn is_enough(points: u64) -> bool {
    points >= MIN_POINTS as u64
}

#[cfg(test)]
#[path = "judge_tests.rs"]
mod tests;
