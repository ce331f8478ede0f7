"""Training prompts of the policy and of the reward model: two disjoint sets, each split into train and held out.

``prompts.json`` holds hand-written templates and slots. None of them is a prompt of the demo task, which a test checks.
"""

from __future__ import annotations

import json
import random
from dataclasses import dataclass
from importlib import resources

SPLITS = ("policy", "reward")
HELD_OUT_SHARE = 0.15


@dataclass(frozen=True)
class Prompt:
    """One user message of a training set."""

    id: str
    text: str
    held_out: bool


def load_prompts(split: str) -> list[Prompt]:
    """Return the prompts of ``policy`` or ``reward`` in file order, each marked as held out or not.

    The held-out ones are drawn once with a fixed seed, so every stage sees the same division.
    """
    templates = json.loads(resources.files(__package__).joinpath("prompts.json").read_text(encoding="utf-8"))[split]
    texts = [_fill(entry["template"], slot) for entry in templates for slot in entry["slots"]]
    held_out = set(random.Random(f"held out {split}").sample(range(len(texts)), round(HELD_OUT_SHARE * len(texts))))
    return [Prompt(f"{split}-{i:03d}", text, i in held_out) for i, text in enumerate(texts)]


def _fill(template: str, slot: str | list[str]) -> str:
    return template.format(*([slot] if isinstance(slot, str) else slot))
