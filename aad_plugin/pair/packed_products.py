"""Products on a CPU whose weights are also kept in the order in which the product reads them.

A step of decoding is products of a few rows with every weight. Those of 16 bit torch hands to oneDNN, which for a plain
weight spends a third of the time on reaching it; a packed copy spares that and sums the same terms in the same order, at
the price of the weights' size in memory once more. Those of float32 it hands to MKL, which on processors without AVX-512
takes one and a half to twice as long as oneDNN with a packed copy, for one row and for hundreds; there oneDNN is asked
instead, whose sums are rounded otherwise. Packing is what torch.compile does with frozen weights, by the same operators;
they are not part of torch's documented interface, so where they are missing the plain product is taken.

A copy is of a weight as it was: at the start of every block in which products are packed the weights are looked at, and if
one has changed all copies are made anew.

Knows nothing of pairs, adapters or caches.
"""

from __future__ import annotations

import contextlib
import weakref
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cache
from typing import Any

import psutil
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from aad_plugin.pair.weight_watch import Seen

# Copies may take this share of the memory that is free when they are first wanted.
SHARE = 0.25
# For how many rows a packed weight is laid out; it serves others. Of float32 four were the best for 1 to 512.
_ROWS = {torch.float32: 4}


def free_memory(device: torch.device) -> int:
    """Return the bytes that are free where a device keeps its tensors; on an accelerator what torch holds unused counts."""
    if device.type != "cuda":
        return int(psutil.virtual_memory().available)
    unused = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return torch.cuda.mem_get_info(device)[0] + unused


@dataclass(frozen=True)
class _Copy:
    """A packed copy.

    Attributes:
        weight: of which; it may go. address: where that stood. seen: what it held.
    """

    weight: weakref.ref[Tensor]
    address: int
    seen: Seen
    packed: Tensor


class PackedProducts:
    """Linear products of one pair, plain or packed.

    Args:
        models: their plain linear layers, except those given in ``but``, take part inside :meth:`use`.
        but: layers whose owner calls :meth:`linear` itself, or which are not to have a second copy.
    """

    def __init__(self, models: Iterable[nn.Module], but: Iterable[nn.Module] = ()) -> None:
        self._on = False
        self._fits: bool | None = None
        self._packed: dict[int, _Copy] = {}  # by the weight's id
        models = list(models)
        left_out = {id(layer) for layer in but}
        layers = {id(m): m for model in models for m in model.modules() if type(m) is nn.Linear}
        # One layer of each model tells of which kind its weights are.
        self._heads = [next((m for m in model.modules() if type(m) is nn.Linear), None) for model in models]
        self._sizes = sum(layer.weight.nbytes for layer in layers.values())
        self._unwrapped = [layer for layer in layers.values() if id(layer) not in left_out]

    @property
    def is_on(self) -> bool:
        """Whether products are packed now."""
        return self._on

    @contextlib.contextmanager
    def use(self, choice: str) -> Iterator[None]:
        """Inside the block products are packed where they can be.

        Args:
            choice: "packed"; "auto" = if the copies fit into a quarter of the free memory; anything else = not.
        """
        if choice == "auto" and self._fits is None:
            self._fits = self._sizes < SHARE * free_memory(torch.device("cpu"))
        wanted = choice == "packed" or (choice == "auto" and bool(self._fits))
        on = wanted and any(layer is not None and _can_pack(layer.weight) for layer in self._heads)
        before, self._on = self._on, on
        if on and not before:
            self._let_go_of_changed()
        # Not before they are wanted: a call of Python for each product is a share of a step whose cost is launching.
        for layer in self._unwrapped if on else ():
            there = vars(layer).get("forward")
            if there is None:
                layer.forward = _Layer(layer, self)  # type: ignore[method-assign, assignment]
            elif isinstance(there, _Layer):  # of another pair over the same model
                there.owners.append(self)
        self._unwrapped = [] if on else self._unwrapped
        try:
            yield
        finally:
            self._on = before

    def linear(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """Return (..., out), ``x`` (..., in) times ``weight`` (out, in), plus ``bias``."""
        if torch.compiler.is_compiling():
            return F.linear(x, weight, bias)  # what torch compiles it may pack by itself
        if not (self._on and x.numel() and x.dtype == weight.dtype and _can_pack(weight)) or torch.is_grad_enabled():
            return F.linear(x, weight, bias)
        copy = self._packed.get(id(weight))
        if copy is None or copy.weight() is not weight or copy.address != weight.data_ptr():
            copy = self._pack(weight)
        return torch.ops.mkldnn._linear_pointwise(x, copy.packed, bias, "none", [], "")

    @torch.inference_mode(False)
    @torch.no_grad()
    def _pack(self, weight: Tensor) -> _Copy:
        key, copies = id(weight), self._packed
        packed = torch.ops.mkldnn._reorder_linear_weight(weight.detach(), _ROWS.get(weight.dtype, 1))
        there = weakref.ref(weight, lambda _: copies.pop(key, None))
        copies[key] = _Copy(there, weight.data_ptr(), Seen([weight]), packed)
        return copies[key]

    def _let_go_of_changed(self) -> None:
        """Drop all copies if a weight is not what its copy was made of: what trains one trains others."""
        held = [(copy, copy.weight()) for copy in list(self._packed.values())]
        if not all(weight is not None and copy.seen.still([weight]) for copy, weight in held):
            self._packed.clear()

    def __getstate__(self) -> dict[str, Any]:
        """Copies of a model have weights of their own."""
        return {**vars(self), "_on": False, "_packed": {}}

    def forget(self, weight: Tensor) -> None:
        """Let go of a weight's packed copy."""
        self._packed.pop(id(weight), None)


class _Layer:
    """Stands for the ``forward`` of one linear layer: packed while any of the pairs over it packs."""

    def __init__(self, layer: nn.Linear, products: PackedProducts) -> None:
        self.layer = layer
        self.owners = [products]

    def __call__(self, x: Tensor) -> Tensor:
        products = next((owner for owner in self.owners if owner.is_on), self.owners[0])
        return products.linear(x, self.layer.weight, self.layer.bias)


def _can_pack(weight: Tensor) -> bool:
    return weight.device.type == "cpu" and weight.dtype in _packable()


@cache
def _packable() -> frozenset[torch.dtype]:
    """The types this processor multiplies packed, where that is faster."""
    operators = torch.ops.mkldnn
    checks = {torch.bfloat16: "_is_mkldnn_bf16_supported", torch.float16: "_is_mkldnn_fp16_supported"}
    needed = ("_reorder_linear_weight", "_linear_pointwise", *checks.values())
    if not torch.backends.mkldnn.is_available() or not all(hasattr(operators, name) for name in needed):
        return frozenset()
    found = {dtype for dtype, check in checks.items() if getattr(operators, check)()}
    return frozenset(found | ({torch.float32} if torch.backends.cpu.get_cpu_capability() == "AVX2" else set()))
