//! What the agent counts, service by service, and how that is shown. A service is all processes with the same labels,
//! at one time or one after the other; what was counted of a process that is gone stays counted. Must not know where
//! records come from, nor who asks.

pub mod expose;
pub mod families;
pub mod histogram;
mod proto;
pub mod service;

use std::collections::BTreeMap;

use crate::record::{Hists, Interval, RuntimeSample};
use crate::report::Note;
use crate::report::schema::StallCause;
use service::{Service, Watch};

/// Services that have series of their own; the processes of others are counted together.
const MAX_SERVICES: usize = 200;
/// A service without a process keeps its series for so long, ns.
const KEEP_NS: u64 = 600_000_000_000;
/// The value of every label of the service that stands for what is too much.
pub const OTHER: &str = "other";

/// Labels that tell a service from others: names and values.
pub type Identity = Vec<(&'static str, String)>;

/// All of it.
#[derive(Debug, Default)]
pub struct Store {
    services: BTreeMap<Identity, Service>,
    /// By index.
    watches: BTreeMap<u8, (Identity, Watch)>,
    /// Culprits that are named for a service.
    culprits: usize,
}

impl Store {
    /// Names so many culprits for each service.
    pub fn new(culprits: usize) -> Self {
        Self { culprits, ..Self::default() }
    }

    /// So many from now on.
    pub fn name_culprits(&mut self, culprits: usize) {
        self.culprits = culprits;
    }

    /// A process is watched from now on.
    pub fn attached(&mut self, index: u8, mut identity: Identity) {
        let is_new = !self.services.contains_key(&identity);
        if is_new && self.services.len() >= MAX_SERVICES {
            for (_, value) in &mut identity {
                OTHER.clone_into(value);
            }
        }
        let service = self.services.entry(identity.clone()).or_default();
        service.processes += 1;
        self.watches.insert(index, (identity, Watch::default()));
    }

    /// It is watched no more.
    pub fn detached(&mut self, index: u8, now_ns: u64) {
        let Some((identity, _)) = self.watches.remove(&index) else { return };
        if let Some(service) = self.services.get_mut(&identity) {
            service.processes = service.processes.saturating_sub(1);
            service.last_ns = now_ns;
        }
    }

    fn of(&mut self, index: u8) -> Option<(&mut Service, &mut Watch)> {
        let (identity, watch) = self.watches.get_mut(&index)?;
        Some((self.services.get_mut(identity)?, watch))
    }

    /// The kernel side's counters.
    pub fn interval(&mut self, interval: &Interval) {
        if let Some((service, watch)) = self.of(interval.target) {
            service.interval(watch, interval);
        }
    }

    /// The kernel side's histograms.
    pub fn hists(&mut self, hists: &Hists) {
        if let Some((service, watch)) = self.of(hists.target) {
            service.hists(watch, hists);
        }
    }

    /// The runtime's own counters.
    pub fn runtime(&mut self, sample: &RuntimeSample) {
        if let Some((service, watch)) = self.of(sample.target) {
            service.runtime(watch, sample);
        }
    }

    /// What the analysis tells.
    pub fn note(&mut self, note: &Note) {
        let target = match note {
            Note::Stop { target, .. }
            | Note::Delay { target, .. }
            | Note::Sleep { target, .. }
            | Note::Cycle { target, .. }
            | Note::Disagreement { target, .. } => *target,
            Note::Notice(_) => return,
        };
        if let Some((service, _)) = self.of(target) {
            service.note(note);
        }
    }

    /// What stalls went to since the last call.
    pub fn stalls(&mut self, index: u8, stalls: &[StallCause]) {
        let culprits = self.culprits;
        if let Some((service, _)) = self.of(index) {
            service.stalls(stalls, culprits);
        }
    }

    /// Forgets services that have been gone for long.
    pub fn prune(&mut self, now_ns: u64) {
        self.services.retain(|_, s| s.processes > 0 || now_ns < s.last_ns + KEEP_NS);
    }

    /// Services that have series.
    pub fn services(&self) -> impl Iterator<Item = (&Identity, &Service)> {
        self.services.iter()
    }

    /// Processes that are watched, with what was last read of each.
    pub fn watches(&self) -> impl Iterator<Item = (&Identity, &Watch)> {
        self.watches.values().map(|(identity, watch)| (identity, watch))
    }

    /// By index: hits of probes so far, and waits for a CPU.
    pub fn hits(&self) -> BTreeMap<u8, (u64, u64)> {
        self.watches.iter().map(|(index, (_, watch))| (*index, watch.hits())).collect()
    }

    /// The labels of a process's service.
    pub fn identity(&self, index: u8) -> Option<&Identity> {
        self.watches.get(&index).map(|(identity, _)| identity)
    }
}
