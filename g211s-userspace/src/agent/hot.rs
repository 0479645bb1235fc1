//! What a target's probes in hot code may take together: a share of its CPU time, told as hits a second. Must not know
//! which probes those are.

use nix::sys::time::TimeValLike as _;
use nix::time::{ClockId, clock_getcpuclockid, clock_gettime};
use nix::unistd::Pid;

use super::now_ns;
use crate::account::{Cpus, LEAST_CPU};

/// What hits may take.
#[derive(Clone, Copy, Debug)]
pub(super) struct HotBudget {
    /// Of the target's CPU time.
    pub(super) share: f64,
    /// What a hit costs, ns.
    pub(super) hit_ns: u64,
}

/// A target's allowance.
#[derive(Debug)]
pub(super) struct Hot {
    pub(super) budget: HotBudget,
    clock: Option<ClockId>,
    cpus: Cpus,
    /// Its CPU time as the window began, ns.
    began_ns: Option<u64>,
}

impl Hot {
    /// Of process `pid`, as our PID namespace numbers it.
    pub(super) fn new(budget: HotBudget, pid: u32) -> Self {
        let pid = i32::try_from(pid).ok().map(Pid::from_raw);
        let clock = pid.and_then(|pid| clock_getcpuclockid(pid).ok());
        let mut new = Self { budget, clock, cpus: Cpus::default(), began_ns: None };
        new.began_ns = new.cpu_ns();
        new.allowed();
        new
    }

    /// The target's CPU time, ns; `None` where it is gone or cannot be told.
    fn cpu_ns(&self) -> Option<u64> {
        let now = clock_gettime(self.clock?).ok()?;
        Some(now.num_nanoseconds() as u64)
    }

    /// CPU time of the target since the window began, ns.
    pub(super) fn target_cpu_ns(&self) -> Option<u64> {
        Some(self.cpu_ns()?.saturating_sub(self.began_ns?))
    }

    /// Hits a second that its CPU time allows now, of all its hot probes together.
    pub(super) fn allowed(&mut self) -> f64 {
        if let Some(cpu_ns) = self.cpu_ns() {
            self.cpus.see(now_ns(), cpu_ns);
        }
        self.cpus.share_ns(self.budget.share, LEAST_CPU) / self.budget.hit_ns.max(1) as f64
    }
}
