//! A search for leaks as text. Must not know how it was made.

use std::fmt::Write as _;

use super::judge::{Findings, GoroutineVerdict, Judgement, SiteVerdict};
use super::schema::{Document, HeapInfo};
use super::sentence;
use crate::allocs::text::budget_in_words;
use crate::report::format::{bytes, count, duration, plural};

/// The text. Of sites that do not leak the `top` ones.
pub fn text(document: &Document, findings: &Findings, top: usize) -> String {
    let mut out = String::new();
    leaks(&mut out, document, findings);
    process(&mut out, document);
    heap(&mut out, &document.heap, findings);
    suspects(&mut out, findings, top);
    steady(&mut out, findings);
    sources(&mut out, document);
    verdict(&mut out, document);
    out
}

fn leaks(out: &mut String, document: &Document, findings: &Findings) {
    let sites: Vec<&SiteVerdict> =
        findings.sites.iter().filter(|s| s.judgement == Judgement::Leak).collect();
    let goroutines: Vec<&GoroutineVerdict> =
        findings.goroutines.iter().filter(|g| g.judgement == Judgement::Leak).collect();
    if sites.is_empty() && goroutines.is_empty() {
        for sentence in &document.sentences {
            let _ = writeln!(out, "{sentence}");
        }
        return;
    }
    for site in sites {
        let _ = writeln!(out, "{}", sentence::site(site));
        let _ = writeln!(out, "    {}", because(site));
    }
    for g in goroutines {
        let _ = writeln!(out, "{}", sentence::goroutines(g));
        let kept = g.evidence.kept.map_or_else(String::new, |kept| {
            format!("; {:.0}% of those halfway are still there", kept * 100.0)
        });
        let _ = writeln!(out, "    {}{kept}", sentence::why(g.why));
    }
}

/// What a verdict on a site rests on.
fn because(site: &SiteVerdict) -> String {
    let mut text = sentence::why(site.why).to_owned();
    if let Some(followed) = &site.followed {
        let samples = plural(followed.samples.unwrap_or(0), "sample", "samples");
        let kept = followed.kept.map_or_else(String::new, |kept| {
            format!(", {:.0}% of those halfway are still there", kept * 100.0)
        });
        let _ = write!(text, "; {} followed by {samples}{kept}", bytes(followed.last as u64));
    }
    if let Some(profile) = &site.profile {
        let samples = plural(profile.samples.unwrap_or(0), "sample", "samples");
        let _ = write!(text, "; {} in all by the profile ({samples})", bytes(profile.last as u64));
    }
    text
}

fn process(out: &mut String, document: &Document) {
    let (target, run) = (&document.target, &document.run);
    let _ = write!(out, "\nprocess {} ({}), {}", target.pid, target.comm, target.go_version);
    if let Some(module) = &target.module {
        let _ = write!(out, ", {module}");
    }
    let ended = match run.ended.as_deref() {
        Some("target_exited") => "; the process has ended",
        Some("interrupt" | "terminate") => "; interrupted",
        Some("error") => "; ended by an error",
        None => "; the recording was cut off",
        _ => "",
    };
    let _ = writeln!(
        out,
        "\nwatched for {}: {}, {}{ended}",
        duration(run.duration_ns),
        plural(run.gc_cycles, "GC cycle", "GC cycles"),
        plural(run.censuses, "census of goroutines", "censuses of goroutines"),
    );
}

fn heap(out: &mut String, heap: &HeapInfo, findings: &Findings) {
    let (Some((first, last)), Some(from), Some(to)) =
        (heap.gc_cycles, heap.first_bytes, heap.last_bytes)
    else {
        return;
    };
    let _ = write!(
        out,
        "heap: {} left by GC cycle {}, {} by {}",
        bytes(from),
        count(first),
        bytes(to),
        count(last)
    );
    match (findings.heap.rate, heap.explained_bytes_per_min, heap.unexplained_bytes_per_min) {
        (Some(rate), Some(explained), Some(rest)) => {
            let _ = writeln!(
                out,
                ": it grows by {}; leaks explain {}/min of it, {}/min ({:.0}%) is unexplained",
                sentence::bytes_a_minute(rate),
                bytes(explained.max(0.0) as u64),
                bytes(rest as u64),
                heap.unexplained_share.unwrap_or(0.0) * 100.0
            );
        }
        (Some(rate), ..) => {
            let _ = writeln!(
                out,
                ": it does not grow beyond its ups and downs, by {}",
                sentence::bytes_a_minute(rate)
            );
        }
        _ => {
            let _ = writeln!(out, ": too few GC cycles to tell whether it grows");
        }
    }
    if let Some(stacks) = heap.stack_bytes {
        let _ = writeln!(out, "stacks of goroutines: {}", bytes(stacks));
    }
}

fn suspects(out: &mut String, findings: &Findings, top: usize) {
    let sites: Vec<&SiteVerdict> =
        findings.sites.iter().filter(|s| s.judgement == Judgement::Suspect).collect();
    let goroutines: Vec<&GoroutineVerdict> =
        findings.goroutines.iter().filter(|g| g.judgement == Judgement::Suspect).collect();
    let all = sites.len() + goroutines.len();
    if all == 0 {
        return;
    }
    let _ = writeln!(out, "\nmay grow, not called leaks:");
    let sites = sites.iter().map(|s| (sentence::site(s), sentence::why(s.why)));
    let goroutines = goroutines.iter().map(|g| (sentence::goroutines(g), sentence::why(g.why)));
    for (sentence, why) in sites.chain(goroutines).take(top) {
        let _ = writeln!(out, "  {sentence}\n    {why}");
    }
    if all > top {
        let more = plural((all - top) as u64, "other", "others");
        let _ = writeln!(out, "  and {more} (--top N shows more, --json all)");
    }
}

fn steady(out: &mut String, findings: &Findings) {
    let count = |of| {
        findings.sites.iter().filter(|s| s.judgement == of).count()
            + findings.goroutines.iter().filter(|g| g.judgement == of).count()
    };
    let (steady, few) = (count(Judgement::Steady) as u64, count(Judgement::TooFew) as u64);
    let _ = writeln!(out, "\nsteady: {}", plural(steady, "site", "sites"));
    if few > 0 {
        let n = plural(few, "site", "sites");
        let _ = writeln!(out, "too few GC cycles to tell: {n}");
    }
}

fn sources(out: &mut String, document: &Document) {
    let (profile, followed) = (&document.sources.profile, &document.sources.followed);
    if let Some(rate) = profile.bytes_per_sample {
        let _ = writeln!(
            out,
            "source: the runtime's own memory profile, 1 sample per {} bytes, {}",
            count(rate),
            plural(profile.gc_cycles, "reading", "readings")
        );
    }
    if followed.objects > 0 {
        let missed = match followed.gc_cycles_missed {
            0 => String::new(),
            n => format!(", {} missed", plural(n, "GC cycle was", "GC cycles were")),
        };
        let lost = match followed.lost {
            0 => String::new(),
            n => format!(", {} lost", plural(n, "event was", "events were")),
        };
        let _ = writeln!(
            out,
            "source: {} followed, probes attached {:.0}% of the time for {:.2}% of its CPU time ({}){missed}{lost}",
            plural(followed.objects, "sampled object", "sampled objects"),
            followed.observed_share * 100.0,
            followed.cost_share * 100.0,
            budget_in_words(followed.budget, followed.budget_least_cpus)
        );
    }
    for line in &document.unavailable {
        let _ = writeln!(out, "not available: {line}.");
    }
}

fn verdict(out: &mut String, document: &Document) {
    let counted = &document.counted;
    let least = if counted.fail_on == "none" {
        String::new()
    } else {
        format!(
            ", of at least {}/min or {} goroutines/min",
            bytes(counted.min_bytes_per_min.max(0.0) as u64),
            counted.min_goroutines_per_min
        )
    };
    let _ = writeln!(
        out,
        "counted (--fail-on {}{least}): {}",
        counted.fail_on,
        plural(counted.findings, "finding", "findings")
    );
}
