//! Follows what is allocated during a run: takes each object as it is made, looks after each collection, and tells what
//! became of whom as records. Must not know what an object stands for: that is known later, and matched by whoever
//! takes the records.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use super::liveness::{Answer, Followed, Follower, Outcome, Sample, Why};
use super::typed::{Place, types_of};
use crate::agent::now_ns;
use crate::allocs::observer::Observer;
use crate::go::globals::Global;
use crate::go::version::GoVersion;
use crate::record::{AllocDensity, AllocSample, HeapFate, HeapLook, HeapObject, HeapType, Record};
use crate::runtime::memory::{Memory, ProcessMemory};
use crate::runtime::types::Types;
use crate::runtime::{Feature, Runtime};

/// Objects followed at a time; beyond, half are let go by chance. A look at all takes some 50 ms of our CPU time.
const CAPACITY: usize = 1 << 17;
/// Objects of one record.
const RECORD: usize = 4096;
/// So many looks between two collections, so that none is missed.
const LOOKS_PER_CYCLE: u64 = 8;
/// No more often than this: what is polled costs us CPU time.
const SHORTEST: Duration = Duration::from_millis(5);
/// At the end, spans that were not swept yet are waited for so long (the runtime sweeps them in the background).
const SWEEP_TRIES: u32 = 10;
const SWEEP_REST: Duration = Duration::from_millis(20);

/// Objects that are followed.
#[derive(Debug, Default)]
pub struct Following {
    follower: Option<Follower>,
    types: Option<Types>,
    /// Who each is (time, thread), by the number it is followed under.
    names: HashMap<u64, (u64, u32)>,
    next: u64,
    /// The generation of the last look, and when it was new, ns.
    last: Option<(u32, u64)>,
    /// Time between collections, ns, smoothed.
    period_ns: Option<u64>,
    /// Something is to be looked at again, or came late.
    again: bool,
    looks: u64,
    unusable: u64,
    cycles: Option<u32>,
}

impl Following {
    /// Nobody yet. Without `types`, objects have none.
    pub fn new(types: Option<Types>) -> Self {
        Self { types, ..Self::default() }
    }

    fn is_due(&mut self, generation: u32, now_ns: u64) -> bool {
        match self.last {
            Some((last, _)) if last == generation => self.again,
            Some((last, since)) => {
                let passed = u64::from(generation.wrapping_sub(last) / 2).max(1);
                let period = now_ns.saturating_sub(since) / passed;
                // Shorter ones count at once, longer ones by and by.
                self.period_ns =
                    Some(self.period_ns.map_or(period, |p| period.min((3 * p + period) / 4)));
                true
            }
            None => true,
        }
    }

    fn name(&self, id: u64, fate: HeapFate, times: u64) -> Option<HeapObject> {
        self.names.get(&id).map(|&(ts_ns, tid)| HeapObject { ts_ns, tid, fate, times })
    }

    /// Looks once, if there is reason to; what died, and how many collections were missed before.
    fn look_once<M: Memory>(
        &mut self,
        runtime: &Runtime<M>,
        now_ns: u64,
    ) -> Result<Option<(Outcome, u32)>, String> {
        let Some(mut follower) = self.follower.take() else { return Ok(None) };
        let done = self.with(&mut follower, runtime, now_ns);
        self.follower = Some(follower);
        done
    }

    fn with<M: Memory>(
        &mut self,
        follower: &mut Follower,
        runtime: &Runtime<M>,
        now_ns: u64,
    ) -> Result<Option<(Outcome, u32)>, String> {
        let memory = runtime.memory();
        let generation = follower.generation(memory).map_err(|e| e.to_string())?;
        if !self.is_due(generation, now_ns) {
            return Ok(None);
        }
        let out = follower.look(memory).map_err(|e| e.to_string())?;
        self.looks += 1;
        self.unusable += out.unusable.objects;
        self.again = out.moved || out.unswept.objects > 0;
        let missed = self
            .last
            .map_or(0, |(last, _)| (out.generation.wrapping_sub(last) / 2).saturating_sub(1));
        if self.last.is_none_or(|(last, _)| last != out.generation) {
            self.last = Some((out.generation, now_ns));
            let read = || runtime.u64(Global::Memstats, "runtime.mstats", "numgc").ok();
            let read = runtime.usable(Feature::Gc).ok().and_then(|()| read());
            self.cycles = read.map(|n| n as u32);
        }
        Ok(Some((out, missed)))
    }

    fn record(&self, now_ns: u64, missed: u32, last: bool, objects: Vec<HeapObject>) -> HeapLook {
        HeapLook {
            target: 0,
            ts_ns: now_ns,
            sweepgen: self.last.map_or(0, |(generation, _)| generation),
            cycles: self.cycles,
            missed,
            looks: self.looks,
            last,
            refused: self.unusable + self.follower.as_ref().map_or(0, Follower::refused),
            objects,
            types: Vec::new(),
            failed: None,
        }
    }

    /// Of what types those are that live.
    fn types<M: Memory>(&mut self, runtime: &Runtime<M>) -> Vec<HeapType> {
        let Self { follower: Some(follower), types: Some(types), names, .. } = self else {
            return Vec::new();
        };
        let lives =
            |f: &Followed| matches!(f.answer, Answer::Live | Answer::Unknown(Why::Missed(_)));
        let all: Vec<Followed> = follower.followed().filter(lives).collect();
        let places: Vec<Place> =
            all.iter().map(|f| Place { address: f.sample.address, span: f.span }).collect();
        let found = types_of(follower.heap(), types, runtime.memory(), &places);
        let mut told: HashMap<String, HeapType> = HashMap::new();
        for (followed, kind) in all.iter().zip(found) {
            if let (Some(kind), Some(name)) = (kind, names.get(&followed.sample.id)) {
                let (size, empty) = (kind.size, Vec::new());
                let new = || HeapType { name: kind.name.clone(), size, objects: empty };
                told.entry(kind.name.clone()).or_insert_with(new).objects.push(*name);
            }
        }
        let mut told: Vec<HeapType> = told.into_values().collect();
        told.sort_by(|a, b| a.name.cmp(&b.name));
        told
    }

    /// Those that died, whose names are forgotten with that.
    fn buried(&mut self, out: &Outcome) -> Vec<HeapObject> {
        let dead = out.died.iter();
        let dead = dead.filter_map(|d| self.name(d.sample.id, HeapFate::Dead, d.sample.weight));
        let dead = dead.collect();
        for d in &out.died {
            self.names.remove(&d.sample.id);
        }
        dead
    }

    /// What is known of all others, at the end.
    fn rest(&self) -> Vec<HeapObject> {
        let followed = self.follower.iter().flat_map(Follower::followed);
        followed
            .filter_map(|f| {
                let fate = match f.answer {
                    Answer::Live => HeapFate::Live,
                    Answer::Dead => HeapFate::Dead,
                    Answer::Unknown(Why::Young) => HeapFate::Young,
                    Answer::Unknown(Why::Missed(_)) => HeapFate::Doubtful,
                    Answer::Unknown(_) => HeapFate::Unknown,
                };
                self.name(f.sample.id, fate, f.sample.weight)
            })
            .collect()
    }
}

impl Observer for Following {
    fn begin(
        &mut self,
        runtime: &Runtime<ProcessMemory>,
        version: &GoVersion,
    ) -> Result<(), String> {
        self.follower = Some(Follower::new(runtime, version, CAPACITY)?);
        Ok(())
    }

    fn made(&mut self, sample: &AllocSample) {
        let Some(follower) = &mut self.follower else { return };
        // Where the event does not say which slot is next there is nothing to follow; a search for free slots comes
        // before one is chosen.
        if sample.address == 0 || sample.density == AllocDensity::NextFree {
            return;
        }
        // Its event came after the look that would have judged it.
        self.again |= self.last.is_some_and(|(last, _)| last != sample.sweepgen);
        let id = self.next;
        self.next += 1;
        if self.names.len() >= 2 * CAPACITY {
            // Those that were let go by chance are nobody's any more.
            let here: HashSet<u64> = follower.followed().map(|f| f.sample.id).collect();
            self.names.retain(|id, _| here.contains(id));
        }
        self.names.insert(id, (sample.ts_ns, sample.tid));
        follower.follow(Sample {
            id,
            address: sample.address,
            size: sample.size,
            // What it stands for is matched later; this counts how often its like was let go.
            weight: 1,
            class: sample.span_class,
            generation: sample.sweepgen,
        });
    }

    fn look(&mut self, runtime: &Runtime<ProcessMemory>, now_ns: u64, last: bool) -> Vec<Record> {
        let (mut records, mut failed) = (Vec::new(), None);
        for attempt in 0..if last { SWEEP_TRIES } else { 1 } {
            if attempt > 0 {
                std::thread::sleep(SWEEP_REST);
            }
            let at = if attempt == 0 { now_ns } else { self::now_ns() };
            match self.look_once(runtime, at) {
                Ok(None) => {}
                Ok(Some((out, missed))) => {
                    let dead = self.buried(&out);
                    if missed > 0 || !dead.is_empty() {
                        records.push(self.record(at, missed, false, dead));
                    }
                }
                Err(why) => {
                    failed = Some(why);
                    break;
                }
            }
            if !self.again {
                break;
            }
        }
        if last {
            let rest = self.rest();
            for part in rest.chunks(RECORD) {
                records.push(self.record(now_ns, 0, true, part.to_vec()));
            }
            let types = if failed.is_none() { self.types(runtime) } else { Vec::new() };
            for kind in types {
                for part in kind.objects.chunks(RECORD) {
                    let part = HeapType { objects: part.to_vec(), ..kind.clone() };
                    let look = self.record(now_ns, 0, true, Vec::new());
                    records.push(HeapLook { types: vec![part], ..look });
                }
            }
            records.push(HeapLook { failed, ..self.record(self::now_ns(), 0, true, Vec::new()) });
        }
        records.into_iter().map(|r| Record::HeapLook(Box::new(r))).collect()
    }

    fn within(&self) -> Option<Duration> {
        let period = self.period_ns?;
        Some(Duration::from_nanos(period / LOOKS_PER_CYCLE).max(SHORTEST))
    }
}
