//! Times in which every P was kept by a thread on no CPU, so that no goroutine could run: interval arithmetic
//! alone. Only what is proven counts: a P of which nothing is known is taken to have run.

use std::collections::BTreeMap;

use super::Holding;

/// No P ran during `[start_ns, end_ns)`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Starved {
    /// Beginning, ns.
    pub start_ns: u64,
    /// End, ns.
    pub end_ns: u64,
    /// Who kept the Ps: the holdings that overlap it, by P and time.
    pub holders: Vec<Holding>,
}

/// All such times, ascending and apart from one another, for `procs` Ps (GOMAXPROCS).
pub fn starved(holdings: &[Holding], procs: u32) -> Vec<Starved> {
    let mut of: Vec<&Holding> =
        holdings.iter().filter(|h| h.p < procs && h.start_ns < h.end_ns).collect();
    of.sort_by_key(|h| (h.start_ns, h.p, h.end_ns));
    // (time, ends first, P): how many holdings of a P are open is counted, since two of one may overlap where one
    // thread's end and the next one's beginning were stamped on two CPUs.
    let mut edges: Vec<(u64, bool, u32)> =
        of.iter().flat_map(|h| [(h.start_ns, true, h.p), (h.end_ns, false, h.p)]).collect();
    edges.sort_unstable();
    let mut open: BTreeMap<u32, u32> = BTreeMap::new();
    let mut found: Vec<Starved> = Vec::new();
    let mut since = None;
    for (ns, begins, p) in edges {
        if begins {
            *open.entry(p).or_insert(0) += 1;
            if procs > 0 && open.len() == procs as usize && since.is_none() {
                since = Some(ns);
            }
            continue;
        }
        if let Some(n) = open.get_mut(&p) {
            *n -= 1;
            if *n == 0 {
                open.remove(&p);
                if let Some(start_ns) = since.take().filter(|start| *start < ns) {
                    found.push(Starved { start_ns, end_ns: ns, holders: Vec::new() });
                }
            }
        }
    }
    // One P's next holding may begin as the last one ends: that is one time.
    found.dedup_by(|next, last| {
        let joins = last.end_ns == next.start_ns;
        if joins {
            last.end_ns = next.end_ns;
        }
        joins
    });
    for s in &mut found {
        let overlaps = |h: &&&Holding| h.start_ns < s.end_ns && h.end_ns > s.start_ns;
        s.holders = of.iter().filter(overlaps).map(|h| **h).collect();
        s.holders.sort_by_key(|h| (h.p, h.start_ns));
    }
    found
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::analysis::goroutine::Off;

    /// A P drawn as a line: `.` nothing proven, `s` in a system call, `p` preempted, `f` a fault. A stretch of
    /// one letter is a holding.
    fn draw(lines: &[&str]) -> Vec<Holding> {
        let mut holdings = Vec::new();
        for (p, line) in lines.iter().enumerate() {
            let chars: Vec<char> = line.chars().collect();
            let mut at = 0;
            for run in chars.chunk_by(|a, b| a == b) {
                let off = match run[0] {
                    's' => Some(Off::Syscall(0)),
                    'p' => Some(Off::Preempted),
                    'f' => Some(Off::Fault),
                    _ => None,
                };
                let (start_ns, end_ns) = (1 + at as u64, 1 + (at + run.len()) as u64);
                at += run.len();
                holdings.extend(off.map(|off| Holding {
                    p: p as u32,
                    tid: 100 + p as u32,
                    off,
                    start_ns,
                    end_ns,
                    taken: false,
                    queued: 0,
                }));
            }
        }
        holdings.sort_by_key(|h| h.end_ns);
        holdings
    }

    /// The times found, drawn: `#` where no P ran.
    fn picture(lines: &[&str], procs: u32) -> String {
        let found = starved(&draw(lines), procs);
        let len = lines.iter().map(|l| l.len()).max().unwrap_or(0);
        let at = |i: usize| found.iter().any(|s| (s.start_ns..s.end_ns).contains(&(1 + i as u64)));
        (0..len).map(|i| if at(i) { '#' } else { '.' }).collect()
    }

    #[test]
    fn only_where_all_ps_are_held() {
        let lines = ["..ssssss..pp..", "....pppppp....", "ssssss..ffffff"];
        assert_eq!(picture(&lines, 3), "....##........");
        assert_eq!(picture(&lines[..2], 2), "....####......");
        assert_eq!(picture(&lines, 4), "..............", "of the fourth nothing is known");
        assert_eq!(picture(&lines, 0), "..............");
    }

    #[test]
    fn one_time_though_the_holders_change() {
        let lines = ["sssspppp", "..ffff.."];
        let found = starved(&draw(&lines), 2);
        assert_eq!(found.len(), 1, "{found:?}");
        assert_eq!((found[0].start_ns, found[0].end_ns), (3, 7));
        let who: Vec<_> = found[0].holders.iter().map(|h| (h.p, h.off)).collect();
        assert_eq!(who, [(0, Off::Syscall(0)), (0, Off::Preempted), (1, Off::Fault)]);
    }

    #[test]
    fn a_p_that_was_done_away_with_does_not_count() {
        assert_eq!(picture(&["ssss", "....", "ssss"], 1), "####");
        assert_eq!(picture(&["....", "....", "ssss"], 2), "....");
    }

    proptest! {
        /// As asking, moment by moment, whether all Ps are held.
        #[test]
        fn agrees_with_counting_moment_by_moment(
            spans in prop::collection::vec((0u32..4, 1u64..60, 1u64..20), 0..40),
            procs in 1u32..5,
        ) {
            let holdings: Vec<Holding> = spans
                .iter()
                .map(|&(p, start_ns, len)| Holding {
                    p,
                    tid: p,
                    off: Off::Preempted,
                    start_ns,
                    end_ns: start_ns + len,
                    taken: false,
                    queued: 0,
                })
                .collect();
            let found = starved(&holdings, procs);
            for now in 0..100u64 {
                let held = |p: u32| {
                    holdings.iter().any(|h| h.p == p && (h.start_ns..h.end_ns).contains(&now))
                };
                let all = (0..procs).all(held);
                let said = found.iter().filter(|s| (s.start_ns..s.end_ns).contains(&now)).count();
                prop_assert_eq!(said, usize::from(all), "at {}", now);
            }
            prop_assert!(found.windows(2).all(|w| w[0].end_ns < w[1].start_ns));
            for s in &found {
                prop_assert!((0..procs).all(|p| s.holders.iter().any(|h| h.p == p)));
            }
        }

        /// Losing spans can only lose time.
        #[test]
        fn less_evidence_finds_less(
            spans in prop::collection::vec((0u32..3, 1u64..60, 1u64..20, any::<bool>()), 0..40),
        ) {
            let all: Vec<(Holding, bool)> = spans
                .iter()
                .map(|&(p, start_ns, len, kept)| {
                    let end_ns = start_ns + len;
                    let off = Off::Fault;
                    (Holding { p, tid: p, off, start_ns, end_ns, taken: false, queued: 0 }, kept)
                })
                .collect();
            let whole: Vec<Holding> = all.iter().map(|(h, _)| *h).collect();
            let less: Vec<Holding> = all.iter().filter(|(_, k)| *k).map(|(h, _)| *h).collect();
            let whole = starved(&whole, 3);
            for s in starved(&less, 3) {
                let inside = whole.iter().any(|w| w.start_ns <= s.start_ns && s.end_ns <= w.end_ns);
                prop_assert!(inside);
            }
        }
    }
}
