"""Did a run get worse? Two runs of the same documents, metric by metric, and one answer for a nightly job.

Every metric is compared by flipping the signs of its differences, prompt by prompt: exact however few documents changed,
and McNemar's test where the metric is a label (0 or 1). One-sided against a drop, Holm's correction over everything that is
gated. Runs that differ in more than the model are not compared, and what is not gated is listed with its reason.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from aad_plugin.errors import ConfigError
from aad_plugin.judges.statistics.intervals import CONFIDENCE, paired_difference
from aad_plugin.judges.statistics.summary import MAX_UNJUDGED
from aad_plugin.report.documents import Document
from aad_plugin.report.gate_file import Gate, Rule
from aad_plugin.report.gate_series import (
    Series,
    direction_of,
    largest_difference,
    series_of,
    table_only,
    why_not_gated,
)
from aad_plugin.report.runs import Run, TaskRun

_BETTER = (1 - CONFIDENCE) / 2
_SUMMARY_AGAIN = (
    "run the older `aad judge` line again (nothing is paid twice), or remove summary.json in a task's vs_ folder: "
    "its figures are then computed again"
)


@dataclass(frozen=True)
class Mismatch:
    """Why something is not comparable. what: of `MISMATCHES`, or "metric" where one of the runs lacks it."""

    task: str
    what: str
    detail: str


@dataclass(frozen=True)
class NotGated:
    """A metric that the gate did not look at, and why."""

    task: str
    metric: str
    why: str


@dataclass(frozen=True)
class Tested:
    """One gated metric.

    Args:
        n: prompts among the documents both runs have. old, new: means over those documents. difference: new − old.
        low, high: its 95 % interval, within the metric's range. test: "McNemar", "exact sign flips" or "sign flips".
        p: of the hypothesis that it did not get worse; p_holm: corrected. p_better: that it did not get better.
        outcome: "regression", "better" (p_better is at most 2.5 %) or "fine".
    """

    task: str
    metric: str
    better: str
    n: int
    old: float
    new: float
    difference: float
    low: float
    high: float
    test: str
    p: float
    smallest_drop: float
    p_better: float = 1.0
    p_holm: float = 1.0
    outcome: str = "fine"


@dataclass
class GateResult:
    """What the gate found.

    Args:
        compared: every gated metric. mismatches: what could not be compared. not_gated: every other metric, and why.
        notes: documents that were left out, and new tasks.
    """

    old: str
    new: str
    level: float
    compared: list[Tested] = field(default_factory=list)
    mismatches: list[Mismatch] = field(default_factory=list)
    not_gated: list[NotGated] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @property
    def regressions(self) -> list[Tested]:
        """The metrics that got worse."""
        return [one for one in self.compared if one.outcome == "regression"]

    @property
    def exit_code(self) -> int:
        """1 where something got worse, else 3 where something could not be compared, else 0."""
        return 1 if self.regressions else 3 if self.mismatches or not self.compared else 0

    def to_json(self) -> dict[str, Any]:
        """Everything, with the exit code."""
        return {**asdict(self), "exit_code": self.exit_code}


def check_gate(old: Run, new: Run, gate: Gate) -> GateResult:
    """Compare two runs.

    Raises:
        ConfigError: a rule names a metric that has no direction, or covers nothing.
    """
    result = GateResult(old.name, new.name, gate.level)
    used: set[Rule] = set()
    for name, before in old.tasks.items():
        covering = {rule for rule in gate.rules if rule.covers_task(name)}
        missing = [
            f"{one.samples_missing} in {run.name}"
            for run in (old, new)
            if (one := run.tasks.get(name)) is not None and one.samples_missing
        ]
        if covering and missing:
            used |= covering
            result.mismatches.append(Mismatch(name, "metric", "; ".join(missing)))
            continue
        series = series_of(before)
        gated = _gated(result, before, new.tasks.get(name), series, gate)
        used |= {rule for rule in covering for metric in gated if rule.covers(name, metric)}
        if not gated:
            continue
        after = new.tasks.get(name)
        if after is None:
            result.mismatches.append(Mismatch(name, "metric", f"the task is missing in {new.name}"))
            continue
        found = _differences(before, after, old, new)
        found = [one for one in found if one.what not in gate.allow]
        result.mismatches += found
        if not found:
            _compare(result, before, after, gated, series, gate)
    if not used:
        raise ConfigError(_covers_nothing(old))
    result.mismatches += [_unmet(rule, old) for rule in gate.rules if rule.names_one and rule not in used]
    for name in new.tasks:
        if name not in old.tasks:
            result.notes.append(f"{name} is new: nothing to compare with")
    _correct(result)
    return result


def _gated(
    result: GateResult, before: TaskRun, after: TaskRun | None, series: dict[str, Series], gate: Gate
) -> dict[str, Rule]:
    """The metrics of a task that are gated; the others go to the result's list with their reason."""
    gated = {}
    for metric in series:
        rule = gate.rule_for(before.task, metric)
        why = why_not_gated(before, metric, series[metric].owner, rule)
        if why or rule is None:
            result.not_gated.append(NotGated(before.task, metric, why))
        else:
            gated[metric] = rule
    for metric in table_only(before, series):
        why = "there is no value per document, only a figure of the whole task"
        result.not_gated.append(NotGated(before.task, metric, why))
    if after is not None:
        fresh = [metric for metric in series_of(after) if metric not in series]
        result.not_gated += [NotGated(before.task, metric, f"it is new in {result.new}") for metric in fresh]
    return gated


def _unmet(rule: Rule, old: Run) -> Mismatch:
    """A task or a metric that the gate file names and the run does not have: passing in silence would hide it."""
    tasks = [task for name, task in old.tasks.items() if rule.covers_task(name)]
    if not tasks:
        there = ", ".join(old.tasks)
        return Mismatch(
            rule.task, "metric", f"no such task, which the gate file names, in {old.name}; there are {there}"
        )
    if rule.is_pattern:
        return Mismatch(rule.task, "metric", f"no metric in {old.name} that the gate file's {rule.metric} could gate")
    in_table = [task.task for task in tasks if rule.metric in table_only(task, {})]
    why = (
        f"has no value per document in {', '.join(in_table)}, only a figure of the whole task" if in_table
        else "is no metric of any such task"
    )  # fmt: skip
    return Mismatch(rule.task, "metric", f"{rule.metric}, which the gate file names, {why} in {old.name}")


def _covers_nothing(old: Run) -> str:
    there = sorted({f"{task}: {metric}" for task in old.tasks for metric in series_of(old.tasks[task])})
    return (
        f"the gate covers no metric with values per document in {old.name}; there are {', '.join(there[:12]) or 'none'}"
        " (lm-eval writes them with --log_samples)"
    )


def _compare(
    result: GateResult, before: TaskRun, after: TaskRun, gated: dict[str, Rule], series: dict[str, Series], gate: Gate
) -> None:
    other = series_of(after)
    for metric, rule in gated.items():
        if metric not in other:
            result.mismatches.append(Mismatch(before.task, "metric", f"{metric} is missing in {result.new}"))
            continue
        one, two = series[metric], other[metric]
        if one.judge != two.judge and "judge" not in gate.allow:
            named = [series.judge or "a judge that is not named" for series in (one, two)]
            detail = f"{metric}: {named[0]} in {result.old}, {named[1]} in {result.new}"
            result.mismatches.append(Mismatch(before.task, "judge", detail))
            continue
        if one.method != two.method and "method" not in gate.allow:
            named = [series.method or "an older method, not named" for series in (one, two)]
            detail = f"{metric}: intervals by {named[0]} in {result.old}, {named[1]} in {result.new}; {_SUMMARY_AGAIN}"
            result.mismatches.append(Mismatch(before.task, "method", detail))
            continue
        keys = [key for key in one.values if key in two.values]
        left, every = len(set(one.values) ^ set(two.values)), len(set(one.values) | set(two.values))
        if left > MAX_UNJUDGED * every and "documents" not in gate.allow:
            detail = f"{metric}: {left} of {every} documents have a value in one run only"
            result.mismatches.append(Mismatch(before.task, "documents", detail))
            continue
        if left:
            result.notes.append(f"{before.task}: {metric}: {left} documents have a value in one run only: left out")
        if not keys:
            detail = f"{metric}: no document has a value in both runs"
            result.mismatches.append(Mismatch(before.task, "metric", detail))
            continue
        pairs = np.array([[one.values[key], two.values[key]] for key in keys])
        clusters = [before.documents[key].cluster if key in before.documents else key for key in keys]
        result.compared.append(_tested(before, metric, rule, pairs, clusters))


def _tested(task: TaskRun, metric: str, rule: Rule, pairs: np.ndarray, clusters: Sequence[str]) -> Tested:
    better = direction_of(task, metric, rule)
    sign = 1.0 if better == "higher" else -1.0
    differences = sign * (pairs[:, 1] - pairs[:, 0])
    estimate = paired_difference(differences, clusters, limit=largest_difference(metric, pairs))
    # Several documents with one prompt are no independent labels.
    is_label = bool(np.isin(pairs, (0.0, 1.0)).all()) and estimate.n == len(clusters)
    low, high = sorted((sign * estimate.low + 0.0, sign * estimate.high + 0.0))
    old, new = pairs.mean(axis=0)
    return Tested(
        task=task.task,
        metric=metric,
        better=better,
        n=estimate.n,
        old=float(old),
        new=float(new),
        difference=sign * estimate.value + 0.0,  # no negative zero
        low=low,
        high=high,
        test="McNemar" if is_label else estimate.test,
        p=estimate.p_below,
        p_better=estimate.p_above,
        smallest_drop=rule.smallest_drop,
    )


def _correct(result: GateResult) -> None:
    """Holm over everything that was tested; then what each outcome is."""
    from dataclasses import replace

    from statsmodels.stats.multitest import multipletests

    if not result.compared:
        return
    alone = [one.p for one in result.compared]
    # Of one there is nothing to correct, and statsmodels' function collects garbage at each call.
    corrected = multipletests(alone, alpha=result.level, method="holm")[1] if len(alone) > 1 else alone
    for row, (one, p) in enumerate(zip(result.compared, corrected, strict=True)):
        drop = -one.difference if one.better == "higher" else one.difference
        good = one.p_better <= _BETTER and drop < 0
        worse = p <= result.level and drop > 0 and drop >= one.smallest_drop
        result.compared[row] = replace(
            one, p_holm=float(p), outcome="regression" if worse else "better" if good else "fine"
        )


def _differences(before: TaskRun, after: TaskRun, old: Run, new: Run) -> list[Mismatch]:
    """What differs besides the model."""
    found = []
    for what, one, two in (
        ("dtype", before.dtype, after.dtype),
        ("version", before.version, after.version),
        ("fewshot", before.num_fewshot, after.num_fewshot),
    ):
        if one != two:
            found.append(Mismatch(before.task, what, f"{one} in {old.name}, {two} in {new.name}"))
    only = [set(before.documents) - set(after.documents), set(after.documents) - set(before.documents)]
    if only[0] or only[1]:
        detail = f"{len(only[0])} only in {old.name}, {len(only[1])} only in {new.name}" + _example(only, before, after)
        found.append(Mismatch(before.task, "documents", detail))
    shared = set(before.documents) & set(after.documents)
    changed = [key for key in shared if _prompt(before.documents[key]) != _prompt(after.documents[key])]
    if changed:
        detail = f"{len(changed)} of {len(shared)} documents were asked by another prompt"
        found.append(Mismatch(before.task, "prompts", detail))
    return found


def _prompt(document: Document) -> str:
    return document.rendered_hash or document.prompt_hash


def _example(only: Sequence[Iterable[str]], before: TaskRun, after: TaskRun) -> str:
    ids = [task.documents[key].id for keys, task in zip(only, (before, after), strict=True) for key in sorted(keys)]
    return f", for example {ids[0]}"
