"""``aad alpaca-eval export`` and ``lint``: the files of a submission, and the rules they are held to."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from aad_plugin.errors import ConfigError

if TYPE_CHECKING:
    from aad_plugin.alpaca.instructions import InstructionSet

_FORMATS = ("alpaca-eval", "every-eval-ever")
Instructions = Annotated[
    Path | None,
    typer.Option(help="The set answered, where it is not AlpacaEval's: JSON, with the reference's outputs."),
]


def export(
    outputs: Annotated[Path, typer.Option(help="model_outputs.json, or generate's folder.")],
    annotations: Annotated[Path, typer.Option(help="annotations.json, by `annotate` or by alpaca_eval.")],
    output: Annotated[Path, typer.Option(help="Folder for the submission.")],
    to: Annotated[str, typer.Option(help="alpaca-eval or every-eval-ever.")] = "alpaca-eval",
    instructions: Instructions = None,
    partial: Annotated[bool, typer.Option("--partial", help="A part of AlpacaEval; only to every-eval-ever.")] = False,
    df_gamed: Annotated[
        Path | None, typer.Option(help="AlpacaEval's df_gamed.csv: adds length-controlled rate and weights row.")
    ] = None,
    checkout: Annotated[
        Path | None, typer.Option(help="Clone of alpaca_eval: its leaderboard and weights are extended, in OUTPUT.")
    ] = None,
    pretty_name: Annotated[str, typer.Option(help="The model's name on the website.")] = "",
    link: Annotated[str, typer.Option(help="URL that describes the model.")] = "",
    model_id: Annotated[str, typer.Option(help="ORGANISATION/MODEL, for every-eval-ever.")] = "",
    organization: Annotated[str, typer.Option(help="Who ran the evaluation, for every-eval-ever.")] = "",
) -> None:
    """Write the files of a pull request to alpaca_eval, or a record of the every_eval_ever project."""
    from aad_plugin.alpaca.export import load_submission, write_submission

    if to not in _FORMATS:
        raise ConfigError(f"--to must be {' or '.join(_FORMATS)}, got {to!r}")
    if checkout is not None and not (checkout / "src/alpaca_eval").is_dir():
        raise ConfigError(f"--checkout {checkout} is no clone of alpaca_eval: it has no folder src/alpaca_eval")
    wanted = _wanted(instructions, outputs if partial else None)
    submission = load_submission(outputs, annotations, wanted, gamed=df_gamed)
    if to == "alpaca-eval":
        files = write_submission(submission, output, checkout=checkout, pretty_name=pretty_name, link=link)
    else:
        from aad_plugin.alpaca.every_eval_ever import write_record

        judging = _judging(annotations.with_name("summary.json"))
        files = write_record(submission, output, model_id=model_id, organization=organization, judging=judging)
    for path in files:
        typer.echo(path)


def lint(
    folder: Annotated[Path, typer.Argument(help="What `export` wrote, or a checkout of alpaca_eval.")],
    name: Annotated[str | None, typer.Option(help="Only this model.")] = None,
    instructions: Instructions = None,
    strict: Annotated[bool, typer.Option("--strict", help="Fail on warnings, too.")] = False,
) -> None:
    """Check a submission by AlpacaEval's rules. Exit code 0: no rule is broken. 3: some are. 1: nothing to check."""
    from aad_plugin.alpaca.lint import lint as check

    found = check(folder, _wanted(instructions, None), name)
    for finding in found:
        typer.echo(str(finding))
    errors = sum(finding.level == "error" for finding in found)
    typer.echo(f"{errors} errors, {len(found) - errors} warnings")
    if errors or (strict and found):
        raise typer.Exit(3)


def _judging(path: Path) -> dict[str, Any]:
    """What a judged run of this package says about its judge; nothing where the annotations come from elsewhere."""
    try:
        content = json.loads(path.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def _wanted(instructions: Path | None, part: Path | None) -> InstructionSet:
    """The instruction set a submission answers; with `part`, AlpacaEval's as far as these outputs answer them."""
    from aad_plugin.alpaca.instructions import InstructionSet, load_instructions

    if instructions is not None:
        return load_instructions(instructions, partial=part is not None)
    if part is not None:
        return load_instructions(part / "model_outputs.json" if part.is_dir() else part, partial=True)
    return InstructionSet.official()
