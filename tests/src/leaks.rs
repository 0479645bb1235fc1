//! Programs that leak in a known way, or not at all (`workloads/leaks`): how to start one, what it
//! says of itself, and whether a search for leaks says the same. Must not know how a leak is found.

use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde::Deserialize;
use serde_json::Value;

use crate::agent;
use crate::proc::{Line, Proc};
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
    /// The same of functions that make smaller things which stay with it: not the leak, and no false alarm either.
    pub also: Vec<String>,
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
        let mut service = launch(kind, version, seed, more)?;
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

/// Starts one, stripped, before it does anything.
pub fn launch(kind: &str, version: &str, seed: u32, more: &[&str]) -> Result<Service> {
    let seed = seed.to_string();
    let args = ["-kind", kind, "-seed", &seed];
    Launch::new("leaks", version).args(&args).args(more).start()
}

/// A `g211s leaks` that runs.
pub struct Search(Proc);

/// What it said.
#[derive(Clone, Debug)]
pub struct Told {
    /// The document.
    pub document: Value,
    /// The exit code.
    pub code: i32,
}

impl Search {
    /// Of a process.
    pub fn start(pid: u32, duration: Duration, more: &[&str]) -> Result<Self> {
        let mut command = Command::new(agent::binary()?);
        let (pid, duration) = (pid.to_string(), format!("{}ms", duration.as_millis()));
        command.args(["leaks", "--json", "--pid", &pid, "--duration", &duration]).args(more);
        Ok(Self(Proc::spawn(&mut command)?))
    }

    /// Waits for its end.
    pub fn finish(self, within: Duration) -> Result<Told> {
        let done = self.0.finish(within)?;
        let code = done.code();
        ensure!(code == 0 || code == 3, "exit code {code}: {}", done.stderr());
        let document: Value = serde_json::from_str(&done.stdout()).context("its JSON")?;
        ensure!(document["schema"] == "g211s.leaks/1", "{}", document["schema"]);
        Ok(Told { document, code })
    }
}

impl Told {
    /// What is called a leak: its place, in words, and the functions that it names.
    pub fn leaks(&self) -> Vec<(String, Vec<String>)> {
        let list = |key: &str| self.document[key].as_array().cloned().unwrap_or_default();
        let name = |v: &Value| v.as_str().unwrap_or_default().to_owned();
        let place = |v: &Value| {
            let file = name(&v["file"]);
            let file = file.rsplit('/').next().unwrap_or_default().to_owned();
            format!("{} {file}:{}", name(&v["function"]), v["line"])
        };
        let leaks = |v: &&Value| v["judgement"] == "leak";
        let sites: Vec<Value> = list("sites");
        let sites = sites
            .iter()
            .filter(leaks)
            .map(|s| (place(s), vec![name(&s["function"]), name(&s["inside"]["function"])]));
        let goroutines: Vec<Value> = list("goroutines");
        let goroutines = goroutines
            .iter()
            .filter(leaks)
            .map(|g| (format!("go {}", place(&g["site"])), vec![name(&g["site"]["function"])]));
        sites.chain(goroutines).collect()
    }

    /// Whether the leak is named by the line that makes it, or where others really do by what they are.
    pub fn names(&self, truth: &Truth) -> bool {
        let file = truth.file.rsplit('/').next().unwrap_or_default();
        let line = format!("{} {file}:{}", truth.function, truth.line);
        self.leaks().iter().any(|(place, functions)| {
            *place == line || functions.iter().any(|f| is_within(truth, f))
        })
    }

    /// What is called a leak and has nothing to do with the one that is known.
    pub fn others(&self, truth: Option<&Truth>) -> Vec<String> {
        let is_its = |functions: &[String]| {
            truth.is_some_and(|t| {
                let with_it =
                    |f: &String| t.also.iter().any(|prefix| f.starts_with(prefix.as_str()));
                functions.iter().any(|f| *f == t.function || is_within(t, f) || with_it(f))
            })
        };
        let others = self.leaks().into_iter().filter(|(_, functions)| !is_its(functions));
        others.map(|(place, _)| place).collect()
    }
}

fn is_within(truth: &Truth, function: &str) -> bool {
    truth.within.iter().any(|prefix| function.starts_with(prefix.as_str()))
}
