"""The prompts a reward model was trained on, where that can be known."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from aad_plugin.demo.assets import SHIPPED
from aad_plugin.demo.training_prompts import trained_prompts
from aad_plugin.texts.prompts import leak_key

logger = logging.getLogger(__name__)


def training_prompts(spec: str) -> list[str] | None:
    """The prompts of a reward model's training, as texts; None where nothing tells.

    Args:
        spec: "reward:<model>". Those of the shipped ones are in this package; other models do not carry theirs.
    """
    name = spec.removeprefix("reward:")
    return trained_prompts(name, "reward", held_out=False) if name in SHIPPED else None


def warn_of_known_prompts(spec: str, prompts: Sequence[Sequence[dict[str, str]]]) -> int:
    """Warn where an oracle was trained on prompts it is asked to score; returns how many."""
    trained = training_prompts(spec)
    if not trained:
        return 0
    known = {leak_key([{"role": "user", "content": text}]) for text in trained}
    shared = sum(leak_key(prompt) in known for prompt in prompts)
    if shared:
        logger.warning(
            "%s was trained on %d of these prompts: its scores of them are no held-out measure", spec, shared
        )
    return shared
