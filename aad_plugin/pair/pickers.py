"""Pickers of best_of_n that are models of their own: reward models, loaded once per process."""

from __future__ import annotations

from aad_plugin.pair.strategies import Picker
from aad_plugin.settings import DecodingSettings


def picker_for(settings: DecodingSettings) -> Picker | None:
    """Return the scoring function a strategy needs, or None (implicit rewards come from the pair itself)."""
    if settings.strategy != "best_of_n" or settings.picker == "implicit":
        return None
    from aad_plugin.judges.kinds.reward import load_scorer

    return load_scorer(settings.picker).score_answers
