"""``aad study``: the paper's experiments on any pair, as tables and plots."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from aad_plugin.cli.pair_options import NamedPair, names_a_pair
from aad_plugin.cli.study_pairs import find_pairs, run_pairs, write_pairs
from aad_plugin.errors import ConfigError
from aad_plugin.settings import SETTING_NAMES, DecodingSettings


@names_a_pair
def study(
    named: NamedPair,
    output: Annotated[Path, typer.Option(help="Folder of the study; the same command goes on with it.")],
    prompts: Annotated[
        str | None,
        typer.Option(help="File (.txt, .jsonl, .json, .csv, .parquet) or data set, hub id or folder, #split."),
    ] = None,
    oracle: Annotated[str | None, typer.Option(help="Who scores: reward:<folder, hub id or demo>.")] = None,
    picker: Annotated[str, typer.Option(help="Who picks in best_of_N: implicit or reward:<model>.")] = "implicit",
    num_prompts: Annotated[int, typer.Option(help="Prompts of the table.")] = 200,
    num_dev: Annotated[
        int | None,
        typer.Option(
            help="Other prompts, for the sweeps; 0 leaves them out. Default: a quarter of the table's, at most 50."
        ),
    ] = None,
    num_curve: Annotated[
        int | None,
        typer.Option(
            help="Table prompts of the best_of_N curve; 0 leaves it out. Default: a fifth of the table's, at most 40."
        ),
    ] = None,
    num_extra: Annotated[
        int | None, typer.Option(help="Table prompts of the rows beside the paper's five; default: all.")
    ] = None,
    samples: Annotated[int, typer.Option(help="Samples per prompt of the curve: its largest N.")] = 50,
    seeds: Annotated[str, typer.Option(help="Seeds of sampled rows, at least three.")] = "1,2,3",
    alpha: Annotated[float, typer.Option(help="Of the table's AAD.")] = 0.1,
    eft_scale: Annotated[float, typer.Option(help="Of the table's EFT.")] = 1.5,
    alphas: Annotated[str, typer.Option(help="Swept on the dev split.")] = "0.01,0.05,0.1,0.2,0.5",
    eft_scales: Annotated[str, typer.Option(help="Swept on the dev split.")] = "1.25,1.5,2,4,8",
    num_beams: Annotated[int, typer.Option(help="Of AAD's beam search; 0 leaves it out.")] = 4,
    guide_scale: Annotated[
        str | None, typer.Option(help="Of one more row by the pair's guides (--guide); 1+0.5 for two.")
    ] = None,
    wrong_reference: Annotated[
        str | None, typer.Option(help="A checkpoint that is not the policy's reference, for one more row.")
    ] = None,
    max_new_tokens: Annotated[int, typer.Option(help="Budget per answer in tokens.")] = 256,
    batch_size: Annotated[int, typer.Option(help="Rows decoded together.")] = 32,
    split_seed: Annotated[int, typer.Option(help="Of the draw into table and dev split.")] = 0,
    trained_on: Annotated[
        list[Path] | None,
        typer.Option(help="Prompts or preferences a model here was trained on; shared ones are told."),
    ] = None,
    pairs: Annotated[
        list[str] | None,
        typer.Option(help="Folders of several pairs (NAME=DIR) for one table, over --reference; may be repeated."),
    ] = None,
    preferences: Annotated[
        Path | None, typer.Option(help="With --pairs: held-out preferences, for the implicit reward's accuracy.")
    ] = None,
    tables_only: Annotated[bool, typer.Option("--tables-only", help="Only redo tables and plots.")] = False,
) -> None:
    """Compare greedy, best_of_N, EFT and AAD by an oracle's reward; killed at any instant it goes on where it was."""
    several = pairs or (output / "pairs.json").is_file()
    if tables_only:
        write_pairs(output) if several else _write(output)
        return
    if prompts is None or oracle is None:
        raise ConfigError("a study needs --prompts FILE and --oracle reward:<model> (or --tables-only)")
    from aad_plugin.study.plan import StudyPlan, keep_plan
    from aad_plugin.study.prompts import draw_splits, read_prompts

    named_pairs = find_pairs(named, pairs) if pairs else {}
    if not pairs:
        named.check()
    asked = named.arguments
    if own := [name for name in asked if name in SETTING_NAMES]:
        raise ConfigError(
            f"a study sets the decoding itself: leave {own[0]} out of --model-args (see aad study --help)"
        )
    num_dev, num_curve = _counts(output, num_prompts, num_dev, num_curve)
    if num_prompts < 2 or num_dev < 0:
        raise ConfigError(f"--num-prompts must be at least 2 and --num-dev at least 0, got {num_prompts} and {num_dev}")
    table, dev = draw_splits(read_prompts(prompts), num_prompts, num_dev, split_seed)
    if pairs:
        num_curve, num_extra, num_beams, eft_scales = 0, 0, 0, ""
        wrong_reference = guide_scale = None
    plan = StudyPlan(
        table=table, dev=dev, oracle=oracle, picker=picker, num_curve=num_curve, samples=samples,
        num_extra=num_prompts if num_extra is None else num_extra, seeds=_numbers("--seeds", seeds, int),
        alpha=alpha, eft_scale=eft_scale, alphas=_numbers("--alphas", alphas, float),
        eft_scales=_numbers("--eft-scales", eft_scales, float), num_beams=num_beams, wrong_reference=wrong_reference,
        max_new_tokens=max_new_tokens, batch_size=batch_size,
        guide_scale=None if guide_scale is None else DecodingSettings().override(guide_scale=guide_scale).guide_scale,
    )  # fmt: skip
    if guide_scale is not None:
        named.check(strategy="guided", guide_scale=guide_scale)
    _check_plots(output)
    _warn(plan, asked.get("pair"), trained_on or [])
    if pairs:
        run_pairs(named_pairs, output, plan, preferences, asked.get("device"))
        return
    from aad_plugin.study.decoding import Decoder, load_wrong_reference
    from aad_plugin.study.models import account
    from aad_plugin.study.running import run_study
    from aad_plugin.study.scoring import Scorer

    loaded = named.load()
    wrong = load_wrong_reference(loaded, wrong_reference) if wrong_reference else None
    keep_plan(output, plan, account(plan, loaded, wrong))
    decoder = Decoder(loaded, wrong, max_new_tokens=max_new_tokens, batch_size=batch_size)
    scorers = [Scorer(spec, device=asked.get("device")) for spec in plan.scorers]
    run_study(output, plan, decoder, scorers)
    _write(output)


def _counts(output: Path, num_prompts: int, num_dev: int | None, num_curve: int | None) -> tuple[int, int]:
    """Prompts of the sweeps and of the curve: as given, as the folder's study has them, or in proportion to the table."""
    from aad_plugin.study.plan import FILE, read_plan

    dev, of_curve = min(50, -(-num_prompts // 4)), min(40, -(-num_prompts // 5))
    if (output / FILE).is_file():
        there, _ = read_plan(output)
        if len(there.table) == num_prompts:
            dev, of_curve = len(there.dev), there.num_curve
    return dev if num_dev is None else num_dev, of_curve if num_curve is None else num_curve


def _check_plots(output: Path) -> None:
    from aad_plugin.pages.plotting import check_plots

    if output.exists() and not output.is_dir():
        raise ConfigError(f"--output {output} is a file, expected a folder")
    check_plots(output)


def _warn(plan: Any, pair: str | None, trained_on: list[Path]) -> None:
    from aad_plugin.study.known_prompts import training_overlaps

    names = {"oracle": plan.oracle, "picker": plan.picker, "pair": pair}
    for warning in training_overlaps([*plan.table, *plan.dev], names, trained_on):
        typer.echo(f"warning: {warning}", err=True)


def _write(output: Path) -> None:
    from aad_plugin.study.writing import told, write_study

    for path in write_study(output):
        typer.echo(path)
    typer.echo(f"\n{told(output)}")


def _numbers(option: str, text: str, kind: Any) -> tuple[Any, ...]:
    try:
        return tuple(dict.fromkeys(kind(part) for part in text.split(",") if part.strip()))
    except ValueError:
        example = "1,2,3" if kind is int else "0.1,0.2"
        raise ConfigError(f"{option} must be numbers separated by commas, such as {example}, got {text!r}") from None
