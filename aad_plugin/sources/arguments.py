"""model_args, in the words that every host and command takes: which pair, how to decode, what belongs to which model.

    given = parse_model_args("pair=demo,alpha=0.3,dtype=bfloat16")
    source = take_source(given)
    settings = take_settings(given, source.settings)        # what is left in `given` belongs to the host

Knows no host: whatever is not taken is the host's to use or to refuse.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from aad_plugin.errors import ConfigError
from aad_plugin.settings import SETTING_NAMES, DecodingSettings
from aad_plugin.sources.parts import GUIDE_NAMES, PART_NAMES, PairSource, resolve

# Options that may differ between the models: the bare name means both, reference_<name> overrides it.
PER_MODEL = ("revision", "dtype", "device", "gguf_file", "trust_remote_code")
REFERENCE_OPTIONS = tuple(f"reference_{name}" for name in PER_MODEL)
TEMPLATE_OPTIONS = ("enable_thinking", "chat_template_args")
OWN = ("pair", "pretrained", *PART_NAMES, *GUIDE_NAMES, *SETTING_NAMES, "shortcuts")
"""Names that mean the same to every host."""


def parse_model_args(text: str) -> dict[str, Any]:
    """Read ``k=v,k=v`` or a JSON object.

    Raises:
        ConfigError: neither of the two.
    """
    if text.lstrip().startswith("{"):
        try:
            return json.loads(text)
        except ValueError as e:
            raise ConfigError(f"--model-args is not valid JSON: {e}") from e
    unpaired = [part for part in text.split(",") if part.strip() and "=" not in part]
    if unpaired:
        raise ConfigError(f"--model-args expects k=v,k=v, got {unpaired[0]!r}")
    if not text.strip():
        return {}
    from lm_eval.utils import simple_parse_args_string

    return simple_parse_args_string(text)


def take_source(given: dict[str, Any], pair: str | None = None) -> PairSource:
    """Take what names the pair out of ``given``.

    Args:
        given: model_args, changed in place. pair: where they name none.
    Raises:
        ConfigError, ReferenceUnknown: see :func:`aad_plugin.sources.parts.resolve`.
    """
    parts = {name: given.pop(name, None) for name in (*PART_NAMES, *GUIDE_NAMES)}
    return resolve(given.pop("pair", None) or pair, given.pop("pretrained", None), **parts)


def take_settings(
    given: dict[str, Any], stored: Mapping[str, Any], base: DecodingSettings | None = None
) -> DecodingSettings:
    """Take the decoding settings out of ``given``.

    Args:
        given: model_args, changed in place; they go before those ``stored`` in a pair folder, and these before ``base``,
            by default the paper's.
    Raises:
        ConfigError: a value out of range.
    """
    changes = {name: given.pop(name) for name in SETTING_NAMES if name in given}
    return (base or DecodingSettings()).override(**stored).override(**changes)


def take_per_model(given: dict[str, Any], *, prefix: str = "") -> dict[str, Any]:
    """Take :data:`PER_MODEL` options out of ``given``, those written with a prefix ("reference_"); without it in names."""
    return {name: value for name in PER_MODEL if (value := given.pop(prefix + name, None)) is not None}


def take_template_args(given: dict[str, Any]) -> dict[str, Any]:
    """Take what chats are rendered with out of ``given``: ``enable_thinking`` and ``chat_template_args``, as in lm-eval.

    Args:
        given: model_args, changed in place.
    Returns:
        arguments of the tokenizer's chat template by name.
    Raises:
        ConfigError: ``chat_template_args`` are no mapping.
    """
    thinking, others = (given.pop(name, None) for name in TEMPLATE_OPTIONS)
    if not isinstance(others, Mapping | None):
        raise ConfigError(f"chat_template_args must be a mapping of the template's arguments, got {others!r}")
    return {**(others or {}), **({} if thinking is None else {"enable_thinking": thinking})}


def typed(values: dict[str, Any]) -> dict[str, Any]:
    """Return per-model options with ``dtype`` as a torch dtype or "auto"; ConfigError for another word."""
    import torch

    dtype = values.get("dtype")
    if isinstance(dtype, str) and dtype != "auto":
        resolved = getattr(torch, dtype, None)
        if not isinstance(resolved, torch.dtype):
            raise ConfigError(f"dtype must be 'auto' or a torch dtype such as 'bfloat16', got {dtype!r}")
        values = {**values, "dtype": resolved}
    return values
