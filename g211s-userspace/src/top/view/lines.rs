//! Verdicts and notices as lines of text. Must not know other panels.

use super::super::model::Model;
use super::super::model::lines::{Kind, Line};
use super::super::model::service::Thread;
use super::super::ui::{LineSort, Panel, Ui};
use super::canvas::{Canvas, Tone, wrap};
use super::empty;
use super::services::tone_of;
use super::words::clock_ms;
use crate::report::format::duration;

/// Which lines.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum What {
    /// Verdicts.
    Verdicts,
    /// Notices.
    Notices,
}

impl What {
    /// Whether lines of a kind are of these.
    pub(super) fn takes(self, kind: Kind) -> bool {
        match self {
            Self::Verdicts => matches!(kind, Kind::Stop | Kind::Delay | Kind::Wrong),
            Self::Notices => matches!(kind, Kind::Notice | Kind::Wrong),
        }
    }
}

/// Columns of the time before each line.
const TIME: u16 = 13;

/// Draws them; how far they can be scrolled.
pub(super) fn draw(canvas: &mut Canvas<'_>, model: &Model, ui: &Ui, what: What) -> usize {
    let until = ui.end.map(|end| {
        let start = model.head.as_ref().map_or(0, |h| h.start_ns);
        start.saturating_add(end.saturating_mul(1_000_000_000))
    });
    let fits = |line: &&Line| {
        what.takes(line.kind)
            && until.is_none_or(|ns| line.ts_ns < ns)
            && (what == What::Notices || passes(model, ui, line))
    };
    let mut lines: Vec<&Line> = model.lines.newest_first().filter(fits).collect();
    if what == What::Verdicts && ui.lines == LineSort::Length {
        lines.sort_by_key(|l| std::cmp::Reverse(l.ns));
    }
    if ui.reverse && is_the_panel(ui, what) {
        lines.reverse();
    }
    if lines.is_empty() {
        empty(canvas, 0, &nothing(model, ui, what));
        return 0;
    }
    let most = lines.len() - 1;
    let room = canvas.area.width.saturating_sub(TIME).max(10);
    let mut y = 0;
    for line in lines.iter().skip(ui.scroll.min(most)) {
        if y >= canvas.area.height {
            break;
        }
        canvas.text(0, y, &clock_ms(model, line.ts_ns), Tone::Dim);
        let mut text = line.text.clone();
        if model.services.len() > 1
            && let Some(service) = line.service.and_then(|index| model.services.get(index))
        {
            text = format!("{} {}: {text}", service.comm, service.pid);
        }
        let tone = match line.kind {
            Kind::Wrong => Tone::Bad,
            Kind::Notice => Tone::Plain,
            Kind::Stop | Kind::Delay => tone_of(line.ns),
        };
        for part in wrap(&text, usize::from(room)) {
            canvas.text(TIME, y, &part, tone);
            y += 1;
        }
    }
    most
}

/// Whether the panel that keys are for is of these.
fn is_the_panel(ui: &Ui, what: What) -> bool {
    match what {
        What::Verdicts => ui.panel == Panel::Verdicts,
        What::Notices => ui.panel == Panel::Notices,
    }
}

/// Why there is nothing.
fn nothing(model: &Model, ui: &Ui, what: What) -> String {
    if what == What::Notices {
        return "Nothing that you would have to know.".to_owned();
    }
    if !ui.filter.is_empty() {
        return format!("No verdict has “{}” in it (Esc: all).", ui.filter);
    }
    let threshold = model.head.as_ref().map_or(0, |h| h.threshold_ns);
    let seen = model.services.iter().all(|s| s.why_missing("stw").is_none());
    let stops =
        if seen { "No stop of the world" } else { "Stops of the world are not seen here (6)" };
    format!("{stops}, and no wait for a CPU of {} or more, up to now.", duration(threshold))
}

/// Whether a line passes the filter: by its words, or by its threads.
fn passes(model: &Model, ui: &Ui, line: &Line) -> bool {
    if ui.filter.is_empty() || ui.passes(&[&line.text]) {
        return true;
    }
    let service = line.service.and_then(|index| model.services.get(index));
    service.is_some_and(|s| {
        ui.passes(&[&s.comm])
            || line.tids.iter().any(|tid| thread_passes(ui, *tid, s.threads.get(tid)))
    })
}

/// Whether a thread passes it: by its number, M or name.
pub(super) fn thread_passes(ui: &Ui, tid: u32, thread: Option<&Thread>) -> bool {
    let m = thread.and_then(|t| t.m_id).map(|m| format!("M{m}")).unwrap_or_default();
    let wanted = ui.filter.to_lowercase();
    // `m1` is M 1 and not M 12 as well.
    if wanted
        .strip_prefix('m')
        .is_some_and(|n| !n.is_empty() && n.bytes().all(|b| b.is_ascii_digit()))
    {
        return m.eq_ignore_ascii_case(&wanted);
    }
    ui.passes(&[&tid.to_string(), thread.map_or("", |t| &t.comm)])
}
