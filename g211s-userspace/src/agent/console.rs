//! Where a run's records go, and what is said about them on stderr meanwhile.

use std::io::{self, Write as _};

use std::time::{Duration, Instant};

use super::run::Sink;
use crate::{
    record::Record,
    recording::Writer,
    report::{Note, Pipeline, delay_sentence, disagreement, format, sentence, sleep_sentence},
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

/// Sinks, with who is told of them.
pub(super) struct Told {
    pub(super) sinks: Sinks,
    pub(super) console: Console,
}

impl Sink for Told {
    fn push(&mut self, record: Record) {
        if let Some(writer) = &mut self.sinks.writer
            && let Err(e) = writer.write(&record)
        {
            self.say(&format!("{e}; the run goes on without the recording"));
            self.sinks.writer = None;
        }
        if let Some(pipeline) = &mut self.sinks.pipeline {
            let notes = pipeline.push(record);
            if self.sinks.live {
                self.console.tell(&notes);
            }
        }
    }

    fn say(&mut self, text: &str) {
        self.console.say(&format!("g211s: {text}"));
    }

    fn second(&mut self, status: &dyn Fn() -> String) -> Option<String> {
        let failed = self.sinks.writer.as_mut().and_then(|w| w.flush().err());
        let wrong = failed.map(|e| {
            self.sinks.writer = None;
            format!("{e}; the run goes on without the recording")
        });
        self.console.held_back();
        if self.console.tty {
            self.console.status(&status());
        }
        wrong
    }

    fn is_pointless(&self) -> bool {
        self.sinks.writer.is_none() && self.sinks.pipeline.is_none()
    }
}

impl Told {
    /// The run is over: says what is left to say.
    pub(super) fn finish(mut self) -> Sinks {
        if self.sinks.live
            && let Some(pipeline) = &mut self.sinks.pipeline
        {
            self.console.tell(&pipeline.flush());
        }
        self.console.held_back();
        self.console.clear();
        self.sinks
    }
}

/// stderr, with a status line that gives way to messages.
pub(super) struct Console {
    pub(super) tty: bool,
    threshold_ns: u64,
    status: bool,
    pace: Pace,
}

/// Verdicts printed in any second at most. A reader takes in no more, and a terminal over a slow line must
/// not hold up the draining of events.
const PER_SECOND: u32 = 10;

/// Keeps a crowd of verdicts from flooding the terminal, and says how many it held back.
#[derive(Debug, Default)]
struct Pace {
    second: Option<Instant>,
    said: u32,
    held: u64,
    longest_ns: u64,
}

impl Pace {
    /// Whether a verdict on `ns` may be printed at `now`.
    fn admits(&mut self, ns: u64, now: Instant) -> bool {
        if self.second.is_none_or(|began| now - began >= Duration::from_secs(1)) {
            (self.second, self.said) = (Some(now), 0);
        }
        if self.said < PER_SECOND {
            self.said += 1;
            return true;
        }
        self.held += 1;
        self.longest_ns = self.longest_ns.max(ns);
        false
    }

    /// What was held back since the last call, in words.
    fn held_back(&mut self) -> Option<String> {
        let (held, longest) =
            (std::mem::take(&mut self.held), std::mem::take(&mut self.longest_ns));
        (held > 0).then(|| {
            format!(
                "… and {}, the longest {}: all are counted in the report",
                format::plural(held, "more pause or delay", "more pauses and delays"),
                format::duration(longest)
            )
        })
    }
}

impl Console {
    /// Pauses of at least `threshold_ns` are printed.
    pub(super) fn new(tty: bool, threshold_ns: u64) -> Self {
        Self { tty, threshold_ns, status: false, pace: Pace::default() }
    }

    pub(super) fn say(&mut self, text: &str) {
        let mut err = io::stderr().lock();
        let clear = if self.status { "\r\x1b[K" } else { "" };
        // A closed stderr must not end the run.
        let _ = writeln!(err, "{clear}{text}");
        self.status = false;
    }

    /// Prints a verdict, unless there were many of late.
    fn verdict(&mut self, ns: u64, words: impl FnOnce() -> String) {
        if self.pace.admits(ns, Instant::now()) {
            self.say(&words());
        }
    }

    /// Says how many verdicts were not printed: once a second, and at the end.
    pub(super) fn held_back(&mut self) {
        if let Some(line) = self.pace.held_back() {
            self.say(&line);
        }
    }

    /// Prints the pauses and delays that are long enough. (Notices were said when they arose.)
    pub(super) fn tell(&mut self, notes: &[Note]) {
        for note in notes {
            match note {
                Note::Stop { stop, .. } if stop.total_ns >= self.threshold_ns => {
                    self.verdict(stop.total_ns, || sentence(stop));
                }
                Note::Delay { delay, .. } => {
                    self.verdict(delay.wait_ns, || delay_sentence(delay));
                }
                Note::Sleep { sleep, .. } => {
                    self.verdict(sleep.ns, || sleep_sentence(sleep));
                }
                Note::Disagreement { accuracy, .. } => {
                    for line in disagreement(accuracy) {
                        self.say(&format!("!! g211s: {line}"));
                    }
                }
                Note::Stop { .. } | Note::Cycle { .. } | Note::Notice(_) => {}
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_crowd_is_held_back_and_counted() {
        let (mut pace, began) = (Pace::default(), Instant::now());
        let at = |ms| began + Duration::from_millis(ms);
        assert!((0..10).all(|i| pace.admits(5, at(i))));
        assert!(!pace.admits(7_000_000, at(20)) && !pace.admits(2_000_000, at(999)));
        assert_eq!(
            pace.held_back().as_deref(),
            Some("… and 2 more pauses and delays, the longest 7 ms: all are counted in the report")
        );
        assert_eq!(pace.held_back(), None);
        assert!(pace.admits(1, at(1000)));
    }
}
