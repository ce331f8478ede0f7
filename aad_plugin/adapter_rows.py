"""One base model, a batch whose rows use different LoRA adapters: one matrix product for all of them.

Owns the routing of rows inside adapted layers. Every adapted weight is laid out with the adapters' B matrices beside it,
and every input with the rows' A x beside it, so that

    [x, A x] · [W, scaling · B]ᵀ  =  W x + scaling · B A x

costs what the base layer costs; rows without an adapter have zeros there. Layers of one parent that read one tensor (an
attention's query, key and value) stand below each other and are one product. PEFT's mixed batches (`adapter_names`)
gather, project and scatter rows in every layer instead, which for a small model takes as long as the model itself; layers
that are not plain LoRA over a plain linear layer still go that way. Knows nothing of roles, caches or scores.
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
    """Adapted layers of one parent with inputs of one size.

    Args:
        layers: PEFT's LoRA layers. names: the adapters that rows may use.
    """

    def __init__(self, layers: list[Any], names: Sequence[str]) -> None:
        self.layers = layers
        self.bases = [layer.get_base_layer() for layer in layers]
        self.sizes = [base.out_features for base in self.bases]
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
        self._weight: Tensor | None = None
        self._bias: Tensor | None = None
        self._places: list[int] = []
        self._read: Tensor | None = None
        self._outputs: tuple[Tensor, ...] = ()
        self._left = 0

    def output(self, place: int, x: Tensor, spans: Sequence[Span]) -> Tensor:
        """Return (rows, T, out) of one layer; all siblings are computed when the first of them reads ``x``."""
        if x is not self._read:
            weight = self._wide_weight()
            self._outputs = F.linear(self._widen(x, spans), weight, self._bias).split(self.sizes, dim=-1)
            self._read, self._left = x, len(self.layers)
        output, self._left = self._outputs[place], self._left - 1
        if not self._left:
            self.forget()
        return output

    def forget(self) -> None:
        """Let go of what was read."""
        self._read, self._outputs = None, ()

    def _widen(self, x: Tensor, spans: Sequence[Span]) -> Tensor:
        """Return (rows, T, in + width): ``x`` with each row's own A x."""
        low = x.new_zeros(*x.shape[:-1], self.width)
        for name, start, stop in spans:
            if name != BASE:
                stack, place = self._stack(name, x.device)
                low[start:stop, ..., place] = x[start:stop].to(stack.dtype) @ stack
        return torch.cat([x, low], dim=-1)

    def _stack(self, name: str, device: torch.device) -> tuple[Tensor, slice]:
        """Return an adapter's A matrices of all layers as (in, r) and their place; in PEFT's dtype for them, float32."""
        key = (name, device)
        if key not in self._stacks:
            downs = [layer.lora_A[name].weight.detach().to(device) for layer in self.layers if name in layer.lora_A]
            start = self.columns[name, 0].start
            stack = torch.cat(downs) if downs else torch.empty(0, self.layers[0].in_features, device=device)
            self._stacks[key] = stack.t(), slice(start, start + len(stack))
        return self._stacks[key]

    def _wide_weight(self) -> Tensor:
        """Return (sum of out, in + width); the bases' own weights become views of it, so that they are held once."""
        if self._weight is None or [base.weight.data_ptr() for base in self.bases] != self._places:
            self._weight = self._lay_out()  # at first, and after the model was moved
        return self._weight

    def _lay_out(self) -> Tensor:
        first = self.bases[0].weight
        inner = first.shape[1]
        wide = first.new_zeros(sum(self.sizes), inner + self.width)
        for place, (base, rows) in enumerate(zip(self.bases, wide.split(self.sizes), strict=True)):
            rows[:, :inner] = base.weight
            for (name, owner), columns in self.columns.items():
                if owner == place and name in self.layers[place].lora_B:
                    up = self.layers[place].lora_B[name].weight.detach() * self.layers[place].scaling[name]
                    rows[:, inner:][:, columns] = up.to(wide.device)
            base.weight.data = rows[:, :inner]
        self._places = [base.weight.data_ptr() for base in self.bases]
        biases = [base.bias for base in self.bases]
        if any(bias is not None for bias in biases):
            zeros = [first.new_zeros(size) for size in self.sizes]
            self._bias = torch.cat([z if b is None else b.detach() for b, z in zip(biases, zeros, strict=True)])
        return wide


class _WideLayer:
    """Stands for the ``forward`` of one LoRA layer: PEFT's own outside :meth:`AdapterRows.use`."""

    def __init__(self, layer: Any, place: int, siblings: _Siblings, rows: AdapterRows) -> None:
        self.plain = layer.forward
        self.place = place
        self.siblings = siblings
        self.rows = rows

    def __call__(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        spans = self.rows.spans
        return self.siblings.output(self.place, x, spans) if spans else self.plain(x, *args, **kwargs)


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
