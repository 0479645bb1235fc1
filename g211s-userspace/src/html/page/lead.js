// The answer: why it stalls, the worst pauses in a sentence each, where all stalled time went.
const FIRST = 8;
const lead = (t, jump) => {
  const report = t.report, cards = [];
  const card = (value, what) => cards.push(el("div", { class: "card" }, el("b", {}, value), el("span", {}, what)));
  const worst = t.pauses[0];
  card(worst ? time(worst.ns) : "none", worst ? `worst pause (${{ stop: "stop of the world", wait: "wait for a CPU", sleep: "uninterruptible sleep" }[worst.kind]})` : "pause");
  if (t.sees_stops) {
    const all = report.stw_totals;
    card(count(all.count), `stops of the world, ${time(all.total_ns)} in all; p99 ${time(all.p99_ns)}`);
    card(count(report.gc.count), `GC cycles, ${percent(report.gc.share, 1)} of the time`);
  } else card("–", "stops and GC cycles cannot be seen");
  card(time(report.runqueue.p99_ns), `p99 wait for a CPU, of ${count(report.runqueue.count)}; max ${time(report.runqueue.max_ns)}`);
  const unexplained = percent(report.stalls.unexplained_ns, report.stalls.total_ns);
  card(report.stalls.unexplained_ns > 0 && unexplained === "0.0 %" ? "< 0.1 %" : unexplained, "of stalled time unexplained");

  const list = el("ol", { class: "pauses", "aria-label": "Worst pauses, longest first" });
  const items = t.pauses.map((p, i) => el("li", { class: "pause" }, el("button", {
    type: "button", "aria-pressed": "false", "data-pause": i, onclick: () => jump(i, true),
  }, el("span", {}, el("span", { class: "len" }, time(p.ns)), el("span", { class: "at" }, "at " + moment(p.at, 1e8))),
  el("span", { class: "say" }, p.words, partsBar(p.parts, p.ns), el("span", { class: "unseen" }, " Shows it in the timeline.")))));
  list.append(...items);
  const more = el("button", { type: "button", class: "more" });
  let all = false;
  const limit = () => {
    items.forEach((item, i) => { item.hidden = !all && i >= FIRST; });
    more.hidden = items.length <= FIRST;
    more.textContent = all ? `Show the ${FIRST} worst` : `Show ${count(items.length - FIRST)} more`;
    more.setAttribute("aria-expanded", all);
  };
  more.addEventListener("click", () => { all = !all; limit(); });
  limit();

  const causes = table("Where stalled time went", [
    { head: "cause", get: (c) => c.words, w: true, show: (c) => {
      const [, colour, pattern] = cause(c.kind);
      return el("span", { class: "what" }, swatch(colour, pattern), el("span", {}, c.words));
    } },
    timeColumn("time", (c) => c.ns),
    { head: "share", get: (c) => c.share, n: true, show: (c) => percent(c.share, 1) },
    countColumn("times", (c) => c.count), timeColumn("worst", (c) => c.worst_ns),
  ], t.causes, { by: 1, limit: 10 });
  const waits = report.delays.threshold_ns;
  return section("why", "Why does it stall?", null,
    t.lead.map((line) => el("p", { class: "lead" }, line)),
    el("div", { class: "cards" }, cards),
    el("div", { class: "two" },
      el("div", {}, el("h3", {}, "Worst pauses"),
        t.pauses.length ? [list, more] : el("p", { class: "nothing" }, `Nothing: no stop of the world, and no wait or uninterruptible sleep of ${time(waits)} or longer, was seen.`)),
      el("div", {}, t.causes.length ? causes : el("p", { class: "nothing" }, "No stalled time to account for."))),
    limitsOf(t.limits.pauses));
};
