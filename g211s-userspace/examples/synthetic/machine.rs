//! A busy machine made up: CPUs, a Go service's threads, other processes, collections, and what
//! `g211s record --full` would stream of them. Shared by the example that writes it to a file and
//! by the test that analysis is linear. Must not know files or reports.
//!
//! The same number of events gives the same records on every machine.

use std::collections::{BTreeMap, VecDeque};

use g211s::event::Event;
use g211s::record::{
    Cost, Host, Interval, LatenessSource, ProcessInfo, Record, RunEnd, RunStart, Settings, Target,
    ThreadInfo,
};
use g211s_ebpf::event::{
    EventKind, Header, NO_SYSCALL, NO_TARGET, ProbeEvent, SITES, STACK_DEPTH, SYS_EPOLL_PWAIT,
    Site, SliceEvent, SpanEvent, SpanWhat, StackEvent, StackWhy, THREAD_FULL, THREAD_OUTLIER,
    ThreadEvent, ThreadState,
};

const CPUS: usize = 4;
/// The service's threads; their tids follow on [`TGID`].
const THREADS: u32 = 24;
/// Tasks of other processes; their tids follow on [`FOREIGN`].
const OTHERS: u32 = 8;
const TGID: u32 = 1000;
const FOREIGN: u32 = 5000;
const FUTEX: i32 = 202;
const OUTLIER_NS: u64 = 1_000_000;
const INTERVAL_NS: u64 = 100_000_000;
/// From one collection to the next, and how long one marks.
const GC_EVERY_NS: u64 = 20_000_000;
const MARK_NS: u64 = 6_000_000;
/// Mean time between two switches of the machine.
const STEP_NS: u64 = 5_000;

/// One thread or foreign task.
struct Task {
    tid: u32,
    state: ThreadState,
    since_ns: u64,
    cpu: u16,
    syscall: i32,
}

/// One CPU: its runner (an index into the tasks; none: idle) and who waits.
#[derive(Default)]
struct Cpu {
    runner: Option<usize>,
    since_ns: u64,
    queue: VecDeque<usize>,
    /// Ended slices that were not sent: start, end, runner.
    slices: VecDeque<(u64, u64, Option<usize>)>,
}

/// Where a collection stands.
#[derive(Clone, Copy)]
enum Collection {
    None { next_ns: u64 },
    Stopping { since_ns: u64, last: bool, stopper: u32 },
    Marking { until_ns: u64 },
}

/// The records of a run with about `events` events.
pub(crate) struct Machine {
    now_ns: u64,
    start_ns: u64,
    random: u64,
    tasks: Vec<Task>,
    cpus: Vec<Cpu>,
    collection: Collection,
    stops: u32,
    counters: Interval,
    next_interval_ns: u64,
    left: u64,
    made: BTreeMap<String, u64>,
    out: VecDeque<Record>,
    ended: bool,
}

impl Machine {
    pub(crate) fn new(events: u64) -> Self {
        let start_ns = 1_000_000_000_000;
        let task = |tid| Task {
            tid,
            state: ThreadState::Blocked,
            since_ns: start_ns,
            cpu: 0,
            syscall: FUTEX,
        };
        let tids = (TGID..TGID + THREADS).chain(FOREIGN..FOREIGN + OTHERS);
        let mut machine = Self {
            now_ns: start_ns,
            start_ns,
            random: 0x2545_f491_4f6c_dd1d,
            tasks: tids.map(task).collect(),
            cpus: (0..CPUS).map(|_| Cpu { since_ns: start_ns, ..Cpu::default() }).collect(),
            collection: Collection::None { next_ns: start_ns + GC_EVERY_NS },
            stops: 0,
            counters: Interval { hits: vec![0; SITES], ..Interval::default() },
            next_interval_ns: start_ns + INTERVAL_NS,
            left: events,
            made: BTreeMap::new(),
            out: VecDeque::new(),
            ended: false,
        };
        machine.head();
        machine
    }

    fn head(&mut self) {
        self.out.push_back(Record::Start(Box::new(RunStart {
            g211s_version: env!("CARGO_PKG_VERSION").into(),
            start_ns: self.start_ns,
            wall_ns: 1_764_000_000_000_000_000,
            host: Host {
                kernel: "synthetic".into(),
                arch: "x86_64".into(),
                hostname: "synthetic".into(),
                cpus: CPUS as u32,
            },
            settings: Settings {
                threshold_ns: OUTLIER_NS,
                full: true,
                interval_ns: INTERVAL_NS,
                ring_bytes: 8 << 20,
                observer_pid: 1,
                poll_source: None,
                lateness_source: LatenessSource::Wakeup,
            },
            targets: vec![Target {
                pid: TGID,
                tgid: TGID,
                comm: "service".into(),
                exe: "/srv/service".into(),
                cgroup: "/".into(),
                go_version: "go1.27.3".into(),
                module: None,
                link_mode: Vec::new(),
                probes: Vec::new(),
                quotas: Vec::new(),
                unavailable: Vec::new(),
                cpus_allowed: "0-3".into(),
                threads: (TGID..TGID + THREADS).collect(),
                runtime: None,
                stacks: None,
            }],
        })));
        for (m_id, tid) in (TGID..TGID + THREADS).enumerate() {
            self.out.push_back(Record::Thread(Box::new(ThreadInfo {
                target: 0,
                tid,
                m_id: Some(m_id as u64),
                comm: "service".into(),
            })));
        }
        for tgid in FOREIGN..FOREIGN + OTHERS {
            self.out.push_back(Record::Process(Box::new(ProcessInfo {
                tgid,
                comm: format!("other-{tgid}"),
                cgroup: "/system.slice".into(),
                cmdline: "other".into(),
            })));
        }
    }

    /// xorshift64*: below `n`.
    fn below(&mut self, n: u64) -> u64 {
        self.random ^= self.random >> 12;
        self.random ^= self.random << 25;
        self.random ^= self.random >> 27;
        (self.random.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) % n
    }

    fn send(&mut self, event: Event) {
        let class = match event {
            Event::Thread(_) => "thread",
            Event::Slice(_) => "slice",
            Event::Probe(_) => "probe",
            Event::Life(_) => "life",
            Event::Stack(_) => "stack",
            Event::Span(_) => "span",
        };
        *self.made.entry(class.into()).or_insert(0) += 1;
        self.left = self.left.saturating_sub(1);
        self.out.push_back(Record::Event(event));
    }

    fn header(&self, kind: EventKind, tid: u32, cpu: usize) -> Header {
        let target = if (TGID..TGID + THREADS).contains(&tid) { 0 } else { NO_TARGET };
        Header { ts_ns: self.now_ns, kind: kind as u8, target, cpu: cpu as u16, tid }
    }

    fn is_own(task: usize) -> bool {
        task < THREADS as usize
    }

    /// A task's state ends: sent if it is the service's.
    fn enter(&mut self, task: usize, to: ThreadState, cpu: usize, peer: u32) {
        let t = &self.tasks[task];
        let (tid, from, since_ns) = (t.tid, t.state, t.since_ns);
        let waited = if from.is_runnable() { self.now_ns - since_ns } else { 0 };
        let outlier = if waited >= OUTLIER_NS { THREAD_OUTLIER } else { 0 };
        let event = ThreadEvent {
            header: self.header(EventKind::Thread, tid, cpu),
            since_ns,
            queued_ns: since_ns,
            window: self.stops,
            syscall: t.syscall,
            peer_tid: peer,
            prev_cpu: t.cpu,
            from: from as u8,
            to: to as u8,
            flags: THREAD_FULL | outlier,
            irq_ns: 0,
            kept_off_ns: 0,
            kept_off_after_ns: 0,
        };
        if Self::is_own(task) {
            match from {
                ThreadState::RunnableWoken => {
                    self.counters.woken += 1;
                    self.counters.woken_ns += waited;
                }
                ThreadState::RunnablePreempted => {
                    self.counters.preempted += 1;
                    self.counters.preempted_ns += waited;
                }
                ThreadState::Running => {
                    self.counters.oncpu += 1;
                    self.counters.oncpu_ns += self.now_ns - since_ns;
                }
                _ => {}
            }
            self.send(Event::Thread(event));
        }
        let t = &mut self.tasks[task];
        (t.state, t.since_ns, t.cpu) = (to, self.now_ns, cpu as u16);
    }

    fn wake(&mut self, waker: u32) {
        let task = self.below(u64::from(THREADS + OTHERS)) as usize;
        if self.tasks[task].state != ThreadState::Blocked {
            return;
        }
        let cpu = self.below(CPUS as u64) as usize;
        self.enter(task, ThreadState::RunnableWoken, cpu, waker);
        self.cpus[cpu].queue.push_back(task);
    }

    /// One CPU turns to its next task.
    fn switch(&mut self, cpu: usize) {
        let prev = self.cpus[cpu].runner;
        let next = self.cpus[cpu].queue.pop_front();
        let (prev_tid, next_tid) =
            (prev.map_or(0, |t| self.tasks[t].tid), next.map_or(0, |t| self.tasks[t].tid));
        if prev.is_none() && next.is_none() {
            return;
        }
        let c = &mut self.cpus[cpu];
        c.slices.push_back((c.since_ns, self.now_ns, prev));
        if c.slices.len() > 255 {
            c.slices.pop_front();
        }
        (c.runner, c.since_ns) = (next, self.now_ns);
        if let Some(task) = prev {
            let (to, syscall) = match self.below(10) {
                0..3 => (ThreadState::RunnablePreempted, NO_SYSCALL),
                3..8 => (ThreadState::Blocked, FUTEX),
                _ => (ThreadState::Blocked, SYS_EPOLL_PWAIT),
            };
            self.tasks[task].syscall = syscall;
            self.enter(task, to, cpu, next_tid);
            if to == ThreadState::RunnablePreempted {
                self.cpus[cpu].queue.push_back(task);
            }
        }
        let Some(task) = next.filter(|&t| Self::is_own(t)) else {
            if let Some(task) = next {
                self.enter(task, ThreadState::Running, cpu, prev_tid);
            }
            return;
        };
        self.send_slices(cpu, self.tasks[task].since_ns);
        self.enter(task, ThreadState::Running, cpu, prev_tid);
        if self.below(50) == 0 {
            let header = self.header(EventKind::Span, self.tasks[task].tid, cpu);
            let start_ns = self.now_ns - 80_000;
            self.send(Event::Span(SpanEvent {
                header,
                what: SpanWhat::Harvest as u32,
                detail: 3,
                start_ns,
                middle_ns: start_ns + 10_000,
                id: 0,
            }));
        }
    }

    /// What ended on a CPU since `from_ns` and was not sent; older slices will never be.
    fn send_slices(&mut self, cpu: usize, from_ns: u64) {
        let slices = std::mem::take(&mut self.cpus[cpu].slices);
        for (start_ns, end_ns, task) in slices.into_iter().rev().take_while(|s| s.1 > from_ns) {
            let tid = task.map_or(0, |t| self.tasks[t].tid);
            let own = task.is_some_and(Self::is_own);
            let mut comm = [0; 16];
            if tid != 0 {
                comm[..5].copy_from_slice(if own { b"servi" } else { b"other" });
            }
            self.send(Event::Slice(SliceEvent {
                header: self.header(EventKind::Slice, tid, cpu),
                start_ns,
                end_ns,
                tgid: if own { TGID } else { tid },
                flags: 0,
                comm,
            }));
        }
    }

    fn probe(&mut self, tid: u32, site: Site, args: [u64; 5]) {
        self.counters.hits[site as usize] += 1;
        let header = self.header(EventKind::Probe, tid, 0);
        self.send(Event::Probe(ProbeEvent { header, site: site as u32, stw: self.stops, args }));
    }

    fn stack(&mut self, tid: u32) {
        let mut addresses = [0; STACK_DEPTH];
        for address in addresses.iter_mut().take(6) {
            *address = 0x40_0000 + self.below(300) * 64;
        }
        self.send(Event::Stack(Box::new(StackEvent {
            header: self.header(EventKind::Stack, tid, 0),
            why: StackWhy::Signal as u32,
            stw: self.stops,
            syscall: -1,
            depth: 6,
            addresses,
        })));
    }

    fn collect(&mut self) {
        let now = self.now_ns;
        match self.collection {
            Collection::None { next_ns } if now >= next_ns => self.stop(false),
            Collection::Marking { until_ns } if now >= until_ns => self.stop(true),
            Collection::Stopping { since_ns, last, stopper } if now >= since_ns + 60_000 => {
                let reason = if last { 1 } else { 2 };
                if last {
                    self.probe(stopper, Site::GcMarkTermination, [0; 5]);
                }
                let args = [if last { now } else { 0 }, reason, since_ns + 1000, now - 20_000, 9];
                self.probe(stopper, Site::StwStart, args);
                self.probe(stopper, Site::StwEnd, [0, now - since_ns - 1000, 0, 0, 0]);
                self.probe(stopper, Site::GcTransitionEnd, [0, now, 0, 0, 0]);
                self.collection = if last {
                    Collection::None { next_ns: now + GC_EVERY_NS - MARK_NS }
                } else {
                    Collection::Marking { until_ns: now + MARK_NS }
                };
            }
            _ => {}
        }
    }

    fn stop(&mut self, last: bool) {
        let running = self.cpus.iter().filter_map(|c| c.runner);
        let own: Vec<u32> =
            running.filter(|&t| Self::is_own(t)).map(|t| self.tasks[t].tid).collect();
        let Some((&stopper, others)) = own.split_first() else { return };
        let since_ns = self.now_ns;
        self.stops += 1;
        self.counters.stw += 1;
        if !last {
            self.counters.gc += 1;
            self.probe(stopper, Site::GcStart, [0; 5]);
        }
        self.probe(stopper, Site::StwStop, [if last { 1 } else { 2 }, 0, 0, 0, 0]);
        for (i, &tid) in others.iter().enumerate() {
            self.now_ns = since_ns + 5_000 * (i as u64 + 1);
            self.stack(tid);
            self.probe(tid, Site::GcStopM, [0; 5]);
        }
        self.collection = Collection::Stopping { since_ns, last, stopper };
    }

    /// The machine goes on by one step.
    fn step(&mut self) {
        self.now_ns += 1 + self.below(2 * STEP_NS);
        self.collect();
        let cpu = self.below(CPUS as u64) as usize;
        let waker = self.cpus[cpu].runner.map_or(0, |t| self.tasks[t].tid);
        self.wake(waker);
        self.now_ns += 100;
        self.switch(cpu);
        if self.now_ns >= self.next_interval_ns {
            self.next_interval_ns = self.now_ns + INTERVAL_NS;
            let counters = Interval { ts_ns: self.now_ns, ..self.counters.clone() };
            self.out.push_back(Record::Interval(Box::new(counters)));
        }
    }

    fn end(&mut self) {
        let counters = Interval { ts_ns: self.now_ns, ..self.counters.clone() };
        self.out.push_back(Record::Interval(Box::new(counters)));
        let none: BTreeMap<String, u64> = self.made.keys().map(|k| (k.clone(), 0)).collect();
        self.out.push_back(Record::End(Box::new(RunEnd {
            end_ns: self.now_ns,
            reason: "duration".into(),
            produced: self.made.clone(),
            lost: none,
            received: self.made.clone(),
            undecodable: 0,
            threads_full: 0,
            host_switches: 0,
            cost: Cost::default(),
        })));
        self.ended = true;
    }
}

impl Iterator for Machine {
    type Item = Record;

    fn next(&mut self) -> Option<Record> {
        while self.out.is_empty() && !self.ended {
            if self.left == 0 { self.end() } else { self.step() }
        }
        self.out.pop_front()
    }
}
