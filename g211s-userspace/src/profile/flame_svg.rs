//! The drawing of a flame graph: one SVG that needs nothing else. Must not know where frames came from.

use std::fmt::Write as _;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};

use super::flame::Node;
use crate::report::format::{count, markup, short};

/// Of the whole drawing, pixels.
const WIDTH: f64 = 1200.0;
/// Of a frame, pixels.
const HEIGHT: usize = 17;
/// Around the drawing, pixels.
const EDGE: usize = 10;
const HEAD: usize = 34;
/// Of a letter, pixels: more than any font's mean, so that no name leaves its frame.
const LETTER: f64 = 7.0;
/// Narrower frames are not drawn, pixels.
const MIN_WIDTH: f64 = 0.1;

/// A click shows a frame alone, with what stands on it; a click on the lowest frame shows all again.
const SCRIPT: &str = r#"
const frames = Array.from(document.querySelectorAll("g.f")).map(g => ({
  g, r: g.querySelector("rect"), t: g.querySelector("text"), n: g.dataset.n,
  x: +g.dataset.x, w: +g.dataset.w, d: +g.dataset.d }));
function show(at) {
  const scale = 1 / at.w;
  for (const f of frames) {
    const under = f.d < at.d && f.x <= at.x + 1e-9 && f.x + f.w >= at.x + at.w - 1e-9;
    const over = f.d >= at.d && f.x >= at.x - 1e-9 && f.x + f.w <= at.x + at.w + 1e-9;
    f.g.style.display = under || over ? "" : "none";
    const x = under ? 0 : (f.x - at.x) * scale, w = under ? 1 : f.w * scale;
    f.r.setAttribute("x", EDGE + x * INNER);
    f.r.setAttribute("width", w * INNER);
    f.t.setAttribute("x", EDGE + x * INNER + 3);
    const room = Math.floor((w * INNER - 6) / LETTER);
    f.t.textContent = room < 3 ? "" : f.n.length <= room ? f.n : f.n.slice(0, room - 1) + "…";
  }
}
for (const f of frames) f.g.addEventListener("click", () => show(f));
"#;

/// Draws frames; values are of this unit.
pub(super) fn draw(nodes: &[Node], title: &str, unit: &str) -> String {
    let total = nodes.first().map_or(0, |n| n.value).max(1) as f64;
    let inner = WIDTH - 2.0 * EDGE as f64;
    let drawn: Vec<&Node> =
        nodes.iter().filter(|n| n.value as f64 / total * inner >= MIN_WIDTH).collect();
    let deepest = drawn.iter().map(|n| n.depth).max().unwrap_or(0);
    let height = HEAD + (deepest + 1) * HEIGHT + EDGE;
    let mut out = String::new();
    let _ = writeln!(
        out,
        "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n\
         <svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{WIDTH}\" height=\"{height}\" \
         viewBox=\"0 0 {WIDTH} {height}\" font-family=\"monospace\" font-size=\"11\">\n\
         <style>g.f {{ cursor: pointer }} g.f:hover rect {{ stroke: #000 }}</style>\n\
         <rect width=\"100%\" height=\"100%\" fill=\"#fffdf5\"/>\n\
         <text x=\"{EDGE}\" y=\"21\" font-size=\"15\">{}</text>",
        markup(title)
    );
    for node in drawn {
        let (x, w) = (node.from as f64 / total, node.value as f64 / total);
        let y = HEAD + (deepest - node.depth) * HEIGHT;
        let room = ((w * inner - 6.0) / LETTER).max(0.0) as usize;
        let label = if room < 3 { String::new() } else { short(&node.name, room) };
        let (name, left) = (markup(&node.name), EDGE as f64 + x * inner);
        let _ = writeln!(
            out,
            "<g class=\"f\" data-n=\"{name}\" data-x=\"{x}\" data-w=\"{w}\" data-d=\"{depth}\">\
             <title>{name}: {value} {unit}, {share:.1} %</title>\
             <rect x=\"{left:.2}\" y=\"{y}\" width=\"{width:.2}\" height=\"{h}\" rx=\"1\" \
             fill=\"{fill}\"/><text x=\"{tx:.2}\" y=\"{ty}\">{label}</text></g>",
            depth = node.depth,
            value = count(node.value.unsigned_abs()),
            unit = markup(unit),
            share = w * 100.0,
            width = w * inner,
            h = HEIGHT - 1,
            fill = colour(&node.name),
            tx = left + 3.0,
            ty = y + 12,
            label = markup(&label),
        );
    }
    let _ = writeln!(
        out,
        "<script><![CDATA[\nconst EDGE = {EDGE}, INNER = {inner}, LETTER = {LETTER};{SCRIPT}]]></script>\n\
         </svg>"
    );
    out
}

/// The same warm colour for all functions of a package.
fn colour(name: &str) -> String {
    // `net/http.(*conn).serve`: the package ends at the first dot behind the last slash.
    let path = name.rfind('/').map_or(0, |at| at + 1);
    let package = name[path..].find('.').map_or(name, |dot| &name[..path + dot]);
    let mut hasher = DefaultHasher::new();
    package.hash(&mut hasher);
    let hash = hasher.finish();
    format!("hsl({},{}%,{}%)", hash % 55, 70 + (hash >> 8) % 20, 68 + (hash >> 16) % 12)
}
