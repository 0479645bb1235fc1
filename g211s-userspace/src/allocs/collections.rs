//! What allocation has to do with collections: how often they come and why, what their stops and mark assists cost, and
//! whose bytes that is. Pure; must not know BPF, processes, or how a text looks.
//!
//! A cycle comes when so many bytes were allocated as lie between what the last one left and the goal: so each byte brings
//! the next cycle nearer by as much as any other, and a site's part of the bytes is its part of the cycles. Who allocates
//! while the collector marks pays for it at once, in proportion to the bytes (Go `runtime/mgcmark.go`, `gcAssistAlloc`): a
//! site's part of the bytes that were allocated *while it marked* is its part of the assists. Samples that fell into
//! marking tell that part; when the collector marked, it says itself (`work.tMark` to `tMarkTerm`).

use std::collections::{HashMap, VecDeque};

use crate::record::{AllocDensity, AllocSample, AllocState, HeapSample, Moment, RuntimeSample};
use crate::runtime::histogram::TimeHist;

/// Samples of which it is not known yet whether the collector marked.
const MAX_PENDING: usize = 1 << 18;
/// Marking that is remembered for samples that come late.
const MAX_MARKS: usize = 1024;
/// Stacks that are told apart.
const MAX_STACKS: usize = 1 << 18;
/// Fewer samples while the collector marked tell nothing of single sites.
pub const ENOUGH: u64 = 50;
/// `heapMinimum` (mgcpacer.go): what the goal is at least, times GOGC / 100.
const HEAP_MINIMUM: u64 = 4 << 20;
/// `memoryLimitHeapGoalHeadroomPercent`, and the least of it.
const HEADROOM: f64 = 0.03;
const MIN_HEADROOM: u64 = 1 << 20;

/// What samples add up to.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Weight {
    /// Samples.
    pub samples: u64,
    /// Bytes that they stand for.
    pub bytes: f64,
}

impl Weight {
    fn add(&mut self, bytes: f64) {
        self.samples += 1;
        self.bytes += bytes;
    }
}

/// Takes what a run records of collections.
#[derive(Clone, Debug, Default)]
pub struct Collections {
    first: Option<RuntimeSample>,
    last: Option<RuntimeSample>,
    /// Goals and what was marked, once a second.
    heaps: Vec<HeapSample>,
    pending: VecDeque<(u64, u32, f64)>,
    marks: VecDeque<(u64, u64)>,
    /// How long the collector marked in the cycles that were seen, ns, and how many they were.
    marked: (u64, u64),
    in_marks: HashMap<u32, Weight>,
    all_in_marks: Weight,
}

/// What decides how often cycles come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decides {
    /// GOGC.
    Gogc,
    /// The least heap that GOGC allows for.
    Minimum,
    /// GOMEMLIMIT.
    MemoryLimit,
    /// The program, with `runtime.GC`.
    Program,
}

/// The goal of the heap, and what it would take to have half as many cycles.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Goal {
    /// What the heap may grow to until the next cycle, bytes.
    pub bytes: u64,
    /// What the last cycles left alive.
    pub live_bytes: u64,
    /// GOGC, per cent; `None`: off.
    pub gogc: Option<i32>,
    /// GOMEMLIMIT, bytes; `None`: none.
    pub memory_limit: Option<u64>,
    /// What decides.
    pub decides: Decides,
    /// GOGC with which it would come as often as now, all else equal.
    pub same_gogc: Option<u32>,
    /// GOMEMLIMIT with which, and GOGC off, it would come as often as now.
    pub same_limit: Option<u64>,
    /// The goal for half as many cycles.
    pub half_goal: u64,
    /// GOGC for half as many.
    pub half_gogc: Option<u32>,
    /// GOMEMLIMIT for half as many, with GOGC off.
    pub half_limit: Option<u64>,
}

/// What happened in a window.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Happened {
    /// Cycles that ended.
    pub cycles: u64,
    /// Of them, those that the program asked for.
    pub forced: u64,
    /// The collector's stops of the world.
    pub pauses: Option<u64>,
    /// Their length altogether, ns.
    pub pauses_ns: u64,
    /// CPU time of mark assists in the cycles that ended, ns.
    pub assist_ns: Option<u64>,
    /// Cycles whose marking was seen, and how long they marked on average, ns.
    pub marks: u64,
    /// See `marks`.
    pub mark_ns: Option<u64>,
    /// The heap's goal.
    pub goal: Option<Goal>,
}

impl Collections {
    /// Takes a sample of the runtime's counters.
    pub fn runtime(&mut self, sample: &RuntimeSample) {
        if self.first.is_none() {
            self.first = Some(sample.clone());
        }
        if let Some(heap) = sample.heap.filter(|_| self.heaps.len() < 1 << 16) {
            self.heaps.push(heap);
        }
        if self.last.as_ref().is_none_or(|l| l.moment != Moment::End) {
            self.last = Some(sample.clone());
        }
    }

    /// Takes a sampled allocation.
    pub fn sample(&mut self, s: &AllocSample) {
        let objects = if s.density == AllocDensity::Large { 1 } else { s.objects };
        let bytes = s.size as f64 * objects as f64;
        if self.pending.len() >= MAX_PENDING {
            self.pending.pop_front();
        }
        self.pending.push_back((s.ts_ns, s.stack, bytes));
    }

    /// Takes a state: which cycles have marked meanwhile.
    pub fn state(&mut self, state: &AllocState) {
        for &(from, to) in &state.marks {
            self.marked =
                (self.marked.0.saturating_add(to.saturating_sub(from)), self.marked.1 + 1);
            if self.marks.len() >= MAX_MARKS {
                self.marks.pop_front();
            }
            self.marks.push_back((from, to));
        }
        // Until the last cycle's end it is known who came while the collector marked.
        let Some(known) = self.marks.iter().map(|(_, to)| *to).max() else { return };
        let mut later = VecDeque::new();
        for (ts, stack, bytes) in std::mem::take(&mut self.pending) {
            if ts > known {
                later.push_back((ts, stack, bytes));
                continue;
            }
            // They are in order of time.
            let begun = self.marks.partition_point(|(from, _)| *from <= ts);
            let mark = begun.checked_sub(1).and_then(|n| self.marks.get(n));
            if mark.is_some_and(|(_, to)| ts <= *to) {
                self.all_in_marks.add(bytes);
                if self.in_marks.len() < MAX_STACKS || self.in_marks.contains_key(&stack) {
                    self.in_marks.entry(stack).or_default().add(bytes);
                }
            }
        }
        self.pending = later;
    }

    /// What was allocated while the collector marked: by stack, and in all.
    pub fn in_marks(&self) -> (&HashMap<u32, Weight>, Weight) {
        (&self.in_marks, self.all_in_marks)
    }

    /// What happened between the first sample and the last; `None` where the runtime's counters are not known.
    pub fn happened(&self) -> Option<Happened> {
        let (first, last) = (self.first.as_ref()?, self.last.as_ref()?);
        let (a, b) = (first.gc.as_ref()?, last.gc.as_ref()?);
        let of_cycle = |g: &crate::record::GcSample| g.open_pause_ns.unwrap_or(0);
        let pauses = |s: &RuntimeSample| {
            let stops = s.stw.as_ref().map(|stw| stw.total_gc.count());
            stops.or_else(|| s.gc_pauses.as_ref().map(TimeHist::count))
        };
        let cycles = u64::from(b.cycles.wrapping_sub(a.cycles));
        let forced = u64::from(b.forced.wrapping_sub(a.forced));
        let pauses_ns = b
            .pause_total_ns
            .saturating_add(of_cycle(b))
            .saturating_sub(a.pause_total_ns.saturating_add(of_cycle(a)));
        Some(Happened {
            cycles,
            forced,
            pauses: pauses(first).zip(pauses(last)).map(|(a, b)| b.saturating_sub(a)),
            pauses_ns,
            assist_ns: first
                .assist_cpu_ns
                .zip(last.assist_cpu_ns)
                .map(|(a, b)| b.saturating_sub(a)),
            marks: self.marked.1,
            mark_ns: self.marked.0.checked_div(self.marked.1),
            goal: self.goal(cycles > 0 && 2 * forced > cycles),
        })
    }

    /// The goal: the median of those that were read.
    fn goal(&self, forced: bool) -> Option<Goal> {
        let median = |of: &dyn Fn(&HeapSample) -> Option<u64>| {
            let mut all: Vec<u64> = self.heaps.iter().filter_map(of).collect();
            all.sort_unstable();
            all.get(all.len() / 2).copied()
        };
        let heap = self.heaps.last()?;
        let (goal, live) = (median(&|h| h.goal)?, median(&|h| Some(h.marked))?);
        let other = median(&|h| h.other);
        let runway = goal.saturating_sub(live);
        let gogc = u32::try_from(heap.gc_percent).ok().filter(|n| *n > 0);
        let limit = u64::try_from(heap.memory_limit).ok().filter(|_| heap.memory_limit < i64::MAX);
        // With neither there is none: the runtime has a number of no meaning then, and the program asks for collections.
        if runway == 0 || gogc.is_none() && limit.is_none() {
            return None;
        }
        let minimum = gogc.map(|n| HEAP_MINIMUM.saturating_mul(n.into()) / 100);
        // What GOGC is a percentage of: at least what is alive, and stacks and globals.
        let by_gogc = gogc.is_some_and(|n| {
            goal >= live.saturating_add((live as f64 * f64::from(n) / 100.0) as u64) / 100 * 99
        });
        let decides = match minimum {
            _ if forced => Decides::Program,
            Some(minimum)
                if goal >= minimum
                    && goal < minimum.saturating_add(minimum / 10)
                    && limit.is_none_or(|limit| limit > goal) =>
            {
                Decides::Minimum
            }
            Some(_) if limit.is_none() || by_gogc => Decides::Gogc,
            _ => Decides::MemoryLimit,
        };
        let whole = |n: f64| (n.is_finite() && n < 1e6).then_some((n - 1e-6).ceil() as u32);
        let base = match (decides, gogc) {
            (Decides::Gogc, Some(n)) => runway as f64 * 100.0 / f64::from(n),
            _ => live as f64,
        };
        let gogc_for = |runway: f64| if base > 0.0 { whole(runway * 100.0 / base) } else { None };
        let limit_for = |goal: u64| {
            let with_headroom =
                ((goal as f64 / (1.0 - HEADROOM)) as u64).max(goal.saturating_add(MIN_HEADROOM));
            other.map(|other| with_headroom.saturating_add(other))
        };
        let half_goal = goal.saturating_add(runway);
        Some(Goal {
            bytes: goal,
            live_bytes: live,
            gogc: gogc.and_then(|n| i32::try_from(n).ok()),
            memory_limit: limit,
            decides,
            same_gogc: match decides {
                Decides::Gogc | Decides::Minimum => gogc,
                _ => gogc_for(runway as f64),
            },
            same_limit: limit_for(goal),
            half_goal,
            half_gogc: match (decides, minimum) {
                // The least heap grows with GOGC as a whole.
                (Decides::Minimum, Some(minimum)) => {
                    gogc.and_then(|n| whole(half_goal as f64 * f64::from(n) / minimum as f64))
                }
                _ => gogc_for(2.0 * runway as f64),
            },
            half_limit: limit_for(half_goal),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::GcSample;

    const MB: u64 = 1 << 20;

    fn runtime(moment: Moment, heap: HeapSample, gc: GcSample, assist: u64) -> RuntimeSample {
        RuntimeSample {
            moment,
            heap: Some(heap),
            gc: Some(gc),
            assist_cpu_ns: Some(assist),
            ..RuntimeSample::default()
        }
    }

    fn heap(live: u64, goal: u64, percent: i32, limit: Option<u64>) -> HeapSample {
        HeapSample {
            marked: live * MB,
            goal: Some(goal * MB),
            gc_percent: percent,
            memory_limit: limit.map_or(i64::MAX, |l| (l * MB) as i64),
            other: Some(10 * MB),
            ..HeapSample::default()
        }
    }

    fn goal(heap: HeapSample, forced: u32) -> Goal {
        let mut c = Collections::default();
        let gc = |cycles, forced| GcSample { cycles, forced, ..GcSample::default() };
        c.runtime(&runtime(Moment::Start, heap, gc(0, 0), 0));
        c.runtime(&runtime(Moment::End, heap, gc(10, forced), 0));
        c.happened().expect("known").goal.expect("a goal")
    }

    #[test]
    fn what_decides_is_told() {
        // 100 MB alive and 20 MB of stacks and globals: 220 MB.
        let g = goal(heap(100, 220, 100, None), 0);
        assert_eq!((g.decides, g.same_gogc, g.half_gogc), (Decides::Gogc, Some(100), Some(200)));
        assert_eq!(g.half_goal, 340 * MB);
        let limit = g.same_limit.expect("a limit") / MB;
        assert!((236..=237).contains(&limit), "{limit}");
        let g = goal(heap(1, 4, 100, None), 0);
        assert_eq!((g.decides, g.half_gogc), (Decides::Minimum, Some(175)));
        let g = goal(heap(100, 140, 100, Some(155)), 0);
        assert_eq!(
            (g.decides, g.same_gogc, g.half_gogc),
            (Decides::MemoryLimit, Some(40), Some(80))
        );
        let g = goal(heap(100, 140, -1, Some(155)), 0);
        assert_eq!((g.decides, g.gogc), (Decides::MemoryLimit, None));
        assert_eq!(goal(heap(100, 220, 100, None), 9).decides, Decides::Program);
    }

    #[test]
    fn with_gogc_off_and_no_limit_there_is_no_goal() {
        let mut c = Collections::default();
        let gc = |cycles| GcSample { cycles, forced: cycles, ..GcSample::default() };
        for (moment, cycles) in [(Moment::Start, 0), (Moment::End, 10)] {
            c.runtime(&runtime(moment, heap(100, 1 << 40, -1, None), gc(cycles), 0));
        }
        assert_eq!(c.happened().expect("known").goal, None);
    }

    #[test]
    fn counters_are_told_apart_at_both_ends() {
        let mut c = Collections::default();
        let gc = |cycles, pause_total_ns, open| GcSample {
            cycles,
            pause_total_ns,
            open_pause_ns: Some(open),
            ..GcSample::default()
        };
        let h = HeapSample::default();
        c.runtime(&runtime(Moment::Start, h, gc(u32::MAX, 100, 5), 10));
        c.runtime(&runtime(Moment::Running, h, gc(0, 110, 0), 10));
        c.runtime(&runtime(Moment::End, h, gc(3, 150, 7), 70));
        let all = c.happened().expect("known");
        assert_eq!((all.cycles, all.pauses_ns, all.assist_ns, all.goal), (4, 52, Some(60), None));
        assert_eq!(Collections::default().happened(), None);
    }

    #[test]
    fn who_allocates_while_the_collector_marks() {
        let mut c = Collections::default();
        let sample = |ts_ns, stack| AllocSample {
            ts_ns,
            tid: 1,
            density: AllocDensity::Refill,
            stack,
            span_class: 10,
            size: 10,
            objects: 5,
            address: 0,
            sweepgen: 0,
            look: 0,
        };
        for (ts, stack) in [(5, 1), (15, 1), (16, 2), (25, 2), (35, 1), (55, 1)] {
            c.sample(&sample(ts, stack));
        }
        // Nothing is known yet; then of the first cycle; then of the second, which a sample of before it waited for.
        c.state(&AllocState::default());
        assert_eq!(c.in_marks().1, Weight::default());
        c.state(&AllocState { marks: vec![(10, 20)], ..AllocState::default() });
        assert_eq!(c.in_marks().1, Weight { samples: 2, bytes: 100.0 });
        c.state(&AllocState { marks: vec![(30, 40)], ..AllocState::default() });
        let (by, all) = c.in_marks();
        assert_eq!((all.samples, by[&1].samples, by[&2].samples), (3, 2, 1));
        assert_eq!(c.pending.len(), 1);
    }
}
