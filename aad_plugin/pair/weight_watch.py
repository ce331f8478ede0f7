"""Notices that weights changed after something was derived from them.

What is laid out, merged or packed beside a weight would go on giving the results of the weight as it was: in a process
that trains a model and decodes with it, wrong tokens that nobody is told of. torch counts what is written to a tensor, but
not what is written through its ``.data`` (PEFT's merging, reference models that follow a policy), so a few numbers of each
weight are compared besides. A change through ``.data`` that spares all of those is not noticed.

Knows nothing of what is derived.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor

_SAMPLED = 8  # numbers of each weight; to reach them costs more than to compare them


class Seen:
    """What weights were when it was made; blocks on their devices.

    Args:
        weights: of any shapes, on any devices.
    """

    def __init__(self, weights: Sequence[Tensor]) -> None:
        self._told = [_told(weight) for weight in weights]
        self._samples = _samples(weights)

    def still(self, weights: Sequence[Tensor]) -> bool:
        """Whether these are the same, wherever on their devices they now stand."""
        if self._told != [_told(weight) for weight in weights]:
            return False
        return all(torch.equal(self._samples[device], now) for device, now in _samples(weights).items())


class Watch:
    """Tells whether weights changed since it was last asked.

    Args:
        weights: gives them, in one order; called whenever they are looked at.
    """

    def __init__(self, weights: Callable[[], Sequence[Tensor]]) -> None:
        self._weights = weights
        self._seen: Seen | None = None
        self._calls = 0
        self._asked = False

    @contextlib.contextmanager
    def once(self) -> Iterator[None]:
        """Inside the block weights are looked at when first asked for, and not again."""
        self._calls += 1
        try:
            yield
        finally:
            self._calls -= 1
            self._asked = self._asked and self._calls > 0

    def changed(self) -> bool:
        """Whether weights changed since this was last asked; False when first asked. Blocks on their devices."""
        if self._asked:
            return False
        self._asked = self._calls > 0
        weights = self._weights()
        if self._seen is not None and self._seen.still(weights):
            return False
        first, self._seen = self._seen is None, Seen(weights)
        return not first


def _told(weight: Tensor) -> tuple[torch.Size, torch.dtype, torch.device, int]:
    return weight.shape, weight.dtype, weight.device, 0 if weight.is_inference() else weight._version


@torch.inference_mode()
def _samples(weights: Sequence[Tensor]) -> dict[torch.device, Tensor]:
    """Return (N,) copies of some numbers of all weights, by device."""
    found: dict[torch.device, list[Tensor]] = {}
    for weight in weights:
        if weight.device.type != "meta" and weight.numel():
            found.setdefault(weight.device, []).append(_line(weight))
    return {device: torch.cat(parts) for device, parts in found.items()}


def _line(weight: Tensor) -> Tensor:
    """Return (n,) numbers of a weight: of a matrix from its diagonal, which reaches many rows and columns."""
    if weight.ndim != 2:
        flat = weight.reshape(-1)
        return flat[:: max(1, len(flat) // _SAMPLED)]
    length = min(weight.shape)
    step = max(1, length // _SAMPLED)
    # One operation, for hundreds of weights: every step-th of the diagonal, whatever the strides.
    return weight.as_strided((-(-length // step),), (step * sum(weight.stride()),))
