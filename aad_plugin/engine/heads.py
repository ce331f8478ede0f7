"""The sides of the composite at one step: their whole rows of logits, or single columns of them."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

import torch
from torch import Tensor
from vllm.platforms import current_platform

# A column is trusted once it agreed with the part's own logits to this share of their size: bf16's rounding.
_TOLERANCE = 0.02


class Head:
    """The last projection of one vLLM model.

    A whole row of the reference costs a pass over the largest matrix of a small model; AAD asks for a few columns.
    Columns are read from the weights on CPU only (on a GPU the head is cheap, and listing candidates would wait for it),
    where the head is not split over ranks and nothing follows it (no scale, no soft cap, no bias), and only after one
    step showed that they are what the model itself gives.

    Args:
        part: a vLLM causal LM.
    Attributes:
        on_demand: whether less than whole rows may be asked for.
    """

    def __init__(self, part: Any) -> None:
        self.part = part
        head, processor = getattr(part, "lm_head", None), getattr(part, "logits_processor", None)
        weight = getattr(head, "weight", None)
        self.on_demand = (
            isinstance(weight, Tensor) and weight.ndim == 2 and current_platform.is_cpu()
            and getattr(head, "tp_size", 0) == 1 and getattr(head, "bias", None) is None
            and getattr(processor, "scale", 0) == 1 and getattr(processor, "soft_cap", 0) is None
        )  # fmt: skip
        self._agrees: bool | None = None  # None until seen
        self._hidden: Tensor | None = None
        self._rows: list[Tensor | None] = []  # the step's logits once they are known

    def read(self, hidden: Tensor) -> None:
        """Take (R, H) hidden states of the next step."""
        self._hidden = hidden
        self._rows.clear()

    def know(self, logits: Tensor | None) -> None:
        """Take the step's (R, V) logits, projected elsewhere; None on ranks that gather none."""
        self._rows = [logits]

    def whole(self) -> Tensor | None:
        """Return (R, V) logits in the head's dtype, projected once per step; None on ranks that gather no logits."""
        if not self._rows:
            assert self._hidden is not None
            self.know(self.part.compute_logits(self._hidden.contiguous()))
        return self._rows[0]

    def columns(self, rows: Tensor, tokens: Tensor) -> Tensor:
        """Return (N,) float32 logits of tokens at rows, both (N,) int64, of this step."""
        assert self._hidden is not None
        if self._agrees is None:
            self._compare(rows, tokens)
        if self._agrees and len(tokens) * 8 < self.part.lm_head.weight.shape[0]:
            return self._sums(rows, tokens)
        logits = self.whole()
        assert logits is not None
        return logits[rows, tokens].float()

    def _sums(self, rows: Tensor, tokens: Tensor) -> Tensor:
        assert self._hidden is not None
        return (self.part.lm_head.weight[tokens].float() * self._hidden[rows].float()).sum(-1)

    def _compare(self, rows: Tensor, tokens: Tensor) -> None:
        whole = self.whole()
        assert whole is not None
        wanted, found = whole[rows, tokens].float(), self._sums(rows, tokens)
        size = float(wanted.abs().max())
        if torch.isfinite(wanted).all() and size > 1:  # a profiling run says nothing
            self._agrees = bool((wanted - found).abs().max() <= _TOLERANCE * size)


def read_sides(heads: Mapping[str, Head], hidden: Tensor, together: Collection[str]) -> None:
    """Give the sides of one base their rows of a step.

    Args:
        heads: of the S sides, in the order of a token's rows. hidden: (R, S · H). together: sides whose whole rows will be
            asked for, so that the head is read once for them.
    """
    number = len(heads)
    rows = hidden.reshape(number * len(hidden), -1)  # (S · R, H), a token's sides one after the other
    for place, head in enumerate(heads.values()):
        head.read(rows[place::number])
    asked = [head for role, head in heads.items() if role in together]
    if len(asked) < 2:
        return
    if len(asked) < number:
        chosen = [rows[place::number] for place, role in enumerate(heads) if role in together]
        rows = torch.stack(chosen, 1).flatten(0, 1)  # (R, S', H) -> (S' · R, H)
    logits = asked[0].part.compute_logits(rows)
    for place, head in enumerate(asked):
        head.know(None if logits is None else logits[place :: len(asked)])
