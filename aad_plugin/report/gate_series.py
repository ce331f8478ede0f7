"""What a run offers to the gate: every metric with a value per document, whose it is, its direction and its range."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from aad_plugin.errors import ConfigError
from aad_plugin.report.figures import names_of
from aad_plugin.report.gate_file import Rule
from aad_plugin.report.runs import TaskRun
from aad_plugin.report.verdict_folders import Comparison

_HIGHER = ("win_rate", "reward_", "grade_")
_GRADES = 9.0  # from 1 to 10


@dataclass(frozen=True)
class Series:
    """One metric of one run.

    values: by document key. judge: who judged. method: how its summary's interval was made. owner: whose answers it is
    about; "" of none.
    """

    values: dict[str, float]
    judge: str = ""
    method: str = ""
    owner: str = ""


def series_of(task: TaskRun) -> dict[str, Series]:
    """Every metric with a value per document: lm-eval's, rewards and grades, and p(candidate better) of each comparison."""
    found: dict[str, Series] = {}
    names = {name for document in task.documents.values() for name in document.values}
    for name in sorted(names):
        if name.partition(",")[0].endswith("_stderr") or name.startswith("win_rate"):
            continue  # win rates are taken from the verdicts, which say who judged
        values = {key: one.values[name] for key, one in task.documents.items() if name in one.values}
        scored_by = task.scored_by if name.startswith(("reward_", "grade_")) else ""
        metric = name.removesuffix(",none")
        found[metric] = Series(values, scored_by, owner=_owner_of(task, metric))
    named: dict[str, list[Series]] = {}
    for comparison in task.comparisons:
        if not comparison.rival:
            continue
        by_document = comparison.by_document(task.documents)
        rates = {key: [v.p for v in verdicts if v.p is not None] for key, verdicts in by_document.items()}
        values = {key: float(np.mean(p)) for key, p in rates.items() if p}
        if values:
            method = str(comparison.figures.get("ci_method") or "")
            one = Series(values, _judge(comparison), method, comparison.candidate)
            named.setdefault(f"win_rate_vs_{comparison.rival}", []).append(one)
    for name, several in named.items():
        found |= {name: several[0]} if len(several) == 1 else _told_apart(name, several)
    return found


def _told_apart(name: str, several: Sequence[Series]) -> dict[str, Series]:
    """Win rates against one rival under names of their own: by candidate and judge, and number where these are equal."""
    found: dict[str, Series] = {}
    for one in several:
        told = f"{name} of {one.owner} by {one.judge or 'an unknown judge'}"
        number = 1 + sum(other.partition(" #")[0] == told for other in found)
        found[told if number == 1 else f"{told} #{number}"] = one
    return found


def table_only(task: TaskRun, series: dict[str, Series]) -> list[str]:
    """Metrics of which only the figure of the whole task is there."""
    names = (name.removesuffix(",none") for name in task.metrics)
    return [name for name in names if name not in series and not name.partition(",")[0].endswith("_stderr")]


def direction_of(task: TaskRun, metric: str, rule: Rule) -> str:
    """Whether "higher" or "lower" is better; "" where nobody says.

    Raises:
        ConfigError: nobody says, and the rule names this very metric.
    """
    if rule.direction:
        return rule.direction
    if metric.startswith(_HIGHER):
        return "higher"
    known = task.higher_is_better.get(metric.partition(",")[0])
    if known is None and not rule.is_pattern:
        raise ConfigError(f"lm-eval does not say whether more of {metric} is better: give the gate a direction")
    return {True: "higher", False: "lower"}.get(known, "")  # type: ignore[arg-type]


def _owner_of(task: TaskRun, metric: str) -> str:
    """The name of the answers a metric is about; "" where it is about none."""
    stem = metric.partition(",")[0]
    return next((name for name in sorted(names_of(task), key=len, reverse=True) if stem.endswith(f"_{name}")), "")


def why_not_gated(task: TaskRun, metric: str, owner: str, rule: Rule | None) -> str:
    """Why a metric with values per document, of the answers of `owner`, is not gated; "" where it is."""
    if rule is None:
        return "no entry of the gate file covers it"
    if not direction_of(task, metric, rule):
        return "nothing says whether more of it is better: give it a direction"
    if rule.metric == "*" and owner and owner != (_candidate(task) or owner):
        return f"it is about {owner}, a rival: name it in the gate file to gate it"
    return ""


def largest_difference(metric: str, pairs: np.ndarray) -> float | None:
    """How far a metric can move: 1 for rates and labels, 9 for grades, else the range of values seen (None: all equal)."""
    if metric.startswith("win_rate") or (pairs.min() >= 0 and pairs.max() <= 1):
        return 1.0
    seen = float(np.ptp(pairs))
    return max(seen, _GRADES) if metric.startswith("grade_") else seen or None


def _candidate(task: TaskRun) -> str:
    """Whose metrics are gated: the first answers that were judged as a candidate, else the first."""
    names: Sequence[str] = names_of(task)
    judged = {one.candidate for one in task.comparisons}
    return next((name for name in names if name in judged), names[0] if names else "")


def _judge(comparison: Comparison) -> str:
    template = comparison.verdicts[0].template[:12] if comparison.verdicts else ""
    return f"{comparison.judge_mark} {template}".strip()
