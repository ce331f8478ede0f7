"""A file of requests in the OpenAI batch schema, answered by a pair through vLLM's own batch runner."""

from __future__ import annotations

import json
import tempfile
import uuid
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from aad_plugin.engine.command_line import has_drafts
from aad_plugin.engine.middleware import check_path, check_request
from aad_plugin.engine.options import EnginePair
from aad_plugin.engine.requests import Held
from aad_plugin.engine.server import attach, engine_arguments
from aad_plugin.errors import AADError, ConfigError, first_line
from aad_plugin.files.whole import check_writable, write_text

_URL = "/v1/chat/completions"


def run_batch(pair: EnginePair, name: str, requests: Path, output: Path, given: Sequence[str]) -> None:
    """Answer a file of requests; blocks. Requests that a server would refuse get its 400 in the output file.

    Args:
        name: models are NAME, NAME-greedy, NAME-reference …, as `aad serve` names them.
        given: further arguments of `vllm run-batch`.
    Raises:
        ConfigError: a line that is no request; nothing is started.
    """
    own = pair.arguments["hf_overrides"]["aad"]
    lines, refused = prepare_batch(requests, int(own["shared_vocab_size"]), Held.by(own, has_drafts(given)))
    lines, malformed = well_formed(lines)
    refused += malformed
    check_writable(output)  # before the engine starts
    answers = ""
    if lines:
        with tempfile.TemporaryDirectory() as folder:
            checked, answered = Path(folder, "requests.jsonl"), Path(folder, "answers.jsonl")
            checked.write_text("".join(line + "\n" for line in lines), encoding="utf-8")
            _run([*engine_arguments(pair, name, given), "-i", str(checked), "-o", str(answered)])
            answers = answered.read_text(encoding="utf-8-sig")
    if answers and not answers.endswith("\n"):
        answers += "\n"
    write_text(output, answers + "".join(json.dumps(row) + "\n" for row in refused))


def prepare_batch(
    requests: Path, shared_ids: int | None = None, held: Held | None = None
) -> tuple[list[str], list[dict[str, Any]]]:
    """Return the request lines with their strategies in ``vllm_xargs``, and an output row for each refused one.

    Args:
        shared_ids: number of token ids that all models know. held: what the engine can decode by.
    Raises:
        ConfigError: no such file, or a line that is not a request; names file and line.
    """
    if not requests.is_file():
        raise ConfigError(f"no request file {str(requests)!r}")
    lines, refused = [], []
    for number, line in enumerate(requests.read_text(encoding="utf-8-sig").split("\n"), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
            body, custom_id = row["body"], row["custom_id"]
            if not isinstance(body, dict):
                raise TypeError
        except (ValueError, KeyError, TypeError) as e:
            raise ConfigError(
                f"{requests}, line {number}: expected a request of the OpenAI batch schema "
                '({"custom_id": …, "method": "POST", "url": "/v1/chat/completions", "body": {…}})'
            ) from e
        try:
            check_path(str(row.get("url", "")))
            if row["url"] != _URL:
                raise ConfigError(
                    f"url must be {_URL}, which is all that vLLM's batch runner answers, got {row['url']!r}"
                )
            lines.append(json.dumps({**row, "body": check_request(body, shared_ids, held=held)}))
        except AADError as e:
            refused.append(_refusal(custom_id, str(e)))
    return lines, refused


def well_formed(lines: Sequence[str]) -> tuple[list[str], list[dict[str, Any]]]:
    """Return the lines that vLLM's batch runner can read, and an output row for each other one: it reads a file whole or
    not at all."""
    from pydantic import ValidationError
    from vllm.entrypoints.launchers.run_batch import BatchRequestInput

    kept, refused = [], []
    for line in lines:
        try:
            BatchRequestInput.model_validate_json(line)
            kept.append(line)
        except Exception as error:  # its validators raise what they like, errors of vLLM's own among them
            told = f"{type(error).__name__}: {first_line(error)}"
            if isinstance(error, ValidationError):
                first = error.errors()[0]
                told = f"{'.'.join(str(part) for part in first['loc'])}: {first['msg']}"
            refused.append(_refusal(json.loads(line)["custom_id"], told))
    return kept, refused


def _refusal(custom_id: str, reason: str) -> dict[str, Any]:
    error = {"message": reason, "type": "BadRequestError", "param": None, "code": 400}
    response = {"status_code": 400, "request_id": f"aad-{uuid.uuid4().hex}", "body": {"error": error}}
    return {"id": f"aad-{uuid.uuid4().hex}", "custom_id": custom_id, "response": response, "error": None}


def _run(arguments: list[str]) -> None:
    import uvloop
    from vllm.entrypoints.launchers import run_batch as vllm_batch
    from vllm.utils.argparse_utils import FlexibleArgumentParser

    args = vllm_batch.make_arg_parser(FlexibleArgumentParser(prog="aad run-batch")).parse_args(arguments)
    vllm_batch.validate_run_batch_args(args)

    async def answer() -> None:
        from vllm.entrypoints.launchers.api_server.entry import build_async_engine_client

        async with build_async_engine_client(args) as engine:
            await attach(engine)
            await vllm_batch.run_batch(engine, args)

    uvloop.run(answer())
