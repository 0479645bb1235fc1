//! Network polls, and how late the network is served. Must not know other panels.

use std::fmt::Write as _;

use super::super::model::Model;
use super::super::model::history::Second;
use super::super::model::rows::ROWS;
use super::super::model::service::Service;
use super::super::ui::Ui;
use super::canvas::{Canvas, Tone, wrap};
use super::time;
use super::words::{length, percent, rate};
use crate::record::{LatenessSource, PollSource};

/// Draws it; it is not scrolled.
pub(super) fn draw(canvas: &mut Canvas<'_>, model: &Model, service: &Service, ui: &Ui) -> usize {
    let columns = time::columns(canvas.area.width);
    let seconds = time::folded(model, service, ui, columns);
    let mut all = Second::default();
    for s in &seconds {
        all.add(s);
    }
    let mut y = 0;
    for text in facts(model, service, &all) {
        for line in wrap(&text, usize::from(canvas.area.width)) {
            canvas.text(0, y, &line, Tone::Plain);
            y += 1;
        }
    }
    let left = canvas.area.height.saturating_sub(y);
    if all.has_late_rows && left >= 7 {
        let rows = usize::from(left) >= ROWS;
        time::heat_map(canvas, y, &seconds, rows, |s| (s.has_late_rows, &s.late_rows));
    } else if all.has_late_rows && left > 0 {
        canvas.text(0, y, "late", Tone::Plain);
        for (s, x) in seconds.iter().zip(time::LEFT..) {
            let most = all.latest_ns as f64;
            let bar = canvas.look.bar(s.latest_ns as f64, most);
            canvas.text(x, y, bar, Tone::Good);
        }
    }
    0
}

fn facts(model: &Model, service: &Service, all: &Second) -> Vec<String> {
    let mut lines = Vec::new();
    let source = model.head.as_ref().and_then(|h| h.poll_source);
    match source {
        None => {
            let why = service.why_missing("netpoll").unwrap_or("this recording does not say why");
            lines.push(format!("Network polls are not counted here: {why}."));
        }
        Some(source) => {
            let seconds = all.polls_ns as f64 / 1e9;
            let each = |n: u64| if seconds > 0.0 { rate(n as f64 / seconds) } else { "–".into() };
            let mut line =
                format!("Polls: {}/s with {} events/s", each(all.polls), each(all.poll_events));
            let watched = f64::from(all.watched_ms) / 1000.0;
            if source == PollSource::Syscalls && seconds < watched * 0.95 {
                let share = percent(seconds / watched.max(0.001));
                let _ = write!(
                    line,
                    ", counted {share} of the time since that costs this kernel's system calls"
                );
            }
            let _ = write!(line, "; {} sleeps/s in polls.", rate(all.per_second(all.poll_sleeps)));
            lines.push(line);
        }
    }
    let source = model.head.as_ref().map(|h| h.lateness_source).unwrap_or_default();
    let what = match source {
        LatenessSource::EpPollCallback => "from a socket ready until a poll took it",
        LatenessSource::Wakeup => {
            "from the poller woken until it ran, as this kernel does not tell of sockets"
        }
    };
    if all.has_late_rows {
        lines
            .push(format!("Lateness, {what}: {} at most in these columns.", length(all.latest_ns)));
    } else if model.ended.is_some() {
        lines.push("How late the network was served has a recording for its whole length alone: `g211s report` tells it.".into());
    } else {
        lines.push("How late the network is served is read once a second: not yet.".into());
    }
    lines
}
