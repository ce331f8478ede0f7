"""Means over prompts with 95 % intervals, and p-values, of rewards: numbers without bounds, few or many of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from aad_plugin.judges.statistics import bootstrap_interval, paired_difference

__all__ = ["Interval", "mean_interval", "two_sided_p"]


@dataclass(frozen=True, slots=True)
class Interval:
    """A mean and its 95 % interval; NaN where there is nothing to estimate."""

    value: float
    low: float
    high: float


def mean_interval(values: Sequence[float] | np.ndarray) -> Interval:
    """Mean of values of independent prompts, any unit, with the percentile bootstrap interval expanded for small samples.

    The bootstrap-t interval has no bound where a resample of few prompts hardly varies; percentiles stay within the values.
    """
    values = np.asarray(values, dtype=float)
    if not len(values) or not np.isfinite(values).all():
        return Interval(*[float("nan")] * 3)
    mean = float(values.mean())
    if np.ptp(values) == 0:
        return Interval(mean, mean, mean) if len(values) > 1 else Interval(mean, float("nan"), float("nan"))
    return Interval(mean, *bootstrap_interval((values,), np.mean))


def two_sided_p(differences: np.ndarray) -> float:
    """P-value of a mean difference of 0, by the bootstrap-t test in both directions."""
    return min(1.0, 2 * min(paired_difference(differences).p_below, paired_difference(-differences).p_below))
