"""The best_of_N curve from one pool of samples per prompt.

For every N the expected reward over all subsets of size N of the pool, drawn without replacement: the unbiased estimate
with the least variance the pool has to give, instead of one draw of N per prompt.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from aad_plugin.study.arms import ORACLE_PICKS
from aad_plugin.study.cells import samples_of
from aad_plugin.study.intervals import Interval, mean_interval
from aad_plugin.study.rewards import Reader


@dataclass(frozen=True)
class CurvePoint:
    """One N under one picker.

    Attributes:
        picker: its name; says so where it is the oracle itself. n: prompts. reward: expected oracle reward, mean over them.
        policy_passes, reference_passes: per answer, counted; a picker that is a reward model reads N answers besides.
    """

    num: int
    picker: str
    n: int
    reward: Interval
    policy_passes: float
    reference_passes: float


def pick_chances(scores: Sequence[float], num: int) -> np.ndarray:
    """Return (M,) chances that a sample of the pool is the picker's favourite of a random subset of ``num`` samples.

    Args:
        scores: (M,) of the picker; equal scores share their chance evenly.
        num: size of the subset, 1 <= num <= M.
    """
    values = np.asarray(scores, dtype=float)
    size = len(values)
    order = np.argsort(values, kind="stable")
    chances = np.empty(size)
    # The sample of rank k (from 0) wins where the others of the subset come from the k below it.
    chances[order] = [math.comb(rank, num - 1) / math.comb(size, num) for rank in range(size)]
    for value in np.unique(values):
        equal = values == value
        chances[equal] = chances[equal].mean()
    return chances


def best_of_n_rewards(picker: np.ndarray, oracle: np.ndarray, num: int) -> np.ndarray:
    """Return (N,) expected oracle rewards of best_of_num, from (N, M) picker scores and (N, M) oracle rewards."""
    return np.array([pick_chances(p, num) @ o for p, o in zip(picker, oracle, strict=True)])


def curve(reader: Reader) -> list[CurvePoint]:
    """Return the curve for N = 1 … samples, by the plan's picker and by the oracle itself; empty while samples lack."""
    plan = reader.plan
    if not plan.num_curve:
        return []
    prompts, way = plan.table[: plan.num_curve], samples_of(plan, plan.seeds[0])
    oracle = reader.pool(plan.oracle, way, prompts, plan.samples)
    per_sample = [
        float(reader.costs(read, way, prompts, plan.samples).mean())
        for read in (lambda one: one.policy_passes, lambda one: one.picker_passes)
    ]
    points = []
    for picker in dict.fromkeys([plan.picker, plan.oracle]):
        scores = reader.pool(picker, way, prompts, plan.samples)
        if not (np.isfinite(scores).all() and np.isfinite(oracle).all()):
            return []
        name = f"{picker} ({ORACLE_PICKS})" if picker == plan.oracle else picker
        reads = per_sample[1] if picker == "implicit" else 0.0
        for num in range(1, plan.samples + 1):
            reward = mean_interval(best_of_n_rewards(scores, oracle, num))
            # One sample needs no picking.
            points.append(
                CurvePoint(num, name, len(prompts), reward, num * per_sample[0], num * reads if num > 1 else 0.0)
            )
    return points
