//! What there is to tell, as it happens: verdicts and notices, the last of them, with a bound on how many come in a
//! second. Must not know how a sentence is made, nor how it is shown.

use std::collections::VecDeque;

/// Lines that are kept.
const KEEP: usize = 4000;
/// Lines of one kind that are kept of any second; the others are counted.
const PER_SECOND: u32 = 40;

/// What a line is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Kind {
    /// A stop of the world.
    Stop,
    /// A long wait for a CPU, or a long sleep, outside stops.
    Delay,
    /// What the user must know of the run.
    Notice,
    /// What does not agree with the runtime's own counters.
    Wrong,
}

/// One line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Line {
    /// When it happened, ns.
    pub(crate) ts_ns: u64,
    /// Of which service; `None`: of the run.
    pub(crate) service: Option<usize>,
    /// What it is about.
    pub(crate) kind: Kind,
    /// How long it lasted, ns; 0 of what has no length.
    pub(crate) ns: u64,
    /// The sentence.
    pub(crate) text: String,
    /// The threads that had a part in it.
    pub(crate) tids: Vec<u32>,
}

/// Lines that found no room in their second.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Held {
    second: u64,
    kept: u32,
    more: u64,
    longest_ns: u64,
}

/// The last lines, in the order in which they were told.
#[derive(Clone, Debug, Default)]
pub(crate) struct Lines {
    lines: VecDeque<Line>,
    held: [Held; 2],
}

impl Lines {
    /// Whether there is room for one of this kind, `ns` long, in the second of `ts_ns`; counts it if there is not.
    pub(crate) fn admits(&mut self, kind: Kind, ts_ns: u64, ns: u64) -> bool {
        let held = match kind {
            Kind::Stop => &mut self.held[0],
            Kind::Delay => &mut self.held[1],
            Kind::Notice | Kind::Wrong => return true,
        };
        let second = ts_ns / 1_000_000_000;
        if held.second != second {
            let before = std::mem::replace(held, Held { second, ..Held::default() });
            self.tell_held(kind, before);
        }
        let held = &mut self.held[usize::from(kind == Kind::Delay)];
        if held.kept < PER_SECOND {
            held.kept += 1;
            return true;
        }
        held.more += 1;
        held.longest_ns = held.longest_ns.max(ns);
        false
    }

    fn tell_held(&mut self, kind: Kind, held: Held) {
        use crate::report::format::{duration, plural};
        if held.more == 0 {
            return;
        }
        let (one, many) = match kind {
            Kind::Stop => ("more stop", "more stops"),
            _ => ("more long wait", "more long waits"),
        };
        let text = format!(
            "… and {} in this second, the longest {}: too many to be told one by one",
            plural(held.more, one, many),
            duration(held.longest_ns)
        );
        self.push(Line {
            ts_ns: held.second.saturating_mul(1_000_000_000),
            service: None,
            kind,
            ns: held.longest_ns,
            text,
            tids: Vec::new(),
        });
    }

    /// Takes a line.
    pub(crate) fn push(&mut self, line: Line) {
        self.lines.push_back(line);
        if self.lines.len() > KEEP {
            self.lines.pop_front();
        }
    }

    /// All that are kept, the newest first.
    pub(crate) fn newest_first(&self) -> impl Iterator<Item = &Line> {
        self.lines.iter().rev()
    }

    /// How many are kept.
    #[cfg(test)]
    pub(crate) fn len(&self) -> usize {
        self.lines.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(ts_ns: u64) -> Line {
        Line {
            ts_ns,
            service: Some(0),
            kind: Kind::Delay,
            ns: 1,
            text: String::new(),
            tids: vec![],
        }
    }

    #[test]
    fn a_crowd_is_counted_and_said_once() {
        let mut lines = Lines::default();
        let told = (0..100).filter(|n| lines.admits(Kind::Delay, 5_000_000_000 + n, 1000 + n));
        assert_eq!(told.count(), 40);
        assert!(lines.admits(Kind::Stop, 5_000_000_000, 1), "stops have room of their own");
        assert!(lines.admits(Kind::Delay, 6_000_000_000, 7));
        let said: Vec<&Line> = lines.newest_first().collect();
        assert_eq!(said.len(), 1);
        assert!(said[0].text.starts_with("… and 60 more long waits"), "{}", said[0].text);
        assert!(said[0].text.contains("1.1 µs"), "{}", said[0].text);
    }

    #[test]
    fn the_oldest_go() {
        let mut lines = Lines::default();
        (0..KEEP as u64 + 3).for_each(|n| lines.push(line(n)));
        assert_eq!(lines.len(), KEEP);
        assert_eq!(lines.newest_first().last().unwrap().ts_ns, 3);
    }
}
