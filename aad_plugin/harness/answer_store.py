"""Answers as they arrive: one line each on disk, so that a killed run goes on where it stopped.

Owns the file format and the key of an answer (rendered prompt, the settings that can change the answer, sample number,
generation options). One folder per model; every process appends to a file of its own and reads all of them.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from aad_plugin.files.append_log import AppendLog
from aad_plugin.settings import DecodingSettings

logger = logging.getLogger(f"lm_eval.{__name__}")  # shown by lm-eval's own log settings


_FORMAT = 2
"""What an answer's key begins with; answers of format 1 may have been drawn, or be longer than their stop strings allow."""


class Answer(str):
    """An answer as lm-eval takes it, a string, that also says whether it ran into its token budget.

    lm-eval hands on the very object a model returned, to its cache (pickled) as well as to a task's
    ``process_results``, so what belongs to an answer travels with it. A filter that makes a new string drops it.

    Args:
        truncated: None where that is not known.
    """

    truncated: bool | None

    # lm-eval also makes other texts of this class (api/task.py: `type(result)(gold)`), of which nothing is known.
    def __new__(cls, text: object, truncated: bool | None = None) -> Answer:
        answer = super().__new__(cls, text)
        answer.truncated = truncated
        return answer

    def __getnewargs__(self) -> tuple[str, bool | None]:  # type: ignore[override]
        return str(self), self.truncated


def is_truncated(answer: str) -> bool | None:
    """Return whether an answer ran into its token budget; None for a plain string, of which that is not known."""
    return getattr(answer, "truncated", None)


@dataclass(frozen=True, slots=True)
class Stored:
    """One answer. truncated: it ran into its token budget; None where that is not known."""

    answer: str
    truncated: bool | None


def stored_of(text: str, until: Sequence[str], think_end_token: str | None, ran_out: bool) -> Stored:
    """The answer in an engine's text: what follows the thinking, up to the first of the stop strings.

    Args:
        until: all of the request's; with a think_end_token an engine was given none of them. ran_out: into its budget,
            which says nothing of an answer that a stop string has ended before.
    """
    from lm_eval.models.utils import postprocess_generated_text

    whole, answer = (postprocess_generated_text(text, list(stop), think_end_token) for stop in ((), until))
    goes_on = think_end_token is not None and think_end_token not in text  # no stop string ends thinking
    return Stored(answer, ran_out and (goes_on or answer == whole))


class AnswerStore:
    """The answers of one model in one folder.

    Args:
        folder: None keeps nothing. rank: number of this process, names its file.
    """

    def __init__(self, folder: Path | None, rank: int = 0) -> None:
        self._known: dict[str, Stored] = {}
        self.folder = folder
        self._log = AppendLog(folder / f"rank{rank}.jsonl", ascii=False) if folder else None
        for path in sorted(folder.glob("rank*.jsonl")) if folder else ():
            self._read(path)

    def __len__(self) -> int:
        return len(self._known)

    def find(self, key: str) -> Stored | None:
        """Return the answer to a request, or None."""
        return self._known.get(key)

    def add(self, key: str, stored: Stored) -> None:
        """Append one answer; blocks on local disk. A disk that fails is reported once and costs only the resume."""
        self._known[key] = stored
        if self._log is None:
            return
        try:
            self._log.open()  # for this line alone: a model's store is never told that it has ended
            self._log.append({"key": key, "answer": stored.answer, "truncated": stored.truncated})
        except OSError as error:
            logger.warning("answers are no longer kept for a later resume: %s", error)
            self._log = None
        else:
            self._log.close()

    def _read(self, path: Path) -> None:
        for entry in AppendLog(path).entries():
            try:
                self._known[entry["key"]] = Stored(entry["answer"], entry["truncated"])
            except KeyError:
                continue


def answers_folder(given: str | None, fingerprint: str) -> Path | None:
    """Return where a model's answers are kept: ``answers_dir``, or a folder under the run folder; None for "none"."""
    if given is not None and str(given).lower() in ("none", "off", "false"):
        return None
    return Path(given or Path(os.environ.get("AAD_OUTPUT_DIR") or "aad_runs") / "answers") / fingerprint


def request_key(context: str, settings: DecodingSettings, sample: int, options: Mapping[str, Any]) -> str:
    """Return what identifies an answer of one model: two requests with one key get the same answer.

    A picker that is a model of its own belongs to it with a mark of its weights; of an adapter its base's, too.
    """
    payload = [_FORMAT, context, settings.relevant(), sample, options]
    if settings.strategy == "best_of_n" and settings.picker != "implicit":
        from aad_plugin.judges.kinds.reward import loaded_mark

        # Samples were picked with their stop strings and thinking before.
        payload += [loaded_mark(settings.picker.removeprefix("reward:")), "picked as shown"]
    return hashlib.sha256(json.dumps(payload, sort_keys=True, default=str).encode()).hexdigest()[:32]
