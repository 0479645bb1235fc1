//! A running `g211s agent`, and what it serves, read by a parser of our own.

use std::collections::BTreeMap;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

use crate::agent::binary;
use crate::fleet;
use crate::proc::{Proc, Stream};

/// How long it may take until it listens.
const PATIENCE: Duration = Duration::from_secs(20);

/// A running agent.
pub struct Agent {
    /// The process.
    pub proc: Proc,
    /// Where it listens.
    pub address: String,
}

impl Agent {
    /// Starts one at a free port, with these further arguments.
    pub fn start(args: &[&str]) -> Result<Self> {
        let mut command = Command::new(binary()?);
        command.args(["agent", "--listen", "127.0.0.1:0"]).args(args);
        let mut proc = Proc::spawn(&mut command)?;
        let says = "g211s: metrics at http://";
        let line =
            proc.wait_line(|l| l.stream == Stream::Err && l.text.starts_with(says), PATIENCE)?;
        let address = line.text.trim_start_matches(says).trim_end_matches("/metrics").to_owned();
        Ok(Self { proc, address })
    }

    /// The body of a path, asked for with this `Accept` header.
    pub fn get(&self, path: &str, accept: &str) -> Result<Vec<u8>> {
        fleet::get(&self.address, path, accept)
    }

    /// Its metrics now.
    pub fn scrape(&self) -> Result<Scrape> {
        Scrape::parse(&String::from_utf8(self.get("/metrics", "text/plain")?)?)
    }

    /// Its metrics as soon as `wanted` holds of them.
    pub fn scrape_until(
        &self,
        patience: Duration,
        what: &str,
        wanted: impl Fn(&Scrape) -> bool,
    ) -> Result<Scrape> {
        let deadline = Instant::now() + patience;
        loop {
            let scrape = self.scrape()?;
            if wanted(&scrape) {
                return Ok(scrape);
            }
            if Instant::now() > deadline {
                bail!("not within {patience:?}: {what}\n{}", scrape.text);
            }
            std::thread::sleep(Duration::from_millis(250));
        }
    }
}

/// Metrics in the text format.
pub struct Scrape {
    /// As served.
    pub text: String,
    /// By name with labels.
    samples: BTreeMap<String, f64>,
}

impl Scrape {
    fn parse(text: &str) -> Result<Self> {
        let mut samples = BTreeMap::new();
        for line in text.lines().filter(|l| !l.starts_with('#')) {
            let (name, value) = line.rsplit_once(' ').with_context(|| format!("`{line}`"))?;
            ensure!(samples.insert(name.to_owned(), value.parse()?).is_none(), "twice: {name}");
        }
        Ok(Self { text: text.to_owned(), samples })
    }

    /// The sum of all samples of this name whose labels contain `labels`; `None` if there is none.
    pub fn find(&self, name: &str, labels: &str) -> Option<f64> {
        let own = |sample: &&String| {
            let (base, rest) = sample.split_once('{').unwrap_or((sample.as_str(), ""));
            base == name && rest.contains(labels)
        };
        let found: Vec<f64> =
            self.samples.iter().filter(|(s, _)| own(s)).map(|(_, v)| *v).collect();
        (!found.is_empty()).then(|| found.iter().sum())
    }

    /// The same, which must be there.
    pub fn value(&self, name: &str, labels: &str) -> Result<f64> {
        self.find(name, labels).with_context(|| format!("no {name}{{{labels}}} in\n{}", self.text))
    }

    /// How many samples there are.
    pub fn len(&self) -> usize {
        self.samples.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.samples.is_empty()
    }
}
