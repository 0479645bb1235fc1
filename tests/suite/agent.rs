//! `g211s agent` over services that come and go: what it serves against the services' own figures and Prometheus's own
//! tool, what it leaves behind, what it keeps, and what it pushes, as OpenTelemetry's own definitions read it.

use std::collections::BTreeSet;
use std::io::{Read as _, Write as _};
use std::net::TcpListener;
use std::os::unix::ffi::OsStrExt as _;
use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use g211s_tests::fleet::{Folder, Own, changed_text, listening, promtool};
use g211s_tests::proc::Proc;
use g211s_tests::python::{Packages, check};
use g211s_tests::report::Report;
use g211s_tests::scrape::{Agent, Scrape};
use g211s_tests::{agent, go, kernel, needs_kernel, root, skip, skip_is_failure};
use nix::sys::signal::Signal;
use serde_json::Value;

const PATIENCE: Duration = Duration::from_secs(20);
/// A program that collects several times a second.
const STORM: [&str; 4] = ["-live", "8", "-rate", "200"];

/// Prometheus's own tool has nothing to say against it.
fn judged(scrape: &Scrape) -> Result<()> {
    if let Some(said) = promtool(&["check", "metrics"], scrape.text.as_bytes())? {
        ensure!(said.trim().is_empty(), "promtool: {said}");
        return Ok(());
    }
    println!("not judged: promtool is missing (`cargo xtask setup` unpacks it)");
    ensure!(!skip_is_failure(), "promtool is missing");
    Ok(())
}

#[test]
fn services_come_and_go_and_their_collections_are_counted() -> Result<()> {
    needs_kernel!();
    let (storm, idle) =
        (Own::new("gcstorm", go::NEW, "storm")?, Own::new("idle", go::OLD, "idle")?);
    let first = storm.start(&STORM)?;
    let agent = Agent::start(&[
        "--include",
        &storm.rule(),
        "--include",
        &idle.rule(),
        "--sample",
        "1s",
        "--max-targets",
        "3",
    ])?;
    let mine = storm.labels();
    let watched = |n: f64, labels: String| {
        agent.scrape_until(PATIENCE, &format!("{n} of {labels}"), |s| {
            s.find("g211s_processes", &labels) == Some(n)
        })
    };
    watched(1.0, mine.clone())?;
    // They come by themselves, and beyond the limit wait.
    let mut later: Vec<Proc> = (0..3).map(|_| idle.start(&[])).collect::<Result<_>>()?;
    watched(2.0, idle.labels())?;
    let start = agent.scrape()?;
    std::thread::sleep(Duration::from_secs(4));
    let end = agent.scrape()?;
    let grew =
        |name: &str| -> Result<f64> { Ok(end.value(name, &mine)? - start.value(name, &mine)?) };
    let (cycles, seen) =
        (grew("g211s_gc_cycles_total")?, grew("g211s_gc_cycle_duration_seconds_count")?);
    let pauses = grew("go_memory_gc_pause_duration_seconds_count")?;
    println!("{cycles} cycles by the runtime, {seen} seen, {pauses} pauses");
    ensure!(cycles >= 5.0, "the workload collects several times a second");
    // Read within a second of one another, and two stops a cycle (more where a mark termination does not hold).
    ensure!((seen - cycles).abs() <= 2.0 + cycles * 0.5, "{seen} of {cycles}");
    ensure!(pauses >= 2.0 * seen - 4.0 && pauses <= 3.0 * seen + 6.0, "{pauses} of {seen} cycles");
    let causes = grew("g211s_stop_time_seconds_total")?;
    let stops = grew("go_memory_gc_pause_duration_seconds_sum")?
        + grew("g211s_stop_other_duration_seconds_sum")?;
    ensure!(
        (causes - stops).abs() < 1e-6 + stops * 1e-6,
        "causes {causes} s of stops of {stops} s"
    );
    for (name, least) in [
        ("go_goroutines", 1.0),
        ("go_processor_limit", 2.0),
        ("go_memory_gc_goal_bytes", 1e6),
        ("g211s_heap_live_bytes", 1e6),
        ("go_config_gogc_percent", 50.0),
        ("g211s_runqueue_delay_seconds_count", 10.0),
        ("g211s_cpu_time_seconds_total", 0.01),
    ] {
        let value = end.value(name, &mine)?;
        ensure!(value >= least, "{name} is {value}");
    }
    ensure!(end.find("g211s_disagreements_total", &mine) == Some(0.0), "{}", end.text);

    judged(&end)?;
    let open = agent.get("/metrics", "application/openmetrics-text;version=1.0.0")?;
    ensure!(open.ends_with(b"# EOF\n"), "not to its end");
    let families = "application/vnd.google.protobuf;proto=io.prometheus.client.MetricFamily;encoding=delimited";
    ensure!(agent.get("/metrics", families)?.len() > 1000, "protobuf");

    // Places are used again: more come than there are, one after the other.
    for _ in 0..4 {
        later.remove(0).stop(Signal::SIGKILL, PATIENCE)?;
        later.push(idle.start(&[])?);
        std::thread::sleep(Duration::from_millis(300));
    }
    watched(2.0, idle.labels())?;
    first.stop(Signal::SIGTERM, PATIENCE)?;
    let after = watched(0.0, mine.clone())?;
    ensure!(
        after.value("g211s_gc_cycles_total", &mine)?
            >= end.value("g211s_gc_cycles_total", &mine)?,
        "what was counted of a process that is gone is gone"
    );
    // An idle process has no collection, whoever had its place before.
    ensure!(after.find("go_memory_gc_pause_duration_seconds_count", &idle.labels()) == Some(0.0));
    ensure!(after.find("g211s_agent_events_total", "g211s_outcome=\"lost\"") == Some(0.0));
    ensure!(agent.proc.stop(Signal::SIGTERM, PATIENCE)?.code() == 0, "it ends by itself");
    Ok(())
}

#[test]
fn a_killed_agent_leaves_nothing_and_can_be_started_again() -> Result<()> {
    needs_kernel!("bpftool");
    let storm = Own::new("gcstorm", go::NEW, "killed")?;
    let target = storm.start(&STORM)?;
    let before = kernel::bpf_objects()?;
    for _ in 0..2 {
        let agent = Agent::start(&["--include", &storm.rule()])?;
        let ours = storm.labels();
        agent.scrape_until(PATIENCE, "attached", |s| {
            s.find("go_memory_gc_pause_duration_seconds_count", &ours).is_some_and(|n| n > 2.0)
        })?;
        ensure!(changed_text(target.pid())? > 0, "there are no probes to leave behind");
        let capabilities = std::fs::read_to_string(format!("/proc/{}/status", agent.proc.pid()))?;
        let effective = capabilities.lines().find_map(|l| l.strip_prefix("CapEff:\t"));
        let effective = u64::from_str_radix(effective.context("CapEff")?, 16)?;
        // DAC_READ_SEARCH, SYS_PTRACE, PERFMON, BPF; SYS_ADMIN where uprobes take it.
        ensure!(
            effective & !(1 << 2 | 1 << 19 | 1 << 21 | 1 << 38 | 1 << 39) == 0,
            "it keeps {effective:x}"
        );
        agent.proc.stop(Signal::SIGKILL, PATIENCE)?;
        let deadline = Instant::now() + PATIENCE;
        loop {
            let left: BTreeSet<String> =
                kernel::bpf_objects()?.difference(&before).cloned().collect();
            let changed = changed_text(target.pid())?;
            if left.is_empty() && changed == 0 {
                break;
            }
            if Instant::now() > deadline {
                // Another test's, which began meanwhile, cannot be told from ours; text can.
                ensure!(changed == 0, "{changed} bytes of its text are changed; left: {left:?}");
                println!("BPF objects that came meanwhile: {left:?}");
                break;
            }
            std::thread::sleep(Duration::from_millis(100));
        }
    }
    let done = target.stop(Signal::SIGTERM, PATIENCE)?;
    ensure!(done.stdout().contains("gcs "), "the target is ill: {}", done.stderr());
    Ok(())
}

#[test]
fn an_incident_is_recorded_and_opens() -> Result<()> {
    needs_kernel!();
    let storm = Own::new("gcstorm", go::NEW, "incident")?;
    let target = storm.start(&STORM)?;
    let folder = Folder::new("captures")?;
    let config = folder.0.join("agent.toml");
    let captures = folder.0.join("kept");
    let write = |rule: &str, pause: &str| {
        let text = format!(
            "include = [\"{rule}\"]\nsample = \"2s\"\n[capture]\ndir = \"{}\"\npause = \"{pause}\"\ndelay = \"1h\"\n\
             seconds = \"4s\"\nafter = \"1s\"\nevery = \"1h\"\ndisk = \"8M\"\n",
            captures.display()
        );
        std::fs::write(&config, text)
    };
    write("name=nobody", "1h")?;
    let mut agent = Agent::start(&["--config", &config.to_string_lossy()])?;
    agent.scrape_until(PATIENCE, "found, and left out", |s| {
        s.find("g211s_agent_targets", "excluded").is_some_and(|n| n > 0.0)
    })?;
    let unwatched = |s: &Scrape| s.find("g211s_processes", &storm.labels()).is_none();
    ensure!(unwatched(&agent.scrape()?), "not to be watched");
    // What makes no sense changes nothing, and is said.
    std::fs::write(&config, "colour = \"red\"\n")?;
    agent.proc.signal(Signal::SIGHUP)?;
    agent.proc.wait_line(|l| l.text.contains("colour"), PATIENCE)?;
    ensure!(unwatched(&agent.scrape()?), "not to be watched");
    // From here on it is, and every pause is an incident once enough is kept.
    write(&storm.rule(), "1h")?;
    agent.proc.signal(Signal::SIGHUP)?;
    agent.scrape_until(PATIENCE, "watched", |s| {
        s.find("go_memory_gc_pause_duration_seconds_count", &storm.labels())
            .is_some_and(|n| n > 0.0)
    })?;
    // Two samples, between which a stretch is whole, and a little.
    std::thread::sleep(Duration::from_millis(5500));
    write(&storm.rule(), "10us")?;
    agent.proc.signal(Signal::SIGHUP)?;
    agent.scrape_until(PATIENCE, "recorded", |s| {
        s.find("g211s_agent_captures_total", "written") == Some(1.0)
    })?;
    let pid = target.pid();
    agent.proc.stop(Signal::SIGKILL, PATIENCE)?;
    let files: Vec<PathBuf> =
        std::fs::read_dir(&captures)?.map(|e| Ok(e?.path())).collect::<Result<_>>()?;
    let [file] = &files[..] else { bail!("{files:?}") };
    let done = agent::run(&["report", &file.to_string_lossy(), "--json"])?;
    ensure!(done.code() == 0, "{}", done.stderr());
    let report = Report::parse(&done.stdout())?;
    ensure!(report.number("/target/pid")? == u64::from(pid), "whose is it?");
    let window = report.number("/window/duration_ns")?;
    ensure!((3_000_000_000..12_000_000_000).contains(&window), "{window} ns");
    let (stops, cycles) = (report.stws()?.len(), report.number("/gc/count")?);
    println!("{}: {stops} stops, {cycles} cycles in {window} ns", file.display());
    ensure!(stops >= 4 && cycles >= 2, "{stops} stops, {cycles} cycles");
    ensure!(report.number("/runqueue/count")? > 10, "no waits");
    ensure!(report.at("/accuracy/verdict")? != "disagree", "{}", report.at("/accuracy")?);
    Ok(())
}

/// One answer to each POST, whatever it is; the paths and bodies.
fn collect(listener: &TcpListener, posts: usize) -> Result<Vec<(String, Vec<u8>)>> {
    let mut all = Vec::new();
    while all.len() < posts {
        let (mut stream, _) = listener.accept()?;
        stream.set_read_timeout(Some(PATIENCE))?;
        let mut bytes = Vec::new();
        let mut chunk = [0; 8192];
        let (head, length) = loop {
            let n = stream.read(&mut chunk)?;
            ensure!(n > 0, "cut off");
            bytes.extend_from_slice(&chunk[..n]);
            if let Some(at) = bytes.windows(4).position(|w| w == b"\r\n\r\n") {
                let head = String::from_utf8(bytes[..at].to_vec())?;
                let length = head.lines().find_map(|l| l.strip_prefix("Content-Length: "));
                break (head.clone(), length.context("no length")?.parse::<usize>()?);
            }
        };
        let begin = head.len() + 4;
        while bytes.len() < begin + length {
            let n = stream.read(&mut chunk)?;
            ensure!(n > 0, "cut off");
            bytes.extend_from_slice(&chunk[..n]);
        }
        stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")?;
        let path = head.split(' ').nth(1).context("no path")?.to_owned();
        all.push((path, bytes[begin..].to_vec()));
    }
    Ok(all)
}

#[test]
fn what_is_pushed_reads_as_opentelemetry_defines_it() -> Result<()> {
    needs_kernel!();
    if !Packages::Otlp.are_there() {
        skip!("OpenTelemetry's definitions are missing: run `cargo xtask setup`");
    }
    let storm = Own::new("gcstorm", go::NEW, "pushed")?;
    let _target = storm.start(&STORM)?;
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let endpoint = format!("http://{}", listener.local_addr()?);
    let folder = Folder::new("otlp")?;
    let config = folder.0.join("agent.toml");
    std::fs::write(&config, format!("[otlp]\nendpoint = \"{endpoint}\"\ninterval = \"2s\"\n"))?;
    let config = config.to_string_lossy();
    let agent = Agent::start(&["--config", &config, "--include", &storm.rule(), "--sample", "1s"])?;
    let posts = collect(&listener, 6)?;
    let last = |path: &str| posts.iter().rev().find(|(p, _)| p == path).context(path.to_owned());
    let (metrics, logs) = (folder.0.join("metrics"), folder.0.join("logs"));
    std::fs::write(&metrics, &last("/v1/metrics")?.1)?;
    std::fs::write(&logs, &last("/v1/logs")?.1)?;
    let told = check("check_otlp.py", Some(Packages::Otlp), &[&metrics, &logs])?;
    ensure!(told["resource"]["service.name"] == "g211s", "{}", told["resource"]);
    let list = |name: &str| told[name].as_array().cloned().context(name.to_owned());
    let (points, logs) = (list("points")?, list("logs")?);
    let own = |p: &Value| p["labels"]["process.executable.name"] == storm.name.as_str();
    let of = |name: &str| {
        let point = points.iter().find(|p| p["name"] == name && own(p));
        point.with_context(|| format!("no {name}"))
    };
    for (name, kind, unit) in [
        ("go.memory.gc.pause.duration", "exponential_histogram", "s"),
        ("g211s.runqueue.delay", "exponential_histogram", "s"),
        ("g211s.stop.time", "sum", "s"),
        ("g211s.gc.cycles", "sum", "{cycle}"),
        ("go.goroutine.count", "gauge", "{goroutine}"),
        ("go.memory.gc.goal", "gauge", "By"),
    ] {
        let point = of(name)?;
        ensure!(point["kind"] == kind && point["unit"] == unit, "{point}");
    }
    // What is pushed is what is served; by now there is more of it.
    let served = agent.scrape()?;
    let labels = storm.labels();
    let pauses = of("go.memory.gc.pause.duration")?["count"].as_f64().context("no count")?;
    let now = served.value("go_memory_gc_pause_duration_seconds_count", &labels)?;
    ensure!(pauses > 0.0 && pauses <= now, "{pauses} pushed, {now} served");
    let stop = logs.iter().find(|l| l["name"] == "g211s.stop" && own(l));
    let stop = stop.with_context(|| format!("no stop among {logs:?}"))?;
    println!("{pauses} pauses; {}", stop["body"]);
    let (length, body) = (&stop["labels"]["g211s.stop.duration_ns"], stop["body"].as_str());
    ensure!(length.as_u64().is_some_and(|ns| ns > 0), "{stop}");
    ensure!(body.is_some_and(|b| !b.is_empty()), "{stop}");
    let pushed = served.value("g211s_agent_pushes_total", "done")?;
    ensure!(pushed >= 2.0, "{pushed} pushes");
    Ok(())
}

#[test]
fn programs_that_replace_themselves_and_strange_names_are_watched() -> Result<()> {
    needs_kernel!();
    let service = Own::new("service", go::NEW, "again")?;
    let storm = Own::new("gcstorm", go::NEW, "late")?;
    // What a file may be called: quotes, a line's end, braces, bytes that are no text.
    let strange = format!("g2t{}-\"x\\y}}\n{{le=\"1\",", std::process::id());
    let strange = [strange.as_bytes(), b"\xff"].concat();
    let strange = Own::named("idle", go::OLD, std::ffi::OsStr::from_bytes(&strange))?;
    let rule = format!("name=g2t{}-*", std::process::id());
    let agent = Agent::start(&[
        "--include",
        &rule,
        "--sample",
        "1s",
        "--labels",
        "executable,pid",
        "--budget",
        "50%",
    ])?;
    let again = service.start(&["-rate", "100", "-reexec-on-hup"])?;
    let _strange = strange.start(&[])?;
    // A shell that becomes a Go program when it is told to.
    let mut shell = Proc::spawn(
        Command::new("sh")
            .args(["-c", "echo ready; read x; exec \"$0\" \"$@\""])
            .arg(&storm.binary)
            .args(STORM),
    )?;
    shell.wait_line(|l| l.text == "ready", PATIENCE)?;
    let attached = |n: f64, what: &str| {
        agent.scrape_until(PATIENCE, what, |s| {
            s.find("g211s_agent_changes_total", "attached") == Some(n)
        })
    };
    attached(2.0, "the service and the strange one")?;
    writeln!(shell.stdin()?, "go")?;
    shell.wait_line(listening, PATIENCE)?;
    attached(3.0, "the shell's program")?;
    let cycles = |pid: u32, n: f64| {
        let labels = format!("process_pid=\"{pid}\"");
        agent.scrape_until(PATIENCE, &format!("cycles of {pid}"), |s| {
            s.find("g211s_gc_cycle_duration_seconds_count", &labels).is_some_and(|c| c >= n)
        })
    };
    cycles(shell.pid(), 3.0)?;
    let before = cycles(again.pid(), 3.0)?;
    let labels = format!("process_pid=\"{}\"", again.pid());
    let before = before.value("g211s_gc_cycle_duration_seconds_count", &labels)?;
    again.signal(Signal::SIGHUP)?;
    attached(4.0, "the same process with its program anew")?;
    // The runtime's count began anew, ours goes on.
    let after = cycles(again.pid(), before + 3.0)?;
    ensure!(after.find("g211s_disagreements_total", "").is_none_or(|n| n == 0.0), "{}", after.text);
    let detached = after.find("g211s_agent_changes_total", "\"detached\"");
    ensure!(detached == Some(1.0), "{detached:?} were let go");
    // Whoever replaced its program has no probes of the old one, and those of the new.
    ensure!(changed_text(again.pid())? > 0, "no probes");

    let name = format!("g2t{}-\\\"x\\\\y}}?{{le=\\\"1\\\",\u{fffd}", std::process::id());
    let labels = format!("process_executable_name=\"{name}\"");
    ensure!(after.find("g211s_processes", &labels) == Some(1.0), "{labels} in\n{}", after.text);
    judged(&after)?;
    let done = agent.proc.stop(Signal::SIGTERM, PATIENCE)?;
    ensure!(done.code() == 0, "{}: {}", done.code(), done.stderr());
    let left = changed_text(again.pid())?;
    ensure!(left == 0, "{left} probes are left");
    for target in [again, shell] {
        let done = target.stop(Signal::SIGTERM, PATIENCE)?;
        ensure!(done.code() == 0, "a target is ill: {}", done.stderr());
    }
    Ok(())
}

#[test]
fn alert_rules_are_rules() -> Result<()> {
    let file = root().join("packaging/prometheus/g211s.rules.yml");
    if let Some(said) = promtool(&["check", "rules", &file.to_string_lossy()], b"")? {
        ensure!(said.contains("SUCCESS"), "{said}");
    } else {
        skip!("promtool is missing: run `cargo xtask setup`");
    }
    Ok(())
}
