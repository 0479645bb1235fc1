//! A profile summed by call site: what text and JSON show. Must not know what the values mean.
//!
//! *Flat* is what samples whose innermost frame is the site's have, *cumulative* what samples with the site
//! anywhere in their stack have, once each. By [`By::Function`] both are what `go tool pprof -top` prints of the
//! same profile, by [`By::Line`] what `-top -lines` does: an inlined function counts as itself, functions are one
//! if their names as Go prints them are. Which frames of the runtime are not in the stacks is the business of who
//! made the profile ([`Profile::push_from_caller`]).

use std::collections::HashMap;
use std::fmt::Write as _;

use super::{LocationId, Profile, add};
use crate::elf::symbols::short_name;
use crate::record::SymbolFrame;
use crate::report::format::{clean, short};

/// What makes one site of many frames.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum By {
    /// The function.
    Function,
    /// The function, the file and the line.
    Line,
}

/// A place in the program.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Site {
    /// The function as Go prints it; an address, as `0x4711f0`, where it has no name.
    pub function: String,
    /// Its file, as the compiler was given it; `None` by function, and where unknown.
    pub file: Option<String>,
    /// The line; `None` by function, and where unknown.
    pub line: Option<u32>,
}

impl Site {
    /// Of a frame.
    pub fn of(address: u64, frame: Option<&SymbolFrame>, by: By) -> Self {
        let function = frame.map_or_else(|| format!("{address:#x}"), |f| short_name(&f.function));
        let frame = frame.filter(|_| by == By::Line);
        Self {
            function,
            file: frame.and_then(|f| f.file.clone()),
            line: frame.and_then(|f| f.line),
        }
    }

    /// `file:line`, as far as known; harmless on a terminal.
    pub fn position(&self) -> String {
        match (&self.file, self.line) {
            (Some(file), Some(line)) => format!("{}:{line}", clean(file)),
            (Some(file), None) => clean(file),
            (None, _) => String::new(),
        }
    }
}

/// A site's values, one of each of the profile's types.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Row {
    /// Where.
    pub site: Site,
    /// Of samples that end here.
    pub flat: Vec<i64>,
    /// Of samples that pass through or end here.
    pub cumulative: Vec<i64>,
    /// Samples that end here, by index in the profile.
    pub samples: Vec<usize>,
}

/// All sites, those with the most flat value of the type at `sort_by` first; equal ones by name.
pub fn rows(profile: &Profile, by: By, sort_by: usize) -> Vec<Row> {
    let mut numbers: HashMap<Site, usize> = HashMap::new();
    let mut rows: Vec<Row> = Vec::new();
    let types = profile.sample_types.len();
    // Each location's sites, innermost first: made once, for the same ones come in many stacks.
    let sites: Vec<Vec<usize>> = profile
        .locations()
        .iter()
        .map(|location| {
            let unknown = location.frames.is_empty().then_some(None);
            let frames = location.frames.iter().map(Some).chain(unknown);
            frames
                .map(|frame| {
                    let site = Site::of(location.address, frame, by);
                    *numbers.entry(site).or_insert_with_key(|site| {
                        rows.push(Row {
                            site: site.clone(),
                            flat: vec![0; types],
                            cumulative: vec![0; types],
                            samples: Vec::new(),
                        });
                        rows.len() - 1
                    })
                })
                .collect()
        })
        .collect();
    // The sample in which a site was seen last: each counts once in a sample.
    let mut seen = vec![usize::MAX; rows.len()];
    for (number, sample) in profile.samples().iter().enumerate() {
        let all = sample.stack.iter().flat_map(|LocationId(at)| &sites[*at as usize]);
        for (depth, site) in all.enumerate() {
            let row = &mut rows[*site];
            if depth == 0 {
                add(&mut row.flat, &sample.values);
                row.samples.push(number);
            }
            if seen[*site] != number {
                seen[*site] = number;
                add(&mut row.cumulative, &sample.values);
            }
        }
    }
    rows.retain(|row| !row.samples.is_empty() || row.cumulative.iter().any(|v| *v != 0));
    let value = |values: &[i64]| values.get(sort_by).map_or(0, |v| v.unsigned_abs());
    rows.sort_by(|a, b| {
        let key = |row: &Row| (value(&row.flat), value(&row.cumulative));
        key(b).cmp(&key(a)).then_with(|| a.site.cmp(&b.site))
    });
    rows
}

/// How a table is printed.
#[derive(Clone, Copy, Debug, Default)]
pub struct Look {
    /// Columns of the terminal; `None` where there is none, so that nothing is cut off for a pipe.
    pub width: Option<usize>,
    /// With colours.
    pub colour: bool,
}

const BOLD: &str = "\x1b[1m";
const PLAIN: &str = "\x1b[0m";
/// Narrower than this a last column is not made.
const MIN_LAST: usize = 20;

/// Prints rows under a header: all columns but the last `left` ones to the right, as numbers are. The last column
/// is cut at the terminal's edge. Cells must be harmless already.
pub fn print(header: &[&str], rows: &[Vec<String>], left: usize, look: Look) -> String {
    let mut out = String::new();
    let columns = header.len();
    let first: Vec<String> = header.iter().map(|h| (*h).to_owned()).collect();
    let all = || std::iter::once(&first).chain(rows);
    let widths: Vec<usize> = (0..columns)
        .map(|c| all().filter_map(|r| r.get(c)).map(|cell| cell.chars().count()).max().unwrap_or(0))
        .collect();
    let before_last: usize = widths.iter().take(columns.saturating_sub(1)).map(|w| w + 2).sum();
    let last = look.width.map(|width| width.saturating_sub(before_last).max(MIN_LAST));
    for (number, row) in all().enumerate() {
        let mut line = String::new();
        for (c, cell) in row.iter().enumerate().take(columns) {
            let is_last = c + 1 == columns;
            let cell = match last {
                Some(last) if is_last => short(cell, last),
                _ => cell.clone(),
            };
            let width = if is_last { 0 } else { widths[c] };
            let _ = if c + left < columns {
                write!(line, "{cell:>width$}  ", width = widths[c])
            } else {
                write!(line, "{cell:width$}  ")
            };
        }
        let line = line.trim_end();
        let _ = if number == 0 && look.colour {
            writeln!(out, "{BOLD}{line}{PLAIN}")
        } else {
            writeln!(out, "{line}")
        };
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::profile::ValueType;
    use crate::profile::tests::{location, sample_profile};

    fn flat_cum(rows: &[Row], v: usize) -> Vec<(String, i64, i64)> {
        rows.iter().map(|r| (r.site.function.clone(), r.flat[v], r.cumulative[v])).collect()
    }

    #[test]
    fn by_function_as_pprof_does() {
        let rows = rows(&sample_profile(), By::Function, 1);
        let expected = [
            ("main.fill[...]", 3000, 3000),
            ("main.inner", 500, 500),
            // A recursion counts once in what is cumulative.
            ("main.walk", 70, 70),
            ("runtime.mallocgc", 64, 64),
            ("main.main", 0, 3570),
            ("main.middle", 0, 500),
            ("main.outer", 0, 500),
        ];
        let expected = expected.map(|(f, flat, cum)| (f.to_owned(), flat, cum));
        assert_eq!(flat_cum(&rows, 1), expected);
        assert_eq!(rows[2].samples, [2]);
    }

    #[test]
    fn by_line_two_lines_of_a_function_are_two_sites() {
        let mut p = Profile::new(vec![ValueType::new("x", "count")]);
        for (address, line, value) in [(1, 10, 5), (2, 11, 9), (3, 10, 1)] {
            let id = p.location(location(address, &format!("main.f:{line}")));
            p.push(&[id], &[value], vec![]);
        }
        let nameless =
            p.location(crate::profile::Location { address: 0xabc, ..Default::default() });
        p.push(&[nameless], &[-20], vec![]);
        let lines = rows(&p, By::Line, 0);
        let told: Vec<_> =
            lines.iter().map(|r| (r.site.function.as_str(), r.site.line, r.flat[0])).collect();
        let expected = [("0xabc", None, -20), ("main.f", Some(11), 9), ("main.f", Some(10), 6)];
        assert_eq!(told, expected);
        assert_eq!(lines[1].site.position(), "/src/main.go:11");
        assert_eq!(flat_cum(&rows(&p, By::Function, 0), 0)[1], ("main.f".to_owned(), 15, 15));
    }

    #[test]
    fn a_table_fits_the_terminal() {
        let rows = [vec!["1".to_owned(), "main.a_rather_long_name_of_a_function".to_owned()]];
        let wide = print(&["N", "FUNCTION"], &rows, 1, Look::default());
        assert_eq!(wide, "N  FUNCTION\n1  main.a_rather_long_name_of_a_function\n");
        let narrow = print(&["N", "FUNCTION"], &rows, 1, Look { width: Some(30), colour: true });
        assert_eq!(narrow, "\x1b[1mN  FUNCTION\x1b[0m\n1  main.a_rather_long_name_of…\n");
    }
}
