"""Planted verdicts for every rule of the official protocols, written as upstream's files."""

from __future__ import annotations

import json
from collections.abc import Mapping
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np

from aad_plugin.judges.leagues.style import Style
from aad_plugin.judges.protocols import arena_hard, mt_bench

BASELINE, JUDGE = "base", "planted-judge"
LABELS = [*arena_hard.LABELS.values(), None]


def arena_judgments(models: int = 3, questions: int = 150, seed: int = 0) -> list[arena_hard.Judgment]:
    """Every pair of labels at least once, missing ones included; strength differs by model and depends on length."""
    dice = np.random.default_rng(seed)
    bases = [_style(dice, 1.0) for _ in range(questions)]
    found = []
    for number in range(models):
        name = f"model-{number}"
        for question in range(questions):
            own = _style(dice, 0.7 + 0.5 * number)
            lean = 0.5 * (number - 1) + 0.8 * (own.length - bases[question].length) / (
                own.length + bases[question].length
            )
            pair = [_drawn(dice, lean * side) for side in (-1, 1)]  # game 1 shows the baseline first
            found.append(
                arena_hard.Judgment(f"q{question}", name, BASELINE, (pair[0], pair[1]), ("", ""), own, bases[question])
            )
    rules = list(product(LABELS, LABELS))
    for at, labels in enumerate(rules):
        one = found[at]
        found[at] = arena_hard.Judgment(
            one.question, one.model, BASELINE, labels, ("", ""), one.style_model, one.style_baseline
        )
    return found


def _style(dice: np.random.Generator, scale: float) -> Style:
    length = int(50 + 400 * scale * dice.random())
    return Style(length, *(int(dice.poisson(length * rate)) for rate in (0.01, 0.03, 0.02)))


def _drawn(dice: np.random.Generator, lean: float) -> str:
    """A label for the first answer, by five thresholds of a logistic draw."""
    value = lean + dice.logistic()
    return list(arena_hard.LABELS.values())[int(np.searchsorted([-1.5, -0.3, 0.3, 1.5], -value))]


def write_arena(folder: Path, judgments: list[arena_hard.Judgment], version: str) -> None:
    """Upstream's ``data/arena-hard-<version>`` under `folder`."""
    bench = folder / "data" / f"arena-hard-{version}"
    for model in sorted({one.model for one in judgments}):
        own = [one for one in judgments if one.model == model]
        rows = [arena_hard.judgment_row(one, JUDGE, version, "hard_prompt") for one in own]
        _write(bench / "model_judgment" / JUDGE / f"{model}.jsonl", rows)
        _answers(bench, model, {one.question: one.style_model for one in own}, version)
    _answers(bench, BASELINE, {one.question: one.style_baseline for one in judgments}, version)


def _answers(bench: Path, model: str, styles: Mapping[str, Any], version: str) -> None:
    rows = [arena_hard.answer_row(q, "Why?", model, "Because.", style, version) for q, style in styles.items()]
    _write(bench / "model_answer" / f"{model}.jsonl", rows)


def grades(seed: int = 0) -> list[mt_bench.Grade]:
    """Two models, 80 questions, two turns; some grades are missing, and not in pairs."""
    dice = np.random.default_rng(seed)
    return [
        mt_bench.Grade(question, model, turn, None if dice.random() < 0.05 else float(dice.integers(low, 11)))
        for model, low in (("good", 5), ("bad", 1))
        for question in range(81, 161)
        for turn in (1, 2)
    ]


def pairs(seed: int = 0) -> list[mt_bench.Pair]:
    """Three models against each other; every pair of winners, errors included."""
    dice = np.random.default_rng(seed)
    winners = ["model_1", "model_2", "tie", "error"]
    rules = [(one, two) for one in winners for two in winners]
    found = []
    for models in (("a", "b"), ("a", "c"), ("b", "c")):
        for question in range(81, 121):
            for turn in (1, 2):
                at = int(dice.integers(len(rules))) if question >= 89 else (2 * (question - 81) + turn - 1)
                found.append(mt_bench.Pair(question, *models, turn, rules[at]))
    return found


def _write(path: Path, rows: list[dict]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
