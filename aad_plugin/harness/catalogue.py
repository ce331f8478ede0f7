"""What each of this package's tasks is: read from the ``metadata`` of its YAML, and its data from the task itself."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from aad_plugin.harness.registration import tasks_path

__all__ = ["Entry", "entries"]


@dataclass(frozen=True)
class Entry:
    """One task: where its documents come from, under which licence, how many, and who answers beside aad."""

    name: str
    source: str
    licence: str
    split: str
    documents: int
    rivals: list[str]
    data: str


def entries() -> list[Entry]:
    """Return this package's tasks, in alphabetical order; loads their documents."""
    from lm_eval.tasks import TaskManager

    manager = TaskManager(include_path=str(tasks_path()), include_defaults=False)
    return [_entry(name, task) for name, task in sorted(manager.load(list(manager.all_subtasks))["tasks"].items())]


def _entry(name: str, task: Any) -> Entry:
    metadata = task.config.metadata
    return Entry(
        name=name,
        source=metadata["source"],
        licence=metadata["licence"],
        split=task.config.test_split,
        documents=len(task.eval_docs),
        rivals=task.rivals,
        data="ships with the package" if task.config.custom_dataset else str(task.config.dataset_path),
    )
