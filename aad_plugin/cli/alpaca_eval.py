"""``aad alpaca-eval generate | annotate | leaderboard | export | lint``: from a pair to a leaderboard submission."""

from __future__ import annotations

import typer

from aad_plugin.cli.alpaca_generate import generate
from aad_plugin.cli.alpaca_judged import annotate, evaluators, leaderboard
from aad_plugin.cli.alpaca_submit import export, lint
from aad_plugin.cli.grammar import Command, Group

app = typer.Typer(
    help="AlpacaEval: outputs, annotations, leaderboard rows, submissions.",
    no_args_is_help=True,
    rich_markup_mode=None,
    cls=Group,
)
app.command(cls=Command)(generate)
app.command(cls=Command)(annotate)
app.command(cls=Command)(leaderboard)
app.command(cls=Command)(export)
app.command(cls=Command)(lint)
app.command(cls=Command)(evaluators)
