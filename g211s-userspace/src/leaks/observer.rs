//! What a run that follows allocations does for a search for leaks: it follows objects, and hands on what the watcher
//! read beside. Must not know what is concluded.

use std::sync::atomic::Ordering;
use std::time::Duration;

use super::watcher::Watcher;
use crate::allocs::observer::Observer;
use crate::go::version::GoVersion;
use crate::heap::following::Following;
use crate::record::{AllocSample, Record};
use crate::report::format::{bytes, plural};
use crate::runtime::Runtime;
use crate::runtime::memory::ProcessMemory;

/// Both together.
pub struct Watching<'w> {
    following: Following,
    watcher: &'w mut Watcher,
}

impl<'w> Watching<'w> {
    /// With this watcher.
    pub fn new(watcher: &'w mut Watcher) -> Self {
        Self { following: Following::default(), watcher }
    }
}

impl Observer for Watching<'_> {
    fn begin(
        &mut self,
        runtime: &Runtime<ProcessMemory>,
        version: &GoVersion,
    ) -> Result<(), String> {
        self.following.begin(runtime, version)
    }

    fn made(&mut self, sample: &AllocSample) {
        self.following.made(sample);
    }

    fn look(&mut self, runtime: &Runtime<ProcessMemory>, now_ns: u64, last: bool) -> Vec<Record> {
        let mut records = if last { self.watcher.finish() } else { self.watcher.take() };
        records.extend(self.following.look(runtime, now_ns, last));
        records
    }

    fn within(&self) -> Option<Duration> {
        self.following.within()
    }

    fn status(&self) -> Option<String> {
        Some(status(self.watcher))
    }
}

/// How far a run has come, in words.
pub fn status(watcher: &Watcher) -> String {
    let of = |n: &std::sync::atomic::AtomicU64| n.load(Ordering::Relaxed);
    let progress = &watcher.progress;
    format!(
        "{}, {} left by the last | {}",
        plural(of(&progress.collections), "GC cycle", "GC cycles"),
        bytes(of(&progress.marked)),
        plural(of(&progress.goroutines), "goroutine", "goroutines")
    )
}
