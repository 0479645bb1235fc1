//! Intervals of `CLOCK_MONOTONIC` and how much of them overlaps.

/// Something was injected from … to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Span {
    /// Since when, ns.
    pub from_ns: u64,
    /// Until when, ns.
    pub to_ns: u64,
    /// How much of it was something else, at moments that are not known (a thread that was to be
    /// busy was off its CPU), ns.
    pub away_ns: u64,
}

impl Span {
    /// From … to.
    pub fn new(from_ns: u64, to_ns: u64) -> Self {
        Self { from_ns, to_ns, away_ns: 0 }
    }

    /// Its length, ns.
    pub fn len_ns(&self) -> u64 {
        self.to_ns.saturating_sub(self.from_ns)
    }

    /// How much of `[from, to)` it certainly covers, ns.
    pub fn covers(&self, from: u64, to: u64) -> u64 {
        self.touches(from, to).saturating_sub(self.away_ns)
    }

    /// How much of `[from, to)` it covers at most, ns.
    pub fn touches(&self, from: u64, to: u64) -> u64 {
        self.to_ns.min(to).saturating_sub(self.from_ns.max(from))
    }
}

/// How much of `[from, to)` spans that do not overlap each other cover for certain, ns.
pub fn covered(spans: &[Span], from: u64, to: u64) -> u64 {
    spans.iter().map(|s| s.covers(from, to)).sum()
}

/// The union of spans, of which some may overlap: in order, apart from each other.
pub fn union(mut spans: Vec<Span>) -> Vec<Span> {
    spans.sort_by_key(|s| s.from_ns);
    let mut out: Vec<Span> = Vec::new();
    for span in spans {
        match out.last_mut() {
            Some(last) if span.from_ns <= last.to_ns => {
                last.to_ns = last.to_ns.max(span.to_ns);
                last.away_ns += span.away_ns;
            }
            _ => out.push(span),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_away_is_not_covered() {
        let span = Span { from_ns: 10, to_ns: 30, away_ns: 5 };
        assert_eq!([span.covers(0, 20), span.covers(20, 100), span.covers(28, 30)], [5, 5, 0]);
        assert_eq!(span.covers(40, 50), 0);
        assert_eq!(covered(&[span, Span::new(40, 45)], 0, 42), 17);
    }

    #[test]
    fn a_union_counts_nothing_twice() {
        let spans = vec![Span::new(5, 9), Span::new(1, 3), Span::new(2, 4), Span::new(9, 10)];
        assert_eq!(union(spans), [Span::new(1, 4), Span::new(5, 10)]);
    }
}
