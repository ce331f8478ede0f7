"""Arena-Hard's rule of points: a strong verdict counts as three battles.

Source: lmarena/arena-hard-auto at 196f6b8, show_result.py (weight 3).
"""

from __future__ import annotations

_STRONG = 3
FIVE = (1.0, 0.75, 0.5, 0.25, 0.0)
"""The p of the labels A>>B … B>>A."""


def arena_points(p: float) -> list[float]:
    """Return the points of each battle that one verdict makes, for the side that p speaks of: 1 won, 1/2 tied, 0 lost.

    Args:
        p: one of 1, .75, .5, .25, 0 (A>>B … B>>A).
    """
    return [0.5 if p == 0.5 else float(p > 0.5)] * (_STRONG if p in (0.0, 1.0) else 1)
