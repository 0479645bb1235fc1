//! Recordings as traces that Perfetto opens: tracks for threads, CPUs, stops, cycles and counters. docs/exports.md says
//! what is on which. Must not know how a recording is read.
//!
//! Events come in time order and are written as they come, a quarter of a second late at most ([`cpus::HOLD_NS`]);
//! stops and cycles come from the report, at the end: readers of traces sort by time.

mod cpus;
mod names;
mod proto;
mod target;
#[cfg(test)]
mod tests;
mod threads;
mod trace;

use std::collections::BTreeMap;

use anyhow::Result;

use self::cpus::{CpuTracks, HOLD_NS};
use self::names::Whose;
use self::target::TargetTracks;
pub(super) use self::target::word;
use self::threads::ThreadTracks;
use self::trace::Trace;
use super::Export;
use super::output::Output;
use crate::event::Event;
use crate::record::{Record, RunStart, ThreadInfo};
use crate::report::format::clean;
use crate::report::{Evidence, Note, Pipeline, Report};

/// Events between two looks at what is due to be written.
const FLUSH_EVERY: u32 = 2048;

/// A trace being written.
pub(super) struct Perfetto {
    trace: Trace,
    begun: bool,
    tgids: Vec<u32>,
    observer: u32,
    targets: Vec<(TargetTracks, ThreadTracks)>,
    names: BTreeMap<(u8, u32), ThreadInfo>,
    cpus: CpuTracks,
    until_flush: u32,
}

impl Perfetto {
    pub(super) fn new(out: Output) -> Self {
        Self {
            trace: Trace::new(out),
            begun: false,
            tgids: Vec::new(),
            observer: 0,
            targets: Vec::new(),
            names: BTreeMap::new(),
            cpus: CpuTracks::default(),
            until_flush: FLUSH_EVERY,
        }
    }

    fn begin(&mut self, start: &RunStart) -> Result<()> {
        self.begun = true;
        let host = &start.host;
        let trace = &mut self.trace;
        trace.head(start.start_ns, start.wall_ns, clean(&host.kernel), clean(&host.arch))?;
        self.observer = start.settings.observer_pid;
        self.tgids = start.targets.iter().map(|t| t.tgid).collect();
        for (index, target) in start.targets.iter().enumerate() {
            let tracks = TargetTracks::new(trace, index, target)?;
            let threads = ThreadTracks::new(trace, index, target.tgid);
            self.targets.push((tracks, threads));
        }
        Ok(())
    }

    fn flush(&mut self, until_ns: u64) -> Result<()> {
        let (tgids, observer) = (&self.tgids, self.observer);
        // CPUs first: what begins an arrow must come before what ends it at the same time.
        self.cpus.flush(&mut self.trace, until_ns, |tgid| whose(tgids, observer, tgid))?;
        for (_, threads) in &mut self.targets {
            threads.flush(&mut self.trace, until_ns)?;
        }
        Ok(())
    }
}

fn whose(tgids: &[u32], observer: u32, tgid: u32) -> Whose {
    if tgids.contains(&tgid) {
        Whose::Target
    } else if observer != 0 && tgid == observer {
        Whose::Observer
    } else {
        Whose::Other
    }
}

impl Export for Perfetto {
    fn record(&mut self, record: &Record) -> Result<()> {
        match record {
            Record::Start(start) if !self.begun => self.begin(start)?,
            Record::Runtime(sample) => {
                if let Some((tracks, _)) = self.targets.get_mut(usize::from(sample.target)) {
                    tracks.sample(&mut self.trace, sample)?;
                }
            }
            Record::Notice(notice) => {
                let index = usize::from(notice.target.unwrap_or(0));
                if let Some((tracks, _)) = self.targets.get_mut(index) {
                    tracks.notice(&mut self.trace, notice)?;
                }
            }
            Record::Thread(info) => {
                self.names.insert((info.target, info.tid), (**info).clone());
            }
            _ => {}
        }
        Ok(())
    }

    fn event(&mut self, event: &Event, seen: &Evidence<'_>) -> Result<()> {
        let header = event.header();
        if let Event::Slice(slice) = event {
            self.cpus.put(slice);
        } else if let Some((tracks, threads)) = self.targets.get_mut(usize::from(header.target)) {
            match event {
                Event::Thread(e) => {
                    let (tgids, observer) = (&self.tgids, self.observer);
                    let whose = |tgid| whose(tgids, observer, tgid);
                    if let Some(known) = seen.threads {
                        let (trace, cpus) = (&mut self.trace, &mut self.cpus);
                        threads.event(trace, e, known, seen.cpus, cpus, &whose)?;
                    }
                }
                Event::Span(e) => tracks.span(&mut self.trace, e)?,
                Event::Slice(_) | Event::Probe(_) | Event::Life(_) | Event::Stack(_) => {}
            }
        }
        self.until_flush -= 1;
        if self.until_flush == 0 {
            self.until_flush = FLUSH_EVERY;
            self.flush(header.ts_ns.saturating_sub(HOLD_NS))?;
        }
        Ok(())
    }

    fn note(&mut self, _note: &Note) -> Result<()> {
        Ok(())
    }

    fn flushed(&mut self, run: &Pipeline) -> Result<()> {
        self.flush(u64::MAX)?;
        for (index, (tracks, threads)) in self.targets.iter_mut().enumerate() {
            threads.end(&mut self.trace)?;
            if let Some(series) = run.waits(index) {
                tracks.waits(&mut self.trace, series)?;
            }
        }
        Ok(())
    }

    fn finish(mut self: Box<Self>, report: &Report) -> Result<u64> {
        let mut left_out = self.cpus.left_out;
        let reports = std::iter::once(&report.first).chain(&report.others);
        for (index, ((tracks, threads), report)) in self.targets.iter_mut().zip(reports).enumerate()
        {
            tracks.report(&mut self.trace, report)?;
            // By now all names are known.
            for tid in threads.tids() {
                if let Some(info) = self.names.get(&(index as u8, tid)) {
                    let comm = clean(&info.comm);
                    threads.declare(&mut self.trace, tid, info.m_id, Some(&comm))?;
                }
            }
            left_out += tracks.left_out + threads.left_out;
        }
        self.trace.finish()?;
        Ok(left_out)
    }
}
