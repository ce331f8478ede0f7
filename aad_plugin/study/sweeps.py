"""The sweeps over alpha and EFT's scale on the dev split, and what they choose."""

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
        value: alpha or EFT's scale. name: of the decoding. n: dev prompts.
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
        strategy: "aad" (alpha; 1 is the greedy policy) or "eft" (scale; 0 is the greedy reference, 1 the policy).
    """
    value_of = _alpha if strategy == "aad" else _scale
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


def best_on_dev(plan: StudyPlan, rows: Rows) -> tuple[float | None, float | None]:
    """Return the alpha and the scale with the largest mean oracle reward on the dev split; None where nothing was swept."""
    reader = Reader(plan, rows)
    points = [sweep(reader, strategy) for strategy in ("aad", "eft")]
    alpha, scale = (max(one, key=lambda point: point.reward).value if one else None for one in points)
    return alpha, scale


def _alpha(way: Decoding) -> float | None:
    return {"aad": way.settings.alpha, "greedy": 1.0}.get(way.settings.strategy)


def _scale(way: Decoding) -> float | None:
    return {"eft": way.settings.eft_scale, "greedy": 1.0, "reference": 0.0}.get(way.settings.strategy)
