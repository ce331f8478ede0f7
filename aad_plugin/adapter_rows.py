"""One base model, a batch whose rows use different LoRA adapters: one matrix product per layer for all of them.

Owns the routing of rows inside adapted layers. Every adapted weight is laid out with the adapters' B matrices beside it,
and every input with the rows' A x beside it, so that

    [x, A x] · [W, scaling · B]ᵀ  =  W x + scaling · B A x

costs what the base layer costs: A x is computed once for all layers that read the same x, and rows without an adapter
have zeros there. PEFT's mixed batches (`adapter_names`) gather, project and scatter rows in every layer instead, which
for a small model takes as long as the model itself; layers that are not plain LoRA over a plain linear layer still go
that way. Knows nothing of roles, caches or scores.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

__all__ = ["BASE", "AdapterRows"]

BASE = "__base__"  # PEFT's name for rows without an adapter
# Tensor cores want rows of a multiple of 16 bytes.
_ALIGNED = 8
Span = tuple[str, int, int]  # adapter or BASE, first row, row after the last


class AdapterRows:
    """Routes the rows of a batch through the adapters of one PEFT model.

    Args:
        model: a PeftModel with unmerged LoRA adapters; its adapted layers are changed in place.
        names: the adapters that rows may use.
    """

    def __init__(self, model: Any, names: Sequence[str]) -> None:
        from peft.tuners.lora import LoraLayer
        from peft.utils.other import AuxiliaryTrainingWrapper

        self.spans: list[Span] = []
        self._siblings: list[_Siblings] = []
        for parent in model.modules():
            plain: dict[int, list[Any]] = {}
            for module in parent.children():
                if isinstance(module, LoraLayer) and _is_plain(module, names):
                    plain.setdefault(module.in_features, []).append(module)
                elif isinstance(module, (LoraLayer, AuxiliaryTrainingWrapper)):
                    module.register_forward_pre_hook(self._name_rows, with_kwargs=True)
            for layers in plain.values():
                siblings = _Siblings(layers, names)
                self._siblings.append(siblings)
                for place, layer in enumerate(layers):
                    layer.forward = _WideLayer(layer, place, siblings, self)

    @contextlib.contextmanager
    def use(self, names: Sequence[str], rows: int) -> Iterator[None]:
        """Give each adapter named the next ``rows`` rows of every forward inside the block; BASE adds nothing."""
        self.spans = [(name, i * rows, (i + 1) * rows) for i, name in enumerate(names)]
        try:
            yield
        finally:
            self.spans = []
            for siblings in self._siblings:
                siblings.forget()

    def _name_rows(self, module: nn.Module, args: tuple, kwargs: dict) -> tuple[tuple, dict] | None:
        if not self.spans:
            return None
        names = [name for name, start, stop in self.spans for _ in range(start, stop)]
        return args, {**kwargs, "adapter_names": names}


class _Siblings:
    """Adapted layers of one parent with inputs of one size, such as an attention's query, key and value.

    Args:
        layers: PEFT's LoRA layers. names: the adapters that rows may use.
    """

    def __init__(self, layers: list[Any], names: Sequence[str]) -> None:
        self.layers = layers
        # Where the columns of each adapter's A x of each layer stand, behind the input's own.
        self.columns: dict[tuple[str, int], slice] = {}
        width = 0
        for name in names:
            for place, layer in enumerate(layers):
                rank = layer.r.get(name, 0)
                self.columns[name, place] = slice(width, width + rank)
                width += rank
        self.width = -(-width // _ALIGNED) * _ALIGNED
        self._stacks: dict[tuple[str, torch.device], tuple[Tensor, slice]] = {}
        self._read: Tensor | None = None
        self._wide: Tensor | None = None
        self._asked = 0

    def widen(self, x: Tensor, spans: Sequence[Span]) -> Tensor:
        """Return (rows, T, in + width): ``x`` with each row's own A x; computed once for all siblings that read it."""
        if x is not self._read:
            self._read, self._asked = x, 0
            low = x.new_zeros(*x.shape[:-1], self.width)
            for name, start, stop in spans:
                if name != BASE:
                    stack, place = self._stack(name, x.device)
                    low[start:stop, ..., place] = x[start:stop].to(stack.dtype) @ stack
            self._wide = torch.cat([x, low], dim=-1)
        assert self._wide is not None
        wide, self._asked = self._wide, self._asked + 1
        if self._asked == len(self.layers):
            self.forget()
        return wide

    def forget(self) -> None:
        """Let go of what was read."""
        self._read = self._wide = None

    def _stack(self, name: str, device: torch.device) -> tuple[Tensor, slice]:
        """Return an adapter's A matrices of all layers as (in, r) and their place; in PEFT's dtype for them, float32."""
        key = (name, device)
        if key not in self._stacks:
            downs = [layer.lora_A[name].weight.detach().to(device) for layer in self.layers if name in layer.lora_A]
            start = self.columns[name, 0].start
            stack = torch.cat(downs) if downs else torch.empty(0, self.layers[0].in_features, device=device)
            self._stacks[key] = stack.t(), slice(start, start + len(stack))
        return self._stacks[key]


class _WideLayer:
    """Stands for the ``forward`` of one LoRA layer: PEFT's own outside :meth:`AdapterRows.use`."""

    def __init__(self, layer: Any, place: int, siblings: _Siblings, rows: AdapterRows) -> None:
        self.layer = layer
        self.base = layer.get_base_layer()
        self.place = place
        self.siblings = siblings
        self.rows = rows
        self.plain = layer.forward
        self._weight: Tensor | None = None

    def __call__(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        if not self.rows.spans:
            return self.plain(x, *args, **kwargs)
        return F.linear(self.siblings.widen(x, self.rows.spans), self._wide_weight(), self.base.bias)

    def _wide_weight(self) -> Tensor:
        """Return (out, in + width); the base's own weight becomes a view of it, so that it is held once."""
        weight = self.base.weight
        if self._weight is None or self._weight.data_ptr() != weight.data_ptr():  # at first, and after a move
            wide = weight.new_zeros(weight.shape[0], weight.shape[1] + self.siblings.width)
            wide[:, : weight.shape[1]] = weight
            for (name, place), columns in self.siblings.columns.items():
                if place == self.place and name in self.layer.lora_B:
                    scaled = self.layer.lora_B[name].weight.detach() * self.layer.scaling[name]
                    wide[:, weight.shape[1] :][:, columns] = scaled.to(wide.device)
            weight.data = wide[:, : weight.shape[1]]
            self._weight = wide
        return self._weight


def _is_plain(layer: Any, names: Sequence[str]) -> bool:
    """Whether the layer is LoRA over a linear layer whose weight is at hand and to which each named adapter adds
    scaling · B A x and nothing else."""
    from peft.tuners.lora import Linear

    if not isinstance(layer, Linear):  # embeddings, convolutions, quantised layers
        return False
    base = layer.get_base_layer()
    if type(base) is not nn.Linear or type(base.weight) is not nn.Parameter or hasattr(base, "_hf_hook"):
        return False  # transposed, sharded or offloaded weights
    return not any(layer.lora_bias.get(name) for name in names)
