"""What an explanation holds: plain data and the figures that follow from it. No torch, no files.

A token's advantage is log π_policy − log π_reference, in nats; its sum over an answer is the implicit reward.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Token:
    """One token and what both models gave it at one step.

    Args:
        id: in the shared vocabulary. text: decoded by itself; for the chosen token what it adds to the answer, so that
            the texts of all steps join to the answer (a character of several tokens stands with the last of them).
        log_policy, log_reference: log-probabilities in nats, before any temperature.
        guide: what all guides together add to log_policy, weighted; None where nothing guides.
    """

    id: int
    text: str
    log_policy: float
    log_reference: float
    guide: float | None = None

    @property
    def advantage(self) -> float:
        """log π_policy − log π_reference, in nats."""
        return self.log_policy - self.log_reference

    def to_json(self) -> dict[str, Any]:
        """The fields and the advantage; guide only where something guides."""
        values = {name: round(getattr(self, name), 6) for name in ("log_policy", "log_reference", "advantage")}
        guide = {} if self.guide is None else {"guide": round(self.guide, 6)}
        return {"id": self.id, "text": self.text, **values, **guide}


@dataclass(frozen=True, slots=True)
class Step:
    """One step: what was chosen, what the policy alone would have chosen, and what was plausible.

    Args:
        plausible: the tokens of V_α by falling π_policy, at most `MAX_PLAUSIBLE`. num_plausible: how many there were.
        special: the chosen token is a control token such as the end of the answer; it is not part of the text.
        rounding: nats, the distance between neighbouring logits of this size in the pair's dtype; 0 where not known.
    """

    chosen: Token
    favourite: Token
    plausible: tuple[Token, ...]
    num_plausible: int
    special: bool = False
    rounding: float = 0.0

    @property
    def near_tie(self) -> bool:
        """Whether the choice departs from greedy's by at most one rounding step: another dtype may choose otherwise."""
        return self.departs and abs(self.gain) <= self.rounding

    @property
    def departs(self) -> bool:
        """Whether the choice is not the policy's favourite, i.e. not what greedy decoding takes here."""
        return self.chosen.id != self.favourite.id

    @property
    def gain(self) -> float:
        """Advantage of the chosen token over the favourite's, in nats: what departing was worth; 0 where it did not."""
        return self.chosen.advantage - self.favourite.advantage

    @property
    def cost(self) -> float:
        """log π_policy of the favourite minus that of the chosen token; in V_α from 0 to −log α, but for rounding."""
        return self.favourite.log_policy - self.chosen.log_policy

    def to_json(self) -> dict[str, Any]:
        """All fields."""
        return {
            "chosen": self.chosen.to_json(),
            "favourite": self.favourite.to_json(),
            "departs": self.departs,
            "special": self.special,
            "near_tie": self.near_tie,
            "num_plausible": self.num_plausible,
            "plausible": [token.to_json() for token in self.plausible],
        }


@dataclass(frozen=True, slots=True)
class ShownPicture:
    """A picture of a prompt.

    Args:
        name: its file's, or "data". digest: of size and pixels, as models were shown it. width, height: pixels.
        data: a small copy as a ``data:`` URL, for pages.
    """

    name: str
    digest: str
    width: int
    height: int
    data: str = ""

    def to_json(self) -> dict[str, Any]:
        """All but the copy."""
        return {"name": self.name, "digest": self.digest, "width": self.width, "height": self.height}


@dataclass(frozen=True)
class Explanation:
    """One answer, token by token.

    Args:
        prompt: as it was asked. answer: the text, without control tokens.
        settings: what decided the choice (strategy and the settings it uses), with ``alpha`` of the plausible sets.
        given: the answer was handed in and only scored; otherwise it was decoded, and every figure is of that decoding.
        truncated: the answer ran into its token budget; None for a given one.
        greedy: what greedy decoding of the policy answers, where it was asked for.
        dtype: what the pair computed in, "bfloat16". pair: its name, or its parts'; "" for one put together in memory.
        pictures: of the prompt, in their order.
    """

    prompt: str
    answer: str
    settings: Mapping[str, Any]
    steps: tuple[Step, ...]
    given: bool = False
    truncated: bool | None = None
    greedy: str | None = None
    dtype: str = ""
    pair: str = ""
    pictures: tuple[ShownPicture, ...] = ()

    @property
    def reward(self) -> float:
        """The implicit reward, in nats: Σ advantage = log π_policy(answer) − log π_reference(answer)."""
        return sum(step.chosen.advantage for step in self.steps)

    @property
    def running_reward(self) -> list[float]:
        """The sum of advantages up to and including each step, in nats."""
        return list(itertools.accumulate(step.chosen.advantage for step in self.steps))

    def departures(self) -> list[tuple[int, Step]]:
        """(step number from 0, step) wherever the choice is not the policy's favourite, what mattered most first.

        Of a given answer a departure may lose: those count by how much, too.
        """
        found = [(number, step) for number, step in enumerate(self.steps) if step.departs]
        return sorted(found, key=lambda one: -abs(one[1].gain))

    def to_json(self) -> dict[str, Any]:
        """Everything, with the figures that follow from it; ready for `json.dumps`."""
        return {
            "prompt": self.prompt,
            "answer": self.answer,
            "greedy_answer": self.greedy,
            "settings": dict(self.settings),
            "pair": self.pair,
            **({"pictures": [picture.to_json() for picture in self.pictures]} if self.pictures else {}),
            "dtype": self.dtype,
            "given": self.given,
            "truncated": self.truncated,
            "reward": round(self.reward, 6),
            "departures": sum(step.departs for step in self.steps),
            "steps": [
                {**step.to_json(), "running_reward": round(total, 6)}
                for step, total in zip(self.steps, self.running_reward, strict=True)
            ],
        }
