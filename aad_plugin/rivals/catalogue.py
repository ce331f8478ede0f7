"""What each of this package's tasks is, read from its YAML alone: nothing is loaded or fetched."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import yaml

from aad_plugin.harness.registration import tasks_path


@dataclass(frozen=True)
class Entry:
    """One task: where its documents come from, under which licence, how many, who answers beside aad.

    `kind` is categorization, moderation, dialogue or vision; `data` is ``metadata.data`` of its YAML, None where the
    documents are part of the package.
    """

    name: str
    kind: str
    source: str
    licence: str
    split: str
    documents: str
    budget: int
    rivals: list[str]
    data: dict[str, Any] | None


class _Loader(yaml.SafeLoader):
    """Reads ``!function`` as the name it holds."""


def _name(loader: yaml.SafeLoader, node: Any) -> Any:
    return loader.construct_scalar(node)


_Loader.add_constructor("!function", _name)


def entries() -> list[Entry]:
    """Return this package's tasks, by kind and name."""
    configs = [yaml.load(path.read_text(encoding="utf-8"), _Loader) for path in tasks_path().rglob("*.yaml")]
    found = [_entry(config) for config in configs if "group" not in config]
    return sorted(found, key=lambda entry: (entry.kind, entry.name))


def _entry(config: dict[str, Any]) -> Entry:
    metadata = config["metadata"]
    data = metadata.get("data")
    return Entry(
        name=config["task"],
        kind=metadata["kind"],
        source=metadata["source"],
        licence=metadata["licence"],
        split=config["test_split"],
        documents=str(metadata["documents"]),
        budget=config["generation_kwargs"]["max_gen_toks"],
        rivals=metadata["rivals"],
        data=data if data and ("hub" in data or "project" in data) else None,
    )
