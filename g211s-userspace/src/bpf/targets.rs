//! Which processes the kernel side lets pass, and the places that their state has in its maps. A place is used
//! again for another process once nothing of the first can come any more. Must not know what the state means.

use std::collections::BTreeMap;

use aya::{
    Ebpf,
    maps::{Array, HashMap, MapData, PerCpuArray, PerCpuValues},
};
use g211s_ebpf::{
    config::{
        HELD_PS, TARGET_BITS, TargetConfig, ThreadRecord, target_entry, target_select, target_slot,
    },
    counters::TargetCounters,
    hist::{HISTS, HistData},
    series::{PAGES, Page},
    state::{EpollSet, Held, TargetState},
};
use zerocopy::FromZeros as _;

use super::{BpfError, Pod, Session, TargetRequest, error::failed, take};

// SAFETY: `repr(C)` types made of integers alone, without padding (zerocopy's `IntoBytes` is derived for each and
// checks that).
unsafe impl aya::Pod for Pod<TargetState> {}
// SAFETY: as above.
unsafe impl aya::Pod for Pod<EpollSet> {}
// SAFETY: as above.
unsafe impl aya::Pod for Pod<Held> {}

/// The maps that say who is watched, and the state that the kernel side keeps of each.
pub(super) struct Targets {
    /// Two tables of slots.
    slots: Array<MapData, u64>,
    /// `.data`: which of them is used, and how.
    select: Array<MapData, u64>,
    configs: Array<MapData, Pod<TargetConfig>>,
    states: Array<MapData, Pod<TargetState>>,
    held: Array<MapData, Pod<Held>>,
    parks: HashMap<MapData, u64, u64>,
    epoll_sets: HashMap<MapData, u64, Pod<EpollSet>>,
    /// As `select` has it.
    selected: u64,
    /// Who is watched: tgid → index.
    watched: BTreeMap<u32, u32>,
}

impl Targets {
    /// Nobody is watched; `tgids` will be, together.
    pub(super) fn new(ebpf: &mut Ebpf, tgids: &[u32]) -> Result<Self, BpfError> {
        let map_error = |e: aya::maps::MapError| failed("opening a map", &e);
        let selected = target_select(multiplier_for(tgids, 0), 0);
        let mut this = Self {
            slots: Array::try_from(take(ebpf, "TARGETS")?).map_err(map_error)?,
            select: Array::try_from(take(ebpf, ".data")?).map_err(map_error)?,
            configs: Array::try_from(take(ebpf, "CONFIGS")?).map_err(map_error)?,
            states: Array::try_from(take(ebpf, "STATES")?).map_err(map_error)?,
            held: Array::try_from(take(ebpf, "HELD")?).map_err(map_error)?,
            parks: HashMap::try_from(take(ebpf, "PARKS")?).map_err(map_error)?,
            epoll_sets: HashMap::try_from(take(ebpf, "EPOLL_SETS")?).map_err(map_error)?,
            selected,
            watched: BTreeMap::new(),
        };
        this.select.set(0, selected, 0).map_err(map_error)?;
        Ok(this)
    }

    /// Lets a process pass from here on.
    fn admit(&mut self, tgid: u32, index: u32) -> Result<(), aya::maps::MapError> {
        let slot = target_slot(tgid, self.selected);
        let meets = |&other: &u32| other != tgid && target_slot(other, self.selected) == slot;
        let met = self.watched.keys().any(meets);
        self.watched.insert(tgid, index);
        if !met {
            return self.slots.set(slot, target_entry(tgid, index), 0);
        }
        // Everybody moves to the other table, which is filled before a program looks into it. The one that is left
        // is emptied when it is needed again: a program may look into it for some time yet.
        let table = u32::from(self.selected >> 32 == 0);
        let tgids: Vec<u32> = self.watched.keys().copied().collect();
        let multiplier = multiplier_for(&tgids, self.selected as u32);
        let selected = target_select(multiplier, table);
        for slot in table << TARGET_BITS..(table + 1) << TARGET_BITS {
            if self.slots.get(&slot, 0)? != 0 {
                self.slots.set(slot, 0, 0)?;
            }
        }
        for (&tgid, &index) in &self.watched {
            self.slots.set(target_slot(tgid, selected), target_entry(tgid, index), 0)?;
        }
        self.select.set(0, selected, 0)?;
        self.selected = selected;
        Ok(())
    }

    fn dismiss(&mut self, tgid: u32) {
        if self.watched.remove(&tgid).is_some() {
            // An array's value can always be written.
            let _ = self.slots.set(target_slot(tgid, self.selected), 0, 0);
        }
    }

    /// Forgets the state of a place.
    fn clear(&mut self, index: u32) -> Result<(), aya::maps::MapError> {
        self.states.set(index, Pod(TargetState::NEW), 0)?;
        for p in index * HELD_PS..(index + 1) * HELD_PS {
            self.held.set(p, Pod(Held::NONE), 0)?;
        }
        // See `key` in the kernel side's `goroutine.rs`: its target is in the upper 16 bits.
        let parks: Vec<u64> = self
            .parks
            .keys()
            .filter_map(Result::ok)
            .filter(|key| key >> 48 == u64::from(index))
            .collect();
        for key in parks {
            // Gone already is as good.
            let _ = self.parks.remove(&key);
        }
        let sets: Vec<u64> = self
            .epoll_sets
            .iter()
            .filter_map(Result::ok)
            .filter(|(_, Pod(set))| set.target == index)
            .map(|(key, _)| key)
            .collect();
        for key in sets {
            let _ = self.epoll_sets.remove(&key);
        }
        Ok(())
    }
}

impl Session {
    /// Begins to watch a target: every program filters by this table, so this is the moment at
    /// which all of them start to count, together.
    ///
    /// # Errors
    /// [`BpfError`] if the table refuses.
    pub fn watch(&mut self, target: TargetRequest) -> Result<(), BpfError> {
        let config = TargetConfig {
            reason_sweep_term: target.reason_sweep_term,
            close_site: target.close_site as u32,
            has_mark_termination: u32::from(target.has_mark_termination),
            mcache_alloc: target.mcache_alloc,
            assists_since_ns: 0,
            layout: target.layout,
        };
        let index = u32::from(target.index);
        let refused = |e| failed(format!("watching process {}", target.tgid), &e);
        self.targets.configs.set(index, Pod(config), 0).map_err(refused)?;
        self.targets.admit(target.tgid, index).map_err(refused)
    }

    /// Parks of assists that began before now are not to be counted: their probes were away.
    ///
    /// # Errors
    /// [`BpfError`] if the table refuses.
    pub fn assists_since(&mut self, target: u8, now_ns: u64) -> Result<(), BpfError> {
        let index = u32::from(target);
        let failed = |e| failed("watching assists", &e);
        let configs = &mut self.targets.configs;
        let Pod(config) = configs.get(&index, 0).map_err(failed)?;
        let config = TargetConfig { assists_since_ns: now_ns, ..config };
        configs.set(index, Pod(config), 0).map_err(failed)
    }

    /// Stops watching a target: the moment at which every program stops counting it. (One that was past its
    /// filter finishes within microseconds.)
    pub fn unwatch(&mut self, tgid: u32) {
        self.targets.dismiss(tgid);
    }

    /// Makes the place of a target that is not watched any more free for another: nothing that was counted there
    /// is left.
    ///
    /// # Errors
    /// [`BpfError`]; the place must not be used again then.
    pub fn clear(&mut self, target: u8) -> Result<(), BpfError> {
        let index = u32::from(target);
        let refused = |e: aya::maps::MapError| failed("making a target's place free", &e);
        let tids: Vec<u32> = self
            .threads
            .iter()
            .filter_map(Result::ok)
            .filter(|(_, Pod(r)): &(u32, Pod<ThreadRecord>)| r.target == target)
            .map(|(tid, _)| tid)
            .collect();
        for tid in tids {
            let _ = self.threads.remove(&tid);
        }
        self.targets.clear(index).map_err(refused)?;
        zero(&mut self.counters, index..index + 1, TargetCounters::ZERO).map_err(refused)?;
        let hists = HISTS as u32;
        zero(&mut self.hists, index * hists..(index + 1) * hists, HistData::EMPTY)
            .map_err(refused)?;
        zero(&mut self.series, index * PAGES..(index + 1) * PAGES, Page::new_zeroed())
            .map_err(refused)
    }
}

fn zero<T: Copy>(
    map: &mut PerCpuArray<MapData, Pod<T>>,
    entries: std::ops::Range<u32>,
    value: T,
) -> Result<(), aya::maps::MapError>
where
    Pod<T>: aya::Pod,
{
    let cpus = aya::util::nr_cpus().map_err(|(_, e)| aya::maps::MapError::IoError(e))?;
    for entry in entries {
        let values = PerCpuValues::try_from(vec![Pod(value); cpus])?;
        map.set(entry, values, 0)?;
    }
    Ok(())
}

/// A multiplier other than `but` under which each of `tgids` has a slot of a table to itself.
fn multiplier_for(tgids: &[u32], but: u32) -> u32 {
    // Odd multiples of Knuth's hash constant; with 64 targets in 4,096 slots more than half will do.
    let mut candidates = (0..1_000_000_u32).map(|k| (2 * k + 1).wrapping_mul(0x9e37_79b1));
    let fits = |&multiplier: &u32| {
        let slot = |&tgid: &u32| target_slot(tgid, target_select(multiplier, 0));
        let mut slots: Vec<u32> = tgids.iter().map(slot).collect();
        slots.sort_unstable();
        multiplier != but && slots.windows(2).all(|pair| pair[0] != pair[1])
    };
    candidates.find(fits).unwrap_or(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_target_has_a_slot_to_itself() {
        let tgids: Vec<u32> = (0..64).map(|i| 1000 + i * i * 977).collect();
        let multiplier = multiplier_for(&tgids, 0);
        assert_ne!(multiplier_for(&tgids, multiplier), multiplier);
        for table in [0, 1] {
            let slot = |t: &u32| target_slot(*t, target_select(multiplier, table));
            let mut slots: Vec<u32> = tgids.iter().map(slot).collect();
            slots.sort_unstable();
            slots.dedup();
            assert_eq!(slots.len(), tgids.len());
            let own = table << TARGET_BITS..(table + 1) << TARGET_BITS;
            assert!(slots.iter().all(|s| own.contains(s)));
        }
    }
}
