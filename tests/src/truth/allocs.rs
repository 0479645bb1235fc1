//! What the workload `allocs` says that it has allocated: it counts by itself, call site by call site.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use nix::sys::signal::Signal;
use serde_json::Value;

use crate::paired::Work;
use crate::proc::Finished;
use crate::service::{Launch, Service};

/// Starts it.
pub fn start(version: &str, args: &[&str]) -> Result<Service> {
    let service = Launch::new("allocs", version).args(args).start()?;
    // Its heap and its spans as they will be.
    std::thread::sleep(Duration::from_millis(800));
    Ok(service)
}

/// Its end, when it has logged what came last.
pub fn truth_of(service: Service) -> Result<Truth> {
    std::thread::sleep(Duration::from_millis(150));
    Ok(Truth::of(&service.proc.stop(Signal::SIGKILL, Duration::from_secs(5))?))
}

/// What every site had allocated in all, at moments.
pub struct Truth {
    at: Vec<(u64, Moment)>,
}

/// A line of its log.
struct Moment {
    cpu_ns: f64,
    made: BTreeMap<String, Made>,
}

/// What a site has made.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
struct Made {
    bytes: f64,
    objects: f64,
}

impl Made {
    fn of(text: &str) -> Option<Self> {
        let (bytes, objects) = text.split_once(',')?;
        Some(Self { bytes: bytes.parse().ok()?, objects: objects.parse().ok()? })
    }

    /// Between two moments, `part` of the way from one to the other.
    fn between(self, then: Self, part: f64) -> Self {
        Self {
            bytes: self.bytes + (then.bytes - self.bytes) * part,
            objects: self.objects + (then.objects - self.objects) * part,
        }
    }
}

impl Truth {
    fn of(done: &Finished) -> Self {
        let line = |text: &str| {
            let (at, rest) = text.strip_prefix("at ")?.split_once(' ')?;
            let (cpu, sites) = rest.strip_prefix("cpu=")?.split_once(' ')?;
            let sites = sites.split(' ').map(|s| {
                let (name, counts) = s.split_once('=')?;
                Some((name.to_owned(), Made::of(counts)?))
            });
            let made = sites.collect::<Option<_>>()?;
            Some((at.parse().ok()?, Moment { cpu_ns: cpu.parse().ok()?, made }))
        };
        Self { at: done.stdout().lines().filter_map(line).collect() }
    }

    fn at(&self, ns: u64) -> Result<Moment> {
        let next = self.at.partition_point(|(at, _)| *at <= ns);
        let lines = next.checked_sub(1).and_then(|i| self.at.get(i..i + 2));
        let Some([(from, a), (to, b)]) = lines else { bail!("a moment that is not in the log") };
        let part = (ns - from) as f64 / (to - from) as f64;
        let made = |(site, made): (&String, &Made)| {
            let then = b.made.get(site).copied().unwrap_or(*made);
            (site.clone(), made.between(then, part))
        };
        Ok(Moment {
            cpu_ns: a.cpu_ns + (b.cpu_ns - a.cpu_ns) * part,
            made: a.made.iter().map(made).collect(),
        })
    }

    /// Bytes by site in the window of a document, the largest first.
    ///
    /// # Errors
    /// A window that is not in the log.
    pub fn within(&self, document: &Value) -> Result<Vec<(String, f64)>> {
        let (start, end) = window(document)?;
        let (a, b) = (self.at(start)?.made, self.at(end)?.made);
        let bytes = |(site, then): (String, Made)| {
            let before = a.get(&site).map_or(0.0, |made| made.bytes);
            (site, then.bytes - before)
        };
        let mut all: Vec<(String, f64)> = b.into_iter().map(bytes).collect();
        all.sort_by(|x, y| y.1.total_cmp(&x.1));
        Ok(all)
    }

    /// Objects made between two moments, of all sites, and the program's CPU time meanwhile, ns.
    ///
    /// # Errors
    /// A time that is not in the log.
    pub fn work(&self, from_ns: u64, to_ns: u64) -> Result<Work> {
        let (a, b) = (self.at(from_ns)?, self.at(to_ns)?);
        let objects = |m: &Moment| m.made.values().map(|made| made.objects).sum::<f64>();
        Ok(Work { done: objects(&b) - objects(&a), cpu_ns: b.cpu_ns - a.cpu_ns })
    }
}

/// When the window of a document of `g211s allocs` began and ended, ns of the monotonic clock.
///
/// # Errors
/// No such document.
pub fn window(document: &Value) -> Result<(u64, u64)> {
    let number =
        |path: &str| document.pointer(path).and_then(Value::as_u64).context(path.to_owned());
    let start = number("/run/start_ns")?;
    Ok((start, start + number("/run/window_ns")?))
}

/// When probes were attached in the window of a document, ns of the monotonic clock.
///
/// # Errors
/// No such document.
pub fn looks(document: &Value) -> Result<Vec<(u64, u64)>> {
    let (start, end) = window(document)?;
    let plans = document.pointer("/run/plans").and_then(Value::as_array).context("no plans")?;
    let from = |plan: &Value| plan["from_ns"].as_u64().map(|ns| start + ns);
    let until = plans.iter().skip(1).map(from).chain([Some(end)]);
    let mut looks: Vec<(u64, u64)> = Vec::new();
    for (plan, until) in plans.iter().zip(until).filter(|(plan, _)| plan["plan"] != "resting") {
        let (from, until) = from(plan).zip(until).context("no times")?;
        match looks.last_mut() {
            // From one plan to another.
            Some(last) if last.1 == from => last.1 = until,
            _ => looks.push((from, until)),
        }
    }
    Ok(looks)
}
