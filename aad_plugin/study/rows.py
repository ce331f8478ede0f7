"""What a study has found so far: decoded batches and scores, in one append-only file that survives kill -9.

A line is one batch, written by one call: a batch is there whole or not at all, so a resumed run decodes the very
batches an undisturbed one would have, which keeps 16-bit answers the same, too.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from aad_plugin.errors import AADError, ConfigError
from aad_plugin.files.append_log import AppendLog

FILE = "rows.jsonl"

# decoding's mark, prompt's mark, sample number
AnswerKey = tuple[str, str, int]


class StudyStopped(AADError):
    """The study cannot go on; what was decoded and scored is kept."""


@dataclass(frozen=True, slots=True)
class Answer:
    """One answer and its share of what its batch took.

    Attributes:
        tokens: of the answer, its end included. ended: whether it did. implicit: Σ log π_policy/π_reference of a sample.
        policy_passes, reference_passes: rows read while decoding. picker_passes: the reference's, for `implicit`.
        seconds, cpu_seconds: wall clock, and processor time of all threads. picker_seconds, picker_cpu_seconds: the same
            for `implicit`; rows of before have no processor time of it, which is NaN.
    """

    text: str
    tokens: int
    ended: bool
    implicit: float | None
    policy_passes: float
    reference_passes: float
    picker_passes: float
    seconds: float
    cpu_seconds: float
    picker_seconds: float
    picker_cpu_seconds: float = math.nan


class Rows:
    """Answers and scores of one study.

    Args:
        folder: holds rows.jsonl. A context manager for writing: locks the folder; without entering it only reads.
    """

    def __init__(self, folder: Path):
        self.path = folder / FILE
        self.answers: dict[AnswerKey, Answer] = {}
        self.scores: dict[tuple[str, str], float] = {}
        self.score_seconds: dict[str, float] = {}
        self._log = AppendLog(self.path)
        self._lock = FileLock(folder / "rows.lock")
        self.read()

    def __enter__(self) -> Rows:
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._lock.acquire(timeout=0)
            self.read()
            self._log.open()
        except Timeout as error:
            raise ConfigError(
                f"another study is running in {self.path.parent}; wait, or pass another --output"
            ) from error
        except OSError as error:
            self.__exit__()
            raise self._unwritable(error) from error
        return self

    def __exit__(self, *_: object) -> None:
        self._log.close()
        self._lock.release()

    def read(self) -> None:
        """Take in what is on disk."""
        self.score_seconds.clear()
        for entry in self._log.entries():
            try:
                self._take(entry)
            except (ValueError, KeyError, TypeError):
                continue  # a line that is no entry of ours

    def has(self, keys: Iterable[AnswerKey]) -> bool:
        """Whether all these answers are there."""
        return all(key in self.answers for key in keys)

    def add_answers(
        self, decoding: str, name: str, entries: Sequence[Mapping[str, Any]], cost: Mapping[str, float]
    ) -> None:
        """Append one batch; blocks on local disk.

        Args:
            decoding: mark of how it was decoded. name: the same for readers of the file.
            entries: per answer prompt (mark), number, text, tokens, ended, implicit.
            cost: of the whole batch, the remaining fields of `Answer`.
        Raises:
            StudyStopped: the disk is full or fails.
        """
        self._append({"type": "answers", "decoding": decoding, "name": name, "rows": list(entries), "cost": dict(cost)})

    def add_scores(self, scorer: str, name: str, scores: Mapping[str, float], seconds: float) -> None:
        """Append scores by answer mark; raises as `add_answers`."""
        self._append({"type": "scores", "scorer": scorer, "name": name, "scores": dict(scores), "seconds": seconds})

    def _append(self, entry: dict[str, Any]) -> None:
        try:
            self._log.append(entry)
        except OSError as error:
            raise self._unwritable(error) from error
        self._take(entry)

    def _take(self, entry: dict[str, Any]) -> None:
        if entry["type"] == "scores":
            self.score_seconds[entry["scorer"]] = self.score_seconds.get(entry["scorer"], 0.0) + entry["seconds"]
            self.scores.update({(entry["scorer"], mark): float(value) for mark, value in entry["scores"].items()})
            return
        share = {name: value / len(entry["rows"]) for name, value in entry["cost"].items()}
        for row in entry["rows"]:
            key = (entry["decoding"], row["prompt"], row["number"])
            own = {name: row[name] for name in ("text", "tokens", "ended", "implicit")}
            self.answers[key] = Answer(**own, **share)

    def _unwritable(self, error: OSError) -> StudyStopped:
        return StudyStopped(
            f"cannot write {self.path}: {error.strerror or error}; {len(self.answers)} answers and {len(self.scores)} "
            "scores are kept there; make room and run the same command again"
        )
