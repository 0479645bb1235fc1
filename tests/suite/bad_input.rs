//! Bad input: one clear line, the right exit code, no panic, the target unharmed.

use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use g211s_tests::agent::{self, Attach};
use g211s_tests::proc::{Finished, Proc};
use g211s_tests::service::Launch;
use g211s_tests::{go, needs_kernel, skip, target_dir};

/// A user that owns nothing.
const NOBODY: u32 = 65_534;

/// One line on standard error that says `about`, nothing on standard output, this exit code.
fn refused(run: &Finished, code: i32, about: &[&str]) -> Result<()> {
    let said = run.stderr();
    ensure!(run.code() == code, "exit code {}, not {code}: {said}", run.code());
    ensure!(run.stdout().is_empty(), "output: {}", run.stdout());
    ensure!(said.lines().count() == 1, "not one line: {said}");
    ensure!(!said.contains("panicked"), "{said}");
    let lower = said.to_lowercase();
    ensure!(about.iter().any(|a| lower.contains(a)), "says nothing of {about:?}: {said}");
    Ok(())
}

fn attach(pid: u32) -> Result<Finished> {
    agent::run(&["attach", "--json", "--duration", "1s", "--pid", &pid.to_string()])
}

fn scratch(name: &str) -> Result<PathBuf> {
    let folder = target_dir().join("scratch");
    std::fs::create_dir_all(&folder)?;
    Ok(folder.join(format!("{}-{name}", std::process::id())))
}

#[test]
fn a_pid_that_is_not_there() -> Result<()> {
    needs_kernel!();
    let mut gone = Proc::spawn(&mut Command::new("true"))?;
    gone.wait(Duration::from_secs(5))?;
    refused(&attach(gone.pid())?, 2, &["no such process", "no process"])
}

#[test]
fn a_program_that_is_not_go() -> Result<()> {
    needs_kernel!();
    let mut sleep = Proc::spawn(Command::new("sleep").arg("1000"))?;
    refused(&attach(sleep.pid())?, 2, &["go"])?;
    ensure!(sleep.poll()?.is_none(), "the target ended");
    Ok(())
}

#[test]
fn a_kernel_thread() -> Result<()> {
    needs_kernel!();
    let is_kernel_thread = |pid: &u32| {
        let empty =
            |file: &str| std::fs::read(format!("/proc/{pid}/{file}")).is_ok_and(|b| b.is_empty());
        empty("cmdline") && empty("maps") && std::fs::read_link(format!("/proc/{pid}/exe")).is_err()
    };
    let Some(pid) = (2..2000).find(is_kernel_thread) else {
        skip!("no kernel thread is visible");
    };
    refused(&attach(pid)?, 2, &["kernel thread"])
}

#[test]
fn no_privileges() -> Result<()> {
    needs_kernel!();
    // Somewhere that everyone may read.
    let copy = PathBuf::from(format!("/tmp/g211s-unprivileged-{}", std::process::id()));
    std::fs::copy(agent::binary()?, &copy)?;
    let service = Launch::new("service", go::NEW).start()?;
    let mut command = Command::new(&copy);
    command.args(["attach", "--json", "--duration", "1s", "--pid", &service.pid().to_string()]);
    command.uid(NOBODY).gid(NOBODY).current_dir("/");
    let run = Proc::spawn(&mut command).and_then(|p| p.finish(Duration::from_secs(20)));
    std::fs::remove_file(&copy)?;
    refused(&run?, 1, &["root", "privilege", "permi", "cap_"])?;
    ensure!(service.get("/health")? == "ok\n", "the target is ill");
    Ok(())
}

#[test]
fn nonsense_on_the_command_line() -> Result<()> {
    for args in
        [&["attach"][..], &["attach", "--pid", "x"], &["attach", "--pid", "1", "--duration", "x"]]
    {
        let run = agent::run(args)?;
        ensure!(run.code() == 2, "{args:?}: {}", run.code());
        ensure!(run.stdout().is_empty() && !run.stderr().is_empty(), "{args:?}");
    }
    Ok(())
}

#[test]
fn recordings_that_are_none() -> Result<()> {
    for (name, bytes) in [
        ("empty", Vec::new()),
        ("foreign", b"PERFILE2 and something else that is not ours".to_vec()),
        ("noise", (0..4096u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 13) as u8).collect()),
    ] {
        let file = scratch(name)?;
        std::fs::write(&file, bytes)?;
        let run = agent::run(&["report", "--json", &file.to_string_lossy()])?;
        std::fs::remove_file(&file)?;
        refused(&run, 1, &["record", "empty"])?;
    }
    let run = agent::run(&["report", "--json", "/nonexistent/file.g211s"])?;
    refused(&run, 1, &["no such file", "not found"])
}

/// What a truncated recording still holds is reported, or it is refused: nothing in between.
#[test]
fn truncated_recordings() -> Result<()> {
    needs_kernel!();
    let service = Launch::new("service", go::NEW).args(&["-rate", "100"]).start()?;
    let file = scratch("whole")?;
    Attach::new(service.pid(), Duration::from_secs(2)).record(&file).report()?;
    let whole = std::fs::read(&file).context("no recording was written")?;
    std::fs::remove_file(&file)?;
    ensure!(whole.len() > 100, "a recording of {} bytes", whole.len());
    for length in [1, 7, 16, 64, whole.len() / 4, whole.len() / 2, whole.len() - 1] {
        let file = scratch("cut")?;
        std::fs::write(&file, &whole[..length])?;
        let run = agent::run(&["report", "--json", &file.to_string_lossy()])?;
        std::fs::remove_file(&file)?;
        let said = run.stderr();
        ensure!(!said.contains("panicked"), "at {length}: {said}");
        ensure!(!said.is_empty(), "at {length}: a cut recording passed for a whole one");
        ensure!([0, 1].contains(&run.code()), "at {length}: exit code {}", run.code());
        ensure!((run.code() == 0) != run.stdout().is_empty(), "at {length}: {}", run.stdout());
    }
    Ok(())
}
