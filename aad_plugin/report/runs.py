"""A run as files left it: which results, samples, judged folders and traces belong together.

Owns finding and joining. A run is a folder (or several joined by commas), in which everything below is looked at:

    results_*.json, samples_<task>_*.jsonl      lm-eval's
    <task>/<time>/answers.jsonl, scores.jsonl, vs_<rival>/    a judged run of this package's tasks; lm-eval's results name
                                                the folder, so it is found wherever it is
    verdicts.jsonl with summary.json            `aad judge --output`
    league.json                                 `aad judge --systems`, `aad league`
    pictures_<task>_rank<n>.jsonl               what the documents of a pair that sees showed, small
    *.parquet                                   traces; lm-eval's results name the newest run's folder

Of several results for one task the newest counts, with the samples of the same date. What cannot be read is said in one
line and left out.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from aad_plugin.errors import ConfigError
from aad_plugin.explain.shown_pictures import is_shown, read_shown, task_of
from aad_plugin.explain.trace_files import AnswerTrace, TraceFolder
from aad_plugin.report.documents import Document, read_answers_file, read_samples, read_scores
from aad_plugin.report.leagues import is_league, read_leagues
from aad_plugin.report.verdict_folders import Comparison, read_comparison

_SAMPLES = re.compile(r"samples_(.+)_(\d{4}-\d\d-\d\dT.*)\.jsonl(\.gz)?")


@dataclass
class TaskRun:
    """One task of a run.

    Args:
        metrics: lm-eval's name with its filter (``acc,none``) -> (value, standard error or None).
        higher_is_better: metric without filter -> direction, where it has one. version, num_fewshot: lm-eval's.
        documents: by lm-eval's hash of the document, or by its id where there are no samples.
        comparisons: what judges said.
        date: when, for choosing the newest. samples_missing: why there are no samples, where others are left out.
        judged_folder: where lm-eval's results say that the judged run wrote. scored_by: the judge of its rewards and
            grades, as far as that is known.
        model: lm-eval's name of it. config: the ``config`` of its results file.
    """

    task: str
    metrics: dict[str, tuple[float, float | None]] = field(default_factory=dict)
    higher_is_better: dict[str, bool] = field(default_factory=dict)
    version: Any = None
    num_fewshot: Any = None
    documents: dict[str, Document] = field(default_factory=dict)
    comparisons: list[Comparison] = field(default_factory=list)
    date: str = ""
    samples_missing: str = ""
    judged_folder: Path | None = None
    scored_by: str = ""
    model: str = ""
    config: dict[str, Any] = field(default_factory=dict)

    @property
    def dtype(self) -> str:
        """Data type of the weights, as far as the results say."""
        return _dtype(self.config)


@dataclass
class Run:
    """Everything found of one run.

    Args:
        model: lm-eval's name of it. config: the ``config`` of its newest results file.
        problems: one line each: what could not be read, or does not belong.
        leagues: standings of many systems, see `leagues.read_leagues`.
        traces: folders with traces. traced: (task, document key, answer name) -> where its trace is.
    """

    name: str
    model: str = ""
    config: dict[str, Any] = field(default_factory=dict)
    tasks: dict[str, TaskRun] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)
    leagues: list[dict[str, Any]] = field(default_factory=list)
    traced: dict[tuple[str, str, str], tuple[TraceFolder, AnswerTrace]] = field(default_factory=dict)

    @property
    def dtype(self) -> str:
        """Data type of the weights, as far as the results say."""
        return " / ".join(sorted({_dtype(one.config) for one in self.tasks.values() if one.config})) or "unknown"


def _dtype(config: Mapping[str, Any]) -> str:
    own = (config.get("aad") or {}).get("dtype")
    if isinstance(own, dict):
        return " / ".join(sorted({str(value).removeprefix("torch.") for value in own.values()}))
    return str(own or config.get("model_dtype") or "unknown").removeprefix("torch.")


def read_run(spec: str) -> Run:
    """Read one run.

    Args:
        spec: FOLDER, or NAME=FOLDER[,FOLDER…] to name it and to join what lies in several places.
    Raises:
        ConfigError: no such folder, or no results, samples or verdicts in it.
    """
    name, folders = _split(spec)
    run = Run(name)
    files = sorted({path for folder in folders for path in folder.rglob("*") if path.is_file()})
    for path in files:
        if path.name.startswith("results_") and path.suffix == ".json":
            _read_results(run, path)
    _take_newest(run)
    files = sorted({*files, *_elsewhere(run, files)})
    _read_samples(run, files)
    _read_shown(run, [path for path in files if is_shown(path)])
    _read_judged(run, files)
    run.leagues = read_leagues(files, run.problems)
    if not run.tasks and not run.leagues:
        raise ConfigError(
            f"no results in {', '.join(map(str, folders))}: expected lm-eval's results_*.json or samples_*.jsonl, a judged "
            "run's answers.jsonl, `aad judge`'s verdicts.jsonl or a league.json" + _first(run.problems)
        )
    _join_traces(run, sorted({path.parent for path in files if path.suffix == ".parquet"}))
    return run


def _elsewhere(run: Run, files: Iterable[Path]) -> list[Path]:
    """Files of judged runs and traces that lie outside the folders given, where the results say they are."""
    here = {path.resolve().parent for path in files}
    found: list[Path] = []
    trace = run.config.get("aad", {}).get("trace") if isinstance(run.config.get("aad"), dict) else None
    if isinstance(trace, str) and Path(trace) not in here:
        if Path(trace).is_dir():
            found += [path for path in Path(trace).glob("*.parquet") if path.is_file()]
        elif not any(path.name == Path(trace).name for path in here):
            run.problems.append(
                f"traces were written to {trace}, which is not there: pass their folder, NAME=FOLDER,FOLDER"
            )
    for task in run.tasks.values():
        folder = task.judged_folder
        if folder is None or folder in here:
            continue
        if folder.is_dir():
            found += [path for path in folder.rglob("*") if path.is_file()]
        elif not any(path.name == folder.name and path.parent.name == folder.parent.name for path in here):
            run.problems.append(
                f"{task.task}: answers and verdicts were written to {folder}, which is not there: pass the folder "
                "they are in, NAME=FOLDER,FOLDER"
            )
    return found


def _split(spec: str) -> tuple[str, list[Path]]:
    name, folders = "", [Path(spec)]
    if not Path(spec).exists():
        name, equals, rest = spec.partition("=")
        folders = [Path(part) for part in (rest if equals else spec).split(",")]
        name = name if equals else ""
    for folder in folders:
        if not folder.is_dir():
            raise ConfigError(f"no folder {str(folder)!r}: a run is FOLDER or NAME=FOLDER[,FOLDER…]")
    return name or folders[0].resolve().name, folders


def _read_results(run: Run, path: Path) -> None:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        results = dict(content["results"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        run.problems.append(f"{path} is no lm-eval results file ({type(error).__name__}: {error}): left out")
        return
    date = path.stem.removeprefix("results_")
    for task, figures in results.items():
        held = run.tasks.get(task)
        if (held is not None and held.date >= date) or task in content.get("groups", {}):
            continue
        run.tasks[task] = TaskRun(
            task,
            metrics=_metrics(figures),
            higher_is_better=content.get("higher_is_better", {}).get(task) or {},
            version=content.get("versions", {}).get(task),
            num_fewshot=content.get("n-shot", {}).get(task),
            date=date,
            judged_folder=Path(folder) if (folder := _metadata(content, task, "judged_folder")) else None,
            scored_by=_metadata(content, task, "judge"),
            model=str(content.get("model_name") or ""),
            config=content.get("config") or {},
        )


def _take_newest(run: Run) -> None:
    """The run's model and configuration are those of its newest results; several models in one run are said."""
    held = sorted((task for task in run.tasks.values() if task.date), key=lambda task: task.date)
    if held:
        run.model, run.config = held[-1].model, held[-1].config
    names = sorted({_pair(task) for task in held})
    if len(names) > 1:
        run.problems.append(
            f"{len(names)} models have results here ({', '.join(names)}), and of each task the newest counts, whoever's it "
            "is: pass them as runs of their own"
        )


def _pair(task: TaskRun) -> str:
    """Which model a task's results are of, as far as they say."""
    own = task.config.get("aad") or {}
    parts = own.get("pair") or ", ".join(str(one) for one in (own.get("parts") or {}).values())
    return f"{task.model} ({parts})" if parts and str(parts) != task.model else task.model or "one without a name"


def _metadata(content: dict[str, Any], task: str, name: str) -> str:
    """A text among a task's metadata; "" where there is none."""
    config = (content.get("configs") or {}).get(task) or {}
    metadata = config.get("metadata") if isinstance(config, dict) else None
    value = metadata.get(name) if isinstance(metadata, dict) else None
    return value if isinstance(value, str) else ""


def _metrics(figures: dict[str, Any]) -> dict[str, tuple[float, float | None]]:
    found = {}
    for name, value in figures.items():
        metric, comma, chosen = name.partition(",")
        if not comma or metric.endswith("_stderr") or not isinstance(value, int | float):
            continue
        error = figures.get(f"{metric}_stderr,{chosen}")
        found[name] = (float(value), float(error) if isinstance(error, int | float) else None)
    return found


def _read_samples(run: Run, files: Iterable[Path]) -> None:
    """Read each task's samples of the same run of lm-eval as its results, the newest where it has no results."""
    by_task: dict[str, dict[str, Path]] = {}
    for path in files:
        if (named := _SAMPLES.fullmatch(path.name)) is not None:
            by_task.setdefault(named[1], {})[named[2]] = path
        elif path.name.startswith("samples_") and ".jsonl" in path.suffixes:
            run.problems.append(f"{path} is not named samples_<task>_<date>.jsonl, as lm-eval names them: left out")
    for task, by_date in by_task.items():
        newest = max(by_date)
        held = run.tasks.setdefault(task, TaskRun(task, date=newest))
        if held.date in by_date:
            held.documents = read_samples(by_date[held.date], run.problems)
            continue
        held.samples_missing = f"the newest results are of {held.date}, the newest samples of {newest}"
        run.problems.append(
            f"{task}: {held.samples_missing}: these samples are left out; run lm-eval again with --log_samples"
        )


def _read_shown(run: Run, files: Iterable[Path]) -> None:
    """Give documents the pictures that their prompts showed."""
    for path in files:
        task = run.tasks.get(task_of(path))
        by_number = {(one.number, one.rendered_hash): one for one in task.documents.values()} if task else {}
        try:
            for shown in read_shown(path):
                if (document := by_number.get((shown.number, shown.prompt_hash))) is not None:
                    document.pictures = shown.pictures
        except ConfigError as error:
            run.problems.append(f"{error}: left out")


def _read_judged(run: Run, files: Iterable[Path]) -> None:
    folders = {path.parent for path in files if path.name == "answers.jsonl"}
    by_task: dict[str, list[Path]] = {}
    for folder in sorted(folders):  # <task>/<time>, whichever of the two was named
        by_task.setdefault(folder.resolve().parent.name, []).append(folder)
    for task, found in by_task.items():
        _take_judged(run, run.tasks.setdefault(task, TaskRun(task)), found)
    inside = {inner for folder in folders for inner in (folder, *folder.iterdir())}
    for path in files:
        if path.name == "verdicts.jsonl" and path.parent not in inside and not is_league(path.parent):
            _take_verdicts(run, path.parent)


def _take_judged(run: Run, task: TaskRun, folders: list[Path]) -> None:
    """Take the judged folder that is about this run's answers: the one its results name, or else the newest."""
    named = task.judged_folder.resolve() if task.judged_folder else None
    for folder in sorted(reversed(folders), key=lambda folder: folder.resolve() != named):
        documents = read_answers_file(folder / "answers.jsonl", run.problems)
        if not documents:
            continue
        by_id = {document.id: document for document in task.documents.values()}
        shared = [one for one in documents.values() if one.id in by_id]
        if not task.documents:
            task.documents = documents
        elif not shared or not all(one.same_answers(by_id[one.id]) for one in shared):
            run.problems.append(f"{folder} was judged on other answers than the samples of {task.task}: left out")
            continue
        for one in shared:  # as verdicts on them are told: a sample does not know its pictures
            by_id[one.id].prompt_hash = one.prompt_hash if one.shows_pictures else by_id[one.id].prompt_hash
        read_scores(folder / "scores.jsonl", task.documents, run.problems)
        names = list(next(iter(documents.values())).answers)
        task.comparisons = [
            comparison.of_one_of(names)
            for inner in sorted(folder.glob("vs_*"), key=lambda inner: _place(inner, documents))
            if (comparison := read_comparison(inner, run.problems, inner.name.removeprefix("vs_")))
        ]
        task.scored_by = next((one.judge_mark for one in task.comparisons), task.scored_by)
        return


def _place(folder: Path, documents: dict[str, Document]) -> tuple[int, str]:
    """Where a rival stands among the answers; those that have none of their own come last."""
    names = list(next(iter(documents.values())).answers)
    rival = folder.name.removeprefix("vs_")
    return (names.index(rival) if rival in names else len(names), rival)


def _take_verdicts(run: Run, folder: Path) -> None:
    """Join `aad judge`'s verdicts with the task whose prompts and answers they are about."""
    comparison = read_comparison(folder, run.problems)
    if comparison is None:
        return
    hashes = {verdict.prompt for verdict in comparison.verdicts}
    others = False
    for task in run.tasks.values():
        about = [document for document in task.documents.values() if document.prompt_hash in hashes]
        name = comparison.answer_among(about) if about else None
        if name is not None:
            comparison.candidate = name
            task.comparisons.append(comparison)
            return
        others = others or bool(about)
    place = folder.name
    if place in run.tasks and run.tasks[place].documents:  # a task is called so
        place = str(folder)
    run.tasks.setdefault(place, TaskRun(place)).comparisons.append(comparison)
    if any(task.documents for task in run.tasks.values()):
        what = (
            f"other answers than this run's (of {comparison.candidate!r})" if others else "none of this run's prompts"
        )
        run.problems.append(f"{folder} holds verdicts on {what}: shown without answers")


def _join_traces(run: Run, folders: Iterable[Path]) -> None:
    for path in folders:
        try:
            folder = TraceFolder(path)
        except ConfigError as error:
            run.problems.append(f"{error}: left out")
            continue
        by_answer: dict[str, list[AnswerTrace]] = {}
        for trace in folder:
            by_answer.setdefault(trace.answer_hash, []).append(trace)
        before = len(run.traced)
        for task in run.tasks.values():
            for key, document in task.documents.items():
                for name, answer in document.answers.items():
                    if (own := answer.trace_among(by_answer, task.task, document.number)) is not None:
                        run.traced[task.task, key, name] = (folder, own)
        if len(run.traced) == before:
            run.problems.append(f"{path} holds traces of another run: none is about an answer of this one; left out")


def _first(problems: list[str]) -> str:
    return f"; {problems[0]}" if problems else ""
