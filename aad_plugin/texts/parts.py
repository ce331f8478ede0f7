"""What a row of a file or a turn of a chat shows besides text: which columns, which parts. Reads no picture."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from aad_plugin.errors import ConfigError

_PICTURES = "image|img|picture|photo"
_NAMED = re.compile(rf"({_PICTURES}|video|audio)s?(_?\d+)?", re.IGNORECASE)
# Where a picture lies; beside the picture itself such a column says the same again.
_PLACED = re.compile(rf"({_PICTURES})s?(_?\d+)?_?(path|file|filename|url|uri)s?(_?\d+)?", re.IGNORECASE)


def text_of(content: Any) -> str:
    """Return the text of a turn's content, a string or parts, without what else it shows."""
    if isinstance(content, str):
        return content
    return " ".join(str(part.get("text") or "") for part in content if part.get("type", "text") == "text")


def as_parts(content: Any) -> list[dict[str, Any]]:
    """Return a turn's content, a string or parts, as parts."""
    return [{"type": "text", "text": content}] if isinstance(content, str) else list(content)


def shown_columns(row: Mapping[str, Any]) -> list[str]:
    """Return the columns of a row that hold pictures, videos or sound: by their name, or by what stands in them."""
    there = {str(name): name for name, value in row.items() if _is_there(value)}
    own = [name for text, name in there.items() if _NAMED.fullmatch(text) or _shows(row[name])]
    if any(not _is_other(name) for name in own):
        return own
    return own + [name for text, name in there.items() if _PLACED.fullmatch(text)]


def picture_columns(row: Mapping[str, Any], place: str, shown: bool = False) -> list[str]:
    """Return the columns of a row that hold pictures.

    Args:
        shown: whether the row's messages hold their pictures already, so that columns of where one lies name no others.
    Raises:
        ConfigError: one holds a video or sound.
    """
    names = [name for name in shown_columns(row) if not (shown and _PLACED.fullmatch(str(name)))]
    for name in names:
        if _is_other(name):
            raise ConfigError(f"{place}: column {name!r} holds no picture, and only pictures are read besides text")
    return names


def _is_other(name: Any) -> bool:
    return re.match("video|audio", str(name), re.IGNORECASE) is not None


def refuse_shown(row: Mapping[str, Any], prompt: Any, place: str) -> None:
    """Raise ConfigError where a row of a file shows more than text: what reads text alone would leave it out unsaid.

    Args:
        prompt: the row's text, messages, or None. place: "file, line n", for messages.
    """
    columns = shown_columns(row)
    contents = [turn.get("content") for turn in prompt if isinstance(turn, Mapping)] if isinstance(prompt, list) else []
    parts = [part for content in contents if isinstance(content, list) for part in content if isinstance(part, Mapping)]
    kinds = [str(part.get("type")) for part in parts if part.get("type", "text") != "text"]
    if columns or kinds:
        what = f"column {columns[0]!r}" if columns else f"a part of type {kinds[0]!r}"
        raise ConfigError(
            f"{place} shows more than text ({what}), and text alone is read here; pictures are read by aad generate, "
            "aad synthesize and --model aad-multimodal; leave them out, or rename a column that is none"
        )


def _is_there(value: Any) -> bool:
    if isinstance(value, str | bytes | list | tuple | Mapping):
        return bool(value) and (not isinstance(value, list | tuple) or any(one is not None for one in value))
    return value is not None and not isinstance(value, bool)  # a flag is no picture


def _shows(value: Any) -> bool:
    """Whether a value is a picture or a sound whatever its column is called: as data, of datasets or of Pillow."""
    if isinstance(value, str):
        return value[:11].lower() == "data:image/"
    if isinstance(value, list | tuple):
        return any(_shows(one) for one in value[:1])
    if isinstance(value, Mapping):
        return value.keys() == {"bytes", "path"} and any(inner is not None for inner in value.values())
    return type(value).__module__.partition(".")[0] == "PIL"
