//! What is kept of one service second by second, over a bounded window. Must not know records, nor what is drawn.

use std::collections::VecDeque;

use super::rows::{Counts, ROWS};

/// What a thread's time goes to.
pub(crate) const CLASSES: usize = 5;

/// A second's time of one thread.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ThreadSecond {
    /// The thread.
    pub(crate) tid: u32,
    /// Time by class (see [`Class`]), µs.
    pub(crate) us: [u32; CLASSES],
}

/// A class of thread states.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Class {
    /// On a CPU.
    Running,
    /// On a run queue.
    Waiting,
    /// Asleep.
    Asleep,
    /// Asleep uninterruptibly.
    Disk,
    /// Stopped by a signal, or not known.
    Other,
}

/// What a P was found to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum PState {
    /// Runs Go code.
    Running,
    /// Kept by a thread in a system call.
    Syscall,
    /// Stopped for a stop of the world.
    GcStop,
    /// Nobody has it.
    Idle,
    /// `GOMAXPROCS` was made smaller, or a state that is not known.
    Other,
}

/// A P at one moment of a second.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct PSecond {
    /// `p.id`.
    pub(crate) id: u32,
    /// What it was.
    pub(crate) state: PState,
    /// The M that had it.
    pub(crate) m_id: Option<u64>,
}

/// The runtime's own figures at one moment of a second.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Figures {
    /// Bytes.
    pub(crate) heap_live: Option<u64>,
    /// Bytes.
    pub(crate) heap_goal: Option<u64>,
    /// GOGC; negative: off.
    pub(crate) gc_percent: Option<i32>,
    /// GOMEMLIMIT, bytes; `i64::MAX`: none.
    pub(crate) memory_limit: Option<i64>,
    /// Without the runtime's own.
    pub(crate) goroutines: Option<u64>,
    /// GOMAXPROCS.
    pub(crate) gomaxprocs: Option<u32>,
    /// Cycles since the program's start.
    pub(crate) cycles: Option<u32>,
    /// Of them, forced ones.
    pub(crate) forced: Option<u32>,
    /// CPU time of mark assists since the program's start, ns.
    pub(crate) assist_cpu_ns: Option<u64>,
}

/// A second of one service. Sums of no seconds are 0; [`Second::watched_ms`] says whether that means anything.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Second {
    /// How much of it was watched, ms.
    pub(crate) watched_ms: u32,
    /// Waits for a CPU, after a wakeup or a preemption.
    pub(crate) waits: u64,
    /// Their length, ns.
    pub(crate) waited_ns: u64,
    /// Waits by length.
    pub(crate) rows: Counts,
    /// `rows` are known: exactly, or some at the mean of their millisecond.
    pub(crate) has_rows: bool,
    /// The longest wait, ns.
    pub(crate) longest_wait_ns: u64,
    /// Time on CPUs, ns.
    pub(crate) on_cpu_ns: u64,
    /// Time kept off them by a quota, ns.
    pub(crate) throttled_ns: u64,
    /// Stops of the world that began in it, and were explained.
    pub(crate) stops: u64,
    /// Their length, ns.
    pub(crate) stopped_ns: u64,
    /// The longest, ns.
    pub(crate) longest_stop_ns: u64,
    /// GC cycles that began.
    pub(crate) gcs: u64,
    /// Polls that may wait, and others, while polls were counted.
    pub(crate) polls: u64,
    /// Events that polls returned, while polls were counted.
    pub(crate) poll_events: u64,
    /// Sleeps in polls.
    pub(crate) poll_sleeps: u64,
    /// For how long polls were counted, ns.
    pub(crate) polls_ns: u64,
    /// Late harvests of the network by lateness.
    pub(crate) late_rows: Counts,
    /// `late_rows` are known.
    pub(crate) has_late_rows: bool,
    /// The latest, ns.
    pub(crate) latest_ns: u64,
    /// The runtime's own figures.
    pub(crate) figures: Figures,
    /// Threads that did anything, most of it first.
    pub(crate) threads: Vec<ThreadSecond>,
    /// Threads that were left out, for their number.
    pub(crate) threads_left_out: u32,
    /// Ps, by number.
    pub(crate) ps: Vec<PSecond>,
}

impl Second {
    /// Adds another second's sums. What is of one moment is the later one's.
    pub(crate) fn add(&mut self, other: &Self) {
        self.watched_ms += other.watched_ms;
        self.waits += other.waits;
        self.waited_ns += other.waited_ns;
        self.has_rows |= other.has_rows;
        self.has_late_rows |= other.has_late_rows;
        for n in 0..ROWS {
            self.rows[n] = self.rows[n].saturating_add(other.rows[n]);
            self.late_rows[n] = self.late_rows[n].saturating_add(other.late_rows[n]);
        }
        self.longest_wait_ns = self.longest_wait_ns.max(other.longest_wait_ns);
        self.on_cpu_ns += other.on_cpu_ns;
        self.throttled_ns += other.throttled_ns;
        self.stops += other.stops;
        self.stopped_ns += other.stopped_ns;
        self.longest_stop_ns = self.longest_stop_ns.max(other.longest_stop_ns);
        self.gcs += other.gcs;
        self.polls += other.polls;
        self.poll_events += other.poll_events;
        self.poll_sleeps += other.poll_sleeps;
        self.polls_ns += other.polls_ns;
        self.latest_ns = self.latest_ns.max(other.latest_ns);
        let (f, o) = (&mut self.figures, &other.figures);
        f.heap_live = o.heap_live.or(f.heap_live);
        f.heap_goal = o.heap_goal.or(f.heap_goal);
        f.gc_percent = o.gc_percent.or(f.gc_percent);
        f.memory_limit = o.memory_limit.or(f.memory_limit);
        f.goroutines = o.goroutines.or(f.goroutines);
        f.gomaxprocs = o.gomaxprocs.or(f.gomaxprocs);
        f.cycles = o.cycles.or(f.cycles);
        f.forced = o.forced.or(f.forced);
        f.assist_cpu_ns = o.assist_cpu_ns.or(f.assist_cpu_ns);
    }

    /// Part of `ns` a second of watched time, as a number a second.
    pub(crate) fn per_second(&self, n: u64) -> f64 {
        if self.watched_ms == 0 { 0.0 } else { n as f64 * 1000.0 / f64::from(self.watched_ms) }
    }
}

/// Seconds by number, the newest last; those before the window are forgotten.
#[derive(Clone, Debug)]
pub(crate) struct History {
    /// Number of the first.
    first: u64,
    seconds: VecDeque<Second>,
    keep: usize,
}

impl History {
    /// One that keeps so many seconds.
    pub(crate) fn new(keep: usize) -> Self {
        Self { first: 0, seconds: VecDeque::new(), keep: keep.max(1) }
    }

    /// A second to be added to; `None` if it has been forgotten.
    pub(crate) fn at_mut(&mut self, number: u64) -> Option<&mut Second> {
        if self.seconds.is_empty() || number >= self.end().saturating_add(self.keep as u64) {
            // Nothing of what there is would stay.
            self.seconds.clear();
            self.first = number;
        }
        while number >= self.end() {
            self.seconds.push_back(Second::default());
        }
        while self.seconds.len() > self.keep {
            self.seconds.pop_front();
            self.first += 1;
        }
        let place = number.checked_sub(self.first)?;
        self.seconds.get_mut(usize::try_from(place).ok()?)
    }

    /// A second, if it is kept.
    #[cfg(test)]
    pub(crate) fn at(&self, number: u64) -> Option<&Second> {
        let place = number.checked_sub(self.first)?;
        self.seconds.get(usize::try_from(place).ok()?)
    }

    /// Number of the first that is kept.
    pub(crate) fn first(&self) -> u64 {
        self.first
    }

    /// Number after the last.
    pub(crate) fn end(&self) -> u64 {
        self.first + self.seconds.len() as u64
    }

    /// The seconds from `from` to before `to` as one.
    pub(crate) fn sum(&self, from: u64, to: u64) -> Second {
        let mut sum = Second::default();
        for second in self.range(from, to) {
            sum.add(second);
        }
        sum
    }

    /// Those that are kept, from `from` to before `to`.
    pub(crate) fn range(&self, from: u64, to: u64) -> impl DoubleEndedIterator<Item = &Second> {
        let from = from.max(self.first);
        let to = to.min(self.end()).max(from);
        let skip = usize::try_from(from - self.first).unwrap_or(usize::MAX).min(self.seconds.len());
        let take = usize::try_from(to - from).unwrap_or(usize::MAX);
        let end = skip.saturating_add(take).min(self.seconds.len());
        self.seconds.range(skip..end)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_older_than_the_window_is_forgotten() {
        let mut history = History::new(10);
        for n in 5..30 {
            history.at_mut(n).unwrap().waits = n;
        }
        assert_eq!((history.first(), history.end()), (20, 30));
        assert_eq!(history.at_mut(19), None);
        assert_eq!(history.at(29).unwrap().waits, 29);
        assert_eq!(history.sum(0, 22).waits, 20 + 21);
        assert_eq!(history.sum(28, u64::MAX).waits, 28 + 29);
    }

    #[test]
    fn a_time_far_off_costs_no_memory() {
        let mut history = History::new(10);
        history.at_mut(3).unwrap().waits = 1;
        history.at_mut(u64::MAX - 20).unwrap().waits = 2;
        assert_eq!(history.range(0, u64::MAX).count(), 1);
        history.at_mut(u64::MAX - 15).unwrap().waits = 3;
        assert_eq!(history.sum(0, u64::MAX).waits, 5);
        assert_eq!(history.at_mut(0), None);
    }

    #[test]
    fn a_gap_is_not_watched() {
        let mut history = History::new(100);
        history.at_mut(1).unwrap().watched_ms = 1000;
        history.at_mut(9).unwrap().watched_ms = 500;
        assert_eq!(history.at(5), Some(&Second::default()));
        let sum = history.sum(0, 10);
        assert!((sum.per_second(3) - 2.0).abs() < 1e-9);
    }
}
