//! `GODEBUG=gctrace=1` lines: `gc 7 @0.102s 1%: 0.018+1.2+0.003 ms clock, …`.
//!
//! The clock fields are the sweep-termination stop, concurrent mark and the mark-termination stop
//! (Go `runtime/mgc.go`: differences of `work.tSweepTerm`, `tMark`, `tMarkTerm`, `tEnd`).
//! `tSweepTerm` and `tMarkTerm` are taken *before* the world is asked to stop. `tMark` is the time
//! at which `startTheWorldWithSema` has the processors running again; `tEnd` is taken well before
//! that function is called, with the world still standing. The fields are truncated when printed
//! (`fmtNSAsMS`): each comes with the quantum it was cut to.

use anyhow::{Context, Result};

use crate::proc::{Line, Stream};

/// A printed duration: the truth lies in `[ns, ns + quantum_ns)`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Printed {
    /// As printed.
    pub ns: u64,
    /// What printing cut off is less than this.
    pub quantum_ns: u64,
}

impl Printed {
    /// `fmtNSAsMS` prints whole milliseconds from 10 ms, else two digits, at most three of them
    /// after the point (so never less than a microsecond).
    fn parse(text: &str) -> Option<Self> {
        let decimals = text.split_once('.').map_or(0, |(_, fraction)| fraction.len());
        let quantum_ns = match decimals {
            _ if text == "0" => 1_000,
            0 => 1_000_000,
            1 => 100_000,
            2 => 10_000,
            3 => 1_000,
            _ => return None,
        };
        Some(Self { ns: decimal(text, 1_000_000)?, quantum_ns })
    }

    /// How far a measurement is outside of what can have been printed so; 0 inside.
    pub fn error_ns(self, measured_ns: u64) -> u64 {
        if measured_ns < self.ns {
            self.ns - measured_ns
        } else {
            (measured_ns + 1).saturating_sub(self.ns + self.quantum_ns)
        }
    }
}

/// One garbage collection, as the runtime tells it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cycle {
    /// Number since the program's start.
    pub number: u32,
    /// Start since `runtimeInitTime`, ns, cut to a millisecond.
    pub at_ns: u64,
    /// Sweep termination: stopping and stopped.
    pub sweep_term: Printed,
    /// Concurrent mark.
    pub mark: Printed,
    /// Mark termination: stopping and stopped.
    pub mark_term: Printed,
    /// When we read the line, `CLOCK_MONOTONIC` ns: some time after the cycle's end.
    pub read_ns: u64,
}

impl Cycle {
    /// The cycle that a line tells of, if it does.
    pub fn parse(line: &Line) -> Option<Self> {
        let rest = line.text.strip_prefix("gc ")?;
        let (number, rest) = rest.split_once(" @")?;
        let (at, rest) = rest.split_once("s ")?;
        let (_, rest) = rest.split_once("%: ")?;
        let (clock, _) = rest.split_once(" ms clock")?;
        let mut fields = clock.split('+').map(Printed::parse);
        Some(Self {
            number: number.parse().ok()?,
            at_ns: decimal(at, 1_000_000_000)?,
            sweep_term: fields.next()??,
            mark: fields.next()??,
            mark_term: fields.next()??,
            read_ns: line.at_ns,
        })
    }

    /// End since `runtimeInitTime`, ns: never later than the true one.
    fn end_ns(&self) -> u64 {
        self.at_ns + self.sweep_term.ns + self.mark.ns + self.mark_term.ns
    }
}

/// A decimal number times `unit`, in whole numbers.
fn decimal(text: &str, unit: u64) -> Option<u64> {
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    let mut value = whole.parse::<u64>().ok()?.checked_mul(unit)?;
    let mut place = unit;
    for digit in fraction.chars() {
        place /= 10;
        value += u64::from(digit.to_digit(10)?) * place;
    }
    Some(value)
}

/// All cycles that a program told of.
pub fn cycles(lines: &[Line]) -> Vec<Cycle> {
    lines.iter().filter(|l| l.stream == Stream::Err).filter_map(Cycle::parse).collect()
}

/// `CLOCK_MONOTONIC` at `runtimeInitTime`, to about a millisecond: each line was read after its
/// cycle's end, the promptest one hardly later.
pub fn init_ns(cycles: &[Cycle]) -> Result<u64> {
    let init = cycles.iter().map(|c| c.read_ns.saturating_sub(c.end_ns())).min();
    init.context("the program told of no garbage collection")
}

/// One of their cycles (by index) and the one of ours that is the same.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Matching {
    /// Same cycle: index in the first list, index in the second.
    pub pairs: Vec<(usize, usize)>,
    /// Only in the first.
    pub missed: Vec<usize>,
    /// Only in the second.
    pub invented: Vec<usize>,
}

/// Pairs two ascending lists of start times, each with the nearest one within `tolerance_ns`.
pub fn match_starts(truth: &[u64], ours: &[u64], tolerance_ns: u64) -> Matching {
    let mut found = Matching::default();
    let (mut i, mut j) = (0, 0);
    while i < truth.len() || j < ours.len() {
        match (truth.get(i), ours.get(j)) {
            (Some(a), Some(b)) if a.abs_diff(*b) <= tolerance_ns => {
                found.pairs.push((i, j));
                (i, j) = (i + 1, j + 1);
            }
            (Some(a), Some(b)) if a > b => {
                found.invented.push(j);
                j += 1;
            }
            (Some(_), _) => {
                found.missed.push(i);
                i += 1;
            }
            (None, _) => {
                found.invented.push(j);
                j += 1;
            }
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(text: &str) -> Line {
        Line { stream: Stream::Err, at_ns: 9, text: text.to_owned() }
    }

    #[test]
    fn a_line_is_read_with_its_quanta() {
        let text = "gc 12 @1.234s 2%: 0.018+11+1.3 ms clock, 0.037+0.2/1.1/0+2.6 ms cpu, \
                    4->4->2 MB, 5 MB goal, 0 MB stacks, 0 MB globals, 2 P";
        let printed = |ns, quantum_ns| Printed { ns, quantum_ns };
        assert_eq!(
            Cycle::parse(&line(text)),
            Some(Cycle {
                number: 12,
                at_ns: 1_234_000_000,
                sweep_term: printed(18_000, 1_000),
                mark: printed(11_000_000, 1_000_000),
                mark_term: printed(1_300_000, 100_000),
                read_ns: 9,
            })
        );
        assert_eq!(Cycle::parse(&line("gc forced")), None);
        assert_eq!(Cycle::parse(&line("scvg: 8 MB released")), None);
    }

    #[test]
    fn printing_as_the_runtime_does_is_undone() {
        // fmtNSAsMS: 123_456 ns → x = 123 µs → 12 with 2 decimals → "0.12".
        for (text, ns, quantum_ns) in [
            ("0", 0, 1_000),
            ("0.001", 1_000, 1_000),
            ("0.099", 99_000, 1_000),
            ("0.12", 120_000, 10_000),
            ("9.9", 9_900_000, 100_000),
            ("10", 10_000_000, 1_000_000),
        ] {
            assert_eq!(Printed::parse(text), Some(Printed { ns, quantum_ns }), "{text}");
        }
    }

    #[test]
    fn errors_count_from_the_edges_of_what_was_printed() {
        let printed = Printed { ns: 120_000, quantum_ns: 10_000 };
        let errors = [119_000, 120_000, 129_999, 130_000, 131_000].map(|m| printed.error_ns(m));
        assert_eq!(errors, [1_000, 0, 0, 1, 1_001]);
    }

    #[test]
    fn matching_tells_missed_from_invented() {
        let found = match_starts(&[10, 20, 30], &[11, 25, 31], 2);
        let expected = Matching { pairs: vec![(0, 0), (2, 2)], missed: vec![1], invented: vec![1] };
        assert_eq!(found, expected);
    }
}
