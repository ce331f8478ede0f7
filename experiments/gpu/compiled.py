"""Compiled steps over static caches on the transformers engine: a pair's, and greedy decoding of the merged policy.

No part of the eight minutes: each contestant compiles for about a minute per batch size. On a GPU transformers compiles a
static cache's steps by itself; on a CPU both are asked to.
"""

from __future__ import annotations

import time
from functools import partial
from typing import Any

import torch
from torch import Tensor
from transformers import CompileConfig

from aad_plugin.pair.strategies import decode
from experiments.gpu.random_pairs import SHAPES, Built, build
from experiments.gpu.records import Records
from experiments.gpu.table import GREEDY, PROMPT, Calls, calls_of, time_calls


def run(records: Records, device: str, shape: str, batches: list[int], tokens: int, dtype: torch.dtype) -> None:
    """One table per batch size; plain greedy, the naive loop and the pair's plain steps run in the same rounds."""
    built = build("llama", SHAPES[shape], dtype, device, 8.0, 0.05)
    for pair in (built.lora, built.full):
        pair.prove()
    for number, batch in enumerate(batches):
        generator = torch.Generator().manual_seed(3)
        ids = torch.randint(4, SHAPES[shape].vocab, (batch, PROMPT), generator=generator).to(device)
        plain = calls_of(built, ids, torch.ones_like(ids))
        kept = (*GREEDY, "naive loop", "lora aad auto", "lora aad none", "full aad auto", "full aad none")
        until = time.monotonic() + records.left / (len(batches) - number)
        time_calls(
            records,
            f"{shape} compiled batch {batch}",
            {**{name: plain[name] for name in kept}, **_compiled(built, ids, device)},
            batch,
            tokens,
            until,
        )


def _compiled(built: Built, ids: Tensor, device: str) -> Calls:
    options: dict[str, Any] = {"cache_implementation": "static", "eos_token_id": None, "pad_token_id": 0}
    if device == "cpu":
        config = CompileConfig(fullgraph=True, dynamic=False, mode=None)  # type: ignore[arg-type]
        config._compile_all_devices = True
        options["compile_config"] = config
    mask = torch.ones_like(ids)

    def ask(pair: Any, strategy: str, steps: int) -> Tensor:
        settings = pair.settings.override(strategy=strategy)
        return decode(pair, ids, mask, settings, max_new_tokens=steps, **options)[:, ids.shape[1] :]

    def plain(steps: int) -> Tensor:
        found = built.policy.generate(ids, attention_mask=mask, do_sample=False, max_new_tokens=steps, **options)  # type: ignore[operator]
        return found[:, ids.shape[1] :]

    return {
        "greedy: compiled": plain,
        "lora aad compiled": partial(ask, built.lora, "aad"),
        "lora greedy compiled": partial(ask, built.lora, "greedy"),
        "full aad compiled": partial(ask, built.full, "aad"),
    }
