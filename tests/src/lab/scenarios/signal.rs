//! Signals that stop the target.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use nix::sys::signal::Signal;

use super::{observe, observed};
use crate::lab::judge::Truth;
use crate::lab::random::Random;
use crate::lab::span::Span;
use crate::lab::target;
use crate::lab::trial::{Observed, Setting};
use crate::proc::{Proc, now_ns};

/// SIGSTOP, and SIGCONT some ms later, time and again, while the target stops its world much of the
/// time. Our own clock tells when it certainly stood still.
pub(super) fn stop(setting: Setting) -> Result<Observed> {
    let mut random = Random::new(setting.seed);
    // Others may disturb it: while it stands still nobody can.
    let target = target::launch("steady", setting.seed)
        .args(&["-stops", "60us"])
        .env("GOMAXPROCS", "2")
        .start()?;
    let mut spans = Vec::new();
    let report = observe(target.pid(), setting.window, || {
        let end = Instant::now() + setting.window;
        while Instant::now() < end {
            std::thread::sleep(
                random.lasting(Duration::from_millis(20), Duration::from_millis(60)),
            );
            let length = random.lasting(Duration::from_millis(4), Duration::from_millis(14));
            spans.push(stopped_for(&target.proc, length)?);
        }
        Ok(())
    })?;
    target::end(target)?;
    let truth = Truth { spans, means: vec!["stopped_by_signal"], ..Truth::default() };
    observed(report, truth, "by the clock of who sent the signals".to_owned())
}

/// Stops a process for so long; when it stood still.
fn stopped_for(proc: &Proc, length: Duration) -> Result<Span> {
    proc.signal(Signal::SIGSTOP)?;
    let patience = Instant::now() + Duration::from_secs(2);
    let stands = all_stand(proc.pid(), patience);
    let from = now_ns();
    std::thread::sleep(length);
    let to = now_ns();
    // It must go on whatever happened.
    proc.signal(Signal::SIGCONT)?;
    ensure!(stands?, "the target did not stop in 2 s");
    Ok(Span::new(from, to))
}

/// Waits until every thread is stopped.
fn all_stand(pid: u32, until: Instant) -> Result<bool> {
    loop {
        let mut all = true;
        for tid in crate::kernel::threads(pid)? {
            let stat = std::fs::read_to_string(format!("/proc/{pid}/task/{tid}/stat"))?;
            let state = stat.rsplit_once(") ").context("/proc/PID/task/TID/stat")?.1;
            all &= state.starts_with('T');
        }
        if all || Instant::now() >= until {
            return Ok(all);
        }
    }
}
