"""How many human labels, or a judge's verdicts, a difference needs; which to label first; prediction-powered intervals.

From a pilot of items that people and the judge have judged. With n labels among N judged items the variance of the
corrected win rate is var(y)/n · (1 − r² (1 − n/N)), r the correlation of verdict and label: verdicts alone never replace
labels, but a good judge makes each label worth 1 / (1 − r²) of them. Source: Angelopoulos, Duchi & Zrnic 2023, "PPI++",
arXiv 2311.01453, section 6.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from aad_plugin.errors import ConfigError
from aad_plugin.judges.statistics.intervals import CONFIDENCE

POWER = 0.8
_LEAST_PILOT = 20
_MOST = 10_000_000
_CAUTION = 0.8416  # the pilot's correlation is taken at the lower end of its one-sided 80 % interval


@dataclass(frozen=True, slots=True)
class Pilot:
    """What a pilot shows: num items, the correlation of verdict and label with its cautious lower end, and the mean square
    distance of labels from one half (1/4 without ties), which is their variance near one half."""

    num: int
    correlation: float
    cautious: float
    square: float


@dataclass(frozen=True, slots=True)
class Plan:
    """Numbers that find a win rate of one half ± difference at the 5 % level with power 80 %.

    labels_alone: human labels without a judge. labels: with the judge's verdicts on `verdicts` items (math.inf: on as many
    as it takes). verdicts_needed: for `labels_alone` / 2 labels, the judged items that make them do; None where no
    number does. correlation: that was reckoned with.
    """

    difference: float
    labels_alone: int
    labels: int
    verdicts: float
    verdicts_needed: int | None
    correlation: float


def pilot_of(labels: Sequence[float], verdicts: Sequence[float]) -> Pilot:
    """Measure a pilot.

    Args:
        labels, verdicts: (N,) p(candidate better) in [0, 1], by people and by the judge.
    Raises:
        ConfigError: fewer than 20 items, or one verdict or one label throughout.
    """
    y, p = np.asarray(labels, dtype=float), np.asarray(verdicts, dtype=float)
    if len(y) < _LEAST_PILOT:
        raise ConfigError(f"a pilot needs at least {_LEAST_PILOT} items with a label and a verdict, got {len(y)}")
    for name, values in (("label", y), ("verdict", p)):
        if values.std() == 0:
            raise ConfigError(
                f"all {len(y)} {name}s of the pilot are {values[0]:g}, so nothing can be learnt of how verdicts and labels "
                "go together: choose other items"
            )
    r = float(np.corrcoef(y, p)[0, 1])
    cautious = math.tanh(math.atanh(max(min(r, 1 - 1e-9), 1e-9 - 1)) - _CAUTION / math.sqrt(len(y) - 3))
    return Pilot(len(y), r, max(cautious, 0.0), float(((y - 0.5) ** 2).mean()))


def plan(pilot: Pilot, difference: float, verdicts: float = math.inf) -> Plan:
    """Plan a study.

    Args:
        difference: of the win rate by people from one half, in (0, 0.5). verdicts: items that the judge can judge in all.
    Raises:
        ConfigError: the difference lies outside, or labels vary too little for it.
    """
    if not 0 < difference < 0.5:
        raise ConfigError(
            f"the difference is a distance of the win rate from 0.5, between 0 and 0.5, got {difference:g}"
        )
    variance = pilot.square - difference**2
    if variance <= 0:
        raise ConfigError(
            f"with so many ties in the pilot no win rate lies {difference:g} from one half; plan for a smaller difference"
        )
    alone = _least(lambda n: variance / n, difference)
    labels = min(alone, _least(lambda n: _variance(variance, pilot.cautious, n, max(verdicts, n)), difference))
    half = max(2, math.ceil(alone / 2))
    needed = None
    if _enough(_variance(variance, pilot.cautious, half, math.inf), half, difference):
        low, high = half, _MOST
        while low < high:
            middle = (low + high) // 2
            good = _enough(_variance(variance, pilot.cautious, half, middle), half, difference)
            low, high = (low, middle) if good else (middle + 1, high)
        needed = low
    return Plan(difference, alone, labels, verdicts, needed, pilot.cautious)


def order_to_label(verdicts: Sequence[float], seed: int = 0) -> list[int]:
    """Places of items in the order in which people should label them.

    Every beginning of it is spread evenly over the judge's verdicts, from sure losses to sure wins, and each item is as
    likely as any other to stand in it; so it serves as the random subset that corrected win rates need.

    Args:
        verdicts: (N,) p(candidate better). seed: of the start and of the order of equal verdicts.
    """
    dice = np.random.default_rng(seed)
    shuffled = dice.permutation(len(verdicts))
    ranked = shuffled[np.argsort(np.asarray(verdicts, dtype=float)[shuffled], kind="stable")]
    start = dice.random()
    found: dict[int, None] = {}
    number = 0
    while len(found) < len(ranked):
        found.setdefault(int(ranked[int((_van_der_corput(number) + start) % 1.0 * len(ranked))]))
        number += 1
    return list(found)


def ppi_interval(
    labels: Sequence[float], verdicts: Sequence[float], others: Sequence[float], weight: float | None = None
) -> tuple[float, float, float]:
    """The prediction-powered mean with its 95 % interval as published: normal quantiles, nothing clipped.

    `labels.corrected_win_rate` is the same estimate with an interval for small samples.

    Args:
        labels, verdicts: (n,) of the labelled items. others: (N,) verdicts on the unlabelled ones, at least two.
        weight: given to verdicts; None is the one of least variance, held to [0, 1].
    """
    from scipy import stats

    y, p, rest = (np.asarray(values, dtype=float) for values in (labels, verdicts, others))
    if len(y) < 2 or len(rest) < 2:
        raise ConfigError(f"an interval needs two labelled and two other items at least, got {len(y)} and {len(rest)}")
    if weight is None:
        spread = float(np.var(np.concatenate([p, rest]), ddof=1))
        common = float(((y - y.mean()) * (p - p.mean())).mean())
        weight = min(max(common / ((1 + len(y) / len(rest)) * spread), 0.0), 1.0) if spread > 0 else 0.0
    value = float(weight * rest.mean() + (y - weight * p).mean())
    error = math.sqrt((y - weight * p).var() / len(y) + weight**2 * rest.var() / len(rest))
    half = float(stats.norm.ppf((1 + CONFIDENCE) / 2)) * error
    return value, value - half, value + half


def _variance(variance: float, correlation: float, labels: int, verdicts: float) -> float:
    return variance / labels * (1 - correlation**2 * (1 - labels / verdicts))


def _enough(variance: float, labels: int, difference: float) -> bool:
    """Whether the interval, Student's on the logit scale, leaves out one half with the wanted power."""
    from scipy import stats

    quantiles = stats.t.ppf((1 + CONFIDENCE) / 2, labels - 1) + stats.norm.ppf(POWER)
    slope = 0.25 - difference**2
    return bool(quantiles * math.sqrt(variance) <= math.log((0.5 + difference) / (0.5 - difference)) * slope)


def _least(variance_of: Callable[[int], float], difference: float) -> int:
    low, high = 3, _MOST
    while low < high:
        middle = (low + high) // 2
        good = _enough(variance_of(middle), middle, difference)
        low, high = (low, middle) if good else (middle + 1, high)
    return low


def _van_der_corput(number: int) -> float:
    """Binary digits mirrored at the point: 0, 1/2, 1/4, 3/4, 1/8, …"""
    value, weight = 0.0, 0.5
    while number:
        value += weight * (number & 1)
        number, weight = number >> 1, weight / 2
    return value
