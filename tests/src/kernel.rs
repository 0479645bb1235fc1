//! What this machine lets us do, and what it is holding for us: privileges, tracefs, tools, and
//! the BPF objects that a run may have left behind.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

use crate::proc::output_of;

/// Makes sure that BPF programs can be loaded and the tools are there, or says why not.
pub fn prepare(tools: &[&str]) -> Result<()> {
    ensure!(nix::unistd::geteuid().is_root(), "not root");
    ensure!(Path::new("/sys/kernel/btf/vmlinux").exists(), "this kernel has no BTF");
    mount_tracefs()?;
    for tool in tools {
        ensure!(find(tool).is_some(), "{tool} is missing: run `cargo xtask setup`");
    }
    Ok(())
}

/// Where a program is: on the PATH, or where administrators' programs are.
pub fn find(tool: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .chain(["/usr/sbin".into(), "/sbin".into(), crate::root().join(".toolchain/bin")])
        .map(|folder| folder.join(tool))
        .find(|file| file.is_file())
}

/// A command for a tool that [`find`] finds.
pub fn tool(name: &str) -> Result<Command> {
    Ok(Command::new(find(name).with_context(|| format!("{name} is missing"))?))
}

fn mount_tracefs() -> Result<()> {
    const TRACING: &str = "/sys/kernel/tracing";
    if Path::new(TRACING).join("events").exists() {
        return Ok(());
    }
    output_of(Command::new("mount").args(["-t", "tracefs", "none", TRACING]))
        .context("tracefs cannot be mounted")?;
    Ok(())
}

/// Ids of BPF objects that exist now, e.g. `prog 12` and `link 3`.
pub fn bpf_objects() -> Result<BTreeSet<String>> {
    let mut all = BTreeSet::new();
    for kind in ["prog", "link", "map"] {
        for object in shown(kind)? {
            if let Some(id) = object["id"].as_u64() {
                all.insert(format!("{kind} {id}"));
            }
        }
    }
    Ok(all)
}

/// Of [`bpf_objects`], those that process `pid` holds (where bpftool can tell, else none).
pub fn bpf_objects_of(pid: u32) -> Result<BTreeSet<String>> {
    let mut own = BTreeSet::new();
    for kind in ["prog", "link", "map"] {
        for object in shown(kind)? {
            let holders = object["pids"].as_array().map(Vec::as_slice).unwrap_or_default();
            if holders.iter().any(|holder| holder["pid"] == pid)
                && let Some(id) = object["id"].as_u64()
            {
                own.insert(format!("{kind} {id}"));
            }
        }
    }
    Ok(own)
}

fn shown(kind: &str) -> Result<Vec<Value>> {
    let text = output_of(tool("bpftool")?.args([kind, "show", "-j"]))?;
    if text.trim().is_empty() {
        return Ok(Vec::new());
    }
    match serde_json::from_str(&text).with_context(|| format!("bpftool {kind} show"))? {
        Value::Array(objects) => Ok(objects),
        other => bail!("bpftool {kind} show: {other}"),
    }
}

/// Number of files that a process has open.
pub fn open_files(pid: u32) -> Result<usize> {
    let folder = format!("/proc/{pid}/fd");
    Ok(std::fs::read_dir(&folder).with_context(|| folder.clone())?.count())
}

/// Threads of a process.
pub fn threads(pid: u32) -> Result<BTreeSet<u32>> {
    let folder = format!("/proc/{pid}/task");
    let names = std::fs::read_dir(&folder).with_context(|| folder.clone())?;
    Ok(names.filter_map(|e| e.ok()?.file_name().to_str()?.parse().ok()).collect())
}
