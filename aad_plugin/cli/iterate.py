"""``aad iterate``: rounds of synthetic pairs, TRL's DPO and evaluation."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from aad_plugin.cli.option_group import takes
from aad_plugin.cli.pair_options import NamedPair, names_a_pair
from aad_plugin.cli.training_options import TrainingPrompts, trl_words


def _synthesis(text: str) -> Any:
    return typer.Option(help=text, rich_help_panel="Synthesis, as in aad synthesize")


@dataclass(frozen=True)
class _Prompts(TrainingPrompts):
    prompts: Annotated[str, typer.Option(help="Prompts for the preference pairs: file or dataset.")]
    held_out_prompts: Annotated[str, typer.Option(help="Prompts for the picker, which stops the rounds.")]
    oracle: Annotated[str, typer.Option(help="reward:<model>; it is reported and decides nothing.")]


@dataclass(frozen=True)
class _Synthesis:
    """How each round's preference pairs are made."""

    rejected: Annotated[str, _synthesis("sample or greedy, of the policy.")] = "sample"
    alpha: Annotated[float | None, _synthesis("Plausibility threshold of AAD in (0, 1]; default 0.1.")] = None
    temperature: Annotated[float | None, _synthesis("Temperature of the sample; default 1.")] = None
    top_p: Annotated[float | None, _synthesis("Nucleus of the sample; default 0.95.")] = None
    seed: Annotated[int | None, _synthesis("Seed of the sample; default 1234.")] = None
    min_tokens: Annotated[int, _synthesis("Drop pairs in which an answer has fewer tokens.")] = 1
    keep_truncated: Annotated[bool, _synthesis("Also keep pairs in which an answer was cut at --max-new-tokens.")] = (
        False
    )
    margin_judge: Annotated[str | None, _synthesis("Drop pairs by the rewards of this reward:<model>.")] = None
    min_margin: Annotated[
        float, _synthesis("Drop pairs whose rewards differ by no more than this, with --margin-judge.")
    ] = 0.0

    @property
    def settings(self) -> dict[str, Any]:
        """Of the answers' decoding; None where the pair's own holds."""
        return dict(alpha=self.alpha, temperature=self.temperature, top_p=self.top_p, seed=self.seed)

    def recipe(self, max_new_tokens: int) -> Any:
        """Return what :mod:`aad_plugin.synthesis` takes."""
        from aad_plugin.synthesis.filters import Limits, margin_of
        from aad_plugin.synthesis.synthesizing import Recipe

        limits = Limits(self.min_tokens, self.keep_truncated, margin_of(self.min_margin, self.margin_judge))
        return Recipe(self.rejected, self.settings, max_new_tokens, limits, self.margin_judge)


@names_a_pair
@takes(asked=_Prompts, synthesis=_Synthesis)
def iterate(
    named: NamedPair,
    asked: _Prompts,
    output: Annotated[Path, typer.Option(help="Folder for pairs, policies, answers and tables.")],
    limit: Annotated[int | None, typer.Option(min=1, help="Use only the first N prompts of --prompts.")] = None,
    rounds: Annotated[
        int, typer.Option(help="At most this many rounds; they end earlier if the picker sees no gain.")
    ] = 1,
    picker: Annotated[
        str, typer.Option(help="implicit (the implicit reward of the given pair) or reward:<model>.")
    ] = "implicit",
    recipe: Annotated[
        str, typer.Option(help="Training recipe: dpo, dpo_demo, dpo_demo@1, or a .yaml file for trl dpo.")
    ] = "dpo",
    trl: Annotated[str, typer.Option("--trl", help='More options of trl dpo: "--max_steps 40 --beta 0.2".')] = "",
    engine: Annotated[str, typer.Option(help="hf (transformers) or vllm.")] = "hf",
    batch_size: Annotated[int, typer.Option(help="Prompts decoded together, with --engine hf.")] = 8,
    prompt_field: Annotated[str | None, typer.Option(help="Column that holds the prompt.")] = None,
    max_new_tokens: Annotated[
        int, typer.Option(help="At most this many new tokens per answer, also when evaluating.")
    ] = 256,
    *,
    synthesis: _Synthesis,
) -> None:
    """Repeat: make preference pairs, train the policy on them with TRL, evaluate. After a kill, run it again."""
    named.check(**synthesis.settings)
    from aad_plugin.training.trl_command import check_trl

    check_trl()
    from aad_plugin.harness.asking import check_engine
    from aad_plugin.training.recipes import recipe_path
    from aad_plugin.training.rounds import Plan
    from aad_plugin.training.rounds import iterate as run_rounds

    plan = Plan(
        **asked.read(prompt_field, limit), recipe=synthesis.recipe(max_new_tokens), training=recipe_path(recipe),
        picker=picker, trl_arguments=trl_words(trl, "iterate"), rounds=rounds, engine=check_engine(engine),
        batch_size=batch_size,
    )  # fmt: skip
    run_rounds(output, plan, named.arguments)
    typer.echo((output / "rounds.md").read_text(encoding="utf-8"))
    typer.echo(f"every round's pair, its data and its answers: {output}")
