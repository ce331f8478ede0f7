"""Hallucination benchmarks with pictures: POPE's yes/no probes, AMBER's descriptions and questions."""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lm_eval.api.registry import get_aggregation

from aad_plugin.errors import ConfigError
from aad_plugin.rivals.amber import (
    Described,
    Words,
    amber_score,
    describe,
    description_figures,
    question_figures,
)
from aad_plugin.rivals.label_metrics import mean_of
from aad_plugin.rivals.nouns import EnglishWords
from aad_plugin.rivals.rival_task import Figure, RivalTask
from aad_plugin.sources.images import read_picture
from aad_plugin.tasks.vision.documents import data_folder, find_file

_POPE = ("accuracy", "precision", "recall", "f1", "yes_ratio")
_QUESTION = ("accuracy", "precision", "recall", "f1")
_DESCRIPTION = {"chair": False, "cover": True, "hal": False, "cog": False}
_KINDS = ("existence", "state", "number", "action", "relation")
_ATTRIBUTE = ("state", "number", "action")
_WORD = re.compile(r"[^\W\d_]+")
Asked = tuple[str, str, str | None] | None  # kind, label, what was said; None for a description


def picture(doc: Mapping[str, Any]) -> list[Any]:
    """The document's picture, as a Pillow image.

    Raises:
        ConfigError: it is not there, or no picture; one line names the project that has it.
    """
    return [_read(doc["picture"], doc["project"])]


@functools.cache  # many questions show one picture
def _read(path: str, project: str) -> Any:
    if not Path(path).is_file():
        raise ConfigError(f"no picture {path}: take it from {project} and put it there (nothing is fetched)")
    return read_picture(path, f"the picture {path}").image


class PopeTask(RivalTask):
    """One setting of POPE (arXiv 2305.10355): is an object in the picture, by upstream's evaluate.py.

    Metrics, per answer s, in [0, 1] and with "yes" as what is to be found: accuracy_s, precision_s, recall_s, f1_s,
    yes_ratio_s (share of answers read as yes), and unparsed_s, the share in which neither yes nor no stands; upstream
    reads those as yes, and so do the other figures.
    """

    judged = False

    def answer_values(self, doc: Mapping[str, Any], answer: str) -> dict[str, Any]:
        said = (doc["label"], read_pope(answer))
        words = {word.lower() for word in _WORD.findall(answer)}
        return {**dict.fromkeys(_POPE, said), "unparsed": float(words.isdisjoint(("yes", "no", "not")))}

    def answer_figures(self) -> dict[str, Figure]:
        better = {name: None if name == "yes_ratio" else True for name in _POPE}
        figures = {name: Figure(functools.partial(_pope_figure, name), better[name]) for name in _POPE}
        return {**figures, "unparsed": Figure(get_aggregation("mean"), False)}


def read_pope(answer: str) -> str:
    """Return "no" if the first sentence has a word "No", "no" or "not", else "yes": upstream's rule, letter by letter."""
    words = answer.split(".")[0].replace(",", "").split(" ")
    return "no" if {"No", "no", "not"} & set(words) else "yes"


def pope_figures(pairs: Sequence[tuple[str, str]]) -> dict[str, float]:
    """accuracy, precision, recall, f1 and yes_ratio of (label, answer) pairs of "yes" and "no"; NaN where undefined."""
    swapped = [("no" if label == "yes" else "yes", "no" if said == "yes" else "yes") for label, said in pairs]
    found = question_figures(swapped)  # counts what is "no"
    return {**found, "yes_ratio": sum(said == "yes" for _, said in pairs) / len(pairs)}


def _pope_figure(name: str, pairs: Sequence[tuple[str, str]]) -> float:
    return pope_figures(pairs)[name]


class AmberTask(RivalTask):
    """AMBER (arXiv 2311.07397): descriptions and yes/no questions, by upstream's inference.py, of ``metadata.kinds``.

    Metrics, per answer s, in [0, 1]: of descriptions chair_s, cover_s, hal_s and cog_s; of questions, with "no" as what
    is to be found, accuracy_s, precision_s, recall_s and f1_s, of all and of each kind (``f1_existence_s``,
    ``…_attribute_s``, ``…_state_s``, ``…_number_s``, ``…_action_s``, ``…_relation_s``), unparsed_s (neither yes nor no:
    wrong); and where both are asked amber_score_s = (1 − chair + f1) / 2.
    """

    judged = False
    words: Words | None = None

    @property
    def kinds(self) -> list[str]:
        """Of the documents: generative, and those of questions."""
        return list(self.config.metadata["kinds"])

    def build_all_requests(self, **options: Any) -> None:
        """Look for what scores descriptions before anything is answered."""
        if "generative" in self.kinds:
            self._word_lists()
            self.words = self.words or EnglishWords()
        super().build_all_requests(**options)

    def answer_values(self, doc: Mapping[str, Any], answer: str) -> dict[str, Any]:
        if doc["kind"] == "generative":
            value: tuple[Described | None, Asked] = (self._described(doc, answer), None)
        else:
            value = (None, (doc["kind"], doc["label"], read_yes_no(answer)))
        names = (name for name in self.answer_figures() if name != "unparsed")
        unparsed = None if value[1] is None else float(value[1][2] is None)
        return {**dict.fromkeys(names, value), **({"unparsed": unparsed} if self._asks else {})}

    def answer_figures(self) -> dict[str, Figure]:
        found: dict[str, Figure] = {}
        if "generative" in self.kinds:
            found |= {name: Figure(functools.partial(_amber_figure, name, ""), up) for name, up in _DESCRIPTION.items()}
        for kind in ("", *self._asks):
            for name in _QUESTION if self._asks else ():
                found[f"{name}_{kind}".rstrip("_")] = Figure(functools.partial(_amber_figure, name, kind), True)
        if self._asks:
            found["unparsed"] = Figure(mean_of if "generative" in self.kinds else get_aggregation("mean"), False)
        if self._asks and "generative" in self.kinds:
            found["amber_score"] = Figure(functools.partial(_amber_figure, "amber_score", ""), True)
        return found

    @property
    def _asks(self) -> list[str]:
        """Kinds of questions, attributes as a whole among them."""
        own = [kind for kind in _KINDS if kind in self.kinds]
        return [*own, *(["attribute"] if set(_ATTRIBUTE) <= set(own) else [])]

    def _described(self, doc: Mapping[str, Any], answer: str) -> Described:
        association, safe = self._word_lists()
        self.words = self.words or EnglishWords()
        truth, hallu = json.loads(doc["truth"]), json.loads(doc["hallu"])
        try:
            return describe(answer, truth, hallu, association, safe, self.words)
        except KeyError as error:
            raise ConfigError(
                f"relation.json has no word {error}: take it and annotations.json from one release"
            ) from error

    def _word_lists(self) -> tuple[dict[str, list[str]], list[str]]:
        data, data_dir = self.config.metadata["data"], self.config.metadata.get("data_dir")
        return _word_lists(str(data_folder(data, data_dir)), json.dumps(dict(data["words"])), data["project"])


@functools.lru_cache(maxsize=4)
def _word_lists(folder: str, names: str, project: str) -> tuple[dict[str, list[str]], list[str]]:
    wanted = json.loads(names)
    relation, safe = (find_file(Path(folder), wanted[name], project) for name in ("association", "safe"))
    try:
        found = json.loads(relation.read_text(encoding="utf-8-sig"))
        if not isinstance(found, dict) or not all(isinstance(words, list) for words in found.values()):
            raise ValueError("expected an object of lists of words")
        return found, safe.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, ValueError) as error:
        raise ConfigError(f"{relation} or {safe} is not what AMBER ships: {error}") from error


def read_yes_no(answer: str) -> str | None:
    """Return "yes" or "no" where the first word is that, whatever its case, else None; upstream reads "Yes" and "No"."""
    first = _WORD.search(answer)
    word = first[0].lower() if first else ""
    return word if word in ("yes", "no") else None


def _amber_figure(name: str, kind: str, values: Sequence[tuple[Described | None, Asked]]) -> float:
    descriptions = [one for one, _ in values if one is not None]
    if name in _DESCRIPTION:
        return description_figures(descriptions)[name]
    kinds = _ATTRIBUTE if kind == "attribute" else (kind,) if kind else _KINDS
    pairs = [(asked[1], asked[2]) for _, asked in values if asked is not None and asked[0] in kinds]
    if name == "amber_score":
        return amber_score(description_figures(descriptions)["chair"], question_figures(pairs)["f1"])
    return question_figures(pairs)[name]
