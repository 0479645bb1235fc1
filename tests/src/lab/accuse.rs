//! Accusations, of somebody or something outside the target, and whether independent evidence
//! confirms them: the kernel's scheduler events as perf records them, and /proc.

use anyhow::{Context, Result};

use crate::report::{Cause, Report};
use crate::truth::sched::Trace;

/// From here on an accusation counts, ns.
pub const LEAST_NS: u64 = 1_000_000;
/// How much of what is said evidence must show.
const CONFIRMED: f64 = 0.8;
/// What a figure of /proc/stat is counted in, ns: `USER_HZ` is 100.
const TICK_NS: u64 = 10_000_000;

/// What is known without g211s about a window of time.
pub struct Evidence {
    /// The scheduler's events.
    pub trace: Trace,
    /// Time stolen by a hypervisor, all CPUs, ns.
    pub stolen_ns: u64,
    /// Time in interrupts and softirqs, all CPUs, ns.
    pub interrupts_ns: u64,
}

/// Figures of /proc that grow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Counters {
    stolen_ns: u64,
    interrupts_ns: u64,
}

impl Counters {
    /// Those of now.
    pub fn read() -> Result<Self> {
        Self::parse(&std::fs::read_to_string("/proc/stat")?).context("/proc/stat")
    }

    fn parse(stat: &str) -> Option<Self> {
        // cpu user nice system idle iowait irq softirq steal
        let cpu = stat.lines().find_map(|l| l.strip_prefix("cpu "))?;
        let ticks: Vec<u64> = cpu.split_whitespace().filter_map(|n| n.parse().ok()).collect();
        Some(Self {
            interrupts_ns: (ticks.get(5)? + ticks.get(6)?) * TICK_NS,
            stolen_ns: ticks.get(7)? * TICK_NS,
        })
    }

    /// How much they grew since, with what the scheduler did meanwhile.
    pub fn until(self, later: Self, trace: Trace) -> Evidence {
        Evidence {
            trace,
            // A tick may be in the making at each end.
            stolen_ns: later.stolen_ns.saturating_sub(self.stolen_ns) + TICK_NS,
            interrupts_ns: later.interrupts_ns.saturating_sub(self.interrupts_ns) + TICK_NS,
        }
    }
}

/// How many accusations there were, and which of them nothing confirms.
#[derive(Clone, Debug, Default)]
pub struct Accusations {
    /// Pauses and delays that were looked at.
    pub of: usize,
    /// Accusations.
    pub count: usize,
    /// Those that evidence does not confirm, in words.
    pub unconfirmed: Vec<String>,
    /// Further ones, of times at which perf lost events: nobody can tell.
    pub undecided: usize,
}

/// The accusations of a report in whose target nothing was wrong.
pub fn weigh(report: &Report, evidence: &Evidence) -> Result<Accusations> {
    let mut all = Accusations::default();
    for stw in report.stws()? {
        all.weigh(&stw.causes, stw.start_ns, stw.total_ns, evidence);
    }
    for delay in report.delays()? {
        let told: Vec<Cause> =
            delay.told().into_iter().map(|c| Cause { tid: delay.tid, ..c }).collect();
        all.weigh(&told, delay.start_ns, delay.wait_ns, evidence);
    }
    Ok(all)
}

impl Accusations {
    fn weigh(&mut self, causes: &[Cause], start: u64, length: u64, evidence: &Evidence) {
        self.of += 1;
        let (from, to) = (start, start + length);
        for cause in causes.iter().filter(|c| c.ns >= LEAST_NS) {
            let Some(seen) = seen(cause, from, to, evidence) else { continue };
            if evidence.trace.has_hole(from, to) {
                self.undecided += 1;
                continue;
            }
            self.count += 1;
            if (seen as f64) < CONFIRMED * cause.ns as f64 {
                self.unconfirmed.push(format!(
                    "{} of {} µs (thread {}, behind {:?}) at {start}: evidence shows {} µs",
                    cause.kind,
                    cause.ns / 1_000,
                    cause.tid,
                    cause.behind,
                    seen / 1_000
                ));
            }
        }
    }
}

/// How much of a cause evidence shows, ns; `None`: it accuses nobody outside.
fn seen(cause: &Cause, from: u64, to: u64, evidence: &Evidence) -> Option<u64> {
    let trace = &evidence.trace;
    Some(match cause.kind.as_str() {
        "runqueue_wait" => {
            let who = cause.behind.first().filter(|who| !who.own)?;
            let waited = trace.waited(cause.tid, from, to);
            waited.min(trace.thread_ran(who.tid?, from, to))
        }
        "page_fault" | "uninterruptible" | "syscall_return" => {
            trace.slept_deeply(cause.tid, from, to)
        }
        "vm_steal" => evidence.stolen_ns,
        "irq_softirq" => evidence.interrupts_ns,
        // Nobody set a quota or sent a signal.
        "cfs_throttled" | "stopped_by_signal" => 0,
        // The target's own doing, or no accusation.
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::Culprit;
    use crate::truth::sched::{Kind, Slice, Wait};

    fn evidence() -> Evidence {
        let mut trace = Trace::default();
        trace.waits.push(Wait { tid: 7, kind: Kind::Preemption, from_ns: 0, to_ns: 5_000_000 });
        let slice = Slice { cpu: 0, tid: 9, comm: "other".into(), from_ns: 0, to_ns: 3_000_000 };
        trace.slices.push(slice);
        Evidence { trace, stolen_ns: 0, interrupts_ns: 0 }
    }

    fn cause(kind: &str, ns: u64, behind: Option<(&str, bool)>) -> Cause {
        let culprit = |(comm, own): (&str, bool)| Culprit {
            pid: 9,
            tid: Some(9),
            comm: comm.into(),
            ns: 0,
            own,
            observer: false,
        };
        let behind = behind.map(culprit).into_iter().collect();
        Cause { kind: kind.into(), ns, tid: 7, behind, code: None }
    }

    #[test]
    fn what_perf_does_not_show_is_unconfirmed() {
        let mut all = Accusations::default();
        let causes = [
            cause("runqueue_wait", 3_000_000, Some(("other", false))),
            cause("runqueue_wait", 5_000_000, Some(("other", false))),
            cause("runqueue_wait", 5_000_000, Some(("target", true))),
            cause("cfs_throttled", 2_000_000, None),
            cause("cfs_throttled", 999_999, None),
            cause("runtime_work", 9_000_000, None),
        ];
        all.weigh(&causes, 0, 10_000_000, &evidence());
        assert_eq!((all.of, all.count, all.unconfirmed.len()), (1, 3, 2), "{:?}", all.unconfirmed);
        let mut holed = evidence();
        holed.trace.holes.push((9_000_000, 11_000_000));
        all.weigh(&causes, 0, 10_000_000, &holed);
        assert_eq!((all.of, all.count, all.undecided), (2, 3, 3));
    }

    #[test]
    fn counters_are_where_proc_has_them() {
        let host = "cpu  1 2 3 4 5 6 7 8 0 0\ncpu0 1 2 3 4 5 6 7 8 0 0\n";
        let read = Counters::parse(host).unwrap();
        assert_eq!((read.interrupts_ns, read.stolen_ns), (13 * TICK_NS, 8 * TICK_NS));
    }
}
