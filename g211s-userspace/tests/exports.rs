//! Exports of a made-up busy machine, read back by others' libraries where they are installed.

#[path = "../examples/synthetic/machine.rs"]
mod machine;

use std::path::{Path, PathBuf};

use anyhow::{Result, ensure};
use g211s::cli::ExportArgs;
use g211s::export::Exports;
use g211s_tests::python::{Packages, check};

const EVENTS: u64 = 40_000;

#[test]
fn others_read_what_the_report_says() -> Result<()> {
    let folder =
        g211s_tests::target_dir().join(format!("exports-synthetic-{}", std::process::id()));
    std::fs::create_dir_all(&folder)?;
    let file = |name: &str| -> PathBuf { folder.join(name) };
    let args = ExportArgs {
        perfetto: Some(file("a.pftrace")),
        pprof: Some(file("a.pb.gz")),
        csv: Some(file("csv")),
        parquet: Some(file("parquet")),
    };
    let mut exports = Exports::create(&args)?;
    for record in machine::Machine::new(EVENTS) {
        exports.push(record)?;
    }
    let (report, left_out) = exports.finish()?;
    ensure!(left_out.is_empty(), "{left_out:?}");
    std::fs::write(file("a.json"), report.to_json()?)?;
    let rows = check("check_tables.py", None, &[&file("csv"), Path::new("csv"), &file("a.json")])?;
    println!("{rows}");
    ensure!(rows["rows"]["events"].as_u64() >= Some(EVENTS), "{rows}");
    if Packages::Small.are_there() {
        let args = [&*file("a.pftrace"), &file("a.json")];
        let seen = check("check_perfetto.py", Some(Packages::Small), &args)?;
        println!("{seen}");
        for figure in ["stops", "cycles", "wakeups", "culprits", "states"] {
            ensure!(seen[figure].as_u64() > Some(0), "no {figure}: {seen}");
        }
    }
    for (how, packages) in [("duckdb", Packages::Small), ("arrow", Packages::Large)] {
        if !packages.are_there() {
            println!("skipped: {:?} are not installed (cargo xtask test)", packages.wanted());
            continue;
        }
        let args = [&*file("parquet"), Path::new(how), &file("a.json")];
        let read = check("check_tables.py", Some(packages), &args)?;
        ensure!(read["rows"] == rows["rows"], "{how}: {read}, CSV: {rows}");
    }
    std::fs::remove_dir_all(folder)?;
    Ok(())
}
