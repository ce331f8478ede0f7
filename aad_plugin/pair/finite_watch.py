"""Non-finite logits end a ``generate`` call without a wait of their own.

Asking a device whether numbers are finite waits for it, and on a GPU a wait costs as much as a part of the step. The host
waits once per step anyway, for whether all rows have ended: so rows of a step with NaN or inf are said to have ended, and
the question is put once, after the call. Knows nothing of pairs or strategies.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from transformers import StoppingCriteria

from aad_plugin.decoding import require_finite
from aad_plugin.errors import NonFiniteLogits


class FiniteWatch(StoppingCriteria):
    """Ends a ``generate`` call at the first step whose scores are not finite."""

    def __init__(self) -> None:
        self._steps: list[tuple[Tensor, str]] = []
        self._rows: Mapping[str, Tensor] = {}

    def show(self, rows: Mapping[str, Tensor], scores: Tensor, step: str) -> None:
        """Take the rows of the step about to be chosen; nothing is waited for.

        Args:
            rows: role -> (R, V) logits, kept until the next step. scores: of these rows; one that is not finite
                stands for rows that are not. step: where decoding stands, for the error.
        """
        total = scores.sum(dtype=torch.float32)
        self._steps.append(((total - total) != 0, step))  # NaN for a sum that is NaN or inf
        self._rows = rows

    def __call__(self, input_ids: Tensor, scores: Any, **kwargs: Any) -> Tensor:
        """Return (B,) bool, all True after a step that was not finite."""
        if not self._steps:
            return torch.zeros(len(input_ids), dtype=torch.bool, device=input_ids.device)
        return self._steps[-1][0].to(input_ids.device).expand(len(input_ids))

    def require(self) -> None:
        """Raise NonFiniteLogits if a step was not finite; waits for the device, once."""
        if not self._steps:
            return
        bad = torch.stack([found for found, _ in self._steps]).tolist()
        if not any(bad):
            return
        step = self._steps[bad.index(True)][1]
        for role, row in self._rows.items():
            require_finite(row, role, step)
        raise NonFiniteLogits(f"the scores hold NaN or inf{step}: check the models' weights and try dtype=float32")
