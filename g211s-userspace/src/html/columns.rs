//! All stops and all GC cycles of a target, short, as columns: what the overview and the charts draw. Must not know
//! markup. All times in ns.

use serde::Serialize;

use crate::analysis::verdict::CauseKind;
use crate::model::gc::Cycle;
use crate::report::schema::StwReport;

/// Stops that are drawn, all targets together; of more, the longest.
pub(super) const STOPS: usize = 12_000;
/// Cycles, or groups of cycles, that are drawn, all targets together.
pub(super) const CYCLES: usize = 3_000;

/// Stops by time.
#[derive(Clone, Debug, Default, Serialize)]
pub(super) struct Stops {
    /// From the start of the one before (the first: of the window) to its start.
    gap: Vec<u64>,
    /// Until the world was stopped.
    stopping: Vec<u64>,
    /// From then to its end.
    stopped: Vec<u64>,
    /// Index into `reasons`.
    reason: Vec<usize>,
    /// Index into `causes`: what took most of it.
    cause: Vec<usize>,
    reasons: Vec<String>,
    causes: Vec<CauseKind>,
    /// Stops that are not here, all of them shorter than `left_out_below`.
    left_out: usize,
    left_out_below: u64,
}

fn index_of<T: PartialEq + Clone>(list: &mut Vec<T>, item: &T) -> usize {
    list.iter().position(|known| known == item).unwrap_or_else(|| {
        list.push(item.clone());
        list.len() - 1
    })
}

impl Stops {
    /// The columns of at most `max` stops.
    pub(super) fn new(all: &[StwReport], window_start_ns: u64, max: usize) -> Self {
        let mut out = Self::default();
        let mut shown: Vec<&StwReport> = all.iter().collect();
        if shown.len() > max {
            shown.sort_by_key(|s| std::cmp::Reverse(s.total_ns));
            out.left_out = shown.len() - max;
            out.left_out_below = shown[max.saturating_sub(1)].total_ns;
            shown.truncate(max);
        }
        shown.sort_by_key(|s| s.start_ns);
        let mut last = window_start_ns;
        for s in shown {
            out.gap.push(s.start_ns.saturating_sub(last));
            last = s.start_ns.max(last);
            out.stopping.push(s.stopping_ns);
            out.stopped.push(s.stopped_ns);
            out.reason.push(index_of(&mut out.reasons, &s.reason));
            let cause =
                s.causes.iter().max_by_key(|c| c.ns).map_or(CauseKind::Unexplained, |c| c.kind);
            out.cause.push(index_of(&mut out.causes, &cause));
        }
        out
    }
}

/// GC cycles by time: one by one, or as many together as `each` says where there are too many.
#[derive(Clone, Debug, Default, Serialize)]
pub(super) struct Cycles {
    /// Cycles in each entry (the last may hold fewer).
    each: usize,
    /// Number of the first.
    n: Vec<u64>,
    /// From the start of the entry before (the first: of the window) to its start.
    gap: Vec<u64>,
    /// From its first cycle's start to its last one's end.
    span: Vec<u64>,
    /// Of that, within cycles.
    busy: Vec<u64>,
    /// Longest sweep termination in it.
    sweep: Vec<u64>,
    /// Longest mark termination in it.
    term: Vec<u64>,
}

impl Cycles {
    /// The columns in at most `max` entries.
    pub(super) fn new(all: &[Cycle], window_start_ns: u64, max: usize) -> Self {
        let mut out = Self { each: all.len().div_ceil(max.max(1)).max(1), ..Self::default() };
        let mut last = window_start_ns;
        for group in all.chunks(out.each) {
            let [first, ..] = group else { continue };
            let end = group.iter().map(|c| c.start_ns.saturating_add(c.duration_ns)).max();
            out.n.push(first.n);
            out.gap.push(first.start_ns.saturating_sub(last));
            last = first.start_ns.max(last);
            out.span.push(end.unwrap_or(0).saturating_sub(first.start_ns));
            out.busy.push(group.iter().fold(0, |sum: u64, c| sum.saturating_add(c.duration_ns)));
            out.sweep.push(group.iter().map(|c| c.sweep_term_ns).max().unwrap_or(0));
            out.term.push(group.iter().map(|c| c.mark_term_ns).max().unwrap_or(0));
        }
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cycle(n: u64) -> Cycle {
        Cycle {
            n,
            start_ns: 1000 + n * 100,
            duration_ns: 40,
            sweep_term_ns: n,
            mark_ns: 10,
            mark_term_ns: 2 * n,
            interval_ns: None,
            trigger: None,
            retries: 0,
            stw: [0, 0],
        }
    }

    #[test]
    fn too_many_cycles_are_told_in_groups_that_add_up() {
        let all: Vec<Cycle> = (1..=25).map(cycle).collect();
        let one_by_one = Cycles::new(&all, 1000, 25);
        assert_eq!((one_by_one.each, one_by_one.n.len(), one_by_one.span[3]), (1, 25, 40));
        let grouped = Cycles::new(&all, 1000, 10);
        assert_eq!(
            (grouped.each, grouped.n.as_slice()),
            (3, &[1, 4, 7, 10, 13, 16, 19, 22, 25][..])
        );
        assert_eq!(grouped.gap[..3], [100, 300, 300]);
        assert_eq!(
            (grouped.span[0], grouped.busy[0], grouped.sweep[0], grouped.term[0]),
            (240, 120, 3, 6)
        );
        assert_eq!(grouped.busy.iter().sum::<u64>(), 25 * 40);
        assert_eq!(Cycles::new(&[], 0, 10).n.len(), 0);
    }
}
