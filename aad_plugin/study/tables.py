"""A study's tables as Markdown, CSV and LaTeX (booktabs). Intervals are 95 % over prompts."""

from __future__ import annotations

import csv
import dataclasses
import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from tabulate import tabulate

from aad_plugin.judges.statistics.intervals import shown
from aad_plugin.study.arms import BEST_OF_2, GREEDY, Arm
from aad_plugin.study.comparisons import Comparison, p_shown
from aad_plugin.study.results import Results
from aad_plugin.study.sweeps import Point

_CURVE_SHOWN = (1, 2, 3, 4, 8, 16, 32)


@dataclass(frozen=True)
class Table:
    """One table.

    Attributes:
        name: of its files. title, notes: above and below it in Markdown.
        head, rows: as people read it. figures: the same and more as plain numbers, for CSV; one mapping per line.
    """

    name: str
    title: str
    head: tuple[str, ...]
    rows: Sequence[tuple[str, ...]]
    figures: list[dict[str, Any]]
    notes: tuple[str, ...] = ()

    def markdown(self) -> str:
        """Return title, table and notes."""
        drawn = tabulate(self.rows, self.head, tablefmt="github", disable_numparse=True)
        notes = "".join(f"\n* {note}" for note in self.notes)
        return f"## {self.title}\n\n{drawn}\n{notes}\n"

    def plain(self, columns: int) -> str:
        """Return title and the first so many columns as text for a terminal."""
        rows = [row[:columns] for row in self.rows]
        return f"{self.title}\n{tabulate(rows, self.head[:columns], tablefmt='simple', disable_numparse=True)}"

    def csv(self) -> str:
        """Return the figures, one line per row, NaN as an empty field."""
        file = io.StringIO()
        writer = csv.DictWriter(file, list(self.figures[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(
            {name: "" if value != value else value for name, value in line.items()} for line in self.figures
        )
        return file.getvalue()

    def latex(self) -> str:
        """Return a tabular for ``\\usepackage{booktabs}``."""
        return tabulate(self.rows, self.head, tablefmt="latex_booktabs", disable_numparse=True) + "\n"


def study_tables(results: Results) -> list[Table]:
    """Return the tables that have rows: the main one, comparisons, the sweeps, the curve."""
    tables = [_main(results), _compared(results)]
    tables += [
        _sweep(results, "sweep_alpha", "alpha", results.alphas),
        _sweep(results, "sweep_eft_scale", "EFT scale", results.eft_scales),
        _sweep(results, "sweep_expo_scale", "ExPO scale", results.expo_scales),
        _curve(results),
    ]
    return [table for table in tables if table.rows]


def _main(results: Results) -> Table:
    plan = results.plan
    against = {(one.row, one.against): one for one in results.comparisons}
    head = (
        "row", "n", "seeds", "oracle reward", "wins against greedy", "p", "wins against best_of_2", "p", "tokens",
        "characters", "passes: policy", "reference", "seconds", "CPU seconds",
    )  # fmt: skip
    rows, figures = [], []
    for arm in results.arms:
        pair = [against.get((arm.name, base)) for base in (GREEDY, BEST_OF_2)]
        costs, seeds = arm.costs, ", ".join(map(str, arm.seeds))
        won = [cell for one in pair for cell in _won(one)]
        rows.append((
            _label(arm), str(arm.prompts), seeds or "–", _interval(arm.reward), *won, f"{costs.tokens:.1f}",
            f"{costs.characters:.0f}", f"{costs.policy_passes:.1f}", f"{costs.reference_passes:.1f}",
            f"{costs.seconds:.2f}", f"{costs.cpu_seconds:.2f}",
        ))  # fmt: skip
        figures.append(_arm_figures(arm, seeds) | _won_figures(GREEDY, pair[0]) | _won_figures(BEST_OF_2, pair[1]))
    notes = (
        f"oracle {plan.oracle}; picker of best_of_2: {plan.picker}; {plan.max_new_tokens} new tokens at most; "
        f"decoded in batches of {plan.batch_size}",
        "reward: mean over prompts, [95 %] over prompts; sampled rows: mean over the seeds first",
        "wins: share of prompts with the larger oracle reward, ties one half, over all pairs of seeds; p: two-sided, of "
        f"equal mean rewards, after Holm over the {len(results.comparisons)} comparisons",
        "passes: rows that a model read per answer, counted, the reading of the prompt and of finished rows of a batch "
        "included; seconds: wall clock per answer in a batch, and processor time of all threads",
        *results.order,
        *([f"still missing: {'; '.join(results.missing)}"] if results.missing else []),
    )
    title = f"Oracle reward by decoding{' (PARTIAL)' if results.missing else ''}"
    return Table("table", title, head, rows, figures, notes)


def _compared(results: Results) -> Table:
    head = ("row", "against", "n", "difference of rewards", "win rate", "p", "p (Holm)")
    rows, figures = [], []
    for one in results.comparisons:
        rows.append((
            one.row, one.against, str(one.n), _interval(one.difference, "+"), _interval(one.win_rate), p_shown(one.p),
            p_shown(one.p_holm),
        ))  # fmt: skip
        figures.append({
            "row": one.row, "against": one.against, "n": one.n, "difference": one.difference.value,
            "difference_low": one.difference.low, "difference_high": one.difference.high, "win_rate": one.win_rate.value,
            "win_rate_low": one.win_rate.low, "win_rate_high": one.win_rate.high, "p": one.p, "p_holm": one.p_holm,
        })  # fmt: skip
    return Table("comparisons", "Comparisons, paired over prompts", head, rows, figures)


def _sweep(results: Results, name: str, what: str, points: Sequence[Point]) -> Table:
    head = (what, "decoding", "n", "oracle reward", "difference from greedy", "tokens")
    rows = [
        (f"{p.value:g}", p.name, str(p.n), f"{p.reward:.3f}", _interval(p.difference, "+"), f"{p.tokens:.1f}")
        for p in points
    ]
    figures = [
        {
            "value": p.value, "decoding": p.name, "n": p.n, "reward": p.reward, "difference": p.difference.value,
            "difference_low": p.difference.low, "difference_high": p.difference.high, "tokens": p.tokens,
        }
        for p in points
    ]  # fmt: skip
    notes = (f"dev split of {len(results.plan.dev)} prompts, none of them in the table; oracle {results.plan.oracle}",)
    return Table(name, f"Sweep of {what} on the dev split", head, rows, figures, notes)


def _curve(results: Results) -> Table:
    plan = results.plan
    head = ("N", "picker", "n", "oracle reward", "passes: policy", "reference")
    shown = {*_CURVE_SHOWN, plan.samples}
    figures = [
        {
            "N": p.num, "picker": p.picker, "n": p.n, "reward": p.reward.value, "reward_low": p.reward.low,
            "reward_high": p.reward.high, "policy_passes": p.policy_passes, "reference_passes": p.reference_passes,
        }
        for p in results.curve
    ]  # fmt: skip
    rows = [
        (str(p.num), p.picker, str(p.n), _interval(p.reward), f"{p.policy_passes:.0f}", f"{p.reference_passes:.0f}")
        for p in results.curve
        if p.num in shown
    ]
    held = [f"{arm.name} on these prompts: {_interval(arm.reward)}" for arm in results.on_curve]
    notes = (
        f"expected reward over all subsets of {plan.samples} samples per prompt (seed {plan.seeds[0]}); the oracle is "
        f"{plan.oracle}",
        *held,
    )
    return Table("best_of_n", "best_of_N from one pool of samples", head, rows, figures, notes)


def _arm_figures(arm: Arm, seeds: str) -> dict[str, Any]:
    reward = {"reward": arm.reward.value, "reward_low": arm.reward.low, "reward_high": arm.reward.high}
    own = {"row": arm.name, "note": arm.note, "n": arm.prompts, "seeds": seeds}
    return own | reward | dataclasses.asdict(arm.costs)


def _won_figures(base: str, one: Comparison | None) -> dict[str, Any]:
    name = base.replace(" ", "_")
    values = (one.win_rate.value, one.win_rate.low, one.win_rate.high, one.p_holm) if one else [float("nan")] * 4
    keys = ("win_rate", "win_rate_low", "win_rate_high", "p_holm")
    return {f"{key}_against_{name}": value for key, value in zip(keys, values, strict=True)}


def _label(arm: Arm) -> str:
    return f"{arm.name} ({arm.note})" if arm.note else arm.name


def _won(one: Comparison | None) -> tuple[str, str]:
    return ("–", "–") if one is None else (_interval(one.win_rate), p_shown(one.p_holm))


def _interval(estimate: Any, sign: str = "") -> str:
    return shown(estimate.value, estimate.low, estimate.high, sign=sign)
