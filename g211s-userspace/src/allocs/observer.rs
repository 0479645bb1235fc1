//! Who else wants to see allocations while they are followed. Must not know what is made of them.

use std::time::Duration;

use crate::go::version::GoVersion;
use crate::record::{AllocSample, Record};
use crate::runtime::Runtime;
use crate::runtime::memory::ProcessMemory;

/// Sees objects as they are made, before it is known how many others each stands for.
pub trait Observer {
    /// Before anything is attached.
    ///
    /// # Errors
    /// Why it cannot work with this process: the run does not begin.
    fn begin(
        &mut self,
        _runtime: &Runtime<ProcessMemory>,
        _version: &GoVersion,
    ) -> Result<(), String> {
        Ok(())
    }

    /// An object was made. `objects` is what it can stand for at most.
    fn made(&mut self, _sample: &AllocSample) {}

    /// Time to look at the process; records to hand on. `last`: the run ends.
    fn look(
        &mut self,
        _runtime: &Runtime<ProcessMemory>,
        _now_ns: u64,
        _last: bool,
    ) -> Vec<Record> {
        Vec::new()
    }

    /// Within what time it must look again; `None`: whenever the run does.
    fn within(&self) -> Option<Duration> {
        None
    }

    /// What to tell who looks on, beside what the run tells by itself.
    fn status(&self) -> Option<String> {
        None
    }
}

/// Nobody else.
#[derive(Clone, Copy, Debug, Default)]
pub struct Nobody;

impl Observer for Nobody {}
