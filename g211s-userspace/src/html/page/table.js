// Tables that sort: a button in each head, the whole list behind another one.
// A column: { head, get (the value to sort by), show (what stands there), n (a number), w (wide), nw (in one line) }.
const SHOWN = 12;
const table = (caption, columns, rows, options = {}) => {
  const limit = options.limit || SHOWN;
  let by = options.by === undefined ? -1 : options.by, down = options.down !== false, all = rows.length <= limit;
  const body = el("tbody");
  const compare = (a, b) => {
    const none = (v) => v === null || v === undefined || v === "";
    // What is not known stands last, whichever way.
    if (none(a) || none(b)) return none(a) - none(b);
    const order = typeof a === "number" && typeof b === "number" ? a - b : String(a).localeCompare(String(b), "en", { numeric: true });
    return down ? -order : order;
  };
  const heads = columns.map((c, i) => {
    const th = el("th", { scope: "col", class: c.n ? "n" : null });
    if (!c.head) th.append(el("span", { class: "unseen" }, "name"));
    else if (c.get) {
      th.append(el("button", { type: "button", onclick: () => {
        down = by === i ? !down : !!c.n;
        by = i;
        fillIn();
        say(`Sorted by ${c.head}, ${down ? "descending" : "ascending"}`);
      } }, c.head));
    } else th.append(c.head);
    return th;
  });
  const more = el("button", { type: "button", class: "more", onclick: () => { all = !all; fillIn(); } });
  const fillIn = () => {
    const sorted = by < 0 ? rows.slice() : rows.map((r) => [columns[by].get(r), r]).sort((a, b) => compare(a[0], b[0])).map((r) => r[1]);
    heads.forEach((th, i) => i === by ? th.setAttribute("aria-sort", down ? "descending" : "ascending") : th.removeAttribute("aria-sort"));
    clear(body);
    for (const row of all ? sorted : sorted.slice(0, limit)) {
      body.append(el("tr", {}, columns.map((c) => {
        const shown = c.show ? c.show(row) : c.get(row);
        return el("td", { class: [c.n ? "n" : "", c.w ? "w" : "", c.nw ? "nw" : ""].join(" ").trim() || null }, shown === null || shown === undefined || shown === "" ? "–" : shown);
      })));
    }
    more.hidden = rows.length <= limit;
    more.textContent = all ? `Show the first ${limit}` : `Show all ${count(rows.length)}`;
    more.setAttribute("aria-expanded", all);
  };
  fillIn();
  const made = el("table", {}, el("caption", {}, caption), el("thead", {}, el("tr", {}, heads)), body);
  return el("div", { class: options.wide ? "wide" : null }, el("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": caption }, made), more);
};
const timeColumn = (head, get) => ({ head, get, n: true, show: (r) => time(get(r)) });
const countColumn = (head, get) => ({ head, get, n: true, show: (r) => count(get(r)) });
const textColumn = (head, get) => ({ head, get, w: true });

// Distributions, one a row.
const distributions = (caption, rows, options) => table(caption, [
  { head: "", get: (r) => r[0] }, countColumn("count", (r) => r[1].count),
  timeColumn("mean", (r) => r[1].count ? r[1].mean_ns : null), timeColumn("p50", (r) => r[1].p50_ns),
  timeColumn("p90", (r) => r[1].p90_ns), timeColumn("p99", (r) => r[1].p99_ns), timeColumn("p99.9", (r) => r[1].p999_ns),
  timeColumn("max", (r) => r[1].max_ns), timeColumn("in all", (r) => r[1].total_ns),
], rows, { wide: true, ...options });
