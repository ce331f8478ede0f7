"""Simulated leagues with known scores, and how often the intervals contain them.

python -m tests.judges.leagues.grid          all simulations, some minutes
python -m tests.judges.leagues.grid scores   one of: scores, style
"""

from __future__ import annotations

import sys
import time
from itertools import combinations

import numpy as np

from aad_plugin.judges.leagues.battles import Battle
from aad_plugin.judges.leagues.style import Style, differences
from aad_plugin.judges.leagues.table import League, league_of

SYSTEMS = 8
NAMES = [f"system {number}" for number in range(SYSTEMS)]


def outcomes(dice: np.random.Generator, difference: np.ndarray, tie: float) -> np.ndarray:
    """(N, 3) one drawn outcome per row: won, tied, lost; `tie` is log nu, -inf without ties."""
    logits = np.column_stack([difference / 2, np.full(len(difference), tie), -difference / 2])
    chance = np.exp(logits - logits.max(axis=1, keepdims=True))
    ends = chance.cumsum(axis=1) / chance.sum(axis=1, keepdims=True)
    return np.eye(3)[(dice.random(len(difference))[:, None] > ends).sum(axis=1)]


def planted_league(
    dice: np.random.Generator, scores: np.ndarray, questions: int, tie: float, share: float = 0.6
) -> list[Battle]:
    """A round robin on unequal numbers of questions; the second order repeats the first in a share of the battles."""
    battles = []
    for one, two in combinations(range(len(scores)), 2):
        asked = np.flatnonzero(dice.random(questions) < dice.uniform(0.4, 1.0))
        difference = np.full(len(asked), scores[one] - scores[two])
        first, second = outcomes(dice, difference, tie), outcomes(dice, difference, tie)
        second = np.where(dice.random(len(asked))[:, None] < share, first, second)
        for question, shares in zip(asked.tolist(), ((first + second) / 2).tolist(), strict=True):
            battles.append(Battle(str(question), NAMES[one], NAMES[two], tuple(shares)))
    return battles


def by_name(league: League) -> dict[str, tuple[float, float, float]]:
    return {one.system: (one.score, one.low, one.high) for one in league.standings}


def scores_covered(leagues: int, questions: int, seed: int, draws: int = 300) -> tuple[float, float]:
    """Share of intervals that hold a score, and of rank sets that hold the rank, over leagues of 8."""
    held, ranked, total = 0, 0, 0
    for number in range(leagues):
        dice = np.random.default_rng([seed, questions, number])
        truth = np.sort(dice.normal(0, 1, SYSTEMS))[::-1]
        truth -= truth.mean()
        league = league_of(planted_league(dice, truth, questions, tie=-0.5), draws=draws, seed=number)
        for rank, (name, score) in enumerate(zip(NAMES, truth, strict=True), start=1):
            one = next(found for found in league.standings if found.system == name)
            held += one.low <= score <= one.high
            ranked += one.rank_low <= rank <= one.rank_high
            total += 1
    return held / total, ranked / total


def styled_league(dice: np.random.Generator, effects: np.ndarray, questions: int) -> tuple[list[Battle], np.ndarray]:
    """Four systems of different dress, whose verdicts depend on style by `effects` per root mean square."""
    systems = 4
    scores = np.array([0.6, 0.2, -0.2, -0.6])
    lengths = np.exp(dice.normal(5 + 0.3 * np.arange(systems), 0.5, (questions, systems))).round() + 1
    marks = [dice.poisson(lengths * rate) for rate in (0.01, 0.03, 0.02)]
    dress = np.stack([lengths, *marks], axis=-1)  # (Q, S, 4)
    sides = [(q, one, two) for q in range(questions) for one, two in combinations(range(systems), 2)]
    at, one, two = np.array(sides).T
    told = differences(dress[at, one], dress[at, two])
    unit = np.sqrt((told**2).mean(axis=0))
    shares = outcomes(dice, scores[one] - scores[two] + (told / unit) @ effects, tie=-1.0)
    battles = [
        Battle(str(q), NAMES[a], NAMES[b], tuple(row), Style(*dress[q, a].tolist()), Style(*dress[q, b].tolist()))
        for (q, a, b), row in zip(sides, shares.tolist(), strict=True)
    ]
    return battles, unit


def style_covered(
    simulations: int, effects: np.ndarray, seed: int, questions: int = 100
) -> tuple[np.ndarray, np.ndarray]:
    """Per feature: the share of intervals that hold the planted effect, and of those that leave out 0."""
    features = ("length", "headers", "lists", "bold")
    held, found = np.zeros(4), np.zeros(4)
    for number in range(simulations):
        dice = np.random.default_rng([seed, number])
        battles, _ = styled_league(dice, effects, questions)
        league = league_of(battles, style=features, draws=200, seed=number)
        for at, effect in enumerate(league.effects):
            held[at] += effect.low <= effects[at] <= effect.high
            found[at] += not effect.low <= 0 <= effect.high
    return held / simulations, found / simulations


def main() -> None:
    chosen = sys.argv[1:] or ["scores", "style"]
    begun = time.monotonic()
    if "scores" in chosen:
        for questions, leagues in ((30, 300), (100, 1000)):
            held, ranked = scores_covered(leagues, questions, seed=1)
            print(f"{leagues} leagues of 8, {questions} questions: scores {held:.4f}, ranks {ranked:.4f}", flush=True)
    if "style" in chosen:
        for name, effects in (("planted", np.array([0.5, 0.3, -0.3, 0.2])), ("none", np.zeros(4))):
            held, found = style_covered(200, effects, seed=2)
            print(f"style {name} {effects.tolist()}: covered {held.tolist()}, 0 left out {found.tolist()}", flush=True)
    print(f"{time.monotonic() - begun:.0f} s")


if __name__ == "__main__":
    main()
