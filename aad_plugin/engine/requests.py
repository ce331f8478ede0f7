"""A request's own strategy: ``extra_args`` (``vllm_xargs`` over HTTP) with aad_strategy, aad_alpha, aad_eft_scale."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any

from aad_plugin.engine.row_scores import STRATEGIES
from aad_plugin.errors import ConfigError, nearest
from aad_plugin.settings import DecodingSettings

_PREFIX = "aad_"
_NAMES = ("strategy", "alpha", "eft_scale")


def settings_of(given: Mapping[str, Any] | None, default: DecodingSettings) -> DecodingSettings:
    """Return the settings of one request.

    Raises:
        ConfigError: an unknown name or strategy, or a value out of range.
    """
    own = tuple(sorted((k, v) for k, v in (given or {}).items() if k.startswith(_PREFIX)))
    for name, value in own:
        if not isinstance(value, str | int | float):
            raise ConfigError(f"{name} must be a word or a number, got {value!r}")
    return _settings(own, default) if own else default


def extra_args(settings: DecodingSettings) -> dict[str, Any]:
    """Return the ``extra_args`` that ask for these settings; ConfigError for a strategy that no engine has."""
    if settings.strategy == "guided":
        raise ConfigError(
            "strategy='guided' decodes on transformers only, since vLLM's composite holds two models: use --model aad"
        )
    if settings.strategy == "vcd":
        raise ConfigError(
            "strategy='vcd' contrasts pictures on transformers only, and vLLM's composite reads text: use --model "
            "aad-multimodal"
        )
    relevant = settings.relevant()
    return {f"{_PREFIX}{name}": relevant[name] for name in _NAMES if name in relevant}


@functools.lru_cache(maxsize=1024)
def _settings(own: tuple[tuple[str, Any], ...], default: DecodingSettings) -> DecodingSettings:
    names = [name.removeprefix(_PREFIX) for name, _ in own]
    for name in names:
        if name not in _NAMES:
            known = [_PREFIX + one for one in _NAMES]
            raise ConfigError(f"unknown {_PREFIX}{name}{nearest(_PREFIX + name, known)}; there are {', '.join(known)}")
    asked = dict(own).get(f"{_PREFIX}strategy")
    if asked is not None and asked not in STRATEGIES:
        raise ConfigError(
            f"aad_strategy must be one of {', '.join(STRATEGIES)}, got {asked!r}{nearest(str(asked), STRATEGIES)} (sample "
            "and best_of_n are temperature and n of a greedy request)"
        )
    return default.override(**dict(zip(names, (value for _, value in own), strict=True)))
