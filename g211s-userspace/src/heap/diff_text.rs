//! A comparison of two heaps as text. Must not know where they came from.

use std::fmt::Write as _;

use super::diff::{Difference, Growth, SideInfo};
use crate::profile::table::{Look, print};
use crate::report::format::{bytes, clean, count, plural};

impl Difference {
    /// The text: the `top` sites.
    pub fn text(&self, top: usize, look: Look) -> String {
        let mut out = String::new();
        let side = |side: &SideInfo| {
            let objects = plural(side.inuse_objects, "object", "objects");
            format!("{} in {objects} in use  ({})", bytes(side.inuse_bytes), clean(&side.file))
        };
        let _ = writeln!(out, "before: {}", side(&self.before));
        let _ = writeln!(out, "after:  {}", side(&self.after));
        let _ = writeln!(out, "grown:  {}\n", signed(self.grown_bytes, bytes));
        let rows: Vec<Vec<String>> = self.sites.iter().take(top).map(row).collect();
        if rows.is_empty() {
            out.push_str("no site has changed\n");
        } else {
            let header = ["GROWN", "BEFORE", "AFTER", "OBJECTS", "ALLOCATED", "SURE", "SITE"];
            out.push_str(&print(&header, &rows, 2, look));
        }
        let rest = self.sites.get(top..).unwrap_or_default();
        if !rest.is_empty() {
            let sum = rest.iter().fold(0_i64, |sum, g| sum.saturating_add(g.inuse_bytes.grown));
            let _ = writeln!(
                out,
                "{} in {} (--top N shows more, --json all)",
                signed(sum, bytes),
                plural(rest.len() as u64, "further site", "further sites")
            );
        }
        if self.sites.iter().any(|g| g.beyond_error.is_some()) {
            out.push_str("\nSURE: the 95 % intervals of the two lie apart, so sampling does not explain it.\n");
        }
        for note in &self.notes {
            let _ = writeln!(out, "note: {}.", clean(note));
        }
        out
    }
}

fn row(growth: &Growth) -> Vec<String> {
    let position = match (&growth.file, growth.line) {
        (Some(file), Some(line)) => format!("  {}:{line}", clean(file)),
        (Some(file), None) => format!("  {}", clean(file)),
        (None, _) => String::new(),
    };
    let sure = match growth.beyond_error {
        Some(true) => "yes",
        Some(false) => "no",
        None => "?",
    };
    vec![
        signed(growth.inuse_bytes.grown, bytes),
        bytes(growth.inuse_bytes.before),
        bytes(growth.inuse_bytes.after),
        signed(growth.inuse_objects.grown, count),
        signed(growth.alloc_bytes.grown, bytes),
        sure.to_owned(),
        format!("{}{position}", clean(&growth.function)),
    ]
}

/// With its sign; 0 without.
fn signed(n: i64, show: fn(u64) -> String) -> String {
    let sign = match n {
        0 => "",
        1.. => "+",
        _ => "-",
    };
    format!("{sign}{}", show(n.unsigned_abs()))
}
