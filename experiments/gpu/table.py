"""The transformers engine: every way to decode against greedy decoding of the merged policy, and what a step dispatches."""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor

from aad_plugin.pair.model import AlignedPair
from aad_plugin.pair.strategies import decode
from aad_plugin.speed.loops import greedy_loop, naive_loop
from aad_plugin.speed.operations import per_step
from experiments.gpu.random_pairs import SHAPES, Built, build
from experiments.gpu.records import Records

PROMPT = 128
SHORTCUTS = ("none", "candidates", "lazy", "auto")
GREEDY = ("greedy: generate", "greedy: bare loop")
# Counted at the first batch size, which a share of the time is kept for.
COUNTED = (
    "greedy: generate", "lora aad none", "lora aad auto", "lora greedy", "full aad none", "full aad auto", "naive loop",
    "greedy: bare loop", "lora aad lazy", "full aad lazy",
)  # fmt: skip
COUNTING = 0.2
Calls = dict[str, Callable[[int], Tensor]]


def run(records: Records, device: str, shape: str, batches: list[int], tokens: int, dtype: torch.dtype) -> None:
    """One table per batch size; rounds go on while there is time."""
    started = time.monotonic()
    built = build("llama", SHAPES[shape], dtype, device, 8.0, 0.05)
    for kind in ("lora", "full"):
        records.attempt(f"{shape} proof {kind}", partial(_path, getattr(built, kind)))
    print(json.dumps({"part": records.part, "made_s": round(time.monotonic() - started, 1)}), flush=True)
    by_batch: dict[int, Calls] = {}
    for number, batch in enumerate(batches):
        generator = torch.Generator().manual_seed(3)
        ids = torch.randint(4, SHAPES[shape].vocab, (batch, PROMPT), generator=generator).to(device)
        by_batch[batch] = calls_of(built, ids, torch.ones_like(ids))
        share = (records.left - COUNTING * records.left) / (len(batches) - number)
        time_calls(records, f"{shape} batch {batch}", by_batch[batch], batch, tokens, time.monotonic() + share)
    calls = by_batch[batches[0]]
    for name in COUNTED:
        if device == "cuda":
            records.attempt(f"{shape} launches {name}", partial(_launches, calls[name]))
        records.attempt(f"{shape} counts {name}", partial(_counts, calls[name]))


def _path(pair: Any) -> dict[str, Any]:
    return {"path": pair.prove().path}


def calls_of(built: Built, ids: Tensor, mask: Tensor) -> Calls:
    """Every way to decode these prompts, by name; each takes a number of new tokens."""

    def ask(pair: AlignedPair, strategy: str, shortcuts: str, steps: int) -> Tensor:
        pair.shortcuts = shortcuts
        settings = pair.settings.override(strategy=strategy)
        return decode(pair, ids, mask, settings, max_new_tokens=steps, eos_token_id=None, pad_token_id=0)[
            :, ids.shape[1] :
        ]

    def plain(steps: int) -> Tensor:
        options = dict(do_sample=False, max_new_tokens=steps, eos_token_id=None, pad_token_id=0)
        return built.policy.generate(ids, attention_mask=mask, **options)[:, ids.shape[1] :]  # type: ignore[operator]

    calls: Calls = {
        GREEDY[0]: plain,
        GREEDY[1]: partial(greedy_loop, built.policy, ids, mask),
        "naive loop": lambda steps: naive_loop(built.policy, built.reference, ids, mask, steps, 0.1),
    }
    for kind in ("lora", "full"):
        pair = getattr(built, kind)
        for shortcuts in SHORTCUTS:
            calls[f"{kind} aad {shortcuts}"] = partial(ask, pair, "aad", shortcuts)
        calls[f"{kind} greedy"] = partial(ask, pair, "greedy", "auto")
    return calls


def time_calls(records: Records, title: str, calls: Calls, batch: int, tokens: int, until: float) -> None:
    """Warm all up, let them take turns until the time is over, and write a line for each."""
    if f"{title} {GREEDY[0]}" in records.known:
        return
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    answers: dict[str, Tensor] = {}
    for name, call in calls.items():  # to warm up
        try:
            call(4)
        except Exception as error:
            records.add(f"{title} {name}", error=f"{type(error).__name__}: {' '.join(str(error).split())[:400]}")
            del seconds[name]
    longest = 0.0
    for number in range(7):
        began = time.monotonic()
        if number and began + longest > until:
            break
        for name in seconds:
            _wait()
            started = time.perf_counter()
            answers[name] = calls[name](tokens).cpu()
            seconds[name].append(time.perf_counter() - started)
        longest = max(longest, time.monotonic() - began)
    speed = {name: batch * tokens / statistics.median(s) for name, s in seconds.items()}
    yardstick = max(speed[name] for name in GREEDY if name in speed)
    for name, found in speed.items():
        records.add(
            f"{title} {name}", tokens_per_second=round(found, 1), ratio=round(found / yardstick, 3),
            to_naive=round(found / speed["naive loop"], 3), rounds=len(seconds[name]),
            ms_per_step=round(1e3 * statistics.median(seconds[name]) / tokens, 2),
            as_naive=round(_agreement(answers[name], answers["naive loop"]), 2),
        )  # fmt: skip


def _wait() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def _agreement(one: Tensor, other: Tensor) -> float:
    """Share of tokens before the first that differs."""
    return float((one == other).long().cumprod(-1).float().mean())


def _counts(call: Callable[[int], Tensor]) -> dict[str, Any]:
    found = per_step(call)
    return {"operations": found.operations, "waits": found.waits}


def _launches(call: Callable[[int], Tensor]) -> dict[str, Any]:
    from torch.profiler import ProfilerActivity, profile

    steps = 8
    call(4)
    with profile(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA]) as watched:
        call(steps)
        _wait()
    events = watched.key_averages()
    launches = sum(e.count for e in events if "LaunchKernel" in e.key or "cuLaunch" in e.key)
    waits = sum(
        e.count for e in events if e.key in ("cudaStreamSynchronize", "cudaDeviceSynchronize", "cudaEventSynchronize")
    )
    busy = sum(getattr(e, "self_device_time_total", 0) for e in events) / 1e3
    return {
        "launches_per_token": launches / steps,
        "waits_per_token": waits / steps,
        "device_ms_per_token": busy / steps,
    }
