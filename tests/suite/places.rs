//! Executables that are not where they were, and processes that are somewhere else: the file deleted
//! or replaced while it runs, a mount and a PID namespace of its own. Everything works as for any
//! other process.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use g211s_tests::agent::{self, Attach};
use g211s_tests::go::{self, Mode};
use g211s_tests::needs_kernel;
use g211s_tests::proc::Proc;
use serde_json::Value;

const PATIENCE: Duration = Duration::from_secs(10);

/// A copy of the storm's executable that may be deleted.
fn copy(name: &str) -> Result<PathBuf> {
    let folder = g211s_tests::target_dir().join("workloads/places");
    std::fs::create_dir_all(&folder)?;
    let path = folder.join(format!("{name}.{}", std::process::id()));
    std::fs::copy(go::build("gcstorm", go::NEW, Mode::PieStripped)?, &path)?;
    Ok(path)
}

fn start(command: &mut Command) -> Result<Proc> {
    let mut started = Proc::spawn(command)?;
    started.wait_line(|l| l.text.starts_with("listening"), PATIENCE)?;
    Ok(started)
}

/// Attaches, counts goroutines, lists: as for any process.
fn works(pid: u32, exe: &Path) -> Result<()> {
    let report = Attach::new(pid, Duration::from_secs(4)).report()?;
    let cycles = report.number("/accuracy/gc_cycles/runtime")?;
    println!("{}: {cycles} cycles, {}", exe.display(), report.at("/target")?);
    ensure!(cycles > 10, "{cycles} cycles in 4 s are no storm");
    ensure!(report.at("/accuracy/verdict")? == "agree", "{}", report.at("/accuracy")?);
    ensure!(report.number("/accuracy/gc_cycles/ours")? == cycles, "{}", report.at("/accuracy")?);
    let told = report.at("/target/exe")?.as_str().unwrap_or_default();
    ensure!(told == exe.to_string_lossy(), "the executable is told as {told}");
    let threads = report.at("/threads/list")?.as_array().context("no threads")?;
    let without: Vec<_> = threads.iter().filter(|t| t["m_id"].is_null()).collect();
    ensure!(without.is_empty(), "threads without M: {without:?}");

    let text = |args: &[&str]| -> Result<Value> {
        let done = agent::run(args)?;
        ensure!(done.code() == 0, "{args:?}: {}", done.stderr());
        Ok(serde_json::from_str(&done.stdout())?)
    };
    let census = text(&["goroutines", "--json", "--pid", &pid.to_string()])?;
    let count = census["samples"][0]["goroutines"].as_u64();
    ensure!(count.is_some_and(|n| (1..20).contains(&n)), "{count:?} goroutines");
    let list = text(&["ps", "--json"])?;
    let process = list["processes"]
        .as_array()
        .and_then(|all| all.iter().find(|p| p["pid"] == pid))
        .context("not listed")?;
    for can in ["attach", "goroutines", "runtime"] {
        ensure!(process["can"][can]["ok"] == true, "{process}");
    }
    Ok(())
}

#[test]
fn a_deleted_executable() -> Result<()> {
    needs_kernel!();
    let path = copy("deleted")?;
    let storm = start(&mut Command::new(&path))?;
    std::fs::remove_file(&path)?;
    works(storm.pid(), &path)
}

#[test]
fn a_replaced_executable() -> Result<()> {
    needs_kernel!();
    let path = copy("replaced")?;
    let storm = start(&mut Command::new(&path))?;
    // As an update does it: another program under the old name, while the old one runs.
    let other = path.with_extension("new");
    std::fs::copy(go::build("idle", go::OLD, Mode::Plain)?, &other)?;
    std::fs::rename(&other, &path)?;
    let done = works(storm.pid(), &path);
    std::fs::remove_file(&path)?;
    done
}

/// As in a container: the executable is at a path that does not exist outside, and PIDs are others.
#[test]
fn another_mount_and_pid_namespace() -> Result<()> {
    needs_kernel!("unshare");
    let path = copy("namespace")?;
    let mut command = Command::new("unshare");
    command.args(["--mount", "--pid", "--fork", "--kill-child", "--mount-proc", "sh", "-c"]);
    command.arg(format!(
        "mount -t tmpfs none /mnt && cp {} /mnt/inside && exec /mnt/inside",
        path.display()
    ));
    let storm = start(&mut command)?;
    std::fs::remove_file(&path)?;
    let seen_inside = storm.lines().iter().any(|l| l.text == "pid 1");
    ensure!(seen_inside, "it is not in a PID namespace of its own");
    let inside = std::fs::read_to_string(format!("/proc/{0}/task/{0}/children", storm.pid()))?;
    let Some(pid) = inside.split_whitespace().next().and_then(|p| p.parse().ok()) else {
        bail!("unshare has no child");
    };
    works(pid, Path::new("/mnt/inside"))
}
