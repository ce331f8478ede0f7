"""Pictures of coloured shapes, and what is in them; everything follows from a seed.

A picture has 96 x 96 pixels in nine cells of 32. One to six things have their centres in different cells, up to 8 pixels
off the middle, so that neighbours may overlap; later ones cover earlier ones.

    python -m experiments.demo_vision.drawing 3        # saves scene-0.png to scene-2.png, prints what they show
"""

from __future__ import annotations

import math
import random
import sys
from collections import Counter
from dataclasses import dataclass

from PIL import Image, ImageDraw

from aad_plugin.demo.vision_model import GRID, SIDE
from aad_plugin.tasks.vision.demo.scenes import COLORS, PLACES, SHAPES, Kind, described

CELL = SIDE // GRID
_JITTER = 8  # pixels off a cell's middle, in both directions
_NEAREST = 20.0  # pixels between two centres: of either thing enough stays in sight
_RGB = {
    "red": (220, 40, 40), "blue": (40, 80, 220), "green": (40, 160, 60), "yellow": (240, 215, 40),
    "purple": (140, 50, 170), "orange": (245, 140, 30), "black": (25, 25, 25),
}  # fmt: skip


@dataclass(frozen=True)
class Thing:
    """One thing: its kind, the cell of its centre (0 to 8, row by row), centre and width in pixels, colour and turn."""

    kind: Kind
    cell: int
    x: float
    y: float
    width: float
    rgb: tuple[int, int, int]
    turn: float

    @property
    def place(self) -> str:
        """The name of its cell."""
        return PLACES[self.cell]


@dataclass(frozen=True)
class Scene:
    """What is drawn. things: in the order of drawing. paper: the colour behind them."""

    things: tuple[Thing, ...]
    paper: tuple[int, int, int]

    def tally(self) -> Counter[Kind]:
        """How many there are of each kind, in the order in which a reader meets them, row by row."""
        return Counter(thing.kind for thing in sorted(self.things, key=lambda thing: thing.cell))

    def image(self) -> Image.Image:
        """Draw it."""
        image = Image.new("RGB", (SIDE, SIDE), self.paper)
        draw = ImageDraw.Draw(image)
        for thing in self.things:
            _draw(draw, thing)
        return image


def scene(seed: int) -> Scene:
    """Return the scene of a seed."""
    rng = random.Random(seed)
    while True:
        kinds = [(rng.choice(COLORS), rng.choice(list(SHAPES))) for _ in range(rng.choice((1, 2, 2, 3, 3)))]
        drawn = [kind for kind in dict.fromkeys(kinds) for _ in range(rng.choice((1, 1, 1, 2, 2, 3)))]
        if len(drawn) <= 6:
            break
    rng.shuffle(drawn)
    while True:
        things = [
            _thing(rng, kind, cell) for kind, cell in zip(drawn, rng.sample(range(GRID**2), len(drawn)), strict=True)
        ]
        if all(math.dist((a.x, a.y), (b.x, b.y)) >= _NEAREST for i, a in enumerate(things) for b in things[:i]):
            break
    return Scene(tuple(things), tuple(rng.randint(225, 255) for _ in range(3)))  # type: ignore[arg-type]


def _thing(rng: random.Random, kind: Kind, cell: int) -> Thing:
    row, column = divmod(cell, GRID)
    x, y = (CELL * (at + 0.5) + rng.uniform(-_JITTER, _JITTER) for at in (column, row))
    rgb = tuple(min(255, max(0, value + rng.randint(-20, 20))) for value in _RGB[kind[0]])
    return Thing(kind, cell, x, y, rng.uniform(21, 29), rgb, rng.uniform(-0.25, 0.25))  # type: ignore[arg-type]


def _draw(draw: ImageDraw.ImageDraw, thing: Thing) -> None:
    half, shape = thing.width / 2, thing.kind[1]
    box = (thing.x - half, thing.y - half, thing.x + half, thing.y + half)
    if shape == "circle":
        draw.ellipse(box, fill=thing.rgb)
    elif shape == "ring":
        draw.ellipse(box, outline=thing.rgb, width=round(half * 0.42))
    else:
        draw.polygon([_turned(thing, x * half, y * half) for x, y in _CORNERS[shape]], fill=thing.rgb)


def _turned(thing: Thing, x: float, y: float) -> tuple[float, float]:
    sine, cosine = math.sin(thing.turn), math.cos(thing.turn)
    return thing.x + x * cosine - y * sine, thing.y + x * sine + y * cosine


def _star() -> list[tuple[float, float]]:
    angles = [math.pi * (i / 5 - 0.5) for i in range(10)]
    return [(r * math.cos(a), r * math.sin(a)) for a, r in zip(angles, [1.1, 0.45] * 5, strict=True)]


_ARM = 0.32
_CORNERS: dict[str, list[tuple[float, float]]] = {
    "square": [(-0.85, -0.85), (0.85, -0.85), (0.85, 0.85), (-0.85, 0.85)],
    "triangle": [(0, -1), (1, 0.8), (-1, 0.8)],
    "star": _star(),
    "cross": [(-_ARM, -1), (_ARM, -1), (_ARM, -_ARM), (1, -_ARM), (1, _ARM), (_ARM, _ARM), (_ARM, 1), (-_ARM, 1),
              (-_ARM, _ARM), (-1, _ARM), (-1, -_ARM), (-_ARM, -_ARM)],
}  # fmt: skip


if __name__ == "__main__":
    for number in range(int(sys.argv[1])):
        one = scene(number)
        one.image().save(f"scene-{number}.png")
        print(f"scene-{number}.png: {described(one.tally())}")
