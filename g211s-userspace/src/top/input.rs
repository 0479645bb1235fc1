//! Keys → what is to be done. Must not know the model, nor what it looks like.

use ratatui::crossterm::event::{KeyCode, KeyEvent, KeyEventKind, KeyModifiers};

/// Something that the user asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Action {
    /// Leave.
    Quit,
    /// Show or hide the help.
    Help,
    /// Hide what is in the way, forget the filter.
    Back,
    /// Take what is chosen or typed.
    Accept,
    /// Another service: so many further.
    Service(i32),
    /// Lines further down in the panel.
    Scroll(i32),
    /// Pages further down.
    Page(i32),
    /// Columns further back (negative) or on.
    Time(i32),
    /// Screens further back (negative) or on.
    TimePage(i32),
    /// As far back as it goes.
    Oldest,
    /// Now.
    Live,
    /// Stop here, or go on.
    Pause,
    /// More time in a column, or less.
    Zoom(i32),
    /// Another panel: so many further.
    Panel(i32),
    /// This panel.
    PanelAt(usize),
    /// Sort the panel by the next column.
    Sort,
    /// Sort services by the next column.
    SortServices,
    /// The other way round.
    Reverse,
    /// Type a filter.
    Filter,
    /// A letter of it.
    Type(char),
    /// Take its last letter back.
    Erase,
    /// Mark or unmark (where there is something to choose).
    Mark,
    /// Mark all or none.
    MarkAll,
    /// Draw everything anew.
    Redraw,
}

/// What a key means. `typing`: it is a letter of a filter, if it is one.
pub(crate) fn action(key: KeyEvent, typing: bool) -> Option<Action> {
    if key.kind == KeyEventKind::Release {
        return None;
    }
    if key.modifiers.contains(KeyModifiers::CONTROL) {
        return match key.code {
            KeyCode::Char('c' | 'C') => Some(Action::Quit),
            KeyCode::Char('l' | 'L') => Some(Action::Redraw),
            _ => None,
        };
    }
    if typing {
        return match key.code {
            KeyCode::Esc => Some(Action::Back),
            KeyCode::Enter => Some(Action::Accept),
            KeyCode::Backspace => Some(Action::Erase),
            KeyCode::Char(c) => Some(Action::Type(c)),
            _ => None,
        };
    }
    let shift = key.modifiers.contains(KeyModifiers::SHIFT);
    Some(match key.code {
        KeyCode::Char('q') => Action::Quit,
        KeyCode::Char('?' | 'h') | KeyCode::F(1) => Action::Help,
        KeyCode::Esc => Action::Back,
        KeyCode::Enter => Action::Accept,
        KeyCode::Up | KeyCode::Char('k') => Action::Service(-1),
        KeyCode::Down | KeyCode::Char('j') => Action::Service(1),
        KeyCode::PageUp | KeyCode::Char('b') => Action::Page(-1),
        KeyCode::PageDown | KeyCode::Char('f') => Action::Page(1),
        KeyCode::Char('[') => Action::Scroll(-1),
        KeyCode::Char(']') => Action::Scroll(1),
        KeyCode::Left if shift => Action::TimePage(-1),
        KeyCode::Right if shift => Action::TimePage(1),
        KeyCode::Left => Action::Time(-1),
        KeyCode::Right => Action::Time(1),
        KeyCode::Char('<') => Action::TimePage(-1),
        KeyCode::Char('>') => Action::TimePage(1),
        KeyCode::Home => Action::Oldest,
        KeyCode::End => Action::Live,
        KeyCode::Char(' ') => Action::Pause,
        KeyCode::Char('m') => Action::Mark,
        KeyCode::Char('a') => Action::MarkAll,
        KeyCode::Char('+' | '=') => Action::Zoom(-1),
        KeyCode::Char('-' | '_') => Action::Zoom(1),
        KeyCode::BackTab => Action::Panel(-1),
        KeyCode::Tab => Action::Panel(1),
        KeyCode::Char(c @ '1'..='6') => Action::PanelAt(c as usize - '1' as usize),
        KeyCode::Char('s') => Action::Sort,
        KeyCode::Char('S') => Action::SortServices,
        KeyCode::Char('r') => Action::Reverse,
        KeyCode::Char('/') => Action::Filter,
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn press(code: KeyCode, modifiers: KeyModifiers, typing: bool) -> Option<Action> {
        action(KeyEvent::new(code, modifiers), typing)
    }

    #[test]
    fn keys_mean_what_the_help_says() {
        let none = KeyModifiers::NONE;
        assert_eq!(press(KeyCode::Char('q'), none, false), Some(Action::Quit));
        assert_eq!(press(KeyCode::Char('6'), none, false), Some(Action::PanelAt(5)));
        assert_eq!(press(KeyCode::Left, KeyModifiers::SHIFT, false), Some(Action::TimePage(-1)));
        assert_eq!(press(KeyCode::Char('x'), none, false), None);
    }

    #[test]
    fn letters_of_a_filter_do_nothing_else() {
        let none = KeyModifiers::NONE;
        assert_eq!(press(KeyCode::Char('q'), none, true), Some(Action::Type('q')));
        assert_eq!(press(KeyCode::Esc, none, true), Some(Action::Back));
        let control = KeyModifiers::CONTROL;
        assert_eq!(press(KeyCode::Char('c'), control, true), Some(Action::Quit));
        let key = KeyEvent::new_with_kind(KeyCode::Char('q'), none, KeyEventKind::Release);
        assert_eq!(action(key, false), None);
    }
}
