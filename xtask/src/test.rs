//! The tests: lints, unit tests, and the scenarios on this machine's kernel, in this order.

use std::process::Command;

use anyhow::Result;
use clap::Args;

use crate::{setup, toolchain};

#[derive(Args)]
pub(crate) struct Options {
    /// Run the long variants as well: full durations, 200 attach cycles, the cost comparison
    #[arg(long)]
    all: bool,
    /// Run only tests whose name or file contains this (and no lints)
    #[arg(long)]
    filter: Option<String>,
}

/// Scenario tests are the integration tests of the tests' package.
const SUITE: &str = "package(g211s-tests) and kind(test)";

pub(crate) fn run(options: &Options) -> Result<()> {
    setup::run(setup::Purpose::Test)?;
    if options.filter.is_none() {
        toolchain::run_cargo(&["fmt", "--all", "--check"])?;
        toolchain::run_cargo(&["clippy", "--workspace", "--all-targets", "--", "-D", "warnings"])?;
    }
    let binary = toolchain::build_binary()?;
    let ci = std::env::var("CI").is_ok_and(|v| v == "true" || v == "1");
    let nextest = |which: &str| -> Result<Command> {
        let mut cargo = toolchain::cargo()?;
        let which = match &options.filter {
            Some(part) => format!("({which}) and (test(~{part}) or binary(~{part}))"),
            None => which.to_owned(),
        };
        cargo.args(["nextest", "run", "--workspace", "--no-tests", "pass", "-E", &which]);
        // An error of a scenario says what is wrong; where in the harness it came from is noise.
        cargo.env("G211S_BIN", &binary).env("RUST_LIB_BACKTRACE", "0");
        if options.all {
            cargo.env("G211S_TEST_ALL", "1");
        }
        if ci {
            cargo.env("G211S_REQUIRE_KERNEL", "1");
        }
        Ok(cargo)
    };
    println!("test: unit tests");
    toolchain::run_visibly(&mut nextest(&format!("not ({SUITE})"))?)?;
    if !ci && !nix::unistd::geteuid().is_root() {
        println!("test: not root, so the scenarios that need the kernel will say `skipped`");
    }
    println!("test: scenarios on this kernel, one at a time");
    let mut suite = nextest(SUITE)?;
    // What a scenario measured, or why it was skipped, is worth reading when it passed, too.
    suite.args(["--no-fail-fast", "--test-threads", "1", "--success-output", "immediate"]);
    toolchain::run_visibly(&mut suite)
}
