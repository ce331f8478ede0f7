"""How good a judge is on comparisons that people judged: accuracy, positions, agreement beside people's own."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from aad_plugin.judges.checks.human_sets import HumanItem
from aad_plugin.judges.items import Verdict
from aad_plugin.judges.statistics.intervals import Estimate, mean_with_interval
from aad_plugin.judges.statistics.labels import agreement_figures

_IMPLIED = (0.5, 0.55, 0.6, 0.7)
_WORDS = {1: "candidate", 0: "tie", -1: "baseline"}


@dataclass(frozen=True, slots=True)
class Quality:
    """What was found; shares in [0, 1] with 95 % intervals over prompts, NaN where nothing could be measured.

    Args:
        accuracy: over the items on which people have a majority: the mean, over both orders, of whether the reply favours
            the side they favour. Where people cannot tie, a tie counts one half; where they can, it must be a tie.
        by_subset: the same for every part of the set. n, n_unjudged, n_without_majority: items.
        consistency: both orders favour the same side. first: share of replies for what stands first.
        position_bias: whether the interval of `first` leaves out one half.
        kappa, kappa_low, kappa_high: Cohen's, with the majority, verdicts joined over the orders.
        with_each: agreement with each of several people in turn, where the set keeps them apart; `with_people` their mean.
        people: mean agreement of two people with each other; people_majority: of a person with the others' common verdict.
        side_accuracy: the accuracy where people favour a side, a tie counting one half.
        implied: for a measured win rate, (the win rate by people that it implies, low, high); see `implied_win_rate`.
        cost, prompt_tokens, completion_tokens: of the whole run; cost None without a price.
    """

    judge: str
    n: int
    n_unjudged: int
    n_without_majority: int
    accuracy: Estimate
    by_subset: dict[str, Estimate]
    consistency: Estimate
    first: Estimate
    position_bias: bool
    kappa: float
    kappa_low: float
    kappa_high: float
    with_each: list[Estimate]
    with_people: float
    people: float
    people_majority: float
    side_accuracy: Estimate
    implied: dict[float, tuple[float, float, float]] = field(default_factory=dict)
    cost: float | None = None
    prompt_tokens: int = 0
    completion_tokens: int = 0


def quality_of(items: Sequence[HumanItem], verdicts: Sequence[Verdict], resamples: int = 2000) -> Quality:
    """Hold verdicts against people's.

    Args:
        items, verdicts: one verdict per item, in order. resamples: of the bootstrap of kappa.
    """
    pairs = list(zip(items, verdicts, strict=True))
    can_tie = any(0.5 in item.people for item in items)
    judged = [(item, verdict) for item, verdict in pairs if verdict.judged and verdict.p is not None]
    decided = [(item, verdict, m) for item, verdict in judged if (m := item.majority) is not None]
    right = [_right(verdict, m, can_tie) for _, verdict, m in decided]
    clusters = [verdict.prompt for _, verdict, _ in decided]
    subsets = sorted({item.subset for item, _, _ in decided if item.subset})
    by_subset = {}
    for name in subsets:
        chosen = [place for place, (item, _, _) in enumerate(decided) if item.subset == name]
        by_subset[name] = mean_with_interval([right[i] for i in chosen], [clusters[i] for i in chosen])
    sided = [(verdict, m) for _, verdict, m in decided if m != 0.5]
    side_accuracy = mean_with_interval([_right(v, m, can_tie=False) for v, m in sided], [v.prompt for v, _ in sided])
    both = [(verdict, tuple(o for o in verdict.orders if o is not None)) for _, verdict in judged]
    both = [(verdict, orders) for verdict, orders in both if len(orders) == 2]
    first = mean_with_interval([(one + 1 - two) / 2 for _, (one, two) in both], [v.prompt for v, _ in both])
    steady = [float(_sign(one) == _sign(two)) for _, (one, two) in both]
    kappa = agreement_figures(
        [_WORDS[_sign(verdict.p or 0.0)] for _, verdict, _ in decided], [_WORDS[_sign(m)] for _, _, m in decided], resamples
    ) if decided else {}  # fmt: skip
    low, high = kappa.get("kappa_ci95", [math.nan] * 2)
    most = max((len(item.people) for item in items), default=0)
    with_each = _with_each(judged, most) if most > 1 and all(len(item.people) == most for item in items) else []
    costs = [verdict.cost for verdict in verdicts if verdict.cost is not None]
    return Quality(
        judge=next((v.judge for v in verdicts), ""),
        n=len(items),
        n_unjudged=len(items) - len(judged),
        n_without_majority=sum(item.majority is None for item in items),
        accuracy=mean_with_interval(right, clusters),
        by_subset=by_subset,
        consistency=mean_with_interval(steady, [v.prompt for v, _ in both]),
        first=first,
        position_bias=bool(both) and not first.low <= 0.5 <= first.high,
        kappa=kappa.get("kappa", math.nan),
        kappa_low=low,
        kappa_high=high,
        with_each=with_each,
        with_people=_mean([_agree(v.p, p) for item, v in judged for p in item.people if len(item.people) > 1]),
        people=_mean([float(_sign(a) == _sign(b)) for i in items for a, b in itertools.combinations(i.people, 2)]),
        people_majority=_person_with_others(items),
        side_accuracy=side_accuracy,
        implied={rate: implied_win_rate(rate, side_accuracy) for rate in _IMPLIED},
        cost=math.fsum(costs) if costs else None,
        prompt_tokens=sum(v.prompt_tokens for v in verdicts),
        completion_tokens=sum(v.completion_tokens for v in verdicts),
    )  # fmt: skip


def implied_win_rate(measured: float, accuracy: Estimate) -> tuple[float, float, float]:
    """The win rate by people behind a measured one, if the judge errs on either side alike: (value, low, high).

    measured = a · w + (1 − a) · (1 − w), so w = (measured + a − 1) / (2a − 1) (Rogan & Gladen 1978). The interval carries
    the uncertainty of the accuracy `a` alone, and holds for data like those on which it was measured. NaN where a judge
    is not shown to be better than a tossed coin.
    """
    if not accuracy.low > 0.5:
        return math.nan, math.nan, math.nan
    rates = [
        min(max((measured + a - 1) / (2 * a - 1), 0.0), 1.0) for a in (accuracy.value, accuracy.low, accuracy.high)
    ]
    return rates[0], min(rates), max(rates)


def to_json(quality: Quality) -> dict[str, Any]:
    """Plain data for a file; estimates as value, ci95, n."""

    def shown(estimate: Estimate) -> dict[str, Any]:
        return {"value": estimate.value, "ci95": [estimate.low, estimate.high], "n_prompts": estimate.n}

    found: dict[str, Any] = {}
    for name in Quality.__slots__:
        value = getattr(quality, name)
        if isinstance(value, Estimate):
            value = shown(value)
        elif name == "by_subset":
            value = {part: shown(one) for part, one in value.items()}
        elif name == "with_each":
            value = [shown(one) for one in value]
        elif name == "implied":
            value = {str(rate): list(bounds) for rate, bounds in value.items()}
        found[name] = value
    return found


def _right(verdict: Verdict, majority: float, can_tie: bool) -> float:
    orders = [p for p in verdict.orders if p is not None] or [verdict.p or 0.0]
    if can_tie:
        return math.fsum(_agree(p, majority) for p in orders) / len(orders)
    return math.fsum(0.5 if p == 0.5 else _agree(p, majority) for p in orders) / len(orders)


def _with_each(judged: Sequence[tuple[HumanItem, Verdict]], num: int) -> list[Estimate]:
    return [
        mean_with_interval([_agree(v.p, item.people[who]) for item, v in judged], [v.prompt for _, v in judged])
        for who in range(num)
    ]


def _person_with_others(items: Sequence[HumanItem]) -> float:
    """Each person against what the others agree on, where they do: what a judge's accuracy is to be compared with."""
    shares = []
    for item in items:
        for who, own in enumerate(item.people):
            others = {_sign(p) for place, p in enumerate(item.people) if place != who}
            if len(others) == 1:
                shares.append(float(_sign(own) in others))
    return _mean(shares)


def _agree(one: float | None, two: float) -> float:
    return float(one is not None and _sign(one) == _sign(two))


def _mean(values: Sequence[float]) -> float:
    return math.fsum(values) / len(values) if values else math.nan


def _sign(p: float) -> int:
    return (p > 0.5) - (p < 0.5)
