//! The scenarios: how each makes its one cause, and who measures it.

use std::path::Path;
use std::time::Duration;

use anyhow::{Result, ensure};

use super::judge::{self, Truth};
use super::trial::{Observed, Setting};
use crate::agent::{Attach, Running};
use crate::report::Report;

mod cpu;
mod goroutines;
mod quiet;
mod signal;
mod spin;
mod wait;

/// A scenario.
pub struct Scenario {
    /// Its name on the command line.
    pub name: &'static str,
    /// What goes wrong in it, in a line.
    pub about: &'static str,
    /// Whether it can be run here.
    pub possible: fn() -> Result<()>,
    /// Runs it once.
    pub run: fn(Setting) -> Result<Observed>,
}

/// All of them.
pub const ALL: &[Scenario] = &[
    Scenario {
        name: "cpu-hog",
        about: "another process uses the CPU that the target must share",
        possible: anywhere,
        run: cpu::hog,
    },
    Scenario {
        name: "cfs-quota",
        about: "the target's cgroup has used up its CPU quota",
        possible: cpu::can_have_quota,
        run: cpu::quota,
    },
    Scenario {
        name: "non-preemptible",
        about: "a goroutine runs code that the runtime cannot interrupt",
        possible: on_amd64,
        run: spin::run,
    },
    Scenario {
        name: "page-faults",
        about: "a goroutine touches memory that has to be read from a slow file first",
        possible: has_fuse,
        run: wait::page_faults,
    },
    Scenario {
        name: "sigstop",
        about: "somebody stops the target with SIGSTOP and lets it go on later",
        possible: anywhere,
        run: signal::stop,
    },
    Scenario {
        name: "blocked-syscalls",
        about: "a goroutine keeps its P in a system call that takes long",
        possible: has_fuse,
        run: wait::blocked_syscalls,
    },
    Scenario {
        name: "held-ps",
        about: "goroutines take long in ordinary system calls, and their Ps are not taken away at once",
        possible: has_fuse,
        run: goroutines::held_ps,
    },
    Scenario {
        name: "assist",
        about: "goroutines allocate faster than the collector marks, and have to help it",
        possible: anywhere,
        run: goroutines::assist,
    },
    Scenario {
        name: "goroutine-flood",
        about: "more goroutines are ready than can run",
        possible: anywhere,
        run: goroutines::flood,
    },
    Scenario {
        name: "slow-peer",
        about: "a network peer answers late: the target is idle, and nothing is wrong with it",
        possible: has_perf,
        run: quiet::slow_peer,
    },
    Scenario {
        name: "healthy",
        about: "nothing is wrong",
        possible: has_perf,
        run: quiet::healthy,
    },
];

/// The scenario of this name.
pub fn named(name: &str) -> Option<&'static Scenario> {
    ALL.iter().find(|s| s.name == name)
}

#[expect(clippy::unnecessary_wraps, reason = "a scenario's `possible`")]
fn anywhere() -> Result<()> {
    Ok(())
}

fn on_amd64() -> Result<()> {
    ensure!(cfg!(target_arch = "x86_64"), "its busy loop is written for amd64");
    Ok(())
}

fn has_fuse() -> Result<()> {
    let known = std::fs::read_to_string("/proc/filesystems").unwrap_or_default();
    let known = known.lines().any(|l| l.split_whitespace().last() == Some("fuse"));
    ensure!(known && Path::new("/dev/fuse").exists(), "this kernel has no FUSE");
    Ok(())
}

fn has_perf() -> Result<()> {
    ensure!(crate::kernel::find("perf").is_some(), "perf is missing: it is what we compare with");
    Ok(())
}

/// Attaches to a process, waits until that is so, has `meanwhile` done, and waits for the report.
fn observe(pid: u32, window: Duration, meanwhile: impl FnOnce() -> Result<()>) -> Result<Report> {
    let running: Running = Attach::new(pid, window).start()?;
    meanwhile()?;
    running.report()
}

fn observed(report: Report, truth: Truth, how: String) -> Result<Observed> {
    let pauses = judge::affected(&report, &truth)?;
    Ok(Observed { report, truth, pauses, accusations: None, how })
}
