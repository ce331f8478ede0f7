"""``aad distill``: one model learns what a pair decodes."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from aad_plugin.cli.pair_options import NamedPair, names_a_pair
from aad_plugin.cli.trl_words import trl_words


@names_a_pair
def distill(
    named: NamedPair,
    prompts: Annotated[str, typer.Option(help="Prompts that the student answers in training: file or dataset.")],
    held_out_prompts: Annotated[str, typer.Option(help="Prompts for the picker, which chooses the checkpoint.")],
    oracle_prompts: Annotated[str, typer.Option(help="Prompts for the oracle, which is only reported.")],
    oracle: Annotated[str, typer.Option(help="reward:<model>; decides nothing.")],
    picker: Annotated[str, typer.Option(help="reward:<model> other than the oracle, or implicit.")],
    output: Annotated[Path, typer.Option(help="Folder for training, answers and the student.")],
    teacher: Annotated[str, typer.Option(help="aad or eft.")] = "aad",
    scale: Annotated[float, typer.Option(help="Of the eft teacher.")] = 1.5,
    alpha: Annotated[float | None, typer.Option(help="Of the aad teacher's plausible set; default 0.1.")] = None,
    teacher_temperature: Annotated[
        float, typer.Option(help="Of softmax(advantage / temperature), the aad teacher's distribution.")
    ] = 0.25,
    divergence: Annotated[str, typer.Option(help="forward-kl, jsd, or (eft only) reverse-kl.")] = "forward-kl",
    student: Annotated[
        str, typer.Option(help="policy (its LoRA goes on), weights (the policy's, merged) or a checkpoint.")
    ] = "policy",
    recipe: Annotated[str, typer.Option(help="distill, distill_demo, or a .yaml file of TRL's options.")] = "distill",
    trl: Annotated[str, typer.Option("--trl", help='More of TRL\'s options: "--max_steps 40 --seed 1".')] = "",
    limit: Annotated[int | None, typer.Option(min=1, help="Only the first so many of --prompts.")] = None,
    batch_size: Annotated[int, typer.Option(help="Prompts decoded together when evaluating.")] = 8,
    prompt_field: Annotated[str | None, typer.Option(help="Column that holds the prompt.")] = None,
    max_new_tokens: Annotated[int, typer.Option(help="Budget per evaluated answer in tokens.")] = 256,
) -> None:
    """Train one model on its own answers with a pair as its teacher; a killed run goes on where it stopped."""
    named.check(alpha=alpha, eft_scale=scale)
    from aad_plugin.training.trl_command import check_trl

    check_trl()
    from aad_plugin.settings import DecodingSettings
    from aad_plugin.texts.prompts import read_prompts
    from aad_plugin.training.distilling import Plan
    from aad_plugin.training.distilling import distill as run
    from aad_plugin.training.recipes import one_model_recipe

    plan = Plan(
        prompts=read_prompts(prompts, prompt_field).first(limit),
        held_out=read_prompts(held_out_prompts, prompt_field),
        oracle_prompts=read_prompts(oracle_prompts, prompt_field),
        training=one_model_recipe(recipe), oracle=oracle, picker=picker, teacher=teacher, scale=scale,
        alpha=DecodingSettings().override(alpha=alpha).alpha, temperature=teacher_temperature, divergence=divergence,
        student=student, trl_arguments=trl_words(trl, "distill"), batch_size=batch_size, max_new_tokens=max_new_tokens,
    )  # fmt: skip
    run(output, plan, named.arguments)
    typer.echo((output / "distill.md").read_text(encoding="utf-8"))
    typer.echo(f"the student: {output / 'student'}; its README.md says how any host loads it")
