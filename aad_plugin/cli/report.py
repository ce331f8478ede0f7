"""``aad report``: a run's result as a page, as plots, and as a gate between two runs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from aad_plugin.errors import ConfigError

Runs = Annotated[
    list[str] | None,
    typer.Argument(
        help="Folders of runs: FOLDER, or NAME=FOLDER[,FOLDER…] where results, verdicts and traces lie apart."
    ),
]
Output = Annotated[Path | None, typer.Option(help="The page to write.")]


def report(
    runs: Runs = None,
    output: Output = None,
    title: Annotated[str, typer.Option(help="Of the page; default the runs' names.")] = "",
    max_traces: Annotated[
        int, typer.Option(help="Answers whose tokens go into the page, lost ones first.", min=0)
    ] = 400,
) -> None:
    """Show runs as one self-contained page."""
    if output is None:
        raise ConfigError("nothing to write: pass --output report.html")
    from aad_plugin.report.building import build_report

    found = build_report(runs or [], output, title=title, max_traces=max_traces, progress=True)
    for run in found:
        for problem in run.problems:
            typer.echo(f"warning: {problem}", err=True)
    typer.echo(f"written to {output}", err=True)
