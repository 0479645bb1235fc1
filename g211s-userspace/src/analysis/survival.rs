//! How long things live, from some that were watched for different times: the estimator of Kaplan and Meier (1958), by
//! ages in counts (of collections, say), with what is to be believed where watching had gaps. Pure; must not know what
//! lives.
//!
//! Who is lost from sight counts as long as it was seen. Three curves come of it, which are the same where nothing was
//! missed: `low` takes whoever was not seen for certain to be gone since then, `high` takes whatever may be it for it, and
//! between these `mid` takes whoever went through a gap out of the count there, whatever came out of it: that does not
//! depend on how long one lives, so it misleads no more than a smaller sample does.

/// Ages up to this are told apart, larger ones in so many steps an octave.
const SINGLE: u32 = 16;
const STEPS: u32 = 8;
/// Ages beyond count as this.
pub const MAX_AGE: u32 = 1 << 24;

/// What became of one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// It was there at the end.
    Alive,
    /// It was found gone.
    Gone,
    /// Something was there at the end that may be another.
    Perhaps,
    /// It was not seen any more.
    Lost,
}

/// One that was watched.
#[derive(Clone, Copy, Debug)]
pub struct Life {
    /// For how many it stands.
    pub weight: f64,
    /// The last age at which it was there for certain.
    pub sure: u32,
    /// The age at `end`.
    pub until: u32,
    /// How it ended.
    pub end: End,
    /// It was not looked at all the time since `sure`.
    pub gap: bool,
}

/// Sums by age.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
struct Sums {
    gone: f64,
    lost: f64,
}

/// Lives, summed by age: for each of the three curves.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Lives {
    bins: Vec<[Sums; 3]>,
}

const LOW: usize = 0;
const MID: usize = 1;
const HIGH: usize = 2;

fn bin(age: u32) -> usize {
    let age = age.min(MAX_AGE);
    if age <= SINGLE {
        return age as usize;
    }
    let octave = age.ilog2();
    let step = ((age - (1 << octave)) * STEPS) >> octave;
    (SINGLE + 1 + (octave - SINGLE.ilog2()) * STEPS + step) as usize
}

/// The last age of a bin.
fn last_of(bin: usize) -> u32 {
    let bin = bin as u32;
    if bin <= SINGLE {
        return bin;
    }
    let (octave, step) = ((bin - SINGLE - 1) / STEPS + SINGLE.ilog2(), (bin - SINGLE - 1) % STEPS);
    (1 << octave) + (((step + 1) << octave) / STEPS) - 1
}

impl Lives {
    /// Adds one.
    pub fn add(&mut self, life: &Life) {
        match life.end {
            End::Alive => self.all(life.until, false, life.weight),
            End::Gone if !life.gap => self.all(life.until, true, life.weight),
            End::Gone => {
                self.one(LOW, life.sure.saturating_add(1), true, life.weight);
                self.one(MID, life.sure, false, life.weight);
                self.one(HIGH, life.until, true, life.weight);
            }
            End::Perhaps => {
                self.one(LOW, life.sure.saturating_add(1), true, life.weight);
                self.one(MID, life.sure, false, life.weight);
                self.one(HIGH, life.until, false, life.weight);
            }
            End::Lost => {
                self.one(LOW, life.sure.saturating_add(1), true, life.weight);
                self.one(MID, life.sure, false, life.weight);
                self.one(HIGH, life.sure.max(life.until), false, life.weight);
            }
        }
    }

    fn all(&mut self, age: u32, gone: bool, weight: f64) {
        for curve in [LOW, MID, HIGH] {
            self.one(curve, age, gone, weight);
        }
    }

    fn one(&mut self, curve: usize, age: u32, gone: bool, weight: f64) {
        let bin = bin(age);
        if self.bins.len() <= bin {
            self.bins.resize(bin + 1, [Sums::default(); 3]);
        }
        let sums = &mut self.bins[bin][curve];
        *(if gone { &mut sums.gone } else { &mut sums.lost }) += weight;
    }

    /// Adds others, each counting for `part`.
    pub fn add_part(&mut self, others: &Self, part: f64) {
        if self.bins.len() < others.bins.len() {
            self.bins.resize(others.bins.len(), [Sums::default(); 3]);
        }
        for (mine, theirs) in self.bins.iter_mut().zip(&others.bins) {
            for (a, b) in mine.iter_mut().zip(theirs) {
                a.gone += b.gone * part;
                a.lost += b.lost * part;
            }
        }
    }

    /// The same, each counting for `part`.
    #[must_use]
    pub fn scaled(&self, part: f64) -> Self {
        let mut all = Self::default();
        all.add_part(self, part);
        all
    }

    /// Whether anything can have lived through its first age.
    pub fn any_lives(&self) -> bool {
        self.bins.iter().enumerate().any(|(bin, sums)| {
            let high = sums[HIGH];
            bin >= 2 && high.gone > 0.0 || bin >= 1 && high.lost > 0.0
        })
    }

    /// The curves.
    pub fn curves(&self) -> Curves {
        let curve = |which: usize| {
            let mut at_risk: f64 = self.bins.iter().map(|b| b[which].gone + b[which].lost).sum();
            let (mut left, mut curve, mut reach) = (1.0, Vec::with_capacity(self.bins.len()), 0);
            for (n, sums) in self.bins.iter().enumerate() {
                let Sums { gone, lost } = sums[which];
                if gone + lost > 0.0 {
                    reach = last_of(n);
                }
                // Of a bin of several ages, those who were lost in it were there for a half of it.
                let seen = if n <= SINGLE as usize { at_risk } else { at_risk - lost / 2.0 };
                if n > 0 && seen > 0.0 {
                    left *= (1.0 - gone / seen).clamp(0.0, 1.0);
                }
                curve.push(left);
                at_risk -= gone + lost;
            }
            (curve, reach)
        };
        let (low, reach) = curve(LOW);
        Curves { low, mid: curve(MID).0, high: curve(HIGH).0, reach }
    }
}

/// Which part is still there, by age.
#[derive(Clone, Debug, Default)]
pub struct Curves {
    low: Vec<f64>,
    mid: Vec<f64>,
    high: Vec<f64>,
    /// The last age at which anyone was watched for certain.
    reach: u32,
}

/// A part, and between what it can be.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Part {
    /// At least.
    pub low: f64,
    /// Most likely.
    pub mid: f64,
    /// At most.
    pub high: f64,
}

impl Curves {
    /// Which part is still there at an age. Beyond what was watched, whoever was there stays (and none, in `low`).
    pub fn at(&self, age: u32) -> Part {
        let age = age.min(MAX_AGE);
        let at = |curve: &[f64]| {
            let n = bin(age);
            let Some(&after) = curve.get(n) else { return curve.last().copied().unwrap_or(1.0) };
            let before = if n == 0 { 1.0 } else { curve[n - 1] };
            let first = if n == 0 { 0 } else { last_of(n - 1) + 1 };
            let ages = f64::from(last_of(n) - first + 1);
            let part = f64::from(age + 1 - first) / ages;
            before + (after - before) * part
        };
        let high = at(&self.high);
        let low = if age > self.reach { 0.0 } else { at(&self.low).min(high) };
        Part { low, mid: at(&self.mid).max(low).min(high), high }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn life(weight: f64, sure: u32, until: u32, end: End) -> Life {
        let gap = until > sure + 1 && end != End::Alive;
        Life { weight, sure, until, end, gap }
    }

    fn curves(lives: &[Life]) -> Curves {
        let mut all = Lives::default();
        lives.iter().for_each(|l| all.add(l));
        all.curves()
    }

    fn is(a: f64, b: f64) -> bool {
        (a - b).abs() < 1e-9
    }

    #[test]
    fn bins_follow_one_another() {
        let mut before = 0;
        for age in 1..100_000 {
            let n = bin(age);
            assert!(n == before || n == before + 1, "{age}");
            assert!(age <= last_of(n) && (n == 0 || age > last_of(n - 1)), "{age}");
            before = n;
        }
        assert_eq!(bin(u32::MAX), bin(MAX_AGE));
    }

    #[test]
    fn who_was_watched_for_a_while_counts_for_that() {
        // The example of Kaplan and Meier's paper, section 2: 0.8 (seen to 1.0), and so on, in ages of a tenth.
        let c = curves(&[
            life(1.0, 7, 8, End::Gone),
            life(1.0, 10, 10, End::Alive),
            life(1.0, 26, 26, End::Alive),
            life(1.0, 27, 28, End::Gone),
            life(1.0, 30, 30, End::Alive),
            life(1.0, 53, 54, End::Gone),
            life(1.0, 70, 70, End::Alive),
            life(1.0, 91, 92, End::Gone),
            life(1.0, 121, 121, End::Alive),
        ]);
        let at = |age| c.at(age);
        assert!(is(at(7).mid, 1.0) && is(at(8).mid, 8.0 / 9.0) && is(at(16).mid, 8.0 / 9.0));
        // Beyond 16 ages are binned: 26 and 27 to 28 are others' bins.
        assert!((at(29).mid - 8.0 / 9.0 * 5.0 / 6.0).abs() < 0.08, "{:?}", at(29));
        assert!((at(100).mid - 8.0 / 9.0 * 5.0 / 6.0 * 3.0 / 8.0).abs() < 0.03, "{:?}", at(100));
        assert_eq!(at(100).low.to_bits(), at(100).mid.to_bits());
        assert_eq!(at(100).high.to_bits(), at(100).mid.to_bits());
    }

    #[test]
    fn gaps_widen_and_do_not_mislead() {
        // Half of them live for two, half for ever. Each second one is not looked at in between.
        let mut all = Vec::new();
        for n in 0..100 {
            let gap = n % 2 == 0;
            all.push(match (n % 4 < 2, gap) {
                (true, false) => life(1.0, 1, 2, End::Gone),
                (true, true) => life(1.0, 0, 4, End::Perhaps),
                (false, false) => life(1.0, 4, 4, End::Alive),
                (false, true) => life(1.0, 0, 4, End::Perhaps),
            });
        }
        let part = curves(&all).at(4);
        assert!(is(part.mid, 0.5) && is(part.low, 0.25) && is(part.high, 0.75), "{part:?}");
        // Nothing but gaps: all that was there may be it.
        let part = curves(&[life(1.0, 0, 4, End::Perhaps), life(1.0, 0, 4, End::Gone)]).at(4);
        assert!(is(part.low, 0.0) && is(part.high, 0.5) && is(part.mid, 0.5), "{part:?}");
    }

    #[test]
    fn beyond_what_was_watched_nothing_is_sure() {
        let part = curves(&[life(1.0, 4, 4, End::Alive), life(1.0, 1, 2, End::Gone)]).at(9);
        assert!(is(part.low, 0.0) && is(part.mid, 0.5) && is(part.high, 0.5), "{part:?}");
        assert_eq!(Lives::default().curves().at(3), Part { low: 0.0, mid: 1.0, high: 1.0 });
        let c = curves(&[life(1.0, u32::MAX - 1, u32::MAX, End::Alive)]);
        assert!(is(c.at(u32::MAX).low, 1.0));
    }

    #[test]
    fn sums_are_sums() {
        let (mut a, mut b) = (Lives::default(), Lives::default());
        a.add(&life(2.0, 0, 1, End::Gone));
        b.add(&life(1.0, 3, 3, End::Alive));
        assert!(!a.any_lives() && b.any_lives());
        let mut half = a.scaled(0.5);
        half.add_part(&b, 1.0);
        assert!(is(half.curves().at(3).mid, 0.5));
    }
}
