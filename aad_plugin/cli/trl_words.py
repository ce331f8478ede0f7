"""More of TRL's options in one word of a command line: ``--trl "--max_steps 40 --beta 0.2"``."""

from __future__ import annotations

import shlex

from aad_plugin.errors import ConfigError

_SET_HERE = ("--config", "--model_name_or_path", "--dataset_name", "--output_dir")


def trl_words(text: str, command: str) -> tuple[str, ...]:
    """Return the words.

    Args:
        command: ``aad``'s, which sets some options itself.
    Raises:
        ConfigError: one of those, or a token, which would end up in logs.
    """
    words = tuple(shlex.split(text))
    for word in words:
        if word.split("=")[0] == "--hub_token":
            raise ConfigError("--trl: a token on a command line ends up in logs; set HF_TOKEN in the environment")
        if word.split("=")[0] in _SET_HERE:
            raise ConfigError(f"--trl: {word} is set by aad {command} itself; leave it out")
    return words
