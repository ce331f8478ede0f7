"""A league: scores by Bradley-Terry with ties, bootstrap over questions, ranks with intervals and what is tied.

Knows battles and numbers; no judge, no files. Intervals are 95 % throughout.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from aad_plugin.errors import ConfigError, nearest
from aad_plugin.judges.leagues.battles import Battle
from aad_plugin.judges.leagues.bounds import met, shift_of_unbeaten
from aad_plugin.judges.leagues.design import Design, design_of
from aad_plugin.judges.leagues.ranks import rank_sets
from aad_plugin.judges.leagues.resamples import Fits, check_connected, fits_of, largest_group, links_of, main_group
from aad_plugin.judges.leagues.separation import check_separation
from aad_plugin.judges.statistics.intervals import CONFIDENCE

DRAWS = 1000
ELO_PER_LOG_ODDS = 400 / np.log(10)
ELO_OF_ZERO = 1000.0
_TAIL = (1 - CONFIDENCE) / 2
_INF = float("inf")
_NO_SPREAD = 1e-6


@dataclass(frozen=True, slots=True)
class Standing:
    """One system of a league.

    Args:
        score: log-odds of winning rather than losing against the league's zero (the anchor, or the mean of all systems
            that can be compared without bounds); `low`, `high` its interval, infinite where the data give no bound.
        elo: 1000 + score · 400 / ln 10, with bounds. win_rate: expected share of points (a tie is one half) against the
            mean of all other systems.
        rank: 1 + how many systems are better by score. rank_low, rank_high: the ranks the data allow (see `rank_sets`);
            tied_with: systems it is not told apart from.
        wins, ties, losses: battles, each verdict one. note: "" or why the score is only a bound.
    """

    system: str
    score: float
    low: float
    high: float
    elo: float
    elo_low: float
    elo_high: float
    win_rate: float
    rank: int
    rank_low: int
    rank_high: int
    tied_with: tuple[str, ...]
    wins: float
    ties: float
    losses: float
    note: str = ""


@dataclass(frozen=True, slots=True)
class Effect:
    """What one feature of style does: log-odds per `unit` of its difference (a root mean square), with interval."""

    feature: str
    value: float
    low: float
    high: float
    unit: float


@dataclass(frozen=True)
class League:
    """Standings, best first, and what they rest on.

    Args:
        standings, effects: see there. model: the model's name. zero: what has score 0. tie_rate: probability of a tie
            between equals, 0..1, 0 without ties.
        questions, battles, unjudged: counts. draws: resamples used; dropped: draws in which the league fell apart.
        notes: what a reader has to know.
    """

    standings: tuple[Standing, ...]
    effects: tuple[Effect, ...]
    model: str
    zero: str
    tie_rate: float
    questions: int
    battles: int
    unjudged: int
    draws: int
    dropped: int = 0
    notes: list[str] = field(default_factory=list)


def league_of(
    battles: Sequence[Battle],
    *,
    anchor: str | None = None,
    style: Sequence[str] = (),
    draws: int = DRAWS,
    seed: int = 0,
) -> League:
    """Estimate a league.

    Scores are estimated by maximum likelihood (see `fit`). Intervals are percentiles over draws of whole questions,
    expanded for few questions (Hesterberg 2015, The American Statistician 69, section 3.3). If a group of systems never
    loses to the others, the likelihood has no maximum. Then half a win is added for the others, spread over the pairs that
    met, in the data and in every draw. The interval has no upper end in this case; its lower end is the score at which the
    chance of losing nothing is 2.5 %.

    Args:
        battles: any number; unjudged ones are counted and left out.
        anchor: the system whose score is 0. style: features to control for, see `style.chosen_features`.
        draws, seed: of the bootstrap.
    Raises:
        ConfigError: fewer than two systems, an unknown anchor, systems that no chain of battles connects, a style not
        known.
    """
    judged = [battle for battle in battles if battle.shares is not None]
    data = design_of(judged, style)
    if anchor is not None and anchor not in data.systems:
        raise ConfigError(
            f"the anchor {anchor!r} is none of the systems{nearest(anchor, data.systems)}; there are "
            f"{', '.join(data.systems)}"
        )
    check_connected(data)
    whole = np.ones((1, data.questions))
    zero = np.array([name == anchor for name in data.systems])
    if anchor is None:
        zero = largest_group(links_of(data, whole).reach[0])
    check_separation(data)
    point = fits_of(data, whole, zero)
    weights = np.random.default_rng(seed).multinomial(
        data.questions, np.full(data.questions, 1 / data.questions), size=draws
    )
    drawn = fits_of(data, weights.astype(float), zero, point.start)
    return _league(data, point, drawn, zero, len(judged), len(battles) - len(judged), draws)


def _league(
    data: Design, point: Fits, drawn: Fits, zero: np.ndarray, battles: int, unjudged: int, draws: int
) -> League:
    kept = drawn.kept
    if kept.sum() < max(20, draws // 2):
        raise ConfigError(
            f"in {draws - int(kept.sum())} of {draws} draws of questions some systems are not connected any more: there "
            "are too few for intervals; judge more questions"
        )
    tail = _expanded_tail(data.questions)
    scores = drawn.scores[kept]
    low = _quantile(np.where(drawn.below[kept], -_INF, scores), tail)
    high = _quantile(np.where(drawn.above[kept], _INF, scores), 1 - tail)
    low, high = _bound(data, point, zero, low, high)
    still = scores.std(axis=0) < _NO_SPREAD
    still &= ~(zero if zero.sum() == 1 else np.zeros_like(zero)) & ~(point.above[0] | point.below[0])
    low, high = np.where(still, -_INF, low), np.where(still, _INF, high)
    sets = rank_sets(point.scores[0], scores, _apart(data, point, low, high), point.reach[0])
    gained = _gained(data)
    standings = tuple(
        _standing(data, point, at, low, high, sets, gained)
        for at in sorted(range(len(data.systems)), key=lambda at: (-point.scores[0, at], data.systems[at]))
    )
    effects = _effects(data, point, drawn.style[kept])
    nu = float(np.exp(point.tie[0]))
    notes = [f"{one.system}: {one.note}" for one in standings if one.note]
    if alike := [name for name, is_still in zip(data.systems, still, strict=True) if is_still]:
        notes.append(
            f"{', '.join(alike)}: every draw of questions gives the same score, which says nothing of how sure it is; "
            "there are no bounds"
        )
    if dropped := int((~kept).sum()):
        notes.append(f"{dropped} of {draws} draws left out, in which some systems were not connected")
    model = "Bradley-Terry" + (" with Davidson's ties" if nu > 0 else "")
    if effects:
        model += f", at equal {', '.join(data.features)}"
    named = ", ".join(np.array(data.systems)[zero])
    at_zero = named if zero.sum() == 1 else "the mean of all systems" if zero.all() else f"the mean of {named}"
    return League(
        standings, effects, model, at_zero, nu / (2 + nu), data.questions, battles, unjudged, int(kept.sum()), dropped,
        notes,
    )  # fmt: skip


def _effects(data: Design, point: Fits, drawn: np.ndarray) -> tuple[Effect, ...]:
    """Effects of style with Student's t on the draws' standard deviation.

    Percentiles cover too little here, since a few answers with many marks carry an effect. The standard deviation counts
    the coefficients as lost questions, as is usual for errors that are robust to dependence within a question.
    """
    from scipy import stats

    if not data.features:
        return ()
    left = max(1, data.questions - len(data.systems) - len(data.features))
    wide = stats.t.ppf(1 - _TAIL, left) * drawn.std(axis=0, ddof=1) * np.sqrt(data.questions / left)
    return tuple(
        Effect(name, value, value - half, value + half, unit)
        for name, value, half, unit in zip(
            data.features, point.style[0].tolist(), wide.tolist(), data.style_scale.tolist(), strict=True
        )
    )


def _standing(
    data: Design,
    point: Fits,
    at: int,
    low: np.ndarray,
    high: np.ndarray,
    sets: tuple[np.ndarray, np.ndarray, np.ndarray],
    gained: np.ndarray,
) -> Standing:
    score = float(point.scores[0, at])
    better, worse, same = (one[at] for one in sets)
    ends = score, float(low[at]), float(high[at])
    elo, elo_low, elo_high = (float(ELO_OF_ZERO + ELO_PER_LOG_ODDS * value) for value in ends)
    note = ""
    if point.above[0, at] and point.below[0, at]:
        note = "no chain of wins compares it with the league's zero: its score has no bounds"
    elif point.above[0, at]:
        note = f"never loses to those below it: its score has no upper bound, it is at least {low[at]:.2f}"
    elif point.below[0, at]:
        note = f"never wins against those above it: its score has no lower bound, it is at most {high[at]:.2f}"
    won, tied, lost = gained[at].tolist()
    return Standing(
        system=data.systems[at],
        score=score,
        low=ends[1],
        high=ends[2],
        elo=elo,
        elo_low=elo_low,
        elo_high=elo_high,
        win_rate=_win_rate(point, at),
        rank=1 + int((point.scores[0] > score + 1e-9).sum()),
        rank_low=1 + int(better),
        rank_high=len(data.systems) - int(worse),
        tied_with=tuple(name for name, is_tied in zip(data.systems, same, strict=True) if is_tied),
        wins=won,
        ties=tied,
        losses=lost,
        note=note,
    )


def _win_rate(point: Fits, at: int) -> float:
    """Expected points against the mean of the others, a tie one half."""
    difference = point.scores[0, at] - np.delete(point.scores[0], at)
    nu = np.exp(point.tie[0])
    up, down = np.exp(difference / 2), np.exp(-difference / 2)
    return float(((up + nu / 2) / (up + nu + down)).mean())


def _gained(data: Design) -> np.ndarray:
    """(S, 3) won, tied and lost battles of each system."""
    found = np.zeros((len(data.systems), 3))
    np.add.at(found, data.pairs[data.pair_of, 0], data.shares)
    np.add.at(found, data.pairs[data.pair_of, 1], data.shares[:, ::-1])
    return found


def _bound(
    data: Design, point: Fits, zero: np.ndarray, low: np.ndarray, high: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Bounds of systems whose score has no maximum, see `shift_of_unbeaten`; the data give none on the other side.

    They come from battles with those whose scores are finite, or else from those with whoever stands between, who is then
    taken to stand at its own bound.
    """
    low, high, reach, scores = low.copy(), high.copy(), point.reach[0], point.scores[0]
    main, ends = main_group(point.reach, zero)[0], scores.copy()
    for is_above in (True, False):
        open_side = (point.above if is_above else point.below)[0] & ~(point.below if is_above else point.above)[0]
        beyond = reach & ~reach.T if is_above else reach.T & ~reach
        # Whoever is nearest to the finite ones first: the others' bounds may rest on its own.
        for at in sorted(np.flatnonzero(open_side), key=lambda one: scores[one], reverse=not is_above):
            group = reach[at] & reach[:, at]
            near = beyond[at] & main
            others = near if met(data, group, near) else beyond[at]
            shift = shift_of_unbeaten(data, ends, point.tie[0], group, others, is_above, _TAIL)
            end = (min if is_above else max)(scores[at] + shift, scores[at])
            low[at], high[at] = (end, _INF) if is_above else (-_INF, end)
            if np.isfinite(end):
                ends[at] = end
    alone = point.above[0] & point.below[0]
    low, high = np.where(alone, -_INF, low), np.where(alone, _INF, high)
    return np.minimum(low, scores), np.maximum(high, scores)


def _apart(data: Design, point: Fits, low: np.ndarray, high: np.ndarray) -> np.ndarray:
    """(S, S) bool: of two systems of which the second only lost to the first, whether the first is surely better: their
    intervals do not meet, or losing nothing to an equal would be too unlikely (by Bonferroni over a system's pairs)."""
    reach, scores = point.reach[0], point.scores[0]
    apart = low[:, None] > high[None, :]
    tail = _TAIL / max(1, len(scores) - 1)
    for one, two in np.argwhere(reach & ~reach.T & ~apart):
        ours, theirs = reach[one] & reach[:, one], reach[two] & reach[:, two]
        shift = shift_of_unbeaten(data, scores, point.tie[0], ours, theirs, True, tail)
        apart[one, two] = scores[one] - scores[two] + shift > 0
    return np.asarray(apart)


def _expanded_tail(num: int) -> float:
    from scipy import stats

    if num < 2:
        raise ConfigError("intervals need battles on at least two questions, got one")
    return float(stats.norm.cdf(np.sqrt(num / (num - 1)) * stats.t.ppf(_TAIL, num - 1)))


def _quantile(values: np.ndarray, share: float) -> np.ndarray:
    """A sample quantile without interpolation, since some values are infinite."""
    return np.quantile(values, share, axis=0, method="inverted_cdf" if share < 0.5 else "higher")
