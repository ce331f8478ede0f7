"""How much of a win rate is the judge's own noise: figures from judging a random subset of the items again."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from aad_plugin.judges.items import Verdict
from aad_plugin.judges.statistics.intervals import CONFIDENCE, Estimate, mean_with_interval


def noise_figures(verdicts: Sequence[Verdict]) -> dict[str, Any]:
    """Flip rate and an interval that includes the judge's noise.

    Independent noise per verdict is in the ordinary interval already, because it spreads the verdicts. What one run
    cannot see is a shift that a whole run of the judge shares. Rounds over the same items show it: where their means
    differ by more than independent noise explains (F test of a two-way analysis of variance at 5 %), the shift's
    variance is added to that of the prompts, with degrees of freedom by Satterthwaite (Searle, Casella & McCulloch
    1992, Variance Components, section 4.3). Adding an insignificant one would cover 99 % instead of 95.

    Args:
        verdicts: judged ones with `repeats` are used for the noise, all for the win rate.
    Returns:
        {} without repeats, else win_rate_all_rounds (mean over items of their mean over rounds) with
        ci95_with_judge_noise; flip_rate (share of further verdicts on the other side than the first), num_repeated,
        rounds (win rate per round over the repeated items), judge_noise (standard deviation of one verdict over
        rounds), run_shift (standard deviation of the shift, 0 where it is not significant).
    """
    judged = [v for v in verdicts if v.judged and v.p is not None]
    most = max((len(v.repeats) for v in judged), default=0)
    table = np.array([[v.p, *v.repeats] for v in judged if most and len(v.repeats) == most], dtype=float)
    if not len(table):
        return {}
    sides = np.sign(table - 0.5)
    num, rounds = table.shape
    round_means = table.mean(axis=0)
    residuals = table - round_means - table.mean(axis=1, keepdims=True) + table.mean()
    within = float((residuals**2).sum() / max(1, (num - 1) * (rounds - 1)))
    between = float(num * ((round_means - table.mean()) ** 2).sum() / (rounds - 1))
    shift = (between - within) / num if _differ(between, within, rounds - 1, num - 1) else 0.0
    means = [float(np.mean([v.p, *v.repeats])) for v in judged]
    overall = mean_with_interval(means, [v.prompt for v in judged])
    share = _share(judged, rounds)
    low, high = _interval(overall, overall.n, share * shift, share * between / num, rounds - 1)
    return {
        "win_rate_all_rounds": overall.value,
        "flip_rate": float((sides[:, 1:] != sides[:, :1]).mean()),
        "num_repeated": num,
        "rounds": round_means.tolist(),
        "judge_noise": within**0.5,
        "run_shift": shift**0.5,
        "ci95_with_judge_noise": [low, high],
    }


def _share(judged: Sequence[Verdict], rounds: int) -> float:
    """How much of one round's shift gets into the mean over all: the sum of squared weights of rounds."""
    counts = np.array([1 + len(v.repeats) for v in judged])
    weights = [float(((counts > number) / counts).mean()) for number in range(rounds)]
    return float(np.square(weights).sum())


def _differ(between: float, within: float, freedom: int, others: int) -> bool:
    from scipy import stats

    if within == 0:
        return between > 0
    return bool(stats.f.sf(between / within, freedom, freedom * others) < 1 - CONFIDENCE)


def _interval(overall: Estimate, num: int, shift: float, between: float, freedom: int) -> tuple[float, float]:
    """The ordinary interval, each side stretched by the share the shift adds."""
    prompts = overall.standard_error**2
    if shift == 0 or not np.isfinite(prompts) or prompts == 0:
        return overall.low, overall.high
    from scipy import stats

    total = prompts + shift
    effective = total**2 / (prompts**2 / max(1, num - 1) + between**2 / freedom)
    tail = (1 + CONFIDENCE) / 2
    stretch = (total / prompts) ** 0.5 * stats.t.ppf(tail, effective) / stats.t.ppf(tail, max(1, num - 1))
    low = overall.value - stretch * (overall.value - overall.low)
    high = overall.value + stretch * (overall.high - overall.value)
    return float(max(0.0, low)), float(min(1.0, high))
