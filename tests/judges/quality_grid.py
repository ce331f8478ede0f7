"""LLMBar through a real loopback server: does the interval hold a planted accuracy, and is a planted position bias found?

python -m tests.judges.quality_grid 0 50      seeds 0 to 49; the 200 of docs/judge_quality.md in four runs
"""

from __future__ import annotations

import random
import sys
from dataclasses import dataclass

from aad_plugin.judges import compare, load_judge
from aad_plugin.judges.checks.human_sets import HumanItem, read_set
from aad_plugin.judges.checks.quality import Quality, quality_of
from tests.judges import planted
from tests.judges.loopback import Loopback, serving
from tests.public_data import DATA

ACCURACY, BIAS = 0.7, 0.3
BATCH = {"transport": "batch", "poll_s": 0.02}  # as real as live requests, and a tenth of their time


@dataclass
class PlantedAccuracy:
    """A judge that knows which answer is better and says so with probability `accuracy`, order by order; with probability
    `bias` it takes whatever stands first instead. Each request has a draw of its own."""

    items: list[HumanItem]
    accuracy: float = ACCURACY
    bias: float = 0.0
    seed: int = 0

    def __post_init__(self) -> None:
        self.better = {
            frozenset((str(i.comparison.candidate).strip(), str(i.comparison.baseline).strip())): i for i in self.items
        }

    def __call__(self, message: str) -> float:
        _, first, second = planted.texts(message)
        item = self.better.get(frozenset((first.strip(), second.strip())))
        if item is None:
            return 0.9  # the probe's own question
        dice = random.Random(f"{self.seed} {item.comparison.id} {first}")
        if dice.random() < self.bias:
            return 1.0
        is_first = (first.strip() == str(item.comparison.candidate).strip()) == (item.people[0] == 1)
        return float(is_first == (dice.random() < self.accuracy))


def measured(items: list[HumanItem], seed: int, bias: float = 0.0) -> Quality:
    """What is found of a planted judge behind a server."""
    planted.JUDGES["accuracy"] = PlantedAccuracy(items, bias=bias, seed=seed)
    try:
        with serving(Loopback(judge="accuracy")) as url:
            judge = load_judge("openai:planted", base_url=url, form="json", concurrency=32)
            return quality_of(
                items, compare([i.comparison for i in items], judge, progress=False, **BATCH), resamples=100
            )
    finally:
        del planted.JUDGES["accuracy"]


def main(first: int, last: int) -> dict[str, int]:
    """Count over seeds; a biased judge of the same seeds is right in (1 − bias) · accuracy + bias / 2 of its replies."""
    items = read_set("llmbar", DATA)
    found = dict.fromkeys(("seeds", "covered", "false_alarms", "biased", "biased_covered", "bias_found"), 0)
    for seed in range(first, last):
        plain = measured(items, seed)
        found["seeds"] += 1
        found["covered"] += plain.accuracy.low <= ACCURACY <= plain.accuracy.high
        found["false_alarms"] += plain.position_bias
        if seed % 5 == 0:
            biased = measured(items, seed, BIAS)
            truth = (1 - BIAS) * ACCURACY + BIAS / 2
            found["biased"] += 1
            found["biased_covered"] += biased.accuracy.low <= truth <= biased.accuracy.high
            found["bias_found"] += biased.position_bias and biased.first.low > 0.5
    return found


if __name__ == "__main__":
    print(main(int(sys.argv[1]), int(sys.argv[2])))
