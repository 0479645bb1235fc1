// Puts the page together from its data.
const data = JSON.parse(byId("data").textContent);

// Colours: what the system wants, or what was chosen here; on paper always light.
const dark = matchMedia("(prefers-color-scheme: dark)");
let theme = "auto", paper = false;
const paint = () => {
  const on = !paper && (theme === "dark" || (theme === "auto" && dark.matches));
  document.documentElement.toggleAttribute("data-dark", on);
  for (const b of document.querySelectorAll("[data-theme]")) b.setAttribute("aria-pressed", b.dataset.theme === theme);
  redraw();
};
for (const b of document.querySelectorAll("button[data-theme]")) b.addEventListener("click", () => { theme = b.dataset.theme; paint(); });
dark.addEventListener("change", paint);
addEventListener("beforeprint", () => { paper = true; paint(); });
addEventListener("afterprint", () => { paper = false; paint(); });
addEventListener("scroll", () => tip.hide(), { passive: true });
addEventListener("keydown", (e) => { if (e.key === "Escape") tip.hide(); });

byId("alarms").append(...data.alarms.map((a) => el("p", {}, a)));

// A part that fails says so, and the others go on.
const part = (name, make) => {
  try { return make(); } catch (e) {
    console.error(`${name}: ${e && e.stack || e}`);
    return el("section", {}, el("h2", {}, name), el("p", { class: "alarm" }, "This part of the page failed: the report as text, below, has its figures."));
  }
};
const render = (index) => {
  const t = data.targets[index], main = clear(byId("main"));
  tip.hide();
  const parts = [];
  if (data.stalls && t) {
    byId("name").textContent = t.name;
    byId("facts").textContent = `pid ${t.report.target.pid}, ${t.report.target.go_version || "Go version not known"}, observed for ${time(t.report.window.duration_ns)}${data.run.host ? `, on ${data.run.host.hostname}` : ""}`;
    const line = part("Timeline", () => timeline(t));
    const jump = line.jump || (() => {}), node = line.node || line;
    const show = (from, to) => { if (line.show) { line.show(from, to); node.scrollIntoView({ block: "start" }); } };
    parts.push(["Why", part("Why does it stall?", () => lead(t, jump))], ["Timeline", node], ["Latency", part("Latency over time", () => heat(t, line.whole || 1, show))],
      ["GC", part("Garbage collection", () => collector(t, line.whole || 1, show))], ["Together", part("GC, scheduler and network together", () => together(t))],
      ["Goroutines", part("Goroutines", () => goroutinesPart(t))], ["Network", part("Network", () => network(t))], ["Figures", part("Figures", () => figures(t))]);
  }
  if (data.allocs) {
    if (!data.stalls) {
      const d = data.allocs.document;
      byId("name").textContent = d.target.comm;
      byId("facts").textContent = `pid ${d.target.pid}, ${d.target.go_version}, allocations of ${time(d.run.window_ns)}`;
      parts.push(["Why", section("why", "Allocations only", null, el("p", { class: "lead" }, "This recording followed allocations: it holds no stops, waits or collections. ", el("code", {}, "g211s attach --record FILE"), " makes one that does."))]);
    }
    parts.push(["Allocations", part("Who allocates", () => allocations(data.allocs))]);
  }
  if (data.stalls && t) {
    if (!data.allocs) parts.push(["Allocations", section("allocs", "Who allocates", null, el("p", { class: "nothing" }, "This recording did not follow allocations. ", el("code", {}, "g211s allocs --record FILE"), " makes one that does, and its page has the flame graph."))]);
    parts.push(["Evidence", part("Evidence", () => evidence(data, t))]);
  }
  main.append(...parts.map(([, node]) => node));
  const links = parts.filter(([, node]) => node.id).map(([name, node]) => el("a", { href: `#${node.id}` }, name));
  clear(byId("nav")).append(...links, el("a", { href: "#plain" }, "Text"));
  const seen = new IntersectionObserver((entries) => {
    for (const e of entries) if (e.isIntersecting) for (const l of byId("nav").children) {
      if (l.getAttribute("href") === `#${e.target.id}`) l.setAttribute("aria-current", "true"); else l.removeAttribute("aria-current");
    }
  }, { rootMargin: "-20% 0px -70% 0px" });
  parts.forEach(([, node]) => seen.observe(node));
  document.documentElement.dataset.parts = parts.length;
};
if (data.targets.length > 1) {
  byId("choose").hidden = false;
  const choose = byId("target");
  data.targets.forEach((t, i) => choose.append(el("option", { value: i }, `${t.name} (${t.report.target.pid})`)));
  choose.addEventListener("change", () => render(Number(choose.value)));
}
paint();
render(0);
document.documentElement.dataset.ready = "1";
