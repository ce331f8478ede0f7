"""Which row of a step's scores wants which strategy: one home for what both of vLLM's model runners are asked.

Each runner shows its requests in another way; a subclass per runner says in which order they stand.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from aad_plugin.decoding import IMPLAUSIBLE
from aad_plugin.engine.requests import settings_of
from aad_plugin.errors import AADError
from aad_plugin.settings import READ_BY, DecodingSettings

logger = logging.getLogger(__name__)

FILTERED = READ_BY["alpha"]
"""Strategies that choose among the policy's plausible tokens."""
_CONSTRAINTS = ("structured_outputs", "min_tokens", "bad_words", "logit_bias", "allowed_token_ids")


def constrained(parameters: Any) -> bool:
    """Whether a request's sampling parameters can forbid tokens after the scores: only there a plausible set empties."""
    return any(bool(getattr(parameters, name, None)) for name in _CONSTRAINTS)


class Rows:
    """(number of rows) -> the settings of each, in the order of the batch; by default every row by the model's own.

    Args:
        model: the composite, whose `default` answers for requests that name nothing.
    """

    def __init__(self, model: Any) -> None:
        self.model = model
        self._emptied: Tensor | int = 0

    @property
    def emptied(self) -> int:
        """At how many steps so far a later stage left a filtered row no plausible token. Waits for the device."""
        return int(self._emptied)

    def __call__(self, number: int) -> list[DecodingSettings] | None:
        """Return `number` settings, or None before there are requests."""
        return None

    def scored(self, scores: Tensor, settings: list[DecodingSettings]) -> None:
        """Hear of a step's (R, V) scores, before its tokens are known."""

    def settings(self, given: Any) -> DecodingSettings:
        """The server refuses a bad request before it gets here; an error here would end the engine for all."""
        try:
            return settings_of(given, self.model.default, self.model.held)
        except AADError as error:
            logger.error("a request is decoded by the default: %s", error)
            return self.model.default

    def count(self, scores: Tensor, rows: Sequence[int], tokens: Tensor, valid: Tensor | None = None) -> None:
        """Count the implausible among chosen tokens, without waiting for the device.

        Args:
            scores: (R, V). rows: N of them. tokens: (N,) int64, what each chose. valid: (N,) bool, rows that chose.
        """
        place = torch.tensor(rows, device=scores.device)
        fell = scores[place, tokens.to(scores.device)] <= IMPLAUSIBLE / 2
        if valid is not None:
            fell &= valid
        self._emptied = self._emptied + fell.sum()
