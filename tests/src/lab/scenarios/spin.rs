//! Code without a preemption point.

use anyhow::Result;

use super::{observe, observed};
use crate::lab::judge::Truth;
use crate::lab::random::Random;
use crate::lab::target::{self, Undisturbed};
use crate::lab::trial::{Observed, Setting};

/// A goroutine that spins for some ms at a time: in assembly, or in a Go loop with
/// `asyncpreemptoff=1`. Its own clock tells when, and for how long it had no CPU meanwhile.
pub(super) fn run(setting: Setting) -> Result<Observed> {
    let (mode, function, debug) = Random::new(setting.seed).one_of(&[
        ("spin-asm", "main.spinUntil", ""),
        ("spin-go", "main.loopUntil", "asyncpreemptoff=1"),
    ]);
    let launch = target::launch(mode, setting.seed)
        .args(&["-every", "30ms", "-last", "8ms", "-stops", "1ms"])
        .env("GODEBUG", debug)
        .env("GOMAXPROCS", "2");
    let target = Undisturbed::start(&launch)?;
    let report = observe(target.pid(), setting.window, || Ok(()))?;
    let spans = target.end()?.of_kind("spin");
    let truth = Truth {
        spans,
        means: vec!["nonpreemptible_code"],
        function: Some(function),
        ..Truth::default()
    };
    observed(report, truth, format!("{function}; by the loop's own clock"))
}
