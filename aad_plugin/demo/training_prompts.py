"""Which prompts the shipped demo pairs and their reward models were trained on.

``training_prompts.json`` lists them by the file of preference pairs they come from (``experiments/demo_pair/preferences``
of the source tree, which makes it).
"""

from __future__ import annotations

import json
from pathlib import Path

_PROMPTS = Path(__file__).with_name("training_prompts.json")
FILES = {"demo": ("{split}", "{split}_labels"), "demo@1": ("{split}",)}
"""Preset -> names of its files of preference pairs, each for policy and reward: the first pair knew dialogue alone."""


def trained_prompts(preset: str, split: str, *, held_out: bool = True) -> list[str]:
    """Return the prompts behind ``policy`` or ``reward`` of a preset, each once, with or without those held out."""
    listed = json.loads(_PROMPTS.read_text(encoding="utf-8"))
    files = [listed[name.format(split=split)] for name in FILES[preset]]
    kinds = ("train", "held_out") if held_out else ("train",)
    return list(dict.fromkeys(prompt for file in files for kind in kinds for prompt in file[kind]))
