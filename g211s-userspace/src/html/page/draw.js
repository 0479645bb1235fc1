// Canvases that fit their pixels, patterns, axes. What is drawn is told by `data-drawn`, for tests and the curious.
const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim() || "#888";
let palette = {};
const ink = (name) => palette[name] || (palette[name] = colour(name));

// Every picture, to be drawn again when its size, the colours or the paper change.
const pictures = new Set();
const redraw = () => { palette = {}; tiles.clear(); for (const p of pictures) if (p.isConnected()) p.draw(); else pictures.delete(p); };
const picture = (node, draw) => {
  const p = { draw, isConnected: () => node.isConnected };
  pictures.add(p);
  let width = 0;
  new ResizeObserver(() => {
    if (node.clientWidth !== width) { width = node.clientWidth; if (width) draw(); }
  }).observe(node);
  return p;
};

// How much larger than usual letters are here: on a large screen pictures must not be the only small thing.
const unit = () => Math.max(1, Math.min(1.8, (parseFloat(getComputedStyle(document.documentElement).fontSize) || 16) / 15.5));

// A canvas of this height in CSS pixels, as wide as its place; the context in CSS pixels.
const fit = (canvas, height) => {
  const width = Math.max(1, Math.floor(canvas.parentElement.clientWidth));
  const scale = Math.min(3, window.devicePixelRatio || 1);
  canvas.width = Math.round(width * scale);
  canvas.height = Math.round(height * scale);
  canvas.style.height = `${height}px`;
  const g = canvas.getContext("2d");
  g.setTransform(scale, 0, 0, scale, 0, 0);
  g.clearRect(0, 0, width, height);
  g.font = `${11 * unit()}px system-ui, sans-serif`;
  g.textBaseline = "middle";
  return { g, width, height };
};

// A colour with its pattern, to fill with.
const tiles = new Map();
const fill = (g, name, pattern) => {
  const base = ink(name);
  if (!pattern || pattern === "solid") return base;
  const key = `${name} ${pattern}`;
  if (tiles.has(key)) return tiles.get(key);
  const size = 6, tile = document.createElement("canvas");
  tile.width = tile.height = size;
  const t = tile.getContext("2d");
  t.fillStyle = base;
  t.fillRect(0, 0, size, size);
  t.strokeStyle = t.fillStyle = "rgba(255,255,255,0.5)";
  t.lineWidth = 1.4;
  const line = (x0, y0, x1, y1) => { t.beginPath(); t.moveTo(x0, y0); t.lineTo(x1, y1); t.stroke(); };
  const up = () => { line(-1, size + 1, size + 1, -1); line(-1, 1, 1, -1); line(size - 1, size + 1, size + 1, size - 1); };
  const down = () => { line(-1, -1, size + 1, size + 1); line(size - 1, -1, size + 1, 1); line(-1, size - 1, 1, size + 1); };
  if (pattern === "up" || pattern === "cross") up();
  if (pattern === "down" || pattern === "cross") down();
  if (pattern === "flat") t.fillRect(0, 2, size, 2);
  if (pattern === "tall") t.fillRect(2, 0, 2, size);
  if (pattern === "dots") { t.fillRect(1, 1, 2, 2); t.fillRect(4, 4, 2, 2); }
  const made = g.createPattern(tile, "repeat");
  tiles.set(key, made);
  return made;
};

// Text that fits a width, or nothing.
const fitText = (g, text, room) => {
  if (room < 14) return "";
  if (g.measureText(text).width <= room) return text;
  let n = Math.max(1, Math.floor(text.length * room / g.measureText(text).width));
  while (n > 1 && g.measureText(text.slice(0, n) + "…").width > room) n -= 1;
  return n > 1 ? text.slice(0, n) + "…" : "";
};

// Round steps of a stretch, some `n` of them.
const ticks = (from, to, n, steps) => {
  const span = to - from;
  if (!(span > 0)) return { step: 1, at: [from] };
  const raw = span / Math.max(1, n), power = 10 ** Math.floor(Math.log10(raw));
  const step = (steps || []).find((s) => s >= raw) || [1, 2, 5, 10].map((m) => m * power).find((s) => s >= raw) || power * 10;
  const at = [];
  for (let t = Math.ceil(from / step) * step; t <= to + step * 1e-9 && at.length < 50; t += step) at.push(t);
  return { step, at };
};
// The same of time: above some seconds in steps of minutes and hours.
const CLOCK = [10, 20, 30, 60, 120, 300, 600, 1200, 1800, 3600, 7200, 14400, 28800, 86400].map((s) => s * 1e9);
const timeTicks = (from, to, n) => ticks(from, to, n, (to - from) / Math.max(1, n) > 5e9 ? CLOCK : null);
// Powers of ten in a stretch.
const decades = (from, to) => {
  const at = [];
  for (let p = Math.ceil(Math.log10(Math.max(1e-9, from)) - 1e-9); 10 ** p <= to * 1.0001 && at.length < 20; p += 1) at.push(10 ** p);
  return at;
};
// A moment's label on an axis whose marks are `step` apart.
const mark = (ns, step) => {
  if (step < 1e9) return `${(ns / 1e9).toFixed(Math.min(9, Math.max(0, Math.ceil(9 - Math.log10(step)))))} s`;
  const s = Math.round(ns / 1e9), m = Math.floor(s / 60);
  return m ? `${m} min${s % 60 ? ` ${s % 60} s` : ""}` : `${s} s`;
};

// A chart's frame in SVG: panels with axes, into which the caller puts marks.
const chart = (width, height, label) => svgel("svg", { viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": label });
const yAxis = (svg, x0, x1, at, y, text) => at.map((v) => {
  svg.append(svgel("line", { class: "grid", x1: x0, x2: x1, y1: y(v), y2: y(v) }),
    svgel("text", { x: x0 - 5, y: y(v) + 4, "text-anchor": "end" }, text(v)));
});
const xAxis = (svg, y, at, x, text) => at.map((v) => {
  svg.append(svgel("line", { class: "axis", x1: x(v), x2: x(v), y1: y, y2: y + 4 }),
    svgel("text", { x: x(v), y: y + 15, "text-anchor": "middle" }, text(v)));
});
// The place of a pointer in an SVG's own units.
const placeIn = (svg, event, width) => {
  const box = svg.getBoundingClientRect();
  return (event.clientX - box.left) / box.width * width;
};
