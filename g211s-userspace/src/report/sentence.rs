//! One stop in one sentence: `GC #812 paused 41 ms: 38 ms were thread 7 runnable but waiting for
//! CPU 3 behind `stress` (pid 991); 3 ms mark termination.` Must not know where it is printed.

use std::fmt::Write as _;

use super::{
    format::{clean, count, duration},
    schema::{
        Behind, CauseReport, CodeReport, DelayCause, DelayReport, PlaceReport, SleepReport,
        StwReport,
    },
};
use crate::analysis::{
    accuracy::{Accuracy, Finding, Numbers},
    verdict::{CauseKind, Phase},
};
use crate::record::Quota;

/// What does not agree with the runtime's own counters, one line each; nothing where all does.
pub fn disagreement(a: &Accuracy) -> Vec<String> {
    let mut lines = Vec::new();
    let n = |n: Option<u64>| n.map_or_else(|| "–".to_owned(), count);
    let mut numbers = |what: &str, f: &Numbers| {
        if f.verdict == Finding::Disagree {
            let why = f.why.as_deref().unwrap_or_default();
            lines.push(format!(
                "{what}: {} seen, {} by the Go runtime's own count ({why})",
                n(f.ours),
                n(f.runtime)
            ));
        }
    };
    numbers("GC cycles", &a.gc_cycles);
    numbers("GC stops of the world", &a.stw_gc.count);
    numbers("other stops of the world", &a.stw_other.count);
    for (kind, s) in [("GC", &a.stw_gc), ("other", &a.stw_other)] {
        // Lengths say something of their own only where the numbers are right.
        if s.count.verdict == Finding::Disagree {
            continue;
        }
        let parts = [
            ("in all", s.total.verdict, &s.total.why),
            ("one by one", s.histogram.verdict, &s.histogram.why),
            ("until the world was stopped", s.stopping.verdict, &s.stopping.why),
        ];
        for (what, _, why) in parts.into_iter().filter(|p| p.1 == Finding::Disagree) {
            let why = why.as_deref().unwrap_or_default();
            lines.push(format!("lengths of {kind} stops, {what}: {why}"));
        }
    }
    let wrong = |line: &mut String| line.insert_str(0, "WRONG against the runtime's counters: ");
    lines.iter_mut().for_each(wrong);
    lines
}

/// Code that ran on for this long after it was asked to stop does not let itself be preempted: a signal that
/// can do it does it in microseconds.
const NOT_PREEMPTED_NS: u64 = 1_000_000;

/// Causes named one by one; the rest is summed up.
pub(super) const NAMED: usize = 3;

/// The sentence of a stop.
pub fn sentence(stop: &StwReport) -> String {
    let total = duration(stop.total_ns);
    let work = stop.reason.strip_prefix("GC ").unwrap_or(&stop.reason);
    let head = match (stop.gc_cycle, stop.reason.strip_prefix("GC ")) {
        (Some(n), Some("mark termination")) if !stop.retry => format!("GC #{n} paused {total}"),
        (Some(n), Some("mark termination")) => {
            format!("GC #{n} paused {total} (mark termination that did not hold)")
        }
        (Some(n), _) => format!("GC #{n} paused {total} ({work})"),
        (None, Some(work)) => format!("GC paused {total} ({work})"),
        (None, None) => format!("Stop #{} ({}) paused {total}", stop.n, stop.reason),
    };
    let mut clauses: Vec<(String, u64)> = Vec::new();
    for cause in &stop.causes {
        let mut words = words(cause, work);
        // On the stopper's way another thread is only one that the stopper slept for; told, or its part is a riddle.
        let for_a_lock = cause.phase == Phase::Stopped
            && cause.tid != stop.stopper_tid
            && !matches!(cause.kind, CauseKind::RuntimeWork | CauseKind::Unexplained);
        if for_a_lock {
            words += ", while the stopper slept until that thread woke it";
        }
        match clauses.iter_mut().find(|(w, _)| *w == words) {
            Some((_, ns)) => *ns += cause.ns,
            None => clauses.push((words, cause.ns)),
        }
    }
    clauses.sort_by_key(|&(_, ns)| std::cmp::Reverse(ns));
    let mut out = head;
    for (i, (words, ns)) in clauses.iter().take(NAMED).enumerate() {
        // What rounds to nothing beside the total says nothing.
        if i > 0 && ns * 200 < stop.total_ns {
            break;
        }
        let (join, verb) = if i == 0 { (": ", "were ") } else { ("; ", "") };
        let _ = write!(out, "{join}{} {verb}{words}", duration(*ns));
    }
    let named: u64 = clauses
        .iter()
        .take(NAMED)
        .enumerate()
        .filter(|(i, (_, ns))| *i == 0 || ns * 200 >= stop.total_ns)
        .map(|(_, (_, ns))| ns)
        .sum();
    let rest = stop.total_ns.saturating_sub(named);
    if rest * 50 >= stop.total_ns && rest > 0 {
        let _ = write!(out, "; {} other", duration(rest));
    }
    out.push('.');
    clean(&out)
}

/// The sentence of a long wait for a CPU outside stops.
pub fn delay_sentence(delay: &DelayReport) -> String {
    let mut out = format!(
        "{} waited {} for CPU {} ({}{})",
        capital(&thread(delay.tid, delay.m_id)),
        duration(delay.wait_ns),
        delay.cpu,
        wait_word(delay.wait),
        if delay.in_gc { ", during GC" } else { "" },
    );
    if let Some(p) = delay.p {
        let _ = write!(out, ", keeping P {p}");
    }
    let mut parts: Vec<String> = delay
        .behind
        .iter()
        .take(NAMED)
        .map(|b| format!("{} behind {}", duration(b.ns), who(&b.who)))
        .collect();
    let rest: u64 = delay.behind.iter().skip(NAMED).map(|b| b.ns).sum();
    let quota = delay.causes.iter().find_map(|c| c.quota.as_ref());
    let throttled = format!("kept off by {}", quota_words(quota));
    for (ns, what) in [
        (delay.throttled_ns, throttled.as_str()),
        (rest, "behind others"),
        (delay.idle_ns, "on an idle CPU"),
        (delay.unknown_ns, "unknown"),
    ] {
        if ns * 50 >= delay.wait_ns.max(1) {
            parts.push(format!("{} {what}", duration(ns)));
        }
    }
    if !parts.is_empty() {
        let _ = write!(out, ": {}", parts.join("; "));
    }
    out.push('.');
    clean(&out)
}

/// The sentence of a long uninterruptible sleep outside stops.
pub fn sleep_sentence(sleep: &SleepReport) -> String {
    let what = match sleep.causes.first() {
        Some(c) if c.kind == CauseKind::PageFault => "in a page fault".to_owned(),
        Some(DelayCause { syscall_name: Some(name), .. }) => {
            format!("uninterruptibly in {name}")
        }
        Some(DelayCause { syscall: Some(nr), .. }) => {
            format!("uninterruptibly in system call {nr}")
        }
        _ => "uninterruptibly".to_owned(),
    };
    let in_gc = if sleep.in_gc { " (during GC)" } else { "" };
    let who = capital(&thread(sleep.tid, sleep.m_id));
    clean(&format!("{who} slept {} {what}{in_gc}.", duration(sleep.ns)))
}

/// A quota in words.
pub(crate) fn quota_words(quota: Option<&Quota>) -> String {
    quota.map_or_else(
        || "the CPU quota".to_owned(),
        |q| {
            let time = |us: u64| duration(us.saturating_mul(1000));
            format!(
                "the CPU quota ({} in {}, cgroup {})",
                time(q.quota_us),
                time(q.period_us),
                q.cgroup
            )
        },
    )
}

fn wait_word(wait: crate::analysis::verdict::Wait) -> &'static str {
    use crate::analysis::verdict::Wait;
    match wait {
        Wait::Woken => "woken",
        Wait::Preempted => "preempted",
        Wait::Yielded => "yielded",
    }
}

pub(super) fn capital(s: &str) -> String {
    let mut chars = s.chars();
    chars.next().map_or_else(String::new, |c| c.to_uppercase().chain(chars).collect())
}

/// A thread as people know it: by its M where known.
pub(super) fn thread(tid: u32, m_id: Option<u64>) -> String {
    match m_id {
        Some(m) => format!("thread {m} (tid {tid})"),
        None => format!("thread {tid}"),
    }
}

pub(crate) fn who(b: &Behind) -> String {
    if b.own {
        format!("its own thread {}", b.tid)
    } else if b.observer {
        format!("g211s itself (pid {})", b.pid)
    } else {
        format!("`{}` (pid {})", b.comm, b.pid)
    }
}

fn code(c: &CodeReport) -> String {
    match &c.caller {
        Some(caller) => format!("{} called from {}", place(&c.place), place(caller)),
        None => place(&c.place),
    }
}

/// `main.spin (spin.go:41)`.
fn place(p: &PlaceReport) -> String {
    let file = p.file.as_deref().and_then(|f| f.rsplit('/').next());
    match (file, p.line) {
        (Some(file), Some(line)) => format!("{} ({file}:{line})", p.function),
        (Some(file), None) => format!("{} ({file})", p.function),
        (None, _) => p.function.clone(),
    }
}

/// A cause of a stop whose reason is `work`.
pub(crate) fn words(cause: &CauseReport, work: &str) -> String {
    let thread = thread(cause.tid, cause.m_id);
    let cpu = cause.cpu.map_or_else(|| "a CPU".to_owned(), |cpu| format!("CPU {cpu}"));
    match cause.kind {
        CauseKind::RuntimeWork if cause.phase == Phase::Stopped => work.to_owned(),
        CauseKind::RuntimeWork => "stopping the world".to_owned(),
        CauseKind::NonpreemptibleCode => match &cause.code {
            Some(c) if cause.ns >= NOT_PREEMPTED_NS => {
                format!("{thread} in {}, which does not let itself be preempted", code(c))
            }
            Some(c) => format!("{thread} running on in {} before it stopped", code(c)),
            None => format!("{thread} running on before it stopped"),
        },
        CauseKind::SyscallReturn => match (cause.syscall_name, cause.syscall) {
            (Some(name), _) => format!("{thread} in {name} with its P kept"),
            (None, Some(nr)) => format!("{thread} in system call {nr} with its P kept"),
            (None, None) => format!("{thread} in a system call with its P kept"),
        },
        CauseKind::CfsThrottled => {
            format!("{thread} kept off all CPUs by {}", quota_words(cause.quota.as_ref()))
        }
        CauseKind::PageFault => format!("{thread} in a page fault"),
        CauseKind::IrqSoftirq => format!("{cpu} serving interrupts under {thread}"),
        CauseKind::VmSteal => format!("{cpu} not run by the hypervisor under {thread}"),
        CauseKind::RunqueueWait => match &cause.behind {
            Some(b) => format!("{thread} runnable but waiting for {cpu} behind {}", who(b)),
            None => format!("{thread} runnable but waiting for {cpu} behind a task not seen"),
        },
        CauseKind::WakeupLatency => format!("{thread} runnable while {cpu} was idle"),
        CauseKind::Blocked => match (cause.syscall_name, cause.syscall) {
            (Some(name), _) => format!("{thread} asleep in {name}"),
            (None, Some(nr)) => format!("{thread} asleep in system call {nr}"),
            (None, None) => format!("{thread} asleep"),
        },
        CauseKind::Uninterruptible => match (cause.syscall_name, cause.syscall) {
            (Some(name), _) => {
                format!("{thread} asleep uninterruptibly in {name} (disk, most often)")
            }
            (None, Some(nr)) => format!("{thread} asleep uninterruptibly in system call {nr}"),
            (None, None) => format!("{thread} in uninterruptible sleep (disk, most often)"),
        },
        CauseKind::StoppedBySignal => format!("{thread} stopped by a signal or a tracer"),
        CauseKind::Unexplained => {
            format!("unexplained ({})", cause.why.unwrap_or("no evidence"))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::stw::EndEvidence;

    fn cause(kind: CauseKind, ns: u64, phase: Phase) -> CauseReport {
        CauseReport {
            kind,
            ns,
            tid: 4711,
            m_id: None,
            behind: None,
            phase,
            wait: None,
            cpu: None,
            syscall: None,
            syscall_name: None,
            quota: None,
            code: None,
            why: None,
        }
    }

    fn stop(causes: Vec<CauseReport>) -> StwReport {
        let total_ns = causes.iter().map(|c| c.ns).sum();
        StwReport {
            n: 9,
            reason: "GC mark termination".into(),
            reason_id: 1,
            gc_cycle: Some(812),
            retry: false,
            start_ns: 0,
            stopping_ns: 0,
            stopped_ns: total_ns,
            total_ns,
            end_evidence: EndEvidence::StartNow,
            runtime_stopping_ns: None,
            runtime_total_ns: None,
            stopper_tid: 4711,
            stopper_m: None,
            laggard_tid: None,
            laggard_m: None,
            laggard_evidence: "none",
            explained_ns: total_ns,
            unexplained_ns: 0,
            causes,
            threads: Vec::new(),
        }
    }

    fn waiting(comm: &str) -> CauseReport {
        CauseReport {
            m_id: Some(7),
            cpu: Some(3),
            behind: Some(Behind {
                pid: 991,
                tid: 991,
                comm: comm.into(),
                cgroup: None,
                own: false,
                observer: false,
            }),
            ..cause(CauseKind::RunqueueWait, 38_000_000, Phase::Stopping)
        }
    }

    #[test]
    fn the_one_sentence() {
        let s = stop(vec![
            waiting("stress"),
            cause(CauseKind::RuntimeWork, 3_000_000, Phase::Stopped),
            cause(CauseKind::RuntimeWork, 12_000, Phase::Stopping),
        ]);
        assert_eq!(
            sentence(&s),
            "GC #812 paused 41 ms: 38 ms were thread 7 (tid 4711) runnable but waiting for CPU 3 \
             behind `stress` (pid 991); 3 ms mark termination."
        );
    }

    #[test]
    fn whom_the_stopper_slept_for() {
        let mut waits = waiting("stress");
        waits.phase = Phase::Stopped;
        let own = CauseReport { tid: 1, ..cause(CauseKind::Blocked, 2_000_000, Phase::Stopped) };
        let stop = StwReport { stopper_tid: 1, ..stop(vec![waits, own]) };
        assert_eq!(
            sentence(&stop),
            "GC #812 paused 40 ms: 38 ms were thread 7 (tid 4711) runnable but waiting for CPU 3 \
             behind `stress` (pid 991), while the stopper slept until that thread woke it; 2 ms thread 1 asleep."
        );
    }

    #[test]
    fn other_kinds_of_stops_and_causes() {
        let mut s = stop(vec![
            CauseReport {
                syscall: Some(202),
                syscall_name: Some("futex"),
                ..cause(CauseKind::Blocked, 900_000, Phase::Stopping)
            },
            cause(CauseKind::Unexplained, 60_000, Phase::Stopping),
            cause(CauseKind::WakeupLatency, 50_000, Phase::Stopping),
            cause(CauseKind::NonpreemptibleCode, 40_000, Phase::Stopping),
        ]);
        s.gc_cycle = None;
        s.reason = "read mem stats".into();
        assert_eq!(
            sentence(&s),
            "Stop #9 (read mem stats) paused 1.1 ms: 900 µs were thread 4711 asleep in futex; \
             60 µs unexplained (no evidence); 50 µs thread 4711 runnable while a CPU was idle; \
             40 µs other."
        );
    }

    #[test]
    fn a_quota_is_named_with_its_cgroup() {
        let quota = Quota { cgroup: "/kubepods/x".into(), quota_us: 20_000, period_us: 100_000 };
        let mut s = stop(vec![
            CauseReport {
                quota: Some(quota),
                ..cause(CauseKind::CfsThrottled, 38_000_000, Phase::Stopping)
            },
            cause(CauseKind::PageFault, 2_000_000, Phase::Stopped),
        ]);
        assert_eq!(
            sentence(&s),
            "GC #812 paused 40 ms: 38 ms were thread 4711 kept off all CPUs by the CPU quota (20 ms in \
             100 ms, cgroup /kubepods/x); 2 ms thread 4711 in a page fault."
        );
        s.causes[0].quota = None;
        assert!(sentence(&s).contains("kept off all CPUs by the CPU quota; 2 ms"));
    }

    #[test]
    fn code_that_does_not_let_itself_be_preempted_is_named() {
        let at = |function: &str, file: &str, line| PlaceReport {
            function: function.into(),
            file: Some(file.into()),
            line: Some(line),
        };
        let mut s = stop(vec![
            CauseReport {
                code: Some(CodeReport {
                    place: at("main.spin", "/src/a/spin.go", 41),
                    caller: None,
                }),
                ..cause(CauseKind::NonpreemptibleCode, 38_000_000, Phase::Stopping)
            },
            CauseReport {
                code: Some(CodeReport {
                    place: at("runtime.memclrNoHeapPointers", "runtime/memclr_amd64.s", 70),
                    caller: Some(at("main.fill", "fill.go", 7)),
                }),
                ..cause(CauseKind::NonpreemptibleCode, 900_000, Phase::Stopping)
            },
        ]);
        assert_eq!(
            sentence(&s),
            "GC #812 paused 39 ms: 38 ms were thread 4711 in main.spin (spin.go:41), which does not \
             let itself be preempted; 900 µs thread 4711 running on in runtime.memclrNoHeapPointers \
             (memclr_amd64.s:70) called from main.fill (fill.go:7) before it stopped."
        );
        s.causes.iter_mut().for_each(|c| c.code = None);
        assert!(sentence(&s).ends_with("39 ms were thread 4711 running on before it stopped."));
    }

    #[test]
    fn a_hostile_name_does_not_reach_the_terminal() {
        let s = sentence(&stop(vec![waiting("\x1b]0;pwn\x07")]));
        assert!(s.contains("behind `?]0;pwn?` (pid 991)"), "{s}");
    }
}
