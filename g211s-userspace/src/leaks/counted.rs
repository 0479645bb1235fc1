//! Goroutines over a run: from censuses to series of numbers by creation site. Pure; must not know what a series says.

use std::collections::{BTreeMap, HashMap};

use super::place::Place;
use crate::analysis::trend::{Kept, Point};
use crate::record::{GoroutineCounts, GoroutineSite, GoroutinesKept};
use crate::report::format::clean;

/// Censuses, and sites, that are kept, whatever the records hold.
const MAX_CENSUSES: usize = 20_000;
const MAX_SITES: usize = 1 << 16;

/// What made goroutines: a statement, or how it is called otherwise.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Creator {
    /// A `go` statement.
    Statement(Place),
    /// `start`, `c`, `unknown`.
    Other(String),
}

/// The censuses of a run.
#[derive(Debug, Default)]
pub struct Counted {
    sites: HashMap<u32, GoroutineSite>,
    censuses: Vec<GoroutineCounts>,
    kept: Option<GoroutinesKept>,
}

/// Goroutines of one creation site.
#[derive(Clone, Debug, Default)]
pub struct Goroutines {
    /// In each census; `bytes` are goroutines.
    pub points: Vec<Point>,
    /// How many of those halfway are there at the end.
    pub kept: Option<Kept>,
    /// What most of the last ones wait for, and how many.
    pub state: Option<(String, u64)>,
    /// The functions that they run.
    pub starts: Vec<String>,
}

impl Counted {
    /// Takes a creation site.
    pub fn site(&mut self, site: &GoroutineSite) {
        if self.sites.len() < MAX_SITES {
            self.sites.insert(site.id, site.clone());
        }
    }

    /// Takes a census.
    pub fn census(&mut self, counts: &GoroutineCounts) {
        if self.censuses.len() < MAX_CENSUSES {
            self.censuses.push(counts.clone());
        }
    }

    /// Takes who is still there.
    pub fn kept(&mut self, kept: &GoroutinesKept) {
        self.kept = Some(kept.clone());
    }

    /// Censuses so far.
    pub fn len(&self) -> usize {
        self.censuses.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.censuses.is_empty()
    }

    /// How many goroutines there were in the first and in the last census.
    pub fn ends(&self) -> Option<(u64, u64)> {
        let sum =
            |c: &GoroutineCounts| c.counts.iter().fold(0, |n: u64, (.., m)| n.saturating_add(*m));
        Some((sum(self.censuses.first()?), sum(self.censuses.last()?)))
    }

    fn creator(&self, id: u32) -> Option<Creator> {
        let site = self.sites.get(&id)?;
        Some(match &site.function {
            Some(function) => Creator::Statement(Place {
                function: clean(function),
                file: site.file.as_deref().map(clean),
                line: site.line,
            }),
            None => Creator::Other(clean(&site.created_by)),
        })
    }

    /// The series of each creation site.
    pub fn series(&self) -> BTreeMap<Creator, Goroutines> {
        let mut all: BTreeMap<Creator, Goroutines> = BTreeMap::new();
        let creators: HashMap<u32, Creator> =
            self.sites.keys().filter_map(|id| Some((*id, self.creator(*id)?))).collect();
        for (id, creator) in &creators {
            let of = all.entry(creator.clone()).or_default();
            let start = self.sites.get(id).and_then(|s| s.start.as_deref()).map(clean);
            of.starts
                .extend(start.filter(|s| !of.starts.contains(s)).into_iter().collect::<Vec<_>>());
        }
        for of in all.values_mut() {
            of.starts.sort_unstable();
            of.points = self
                .censuses
                .iter()
                .enumerate()
                .map(|(n, c)| Point {
                    gc: n as u64,
                    time_ns: c.ts_ns,
                    bytes: 0.0,
                    standard_error: 0.0,
                })
                .collect();
        }
        for (n, census) in self.censuses.iter().enumerate() {
            for (id, _, count) in &census.counts {
                let of = creators.get(id).and_then(|c| all.get_mut(c));
                if let Some(point) = of.and_then(|of| of.points.get_mut(n)) {
                    point.bytes += *count as f64;
                }
            }
        }
        self.states(&creators, &mut all);
        self.keep(&creators, &mut all);
        all
    }

    fn states(&self, creators: &HashMap<u32, Creator>, all: &mut BTreeMap<Creator, Goroutines>) {
        let mut states: BTreeMap<(&Creator, &str), u64> = BTreeMap::new();
        for (id, state, count) in self.censuses.last().iter().flat_map(|c| &c.counts) {
            if let Some(creator) = creators.get(id) {
                *states.entry((creator, state)).or_default() += count;
            }
        }
        for ((creator, state), count) in states {
            if let Some(of) = all.get_mut(creator)
                && of.state.as_ref().is_none_or(|(_, most)| count > *most)
            {
                of.state = Some((clean(state), count));
            }
        }
    }

    fn keep(&self, creators: &HashMap<u32, Creator>, all: &mut BTreeMap<Creator, Goroutines>) {
        let mut sums: BTreeMap<&Creator, (u64, u64)> = BTreeMap::new();
        for (id, lived, still) in self.kept.iter().flat_map(|k| &k.sites) {
            if let Some(creator) = creators.get(id) {
                let sum = sums.entry(creator).or_default();
                sum.0 = sum.0.saturating_add(*lived);
                sum.1 = sum.1.saturating_add(*still);
            }
        }
        for (creator, (lived, still)) in sums {
            if let Some(of) = all.get_mut(creator) {
                of.kept = Kept::of(lived as f64, lived.saturating_sub(still) as f64, lived);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sites_of_one_line_are_one() {
        let mut c = Counted::default();
        let site = |id, line, start: &str| GoroutineSite {
            id,
            created_by: "go".into(),
            function: Some("main.f".into()),
            file: Some("a.go".into()),
            line: Some(line),
            start: Some(start.into()),
        };
        c.site(&site(0, 7, "main.f.func1"));
        c.site(&site(1, 7, "main.f.func2"));
        c.site(&site(2, 9, "main.g"));
        let census = |ts_ns, counts: &[(u32, &str, u64)]| GoroutineCounts {
            ts_ns,
            took_ns: 1,
            counts: counts.iter().map(|(id, s, n)| (*id, (*s).to_owned(), *n)).collect(),
        };
        c.census(&census(1, &[(0, "chan receive", 4), (2, "select", 1)]));
        c.census(&census(2, &[(0, "chan receive", 4), (0, "sleep", 9), (1, "chan receive", 6)]));
        c.kept(&GoroutinesKept { since_ns: 1, sites: vec![(0, 50, 50), (1, 50, 0), (9, 1, 1)] });
        let all = c.series();
        assert_eq!(all.len(), 2);
        let line = |n| {
            let key = Place { function: "main.f".into(), file: Some("a.go".into()), line: Some(n) };
            &all[&Creator::Statement(key)]
        };
        let counts = |g: &Goroutines| g.points.iter().map(|p| p.bytes as u64).collect::<Vec<_>>();
        assert_eq!((counts(line(7)), counts(line(9))), (vec![4, 19], vec![1, 0]));
        assert_eq!(line(7).state, Some(("chan receive".to_owned(), 10)));
        assert_eq!(line(7).starts, ["main.f.func1", "main.f.func2"]);
        assert!((line(7).kept.expect("known").share - 0.5).abs() < 0.01);
        assert_eq!(c.ends(), Some((5, 19)));
    }
}
