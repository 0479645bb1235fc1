//! A census as text. Must not know how it was taken.

use std::fmt::Write as _;

use super::schema::{Document, GroupInfo, Growth, Place, SiteInfo, StackInfo};
use crate::elf::symbols::short_name;
use crate::report::format::{clean, count, duration, plural, short};

/// Widest state that is printed in its column.
const STATE_WIDTH: usize = 26;
/// Stacks printed of a group, and frames of a stack.
const STACKS: usize = 3;
const FRAMES: usize = 24;

/// The text: the `top` groups (and sites, of several censuses).
pub fn text(document: &Document, top: usize) -> String {
    let mut out = String::new();
    head(&mut out, document);
    table(&mut out, document, top);
    if !document.growth.is_empty() {
        growth(&mut out, document, top);
    }
    foot(&mut out, document);
    out
}

fn head(out: &mut String, document: &Document) {
    let target = &document.target;
    let _ = write!(out, "process {} ({}), {}", target.pid, clean(&target.comm), target.go_version);
    if let Some(module) = &target.module {
        let _ = write!(out, ", {}", clean(module));
    }
    let Some(last) = document.samples.last() else { return };
    let _ = writeln!(
        out,
        "\n{}, and {} of the runtime; read in {} without stopping it\n",
        plural(last.goroutines, "goroutine", "goroutines"),
        count(last.system),
        duration(last.took_ns),
    );
}

fn table(out: &mut String, document: &Document, top: usize) {
    let groups: Vec<&GroupInfo> = document.groups.iter().take(top).collect();
    let width =
        groups.iter().map(|g| g.state.chars().count()).max().unwrap_or(0).clamp(5, STATE_WIDTH);
    let _ = writeln!(out, "{:>10}  {:width$}  {:>14}  CREATED BY", "COUNT", "STATE", "WAITING");
    for group in &groups {
        let waiting = group.waiting.map_or_else(
            || "–".to_owned(),
            |w| {
                let (from, to) = (duration(w.median_ns), duration(w.longest_ns));
                if from == to { from } else { format!("{from}…{to}") }
            },
        );
        let _ = writeln!(
            out,
            "{:>10}  {:width$}  {waiting:>14}  {}{}",
            count(group.count),
            short(&clean(&group.state), STATE_WIDTH),
            place_of(&group.site),
            if group.system { "  (of the runtime)" } else { "" },
        );
        for stack in group.stacks.iter().flatten().take(STACKS) {
            print_stack(out, stack);
        }
        let listed = group.stacks.as_ref().map_or(0, Vec::len);
        if listed > STACKS {
            let _ = writeln!(out, "{:14}… and {} other stacks", "", listed - STACKS);
        }
    }
    let rest = &document.groups[groups.len()..];
    if !rest.is_empty() {
        let sum = rest.iter().map(|g| g.count).sum();
        let _ = writeln!(
            out,
            "{:>10}  in {} (--top N shows more, --json all)",
            count(sum),
            plural(rest.len() as u64, "further group", "further groups")
        );
    }
}

fn print_stack(out: &mut String, stack: &StackInfo) {
    let _ = writeln!(out, "{:14}{} here:", "", count(stack.count));
    for frame in stack.frames.iter().take(FRAMES) {
        let _ = writeln!(
            out,
            "{:16}{}  {}{}",
            "",
            clean(&short_name(&frame.place.function)),
            position(&frame.place),
            if frame.inlined { "  (inlined)" } else { "" }
        );
    }
    if stack.frames.len() > FRAMES {
        let _ = writeln!(out, "{:16}… {} more", "", stack.frames.len() - FRAMES);
    }
    if stack.cut {
        let _ = writeln!(out, "{:16}(not followed further)", "");
    }
}

fn growth(out: &mut String, document: &Document, top: usize) {
    let samples = &document.samples;
    let (Some(first), Some(last)) = (samples.first(), samples.last()) else { return };
    let changed: Vec<&Growth> = document.growth.iter().filter(|g| g.grown != 0).collect();
    let _ = writeln!(
        out,
        "\nover {} and {}: {}",
        plural(samples.len() as u64, "census", "censuses"),
        duration(last.at_ns.saturating_sub(first.at_ns)),
        if changed.is_empty() { "no site has more or fewer than before" } else { "" }
    );
    for site in changed.iter().take(top) {
        let ends = (site.counts.first().copied(), site.counts.last().copied());
        let (Some(from), Some(to)) = ends else { continue };
        let _ = writeln!(
            out,
            "{:>+10}  {} → {}, {:+.1}/s  {}{}",
            site.grown,
            count(from),
            count(to),
            site.per_second,
            place_of(&site.site),
            if site.candidate { "  ← never fewer: a leak?" } else { "" }
        );
    }
}

fn foot(out: &mut String, document: &Document) {
    let reads = document.reads;
    let _ = writeln!(
        out,
        "\nWAITING is a lower bound (half at least … longest): the runtime notes it when its \
         collector finds a goroutine waiting, so it is short by up to a GC cycle."
    );
    let facts = [
        (reads.restless, "changed state with every look; counted as `changing`"),
        (reads.torn, "were another goroutine with every look; not counted"),
        (reads.implausible, "entries of the runtime's list are no goroutines; not counted"),
        (reads.unreadable, "entries of the runtime's list could not be read; not counted"),
    ];
    for (n, what) in facts.iter().filter(|(n, _)| *n > 0) {
        let _ = writeln!(out, "{} {what}.", count(*n));
    }
    for line in &document.unavailable {
        let _ = writeln!(out, "not available: {}.", clean(line));
    }
}

/// A creation site in one line.
pub fn place_of(site: &SiteInfo) -> String {
    match (&site.site, site.created_by) {
        (Some(place), _) => {
            let into = site.inlined_into.as_ref().map(|f| {
                let f = clean(&short_name(f));
                format!(" (inlined into {f})")
            });
            let function = clean(&short_name(&place.function));
            format!("{function}  {}{}", position(place), into.unwrap_or_default())
        }
        (None, "start") => "the program's start".to_owned(),
        (None, "c") => "a thread of C code".to_owned(),
        (None, _) => "unknown".to_owned(),
    }
}

fn position(place: &Place) -> String {
    match (&place.file, place.line) {
        (Some(file), Some(line)) => format!("{}:{line}", clean(file)),
        (Some(file), None) => clean(file),
        (None, _) => "?".to_owned(),
    }
}
