"""Arena-Hard's own score out of verdicts with five labels: a strong verdict counts three times.

Source: lmarena/arena-hard-auto at 196f6b8, show_result.py (mean over the battles of both orders).
"""

from __future__ import annotations

from collections.abc import Sequence

from aad_plugin.judges.items import Verdict
from aad_plugin.judges.statistics.arena_points import FIVE, arena_points
from aad_plugin.judges.statistics.intervals import mean_with_interval


def arena_score(verdicts: Sequence[Verdict]) -> tuple[float, float]:
    """Return (score in [0, 1], standard error over prompts by linearisation); above one half favours the candidate.

    Args:
        verdicts: pairwise, with both orders; each order's p is one of 1, .75, .5, .25, 0 (A>>B … B>>A). A prompt with an
            unjudged order is dropped, as upstream does; identical answers, which no judge was asked about, tie twice.
    Returns:
        NaN twice where a judge gives any other p: what is no label has no points.
    """
    games = [(p, verdict.prompt) for verdict in verdicts for p in _orders(verdict)]
    if any(p not in FIVE for p, _ in games):
        return float("nan"), float("nan")
    battles = [(points, prompt) for p, prompt in games for points in arena_points(p)]
    found = mean_with_interval([points for points, _ in battles], [prompt for _, prompt in battles])
    return found.value, found.standard_error


def _orders(verdict: Verdict) -> tuple[float, ...]:
    known = tuple(p for p in verdict.orders if p is not None)
    if not verdict.judged or len(known) < len(verdict.orders):
        return ()
    return known or ((0.5, 0.5) if verdict.p == 0.5 else ())
