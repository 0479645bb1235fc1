//! `g211s top`: a live view of running Go services, on a terminal. This file is its loop. What it shows is `model`, how
//! that looks is `view`, what keys mean is `input` and `ui`; where it comes from is `live`, or a recording.

mod choose;
mod follow;
mod input;
mod live;
mod model;
pub mod terminal;
mod ui;
mod view;

use std::collections::HashSet;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use g211s_ebpf::config::MAX_TARGETS;

use crate::agent::stand_back;
use crate::cli::TopArgs;
use crate::ps;
use crate::recording::Reader;
use crate::target::procfs::Procfs;
use crate::target::{self, ResolvedTarget};

use choose::{Choice, Chooser};
use input::Action;
use live::{Options, Shared};
use model::Model;
use terminal::{Came, Screen};
use ui::Ui;
use view::canvas::{Canvas, Look};

/// What has changed is drawn at most this often; keys at once.
const REDRAW: Duration = Duration::from_millis(500);
/// How long the terminal is waited for at most: signals are looked at then.
const WAIT: Duration = Duration::from_millis(250);

/// Shows the view until the user leaves it.
///
/// # Errors
/// A process that cannot be watched, a kernel side that cannot be set up, a terminal that cannot be had.
pub fn run(args: &TopArgs) -> Result<()> {
    let look = terminal::look(args.ascii);
    if let Some(file) = &args.from {
        return replay(file, look);
    }
    let mut targets = resolve(&args.pids)?;
    let mut screen = Screen::take()?;
    if args.pids.is_empty() {
        match choose(&mut screen, look)? {
            Some(pids) => targets = resolve(&pids)?,
            None => return Ok(()),
        }
    }
    let options = Options {
        threshold_ns: args.threshold.as_nanos() as u64,
        ring_bytes: args.ring,
        budget: args.budget,
    };
    let n = targets.len();
    let shared = Shared::new(Model::live());
    let run = live::start(options, targets, &shared)?;
    let began = Instant::now();
    stand_back();
    let shown = show(&mut screen, look, &shared, &|| run.is_finished());
    shared.stop();
    // The shell is back at once; probes are gone a moment later.
    drop(screen);
    match run.join() {
        Ok(done) => done?,
        // Its message is on the terminal.
        Err(_) => bail!("the run came to an end that it should not have"),
    }
    shown?;
    let cost = shared.model().cost.clone();
    terminal::say(format!(
        "watched {} for {} s; {} of {} events lost",
        crate::report::format::plural(n as u64, "process", "processes"),
        began.elapsed().as_secs(),
        cost.lost,
        cost.produced
    ));
    Ok(())
}

/// What is to be known of these processes before they are watched.
fn resolve(pids: &[u32]) -> Result<Vec<ResolvedTarget>> {
    let procfs = Procfs::default();
    let mut seen = HashSet::new();
    let once = pids.iter().filter(|pid| seen.insert(**pid));
    let targets = once.map(|&pid| target::resolve(&procfs, pid)).collect::<Result<Vec<_>, _>>()?;
    if targets.len() > MAX_TARGETS as usize {
        bail!("at most {MAX_TARGETS} processes can be watched in one run");
    }
    Ok(targets)
}

/// Shows a recording, from its end.
fn replay(file: &Path, look: Look) -> Result<()> {
    let mut reader = Reader::open(file)?;
    let mut model = Model::of_recording();
    let mut wrong = None;
    for record in reader.by_ref() {
        match record {
            Ok(record) => model.push(record),
            Err(e) => {
                wrong = Some(format!("{e}; what comes before is shown"));
                break;
            }
        }
    }
    model.finish();
    if reader.truncated() > 0 {
        wrong = Some(format!("{} was cut off; what comes before is shown", file.display()));
    }
    if model.head.is_none() {
        bail!("{} has no run in it", file.display());
    }
    if let Some(wrong) = wrong {
        let now = model.now_ns;
        model.say(now, &wrong);
    }
    model.ended.get_or_insert_with(|| "cut off".into());
    let shared = Shared::new(model);
    let mut screen = Screen::take()?;
    show(&mut screen, look, &shared, &|| false)
}

/// Lets the user choose; `None`: he leaves.
fn choose(screen: &mut Screen, look: Look) -> Result<Option<Vec<u32>>> {
    screen.draw(|frame| {
        let mut canvas = Canvas::new(frame.buffer_mut(), look);
        view::empty(&mut canvas, 0, "g211s top: looking for Go processes …");
    })?;
    let list = || ps::list(&Procfs::default());
    let mut chooser = Chooser::new(list()?);
    loop {
        screen.draw(|frame| chooser.draw(&mut Canvas::new(frame.buffer_mut(), look)))?;
        for came in screen.wait(WAIT) {
            let action = match came {
                Came::End => return Ok(None),
                Came::Changed => None,
                Came::Key(key) => input::action(key, false),
            };
            match action.map_or(Choice::None, |action| chooser.act(action)) {
                Choice::None => {}
                Choice::Refresh => chooser.renew(list()?),
                Choice::These(pids) => return Ok(Some(pids)),
                Choice::Quit => return Ok(None),
            }
            if action == Some(Action::Redraw) {
                screen.forget();
            }
        }
    }
}

/// Draws the model and takes keys until the user leaves, or `is_over`.
fn show(
    screen: &mut Screen,
    look: Look,
    shared: &Shared,
    is_over: &dyn Fn() -> bool,
) -> Result<()> {
    let mut ui = Ui::default();
    let (mut drawn_at, mut drawn_version, mut due) = (Instant::now(), 0, true);
    while !ui.quit && !is_over() {
        due |= drawn_at.elapsed() >= REDRAW && shared.model().version != drawn_version;
        if due {
            screen.draw(|frame| {
                let model = shared.model();
                drawn_version = model.version;
                ui.drawn = view::draw(&mut Canvas::new(frame.buffer_mut(), look), &model, &ui);
            })?;
            (drawn_at, due) = (Instant::now(), false);
        }
        for came in screen.wait(WAIT) {
            match came {
                Came::End => ui.quit = true,
                Came::Changed => due = true,
                Came::Key(key) => {
                    if let Some(action) = input::action(key, ui.typing) {
                        if action == Action::Redraw {
                            screen.forget();
                        }
                        ui.act(action, &shared.model());
                        due = true;
                    }
                }
            }
        }
    }
    Ok(())
}
