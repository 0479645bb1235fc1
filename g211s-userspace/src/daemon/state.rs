//! Where the agent's records go: the analysis, the metrics, the ring of the last seconds, and the events that are
//! pushed. Must not know how records are made or shown.

use std::collections::VecDeque;

use super::capture::Ring;
use super::metrics::Store;
use crate::agent::run::Sink;
use crate::record::Record;
use crate::report::format::clean;
use crate::report::{Note, Pipeline};

/// Events that wait to be pushed; the oldest go first.
const MAX_EVENTS: usize = 4096;
/// Lines a minute on standard error at most.
const MAX_LINES: u32 = 60;

/// Something that happened, for who collects such.
#[derive(Clone, Debug)]
pub struct Happened {
    /// Index of the target.
    pub target: u8,
    /// What.
    pub note: Note,
}

/// Takes the records.
pub struct State {
    /// The analysis.
    pub pipeline: Pipeline,
    /// The metrics.
    pub store: Store,
    /// The last seconds, where incidents are kept.
    pub ring: Option<Ring>,
    /// What happened since they were last taken, where they are pushed.
    pub events: Option<VecDeque<Happened>>,
    /// The worst that was told since it was last taken: length in ns, target, and in words.
    pub worst: Worst,
    lines: u32,
    unsaid: u64,
}

/// The longest stop and the longest wait since they were last asked for.
#[derive(Clone, Debug, Default)]
pub struct Worst {
    /// Stop: ns and target.
    pub stop: Option<(u64, u8)>,
    /// Wait for a CPU: ns and target.
    pub delay: Option<(u64, u8)>,
}

impl State {
    /// Nothing has come yet.
    pub fn new(store: Store, ring: Option<Ring>, events: bool) -> Self {
        Self {
            pipeline: Pipeline::new("live").telling_delays().unending(),
            store,
            ring,
            events: events.then(VecDeque::new),
            worst: Worst::default(),
            lines: 0,
            unsaid: 0,
        }
    }

    fn tell(&mut self, note: Note) {
        self.store.note(&note);
        let longest = |slot: &mut Option<(u64, u8)>, ns: u64, target: u8| {
            if slot.is_none_or(|(most, _)| most < ns) {
                *slot = Some((ns, target));
            }
        };
        let target = match &note {
            Note::Stop { target, stop } => {
                longest(&mut self.worst.stop, stop.total_ns, *target);
                *target
            }
            Note::Delay { target, delay } => {
                longest(&mut self.worst.delay, delay.wait_ns, *target);
                *target
            }
            Note::Sleep { target, .. } => *target,
            Note::Cycle { .. } | Note::Disagreement { .. } | Note::Notice(_) => return,
        };
        if let Some(events) = &mut self.events {
            if events.len() >= MAX_EVENTS {
                events.pop_front();
            }
            events.push_back(Happened { target, note });
        }
    }

    /// A minute has passed.
    pub fn minute(&mut self) {
        let unsaid = std::mem::take(&mut self.unsaid);
        self.lines = 0;
        if unsaid > 0 {
            self.say(&format!("… and {unsaid} more lines in this minute"));
        }
    }
}

impl Sink for State {
    fn push(&mut self, record: Record) {
        if let Some(ring) = &mut self.ring {
            ring.push(&record);
        }
        match &record {
            Record::Interval(i) => self.store.interval(i),
            Record::Hists(h) => self.store.hists(h),
            Record::Runtime(s) => self.store.runtime(s),
            _ => {}
        }
        let gone = match &record {
            Record::Detached(d) => Some(*d),
            _ => None,
        };
        if let Some(d) = gone {
            let stalls = self.pipeline.take_stalls(d.index);
            self.store.stalls(d.index, &stalls);
        }
        for note in self.pipeline.push(record) {
            self.tell(note);
        }
        if let Some(d) = gone {
            self.store.detached(d.index, d.ts_ns);
        }
    }

    fn say(&mut self, text: &str) {
        use std::io::Write as _;

        if self.lines >= MAX_LINES {
            self.unsaid += 1;
            return;
        }
        self.lines += 1;
        // A closed stderr must not end the agent.
        let _ = writeln!(std::io::stderr(), "g211s: {}", clean(text));
    }

    fn second(&mut self, _: &dyn Fn() -> String) -> Option<String> {
        if let Some(ring) = &mut self.ring {
            ring.close_block();
        }
        None
    }

    fn is_pointless(&self) -> bool {
        false
    }
}
