"""Estimates, intervals and tests of verdicts, rewards and paired differences, clustered by prompt: their one home.

Knows numbers, not judges. Intervals are 95 % throughout. What was compared, and how often each method contains the truth:
docs/judges.md, "Intervals"; `python -m tests.judges.coverage_grid`.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass

import numpy as np

from aad_plugin.errors import ConfigError
from aad_plugin.judges.statistics.bounded_mean import mean_bounds, unbounded_mean_bounds
from aad_plugin.judges.statistics.sign_flips import chance_of_so_low

CONFIDENCE = 0.95
INTERVAL_METHOD = "Gaffke's bounds over prompts (Clopper-Pearson's for hard verdicts)"
"""Named in every summary; runs whose summaries name different methods are not compared."""
_TAIL = (1 - CONFIDENCE) / 2
_NAN = float("nan")
_ROUNDING = 1e-9


@dataclass(frozen=True, slots=True)
class Estimate:
    """A mean, its standard error and its 95 % interval over `n` prompts; NaN where there is nothing to estimate."""

    value: float
    standard_error: float
    low: float
    high: float
    n: int = 0


def shown(value: float | None, low: float | None = None, high: float | None = None, *, sign: str = "") -> str:
    """A figure as people read it, three digits and its interval: "0.512 [0.480, 0.544]".

    Args:
        value, low, high: None and NaN are "not known"; a value without an interval is shown alone.
        sign: "+" for differences.
    Returns:
        the text; a dash where there is no value.
    """
    if value is None or np.isnan(value):
        return "–"
    if low is None or high is None or np.isnan(low) or np.isnan(high):
        return f"{value:{sign}.3f}"
    return f"{value:{sign}.3f} [{low:{sign}.3f}, {high:{sign}.3f}]"


def mean_with_interval(
    values: Sequence[float] | np.ndarray,
    clusters: Sequence[Hashable] | None = None,
    *,
    resamples: int = 9999,
    seed: int = 0,
) -> Estimate:
    """Mean of values in [0, 1] with Gaffke's bounds, see `bounded_mean`: wide for few, lopsided, equal or tied values.

    For hard verdicts this is Clopper and Pearson's exact interval. The value always lies inside.

    Args:
        values: (N,) in [0, 1], no NaN.
        clusters: (N,) what belongs together, e.g. the prompt; None takes values one by one.
        resamples, seed: not used, because nothing is drawn; accepted so that calls written for a bootstrap still work.
    Returns:
        the mean of all values; standard error by linearisation over clusters (the usual one without clusters).
    Raises:
        ConfigError: a value outside [0, 1] or NaN, or another number of clusters than of values.
    """
    values = _checked(values, clusters, "verdicts", 0, 1)
    if not len(values):
        return Estimate(_NAN, _NAN, _NAN, _NAN)
    sums, sizes = _by_cluster(values, clusters)
    mean = float(values.mean())
    low, high = mean_bounds(sums[None], sizes[None], _TAIL)
    return Estimate(mean, _error(sums, sizes), min(float(low[0]), mean), max(float(high[0]), mean), len(sums))


def standard_error(values: Sequence[float] | np.ndarray, clusters: Sequence[Hashable]) -> float:
    """Standard error of the mean of all values by linearisation over clusters; NaN of fewer than two clusters.

    Args:
        values: (N,) finite. clusters: (N,) what belongs together, e.g. the prompt.
    """
    if len(values) < 2:
        return _NAN
    return _error(*_by_cluster(np.asarray(values, dtype=float), clusters))


def mean_of_unbounded(values: Sequence[float] | np.ndarray, clusters: Sequence[Hashable] | None = None) -> Estimate:
    """Mean of values without bounds, e.g. rewards, with Gaffke's bounds or Student's t.

    Without bounds no interval holds whatever the distribution. This one takes at either end the wider of Student's t and
    of Gaffke's bound on a range that reaches beyond the `n` prompts seen by 4 / n of it on either side; what that covers,
    beside Student's t alone: docs/judges.md. Equal values say nothing of their spread: the bounds are then NaN, as they
    are for one prompt.

    Args:
        values: (N,) any unit, finite. clusters: as above.
    Raises:
        ConfigError: NaN or an infinity, or another number of clusters than of values.
    """
    values = _checked(values, clusters, "values", -np.inf, np.inf)
    if not len(values):
        return Estimate(_NAN, _NAN, _NAN, _NAN)
    sums, sizes = _by_cluster(values, clusters)
    low, high = unbounded_mean_bounds(sums[None], sizes[None], _TAIL)
    return Estimate(float(values.mean()), _error(sums, sizes), float(low[0]), float(high[0]), len(sums))


def interval_of_rate(rate: float, standard_error: float, num: int) -> tuple[float, float]:
    """95 % interval of a rate of which only the standard error is known, as a table of results gives it.

    Clopper and Pearson's for as many hard verdicts as would have that standard error, but no more than a rate of `num`
    prompts could justify where the error is 0: then for `num`.

    Args:
        rate: in [0, 1]. standard_error: of it, at least 0. num: prompts.
    Returns:
        bounds in [0, 1] around the rate; NaN without prompts, or where a number is NaN or outside its range.
    """
    from scipy import stats

    if not (num > 0 and 0 <= rate <= 1 and 0 <= standard_error < np.inf):
        return _NAN, _NAN
    spread = rate * (1 - rate)
    count = spread / standard_error**2 if spread > 0 and standard_error > 0 else float(num)
    wins = rate * count
    low = stats.beta.ppf(_TAIL, wins, count - wins + 1) if wins > 0 else 0.0
    high = stats.beta.ppf(1 - _TAIL, wins + 1, count - wins) if wins < count else 1.0
    return float(min(low, rate)), float(max(high, rate))


def bootstrap_interval(
    samples: Sequence[np.ndarray],
    statistic: Callable[..., np.ndarray],
    *,
    resamples: int = 9999,
    seed: int = 0,
) -> tuple[float, float]:
    """95 % percentile interval of a statistic that is no mean (kappa), expanded for small samples; NaN below 2 of them.

    Plain percentiles are too narrow by the factor sqrt((n-1)/n) and by normal instead of t quantiles (Hesterberg 2015, The
    American Statistician 69, section 3.3).

    Args:
        samples: arrays of equal length (N,), drawn together.
        statistic: of the samples along a keyword `axis`. resamples, seed: of the draw.
    """
    num = len(samples[0])
    if num < 2:
        return _NAN, _NAN
    from scipy import stats

    tail = stats.norm.cdf(np.sqrt(num / (num - 1)) * stats.t.ppf(_TAIL, num - 1))
    drawn = stats.bootstrap(
        samples, statistic, paired=True, vectorized=True, method="percentile", confidence_level=1 - 2 * tail,
        n_resamples=resamples, batch=max(1, 2_000_000 // num), rng=np.random.default_rng(seed),
    ).confidence_interval  # fmt: skip
    return float(drawn.low), float(drawn.high)


@dataclass(frozen=True, slots=True)
class Difference:
    """A mean of paired differences and its 95 % interval over `n` prompts.

    Args:
        p_below, p_above: of the hypotheses that nothing got worse, and that nothing got better; one-sided.
        test: "exact sign flips", or "sign flips" where 9999 were drawn.
    """

    value: float
    low: float
    high: float
    p_below: float
    p_above: float = float("nan")
    n: int = 0
    test: str = ""


def paired_difference(
    differences: Sequence[float] | np.ndarray,
    clusters: Sequence[Hashable] | None = None,
    *,
    limit: float | None = None,
    resamples: int = 9999,
    seed: int = 0,
) -> Difference:
    """Mean difference with an interval, and sign-flip tests against a drop and a rise.

    The tests (see `sign_flips`) are exact if old and new differ by chance alone, even if few prompts changed. The interval
    is that of `mean_with_interval` on the range from -limit to limit. Without a limit, the range is the largest distance
    seen, widened by 4 / n of it. Interval and tests never contradict each other: the interval is cut at 0 if a test rejects
    at 2.5 %, and is extended to 0 if no test does.

    Args:
        differences: (N,) new minus old of each document, no NaN. clusters: (N,) what belongs together, e.g. the prompt.
        limit: the largest possible distance from 0: 1 for verdicts and labels, inf where there is none. None takes 1 where
            no difference is larger, else inf.
        resamples, seed: of the flips, where their number is too large to go through.
    Returns:
        bounds within the limit; NaN where there is nothing to estimate.
    Raises:
        ConfigError: a difference that is NaN, infinite or beyond the limit, or another number of clusters.
    """
    if limit is not None and not limit > 0:
        raise ConfigError(f"the limit of differences must be above 0 (inf for none), got {limit!r}")
    values = _checked(differences, clusters, "differences", *((-np.inf, np.inf) if limit is None else (-limit, limit)))
    if not len(values):
        return Difference(_NAN, _NAN, _NAN, _NAN)
    if limit is None:
        limit = 1.0 if np.abs(values).max() <= 1 else np.inf
    sums, _ = _by_cluster(values, clusters)
    below, is_exact = chance_of_so_low(sums, resamples, seed)
    above, _ = chance_of_so_low(-sums, resamples, seed)
    value = float(values.mean()) + 0.0
    low, high = _difference_bounds(values, clusters, limit)
    # The mean's own sign decides which bound a rejected hypothesis moves; an infinity is never met.
    low = min(max(low, 0.0), value) if above <= _TAIL else min(low, 0.0)
    high = max(min(high, 0.0), value) if below <= _TAIL else max(high, 0.0)
    return Difference(value, low, high, below, above, len(sums), "exact sign flips" if is_exact else "sign flips")


def _difference_bounds(values: np.ndarray, clusters: Sequence[Hashable] | None, limit: float) -> tuple[float, float]:
    if not np.isfinite(limit):
        num = len(values) if clusters is None else len(set(clusters))
        limit = (1 + 4 / num) * float(np.abs(values).max())
    if not limit:
        return 0.0, 0.0
    found = mean_with_interval((values / limit + 1) / 2, clusters)
    return (2 * found.low - 1) * limit, (2 * found.high - 1) * limit


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
        return _NAN
    from statsmodels.stats.power import TTestPower

    effect = TTestPower().solve_power(nobs=num, alpha=1 - CONFIDENCE, power=power)
    return min(float(effect) * standard_deviation, 0.5)


def _checked(
    values: Sequence[float] | np.ndarray, clusters: Sequence[Hashable] | None, what: str, low: float, high: float
) -> np.ndarray:
    try:
        found = np.asarray(values, dtype=float)
    except (TypeError, ValueError) as error:
        raise ConfigError(f"{what} must be one list of numbers: {error}") from error
    if found.ndim != 1 or (clusters is not None and len(clusters) != len(found)):
        named = "" if clusters is None else f" and {len(clusters)} clusters"
        raise ConfigError(f"{what} must be one list of numbers, with a cluster each if any; got {found.shape}{named}")
    slack = _ROUNDING * (high - low) if np.isfinite(high - low) else 0.0
    wrong = np.flatnonzero(~(np.isfinite(found) & (found >= low - slack) & (found <= high + slack)))
    if len(wrong):
        wanted = f"within [{low:g}, {high:g}]" if np.isfinite(high) else "finite"
        raise ConfigError(
            f"{what} must be {wanted}, got {found[wrong[0]]} at position {wrong[0]} ({len(wrong)} such); leave out "
            "what has no value"
        )
    return np.clip(found, low, high)


def _by_cluster(values: np.ndarray, clusters: Sequence[Hashable] | None) -> tuple[np.ndarray, np.ndarray]:
    if clusters is None:
        return values, np.ones_like(values)
    numbers: dict[Hashable, int] = {}
    rows = np.array([numbers.setdefault(cluster, len(numbers)) for cluster in clusters])
    return np.bincount(rows, weights=values), np.bincount(rows).astype(float)


def _error(sums: np.ndarray, sizes: np.ndarray) -> float:
    """Standard error of the ratio of the sums by linearisation; NaN of one cluster."""
    num = len(sums)
    if num < 2:
        return _NAN
    residuals = sums - sums.sum() / sizes.sum() * sizes
    return float(np.sqrt(num / (num - 1) * np.sum(residuals**2)) / sizes.sum())
