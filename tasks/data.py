"""Where a task's rows come from: a local file when one is named, else one pinned file of a hub dataset.

Owns the search for files and their formats (csv, json, jsonl, parquet, gzipped or not). Knows no task: what a row means
is said by the task's own function in ``documents.py``. Nothing here runs a dataset's loading script.

A task's YAML describes its data in ``metadata.data``:

    data:
      hub: owner/name            # a dataset repository
      revision: 0123abcd…        # a commit, where a source shows it
      files: {test: path/in/the/repository, train: …}
      local: {test: [names accepted in data_dir], train: […]}
      take: 500                  # only so many documents, the first ones
      shuffle: true              # upstream sorts by label: an order drawn once, so that --limit sees all labels

``--metadata '{"data_dir": "…"}'`` or the environment variable ``AAD_DATA_DIR`` names a folder of local files.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import datasets

from aad_plugin.errors import ConfigError
from aad_plugin.texts.rows import rows

DATA_DIR = "AAD_DATA_DIR"
Row = dict[str, Any]
_SPLITS = {"train", "test"}


def documents(
    make: Callable[[Row], Row | None], data: Mapping[str, Any], data_dir: str | None = None
) -> dict[str, datasets.Dataset]:
    """Return the task's documents by split.

    Args:
        make: turns one row of the file into a document, None to leave it out; a document without "id" gets its number.
        data: ``metadata.data`` of the task's YAML. data_dir: folder of local files; None asks ``AAD_DATA_DIR``.
    Raises:
        ConfigError: no such file, no network, a file of another format, or a column that is missing.
    """
    folder = data_dir or os.environ.get(DATA_DIR)
    splits = {}
    for split in _SPLITS & data["local"].keys():
        # Examples for few-shot prompts are wanted by few: a local folder without them serves the test split all the same.
        path = local_file(data, split, folder, needed=split == "test") if folder else _hub_file(data, split)
        if path is not None:
            found = _dataset(make, path, data.get("take"))
            splits[split] = found.shuffle(seed=0) if data.get("shuffle") else found
    return splits


def rows_of(data: Mapping[str, Any], part: str, data_dir: str | None = None) -> Iterator[tuple[str, Iterator[Row]]]:
    """Yield name and rows of each file of a further part of the data (another system's answers); of local ones those there.
    A name is the file's without folders and ending.
    """
    folder = data_dir or os.environ.get(DATA_DIR)
    for number, name in enumerate(data["local"].get(part, ())):
        one = {**data, "local": {part: [name]}, "files": {part: data["files"][part][number]}}
        path = local_file(one, part, folder, needed=False) if folder else _hub_file(one, part)
        if path is not None:
            yield Path(name).name.partition(".json")[0], rows(path)


def local_file(data: Mapping[str, Any], split: str, folder: str | Path, needed: bool = True) -> Path | None:
    """Return the first accepted file in a folder; None where there is none and none is needed."""
    names = data["local"][split]
    for name in names:
        path = Path(folder) / name
        if path.is_file():
            return path
    if not needed:
        return None
    if not Path(folder).is_dir():
        raise ConfigError(f"data_dir {str(folder)!r} is not a folder; expected one that holds {' or '.join(names)}")
    raise ConfigError(
        f"no data for this task: looked for {' or '.join(names)} in {Path(folder).resolve()}; put the file there, or "
        f"leave data_dir and {DATA_DIR} out to fetch {data['hub']} from the hub"
    )


def reachable(data: Mapping[str, Any], data_dir: str | None = None) -> str:
    """Say in a few words where the test split would come from now; asks the hub with a short time limit."""
    folder = data_dir or os.environ.get(DATA_DIR)
    if folder:
        found = local_file(data, "test", folder, needed=False)
        return f"local: {found}" if found else f"missing in {folder}"
    if "hub" not in data:
        return f"needs data_dir ({data['project']})"
    from huggingface_hub import constants, hf_hub_url, try_to_load_from_cache

    where = {"repo_id": data["hub"], "filename": data["files"]["test"], "revision": data.get("revision")}
    if isinstance(try_to_load_from_cache(**where, repo_type="dataset"), str):
        return "cached"
    if constants.HF_HUB_OFFLINE:
        return "not cached, offline"
    from huggingface_hub import get_hf_file_metadata

    try:
        get_hf_file_metadata(hf_hub_url(**where, repo_type="dataset"), timeout=3)
    except Exception as error:  # whatever it is, the answer to "reachable now?" is no
        return f"hub does not answer ({type(error).__name__})"
    return "on the hub"


def _hub_file(data: Mapping[str, Any], split: str) -> Path:
    from huggingface_hub import hf_hub_download

    name, revision = data["files"][split], data.get("revision")
    try:
        return Path(hf_hub_download(data["hub"], name, repo_type="dataset", revision=revision))
    except Exception as error:  # the hub's client raises many kinds, each of which ends here for the user
        raise ConfigError(
            f"cannot fetch {name} of the dataset {data['hub']} ({str(error).splitlines()[0]}); with the file "
            f'{" or ".join(data["local"][split])} in a folder, pass --metadata \'{{"data_dir": "FOLDER"}}\' or set '
            f"{DATA_DIR}"
        ) from error


def _dataset(make: Callable[[Row], Row | None], path: Path, take: int | None) -> datasets.Dataset:
    made: list[Row] = []
    seen: set[str] = set()
    for number, row in enumerate(rows(path)):
        try:
            document = make(row)
            if document is not None:
                document = {"id": str(number), **document}
                _check(document, seen)
                made.append(document)
        except ConfigError:
            raise
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            what = f"column {error} is missing" if isinstance(error, KeyError) else f"expected {error}"
            raise ConfigError(
                f"{path}, row {number + 1} is not what this task reads: {what}; the row has {', '.join(map(str, row))}"
            ) from error
        if len(made) == take:
            break
    if not made:
        raise ConfigError(f"{path} holds no row that this task can use")
    return datasets.Dataset.from_list(made)


def _check(document: Row, seen: set[str]) -> None:
    """Raise ValueError unless prompt and turns are text and the id is new; the message ends "expected …"."""
    prompt = document["prompt"]
    turns = [prompt] if isinstance(prompt, str) else [turn["content"] for turn in prompt]
    for text in [*turns, *document.get("turns", ())]:
        if not isinstance(text, str) or not text.strip():
            raise ValueError(f"a prompt that is text (got {text!r:.60})")
    if not isinstance(document.get("published", ""), str):
        raise ValueError(f"an answer that is text (got {document['published']!r:.60})")
    if document["id"] in seen:
        raise ValueError(f"ids that come once (got {document['id']!r} again)")
    seen.add(document["id"])
