//! Whether objects live, concluded from a program's memory, against what the program holds. No root is
//! needed: the programs are children of the test.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use g211s::go::Binary;
use g211s::heap::liveness::{Answer, Follower, Outcome, Sample, Why};
use g211s::heap::spans::{Heap, TINY_CLASS};
use g211s::runtime::bias::load_bias;
use g211s::runtime::memory::ProcessMemory;
use g211s::runtime::{Feature, Runtime};
use g211s::target::procfs::Procfs;
use g211s_tests::go::{self, Mode};
use g211s_tests::run_all;
use g211s_tests::service::{Launch, Service};

/// A running program, its runtime, and who is followed in it.
struct Watched {
    service: Service,
    runtime: Runtime<ProcessMemory>,
    heap: Heap,
    follower: Follower,
    /// Of each object ever made: its block of 16 bytes if it is tiny.
    blocks: BTreeMap<u64, Option<u64>>,
    held: BTreeSet<u64>,
}

impl Watched {
    fn start(version: &str, mode: Mode, capacity: usize) -> Result<Self> {
        let service = Launch::new("liveness", version).mode(mode).start()?;
        let procfs = Procfs::default();
        let binary = Binary::load(File::open(&service.binary)?)?;
        let memory = ProcessMemory::open(&procfs, service.pid())?;
        let bias = load_bias(&procfs, service.pid(), &binary).map_err(anyhow::Error::msg)?;
        let runtime = Runtime::open(memory, &binary, bias);
        ensure!(runtime.usable(Feature::Spans) == Ok(()), "{:?}", runtime.usable(Feature::Spans));
        let follower = Follower::new(&runtime, &binary.version, capacity);
        let follower = follower.map_err(anyhow::Error::msg)?;
        let heap = Heap::of(&runtime)?;
        let (blocks, held) = (BTreeMap::new(), BTreeSet::new());
        Ok(Self { service, runtime, heap, follower, blocks, held })
    }

    fn ask<T: serde::de::DeserializeOwned>(&mut self, command: &str) -> Result<T> {
        let word = command.split(' ').next().unwrap_or_default().to_owned() + " ";
        let before = self.service.proc.lines().iter().filter(|l| l.text.starts_with(&word)).count();
        self.service.say(command)?;
        let deadline = Instant::now() + Duration::from_secs(30);
        loop {
            let lines = self.service.proc.lines();
            if let Some(line) = lines.iter().filter(|l| l.text.starts_with(&word)).nth(before) {
                return serde_json::from_str(&line.text[word.len()..]).context("its answer");
            }
            ensure!(Instant::now() < deadline, "no answer to {command}");
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    fn generation(&self) -> Result<u32> {
        Ok(self.follower.generation(self.runtime.memory())?)
    }

    /// Has it make objects, and follows them as one would who saw each of them allocated.
    fn make(&mut self, n: u32) -> Result<usize> {
        let made: Vec<[u64; 4]> = self.ask(&format!("make {n}"))?;
        let generation = self.generation()?;
        let addresses: Vec<u64> = made.iter().map(|m| m[1]).collect();
        let pointers = self.heap.spans_of(self.runtime.memory(), &addresses);
        let mut distinct: Vec<u64> = pointers.iter().flatten().copied().collect();
        distinct.sort_unstable();
        distinct.dedup();
        let spans = self.heap.read(self.runtime.memory(), &distinct);
        for (&[id, address, size, kind], pointer) in made.iter().zip(&pointers) {
            let pointer = pointer.context("no span")?;
            let span =
                spans[distinct.binary_search(&pointer).unwrap_or(0)].context("unreadable")?;
            // What an allocation's sample knows.
            ensure!(span.slot(address).is_some(), "{span:x?} has no slot at {address:x}");
            ensure!(span.slot_bytes >= size && (span.class < 2) == (kind >= 7), "{span:x?}");
            let tiny = span.class == TINY_CLASS;
            self.blocks.insert(id, tiny.then_some(address & !15));
            self.held.insert(id);
            let (class, size) = (span.class, span.slot_bytes);
            self.follower.follow(Sample { id, address, size, weight: size, class, generation });
        }
        Ok(made.len())
    }

    fn drop(&mut self, percent: u32) -> Result<Vec<u64>> {
        let dropped: Vec<u64> = self.ask(&format!("drop {percent}"))?;
        for id in &dropped {
            self.held.remove(id);
        }
        Ok(dropped)
    }

    fn look(&mut self) -> Result<Outcome> {
        Ok(self.follower.look(self.runtime.memory())?)
    }

    /// Blocks of tiny objects of which one at least is held.
    fn held_blocks(&self) -> BTreeSet<u64> {
        self.held.iter().filter_map(|id| self.blocks[id]).collect()
    }
}

/// How answers compare with the truth.
#[derive(Debug, Default)]
struct Score {
    right_dead: u64,
    right_live: u64,
    wrong_dead: u64,
    wrong_live: u64,
    /// Dropped, of the tiny ones: another tiny object of the program's in the same block is alive.
    shared_live: u64,
    doubtful_live: u64,
    doubtful_dead: u64,
    others: u64,
}

impl Score {
    /// After a collection that came after the last drop.
    fn count(&mut self, watched: &Watched, out: &Outcome) {
        let blocks = watched.held_blocks();
        let holds = |id: u64| {
            watched.held.contains(&id) || watched.blocks[&id].is_some_and(|b| blocks.contains(&b))
        };
        for death in &out.died {
            let wrong = holds(death.sample.id);
            *if wrong { &mut self.wrong_dead } else { &mut self.right_dead } += 1;
        }
        for followed in watched.follower.followed() {
            let held = holds(followed.sample.id);
            *match (followed.answer, held) {
                (Answer::Live, true) => &mut self.right_live,
                (Answer::Live, false) if watched.blocks[&followed.sample.id].is_some() => {
                    &mut self.shared_live
                }
                (Answer::Live, false) => &mut self.wrong_live,
                (Answer::Unknown(Why::Missed(_)), true) => &mut self.doubtful_live,
                (Answer::Unknown(Why::Missed(_)), false) => &mut self.doubtful_dead,
                _ => &mut self.others,
            } += 1;
        }
    }
}

/// Collections only when asked for: every answer is the program's own, as long as each collection was
/// looked at; where one was not, nothing is called alive that is not.
fn follow(version: &str, mode: Mode) -> Result<()> {
    let mut watched = Watched::start(version, mode, 100_000)?;
    let (mut each, mut missing) = (Score::default(), Score::default());
    for round in 0..12 {
        watched.make(60)?;
        let out = watched.look()?;
        ensure!(out.unusable.objects == 0 && out.died.is_empty(), "{out:?}");
        watched.drop(if round % 3 == 0 { 40 } else { 15 })?;
        let _: u32 = watched.ask("gc 0")?;
        if round >= 8 {
            // Two collections, and new objects in the freed slots between them.
            let _: u32 = watched.ask("churn 60")?;
            let _: u32 = watched.ask("gc 0")?;
        }
        let out = watched.look()?;
        let score = if round >= 8 { &mut missing } else { &mut each };
        score.count(&watched, &out);
        ensure!(!out.moved && out.unswept.objects == 0, "{out:?}");
        let _: u32 = watched.ask("churn 60")?;
    }
    println!("Go {version}, {}: each collection looked at: {each:?}", mode.name());
    println!("Go {version}, {}: every second one: {missing:?}", mode.name());
    ensure!(each.right_dead > 1500 && each.right_live > 1500, "{each:?}");
    let wrong = (each.wrong_dead, each.wrong_live, each.doubtful_dead, each.others);
    ensure!(wrong == (0, 0, 0, 0) && each.doubtful_live == 0, "{each:?}");
    ensure!(each.shared_live < 20 && missing.shared_live < 20, "{each:?} {missing:?}");
    ensure!(missing.wrong_dead == 0 && missing.wrong_live == 0, "{missing:?}");
    ensure!(missing.others == 0, "{missing:?}");
    // Slots were used again, so some of the doubt was right: the workload does what it is for.
    ensure!(missing.doubtful_dead > 0, "{missing:?}");
    Ok(())
}

fn versions() -> Vec<&'static str> {
    let mut all = vec![go::OLD, go::MIDDLE, go::NEW];
    if run_all() {
        all.extend(go::OTHERS);
    }
    all
}

#[test]
fn answers_are_the_programs_own() -> Result<()> {
    for version in versions() {
        for mode in [Mode::Plain, Mode::PieStripped] {
            follow(version, mode)?;
        }
    }
    Ok(())
}

/// A program that allocates and collects all the time, looked at in the middle of it.
fn storm(version: &str) -> Result<()> {
    let mut watched = Watched::start(version, Mode::PieStripped, 100_000)?;
    watched.make(250)?;
    let _: u32 = watched.ask("storm 2")?;
    let first = watched.generation()?;
    let mut dropped: BTreeMap<u64, u32> = BTreeMap::new();
    let (mut looks, mut moved, mut wrong_dead, mut wrong_live, mut died) = (0, 0, 0, 0, 0);
    let (mut doubtful, mut alive) = (0, 0);
    let until = Instant::now() + Duration::from_secs(if run_all() { 20 } else { 4 });
    while Instant::now() < until {
        if looks % 200 == 100 {
            for id in watched.drop(10)? {
                dropped.insert(id, watched.generation()?);
            }
        }
        let out = watched.look()?;
        looks += 1;
        moved += u32::from(out.moved);
        let blocks = watched.held_blocks();
        let tiny_held = |id: u64| watched.blocks[&id].is_some_and(|b| blocks.contains(&b));
        let dead = |id: u64| watched.held.contains(&id) || tiny_held(id);
        wrong_dead += out.died.iter().filter(|d| dead(d.sample.id)).count();
        died += out.died.len();
        for followed in watched.follower.followed() {
            let id = followed.sample.id;
            // The collection that was under way may have reached it before it was dropped.
            let late = dropped.get(&id).is_some_and(|g| out.generation >= g + 4);
            wrong_live += u32::from(followed.answer == Answer::Live && late && !tiny_held(id));
        }
        doubtful = out.doubtful.objects;
        alive = out.alive.objects;
        std::thread::sleep(Duration::from_millis(1));
    }
    let collections = watched.generation()?.wrapping_sub(first) / 2;
    println!(
        "Go {version}: {collections} collections, {looks} looks, {moved} of them cut short; {died} died, \
         {alive} alive, {doubtful} doubtful at the end; {wrong_dead} wrong dead, {wrong_live} wrong alive"
    );
    ensure!(collections > 20 && died > 50, "the storm is none");
    ensure!(wrong_dead == 0 && wrong_live == 0, "wrong answers");
    Ok(())
}

#[test]
fn answers_hold_under_a_storm_of_collections() -> Result<()> {
    versions().into_iter().try_for_each(storm)
}

/// 20,000 objects: what a look at all of them costs.
#[test]
fn a_look_at_many_is_cheap() -> Result<()> {
    for version in [go::OLD, go::NEW] {
        let mut watched = Watched::start(version, Mode::Stripped, 30_000)?;
        let made = watched.make(2807)?;
        ensure!(made >= 20_000, "{made}");
        for what in ["first", "after a collection", "after another", "nothing new"] {
            if what.starts_with("after") {
                let _: u32 = watched.ask("gc 0")?;
            }
            let (before, began) = (watched.runtime.memory().counts(), Instant::now());
            let out = watched.look()?;
            let (took, after) = (began.elapsed(), watched.runtime.memory().counts());
            println!(
                "Go {version}, {what}: {} objects in {} spans, {} words of bits: {} system calls, {} KB, {took:?}",
                out.reads.objects,
                out.reads.spans,
                out.reads.words,
                after.calls - before.calls,
                (after.bytes - before.bytes) / 1024
            );
            ensure!(after.calls - before.calls < 1000, "too many system calls");
            ensure!(took < Duration::from_secs(2), "too slow");
        }
        let objects = watched.follower.followed().count();
        ensure!(objects == made, "{objects} of {made} are followed");
    }
    Ok(())
}
