"""Policy and reference as one vLLM model: a base whose weights are held and read once, for a batch of two sides.

Every token stands in the batch twice, its policy's row before its reference's. The rows go through the same weights and
differ in their adapters (`aad_plugin.engine.adapters`). In attention the two rows of a token are one row with twice the
heads, so that one layer and one block table keep both sides' keys and values; since they lie side by side, that is a view.
A step that is bound by reading weights costs what the policy alone costs.
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


class BothSides:
    """Runs one model on both sides' rows.

    Args:
        model: a vLLM causal LM whose attention was doubled.
    """

    def __init__(self, model: Any) -> None:
        self.model = model
        self._kept: dict[str, Tensor] = {}

    def __call__(self, input_ids: Tensor, positions: Tensor) -> Tensor:
        """Return (T, 2H) hidden states, the policy's and the reference's, for (T,) ids and positions."""
        hidden = self.model(self._twice("ids", input_ids), self._twice("positions", positions), None, None)
        return hidden.view(len(input_ids), 2 * hidden.shape[1])  # (2T, H) -> (T, 2H)

    def _twice(self, name: str, x: Tensor) -> Tensor:
        """Return (2T,), at one address whatever T: captured CUDA graphs read their inputs where they were."""
        length = len(x)
        kept = self._kept.get(name)
        if kept is None or len(kept) < 2 * length or kept.dtype != x.dtype:
            kept = self._kept[name] = torch.empty(2 * length, dtype=x.dtype, device=x.device)
        kept[: 2 * length].view(length, 2).copy_(x[:, None])  # (T,) -> (T, 2): each once for either side
        return kept[: 2 * length]


def twice_as_wide(vllm_config: VllmConfig) -> VllmConfig:
    """The configuration of a model that is compiled for twice the tokens of a step; layers still register in one place."""
    changed = copy.copy(vllm_config)
    changed.compilation_config = compilation = copy.copy(vllm_config.compilation_config)
    if compilation.compile_ranges_endpoints:
        *small, largest = sorted(compilation.compile_ranges_endpoints)
        compilation.compile_ranges_endpoints = [*small, 2 * largest]
    return changed


def double_attention(model: nn.Module, layers: dict[str, Any], prefix: str) -> None:
    """Let every attention layer take both rows of a token as twice its heads.

    Args:
        model: built under ``prefix``, changed in place. layers: vLLM's register of layers that keep state.
    Raises:
        ConfigError: layers that keep state of another kind, or tell heads or tokens apart by their number.
    """
    for name, layer in layers.items():
        if name.startswith(f"{prefix}."):
            _check(name, layer)
    if any(isinstance(module, MoERunner) for module in model.modules()):
        raise ConfigError(f"experts cannot be shared by two sides of a batch: {REMEDY}")
    for parent in list(model.modules()):
        for attribute, layer in list(parent.named_children()):
            if isinstance(layer, Attention):
                setattr(parent, attribute, _DoubledAttention(layer))


class _DoubledAttention(nn.Module):
    """An attention layer with the heads of both sides; whatever else is asked of it is the layer's own."""

    def __init__(self, layer: Attention) -> None:
        super().__init__()
        for owner in (layer, layer.impl):  # vLLM sizes caches by the one and plans its kernels by the other
            owner.num_heads *= 2
            owner.num_kv_heads *= 2
        self.layer = layer

    def forward(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """Return (2T, heads · size) for inputs of (2T, …)."""
        # (2T, heads · size) -> (T, 2 · heads · size): rows of one token lie side by side.
        # No width is inferred, as in `adapters`: it would be an expression in T, which grows with every layer.
        out = self.layer(*(x.unflatten(0, (-1, 2)).flatten(1) for x in (query, key, value)))
        return out.unflatten(1, (2, out.shape[1] // 2)).flatten(0, 1)  # (T, 2 · heads · size) -> (2T, heads · size)

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(self._modules["layer"], name)


def _check(name: str, layer: Any) -> None:
    if type(layer) is not Attention or layer.attn_type != AttentionType.DECODER:
        raise ConfigError(
            f"{name} ({type(layer).__name__}) is no plain attention, which two sides could share: {REMEDY}"
        )
    if layer.kv_sharing_target_layer_name is not None:
        raise ConfigError(f"{name} reads another layer's KV cache, which was not tried with two sides: {REMEDY}")
    if "fp8" in layer.kv_cache_dtype:
        raise ConfigError(f"a KV cache in {layer.kv_cache_dtype} was not tried with two sides: {REMEDY}")
    if layer.attn_backend.get_name() not in _BACKENDS:
        raise ConfigError(f"attention by {layer.attn_backend.get_name()} takes no doubled heads: {REMEDY}")
    for word in ("alibi_slopes", "sinks"):
        if getattr(layer.impl, word, None) is not None:
            raise ConfigError(f"{name} has {word}, one for each head, which two sides would need twice: {REMEDY}")
