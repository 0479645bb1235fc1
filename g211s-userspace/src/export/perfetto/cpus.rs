//! The tracks of CPUs: who ran, as far as it was sent to explain a wait. Must not know threads' states.
//!
//! Slices come when a wait ends that they explain, so not in their order. They are held back for a while ([`HOLD_NS`]),
//! which also lets a wait that ends later mark them as its cause. What comes later still goes to a second lane.

use std::collections::{BTreeMap, VecDeque};

use anyhow::Result;
use g211s_ebpf::event::SliceEvent;

use super::names::{Kind, OfCpu, Task, Whose, track};
use super::proto::{BY_RANK, TrackDescriptor};
use super::trace::{Lanes, Slice, Trace, Value};
use crate::order::place_from_end;

/// How long slices of CPUs and threads are held back, ns of event time.
pub(super) const HOLD_NS: u64 = 250_000_000;
/// Slices of one CPU that are held back at most.
const MAX_HELD: usize = 1 << 17;
/// Flows that one slice begins at most.
const MAX_FLOWS: usize = 16;

struct Held {
    start_ns: u64,
    end_ns: u64,
    sent_ns: u64,
    tid: u32,
    tgid: u32,
    comm: [u8; 16],
    flows: Vec<u64>,
}

#[derive(Default)]
struct Cpu {
    held: VecDeque<Held>,
    lanes: Option<Lanes<OfCpu>>,
    /// The last that was written: when it began, who it was, how far it reached.
    last: (u64, u32, u64),
}

/// All CPUs.
#[derive(Default)]
pub(super) struct CpuTracks {
    by_cpu: BTreeMap<u16, Cpu>,
    declared: bool,
    /// Slices that found no room.
    pub(super) left_out: u64,
}

impl CpuTracks {
    /// Takes a slice.
    pub(super) fn put(&mut self, e: &SliceEvent) {
        if e.start_ns >= e.end_ns {
            return;
        }
        let cpu = self.by_cpu.entry(e.header.cpu).or_default();
        let mut new = Held {
            start_ns: e.start_ns,
            end_ns: e.end_ns,
            sent_ns: e.header.ts_ns,
            tid: e.header.tid,
            tgid: e.tgid,
            comm: e.comm,
            flows: Vec::new(),
        };
        if (new.start_ns, new.tid) == (cpu.last.0, cpu.last.1) {
            // The same stay, of which a part has been written while it was under way.
            new.start_ns = cpu.last.2;
            if new.start_ns >= new.end_ns {
                return;
            }
        }
        let at = place_from_end(&cpu.held, |h| h.start_ns < new.start_ns);
        match cpu.held.get_mut(at) {
            Some(same) if same.start_ns == new.start_ns && same.tid == new.tid => {
                same.end_ns = same.end_ns.max(new.end_ns);
                if same.comm == [0; 16] || new.comm != [0; 16] {
                    same.comm = new.comm;
                }
                // Whom it has an arrow to must not be written before it.
                if same.flows.is_empty() {
                    same.sent_ns = same.sent_ns.max(new.sent_ns);
                }
            }
            _ => cpu.held.insert(at, new),
        }
    }

    /// A flow that begins at a slice which is still held back, to something that is over at `end_ns`.
    pub(super) fn flow_from(
        &mut self,
        trace: &mut Trace,
        cpu: u16,
        (start_ns, tid): (u64, u32),
        end_ns: u64,
    ) -> Option<u64> {
        let held = &mut self.by_cpu.get_mut(&cpu)?.held;
        let at = place_from_end(held, |h| h.start_ns < start_ns);
        let found = held.get_mut(at).filter(|h| h.start_ns == start_ns && h.tid == tid)?;
        if found.flows.len() >= MAX_FLOWS || found.sent_ns > end_ns {
            return None;
        }
        let flow = trace.flow();
        found.flows.push(flow);
        Some(flow)
    }

    /// Writes what was sent until `until_ns`, and what began before that.
    pub(super) fn flush(
        &mut self,
        trace: &mut Trace,
        until_ns: u64,
        whose: impl Fn(u32) -> Whose,
    ) -> Result<()> {
        for (&number, cpu) in &mut self.by_cpu {
            let due = cpu.held.iter().rposition(|h| h.sent_ns <= until_ns).map_or(0, |i| i + 1);
            let due = due.max(cpu.held.len().saturating_sub(MAX_HELD));
            for held in cpu.held.drain(..due) {
                cpu.last = (held.start_ns, held.tid, held.end_ns);
                let name = match held.tid {
                    0 => OfCpu::Idle,
                    tid => OfCpu::Ran(Task {
                        tgid: held.tgid,
                        tid: if whose(held.tgid) == Whose::Target { tid } else { 0 },
                        comm: held.comm,
                        whose: whose(held.tgid),
                    }),
                };
                let mut slice = Slice::new(held.start_ns, held.end_ns, name);
                if held.tid != 0 {
                    slice.args = vec![
                        ("pid", Value::Number(held.tgid.into())),
                        ("tid", Value::Number(held.tid.into())),
                    ];
                }
                slice.from = held.flows;
                let lanes = cpu.lanes.get_or_insert_with(Lanes::new);
                let declared = &mut self.declared;
                let put = lanes.put(trace, slice, |trace, lane| {
                    if !std::mem::replace(declared, true) {
                        trace.declare(TrackDescriptor {
                            uuid: Some(track(Kind::Cpus, 0, 0, 0)),
                            name: Some("CPUs that were waited for".to_owned()),
                            description: Some(
                                "Who ran there, as far as it explains a wait: gaps are not idle"
                                    .to_owned(),
                            ),
                            child_ordering: Some(BY_RANK),
                            ..TrackDescriptor::default()
                        })?;
                    }
                    let uuid = track(Kind::Cpu, 0, number.into(), lane);
                    trace.declare(TrackDescriptor {
                        uuid: Some(uuid),
                        parent_uuid: Some(track(Kind::Cpus, 0, 0, 0)),
                        name: Some(format!("CPU {number}")),
                        sibling_order_rank: Some(number.into()),
                        ..TrackDescriptor::default()
                    })?;
                    Ok(trace.lane(uuid, "cpu"))
                })?;
                self.left_out += u64::from(!put);
            }
        }
        Ok(())
    }
}
