"""``aad bench``: tokens per second and memory of a pair's strategies, interleaved with what else a user would run."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from aad_plugin.cli.grammar import listed
from aad_plugin.cli.option_group import refuse_unread, takes
from aad_plugin.cli.pair_options import NamedPair, names_a_pair
from aad_plugin.errors import ConfigError
from aad_plugin.files.whole import check_writable, write_text
from aad_plugin.sources.known_options import refuse_revisions
from aad_plugin.texts.prompts import prompt_rows


@dataclass(frozen=True)
class Asked:
    """What a command line says of its measurement."""

    strategies: Annotated[
        list[str] | None, typer.Option(help="Strategies, by commas or repeated; default greedy,aad.")
    ] = None
    batch_sizes: Annotated[str, typer.Option(help="Prompts decoded together, separated by commas.")] = "1,4,16"
    max_new_tokens: Annotated[int, typer.Option(help="New tokens per answer; no answer stops earlier.")] = 64
    rounds: Annotated[int, typer.Option(help="Timed rounds; everything that is compared runs once in each.")] = 5
    draft: Annotated[int, typer.Option(help="Also with this many prompt-lookup tokens, at batch size 1.")] = 0
    draft_model: Annotated[str | None, typer.Option(help="Also with this small model's guesses, at batch size 1.")] = (
        None
    )
    draft_prompts: Annotated[
        int | None, typer.Option(help="Prompts decoded one by one at batch size 1 where there is a draft; default 8.")
    ] = None
    threads: Annotated[int | None, typer.Option(help="Threads of torch on CPU.")] = None
    prompts: Annotated[
        str | None,
        typer.Option(help="File (.txt, .jsonl, .json, .csv, .parquet) or dataset; default: the demo task's."),
    ] = None
    engine: Annotated[str, typer.Option(help="hf or vllm.")] = "hf"
    eager: Annotated[bool, typer.Option("--eager", help="vLLM without compilation and CUDA graphs.")] = False
    output: Annotated[Path | None, typer.Option(help="Write every figure here, as JSON.")] = None

    def check(self) -> None:
        """Raise ConfigError for figures out of range and options of another engine."""
        counts = [self.rounds, self.max_new_tokens, *(n for n in (self.draft_prompts, self.threads) if n is not None)]
        if min(counts) < 1 or self.draft < 0:
            raise ConfigError(
                "--rounds, --max-new-tokens, --draft-prompts and --threads must be at least 1, --draft at least 0"
            )
        if self.engine not in ("hf", "vllm"):
            raise ConfigError(f"--engine must be hf or vllm, got {self.engine!r}")
        if self.eager and self.engine != "vllm":
            raise ConfigError("--eager is for --engine vllm: the transformers engine compiles nothing")
        if self.engine == "vllm":
            refuse_unread(self, ("draft", "draft_model", "draft_prompts", "threads"), "--engine vllm")

    def check_draft(self, sizes: list[int], held: bool) -> None:
        """Raise ConfigError where there would be a draft and nothing to measure it by, or the reverse.

        Args:
            sizes: of the batches. held: whether the pair brings a draft.
        """
        drafted = bool(self.draft or self.draft_model or held)
        if drafted and 1 not in sizes:
            raise ConfigError(f"a draft is measured at batch size 1, and --batch-sizes has none: {self.batch_sizes}")
        if self.draft_prompts is not None and not drafted:
            raise ConfigError("--draft-prompts is of a draft: add --draft or --draft-model, or leave it out")


@dataclass(frozen=True)
class Found:
    """What was measured of which pair, in which dtype, with which draft over how many prompts; a remark tells of gaps."""

    rows: list[dict[str, Any]]
    account: dict[str, Any]
    dtype: str
    draft: dict[str, Any] | None = None
    draft_prompts: int | None = None
    remark: str | None = None


@names_a_pair
@takes(asked=Asked)
def bench(named: NamedPair, asked: Asked) -> None:
    """Measure how fast a pair decodes: ratios to greedy decoding of the merged policy and to the naive two-model loop."""
    names = listed(asked.strategies or ["greedy,aad"])
    for name in names:
        named.check(strategy=name)
    sizes = _sizes(asked.batch_sizes)
    asked.check()
    asked.check_draft(sizes, bool(named.arguments.get("draft_model")))
    prompts = read_prompts(asked.prompts, max(sizes))
    if asked.output:
        check_writable(asked.output)
    import torch
    from rich.console import Console

    from aad_plugin.speed.report import table

    if asked.threads is not None:
        torch.set_num_threads(asked.threads)
    measure = _on_vllm if asked.engine == "vllm" else _on_transformers
    found = measure(named, asked, names, sizes, prompts)
    dtype = found.dtype.replace("torch.", "")
    title = f"{named.title}, {asked.engine}, {dtype}, {asked.max_new_tokens} tokens, median of {asked.rounds} rounds"
    # A file or a pipe has no width of its own: the table is not folded there.
    Console(width=None if sys.stdout.isatty() else 150).print(table(found.rows, title))
    if found.remark:
        typer.echo(found.remark)
    if asked.output:
        _write(asked.output, asked, found)


def _write(output: Path, asked: Asked, found: Found) -> None:
    from aad_plugin.files.versions import versions
    from aad_plugin.speed.report import machine

    record = {
        "pair": found.account, "draft": found.draft, "engine": asked.engine, "max_new_tokens": asked.max_new_tokens,
        "draft_prompts": found.draft_prompts, "machine": machine(), "versions": versions(), "rows": found.rows,
    }  # fmt: skip
    write_text(output, json.dumps(record, indent=1, default=str) + "\n")


def _draft(pair: Any, name: str | None) -> Any:
    """Return the draft that some contestants have; the pair itself is left with none."""
    from aad_plugin.pair.draft_loading import load_draft

    found = load_draft(name, pair.sides, pair.tokenizer, pair.vocab_size) if name else pair.draft
    pair.draft = None
    return found


def _on_transformers(named: NamedPair, asked: Asked, names: list[str], sizes: list[int], prompts: list[Any]) -> Found:
    loaded = named.load()
    from aad_plugin.pair.account import describe
    from aad_plugin.speed import hf
    from aad_plugin.speed.measure import interleave
    from aad_plugin.speed.report import rows

    draft = _draft(loaded, asked.draft_model)
    # How well guesses fit depends on the text.
    drafted = len(prompts[: asked.draft_prompts or 8]) if asked.draft or draft is not None else None
    contestants = hf.contestants(
        loaded, prompts, names, sizes, asked.max_new_tokens, asked.draft, draft, one_by_one=drafted or 1
    )
    found = rows(interleave(contestants, asked.rounds), hf.BASELINES, hf.NAIVE)
    account = draft.account() if draft is not None else None
    return Found(found, describe(loaded), str(loaded.sides.policy.dtype), account, drafted)


def _on_vllm(named: NamedPair, asked: Asked, names: list[str], sizes: list[int], prompts: list[Any]) -> Found:
    from aad_plugin.cli.engine_options import asked_pair

    refuse_revisions(named.arguments, "bench --engine vllm compares with a plain engine and a naive loop, which read")
    pair = asked_pair(named)
    from aad_plugin.speed import vllm
    from aad_plugin.speed.measure import interleave
    from aad_plugin.speed.report import rows

    told = str(named.arguments.get("dtype", "auto"))
    dtype = "bfloat16" if told == "auto" else told
    contestants = vllm.contestants(
        pair.prepare(["--dtype", dtype]),
        pair.source,
        prompts,
        names,
        sizes,
        asked.max_new_tokens,
        dtype,
        asked.eager,
        pair.settings,
    )
    found = rows(interleave(contestants, asked.rounds, rest=vllm.REST), vllm.BASELINES, vllm.NAIVE)
    remark = None if asked.eager else vllm.UNCOUNTED
    account = {"parts": pair.source.parts(), "settings": asdict(pair.settings), "dtype": dtype}
    return Found(found, account, told, remark=remark)


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
