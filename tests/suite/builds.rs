//! Executables as others build them: optimised by a profile, with function names taken out, without a Go
//! version that is known. What cannot work is refused by feature, with the reason; the rest goes on.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use g211s_tests::agent::{self, Attach};
use g211s_tests::go::{self, Mode};
use g211s_tests::proc::Proc;
use g211s_tests::report::Report;
use g211s_tests::{needs_kernel, run_all};
use serde_json::Value;

/// A copy of the GC storm's executable, changed. Removed when dropped.
struct Copy(PathBuf);

impl Copy {
    fn of(
        name: &str,
        version: &str,
        change: impl FnOnce(&mut Vec<u8>) -> Result<()>,
    ) -> Result<Self> {
        let folder = g211s_tests::target_dir().join("workloads/builds");
        std::fs::create_dir_all(&folder)?;
        let path = folder.join(format!("{name}.{}", std::process::id()));
        let original = go::build("gcstorm", version, Mode::Stripped)?;
        // Its permissions come with it.
        std::fs::copy(&original, &path)?;
        let mut bytes = std::fs::read(&original)?;
        change(&mut bytes)?;
        std::fs::write(&path, bytes)?;
        Ok(Self(path))
    }

    fn start(&self) -> Result<Proc> {
        start(&self.0)
    }
}

impl Drop for Copy {
    fn drop(&mut self) {
        // It lies in the build folder; what stays is in nobody's way.
        let _ = std::fs::remove_file(&self.0);
    }
}

fn start(binary: &Path) -> Result<Proc> {
    let mut started = Proc::spawn(&mut Command::new(binary))?;
    started.wait_line(|l| l.text.starts_with("listening"), Duration::from_secs(10))?;
    Ok(started)
}

/// Takes the names of functions out of an executable: each whole name that `which` says.
fn rename(bytes: &mut [u8], which: impl Fn(&str) -> bool) -> usize {
    let mut renamed = 0;
    for name in bytes.split_mut(|&b| b == 0) {
        if std::str::from_utf8(name).is_ok_and(&which) {
            name.fill(b'z');
            renamed += 1;
        }
    }
    renamed
}

fn attach(pid: u32) -> Result<Report> {
    Attach::new(pid, Duration::from_secs(4)).report()
}

fn lacks(report: &Report) -> Result<Vec<String>> {
    let list = report.at("/target/unavailable")?.as_array().context("no list")?;
    let names = list.iter().filter_map(|u| u["feature"].as_str());
    // The cgroup of the tests and the kernel are not their matter.
    Ok(names.filter(|n| !["throttling", "interrupts"].contains(n)).map(str::to_owned).collect())
}

/// The kernel's part works, and nothing of Go's is claimed.
fn only_the_kernels_part(pid: u32, why: &str) -> Result<()> {
    let report = attach(pid)?;
    ensure!(lacks(&report)? == ["go_probes", "stw", "p_held"], "{:?}", lacks(&report)?);
    let list = report.at("/target/unavailable")?.as_array().context("no list")?;
    let probes = list.iter().find(|u| u["feature"] == "go_probes").context("not listed")?;
    let said = probes["why"].as_str().unwrap_or_default();
    ensure!(said.contains(why), "{said}");
    ensure!(report.number("/runqueue/wakeup/count")? > 100, "{}", report.at("/runqueue")?);
    ensure!(report.number("/netpoll/blocking/slept")? > 0, "{}", report.at("/netpoll")?);
    ensure!(report.number("/gc/count")? == 0 && report.at("/accuracy/verdict")? != "agree", "Go");

    let text = Attach::new(pid, Duration::from_secs(1)).as_text().start_only()?.finish()?;
    let text = text.stdout();
    ensure!(text.contains("GC cycles and pauses cannot be seen here"), "{text}");
    ensure!(!text.contains(", no pause"), "{text}");

    let id = pid.to_string();
    let census = agent::run(&["goroutines", "--pid", &id])?;
    ensure!(census.code() == 1 && census.stderr().lines().count() == 1, "{}", census.stderr());
    let list: Value = serde_json::from_str(&agent::run(&["ps", "--json"])?.stdout())?;
    let listed = list["processes"].as_array().context("no processes")?;
    let process = listed.iter().find(|p| p["pid"] == pid).context("not listed")?;
    ensure!(process["can"]["attach"]["ok"] == false, "{process}");
    let doctor = agent::run(&["doctor", "--pid", &id])?;
    ensure!(doctor.stdout().contains(why), "{}", doctor.stdout());
    Ok(())
}

/// Which functions such a build inlines is the profile's choice. Where it is one that begins or ends
/// stops, they are not measured and that is said; in no case are some of them missed in silence.
#[test]
fn optimised_by_a_profile() -> Result<()> {
    needs_kernel!();
    let mut versions = vec![go::OLD, go::NEW];
    if run_all() {
        versions.push(go::MIDDLE);
        versions.extend(go::OTHERS);
    }
    for version in versions {
        let storm = start(&go::build("gcstorm", version, Mode::Pgo)?)?;
        let report = attach(storm.pid())?;
        let (cycles, accuracy) = (report.number("/gc/count")?, report.at("/accuracy")?);
        println!("Go {version} with a profile: {cycles} cycles, {}", accuracy["verdict"]);
        let gone = report.at("/target/unavailable")?.as_array().context("no list")?;
        let inlined = gone.iter().find(|u| {
            let edge = u["feature"] == "stw_stop" || u["feature"] == "stw_start";
            edge && u["why"].as_str().is_some_and(|why| why.contains("is inlined into"))
        });
        if let Some(inlined) = inlined {
            println!("  {inlined}");
            ensure!(cycles == 0 && accuracy["verdict"] == "unknown", "{accuracy}");
            ensure!(report.number("/runtime/gc/cycles")? > 10, "{}", report.at("/runtime/gc")?);
        } else {
            ensure!(cycles > 10 && accuracy["verdict"] == "agree", "{accuracy}");
        }
    }
    Ok(())
}

#[test]
fn two_names_less_are_two_features_less() -> Result<()> {
    needs_kernel!();
    let copy = Copy::of("less", go::NEW, |bytes| {
        let gone = ["runtime.gcStart", "runtime.gcMarkTermination"];
        ensure!(rename(bytes, |name| gone.contains(&name)) == 2, "not renamed");
        Ok(())
    })?;
    let storm = copy.start()?;
    let report = attach(storm.pid())?;
    ensure!(lacks(&report)? == ["gc_start", "gc_mark_termination"], "{:?}", lacks(&report)?);
    let accuracy = report.at("/accuracy")?;
    ensure!(accuracy["verdict"] == "agree", "{accuracy}");
    ensure!(report.number("/accuracy/gc_cycles/ours")? > 10, "{accuracy}");
    Ok(())
}

#[test]
fn no_names_at_all() -> Result<()> {
    needs_kernel!();
    let copy = Copy::of("none", go::NEW, |bytes| {
        let renamed = rename(bytes, |name| name.starts_with("runtime."));
        ensure!(renamed > 1000, "{renamed} renamed");
        Ok(())
    })?;
    only_the_kernels_part(copy.start()?.pid(), "names none of them")
}

/// As an obfuscator leaves it, and as a Go that is too old writes it.
#[test]
fn a_version_of_which_nothing_is_known() -> Result<()> {
    needs_kernel!();
    for (written, why) in [("unknown ", "unknown Go version"), ("go1.19.8", "from Go 1.21 on")] {
        let copy = Copy::of("version", go::NEW, |bytes| {
            let find = |bytes: &[u8], what: &[u8]| {
                bytes.windows(what.len()).position(|w| w == what).context("not found")
            };
            let head = find(bytes, b"\xff Go buildinf:")?;
            let at = head + find(&bytes[head..], go::NEW.as_bytes())? - 2;
            bytes[at..at + written.len()].copy_from_slice(written.as_bytes());
            Ok(())
        })?;
        only_the_kernels_part(copy.start()?.pid(), why)?;
    }
    Ok(())
}
