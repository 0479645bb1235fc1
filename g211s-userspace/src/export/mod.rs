//! What `g211s report` writes besides the report: traces for Perfetto, profiles for pprof, tables for notebooks. Files
//! come out of the same stream as the report, in one pass, and agree with it. Must not know BPF, or how a recording is
//! read.
//!
//! Memory is that of the report and of what each format holds back (docs/exports.md): it does not grow with events.

mod output;
mod perfetto;
mod stalls;
mod table;

#[cfg(test)]
mod tests;

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use anyhow::Result;

use output::Output;
pub use output::{is_stdout, write_whole};

use crate::cli::ExportArgs;
use crate::event::Event;
use crate::record::Record;
use crate::report::{Evidence, Note, Pipeline, Report};

/// One format being written.
trait Export {
    /// A record, in the order of the recording.
    fn record(&mut self, record: &Record) -> Result<()>;
    /// An event, in the order of time.
    fn event(&mut self, event: &Event, seen: &Evidence<'_>) -> Result<()>;
    /// Something that is over and explained.
    fn note(&mut self, note: &Note) -> Result<()>;
    /// All events have come; what the report leaves out is still there.
    fn flushed(&mut self, run: &Pipeline) -> Result<()>;
    /// Ends the files; how many things were left out because there were too many.
    fn finish(self: Box<Self>, run: &Report) -> Result<u64>;
}

/// The run on its way to a report, and the files that are made of it meanwhile.
pub struct Exports {
    pipeline: Pipeline,
    formats: Vec<(&'static str, Box<dyn Export>)>,
    failed: Option<anyhow::Error>,
    written: Arc<AtomicU64>,
    takes_stdout: bool,
}

impl Exports {
    /// Begins the files that were asked for.
    ///
    /// # Errors
    /// A file that cannot be created.
    pub fn create(args: &ExportArgs) -> Result<Self> {
        let written = Arc::new(AtomicU64::new(0));
        let output = |path: &Path, is_text| Output::create(path, is_text, &written);
        let mut formats: Vec<(&'static str, Box<dyn Export>)> = Vec::new();
        if let Some(path) = &args.perfetto {
            formats.push(("--perfetto", Box::new(perfetto::Perfetto::new(output(path, false)?))));
        }
        if let Some(path) = &args.pprof {
            formats.push(("--pprof", Box::new(stalls::Stalls::new(output(path, false)?))));
        }
        if let Some(path) = &args.csv {
            formats.push(("--csv", Box::new(table::Tables::csv(path, &written)?)));
        }
        if let Some(path) = &args.parquet {
            formats.push(("--parquet", Box::new(table::Tables::parquet(path, &written)?)));
        }
        let mut pipeline = Pipeline::new("file");
        if formats.iter().any(|(name, _)| matches!(*name, "--csv" | "--parquet")) {
            pipeline = pipeline.telling_delays();
        }
        let takes_stdout = args.all().any(|path| is_stdout(path));
        Ok(Self { pipeline, formats, failed: None, written, takes_stdout })
    }

    /// Whether a file goes to standard output, so that nothing else may.
    pub fn takes_stdout(&self) -> bool {
        self.takes_stdout
    }

    /// Bytes written so far; `None` where nothing is written.
    pub fn written(&self) -> Option<u64> {
        (!self.formats.is_empty()).then(|| self.written.load(Ordering::Relaxed))
    }

    /// Takes the next record.
    ///
    /// # Errors
    /// A file that cannot be written.
    pub fn push(&mut self, record: Record) -> Result<()> {
        let Self { pipeline, formats, failed, .. } = self;
        if formats.is_empty() {
            drop(pipeline.push(record));
            return Ok(());
        }
        if !matches!(record, Record::Event(_)) {
            for (_, export) in formats.iter_mut() {
                export.record(&record)?;
            }
        }
        let notes =
            pipeline.push_watched(record, &mut |event, seen| watch(formats, failed, event, seen));
        self.tell(&notes)
    }

    fn tell(&mut self, notes: &[Note]) -> Result<()> {
        if let Some(e) = self.failed.take() {
            return Err(e);
        }
        for (_, export) in &mut self.formats {
            notes.iter().try_for_each(|note| export.note(note))?;
        }
        Ok(())
    }

    /// Ends all files; the report, and for each option that left something out, how many things it was.
    ///
    /// # Errors
    /// A file that cannot be written.
    pub fn finish(mut self) -> Result<(Report, Vec<(&'static str, u64)>)> {
        let Self { pipeline, formats, failed, .. } = &mut self;
        let notes = pipeline.flush_watched(&mut |event, seen| watch(formats, failed, event, seen));
        self.tell(&notes)?;
        let Self { pipeline, mut formats, .. } = self;
        for (_, export) in &mut formats {
            export.flushed(&pipeline)?;
        }
        let report = pipeline.finish();
        let mut left_out = Vec::new();
        for (name, export) in formats {
            let n = export.finish(&report)?;
            left_out.extend((n > 0).then_some((name, n)));
        }
        Ok((report, left_out))
    }
}

fn watch(
    formats: &mut [(&'static str, Box<dyn Export>)],
    failed: &mut Option<anyhow::Error>,
    event: &Event,
    seen: &Evidence<'_>,
) {
    for (_, export) in formats {
        if failed.is_none()
            && let Err(e) = export.event(event, seen)
        {
            *failed = Some(e);
        }
    }
}
