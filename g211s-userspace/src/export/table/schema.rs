//! The tables' columns: names, types, units, meanings. docs/exports.md says the same (a test compares). Must not know
//! rows, or formats.
//!
//! Within a version columns are only added, at the end.

use serde::Serialize;

/// Name and version of the tables.
pub(super) const VERSION: &str = "g211s.tables/1";

/// What a column holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Kind {
    /// Unsigned, 64 bits.
    U64,
    /// Signed, 64 bits.
    I64,
    /// True or false.
    Bool,
    /// UTF-8.
    Text,
}

/// A column. Any may be null.
#[derive(Clone, Copy, Debug, Serialize)]
pub(super) struct Column {
    pub(super) name: &'static str,
    #[serde(rename = "type")]
    pub(super) kind: Kind,
    /// Its unit, empty where it has none.
    pub(super) unit: &'static str,
    pub(super) about: &'static str,
}

/// A table.
#[derive(Clone, Copy, Debug, Serialize)]
pub(super) struct Table {
    pub(super) name: &'static str,
    pub(super) about: &'static str,
    pub(super) columns: &'static [Column],
}

const fn number(name: &'static str, about: &'static str) -> Column {
    Column { name, kind: Kind::U64, unit: "", about }
}

const fn ns(name: &'static str, about: &'static str) -> Column {
    Column { name, kind: Kind::U64, unit: "ns", about }
}

const fn text(name: &'static str, about: &'static str) -> Column {
    Column { name, kind: Kind::Text, unit: "", about }
}

const fn signed(name: &'static str, about: &'static str) -> Column {
    Column { name, kind: Kind::I64, unit: "", about }
}

const fn flag(name: &'static str, about: &'static str) -> Column {
    Column { name, kind: Kind::Bool, unit: "", about }
}

/// A row an event.
pub(super) const EVENTS: Table = Table {
    name: "events",
    about: "Every event of the kernel side, in time order",
    columns: &[
        ns("ts_ns", "when it was made (CLOCK_MONOTONIC)"),
        text("kind", "thread, slice, probe, life, stack, span"),
        number("target", "index of the watched process, from 0; null: of none"),
        number(
            "pid",
            "thread, probe, life, stack, span: the watched process; slice: the process of who ran (0: idle)",
        ),
        number("tid", "the thread that it is about; slice: who ran (0: idle)"),
        number("cpu", "the CPU that it is about; thread: after the change"),
        ns(
            "start_ns",
            "thread: since when it was in `state`; slice: switched in; span: its beginning",
        ),
        ns("end_ns", "thread, span: ts_ns; slice: switched out"),
        text("state", "thread: the state until now"),
        text("next_state", "thread: the state from now on"),
        number("prev_cpu", "thread: the CPU before the change"),
        ns("queued_ns", "thread, from a run queue: since when on that of prev_cpu"),
        signed(
            "syscall",
            "thread: system call of the sleep (-1: none, -2: not known); stack: under way (-1: none)",
        ),
        text("syscall_name", "its name, where well known"),
        number("peer_tid", "thread: who woke it; at a switch: who left the CPU or got it"),
        number("window", "thread: number of the stop-the-world window, 0: none so far"),
        number("flags", "thread, slice: bits, see g211s-ebpf/src/event.rs"),
        ns("irq_ns", "thread, from running: interrupts served meanwhile"),
        ns(
            "kept_off_ns",
            "thread: from running: taken by the hypervisor; from a run queue: by a CPU quota",
        ),
        ns(
            "kept_off_after_ns",
            "thread, from a run queue: where after queued_ns the quota's part begins",
        ),
        text("comm", "slice: name of who ran"),
        text("site", "probe: what was reached"),
        number(
            "stw",
            "probe, stack: number of the stop of the world that was under way, or the last",
        ),
        number("arg0", "probe: register AX"),
        number("arg1", "probe: BX"),
        number("arg2", "probe: CX"),
        number("arg3", "probe: DI"),
        number("arg4", "probe: SI"),
        text(
            "what",
            "life: thread_born, thread_exited, exec; stack: signal, sample; span: assist_park, p_held, harvest",
        ),
        number(
            "other",
            "life: the parent; at an exit 1 if it was the last thread; at an exec the old tid",
        ),
        signed(
            "detail",
            "span: p_held: system call (-1: page fault, -2: preempted); harvest: events taken",
        ),
        ns(
            "middle_ns",
            "span: p_held: when the P was taken away; harvest: when the thread was told; null: not",
        ),
        number(
            "id",
            "span: assist_park: the goroutine; p_held: the P's number, and from bit 32 on the goroutines queued on it",
        ),
        text(
            "stack",
            "stack: functions, innermost first, joined by semicolons; addresses where they have no name",
        ),
    ],
};

/// A row a stop of the world.
pub(super) const PAUSES: Table = Table {
    name: "pauses",
    about: "Every whole stop of the world: `stw` of the report",
    columns: &[
        number("target", "index of the watched process, from 0"),
        number("pid", "the watched process, as it was given"),
        number("n", "number of the stop on this target"),
        text("reason", "the runtime's words for why"),
        number("reason_id", "the runtime's number for why"),
        number("gc_cycle", "the cycle it belongs to (`cycles.n`), if to one"),
        flag("retry", "a mark termination that did not hold"),
        ns("start_ns", "entry of stopTheWorldWithSema (CLOCK_MONOTONIC)"),
        ns("stopping_ns", "until the world was stopped"),
        ns("stopped_ns", "from then to the end"),
        ns("total_ns", "both"),
        text("end_evidence", "what tells the end"),
        ns("runtime_stopping_ns", "the runtime's own stopping time, where known"),
        ns("runtime_total_ns", "the runtime's own total, where known"),
        number("stopper_tid", "the thread that stopped the world"),
        number("stopper_m", "its M, where known"),
        number("laggard_tid", "the last thread that gave its P up, where one was seen"),
        number("laggard_m", "its M, where known"),
        ns("explained_ns", "explained time"),
        ns("unexplained_ns", "time without explanation"),
        text("verdict", "the stop in one sentence"),
    ],
};

/// A row a long wait or sleep outside stops.
pub(super) const DELAYS: Table = Table {
    name: "delays",
    about: "Every wait for a CPU and uninterruptible sleep of at least the threshold that overlaps no stop",
    columns: &[
        number("target", "index of the watched process, from 0"),
        number("pid", "the watched process, as it was given"),
        number("n", "number of the delay on this target, from 1, by its end"),
        text("kind", "wait, sleep"),
        number("tid", "who waited"),
        number("m", "its M, as far as known then"),
        ns("start_ns", "since when (CLOCK_MONOTONIC)"),
        ns("ns", "how long"),
        text("wait", "wait: woken, preempted, yielded"),
        number("cpu", "wait: the CPU it got"),
        number("p", "wait: the P that it kept, where proven"),
        ns("throttled_ns", "wait: kept off all CPUs by a CPU quota"),
        ns("idle_ns", "wait: while the CPU idled"),
        ns("unknown_ns", "wait: without evidence who ran"),
        text("verdict", "the delay in one sentence"),
    ],
};

/// A row a cause of a pause or delay.
pub(super) const CAUSES: Table = Table {
    name: "causes",
    about: "What pauses and delays went to: the causes of one sum to its length",
    columns: &[
        number("target", "index of the watched process, from 0"),
        text("part_of", "pause, delay"),
        number("n", "`pauses.n` or `delays.n`"),
        text("kind", "the cause"),
        ns("ns", "how long"),
        number("tid", "the thread on the critical path, or that waited"),
        number("m", "its M, as far as known"),
        text("phase", "pause: stopping, stopped"),
        text("wait", "pause: how the thread came to wait"),
        number("cpu", "waits: for which CPU, where known"),
        signed("syscall", "sleeps: number of the system call"),
        text("syscall_name", "its name, where well known"),
        number("behind_pid", "run-queue waits: the process that ran; null: not known"),
        number("behind_tid", "its thread"),
        text("behind_comm", "its name"),
        text("behind_cgroup", "its cgroup, where known"),
        flag("behind_own", "it is the watched process itself"),
        flag("behind_observer", "it is g211s"),
        text("function", "code that was not preempted: the innermost function"),
        text("file", "its source file"),
        number("line", "the line"),
        text("caller", "where that is the runtime's: the program's own function above it"),
        text("quota_cgroup", "throttled: the cgroup that has the quota"),
        Column { name: "quota_us", kind: Kind::U64, unit: "us", about: "its CPU time a period" },
        Column { name: "period_us", kind: Kind::U64, unit: "us", about: "its period" },
        text("why", "unexplained: why"),
    ],
};

/// A row a collection.
pub(super) const CYCLES: Table = Table {
    name: "cycles",
    about: "Every whole GC cycle: `gc.cycles` of the report",
    columns: &[
        number("target", "index of the watched process, from 0"),
        number("pid", "the watched process, as it was given"),
        number("n", "its number, from 1"),
        ns("start_ns", "entry of the sweep-termination stop (CLOCK_MONOTONIC)"),
        ns("duration_ns", "from there to the end of mark termination"),
        ns("sweep_term_ns", "the sweep-termination stop"),
        ns("mark_ns", "concurrent mark"),
        ns("mark_term_ns", "the mark-termination stop"),
        ns("interval_ns", "from the previous cycle's start, where seen"),
        text("trigger", "heap, time, cycle, where seen"),
        number("retries", "mark-termination stops that did not hold"),
        number("first_stop", "number of its first stop (`pauses.n`)"),
        number("last_stop", "number of its last stop (`pauses.n`)"),
    ],
};

/// All tables.
pub(super) const ALL: [Table; 5] = [EVENTS, PAUSES, DELAYS, CAUSES, CYCLES];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_documentation_has_every_column() {
        let docs = include_str!("../../../../docs/exports.md");
        assert!(docs.contains(VERSION));
        for table in ALL {
            let heading = format!("### `{}`", table.name);
            let section = docs.split_once(&heading).map(|(_, rest)| rest).expect(&heading);
            let section = section.split("\n### ").next().unwrap_or_default();
            for c in table.columns {
                let unit = if c.unit.is_empty() { "" } else { c.unit };
                let kind = format!("{:?}", c.kind).to_lowercase();
                let row = format!("| `{}` | {kind} | {unit} | {} |", c.name, c.about);
                assert!(section.contains(&row), "{}: {row}", table.name);
            }
        }
    }

    #[test]
    fn names_are_unique() {
        for table in ALL {
            let names: std::collections::BTreeSet<_> =
                table.columns.iter().map(|c| c.name).collect();
            assert_eq!(names.len(), table.columns.len(), "{}", table.name);
        }
    }
}
