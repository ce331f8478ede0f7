"""The figures of runs as plain rows: win rates with intervals, and every metric per answer with its standard error."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from aad_plugin.judges.statistics.intervals import interval_of_rate
from aad_plugin.report.runs import Run, TaskRun
from aad_plugin.report.verdict_folders import Comparison

_BY_SCORE = "score_win_rate"


@dataclass(frozen=True)
class WinRate:
    """One comparison of one task and run; rates in 0..1, None where nothing was judged.

    Args:
        low, high: 95 % interval. lc_rate, lc_low, lc_high: as if answers were equally long.
        n: items asked. unjudged: reason -> items. consistency: share of items on which both orders agree.
        first_rate: mean p of the text shown first; 0.5 is without bias.
        cost: None without a price. approximate: the interval is made of the standard error in lm-eval's table.
        method: how the interval was found; "" where a summary does not say.
        complete: False where verdicts could not be read; the figures are then of the others.
    """

    run: str
    task: str
    candidate: str
    rival: str
    rate: float | None
    low: float | None
    high: float | None
    lc_rate: float | None = None
    lc_low: float | None = None
    lc_high: float | None = None
    n: int | None = None
    wins: int | None = None
    losses: int | None = None
    ties: int | None = None
    consistency: float | None = None
    first_rate: float | None = None
    unjudged: dict[str, int] = field(default_factory=dict)
    not_asked: int = 0
    judge: str = ""
    prompt_tokens: int = 0
    completion_tokens: int = 0
    cost: float | None = None
    drift: bool = False
    approximate: bool = False
    method: str = ""
    complete: bool = True

    def to_json(self) -> dict[str, Any]:
        """All fields."""
        return asdict(self)


@dataclass(frozen=True)
class Figure:
    """One metric of one answer ("" where the task has one answer per document), in the metric's own unit.

    Args:
        error: standard error, None where lm-eval gives none. better: "higher", "lower" or "" where neither is.
    """

    run: str
    task: str
    answer: str
    metric: str
    value: float
    error: float | None
    better: str = ""

    def to_json(self) -> dict[str, Any]:
        """All fields."""
        return asdict(self)


def win_rates_of(runs: Iterable[Run]) -> list[WinRate]:
    """Every pairwise comparison of every task; from the results' own table where no verdicts were found, and where a task
    scores answers itself."""
    found = []
    for run in runs:
        for task in run.tasks.values():
            judged = [one for one in task.comparisons if one.figures.get("kind") != "pointwise"]
            found += [_judged(run, task, one) for one in judged]
            if not judged:
                found += _from_table(run, task)
            found += _by_score(run, task)
    return found


def figures_of(runs: Iterable[Run]) -> list[Figure]:
    """Every metric of every task but win rates; lengths and truncation from the answers where there is no table."""
    found = []
    for run in runs:
        for task in run.tasks.values():
            names = names_of(task)
            for name, (value, error) in task.metrics.items():
                metric = name.removesuffix(",none")
                if metric == "judged" or metric.startswith(("win_rate", _BY_SCORE)) or not math.isfinite(value):
                    continue
                by_score = metric.startswith("arena_score_vs_")  # the candidate's, whose opponent is part of its name
                stem, answer = (metric, _candidate(task, "")) if by_score else _split(metric, names)
                direction = task.higher_is_better.get(metric.partition(",")[0])
                better = {True: "higher", False: "lower"}.get(direction, "")  # type: ignore[arg-type]
                found.append(Figure(run.name, task.task, answer, stem, value, error, better))
            if not task.metrics:
                found += _counted(run, task)
            found += _graded(run, task)
    return found


def names_of(task: TaskRun) -> list[str]:
    """The names of a task's answers, in the order they were given."""
    names = {name: None for document in task.documents.values() for name in document.answers}
    if not names:
        names = {
            name.removeprefix("length_").removesuffix(",none"): None
            for name in task.metrics
            if name.startswith("length_")
        }
    return list(names)


def _judged(run: Run, task: TaskRun, comparison: Comparison) -> WinRate:
    given = comparison.figures
    low, high = given.get("ci95") or (None, None)
    lc_low, lc_high = given.get("lc_ci95") or (None, None)
    return WinRate(
        run=run.name,
        task=task.task,
        candidate=comparison.candidate,
        rival=comparison.rival,
        rate=given.get("win_rate"),
        low=low,
        high=high,
        lc_rate=given.get("lc_win_rate"),
        lc_low=lc_low,
        lc_high=lc_high,
        n=given.get("n"),
        wins=given.get("wins"),
        losses=given.get("losses"),
        ties=given.get("ties"),
        consistency=given.get("position_consistency"),
        first_rate=given.get("first_position_rate"),
        unjudged=dict(given.get("unjudged") or {}),
        not_asked=int(given.get("n_not_asked") or 0),
        judge=comparison.judge,
        prompt_tokens=int(given.get("prompt_tokens") or 0),
        completion_tokens=int(given.get("completion_tokens") or 0),
        cost=given.get("cost"),
        drift=bool(given.get("drift")),
        complete=comparison.complete,
        method=str(given.get("ci_method") or ""),
    )


def _from_table(run: Run, task: TaskRun) -> list[WinRate]:
    found = []
    for name, (rate, _) in task.metrics.items():
        metric = name.removesuffix(",none")
        rival = metric.removeprefix("win_rate_vs_")
        if rival == metric or metric.endswith("_stderr") or not math.isfinite(rate):
            continue
        error = task.metrics.get(f"{metric}_stderr,none", (math.nan, None))[0]
        _, own = task.metrics[name]
        error = own if own is not None else error
        low, high = interval_of_rate(rate, error, len(task.documents))
        candidate = _candidate(task, rival)
        shown = [None if math.isnan(bound) else bound for bound in (low, high)]
        found.append(WinRate(run.name, task.task, candidate, rival, rate, shown[0], shown[1], approximate=True))
    return found


def _by_score(run: Run, task: TaskRun) -> list[WinRate]:
    """Win rates of a task that scores answers itself, with the intervals that it gives."""
    figures = {name.removesuffix(",none"): value for name, (value, _) in task.metrics.items()}
    found = []
    for name, rate in figures.items():
        rival = name.removeprefix(f"{_BY_SCORE}_vs_")
        if rival == name or name.endswith("_stderr") or not math.isfinite(rate):
            continue
        bounds = (figures.get(f"{_BY_SCORE}_{end}_vs_{rival}", math.nan) for end in ("low", "high"))
        low, high = (bound if math.isfinite(bound) else None for bound in bounds)
        candidate = _candidate(task, rival)
        found.append(WinRate(run.name, task.task, candidate, rival, rate, low, high, judge="the task's own score"))
    return found


def _candidate(task: TaskRun, rival: str) -> str:
    """The first answer of a task that is not the rival's."""
    return next((one for one in names_of(task) if one != rival), "candidate")


def _split(metric: str, names: Sequence[str]) -> tuple[str, str]:
    """``length_best_of_2`` -> length, best_of_2."""
    for name in sorted(names, key=len, reverse=True):
        if metric.endswith(f"_{name}"):
            return metric.removesuffix(f"_{name}"), name
    return metric, ""


def _counted(run: Run, task: TaskRun) -> list[Figure]:
    found = []
    for name in names_of(task):
        answers = [one.answers[name] for one in task.documents.values() if name in one.answers]
        lengths = [float(one.judged_length) for one in answers]
        found.append(Figure(run.name, task.task, name, "length", *_mean(lengths)))
        ends = [float(one.truncated) for one in answers if one.truncated is not None]
        if ends:
            found.append(Figure(run.name, task.task, name, "truncated", *_mean(ends), "lower"))
    return found


def _graded(run: Run, task: TaskRun) -> list[Figure]:
    """Grades and label shares of pointwise judges."""
    found = []
    for one in task.comparisons:
        if one.figures.get("kind") != "pointwise":
            continue
        if one.figures.get("grade") is not None:
            error = one.figures.get("grade_standard_error")
            found.append(
                Figure(
                    run.name, task.task, one.candidate, f"grade by {one.judge}", one.figures["grade"], error, "higher"
                )
            )
        num = max(1, int(one.figures.get("n") or 0) - int(one.figures.get("n_unjudged") or 0))
        errors = one.figures.get("label_standard_errors") or {}
        for label, share in (one.figures.get("labels") or {}).items():
            error = errors.get(label, math.sqrt(share * (1 - share) / num))  # files of before have none
            found.append(Figure(run.name, task.task, one.candidate, f"{label} by {one.judge}", share, error))
    return found


def _mean(values: Sequence[float]) -> tuple[float, float | None]:
    error = float(np.std(values, ddof=1) / math.sqrt(len(values))) if len(values) > 1 else None
    return float(np.mean(values)), error
