"""A policy and its reference as one vLLM model whose logits are decoded scores.

Both are vLLM's own model classes with KV caches of their own under one block table, so paged attention, chunked
prefill, prefix caching and preemption keep them in step. Entered by

    hf_overrides = {"architectures": ["AADForCausalLM"], "aad": {"reference": PATH, "strategy": "aad", "alpha": 0.1}}

with the policy as the model and the reference's checkpoint as secondary weights; or, where the base is the model, by
{"adapter": PATH} or {"adapter": PATH, "reference_adapter": PATH}: both sides then share the base's weights.

Knows nothing of requests: `rows`, set by what the runner allows, says which row wants which strategy.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoConfig
from vllm.compilation.backends import set_model_tag
from vllm.config import VllmConfig
from vllm.lora.utils import get_adapter_absolute_path
from vllm.model_executor.model_loader.default_loader import DefaultModelLoader
from vllm.model_executor.models.utils import (
    AutoWeightsLoader,
    WeightsMapper,
    init_vllm_registered_model,
    maybe_prefix,
)

from aad_plugin.engine.adapters import adapt, complete, fuses
from aad_plugin.engine.checks import check_context, check_engine, check_parts
from aad_plugin.engine.heads import Head, read_both
from aad_plugin.engine.one_base import BothSides, double_attention, twice_as_wide
from aad_plugin.engine.row_scores import Room, reads_both, score_rows, warm
from aad_plugin.engine.rows import Rows
from aad_plugin.errors import ConfigError
from aad_plugin.files.marks import checkpoint_mark
from aad_plugin.settings import DecodingSettings

_OVERRIDE = "aad"
_ADAPTERS = {"policy": "adapter", "reference": "reference_adapter"}


class AADForCausalLM(nn.Module):
    """The composite. Args as vLLM gives them; everything of ours stands in ``hf_config.aad``.

    Raises:
        ConfigError, VocabMismatch: the two parts, or the engine's options, do not fit.
    """

    policy: Any
    reference: Any  # None where both sides share the policy's base
    # Checkpoint names of the policy arrive as they are, those of the reference with the prefix of their source.
    hf_to_vllm_mapper = WeightsMapper(orig_to_new_regex={re.compile(r"^(?!reference\.|policy\.)"): "policy."})

    def __init__(self, *, vllm_config: VllmConfig, prefix: str = "") -> None:
        super().__init__()
        model_config = vllm_config.model_config
        own = dict(getattr(model_config.hf_config, _OVERRIDE, None) or {})
        check_engine(vllm_config, own)
        self.default = DecodingSettings(
            **{name: own[name] for name in ("strategy", "alpha", "eft_scale") if name in own}
        )
        self.room = Room()
        self.rows = Rows(self)  # until a runner's own take their place
        self.adapters = {side: own[name] for side, name in _ADAPTERS.items() if own.get(name)}
        self.loaded = self.warm = False
        build = self._share if self.adapters else self._join
        build(vllm_config, own, prefix)

    def _join(self, vllm_config: VllmConfig, own: dict[str, Any], prefix: str) -> None:
        """Two checkpoints, each read by a model of its own."""
        configs = _configs(vllm_config.model_config, own)
        self.vocab_size, self.shared = check_parts(configs["policy"], configs["reference"], own)
        check_context(configs["reference"], vllm_config.model_config.max_model_len)
        self.policy = _part(vllm_config, configs["policy"], maybe_prefix(prefix, "policy"))
        with set_model_tag("aad_reference"):
            self.reference = _part(vllm_config, configs["reference"], maybe_prefix(prefix, "reference"))
        self.heads = Head(self.policy), Head(self.reference)
        self.widths = [config.hidden_size for config in configs.values()]
        self.secondary_weights = [
            DefaultModelLoader.Source(own["reference"], own.get("reference_revision"), prefix="reference.")
        ]

    def _share(self, vllm_config: VllmConfig, own: dict[str, Any], prefix: str) -> None:
        """One base, read once for both sides."""
        config = _configs(vllm_config.model_config, own)["policy"]
        # Part of the compile cache's key, which knows nothing of the adapters' shapes.
        folders = [get_adapter_absolute_path(adapter) for adapter in self.adapters.values()]
        config.aad_adapters = [checkpoint_mark(folder) for folder in folders]
        self.vocab_size, self.shared = check_parts(config, config, own)
        prefix = maybe_prefix(prefix, "policy")
        self.policy, self.reference = _part(twice_as_wide(vllm_config), config, prefix), None
        adapt(self.policy, self.adapters, fuses(vllm_config))
        double_attention(self.policy, vllm_config.compilation_config.static_forward_context, prefix)
        self.both_sides = BothSides(self.policy)
        self.heads = Head(self.policy), Head(self.policy)

    def embed_input_ids(self, input_ids: Tensor) -> Tensor:
        """Embeddings of the policy; the reference always reads token ids."""
        return self.policy.embed_input_ids(input_ids)

    def forward(
        self,
        input_ids: Tensor,
        positions: Tensor,
        intermediate_tensors: Any = None,
        inputs_embeds: Tensor | None = None,
        **unused: Any,
    ) -> Tensor:
        """Return (T, H_policy + H_reference) hidden states: vLLM's runners carry one tensor."""
        if self.adapters:
            return self.both_sides(input_ids, positions)
        # Piecewise CUDA graphs reuse the first module's output buffer while the second runs (vllm PR 22282).
        policy = self.policy(input_ids, positions, None, inputs_embeds).clone()
        return torch.cat([policy, self.reference(input_ids, positions, None, None)], dim=-1)

    def compute_logits(self, hidden_states: Tensor) -> Tensor | None:
        """Return (R, V) scores, each row by its request's strategy, float32 where any row is decoded by a pair.

        None on ranks that gather no logits.
        """
        settings = self.rows(len(hidden_states)) or [self.default] * len(hidden_states)
        if self.adapters:
            read_both(self.heads, hidden_states, not self.heads[0].on_demand and reads_both(settings))
        else:
            for head, hidden in zip(self.heads, hidden_states.split(self.widths, dim=-1), strict=True):
                head.read(hidden)
        if not self.warm and hidden_states.is_cuda:
            self.warm = True
            both = [head.whole() for head in self.heads]
            if both[0] is not None and both[1] is not None:
                warm(both[0][:, : self.shared], both[1][:, : self.shared])
        scores = score_rows(*self.heads, settings, self.shared, self.vocab_size, self.room)
        if scores is None:
            return None
        self.rows.scored(scores, settings)
        return scores

    def get_model_state_cls(self) -> type:
        """What vLLM's second model runner tells of requests and batches."""
        from aad_plugin.engine.model_state import PairState

        return PairState

    def load_weights(self, weights: Iterable[tuple[str, Tensor]]) -> set[str]:
        """Load checkpoints and adapters; vLLM refuses a parameter that no checkpoint fills.

        Raises:
            ConfigError: adapters were loaded before, and compiled code holds them.
        """
        if self.adapters and self.loaded:
            raise ConfigError("weights under adapters cannot be loaded again: start the engine anew")
        self.loaded = True
        loaded = AutoWeightsLoader(self).load_weights(weights, mapper=self.hf_to_vllm_mapper)
        if self.adapters:
            complete(self.policy)
        return loaded


def _configs(model_config: Any, own: dict[str, Any]) -> dict[str, Any]:
    """The parts' configurations; each says which part it is, or vLLM's compile cache takes one for the other."""
    checkpoint = AutoConfig.from_pretrained(
        model_config.model, revision=model_config.revision, trust_remote_code=model_config.trust_remote_code
    )
    policy = copy.deepcopy(model_config.hf_config)
    policy.architectures = checkpoint.architectures
    configs = {"policy": policy}
    if own.get("reference"):
        configs["reference"] = AutoConfig.from_pretrained(
            own["reference"], revision=own.get("reference_revision"), trust_remote_code=model_config.trust_remote_code
        )
    for role, config in configs.items():
        config.aad_role = role
        if own.get("head_dtype"):
            config.head_dtype = own["head_dtype"]
    return configs


def _part(vllm_config: VllmConfig, config: Any, prefix: str) -> nn.Module:
    return init_vllm_registered_model(
        vllm_config=vllm_config, hf_config=config, architectures=config.architectures, prefix=prefix
    )
