// Who allocates: a flame graph (callers above, what they call below) and the call sites as a table.
const allocations = (a) => {
  const d = a.document;
  const graph = (f) => {
    const inUnits = f.unit === "bytes" ? bytes : count;
    const nodes = f.frame.map((name, i) => ({ i, name: f.names[name], depth: f.depth[i], from: f.from[i], value: f.value[i], parent: -1 }));
    const open = [];
    for (const n of nodes) { open.length = n.depth; n.parent = n.depth ? open[n.depth - 1].i : -1; open[n.depth] = n; }
    const root = nodes[0];
    let ROW = 18;
    if (!root || !(root.value > 0)) return { node: el("p", { class: "nothing" }, "No stack with a value: nothing to draw."), search: () => "" };
    let zoomed = root, focus = -1, found = new Set(), width = 1;
    const canvas = el("canvas", { tabindex: "0", role: "application", "aria-roledescription": "flame graph",
      "aria-label": `Flame graph of ${words(f.name)}: ${inUnits(root.value)}, ${count(nodes.length)} frames. Arrow keys go to caller, callee and neighbours, Enter zooms, Escape shows all.` });
    const deepest = () => nodes.reduce((deep, n) => inside(n) ? Math.max(deep, n.depth) : deep, 0);
    const inside = (n) => n.from >= zoomed.from && n.from + n.value <= zoomed.from + zoomed.value && n.depth >= zoomed.depth;
    const above = (n) => n.depth < zoomed.depth && n.from <= zoomed.from && n.from + n.value >= zoomed.from + zoomed.value;
    const span = (n) => above(n) ? [0, width] : [(n.from - zoomed.from) / zoomed.value * width, n.value / zoomed.value * width];
    const draw = () => {
      ROW = Math.round(18 * unit());
      const made = fit(canvas, (deepest() + 1) * ROW + 4), g = made.g;
      width = made.width;
      let drawn = 0;
      for (const n of nodes) {
        if (!inside(n) && !above(n)) continue;
        const [x0, w] = span(n), y = n.depth * ROW;
        if (w < 0.4) continue;
        g.globalAlpha = above(n) ? 0.55 : 1;
        g.fillStyle = found.size && !found.has(n.i) ? ink("--faint") : hue(n.name);
        g.fillRect(x0, y, Math.max(0.5, w - 0.6), ROW - 1);
        if (found.has(n.i)) { g.fillStyle = fill(g, "--preempted", "up"); g.fillRect(x0, y, Math.max(0.5, w - 0.6), 3); }
        g.globalAlpha = 1;
        if (n.i === focus) { g.strokeStyle = ink("--ink"); g.lineWidth = 2; g.strokeRect(x0 + 1, y + 1, Math.max(1, w - 2.5), ROW - 3); }
        const text = fitText(g, n.name, w - 7);
        if (text) { g.fillStyle = found.size && !found.has(n.i) ? ink("--dim") : "#1c1408"; g.fillText(text, x0 + 3.5, y + ROW / 2); }
        drawn += 1;
      }
      canvas.dataset.drawn = drawn;
    };
    const at = (e) => {
      const b = canvas.getBoundingClientRect(), px = e.clientX - b.left, depth = Math.floor((e.clientY - b.top) / ROW);
      return nodes.find((n) => { if (n.depth !== depth || (!inside(n) && !above(n))) return false; const [x0, w] = span(n); return px >= x0 && px < x0 + w; });
    };
    const lines = (n) => [n.name, `${inUnits(n.value)}, ${percent(n.value, root.value)} of all`, zoomed !== root ? `${percent(n.value, zoomed.value)} of ${zoomed.name}` : null];
    const zoom = (n) => { zoomed = n; draw(); };
    canvas.addEventListener("pointermove", (e) => { const n = at(e); if (n) tip.show(lines(n), e.clientX, e.clientY); else tip.hide(); });
    canvas.addEventListener("pointerleave", () => tip.hide());
    canvas.addEventListener("blur", () => tip.hide());
    canvas.addEventListener("click", (e) => { const n = at(e); if (n) { focus = n.i; zoom(n); } });
    canvas.addEventListener("keydown", (e) => {
      const here = nodes[focus] || zoomed, beside = () => nodes.filter((n) => n.depth === here.depth && inside(n)), kids = () => nodes.filter((n) => n.parent === here.i).sort((p, q) => q.value - p.value);
      const to = {
        ArrowUp: () => nodes[here.parent], ArrowDown: () => kids()[0], ArrowLeft: () => beside().reverse().find((n) => n.from < here.from),
        ArrowRight: () => beside().find((n) => n.from > here.from), Enter: () => here, Escape: () => root,
      }[e.key];
      if (!to || e.ctrlKey || e.metaKey || e.altKey) return;
      e.preventDefault();
      const n = to();
      if (!n) return;
      focus = n.i;
      if (e.key === "Enter" || e.key === "Escape" || (!inside(n) && !above(n))) zoomed = n;
      draw();
      const b = canvas.getBoundingClientRect();
      tip.show(lines(n), b.left + Math.max(0, span(n)[0]), b.top + (n.depth + 1) * ROW);
      say(lines(n).filter(Boolean).join(", "));
    });
    const figure = el("figure", { class: "flame" }, canvas);
    picture(figure, draw);
    const search = (text) => {
      const wanted = text.trim().toLowerCase();
      found = new Set(wanted ? nodes.filter((n) => n.name.toLowerCase().includes(wanted)).map((n) => n.i) : []);
      draw();
      if (!wanted) return "";
      // Of frames that stand on one another the lowest counts, so that nothing counts twice.
      const sum = nodes.reduce((all, n) => { let p = n.parent; while (p >= 0 && !found.has(p)) p = nodes[p].parent; return found.has(n.i) && p < 0 ? all + n.value : all; }, 0);
      return `${plural(found.size, "frame", "frames")}, ${percent(sum, root.value)} of all`;
    };
    return { node: figure, search, reset: () => { focus = -1; zoom(root); } };
  };
  // One warm colour for the functions of a package.
  const hues = new Map();
  const hue = (name) => {
    const slash = name.lastIndexOf("/") + 1, dot = name.indexOf(".", slash), pkg = dot > 0 ? name.slice(0, dot) : name;
    if (!hues.has(pkg)) { let h = 7; for (const c of pkg) h = (h * 31 + c.codePointAt(0)) % 9973; hues.set(pkg, `hsl(${20 + h % 45} ${70 + h % 17}% ${62 + h % 13}%)`); }
    return hues.get(pkg);
  };
  const graphs = a.flames.map(graph), place = el("div"), result = el("span", { class: "dim", "aria-live": "polite" });
  let shown = 0;
  const input = el("input", { type: "search", placeholder: "Find a function", "aria-label": "Find a function", oninput: () => { result.textContent = graphs[shown].search(input.value); } });
  const choices = a.flames.map((f, i) => el("button", { type: "button", "aria-pressed": i === 0, onclick: () => pick(i) }, f.unit === "bytes" ? "Bytes" : "Objects"));
  const pick = (i) => {
    shown = i;
    choices.forEach((c, k) => c.setAttribute("aria-pressed", k === i));
    clear(place).append(graphs[i].node);
    result.textContent = input.value ? graphs[i].search(input.value) : "";
  };
  pick(0);
  const sites = table(`Call sites (${count(a.sites)})`, [
    { head: "allocated by", get: (s) => s.function, w: true, show: (s) => el("span", {}, el("code", {}, s.function), s.file ? el("span", { class: "dim" }, ` ${s.file}${s.line ? `:${s.line}` : ""}`) : null) },
    { head: "bytes", get: (s) => s.bytes, n: true, show: (s) => bytes(s.bytes) },
    { head: "95 % interval", get: (s) => s.bytes_high - s.bytes_low, n: true, show: (s) => d.run.exact ? "counted" : `${bytes(s.bytes_low)} … ${bytes(s.bytes_high)}` },
    { head: "share", get: (s) => s.share, n: true, show: (s) => percent(s.share, 1) }, countColumn("objects", (s) => s.objects), countColumn("samples", (s) => s.samples),
  ], d.sites, { by: 1, limit: 15 });
  const c = d.cost;
  return section("allocs", "Who allocates", `${d.target.comm} (pid ${d.target.pid}), ${time(d.run.window_ns)}`,
    a.lead.map((l) => el("p", { class: "lead" }, l)),
    el("div", { class: "tools" }, el("div", { class: "seg", role: "group", "aria-label": "What widths are" }, choices), el("button", { type: "button", onclick: () => graphs[shown].reset && graphs[shown].reset() }, "Show all"), input, result),
    el("p", { class: "dim" }, "Each frame is as wide as what was allocated in it and in what it called, which is below it. Click one to see it alone."),
    place, d.sites.length ? sites : null,
    el("p", { class: "dim" }, `Cost: ${plural(c.hits, "hit", "hits")} at ${time(c.hit_ns)} took ${time(c.spent_ns)} of the process’s ${time(c.target_cpu_ns)} of CPU time (${(c.share * 100).toFixed(2)} %${isNumber(c.budget) ? `, allowed ${(c.budget * 100).toFixed(2)} %` : ""}).`),
    limitsOf(a.limits));
};
