//! What SECURITY.md says is tested, is: each test and fuzz target that it names is there.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// Names of all test functions below a folder.
fn tests_in(folder: &Path, found: &mut BTreeSet<String>) {
    for entry in fs::read_dir(folder).expect("a folder").flatten() {
        let path = entry.path();
        if path.is_dir() {
            tests_in(&path, found);
        } else if path.extension().is_some_and(|e| e == "rs") {
            let text = fs::read_to_string(&path).expect("text");
            let mut is_test = false;
            for line in text.lines().map(str::trim) {
                if line.starts_with("#[test]") || line.starts_with("#[tokio::test") {
                    is_test = true;
                } else if let Some(name) = function(line)
                    // Those of proptest have their attribute in its macro.
                    && (std::mem::take(&mut is_test) || text.contains("proptest!"))
                {
                    found.insert(name.to_owned());
                }
            }
        }
    }
}

fn function(line: &str) -> Option<&str> {
    let line = line.strip_prefix("async ").unwrap_or(line);
    line.strip_prefix("fn ")?.split('(').next()
}

/// What stands between backticks and could be a test's name.
fn named(text: &str) -> BTreeSet<&str> {
    let parts = text.split('`').skip(1).step_by(2);
    let name = |s: &&str| {
        s.matches('_').count() >= 2 && s.chars().all(|c| c.is_ascii_lowercase() || c == '_')
    };
    parts.filter(name).filter(|s| *s != "process_vm_readv").collect()
}

#[test]
fn security_names_tests_that_exist() {
    let text = fs::read_to_string(root().join("SECURITY.md")).expect("SECURITY.md");
    let mut tests = BTreeSet::new();
    for folder in ["g211s-userspace/src", "g211s-userspace/tests", "tests/suite", "tests/src"] {
        tests_in(&root().join(folder), &mut tests);
    }
    let named = named(&text);
    assert!(named.len() > 20, "{named:?}");
    let missing: Vec<_> = named.iter().filter(|name| !tests.contains(**name)).collect();
    assert!(missing.is_empty(), "no such test: {missing:?}");

    let targets = root().join("g211s-userspace/fuzz/fuzz_targets");
    let mut fuzzed = 0;
    for part in text.split("fuzz target").skip(1) {
        // `fuzz target `a`` or `fuzz targets `a`, `b``, up to the end of the cell.
        let cell = part.split('|').next().unwrap_or_default();
        for name in cell.split('`').skip(1).step_by(2) {
            assert!(targets.join(format!("{name}.rs")).exists(), "no fuzz target {name}");
            fuzzed += 1;
        }
    }
    assert!(fuzzed >= 4, "{fuzzed}");
}
