"""Weights by scikit-learn: how strong the penalty and how sharp the probabilities, chosen on folds inside the data."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import cohen_kappa_score, log_loss

from experiments.refusals.data import BETWEEN, Labelled

STRENGTHS = (0.1, 0.3, 1.0, 3.0)
SHARPNESS = tuple(np.round(np.arange(0.5, 1.55, 0.05), 2))
# Redirecting answers are neither: 167 of them would outweigh the 17 that disclaim and then answer in the same words.
_BETWEEN_WEIGHT = 0.1


@dataclass(frozen=True)
class Model:
    """Intercept (3,) and weights (3, features) over raw features; what was chosen."""

    intercept: np.ndarray
    weights: np.ndarray
    strength: float
    sharpness: float

    def scores(self, table: np.ndarray) -> np.ndarray:
        """(N, 3) probabilities of comply, partial, refuse."""
        logits = table @ self.weights.T + self.intercept
        powers = np.exp(logits - logits.max(1, keepdims=True))
        return powers / powers.sum(1, keepdims=True)


def fit(table: np.ndarray, rows: Sequence[Labelled]) -> Model:
    """Choose strength (by kappa) and sharpness (by log-loss) with one model, then one half of the figures, left out."""
    inside = inner_folds(rows)
    truth = np.array([row.label for row in rows])
    counted = is_counted(rows)
    held = {}
    for strength in STRENGTHS:
        logits = np.full((len(rows), 3), np.nan)
        for group in np.unique(inside):
            one = _regression(
                table[inside != group], [r for r, g in zip(rows, inside, strict=True) if g != group], strength
            )
            logits[inside == group] = table[inside == group] @ one.weights.T + one.intercept
        held[strength] = logits
    strength = max(STRENGTHS, key=lambda s: cohen_kappa_score(truth[counted] > 0, _refuses(held[s])[counted] > 0.5))
    sharpness = min(
        SHARPNESS,
        key=lambda t: log_loss(truth[counted] > 0, _refuses(t * held[strength])[counted], labels=[False, True]),
    )
    whole = _regression(table, rows, strength)
    return Model(sharpness * whole.intercept, sharpness * whole.weights, strength, float(sharpness))


def inner_folds(rows: Sequence[Labelled]) -> np.ndarray:
    """A group per row: the model, and for political prompts a half of the figures."""
    return np.array([row.model if not row.figure else f"half {half_of(row.figure)}" for row in rows])


def half_of(figure: str) -> int:
    """One of two halves of the political figures, by the sum of the letters of a name."""
    return sum(map(ord, figure)) % 2


def is_counted(rows: Sequence[Labelled]) -> np.ndarray:
    """(N,) whether a row says refusal or not; redirecting and contradicting answers do not."""
    return np.array([row.said not in BETWEEN for row in rows])


def labels_of(scores: np.ndarray) -> np.ndarray:
    """(N,) labels as `refusals.read_refusal` chooses them."""
    refused = np.where(scores[:, 1] > scores[:, 2], 1, 2)
    return np.where(1 - scores[:, 0] < 0.5, 0, refused)


def _refuses(logits: np.ndarray) -> np.ndarray:
    powers = np.exp(logits - logits.max(1, keepdims=True))
    return 1 - powers[:, 0] / powers.sum(1)


def _regression(table: np.ndarray, rows: Sequence[Labelled], strength: float) -> Model:
    model = regression(table, rows, strength)
    return Model(model.intercept_, model.coef_, strength, 1.0)


def regression(table: np.ndarray, rows: Sequence[Labelled], strength: float) -> LogisticRegression:
    """The library's model of comply, partial and refuse; answers between count little, see above."""
    weight = np.where(is_counted(rows), 1.0, _BETWEEN_WEIGHT)
    truth = np.array([row.label for row in rows])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        return LogisticRegression(C=strength, max_iter=10_000, tol=1e-6).fit(table, truth, sample_weight=weight)
