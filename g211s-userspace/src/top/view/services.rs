//! The list of services. Must not know other panels.

use super::super::model::Model;
use super::super::model::service::{Service, Watch};
use super::super::ui::{ServiceSort, Ui, is_here, recent};
use super::canvas::{Canvas, Tone};
use super::words::{length, percent, rate, size};
use crate::report::format::count;

/// A column: its head, its width, what it is sorted by.
struct Column {
    head: &'static str,
    width: u16,
    sort: Option<ServiceSort>,
    /// The terminal must be so wide.
    from: u16,
}

const COLUMNS: [Column; 10] = [
    Column { head: "GO", width: 8, sort: None, from: 100 },
    Column { head: "CPU", width: 6, sort: Some(ServiceSort::Cpu), from: 0 },
    Column { head: "WAITS/s", width: 8, sort: None, from: 60 },
    Column { head: "WAITED", width: 7, sort: Some(ServiceSort::Waiting), from: 0 },
    Column { head: "LONGEST", width: 8, sort: None, from: 50 },
    Column { head: "STOPS/s", width: 8, sort: None, from: 90 },
    Column { head: "STOPPED", width: 8, sort: Some(ServiceSort::Stopped), from: 60 },
    Column { head: "LONGEST", width: 8, sort: None, from: 70 },
    Column { head: "HEAP", width: 9, sort: Some(ServiceSort::Heap), from: 80 },
    Column { head: "GOROUT", width: 8, sort: None, from: 110 },
];

/// Draws it: a heading, and as many services as there is room for, the selected one among them.
pub(super) fn draw(canvas: &mut Canvas<'_>, model: &Model, ui: &Ui) {
    let width = canvas.area.width;
    let columns: Vec<&Column> = COLUMNS.iter().filter(|c| width >= c.from).collect();
    let used: u16 = columns.iter().map(|c| c.width).sum();
    let name = width.saturating_sub(used + 10);
    canvas.text(0, 0, "     PID SERVICE", Tone::Head);
    let mut end = 9 + name;
    for c in &columns {
        end += c.width;
        let sorted = c.sort == Some(ui.services);
        let head = if sorted { format!("{}*", c.head) } else { c.head.to_owned() };
        canvas.text_before(end, 0, &head, Tone::Head);
    }
    let order = ui.order(model);
    let rows = usize::from(canvas.area.height.saturating_sub(1)).max(1);
    let selected = order.iter().position(|index| *index == ui.service).unwrap_or(0);
    let first = (selected + 1).saturating_sub(rows).min(order.len().saturating_sub(rows));
    for (place, index) in order.iter().enumerate().skip(first).take(rows) {
        let y = 1 + (place - first) as u16;
        row(canvas, y, model, &model.services[*index], ui, &columns, name);
        if *index == ui.service && model.services.len() > 1 {
            canvas.text(0, y, canvas.look.either("▶", ">"), Tone::Plain);
            canvas.tone_row(y, Tone::Selected);
        }
    }
    if order.len() > rows {
        let text = format!("{} of {}", count(rows as u64), count(order.len() as u64));
        canvas.text(17, 0, &format!("({text})"), Tone::Dim);
    }
}

fn row(
    canvas: &mut Canvas<'_>,
    y: u16,
    model: &Model,
    service: &Service,
    ui: &Ui,
    columns: &[&Column],
    name: u16,
) {
    canvas.text_before(8, y, &service.pid.to_string(), Tone::Plain);
    canvas.short(9, y, name, &service.comm, Tone::Plain);
    if let Watch::Gone { since_ns, .. } = &service.watch
        && ui.end.is_none()
    {
        let seconds = model.now_ns.saturating_sub(*since_ns) / 1_000_000_000;
        let text = if model.ended.is_some() {
            "gone".to_owned()
        } else {
            format!("gone for {seconds} s; looking for its restart")
        };
        let room = canvas.area.width.saturating_sub(10 + name);
        canvas.short(10 + name, y, room, &text, Tone::Warn);
        return;
    }
    let range = ui.recent(model);
    let s = recent(service, range);
    let mut end = 9 + name;
    let unknown = "–".to_owned();
    let watched = s.watched_ms > 0;
    for c in columns {
        end += c.width;
        let known = |text: String| if watched { text } else { unknown.clone() };
        let (text, tone) = match (c.head, c.from) {
            ("GO", _) => (service.go_version.clone(), Tone::Plain),
            ("CPU", _) => (known(percent(s.per_second(s.on_cpu_ns) / 1e9)), Tone::Plain),
            ("WAITS/s", _) => (known(rate(s.per_second(s.waits))), Tone::Plain),
            // Of all its threads together: more than 100 % are several of them.
            ("WAITED", _) => (known(percent(s.per_second(s.waited_ns) / 1e9)), Tone::Plain),
            ("LONGEST", 50) => (length(s.longest_wait_ns), tone_of(s.longest_wait_ns)),
            ("STOPS/s", _) => (known(rate(s.per_second(s.stops))), Tone::Plain),
            ("STOPPED", _) => (known(percent(s.per_second(s.stopped_ns) / 1e9)), Tone::Plain),
            ("LONGEST", _) => (length(s.longest_stop_ns), tone_of(s.longest_stop_ns)),
            ("HEAP", _) => (size(s.figures.heap_live), Tone::Plain),
            _ => (s.figures.goroutines.map_or(unknown.clone(), count), Tone::Plain),
        };
        let tone = if is_here(service) { tone } else { Tone::Dim };
        canvas.text_before(end, y, &text, tone);
    }
}

/// How bad a length is.
pub(super) fn tone_of(ns: u64) -> Tone {
    match ns {
        0..1_000_000 => Tone::Plain,
        1_000_000..10_000_000 => Tone::Warn,
        _ => Tone::Bad,
    }
}
