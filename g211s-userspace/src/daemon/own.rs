//! What the agent tells of itself. Must not know what it tells of others.

use std::collections::BTreeMap;

use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::time::TimeValLike as _;

use super::metrics::expose::{Family, Kind, Value};

/// What it counted of itself.
#[derive(Clone, Debug, Default)]
pub struct Own {
    /// Processes: watched, by a rule left out, failed, without a place.
    pub targets: BTreeMap<&'static str, u64>,
    /// Events by class: received, lost.
    pub events: BTreeMap<String, (u64, u64)>,
    /// Events of targets that had left.
    pub stale: u64,
    /// Threads that the kernel's table had no room for.
    pub threads_full: u64,
    /// Times that a process came to be watched.
    pub attached: u64,
    /// … was no longer.
    pub detached: u64,
    /// … could not be.
    pub refused: u64,
    /// … was let go because of the budget.
    pub shed: u64,
    /// Hits of probes.
    pub hits: u64,
    /// Share of one CPU that all of it cost lately.
    pub cost: f64,
    /// The budget.
    pub budget: f64,
    /// Recordings of incidents: written, failed, left out for their number.
    pub captures: BTreeMap<&'static str, u64>,
    /// Bytes of the ring.
    pub ring_bytes: u64,
    /// Pushes: done, failed.
    pub pushes: BTreeMap<&'static str, u64>,
    /// When it began, s since 1970.
    pub start_s: f64,
    /// `uname -r`.
    pub kernel: String,
}

/// CPU time so far, ns.
pub fn cpu_ns() -> u64 {
    let usage = getrusage(UsageWho::RUSAGE_SELF);
    usage.map_or(0, |u| {
        (u.user_time().num_microseconds() + u.system_time().num_microseconds()) as u64 * 1000
    })
}

/// Has all threads allocate from one arena. Those that write a recording or detach probes come and go: of arenas of
/// their own each would keep what was freed in it (glibc `malloc/arena.c`). To be called before there are others.
pub fn share_one_arena() {
    // SAFETY: mallopt(3) takes two numbers; nobody else allocates yet.
    #[cfg(target_env = "gnu")]
    unsafe {
        nix::libc::mallopt(nix::libc::M_ARENA_MAX, 1);
    }
}

/// Gives memory that was freed back to the system.
pub fn give_memory_back() {
    // SAFETY: malloc_trim(3) takes a number and may be called at any time.
    #[cfg(target_env = "gnu")]
    unsafe {
        nix::libc::malloc_trim(0);
    }
}

/// Resident memory, bytes: `statm`'s second field, in pages.
pub fn rss_bytes() -> Option<u64> {
    let text = std::fs::read_to_string("/proc/self/statm").ok()?;
    let pages: u64 = text.split(' ').nth(1)?.parse().ok()?;
    Some(pages * 4096)
}

/// Name, the one in Prometheus where that is another, help, unit, kind, series.
type Row = (&'static str, Option<&'static str>, &'static str, &'static str, Kind, Series);
type Series = Vec<(Vec<(&'static str, String)>, Value)>;

impl Own {
    /// As families of metrics.
    pub fn families(&self) -> Vec<Family> {
        let one = |n: f64| vec![(Vec::new(), Value::Number(n))];
        let by = |label: &'static str, counts: &BTreeMap<&'static str, u64>| -> Series {
            let series = |(value, n): (&&'static str, &u64)| {
                (vec![(label, (*value).to_owned())], Value::Number(*n as f64))
            };
            counts.iter().map(series).collect()
        };
        let mut events = Vec::new();
        for (class, (received, lost)) in &self.events {
            for (outcome, n) in [("received", received), ("lost", lost)] {
                let labels =
                    vec![("g211s.class", class.clone()), ("g211s.outcome", outcome.to_owned())];
                events.push((labels, Value::Number(*n as f64)));
            }
        }
        let changes: BTreeMap<&'static str, u64> = [
            ("attached", self.attached),
            ("detached", self.detached),
            ("refused", self.refused),
            ("shed", self.shed),
        ]
        .into();
        let (counter, gauge) = (Kind::Counter, Kind::Gauge);
        let version = env!("CARGO_PKG_VERSION").to_owned();
        let info = vec![("service.version", version), ("os.kernel", self.kernel.clone())];
        let all: Vec<Row> = vec![
            (
                "g211s.agent.info",
                None,
                "Which g211s runs on what.",
                "1",
                gauge,
                vec![(info, Value::Number(1.0))],
            ),
            (
                "g211s.agent.targets",
                None,
                "Go processes of this machine, by what became of them.",
                "{process}",
                gauge,
                by("g211s.state", &self.targets),
            ),
            (
                "g211s.agent.changes",
                None,
                "Times that a process came to be watched, or was let go.",
                "{time}",
                counter,
                by("g211s.change", &changes),
            ),
            (
                "g211s.agent.events",
                None,
                "Events of the kernel side, received or lost.",
                "{event}",
                counter,
                events,
            ),
            (
                "g211s.agent.events.stale",
                None,
                "Events of processes that were no longer watched.",
                "{event}",
                counter,
                one(self.stale as f64),
            ),
            (
                "g211s.agent.threads.untracked",
                None,
                "Threads that found the kernel's table full.",
                "{thread}",
                counter,
                one(self.threads_full as f64),
            ),
            (
                "g211s.agent.probe.hits",
                None,
                "Hits of probes in watched processes.",
                "{hit}",
                counter,
                one(self.hits as f64),
            ),
            (
                "g211s.agent.cost.ratio",
                None,
                "CPU time of g211s and (estimated) of its probes, of one CPU's.",
                "1",
                gauge,
                one(self.cost),
            ),
            ("g211s.agent.budget.ratio", None, "What that may be.", "1", gauge, one(self.budget)),
            (
                "g211s.agent.captures",
                None,
                "Recordings of incidents.",
                "{file}",
                counter,
                by("g211s.outcome", &self.captures),
            ),
            (
                "g211s.agent.ring.size",
                None,
                "Memory that holds the last seconds.",
                "By",
                gauge,
                one(self.ring_bytes as f64),
            ),
            (
                "g211s.agent.pushes",
                None,
                "Pushes to the OpenTelemetry collector.",
                "{push}",
                counter,
                by("g211s.outcome", &self.pushes),
            ),
            (
                "process.cpu.time",
                Some("process_cpu_seconds"),
                "CPU time of g211s.",
                "s",
                counter,
                one(cpu_ns() as f64 / 1e9),
            ),
            (
                "process.memory.usage",
                Some("process_resident_memory_bytes"),
                "Resident memory of g211s.",
                "By",
                gauge,
                rss_bytes().map(|n| one(n as f64)).unwrap_or_default(),
            ),
            (
                "process.start.time",
                Some("process_start_time_seconds"),
                "When g211s began, since 1970.",
                "s",
                gauge,
                one(self.start_s),
            ),
        ];
        all.into_iter()
            .map(|(name, prometheus, help, unit, kind, series)| Family {
                name,
                prometheus,
                help,
                unit,
                kind,
                series,
            })
            .collect()
    }
}
