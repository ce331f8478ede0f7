"""The prompts that pairs are made of: from a file or from a dataset, as chat messages, each once."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from aad_plugin.errors import ConfigError, nearest
from aad_plugin.texts.messages import as_messages
from aad_plugin.texts.parts import refuse_shown, text_of
from aad_plugin.texts.rows import json_rows

Messages = list[dict[str, Any]]  # a content is a string; or parts, where pictures are read
_ENDINGS = ("txt", "md", "json", "jsonl", "csv", "tsv", "parquet", "xlsx", "gz")
_AT_ONCE = 16  # rows of a dataset


@dataclass(frozen=True)
class PromptSet:
    """Distinct prompts.

    Args:
        prompts: chat messages that end with a user's turn. place: where they were read.
        repeated: rows left out because their prompt stood there before.
    """

    prompts: tuple[Messages, ...]
    place: str
    repeated: int = 0

    def __len__(self) -> int:
        return len(self.prompts)

    @property
    def digest(self) -> str:
        """16 hex digits that differ where a prompt, by any character, or the order differs."""
        return hashlib.sha256("\n".join(_mark(prompt, str) for prompt in self.prompts).encode()).hexdigest()[:16]

    @property
    def shows_pictures(self) -> bool:
        """Whether any prompt shows a picture."""
        return any(not isinstance(turn["content"], str) for prompt in self.prompts for turn in prompt)

    def first(self, number: int | None) -> PromptSet:
        """The first so many; all for None."""
        return self if number is None else PromptSet(self.prompts[:number], self.place, self.repeated)


def read_prompts(source: str, field: str | None = None) -> PromptSet:
    """Read prompts.

    Args:
        source: a .txt file (a prompt per line), a .jsonl, .json, .csv or .parquet file of rows, or a dataset, by hub id or
            folder, with ``#split`` (default: train). A prompt is a string or chat messages, under a usual name; of a
            preference set without one, what comes before the chosen answer.
        field: the column that holds the prompt.
    Raises:
        ConfigError: nothing there, a row without text (file and line), a download that broke off.
    """
    return distinct_prompts(prompt_rows(source, field), source)


def distinct_prompts(rows: Iterable[tuple[str, str | Messages]], source: str) -> PromptSet:
    """Return the prompts of rows, each once.

    Args:
        rows: ("file, line n", prompt). source: what they were read from.
    Raises:
        ConfigError: a prompt without text, or none at all.
    """
    seen: dict[str, Messages] = {}
    number = 0
    for place, prompt in rows:
        messages = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else [dict(turn) for turn in prompt]
        if not messages or messages[-1]["role"] != "user" or not text_of(messages[-1]["content"]).strip():
            raise ConfigError(
                f"{place}: expected a prompt with text, got {json.dumps(prompt, ensure_ascii=False, default=str)[:60]}"
            )
        seen.setdefault(prompt_key(messages), messages)
        number += 1
    if not number:
        raise ConfigError(f"{source} holds no prompts")
    return PromptSet(tuple(seen.values()), str(source), number - len(seen))


def prompt_key(prompt: Sequence[Mapping[str, Any]]) -> str:
    """A digest of a prompt's turns and pictures, which tells prompts apart; white space at the ends does not count."""
    return _mark(prompt, str.strip)


def leak_key(prompt: Sequence[Mapping[str, Any]]) -> str:
    """As :func:`prompt_key`, where neither letter case nor any white space counts: what gives a prompt of one set away in
    another."""
    return _mark(prompt, lambda text: " ".join(text.split()).lower())


def _mark(prompt: Sequence[Mapping[str, Any]], of: Callable[[str], str]) -> str:
    turns = [[turn["role"], _content(turn["content"], of)] for turn in prompt]
    return hashlib.sha256(json.dumps(turns).encode()).hexdigest()[:16]


def _content(content: Any, of: Callable[[str], str]) -> Any:
    if isinstance(content, str):
        return of(content)
    return [{"picture": part["image"].digest} if part["type"] == "image" else of(part["text"]) for part in content]


def refuse_overlap(**sets: PromptSet) -> None:
    """Raise ConfigError where two sets share a prompt; their names are the options that gave them."""
    named = list(sets.items())
    for number, (name, one) in enumerate(named):
        for other_name, other in named[number + 1 :]:
            theirs = {leak_key(prompt) for prompt in other.prompts}
            shared = [prompt for prompt in one.prompts if leak_key(prompt) in theirs]
            if shared:
                shown = json.dumps(text_of(shared[0][-1]["content"]), ensure_ascii=False)[:60]
                raise ConfigError(
                    f"--{name.replace('_', '-')} and --{other_name.replace('_', '-')} share {len(shared)} "
                    f"prompts, first: {shown}; what is measured on prompts that were trained on says nothing: take them "
                    "out of one"
                )


def prompt_rows(source: str, field: str | None = None) -> Iterator[tuple[str, Any]]:
    """Yield ("file, line n", prompt) of every row, also an empty one, as often as it stands there; arguments as above.

    Raises:
        ConfigError: as above, and of a row that shows more than text.
    """
    for place, row in source_rows(source):
        if is_preference(row, field):
            refuse_shown(row, row["chosen"], place)
            yield place, writable(asked_turns(row["chosen"][:-1], place, as_messages), place)
        else:
            yield place, writable(prompt_of(row, place, field or ("prompt" if "prompt" in row else None)), place)


def is_preference(row: Mapping[str, Any], field: str | None) -> bool:
    """Whether a row's prompt is what comes before its chosen answer."""
    unnamed = field is None and not any(name in row for name in PROMPT_FIELDS)
    return unnamed and isinstance(row.get("chosen"), list)


def source_rows(source: str) -> Iterable[tuple[str, Mapping[str, Any]]]:
    """Return ("file, line n", row) of a file or a dataset, as `read_prompts` takes them; pictures as they stand there."""
    path = Path(source).expanduser()
    if not path.is_file():
        return _dataset_rows(source)
    kind = path.name.removesuffix(".gz").rpartition(".")[2]
    if kind in ("json", "jsonl"):
        return json_rows(path)
    if kind in ("csv", "parquet"):
        from aad_plugin.texts.rows import rows

        return ((f"{path}, row {number}", row) for number, row in enumerate(rows(path), start=1))
    if path.suffix not in ("", ".txt", ".md"):
        raise ConfigError(f"cannot read {path}: expected .txt with a prompt per line, .jsonl, .json, .csv or .parquet")
    return _lines(path)


def _lines(path: Path) -> Iterator[tuple[str, Mapping[str, Any]]]:
    try:
        lines = path.read_text(encoding="utf-8-sig").split("\n")  # a text may hold other separators of lines
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"cannot read {path}: {error}") from error
    for number, line in enumerate(lines, start=1):
        if line.strip():
            yield f"{path}, line {number}", {"prompt": line.strip()}


def _is_path(name: str) -> bool:
    """Whether a name can only be meant as a place on this machine: no id of the hub looks like it."""
    ending = name.removesuffix(".gz").rpartition(".")[2]
    return name.count("/") > 1 or name.startswith((".", "~", "/")) or ending in _ENDINGS


def _dataset_rows(source: str) -> Iterable[tuple[str, Mapping[str, Any]]]:
    """Rows of a dataset; the ``datasets`` library fetches what is not here, and takes up a download that broke off."""
    from datasets import load_dataset

    name, _, split = source.partition("#")
    if not Path(name).expanduser().is_dir() and _is_path(name):
        raise ConfigError(f"no prompt file or dataset folder {name!r} here")
    try:
        rows = load_dataset(
            str(Path(name).expanduser()) if Path(name).expanduser().is_dir() else name, split=split or "train"
        )
    except (
        Exception
    ) as error:  # the library and the hub's client raise many kinds, each of which ends here for the user
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ConfigError(
            f"cannot read the prompts {source!r}: {reason}; expected a file, or a dataset by hub id or folder with #split. "
            "After a broken download run the same command again: it goes on where it stopped"
        ) from error
    # Arrow's own values: `datasets` would unpack every picture, whatever its size.
    plain = (row for table in rows.with_format("arrow").iter(_AT_ONCE) for row in table.to_pylist())
    return ((f"{source}, row {number}", row) for number, row in enumerate(plain, start=1))


PROMPT_FIELDS = ("messages", "prompt", "instruction", "question", "query")


def check_text(place: str, *texts: str) -> None:
    """Refuse what JSON can write and nothing else can: half of a surrogate pair."""
    for text in texts:
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise ConfigError(
                f"{place}: the text holds half a surrogate pair ({text[error.start]!r}), which is no character; remove it"
            ) from error


def writable(prompt: str | Messages, place: str) -> str | Messages:
    """Return a prompt, text or messages, whose text can be written; raises ConfigError as `check_text`."""
    turns = [{"content": prompt}] if isinstance(prompt, str) else prompt
    check_text(place, *(text_of(turn.get("content", "")) for turn in turns))
    return prompt


def field_of(entry: Mapping[str, Any], names: Sequence[str], place: str) -> Any:
    """Return the first of these fields that a row has; raises ConfigError that names ``place`` where it has none."""
    for name in names:
        if name in entry:
            return entry[name]
    wanted = " or ".join(repr(name) for name in names)
    raise ConfigError(f"{place}: field {wanted} is missing; there are {', '.join(entry) or 'no fields'}")


def prompt_of(entry: Any, place: str, field: str | None = None) -> str | Messages:
    """The prompt of a row: a string, or chat messages up to the user's last turn.

    Args:
        entry: the row. place: "file, line n", for messages. field: where the prompt stands; None looks for usual names.
    Raises:
        ConfigError: no prompt, one that is neither text nor messages, or a row that shows more than text.
    """
    prompt = raw_prompt(entry, place, field)
    refuse_shown(entry, prompt, place)
    return prompt if isinstance(prompt, str) else asked_turns(prompt, place, as_messages)


def raw_prompt(entry: Any, place: str, field: str | None = None) -> Any:
    """The prompt of a row as it stands there: a string or a list; arguments as of `prompt_of`."""
    if not isinstance(entry, dict):
        raise ConfigError(f"{place}: expected an object with the prompt, got {type(entry).__name__}")
    if field and field not in entry:
        raise ConfigError(f"{place}: field {field!r} is missing{nearest(field, entry)}; there are {', '.join(entry)}")
    if not field and not any(name in entry for name in PROMPT_FIELDS):
        raise ConfigError(
            f"{place}: no field {', '.join(PROMPT_FIELDS)} (there are {', '.join(entry)}); name the one that holds the "
            "prompt with --prompt-field, or, where a command has no such option, rename it"
        )
    prompt = entry[field] if field else field_of(entry, PROMPT_FIELDS, place)
    if not field and prompt is entry.get("instruction") and str(entry.get("input") or "").strip():
        raise ConfigError(
            f"{place}: beside 'instruction' stands an 'input', which would be left out: join them into one field, "
            "or name the field that holds the whole prompt with --prompt-field"
        )
    if not isinstance(prompt, str | list):
        raise ConfigError(f"{place}: a prompt is a string or a list of messages, got {type(prompt).__name__}")
    return prompt


def asked_turns(turns: Any, place: str, check: Callable[[Any], Messages]) -> Messages:
    """Return messages up to the user's last turn, checked; a complaint names their place."""
    try:
        messages = check(turns)
    except (ConfigError, TypeError, ValueError) as error:
        raise ConfigError(f"{place}: {error}") from error
    while len(messages) > 1 and messages[-1]["role"] == "assistant":
        messages.pop()
    return messages
