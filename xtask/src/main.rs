//! g211s's own chores. Each verb first sets up what it needs (`setup`), so that on a machine with
//! nothing but Rust the verb is all there is to type.
//!
//! Rooms: `setup` (what is missing, and getting it), `toolchain` (what is there), `demo`, `test`, `bench`,
//! `lab` (known causes, and what g211s says of them), `vm` (other kernels), `offsets` (the table of the
//! Go runtime's structs).
//! Child processes and Go builds come from the tests' harness.

use std::process::ExitCode;

use clap::{Parser, Subcommand};

mod bench;
mod demo;
mod lab;
mod offsets;
mod setup;
mod test;
mod toolchain;
mod vm;

#[derive(Parser)]
#[command(name = "cargo xtask", about = "g211s's own chores", disable_help_subcommand = true)]
struct Cli {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand)]
enum Verb {
    /// Install what building and testing need and is missing; one line when there is nothing to do
    Setup,
    /// Set up, then build target/release/g211s: one self-contained binary
    Build,
    /// Set up, build, and observe a small Go service that has a CPU hog beside it (needs root)
    Demo(demo::Options),
    /// Set up, then lints, unit tests, and the scenarios on this machine's kernel (need root)
    Test(test::Options),
    /// Set up, build, and run a scenario on other kernels, each in a virtual machine
    Vm(vm::Options),
    /// The fault laboratory: make a known cause of pauses, and see what g211s says of it (needs root)
    Lab(lab::Options),
    /// Set up, build, and measure how fast recordings are analysed, and in how much memory
    Bench(bench::Options),
    /// Measure the Go runtime's structs on every Go release that can be had, into the table of g211s
    Offsets(offsets::Options),
}

fn main() -> ExitCode {
    let done = match Cli::parse().verb {
        Verb::Setup => setup::run(setup::Purpose::Test),
        Verb::Build => setup::run(setup::Purpose::Build).and_then(|()| toolchain::build()),
        Verb::Demo(options) => demo::run(&options),
        Verb::Test(options) => test::run(&options),
        Verb::Vm(options) => vm::run(&options),
        Verb::Lab(options) => lab::run(&options),
        Verb::Bench(options) => bench::run(&options),
        Verb::Offsets(options) => offsets::run(&options),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("xtask: {error:#}");
            ExitCode::FAILURE
        }
    }
}
