"""Human verdicts for some items: how far the judge agrees with them, and the win rate they correct.

A label file is JSON lines with the item's prompt (or, without a prompt, its "id") and "label": for comparisons
"candidate", "baseline", "tie" or a number in 0..1; for single answers one of the template's labels, or a grade.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from aad_plugin.judges.items import Verdict
from aad_plugin.judges.statistics.intervals import CONFIDENCE, bootstrap_interval, mean_with_interval


def label_figures(
    verdicts: Sequence[Verdict], labels: Mapping[str, Any], resamples: int = 9999, seed: int = 0
) -> dict[str, Any]:
    """Agreement with human labels and, for comparisons, the corrected win rate; see the functions below."""
    judged = [v for v in verdicts if v.judged]
    labelled = [v for v in judged if v.id in labels]
    if not labelled:
        return {"num_labelled": 0}
    if labelled[0].p is None:
        machine = [str(v.label if v.label is not None else v.grade) for v in labelled]
        human = [str(labels[v.id]) for v in labelled]
        return agreement_figures(machine, human, resamples, seed, list(map(_cluster, labelled)))
    sides = {1.0: "candidate", 0.0: "tie", -1.0: "baseline"}
    machine = [sides[float(np.sign((v.p or 0.0) - 0.5))] for v in labelled]
    human = [sides[float(np.sign(labels[v.id] - 0.5))] for v in labelled]
    truth = {v.id: float(labels[v.id]) for v in labelled}
    agreement = agreement_figures(machine, human, resamples, seed, list(map(_cluster, labelled)))
    return agreement | corrected_win_rate(judged, truth)


def _cluster(verdict: Verdict) -> str:
    """What items of one prompt share."""
    return verdict.prompt or verdict.id


def agreement_figures(
    machine: Sequence[str],
    human: Sequence[str],
    resamples: int = 9999,
    seed: int = 0,
    prompts: Sequence[str] | None = None,
) -> dict[str, Any]:
    """Share of equal labels with its 95 % interval (Clopper-Pearson), and Cohen's kappa with a bootstrap interval.

    `prompts` tells which labels belong together; the share's interval counts prompts then, kappa's still labels.

    kappa is NaN where both sides use one and the same label throughout. Where all labels are equal, every resample is, too:
    its lower bound is then what the share's makes of it. Its usual interval from an asymptotic standard
    error covers 87 % instead of 95 for 50 labels of which 90 % agree.
    """
    names = sorted({*machine, *human})
    said = np.array([names.index(name) for name in machine])
    truth = np.array([names.index(name) for name in human])
    equal = int((said == truth).sum())
    share = mean_with_interval(said == truth, prompts)
    figures = {"num_labelled": len(truth), "agreement": share.value, "agreement_ci95": [share.low, share.high]}
    if len(names) == 1:
        return figures | {"kappa": float("nan"), "kappa_ci95": [float("nan")] * 2}

    def kappa(one: np.ndarray, two: np.ndarray, axis: int = -1) -> np.ndarray:
        observed = (one == two).mean(axis=axis)
        chance = sum((one == name).mean(axis=axis) * (two == name).mean(axis=axis) for name in range(len(names)))
        # A resample of one label throughout has no kappa; it agrees fully.
        return np.where(chance < 1, (observed - chance) / np.where(chance < 1, 1 - chance, 1), 1.0)

    value = float(kappa(said, truth))
    if equal < len(truth):
        bounds = bootstrap_interval((said, truth), kappa, resamples=resamples, seed=seed)
    else:
        chance = sum(float((truth == name).mean()) ** 2 for name in range(len(names)))
        bounds = ((share.low - chance) / (1 - chance), value)
    return figures | {"kappa": value, "kappa_ci95": list(bounds)}


def corrected_win_rate(judged: Sequence[Verdict], truth: Mapping[str, float]) -> dict[str, Any]:
    """Win rate by humans, estimated from few human labels and many verdicts (prediction-powered inference).

    Labelled items show how far the judge is off on average; the win rate over the others is corrected by that. The
    weight given to the judge is the one of least variance, so a useless judge costs nothing against the labels alone.
    Source: Angelopoulos, Duchi & Zrnic 2023, "PPI++", arXiv 2311.01453, section 6. The labelled items must be a random
    subset.

    Returns:
        corrected_win_rate with corrected_standard_error and corrected_ci95 (t quantile on the logit scale, exact at the
        borders), judge_weight in 0..1.
    """
    p = np.array([v.p for v in judged if v.id in truth], dtype=float)
    y = np.array([truth[v.id] for v in judged if v.id in truth], dtype=float)
    others = np.array([v.p for v in judged if v.id not in truth], dtype=float)
    own = [_cluster(v) for v in judged if v.id in truth]
    theirs = [_cluster(v) for v in judged if v.id not in truth]
    num, rest = len(p), len(others)
    alone = mean_with_interval(y, own)
    if num < 3 or rest < 2 or p.std() == 0 or y.std() == 0:
        weight, value, error = 0.0, alone.value, alone.standard_error
    else:
        everything = np.concatenate([p, others])
        weight = float(np.cov(p, y)[0, 1] / everything.var(ddof=1) / (1 + num / rest))
        weight = min(max(weight, 0.0), 1.0)
        value = float(weight * others.mean() + (y - weight * p).mean())
        error = _error_of_sum((y - weight * p, own), (weight * others, theirs))
    value = min(max(value, 0.0), 1.0)  # a correction may reach beyond what a share can be
    low, high = _logit_interval(value, error, len(set(own))) if weight else (alone.low, alone.high)
    low, high = min(low, value), max(high, value)
    return {
        "corrected_win_rate": value,
        "corrected_standard_error": error,
        "corrected_ci95": [low, high],
        "judge_weight": weight,
    }


def _error_of_sum(*parts: tuple[np.ndarray, Sequence[str]]) -> float:
    """Standard error of the sum of several means, items of one prompt moving together; of prompts that come once it is the
    usual one.

    Args:
        parts: per mean its values and what tells their prompts.
    """
    moves: list[dict[str, float]] = []
    for values, prompts in parts:
        own: dict[str, float] = {}
        for prompt, residual in zip(prompts, (values - values.mean()) / len(values), strict=True):
            own[prompt] = own.get(prompt, 0.0) + float(residual)
        moves.append(own)
    alone = sum(sum(move**2 for move in own.values()) * len(own) / max(1, len(own) - 1) for own in moves)
    together = 2 * sum(moves[0].get(prompt, 0.0) * move for own in moves[1:] for prompt, move in own.items())
    return float(max(0.0, alone + together) ** 0.5)


def _logit_interval(value: float, error: float, num: int) -> tuple[float, float]:
    from scipy import stats

    inside = min(max(value, 0.5 / num), 1 - 0.5 / num)
    half = stats.t.ppf((1 + CONFIDENCE) / 2, num - 1) * error / (inside * (1 - inside))
    centre = np.log(inside / (1 - inside))
    return tuple(float(1 / (1 + np.exp(-bound))) for bound in (centre - half, centre + half))  # type: ignore[return-value]
