// One document opened: prompt, answers side by side, verdicts with the judge's words, tokens where there is a trace.
"use strict";

aad.TRUNCATED = 1; aad.REFUSES = 2; aad.DEGENERATE = 4;

// Text with the searched words marked; text nodes and <mark> only.
aad.marked = (text, search) => {
  const shown = aad.visible(text);
  if (!search) return [document.createTextNode(shown)];
  const low = shown.toLowerCase();
  const parts = [];
  let from = 0;
  // Lower case may be longer than the text in some scripts; marks would then be off, so there are none.
  for (let at = low.length === shown.length ? low.indexOf(search) : -1; at >= 0 && parts.length < 400; at = low.indexOf(search, from)) {
    parts.push(document.createTextNode(shown.slice(from, at)), aad.el("mark", {}, shown.slice(at, at + search.length)));
    from = at + search.length;
  }
  parts.push(document.createTextNode(shown.slice(from)));
  return parts;
};

aad.textBox = (text, search) => aad.el("div", { class: "text", dir: "auto", tabindex: "0" }, aad.marked(text, search));

// A document's pictures; −1 is one that the page had no room for.
aad.shownBox = (data, places) => {
  const missing = places.filter((place) => place < 0).length;
  return aad.el("div", { class: "pictures" }, aad.pictures(places.filter((place) => place >= 0).map((place) => data.pictures[place])),
    missing ? aad.el("p", { class: "quiet" }, `${missing} more picture${missing > 1 ? "s" : ""}: the page has no room for all (${data.unshown} are left out)`) : null);
};

aad.answerCard = (data, answer, search) => {
  const [run, name, text, flags, trace] = answer;
  const body = aad.el("div", {}, aad.textBox(text, search));
  const notes = [`${text.length.toLocaleString("en")} characters`];
  const head = aad.el("header", {}, aad.el("h3", { dir: "auto" }, aad.visible(data.runs.length > 1 ? `${name} · ${data.runs[run].name}` : name)), aad.el("span", { class: "quiet" },
    notes.join(", "), flags & aad.TRUNCATED ? aad.el("span", { class: "flag" }, "truncated") : null, flags & aad.REFUSES ? aad.el("span", { class: "flag" }, "refuses") : null,
    flags & aad.DEGENERATE ? aad.el("span", { class: "flag" }, "repeats itself") : null));
  if (trace >= 0) {
    const button = aad.el("button", { type: "button", "aria-pressed": "false", class: "by-token", onclick: () => {
      const on = button.getAttribute("aria-pressed") !== "true";
      button.setAttribute("aria-pressed", String(on));
      body.style.minHeight = body.offsetHeight + "px"; // what stands below does not jump
      body.replaceChildren(on ? aad.tokens(JSON.parse(data.traces[trace])).node : aad.textBox(text, search));
    } }, "by token");
    head.append(button);
  }
  return aad.el("article", { class: "answer" }, head, body);
};

aad.said = (words, i) => aad.el("details", { open: words.length <= 2 && words[0][0].length < 600 },
  aad.el("summary", {}, i < 2 ? ["candidate shown first", "candidate shown second"][i] : `reply ${i + 1}`),
  ...words.slice(i, i + 1).map(([text, p, reason, model]) => aad.el("div", {}, aad.el("p", { class: "quiet" }, aad.label(model && aad.visible(model),
    p === null ? null : `p(first is better) ${aad.num(p, 3)}`, reason)), text ? aad.el("div", { class: "words", dir: "auto" }, aad.visible(text)) : null)));

aad.verdictBlock = (data, verdict) => {
  const c = data.comparisons[verdict.c];
  const about = c.rival ? `${c.candidate} vs ${c.rival}` : c.candidate;
  const found = verdict.r ? `no verdict: ${verdict.r}${verdict.d ? ", " + verdict.d : ""}` :
    verdict.l !== undefined ? String(verdict.l) : `p(${c.candidate} better) = ${aad.num(verdict.p, 3)}`;
  const orders = (verdict.o || []).length === 2 ? ` (shown first ${aad.num(verdict.o[0], 3)}, second ${aad.num(verdict.o[1], 3)}${aad.inconsistent(verdict) ? ": the orders contradict each other" : ""})` : "";
  return aad.el("div", { class: "verdict" }, aad.el("p", {}, aad.el("b", { dir: "auto" }, aad.visible(aad.label(data.runs.length > 1 ? c.run : null, about, verdict.n && `turn ${verdict.n}`))),
    `: ${aad.visible(found)}${orders} `, aad.el("span", { class: "quiet" }, aad.visible(c.judge))),
    ...(verdict.w || []).map((_, i) => aad.said(verdict.w, i)));
};

aad.inconsistent = (verdict) => (verdict.o || []).length === 2 && (verdict.o[0] - 0.5) * (verdict.o[1] - 0.5) < 0;

aad.detail = (data, doc, names, search) => {
  const order = (answer) => { const at = names.indexOf(answer[1]); return at < 0 ? names.length : at; };
  const answers = [...doc.a].sort((a, b) => order(a) - order(b) || a[0] - b[0]);
  return [
    aad.el("h3", {}, "Prompt"), doc.s ? aad.shownBox(data, doc.s) : null, aad.textBox(doc.p, search),
    doc.g ? aad.el("p", { class: "quiet", dir: "auto" }, "target: " + aad.visible(doc.g)) : null,
    aad.el("div", { class: "sides" }, answers.map((answer) => aad.answerCard(data, answer, search))),
    doc.v.length ? aad.el("h3", {}, "Verdicts") : null, ...doc.v.map((verdict) => aad.verdictBlock(data, verdict)),
    doc.m.length ? aad.el("h3", {}, "Metrics") : null,
    doc.m.length ? aad.table([["metric"], ["value", "number"], ...(data.runs.length > 1 ? [["run"]] : [])],
      doc.m.map(([run, name, value]) => [aad.visible(name), aad.num(value, 3), ...(data.runs.length > 1 ? [aad.visible(data.runs[run].name)] : [])])) : null,
  ].filter(Boolean);
};
