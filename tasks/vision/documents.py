"""Documents of hallucination benchmarks: questions from their projects' files, pictures from a folder of the user's.

Both come from ``data_dir`` (``--metadata '{"data_dir": "…"}'`` or AAD_DATA_DIR); nothing is fetched. What is missing is
told in one line with the project that has it. A document names its picture's file ("picture") and who has it ("project").
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import datasets

from aad_plugin.errors import ConfigError
from aad_plugin.tasks.data import DATA_DIR
from aad_plugin.texts.rows import json_lines, json_rows

Row = dict[str, Any]
_QUESTIONS = {"existence": "discriminative-hallucination", "state": "discriminative-attribute-state",
              "number": "discriminative-attribute-number", "action": "discriminative-attribute-action"}  # fmt: skip
_RELATION = ("discriminative-relation", "relation")


def pope(data: Mapping[str, Any], data_dir: str | None = None, **kwargs: Any) -> dict[str, datasets.Dataset]:
    """Return {"test": …} with id, prompt, label ("yes" or "no") and picture of one setting of POPE."""
    folder = data_folder(data, data_dir)
    path = find_file(folder, data["local"]["test"], data["project"])
    rows = (_pope_row(row, place, folder, data) for place, row in _entries(path))
    return {"test": _dataset(rows, path)}


def amber(
    data: Mapping[str, Any], kinds: list[str], data_dir: str | None = None, **kwargs: Any
) -> dict[str, datasets.Dataset]:
    """Return {"test": …} with id, prompt, kind, label ("yes", "no", or "" of a description), truth, hallu and picture.

    Args:
        kinds: of the documents wanted: generative, existence, state, number, action, relation.
    """
    folder, project = data_folder(data, data_dir), data["project"]
    path = find_file(folder, data["local"]["test"], project)
    known = {row.get("id"): (place, row) for place, row in _entries(find_file(folder, data["local"]["notes"], project))}
    rows = (_amber_row(row, place, known, folder, data) for place, row in _entries(path))
    return {"test": _dataset((row for row in rows if row["kind"] in kinds), path)}


def data_folder(data: Mapping[str, Any], data_dir: str | None) -> Path:
    """The folder that holds questions and pictures; raises ConfigError where none was named or it is not there."""
    named = data_dir or os.environ.get(DATA_DIR)
    wanted = f"{' or '.join(data['local']['test'])} and the pictures ({data['project']})"
    if not named:
        raise ConfigError(
            f'this task reads a folder of yours: pass --metadata \'{{"data_dir": "FOLDER"}}\' or set {DATA_DIR}; it holds '
            f"{wanted}"
        )
    if not Path(named).is_dir():
        raise ConfigError(f"data_dir {named!r} is not a folder; expected one that holds {wanted}")
    return Path(named)


def find_file(folder: Path, names: list[str], project: str) -> Path:
    """The first of some files in a folder; raises ConfigError that names the project that has them."""
    for name in names:
        if (folder / name).is_file():
            return folder / name
    raise ConfigError(
        f"no {' or '.join(names)} in {folder.resolve()}: take it from {project} and put it there (nothing is fetched)"
    )


def _path_of(folder: Path, name: str, data: Mapping[str, Any]) -> str:
    """Where a picture is, or where it is expected first."""
    places = [folder / part / name for part in data["pictures"]]
    return str(next((path for path in places if path.is_file()), places[0]).resolve())


def _entries(path: Path) -> Iterator[tuple[str, Row]]:
    """Objects of a list, or of lines under whatever name: POPE's .json files hold lines."""
    with path.open("rb") as file:
        is_list = file.read(64).decode("utf-8-sig", errors="replace").lstrip().startswith("[")
    return json_rows(path) if is_list else json_lines(path)


def _pope_row(row: Row, place: str, folder: Path, data: Mapping[str, Any]) -> Row:
    label = str(_column(row, "label", place)).strip().lower()
    if label not in ("yes", "no"):
        raise ConfigError(f"{place}: label must be yes or no, got {row['label']!r}")
    return {
        "id": str(_column(row, "question_id", place)),
        "prompt": str(_column(row, "text", place)),
        "label": label,
        "picture": _path_of(folder, str(_column(row, "image", place)), data),
        "project": data["images_of"],
    }


def _amber_row(
    row: Row, place: str, known: Mapping[Any, tuple[str, Row]], folder: Path, data: Mapping[str, Any]
) -> Row:
    number = _column(row, "id", place)
    if number not in known:
        raise ConfigError(f"{place}: the annotations have no id {number!r}; take both files from {data['project']}")
    at, note = known[number]
    kind = str(_column(note, "type", at))
    truth = _column(note, "truth", at)
    kinds = {**{value: name for name, value in _QUESTIONS.items()}, **dict.fromkeys(_RELATION, "relation")}
    kind = kinds.get(kind, kind)
    if kind != "generative" and (kind not in kinds.values() or truth not in ("yes", "no")):
        raise ConfigError(f"{at}: expected a type that AMBER has and a truth of yes or no, got {kind!r}, {truth!r:.40}")
    is_text = kind == "generative"
    return {
        "id": str(number),
        "prompt": str(_column(row, "query", place)),
        "kind": kind,
        "label": "" if is_text else truth,
        "truth": json.dumps(truth if is_text else []),  # lists of no entries have no type in a dataset
        "hallu": json.dumps(_column(note, "hallu", at) if is_text else []),
        "picture": _path_of(folder, str(_column(row, "image", place)), data),
        "project": data["images_of"],
    }


def _column(row: Row, name: str, place: str) -> Any:
    if name not in row:
        raise ConfigError(f"{place}: no {name!r}; the entry has {', '.join(map(str, row))}")
    return row[name]


def _dataset(rows: Iterator[Row], path: Path) -> datasets.Dataset:
    made = list(rows)
    if not made:
        raise ConfigError(f"{path} holds no entry that this task can use")
    ids = [row["id"] for row in made]
    if len(set(ids)) < len(ids):
        raise ConfigError(f"{path}: ids must differ, and {len(ids) - len(set(ids))} are there twice")
    return datasets.Dataset.from_list(made)
