//! The JSON report (`g211s.report/1`), as scenarios read it. All knowledge of where a figure
//! stands in it is here.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use crate::proc::Finished;

/// A report.
#[derive(Clone, Debug)]
pub struct Report(pub Value);

/// A garbage collection. Times are `CLOCK_MONOTONIC` ns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cycle {
    /// Start of the sweep-termination stop.
    pub start_ns: u64,
    /// To the end of the mark-termination stop.
    pub duration_ns: u64,
    /// Concurrent mark.
    pub mark_ns: u64,
    /// The sweep-termination stop: `sweep_term_ns`, or else the stop that begins the cycle.
    pub sweep_term_ns: Option<u64>,
    /// The mark-termination stop: `mark_term_ns`, or else the last stop for it in the cycle (it
    /// is tried again when there turns out to be work left).
    pub mark_term_ns: Option<u64>,
}

/// A share of a stop and what it went to.
#[derive(Clone, Debug)]
pub struct Cause {
    /// E.g. `preempted`, `runnable`, `running`, `blocked`.
    pub kind: String,
    /// How much of it.
    pub ns: u64,
    /// Whose time.
    pub tid: u32,
    /// Who had the CPU instead.
    pub behind: Vec<Culprit>,
    /// The function that it was in, where told.
    pub code: Option<String>,
}

/// Who had a CPU that another thread waited for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Culprit {
    /// Its process (or thread where that is all there is).
    pub pid: u32,
    /// The thread, where told.
    pub tid: Option<u32>,
    /// Its name.
    pub comm: String,
    /// For how long, where told.
    pub ns: u64,
    /// Whether it is the target itself.
    pub own: bool,
    /// Whether it is g211s.
    pub observer: bool,
}

/// A wait for a CPU outside stops.
#[derive(Clone, Debug)]
pub struct Delay {
    /// Who waited.
    pub tid: u32,
    /// Since when, `CLOCK_MONOTONIC` ns.
    pub start_ns: u64,
    /// How long.
    pub wait_ns: u64,
    /// Who had the CPU.
    pub behind: Vec<Culprit>,
    /// What it went to, where the report says so.
    pub causes: Vec<Cause>,
}

impl Delay {
    /// What it went to: its causes, or else the waits behind those who had the CPU.
    pub fn told(&self) -> Vec<Cause> {
        if !self.causes.is_empty() {
            return self.causes.clone();
        }
        let wait = |who: &Culprit| Cause {
            kind: "runqueue_wait".into(),
            ns: who.ns,
            tid: self.tid,
            behind: vec![who.clone()],
            code: None,
        };
        self.behind.iter().map(wait).collect()
    }
}

/// Something that a goroutine or a P waited for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Wait {
    /// Since when, `CLOCK_MONOTONIC` ns.
    pub start_ns: u64,
    /// How long.
    pub ns: u64,
    /// The goroutine, where the report has it.
    pub goid: Option<u64>,
}

/// A stop of the world.
#[derive(Clone, Debug)]
pub struct Stw {
    /// Why.
    pub reason: String,
    /// When, `CLOCK_MONOTONIC` ns.
    pub start_ns: u64,
    /// Until the world stood.
    pub stopping_ns: u64,
    /// While it stood.
    pub stopped_ns: u64,
    /// Both.
    pub total_ns: u64,
    /// Last thread to stop, where there was one.
    pub laggard_tid: Option<u32>,
    /// Time that `causes` account for.
    pub explained_ns: u64,
    /// The rest.
    pub unexplained_ns: u64,
    /// What the time went to.
    pub causes: Vec<Cause>,
}

impl Report {
    /// The report of a run, which must have succeeded.
    pub fn of(run: &Finished) -> Result<Self> {
        ensure!(run.code() == 0, "g211s failed with {}: {}", run.code(), run.stderr());
        Self::parse(&run.stdout())
    }

    /// A report from its text.
    pub fn parse(text: &str) -> Result<Self> {
        let json: Value = serde_json::from_str(text).context("the report is not JSON")?;
        ensure!(json["schema"] == "g211s.report/1", "schema {}", json["schema"]);
        Ok(Self(json))
    }

    /// The value at a JSON pointer such as `/runqueue/p99_ns`.
    pub fn at(&self, pointer: &str) -> Result<&Value> {
        self.0.pointer(pointer).with_context(|| format!("the report has no {pointer}"))
    }

    /// The whole number there.
    pub fn number(&self, pointer: &str) -> Result<u64> {
        number(self.at(pointer)?).with_context(|| format!("{pointer} is no whole number"))
    }

    /// Window of observation, `CLOCK_MONOTONIC` ns: from, to.
    pub fn window(&self) -> Result<(u64, u64)> {
        let start = self.number("/window/start_ns")?;
        Ok((start, start + self.number("/window/duration_ns")?))
    }

    /// Garbage collections.
    pub fn cycles(&self) -> Result<Vec<Cycle>> {
        let cycle = |v: &Value| {
            Some(Cycle {
                start_ns: number(&v["start_ns"])?,
                duration_ns: number(&v["duration_ns"])?,
                mark_ns: number(&v["mark_ns"])?,
                sweep_term_ns: number(&v["sweep_term_ns"]),
                mark_term_ns: number(&v["mark_term_ns"]),
            })
        };
        let mut cycles = self.list("/gc/cycles", cycle)?;
        let stws = self.stws()?;
        for cycle in &mut cycles {
            let end_ns = cycle.start_ns + cycle.duration_ns;
            let within = |s: &&Stw| s.start_ns >= cycle.start_ns && s.start_ns < end_ns;
            let of = |what: &'static str| {
                let named = move |s: &&Stw| s.reason.to_lowercase().contains(what);
                stws.iter().filter(within).filter(named)
            };
            let first = of("sweep").next().map(|s| s.total_ns);
            let last = of("mark").next_back().map(|s| s.total_ns);
            cycle.sweep_term_ns = cycle.sweep_term_ns.or(first);
            cycle.mark_term_ns = cycle.mark_term_ns.or(last);
        }
        Ok(cycles)
    }

    /// Stops of the world.
    pub fn stws(&self) -> Result<Vec<Stw>> {
        let stw = |v: &Value| {
            Some(Stw {
                reason: text(&v["reason"])?,
                start_ns: number(&v["start_ns"])?,
                stopping_ns: number(&v["stopping_ns"])?,
                stopped_ns: number(&v["stopped_ns"])?,
                total_ns: number(&v["total_ns"])?,
                laggard_tid: number(&v["laggard_tid"]).map(|n| n as u32),
                explained_ns: number(&v["explained_ns"])?,
                unexplained_ns: number(&v["unexplained_ns"])?,
                causes: v["causes"].as_array()?.iter().map(cause).collect::<Option<_>>()?,
            })
        };
        self.list("/stw", stw)
    }

    fn list<T>(&self, pointer: &str, item: impl Fn(&Value) -> Option<T>) -> Result<Vec<T>> {
        let values =
            self.at(pointer)?.as_array().with_context(|| format!("{pointer} is no list"))?;
        let items = values.iter().map(|v| item(v).with_context(|| format!("{pointer}: {v}")));
        items.collect()
    }

    /// Events by class under `/events/received`, `lost` or `produced`, without the total.
    pub fn events(&self, what: &str) -> Result<BTreeMap<String, u64>> {
        let pointer = format!("/events/{what}");
        let object =
            self.at(&pointer)?.as_object().with_context(|| format!("{pointer}: no object"))?;
        let classes = object.iter().filter(|(class, _)| *class != "total");
        Ok(classes.filter_map(|(class, n)| Some((class.clone(), number(n)?))).collect())
    }

    /// Hits of the probes whose site is of this name (any target).
    pub fn hits(&self, site: &str) -> Result<u64> {
        let hits = self.at("/cost/probe_hits")?;
        if let Some(by_site) = hits.as_object() {
            return Ok(by_site
                .iter()
                .filter(|(k, _)| k.starts_with(site))
                .filter_map(|(_, n)| number(n))
                .sum());
        }
        let list = hits.as_array().context("/cost/probe_hits is neither list nor object")?;
        let of_site = |v: &&Value| v["site"].as_str().is_some_and(|s| s.starts_with(site));
        Ok(list.iter().filter(of_site).filter_map(|v| number(&v["hits"])).sum())
    }

    /// The worst waits for a CPU outside stops.
    pub fn delays(&self) -> Result<Vec<Delay>> {
        self.list("/delays/worst", |v| {
            let causes = v["causes"].as_array().map(|c| c.iter().filter_map(cause).collect());
            Some(Delay {
                tid: number(&v["tid"])? as u32,
                start_ns: number(&v["start_ns"])?,
                wait_ns: number(&v["wait_ns"])?,
                behind: culprits(&v["behind"]),
                causes: causes.unwrap_or_default(),
            })
        })
    }

    /// The longest stalls of goroutines that had to assist the collector.
    pub fn assist_stalls(&self) -> Result<Vec<Wait>> {
        self.list("/goroutine_delays/assists/worst", wait)
    }

    /// The longest times for which threads kept their P in a system call.
    pub fn ps_held_in_syscalls(&self) -> Result<Vec<Wait>> {
        let held = self.list("/goroutine_delays/p_held/worst", |v| {
            Some((v["off"] == "syscall").then_some(wait(v)?))
        })?;
        Ok(held.into_iter().flatten().collect())
    }

    /// Whether goroutines waited for want of Ps, in the report's word.
    pub fn saturation(&self) -> Result<String> {
        let verdict = self.at("/goroutine_delays/saturation/verdict")?.as_str();
        Ok(verdict.context("/goroutine_delays/saturation/verdict is no string")?.to_owned())
    }

    /// The figures that this verdict is made from.
    pub fn saturation_figures(&self) -> Result<BTreeMap<String, u64>> {
        let figures = self.at("/goroutine_delays/saturation/figures")?.as_object();
        let figures = figures.context("/goroutine_delays/saturation/figures is no object")?;
        Ok(figures.iter().filter_map(|(k, v)| Some((k.clone(), number(v)?))).collect())
    }

    /// The largest preemption delay: how long, and who had the CPU.
    pub fn worst_preemption(&self) -> Result<(u64, Vec<Culprit>)> {
        let largest = self.at("/delays/largest")?.as_array().context("/delays/largest: no list")?;
        let worst = largest
            .iter()
            .find(|d| d["wait"] == "preempted")
            .context("no preemption delay over the threshold")?;
        let ns = number(&worst["wait_ns"]).context("/delays/largest[] has no wait_ns")?;
        Ok((ns, culprits(&worst["behind"])))
    }

    /// Where the probes sit: offsets in the executable.
    pub fn probe_offsets(&self) -> Result<Vec<u64>> {
        self.list("/target/probes", |v| number(&v["file_offset"]))
    }

    /// Threads in the per-thread table.
    pub fn threads(&self) -> Result<BTreeSet<u32>> {
        let list = self.list("/threads/list", |v| number(&v["tid"]).map(|n| n as u32))?;
        Ok(list.into_iter().collect())
    }

    /// Paths of every key; `[]` stands for any element of a list. What is under a list that is
    /// empty here is unknown, so [`Shape::differences`] leaves it out.
    pub fn shape(&self) -> Shape {
        let mut shape = Shape::default();
        shape.add("", &self.0);
        shape
    }

    /// The report without the fields about the run itself.
    pub fn without_run(&self) -> Value {
        let mut json = self.0.clone();
        if let Some(object) = json.as_object_mut() {
            object.remove("run");
        }
        json
    }
}

/// The key paths of a report.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Shape {
    paths: BTreeSet<String>,
    /// Lists without elements and nulls: nothing is known of what they would hold.
    open: BTreeSet<String>,
}

impl Shape {
    fn add(&mut self, path: &str, value: &Value) {
        match value {
            Value::Object(fields) => {
                for (key, value) in fields {
                    // Tables by number (of a thread, a process …) have the same shape whatever
                    // the numbers are.
                    let key = if key.parse::<u64>().is_ok() { "#" } else { key };
                    let path = format!("{path}/{key}");
                    self.paths.insert(path.clone());
                    self.add(&path, value);
                }
            }
            Value::Array(items) => {
                let path = format!("{path}[]");
                if items.is_empty() {
                    self.open.insert(path.clone());
                }
                for item in items {
                    self.add(&path, item);
                }
            }
            Value::Null => {
                self.open.insert(path.to_owned());
            }
            _ => {}
        }
    }

    /// Paths that one has and the other lacks.
    pub fn differences(&self, other: &Self) -> Vec<String> {
        let unknown = |path: &String| {
            self.open
                .iter()
                .chain(&other.open)
                .any(|open| path.starts_with(open.as_str()) && path != open)
        };
        self.paths
            .symmetric_difference(&other.paths)
            .filter(|path| !unknown(path))
            .cloned()
            .collect()
    }
}

fn number(value: &Value) -> Option<u64> {
    value.as_u64()
}

fn text(value: &Value) -> Option<String> {
    value.as_str().map(str::to_owned)
}

fn wait(value: &Value) -> Option<Wait> {
    Some(Wait {
        start_ns: number(&value["start_ns"])?,
        ns: number(&value["ns"])?,
        goid: number(&value["goid"]),
    })
}

fn cause(value: &Value) -> Option<Cause> {
    Some(Cause {
        kind: text(&value["kind"])?,
        ns: number(&value["ns"])?,
        tid: number(&value["tid"]).unwrap_or(0) as u32,
        behind: culprits(&value["behind"]),
        code: text(&value["code"]["function"]),
    })
}

/// One culprit or a list of them.
fn culprits(value: &Value) -> Vec<Culprit> {
    let one = |v: &Value| {
        Some(Culprit {
            pid: number(&v["pid"])? as u32,
            tid: number(&v["tid"]).map(|n| n as u32),
            comm: text(&v["comm"])?,
            ns: number(&v["ns"]).unwrap_or(0),
            own: v["own"] == true,
            observer: v["observer"] == true,
        })
    };
    match value {
        Value::Array(list) => list.iter().filter_map(one).collect(),
        other => one(other).into_iter().collect(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn shapes_ignore_what_is_empty() {
        let shape = |v| Report(v).shape();
        let full = shape(json!({"a": [{"b": 1, "c": null}], "d": {"17": {"e": 1}}}));
        assert!(full.differences(&shape(json!({"a": [], "d": {"4": {"e": 2}}}))).is_empty());
        assert_eq!(
            full.differences(&shape(json!({"a": [{"b": 1}], "d": {}}))),
            ["/a[]/c", "/d/#", "/d/#/e"]
        );
    }

    #[test]
    fn a_cycle_finds_its_stops() {
        let stw = |reason: &str, start: u64, total: u64| {
            json!({"reason": reason, "start_ns": start, "total_ns": total, "stopping_ns": 0,
                   "stopped_ns": total, "explained_ns": 0, "unexplained_ns": total, "causes": []})
        };
        let report = Report(json!({
            "gc": {"cycles": [{"start_ns": 100, "duration_ns": 100, "mark_ns": 80}]},
            "stw": [stw("GC mark termination", 90, 1), stw("GC sweep termination", 100, 2),
                    stw("GC mark termination", 150, 3), stw("GC mark termination", 190, 4)],
        }));
        let cycle = report.cycles().unwrap()[0];
        assert_eq!((cycle.sweep_term_ns, cycle.mark_term_ns), (Some(2), Some(4)));
    }

    #[test]
    fn culprits_come_alone_or_in_lists() {
        let hog =
            [Culprit { pid: 7, tid: None, comm: "hog".into(), ns: 0, own: false, observer: false }];
        assert_eq!(culprits(&json!({"pid": 7, "comm": "hog"})), hog);
        assert_eq!(culprits(&json!([{"pid": 7, "comm": "hog"}])), hog);
        assert!(culprits(&Value::Null).is_empty());
    }
}
