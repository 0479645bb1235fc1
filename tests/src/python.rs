//! Python with the packages that exports are checked by, as `cargo xtask setup` installs them. Must not know what is
//! checked.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};

/// Packages that are installed together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Packages {
    /// Perfetto's message definitions with protobuf, and duckdb (72 MB).
    Small,
    /// pyarrow and pandas (330 MB): for the long variants.
    Large,
    /// OpenTelemetry's message definitions with protobuf (3 MB).
    Otlp,
}

impl Packages {
    /// What pip is asked for.
    pub fn wanted(self) -> &'static [&'static str] {
        match self {
            Self::Small => &["perfetto==0.59.1", "protobuf==7.36.2", "duckdb==2.0.1"],
            Self::Large => &["pyarrow==26.0.1", "pandas==3.1.1"],
            Self::Otlp => &["opentelemetry-proto==1.45.2", "protobuf==7.36.2"],
        }
    }

    /// Where they are.
    pub fn folder(self) -> PathBuf {
        let name = match self {
            Self::Small => "small",
            Self::Large => "large",
            Self::Otlp => "otlp",
        };
        crate::root().join(".toolchain/python").join(name)
    }

    /// Whether they are installed.
    pub fn are_there(self) -> bool {
        self.folder().is_dir()
    }
}

/// Runs a script of `tests/python` with these packages, if with any; what it printed, which is one line of JSON.
pub fn check(
    script: &str,
    packages: Option<Packages>,
    args: &[&Path],
) -> Result<serde_json::Value> {
    let mut python = Command::new("python3");
    python.arg(crate::root().join("tests/python").join(script)).args(args);
    if let Some(packages) = packages {
        python.env("PYTHONPATH", packages.folder());
    }
    let output = python.output().context("python3")?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let errors = String::from_utf8_lossy(&output.stderr).into_owned();
    ensure!(output.status.success(), "{script} {args:?}:\n{errors}{text}");
    serde_json::from_str(text.trim()).with_context(|| format!("{script} printed {text}"))
}
