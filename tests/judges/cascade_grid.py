"""Simulated cascades: width against asking the dear judge about everything, coverage and bias.

python -m tests.judges.cascade_grid       1,000 runs of 500 prompts each, under a minute
"""

from __future__ import annotations

import sys
from dataclasses import dataclass

import numpy as np

from aad_plugin.judges.statistics.cascade import CERTAIN_ERRS, chances_of_asking, corrected
from aad_plugin.judges.statistics.intervals import mean_of_unbounded, mean_with_interval

CHEAP, DEAR = 1.0, 10.0


@dataclass(frozen=True)
class Outcome:
    """Means over runs: width of the cascade's interval over that of all-dear (the interval a plain run reports, and the
    same method on the same prompts), coverage, bias in standard errors of the mean of the runs, cost over all-dear."""

    width_to_reported: float
    width_to_same_method: float
    coverage: float
    bias: float
    cost: float


def simulate(runs: int, prompts: int, rate: float, seed: int, agreement: float = 0.9, share: float = 0.5) -> Outcome:
    """The dear judge's verdicts are hard with mean `rate`. The cheap one states how sure it is: on a quarter of the prompts
    it is unsure, and there lie nine tenths of its mistakes."""
    wide, same, reported, held, values, cost = [], [], [], 0, [], []
    for number in range(runs):
        dice = np.random.default_rng([seed, prompts, number])
        dear = (dice.random(prompts) < rate).astype(float)
        unsure = dice.random(prompts) < 0.25
        wrong = dice.random(prompts) < np.where(unsure, 0.9 * (1 - agreement) / 0.25, 0.1 * (1 - agreement) / 0.75)
        side = np.where(wrong, 1 - dear, dear)
        sure = np.where(unsure, dice.uniform(0.5, 0.8, prompts), dice.uniform(0.9, 1.0, prompts))
        cheap = np.where(side == 1, sure, 1 - sure)
        chances = chances_of_asking(np.sqrt(cheap * (1 - cheap) + CERTAIN_ERRS), share)
        asked = dice.random(prompts) < chances
        found = corrected(
            cheap.tolist(), [d if a else None for d, a in zip(dear, asked, strict=True)], chances.tolist()
        )
        whole, alike = mean_with_interval(dear), mean_of_unbounded(dear)
        wide.append(found.high - found.low)
        reported.append(whole.high - whole.low)
        same.append(alike.high - alike.low)
        held += found.low <= rate <= found.high
        values.append(found.value)
        cost.append((CHEAP * prompts + DEAR * asked.sum()) / (DEAR * prompts))
    error = np.std(values, ddof=1) / runs**0.5
    return Outcome(
        float(np.mean(wide) / np.mean(reported)), float(np.mean(wide) / np.mean(same)), held / runs,
        float((np.mean(values) - rate) / error), float(np.mean(cost)),
    )  # fmt: skip


def main() -> None:
    runs = int(sys.argv[1]) if len(sys.argv) > 1 else 1000
    for prompts in (200, 500):
        for rate in (0.5, 0.7, 0.9):
            found = simulate(runs, prompts, rate, seed=1)
            print(
                f"{prompts} prompts, rate {rate}: cost {found.cost:.3f}, width {found.width_to_reported:.3f} of a plain "
                f"run's ({found.width_to_same_method:.3f} by the same method), coverage {found.coverage:.3f}, "
                f"bias {found.bias:+.2f} standard errors",
                flush=True,
            )


if __name__ == "__main__":
    main()
