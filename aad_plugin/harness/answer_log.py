"""What the model knows of an answer and lm-eval's string does not carry: whether it reached its end.

Filled by the model as it decodes, read by tasks in the same process. Another backend leaves it empty.
"""

from __future__ import annotations

import json

from aad_plugin.settings import DecodingSettings

__all__ = ["is_truncated", "record"]

_TRUNCATED: dict[str, bool] = {}


def record(context: str, settings: DecodingSettings, truncated: bool) -> None:
    """Remember whether the answer to a rendered prompt ran into its token budget."""
    _TRUNCATED[_key(context, settings)] = truncated


def is_truncated(context: str, settings: DecodingSettings) -> bool | None:
    """Return what was recorded, or None where this process did not decode the answer."""
    return _TRUNCATED.get(_key(context, settings))


def _key(context: str, settings: DecodingSettings) -> str:
    return json.dumps([context, settings.relevant()], sort_keys=True)
