"""Whether a league's style has an effect that can be estimated at all."""

from __future__ import annotations

import numpy as np

from aad_plugin.errors import ConfigError
from aad_plugin.judges.leagues.design import Design, reachable

_SEPARATED = 1e-6


def check_separation(data: Design) -> None:
    """Refuse a style that says all there is to say of the verdicts, or the same as the systems' names do.

    Its effect would have no maximum, and systems would be ranked by where the search for it ended. Looked for by linear
    programming (Konis 2007, Oxford, "Linear programming algorithms for detecting separated data in binary logistic
    regression models"). Systems alone may be separated, which `bounds` are made for.

    Raises:
        ConfigError: says which of the two.
    """
    if not data.features:
        return
    named = ", ".join(data.features)
    design = np.column_stack([data.columns[:, 1:], data.style])
    if np.linalg.matrix_rank(design) < design.shape[1]:
        raise ConfigError(
            f"the style ({named}) cannot be told from the systems: the answers of one differ from another's by the same "
            "everywhere, or features go together; leave --style out, or name other features"
        )
    if _largest_gain(data, design) > _SEPARATED:
        raise ConfigError(
            f"the style ({named}) separates wins from losses, so that its effect has no estimate; leave --style out, name "
            "other features, or judge more questions"
        )


def _largest_gain(data: Design, design: np.ndarray) -> float:
    """How far the coefficients can go without making any verdict less likely, each in -1..1; 0 where they cannot."""
    from scipy.optimize import linprog

    is_one = np.count_nonzero(data.shares, axis=1) == 1
    signs = np.sign(data.shares[:, 0] - data.shares[:, 2]) * is_one
    decided = design[signs != 0] * signs[signs != 0, None]
    undecided = np.vstack([design[signs == 0], _half_verdicts(data)])
    found = linprog(
        -decided.sum(axis=0), A_ub=-decided, b_ub=np.zeros(len(decided)), A_eq=undecided, b_eq=np.zeros(len(undecided)),
        bounds=(-1, 1),
    )  # fmt: skip
    return float(-found.fun) if found.status == 0 else 0.0


def _half_verdicts(data: Design) -> np.ndarray:
    """Rows of pairs of systems of which one only lost: the fit gives it half a verdict, see `resamples`."""
    one, two = data.pairs[:, 0], data.pairs[:, 1]
    points = np.zeros((len(data.pairs), 3))
    np.add.at(points, data.pair_of, data.shares)
    wins = np.zeros((1, len(data.systems), len(data.systems)))
    wins[0, one, two], wins[0, two, one] = points[:, 0] + points[:, 1], points[:, 2] + points[:, 1]
    reach = reachable(wins)[0]
    only_lost = np.flatnonzero(reach[one, two] != reach[two, one])
    rows = np.zeros((len(only_lost), len(data.systems) + data.style.shape[1]))
    rows[np.arange(len(rows)), one[only_lost]], rows[np.arange(len(rows)), two[only_lost]] = 1, -1
    return rows[:, 1:]
