"""One judged run of a rival task: answers to disk, then one comparison per opponent, then figures.

Called on the first process at aggregation. Without a judge nothing is spent: the answers are on disk and the line that
finishes the run is printed.
"""

from __future__ import annotations

import collections
import dataclasses
import datetime
import json
import logging
import math
import os
import shlex
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from aad_plugin.demo.assets import SHIPPED
from aad_plugin.errors import AADError, ConfigError
from aad_plugin.files.whole import write_text
from aad_plugin.harness import output_folder
from aad_plugin.judges.asking.templates import load_template
from aad_plugin.judges.items import Verdict
from aad_plugin.judges.kinds.specs import accepted_options, parse_spec, refuse_unsuited
from aad_plugin.judges.statistics.summary import MAX_UNJUDGED
from aad_plugin.rivals.arena_score import arena_score
from aad_plugin.rivals.judged_rows import (
    ANSWERS_FILE,
    Row,
    comparisons_of,
    graded_of,
    place_of,
    reply_of,
    write_answers,
)
from aad_plugin.texts.cleaning import without_passwords
from aad_plugin.texts.thinking import answer_after_thinking

logger = logging.getLogger(f"lm_eval.{__name__}")  # shown by lm-eval's own log settings

SCORES_FILE = "scores.jsonl"
"""Rewards and grades of each document, by the metric's name: what a gate needs beside the means in lm-eval's table."""
CANDIDATE = "aad"
JUDGED_FOLDER = "judged_folder"
"""The metadata entry in lm-eval's results that says where a task's answers, verdicts and scores were written."""


class JudgedRun:
    """The judged figures of one task.

    Args:
        task: name, also of the folder.
        metadata: model_args, ``--metadata`` and the YAML's metadata merged by lm-eval. Read are ``judge``,
            ``judge_template``, ``graded``, ``arena_score``, ``output_dir`` and, to know whether the demo pair is
            evaluated, ``pair`` / ``pretrained``.
        judged: False keeps answers only.
    """

    def __init__(self, task: str, metadata: Mapping[str, Any], *, judged: bool = True) -> None:
        self.task = task
        self.metadata = metadata
        self.judged = judged
        self.spec = _judge_spec(metadata) if judged else None
        self.is_reward = bool(self.spec and self.spec.startswith("reward:"))
        if metadata.get("judge_template"):
            load_template(str(metadata["judge_template"]))
        if self.spec:  # a mistake fails now, not after hours of answering
            refuse_unsuited(self.spec, self._template(metadata.get("judge_template")), "pairwise", task)
            if metadata.get("graded") and (graded := self._template("grade")):
                refuse_unsuited(self.spec, graded, "pointwise", task)
        self.folder: Path | None = None
        self._share: float | None = None
        self._figures: dict[str, float] = {}
        self._scores: dict[str, dict[str, float]] = {}
        self._rates: dict[str, dict[str, float]] = {}

    def answered_by(self, answers: Sequence[str], opponents: Sequence[str], turns: int) -> None:
        """Say whose answers will come: the candidate first, then its rivals; who it is compared with; replies each.

        Another run begins: what was judged before is no part of it.
        """
        self._share = None
        self._figures, self._scores, self._rates = {}, {}, {}
        self.answers = list(answers)
        self.opponents = list(opponents)
        self.turns = turns

    def check_folder(self) -> None:
        """Raise ConfigError before anything is answered where the run's folder cannot be written."""
        folder = self._folder().parent
        try:
            folder.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=folder):
                pass
        except OSError as e:
            raise ConfigError(
                f"answers would go to {folder}, which cannot be written ({e.strerror}); pass another --output_path, "
                '--metadata \'{"output_dir": "FOLDER"}\' or AAD_OUTPUT_DIR'
            ) from e

    def figures(self) -> list[str]:
        """Return the name of every figure that comes out of the judged run, each followed by its stderr.

        None where no judge is named: rows of NaN would say nothing.

        lm-eval has no standard error for aggregations of one's own; a metric called ``<m>_stderr`` that follows
        ``<m>`` takes that place in its table.
        """
        if not self.spec:
            return []
        names = []
        for opponent in self.opponents:
            names.append(f"win_rate_vs_{opponent}")
            if self.turns > 1:
                names += [f"win_rate_turn{turn}_vs_{opponent}" for turn in range(1, self.turns + 1)]
            if self.metadata.get("arena_score") and not self.is_reward:  # a reward has no five labels
                names.append(f"arena_score_vs_{opponent}")
        if self.is_reward:
            names += [f"reward_{name}" for name in self.answers]
        elif self.metadata.get("graded") and self.spec:
            names += [f"grade_{name}" for name in self.answers]
        return [full for name in names for full in (name, f"{name}_stderr")]

    def figure(self, name: str, items: Sequence[Row]) -> float:
        """One of :meth:`figures`; whichever is asked for first has the answers judged. NaN where there is none."""
        self.judge(items)
        return self._figures.get(name, math.nan)

    def values_of(self, document: str) -> Mapping[str, float]:
        """What was found of one document, by the figure's name: rewards, grades, mean p(the candidate is better)."""
        return {**self._scores.get(document, {}), **self._rates.get(document, {})}

    def judge(self, items: Sequence[Row]) -> float:
        """Write the answers, judge them once, keep the figures; return the share of judged comparisons, 0 without a
        judge and NaN where judging failed."""
        if self._share is None:
            self._share = self._judge_once(items)
        return self._share

    def _judge_once(self, items: Sequence[Row]) -> float:
        rows = sorted(items, key=place_of)
        try:
            path = self._write(rows)
        except OSError as e:
            logger.error("%s: the answers could not be written (%s); nothing is judged", self.task, e)
            return math.nan
        if not self.spec:
            if self.judged:
                self._say_how_to_finish(path, "no judge was named")
            return 0.0
        try:
            return self._judge(rows)
        except (AADError, OSError) as e:
            self._say_how_to_finish(path, str(e))
            return math.nan

    def keep(self, items: Sequence[Row]) -> float:
        """Write the answers and say how to judge them (--predict_only); return lm-eval's own 999 for that."""
        path = self._write(sorted(items, key=place_of))
        if self.judged:
            self._say_how_to_finish(path, "--predict_only")
        return 999

    def _folder(self) -> Path:
        """A new folder: below the one named, else beside lm-eval's results, else in AAD_OUTPUT_DIR or aad_runs."""
        named, environment = self.metadata.get("output_dir"), os.environ.get("AAD_OUTPUT_DIR")
        base = Path(named or output_folder.run_folder() or environment or "aad_runs")
        return base / self.task / datetime.datetime.now().strftime("%Y-%m-%dT%H-%M-%S.%f")

    def _write(self, rows: Sequence[Row]) -> Path:
        self.folder = self._folder()
        path = write_answers(self.folder, rows)
        logger.info("answers of %d documents: %s", len(rows), path)
        return path

    def _judge(self, rows: Sequence[Row]) -> float:
        from aad_plugin.judges import load_judge

        assert self.folder is not None
        judge = load_judge(str(self.spec), **self._template(self.metadata.get("judge_template")))
        found = [verdict for opponent in self.opponents for verdict in self._against(opponent, rows, judge)]
        if self.is_reward:
            self._score(judge.reward_model, rows)  # type: ignore[attr-defined]
        elif self.metadata.get("graded"):
            self._grade(rows)
        unjudged = [verdict for verdict in found if not verdict.judged]
        if unjudged and any(math.isnan(self._figures[f"win_rate_vs_{name}"]) for name in self.opponents):
            reason, many = collections.Counter(v.reason for v in unjudged).most_common(1)[0]
            why = f"{len(unjudged)} of {len(found)} comparisons have no verdict, {many} of them: {reason}"
            self._say_how_to_finish(self.folder / ANSWERS_FILE, f"{why} {unjudged[0].detail}".strip())
        return 1 - len(unjudged) / len(found) if found else math.nan

    def _against(self, opponent: str, rows: Sequence[Row], judge: Any) -> list[Verdict]:
        """Judge the candidate against one opponent and keep its figures; verdicts of one document are one cluster."""
        from aad_plugin.judges import compare, summarize
        from aad_plugin.judges.statistics.limits import outside
        from aad_plugin.judges.statistics.results import write_results

        assert self.folder is not None
        asked = [
            (row["id"], turn, item) for row in rows for turn, item in comparisons_of(row, self.answers[0], opponent)
        ]
        verdicts = compare([item for _, _, item in asked], judge, output_dir=self.folder / f"vs_{opponent}")
        verdicts = [dataclasses.replace(v, prompt=row) for v, (row, _, _) in zip(verdicts, asked, strict=True)]
        summary = summarize(verdicts)
        sides = {"candidate": self.answers[0], "baseline": opponent}
        write_results(self.folder / f"vs_{opponent}", verdicts, {**summary.to_json(), **sides})
        for line in outside(verdicts, judge.limits):
            told = "such verdicts say little about the answers, see `aad judge-check`"
            logger.warning("%s, %s against %s: %s; %s", self.task, self.answers[0], opponent, line, told)
        self._keep(f"win_rate_vs_{opponent}", summary)
        self._keep_by_document(f"win_rate_vs_{opponent}", verdicts)
        if self.turns > 1:
            for turn in range(1, self.turns + 1):
                of_turn = [v for v, (_, number, _) in zip(verdicts, asked, strict=True) if number == turn]
                self._keep(f"win_rate_turn{turn}_vs_{opponent}", summarize(of_turn))
                self._keep_by_document(f"win_rate_turn{turn}_vs_{opponent}", of_turn)
        if self.metadata.get("arena_score") and not self.is_reward and not summary.too_many_unjudged():
            self._keep_arena_score(opponent, verdicts)
        return verdicts

    def _keep(self, name: str, summary: Any) -> None:
        self._figures[name] = summary.reportable("win_rate")
        self._figures[f"{name}_stderr"] = summary.reportable("standard_error")

    def _keep_arena_score(self, opponent: str, verdicts: Sequence[Verdict]) -> None:
        name = f"arena_score_vs_{opponent}"
        self._figures[name], self._figures[f"{name}_stderr"] = arena_score(verdicts)
        if math.isnan(self._figures[name]):
            told = "Arena-Hard's score counts labels from A>>B to B>>A, and this judge answers with other probabilities"
            logger.warning("%s: %s is not reported: %s", self.task, name, told)

    def _keep_by_document(self, name: str, verdicts: Sequence[Verdict]) -> None:
        by_document: dict[str, list[float]] = {}
        for verdict in verdicts:
            if verdict.p is not None:
                by_document.setdefault(verdict.prompt, []).append(verdict.p)
        for document, values in by_document.items():
            self._rates.setdefault(document, {})[name] = float(np.mean(values))

    def _score(self, reward_model: Any, rows: Sequence[Row]) -> None:
        for name in self.answers:
            scores = reward_model.score([(row["prompt"], reply_of(row["answers"][name])) for row in rows])
            ended = [all(answer_after_thinking(reply) is not None for reply in row["answers"][name]) for row in rows]
            self._mean(f"reward_{name}", rows, [[score] * done for score, done in zip(scores, ended, strict=True)])
        self._write_scores()

    def _grade(self, rows: Sequence[Row]) -> None:
        from aad_plugin.judges import grade, load_judge

        assert self.folder is not None
        options = self._template("grade")
        if not options:
            return
        judge = load_judge(str(self.spec), **options)
        for name in self.answers:
            answers = [[answer for _, answer in graded_of(row, name)] for row in rows]
            verdicts = iter(grade([a for one in answers for a in one], judge, output_dir=self.folder / "grades"))
            grades = [[v.grade for v in (next(verdicts) for _ in one) if v.grade is not None] for one in answers]
            whole = [own if len(own) == len(one) else [] for own, one in zip(grades, answers, strict=True)]
            self._mean(f"grade_{name}", rows, whole)
        self._write_scores()

    def _write_scores(self) -> None:
        assert self.folder is not None
        lines = [json.dumps({"id": number, **scores}) + "\n" for number, scores in self._scores.items()]
        write_text(self.folder / SCORES_FILE, "".join(lines))

    def _mean(self, name: str, rows: Sequence[Row], by_document: Sequence[Sequence[float]]) -> None:
        """Mean over documents of each document's mean, with its standard error.

        A document without a value does not count, and NaN is the mean where these are too many, as of win rates.
        """
        means = {row["id"]: float(np.mean(own)) for row, own in zip(rows, by_document, strict=True) if len(own)}
        for number, mean in means.items():
            self._scores.setdefault(number, {})[name] = mean
        missing = len(rows) - len(means)
        if missing > MAX_UNJUDGED * len(rows):
            told = f"{missing} of {len(rows)} answers have none (unreadable, or their thinking never ended)"
            logger.warning("%s: %s is not reported: %s", self.task, name, told)
            means = {}
        values = np.array(list(means.values()))
        self._figures[name] = float(values.mean()) if len(values) else math.nan
        error = float(values.std(ddof=1) / math.sqrt(len(values))) if len(values) > 1 else math.nan
        self._figures[f"{name}_stderr"] = error

    def _template(self, name: str | None) -> dict[str, Any]:
        """The option that sets a judge's prompt, for kinds that have one; a judge's own choice stays."""
        assert self.spec is not None
        takes_one = "template" in accepted_options(self.spec)
        own = name != "grade" and "template" in parse_spec(self.spec)[2]
        return {"template": name} if name and takes_one and not own else {}

    def _say_how_to_finish(self, path: Path, why: str) -> None:
        named = self.metadata.get("judge_template")
        told = self._template(named).get("template") if self.spec else named
        asked = ["--judge", without_passwords(self.spec or "SPEC"), *(["--template", str(told)] if told else [])]
        if self.turns > 1:  # each turn is judged, as in this run
            asked += ["--protocol", "mt-bench-pairwise"]
        lines = [
            shlex.join([
                "aad", "judge", "--candidate", f"{path}#{self.answers[0]}", "--baseline", f"{path}#{opponent}", *asked,
                "--output", str(path.parent / f"vs_{opponent}"),  # where this run's verdicts are: none is paid twice
            ])
            for opponent in self.opponents
        ]  # fmt: skip
        logger.warning("%s: not judged (%s). To finish: %s", self.task, why, "\n".join(lines) or "nothing to compare")


def _judge_spec(metadata: Mapping[str, Any]) -> str | None:
    """The named judge; an embedded pair brings its own, read in the dtype that is asked of the pair."""
    if metadata.get("judge"):
        return str(metadata["judge"])
    named = (metadata.get("pair"), metadata.get("pretrained"))
    dtype = f",dtype={metadata['dtype']}" if metadata.get("dtype") not in (None, "auto") else ""
    return next((f"reward:{name}{dtype}" for name in SHIPPED if name in named), None)
