"""Battles as numbers: rows of a design, counts by question, and who can be compared with whom."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from aad_plugin.errors import ConfigError
from aad_plugin.judges.leagues.battles import Battle
from aad_plugin.judges.leagues.style import FEATURES, differences


@dataclass(frozen=True)
class Design:
    """What a league's fit needs.

    Args:
        systems: names, sorted. questions: how many. pairs: (P, 2) int, systems that met; the first has the lower number.
        pair_of, question_of: (N,) int, pair and question of each row. columns: (N, S) float, 1 for the pair's first, -1
            for its second. style: (N, F) float differences of dress in units of `style_scale`, F may be 0.
        shares: (N, 3) won, tied, lost by the pair's first.
        features, style_scale: names of the style columns and the root mean square each was divided by.
    Without style a row holds all battles of a pair on one question.
    """

    systems: tuple[str, ...]
    questions: int
    pairs: np.ndarray
    pair_of: np.ndarray
    question_of: np.ndarray
    columns: np.ndarray
    style: np.ndarray
    shares: np.ndarray
    features: tuple[str, ...]
    style_scale: np.ndarray


def design_of(battles: Sequence[Battle], features: Sequence[str] = ()) -> Design:
    """Number systems, questions and pairs.

    Style columns are differences (see `style.differences`) divided by their root mean square, not centred: a league has
    no first side, and 0 is what two equally dressed answers have. A column without any difference is left out.

    Args:
        battles: judged ones. features: style to control for.
    Raises:
        ConfigError: no battles, or a battle whose answers' style is not known.
    """
    if not battles:
        raise ConfigError("a league needs battles, got none with a verdict")
    systems = tuple(sorted({name for battle in battles for name in (battle.a, battle.b)}))
    number = {name: at for at, name in enumerate(systems)}
    questions = {question: at for at, question in enumerate(dict.fromkeys(battle.question for battle in battles))}
    sides = np.array([(number[battle.a], number[battle.b]) for battle in battles])
    swapped = sides[:, 0] > sides[:, 1]
    shares = np.array([battle.shares for battle in battles], dtype=float)
    shares[swapped] = shares[swapped][:, ::-1]
    pairs, pair_of = np.unique(np.sort(sides, axis=1), axis=0, return_inverse=True)
    question_of = np.array([questions[battle.question] for battle in battles])
    style, kept, scale = _style(battles, swapped, features)
    if not kept:  # rows of one pair and question are one
        cells, cell_of = np.unique(np.column_stack([pair_of.ravel(), question_of]), axis=0, return_inverse=True)
        summed = np.zeros((len(cells), 3))
        np.add.at(summed, cell_of.ravel(), shares)
        pair_of, question_of, shares, style = cells[:, 0], cells[:, 1], summed, np.zeros((len(cells), 0))
    pair_of = pair_of.ravel()
    columns = np.zeros((len(shares), len(systems)))
    rows = np.arange(len(shares))
    columns[rows, pairs[pair_of, 0]], columns[rows, pairs[pair_of, 1]] = 1, -1
    return Design(systems, len(questions), pairs, pair_of, question_of, columns, style, shares, kept, scale)


def _style(
    battles: Sequence[Battle], swapped: np.ndarray, features: Sequence[str]
) -> tuple[np.ndarray, tuple[str, ...], np.ndarray]:
    if not features:
        return np.zeros((len(battles), 0)), (), np.zeros(0)
    counts = []
    for battle in battles:
        if battle.style_a is None or battle.style_b is None:
            raise ConfigError(
                f"style control needs the style of every answer, and the battle of {battle.a} and {battle.b} on question "
                f"{battle.question} does not hold it; judge the answers with --systems, which counts it"
            )
        counts.append([[getattr(style, name) for name in FEATURES] for style in (battle.style_a, battle.style_b)])
    found = np.array(counts, dtype=float)
    told = differences(found[:, 0], found[:, 1]) * np.where(swapped, -1, 1)[:, None]
    scale = np.sqrt((told**2).mean(axis=0))
    columns = [at for at, name in enumerate(FEATURES) if name in features and scale[at] > 0]
    return told[:, columns] / scale[columns], tuple(FEATURES[at] for at in columns), scale[columns]


def reachable(wins: np.ndarray) -> np.ndarray:
    """(B, S, S) bool: whether a chain of won or tied battles leads from one system down to another.

    Args:
        wins: (B, S, S) float, what the first got against the second, ties included.
    """
    size = wins.shape[1]
    reach = (wins > 0) | np.eye(size, dtype=bool)
    for _ in range(int(np.ceil(np.log2(max(2, size))))):
        reach = np.matmul(reach.astype(np.float32), reach.astype(np.float32)) > 0
    return reach
