"""LoRA inside vLLM's own linear layers, one adapter for each half of a batch.

vLLM reads the adapters (its reader knows which kinds it understands) and its layers cut the matrices over ranks as they
cut their own weights. What is added here is the product

    y = W x;   y[rows of a half] += scaling · B (A x[rows of that half])

Knows nothing of attention, caches or scores.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import pad
from vllm.lora.lora_model import LoRAModel
from vllm.lora.peft_helper import PEFTHelper
from vllm.lora.utils import get_adapter_absolute_path
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

from aad_plugin.engine.checks import REMEDY
from aad_plugin.errors import ConfigError

_ALIGNED = 32  # ranks are filled up with zeros: small products of vLLM on CPU, and tensor cores, want whole tiles


def adapt(model: nn.Module, adapters: Mapping[str, str]) -> None:
    """Let the halves of every batch go through adapters; called before vLLM prepares the weights for its kernels.

    Args:
        model: a vLLM causal LM, changed in place.
        adapters: folder or hub id of a LoRA for "policy", the first half of the rows, for "reference", the second, or both.
    Raises:
        ConfigError: an adapter is of a kind that vLLM does not read, or adapts what is no linear layer.
    """
    for side, adapter in adapters.items():
        for layer, shards in _by_layer(model, adapter).values():
            if not isinstance(layer.quant_method, _HalvesMethod):
                layer.quant_method = _HalvesMethod(layer.quant_method)
            setattr(layer, f"aad_{side}", _low_rank(*_matrices(layer, shards)))


class _HalvesMethod(LinearMethodBase):
    """A layer's own product for all rows, and each half's update. Args: the layer's own method."""

    def __init__(self, own: Any) -> None:
        self.own = own

    def create_weights(self, *args: Any, **kwargs: Any) -> None:
        self.own.create_weights(*args, **kwargs)

    def process_weights_after_loading(self, layer: nn.Module) -> None:
        self.own.process_weights_after_loading(layer)

    def apply(self, layer: Any, x: Tensor, bias: Tensor | None = None) -> Tensor:
        """Return (2T, out) for (2T, in)."""
        out = self.own.apply(layer, x, bias)
        half = len(x) // 2
        halves = (("policy", slice(None, half), (0, 0, 0, half)), ("reference", slice(half, None), (0, 0, half, 0)))
        for side, rows, padding in halves:
            update = getattr(layer, f"aad_{side}", None)
            if update is None:
                continue
            if torch.compiler.is_compiling():
                # Fused into what reads it; an assignment to rows would be read twice there.
                out = out + pad(update(x[rows]), padding)
            else:
                out[rows] += update(x[rows])
        return out


def _low_rank(lower: Tensor, upper: Tensor) -> nn.Module:
    """x -> B A x for A (R, in) and B (out, R) of this rank, B scaled: two of vLLM's own linear layers, so that each
    platform multiplies as it does best."""
    rank = -(-len(lower) // _ALIGNED) * _ALIGNED
    return nn.Sequential(_layer(lower, (rank, lower.shape[1])), _layer(upper, (len(upper), rank)))


def _layer(weight: Tensor, shape: tuple[int, int]) -> nn.Module:
    """A linear layer of vLLM with these weights, filled up with zeros."""
    outer, inner = shape
    layer: Any = ReplicatedLinear(
        inner, outer, bias=False, params_dtype=weight.dtype, return_bias=False, disable_tp=True
    )
    layer.weight.data.zero_()[: weight.shape[0], : weight.shape[1]] = weight
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


def _matrices(layer: Any, parts: dict[Any, tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
    """Return A (R, in) and B (out, R) of this rank, in the layer's dtype; a fused layer's shards one after the other.

    The layer's own loader cuts them: B over its outputs as it cuts W, A over its inputs where W is cut there.
    """
    dtype, device = layer.params_dtype, next(layer.parameters()).device
    inner, outer = layer.input_size, layer.output_size
    if isinstance(layer, RowParallelLinear):
        inner = layer.input_size_per_partition
    else:
        outer = getattr(layer, "output_size_per_partition", outer)
    lowers, uppers = [], []
    for shard, (lower, upper) in parts.items():
        rank = len(lower)
        if isinstance(layer, RowParallelLinear):
            lowers.append(_cut(layer, lower, (rank, inner)))
            uppers.append(upper)
        else:
            lowers.append(lower)
            uppers.append(_cut(layer, upper, (outer, rank), shard))
    return torch.cat(lowers).to(device, dtype), torch.cat(uppers, dim=1).to(device, dtype)


def _cut(layer: Any, whole: Tensor, shape: tuple[int, int], shard: Any = None) -> Tensor:
    loader = getattr(layer, "weight_loader_v2", None)
    if loader is None:  # the same on every rank
        return whole
    part = ModelWeightParameter(
        data=torch.zeros(shape, dtype=whole.dtype), input_dim=1, output_dim=0, weight_loader=loader
    )
    loader(part, whole, *([] if shard is None else [shard]))
    return part.data
