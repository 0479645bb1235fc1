//! The help. Must not know what else is on the screen.

use super::canvas::{Canvas, Tone};

/// A key and what it does, or a heading.
const LINES: &[(&str, &str)] = &[
    ("", "KEYS"),
    ("q, Ctrl-C", "leave (the processes go on untouched)"),
    ("↑ ↓", "another process; of a single one: scroll"),
    ("Tab, 1 … 6", "another panel: verdicts, threads, Ps, GC, network, notices"),
    ("PgUp PgDn, [ ]", "scroll the panel"),
    ("space", "stop the view here; again: go on"),
    ("← →, < >", "back and on in time, by a column or a screen (ten minutes are kept)"),
    ("Home End", "as far back as it goes; live again"),
    ("+ -", "less or more time in a column"),
    ("s, r", "sort the panel by its next column; the other way round"),
    ("S", "sort the processes by the next column (*)"),
    ("/", "filter by thread: a name, a tid, or M7; verdicts by any of their words"),
    ("Esc", "no filter; out of this help"),
    ("", ""),
    ("", "WHAT IT SHOWS"),
    ("waited", "time that all threads waited for a CPU, together, by column"),
    ("rows below", "waits by length: the darker, the more (1, 10, 100, 1000 and more)"),
    ("stops", "the longest stop of the world by column (10 µs the lowest bar, 100 ms the highest)"),
    ("GC cycles", "how many began by column"),
    ("╌", "not watched at that time; an empty column had none"),
    ("WAITED", "time waited for a CPU, of one CPU's time: 200% is two threads all the time"),
    ("STOPPED", "share of the time in which the world was stopped"),
    ("QUEUE", "share of the time that a thread was on a run queue without a CPU"),
    ("verdicts", "each stop, and each wait of --threshold or more, with who caused it"),
    (
        "g211s, hits",
        "what observing costs: its own CPU time; probes hit, context switches looked at",
    ),
    ("lost", "events that found no room: with any, verdicts may lack evidence"),
];

/// Draws it; how far it can be scrolled.
pub(super) fn draw(canvas: &mut Canvas<'_>, scroll: usize) -> usize {
    let most = LINES.len().saturating_sub(usize::from(canvas.area.height));
    let room = canvas.area.width.saturating_sub(17);
    for ((key, what), y) in LINES.iter().skip(scroll.min(most)).zip(0..canvas.area.height) {
        if key.is_empty() {
            canvas.text(0, y, what, Tone::Head);
        } else {
            canvas.text(1, y, key, Tone::Good);
            canvas.short(17, y, room, what, Tone::Plain);
        }
    }
    most
}
