"""What the shipped demo pairs were trained on: preference pairs by preset and by who learned from them."""

from __future__ import annotations

import json
from pathlib import Path

from aad_plugin.demo import training_prompts
from aad_plugin.demo.training_prompts import FILES
from experiments.demo_pair.pairs import Pair, load_pairs

_PREFERENCES = Path(__file__).parent / "preferences"
PROMPTS = Path(training_prompts.__file__).with_name("training_prompts.json")


def shipped_pairs(preset: str, split: str, folder: Path = _PREFERENCES) -> list[Pair]:
    """Return the preference pairs of ``policy`` or ``reward``, train and held-out ones alike.

    Args:
        folder: holds files of the shipped names, for pairs of one's own; a file that is missing there is the shipped one.
    """
    names = [f"{name.format(split=split)}.jsonl" for name in FILES[preset]]
    paths = [folder / name if (folder / name).exists() else _PREFERENCES / name for name in names]
    return [pair for path in paths for pair in load_pairs(path)]


def write_prompts(path: Path = PROMPTS) -> None:
    """Write the prompts of the shipped pairs, by file, where the package looks for them."""
    listed = {}
    for file in sorted(_PREFERENCES.glob("*.jsonl")):
        pairs = load_pairs(file)
        listed[file.stem] = {
            name: list(dict.fromkeys(pair.prompt for pair in pairs if pair.held_out is held_out))
            for name, held_out in (("train", False), ("held_out", True))
        }
    path.write_text(json.dumps(listed, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")
