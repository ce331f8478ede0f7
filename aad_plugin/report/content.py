"""What the page shows, as JSON: figures as rows, documents with answers and verdicts, tokens where there are traces.

The short names are the page's own (``report.js``); texts stand in it once.
"""

from __future__ import annotations

import datetime
import json
from collections.abc import Mapping, Sequence
from typing import Any

from tqdm.auto import tqdm

from aad_plugin.explain.trace_files import AnswerTrace, TraceFolder
from aad_plugin.explain.views import compact_steps
from aad_plugin.judges.items import Verdict
from aad_plugin.judges.refusals import is_refusal
from aad_plugin.report.documents import AnswerText, Document
from aad_plugin.report.figures import figures_of, win_rates_of
from aad_plugin.report.runs import Run
from aad_plugin.report.verdict_folders import Comparison
from aad_plugin.texts.thinking import answer_after_thinking

TRUNCATED, REFUSES, DEGENERATE = 1, 2, 4
_MAX_WORDS = 4000  # characters of a judge's reply that are shown
_MAX_PLAUSIBLE = 8
_MAX_PICTURES = 16_000_000  # characters of all pictures: about a thousand small ones, and the page stays below 30 MB
_AGGREGATES = ("length_", "truncated_", "degenerate_", "judged,", "win_rate")


def page_content(runs: Sequence[Run], *, title: str, max_traces: int, progress: bool = False) -> dict[str, Any]:
    """Return the page's data.

    Args:
        max_traces: answers whose tokens are put into the page, lost comparisons first; the page says how many there are.
        progress: draw a bar on stderr.
    """
    comparisons = [(run, task, one) for run in runs for task in run.tasks.values() for one in task.comparisons]
    traces = _Traces(runs, max_traces)
    pictures = _Pictures()
    documents = _documents(runs, comparisons, traces, pictures, progress)
    return {
        "title": title,
        "about": "; ".join(filter(None, (_made_by(run, len(runs) > 1) for run in runs))),
        "created": datetime.datetime.now().astimezone().strftime("%Y-%m-%d %H:%M %Z"),
        "runs": [_about(run) for run in runs],
        "wins": [one.to_json() for one in win_rates_of(runs)],
        "leagues": [{"run": run.name, **league} for run in runs for league in run.leagues],
        "figures": [one.to_json() for one in figures_of(runs)],
        "comparisons": [
            {"run": run.name, "task": task.task, "candidate": one.candidate, "rival": one.rival, "judge": one.judge}
            for run, task, one in comparisons
        ],
        "docs": documents,
        "traces": traces.texts,
        "pictures": pictures.shown,
        "unshown": pictures.left_out,
        "traced": sum(len(run.traced) for run in runs),
    }


def _made_by(run: Run, named: bool) -> str:
    """What computed a run, in a few words: its name where there are several, dtype, versions of what decides a token."""
    versions = (run.config.get("aad") or {}).get("versions") or {}
    shown = [f"{name} {versions[name]}" for name in ("aad_plugin", "transformers", "vllm") if name in versions]
    facts = ", ".join([*([run.dtype] if run.config and run.dtype != "unknown" else []), *shown])
    return f"{run.name}: {facts}" if named and facts else facts


def _about(run: Run) -> dict[str, Any]:
    own = run.config.get("aad") or {}
    settings = own.get("settings") or {}
    facts = {
        "model": run.model,
        "pair": own.get("pair") or ", ".join(f"{role} {place}" for role, place in (own.get("parts") or {}).items()),
        "dtype": run.dtype if run.config else "",
        "decoding": ", ".join(f"{name} {settings[name]}" for name in ("strategy", "alpha") if name in settings),
        "versions": ", ".join(f"{name} {version}" for name, version in (own.get("versions") or {}).items()),
        "tasks": ", ".join(
            f"{task.task} (version {task.version})" if task.version is not None else task.task
            for task in run.tasks.values()
        ),
    }
    return {
        "name": run.name,
        "facts": {name: str(value) for name, value in facts.items() if value},
        "problems": run.problems,
    }


class _Pictures:
    """The pictures in the page, each once: [data: URL, name], and how many did not fit."""

    def __init__(self) -> None:
        self.shown: list[list[str]] = []
        self.left_out = 0
        self._places: dict[str, int] = {}
        self._size = 0

    def places(self, document: Document) -> list[int]:
        """Return the numbers of a document's pictures in the page, taking them in; −1 where there is no room."""
        for one in document.pictures:
            if one.digest in self._places:
                continue
            if self._size + len(one.data) > _MAX_PICTURES:
                self._places[one.digest] = -1
                self.left_out += 1
                continue
            self._size += len(one.data)
            self._places[one.digest] = len(self.shown)
            self.shown.append([one.data, f"{one.name}, {one.width} × {one.height} pixels, {one.digest}"])
        return [self._places[one.digest] for one in document.pictures]


class _Traces:
    """Which answers' tokens are in the page, and their place in it."""

    def __init__(self, runs: Sequence[Run], limit: int) -> None:
        self.texts: list[str] = []
        wanted = [(run, key) for run in runs for key in run.traced]
        if len(wanted) > limit:
            lost = {key for run in runs for key in _lost(run)}
            wanted.sort(key=lambda one: (one[0].name, *one[1][:2]) not in lost)
        self._steps = _read_steps(wanted[:limit])

    def place(self, run: Run, key: tuple[str, str, str]) -> int:
        """Return the number of an answer's tokens in the page, taking them in, or −1."""
        text = self._steps.get((run.name, *key))
        if text is None:
            return -1
        self.texts.append(text)
        return len(self.texts) - 1


def _read_steps(wanted: Sequence[tuple[Run, tuple[str, str, str]]]) -> dict[tuple[str, str, str, str], str]:
    """The steps of answers as JSON texts of their own, so that the page parses only what is opened.

    Folder by folder and in their order, so that every file of traces is read once.
    """
    by_folder: dict[int, tuple[TraceFolder, dict[AnswerTrace, list[tuple[str, str, str, str]]]]] = {}
    for run, key in wanted:
        folder, trace = run.traced[key]
        by_folder.setdefault(id(folder), (folder, {}))[1].setdefault(trace, []).append((run.name, *key))
    found = {}
    for folder, traces in by_folder.values():
        for trace in folder:
            if trace in traces:
                rows = compact_steps(folder.steps(trace), _MAX_PLAUSIBLE)
                text = json.dumps(rows, ensure_ascii=False, separators=(",", ":"))
                found.update(dict.fromkeys(traces[trace], text))
    return found


def _lost(run: Run) -> set[tuple[str, str, str]]:
    found = set()
    for task in run.tasks.values():
        for comparison in task.comparisons:
            for key, verdicts in comparison.by_document(task.documents).items():
                if any(verdict.p is not None and verdict.p < 0.5 for verdict in verdicts):
                    found.add((run.name, task.task, key))
    return found


def _documents(
    runs: Sequence[Run],
    comparisons: Sequence[tuple[Run, Any, Comparison]],
    traces: _Traces,
    pictures: _Pictures,
    progress: bool,
) -> list[dict[str, Any]]:
    """Documents of all runs; what several runs answered is one."""
    judged = [one.by_document(task.documents) for _, task, one in comparisons]
    found: dict[tuple[str, str, str], dict[str, Any]] = {}
    total = sum(len(task.documents) for run in runs for task in run.tasks.values())
    with tqdm(total=total, disable=not progress, unit="document", desc="report") as bar:
        for number, run in enumerate(runs):
            for task in run.tasks.values():
                for key, document in task.documents.items():
                    entry = found.setdefault(
                        (task.task, document.id, document.prompt_hash), _entry(task.task, document)
                    )
                    if document.pictures and "s" not in entry:
                        entry["s"] = pictures.places(document)
                    for name, answer in document.answers.items():
                        place = traces.place(run, (task.task, key, name))
                        flags = _flags(document, name, answer)
                        entry["a"].append([number, name, answer.text, flags, place, answer.judged_length])
                    entry["m"] += _values(number, document.values)
                    for row, (owner, of, one) in enumerate(comparisons):
                        if owner is run and of is task:
                            entry["v"] += [_verdict(row, verdict, one) for verdict in judged[row].get(key, ())]
                    bar.update()
    return list(found.values())


def _entry(task: str, document: Document) -> dict[str, Any]:
    return {"t": task, "i": document.id, "p": document.prompt_text, "g": document.target, "a": [], "v": [], "m": []}


def _flags(document: Document, name: str, answer: AnswerText) -> int:
    shown = [answer_after_thinking(text) or "" for text in answer.texts]
    flags = TRUNCATED if answer.truncated or document.values.get(f"truncated_{name},none") == 1 else 0
    if document.values.get(f"degenerate_{name},none") == 1:
        flags |= DEGENERATE
    if shown[0].strip() and is_refusal(shown[0], document.prompt_text):
        flags |= REFUSES
    return flags


def _values(run: int, values: Mapping[str, float]) -> list[list[Any]]:
    shown = {name.removesuffix(",none"): value for name, value in values.items() if not name.startswith(_AGGREGATES)}
    return [[run, name, value] for name, value in shown.items()]


def _verdict(row: int, verdict: Verdict, comparison: Comparison) -> dict[str, Any]:
    words = [comparison.words[key] for key in verdict.rulings if key in comparison.words]
    entry: dict[str, Any] = {"c": row, "p": verdict.p, "o": list(verdict.orders)}
    if verdict.reason:
        entry |= {"r": verdict.reason, "d": verdict.detail}
    if verdict.grade is not None or verdict.label is not None:
        entry["l"] = verdict.label if verdict.grade is None else verdict.grade
    if "-turn" in verdict.id:
        entry["n"] = verdict.id.rpartition("-turn")[2]
    said = [[_cut(one.text), one.p, one.reason, one.model] for one in words]
    return {**entry, "w": said} if said else entry


def _cut(text: str) -> str:
    return text if len(text) <= _MAX_WORDS else f"{text[:_MAX_WORDS]} … ({len(text)} characters)"
