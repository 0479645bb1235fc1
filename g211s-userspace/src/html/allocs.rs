//! A run that followed allocations, for the page: its document and its flame graphs. Must not know how they are drawn.

use std::collections::HashMap;

use serde::Serialize;

use crate::allocs::model::Model;
use crate::allocs::output::profile;
use crate::allocs::schema::Document;
use crate::elf::symbols::short_name;
use crate::profile::flame::tree;
use crate::report::format::{bytes, clean, duration, percent, plural};

/// Call sites in the table.
pub(super) const SITES: usize = 300;
/// Frames of a flame graph; of more, the widest.
const FRAMES: usize = 6_000;
/// Narrower frames are not drawn: this part of the whole.
const NARROWEST: i64 = 4_000;

/// A flame graph: its frames, each before what stands on it.
#[derive(Clone, Debug, Default, Serialize)]
pub(super) struct Flame {
    /// What a value is.
    name: String,
    /// Its unit: `bytes` or `count`.
    unit: String,
    names: Vec<String>,
    /// Index into `names`.
    frame: Vec<usize>,
    depth: Vec<usize>,
    /// Where it lies, and how much it is.
    from: Vec<i64>,
    value: Vec<i64>,
    /// Frames that are not here, the narrowest.
    left_out: usize,
}

/// The section.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Section {
    /// The report, with the first sites.
    document: Document,
    /// Sites in all.
    sites: usize,
    /// In sentences.
    lead: Vec<String>,
    /// What it cannot show.
    limits: Vec<String>,
    flames: Vec<Flame>,
}

/// The section of a run.
pub(super) fn section(model: &Model, mut document: Document) -> Section {
    let p = profile(model, &document);
    let flames = (0..p.sample_types.len()).rev().map(|index| {
        let mut flame = Flame {
            name: p.sample_types[index].name.clone(),
            unit: p.sample_types[index].unit.clone(),
            ..Flame::default()
        };
        flame.fill(&tree(&p, index));
        flame
    });
    let flames: Vec<Flame> = flames.collect();
    let (lead, limits) = (lead(&document), limits(&document, &flames));
    let sites = document.sites.len();
    document.sites.truncate(SITES);
    for s in &mut document.sites {
        s.function = clean(&short_name(&s.function));
        s.file = s.file.as_deref().map(clean);
    }
    let clean_all = |list: &mut Vec<String>| list.iter_mut().for_each(|s| *s = clean(s));
    clean_all(&mut document.notices);
    for p in &mut document.run.plans {
        p.plan = clean(&p.plan);
        p.why = clean(&p.why);
    }
    document.target.comm = clean(&document.target.comm);
    document.target.go_version = clean(&document.target.go_version);
    document.target.module = document.target.module.as_deref().map(clean);
    Section { document, sites, lead, limits, flames }
}

impl Flame {
    fn fill(&mut self, nodes: &[crate::profile::flame::Node]) {
        let total = nodes.first().map_or(0, |n| n.value);
        let mut values: Vec<i64> = nodes.iter().map(|n| n.value).collect();
        let mut bar = (total / NARROWEST).max(1);
        if values.len() > FRAMES {
            let (_, at, _) = values.select_nth_unstable_by(FRAMES, |a, b| b.cmp(a));
            bar = bar.max(at.saturating_add(1));
        }
        let mut known: HashMap<&str, usize> = HashMap::new();
        // What stands on a frame is no wider than it, so what stays stands on what stays.
        for node in nodes.iter().filter(|n| n.value >= bar || n.depth == 0) {
            let index = *known.entry(&node.name).or_insert_with(|| {
                self.names.push(node.name.clone());
                self.names.len() - 1
            });
            self.frame.push(index);
            self.depth.push(node.depth);
            self.from.push(node.from);
            self.value.push(node.value);
        }
        self.left_out = nodes.len() - self.frame.len();
    }
}

fn lead(d: &Document) -> Vec<String> {
    let how = match (d.total.counted, d.run.exact) {
        (_, true) => "counted one by one",
        (true, _) => "by the runtime's own count",
        (false, _) => "extrapolated from samples",
    };
    let mut out = vec![format!(
        "{} in {} were allocated in {} ({how}).",
        bytes(d.total.bytes),
        plural(d.total.objects, "object", "objects"),
        duration(d.run.window_ns)
    )];
    if let Some(s) = d.sites.first() {
        out.push(format!(
            "Most come from {}: {:.1} %.",
            clean(&short_name(&s.function)),
            s.share * 100.0
        ));
    }
    if let (Some(every), Some(cycles)) = (d.total.gc_every_ns, d.total.gc_cycles) {
        out.push(format!(
            "The collector ran every {} ({}).",
            duration(every),
            plural(cycles.into(), "cycle", "cycles")
        ));
    }
    out
}

fn limits(d: &Document, flames: &[Flame]) -> Vec<String> {
    let mut out = Vec::new();
    if d.sites.is_empty() {
        out.push("No allocation was sampled: nothing can be said of who allocates.".to_owned());
    } else if !d.run.exact {
        out.push(
            "Figures are estimates from samples; intervals hold the true value 95 times in 100."
                .to_owned(),
        );
    }
    let unattributed =
        d.unattributed.unsampled_bytes.saturating_add(d.unattributed.unknown_stack_bytes);
    if unattributed > 0 {
        out.push(format!(
            "{} ({}) have no call site: {} in sizes of which no object was sampled, {} by unknown stacks.",
            bytes(unattributed),
            percent(unattributed, d.total.bytes),
            bytes(d.unattributed.unsampled_bytes),
            bytes(d.unattributed.unknown_stack_bytes)
        ));
    }
    if d.events.lost > 0 {
        out.push(format!(
            "{} were lost; shares rest on those that arrived.",
            plural(d.events.lost, "event", "events")
        ));
    }
    if d.run.ended.is_none() {
        out.push("The recording was cut off: this is what it holds.".to_owned());
    }
    if let Some(n) = flames.iter().map(|f| f.left_out).max().filter(|n| *n > 0) {
        let frames = plural(n as u64, "frame", "frames");
        out.push(format!("{frames} of the flame graph are too narrow to be drawn, and left out."));
    }
    out.extend(
        d.unavailable.iter().map(|u| clean(&format!("{}: {}. {}", u.feature, u.why, u.costs))),
    );
    out
}
