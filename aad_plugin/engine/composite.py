"""A policy, its reference and its guides as one vLLM model whose logits are decoded scores.

All are vLLM's own model classes with KV caches of their own under one block table, so paged attention, chunked
prefill, prefix caching and preemption keep them in step. Entered by

    hf_overrides = {"architectures": ["AADForCausalLM"], "aad": {"reference": PATH, "strategy": "aad", "alpha": 0.1}}

with the policy as the model and the reference's checkpoint as secondary weights; or, where the base is the model, by
{"adapter": PATH} or {"adapter": PATH, "reference_adapter": PATH}: both sides then share the base's weights. Guides are
further checkpoints, or further adapters of a base that is shared (`aad_plugin.engine.guided`).

Knows nothing of requests: `rows`, set by what the runner allows, says which row wants which strategy.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoConfig
from vllm.compilation.backends import set_model_tag
from vllm.config import VllmConfig
from vllm.lora.utils import get_adapter_absolute_path
from vllm.model_executor.model_loader import get_model_loader
from vllm.model_executor.model_loader.default_loader import DefaultModelLoader
from vllm.model_executor.model_loader.dummy_loader import DummyModelLoader
from vllm.model_executor.models.utils import (
    AutoWeightsLoader,
    WeightsMapper,
    init_vllm_registered_model,
    maybe_prefix,
)

from aad_plugin.engine.adapters import adapt, complete, fuses
from aad_plugin.engine.checks import check_context, check_engine, check_parts, check_window
from aad_plugin.engine.guided import further_checkpoints, guide_roles, shared_sides
from aad_plugin.engine.heads import Head, read_sides
from aad_plugin.engine.one_base import AllSides, as_wide, widen_attention
from aad_plugin.engine.requests import Held
from aad_plugin.engine.row_scores import Cast, Room, score_rows, warm
from aad_plugin.engine.rows import Rows
from aad_plugin.errors import ConfigError
from aad_plugin.files.marks import checkpoint_mark
from aad_plugin.settings import TOKEN_SETTINGS, DecodingSettings

_OVERRIDE = "aad"
_PAIR = ("policy", "reference")


class AADForCausalLM(nn.Module):
    """The composite. Args as vLLM gives them; everything of ours stands in ``hf_config.aad``.

    Raises:
        ConfigError, VocabMismatch: the parts, or the engine's options, do not fit.

    Attributes:
        policy: the model that vLLM loads first, whose base other sides may share; further checkpoints are attributes named
            by their role: reference, guide1, guide1_reference …
    """

    policy: Any
    # Checkpoint names of the policy arrive as they are, those of others with the prefix of their source.
    hf_to_vllm_mapper = WeightsMapper(
        orig_to_new_regex={re.compile(r"^(?!policy\.|reference\.|guide\d+\.|guide\d+_reference\.)"): "policy."}
    )

    def __init__(self, *, vllm_config: VllmConfig, prefix: str = "") -> None:
        super().__init__()
        model_config = vllm_config.model_config
        own = dict(getattr(model_config.hf_config, _OVERRIDE, None) or {})
        check_engine(vllm_config, own)
        self.held = Held.by(own)
        self.default = self.held.default.override(**{name: own.get(name) for name in ("strategy", *TOKEN_SETTINGS)})
        self.held.check(self.default)
        self.room = Room()
        self.rows = Rows(self)  # until a runner's own take their place
        self.loaded = self.warm = False
        self.sides = shared_sides(own)
        further = further_checkpoints(own)
        if further:
            _check_loader(vllm_config.load_config)
        configs = _configs(model_config, further, own)
        vocab_size, shared = check_parts(configs, own)
        self.cast = Cast(guide_roles(own), shared, vocab_size)
        build = self._share if self.sides else self._hold
        build(vllm_config, configs["policy"], maybe_prefix(prefix, "policy"))
        for role in further:
            check_context(role, configs[role], model_config.max_model_len)
            check_window(role, configs[role], vllm_config.cache_config.sliding_window, model_config.max_model_len)
            with set_model_tag(f"aad_{role}"):
                self.add_module(role, _part(vllm_config, configs[role], maybe_prefix(prefix, role)))
            self.heads[role] = Head(self.get_submodule(role))
            self.widths.append(configs[role].get_text_config().hidden_size)
        self.further = tuple(further)
        self.secondary_weights = [
            DefaultModelLoader.Source(path, revision, prefix=f"{role}.") for role, (path, revision) in further.items()
        ]

    def _hold(self, vllm_config: VllmConfig, config: Any, prefix: str) -> None:
        """The policy as a model of its own."""
        self.policy = _part(vllm_config, config, prefix)
        self.heads = {"policy": Head(self.policy)}
        self.widths = [config.get_text_config().hidden_size]

    def _share(self, vllm_config: VllmConfig, config: Any, prefix: str) -> None:
        """One base, read once for all sides."""
        # Part of the compile cache's key, which knows nothing of the adapters' shapes.
        config.aad_adapters = [
            [side, checkpoint_mark(get_adapter_absolute_path(path)) if path else None]
            for side, path in self.sides.items()
        ]
        number = len(self.sides)
        self.policy = _part(as_wide(vllm_config, number), config, prefix)
        adapt(self.policy, self.sides, fuses(vllm_config))
        widen_attention(self.policy, vllm_config.compilation_config.static_forward_context, prefix, number)
        self.all_sides = AllSides(self.policy, number)
        self.heads = {side: Head(self.policy) for side in self.sides}
        self.widths = [number * config.get_text_config().hidden_size]

    def embed_input_ids(self, input_ids: Tensor) -> Tensor:
        """Embeddings of the policy; other models always read token ids."""
        return self.policy.embed_input_ids(input_ids)

    def forward(
        self,
        input_ids: Tensor,
        positions: Tensor,
        intermediate_tensors: Any = None,
        inputs_embeds: Tensor | None = None,
        **unused: Any,
    ) -> Tensor:
        """Return (T, sum of all sides' widths) hidden states: vLLM's runners carry one tensor."""
        if self.sides:
            found = [self.all_sides(input_ids, positions)]
        else:
            found = [self.policy(input_ids, positions, None, inputs_embeds)]
        for role in self.further:
            # Piecewise CUDA graphs reuse one module's output buffer while the next one runs (vllm PR 22282).
            found[-1] = found[-1].clone()
            found.append(self.get_submodule(role)(input_ids, positions, None, None))
        return torch.cat(found, dim=-1) if self.further else found[0]

    def compute_logits(self, hidden_states: Tensor) -> Tensor | None:
        """Return (R, V) scores, each row by its request's strategy, float32 where any row reads several models.

        None on ranks that gather no logits.
        """
        settings = self.rows(len(hidden_states)) or [self.default] * len(hidden_states)
        self._read(hidden_states, settings)
        if not self.warm and hidden_states.is_cuda:
            self.warm = True
            both = [self.heads[role].whole() for role in _PAIR if role in self.heads]
            if len(both) == 2 and both[0] is not None and both[1] is not None:
                warm(both[0][:, : self.cast.shared], both[1][:, : self.cast.shared])
        scores = score_rows(self.heads, settings, self.cast, self.room)
        if scores is None:
            return None
        self.rows.scored(scores, settings)
        return scores

    def _read(self, hidden_states: Tensor, settings: list[DecodingSettings]) -> None:
        """Give every head its rows of the step."""
        own, *others = hidden_states.split(self.widths, dim=-1)
        if self.sides:
            heads = {role: self.heads[role] for role in self.sides}
            read_sides(heads, own, () if self.heads["policy"].on_demand else self.cast.needed(settings))
        else:
            self.heads["policy"].read(own)
        for role, hidden in zip(self.further, others, strict=True):
            self.heads[role].read(hidden)

    def get_model_state_cls(self) -> type:
        """What vLLM's second model runner tells of requests and batches."""
        from aad_plugin.engine.model_state import PairState

        return PairState

    def load_weights(self, weights: Iterable[tuple[str, Tensor]]) -> set[str]:
        """Load checkpoints and adapters; vLLM refuses a parameter that no checkpoint fills.

        Raises:
            ConfigError: adapters were loaded before, and compiled code holds them.
        """
        if self.sides and self.loaded:
            raise ConfigError("weights under adapters cannot be loaded again: start the engine anew")
        self.loaded = True
        loaded = AutoWeightsLoader(self).load_weights(weights, mapper=self.hf_to_vllm_mapper)
        if self.sides:
            complete(self.policy)
        return loaded


def _check_loader(load_config: Any) -> None:
    """Raise ConfigError for a load format that fills the first checkpoint's weights alone."""
    if not isinstance(get_model_loader(load_config), DefaultModelLoader | DummyModelLoader):
        raise ConfigError(
            f"load_format={load_config.load_format} reads one checkpoint, and of several the others would keep weights "
            "that nothing filled: leave it out (auto)"
        )


def _configs(
    model_config: Any, further: Mapping[str, tuple[str, str | None]], own: Mapping[str, Any]
) -> dict[str, Any]:
    """The parts' configurations; each says which part it is, or vLLM's compile cache takes one for the other."""
    trust = model_config.trust_remote_code
    checkpoint = AutoConfig.from_pretrained(model_config.model, revision=model_config.revision, trust_remote_code=trust)
    configs = {"policy": copy.deepcopy(model_config.hf_config)}
    configs["policy"].architectures = checkpoint.architectures
    for role, (path, revision) in further.items():
        configs[role] = AutoConfig.from_pretrained(path, revision=revision, trust_remote_code=trust)
    for role, config in configs.items():
        config.aad_role = role
        if own.get("head_dtype"):
            config.head_dtype = own["head_dtype"]
    return configs


def _part(vllm_config: VllmConfig, config: Any, prefix: str) -> nn.Module:
    return init_vllm_registered_model(
        vllm_config=vllm_config, hf_config=config, architectures=config.architectures, prefix=prefix
    )
