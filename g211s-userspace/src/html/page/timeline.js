// The timeline: what is in view and how it moves. What is drawn is in tracks.js.
const timeline = (t) => {
  const whole = Math.max(1, t.report.window.duration_ns);
  const view = { from: 0, to: whole, selected: -1, all: false };
  const canvas = el("canvas", { class: "live", tabindex: "0", role: "application", "aria-roledescription": "timeline",
    "aria-label": "Timeline of stops, GC cycles, CPUs and threads. Left and right move, plus and minus zoom, n and p go from pause to pause, 0 shows all.",
    "aria-describedby": "timeline-now" });
  const strip = el("canvas", { class: "pick", role: "img", "aria-label": "All stops over the whole run; the part in view is framed. Click to go there." });
  const detail = el("div", { class: "detail", hidden: true, "aria-live": "polite" });
  const now = el("span", { id: "timeline-now", class: "dim" });
  const tracks = makeTracks(t, view, whole);
  const least = 2e3;

  const draw = () => {
    tracks.draw(canvas);
    tracks.strip(strip);
    now.textContent = `${moment(view.from, (view.to - view.from) / 1e3)} – ${moment(view.to, (view.to - view.from) / 1e3)} (${time(view.to - view.from)})`;
  };
  let asked = false;
  const soon = () => {
    if (asked) return;
    asked = true;
    requestAnimationFrame(() => { asked = false; draw(); });
  };
  const show = (from, to) => {
    const span = Math.max(least, Math.min(whole, to - from));
    from = Math.max(0, Math.min(whole - span, from));
    [view.from, view.to] = [from, from + span];
    soon();
  };
  const zoom = (factor, at = (view.from + view.to) / 2) => {
    const span = Math.max(least, Math.min(whole, (view.to - view.from) * factor));
    show(at - (at - view.from) * span / (view.to - view.from), at - (at - view.from) * span / (view.to - view.from) + span);
  };
  const pan = (share) => show(view.from + (view.to - view.from) * share, view.to + (view.to - view.from) * share);

  const describe = (p) => {
    const kinds = { stop: `Stop of the world${p.n ? " #" + p.n : ""}`, wait: "Wait for a CPU", sleep: "Uninterruptible sleep" };
    clear(detail).append(
      el("h3", {}, `${kinds[p.kind]}, ${time(p.ns)}, at ${moment(p.at, 1e5)}`), el("p", {}, p.words), partsBar(p.parts, p.ns),
      el("div", { class: p.threads.length ? "two" : null },
        table("What it went to", [
          { head: "part", get: (x) => x.words, w: true, show: (x) => el("span", { class: "what" }, swatch(cause(x.kind)[1], cause(x.kind)[2]), el("span", {}, `${x.words}${x.phase ? ` (${x.phase})` : ""}`)) },
          timeColumn("time", (x) => x.ns), { head: "share", get: (x) => x.ns, n: true, show: (x) => percent(x.ns, p.ns) },
        ], p.parts, { by: 1 }),
        p.threads.length ? table("Threads with a part in it", [
          { head: "thread", get: (x) => x.tid, nw: true, show: (x) => threadName(x) }, { head: "role", get: (x) => words(x.role) },
          timeColumn("on a CPU", (x) => x.stopping.on_cpu_ns + x.stopped.on_cpu_ns), timeColumn("waiting for one", (x) => x.stopping.runnable_ns + x.stopped.runnable_ns),
          timeColumn("asleep", (x) => x.stopping.blocked_ns + x.stopped.blocked_ns), timeColumn("not known", (x) => x.stopping.unknown_ns + x.stopped.unknown_ns),
        ], p.threads, {}) : null));
    detail.hidden = false;
  };
  // Shows a pause: in the list, in the picture, in words.
  const jump = (i, scroll) => {
    const p = t.pauses[i];
    if (!p) return;
    view.selected = i;
    const around = Math.max(p.ns * 0.35, 20e3);
    show(p.at - around, p.at + p.ns + around);
    describe(p);
    for (const b of document.querySelectorAll("[data-pause]")) b.setAttribute("aria-pressed", Number(b.dataset.pause) === i);
    if (scroll) {
      byId("timeline").scrollIntoView({ block: "start" });
      canvas.focus({ preventScroll: true });
    }
    say(p.words);
  };
  // The pauses by time, for going on to the next.
  const order = t.pauses.map((_, i) => i).sort((a, b) => t.pauses[a].at - t.pauses[b].at);
  const step = (way) => {
    if (!order.length) return;
    const at = order.indexOf(view.selected);
    jump(order[at < 0 ? (way > 0 ? 0 : order.length - 1) : (at + way + order.length) % order.length], false);
  };
  const reset = () => {
    view.selected = -1;
    detail.hidden = true;
    for (const b of document.querySelectorAll("[data-pause]")) b.setAttribute("aria-pressed", false);
    show(0, whole);
  };

  const timeAt = (x) => view.from + Math.max(0, x - tracks.left()) / Math.max(1, tracks.width() - tracks.left()) * (view.to - view.from);
  const pointers = new Map();
  let moved = 0;
  canvas.addEventListener("pointerdown", (e) => {
    pointers.set(e.pointerId, e.clientX);
    moved = 0;
    canvas.setPointerCapture(e.pointerId);
    canvas.classList.add("busy");
  });
  canvas.addEventListener("pointermove", (e) => {
    const box = canvas.getBoundingClientRect();
    if (!pointers.has(e.pointerId)) {
      const lines = tracks.at(e.clientX - box.left, e.clientY - box.top);
      if (lines) tip.show(lines, e.clientX, e.clientY); else tip.hide();
      return;
    }
    tip.hide();
    const before = pointers.get(e.pointerId), perPixel = (view.to - view.from) / Math.max(1, tracks.width() - tracks.left());
    if (pointers.size === 2) {
      const other = [...pointers].find(([id]) => id !== e.pointerId)[1];
      const was = Math.abs(before - other), is = Math.abs(e.clientX - other);
      if (was > 8 && is > 8) zoom(was / is, timeAt((e.clientX + other) / 2 - box.left));
    } else {
      const by = (before - e.clientX) * perPixel;
      show(view.from + by, view.to + by);
    }
    moved += Math.abs(e.clientX - before);
    pointers.set(e.pointerId, e.clientX);
  });
  const release = (e) => {
    pointers.delete(e.pointerId);
    canvas.classList.remove("busy");
    if (e.type === "pointerup" && moved < 4) {
      const box = canvas.getBoundingClientRect();
      const hit = tracks.pauseAt(e.clientX - box.left, e.clientY - box.top);
      if (hit >= 0) jump(hit, false);
    }
  };
  for (const kind of ["pointerup", "pointercancel"]) canvas.addEventListener(kind, release);
  canvas.addEventListener("pointerleave", () => tip.hide());
  canvas.addEventListener("dblclick", (e) => zoom(0.25, timeAt(e.clientX - canvas.getBoundingClientRect().left)));
  canvas.addEventListener("wheel", (e) => {
    const sideways = Math.abs(e.deltaX) > Math.abs(e.deltaY) || e.shiftKey;
    // A page that is scrolled past a picture must not stop at it: without a key, only what has the focus zooms.
    if (!sideways && !e.ctrlKey && !e.metaKey && document.activeElement !== canvas) return;
    e.preventDefault();
    if (sideways) pan((e.deltaX || e.deltaY) / Math.max(1, tracks.width()));
    else zoom(Math.exp(Math.max(-1, Math.min(1, e.deltaY * 0.002))), timeAt(e.clientX - canvas.getBoundingClientRect().left));
  }, { passive: false });
  canvas.addEventListener("keydown", (e) => {
    const does = {
      ArrowLeft: () => pan(-0.2), ArrowRight: () => pan(0.2), "+": () => zoom(0.5), "=": () => zoom(0.5), "-": () => zoom(2),
      0: reset, Home: reset, Escape: reset, n: () => step(1), p: () => step(-1),
    }[e.key];
    if (!does || e.ctrlKey || e.metaKey || e.altKey) return;
    e.preventDefault();
    does();
  });
  const goTo = (e) => {
    const box = strip.getBoundingClientRect(), at = (e.clientX - box.left) / box.width * whole;
    const span = view.to - view.from < whole * 0.98 ? view.to - view.from : whole / 20;
    show(at - span / 2, at + span / 2);
  };
  strip.addEventListener("pointerdown", (e) => { strip.setPointerCapture(e.pointerId); goTo(e); });
  strip.addEventListener("pointermove", (e) => { if (e.buttons) goTo(e); });

  const button = (text, label, does) => el("button", { type: "button", "aria-label": label, title: label, onclick: does }, text);
  const all = el("input", { type: "checkbox", onchange: () => { view.all = all.checked; soon(); } });
  const place = el("figure", {}, strip, canvas);
  picture(place, draw);
  const node = section("timeline", "Timeline",
    "drag to move, Ctrl + wheel (or click and wheel) to zoom, click a pause for its story",
    el("div", { class: "tools" },
      button("‹ Pause", "Previous pause (p)", () => step(-1)), button("Pause ›", "Next pause (n)", () => step(1)),
      button("+", "Zoom in", () => zoom(0.5)), button("−", "Zoom out", () => zoom(2)), button("←", "Earlier", () => pan(-0.4)), button("→", "Later", () => pan(0.4)),
      button("All", "Show the whole run (0)", reset), el("label", {}, all, " all threads"), el("span", { class: "gap" }), now),
    place,
    legend([["--work", "up", "stopping the world"], ["--work", "solid", "world stopped"], ["--running", "solid", "on a CPU"], ["--woken", "up", "woken, waiting for a CPU"], ["--preempted", "down", "preempted, waiting for a CPU"],
      ["--yielded", "dots", "yielded"], ["--throttled", "flat", "kept off by a quota"], ["--asleep", "solid", "asleep (thin)"], ["--disk", "cross", "uninterruptible sleep"],
      ["--stopped", "tall", "stopped by a signal"], ["--other", "up", "another process"], ["--g211s", "dots", "g211s itself"]]),
    detail, limitsOf(t.limits.timeline));
  return { node, jump, show, view, whole };
};
const threadName = (x) => isNumber(x.m_id) ? `M${x.m_id} (tid ${x.tid})` : `tid ${x.tid}`;
