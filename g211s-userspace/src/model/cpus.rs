//! Per CPU: who ran when, as far as slices were sent. Must not know targets or stops.

use std::collections::{BTreeMap, VecDeque};

use g211s_ebpf::event::SliceEvent;

use crate::order::place_from_end;

/// `tid` of process `tgid` ran on a CPU during `[start_ns, end_ns)`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Slice {
    /// Switched in, ns.
    pub start_ns: u64,
    /// Switched out (or last known to run), ns.
    pub end_ns: u64,
    /// When the slice was sent, ns.
    pub sent_ns: u64,
    /// Who; 0 is the idle task.
    pub tid: u32,
    /// Its process.
    pub tgid: u32,
    /// Its comm, NUL-padded, not sanitised.
    pub comm: [u8; 16],
}

/// The slices of all CPUs.
#[derive(Clone, Debug, Default)]
pub struct Cpus {
    by_cpu: BTreeMap<u16, VecDeque<Slice>>,
}

impl Cpus {
    /// Takes a slice.
    pub fn apply(&mut self, e: &SliceEvent) {
        if e.start_ns >= e.end_ns {
            return;
        }
        let slice = Slice {
            start_ns: e.start_ns,
            end_ns: e.end_ns,
            sent_ns: e.header.ts_ns,
            tid: e.header.tid,
            tgid: e.tgid,
            comm: e.comm,
        };
        self.put(e.header.cpu, slice);
    }

    fn put(&mut self, cpu: u16, slice: Slice) {
        let slices = self.by_cpu.entry(cpu).or_default();
        // Near the end: a wait's slices are newer than those of earlier waits.
        let at = place_from_end(slices, |s| s.start_ns < slice.start_ns);
        match slices.get_mut(at) {
            // The same stay on the CPU, sent while open and again later.
            Some(same) if same.start_ns == slice.start_ns && same.tid == slice.tid => {
                same.end_ns = same.end_ns.max(slice.end_ns);
                // A slice that is still open comes without a comm.
                if same.comm == [0; 16] {
                    same.comm = slice.comm;
                }
                same.sent_ns = same.sent_ns.max(slice.sent_ns);
                // A task may be renamed while it runs; the later name is the closed slice's.
                if slice.sent_ns >= same.sent_ns {
                    same.comm = slice.comm;
                }
            }
            _ => slices.insert(at, slice),
        }
    }

    /// Calls `f(start_ns, end_ns, slice)` over `[from_ns, to_ns)` of a CPU without hole or overlap;
    /// `None` where no slice tells who ran.
    pub fn walk(
        &self,
        cpu: u16,
        from_ns: u64,
        to_ns: u64,
        mut f: impl FnMut(u64, u64, Option<&Slice>),
    ) {
        let mut at = from_ns;
        if let Some(slices) = self.by_cpu.get(&cpu) {
            // A CPU runs one task at a time, so ends ascend like starts: one slice before the first
            // that starts inside may reach in.
            let first = place_from_end(slices, |s| s.start_ns <= from_ns).saturating_sub(1);
            for s in slices.range(first..) {
                if s.start_ns >= to_ns {
                    break;
                }
                let (start, end) = (s.start_ns.max(at), s.end_ns.min(to_ns));
                if start >= end {
                    continue;
                }
                if at < start {
                    f(at, start, None);
                }
                f(start, end, Some(s));
                at = end;
            }
        }
        if at < to_ns {
            f(at, to_ns, None);
        }
    }

    /// Takes from `other` what it knows of all CPUs during `[from_ns, to_ns)`.
    pub fn copy(&mut self, other: &Self, from_ns: u64, to_ns: u64) {
        for (&cpu, slices) in &other.by_cpu {
            let first = place_from_end(slices, |s| s.start_ns <= from_ns).saturating_sub(1);
            let reach = slices.range(first..).take_while(|s| s.start_ns < to_ns);
            for slice in reach.filter(|s| s.end_ns > from_ns) {
                self.put(cpu, *slice);
            }
        }
    }

    /// All slices, by CPU and time.
    pub fn iter(&self) -> impl Iterator<Item = (u16, &Slice)> {
        self.by_cpu.iter().flat_map(|(cpu, slices)| slices.iter().map(|s| (*cpu, s)))
    }

    /// Forgets slices that were sent before `before_ns`. By time of sending, because a long wait's
    /// slices are older than the wait's end and must live until it.
    pub fn prune(&mut self, before_ns: u64) {
        for slices in self.by_cpu.values_mut() {
            while slices.front().is_some_and(|s| s.sent_ns < before_ns) {
                slices.pop_front();
            }
            if slices.capacity() > 1024 && slices.len() < slices.capacity() / 8 {
                slices.shrink_to(slices.len() * 2);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::model::ascii::Scene;

    #[test]
    fn who_ran_and_where_nobody_knows() {
        let scene = Scene::new(10).cpu(3, "77799..00", &[(9, "hog"), (7, "svc")]);
        let mut seen = Vec::new();
        scene.cpus().walk(3, 5, 100, |s, e, slice| seen.push((s, e, slice.map(|s| s.tid))));
        assert_eq!(
            seen,
            [
                (5, 30, Some(7)),
                (30, 50, Some(9)),
                (50, 70, None),
                (70, 90, Some(0)),
                (90, 100, None)
            ]
        );
    }

    #[test]
    fn an_open_slice_is_extended_by_the_closed_one() {
        let mut scene = Scene::new(10).cpu(0, "99", &[(9, "hog")]).cpu(0, "9999", &[(9, "hog")]);
        scene.slices.reverse();
        let mut seen = Vec::new();
        scene.cpus().walk(0, 1, 40, |s, e, slice| seen.push((s, e, slice.map(|s| s.tid))));
        assert_eq!(seen, [(1, 40, Some(9))]);
    }

    #[test]
    fn an_open_slice_gets_its_name_from_the_whole_one() {
        let whole = Scene::new(10).cpu(0, "777.", &[(7, "svc")]).slices[0];
        let mut open = whole;
        (open.comm, open.end_ns) = ([0; 16], whole.end_ns - 10);
        let mut cpus = super::Cpus::default();
        cpus.apply(&open);
        cpus.apply(&whole);
        let mut seen = Vec::new();
        cpus.walk(0, whole.start_ns, whole.end_ns, |a, b, s| seen.push((b - a, s.unwrap().comm)));
        assert_eq!(seen, [(whole.end_ns - whole.start_ns, whole.comm)]);
    }

    #[test]
    fn pruning_goes_by_time_of_sending() {
        let scene = Scene::new(10).cpu(0, "99", &[(9, "hog")]);
        let mut cpus = scene.cpus();
        cpus.prune(20);
        let mut known = 0;
        cpus.walk(0, 1, 20, |s, e, slice| known += slice.map_or(0, |_| e - s));
        assert_eq!(known, 19, "sent at 20");
        cpus.prune(21);
        cpus.walk(0, 0, 20, |_, _, slice| assert!(slice.is_none()));
    }
}
