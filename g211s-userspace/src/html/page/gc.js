// The collector over time: heap and goal, the stops of each cycle, how much of the time it ran.
const collector = (t, whole, show) => {
  const report = t.report, cycles = cyclesOf(t), from = report.window.start_ns;
  const heap = report.runtime.series.filter((p) => isNumber(p.heap_live)).map((p) => ({ at: p.ts_ns - from, live: p.heap_live, goal: p.heap_goal, goroutines: p.goroutines }));
  const goroutines = report.runtime.series.filter((p) => isNumber(p.goroutines)).map((p) => ({ at: p.ts_ns - from, n: p.goroutines }));
  const draw = (place) => {
    const width = Math.max(280, place.clientWidth), left = 62, right = width - 12, x = (at) => left + Math.max(0, Math.min(1, at / whole)) * (right - left);
    clear(place);
    const line = (points) => points.map(([px, py], i) => `${i ? "L" : "M"}${px.toFixed(1)} ${py.toFixed(1)}`).join("");
    const { step, at } = timeTicks(0, whole, Math.max(2, width / 130));
    const hover = (svg, list, lines) => {
      svg.addEventListener("pointermove", (e) => {
        const near = placeIn(svg, e, width);
        let best = null;
        for (const p of list) if (!best || Math.abs(x(p.at) - near) < Math.abs(x(best.at) - near)) best = p;
        if (best) tip.show(lines(best), e.clientX, e.clientY);
      });
      svg.addEventListener("pointerleave", () => tip.hide());
    };
    if (heap.length) {
      const height = 190, top = Math.max(...heap.map((p) => Math.max(p.live, p.goal || 0))) * 1.06 || 1, y = (v) => 160 - v / top * 150;
      const svg = chart(width, height, `Live heap from ${bytes(heap[0].live)} to ${bytes(heap[heap.length - 1].live)}, at most ${bytes(Math.max(...heap.map((p) => p.live)))}`);
      const power = 2 ** Math.round(Math.log2(top / 4)), marks = [];
      for (let v = 0; v <= top && marks.length < 9; v += power) marks.push(v);
      yAxis(svg, left, right, marks, y, bytes);
      xAxis(svg, 160, at, x, (v) => mark(v, step));
      const goal = heap.filter((p) => isNumber(p.goal)).map((p) => [x(p.at), y(p.goal)]);
      svg.append(svgel("path", { d: line(heap.map((p) => [x(p.at), y(p.live)])) + `L${x(heap[heap.length - 1].at).toFixed(1)} 160L${x(heap[0].at).toFixed(1)} 160Z`, fill: ink("--live"), opacity: 0.15 }),
        svgel("path", { class: "mark", d: line(heap.map((p) => [x(p.at), y(p.live)])), fill: "none", stroke: ink("--live"), "stroke-width": 1.8 }),
        svgel("path", { class: "mark", d: line(goal), fill: "none", stroke: ink("--goal"), "stroke-width": 1.6, "stroke-dasharray": "6 4" }));
      svg.dataset.drawn = heap.length;
      hover(svg, heap, (p) => [`live heap ${bytes(p.live)}`, isNumber(p.goal) ? `next cycle shall end at ${bytes(p.goal)}` : null, isNumber(p.goroutines) ? plural(p.goroutines, "goroutine", "goroutines") : null, `at ${moment(p.at)}`]);
      place.append(el("figure", { class: "heap" }, el("figcaption", {}, "Live heap, and the size at which the next cycle shall end (dashed)"), svg));
    }
    if (cycles.length) {
      const height = 190, lengths = cycles.flatMap((c) => [c.sweep, c.term]).filter((n) => n > 0);
      const low = 10 ** Math.floor(Math.log10(Math.max(1e3, Math.min(...lengths)))), high = Math.max(low * 10, Math.max(...lengths) * 1.3), y = (v) => 160 - Math.max(0, Math.log10(Math.max(v, low) / low)) / Math.log10(high / low) * 148;
      const svg = chart(width, height, `Stops of ${count(report.gc.count)} GC cycles; the longest mark termination took ${time(report.gc.mark_term.max_ns)}`);
      yAxis(svg, left, right, decades(low, high), y, time);
      xAxis(svg, 160, at, x, (v) => mark(v, step));
      // All marks of a kind as one path: thousands of elements would make the page slow.
      const big = cycles.length < 400 ? 3.4 : 2;
      svg.append(svgel("path", { class: "mark", fill: "none", stroke: ink("--woken"), "stroke-width": 1.3, d: cycles.map((c) => `M${(x(c.at) - big).toFixed(1)} ${y(c.sweep).toFixed(1)}h${2 * big}m${-big} ${-big}v${2 * big}`).join("") }),
        svgel("path", { class: "mark", fill: ink("--work"), d: cycles.map((c) => `M${(x(c.at + c.span) - big).toFixed(1)} ${(y(c.term) - big).toFixed(1)}h${2 * big}l${-big} ${2 * big}z`).join("") }));
      svg.dataset.drawn = cycles.length;
      hover(svg, cycles, (c) => [c.each > 1 ? `GC cycles from #${c.n} on (${c.each} as one, the longest stops of each)` : `GC #${c.n}, ${time(c.span)}`, `sweep termination ${time(c.sweep)}`, `mark termination ${time(c.term)}`, `at ${moment(c.at)}; click for the timeline`]);
      svg.addEventListener("click", (e) => {
        const near = placeIn(svg, e, width), best = cycles.reduce((a, b) => Math.abs(x(a.at) - near) <= Math.abs(x(b.at) - near) ? a : b);
        show(best.at - best.span * 0.3, best.at + best.span * 1.3);
      });
      place.append(el("figure", { class: "stops" }, el("figcaption", {}, "The stops of each cycle: ▼ mark termination, + sweep termination (logarithmic)"), svg));
      const n = Math.max(20, Math.min(200, Math.floor(width / 6))), busy = new Array(n).fill(0), bin = whole / n;
      for (const c of cycles) {
        // A group's time within cycles is spread over its span.
        const density = c.span > 0 ? Math.min(1, c.busy / c.span) : 0;
        for (let b = Math.max(0, Math.floor(c.at / bin)); b < n && b * bin < c.at + c.span; b += 1) busy[b] += Math.max(0, Math.min(c.at + c.span, (b + 1) * bin) - Math.max(c.at, b * bin)) * density;
      }
      const share = chart(width, 92, `The collector ran ${percent(report.gc.share, 1)} of the time`), sy = (v) => 66 - v * 58;
      yAxis(share, left, right, [0, 0.5, 1], sy, (v) => `${v * 100} %`);
      xAxis(share, 66, at, x, (v) => mark(v, step));
      share.append(svgel("path", { class: "mark", fill: ink("--syscall"), d: busy.map((v, b) => v > 0 ? `M${x(b * bin).toFixed(1)} 66V${sy(Math.min(1, v / bin)).toFixed(1)}H${Math.max(x(b * bin) + 1, x((b + 1) * bin) - 0.6).toFixed(1)}V66z` : "").join("") }));
      share.dataset.drawn = busy.filter((v) => v > 0).length;
      hover(share, busy.map((v, b) => ({ at: (b + 0.5) * bin, v })), (p) => [`${percent(Math.min(p.v, bin), bin)} of the time within GC cycles`, `around ${moment(p.at)}`]);
      place.append(el("figure", {}, el("figcaption", {}, "Share of the time within GC cycles"), share));
    }
    if (goroutines.length > 1) {
      const top = Math.max(1, ...goroutines.map((p) => p.n)) * 1.1, svg = chart(width, 112, `Goroutines, at most ${count(Math.max(...goroutines.map((p) => p.n)))}`), y = (v) => 86 - v / top * 76;
      yAxis(svg, left, right, ticks(0, top, 3).at.filter(Number.isInteger), y, count);
      xAxis(svg, 86, at, x, (v) => mark(v, step));
      svg.append(svgel("path", { class: "mark", fill: "none", stroke: ink("--throttled"), "stroke-width": 1.8, d: line(goroutines.map((p) => [x(p.at), y(p.n)])) }));
      svg.dataset.drawn = goroutines.length;
      hover(svg, goroutines, (p) => [plural(p.n, "goroutine", "goroutines"), `at ${moment(p.at)}`]);
      place.append(el("figure", {}, el("figcaption", {}, "Goroutines"), svg));
    }
  };
  const place = el("div", { id: "gc-charts" });
  picture(place, () => draw(place));
  const g = report.gc;
  const dists = g.count ? distributions("GC cycles", [["cycle", g.duration], ["sweep termination (stop)", g.sweep_term], ["concurrent mark", g.mark], ["mark termination (stop)", g.mark_term], ["from start to start", g.interval]]) : null;
  return section("gc", "Garbage collection", g.count ? `${plural(g.count, "whole cycle", "whole cycles")}, ${percent(g.share, 1)} of the time` : null,
    heap.length || cycles.length || goroutines.length > 1 ? place : el("p", { class: "nothing" }, "Nothing to draw."), dists, limitsOf(t.limits.gc));
};
