"""Counts what vLLM's worker dispatches, where it runs: the engine's process is not the bench's.

``worker_extension_cls="aad_plugin.speed.counting.CountingExtension"``. Compiled steps and recorded graphs dispatch nothing
one by one, so only an engine with ``enforce_eager`` is counted. Operators of vLLM's own count as one each.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from aad_plugin.engine.worker import AADWorkerExtension
from aad_plugin.speed.operations import Counting, Counts, per_token

# What a worker's step is made of; newer runners choose tokens by a call of its own.
_PARTS = ("execute_model", "sample_tokens")


class CountingExtension(AADWorkerExtension):
    """A pair's worker, or a plain model's, that counts when it is asked to."""

    def aad_count(self, on: bool) -> tuple[int, int]:
        """Begin to count, or end; return operations and waits since it began."""
        runner = self.model_runner
        counting = vars(runner).pop("aad_counting", None)
        for name in _PARTS:
            vars(runner).pop(name, None)
        if on:
            runner.aad_counting = Counting()
            for name in _PARTS:
                if hasattr(runner, name):
                    setattr(runner, name, _counted(getattr(runner, name), runner.aad_counting))
        return (counting.counts.operations, counting.counts.waits) if counting is not None else (0, 0)


def _counted(call: Callable[..., Any], counting: Counting) -> Callable[..., Any]:
    def counted(*args: Any, **kwargs: Any) -> Any:
        with counting:
            return call(*args, **kwargs)

    return counted


def worker_counts(llm: Any, ask: Callable[[int], Any]) -> Counts:
    """Return what one more token costs an engine whose worker is a :class:`CountingExtension`."""

    def count(steps: int) -> Counts:
        llm.collective_rpc("aad_count", args=(True,))
        ask(steps)
        return Counts(*llm.collective_rpc("aad_count", args=(False,))[0])

    return per_token(count)
