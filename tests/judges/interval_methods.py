"""Intervals for means of values in [0, 1] that were compared with the one that is used; each takes many samples at once.

Every function takes sums and sizes of (rows, num) prompts, as `verdict_generators` makes them, and returns (low, high) of
(rows,). They are here for the comparison alone and hold for it only: one seed serves all rows.
"""

from __future__ import annotations

import functools
from collections.abc import Callable

import numpy as np
from scipy import stats

Bounds = tuple[np.ndarray, np.ndarray]
Method = Callable[[np.ndarray, np.ndarray], Bounds]
_TAIL = 0.025
_DRAWS = 1999


def percentile_bootstrap(sums: np.ndarray, sizes: np.ndarray) -> Bounds:
    """Percentiles expanded for small samples (Hesterberg 2015): what was used for hard verdicts."""
    low, high = np.quantile(_resampled(sums, sizes), _expanded(sums.shape[1]), axis=1)
    return _exact_where_equal(sums, sizes, low, high)


def bca_bootstrap(sums: np.ndarray, sizes: np.ndarray) -> Bounds:
    """BCa (Efron 1987), expanded: what was used for soft verdicts."""
    num, value = sums.shape[1], _ratio(sums, sizes)
    drawn = np.sort(_resampled(sums, sizes), axis=1)
    below = ((drawn < value[:, None]).mean(1) + (drawn <= value[:, None]).mean(1)) / 2
    bias = stats.norm.ppf(np.clip(below, 1e-4, 1 - 1e-4))
    left = (sums.sum(1, keepdims=True) - sums) / (sizes.sum(1, keepdims=True) - sizes)
    left = left.mean(1, keepdims=True) - left
    with np.errstate(invalid="ignore", divide="ignore"):
        pull = np.nan_to_num((left**3).sum(1) / (6 * (left**2).sum(1) ** 1.5))
    bounds = []
    for tail in _expanded(num):
        z = bias + stats.norm.ppf(tail)
        at = stats.norm.cdf(bias + z / (1 - pull * z))
        bounds.append(np.take_along_axis(drawn, (at * (_DRAWS - 1)).astype(int)[:, None], 1)[:, 0])
    return _exact_where_equal(sums, sizes, *bounds)


def today(sums: np.ndarray, sizes: np.ndarray) -> Bounds:
    """What was used before: percentiles for hard verdicts, BCa for soft ones, Clopper-Pearson where all are 0 or 1."""
    hard = np.isin(sums, np.arange(0, 17) / 2).all(1)
    one, two = percentile_bootstrap(sums, sizes), bca_bootstrap(sums, sizes)
    return np.where(hard, one[0], two[0]), np.where(hard, one[1], two[1])


def student_t(sums: np.ndarray, sizes: np.ndarray) -> Bounds:
    """Student's t over prompts, cut to [0, 1]."""
    value, half = _ratio(sums, sizes), stats.t.ppf(1 - _TAIL, sums.shape[1] - 1) * _error(sums, sizes)
    return np.clip(value - half, 0, 1), np.clip(value + half, 0, 1)


def student_t_uncut(sums: np.ndarray, sizes: np.ndarray) -> Bounds:
    """Student's t over prompts for values without bounds."""
    value, half = _ratio(sums, sizes), stats.t.ppf(1 - _TAIL, sums.shape[1] - 1) * _error(sums, sizes)
    return value - half, value + half


def plus_four_t(sums: np.ndarray, sizes: np.ndarray) -> Bounds:
    """Student's t after two pseudo-observations at 0 and two at 1 (Agresti & Coull 1998)."""
    size = sizes.max(1, keepdims=True)
    ends = np.concatenate([0 * size, 0 * size, size, size], 1)
    return student_t(np.concatenate([sums, ends], 1), np.concatenate([sizes, np.repeat(size, 4, 1)], 1))


def wilson_effective(sums: np.ndarray, sizes: np.ndarray) -> Bounds:
    """Wilson's interval with the number of hard verdicts that have the same standard error, at least `num`."""
    value, error = _ratio(sums, sizes), _error(sums, sizes)
    with np.errstate(divide="ignore", invalid="ignore"):
        count = np.nan_to_num(value * (1 - value) / error**2, nan=0, posinf=1e6)
    count = np.clip(count, 1, 1e6)
    count = np.where(error == 0, sums.shape[1], count)
    z = stats.t.ppf(1 - _TAIL, sums.shape[1] - 1)
    centre = (value + z**2 / (2 * count)) / (1 + z**2 / count)
    half = z / (1 + z**2 / count) * np.sqrt(value * (1 - value) / count + z**2 / (4 * count**2))
    return centre - half, centre + half


def jeffreys_effective(sums: np.ndarray, sizes: np.ndarray) -> Bounds:
    """Jeffreys' interval with the effective number of `wilson_effective`."""
    value, error = _ratio(sums, sizes), _error(sums, sizes)
    with np.errstate(divide="ignore", invalid="ignore"):
        count = value * (1 - value) / error**2
    count = np.where(error == 0, sums.shape[1], np.clip(np.nan_to_num(count, nan=1, posinf=1e6), 1, 1e6))
    wins = value * count
    return stats.beta.ppf(_TAIL, wins + 0.5, count - wins + 0.5), stats.beta.ppf(
        1 - _TAIL, wins + 0.5, count - wins + 0.5
    )


def bayesian_bootstrap(sums: np.ndarray, sizes: np.ndarray, ends: float = 0.0) -> Bounds:
    """Rubin 1981, with a pseudo-observation of weight `ends` at 0 and at 1."""
    weights, pseudo = _exponentials(sums.shape[1], ends)
    size = sizes.max(1)[:, None]
    drawn = (sums @ weights + size * pseudo[1]) / (sizes @ weights + size * pseudo.sum(0))
    low, high = np.quantile(drawn, [_TAIL, 1 - _TAIL], axis=1)
    return low, high


def bayesian_bootstrap_half(sums: np.ndarray, sizes: np.ndarray) -> Bounds:
    """`bayesian_bootstrap` with half an observation at either end (Jeffreys' for hard verdicts)."""
    return bayesian_bootstrap(sums, sizes, 0.5)


def bayesian_bootstrap_one(sums: np.ndarray, sizes: np.ndarray) -> Bounds:
    """`bayesian_bootstrap` with one observation at either end (Laplace's for hard verdicts)."""
    return bayesian_bootstrap(sums, sizes, 1.0)


def hoeffding(sums: np.ndarray, sizes: np.ndarray) -> Bounds:
    """Hoeffding 1963, of prompts' means."""
    value = (sums / sizes).mean(1)
    half = np.sqrt(np.log(1 / _TAIL) / (2 * sums.shape[1]))
    return np.clip(value - half, 0, 1), np.clip(value + half, 0, 1)


def empirical_bernstein(sums: np.ndarray, sizes: np.ndarray) -> Bounds:
    """Maurer & Pontil 2009, theorem 4, of prompts' means."""
    means, num = sums / sizes, sums.shape[1]
    log = np.log(2 / _TAIL)
    half = np.sqrt(2 * means.var(1, ddof=1) * log / num) + 7 * log / (3 * (num - 1))
    return np.clip(means.mean(1) - half, 0, 1), np.clip(means.mean(1) + half, 0, 1)


def betting(sums: np.ndarray, sizes: np.ndarray) -> Bounds:
    """Hedged capital (Waudby-Smith & Ramdas 2024, 4.3), of prompts' means in random order, on a grid of 400 means."""
    # Samples that are enumerated stand in order, and bets are placed one after the other.
    means, num = np.random.default_rng(0).permuted(sums / sizes, axis=1), sums.shape[1]
    steps = np.arange(1, num + 1)
    centre = (0.5 + np.cumsum(means, 1)) / (steps + 1)
    spread = (0.25 + np.cumsum((means - centre) ** 2, 1)) / (steps + 1)
    known = np.concatenate([np.full((len(means), 1), 0.25), spread[:, :-1]], 1)
    bet = np.sqrt(2 * np.log(2 / (2 * _TAIL)) / (num * known))
    low, high = np.ones(len(means)), np.zeros(len(means))
    for mean in (np.arange(400) + 0.5) / 400:
        up = np.log1p(np.minimum(bet, 0.5 / mean) * (means - mean)).cumsum(1).max(1)
        down = np.log1p(-np.minimum(bet, 0.5 / (1 - mean)) * (means - mean)).cumsum(1).max(1)
        inside = np.maximum(up, down) + np.log(0.5) < np.log(1 / (2 * _TAIL))
        low, high = np.where(inside, np.minimum(low, mean), low), np.where(inside, np.maximum(high, mean), high)
    return np.maximum(low - 1 / 400, 0), np.minimum(high + 1 / 400, 1)


METHODS: dict[str, Method] = {
    found.__name__: found
    for found in (
        today, percentile_bootstrap, bca_bootstrap, student_t, plus_four_t, wilson_effective, jeffreys_effective,
        bayesian_bootstrap, bayesian_bootstrap_half, bayesian_bootstrap_one, hoeffding, empirical_bernstein, betting,
    )
}  # fmt: skip


def _ratio(sums: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    return sums.sum(1) / sizes.sum(1)


def _error(sums: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    num = sums.shape[1]
    residuals = sums - _ratio(sums, sizes)[:, None] * sizes
    return np.sqrt(num / (num - 1) * (residuals**2).sum(1)) / sizes.sum(1)


@functools.cache
def _counts(num: int) -> np.ndarray:
    return np.random.default_rng(0).multinomial(num, np.full(num, 1 / num), _DRAWS).T.astype(float)


@functools.cache
def _exponentials(num: int, ends: float) -> tuple[np.ndarray, np.ndarray]:
    dice = np.random.default_rng(0)
    pseudo = dice.gamma(ends, size=(2, _DRAWS)) if ends else np.zeros((2, _DRAWS))
    return dice.exponential(size=(num, _DRAWS)), pseudo


def _resampled(sums: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    counts = _counts(sums.shape[1])
    return (sums @ counts) / (sizes @ counts)


def _expanded(num: int) -> np.ndarray:
    tail = stats.norm.cdf(np.sqrt(num / (num - 1)) * stats.t.ppf(_TAIL, num - 1))
    return np.array([tail, 1 - tail])


def _exact_where_equal(sums: np.ndarray, sizes: np.ndarray, low: np.ndarray, high: np.ndarray) -> Bounds:
    value, num = _ratio(sums, sizes), sums.shape[1]
    end = _TAIL ** (1 / num)
    low, high = np.where(value == 1, end, low), np.where(value == 0, 1 - end, high)
    return low, high
