"""``aad alpaca-eval generate``: outputs of a pair, of a server, or of an earlier run, as ``model_outputs.json``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from aad_plugin.cli import judge_options as served
from aad_plugin.cli.pair_options import NamedPair, names_a_pair
from aad_plugin.errors import ConfigError


def _server(text: str) -> Any:
    return typer.Option(help=text, rich_help_panel="Instead of a pair: a server")


def _decoding(text: str) -> Any:
    return typer.Option(help=text, rich_help_panel="Decoding of the pair")


@names_a_pair
def generate(
    named: NamedPair,
    name: Annotated[str, typer.Option(help="What the leaderboard calls the model.")],
    output: Annotated[Path, typer.Option(help="Folder for model_outputs.json, generation.json and kept answers.")],
    instructions: Annotated[
        Path | None, typer.Option(help="JSON of instructions; default: AlpacaEval's 805 from the hub or AAD_DATA_DIR.")
    ] = None,
    engine: Annotated[str, typer.Option(help="hf (transformers) or vllm.")] = "hf",
    max_new_tokens: Annotated[int, typer.Option(help="At most this many new tokens per answer.")] = 2048,
    batch_size: Annotated[int, typer.Option(help="Prompts decoded together, with --engine hf.")] = 8,
    partial: Annotated[
        bool, typer.Option("--partial", help="Allow fewer instructions; the output is labelled as a part.")
    ] = False,
    limit: Annotated[
        int | None, typer.Option(min=1, help="Only the first so many; AlpacaEval's need --partial.")
    ] = None,
    samples: Annotated[
        str | None,
        typer.Option("--from", help="Saved answers instead: samples_aad_alpaca_eval_*.jsonl, a folder; #strategy."),
    ] = None,
    strategy: Annotated[str | None, _decoding("aad, greedy, reference, sample, best_of_<n>, eft.")] = None,
    alpha: Annotated[float | None, _decoding("Plausibility threshold in (0, 1]; default 0.1.")] = None,
    eft_scale: Annotated[float | None, _decoding("Strength of eft; default 1.5.")] = None,
    picker: Annotated[str | None, _decoding("Picker of best_of_n: implicit or reward:<model>.")] = None,
    top_p: Annotated[float | None, _decoding("Nucleus of sample and best_of_n; default 0.95.")] = None,
    seed: Annotated[int | None, _decoding("Seed of sampling strategies.")] = None,
    temperature: Annotated[float | None, typer.Option(help="Of sampling strategies (1), or of a server (0).")] = None,
    model: Annotated[str | None, _server("Model as the server calls it.")] = None,
    base_url: Annotated[str | None, _server("OpenAI-compatible API, ends in /v1.")] = None,
    key_variable: Annotated[str | None, _server("Environment variable of the key; default OPENAI_API_KEY.")] = None,
    header: Annotated[list[str] | None, _server("Name=$VARIABLE: an extra header, read from the environment.")] = None,
    token_limit_name: Annotated[str, _server("Field of the budget; newer APIs: max_completion_tokens.")] = "max_tokens",
    concurrency: Annotated[int, _server("Requests in flight.")] = 16,
    timeout_s: Annotated[float, _server("For one request, in seconds.")] = 600.0,
) -> None:
    """Answer AlpacaEval's instructions. After an interruption, run it again: it continues."""
    from aad_plugin.alpaca.generation import generate as answer_all
    from aad_plugin.alpaca.instructions import load_instructions
    from aad_plugin.alpaca.outputs import check_name

    check_name(name)
    _one_source(named.arguments, model or base_url, samples)
    wanted = load_instructions(instructions, partial=partial)
    if limit is not None and limit < len(wanted):
        if wanted.kind == "official" and not partial:
            raise ConfigError(f"--limit {limit} makes a part of AlpacaEval's {len(wanted)} instructions: add --partial")
        wanted = wanted.first(limit)
    source: Any
    if samples:
        from aad_plugin.alpaca.from_samples import FromSamples

        source = FromSamples(samples)
    elif model or base_url:
        if not (model and base_url):
            raise ConfigError("a server needs both --model and --base-url")
        source = _from_server(
            model, base_url, key_variable, header, timeout_s, folder=output / "answers", concurrency=concurrency,
            max_new_tokens=max_new_tokens, token_limit_name=token_limit_name,
            parameters={"temperature": 0.0 if temperature is None else temperature, "top_p": top_p, "seed": seed},
        )  # fmt: skip
    else:
        from aad_plugin.alpaca.from_pair import FromPair

        model_args = dict(named.arguments)
        source = FromPair(
            model_args.pop("pair", None), engine=engine, model_args=model_args, max_new_tokens=max_new_tokens,
            batch_size=batch_size, folder=output / "answers",
            settings=dict(strategy=strategy, alpha=alpha, eft_scale=eft_scale, picker=picker, temperature=temperature,
                          top_p=top_p, seed=seed),
        )  # fmt: skip
    done = answer_all(output, name, wanted, source, partial=partial)
    notes = [f"{done.truncated} ran into the token budget"] * bool(done.truncated)
    notes += [f"{done.lost} rows without an answer left out"] * bool(done.lost)
    typer.echo(f"{done.num} outputs of {name} in {done.outputs} ({'; '.join([wanted.label, *notes])})")


def _one_source(*given: Any) -> None:
    if sum(map(bool, given)) != 1:
        raise ConfigError(
            "pass one source of answers: --pair (or --model-args), --model with --base-url, or --from FILE; got "
            + ("none" if not any(given) else "several")
        )


def _from_server(
    model: str, base_url: str, key_variable: str | None, header: list[str] | None, timeout_s: float, **options: Any
) -> Any:
    from aad_plugin.alpaca.from_server import FromServer
    from aad_plugin.judges.asking.endpoint import Endpoint

    headers = served.shared({"header": header})["headers"] or {}
    return FromServer(model, Endpoint(base_url, key_variable or "OPENAI_API_KEY", headers, timeout_s), **options)
