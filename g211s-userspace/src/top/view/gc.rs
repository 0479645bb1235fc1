//! The collector and the heap: the runtime's own figures, and stops as they were seen. Must not know other panels.

use std::fmt::Write as _;

use super::super::model::Model;
use super::super::model::history::Second;
use super::super::model::service::Service;
use super::super::ui::Ui;
use super::canvas::{Canvas, Tone, wrap};
use super::words::{percent, rate, size};
use super::{empty, time};
use crate::report::format::{bytes, count, duration, plural};

/// Draws it; it is not scrolled.
pub(super) fn draw(canvas: &mut Canvas<'_>, model: &Model, service: &Service, ui: &Ui) -> usize {
    let columns = time::columns(canvas.area.width);
    let seconds = time::folded(model, service, ui, columns);
    let mut all = Second::default();
    for s in &seconds {
        all.add(s);
    }
    let f = all.figures;
    let mut y = 0;
    if f.heap_live.is_some() {
        y = heap(canvas, &seconds);
    } else {
        let why = match service.why_unread("heap") {
            Some(why) => format!("The heap cannot be read from this process: {why}."),
            None => "No reading of the heap is in these seconds (one a second).".to_owned(),
        };
        let lines = wrap(&why, usize::from(canvas.area.width.saturating_sub(2))).len();
        empty(canvas, y, &why);
        y += lines as u16;
    }
    let room = canvas.area.width;
    for text in facts(service, &all, &seconds) {
        if y >= canvas.area.height {
            break;
        }
        for line in wrap(&text, usize::from(room)) {
            canvas.text(0, y, &line, Tone::Plain);
            y += 1;
        }
    }
    0
}

/// Live heap and its goal over time; rows that took.
fn heap(canvas: &mut Canvas<'_>, seconds: &[Second]) -> u16 {
    let live = |s: &Second| s.figures.heap_live;
    let goal = |s: &Second| s.figures.heap_goal;
    let most = seconds.iter().filter_map(|s| live(s).max(goal(s))).max().unwrap_or(0);
    let mut row = |y: u16, name: &str, of: &dyn Fn(&Second) -> Option<u64>, tone| {
        canvas.text(0, y, name, Tone::Plain);
        for (s, x) in seconds.iter().zip(time::LEFT..) {
            if let Some(n) = of(s) {
                let bar = canvas.look.bar(n as f64, most as f64);
                canvas.text(x, y, bar, tone);
            }
        }
        let last = seconds.iter().rev().find_map(of);
        let end = canvas.area.width;
        if end >= 60 && last.is_some() {
            canvas.text_before(end, y, &size(last), Tone::Dim);
        }
    };
    row(0, "heap live", &live, Tone::Good);
    if seconds.iter().any(|s| goal(s).is_some()) {
        row(1, "heap goal", &goal, Tone::Gc);
        return 2;
    }
    1
}

fn facts(service: &Service, all: &Second, seconds: &[Second]) -> Vec<String> {
    let f = all.figures;
    let mut lines = Vec::new();
    let watched_s = u64::from(all.watched_ms) / 1000;
    let cycles = plural(all.gcs, "GC cycle", "GC cycles");
    let mut line =
        format!("In these {watched_s} s: {cycles} ({}/s)", rate(all.per_second(all.gcs)));
    let first = seconds.iter().find_map(|s| s.figures.forced);
    if let (Some(now), Some(then)) = (f.forced, first)
        && now > then
    {
        let _ = write!(line, ", {} of them forced by runtime.GC", count(u64::from(now - then)));
    }
    let first = seconds.iter().find_map(|s| s.figures.assist_cpu_ns);
    if let (Some(now), Some(then)) = (f.assist_cpu_ns, first) {
        let assists = now.saturating_sub(then);
        let _ = write!(line, "; mark assists took {} of CPU time", duration(assists));
    }
    lines.push(line + ".");
    if let Some(why) = service.why_missing("stw") {
        lines.push(format!("Stops of the world are not seen: {why}."));
    } else {
        lines.push(format!(
            "{} took {} in all ({} of the time), the longest {}.",
            plural(all.stops, "stop of the world", "stops of the world"),
            duration(all.stopped_ns),
            percent(all.per_second(all.stopped_ns) / 1e9),
            duration(all.longest_stop_ns),
        ));
    }
    let mut settings = Vec::new();
    if let Some(percent) = f.gc_percent {
        settings.push(if percent < 0 { "GOGC off".to_owned() } else { format!("GOGC {percent}") });
    }
    if let Some(limit) = f.memory_limit {
        let none = limit == i64::MAX;
        let limit = u64::try_from(limit).unwrap_or(0);
        settings.push(if none {
            "no GOMEMLIMIT".into()
        } else {
            format!("GOMEMLIMIT {}", bytes(limit))
        });
    }
    settings.extend(f.gomaxprocs.map(|n| format!("GOMAXPROCS {n}")));
    match (f.goroutines, service.why_unread("goroutines")) {
        (Some(n), _) => settings.push(plural(n, "goroutine", "goroutines")),
        (None, Some(why)) => settings.push(format!("goroutines are not counted ({why})")),
        (None, None) => {}
    }
    if !settings.is_empty() {
        lines.push(settings.join(", ") + ".");
    }
    if all.throttled_ns > 0 {
        lines.push(format!("A CPU quota kept it off the CPUs for {}.", duration(all.throttled_ns)));
    }
    lines
}
