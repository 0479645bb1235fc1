//! Go toolchains (in `.toolchain/go`, put there by `cargo xtask setup`) and builds of the
//! workloads, cached by the hash of their sources.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use nix::sys::signal::Signal;

use crate::proc::{Proc, output_of};

/// The newest Go version that is tested.
pub const NEW: &str = "1.27.3";
/// The oldest.
pub const OLD: &str = "1.21.13";
/// One between, where much had moved.
pub const MIDDLE: &str = "1.24.11";
/// One of each minor version between: long variants (`cargo xtask test --all`).
pub const OTHERS: [&str; 4] = ["1.22.10", "1.23.9", "1.25.5", "1.26.6"];

/// How a workload is linked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// With symbols and DWARF.
    Plain,
    /// Without (`-s -w`), as most production builds are.
    Stripped,
    /// Position independent.
    Pie,
    /// Position independent, without symbols.
    PieStripped,
    /// Position independent without a dynamic loader, by the C linker.
    StaticPie,
    /// The same, without symbols.
    StaticPieStripped,
    /// With C code in it.
    Cgo,
    /// The same, without symbols.
    CgoStripped,
    /// Optimised by a profile, which inlines other functions (in the runtime too), without symbols.
    Pgo,
}

impl Mode {
    /// All that need no C compiler.
    pub const ALL: [Self; 4] = [Self::Plain, Self::Stripped, Self::Pie, Self::PieStripped];
    /// Each way of linking: with symbols, and the same without.
    pub const TWINS: [(Self, Self); 4] = [
        (Self::Plain, Self::Stripped),
        (Self::Pie, Self::PieStripped),
        (Self::StaticPie, Self::StaticPieStripped),
        (Self::Cgo, Self::CgoStripped),
    ];

    /// Its name, as in file names.
    pub fn name(self) -> &'static str {
        match self {
            Self::Plain => "plain",
            Self::Stripped => "stripped",
            Self::Pie => "pie",
            Self::PieStripped => "pie-stripped",
            Self::StaticPie => "static-pie",
            Self::StaticPieStripped => "static-pie-stripped",
            Self::Cgo => "cgo",
            Self::CgoStripped => "cgo-stripped",
            Self::Pgo => "pgo",
        }
    }

    fn flags(self) -> &'static [&'static str] {
        match self {
            Self::Plain | Self::Cgo => &[],
            Self::Stripped | Self::CgoStripped | Self::Pgo => &["-ldflags=-s -w"],
            Self::Pie => &["-buildmode=pie"],
            Self::PieStripped => &["-buildmode=pie", "-ldflags=-s -w"],
            Self::StaticPie => &[
                "-buildmode=pie",
                "-tags=netgo,osusergo",
                "-ldflags=-linkmode=external -extldflags=-static-pie",
            ],
            Self::StaticPieStripped => &[
                "-buildmode=pie",
                "-tags=netgo,osusergo",
                "-ldflags=-s -w -linkmode=external -extldflags=-static-pie",
            ],
        }
    }

    /// Whether a C compiler is needed.
    pub fn needs_cc(self) -> bool {
        matches!(self, Self::StaticPie | Self::StaticPieStripped | Self::Cgo | Self::CgoStripped)
    }
}

/// The `go` command of a version.
pub fn command(version: &str) -> Result<PathBuf> {
    let go = crate::root().join(".toolchain/go").join(version).join("go/bin/go");
    if !go.exists() {
        bail!("Go {version} is missing: run `cargo xtask setup`");
    }
    Ok(go)
}

/// Where workloads are that were built elsewhere: the guests of `cargo xtask vm` have neither Go nor its sources.
pub const BUILT_ELSEWHERE: &str = "G211S_WORKLOADS";

/// Where a workload is in the folder that [`BUILT_ELSEWHERE`] names.
pub fn place_of(name: &str, version: &str, mode: Mode) -> PathBuf {
    PathBuf::from(format!("{version}-{}", mode.name())).join(name)
}

/// Builds `workloads/NAME`, or finds it built; its path.
pub fn build(name: &str, version: &str, mode: Mode) -> Result<PathBuf> {
    if let Some(folder) = std::env::var_os(BUILT_ELSEWHERE) {
        let file = PathBuf::from(folder).join(place_of(name, version, mode));
        ensure!(file.exists(), "no {} in {BUILT_ELSEWHERE}", file.display());
        return Ok(file);
    }
    let source = crate::root().join("tests/workloads").join(name);
    let hash = hash_of(&source)?;
    let folder = crate::target_dir()
        .join("workloads")
        .join(format!("{version}-{}-{hash:016x}", mode.name()));
    let binary = folder.join(name);
    once(&binary, |unfinished| build_to(unfinished, &source, name, version, mode))?;
    Ok(binary)
}

fn build_to(file: &Path, source: &Path, name: &str, version: &str, mode: Mode) -> Result<()> {
    let mut go = Command::new(command(version)?);
    go.current_dir(source).arg("build").args(mode.flags()).arg("-trimpath").arg("-o").arg(file);
    if mode == Mode::Pgo {
        go.arg(format!("-pgo={}", profile(version)?.display()));
    }
    isolate(&mut go, &crate::target_dir());
    go.env("CGO_ENABLED", if mode.needs_cc() { "1" } else { "0" });
    output_of(&mut go).with_context(|| format!("building {name} with Go {version}"))?;
    Ok(())
}

/// Has `make` write a file, under another name at first, unless `file` exists already. Each test is a
/// process of its own: whoever comes second waits for the first instead of making it again.
pub fn once(file: &Path, make: impl FnOnce(&Path) -> Result<()>) -> Result<()> {
    if file.exists() {
        return Ok(());
    }
    let name = |suffix: &str| {
        let mut name = file.as_os_str().to_owned();
        name.push(suffix);
        PathBuf::from(name)
    };
    if let Some(folder) = file.parent() {
        std::fs::create_dir_all(folder)
            .with_context(|| format!("creating {}", folder.display()))?;
    }
    let lock = std::fs::File::create(name(".lock")).context("creating a lock")?;
    lock.lock().with_context(|| format!("locking {}", file.display()))?;
    if file.exists() {
        return Ok(());
    }
    let unfinished = name(".unfinished");
    make(&unfinished)?;
    std::fs::rename(&unfinished, file).with_context(|| format!("renaming to {}", file.display()))
}

/// A CPU profile of the GC storm, built with this version.
fn profile(version: &str) -> Result<PathBuf> {
    let binary = build("gcstorm", version, Mode::Plain)?;
    let profile = binary.with_file_name(format!("profile.{}", std::process::id()));
    let mut storm = Proc::spawn(Command::new(&binary).arg("-cpuprofile").arg(&profile))?;
    storm.wait_line(|l| l.text.starts_with("listening"), Duration::from_secs(10))?;
    std::thread::sleep(Duration::from_secs(3));
    storm.stop(Signal::SIGTERM, Duration::from_secs(10))?;
    Ok(profile)
}

/// Has a `go` command take nothing from the network, and nothing from or to the user's own Go set-up:
/// what it keeps it keeps in `folder`.
pub fn isolate(go: &mut Command, folder: &Path) {
    let settings = [
        ("GOTOOLCHAIN", "local"),
        ("GOPROXY", "off"),
        ("GOENV", "off"),
        ("GOFLAGS", ""),
        ("GOWORK", "off"),
        ("CGO_ENABLED", "0"),
    ];
    go.envs(settings);
    go.env_remove("GOROOT").env_remove("GODEBUG").env_remove("GOEXPERIMENT");
    go.env("GOCACHE", folder.join("go-cache"));
    go.env("GOPATH", folder.join("go-path"));
    go.env("XDG_CONFIG_HOME", folder.join("go-config"));
}

/// Of a folder's files.
pub fn hash_of(source: &Path) -> Result<u64> {
    let mut files: Vec<PathBuf> = std::fs::read_dir(source)
        .with_context(|| format!("reading {}", source.display()))?
        .map(|entry| entry.map(|e| e.path()))
        .collect::<Result<_, _>>()?;
    files.sort();
    let mut hasher = DefaultHasher::new();
    for file in files {
        file.file_name().hash(&mut hasher);
        std::fs::read(&file)
            .with_context(|| format!("reading {}", file.display()))?
            .hash(&mut hasher);
    }
    Ok(hasher.finish())
}
