"""What a drawn picture holds, in words: kinds of things, numbers, places, and the reading of a description.

A kind is a colour and a shape. A scene is a tally of kinds. Knows nothing of pixels, models or lm-eval.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping

COLORS = ("red", "blue", "green", "yellow", "purple", "orange", "black")
SHAPES = {
    "circle": "circles",
    "square": "squares",
    "triangle": "triangles",
    "star": "stars",
    "cross": "crosses",
    "ring": "rings",
}
"""Singular -> plural."""
NUMBERS = ("none", "one", "two", "three", "four", "five", "six")
PLACES = ("top left", "top", "top right", "left", "middle", "right", "bottom left", "bottom", "bottom right")
"""Names of the nine cells of a picture, row by row."""
Kind = tuple[str, str]  # color, shape

_SINGULAR = {plural: one for one, plural in SHAPES.items()} | {one: one for one in SHAPES}
_PHRASE = re.compile(
    rf"\b(?:({'|'.join((*NUMBERS[1:], 'an?', '[1-9]'))})\s+)?({'|'.join(COLORS)})\s+({'|'.join(_SINGULAR)})\b"
)


def phrase(kind: Kind, number: int) -> str:
    """Return for example "two red circles"."""
    color, shape = kind
    return f"{NUMBERS[number]} {color} {shape if number == 1 else SHAPES[shape]}"


def described(tally: Mapping[Kind, int]) -> str:
    """Return a scene as a description, kinds in the order of the tally."""
    parts = [phrase(kind, number) for kind, number in tally.items()]
    return " and ".join(filter(None, (", ".join(parts[:-1]), parts[-1])))


def read_description(text: str) -> Counter[Kind]:
    """Return what a description claims: "a red star and two black rings" -> one and two; anything else is passed over."""
    found: Counter[Kind] = Counter()
    for number, color, shape in _PHRASE.findall(text.lower()):
        found[color, _SINGULAR[shape]] += _value(number)
    return found


def _value(number: str) -> int:
    if number in NUMBERS:
        return NUMBERS.index(number)
    return int(number) if number.isdigit() else 1


def description_values(text: str, drawn: Mapping[Kind, int]) -> dict[str, float | None]:
    """Score a description by what was drawn.

    Returns:
        recall: share of the things drawn that are named. invented: share of the things named that were not drawn
        (miscounted ones among them), None where nothing is named. f1: of both, 0 where nothing is named.
    """
    named = read_description(text)
    hit = sum(min(number, drawn.get(kind, 0)) for kind, number in named.items())
    there, said = sum(drawn.values()), sum(named.values())
    return {"recall": hit / there, "invented": 1 - hit / said if said else None, "f1": 2 * hit / (there + said)}


def first_words(text: str) -> str:
    """Return an answer's first line in small letters without its punctuation."""
    lines = text.strip().splitlines()
    return re.sub(r"[^a-z0-9 ]", "", lines[0].lower()).strip() if lines else ""


def read_yes_no(text: str) -> bool | None:
    """Return what an answer to a probe says; None where its first word is neither yes nor no."""
    word = first_words(text).partition(" ")[0]
    return {"yes": True, "no": False}.get(word)
