"""Documents of the categorization tasks: {"id", "prompt", "text", "label"}; the prompt is written for this project."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from aad_plugin.tasks.data import Row, documents

_INSTRUCTION = """{text}

Which one of the following categories does the {kind} above belong to?

{labels}

Reply with a first line of the form
Category: <name as written above>
and then give the reason in one sentence."""


def question(text: str, kind: str, labels: Sequence[str]) -> str:
    """Ask for the one label of `text`, a message, query or whatever `kind` calls it."""
    menu = "\n".join(f"- {label}" for label in labels)
    return _INSTRUCTION.format(text=text.strip(), kind=kind, labels=menu)


def banking77(data: Any, labels: Sequence[str], data_dir: str | None = None, **metadata: Any) -> Any:
    """Customer messages of a bank in 77 intents; columns text, category (upstream) or text, label_text (hub)."""
    make = _maker(labels, "message", lambda row: (row["text"], row.get("category") or row["label_text"]))
    return documents(make, data, data_dir)


def clinc150(data: Any, labels: Sequence[str], data_dir: str | None = None, **metadata: Any) -> Any:
    """Queries to an assistant in 150 intents and out of scope; upstream's JSON of lists, or text, intent (hub)."""

    def read(row: Row) -> tuple[str, str]:
        text, intent = row["values"] if "values" in row else (row["text"], row["intent"])
        return text, intent

    def make(row: Row) -> Row | None:
        # Upstream's whole file holds the splits for training and validation, too.
        return None if row.get("section", "test") not in ("test", "oos_test") else in_test(row)

    in_test = _maker(labels, "query", read)
    return documents(make, data, data_dir)


def ag_news(data: Any, labels: Sequence[str], data_dir: str | None = None, **metadata: Any) -> Any:
    """News in four topics; columns text, label (a number from 0, or its name)."""

    def read(row: Row) -> tuple[str, str]:
        label = row["label"]
        if label not in labels and not 0 <= int(label) < len(labels):
            raise ValueError(f"a label from 0 to {len(labels) - 1}, or its name (got {label!r})")
        return row["text"], label if label in labels else labels[int(label)]

    return documents(_maker(labels, "news", read), data, data_dir)


def trec(data: Any, labels: Sequence[str], data_dir: str | None = None, **metadata: Any) -> Any:
    """Questions in six kinds of answer; columns text, label_coarse_original (ABBR, DESC …)."""
    codes = dict(zip(data["codes"], labels, strict=True))
    make = _maker(labels, "question", lambda row: (row["text"], codes[row["label_coarse_original"]]))
    return documents(make, data, data_dir)


def written(data: Any, labels: Sequence[str], **metadata: Any) -> Any:
    """Messages written for this project, shipped with it; columns text, label."""
    make = _maker(labels, "message", lambda row: (row["text"], row["label"]))
    return documents(make, data, str(Path(__file__).parents[1] / "demo"))


def _maker(labels: Sequence[str], kind: str, read: Callable[[Row], tuple[str, str]]) -> Callable[[Row], Row]:
    allowed = set(labels)

    def make(row: Row) -> Row:
        text, label = read(row)
        if label not in allowed:
            raise ValueError(f"a label of the {len(allowed)} known ones (got {label!r})")
        return {"prompt": question(text, kind, labels), "text": text, "label": label}

    return make
