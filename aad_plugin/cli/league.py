"""`aad league`: rank many systems by verdicts that are there already."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from aad_plugin.cli.judge_systems import rank
from aad_plugin.errors import ConfigError

Style = Annotated[str, typer.Option(help="Control for style: all, markdown, or any of length,headers,lists,bold.")]
Sides = Annotated[bool, typer.Option("--sides", help="Count soft verdicts as whole wins of the side they favour.")]
Elo = Annotated[bool, typer.Option("--elo", help="Also the sequential Elo rating, which depends on the order.")]
Draws = Annotated[int, typer.Option(help="Draws of questions for the intervals.", min=100)]


def league(
    sources: Annotated[
        list[Path] | None,
        typer.Argument(help="battles.jsonl, judged folders, AlpacaEval annotations, Arena battles; any mixture."),
    ] = None,
    output: Annotated[Path | None, typer.Option(help="Folder for league.json.")] = None,
    anchor: Annotated[str | None, typer.Option(help="The system whose score is 0; default the mean of all.")] = None,
    style: Style = "",
    sides: Sides = False,
    elo: Elo = False,
    draws: Draws = 1000,
    seed: Annotated[int, typer.Option(help="Seed of the draws.")] = 0,
) -> None:
    """Rank systems by Bradley-Terry with ties: scores and ranks with intervals. Asks no judge."""
    if not sources:
        raise ConfigError("pass the battles to rank by: battles.jsonl, a judged folder, annotations.json, …")
    rank(
        sources, output, anchor=anchor, style=style, sides=sides, elo=elo, draws=draws, seed=seed,
        command=" ".join(["aad", *sys.argv[1:]]),
    )  # fmt: skip
