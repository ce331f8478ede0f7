"""Arena-Hard's own score out of verdicts with five labels: a strong verdict counts three times.

Source: lmarena/arena-hard-auto at 196f6b8, show_result.py (mean over the battles of both orders).
"""

from __future__ import annotations

from collections.abc import Sequence

from aad_plugin.judges.items import Verdict
from aad_plugin.judges.statistics.arena_points import arena_points
from aad_plugin.judges.statistics.intervals import mean_with_interval


def arena_score(verdicts: Sequence[Verdict]) -> tuple[float, float]:
    """Return (score in [0, 1], standard error over prompts by linearisation); above one half favours the candidate.

    Args:
        verdicts: pairwise, with both orders; each order's p is one of 1, .75, .5, .25, 0 (A>>B … B>>A). A prompt with an
            unjudged order is dropped, as upstream does.
    """
    battles = [
        (points, verdict.prompt)
        for verdict in verdicts
        for p in verdict.orders
        if p is not None
        for points in arena_points(p)
    ]
    found = mean_with_interval([points for points, _ in battles], [prompt for _, prompt in battles])
    return found.value, found.standard_error
