//! What the kernel side has counted, read from its maps: counters, histograms, losses, threads.

use std::collections::BTreeMap;

use g211s_ebpf::{
    config::ThreadRecord,
    event::{EVENT_CLASSES, EventKind, Header, SITES, THREAD_FINAL, ThreadEvent, ThreadState},
    hist::{HISTS, HistData},
};

use super::{BpfError, Pod, Session, error::failed};
use crate::record::{Hists, Interval, ProgramCost, SparseHist, ThreadTotals};

/// What became of the events so far, summed over CPUs, indexed by `EventKind`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Loss {
    /// Wanted to be sent.
    pub produced: [u64; EVENT_CLASSES],
    /// Found the ring full.
    pub lost: [u64; EVENT_CLASSES],
    /// Threads without a record.
    pub threads_full: u64,
}
impl Session {
    /// A target's counters, summed over CPUs.
    ///
    /// # Errors
    /// [`BpfError`] if the map cannot be read.
    pub fn counters(&self, target: u8, ts_ns: u64) -> Result<Interval, BpfError> {
        let values = self
            .counters
            .get(&u32::from(target), 0)
            .map_err(|e| failed("reading the counters", &e))?;
        let mut i = Interval { ts_ns, target, hits: vec![0; SITES], ..Interval::default() };
        for Pod(c) in values.iter() {
            i.woken += c.woken;
            i.woken_ns += c.woken_ns;
            i.preempted += c.preempted;
            i.preempted_ns += c.preempted_ns;
            i.yielded += c.yielded;
            i.yielded_ns += c.yielded_ns;
            i.oncpu += c.oncpu;
            i.oncpu_ns += c.oncpu_ns;
            i.epoll_nonblocking += c.epoll_nonblocking;
            i.epoll_blocking += c.epoll_blocking;
            i.epoll_slept += c.epoll_slept;
            i.epoll_slept_ns += c.epoll_slept_ns;
            i.epoll_events += c.epoll_events;
            i.epoll_empty += c.epoll_empty;
            i.epoll_late += c.epoll_late;
            i.epoll_late_ns += c.epoll_late_ns;
            i.stw += c.stw;
            i.gc += c.gc;
            i.large_bytes += c.large_bytes;
            i.parks_full += c.parks_full;
            i.held_full += c.held_full;
            i.held_cut += c.held_cut;
            for (sum, n) in i.hits.iter_mut().zip(c.hits) {
                *sum += n;
            }
        }
        Ok(i)
    }

    /// A target's histograms, summed over CPUs.
    ///
    /// # Errors
    /// [`BpfError`] if the map cannot be read.
    pub fn hists(&self, target: u8, ts_ns: u64) -> Result<Hists, BpfError> {
        let mut hists = BTreeMap::new();
        for hist in 0..HISTS as u32 {
            let values = self
                .hists
                .get(&(u32::from(target) * HISTS as u32 + hist), 0)
                .map_err(|e| failed("reading the histograms", &e))?;
            let mut sum = HistData::EMPTY;
            for Pod(h) in values.iter() {
                sum.count += h.count;
                sum.sum += h.sum;
                sum.max = sum.max.max(h.max);
                for (s, b) in sum.buckets.iter_mut().zip(h.buckets) {
                    *s += b;
                }
            }
            let buckets = sum
                .buckets
                .iter()
                .enumerate()
                .filter(|&(_, &n)| n > 0)
                .map(|(b, &n)| (b as u16, n))
                .collect();
            let sparse = SparseHist { count: sum.count, sum: sum.sum, max: sum.max, buckets };
            hists.insert(hist as u8, sparse);
        }
        Ok(Hists { ts_ns, target, hists })
    }

    /// What became of the events so far.
    ///
    /// # Errors
    /// [`BpfError`] if the map cannot be read.
    pub fn loss(&self) -> Result<Loss, BpfError> {
        let values = self.loss.get(&0, 0).map_err(|e| failed("reading the loss counters", &e))?;
        let mut loss = Loss::default();
        for Pod(l) in values.iter() {
            for class in 0..EVENT_CLASSES {
                loss.produced[class] += l.produced[class];
                loss.lost[class] += l.lost[class];
            }
            loss.threads_full += l.threads_full;
        }
        Ok(loss)
    }

    /// Context switches on the host since attach.
    pub fn switches(&self) -> u64 {
        self.cpus.iter().filter_map(Result::ok).map(|Pod(c)| c.ended).sum()
    }

    /// Takes a thread that has exited out of the table; `None` if it is not there, or has not left
    /// its CPU for the last time yet.
    pub fn take_exited(&mut self, tid: u32) -> Option<ThreadTotals> {
        let Pod(record) = self.threads.get(&tid, 0).ok()?;
        if record.state != ThreadState::Exited as u8 {
            return None;
        }
        // Gone already is as good.
        let _ = self.threads.remove(&tid);
        Some(totals(tid, &record, record.since_ns))
    }

    /// What these threads have done so far; those that are not in the table are left out.
    pub fn thread_sums(&self, tids: &[u32], now_ns: u64) -> Vec<ThreadTotals> {
        let read = tids.iter().filter_map(|tid| Some((*tid, self.threads.get(tid, 0).ok()?)));
        read.map(|(tid, Pod(record))| totals(tid, &record, now_ns)).collect()
    }

    /// For each thread still known: the interval that it is in now, as an event, and what it did in
    /// all. Call after [`Self::unwatch`], when the kernel side has stopped changing the table.
    pub fn final_threads(
        &self,
        now_ns: u64,
        window: impl Fn(u8) -> u32,
    ) -> (Vec<ThreadEvent>, Vec<ThreadTotals>) {
        let mut threads: Vec<_> =
            self.threads.iter().filter_map(Result::ok).map(|(tid, Pod(r))| (tid, r)).collect();
        threads.sort_unstable_by_key(|&(tid, _)| tid);
        let all = threads.iter().map(|(tid, r)| totals(*tid, r, now_ns)).collect();
        let events = threads
            .iter()
            .filter(|(_, r)| r.state != ThreadState::Exited as u8)
            .map(|&(tid, r)| ThreadEvent {
                header: Header {
                    ts_ns: now_ns,
                    kind: EventKind::Thread as u8,
                    target: r.target,
                    cpu: r.cpu,
                    tid,
                },
                since_ns: r.since_ns,
                queued_ns: r.queued_ns,
                window: window(r.target),
                syscall: r.syscall,
                peer_tid: 0,
                prev_cpu: r.cpu,
                from: r.state,
                to: r.state,
                flags: THREAD_FINAL,
                irq_ns: 0,
                kept_off_ns: 0,
                kept_off_after_ns: 0,
            })
            .collect();
        (events, all)
    }

    /// Time spent in each program, where `kernel.bpf_stats_enabled` (or [`enable_stats`]) is on.
    pub fn program_costs(&self) -> Vec<ProgramCost> {
        let mut costs: Vec<_> = self
            .ebpf
            .programs()
            .filter_map(|(name, p)| {
                let info = p.info().ok()?;
                let counted = info.run_count() > 0;
                Some(ProgramCost {
                    name: name.to_owned(),
                    runs: counted.then(|| info.run_count()),
                    run_ns: counted.then(|| info.run_time().as_nanos() as u64),
                })
            })
            .collect();
        costs.sort_by(|a, b| a.name.cmp(&b.name));
        costs
    }
}

/// A thread's sums, its present interval included up to `now_ns`.
fn totals(tid: u32, r: &ThreadRecord, now_ns: u64) -> ThreadTotals {
    let (mut state_ns, mut state_count) = (r.state_ns, r.state_count);
    if r.since_ns != 0
        && now_ns > r.since_ns
        && let Some(ns) = state_ns.get_mut(usize::from(r.state))
    {
        *ns += now_ns - r.since_ns;
        state_count[usize::from(r.state)] += 1;
    }
    let exited = r.state == ThreadState::Exited as u8;
    ThreadTotals { target: r.target, tid, exited, state_ns, state_count }
}
