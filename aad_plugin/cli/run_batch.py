"""``aad run-batch``: a file of requests answered by a pair, on vLLM."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from aad_plugin.cli.engine_options import asked_pair
from aad_plugin.cli.pair_options import NamedPair, names_a_pair


@names_a_pair(positional=True)
def run_batch(
    context: typer.Context,
    named: NamedPair,
    input_file: Annotated[Path, typer.Option("--input-file", "-i", help="Requests in the OpenAI batch schema, JSONL.")],
    output_file: Annotated[Path, typer.Option("--output", "--output-file", "-o", help="File for the answers, JSONL.")],
    name: Annotated[
        str, typer.Option(help="Models are NAME, NAME-greedy, NAME-reference, NAME-eft, NAME-guided.")
    ] = "aad",
    alpha: Annotated[
        float | None, typer.Option(help="Plausibility threshold of requests that do not name one.")
    ] = None,
    guide_scale: Annotated[
        str | None, typer.Option(help="Weight of guides, of requests that do not name one; 1+0.5 for several guides.")
    ] = None,
) -> None:
    """Answer a file of requests; every further argument is one of `vllm run-batch` (--max-model-len 4096 …)."""
    asked, extra = asked_pair(named, alpha=alpha, guide_scale=guide_scale), list(context.args)
    prepared = asked.prepare(extra)
    from aad_plugin.engine.batch import run_batch as run

    run(prepared, name, input_file, output_file, asked.engine_options(extra))
