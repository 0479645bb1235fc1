//! CPU time that others have, or that a quota withholds.

use std::time::Duration;

use anyhow::{Context, Result, ensure};

use super::{observe, observed};
use crate::lab::cgroup::Cgroup;
use crate::lab::judge::Truth;
use crate::lab::label;
use crate::lab::random::Random;
use crate::lab::target::{self, Hog};
use crate::lab::trial::{Observed, Setting};
use crate::proc;

/// The target and a busy process on one CPU. The hog's clock tells when it had the CPU.
pub(super) fn hog(setting: Setting) -> Result<Observed> {
    let mut random = Random::new(setting.seed);
    let procs = random.between(2, 5).to_string();
    let nice = random.one_of(&[0, -5, 10]);
    let cpu = *proc::cpus()?.last().context("no CPU")?;
    let target = target::launch("steady", setting.seed)
        .args(&["-stops", "2ms", "-busy", "1"])
        .env("GOMAXPROCS", &procs)
        .cpus(&[cpu])
        .start()?;
    let hog = Hog::start(cpu, nice)?;
    let pid = hog.pid();
    let report = observe(target.pid(), setting.window, || Ok(()))?;
    let spans = hog.end()?;
    target::end(target)?;
    let truth = Truth {
        spans,
        means: vec![label::BEHIND_HOG],
        hog: Some(pid),
        delays_too: true,
        ..Truth::default()
    };
    observed(report, truth, format!("nice {nice}, GOMAXPROCS {procs}; by the hog's own clock"))
}

/// Whether a cgroup with a quota can be made here.
pub(super) fn can_have_quota() -> Result<()> {
    ensure!(nix::unistd::geteuid().is_root(), "not root");
    Cgroup::with_quota(Duration::from_millis(50), Duration::from_millis(100)).map(drop)
}

/// The target in a cgroup that gets a part of a CPU. The cgroup's account tells when it was throttled.
pub(super) fn quota(setting: Setting) -> Result<Observed> {
    let mut random = Random::new(setting.seed);
    let period = Duration::from_millis(random.one_of(&[20, 50, 100]));
    let percent = random.between(15, 40) as u32;
    let cpu = *proc::cpus()?.last().context("no CPU")?;
    let group = Cgroup::with_quota(period * percent / 100, period)?;
    let target = target::launch("steady", setting.seed)
        .args(&["-stops", "50us", "-busy", "1"])
        .env("GOMAXPROCS", "2")
        .cpus(&[cpu])
        .start()?;
    group.add(target.pid())?;
    let watch = group.watch();
    let report = observe(target.pid(), setting.window, || Ok(()))?;
    let spans = watch.spans();
    drop(watch);
    target::end(target)?;
    let truth = Truth { spans, means: vec!["cfs_throttled"], delays_too: true, ..Truth::default() };
    let how = format!(
        "{percent} % of a CPU in periods of {} ms; by the account of {}",
        period.as_millis(),
        group.version()
    );
    observed(report, truth, how)
}
