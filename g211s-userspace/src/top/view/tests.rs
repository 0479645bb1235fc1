//! Screens of all sizes: what is on them, and what never is.

use ratatui::Terminal;
use ratatui::backend::TestBackend;
use ratatui::buffer::Buffer;
use ratatui::style::Color;

use super::super::choose::{Choice, Chooser};
use super::super::input::Action;
use super::super::model::tests::{MS, live, recorded};
use super::super::model::{Cost, Model};
use super::super::ui::{Panel, Ui};
use super::canvas::{Canvas, Look};
use super::draw;
use crate::ps;
use crate::record::Record;
use crate::report::tests::run;
use crate::target::procfs::Procfs;

const RICH: Look = Look { colour: true, unicode: true };
const POOR: Look = Look { colour: false, unicode: false };

fn screen(width: u16, height: u16, draw: impl FnOnce(&mut Buffer)) -> Buffer {
    let mut terminal = Terminal::new(TestBackend::new(width, height)).unwrap();
    terminal.draw(|frame| draw(frame.buffer_mut())).unwrap();
    terminal.backend().buffer().clone()
}

fn shown(model: &Model, ui: &mut Ui, (width, height): (u16, u16), look: Look) -> Buffer {
    screen(width, height, |buffer| ui.drawn = draw(&mut Canvas::new(buffer, look), model, ui))
}

fn text(buffer: &Buffer) -> String {
    let width = usize::from(buffer.area.width);
    let rows = buffer.content().chunks(width);
    let rows = rows.map(|row| row.iter().map(ratatui::buffer::Cell::symbol).collect::<String>());
    rows.map(|row| row.trim_end().to_owned() + "\n").collect()
}

fn has(text: &str, wanted: &[&str]) {
    for part in wanted {
        assert!(text.contains(part), "{part:?} is not in\n{text}");
    }
}

#[test]
fn what_matters_is_in_view_at_80x24() {
    let model = live(70);
    let mut ui = Ui::default();
    let all = text(&shown(&model, &mut ui, (80, 24), RICH));
    has(
        &all,
        &[
            "g211s top  live",
            "lost: 0 of 12,345 events",
            "g211s 0.4% CPU, 24 MiB, 1.2k hits/s, 15k switches/s",
            "42 svc",
            "50%",
            "waited",
            "10–100 ms",
            "<10 µs",
            "stops",
            "GC cycles",
            "1 Verdicts (",
            "6 Notices (1)",
            "?: help",
        ],
    );
    // Waits of 5 µs and of 25 ms in every column.
    let row = |label: &str| all.lines().find(|l| l.trim_start().starts_with(label)).unwrap();
    assert!(row("<10 µs").contains("▓▓▓▓▓▓▓▓"), "{all}");
    assert!(row("10–100 ms").contains("░░░░░░░░"), "{all}");
    assert_eq!(ui.drawn.columns, 58);
}

#[test]
fn each_panel_shows_its_own() {
    let model = live(70);
    let wanted: [(Panel, &[&str]); 6] = [
        (Panel::Verdicts, &["GC #1 paused", "22:13:2"]),
        (Panel::Threads, &["M0", "svc-worker", "60%", "10%", "█", "▒", "last 10 s"]),
        (Panel::Ps, &["P0 M3", "runs 100%", "one look a second"]),
        (Panel::Gc, &["12 MiB", "20 MiB", "GOGC 100", "no GOMEMLIMIT", "1,234 goroutines"]),
        (Panel::Network, &["Polls: 600/s", "Lateness"]),
        (Panel::Notices, &["without throttling: fentry is refused"]),
    ];
    for (panel, parts) in wanted {
        for size in [(80, 24), (120, 40)] {
            let mut ui = Ui { panel, ..Ui::default() };
            if panel == Panel::Verdicts {
                ui.end = Some(3);
            }
            let all = text(&shown(&model, &mut ui, size, RICH));
            has(&all, parts);
        }
    }
    // Beside another panel verdicts stay, where there is room.
    let mut ui = Ui { panel: Panel::Threads, ..Ui::default() };
    let all = text(&shown(&model, &mut ui, (120, 40), RICH));
    has(&all, &["GC #1 paused", "svc-worker"]);
}

#[test]
fn nothing_is_too_small_or_too_large() {
    let (model, empty) = (live(70), Model::live());
    for panel in Panel::ALL {
        for (width, height) in
            [(1, 1), (19, 4), (20, 5), (25, 8), (40, 10), (40, 24), (59, 13), (80, 24), (250, 70)]
        {
            for help in [false, true] {
                for look in [RICH, POOR] {
                    let mut ui = Ui { panel, help, filter: "m7".into(), ..Ui::default() };
                    shown(&model, &mut ui, (width, height), look);
                    shown(&empty, &mut ui, (width, height), look);
                }
            }
        }
    }
    let all = text(&shown(&model, &mut Ui::default(), (40, 10), RICH));
    has(&all, &["g211s top", "lost: 0", "42 svc", "Verdicts"]);
}

#[test]
fn without_colour_there_is_none_and_ascii_is_ascii() {
    let mut model = live(70);
    model.cost = Cost { lost: 5, produced: 100, ..Cost::default() };
    for panel in Panel::ALL {
        for help in [false, true] {
            let mut ui = Ui { panel, help, ..Ui::default() };
            let buffer = shown(&model, &mut ui, (100, 40), POOR);
            for cell in buffer.content() {
                assert!(cell.symbol().is_ascii(), "{:?} in\n{}", cell.symbol(), text(&buffer));
                assert_eq!((cell.fg, cell.bg), (Color::Reset, Color::Reset));
            }
            has(&text(&buffer), &["5 of 100 events LOST"]);
        }
    }
}

#[test]
fn hostile_names_draw_nothing_of_their_own() {
    let evil = "\x1b[31mevil\x07\u{202e}\u{9b}2J\r\n日本語";
    let mut records = run();
    for record in &mut records {
        match record {
            Record::Start(s) => {
                s.host.hostname = evil.into();
                let t = &mut s.targets[0];
                (t.exe, t.comm, t.cgroup) = (evil.into(), evil.into(), evil.into());
                (t.go_version, t.module) = (evil.into(), Some(evil.into()));
                t.unavailable[0].why = evil.into();
            }
            Record::Process(p) => p.comm = evil.into(),
            Record::Notice(n) => n.text = evil.into(),
            Record::Thread(t) => t.comm = evil.into(),
            Record::End(e) => e.reason = evil.into(),
            _ => {}
        }
    }
    let model = recorded(records);
    for panel in Panel::ALL {
        for size in [(80, 24), (40, 10), (160, 50)] {
            let mut ui = Ui { panel, filter: String::new(), ..Ui::default() };
            let all = text(&shown(&model, &mut ui, size, RICH));
            let harmful = |c: char| (c.is_control() && c != '\n') || c == '\u{202e}';
            assert!(!all.contains(harmful), "{all:?}");
        }
    }
}

#[test]
fn time_can_be_gone_back_in() {
    let model = live(200);
    let mut ui = Ui::default();
    shown(&model, &mut ui, (80, 24), RICH);
    ui.act(Action::TimePage(-1), &model);
    let all = text(&shown(&model, &mut ui, (80, 24), RICH));
    has(&all, &["PAUSED at", "57 s back", "End: live"]);
    ui.act(Action::Oldest, &model);
    let all = text(&shown(&model, &mut ui, (80, 24), RICH));
    // The stop of the first second is in view, and the gap before the run is not watched time.
    has(&all, &["max 41 ms"]);
    ui.act(Action::Live, &model);
    has(&text(&shown(&model, &mut ui, (80, 24), RICH)), &["top  live"]);
    // All of it in one view.
    (0..2).for_each(|_| ui.act(Action::Zoom(1), &model));
    let all = text(&shown(&model, &mut ui, (80, 24), RICH));
    has(&all, &["5 s a column", "max 41 ms", "╌╌╌"]);
    ui.act(Action::Pause, &model);
    ui.act(Action::Pause, &model);
    assert_eq!(ui.end, None);
}

#[test]
fn threads_are_filtered_and_sorted() {
    let model = live(20);
    let mut ui = Ui { panel: Panel::Threads, ..Ui::default() };
    ui.act(Action::Filter, &model);
    "m7".chars().for_each(|c| ui.act(Action::Type(c), &model));
    has(&text(&shown(&model, &mut ui, (80, 24), RICH)), &["filter: m7_"]);
    ui.act(Action::Accept, &model);
    let all = text(&shown(&model, &mut ui, (80, 24), RICH));
    has(&all, &["svc-worker", "filter “m7”"]);
    assert!(!all.contains("   M0 "), "{all}");
    "xyz".chars().for_each(|c| ui.act(Action::Type(c), &model));
    has(&text(&shown(&model, &mut ui, (80, 24), RICH)), &["None of 2 threads"]);
    ui.act(Action::Back, &model);
    let first = |ui: &mut Ui| {
        let all = text(&shown(&model, ui, (80, 24), RICH));
        let head = all.lines().position(|l| l.contains("QUEUE")).unwrap();
        all.lines().nth(head + 1).unwrap().trim_start().to_owned()
    };
    assert!(first(&mut ui).starts_with("M0"), "{}", first(&mut ui));
    ui.act(Action::Reverse, &model);
    assert!(first(&mut ui).starts_with("M7"), "{}", first(&mut ui));
}

#[test]
fn a_service_that_is_gone_and_one_that_is_not_watched_say_so() {
    let mut model = live(5);
    model.gone(0, 4000 * MS, "it exited");
    let all = text(&shown(&model, &mut Ui::default(), (80, 24), RICH));
    has(&all, &["looking for its restart"]);
}

#[test]
fn what_a_recording_does_not_have_is_said() {
    let model = recorded(run());
    let show = |panel| {
        let mut ui = Ui { panel, ..Ui::default() };
        text(&shown(&model, &mut ui, (80, 24), RICH))
    };
    has(&show(Panel::Threads), &["ENDED (duration)", "whole recording", "M7"]);
    has(&show(Panel::Network), &["g211s report"]);
    has(&show(Panel::Verdicts), &["GC #1 paused 41 ms"]);
}

#[test]
fn processes_are_chosen_from_a_list() {
    let mut list = ps::list(&Procfs::new("/nonexistent")).unwrap_or(ps::List {
        schema: ps::SCHEMA,
        processes: Vec::new(),
        seen: ps::Seen::default(),
    });
    let show = |chooser: &Chooser, size: (u16, u16)| {
        text(&screen(size.0, size.1, |b| chooser.draw(&mut Canvas::new(b, RICH))))
    };
    let mut chooser = Chooser::new(list.clone());
    has(&show(&chooser, (80, 24)), &["No Go process runs here"]);
    assert_eq!(chooser.act(Action::Accept), Choice::Refresh);
    let figure = || ps::Figure { value: Some(5u64), note: None };
    let answer = |ok: bool| ps::Answer { ok, why: (!ok).then(|| "Go 1.4".to_owned()) };
    list.processes = [(7, false), (8, true), (9, true)]
        .map(|(pid, ok)| ps::Process {
            pid,
            comm: format!("p{pid}\x1b"),
            exe: "/p".into(),
            cgroup: None,
            container: None,
            go_version: "go1.27.3".into(),
            path: Some("example.com/p".into()),
            module: None,
            module_version: None,
            link_mode: None,
            gomaxprocs: figure(),
            live_heap_bytes: figure(),
            goroutines: figure(),
            can: ps::Can {
                attach: answer(ok),
                goroutines: answer(true),
                runtime: answer(true),
                heap: answer(true),
            },
        })
        .to_vec();
    chooser.renew(list);
    has(&show(&chooser, (80, 24)), &["3 Go processes", "p8?", "example.com/p", "Go 1.4"]);
    for size in [(1, 1), (40, 10), (10, 3)] {
        show(&chooser, size);
    }
    assert_eq!(chooser.act(Action::Accept), Choice::These(vec![8]), "the first that can be");
    chooser.act(Action::Service(1));
    chooser.act(Action::Mark);
    assert_eq!(chooser.act(Action::Accept), Choice::These(vec![9]));
    chooser.act(Action::MarkAll);
    chooser.act(Action::MarkAll);
    assert_eq!(chooser.act(Action::Accept), Choice::These(vec![8, 9]));
    chooser.act(Action::Service(9));
    chooser.act(Action::Mark);
    has(&show(&chooser, (80, 24)), &["7 cannot be watched: Go 1.4"]);
    assert_eq!(chooser.act(Action::Quit), Choice::Quit);
}
