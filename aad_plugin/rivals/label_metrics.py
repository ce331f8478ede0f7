"""Figures of label tasks: what scikit-learn computes, for predictions that may be missing.

A prediction of None is an answer without a readable label: wrong for accuracy and recall, never a false positive.
An undefined figure (nothing predicted, nothing to find) is NaN, not zero.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from sklearn.metrics import accuracy_score, f1_score, precision_recall_fscore_support

Labelled = tuple[str, str | None]  # gold label, predicted label or None
Flagged = tuple[int | None, int | None]  # gold flag or None where unknown, predicted flag or None where unreadable
_NO_LABEL = "(no label)"


def accuracy(pairs: Sequence[Labelled]) -> float:
    """Share of documents whose label was named, in [0, 1]."""
    gold, said = _columns(pairs)
    return float(accuracy_score(gold, said))


def macro_f1(pairs: Sequence[Labelled]) -> float:
    """Mean F1 over the labels that occur among the documents, in [0, 1]; a label never named counts as 0."""
    gold, said = _columns(pairs)
    return float(f1_score(gold, said, labels=sorted(set(gold)), average="macro", zero_division=0))


def flag_figures(pairs: Sequence[Flagged]) -> dict[str, float]:
    """Precision, recall and F1 of one flag over the documents whose gold flag is known; NaN where undefined."""
    known = [(gold, said or 0) for gold, said in pairs if gold is not None]
    if not known:
        return dict.fromkeys(("precision", "recall", "f1"), math.nan)
    gold, said = zip(*known, strict=True)
    values = precision_recall_fscore_support(gold, said, average="binary", zero_division=np.nan)[:3]
    return {name: float(value) for name, value in zip(("precision", "recall", "f1"), values, strict=True)}


def mean_of(values: Sequence[float | None]) -> float:
    """Mean of the values that are there; NaN of none."""
    known = [value for value in values if value is not None]
    return float(np.mean(known)) if known else math.nan


def mean_of_all(values: Sequence[float | None]) -> float:
    """Mean of the values; NaN unless all are there."""
    return math.nan if None in values else mean_of(values)


def standard_error_of(values: Sequence[float | None]) -> float:
    """Standard error of `mean_of`; NaN of fewer than two values."""
    known = [value for value in values if value is not None]
    return float(np.std(known, ddof=1) / math.sqrt(len(known))) if len(known) > 1 else math.nan


def _columns(pairs: Sequence[Labelled]) -> tuple[list[str], list[str]]:
    return [gold for gold, _ in pairs], [_NO_LABEL if said is None else said for _, said in pairs]
