//! The late harvests of the network in the report: names added, and each in one sentence. Must not know how
//! it is printed.

use std::fmt::Write as _;

use super::{
    build::Names,
    format::{clean, duration, sum},
    pipeline::TargetModel,
    schema::{LateCauseReport, LateReport, MeanwhileReport},
    sentence::{NAMED, capital, thread, who},
};
use crate::analysis::network::{Late, LateKind, explain};

/// The worst late harvests of a target.
pub(super) fn late(index: usize, model: &TargetModel, names: &Names) -> Vec<LateReport> {
    let stops: Vec<(u64, u64)> =
        model.judged.iter().map(|j| (j.stop.start_ns, j.stop.end_ns)).collect();
    model.lates.worst.iter().map(|late| one(index, late, &stops, names)).collect()
}

fn one(index: usize, late: &Late, stops: &[(u64, u64)], names: &Names) -> LateReport {
    let (causes, ms) = explain(late, stops);
    let causes = causes
        .iter()
        .map(|c| LateCauseReport {
            kind: c.kind,
            ns: c.ns,
            behind: c.behind.map(|r| names.behind(index, &r)),
        })
        .collect();
    let exact = late.ready_ns.is_some();
    let mut report = LateReport {
        ready_ns: late.ready_ns,
        woken_ns: late.woken_ns,
        running_ns: if exact { late.running_ns() } else { Some(late.end_ns) },
        harvested_ns: exact.then_some(late.end_ns),
        delay_ns: late.delay_ns(),
        events: late.events,
        tid: late.tid,
        m_id: names.m_id(index, late.tid),
        causes,
        ms: MeanwhileReport {
            threads: ms.threads,
            thread_ns: ms.threads.saturating_mul(late.delay_ns()),
            stw_ns: ms.stw_ns,
            on_cpu_ns: ms.on_cpu_ns,
            runnable_ns: ms.runnable_ns,
            blocked_ns: ms.blocked_ns,
            idle_ns: ms.idle_ns,
            unknown_ns: ms.unknown_ns,
            behind: names.behind_for(index, &ms.behind),
        },
        sentence: String::new(),
    };
    report.sentence = sentence(&report);
    report
}

fn sentence(late: &LateReport) -> String {
    let of = capital(&thread(late.tid, late.m_id));
    let delay = duration(late.delay_ns);
    let mut out = match (late.ready_ns, late.woken_ns) {
        (Some(_), None) => format!("A socket was ready for {delay} until a poll took it. {of}"),
        (Some(_), Some(_)) => {
            format!("A socket was ready for {delay} until the poll that it woke took it. {of}")
        }
        (None, _) => format!("{of}, woken from a poll, ran {delay} later: it"),
    };
    let mut parts: Vec<String> = late
        .causes
        .iter()
        .take(NAMED)
        .map(|c| format!("{} {}", words(c), duration(c.ns)))
        .collect();
    let rest = sum(late.causes.iter().skip(NAMED).map(|c| c.ns));
    if rest > 0 {
        parts.push(format!("did other things for {}", duration(rest)));
    }
    let _ = write!(out, " {}.", parts.join(", "));
    let ms = &late.ms;
    let share = |ns: u64, what: &str| {
        let percent = (ns * 100 + ms.thread_ns / 2) / ms.thread_ns.max(1);
        (percent > 0).then(|| format!("{percent} % {what}"))
    };
    let shares = [
        share(ms.stw_ns, "in a stop of the world"),
        share(ms.on_cpu_ns, "on a CPU"),
        share(ms.runnable_ns, "waiting for a CPU"),
        share(ms.blocked_ns, "in system calls"),
        share(ms.idle_ns, "idle"),
        share(ms.unknown_ns, "unknown"),
    ];
    let shares: Vec<String> = shares.into_iter().flatten().collect();
    if !shares.is_empty() {
        let threads = if ms.threads == 1 { "thread" } else { "threads" };
        let _ = write!(out, " Time of all {} {threads}: {}.", ms.threads, shares.join(", "));
    }
    clean(&out)
}

fn words(cause: &LateCauseReport) -> String {
    match (cause.kind, &cause.behind) {
        (LateKind::StopTheWorld, _) => "was in a stop of the world for".to_owned(),
        (LateKind::RunqueueWait, Some(b)) => format!("waited for a CPU behind {} for", who(b)),
        (LateKind::RunqueueWait, None) => "waited for a CPU behind a task not seen for".to_owned(),
        (LateKind::CfsThrottled, _) => "was kept off the CPUs by the CPU quota for".to_owned(),
        (LateKind::WakeupLatency, _) => "waited for an idle CPU for".to_owned(),
        (LateKind::Busy, _) => "was on a CPU, busy with something else, for".to_owned(),
        (LateKind::Asleep, _) => "slept for".to_owned(),
        (LateKind::Unexplained, _) => "did what nothing tells for".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::schema::Behind;

    fn report(ready: Option<u64>, woken: Option<u64>, causes: Vec<LateCauseReport>) -> LateReport {
        LateReport {
            ready_ns: ready,
            woken_ns: woken,
            running_ns: None,
            harvested_ns: None,
            delay_ns: 8_000_000,
            events: None,
            tid: 42,
            m_id: Some(3),
            causes,
            ms: MeanwhileReport {
                threads: 4,
                thread_ns: 32_000_000,
                stw_ns: 0,
                on_cpu_ns: 4_000_000,
                runnable_ns: 8_000_000,
                blocked_ns: 0,
                idle_ns: 20_000_000,
                unknown_ns: 0,
                behind: Vec::new(),
            },
            sentence: String::new(),
        }
    }

    fn cause(kind: LateKind, ns: u64, behind: Option<&str>) -> LateCauseReport {
        let behind = behind.map(|comm| Behind {
            pid: 9,
            tid: 9,
            comm: comm.to_owned(),
            cgroup: None,
            own: false,
            observer: false,
        });
        LateCauseReport { kind, ns, behind }
    }

    #[test]
    fn a_late_wake_names_who_was_ahead() {
        let causes = vec![cause(LateKind::RunqueueWait, 8_000_000, Some("hog"))];
        assert_eq!(
            sentence(&report(None, Some(1), causes)),
            "Thread 3 (tid 42), woken from a poll, ran 8 ms later: it waited for a CPU behind `hog` \
             (pid 9) for 8 ms. Time of all 4 threads: 13 % on a CPU, 25 % waiting for a CPU, 63 % idle."
        );
    }

    #[test]
    fn a_harvest_without_a_sleeping_poll_was_nobodys_turn() {
        let causes = vec![
            cause(LateKind::Busy, 6_000_000, None),
            cause(LateKind::StopTheWorld, 2_000_000, None),
        ];
        let text = sentence(&report(Some(1), None, causes));
        assert!(
            text.starts_with(
                "A socket was ready for 8 ms until a poll took it. Thread 3 (tid 42) was on a CPU, \
                 busy with something else, for 6 ms, was in a stop of the world for 2 ms."
            ),
            "{text}"
        );
    }
}
