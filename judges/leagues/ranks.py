"""Which ranks the data allow a system, and which systems it is not told apart from."""

from __future__ import annotations

import numpy as np

from aad_plugin.judges.statistics.intervals import CONFIDENCE


def rank_sets(
    scores: np.ndarray, drawn: np.ndarray, apart: np.ndarray, reach: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Confidence sets of ranks: for each system, who is surely better and who is surely worse.

    For each system the largest studentised difference to any other is drawn; differences beyond its 95th percentile count,
    so that each system's set of ranks holds its rank with 95 % however many systems there are (Mogstad, Romano, Shaikh &
    Wilhelm 2024, Review of Economic Studies 91, section 3). Two systems of which one only lost to the other are told apart
    by `apart`, and two that nothing compares are not.

    Args:
        scores: (S,) as fitted. drawn: (B, S) of resamples. apart: (S, S) bool, the first is surely better, for pairs whose
            difference has no maximum. reach: (S, S) bool, see `reachable`.
    Returns:
        (S,) how many are better, (S,) how many are worse, (S, S) bool who is not told apart (not oneself).
    """
    difference = scores[:, None] - scores[None, :]
    deviations = drawn[:, :, None] - drawn[:, None, :] - difference
    spread = deviations.std(axis=0)
    spread[spread == 0] = np.inf
    largest = np.abs(deviations / spread).max(axis=2)  # (B, S): over the others
    limit = np.quantile(largest, CONFIDENCE, axis=0)
    better = difference > np.maximum(limit[:, None], limit[None, :]) * np.where(np.isinf(spread), 0, spread)
    better &= ~np.isinf(spread) & reach & reach.T
    better |= apart & reach & ~reach.T
    tied = ~(better | better.T) & ~np.eye(len(scores), dtype=bool)
    return better.sum(axis=0), better.sum(axis=1), tied
