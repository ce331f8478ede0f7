"""What a pair inside vLLM cannot do is refused when the engine starts, with the reason."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from typing import Any

from aad_plugin.engine.guided import check_roles, further_checkpoints
from aad_plugin.engine.row_scores import STRATEGIES
from aad_plugin.errors import ConfigError, VocabMismatch, nearest
from aad_plugin.settings import TOKEN_SETTINGS
from aad_plugin.sources.merging import SHARED_TYPES
from aad_plugin.sources.processors import sees
from aad_plugin.texts.rendering import known_context

# Ends every refusal of a shared base.
REMEDY = "merge the adapter (model_arg merge_adapters=true, or a checkpoint beside 'reference')"
# Read token ids only.
_DRAFTS = ("ngram", "draft_model", "suffix")
_LOSSLESS = ("standard", "block")
_LOAD_FORMATS = ("auto", "hf", "safetensors", "pt", "dummy")

_OF_A_PAIR = ("architectures", "aad")  # the keys of hf_overrides that make a model a pair
_OWN = (
    "reference", "reference_revision", "adapter", "reference_adapter", "guides", "guide_checkpoints", "guide_adapters",
    "strategy", *TOKEN_SETTINGS, "head_dtype", "shared_vocab_size",
)  # fmt: skip


def check_engine(vllm_config: Any, own: Mapping[str, Any]) -> None:
    """Raise ConfigError for options of the engine that a pair cannot have, or of ours that do not exist."""
    for name in own:
        if name not in _OWN:
            raise ConfigError(f"unknown key {name!r} in hf_overrides['aad']{nearest(name, _OWN)}")
    sides = bool(own.get("reference")) + bool(own.get("adapter"))
    if sides > 1 or (not sides and not own.get("guides")):
        raise ConfigError(
            'hf_overrides needs {"aad": {"reference": "<the SFT checkpoint>"}} beside the policy as the model, or '
            '{"aad": {"adapter": "<the DPO LoRA>"}} beside its base: AAD compares a policy with its reference'
        )
    check_roles(own)
    if own.get("strategy", "aad") not in STRATEGIES:
        raise ConfigError(
            f"strategy must be one of {', '.join(STRATEGIES)} on vLLM, got {own['strategy']!r}"
            + nearest(str(own["strategy"]), STRATEGIES)
        )
    if own.get("adapter"):
        _check_shared(vllm_config, own)
    refuse_overrides(getattr(vllm_config.model_config, "hf_overrides", None), own)
    if vllm_config.model_config.enable_prompt_embeds:
        raise ConfigError("a pair reads token ids: prompt embeddings would be one model's")
    parallel, speculative = vllm_config.parallel_config, getattr(vllm_config, "speculative_config", None)
    if parallel.pipeline_parallel_size > 1:
        raise ConfigError("a pair runs with tensor or data parallelism, not with pipeline_parallel_size > 1")
    if speculative is not None:
        check_drafts(vars(speculative))
    if vllm_config.lora_config is not None:
        raise ConfigError("enable_lora serves adapters of one model; name a pair's own as {'aad': {'adapter': …}}")
    config = getattr(vllm_config.model_config, "hf_config", None)
    if vllm_config.model_config.is_multimodal_model or sees(config):
        raise ConfigError(
            "a pair that sees runs on transformers (--model aad-multimodal, aad generate --image): the pair in vLLM hands "
            "its models token ids alone, without pictures' embeddings and positions (docs/log.md)"
        )


def refuse_overrides(given: Any, own: Mapping[str, Any]) -> None:
    """Raise ConfigError for ``hf_overrides`` of a user's own where they would reach one model of several."""
    names = [name for name in (given if isinstance(given, Mapping) else {}) if name not in _OF_A_PAIR]
    if names and (others := further_checkpoints(own)):
        raise ConfigError(
            f"hf_overrides ({', '.join(names)}) reach the policy alone, and {', '.join(others)} would be read without: "
            "write them into each checkpoint's config.json"
        )


def check_drafts(given: Mapping[str, Any]) -> None:
    """Raise ConfigError for drafts that a pair cannot have: its tokens are AAD's argmax with or without them.

    Args:
        given: of vLLM's ``speculative_config``, as a user writes it or with vLLM's defaults filled in.
    """
    method = given.get("method") or ("draft_model" if given.get("model") else None)
    if method is not None and method not in _DRAFTS:
        raise ConfigError(
            f"speculative method must be one of {', '.join(_DRAFTS)} for a pair, got {method!r}: others read one model's "
            "hidden states"
        )
    if method == "suffix" and importlib.util.find_spec("arctic_inference") is None:
        raise ConfigError("speculative method 'suffix' needs a package of its own: pip install arctic-inference==0.1.1")
    acceptance = given.get("rejection_sample_method") or "standard"
    if acceptance not in _LOSSLESS:
        raise ConfigError(
            f"rejection_sample_method must be one of {', '.join(_LOSSLESS)} for a pair, got {acceptance!r}: it accepts "
            "drafts that the pair would not choose"
        )


def _check_shared(vllm_config: Any, own: Mapping[str, Any]) -> None:
    """What one base for both sides cannot have."""
    kind = vllm_config.model_config.hf_config.model_type
    if kind not in SHARED_TYPES:
        raise ConfigError(f"a base of type {kind!r} cannot be shared, only {', '.join(SHARED_TYPES)}: {REMEDY}")
    if vllm_config.model_config.model_impl == "transformers":
        raise ConfigError(f"model_impl=transformers cannot share a base: {REMEDY}")
    if vllm_config.quant_config is not None:
        raise ConfigError(f"sharing a quantised base was not tried: {REMEDY}")
    if vllm_config.load_config.load_format not in _LOAD_FORMATS:
        raise ConfigError(
            f"adapters are read beside load_format {', '.join(_LOAD_FORMATS)}, got {vllm_config.load_config.load_format}"
        )
    if own.get("reference_revision"):
        raise ConfigError("reference_revision is for a second checkpoint; a shared base has the model's own revision")


def check_context(role: str, config: Any, length: int) -> None:
    """Raise ConfigError if the engine admits texts longer than the positions of the model in this role."""
    text = config.get_text_config()
    known = known_context(config)
    scaling = getattr(text, "rope_parameters", None) or getattr(text, "rope_scaling", None) or {}
    if known and scaling.get("rope_type", "default") == "default" and length > known:
        raise ConfigError(
            f"the {role} reads at most {known} tokens, the engine admits {length}: pass max_model_len={known}"
        )


def check_window(role: str, config: Any, window: int | None, length: int) -> None:
    """Raise ConfigError if this model attends to other places than vLLM lets it: a layer that does not bring a window of
    its own gets the engine's, which is the policy's.

    Args:
        config: of the model in this role. window: the engine's, of models all of whose layers have one. length: admitted.
    """
    text = config.get_text_config()
    kinds = set(getattr(text, "layer_types", None) or ())
    own = getattr(text, "sliding_window", None) if getattr(text, "use_sliding_window", True) else None
    if kinds and "sliding_attention" not in kinds:
        own = None
    if own == window or (window is None and len(kinds) > 1):  # each layer says which it is
        return
    if length > min(size for size in (own, window) if size is not None):
        raise ConfigError(
            f"the {role} attends to {own or 'all'} places before a token and the policy to {window or 'all'}, and vLLM has "
            f"one window per engine: pass max_model_len={min(size for size in (own, window) if size is not None)}, or "
            "decode with --model aad"
        )


def check_parts(configs: Mapping[str, Any], own: Mapping[str, Any]) -> tuple[int, int]:
    """Return (width of the policy's head, number of ids that all parts know).

    Args:
        configs: the parts' configurations by role. own: ``shared_vocab_size`` is the tokenizers' size, where known;
            without it all heads must be equally wide.
    Raises:
        ConfigError, VocabMismatch: architectures unknown, quantised differently, or heads of unequal width.
    """
    policy, shared = configs["policy"], own.get("shared_vocab_size")
    for role, config in configs.items():
        if not config.architectures:
            raise ConfigError(f"the {role}'s config.json names no architecture")
        methods = [_method(getattr(one, "quantization_config", None)) for one in (policy, config)]
        if methods[0] != methods[1]:
            raise ConfigError(
                f"policy and {role} must be quantised alike, got {methods[0]} and {methods[1]}: vLLM has one quantisation "
                "per engine"
            )
        sizes = [one.get_text_config().vocab_size for one in (policy, config)]
        if shared is None and sizes[0] != sizes[1]:
            raise VocabMismatch(
                f"the heads of policy and {role} have {sizes[0]} and {sizes[1]} rows; where the token→id maps are equal "
                "and only the padding differs, pass their size as hf_overrides['aad']['shared_vocab_size'] (aad serve does)"
            )
        if shared is not None and sizes[1] < int(shared):
            raise VocabMismatch(f"the {role} has a head of {sizes[1]} rows, the tokenizer {shared} tokens")
    width = policy.get_text_config().vocab_size
    return width, int(shared or width)


def _method(quantisation: Any) -> str:
    if not quantisation:
        return "none"
    return str(quantisation.get("quant_method") if isinstance(quantisation, dict) else quantisation.quant_method)
