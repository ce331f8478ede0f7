"""What the shipped demo pairs were trained on: preference pairs by preset and by who learned from them."""

from __future__ import annotations

from pathlib import Path

from aad_plugin.demo.recipe.pairs import Pair, load_pairs

__all__ = ["FILES", "shipped_pairs", "trained_prompts"]

_PREFERENCES = Path(__file__).parent / "preferences"
# preset -> files of pairs, each for policy and reward: the first pair knew dialogue alone
FILES = {"demo": ("{split}.jsonl", "{split}_labels.jsonl"), "demo@1": ("{split}.jsonl",)}


def shipped_pairs(preset: str, split: str, folder: Path = _PREFERENCES) -> list[Pair]:
    """Return the preference pairs of ``policy`` or ``reward``, train and held-out ones alike.

    Args:
        folder: holds files of the shipped names, for pairs of one's own; a file that is missing there is the shipped one.
    """
    names = [name.format(split=split) for name in FILES[preset]]
    paths = [folder / name if (folder / name).exists() else _PREFERENCES / name for name in names]
    return [pair for path in paths for pair in load_pairs(path)]


def trained_prompts(preset: str, split: str, *, held_out: bool = True) -> list[str]:
    """Return the prompts of those pairs, each once; with or without the ones held out of training."""
    pairs = shipped_pairs(preset, split)
    return list(dict.fromkeys(pair.prompt for pair in pairs if held_out or not pair.held_out))
