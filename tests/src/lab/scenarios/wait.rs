//! Threads that sleep and keep their P: in page faults, and in system calls.

use std::time::Duration;

use anyhow::Result;

use super::{observe, observed};
use crate::lab::judge::Truth;
use crate::lab::slow_file::SlowFile;
use crate::lab::target::{self, Undisturbed};
use crate::lab::trial::{Observed, Setting};

/// Reads of the slow file take from …
pub(super) const FROM: Duration = Duration::from_millis(4);
/// … to.
pub(super) const TO: Duration = Duration::from_millis(12);

/// A goroutine touches pages of a slow file. The file's server tells when it kept somebody waiting.
pub(super) fn page_faults(setting: Setting) -> Result<Observed> {
    slow(setting, "fault", vec!["page_fault"])
}

/// A goroutine reads the slow file by system calls that the runtime knows nothing of.
pub(super) fn blocked_syscalls(setting: Setting) -> Result<Observed> {
    slow(setting, "block", vec!["syscall_return", "uninterruptible"])
}

fn slow(setting: Setting, mode: &str, means: Vec<&'static str>) -> Result<Observed> {
    let file = SlowFile::serve(setting.seed, FROM, TO)?;
    let path = file.path();
    let launch = target::launch(mode, setting.seed)
        .args(&["-file", &path.to_string_lossy(), "-every", "20ms", "-stops", "1ms"])
        .env("GOMAXPROCS", "2");
    let target = Undisturbed::start(&launch)?;
    let report = observe(target.pid(), setting.window, || Ok(()))?;
    target.end()?;
    let truth = Truth { spans: file.served(), means, ..Truth::default() };
    observed(report, truth, "by the file server's clock".to_owned())
}
