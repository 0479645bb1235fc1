//! Stripped, PIE and older builds of the same service give the same report as the plain one.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use g211s_tests::agent::{self, Attach};
use g211s_tests::go::{self, Mode};
use g211s_tests::needs_kernel;
use g211s_tests::report::Report;
use g211s_tests::service::Launch;
use serde_json::Value;

fn observe(version: &str, mode: Mode) -> Result<Report> {
    let service = Launch::new("service", version).mode(mode).args(&["-rate", "150"]).start()?;
    let load = service.load("/work?kb=16", 2, 300)?;
    let report = Attach::new(service.pid(), Duration::from_secs(4)).report()?;
    let load = load.stop()?;
    ensure!(load.errors == 0, "{} requests failed: {}", load.errors, load.first_error);
    ensure!(report.number("/gc/count")? >= 3, "{}: too few cycles", mode.name());
    ensure!(report.number("/target/pid")? == u64::from(service.pid()), "another pid");
    let exe = report.at("/target/exe")?.as_str().context("target.exe")?;
    ensure!(exe == service.binary.to_string_lossy(), "target.exe is {exe}");
    let go_version = report.at("/target/go_version")?.as_str().context("target.go_version")?;
    ensure!(go_version == format!("go{version}"), "target.go_version is {go_version}");
    Ok(report)
}

fn same_shape(version: &str) -> Result<()> {
    let plain = observe(version, Mode::Plain)?;
    for mode in Mode::ALL.into_iter().filter(|&m| m != Mode::Plain) {
        let differences = observe(version, mode)?.shape().differences(&plain.shape());
        ensure!(differences.is_empty(), "Go {version}, {}: {differences:?}", mode.name());
    }
    Ok(())
}

#[test]
fn go_1_27() -> Result<()> {
    needs_kernel!();
    same_shape(go::NEW)
}

#[test]
fn go_1_21() -> Result<()> {
    needs_kernel!();
    same_shape(go::OLD)
}

#[test]
fn every_promised_key_is_there() -> Result<()> {
    needs_kernel!();
    let report = observe(go::NEW, Mode::Stripped)?;
    for key in [
        "/schema",
        "/target/pid",
        "/target/exe",
        "/target/go_version",
        "/window/duration_ns",
        "/runqueue/count",
        "/runqueue/p50_ns",
        "/runqueue/p99_ns",
        "/runqueue/max_ns",
        "/runqueue/total_ns",
        "/runqueue/wakeup/count",
        "/runqueue/preempted/count",
        "/gc/count",
        "/gc/cycles/0/start_ns",
        "/gc/cycles/0/duration_ns",
        "/gc/cycles/0/mark_ns",
        "/stw/0/laggard_tid",
        "/netpoll/blocking",
        "/netpoll/late_wakes",
        "/netpoll/nonblocking",
        "/correlation",
        "/events/received",
        "/events/lost",
        "/cost",
    ] {
        report.at(key)?;
    }
    for stw in report.stws()? {
        ensure!(stw.stopping_ns + stw.stopped_ns == stw.total_ns, "phases do not add up: {stw:?}");
        ensure!(stw.explained_ns + stw.unexplained_ns == stw.total_ns, "unaccounted for: {stw:?}");
    }
    Ok(())
}

#[test]
fn doctor_answers_for_a_target() -> Result<()> {
    needs_kernel!();
    let service = Launch::new("service", go::NEW).start()?;
    let pid = service.pid().to_string();
    let done = agent::run(&["doctor", "--pid", &pid, "--json"])?;
    ensure!(done.code() == 0, "{}: {}", done.code(), done.stderr());
    let json: Value = serde_json::from_str(&done.stdout())?;
    ensure!(json.to_string().contains(&format!("go{}", go::NEW)), "no Go version in {json}");
    ensure!(agent::run(&["doctor"])?.code() == 0, "doctor without a target");
    Ok(())
}
