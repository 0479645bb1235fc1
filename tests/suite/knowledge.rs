//! What is known of the Go runtime from outside: the addresses found in stripped executables against
//! the symbol table of the same build with symbols. No root is needed here.

use std::collections::BTreeMap;
use std::fs::File;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use g211s::go::Binary;
use g211s::go::globals::{Global, Globals};
use g211s::go::offsets::{Offsets, Source};
use g211s_tests::go::{self, Mode};
use g211s_tests::{kernel, run_all};
use object::{Object, ObjectSymbol};

/// The symbols of an executable: Go's own linker's answer.
fn symbols(file: &Path) -> Result<BTreeMap<String, u64>> {
    let bytes = std::fs::read(file).with_context(|| format!("reading {}", file.display()))?;
    let elf = object::File::parse(&*bytes).context("parsing")?;
    Ok(elf.symbols().filter_map(|s| Some((s.name().ok()?.to_owned(), s.address()))).collect())
}

fn load(file: &Path) -> Result<Binary> {
    Ok(Binary::load(File::open(file)?)?)
}

/// The addresses found in both twins are those of the symbol table.
fn globals_are_found(version: &str) -> Result<()> {
    for (plain, stripped) in Mode::TWINS {
        if plain.needs_cc() && kernel::find("gcc").is_none() {
            println!("Go {version}, {}: skipped: no gcc", plain.name());
            continue;
        }
        let truth = symbols(&go::build("runtime", version, plain)?)?;
        for mode in [plain, stripped] {
            let binary = load(&go::build("runtime", version, mode)?)?;
            let offsets = Offsets::for_version(&binary.version);
            ensure!(offsets.source() == &Source::Exact, "{:?}", offsets.source());
            let began = std::time::Instant::now();
            let globals = Globals::find(&binary, &offsets);
            let took = began.elapsed();
            for global in Global::ALL {
                let found = globals.address(global);
                let symbol = truth.get(global.symbol()).copied();
                ensure!(
                    found.ok() == symbol && symbol.is_some(),
                    "Go {version}, {}: {}: found {found:x?}, is {symbol:x?}",
                    mode.name(),
                    global.symbol()
                );
            }
            println!(
                "Go {version}, {}: {} globals right, in {took:.1?}",
                mode.name(),
                Global::ALL.len()
            );
        }
    }
    Ok(())
}

#[test]
fn globals_of_the_newest() -> Result<()> {
    globals_are_found(go::NEW)
}

#[test]
fn globals_of_the_oldest() -> Result<()> {
    globals_are_found(go::OLD)
}

#[test]
fn globals_of_one_between() -> Result<()> {
    globals_are_found(go::MIDDLE)
}

#[test]
fn globals_of_each_minor_version() -> Result<()> {
    if !run_all() {
        // Left out, not impossible: never a failure.
        println!("skipped: needs more Go toolchains; cargo xtask test --all");
        return Ok(());
    }
    go::OTHERS.into_iter().try_for_each(globals_are_found)
}
