"""Command-line words for a pair, shared by every subcommand that loads one."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from aad_plugin.sources.arguments import parse_model_args

PairName = Annotated[
    str | None, typer.Option("--pair", help="Preset (aad pairs list), pair folder or TRL output folder.")
]
ModelArgs = Annotated[
    str,
    typer.Option("--model-args", help="As lm-eval takes them: policy=…,reference=…,dtype=bfloat16 or a JSON object."),
]


def load(pair: str | None, model_args: str, **settings: Any) -> Any:
    """Load the pair a command line names."""
    from aad_plugin.pair.model import load_pair

    given = {name: value for name, value in settings.items() if value is not None}
    arguments = {**parse_model_args(model_args), **given}
    return load_pair(arguments.pop("pair", None) or pair, **arguments)
