"""Write a copy of a reward model in float32: a processor without 16-bit products scores by it several times as fast.

python -m experiments.float32_reward demo@1 runs/oracle
… --oracle reward:runs/oracle
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from aad_plugin.cli.main import plain_errors
from aad_plugin.errors import ConfigError
from aad_plugin.judges.kinds.reward import RewardModel


def main(arguments: list[str]) -> None:
    """Write the copy, an adapter merged into its base."""
    if len(arguments) != 2:
        raise ConfigError("expected a reward model (demo, demo@1, a folder or a hub id) and a folder to write")
    if Path(arguments[1]).exists():
        raise ConfigError(f"{arguments[1]} is there already: pass a new folder, since runs may be reading that one")
    loaded = RewardModel.load(arguments[0], dtype="float32", device="cpu")
    model: Any = loaded.model
    if hasattr(model, "merge_and_unload"):
        model = model.merge_and_unload()
    model.save_pretrained(arguments[1])
    loaded.tokenizer.save_pretrained(arguments[1])


if __name__ == "__main__":
    with plain_errors():
        main(sys.argv[1:])
