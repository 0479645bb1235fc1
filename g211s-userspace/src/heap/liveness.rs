//! Follows objects whose allocation was seen from collection to collection: who still lives, who died,
//! and who cannot be told from another any more. `judge.rs` has the rules. Must not know where
//! samples come from, nor what is concluded from survival.

use crate::go::version::GoVersion;
use crate::runtime::memory::{Memory, MemoryError};
use crate::runtime::{Feature, Runtime, RuntimeError};

pub use super::judge::{Answer, Sample, Why};
use super::judge::{Verdict, judge};
use super::spans::{Heap, Span, words};

/// Most objects that are followed at a time.
pub const MAX_OBJECTS: usize = 1 << 20;
/// Spans read at a time: those of one system call. What happened while one batch was read costs
/// only that batch.
const BATCH: usize = 1024;
/// The last Go version in which memory that a span gets without need to zero it was never used before.
const LAST_UNTOUCHED: u32 = 25;
/// The experiment under which the program frees objects by itself (malloc.go, `runtimeFreegcEnabled`).
const FREES_BY_ITSELF: &str = "runtimefreegc";

/// An object that is followed.
#[derive(Clone, Copy, Debug)]
struct Object {
    sample: Sample,
    /// Times that half of its like was let go: its weight counts 2^halved.
    halved: u32,
    /// Its `mspan`, 0 before it was looked up.
    span: u64,
    /// The last generation in which its slot was seen reached, at first that of its allocation.
    seen: u32,
    /// The generation of the last definite look.
    judged: u32,
    /// Collections that were not looked at.
    missed: u32,
    answer: Answer,
}

impl Object {
    fn weight(&self) -> u64 {
        self.sample.weight.checked_shl(self.halved).unwrap_or(u64::MAX)
    }

    fn is_pending(&self, generation: u32) -> bool {
        self.judged != generation || self.span == 0
    }
}

/// Objects and what they stand for.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Tally {
    /// Objects followed.
    pub objects: u64,
    /// Bytes they stand for.
    pub bytes: u64,
    /// Sum of the squares of these.
    squares: f64,
}

impl Tally {
    /// One more.
    pub fn add(&mut self, weight: u64) {
        self.objects += 1;
        self.bytes = self.bytes.saturating_add(weight);
        self.squares += (weight as f64).powi(2);
    }

    /// Standard error of `bytes`, if each object came into the sample by itself, with a chance in
    /// proportion to its size (Horvitz and Thompson, 1952, with small chances).
    pub fn standard_error(&self) -> f64 {
        self.squares.sqrt()
    }
}

/// One that is followed, and what is known of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Followed {
    /// Its sample, with the weight that counts by now.
    pub sample: Sample,
    /// As of the last look.
    pub answer: Answer,
    /// Where its `mspan` is; 0 where that was not looked up yet.
    pub span: u64,
}

/// One that was freed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Death {
    /// Its sample, with the weight that counted.
    pub sample: Sample,
    /// The last generation in which it was seen (or may have been: see `missed`) alive.
    pub seen: u32,
    /// The generation in which it was found dead.
    pub found: u32,
    /// Collections of its life that were not looked at: it may have died in any of them.
    pub missed: u32,
}

/// What a look found.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Outcome {
    /// `mheap_.sweepgen`.
    pub generation: u32,
    /// Those that died since the last look: not followed any more.
    pub died: Vec<Death>,
    /// Proven alive.
    pub alive: Tally,
    /// Alive, or replaced in a collection that was not looked at: the truth lies between `alive` and
    /// both together.
    pub doubtful: Tally,
    /// Not judged by any collection yet.
    pub young: Tally,
    /// To be looked at again in this generation: not swept yet, or the generation ended under the look.
    pub unswept: Tally,
    /// Memory that could not be read.
    pub unreadable: Tally,
    /// Samples that are no objects, or in user arenas: not followed any more.
    pub unusable: Tally,
    /// A collection ended while memory was read: that batch's answers were dropped.
    pub moved: bool,
    /// What it cost.
    pub reads: Reads,
}

/// What a look cost.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Reads {
    /// Objects looked at.
    pub objects: u64,
    /// Spans read, twice each.
    pub spans: u64,
    /// Words of bits.
    pub words: u64,
}

/// Follows objects from collection to collection.
#[derive(Clone, Debug)]
pub struct Follower {
    heap: Heap,
    objects: Vec<Object>,
    capacity: usize,
    untouched_is_proof: bool,
    random: u64,
    thinned: u64,
    refused: u64,
}

impl Follower {
    /// For a process whose spans may be believed. At most `capacity` objects are followed.
    ///
    /// # Errors
    /// What is not known or not proven of the runtime, or makes its bits no evidence.
    pub fn new<M: Memory>(
        runtime: &Runtime<M>,
        version: &GoVersion,
        capacity: usize,
    ) -> Result<Self, String> {
        runtime.usable(Feature::Spans)?;
        if version.experiments.iter().any(|e| e == FREES_BY_ITSELF) {
            return Err("the program frees objects between collections (runtimefreegc)".to_owned());
        }
        let heap = Heap::of(runtime).map_err(|e: RuntimeError| e.to_string())?;
        Ok(Self {
            heap,
            objects: Vec::new(),
            capacity: capacity.clamp(8, MAX_OBJECTS),
            untouched_is_proof: !version.devel && !version.at_least(LAST_UNTOUCHED + 1),
            random: 0x6732_3131_735f_6c69,
            thinned: 0,
            refused: 0,
        })
    }

    /// `mheap_.sweepgen` now: something is to be looked at once it has changed.
    ///
    /// # Errors
    /// Memory that cannot be read.
    pub fn generation(&self, memory: &impl Memory) -> Result<u32, MemoryError> {
        self.heap.generation(memory)
    }

    /// Follows one more. Where there is no room, half of those that stand for the least are let go by
    /// chance and the others count double, which leaves every sum right on average.
    pub fn follow(&mut self, sample: Sample) {
        if self.objects.len() >= self.capacity {
            self.thin();
        }
        if self.objects.len() >= self.capacity {
            self.refused += 1;
            return;
        }
        self.objects.push(Object {
            sample,
            halved: 0,
            span: 0,
            seen: sample.generation,
            judged: sample.generation,
            missed: 0,
            answer: Answer::Unknown(Why::Young),
        });
    }

    /// Draws other chances.
    #[cfg(test)]
    pub(super) fn reseed(&mut self, seed: u64) {
        self.random ^= seed;
    }

    /// Objects that were let go by chance so far.
    pub fn thinned(&self) -> u64 {
        self.thinned
    }

    /// Objects that were not taken, because there was no room even so: sums are too small by these.
    pub fn refused(&self) -> u64 {
        self.refused
    }

    /// All that are followed, with what is known of each since the last look.
    pub fn followed(&self) -> impl Iterator<Item = Followed> {
        self.objects.iter().map(|o| Followed {
            sample: Sample { weight: o.weight(), ..o.sample },
            answer: o.answer,
            span: o.span,
        })
    }

    /// Where the heap's structures are.
    pub fn heap(&self) -> &Heap {
        &self.heap
    }

    /// Those that were halved the fewest times are halved once more, so that in the end all count
    /// alike. Which these are does not depend on what becomes of them.
    fn thin(&mut self) {
        // Beyond, weights would not fit in 64 bits.
        for _ in 0..40 {
            if self.objects.len() <= self.capacity / 4 * 3 {
                return;
            }
            let Some(least) = self.objects.iter().map(|o| o.halved).min() else { return };
            let before = self.objects.len();
            let random = &mut self.random;
            self.objects.retain_mut(|o| {
                let stays = o.halved != least || coin(random);
                o.halved += u32::from(stays && o.halved == least);
                stays
            });
            self.thinned += (before - self.objects.len()) as u64;
        }
    }

    /// Looks at all that the last collection has judged, or as many as can be. Cheap (one read) where
    /// nothing is to be looked at, so it may be called often: every collection whose generation passes
    /// without a look costs certainty.
    ///
    /// # Errors
    /// Where even `mheap_.sweepgen` cannot be read: the process has ended.
    pub fn look(&mut self, memory: &impl Memory) -> Result<Outcome, MemoryError> {
        let generation = self.heap.generation(memory)?;
        let mut out = Outcome { generation, ..Outcome::default() };
        let mut pending: Vec<usize> =
            (0..self.objects.len()).filter(|n| self.objects[*n].is_pending(generation)).collect();
        for n in &pending {
            let object = &mut self.objects[*n];
            if object.sample.generation != generation
                && !matches!(object.answer, Answer::Unknown(Why::Missed(_)))
            {
                object.answer = Answer::Unknown(Why::Unswept);
            }
        }
        self.find_spans(memory, &pending);
        // Those that are still certain come first: the others have less to lose.
        let key = |o: &Object| (o.missed > 0 || generation.wrapping_sub(o.seen) > 2, o.span);
        pending.sort_unstable_by_key(|n| key(&self.objects[*n]));
        out.reads.objects = pending.len() as u64;
        let mut rest = &pending[..];
        while !rest.is_empty() {
            let (batch, more) = self.cut(rest);
            rest = more;
            if !self.look_at(memory, batch, generation, &mut out)? {
                out.moved = true;
                break;
            }
        }
        self.bury(&mut out);
        Ok(out)
    }

    /// The first of these, as far as they lie in so many spans as are read at once.
    fn cut<'n>(&self, pending: &'n [usize]) -> (&'n [usize], &'n [usize]) {
        let (mut spans, mut last) = (0, None);
        let end = pending.iter().position(|n| {
            let span = self.objects[*n].span;
            spans += usize::from(last != Some(span));
            last = Some(span);
            spans > BATCH
        });
        pending.split_at(end.unwrap_or(pending.len()))
    }

    /// Looks up where the heap has those that were not looked up yet.
    fn find_spans(&mut self, memory: &impl Memory, pending: &[usize]) {
        let new: Vec<usize> =
            pending.iter().copied().filter(|n| self.objects[*n].span == 0).collect();
        let addresses: Vec<u64> = new.iter().map(|n| self.objects[*n].sample.address).collect();
        let found = self.heap.spans_of(memory, &addresses);
        for (n, span) in new.into_iter().zip(found) {
            let object = &mut self.objects[n];
            match span {
                // An entry of the heap's is never taken back: there was no object.
                Some(0) => object.answer = Answer::Unknown(Why::Misfit),
                Some(span) => object.span = span,
                None => object.answer = Answer::Unknown(Why::Unreadable),
            }
        }
    }

    /// Looks at a batch; whether the generation was the same all the time.
    fn look_at(
        &mut self,
        memory: &impl Memory,
        batch: &[usize],
        generation: u32,
        out: &mut Outcome,
    ) -> Result<bool, MemoryError> {
        let mut pointers: Vec<u64> =
            batch.iter().map(|n| self.objects[*n].span).filter(|s| *s != 0).collect();
        pointers.sort_unstable();
        pointers.dedup();
        let before = self.heap.read(memory, &pointers);
        let span_of = |spans: &[Option<Span>], pointer: u64| {
            spans.get(pointers.binary_search(&pointer).ok()?).copied().flatten()
        };
        let place = |o: &Object| {
            let span = span_of(&before, o.span)?;
            span.bit(span.slot(o.sample.address)?)
        };
        let at = batch.iter().filter_map(|n| place(&self.objects[*n])).map(|p| p.0).collect();
        let bits = words(memory, at);
        // Once more: a sweep may have come between a span's bits and its generation (it changes them
        // in this order), or the span may have been freed and made anew.
        let after = self.heap.read(memory, &pointers);
        out.reads.spans += pointers.len() as u64;
        out.reads.words += bits.len() as u64;
        if self.heap.generation(memory)? != generation {
            return Ok(false);
        }
        for n in batch {
            let object = &self.objects[*n];
            if object.span == 0 {
                continue;
            }
            let spans = (span_of(&before, object.span), span_of(&after, object.span));
            let (Some(span), Some(again)) = spans else {
                self.objects[*n].answer = Answer::Unknown(Why::Unreadable);
                continue;
            };
            let bit = place(object).and_then(|(at, bit)| Some(bits.get(&at)? >> bit & 1 == 1));
            let verdict = judge(&object.sample, generation, &span, &again, bit);
            self.settle(*n, verdict, generation, again.untouched && span.untouched);
        }
        Ok(true)
    }

    /// Writes down what a look said.
    fn settle(&mut self, n: usize, verdict: Verdict, generation: u32, untouched: bool) {
        let object = &mut self.objects[n];
        let answer = match verdict {
            Verdict::Is(answer) => answer,
            Verdict::Occupied => {
                let passed = generation.wrapping_sub(object.seen) / 2;
                object.seen = generation;
                if self.untouched_is_proof && untouched {
                    object.missed = 0;
                } else {
                    object.missed = object.missed.saturating_add(passed.saturating_sub(1));
                }
                match object.missed {
                    0 => Answer::Live,
                    missed => Answer::Unknown(Why::Missed(missed)),
                }
            }
            Verdict::Freed => {
                let passed = generation.wrapping_sub(object.seen) / 2;
                object.missed = object.missed.saturating_add(passed.saturating_sub(1));
                Answer::Dead
            }
        };
        object.answer = answer;
        if verdict != Verdict::Is(Answer::Unknown(Why::Unswept))
            && verdict != Verdict::Is(Answer::Unknown(Why::Unreadable))
        {
            object.judged = generation;
        }
    }

    /// Takes the dead out, and counts the others.
    fn bury(&mut self, out: &mut Outcome) {
        let generation = out.generation;
        self.objects.retain(|o| {
            let weight = o.weight();
            let tally = match o.answer {
                Answer::Dead => {
                    let sample = Sample { weight, ..o.sample };
                    let (seen, missed) = (o.seen, o.missed);
                    out.died.push(Death { sample, seen, found: generation, missed });
                    return false;
                }
                Answer::Live => &mut out.alive,
                Answer::Unknown(Why::Missed(_)) => &mut out.doubtful,
                Answer::Unknown(Why::Young) => &mut out.young,
                Answer::Unknown(Why::Unswept) => &mut out.unswept,
                Answer::Unknown(Why::Unreadable) => &mut out.unreadable,
                Answer::Unknown(Why::Misfit | Why::UserArena) => {
                    out.unusable.add(weight);
                    return false;
                }
            };
            tally.add(weight);
            true
        });
    }
}

/// Heads or tails: `SplitMix64` (Steele, Lea, Flood: "Fast splittable pseudorandom number generators").
fn coin(state: &mut u64) -> bool {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut z = *state;
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    (z ^ (z >> 31)) & 1 == 1
}
