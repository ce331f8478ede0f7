"""vLLM's OpenAI server around a pair: engine started, strategies attached, self-test passed, then it listens."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from typing import Any

from aad_plugin.engine.command_line import has_drafts, named, taken
from aad_plugin.engine.middleware import environment, model_names
from aad_plugin.engine.options import EnginePair, with_users
from aad_plugin.engine.requests import Held
from aad_plugin.engine.self_test import TOKENS, compare_tokens
from aad_plugin.errors import ConfigError
from aad_plugin.pair.rounding import say_dtype

_GRACE_S = 10  # a client that keeps its connection open does not keep the server from ending
_MIDDLEWARE = "aad_plugin.engine.middleware.AADMiddleware"


def engine_arguments(pair: EnginePair, name: str, given: Sequence[str]) -> list[str]:
    """Return vLLM's command-line arguments for a pair, whatever asks the engine; the user's own come last.

    Raises:
        ConfigError: the user's --hf-overrides are no JSON object, or name what makes the model a pair; a --config file
            that names what a pair sets itself.
    """
    own = pair.arguments
    named(given)
    users, rest = taken(given, "--hf-overrides")
    defaults, rest = taken(rest, "--override-generation-config")
    length = ["--max-model-len", str(own["max_model_len"])] if "max_model_len" in own else []
    return [
        "--model", pair.model, "--tokenizer", pair.tokenizer, "--served-model-name",
        *model_names(name, Held.by(own["hf_overrides"]["aad"])),
        "--hf-overrides", json.dumps(with_users(own["hf_overrides"], users)),
        "--worker-extension-cls", own["worker_extension_cls"],
        "--generation-config", own["generation_config"],
        "--override-generation-config", json.dumps({"temperature": 0, **(defaults or {})}),
        *length, *rest,
    ]  # fmt: skip


def server_arguments(pair: EnginePair, name: str, given: Sequence[str]) -> list[str]:
    """Return the command line of ``vllm serve`` for a pair; the user's own arguments come last."""
    return [*engine_arguments(pair, name, given), "--middleware", _MIDDLEWARE]


async def attach(engine: Any) -> None:
    """Let requests choose their strategy.

    Raises:
        ConfigError: this vLLM runner does not allow it.
    """
    if not all(await engine.collective_rpc("aad_attach")):
        raise ConfigError(
            "vLLM holds no pair, or its runner does not show its requests, so strategies cannot be mixed: leave out "
            "--hf-overrides that name architectures, or set VLLM_USE_V2_MODEL_RUNNER=0"
        )


def serve(
    arguments: Sequence[str],
    expected: list[dict[str, Any]] | None,
    *,
    only_test: bool = False,
    ignore_temperature: bool = False,
) -> None:
    """Start the engine and listen until stopped; blocks.

    Args:
        arguments: of ``vllm serve``. expected: what the self-test compares with; None leaves it out.
        only_test: end after the self-test. ignore_temperature: of requests whose strategy reads several models.
    Raises:
        Mismatch: the engine chooses other tokens than transformers; nothing is served.
    """
    import uvloop

    try:  # since vLLM 0.33
        from vllm.entrypoints.common.cli_args import make_arg_parser, validate_parsed_serve_args
    except ImportError:
        from vllm.entrypoints.launchers.cli_args import make_arg_parser, validate_parsed_serve_args
    from vllm.utils.argparse_utils import FlexibleArgumentParser

    parser = make_arg_parser(FlexibleArgumentParser(prog="aad serve"))
    args = parser.parse_args(list(arguments))
    validate_parsed_serve_args(args)
    overrides = json.loads(args.hf_overrides) if isinstance(args.hf_overrides, str) else args.hf_overrides
    own = overrides["aad"]
    os.environ |= environment(own["shared_vocab_size"], Held.by(own, has_drafts(arguments)), ignore_temperature)
    uvloop.run(_serve(args, expected, only_test))


async def _serve(args: Any, expected: list[dict[str, Any]] | None, only_test: bool) -> None:
    from vllm.entrypoints.launchers.api_server.entry import build_and_serve, build_async_engine_client
    from vllm.entrypoints.launchers.launcher import setup_server

    print(_starting(args), flush=True)
    address, sock = setup_server(args, reuse_port=False)
    try:
        async with build_async_engine_client(args) as engine:
            await attach(engine)
            say_dtype(engine.model_config.dtype)
            if expected is not None:
                print(compare_tokens(expected, await _decode(engine, expected), str(args.dtype)), flush=True)
            if only_test:
                return
            stopped = await build_and_serve(engine, address, sock, args, timeout_graceful_shutdown=_GRACE_S)
        await stopped
    finally:
        sock.close()


def _starting(args: Any) -> str:
    """What a user is told before vLLM's silence."""
    if args.enforce_eager:
        return "starting vLLM without compilation (--enforce-eager)"
    return (
        "starting vLLM, which compiles the model before it listens: two to five minutes the first time, less afterwards "
        "(--enforce-eager starts sooner and decodes slower)"
    )


async def _decode(engine: Any, expected: list[dict[str, Any]]) -> list[list[int]]:
    """What the engine answers to the self-test's prompts, all at once."""
    import asyncio

    from vllm import SamplingParams, TokensPrompt

    async def one(number: int, row: dict[str, Any]) -> list[int]:
        asked = {"aad_strategy": row["strategy"]}
        parameters = SamplingParams(temperature=0, max_tokens=TOKENS, ignore_eos=False, extra_args=asked)
        prompt, last = TokensPrompt(prompt_token_ids=row["ids"]), None
        async for output in engine.generate(prompt, parameters, f"self-test-{number}"):
            last = output
        return list(last.outputs[0].token_ids) if last else []

    return list(await asyncio.gather(*(one(number, row) for number, row in enumerate(expected))))
