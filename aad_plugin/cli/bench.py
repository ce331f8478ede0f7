"""``aad bench``: tokens per second and memory of a pair's strategies, interleaved with what else a user would run."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from aad_plugin.cli.grammar import listed
from aad_plugin.cli.pair_options import NamedPair, names_a_pair
from aad_plugin.errors import ConfigError
from aad_plugin.files.whole import check_writable, write_text
from aad_plugin.texts.prompts import prompt_rows


@names_a_pair
def bench(
    named: NamedPair,
    strategies: Annotated[
        list[str] | None, typer.Option(help="Strategies, by commas or repeated; default greedy,aad.")
    ] = None,
    batch_sizes: Annotated[str, typer.Option(help="Prompts decoded together, separated by commas.")] = "1,4,16",
    max_new_tokens: Annotated[int, typer.Option(help="New tokens per answer; no answer stops earlier.")] = 64,
    rounds: Annotated[int, typer.Option(help="Timed rounds; everything that is compared runs once in each.")] = 5,
    draft: Annotated[int, typer.Option(help="Also with this many prompt-lookup tokens, at batch size 1.")] = 0,
    draft_model: Annotated[
        str | None, typer.Option(help="Also with this small model's guesses, at batch size 1.")
    ] = None,
    threads: Annotated[int | None, typer.Option(help="Threads of torch on CPU.")] = None,
    prompts: Annotated[
        str | None,
        typer.Option(help="File (.txt, .jsonl, .json, .csv, .parquet) or dataset; default: the demo task's."),
    ] = None,
    engine: Annotated[str, typer.Option(help="hf or vllm.")] = "hf",
    eager: Annotated[bool, typer.Option("--eager", help="vLLM without compilation and CUDA graphs.")] = False,
    output: Annotated[Path | None, typer.Option(help="Write every figure here, as JSON.")] = None,
) -> None:
    """Measure how fast a pair decodes: ratios to greedy decoding of the merged policy and to the naive two-model loop."""
    names = listed(strategies or ["greedy,aad"])
    for name in names:
        named.check(strategy=name)
    sizes = _sizes(batch_sizes)
    if rounds < 1 or max_new_tokens < 1 or draft < 0:
        raise ConfigError("--rounds and --max-new-tokens must be at least 1, --draft at least 0")
    if engine not in ("hf", "vllm"):
        raise ConfigError(f"--engine must be hf or vllm, got {engine!r}")
    if eager and engine != "vllm":
        raise ConfigError("--eager is for --engine vllm: the transformers engine compiles nothing")
    if draft_model and engine != "hf":
        raise ConfigError("--draft-model is for --engine hf: vLLM takes its drafts by speculative_config")
    asked = read_prompts(prompts, max(sizes))
    if output:
        check_writable(output)
    import torch
    from rich.console import Console

    from aad_plugin.files.versions import versions
    from aad_plugin.speed.report import machine, rows, table

    if threads:
        torch.set_num_threads(threads)
    dtype = str(named.arguments.get("dtype", "auto"))
    guesses = None
    if engine == "vllm":
        found, account = _on_vllm(named, dtype, asked, names, sizes, max_new_tokens, rounds, eager)
    else:
        loaded = named.load()
        from aad_plugin.pair.account import describe
        from aad_plugin.speed import hf
        from aad_plugin.speed.measure import interleave

        guesses = _draft(loaded, draft_model)
        timings = interleave(hf.contestants(loaded, asked, names, sizes, max_new_tokens, draft, guesses), rounds)
        found, account, dtype = rows(timings, hf.BASELINES, hf.NAIVE), describe(loaded), str(loaded.sides.policy.dtype)
    title = f"{named.title}, {engine}, {dtype}, {max_new_tokens} tokens, median of {rounds} rounds"
    # A file or a pipe has no width of its own: the table is not folded there.
    Console(width=None if sys.stdout.isatty() else 150).print(table(found, title.replace("torch.", "")))
    if output:
        record = {
            "pair": account, "draft": guesses.account() if guesses is not None else None,
            "engine": engine, "max_new_tokens": max_new_tokens, "machine": machine(),
            "versions": versions(), "rows": found,
        }  # fmt: skip
        write_text(output, json.dumps(record, indent=1, default=str) + "\n")


def _draft(pair: Any, name: str | None) -> Any:
    """Return the draft that some contestants have; the pair itself is left with none."""
    from aad_plugin.pair.draft_loading import load_draft

    found = load_draft(name, pair.sides, pair.tokenizer, pair.vocab_size) if name else pair.draft
    pair.draft = None
    return found


def _on_vllm(
    named: NamedPair, dtype: str, prompts: list[str], names: list[str], sizes: list[int], tokens: int,
    rounds: int, eager: bool,
) -> tuple[list[dict[str, Any]], dict[str, Any]]:  # fmt: skip
    from aad_plugin.cli.engine_options import asked_pair

    asked = asked_pair(named, None)
    from aad_plugin.speed import vllm
    from aad_plugin.speed.measure import interleave
    from aad_plugin.speed.report import rows

    dtype = "bfloat16" if dtype == "auto" else dtype
    contestants = vllm.contestants(
        asked.prepare(["--dtype", dtype]), asked.source, prompts, names, sizes, tokens, dtype, eager
    )
    timings = interleave(contestants, rounds, rest=vllm.REST)
    return rows(timings, vllm.BASELINES, vllm.NAIVE), {"parts": asked.source.parts(), "dtype": dtype}


def _sizes(text: str) -> list[int]:
    try:
        sizes = [int(part) for part in text.split(",") if part.strip()]
    except ValueError:
        sizes = []
    if not sizes or min(sizes) < 1:
        raise ConfigError(f"--batch-sizes must be whole numbers of at least 1, such as 1,4,16, got {text!r}")
    return sizes


def read_prompts(source: str | None, least: int) -> list[Any]:
    """Return the prompts of a file or dataset, or the demo task's; ConfigError for fewer than ``least``."""
    if source is None:
        import aad_plugin.tasks.demo.dialogue as demo

        lines = (Path(str(demo.__file__)).parent / "prompts.jsonl").read_text(encoding="utf-8-sig").splitlines()
        prompts = [json.loads(line)["prompt"] for line in lines]
    else:
        prompts = [prompt for _, prompt in prompt_rows(source)]
    if len(prompts) < least:
        raise ConfigError(
            f"{least} prompts are needed for the largest batch, {source or 'the demo task'} has {len(prompts)}"
        )
    return prompts
