//! The table of many versions: for each field, the versions from which on it lay somewhere else.
//!
//! A version that was not measured takes the place of the nearest one that was: of its own minor
//! version, else the newest of an older minor. The format is JSON, made to be read in a diff.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::wanted::WANTED;

/// Where a field lies in its struct.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Field {
    /// Offset from the struct's start, bytes.
    pub off: u32,
    /// Size, bytes.
    pub size: u32,
}

/// A Go release, `1.MINOR.PATCH`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Release {
    /// E.g. 27.
    pub minor: u32,
    /// E.g. 3.
    pub patch: u32,
}

impl Release {
    /// Parses `1.27.3`.
    pub fn parse(text: &str) -> Option<Self> {
        let (minor, patch) = text.strip_prefix("1.")?.split_once('.')?;
        Some(Self { minor: minor.parse().ok()?, patch: patch.parse().ok()? })
    }
}

impl std::fmt::Display for Release {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "1.{}.{}", self.minor, self.patch)
    }
}

/// What one version looks like.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Layout {
    /// Struct → its layout.
    pub structs: BTreeMap<String, Struct>,
    /// Enumeration → its names by value; an empty name is a value without one.
    pub enums: BTreeMap<String, Vec<String>>,
}

/// One struct of one version.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Struct {
    /// Its size, bytes.
    pub size: u32,
    /// Field (nested ones as `outer.inner`) → where it lies.
    pub fields: BTreeMap<String, Field>,
}

/// How well the table knows a version.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Match {
    /// It was measured.
    Exact,
    /// Another patch of its minor version was measured, or, where none was, an older minor.
    Nearest(Release),
    /// It is newer than all; this is the newest.
    Newer(Release),
}

/// From a version on, a value (or none, where the field or struct is not there).
type Since<T> = Vec<(String, Option<T>)>;

/// The table of one machine architecture.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Table {
    /// `amd64`, `arm64`.
    pub arch: String,
    /// The versions that were measured, ascending.
    pub versions: Vec<String>,
    structs: BTreeMap<String, History>,
    enums: BTreeMap<String, Since<Vec<String>>>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct History {
    size: Since<u32>,
    fields: BTreeMap<String, Since<(u32, u32)>>,
}

impl Table {
    /// A table of these measurements.
    pub fn new(arch: &str, measured: &BTreeMap<Release, Layout>) -> Self {
        let mut table = Self { arch: arch.to_owned(), ..Self::default() };
        let layouts = |f: &dyn Fn(&Layout) -> Option<u32>| history(measured, f);
        table.versions = measured.keys().map(Release::to_string).collect();
        for (name, fields) in WANTED {
            let size = layouts(&|l| l.structs.get(*name).map(|s| s.size));
            let fields = fields
                .iter()
                .map(|field| {
                    let at = |l: &Layout| l.structs.get(*name)?.fields.get(*field).copied();
                    let since = history(measured, &|l| at(l).map(|f| (f.off, f.size)));
                    ((*field).to_owned(), since)
                })
                .filter(|(_, since)| !since.is_empty())
                .collect();
            if !size.is_empty() {
                table.structs.insert((*name).to_owned(), History { size, fields });
            }
        }
        let names: std::collections::BTreeSet<&String> =
            measured.values().flat_map(|l| l.enums.keys()).collect();
        for name in names {
            let since = history(measured, &|l| l.enums.get(name).cloned());
            table.enums.insert(name.clone(), since);
        }
        table
    }

    /// From JSON.
    pub fn from_text(text: &str) -> Result<Self, serde_json::Error> {
        serde_json::from_str(text)
    }

    /// As JSON, a line for each field: a change of one is a change of one line.
    pub fn to_text(&self) -> Result<String, serde_json::Error> {
        let mut structs = Vec::new();
        for (name, history) in &self.structs {
            let fields = history
                .fields
                .iter()
                .map(|(field, since)| Ok(format!("{}:{}", json(field)?, json(since)?)))
                .collect::<Result<Vec<_>, serde_json::Error>>()?;
            structs.push(format!(
                "{}:{{\"size\":{},\"fields\":{{\n{}}}}}",
                json(name)?,
                json(&history.size)?,
                fields.join(",\n")
            ));
        }
        let mut enums = Vec::new();
        for (name, since) in &self.enums {
            let lines = since.iter().map(json).collect::<Result<Vec<_>, _>>()?;
            enums.push(format!("{}:[\n{}]", json(name)?, lines.join(",\n")));
        }
        Ok(format!(
            "{{\"arch\":{},\n\"versions\":{},\n\"structs\":{{\n{}}},\n\"enums\":{{\n{}}}}}\n",
            json(&self.arch)?,
            json(&self.versions)?,
            structs.join(",\n"),
            enums.join(",\n")
        ))
    }

    /// The measured version that stands for `wanted`; `None` for an empty table, and for what is
    /// older than all of it.
    pub fn nearest(&self, wanted: Release) -> Option<(Release, Match)> {
        let all: Vec<Release> = self.versions.iter().filter_map(|v| Release::parse(v)).collect();
        let newest = *all.iter().max()?;
        if wanted.minor > newest.minor {
            return Some((newest, Match::Newer(newest)));
        }
        let best = all
            .iter()
            .filter(|r| r.minor <= wanted.minor)
            .min_by_key(|r| (wanted.minor - r.minor, r.patch.abs_diff(wanted.patch)))?;
        let how = if *best == wanted { Match::Exact } else { Match::Nearest(*best) };
        Some((*best, how))
    }

    /// What the table says of a measured version.
    pub fn layout(&self, release: Release) -> Layout {
        let mut layout = Layout::default();
        for (name, history) in &self.structs {
            let Some(&size) = at(&history.size, release) else { continue };
            let fields = history
                .fields
                .iter()
                .filter_map(|(field, since)| {
                    at(since, release).map(|&(off, size)| (field.clone(), Field { off, size }))
                })
                .collect();
            layout.structs.insert(name.clone(), Struct { size, fields });
        }
        for (name, since) in &self.enums {
            if let Some(names) = at(since, release) {
                layout.enums.insert(name.clone(), names.clone());
            }
        }
        layout
    }
}

fn json<T: Serialize + ?Sized>(value: &T) -> Result<String, serde_json::Error> {
    serde_json::to_string(value)
}

fn history<T: PartialEq>(
    measured: &BTreeMap<Release, Layout>,
    value: &dyn Fn(&Layout) -> Option<T>,
) -> Since<T> {
    let mut since: Since<T> = Vec::new();
    for (release, layout) in measured {
        let now = value(layout);
        let before = since.last().and_then(|(_, v)| v.as_ref());
        if now.as_ref() != before {
            since.push((release.to_string(), now));
        }
    }
    since
}

fn at<T>(since: &Since<T>, release: Release) -> Option<&T> {
    since
        .iter()
        .take_while(|(from, _)| Release::parse(from).is_some_and(|from| from <= release))
        .last()?
        .1
        .as_ref()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn layout(goid: Option<u32>, size: u32) -> Layout {
        let mut layout = Layout::default();
        let mut g = Struct { size, ..Struct::default() };
        g.fields.extend(goid.map(|off| ("goid".to_owned(), Field { off, size: 8 })));
        layout.structs.insert("runtime.g".to_owned(), g);
        let names = ["", "one"].map(str::to_owned).to_vec();
        layout.enums.insert("waitReason".to_owned(), names);
        layout
    }

    fn measured() -> BTreeMap<Release, Layout> {
        [
            (Release { minor: 21, patch: 13 }, layout(Some(152), 408)),
            (Release { minor: 23, patch: 2 }, layout(Some(160), 432)),
            (Release { minor: 23, patch: 9 }, layout(Some(160), 440)),
            (Release { minor: 23, patch: 10 }, layout(None, 440)),
        ]
        .into()
    }

    #[test]
    fn what_was_measured_comes_back() {
        let table = Table::new("amd64", &measured());
        let text = table.to_text().expect("serialises");
        let back = Table::from_text(&text).expect("parses");
        assert_eq!(back, table);
        for (release, layout) in measured() {
            assert_eq!(back.layout(release), layout, "{release}");
        }
        // 23.10 comes after 23.9, not after 23.1.
        assert_eq!(back.versions, ["1.21.13", "1.23.2", "1.23.9", "1.23.10"]);
        // Said once for all versions, though it is the same in two.
        assert!(
            text.contains(
                "\"goid\":[[\"1.21.13\",[152,8]],[\"1.23.2\",[160,8]],[\"1.23.10\",null]]"
            )
        );
    }

    #[test]
    fn the_nearest_release_stands_in() {
        let table = Table::new("amd64", &measured());
        let near = |minor, patch| table.nearest(Release { minor, patch });
        let release = |minor, patch| Release { minor, patch };
        assert_eq!(near(23, 9), Some((release(23, 9), Match::Exact)));
        assert_eq!(near(23, 4), Some((release(23, 2), Match::Nearest(release(23, 2)))));
        assert_eq!(near(23, 99), Some((release(23, 10), Match::Nearest(release(23, 10)))));
        assert_eq!(near(22, 5), Some((release(21, 13), Match::Nearest(release(21, 13)))));
        assert_eq!(near(24, 0), Some((release(23, 10), Match::Newer(release(23, 10)))));
        assert_eq!(near(20, 0), None);
        assert_eq!(Table::default().nearest(release(23, 9)), None);
    }
}
