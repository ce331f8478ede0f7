"""Policy and reference as one vLLM model: a base whose weights are held and read once, for a batch of two halves.

Every token stands in the batch twice, once for each side. The halves go through the same weights and differ in their
adapters (`aad_plugin.engine.adapters`) and in their attention, where each has a KV cache of its own under the same block
table. A step that is bound by reading weights costs what the policy alone costs.
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

from aad_plugin.errors import ConfigError

__all__ = ["Halves", "split_attention", "twice_as_wide"]

_REMEDY = "pass merge_adapters=true, which holds both sides whole"


class Halves:
    """Runs one model on both halves.

    Args:
        model: a vLLM causal LM whose attention was split.
    """

    def __init__(self, model: Any) -> None:
        self.model = model
        self._kept: dict[str, Tensor] = {}

    def __call__(self, input_ids: Tensor, positions: Tensor) -> Tensor:
        """Return (T, 2H) hidden states, the policy's and the reference's, for (T,) ids and positions."""
        hidden = self.model(self._twice("ids", input_ids), self._twice("positions", positions), None, None)
        return torch.cat(hidden.chunk(2), dim=-1)

    def _twice(self, name: str, x: Tensor) -> Tensor:
        """Return (2T,), at one address whatever T: captured CUDA graphs read their inputs where they were."""
        length = len(x)
        kept = self._kept.get(name)
        if kept is None or len(kept) < 2 * length or kept.dtype != x.dtype:
            kept = self._kept[name] = torch.empty(2 * length, dtype=x.dtype, device=x.device)
        kept[:length].copy_(x)
        kept[length : 2 * length].copy_(x)
        return kept[: 2 * length]


def twice_as_wide(vllm_config: VllmConfig) -> VllmConfig:
    """The configuration of a model that is compiled for twice the tokens of a step; layers still register in one place."""
    changed = copy.copy(vllm_config)
    changed.compilation_config = compilation = copy.copy(vllm_config.compilation_config)
    if compilation.compile_ranges_endpoints:
        *small, largest = sorted(compilation.compile_ranges_endpoints)
        compilation.compile_ranges_endpoints = [*small, 2 * largest]
    return changed


def split_attention(model: nn.Module, vllm_config: VllmConfig, policy_prefix: str, reference_prefix: str) -> None:
    """Give every attention layer a twin with a KV cache of its own, for the second half of the rows.

    Args:
        model: built under ``policy_prefix``, changed in place; its twins register under ``reference_prefix``.
    Raises:
        ConfigError: layers that keep state of another kind, or tell tokens apart by their number.
    """
    layers = vllm_config.compilation_config.static_forward_context
    own = {name: layer for name, layer in layers.items() if name.startswith(f"{policy_prefix}.")}
    for name, layer in own.items():
        _check(name, layer)
    if any(isinstance(module, MoERunner) for module in model.modules()):
        raise ConfigError(f"experts cannot be shared by two halves of a batch: {_REMEDY}")
    for parent in list(model.modules()):
        for attribute, layer in list(parent.named_children()):
            if isinstance(layer, Attention):
                name = reference_prefix + layer.layer_name.removeprefix(policy_prefix)
                layers[name] = twin = _twin(layer, name)
                setattr(parent, attribute, _HalvesAttention(layer, twin))


class _HalvesAttention(nn.Module):
    """Two attention layers, each for its half of the rows; whatever else is asked of it is the policy's."""

    def __init__(self, policy: Attention, reference: Attention) -> None:
        super().__init__()
        self.policy = policy
        self.reference = reference

    def forward(self, query: Tensor, key: Tensor, value: Tensor, **options: Any) -> Tensor:
        """Return (2T, heads · size) for (2T, …) inputs."""
        halves = zip((self.policy, self.reference), query.chunk(2), key.chunk(2), value.chunk(2), strict=True)
        return torch.cat([layer(*rows, **options) for layer, *rows in halves])

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(self._modules["policy"], name)


def _twin(layer: Attention, name: str) -> Attention:
    """The same layer by another name: it computes the same and writes into a cache of its own."""
    twin = copy.copy(layer)
    for held in ("_parameters", "_buffers", "_modules"):
        setattr(twin, held, dict(getattr(layer, held)))
    twin.layer_name = name
    twin.kv_cache = torch.tensor([])
    return twin


def _check(name: str, layer: Any) -> None:
    if not isinstance(layer, Attention) or layer.attn_type != AttentionType.DECODER:
        raise ConfigError(
            f"{name} ({type(layer).__name__}) is no plain attention, which two halves could share: {_REMEDY}"
        )
    if layer.kv_sharing_target_layer_name is not None:
        raise ConfigError(f"{name} reads another layer's KV cache, which two halves cannot share: {_REMEDY}")
    if "fp8" in layer.kv_cache_dtype:
        raise ConfigError(f"a KV cache in {layer.kv_cache_dtype} has scales of one side only: {_REMEDY}")
