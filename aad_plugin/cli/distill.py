"""``aad distill``: one model learns what a pair decodes."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from aad_plugin.cli.option_group import takes
from aad_plugin.cli.pair_options import NamedPair, names_a_pair
from aad_plugin.cli.training_options import TEMPERATURE, TrainingPrompts, TrainingRun
from aad_plugin.errors import ConfigError


@dataclass(frozen=True)
class _Prompts(TrainingPrompts):
    prompts: Annotated[str, typer.Option(help="Prompts that the student answers in training: file or dataset.")]
    held_out_prompts: Annotated[str, typer.Option(help="Prompts for the picker, which chooses the checkpoint.")]


@names_a_pair
@takes(asked=_Prompts, run=TrainingRun)
def distill(
    named: NamedPair,
    asked: _Prompts,
    picker: Annotated[str, typer.Option(help="reward:<model> other than the oracle, or implicit.")],
    output: Annotated[Path, typer.Option(help="Folder for training, answers and the student.")],
    teacher: Annotated[str, typer.Option(help="aad or eft.")] = "aad",
    scale: Annotated[float | None, typer.Option(help="Of the eft teacher; default the pair's, 1.5.")] = None,
    alpha: Annotated[float | None, typer.Option(help="Of the aad teacher's set; default the pair's, 0.1.")] = None,
    teacher_temperature: Annotated[
        float, typer.Option(help="Of softmax(advantage / temperature), the aad teacher's distribution.")
    ] = TEMPERATURE,
    divergence: Annotated[str, typer.Option(help="forward-kl, jsd, or (eft only) reverse-kl.")] = "forward-kl",
    student: Annotated[
        str, typer.Option(help="policy (its LoRA goes on), weights (the policy's, merged) or a checkpoint.")
    ] = "policy",
    recipe: Annotated[str, typer.Option(help="distill, distill_demo, or a .yaml file of TRL's options.")] = "distill",
    *,
    run: TrainingRun,
) -> None:
    """Train one model on its own answers with a pair as its teacher; a killed run goes on where it stopped."""
    unread = {"aad": [("--scale", scale is not None)], "eft": [("--alpha", alpha is not None),
              ("--teacher-temperature", teacher_temperature != TEMPERATURE)]}  # fmt: skip
    for name, is_given in unread.get(teacher, ()):
        if is_given:
            raise ConfigError(f"--teacher {teacher} makes no use of {name}: leave it out")
    named.check(alpha=alpha, eft_scale=scale)
    from aad_plugin.training.trl_command import check_trl

    check_trl()
    from aad_plugin.training.distilling import Plan
    from aad_plugin.training.distilling import distill as train
    from aad_plugin.training.recipes import one_model_recipe

    own = named.settings(alpha=alpha, eft_scale=scale)
    plan = Plan(
        **run.plan(asked, "distill"), training=one_model_recipe(recipe), picker=picker, teacher=teacher,
        scale=own.eft_scale, alpha=own.alpha, temperature=teacher_temperature, divergence=divergence,
        student=student,
    )  # fmt: skip
    train(output, plan, named.arguments)
    typer.echo((output / "distill.md").read_text(encoding="utf-8"))
    typer.echo(f"the student: {output / 'student'}; its README.md says how any host loads it")
