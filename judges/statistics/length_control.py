"""Length-controlled win rate: the win rate an equally long candidate would have had, by a regression on verdicts.

AlpacaEval's model without its regulariser rows: logit p = a + b*tanh(dl / sd(dl)) + c*difficulty, where dl is the
candidate's length minus the baseline's; the rate is the mean prediction at dl = 0 (Dubois et al. 2024,
arXiv 2404.04475). AlpacaEval itself adds an L1 penalty and rows of two gamed systems; `alpaca_eval.py` calls it where
that data is present.

A rate at equal lengths needs answers on both sides of them. Where nearly all differ to one side it would be a guess beyond
the data, which is how rates without difficulties came out up to 14.5 points too high for weak, short systems: there is none
then, and `method` says so. Nothing here raises an exception because of what the lengths or verdicts are.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from aad_plugin.judges.statistics.intervals import CONFIDENCE

_FEWEST = 10
_LEAST_SIDE = 0.1
_LEAST_SPREAD = 0.02  # of the length column: below, it is as good as the intercept


@dataclass(frozen=True, slots=True)
class LengthControlled:
    """A length-controlled win rate in [0, 1], its error and 95 % interval, and by which method and data it was fitted.

    All numbers are NaN where nothing could be fitted; `method` then says why.
    """

    value: float
    standard_error: float
    low: float
    high: float
    method: str


def length_controlled(
    p: Sequence[float] | np.ndarray,
    candidate_lengths: Sequence[int] | np.ndarray,
    baseline_lengths: Sequence[int] | np.ndarray,
    difficulties: Sequence[float] | np.ndarray | None = None,
    clusters: Sequence[str] | Sequence[int] | None = None,
) -> LengthControlled:
    """Fit the regression and predict at equal lengths.

    Args:
        p: (N,) verdicts, p(candidate better), 0..1.
        candidate_lengths, baseline_lengths: (N,) characters.
        difficulties: (N,) AlpacaEval's instruction difficulties. None leaves the term out; there is then no rate unless a
            tenth of the items lie on either side of equal lengths.
        clusters: (N,) prompts; errors are robust against any dependence within one, and prompts are what is counted.
    Returns:
        the rate; its error and interval by the delta method on the logit scale, from statsmodels' robust covariance.
    """
    p = np.asarray(p, dtype=float)
    delta = np.asarray(candidate_lengths, dtype=float) - np.asarray(baseline_lengths, dtype=float)
    prompts = np.arange(len(p)) if clusters is None else np.unique(clusters, return_inverse=True)[1]
    hardness = None if difficulties is None else np.asarray(difficulties, dtype=float)
    reason = _cannot(p, delta, hardness, prompts)
    if reason:
        return _none(f"not fitted: {reason}")
    columns, names = [np.ones_like(p)], []
    if delta.any():
        columns.append(np.tanh(delta / delta.std()))
        names.append("length")
    if hardness is not None and hardness.std():
        columns.append(hardness)
        names.append("AlpacaEval's instruction difficulties")
    method = f"own GLM (binomial, unpenalised) on {' and '.join(names) or 'nothing: all lengths are equal'}"
    if hardness is None:
        method += "; no instruction difficulties: too high by some points for weak, short systems"
    design = np.column_stack(columns)
    try:
        return _fit(p, design, 1 if delta.any() else None, prompts, method + "; no regulariser rows")
    except (np.linalg.LinAlgError, ValueError, FloatingPointError, ZeroDivisionError) as error:
        return _none(f"not fitted: the regression has no solution here ({type(error).__name__})")


def _cannot(p: np.ndarray, delta: np.ndarray, hardness: np.ndarray | None, prompts: np.ndarray) -> str:
    """Why nothing can be fitted; "" where it can."""
    num = len(np.unique(prompts))
    if num < _FEWEST:
        return f"{num} prompts, at least {_FEWEST} needed"
    if not (np.isfinite(delta).all() and np.isfinite(p).all() and (hardness is None or np.isfinite(hardness).all())):
        return "a length, verdict or difficulty is no finite number"
    if np.ptp(p) == 0:
        return "all verdicts are equal"
    if delta.any() and (delta.std() < 1e-12 or np.tanh(delta / delta.std()).std() < _LEAST_SPREAD):
        return "lengths differ by nearly the same everywhere"
    sides = float((delta <= 0).mean()), float((delta >= 0).mean())
    if hardness is None and min(sides) < _LEAST_SIDE:
        word = "longer" if sides[0] < sides[1] else "shorter"
        return (
            f"the candidate is {word} than the baseline on {1 - min(sides):.0%} of the items, so that a rate at equal "
            f"lengths would be a guess beyond the data (at least {_LEAST_SIDE:.0%} are needed on either side, or "
            "instruction difficulties)"
        )
    return ""


def _fit(
    p: np.ndarray, design: np.ndarray, length_column: int | None, prompts: np.ndarray, method: str
) -> LengthControlled:
    import statsmodels.api as sm
    from scipy import stats

    num = len(np.unique(prompts))
    robust: dict = {"cov_type": "HC1"}
    if num < len(p):
        robust = {"cov_type": "cluster", "cov_kwds": {"groups": prompts}}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # separation is looked for below
        fit = sm.GLM(p, design, family=sm.families.Binomial()).fit(**robust)
        equal_lengths = design.copy()
        if length_column is not None:
            equal_lengths[:, length_column] = 0
        predicted = np.asarray(fit.predict(equal_lengths))
        separated = np.allclose(np.asarray(fit.fittedvalues), p, atol=1e-4)
        covariance = np.asarray(fit.cov_params())
    value = float(predicted.mean())
    # d mean(sigmoid(x w)) / dw = mean(s (1 - s) x)
    gradient = (predicted * (1 - predicted)) @ equal_lengths / len(p)
    variance = float(gradient @ covariance @ gradient) + float(np.var(predicted)) / num  # prompts are a sample, too
    error = max(variance, 0.0) ** 0.5
    if separated or not (fit.converged and np.isfinite(error) and 0 < value < 1):
        return _none("not fitted: lengths separate wins from losses")
    half = stats.t.ppf((1 + CONFIDENCE) / 2, num - design.shape[1]) * error / (value * (1 - value))
    centre = np.log(value / (1 - value))
    with np.errstate(over="ignore"):
        low, high = (float(1 / (1 + np.exp(-bound))) for bound in (centre - half, centre + half))
    return LengthControlled(value, error, low, high, method)


def _none(method: str) -> LengthControlled:
    nan = float("nan")
    return LengthControlled(nan, nan, nan, nan, method)
