"""Figures of a rubric: a win rate for each criterion, and how far the criteria say the same."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations
from typing import Any

import numpy as np

from aad_plugin.judges.items import Verdict
from aad_plugin.judges.statistics.intervals import mean_with_interval


def criteria_figures(verdicts: Sequence[Verdict]) -> dict[str, Any]:
    """Figures by criterion; {} without a rubric.

    A criterion counts on every item on which both orders state it, whether or not the others are stated.

    Args:
        verdicts: of any outcome.
    Returns:
        criteria: name -> win_rate with ci95 (as `Summary.win_rate`), n, ties, position_consistency (share of items on which
        both orders favour the same answer or neither); criteria_correlation: "one, other" -> Pearson's correlation of p
        over the items judged by both (-1..1, NaN where one is the same throughout).
    """
    names = list(dict.fromkeys(name for verdict in verdicts for name in verdict.criteria or {}))
    if not names:
        return {}
    p = np.array([[_p(verdict, name) for name in names] for verdict in verdicts])
    figures = {name: _figures(verdicts, name, p[:, at]) for at, name in enumerate(names)}
    correlation = {
        f"{names[one]}, {names[two]}": _correlation(p[:, one], p[:, two])
        for one, two in combinations(range(len(names)), 2)
    }
    return {"criteria": figures, "criteria_correlation": correlation}


def _p(verdict: Verdict, name: str) -> float:
    orders = (verdict.criteria or {}).get(name, ())
    if not orders or None in orders:
        return float("nan")
    return float(np.mean(np.array(orders, dtype=float)))


def _figures(verdicts: Sequence[Verdict], name: str, p: np.ndarray) -> dict[str, Any]:
    known = ~np.isnan(p)
    found = mean_with_interval(p[known], [verdict.prompt for verdict in np.array(verdicts, dtype=object)[known]])
    orders = [(v.criteria or {})[name] for v, is_known in zip(verdicts, known, strict=True) if is_known]
    sides = [np.sign(np.array(pair, dtype=float) - 0.5) for pair in orders if len(pair) == 2]
    return {
        "win_rate": found.value,
        "ci95": [found.low, found.high],
        "n": int(known.sum()),
        "ties": int((p[known] == 0.5).sum()),
        "position_consistency": float(np.mean([one == two for one, two in sides])) if sides else float("nan"),
    }


def _correlation(one: np.ndarray, two: np.ndarray) -> float:
    both = ~np.isnan(one) & ~np.isnan(two)
    if both.sum() < 2 or not one[both].std() or not two[both].std():
        return float("nan")
    return float(np.corrcoef(one[both], two[both])[0, 1])
