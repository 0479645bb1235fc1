//! The tests: lints, unit tests, and the scenarios on this machine's kernel, in this order.

use std::process::Command;

use anyhow::Result;
use clap::Args;

use crate::{setup, toolchain};

#[derive(Args)]
pub(crate) struct Options {
    /// Run the long variants as well: full durations, 200 attach cycles, the cost comparison,
    /// a Go of each minor version
    #[arg(long)]
    all: bool,
    /// Run only the scenarios of this file (e.g. `gc_truth`), or else the tests whose name contains
    /// this; no lints
    #[arg(long)]
    filter: Option<String>,
}

/// Scenario tests are the integration tests of the tests' package.
const SUITE: &str = "package(g211s-tests) and kind(test)";

pub(crate) fn run(options: &Options) -> Result<()> {
    let purpose = if options.all { setup::Purpose::TestAll } else { setup::Purpose::Test };
    setup::run(purpose)?;
    if options.filter.is_none() {
        toolchain::run_cargo(&["fmt", "--all", "--check"])?;
        toolchain::run_cargo(&["clippy", "--workspace", "--all-targets", "--", "-D", "warnings"])?;
    }
    let binary = toolchain::build_binary()?;
    let ci = std::env::var("CI").is_ok_and(|v| v == "true" || v == "1");
    let nextest = |which: &str| -> Result<Command> {
        let mut cargo = toolchain::cargo()?;
        let which = match &options.filter {
            Some(file) if is_suite_file(file) => format!("({which}) and binary(={file})"),
            Some(part) => format!("({which}) and test(~{part})"),
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

fn is_suite_file(name: &str) -> bool {
    g211s_tests::root().join("tests/suite").join(format!("{name}.rs")).exists()
}
