"""Runs as lm-eval and this package write them, with planted contents; small stand-ins for hours of decoding."""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from aad_plugin.judges.items import Verdict
from aad_plugin.judges.statistics.results import write_results
from aad_plugin.judges.statistics.summary import summarize
from aad_plugin.texts.messages import prompt_hash

NASTY = {
    "script": "<script>window.hacked = 1</script>",
    "end": "</script><img src=x onerror='window.hacked = 2'>",
    "braces": "{{ 7 * 7 }} {% raw %} ${window.hacked = 3}",
    "rtl": "left \u202e right to left \u202c \u200f\u05d0\u05d1 end",
    "emoji": "👩‍👩‍👧 🏳️‍🌈 \U0001f600",
    "line": "x" * 100_000,
    "nul": "before\x00after \x1b[31m \ud800",
    "comment": "<!-- <script> --> ]]> &lt;b&gt; \u2028 \u2029",
}


def sha(text: str) -> str:
    """What lm-eval hashes documents and prompts with."""
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def write_run(
    folder: Path,
    answers: Sequence[Mapping[str, str]],
    *,
    task: str = "planted",
    seed: int = 0,
    dtype: str = "torch.bfloat16",
    version: float = 1.0,
    judge: str = "openai:planted",
    p_of: Callable[[random.Random, int], float] | None = None,
    labels: Sequence[Mapping[str, float]] | None = None,
    prompts: Sequence[str] | None = None,
    direction: Mapping[str, bool] | None = None,
    stamp: str = "2026-11-20T10-00-00.000000",
) -> Path:
    """Write results, samples and (with `p_of`) a judged run of every name after the first as a rival.

    Args:
        answers: per document, name -> text. labels: per document, metric -> value.
        p_of: draws p(first name better) of a document.
    """
    rng = random.Random(seed)
    out = folder / "out" / "model"
    out.mkdir(parents=True)
    prompts = prompts or [f"Question {i}: what is {i} plus {i}?" for i in range(len(answers))]
    names = list(answers[0])
    rows = [
        _sample(i, prompt, one, labels[i] if labels else {})
        for i, (prompt, one) in enumerate(zip(prompts, answers, strict=True))
    ]
    lines = "".join(json.dumps(row, ensure_ascii=True) + "\n" for row in rows)
    (out / f"samples_{task}_{stamp}.jsonl").write_text(lines)
    (out / f"results_{stamp}.json").write_text(json.dumps(_results(task, rows, dtype, version, direction or {})))
    if p_of is not None:
        for rival in names[1:]:
            _judge(folder / "judged" / task / stamp, rows, rival, judge, p_of, rng)
    return folder


def write_stock_run(
    folder: Path,
    questions: Sequence[str],
    requests: Sequence[Sequence[Sequence[Any]]],
    values: Sequence[float],
    *,
    task: str = "stock",
    stamp: str = "2026-11-20T10-00-00.000000",
    is_logged: bool = True,
) -> Path:
    """Write results and samples as a stock task leaves them, with the metric acc.

    Args:
        questions: each document's field of that name. requests: per document the arguments of its requests.
        is_logged: whether samples are written, as with --log_samples.
    """
    folder.mkdir(parents=True, exist_ok=True)
    rows = [
        {
            "doc_id": i,
            "doc": {"id": str(i), "question": question},
            "target": "",
            "arguments": {
                f"gen_args_{n}": {f"arg_{m}": value for m, value in enumerate(arguments)}
                for n, arguments in enumerate(asked)
            },
            "resps": [["yes"]] * len(asked),
            "filtered_resps": ["yes"] * len(asked),
            "filter": "none",
            "metrics": ["acc"],
            "doc_hash": sha(f"{question} {i}"),
            "prompt_hash": sha(asked[0][0]),
            "target_hash": sha(""),
            "acc": value,
        }
        for i, (question, asked, value) in enumerate(zip(questions, requests, values, strict=True))
    ]
    results = _results(task, rows, "torch.bfloat16", 1.0, {"acc": True})
    results["results"][task]["acc,none"] = sum(values) / len(values)
    (folder / f"results_{stamp}.json").write_text(json.dumps(results))
    if is_logged:
        lines = "".join(json.dumps(row) + "\n" for row in rows)
        (folder / f"samples_{task}_{stamp}.jsonl").write_text(lines)
    return folder


def _sample(number: int, prompt: str, answers: Mapping[str, str], labels: Mapping[str, float]) -> dict[str, Any]:
    rendered = f"<user>{prompt}<assistant>"
    doc = {"id": f"doc-{number:05}", "prompt": prompt}
    judged = {
        "id": doc["id"],
        "prompt": prompt,
        "answers": {name: [text] for name, text in answers.items()},
        "truncated": dict.fromkeys(answers, False),
    }
    lengths = {f"length_{name}": len(text) for name, text in answers.items()}
    return {
        "doc_id": number,
        "doc": doc,
        "target": "",
        "arguments": {
            f"gen_args_{i}": {"arg_0": rendered, "arg_1": {"until": [], "strategy": name}}
            for i, name in enumerate(answers)
        },
        "resps": [[text] for text in answers.values()],
        "filtered_resps": list(answers.values()),
        "filter": "none",
        "metrics": ["judged", *lengths, *labels],
        "doc_hash": sha(json.dumps(doc)),
        "prompt_hash": sha(rendered),
        "target_hash": sha(""),
        "judged": judged,
        **lengths,
        **labels,
    }


def _results(
    task: str, rows: Sequence[Mapping[str, Any]], dtype: str, version: float, direction: Mapping[str, bool]
) -> Any:
    figures: dict[str, Any] = {"alias": task, "sample_len": len(rows)}
    for name in rows[0]["metrics"][1:]:
        values = [row[name] for row in rows]
        figures[f"{name},none"] = sum(values) / len(values)
        figures[f"{name}_stderr,none"] = 0.01
    return {
        "results": {task: figures},
        "versions": {task: version},
        "n-shot": {task: 0},
        "higher_is_better": {task: dict(direction)},
        "config": {"model": "aad", "model_dtype": dtype, "aad": {"pair": "planted", "dtype": {"policy": dtype}}},
        "model_name": "planted",
        "date": 0,
    }


def _judge(folder: Path, rows: Sequence[Any], rival: str, judge: str, p_of: Any, rng: random.Random) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    lines = []
    verdicts, store = [], [{"type": "store", "format": 1, "id": "x"}]
    for number, row in enumerate(rows):
        judged = row["judged"]
        outputs = {name: texts[0] for name, texts in judged["answers"].items()}
        lines.append(
            {"id": judged["id"], "prompt": judged["prompt"], "outputs": outputs, "truncated": judged["truncated"]}
        )
        p = p_of(rng, number)
        orders = (p, p) if number % 7 else (min(1.0, p + 0.6), max(0.0, p - 0.6))
        keys = (f"{rival}{number}-1", f"{rival}{number}-2")
        verdicts.append(
            Verdict(
                id=judged["id"], prompt=judged["id"], judge=judge, judge_fingerprint=sha(judge), template="t1",
                p=None if number % 50 == 49 else sum(orders) / 2, orders=() if number % 50 == 49 else orders,
                reason="refused" if number % 50 == 49 else None, rulings=keys,
                prompt_tokens=100, completion_tokens=5, cost=0.001,
            )
        )  # fmt: skip
        for key, value in zip(keys, (orders[0], 1 - orders[1]), strict=True):
            store.append(
                {
                    "type": "ruling",
                    "key": key,
                    "p": value,
                    "reply": f"The answer shown first is better at {key}",
                    "model": "m-1",
                }
            )
    (folder / "answers.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    inner = folder / f"vs_{rival}"
    write_results(inner, verdicts, summarize(verdicts, resamples=99).to_json())
    (inner / "store.jsonl").write_text("".join(json.dumps(line) + "\n" for line in store))


def texts(number: int, length: int, seed: int = 0) -> list[dict[str, str]]:
    """Answers of about so many characters by two names."""
    rng = random.Random(seed)
    words = "bread water slow river morning answer because often seven garden letter window quiet number stone".split()

    def text() -> str:
        made = ""
        while len(made) < length:
            made += rng.choice(words) + " "
        return made[:length]

    return [{"aad": text(), "greedy": text()} for _ in range(number)]


def prompt_key(prompt: str) -> str:
    """What `aad judge` puts into a verdict."""
    return prompt_hash(prompt)
