//! Builds the eBPF object and hands its path to the library as `G211S_BPF_OBJECT`, which embeds it.
//!
//! Where no eBPF toolchain is installed (`cargo check` on a laptop), an empty stub is written
//! and a warning says so: the result type-checks, and says at run time what it lacks.

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::Command,
};

const TARGET: &str = "bpfel-unknown-none";

/// Variables of the outer cargo that would leak the host's compiler or flags into the BPF build.
const SCRUB: &[&str] = &[
    "RUSTC",
    "RUSTC_WRAPPER",
    "RUSTC_WORKSPACE_WRAPPER",
    "RUSTDOC",
    "RUSTFLAGS",
    "CARGO_ENCODED_RUSTFLAGS",
    "RUSTUP_TOOLCHAIN",
    "CARGO_BUILD_TARGET",
    "CARGO_MAKEFLAGS",
    "MAKEFLAGS",
    "CARGO",
    "RUSTC_LINKER",
];

struct Toolchain {
    name: &'static str,
    cargo: Command,
}

fn main() {
    let manifest = PathBuf::from(env::var_os("CARGO_MANIFEST_DIR").expect("cargo sets it"));
    let out = PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets it"));
    let root = manifest.parent().expect("the package lies in the workspace").to_path_buf();
    let ebpf = root.join("g211s-ebpf");
    println!("cargo::rerun-if-changed={}", ebpf.display());
    println!("cargo::rerun-if-changed={}", root.join("Cargo.lock").display());
    println!("cargo::rerun-if-changed={}", root.join(".toolchain/bin").display());
    println!("cargo::rerun-if-env-changed=G211S_BPF_SKIP");

    let object = out.join("g211s-bpf.o");
    println!("cargo::rustc-env=G211S_BPF_OBJECT={}", object.display());
    let stub = |why: &str| {
        println!("cargo::warning=eBPF object not built ({why}): this build cannot attach");
        fs::write(&object, []).expect("OUT_DIR is writable");
    };
    if env::var_os("G211S_BPF_SKIP").is_some() {
        return stub("G211S_BPF_SKIP is set");
    }
    let Some(linker) = find_linker(&root) else {
        return stub("no bpf-linker; run `cargo xtask setup`");
    };
    let Some(mut toolchain) = find_toolchain() else {
        return stub("no toolchain with rust-src; run `cargo xtask setup`");
    };
    let target_dir = out.join("bpf-target");
    let status = toolchain
        .cargo
        .current_dir(&root)
        .args(["build", "--package", "g211s-ebpf", "--bin", "g211s-bpf", "--profile", "bpf"])
        .args(["--target", TARGET, "-Z", "build-std=core"])
        .arg("--target-dir")
        .arg(&target_dir)
        .env(
            "CARGO_TARGET_BPFEL_UNKNOWN_NONE_RUSTFLAGS",
            format!(
                "-C linker={} -C link-arg=--btf -C debuginfo=2 -C overflow-checks=off",
                linker.display()
            ),
        )
        .status()
        .unwrap_or_else(|e| panic!("{} did not start: {e}", toolchain.name));
    assert!(status.success(), "the eBPF build with {} failed", toolchain.name);
    let built = target_dir.join(TARGET).join("bpf").join("g211s-bpf");
    fs::copy(&built, &object).unwrap_or_else(|e| panic!("{}: {e}", built.display()));
}

fn find_linker(root: &Path) -> Option<PathBuf> {
    let local = root.join(".toolchain/bin/bpf-linker");
    if local.is_file() {
        return Some(local);
    }
    env::split_paths(&env::var_os("PATH")?).map(|p| p.join("bpf-linker")).find(|p| p.is_file())
}

/// rustup's nightly with `rust-src` if there is one, else Debian's rustc-web with its sources.
fn find_toolchain() -> Option<Toolchain> {
    let scrubbed = |program: &str| {
        let mut c = Command::new(program);
        for var in SCRUB {
            c.env_remove(var);
        }
        c
    };
    let has_src = |mut rustc: Command| {
        rustc.args(["--print", "sysroot"]).output().ok().filter(|o| o.status.success()).is_some_and(
            |o| {
                let sysroot = PathBuf::from(String::from_utf8_lossy(&o.stdout).trim());
                sysroot.join("lib/rustlib/src/rust/library/core/src/lib.rs").is_file()
            },
        )
    };
    let mut nightly = scrubbed("rustup");
    nightly.args(["run", "nightly", "rustc"]);
    if has_src(nightly) {
        let mut cargo = scrubbed("rustup");
        cargo.args(["run", "nightly", "cargo"]);
        return Some(Toolchain { name: "rustup's nightly", cargo });
    }
    if Path::new("/usr/bin/cargo").is_file() && has_src(scrubbed("/usr/bin/rustc")) {
        let mut cargo = scrubbed("/usr/bin/cargo");
        // Debian's is a stable compiler: build-std and the BPF target need the unstable switch.
        cargo.env("RUSTC", "/usr/bin/rustc").env("RUSTC_BOOTSTRAP", "1");
        return Some(Toolchain { name: "Debian's rustc", cargo });
    }
    None
}
