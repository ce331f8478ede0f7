// Shared by both pages: text as text, and answers coloured by token. Everything from the data goes through textContent.
"use strict";
const aad = {};

aad.data = () => JSON.parse(document.getElementById("data").textContent);

aad.el = (tag, attributes, ...children) => {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes || {})) {
    if (value === null || value === undefined || value === false) continue;
    if (name === "class") node.className = value;
    else if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else node.setAttribute(name, value === true ? "" : value);
  }
  for (const child of children.flat()) if (child !== null && child !== undefined && child !== false) node.append(child);
  return node;
};

// Pictures of a prompt as [data: URL, name]; the browser unpacks one when it comes into view.
aad.pictures = (shown) => shown.map(([src, name]) => aad.el("img", { src: src, alt: name, title: name, class: "shown", loading: "lazy", decoding: "async" }));

// A phone's keyboard and its address bar change the height only, which nothing is drawn anew for.
aad.onNewWidth = (draw) => {
  let [width, pending] = [innerWidth, 0];
  addEventListener("resize", () => { if (innerWidth !== width) { width = innerWidth; clearTimeout(pending); pending = setTimeout(draw, 150); } });
};

// Control characters have no glyph; the code points at U+2400 are their pictures.
aad.visible = (text) => String(text).replace(/[\u0000-\u0008\u000b\u000c\u000e-\u001f\u007f]/g,
  (c) => c === "\u007f" ? "\u2421" : String.fromCharCode(0x2400 + c.charCodeAt(0)));

aad.num = (value, digits = 2) => (value === null || value === undefined || !isFinite(value)) ? "–" : Number(value).toFixed(digits);
aad.pct = (value, digits = 1) => (value === null || value === undefined || !isFinite(value)) ? "–" : (100 * value).toFixed(digits) + " %";
aad.signed = (value, digits = 2) => (value === null || value === undefined || !isFinite(value)) ? "–" : (value > 0 ? "+" : "") + Number(value).toFixed(digits);

// A step is [text, advantage, log_policy, favourite's text or 0, gain, special, plausible: [[text, log_policy, advantage], …], how many,
// departure within one rounding step, and where guides were asked what they add]; a plausible token then has it as a fourth number.
aad.step = (row) => ({ text: row[0], advantage: row[1], logPolicy: row[2], favourite: row[3], gain: row[4], special: row[5],
  plausible: row[6] || [], count: row[7], near: row[8], guide: row[9] });

aad.quoted = (text) => "“" + aad.visible(text).replace(/\n/g, "⏎") + "”";

// A table of class "cards" is a list of labelled values on a phone.
aad.table = (heads, rows, caption, kind) => aad.el("div", { class: "scroll" }, aad.el("table", { class: kind ? "plain " + kind : "plain" },
  caption ? aad.el("caption", { class: "quiet" }, caption) : null,
  aad.el("thead", {}, aad.el("tr", {}, heads.map((h) => aad.el("th", { class: h[1], scope: "col" }, h[0])))),
  aad.el("tbody", {}, rows.map((row) => aad.el("tr", row.attributes || {},
    (row.cells || row).map((cell, i) => aad.el("td", { class: heads[i][1], "data-label": heads[i][0] }, cell)))))));

aad.stepDetail = (step) => {
  const p = (x) => aad.pct(Math.exp(x), 2);
  const chosen = step.plausible.findIndex(([text, logPolicy]) => logPolicy === step.logPolicy && (text === step.text || text.trim() === step.text.trim()));
  const guided = step.guide !== undefined;
  const rows = step.plausible.map(([text, logPolicy, advantage, guide], i) => ({ attributes: i === chosen ? { class: "chosen" } : {},
    cells: [aad.el("span", {}, aad.el("bdi", {}, aad.quoted(text)), i === chosen ? " chosen" : ""), p(logPolicy), p(logPolicy - advantage), aad.signed(advantage, 3), ...(guided ? [aad.signed(guide, 3)] : [])] }));
  const more = step.count > step.plausible.length ? ` (${step.plausible.length} of ${step.count} shown)` : "";
  return [
    aad.el("p", {}, aad.el("bdi", {}, aad.quoted(step.text)), ` advantage ${aad.signed(step.advantage, 3)} nats, π_policy ${p(step.logPolicy)}, π_reference ${p(step.logPolicy - step.advantage)}. `,
      step.favourite === 0 ? "The policy’s own favourite." :
        aad.el("span", {}, "Greedy would have taken ", aad.el("bdi", {}, aad.quoted(step.favourite)), `: gain ${aad.signed(step.gain, 3)} nats.`)),
    rows.length ? aad.table([["plausible token" + more], ["π_policy", "number"], ["π_reference", "number"], ["advantage, nats", "number"], ...(guided ? [["guides", "number"]] : [])], rows) : null,
  ];
};

// Draw an answer coloured by advantage. One tab stop; arrow keys, Home and End walk through the tokens.
aad.tokens = (rows) => {
  const steps = rows.map(aad.step);
  const panel = aad.el("div", { class: "token-detail", "aria-live": "polite" });
  const box = aad.el("div", { class: "tokens", tabindex: "0", role: "listbox", dir: "auto",
    "aria-label": "answer by token; arrow keys move" });
  let current = -1;
  const spans = steps.map((step, i) => {
    const weight = Math.min(1, Math.abs(step.advantage)).toFixed(3);
    const classes = ["token", step.advantage < 0 ? "down" : "", step.favourite === 0 ? "" : "departs", step.special ? "special" : ""];
    const span = aad.el("span", { class: classes.filter(Boolean).join(" "), role: "option", "aria-selected": "false" }, aad.visible(step.text));
    span.style.setProperty("--w", weight);
    span.addEventListener("click", () => show(i));
    return span;
  });
  const show = (i) => {
    if (i < 0 || i >= steps.length) return;
    if (current >= 0) { spans[current].classList.remove("current"); spans[current].setAttribute("aria-selected", "false"); }
    current = i;
    spans[i].classList.add("current");
    spans[i].setAttribute("aria-selected", "true");
    panel.replaceChildren(...aad.stepDetail(steps[i]).filter(Boolean));
  };
  box.addEventListener("keydown", (event) => {
    const moves = { ArrowRight: 1, ArrowLeft: -1, ArrowDown: 1, ArrowUp: -1 };
    let target = null;
    if (event.key in moves) target = Math.max(0, Math.min(steps.length - 1, current + moves[event.key]));
    if (event.key === "Home") target = 0;
    if (event.key === "End") target = steps.length - 1;
    if (target === null) return;
    event.preventDefault();
    show(target);
    spans[target].scrollIntoView({ block: "nearest" });
  });
  box.append(...spans);
  const swatch = (label, weight, extra) => { const s = aad.el("span", { class: "token " + (extra || "") }, label); s.style.setProperty("--w", weight); return s; };
  const legend = aad.el("p", { class: "legend" }, swatch("advantage above 0", 0.7), " ", swatch("below 0", 0.7, "down"), " ",
    swatch("departs from greedy", 0, "departs"), " full colour from 1 nat");
  return { node: aad.el("div", {}, box, legend, panel), show };
};

aad.rewardChart = (rows, width) => {
  let sum = 0;
  const points = rows.map((row, i) => ({ step: i + 1, reward: (sum += row[1]), text: aad.visible(row[0]), departs: row[3] !== 0 }));
  return Plot.plot({
    width, height: 220, marginLeft: 50, ariaLabel: "implicit reward by step", style: { background: "none" },
    x: { label: "token", grid: false }, y: { label: "Σ advantage, nats", grid: true },
    marks: [Plot.ruleY([0]), Plot.lineY(points, { x: "step", y: "reward", stroke: "var(--accent)" }),
      Plot.dot(points.filter((p) => p.departs), { x: "step", y: "reward", fill: "var(--accent)", r: 3 }),
      Plot.tip(points, Plot.pointerX({ x: "step", y: "reward", title: (p) => `${p.step}: ${p.text}\n${aad.signed(p.reward)} nats`, fill: "var(--card)" }))],
  });
};
