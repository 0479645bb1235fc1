//! What every stack allocated while every allocation was counted. Must not know what the stacks are.

use aya::{
    Ebpf,
    maps::{Array, HashMap, MapData},
};
use g211s_ebpf::event::AllocSum;

use super::{BpfError, Pod, Session, error::failed, take};

/// The maps of the sums.
pub(super) struct Sums {
    stacks: HashMap<MapData, u64, Pod<AllocSum>>,
    overflow: Array<MapData, Pod<AllocSum>>,
}

impl Sums {
    /// Takes them.
    pub(super) fn new(ebpf: &mut Ebpf) -> Result<Self, BpfError> {
        let refused = |e: aya::maps::MapError| failed("opening a map", &e);
        Ok(Self {
            stacks: HashMap::try_from(take(ebpf, "ALLOC_STACKS")?).map_err(refused)?,
            overflow: Array::try_from(take(ebpf, "ALLOC_OVERFLOW")?).map_err(refused)?,
        })
    }
}

impl Session {
    /// What every stack allocated, by its number, and what stacks did that found no room.
    ///
    /// # Errors
    /// [`BpfError`] if a map cannot be read.
    pub fn alloc_sums(&self) -> Result<(Vec<(u64, AllocSum)>, AllocSum), BpfError> {
        let refused = |e| failed("reading what was allocated", &e);
        let all = self.alloc.stacks.iter().map(|item| item.map(|(key, Pod(sum))| (key, sum)));
        let all = all.collect::<Result<Vec<_>, _>>().map_err(refused)?;
        let Pod(overflow) = self.alloc.overflow.get(&0, 0).map_err(refused)?;
        Ok((all, overflow))
    }

    /// Forgets all that was summed. Not while a target is watched.
    pub(super) fn forget_alloc_sums(&mut self) {
        let keys: Vec<u64> = self.alloc.stacks.keys().filter_map(Result::ok).collect();
        for key in keys {
            // What is gone already is as well.
            let _ = self.alloc.stacks.remove(&key);
        }
    }
}
