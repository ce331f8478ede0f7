"""Read answers from files and put the two sides of a comparison together. Any mixture of formats:

    lm-eval   samples_*.jsonl; FILE#strategy where a row holds several answers
    AlpacaEval   model_outputs.json, a list of {"instruction", "output", …}
    plain     JSON lines {"instruction" | "prompt", "output"}, or {"prompt", "outputs": {strategy: text}}; a prompt is a
              string or chat messages; "pictures": files (beside this one) or data: URLs that it shows

Every complaint names file and line.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from aad_plugin.errors import ConfigError, nearest
from aad_plugin.texts.messages import Messages, Reply, as_messages, digest, shown_hash, with_replies
from aad_plugin.texts.prompts import check_text, field_of, prompt_of
from aad_plugin.texts.rows import json_rows
from aad_plugin.texts.samples import in_turns, repeats_of, sample_answers, shows_pictures

logger = logging.getLogger(__name__)

_IDS = ("id", "doc_id", "question_id")
OUTPUT_FIELDS = ("output", "completion", "response")
_PICTURES = ("pictures", "images", "image")
_SHOWN = 80


class NoSuchAnswer(ConfigError):
    """A file's rows hold answers by other strategies."""


@dataclass(frozen=True, slots=True)
class Row:
    """One answer with its prompt and where it stood ("file, line n"); `number` counts rows of the file from 0.

    `pictures` are the files or ``data:`` URLs that the prompt shows, `marks` tell them apart by their bytes. `own_id` is
    the id that the file gives the row, "" where it gives none.
    """

    prompt: str | Messages
    text: Reply
    place: str
    number: int
    pictures: tuple[str, ...] = ()
    marks: tuple[str, ...] = ()
    own_id: str = ""


def read_answers(spec: str, prompt_field: str | None = None, *, joined: bool = True) -> list[Row]:
    """Read a file of answers.

    Args:
        spec: path, with ``#strategy`` to choose among several answers per row.
        prompt_field: field of lm-eval's document (or of a plain row) that holds the prompt.
        joined: rows will be joined on the prompt, so that none may come twice.
    Raises:
        ConfigError: no such file, a malformed line, a missing field, a prompt that comes twice, no rows at all.
    """
    path, strategy = _split(spec)
    rows: list[Row] = []
    seen: dict[str, str] = {}
    only_filter: str | None = None
    repeats = 1
    for place, entry in json_rows(path):
        sample = "resps" in entry and "doc" in entry
        if sample:
            only_filter = only_filter or entry.get("filter")
            if entry.get("filter") != only_filter:
                continue  # the same answers once more, for another metric
        # Pictures of plain rows are read below.
        own = entry["doc"] if sample else {name: value for name, value in entry.items() if name not in _PICTURES}
        prompt: str | Messages = prompt_of(own, place, prompt_field)
        text = _chosen(sample_answers(entry, place) if sample else _plain_answers(entry, place), place, strategy)
        if sample:
            prompt, text = in_turns(entry["doc"], prompt, text)
        elif isinstance(entry.get("outputs"), dict) and isinstance(earlier := entry.get("earlier"), dict):
            chosen = strategy or next(iter(entry["outputs"]))  # the only one
            prompt = with_replies(prompt, earlier[chosen], place) if chosen in earlier else prompt
        text = _reply(prompt, text, place)
        check_text(
            place, *(turn["content"] for turn in as_messages(prompt)), *([text] if isinstance(text, str) else text)
        )
        pictures = _no_pictures(entry, place) if sample else _pictures(entry, place, path.parent)
        marks = tuple(_mark(picture, place) for picture in pictures)
        key = shown_hash(prompt, marks)
        if joined and key in seen:
            raise ConfigError(f"{place}: the same prompt stands at {seen[key]} already; rows are joined on it")
        seen[key] = place
        own_id = next((str(entry[name]) for name in _IDS if entry.get(name) is not None), "")
        rows.append(Row(prompt, text, place, len(rows), pictures, marks, own_id))
        repeats = max(repeats, repeats_of(entry) if sample else 1)
    if not rows:
        raise ConfigError(f"{path} holds no answers")
    if repeats > 1:
        logger.warning(
            "%s holds %d answers to each request (the task's repeats): only the first of each is judged", path, repeats
        )
    return rows


def _pictures(entry: Mapping[str, Any], place: str, folder: Path) -> tuple[str, ...]:
    """The pictures of a plain row, files by their full path."""
    found: Any = next((entry[name] for name in _PICTURES if entry.get(name)), ())
    found = [found] if isinstance(found, str) else found
    if not isinstance(found, list | tuple) or not all(isinstance(one, str) and one for one in found):
        raise ConfigError(f"{place}: pictures are a list of files or data: URLs, got {found!r:.80}")
    return tuple(one if one.startswith("data:") else str(folder / one) for one in found)


def _no_pictures(entry: Mapping[str, Any], place: str) -> tuple[str, ...]:
    if shows_pictures(entry):
        raise ConfigError(
            f"{place}: the prompt shows a picture, which lm-eval's samples do not hold; judge the answers.jsonl in the "
            "folder that the task's run names (judged_folder), whose rows have pictures"
        )
    return ()


def _mark(picture: str, place: str) -> str:
    """A digest of a picture's bytes."""
    if picture.startswith("data:"):
        return digest(picture)[:16]
    try:
        return hashlib.sha256(Path(picture).read_bytes()).hexdigest()[:16]
    except OSError as error:
        raise ConfigError(f"{place}: cannot read the picture {picture!r}: {error.strerror or error}") from error


def has_field(spec: str, field: str) -> bool:
    """Whether any row of a file of answers (or lm-eval's document in it) has this field."""
    path, _ = _split(spec)
    for _, entry in json_rows(path):
        doc = entry["doc"] if "resps" in entry and "doc" in entry else entry
        if isinstance(doc, dict) and field in doc:
            return True
    return False


def _split(spec: str) -> tuple[Path, str | None]:
    if Path(spec).exists() or "#" not in spec:
        return Path(spec), None
    path, _, strategy = spec.rpartition("#")
    return Path(path), strategy


def _reply(prompt: str | Messages, answer: Any, place: str) -> Reply:
    """The answer as it stands, or one reply per user turn where the prompt is several user turns in a row.

    lm-eval keeps answers as strings, so there the replies are a JSON list.
    """
    turns = 1 if isinstance(prompt, str) else len(prompt)
    if turns > 1 and all(turn["role"] == "user" for turn in as_messages(prompt)):
        try:
            replies = json.loads(answer) if isinstance(answer, str) else answer
        except ValueError:
            replies = None
        if isinstance(replies, list) and len(replies) == turns and all(isinstance(text, str) for text in replies):
            return tuple(replies)
        raise ConfigError(
            f"{place}: the prompt is {turns} user turns; expected a list of {turns} replies as the answer"
        )
    if not isinstance(answer, str):
        raise ConfigError(f"{place}: the answer must be a string, got {type(answer).__name__}")
    return answer


def _plain_answers(entry: Mapping[str, Any], place: str) -> list[tuple[str | None, Any]]:
    """The answer of a plain row, or each of its ``outputs`` by strategy."""
    if isinstance(entry.get("outputs"), dict):
        return list(entry["outputs"].items())
    return [(None, field_of(entry, OUTPUT_FIELDS, place))]


def _chosen(answers: Sequence[tuple[str | None, Any]], place: str, strategy: str | None) -> Any:
    """The only answer, or the one by `strategy`."""
    if strategy is None and len(answers) == 1:
        return answers[0][1]
    known = [str(name) for name, _ in answers if name]
    there_are = ", ".join(known) or "none with a name"
    if strategy is None:
        raise ConfigError(
            f"{place}: the row holds {len(answers)} answers; choose one with FILE#strategy, one of {there_are}"
        )
    if strategy not in known:
        raise NoSuchAnswer(
            f"{place}: no answer by strategy {strategy!r}{nearest(strategy, known)}; there are {there_are}"
        )
    return next(text for name, text in answers if name == strategy)
