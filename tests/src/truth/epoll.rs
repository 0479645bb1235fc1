//! How often a process polled, as bpftrace and strace count it.

use std::time::Duration;

use anyhow::{Context, Result};
use nix::sys::signal::Signal;
use serde_json::Value;

use crate::kernel::tool;
use crate::proc::{Finished, Proc, Stream};

/// Polls are counted by slots of time, so that any window can be cut out afterwards.
const SLOT_NS: u64 = 10_000_000;

/// A running bpftrace script.
pub struct Bpftrace(Proc);

impl Bpftrace {
    /// Starts a script and waits until its probes are attached.
    pub fn start(script: &str) -> Result<Self> {
        let mut command = tool("bpftrace")?;
        command.env("BPFTRACE_MAP_KEYS_MAX", "100000").args(["-B", "line", "-f", "json", "-e"]);
        command.arg(format!("BEGIN {{ printf(\"ready\\n\"); }} {script}"));
        let mut proc = Proc::spawn(&mut command)?;
        proc.wait_line(
            |l| l.stream == Stream::Out && l.text.contains("ready"),
            Duration::from_secs(30),
        )?;
        Ok(Self(proc))
    }

    /// Stops it; what it wrote.
    pub fn stop(self) -> Result<Finished> {
        // It prints its maps first, then waits for the kernel to let its probes go.
        self.0.stop(Signal::SIGINT, Duration::from_mins(2))
    }
}

/// A running count of a process's polls.
pub struct Polls(Bpftrace);

/// Polls of a window.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PollCount {
    /// With a timeout other than 0.
    pub blocking: u64,
    /// With timeout 0.
    pub nonblocking: u64,
}

impl Polls {
    /// Starts to count.
    pub fn start(pid: u32) -> Result<Self> {
        // The field is `args->timeout` in old versions and `args.timeout` in new ones, which take
        // the old form as well.
        Ok(Self(Bpftrace::start(&format!(
            "tracepoint:syscalls:sys_enter_epoll_pwait /pid == {pid}/ \
             {{ @[args->timeout == 0, nsecs / {SLOT_NS}] = count(); }}"
        ))?))
    }

    /// Ends the count: polls that began within the window (to a slot of 10 ms).
    pub fn stop(self, window: (u64, u64)) -> Result<PollCount> {
        let done = self.0.stop()?;
        let found = done.stdout().lines().find_map(|line| count(line, window));
        found.with_context(|| format!("bpftrace's count: {}{}", done.stdout(), done.stderr()))
    }
}

fn count(line: &str, (from, to): (u64, u64)) -> Option<PollCount> {
    let json: Value = serde_json::from_str(line).ok()?;
    if json["type"] != "map" {
        return None;
    }
    let mut polls = PollCount::default();
    for (key, n) in json["data"]["@"].as_object()? {
        let (zero, slot) = key.split_once(',')?;
        let start = slot.trim().parse::<u64>().ok()? * SLOT_NS;
        if start < from || start >= to {
            continue;
        }
        let kind = if zero == "1" { &mut polls.nonblocking } else { &mut polls.blocking };
        *kind += n.as_u64()?;
    }
    Some(polls)
}

/// A running strace that counts a process's polls of any kind, and slows it down.
pub struct Strace(Proc);

impl Strace {
    /// Starts to count.
    pub fn start(pid: u32) -> Result<Self> {
        let mut command = tool("strace")?;
        command.args([
            "-f",
            "-e",
            "trace=epoll_pwait",
            "-e",
            "signal=none",
            "-p",
            &pid.to_string(),
        ]);
        let mut proc = Proc::spawn(&mut command)?;
        proc.wait_line(|l| l.text.contains("attached"), Duration::from_secs(20))?;
        Ok(Self(proc))
    }

    /// Ends the count: all polls since the start.
    pub fn stop(self) -> Result<u64> {
        let done = self.0.stop(Signal::SIGINT, Duration::from_secs(20))?;
        Ok(done.lines.iter().filter(|l| l.text.contains("epoll_pwait(")).count() as u64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_window_is_cut_out_of_the_slots() {
        let line =
            r#"{"type": "map", "data": {"@": {"0,100": 3, "1,100": 2, "0,101": 5, "1,102": 7}}}"#;
        let cut = count(line, (1_000_000_000, 1_020_000_000));
        assert_eq!(cut, Some(PollCount { blocking: 8, nonblocking: 2 }));
        assert_eq!(count(r#"{"type": "printf", "data": "ready\n"}"#, (0, 1)), None);
    }
}
