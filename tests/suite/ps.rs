//! `g211s ps` against processes that we started.

use std::os::unix::process::CommandExt as _;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use g211s_tests::go::{self, Mode};
use g211s_tests::proc::Proc;
use g211s_tests::service::Launch;
use g211s_tests::{agent, needs_kernel};
use serde_json::Value;

const NOBODY: u32 = 65_534;

fn list() -> Result<Value> {
    let done = agent::run(&["ps", "--json"])?;
    ensure!(done.code() == 0, "{}: {}", done.code(), done.stderr());
    let json: Value = serde_json::from_str(&done.stdout())?;
    ensure!(json["schema"] == "g211s.ps/1", "{}", json["schema"]);
    Ok(json)
}

fn of(list: &Value, pid: u32) -> Option<&Value> {
    list["processes"].as_array()?.iter().find(|p| p["pid"] == pid)
}

#[test]
fn go_processes_and_no_others_are_listed() -> Result<()> {
    needs_kernel!();
    let mut sleep = Proc::spawn(Command::new("sleep").arg("1000"))?;
    let mut services = Vec::new();
    for version in [go::NEW, go::OLD] {
        for mode in Mode::ALL {
            let launch = Launch::new("census", version).mode(mode);
            let launch = launch.args(&["-chan", "99", "-gc", "100ms"]).env("GOMAXPROCS", "3");
            services.push((version, mode, launch.start()?));
        }
    }
    std::thread::sleep(Duration::from_millis(300));
    let list = list()?;
    ensure!(of(&list, sleep.pid()).is_none(), "sleep is no Go program");
    ensure!(of(&list, std::process::id()).is_none(), "this test is no Go program");
    ensure!(sleep.poll()?.is_none(), "sleep ended");
    for (version, mode, service) in &services {
        let what = format!("Go {version}, {}", mode.name());
        let process = of(&list, service.pid()).with_context(|| format!("{what} is missing"))?;
        ensure!(process["comm"] == "census", "{what}: {process}");
        ensure!(process["exe"] == *service.binary.to_string_lossy(), "{what}: {process}");
        ensure!(process["go_version"] == format!("go{version}"), "{what}: {process}");
        ensure!(process["module"] == "g211s.test/census", "{what}: {process}");
        ensure!(process["gomaxprocs"]["value"] == 3, "{what}: {process}");
        // main, the collector's starter and 99.
        ensure!(process["goroutines"]["value"] == 101, "{what}: {process}");
        let heap = process["live_heap_bytes"]["value"].as_u64().unwrap_or(0);
        ensure!((10_000..100_000_000).contains(&heap), "{what}: {process}");
        for can in ["attach", "goroutines", "runtime"] {
            ensure!(process["can"][can]["ok"] == true, "{what}: {process}");
        }
        let words = process["link_mode"].to_string();
        ensure!(words.contains("pie") == mode.name().contains("pie"), "{what}: {words}");
        ensure!(words.contains("stripped") == mode.name().contains("stripped"), "{what}: {words}");
    }
    let seen = |key: &str| list["seen"][key].as_u64().unwrap_or(0);
    ensure!(
        seen("go") == list["processes"].as_array().map_or(0, Vec::len) as u64,
        "{}",
        list["seen"]
    );
    let sum: u64 = ["go", "other", "unreadable", "ended"].iter().map(|k| seen(k)).sum();
    ensure!(seen("processes") == sum && seen("other") > 0, "{}", list["seen"]);
    Ok(())
}

/// A user who may look at nothing is told so.
#[test]
fn what_may_not_be_looked_at_is_counted() -> Result<()> {
    needs_kernel!();
    let copy = PathBuf::from(format!("/tmp/g211s-ps-{}", std::process::id()));
    std::fs::copy(agent::binary()?, &copy)?;
    let service = Launch::new("census", go::NEW).start()?;
    let run = |args: &[&str]| {
        let mut command = Command::new(&copy);
        command.args(args).uid(NOBODY).gid(NOBODY).current_dir("/");
        Proc::spawn(&mut command).and_then(|p| p.finish(Duration::from_secs(20)))
    };
    let (json, text) = (run(&["ps", "--json"]), run(&["ps"]));
    std::fs::remove_file(&copy)?;
    let (json, text) = (json?, text?);
    ensure!(json.code() == 0 && text.code() == 0, "{}{}", json.stderr(), text.stderr());
    let list: Value = serde_json::from_str(&json.stdout())?;
    ensure!(of(&list, service.pid()).is_none(), "seen without the right to");
    ensure!(list["seen"]["unreadable"].as_u64().unwrap_or(0) > 0, "{}", list["seen"]);
    ensure!(text.stdout().contains("as root"), "{}", text.stdout());
    Ok(())
}

/// A thousand processes in a second of CPU, most of them of the same few executables.
#[test]
fn a_thousand_processes_in_a_second() -> Result<()> {
    needs_kernel!();
    let idle = go::build("idle", go::NEW, Mode::Stripped)?;
    let mut processes = Vec::new();
    for i in 0..1000 {
        let mut command = if i % 10 == 0 { Command::new(&idle) } else { Command::new("sleep") };
        if i % 10 != 0 {
            command.arg("1000");
        }
        processes.push(Proc::spawn(command.env("GOMAXPROCS", "1"))?);
    }
    std::thread::sleep(Duration::from_secs(1));
    let began = cpu_of_children()?;
    let list = list()?;
    let took = cpu_of_children()?.saturating_sub(began);
    println!("{}: {took:?} of CPU", list["seen"]);
    ensure!(list["seen"]["processes"].as_u64().unwrap_or(0) >= 1000, "{}", list["seen"]);
    ensure!(list["seen"]["go"].as_u64().unwrap_or(0) >= 100, "{}", list["seen"]);
    ensure!(took < Duration::from_secs(1), "{took:?} of CPU");
    Ok(())
}

/// CPU time of the children that have ended and were waited for.
fn cpu_of_children() -> Result<Duration> {
    use nix::sys::resource::{UsageWho, getrusage};
    let usage = getrusage(UsageWho::RUSAGE_CHILDREN)?;
    let time = |t: nix::sys::time::TimeVal| {
        Duration::from_micros((t.tv_sec() * 1_000_000 + t.tv_usec()).unsigned_abs())
    };
    Ok(time(usage.user_time()) + time(usage.system_time()))
}
