"""Between which limits a judge's orders must agree; outside, a run says so and `aad judge` exits with 4.

A judge's file may set them; the defaults take a judge for insane that does worse than a tossed coin by more than chance.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from aad_plugin.errors import ConfigError
from aad_plugin.judges.items import Verdict

LIMIT_NAMES = ("min_consistency", "max_first_share", "max_contradictions")
_LEAST_ITEMS = 10


@dataclass(frozen=True, slots=True)
class Limits:
    """Limits on shares of the items that were judged in both orders, each 0..1.

    min_consistency: least share on which both orders favour the same answer (or neither); default 0.5.
    max_first_share: most of the mean p of what is shown first, and of what is shown second; default 0.7.
    max_contradictions: most of the share on which the orders contradict each other; default 0.5.
    A default (None) counts as broken only where the share lies beyond it by more than chance (95 %) on at least 10 items;
    a limit that is set counts as it stands.
    """

    min_consistency: float | None = None
    max_first_share: float | None = None
    max_contradictions: float | None = None

    @classmethod
    def of(cls, options: Mapping[str, Any]) -> Limits:
        """Limits among a judge's options.

        Raises:
            ConfigError: one is no number in 0..1.
        """
        given = {name: options[name] for name in LIMIT_NAMES if options.get(name) is not None}
        for name, value in given.items():
            if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= 1:
                raise ConfigError(f"{name} is a share between 0 and 1, got {value!r}")
        return cls(**given)


def outside(verdicts: Sequence[Verdict], limits: Limits | None = None) -> list[str]:
    """What of these verdicts lies outside a judge's limits, in words; empty where nothing does."""
    limits = limits or Limits()
    both = [(v.orders[0], v.orders[1]) for v in verdicts if v.judged and len(v.orders) == 2]
    orders = [(one, two) for one, two in both if one is not None and two is not None]
    num = len(orders)
    if not num:
        return []
    consistent = sum((one > 0.5) - (one < 0.5) == (two > 0.5) - (two < 0.5) for one, two in orders) / num
    contradicting = sum((one - 0.5) * (two - 0.5) < 0 for one, two in orders) / num
    first = math.fsum((one + 1 - two) / 2 for one, two in orders) / num
    shares = [
        ("both orders favour the same answer on", consistent, "at least", limits.min_consistency, 0.5),
        ("what is shown first is preferred with", first, "at most", limits.max_first_share, 0.7),
        ("what is shown second is preferred with", 1 - first, "at most", limits.max_first_share, 0.7),
        ("the two orders contradict each other on", contradicting, "at most", limits.max_contradictions, 0.5),
    ]
    told = []
    for words, value, which, limit, default in shares:
        bound = default if limit is None else limit
        beyond = bound - value if which == "at least" else value - bound
        chance = 1.96 * math.sqrt(bound * (1 - bound) / num) if limit is None else 0.0
        if beyond > chance + 1e-12 and (limit is not None or num >= _LEAST_ITEMS):
            told.append(f"{words} {100 * value:.1f} % of {num} items, {which} {100 * bound:g} % is expected")
    return told
