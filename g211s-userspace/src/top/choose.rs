//! Which processes to watch, where none was named: the Go processes of this machine, to choose from. Must not know how
//! they are found, nor the terminal.

use std::collections::BTreeSet;

use super::input::Action;
use super::view::canvas::{Canvas, Tone};
use crate::ps::List;
use crate::report::format::{bytes, clean, count, plural};

/// Processes that are marked at most: each costs something.
pub(crate) const MOST: usize = 16;

/// The list, and what is marked in it.
#[derive(Debug)]
pub(crate) struct Chooser {
    list: List,
    at: usize,
    marked: BTreeSet<u32>,
    said: String,
}

/// What came of a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Choice {
    /// Nothing yet.
    None,
    /// Look for processes anew.
    Refresh,
    /// These.
    These(Vec<u32>),
    /// None.
    Quit,
}

impl Chooser {
    /// Nothing is marked.
    pub(crate) fn new(list: List) -> Self {
        let mut this = Self { list, at: 0, marked: BTreeSet::new(), said: String::new() };
        this.sort();
        this
    }

    /// The list anew; marks stay.
    pub(crate) fn renew(&mut self, list: List) {
        let at = self.list.processes.get(self.at).map(|p| p.pid);
        self.list = list;
        self.sort();
        let there: BTreeSet<u32> = self.list.processes.iter().map(|p| p.pid).collect();
        self.marked.retain(|pid| there.contains(pid));
        let same = self.list.processes.iter().position(|p| Some(p.pid) == at);
        self.at = same.unwrap_or(self.at.min(self.list.processes.len().saturating_sub(1)));
    }

    /// Those that can be watched first.
    fn sort(&mut self) {
        self.list.processes.sort_by_key(|p| (!p.can.attach.ok, p.pid));
    }

    /// Does what the user asks for.
    pub(crate) fn act(&mut self, action: Action) -> Choice {
        self.said.clear();
        let last = self.list.processes.len().saturating_sub(1);
        let move_by = |at: usize, by: i64| (at as i64 + by).clamp(0, last as i64) as usize;
        match action {
            Action::Quit => return Choice::Quit,
            Action::Service(by) | Action::Scroll(by) => self.at = move_by(self.at, by.into()),
            Action::Page(by) => self.at = move_by(self.at, i64::from(by) * 10),
            Action::Oldest => self.at = 0,
            Action::Live => self.at = last,
            Action::Reverse => return Choice::Refresh,
            Action::Pause | Action::Mark => self.mark(),
            Action::MarkAll => self.mark_all(),
            Action::Accept => return self.accept(),
            _ => {}
        }
        Choice::None
    }

    fn mark(&mut self) {
        let Some(p) = self.list.processes.get(self.at) else { return };
        if self.marked.remove(&p.pid) {
            return;
        }
        if !p.can.attach.ok {
            self.said = format!("{} cannot be watched: {}", p.pid, why(p));
        } else if self.marked.len() >= MOST {
            self.said = format!("{MOST} at most are watched together");
        } else {
            self.marked.insert(p.pid);
        }
    }

    fn mark_all(&mut self) {
        if !self.marked.is_empty() {
            self.marked.clear();
            return;
        }
        let fit = self.list.processes.iter().filter(|p| p.can.attach.ok).map(|p| p.pid);
        self.marked = fit.take(MOST).collect();
        let fit = self.list.processes.iter().filter(|p| p.can.attach.ok).count();
        if fit > MOST {
            self.said =
                format!("{MOST} of {fit} are marked: that many are watched together at most");
        }
    }

    fn accept(&mut self) -> Choice {
        if !self.marked.is_empty() {
            return Choice::These(self.marked.iter().copied().collect());
        }
        match self.list.processes.get(self.at) {
            None => Choice::Refresh,
            Some(p) if p.can.attach.ok => Choice::These(vec![p.pid]),
            Some(p) => {
                self.said = format!("{} cannot be watched: {}", p.pid, why(p));
                Choice::None
            }
        }
    }

    /// Draws it.
    pub(crate) fn draw(&self, canvas: &mut Canvas<'_>) {
        let (width, height) = (canvas.area.width, canvas.area.height);
        let n = self.list.processes.len();
        let head = format!(
            "g211s top: {} here. Which to watch?",
            plural(n as u64, "Go process", "Go processes")
        );
        let hidden = self.list.seen.unreadable;
        let head = if hidden > 0 && n > 0 {
            format!("{head} ({hidden} processes may not be looked at: not root)")
        } else {
            head
        };
        canvas.short(0, 0, width, &head, Tone::Head);
        canvas.text(
            0,
            1,
            "       PID NAME             GO            HEAP GOROUTINES  PROGRAM",
            Tone::Head,
        );
        let rows = usize::from(height.saturating_sub(4)).max(1);
        let first = (self.at + 1).saturating_sub(rows).min(n.saturating_sub(rows));
        for (p, place) in self.list.processes.iter().zip(0..).skip(first).take(rows) {
            let y = 2 + (place - first) as u16;
            let mark = if self.marked.contains(&p.pid) { "[x]" } else { "[ ]" };
            canvas.text(0, y, mark, Tone::Plain);
            canvas.text_before(10, y, &p.pid.to_string(), Tone::Plain);
            canvas.short(11, y, 16, &clean(&p.comm), Tone::Plain);
            let version = clean(p.go_version.strip_prefix("go").unwrap_or(&p.go_version));
            canvas.short(28, y, 9, &version, Tone::Plain);
            let dash = || "–".to_owned();
            let heap = p.live_heap_bytes.value.map_or_else(dash, bytes);
            canvas.text_before(46, y, &heap, Tone::Plain);
            let goroutines = p.goroutines.value.map_or_else(dash, count);
            canvas.text_before(57, y, &goroutines, Tone::Plain);
            let what = if p.can.attach.ok {
                clean(p.path.as_deref().unwrap_or(&p.exe))
            } else {
                format!("cannot ({})", why(p))
            };
            canvas.short(59, y, width.saturating_sub(59), &what, Tone::Dim);
            if place == self.at {
                canvas.tone_row(y, Tone::Selected);
            }
        }
        if n == 0 {
            let unreadable = self.list.seen.unreadable;
            let text = if unreadable > 0 {
                format!(
                    "None of those that may be looked at; {unreadable} processes may not: run g211s as root."
                )
            } else {
                "No Go process runs here. Start one, then press r; or q to leave.".to_owned()
            };
            super::view::empty(canvas, 3, &text);
        }
        canvas.short(0, height.saturating_sub(2), width, &self.said, Tone::Warn);
        let keys = if self.marked.is_empty() {
            "Enter: watch it  space: mark  a: mark all  ↑↓: choose  r: look again  q: quit"
                .to_owned()
        } else {
            format!(
                "Enter: watch the {} marked  space: mark  a: none  r: look again  q: quit",
                self.marked.len()
            )
        };
        canvas.short(0, height.saturating_sub(1), width, &keys, Tone::Dim);
    }
}

fn why(p: &crate::ps::Process) -> String {
    clean(p.can.attach.why.as_deref().unwrap_or("not told why"))
}
