"""What each lever brings: shortcuts, packed weights and static caches, for a LoRA pair and for two checkpoints.

Every contestant decodes the same prompts in every round; the yardstick is greedy decoding of the merged policy, the faster
of `generate` and a bare loop. The demo pair in bfloat16.

    python -m experiments.levers 1 [rounds] [tokens]        # batch size
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from rich.console import Console

from aad_plugin import AlignedPair
from aad_plugin.cli.bench import read_prompts
from aad_plugin.pair.answering import encode_prompts
from aad_plugin.pair.model import load_pair
from aad_plugin.sources.merging import full_checkpoints
from aad_plugin.sources.parts import resolve
from aad_plugin.speed.loops import greedy_loop, naive_loop
from aad_plugin.speed.measure import Contestant, interleave
from aad_plugin.speed.report import rows, table

GREEDY, LOOP, NAIVE = "greedy, merged: generate", "greedy, merged: bare loop", "aad: naive two-model loop"


def main(batch: int, rounds: int = 3, tokens: int = 64) -> None:
    """Measure and print one table."""
    lora = load_pair("demo", dtype="bfloat16")
    policy, reference = full_checkpoints(resolve("demo"), "bfloat16")
    full = load_pair(policy=policy, reference=reference, dtype="bfloat16")
    sides: Any = full.sides
    ids, mask = encode_prompts(full, read_prompts(None, batch)[:batch])
    asked: dict[str, Any] = {"attention_mask": mask, "max_new_tokens": tokens, "eos_token_id": None, "pad_token_id": 0}
    static = {**asked, "cache_implementation": "static"}
    calls: dict[str, Callable[[], Any]] = {
        GREEDY: partial(sides.policy_model.generate, ids, do_sample=False, **asked),
        LOOP: partial(greedy_loop, sides.policy_model, ids, mask, tokens),
        "greedy, merged: static cache": partial(sides.policy_model.generate, ids, do_sample=False, **static),
        "greedy, merged: packed": partial(_decode, full, "packed", ids, strategy="greedy", **asked),
        NAIVE: partial(naive_loop, sides.policy_model, sides.reference_model, ids, mask, tokens, 0.1),
    }
    for name, pair in (("LoRA pair", lora), ("two checkpoints", full)):
        for shortcuts in ("none", "candidates", "lazy", "packed"):
            calls[f"aad, {name}: {shortcuts}"] = partial(_decode, pair, shortcuts, ids, **asked)
        calls[f"aad, {name}: packed, static cache"] = partial(_decode, pair, "packed", ids, **static)
    with torch.no_grad():
        timings = interleave([Contestant(name, batch, batch * tokens, call) for name, call in calls.items()], rounds)
    Console().print(table(_rows(timings), f"{torch.get_num_threads()} threads, {rounds} rounds, {tokens} tokens"))


def _rows(timings: Any) -> list[dict[str, Any]]:
    for timing in timings:  # prompts in front of some, not of others
        timing.output = timing.output[:, -timing.contestant.tokens // timing.contestant.batch :]
    return rows(timings, (GREEDY, LOOP), NAIVE)


def _decode(pair: AlignedPair, shortcuts: str, ids: torch.Tensor, **options: Any) -> torch.Tensor:
    pair.shortcuts = shortcuts
    return pair.generate(ids, **options)


if __name__ == "__main__":
    torch.set_num_threads(2)
    main(*(int(word) for word in sys.argv[1:4]))
