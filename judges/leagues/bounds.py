"""How strong a group of systems must at least be that never lost to the others: an exact bound where no maximum exists."""

from __future__ import annotations

import numpy as np

from aad_plugin.judges.leagues.design import Design

_FURTHEST = 60.0


def met(data: Design, group: np.ndarray, others: np.ndarray) -> bool:
    """Whether anyone of the group, (S,) bool, has battles with anyone of the others."""
    one, two = data.pairs[:, 0], data.pairs[:, 1]
    return bool((group[one] & others[two] | group[two] & others[one]).any())


def shift_of_unbeaten(
    data: Design, scores: np.ndarray, tie: float, group: np.ndarray, others: np.ndarray, is_above: bool, tail: float
) -> float:
    """By how much the whole group's score may be shifted until losing nothing to the others has a chance of only `tail`.

    For one system and equal opponents this is Clopper and Pearson's bound of a rate of 0. Verdicts of one question and
    pair count as one, at most; different pairs count as independent.

    Args:
        scores: (S,) as fitted. tie: log nu. group, others: (S,) bool, of whose battles. is_above: the group never loses
            them; else it never wins.
    Returns:
        log-odds to add to the group's scores: the lowest (highest) they can be; infinite where they did not meet.
    """
    from scipy.optimize import brentq

    one, two = data.pairs[data.pair_of, 0], data.pairs[data.pair_of, 1]
    first = group[one] & others[two]
    across = first | (group[two] & others[one])
    total = np.minimum(1.0, data.shares.sum(axis=1))[across]
    ahead = np.where(first, scores[one] - scores[two], scores[two] - scores[one])[across]
    nu = np.exp(tie)

    def surplus(shift: float) -> float:
        """Log chance of never losing (winning) at this shift, minus the log of the tail."""
        half = (ahead + shift) / 2
        mine, others = (np.exp(half), np.exp(-half)) if is_above else (np.exp(-half), np.exp(half))
        never = total @ (np.log(mine + nu) - np.log(mine + nu + others))
        # A tie would have connected the two sides, so where ties are known none happened either.
        never = total @ (np.log(mine) - np.log(mine + nu + others)) if nu else never
        return float(never - np.log(tail))

    sign = -1 if is_above else 1
    if surplus(sign * _FURTHEST) > 0:
        return sign * np.inf
    return float(brentq(surplus, -_FURTHEST, _FURTHEST, xtol=1e-10))
