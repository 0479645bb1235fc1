//! What is found, in sentences: one a leak. Must not know JSON or the layout of the text.

use super::counted::Creator;
use super::hint;
use super::judge::{Findings, GoroutineVerdict, Judgement, Rate, SiteVerdict, Why, is_enough};
use super::seen::Seen;
use crate::analysis::trend::{Because, MIN_POINTS};
use crate::report::format::{bytes, count, plural};

/// All leaks, or that there are none.
pub fn all(seen: &Seen, findings: &Findings) -> Vec<String> {
    let sites = findings.sites.iter().filter(|s| s.judgement == Judgement::Leak);
    let goroutines = findings.goroutines.iter().filter(|g| g.judgement == Judgement::Leak);
    let mut all: Vec<String> = sites.map(site).chain(goroutines.map(self::goroutines)).collect();
    if all.is_empty() {
        all.push(nothing(seen, findings));
    }
    all
}

fn nothing(seen: &Seen, findings: &Findings) -> String {
    let cycles = plural(seen.collections(), "GC cycle", "GC cycles");
    let told = findings.sites.iter().any(|s| s.judgement != Judgement::TooFew);
    let can_tell = told || is_enough(findings.heap.points);
    if can_tell {
        let perhaps = findings.sites.iter().filter(|s| s.judgement == Judgement::Suspect).count()
            + findings.goroutines.iter().filter(|g| g.judgement == Judgement::Suspect).count();
        let but = if perhaps == 0 {
            String::new()
        } else {
            let n = perhaps as u64;
            format!("; {} may grow", plural(n, "site", "sites"))
        };
        format!("no leak found over {cycles}{but}")
    } else {
        format!(
            "whether memory leaks cannot be told: {cycles} ended, and at least {MIN_POINTS} are needed; look for longer"
        )
    }
}

/// A place that allocates.
pub fn site(s: &SiteVerdict) -> String {
    use std::fmt::Write as _;

    let mut text = format!("{} keeps ", s.places.place.short());
    text += &s.rate.map_or_else(|| "more and more".to_owned(), bytes_a_minute);
    let _ = write!(text, " over {}", plural(s.points, "GC cycle", "GC cycles"));
    let hint = s.hint.as_ref().and_then(|h| hint::describe(h, s.places.inside.as_ref()));
    if let Some(hint) = hint {
        let _ = write!(text, "; {hint}");
    }
    if let Some(from) = &s.places.called_from {
        let _ = write!(text, "; called from {}", from.short());
    }
    text
}

/// A creation site of goroutines.
pub fn goroutines(g: &GoroutineVerdict) -> String {
    let creator = match &g.creator {
        Creator::Statement(place) => place.short(),
        Creator::Other(what) if what == "c" => "C code".to_owned(),
        Creator::Other(what) => format!("({what})"),
    };
    let rate = g.evidence.rate.map_or_else(
        || "more and more goroutines".to_owned(),
        |r| {
            let n = |x: f64| count_of(x);
            let interval = format!("(95 %: {}…{})", n(r.low.max(0.0)), n(r.high));
            format!("{} goroutines/min {interval}", n(r.value))
        },
    );
    let censuses = plural(g.evidence.points, "census", "censuses");
    let there = count(g.evidence.last as u64);
    let state = match &g.state {
        Some((state, n)) => format!(", {} in {state}", count(*n)),
        None => String::new(),
    };
    format!("{creator} makes {rate} that stay, over {censuses}; {there} now{state}")
}

/// Two digits, or so.
fn count_of(x: f64) -> String {
    if x.abs() < 9.95 { format!("{x:.1}") } else { count(x.abs().round() as u64) }
}

/// `1.2 MiB/min (95 %: 1.0…1.4 MiB)`.
pub fn bytes_a_minute(r: Rate) -> String {
    let of = |x: f64| {
        let text = bytes(x.abs().round() as u64);
        if x < 0.0 { format!("-{text}") } else { text }
    };
    let (low, high) = (of(r.low), of(r.high));
    let low = match (low.split_once(' '), high.split_once(' ')) {
        (Some((number, unit)), Some((_, same))) if unit == same => number.to_owned(),
        _ => low,
    };
    format!("{}/min (95 %: {low}…{high})", of(r.value))
}

/// Why a site is judged so.
pub fn why(why: Why) -> &'static str {
    match why {
        Why::BothGrow => "the runtime's own profile and followed objects both grow",
        Why::ProfileGrows => "the runtime's own profile grows",
        Why::FollowedGrow => "followed objects stay, and the heap grows by as much",
        Why::MostOfGrowth => {
            "the heap grows, and most of what was followed and stays is of this line"
        }
        Why::MoreGoroutines => "there are more and more, and they stay",
        Why::HeapUncertain => {
            "followed objects stay, but whether the heap grows with them is not certain: they may replace older ones"
        }
        Why::ReplacesOlder => "what is new replaces older objects: together they do not grow",
        Why::FollowedDoNotGrow => {
            "the runtime's own profile grows, but objects followed since do not"
        }
        Why::Doubtful => {
            "so many GC cycles passed without a look that what stays may be other objects by now"
        }
        Why::FewLooks => {
            "the budget let the probes look so seldom that few looks saw it: a larger --budget, or a longer run, tells"
        }
        Why::NotSignificant => "it grows, but that may be chance",
        Why::Trend(Because::NoTrend) => "it does not grow",
        Why::Trend(Because::Step) => "most of its growth came at once",
        Why::Trend(Because::Falls) => "it falls in between",
        Why::Trend(Because::Stopped) => "it grew, and does no more",
        Why::Trend(Because::TooFewSamples) => "too few objects were seen",
        Why::Trend(Because::Replaced) => {
            "there is more and more, but what was there is replaced: load that rises, or a backlog"
        }
        Why::Trend(Because::OneOfMany) => "one of so many sites may grow so by chance",
        Why::TooFew => "too few GC cycles",
    }
}
