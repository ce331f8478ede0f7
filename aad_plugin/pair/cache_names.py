"""What a cache is called: by the host's ``generate``, by a model's ``forward``, and in what ``forward`` returns.

transformers 5.24 renamed ``past_key_values`` (and Mamba's ``cache_params``) to ``cache``. A name that a model does not
know falls into its ``**kwargs`` without a word and its tokens are wrong from the second on, so the name is read off the
signature of whoever receives the cache, never off a version.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import fields
from functools import cache as once
from typing import Any

from torch import nn
from transformers import GenerationMixin
from transformers.cache_utils import Cache
from transformers.modeling_outputs import CausalLMOutputWithPast

from aad_plugin.errors import ConfigError

# Every name in use, the newest first.
NAMES = ("cache", "past_key_values", "cache_params")


@once
def host_name() -> str:
    """Return the name under which the installed ``generate`` keeps a causal LM's cache among its model_kwargs.

    Raises:
        ConfigError: this transformers uses a name that is not among :data:`NAMES`.
    """
    name = _parameter(GenerationMixin.prepare_inputs_for_generation)
    if name is None:
        import transformers

        raise ConfigError(
            f"transformers {transformers.__version__} passes its cache to models by none of the names {', '.join(NAMES)}: "
            "use a version that this release of aad_plugin was run on (docs/versions.md)"
        )
    return name


def named_cache(model: nn.Module, cache: Cache | None) -> dict[str, Cache]:
    """Return the keyword argument by which ``model``'s forward takes ``cache``; nothing for None.

    Raises:
        ConfigError: its forward has no parameter for a cache.
    """
    if cache is None:
        return {}
    name = _parameter(model.forward)
    if name is None:
        raise ConfigError(
            f"{type(model).__name__} takes no cache by any of the names {', '.join(NAMES)}: decode it with use_cache=False"
        )
    return {name: cache}


def take(values: Mapping[str, Any]) -> Cache | None:
    """Return the one cache among keyword arguments or model_kwargs, whatever it is called, or None.

    Raises:
        ConfigError: two names hold different caches.
    """
    found = {name: values[name] for name in NAMES if values.get(name) is not None}
    if len({id(cache) for cache in found.values()}) > 1:
        raise ConfigError(f"one cache was expected, got {' and '.join(found)}: pass {next(iter(found))} alone")
    return next(iter(found.values()), None)


def output(logits: Any, cache: Cache | None) -> CausalLMOutputWithPast:
    """Return a causal LM's output with the cache in the field that the installed transformers reads it from."""
    return CausalLMOutputWithPast(logits=logits, **{_output_name(): cache})


@once
def _output_name() -> str:
    known = {field.name for field in fields(CausalLMOutputWithPast)}
    return next(name for name in NAMES if name in known)


def host_takes(cache: Cache) -> bool:
    """Whether the installed ``generate`` can hold a cache: before the name `cache` it asked every one for a length, which
    recurrent layers alone do not keep."""
    return host_name() == "cache" or has_attention(cache)


def has_attention(cache: Cache) -> bool:
    """Whether any layer of a cache keeps keys and values of its tokens; recurrent layers alone keep a state."""
    try:
        cache.get_seq_length()
    except ValueError:
        return False
    return True


def _parameter(function: Callable[..., Any]) -> str | None:
    # A class's own function is read once, whatever object it is bound to; what an object carries itself may change.
    own = getattr(function, "__func__", None)
    return _read_signature(function) if own is None else _read_class(own)


@once
def _read_class(function: Callable[..., Any]) -> str | None:
    return _read_signature(function)


def _read_signature(function: Callable[..., Any]) -> str | None:
    parameters = inspect.signature(function).parameters
    return next((name for name in NAMES if name in parameters), None)
