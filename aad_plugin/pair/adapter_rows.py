"""One base model, a batch whose rows use different LoRA adapters: one matrix product for all of them.

Owns the routing of rows inside adapted layers; `adapter_siblings.py` multiplies. Every adapted weight is laid out with the
adapters' B matrices beside it, and every input with the rows' A x beside it, so that

    [x, A x] · [W, scaling · B]ᵀ  =  W x + scaling · B A x

costs what the base layer costs; rows without an adapter have zeros there. Layers of one parent that read one tensor (an
attention's query, key and value) share its widened form; each gives a tensor of its own, since slices of one product
make everything after them slower. A policy read alone has weights of its own, merged in float32 and held beside the
base's, which are never written. PEFT's mixed batches (`adapter_names`) gather, project and scatter rows in every layer
instead, which for a small model takes as long as the model itself; layers that are not plain LoRA over a plain linear
layer still go that way. Knows nothing of roles, caches or scores.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from aad_plugin.pair.adapter_siblings import Siblings, Span
from aad_plugin.pair.packed_products import SHARE, PackedProducts, free_memory
from aad_plugin.pair.reading import Mix
from aad_plugin.pair.weight_watch import Watch


class AdapterRows:
    """Routes the rows of a batch through the adapters of one PEFT model.

    Args:
        model: a PeftModel with unmerged LoRA adapters; its adapted layers are changed in place.
        names: the adapters that rows may use.
    Attributes:
        products: of this model, for the owner to switch between plain and packed.
    """

    def __init__(self, model: Any, names: Sequence[str]) -> None:
        from peft.tuners.lora import LoraLayer
        from peft.utils.other import AuxiliaryTrainingWrapper

        self.spans: tuple[Span, ...] = ()
        self.alone: Mix | None = None
        self._siblings: list[Siblings] = []
        self._others = 0
        self._fits: dict[torch.device, bool] = {}
        self._watch = Watch(self._sources)
        lora = [module for module in model.modules() if isinstance(module, LoraLayer)]
        self.products = PackedProducts([model], but=[inner for layer in lora for inner in layer.modules()])
        for parent in model.modules():
            plain: dict[int, list[Any]] = {}
            for module in parent.children():
                if isinstance(module, LoraLayer) and _is_plain(module, names):
                    plain.setdefault(module.in_features, []).append(module)
                elif isinstance(module, (LoraLayer, AuxiliaryTrainingWrapper)):
                    module.register_forward_pre_hook(self._name_rows, with_kwargs=True)
                    self._others += 1
            for layers in plain.values():
                siblings = Siblings(layers, names, self.products)
                self._siblings.append(siblings)
                for place, layer in enumerate(layers):
                    layer.forward = _WideLayer(layer, place, siblings, self)

    @contextlib.contextmanager
    def use(self, names: Sequence[str], rows: int) -> Iterator[None]:
        """Give each adapter named the next ``rows`` rows of every forward inside the block; BASE adds nothing."""
        self._take_up_changes()
        self.spans = tuple((name, i * rows, (i + 1) * rows) for i, name in enumerate(names))
        try:
            yield
        finally:
            self.spans = ()
            for siblings in self._siblings:
                siblings.forget()

    @contextlib.contextmanager
    def once(self) -> Iterator[None]:
        """Inside the block weights are looked at no more: changes are taken up before it."""
        with self._watch.once():
            self._take_up_changes()
            yield

    def _sources(self) -> list[Tensor]:
        found = [siblings.sources() for siblings in self._siblings]
        strengths = torch.tensor([one for _, own in found for one in own])
        return [*(weight for weights, _ in found for weight in weights), strengths]

    def _take_up_changes(self) -> None:
        """Lay out anew what was made of weights that have changed since, as an optimizer changes them."""
        if self._watch.changed():
            for siblings in self._siblings:
                siblings.renew()

    def can_merge(self, name: str) -> bool:
        """Whether :meth:`merged` serves an adapter: it is plain LoRA throughout, and the merged weights fit into a quarter
        of the memory that was free when this was first asked."""
        weights = [base.weight for siblings in self._siblings for base in siblings.bases]
        if self._others or not weights or not all(name in layer.lora_A for s in self._siblings for layer in s.layers):
            return False
        for device in {weight.device for weight in weights} - set(self._fits):
            size = sum(weight.nbytes for weight in weights if weight.device == device)
            self._fits[device] = size < SHARE * free_memory(device)
        return all(self._fits[weight.device] for weight in weights)

    @contextlib.contextmanager
    def merged(self, mix: Mix) -> Iterator[None]:
        """Inside the block every row is the adapters' of a mix, by merged weights."""
        self._take_up_changes()
        self.alone = mix
        try:
            yield
        finally:
            self.alone = None

    @property
    def can_compile(self) -> bool:
        """Whether every adapted layer is multiplied here, by products alone."""
        return not self._others

    def pin(self) -> None:
        """Promise torch's compiler that weights laid out so far stay where they are, else it copies them at each step."""
        for siblings in self._siblings:
            siblings.pin()

    def _name_rows(self, module: nn.Module, args: tuple, kwargs: dict) -> tuple[tuple, dict] | None:
        if not self.spans:
            return None
        names = [name for name, start, stop in self.spans for _ in range(start, stop)]
        return args, {**kwargs, "adapter_names": names}


class _WideLayer:
    """Stands for the ``forward`` of one LoRA layer: PEFT's own outside :meth:`AdapterRows.use`."""

    def __init__(self, layer: Any, place: int, siblings: Siblings, rows: AdapterRows) -> None:
        self.plain = layer.forward
        self.place = place
        self.siblings = siblings
        self.rows = rows

    def __call__(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        if spans := self.rows.spans:
            return self.siblings.output(self.place, x, spans)
        if self.rows.alone is not None:
            return self.siblings.merged_output(self.place, x, self.rows.alone)
        return self.plain(x, *args, **kwargs)


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
