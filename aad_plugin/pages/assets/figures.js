// Charts and tables of the report: win rates and metrics with their intervals.
"use strict";

aad.label = (...parts) => parts.filter(Boolean).join(" · ");

// One format per metric, on axes, in labels and in tables: shares in percent, lengths in whole characters, all else to three digits.
aad.percent = new Set(); // metrics named like shares whose values are already in percent, as squad_v2's f1
aad.isShare = (metric) => !aad.percent.has(metric) && /^(win_rate|truncated|degenerate|accuracy|acc|macro_f1|f1|precision|recall|unparsed|compliance|refusal|exact_match)/.test(metric);
aad.format = (metric) => aad.isShare(metric) ? (v) => aad.pct(v) : /^length/.test(metric) ? (v) => aad.num(v, 0) : (v) => aad.num(v, 3);
aad.tick = (metric) => aad.isShare(metric) ? (v) => `${Number((100 * v).toFixed(1))} %` : /^length/.test(metric) ? (v) => Number.isInteger(v) ? String(v) : "" : undefined;
aad.unit = (metric) => aad.isShare(metric) ? "" : /^length/.test(metric) ? ", characters" : "";

// Horizontal intervals with their names above them, so that a phone's width does for both.
aad.intervals = (rows, { width, domain, rule, format, tick, colours, title, label }) => {
  const marks = [];
  if (rule !== undefined) marks.push(Plot.ruleX([rule], { strokeDasharray: "4 3" }));
  const shown = rows.filter((r) => r.value !== null && isFinite(r.value));
  marks.push(
    Plot.ruleY(shown.filter((r) => r.low !== null), { y: "key", x1: "low", x2: "high", stroke: "run", strokeWidth: 2.5 }),
    Plot.dot(shown, { y: "key", x: "value", fill: "run", r: 5 }),
    // The rim of the page's colour keeps grid and rule out of the words.
    Plot.text(shown, { y: "key", text: (r) => r.label, frameAnchor: "left", dy: -14, textAnchor: "start", fill: "currentColor", stroke: "var(--paper)", strokeWidth: 6, fontSize: 12 }),
    Plot.text(shown, { y: "key", text: (r) => format(r), frameAnchor: "right", dy: -14, textAnchor: "end", fill: "currentColor", stroke: "var(--paper)", strokeWidth: 6, fontSize: 12 }),
  );
  return Plot.plot({
    width, height: 40 + 44 * shown.length, marginLeft: 16, marginRight: 22, marginTop: 16, ariaLabel: title, style: { background: "none", fontFamily: "inherit" },
    x: { domain, label: label ?? title, grid: true, nice: true, ticks: width < 500 ? 4 : 5, tickFormat: tick }, y: { axis: null, domain: shown.map((r) => r.key), padding: 0.3 },
    color: { domain: colours, scheme: "Observable10" }, marks,
  });
};

aad.drawFigures = (data) => {
  for (const f of data.figures) if (f.value > 1 || f.value < 0) aad.percent.add(f.metric);
  const runs = data.runs.map((run) => run.name);
  const named = (run) => runs.length > 1 ? run : null;
  const tasks = new Set([...data.wins, ...data.figures].map((row) => row.task));
  const of = (task) => tasks.size > 1 ? task : null; // a name that all rows share says nothing
  const legend = () => runs.length > 1 ? Plot.legend({ color: { domain: runs, scheme: "Observable10" } }) : "";
  const wins = data.wins.map((w, i) => ({ key: String(i), run: w.run, value: w.rate, low: w.low, high: w.high,
    label: aad.visible(aad.label(of(w.task), `${w.candidate} vs ${w.rival}`, named(w.run))) }));
  const byMetric = new Map();
  data.figures.forEach((f, i) => {
    const rows = byMetric.get(f.metric) || [];
    rows.push({ key: String(i), run: f.run, value: f.value, low: f.error === null ? null : f.value - 1.96 * f.error,
      high: f.error === null ? null : f.value + 1.96 * f.error, label: aad.visible(aad.label(of(f.task), f.answer || f.task, named(f.run))) });
    byMetric.set(f.metric, rows);
  });
  const first = ["reward", "grade", "length", "truncated", "accuracy", "macro_f1", "compliance_safe", "refusal_unsafe", "degenerate"];
  // Shares lie between 0 and 1, and so do their intervals; a metric that is the same everywhere needs no picture.
  for (const [metric, rows] of byMetric) if (aad.isShare(metric)) for (const r of rows) if (r.low !== null) { r.low = Math.max(0, r.low); r.high = Math.min(1, r.high); }
  const varies = (rows) => rows.some((r) => r.value !== rows[0].value || (r.low !== null && r.low !== r.high));
  const charted = [...byMetric.keys()].filter((metric) => varies(byMetric.get(metric))).sort((a, b) => (first.indexOf(a) + 1 || 99) - (first.indexOf(b) + 1 || 99)).slice(0, 8);
  const draw = () => {
    const box = document.getElementById("win-chart");
    const width = Math.max(260, Math.min(1160, box.clientWidth));
    box.replaceChildren(wins.length ? legend() : "", wins.length ? aad.intervals(wins, { width, domain: [0, 1], rule: 0.5, colours: runs,
      title: "win rate", tick: aad.tick("win_rate"), format: (r) => aad.pct(r.value) + (r.low === null || width < 600 ? "" : ` [${aad.pct(r.low)}, ${aad.pct(r.high)}]`) }) :
      aad.el("p", { class: "quiet" }, "No verdicts in these runs."));
    const charts = document.getElementById("figure-charts");
    const column = Math.max(260, Math.min(600, charts.clientWidth, charts.clientWidth > 800 ? charts.clientWidth / 2 - 16 : 600));
    charts.replaceChildren(...charted.map((metric) => aad.el("div", { class: "chart" }, aad.el("h3", {}, aad.visible(metric)), aad.intervals(byMetric.get(metric), { width: column,
      colours: runs, title: metric, label: metric + aad.unit(metric), tick: aad.tick(metric), format: (r) => aad.format(metric)(r.value) }))));
  };
  draw();
  aad.onNewWidth(draw);
  aad.winTable(data, runs);
  aad.figureTable(data, runs);
};

// Scores of many systems; an open end of an interval reaches to the edge of the picture.
aad.drawLeagues = (data) => {
  if (!data.leagues.length) return;
  for (const id of ["leagues", "to-leagues"]) document.getElementById(id).hidden = false;
  const list = document.getElementById("league-list");
  const charts = data.leagues.map((league, i) => {
    const chart = aad.el("div", { class: "chart" });
    const table = aad.el("div", { id: `league-table-${i}` });
    const facts = `${league.model}; score 0 is ${league.zero}; ${league.battles} battles on ${league.questions} questions`;
    const effects = league.effects.map((e) => `${e.feature} ${aad.num(e.value, 3)} [${aad.num(e.low, 3)}, ${aad.num(e.high, 3)}]`).join(", ");
    list.append(aad.el("h3", {}, aad.visible(aad.label(data.runs.length > 1 ? league.run : null, league.name))), aad.el("p", { class: "quiet" }, aad.visible(facts)), chart, table,
      effects ? aad.el("p", { class: "quiet" }, aad.visible(`style, log-odds per usual difference: ${effects}`)) : "");
    return [league, chart];
  });
  const draw = () => charts.forEach(([league, chart]) => {
    const known = league.standings.flatMap((s) => [s.score, s.low, s.high]).filter((v) => v !== null);
    const [from, to] = [Math.min(...known), Math.max(...known)];
    const edge = Math.max(0.1, (to - from) / 20);
    const rows = league.standings.map((s, at) => ({ key: String(at), run: league.run, value: s.score, low: s.low ?? from - edge, high: s.high ?? to + edge, label: aad.visible(s.system) }));
    chart.replaceChildren(aad.intervals(rows, { width: Math.max(260, Math.min(1160, list.clientWidth)), domain: [from - edge, to + edge], rule: 0,
      colours: data.runs.map((run) => run.name), title: "score (log-odds)", format: (r) => aad.num(r.value, 2) }));
  });
  draw();
  aad.onNewWidth(draw);
  data.leagues.forEach((league, i) => {
    const bounds = (s) => s.low === null ? (s.high === null ? " (no bounds)" : ` (at most ${aad.num(s.high, 2)})`) : s.high === null ? ` (at least ${aad.num(s.low, 2)})` : ` [${aad.num(s.low, 2)}, ${aad.num(s.high, 2)}]`;
    const rows = league.standings.map((s) => ({ ...s, ranks: s.rank_low === s.rank_high ? String(s.rank_low) : `${s.rank_low} to ${s.rank_high}`, shown: aad.num(s.score, 2) + bounds(s),
      counts: `${aad.num(s.wins, 1)} / ${aad.num(s.ties, 1)} / ${aad.num(s.losses, 1)}`, tied: s.tied_with.join(", ") || "–" }));
    const by = (field) => ({ sorter: (a, b, ra, rb) => ra.getData()[field] - rb.getData()[field] });
    new Tabulator(`#league-table-${i}`, { data: rows, layout: "fitData", columns: [aad.textColumn("rank", "ranks", by("rank_low")), aad.textColumn("system", "system"), aad.textColumn("score [95 %]", "shown", by("score")),
      aad.numberColumn("Elo", "elo", (v) => aad.num(v, 0)), aad.numberColumn("win rate", "win_rate", (v) => aad.pct(v)), aad.textColumn("won / tied / lost", "counts", by("wins")), aad.textColumn("tied with", "tied"), aad.textColumn("note", "note")] });
  });
};

aad.textCell = (cell) => { const node = document.createElement("span"); node.dir = "auto"; node.textContent = aad.visible(cell.getValue() ?? "–"); return node; };
aad.numberCell = (format) => (cell) => document.createTextNode(format(cell.getValue()));
aad.textColumn = (title, field, extra) => ({ title, field, formatter: aad.textCell, headerSortTristate: true, ...extra });
aad.numberColumn = (title, field, format, extra) => ({ title, field, formatter: aad.numberCell(format), sorter: "number", sorterParams: { alignEmptyValues: "bottom" },
  hozAlign: "right", headerHozAlign: "right", headerSortTristate: true, ...extra });

aad.winTable = (data, runs) => {
  if (!data.wins.length) return;
  const range = (low, high) => low === null ? "" : ` [${aad.pct(low)}, ${aad.pct(high)}]`;
  const rows = data.wins.map((w) => ({ ...w, against: `${w.candidate} vs ${w.rival}`, shownRate: (w.rate === null ? "– nothing judged" : aad.pct(w.rate)) + range(w.low, w.high) + (w.approximate ? " (from ± se)" : ""),
    shownLc: (w.lc_rate === null ? "– not computed" : aad.pct(w.lc_rate)) + range(w.lc_low, w.lc_high), counts: w.wins === null ? "– no verdicts found" : `${w.wins} / ${w.losses} / ${w.ties}`,
    open: (Object.entries(w.unjudged).map(([why, many]) => `${many} ${why}`).join(", ") || "0") + (w.not_asked ? `, ${w.not_asked} not asked` : "") + (w.complete ? "" : "; verdict file incomplete"),
    named: (w.judge || "– not said") + (w.drift ? " (changed within the run)" : ""), bill: w.prompt_tokens ? `${w.prompt_tokens} in, ${w.completion_tokens} out` + (w.cost === null ? "" : `, cost ${aad.num(w.cost, 4)}`) : "– none counted" }));
  const by = (field) => ({ sorter: (a, b, ra, rb) => (ra.getData()[field] ?? -1) - (rb.getData()[field] ?? -1) });
  const oneOrder = (v) => v === null || v === undefined ? "– one order" : aad.pct(v);
  const many = (field) => new Set(rows.map((row) => row[field])).size > 1; // what is the same in all rows need not take room
  const columns = [...(many("task") ? [aad.textColumn("task", "task")] : []), aad.textColumn("comparison", "against"), aad.textColumn("win rate [95 %]", "shownRate", by("rate")),
    aad.textColumn("at matched length", "shownLc", by("lc_rate")), aad.numberColumn("n", "n", (v) => v ?? "– not said"), aad.textColumn("won / lost / tied", "counts", by("wins")),
    aad.numberColumn("consistency", "consistency", oneOrder), aad.numberColumn("first", "first_rate", oneOrder),
    aad.textColumn("unjudged", "open"), ...(many("named") ? [aad.textColumn("judge", "named"), aad.textColumn("judge tokens", "bill", by("prompt_tokens"))] : [])];
  if (runs.length > 1) columns.unshift(aad.textColumn("run", "run"));
  const sum = (field) => rows.reduce((total, row) => total + (row[field] || 0), 0);
  const spent = sum("prompt_tokens") ? `; ${sum("prompt_tokens").toLocaleString("en")} tokens in, ${sum("completion_tokens").toLocaleString("en")} out` + (sum("cost") ? `, cost ${aad.num(sum("cost"), 4)}` : "") : "";
  if (!many("named")) document.getElementById("win-table").after(aad.el("p", { class: "quiet" }, aad.visible(`Judge: ${rows[0].named}${spent}.`)));
  new Tabulator("#win-table", { data: rows, columns, layout: "fitData" });
};

// One row per metric, one column per answer and run.
aad.figureTable = (data, runs) => {
  if (!data.figures.length) return;
  const columns = new Map();
  const rows = new Map();
  for (const f of data.figures) {
    const column = aad.label(f.answer || "value", runs.length > 1 ? f.run : null);
    if (!columns.has(column)) columns.set(column, "c" + columns.size);
    const key = JSON.stringify([f.task, f.metric]);
    const row = rows.get(key) || { task: f.task, metric: f.metric + (f.better === "lower" ? " (less is better)" : "") };
    row[columns.get(column)] = f.value;
    row[columns.get(column) + "e"] = f.error;
    rows.set(key, row);
  }
  const shown = (field) => (cell) => {
    const row = cell.getRow().getData();
    const [value, error, format] = [row[field], row[field + "e"], aad.format(row.metric)];
    if (value === null || value === undefined) return document.createTextNode("– not measured");
    return document.createTextNode(format(value) + (error === null || error === undefined ? "" : ` ± ${format(error)}`));
  };
  new Tabulator("#figure-table", { data: [...rows.values()], layout: "fitData", maxHeight: 480,
    columns: [aad.textColumn("task", "task"), aad.textColumn("metric", "metric"), ...[...columns].map(([title, field]) => ({ ...aad.numberColumn(aad.visible(title).replace(/[<&]/g, "·"), field), formatter: shown(field) }))] });
};
