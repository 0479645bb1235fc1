//! The demo: a small Go service under load, with garbage to collect and a CPU hog on one of its
//! CPUs, observed by g211s for a while. Everything that it starts it stops, however it ends.

use std::process::Command;
use std::sync::atomic::{AtomicI32, Ordering};
use std::time::Duration;

use anyhow::{Result, bail, ensure};
use clap::Args;
use g211s_tests::service::{Hog, Launch};
use g211s_tests::{go, kernel, proc};
use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, sigaction};

use crate::{setup, toolchain};

#[derive(Args)]
pub(crate) struct Options {
    /// How long to observe, in seconds
    #[arg(long, default_value_t = 15)]
    seconds: u64,
}

/// How long the report may take.
const REPORT_PATIENCE: Duration = Duration::from_secs(30);

/// The signal that asked us to stop; 0: none.
static STOP: AtomicI32 = AtomicI32::new(0);

extern "C" fn note(signal: i32) {
    STOP.store(signal, Ordering::Relaxed);
}

pub(crate) fn run(options: &Options) -> Result<()> {
    if !nix::unistd::geteuid().is_root() {
        bail!("observing needs root: sudo -E env \"PATH=$PATH\" cargo xtask demo");
    }
    setup::run(setup::Purpose::Demo)?;
    let binary = toolchain::build_binary()?;
    kernel::prepare(&[])?;
    // From here on a Ctrl-C must not end us before we have cleaned up; g211s gets it from us.
    for signal in [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP] {
        let action =
            SigAction::new(SigHandler::Handler(note), SaFlags::SA_RESTART, SigSet::empty());
        // SAFETY: the handler stores to an atomic and nothing else.
        unsafe { sigaction(signal, &action) }?;
    }

    let cpus = proc::cpus()?;
    let cpus = &cpus[..cpus.len().min(2)];
    let contended = *cpus.last().unwrap_or(&0);
    println!("demo: building a Go {} HTTP service (stripped, no pprof)", go::NEW);
    let service = Launch::new("service", go::NEW).args(&["-rate", "60"]).cpus(cpus).start()?;
    let load = service.load("/work?kb=32", 8, 2000)?;
    let hog = Hog::start("cpu-hog", contended)?;
    println!(
        "demo: service is pid {} on CPUs {cpus:?}, {} is pid {} on CPU {contended}",
        service.pid(),
        hog.comm,
        hog.pid()
    );
    let pid = service.pid().to_string();
    let duration = format!("{}s", options.seconds);
    let args = ["attach", "--pid", &pid, "--duration", &duration];
    println!("demo: g211s {}\n", args.join(" "));

    let observed = observe(Command::new(binary).args(args), options.seconds);
    drop(hog);
    let load = load.stop()?;
    let served = service.stop()?;
    observed?;
    println!(
        "\ndemo: the load saw {} requests, {} failed, p50 {} µs, p99 {} µs; all stopped",
        load.requests, load.errors, load.p50_us, load.p99_us
    );
    ensure!(load.errors == 0, "requests failed: {}", load.first_error);
    ensure!(served.code() == 0, "the service ended with {}: {}", served.code(), served.stderr());
    Ok(())
}

/// Runs g211s to its end, handing on the signal that asks us to stop.
fn observe(command: &mut Command, seconds: u64) -> Result<()> {
    let mut agent = proc::Proc::spawn_visible(command)?;
    let mut patience = Duration::from_secs(seconds) + REPORT_PATIENCE;
    let tick = Duration::from_millis(50);
    let mut told = false;
    loop {
        if let Some(status) = agent.wait(tick)? {
            ensure!(status.success(), "g211s failed ({status})");
            return Ok(());
        }
        if STOP.load(Ordering::Relaxed) != 0 && !told {
            told = true;
            patience = REPORT_PATIENCE;
            agent.signal(Signal::SIGINT)?;
        }
        patience = patience.saturating_sub(tick);
        ensure!(!patience.is_zero(), "g211s does not end");
    }
}
