"""Copies of one vLLM engine side by side: Ray actors that load their weights once and keep them.

Owns starting the copies, dealing requests out among them and handing every answer back when it arrives. Knows nothing
of strategies; Ray and vLLM are imported on first use.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator, Sequence
from typing import Any, cast

from aad_plugin.errors import ConfigError

_CALLS = itertools.count()


def attach(engine: Any) -> None:
    """Let the requests of a ``vllm.LLM`` choose their strategy.

    Raises:
        ConfigError: this vLLM runner does not allow it.
    """
    if not all(engine.collective_rpc("aad_attach")):
        raise ConfigError(
            "vLLM holds no pair, or its runner does not show its requests: set VLLM_USE_V2_MODEL_RUNNER=0"
        )


class Replicas:
    """``number`` engines of the same arguments.

    Args:
        model_args: of ``vllm.LLM``. number: of copies. gpus: that each copy takes; 0 on a machine without any.
    """

    def __init__(self, model_args: dict[str, Any], number: int, gpus: int) -> None:
        import ray

        # An engine inside an actor does not start Ray again: nested placement groups would wait for each other.
        options = {name: value for name, value in model_args.items() if name != "distributed_executor_backend"}
        if not ray.is_initialized():
            ray.init(log_to_driver=False, include_dashboard=False)
        self._engines: list[Any] = [ray.remote(num_gpus=gpus)(_Engine).remote(options) for _ in range(number)]

    def answer(self, prompts: Sequence[Sequence[int]], parameters: Sequence[Any]) -> Iterator[tuple[int, Any]]:
        """Yield (number of the request, vLLM's RequestOutput) as they finish; blocks.

        Args:
            prompts: token ids of each request. parameters: its SamplingParams.
        """
        import ray

        owner = {}  # neighbours go to different copies, since lm-eval sorts requests by length
        for place, engine in enumerate(self._engines):
            rows = list(range(place, len(prompts), len(self._engines)))
            if rows:
                work = cast(Any, engine).answer.options(num_returns="streaming")
                owner[work.remote([list(prompts[row]) for row in rows], [parameters[row] for row in rows])] = rows
        open_streams = list(owner)
        while open_streams:
            ready, open_streams = ray.wait(open_streams, num_returns=1, fetch_local=False)
            for stream in ready:
                try:
                    row, output = ray.get(next(stream))
                except StopIteration:
                    continue
                open_streams.append(stream)
                yield owner[stream][row], output

    def call(self, method: str, *args: Any) -> list[Any]:
        """Call a worker's method on every copy; return what each one's workers gave."""
        import ray

        return ray.get([cast(Any, engine).call.remote(method, args) for engine in self._engines])

    def close(self) -> None:
        """End the copies and free their memory; they answer nothing from then on."""
        import ray

        for engine in self._engines:
            ray.kill(engine)
        self._engines = []


class _Engine:
    """One copy; lives inside a Ray actor."""

    def __init__(self, model_args: dict[str, Any]) -> None:
        from vllm import LLM

        for name in [name for name in os.environ if name.startswith("VLLM_DP_")]:
            os.environ.pop(name)  # the driver's own, which would shift the inner engine's device
        self.engine = cast(Any, LLM(**model_args))
        if "worker_extension_cls" in model_args:  # a plain model, of extrapolated weights, chooses no strategy
            attach(self.engine)

    def call(self, method: str, args: tuple[Any, ...]) -> list[Any]:
        return self.engine.collective_rpc(method, args=args)

    def answer(self, prompts: list[list[int]], parameters: list[Any]) -> Iterator[tuple[int, Any]]:
        yield from run(self.engine, prompts, parameters)


def run(engine: Any, prompts: Sequence[Sequence[int]], parameters: Sequence[Any]) -> Iterator[tuple[int, Any]]:
    """Yield (number of the request, RequestOutput) of one ``vllm.LLM`` as they finish."""
    from vllm import TokensPrompt

    inner, call = engine.llm_engine, next(_CALLS)
    names = {f"{call}.{number}": number for number in range(len(prompts))}
    open_names: dict[str, None] = {}
    try:
        for name, tokens, one in zip(names, prompts, parameters, strict=True):
            open_names[name] = None
            inner.add_request(name, TokensPrompt(prompt_token_ids=list(tokens)), one)
        while inner.has_unfinished_requests():
            for output in inner.step():
                name = output.request_id.split("-")[0]  # vLLM may add a suffix of its own
                if output.finished and name in open_names:
                    del open_names[name]
                    yield names[name], output
    finally:  # what a call leaves behind would be answered beside the next one's
        if open_names:
            inner.abort_request(list(open_names))
