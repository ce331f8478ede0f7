"""``aad alpaca-eval generate | annotate | leaderboard | export | lint``: from a pair to a leaderboard submission."""

from __future__ import annotations

import typer

from aad_plugin.cli.alpaca_generate import generate
from aad_plugin.cli.alpaca_judged import annotate, evaluators, leaderboard
from aad_plugin.cli.alpaca_submit import export, lint

app = typer.Typer(
    help="AlpacaEval: outputs, annotations, leaderboard rows, submissions.", no_args_is_help=True, rich_markup_mode=None
)
app.command()(generate)
app.command()(annotate)
app.command()(leaderboard)
app.command()(export)
app.command()(lint)
app.command()(evaluators)
