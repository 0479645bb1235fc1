//! Runs of made-up programs, as records, for tests.

use super::seen::Seen;
use crate::record::{
    AllocDensity, AllocRun, AllocSample, AllocSamples, AllocStack, AllocState, AllocTotals,
    GoroutineCounts, GoroutineSite, GoroutinesKept, HeapFate, HeapLook, HeapObject, LatenessSource,
    LeakRecord, LeakSources, LeftHeap, ProfileCounts, ProfileStack, Record, RunEnd, RunStart,
    Settings, SymbolFrame, SymbolInfo, Target,
};

/// Bytes of each object, and objects that a sample stands for.
pub(super) const SIZE: u64 = 1024;
pub(super) const OBJECTS: u64 = 10;
const CLASS: u8 = 24;
const SECOND: u64 = 1_000_000_000;
/// Collections before the run.
const BEFORE: u64 = 100;

/// A place that allocates: samples that it makes between two collections, and how many collections each lives through
/// (`None`: all).
pub(super) type Life = fn(gc: u64, sample: u64) -> Option<u64>;

/// How many objects live after a cycle.
pub(super) type Live = fn(gc: u64) -> u64;

pub(super) struct Site {
    pub(super) function: &'static str,
    pub(super) made: fn(gc: u64) -> u64,
    pub(super) lives: Life,
}

/// A run.
pub(super) struct Run {
    pub(super) seen: Seen,
    cycles: u64,
    /// For which part of the time probes are attached.
    observed: f64,
}

fn generation(gc: u64) -> u32 {
    ((BEFORE + gc) * 2) as u32
}

fn leaks(record: LeakRecord) -> Record {
    Record::Leaks(Box::new(record))
}

fn symbol(address: u64, function: &str) -> Record {
    let frame = SymbolFrame {
        function: function.to_owned(),
        file: Some("/src/a.go".into()),
        line: Some(address as u32),
        inlined: false,
    };
    Record::Symbol(Box::new(SymbolInfo { target: 0, address, frames: vec![frame] }))
}

pub(super) fn start() -> Record {
    let target = Target {
        pid: 7,
        tgid: 7,
        comm: "shop".into(),
        exe: "/shop".into(),
        cgroup: "/".into(),
        go_version: "go1.27.3".into(),
        module: None,
        link_mode: vec![],
        probes: vec![],
        unavailable: vec![],
        cpus_allowed: "0".into(),
        threads: vec![7],
        runtime: None,
        quotas: vec![],
        stacks: None,
    };
    Record::Start(Box::new(RunStart {
        g211s_version: "0".into(),
        start_ns: 0,
        wall_ns: 5,
        host: crate::record::Host {
            kernel: "6".into(),
            arch: "x86_64".into(),
            hostname: "h".into(),
            cpus: 2,
        },
        settings: Settings {
            threshold_ns: 0,
            full: false,
            interval_ns: 1,
            ring_bytes: 0,
            observer_pid: 1,
            poll_source: None,
            lateness_source: LatenessSource::default(),
        },
        targets: vec![target],
    }))
}

impl Run {
    /// That has so many collections, one a second; nothing is in it yet.
    pub(super) fn new(cycles: u64) -> Self {
        let mut seen = Seen::default();
        seen.push(start());
        seen.push(leaks(LeakRecord::Sources(LeakSources::default())));
        Self { seen, cycles, observed: 1.0 }
    }

    /// What each collection leaves of the heap.
    pub(super) fn heap(mut self, bytes: impl Fn(u64) -> f64) -> Self {
        for gc in 0..=self.cycles {
            let marked = bytes(gc) as u64;
            let left = LeftHeap { ts_ns: gc * SECOND, gc: BEFORE + gc, marked, stacks: Some(8192) };
            self.seen.push(leaks(LeakRecord::Heap(left)));
        }
        self
    }

    /// Probes are attached for this part of the time only.
    pub(super) fn resting(self, observed: f64) -> Self {
        Self { observed, ..self }
    }

    /// Objects of these sites are followed.
    pub(super) fn follow(mut self, sites: &[Site]) -> Self {
        let run = AllocRun { cost_ns: 1000, ..AllocRun::default() };
        self.seen.push(Record::AllocRun(Box::new(run)));
        for (n, site) in sites.iter().enumerate() {
            let address = 100 + n as u64;
            self.seen.push(symbol(address, site.function));
            let stack = AllocStack { target: 0, id: n as u32, addresses: vec![address] };
            self.seen.push(Record::AllocStack(Box::new(stack)));
        }
        let (mut made, mut alive): (u64, Vec<(AllocSample, Option<u64>)>) = (0, Vec::new());
        self.state(0, 0);
        for gc in 0..self.cycles {
            let mut samples = Vec::new();
            for (n, site) in sites.iter().enumerate() {
                for k in 0..(site.made)(gc) {
                    made += 1;
                    let sample = AllocSample {
                        ts_ns: gc * SECOND + made,
                        tid: 9,
                        density: AllocDensity::Refill,
                        stack: n as u32,
                        span_class: CLASS * 2,
                        size: SIZE,
                        objects: OBJECTS,
                        address: 0xc000_0000 + made * SIZE,
                        sweepgen: generation(gc),
                        look: 0,
                    };
                    samples.push(sample);
                    alive.push((sample, (site.lives)(gc, k).map(|lives| gc + lives)));
                }
            }
            let record = AllocSamples { target: 0, samples };
            self.seen.push(Record::AllocSamples(Box::new(record)));
            // The collection gc + 1 finds those dead that lived through all up to `gc`.
            let (dead, rest): (Vec<_>, Vec<_>) =
                alive.into_iter().partition(|(_, last)| last.is_some_and(|last| last <= gc));
            alive = rest;
            self.look(gc + 1, dead.into_iter().map(|(s, _)| (s, HeapFate::Dead)).collect(), false);
        }
        self.look(self.cycles, alive.into_iter().map(|(s, _)| (s, HeapFate::Live)).collect(), true);
        self.state(self.cycles, made * OBJECTS);
        self
    }

    fn state(&mut self, gc: u64, objects: u64) {
        let totals = AllocTotals { small: [(CLASS, objects)].into(), ..AllocTotals::default() };
        self.seen.push(Record::AllocState(Box::new(AllocState {
            ts_ns: gc * SECOND,
            plan: "refill".into(),
            totals: Some(totals),
            observed_ns: (gc as f64 * SECOND as f64 * self.observed) as u64,
            cpu_ns: gc * SECOND,
            hits: gc,
            looks: 1,
            ..AllocState::default()
        })));
    }

    fn look(&mut self, gc: u64, of: Vec<(AllocSample, HeapFate)>, last: bool) {
        let object = |(s, fate): (AllocSample, HeapFate)| HeapObject {
            ts_ns: s.ts_ns,
            tid: s.tid,
            fate,
            times: 1,
        };
        self.seen.push(Record::HeapLook(Box::new(HeapLook {
            ts_ns: gc * SECOND,
            sweepgen: generation(gc),
            last,
            objects: of.into_iter().map(object).collect(),
            ..HeapLook::default()
        })));
    }

    /// The runtime's profile has so many sampled objects of a function in use.
    pub(super) fn profile(mut self, functions: &[(&'static str, Live)]) -> Self {
        for (n, (function, _)) in functions.iter().enumerate() {
            // The same addresses as those of followed sites: the same lines.
            let address = 100 + n as u64;
            self.seen.push(symbol(address, function));
            let stack = ProfileStack { id: n as u32, addresses: vec![address] };
            self.seen.push(leaks(LeakRecord::ProfileStack(stack)));
        }
        for gc in 1..=self.cycles {
            let changed = functions
                .iter()
                .enumerate()
                .map(|(n, (_, live))| (n as u32, 4096, live(gc) + 1000, 1000))
                .collect();
            let counts =
                ProfileCounts { ts_ns: gc * SECOND, gc: BEFORE + gc, rate: 524_288, changed };
            self.seen.push(leaks(LeakRecord::Profile(counts)));
        }
        self
    }

    /// So many goroutines of a line in each census, of which this share stays.
    pub(super) fn goroutines(mut self, counts: impl Fn(u64) -> u64, kept: f64) -> Self {
        self.seen.push(leaks(LeakRecord::GoroutineSite(GoroutineSite {
            id: 0,
            created_by: "go".into(),
            function: Some("main.serve".into()),
            file: Some("/src/b.go".into()),
            line: Some(9),
            start: Some("main.serve.func1".into()),
        })));
        for census in 0..self.cycles * 2 {
            let counts = vec![(0, "chan receive".to_owned(), counts(census))];
            let census = GoroutineCounts { ts_ns: census * SECOND / 2, took_ns: 5, counts };
            self.seen.push(leaks(LeakRecord::Goroutines(census)));
        }
        let lived = counts(self.cycles);
        let still = (lived as f64 * kept) as u64;
        let kept =
            GoroutinesKept { since_ns: self.cycles * SECOND / 2, sites: vec![(0, lived, still)] };
        self.seen.push(leaks(LeakRecord::GoroutinesKept(kept)));
        self
    }

    /// It ended.
    pub(super) fn ended(mut self, reason: &str) -> Seen {
        self.seen.push(Record::End(Box::new(RunEnd {
            end_ns: self.cycles * SECOND,
            reason: reason.into(),
            produced: [].into(),
            lost: [].into(),
            received: [].into(),
            undecodable: 0,
            threads_full: 0,
            host_switches: 0,
            cost: crate::record::Cost::default(),
        })));
        self.seen
    }
}
