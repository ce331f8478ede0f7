"""Verdict first or reasons first? Each way is measured on the same labelled comparisons before one is chosen."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from aad_plugin.errors import ConfigError
from aad_plugin.judges.asking.wording import REASONS_PLACES
from aad_plugin.judges.checks.items import load_items
from aad_plugin.judges.checks.labels import read_labelled
from aad_plugin.judges.items import Comparison, Verdict
from aad_plugin.judges.sitting.judge import Judge
from aad_plugin.judges.sitting.judging import compare
from aad_plugin.judges.statistics.intervals import Difference, mean_with_interval, paired_difference


@dataclass(frozen=True, slots=True)
class Measured:
    """How a judge does with its reasons in one place.

    Args:
        reasons: none, before or after the verdict. right: share of the labelled items on which it favours the labelled side
            (one half where it favours none), 0..1, with `low` and `high`. consistency: share on which both orders favour
            the same side or neither. tokens: completion tokens per item, both orders. n, unjudged: items.
        change: paired difference of `right` to the judge without reasons; None for that one.
    """

    reasons: str
    right: float
    low: float
    high: float
    consistency: float
    tokens: float
    n: int
    unjudged: int
    change: Difference | None = None


def measure_reasons(
    judge_with: Callable[[str], Judge],
    labels: str | Path | None = None,
    output_dir: str | Path | None = None,
    *,
    progress: bool = True,
    **sitting: Any,
) -> list[Measured]:
    """Ask about the same comparisons with reasons nowhere, before and after the verdict.

    Args:
        judge_with: makes the judge for one of `wording.REASONS_PLACES`; pairwise.
        labels: a file for `read_labelled`; None takes the check's own 24 right answers against wrong ones.
        output_dir, progress, sitting: as in `judging.compare`.
    Raises:
        ConfigError: a pointwise judge, or one whose labels are all ties.
    """
    found: list[Measured] = []
    before: np.ndarray | None = None
    for place in REASONS_PLACES:
        judge = judge_with(place)
        if judge.kind != "pairwise":
            raise ConfigError(f"reasons are compared on comparisons, {judge.name} judges answers one by one")
        items, truth = read_labelled(labels, judge) if labels else _own_items()
        verdicts = compare(items, judge, output_dir, progress=progress, **sitting)
        points = np.array([_right(v, truth[v.id]) for v in verdicts])
        one = _measured(place, verdicts, points)
        if before is not None:
            both = ~np.isnan(points) & ~np.isnan(before)
            prompts = [v.prompt for v, known in zip(verdicts, both, strict=True) if known]
            change = paired_difference(points[both] - before[both], prompts, limit=1)
            one = dataclasses.replace(one, change=change)
        else:
            before = points
        found.append(one)
    return found


def _own_items() -> tuple[list[Any], dict[str, float]]:
    rows = [Comparison(str(at), item.prompt, item.bad, item.good) for at, item in enumerate(load_items())]
    return rows, {row.id: 0.0 for row in rows}


def _right(verdict: Verdict, label: float) -> float:
    """1 where the verdict favours the labelled side, 1/2 where it favours none; NaN for ties among labels or no verdict."""
    if verdict.p is None or label == 0.5:
        return float("nan")
    return 0.5 if verdict.p == 0.5 else float((verdict.p > 0.5) == (label > 0.5))


def _measured(place: str, verdicts: Sequence[Verdict], points: np.ndarray) -> Measured:
    known = ~np.isnan(points)
    if not known.any():
        raise ConfigError(f"with reasons={place} no labelled comparison has a verdict, so there is nothing to compare")
    estimate = mean_with_interval(points[known], [v.prompt for v, k in zip(verdicts, known, strict=True) if k])
    orders = [v.orders for v in verdicts if v.judged and len(v.orders) == 2]
    same = [np.sign((one or 0.0) - 0.5) == np.sign((two or 0.0) - 0.5) for one, two in orders]
    return Measured(
        place, estimate.value, estimate.low, estimate.high, float(np.mean(same)) if same else float("nan"),
        float(np.mean([v.completion_tokens for v in verdicts])), int(known.sum()), sum(not v.judged for v in verdicts),
    )  # fmt: skip
