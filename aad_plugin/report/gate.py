"""Did a run get worse? Two runs of the same documents, metric by metric, and one answer for a nightly job.

Labels (0 or 1 per document) are compared by McNemar's exact test, scores and verdicts by a bootstrap that draws prompts;
both one-sided against a drop, Holm's correction over everything that is gated. Runs that differ in more than the model
are not compared.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from aad_plugin.errors import ConfigError
from aad_plugin.judges.statistics import paired_difference
from aad_plugin.report.documents import Document
from aad_plugin.report.gate_file import Gate, Rule
from aad_plugin.report.runs import Run, TaskRun

__all__ = ["GateResult", "Mismatch", "Tested", "check_gate"]


@dataclass(frozen=True)
class Mismatch:
    """Why something is not comparable. what: of `MISMATCHES`, or "metric" where one of the runs lacks it."""

    task: str
    what: str
    detail: str


@dataclass(frozen=True)
class Tested:
    """One gated metric.

    Args:
        old, new: means over the n documents both have. difference: new − old; low, high: its 95 % interval.
        test: "McNemar" or "bootstrap". p: of the hypothesis that it did not get worse; p_holm: corrected.
        outcome: "regression", "better" (the interval lies on the good side) or "fine".
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
    p_holm: float = 1.0
    outcome: str = "fine"


@dataclass
class GateResult:
    """What the gate found.

    Args:
        compared: every gated metric. mismatches: what could not be compared. notes: what was left out of the gate.
    """

    old: str
    new: str
    level: float
    compared: list[Tested] = field(default_factory=list)
    mismatches: list[Mismatch] = field(default_factory=list)
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


@dataclass(frozen=True)
class _Series:
    """One metric of one run: document key -> value, and how it may be compared."""

    values: dict[str, float]
    judge: str = ""


def check_gate(old: Run, new: Run, gate: Gate) -> GateResult:
    """Compare two runs.

    Raises:
        ConfigError: a rule names a metric that has no direction, or covers nothing.
    """
    result = GateResult(old.name, new.name, gate.level)
    if old.dtype != new.dtype and "dtype" not in gate.allow:
        result.mismatches.append(Mismatch("*", "dtype", f"{old.dtype} in {old.name}, {new.dtype} in {new.name}"))
        return result
    covered = False
    for name, before in old.tasks.items():
        series = _series(before)
        gated = {metric: rule for metric in series if (rule := gate.rule_for(name, metric))}
        gated = {metric: rule for metric, rule in gated.items() if _direction(before, metric, rule)}
        covered = covered or bool(gated)
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
    if not covered:
        raise ConfigError(
            f"the gate covers no metric with values per document in {old.name}; there are "
            + (
                ", ".join(
                    sorted({f"{task}: {metric}" for task in old.tasks for metric in _series(old.tasks[task])})[:12]
                )
                or "none"
            )
            + " (lm-eval writes them with --log_samples)"
        )
    for name in new.tasks:
        if name not in old.tasks:
            result.notes.append(f"{name} is new: nothing to compare with")
    _correct(result)
    return result


def _compare(
    result: GateResult, before: TaskRun, after: TaskRun, gated: dict[str, Rule], series: dict[str, _Series], gate: Gate
) -> None:
    other = _series(after)
    for metric, rule in gated.items():
        if metric not in other:
            result.mismatches.append(Mismatch(before.task, "metric", f"{metric} is missing in {result.new}"))
            continue
        one, two = series[metric], other[metric]
        if one.judge != two.judge and "judge" not in gate.allow:
            detail = f"{metric}: {one.judge} in {result.old}, {two.judge} in {result.new}"
            result.mismatches.append(Mismatch(before.task, "judge", detail))
            continue
        keys = [key for key in one.values if key in two.values]
        left = len(set(one.values) ^ set(two.values))
        if left:
            result.notes.append(f"{before.task}: {metric}: {left} documents have a value in one run only: left out")
        if not keys:
            detail = f"{metric}: no document has a value in both runs"
            result.mismatches.append(Mismatch(before.task, "metric", detail))
            continue
        pairs = np.array([[one.values[key], two.values[key]] for key in keys])
        clusters = [before.documents[key].prompt_hash if key in before.documents else key for key in keys]
        result.compared.append(_tested(before, metric, rule, pairs, clusters))


def _tested(task: TaskRun, metric: str, rule: Rule, pairs: np.ndarray, clusters: Sequence[str]) -> Tested:
    better = _direction(task, metric, rule)
    sign = 1.0 if better == "higher" else -1.0
    differences = sign * (pairs[:, 1] - pairs[:, 0])
    estimate = paired_difference(differences, clusters)
    # Several documents with one prompt are no independent labels.
    is_label = bool(np.isin(pairs, (0.0, 1.0)).all()) and len(set(clusters)) == len(clusters)
    p = _mcnemar(differences) if is_label else estimate.p_below
    low, high = sorted((sign * estimate.low + 0.0, sign * estimate.high + 0.0))
    old, new = pairs.mean(axis=0)
    return Tested(
        task=task.task,
        metric=metric,
        better=better,
        n=len(pairs),
        old=float(old),
        new=float(new),
        difference=sign * estimate.value + 0.0,  # no negative zero
        low=low,
        high=high,
        test="McNemar" if is_label else "bootstrap",
        p=p,
        smallest_drop=rule.smallest_drop,
    )


def _mcnemar(differences: np.ndarray) -> float:
    """Exact, one-sided: of the documents that changed, how many got worse."""
    from scipy import stats

    worse, changed = int((differences < 0).sum()), int((differences != 0).sum())
    return float(stats.binomtest(worse, changed, 0.5, alternative="greater").pvalue) if changed else 1.0


def _correct(result: GateResult) -> None:
    """Holm over everything that was tested; then what each outcome is."""
    from dataclasses import replace

    from statsmodels.stats.multitest import multipletests

    if not result.compared:
        return
    corrected = multipletests([one.p for one in result.compared], alpha=result.level, method="holm")[1]
    for row, (one, p) in enumerate(zip(result.compared, corrected, strict=True)):
        drop = -one.difference if one.better == "higher" else one.difference
        good = one.low > 0 if one.better == "higher" else one.high < 0
        worse = p <= result.level and drop > 0 and drop >= one.smallest_drop
        result.compared[row] = replace(
            one, p_holm=float(p), outcome="regression" if worse else "better" if good else "fine"
        )


def _direction(task: TaskRun, metric: str, rule: Rule) -> str:
    if rule.direction:
        return rule.direction
    if metric.startswith("win_rate"):
        return "higher"
    known = task.higher_is_better.get(metric.partition(",")[0])
    if known is None and not rule.is_pattern:
        raise ConfigError(f"lm-eval does not say whether more of {metric} is better: give the gate a direction")
    return {True: "higher", False: "lower"}.get(known, "")  # type: ignore[arg-type]


def _series(task: TaskRun) -> dict[str, _Series]:
    """Every metric with a value per document: lm-eval's, and p(candidate better) of each comparison."""
    found: dict[str, _Series] = {}
    names = {name for document in task.documents.values() for name in document.values}
    for name in sorted(names):
        if name.partition(",")[0].endswith("_stderr"):
            continue
        values = {key: one.values[name] for key, one in task.documents.items() if name in one.values}
        found[name.removesuffix(",none")] = _Series(values)
    for comparison in task.comparisons:
        if not comparison.rival:
            continue
        by_document = comparison.by_document(task.documents)
        rates = {key: [v.p for v in verdicts if v.p is not None] for key, verdicts in by_document.items()}
        values = {key: float(np.mean(p)) for key, p in rates.items() if p}
        first = comparison.verdicts[0] if comparison.verdicts else None
        judge = " ".join(
            filter(None, (comparison.judge, first and first.judge_fingerprint[:12], first and first.template[:12]))
        )
        if values:
            found[f"win_rate_vs_{comparison.rival}"] = _Series(values, judge)
    return found


def _differences(before: TaskRun, after: TaskRun, old: Run, new: Run) -> list[Mismatch]:
    """What differs besides the model."""
    found = []
    for what, one, two in (
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
