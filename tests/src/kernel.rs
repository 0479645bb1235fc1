//! What this machine lets us do, and what it is holding for us: privileges, tracefs, tools, and
//! the BPF objects that a run may have left behind.

use std::collections::BTreeSet;
use std::os::unix::fs::FileExt as _;
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

/// Of [`bpf_objects`], those that process `pid` holds open (its `fdinfo` names them).
pub fn bpf_objects_of(pid: u32) -> Result<BTreeSet<String>> {
    let folder = format!("/proc/{pid}/fdinfo");
    let mut own = BTreeSet::new();
    for entry in std::fs::read_dir(&folder).with_context(|| folder.clone())? {
        // A file may be closed between the listing and the reading.
        let Ok(text) = std::fs::read_to_string(entry?.path()) else { continue };
        for kind in ["prog", "link", "map"] {
            let id = text.lines().find_map(|l| l.strip_prefix(&format!("{kind}_id:")));
            own.extend(id.map(|id| format!("{kind} {}", id.trim())));
        }
    }
    Ok(own)
}

/// Of these offsets in the executable of process `pid`, those whose byte in its memory differs from
/// the file's: where a breakpoint is set.
pub fn breakpoints(pid: u32, file_offsets: &[u64]) -> Result<Vec<u64>> {
    let exe = std::fs::File::open(format!("/proc/{pid}/exe")).context("the executable")?;
    let memory = std::fs::File::open(format!("/proc/{pid}/mem")).context("the memory")?;
    let name = std::fs::read_link(format!("/proc/{pid}/exe"))?;
    let maps = std::fs::read_to_string(format!("/proc/{pid}/maps"))?;
    let hex = |s: &str| u64::from_str_radix(s, 16).ok();
    let text: Vec<(u64, u64, u64)> = maps
        .lines()
        .filter(|l| l.ends_with(&*name.to_string_lossy()))
        .filter_map(|l| {
            let mut words = l.split_whitespace();
            let (start, end) = words.next()?.split_once('-')?;
            let (mode, offset) = (words.next()?, words.next()?);
            let (start, end) = (hex(start)?, hex(end)?);
            mode.contains('x').then_some((start, end - start, hex(offset)?))
        })
        .collect();
    let mut set = Vec::new();
    for &offset in file_offsets {
        let (start, _, from) = text
            .iter()
            .find(|(_, len, from)| (*from..from + len).contains(&offset))
            .with_context(|| format!("offset {offset:#x} is not in the text of {pid}"))?;
        let (mut there, mut here) = ([0], [0]);
        memory.read_exact_at(&mut there, start + offset - from)?;
        exe.read_exact_at(&mut here, offset)?;
        if there != here {
            set.push(offset);
        }
    }
    Ok(set)
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
