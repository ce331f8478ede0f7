"""Command-line words for a pair, shared by every subcommand that loads one."""

from __future__ import annotations

import json
from typing import Annotated, Any

import typer

from aad_plugin.errors import ConfigError

PairName = Annotated[
    str | None, typer.Option("--pair", help="Preset (aad pairs list), pair folder or TRL output folder.")
]
ModelArgs = Annotated[
    str,
    typer.Option("--model-args", help="As lm-eval takes them: policy=…,reference=…,dtype=bfloat16 or a JSON object."),
]


def parse_model_args(text: str) -> dict[str, Any]:
    """Read ``k=v,k=v`` or a JSON object.

    Raises:
        ConfigError: neither of the two.
    """
    if text.lstrip().startswith("{"):
        try:
            return json.loads(text)
        except ValueError as e:
            raise ConfigError(f"--model-args is not valid JSON: {e}") from e
    unpaired = [part for part in text.split(",") if part.strip() and "=" not in part]
    if unpaired:
        raise ConfigError(f"--model-args expects k=v,k=v, got {unpaired[0]!r}")
    from lm_eval.utils import simple_parse_args_string

    return simple_parse_args_string(text)


def load(pair: str | None, model_args: str, **settings: Any) -> Any:
    """Load the pair a command line names."""
    from aad_plugin.pair.model import load_pair

    given = {name: value for name, value in settings.items() if value is not None}
    arguments = {**parse_model_args(model_args), **given}
    return load_pair(arguments.pop("pair", None) or pair, **arguments)
