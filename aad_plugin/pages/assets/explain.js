// The page of `aad explain --output FILE.html`.
"use strict";
(() => {
  const data = aad.data();
  const put = (id, ...nodes) => document.getElementById(id).replaceChildren(...nodes);
  const text = (id, value) => { const node = document.getElementById(id); node.dir = "auto"; node.textContent = aad.visible(value); };
  const about = data.pair ? "Why each token, pair " + data.pair : "Why each token";
  document.title = about + ": " + data.prompt.slice(0, 60);
  text("page-title", about);
  text("made", data.made);
  text("settings", data.about);
  put("pictures", ...aad.pictures(data.pictures));
  text("prompt", data.prompt);
  text("answer-title", data.title);
  const tokens = aad.tokens(data.steps);
  put("answer", tokens.node);
  if (data.steps.length) tokens.show(Math.max(0, data.steps.findIndex((row) => row[3] !== 0)));
  if (data.greedy === null) document.getElementById("greedy-side").remove();
  else text("greedy", data.greedy);
  const draw = () => put("reward", aad.rewardChart(data.steps, Math.min(1160, document.getElementById("reward").clientWidth)));
  draw();
  aad.onNewWidth(draw);
  const found = data.steps.map((row, i) => [i, aad.step(row)]).filter(([, s]) => s.favourite !== 0).sort((a, b) => Math.abs(b[1].gain) - Math.abs(a[1].gain));
  const jump = (i) => aad.el("button", { onclick: () => { tokens.show(i); document.querySelector(".token.current").scrollIntoView({ block: "center" }); } }, String(i + 1));
  put("departures", found.length === 0 ? aad.el("p", {}, "None: the answer is the policy’s own greedy choice throughout.") :
    aad.table([["token"], ["chosen"], ["instead of"], ["gain, nats", "number"], ["advantage, nats", "number"], ["π_policy", "number"], ["π_reference", "number"]],
      found.slice(0, 50).map(([i, s]) => [jump(i), aad.el("bdi", {}, aad.quoted(s.text)), aad.el("bdi", {}, aad.quoted(s.favourite)),
        (s.near ? "~ " : "") + aad.signed(s.gain, 3),
        aad.signed(s.advantage, 3), aad.pct(Math.exp(s.logPolicy), 2), aad.pct(Math.exp(s.logPolicy - s.advantage), 2)]), found.some(([, s]) => s.near) ? "~ " + data.near_tie : null, "cards"));
})();
