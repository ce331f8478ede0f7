"""The sign-flip test of paired differences: how often would chance alone make their sum so low? Knows numbers alone.

Where two runs differ by nothing but chance, each prompt's difference is as likely with the other sign, so the sum is held
against the sums under all flips (Fisher 1935, The Design of Experiments, section 21). Differences of one size make it the
sign test, which for labels is McNemar's exact test. Prompts without a difference play no part.
"""

from __future__ import annotations

import numpy as np

_ENUMERATED = 16  # 2^16 flips
_LATTICE = 200_000
_DENOMINATORS = 24


def chance_of_so_low(sums: np.ndarray, resamples: int, seed: int) -> tuple[float, bool]:
    """Probability that randomly flipped differences sum to as little or less.

    Args:
        sums: (num,) summed differences of each prompt, any unit. resamples, seed: of the draw where one is needed.
    Returns:
        the probability, 1 where nothing differs, and whether it is exact: where the sizes lie on a lattice (hard verdicts,
        labels) or few prompts differ. Otherwise at least 1 / (resamples + 1).
    """
    changed = sums[sums != 0]
    if not len(changed):
        return 1.0, True
    sizes = np.abs(changed)
    sizes, observed = sizes / sizes.max(), float((changed / sizes.max()).sum())
    limit = observed + 1e-9 * sizes.sum()  # sums that differ by rounding are equal
    whole = _on_lattice(sizes)
    if whole is not None:
        return _by_convolution(whole, limit * whole.sum() / sizes.sum()), True
    if len(sizes) <= _ENUMERATED:
        flipped = np.zeros(1)
        for size in sizes:
            flipped = np.concatenate([flipped - size, flipped + size])
        return float((flipped <= limit).mean()), True
    dice = np.random.default_rng(seed)
    low = 0
    for first in range(0, resamples, batch := max(1, 2_000_000 // len(sizes))):
        signs = dice.integers(0, 2, (min(batch, resamples - first), len(sizes)), dtype=np.int8)
        low += int((signs @ (2 * sizes) - sizes.sum() <= limit).sum())
    return (1 + low) / (1 + resamples), False


def _on_lattice(sizes: np.ndarray) -> np.ndarray | None:
    """The sizes as whole multiples of one unit, or None where there is no such unit of a useful size."""
    for parts in range(1, _DENOMINATORS + 1):
        multiples = sizes / sizes.min() * parts
        whole = np.round(multiples)
        if np.abs(multiples - whole).max() < 1e-7 and whole.sum() <= _LATTICE:
            return whole.astype(int)
    return None


def _by_convolution(sizes: np.ndarray, limit: float) -> float:
    """The distribution of the flipped sum: one binomial distribution for each size, convolved."""
    from scipy import signal, stats

    density = np.ones(1)
    for size, count in zip(*np.unique(sizes, return_counts=True), strict=True):
        own = np.zeros(size * count + 1)
        own[::size] = stats.binom.pmf(np.arange(count + 1), count, 0.5)
        density = signal.convolve(density, own) if len(density) * len(own) > 1 else own
    sums = 2 * np.arange(len(density)) - sizes.sum()
    return float(min(1.0, max(0.0, density[sums <= limit].sum())))
