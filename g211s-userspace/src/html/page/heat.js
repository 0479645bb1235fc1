// Heat maps: how long stops and waits were, at which time, with the distribution of all beside them.
const heat = (t, whole, show) => {
  const h = t.heat, names = (r) => r === 0 ? `below ${time(h.bounds[1])}` : r === h.bounds.length - 1 ? `${time(h.bounds[r])} and more` : `${time(h.bounds[r])} to ${time(h.bounds[r + 1])}`;
  const sum = (list) => list.reduce((a, b) => a + b, 0);
  const waits = h.waits.map((row, r) => row.map((n, c) => n + h.waits_by_mean[r][c]));
  // One map: its cells, what beside it is the distribution of all, and what a cell says.
  const map = (title, cells, all, one, more) => {
    const total = sum(cells.map(sum));
    const filled = cells.map((row, r) => sum(row) + (all[r] || 0) > 0 ? r : -1).filter((r) => r >= 0);
    if (!filled.length) return el("figure", {}, el("figcaption", {}, `${title}: none.`));
    const low = Math.max(0, filled[0] - 1), high = Math.min(h.bounds.length - 1, filled[filled.length - 1] + 1), rows = high - low + 1;
    const most = Math.max(...cells.flat()), columns = cells[0].length;
    let size = 13;
    const canvas = el("canvas", { class: "pick", tabindex: "0", role: "application", "aria-roledescription": "heat map",
      "aria-label": `${title}: ${count(total)} by length and time. Arrow keys go from cell to cell, Enter shows the moment in the timeline.` });
    const at = { c: -1, r: -1 };
    let box = null;
    const shade = (n) => {
      const v = Math.log(1 + n) / Math.log(1 + most);
      return mix(v < 0.5 ? ink("--heat-low") : ink("--heat-mid"), v < 0.5 ? ink("--heat-mid") : ink("--heat-high"), v < 0.5 ? v * 2 : v * 2 - 1);
    };
    const draw = () => {
      size = Math.round(13 * unit());
      const S = unit(), height = rows * size + 24 * S, { g, width } = fit(canvas, height);
      const left = (width < 520 ? 52 : 66) * S, right = all.length ? Math.min(150 * S, width * 0.18) : 6, w = (width - left - right) / columns;
      box = { left, w, right };
      let drawn = 0;
      g.fillStyle = ink("--faint");
      g.fillRect(left, 0, w * columns, rows * size);
      for (let r = low; r <= high; r += 1) {
        const y = (high - r) * size;
        cells[r].forEach((n, c) => {
          if (!n) return;
          g.fillStyle = shade(n);
          g.fillRect(left + c * w, y, Math.max(1, w + 0.3), size - 0.5);
          drawn += 1;
        });
        // Where the bounds are powers of ten.
        if (r % 4 === 1) {
          g.fillStyle = ink("--line");
          g.fillRect(left, y + size - 0.5, w * columns, 1);
          g.fillStyle = ink("--dim");
          g.textAlign = "right";
          g.fillText(time(h.bounds[r]), left - 6, y + size);
          g.textAlign = "left";
        }
        if (all.length && all[r]) {
          const top = Math.log(1 + Math.max(...all)), length = Math.max(1, Math.log(1 + all[r]) / top * (right - 46 * S));
          g.fillStyle = ink("--heat-mid");
          g.fillRect(width - right + 8, y + 1, length, size - 2.5);
          g.fillStyle = ink("--dim");
          g.fillText(short(all[r]), width - right + 12 + length, y + size / 2);
        }
      }
      const { step, at: marks } = timeTicks(0, whole, Math.max(2, width / (130 * S)));
      g.fillStyle = ink("--dim");
      for (const m of marks) { const text = mark(m, step), tx = left + m / (h.column_ns * columns) * w * columns; g.fillText(text, Math.min(tx, left + w * columns - g.measureText(text).width), rows * size + 12 * S); }
      if (at.c >= 0) { g.strokeStyle = ink("--heat-top"); g.lineWidth = 2; g.strokeRect(left + at.c * w - 1, (high - at.r) * size - 1, w + 2, size + 1); }
      canvas.dataset.drawn = drawn;
    };
    const lines = (c, r) => [`${plural(cells[r][c], one[0], one[1])} of ${names(r)}`, `between ${moment(c * h.column_ns, h.column_ns / 10)} and ${moment((c + 1) * h.column_ns, h.column_ns / 10)}`, more(c, r), all.length && all[r] ? `in the whole run: ${count(all[r])}` : null];
    const cellAt = (e) => {
      const b = canvas.getBoundingClientRect(), c = Math.floor((e.clientX - b.left - box.left) / box.w), r = high - Math.floor((e.clientY - b.top) / size);
      return c >= 0 && c < columns && r >= low && r <= high ? { c, r } : null;
    };
    const go = (c) => show(c * h.column_ns - h.column_ns, (c + 2) * h.column_ns);
    canvas.addEventListener("pointermove", (e) => { const cell = cellAt(e); if (cell) tip.show(lines(cell.c, cell.r), e.clientX, e.clientY); else tip.hide(); });
    canvas.addEventListener("pointerleave", () => tip.hide());
    canvas.addEventListener("click", (e) => { const cell = cellAt(e); if (cell) go(cell.c); });
    canvas.addEventListener("blur", () => { at.c = -1; tip.hide(); draw(); });
    canvas.addEventListener("keydown", (e) => {
      const by = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, 1], ArrowDown: [0, -1] }[e.key];
      if (e.key === "Enter" && at.c >= 0) { e.preventDefault(); go(at.c); return; }
      if (!by || e.ctrlKey || e.metaKey || e.altKey) return;
      e.preventDefault();
      // From one filled cell to the next in that direction.
      if (at.c < 0) [at.c, at.r] = [0, high];
      let [c, r] = [at.c + by[0], at.r + by[1]];
      while (c > 0 && c < columns - 1 && r > low && r < high && !cells[r][c]) [c, r] = [c + by[0], r + by[1]];
      [at.c, at.r] = [Math.max(0, Math.min(columns - 1, c)), Math.max(low, Math.min(high, r))];
      draw();
      const b = canvas.getBoundingClientRect();
      tip.show(lines(at.c, at.r), b.left + box.left + (at.c + 1) * box.w, b.top + (high - at.r + 1) * size);
      say(lines(at.c, at.r).filter(Boolean).join(", "));
    });
    const figure = el("figure", { class: "wide" }, el("figcaption", {}, `${title} (${count(total)})${all.length ? "; at the right, all of the run by length" : ""}`), canvas);
    picture(figure, draw);
    const scale = [1, 10, 100, 1000, 10000].filter((n) => n < most).concat(most);
    return el("div", {}, figure, el("div", { class: "legend" }, "one cell: ", scale.map((n) => {
      const chip = el("i", { class: "sw", "aria-hidden": "true" });
      pictures.add({ draw: () => chip.style.setProperty("--c", shade(n)), isConnected: () => chip.isConnected });
      chip.style.setProperty("--c", shade(n));
      return el("span", {}, chip, count(n));
    })));
  };
  const stops = h.stops.map(sum);
  return section("heat", "Latency over time", "darker (in the dark: lighter) is more; click a cell to see the moment in the timeline",
    t.sees_stops ? map("Stops of the world", h.stops, stops, ["stop", "stops"], () => null) : null,
    map("Waits of threads for a CPU", waits, h.all, ["wait", "waits"], (c, r) => h.waits_by_mean[r][c] ? `${count(h.waits_by_mean[r][c])} of them by the mean of their millisecond` : null),
    limitsOf(t.limits.heat));
};
const short = (n) => n < 1e4 ? count(n) : n < 1e6 ? `${(n / 1e3).toFixed(0)} k` : n < 1e9 ? `${(n / 1e6).toFixed(1)} M` : `${(n / 1e9).toFixed(1)} G`;
// Between two colours written #rrggbb.
const mix = (a, b, share) => {
  const part = (c, i) => parseInt(c.slice(1 + 2 * i, 3 + 2 * i), 16) || 0;
  return `rgb(${[0, 1, 2].map((i) => Math.round(part(a, i) + (part(b, i) - part(a, i)) * share)).join(",")})`;
};
