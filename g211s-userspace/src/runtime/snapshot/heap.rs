//! The heap's figures from the bytes of `gcController`. Must not know how they were read.

use crate::record::HeapSample;
use crate::runtime::Runtime;
use crate::runtime::memory::Memory;

pub(super) const CONTROLLER: &str = "runtime.gcControllerState";

/// `minRunway` of `heapGoalInternal` (Go `runtime/mgcpacer.go`).
const MIN_RUNWAY: u64 = 64 << 10;
/// `memoryLimitMinHeapGoalHeadroom`.
const MIN_HEADROOM: u64 = 1 << 20;
/// `memoryLimitHeapGoalHeadroomPercent`.
const HEADROOM_PERCENT: u64 = 3;

/// Goals from here on (4 EB) are none.
const NO_GOAL: u64 = 1 << 62;

/// What `gcController` holds, as far as the goal depends on it.
#[derive(Clone, Copy, Debug, Default)]
struct Controller {
    percent_goal: u64,
    sweep_min_trigger: u64,
    triggered: u64,
    marked: u64,
    memory_limit: i64,
    /// `heapFree`, `totalAlloc - totalFree`, `mappedReady`.
    limits: Option<(u64, u64, u64)>,
}

/// From the bytes of the whole struct.
pub(super) fn sample<M: Memory>(runtime: &Runtime<M>, bytes: &[u8]) -> Option<HeapSample> {
    let value = |field: &str| {
        let at = runtime.field(CONTROLLER, field).ok()?;
        let from = at.off as usize;
        super::number(bytes.get(from..from.checked_add(at.size as usize)?)?)
    };
    let objects = value("totalAlloc").zip(value("totalFree")).and_then(|(a, f)| a.checked_sub(f));
    let limits = value("heapFree").zip(value("mappedReady")).zip(objects);
    let controller = Controller {
        percent_goal: value("gcPercentHeapGoal")?,
        sweep_min_trigger: value("sweepDistMinTrigger").unwrap_or(0),
        triggered: value("triggered")?,
        marked: value("heapMarked")?,
        memory_limit: value("memoryLimit")? as i64,
        limits: limits.map(|((free, ready), alloc)| (free, alloc, ready)),
    };
    Some(HeapSample {
        live: value("heapLive")?,
        marked: controller.marked,
        objects,
        goal: goal(&controller),
        gc_percent: value("gcPercent")? as u32 as i32,
        memory_limit: controller.memory_limit,
        other: controller
            .limits
            .and_then(|(free, alloc, ready)| ready.checked_sub(free.checked_add(alloc)?)),
    })
}

/// `heapGoalInternal`, the same from Go 1.21 to 1.27 (sources compared). `None` where the memory
/// limit decides and its part cannot be told. (There always is a limit: `i64::MAX` stands for none,
/// and is the goal, more or less, where GOGC is off.)
fn goal(c: &Controller) -> Option<u64> {
    let by_limit = if c.memory_limit == i64::MAX && c.percent_goal < NO_GOAL {
        u64::MAX
    } else {
        let (free, alloc, ready) = c.limits?;
        limit_goal(c, free, alloc, ready)?
    };
    if by_limit < c.percent_goal {
        return Some(by_limit);
    }
    let goal = c.percent_goal.max(c.sweep_min_trigger);
    // u64::MAX: no cycle is under way.
    let floor = if c.triggered == u64::MAX { 0 } else { c.triggered.saturating_add(MIN_RUNWAY) };
    Some(goal.max(floor))
}

/// `memoryLimitHeapGoal`. `None`: the three were read while they changed, and do not fit.
fn limit_goal(c: &Controller, free: u64, alloc: u64, ready: u64) -> Option<u64> {
    let limit = u64::try_from(c.memory_limit).ok()?;
    let other = ready.checked_sub(free.checked_add(alloc)?)?;
    let taken = other.saturating_add(ready.saturating_sub(limit));
    if taken >= limit {
        return Some(c.marked);
    }
    let goal = limit - taken;
    let headroom = (goal / 100 * HEADROOM_PERCENT).max(MIN_HEADROOM);
    let goal =
        if goal < headroom || goal - headroom < headroom { headroom } else { goal - headroom };
    Some(goal.max(c.marked))
}

#[cfg(test)]
mod tests {
    use super::*;

    const MB: u64 = 1 << 20;

    #[test]
    fn the_goal_is_the_runtimes() {
        let plain = Controller {
            percent_goal: 40 * MB,
            triggered: u64::MAX,
            marked: 20 * MB,
            memory_limit: i64::MAX,
            ..Controller::default()
        };
        assert_eq!(goal(&plain), Some(40 * MB));
        let late = Controller { triggered: 40 * MB, ..plain };
        assert_eq!(goal(&late), Some(40 * MB + MIN_RUNWAY));
        let swept = Controller { sweep_min_trigger: 41 * MB, ..plain };
        assert_eq!(goal(&swept), Some(41 * MB));
        // A limit of 34 MB, 4 MB of them not heap: 30 MB less 1 MB of headroom.
        let limited = Controller {
            memory_limit: 34 * MB as i64,
            limits: Some((5 * MB, 20 * MB, 29 * MB)),
            ..plain
        };
        assert_eq!(goal(&limited), Some(29 * MB));
        let beyond = Controller { memory_limit: 3 * MB as i64, ..limited };
        assert_eq!(goal(&beyond), Some(20 * MB), "never below what was marked");
        assert_eq!(goal(&Controller { limits: None, ..limited }), None);
        let off = Controller { percent_goal: u64::MAX, memory_limit: i64::MAX, ..limited };
        // 2^63 - 1 less 4 MB, less 3 %.
        let limit = i64::MAX as u64 - 4 * MB;
        assert_eq!(goal(&off), Some(limit - limit / 100 * 3));
    }
}
