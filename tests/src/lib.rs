//! The harness of the scenario tests: Go services, hogs, the `g211s` binary, and sources of truth
//! (gctrace, perf, bpftrace, strace) to compare it with. The scenarios are in `suite/`, one file a
//! subject; the Go sources in `workloads/`.
//!
//! Rooms: [`proc`] (children that cannot outlive us), [`go`] (toolchains and builds),
//! [`service`] (workloads, load, hogs), [`agent`] (runs of `g211s`), [`report`] (its JSON),
//! [`browser`] (a headless Chromium), [`truth`] (what others say), [`kernel`] (what this machine lets us do), [`stats`],
//! [`paired`] (what something costs a program), [`python`] (checks of exports by others' libraries), [`tmux`] (a terminal),
//! [`lab`] (the fault laboratory), [`leaks`] (programs that
//! leak), [`fleet`] and [`scrape`] (many services, and an agent that watches them).
//!
//! This library must not know: what a scenario asserts. `cargo xtask demo` and `cargo xtask lab`
//! use it as well.

pub mod agent;
pub mod browser;
pub mod fleet;
pub mod folder;
pub mod go;
pub mod kernel;
pub mod lab;
pub mod leaks;
pub mod paired;
pub mod proc;
pub mod python;
pub mod report;
pub mod scrape;
pub mod service;
pub mod stats;
pub mod tmux;
pub mod truth;

use std::path::PathBuf;

/// The project's folder.
pub fn root() -> PathBuf {
    let here = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
    here.parent().map_or(here.clone(), PathBuf::from)
}

/// Where cargo builds to, here.
pub fn target_dir() -> PathBuf {
    match std::env::var_os("CARGO_TARGET_DIR") {
        Some(dir) => root().join(dir),
        None => root().join("target"),
    }
}

/// Whether the long variants were asked for (`cargo xtask test --all`).
pub fn run_all() -> bool {
    std::env::var_os("G211S_TEST_ALL").is_some_and(|v| v == "1")
}

/// Whether a skipped test is a failed one (`CI=true cargo xtask test`).
pub fn skip_is_failure() -> bool {
    std::env::var_os("G211S_REQUIRE_KERNEL").is_some_and(|v| v == "1")
}

/// Ends a test that cannot run here, saying why; with `G211S_REQUIRE_KERNEL=1` fails it instead.
#[macro_export]
macro_rules! skip {
    ($($why:tt)+) => {{
        let why = format!($($why)+);
        assert!(!$crate::skip_is_failure(), "cannot run here: {why}");
        println!("skipped: {why}");
        return Ok(());
    }};
}

/// Skips the test unless BPF programs can be loaded here and each named program is on the PATH.
#[macro_export]
macro_rules! needs_kernel {
    ($($tool:literal),*) => {
        if let Err(why) = $crate::kernel::prepare(&[$($tool),*]) {
            $crate::skip!("{why:#}");
        }
    };
}
