//! Where things are drawn: a buffer that is never drawn beyond, with or without colour, in Unicode or ASCII. Must not
//! know what is drawn.

use ratatui::buffer::Buffer;
use ratatui::layout::Rect;
use ratatui::style::{Color, Modifier, Style};
use ratatui::text::Span;

/// What the terminal can show.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Look {
    /// Colours.
    pub(crate) colour: bool,
    /// More than ASCII.
    pub(crate) unicode: bool,
}

/// How something is meant. Colour never says what nothing else does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Tone {
    /// As it is.
    Plain,
    /// In the background.
    Dim,
    /// A heading.
    Head,
    /// What is selected.
    Selected,
    /// Short.
    Good,
    /// Long.
    Warn,
    /// Very long, or wrong.
    Bad,
    /// Of the collector.
    Gc,
}

/// Levels of a bar that is one character high.
const BARS: [&str; 9] = [" ", "▁", "▂", "▃", "▄", "▅", "▆", "▇", "█"];
const ASCII_BARS: [&str; 9] = [" ", "_", ".", ":", "-", "=", "+", "*", "#"];
/// Levels of a cell of a heat map.
const HEATS: [&str; 5] = [" ", "░", "▒", "▓", "█"];
const ASCII_HEATS: [&str; 5] = [" ", ".", ":", "+", "#"];

impl Look {
    /// The style of a tone.
    pub(crate) fn style(self, tone: Tone) -> Style {
        let plain = Style::new();
        let coloured = |c: Color| if self.colour { plain.fg(c) } else { plain };
        match tone {
            Tone::Plain => plain,
            Tone::Dim => coloured(Color::DarkGray),
            Tone::Head => plain.add_modifier(Modifier::BOLD),
            Tone::Selected => plain.add_modifier(Modifier::REVERSED),
            Tone::Good => coloured(Color::Cyan),
            Tone::Warn => coloured(Color::Yellow),
            Tone::Bad => coloured(Color::LightRed).add_modifier(Modifier::BOLD),
            Tone::Gc => coloured(Color::Green),
        }
    }

    /// A bar of `value` where `most` is full; something that is not nothing can be seen.
    pub(crate) fn bar(self, value: f64, most: f64) -> &'static str {
        let bars = if self.unicode { &BARS } else { &ASCII_BARS };
        if value <= 0.0 || most <= 0.0 || !value.is_finite() {
            return bars[0];
        }
        let level = (value / most * 8.0).round().clamp(1.0, 8.0);
        bars[level as usize]
    }

    /// A cell of a heat map, by orders of magnitude.
    pub(crate) fn heat(self, n: u32) -> &'static str {
        let heats = if self.unicode { &HEATS } else { &ASCII_HEATS };
        heats[match n {
            0 => 0,
            1..10 => 1,
            10..100 => 2,
            100..1000 => 3,
            _ => 4,
        }]
    }

    /// One of two spellings.
    pub(crate) fn either<'s>(self, unicode: &'s str, ascii: &'s str) -> &'s str {
        if self.unicode { unicode } else { ascii }
    }
}

/// Width of a text on the screen, columns.
pub(crate) fn width(text: &str) -> usize {
    Span::raw(text).width()
}

/// A part of the screen.
pub(crate) struct Canvas<'a> {
    buffer: &'a mut Buffer,
    /// Where it is.
    pub(crate) area: Rect,
    /// What the terminal can show.
    pub(crate) look: Look,
}

impl<'a> Canvas<'a> {
    /// All of a buffer.
    pub(crate) fn new(buffer: &'a mut Buffer, look: Look) -> Self {
        let area = buffer.area;
        Self { buffer, area, look }
    }

    /// A part of this part; what lies outside is left out.
    pub(crate) fn part(&mut self, x: u16, y: u16, width: u16, height: u16) -> Canvas<'_> {
        let part = Rect {
            x: self.area.x.saturating_add(x),
            y: self.area.y.saturating_add(y),
            width,
            height,
        };
        Canvas { area: part.intersection(self.area), buffer: &mut *self.buffer, look: self.look }
    }

    /// Writes from a column of a row on, as far as there is room; the column after it.
    pub(crate) fn text(&mut self, x: u16, y: u16, text: &str, tone: Tone) -> u16 {
        if x >= self.area.width || y >= self.area.height {
            return x;
        }
        let room = usize::from(self.area.width - x);
        let (at, row) = (self.area.x + x, self.area.y + y);
        let style = self.look.style(tone);
        let ascii;
        let text = if self.look.unicode {
            text
        } else {
            ascii = to_ascii(text);
            &ascii
        };
        let (end, _) = self.buffer.set_stringn(at, row, text, room, style);
        end - self.area.x
    }

    /// Writes so that the text ends before a column.
    pub(crate) fn text_before(&mut self, end: u16, y: u16, text: &str, tone: Tone) {
        let from = end.saturating_sub(width(text).min(usize::from(u16::MAX)) as u16);
        self.text(from, y, text, tone);
    }

    /// Writes at most so many columns; the end is marked where something is left out.
    pub(crate) fn short(&mut self, x: u16, y: u16, room: u16, text: &str, tone: Tone) {
        if width(text) <= usize::from(room) {
            self.text(x, y, text, tone);
            return;
        }
        let mut part = self.part(x, y, room, 1);
        part.text(0, 0, text, tone);
        if let Some(last) = room.checked_sub(1) {
            let mark = part.look.either("…", "~");
            part.text(last, 0, mark, tone);
        }
    }

    /// A heading across the row.
    pub(crate) fn rule(&mut self, y: u16, title: &str) {
        let line = self.look.either("─", "-").repeat(usize::from(self.area.width));
        self.text(0, y, &line, Tone::Dim);
        let room = self.area.width.saturating_sub(3);
        if room > 4 {
            let title = format!(" {title} ");
            self.short(1, y, room, &title, Tone::Head);
        }
    }

    /// Gives a row a tone.
    pub(crate) fn tone_row(&mut self, y: u16, tone: Tone) {
        if y < self.area.height {
            let row =
                Rect { x: self.area.x, y: self.area.y + y, width: self.area.width, height: 1 };
            self.buffer.set_style(row, self.look.style(tone));
        }
    }
}

/// What is written in ASCII where the terminal shows nothing else.
fn to_ascii(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            ' '..='~' => out.push(c),
            'µ' => out.push('u'),
            '–' | '—' | '─' | '╌' => out.push('-'),
            '…' => out.push('~'),
            '≥' => out.push_str(">="),
            '·' => out.push('.'),
            '×' => out.push('x'),
            '←' => out.push('<'),
            '→' | '▶' => out.push('>'),
            '↑' => out.push('^'),
            '↓' => out.push('v'),
            _ => out.push('?'),
        }
    }
    out
}

/// Breaks a text into lines of so many columns, between words where that can be done.
pub(crate) fn wrap(text: &str, columns: usize) -> Vec<String> {
    let columns = columns.max(1);
    let mut lines = Vec::new();
    let (mut line, mut used) = (String::new(), 0);
    for word in text.split(' ') {
        let mut word = word.to_owned();
        loop {
            let wide = width(&word);
            let gap = usize::from(used > 0);
            if used + gap + wide <= columns {
                if gap > 0 {
                    line.push(' ');
                }
                line.push_str(&word);
                used += gap + wide;
                break;
            }
            if used > 0 {
                lines.push(std::mem::take(&mut line));
                used = 0;
                continue;
            }
            // A word longer than a line is cut.
            let mut cut = 0;
            let mut filled = 0;
            for (at, c) in word.char_indices() {
                let end = at + c.len_utf8();
                let wide = width(&word[at..end]);
                if filled + wide > columns && cut > 0 {
                    break;
                }
                (cut, filled) = (end, filled + wide);
            }
            let rest = word.split_off(cut);
            lines.push(word);
            if rest.is_empty() {
                break;
            }
            word = rest;
        }
    }
    if used > 0 || lines.is_empty() {
        lines.push(line);
    }
    lines
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn long_texts_are_broken_between_words() {
        assert_eq!(wrap("GC #3 paused 41 ms: why", 10), ["GC #3", "paused 41", "ms: why"]);
        assert_eq!(wrap("aaaaaaaaaaaa b", 5), ["aaaaa", "aaaaa", "aa b"]);
        assert_eq!(wrap("", 5), [""]);
    }

    proptest! {
        #[test]
        fn no_line_is_too_wide_and_nothing_is_drawn_outside(
            text in any::<String>(), words in "[ -~äß漢字é]{0,80}",
            columns in 2usize..40, x in 0u16..50, y in 0u16..20,
        ) {
            for line in wrap(&words, columns) {
                prop_assert!(width(&line) <= columns, "{line:?}");
            }
            for unicode in [false, true] {
                let mut buffer = Buffer::empty(Rect::new(0, 0, 30, 5));
                let mut all = Canvas::new(&mut buffer, Look { colour: false, unicode });
                let mut part = all.part(3, 1, 10, 2);
                part.text(x, y, &text, Tone::Bad);
                part.text_before(x, y, &text, Tone::Plain);
                part.short(x, y, 7, &text, Tone::Plain);
                part.rule(y, &text);
                part.tone_row(y, Tone::Selected);
                for (at, cell) in buffer.content().iter().enumerate() {
                    let (x, y) = (at % 30, at / 30);
                    let inside = (3..13).contains(&x) && (1..3).contains(&y);
                    prop_assert!(inside || cell.symbol() == " ");
                    prop_assert!(!cell.symbol().chars().any(char::is_control));
                }
            }
        }
    }
}
