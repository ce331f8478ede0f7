"""Read answers from files and put the two sides of a comparison together. Any mixture of formats:

    lm-eval   samples_*.jsonl; FILE#strategy where a row holds several answers
    AlpacaEval   model_outputs.json, a list of {"instruction", "output", …}
    plain     JSON lines {"instruction" | "prompt", "output"}, or {"prompt", "outputs": {strategy: text}}; a prompt is a
              string or chat messages

Every complaint names file and line.
"""

from __future__ import annotations

import gzip
import json
import logging
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from aad_plugin.errors import ConfigError, nearest
from aad_plugin.judges.items import Answer, Comparison, Messages, Reply, as_messages, prompt_hash
from aad_plugin.judges.samples import in_turns, repeats_of, sample_answers

__all__ = [
    "OUTPUT_FIELDS",
    "PROMPT_FIELDS",
    "Row",
    "check_text",
    "has_field",
    "json_rows",
    "pair_rows",
    "prompt_of",
    "read_answers",
    "single_rows",
]

logger = logging.getLogger(__name__)

PROMPT_FIELDS = ("messages", "prompt", "instruction", "question", "query")
OUTPUT_FIELDS = ("output", "completion", "response")
_SHOWN = 80


@dataclass(frozen=True, slots=True)
class Row:
    """One answer with its prompt and where it stood ("file, line n"); `number` counts rows of the file from 0."""

    prompt: str | Messages
    text: Reply
    place: str
    number: int


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
        prompt = prompt_of(entry["doc"] if sample else entry, place, prompt_field)
        text = _chosen(sample_answers(entry, place) if sample else _plain_answers(entry, place), place, strategy)
        prompt, text = in_turns(entry["doc"], prompt, text) if sample else (prompt, text)
        text = _reply(prompt, text, place)
        check_text(
            place, *(turn["content"] for turn in as_messages(prompt)), *([text] if isinstance(text, str) else text)
        )
        key = prompt_hash(prompt)
        if joined and key in seen:
            raise ConfigError(f"{place}: the same prompt stands at {seen[key]} already; rows are joined on it")
        seen[key] = place
        rows.append(Row(prompt, text, place, len(rows)))
        repeats = max(repeats, repeats_of(entry) if sample else 1)
    if not rows:
        raise ConfigError(f"{path} holds no answers")
    if repeats > 1:
        logger.warning(
            "%s holds %d answers to each request (the task's repeats): only the first of each is judged", path, repeats
        )
    return rows


def has_field(spec: str, field: str) -> bool:
    """Whether any row of a file of answers (or lm-eval's document in it) has this field."""
    path, _ = _split(spec)
    for _, entry in json_rows(path):
        doc = entry["doc"] if "resps" in entry and "doc" in entry else entry
        if isinstance(doc, dict) and field in doc:
            return True
    return False


def check_text(place: str, *texts: str) -> None:
    """Refuse what JSON can write and nothing else can: half of a surrogate pair."""
    for text in texts:
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise ConfigError(
                f"{place}: the text holds half a surrogate pair ({text[error.start]!r}), which is no character; remove it"
            ) from error


def pair_rows(candidates: Sequence[Row], baselines: Sequence[Row], allow_unmatched: bool = False) -> list[Comparison]:
    """Join two files on the user's turns; ids are the baseline's row numbers.

    Raises:
        ConfigError: rows without a counterpart, unless allowed; no row with one.
    """
    by_prompt = {prompt_hash(row.prompt): row for row in candidates}
    comparisons = []
    without = []
    for row in baselines:
        match = by_prompt.pop(prompt_hash(row.prompt), None)
        if match is None:
            without.append(row)
        else:
            _check_system(match, row)
            prompt = row.prompt if _system(row.prompt) and not _system(match.prompt) else match.prompt
            comparisons.append(Comparison(str(row.number), prompt, match.text, row.text))
    left = list(by_prompt.values())
    if ((without or left) and not allow_unmatched) or not comparisons:
        shown = [(row.place, as_messages(row.prompt)[-1]["content"]) for row in [*left[:1], *without[:1]]]
        examples = "; first: " + "; ".join(f"{place}: {json.dumps(text)[:_SHOWN]}" for place, text in shown)
        hint = "pass --allow-unmatched to judge the others" if comparisons else "are these the same prompts?"
        raise ConfigError(
            f"{len(comparisons)} prompts stand in both files, {len(left)} only in the candidate's and {len(without)} "
            f"only in the baseline's{examples}; {hint}, or name the field that holds the prompt with --prompt-field"
        )
    return comparisons


def _system(prompt: str | Messages) -> list[str]:
    """What the system said to the model, turn by turn; nothing where a prompt is the instruction alone."""
    return [turn["content"].strip() for turn in as_messages(prompt) if turn["role"] in ("system", "developer")]


def _check_system(candidate: Row, baseline: Row) -> None:
    """Refuse two answers that were given under different instructions: no judge can be shown both."""
    one, two = _system(candidate.prompt), _system(baseline.prompt)
    if one and two and one != two:  # a file that keeps no system turn does not say what it was
        raise ConfigError(
            f"the answers at {candidate.place} and {baseline.place} were given under different system messages "
            f"({one[0][:60]!r} and {two[0][:60]!r}), and no judge can be shown both; compare answers to the same task"
        )


def single_rows(rows: Sequence[Row]) -> list[Answer]:
    """Rows of one file for a pointwise judge; ids are row numbers."""
    return [Answer(str(row.number), row.prompt, row.text) for row in rows]


def json_rows(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """("file, line n", object) of a JSON-lines file or of a JSON list, gzipped or not.

    Raises:
        ConfigError: unreadable file, malformed line (named), or something else than objects.
    """
    try:
        opened = (
            gzip.open(path, "rt", encoding="utf-8-sig") if path.suffix == ".gz" else path.open(encoding="utf-8-sig")
        )
        with opened as file:
            if path.name.removesuffix(".gz").endswith(".json"):
                yield from _list_rows(path, file.read())
                return
            for number, line in enumerate(file, start=1):
                if line.strip():
                    yield _row(path, number, line)
    except (OSError, UnicodeDecodeError, EOFError, zlib.error) as error:  # the last two: a torn or damaged .gz
        raise ConfigError(f"cannot read {path}: {error}") from error


def _split(spec: str) -> tuple[Path, str | None]:
    if Path(spec).exists() or "#" not in spec:
        return Path(spec), None
    path, _, strategy = spec.rpartition("#")
    return Path(path), strategy


def _list_rows(path: Path, text: str) -> Iterator[tuple[str, dict[str, Any]]]:
    try:
        content = json.loads(text)
    except ValueError as error:
        raise ConfigError(f"{path} is not JSON: {error}") from error
    if not isinstance(content, list):
        raise ConfigError(f"{path} must hold a list of objects, got {type(content).__name__}")
    for number, entry in enumerate(content, start=1):
        if not isinstance(entry, dict):
            raise ConfigError(f"{path}, entry {number} must be an object, got {type(entry).__name__}")
        yield f"{path}, entry {number}", entry


def _row(path: Path, number: int, line: str) -> tuple[str, dict[str, Any]]:
    place = f"{path}, line {number}"
    try:
        entry = json.loads(line)
    except ValueError as error:
        raise ConfigError(f"{place} is not JSON ({error}): {line.strip()[:_SHOWN]!r}") from error
    if not isinstance(entry, dict):
        raise ConfigError(f"{place} must be an object, got {type(entry).__name__}")
    return place, entry


def _field(entry: Mapping[str, Any], names: Sequence[str], place: str) -> Any:
    for name in names:
        if name in entry:
            return entry[name]
    wanted = " or ".join(repr(name) for name in names)
    raise ConfigError(f"{place}: field {wanted} is missing; there are {', '.join(entry) or 'no fields'}")


def prompt_of(entry: Any, place: str, field: str | None = None) -> str | Messages:
    """The prompt of a row: a string, or chat messages up to the user's last turn.

    Args:
        entry: the row. place: "file, line n", for messages. field: where the prompt stands; None looks for usual names.
    """
    if not isinstance(entry, dict):
        raise ConfigError(f"{place}: expected an object with the prompt, got {type(entry).__name__}")
    if field and field not in entry:
        raise ConfigError(f"{place}: field {field!r} is missing{nearest(field, entry)}; there are {', '.join(entry)}")
    if not field and not any(name in entry for name in PROMPT_FIELDS):
        raise ConfigError(
            f"{place}: no field {', '.join(PROMPT_FIELDS)}; name the one that holds the prompt with --prompt-field "
            f"(there are {', '.join(entry)})"
        )
    prompt = entry[field] if field else _field(entry, PROMPT_FIELDS, place)
    if isinstance(prompt, str):
        return prompt
    if not isinstance(prompt, list):
        raise ConfigError(f"{place}: a prompt is a string or a list of messages, got {type(prompt).__name__}")
    try:
        messages = as_messages(prompt)
    except (ConfigError, TypeError, ValueError) as error:
        raise ConfigError(f"{place}: {error}") from error
    while len(messages) > 1 and messages[-1]["role"] == "assistant":
        messages.pop()
    return messages


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
    return [(None, _field(entry, OUTPUT_FIELDS, place))]


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
        raise ConfigError(
            f"{place}: no answer by strategy {strategy!r}{nearest(strategy, known)}; there are {there_are}"
        )
    return next(text for name, text in answers if name == strategy)
