//! The store as families of metrics, with OpenTelemetry's names where it has any (semantic conventions for the Go
//! runtime, for processes and containers). Must not know formats.

use super::expose::{Family, Kind, Labels, Value};
use super::histogram::Histogram;
use super::service::{Service, Watch};
use super::{OTHER, Store};

type Of = fn(&Service) -> u64;
type DistributionOf = fn(&Service) -> &Histogram;
type Read = fn(&Watch) -> Option<f64>;

/// Distributions of times.
const HISTOGRAMS: [(&str, &str, DistributionOf); 6] = [
    (
        "go.memory.gc.pause.duration",
        "Stops of the world by the garbage collector, from the call that stops it to its start.",
        |s| &s.gc_pauses,
    ),
    ("g211s.stop.other.duration", "Stops of the world for other reasons.", |s| &s.other_stops),
    (
        "g211s.stop.stopping.duration",
        "Part of each stop of the world in which it was being stopped.",
        |s| &s.stopping,
    ),
    ("g211s.gc.cycle.duration", "GC cycles from start to end, most of it concurrent.", |s| {
        &s.cycles
    }),
    (
        "go.schedule.duration",
        "Waits of runnable goroutines, one in eight, as the Go runtime samples them; the sum is estimated.",
        |s| &s.schedule,
    ),
    (
        "g211s.network.lateness.duration",
        "How late the network poller's thread ran, or took what was ready where the kernel tells that.",
        |s| &s.network,
    ),
];

/// Counters in seconds.
const SECONDS: [(&str, &str, Of); 2] = [
    ("g211s.cpu.time", "Time that threads were on a CPU.", |s| s.on_cpu_ns),
    ("g211s.cpu.throttled.time", "Time that CPU quotas kept the cgroup off the CPUs.", |s| {
        s.throttled_ns
    }),
];

/// Other counters.
const COUNTS: [(&str, &str, &str, Of); 5] = [
    ("g211s.gc.cycles", "GC cycles that ended, as the Go runtime counts them.", "{cycle}", |s| {
        s.gc_count
    }),
    ("g211s.cpu.throttled.periods", "Periods in which a CPU quota ran out.", "{period}", |s| {
        s.throttled
    }),
    ("g211s.delay.waits", "Waits for a CPU of at least the threshold.", "{wait}", |s| s.long_waits),
    (
        "g211s.delay.sleeps",
        "Uninterruptible sleeps and page faults of at least the threshold.",
        "{sleep}",
        |s| s.long_sleeps,
    ),
    (
        "g211s.disagreements",
        "Times that stops or cycles as seen did not agree with the Go runtime's own counters.",
        "{time}",
        |s| s.disagreements,
    ),
];

/// Gauges that are summed over a service's processes.
const GAUGES: [(&str, &str, &str, Read); 4] = [
    ("go.goroutine.count", "Live goroutines.", "{goroutine}", |w| {
        w.runtime.as_ref()?.goroutines.as_ref()?.count.map(|n| n as f64)
    }),
    ("go.processor.limit", "Threads that may run Go code at once (GOMAXPROCS).", "{thread}", |w| {
        w.runtime.as_ref()?.gomaxprocs.map(f64::from)
    }),
    ("go.memory.gc.goal", "Heap size at which the next GC cycle is to end.", "By", |w| {
        w.runtime.as_ref()?.heap?.goal.map(|n| n as f64)
    }),
    (
        "g211s.heap.live",
        "Heap bytes that the last GC cycle marked, or that were allocated since.",
        "By",
        |w| w.runtime.as_ref()?.heap.map(|h| h.live as f64),
    ),
];

fn labels(identity: &[(&'static str, String)], more: &[(&'static str, &str)]) -> Labels {
    let more = more.iter().map(|(name, value)| (*name, (*value).to_owned()));
    identity.iter().cloned().chain(more).collect()
}

fn family(name: &'static str, help: &'static str, unit: &'static str, kind: Kind) -> Family {
    Family { name, prometheus: None, help, unit, kind, series: Vec::new() }
}

fn seconds(ns: u64) -> Value {
    Value::Number(ns as f64 / 1e9)
}

/// All families of services. Of a service that is gone there are no gauges.
pub fn families(store: &Store) -> Vec<Family> {
    let mut all = Vec::new();
    let services = || store.services();
    for (name, help, of) in HISTOGRAMS {
        let mut f = family(name, help, "s", Kind::Histogram);
        f.series =
            services().map(|(id, s)| (labels(id, &[]), Value::Histogram(of(s).clone()))).collect();
        all.push(f);
    }
    let mut waits = family(
        "g211s.runqueue.delay",
        "Waits of threads for a CPU, after a wakeup or after a preemption.",
        "s",
        Kind::Histogram,
    );
    for (id, s) in services() {
        for (wait, h) in [("woken", &s.woken), ("preempted", &s.preempted)] {
            let labels = labels(id, &[("g211s.wait", wait)]);
            waits.series.push((labels, Value::Histogram(h.clone())));
        }
    }
    all.push(waits);
    let mut causes = [
        family("g211s.stop.time", "What stops of the world went to.", "s", Kind::Counter),
        family(
            "g211s.stall.time",
            "What stops of the world and delays of at least the threshold went to.",
            "s",
            Kind::Counter,
        ),
    ];
    let mut culprits = family(
        "g211s.culprit.time",
        "Time of stalls in which threads waited for a CPU, by the name of the process that ran.",
        "s",
        Kind::Counter,
    );
    for (id, s) in services() {
        for (cause, ns) in &s.stop_causes {
            causes[0].series.push((labels(id, &[("g211s.cause", cause)]), seconds(*ns)));
        }
        for (cause, ns) in &s.stall_causes {
            causes[1].series.push((labels(id, &[("g211s.cause", cause)]), seconds(*ns)));
        }
        let named = s.culprits.named().chain([(OTHER, s.culprits.other_ns)]);
        for (culprit, ns) in named.filter(|(_, ns)| *ns > 0) {
            culprits.series.push((labels(id, &[("g211s.culprit", culprit)]), seconds(ns)));
        }
    }
    all.extend(causes);
    all.push(culprits);
    for (name, help, of) in SECONDS {
        let mut f = family(name, help, "s", Kind::Counter);
        f.series = services().map(|(id, s)| (labels(id, &[]), seconds(of(s)))).collect();
        all.push(f);
    }
    for (name, help, unit, of) in COUNTS {
        let mut f = family(name, help, unit, Kind::Counter);
        f.series =
            services().map(|(id, s)| (labels(id, &[]), Value::Number(of(s) as f64))).collect();
        all.push(f);
    }
    for (name, help, unit, read) in GAUGES {
        let mut f = family(name, help, unit, Kind::Gauge);
        // A name that ends like a histogram's part is none for a gauge in Prometheus.
        f.prometheus = (name == "go.goroutine.count").then_some("go_goroutines");
        for (id, _) in services() {
            let own = store.watches().filter(|(of, _)| *of == id);
            let values: Vec<f64> = own.filter_map(|(_, w)| read(w)).collect();
            if !values.is_empty() {
                f.series.push((labels(id, &[]), Value::Number(values.iter().sum())));
            }
        }
        all.push(f);
    }
    all.extend(settings(store));
    let mut processes =
        family("g211s.processes", "Processes that are watched.", "{process}", Kind::Gauge);
    processes.series =
        services().map(|(id, s)| (labels(id, &[]), Value::Number(s.processes as f64))).collect();
    all.push(processes);
    all
}

/// What has no sum: shown where all processes of a service have the same.
fn settings(store: &Store) -> Vec<Family> {
    let gogc: Read = |w| {
        let percent = w.runtime.as_ref()?.heap?.gc_percent;
        // Off has no number.
        (percent >= 0).then(|| f64::from(percent))
    };
    let limit: Read = |w| {
        let limit = w.runtime.as_ref()?.heap?.memory_limit;
        (limit != i64::MAX).then_some(limit as f64)
    };
    let all = [
        ("go.config.gogc", "Heap size target percentage (GOGC).", "%", gogc),
        (
            "go.memory.limit",
            "Memory limit of the Go runtime (GOMEMLIMIT), where there is one.",
            "By",
            limit,
        ),
    ];
    let of = |(name, help, unit, read): (&'static str, &'static str, &'static str, Read)| {
        let mut f = family(name, help, unit, Kind::Gauge);
        for (id, _) in store.services() {
            let own = store.watches().filter(|(of, _)| *of == id);
            let mut values: Vec<Option<f64>> = own.map(|(_, w)| read(w)).collect();
            values.dedup();
            if let [Some(value)] = values[..] {
                f.series.push((labels(id, &[]), Value::Number(value)));
            }
        }
        f
    };
    all.into_iter().map(of).collect()
}
