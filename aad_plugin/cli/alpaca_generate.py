"""``aad alpaca-eval generate``: outputs of a pair, of a server, or of an earlier run, as ``model_outputs.json``."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from aad_plugin.cli.judge_options import headers_of
from aad_plugin.cli.option_group import refuse_unread, takes
from aad_plugin.cli.pair_options import NamedPair, names_a_pair
from aad_plugin.errors import ConfigError


def _server(text: str) -> Any:
    return typer.Option(help=text, rich_help_panel="Instead of a pair: a server")


def _decoding(text: str) -> Any:
    return typer.Option(help=text, rich_help_panel="Decoding of the pair")


_OF_A_PAIR = ("strategy", "alpha", "eft_scale", "expo_scale", "picker", "engine")


@dataclass(frozen=True)
class Asked:
    """What a command line says of the answers it wants."""

    name: Annotated[str, typer.Option(help="What the leaderboard calls the model.")]
    output: Annotated[Path, typer.Option(help="Folder for model_outputs.json, generation.json and kept answers.")]
    instructions: Annotated[
        Path | None, typer.Option(help="JSON of instructions; default: AlpacaEval's 805 from the hub or AAD_DATA_DIR.")
    ] = None
    engine: Annotated[str, typer.Option(help="hf (transformers) or vllm.")] = "hf"
    max_new_tokens: Annotated[int, typer.Option(help="At most this many new tokens per answer.")] = 2048
    batch_size: Annotated[int, typer.Option(help="Prompts decoded together, with --engine hf.")] = 8
    partial: Annotated[
        bool, typer.Option("--partial", help="Allow fewer instructions; the output is labelled as a part.")
    ] = False
    limit: Annotated[int | None, typer.Option(min=1, help="Only the first so many; AlpacaEval's need --partial.")] = (
        None
    )
    samples: Annotated[
        str | None,
        typer.Option("--from", help="Saved answers instead: samples_aad_alpaca_eval_*.jsonl, a folder; #strategy."),
    ] = None
    strategy: Annotated[str | None, _decoding("aad, greedy, reference, sample, best_of_<n>, eft, expo.")] = None
    alpha: Annotated[float | None, _decoding("Plausibility threshold in (0, 1]; default 0.1.")] = None
    eft_scale: Annotated[float | None, _decoding("Strength of eft; default 1.5.")] = None
    expo_scale: Annotated[float | None, _decoding("Strength of expo; default 0.5.")] = None
    picker: Annotated[str | None, _decoding("Picker of best_of_n: implicit or reward:<model>.")] = None
    top_p: Annotated[float | None, _decoding("Nucleus of sample and best_of_n; default 0.95.")] = None
    seed: Annotated[int | None, _decoding("Seed of sampling strategies.")] = None
    temperature: Annotated[float | None, typer.Option(help="Of sampling strategies (1), or of a server (0).")] = None
    model: Annotated[str | None, _server("Model as the server calls it.")] = None
    base_url: Annotated[str | None, _server("OpenAI-compatible API, ends in /v1.")] = None
    key_variable: Annotated[str | None, _server("Environment variable of the key; default OPENAI_API_KEY.")] = None
    header: Annotated[list[str] | None, _server("Name=$VARIABLE: an extra header, read from the environment.")] = None
    token_limit_name: Annotated[str, _server("Field of the budget; newer APIs: max_completion_tokens.")] = "max_tokens"
    concurrency: Annotated[int, _server("Requests in flight.")] = 16
    timeout_s: Annotated[float, _server("For one request, in seconds.")] = 600.0


@names_a_pair
@takes(asked=Asked)
def generate(named: NamedPair, asked: Asked) -> None:
    """Answer AlpacaEval's instructions. After an interruption, run it again: it continues."""
    from aad_plugin.alpaca.generation import generate as answer_all
    from aad_plugin.alpaca.outputs import check_name

    check_name(asked.name)
    _one_source(named.arguments, asked.model or asked.base_url, asked.samples)
    wanted = _instructions(asked)
    done = answer_all(asked.output, asked.name, wanted, _source(named, asked), partial=asked.partial)
    notes = [f"{done.truncated} ran into the token budget"] * bool(done.truncated)
    notes += [f"{done.lost} rows without an answer left out"] * bool(done.lost)
    typer.echo(f"{done.num} outputs of {asked.name} in {done.outputs} ({'; '.join([wanted.label, *notes])})")


def _instructions(asked: Asked) -> Any:
    from aad_plugin.alpaca.instructions import load_instructions

    wanted = load_instructions(asked.instructions, partial=asked.partial)
    if asked.limit is None or asked.limit >= len(wanted):
        return wanted
    if wanted.kind == "official" and not asked.partial:
        raise ConfigError(
            f"--limit {asked.limit} makes a part of AlpacaEval's {len(wanted)} instructions: add --partial"
        )
    return wanted.first(asked.limit)


def _source(named: NamedPair, asked: Asked) -> Any:
    """Who answers: saved answers, a server or a pair."""
    if asked.samples:
        unread = (*_OF_A_PAIR, "max_new_tokens", "temperature", "top_p", "seed")
        refuse_unread(asked, unread, "aad alpaca-eval generate --from, which reads saved answers,")
        from aad_plugin.alpaca.from_samples import FromSamples

        return FromSamples(asked.samples)
    if asked.model or asked.base_url:
        return _from_server(asked)
    from aad_plugin.alpaca.from_pair import FromPair

    model_args = dict(named.arguments)
    names = ("strategy", "alpha", "eft_scale", "expo_scale", "picker", "temperature", "top_p", "seed")
    return FromPair(
        model_args.pop("pair", None), engine=asked.engine, model_args=model_args, max_new_tokens=asked.max_new_tokens,
        batch_size=asked.batch_size, folder=asked.output / "answers",
        settings={name: getattr(asked, name) for name in names},
    )  # fmt: skip


def _from_server(asked: Asked) -> Any:
    if not (asked.model and asked.base_url):
        raise ConfigError("a server needs both --model and --base-url")
    refuse_unread(asked, _OF_A_PAIR, "a server, which decodes as its --model says,")
    from aad_plugin.alpaca.from_server import FromServer
    from aad_plugin.judges.asking.endpoint import Endpoint

    headers = headers_of(asked.header) or {}
    endpoint = Endpoint(asked.base_url, asked.key_variable or "OPENAI_API_KEY", headers, asked.timeout_s)
    temperature = 0.0 if asked.temperature is None else asked.temperature
    return FromServer(
        asked.model, endpoint, folder=asked.output / "answers", concurrency=asked.concurrency,
        max_new_tokens=asked.max_new_tokens, token_limit_name=asked.token_limit_name,
        parameters={"temperature": temperature, "top_p": asked.top_p, "seed": asked.seed},
    )  # fmt: skip


def _one_source(*given: Any) -> None:
    if sum(map(bool, given)) != 1:
        raise ConfigError(
            "pass one source of answers: --pair (or --model-args), --model with --base-url, or --from FILE; got "
            + ("none" if not any(given) else "several")
        )
