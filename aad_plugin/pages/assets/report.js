// The report page: header, figures, and the browser of answers.
"use strict";
(() => {
  const data = aad.data();
  const byId = (id) => document.getElementById(id);
  document.title = data.title;
  byId("title").textContent = aad.visible(data.title);
  byId("created").textContent = `${data.about ? data.about + "; " : ""}made ${data.created}; ${data.docs.length.toLocaleString("en")} documents` +
    (data.traced ? `; tokens of ${data.traces.length} of ${data.traced} traced answers` : "");
  const problems = data.runs.flatMap((run) => run.problems.map((line) => aad.label(data.runs.length > 1 ? run.name : null, line)));
  if (problems.length) byId("problems").append(aad.el("ul", { class: "warn" }, problems.slice(0, 20).map((line) => aad.el("li", {}, aad.visible(line))),
    problems.length > 20 ? aad.el("li", {}, `and ${problems.length - 20} more`) : null));
  byId("run-facts").append(...data.runs.map((run) => aad.el("div", {}, aad.el("h3", {}, aad.visible(run.name)),
    aad.table([["fact"], ["value"]], Object.entries(run.facts).map(([name, value]) => [name, aad.visible(value)])))));
  aad.drawFigures(data);
  aad.drawLeagues(data);

  // ---------------------------------------------------------------- rows of the browser
  const state = { search: "", task: "", comparison: 0, outcome: "", only: new Set(), current: null };
  const choices = []; // what to compare: one entry per pair of names, per run
  data.comparisons.forEach((c, i) => {
    const alike = data.comparisons.filter((one) => one.run === c.run && one.task === c.task && one.candidate === c.candidate && one.rival === c.rival);
    const label = aad.label(data.runs.length > 1 ? c.run : null, c.rival ? `${c.candidate} vs ${c.rival}` : c.candidate, c.rival && alike.length < 2 ? null : c.judge);
    const known = choices.find((one) => one.label === label);
    if (known) known.members.add(i);
    else choices.push({ label, members: new Set([i]), candidate: c.candidate, rival: c.rival, run: data.runs.findIndex((run) => run.name === c.run) });
  });
  if (!choices.length) {
    const names = [...new Set(data.docs.flatMap((doc) => doc.a.map((answer) => answer[1])))];
    choices.push({ label: names.length > 1 ? `${names[0]} vs ${names[1]}` : names[0] || "none", members: new Set(), candidate: names[0], rival: names[1] || "", run: 0 });
  }
  const tasks = [...new Set(data.docs.map((doc) => doc.t))];
  const words = data.docs.map(() => null);
  const haystack = (i) => words[i] ??= [data.docs[i].i, data.docs[i].p, ...data.docs[i].a.map((answer) => answer[2])].join("\n").toLowerCase();

  const describe = (doc, i, choice) => {
    const of = (name) => doc.a.find((answer) => answer[1] === name && answer[0] === choice.run);
    const [ours, theirs] = [of(choice.candidate), of(choice.rival)];
    const verdicts = doc.v.filter((verdict) => choice.members.has(verdict.c));
    const judged = verdicts.filter((verdict) => !verdict.r);
    const rated = judged.filter((verdict) => verdict.p !== null && verdict.p !== undefined);
    const p = rated.length ? rated.reduce((sum, verdict) => sum + verdict.p, 0) / rated.length : null;
    const outcome = !verdicts.length ? "no verdict" : !judged.length ? "unjudged" : p === null ? String(judged[0].l ?? "") : p > 0.5 ? "won" : p < 0.5 ? "lost" : "tie";
    const flags = (ours ? ours[3] : 0) | (theirs ? theirs[3] : 0);
    return { i, task: doc.t, id: doc.i, prompt: doc.p.slice(0, 200).replace(/\s+/g, " "), outcome, p, length: ours ? ours[5] : null,
      difference: ours && theirs ? ours[5] - theirs[5] : null,
      inconsistent: verdicts.some(aad.inconsistent), candidateRefuses: Boolean(ours && ours[3] & aad.REFUSES), rivalRefuses: Boolean(theirs && theirs[3] & aad.REFUSES),
      truncated: Boolean(flags & aad.TRUNCATED), degenerate: Boolean(flags & aad.DEGENERATE), traced: doc.a.some((answer) => answer[4] >= 0),
      notes: [verdicts.some(aad.inconsistent) && "judge inconsistent", ours && ours[3] & aad.REFUSES && `${choice.candidate} refuses`,
        theirs && theirs[3] & aad.REFUSES && `${choice.rival} refuses`, flags & aad.TRUNCATED && "truncated", flags & aad.DEGENERATE && "repeats itself"].filter(Boolean).join(", ") };
  };
  const rowsOf = (choice) => data.docs.map((doc, i) => describe(doc, i, choice));

  // ---------------------------------------------------------------- controls
  const option = (value, label) => aad.el("option", { value }, aad.visible(label));
  byId("task").append(option("", "all"), ...tasks.map((task) => option(task, task)));
  byId("comparison").append(...choices.map((choice, i) => option(String(i), choice.label)));
  const outcomes = () => {
    const seen = [...new Set(rows.map((row) => row.outcome).filter(Boolean))];
    byId("outcome").replaceChildren(option("", "all"), ...seen.map((one) => option(one, ["won", "lost"].includes(one) ? `${choices[state.comparison].candidate} ${one}` : one)));
  };
  const toggles = [["inconsistent", "judge inconsistent"], ["candidateRefuses", "candidate refuses"], ["rivalRefuses", "rival refuses"],
    ["truncated", "truncated"], ["degenerate", "repeats itself"], ["traced", "with tokens"]];
  let rows = rowsOf(choices[0]);
  byId("filters").append(...toggles.filter(([field]) => field !== "traced" || data.traced).map(([field, label]) => {
    const button = aad.el("button", { type: "button", "aria-pressed": "false", "data-field": field, onclick: () => {
      state.only.has(field) ? state.only.delete(field) : state.only.add(field);
      button.setAttribute("aria-pressed", String(state.only.has(field)));
      filter();
    } }, label);
    return button;
  }));
  outcomes();

  const table = new Tabulator("#browser", {
    data: rows, index: "i", height: Math.min(560, Math.max(320, innerHeight - 220)), layout: "fitColumns", responsiveLayout: "hide", renderVerticalBuffer: 300,
    placeholder: "No answers match.", rowHeight: 34,
    autoResize: false, // it draws the rows anew when they first come into view, and a click then falls between two rows
    columns: [
      aad.textColumn("task", "task", { width: 150, responsive: 5, visible: tasks.length > 1 }), aad.textColumn("id", "id", { width: 100, responsive: 3 }),
      aad.textColumn("prompt", "prompt", { minWidth: 170, widthGrow: 4, responsive: 0 }), aad.textColumn("outcome", "outcome", { width: 112, responsive: 0 }),
      aad.numberColumn("p", "p", (v) => aad.num(v, 2), { width: 75, responsive: 1 }), aad.numberColumn("characters", "length", (v) => v ?? "– no answer", { width: 130, responsive: 2 }),
      aad.numberColumn("more than rival", "difference", (v) => v === null || v === undefined ? "– no rival" : aad.signed(v, 0), { width: 172, responsive: 4 }),
      aad.textColumn("notes", "notes", { minWidth: 170, widthGrow: 1, responsive: 2 }),
    ],
  });
  const matches = (row) => (!state.task || row.task === state.task) && (!state.outcome || row.outcome === state.outcome) &&
    [...state.only].every((field) => row[field]) && (!state.search || haystack(row.i).includes(state.search));
  let ready = false;
  const filter = () => {
    if (ready) table.setFilter(matches);
  };
  const count = () => {
    const many = table.getDataCount("active");
    byId("count").textContent = `${many.toLocaleString("en")} of ${rows.length.toLocaleString("en")} documents`;
  };
  table.on("tableBuilt", () => { ready = true; count(); document.body.dataset.ready = "true"; filter(); });
  table.on("dataFiltered", () => setTimeout(count, 0));
  table.on("rowClick", (event, row) => { moveTo(() => active().findIndex((one) => one.getIndex() === row.getIndex())); open(); });

  aad.onNewWidth(() => table.redraw(true));

  let waiting = 0;
  byId("search").addEventListener("input", (event) => { clearTimeout(waiting); waiting = setTimeout(() => { state.search = event.target.value.trim().toLowerCase(); filter(); }, 150); });
  byId("task").addEventListener("change", (event) => { state.task = event.target.value; filter(); });
  byId("outcome").addEventListener("change", (event) => { state.outcome = event.target.value; filter(); });
  byId("comparison").addEventListener("change", (event) => {
    state.comparison = Number(event.target.value);
    state.outcome = "";
    rows = rowsOf(choices[state.comparison]);
    outcomes();
    table.replaceData(rows).then(filter);
  });
  byId("controls").addEventListener("submit", (event) => event.preventDefault());

  // ---------------------------------------------------------------- cursor, dialog, keys
  // The cursor is a document, so that it stays with it whatever is sorted or filtered; its place is looked up.
  const active = () => table.getRows("active");
  const place = (all) => all.findIndex((row) => row.getIndex() === state.current);
  const moveTo = (find) => {
    const all = active();
    if (!all.length) return;
    const row = all[Math.max(0, Math.min(all.length - 1, find(place(all))))];
    state.current = row.getIndex();
    document.querySelectorAll("#browser .cursor").forEach((node) => node.classList.remove("cursor"));
    table.scrollToRow(row, "nearest", false).catch(() => {}).then(() => { if (row.getIndex() === state.current) row.getElement().classList.add("cursor"); });
  };
  const dialog = byId("detail");
  const open = () => {
    const all = active();
    const at = place(all);
    if (at < 0) return;
    const doc = data.docs[state.current];
    const choice = choices[state.comparison];
    byId("detail-title").textContent = aad.visible(`${doc.t} · ${doc.i} (${at + 1} of ${all.length})`);
    byId("detail-body").replaceChildren(...aad.detail(data, doc, [choice.candidate, choice.rival], state.search));
    if (!dialog.open) dialog.showModal();
    dialog.scrollTop = 0;
  };
  const step = (by) => { moveTo((at) => at + by); open(); };
  byId("next").addEventListener("click", () => step(1));
  byId("previous").addEventListener("click", () => step(-1));
  byId("close").addEventListener("click", () => dialog.close());
  dialog.addEventListener("close", () => byId("browser").focus());
  dialog.addEventListener("click", (event) => { if (event.target === dialog) dialog.close(); });
  byId("browser").addEventListener("keydown", (event) => {
    const moves = { ArrowDown: 1, ArrowUp: -1, PageDown: 10, PageUp: -10 };
    if (event.key in moves) { event.preventDefault(); moveTo((at) => at + moves[event.key]); }
    else if (event.key === "Home") { event.preventDefault(); moveTo(() => 0); }
    else if (event.key === "End") { event.preventDefault(); moveTo(() => Infinity); }
    else if (event.key === "Enter") { event.preventDefault(); open(); }
  });
  addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || /^(INPUT|SELECT|TEXTAREA)$/.test(event.target.tagName)) return;
    if (dialog.open && (event.key === "j" || event.key === "k")) step(event.key === "j" ? 1 : -1);
    else if (!dialog.open && event.key === "/") { event.preventDefault(); byId("search").focus(); }
  });
})();
