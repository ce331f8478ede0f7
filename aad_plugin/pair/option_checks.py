"""Options of ``generate`` and ``forward`` that a pair cannot have, or not beside each other: refused in one line each.

docs/combinations.md is the table of what is refused and what is not.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor
from transformers import GenerationConfig, PreTrainedModel
from transformers.cache_utils import Cache

from aad_plugin.errors import ConfigError
from aad_plugin.pair import cache_names
from aad_plugin.pair.multimodal import is_multimodal
from aad_plugin.pair.reading import Role
from aad_plugin.pair.recorder import TokenRecorder
from aad_plugin.settings import DecodingSettings

STATIC = ("static", "offloaded_static", "hybrid", "hybrid_chunked", "sliding_window", "offloaded_hybrid")

# Settings by which a strategy's sides read otherwise.
_SHAPE_KEYS = {"expo": ("expo_scale",), "vcd": ("noise_step", "seed")}

# Tensors and caches that change nothing in a pair's scores, or that it has read under another name.
UNUSED = frozenset({*cache_names.NAMES, "cache_position", "token_type_ids"})

# Options of `generate` that rescale a logit by its sign or add to it: defined on logits, not on log-ratios.
_LOGITS_ONLY = {
    "repetition_penalty": 1.0,
    "encoder_repetition_penalty": 1.0,
    "exponential_decay_length_penalty": None,
    "guidance_scale": None,
    "watermarking_config": None,
    "sequence_bias": None,
}


def refuse_ignored(arguments: dict[str, Any]) -> None:
    """Raise for a tensor or a cache that ``forward`` would drop without a word: tokens would differ from the model's."""
    named = {name: value for name, value in arguments.items() if isinstance(value, Tensor | Cache)}
    ignored = [name for name, value in named.items() if name not in UNUSED]
    if "token_type_ids" in named and named["token_type_ids"].any():
        ignored.append("token_type_ids")
    if ignored:
        raise ConfigError(f"a pair reads token ids alone and has no use for {', '.join(ignored)}: leave it out")


def refuse_batching() -> None:
    """Raise for continuous batching."""
    raise ConfigError("continuous batching holds the cache of one model, a pair needs two: use generate() or vLLM")


def check_config(config: GenerationConfig, settings: DecodingSettings) -> None:
    """Raise ConfigError for options that have no meaning for a pair, or none for this strategy."""
    if config.cache_implementation == "paged":
        refuse_batching()
    refuse_rescaling(vars(config), _LOGITS_ONLY, settings)


def refuse_rescaling(given: Mapping[str, Any], rescaling: Mapping[str, Any], settings: DecodingSettings) -> None:
    """Raise ConfigError for options that rescale logits, where a strategy ranks log-ratios.

    Args:
        given: options by name. rescaling: the host's options that do so, each with what it says where it asks for nothing.
    """
    for name, neutral in rescaling.items() if settings.ranks_ratios else ():
        if given.get(name) not in (None, neutral):
            raise ConfigError(
                f"{name}={given[name]!r} rescales logits, but strategy={settings.strategy!r} ranks log-ratios: "
                f"leave it out, or use strategy='greedy'"
            )


def check_beside_draft(config: GenerationConfig) -> None:
    """Raise ConfigError for what draws, searches or stores otherwise than a pair's own draft can serve."""
    asked = {
        "num_beams": (config.num_beams or 1) > 1,
        "do_sample": bool(config.do_sample),
        "cache_implementation": config.cache_implementation not in (None, "dynamic"),
        "prompt_lookup_num_tokens": bool(config.prompt_lookup_num_tokens),
        "use_cache": config.use_cache is False,
    }
    for name in (name for name, is_asked in asked.items() if is_asked):
        value = getattr(config, name)
        raise ConfigError(
            f"draft_model guesses for plain decoding with a cache, not with {name}={value!r}: leave one out"
        )


def check_guessing(config: GenerationConfig, option: str, batch_size: int) -> None:
    """Raise ConfigError where guesses, by whatever option, meet a batch or a cache that they cannot be taken back from."""
    if batch_size > 1:
        raise ConfigError(
            f"{option} guesses for one prompt at a time, got a batch of {batch_size}: pass batch_size=1, or "
            f"leave {option} out"
        )
    for name, is_asked in (
        ("use_cache", config.use_cache is False),
        ("cache_implementation", config.cache_implementation in STATIC),
    ):
        if is_asked:
            raise ConfigError(
                f"{option} needs a cache that takes back tokens, not {name}={getattr(config, name)!r}: leave one out"
            )


def check_beside_own_draft(assistant: Any, recorder: TokenRecorder | None) -> None:
    """Raise ConfigError for what a call of ``generate`` cannot have beside the pair's own draft."""
    if recorder is not None:
        raise ConfigError(
            "a trace shows one token at a time, draft_model reads several at once: leave one of them out (in float32 "
            "the tokens are the same)"
        )
    if assistant is not None:
        raise ConfigError("draft_model and assistant_model both guess the next tokens: leave one of them out")


def check_beside_pictures(policy: PreTrainedModel, draft: Any) -> None:
    """Raise ConfigError for pictures that the models cannot see, or that a draft (None: there is none) would not."""
    if not is_multimodal(policy):
        raise ConfigError(f"this pair reads text alone ({type(policy).__name__}): leave the pictures out")
    if draft is not None:
        raise ConfigError("a draft guesses from text alone: leave draft_model out, or the pictures")


def gives_ids_alone(config: Any, arguments: dict[str, Any]) -> bool:
    """Whether nothing of a ``generate`` call outlives it but token ids; scores and caches of inference mode could not be
    written outside it.

    Args:
        config: the call's or the model's generation config. arguments: of the call, which go before it.
    """
    kept = ("return_dict_in_generate", "cache_implementation")
    asked = [arguments.get(name, getattr(config, name, None)) for name in kept]
    return not any(asked) and cache_names.take(arguments) is None


def mark_cache(cache: Cache | None, settings: DecodingSettings, roles: Sequence[Role]) -> None:
    """Note on a cache whose keys it holds; changes ``cache``."""
    if cache is not None:
        cache.aad_keys = _keys(settings, roles)  # type: ignore[attr-defined]


def check_cache(cache: Cache | None, settings: DecodingSettings, roles: Sequence[Role]) -> None:
    """Raise ConfigError for a cache of other sides than these, which a step reads; one that nobody has read with before
    becomes theirs."""
    if cache is None:
        return
    held = getattr(cache, "aad_keys", None)
    if held not in (None, _keys(settings, roles)) and int(cache.get_seq_length()) == 0:
        held = None  # it was emptied
    if getattr(cache, "num_sides", 1) != len(roles) or held not in (None, _keys(settings, roles)):
        holds = f" (it holds keys of {_named(held)})" if held else ""
        raise ConfigError(
            f"the cache ({type(cache).__name__}) was built for another strategy{holds}: this one reads "
            f"{_named(_keys(settings, roles))}; take it from pair.new_cache(settings)"
        )
    if held is None:
        mark_cache(cache, settings, roles)


def _keys(settings: DecodingSettings, roles: Sequence[Role]) -> tuple[tuple[Role, ...], tuple[tuple[str, Any], ...]]:
    """Whose keys a step leaves in its cache, and the settings that shape them: strategies of one entry share a cache."""
    shaping = _SHAPE_KEYS.get(settings.strategy, ())
    return tuple(roles), tuple((name, getattr(settings, name)) for name in shaping)


def _named(keys: tuple[Sequence[Role], Sequence[tuple[str, Any]]]) -> str:
    roles, shaping = keys
    return " and ".join(roles) + "".join(f", {name} {value}" for name, value in shaping)
