"""``aad eval``: lm-eval's own command line with this package's models and tasks registered."""

from __future__ import annotations

import sys
from collections.abc import Sequence

import typer


def evaluate(context: typer.Context) -> None:
    """Run lm-eval (`lm_eval run …`) with the aad models and tasks; takes the same arguments."""
    run_lm_eval(context.args)


def run_lm_eval(arguments: Sequence[str]) -> None:
    """Run lm-eval's command line in this process; returns when it has written and printed its results."""
    from aad_plugin.harness.registration import register_all

    register_all()
    from lm_eval.__main__ import cli_evaluate

    # lm-eval's own subcommands may be written out; a bare list of arguments means `run`.
    subcommand = [] if list(arguments[:1]) in (["run"], ["ls"], ["validate"]) else ["run"]
    sys.argv = ["lm_eval", *subcommand, *arguments]
    cli_evaluate()
