//! The runtime's Ms: which thread is which. Must not know samples.

use std::collections::BTreeMap;

use super::{number, read_all};
use crate::go::globals::Global;
use crate::go::offsets::Field;
use crate::runtime::memory::Memory;
use crate::runtime::{Feature, Runtime};

/// Most Ms looked at: the runtime gives up at 10,000 (`sched.maxmcount`).
const MAX_MS: usize = 20_000;

/// An M.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MRow {
    /// `m.id`.
    pub id: u64,
    /// `m.procid`: its thread, in the target's PID namespace; 0: none yet, or an M kept for threads
    /// that C made.
    pub procid: u64,
}

/// All Ms, and how many of them are kept for threads that C made: a walk along `allm`, one read for
/// each.
pub(super) fn all<M: Memory>(runtime: &Runtime<M>) -> (Vec<MRow>, u64) {
    let (mut rows, mut extra) = (Vec::new(), 0);
    walk(runtime, |row, is_extra| {
        extra += u64::from(is_extra);
        rows.push(row);
        true
    });
    (rows, extra)
}

/// How many Ms are kept for threads that C made: each has a goroutine that is none of the program's, and
/// that the runtime counts among its own.
pub fn extra<M: Memory>(runtime: &Runtime<M>) -> u64 {
    all(runtime).1
}

/// The Ms of these threads, as far as they are among the `most` newest: `allm` begins with the
/// newest (Go `runtime/proc.go`, `mcommoninit`).
pub fn newest<M: Memory>(runtime: &Runtime<M>, procids: &[u64], most: usize) -> Vec<MRow> {
    let mut found: Vec<MRow> = Vec::new();
    let mut looked = 0;
    walk(runtime, |row, _| {
        looked += 1;
        if procids.contains(&row.procid) {
            found.push(row);
        }
        found.len() < procids.len() && looked < most
    });
    found
}

/// The Ms at these addresses, as far as they can be read.
pub(super) fn at<M: Memory>(runtime: &Runtime<M>, ms: &[u64]) -> BTreeMap<u64, MRow> {
    let fields = ["id", "procid"].map(|f| runtime.field("runtime.m", f).ok());
    let [Some(id), Some(procid)] = fields else { return BTreeMap::new() };
    let ranges: Vec<(u64, usize)> = ms
        .iter()
        .flat_map(|m| [id, procid].map(|f| (m.wrapping_add(u64::from(f.off)), 8)))
        .collect();
    let read = read_all(runtime.memory(), &ranges);
    let value = |b: &Option<Vec<u8>>| number(b.as_deref()?);
    let rows = ms.iter().zip(read.chunks_exact(2)).filter_map(|(m, pair)| {
        Some((*m, MRow { id: value(&pair[0])?, procid: value(&pair[1])? }))
    });
    rows.collect()
}

/// Goes along `allm` while `visit` (the M; whether it is kept for threads that C made) says so.
fn walk<M: Memory>(runtime: &Runtime<M>, mut visit: impl FnMut(MRow, bool) -> bool) {
    let field = |name| runtime.field("runtime.m", name).ok();
    let (Some(id), Some(procid), Some(link)) = (field("id"), field("procid"), field("alllink"))
    else {
        return;
    };
    if runtime.usable(Feature::Threads).is_err() {
        return;
    }
    let in_c = field("isExtraInC");
    let all = [Some(id), Some(procid), Some(link), in_c];
    let start = all.iter().flatten().map(|f| f.off).min().unwrap_or(0);
    let end = all.iter().flatten().map(|f| f.off + f.size).max().unwrap_or(0);
    let Ok(mut at) = runtime.address(Global::Allm).and_then(|a| runtime.u64_at(a)) else { return };
    // The list is the target's: it may be a ring.
    for _ in 0..MAX_MS {
        if at == 0 {
            return;
        }
        let from = at.wrapping_add(u64::from(start));
        let Ok(bytes) = runtime.bytes_at(from, (end - start) as usize) else { return };
        let value = |f: Field| {
            let from = (f.off - start) as usize;
            number(bytes.get(from..from + f.size.min(8) as usize)?)
        };
        let (Some(id), Some(procid), Some(next)) = (value(id), value(procid), value(link)) else {
            return;
        };
        let extra = in_c.and_then(value).is_some_and(|n| n != 0);
        if !visit(MRow { id, procid }, extra) {
            return;
        }
        at = next;
    }
}
