// What the timeline draws: pauses, stops, cycles, CPUs, threads. Knows the data and what is in view, moves nothing.
const STATES = [
  null, ["--running", "solid", "on a CPU"], ["--woken", "up", "woken, waiting for a CPU"], ["--preempted", "down", "preempted, waiting for a CPU"],
  ["--yielded", "dots", "waiting for a CPU after yielding it"], ["--asleep", "solid", "asleep"], ["--disk", "cross", "asleep uninterruptibly"],
  ["--stopped", "tall", "stopped by a signal or a tracer"], null, ["--throttled", "flat", "kept off all CPUs by a quota"],
];
const RUNNERS = { own: ["--running", "solid"], other: ["--other", "up"], g211s: ["--g211s", "dots"], idle: ["--idle", "solid"] };
// Shares of a bin, in the order in which they are stacked.
const OF_THREAD = [["--running", "solid", "on a CPU"], ["--preempted", "down", "waiting for a CPU"], ["--asleep", "solid", "asleep"], ["--disk", "cross", "asleep uninterruptibly or stopped"]];
const OF_CPU = [["--running", "solid", "ran this service"], ["--other", "up", "ran others"], ["--idle", "solid", "idle"]];
const AXIS = 22, PAUSES = 20, STOPS = 18, CYCLES = 13, CPU = 17, THREAD = 15, GAP = 3;

const starts = (columns) => { let at = 0; return columns.gap.map((g) => (at += g)); };
const stopsOf = (t) => starts(t.stops).map((at, i) => ({
  at, ns: t.stops.stopping[i] + t.stops.stopped[i], stopping: t.stops.stopping[i], reason: t.stops.reasons[t.stops.reason[i]], cause: t.stops.causes[t.stops.cause[i]],
}));
const cyclesOf = (t) => starts(t.cycles).map((at, i) => ({
  at, n: t.cycles.n[i], span: t.cycles.span[i], busy: t.cycles.busy[i], sweep: t.cycles.sweep[i], term: t.cycles.term[i], each: t.cycles.each,
}));
// An island's columns as lists by thread and by CPU, in order of time.
const islandsOf = (t) => t.islands.map((i) => {
  const threads = new Map(), cpus = new Map();
  const put = (map, key, piece) => { if (!map.has(key)) map.set(key, []); map.get(key).push(piece); };
  i.tid.forEach((tid, k) => put(threads, tid, { at: i.from + i.at[k], ns: i.ns[k], state: i.state[k] }));
  i.cpu.forEach((cpu, k) => put(cpus, cpu, { at: i.from + i.ran_at[k], ns: i.ran_ns[k], who: i.runners[i.ran[k]] }));
  return { from: i.from, to: i.to, threads, cpus, marks: i.marks.map(([tid, at]) => ({ tid, at: i.from + at })) };
});

const makeTracks = (t, view, whole) => {
  const stops = stopsOf(t), longest = Math.max(1e4, ...stops.map((s) => s.ns)), cycles = cyclesOf(t), islands = islandsOf(t);
  const lanes = new Map(t.lanes.map((l) => [l.id, l]));
  const name = (tid) => { const l = lanes.get(tid); return l && isNumber(l.m) ? `M${l.m}` : `tid ${tid}`; };
  const longName = (l) => `${isNumber(l.m) ? `M${l.m}, ` : ""}thread ${l.id}${l.name ? ` (${l.name})` : ""}`;
  let width = 1, left = 70, rows = [], S = 1;
  const x = (at) => left + (at - view.from) / (view.to - view.from) * (width - left);
  const inView = (at, ns) => at + ns >= view.from && at <= view.to;
  const selected = () => t.pauses[view.selected];
  // Who has a part in the pause that is shown, the main ones first.
  const involved = (p) => [...new Set([p.tid, p.laggard, ...p.parts.map((x) => x.tid), ...p.threads.map((x) => x.tid)])].filter((tid) => lanes.has(tid));
  const detailed = (i) => x(i.to) - x(i.from) > 24 && inView(i.from, i.to - i.from);

  const layout = () => {
    const p = selected(), list = [];
    S = unit();
    let y = AXIS * S;
    const row = (kind, height, more = {}) => { list.push({ kind, y, height: height * S, ...more }); y += height * S + GAP; };
    row("pauses", PAUSES, { label: "worst pauses" });
    row("stops", STOPS, { label: "stops" });
    row("cycles", CYCLES, { label: "GC cycles" });
    y += GAP;
    t.cpus.forEach((c) => row("cpu", CPU, { lane: c, label: `CPU ${c.id}` }));
    y += GAP;
    const tids = p && !view.all ? involved(p) : t.lanes.map((l) => l.id);
    tids.forEach((tid) => row("thread", THREAD, { lane: lanes.get(tid), label: name(tid) + (p && tid === p.laggard ? " ◂ last" : p && p.kind === "stop" && tid === p.tid ? " ◂ stops" : p && tid === p.tid ? " ◂ this" : "") }));
    rows = list;
    return y + 4;
  };

  // Shares of bins, where no detail is.
  const bins = (g, r, kinds) => {
    const hidden = islands.filter(detailed), n = r.lane.shares.length / 4;
    const first = Math.max(0, Math.floor(view.from / t.bin_ns)), last = Math.min(n - 1, Math.floor(view.to / t.bin_ns));
    let drawn = 0;
    g.save();
    g.beginPath();
    g.rect(left, r.y - 1, width - left, r.height + 2);
    for (const i of hidden) g.rect(x(i.from), r.y - 1, x(i.to) - x(i.from), r.height + 2);
    g.clip("evenodd");
    for (let b = first; b <= last; b += 1) {
      const from = b * t.bin_ns, x0 = Math.max(left, x(from)), x1 = Math.min(width, x(from + t.bin_ns));
      let y = r.y + r.height;
      kinds.forEach(([c, pattern], k) => {
        const share = parseInt(r.lane.shares[b * 4 + k], 36) / 35;
        if (!(share > 0)) return;
        const h = Math.max(1, share * r.height * (c === "--asleep" || c === "--idle" ? 0.35 : 1));
        g.fillStyle = fill(g, c, x1 - x0 > 5 ? pattern : "solid");
        // On whole pixels: else a line shows between two bins.
        g.fillRect(Math.round(x0), y - h, Math.max(1, Math.round(x1) - Math.round(x0)), h);
        y -= h;
        drawn += 1;
      });
    }
    g.restore();
    return drawn;
  };
  const box = (g, at, ns, y, h, style, least = 0.8) => {
    const x0 = Math.max(left, x(at)), x1 = Math.min(width, Math.max(x(at + ns), x(at) + least));
    if (x1 <= x0) return null;
    g.fillStyle = style;
    g.fillRect(x0, y, x1 - x0, h);
    return [x0, x1];
  };
  // The first of these texts that fits, or a beginning of the last.
  const onPill = (g, texts, x0, x1, y) => {
    const room = x1 - x0 - 8, whole = [texts].flat().find((text) => g.measureText(text).width <= room);
    const shown = whole || fitText(g, [texts].flat().at(-1), room);
    if (!shown) return;
    const w = g.measureText(shown).width;
    g.fillStyle = ink("--card");
    g.globalAlpha = 0.88;
    g.fillRect(x0 + 2, y - 6.5 * S, w + 5, 13 * S);
    g.globalAlpha = 1;
    g.fillStyle = ink("--ink");
    g.fillText(shown, x0 + 4.5, y + 0.5);
  };

  const drawRow = {
    pauses(g, r) {
      let drawn = 0;
      const placed = t.pauses.map((p, i) => ({ p, i, at: x(p.at + p.ns / 2) })).filter((m) => m.at >= left - 6 && m.at <= width + 6).sort((a, b) => b.p.ns - a.p.ns);
      r.marks = placed;
      const taken = [];
      for (const m of placed) {
        const [, c] = cause(m.p.cause), on = m.i === view.selected, s = (on ? 6.5 : 5) * S, y = r.y + r.height / 2;
        g.fillStyle = ink(c);
        g.strokeStyle = ink("--ink");
        g.lineWidth = on ? 2 : 0.6;
        g.beginPath();
        if (m.p.kind === "stop") { g.moveTo(m.at - s, y - s); g.lineTo(m.at + s, y - s); g.lineTo(m.at, y + s); g.closePath(); }
        else if (m.p.kind === "wait") g.arc(m.at, y, s * 0.8, 0, 7);
        else g.rect(m.at - s * 0.75, y - s * 0.75, s * 1.5, s * 1.5);
        g.fill();
        g.stroke();
        drawn += 1;
        const text = time(m.p.ns), w = g.measureText(text).width, x0 = m.at + s + 3, x1 = x0 + w + 4;
        const clash = taken.some(([a, b]) => x0 < b && x1 > a) || placed.some((o) => o !== m && o.at > m.at - 1 && o.at - 6 < x1 && o.at + 6 > x0);
        if (!clash && x1 < width) { taken.push([x0, x1]); g.fillStyle = ink("--ink"); g.fillText(text, x0, y); }
      }
      return drawn;
    },
    stops(g, r) {
      let drawn = 0;
      for (const s of stops) {
        if (!inView(s.at, s.ns)) continue;
        // Too narrow to show its length by its width, it does so by its height.
        const wide = x(s.at + s.ns) - x(s.at) > 3, h = wide ? r.height : Math.max(2, r.height * (0.12 + 0.88 * Math.log10(1 + s.ns / 1e4) / Math.log10(1 + longest / 1e4)));
        box(g, s.at, s.ns, r.y + r.height - h, h, ink("--work"), 1.2);
        if (wide) {
          box(g, s.at, s.stopping, r.y, r.height, fill(g, "--work", "up"), 0.5);
          onPill(g, `${time(s.stopping)} stopping`, x(s.at), x(s.at + s.stopping), r.y + r.height / 2);
          onPill(g, `${time(s.ns - s.stopping)} stopped`, x(s.at + s.stopping), x(s.at + s.ns), r.y + r.height / 2);
        }
        drawn += 1;
      }
      return drawn;
    },
    cycles(g, r) {
      let drawn = 0;
      for (const c of cycles) {
        if (!inView(c.at, c.span)) continue;
        const seen = box(g, c.at, c.span, r.y, r.height, ink("--syscall"), 0.8);
        if (seen && seen[1] - seen[0] > 40) onPill(g, c.each > 1 ? `GC #${c.n} …` : `GC #${c.n}`, Math.max(left, x(c.at)), seen[1], r.y + r.height / 2);
        drawn += 1;
      }
      return drawn;
    },
    cpu(g, r) {
      let drawn = bins(g, r, OF_CPU);
      const p = selected();
      for (const i of islands) if (detailed(i)) for (const s of i.cpus.get(r.lane.id) || []) {
        if (!inView(s.at, s.ns)) continue;
        const [c, pattern] = RUNNERS[s.who.who] || RUNNERS.other, idle = s.who.who === "idle";
        const inPause = !p || (s.at < p.at + p.ns && s.at + s.ns > p.at);
        const seen = box(g, s.at, s.ns, idle ? r.y + r.height - 4 : r.y + 1, idle ? 3 : r.height - 2, inPause || s.who.who !== "other" ? fill(g, c, pattern) : ink("--pale"));
        if (seen && !idle) onPill(g, s.who.who === "own" ? name(s.who.tid) : s.who.who === "g211s" ? "g211s" : [`${s.who.comm} (${s.who.pid})`, s.who.comm], seen[0], seen[1], r.y + r.height / 2);
        drawn += 1;
      }
      return drawn;
    },
    thread(g, r) {
      let drawn = bins(g, r, OF_THREAD);
      for (const i of islands) if (detailed(i)) {
        const pieces = i.threads.get(r.lane.id) || [];
        // What is asleep lies under what is not, however short that is.
        for (const asleep of [true, false]) for (const s of pieces) {
          if ((s.state === 5) !== asleep || !inView(s.at, s.ns)) continue;
          const [c, pattern, text] = STATES[s.state] || ["--unknown", "cross", "?"];
          const seen = box(g, s.at, s.ns, asleep ? r.y + r.height - 5 : r.y + 1, asleep ? 3 : r.height - 2, fill(g, c, pattern));
          if (seen && seen[1] - seen[0] > 60 && !asleep && s.state !== 1) onPill(g, [`${time(s.ns)} ${text}`, time(s.ns)], seen[0], seen[1], r.y + r.height / 2);
          drawn += 1;
        }
        for (const m of i.marks) if (m.tid === r.lane.id && inView(m.at, 0)) {
          const at = x(m.at);
          g.fillStyle = ink("--ink");
          g.beginPath(); g.moveTo(at, r.y); g.lineTo(at + 4, r.y - 4); g.lineTo(at - 4, r.y - 4); g.fill();
          g.fillRect(at - 0.5, r.y, 1, r.height);
        }
      }
      return drawn;
    },
  };

  const draw = (canvas) => {
    const height = layout();
    const made = fit(canvas, height), g = made.g;
    width = made.width;
    left = (width < 520 ? 64 : 104) * S;
    const { step, at } = timeTicks(view.from, view.to, Math.max(2, (width - left) / (110 * S)));
    g.fillStyle = ink("--dim");
    g.strokeStyle = ink("--line");
    g.lineWidth = 1;
    for (const tick of at) {
      const tx = Math.round(x(tick)) + 0.5;
      g.beginPath(); g.moveTo(tx, AXIS * S - 5); g.lineTo(tx, height); g.stroke();
      const text = mark(tick, step), w = g.measureText(text).width;
      if (tx - w / 2 > left - 8 && tx + w / 2 < width) g.fillText(text, tx - w / 2, 8 * S);
    }
    const p = selected();
    if (p) {
      g.fillStyle = ink("--accent");
      g.globalAlpha = 0.12;
      const x0 = Math.max(left, x(p.at)), x1 = Math.min(width, x(p.at + p.ns));
      if (x1 > x0) g.fillRect(x0, AXIS * S - 4, x1 - x0, height);
      g.globalAlpha = 1;
    }
    let drawn = 0;
    for (const r of rows) {
      g.fillStyle = ink("--faint");
      if (r.kind === "thread" || r.kind === "cpu") g.fillRect(left, r.y + r.height, width - left, 1);
      g.save();
      g.beginPath(); g.rect(left, r.y - 5, width - left, r.height + 8); g.clip();
      drawn += drawRow[r.kind](g, r);
      g.restore();
      g.fillStyle = ink("--dim");
      g.fillText(fitText(g, r.label, left - 6), 0, r.y + r.height / 2);
    }
    if (p) {
      g.strokeStyle = ink("--accent");
      for (const at of [p.at, p.at + p.ns]) if (inView(at, 0)) { g.beginPath(); g.moveTo(x(at), AXIS * S - 4); g.lineTo(x(at), height); g.stroke(); }
    }
    canvas.dataset.drawn = drawn;
    canvas.dataset.rows = rows.length;
  };

  // The whole run, the longest stop of each column, what is in view framed.
  const strip = (canvas) => {
    const { g, width: w, height } = fit(canvas, 34 * unit()), n = Math.floor(w / 2), most = new Array(n).fill(0), marks = new Array(n).fill(0);
    for (const s of stops) { const c = Math.min(n - 1, Math.floor(s.at / whole * n)); most[c] = Math.max(most[c], s.ns); }
    for (const p of t.pauses) if (p.kind !== "stop") { const c = Math.min(n - 1, Math.floor(p.at / whole * n)); marks[c] = Math.max(marks[c], p.ns); }
    const top = Math.max(1e4, ...most, ...marks), h = (ns) => ns > 0 ? Math.max(1, Math.log10(1 + ns / 1e4) / Math.log10(1 + top / 1e4) * (height - 4)) : 0;
    let drawn = 0;
    g.fillStyle = ink("--faint");
    g.fillRect(0, 0, w, height);
    most.forEach((ns, c) => {
      g.fillStyle = ink("--woken");
      if (marks[c]) g.fillRect(c * 2, height - h(marks[c]), 2, h(marks[c]));
      g.fillStyle = ink("--work");
      if (ns) g.fillRect(c * 2, height - h(ns), 1.6, h(ns));
      drawn += (ns > 0) + (marks[c] > 0);
    });
    const x0 = view.from / whole * w, x1 = Math.max(x0 + 3, view.to / whole * w);
    g.fillStyle = ink("--bg");
    g.globalAlpha = 0.6;
    g.fillRect(0, 0, x0, height);
    g.fillRect(x1, 0, w - x1, height);
    g.globalAlpha = 1;
    g.strokeStyle = ink("--accent");
    g.lineWidth = 2;
    g.strokeRect(Math.max(1, x0), 1, Math.min(w - 1, x1) - Math.max(1, x0), height - 2);
    canvas.dataset.drawn = drawn;
  };

  const nearest = (list, at, slack) => {
    let best = null, distance = Infinity;
    for (const s of list) {
      const d = at < s.at ? s.at - at : at > s.at + s.ns ? at - s.at - s.ns : 0;
      if (d < distance || (d === distance && best && s.ns < best.ns)) [best, distance] = [s, d];
    }
    return distance <= slack ? best : null;
  };
  const pauseAt = (px, py) => {
    const r = rows.find((r) => py >= r.y - GAP && py < r.y + r.height + GAP);
    if (!r || px < left) return -1;
    if (r.kind === "pauses") {
      const hit = (r.marks || []).filter((m) => Math.abs(m.at - px) < 9).sort((a, b) => Math.abs(a.at - px) - Math.abs(b.at - px))[0];
      return hit ? hit.i : -1;
    }
    const at = view.from + (px - left) / (width - left) * (view.to - view.from), slack = 3 * (view.to - view.from) / (width - left);
    const hit = r.kind === "stops" ? nearest(t.pauses.filter((p) => p.kind === "stop"), at, slack) : null;
    return hit ? t.pauses.indexOf(hit) : -1;
  };
  // What is under the pointer, in lines.
  const at = (px, py) => {
    const r = rows.find((r) => py >= r.y - 1 && py < r.y + r.height + 1);
    if (!r || px < left) return r && r.lane && px < left ? [r.kind === "thread" ? longName(r.lane) : r.label] : null;
    const at = view.from + (px - left) / (width - left) * (view.to - view.from), slack = 3 * (view.to - view.from) / (width - left);
    const when = (s) => `at ${moment(s.at, Math.max(1e3, slack))}`;
    if (r.kind === "pauses") { const i = pauseAt(px, py); return i >= 0 ? [t.pauses[i].words, "Click to look closer."] : null; }
    if (r.kind === "stops") { const s = nearest(stops.filter((s) => inView(s.at, s.ns)), at, slack); return s && [`${s.reason}: ${time(s.ns)}`, `${time(s.stopping)} stopping, ${time(s.ns - s.stopping)} stopped`, `mostly ${cause(s.cause)[0]}`, when(s)]; }
    if (r.kind === "cycles") {
      const c = nearest(cycles.map((c) => ({ ...c, ns: c.span })), at, slack);
      return c && (c.each > 1 ? [`GC cycles from #${c.n} on (${c.each} drawn as one)`, `${time(c.busy)} within cycles, of ${time(c.span)}`] : [`GC #${c.n}: ${time(c.span)}`, `sweep termination ${time(c.sweep)}, mark termination ${time(c.term)}`]).concat(when(c));
    }
    const i = islands.find((i) => detailed(i) && at >= i.from && at <= i.to);
    if (i) {
      const s = nearest((r.kind === "cpu" ? i.cpus : i.threads).get(r.lane.id) || [], at, slack);
      if (!s) return [r.label, "nothing is known of this moment"];
      if (r.kind === "thread") return [`${longName(r.lane)}: ${(STATES[s.state] || [0, 0, "?"])[2]}`, time(s.ns), when(s)];
      const who = { own: `this service’s ${name(s.who.tid)} (thread ${s.who.tid})`, idle: "idle", g211s: `g211s itself (pid ${s.who.pid})`, other: `“${s.who.comm}” (pid ${s.who.pid}, thread ${s.who.tid})` }[s.who.who];
      return [`${r.label}: ${who}`, time(s.ns), when(s)];
    }
    const b = Math.floor(at / t.bin_ns), kinds = r.kind === "cpu" ? OF_CPU : OF_THREAD;
    const parts = kinds.map(([, , text], k) => [parseInt(r.lane.shares[b * 4 + k], 36) / 35, text]).filter(([share]) => share > 0);
    const known = parts.reduce((sum, [share]) => sum + share, 0);
    const title = r.kind === "thread" ? longName(r.lane) : r.label;
    return [`${title}, in ${time(t.bin_ns)} here`, ...parts.map(([share, text]) => `${text}: ${(share * 100).toFixed(0)} %`), known < 0.97 ? `not known: ${Math.max(0, (1 - known) * 100).toFixed(0)} %` : null];
  };
  return { draw, strip, at, pauseAt, left: () => left, width: () => width };
};
