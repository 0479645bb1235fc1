//! A recording as a profile for pprof: stalled time instead of CPU time, with the same sums as the report's table of
//! stalls. Of a recording of allocations, its allocations. Must not know how stalls are explained.
//!
//! A cause is no code, so most stacks are made of words: who or what it was, what kind of cause, in which part of which
//! stop or outside of all. Where the report names code, that is the leaf.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write as _;

use anyhow::{Context as _, Result};

use super::Export;
use super::output::Output;
use super::perfetto::word;
use crate::allocs;
use crate::analysis::verdict::{CauseKind, syscall_name};
use crate::event::Event;
use crate::profile::{Label, LabelValue, Location, Profile, ValueType, pprof};
use crate::record::{Record, SymbolFrame};
use crate::report::format::{clean, comm, duration};
use crate::report::schema::{BehindProcess, PlaceReport, TargetReport};
use crate::report::{Evidence, Note, Pipeline, Report};

/// Time of waits outside stops: of a thread, with a kind of cause, behind a process.
struct Waited {
    tid: u32,
    kind: CauseKind,
    behind: Option<(u32, String)>,
    ns: u64,
    count: u64,
}

/// A frame: a function, and where.
type Frame = (String, Option<String>, Option<u32>);

/// What tells one sample from another.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
struct Key {
    /// Innermost first.
    frames: Vec<Frame>,
    texts: Vec<(&'static str, String)>,
    numbers: Vec<(&'static str, u64)>,
}

/// A profile being made.
pub(super) struct Stalls {
    out: Output,
    allocations: allocs::model::Model,
    waited: Vec<Vec<Waited>>,
}

impl Stalls {
    pub(super) fn new(out: Output) -> Self {
        Self { out, allocations: allocs::model::Model::default(), waited: Vec::new() }
    }
}

impl Export for Stalls {
    fn record(&mut self, record: &Record) -> Result<()> {
        let wanted = matches!(
            record,
            Record::Start(_)
                | Record::End(_)
                | Record::Symbol(_)
                | Record::AllocRun(_)
                | Record::AllocStack(_)
                | Record::AllocSamples(_)
                | Record::AllocState(_)
                | Record::AllocSums(_)
        );
        if wanted {
            self.allocations.push(record.clone());
        }
        Ok(())
    }

    fn event(&mut self, _event: &Event, _seen: &Evidence<'_>) -> Result<()> {
        Ok(())
    }

    fn note(&mut self, _note: &Note) -> Result<()> {
        Ok(())
    }

    fn flushed(&mut self, run: &Pipeline) -> Result<()> {
        for index in 0.. {
            let Some(stalls) = run.stalls(index) else { break };
            let one = |(tid, kind, w): (u32, CauseKind, &crate::analysis::stalls::Waited)| Waited {
                tid,
                kind,
                behind: w.behind.map(|r| (r.tgid, comm(&r.comm))),
                ns: w.ns,
                count: w.count,
            };
            self.waited.push(stalls.waited().map(one).collect());
        }
        Ok(())
    }

    fn finish(mut self: Box<Self>, report: &Report) -> Result<u64> {
        let profile = if self.allocations.is_of_allocations() {
            let document = allocs::schema::document(&self.allocations);
            allocs::output::profile(&self.allocations, &document)
        } else {
            profile(report, &self.waited)
        };
        let bytes = pprof::to_bytes(&profile).context("packing the profile")?;
        self.out.write_all(&bytes).map_err(|e| self.out.error(e))?;
        self.out.finish()?;
        Ok(0)
    }
}

fn profile(report: &Report, waited: &[Vec<Waited>]) -> Profile {
    let mut p = Profile::new(vec![
        ValueType::new("stalls", "count"),
        ValueType::new("stall", "nanoseconds"),
    ]);
    p.default_sample_type = Some("stall".to_owned());
    p.time_ns = i64::try_from(report.first.window.wall_ns).unwrap_or(0);
    p.duration_ns = i64::try_from(report.first.window.duration_ns).unwrap_or(0);
    let mut samples: BTreeMap<Key, (u64, u64)> = BTreeMap::new();
    let several = !report.others.is_empty();
    for (index, target) in std::iter::once(&report.first).chain(&report.others).enumerate() {
        p.comments.push(format!(
            "g211s {}: {} of stalls of {} (pid {}) in {}",
            report.run.g211s_version,
            duration(target.stalls.total_ns),
            target.target.comm,
            target.target.pid,
            duration(target.window.duration_ns),
        ));
        let names = Names::new(target, several);
        stops(target, &names, &mut samples);
        for w in waited.get(index).map_or(&[][..], Vec::as_slice) {
            let key = names.wait(w);
            let sum = samples.entry(key).or_default();
            *sum = (sum.0.saturating_add(w.count), sum.1.saturating_add(w.ns));
        }
    }
    for (key, (count, ns)) in samples {
        push(&mut p, key, count, ns);
    }
    p
}

/// What stops went to. A stop counts once a cause and process, as in the table.
fn stops(target: &TargetReport, names: &Names<'_>, samples: &mut BTreeMap<Key, (u64, u64)>) {
    for stop in &target.stw {
        let mut counted = BTreeSet::new();
        for c in &stop.causes {
            let mut frames: Vec<Frame> = Vec::new();
            if let Some(code) = &c.code {
                frames.push(place(&code.place));
                frames.extend(code.caller.as_ref().map(place));
            }
            let culprit = c.behind.as_ref().map(|b| names.culprit(b.pid, &b.comm));
            frames.extend(culprit.clone().map(|c| words(&format!("behind {c}"))));
            frames.extend(c.syscall.map(|nr| words(&in_syscall(nr))));
            frames.push(words(&word(&c.kind)));
            frames.push(words(&word(&c.phase)));
            frames.push(words(&format!("stop of the world: {}", stop.reason)));
            let mut texts = vec![("cause", word(&c.kind)), ("phase", word(&c.phase))];
            texts.extend(culprit.map(|c| ("culprit", c)));
            texts.push(("reason", stop.reason.clone()));
            let mut numbers = vec![("tid", u64::from(c.tid))];
            numbers.extend(c.m_id.map(|m| ("m", m)));
            let key = names.key(frames, texts, numbers);
            let first = counted.insert((c.kind, c.behind.as_ref().map(|b| b.pid)));
            let sum = samples.entry(key).or_default();
            *sum = (sum.0.saturating_add(u64::from(first)), sum.1.saturating_add(c.ns));
        }
    }
}

fn in_syscall(nr: i32) -> String {
    syscall_name(nr).map_or_else(|| format!("in system call {nr}"), |name| format!("in {name}"))
}

fn place(p: &PlaceReport) -> Frame {
    (p.function.clone(), p.file.clone(), p.line)
}

/// A frame of words. pprof takes brackets for a language's.
fn words(text: &str) -> Frame {
    (text.replace(['[', '<'], "(").replace([']', '>'], ")"), None, None)
}

/// Who is who in one target.
struct Names<'a> {
    target: &'a TargetReport,
    processes: BTreeMap<u32, &'a BehindProcess>,
    ms: BTreeMap<u32, u64>,
    /// There are others: frames say which.
    several: bool,
}

impl<'a> Names<'a> {
    fn new(target: &'a TargetReport, several: bool) -> Self {
        let rows = target.stalls.by_cause.iter().filter_map(|c| c.behind.as_ref());
        let threads = target.threads.list.iter().filter_map(|t| Some((t.tid, t.m_id?)));
        Self {
            target,
            processes: rows.map(|b| (b.pid, b)).collect(),
            ms: threads.collect(),
            several,
        }
    }

    fn culprit(&self, pid: u32, comm: &str) -> String {
        match self.processes.get(&pid) {
            Some(b) if b.own => "its own threads".to_owned(),
            Some(b) if b.observer => format!("g211s itself (pid {pid})"),
            Some(b) => format!("{} (pid {pid})", b.comm),
            None => format!("{} (pid {pid})", clean(comm)),
        }
    }

    fn wait(&self, w: &Waited) -> Key {
        let culprit = w.behind.as_ref().map(|(pid, comm)| self.culprit(*pid, comm));
        let mut frames: Vec<Frame> = Vec::new();
        frames.extend(culprit.clone().map(|c| words(&format!("behind {c}"))));
        frames.push(words(&word(&w.kind)));
        frames.push(words("outside stops"));
        let mut texts = vec![("cause", word(&w.kind))];
        texts.extend(culprit.map(|c| ("culprit", c)));
        let mut numbers = vec![("tid", u64::from(w.tid))];
        numbers.extend(self.ms.get(&w.tid).map(|m| ("m", *m)));
        self.key(frames, texts, numbers)
    }

    fn key(
        &self,
        mut frames: Vec<Frame>,
        texts: Vec<(&'static str, String)>,
        mut numbers: Vec<(&'static str, u64)>,
    ) -> Key {
        let target = &self.target.target;
        if self.several {
            frames.push(words(&format!("{} (pid {})", target.comm, target.pid)));
        }
        numbers.push(("pid", target.pid.into()));
        Key { frames, texts, numbers }
    }
}

fn push(p: &mut Profile, key: Key, count: u64, ns: u64) {
    let stack: Vec<_> = key
        .frames
        .into_iter()
        .map(|(function, file, line)| {
            let frame = SymbolFrame { function, file, line, inlined: false };
            p.location(Location { address: 0, frames: [frame].into() })
        })
        .collect();
    let texts = key.texts.into_iter().map(|(key, text)| Label {
        key: key.into(),
        value: LabelValue::Text(text.as_str().into()),
    });
    let number = |n: u64| i64::try_from(n).unwrap_or(i64::MAX);
    let numbers = key
        .numbers
        .into_iter()
        .map(|(key, n)| Label { key: key.into(), value: LabelValue::Number(number(n), "".into()) });
    let labels = texts.chain(numbers).collect();
    p.push(&stack, &[number(count), number(ns)], labels);
}
