//! `g211s top` on a terminal: keys in, screen out.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use g211s_tests::service::{Launch, Service};
use g211s_tests::tmux::Tmux;
use g211s_tests::{agent, go, needs_kernel};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

const RICH: &[(&str, &str)] = &[("LC_ALL", "C.UTF-8"), ("NO_COLOR", "")];
const POOR: &[(&str, &str)] = &[("LC_ALL", "C"), ("NO_COLOR", "1")];

/// A service that allocates, so that its world is stopped again and again.
fn service() -> Result<Service> {
    Launch::new("service", go::NEW).args(&["-rate", "60", "-live", "8"]).start()
}

fn top(args: &str, size: (u16, u16), env: &[(&str, &str)]) -> Result<Tmux> {
    let binary = agent::binary()?;
    Tmux::start(&format!("'{}' top {args}", binary.display()), size, env)
}

/// The number before a word on the screen.
fn number_before(screen: &str, word: &str) -> Option<u64> {
    let before = screen.split(word).next()?;
    let digits: String = before.chars().rev().take_while(char::is_ascii_digit).collect();
    digits.chars().rev().collect::<String>().parse().ok()
}

#[test]
fn a_new_user_finds_his_way() -> Result<()> {
    needs_kernel!("tmux");
    let target = service()?;
    let pid = target.pid().to_string();
    let top = top(&format!("--pid {pid}"), (80, 24), RICH)?;
    // Everything that matters, on a screen of the smallest usual size.
    let screen = top.wait("verdicts as they happen", |s| {
        s.contains(" paused ") && s.contains("top  live") && s.contains("CPU, ")
    })?;
    for part in
        ["lost: 0 of", &pid, "service", "waited", "stops", "GC cycles", "?: help", "q: quit"]
    {
        ensure!(screen.contains(part), "{part} is not in\n{screen}");
    }
    ensure!(screen.lines().count() == 24, "{screen}");
    // Keys, as the help tells them.
    top.press(&["?"])?;
    top.wait_for(&["KEYS", "WHAT IT SHOWS", "another panel"])?;
    top.press(&["Escape"])?;
    top.press(&["2"])?;
    top.wait_for(&["QUEUE", "on a run queue", " M0 "])?;
    top.press(&["/", "m", "0", "Enter"])?;
    let screen = top.wait("the filter", |s| s.contains("filter “m0”") && s.contains(" M0 "))?;
    ensure!(!screen.contains(" M1 "), "{screen}");
    top.press(&["Escape"])?;
    top.press(&["Tab"])?;
    top.wait_for(&["P0", "one look a second"])?;
    top.press(&["4"])?;
    top.wait("the collector", |s| {
        s.contains("GOGC 100") && s.contains("heap goal") && s.contains("goroutines")
    })?;
    top.press(&["5"])?;
    top.wait_for(&["Polls: ", "Lateness"])?;
    top.press(&["1", "Space"])?;
    top.wait_for(&["PAUSED at", "End: live"])?;
    // What is paused stands still while time goes on.
    top.press(&["Left", "Left"])?;
    let one = top.wait("two seconds back and more", |s| {
        number_before(s, " s back").is_some_and(|n| n >= 4)
    })?;
    let two =
        top.wait("time goes on", |s| number_before(s, " s back") > number_before(&one, " s back"))?;
    let stops = |s: &str| s.lines().find(|l| l.starts_with("stops")).map(str::to_owned);
    ensure!(stops(&one) == stops(&two) && stops(&one).is_some(), "{one}\n{two}");
    top.press(&["End", "+", "-"])?;
    top.wait_for(&["top  live", "2 s a column"])?;
    // A larger terminal, and a smaller one.
    top.resize(120, 40)?;
    top.press(&["2"])?;
    top.wait("a large screen", |s| {
        s.lines().nth(39).is_some_and(|l| l.contains("q: quit"))
            && s.contains(" paused ")
            && s.contains("QUEUE")
    })?;
    top.resize(40, 10)?;
    top.wait("a small screen", |s| s.lines().count() == 10 && s.contains("lost: 0"))?;
    top.resize(80, 24)?;
    // The service is started again: it is found, in its row.
    target.proc.signal(Signal::SIGKILL)?;
    drop(target);
    top.wait_for(&["looking for its restart"])?;
    let target = service()?;
    let again = target.pid().to_string();
    top.wait("the restarted process", |s| s.contains(&format!("{again}, restarted once")))?;
    top.press(&["6"])?;
    top.wait_for(&["took the place of"])?;
    top.press(&["1"])?;
    top.wait("verdicts of the restarted process", |s| {
        let row = s.lines().find(|l| l.trim_start().starts_with(&again));
        s.contains(" paused ") && row.is_some_and(|l| l.contains('%'))
    })?;
    top.press(&["q"])?;
    let (code, screen) = top.wait_end()?;
    ensure!(code == 0 && screen.contains("watched 1 process for"), "{code}\n{screen}");
    ensure!(top.modes()? == (false, true), "the terminal is not as it was");
    Ok(())
}

#[test]
fn signals_give_the_terminal_back() -> Result<()> {
    needs_kernel!("tmux");
    let target = service()?;
    for signal in [Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP] {
        // Without colour, and in a locale that has nothing but ASCII.
        let top = top(&format!("--pid {}", target.pid()), (80, 24), POOR)?;
        top.wait_for(&["top  live", " paused "])?;
        let attributes = top.attributes()?;
        ensure!(attributes.is_ascii(), "{attributes}");
        // Of SGR, 30 to 49 and 90 to 107 are colours.
        let colours = attributes.split("\x1b[").skip(1).filter_map(|s| s.split_once('m'));
        let coloured = |sgr: &str| {
            sgr.split(';')
                .filter_map(|n| n.parse().ok())
                .any(|n: u32| matches!(n, 30..=38 | 40..=48 | 90..))
        };
        ensure!(colours.clone().all(|(sgr, _)| !coloured(sgr)), "{attributes:?}");
        ensure!(top.modes()? == (true, false), "it does not have the terminal");
        kill(Pid::from_raw(top.pid()?), signal)?;
        let (code, screen) = top.wait_end()?;
        ensure!(code == 0, "{signal}: {code}\n{screen}");
        ensure!(top.modes()? == (false, true), "{signal}: the terminal is not as it was");
    }
    Ok(())
}

#[test]
fn without_a_pid_there_is_a_list_to_choose_from() -> Result<()> {
    needs_kernel!("tmux");
    let target = service()?;
    let pid = target.pid().to_string();
    let top = top("", (100, 30), RICH)?;
    let screen = top.wait_for(&["Which to watch?", &pid, "Enter: watch it"])?;
    // Down to its row: a mark tells where we are.
    let mut found = false;
    for _ in 0..screen.lines().count() {
        top.press(&["Space"])?;
        let screen = top.wait_for(&["[x]"])?;
        let marked = screen.lines().find(|l| l.contains("[x]")).context("a mark")?;
        if marked.split_whitespace().any(|word| word == pid) {
            found = true;
            break;
        }
        top.press(&["Space", "Down"])?;
        top.wait("no mark", |s| !s.contains("[x]"))?;
    }
    ensure!(found, "{}", top.screen()?);
    top.press(&["Enter"])?;
    top.wait_for(&["top  live", &pid, " paused "])?;
    top.press(&["C-c"])?;
    let (code, screen) = top.wait_end()?;
    ensure!(code == 0, "{code}\n{screen}");
    Ok(())
}

#[test]
fn a_recording_is_shown_and_what_cannot_be_is_refused() -> Result<()> {
    needs_kernel!("tmux");
    let target = service()?;
    let pid = target.pid().to_string();
    let file = PathBuf::from(format!("/tmp/g211s-top-{}.g211s", std::process::id()));
    let path = file.to_string_lossy().into_owned();
    let done = agent::run(&["record", "--pid", &pid, "--duration", "2s", "-o", &path])?;
    ensure!(done.code() == 0, "{}", done.stderr());
    let top = top(&format!("--from {path}"), (80, 24), RICH)?;
    top.wait_for(&["ENDED (duration)", " paused ", &pid])?;
    top.press(&["2"])?;
    top.wait_for(&["whole recording", " M0 "])?;
    top.press(&["q"])?;
    let (code, screen) = top.wait_end()?;
    std::fs::remove_file(&file)?;
    ensure!(code == 0, "{code}\n{screen}");
    // No terminal; no such process; no such file.
    let done = agent::run(&["top", "--pid", &pid])?;
    let lines = done.stderr();
    ensure!(done.code() == 2 && lines.lines().count() == 1, "{}: {lines}", done.code());
    ensure!(lines.contains("needs a terminal"), "{lines}");
    for (args, expected) in
        [("--pid 4194304", "no process 4194304"), ("--from /nonexistent", "nonexistent")]
    {
        let refused = self::top(args, (80, 24), RICH)?;
        let (code, screen) = refused.wait_end()?;
        ensure!(code != 0 && screen.contains(expected), "{code}\n{screen}");
    }
    Ok(())
}

/// Cost beside `attach`, as processes count it; told, and bounded only where it would be felt.
#[test]
fn it_costs_little_more_than_attach() -> Result<()> {
    needs_kernel!("tmux");
    let target = Launch::new("service", go::NEW).start()?;
    let top = top(&format!("--pid {}", target.pid()), (120, 40), RICH)?;
    top.wait_for(&["top  live", "CPU, "])?;
    let cpu = || -> Result<f64> {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", top.pid()?))?;
        let fields: Vec<&str> =
            stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
        let ticks = |n: usize| fields.get(n).and_then(|f| f.parse::<f64>().ok()).context("stat");
        Ok((ticks(11)? + ticks(12)?) / 100.0)
    };
    let before = cpu()?;
    std::thread::sleep(Duration::from_secs(3));
    let share = (cpu()? - before) / 3.0;
    println!("top: {:.2} % of a CPU on an idle process, 120x40", share * 100.0);
    ensure!(share < 0.08, "{share}");
    Ok(())
}
