"""The sweeps over alpha and the scales of EFT and ExPO on the dev split, and what they choose."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from aad_plugin.study.cells import Decoding, sweep_cells
from aad_plugin.study.intervals import Interval, difference_of
from aad_plugin.study.plan import StudyPlan
from aad_plugin.study.rewards import Reader
from aad_plugin.study.rows import Rows


@dataclass(frozen=True)
class Point:
    """One value of a sweep.

    Attributes:
        value: alpha, or the scale of EFT or ExPO. name: of the decoding. n: dev prompts.
        reward: mean oracle reward. difference: from the greedy policy, paired. tokens: mean length of an answer.
    """

    value: float
    name: str
    n: int
    reward: float
    difference: Interval
    tokens: float


def sweep(reader: Reader, strategy: str) -> list[Point]:
    """Return the points of one sweep, by value; those decoded so far.

    Args:
        strategy: "aad" (alpha; 1 is the greedy policy), "eft" (scale; 0 is the greedy reference, 1 the policy) or "expo"
            (scale; 0 is the policy).
    """
    value_of = {"aad": _alpha, "eft": _scale, "expo": _extrapolation}[strategy]
    dev = reader.plan.dev
    ways = [cell.decoding for cell in sweep_cells(reader.plan)]
    greedy = next((reader.rewards(way, dev) for way in ways if way.settings.strategy == "greedy"), None)
    points = []
    for way in ways:
        value, rewards = value_of(way), reader.rewards(way, dev)
        if value is None or greedy is None or not np.isfinite(rewards - greedy).all():
            continue
        tokens = float(reader.costs(lambda answer: answer.tokens, way, dev).mean())
        difference, _ = difference_of(rewards, greedy)
        points.append(Point(value, way.name, len(dev), float(rewards.mean()), difference, tokens))
    return sorted(points, key=lambda point: point.value)


SWEPT = ("aad", "eft", "expo")


def best_on_dev(plan: StudyPlan, rows: Rows) -> tuple[float | None, float | None, float | None]:
    """Return the alpha and the scales of EFT and ExPO with the largest mean oracle reward on the dev split; None where
    nothing was swept."""
    reader = Reader(plan, rows)
    points = [sweep(reader, strategy) for strategy in SWEPT]
    alpha, eft, expo = (max(one, key=lambda point: point.reward).value if len(one) > 1 else None for one in points)
    return alpha, eft, expo


def _alpha(way: Decoding) -> float | None:
    return {"aad": way.settings.alpha, "greedy": 1.0}.get(way.settings.strategy)


def _scale(way: Decoding) -> float | None:
    return {"eft": way.settings.eft_scale, "greedy": 1.0, "reference": 0.0}.get(way.settings.strategy)


def _extrapolation(way: Decoding) -> float | None:
    return {"expo": way.settings.expo_scale, "greedy": 0.0}.get(way.settings.strategy)
