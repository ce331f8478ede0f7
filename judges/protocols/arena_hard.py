"""Arena-Hard v0.1 and v2.0: five labels in both orders, strong verdicts count three times, style control.

Upstream's first game shows the baseline first, its second the model first. Source: lmarena/arena-hard-auto, show_result.py
and utils_math.py at a06dde2 (v0.1), show_result.py and utils/math_utils.py at 196f6b8 (v2.0). What the versions do
differently:

    v0.1  a game without verdict is left out; style: difference over sum plus one of each count, standardised; logistic
          regression on Elo's scale with scikit-learn's penalty (C = 1)
    v2.0  a question with a game without verdict is left out; style: see `leagues.style`, standardised; no penalty. Upstream
          prints the median of 100 resamples, here stands the estimate itself
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from aad_plugin.errors import ConfigError
from aad_plugin.judges.leagues.style import FEATURES, Style, differences
from aad_plugin.judges.statistics.arena_points import arena_points
from aad_plugin.judges.statistics.intervals import mean_with_interval

VERSIONS = ("v0.1", "v2.0")
LABELS = {1.0: "A>>B", 0.75: "A>B", 0.5: "A=B", 0.25: "B>A", 0.0: "B>>A"}
"""Label by p(the answer shown first is better)."""
_POINTS = {label: arena_points(p) for p, label in LABELS.items()}


@dataclass(frozen=True, slots=True)
class Judgment:
    """One question on which a model met the baseline.

    Args:
        question: its id. model, baseline: names. labels: of game 1 (the baseline is A) and game 2 (the model is A), one of
            `LABELS`, None without a verdict. replies: the judge's words in either game.
        style_model, style_baseline: how the answers are dressed, for style control.
    """

    question: str
    model: str
    baseline: str
    labels: tuple[str | None, str | None]
    replies: tuple[str, str] = ("", "")
    style_model: Style | None = None
    style_baseline: Style | None = None


@dataclass(frozen=True, slots=True)
class Score:
    """A model's score against the baseline in [0, 1], with our 95 % interval over questions (NaN with style control)."""

    model: str
    value: float
    low: float
    high: float
    questions: int


def labels_of(model_first: float | None, baseline_first: float | None) -> tuple[str | None, str | None]:
    """Labels of upstream's two games.

    Args:
        model_first: p(model better) where it stood first. baseline_first: p(model better) where the baseline did.
    Raises:
        ConfigError: a p that is no label: the verdicts are not of five labels.
    """
    first = None if baseline_first is None else 1 - baseline_first
    return _label(first), _label(model_first)


def _label(p_first: float | None) -> str | None:
    if p_first is None:
        return None
    if p_first not in LABELS:
        raise ConfigError(
            f"Arena-Hard counts five labels, p of 1, 0.75, 0.5, 0.25 or 0; got {p_first!r}: judge with --template "
            "arena_hard"
        )
    return LABELS[p_first]


def points_of(labels: Sequence[str | None], version: str) -> list[float]:
    """The battles of one question as the model's points: 1 won, 1/2 tied, 0 lost; a strong verdict is three battles."""
    if version == "v2.0" and None in labels:
        return []
    points: list[float] = []
    for game, label in enumerate(labels):
        if label is not None:
            points += [value if game == 1 else 1 - value for value in _POINTS[label]]
    return points


def scores_of(judgments: Sequence[Judgment], version: str, style: Sequence[str] = ()) -> list[Score]:
    """Scores of every model, best first.

    Args:
        judgments: of any number of models against one baseline. version: one of `VERSIONS`. style: features to control
            for, from `style.FEATURES`; all models share their effects, as upstream has it.
    Raises:
        ConfigError: an unknown version, several baselines, or style control without counts.
    """
    if version not in VERSIONS:
        raise ConfigError(f"Arena-Hard has the versions {', '.join(VERSIONS)}, got {version!r}")
    if len({one.baseline for one in judgments}) > 1:
        raise ConfigError("Arena-Hard has one baseline; judge every model against the same answers")
    battles = [(one, points) for one in judgments for points in points_of(one.labels, version)]
    models = sorted({one.model for one in judgments})
    if style:
        questions = {m: len({one.question for one, _ in battles if one.model == m}) for m in models}
        # Without a battle nothing is known of a model, which a fit would show as a score of one half.
        met = [m for m in models if questions[m]]
        values = _controlled(battles, met, version, style) if met else {}
        nan = float("nan")
        found = [Score(m, values.get(m, nan), nan, nan, questions[m]) for m in models]
    else:
        found = [_plain(m, [(one, points) for one, points in battles if one.model == m]) for m in models]
    return sorted(found, key=lambda one: (not one.questions, -one.value if one.questions else 0.0, one.model))


def _plain(model: str, battles: Sequence[tuple[Judgment, float]]) -> Score:
    estimate = mean_with_interval([points for _, points in battles], [one.question for one, _ in battles])
    return Score(model, estimate.value, estimate.low, estimate.high, estimate.n)


def _controlled(
    battles: Sequence[tuple[Judgment, float]], models: Sequence[str], version: str, style: Sequence[str]
) -> dict[str, float]:
    if any(one.style_model is None or one.style_baseline is None for one, _ in battles):
        raise ConfigError("style control needs the style of every answer, and some judgments do not hold it")
    columns = [at for at, name in enumerate(FEATURES) if name in style]
    model, base = (
        np.array([[getattr(style_of(one), name) for name in FEATURES] for one, _ in battles], dtype=float)
        for style_of in (lambda one: one.style_model, lambda one: one.style_baseline)
    )
    if version == "v0.1":
        # Upstream's first side is the baseline.
        told = (model - base) / (model + base + 1)
        told = (told - told.mean(axis=0)) / _or_one(told.std(axis=0))
    else:
        told = differences(model, base)
        told = (told - told.mean(axis=0)) / _or_one(told.std(axis=0, ddof=1))
    identity = np.array([[float(one.model == name) for name in models] for one, _ in battles])
    points = np.array([points for _, points in battles])
    if version == "v2.0":
        coefficients = _fitted(np.column_stack([identity, told[:, columns]]), points, 0.0)
        return {name: _share(coefficients[at]) for at, name in enumerate(models)}
    scale = np.log(10)
    # The baseline has a column of its own, which the penalty shrinks like the others, and every battle counts twice.
    sides = np.column_stack([identity * scale, np.full(len(points), -scale), told[:, columns]])
    coefficients = _fitted(sides, points, 1.0, weight=2.0)
    rest = coefficients[len(models)]
    return {name: _share(scale * (coefficients[at] - rest)) for at, name in enumerate(models)}


def _or_one(deviations: np.ndarray) -> np.ndarray:
    return np.where(deviations > 0, deviations, 1.0)


def _fitted(design: np.ndarray, points: np.ndarray, ridge: float, weight: float = 1.0) -> np.ndarray:
    """Coefficients of a logistic regression on points with `ridge` / 2 times their squares as penalty."""
    from scipy.optimize import minimize
    from scipy.special import expit

    def cost(x: np.ndarray) -> tuple[float, np.ndarray]:
        u = design @ x
        value = weight * (np.logaddexp(0, u) - points * u).sum() + ridge / 2 * x @ x
        return float(value), weight * design.T @ (expit(u) - points) + ridge * x

    def curvature(x: np.ndarray) -> np.ndarray:
        chance = expit(design @ x)
        return weight * (design * (chance * (1 - chance))[:, None]).T @ design + (ridge + 1e-9) * np.eye(len(x))

    return minimize(
        cost, np.zeros(design.shape[1]), jac=True, hess=curvature, method="trust-exact", options={"gtol": 1e-8}
    ).x


def _share(log_odds: float) -> float:
    return float(1 / (1 + np.exp(-log_odds)))


def judgment_row(judgment: Judgment, judge: str, version: str, category: str) -> dict[str, Any]:
    """A line of upstream's ``model_judgment/<judge>/<model>.jsonl``."""
    if version == "v0.1":
        games: list[Mapping[str, Any]] = [
            {"user_prompt": "", "judgment": reply, "score": label}
            for label, reply in zip(judgment.labels, judgment.replies, strict=True)
        ]
        return {"question_id": judgment.question, "model": judgment.model, "judge": judge, "games": games}
    games = [
        {"score": label, "judgment": {"answer": reply}, "prompt": []}
        for label, reply in zip(judgment.labels, judgment.replies, strict=True)
    ]
    return {
        "uid": judgment.question, "category": category, "judge": judge, "model": judgment.model,
        "baseline": judgment.baseline, "games": games,
    }  # fmt: skip


def answer_row(question: str, prompt: str, model: str, text: str, style: Style, version: str) -> dict[str, Any]:
    """A line of upstream's ``model_answer/<model>.jsonl``, with the counts that its style control reads."""
    counts = {
        "token_len": round(style.length),
        "header_count": {"h1": style.headers},
        "list_count": {"unordered": style.lists},
        "bold_count": {"**": style.bold},
    }
    if version == "v0.1":
        turn = {"content": text, "token_len": round(style.length)}
        return {
            "question_id": question, "answer_id": question, "model_id": model,
            "choices": [{"index": 0, "turns": [turn]}], "conv_metadata": counts,
        }  # fmt: skip
    messages = [{"role": "user", "content": prompt}, {"role": "assistant", "content": {"answer": text}}]
    return {"uid": question, "ans_id": question, "model": model, "messages": messages, "metadata": counts}
