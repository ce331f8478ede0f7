"""Where outputs come from: a pair on an engine, a server, or answers that exist already.

Each source answers all instructions in one call, keeps every answer on disk the moment it arrives, and on the next call
answers only what is left.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

PLACEHOLDER = "{instruction}"


@dataclass(frozen=True, slots=True)
class Answered:
    """One answer as it came.

    Args:
        text: raw, thinking included; "" where there is none. truncated: it ran into its token budget; None: not known.
        reason: why there is no answer.
    """

    text: str
    truncated: bool | None = None
    reason: str = ""


class Source(Protocol):
    """What every source offers.

    asked: what decides the answers, JSON-able; a folder holds answers to one `asked` only.
    prompt: text around `PLACEHOLDER` as the model reads it; read after `answer`.
    completions_kwargs: model and settings in AlpacaEval's words, for ``configs.yaml``.
    """

    asked: dict[str, Any]
    prompt: str
    completions_kwargs: dict[str, Any]

    def answer(self, instructions: Sequence[str]) -> list[Answered]:
        """Answer every instruction, in order; blocks on the model or the network."""
