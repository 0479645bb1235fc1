//! What it costs a program that does nothing but allocate to have its allocations followed: by `g211s allocs` within its
//! budget, and by what else there is. Minutes long: only with `--all`.

use std::collections::BTreeMap;
use std::process::Command;
use std::time::Duration;

use anyhow::{Result, ensure};
use g211s_tests::kernel::tool;
use g211s_tests::paired::{Slot, Turns, lost_around};
use g211s_tests::proc::{Proc, now_ns};
use g211s_tests::service::{Launch, Service};
use g211s_tests::stats::{Interval, quantile};
use g211s_tests::truth::allocs::{looks, start, truth_of, window};
use g211s_tests::truth::epoll::Bpftrace;
use g211s_tests::{agent, go, needs_kernel, run_all};
use nix::sys::signal::Signal;
use nix::time::{clock_getcpuclockid, clock_gettime};
use nix::unistd::Pid;
use serde_json::Value;

/// How long a slot is: two looks and more.
const SLOT: Duration = Duration::from_secs(6);
/// Turns of each observer.
const ROUNDS: usize = 4;
/// How long it is watched look by look, and before that without g211s.
const RUN: Duration = Duration::from_secs(90);
/// How much may be lost where nothing is done, for anything to be told.
const TELLS: f64 = 0.005;

/// Who observes.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Who {
    /// Nobody: what two slots differ by anyway.
    Nobody,
    /// We, at this budget.
    G211s(&'static str),
    /// bpftrace, with a stack for each call of `mallocgc`.
    Bpftrace,
    /// memleak of the BPF compiler collection.
    Memleak,
}

impl Who {
    const ALL: [Self; 5] =
        [Self::Nobody, Self::G211s("1%"), Self::G211s("5%"), Self::Bpftrace, Self::Memleak];

    fn name(self) -> String {
        match self {
            Self::Nobody => "nobody (control)".into(),
            Self::G211s(budget) => format!("g211s allocs --budget {budget}"),
            Self::Bpftrace => "bpftrace, mallocgc by stack".into(),
            Self::Memleak => "memleak-bpfcc".into(),
        }
    }

    /// Whether that is us, or nobody.
    fn is_ours(self) -> bool {
        matches!(self, Self::Nobody | Self::G211s(_))
    }

    /// Observes for a slot; from when until when, or why it cannot.
    fn observe(self, service: &Service) -> Result<(u64, u64)> {
        let pid = service.pid().to_string();
        let slot = || {
            let from = now_ns();
            std::thread::sleep(SLOT);
            (from, now_ns())
        };
        match self {
            Self::Nobody => Ok(slot()),
            Self::G211s(budget) => {
                let seconds = format!("{}s", SLOT.as_secs());
                let done = agent::run(&[
                    "allocs",
                    "--json",
                    "--pid",
                    &pid,
                    "--duration",
                    &seconds,
                    "--budget",
                    budget,
                ])?;
                ensure!(done.code() == 0, "g211s allocs: {}", done.stderr());
                window(&serde_json::from_str::<Value>(&done.stdout())?)
            }
            Self::Bpftrace => {
                let file = service.binary.display();
                let script = format!(
                    "uprobe:{file}:\"runtime.mallocgc\" /pid == {pid}/ {{ @[ustack] = count(); }}"
                );
                let running = Bpftrace::start(&script)?;
                let slot = slot();
                running.stop()?;
                Ok(slot)
            }
            Self::Memleak => {
                let mut memleak: Command = tool("memleak-bpfcc")?;
                // Of the executable itself: there is no other object that allocates. (What it asks for are C's functions,
                // by uprobes and uretprobes, of which a Go program without C has none.)
                memleak.args(["-p", &pid, "-O"]).arg(&service.binary).arg("5");
                memleak.env("PYTHONUNBUFFERED", "1");
                let mut running = Proc::spawn(&mut memleak)?;
                running.wait_line(|l| l.text.contains("Attaching"), Duration::from_mins(1))?;
                let slot = slot();
                let done = running.stop(Signal::SIGINT, Duration::from_mins(1))?;
                ensure!(done.code() == 0, "{}{}", done.stdout(), done.stderr());
                Ok(slot)
            }
        }
    }
}

/// All observers in turn, in another order each round, each between two slots with nobody: what they leave of the program's
/// throughput, by the clock. Where other programs run this tells dear from cheap, and no more.
fn compare(version: &str) -> Result<()> {
    // With symbols, for bpftrace's sake.
    let service =
        Launch::new("allocs", version).mode(go::Mode::Plain).args(&["-rate", "0"]).start()?;
    let mut turns = Turns::default();
    let mut unable: BTreeMap<usize, String> = BTreeMap::new();
    let nobody = || {
        let from_ns = now_ns();
        std::thread::sleep(SLOT);
        Slot { who: None, from_ns, to_ns: now_ns() }
    };
    // Its heap and its spans as they will be.
    nobody();
    turns.push(nobody());
    let mut order: Vec<usize> = (0..Who::ALL.len()).collect();
    for round in 0..ROUNDS {
        // Neighbours change, so that nobody always follows the same one.
        order.rotate_left(1 + round % (Who::ALL.len() - 1));
        for &who in &order {
            let of = Who::ALL[who];
            if unable.contains_key(&who) {
                continue;
            }
            match of.observe(&service) {
                Ok((from_ns, to_ns)) => turns.push(Slot { who: Some(who), from_ns, to_ns }),
                Err(why) if of.is_ours() => return Err(why),
                Err(why) => {
                    unable.insert(who, format!("{why:#}"));
                    continue;
                }
            }
            turns.push(nobody());
        }
    }
    let truth = truth_of(service)?;
    println!("go{version}: throughput that is left, by the clock: mean (95 %), least to most");
    for (who, of) in Who::ALL.iter().enumerate() {
        if let Some(why) = unable.get(&who) {
            println!("  {:32} cannot be compared: {why}", of.name());
            continue;
        }
        let (shares, mean) =
            turns.left_by(who, |from, to| Ok(truth.work(from, to)?.done / (to - from) as f64))?;
        println!(
            "  {:32} {:.3} ({:.3} to {:.3}), {:.3} to {:.3} of {}",
            of.name(),
            mean.at,
            mean.low,
            mean.high,
            quantile(&shares, 0.0),
            quantile(&shares, 1.0),
            shares.len()
        );
    }
    Ok(())
}

/// CPU time of a process, ns.
fn cpu_ns(pid: u32) -> Result<f64> {
    let clock = clock_getcpuclockid(Pid::from_raw(i32::try_from(pid)?))?;
    let now = clock_gettime(clock)?;
    Ok(now.tv_sec() as f64 * 1e9 + now.tv_nsec() as f64)
}

/// What g211s leaves of the program's throughput at a budget, look by look, if all CPU time that g211s itself takes is the
/// program's loss as well; and what seems to be lost at the same moments without it.
fn left_at(version: &str, budget: &str) -> Result<(Interval, Interval)> {
    let service = start(version, &["-rate", "0", "-every", "10ms"])?;
    let began = now_ns();
    std::thread::sleep(RUN);
    let pid = service.pid().to_string();
    let seconds = format!("{}s", RUN.as_secs());
    let mut command = Command::new(agent::binary()?);
    command.args(["allocs", "--json", "--pid", &pid, "--duration", &seconds, "--budget", budget]);
    let running = Proc::spawn(&mut command)?;
    // Loading is over by then, and the report has not begun.
    let edge = Duration::from_secs(5);
    std::thread::sleep(edge);
    let (own, from) = (cpu_ns(running.pid())?, now_ns());
    std::thread::sleep(RUN.saturating_sub(2 * edge));
    let (own, to) = (cpu_ns(running.pid())? - own, now_ns());
    let done = running.finish(Duration::from_mins(1))?;
    ensure!(done.code() == 0, "g211s allocs: {}", done.stderr());
    let document: Value = serde_json::from_str(&done.stdout())?;
    let truth = truth_of(service)?;
    let (start_ns, end_ns) = window(&document)?;
    let looks = looks(&document)?;
    let lost = lost_around(&looks, (start_ns, end_ns), |a, b| truth.work(a, b))?;
    // The same moments of the time before.
    let back = |ns: u64| began + (ns - start_ns).min(RUN.as_nanos() as u64);
    let without: Vec<(u64, u64)> = looks.iter().map(|&(a, b)| (back(a), back(b))).collect();
    let control = lost_around(&without, (began, back(end_ns)), |a, b| truth.work(a, b))?;
    let own = own / truth.work(from, to)?.cpu_ns;
    let left = Interval {
        at: 1.0 - lost.at - own,
        low: 1.0 - lost.high - own,
        high: 1.0 - lost.low - own,
    };
    println!(
        "go{version}, budget {budget}: {:.4} ({:.4} to {:.4}) of the throughput is left: {:.2} % lost in {} looks and after \
         them, {:.2} % taken by g211s; it says {:.2} %; control {:.2} % ({:.2} to {:.2})",
        left.at,
        left.low,
        left.high,
        lost.at * 100.0,
        looks.len(),
        own * 100.0,
        document.pointer("/cost/charged_share").and_then(Value::as_f64).unwrap_or(0.0) * 100.0,
        control.at * 100.0,
        control.low * 100.0,
        control.high * 100.0
    );
    Ok((left, control))
}

/// At a budget of 1 % a program that does nothing but allocate keeps 98.5 % of its throughput, and 95 % at 5 %.
fn the_budget_is_what_it_costs(version: &str) -> Result<()> {
    if !run_all() {
        println!("skipped: takes six minutes (`cargo xtask test --all`)");
        return Ok(());
    }
    let mut missed = Vec::new();
    for (budget, least) in [("1%", 0.985), ("5%", 0.95)] {
        let (left, control) = left_at(version, budget)?;
        if control.low > TELLS || control.high < -TELLS {
            missed.push(format!("go{version}: without g211s {control:?} seems to be lost"));
        }
        if left.at < least {
            missed.push(format!("go{version}, budget {budget}: {:.4}", left.at));
        }
    }
    ensure!(missed.is_empty(), "{}", missed.join("; "));
    Ok(())
}

#[test]
fn the_budget_is_what_it_costs_go_1_27() -> Result<()> {
    needs_kernel!();
    the_budget_is_what_it_costs(go::NEW)
}

#[test]
fn the_budget_is_what_it_costs_go_1_21() -> Result<()> {
    needs_kernel!();
    the_budget_is_what_it_costs(go::OLD)
}

/// Beside what else there is.
#[test]
fn others_cost_more() -> Result<()> {
    needs_kernel!("bpftrace");
    if !run_all() {
        println!("skipped: takes minutes (`cargo xtask test --all`)");
        return Ok(());
    }
    [go::NEW, go::OLD].into_iter().try_for_each(compare)
}
