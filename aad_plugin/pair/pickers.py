"""Pickers of best_of_n that are models of their own: reward models, loaded once per process."""

from __future__ import annotations

from aad_plugin.errors import ConfigError
from aad_plugin.pair.strategies import Picker
from aad_plugin.settings import DecodingSettings


def picker_for(settings: DecodingSettings, *, shows_pictures: bool = False) -> Picker | None:
    """Return the scoring function a strategy needs, or None (implicit rewards come from the pair itself).

    Args:
        shows_pictures: whether a prompt of the batch does.
    Raises:
        ConfigError: a reward model would pick answers to pictures, which it does not see.
    """
    if settings.strategy != "best_of_n" or settings.picker == "implicit":
        return None
    if shows_pictures:
        raise ConfigError(
            f"a reward model reads text alone and cannot pick answers to pictures, got picker={settings.picker}: pass "
            "picker=implicit"
        )
    from aad_plugin.judges.kinds.reward import load_scorer

    return load_scorer(settings.picker).score_answers
