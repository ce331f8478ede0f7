"""LoRA inside vLLM's own linear layers, one adapter for each side of a pair whose tokens stand S times in a batch.

Rows S · t to S · t + S - 1 are the sides' rows of token t, the policy's first. vLLM reads the adapters (its reader knows
which kinds it understands) and its layers cut the matrices over ranks as they cut their own weights. What is added here is

    y = W x;   y[rows of a side] += scaling · B A x[rows of that side]

in one of two ways. Apart: A and B are products of their own. In one pass, where code is compiled for a GPU and every
kernel between the weights' bytes is dear, and for two sides only: A stands below W in one matrix, and B is added by an
operator (`aad_plugin.engine.low_rank`), which is also the gated activation where that is what follows.

Knows nothing of attention, caches or scores.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import pad
from vllm.config import CompilationMode, VllmConfig
from vllm.lora.lora_model import LoRAModel
from vllm.lora.peft_helper import PEFTHelper
from vllm.lora.utils import get_adapter_absolute_path
from vllm.model_executor.layers.activation import SiluAndMul
from vllm.model_executor.layers.linear import (
    LinearBase,
    LinearMethodBase,
    MergedColumnParallelLinear,
    QKVParallelLinear,
    ReplicatedLinear,
    RowParallelLinear,
)
from vllm.model_executor.parameter import ModelWeightParameter
from vllm.model_executor.utils import get_packed_modules_mapping
from vllm.platforms import current_platform

from aad_plugin.engine.checks import REMEDY
from aad_plugin.engine.low_rank import LARGEST_RANK, SMALLEST_RANK, add_low_rank, columns_per_block, gate_low_rank
from aad_plugin.errors import ConfigError

_ALIGNED = 32  # ranks are filled up with zeros: small products of vLLM on CPU, and tensor cores, want whole tiles
_WHOLE_LINES = 64  # rows of 16 bit then begin where a line of memory does
_SIDES = ("policy", "reference")  # that one pass is made for


def fuses(vllm_config: VllmConfig) -> bool:
    """Whether adapters go in one pass: compiled code on a GPU."""
    compiled = vllm_config.compilation_config.mode == CompilationMode.VLLM_COMPILE
    return compiled and not vllm_config.model_config.enforce_eager and current_platform.is_cuda_alike()


def adapt(model: nn.Module, adapters: Mapping[str, str | None], in_one_pass: bool) -> None:
    """Let the sides' rows go through adapters; called before vLLM loads the weights, followed by :func:`complete`.

    Args:
        model: a vLLM causal LM, changed in place.
        adapters: of every side, in the order of a token's rows, folder or hub id of its LoRA; None for the base alone.
        in_one_pass: see :func:`fuses`; taken for a policy and a reference only.
    Raises:
        ConfigError: an adapter is of a kind that vLLM does not read, or adapts what is no linear layer.
    """
    found: dict[str, tuple[Any, dict[str, _LowRank]]] = {}
    for side, adapter in adapters.items():
        if adapter is not None:
            for name, (layer, shards) in _by_layer(model, adapter).items():
                found.setdefault(name, (layer, {}))[1][side] = _low_rank(layer, shards)
    in_one_pass = in_one_pass and tuple(adapters) == _SIDES
    for layer, sides in found.values():
        if in_one_pass and _InOnePass.takes(sides):
            layer.quant_method = _InOnePass(layer, sides)
        else:
            layer.quant_method = _Apart(layer, sides, tuple(adapters))
    for parent in model.modules():
        method = getattr(getattr(parent, "gate_up_proj", None), "quant_method", None)
        if isinstance(method, _InOnePass) and isinstance(getattr(parent, "act_fn", None), SiluAndMul):
            method.gated, parent.act_fn = True, nn.Identity()


def complete(model: nn.Module) -> None:
    """Add the matrices beside the weights: after these are loaded, before vLLM prepares them for its kernels."""
    for layer in list(model.modules()):
        method = getattr(layer, "quant_method", None)
        if isinstance(method, _Apart | _InOnePass):
            method.complete(layer)


@dataclass
class _LowRank:
    """One side's adapter of a layer: for each of S shards of equal rank R, A (R, in) and B (its outputs, R), B scaled.

    Attributes:
        lower: (S · R, in). uppers: S of (outputs of the shard on this rank, R). Both in the layer's dtype.
    """

    lower: Tensor
    uppers: list[Tensor]

    @property
    def rank(self) -> int:
        return self.uppers[0].shape[1]


class _Sides(LinearMethodBase):
    """A layer's own product for all rows, and each side's update of its rows. Args: the layer; its adapters by side."""

    def __init__(self, layer: Any, sides: Mapping[str, _LowRank]) -> None:
        self.own: Any = layer.quant_method
        self.sides = dict(sides)

    def create_weights(self, *args: Any, **kwargs: Any) -> None:
        self.own.create_weights(*args, **kwargs)

    def process_weights_after_loading(self, layer: nn.Module) -> None:
        self.own.process_weights_after_loading(layer)


class _Apart(_Sides):
    """A of all sides as one of vLLM's own linear layers and B as one for each, so that a platform multiplies as it
    does best.

    Args: the layer; its adapters by side; all sides of a token, in the order of its rows.
    """

    def __init__(self, layer: Any, sides: Mapping[str, _LowRank], order: tuple[str, ...]) -> None:
        super().__init__(layer, sides)
        self.order = order

    def complete(self, layer: Any) -> None:
        """Add the layers."""
        self.starts: dict[str, tuple[int, int]] = {}
        lowers: list[Tensor] = []
        for side, one in self.sides.items():
            rank = len(one.lower)
            self.starts[side] = (sum(map(len, lowers)), _filled(rank))
            lowers.append(pad(one.lower, (0, 0, 0, _filled(rank) - rank)))
            setattr(layer, f"aad_{side}", _layer(pad(torch.block_diag(*one.uppers), (0, _filled(rank) - rank))))
        layer.aad_lower = _layer(torch.cat(lowers))
        self.sides.clear()

    def apply(self, layer: Any, x: Tensor, bias: Tensor | None = None) -> Tensor:
        """Return (S · T, out) for (S · T, in)."""
        number = len(self.order)
        # No width is inferred: it would be an expression in T, which grows with every layer.
        out = self.own.apply(layer, x, bias).unflatten(0, (-1, number))  # (T, S, out)
        lower = layer.aad_lower(x).unflatten(0, (-1, number))  # (T, S, ranks)
        for side, (start, rank) in self.starts.items():
            place = self.order.index(side)
            update = getattr(layer, f"aad_{side}")(lower[:, place, start : start + rank].contiguous())
            if torch.compiler.is_compiling():
                # Fused into what reads it; an assignment to rows would be read twice there.
                out = out + pad(update.unsqueeze(1), (0, 0, place, number - 1 - place))
            else:
                out[:, place] += update
        return out.flatten(0, 1)


class _InOnePass(_Sides):
    """A below W in one matrix; B added by an operator that writes what the product's reader wants.

    Attributes:
        gated: whether the reader is SiLU of the first shard times the second, which the operator then does.
    """

    def __init__(self, layer: Any, sides: Mapping[str, _LowRank]) -> None:
        super().__init__(layer, sides)
        self.gated = False
        self.widths = [len(upper) for upper in next(iter(sides.values())).uppers]
        lower = torch.cat([_rows_filled(one) for one in sides.values()])
        weight, outputs = layer.weight, sum(self.widths)
        self.whole = weight.new_zeros(outputs + _filled(len(lower), _WHOLE_LINES), weight.shape[1])
        self.whole[outputs : outputs + len(lower)] = lower
        weight.data = self.whole[:outputs]  # vLLM's loaders fill what is theirs

    @staticmethod
    def takes(sides: Mapping[str, _LowRank]) -> bool:
        """Whether the operators are made for these sizes."""
        widths = [len(upper) for upper in next(iter(sides.values())).uppers]
        small = all(_power(one.rank) <= LARGEST_RANK for one in sides.values())
        return small and len(widths) <= 3 and columns_per_block(widths) >= 16

    def complete(self, layer: Any) -> None:
        """Make the layer's weight the whole matrix; add B and the whole matrix's bias."""
        layer.weight.data = self.whole
        own = getattr(layer, "bias", None)
        bias = None if own is None else pad(own.data, (0, len(self.whole) - len(own)))
        layer.register_buffer("aad_bias", bias, persistent=False)
        del self.whole
        for side in _SIDES:
            upper = None
            if side in self.sides:
                one = self.sides[side]
                upper = pad(torch.cat(one.uppers), (0, _power(one.rank) - one.rank)).t().contiguous()  # (R, out)
            layer.register_buffer(f"aad_{side}", upper, persistent=False)
        self.sides.clear()

    def apply(self, layer: Any, x: Tensor, bias: Tensor | None = None) -> Any:
        """Return (2T, out) for (2T, in), (2T, out / 2) where ``gated``, or `Shards` of queries, keys and values."""
        wide = self.own.apply(layer, x, None if bias is None else layer.aad_bias)  # (2T, out + ranks)
        if self.gated:
            return gate_low_rank(wide, layer.aad_policy, layer.aad_reference)
        parts = add_low_rank(wide, layer.aad_policy, layer.aad_reference, self.widths)
        if len(parts) == 1:
            return parts[0]
        return Shards(parts) if isinstance(layer, QKVParallelLinear) else torch.cat(parts, dim=1)


class Shards:
    """Several tensors where a model expects one that it splits into them: what lies apart needs no copy."""

    def __init__(self, parts: list[Tensor]) -> None:
        self.parts = parts

    def split(self, sizes: list[int], dim: int = -1) -> list[Tensor]:
        """Return the parts; a model splits as the checkpoint's shards are."""
        return self.parts


def _rows_filled(one: _LowRank) -> Tensor:
    """A of each shard filled up with rows of zeros to a power of two."""
    rows = one.lower.unflatten(0, (-1, one.rank))  # (S, R, in)
    return pad(rows, (0, 0, 0, _power(one.rank) - one.rank)).flatten(0, 1)


def _power(rank: int) -> int:
    return max(SMALLEST_RANK, 1 << (rank - 1).bit_length())


def _filled(rank: int, whole: int = _ALIGNED) -> int:
    return -(-rank // whole) * whole


def _layer(weight: Tensor) -> nn.Module:
    """A linear layer of vLLM with this (out, in) weight."""
    outer, inner = weight.shape
    layer: Any = ReplicatedLinear(
        inner, outer, bias=False, params_dtype=weight.dtype, return_bias=False, disable_tp=True
    )
    layer.weight.data.copy_(weight)
    return layer.to(weight.device)


def _by_layer(model: nn.Module, adapter: str) -> dict[str, tuple[Any, dict[Any, tuple[Tensor, Tensor]]]]:
    """Return per adapted layer of vLLM's its module and, by shard, (A, scaling · B) in float32."""
    places = _places(model)
    found: dict[str, tuple[Any, dict[Any, tuple[Tensor, Tensor]]]] = {}
    for name, weights in _read(model, adapter, {name.rsplit(".", 1)[-1] for name in places}):
        if name not in places:
            raise ConfigError(f"adapter {adapter} adapts {name}, which is no linear layer of this model: {REMEDY}")
        own, layer, shard = places[name]
        found.setdefault(own, (layer, {}))[1][shard] = weights
    return found


def _places(model: nn.Module) -> dict[str, tuple[str, Any, Any]]:
    """Return, by a checkpoint's name of a linear layer, vLLM's name, the layer, and which shard of a fused one it is."""
    packed = get_packed_modules_mapping(model)
    found: dict[str, tuple[str, Any, Any]] = {}
    for name, layer in model.named_modules():
        if not isinstance(layer, LinearBase):
            continue
        parent, _, own = name.rpartition(".")
        parts = packed.get(own, [])
        shards = "qkv" if isinstance(layer, QKVParallelLinear) else range(len(parts))
        if len(parts) > 1 and isinstance(layer, (QKVParallelLinear, MergedColumnParallelLinear)):
            found |= {f"{parent}.{part}": (name, layer, shard) for part, shard in zip(parts, shards, strict=True)}
        else:
            found[name] = (name, layer, None)
    return found


def _read(model: nn.Module, adapter: str, expected: set[str]) -> Iterator[tuple[str, tuple[Tensor, Tensor]]]:
    """Every adapted module of the checkpoint with its matrices, as vLLM's own LoRA reads them."""
    folder = get_adapter_absolute_path(adapter)
    mapper = getattr(model, "hf_to_vllm_mapper", None)
    try:
        helper = PEFTHelper.from_local_dir(folder, None)
        if wrong := helper._validate_features():
            raise ValueError(" ".join(wrong))
        lora = LoRAModel.from_local_checkpoint(
            folder, expected, helper, device="cpu", dtype=torch.float32,
            weights_mapper=mapper.get_rename_mapper() if mapper else None,
        )  # fmt: skip
        for weights in lora.loras.values():
            weights.optimize()
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as e:
        reason = " ".join(str(e).split())[:300]
        raise ConfigError(f"adapter {adapter} cannot share its base on vLLM ({reason}): {REMEDY}") from e
    for name, weights in lora.loras.items():
        yield name, (weights.lora_a, weights.lora_b)


def _low_rank(layer: Any, parts: dict[Any, tuple[Tensor, Tensor]]) -> _LowRank:
    """Return a layer's adapter on this rank, shards that have none or a smaller rank filled up with zeros.

    The layer's own loader cuts the matrices: B over its outputs as it cuts W, A over its inputs where W is cut there.
    """
    rows = isinstance(layer, RowParallelLinear)
    inner = layer.input_size_per_partition if rows else layer.input_size
    widths = [layer.output_size] if rows else getattr(layer, "output_partition_sizes", [layer.output_size])
    names = "qkv" if isinstance(layer, QKVParallelLinear) else range(len(widths)) if len(widths) > 1 else [None]
    rank = max(len(lower) for lower, _ in parts.values())
    lowers, uppers = [], []
    for place, shard in enumerate(names):
        lower, upper = parts.get(shard, (torch.zeros(rank, inner), torch.zeros(widths[place], rank)))
        if shard in parts and rows:
            lower = _cut(layer, lower, (len(lower), inner))
        elif shard in parts:
            upper = _cut(layer, upper, (sum(widths), len(lower)), shard).split(widths)[place]
        lowers.append(pad(lower, (0, 0, 0, rank - len(lower))))
        uppers.append(pad(upper, (0, rank - upper.shape[1])))
    dtype, device = layer.params_dtype, layer.weight.device
    return _LowRank(torch.cat(lowers).to(device, dtype), [upper.to(device, dtype) for upper in uppers])


def _cut(layer: Any, whole: Tensor, shape: tuple[int, int], shard: Any = None) -> Tensor:
    loader = getattr(layer, "weight_loader_v2", None)
    if loader is None:  # the same on every rank
        return whole
    part = ModelWeightParameter(
        data=torch.zeros(shape, dtype=whole.dtype), input_dim=1, output_dim=0, weight_loader=loader
    )
    loader(part, whole, *([] if shard is None else [shard]))
    return part.data
