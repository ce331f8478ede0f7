"""How far torch.compile carries on this device: steps of one model and of a pair, over static caches and as they stand.

The demo pair (a LoRA over its reference) and greedy decoding of its merged policy, batch 1, median of three rounds in turn.
Prompts are read plainly; compiling is not counted and printed beside.

    python -m experiments.compiled [tokens] [dtype]
"""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, CompileConfig

from aad_plugin.cli.bench import read_prompts
from aad_plugin.pair.answering import encode_prompts
from aad_plugin.pair.model import load_pair
from aad_plugin.sources.merging import full_checkpoints
from aad_plugin.sources.parts import resolve

ROUNDS = 3


def options() -> dict[str, Any]:
    """What compiles the steps of one model's ``generate`` and of a pair's alike."""
    config = CompileConfig(fullgraph=True, dynamic=False, mode=None)  # type: ignore[arg-type]
    config._compile_all_devices = True
    return {"cache_implementation": "static", "compile_config": config}


def main(tokens: int = 64, dtype: str = "bfloat16") -> None:
    """Measure and print."""
    pair = load_pair("demo", dtype=dtype)
    policy = AutoModelForCausalLM.from_pretrained(
        full_checkpoints(resolve("demo"), dtype)[0], dtype=getattr(torch, dtype)
    ).eval()
    ids, mask = encode_prompts(pair, read_prompts(None, 1)[:1])

    def decode(model: Any, more: dict[str, Any]) -> Tensor:
        return model.generate(
            ids, attention_mask=mask, do_sample=False, max_new_tokens=tokens, eos_token_id=None, pad_token_id=0, **more
        )[:, ids.shape[1] :]

    ways: dict[str, Callable[[], Tensor]] = {
        "greedy": partial(decode, policy, {}),
        "aad": partial(decode, pair, {}),
        "greedy, compiled": partial(decode, policy, options()),
        "aad, compiled": partial(decode, pair, options()),
    }
    found: dict[str, Tensor] = {}
    for name, call in ways.items():
        started = time.perf_counter()
        found[name] = call()
        print(f"{name}: first time {time.perf_counter() - started:.1f} s", flush=True)
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(ROUNDS):
        for name, call in ways.items():
            started = time.perf_counter()
            call()
            seconds[name].append(time.perf_counter() - started)
    greedy = min(statistics.median(seconds[name]) for name in ("greedy", "greedy, compiled"))
    for name, values in seconds.items():
        median = statistics.median(values)
        print(f"{name}: {tokens / median:.1f} tok/s, {greedy / median:.2f} of the faster greedy")
    for name in ("greedy", "aad"):
        same = (found[name] == found[f"{name}, compiled"]).long().cumprod(-1).sum()
        print(f"{name}: {int(same)} of {tokens} tokens before the first that compiling changes")


if __name__ == "__main__":
    torch.set_num_threads(2)
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 64, *sys.argv[2:3])
