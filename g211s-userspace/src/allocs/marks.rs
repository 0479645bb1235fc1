//! When the collector marked: the phases of the cycle that ended last, read from the target's memory often enough to see
//! most cycles. Must not know samples.

use crate::go::globals::Global;
use crate::runtime::memory::Memory;
use crate::runtime::{Feature, Runtime};

/// Cycles between two states that are kept: beyond, more would tell no more.
const MAX_MARKS: usize = 256;
const WORK: &str = "runtime.workType";

/// Sees cycles go by.
#[derive(Debug, Default)]
pub(super) struct Marks {
    /// Where `work.tSweepTerm`, `tMark`, `tMarkTerm` and `tEnd` are; `None` where they may not be believed.
    at: Option<[u64; 4]>,
    last: u64,
    seen: Vec<(u64, u64)>,
}

impl Marks {
    /// Of a process.
    pub(super) fn of<M: Memory>(runtime: &Runtime<M>) -> Self {
        let at = |name| {
            let field = runtime.field(WORK, name).ok().filter(|f| f.size == 8)?;
            Some(runtime.address(Global::Work).ok()?.wrapping_add(u64::from(field.off)))
        };
        let all = || Some([at("tSweepTerm")?, at("tMark")?, at("tMarkTerm")?, at("tEnd")?]);
        let at = runtime.usable(Feature::Cycle).ok().and_then(|()| all());
        Self { at, ..Self::default() }
    }

    /// Looks at the last cycle: one system call, or two. `since`: no cycle that began before counts.
    pub(super) fn look(&mut self, memory: &impl Memory, since: u64) {
        let Some(at) = self.at else { return };
        let mut words = [[0_u8; 8]; 4];
        let mut asked: Vec<(u64, &mut [u8])> =
            at.iter().zip(&mut words).map(|(at, word)| (*at, word.as_mut_slice())).collect();
        if memory.read_many(&mut asked).iter().any(|ok| !ok) {
            return;
        }
        let [begin, mark, term, end] = words.map(u64::from_le_bytes);
        // Otherwise a cycle is under way (mgc.go sets them in this order), and the last ones are another's.
        let is_over = begin <= mark && mark <= term && term <= end;
        if is_over && mark > since && mark != self.last && self.seen.len() < MAX_MARKS {
            self.last = mark;
            self.seen.push((mark, term));
        }
    }

    /// Those seen since the last time.
    pub(super) fn take(&mut self) -> Vec<(u64, u64)> {
        std::mem::take(&mut self.seen)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::runtime::memory::fake::FakeMemory;

    #[test]
    fn only_whole_cycles_count_and_each_once() {
        let mut marks = Marks { at: Some([0x1000, 0x1008, 0x1010, 0x1018]), ..Marks::default() };
        let mut look = |words: [u64; 4], since| {
            let mut memory = FakeMemory::default();
            memory.map(0x1000, 32);
            for (n, word) in (0..).zip(words) {
                memory.put(0x1000 + 8 * n, word, 8);
            }
            marks.look(&memory, since);
            marks.take()
        };
        assert_eq!(look([10, 20, 30, 40], 0), [(20, 30)]);
        assert_eq!(look([10, 20, 30, 40], 0), [], "known");
        assert_eq!(look([50, 60, 30, 40], 0), [], "it marks");
        assert_eq!(look([50, 60, 70, 40], 0), [], "it terminates");
        assert_eq!(look([50, 60, 70, 80], 65), [], "it began before");
        assert_eq!(look([50, 60, 70, 80], 0), [(60, 70)]);
        marks.look(&FakeMemory::default(), 0);
        assert!(marks.take().is_empty());
    }
}
