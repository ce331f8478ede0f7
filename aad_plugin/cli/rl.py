"""``aad rl``: a policy optimised with its own pair's reward or answers, through TRL."""

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
    prompts: Annotated[str, typer.Option(help="Prompts that are trained on: file or dataset.")]
    held_out_prompts: Annotated[str, typer.Option(help="Prompts whose answers' implicit reward is told.")]


@names_a_pair
@takes(asked=_Prompts, run=TrainingRun)
def rl(
    named: NamedPair,
    recipe: Annotated[str, typer.Option(help="grpo-implicit, rloo-implicit or grpo-rollouts.")],
    asked: _Prompts,
    output: Annotated[Path, typer.Option(help="Folder for training, answers and the policy.")],
    training: Annotated[str, typer.Option(help="grpo, grpo_demo, or a .yaml file of TRL's options.")] = "grpo",
    reward: Annotated[str, typer.Option(help="implicit, or with grpo-rollouts reward:<model>.")] = "implicit",
    per_token: Annotated[
        bool, typer.Option("--per-token", help="Divide the implicit reward by the answer's length.")
    ] = False,
    share: Annotated[
        float | None, typer.Option(help="Part of each group that the pair draws; grpo-rollouts, default 0.25.")
    ] = None,
    alpha: Annotated[
        float | None, typer.Option(help="Of the pair's plausible set; default the pair's own, 0.1.")
    ] = None,
    teacher_temperature: Annotated[
        float, typer.Option(help="The pair draws from softmax(advantage / temperature).")
    ] = TEMPERATURE,
    *,
    run: TrainingRun,
) -> None:
    """Optimise a policy with its pair's implicit reward or answers; a killed run goes on where it stopped."""
    if recipe != "grpo-rollouts" and (alpha is not None or teacher_temperature != TEMPERATURE):
        name = "--alpha" if alpha is not None else "--teacher-temperature"
        raise ConfigError(
            f"--recipe {recipe} makes no use of {name}, which is of answers that the pair draws: leave it out"
        )
    named.check(alpha=alpha)
    from aad_plugin.training.trl_command import check_trl

    check_trl()
    from aad_plugin.training.recipes import one_model_recipe
    from aad_plugin.training.reinforcing import Plan, reinforce

    plan = Plan(
        **run.plan(asked, "rl"), recipe=recipe, training=one_model_recipe(training), reward=reward, per_token=per_token,
        share=(0.25 if recipe == "grpo-rollouts" else 0.0) if share is None else share,
        alpha=named.settings(alpha=alpha).alpha, temperature=teacher_temperature,
    )  # fmt: skip
    reinforce(output, plan, named.arguments)
    typer.echo((output / "rl.md").read_text(encoding="utf-8"))
    typer.echo(f"the policy: {output / 'policy'}; its README.md says how any host loads it")
