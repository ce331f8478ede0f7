"""Pairs that show pictures on disk, as TRL's trainers of vision models read them: turns of parts, pictures in `images`."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from aad_plugin.errors import ConfigError
from aad_plugin.files.whole import replacing
from aad_plugin.sources.images import Picture
from aad_plugin.texts.parts import as_parts

FOLDER = "images"
_TEXT = {"_type": "Value", "dtype": "string"}
_TURNS = [{"role": _TEXT, "content": [{"type": _TEXT, "text": _TEXT}]}]


def in_parts(turns: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return turns of parts alone, each picture only as its place."""
    return [{"role": turn["role"], "content": [_place(part) for part in as_parts(turn["content"])]} for turn in turns]


def pictures_in(turns: Sequence[Mapping[str, Any]]) -> list[Picture]:
    """Return the pictures of turns, in the order of their places."""
    return [part["image"] for turn in turns for part in as_parts(turn["content"]) if part["type"] == "image"]


def write_pictures(folder: Path, pictures: Sequence[Picture]) -> list[str]:
    """Write pictures as files named by their digest; return where, below ``folder``.

    Raises:
        ConfigError: the disk does not take them.
    """
    names = []
    for picture in pictures:
        data, kind = picture.encoded()
        path = folder / FOLDER / f"{picture.digest}.{kind}"
        try:
            if not path.exists():
                with replacing(path) as part:
                    part.write_bytes(data)
        except OSError as error:
            raise ConfigError(f"cannot write {path}: {error.strerror or error}") from error
        names.append(f"{FOLDER}/{path.name}")
    return names


def picture_table(folder: Path, rows: Sequence[Mapping[str, Any]]) -> Any:
    """Return rows as an Arrow table that `datasets` loads with a list of pictures.

    Args:
        folder: where `write_pictures` wrote. rows: as they stand in the JSON lines.
    """
    import pyarrow

    held = [{**row, FOLDER: [_read(folder, name) for name in row[FOLDER]]} for row in rows]
    table = pyarrow.Table.from_pylist(held, _schema(rows[0]))
    kinds = {name: _feature(name, value) for name, value in rows[0].items()}
    return table.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": kinds}})})


def _schema(row: Mapping[str, Any]) -> Any:
    """The first rows alone would not tell: of prompts without a picture Arrow sees no type."""
    import pyarrow as pa

    part = pa.struct([("type", pa.string()), ("text", pa.string())])
    turns = pa.list_(pa.struct([("role", pa.string()), ("content", pa.list_(part))]))
    image = pa.list_(pa.struct([("bytes", pa.binary()), ("path", pa.string())]))
    types = {FOLDER: image, "prompt": turns, "chosen": turns, "rejected": turns}
    return pa.schema([(name, types.get(name, pa.int64())) for name in row])


def _feature(name: str, value: Any) -> Any:
    if name == FOLDER:
        return [{"_type": "Image"}]
    return _TURNS if isinstance(value, list) else {"_type": "Value", "dtype": "int64"}


def _read(folder: Path, name: str) -> dict[str, Any]:
    return {"bytes": (folder / name).read_bytes(), "path": Path(name).name}


def _place(part: Mapping[str, Any]) -> dict[str, Any]:
    return {"type": "image"} if part["type"] == "image" else {"type": "text", "text": part["text"]}
