"""Models whose rotary factors change with a text's length ("longrope", as Phi-3's): keys that were kept under the short
factors do not belong to a text that has grown beyond them.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from torch import Tensor

from aad_plugin.errors import ConfigError

logger = logging.getLogger(__name__)


def rope_switch(config: Any) -> int | None:
    """Tokens of the longest text that is read under a model's short factors; None for a model with one set of factors."""
    text = config.get_text_config()
    given = getattr(text, "rope_parameters", None) or getattr(text, "rope_scaling", None) or {}
    kinds = [one for one in (given, *given.values()) if isinstance(one, Mapping)]  # some have factors by kind of layer
    own = getattr(text, "original_max_position_embeddings", None)
    found = [
        one.get("original_max_position_embeddings") or own
        for one in kinds
        if one.get("rope_type", one.get("type")) == "longrope"
    ]
    return min((int(length) for length in found if length), default=None)


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
