//! Runs of the `g211s` binary.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use nix::sys::signal::Signal;

use crate::proc::{Finished, Proc, Stream, output_of};
use crate::report::Report;

/// How long attaching may take before a test gives up on it.
const ATTACH_PATIENCE: Duration = Duration::from_secs(15);
/// How long detaching and reporting may take after the end of a run.
const REPORT_PATIENCE: Duration = Duration::from_secs(20);

/// The binary under test: `G211S_BIN`, or the release build (made if it is missing).
pub fn binary() -> Result<PathBuf> {
    static BINARY: OnceLock<PathBuf> = OnceLock::new();
    if let Some(found) = BINARY.get() {
        return Ok(found.clone());
    }
    let found = if let Some(given) = std::env::var_os("G211S_BIN") {
        PathBuf::from(given)
    } else {
        let built = crate::target_dir().join("release/g211s");
        if !built.exists() {
            let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or("cargo".into()));
            cargo.current_dir(crate::root());
            output_of(cargo.args(["build", "--quiet", "--release", "-p", "g211s-userspace"]))?;
        }
        built
    };
    if !found.exists() {
        bail!("no g211s at {}", found.display());
    }
    Ok(BINARY.get_or_init(|| found).clone())
}

/// A run of `g211s` with these arguments, to its end.
pub fn run(args: &[&str]) -> Result<Finished> {
    run_with(args, &[])
}

/// … and with these variables in its environment.
pub fn run_with(args: &[&str], env: &[(&str, &str)]) -> Result<Finished> {
    let mut command = Command::new(binary()?);
    command.args(args).envs(env.iter().copied());
    Proc::spawn(&mut command)?.finish(Duration::from_mins(1))
}

/// An `attach --json` to be started.
#[derive(Clone, Debug)]
pub struct Attach {
    args: Vec<String>,
    env: Vec<(String, String)>,
    duration: Duration,
}

impl Attach {
    /// To this process, for this long.
    pub fn new(pid: u32, duration: Duration) -> Self {
        let args = ["attach", "--json", "--pid", &pid.to_string(), "--duration"].map(str::to_owned);
        let mut args = args.to_vec();
        args.push(format!("{}ms", duration.as_millis()));
        Self { args, env: Vec::new(), duration }
    }

    /// With these further arguments.
    #[must_use]
    pub fn args(mut self, args: &[&str]) -> Self {
        self.args.extend(args.iter().map(|a| (*a).to_owned()));
        self
    }

    /// With `--record FILE`.
    #[must_use]
    pub fn record(self, file: &Path) -> Self {
        self.args(&["--record", &file.to_string_lossy()])
    }

    /// With its report as text.
    #[must_use]
    pub fn as_text(mut self) -> Self {
        self.args.retain(|a| a != "--json");
        self
    }

    /// With this environment variable.
    #[must_use]
    pub fn env(mut self, key: &str, value: &str) -> Self {
        self.env.push((key.to_owned(), value.to_owned()));
        self
    }

    /// Starts it and waits until it says on standard error that it is attached.
    pub fn start(&self) -> Result<Running> {
        let mut running = self.start_only()?;
        running
            .proc
            .wait_line(
                |l| l.stream == Stream::Err && l.text.to_lowercase().contains("attached"),
                ATTACH_PATIENCE,
            )
            .context("g211s attach")?;
        Ok(running)
    }

    /// Starts it.
    pub fn start_only(&self) -> Result<Running> {
        let mut command = Command::new(binary()?);
        command.args(&self.args).envs(self.env.iter().map(|(k, v)| (k, v)));
        Ok(Running { proc: Proc::spawn(&mut command)?, duration: self.duration })
    }

    /// Runs it to its end; its report.
    pub fn report(&self) -> Result<Report> {
        self.start_only()?.report()
    }
}

/// A running `attach`.
pub struct Running {
    /// The process.
    pub proc: Proc,
    duration: Duration,
}

impl Running {
    /// Waits for its end.
    pub fn finish(self) -> Result<Finished> {
        self.proc.finish(ATTACH_PATIENCE + self.duration + REPORT_PATIENCE)
    }

    /// Waits for its end; its report.
    pub fn report(self) -> Result<Report> {
        Report::of(&self.finish()?)
    }

    /// Sends a signal and waits for its end; its report.
    pub fn stop(self, signal: Signal) -> Result<Report> {
        Report::of(&self.proc.stop(signal, REPORT_PATIENCE)?)
    }
}
