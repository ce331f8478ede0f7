"""AMBER's figures (arXiv 2311.07397) by the rules of its inference.py: objects named in a description, yes/no questions.

Counts of one answer are plain tuples; figures are made of all of them, in [0, 1] (upstream prints percent, rounded to 0.1).
Knows no files, no tasks; which words of a text are nouns and which are near-synonyms, :class:`Words` says.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

SIMILAR = 0.8
"""Near-synonyms are more similar than this, upstream's default."""


class Words(Protocol):
    """What a description's words are."""

    def nouns(self, text: str) -> list[str]:
        """The nouns of a text in its order, each in its dictionary form."""

    def similarity(self, one: str, other: str) -> float:
        """How near two words are, 1 for the same."""


@dataclass(frozen=True)
class Described:
    """One description, counted.

    Attributes:
        named: nouns that are objects AMBER knows, doubles counted. invented: those that are not in the picture.
        covered, present: how many of the picture's objects were named, of how many.
        imagined, imaginable: how many of the objects people imagine there were named, of how many.
    """

    named: int
    invented: int
    covered: int
    present: int
    imagined: int
    imaginable: int


def describe(
    answer: str,
    truth: Sequence[str],
    hallu: Sequence[str],
    association: Mapping[str, Sequence[str]],
    safe_words: Iterable[str],
    words: Words,
) -> Described:
    """Count one description.

    1. Its nouns count if they stand anywhere in ``association``; those in ``safe_words`` are never invented.
    2. A noun that is one of the picture's objects, or associated with one, covers the first such object.
    3. Else it may be one that people imagine there (the same word, then a near-synonym), and that is counted.
    4. If it is a near-synonym of one of the picture's words, it covers that object; else it is invented.

    Args:
        truth: objects in the picture. hallu: objects that people imagine in it. association: object -> words for it.
    Raises:
        KeyError: an object that ``association`` does not know.
    """
    known = {*association, *(word for others in association.values() for word in others)}
    present, imaginable = _owned(truth, association), _owned(hallu, association)
    fine = set(safe_words)
    nouns = [noun for noun in words.nouns(answer) if noun in known]
    covered: set[int] = set()
    imagined: set[int] = set()
    invented = 0
    for noun in nouns:
        if noun in fine:
            continue
        if (owner := _same(noun, present)) is not None:
            covered.add(owner)
            continue
        imagined.update(o for o in (_same(noun, imaginable), _near(noun, imaginable, words)) if o is not None)
        if (owner := _near(noun, present, words)) is not None:
            covered.add(owner)
        else:
            invented += 1
    return Described(len(nouns), invented, len(covered), len(truth), len(imagined), len(hallu))


def description_figures(found: Sequence[Described]) -> dict[str, float]:
    """chair, cover, hal and cog of all descriptions, in [0, 1]; NaN where there is nothing to count.

    chair: share of named objects that are invented. cover: share of the pictures' objects that were named. hal: share of
    descriptions with an invention. cog: share of imaginable objects that were named.
    """
    return {
        "chair": _share(sum(one.invented for one in found), sum(one.named for one in found)),
        "cover": _share(sum(one.covered for one in found), sum(one.present for one in found)),
        "hal": _share(sum(one.invented > 0 for one in found), len(found)),
        "cog": _share(sum(one.imagined for one in found), sum(one.imaginable for one in found)),
    }


def question_figures(pairs: Sequence[tuple[str, str | None]]) -> dict[str, float]:
    """accuracy, precision, recall and f1 of questions, in [0, 1], with "no" as what is to be found; NaN where undefined.

    Args:
        pairs: (label, answer as "yes", "no" or None for neither, which is wrong).
    """
    said_no = [label for label, said in pairs if said == "no"]
    meant_no = [said for label, said in pairs if label == "no"]
    precision = _share(sum(label == "no" for label in said_no), len(said_no))
    recall = _share(sum(said == "no" for said in meant_no), len(meant_no))
    return {
        "accuracy": _share(sum(label == said for label, said in pairs), len(pairs)),
        "precision": precision,
        "recall": recall,
        "f1": harmonic_mean(precision, recall),
    }


def amber_score(chair: float, f1: float) -> float:
    """(1 − CHAIR + F1) / 2, in [0, 1]; upstream prints it times 100."""
    return (1 - chair + f1) / 2


def harmonic_mean(precision: float, recall: float) -> float:
    """F1 of precision and recall; 0 where both are 0, NaN where one is undefined."""
    if precision + recall == 0:
        return 0.0
    return 2 * precision * recall / (precision + recall)


def _owned(objects: Sequence[str], association: Mapping[str, Sequence[str]]) -> list[tuple[str, int]]:
    """Words for objects with the object's number: what is associated with them first, as upstream looks them up."""
    others = [(word, number) for number, name in enumerate(objects) for word in association[name]]
    return [*others, *((name, number) for number, name in enumerate(objects))]


def _same(noun: str, owned: Sequence[tuple[str, int]]) -> int | None:
    return next((number for word, number in owned if word == noun), None)


def _near(noun: str, owned: Sequence[tuple[str, int]], words: Words) -> int | None:
    return next((number for word, number in owned if words.similarity(noun, word) > SIMILAR), None)


def _share(part: int, whole: int) -> float:
    return part / whole if whole else math.nan
