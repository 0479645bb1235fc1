//! Programs that leak in a known way, or not at all (`workloads/leaks`): how to start one, and what it
//! says of itself. Must not know how a leak is found.

use std::time::Duration;

use anyhow::{Context, Result};
use serde::Deserialize;

use crate::proc::Line;
use crate::service::{Launch, Service};

/// The kinds that leak.
pub const LEAKS: [&str; 8] =
    ["goroutine", "map", "subslice", "channel", "response", "slice", "pool", "closure"];
/// The kinds that only look like it: a cache that fills and stays, load that comes and goes, a table
/// that is loaded once.
pub const HEALTHY: [&str; 3] = ["cache", "diurnal", "step"];

/// What is true of a program.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq)]
pub struct Truth {
    /// Its kind.
    pub kind: String,
    /// Whether it leaks.
    pub leaks: bool,
    /// The function that makes what stays, or what grows for a while.
    pub function: String,
    /// Its file.
    pub file: String,
    /// The line.
    pub line: u32,
    /// Beginnings of the names of functions that really allocate where that line calls others, or
    /// has other goroutines do it.
    #[serde(rename = "in")]
    pub within: Vec<String>,
}

/// What it says after a collection.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq)]
pub struct Heap {
    /// Collections so far.
    pub gc: u32,
    /// Since its start.
    pub seconds: f64,
    /// Bytes of objects right after the collection.
    pub live: u64,
    /// Bytes that it keeps on purpose.
    pub held: u64,
}

/// One that runs.
pub struct Leak {
    /// The process.
    pub service: Service,
    /// What is true of it.
    pub truth: Truth,
}

impl Leak {
    /// Starts one, stripped, and waits until it has begun to do what it does.
    pub fn start(kind: &str, version: &str, seed: u32, more: &[&str]) -> Result<Self> {
        let seed = seed.to_string();
        let args = ["-kind", kind, "-seed", &seed];
        let mut service = Launch::new("leaks", version).args(&args).args(more).start()?;
        let told = |l: &Line| l.text.starts_with("truth ");
        let line = service.proc.wait_line(told, Duration::from_secs(30))?;
        let truth = serde_json::from_str(line.text.trim_start_matches("truth "));
        Ok(Self { service, truth: truth.context("the truth")? })
    }

    /// What it said of its heap so far.
    pub fn heaps(&self) -> Result<Vec<Heap>> {
        let lines = self.service.proc.lines();
        let heaps = lines.iter().filter_map(|l| l.text.strip_prefix("heap "));
        heaps.map(|text| serde_json::from_str(text).context("a heap")).collect()
    }
}
