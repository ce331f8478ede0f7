"""Models whose rotary factors change with a text's length.

"longrope" (Phi-3) has two sets: keys that were kept under the short factors do not belong to a text that has grown beyond
them. "dynamic" has other factors for every length beyond a limit: no text is read beyond it.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Iterable, Mapping, Sequence
from typing import Any
from weakref import WeakKeyDictionary

from torch import Tensor, nn

from aad_plugin.errors import ConfigError

logger = logging.getLogger(__name__)


_LIMITS: WeakKeyDictionary[nn.Module, int | None] = WeakKeyDictionary()  # of models, which a step has no time to ask


def rope_switch(config: Any) -> int | None:
    """Tokens of the longest text that is read under a model's short factors; None for a model with one set of factors."""
    text = config.get_text_config()
    own = getattr(text, "original_max_position_embeddings", None)
    found = [one.get("original_max_position_embeddings") or own for kind, one in _kinds(text) if kind == "longrope"]
    return min((int(length) for length in found if length), default=None)


def rope_limit(model: Any) -> int | None:
    """Tokens of the longest text whose rotary factors are not its length's own; None for a model that has none of the kind.

    Beyond it transformers makes new factors at each step, which the keys kept so far were not read with, and keeps them for
    the next text if that is shorter: what a model says to a text depends on what it read before.
    """
    if model not in _LIMITS:
        text = model.config.get_text_config()
        is_dynamic = any("dynamic" in kind for kind, _ in _kinds(text))
        _LIMITS[model] = getattr(text, "max_position_embeddings", None) if is_dynamic else None
    return _LIMITS[model]


def _kinds(text: Any) -> list[tuple[str, Mapping[str, Any]]]:
    """Kinds of rotary factors by name, with their parameters; some configurations have them by kind of layer."""
    given = getattr(text, "rope_parameters", None) or getattr(text, "rope_scaling", None) or {}
    kinds = [one for one in (given, *given.values()) if isinstance(one, Mapping)]
    return [(str(one.get("rope_type", one.get("type"))), one) for one in kinds]


def refuse_beyond(models: Iterable[Any], length: int) -> None:
    """Raise ConfigError for texts that may grow to ``length`` tokens, beyond some model's `rope_limit`."""
    for limit in (one for model in models if (one := rope_limit(model)) is not None):
        if length > limit:
            raise ConfigError(
                f"a text may have {length} tokens here, and beyond {limit} this model's rotary factors are other ones for "
                "every length (rope_type=dynamic), so that no step can be told from what was read before: shorten the "
                "prompt, or lower max_new_tokens"
            )


def rope_switches(models: Iterable[Any]) -> list[int]:
    """The switches of those models that have one."""
    return [switch for model in models if (switch := rope_switch(model.config)) is not None]


def grows_beyond(switches: Sequence[int], prompt: int, last: int, pieces: int | None) -> bool:
    """Whether a text that starts under the short factors may end beyond them: it must be read anew at each step then.

    Args:
        switches: see `rope_switch`. prompt, last: tokens of the longest prompt, and of it with its answer at most.
        pieces: tokens of a prompt that are read at once; None for all.
    Raises:
        ConfigError: the prompt itself lies beyond them and is read in pieces, the first of which do not.
    """
    if pieces and any(switch < prompt for switch in switches):
        raise ConfigError(
            f"prefill_chunk_size reads a prompt of {prompt} tokens in pieces, and this model's rotary factors change at "
            f"{min(switches)}: leave it out"
        )
    return any(prompt <= switch < last for switch in switches)


def refuse_mixed(switches: Sequence[int], lengths: Tensor | None, room: int = 0) -> None:
    """Refuse rows of one batch that would be read under different factors: a model takes one set for all of them, by the
    longest, and a shorter row would get other logits than alone.

    Args:
        switches: see `rope_switch`. lengths: (B,) tokens of each row; None where no row is padded, so that all are as long.
        room: tokens that each of them may grow by.
    Raises:
        ConfigError: some row stays within a switch while another is beyond it.
    """
    if not switches or lengths is None or len(lengths) < 2:
        return
    shortest, longest = int(lengths.min()), int(lengths.max())
    mixed = [switch for switch in switches if shortest <= switch < longest + room and shortest < longest]
    if mixed:
        raise ConfigError(
            f"a batch has texts of {shortest} and of {longest} tokens{f', with {room} to come' if room else ''}, and this "
            f"model's rotary factors change at {mixed[0]}, for all rows at once: pass batch_size=1"
        )


@functools.cache
def say_rereading(switch: int) -> None:
    """Say once that answers across a model's change of factors are decoded without a cache."""
    logger.warning(
        "texts that grow beyond %d tokens, where this model's rotary factors change, are decoded without a cache, which is "
        "slow: shorter prompts, or a smaller budget, keep it",
        switch,
    )
