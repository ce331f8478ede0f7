"""A protocol's run: which items it asks about, what upstream's scorer reads, and the protocol's own figures."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from aad_plugin.errors import ConfigError, JudgeError, nearest
from aad_plugin.files.append_log import AppendLog
from aad_plugin.files.whole import replacing, without_nan
from aad_plugin.judges.items import Answer, Comparison, Item, Verdict
from aad_plugin.judges.leagues.schedule import Meeting, style_of_reply
from aad_plugin.judges.protocols import alpaca_eval_2, arena_hard, mt_bench
from aad_plugin.judges.statistics.length_control import length_controlled
from aad_plugin.texts.messages import as_messages
from aad_plugin.texts.thinking import shown_text

PROTOCOLS = {
    "arena-hard-v0.1": "arena_hard",
    "arena-hard-v2.0": "arena_hard",
    "mt-bench-single": "grade",
    "mt-bench-pairwise": "multiturn",
    "alpaca-eval-2": "dialogue",
}
"""Protocol -> the template its judge is asked by, unless another is named."""
CATEGORY = "hard_prompt"
Told = Mapping[str, tuple[float | None, str]]
"""Ruling's key -> (p(the text shown first is better) or the grade, the judge's words)."""


def template_of(protocol: str) -> str:
    """The protocol's template.

    Raises:
        ConfigError: no such protocol.
    """
    if protocol not in PROTOCOLS:
        raise ConfigError(f"the protocols are {', '.join(PROTOCOLS)}, got {protocol!r}{nearest(protocol, PROTOCOLS)}")
    return PROTOCOLS[protocol]


def kind_of(protocol: str) -> str:
    """ "pairwise" or "pointwise"."""
    return "pointwise" if protocol == "mt-bench-single" else "pairwise"


def items_of(protocol: str, items: Sequence[Item]) -> list[Item]:
    """The items a judge is asked about: MT-Bench asks about either turn."""
    return mt_bench.turns_of(items) if protocol.startswith("mt-bench") else list(items)


def told_of(folder: str | Path) -> Told:
    """What the judge said in every ruling of a store, the newest with a value first."""
    found: dict[str, tuple[float | None, str]] = {}
    for row in AppendLog(Path(folder) / "store.jsonl").entries():
        if row.get("type") != "ruling" or not isinstance(row.get("key"), str):
            continue
        value = row.get("p", row.get("grade"))
        if value is not None or row["key"] not in found:
            found[row["key"]] = (value, str(row.get("reply", "")))
    return found


def write_protocol(
    protocol: str,
    output: Path,
    meetings: Sequence[Meeting],
    verdicts: Sequence[Verdict],
    *,
    model: str,
    baseline: str = "",
    judge: str,
    style: Sequence[str] = (),
) -> dict[str, Any]:
    """Write upstream's files under ``OUTPUT/<protocol>/`` and the figures to ``OUTPUT/protocol.json``; return these.

    Args:
        meetings: what was judged, one per verdict, `a` the model and `b` the baseline; for MT-Bench by turn. Of a pointwise
            protocol `comparison` holds the answer twice.
        verdicts: in the same order. model, baseline, judge: names for the files. style: to control for (Arena-Hard).
    Raises:
        ConfigError: verdicts that are not the protocol's. JudgeError: the disk is full.
    """
    folder, name = output / protocol, _file_name(judge)
    told = told_of(output)
    if protocol.startswith("arena-hard"):
        files, figures = _arena_hard(protocol.removeprefix("arena-hard-"), name, meetings, verdicts, told, style)
    elif protocol.startswith("mt-bench"):
        files, figures = _mt_bench(protocol, name, meetings, verdicts, told, model, baseline)
    else:
        files, figures = _alpaca_eval(meetings, verdicts, model, baseline)
    for path, rows in files.items():
        text = json.dumps(rows, indent=1) if path.endswith(".json") else "".join(json.dumps(r) + "\n" for r in rows)
        _write(folder / path, text)
    figures = without_nan({"protocol": protocol, "judge": judge, "style": list(style), **figures})
    _write(output / "protocol.json", json.dumps(figures, indent=2) + "\n")
    return figures


Files = dict[str, list[dict[str, Any]]]


def _arena_hard(
    version: str,
    judge: str,
    meetings: Sequence[Meeting],
    verdicts: Sequence[Verdict],
    told: Told,
    style: Sequence[str],
) -> tuple[Files, dict[str, Any]]:
    bench = f"data/arena-hard-{version}"
    judgments = []
    answers: dict[str, dict[str, dict[str, Any]]] = {}
    for one, verdict in zip(meetings, verdicts, strict=True):
        labels, replies = _games(verdict, told)
        question = verdict.prompt
        judgments.append(arena_hard.Judgment(question, one.a, one.b, labels, replies, *one.styles))
        sides = zip((one.a, one.b), (one.comparison.candidate, one.comparison.baseline), one.styles, strict=True)
        prompt = as_messages(one.comparison.prompt)[-1]["content"]
        for name, text, dress in sides:
            row = arena_hard.answer_row(question, prompt, name, shown_text(text), dress, version)
            answers.setdefault(name, {})[question] = row
    files: Files = {
        f"{bench}/model_answer/{_file_name(name)}.jsonl": list(rows.values()) for name, rows in answers.items()
    }
    for name in dict.fromkeys(one.model for one in judgments):
        rows = [arena_hard.judgment_row(one, judge, version, CATEGORY) for one in judgments if one.model == name]
        files[f"{bench}/model_judgment/{judge}/{_file_name(name)}.jsonl"] = rows
    scores = arena_hard.scores_of(judgments, version, style)
    return files, {"scores": [asdict(score) for score in scores], "questions": len({one.question for one in judgments})}


def _games(verdict: Verdict, told: Told) -> tuple[tuple[str | None, str | None], tuple[str, str]]:
    """Labels and words of upstream's two games; identical answers tie without a game."""
    if not verdict.rulings:
        return (("A=B", "A=B") if verdict.judged else (None, None)), ("", "")
    model_first, baseline_first = (told.get(key, (None, "")) for key in verdict.rulings[:2])
    second = None if baseline_first[0] is None else 1 - baseline_first[0]
    return arena_hard.labels_of(model_first[0], second), (baseline_first[1], model_first[1])


def _mt_bench(
    protocol: str,
    judge: str,
    meetings: Sequence[Meeting],
    verdicts: Sequence[Verdict],
    told: Told,
    model: str,
    baseline: str,
) -> tuple[Files, dict[str, Any]]:
    numbers: dict[str, int] = {}
    grades, pairs = [], []
    for one, verdict in zip(meetings, verdicts, strict=True):
        item, _, turn = one.comparison.id.rpartition("-")
        number = numbers.setdefault(item, len(numbers) + 1)
        said = [told.get(key, (None, "")) for key in verdict.rulings]
        if protocol == "mt-bench-single":
            grades.append(mt_bench.Grade(number, model, int(turn), verdict.grade, said[0][1] if said else ""))
            continue
        orders: Sequence[float | None] = [said[0][0], None if said[1][0] is None else 1 - said[1][0]] if said else []
        if not said and verdict.judged:  # identical answers
            orders = [0.5, 0.5]
        words = (said[0][1], said[1][1]) if said else ("", "")
        pairs.append(mt_bench.Pair.of_orders(number, (one.a, one.b), int(turn), orders, words))
    bench = "data/mt_bench/model_judgment"
    if protocol == "mt-bench-single":
        rows = [mt_bench.grade_row(grade, judge, "grade") for grade in grades]
        return {f"{bench}/{judge}_single.jsonl": rows}, {"scores": mt_bench.graded_scores(grades)}
    rows = [mt_bench.pair_row(pair, judge, "pairwise") for pair in pairs]
    return {f"{bench}/{judge}_pair.jsonl": rows}, {"scores": mt_bench.paired_scores(pairs)}


def _alpaca_eval(
    meetings: Sequence[Meeting], verdicts: Sequence[Verdict], model: str, baseline: str
) -> tuple[Files, dict[str, Any]]:
    rows = [
        alpaca_eval_2.annotation_row(one.comparison, verdict, model, baseline, verdict.template)
        for one, verdict in zip(meetings, verdicts, strict=True)
    ]
    outputs = {
        name: [
            {"dataset": "", "instruction": row["instruction"], "output": row[key], "generator": name} for row in rows
        ]
        for name, key in ((model, "output_2"), (baseline, "output_1"))
    }
    judged = [v for v in verdicts if v.p is not None]
    controlled = length_controlled(
        [v.p or 0.0 for v in judged], [v.candidate_length for v in judged], [v.baseline_length for v in judged], None,
        [v.prompt for v in judged],
    )  # fmt: skip
    figures = alpaca_eval_2.winrate_figures([v.p for v in verdicts])
    figures |= {"length_controlled_winrate": 100 * controlled.value, "length_control": controlled.method}
    files = {
        "annotations.json": rows,
        "model_outputs.json": outputs[model],
        "reference_outputs.json": outputs[baseline],
    }
    return files, {"scores": {model: figures}}


def meeting_of(item: Item, a: str, b: str) -> Meeting:
    """An item as a meeting, its answers' dress counted; a single answer stands on both sides."""
    one = Comparison(item.id, item.prompt, item.text, item.text) if isinstance(item, Answer) else item
    return Meeting(a, b, one, (style_of_reply(one.candidate), style_of_reply(one.baseline)))


def _file_name(name: str) -> str:
    """A name that can be a file's."""
    return "".join(letter if letter.isalnum() or letter in "-_. " else "-" for letter in name)


def _write(path: Path, text: str) -> None:
    try:
        with replacing(path) as part:
            part.write_text(text, encoding="utf-8")
    except OSError as error:
        raise JudgeError(f"cannot write {path}: {error.strerror or error}; all rulings are kept") from error
