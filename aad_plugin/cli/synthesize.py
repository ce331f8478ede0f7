"""``aad synthesize``: preference pairs out of prompts, chosen = AAD, rejected = the policy's own answer."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from aad_plugin.cli.pair_options import NamedPair, names_a_pair


@names_a_pair
def synthesize(
    named: NamedPair,
    prompts: Annotated[
        str,
        typer.Option(
            help="File (.txt, .jsonl, .json, .csv, .parquet) or dataset (hub id or folder, #split); rows may show images."
        ),
    ],
    output: Annotated[Path, typer.Option(help="Folder for pairs, card and kept answers.")],
    rejected: Annotated[str, typer.Option(help="sample (nucleus, the paper's) or greedy, of the policy.")] = "sample",
    engine: Annotated[str, typer.Option(help="hf (transformers) or vllm.")] = "hf",
    max_new_tokens: Annotated[int, typer.Option(help="At most this many new tokens per answer.")] = 256,
    batch_size: Annotated[int, typer.Option(help="Prompts decoded together, with --engine hf.")] = 8,
    alpha: Annotated[float | None, typer.Option(help="Plausibility threshold of AAD in (0, 1]; default 0.1.")] = None,
    temperature: Annotated[float | None, typer.Option(help="Temperature of the sample; default 1.")] = None,
    top_p: Annotated[float | None, typer.Option(help="Nucleus of the sample; default 0.95.")] = None,
    seed: Annotated[int | None, typer.Option(help="Seed of the sample; default 1234.")] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Use only the first N prompts.")] = None,
    prompt_field: Annotated[str | None, typer.Option(help="Column that holds the prompt.")] = None,
    min_tokens: Annotated[int, typer.Option(help="Drop pairs in which an answer has fewer tokens.")] = 1,
    keep_truncated: Annotated[
        bool, typer.Option("--keep-truncated", help="Also keep pairs in which an answer was cut at --max-new-tokens.")
    ] = False,
    margin_judge: Annotated[str | None, typer.Option(help="Drop pairs by the rewards of this reward:<model>.")] = None,
    skip_long: Annotated[
        bool, typer.Option("--skip-long", help="Leave out prompts that do not fit into the context, and count them.")
    ] = False,
    min_margin: Annotated[
        float, typer.Option(help="Drop pairs whose rewards differ by no more than this, with --margin-judge.")
    ] = 0.0,
) -> None:
    """Make preference pairs for another round of DPO. After a kill, run it again: it continues."""
    settings = dict(alpha=alpha, temperature=temperature, top_p=top_p, seed=seed)
    named.check(**settings)
    from aad_plugin.sources.picture_prompts import read_picture_prompts
    from aad_plugin.synthesis import synthesizing
    from aad_plugin.synthesis.filters import Limits, margin_of

    limits = Limits(min_tokens, keep_truncated, margin_of(min_margin, margin_judge))
    recipe = synthesizing.Recipe(rejected, settings, max_new_tokens, limits, margin_judge, skip_long)
    asked = read_picture_prompts(prompts, prompt_field).first(limit)
    done = synthesizing.synthesize(
        output, asked, recipe, model_args=named.arguments, engine=engine, batch_size=batch_size
    )
    dropped = ", ".join(f"{name} {count}" for name, count in done.dropped.items())
    if skipped := done.account.get("skipped_long"):
        dropped += f", too long for the context {skipped}"
    typer.echo(f"{done.kept} pairs of {len(asked)} prompts (left out: {dropped})")
    typer.echo(f"{done.jsonl}\n{done.dataset}: trl dpo --dataset_name {done.dataset} …")
