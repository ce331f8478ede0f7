"""Questions about a scene with the right answer and a wrong one, in the words of the task.

Six kinds: probe (yes or no, half of them absent), count, color, shape, place, and description. A wrong answer invents or
miscounts; wrong colours, shapes and places are those of other things in the picture where there are any.
"""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import dataclass

from aad_plugin.tasks.vision.demo.scenes import COLORS, NUMBERS, PLACES, SHAPES, Kind, described
from experiments.demo_vision.drawing import Scene

DESCRIBE = "Describe the picture."


@dataclass(frozen=True)
class Question:
    """One question. about: for a probe present, random or adversarial, as in POPE; else the kind's own name."""

    kind: str
    text: str
    answer: str
    wrong: str
    about: str


def description(scene: Scene, rng: random.Random) -> Question:
    """Ask for a description; the wrong one has one kind of thing invented, replaced or miscounted."""
    tally = scene.tally()
    return Question("description", DESCRIBE, described(tally), described(spoilt(tally, rng)), "description")


def spoilt(tally: Counter[Kind], rng: random.Random) -> Counter[Kind]:
    """Return a tally with one thing invented, one kind replaced by another, or one number wrong by one."""
    kinds = list(tally.items())
    at = rng.randrange(len(kinds))
    (color, shape), number = kinds[at]
    how = rng.choice(("invented", "replaced", "miscounted"))
    if how == "miscounted":
        kinds[at] = (color, shape), number + 1 if number == 1 or rng.random() < 0.5 else number - 1
    else:
        new = absent_kind(tally, rng, near=rng.random() < 0.5)
        if how == "invented":
            kinds.insert(rng.randint(0, len(kinds)), (new, 1))
        else:
            kinds[at] = new, number
    return Counter(dict(kinds))


def absent_kind(tally: Counter[Kind], rng: random.Random, *, near: bool) -> Kind:
    """Return a kind that is not there; near: its colour or its shape is (of things that are not it)."""
    while True:
        kind = rng.choice(COLORS), rng.choice(list(SHAPES))
        known = any(kind[0] == color or kind[1] == shape for color, shape in tally)
        if kind not in tally and known == near:
            return kind


def probe(scene: Scene, rng: random.Random, about: str) -> Question:
    """Ask for something ``present``, for any other thing (``random``), or for one whose color or shape is there
    (``adversarial``)."""
    tally = scene.tally()
    there = about == "present"
    kind = rng.choice(list(tally)) if there else absent_kind(tally, rng, near=about == "adversarial")
    right, wrong = ("yes", "no") if there else ("no", "yes")
    return Question("probe", f"Is there a {' '.join(kind)}?", right, wrong, about)


def count(scene: Scene, rng: random.Random) -> Question:
    """Ask how many there are of a kind, of a shape, or of all."""
    tally = scene.tally()
    kind, number = rng.choice(list(tally.items()))
    color, shape = kind
    what = rng.choice(("kind", "shape", "things"))
    if what == "shape":
        asked, number = SHAPES[shape], sum(n for (_, other), n in tally.items() if other == shape)
    elif what == "things":
        asked, number = "things", sum(tally.values())
    else:
        asked = f"{color} {SHAPES[shape]}"
    wrong = number + 1 if number == 1 or (number < 6 and rng.random() < 0.5) else number - 1
    return Question("count", f"How many {asked}?", NUMBERS[number], NUMBERS[wrong], "count")


def single(scene: Scene, rng: random.Random) -> list[Question]:
    """Return the questions after colour, shape and place of things that can be named without doubt."""
    things, found = scene.things, []
    for thing in things:
        (color, shape), others = thing.kind, [other for other in things if other is not thing]
        if not any(other.kind[1] == shape for other in others):
            wrong = _other([other.kind[0] for other in others], color, COLORS, rng)
            found.append(Question("color", f"What color is the {shape}?", color, wrong, "color"))
        if not any(other.kind[0] == color for other in others):
            wrong = _other([other.kind[1] for other in others], shape, tuple(SHAPES), rng)
            found.append(Question("shape", f"What shape is {color}?", shape, wrong, "shape"))
        if not any(other.kind == thing.kind for other in others):
            wrong = _other([other.place for other in others], thing.place, PLACES, rng)
            found.append(Question("place", f"Where is the {color} {shape}?", thing.place, wrong, "place"))
    return found


def _other(near: list[str], right: str, every: tuple[str, ...], rng: random.Random) -> str:
    return rng.choice([word for word in near if word != right] or [word for word in every if word != right])


def asked(scene: Scene, rng: random.Random, number: int) -> list[Question]:
    """Draw about so many short questions: half are probes, as many present as absent; the rest are counts and after single
    things."""
    kinds = len(scene.tally())
    present = min(number // 4, kinds) if number >= 4 else rng.randint(0, 1)
    absent = present if number >= 4 else 1 - present
    found: dict[str, Question] = {}
    while len(found) < present + absent:
        about = "present" if len(found) < present else rng.choice(("random", "adversarial"))
        question = probe(scene, rng, about)
        found[question.text] = question
    others = single(scene, rng)
    rng.shuffle(others)
    for _ in range(number - number // 2):
        question = others.pop() if others and rng.random() < 0.67 else count(scene, rng)
        found[question.text] = question
    return list(found.values())
