"""Mean rewards over prompts and differences of them, by the one home of intervals: rewards may be missing here."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from aad_plugin.judges.statistics.intervals import mean_of_unbounded, paired_difference


@dataclass(frozen=True, slots=True)
class Interval:
    """A mean and its 95 % interval; NaN where there is nothing to estimate."""

    value: float
    low: float
    high: float


def mean_interval(values: Sequence[float] | np.ndarray) -> Interval:
    """Mean of rewards of independent prompts, any unit; NaN where one of them is no finite number."""
    values = np.asarray(values, dtype=float)
    if not len(values) or not np.isfinite(values).all():
        return Interval(*[float("nan")] * 3)
    found = mean_of_unbounded(values)
    return Interval(found.value, found.low, found.high)


def difference_of(ours: np.ndarray, theirs: np.ndarray) -> tuple[Interval, float]:
    """Mean difference of two rows of rewards on the same prompts, and the two-sided p of no difference.

    A difference cannot be larger than the range of all rewards, which bounds the interval even where every prompt differs
    by the same. NaN where a reward is no finite number.

    Args:
        ours, theirs: (prompts,) rewards in one unit.
    """
    both = np.concatenate([ours, theirs])
    if not len(both) or not np.isfinite(both).all():
        return Interval(*[float("nan")] * 3), float("nan")
    found = paired_difference(ours - theirs, limit=float(np.ptp(both)) or None)
    return Interval(found.value, found.low, found.high), min(1.0, 2 * min(found.p_below, found.p_above))
