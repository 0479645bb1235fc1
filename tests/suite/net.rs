//! Network lateness: what is said to be late was late by perf's account, and behind whom it says; a peer
//! that has nothing to say makes nothing late. (Where the kernel tells when a socket becomes ready, the workload's
//! own clock is the truth: `cargo xtask vm --scenario net`.)

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use g211s_tests::agent::Attach;
use g211s_tests::report::Report;
use g211s_tests::service::{Hog, Launch};
use g211s_tests::truth::sched::{Perf, Trace};
use g211s_tests::{go, needs_kernel, proc, skip};
use serde_json::Value;

/// What a late harvest says of itself.
struct Late<'a> {
    json: &'a Value,
    tid: u32,
    woken_ns: u64,
    running_ns: u64,
}

impl<'a> Late<'a> {
    fn all(report: &'a Report) -> Result<Vec<Self>> {
        let list = report.at("/netpoll/late")?.as_array().context("no list")?;
        let late = |json: &'a Value| {
            let ns = |key: &str| json[key].as_u64().with_context(|| format!("{key}: {json}"));
            let (woken_ns, running_ns) = (ns("woken_ns")?, ns("running_ns")?);
            Ok(Self { json, tid: ns("tid")? as u32, woken_ns, running_ns })
        };
        list.iter().map(late).collect()
    }

    /// That its parts are its whole, and that perf saw the thread wait for a CPU all the time.
    fn confirm(&self, trace: &Trace, threshold_ns: u64) -> Result<()> {
        let json = self.json;
        let number = |value: &Value| value.as_u64().with_context(|| format!("{value}: {json}"));
        let delay = self.running_ns - self.woken_ns;
        ensure!(number(&json["delay_ns"])? == delay && delay >= threshold_ns, "{json}");
        let causes = json["causes"].as_array().context("no causes")?;
        let sum: u64 = causes.iter().filter_map(|c| c["ns"].as_u64()).sum();
        ensure!(sum == delay, "the causes sum to {sum}: {json}");
        let ms = &json["ms"];
        let parts = ["stw_ns", "on_cpu_ns", "runnable_ns", "blocked_ns", "idle_ns", "unknown_ns"];
        let sum: u64 = parts.iter().filter_map(|p| ms[p].as_u64()).sum();
        ensure!(sum == number(&ms["thread_ns"])?, "the threads' time sums to {sum}: {json}");
        let waited = trace.waited(self.tid, self.woken_ns, self.running_ns);
        ensure!(waited as f64 >= 0.9 * delay as f64, "perf saw it wait for {waited} ns: {json}");
        Ok(())
    }

    /// How long the thread waited behind a process of this name and number, ns.
    fn behind(&self, comm: &str, pid: u32) -> u64 {
        let named = |c: &&Value| {
            c["kind"] == "runqueue_wait"
                && c["behind"]["comm"] == comm
                && c["behind"]["pid"].as_u64() == Some(pid.into())
        };
        let causes = self.json["causes"].as_array().into_iter().flatten();
        causes.filter(named).filter_map(|c| c["ns"].as_u64()).sum()
    }
}

/// `netlate` on one CPU under perf, with or without a hog beside it.
fn observe(args: &[&str], hog: Option<&str>) -> Result<(Report, Trace, Option<Hog>)> {
    let cpu = *proc::cpus()?.last().context("no CPU")?;
    let service = Launch::new("netlate", go::NEW).args(args).cpus(&[cpu]).start()?;
    let hog = hog.map(|name| Hog::start(name, cpu)).transpose()?;
    let perf = Perf::start()?;
    let report = Attach::new(service.pid(), Duration::from_secs(8)).report()?;
    let trace = perf.stop()?.trace()?;
    Ok((report, trace, hog))
}

fn behind_a_hog() -> Result<()> {
    let (report, trace, hog) = observe(&[], Some("hog-net"))?;
    let hog = hog.context("no hog")?;
    let threshold = report.number("/netpoll/late_wakes/threshold_ns")?;
    let (late, counted) = (Late::all(&report)?, report.number("/netpoll/late_count")?);
    // The kernel side does not know of a poll that had begun before it.
    let wakes = report.number("/netpoll/late_wakes/count")?;
    ensure!(counted.abs_diff(wakes) <= 1, "{counted} one by one, {wakes} counted");
    ensure!(counted >= 5, "only {counted} late: the hog was in nobody's way");
    let mut named = 0;
    for l in &late {
        l.confirm(&trace, threshold)?;
        let behind = l.behind(&hog.comm, hog.pid());
        let ran = trace.ran(&hog.comm, l.woken_ns, l.running_ns);
        ensure!(ran as f64 >= 0.9 * behind as f64, "the hog ran for {ran} ns: {}", l.json);
        named += usize::from(behind * 2 >= l.running_ns - l.woken_ns);
    }
    println!("{counted} late, of the worst {} the hog had {named}", late.len());
    let unknown = |key: &str| late.iter().filter_map(|l| l.json["ms"][key].as_u64()).sum::<u64>();
    println!("unknown: {} of {} ns", unknown("unknown_ns"), unknown("thread_ns"));
    println!("{}", late[0].json["sentence"]);
    ensure!(named * 10 >= late.len() * 8, "the hog is named in {named} of {}", late.len());
    Ok(())
}

/// Nobody is late because nobody has anything to say. Where the machine is busy with something else there may
/// be late wakes, each of which perf has to confirm.
fn slow_peer() -> Result<()> {
    let (report, trace, _) = observe(&["-busy", "0", "-every", "200ms"], None)?;
    let threshold = report.number("/netpoll/late_wakes/threshold_ns")?;
    let late = Late::all(&report)?;
    let slept = report.number("/netpoll/blocking/slept_ns")?;
    println!("{} late; {slept} ns asleep in polls", late.len());
    ensure!(slept > 4_000_000_000, "it hardly waited");
    late.iter().try_for_each(|l| l.confirm(&trace, threshold))
}

fn by_wakeups() -> Result<bool> {
    let service = Launch::new("idle", go::NEW).start()?;
    let report = Attach::new(service.pid(), Duration::from_secs(1)).report()?;
    Ok(report.at("/netpoll/lateness_source")? == "wakeup")
}

/// Perf may lose events on a busy machine, and whether the hog gets into the way is chance: one repetition is
/// allowed.
fn twice(check: fn() -> Result<()>) -> Result<()> {
    check().or_else(|first| {
        println!("repeated once because of: {first:#}");
        check()
    })
}

#[test]
fn a_late_wake_is_confirmed_and_its_hog_named() -> Result<()> {
    needs_kernel!("perf");
    if !by_wakeups()? {
        skip!("this kernel tells of sockets, see `cargo xtask vm --scenario net`");
    }
    twice(behind_a_hog)
}

#[test]
fn a_slow_peer_makes_nothing_late() -> Result<()> {
    needs_kernel!("perf");
    if !by_wakeups()? {
        skip!("this kernel tells of sockets, see `cargo xtask vm --scenario net`");
    }
    twice(slow_peer)
}
