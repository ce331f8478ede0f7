"""A sequence reward model that is asked about each candidate of a step (ARGS, arXiv 2402.01694).

All candidates of a row are read in one forward behind what the model's cache holds: each sees the text and itself, none
sees another, and the cache forgets them afterwards. A step therefore reads 1 + k tokens and the weights once; the prompt
is read once. Knows nothing of strategies.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from transformers import DynamicCache

from aad_plugin.errors import ConfigError, ProofFailed
from aad_plugin.pair.cache_names import named_cache
from aad_plugin.pair.step import Step

_BOUND = 1e-3  # of float32 scores, against the model's own forward, in units of their spread; 16 bit: 0.2
_COARSE = 0.2


class RewardReader(nn.Module):
    """One reward model.

    Args:
        model: a sequence-classification model with one output, in eval mode. role: of its cache. name: as it was written.
    Raises:
        ConfigError: a model whose last layer cannot be told, or one that reads windows.
    """

    def __init__(self, model: Any, role: str, name: str) -> None:
        super().__init__()
        self.model = model
        self.role = role
        self.name = name
        core = model.get_base_model() if hasattr(model, "get_base_model") else model
        self._core = [core]  # not registered a second time
        config = core.config.get_text_config()
        if not hasattr(core, "score") or not hasattr(core, core.base_model_prefix):
            raise ConfigError(
                f"guide={name!r} is a {type(core).__name__}, expected a reward model with a linear 'score' over a decoder"
            )
        if any(self.new_cache().is_sliding) or config._attn_implementation not in ("sdpa", "eager"):
            raise ConfigError(
                f"guide={name!r} reads a window of the text or by {config._attn_implementation!r}: a reward model needs "
                "full attention and attn_implementation=sdpa or eager"
            )

    @property
    def config(self) -> Any:
        """The model's own."""
        return self._core[0].config

    def new_cache(self) -> DynamicCache:
        """Return an empty cache."""
        return DynamicCache(config=self._core[0].config)

    @torch.no_grad()
    def rewards(self, step: Step, tokens: Tensor) -> Tensor:
        """Return (B, N) float32, the reward of the text continued by each token.

        Args:
            step: what follows the text of the reader's own cache, T >= 1, which that takes in; without a cache the whole
                text. tokens: (B, N) int64 candidates, which it does not take in.
        """
        core = self._core[0]
        device = core.device
        input_ids, cache, position_ids = step.input_ids, step.cache, step.position_ids
        batch, new = input_ids.shape
        held = cache.get_seq_length() if cache is not None else 0
        if position_ids is None:
            position_ids = torch.arange(held, held + new, device=input_ids.device).expand(batch, -1)
        after = (position_ids[:, -1:] + 1).expand(-1, tokens.shape[1])
        mask = _tree_mask(batch, held, new, tokens.shape[1], step.attention_mask, core.dtype, device)
        hidden = getattr(core, core.base_model_prefix)(
            input_ids=torch.cat([input_ids, tokens], dim=1).to(device),
            attention_mask=mask,
            position_ids=torch.cat([position_ids, after], dim=1).to(device),
            use_cache=cache is not None,
            **named_cache(core, cache),
        ).last_hidden_state
        if cache is not None:
            cache.crop(-tokens.shape[1])
        return core.score(hidden[:, -tokens.shape[1] :])[..., 0].float().to(tokens.device)

    @torch.no_grad()
    def prove(self, vocab_size: int) -> None:
        """Hold the reading of candidates against the model's own forward.

        Raises:
            ProofFailed: it differs by more than rounding explains.
        """
        core = self._core[0]
        generator = torch.Generator().manual_seed(0)
        ids = torch.randint(vocab_size, (2, 9), generator=generator).to(core.device)
        mask = torch.ones_like(ids)
        mask[1, :3] = 0  # padding on the left
        positions = (mask.cumsum(-1) - 1).clamp(min=0)
        tokens = torch.randint(vocab_size, (2, 3), generator=generator).to(core.device)
        cache = self.new_cache()
        self.rewards(Step(ids[:, :7], cache, 1, mask[:, :7], positions[:, :7]), tokens)
        found = self.rewards(Step(ids[:, 7:], cache, 1, mask, positions[:, 7:]), tokens).cpu()
        plain = torch.zeros_like(found)
        for row in range(2):
            text = ids[row, mask[row].bool()]
            for number in range(3):
                whole = torch.cat([text, tokens[row, number : number + 1]])[None]
                hidden = getattr(core, core.base_model_prefix)(input_ids=whole, use_cache=False).last_hidden_state
                plain[row, number] = core.score(hidden[:, -1])[0, 0].float()
        bound = _BOUND if core.dtype in (torch.float32, torch.float64) else _COARSE
        spread = max(float(plain.std()), 1e-6)
        if not float((found - plain).abs().max()) <= bound * spread:
            raise ProofFailed(
                f"guide={self.name!r}: rewards of candidates read together differ from those read one by one; pass another "
                "reward model, or dtype=float32"
            )


def _tree_mask(
    batch: int, held: int, new: int, candidates: int, mask: Tensor | None, dtype: torch.dtype, device: torch.device
) -> Tensor:
    """Return (B, 1, T + N, held + T + N) to be added to attention's scores: 0 where a token sees another."""
    text = held + new
    seen = torch.zeros(new + candidates, text + candidates, dtype=torch.bool, device=device)
    seen[:, :text] = torch.ones_like(seen[:, :text]).tril(held)  # the text causally; candidates see all of it
    seen[new:, text:] = torch.eye(candidates, dtype=torch.bool, device=device)
    rows = seen.expand(batch, -1, -1).clone()
    if mask is not None:
        rows[:, :, :text] &= mask.to(device).bool()[:, None]
    added = torch.zeros(rows.shape, dtype=dtype, device=device).masked_fill(~rows, torch.finfo(dtype).min)
    return added[:, None]
