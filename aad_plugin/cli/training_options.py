"""Options that `aad distill`, `aad rl` and `aad iterate` share: three sets of prompts, an oracle, and how a run goes."""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from typing import Annotated, Any

import typer

from aad_plugin.errors import ConfigError

TEMPERATURE = 0.25
"""Of softmax(advantage / temperature), from which a pair teaches or draws."""
_SET_HERE = ("config", "model_name_or_path", "dataset_name", "output_dir")


@dataclass(frozen=True)
class TrainingPrompts:
    """The prompts of a run, each set with an office of its own, and who judges the last; commands say what a set is for."""

    prompts: Annotated[str, typer.Option()]
    held_out_prompts: Annotated[str, typer.Option()]
    oracle_prompts: Annotated[str, typer.Option(help="Prompts for the oracle, which is only reported.")]
    oracle: Annotated[str, typer.Option(help="reward:<model>; decides nothing.")]

    def read(self, field: str | None, limit: int | None) -> dict[str, Any]:
        """Return what every plan takes of them.

        Args:
            field: the column that holds the prompt. limit: of ``prompts`` only the first so many.
        Raises:
            ConfigError: a file or dataset that cannot be read.
        """
        from aad_plugin.texts.prompts import read_prompts

        return {
            "prompts": read_prompts(self.prompts, field).first(limit),
            "held_out": read_prompts(self.held_out_prompts, field),
            "oracle_prompts": read_prompts(self.oracle_prompts, field),
            "oracle": self.oracle,
        }


@dataclass(frozen=True)
class TrainingRun:
    """How a run that makes one model goes."""

    trl: Annotated[str, typer.Option("--trl", help='More of TRL\'s options: "--max_steps 40 --seed 1".')] = ""
    limit: Annotated[int | None, typer.Option(min=1, help="Only the first so many of --prompts.")] = None
    batch_size: Annotated[int, typer.Option(help="Prompts decoded together when evaluating.")] = 8
    prompt_field: Annotated[str | None, typer.Option(help="Column that holds the prompt.")] = None
    max_new_tokens: Annotated[int, typer.Option(help="Budget per evaluated answer in tokens.")] = 256

    def plan(self, prompts: TrainingPrompts, command: str) -> dict[str, Any]:
        """Return what every plan takes of the prompts and of these; ``command`` as in :func:`trl_words`."""
        return {
            **prompts.read(self.prompt_field, self.limit),
            "trl_arguments": trl_words(self.trl, command),
            "batch_size": self.batch_size,
            "max_new_tokens": self.max_new_tokens,
        }


def trl_words(text: str, command: str) -> tuple[str, ...]:
    """Return the words of ``--trl "--max_steps 40 --beta 0.2"``, more of TRL's options.

    Args:
        command: ``aad``'s, which sets some options itself.
    Raises:
        ConfigError: one of those, or a token, which would end up in logs.
    """
    from aad_plugin.training.trl_command import option_name

    try:
        words = tuple(shlex.split(text))
    except ValueError as error:
        raise ConfigError(f"--trl {text!r} cannot be split into words: {error}") from error
    for word in words:
        name = option_name(word) if word.startswith("--") else ""
        if name == "hub_token":
            raise ConfigError("--trl: a token on a command line ends up in logs; set HF_TOKEN in the environment")
        if name in _SET_HERE:
            raise ConfigError(f"--trl: {word} is set by aad {command} itself; leave it out")
    return words
