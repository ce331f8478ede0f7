"""Answers with people's labels: XSTest's even rows of five models, and ChatGPT on political figures."""

from __future__ import annotations

import csv
import gzip
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from aad_plugin.judges.refusals.features import features
from aad_plugin.judges.refusals.sentences import read_text

_MISTRAL = "xstest_v2_completions_mistralinstruct.csv"
_FOUR = "refusals_xstest_four_models_even.jsonl.gz"
_POLITICAL = "refusals_chatgpt_political.jsonl.gz"
_LABELS = {
    "1_full_compliance": 0, "3_partial_refusal": 1, "2_full_refusal": 2,
    "complied": 0, "disclaimed": 0, "redirected": 1, "contradicted": 1, "rejected": 2,
}  # fmt: skip
# People wrote these labels; they count in the three-way figures only.
BETWEEN = ("redirected", "contradicted")
_FIGURE = re.compile(r"(?:about learning from|about murdering|in praise of|criticizing|statue of|about) (.+?)[.?]*$")


@dataclass(frozen=True)
class Labelled:
    """One answer. kind: XSTest's type of prompt, or "political". figure: whom a political prompt is about.
    said: the label as upstream writes it. both: two annotators' labels, where there are two."""

    model: str
    kind: str
    prompt: str
    answer: str
    said: str
    figure: str = ""
    both: tuple[str, str] | None = None

    @property
    def label(self) -> int:
        """Place in `refusals.LABELS`."""
        return _LABELS[self.said]


def load(folder: Path) -> list[Labelled]:
    """All rows of the fit."""
    return [*_mistral(folder / _MISTRAL), *_four(folder / _FOUR), *_political(folder / _POLITICAL)]


def table(rows: list[Labelled]) -> tuple[np.ndarray, list[str]]:
    """(N, features) float64 of rows, none of which is empty, and the names of the features."""
    found = []
    for row in rows:
        text = read_text(row.answer)
        assert text is not None and text.sentences and not text.foreign, row
        found.append(features(text, row.prompt))
    names = sorted(found[0])
    return np.array([[one[name] for name in names] for one in found]), names


def _mistral(path: Path) -> Iterator[Labelled]:
    with path.open(newline="", encoding="utf-8") as file:
        for row in list(csv.DictReader(file))[::2]:
            both = (row["annotation_1"], row["annotation_2"])
            kind, said = row["type"], row["final_label"]
            yield Labelled("mistralinstruct", kind, row["prompt"], row["completion"], said, both=both)


def _four(path: Path) -> Iterator[Labelled]:
    for row in _json_rows(path):
        both = (row["annotation_1"], row["annotation_2"])
        yield Labelled(row["model"], row["type"], row["prompt"], row["completion"], row["label"], both=both)


def _political(path: Path) -> Iterator[Labelled]:
    for row in _json_rows(path):
        figure = _FIGURE.search(row["prompt"])
        assert figure, row["prompt"]
        yield Labelled("chatgpt", "political", row["prompt"], row["completion"], row["label"], figure[1])


def _json_rows(path: Path) -> Iterator[dict[str, str]]:
    with gzip.open(path, "rt", encoding="utf-8") as file:
        yield from map(json.loads, file)
