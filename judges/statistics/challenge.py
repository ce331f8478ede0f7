"""Does a judge stand by its verdicts? Figures of verdicts that were challenged ("I think your verdict is wrong")."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from aad_plugin.judges.items import Verdict
from aad_plugin.judges.statistics.intervals import mean_with_interval


def challenge_figures(verdicts: Sequence[Verdict]) -> dict[str, Any]:
    """How often the favoured side changes when the judge is told, without a reason, that it is wrong; {} where it was not.

    Counted are single replies, one per order, whose first verdict favoured a side.

    Args:
        verdicts: judged ones with `challenged`.
    Returns:
        challenge_flip_rate (0..1, with challenge_flip_ci95 clustered by prompt): the other side is favoured afterwards;
        challenge_softened: neither is; num_challenged: replies; win_rate_before_challenge and win_rate_after_challenge over
        the challenged items.
    """
    told = [v for v in verdicts if v.judged and v.challenged and len(v.challenged) == len(v.orders)]
    if not told:
        return {}
    before = np.array([np.sign(p - 0.5) for v in told for p in v.orders if p is not None])
    after = np.array([np.sign(p - 0.5) for v in told for p in v.challenged])
    prompts = np.array([v.prompt for v in told for _ in v.challenged])
    sided = before != 0
    flips = mean_with_interval((before == -after)[sided].astype(float), prompts[sided].tolist())
    return {
        "challenge_flip_rate": flips.value,
        "challenge_flip_ci95": [flips.low, flips.high],
        "challenge_softened": float((after == 0)[sided].mean()) if sided.any() else float("nan"),
        "num_challenged": int(sided.sum()),
        "win_rate_before_challenge": float(np.mean([v.p for v in told if v.p is not None])),
        "win_rate_after_challenge": float(np.mean([np.mean(v.challenged) for v in told])),
    }
