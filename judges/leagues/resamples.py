"""A league's fit, once for the data and once for every draw of its questions; and who can be compared with whom."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from aad_plugin.errors import ConfigError
from aad_plugin.judges.leagues.design import Design, reachable
from aad_plugin.judges.leagues.fit import fit_coefficients

_CELLS_AT_ONCE = 2_000_000


@dataclass(frozen=True)
class Links:
    """What B weightings of the questions leave of a league: counts by pair (B, P, 3), who reaches whom (B, S, S), see
    `reachable`, and (B,) whether it holds together."""

    by_pair: np.ndarray
    reach: np.ndarray
    kept: np.ndarray


def links_of(data: Design, weights: np.ndarray) -> Links:
    """Count by pair, the questions weighted (B, questions)."""
    size, num = len(data.systems), len(weights)
    cells = np.zeros((len(data.pairs) * 3, data.questions))
    for outcome in range(3):
        np.add.at(cells, (data.pair_of * 3 + outcome, data.question_of), data.shares[:, outcome])
    by_pair = (weights @ cells.T).reshape(num, len(data.pairs), 3)
    one, two = data.pairs[:, 0], data.pairs[:, 1]
    wins = np.zeros((num, size, size))
    wins[:, one, two] = by_pair[:, :, 0] + by_pair[:, :, 1]
    wins[:, two, one] = by_pair[:, :, 2] + by_pair[:, :, 1]
    kept = np.asarray(reachable(wins + wins.transpose(0, 2, 1)).all(axis=(1, 2)))
    return Links(by_pair, reachable(wins), kept)


@dataclass(frozen=True)
class Fits:
    """Scores of B fits.

    scores: (B, S), centred. style: (B, F). tie: (B,) log nu. above, below: (B, S) bool, no upper or lower bound; both where
    nothing compares a system with the zero. kept: (B,) bool, the league held together. reach: (B, S, S), see `reachable`.
    start: coefficients of the first fit.
    """

    scores: np.ndarray
    style: np.ndarray
    tie: np.ndarray
    above: np.ndarray
    below: np.ndarray
    kept: np.ndarray
    reach: np.ndarray
    start: np.ndarray


def check_connected(data: Design) -> None:
    """Refuse systems that no chain of battles connects.

    Raises:
        ConfigError: names the groups.
    """
    met = np.zeros((1, len(data.systems), len(data.systems)))
    met[0, data.pairs[:, 0], data.pairs[:, 1]] = met[0, data.pairs[:, 1], data.pairs[:, 0]] = 1
    linked = reachable(met)[0]
    groups = sorted({tuple(np.flatnonzero(row)) for row in linked}, key=len, reverse=True)
    if len(groups) > 1:
        named = " and ".join("{" + ", ".join(data.systems[at] for at in group) + "}" for group in groups[:4])
        raise ConfigError(
            f"no chain of battles connects {named}: their scores cannot be compared; judge a pair across, or rank them "
            "apart"
        )


def fits_of(data: Design, weights: np.ndarray, zero: np.ndarray, start: np.ndarray | None = None) -> Fits:
    """Fit once per row of `weights` (B, questions), as many at once as memory allows; `zero` (S,) has mean score 0."""
    at_once = max(1, _CELLS_AT_ONCE // max(len(data.shares), data.questions))
    chunks = [weights[begin : begin + at_once] for begin in range(0, len(weights), at_once)]
    parts = [_fit_some(data, chunk, zero, start) for chunk in chunks]
    names = ("scores", "style", "tie", "above", "below", "kept", "reach")
    joined = {name: np.concatenate([getattr(part, name) for part in parts]) for name in names}
    return Fits(**joined, start=parts[0].start)


def _fit_some(data: Design, weights: np.ndarray, zero: np.ndarray, start: np.ndarray | None) -> Fits:
    size, num = len(data.systems), len(weights)
    links = links_of(data, weights)
    one, two = data.pairs[:, 0], data.pairs[:, 1]
    shares = links.by_pair + _half_verdict(links, one, two)
    design = np.zeros((len(data.pairs), size + data.style.shape[1]))
    design[np.arange(len(data.pairs)), one], design[np.arange(len(data.pairs)), two] = 1, -1
    if data.features:
        design = np.vstack([np.column_stack([data.columns, data.style]), design])
        by_row = data.shares * weights[:, data.question_of][:, :, None]  # (B, N, 3)
        shares = np.concatenate([by_row, shares - links.by_pair], axis=1)
    # The first system's column is left out: only differences of scores count.
    found = fit_coefficients(design[:, 1:], shares, start)
    scores = np.column_stack([np.zeros(num), found[:, : size - 1]])
    scores -= scores[:, zero].mean(axis=1, keepdims=True)
    up = links.reach & ~links.reach.transpose(0, 2, 1)  # (B, S, S): reaches and is not reached
    main = main_group(links.reach, zero)
    above, below = (up & main[:, None, :]).any(axis=2), (up & main[:, :, None]).any(axis=1)
    alone = ~((links.reach | links.reach.transpose(0, 2, 1)) & main[:, None, :]).any(axis=2)
    above, below = above | alone, below | alone
    return Fits(
        scores, found[:, size - 1 : -1], found[:, -1], above, below, links.kept, links.reach, np.nan_to_num(found[0])
    )


def _half_verdict(links: Links, one: np.ndarray, two: np.ndarray) -> np.ndarray:
    """(B, P, 3) half a verdict in all for those who never got anything, over the pairs in which that is so."""
    met = links.by_pair.sum(axis=2) > 0
    up, down = links.reach[:, one, two], links.reach[:, two, one]
    extra = np.zeros_like(links.by_pair)
    extra[:, :, 2] = met & up & ~down
    extra[:, :, 0] = met & down & ~up
    total = extra.sum(axis=(1, 2), keepdims=True)
    return extra / (2 * np.where(total > 0, total, 1))


def main_group(reach: np.ndarray, zero: np.ndarray) -> np.ndarray:
    """(B, S) bool: the systems that bounds are measured from: those of `zero` whose scores are finite together, and who
    shares their group. All of `zero` where no group holds most of it: then nobody's bounds can be told from the others'."""
    mutual = reach & reach.transpose(0, 2, 1)
    held = (mutual & zero).sum(axis=2)
    main = np.asarray(mutual[np.arange(len(reach)), held.argmax(axis=1)])
    return np.where(2 * held.max(axis=1, keepdims=True) > zero.sum(), main, zero)


def largest_group(reach: np.ndarray) -> np.ndarray:
    """(S,) bool: the most systems whose scores are finite together, by (S, S) `reachable`."""
    mutual = reach & reach.T
    return np.asarray(mutual[mutual.sum(axis=1).argmax()])
