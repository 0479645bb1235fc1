// The figures behind the pictures: distributions, threads, goroutines, network, what was observed and what not.
const figures = (t) => {
  const r = t.report, q = r.runqueue;
  return section("figures", "Figures", null,
    distributions("Waits of threads for a CPU", [["all", q], ["after a wakeup", q.wakeup], ["after a preemption", q.preempted], ["outside GC", q.outside_gc], ["in a GC cycle", q.in_gc], ["in a stop", q.in_stw], ["after sched_yield", q.yielded], ["stays on a CPU", q.on_cpu]]),
    q.throttled.count ? el("p", { class: "after" }, `The CPU quota ran out ${count(q.throttled.count)} times and kept the cgroup off CPUs for ${time(q.throttled.ns)}, added up over the CPUs.`) : null,
    r.stw_totals.count ? [distributions("Stops of the world", [["all", r.stw_totals], ["  until stopped", r.stw_totals.stopping], ["  stopped", r.stw_totals.stopped], ...Object.entries(r.stw_totals.by_reason)]),
      table("What all stops went to", [
        { head: "cause", get: (c) => c.words, w: true, show: (c) => el("span", { class: "what" }, swatch(cause(c.kind)[1], cause(c.kind)[2]), el("span", {}, c.words)) },
        timeColumn("time", (c) => c.ns), { head: "share", get: (c) => c.ns, n: true, show: (c) => percent(c.ns, r.stw_totals.total_ns) }, countColumn("stops", (c) => c.stops),
      ], t.stop_causes, { by: 1 })] : null,
    r.threads.list.length ? threadTable(t) : el("p", { class: "nothing" }, "No thread was seen."), limitsOf(t.limits.threads));
};
const threadTable = (t) => table(`Threads (${count(t.report.threads.count)})`, [
  { head: "thread", get: (x) => x.tid }, { head: "M", get: (x) => x.m_id, n: true }, textColumn("name", (x) => x.comm),
  timeColumn("on a CPU", (x) => x.on_cpu_ns), timeColumn("woken, waiting", (x) => x.woken_ns), timeColumn("preempted, waiting", (x) => x.preempted_ns),
  timeColumn("asleep", (x) => x.blocked_ns), timeColumn("state D", (x) => x.uninterruptible_ns), countColumn("switches", (x) => x.switches),
  countColumn("stops made", (x) => x.stopper), countColumn("last to stop", (x) => x.laggard),
], t.report.threads.list, { by: 4 });

const goroutinesPart = (t) => {
  const g = t.report.goroutine_delays, from = t.report.window.start_ns, why = [];
  const row = (name, d, part) => { if (part.unavailable) why.push(`${name}: ${part.unavailable}`); return part.unavailable ? null : [name, d]; };
  const rows = [row("stalled in a mark assist", g.assists.stalls, g.assists), row("P kept in a system call, then taken", g.p_held.taken, g.p_held), row("P kept in a system call to its end", g.p_held.kept, g.p_held), row("P kept while preempted or in a page fault", g.p_held.descheduled, g.p_held)].filter(Boolean);
  if (g.p_starvation.unavailable) why.push(`no P could run: ${g.p_starvation.unavailable}`);
  const when = { head: "at", get: (x) => x.start_ns, n: true, show: (x) => moment(x.start_ns - from) };
  return section("goroutines", "What keeps goroutines waiting outside stops", null,
    el("p", {}, `Did goroutines wait for one another? ${{ unknown: "Not known.", no: "No: they did not wait long.", by_its_own_goroutines: "Yes: all Ps ran goroutines while more were ready.", threads_in_want_of_cpus: "They waited long, because threads waited for CPUs.", unexplained: "They waited long, and neither explains it." }[g.saturation.verdict] || ""} (Goroutines’ waits: p99 ${time(g.saturation.figures.latency_p99_ns)}.)`),
    rows.length ? distributions("How long", rows) : null,
    g.p_starvation.unavailable ? null : el("p", { class: "after" }, `No P could run a goroutine ${count(g.p_starvation.count)} times, ${time(g.p_starvation.total_ns)} in all.`),
    el("div", { class: "tables" },
      g.assists.worst.length ? table("Longest stalls in mark assists", [{ head: "goroutine", get: (x) => x.goid, n: true }, { head: "thread", get: (x) => x.tid, n: true }, when, timeColumn("time", (x) => x.ns)], g.assists.worst, { by: 3, limit: 6 }) : null,
      g.p_held.worst.length ? table("Ps kept longest by threads on no CPU", [{ head: "P", get: (x) => x.p, n: true }, { head: "thread", get: (x) => x.tid, nw: true, show: (x) => threadName(x) }, { head: "off its CPU", get: (x) => x.syscall_name || words(x.off), w: true }, when, timeColumn("time", (x) => x.ns), { head: "queued", get: (x) => x.queued, n: true }], g.p_held.worst, { by: 4, limit: 6 }) : null),
    limitsOf(why));
};

const network = (t) => {
  const n = t.report.netpoll, from = t.report.window.start_ns, rows = [["sleeps in polls (idle time)", n.blocking.wait], ["woken from a poll to running", n.late_wakes.delay]];
  if (n.ready) rows.push(["socket ready to taken", n.ready]);
  return section("network", "Network", `${plural(n.late_wakes.count, "wake was", "wakes were")} late by ${time(n.late_wakes.threshold_ns)} or more`,
    distributions("Polls", rows),
    n.late.length ? table("Latest harvests", [{ head: "delay", get: (x) => x.delay_ns, n: true, show: (x) => time(x.delay_ns) }, { head: "at", get: (x) => x.ready_ns ?? x.woken_ns, n: true, show: (x) => moment((x.ready_ns ?? x.woken_ns ?? from) - from) }, textColumn("what happened", (x) => x.sentence)], n.late, { by: 0, limit: 6 }) : el("p", { class: "nothing" }, "No late harvest was told one by one."),
    limitsOf(t.limits.network));
};

const evidence = (data, t) => {
  const r = t.report, e = data.events, host = data.run.host, settings = data.run.settings, start = r.window.start_ns, facts = [];
  const fact = (k, v) => { if (v !== null && v !== undefined && v !== "") facts.push([k, v]); };
  fact("Process", `${r.target.exe || r.target.comm} (pid ${r.target.pid})`);
  fact("Go", `${r.target.go_version}${r.target.link_mode.length ? `, ${r.target.link_mode.join(", ")}` : ""}`);
  fact("Module", r.target.module);
  fact("Cgroup", r.target.cgroup);
  fact("CPUs allowed", r.target.cpus_allowed);
  r.target.quotas.forEach((q) => fact("CPU quota", `${time(q.quota_us * 1000)} in ${time(q.period_us * 1000)}, cgroup ${q.cgroup}`));
  if (host) fact("Machine", `${host.hostname}, ${host.kernel}, ${host.arch}, ${plural(host.cpus, "CPU", "CPUs")}`);
  if (r.window.wall_ns > 0) fact("Began", `${new Date(r.window.wall_ns / 1e6).toISOString().replace("T", " ").slice(0, 19)} UTC`);
  fact("Observed for", time(r.window.duration_ns));
  fact("Ended", data.run.complete ? data.run.end_reason : "the recording was cut off");
  if (settings) fact("Long is", `${time(settings.threshold_ns)} and more${settings.full ? "; every transition was recorded" : ""}`);
  data.run.steal.forEach((s) => fact("Taken by the hypervisor", `${time(s.ns)} of CPU ${s.cpu}`));
  if (data.cost) fact("Cost", `${time(data.cost.agent_cpu_ns)} of CPU time (${percent(data.cost.agent_cpu_ns, r.window.duration_ns)} of one CPU), ${bytes(data.cost.agent_max_rss_bytes)} at most`);
  fact("Recorded by", `g211s ${data.run.g211s_version}; this page by ${data.made_by}`);
  const classes = Object.keys(e.received).filter((k) => k !== "total");
  const missing = [...r.target.unavailable, ...r.runtime.unavailable];
  const accuracy = [["GC cycles", r.accuracy.gc_cycles], ["GC stops", r.accuracy.stw_gc && r.accuracy.stw_gc.count], ["other stops", r.accuracy.stw_other && r.accuracy.stw_other.count]].filter(([, a]) => a);
  return section("evidence", "Evidence, cost, and what is not known", null,
    el("div", { class: "tables" },
      table("The run", [{ head: "what", get: (f) => f[0] }, textColumn("", (f) => f[1])], facts, { limit: 30 }),
      table("Events", [{ head: "class", get: (k) => k }, countColumn("received", (k) => e.received[k]), { head: "lost", get: (k) => e.lost ? e.lost[k] || 0 : null, n: true, show: (k) => e.lost ? count(e.lost[k] || 0) : "not known" }], ["total", ...classes], { limit: 20 }),
      accuracy.length ? table("Against the Go runtime’s own counters", [{ head: "what", get: (a) => a[0] }, countColumn("seen", (a) => a[1].ours), countColumn("runtime", (a) => a[1].runtime), { head: "verdict", get: (a) => words(a[1].verdict) }, textColumn("why", (a) => a[1].why)], accuracy) : null,
      missing.length ? table("Not available here", [{ head: "feature", get: (u) => u.feature }, textColumn("why", (u) => u.why), textColumn("what that costs you", (u) => u.costs)], missing, { wide: true, limit: 20 }) : el("p", { class: "nothing" }, "Everything that g211s can observe was available."),
      data.notices.length ? table("Said during the run", [{ head: "at", get: (n) => n.ts_ns, n: true, show: (n) => moment(n.ts_ns - start) }, textColumn("", (n) => n.text)], data.notices, { wide: true }) : null,
      r.target.probes.length ? table("Probes", [{ head: "for", get: (p) => words(p.site) }, { head: "function", get: (p) => p.function, w: true, show: (p) => el("code", {}, `${p.function}+${p.function_offset}`) }, { head: "instruction", get: (p) => p.instruction, show: (p) => el("code", {}, p.instruction) }, { head: "emulated", get: (p) => p.emulated ? "yes" : "no" }], r.target.probes, { wide: true, limit: 6 }) : null));
};
