"""Estimates and intervals over verdicts, paired and clustered by prompt. Knows numbers, not judges.

Intervals are 95 % throughout. Their coverage is simulated in ``tests/judges/test_coverage.py``.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass

import numpy as np

__all__ = [
    "CONFIDENCE",
    "Difference",
    "Estimate",
    "bootstrap_interval",
    "mean_with_interval",
    "paired_difference",
    "smallest_detectable_difference",
]

CONFIDENCE = 0.95
_MANY = 5000


@dataclass(frozen=True, slots=True)
class Estimate:
    """A mean in [0, 1], its standard error and its 95 % interval; NaN where there is nothing to estimate."""

    value: float
    standard_error: float
    low: float
    high: float


def mean_with_interval(
    values: Sequence[float] | np.ndarray,
    clusters: Sequence[Hashable] | None = None,
    *,
    resamples: int = 9999,
    seed: int = 0,
) -> Estimate:
    """Mean of values in [0, 1] with a bootstrap interval that draws whole clusters.

    Hard verdicts (0, one half, 1) get the percentile bootstrap, soft ones BCa, which corrects for their skewness but
    over-covers on the few values hard ones can take. Both are expanded for small samples: the plain ones are too narrow
    by the factor sqrt((n-1)/n) and by normal instead of t quantiles (Hesterberg 2015, The American Statistician 69,
    section 3.3). Where all clusters agree a bootstrap has nothing to draw; if they agree on 0 or on 1 the exact
    (Clopper-Pearson) interval takes its place.

    Args:
        values: (N,) in [0, 1], no NaN.
        clusters: (N,) what is drawn together, e.g. the prompt; None draws values one by one.
        resamples: bootstrap samples; 9999 keeps the bounds' own error below a tenth of a standard error.
        seed: of the draw.
    Returns:
        the mean of all values; standard error by linearisation over clusters (the usual one without clusters).
    """
    values = np.asarray(values, dtype=float)
    if not len(values):
        return Estimate(*[float("nan")] * 4)
    sums, sizes = _by_cluster(values, clusters)
    num, mean = len(sums), float(values.mean())
    residuals = sums - mean * sizes
    error = float(np.sqrt(num / (num - 1) * np.sum(residuals**2)) / sizes.sum()) if num > 1 else float("nan")
    if num == 1 or np.allclose(residuals, 0):
        return Estimate(mean, error, *_interval_without_spread(mean, num))
    is_hard = np.isin(values, (0.0, 0.5, 1.0)).all()
    # BCa takes time quadratic in the number of clusters, and skewness no longer matters for many; of two clusters, and
    # of some of very few, it makes no interval.
    if not is_hard and 3 <= num <= _MANY:
        low, high = bootstrap_interval((sums, sizes), _ratio, method="BCa", resamples=resamples, seed=seed)
        if np.isfinite(low) and np.isfinite(high):
            return Estimate(mean, error, low, high)
    low, high = bootstrap_interval((sums, sizes), _ratio, resamples=resamples, seed=seed)
    return Estimate(mean, error, low, high)


def bootstrap_interval(
    samples: Sequence[np.ndarray],
    statistic: Callable[..., np.ndarray],
    *,
    method: str = "percentile",
    resamples: int = 9999,
    seed: int = 0,
) -> tuple[float, float]:
    """95 % bootstrap interval of a statistic of paired samples, expanded for small ones; by scipy. NaN below 2 samples.

    Args:
        samples: arrays of equal length (N,), drawn together.
        statistic: of the samples along a keyword `axis`.
        method: "percentile" or "BCa". resamples, seed: as above.
    """
    num = len(samples[0])
    if num < 2:
        return float("nan"), float("nan")
    from scipy import stats

    tail = stats.norm.cdf(np.sqrt(num / (num - 1)) * stats.t.ppf((1 - CONFIDENCE) / 2, num - 1))
    drawn = stats.bootstrap(
        samples, statistic, paired=True, vectorized=True, method=method, confidence_level=1 - 2 * tail,
        n_resamples=resamples, batch=max(1, 2_000_000 // num), rng=np.random.default_rng(seed),
    ).confidence_interval  # fmt: skip
    return float(drawn.low), float(drawn.high)


@dataclass(frozen=True, slots=True)
class Difference:
    """A mean of paired differences, its 95 % interval, and p of the hypothesis that the true mean is not below 0."""

    value: float
    low: float
    high: float
    p_below: float


def paired_difference(
    differences: Sequence[float] | np.ndarray,
    clusters: Sequence[Hashable] | None = None,
    *,
    resamples: int = 9999,
    seed: int = 0,
) -> Difference:
    """Mean difference and a one-sided bootstrap-t test against a drop; whole clusters are drawn.

    The studentised bootstrap is used because its error is of second order: plain percentiles of few clusters reject too
    often (Davison & Hinkley 1997, Bootstrap Methods and their Application, section 4.4).

    Args:
        differences: (N,) new minus old of each document, any unit, no NaN. clusters: (N,) what is drawn together.
    Returns:
        NaN where there is nothing to estimate. Where all clusters differ by the same, a resample cannot vary: p_below is
        then that of a sign test.
    """
    values = np.asarray(differences, dtype=float)
    if not len(values):
        return Difference(*[float("nan")] * 4)
    sums, sizes = _by_cluster(values, clusters)
    num, mean = len(sums), float(values.mean())
    error = _ratio_error(sums[None], sizes[None])[0]
    if num == 1 or error <= 1e-12 * max(1.0, abs(mean)):
        return Difference(mean, mean, mean, 1.0 if mean >= 0 else 0.5**num)
    rng = np.random.default_rng(seed)
    drawn_t: list[np.ndarray] = []
    for first in range(0, resamples, size := max(1, 1_000_000 // num)):
        rows = rng.integers(num, size=(min(size, resamples - first), num))
        own_sums, own_sizes = sums[rows], sizes[rows]
        # A resample without spread is infinitely far out on the side of its mean.
        with np.errstate(divide="ignore", invalid="ignore"):
            drawn_t.append((_ratio(own_sums, own_sizes) - mean) / _ratio_error(own_sums, own_sizes))
    t = np.nan_to_num(np.concatenate(drawn_t), nan=0.0)
    tail = (1 - CONFIDENCE) / 2
    upper, lower = np.quantile(t, [1 - tail, tail], method="higher")
    p_below = (1 + int((t <= mean / error).sum())) / (1 + resamples)
    return Difference(mean, float(mean - upper * error), float(mean - lower * error), p_below)


def smallest_detectable_difference(num: int, standard_deviation: float = 0.5, power: float = 0.8) -> float:
    """Smallest distance of a win rate from one half that `num` prompts show at the 5 % level.

    Args:
        num: prompts, at least 2.
        standard_deviation: of one prompt's verdict; 0.5 (hard verdicts, no ties) is the largest possible.
        power: chance to see a difference of that size.
    Returns:
        a difference of win rates, 0..0.5 (NaN below 2 prompts); one-sample t test, solved by statsmodels.
    """
    if num < 2:
        return float("nan")
    from statsmodels.stats.power import TTestPower

    effect = TTestPower().solve_power(nobs=num, alpha=1 - CONFIDENCE, power=power)
    return min(float(effect) * standard_deviation, 0.5)


def _by_cluster(values: np.ndarray, clusters: Sequence[Hashable] | None) -> tuple[np.ndarray, np.ndarray]:
    if clusters is None:
        return values, np.ones_like(values)
    numbers: dict[Hashable, int] = {}
    rows = np.array([numbers.setdefault(cluster, len(numbers)) for cluster in clusters])
    return np.bincount(rows, weights=values), np.bincount(rows).astype(float)


def _ratio_error(sums: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    """Standard error of `_ratio` by linearisation, (..., clusters) -> (...)."""
    num = sums.shape[-1]
    residuals = sums - _ratio(sums, sizes)[..., None] * sizes
    return np.sqrt(num / max(1, num - 1) * np.sum(residuals**2, axis=-1)) / sizes.sum(axis=-1)


def _ratio(sums: np.ndarray, sizes: np.ndarray, axis: int = -1) -> np.ndarray:
    return sums.sum(axis=axis) / sizes.sum(axis=axis)


def _interval_without_spread(mean: float, num: int) -> tuple[float, float]:
    if not (np.isclose(mean, 0) or np.isclose(mean, 1)):
        return (mean, mean) if num > 1 else (0.0, 1.0)
    from scipy import stats

    exact = stats.binomtest(round(mean) * num, num).proportion_ci(CONFIDENCE, method="exact")
    return float(exact.low), float(exact.high)
