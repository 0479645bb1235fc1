//! The ELF, pclntab and plan rooms against real Go executables of every toolchain at hand, in every
//! link mode; and a live process against `target`. Toolchains are looked for in `G211S_GO_DIR`
//! (`go-<version>/go/bin/go`) and `.toolchain/go/<version>/go/bin/go`; without any the tests
//! say so and pass.

use std::collections::BTreeMap;
use std::fs;
use std::hash::{BuildHasher as _, BuildHasherDefault, DefaultHasher};
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;

use g211s::elf::ElfFile;
use g211s::elf::buildinfo::BuildInfo;
use g211s::elf::pclntab::Pclntab;
use g211s::go::Binary;
use g211s::go::held::layout;
use g211s::go::offsets::Offsets;
use g211s::go::plan::{PlanOptions, ProbePlan, plan};
use g211s::target::procfs::Procfs;
use g211s::target::resolve;
use g211s_ebpf::event::Site;
use g211s_tests::go;
use g211s_tests::proc::output_of;
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};

const PROGRAM: &str = r#"package main

import (
	"bufio"
	"fmt"
	"os"
	"runtime"
)

var sink []byte

func main() {
	fmt.Println("ready")
	for in := bufio.NewReader(os.Stdin); ; {
		if _, err := in.ReadByte(); err != nil {
			return
		}
		sink = make([]byte, 1<<16)
		runtime.GC()
	}
}
"#;

/// Link modes: name, flags of `go build`, the words expected.
const MODES: [(&str, &[&str], &[&str]); 4] = [
    ("plain", &[], &["plain"]),
    ("stripped", &["-ldflags=-s -w"], &["stripped"]),
    ("pie", &["-buildmode=pie"], &["plain", "pie"]),
    ("stripped-pie", &["-buildmode=pie", "-ldflags=-s -w"], &["stripped", "pie"]),
];

/// Offset of `push rbp` in two functions, from a table that was made independently of this parser
/// (by disassembling plain builds of these very releases).
const MEASURED: [(&str, u64, u64); 7] = [
    // version, stopTheWorldWithSema, gcStart
    ("1.21.13", 10, 15),
    ("1.22.10", 15, 15),
    ("1.23.9", 15, 15),
    ("1.24.11", 15, 15),
    ("1.25.5", 15, 15),
    ("1.26.6", 15, 18),
    ("1.27.3", 15, 18),
];

/// Version → its `go` command.
fn toolchains() -> BTreeMap<String, PathBuf> {
    let workspace = Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("workspace");
    let mut found = BTreeMap::new();
    let dirs = [
        std::env::var_os("G211S_GO_DIR").map(PathBuf::from),
        Some(workspace.join(".toolchain/go")),
    ];
    for entry in dirs.into_iter().flatten().filter_map(|d| fs::read_dir(d).ok()).flatten().flatten()
    {
        let go = entry.path().join("go/bin/go");
        let name = entry.file_name().to_string_lossy().trim_start_matches("go-").to_owned();
        if go.exists() && name.starts_with("1.") {
            found.entry(name).or_insert(go);
        }
    }
    found
}

struct Built {
    version: String,
    words: &'static [&'static str],
    path: PathBuf,
}

/// Every executable, built once for all tests; empty where there is no toolchain.
fn binaries() -> &'static [Built] {
    static BUILT: OnceLock<Vec<Built>> = OnceLock::new();
    BUILT.get_or_init(|| {
        let hash = BuildHasherDefault::<DefaultHasher>::default().hash_one((PROGRAM, MODES));
        let dir = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("go_binaries-{hash:016x}"));
        let source = dir.join("source");
        go::once(&source.join("main.go"), |file| Ok(fs::write(file, PROGRAM)?)).expect("main.go");
        let module = "module example.com/tiny\n\ngo 1.21\n";
        go::once(&source.join("go.mod"), |file| Ok(fs::write(file, module)?)).expect("go.mod");
        let mut built = Vec::new();
        for (version, program) in toolchains() {
            for (mode, flags, words) in MODES {
                let path = dir.join(format!("tiny-{version}-{mode}"));
                go::once(&path, |unfinished| {
                    let mut command = Command::new(&program);
                    go::isolate(&mut command, &g211s_tests::target_dir());
                    command.current_dir(&source).args(["build", "-o"]).arg(unfinished);
                    output_of(command.args(flags).arg(".")).map(|_| ())
                })
                .expect("go builds");
                built.push(Built { version: version.clone(), words, path });
            }
        }
        if built.is_empty() {
            println!("skipped: no Go toolchain (set G211S_GO_DIR, or run `cargo xtask setup`)");
        }
        built
    })
}

fn load(path: &Path) -> Binary {
    Binary::load(fs::File::open(path).expect("opens"))
        .unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

fn full_plan(binary: &Binary) -> ProbePlan {
    let options =
        PlanOptions { mallocgc: true, nextfree: true, custom: Some("runtime.newstack".to_owned()) };
    plan(binary, &options).expect("something to probe")
}

#[test]
fn the_build_is_recognised() {
    for built in binaries() {
        let binary = load(&built.path);
        assert_eq!(binary.build.go_version, format!("go{}", built.version));
        assert_eq!(binary.version.to_string(), format!("go{}", built.version));
        assert_eq!(binary.build.module.as_deref(), Some("example.com/tiny"));
        assert_eq!(binary.build.setting("CGO_ENABLED"), Some("0"));
        assert_eq!(binary.link_mode(), built.words, "{:?}", built.path);
        assert_eq!(binary.has_dwarf, built.words[0] == "plain");
        assert!(!binary.cgo);
    }
}

#[test]
fn every_site_of_the_version_is_planned() {
    for built in binaries() {
        let name = built.path.display();
        let binary = load(&built.path);
        let plan = full_plan(&binary);
        let count = |site| plan.of(site).count();
        for site in [
            Site::GcStart,
            Site::StwStop,
            Site::StwStart,
            Site::GcMarkTermination,
            Site::GcStopM,
            Site::GcTransitionEnd,
            Site::McacheRefill,
            Site::McacheAllocLarge,
            Site::McacheNextFree,
            Site::AssistPark,
            Site::HandOffP,
            Site::Custom,
        ] {
            assert_eq!(count(site), 1, "{name}: {site:?}: {:?}", plan.unavailable);
            let probe = plan.of(site).next().expect("one");
            assert_eq!(probe.instruction, "push rbp", "{name}: {site:?}");
        }
        assert_eq!(count(Site::AssistDone), 1, "{name}: {:?}", plan.unavailable);
        let minor = binary.version.minor;
        let (stopped, end) = match minor {
            21 => (1, 0),
            22 => (2, 2),
            _ => (0, 2),
        };
        assert_eq!((count(Site::StwStopped), count(Site::StwEnd)), (stopped, end), "{name}");
        // 1.27's compiler calls the size-specialised variants.
        assert!(count(Site::MallocGc) > if minor >= 27 { 10 } else { 0 }, "{name}");
        assert!(plan.probes.iter().all(|p| p.emulated), "{name}: a dear probe");
        let missing: Vec<&str> = plan.unavailable.iter().map(|u| u.feature.as_str()).collect();
        assert_eq!(missing, if minor == 21 { vec!["stw_end"] } else { vec![] }, "{name}");
    }
}

/// `m.syscalltick` is in no table: it is measured here by DWARF, on the releases that are usually there.
#[test]
fn a_threads_p_is_found_by_the_same_offsets_in_every_build() {
    const SYSCALLTICK: [(&str, u32); 2] = [("1.21.13", 664), ("1.27.3", 788)];
    for built in binaries() {
        let binary = load(&built.path);
        let found = layout(&binary, &Offsets::for_version(&binary.version));
        let found = found.unwrap_or_else(|why| panic!("{}: {why}", built.path.display()));
        assert_eq!(found.tls_g, -8, "{}", built.path.display());
        let measured = SYSCALLTICK.iter().find(|(v, _)| *v == built.version);
        if let Some((_, offset)) = measured {
            assert_eq!(found.m_syscalltick, *offset, "{}", built.path.display());
        }
        assert!(found.m_p < found.m_oldp && found.p_runqhead < found.p_runqtail);
    }
}

#[test]
fn probes_sit_on_the_bytes_they_name() {
    for built in binaries() {
        let bytes = fs::read(&built.path).expect("reads");
        for probe in full_plan(&load(&built.path)).probes {
            let at = &bytes[probe.file_offset as usize..];
            match probe.instruction.split(' ').next().expect("a word") {
                "push" => assert_eq!(at[0], 0x55, "{probe:?}"),
                "call" => assert_eq!(at[0], 0xe8, "{probe:?}"),
                _ => assert!(matches!(at[0], 0x70..=0x7f | 0x0f | 0xeb | 0xe9), "{probe:?}"),
            }
            if probe.site == Site::StwStopped && probe.instruction.starts_with('j') {
                // 1.21: only the end of the function may follow.
                let ret = at.iter().position(|&b| b == 0xc3).expect("a RET");
                assert!(ret < 16, "{probe:?} is {ret} bytes before the RET");
            }
        }
    }
}

#[test]
fn entries_are_where_they_were_measured() {
    for built in binaries() {
        let Some((_, stop, gc)) = MEASURED.iter().find(|(v, ..)| *v == built.version) else {
            continue;
        };
        let plan = full_plan(&load(&built.path));
        let offset = |site| plan.of(site).next().map(|p| p.function_offset);
        assert_eq!(offset(Site::StwStop), Some(*stop), "{:?}", built.path);
        assert_eq!(offset(Site::GcStart), Some(*gc), "{:?}", built.path);
    }
}

#[test]
fn section_headers_are_not_needed() {
    for built in binaries() {
        let mut bytes = fs::read(&built.path).expect("reads");
        let with = load(&built.path);
        bytes[40..48].fill(0);
        let without = Binary::load(bytes).unwrap_or_else(|e| panic!("{:?}: {e}", built.path));
        assert_eq!(with.build, without.build);
        assert_eq!(with.functions.len(), without.functions.len());
        assert_eq!(with.functions.text(), without.functions.text());
        assert_eq!(full_plan(&with).probes, full_plan(&without).probes);
    }
}

#[test]
fn damaged_executables_never_panic() {
    // One with RELA (stripped PIE of the oldest), one without.
    for built in binaries().iter().take(MODES.len()).filter(|b| b.words[0] == "stripped") {
        let bytes = fs::read(&built.path).expect("reads");
        let elf = ElfFile::open(bytes.clone()).expect("parses");
        // The places that are parsed: headers, build info, pclntab's header, moduledata and code.
        let mut places = vec![0..1024, bytes.len() - 64 * 64..bytes.len()];
        for name in [".go.buildinfo", ".gopclntab", ".data.rel.ro.gopclntab", ".noptrdata"] {
            if let Some(s) = elf.section(name) {
                places.push(s.offset as usize..(s.offset + s.size.min(4096)) as usize);
            }
        }
        for probe in full_plan(&load(&built.path)).probes {
            places.push(probe.file_offset as usize - 16..probe.file_offset as usize + 512);
        }
        let edit = (any::<prop::sample::Index>(), any::<prop::sample::Index>(), any::<u8>());
        let edits = proptest::collection::vec(edit, 1..12);
        let mut runner = TestRunner::new(Config { cases: 48, ..Config::default() });
        runner
            .run(&edits, |edits| {
                let mut damaged = bytes.clone();
                for (place, at, value) in edits {
                    let place = &places[place.index(places.len())];
                    damaged[place.start + at.index(place.len())] = value;
                }
                if let Ok(elf) = ElfFile::open(damaged.clone()) {
                    let _ = BuildInfo::read(&elf);
                    let _ = Pclntab::read(&elf).map(|t| t.functions().count());
                }
                if let Ok(binary) = Binary::load(damaged) {
                    let _ = plan(&binary, &PlanOptions::default());
                    let _ = layout(&binary, &Offsets::for_version(&binary.version));
                }
                Ok(())
            })
            .expect("no panic");
    }
}

#[test]
fn a_running_process_resolves_even_when_its_file_is_gone() {
    let Some(built) = binaries().last() else { return };
    let path = built.path.with_extension("deleted");
    fs::copy(&built.path, &path).expect("copies");
    let mut child =
        Command::new(&path).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("starts");
    let mut line = String::new();
    let stdout = child.stdout.take().expect("piped");
    BufReader::new(stdout).read_line(&mut line).expect("says that it is ready");
    fs::remove_file(&path).expect("removes");

    let procfs = Procfs::default();
    let target = resolve(&procfs, child.id());
    let thread =
        target.as_ref().ok().and_then(|t| t.threads.iter().copied().find(|&t| t != child.id()));
    let thread_error = thread.map(|tid| resolve(&procfs, tid).expect_err("a thread").to_string());
    drop(child.stdin.take());
    child.wait().expect("ends");

    let target = target.expect("resolves");
    assert!(target.exe_deleted);
    assert_eq!(Path::new(&target.exe), path);
    assert!(target.threads.contains(&target.pid) && target.threads.len() > 1);
    assert_eq!(target.exe_path, Path::new("/proc").join(target.pid.to_string()).join("exe"));
    assert!(!full_plan(&target.binary).probes.is_empty());
    assert!(!target.is_alive(&procfs), "it has ended");
    let thread_error = thread_error.expect("a Go program has threads");
    assert!(thread_error.contains(&format!("use --pid {}", target.pid)), "{thread_error}");
}
