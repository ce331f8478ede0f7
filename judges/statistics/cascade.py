"""A cascade: a cheap judge on every item, a dear one where the cheap one is unsure and on a random share of the rest.

The dear judge's mean over all items is estimated by the cheap one's, corrected by what the dear one says differently
where it was asked, each correction divided by the chance of having been asked:

    z = cheap + asked / chance · (dear - cheap),    estimate = mean of z

The chances are set before the dear judge says anything, so E[z | item] is the dear judge's verdict whatever the cheap one
is worth: the estimate is unbiased by construction (the difference estimator of survey sampling, Cassel, Särndal & Wretman
1976, Biometrika 63; for judges, active statistical inference, Zrnic & Candès 2024, arXiv 2403.03208, section 3). A bad
cheap judge costs width, never truth.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from aad_plugin.errors import ConfigError
from aad_plugin.judges.items import Verdict
from aad_plugin.judges.statistics.intervals import Estimate, mean_of_unbounded

RANDOM_SHARE = 0.1
"""Least chance of asking the dear judge about an item, however sure the cheap one is."""
CERTAIN_ERRS = 0.01


@dataclass(frozen=True, slots=True)
class Chosen:
    """Which items go to the dear judge: the chance of each, and the draw."""

    chances: tuple[float, ...]
    asked: tuple[bool, ...]


def doubt(verdict: Verdict) -> float:
    """How far the dear judge's verdict is expected from this one (root mean square), 0.1..0.51; 0.51 without a verdict.

    A judge whose p is right differs from a hard verdict by sqrt(p (1 - p)); one that is certain is taken to err once in a
    hundred, since judges are surer than they are right. Orders that contradict each other have p = 1/2.
    """
    p = 0.5 if verdict.p is None else verdict.p
    return float((p * (1 - p) + CERTAIN_ERRS) ** 0.5)


def chances_of_asking(doubts: Sequence[float], share: float, least: float = RANDOM_SHARE) -> np.ndarray:
    """Chances of asking the dear judge that sum to `share` of the items: in proportion to the doubt, at most 1.

    Of all chances with that sum these give the estimate the least variance if the doubts are right (Neyman's allocation).

    Args:
        doubts: (N,) above 0. share: of the items to ask about, in (0, 1]. least: lowest chance, in (0, share].
    Returns:
        (N,) in [least, 1].
    Raises:
        ConfigError: a share out of its range.
    """
    from scipy.optimize import brentq

    if not 0 < share <= 1:
        raise ConfigError(f"the dear judge's share of the items lies in (0, 1], got {share!r}")
    if not 0 < least <= share:
        raise ConfigError(f"the random share lies above 0 and is at most the dear judge's {share!r}, got {least!r}")
    values = np.asarray(doubts, dtype=float)
    if not len(values):
        return values

    def surplus(scale: float) -> float:
        return float(np.clip(scale * values, least, 1).mean() - share)

    most = 1 / values.min()
    if surplus(most) <= 0:
        return np.ones(len(values))
    return np.clip(brentq(surplus, 0.0, most, xtol=1e-12) * values, least, 1)


def choose(cheap: Sequence[Verdict], share: float, least: float = RANDOM_SHARE, seed: int = 0) -> Chosen:
    """Draw the items for the dear judge, each by itself; the same seed and items draw the same ones again.

    Identical answers need no judge: they are a tie for both. What the cheap judge left unjudged is asked for certain, since
    nothing else is known of it; the others get what is left of the share.
    """
    needs = [verdict for verdict in cheap if not is_free(verdict)]
    judged = [verdict for verdict in needs if verdict.p is not None]
    failed = len(needs) - len(judged)
    rest = max((share * len(needs) - failed) / max(1, len(judged)), least) if failed else share
    by_id = dict(zip((v.id for v in judged), chances_of_asking([doubt(v) for v in judged], rest, least), strict=True))
    chances = tuple(float(by_id.get(verdict.id, 1.0)) for verdict in cheap)
    drawn = tuple(
        random.Random(f"cascade {seed} {verdict.id}").random() < chance
        for verdict, chance in zip(cheap, chances, strict=True)
    )
    return Chosen(chances, drawn)


def is_free(verdict: Verdict) -> bool:
    """Whether the answers are identical: a tie that no judge is asked about."""
    return verdict.p == 0.5 and not verdict.orders and not verdict.rulings


def corrected(
    cheap: Sequence[float | None],
    dear: Sequence[float | None],
    chances: Sequence[float],
    prompts: Sequence[str] | None = None,
) -> Estimate:
    """The dear judge's win rate.

    Args:
        cheap: (N,) p by the cheap judge; None where it has no verdict (such items are asked for certain).
        dear: (N,) p by the dear judge; None where it has no verdict.
        chances: (N,) of having a verdict of the dear judge. prompts: (N,) what belongs together.
    Returns:
        the estimate, not cut to 0..1, with `mean_of_unbounded`'s interval.
    Raises:
        ConfigError: a chance that is none, or an item that nobody judged.
    """
    values = []
    for number, (said, truth, chance) in enumerate(zip(cheap, dear, chances, strict=True)):
        if not 0 < chance <= 1 or (said is None and truth is None):
            raise ConfigError(
                f"item {number} of a cascade needs a chance of being asked in (0, 1] and a verdict, got {chance!r}, "
                f"cheap {said!r}, dear {truth!r}"
            )
        base = truth if said is None else said
        values.append((base or 0.0) + ((truth - (base or 0.0)) / chance if truth is not None else 0.0))
    return mean_of_unbounded(values, prompts)
