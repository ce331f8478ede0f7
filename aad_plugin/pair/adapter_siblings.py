"""Adapted layers of one parent that read one tensor: their weights with the adapters' matrices beside them.

Owns what is made of weights (laid out wide, or merged) and the rooms in which widened inputs lie. Which rows are whose, and
when weights have to be made anew, is told by `adapter_rows.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from aad_plugin.pair.packed_products import PackedProducts
from aad_plugin.pair.reading import Mix

BASE = "__base__"  # PEFT's name for rows without an adapter
# Tensor cores want rows of a multiple of 16 bytes.
_ALIGNED = 8
# Guesses of a draft are few, for one prompt's two rows: small enough to be laid out in rooms that are kept.
_GUESSES, _ONE_PROMPT = 8, 2
Span = tuple[str, int, int]  # adapter or BASE, first row, row after the last
_FindStack = Callable[[str, torch.device], tuple[Tensor, slice]]


class Siblings:
    """Adapted layers of one parent with inputs of one size.

    Args:
        layers: PEFT's LoRA layers. names: the adapters that rows may use. products: how to multiply.
    """

    def __init__(self, layers: list[Any], names: Sequence[str], products: PackedProducts) -> None:
        self.layers = layers
        self.products = products
        self.bases = [layer.get_base_layer() for layer in layers]
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
        self._weights: list[Tensor] = []
        self._place = 0
        self._rooms: dict[int, _Room] = {}  # by tokens per row
        self._read: Tensor | None = None
        self._wide: Tensor | None = None
        self._left = 0
        self._merged: dict[tuple[Mix, int], tuple[int, Tensor]] = {}
        self._pinned: set[int] = set()

    def output(self, place: int, x: Tensor, spans: tuple[Span, ...]) -> Tensor:
        """Return (rows, T, out) of one layer; ``x`` is widened when the first sibling reads it."""
        if torch.compiler.is_compiling():
            return nn.functional.linear(self._traced(x, spans), self._weights[place], self.bases[place].bias)
        if x is not self._read:
            if self.bases[0].weight.data_ptr() != self._place:  # at first, and after the model was moved
                self._weights = [self._lay_out(at, base) for at, base in enumerate(self.bases)]
                self._place = self.bases[0].weight.data_ptr()
            self._wide, self._read, self._left = self._widen(x, spans), x, len(self.layers)
        wide, self._left = self._wide, self._left - 1
        assert wide is not None
        if not self._left:
            self.forget()
        return self.products.linear(wide, self._weights[place], self.bases[place].bias)

    def forget(self) -> None:
        """Let go of what was read."""
        self._read = self._wide = None

    def sources(self) -> tuple[list[Tensor], list[float]]:
        """Return the weights of which others are made here, and the strengths of their adapters."""
        weights: list[Tensor] = [base.weight for base in self.bases]
        strengths = []
        for name, place in self.columns:
            layer = self.layers[place]
            if name in layer.lora_A:
                weights += [layer.lora_A[name].weight, layer.lora_B[name].weight]
                strengths.append(layer.scaling[name])
        return weights, strengths

    @torch.inference_mode(False)
    @torch.no_grad()
    def renew(self) -> None:
        """Make everything anew, in the tensors that are there where they serve: a compiled step knows their addresses."""
        self._rooms = {}
        laid_out = [
            weight.data_ptr() == base.weight.data_ptr() for weight, base in zip(self._weights, self.bases, strict=False)
        ]
        if all(laid_out):
            for place, weight in enumerate(self._weights):
                self._write_adapters(place, weight)
        else:
            self._place = 0
        for (name, device), (old, _) in list(self._stacks.items()):
            del self._stacks[name, device]
            stack, columns = self._stack(name, device)
            self._stacks[name, device] = _written(old, stack), columns
        for (mix, place), (_, old) in list(self._merged.items()):
            base = self.bases[place].weight
            weight = _written(old, self._merge(place, mix))
            if weight is not old:
                self.products.forget(old)
            self._merged[mix, place] = base.data_ptr(), weight

    def merged_output(self, place: int, x: Tensor, mix: Mix) -> Tensor:
        """Return (rows, T, out) of one layer whose weight is the base's with adapters merged into a copy."""
        base = self.bases[place]
        at, weight = self._merged.get((mix, place), (0, None))
        if weight is not None and torch.compiler.is_compiling():
            return nn.functional.linear(x, weight, base.bias)
        if weight is None or at != base.weight.data_ptr():  # at first, and after the model was moved
            self._let_go(place)
            weight = self._merge(place, mix)
            self._merged[mix, place] = base.weight.data_ptr(), weight
        return self.products.linear(x, weight, base.bias)

    def _let_go(self, place: int) -> None:
        """Keep single adapters as they are, and of other mixes none: a sweep over strengths would hold one for each."""
        for mix, at in [key for key in self._merged if key[1] == place]:
            if len(mix) > 1 or mix[0][1] != 1:
                self.products.forget(self._merged.pop((mix, at))[1])

    @torch.inference_mode(False)
    @torch.no_grad()
    def _merge(self, place: int, mix: Mix) -> Tensor:
        layer, weight = self.layers[place], self.bases[place].weight
        merged = weight.detach().float()
        for name, factor in mix:
            if name in layer.lora_A:
                down, up = (
                    part[name].weight.detach().to(weight.device).float() for part in (layer.lora_A, layer.lora_B)
                )
                # (out, in) + (out, r) @ (r, in)
                merged = merged.addmm(up, down, alpha=factor * layer.scaling[name])
        return merged.to(weight.dtype)

    def _widen(self, x: Tensor, spans: tuple[Span, ...]) -> Tensor:
        """Return (rows, T, in + width): ``x`` with each row's own A x."""
        length = x.shape[1]
        room = self._rooms.get(length)
        if room is None or torch.is_grad_enabled() or not room.fits(x, spans):
            room = _Room(x, spans, self.width, self._stack)
            # Single tokens and guesses of a draft are read again and again in one shape; a gradient would need what each
            # of them read.
            self._rooms.pop(length, None)
            kept = length == 1 or (length <= _GUESSES and len(x) <= _ONE_PROMPT)
            if kept and not torch.is_grad_enabled():
                self._rooms[length] = room
        return room.fill(x)

    def _traced(self, x: Tensor, spans: tuple[Span, ...]) -> Tensor:
        """:meth:`_widen` without rooms, for a compiler, which lays out its own and sees that siblings do the same."""
        lows = []
        for name, start, stop in spans:
            rows = x[start:stop]
            if name == BASE:
                lows.append(rows.new_zeros(*rows.shape[:-1], self.width))
                continue
            down, place = self._stacks[name, x.device]
            low = (rows.to(down.dtype) @ down).to(x.dtype)  # (rows, T, in) @ (in, r) -> (rows, T, r)
            lows.append(nn.functional.pad(low, (place.start, self.width - place.stop)))
        return torch.cat([x, torch.cat(lows)], dim=-1)

    def pin(self) -> None:
        """See `AdapterRows.pin`."""
        made = [*self._weights, *(stack for stack, _ in self._stacks.values()), *(w for _, w in self._merged.values())]
        for tensor in made:
            if id(tensor) not in self._pinned:
                torch._dynamo.mark_static_address(tensor, guard=False)
        self._pinned = {id(tensor) for tensor in made}

    @torch.inference_mode(False)
    @torch.no_grad()
    def _stack(self, name: str, device: torch.device) -> tuple[Tensor, slice]:
        """Return an adapter's A matrices of all layers as (in, r) and their place.

        On a CPU in PEFT's dtype for them, float32; elsewhere in the weights' own, since turning an input into float32 and
        back costs two launches of a step's few.
        """
        key = (name, device)
        if key not in self._stacks:
            own = [layer.lora_A[name].weight.detach() for layer in self.layers if name in layer.lora_A]
            dtype = self.bases[0].weight.dtype if device.type != "cpu" else None
            downs = [weight.to(device, dtype) for weight in own]
            start = self.columns[name, 0].start
            # (r, in) of each layer -> (all r, in)
            stack = torch.cat(downs) if downs else torch.empty(0, self.layers[0].in_features, device=device)
            self._stacks[key] = stack.t(), slice(start, start + len(stack))
        return self._stacks[key]

    @torch.inference_mode(False)
    @torch.no_grad()
    def _lay_out(self, place: int, base: nn.Linear) -> Tensor:
        """Return (out, in + width); the base's own weight becomes a view of it, so that it is held once."""
        inner = base.in_features
        wide = base.weight.new_zeros(base.out_features, inner + self.width)
        wide[:, :inner] = base.weight
        self._write_adapters(place, wide)
        base.weight.data = wide[:, :inner]
        return wide

    def _write_adapters(self, place: int, wide: Tensor) -> None:
        """Write the adapters' B matrices behind the base's columns of (out, in + width)."""
        inner = self.bases[place].in_features
        for (name, owner), columns in self.columns.items():
            if owner == place and name in self.layers[place].lora_B:
                # (out, r), beside the weight's (out, in)
                up = self.layers[place].lora_B[name].weight.detach() * self.layers[place].scaling[name]
                wide[:, inner:][:, columns] = up.to(wide.device)


def _written(old: Tensor, new: Tensor) -> Tensor:
    """Return ``old`` with what ``new`` holds, or ``new`` where it is another kind of tensor."""
    if (old.shape, old.dtype, old.device) != (new.shape, new.dtype, new.device):
        return new
    return old.copy_(new)


class _Room:
    """Where [x, A x] is laid out, for inputs of one shape: kept zeros and views, so that a step copies and no more.

    Args:
        x: (rows, T, in), the first input. spans: whose rows are whose.
        width: columns behind the input's own. stack: gives an adapter's A matrices and their place in those columns.
    """

    def __init__(self, x: Tensor, spans: tuple[Span, ...], width: int, stack: _FindStack) -> None:
        self._like = x.shape, x.dtype, x.device
        self._spans = spans
        # Not an inference tensor, which could not be written outside that mode.
        with torch.inference_mode(False):
            self._wide = torch.empty(*x.shape[:-1], x.shape[-1] + width, dtype=x.dtype, device=x.device)
            # (rows, T, in + width) -> (rows, T, in) and (rows, T, width), views of it
            self._own, low = self._wide.split([x.shape[-1], width], dim=-1)
            low.zero_()
        self._parts: list[tuple[slice, Tensor, Tensor]] = []
        for name, start, stop in spans:
            if name != BASE:
                down, place = stack(name, x.device)
                self._parts.append((slice(start, stop), down, low[start:stop, ..., place]))
        # Of single tokens, read from the room itself and written there: no view has to be made again.
        single = x.shape[1] == 1 and all(down.dtype == x.dtype for _, down, _ in self._parts)
        self._singles = [(self._own[rows, 0], down, part[:, 0]) for rows, down, part in self._parts] if single else None

    def fits(self, x: Tensor, spans: tuple[Span, ...]) -> bool:
        return self._spans == spans and self._like == (x.shape, x.dtype, x.device)

    def fill(self, x: Tensor) -> Tensor:
        """Return (rows, T, in + width), overwritten by the next call."""
        self._own.copy_(x)
        if self._singles is not None and not torch.is_grad_enabled():
            for own, down, low in self._singles:
                torch.mm(own, down, out=low)  # (rows, in) @ (in, r) -> (rows, r)
            return self._wide
        for rows, down, low in self._parts:
            low.copy_(x[rows].to(down.dtype) @ down)  # (rows, T, in) @ (in, r) -> (rows, T, r)
        return self._wide
