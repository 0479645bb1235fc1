//! Whether goroutines waited because the program's own goroutines had all of its Ps: a rule over figures that are
//! told with it. Must not know where the figures came from.

use serde::Serialize;

/// Of the samples, this share must have found all Ps running Go code, or for this share of all Ps' time threads must
/// have been on CPUs, in per cent. A sample is a moment a second, so a short run has few, and one that fell into a
/// breath of the program's must not decide.
pub const BUSY_PERCENT: u64 = 75;
/// Threads that waited for a CPU for at most this share of the time they were on one were not in want of CPUs, in
/// per cent.
pub const WAITED_PERCENT: u64 = 10;
/// Fewer samples tell nothing.
pub const MIN_SAMPLES: u64 = 3;

/// What is known of a run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Figures {
    /// Goroutines' waits to run: 99 % were at most this (the runtime's own count), ns.
    pub latency_p99_ns: Option<u64>,
    /// From here on it is long, ns.
    pub threshold_ns: u64,
    /// The target's threads waited for CPUs, after wakeups and preemptions, ns.
    pub threads_waited_ns: u64,
    /// They were on CPUs, ns.
    pub threads_ran_ns: u64,
    /// GOMAXPROCS × the window: as long could Ps run goroutines; null where GOMAXPROCS is not known or changed, ns.
    pub ps_ns: Option<u64>,
    /// Samples that tell every P's status.
    pub samples: u64,
    /// Of them, those in which all Ps ran Go code.
    pub samples_all_running: u64,
    /// Samples that tell the goroutines' statuses.
    pub samples_of_goroutines: u64,
    /// Goroutines ready to run and on no P, all those samples together.
    pub runnable_sum: u64,
    /// GOMAXPROCS, where it did not change.
    pub gomaxprocs: Option<u32>,
}

/// What the rule makes of them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Saturation {
    /// Some figure is missing.
    #[default]
    Unknown,
    /// Goroutines did not wait long.
    No,
    /// They did, all Ps were running goroutines, more were ready, and the threads got their CPUs.
    ByItsOwnGoroutines,
    /// They did, and the threads waited for CPUs: the machine's other work, or a quota.
    ThreadsInWantOfCpus,
    /// They did, and neither of the two explains it.
    Unexplained,
}

/// The rule.
pub fn saturation(f: &Figures) -> Saturation {
    let Some(p99) = f.latency_p99_ns else { return Saturation::Unknown };
    if p99 < f.threshold_ns {
        return Saturation::No;
    }
    let waited = u128::from(f.threads_waited_ns) * 100;
    if waited > u128::from(f.threads_ran_ns) * u128::from(WAITED_PERCENT) {
        return Saturation::ThreadsInWantOfCpus;
    }
    if f.samples < MIN_SAMPLES || f.samples_of_goroutines < MIN_SAMPLES {
        return Saturation::Unknown;
    }
    let found = f.samples_all_running * 100 >= f.samples * BUSY_PERCENT;
    // Threads without a P run as well, in C or in long system calls. But then a P is idle, and no goroutine stays ready.
    let ran = u128::from(f.threads_ran_ns) * 100;
    let busy = f.ps_ns.is_some_and(|ns| ran >= u128::from(ns) * u128::from(BUSY_PERCENT));
    if (found || busy) && f.runnable_sum >= f.samples_of_goroutines {
        Saturation::ByItsOwnGoroutines
    } else {
        Saturation::Unexplained
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FLOOD: Figures = Figures {
        latency_p99_ns: Some(40_000_000),
        threshold_ns: 1_000_000,
        threads_waited_ns: 10,
        threads_ran_ns: 1000,
        ps_ns: Some(2000),
        samples: 10,
        samples_all_running: 8,
        samples_of_goroutines: 10,
        runnable_sum: 4000,
        gomaxprocs: Some(2),
    };

    #[test]
    fn each_part_of_the_rule_decides() {
        let of = |f: Figures| saturation(&f);
        assert_eq!(of(FLOOD), Saturation::ByItsOwnGoroutines);
        assert_eq!(of(Figures { latency_p99_ns: None, ..FLOOD }), Saturation::Unknown);
        assert_eq!(of(Figures { latency_p99_ns: Some(999_999), ..FLOOD }), Saturation::No);
        let waited = Figures { threads_waited_ns: 101, ..FLOOD };
        assert_eq!(of(waited), Saturation::ThreadsInWantOfCpus);
        assert_eq!(of(Figures { samples: 2, ..FLOOD }), Saturation::Unknown);
        assert_eq!(of(Figures { samples_of_goroutines: 0, ..FLOOD }), Saturation::Unknown);
        assert_eq!(of(Figures { samples_all_running: 7, ..FLOOD }), Saturation::Unexplained);
        assert_eq!(of(Figures { runnable_sum: 9, ..FLOOD }), Saturation::Unexplained);
        let few = Figures { samples_all_running: 5, ..FLOOD };
        let by_time = |ps_ns| of(Figures { ps_ns, ..few });
        assert_eq!(by_time(Some(1333)), Saturation::ByItsOwnGoroutines);
        assert_eq!(by_time(Some(1334)), Saturation::Unexplained);
        assert_eq!(by_time(None), Saturation::Unexplained);
        let none = Figures { runnable_sum: 9, ps_ns: Some(1000), ..few };
        assert_eq!(of(none), Saturation::Unexplained);
    }
}
