//! What threads (Ms) and Ps do. Must not know other panels.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use super::super::model::Model;
use super::super::model::history::{CLASSES, Class, PState, Second};
use super::super::model::service::{Service, class_of};
use super::super::ui::{RECENT, ThreadSort, Ui};
use super::canvas::{Canvas, Tone};
use super::lines::thread_passes;
use super::words::percent;
use super::{empty, time};
use crate::report::format::{count, plural};

/// Sums of one thread, µs.
type Sums = [u64; CLASSES];

/// A class's sign in a bar.
const SIGNS: [(Class, &str, &str, Tone, &str); CLASSES] = [
    (Class::Running, "█", "#", Tone::Gc, "on a CPU"),
    (Class::Waiting, "▒", "w", Tone::Bad, "on a run queue"),
    (Class::Asleep, "·", ".", Tone::Dim, "asleep"),
    (Class::Disk, "D", "D", Tone::Warn, "uninterruptible"),
    (Class::Other, "?", "?", Tone::Dim, "other"),
];

/// Draws threads; how far they can be scrolled.
pub(super) fn draw(canvas: &mut Canvas<'_>, model: &Model, service: &Service, ui: &Ui) -> usize {
    let (from, to) = ui.recent(model);
    let (mut sums, mut left_out) = (BTreeMap::<u32, Sums>::new(), 0);
    for second in service.history.range(from, to) {
        left_out = left_out.max(second.threads_left_out);
        for t in &second.threads {
            let sum = sums.entry(t.tid).or_default();
            for (sum, us) in sum.iter_mut().zip(t.us) {
                *sum += u64::from(us);
            }
        }
    }
    let mut of = format!("last {RECENT} s");
    if ui.end.is_some() {
        of = format!("{RECENT} s");
    }
    if sums.is_empty() && !service.totals.is_empty() {
        // A recording has them once, at each thread's end.
        "whole recording".clone_into(&mut of);
        for (tid, states) in &service.totals {
            let sum = sums.entry(*tid).or_default();
            for (state, ns) in states.iter().enumerate() {
                sum[class_of(state) as usize] += ns / 1000;
            }
        }
    }
    if sums.is_empty() {
        let why = if model.ended.is_some() {
            "This recording does not say what threads did in all."
        } else if from + 2 >= to || service.history.end() < 3 {
            "What threads do is known after two seconds."
        } else {
            "Nothing is known of its threads in these seconds: it was not watched."
        };
        empty(canvas, 0, why);
        return 0;
    }
    let all = sums.len();
    let mut rows: Vec<(u32, Sums)> = sums
        .into_iter()
        .filter(|(tid, _)| {
            ui.filter.is_empty() || thread_passes(ui, *tid, service.threads.get(tid))
        })
        .collect();
    let m = |tid: &u32| service.threads.get(tid).and_then(|t| t.m_id).unwrap_or(u64::MAX);
    let most_first = |n: u64| u64::MAX - n;
    rows.sort_by_key(|(tid, sum)| match ui.threads {
        ThreadSort::Waiting => (most_first(sum[Class::Waiting as usize]), *tid),
        ThreadSort::Running => (most_first(sum[Class::Running as usize]), *tid),
        ThreadSort::M => (m(tid), *tid),
        ThreadSort::Tid => (u64::from(*tid), *tid),
    });
    if ui.reverse {
        rows.reverse();
    }
    legend(canvas);
    let star = |sort| if ui.threads == sort { "*" } else { "" };
    let head = format!(
        "{:>5} {:>8} {:<15} {:>7} {:>8}",
        format!("M{}", star(ThreadSort::M)),
        format!("TID{}", star(ThreadSort::Tid)),
        "NAME",
        format!("CPU{}", star(ThreadSort::Running)),
        format!("QUEUE{}", star(ThreadSort::Waiting)),
    );
    canvas.text(0, 1, &head, Tone::Head);
    let shown = usize::from(canvas.area.height.saturating_sub(2));
    if rows.is_empty() {
        empty(
            canvas,
            2,
            &format!(
                "None of {} has that in it (Esc: all).",
                plural(all as u64, "thread", "threads")
            ),
        );
    }
    let most = rows.len().saturating_sub(shown.max(1));
    for ((tid, sum), y) in rows.iter().skip(ui.scroll.min(most)).take(shown).zip(2..) {
        row(canvas, y, *tid, sum, service);
    }
    let mut rest = rows.len().saturating_sub(shown + ui.scroll.min(most)) as u64;
    rest += u64::from(left_out);
    if rest > 0 {
        let _ = write!(of, "; {} more: PgDn", count(rest));
    }
    if left_out > 0 {
        let _ = write!(of, " ({left_out} quiet ones not kept)");
    }
    canvas.text(49, 1, &of, Tone::Dim);
    most
}

fn legend(canvas: &mut Canvas<'_>) {
    let mut x = 0;
    for (_, sign, ascii, tone, name) in &SIGNS {
        let sign = canvas.look.either(sign, ascii);
        x = canvas.text(x, 0, sign, *tone);
        x = canvas.text(x + 1, 0, name, Tone::Dim) + 2;
    }
}

fn row(canvas: &mut Canvas<'_>, y: u16, tid: u32, sum: &Sums, service: &Service) {
    let thread = service.threads.get(&tid);
    let whole: u64 = sum.iter().sum::<u64>().max(1);
    let share = |class: Class| sum[class as usize] as f64 / whole as f64;
    let m = thread.and_then(|t| t.m_id).map_or_else(|| "–".to_owned(), |m| format!("M{m}"));
    canvas.text_before(5, y, &m, Tone::Plain);
    canvas.text_before(14, y, &tid.to_string(), Tone::Plain);
    canvas.short(15, y, 15, thread.map_or("", |t| &t.comm), Tone::Plain);
    canvas.text_before(38, y, &percent(share(Class::Running)), Tone::Plain);
    let waiting = share(Class::Waiting);
    let tone = if waiting >= 0.1 { Tone::Warn } else { Tone::Plain };
    canvas.text_before(47, y, &percent(waiting), tone);
    let room = usize::from(canvas.area.width.saturating_sub(49)).min(100);
    bar(canvas, 49, y, room, sum, whole);
}

/// Cells by share; what is not nothing has one at least, as far as there is room.
fn bar(canvas: &mut Canvas<'_>, x: u16, y: u16, room: usize, sum: &Sums, whole: u64) {
    let mut cells = sum.map(|us| {
        let cells = (us as f64 / whole as f64 * room as f64).round() as usize;
        if us > whole / 1000 { cells.max(1) } else { cells }
    });
    while cells.iter().sum::<usize>() > room {
        let Some(largest) = cells.iter_mut().max() else { break };
        *largest -= 1;
    }
    let mut at = x;
    for (cells, (_, sign, ascii, tone, _)) in cells.iter().zip(&SIGNS) {
        let text = canvas.look.either(sign, ascii).repeat(*cells);
        at = canvas.text(at, y, &text, *tone);
    }
}

/// What each P was found to be, one look a second; how far they can be scrolled.
pub(super) fn draw_ps(canvas: &mut Canvas<'_>, model: &Model, service: &Service, ui: &Ui) -> usize {
    let columns = time::columns(canvas.area.width);
    let (span, end) = (ui.span(), ui.end_of(model));
    let from = end.saturating_sub(u64::from(columns) * span);
    let ids: std::collections::BTreeSet<u32> =
        service.history.range(from, end).flat_map(|s| &s.ps).map(|p| p.id).collect();
    if ids.is_empty() {
        let why = match service.why_unread("processors") {
            Some(why) => format!("Ps cannot be read from this process: {why}."),
            None if model.ended.is_none() => "Ps are looked at once a second: not yet.".to_owned(),
            None => "No look at its Ps is in these seconds.".to_owned(),
        };
        empty(canvas, 0, &why);
        return 0;
    }
    let signs = [
        (PState::Running, "█", "#", Tone::Gc, "runs Go"),
        (PState::Syscall, "s", "s", Tone::Warn, "syscall"),
        (PState::GcStop, "g", "g", Tone::Bad, "GC stop"),
        (PState::Idle, "·", ".", Tone::Dim, "idle"),
        (PState::Other, "?", "?", Tone::Dim, "else"),
    ];
    let mut x = 0;
    for (_, sign, ascii, tone, name) in &signs {
        let sign = canvas.look.either(sign, ascii);
        x = canvas.text(x, 0, sign, *tone);
        x = canvas.text(x + 1, 0, name, Tone::Dim) + 2;
    }
    let width = canvas.area.width;
    if width > x + 22 {
        canvas.text_before(width, 0, "one look a second", Tone::Dim);
    }
    let shown = usize::from(canvas.area.height.saturating_sub(1));
    let most = ids.len().saturating_sub(shown.max(1));
    // A column is the busiest of its looks.
    let seconds: Vec<Vec<&Second>> = (1..=u64::from(columns))
        .rev()
        .map(|n| {
            let at = end.saturating_sub(n * span);
            if end < n * span { Vec::new() } else { service.history.range(at, at + span).collect() }
        })
        .collect();
    for (id, y) in ids.iter().skip(ui.scroll.min(most)).take(shown).zip(1..) {
        let (mut looks, mut running, mut m_id) = (0u64, 0u64, None);
        for (column, x) in seconds.iter().zip(time::LEFT..) {
            let found = column.iter().flat_map(|s| &s.ps).filter(|p| p.id == *id);
            let mut busiest: Option<PState> = None;
            for p in found {
                looks += 1;
                running += u64::from(p.state == PState::Running);
                m_id = p.m_id;
                busiest = Some(busiest.map_or(p.state, |b| b.min(p.state)));
            }
            let sign = signs.iter().find(|s| Some(s.0) == busiest);
            if let Some((_, sign, ascii, tone, _)) = sign {
                canvas.text(x, y, canvas.look.either(sign, ascii), *tone);
            }
        }
        let m = m_id.map(|m| format!(" M{m}")).unwrap_or_default();
        canvas.short(0, y, time::LEFT - 1, &format!("P{id}{m}"), Tone::Plain);
        if looks > 0 && width >= 60 {
            let share = percent(running as f64 / looks as f64);
            canvas.text_before(width, y, &format!("runs {share}"), Tone::Dim);
        }
    }
    most
}
