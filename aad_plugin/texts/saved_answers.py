"""Saved answers as an opponent: another run's file, joined with a task's documents on the user's turns."""

from __future__ import annotations

import datetime
import logging
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from aad_plugin.errors import ConfigError
from aad_plugin.texts.answer_files import NoSuchAnswer, Row, read_answers
from aad_plugin.texts.messages import Messages, as_messages, prompt_hash, split_replies

logger = logging.getLogger(f"lm_eval.{__name__}")  # shown by lm-eval's own log settings

_SHOWN = 80
_DATE = re.compile(r"\d{4}-\d\d-\d\dT\d\d-\d\d-\d\d(\.\d+)?")
Saved = Mapping[str, list[str]]


def read_baseline(spec: str, task: str) -> dict[str, list[str]]:
    """Read another run's answers.

    Args:
        spec: a file as ``aad judge`` reads it, or a folder that holds the newest ``samples_<task>_*.jsonl`` or
            ``<task>/<date>/answers.jsonl`` anywhere below it, or is such a <date> itself; ``#strategy`` behind either where
            rows hold several answers.
        task: whose answers are looked for in a folder.
    Returns:
        hash of the user's turns -> the replies to them. An answer in several replies is found under each of its turns.
    Raises:
        ConfigError: no such file, or it cannot be read.
    """
    path, hash_sign, strategy = str(spec).partition("#")
    choice = hash_sign + strategy
    rows = _newest(Path(path), task, choice) if Path(path).is_dir() else read_answers(path + choice, joined=False)
    found: dict[str, list[str]] = {}
    for row in rows:
        if prompt_hash(row.prompt) in found:
            continue  # some benchmarks ask a question twice: its first answer serves both
        turns, said = split_replies(row.prompt)
        replies = [*said, *([row.text] if isinstance(row.text, str) else row.text)]
        found[prompt_hash(row.prompt)] = replies
        if isinstance(row.text, tuple):
            found |= {prompt_hash(turns[:n]): replies[:n] for n in range(1, len(replies))}
    return found


def check_baseline(saved: Saved, prompts: Sequence[str | Messages], spec: str) -> None:
    """Raise ConfigError before anything is answered where prompts have no saved answer."""
    missing = [prompt for prompt in prompts if prompt_hash(prompt) not in saved]
    if missing:
        first = as_messages(missing[0])[-1]["content"]
        raise ConfigError(
            f"the baseline {spec} has no answer to {len(missing)} of {len(prompts)} prompts of this task (it holds "
            f"{len(saved)} of its own); first: {first[:_SHOWN]!r}. Pass answers to the same prompts, or --limit to those"
        )


def saved_replies(saved: Saved, prompt: str | Messages, turns: int) -> list[str]:
    """Return the replies to the last ``turns`` turns of a prompt; it is there once `check_baseline` has passed."""
    return saved[prompt_hash(prompt)][-turns:]


def earlier_replies(saved: Saved, prompt: str | Messages, turns: int) -> list[str]:
    """Return the replies before those, as far as they were saved: the baseline's own side of the conversation."""
    return saved[prompt_hash(prompt)][:-turns]


def _newest(folder: Path, task: str, choice: str) -> list[Row]:
    """Rows of the newest file of a task, by the date in its name, that holds the chosen strategy.

    Raises:
        ConfigError: none, or the newest cannot be read: an older one's answers are not taken for it.
    """
    samples = [p for p in folder.rglob(f"samples_{task}_*.jsonl") if p.name[len(f"samples_{task}_")].isdigit()]
    # The folder itself may be <task> or <task>/<date>, as a run's log names it.
    answers = [p for p in folder.resolve().rglob("answers.jsonl") if p.parent.parent.name == task]
    if not samples and not answers:
        raise ConfigError(
            f"the baseline folder {folder} holds neither samples_{task}_<date>.jsonl nor {task}/<date>/answers.jsonl"
        )
    errors = []
    for path in sorted([*samples, *answers], key=_date, reverse=True):
        try:
            rows = read_answers(f"{path}{choice}", joined=False)
        except NoSuchAnswer as error:
            errors.append(error)
            continue
        logger.info("baseline of %s: %s%s", task, path, choice)
        return rows
    raise errors[0]


def _date(path: Path) -> str:
    """When a file was written: as its name says, or its folder's, which a copy keeps; else by its own time."""
    named = _DATE.search(path.parent.name if path.name == "answers.jsonl" else path.name)
    return named[0] if named else datetime.datetime.fromtimestamp(path.stat().st_mtime).strftime("%Y-%m-%dT%H-%M-%S.%f")
