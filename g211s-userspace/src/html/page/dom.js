// Elements, numbers as people read them, the tooltip. Text from the data becomes text nodes and nothing else.
const NS_SVG = "http://www.w3.org/2000/svg";

const append = (node, kids) => {
  for (const kid of kids.flat(Infinity)) if (kid !== null && kid !== undefined && kid !== false) node.append(kid instanceof Node ? kid : String(kid));
  return node;
};
const attributes = (node, attrs) => {
  for (const [key, value] of Object.entries(attrs)) {
    if (value === null || value === undefined || value === false) continue;
    if (key.startsWith("on")) node.addEventListener(key.slice(2), value);
    else if (key === "vars") for (const [k, v] of Object.entries(value)) node.style.setProperty(k, v);
    else node.setAttribute(key, value === true ? "" : value);
  }
  return node;
};
const el = (tag, attrs = {}, ...kids) => append(attributes(document.createElement(tag), attrs), kids);
const svgel = (tag, attrs = {}, ...kids) => append(attributes(document.createElementNS(NS_SVG, tag), attrs), kids);
const byId = (id) => document.getElementById(id);
const clear = (node) => { while (node.firstChild) node.firstChild.remove(); return node; };

const isNumber = (n) => typeof n === "number" && Number.isFinite(n);
// As the text report has it: two digits or so, and the unit of what is printed.
const time = (ns) => {
  if (!isNumber(ns)) return "–";
  if (ns < 0) return "−" + time(-ns);
  if (ns < 1000) return `${Math.round(ns)} ns`;
  const [unit, name] = ns < 999500 ? [1e3, "µs"] : ns < 999.5e6 ? [1e6, "ms"] : [1e9, "s"];
  const tenths = Math.round(ns * 10 / unit);
  return tenths < 100 && tenths % 10 ? `${(tenths / 10).toFixed(1)} ${name}` : `${count(Math.round(ns / unit))} ${name}`;
};
// A moment of the run, as exactly as `step` tells moments apart.
const moment = (ns, step = 1e6) => {
  const digits = Math.max(0, Math.min(9, Math.ceil(9 - Math.log10(Math.max(1, step)))));
  const s = ns / 1e9;
  if (s < 60) return `${s.toFixed(digits)} s`;
  const m = Math.floor(s / 60);
  return `${m} min ${(s - m * 60).toFixed(Math.max(0, digits))} s`;
};
const count = (n) => isNumber(n) ? Math.round(n).toString().replace(/\B(?=(\d{3})+(?!\d))/g, ",") : "–";
const plural = (n, one, many) => `${count(n)} ${n === 1 ? one : many}`;
const percent = (part, whole) => `${(whole > 0 ? part / whole * 100 : 0).toFixed(1)} %`;
const bytes = (n) => {
  if (!isNumber(n)) return "–";
  const units = ["B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
  let i = 0;
  while (n >= 1023.95 && i < 6) { n /= 1024; i += 1; }
  return `${i && n < 9.995 ? n.toFixed(1) : Math.round(n)} ${units[i]}`;
};
const words = (name) => String(name).replace(/_/g, " ");

// The kinds of causes: a short name, a colour, a pattern.
const CAUSES = {
  runtime_work: ["runtime’s work", "--work", "solid"], nonpreemptible_code: ["running on", "--code", "down"],
  syscall_return: ["system call, P kept", "--syscall", "dots"], runqueue_wait: ["waiting for a CPU", "--preempted", "up"],
  wakeup_latency: ["wakeup", "--woken", "down"], cfs_throttled: ["CPU quota", "--throttled", "flat"],
  blocked: ["asleep", "--asleep", "solid"], page_fault: ["page fault", "--disk", "cross"],
  uninterruptible: ["uninterruptible sleep", "--disk", "solid"], stopped_by_signal: ["stopped by a signal", "--stopped", "tall"],
  irq_softirq: ["interrupts", "--irq", "dots"], vm_steal: ["hypervisor", "--irq", "tall"], unexplained: ["unexplained", "--unknown", "cross"],
};
const cause = (kind) => CAUSES[kind] || [words(kind), "--unknown", "cross"];
const swatch = (colour, pattern) => el("i", { class: `sw p-${pattern}`, vars: { "--c": `var(${colour})` }, "aria-hidden": "true" });
// Parts of a whole as one bar.
const partsBar = (parts, whole) => {
  const bar = el("span", { class: "parts", "aria-hidden": "true" });
  for (const p of parts) {
    const [, colour, pattern] = cause(p.kind);
    bar.append(el("i", { class: `p-${pattern}`, vars: { "--c": `var(${colour})`, width: `${Math.max(0, Math.min(100, p.ns / whole * 100))}%` } }));
  }
  return bar;
};

const limitsOf = (lines) => lines && lines.length ? el("ul", { class: "limits" }, lines.map((l) => el("li", {}, l))) : null;
const section = (id, title, hint, ...kids) => el("section", { id, "aria-labelledby": `${id}-h` },
  el("div", { class: "head" }, el("h2", { id: `${id}-h` }, title), hint ? el("span", { class: "hint" }, hint) : null), kids);
const legend = (items) => el("div", { class: "legend" },
  items.map(([colour, pattern, text]) => el("span", {}, swatch(colour, pattern), text)));

// The tooltip: lines of text, the first one bold.
const tip = {
  node: byId("tip"),
  show(lines, x, y) {
    clear(this.node).append(...lines.filter(Boolean).map((l) => el("div", {}, l)));
    this.node.hidden = false;
    const { width, height } = this.node.getBoundingClientRect();
    const left = x + 14 + width > innerWidth ? x - width - 14 : x + 14;
    const top = y + 14 + height > innerHeight ? y - height - 14 : y + 14;
    this.node.style.left = `${Math.max(4, Math.min(left, innerWidth - width - 4))}px`;
    this.node.style.top = `${Math.max(4, top)}px`;
  },
  hide() { this.node.hidden = true; },
};
// Told to who cannot see the pictures.
const say = (text) => { byId("say").textContent = text; };
