"""Simulated verdicts with a known truth, and how often an interval contains it.

python -m tests.judges.coverage 2000     the whole table, minutes long
"""

from __future__ import annotations

import sys
from collections.abc import Callable

import numpy as np

from aad_plugin.judges.items import Verdict
from aad_plugin.judges.statistics.intervals import mean_with_interval
from aad_plugin.judges.statistics.labels import agreement_figures, corrected_win_rate
from aad_plugin.judges.statistics.length_control import length_controlled
from aad_plugin.judges.statistics.noise import noise_figures

SIZES = (50, 200, 800)
RATES = (0.5, 0.7, 0.9)
RESAMPLES = 999

Interval = tuple[float, float]
Simulation = Callable[[np.random.Generator, int, float], Interval]


def hard(dice: np.random.Generator, num: int, rate: float) -> Interval:
    """A judge without position bias: 0 or 1."""
    found = mean_with_interval((dice.random(num) < rate).astype(float))
    return found.low, found.high


def both_orders(dice: np.random.Generator, num: int, rate: float) -> Interval:
    """Two hard verdicts per prompt that agree more than chance: 0, one half or 1."""
    each = dice.beta(2 * rate, 2 * (1 - rate), num)
    p = ((dice.random(num) < each).astype(float) + (dice.random(num) < each)) / 2
    found = mean_with_interval(p)
    return found.low, found.high


def soft(dice: np.random.Generator, num: int, rate: float) -> Interval:
    """Probabilities from logprobs, many near 0 and 1."""
    found = mean_with_interval(dice.beta(rate, 1 - rate, num))
    return found.low, found.high


def clustered(dice: np.random.Generator, num: int, rate: float) -> Interval:
    """One to three verdicts per prompt that depend on the prompt; `num` prompts."""
    sizes = dice.integers(1, 4, num)
    clusters = np.repeat(np.arange(num), sizes)
    each = dice.beta(2 * rate, 2 * (1 - rate), num)[clusters]
    found = mean_with_interval((dice.random(len(each)) < each).astype(float), clusters)
    return found.low, found.high


def length_control(dice: np.random.Generator, num: int, rate: float) -> Interval:
    """A judge that likes length; the truth is the rate at equal lengths."""
    delta = dice.normal(20, 100, num).round()
    logit = np.log(rate / (1 - rate)) + 0.7 * np.tanh(delta / delta.std())
    wins = dice.random(num) < 1 / (1 + np.exp(-logit))
    found = length_controlled(wins.astype(float), 500 + delta, np.full(num, 500))
    return found.low, found.high


def judge_noise(dice: np.random.Generator, num: int, rate: float) -> Interval:
    """Verdicts that flip from round to round, judged four times over a random subset."""
    each = dice.beta(2 * rate, 2 * (1 - rate), num)
    again = min(num, max(50, num // 5))
    verdicts = [
        Verdict(
            str(i), str(i), "j", p=float(dice.random() < each[i]),
            repeats=tuple((dice.random(3) < each[i]).astype(float)) if i < again else (),
        )
        for i in range(num)
    ]  # fmt: skip
    low, high = noise_figures(verdicts)["ci95_with_judge_noise"]
    return low, high


def corrected(dice: np.random.Generator, num: int, rate: float) -> Interval:
    """`num` human labels, four times as many items judged by a judge that errs on 15 %, more often for long answers."""
    total = 4 * num
    human = dice.random(total) < rate
    said = np.where(dice.random(total) < 0.15, dice.random(total) < 0.8, human)
    verdicts = [Verdict(str(i), str(i), "j", p=float(said[i])) for i in range(total)]
    truth = {str(i): float(human[i]) for i in range(num)}
    low, high = corrected_win_rate(verdicts, truth)["corrected_ci95"]
    return low, high


def kappa(dice: np.random.Generator, num: int, rate: float) -> Interval:
    """Two evenly used labels, equal in a share `rate`: kappa is 2 * rate - 1, given back as the rate."""
    human = dice.random(num) < 0.5
    said = np.where(dice.random(num) < rate, human, ~human)
    found = agreement_figures([str(s) for s in said], [str(h) for h in human], resamples=RESAMPLES)
    low, high = found["kappa_ci95"]
    return (low + 1) / 2, (high + 1) / 2


def agreement(dice: np.random.Generator, num: int, rate: float) -> Interval:
    """The share of equal labels."""
    human = dice.random(num) < 0.5
    said = np.where(dice.random(num) < rate, human, ~human)
    low, high = agreement_figures([str(s) for s in said], [str(h) for h in human], resamples=2)["agreement_ci95"]
    return low, high


SIMULATIONS: dict[str, Simulation] = {
    found.__name__: found
    for found in (hard, both_orders, soft, clustered, length_control, judge_noise, corrected, kappa, agreement)
}


def coverage(simulation: Simulation, num: int, rate: float, intervals: int, seed: int = 0) -> float:
    """Share of intervals that contain the truth; an interval that could not be fitted counts as a miss."""
    dice = np.random.default_rng([seed, num, round(100 * rate)])
    hits = 0
    for _ in range(intervals):
        low, high = simulation(dice, num, rate)
        hits += low - 1e-12 <= rate <= high + 1e-12
    return hits / intervals


def main() -> None:
    intervals = int(sys.argv[1]) if len(sys.argv) > 1 else 2000
    for name in sys.argv[2:] or SIMULATIONS:
        for num in SIZES:
            shares = [coverage(SIMULATIONS[name], num, rate, intervals) for rate in RATES]
            shown = "  ".join(f"p={rate}: {share:.4f}" for rate, share in zip(RATES, shares, strict=True))
            print(f"{name:15s} n={num:4d}  {shown}", flush=True)


if __name__ == "__main__":
    main()
