"""A request's own strategy: ``extra_args`` (``vllm_xargs`` over HTTP) with aad_strategy, aad_alpha, aad_eft_scale and
aad_guide_scale, and what an engine holds for it."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from aad_plugin.engine.row_scores import STRATEGIES
from aad_plugin.errors import ConfigError, nearest
from aad_plugin.settings import DecodingSettings
from aad_plugin.sources.guides import check_guided

_PREFIX = "aad_"
_NAMES = ("strategy", "alpha", "eft_scale", "guide_scale")
PENALTIES = {"repetition_penalty": 1, "presence_penalty": 0, "frequency_penalty": 0}
"""vLLM's options that rescale logits, with what each says where it asks for nothing."""

DRAFT_OPTIONS = ("speculative_config", "spec_method", "spec_model", "spec_tokens")
"""vLLM's options that have tokens guessed ahead."""
DRAFTS_DRAW = "not drawn beside vLLM's drafts, whose draws left the nucleus in tests"
"""Why sampled answers and drafts are refused together (vLLM 0.32 on a CPU; argmax strategies are equal)."""


@dataclass(frozen=True)
class Held:
    """What an engine can decode by.

    Attributes:
        num_guides: how many guides steer its policy. is_alone: whether that policy stands without a reference.
        drafts: whether tokens are guessed ahead (a speculative_config).
    """

    num_guides: int = 0
    is_alone: bool = False
    drafts: bool = False

    @classmethod
    def by(cls, own: Mapping[str, Any], drafts: bool = False) -> Held:
        """Read ``hf_overrides["aad"]``."""
        return cls(len(own.get("guides") or ()), not (own.get("reference") or own.get("adapter")), drafts)

    @property
    def strategies(self) -> tuple[str, ...]:
        """What requests may ask for, the one that is meant where they name none first."""
        if self.is_alone:
            return ("guided", "greedy")
        return tuple(name for name in STRATEGIES if name != "guided" or self.num_guides)

    @property
    def default(self) -> DecodingSettings:
        """The settings of a request that names nothing."""
        return DecodingSettings(strategy=self.strategies[0])

    def check(self, settings: DecodingSettings) -> None:
        """Raise ConfigError for settings that read models which are not held."""
        check_guided(settings, self.num_guides, self.is_alone)


def settings_of(
    given: Mapping[str, Any] | None, default: DecodingSettings, held: Held | None = None
) -> DecodingSettings:
    """Return the settings of one request.

    Args:
        held: what the engine can decode by; None where that is not known.
    Raises:
        ConfigError: an unknown name or strategy, a value out of range, or a strategy whose models the engine does not hold.
    """
    own = tuple(sorted((k, v) for k, v in (given or {}).items() if k.startswith(_PREFIX)))
    for name, value in own:
        if not isinstance(value, str | int | float):
            raise ConfigError(f"{name} must be a word or a number, got {value!r}")
    return _settings(own, default, held) if own else default


def extra_args(settings: DecodingSettings) -> dict[str, Any]:
    """Return the ``extra_args`` that ask for these settings; several weights of guides as text (``1.5+0.5``).

    Raises:
        ConfigError: a strategy that no engine has.
    """
    if settings.strategy == "vcd":
        raise ConfigError(
            "strategy='vcd' contrasts pictures on transformers only, and vLLM's composite reads text: use --model "
            "aad-multimodal"
        )
    relevant = settings.relevant()
    found = {f"{_PREFIX}{name}": relevant[name] for name in _NAMES if name in relevant}
    return {name: "+".join(map(repr, value)) if isinstance(value, tuple) else value for name, value in found.items()}


@functools.lru_cache(maxsize=1024)
def _settings(own: tuple[tuple[str, Any], ...], default: DecodingSettings, held: Held | None) -> DecodingSettings:
    names = [name.removeprefix(_PREFIX) for name, _ in own]
    for name in names:
        if name not in _NAMES:
            known = [_PREFIX + one for one in _NAMES]
            raise ConfigError(f"unknown {_PREFIX}{name}{nearest(_PREFIX + name, known)}; there are {', '.join(known)}")
    asked = dict(own).get(f"{_PREFIX}strategy")
    if asked is not None and asked not in STRATEGIES:
        served = held.strategies if held else STRATEGIES
        raise ConfigError(
            f"aad_strategy must be one of {', '.join(served)}, got {asked!r}{nearest(str(asked), served)} (sample "
            "and best_of_n are temperature and n of a greedy request)"
        )
    found = default.override(**dict(zip(names, (value for _, value in own), strict=True)))
    if held is not None:
        held.check(found)
    return found
