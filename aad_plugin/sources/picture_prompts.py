"""Prompts of a file whose rows show pictures, as chat messages with parts.

A row has `images` (or `image`, `image_1` …) beside its prompt, or messages with image parts. A part without a picture of
its own takes the next of the column; where no part asks for one, all stand before the first user's text, as TRL has it. A
picture is a file relative to the file that names it, a ``data:`` URL, or {"bytes": …}. Rows of text come out as they do
elsewhere.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from aad_plugin.errors import ConfigError
from aad_plugin.sources.images import (
    Picture,
    check_number,
    home_path,
    part_payload,
    parts_of,
    plain_payload,
    read_picture,
)
from aad_plugin.texts.messages import checked_turns
from aad_plugin.texts.parts import picture_columns, text_of
from aad_plugin.texts.prompts import (
    Messages,
    PromptSet,
    asked_turns,
    distinct_prompts,
    is_preference,
    raw_prompt,
    source_rows,
    writable,
)


def read_picture_prompts(source: str, field: str | None = None) -> PromptSet:
    """Read prompts of text and pictures, each once; arguments and errors as of `texts.prompts.read_prompts`."""
    return distinct_prompts(picture_prompt_rows(source, field), source)


def picture_prompt_rows(source: str, field: str | None = None) -> Iterator[tuple[str, str | Messages]]:
    """Yield ("file, line n", prompt) of every row; parts that show a picture hold a `Picture`.

    Raises:
        ConfigError: as `read_picture`; parts and pictures that are not of one number.
    """
    path = Path(source).expanduser()
    folder = path.parent if path.is_file() else Path(source.partition("#")[0]).expanduser()
    for place, row in source_rows(source):
        yield place, writable(_prompt(row, place, field, folder), place)


def _prompt(row: Mapping[str, Any], place: str, field: str | None, folder: Path) -> str | Messages:
    if is_preference(row, field):
        asked: Any = [turn for turn in row["chosen"][:-1] if isinstance(turn, dict)]
    else:
        asked = raw_prompt(row, place, field or ("prompt" if "prompt" in row else None))
    turns: list[dict[str, Any]] = [{"role": "user", "content": asked}] if isinstance(asked, str) else []
    turns = turns or asked_turns(asked, place, _turns)
    turns = [{**turn, "content": _parts(turn["content"], place)} for turn in turns]
    pictures = [part["image"] for turn in turns for part in turn["content"] if part["type"] == "image"]
    names = picture_columns(row, place, shown=bool(pictures) and None not in pictures)
    given = [one for name in names if name != field for one in _listed(row[name])]
    if isinstance(asked, str) and not given:
        return asked
    _place_pictures(turns, given, place, folder)
    shown = 0
    for turn in turns:
        for part in turn["content"]:
            if part["type"] == "image":
                shown += 1
                check_number(shown, place)
                part["image"] = _read(part["image"], folder, f"{place}, picture {shown}")
    if shown:
        return turns
    return [{**turn, "content": text_of(turn["content"])} for turn in turns]


def _turns(turns: Any) -> Messages:
    return checked_turns(turns, str | list, "'role' and 'content', text or parts")


def _listed(value: Any) -> list[Any]:
    return [one for one in value if one is not None] if isinstance(value, list | tuple) else [value]


def _parts(content: Any, place: str) -> list[dict[str, Any]]:
    """A content as parts: of text, and of images with what the part itself gives, or None."""
    if isinstance(content, str):
        return [{"type": "text", "text": content}]
    return [
        {"type": "image", "image": part_payload(part)} if text is None else {"type": "text", "text": text}
        for text, part in parts_of(content, place)
    ]


def _place_pictures(turns: list[dict[str, Any]], given: list[Any], place: str, folder: Path) -> None:
    """Give each part without a picture the next of the column; changes the turns. A column may name once more what all
    parts show."""
    parts = [part for turn in turns for part in turn["content"] if part["type"] == "image"]
    empty = [part for part in parts if part["image"] is None]
    if parts and not empty and given:
        own, column = (
            [_read(one, folder, f"{place}, picture {number}") for number, one in enumerate(shown, 1)]
            for shown in ([part["image"] for part in parts], [plain_payload(one) for one in given])
        )
        if [one.digest for one in own] != [one.digest for one in column]:
            raise ConfigError(
                f"{place} shows {len(own)} pictures in its messages and others in its column: leave one of them out"
            )
        for part, one in zip(parts, own, strict=True):
            part["image"] = one
        return
    if not empty and given:
        first = next((turn for turn in turns if turn["role"] == "user"), None)
        if first is None:
            raise ConfigError(f"{place} has pictures and no user's turn to show them in")
        empty = [{"type": "image", "image": None} for _ in given]
        first["content"] = [*empty, *first["content"]]
    if len(empty) != len(given):
        raise ConfigError(
            f"{place} has {len(given)} pictures in its column and {len(empty)} parts that wait for one: expected one each"
        )
    for part, one in zip(empty, given, strict=True):
        part["image"] = plain_payload(one)


def _read(given: Any, folder: Path, place: str) -> Picture:
    if isinstance(given, str) and given[:5].lower() != "data:" and "://" not in given:
        given = folder / home_path(given)
    return read_picture(given, place)
