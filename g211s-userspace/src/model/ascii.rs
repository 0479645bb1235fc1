//! Test scenes drawn as ASCII timelines: one character per unit of time.
//!
//! Threads: `=` running, `w` waiting on a run queue since a wakeup, `p` since a preemption, `y`
//! since a yield, `_` asleep in futex, `D` asleep uninterruptibly, `T` stopped, `.` unknown; a second line gives the
//! CPU as a digit. CPUs: the runner's tid as a digit, `.` where no slice is sent. Time 0 is drawn
//! as 1 ns, because 0 means "unknown" in events.

use g211s_ebpf::event::{
    EventKind, Header, NO_TARGET, ProbeEvent, STACK_DEPTH, Site, SliceEvent, StackEvent, StackWhy,
    ThreadEvent, ThreadState,
};

use super::{cpus::Cpus, stacks::Stacks, threads::Threads};
use crate::event::Event;
use crate::record::{SymbolFrame, SymbolInfo};

/// The target's process in every scene.
pub(crate) const TGID: u32 = 100;
/// `futex`.
pub(crate) const FUTEX: i32 = 202;

/// A drawing and the events it stands for.
#[derive(Clone, Default)]
pub(crate) struct Scene {
    unit: u64,
    pub(crate) transitions: Vec<ThreadEvent>,
    pub(crate) slices: Vec<SliceEvent>,
    pub(crate) probes: Vec<ProbeEvent>,
    pub(crate) stacks: Vec<StackEvent>,
}

/// A stack taken by a signal, outside of any drawing.
pub(crate) fn stack(ts_ns: u64, tid: u32, syscall: i32, addresses: &[u64]) -> StackEvent {
    let mut all = [0; STACK_DEPTH];
    all[..addresses.len()].copy_from_slice(addresses);
    StackEvent {
        header: Header { ts_ns, kind: EventKind::Stack as u8, target: 0, cpu: 0, tid },
        why: StackWhy::Signal as u32,
        stw: 1,
        syscall,
        depth: addresses.len() as u32,
        addresses: all,
    }
}

fn state_of(c: char) -> ThreadState {
    match c {
        '=' => ThreadState::Running,
        'w' => ThreadState::RunnableWoken,
        'p' => ThreadState::RunnablePreempted,
        'y' => ThreadState::RunnableYielded,
        '_' => ThreadState::Blocked,
        'D' => ThreadState::BlockedUninterruptible,
        'T' => ThreadState::Stopped,
        '.' => ThreadState::Unknown,
        other => panic!("no state is drawn as {other:?}"),
    }
}

fn char_of(state: ThreadState) -> char {
    "=wpy_DT".chars().find(|&c| state_of(c) == state).unwrap_or('?')
}

impl Scene {
    /// A scene whose characters last `unit` ns each.
    pub(crate) fn new(unit: u64) -> Self {
        Self { unit, ..Self::default() }
    }

    /// The time at which character `i` begins.
    pub(crate) fn at(&self, i: usize) -> u64 {
        (i as u64 * self.unit).max(1)
    }

    /// Draws a thread.
    pub(crate) fn thread(mut self, tid: u32, states: &str, cpus: &str) -> Self {
        let states: Vec<ThreadState> = states.chars().map(state_of).collect();
        let cpus: Vec<u16> = cpus.chars().map(|c| c.to_digit(10).unwrap_or(0) as u16).collect();
        assert_eq!(states.len(), cpus.len(), "one CPU per state");
        let (mut since, mut queued) = (0, 0);
        for i in 1..=states.len() {
            let from = states[i - 1];
            let last = i == states.len();
            let to = if last { from } else { states[i] };
            let cpu = if last { cpus[i - 1] } else { cpus[i] };
            let migrated = from.is_runnable() && cpu != cpus[i - 1];
            if from == to && !migrated && !last {
                continue;
            }
            let header =
                Header { ts_ns: self.at(i), kind: EventKind::Thread as u8, target: 0, cpu, tid };
            if from != ThreadState::Unknown {
                self.transitions.push(ThreadEvent {
                    header,
                    since_ns: self.at(since),
                    queued_ns: self.at(queued),
                    window: 1,
                    syscall: FUTEX,
                    peer_tid: 0,
                    prev_cpu: cpus[i - 1],
                    from: from as u8,
                    to: to as u8,
                    flags: 1,
                    irq_ns: 0,
                    kept_off_ns: 0,
                    kept_off_after_ns: 0,
                });
            }
            queued = i;
            if from != to {
                since = i;
            }
        }
        self
    }

    /// Lets `waker` have woken `tid` whenever that was woken.
    pub(crate) fn woken_by(mut self, tid: u32, waker: u32) -> Self {
        let woken =
            |e: &&mut ThreadEvent| e.header.tid == tid && e.to == ThreadState::RunnableWoken as u8;
        self.transitions.iter_mut().filter(woken).for_each(|e| e.peer_tid = waker);
        self
    }

    /// Draws a CPU; runners named in `foreign` are processes of their own, the others threads of
    /// the target.
    pub(crate) fn cpu(mut self, cpu: u16, runners: &str, foreign: &[(u32, &str)]) -> Self {
        let runners: Vec<Option<u32>> = runners.chars().map(|c| c.to_digit(10)).collect();
        let mut start = 0;
        for i in 1..=runners.len() {
            if i < runners.len() && runners[i] == runners[start] {
                continue;
            }
            if let Some(tid) = runners[start] {
                let named = foreign.iter().find(|(t, _)| *t == tid);
                let mut comm = [0; 16];
                let name = named.map_or(if tid == 0 { "swapper" } else { "svc" }, |(_, n)| n);
                comm[..name.len()].copy_from_slice(name.as_bytes());
                let (own, tgid) = match named {
                    Some(_) => (false, tid),
                    None => (tid != 0, if tid == 0 { 0 } else { TGID }),
                };
                self.slices.push(SliceEvent {
                    header: Header {
                        ts_ns: self.at(i),
                        kind: EventKind::Slice as u8,
                        target: if own { 0 } else { NO_TARGET },
                        cpu,
                        tid,
                    },
                    start_ns: self.at(start),
                    end_ns: self.at(i),
                    tgid,
                    flags: 0,
                    comm,
                });
            }
            start = i;
        }
        self
    }

    /// Has the event about what `tid` does in character `i` (of a wait: on the queue of that moment) say
    /// more.
    pub(crate) fn tell(mut self, tid: u32, i: usize, f: impl FnOnce(&mut ThreadEvent)) -> Self {
        let at = self.at(i);
        let mut all = self.transitions.iter_mut().filter(|e| e.header.tid == tid);
        f(all.find(|e| e.queued_ns.max(e.since_ns) <= at && at < e.header.ts_ns).expect("drawn"));
        self
    }

    /// Hits a probe at `ts_ns`.
    pub(crate) fn probe_ns(
        mut self,
        ts_ns: u64,
        tid: u32,
        site: Site,
        stw: u32,
        args: &[u64],
    ) -> Self {
        let mut all = [0; 5];
        all[..args.len()].copy_from_slice(args);
        let header = Header { ts_ns, kind: EventKind::Probe as u8, target: 0, cpu: 0, tid };
        self.probes.push(ProbeEvent { header, site: site as u32, stw, args: all });
        self
    }

    /// Hits a probe when character `i` begins.
    pub(crate) fn probe(self, i: usize, tid: u32, site: Site, stw: u32, args: &[u64]) -> Self {
        let ts = self.at(i);
        self.probe_ns(ts, tid, site, stw, args)
    }

    /// Draws where a thread was: a letter for the function `main.LETTER` whose code it was found in, `!` where
    /// it came from system call 1, a space where nobody looked.
    pub(crate) fn code(mut self, tid: u32, places: &str) -> Self {
        for (i, c) in places.chars().enumerate().filter(|&(_, c)| c != ' ') {
            let (syscall, address) = if c == '!' { (1, u64::from('S')) } else { (-1, c.into()) };
            self.stacks.push(stack(self.at(i), tid, syscall, &[address]));
        }
        self
    }

    /// The stacks that the drawing has.
    pub(crate) fn stacks(&self) -> Stacks {
        let mut stacks = Stacks::default();
        for c in 'a'..='z' {
            stacks.name(SymbolInfo {
                target: 0,
                address: c.into(),
                frames: vec![SymbolFrame {
                    function: format!("main.{c}"),
                    file: Some("main.go".to_owned()),
                    line: Some(u32::from(c)),
                    inlined: false,
                }],
            });
        }
        self.stacks.iter().for_each(|e| stacks.apply(e));
        stacks
    }

    /// The threads that the drawing proves.
    pub(crate) fn threads(&self) -> Threads {
        self.threads_without(&[])
    }

    /// … without some of its transitions, by index.
    pub(crate) fn threads_without(&self, lost: &[usize]) -> Threads {
        let mut threads = Threads::default();
        for (i, e) in self.transitions.iter().enumerate() {
            if !lost.contains(&i) {
                threads.apply(e);
            }
        }
        threads
    }

    /// The CPUs that the drawing proves.
    pub(crate) fn cpus(&self) -> Cpus {
        let mut cpus = Cpus::default();
        self.slices.iter().for_each(|e| cpus.apply(e));
        cpus
    }

    /// Everything as one stream in time order: slices before transitions before probes.
    pub(crate) fn events(&self) -> Vec<Event> {
        let mut all: Vec<Event> = self.slices.iter().copied().map(Event::Slice).collect();
        all.extend(self.transitions.iter().copied().map(Event::Thread));
        all.extend(self.probes.iter().copied().map(Event::Probe));
        all.extend(self.stacks.iter().copied().map(|s| Event::Stack(Box::new(s))));
        all.sort_by_key(|e| e.header().ts_ns);
        all
    }
}

/// Draws what a timeline proves, `n` characters of `unit` ns.
pub(crate) fn picture(threads: &Threads, tid: u32, unit: u64, n: usize) -> String {
    (0..n as u64)
        .map(|i| {
            let mut c = '?';
            let middle = i * unit + unit / 2;
            threads.walk(tid, middle, middle + 1, |_, _, p| {
                c = p.map_or('.', |p| char_of(p.state));
            });
            c
        })
        .collect()
}
