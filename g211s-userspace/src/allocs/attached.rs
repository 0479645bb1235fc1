//! The probes in the allocator: which are attached, and for how long they have been. Must not know budgets or
//! events.

use super::budget::Plan;
use crate::agent::now_ns;
use crate::bpf::{self, ProbeHandle, ProbeRequest, Session};
use crate::go::plan::{AllocPlan, PlannedProbe};
use crate::target::ResolvedTarget;

/// The probes, and which of them are attached.
pub(super) struct Attached {
    refill: Vec<ProbeRequest>,
    next_free: Vec<ProbeRequest>,
    large: Vec<ProbeRequest>,
    pub(super) exact: Vec<ProbeRequest>,
    pub(super) handles: Vec<ProbeHandle>,
    pub(super) large_handles: Vec<ProbeHandle>,
    pub(super) since: Option<u64>,
    observed_ns: u64,
    pub(super) looks: u32,
    pub(super) planned: Vec<PlannedProbe>,
}

impl Attached {
    pub(super) fn new(plan: &AllocPlan, target: &ResolvedTarget) -> Self {
        let requests = |probes: &[PlannedProbe]| {
            let request = |p: &PlannedProbe| ProbeRequest {
                site: p.site,
                file: target.exe_path.clone(),
                file_offset: p.file_offset,
                pid: target.pid,
            };
            probes.iter().map(request).collect::<Vec<_>>()
        };
        Self {
            refill: requests(&plan.refill),
            next_free: requests(&plan.next_free),
            large: requests(&plan.large),
            exact: requests(&plan.exact),
            handles: Vec::new(),
            large_handles: Vec::new(),
            since: None,
            observed_ns: 0,
            looks: 0,
            planned: [&plan.refill, &plan.next_free, &plan.large, &plan.exact]
                .into_iter()
                .flatten()
                .cloned()
                .collect(),
        }
    }

    pub(super) fn observed_ns(&self, now: u64) -> u64 {
        self.observed_ns + self.since.map_or(0, |since| now.saturating_sub(since))
    }

    /// Goes from one plan to another.
    pub(super) fn change(
        &mut self,
        session: &mut Session,
        from: Plan,
        to: Plan,
    ) -> Result<(), bpf::BpfError> {
        let now = now_ns();
        // Not waited for: the kernel takes its time, and the account must not stand still meanwhile.
        bpf::detach(std::mem::take(&mut self.handles));
        if to == Plan::Resting {
            bpf::detach(std::mem::take(&mut self.large_handles));
            self.observed_ns = self.observed_ns(now);
            self.since = None;
            return Ok(());
        }
        let requests = if to == Plan::NextFree { &self.next_free } else { &self.refill };
        for request in requests {
            self.handles.push(session.attach_probe(request)?);
        }
        if from == Plan::Resting {
            for request in &self.large {
                self.large_handles.push(session.attach_probe(request)?);
            }
            self.since = Some(now_ns());
            self.looks += 1;
        }
        Ok(())
    }
}
