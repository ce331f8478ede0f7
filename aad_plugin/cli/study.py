"""``aad study``: the paper's experiments on any pair, as tables and plots."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from aad_plugin.cli.option_group import refuse_unread, takes
from aad_plugin.cli.pair_options import NamedPair, names_a_pair
from aad_plugin.cli.study_pairs import find_pairs, run_pairs, write_pairs
from aad_plugin.errors import ConfigError
from aad_plugin.settings import SETTING_NAMES, DecodingSettings

if TYPE_CHECKING:
    from aad_plugin.study.plan import StudyPlan


_OF_ONE_PAIR = (
    "picker", "num_curve", "num_extra", "samples", "seeds", "eft_scale", "eft_scales", "expo_scale", "expo_scales",
    "num_beams", "guide_scale", "wrong_reference",
)  # fmt: skip


@dataclass(frozen=True)
class Asked:
    """What a command line says of its study."""

    output: Annotated[Path, typer.Option(help="Folder of the study; the same command continues it.")]
    prompts: Annotated[
        str | None,
        typer.Option(help="File (.txt, .jsonl, .json, .csv, .parquet) or data set, hub id or folder, #split."),
    ] = None
    oracle: Annotated[str | None, typer.Option(help="Who scores: reward:<folder, hub id or demo>.")] = None
    picker: Annotated[str, typer.Option(help="Who picks in best_of_N: implicit or reward:<model>.")] = "implicit"
    num_prompts: Annotated[int, typer.Option(help="How many test prompts.")] = 200
    num_dev: Annotated[
        int | None,
        typer.Option(
            help="Other prompts, for the sweeps; 0 for none. Default: a quarter of --num-prompts, at most 50."
        ),
    ] = None
    num_curve: Annotated[
        int | None,
        typer.Option(
            help="Test prompts of the best_of_N curve; 0 for none. Default: a fifth of --num-prompts, at most 40."
        ),
    ] = None
    num_extra: Annotated[
        int | None, typer.Option(help="Test prompts of the rows that are not in the paper; default: all.")
    ] = None
    samples: Annotated[int, typer.Option(help="Samples per prompt of the curve: its largest N.")] = 50
    seeds: Annotated[str, typer.Option(help="Seeds of sampled rows, at least three.")] = "1,2,3"
    alpha: Annotated[float, typer.Option(help="alpha of AAD on the test prompts.")] = 0.1
    eft_scale: Annotated[float, typer.Option(help="Scale of EFT on the test prompts.")] = 1.5
    alphas: Annotated[str, typer.Option(help="Values to try on the dev split.")] = "0.01,0.05,0.1,0.2,0.5"
    eft_scales: Annotated[str, typer.Option(help="Values to try on the dev split.")] = "1.25,1.5,2,4,8"
    expo_scale: Annotated[float, typer.Option(help="Of the table's ExPO; 0 leaves it and its sweep out.")] = 0.5
    expo_scales: Annotated[str, typer.Option(help="Swept on the dev split.")] = "0.25,0.5,1,2"
    num_beams: Annotated[int, typer.Option(help="Beams of AAD's beam search; 0 for none.")] = 4
    guide_scale: Annotated[
        str | None, typer.Option(help="Of one more row by the pair's guides (--guide); 1+0.5 for two.")
    ] = None
    wrong_reference: Annotated[
        str | None, typer.Option(help="A checkpoint that is not the policy's reference, for one more row.")
    ] = None
    max_new_tokens: Annotated[int, typer.Option(help="At most this many new tokens per answer.")] = 256
    batch_size: Annotated[int, typer.Option(help="Rows decoded together.")] = 32
    split_seed: Annotated[int, typer.Option(help="Seed of the draw into test prompts and dev split.")] = 0
    trained_on: Annotated[
        list[Path] | None,
        typer.Option(help="Prompts or preferences that a model here was trained on; the command warns of shared ones."),
    ] = None
    pairs: Annotated[
        list[str] | None,
        typer.Option(help="Folders of several pairs (NAME=DIR) for one table, over --reference; may be repeated."),
    ] = None
    preferences: Annotated[
        Path | None, typer.Option(help="With --pairs: held-out preferences, for the implicit reward's accuracy.")
    ] = None
    tables_only: Annotated[bool, typer.Option("--tables-only", help="Only make tables and plots again.")] = False


@names_a_pair
@takes(asked=Asked)
def study(named: NamedPair, asked: Asked) -> None:
    """Compare greedy, best_of_N, EFT, ExPO and AAD by an oracle's reward. After a kill, run it again: it continues."""
    if asked.tables_only:
        has_pairs = asked.pairs or (asked.output / "pairs.json").is_file()
        write_pairs(asked.output) if has_pairs else _write(asked.output)
        return
    if asked.prompts is None or asked.oracle is None:
        raise ConfigError("a study needs --prompts FILE and --oracle reward:<model> (or --tables-only)")
    if asked.pairs:
        refuse_unread(asked, _OF_ONE_PAIR, "aad study --pairs, which compares AAD and greedy of each,")
    elif asked.preferences:
        raise ConfigError("--preferences belongs to --pairs: aad pairs check --preferences measures one pair by them")
    several = find_pairs(named, asked.pairs) if asked.pairs else {}
    if not several:
        guided = {} if asked.guide_scale is None else {"strategy": "guided", "guide_scale": asked.guide_scale}
        named.check(**guided)
    if own := [name for name in named.arguments if name in SETTING_NAMES]:
        raise ConfigError(
            f"a study sets the decoding itself: leave {own[0]} out of --model-args (see aad study --help)"
        )
    plan = _plan(asked, asked.prompts, asked.oracle)
    _check_plots(asked.output)
    _warn(plan, named.arguments.get("pair"), asked.trained_on or [])
    if several:
        run_pairs(several, asked.output, plan, asked.preferences, named.arguments.get("device"))
        return
    _run(named, asked, plan)
    _write(asked.output)


def _plan(asked: Asked, prompts: str, oracle: str) -> StudyPlan:
    """What the study will do, its prompts drawn."""
    from aad_plugin.study.plan import StudyPlan
    from aad_plugin.study.prompts import draw_splits, read_prompts

    num_dev, num_curve = _counts(asked.output, asked.num_prompts, asked.num_dev, asked.num_curve)
    if asked.num_prompts < 2 or num_dev < 0:
        raise ConfigError(
            f"--num-prompts must be at least 2 and --num-dev at least 0, got {asked.num_prompts} and {num_dev}"
        )
    table, dev = draw_splits(read_prompts(prompts), asked.num_prompts, num_dev, asked.split_seed)
    if asked.pairs:
        alphas = _numbers("--alphas", asked.alphas, float)
        return StudyPlan(
            table=table, dev=dev, oracle=oracle, num_curve=0, num_extra=0, num_beams=0, eft_scales=(), alpha=asked.alpha,
            alphas=alphas, max_new_tokens=asked.max_new_tokens, batch_size=asked.batch_size,
        )  # fmt: skip
    scale = None if asked.guide_scale is None else DecodingSettings().override(guide_scale=asked.guide_scale)
    return StudyPlan(
        table=table, dev=dev, oracle=oracle, picker=asked.picker, num_curve=num_curve, samples=asked.samples,
        num_extra=asked.num_prompts if asked.num_extra is None else asked.num_extra,
        seeds=_numbers("--seeds", asked.seeds, int), alpha=asked.alpha, eft_scale=asked.eft_scale,
        alphas=_numbers("--alphas", asked.alphas, float), eft_scales=_numbers("--eft-scales", asked.eft_scales, float),
        num_beams=asked.num_beams, wrong_reference=asked.wrong_reference, max_new_tokens=asked.max_new_tokens,
        guide_scale=None if scale is None else scale.guide_scale,
        batch_size=asked.batch_size, expo_scale=asked.expo_scale or None,
        expo_scales=_numbers("--expo-scales", asked.expo_scales, float) if asked.expo_scale else (),
    )  # fmt: skip


def _run(named: NamedPair, asked: Asked, plan: StudyPlan) -> None:
    """Load the models and go through the plan."""
    from aad_plugin.study.decoding import Decoder, load_wrong_reference
    from aad_plugin.study.models import account
    from aad_plugin.study.plan import keep_plan
    from aad_plugin.study.running import run_study
    from aad_plugin.study.scoring import Scorer

    loaded = named.load()
    wrong = load_wrong_reference(loaded, asked.wrong_reference) if asked.wrong_reference else None
    keep_plan(asked.output, plan, account(plan, loaded, wrong))
    decoder = Decoder(loaded, wrong, max_new_tokens=asked.max_new_tokens, batch_size=asked.batch_size)
    scorers = [Scorer(spec, device=named.arguments.get("device")) for spec in plan.scorers]
    run_study(asked.output, plan, decoder, scorers)


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
