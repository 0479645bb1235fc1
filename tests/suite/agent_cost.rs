//! `g211s agent` over time: what it costs beside services that do little, that nothing of it grows, and what a real
//! Prometheus makes of it while services come and go.

use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use g211s_tests::fleet::{Folder, Own, Prometheus};
use g211s_tests::proc::Proc;
use g211s_tests::report::Report;
use g211s_tests::scrape::Agent;
use g211s_tests::{agent, go, kernel, needs_kernel, run_all};
use nix::sys::signal::Signal;
use nix::unistd::{SysconfVar, sysconf};

const PATIENCE: Duration = Duration::from_secs(30);
const SERVICES: usize = 20;

/// CPU time of a process, s.
fn cpu_s(pid: u32) -> Result<f64> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"))?;
    let fields: Vec<&str> =
        stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
    let ticks = |at: usize| -> Result<f64> { Ok(fields.get(at).context("cut off")?.parse()?) };
    let a_second = sysconf(SysconfVar::CLK_TCK)?.context("no CLK_TCK")? as f64;
    // utime and stime are the fields 14 and 15, of which two are before the name's end (proc(5)).
    Ok((ticks(11)? + ticks(12)?) / a_second)
}

/// A figure of `/proc/PID/status`, MiB.
fn status_mib(pid: u32, name: &str) -> Result<f64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find_map(|l| l.strip_prefix(name)?.strip_prefix(':'));
    let kib: f64 = line.context("no such line")?.trim().trim_end_matches(" kB").parse()?;
    Ok(kib / 1024.0)
}

#[test]
fn twenty_services_that_do_little_cost_little_and_nothing_grows() -> Result<()> {
    needs_kernel!();
    let (old, new) = (Own::new("idle", go::OLD, "quiet")?, Own::new("idle", go::NEW, "quieter")?);
    let start = |i: usize| if i.is_multiple_of(2) { &old } else { &new }.start(&["-tick", "100ms"]);
    let _services = (0..SERVICES).map(start).collect::<Result<Vec<Proc>>>()?;
    // A real one, whose executable is large.
    let folder = Folder::new("quiet")?;
    let large = kernel::find("prometheus").is_some();
    let _large = large
        .then(|| Prometheus::start("127.0.0.1:1", Duration::from_mins(1), &folder.0))
        .transpose()?;
    let captures = folder.0.join("captures").display().to_string();
    let wanted = SERVICES + usize::from(large);
    let agent = Agent::start(&[
        "--include",
        &format!("name=g2t{}-*", std::process::id()),
        "--include",
        "name=prometheus",
        "--capture",
        &captures,
    ])?;
    let all = |s: &g211s_tests::scrape::Scrape| {
        s.find("g211s_agent_targets", "watched").is_some_and(|n| n as usize >= wanted)
    };
    agent.scrape_until(PATIENCE, "all are watched", all)?;
    let pid = agent.proc.pid();
    let most = status_mib(pid, "VmHWM")?;
    // Attaching is over, and the first stretch of the ring is full.
    let (rest, window) = if run_all() { (60, 420) } else { (5, 12) };
    std::thread::sleep(Duration::from_secs(rest));
    let (began, cpu, rss) = (Instant::now(), cpu_s(pid)?, status_mib(pid, "VmRSS")?);
    // Somebody scrapes, too.
    while began.elapsed() < Duration::from_secs(window) {
        std::thread::sleep(Duration::from_secs(6));
        agent.scrape()?;
    }
    let share = (cpu_s(pid)? - cpu) / began.elapsed().as_secs_f64();
    let (later, most) = (status_mib(pid, "VmRSS")?, most.max(status_mib(pid, "VmHWM")?));
    let files = kernel::open_files(pid)?;
    println!(
        "{wanted} services: {:.2} % of a CPU in {window} s; {rss:.1} MiB, then {later:.1}, at most {most:.1}; {files} files",
        share * 100.0
    );
    // A short window has a scan and the noise of other tests in it.
    ensure!(share < if run_all() { 0.01 } else { 0.03 }, "{:.2} % of a CPU", share * 100.0);
    ensure!(most < 64.0, "{most} MiB");
    ensure!(later - rss < 2.0, "{rss} MiB, then {later}");
    let scrape = agent.scrape()?;
    ensure!(scrape.value("g211s_agent_events_total", "\"lost\"")? == 0.0, "{}", scrape.text);
    Ok(())
}

#[test]
fn prometheus_scrapes_for_minutes_while_services_come_and_go() -> Result<()> {
    needs_kernel!();
    if !run_all() {
        println!("skipped: takes five minutes; with --all only");
        return Ok(());
    }
    needs_kernel!("prometheus", "promtool");
    let (steady, idle) =
        (Own::new("gcstorm", go::NEW, "steady")?, Own::new("idle", go::OLD, "idle")?);
    let service = Own::new("service", go::MIDDLE, "service")?;
    let target = steady.start(&["-live", "8", "-rate", "100"])?;
    let folder = Folder::new("prometheus")?;
    let agent = Agent::start(&["--include", &format!("name=g2t{}-*", std::process::id())])?;
    let prometheus = Prometheus::start(&agent.address, Duration::from_secs(5), &folder.0)?;
    let start = |n: usize| match n % 3 {
        0 => service.start(&["-rate", "20"]),
        _ => idle.start(&["-tick", "20ms"]),
    };
    let mut others = (1..SERVICES).map(start).collect::<Result<Vec<Proc>>>()?;
    let labels = steady.labels();
    agent.scrape_until(PATIENCE, "the steady one is watched", |s| {
        s.find("g211s_gc_cycle_duration_seconds_count", &labels).is_some_and(|n| n > 3.0)
    })?;
    let recording = folder.0.join("steady.g211s");
    let path = recording.display().to_string();
    let (began, before) = (Instant::now(), agent.scrape()?);
    let mut record = Proc::spawn(Command::new(agent::binary()?).args([
        "record",
        "--pid",
        &target.pid().to_string(),
        "--duration",
        "240s",
        "-o",
        &path,
    ]))?;
    let (mut n, mut changes) = (SERVICES, 0);
    while record.poll()?.is_none() {
        others
            .remove(0)
            .stop(if n.is_multiple_of(2) { Signal::SIGKILL } else { Signal::SIGTERM }, PATIENCE)?;
        others.push(start(n)?);
        (n, changes) = (n + 1, changes + 1);
        std::thread::sleep(Duration::from_secs(3));
        ensure!(began.elapsed() < Duration::from_mins(8), "the recording does not end");
    }
    // Stops are told within two seconds, and samples read every ten.
    std::thread::sleep(Duration::from_secs(12));
    let (elapsed, after) = (began.elapsed().as_secs_f64(), agent.scrape()?);

    // A recording of the same minutes says the same.
    let done = record.finish(PATIENCE)?;
    ensure!(done.code() == 0, "{}", done.stderr());
    let done = agent::run(&["report", &path, "--json"])?;
    let report = Report::parse(&done.stdout())?;
    let window = report.number("/window/duration_ns")? as f64 / 1e9;
    let stops = report.stws()?;
    let gc: Vec<u64> =
        stops.iter().filter(|s| s.reason.starts_with("GC ")).map(|s| s.total_ns).collect();
    let grew = |name: &str| -> Result<f64> {
        Ok((after.value(name, &labels)? - before.value(name, &labels)?) / elapsed)
    };
    for (what, name, ours) in [
        ("pauses", "go_memory_gc_pause_duration_seconds_count", gc.len() as f64),
        ("cycles", "g211s_gc_cycles_total", report.number("/gc/count")? as f64),
        ("waits", "g211s_runqueue_delay_seconds_count", report.number("/runqueue/count")? as f64),
        ("paused", "go_memory_gc_pause_duration_seconds_sum", gc.iter().sum::<u64>() as f64 / 1e9),
    ] {
        let (agents, ours) = (grew(name)?, ours / window);
        println!("{what}: {agents:.4} a second by the agent, {ours:.4} by the recording");
        ensure!((agents / ours - 1.0).abs() < 0.1, "{what}: {agents} and {ours}");
    }

    // No scrape failed.
    let minutes = format!("{}s", began.elapsed().as_secs());
    let scrapes = prometheus.value(&format!("count_over_time(up[{minutes}])"))?;
    let up = prometheus.value(&format!("sum_over_time(up[{minutes}])"))?;
    let slowest =
        prometheus.value(&format!("max_over_time(scrape_duration_seconds[{minutes}])"))?;
    println!("{up} of {scrapes} scrapes, the slowest took {slowest} s; {changes} changes");
    println!("{}", prometheus.log());
    ensure!(scrapes >= 45.0 && (up - scrapes).abs() < 0.5, "{}", prometheus.last_error()?);
    let native = "histogram_quantile(0.5, sum(rate(go_memory_gc_pause_duration_seconds[4m])))";
    let median = prometheus.value(native)?;
    println!("median pause by native histograms {median} s");
    ensure!(median > 1e-6 && median < 0.1, "{median}");
    let cost = cpu_s(agent.proc.pid())? / began.elapsed().as_secs_f64();
    let most = status_mib(agent.proc.pid(), "VmHWM")?;
    println!("{:.2} % of a CPU, at most {most:.1} MiB", cost * 100.0);
    ensure!(most < 64.0, "{most} MiB");
    Ok(())
}
