"""Simulated verdicts with a known truth, one named function per kind of judge. Knows nothing of intervals.

Each returns (sums, sizes, truth): sums and sizes are (rows, num) arrays, one row per simulated sample of `num` prompts,
with the sum of a prompt's verdicts and how many there are; truth is the expected verdict. `p` is the chance of a win among
verdicts that are no tie.
"""

from __future__ import annotations

import functools
from collections.abc import Callable

import numpy as np

Sample = tuple[np.ndarray, np.ndarray, float]
Generator = Callable[[np.random.Generator, int, int, float], Sample]

RATES = (0.5, 0.8, 0.9, 0.98)
SIZES = (8, 20, 50, 200)
_SPREAD = 2.0  # standard deviation over prompts of how clear a case is, in logits


def hard(dice: np.random.Generator, rows: int, num: int, p: float) -> Sample:
    """A judge of one order that says A or B."""
    return (dice.random((rows, num)) < p).astype(float), np.ones((rows, num)), p


def soft(dice: np.random.Generator, rows: int, num: int, p: float) -> Sample:
    """Probabilities spread evenly over either half."""
    return _sided(dice, 0.5 * dice.random((rows, num)), p), np.ones((rows, num)), _truth(p, 0.25)


def soft_sharp(dice: np.random.Generator, rows: int, num: int, p: float) -> Sample:
    """Probabilities within 1e-6 to 0.01 of 0 or 1, as log-probabilities of a large model give them."""
    low, high = np.log(1e-6), np.log(0.01)
    error = np.exp(dice.uniform(low, high, (rows, num)))
    return _sided(dice, error, p), np.ones((rows, num)), _truth(p, (0.01 - 1e-6) / (high - low))


def both_orders(dice: np.random.Generator, rows: int, num: int, p: float, bias: float = 0.0) -> Sample:
    """A letter in each order; `bias`, in logits, favours what is shown first: orders that contradict make a tie."""
    clear = _centre(p, bias) + _SPREAD * dice.standard_normal((rows, num))
    orders = [dice.random((rows, num)) < _sigmoid(clear + shift) for shift in (bias, -bias)]
    wins, ties = _shares(_centre(p, bias), bias)
    return (orders[0] + orders[1].astype(float)) / 2, np.ones((rows, num)), wins + ties / 2


def both_orders_bias_1_5(dice: np.random.Generator, rows: int, num: int, p: float) -> Sample:
    """`both_orders` with a bias of 1.5 logits."""
    return both_orders(dice, rows, num, p, 1.5)


def both_orders_bias_3(dice: np.random.Generator, rows: int, num: int, p: float) -> Sample:
    """`both_orders` with a bias of 3 logits."""
    return both_orders(dice, rows, num, p, 3.0)


def both_orders_bias_5(dice: np.random.Generator, rows: int, num: int, p: float) -> Sample:
    """`both_orders` with a bias of 5 logits."""
    return both_orders(dice, rows, num, p, 5.0)


def mostly_ties(dice: np.random.Generator, rows: int, num: int, p: float) -> Sample:
    """A judge that nearly always prefers the first: nine of ten verdicts are ties."""
    decided = dice.random((rows, num)) < 0.1
    wins = dice.random((rows, num)) < p
    return np.where(decided, wins, 0.5), np.ones((rows, num)), 0.45 + 0.1 * p


def four_answers_per_prompt(dice: np.random.Generator, rows: int, num: int, p: float) -> Sample:
    """Four letters per prompt that depend on the prompt."""
    each = dice.beta(2 * p, 2 * (1 - p), (rows, num))
    return dice.binomial(4, each).astype(float), np.full((rows, num), 4.0), p


def unequal_clusters(dice: np.random.Generator, rows: int, num: int, p: float) -> Sample:
    """One, two, three or eight letters per prompt that depend on the prompt."""
    sizes = dice.choice([1, 1, 2, 3, 8], (rows, num))
    each = dice.beta(2 * p, 2 * (1 - p), (rows, num))
    return dice.binomial(sizes, each).astype(float), sizes.astype(float), p


GENERATORS: dict[str, Generator] = {
    found.__name__: found
    for found in (
        hard, soft, soft_sharp, both_orders, both_orders_bias_1_5, both_orders_bias_3, both_orders_bias_5, mostly_ties,
        four_answers_per_prompt, unequal_clusters,
    )
}  # fmt: skip


def _sided(dice: np.random.Generator, error: np.ndarray, p: float) -> np.ndarray:
    return np.where(dice.random(error.shape) < p, 1 - error, error)


def _truth(p: float, error: float) -> float:
    return p * (1 - error) + (1 - p) * error


def _sigmoid(x: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-x))


def _shares(centre: float, bias: float) -> tuple[float, float]:
    """Shares of wins and of ties of `both_orders`, by Gauss-Hermite quadrature over prompts."""
    nodes, weights = np.polynomial.hermite_e.hermegauss(120)
    clear, weights = centre + _SPREAD * nodes, weights / weights.sum()
    one, two = _sigmoid(clear + bias), _sigmoid(clear - bias)
    wins = float(weights @ (one * two))
    return wins, 1 - wins - float(weights @ ((1 - one) * (1 - two)))


@functools.cache
def _centre(p: float, bias: float) -> float:
    """The mean clearness in logits at which a share `p` of the verdicts that are no tie are wins."""
    from scipy import optimize

    def excess(centre: float) -> float:
        wins, ties = _shares(centre, bias)
        return wins - p * (1 - ties)

    return float(optimize.brentq(excess, -30, 30))


def real_verdicts(model: str) -> np.ndarray:
    """GPT-4's verdicts on one published model, from the files beside the checkout."""
    from aad_plugin.judges.statistics.results import read_verdicts
    from tests.public_data import DATA

    return np.array([v.p for v in read_verdicts(DATA / f"alpaca_eval_annotations_{model}.json.gz")], dtype=float)


def drawn(dice: np.random.Generator, rows: int, num: int, verdicts: np.ndarray, again: bool) -> Sample:
    """Draws of `num` of given verdicts, of each at most once, or with putting back (`again`)."""
    if again:
        chosen = dice.integers(len(verdicts), size=(rows, num))
    else:
        chosen = np.argsort(dice.random((rows, len(verdicts))), axis=1)[:, :num]
    return verdicts[chosen], np.ones((rows, num)), float(verdicts.mean())


def rewards(dice: np.random.Generator, rows: int, num: int, shape: str) -> tuple[np.ndarray, float]:
    """Numbers without bounds and their mean: normal, exponential, lognormal, heavy-tailed, in two heaps, or mostly 0."""
    size = (rows, num)
    normal = dice.standard_normal(size)
    if shape == "two heaps":
        return np.where(dice.random(size) < 0.9, 0.0, 3.0) + 0.3 * normal, 0.3
    return {
        "normal": (normal, 0.0),
        "exponential": (dice.exponential(size=size), 1.0),
        "lognormal": (np.exp(normal), float(np.exp(0.5))),
        "heavy-tailed": (dice.standard_t(3, size), 0.0),
        "mostly 0": (np.where(dice.random(size) < 0.1, normal, 0.0), 0.0),
    }[shape]
