//! Look-ups by address against what Go itself says of the same executables: `go tool addr2line` (the
//! function that the code belongs to, and the position) and the runtime's own `CallersFrames` (the
//! innermost function, through inlining, and the position). On plain builds and their stripped
//! twins; with Go 1.27 and 1.21, and with whatever is in `G211S_GO_DIR` (`go-<version>/go/bin/go`,
//! 1.18 on), which needs no support otherwise.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use g211s::elf::ElfFile;
use g211s::elf::pclntab::Pclntab;
use g211s::elf::symbols::{Frame, Symbols, short_name};
use g211s_tests::go;
use g211s_tests::proc::output_of;
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};

/// Addresses looked up in each executable.
const LOOKUPS: usize = 5000;

/// Version → its `go` command.
fn toolchains() -> BTreeMap<String, PathBuf> {
    let known = [go::NEW, go::OLD];
    let mut found: BTreeMap<String, PathBuf> = known
        .iter()
        .filter_map(|version| Some(((*version).to_owned(), go::command(version).ok()?)))
        .collect();
    let more = std::env::var_os("G211S_GO_DIR").and_then(|dir| fs::read_dir(dir).ok());
    for entry in more.into_iter().flatten().flatten() {
        let name = entry.file_name().to_string_lossy().trim_start_matches("go-").to_owned();
        let command = entry.path().join("go/bin/go");
        if command.exists() {
            found.entry(name).or_insert(command);
        }
    }
    if found.is_empty() {
        println!("skipped: no Go toolchain (run `cargo xtask setup`)");
    }
    found
}

fn go_command(program: &Path) -> Command {
    let mut command = Command::new(program);
    go::isolate(&mut command, &g211s_tests::target_dir());
    command
}

fn build(version: &str, program: &Path, name: &str, flags: &[&str]) -> PathBuf {
    let source = g211s_tests::root().join("tests/workloads/frames");
    let hash = go::hash_of(&source).expect("its source");
    let name = format!("frames-{version}-{name}-{hash:016x}");
    let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
    go::once(&path, |unfinished| {
        let mut command = go_command(program);
        command.current_dir(&source).args(["build", "-trimpath", "-o"]).arg(unfinished);
        output_of(command.args(flags)).map(|_| ())
    })
    .expect("go builds frames");
    path
}

struct Loaded(ElfFile, Pclntab);

fn load(path: &Path) -> Loaded {
    let elf = ElfFile::open(File::open(path).expect("opens")).expect("is ELF");
    let table = Pclntab::read(&elf).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    Loaded(elf, table)
}

/// What a command says of these addresses.
fn ask(mut command: Command, pcs: &[u64]) -> Vec<String> {
    let mut child =
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("it starts");
    let mut input = child.stdin.take().expect("piped");
    let text: Vec<String> = pcs.iter().map(|pc| format!("{pc:x}\n")).collect();
    let text = text.concat();
    let writer = std::thread::spawn(move || input.write_all(text.as_bytes()).expect("writes"));
    let output = child.wait_with_output().expect("ends");
    writer.join().expect("wrote");
    assert!(output.status.success(), "{command:?}");
    String::from_utf8(output.stdout).expect("text").lines().map(str::to_owned).collect()
}

/// Addresses all over the text: a random one in each of randomly chosen functions, but not its last
/// byte: `CallersFrames` is given the address after it, which is the next function's.
fn addresses(table: &Pclntab) -> Vec<u64> {
    let functions: Vec<_> = table.functions().filter(|f| f.end > f.entry + 1).collect();
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut random = |below: u64| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963);
        (state >> 33) % below
    };
    (0..LOOKUPS)
        .map(|_| {
            let f = functions[random(functions.len() as u64) as usize];
            f.entry + random(f.end - f.entry - 1)
        })
        .collect()
}

fn position(frame: &Frame) -> String {
    format!("{}:{}", frame.file.as_deref().unwrap_or("?"), frame.line.unwrap_or(0))
}

#[test]
fn addresses_resolve_as_go_resolves_them() {
    for (version, go) in toolchains() {
        for (name, flags) in [("plain", &[][..]), ("pie", &["-buildmode=pie"])] {
            let what = format!("{version}, {name}");
            let path = build(&version, &go, name, flags);
            let Loaded(elf, table) = load(&path);
            let pcs = addresses(&table);
            let mut symbols = Symbols::new(&elf, &table);
            assert!(symbols.knows_inlining(), "{what}");
            agrees_with_addr2line(&what, &go, &path, &pcs, &mut symbols);
            if name == "plain" {
                agrees_with_the_runtime(&what, &path, &pcs, &mut symbols);
            }
            assert_eq!(symbols.damaged(), 0, "{what}");
            assert_eq!(symbols.at(table.text().wrapping_sub(16)), None);

            // Without symbols, or even section headers: the same answers.
            let flags = [flags, &["-ldflags=-s -w"]].concat();
            let path = build(&version, &go, &format!("{name}-stripped"), &flags);
            let stripped = fs::read(&path).expect("reads");
            let mut headless = stripped.clone();
            headless[40..48].fill(0);
            for bytes in [stripped, headless] {
                let elf = ElfFile::open(bytes).expect("is ELF");
                let twin = Pclntab::read(&elf).expect("has a table");
                let mut others = Symbols::new(&elf, &twin);
                let shift = twin.text().wrapping_sub(table.text());
                for pc in &pcs {
                    let there = others.at(pc.wrapping_add(shift));
                    assert_eq!(symbols.at(*pc), there, "{what}, stripped: {pc:#x}");
                }
            }
        }
    }
}

/// The function that the code belongs to, and the position.
fn agrees_with_addr2line(
    what: &str,
    go: &Path,
    path: &Path,
    pcs: &[u64],
    symbols: &mut Symbols<'_>,
) {
    let mut command = go_command(go);
    command.args(["tool", "addr2line"]).arg(path);
    let truth = ask(command, pcs);
    assert_eq!(truth.len(), 2 * pcs.len());
    let (mut inlined, mut unplaced) = (0, 0);
    for (pc, truth) in pcs.iter().zip(truth.chunks(2)) {
        let frames = symbols.at(*pc).unwrap_or_else(|| panic!("{what}: {pc:#x}: nothing"));
        let (first, last) = (&frames[0], frames.last().expect("at least one"));
        assert!(!last.inlined && frames[..frames.len() - 1].iter().all(|f| f.inlined));
        assert_eq!(*last.function, *truth[0], "{what}: {pc:#x}");
        if first.line.is_some() {
            assert_eq!(position(first), truth[1], "{what}: {pc:#x}");
        } else {
            // The padding between functions has no position; how that is written differs.
            let none = truth[1].ends_with(":-1") || truth[1].ends_with(":0");
            assert!(none, "{what}: {pc:#x}: {}", truth[1]);
            unplaced += 1;
        }
        inlined += usize::from(frames.len() > 1);
    }
    let all = pcs.len();
    println!("{what}: {all} addresses, {inlined} inlined, {unplaced} without position");
    assert!(inlined > all / 20 && unplaced < all / 5, "{what}: {inlined}, {unplaced} of {all}");
}

/// The innermost function, through inlining, and the position.
fn agrees_with_the_runtime(what: &str, path: &Path, pcs: &[u64], symbols: &mut Symbols<'_>) {
    let truth = ask(Command::new(path), pcs);
    assert_eq!(truth.len(), pcs.len());
    for (pc, truth) in pcs.iter().zip(truth) {
        let frames = symbols.at(*pc).unwrap_or_else(|| panic!("{what}: {pc:#x}: nothing"));
        let (function, there) = truth.rsplit_once(' ').expect("two words");
        // Before 1.21 the runtime printed the type arguments; in 1.18 and 1.19 it did not name the
        // function whose name is the first of all.
        let (name, whole) = (short_name(&frames[0].function), &frames[0].function);
        let same = name == function || **whole == *function || function.is_empty();
        assert!(same, "{what}: {pc:#x}: {name}, not {function}");
        if frames[0].line.is_some() {
            assert_eq!(position(&frames[0]), there, "{what}: {pc:#x}");
        }
    }
}

#[test]
fn damaged_line_tables_never_panic() {
    let Some((version, go)) = toolchains().pop_last() else { return };
    let path = build(&version, &go, "plain", &[]);
    let bytes = fs::read(&path).expect("reads");
    let Loaded(elf, table) = load(&path);
    let pcs = addresses(&table);
    let section = elf.section(".gopclntab").expect("has one");
    let (start, len) = (section.offset as usize, section.size as usize);
    let edit = (any::<bool>(), any::<prop::sample::Index>(), any::<u8>());
    let mut runner = TestRunner::new(Config { cases: 24, ..Config::default() });
    runner
        .run(&proptest::collection::vec(edit, 1..2000), |edits| {
            let mut damaged = bytes.clone();
            for (head, at, value) in edits {
                // The header now and then, the tables mostly.
                let len = if head && value < 4 { 72 } else { len };
                damaged[start + at.index(len)] = value;
            }
            let Ok(elf) = ElfFile::open(damaged) else { return Ok(()) };
            if let Ok(table) = Pclntab::read(&elf) {
                let mut symbols = Symbols::new(&elf, &table);
                for pc in pcs.iter().step_by(7) {
                    let frames = symbols.at(*pc);
                    prop_assert!(frames.is_none_or(|f| !f.is_empty() && f.len() <= 65));
                    let _ = symbols.frame_size(*pc);
                }
            }
            Ok(())
        })
        .expect("no panic");
}
