"""``aad eval``: lm-eval's own command line with this package's models and tasks registered."""

from __future__ import annotations

import sys

import typer


def evaluate(context: typer.Context) -> None:
    """Run lm-eval (`lm_eval run …`) with the aad models and tasks; takes the same arguments."""
    from aad_plugin.harness.registration import register_all

    register_all()
    from lm_eval.__main__ import cli_evaluate

    # lm-eval's own subcommands may be written out; a bare list of arguments means `run`.
    subcommand = [] if context.args[:1] in (["run"], ["ls"], ["validate"]) else ["run"]
    sys.argv = ["lm_eval", *subcommand, *context.args]
    cli_evaluate()
