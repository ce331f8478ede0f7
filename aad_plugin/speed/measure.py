"""Interleaved timing: every contestant once per round, so that whatever else the machine does meets all of them."""

from __future__ import annotations

import statistics
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import psutil
import torch
from tqdm.auto import tqdm

from aad_plugin.speed.operations import Counts


@dataclass
class Contestant:
    """One way to decode one batch.

    Attributes:
        name: as the table shows it. batch: prompts decoded together. tokens: new tokens of one call, all rows.
        call: decodes the batch and returns (B, new) token ids.
        counted: counts what one more token dispatches; None where that is not asked.
        per_check: gives the tokens that came of one reading of a draft's guesses; None where nothing guesses.
        warm_up: decodes less of the same; None: ``call``.
    """

    name: str
    batch: int
    tokens: int
    call: Callable[[], Any]
    counted: Callable[[], Counts] | None = None
    per_check: Callable[[], float] | None = None
    warm_up: Callable[[], Any] | None = None


@dataclass
class Timing:
    """What one contestant did.

    Attributes:
        seconds: of each round. peak_mib: largest growth of memory in use during a call, weights not counted.
        output: (B, new) token ids of the last round. counts: of a step, where they were asked for.
    """

    contestant: Contestant
    seconds: list[float] = field(default_factory=list)
    peak_mib: float = 0.0
    output: Any = None
    counts: Counts | None = None

    @property
    def speeds(self) -> list[float]:
        """Tokens per second of each round."""
        return [self.contestant.tokens / s for s in self.seconds]

    @property
    def speed(self) -> float:
        """Median tokens per second."""
        return statistics.median(self.speeds)


def interleave(contestants: Sequence[Contestant], rounds: int, progress: bool = True, rest: float = 0) -> list[Timing]:
    """Run each contestant once to warm up and then once per round, in turn; count what a step dispatches at the end.

    Args:
        rest: seconds before each call in which nothing runs, for what goes on spinning after its answer.
    """
    timings = [Timing(contestant) for contestant in contestants]
    with tqdm(total=(rounds + 1) * len(timings), disable=not progress, unit="run", desc="bench") as bar:
        for number in range(rounds + 1):
            for timing in timings:
                bar.set_postfix_str(f"{timing.contestant.name} ×{timing.contestant.batch}")
                time.sleep(rest)
                asked = timing.contestant
                seconds, peak, output = _once(asked.call if number else asked.warm_up or asked.call)
                timing.output = output
                if number:
                    timing.seconds.append(seconds)
                    timing.peak_mib = max(timing.peak_mib, peak)
                bar.update()
    for timing in timings:
        if timing.contestant.counted is not None:
            timing.counts = timing.contestant.counted()
    return timings


def _once(call: Callable[[], Any]) -> tuple[float, float, Any]:
    with _Memory() as memory:
        started = time.perf_counter()
        output = call()
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        seconds = time.perf_counter() - started
    return seconds, memory.peak_mib, output


class _Memory:
    """Peak growth of memory in use: the allocator's on CUDA, else the process's, sampled every 20 ms."""

    def __enter__(self) -> _Memory:
        self._done = threading.Event()
        if torch.cuda.is_available():
            torch.cuda.reset_peak_memory_stats()
            self._start = torch.cuda.memory_allocated()
        else:
            self._process = psutil.Process()
            self._start = self._most = self._process.memory_info().rss
            self._thread = threading.Thread(target=self._watch, daemon=True)
            self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        if torch.cuda.is_available():
            self._most = torch.cuda.max_memory_allocated()
        else:
            self._done.set()
            self._thread.join()
        self.peak_mib = (self._most - self._start) / 2**20

    def _watch(self) -> None:
        while not self._done.wait(0.02):
            self._most = max(self._most, self._process.memory_info().rss)
