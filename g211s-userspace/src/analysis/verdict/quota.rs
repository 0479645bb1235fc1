//! Where in a wait a CPU quota kept the thread off its queue, if it did so several times: the kernel tells for
//! how long in all, and when first. Must not know stops.
//!
//! The thread's whole group is off its CPU then, so a CPU that idles under the wait is idle because of it, and
//! in between the group's own threads run. So the idle time of the wait is the quota's, and of the rest so
//! much from the beginning on as is left. Time of which no slice tells may have been idle or not: what
//! depends on that is charged to nobody, so that a lost slice never adds to any cause.

use crate::model::cpus::Cpus;

/// A part of a wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Part {
    pub(super) from: u64,
    pub(super) to: u64,
    /// It is the quota's; else it is not known whose.
    pub(super) quota: bool,
}

/// Who had the CPU: `None`: not known; else whether it was idle.
type Stretch = (u64, u64, Option<bool>);

/// The end of the shortest part from `start` on that, with the free time after it, makes `total`.
fn prefix(
    stretches: &[Stretch],
    start: u64,
    total: u64,
    free: impl Fn(Option<bool>) -> bool,
) -> u64 {
    let all: u64 = stretches.iter().filter(|s| free(s.2)).map(|s| s.1 - s.0).sum();
    let mut missing = total.saturating_sub(all);
    let mut end = start;
    for &(s, e, who) in stretches {
        if missing == 0 {
            break;
        }
        end = e;
        if !free(who) {
            end = e.min(s.saturating_add(missing));
            missing -= end - s;
        }
    }
    end
}

/// Spreads `total` over `[start, end)` of a wait for `cpu`; what is in no part is as its slices say. Ascending.
pub(super) fn spread(cpus: &Cpus, cpu: u16, (start, end, total): (u64, u64, u64)) -> Vec<Part> {
    let mut stretches: Vec<Stretch> = Vec::new();
    cpus.walk(cpu, start, end, |s, e, slice| {
        stretches.push((s, e, slice.map(|slice| slice.tid == 0)));
    });
    // If all that is unknown was idle, and if none of it was.
    let least = prefix(&stretches, start, total, |who| who != Some(false));
    let most = prefix(&stretches, start, total, |who| who == Some(true));
    let mut parts = vec![Part { from: start, to: least, quota: true }];
    let mut certain = total.saturating_sub(least - start);
    let mut possible = if most > start { u64::MAX } else { total };
    for &(s, e, who) in &stretches {
        let s = s.max(least);
        if s >= e {
            continue;
        }
        match who {
            None => certain = certain.saturating_sub(e - s),
            Some(false) => parts.push(Part { from: s, to: e.min(most), quota: false }),
            Some(true) => {
                let sure = e.min(s.saturating_add(certain));
                let maybe = e.min(s.saturating_add(possible));
                parts.push(Part { from: s, to: sure, quota: true });
                parts.push(Part { from: sure, to: maybe, quota: false });
                certain -= sure - s;
                possible -= maybe - s;
            }
        }
    }
    parts.retain(|p| p.from < p.to);
    parts
}
