//! What is there: the Rust that can build for BPF, its linker, Go, and the tests' tools.
//!
//! The contract with g211s-userspace's build script, which builds the eBPF object: cargo and rustc
//! are `/usr/bin/cargo` and `/usr/bin/rustc` (with `RUSTC_BOOTSTRAP=1`) where their sources are
//! under `/usr/lib/rustlib/src`, else rustup's nightly with `rust-src`; the linker is
//! `.toolchain/bin/bpf-linker`, else the one on the PATH.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};
use g211s_tests::{kernel, root};

/// The project's own folder for tools.
pub(crate) fn folder() -> PathBuf {
    root().join(".toolchain")
}

/// A Rust that can build `core` from source.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum BpfRust {
    /// The distribution's.
    System,
    /// rustup's nightly.
    Nightly,
}

impl BpfRust {
    /// The one that the build will use.
    pub(crate) fn find() -> Option<Self> {
        if has_core(Path::new("/usr")) && Path::new("/usr/bin/cargo").exists() {
            return Some(Self::System);
        }
        let home = std::env::var_os("RUSTUP_HOME").map_or_else(
            || std::env::home_dir().unwrap_or_default().join(".rustup"),
            PathBuf::from,
        );
        let toolchains = std::fs::read_dir(home.join("toolchains")).ok()?;
        let nightly = |entry: &std::fs::DirEntry| {
            entry.file_name().to_string_lossy().starts_with("nightly-") && has_core(&entry.path())
        };
        toolchains.flatten().any(|entry| nightly(&entry)).then_some(Self::Nightly)
    }

    /// As a reader knows it.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::System => "Debian's rustc",
            Self::Nightly => "rustup's nightly",
        }
    }
}

fn has_core(sysroot: &Path) -> bool {
    sysroot.join("bin/rustc").exists()
        && sysroot.join("lib/rustlib/src/rust/library/core/src/lib.rs").exists()
}

/// The linker, if there is one that runs here.
pub(crate) fn bpf_linker() -> Option<PathBuf> {
    let own = folder().join("bin/bpf-linker");
    let runs = |file: &PathBuf| quietly(Command::new(file).arg("--version"));
    Some(own).filter(runs).or_else(|| kernel::find("bpf-linker").filter(runs))
}

/// Whether cargo-nextest can be called.
pub(crate) fn has_nextest() -> bool {
    kernel::find("cargo-nextest").is_some()
}

/// Whether a command succeeds; what it writes is nobody's business.
pub(crate) fn quietly(command: &mut Command) -> bool {
    let command = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    command.status().is_ok_and(|status| status.success())
}

/// The cargo that runs us, in the project's folder, with the project's own tools first.
pub(crate) fn cargo() -> Result<Command> {
    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    let path = std::env::var_os("PATH").unwrap_or_default();
    let own = std::iter::once(folder().join("bin"));
    let path = std::env::join_paths(own.chain(std::env::split_paths(&path))).context("PATH")?;
    cargo.current_dir(root()).env("PATH", path);
    // Set by the cargo that runs us, about ourselves.
    for key in ["CARGO_MANIFEST_DIR", "CARGO_MANIFEST_PATH", "CARGO_PKG_NAME", "CARGO_PKG_VERSION"]
    {
        cargo.env_remove(key);
    }
    Ok(cargo)
}

/// Runs cargo with these arguments, its output going where ours goes.
pub(crate) fn run_cargo(args: &[&str]) -> Result<()> {
    run_visibly(cargo()?.args(args))
}

/// Runs a command, its output going where ours goes.
pub(crate) fn run_visibly(command: &mut Command) -> Result<()> {
    let words: Vec<_> = command.get_args().map(|a| a.to_string_lossy().into_owned()).collect();
    let status = command.status().context("cannot start cargo")?;
    ensure!(status.success(), "`cargo {}` failed", words.join(" "));
    Ok(())
}

/// Builds the `g211s` binary; where it is.
pub(crate) fn build_binary() -> Result<PathBuf> {
    run_cargo(&["build", "--release", "--package", "g211s-userspace"])?;
    Ok(g211s_tests::target_dir().join("release/g211s"))
}

/// `cargo xtask build`.
pub(crate) fn build() -> Result<()> {
    let binary = build_binary()?;
    println!("built {}", binary.display());
    Ok(())
}
