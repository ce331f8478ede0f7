"""Elo ratings: battles move ratings one after the other, over many orders of drawn questions.

Elo depends on the order of battles and forgets early ones; Bradley-Terry's scores (`table`) do neither, and a league shows
them first. Source of rule and constants: FastChat's ``compute_elo`` (K = 4, scale 400, 1000 to begin with); the median over
draws with its interval is how the Chatbot Arena showed it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from aad_plugin.judges.leagues.battles import Battle
from aad_plugin.judges.statistics.intervals import CONFIDENCE

K = 4.0
SCALE = 400.0
START = 1000.0


@dataclass(frozen=True, slots=True)
class Rating:
    """A system's Elo rating: median over draws, and the 95 % interval of the draws."""

    system: str
    value: float
    low: float
    high: float


def elo_ratings(battles: Sequence[Battle], *, k: float = K, draws: int = 1000, seed: int = 0) -> list[Rating]:
    """Ratings, best first, over draws of whole questions in random order.

    Args:
        battles: unjudged ones are left out. k: how far one battle can move a rating. draws, seed: of the bootstrap.
    """
    judged = [battle for battle in battles if battle.shares is not None]
    systems = sorted({name for battle in judged for name in (battle.a, battle.b)})
    number = {name: at for at, name in enumerate(systems)}
    questions: dict[str, list[int]] = {}
    for at, battle in enumerate(judged):
        questions.setdefault(battle.question, []).append(at)
    sides = np.array([(number[battle.a], number[battle.b]) for battle in judged])
    points = np.array([battle.shares[0] + battle.shares[1] / 2 for battle in judged if battle.shares])
    ratings = _played(
        _orders(list(questions.values()), draws, np.random.default_rng(seed)), sides, points, len(systems), k
    )
    tail = (1 - CONFIDENCE) / 2
    low, middle, high = np.quantile(ratings, (tail, 0.5, 1 - tail), axis=0)
    found = [Rating(*row) for row in zip(systems, middle.tolist(), low.tolist(), high.tolist(), strict=True)]
    return sorted(found, key=lambda one: (-one.value, one.system))


def _orders(questions: list[list[int]], draws: int, dice: np.random.Generator) -> np.ndarray:
    """(draws, L) numbers of battles in the order in which they are played, -1 after the last."""
    orders = []
    for _ in range(draws):
        drawn = dice.integers(0, len(questions), len(questions))
        orders.append(np.concatenate([dice.permutation(questions[at]) for at in drawn]))
    found = np.full((draws, max(map(len, orders))), -1)
    for row, order in enumerate(orders):
        found[row, : len(order)] = order
    return found


def _played(orders: np.ndarray, sides: np.ndarray, points: np.ndarray, systems: int, k: float) -> np.ndarray:
    """(draws, S) ratings after the last battle; one battle of every draw at a time."""
    ratings = np.full((len(orders), systems), START)
    rows = np.arange(len(orders))
    for battle in orders.T:
        one, two = sides[battle].T
        expected = 1 / (1 + 10 ** ((ratings[rows, two] - ratings[rows, one]) / SCALE))
        moved = np.where(battle >= 0, k * (points[battle] - expected), 0.0)
        ratings[rows, one] += moved
        ratings[rows, two] -= moved
    return ratings
