//! The fuzzers' corpus, with every input that ever crashed a parser, through the same code as in
//! fuzzing (`fuzz/`, see CONTRIBUTING.md): it must come out with a result or an error.

use std::path::Path;

#[path = "../fuzz/src/lib.rs"]
#[expect(
    unreachable_pub,
    reason = "the fuzz targets' library, which is a crate of its own workspace"
)]
mod inputs;

fn all_of(target: &str, run: fn(&[u8])) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus").join(target);
    let mut files = 0;
    for entry in std::fs::read_dir(&folder).expect("the corpus is checked in") {
        let path = entry.expect("a directory entry").path();
        println!("{}", path.display());
        run(&std::fs::read(&path).expect("a file"));
        files += 1;
    }
    assert!(files > 0, "no corpus in {}", folder.display());
}

#[test]
fn executables() {
    all_of("executable", inputs::executable);
}

#[test]
fn kernel_types() {
    all_of("kernel_btf", inputs::kernel_btf);
}

#[test]
fn recordings() {
    all_of("recording", inputs::recording);
}

#[test]
fn ring_items() {
    all_of("ring", inputs::ring);
}

#[test]
fn line_tables() {
    all_of("symbols", inputs::symbols);
}

#[test]
fn memories() {
    all_of("memory", inputs::memory);
}
