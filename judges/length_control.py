"""Length-controlled win rate: the win rate an equally long candidate would have had, by a regression on verdicts.

AlpacaEval's model without its regulariser rows: logit p = a + b*tanh(dl / sd(dl)) + c*difficulty, where dl is the
candidate's length minus the baseline's; the rate is the mean prediction at dl = 0 (Dubois et al. 2024,
arXiv 2404.04475). AlpacaEval itself adds an L1 penalty and rows of two gamed systems; `alpaca_eval.py` calls it where
that data is present.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from aad_plugin.judges.statistics import CONFIDENCE

__all__ = ["LengthControlled", "length_controlled"]

_FEWEST = 10


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
    clusters: Sequence[str] | None = None,
) -> LengthControlled:
    """Fit the regression and predict at equal lengths.

    Args:
        p: (N,) verdicts, p(candidate better), 0..1.
        candidate_lengths, baseline_lengths: (N,) characters.
        difficulties: (N,) AlpacaEval's instruction difficulties; None leaves the term out, which is far off for
            systems far from one half (8 points for one that wins 7 %).
        clusters: (N,) prompts; errors are robust against any dependence within one.
    Returns:
        the rate; its error and interval by the delta method on the logit scale, from statsmodels' robust covariance.
    """
    p = np.asarray(p, dtype=float)
    delta = np.asarray(candidate_lengths, dtype=float) - np.asarray(baseline_lengths, dtype=float)
    if len(p) < _FEWEST:
        return _none(f"not fitted: {len(p)} verdicts, at least {_FEWEST} needed")
    if np.ptp(p) == 0:
        return _none("not fitted: all verdicts are equal")
    columns = [np.ones_like(p)]
    names = ["length"] if delta.std() else []
    if delta.std():
        columns.append(np.tanh(delta / delta.std()))
    if difficulties is not None and np.std(difficulties):
        columns.append(np.asarray(difficulties, dtype=float))
        names.append("AlpacaEval's instruction difficulties")
    method = f"own GLM (binomial, unpenalised) on {' and '.join(names) or 'nothing: all lengths differ equally'}"
    if difficulties is None:
        method += "; no instruction difficulties"
    return _fit(p, np.column_stack(columns), 1 if delta.std() else None, clusters, method + "; no regulariser rows")


def _fit(
    p: np.ndarray, design: np.ndarray, length_column: int | None, clusters: Sequence[str] | None, method: str
) -> LengthControlled:
    import statsmodels.api as sm
    from scipy import stats

    robust: dict = {"cov_type": "HC1"}
    if clusters is not None and len(set(clusters)) < len(p):
        robust = {"cov_type": "cluster", "cov_kwds": {"groups": np.unique(clusters, return_inverse=True)[1]}}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # separation is looked for below
        fit = sm.GLM(p, design, family=sm.families.Binomial()).fit(**robust)
        equal_lengths = design.copy()
        if length_column is not None:
            equal_lengths[:, length_column] = 0
        predicted = np.asarray(fit.predict(equal_lengths))
        separated = np.allclose(np.asarray(fit.fittedvalues), p, atol=1e-4)
    value = float(predicted.mean())
    # d mean(sigmoid(x w)) / dw = mean(s (1 - s) x)
    gradient = (predicted * (1 - predicted)) @ equal_lengths / len(p)
    variance = float(gradient @ fit.cov_params() @ gradient)
    error = (variance + float(np.var(predicted)) / len(p)) ** 0.5  # prompts are a sample, too
    if separated or not (fit.converged and np.isfinite(error) and 0 < value < 1):
        return _none("not fitted: lengths separate wins from losses")
    half = stats.t.ppf((1 + CONFIDENCE) / 2, len(p) - design.shape[1]) * error / (value * (1 - value))
    centre = np.log(value / (1 - value))
    low, high = (float(1 / (1 + np.exp(-bound))) for bound in (centre - half, centre + half))
    return LengthControlled(value, error, low, high, method)


def _none(method: str) -> LengthControlled:
    nan = float("nan")
    return LengthControlled(nan, nan, nan, nan, method)
