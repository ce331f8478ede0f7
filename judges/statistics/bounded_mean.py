"""Bounds on the mean of values in [0, 1], from few, lopsided or tied ones. Knows numbers alone.

Gaffke's bound (2005, "Three test statistics for a nonparametric one-sided hypothesis on the mean of a nonnegative
variable", Mathematical Methods of Statistics 14): the values get random weights from a flat Dirichlet distribution, as in
Rubin's Bayesian bootstrap, and one pseudo-observation at the far end of the range, 1 for the upper bound and 0 for the
lower, gets a weight, too; the bound is a quantile of the weighted mean. For values of 0 and 1 it is Clopper and Pearson's
exact interval. For other values it is conjectured to hold at its level whatever the distribution (Learned-Miller & Thomas
2019, arXiv 1905.06208); `python -m tests.judges.coverage_grid` measures it.

With clusters a value is a prompt's sum, each prompt has one weight, and the pseudo-observation is as large as the mean
prompt: one as large as the largest made intervals up to twice as wide, which coverage did not need. Nothing is drawn at
random: the quantile is solved for with the exact distribution of a sum of exponentials.
"""

from __future__ import annotations

import numpy as np

_STEP, _BLOCK, _LAST = 0.1, 16, 240
_BEYOND = 4.0
_PRECISION = 1e-8  # of the logit of a tail


def mean_bounds(sums: np.ndarray, sizes: np.ndarray, tail: float) -> tuple[np.ndarray, np.ndarray]:
    """Lower and upper bounds, each missed with probability `tail`.

    Args:
        sums: (rows, num) sums of each prompt's values; every row is a sample of its own. num is at least 1.
        sizes: (rows, num) how many values a prompt has, above 0; 0 <= sums <= sizes.
        tail: in (0, 0.5).
    Returns:
        two (rows,) arrays around the ratio of the sums; exact to about 1e-8.
    """
    return 1 - _upper_bound(sizes - sums, sizes, tail), _upper_bound(sums, sizes, tail)


def unbounded_mean_bounds(sums: np.ndarray, sizes: np.ndarray, tail: float) -> tuple[np.ndarray, np.ndarray]:
    """The same for values whose range is not known: at either end the wider of two bounds.

    One takes the range to reach 4 / num of the range seen beyond either end. The other is Student's t, which allows for
    values on a side where none was seen.

    Args:
        sums, sizes, tail: as above, sums of any sign and unit.
    Returns:
        two (rows,) arrays; NaN where all prompts' means are equal, which says nothing of their spread.
    """
    means = sums / sizes
    seen = np.ptp(means, axis=1)
    beyond = _BEYOND / means.shape[1] * seen
    bottom, wide = means.min(axis=1) - beyond, seen + 2 * beyond
    low, high = np.full(len(sums), np.nan), np.full(len(sums), np.nan)
    rows = np.flatnonzero(seen > 1e-12 * np.abs(means).max(axis=1))
    if len(rows):
        scaled = (sums[rows] - bottom[rows, None] * sizes[rows]) / wide[rows, None]
        found = mean_bounds(scaled, sizes[rows], tail)
        value = sums[rows].sum(axis=1) / sizes[rows].sum(axis=1)
        half = _half_by_t(sums[rows], sizes[rows], value, tail)
        low[rows] = np.minimum(bottom[rows] + wide[rows] * found[0], value - half)
        high[rows] = np.maximum(bottom[rows] + wide[rows] * found[1], value + half)
    return low, high


def _half_by_t(sums: np.ndarray, sizes: np.ndarray, value: np.ndarray, tail: float) -> np.ndarray:
    from scipy import stats

    num = sums.shape[1]
    residuals = sums - value[:, None] * sizes
    return stats.t.isf(tail, num - 1) * np.sqrt(num / (num - 1) * (residuals**2).sum(axis=1)) / sizes.sum(axis=1)


def sum_is_positive(factors: np.ndarray) -> np.ndarray:
    """Probability that a weighted sum of independent standard exponentials is above 0.

    The integral that inverts the Laplace transform is taken along the vertical line through the saddle point, at steps of
    sinh, where the trapezoidal rule converges exponentially (Butler 2007, Saddlepoint Approximations, section 1.2).

    Args:
        factors: (rows, k) weights of any sign; the largest of a row is above 0.
    Returns:
        (rows,) probabilities.
    """
    centre, scale = _saddle(factors)
    shifted = 1 - centre[:, None] * factors
    relative = factors / shifted
    total = np.zeros(len(factors))
    for first in range(0, _LAST, _BLOCK):
        steps = _STEP * np.arange(first, first + _BLOCK)
        height = scale[:, None] * np.sinh(steps)  # (rows, block)
        with np.errstate(over="ignore", invalid="ignore"):
            # (rows, block, k): far out the product overflows, and its inverse is 0
            product = np.multiply.reduce(1 - 1j * height[:, :, None] * relative[:, None, :], axis=2)
            terms = (scale[:, None] * np.cosh(steps) / (product * (centre[:, None] + 1j * height))).real
        terms = np.where(np.isfinite(terms), terms, 0.0)
        if first == 0:
            terms[:, 0] /= 2
        total += terms.sum(axis=1)
        if (np.abs(terms[:, -1]) <= 1e-12 * np.abs(total)).all():
            break
    return np.exp(-np.log(shifted).sum(axis=1)) * total * _STEP / np.pi


def _saddle(factors: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Where the integrand is least along the real axis, and its width there, by Newton's method kept within a bracket."""
    high = 1 / factors.max(axis=1)
    low, place = np.zeros_like(high), high / 2
    for _ in range(60):
        pull = factors / (1 - place[:, None] * factors)
        slope, curvature = pull.sum(axis=1) - 1 / place, (pull * pull).sum(axis=1) + 1 / place**2
        low, high = np.where(slope < 0, place, low), np.where(slope < 0, high, place)
        new = place - slope / curvature
        new = np.where((new > low) & (new < high), new, (low + high) / 2)
        found, place = (np.abs(new - place) <= 1e-3 * new).all(), new
        if found:
            break
    pull = factors / (1 - place[:, None] * factors)
    return place, 1 / np.sqrt((pull * pull).sum(axis=1) + 1 / place**2)


def _upper_bound(sums: np.ndarray, sizes: np.ndarray, tail: float) -> np.ndarray:
    value = sums.sum(axis=1) / sizes.sum(axis=1)
    bound, open_rows = np.ones(len(value)), np.flatnonzero(value < 1 - 1e-12)
    if len(open_rows):
        bound[open_rows] = _solve(sums[open_rows], sizes[open_rows], value[open_rows], tail)
    return bound


def _solve(sums: np.ndarray, sizes: np.ndarray, value: np.ndarray, tail: float) -> np.ndarray:
    """Where the chance that the weighted mean is above falls to `tail`: regula falsi (Illinois) on its logit."""
    from scipy import special

    def excess(rows: np.ndarray, mean: np.ndarray) -> np.ndarray:
        pseudo = (1 - mean) * sizes[rows].mean(axis=1)
        chance = sum_is_positive(np.column_stack([sums[rows] - mean[:, None] * sizes[rows], pseudo]))
        return special.logit(np.clip(chance, 1e-300, 1 - 1e-16)) - special.logit(tail)

    everything = np.arange(len(value))
    low, high, side = value.copy(), (1 + value) / 2, np.zeros(len(value))
    at_low, at_high = excess(everything, low), excess(everything, high)
    while len(rows := np.flatnonzero((at_high > 0) & (1 - high > 1e-12))):
        low[rows], at_low[rows] = high[rows], at_high[rows]
        high[rows] = (1 + high[rows]) / 2
        at_high[rows] = excess(rows, high[rows])
    found, rows = high.copy(), np.flatnonzero(at_high <= 0)
    for _ in range(100):
        share = at_low[rows] / np.maximum(at_low[rows] - at_high[rows], 1e-300)
        found[rows] = low[rows] + np.clip(share, 0, 1) * (high[rows] - low[rows])
        here = excess(rows, found[rows])
        keep = (np.abs(here) > _PRECISION) & (high[rows] - low[rows] > 1e-13)
        rows, here = rows[keep], here[keep]
        if not len(rows):
            break
        # A bound that stays twice is halved, which keeps the bracket shrinking from both ends.
        above = here > 0
        up, down = rows[above], rows[~above]
        at_high[up] = np.where(side[up] == 1, at_high[up] / 2, at_high[up])
        at_low[down] = np.where(side[down] == -1, at_low[down] / 2, at_low[down])
        low[up], at_low[up], side[up] = found[up], here[above], 1
        high[down], at_high[down], side[down] = found[down], here[~above], -1
    return found
