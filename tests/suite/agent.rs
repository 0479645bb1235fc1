//! `g211s agent` over services that come and go: what it serves against the services' own figures and Prometheus's own
//! tool, what it leaves behind, what it keeps, and what it pushes, as OpenTelemetry's own definitions read it.

use std::collections::BTreeSet;
use std::io::{Read as _, Write as _};
use std::net::TcpListener;
use std::os::unix::fs::FileExt as _;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use g211s_tests::go::{self, Mode};
use g211s_tests::proc::{Proc, Stream};
use g211s_tests::report::Report;
use g211s_tests::scrape::Agent;
use g211s_tests::{agent, kernel, needs_kernel, run_all, target_dir};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

const PATIENCE: Duration = Duration::from_secs(20);

/// Copies of a workload under a name that nobody else's has, so that a rule takes ours alone.
struct Own {
    binary: PathBuf,
    name: String,
}

impl Own {
    fn new(workload: &str, version: &str, what: &str) -> Result<Self> {
        let name = format!("g2t{}-{what}", std::process::id());
        let binary = std::env::temp_dir().join(&name);
        std::fs::copy(go::build(workload, version, Mode::Stripped)?, &binary)?;
        Ok(Self { binary, name })
    }

    fn rule(&self) -> String {
        format!("name={}", self.name)
    }

    fn labels(&self) -> String {
        format!("process_executable_name=\"{}\"", self.name)
    }

    fn start(&self, args: &[&str]) -> Result<Proc> {
        let mut proc = Proc::spawn(Command::new(&self.binary).args(args))?;
        let up = |l: &g211s_tests::proc::Line| {
            l.stream == Stream::Out && l.text.starts_with("listening")
        };
        proc.wait_line(up, PATIENCE)?;
        Ok(proc)
    }
}

impl Drop for Own {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.binary);
    }
}

fn scratch(name: &str) -> Result<PathBuf> {
    let folder = target_dir().join("scratch").join(format!("{}-{name}", std::process::id()));
    let _ = std::fs::remove_dir_all(&folder);
    std::fs::create_dir_all(&folder)?;
    Ok(folder)
}

/// Bytes of a process's text that are not those of its file.
fn changed_text(pid: u32) -> Result<usize> {
    let name = std::fs::read_link(format!("/proc/{pid}/exe"))?;
    let file = std::fs::read(format!("/proc/{pid}/exe"))?;
    let memory = std::fs::File::open(format!("/proc/{pid}/mem"))?;
    let mut changed = 0;
    for line in std::fs::read_to_string(format!("/proc/{pid}/maps"))?.lines() {
        let words: Vec<&str> = line.split_whitespace().collect();
        if words.len() < 6 || !words[1].contains('x') || *words[5] != *name.to_string_lossy() {
            continue;
        }
        let hex = |s: &str| u64::from_str_radix(s, 16);
        let (start, end) = words[0].split_once('-').context("a range")?;
        let (start, end, from) = (hex(start)?, hex(end)?, hex(words[2])? as usize);
        let mut there = vec![0; (end - start) as usize];
        memory.read_exact_at(&mut there, start)?;
        let here = &file[from..(from + there.len()).min(file.len())];
        changed += here.iter().zip(&there).filter(|(a, b)| a != b).count();
    }
    Ok(changed)
}

/// Prometheus's own opinion of the format, where it is installed.
fn promtool(args: &[&str], input: &[u8]) -> Result<()> {
    let Some(tool) = kernel::find("promtool") else {
        println!("skipped: promtool is not installed (Debian: prometheus)");
        return Ok(());
    };
    let mut child = Command::new(tool)
        .args(args)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()?;
    child.stdin.take().context("its input")?.write_all(input)?;
    let done = child.wait_with_output()?;
    let said = String::from_utf8_lossy(&done.stdout) + String::from_utf8_lossy(&done.stderr);
    ensure!(done.status.success(), "promtool {args:?}: {said}");
    Ok(())
}

#[test]
fn services_come_and_go_and_their_collections_are_counted() -> Result<()> {
    needs_kernel!();
    let (storm, idle) =
        (Own::new("gcstorm", go::NEW, "storm")?, Own::new("idle", go::OLD, "idle")?);
    let first = storm.start(&["-live", "8", "-rate", "200"])?;
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

    promtool(&["check", "metrics"], end.text.as_bytes())?;
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
    ensure!(after.value("g211s_agent_events_total", "g211s_outcome=\"lost\"")? == 0.0);
    ensure!(agent.proc.stop(Signal::SIGTERM, PATIENCE)?.code() == 0, "it ends by itself");
    Ok(())
}

#[test]
fn a_killed_agent_leaves_nothing_and_can_be_started_again() -> Result<()> {
    needs_kernel!("bpftool");
    let storm = Own::new("gcstorm", go::NEW, "killed")?;
    let target = storm.start(&["-live", "8", "-rate", "200"])?;
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
    let target = storm.start(&["-live", "8", "-rate", "200"])?;
    let folder = scratch("captures")?;
    let config = folder.join("agent.toml");
    let captures = folder.join("kept");
    let write = |rule: &str, pause: &str| {
        let text = format!(
            "include = [\"{rule}\"]\nsample = \"2s\"\n[capture]\ndir = \"{}\"\npause = \"{pause}\"\n\
             seconds = \"4s\"\nafter = \"1s\"\nevery = \"1h\"\ndisk = \"8M\"\n",
            captures.display()
        );
        std::fs::write(&config, text)
    };
    write("name=nobody", "1h")?;
    let agent = Agent::start(&["--config", &config.to_string_lossy()])?;
    std::thread::sleep(Duration::from_secs(3));
    ensure!(
        agent.scrape()?.find("g211s_processes", &storm.labels()).is_none(),
        "not to be watched"
    );
    // From here on it is, and every pause is an incident once enough is kept.
    write(&storm.rule(), "1h")?;
    kill(Pid::from_raw(agent.proc.pid() as i32), Signal::SIGHUP)?;
    agent.scrape_until(PATIENCE, "watched", |s| {
        s.find("go_memory_gc_pause_duration_seconds_count", &storm.labels())
            .is_some_and(|n| n > 0.0)
    })?;
    std::thread::sleep(Duration::from_secs(6));
    write(&storm.rule(), "10us")?;
    kill(Pid::from_raw(agent.proc.pid() as i32), Signal::SIGHUP)?;
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
    std::fs::remove_dir_all(folder)?;
    Ok(())
}

/// One answer to each POST, whatever it is; the paths and bodies.
fn collect(listener: &TcpListener, posts: usize) -> Result<Vec<(String, Vec<u8>)>> {
    let mut all = Vec::new();
    while all.len() < posts {
        let (mut stream, _) = listener.accept()?;
        stream.set_read_timeout(Some(PATIENCE))?;
        let mut bytes = Vec::new();
        let mut chunk = [0; 65_536];
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

/// What official definitions make of a request (stdin), in lines.
const DECODE: &str = r#"
import sys
kind, data = sys.argv[1], sys.stdin.buffer.read()
if kind == "metrics":
    from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest as R
    r = R.FromString(data)
    assert r.ByteSize() == len(data), "fields that are not known"
    for rm in r.resource_metrics:
        print("resource", {a.key: a.value.string_value for a in rm.resource.attributes}["service.name"])
        for sm in rm.scope_metrics:
            for m in sm.metrics:
                what = m.WhichOneof("data")
                for p in getattr(m, what).data_points:
                    names = ",".join(a.key + "=" + a.value.string_value for a in p.attributes)
                    if what == "exponential_histogram":
                        assert p.count == p.zero_count + sum(p.positive.bucket_counts), m.name
                        print(what, m.name, m.unit, names, p.count, p.sum)
                    else:
                        print(what, m.name, m.unit, names, p.as_double)
else:
    from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest as R
    r = R.FromString(data)
    for rl in r.resource_logs:
        for sl in rl.scope_logs:
            for l in sl.log_records:
                a = {a.key: a.value.string_value or a.value.int_value for a in l.attributes}
                print("log", l.event_name, a.get("g211s.stop.duration_ns", 0), a["process.executable.name"],
                      l.time_unix_nano, "|", l.body.string_value)
"#;

fn decode(kind: &str, body: &[u8]) -> Result<String> {
    let mut child = Command::new("python3")
        .args(["-c", DECODE, kind])
        .env("PYTHONPATH", std::env::var("G211S_OTLP_PYTHON").unwrap_or_default())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()?;
    child.stdin.take().context("its input")?.write_all(body)?;
    let done = child.wait_with_output()?;
    ensure!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    Ok(String::from_utf8(done.stdout)?)
}

#[test]
fn what_is_pushed_reads_as_opentelemetry_defines_it() -> Result<()> {
    needs_kernel!();
    if !run_all() {
        println!("skipped: with --all only (it needs the Python package opentelemetry-proto)");
        return Ok(());
    }
    let storm = Own::new("gcstorm", go::NEW, "pushed")?;
    let _target = storm.start(&["-live", "8", "-rate", "200"])?;
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let endpoint = format!("http://{}", listener.local_addr()?);
    let config = scratch("otlp")?.join("agent.toml");
    std::fs::write(&config, format!("[otlp]\nendpoint = \"{endpoint}\"\ninterval = \"3s\"\n"))?;
    let agent = Agent::start(&[
        "--config",
        &config.to_string_lossy(),
        "--include",
        &storm.rule(),
        "--sample",
        "1s",
    ])?;
    let posts = collect(&listener, 6)?;
    let last = |path: &str| posts.iter().rev().find(|(p, _)| p == path).context(path.to_owned());
    let metrics = decode("metrics", &last("/v1/metrics")?.1)?;
    let name = format!("process.executable.name={}", storm.name);
    let of = |metric: &str| {
        let line =
            metrics.lines().find(|l| l.contains(&format!(" {metric} ")) && l.contains(&name));
        line.with_context(|| format!("no {metric} in\n{metrics}"))
    };
    ensure!(of("go.memory.gc.pause.duration")?.starts_with("exponential_histogram "));
    ensure!(of("g211s.stop.time")?.starts_with("sum "));
    ensure!(of("go.goroutine.count")?.starts_with("gauge "));
    let logs = decode("logs", &last("/v1/logs")?.1)?;
    println!("{}", logs.lines().next().unwrap_or_default());
    ensure!(
        logs.lines().any(|l| l.contains("log g211s.stop ") && l.contains(&storm.name)),
        "{logs}"
    );
    let pushed = agent.scrape()?.value("g211s_agent_pushes_total", "done")?;
    ensure!(pushed >= 2.0, "{pushed} pushes");
    Ok(())
}
