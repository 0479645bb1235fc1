//! A heap as text. Must not know how it was read.

use std::fmt::Write as _;

use super::estimate::Estimate;
use super::schema::{Document, FollowedInfo, SiteInfo};
use crate::allocs::text::budget_in_words;
use crate::profile::table::{Look, print};
use crate::report::format::{bytes, clean, count, plural};

/// The text: the `top` sites.
pub fn text(document: &Document, top: usize, look: Look) -> String {
    let mut out = String::new();
    head(&mut out, document);
    table(&mut out, document, top, look);
    foot(&mut out, document);
    out
}

fn head(out: &mut String, document: &Document) {
    let (target, total) = (&document.target, &document.total);
    let _ = write!(out, "process {} ({}), {}", target.pid, clean(&target.comm), target.go_version);
    if let Some(module) = &target.module {
        let _ = write!(out, ", {}", clean(module));
    }
    let _ = writeln!(
        out,
        "\nin use: {} in {} (95 %: {}, from {}){}",
        bytes(total.inuse_bytes.value),
        plural(total.inuse_objects.value, "object", "objects"),
        range(total.inuse_bytes),
        plural(total.inuse_samples, "sample", "samples"),
        document.live_heap.map_or_else(String::new, |live| {
            format!("; marked by the last collection: {}", bytes(live.marked_bytes))
        })
    );
    let _ = writeln!(
        out,
        "allocated since {}: {} in {} (95 %: {})",
        if document.followed.is_some() { "g211s began" } else { "the start" },
        bytes(total.alloc_bytes.value),
        plural(total.alloc_objects.value, "object", "objects"),
        range(total.alloc_bytes),
    );
    let source = &document.source;
    if let Some(followed) = &document.followed {
        head_of_followed(out, document, followed);
        return;
    }
    let _ = writeln!(
        out,
        "source: the runtime's own memory profile, 1 sample per {} bytes, {}\n",
        count(source.bytes_per_sample),
        source.as_of
    );
}

fn head_of_followed(out: &mut String, document: &Document, followed: &FollowedInfo) {
    let cycles = followed
        .gc_cycles
        .map_or_else(String::new, |n| format!(", through {}", plural(n, "GC cycle", "GC cycles")));
    let _ = writeln!(
        out,
        "source: {} of {} followed{cycles}; {}",
        count(followed.samples_followed),
        plural(followed.samples, "sampled object", "sampled objects"),
        document.source.as_of
    );
    let _ = writeln!(
        out,
        "cost: the probes took {:.2}% of the process's CPU time ({})",
        followed.cost_share * 100.0,
        budget_in_words(followed.budget, followed.budget_least_cpus)
    );
    if followed.gc_cycles_missed > 0 || followed.doubtful_bytes > 0 {
        let _ = writeln!(
            out,
            "doubtful: {} of what is in use may be other objects by now ({} missed)",
            bytes(followed.doubtful_bytes),
            plural(followed.gc_cycles_missed, "GC cycle was", "GC cycles were")
        );
    }
    let _ = writeln!(
        out,
        "not told: {} made since that cycle, {} not swept or read, {} of sizes of which nothing was followed; {:.1}% of \
         the sampled bytes could not be followed, and others of their size stand for them",
        bytes(followed.young_bytes),
        bytes(followed.untold_bytes),
        bytes(followed.unsampled_bytes),
        followed.not_followed_share * 100.0
    );
    let ages: Vec<String> = followed
        .ages
        .iter()
        .map(|age| {
            let span = match age.cycles_to {
                Some(to) if to == age.cycles_from => to.to_string(),
                Some(to) => format!("{}–{to}", age.cycles_from),
                None => format!("{}+", age.cycles_from),
            };
            format!("{span}: {}", bytes(age.inuse_bytes))
        })
        .collect();
    if !ages.is_empty() {
        let _ = writeln!(out, "in use by GC cycles lived through: {}", ages.join(", "));
    }
    if followed.lost > 0 {
        let _ = writeln!(out, "{} lost", plural(followed.lost, "event was", "events were"));
    }
    out.push('\n');
}

/// `58…70 MiB`; one end only where both read the same.
pub(super) fn range(estimate: Estimate) -> String {
    let (low, high) = (bytes(estimate.low), bytes(estimate.high));
    match (low.split_once(' '), high.split_once(' ')) {
        _ if low == high => low,
        (Some((number, unit)), Some((_, same))) if unit == same => format!("{number}…{high}"),
        _ => format!("{low}…{high}"),
    }
}

/// A site's place, harmless on a terminal.
pub(super) fn place(site: &SiteInfo) -> String {
    let position = match (&site.file, site.line) {
        (Some(file), Some(line)) => format!("  {}:{line}", clean(file)),
        (Some(file), None) => format!("  {}", clean(file)),
        (None, _) => String::new(),
    };
    format!("{}{position}", clean(&site.function))
}

/// Of what type most of it is, where that is known.
fn kind(site: &SiteInfo) -> String {
    let most = site.types.first().filter(|t| t.share >= 0.5);
    most.map_or_else(String::new, |t| format!("  [{}]", clean(&t.name)))
}

fn table(out: &mut String, document: &Document, top: usize, look: Look) {
    // A line that only calls others that allocate is no site of its own.
    let own: Vec<&SiteInfo> =
        document.sites.iter().filter(|s| s.figures.alloc_samples > 0).collect();
    let total = document.total.inuse_bytes.value.max(1) as f64;
    let rows: Vec<Vec<String>> = own
        .iter()
        .take(top)
        .map(|site| {
            let f = &site.figures;
            vec![
                bytes(f.inuse_bytes.value),
                format!("{:.1}%", f.inuse_bytes.value as f64 / total * 100.0),
                range(f.inuse_bytes),
                count(f.inuse_samples),
                count(f.inuse_objects.value),
                bytes(f.alloc_bytes.value),
                place(site) + &kind(site),
            ]
        })
        .collect();
    let header = ["IN USE", "SHARE", "95 %", "SAMPLES", "OBJECTS", "ALLOCATED", "SITE"];
    out.push_str(&print(&header, &rows, 1, look));
    let rest = own.get(top..).unwrap_or_default();
    if !rest.is_empty() {
        let sum = rest.iter().fold(0_u64, |sum, s| sum.saturating_add(s.figures.inuse_bytes.value));
        let _ = writeln!(
            out,
            "{} in {} (--top N shows more, --json all)",
            bytes(sum),
            plural(rest.len() as u64, "further site", "further sites")
        );
    }
}

fn foot(out: &mut String, document: &Document) {
    let reads = &document.reads;
    if reads.torn > 0 {
        let _ = writeln!(
            out,
            "\n{} of {} changed with every look: their figures are not of one moment.",
            count(reads.torn),
            plural(reads.buckets, "bucket", "buckets")
        );
    }
    for line in &document.unavailable {
        let _ = writeln!(out, "not available: {}.", clean(line));
    }
}
