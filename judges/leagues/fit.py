"""Bradley-Terry with ties by maximum likelihood, for one data set or for many resamples of it at once.

One row compares two systems (or holds all battles of one pair): with u = row · coefficients, the difference in log-odds,

    P(win) : P(tie) : P(loss) = exp(u / 2) : nu : exp(-u / 2)

which is Davidson's model (1970, JASA 65, 317-328); nu = exp(tie log-odds) is half the odds of a tie between equals (a tie
has probability nu / (2 + nu)). Without ties it is Bradley and Terry's (1952, Biometrika 39, 324-345). The likelihood is
concave; Newton's method climbs it for all resamples at once, which scipy's optimisers cannot (tests hold it to scipy's
and to statsmodels' Poisson regression on the same counts).
"""

from __future__ import annotations

import numpy as np

from aad_plugin.errors import JudgeError

NUMERICAL_RIDGE = 1e-9
"""Weight of the squared coefficients: keeps every step solvable, and moves no estimate by more than 1e-7."""
_MOST_STEPS = 200
_LONGEST_STEP = 2.0
_SAFE_STEP = 0.1  # so near the maximum a step of Newton's always leads up
_TOLERANCE = 1e-9


def fit_coefficients(design: np.ndarray, shares: np.ndarray, start: np.ndarray | None = None) -> np.ndarray:
    """Coefficients of maximum likelihood.

    Args:
        design: (N, K) float, what each row compares: 1 for a system, -1 for its opponent, further columns as they are.
        shares: (B, N, 3) float, for each resample the won, tied and lost battles of each row; at least 0.
        start: (K + 1,) where the climb begins; None is 0.
    Returns:
        (B, K + 1) coefficients, the log of nu last; -inf in every resample where `shares` holds no ties at all.
    Raises:
        JudgeError: no maximum found, which a finite likelihood does not do.
    """
    has_ties = bool(shares[:, :, 1].any())
    num, size = len(shares), design.shape[1] + has_ties
    found = np.zeros((num, size)) if start is None else np.tile(start[:size], (num, 1))
    products = np.einsum("nk,nl->nkl", design, design).reshape(len(design), -1)  # (N, K * K)
    left = np.arange(num)
    for _ in range(_MOST_STEPS):
        gradient, curvature = _slopes(found[left], design, products, shares[left], has_ties)
        still = np.abs(gradient).max(axis=1) > _TOLERANCE * np.maximum(1, shares[left].sum(axis=(1, 2)))
        left = left[still]
        if not len(left):
            break
        step = np.linalg.solve(curvature[still], gradient[still][:, :, None])[:, :, 0]
        step *= np.minimum(1, _LONGEST_STEP / np.abs(step).max(axis=1).clip(1e-300))[:, None]
        found[left] = _climbed(found[left], step, design, shares[left], has_ties)
    else:
        raise JudgeError(f"no maximum of the likelihood in {_MOST_STEPS} steps for {len(left)} of {num} resamples")
    return found if has_ties else np.column_stack([found, np.full(num, -np.inf)])


def _logits(coefficients: np.ndarray, design: np.ndarray, has_ties: bool) -> np.ndarray:
    """(B, N, 2 or 3): won, tied where there are ties, lost."""
    differences = coefficients[:, : design.shape[1]] @ design.T / 2  # (B, N)
    parts = [differences, -differences]
    if has_ties:
        parts.insert(1, np.broadcast_to(coefficients[:, -1:], differences.shape))
    return np.stack(parts, axis=-1)


def _counts(shares: np.ndarray, has_ties: bool) -> np.ndarray:
    return shares if has_ties else shares[:, :, [0, 2]]


def _likelihood(coefficients: np.ndarray, design: np.ndarray, shares: np.ndarray, has_ties: bool) -> np.ndarray:
    """(B,) log-likelihood, the ridge taken off."""
    from scipy.special import logsumexp

    logits = _logits(coefficients, design, has_ties)
    fits = (_counts(shares, has_ties) * (logits - logsumexp(logits, axis=-1, keepdims=True))).sum(axis=(1, 2))
    return fits - NUMERICAL_RIDGE / 2 * (coefficients**2).sum(axis=1)


def _slopes(
    coefficients: np.ndarray, design: np.ndarray, products: np.ndarray, shares: np.ndarray, has_ties: bool
) -> tuple[np.ndarray, np.ndarray]:
    """Gradient (B, K') and negated second derivatives (B, K', K') of the log-likelihood."""
    counts = _counts(shares, has_ties)
    total = counts.sum(axis=-1)  # (B, N)
    logits = _logits(coefficients, design, has_ties)
    chance = np.exp(logits - logits.max(axis=-1, keepdims=True))
    chance /= chance.sum(axis=-1, keepdims=True)
    lean = (chance[:, :, 0] - chance[:, :, -1]) / 2  # what a row is expected to say: +1/2 won, -1/2 lost
    spread = (chance[:, :, 0] + chance[:, :, -1]) / 4 - lean**2
    gradient = ((counts[:, :, 0] - counts[:, :, -1]) / 2 - total * lean) @ design
    size = design.shape[1]
    curvature = ((total * spread) @ products).reshape(-1, size, size)
    if has_ties:
        tie = chance[:, :, 1]
        gradient = np.column_stack([gradient, (counts[:, :, 1] - total * tie).sum(axis=1)])
        cross = -(total * lean * tie) @ design  # (B, K)
        whole = np.empty((len(counts), size + 1, size + 1))
        whole[:, :size, :size] = curvature
        whole[:, :size, size] = whole[:, size, :size] = cross
        whole[:, size, size] = (total * tie * (1 - tie)).sum(axis=1)
        curvature = whole
    curvature[:, range(curvature.shape[1]), range(curvature.shape[1])] += NUMERICAL_RIDGE
    return gradient - NUMERICAL_RIDGE * coefficients, curvature


def _climbed(found: np.ndarray, step: np.ndarray, design: np.ndarray, shares: np.ndarray, has_ties: bool) -> np.ndarray:
    """The coefficients one step on, the step halved until it does not lead down."""
    if np.abs(step).max() < _SAFE_STEP:
        return found + step
    before = _likelihood(found, design, shares, has_ties)
    slack = 1e-12 * np.maximum(1, np.abs(before))
    for _ in range(40):
        down = _likelihood(found + step, design, shares, has_ties) < before - slack
        if not down.any():
            break
        step = np.where(down[:, None], step / 2, step)
    return found + step
