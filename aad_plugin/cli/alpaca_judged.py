"""``aad alpaca-eval annotate``, ``leaderboard`` and ``evaluators``: verdicts on outputs, and what they amount to."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from aad_plugin.cli.judge_options import JudgeOptions, cleaner, takes_judge_options
from aad_plugin.errors import ConfigError


@takes_judge_options("rubric", "reasons", "language", "patience_s")
def annotate(
    *,
    outputs: Annotated[Path, typer.Option(help="model_outputs.json, or generate's folder.")],
    output: Annotated[Path, typer.Option(help="Folder for annotations.json, store, verdicts.jsonl, summary.json.")],
    reference: Annotated[
        Path | None,
        typer.Option(help="The reference's outputs; default: AlpacaEval 2's baseline, from the hub or AAD_DATA_DIR."),
    ] = None,
    annotator: Annotated[
        str | None, typer.Option(help="alpaca_eval's annotator, as it runs it: a name (of ours, too) or a folder.")
    ] = None,
    judge: Annotated[
        str | None, typer.Option(help="A judge of `aad judge`, both orders: kind:name or a YAML file.")
    ] = None,
    partial: Annotated[
        bool, typer.Option("--partial", help="Judge a part of AlpacaEval; the output is labelled as a part.")
    ] = False,
    transport: Annotated[str, typer.Option(help="live, batch or file; of --judge.")] = "live",
    max_cost: Annotated[float | None, typer.Option(help="Stop this run before it costs more than this.")] = None,
    max_unjudged: Annotated[float, typer.Option(help="Share of unjudged rows above which the exit code is 2.")] = 0.02,
    asked: JudgeOptions,
) -> None:
    """Compare outputs with the reference's by a judge. After an interruption, run it again: it continues."""
    from aad_plugin.alpaca import annotation as work
    from aad_plugin.alpaca.export import judge_label
    from aad_plugin.alpaca.instructions import load_instructions
    from aad_plugin.alpaca.outputs import read_outputs

    if bool(annotator) == bool(judge):
        raise ConfigError("pass --annotator (alpaca_eval's own) or --judge (ours, both orders); got " + (
            "both" if judge else "neither"))  # fmt: skip
    spec = judge or f"alpaca_eval:{work.evaluator_folder(str(annotator))},order=seeded"
    (loaded,) = asked.load([spec])
    pairs = work.pair_up(read_outputs(outputs), str(outputs), load_instructions(reference, partial=partial), partial)
    verdicts = work.annotate(pairs, loaded, output, transport=transport, max_cost=max_cost)
    summary = work.summary_of(pairs, verdicts)
    _write(output, verdicts, summary, cleaner([loaded]))
    if summary.partial:
        typer.echo(
            f"{summary.n_not_asked} rows were not asked yet; annotations.json is written by the run that finishes them",
            err=True,
        )
        raise typer.Exit(2)
    name = work.annotator_name(loaded)
    typer.echo(f"{output / 'annotations.json'}: {pairs.name} on {pairs.wanted.label}\njudge {judge_label(name)}")
    if summary.too_many_unjudged(max_unjudged):
        typer.echo(
            f"{summary.n_unjudged} of {summary.n} rows have no preference, more than {max_unjudged:.1%}; run the same "
            "command again to ask for them once more",
            err=True,
        )
        raise typer.Exit(2)


def _write(output: Path, verdicts: list[Any], summary: Any, clean: Any) -> None:
    from aad_plugin.judges.statistics.results import print_summary, versions, write_results

    command = clean(" ".join(["aad", *sys.argv[1:]]))
    write_results(output, verdicts, {**summary.to_json(), "versions": versions(), "command": command})
    print_summary(summary)


def leaderboard(
    annotations: Annotated[list[Path], typer.Option(help="annotations.json; may be repeated.")],
    published: Annotated[
        list[Path] | None, typer.Option(help="A published <judge>_leaderboard.csv; may be repeated.")
    ] = None,
    df_gamed: Annotated[Path | None, typer.Option(help="AlpacaEval's df_gamed.csv: its own length control.")] = None,
    difficulties: Annotated[
        Path | None, typer.Option(help="AlpacaEval's instruction difficulties, for our length control.")
    ] = None,
    instructions: Annotated[
        Path | None, typer.Option(help="The instructions that were answered, if they are not AlpacaEval's.")
    ] = None,
    partial: Annotated[
        bool, typer.Option("--partial", help="Allow a part of AlpacaEval; the output is labelled as a part.")
    ] = False,
    top: Annotated[int | None, typer.Option(min=1, help="Show only the best N published rows.")] = None,
) -> None:
    """Print win rates, errors and length-controlled rates with published rows, one table per judge."""
    from aad_plugin.alpaca.tables import entry_of, print_tables, published_entries

    ours = [
        entry_of(path, gamed=df_gamed, difficulties=difficulties, partial=partial, instructions=instructions)
        for path in annotations
    ]
    rows = [entry for path in published or [] for entry in published_entries(path)]
    print_tables([*ours, *rows], [entry.row.name for entry in ours], top)


def evaluators() -> None:
    """List the evaluator configurations that come with this package, for `annotate --annotator`."""
    from aad_plugin.alpaca.evaluator_configs import configurations

    for found in configurations():
        typer.echo(f"{found.name}\n    {found.about}")
