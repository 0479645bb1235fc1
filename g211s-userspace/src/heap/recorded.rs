//! From the records of a heap, live or from a file, to its profile and document. Must not know processes or files.

use super::SAMPLE_TYPES;
use super::estimate::Evidence;
use super::followed;
use super::schema::{Document, LiveHeap, Reads, SCHEMA, Source, TargetInfo, sites};
use crate::profile::{Label, LabelValue, Location, LocationId, Mapping, Profile, ValueType};
use crate::record::{HeapSnapshot, HeapSource, HeapStacks, Record};
use crate::report::format::clean;

/// Stacks of a record.
const PART: usize = 128;
/// Locations and stacks that are kept at most, whatever a file holds.
const MAX_KEPT: usize = 1 << 21;

/// The records of a heap's stacks, of a size that fits in a recording.
pub fn parts(profile: &Profile) -> Vec<HeapStacks> {
    let mut told = 0;
    let part = |samples: &[crate::profile::Sample]| {
        let ids = || samples.iter().flat_map(|s| s.stack.iter());
        let until = ids().map(|id| id.number() as usize + 1).max().unwrap_or(0).max(told);
        let new = profile.locations().get(told..until).unwrap_or_default();
        told = until;
        let stack = |s: &crate::profile::Sample| {
            let mut values = [0; SAMPLE_TYPES.len()];
            values.iter_mut().zip(&s.values).for_each(|(to, from)| *to = *from);
            let size = s.labels.iter().find_map(|l| match (&*l.key, &l.value) {
                ("bytes", LabelValue::Number(n, _)) => Some(*n),
                _ => None,
            });
            (s.stack.iter().map(|id| id.number()).collect(), values, size)
        };
        HeapStacks {
            target: 0,
            locations: new.iter().map(|l| (l.address, l.frames.to_vec())).collect(),
            stacks: samples.iter().map(stack).collect(),
        }
    };
    profile.samples().chunks(PART).map(part).collect()
}

/// Takes the records of a heap.
#[derive(Debug, Default)]
pub struct Model {
    followed: followed::Model,
    source: Option<HeapSource>,
    locations: Vec<Location>,
    stacks: Vec<(Vec<u32>, [i64; 4], Option<i64>)>,
    ended: bool,
}

impl Model {
    /// Takes the next record. Those of other kinds of run are let pass.
    pub fn push(&mut self, record: Record) {
        match record {
            Record::HeapSource(source) => self.source = Some(*source),
            Record::HeapStacks(part) => {
                let HeapStacks { locations, stacks, .. } = *part;
                for (address, frames) in locations {
                    if self.locations.len() < MAX_KEPT {
                        self.locations.push(Location { address, frames: frames.into() });
                    }
                }
                let room = MAX_KEPT.saturating_sub(self.stacks.len());
                self.stacks.extend(stacks.into_iter().take(room));
            }
            Record::End(_) => {
                self.ended = true;
                self.followed.push(record);
            }
            other => self.followed.push(other),
        }
    }

    /// The document and the profile; `None` where the records are of no heap.
    pub fn finish(self) -> Option<(Document, Profile)> {
        let source = self.source.clone()?;
        let (mut document, mut profile) = if let Some(snapshot) = &source.snapshot {
            self.snapshot(snapshot, self.target(&source))
        } else {
            let (mut profile, sums) = self.followed.profile();
            profile.time_ns = self.followed.time_ns();
            let document = self.followed.document(self.target(&source), &profile, &sums);
            (document, profile)
        };
        let (start, limit, offset) = source.code.unwrap_or_default();
        let file = document.target.exe.clone();
        profile.mappings.push(Mapping { start, limit, offset, file, build_id: String::new() });
        let how = if source.snapshot.is_some() {
            "g211s heap: the runtime's own memory profile,"
        } else {
            "g211s heap --follow:"
        };
        profile.comments.push(format!("{how} {}", document.source.as_of));
        if !self.ended {
            document.unavailable.push(
                "what came after the recording was cut off: this is what it holds".to_owned(),
            );
        }
        Some((document, profile))
    }

    fn target(&self, source: &HeapSource) -> TargetInfo {
        let start = self.followed.start();
        let target = start.and_then(|s| s.targets.first());
        let text = |of: fn(&crate::record::Target) -> &str| clean(target.map_or("", of));
        TargetInfo {
            pid: target.map_or(0, |t| t.pid),
            comm: text(|t| &t.comm),
            exe: text(|t| &t.exe),
            go_version: text(|t| &t.go_version),
            module: target.and_then(|t| t.module.as_deref()).map(clean),
            offsets: clean(&source.offsets),
        }
    }

    fn snapshot(&self, snapshot: &HeapSnapshot, target: TargetInfo) -> (Document, Profile) {
        let types = SAMPLE_TYPES.map(|(name, unit)| ValueType::new(name, unit));
        let mut profile = Profile::new(types.to_vec());
        profile.period_type = Some(ValueType::new("space", "bytes"));
        profile.period = snapshot.rate.try_into().unwrap_or(i64::MAX);
        profile.default_sample_type = Some("inuse_space".to_owned());
        profile.time_ns = snapshot.time_ns;
        let ids: Vec<LocationId> =
            self.locations.iter().map(|l| profile.location(l.clone())).collect();
        for (stack, values, size) in &self.stacks {
            let stack: Vec<LocationId> =
                stack.iter().filter_map(|n| ids.get(*n as usize)).copied().collect();
            let label = |size: i64| Label {
                key: "bytes".into(),
                value: LabelValue::Number(size, "bytes".into()),
            };
            profile.push(&stack, values, size.map(label).into_iter().collect());
        }
        let evidence = Evidence::of(&profile).unwrap_or_default();
        let (total, sites) = sites(&profile, &evidence);
        let HeapSnapshot { buckets, readings, torn, calls, bytes, took_ns, .. } = *snapshot;
        let document = Document {
            schema: SCHEMA.to_owned(),
            target,
            time_ns: snapshot.time_ns,
            source: Source {
                kind: "runtime_profile".to_owned(),
                bytes_per_sample: snapshot.rate,
                gc_cycle: snapshot.gc_cycle,
                gc_cycles: snapshot.gc_cycles,
                as_of: clean(&snapshot.as_of),
            },
            live_heap: snapshot
                .heap
                .map(|(marked_bytes, live_bytes)| LiveHeap { marked_bytes, live_bytes }),
            total,
            sites,
            reads: Reads { buckets, readings, torn, calls, bytes, took_ns },
            followed: None,
            unavailable: snapshot.unavailable.iter().map(|line| clean(line)).collect(),
        };
        (document, profile)
    }
}
