//! The terminal: taken over, and given back whatever happens. Must not know what is drawn.

use std::fmt::Display;
use std::io::{self, IsTerminal as _, Stdout};
use std::os::fd::AsFd as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use ratatui::Terminal;
use ratatui::backend::CrosstermBackend;
use ratatui::crossterm::event::{self, Event, KeyEvent};
use ratatui::crossterm::terminal::{
    EnterAlternateScreen, LeaveAlternateScreen, disable_raw_mode, enable_raw_mode,
};
use ratatui::crossterm::{cursor, execute};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

use super::view::canvas::Look;

/// A terminal that takes nothing more (stopped by Ctrl-S, a connection that hangs) must not keep us: so long after a
/// signal we end without it.
const PATIENCE: Duration = Duration::from_secs(5);

/// Whether the terminal is ours.
static TAKEN: AtomicBool = AtomicBool::new(false);

/// Why a live view cannot be shown here.
///
/// # Errors
/// What is missing, in a line.
pub fn check() -> Result<(), String> {
    let hint = "`g211s attach` prints a report anywhere";
    if !io::stdin().is_terminal() || !io::stdout().is_terminal() {
        return Err(format!("top needs a terminal on standard input and output; {hint}"));
    }
    match std::env::var("TERM").as_deref() {
        Err(_) | Ok("" | "dumb") => Err(format!(
            "top needs a terminal that can move its cursor (TERM says none can); {hint}"
        )),
        Ok(_) => Ok(()),
    }
}

/// What the terminal can show, as the environment says.
pub(crate) fn look(ascii: bool) -> Look {
    let set = |name: &str| std::env::var(name).ok().filter(|v| !v.is_empty());
    // POSIX: the first of these that is set says how characters are encoded.
    let locale = ["LC_ALL", "LC_CTYPE", "LANG"].into_iter().find_map(set).unwrap_or_default();
    let locale = locale.to_ascii_lowercase();
    Look {
        // https://no-color.org
        colour: set("NO_COLOR").is_none(),
        unicode: !ascii && (locale.contains("utf-8") || locale.contains("utf8")),
    }
}

/// What came from the terminal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Came {
    /// A key.
    Key(KeyEvent),
    /// It has another size now, or everything is to be drawn anew.
    Changed,
    /// There is no terminal any more, or a signal wants us to end.
    End,
}

/// The terminal while it is ours.
pub(crate) struct Screen {
    terminal: Terminal<CrosstermBackend<Stdout>>,
    ended: Arc<AtomicBool>,
}

impl Screen {
    /// Takes it.
    ///
    /// # Errors
    /// Why it cannot be had.
    pub(crate) fn take() -> io::Result<Self> {
        let ended = Arc::new(AtomicBool::new(false));
        watch_signals(Arc::clone(&ended))?;
        give_back_on_panic();
        enable_raw_mode()?;
        TAKEN.store(true, Ordering::SeqCst);
        let opened = || {
            execute!(io::stdout(), EnterAlternateScreen, cursor::Hide)?;
            Terminal::new(CrosstermBackend::new(io::stdout()))
        };
        match opened() {
            Ok(terminal) => Ok(Self { terminal, ended }),
            Err(e) => {
                give_back();
                Err(e)
            }
        }
    }

    /// Draws.
    ///
    /// # Errors
    /// It cannot be written to.
    pub(crate) fn draw(&mut self, draw: impl FnOnce(&mut ratatui::Frame<'_>)) -> io::Result<()> {
        self.terminal.draw(draw).map(|_| ())
    }

    /// Draws everything anew next time, whatever others have written over it.
    pub(crate) fn forget(&mut self) {
        // Refused, the next drawing will be too, and say so.
        let _ = self.terminal.clear();
    }

    /// Waits for something, at most so long.
    pub(crate) fn wait(&mut self, timeout: Duration) -> Vec<Came> {
        let mut came = Vec::new();
        let stdin = io::stdin();
        let mut fds = [PollFd::new(stdin.as_fd(), PollFlags::POLLIN)];
        let ms = u16::try_from(timeout.as_millis()).unwrap_or(1000);
        // A signal ends the wait: a change of size is one.
        let _ = poll(&mut fds, PollTimeout::from(ms));
        let gone = PollFlags::POLLHUP | PollFlags::POLLERR | PollFlags::POLLNVAL;
        // Looked at first: crossterm reads from a terminal that is gone for ever (its `source/unix/mio.rs`).
        if fds[0].revents().is_some_and(|r| r.intersects(gone)) {
            return vec![Came::End];
        }
        while event::poll(Duration::ZERO).unwrap_or(false) {
            match event::read() {
                Ok(Event::Key(key)) => came.push(Came::Key(key)),
                Ok(Event::Resize(..)) => came.push(Came::Changed),
                Ok(_) => {}
                Err(_) => came.push(Came::End),
            }
            if came.len() >= 64 {
                break;
            }
        }
        if self.ended.load(Ordering::SeqCst) {
            came.push(Came::End);
        }
        came
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        give_back();
    }
}

/// Gives the terminal back, if it is ours.
fn give_back() {
    if TAKEN.swap(false, Ordering::SeqCst) {
        // A terminal that is gone needs nothing.
        let _ = execute!(io::stdout(), LeaveAlternateScreen, cursor::Show);
        let _ = disable_raw_mode();
    }
}

/// A panic's message must be readable, and the shell after it.
fn give_back_on_panic() {
    let before = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |info| {
        give_back();
        before(info);
    }));
}

/// Notes signals that end us.
fn watch_signals(ended: Arc<AtomicBool>) -> io::Result<()> {
    let mut signals = Signals::new([SIGINT, SIGTERM, SIGHUP])?;
    std::thread::Builder::new().name("signals".into()).spawn(move || {
        for _ in signals.forever() {
            ended.store(true, Ordering::SeqCst);
            std::thread::sleep(PATIENCE);
            if TAKEN.load(Ordering::SeqCst) {
                // Whoever holds the terminal's lock waits for it in vain. Probes go with the process.
                let _ = disable_raw_mode();
                std::process::exit(1);
            }
        }
    })?;
    Ok(())
}

/// A line for whoever sees the terminal afterwards.
pub(crate) fn say(text: impl Display) {
    use io::Write as _;
    // A closed stderr is nobody's loss.
    let _ = writeln!(io::stderr(), "g211s: {text}");
}
