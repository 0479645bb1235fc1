//! The estimator against made-up programs whose truth is known.

use super::*;

const SIZE: f64 = 64.0;
const CLASS: u8 = 6;
const SECOND: u64 = 1_000_000_000;

/// Random numbers: `SplitMix64`.
struct Random(u64);

impl Random {
    fn next(&mut self) -> f64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) >> 11) as f64 / (1_u64 << 53) as f64
    }
}

/// A site: how many objects a second it makes at a time (seconds), and how many collections one lives through.
struct Site {
    rate: fn(f64) -> f64,
    lives: fn(f64, &mut Random) -> u32,
}

/// A program of `SECONDS` with ten collections a second; looks of a second at these seconds. `missed`: this part of the
/// collections passes without a look.
struct Program<'a> {
    sites: &'a [Site],
    looks: &'a [u64],
    missed: f64,
    per_sample: f64,
    counted: bool,
    /// Which part of the time the collector marks: at the end of each cycle.
    marking: f64,
}

const SECONDS: u64 = 20;
const END: u32 = 2 * 10 * SECONDS as u32;

impl Program<'_> {
    /// What is in use of each site, estimated and true.
    fn run(&self, seed: u64) -> Vec<(Used, f64)> {
        let mut random = Random(seed);
        let mut truth = vec![0.0; self.sites.len()];
        let mut made = vec![0.0; SECONDS as usize];
        let mut members = Vec::new();
        let missed: Vec<bool> = (0..=10 * SECONDS).map(|_| random.next() < self.missed).collect();
        for tick in 0..10 * SECONDS {
            let second = tick / 10;
            let look = self.looks.iter().position(|s| *s == second);
            for (stack, site) in self.sites.iter().enumerate() {
                let now = tick as f64 / 10.0;
                let objects = (site.rate)(now) / 10.0;
                made[second as usize] += objects;
                let samples = (objects / self.per_sample) as u64;
                for _ in 0..samples {
                    let at = random.next();
                    let in_mark = at > 1.0 - self.marking;
                    // The collection that marks does not judge it.
                    let lives = (site.lives)(now, &mut random) + u32::from(in_mark);
                    let age = (10 * SECONDS - tick) as u32;
                    let there = lives >= age;
                    truth[stack] += if there { SIZE * self.per_sample } else { 0.0 };
                    let Some(look) = look else { continue };
                    let is_missed = |n: &u32| missed[(tick as u32 + n) as usize];
                    // The first look that can find it dead.
                    let found = if there {
                        age
                    } else {
                        (lives + 1..age).find(|n| !is_missed(n)).unwrap_or(age)
                    };
                    let until = found;
                    // The first collection in its life that nobody looked after.
                    let gap = (1..until).find(is_missed);
                    let (sure, end) = match (gap, there) {
                        (None, true) => (until, End::Alive),
                        (None, false) => (until - 1, End::Gone),
                        (Some(gap), true) => (gap - 1, End::Perhaps),
                        // Each third slot is taken again.
                        (Some(gap), false) if random.next() < 0.33 => (gap - 1, End::Perhaps),
                        (Some(gap), false) => (gap - 1, End::Gone),
                    };
                    let until = if end == End::Perhaps { age } else { until };
                    let gap = gap.is_some() && end != End::Alive;
                    let in_units = |age: u32| age.saturating_sub(u32::from(in_mark));
                    let (age, sure) = (until, in_units(sure));
                    let until = in_units(until).max(u32::from(end == End::Gone));
                    let life = Life { weight: 1.0, sure, until, end, gap };
                    let stack = stack as u32;
                    let weight = self.per_sample;
                    let ts_ns = tick * SECOND / 10 + (at * 1e8) as u64;
                    members.push(Member {
                        ts_ns,
                        stack,
                        class: CLASS,
                        look,
                        weight,
                        size: SIZE,
                        age,
                        life,
                    });
                }
            }
        }
        let stretches: Vec<Stretch> = (0..SECONDS)
            .map(|second| {
                let before = self.looks.iter().rposition(|s| *s <= second).unwrap_or(0);
                let look = self.looks.iter().position(|s| *s == second);
                let after = look.unwrap_or((before + 1).min(self.looks.len() - 1));
                Stretch {
                    from_ns: second * SECOND,
                    to_ns: (second + 1) * SECOND,
                    look,
                    between: (before, after),
                    generations: (second as u32 * 20, (second as u32 + 1) * 20),
                    made: self.counted.then(|| [(CLASS, made[second as usize])].into()),
                }
            })
            .collect();
        let mark = |tick: u64| {
            let end = (tick + 1) * SECOND / 10;
            (end - (self.marking * 1e8) as u64, end)
        };
        let marks: Vec<(u64, u64)> =
            (0..10 * SECONDS).map(mark).filter(|(from, to)| from < to).collect();
        let mut by = InUse::new(&stretches, &members, &marks, &Clock::default(), END).by(Some);
        (0..self.sites.len() as u32)
            .map(|stack| (by.remove(&stack).unwrap_or_default(), truth[stack as usize]))
            .collect()
    }
}

/// Half is kept for ever, a cache keeps each for 1.5 s, garbage is gone at once.
const STEADY: [Site; 3] = [
    Site { rate: |_| 4_000.0, lives: |_, r| if r.next() < 0.5 { 1000 } else { 0 } },
    Site { rate: |_| 8_000.0, lives: |_, _| 15 },
    Site { rate: |_| 20_000.0, lives: |_, r| u32::from(r.next() < 0.1) },
];
const EVERY_FOURTH: [u64; 5] = [0, 4, 8, 12, 16];

fn program<'a>(sites: &'a [Site], looks: &'a [u64]) -> Program<'a> {
    Program { sites, looks, missed: 0.0, per_sample: 40.0, counted: true, marking: 0.0 }
}

#[test]
fn what_is_made_in_rests_lives_as_what_is_seen() {
    let told = program(&STEADY, &EVERY_FOURTH).run(1);
    let (estimate, truth) =
        told.iter().fold((0.0, 0.0), |sum, (u, t)| (sum.0 + u.bytes, sum.1 + t));
    for (used, truth_of) in &told[..2] {
        let (share, expected) = (used.bytes / estimate, truth_of / truth);
        assert!((share - expected).abs() < 0.02, "{share} {expected}");
        assert!(used.low <= *truth_of && *truth_of <= used.high, "{used:?} {truth_of}");
        assert!(used.in_rests > 0.0 && (used.objects - used.bytes / SIZE).abs() < 1.0);
        assert!((used.ages.iter().sum::<f64>() - used.bytes).abs() < 1.0);
    }
    // The cache has nothing that is older than 15 collections: no look fell into the last three seconds.
    assert!(told[1].0.bytes > 0.9 * told[1].1 && told[1].0.ages[4..].iter().all(|b| *b == 0.0));
}

#[test]
fn without_rests_it_is_what_was_seen() {
    let all: Vec<u64> = (0..SECONDS).collect();
    for (used, truth) in &program(&STEADY, &all).run(2)[..2] {
        assert!((used.bytes - truth).abs() < 1e-6 * truth, "{used:?} {truth}");
        assert!(used.low < *truth && used.high > *truth);
    }
}

#[test]
fn what_changes_is_followed() {
    const CHANGES: [Site; 3] = [
        // Filled at the start.
        Site { rate: |t| if t < 6.0 { 6_000.0 } else { 0.0 }, lives: |_, _| 1000 },
        // More and more.
        Site { rate: |t| 200.0 * t, lives: |_, r| if r.next() < 0.5 { 1000 } else { 0 } },
        // Keeps what it makes in the first half.
        Site { rate: |_| 5_000.0, lives: |t, _| if t < 10.0 { 1000 } else { 0 } },
    ];
    for (n, (used, truth)) in program(&CHANGES, &EVERY_FOURTH).run(3).iter().enumerate() {
        assert!((used.bytes - truth).abs() < 0.25 * truth, "{n}: {used:?} {truth}");
        assert!(used.low <= *truth && *truth <= used.high, "{n}: {used:?} {truth}");
    }
}

#[test]
fn intervals_hold_the_truth() {
    let (mut held, mut all, mut width) = (0, 0, 0.0);
    for seed in 0..40 {
        // Looks come when the account allows.
        let mut random = Random(seed ^ 77);
        let mut looks: Vec<u64> = vec![0];
        while let Some(next) = looks.last().map(|l| l + 2 + (random.next() * 3.0) as u64) {
            if next >= SECONDS {
                break;
            }
            looks.push(next);
        }
        let p = Program { per_sample: 200.0, ..program(&STEADY, &looks) };
        for (used, truth) in &p.run(seed)[..2] {
            held += u32::from(used.low <= *truth && *truth <= used.high);
            width += (used.high - used.low) / truth;
            all += 1;
        }
    }
    assert!(held * 100 >= 90 * all, "{held} of {all}");
    assert!(
        width / f64::from(all) < 1.0,
        "the mean interval is {} of the truth",
        width / f64::from(all)
    );
}

#[test]
fn collections_that_were_missed_widen_the_interval() {
    let looks = EVERY_FOURTH;
    let whole = program(&STEADY, &looks).run(4);
    let gaps = Program { missed: 0.3, ..program(&STEADY, &looks) }.run(4);
    for ((a, _), (b, truth)) in whole.iter().zip(&gaps).take(2) {
        assert!(b.low <= *truth && *truth <= b.high, "{b:?} {truth}");
        assert!(b.high - b.low > a.high - a.low, "{a:?} {b:?}");
    }
    // What stays for ever is told all the same: so it is of those that nothing was missed of.
    let (kept, truth) = &gaps[0];
    assert!((kept.bytes - truth).abs() < 0.1 * truth, "{kept:?} {truth}");
    let storm = Program { missed: 1.0, ..program(&STEADY, &looks) }.run(5);
    for (used, truth) in &storm[..2] {
        assert!(used.low <= 0.05 * truth && *truth <= used.high, "{used:?} {truth}");
    }
}

/// What is made while the last collection marks is in use as of its end, dead or not, whether a look saw any of it or not.
#[test]
fn what_is_made_while_the_collector_marks_is_in_use() {
    let p = Program { marking: 0.3, ..program(&STEADY, &EVERY_FOURTH) };
    for (used, truth) in &p.run(8) {
        assert!((used.bytes - truth).abs() < 0.15 * truth, "{used:?} {truth}");
    }
}

#[test]
fn one_look_leaves_the_rests_open() {
    for (used, truth) in &program(&STEADY, &[0]).run(6)[..2] {
        assert!(used.low <= *truth && *truth <= used.high, "{used:?} {truth}");
        assert!(used.high > 1.8 * truth && used.low < 0.2 * truth, "{used:?} {truth}");
    }
}

#[test]
fn without_the_runtimes_counts_looks_stand_for_the_time_between() {
    let p = Program { counted: false, ..program(&STEADY, &EVERY_FOURTH) };
    for (used, truth) in &p.run(7)[..2] {
        assert!((used.bytes - truth).abs() < 0.15 * truth, "{used:?} {truth}");
    }
}

#[test]
fn nothing_and_nonsense_are_no_panic() {
    assert!(InUse::new(&[], &[], &[], &Clock::default(), 0).by(Some).is_empty());
    let life = Life { weight: f64::MAX, sure: 9, until: 3, end: End::Lost, gap: true };
    let member =
        |weight| Member { ts_ns: 1, age: 3, stack: 1, class: 9, look: 3, weight, size: 0.0, life };
    let marks = [(9, 3), (0, u64::MAX), (5, 5)];
    let stretch = Stretch {
        from_ns: 5,
        to_ns: 5,
        look: Some(70),
        between: (70, 2),
        generations: (u32::MAX, 0),
        made: Some([(9, 1e300)].into()),
    };
    for weight in [0.0, 1.0, 1e300] {
        let all = InUse::new(
            std::slice::from_ref(&stretch),
            &[member(weight)],
            &marks,
            &Clock::default(),
            7,
        );
        let used = all.by(|_| Some(()));
        assert!(used.values().all(|u| u.low <= u.bytes || u.bytes.is_nan()), "{used:?}");
    }
}
