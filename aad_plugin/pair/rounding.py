"""What a 16-bit dtype means for AAD, which ranks differences of logits: a rounding step in numbers and in words."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

logger = logging.getLogger(__name__)
_said: set[torch.dtype] = set()


def coarsest_dtype(models: Iterable[Any]) -> torch.dtype:
    """Return the dtype with the fewest bits among some models."""
    return min((model.dtype for model in models), key=lambda dtype: torch.finfo(dtype).bits)


def rounding_step(logits: Tensor, dtype: torch.dtype) -> Tensor:
    """Return the distance from each logit to the next number of its size in ``dtype``.

    Args:
        logits: any shape, finite; only their size counts. dtype: floating, what computed them.
    Returns:
        float32 of the same shape; for bfloat16 0.125 where a logit is 16 to 32.
    """
    size = logits.float().abs().clamp(min=torch.finfo(torch.float32).tiny)
    return torch.finfo(dtype).eps * torch.exp2(size.log2().floor())


def dtype_in_words(dtype: torch.dtype) -> str:
    """Return ``bfloat16``, and for 16 bit what it means for a choice among near ties."""
    name = str(dtype).removeprefix("torch.")
    if torch.finfo(dtype).bits > 16:
        return name
    step = float(rounding_step(torch.tensor(16.0), dtype))
    return (
        f"{name}: a logit of 16 to 32 is a multiple of {step:g}, so near ties fall otherwise in float32, in batches of "
        "another size and on another engine ('aad pairs check' measures how often)"
    )


def say_dtype(dtype: torch.dtype) -> None:
    """Log what a pair computes in: a warning with its meaning for 16 bit, once per process, else a line for the curious."""
    if torch.finfo(dtype).bits > 16 or dtype in _said:
        logger.info("the pair computes in %s", str(dtype).removeprefix("torch."))
        return
    _said.add(dtype)
    logger.warning("the pair computes in %s", dtype_in_words(dtype))
