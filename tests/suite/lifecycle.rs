//! A run's life: however it ends there is a report; threads that are born meanwhile are covered;
//! a recording gives the same report; two observers do not disturb one another.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use g211s_tests::agent::{self, Attach};
use g211s_tests::report::Report;
use g211s_tests::service::{Launch, Service};
use g211s_tests::{go, needs_kernel, target_dir};
use nix::sys::signal::Signal;

fn service() -> Result<Service> {
    Launch::new("service", go::NEW).args(&["-rate", "150"]).start()
}

fn scratch(name: &str) -> Result<PathBuf> {
    let folder = target_dir().join("scratch");
    std::fs::create_dir_all(&folder)?;
    Ok(folder.join(format!("{}-{name}.g211s", std::process::id())))
}

fn interrupted_by(signal: Signal) -> Result<()> {
    let service = service()?;
    let running = Attach::new(service.pid(), Duration::from_mins(1)).start()?;
    std::thread::sleep(Duration::from_secs(2));
    let report = running.stop(signal)?;
    let seen = report.number("/window/duration_ns")?;
    ensure!((1_000_000_000..20_000_000_000).contains(&seen), "a window of {seen} ns");
    ensure!(report.number("/gc/count")? >= 1, "no cycle seen");
    ensure!(service.get("/health")? == "ok\n", "the target is ill");
    Ok(())
}

#[test]
fn ctrl_c_gives_a_report() -> Result<()> {
    needs_kernel!();
    interrupted_by(Signal::SIGINT)
}

#[test]
fn sigterm_gives_a_report() -> Result<()> {
    needs_kernel!();
    interrupted_by(Signal::SIGTERM)
}

#[test]
fn the_targets_end_gives_a_report() -> Result<()> {
    needs_kernel!();
    for signal in [Signal::SIGTERM, Signal::SIGKILL] {
        let service = service()?;
        let running = Attach::new(service.pid(), Duration::from_mins(1)).start()?;
        std::thread::sleep(Duration::from_secs(2));
        service.proc.stop(signal, Duration::from_secs(10))?;
        let report = running.report()?;
        ensure!(report.number("/gc/count")? >= 1, "no cycle seen before {signal}");
    }
    Ok(())
}

#[test]
fn threads_born_after_attach_are_covered() -> Result<()> {
    needs_kernel!();
    let service = service()?;
    // A delay over the threshold is not needed for a thread to be in the table: it ran.
    let running = Attach::new(service.pid(), Duration::from_secs(5)).start()?;
    let born: BTreeSet<u32> =
        serde_json::from_str::<Vec<u32>>(&service.get("/threads?n=6")?)?.into_iter().collect();
    let report = running.report()?;
    let known = report.threads()?;
    let unknown: Vec<_> = born.difference(&known).collect();
    ensure!(born.len() == 6 && unknown.is_empty(), "not in the table: {unknown:?} of {born:?}");
    Ok(())
}

#[test]
fn a_recording_gives_the_same_report() -> Result<()> {
    needs_kernel!();
    let service = service()?;
    let load = service.load("/work?kb=16", 4, 500)?;
    let file = scratch("same")?;
    let live = Attach::new(service.pid(), Duration::from_secs(5)).record(&file).report()?;
    drop(load);
    let replayed = agent::run(&["report", "--json", &file.to_string_lossy()])?;
    let text = agent::run(&["report", &file.to_string_lossy()])?;
    std::fs::remove_file(&file).context("no recording was written")?;
    let replayed = Report::of(&replayed)?;
    ensure!(
        serde_json::to_string(&live.without_run())?
            == serde_json::to_string(&replayed.without_run())?,
        "the recording gives another report than the run did"
    );
    ensure!(text.code() == 0 && text.stdout().lines().count() > 5, "no text: {}", text.stdout());
    Ok(())
}

#[test]
fn record_and_report_do_what_attach_does() -> Result<()> {
    needs_kernel!();
    let service = service()?;
    let file = scratch("record")?;
    let pid = service.pid().to_string();
    let recorded =
        agent::run(&["record", "--pid", &pid, "--duration", "3s", "-o", &file.to_string_lossy()])?;
    ensure!(recorded.code() == 0, "{}: {}", recorded.code(), recorded.stderr());
    let report = Report::of(&agent::run(&["report", "--json", &file.to_string_lossy()])?);
    std::fs::remove_file(&file).context("no recording was written")?;
    let report = report?;
    ensure!(report.number("/target/pid")? == u64::from(service.pid()), "another pid");
    ensure!(report.number("/gc/count")? >= 1, "no cycle seen");
    Ok(())
}

/// Both observers report, or the second is refused in one line; the first is not disturbed.
#[test]
fn a_second_observer() -> Result<()> {
    needs_kernel!();
    let service = service()?;
    let first = Attach::new(service.pid(), Duration::from_secs(5)).start()?;
    let second = Attach::new(service.pid(), Duration::from_secs(2)).start_only()?.finish()?;
    let first = first.report()?;
    ensure!(first.number("/gc/count")? >= 1, "the first observer saw nothing");
    if second.code() == 0 {
        ensure!(Report::of(&second)?.number("/gc/count")? >= 1, "the second observer saw nothing");
    } else {
        ensure!(second.stderr().lines().count() == 1, "not one line: {}", second.stderr());
    }
    ensure!(service.get("/health")? == "ok\n", "the target is ill");
    Ok(())
}

#[test]
fn two_targets_in_one_run() -> Result<()> {
    needs_kernel!();
    let (one, two) = (service()?, Launch::new("gcstorm", go::OLD).start()?);
    let other = two.pid().to_string();
    let done = Attach::new(one.pid(), Duration::from_secs(3))
        .args(&["--pid", &other])
        .start_only()?
        .finish()?;
    ensure!(done.code() == 0, "{}: {}", done.code(), done.stderr());
    for pid in [one.pid(), two.pid()] {
        ensure!(
            done.stdout().contains(&format!("\"pid\":{pid}"))
                || done.stdout().contains(&format!("\"pid\": {pid}")),
            "no {pid}"
        );
    }
    Ok(())
}

#[test]
fn an_exec_of_the_target_is_survived() -> Result<()> {
    needs_kernel!();
    // The service is replaced by a program that is not Go, under the same PID.
    let service =
        Launch::new("service", go::NEW).args(&["-rate", "100", "-exec-on-hup"]).start()?;
    let running = Attach::new(service.pid(), Duration::from_secs(30)).start()?;
    std::thread::sleep(Duration::from_secs(1));
    service.proc.signal(Signal::SIGHUP)?;
    let report = running.report()?;
    ensure!(report.number("/window/duration_ns")? < 25_000_000_000, "went on after the exec");
    Ok(())
}
