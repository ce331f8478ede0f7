"""The attention mask of a single new token, from the padding alone.

A token that is read last sees every earlier one but padding, so its mask is the padding itself. transformers works it out
again at every step from positions, and waits for the device to learn whether there is any padding, once per forward. torch
then turns a mask of truth values into one of numbers, and lays it out anew where its rows are no multiple of 16 bytes, in
every layer: it is handed over as numbers in rows of such a length.
Knows nothing of pairs.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache
from transformers.cache_utils import Cache, DynamicLayer

# Decoders whose masks come from positions and padding alone; others read the two-dimensional mask for more than that.
_PLAIN = frozenset({"llama", "mistral", "olmo2", "qwen2", "qwen3", "smollm3"})
_ALIGNED = 16


def step_mask(model: Any, mask: Tensor, input_ids: Tensor, cache: Cache | None) -> Tensor:
    """Return the mask to hand to ``model``: for a single token of a plain decoder (B, 1, 1, T), 0 or −inf in the model's
    dtype, to be added to what attention compares; else ``mask``.

    Args:
        mask: (B, T), 0 for padding. input_ids: (B, N) new tokens. cache: of this model alone.
    """
    config = model.config
    if mask.ndim != 2 or input_ids.shape[1] != 1 or cache is None or type(cache) is not DynamicCache:
        return mask
    kinds = set(getattr(config, "layer_types", None) or ["full_attention"])
    windowed = kinds != {"full_attention"} or getattr(config, "sliding_window", None)
    if config.model_type not in _PLAIN or config._attn_implementation != "sdpa" or windowed:
        return mask
    if any(type(layer) is not DynamicLayer for layer in cache.layers) or cache.get_seq_length() + 1 != mask.shape[1]:
        return mask
    batch, width = mask.shape
    rows = torch.empty(batch, 1, 1, -(-width // _ALIGNED) * _ALIGNED, dtype=model.dtype, device=mask.device)
    return rows[..., :width].copy_(mask[:, None, None, :]).log_()  # of 1 and 0
