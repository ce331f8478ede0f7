"""Rows of files: JSON lines, lists and objects of lists, csv, parquet; gzipped or not. Complaints name file and line."""

from __future__ import annotations

import csv
import gzip
import json
import zlib
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, TextIO

from aad_plugin.errors import ConfigError

_UNREADABLE = (OSError, UnicodeDecodeError, EOFError, zlib.error)  # the last two: a torn or damaged .gz


def json_rows(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """("file, line n", object) of a JSON-lines file or of a JSON list, gzipped or not.

    Raises:
        ConfigError: unreadable file, malformed line (named), or something else than objects.
    """
    try:
        with _opened(path) as file:
            if path.name.removesuffix(".gz").endswith(".json"):
                yield from _list_rows(path, file.read())
                return
            yield from _line_rows(path, file)
    except _UNREADABLE as error:
        raise ConfigError(f"cannot read {path}: {error}") from error


def json_lines(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """As :func:`json_rows`, of a file of lines whatever its name says."""
    try:
        with path.open(encoding="utf-8-sig") as file:
            yield from _line_rows(path, file)
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"cannot read {path}: {error}") from error


def _opened(path: Path, newline: str | None = None) -> TextIO:
    """A file's text, unpacked where its name ends in .gz; newline: as of ``open``."""
    opener: Callable[..., TextIO] = gzip.open if path.suffix == ".gz" else open
    return opener(path, "rt", encoding="utf-8-sig", newline=newline)


def _line_rows(path: Path, lines: Iterable[str]) -> Iterator[tuple[str, dict[str, Any]]]:
    for number, line in enumerate(lines, start=1):
        if line.strip():
            yield _row(path, number, line)


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


_SHOWN = 80
_LONGEST = 2**30  # characters of a csv field
_FORMATS = ".csv, .json, .jsonl, .parquet (.gz too)"


def rows(path: Path) -> Iterator[dict[str, Any]]:
    """Yield the rows of a file; a JSON object of lists yields {"section", "values"} per entry."""
    kind = path.name.removesuffix(".gz").rsplit(".", 1)[-1]
    if kind == "csv":
        yield from _csv_rows(path)
    elif kind == "parquet":
        yield from _parquet_rows(path)
    elif kind == "json" and (sections := _sections(path)) is not None:
        yield from sections
    elif kind in ("json", "jsonl"):
        yield from (row for _, row in json_rows(path))
    else:
        raise ConfigError(f"cannot read {path}: expected a file of one of the formats {_FORMATS}")


def _csv_rows(path: Path) -> Iterable[dict[str, Any]]:
    try:
        with _opened(path, newline="") as file:
            csv.field_size_limit(_LONGEST)  # of all readers in this process; a picture may stand in a field
            reader = csv.DictReader(file)
            for row in reader:
                if None in row or None in row.values():
                    what = "more" if None in row else "fewer"
                    raise ConfigError(
                        f"{path}, line {reader.line_num}: {what} fields than the {len(reader.fieldnames or ())} columns of "
                        "the first line; put a text that holds a comma into double quotes"
                    )
                yield row
    except (*_UNREADABLE, csv.Error) as error:
        raise ConfigError(f"cannot read {path} as csv: {error}") from error


def _parquet_rows(path: Path) -> Iterable[dict[str, Any]]:
    """Rows with class labels by name: the hub's files hold their numbers, and the names in the schema's metadata."""
    import pyarrow
    import pyarrow.parquet

    try:
        file = pyarrow.parquet.ParquetFile(gzip.open(path) if path.suffix == ".gz" else path)
        described = json.loads((file.schema_arrow.metadata or {}).get(b"huggingface", b"{}"))
        features = described.get("info", {}).get("features", {})
        names = {column: feature["names"] for column, feature in features.items() if "names" in feature}
        for batch in file.iter_batches():
            for row in batch.to_pylist():
                yield row | {
                    column: known[row[column]] for column, known in names.items() if row.get(column) is not None
                }
    except (*_UNREADABLE, pyarrow.ArrowException) as error:
        raise ConfigError(f"cannot read {path} as parquet: {error}") from error


def _sections(path: Path) -> Iterator[dict[str, Any]] | None:
    """Rows of a JSON object of lists; None where the file holds a list."""
    try:
        with _opened(path) as file:
            content = json.loads(file.read())
    except (*_UNREADABLE, ValueError) as error:
        raise ConfigError(f"cannot read {path} as JSON: {error}") from error
    if not isinstance(content, dict):
        return None
    lists = {name: values for name, values in content.items() if isinstance(values, list)}
    return ({"section": name, "values": value} for name, values in lists.items() for value in values)
