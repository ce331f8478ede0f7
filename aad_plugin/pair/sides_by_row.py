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

from aad_plugin.pair.reading import BuildCache, Role, read_model
from aad_plugin.pair.sides import Sides
from aad_plugin.pair.step import Step


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

    def logits(self, roles: Sequence[Role], step: Step) -> list[Tensor]:
        """Return per role (B, K, V) logits; those of padding on the left are zeros."""
        if step.multimodal is not None:
            raise NotImplementedError("pictures belong to a whole batch, which is not read row by row")
        ids, mask, keep = step.input_ids, step.attention_mask, step.positions
        padded = [0] * len(ids) if mask is None else mask.argmax(-1).tolist()
        found = []
        for role in roles:
            self.passes[role] += len(ids)
            with self.role(role) as model:
                rows = []
                for row, start in zip(ids, padded, strict=True):
                    own = Step(row[None, start:].to(model.device), keep=min(keep, len(row) - start))
                    rows.append(F.pad(read_model(model, own), (0, 0, keep - own.keep, 0)))
                found.append(torch.cat(rows).to(ids.device))
        return found
