"""Arena-Hard's own score out of verdicts with five labels: a strong verdict counts three times.

Source: lmarena/arena-hard-auto at 196f6b8, show_result.py (weight 3, mean over the battles of both orders).
"""

from __future__ import annotations

from collections.abc import Sequence

from aad_plugin.judges.items import Verdict
from aad_plugin.judges.statistics.intervals import mean_with_interval

_STRONG = 3


def arena_score(verdicts: Sequence[Verdict]) -> tuple[float, float]:
    """Return (score in [0, 1], standard error over prompts by linearisation); above one half favours the candidate.

    Args:
        verdicts: pairwise, with both orders; each order's p is one of 1, .75, .5, .25, 0 (A>>B … B>>A). A prompt with an
            unjudged order is dropped, as upstream does.
    """
    battles = [(points, verdict.prompt) for verdict in verdicts for points in _battles(verdict.orders)]
    found = mean_with_interval([points for points, _ in battles], [prompt for _, prompt in battles])
    return found.value, found.standard_error


def _battles(orders: Sequence[float | None]) -> list[float]:
    """Points of each battle of one verdict; a strong verdict is three battles."""
    known = [p for p in orders if p is not None]
    return [0.5 if p == 0.5 else float(p > 0.5) for p in known for _ in range(_STRONG if p in (0.0, 1.0) else 1)]
