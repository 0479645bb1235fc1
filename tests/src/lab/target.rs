//! The workload `lab`: how it is started, and what it logged about itself.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result};
use nix::sys::signal::Signal;

use super::cgroup::Cgroup;
use super::random::Random;
use super::span::Span;
use crate::go::{self, Mode};
use crate::proc::{Finished, Proc, pin};
use crate::service::{Launch, Service};

const PATIENCE: Duration = Duration::from_secs(20);

/// The Go versions that seeds choose from: those that `cargo xtask setup` has.
pub const VERSIONS: [&str; 3] = [go::NEW, go::MIDDLE, go::OLD];

/// How to start it in a mode.
pub fn launch(mode: &str, seed: u64) -> Launch {
    let version = Random::new(seed).one_of(&VERSIONS);
    Launch::new("lab", version).args(&["-mode", mode, "-seed", &seed.to_string()])
}

/// What the workload logged.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Logged {
    /// What it did, by kind.
    pub spans: BTreeMap<String, Vec<Span>>,
    /// Its figures.
    pub figures: BTreeMap<String, i64>,
}

impl Logged {
    /// What a workload that has ended wrote.
    pub fn of(done: &Finished) -> Self {
        let mut logged = Self::default();
        for line in done.stdout().lines() {
            let fields: Vec<&str> = line.split(' ').collect();
            match fields[..] {
                ["span", kind, from, to, away] => {
                    let ns = |text: &str| text.parse::<u64>().ok();
                    if let (Some(from_ns), Some(to_ns), Some(away_ns)) =
                        (ns(from), ns(to), ns(away))
                    {
                        let spans = logged.spans.entry(kind.to_owned()).or_default();
                        spans.push(Span { from_ns, to_ns, away_ns });
                    }
                }
                ["figure", name, value] => {
                    if let Ok(value) = value.parse() {
                        logged.figures.insert(name.to_owned(), value);
                    }
                }
                _ => {}
            }
        }
        logged
    }

    /// Spans of a kind.
    pub fn of_kind(&self, kind: &str) -> Vec<Span> {
        self.spans.get(kind).cloned().unwrap_or_default()
    }
}

/// Ends a workload; what it logged.
pub fn end(service: Service) -> Result<Logged> {
    let done = service.stop()?;
    anyhow::ensure!(done.code() == 0, "the workload ended with {}: {}", done.code(), done.stderr());
    Ok(Logged::of(&done))
}

/// A workload before which others stand back, where that can be had: what else goes on on the
/// machine then is no cause of pauses beside the one that is injected.
///
/// A nice level alone says little where tasks are grouped, by cgroup or by session.
pub struct Undisturbed {
    /// The workload.
    pub service: Service,
    _group: Option<Cgroup>,
}

impl Undisturbed {
    /// Starts it.
    pub fn start(launch: &Launch) -> Result<Self> {
        let service = launch.clone().nice(-15).start()?;
        let group = Cgroup::preferred().ok();
        if let Some(group) = &group {
            group.add(service.pid())?;
        }
        Ok(Self { service, _group: group })
    }

    /// Its PID.
    pub fn pid(&self) -> u32 {
        self.service.pid()
    }

    /// Ends it; what it logged.
    pub fn end(self) -> Result<Logged> {
        end(self.service)
    }
}

/// A process that uses up a CPU and logs when it had it.
pub struct Hog(Proc);

impl Hog {
    /// Starts one on a CPU, with a nice level.
    pub fn start(cpu: usize, nice: i32) -> Result<Self> {
        let file = named(&go::build("lab", go::NEW, Mode::Stripped)?, "cpu-hog")?;
        let mut command = Command::new("nice");
        command.args(["-n", &nice.to_string()]).arg(file);
        command.args(["-mode", "hog", "-stops", "0"]).env("GOMAXPROCS", "1");
        let mut proc = Proc::spawn(pin(&mut command, &[cpu])?)?;
        proc.wait_line(|l| l.text.starts_with("listening"), PATIENCE)?;
        Ok(Self(proc))
    }

    /// Its PID.
    pub fn pid(&self) -> u32 {
        self.0.pid()
    }

    /// Ends it; when it ran.
    pub fn end(self) -> Result<Vec<Span>> {
        let done = self.0.stop(Signal::SIGTERM, PATIENCE)?;
        Ok(Logged::of(&done).of_kind("ran"))
    }
}

/// The same file under another name, after which the kernel names the process.
fn named(file: &Path, name: &str) -> Result<PathBuf> {
    let link = file.with_file_name(name);
    if !link.exists() {
        // Whoever comes first makes it.
        let made = std::fs::hard_link(file, &link);
        made.or_else(|e| if link.exists() { Ok(()) } else { Err(e) })
            .with_context(|| format!("linking {}", link.display()))?;
    }
    Ok(link)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_log_is_read() {
        let line = |text: &str| crate::proc::Line {
            stream: crate::proc::Stream::Out,
            at_ns: 0,
            text: text.to_owned(),
        };
        let lines = ["pid 7", "span spin 5 9 1", "span spin 11 12 0", "figure x -3", "span bad"];
        let done = Finished {
            status: std::process::ExitStatus::default(),
            lines: lines.map(line).to_vec(),
        };
        let logged = Logged::of(&done);
        let first = Span { from_ns: 5, to_ns: 9, away_ns: 1 };
        assert_eq!(logged.of_kind("spin"), [first, Span::new(11, 12)]);
        assert_eq!(logged.figures["x"], -3);
        assert!(logged.of_kind("fault").is_empty());
    }
}
