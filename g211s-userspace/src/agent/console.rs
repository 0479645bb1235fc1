//! Where a run's records go, and what is said about them on stderr meanwhile.

use std::io::{self, Write as _};

use crate::{
    record::Record,
    recording::Writer,
    report::{Note, Pipeline, disagreement, sentence},
};

/// Where a run's records go.
pub struct Sinks {
    /// Builds the report.
    pub pipeline: Option<Pipeline>,
    /// Writes the recording.
    pub writer: Option<Writer>,
    /// Prints pauses and a status line to stderr while the run goes on.
    pub live: bool,
}

impl Sinks {
    pub(super) fn push(&mut self, record: Record, console: &mut Console) {
        if let Some(writer) = &mut self.writer
            && let Err(e) = writer.write(&record)
        {
            console.say(&format!("g211s: {e}; the run goes on without the recording"));
            self.writer = None;
        }
        if let Some(pipeline) = &mut self.pipeline {
            let notes = pipeline.push(record);
            if self.live {
                console.tell(&notes);
            }
        }
    }
}

/// stderr, with a status line that gives way to messages.
pub(super) struct Console {
    pub(super) tty: bool,
    pub(super) threshold_ns: u64,
    pub(super) status: bool,
}

impl Console {
    pub(super) fn say(&mut self, text: &str) {
        let mut err = io::stderr().lock();
        let clear = if self.status { "\r\x1b[K" } else { "" };
        // A closed stderr must not end the run.
        let _ = writeln!(err, "{clear}{text}");
        self.status = false;
    }

    /// Prints the pauses that are long enough. (Notices were said when they arose.)
    pub(super) fn tell(&mut self, notes: &[Note]) {
        for note in notes {
            match note {
                Note::Stop { stop, .. } if stop.total_ns >= self.threshold_ns => {
                    self.say(&sentence(stop));
                }
                Note::Disagreement { accuracy, .. } => {
                    for line in disagreement(accuracy) {
                        self.say(&format!("!! g211s: {line}"));
                    }
                }
                Note::Stop { .. } | Note::Notice(_) => {}
            }
        }
    }

    pub(super) fn status(&mut self, text: &str) {
        if self.tty {
            let mut err = io::stderr().lock();
            let _ = write!(err, "\r\x1b[K{text}");
            let _ = err.flush();
            self.status = true;
        }
    }

    pub(super) fn clear(&mut self) {
        if self.status {
            let _ = write!(io::stderr().lock(), "\r\x1b[K");
            self.status = false;
        }
    }
}
