//! Scheduler truth from perf: `perf record` of the scheduler's tracepoints, `perf sched timehist`,
//! and delays computed from the raw events without either tool's help.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use nix::sys::signal::Signal;

use crate::kernel::tool;
use crate::proc::{Proc, output_of};

/// A running `perf record` of scheduler events on all CPUs, in `CLOCK_MONOTONIC`.
///
/// It records what `perf sched record` does, with a clock that can be compared. With `sched_waking`
/// in the file, `timehist` counts its delay from the waker's decision to wake.
pub struct Perf {
    proc: Proc,
    file: PathBuf,
}

impl Perf {
    /// Starts it and waits until it records.
    pub fn start() -> Result<Self> {
        let folder = crate::target_dir().join("truth");
        std::fs::create_dir_all(&folder)?;
        let file = folder.join(format!("sched-{}.data", std::process::id()));
        let mut command = tool("perf")?;
        command.args([
            "record",
            "--all-cpus",
            "--clockid",
            "CLOCK_MONOTONIC",
            "--mmap-pages",
            "16M",
        ]);
        for event in [
            "sched_switch",
            "sched_waking",
            "sched_wakeup",
            "sched_wakeup_new",
            "sched_migrate_task",
        ] {
            command.args(["--event", &format!("sched:{event}")]);
        }
        // Perf says when it is recording by running a command then.
        command.arg("--output").arg(&file).args([
            "--",
            "sh",
            "-c",
            "echo recording; exec sleep 1000",
        ]);
        let mut proc = Proc::spawn(&mut command)?;
        proc.wait_line(|l| l.text == "recording", Duration::from_secs(20))?;
        Ok(Self { proc, file })
    }

    /// Stops it; what it recorded.
    pub fn stop(self) -> Result<Recorded> {
        let recorded = Recorded(self.file);
        let done = self.proc.stop(Signal::SIGINT, Duration::from_mins(1))?;
        ensure!(recorded.0.exists(), "perf recorded nothing: {}", done.stderr());
        ensure!(!done.stderr().contains("lost"), "perf lost events: {}", done.stderr());
        Ok(recorded)
    }
}

/// A recording on disk; removed with this.
pub struct Recorded(PathBuf);

impl Drop for Recorded {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

fn perf(args: &[&str], file: &Path) -> Result<String> {
    // Not output_of(tool): perf warns on standard error about symbols that nobody wants.
    let mut command: Command = tool("perf")?;
    output_of(command.args(args).arg("--input").arg(file))
}

impl Recorded {
    /// `perf sched timehist`'s rows of these threads.
    pub fn timehist(&self) -> Result<Vec<TimehistRow>> {
        let text = perf(&["sched", "timehist", "--call-graph=none"], &self.0)
            .or_else(|_| perf(&["sched", "timehist"], &self.0))?;
        Ok(text.lines().filter_map(TimehistRow::parse).collect())
    }

    /// The raw events, and what follows from them.
    pub fn trace(&self) -> Result<Trace> {
        let text = perf(&["script", "--ns", "--fields", "tid,cpu,time,event,trace"], &self.0)?;
        let mut trace = Trace::default();
        for line in text.lines() {
            if let Some(event) = Event::parse(line) {
                trace.add(&event);
            }
        }
        ensure!(trace.switches > 0, "perf script shows no context switch");
        Ok(trace)
    }
}

/// A row of `perf sched timehist`: a thread left a CPU.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TimehistRow {
    /// When it had come to the CPU, ns (to a microsecond).
    pub in_ns: u64,
    /// Thread.
    pub tid: u32,
    /// Wakeup to switch-in, ns, cut to a microsecond.
    pub sch_delay_ns: u64,
}

impl TimehistRow {
    fn parse(line: &str) -> Option<Self> {
        // 1633.578210 [0000]  name with blanks[25476/25464]  0.000  0.012  0.025
        let mut back = line.split_whitespace().rev();
        let run = thousandths(back.next()?)?;
        let delay = thousandths(back.next()?)?;
        let _wait = thousandths(back.next()?)?;
        let ids = line.rsplit_once(']')?.0.rsplit_once('[')?.1;
        let tid = ids.split('/').next()?.parse().ok()?;
        let out_us = micros(line.split_whitespace().next()?)?;
        Some(Self { in_ns: out_us.checked_sub(run)? * 1_000, tid, sch_delay_ns: delay * 1_000 })
    }
}

/// `1.234` ms as µs.
fn thousandths(text: &str) -> Option<u64> {
    let (whole, fraction) = text.split_once('.')?;
    (fraction.len() == 3).then_some(())?;
    Some(whole.parse::<u64>().ok()? * 1_000 + fraction.parse::<u64>().ok()?)
}

/// `1633.578210` s as µs.
fn micros(text: &str) -> Option<u64> {
    let (whole, fraction) = text.split_once('.')?;
    (fraction.len() == 6).then_some(())?;
    Some(whole.parse::<u64>().ok()? * 1_000_000 + fraction.parse::<u64>().ok()?)
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum What {
    Switch { prev: u32, runnable: bool, deep: bool, next: u32, next_comm: String },
    Wakeup { tid: u32 },
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Event {
    cpu: u16,
    ns: u64,
    what: What,
}

impl Event {
    /// A line of `perf script --ns --fields tid,cpu,time,event,trace`.
    fn parse(line: &str) -> Option<Self> {
        let (head, event) = line.split_once("sched:")?;
        let mut head = head.split_whitespace().rev();
        let time = head.next()?.trim_end_matches(':');
        let cpu = head.next()?.trim_matches(['[', ']']).parse().ok()?;
        let (seconds, nanos) = time.split_once('.')?;
        (nanos.len() == 9).then_some(())?;
        let ns = seconds.parse::<u64>().ok()? * 1_000_000_000 + nanos.parse::<u64>().ok()?;
        let (name, fields) = event.split_once(':')?;
        let what = match name {
            "sched_switch" => {
                // Names may hold blanks, so each field is looked for from the right place.
                let (prev, next) = fields.split_once(" ==> next_comm=")?;
                let state = prev.rsplit_once("prev_state=")?.1.trim();
                What::Switch {
                    prev: field(prev, "prev_pid=")?,
                    runnable: state == "R" || state == "R+",
                    deep: state.starts_with('D'),
                    next: field(next, "next_pid=")?,
                    next_comm: next.rsplit_once(" next_pid=")?.0.to_owned(),
                }
            }
            "sched_waking" | "sched_wakeup" | "sched_wakeup_new" => {
                What::Wakeup { tid: field(fields, " pid=")? }
            }
            _ => return None,
        };
        Some(Self { cpu, ns, what })
    }
}

fn field(text: &str, key: &str) -> Option<u32> {
    text.rsplit_once(key)?.1.split_whitespace().next()?.parse().ok()
}

/// Why a thread was on a run queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// It was woken.
    Wakeup,
    /// It left the CPU although it could have run on: preempted, or it yielded.
    Preemption,
}

/// A thread waited on a run queue from … to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Wait {
    /// Thread.
    pub tid: u32,
    /// Why.
    pub kind: Kind,
    /// Since when.
    pub from_ns: u64,
    /// Until it ran.
    pub to_ns: u64,
}

/// A thread ran on a CPU from … to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Slice {
    /// CPU.
    pub cpu: u16,
    /// Thread; 0: idle.
    pub tid: u32,
    /// Its name.
    pub comm: String,
    /// Since when.
    pub from_ns: u64,
    /// Until when.
    pub to_ns: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Running,
    Queued(Kind, u64),
    Asleep { since: u64, deep: bool },
}

/// What the raw events amount to.
#[derive(Clone, Debug, Default)]
pub struct Trace {
    /// Waits that ended, in order of their ends.
    pub waits: Vec<Wait>,
    /// Sleeps in state D that ended, in order of their ends: thread, from, to.
    pub deep_sleeps: Vec<(u32, u64, u64)>,
    /// Who ran, in order of the ends.
    pub slices: Vec<Slice>,
    /// Times in which events of a CPU were lost: who left it had not come to it.
    pub holes: Vec<(u64, u64)>,
    /// Context switches read.
    pub switches: u64,
    states: BTreeMap<u32, State>,
    on_cpu: BTreeMap<u16, (u32, String, u64)>,
}

impl Trace {
    fn add(&mut self, event: &Event) {
        let now = event.ns;
        match &event.what {
            What::Wakeup { tid } => {
                // A thread that is woken before it has left the CPU goes on running.
                let state = self.states.get(tid).copied();
                if let Some(State::Asleep { since, deep: true }) = state {
                    self.deep_sleeps.push((*tid, since, now));
                }
                if matches!(state, None | Some(State::Asleep { .. })) {
                    self.states.insert(*tid, State::Queued(Kind::Wakeup, now));
                }
            }
            What::Switch { prev, runnable, deep, next, next_comm } => {
                self.switches += 1;
                let prev_state = if *runnable {
                    State::Queued(Kind::Preemption, now)
                } else {
                    State::Asleep { since: now, deep: *deep }
                };
                if *prev != 0 {
                    self.states.insert(*prev, prev_state);
                }
                if *next != 0 {
                    if let Some(State::Queued(kind, from_ns)) = self.states.get(next) {
                        let wait = Wait { tid: *next, kind: *kind, from_ns: *from_ns, to_ns: now };
                        self.waits.push(wait);
                    }
                    self.states.insert(*next, State::Running);
                }
                let running = (*next, next_comm.clone(), now);
                if let Some((tid, comm, from_ns)) = self.on_cpu.insert(event.cpu, running) {
                    if tid != *prev {
                        self.holes.push((from_ns, now));
                    }
                    self.slices.push(Slice { cpu: event.cpu, tid, comm, from_ns, to_ns: now });
                }
            }
        }
    }

    /// Number and sum (ns) of these threads' waits of a kind that ended in the window.
    pub fn delays(&self, tids: &BTreeSet<u32>, kind: Kind, window: (u64, u64)) -> (u64, u64) {
        let within = |w: &&Wait| {
            w.kind == kind && tids.contains(&w.tid) && w.to_ns >= window.0 && w.to_ns < window.1
        };
        self.waits
            .iter()
            .filter(within)
            .fold((0, 0), |(n, ns), w| (n + 1, ns + w.to_ns - w.from_ns))
    }

    /// How long a thread waited on a run queue within `[from, to)`.
    pub fn waited(&self, tid: u32, from: u64, to: u64) -> u64 {
        let of_thread = self.waits.iter().filter(|w| w.tid == tid);
        of_thread.map(|w| w.to_ns.min(to).saturating_sub(w.from_ns.max(from))).sum()
    }

    /// Whether events were lost in `[from, to)`.
    pub fn has_hole(&self, from: u64, to: u64) -> bool {
        self.holes.iter().any(|&(s, e)| s < to && from < e)
    }

    /// How long a thread slept in state D within `[from, to)`.
    pub fn slept_deeply(&self, tid: u32, from: u64, to: u64) -> u64 {
        let of_thread = self.deep_sleeps.iter().filter(|(t, ..)| *t == tid);
        of_thread.map(|&(_, s, e)| e.min(to).saturating_sub(s.max(from))).sum()
    }

    /// How long a thread of this name ran within `[from, to)`, on any CPU.
    pub fn ran(&self, comm: &str, from: u64, to: u64) -> u64 {
        let named = self.slices.iter().filter(|s| s.comm == comm);
        named.map(|s| s.to_ns.min(to).saturating_sub(s.from_ns.max(from))).sum()
    }

    /// How long a thread ran within `[from, to)`, on any CPU and under any name.
    pub fn thread_ran(&self, tid: u32, from: u64, to: u64) -> u64 {
        let own = self.slices.iter().filter(|s| s.tid == tid);
        own.map(|s| s.to_ns.min(to).saturating_sub(s.from_ns.max(from))).sum()
    }

    /// The thread's longest wait of a kind that ended in the window.
    pub fn longest(&self, tids: &BTreeSet<u32>, kind: Kind, window: (u64, u64)) -> Option<Wait> {
        let within = |w: &&Wait| {
            w.kind == kind && tids.contains(&w.tid) && w.to_ns >= window.0 && w.to_ns < window.1
        };
        self.waits.iter().filter(within).max_by_key(|w| w.to_ns - w.from_ns).copied()
    }
}

/// Threads that a process had at any time of a run: add to it while the run goes on.
pub fn note_threads(pid: u32, seen: &mut BTreeSet<u32>) -> Result<()> {
    seen.extend(crate::kernel::threads(pid).context("listing threads")?);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const SCRIPT: &str = "\
  7 [000] 1.000001000: sched:sched_switch: prev_comm=a b prev_pid=7 prev_prio=120 prev_state=R ==> next_comm=cpu hog next_pid=9 next_prio=120
  9 [001] 1.000002000: sched:sched_wakeup: comm=a b pid=8 prio=120 target_cpu=000
  9 [000] 1.000004000: sched:sched_switch: prev_comm=cpu hog prev_pid=9 prev_prio=120 prev_state=R+ ==> next_comm=a b next_pid=7 next_prio=120
  7 [000] 1.000004500: sched:sched_wakeup: comm=a b pid=7 prio=120 target_cpu=000
  7 [000] 1.000005000: sched:sched_switch: prev_comm=a b prev_pid=7 prev_prio=120 prev_state=S ==> next_comm=a b next_pid=8 next_prio=120
";

    fn trace() -> Trace {
        let mut trace = Trace::default();
        for line in SCRIPT.lines() {
            trace.add(&Event::parse(line).expect(line));
        }
        trace
    }

    #[test]
    fn waits_are_told_apart() {
        let trace = trace();
        let all = (0, u64::MAX);
        let tids = BTreeSet::from([7, 8]);
        assert_eq!(trace.delays(&tids, Kind::Preemption, all), (1, 3_000));
        assert_eq!(trace.delays(&tids, Kind::Wakeup, all), (1, 3_000));
        assert_eq!(trace.delays(&tids, Kind::Wakeup, (0, 1_000_005_000)), (0, 0));
        assert_eq!(trace.waited(8, 1_000_003_000, 1_000_004_000), 1_000);
    }

    #[test]
    fn deep_sleeps_are_told_from_others() {
        let mut trace = trace();
        for line in [
            "  8 [000] 1.000006000: sched:sched_switch: prev_comm=a prev_pid=8 prev_prio=120 prev_state=D ==> next_comm=a next_pid=7 next_prio=120",
            "  7 [000] 1.000007000: sched:sched_switch: prev_comm=a prev_pid=7 prev_prio=120 prev_state=S ==> next_comm=b next_pid=9 next_prio=120",
            "  9 [000] 1.000009000: sched:sched_waking: comm=a pid=8 prio=120 target_cpu=000",
            "  9 [000] 1.000009000: sched:sched_waking: comm=a pid=7 prio=120 target_cpu=000",
        ] {
            trace.add(&Event::parse(line).expect(line));
        }
        assert_eq!(trace.slept_deeply(8, 1_000_007_000, u64::MAX), 2_000);
        assert_eq!(trace.slept_deeply(7, 0, u64::MAX), 0);
        assert!(!trace.has_hole(0, u64::MAX));
    }

    #[test]
    fn who_leaves_a_cpu_without_having_come_shows_a_loss() {
        let mut trace = trace();
        let line = "  5 [000] 1.000006000: sched:sched_switch: prev_comm=c prev_pid=5 prev_prio=120 prev_state=S ==> next_comm=a next_pid=7 next_prio=120";
        trace.add(&Event::parse(line).expect(line));
        assert!(trace.has_hole(1_000_005_500, 1_000_005_600));
        assert!(!trace.has_hole(0, 1_000_005_000));
    }

    #[test]
    fn slices_name_who_ran() {
        let trace = trace();
        assert_eq!(trace.ran("cpu hog", 0, u64::MAX), 3_000);
        assert_eq!(trace.ran("cpu hog", 1_000_003_500, u64::MAX), 500);
    }

    #[test]
    fn timehist_rows_give_the_switch_in() {
        let line =
            "    1633.579430 [0000]  service 1[25476/25464]     0.009      0.002      0.104 ";
        let row = TimehistRow { in_ns: 1_633_579_326_000, tid: 25_476, sch_delay_ns: 2_000 };
        assert_eq!(TimehistRow::parse(line), Some(row));
        assert_eq!(TimehistRow::parse("--------------- ------  ---"), None);
    }
}
