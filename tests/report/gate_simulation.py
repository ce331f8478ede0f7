"""How often the gate alarms where nothing got worse, and how often it finds what did: one metric, few verdicts that change.

python -m tests.report.gate_simulation [PAIRS]      4,000 pairs of runs without a loss, then three losses; minutes
"""

from __future__ import annotations

import sys

import numpy as np

from aad_plugin.judges.items import Verdict
from aad_plugin.report.documents import Document
from aad_plugin.report.gate import GateResult, check_gate
from aad_plugin.report.gate_file import Gate
from aad_plugin.report.runs import Run, TaskRun
from aad_plugin.report.verdict_folders import Comparison

SIZES = (50, 160, 500)
CHANGES = range(1, 11)
LOSSES = {"35 worse, 10 better": 45, "55 worse, 30 better": 85, "75 worse, 50 better": 125}
"""Verdicts of 500 that change, 25 more for the worse than for the better."""


def run_of(name: str, verdicts: np.ndarray) -> Run:
    """A run with one gated metric: verdicts against greedy."""
    task = TaskRun("task", version=1)
    for i in range(len(verdicts)):
        task.documents[str(i)] = Document(str(i), str(i), f"q{i}", f"prompt {i}")
    judged = [Verdict(str(i), f"prompt {i}", "judge", p=float(p)) for i, p in enumerate(verdicts)]
    task.comparisons.append(Comparison("aad", "greedy", {"judge": "judge"}, judged))
    return Run(name, tasks={"task": task})


def pair(dice: np.random.Generator, num: int, changed: int, kind: str) -> tuple[np.ndarray, np.ndarray]:
    """Verdicts of two runs of one model, of which so many differ; either run is as likely to have the better one."""
    if kind == "soft":
        old = dice.beta(0.3, 0.3, num)
        other = dice.beta(0.3, 0.3, num)
    else:  # two orders: loss, tie, win
        old = dice.choice([0.0, 0.5, 1.0], num, p=[0.3, 0.4, 0.3])
        other = np.where(old == 0.5, dice.choice([0.0, 1.0], num), np.where(dice.random(num) < 0.8, 0.5, 1 - old))
    new = old.copy()
    rows = dice.choice(num, changed, replace=False)
    new[rows] = other[rows]
    if dice.random() < 0.5:
        old, new = new, old
    return old, new


def false_alarms(pairs: int) -> dict[str, float]:
    """Share of pairs with an alarm though nothing got worse, by kind of verdict and number of prompts, and over all."""
    dice = np.random.default_rng(0)
    alarms: dict[str, list[bool]] = {}
    for number in range(pairs):
        num, kind = SIZES[number % 3], ("two orders", "soft")[number // 3 % 2]
        changed = CHANGES[number // 6 % 10]
        old, new = pair(dice, num, changed, kind)
        if kind == "two orders":  # which run has the better of two verdicts is chance, verdict by verdict
            swap = dice.random(num) < 0.5
            old, new = np.where(swap, new, old), np.where(swap, old, new)
        alarm = bool(check(old, new).regressions)
        for name in ("all", f"{kind}, {num}"):
            alarms.setdefault(name, []).append(alarm)
    return {name: float(np.mean(found)) for name, found in alarms.items()}


def found(pairs: int, num: int, changed: int, net: int = 25, step: float = 0.5) -> float:
    """Share of pairs in which a loss is found: each change is for the worse with the chance that loses `net` on average."""
    dice = np.random.default_rng(changed)
    hits = 0
    for _ in range(pairs):
        old = np.full(num, 0.5)
        new = old.copy()
        worse = dice.random(changed) < (changed + net) / (2 * changed)
        new[:changed] += np.where(worse, -step, step)
        hits += bool(check(old, new).regressions)
    return hits / pairs


def check(old: np.ndarray, new: np.ndarray) -> GateResult:
    """The gate's findings."""
    return check_gate(run_of("old", old), run_of("new", new), Gate())


def main() -> None:
    pairs = int(sys.argv[1]) if len(sys.argv) > 1 else 4000
    for name, share in false_alarms(pairs).items():
        print(f"false alarms, {name}: {share:.2%}", flush=True)
    for name, changed in LOSSES.items():
        share = found(max(1, pairs // 4), 500, changed)
        (fixed,) = check(*fixed_pair(changed)).compared
        print(
            f"{name} of 500 on average: found in {share:.2%}; just so: p = {fixed.p:.5f}, {fixed.outcome}", flush=True
        )


def fixed_pair(changed: int, num: int = 500, net: int = 25) -> tuple[np.ndarray, np.ndarray]:
    """Verdicts with just so many changes for the worse and for the better."""
    worse = (changed + net) // 2
    old, new = np.full(num, 0.5), np.full(num, 0.5)
    new[:worse], new[worse:changed] = 0.0, 1.0
    return old, new


if __name__ == "__main__":
    main()
