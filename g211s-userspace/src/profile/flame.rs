//! Flame graphs: folded stacks, and a drawing of them. Must not know what the values mean.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use super::flame_svg::draw;
use super::{Profile, add};
use crate::elf::symbols::short_name;
use crate::report::format::clean;

/// Frames drawn on top of one another; the rest of a deeper stack is left out.
const MAX_DEPTH: usize = 512;
/// What separates frames, which no frame may hold.
const SEPARATOR: char = ';';

/// The stacks of a profile with their value of the type at `index`, outermost frame first, one a line:
/// `main.main;main.f 42`. What has none, or less than none, is left out.
pub fn folded(profile: &Profile, index: usize) -> String {
    let mut out = String::new();
    for (stack, value) in stacks(profile, index) {
        out.push_str(&stack.join(";"));
        let _ = writeln!(out, " {value}");
    }
    out
}

/// A flame graph as SVG that needs nothing else: widths are values of the type at `index`; a click on a frame
/// shows it alone.
pub fn svg(profile: &Profile, index: usize, title: &str) -> String {
    let unit = profile.sample_types.get(index).map_or("", |t| t.unit.as_str());
    draw(&tree(profile, index), &clean(title), unit)
}

type Stacks = BTreeMap<Vec<String>, i64>;

fn stacks(profile: &Profile, index: usize) -> Stacks {
    let mut all = Stacks::new();
    for sample in profile.samples() {
        let Some(value) = sample.values.get(index).copied().filter(|v| *v > 0) else { continue };
        let name = |(address, frame): (u64, Option<&crate::record::SymbolFrame>)| {
            frame.map_or_else(
                || format!("{address:#x}"),
                |f| clean(&short_name(&f.function)).replace(SEPARATOR, ":"),
            )
        };
        let mut stack: Vec<String> = profile.frames(sample).map(name).collect();
        stack.reverse();
        add(std::slice::from_mut(all.entry(stack).or_default()), &[value]);
    }
    all
}

/// A frame in the drawing, and what stands on it.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Node {
    /// The function.
    pub name: String,
    /// How much, with what stands on it.
    pub value: i64,
    /// Where it lies: the sum of what is to its left.
    pub from: i64,
    /// Frames under it.
    pub depth: usize,
}

/// The frames of a profile by its values of the type at `index`, each before what stands on it; the first is under all
/// others.
pub fn tree(profile: &Profile, index: usize) -> Vec<Node> {
    frames(&stacks(profile, index))
}

fn frames(stacks: &Stacks) -> Vec<Node> {
    let mut nodes = vec![Node { name: "all".to_owned(), ..Node::default() }];
    // The frames of the last stack, by index: sorted stacks share them with their neighbours.
    let mut open: Vec<usize> = vec![0];
    let mut at = 0_i64;
    for (stack, value) in stacks {
        let stack = &stack[..stack.len().min(MAX_DEPTH)];
        let shared = stack
            .iter()
            .zip(&open[1..])
            .take_while(|(name, at)| **name == nodes[**at].name)
            .count();
        open.truncate(shared + 1);
        for name in &stack[shared..] {
            let depth = open.len();
            open.push(nodes.len());
            nodes.push(Node { name: name.clone(), value: 0, from: at, depth });
        }
        for index in &open {
            nodes[*index].value = nodes[*index].value.saturating_add(*value);
        }
        at = at.saturating_add(*value);
    }
    nodes
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::profile::ValueType;
    use crate::profile::tests::{location, sample_profile};

    #[test]
    fn stacks_are_folded_from_the_outside() {
        let text = folded(&sample_profile(), 1);
        let expected = "main.main;main.fill[...] 3000\n\
                        main.main;main.outer;main.middle;main.inner 500\n\
                        main.main;main.walk;main.walk;main.walk 70\n\
                        runtime.mallocgc 64\n";
        assert_eq!(text, expected);
    }

    #[test]
    fn equal_stacks_are_one_and_what_is_not_there_is_not_drawn() {
        let mut p = Profile::new(vec![ValueType::new("x", "count")]);
        let id = p.location(location(1, "a;b.f:1"));
        for value in [1, 2, 0, -7] {
            p.push(&[id], &[value], vec![]);
        }
        assert_eq!(folded(&p, 0), "a:b.f 3\n");
        assert_eq!(folded(&p, 9), "");
    }

    #[test]
    fn each_frame_lies_on_its_caller() {
        let nodes = tree(&sample_profile(), 1);
        assert_eq!((nodes[0].name.as_str(), nodes[0].value), ("all", 3634));
        for (i, node) in nodes.iter().enumerate().skip(1) {
            let under = nodes[..i].iter().rev().find(|n| n.depth + 1 == node.depth).unwrap();
            assert!(under.from <= node.from, "{node:?}");
            assert!(node.from + node.value <= under.from + under.value, "{node:?} on {under:?}");
        }
        let sum: i64 = nodes.iter().filter(|n| n.depth == 1).map(|n| n.value).sum();
        assert_eq!(sum, 3634);
        assert_eq!(nodes.iter().filter(|n| n.name == "main.walk").count(), 3, "a recursion");
    }

    #[test]
    fn a_drawing_holds_every_wide_frame_and_nothing_foreign() {
        let mut p = sample_profile();
        let evil = p.location(location(9, "</svg><script>alert(1)</script>\u{1b}:1"));
        p.push(&[evil], &[1000, 1000], vec![]);
        let text = svg(&p, 1, "heap <of> \"x\"");
        assert!(text.starts_with("<?xml") && text.trim_end().ends_with("</svg>"));
        for name in ["main.fill[...]", "main.middle", "heap &lt;of&gt; &quot;x&quot;"] {
            assert!(text.contains(name), "{name}");
        }
        assert!(text.contains("&lt;/svg&gt;&lt;script&gt;alert"));
        assert!(!text.contains("<script>alert") && !text.contains('\u{1b}'));
    }
}
