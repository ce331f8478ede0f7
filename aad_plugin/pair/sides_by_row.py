"""A pair whose models can read neither a padded batch nor a cache rightly: every row is read alone, from its first token.

The plainest road, and the slowest: exactly what each model computes by itself. Models with positions that no caller can
give (Bart's decoder and its kin) or states that padding enters need it.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F
from transformers import PreTrainedModel
from transformers.cache_utils import Cache

from aad_plugin.pair.reading import BuildCache, Input, Role, read_model
from aad_plugin.pair.sides import Sides


class SidesByRow(Sides):
    """Any sides, without padding and without caches.

    Args:
        sides: where the weights are.
    """

    def __init__(self, sides: Sides) -> None:
        super().__init__(sides.roles)
        self.passes = sides.passes
        self.products = sides.products
        self.sides = sides

    def in_batches(self) -> Sides:
        return self.sides

    @property
    def policy(self) -> PreTrainedModel:
        """The policy, as the sides themselves give it."""
        return self.sides.policy

    def extrapolate(self, scale: float) -> None:
        self.sides.extrapolate(scale)

    def models(self) -> dict[Role, PreTrainedModel]:
        """The models whose weights are held, by role."""
        return self.sides.models()

    def role(self, role: Role) -> contextlib.AbstractContextManager[PreTrainedModel]:
        """Inside the block the yielded model, read by itself, is this side."""
        return self.sides.role(role)

    def new_cache(self, roles: Sequence[Role], build: BuildCache) -> Cache | None:
        """Return None: whole rows are read at every step."""
        return None

    def logits(
        self,
        roles: Sequence[Role],
        input_ids: Tensor,
        cache: Cache | None,
        logits_to_keep: int,
        **inputs: Input,
    ) -> list[Tensor]:
        """Return per role (B, K, V) logits; those of padding on the left are zeros."""
        if inputs.get("multimodal") is not None:
            raise NotImplementedError("pictures belong to a whole batch, which is not read row by row")
        mask = inputs.get("attention_mask")
        padded = [0] * len(input_ids) if mask is None else mask.argmax(-1).tolist()
        keep = logits_to_keep or input_ids.shape[1]
        found = []
        for role in roles:
            self.passes[role] += len(input_ids)
            with self.role(role) as model:
                rows = []
                for ids, start in zip(input_ids, padded, strict=True):
                    own = read_model(model, ids[None, start:].to(model.device), None, min(keep, len(ids) - start))
                    rows.append(F.pad(own, (0, 0, keep - own.shape[1], 0)))
                found.append(torch.cat(rows).to(input_ids.device))
        return found
