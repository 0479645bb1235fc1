//! A run that followed allocations as text. Must not know how it was observed.

use std::fmt::Write as _;

use super::schema::{Document, GcInfo, SettingInfo, SiteInfo};
use crate::elf::symbols::short_name;
use crate::report::format::{bytes, clean, count, duration, plural, sum};

/// Sites whose interval reaches farther than this part of the estimate to one side are marked.
const VAGUE: f64 = 0.25;
/// Plans told at most.
const PLANS: usize = 6;

/// The text, with the `top` sites.
pub fn text(d: &Document, top: usize) -> String {
    let mut out = String::new();
    head(&mut out, d);
    sites(&mut out, d, top);
    foot(&mut out, d);
    out
}

fn head(out: &mut String, d: &Document) {
    let t = &d.target;
    let _ = write!(out, "process {} ({}), {}", t.pid, clean(&t.comm), clean(&t.go_version));
    if let Some(module) = &t.module {
        let _ = write!(out, ", {}", clean(module));
    }
    let window = d.run.window_ns.max(1);
    let per_s = |n: u64| (n as f64 / (window as f64 / 1e9)) as u64;
    let _ = writeln!(
        out,
        "\n{} allocated in {} ({}/s), {} ({}/s){}",
        bytes(d.total.bytes),
        duration(window),
        bytes(per_s(d.total.bytes)),
        plural(d.total.objects, "object", "objects"),
        count(per_s(d.total.objects)),
        match (d.total.counted, d.run.exact) {
            (_, true) => ", counted one by one, bytes as asked for",
            (true, _) => ", by the runtime's own count",
            (false, _) => ", extrapolated from samples",
        },
    );
    if let (Some(every), Some(cycles)) = (d.total.gc_every_ns, d.total.gc_cycles) {
        let _ = write!(
            out,
            "GC every {} ({})",
            duration(every),
            plural(cycles.into(), "cycle", "cycles")
        );
        match d.sites.first() {
            Some(s) => {
                let _ = writeln!(
                    out,
                    "; {:.0} % of the bytes from {}",
                    s.share * 100.0,
                    clean(&short_name(&s.function))
                );
            }
            None => out.push('\n'),
        }
    } else if d.total.gc_cycles == Some(0) {
        let _ = writeln!(out, "no GC in this time");
    }
    if let Some(gc) = &d.gc {
        gc_text(out, d, gc);
    }
    if !d.run.exact && d.run.observed_ns < d.run.window_ns / 100 * 97 {
        let _ = writeln!(
            out,
            "probes were attached for {} of it, in {}: more would have cost more than {} of the process's CPU time",
            duration(d.run.observed_ns),
            plural(d.run.looks.into(), "look", "looks"),
            share(d.cost.budget.unwrap_or(0.0)),
        );
    }
    out.push('\n');
}

/// What cycles cost, who pays, and what decides how many there are.
fn gc_text(out: &mut String, d: &Document, gc: &GcInfo) {
    if let Some(count) = gc.pauses.count.filter(|n| *n > 0) {
        let every =
            gc.pauses.every_ns.map_or_else(String::new, |e| format!(", one every {}", duration(e)));
        let _ = writeln!(
            out,
            "GC pauses: {}{every}, {} altogether",
            plural(count, "pause", "pauses"),
            duration(gc.pauses.total_ns),
        );
    }
    if let Some(a) = gc.assists.as_ref().filter(|a| a.cpu_ns > 0) {
        let _ = write!(
            out,
            "mark assists: {} of CPU time ({:.1} % of the process's)",
            duration(a.cpu_ns),
            a.cpu_share * 100.0,
        );
        let first = d
            .sites
            .iter()
            .max_by(|x, y| x.assist_share.unwrap_or(0.0).total_cmp(&y.assist_share.unwrap_or(0.0)));
        if let Some((site, part)) = first.and_then(|s| Some((s, s.assist_share?))) {
            let _ = write!(
                out,
                "; {:.0} % for bytes from {} ({})",
                part * 100.0,
                clean(&short_name(&site.function)),
                if a.by_marking {
                    "by what was allocated while the collector marked"
                } else {
                    "by all bytes: too few samples fell into marking"
                }
            );
        }
        out.push('\n');
    }
    let Some(goal) = &gc.goal else { return };
    let by = match goal.decided_by.as_str() {
        "program" => "the program calls runtime.GC".to_owned(),
        "memory_limit" => format!("GOMEMLIMIT={} decides", limit(goal.memory_limit_bytes)),
        "minimum" => format!("the least heap of GOGC={}", goal.gogc.unwrap_or(0)),
        _ => format!("GOGC={}", goal.gogc.unwrap_or(0)),
    };
    let _ = write!(
        out,
        "heap goal {} with {} alive: {by}",
        bytes(goal.goal_bytes),
        bytes(goal.live_bytes)
    );
    let setting = |s: &SettingInfo| {
        let gogc = s.gogc.map(|n| format!("GOGC={n}"));
        let limit = s.memory_limit_bytes.map(|n| format!("GOGC=off GOMEMLIMIT={}", limit(Some(n))));
        gogc.into_iter().chain(limit).collect::<Vec<_>>().join(" or ")
    };
    let (same, half) = (setting(&goal.same), setting(&goal.half));
    if goal.decided_by != "program" && !half.is_empty() {
        let _ = write!(
            out,
            "; the same from {same}; half as many cycles from {half} (a goal of {})",
            bytes(goal.half.goal_bytes)
        );
    }
    out.push('\n');
}

/// A memory limit as Go reads it.
fn limit(bytes: Option<u64>) -> String {
    format!("{}MiB", bytes.unwrap_or(0).div_ceil(1 << 20))
}

fn sites(out: &mut String, d: &Document, top: usize) {
    if d.sites.is_empty() {
        let _ = writeln!(out, "no sample: nothing can be said of who allocates");
        return;
    }
    let exact = d.run.exact;
    if exact {
        let _ = writeln!(out, "{:>10}  {:>6}  {:>12}  ALLOCATED BY", "BYTES", "SHARE", "OBJECTS");
    } else {
        let _ = writeln!(
            out,
            "{:>10}  {:>21}  {:>6}  {:>12}  {:>8}  ALLOCATED BY",
            "BYTES", "95 % INTERVAL", "SHARE", "OBJECTS", "SAMPLES"
        );
    }
    for s in d.sites.iter().take(top) {
        let share = s.share * 100.0;
        let _ = if exact {
            writeln!(
                out,
                "{:>10}  {share:>4.1} %  {:>12}  {}",
                bytes(s.bytes),
                count(s.objects),
                place(s)
            )
        } else {
            let interval = format!("{} … {}", bytes(s.bytes_low), bytes(s.bytes_high));
            writeln!(
                out,
                "{:>10}  {interval:>21}  {share:>4.1} %  {:>12}  {:>8}  {}{}",
                bytes(s.bytes),
                count(s.objects),
                count(s.samples),
                place(s),
                if is_vague(s) { "  (few samples)" } else { "" },
            )
        };
    }
    let rest = d.sites.get(top..).unwrap_or_default();
    if !rest.is_empty() {
        let sum = sum(rest.iter().map(|s| s.bytes));
        let _ = writeln!(
            out,
            "{:>10}  in {} (--top N shows more, --json all)",
            bytes(sum),
            plural(rest.len() as u64, "further call site", "further call sites")
        );
    }
    let u = &d.unattributed;
    let unattributed = u.unsampled_bytes.saturating_add(u.unknown_stack_bytes);
    if unattributed > 0 {
        let _ = writeln!(
            out,
            "{:>10}  unattributed ({:.1} %): {} in sizes of which no object was sampled, {} by unknown stacks",
            bytes(unattributed),
            u.share * 100.0,
            bytes(u.unsampled_bytes),
            bytes(u.unknown_stack_bytes),
        );
    }
}

fn is_vague(s: &SiteInfo) -> bool {
    let off = s.bytes.saturating_sub(s.bytes_low).max(s.bytes_high.saturating_sub(s.bytes));
    off as f64 > VAGUE * s.bytes as f64
}

fn place(s: &SiteInfo) -> String {
    let function = clean(&short_name(&s.function));
    match (&s.file, s.line) {
        (Some(file), Some(line)) => format!("{function}  {}:{line}", clean(file)),
        _ => function,
    }
}

/// What a budget allows. `least_cpus`: as so much of a CPU a process counts at least.
pub(crate) fn budget_in_words(budget: f64, least_cpus: f64) -> String {
    format!("budget {}, and {} of a CPU in any case", share(budget), share(budget * least_cpus))
}

fn foot(out: &mut String, d: &Document) {
    let c = &d.cost;
    out.push('\n');
    let _ = write!(
        out,
        "cost: {} at {} each (measured here) took {} of the process's {} of CPU time, {}",
        plural(c.hits, "hit", "hits"),
        duration(c.hit_ns),
        duration(c.spent_ns),
        duration(c.target_cpu_ns),
        share(c.share),
    );
    if let (Some(ns), Some(part)) = (c.charged_ns, c.charged_share) {
        let _ = write!(
            out,
            "; with the coming and going of the probes and g211s' own work on hits {}, {}",
            duration(ns),
            share(part)
        );
    }
    let _ = match c.budget {
        Some(budget) => writeln!(out, " ({})", budget_in_words(budget, c.budget_least_cpus)),
        None => writeln!(out),
    };
    let plans = &d.run.plans;
    if !d.run.exact && !plans.is_empty() {
        let _ = write!(out, "plan:");
        for (i, p) in plans.iter().take(PLANS).enumerate() {
            let _ = write!(
                out,
                "{} {} from {} on ({})",
                if i > 0 { ";" } else { "" },
                clean(&p.plan),
                duration(p.from_ns),
                clean(&p.why)
            );
        }
        let _ = match plans.len().saturating_sub(PLANS) {
            0 => writeln!(out),
            more => {
                writeln!(out, "; … and {} more (--json)", plural(more as u64, "change", "changes"))
            }
        };
    }
    let e = &d.events;
    let _ = writeln!(
        out,
        "events: {} produced, {} received, {} lost{}",
        count(e.produced),
        count(e.received),
        count(e.lost),
        if e.lost > 0 { ": the shares rest on those that arrived" } else { "" },
    );
    for n in &d.notices {
        let _ = writeln!(out, "note: {}", clean(n));
    }
    if d.run.ended.is_none() {
        let _ = writeln!(out, "the recording was cut off: this is what it holds");
    }
}

/// A share of CPU time.
fn share(part: f64) -> String {
    format!("{:.2} %", part * 100.0)
}
