// Whether GC, run queue and network go together: averages around what every cycle does, intervals against each other, lags.
const together = (t) => {
  const aligned = t.report.aligned, points = t.together.points, label = { gc_activity: "GC activity", runqueue_delay: "run-queue delay", network_lateness: "network lateness" };
  const what = { cycle_start: "start of a cycle (sweep termination)", mark_start: "start of marking", mark_end: "end of marking (mark termination)" };
  const events = aligned.events.filter((e) => e.cycles > 0 && e.steps.length);
  const base = aligned.baseline;
  const line = (list) => list.map(([px, py], i) => `${i ? "L" : "M"}${px.toFixed(1)} ${py.toFixed(1)}`).join("");
  // One average with its interval: `key` is depth or delay.
  const average = (event, key, top, text, level) => {
    const place = el("div");
    const draw = () => {
      const width = Math.max(230, place.clientWidth), height = 170, left = 50, right = width - 8, bottom = 140;
      const steps = event.steps.filter((s) => isNumber(key === "depth" ? s.depth : s.delay_ns));
      const x = (ms) => left + (ms + 20) / 70 * (right - left), y = (v) => bottom - Math.min(1, v / top) * (bottom - 10);
      const get = (s) => key === "depth" ? [s.depth, s.depth_low, s.depth_high] : [s.delay_ns, s.delay_low_ns, s.delay_high_ns];
      const svg = chart(width, height, `${key === "depth" ? "Threads waiting for a CPU" : "Length of waits"} around the ${what[event.name]}, over ${event.cycles} cycles`);
      yAxis(svg, left, right, ticks(0, top, 4).at, y, text);
      xAxis(svg, bottom, [-20, 0, 20, 40], x, (v) => `${v} ms`);
      svg.append(svgel("line", { x1: x(0), x2: x(0), y1: 8, y2: bottom, stroke: ink("--dim"), "stroke-dasharray": "2 3" }));
      const sure = steps.filter((s) => isNumber(get(s)[1]) && isNumber(get(s)[2]));
      if (sure.length) svg.append(svgel("path", { fill: ink("--live"), opacity: 0.22, d: line([...sure.map((s) => [x(s.at_ms + 0.5), y(get(s)[2])]), ...sure.slice().reverse().map((s) => [x(s.at_ms + 0.5), y(get(s)[1])])]) + "Z" }));
      svg.append(svgel("path", { class: "mark", fill: "none", stroke: ink("--live"), "stroke-width": 1.7, d: line(steps.map((s) => [x(s.at_ms + 0.5), y(get(s)[0])])) }));
      if (isNumber(level)) svg.append(svgel("line", { x1: left, x2: right, y1: y(level), y2: y(level), stroke: ink("--goal"), "stroke-dasharray": "6 4", "stroke-width": 1.4 }));
      svg.dataset.drawn = steps.length;
      svg.addEventListener("pointermove", (e) => {
        const ms = Math.floor((placeIn(svg, e, width) - left) / (right - left) * 70 - 20), s = steps.find((s) => s.at_ms === ms);
        if (!s) { tip.hide(); return; }
        const [v, low, high] = get(s);
        tip.show([`${ms < 0 ? `${-ms} ms before` : `${ms} ms after`} the ${what[event.name]}`, `${text(v)}${isNumber(low) && isNumber(high) ? ` (95 %: ${text(low)} to ${text(high)})` : " (no interval: too few waits)"}`, isNumber(level) ? `elsewhere: ${text(level)}` : null], e.clientX, e.clientY);
      });
      svg.addEventListener("pointerleave", () => tip.hide());
      clear(place).append(svg);
    };
    picture(place, draw);
    return el("figure", { class: `aligned ${key}` }, el("figcaption", {}, `${key === "depth" ? "Threads waiting" : "Mean wait"} around the ${what[event.name]} (${count(event.cycles)} cycles)`), place);
  };
  const tops = { depth: 0, delay: 0 };
  for (const e of events) for (const s of e.steps) {
    // Intervals of rare steps reach far: they are cut off at the picture's edge rather than flatten the rest.
    tops.depth = Math.max(tops.depth, s.depth * 1.15, Math.min(s.depth_high || 0, s.depth * 2));
    tops.delay = Math.max(tops.delay, (s.delay_ns || 0) * 1.15, Math.min(s.delay_high_ns || 0, (s.delay_ns || 0) * 2));
  }
  const averages = events.length ? [el("h3", {}, "Around every collection"),
    legend([["--live", "solid", "average, with its 95 % interval"], ["--goal", "solid", base ? `the rest of the run (dashed; ${words(base.of)}, ${time(base.ns)})` : "the rest of the run: too little of it to compare with"]]),
    el("div", { class: "charts" }, events.map((e) => average(e, "depth", tops.depth || 1, (v) => v.toFixed(2), base && base.depth)),
      events.map((e) => average(e, "delay", tops.delay || 1, time, base && base.delay_ns)))] : null;

  // Interval by interval: two measures against each other.
  const scatter = (title, xs, ys, xText, yText, xLabel, yLabel) => {
    const list = xs.map((v, i) => [v, ys[i], points.at[i]]).filter(([a, b]) => isNumber(a) && isNumber(b));
    if (list.length < 3) return null;
    const place = el("div");
    const draw = () => {
      const width = Math.max(230, place.clientWidth), height = 230, left = 58, right = width - 10, bottom = 186;
      const xTop = Math.max(1e-9, ...list.map((p) => p[0])) * 1.04, yTop = Math.max(1e-9, ...list.map((p) => p[1])) * 1.06;
      const x = (v) => left + v / xTop * (right - left), y = (v) => bottom - v / yTop * (bottom - 8);
      const svg = chart(width, height, `${title}: ${count(list.length)} intervals`);
      yAxis(svg, left, right, ticks(0, yTop, 4).at, y, yText);
      xAxis(svg, bottom, ticks(0, xTop, Math.max(2, width / 110)).at, x, xText);
      svg.append(svgel("path", { class: "mark", fill: ink("--live"), opacity: 0.55, d: list.map(([a, b]) => `M${(x(a) - 1.7).toFixed(1)} ${(y(b) - 1.7).toFixed(1)}h3.4v3.4h-3.4z`).join("") }),
        svgel("text", { x: right, y: bottom + 32, "text-anchor": "end" }, `${xLabel} →`), svgel("text", { x: left + 4, y: 10 }, `↑ ${yLabel}`));
      svg.dataset.drawn = list.length;
      svg.addEventListener("pointermove", (e) => {
        const b = svg.getBoundingClientRect(), px = (e.clientX - b.left) / b.width * width, py = (e.clientY - b.top) / b.height * height;
        let best = null, distance = 200;
        for (const p of list) { const d = (x(p[0]) - px) ** 2 + (y(p[1]) - py) ** 2; if (d < distance) [best, distance] = [p, d]; }
        if (best) tip.show([`${xLabel}: ${xText(best[0])}`, `${yLabel}: ${yText(best[1])}`, `interval that ended at ${moment(best[2])}`], e.clientX, e.clientY); else tip.hide();
      });
      svg.addEventListener("pointerleave", () => tip.hide());
      clear(place).append(svg);
    };
    picture(place, draw);
    return el("figure", { class: "scatter" }, el("figcaption", {}, title), place);
  };
  const gc = points.gc.map((v) => v / 1000), share = (v) => `${(v * 100).toFixed(0)} %`, perSecond = (v) => `${time(v)}/s`;
  const scatters = points.at.length ? [el("h3", {}, `Interval by interval (${time(t.together.interval_ns)} each)`), el("div", { class: "charts" },
    scatter("GC activity and waits for a CPU", gc, points.wait, share, perSecond, "time within GC cycles", "threads’ waiting"),
    scatter("GC activity and network lateness", gc, points.late, share, time, "time within GC cycles", "mean lateness of wakes"),
    scatter("Waits for a CPU and network lateness", points.wait, points.late, perSecond, time, "threads’ waiting", "mean lateness of wakes"))] : null;

  const lags = t.together.lags.filter((l) => l.at.length > 1).map((curve) => {
    const place = el("div");
    const draw = () => {
      const width = Math.max(230, place.clientWidth), height = 170, left = 40, right = width - 8, x = (i) => left + (i + 0.5) / curve.at.length * (right - left), y = (v) => 74 - v * 64;
      const svg = chart(width, height, `Correlation of ${label[curve.x]} with ${label[curve.y]} by lag`);
      yAxis(svg, left, right, [-1, -0.5, 0, 0.5, 1], y, (v) => v.toFixed(1));
      curve.at.forEach((s, i) => {
        const w = Math.min(16, (right - left) / curve.at.length * 0.6);
        svg.append(svgel("rect", { class: "mark", x: x(i) - w / 2, width: w, y: Math.min(y(0), y(s.pearson)), height: Math.max(1, Math.abs(y(0) - y(s.pearson))), fill: ink(s.significant ? "--work" : "--asleep") }));
        if (isNumber(s.pearson_low) && isNumber(s.pearson_high)) svg.append(svgel("path", { stroke: ink("--ink"), fill: "none", d: `M${x(i)} ${y(s.pearson_low)}V${y(s.pearson_high)}m-3 0h6M${x(i) - 3} ${y(s.pearson_low)}h6` }));
      });
      const every = Math.ceil(curve.at.length / Math.max(2, width / 60));
      xAxis(svg, 142, curve.at.map((_, i) => i).filter((i) => i % every === 0), x, (i) => `${Math.round(curve.at[i].lag_ns / 1e6)} ms`);
      svg.dataset.drawn = curve.at.length;
      svg.addEventListener("pointermove", (e) => {
        const s = curve.at[Math.floor((placeIn(svg, e, width) - left) / (right - left) * curve.at.length)];
        if (s) tip.show([`${label[curve.y]} ${s.lag === 0 ? "in the same interval" : `${Math.abs(s.lag_ns / 1e6).toFixed(0)} ms ${s.lag > 0 ? "later" : "earlier"}`}`, `Pearson ${s.pearson.toFixed(2)}${isNumber(s.pearson_low) ? ` (95 %: ${s.pearson_low.toFixed(2)} to ${s.pearson_high.toFixed(2)})` : ""}, Spearman ${s.spearman.toFixed(2)}`, `${count(s.n)} intervals, worth ${s.n_effective.toFixed(0)}`, s.significant ? "differs from chance" : "cannot be told from chance"], e.clientX, e.clientY); else tip.hide();
      });
      svg.addEventListener("pointerleave", () => tip.hide());
      clear(place).append(svg);
    };
    picture(place, draw);
    return el("figure", { class: "lags" }, el("figcaption", {}, `${label[curve.x]} with ${label[curve.y]} earlier or later (correlation)`), place);
  });
  const said = [...t.report.correlation.summary, ...aligned.summary];
  return section("together", "GC, scheduler and network together", null,
    said.length ? el("ul", { class: "said" }, said.map((s) => el("li", {}, s))) : null,
    averages, scatters,
    lags.length ? [el("h3", {}, "By lag"), legend([["--work", "solid", "differs from chance"], ["--asleep", "solid", "cannot be told from chance"]]), el("div", { class: "charts" }, lags)] : null,
    limitsOf(t.limits.together));
};
