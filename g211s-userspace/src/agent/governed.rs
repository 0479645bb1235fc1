//! Probes of one target that are hit so often that they come and go, as a `Governor` decides. Must not know
//! what they count for.

use g211s_ebpf::event::Site;

use super::now_ns;
use crate::{
    bpf::{self, BpfError, ProbeHandle, ProbeRequest, Session},
    governor::{Action, Governor},
    record::Interval,
};

/// The probes of some sites.
pub(super) struct Governed {
    sites: &'static [Site],
    probes: Vec<(ProbeRequest, Option<ProbeHandle>)>,
    pub(super) governor: Governor,
}

impl Governed {
    /// None yet.
    pub(super) fn new(sites: &'static [Site], governor: Governor) -> Self {
        Self { sites, probes: Vec::new(), governor }
    }

    /// Whether a site is one of these.
    pub(super) fn has(&self, site: Site) -> bool {
        self.sites.contains(&site)
    }

    /// Takes a probe that has been attached.
    pub(super) fn add(&mut self, request: ProbeRequest, handle: ProbeHandle) {
        self.probes.push((request, Some(handle)));
    }

    /// They count from `now` on; `left_out`: only if there are any.
    pub(super) fn begin(&mut self, now: u64, left_out: bool) {
        if !(left_out && self.probes.is_empty()) {
            self.governor.attached(now, 0);
        }
    }

    /// From now on their hits may be so many a second.
    pub(super) fn allow(&mut self, per_second: f64) {
        self.governor.allow(per_second);
    }

    /// Lets go of all, for good.
    pub(super) fn take(&mut self) -> Vec<ProbeHandle> {
        std::mem::take(&mut self.probes).into_iter().filter_map(|(_, handle)| handle).collect()
    }

    /// Their hits so far.
    pub(super) fn hits(&self, i: &Interval) -> u64 {
        self.sites.iter().filter_map(|&s| i.hits.get(s as usize)).sum()
    }

    /// Whether a look may be over any moment.
    pub(super) fn is_looking(&self, now: u64) -> bool {
        !self.probes.is_empty() && self.governor.is_looking(now)
    }

    /// Does what the governor decides; `all`: also where no look is under way. Whether the probes have just been
    /// attached again.
    ///
    /// # Errors
    /// What the kernel refused; they do not come back then.
    pub(super) fn govern(
        &mut self,
        session: &mut Session,
        index: u8,
        all: bool,
    ) -> Result<bool, BpfError> {
        let now = now_ns();
        if self.probes.is_empty() || !(all || self.governor.is_looking(now)) {
            return Ok(false);
        }
        let hits =
            |this: &Self, session: &Session| session.counters(index, now).map(|i| this.hits(&i));
        // Unreadable for once is not worth a word: the next time will do.
        let Ok(counted) = hits(self, session) else { return Ok(false) };
        match self.governor.decide(now_ns(), counted) {
            Action::Keep => Ok(false),
            Action::Detach => {
                let counted = hits(self, session).unwrap_or(counted);
                self.governor.detached(now_ns(), counted);
                let handles = self.probes.iter_mut().filter_map(|(_, h)| h.take());
                // Not waited for: the loop must not stand still for as long as that takes.
                bpf::detach(handles.collect());
                Ok(false)
            }
            Action::Attach => {
                let mut refused = None;
                for (request, handle) in &mut self.probes {
                    match session.attach_probe(request) {
                        Ok(h) => *handle = Some(h),
                        Err(e) => refused = Some(e),
                    }
                }
                let counted = hits(self, session).unwrap_or(counted);
                self.governor.attached(now_ns(), counted);
                match refused {
                    None => Ok(true),
                    Some(e) => {
                        self.governor.detached(now_ns(), counted);
                        self.governor.give_up();
                        bpf::detach(self.take());
                        Err(e)
                    }
                }
            }
        }
    }
}
