//! How long waits and stops were at which time: counts by length and time. Must not know how that is drawn.
//!
//! Waits with an event of their own lie where they belong. The others are known by the tick of a millisecond in which
//! they ended (`record::Waits`), with their number and sum: they lie at the mean of theirs, and are counted apart.

use g211s_ebpf::event::ThreadEvent;
use g211s_ebpf::hist::{BUCKETS, Hist, bucket_range};
use serde::Serialize;

use crate::model::rests::Rests;
use crate::record::{Hists, Waits};
use crate::report::schema::StwReport;

/// Columns over the window.
const COLUMNS: usize = 240;
/// Rows: below 1 µs, then four a decade up to 10 s, then longer.
const ROWS: usize = 30;
/// The row of a length.
fn row(ns: u64) -> usize {
    if ns < 1000 {
        return 0;
    }
    let quarters = ((ns as f64 / 1000.0).log10() * 4.0) as usize;
    (quarters + 1).min(ROWS - 1)
}

/// Where each row begins, ns.
fn bounds() -> Vec<u64> {
    let bound = |r: usize| {
        if r == 0 { 0 } else { (1000.0 * 10f64.powf((r - 1) as f64 / 4.0)).round() as u64 }
    };
    (0..ROWS).map(bound).collect()
}

/// Counts by row, each by column.
type Cells = Vec<Vec<u64>>;

/// The picture's data.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Heat {
    /// Length of a column, ns.
    column_ns: u64,
    /// Where each row begins, ns.
    bounds: Vec<u64>,
    /// Waits for a CPU that have an event of their own.
    waits: Cells,
    /// The other waits, at the mean of their millisecond.
    waits_by_mean: Cells,
    /// Stops of the world.
    stops: Cells,
    /// All waits of the run by length, as the kernel counted them; empty where that was not recorded.
    pub(super) all: Vec<u64>,
    /// Whether waits were recorded by time.
    pub(super) by_ticks: bool,
    /// Waits in `waits` …
    pub(super) told: u64,
    /// … and in `waits_by_mean`.
    pub(super) means: u64,
}

/// The picture as it fills.
#[derive(Clone, Debug)]
pub(super) struct Filling {
    from_ns: u64,
    column_ns: u64,
    waits: Cells,
    by_mean: Cells,
    rests: Rests,
    by_ticks: bool,
    all: Vec<u64>,
}

impl Filling {
    /// Over the window.
    pub(super) fn new((from_ns, to_ns): (u64, u64)) -> Self {
        let empty = vec![vec![0; COLUMNS]; ROWS];
        Self {
            from_ns,
            column_ns: to_ns.saturating_sub(from_ns).div_ceil(COLUMNS as u64).max(1),
            waits: empty.clone(),
            by_mean: empty,
            rests: Rests::default(),
            by_ticks: false,
            all: Vec::new(),
        }
    }

    fn column(&self, at_ns: u64) -> usize {
        (at_ns.saturating_sub(self.from_ns) / self.column_ns).min(COLUMNS as u64 - 1) as usize
    }

    /// Takes a thread's event: a wait for a CPU, if it ends one that is not voluntary.
    pub(super) fn thread(&mut self, e: &ThreadEvent) {
        let Some(ns) = self.rests.told(e) else { return };
        let column = self.column(e.header.ts_ns);
        self.waits[row(ns)][column] += 1;
        self.settle(false);
    }

    /// Takes a stretch of ticks.
    pub(super) fn ticks(&mut self, waits: &Waits) {
        self.by_ticks = true;
        self.rests.take(waits);
        self.settle(false);
    }

    /// Counts what ticks held beside the waits that were told.
    fn settle(&mut self, last: bool) {
        while let Some(rest) = self.rests.next(last) {
            if let Some(mean) = rest.mean_ns {
                let column = self.column(rest.at_ns);
                self.by_mean[row(mean)][column] += rest.waits;
            }
        }
    }

    /// Takes the kernel's own distributions; the last counts.
    pub(super) fn hists(&mut self, hists: &Hists) {
        use Hist::{
            PreemptedInGc, PreemptedInStw, PreemptedOutside, WokenInGc, WokenInStw, WokenOutside,
        };
        self.all = vec![0; ROWS];
        for which in
            [PreemptedInGc, PreemptedInStw, PreemptedOutside, WokenInGc, WokenInStw, WokenOutside]
        {
            let Some(hist) = hists.hists.get(&(which as u8)) else { continue };
            for &(bucket, n) in hist.buckets.iter().filter(|(b, _)| usize::from(*b) < BUCKETS) {
                let (low, width) = bucket_range(usize::from(bucket));
                let sum = &mut self.all[row(low.saturating_add(width / 2))];
                *sum = sum.saturating_add(n);
            }
        }
    }

    /// The picture, with the stops in it.
    pub(super) fn finish(mut self, stops: &[StwReport]) -> Heat {
        self.settle(true);
        let mut cells = vec![vec![0; COLUMNS]; ROWS];
        for s in stops {
            cells[row(s.total_ns)][self.column(s.start_ns)] += 1;
        }
        let sum = |cells: &Cells| cells.iter().flatten().sum();
        Heat {
            column_ns: self.column_ns,
            bounds: bounds(),
            told: sum(&self.waits),
            means: sum(&self.by_mean),
            waits: self.waits,
            waits_by_mean: self.by_mean,
            stops: cells,
            all: self.all,
            by_ticks: self.by_ticks,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use g211s_ebpf::series::TICK_NS;

    use super::*;
    use crate::model::ascii::Scene;
    use crate::record::SparseHist;

    #[test]
    fn rows_begin_where_their_bounds_say() {
        let bounds = bounds();
        for (r, &bound) in bounds.iter().enumerate() {
            // Bounds are rounded to whole ns.
            assert_eq!(row(bound + 1), r, "{bound}");
            assert!(bound < 3 || row(bound - 2) + 1 == r, "{bound}");
        }
        assert_eq!((bounds[1], bounds[5], bounds[29]), (1000, 10_000, 10_000_000_000));
        assert_eq!(row(u64::MAX), ROWS - 1);
    }

    #[test]
    fn each_wait_counts_once_where_it_belongs_or_at_the_mean() {
        let window = (0, 240 * TICK_NS);
        let mut heat = Filling::new(window);
        // One wait of two ticks that ends in tick 5, and has its event.
        let scene = Scene::new(TICK_NS).thread(7, "==_ww==pp", "000000000");
        for e in &scene.transitions {
            heat.thread(e);
        }
        let told_us = (2 * TICK_NS / 1000) as u32;
        heat.ticks(&Waits {
            target: 0,
            from: 0,
            ticks: 9001,
            at: vec![5, 2, 8993],
            waits: vec![3, 1, 1],
            waited_us: vec![told_us + 100, 40, 7],
            within_us: vec![0; 3],
        });
        let heat = heat.finish(&[]);
        assert_eq!((heat.told, heat.means, heat.by_ticks), (1, 4, true));
        assert_eq!(heat.waits[row(2 * TICK_NS)][5], 1);
        assert_eq!(heat.waits_by_mean[row(50_000)][5], 2);
        assert_eq!(heat.waits_by_mean[row(40_000)][7], 1);
        assert_eq!(
            heat.waits_by_mean[row(7_000)][COLUMNS - 1],
            1,
            "beyond the window: its last column"
        );
    }

    #[test]
    fn the_distribution_is_the_kernels() {
        let mut heat = Filling::new((0, 1));
        let hist = SparseHist {
            count: 3,
            sum: 0,
            max: 0,
            buckets: vec![(31, 2), (u16::MAX, 9), (1151, 1)],
        };
        let hists =
            BTreeMap::from([(Hist::WokenInGc as u8, hist.clone()), (Hist::OnCpu as u8, hist)]);
        heat.hists(&Hists { ts_ns: 0, target: 0, hists });
        assert_eq!(heat.all[0], 2);
        assert_eq!(heat.all.iter().sum::<u64>(), 3);
    }
}
