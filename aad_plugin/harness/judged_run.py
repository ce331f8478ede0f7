"""One judged run of a rival task: answers to disk, then one comparison per rival, then figures.

Called on the first process at aggregation. Without a judge nothing is spent: the answers are on disk and the line that
finishes the run is printed.
"""

from __future__ import annotations

import datetime
import json
import logging
import math
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from aad_plugin.errors import AADError
from aad_plugin.judges.kinds import accepted_options
from aad_plugin.settings import SETTING_NAMES, DecodingSettings

__all__ = ["ANSWERS_FILE", "CANDIDATE", "JudgedRun", "write_answers"]

logger = logging.getLogger(f"lm_eval.{__name__}")  # shown by lm-eval's own log settings

ANSWERS_FILE = "answers.jsonl"
CANDIDATE = "aad"


class JudgedRun:
    """The judged figures of one task.

    Args:
        task: name, also of the folder. rivals, strategies: labels; strategies start with the candidate.
        metadata: model_args, ``--metadata`` and the YAML's metadata merged by lm-eval. Read are ``judge``,
            ``output_dir`` and, to know whether the demo pair is evaluated, ``pair`` / ``pretrained``.
    """

    def __init__(
        self, task: str, rivals: Sequence[str], strategies: Sequence[str], metadata: Mapping[str, Any]
    ) -> None:
        self.task = task
        self.rivals = list(rivals)
        self.strategies = list(strategies)
        self.metadata = metadata
        self.spec = _judge_spec(metadata)
        if self.spec:
            accepted_options(self.spec)  # a typo fails now, not after hours of answering
        self.folder: Path | None = None
        self._figures: dict[str, float] = {}

    def model_settings(self) -> DecodingSettings:
        """The decoding defaults named in model_args, which lm-eval merges into a task's metadata."""
        given = {name: self.metadata[name] for name in SETTING_NAMES if name in self.metadata}
        return DecodingSettings().override(**given)

    def judged_metrics(self) -> dict[str, Callable[[list[Any]], float]]:
        """Return name → aggregation of every figure that comes out of the judged run, each followed by its stderr.

        lm-eval has no standard error for aggregations of one's own; a metric called ``<m>_stderr`` that follows
        ``<m>`` takes that place in its table.
        """
        names = [f"win_rate_vs_{rival}" for rival in self.rivals]
        if self.spec and self.spec.startswith("reward:"):
            names += [f"reward_{name}" for name in self.strategies]
        return {full: self._read(full) for name in names for full in (name, f"{name}_stderr")}

    def judge(self, items: Sequence[Mapping[str, Any]]) -> float:
        """Write the answers, judge them, keep the figures; return the share of judged comparisons (NaN without judge)."""
        rows = sorted(items, key=lambda item: item["id"])
        self.folder = _run_folder(self.metadata, self.task)
        path = write_answers(self.folder, rows)
        logger.info("answers of %d documents: %s", len(rows), path)
        if not self.spec:
            self._say_how_to_finish(path, "no judge was named")
            return math.nan
        try:
            return self._judge(rows)
        except AADError as e:
            self._say_how_to_finish(path, str(e))
            return math.nan

    def _judge(self, rows: Sequence[Mapping[str, Any]]) -> float:
        from aad_plugin.judges import Comparison, compare, load_judge, summarize

        assert self.folder is not None
        judge = load_judge(self.spec)
        shares = []
        for rival in self.rivals:
            comparisons = [
                Comparison(row["id"], row["prompt"], row["answers"][CANDIDATE], row["answers"][rival]) for row in rows
            ]
            verdicts = compare(comparisons, judge, output_dir=self.folder / "verdicts")
            summary = summarize(verdicts)
            text = json.dumps(summary.to_json(), indent=2)
            (self.folder / f"summary_vs_{rival}.json").write_text(text + "\n", encoding="utf-8")
            self._figures[f"win_rate_vs_{rival}"] = summary.reportable("win_rate")
            self._figures[f"win_rate_vs_{rival}_stderr"] = summary.reportable("standard_error")
            shares.append(1 - summary.n_unjudged / max(1, summary.n))
        if self.spec and self.spec.startswith("reward:"):
            self._score(judge.reward_model, rows)
        return float(np.mean(shares)) if shares else math.nan

    def _score(self, reward_model: Any, rows: Sequence[Mapping[str, Any]]) -> None:
        for name in self.strategies:
            scores = np.array(reward_model.score([(row["prompt"], row["answers"][name]) for row in rows]))
            self._figures[f"reward_{name}"] = float(scores.mean())
            error = float(scores.std(ddof=1) / math.sqrt(len(scores))) if len(scores) > 1 else math.nan
            self._figures[f"reward_{name}_stderr"] = error

    def _read(self, name: str) -> Callable[[list[Any]], float]:
        return lambda items: self._figures.get(name, math.nan)

    def _say_how_to_finish(self, path: Path, why: str) -> None:
        rival = self.rivals[0] if self.rivals else "greedy"
        logger.warning(
            "%s: not judged (%s). To finish: aad judge --candidate %s#%s --baseline %s#%s --judge SPEC --output %s",
            self.task, why, path, CANDIDATE, path, rival, path.parent / "judged",
        )  # fmt: skip


def write_answers(folder: Path, rows: Sequence[Mapping[str, Any]]) -> Path:
    """Write one line per document: id, prompt, outputs by strategy, whether each was truncated."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / ANSWERS_FILE
    temporary = path.with_suffix(".tmp")
    with temporary.open("w", encoding="utf-8") as file:
        for row in rows:
            line = {"id": row["id"], "prompt": row["prompt"], "outputs": row["answers"], "truncated": row["truncated"]}
            file.write(json.dumps(line, ensure_ascii=False) + "\n")
    temporary.replace(path)
    return path


def _judge_spec(metadata: Mapping[str, Any]) -> str | None:
    """The named judge; the demo pair brings its own."""
    if metadata.get("judge"):
        return str(metadata["judge"])
    return "reward:demo" if "demo" in (metadata.get("pair"), metadata.get("pretrained")) else None


def _run_folder(metadata: Mapping[str, Any], task: str) -> Path:
    base = metadata.get("output_dir") or os.environ.get("AAD_OUTPUT_DIR") or "aad_runs"
    stamp = datetime.datetime.now().strftime("%Y-%m-%dT%H-%M-%S.%f")
    return Path(base) / task / stamp
