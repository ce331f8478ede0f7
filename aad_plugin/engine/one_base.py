"""Policy, reference and guides as one vLLM model: a base whose weights are held and read once, for a batch of S sides.

Every token stands in the batch S times, its policy's row before its reference's and those of guides. The rows go through
the same weights and differ in their adapters (`aad_plugin.engine.adapters`). In attention the rows of a token are one row
with S times the heads, so that one layer and one block table keep all sides' keys and values; since they lie side by side,
that is a view. A step that is bound by reading weights costs what the policy alone costs.
"""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn
from vllm.config import VllmConfig
from vllm.model_executor.layers.attention import Attention
from vllm.model_executor.layers.fused_moe import MoERunner
from vllm.v1.attention.backend import AttentionType

from aad_plugin.engine.checks import REMEDY
from aad_plugin.errors import ConfigError

# Others size their buffers by the model's heads, not the layer's.
_BACKENDS = ("CPU_ATTN", "FLASH_ATTN", "FLASHINFER", "TRITON_ATTN")


class AllSides:
    """Runs one model on all sides' rows.

    Args:
        model: a vLLM causal LM whose attention was widened for so many sides.
    """

    def __init__(self, model: Any, sides: int) -> None:
        self.model = model
        self.sides = sides
        self._kept: dict[str, Tensor] = {}

    def __call__(self, input_ids: Tensor, positions: Tensor) -> Tensor:
        """Return (T, S · H) hidden states, a token's sides side by side, for (T,) ids and positions."""
        hidden = self.model(self._repeated("ids", input_ids), self._repeated("positions", positions), None, None)
        return hidden.view(len(input_ids), self.sides * hidden.shape[1])  # (S · T, H) -> (T, S · H)

    def _repeated(self, name: str, x: Tensor) -> Tensor:
        """Return (S · T,), at one address whatever T: captured CUDA graphs read their inputs where they were."""
        length, rows = len(x), self.sides * len(x)
        kept = self._kept.get(name)
        if kept is None or len(kept) < rows or kept.dtype != x.dtype:
            kept = self._kept[name] = torch.empty(rows, dtype=x.dtype, device=x.device)
        kept[:rows].view(length, self.sides).copy_(x[:, None])  # (T,) -> (T, S): each once for every side
        return kept[:rows]


def as_wide(vllm_config: VllmConfig, sides: int) -> VllmConfig:
    """The configuration of a model that is compiled for S times a step's tokens; layers still register in one place."""
    changed = copy.copy(vllm_config)
    changed.compilation_config = compilation = copy.copy(vllm_config.compilation_config)
    if compilation.compile_ranges_endpoints:
        *small, largest = sorted(compilation.compile_ranges_endpoints)
        compilation.compile_ranges_endpoints = [*small, sides * largest]
    return changed


def widen_attention(model: nn.Module, layers: dict[str, Any], prefix: str, sides: int) -> None:
    """Let every attention layer take the S rows of a token as S times its heads.

    Args:
        model: built under ``prefix``, changed in place. layers: vLLM's register of layers that keep state.
    Raises:
        ConfigError: layers that keep state of another kind, or tell heads or tokens apart by their number.
    """
    for name, layer in layers.items():
        if name.startswith(f"{prefix}."):
            _check(name, layer)
    if any(isinstance(module, MoERunner) for module in model.modules()):
        raise ConfigError(f"experts cannot be shared by several sides of a batch: {REMEDY}")
    for parent in list(model.modules()):
        for attribute, layer in list(parent.named_children()):
            if isinstance(layer, Attention):
                setattr(parent, attribute, _WideAttention(layer, sides))


class _WideAttention(nn.Module):
    """An attention layer with the heads of all sides; whatever else is asked of it is the layer's own."""

    def __init__(self, layer: Attention, sides: int) -> None:
        super().__init__()
        for owner in (layer, layer.impl):  # vLLM sizes caches by the one and plans its kernels by the other
            owner.num_heads *= sides
            owner.num_kv_heads *= sides
        self.layer, self.sides = layer, sides

    def forward(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """Return (S · T, heads · size) for inputs of (S · T, …)."""
        # (S · T, heads · size) -> (T, S · heads · size): rows of one token lie side by side.
        # No width is inferred, as in `adapters`: it would be an expression in T, which grows with every layer.
        out = self.layer(*(x.unflatten(0, (-1, self.sides)).flatten(1) for x in (query, key, value)))
        return out.unflatten(1, (self.sides, out.shape[1] // self.sides)).flatten(0, 1)  # -> (S · T, heads · size)

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(self._modules["layer"], name)


def _check(name: str, layer: Any) -> None:
    if type(layer) is not Attention or layer.attn_type != AttentionType.DECODER:
        raise ConfigError(
            f"{name} ({type(layer).__name__}) is no plain attention, which several sides could share: {REMEDY}"
        )
    if layer.kv_sharing_target_layer_name is not None:
        raise ConfigError(f"{name} reads another layer's KV cache, which was not tried with several sides: {REMEDY}")
    if "fp8" in layer.kv_cache_dtype:
        raise ConfigError(f"a KV cache in {layer.kv_cache_dtype} was not tried with several sides: {REMEDY}")
    if layer.attn_backend.get_name() not in _BACKENDS:
        raise ConfigError(
            f"attention by {layer.attn_backend.get_name()} takes no more heads than its model has: {REMEDY}"
        )
    for word in ("alibi_slopes", "sinks"):
        if getattr(layer.impl, word, None) is not None:
            raise ConfigError(f"{name} has {word}, one for each head, which every side would need: {REMEDY}")
