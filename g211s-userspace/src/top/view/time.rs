//! What goes over time: waits for a CPU as a sparkline and as a heat map, stops of the world, collections. Must not know
//! other panels.

use std::fmt::Write as _;

use super::super::model::Model;
use super::super::model::history::Second;
use super::super::model::rows::{BOUNDS, ROWS};
use super::super::model::service::Service;
use super::super::ui::Ui;
use super::canvas::{Canvas, Tone};
use super::services::tone_of;
use super::words::{clock_of_second, many, percent};
use crate::report::format::{count, duration};

/// Rows without a heat map: heading, waits, stops, collections.
pub(super) const SMALL: u16 = 4;
/// With one of a row for each order of magnitude.
pub(super) const MEDIUM: u16 = SMALL + 7;
/// With one of all rows.
pub(super) const LARGE: u16 = SMALL + ROWS as u16;

/// Columns left of the time axis.
pub(super) const LEFT: u16 = 11;
/// Columns right of it.
const RIGHT: u16 = 11;

/// Columns of the time axis on a screen so wide.
pub(super) fn columns(width: u16) -> u16 {
    width.saturating_sub(LEFT + if width >= 60 { RIGHT } else { 0 }).max(1)
}

/// The seconds of each column as one, the newest last.
pub(super) fn folded(model: &Model, service: &Service, ui: &Ui, columns: u16) -> Vec<Second> {
    let (span, end) = (ui.span(), ui.end_of(model));
    let back = |n: u64| end.saturating_sub(n * span);
    let column = |n: u64| {
        // Before the run there is nothing.
        if end < n * span {
            return Second::default();
        }
        service.history.sum(back(n), back(n - 1))
    };
    (1..=u64::from(columns)).rev().map(column).collect()
}

/// Draws it.
pub(super) fn draw(canvas: &mut Canvas<'_>, model: &Model, service: &Service, ui: &Ui) {
    let columns = columns(canvas.area.width);
    let seconds = folded(model, service, ui, columns);
    canvas.rule(0, &title(model, service, ui, columns));
    let heat = canvas.area.height.saturating_sub(SMALL);
    let mut y = 1;
    waited(canvas, y, &seconds);
    y += 1;
    if heat > 0 {
        let all = usize::from(heat) >= ROWS;
        heat_map(canvas, y, &seconds, all, |s| (s.has_rows, &s.rows));
        y += heat;
    }
    stops(canvas, y, service, &seconds);
    collections(canvas, y + 1, &seconds);
}

fn title(model: &Model, service: &Service, ui: &Ui, columns: u16) -> String {
    let (span, end) = (ui.span(), ui.end_of(model));
    let begin = end.saturating_sub(u64::from(columns) * span);
    let restarts = match service.restarts {
        0 => String::new(),
        1 => ", restarted once".to_owned(),
        n => format!(", restarted {n} times"),
    };
    let mut title = format!(
        "{} {}{restarts}: {}–{}, {span} s a column",
        service.comm,
        service.pid,
        clock_of_second(model, begin),
        clock_of_second(model, end),
    );
    if service.is_by_mean() {
        let ms = model.head.as_ref().map_or(0, |h| h.threshold_ns);
        let _ = write!(title, "; waits below {} at the mean of their millisecond", duration(ms));
    }
    title
}

/// Marks what was not watched; whether it was.
fn watched(canvas: &mut Canvas<'_>, x: u16, y: u16, s: &Second) -> bool {
    if s.watched_ms == 0 {
        canvas.text(x, y, canvas.look.either("╌", "-"), Tone::Dim);
    }
    s.watched_ms > 0
}

fn right(canvas: &mut Canvas<'_>, y: u16, text: &str) {
    let end = canvas.area.width;
    if end >= 60 {
        canvas.text_before(end, y, text, Tone::Dim);
    }
}

/// Time waited for CPUs by all threads together, as a share of the time.
fn waited(canvas: &mut Canvas<'_>, y: u16, seconds: &[Second]) {
    canvas.text(0, y, "waited", Tone::Plain);
    let share = |s: &Second| s.per_second(s.waited_ns) / 1e9;
    let most = seconds.iter().map(share).fold(0.0, f64::max);
    for (s, x) in seconds.iter().zip(LEFT..) {
        if watched(canvas, x, y, s) {
            let bar = canvas.look.bar(share(s), most);
            canvas.text(x, y, bar, Tone::Good);
        }
    }
    right(canvas, y, &format!("max {}", percent(most)));
}

/// Counts by length and time. `all`: a row each; else two in one, by orders of magnitude.
pub(super) fn heat_map(
    canvas: &mut Canvas<'_>,
    top: u16,
    seconds: &[Second],
    all: bool,
    rows_of: impl Fn(&Second) -> (bool, &[u32; ROWS]),
) {
    // From the longest down: (first row, row after the last, label).
    let rows: Vec<(usize, usize, String)> = if all {
        (0..ROWS).rev().map(|r| (r, r + 1, label(r, r + 1))).collect()
    } else {
        let pairs = (0..ROWS - 1).step_by(2).rev().map(|r| (r, r + 2, label(r, r + 2)));
        std::iter::once((ROWS - 1, ROWS, label(ROWS - 1, ROWS))).chain(pairs).collect()
    };
    for ((from, to, label), y) in rows.iter().zip(top..) {
        canvas.text_before(LEFT - 1, y, label, Tone::Dim);
        let tone = match BOUNDS[*from] {
            0..1_000_000 => Tone::Good,
            1_000_000..10_000_000 => Tone::Warn,
            _ => Tone::Bad,
        };
        let mut sum = 0u64;
        for (s, x) in seconds.iter().zip(LEFT..) {
            let (known, counts) = rows_of(s);
            let n = counts[*from..*to].iter().fold(0u32, |sum, n| sum.saturating_add(*n));
            sum += u64::from(n);
            if known || n > 0 {
                canvas.text(x, y, canvas.look.heat(n), tone);
            }
        }
        if sum > 0 {
            right(canvas, y, &many(sum));
        }
    }
}

/// What a row of the heat map holds.
fn label(from: usize, to: usize) -> String {
    let short = |ns: u64| match ns {
        0..1_000_000 => (ns as f64 / 1e3, "µs"),
        1_000_000..1_000_000_000 => (ns as f64 / 1e6, "ms"),
        _ => (ns as f64 / 1e9, "s"),
    };
    let (low, unit) = short(BOUNDS[from]);
    let Some(&bound) = BOUNDS.get(to) else { return format!("≥{low} {unit}") };
    let (mut high, high_unit) = short(bound);
    if from == 0 {
        return format!("<{high} {high_unit}");
    }
    // In the unit of the lower bound, unless that is too long.
    let mut low = low;
    let mut unit = unit;
    if unit != high_unit {
        (low, unit) = (low / 1e3, high_unit);
        high = short(bound).0;
    }
    format!("{low}–{high} {unit}")
}

/// The longest stop of the world in each column, by orders of magnitude.
fn stops(canvas: &mut Canvas<'_>, y: u16, service: &Service, seconds: &[Second]) {
    canvas.text(0, y, "stops", Tone::Plain);
    if let Some(why) = service.why_missing("stw") {
        let room = canvas.area.width.saturating_sub(LEFT);
        canvas.short(LEFT, y, room, &format!("not seen: {why}"), Tone::Warn);
        return;
    }
    let longest = seconds.iter().map(|s| s.longest_stop_ns).max().unwrap_or(0);
    for (s, x) in seconds.iter().zip(LEFT..) {
        if watched(canvas, x, y, s) && s.stops > 0 {
            // 10 µs is the lowest bar, 100 ms the highest.
            let height =
                ((s.longest_stop_ns.max(1) as f64 / 1e4).log10() * 1.75 + 1.0).clamp(1.0, 8.0);
            let bar = canvas.look.bar(height, 8.0);
            let tone = match tone_of(s.longest_stop_ns) {
                Tone::Plain => Tone::Good,
                tone => tone,
            };
            canvas.text(x, y, bar, tone);
        }
    }
    if longest > 0 {
        right(canvas, y, &format!("max {}", duration(longest)));
    } else {
        right(canvas, y, "none");
    }
}

/// Collections that began in each column.
fn collections(canvas: &mut Canvas<'_>, y: u16, seconds: &[Second]) {
    canvas.text(0, y, "GC cycles", Tone::Plain);
    for (s, x) in seconds.iter().zip(LEFT..) {
        if watched(canvas, x, y, s) && s.gcs > 0 {
            let digit = if s.gcs < 10 { s.gcs.to_string() } else { "+".to_owned() };
            canvas.text(x, y, &digit, Tone::Gc);
        }
    }
    let sum: u64 = seconds.iter().map(|s| s.gcs).sum();
    right(canvas, y, &count(sum));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_labelled_shortly() {
        assert_eq!(label(0, 2), "<10 µs");
        assert_eq!(label(2, 4), "10–100 µs");
        assert_eq!(label(4, 6), "0.1–1 ms");
        assert_eq!(label(10, 12), "0.1–1 s");
        assert_eq!(label(12, 13), "≥1 s");
        assert_eq!(label(5, 6), "0.3–1 ms");
        assert_eq!(label(1, 2), "3–10 µs");
        assert!(
            (0..ROWS).all(|r| super::super::canvas::width(&label(r, r + 1)) < usize::from(LEFT))
        );
    }
}
