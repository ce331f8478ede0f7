"""Decoding loops without the host: the least work greedy decoding can be, and two models step by step.

Owns the two yardsticks of every speed figure. Batches are left-padded; nothing stops early.
"""

from __future__ import annotations

import torch
from torch import Tensor
from transformers import DynamicCache, PreTrainedModel

from aad_plugin.decoding import aad_scores
from aad_plugin.pair.cache_names import named_cache


class _Reader:
    """One model with its cache, read token by token."""

    def __init__(self, model: PreTrainedModel) -> None:
        self.model = model
        self.cache = DynamicCache(config=model.config)

    def logits(self, input_ids: Tensor, mask: Tensor) -> Tensor:
        """Return (B, V) logits of the last position."""
        positions = (mask.cumsum(-1) - 1).clamp(min=0)[:, -input_ids.shape[1] :]
        out = self.model(
            input_ids=input_ids,
            attention_mask=mask,
            position_ids=positions,
            use_cache=True,
            logits_to_keep=1,
            **named_cache(self.model, self.cache),
        )
        return out.logits[:, -1]


@torch.inference_mode()
def greedy_loop(model: PreTrainedModel, input_ids: Tensor, mask: Tensor, steps: int) -> Tensor:
    """Return (B, steps) int64: the argmax of one model, read with its cache and nothing else around it."""
    reader, tokens = _Reader(model), []
    for _ in range(steps):
        input_ids = reader.logits(input_ids, mask).argmax(-1, keepdim=True)
        tokens.append(input_ids)
        mask = torch.cat([mask, torch.ones_like(input_ids)], dim=1)
    return torch.cat(tokens, dim=1)


@torch.inference_mode()
def naive_loop(
    policy: PreTrainedModel, reference: PreTrainedModel, input_ids: Tensor, mask: Tensor, steps: int, alpha: float
) -> Tensor:
    """Return (B, steps) int64: AAD from two forwards per step, each model with its own cache and its whole head."""
    sides, tokens = (_Reader(policy), _Reader(reference)), []
    for _ in range(steps):
        rows = [side.logits(input_ids, mask) for side in sides]
        input_ids = aad_scores(rows[0], rows[1], alpha).argmax(-1, keepdim=True)
        tokens.append(input_ids)
        mask = torch.cat([mask, torch.ones_like(input_ids)], dim=1)
    return torch.cat(tokens, dim=1)
