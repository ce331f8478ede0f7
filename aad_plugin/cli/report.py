"""``aad report``: a run's result as a page, as plots, and as a gate between two runs."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from aad_plugin.errors import AADError, ConfigError

Runs = Annotated[
    list[str] | None,
    typer.Argument(help="Runs: FOLDER, or NAME=FOLDER1,FOLDER2 if a run's files are in several folders."),
]
Compare = Annotated[
    tuple[str, str] | None, typer.Option(metavar="OLD NEW", help="Did NEW get worse than OLD? Needs --gate.")
]


def report(
    runs: Runs = None,
    output: Annotated[Path | None, typer.Option(help="The page to write.")] = None,
    title: Annotated[str, typer.Option(help="Title of the page; default: the runs' names.")] = "",
    max_traces: Annotated[
        int, typer.Option(help="Answers whose tokens are part of the page; lost comparisons come first.", min=0)
    ] = 400,
    plots: Annotated[Path | None, typer.Option(help="Folder for the figures as SVG and PNG, for a paper.")] = None,
    compare: Compare = None,
    gate: Annotated[Path | None, typer.Option(help="YAML: which metrics must not drop; see docs/report.md.")] = None,
    json_file: Annotated[Path | None, typer.Option("--json", help="The gate's findings as JSON.")] = None,
    junit: Annotated[Path | None, typer.Option(help="The gate's findings as JUnit XML.")] = None,
) -> None:
    """Show runs as one self-contained page, or compare two of them.

    Exit code of --compare: 0 no regression. 1: a regression. 2: a mistake in the call. 3: the runs are not comparable.
    """
    if compare is None:
        for name, value in (("--gate", gate), ("--json", json_file), ("--junit", junit)):
            if value is not None:
                raise ConfigError(f"{name} belongs to a comparison: pass --compare OLD NEW")
        _page(runs or [], output, plots, title, max_traces)
        return
    try:
        if runs:
            raise ConfigError(f"--compare takes both runs itself, got {runs[0]!r} besides")
        result = _compare(compare, gate, json_file, junit)
        if output is not None or plots is not None:
            _page(list(compare), output, plots, title, max_traces)
    except AADError as error:
        print(f"error: {error}", file=sys.stderr)
        raise typer.Exit(2) from error
    raise typer.Exit(result.exit_code)


def _page(runs: list[str], output: Path | None, plots: Path | None, title: str, max_traces: int) -> None:
    if output is None and plots is None:
        raise ConfigError("nothing to write: pass --output report.html or --plots FOLDER")
    from aad_plugin.files.whole import check_writable
    from aad_plugin.pages.plotting import check_plots
    from aad_plugin.report.building import build_report, read_runs
    from aad_plugin.report.plots import write_plots

    if output is not None:
        check_writable(output)
    if plots is not None:
        check_plots(plots)
    found = read_runs(runs)
    _warn(found)
    if output is not None:
        build_report(found, output, title=title, max_traces=max_traces, progress=True)
        typer.echo(f"written to {output}", err=True)
    if plots is not None:
        typer.echo(f"{len(write_plots(found, plots))} files written to {plots}", err=True)


def _compare(compare: tuple[str, str], gate: Path | None, json_file: Path | None, junit: Path | None) -> Any:
    if gate is None:
        raise ConfigError("--compare needs --gate FILE: which metrics must not drop (an empty file gates them all)")
    from aad_plugin.files.whole import check_writable
    from aad_plugin.report.building import read_runs
    from aad_plugin.report.gate import check_gate
    from aad_plugin.report.gate_file import read_gate
    from aad_plugin.report.gate_views import gate_text, junit_xml, write_json

    rules = read_gate(gate)
    for path in (json_file, junit):
        if path:
            check_writable(path)
    old, new = read_runs(compare)
    _warn([old, new])
    result = check_gate(old, new, rules)
    typer.echo(gate_text(result))
    if json_file:
        write_json(result, json_file)
    if junit:
        junit_xml(result, junit)
    return result


def _warn(runs: list[Any]) -> None:
    for run in runs:
        for problem in run.problems:
            typer.echo(f"warning: {run.name}: {problem}", err=True)
