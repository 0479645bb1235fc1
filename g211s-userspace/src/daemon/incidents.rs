//! When a recording of the last seconds is written: what an incident is, and how often there may be one. Must not know
//! how a recording is made.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};

use super::capture::{Folder, Ring};
use super::config::Capture;
use super::{Agent, own, wall_ns};
use crate::agent::now_ns;
use crate::agent::run::Sink as _;

/// Helpings of events taken before a recording, at most.
const HELPINGS: usize = 64;

/// A recording of an incident that is being waited for.
pub(super) struct Pending {
    due: Instant,
    why: String,
    name: String,
}

/// The ring that is to be kept.
pub(super) fn ring_for(capture: Option<&Capture>) -> Result<Option<Ring>> {
    let new = |c: &Capture| Ring::new(c.seconds.as_nanos() as u64, c.memory);
    Ok(capture.map(new).transpose()?)
}

impl Agent {
    pub(super) fn open_folder(&mut self) -> Result<()> {
        let before = self.folder.take();
        if let Some(c) = &self.config.capture {
            // One that is open already may have a file in it that is just being written.
            if let Some(folder) = before.and_then(|f| f.resized(&c.dir, c.disk)) {
                self.folder = Some(folder);
                return Ok(());
            }
            let folder = Folder::open(&c.dir, c.disk)
                .with_context(|| format!("keeping recordings in {}", c.dir.display()))?;
            self.folder = Some(folder);
        }
        Ok(())
    }

    pub(super) fn look_for_incidents(&mut self) {
        let worst = std::mem::take(&mut self.run.sink.worst);
        let Some(c) = &self.config.capture else { return };
        let reaches = |slot: Option<(u64, u8)>, limit: Duration| {
            slot.filter(|(ns, _)| *ns >= limit.as_nanos() as u64)
        };
        let (what, (ns, index)) =
            match (reaches(worst.stop, c.pause), reaches(worst.delay, c.delay)) {
                (Some(stop), _) => ("pause", stop),
                (None, Some(delay)) => ("delay", delay),
                (None, None) => return,
            };
        if self.pending.is_some() || Instant::now() < self.next_capture {
            *self.own.captures.entry("limited").or_default() += 1;
            return;
        }
        let (pid, comm) = self
            .tenants
            .get(index)
            .map_or((0, "gone".to_owned()), |t| (t.pid, t.facts.comm.clone()));
        let ms = ns / 1_000_000;
        let pending = Pending {
            due: Instant::now() + c.after,
            why: format!("recorded because of a {what} of {ms} ms in {pid} ({comm})"),
            name: format!("{comm}-{pid}-{what}-{ms}ms"),
        };
        self.next_capture = Instant::now() + c.every;
        self.pending = Some(pending);
    }

    pub(super) fn write_pending(&mut self, now: Instant) {
        if self.pending.as_ref().is_none_or(|p| now < p.due) {
            return;
        }
        let (Some(pending), Some(folder)) = (self.pending.take(), self.folder.clone()) else {
            return;
        };
        // What the runtimes have counted by now is in the events that are drained then.
        self.run.sample();
        for _ in 0..HELPINGS {
            if !self.drain() {
                break;
            }
        }
        self.run.intervals();
        self.read_all();
        let head = self.run.head();
        let ring = self.run.sink.ring.as_ref();
        let Some(incident) = ring.and_then(|r| r.incident(head, now_ns(), pending.why)) else {
            return;
        };
        let (path, told) = (folder.name(wall_ns(), &pending.name), self.written.0.clone());
        // Seconds of records take a while to write; events go on meanwhile.
        std::thread::spawn(move || {
            let done = incident.write(&path).map_err(|e| format!("{}: {e:#}", path.display()));
            let done = done.and_then(|bytes| {
                folder.trim().map_err(|e| format!("{}: {e}", path.display()))?;
                Ok(format!("{} ({bytes} bytes)", path.display()))
            });
            // The agent has ended.
            let _ = told.send(done);
        });
    }

    pub(super) fn captured(&mut self, result: Result<String, String>) {
        let (outcome, text) = match result {
            Ok(file) => ("written", format!("an incident was recorded: {file}")),
            Err(why) => ("failed", format!("an incident could not be recorded: {why}")),
        };
        *self.own.captures.entry(outcome).or_default() += 1;
        self.run.sink.say(&text);
        own::give_memory_back();
    }
}
