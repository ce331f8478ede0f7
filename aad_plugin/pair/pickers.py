"""Pickers of best_of_n that are models of their own: reward models, loaded once per process."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

from aad_plugin.pair.strategies import Picker
from aad_plugin.settings import DecodingSettings


def picker_for(settings: DecodingSettings) -> Picker | None:
    """Return the scoring function a strategy needs, or None (implicit rewards come from the pair itself)."""
    if settings.strategy != "best_of_n" or settings.picker == "implicit":
        return None
    return _reward_picker(settings.picker.removeprefix("reward:"))


@functools.lru_cache(maxsize=2)
def _reward_picker(name: str) -> Picker:
    from aad_plugin.judges.kinds.reward import RewardModel

    model = RewardModel.load(name)

    def score(prompts: Sequence[Any], answers: Sequence[str]) -> list[float]:
        return model.score(list(zip(prompts, answers, strict=True)))

    return score
