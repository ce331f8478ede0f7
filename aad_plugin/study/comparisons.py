"""Rows of the table held against each other: paired over prompts, and corrected for how many are made."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from aad_plugin.judges.statistics.intervals import CONFIDENCE, Estimate, mean_with_interval, shown
from aad_plugin.study.arms import AAD, BEST_OF_2, EFT, GREEDY, REFERENCE, Arm
from aad_plugin.study.intervals import Interval, difference_of

_SMALL = 0.001

PAPERS_ORDER = (REFERENCE, GREEDY, BEST_OF_2, EFT, AAD)


@dataclass(frozen=True)
class Comparison:
    """One row against another on the prompts both have.

    Attributes:
        n: prompts. difference: of mean oracle rewards. win_rate: share of prompts with the larger reward, ties one half;
            over all pairs of seeds.
        p: two-sided, of no difference in mean reward (sign flips). p_holm: the same after Holm over all comparisons made.
    """

    row: str
    against: str
    n: int
    difference: Interval
    win_rate: Estimate
    p: float
    p_holm: float = float("nan")

    @property
    def sign(self) -> int:
        """1 where the row is better by this comparison alone, -1 where it is worse, 0 where neither can be said.

        By the test: an interval that begins at 0 is one that the test cut there, or that none of its bounds leaves.
        """
        return int(np.sign(self.difference.value)) if self.p <= 1 - CONFIDENCE else 0


def compare_arms(arms: Sequence[Arm]) -> list[Comparison]:
    """Compare every row with the greedy policy and with best_of_2, and AAD with EFT; p-values by Holm over all of them."""
    by_name = {arm.name: arm for arm in arms}
    wanted = [
        (arm, by_name[base]) for base in (GREEDY, BEST_OF_2) if base in by_name for arm in arms if arm.name != base
    ]
    # The two baselines against each other are one comparison, not two.
    wanted = [pair for pair in wanted if (pair[0].name, pair[1].name) != (GREEDY, BEST_OF_2)]
    papers = papers_rows(arms)
    if AAD in papers and EFT in papers:
        wanted.append((papers[AAD], papers[EFT]))
    found = [_compare(one, other) for one, other in wanted]
    if not found:
        return []
    from statsmodels.stats.multitest import multipletests

    corrected = multipletests([one.p for one in found], method="holm")[1]
    return [
        Comparison(one.row, one.against, one.n, one.difference, one.win_rate, one.p, float(p))
        for one, p in zip(found, corrected, strict=True)
    ]


def order_lines(arms: Sequence[Arm]) -> list[str]:
    """Say how the paper's five rows are ordered here, and where that differs from the paper's order and by how much."""
    found = list(papers_rows(arms).items())
    ranked = sorted(found, key=lambda one: one[1].reward.value)
    lines = [
        "Order by mean oracle reward: " + " < ".join(label for label, _ in ranked) + ". The paper's: "
        + " < ".join(PAPERS_ORDER) + "."
    ]  # fmt: skip
    for (low_label, low), (high_label, high) in itertools.pairwise(found):
        compared = _compare(high, low)
        difference = compared.difference
        verdict = {1: "as in the paper", -1: "the other way round", 0: "not told apart"}[compared.sign]
        interval = f"[{difference.low:+.3f}, {difference.high:+.3f}]"
        lines.append(f"{high_label} − {low_label}: {difference.value:+.3f} {interval}, {verdict}.")
    return lines


def conclusion(arms: Sequence[Arm], unit: str = "oracle reward") -> str:
    """Say in one sentence how AAD fares against the greedy policy, as far as the rows tell."""
    rows = papers_rows(arms)
    if AAD not in rows or GREEDY not in rows:
        return "The study is not finished: the rows of AAD and of the greedy policy are not there yet."
    found = _compare(rows[AAD], rows[GREEDY])
    low, high = found.difference.low, found.difference.high
    verdict = {1: "is better than", -1: "is worse than", 0: "cannot be told apart from"}[found.sign]
    p = p_shown(found.p) if found.p < _SMALL else f"= {p_shown(found.p)}"
    return (
        f"AAD {verdict} greedy decoding of the policy on these {found.n} prompts: difference in {unit} "
        f"{shown(found.difference.value, low, high, sign='+')} (95 % over prompts), p {p} (sign flips)."
    )


def p_shown(value: float) -> str:
    """A p-value as it is printed."""
    return f"< {_SMALL}" if value < _SMALL else f"{value:.3f}"


def papers_rows(arms: Sequence[Arm]) -> dict[str, Arm]:
    """Return the paper's rows that are there, by their names, in the paper's order."""
    named = {arm.paper: arm for arm in arms}
    return {name: named[name] for name in PAPERS_ORDER if name in named}


def _compare(one: Arm, other: Arm) -> Comparison:
    n = min(one.prompts, other.prompts)
    ours, theirs = one.rewards[:, :n], other.rewards[:, :n]
    margins = ours[:, None] - theirs[None]
    wins = np.where(margins == 0, 0.5, margins > 0).mean((0, 1))
    difference, p = difference_of(ours.mean(0), theirs.mean(0))
    return Comparison(one.name, other.name, n, difference, mean_with_interval(wins), p)
